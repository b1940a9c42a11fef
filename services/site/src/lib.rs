//! `avr-site`: what makes a site of some machines, and takes it in and out of service.
//!
//! Purpose: an operator's commands about one site as a whole, where the servers' own programs know
//! only themselves. `bundle` collects what a new server needs of the fleet; `init` writes all files
//! of a server ([`init`], [`plan`], [`settings`], [`forward`]); `check` looks at everything
//! ([`check`], [`probe`]); `join` and `leave` change the site's records in DNS ([`records`],
//! [`dns`]); `drain` has the manager send sessions elsewhere ([`drain`]). No site knows of another:
//! what they share is DNS and the fleet's keys. Must not depend on the servers' crates (it runs
//! their programs instead), nor on anything that scans. Entry: [`args::run`].
#![forbid(unsafe_code)]

pub mod args;
pub mod bundle;
pub mod check;
pub mod diag;
pub mod dns;
pub mod drain;
pub mod forward;
pub mod init;
pub mod install;
pub mod plan;
pub mod probe;
pub mod programs;
pub mod records;
pub mod settings;
mod time;
