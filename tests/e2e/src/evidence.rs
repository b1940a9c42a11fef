//! Which way a session went, from what others saw of it: the routers' counters, and the address
//! that the mail server saw. Nothing here asks the programs under test.

use std::fmt;

use anyhow::Result;

use crate::{Lab, site::read_counter};

/// The way of one session.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Way {
    /// By way of a proxy (1 or 2) of a site.
    Relay { site: String, proxy: usize },
    /// From the office straight to the mail server.
    Direct,
    /// Not mail: through the bridge.
    Bridge,
    /// No connection, or more than one.
    Unclear(String),
}

impl Way {
    /// The site, if it went by way of one.
    #[must_use]
    pub fn site(&self) -> Option<&str> {
        match self {
            Self::Relay { site, .. } => Some(site),
            Self::Direct | Self::Bridge | Self::Unclear(_) => None,
        }
    }
}

impl fmt::Display for Way {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Relay { site, proxy } => write!(f, "{site}/proxy{proxy}"),
            Self::Direct => f.write_str("direct"),
            Self::Bridge => f.write_str("bridge"),
            Self::Unclear(what) => write!(f, "unclear: {what}"),
        }
    }
}

/// How many connections to the mail server each way had, at one moment.
#[derive(Debug)]
pub struct Snapshot {
    counts: Vec<(Way, u64)>,
}

impl Snapshot {
    /// Reads the routers' counters.
    ///
    /// # Errors
    /// When nftables does not tell.
    pub fn take(lab: &Lab) -> Result<Self> {
        let mut counts = vec![(Way::Direct, read_counter(lab.office(), "direct")?)];
        for site in lab.sites() {
            for (index, count) in site.connections()?.into_iter().enumerate() {
                let way = Way::Relay { site: site.name().to_owned(), proxy: index + 1 };
                counts.push((way, count));
            }
        }
        Ok(Self { counts })
    }

    /// The way of the one session since this snapshot.
    ///
    /// # Errors
    /// When nftables does not tell.
    pub fn way_since(&self, lab: &Lab) -> Result<Way> {
        let later = Self::take(lab)?;
        let ways: Vec<_> = self
            .counts
            .iter()
            .zip(&later.counts)
            .filter(|((_, before), (_, after))| after > before)
            .map(|((way, _), _)| way.clone())
            .collect();
        Ok(match ways.as_slice() {
            [way] => way.clone(),
            [] => Way::Unclear("no connection to the mail server".to_owned()),
            many => Way::Unclear(format!("{many:?}")),
        })
    }
}
