//! What auther, manager and proxy share.
//!
//! Purpose: the frame round a site's server, so that the three differ only in what they say. The
//! accept loop with its limits ([`listener`]), the end of the program ([`drain`]), keys and
//! certificates from files ([`files`]), the command line ([`args`]), and the two things a server
//! reads from its host ([`host`]). Must not depend on any of the services. Entry: [`serve`].
#![forbid(unsafe_code)]

pub mod args;
pub mod drain;
pub mod files;
pub mod host;
pub mod listener;

pub use drain::{Drain, DrainTrigger};
pub use files::{FileError, Tls};
pub use listener::{Limits, Served, serve};

use serde::Deserialize;

/// The `log` key of every settings file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// For people. The default.
    #[default]
    Text,
    /// One JSON object a line.
    Json,
}

impl From<LogFormat> for telemetry::Format {
    fn from(format: LogFormat) -> Self {
        match format {
            LogFormat::Text => Self::Text,
            LogFormat::Json => Self::Json,
        }
    }
}
