//! The comparison with other mail proxies.
#![forbid(unsafe_code)]
