//! Text as roff, the language of manual pages (groff_man(7)).

/// Text in a line: a backslash and a hyphen as themselves, and no line taken for a request.
pub(crate) fn text(text: &str) -> String {
    let escaped = text.replace('\\', "\\e").replace('-', "\\-");
    if escaped.starts_with(['.', '\'']) { format!("\\&{escaped}") } else { escaped }
}

/// The first line of a page.
pub(crate) fn title(name: &str, section: &str, date: &str) -> String {
    let version = env!("CARGO_PKG_VERSION");
    format!(".TH {} {section} {date} \"AVR {version}\" \"AVR relay site\"\n", name.to_uppercase())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_is_shown_as_it_is() {
        assert_eq!(text("a-b"), "a\\-b");
        assert_eq!(text("c:\\n"), "c:\\en");
        assert_eq!(text(".toml"), "\\&.toml");
        assert_eq!(text("'x'"), "\\&'x'");
    }
}
