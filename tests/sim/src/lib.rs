//! A fleet in virtual time: the sans-IO cores of boxes and managers through days with failures.
//!
//! Purpose: shows how a fleet of 100,000 boxes behaves when sites fail, where nobody can try it: how
//! long sessions wait, where the load goes, what comes in waves. What decides is the code that ships
//! (`box_relay::cores`, `manager::fleet`); what is a model here are offices, DNS, lines and hosts. It
//! opens no socket and reads no clock; a seed repeats a run exactly. Entry: [`World`].
#![forbid(unsafe_code)]

mod carry;
pub mod chart;
pub mod cli;
pub mod dns;
pub mod measure;
pub mod office;
pub mod queue;
pub mod random;
pub mod report;
pub mod scenario;
pub mod site;
mod tend;
mod world;

pub use world::{Outcome, SAMPLE_US, Size, World};
