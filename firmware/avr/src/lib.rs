//! The box: takes mail sessions off the bridge, scans them, and carries them to their server.
//!
//! `avr run` is [`gateway::run`]; `avr listen` is [`listen::serve`]; what an operator types is in
//! [`cli`], and asks either the daemon ([`control`]) or what it has kept ([`kept`]; the commands
//! are in the crate `records`), or is about the system itself (`update`; `updates` looks for them by itself, as a process of its own). Everything about mail is in `mail` and `scan`, everything about frames in `box-net` and `box-stack`,
//! everything about sites in `box-relay`; this crate only joins them. Must not depend on anything
//! under `services/`.
#![forbid(unsafe_code)]

pub mod cli;
pub mod control;
pub mod counters;
mod fetch;
pub mod gateway;
pub mod identity;
pub mod intercept;
pub mod kept;
pub mod listen;
mod page;
pub mod routes;
pub mod settings;
pub mod snooze;
pub mod status;
mod update;
mod updates;

/// A fresh session number from the operating system's random source.
fn session_id() -> anyhow::Result<wire::SessionId> {
    let mut bytes = [0; 16];
    aws_lc_rs::rand::fill(&mut bytes)
        .map_err(|_| anyhow::anyhow!("the operating system gives no random numbers"))?;
    Ok(wire::SessionId::from_random(bytes))
}

/// Seconds since 1970 by the system's clock; 0 if that is set before 1970.
#[allow(clippy::disallowed_methods, reason = "the one place where the box reads the wall clock")]
fn unix_now_s() -> u64 {
    std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .map_or(0, |since| since.as_secs())
}
