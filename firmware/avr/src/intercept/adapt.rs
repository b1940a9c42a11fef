//! The daemon's settings and status, in the interceptor's terms.

use crate::settings::Ports;
use crate::status::Flows;

use super::Counters;

/// Name of the nftables table and prefix of the TAP devices.
const NAME: &str = "avr";

impl From<&Ports> for box_net::Settings {
    fn from(ports: &Ports) -> Self {
        Self {
            lan: ports.lan.clone(),
            wan: ports.wan.clone(),
            bridge: ports.bridge.clone(),
            mail_ports: ports.smtp.iter().chain(&ports.pop3).copied().collect(),
            name: NAME.to_owned(),
        }
    }
}

impl From<Counters> for Flows {
    fn from(counters: Counters) -> Self {
        Self {
            now: u64::try_from(counters.flows).unwrap_or(u64::MAX),
            taken: counters.stack.opened,
            frames_bridged: counters.stack.bridged,
            table_full: counters.stack.overflowed,
        }
    }
}
