//! What auther, manager and proxy share.
//!
//! Purpose: the frame round a site's server, so that the three differ only in what they say. The
//! accept loop with its limits ([`listener`]), the end of the program ([`drain`]), keys and
//! certificates from files ([`files`]), the command line ([`args`]), what a server wants of its host
//! ([`host`]), what systemd is told of it ([`notify`]), counters and their export ([`metrics`]), the
//! status port ([`http`]), the operator's socket ([`control`]), the list of void tickets
//! ([`revocations`]), files that survive a restart ([`state`]), and what every `main` does with these
//! ([`program`]). Must not depend on any of the
//! services. Entry: [`program::run`], [`serve`], [`http::Status`].
#![forbid(unsafe_code)]

pub mod args;
pub mod control;
pub mod drain;
pub mod files;
pub mod host;
pub mod http;
pub mod listener;
pub mod metrics;
mod newcomers;
pub mod notify;
pub mod program;
pub mod revocations;
pub mod state;

pub use drain::{Drain, DrainTrigger};
pub use files::{FileError, Tls};
pub use listener::{Limits, Served, serve};
