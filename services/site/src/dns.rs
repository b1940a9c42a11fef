//! DNS: reading a zone from its own servers, and changing it with signed updates.
//!
//! [`key`] and [`update`] do no IO and read no clock; [`exchange`] and [`zone`] are the driver.

pub mod exchange;
pub mod key;
pub mod update;
pub mod zone;
