//! What is asked of a web server, and the head of what it answers (RFC 9110, RFC 9112).

use crate::url::Url;

/// Longest head, in bytes.
pub const HEAD_BYTES_MAX: usize = 16 * 1024;

/// Most fields of a head.
const FIELDS_MAX: usize = 64;

/// Longest entity tag that is kept, in bytes.
const TAG_BYTES_MAX: usize = 256;

/// The head of an answer, as far as it matters.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Head {
    /// As in 200.
    pub status: u16,
    /// Length of what follows, in bytes.
    pub length: Option<u64>,
    /// What follows is not the bytes themselves: in pieces, or compressed.
    pub is_coded: bool,
    /// Which part of the whole follows.
    pub range: Option<Range>,
    /// What the file's content is known by, with its quotes; only one that means the very same bytes
    /// (RFC 9110 section 8.8.1).
    pub etag: Option<String>,
    /// Where else to ask.
    pub location: Option<String>,
}

/// Of a `Content-Range`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Range {
    /// Offset of its first byte.
    pub start: u64,
    /// Offset of its last byte.
    pub last: u64,
    /// Size of the whole, in bytes, where the server says it.
    pub total: Option<u64>,
}

/// An answer that is not understood.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the server does not speak HTTP as it should ({0}): try another address")]
pub struct HeadError(&'static str);

/// Reads the head at the start of these bytes; with its length. `None`: it goes on.
///
/// # Errors
/// [`HeadError`].
pub fn read(bytes: &[u8]) -> Result<Option<(Head, usize)>, HeadError> {
    let mut fields = [httparse::EMPTY_HEADER; FIELDS_MAX];
    let mut response = httparse::Response::new(&mut fields);
    let taken = match response.parse(bytes) {
        Ok(httparse::Status::Complete(taken)) => Some(taken),
        Ok(httparse::Status::Partial) => None,
        Err(httparse::Error::TooManyHeaders) => {
            return Err(HeadError("its head has too many fields"));
        }
        Err(_) => return Err(HeadError("its head is none")),
    };
    if taken.unwrap_or(bytes.len()) > HEAD_BYTES_MAX {
        return Err(HeadError("its head is too long"));
    }
    let Some(taken) = taken else { return Ok(None) };
    let status = response.code.ok_or(HeadError("its head has no status"))?;
    let mut head =
        Head { status, length: None, is_coded: false, range: None, etag: None, location: None };
    for field in response.headers.iter() {
        head.take(field.name, field.value)?;
    }
    Ok(Some((head, taken)))
}

/// A request for a file, or for the rest of it: from this byte on, if its tag is still this one.
#[must_use]
pub fn request(url: &Url, rest: Option<(u64, &str)>) -> String {
    let rest = rest.map_or_else(String::new, |(from, tag)| {
        format!("Range: bytes={from}-\r\nIf-Range: {tag}\r\n")
    });
    format!(
        "GET {} HTTP/1.1\r\nHost: {}\r\nUser-Agent: avr\r\nAccept: */*\r\nAccept-Encoding: identity\r\n\
         Connection: close\r\n{rest}\r\n",
        url.request_target(),
        url.authority()
    )
}

impl Head {
    fn take(&mut self, name: &str, value: &[u8]) -> Result<(), HeadError> {
        let text = || str::from_utf8(value).map(str::trim);
        match name.to_ascii_lowercase().as_str() {
            "content-length" => {
                let length = text().ok().and_then(number);
                let length = length.ok_or(HeadError("its length is no number"))?;
                // Two that differ are two answers in one (RFC 9112 section 6.3).
                if self.length.replace(length).is_some_and(|other| other != length) {
                    return Err(HeadError("it has two lengths"));
                }
            }
            "transfer-encoding" => self.is_coded = true,
            "content-encoding" => self.is_coded |= text() != Ok("identity"),
            "content-range" => self.range = text().ok().and_then(range),
            "etag" => self.etag = text().ok().filter(|tag| is_strong(tag)).map(str::to_owned),
            "location" => self.location = text().ok().map(str::to_owned),
            _ => {}
        }
        Ok(())
    }
}

/// `bytes 2-4/5`; that of an answer without bytes, `bytes */5`, says nothing that is needed.
fn range(text: &str) -> Option<Range> {
    let (range, total) = text.strip_prefix("bytes ")?.trim().split_once('/')?;
    let (start, last) = range.split_once('-')?;
    let total = if total == "*" { None } else { Some(number(total)?) };
    let range = Range { start: number(start)?, last: number(last)?, total };
    let fits = range.start <= range.last && total.is_none_or(|total| range.last < total);
    fits.then_some(range)
}

fn number(text: &str) -> Option<u64> {
    let is_number = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    is_number.then(|| text.parse().ok()).flatten()
}

/// `"..."`, and not `W/"..."`.
fn is_strong(tag: &str) -> bool {
    let inside = tag.strip_prefix('"').and_then(|tag| tag.strip_suffix('"'));
    tag.len() <= TAG_BYTES_MAX
        && inside.is_some_and(|tag| tag.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'"'))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn head(text: &str) -> Result<Head, HeadError> {
        read(text.as_bytes()).map(|found| found.unwrap().0)
    }

    #[test]
    fn what_matters_of_a_head_is_read() {
        let part = head(
            "HTTP/1.1 206 Partial Content\r\ncontent-LENGTH: 3\r\nContent-Range: bytes 2-4/5\r\n\
             ETag: \"5f-1\"\r\nX: y\r\n\r\nllo",
        )
        .unwrap();
        let range = Range { start: 2, last: 4, total: Some(5) };
        assert_eq!((part.status, part.length, part.range), (206, Some(3), Some(range)));
        assert_eq!(part.etag.as_deref(), Some("\"5f-1\""));
        let moved = head("HTTP/1.0 302 Found\r\nLocation: /b\r\n\r\n").unwrap();
        assert_eq!((moved.length, moved.location.as_deref()), (None, Some("/b")));
        for coded in ["Transfer-Encoding: chunked", "Content-Encoding: gzip"] {
            assert!(head(&format!("HTTP/1.1 200 OK\r\n{coded}\r\n\r\n")).unwrap().is_coded);
        }
        assert!(!head("HTTP/1.1 200 OK\r\nContent-Encoding: identity\r\n\r\n").unwrap().is_coded);
    }

    #[test]
    fn a_tag_that_means_only_something_alike_is_not_kept() {
        for tag in ["W/\"a\"", "a", "\"a", "\"a\"b\"", "\"a b\""] {
            assert_eq!(
                head(&format!("HTTP/1.1 200 OK\r\nETag: {tag}\r\n\r\n")).unwrap().etag,
                None
            );
        }
    }

    #[test]
    fn a_head_that_could_be_read_in_two_ways_is_refused() {
        for (fields, told) in [
            ("Content-Length: 5\r\nContent-Length: 6\r\n", "two lengths"),
            ("Content-Length: +5\r\n", "no number"),
            ("Content-Length: 18446744073709551616\r\n", "no number"),
        ] {
            let error = head(&format!("HTTP/1.1 200 OK\r\n{fields}\r\n")).unwrap_err();
            assert!(error.to_string().contains(told), "{error}");
        }
        for range in ["bytes 4-2/5", "bytes 2-5/5", "bytes */5", "2-4/5", "bytes 2-4"] {
            let text = format!("HTTP/1.1 206 P\r\nContent-Range: {range}\r\n\r\n");
            assert_eq!(head(&text).unwrap().range, None, "{range}");
        }
        let long = format!("HTTP/1.1 200 OK\r\nX: {}", "y".repeat(HEAD_BYTES_MAX));
        assert!(read(long.as_bytes()).unwrap_err().to_string().contains("too long"));
        let many = format!("HTTP/1.1 200 OK\r\n{}\r\n", "X: y\r\n".repeat(FIELDS_MAX + 1));
        assert!(read(many.as_bytes()).unwrap_err().to_string().contains("too many"));
        assert!(read(b"SSH-2.0-OpenSSH\r\n").is_err());
    }

    #[test]
    fn the_rest_is_asked_for_only_of_the_same_file() {
        let url = "http://a:8080/b?c".parse().unwrap();
        let text = request(&url, Some((7, "\"t\"")));
        assert!(text.starts_with("GET /b?c HTTP/1.1\r\nHost: a:8080\r\n"), "{text}");
        assert!(text.ends_with("Range: bytes=7-\r\nIf-Range: \"t\"\r\n\r\n"), "{text}");
        assert!(!request(&url, None).contains("Range"));
    }

    proptest! {
        #[test]
        fn no_bytes_panic(bytes in any::<Vec<u8>>()) {
            let _ = read(&bytes);
            let _ = read(&[b"HTTP/1.1 206 P\r\nContent-Range: bytes ", bytes.as_slice()].concat());
        }
    }
}
