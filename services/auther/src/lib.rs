//! `avr-auther`: admits boxes by MAC address and device key, and hands out tickets.
//!
//! Purpose: keep the registry of a fleet's boxes ([`registry`]), decide who is admitted
//! ([`admission`], which does no IO), answer `Hello` with a ticket or a reason ([`serve`]), and make
//! the fleet's keys and certificates ([`fleet`]). The MAC address is a box's inventory number, its
//! key is the credential: the first login within the enrolment window binds the one to the other.
//!
//! A box that gets no answer goes on with the ticket it has, and without one takes its mail straight
//! to the mail server; so nothing here is in the way of mail. Must not depend on the other services.
//! Entry: [`args::run`].
#![forbid(unsafe_code)]

pub mod admission;
pub mod args;
pub mod fleet;
pub mod import;
mod operator;
pub mod registry;
pub mod serve;
pub mod settings;
