//! Sealed copies of refused mail.
#![forbid(unsafe_code)]
