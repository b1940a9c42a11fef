//! What a request is, before anything is done: whom it names, where it comes from, what its form says.

use std::net::{IpAddr, Ipv6Addr};

use hyper::header::{self, HeaderMap, HeaderName};

/// The session's cookie. Browsers take one of this prefix only from here, over TLS, for all paths.
pub(crate) const COOKIE: &str = "__Host-avr";
/// Most fields of a form.
const FIELDS_MAX: usize = 16;
/// Where a request comes from, as browsers say (Fetch Metadata).
const SEC_FETCH_SITE: HeaderName = HeaderName::from_static("sec-fetch-site");

/// The host that a request names, if it is this one: an address, or one of `names`. A page elsewhere
/// that has its own name lead here (DNS rebinding) is told nothing.
pub(crate) fn host<'a>(headers: &'a HeaderMap, names: &[String]) -> Option<&'a str> {
    let host = headers.get(header::HOST)?.to_str().ok()?;
    let bare = match host.rsplit_once(':') {
        Some((bare, port))
            if !port.is_empty() && port.bytes().all(|byte| byte.is_ascii_digit()) =>
        {
            bare
        }
        _ => host,
    };
    let is_address = match bare.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
        Some(inner) => inner.parse::<Ipv6Addr>().is_ok(),
        None => bare.parse::<IpAddr>().is_ok_and(|ip| ip.is_ipv4()),
    };
    let name = bare.strip_suffix('.').unwrap_or(bare);
    (is_address || names.iter().any(|known| known.eq_ignore_ascii_case(name))).then_some(host)
}

/// The same without a port.
pub(crate) fn without_port(host: &str) -> &str {
    match host.rsplit_once(':') {
        Some((bare, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => bare,
        _ => host,
    }
}

/// Whether an order comes from a page of this host, as every browser says of a form's. What says
/// nothing is no browser of today, and no order is taken from it.
pub(crate) fn is_from_here(headers: &HeaderMap, host: &str) -> bool {
    match headers.get(header::ORIGIN) {
        Some(origin) => {
            let origin = origin.to_str().unwrap_or_default();
            origin.strip_prefix("https://").is_some_and(|of| of.eq_ignore_ascii_case(host))
        }
        None => headers.get(SEC_FETCH_SITE).is_some_and(|site| site == "same-origin"),
    }
}

/// The session's number, of the cookies.
pub(crate) fn session(headers: &HeaderMap) -> Option<&str> {
    headers
        .get_all(header::COOKIE)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(';'))
        .find_map(|pair| pair.trim().strip_prefix(COOKIE)?.strip_prefix('='))
}

/// A form as browsers send it (`application/x-www-form-urlencoded`).
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Form(Vec<(String, String)>);

impl Form {
    /// Reads one; what is no UTF-8 becomes so.
    pub(crate) fn parse(body: &[u8]) -> Self {
        let fields = body.split(|&byte| byte == b'&').take(FIELDS_MAX).map(|field| {
            let mut halves = field.splitn(2, |&byte| byte == b'=');
            let mut half = || decoded(halves.next().unwrap_or_default());
            (half(), half())
        });
        Self(fields.collect())
    }

    /// A field; one that is not there is empty.
    pub(crate) fn field(&self, name: &str) -> &str {
        self.0.iter().find(|(known, _)| known == name).map_or("", |(_, value)| value)
    }
}

fn decoded(text: &[u8]) -> String {
    let digit = |byte: Option<&u8>| byte.and_then(|byte| char::from(*byte).to_digit(16));
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.iter();
    while let Some(&byte) = rest.next() {
        let escaped = || {
            let mut ahead = rest.clone();
            let high = digit(ahead.next())?;
            u8::try_from(high << 4 | digit(ahead.next())?).ok()
        };
        match byte {
            b'+' => bytes.push(b' '),
            b'%' => match escaped() {
                Some(byte) => {
                    bytes.push(byte);
                    rest.next();
                    rest.next();
                }
                None => bytes.push(b'%'),
            },
            _ => bytes.push(byte),
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use hyper::header::HeaderValue;
    use proptest::prelude::*;

    use super::*;

    fn headers(pairs: &[(HeaderName, &str)]) -> HeaderMap {
        let pair = |(name, value): &(HeaderName, &str)| {
            (name.clone(), HeaderValue::from_bytes(value.as_bytes()).unwrap())
        };
        pairs.iter().map(pair).collect()
    }

    #[test]
    fn only_this_host_is_named() {
        let names = ["avr-0200.local".to_owned(), "front-desk".to_owned()];
        for good in [
            "192.0.2.7",
            "192.0.2.7:443",
            "[2001:db8::7]",
            "[2001:db8::7]:8443",
            "AVR-0200.local",
            "avr-0200.local.:443",
            "front-desk",
        ] {
            assert_eq!(host(&headers(&[(header::HOST, good)]), &names), Some(good));
        }
        for bad in [
            "",
            "evil.example",
            "192.0.2.7.evil.example",
            "avr-0200.local.evil",
            "2001:db8::7",
            "[x]",
            "é",
        ] {
            assert_eq!(host(&headers(&[(header::HOST, bad)]), &names), None, "{bad}");
        }
        assert_eq!(host(&headers(&[]), &names), None);
        assert_eq!(without_port("[2001:db8::7]:80"), "[2001:db8::7]");
        assert_eq!(without_port("192.0.2.7"), "192.0.2.7");
    }

    #[test]
    fn orders_come_from_here_alone() {
        let from = |name, value: &str| is_from_here(&headers(&[(name, value)]), "192.0.2.7");
        assert!(from(header::ORIGIN, "https://192.0.2.7"));
        assert!(from(SEC_FETCH_SITE, "same-origin"));
        for bad in
            ["null", "http://192.0.2.7", "https://192.0.2.7:8443", "https://evil.example", "é"]
        {
            assert!(!from(header::ORIGIN, bad), "{bad}");
        }
        assert!(!from(SEC_FETCH_SITE, "cross-site"));
        assert!(!is_from_here(&HeaderMap::new(), "192.0.2.7"));
    }

    #[test]
    fn cookies_and_forms_are_read() {
        let other = (header::COOKIE, "a=b; __Host-avrx=1; x");
        assert_eq!(session(&headers(std::slice::from_ref(&other))), None);
        assert_eq!(
            session(&headers(&[other, (header::COOKIE, "c=d;__Host-avr=00ff")])),
            Some("00ff")
        );
        let form = Form::parse(b"secret=a+b%26%e3%81%82%zz%4&empty&secret=2");
        assert_eq!(form.field("secret"), "a b&\u{3042}%zz%4");
        assert_eq!((form.field("empty"), form.field("gone")), ("", ""));
    }

    proptest! {
        #[test]
        fn any_bytes_are_read(body in any::<Vec<u8>>()) {
            prop_assert!(Form::parse(&body).0.len() <= FIELDS_MAX);
        }

        #[test]
        fn what_is_written_is_read(text: String) {
            let body: String = text.bytes().map(|byte| format!("%{byte:02X}")).collect();
            let form = Form::parse(format!("x=1&secret={body}").as_bytes());
            prop_assert_eq!(form.field("secret"), text);
        }
    }
}
