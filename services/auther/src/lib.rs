//! `avr-auther`: admits boxes by MAC address and device key, and hands out tickets.
//!
//! Purpose: keep the registry of a fleet's boxes ([`registry`], in SQLite or PostgreSQL), decide who
//! is admitted ([`admission`]) and what an operator's change does ([`change`]; neither does IO),
//! answer `Hello` with a ticket or a reason and `Fetch` with the list of void tickets ([`serve`]), let
//! operators change things by command and by HTTP ([`api`]), and make the fleet's keys and
//! certificates ([`fleet`]). The MAC address is a box's inventory number, its key is the credential:
//! the first login within the enrolment window binds the one to the other.
//!
//! A box that gets no answer goes on with the ticket it has, and without one takes its mail straight
//! to the mail server; so nothing here is in the way of mail. Must not depend on the other services.
//! Entry: [`args::run`].
#![forbid(unsafe_code)]

pub mod admission;
pub mod api;
pub mod args;
pub mod change;
mod client;
pub mod csv;
pub mod device;
pub mod fleet;
mod operator;
pub mod registry;
pub mod serve;
pub mod settings;
pub mod token;
mod utc;
