//! Runs the scripted sessions of the shared corpus through `avr listen`.
//!
//! [`script`] reads the files, [`run`] plays client and server with the program between them, and
//! [`judge`] says whether the session went as its class demands. The corpus is not part of the
//! repository; [`script::corpus`] says where it is looked for.
#![forbid(unsafe_code)]

pub mod judge;
pub mod peer;
pub mod run;
pub mod script;
pub mod server;
