//! How long a box takes from the firmware's hand-over until its bridge forwards and until it
//! intercepts, as seen at its two ports: frames go in at one, and are looked for at the other.

mod guest;
mod probe;

pub use guest::{Machine, start};
pub use probe::{Frame, Moment, Times, Watch};
