//! Fakes for tests: a DNS server, and a fleet of managers, proxies and authers on loopback.

pub(crate) mod dns;
pub(crate) mod fleet;
