//! The management table: which proxies there are, how much each takes, and how the world sees them.
//!
//! It keeps its old form, `"10.0.0.1, 10.0.0.2, 10.0.0.3, 10.0.0.3"`: an address written twice gets
//! twice the share. Beside it stands which public address is forwarded to which local one.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};

use wire::PROXY_PORT;

/// Most proxies of one site.
pub const PROXIES_MAX: usize = 64;
/// Most addresses in the table, repetitions included.
pub const ENTRIES_MAX: usize = 1024;

/// A proxy's place in [`Table::proxies`].
pub type ProxyIndex = usize;

/// The table, checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Table {
    entries: Vec<ProxyIndex>,
    proxies: Vec<Proxy>,
}

/// One proxy of the table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Proxy {
    /// Where this manager polls it.
    pub local: SocketAddr,
    /// Where boxes reach it.
    pub public: SocketAddr,
    /// How often it stands in the table; at least 1.
    pub weight: u32,
}

/// What is wrong with the table, and with which key of the settings.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{problem}; {remedy}")]
pub struct TableError {
    /// As [`config::Document::invalid`] takes it.
    pub key: String,
    /// What is wrong.
    pub problem: String,
    /// What to write instead.
    pub remedy: String,
}

impl Table {
    /// From the keys `proxy_address` and `[public]`. Ports may be left out where they are
    /// [`PROXY_PORT`].
    ///
    /// # Errors
    /// The first thing that is wrong, with what to write instead.
    pub fn parse(
        proxy_address: &str,
        public: &BTreeMap<String, String>,
    ) -> Result<Self, TableError> {
        let mut public = public_addresses(public)?;
        let mut table = Self { entries: Vec::new(), proxies: Vec::new() };
        for written in proxy_address.split(',').map(str::trim) {
            let local = parse_address(written).map_err(|problem| {
                let remedy = "write local addresses with commas between them instead, \
                              as in \"10.0.0.1, 10.0.0.2:4653\"";
                in_list(problem, remedy)
            })?;
            let index = table.proxies.iter().position(|proxy| proxy.local == local);
            let index = match index {
                Some(index) => index,
                None => table.add(written, local, &mut public)?,
            };
            if table.entries.len() == ENTRIES_MAX {
                let problem = format!("more than {ENTRIES_MAX} addresses");
                return Err(in_list(problem, "write every address fewer times instead"));
            }
            table.entries.push(index);
            if let Some(proxy) = table.proxies.get_mut(index) {
                proxy.weight += 1;
            }
        }
        match public.into_values().next() {
            Some((written, _)) => Err(TableError {
                key: format!("public.\"{written}\""),
                problem: format!("{written} is not in proxy_address"),
                remedy: "write it there too, or remove this line".to_owned(),
            }),
            None => Ok(table),
        }
    }

    /// The proxies, each once, in the order of their first mention.
    #[must_use]
    pub fn proxies(&self) -> &[Proxy] {
        &self.proxies
    }

    /// The table as written, repetitions included.
    #[must_use]
    pub fn entries(&self) -> &[ProxyIndex] {
        &self.entries
    }

    fn add(
        &mut self,
        written: &str,
        local: SocketAddr,
        public: &mut Public,
    ) -> Result<ProxyIndex, TableError> {
        if self.proxies.len() == PROXIES_MAX {
            let problem = format!("more than {PROXIES_MAX} proxies");
            return Err(in_list(problem, "write fewer instead; a larger site is two sites"));
        }
        let Some((_, address)) = public.remove(&local) else {
            let problem = format!("{written} has no public address");
            let remedy = format!("write `\"{written}\" = \"PUBLIC-ADDRESS:PORT\"` under [public]");
            return Err(in_list(problem, remedy));
        };
        if let Some(other) = self.proxies.iter().find(|proxy| proxy.public == address) {
            return Err(TableError {
                key: format!("public.\"{written}\""),
                problem: format!("{address} is the public address of {} too", other.local),
                remedy: "write another port for one of the two, and forward it".to_owned(),
            });
        }
        self.proxies.push(Proxy { local, public: address, weight: 0 });
        Ok(self.proxies.len() - 1)
    }
}

/// Local address to the key as written and the public address.
type Public = BTreeMap<SocketAddr, (String, SocketAddr)>;

fn public_addresses(written: &BTreeMap<String, String>) -> Result<Public, TableError> {
    let mut public = BTreeMap::new();
    for (local_text, public_text) in written {
        let key = format!("public.\"{local_text}\"");
        let local = parse_address(local_text).map_err(|problem| TableError {
            key: key.clone(),
            problem,
            remedy: "write the local address as in proxy_address instead".to_owned(),
        })?;
        let address = parse_address(public_text).map_err(|problem| TableError {
            key: key.clone(),
            problem,
            remedy: "write the public address and port instead, as in \"203.0.113.10:4652\""
                .to_owned(),
        })?;
        if public.insert(local, (local_text.clone(), address)).is_some() {
            return Err(TableError {
                key,
                problem: format!("{local} has two public addresses"),
                remedy: "write only one of them".to_owned(),
            });
        }
    }
    Ok(public)
}

/// An address with or without a port. The error is the problem in words.
pub(crate) fn parse_address(text: &str) -> Result<SocketAddr, String> {
    let address = text
        .parse::<SocketAddr>()
        .or_else(|_| text.parse::<IpAddr>().map(|ip| SocketAddr::new(ip, PROXY_PORT)))
        .map_err(|_| match text {
            "" => "an empty address".to_owned(),
            _ => format!("\"{}\" is no address", text.escape_debug()),
        })?;
    if address.port() == 0 || address.ip().is_unspecified() || address.ip().is_multicast() {
        return Err(format!("nobody can be reached at {address}"));
    }
    Ok(address)
}

fn in_list(problem: String, remedy: impl Into<String>) -> TableError {
    TableError { key: "proxy_address".to_owned(), problem, remedy: remedy.into() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn public(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        pairs.iter().map(|(local, public)| ((*local).to_owned(), (*public).to_owned())).collect()
    }

    fn error(list: &str, pairs: &[(&str, &str)]) -> String {
        let error = Table::parse(list, &public(pairs)).unwrap_err();
        format!("{}: {error}", error.key)
    }

    const ONE: (&str, &str) = ("10.0.0.1", "203.0.113.10:4652");
    const TWO: (&str, &str) = ("10.0.0.2", "203.0.113.10:4653");

    #[test]
    fn the_old_form_gives_weights_by_repetition() {
        let pairs =
            [ONE, TWO, ("10.0.0.3", "203.0.113.11"), ("[2001:db8::4]:99", "[2001:db8::4]:99")];
        let list = "10.0.0.1, 10.0.0.2,10.0.0.3 ,10.0.0.3, [2001:db8::4]:99, 10.0.0.1:4652";
        let table = Table::parse(list, &public(&pairs)).unwrap();
        assert_eq!(table.entries(), [0, 1, 2, 2, 3, 0]);
        let weights: Vec<u32> = table.proxies().iter().map(|proxy| proxy.weight).collect();
        assert_eq!(weights, [2, 1, 2, 1]);
        // Ports that are not written are the proxy's default, on both sides.
        assert_eq!(table.proxies()[2].local, "10.0.0.3:4652".parse().unwrap());
        assert_eq!(table.proxies()[2].public, "203.0.113.11:4652".parse().unwrap());
        assert_eq!(table.proxies()[3].local, "[2001:db8::4]:99".parse().unwrap());
    }

    #[test]
    fn errors_say_what_to_write() {
        let list_remedy = "write local addresses with commas between them instead, \
                           as in \"10.0.0.1, 10.0.0.2:4653\"";
        assert_eq!(error("", &[]), format!("proxy_address: an empty address; {list_remedy}"));
        assert_eq!(
            error("10.0.0.1,", &[ONE]),
            format!("proxy_address: an empty address; {list_remedy}")
        );
        assert_eq!(
            error("10.0.0.1 10.0.0.2", &[ONE]),
            format!("proxy_address: \"10.0.0.1 10.0.0.2\" is no address; {list_remedy}")
        );
        assert_eq!(
            error("10.0.0.1:0", &[ONE]),
            format!("proxy_address: nobody can be reached at 10.0.0.1:0; {list_remedy}")
        );
        assert_eq!(
            error("10.0.0.1, 10.0.0.2", &[ONE]),
            "proxy_address: 10.0.0.2 has no public address; \
             write `\"10.0.0.2\" = \"PUBLIC-ADDRESS:PORT\"` under [public]"
        );
        assert_eq!(
            error("10.0.0.1", &[ONE, TWO]),
            "public.\"10.0.0.2\": 10.0.0.2 is not in proxy_address; \
             write it there too, or remove this line"
        );
        assert_eq!(
            error("10.0.0.1, 10.0.0.2", &[ONE, ("10.0.0.2", "203.0.113.10")]),
            "public.\"10.0.0.2\": 203.0.113.10:4652 is the public address of 10.0.0.1:4652 too; \
             write another port for one of the two, and forward it"
        );
        assert_eq!(
            error("10.0.0.1", &[("10.0.0.1", "mail.example")]),
            "public.\"10.0.0.1\": \"mail.example\" is no address; \
             write the public address and port instead, as in \"203.0.113.10:4652\""
        );
        assert_eq!(
            error("10.0.0.1", &[ONE, ("10.0.0.1:4652", "203.0.113.9")]),
            "public.\"10.0.0.1:4652\": 10.0.0.1:4652 has two public addresses; \
             write only one of them"
        );
    }

    #[test]
    fn limits() {
        let many = |count: usize| -> (String, BTreeMap<String, String>) {
            let locals: Vec<String> = (0..count).map(|n| format!("10.0.1.{n}:9")).collect();
            let pairs =
                locals.iter().enumerate().map(|(n, l)| (l.clone(), format!("192.0.2.{n}:9")));
            (locals.join(","), pairs.collect())
        };
        let (list, pairs) = many(PROXIES_MAX);
        assert_eq!(Table::parse(&list, &pairs).unwrap().proxies().len(), PROXIES_MAX);
        let (list, pairs) = many(PROXIES_MAX + 1);
        assert_eq!(Table::parse(&list, &pairs).unwrap_err().problem, "more than 64 proxies");

        let list = vec!["10.0.0.1"; ENTRIES_MAX].join(",");
        assert_eq!(Table::parse(&list, &public(&[ONE])).unwrap().proxies()[0].weight, 1024);
        let error = Table::parse(&format!("{list},10.0.0.1"), &public(&[ONE])).unwrap_err();
        assert_eq!(error.problem, "more than 1024 addresses");
    }
}
