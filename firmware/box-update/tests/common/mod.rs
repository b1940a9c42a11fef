//! What an update needs in a test.
#![allow(dead_code, unused_imports, reason = "each test uses some of it")]

mod bundles;
pub(crate) mod fat;

pub(crate) use bundles::*;
