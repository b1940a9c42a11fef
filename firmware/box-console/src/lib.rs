//! The console on the box's serial port and screen: how the box is, checks, probes, settings, without
//! network and without a disk.
//!
//! What decides is apart from what does. [`keys`], [`editor`], [`text`] and [`session`] turn bytes, the
//! time and reports of jobs into bytes for the screen and orders for jobs; [`command`], [`report`],
//! [`selftest`], [`filter`] and [`redact`] are tables and texts. None of them has a system call.
//! Who runs the jobs asks PID 1 (`box_init::control`) and the gateway (its
//! control socket, as JSON, since its program links the scanner), each with a deadline; with either of
//! them gone it goes on with what it can. Must not depend on tokio, on `avr`, nor on anything that scans.
//! Entry: [`session::Session`]; commands and who may come in: README.md.
#![forbid(unsafe_code)]

pub mod command;
pub mod editor;
pub mod filter;
pub mod keys;
pub mod redact;
pub mod report;
pub mod selftest;
pub mod session;
pub mod text;
