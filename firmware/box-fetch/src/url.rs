//! Where something is: `http://` and `https://`, and nothing else.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

/// Longest address, in bytes.
pub const URL_BYTES_MAX: usize = 2048;

/// Longest name of a host, in bytes (RFC 1035 section 2.3.4).
const HOST_BYTES_MAX: usize = 253;

/// An address of the web. Without a fragment, which servers are not told, and without a user: whoever
/// reads a log would have the password.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Url {
    is_secure: bool,
    host: String,
    port: u16,
    /// Path and query; begins with a slash.
    target: String,
}

/// A text that is no address.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}: write an address as in https://updates.example.net/avr/")]
pub struct UrlError(&'static str);

impl Url {
    /// Whether TLS is spoken.
    #[must_use]
    pub fn is_secure(&self) -> bool {
        self.is_secure
    }

    /// Name or address; one of IPv6 without brackets.
    #[must_use]
    pub fn host(&self) -> &str {
        &self.host
    }

    /// TCP port.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }

    /// What is asked for: path and query.
    #[must_use]
    pub fn request_target(&self) -> &str {
        &self.target
    }

    /// Host and port, as in an address; the port only where it is not the usual one.
    #[must_use]
    pub fn authority(&self) -> String {
        let host = match self.host.parse() {
            Ok(IpAddr::V6(_)) => format!("[{}]", self.host),
            _ => self.host.clone(),
        };
        let usual = if self.is_secure { 443 } else { 80 };
        if self.port == usual { host } else { format!("{host}:{}", self.port) }
    }

    /// What a reference found here means (RFC 3986 section 5.2): another address, `//host/path`, a path,
    /// or a name in the same folder. Dots in it are left to the server.
    ///
    /// # Errors
    /// It is none of these.
    pub fn join(&self, reference: &str) -> Result<Self, UrlError> {
        let scheme = if self.is_secure { "https" } else { "http" };
        let origin = format!("{scheme}://{}", self.authority());
        let is_absolute = reference.split_once("://").is_some_and(|(scheme, _)| {
            !scheme.is_empty() && scheme.bytes().all(|byte| byte.is_ascii_alphanumeric())
        });
        if is_absolute {
            return reference.parse();
        }
        if reference.starts_with("//") {
            return format!("{scheme}:{reference}").parse();
        }
        if reference.starts_with('/') {
            return format!("{origin}{reference}").parse();
        }
        let path = self.target.split('?').next().unwrap_or("/");
        let folder = path.rfind('/').and_then(|at| path.get(..=at)).unwrap_or("/");
        format!("{origin}{folder}{reference}").parse()
    }
}

impl FromStr for Url {
    type Err = UrlError;

    fn from_str(text: &str) -> Result<Self, UrlError> {
        if text.len() > URL_BYTES_MAX {
            return Err(UrlError("the address is too long"));
        }
        if !text.bytes().all(|byte| byte.is_ascii_graphic() && !b"\"<>\\^`{|}".contains(&byte)) {
            return Err(UrlError("the address has a character that none has"));
        }
        let (scheme, rest) =
            text.split_once("://").ok_or(UrlError("the address has no http://"))?;
        let is_secure = match scheme.to_ascii_lowercase().as_str() {
            "http" => false,
            "https" => true,
            _ => return Err(UrlError("the address is neither of http:// nor of https://")),
        };
        let rest = rest.split('#').next().unwrap_or_default();
        let (authority, target) = rest.split_at(rest.find(['/', '?']).unwrap_or(rest.len()));
        if authority.contains('@') {
            return Err(UrlError("the address has a user or password"));
        }
        let usual = if is_secure { 443 } else { 80 };
        let (host, port) = split_port(authority)?;
        let port = match port {
            Some(port) => port
                .parse()
                .ok()
                .filter(|&port| port != 0 && !authority.ends_with('+'))
                .ok_or(UrlError("the address has a port that is none"))?,
            None => usual,
        };
        let target = if target.starts_with('/') { target.to_owned() } else { format!("/{target}") };
        Ok(Self { is_secure, host, port, target })
    }
}

/// The host, and what stands behind its colon.
fn split_port(authority: &str) -> Result<(String, Option<&str>), UrlError> {
    let wrong = UrlError("the address has no host's name");
    if let Some(rest) = authority.strip_prefix('[') {
        let (host, rest) = rest.split_once(']').ok_or(wrong.clone())?;
        let host = host.parse::<std::net::Ipv6Addr>().map_err(|_| wrong.clone())?;
        let port = match rest {
            "" => None,
            rest => Some(rest.strip_prefix(':').ok_or(wrong)?),
        };
        return Ok((host.to_string(), port.filter(|port| !port.is_empty())));
    }
    let (host, port) = match authority.split_once(':') {
        Some((host, port)) => (host, Some(port)),
        None => (authority, None),
    };
    let fits = |byte: u8| byte.is_ascii_alphanumeric() || b".-_".contains(&byte);
    if !(1..=HOST_BYTES_MAX).contains(&host.len()) || !host.bytes().all(fits) {
        return Err(wrong);
    }
    Ok((host.to_ascii_lowercase(), port.filter(|port| !port.is_empty())))
}

impl fmt::Display for Url {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = if self.is_secure { "https" } else { "http" };
        write!(f, "{scheme}://{}{}", self.authority(), self.target)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn url(text: &str) -> Url {
        text.parse().unwrap()
    }

    #[test]
    fn addresses_are_taken_apart() {
        let one = url("HTTPS://Updates.example.net:8443/avr/a.tar?b=c#d");
        assert!(one.is_secure());
        assert_eq!((one.host(), one.port()), ("updates.example.net", 8443));
        assert_eq!(one.request_target(), "/avr/a.tar?b=c");
        assert_eq!(one.to_string(), "https://updates.example.net:8443/avr/a.tar?b=c");
        let six = url("http://[2001:DB8::1]?x");
        assert_eq!((six.host(), six.port(), six.request_target()), ("2001:db8::1", 80, "/?x"));
        assert_eq!(six.to_string(), "http://[2001:db8::1]/?x");
        assert_eq!(url("http://a:80").to_string(), "http://a/");
    }

    #[test]
    fn what_is_no_address_is_refused() {
        for (text, told) in [
            ("updates.example.net", "no http://"),
            ("ftp://a/", "neither of http:// nor"),
            ("http://user:secret@a/", "user or password"),
            ("http:///x", "no host's name"),
            ("http://[::1/", "no host's name"),
            ("http://a:0/", "a port that is none"),
            ("http://a:99999/", "a port that is none"),
            ("http://a/ b", "a character that none has"),
            ("http://a/\r\nX: y", "a character that none has"),
        ] {
            let error = text.parse::<Url>().unwrap_err().to_string();
            assert!(error.contains(told), "{text}: {error}");
        }
    }

    #[test]
    fn references_are_followed_from_where_they_stand() {
        let here = url("https://a:8443/avr/index.toml?x=/y");
        for (reference, there) in [
            ("b.tar", "https://a:8443/avr/b.tar"),
            ("/b", "https://a:8443/b"),
            ("//b/c", "https://b/c"),
            ("http://b/c", "http://b/c"),
            ("?q", "https://a:8443/avr/?q"),
        ] {
            assert_eq!(here.join(reference).unwrap().to_string(), there);
        }
        assert!(here.join("ftp://b/").is_err());
    }

    proptest! {
        #[test]
        fn no_text_panics_and_what_is_read_is_written_the_same(text in "(https?://)?\\PC{0,40}") {
            if let Ok(one) = text.parse::<Url>() {
                prop_assert_eq!(one.to_string().parse::<Url>(), Ok(one));
            }
        }
    }
}
