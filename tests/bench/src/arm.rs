//! What is compared: the ways that a mail takes from client to server.

use clap::ValueEnum;
use serde::{Deserialize, Serialize};

/// One way.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Arm {
    /// Nothing in between.
    Direct,
    /// HAProxy, which carries bytes and reads none.
    Haproxy,
    /// clamsmtp with `clamd`.
    Clamsmtp,
    /// Postfix with clamav-milter and `clamd` as a filter before its queue.
    Postfix,
    /// `avr listen` with its embedded engines.
    Avr,
    /// `avr listen` with its embedded engines and `clamd`.
    AvrClamd,
    /// The lab's network with the box as a plain bridge: nothing in between there.
    Bridge,
    /// The whole chain: box, manager, proxy with a site's `clamd`.
    Chain,
    /// Client to server, and the client asks `clamd` for each mail itself: a proxy that costs nothing.
    Free,
    /// Client to `clamd`, and to no mail server.
    Clamd,
}

impl Arm {
    /// All, in the order they are measured in each round.
    pub(crate) const ALL: [Self; 10] = [
        Self::Direct,
        Self::Haproxy,
        Self::Clamsmtp,
        Self::Postfix,
        Self::Avr,
        Self::AvrClamd,
        Self::Bridge,
        Self::Chain,
        Self::Free,
        Self::Clamd,
    ];

    /// Name in tables and charts.
    #[must_use]
    pub(crate) fn title(self) -> &'static str {
        match self {
            Self::Direct => "direct",
            Self::Haproxy => "HAProxy, TCP",
            Self::Clamsmtp => "clamsmtp + clamd",
            Self::Postfix => "Postfix + milter + clamd",
            Self::Avr => "avr listen",
            Self::AvrClamd => "avr listen + clamd",
            Self::Bridge => "plain bridge, in the lab",
            Self::Chain => "box, site, clamd, in the lab",
            Self::Free => "clamd at no other cost",
            Self::Clamd => "clamd alone",
        }
    }

    /// What its latency is compared with.
    #[must_use]
    pub(crate) fn baseline(self) -> Self {
        match self {
            Self::Bridge | Self::Chain => Self::Bridge,
            _ => Self::Direct,
        }
    }

    /// Whether it is run in the lab's network, with the product on it.
    #[must_use]
    pub(crate) fn is_in_lab(self) -> bool {
        self.baseline() == Self::Bridge
    }

    /// Whether mail goes through it to a server.
    #[must_use]
    pub(crate) fn carries_mail(self) -> bool {
        self != Self::Clamd
    }

    /// Whether it has a program of its own between client and server.
    #[must_use]
    pub(crate) fn is_proxy(self) -> bool {
        !matches!(self, Self::Direct | Self::Bridge | Self::Free | Self::Clamd)
    }

    /// Whether it can be put before a POP3 server.
    #[must_use]
    pub(crate) fn speaks_pop3(self) -> bool {
        !matches!(self, Self::Clamsmtp | Self::Postfix | Self::Free | Self::Clamd)
    }
}
