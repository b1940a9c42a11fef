//! The comparison with other mail proxies: the same mails, the same server and the same `clamd`,
//! one proxy after the other in between, in one run.
//!
//! `bench mail` runs inside namespaces of its own, as the end-to-end tests do, and starts the other
//! programs of this binary as client and mail server. `bench sites` does the same with a site's servers,
//! by the programs that measure them. Knows the product only by its command lines.
//! Must not depend on a crate that is not a test. Entry: [`cli::Arguments`].
#![forbid(unsafe_code)]

mod arm;
mod chart;
mod clamd;
pub mod cli;
mod fetch;
mod load;
mod machine;
mod mailbox;
mod matrix;
mod message;
mod process;
mod record;
mod report;
mod run;
mod servers;
mod sink;
mod sites;
mod stage;
mod stats;
mod targets;
mod worker;
