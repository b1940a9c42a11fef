//! Runs mails, archives and sessions through `avr listen`, and makes the table `RESULTS.md` of what
//! became of them.
//!
//! The cases are those of a corpus beside the tree ([`corpus`], [`script`], [`dialogue`]) and those
//! made here ([`own`]). [`carry`] takes one mail through the gateway by SMTP and by POP3; [`run`]
//! plays a scripted session, and [`judge`] says whether it went as its class demands. [`all`] runs
//! everything, [`argued`] knows why some of it is not as expected, [`table`] writes.
//!
//! Knows the program by its command line alone: must not depend on any other crate of the workspace.
#![forbid(unsafe_code)]

pub mod all;
pub mod argued;
pub mod backend;
pub mod carry;
pub mod case;
pub mod corpus;
pub mod dialogue;
pub mod judge;
pub mod own;
pub mod peer;
pub mod program;
pub mod run;
pub mod script;
pub mod server;
pub mod table;
pub mod wire;
