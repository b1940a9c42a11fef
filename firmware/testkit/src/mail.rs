//! Mails as bytes on the wire.

/// A mail in the making; [`Mail::build`] gives its bytes with CRLF line ends, not dot-stuffed.
#[derive(Debug, Clone)]
pub struct Mail {
    from: String,
    subject: String,
    text: String,
    headers: Vec<String>,
    attachments: Vec<(String, Vec<u8>)>,
}

impl Default for Mail {
    fn default() -> Self {
        Self::new()
    }
}

impl Mail {
    /// A small clean mail.
    #[must_use]
    pub fn new() -> Self {
        Self {
            from: "Alice <alice@a.example>".to_owned(),
            subject: "hello".to_owned(),
            text: "How are you?".to_owned(),
            headers: Vec::new(),
            attachments: Vec::new(),
        }
    }

    /// Sets the From field.
    #[must_use]
    pub fn from(mut self, from: &str) -> Self {
        from.clone_into(&mut self.from);
        self
    }

    /// Sets the Subject field.
    #[must_use]
    pub fn subject(mut self, subject: &str) -> Self {
        subject.clone_into(&mut self.subject);
        self
    }

    /// Sets the text, with LF or CRLF line ends.
    #[must_use]
    pub fn text(mut self, text: &str) -> Self {
        text.clone_into(&mut self.text);
        self
    }

    /// Adds a header field, without its line end.
    #[must_use]
    pub fn header(mut self, field: &str) -> Self {
        self.headers.push(field.to_owned());
        self
    }

    /// Adds a base64 attachment.
    #[must_use]
    pub fn attachment(mut self, file_name: &str, bytes: &[u8]) -> Self {
        self.attachments.push((file_name.to_owned(), bytes.to_vec()));
        self
    }

    /// The mail.
    #[must_use]
    pub fn build(&self) -> Vec<u8> {
        let text = self.text.replace("\r\n", "\n").replace('\n', "\r\n");
        let mut out = String::new();
        let mut line = |line: &str| {
            out.push_str(line);
            out.push_str("\r\n");
        };
        line("Received: from a.example by b.example; Tue, 02 Jan 2024 03:04:06 +0000");
        line(&format!("From: {}", self.from));
        line("To: Bob <bob@b.example>");
        line(&format!("Subject: {}", self.subject));
        line("Date: Tue, 02 Jan 2024 03:04:05 +0000");
        line("Message-ID: <1@a.example>");
        self.headers.iter().for_each(|field| line(field));
        line("MIME-Version: 1.0");
        if self.attachments.is_empty() {
            line("");
            line(&text);
            return out.into_bytes();
        }
        line("Content-Type: multipart/mixed; boundary=\"b0und\"");
        line("\r\n--b0und\r\nContent-Type: text/plain; charset=UTF-8\r\n");
        line(&text);
        for (file_name, bytes) in &self.attachments {
            line("--b0und\r\nContent-Type: application/octet-stream");
            line("Content-Transfer-Encoding: base64");
            line(&format!("Content-Disposition: attachment; filename=\"{file_name}\"\r\n"));
            line(&base64_lines(bytes));
        }
        line("--b0und--");
        out.into_bytes()
    }
}

/// Bytes in a line of 76 characters of base64 (RFC 2045 section 6.8).
const LINE_BYTES: usize = 57;

/// Base64 in such lines, CRLF between them.
fn base64_lines(bytes: &[u8]) -> String {
    bytes.chunks(LINE_BYTES).map(crate::base64).collect::<Vec<_>>().join("\r\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mail_has_its_parts() {
        let mail = Mail::new().subject("x").attachment("a.txt", b"foobar").build();
        let mail = String::from_utf8(mail).unwrap();
        assert!(mail.contains("\r\nSubject: x\r\n"));
        assert!(mail.contains("filename=\"a.txt\"\r\n\r\nZm9vYmFy\r\n--b0und--\r\n"));
        assert!(!mail.replace("\r\n", "").contains(['\r', '\n']));
        assert_eq!(crate::base64(b"fooba"), "Zm9vYmE=");
    }
}
