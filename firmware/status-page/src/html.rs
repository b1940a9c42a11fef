//! HTML in which text stays text.

use telemetry::harmless;

/// Longest text in the page, in bytes; what is longer is cut.
const TEXT_BYTES_MAX: usize = 4 * 1024;

/// A document that grows. Markup can only be what stands in this program ([`Self::raw`]); whatever
/// came from elsewhere goes through [`Self::text`].
#[derive(Debug, Default)]
pub(crate) struct Html(String);

impl Html {
    /// Markup of ours.
    pub(crate) fn raw(&mut self, markup: &'static str) -> &mut Self {
        self.0.push_str(markup);
        self
    }

    /// Text that cannot become anything else, in HTML and in its attributes.
    pub(crate) fn text(&mut self, text: &str) -> &mut Self {
        for c in harmless(text.as_bytes(), TEXT_BYTES_MAX).chars() {
            match c {
                '&' => self.0.push_str("&amp;"),
                '<' => self.0.push_str("&lt;"),
                '>' => self.0.push_str("&gt;"),
                '"' => self.0.push_str("&quot;"),
                '\'' => self.0.push_str("&#39;"),
                c => self.0.push(c),
            }
        }
        self
    }

    /// A number, as markup wants it.
    pub(crate) fn number(&mut self, number: u64) -> &mut Self {
        self.0.push_str(&number.to_string());
        self
    }

    /// The document so far.
    pub(crate) fn into_string(self) -> String {
        self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_stays_text() {
        let mut html = Html::default();
        html.raw("<p>").text("<script>alert('1')</script>&\"\u{202e}\n").number(7);
        assert_eq!(
            html.into_string(),
            "<p>&lt;script&gt;alert(&#39;1&#39;)&lt;/script&gt;&amp;&quot;\u{fffd}\u{fffd}7"
        );
        let mut html = Html::default();
        html.text(&"x".repeat(TEXT_BYTES_MAX + 1));
        assert!(html.into_string().len() <= TEXT_BYTES_MAX);
    }
}
