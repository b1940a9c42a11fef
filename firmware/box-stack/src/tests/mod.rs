//! Scenarios of whole connections; see [`client`] for who plays the other side.

mod client;
mod hostile;
mod scenarios;

pub(crate) use client::start;
