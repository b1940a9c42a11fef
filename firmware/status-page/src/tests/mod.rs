//! The page over real TLS, with all round it made for the test: PID 1, the gateway, STATE and DATA.

mod bench;
mod browser;
mod name;
mod over_tls;
