//! A page of section 5: a settings file, from its commented example.

use std::fmt::Write as _;

use crate::roff;

/// What a line of an example is.
#[derive(Debug, PartialEq, Eq)]
enum Line<'a> {
    Blank,
    /// `[scan]`
    Table(&'a str),
    /// `key = value  # what it is`, or the same commented out.
    Setting {
        key: &'a str,
        value: &'a str,
        help: &'a str,
        is_set: bool,
    },
    /// A comment on what follows.
    Comment(&'a str),
    /// More of the value above.
    More(&'a str),
}

/// The page of `file`, which `program` reads.
pub(crate) fn page(program: &str, file: &str, example: &str, date: &str) -> String {
    let mut page = roff::title(&format!("{program}.toml"), "5", date);
    let (name, path) = (roff::text(program), roff::text(&format!("/etc/avr/{file}")));
    let _ = write!(
        page,
        ".SH NAME\n{name}.toml \\- settings of {name}\n\
         .SH SYNOPSIS\n.I {path}\n\
         .SH DESCRIPTION\n\
         A TOML file. A key that is not known is an error, and so is a value that makes no sense: the\n\
         program says in which line, and what to write instead, and does not start.\n\
         .B {name} config check\n\
         says the same beforehand.\n\
         .SH SETTINGS\n\
         With the values of the example; those marked \\(lqnot set\\(rq are commented out in it.\n"
    );
    // Its first line says what the description does.
    for line in example.lines().skip(1) {
        write_line(&mut page, &classify(line));
    }
    let _ = write!(
        page,
        ".SH FILES\n.TP\n.I {path}\nThe settings, unless\n.B \\-\\-config\nnames another file.\n\
         .TP\n.I /usr/share/doc/{name}/examples/{}\nThe example that this page was made from.\n\
         .SH SEE ALSO\n.BR {name} (8)\n",
        roff::text(file)
    );
    page
}

fn write_line(page: &mut String, line: &Line<'_>) {
    let _ = match line {
        Line::Blank => writeln!(page, ".PP"),
        Line::Table(name) => writeln!(page, ".SS [{}]", roff::text(name)),
        Line::Comment(text) => writeln!(page, "{}", roff::text(text)),
        Line::More(value) => writeln!(page, ".br\n{}", roff::text(value)),
        Line::Setting { key, value, help, is_set } => {
            let (key, value, help) = (roff::text(key), roff::text(value), roff::text(help));
            let unset = if *is_set { "" } else { " (not set)" };
            let help = if help.is_empty() { "\\&" } else { &help };
            writeln!(page, ".TP\n\\fB{key}\\fR = {value}{unset}\n{help}")
        }
    };
}

fn classify(line: &str) -> Line<'_> {
    let trimmed = line.trim();
    let (content, is_set) = match trimmed.strip_prefix("# ") {
        Some(comment) => (comment.trim(), false),
        None => (trimmed, true),
    };
    if content.is_empty() {
        return Line::Blank;
    }
    if let Some(table) = content.strip_prefix('[').and_then(|rest| rest.strip_suffix(']'))
        && is_set
    {
        return Line::Table(table);
    }
    match content.split_once(" = ") {
        Some((key, rest)) if is_key(key) => {
            let (value, help) = split_comment(rest);
            Line::Setting { key, value, help, is_set }
        }
        _ if is_set => Line::More(content),
        // What a line had no room for.
        _ => Line::Comment(content),
    }
}

/// A bare or quoted key, as opposed to prose with an equals sign in it.
fn is_key(text: &str) -> bool {
    let is_bare = |c: char| c.is_ascii_alphanumeric() || "_-.".contains(c);
    match text.strip_prefix('"').and_then(|rest| rest.strip_suffix('"')) {
        Some(quoted) => !quoted.contains('"'),
        None => !text.is_empty() && text.chars().all(is_bare),
    }
}

/// A value and the comment behind it; a `#` in a string begins none.
fn split_comment(text: &str) -> (&str, &str) {
    let mut is_in_string = false;
    for (at, c) in text.char_indices() {
        match c {
            '"' => is_in_string = !is_in_string,
            '#' if !is_in_string => {
                let (value, comment) = text.split_at(at);
                return (value.trim_end(), comment.trim_start_matches('#').trim());
            }
            _ => {}
        }
    }
    (text.trim_end(), "")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_taken_for_what_they_are() {
        let setting = |key, value, help, is_set| Line::Setting { key, value, help, is_set };
        assert_eq!(classify("a = 1     # one"), setting("a", "1", "one", true));
        assert_eq!(classify("a = \"#1\" # one"), setting("a", "\"#1\"", "one", true));
        assert_eq!(classify("# b_c = [2]  # two"), setting("b_c", "[2]", "two", false));
        assert_eq!(classify("\"10.0.0.1\" = \"x\""), setting("\"10.0.0.1\"", "\"x\"", "", true));
        assert_eq!(classify("[scan]"), Line::Table("scan"));
        assert_eq!(classify("# Written twice: twice the share = more."), {
            Line::Comment("Written twice: twice the share = more.")
        });
        assert_eq!(classify("                    # and more"), Line::Comment("and more"));
        assert_eq!(classify("    \"x\","), Line::More("\"x\","));
        assert_eq!(classify(""), Line::Blank);
    }

    /// Each key of an example is on its page, once set or not.
    #[test]
    fn a_page_has_every_setting_of_the_example() {
        let example =
            "# Settings.\n\nlisten = \"[::]:1\"  # where\n[scan]\n# rules = \"/x\"  # folder\n";
        let page = page("avr-x", "x.toml", example, "2026-11-26");
        assert!(page.contains("\\fBlisten\\fR = \"[::]:1\"\nwhere\n"), "{page}");
        assert!(page.contains(".SS [scan]\n"), "{page}");
        assert!(page.contains("\\fBrules\\fR = \"/x\" (not set)\nfolder\n"), "{page}");
    }
}
