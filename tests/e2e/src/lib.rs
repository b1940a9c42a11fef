//! The whole chain with real servers: an office, the box, the internet and two sites, each machine
//! a network namespace, all of it inside namespaces that die with the process.
//!
//! [`in_lab`] runs a scenario as a test; the `demo` binary runs them all and prints the figures.
//! Knows the programs under test only by their command lines and settings files, as an operator
//! does: must not depend on any other crate of the workspace. Entry: [`Lab`].
#![forbid(unsafe_code)]

mod capture;
pub mod clock;
mod daemon;
pub mod evidence;
pub mod failures;
pub mod figures;
mod fleet;
mod gateway;
mod lab;
mod machine;
pub mod message;
mod netns;
pub mod outages;
pub mod plan;
pub mod pop3;
pub mod records;
mod sandbox;
mod scanner;
pub mod scenarios;
mod server;
mod servers;
mod site;
pub mod sites;
pub mod smtp;
pub mod traffic;

pub use daemon::Daemon;
pub use gateway::{Gateway, Options};
pub use lab::Lab;
pub use netns::Netns;
pub use sandbox::{enter, in_lab, in_large_product_lab, in_product_lab, main_in_lab};
pub use servers::MAIL_UID;
pub use site::Part;
