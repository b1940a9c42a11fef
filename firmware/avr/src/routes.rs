//! Which way a session takes, by LAN host, server and port.

use std::net::{IpAddr, SocketAddr};

use serde::{Deserialize, Serialize};

/// The ways.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Route {
    /// Through a relay site; direct when none can be had.
    #[default]
    Relay,
    /// From the box straight to the mail server, scanned on the box.
    Direct,
    /// The frames stay on the bridge: not intercepted, not scanned.
    Bypass,
}

/// An exception. A key that is left out matches everything.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rule {
    /// Address of the LAN host.
    pub lan: Option<IpAddr>,
    /// Address of the mail server.
    pub server: Option<IpAddr>,
    /// TCP port of the mail server.
    pub port: Option<u16>,
    /// The way.
    #[serde(rename = "use")]
    pub way: Route,
}

/// All rules, with the way of sessions that none matches.
#[derive(Debug, Clone)]
pub struct Routes {
    rules: Vec<Rule>,
    default: Route,
}

impl Routes {
    /// First match wins.
    #[must_use]
    pub fn new(rules: Vec<Rule>, default: Route) -> Self {
        Self { rules, default }
    }

    /// The way of a session from a LAN host to a mail server.
    #[must_use]
    pub fn choose(&self, client: SocketAddr, server: SocketAddr) -> Route {
        self.rules
            .iter()
            .find(|rule| {
                rule.lan.is_none_or(|lan| lan == client.ip())
                    && rule.server.is_none_or(|ip| ip == server.ip())
                    && rule.port.is_none_or(|port| port == server.port())
            })
            .map_or(self.default, |rule| rule.way)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_rule_that_matches_wins() {
        let rule = |lan: Option<&str>, port, way| Rule {
            lan: lan.map(|ip| ip.parse().unwrap()),
            server: None,
            port,
            way,
        };
        let routes = Routes::new(
            vec![
                rule(Some("192.168.1.9"), None, Route::Bypass),
                rule(None, Some(587), Route::Direct),
            ],
            Route::Relay,
        );
        let choose = |client: &str, port| {
            routes.choose(client.parse().unwrap(), ([203, 0, 113, 1], port).into())
        };
        assert_eq!(choose("192.168.1.9:1000", 587), Route::Bypass);
        assert_eq!(choose("192.168.1.8:1000", 587), Route::Direct);
        assert_eq!(choose("192.168.1.8:1000", 25), Route::Relay);
    }
}
