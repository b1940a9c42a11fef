//! Asks time servers, each in turn, on a thread of its own.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use rsntp::{Config, SntpClient};

/// How long one server is waited for.
const ANSWER_MAX: Duration = Duration::from_secs(3);
/// The port of NTP.
const PORT: u16 = 123;

/// A server's answer.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Answer {
    pub(crate) server: IpAddr,
    /// What to add to the system's clock, in seconds.
    pub(crate) offset_seconds: f64,
}

/// The first answer; blocks.
pub(crate) fn ask(servers: &[IpAddr]) -> Result<Answer, String> {
    let mut problems = Vec::new();
    for &server in servers {
        let any: IpAddr = match server {
            IpAddr::V4(_) => [0, 0, 0, 0].into(),
            IpAddr::V6(_) => [0_u16; 8].into(),
        };
        let config = Config::default().timeout(ANSWER_MAX).bind_address(SocketAddr::new(any, 0));
        match SntpClient::with_config(config).synchronize(SocketAddr::new(server, PORT).to_string())
        {
            Ok(answer) => {
                let offset_seconds = answer.clock_offset().as_secs_f64();
                return Ok(Answer { server, offset_seconds });
            }
            Err(error) => problems.push(format!("{server}: {error}")),
        }
    }
    Err(problems.join("; "))
}
