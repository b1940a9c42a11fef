//! The drivers: system calls, files and processes, with as little judgement as can be.

pub(crate) mod block;
pub(crate) mod children;
pub(crate) mod control;
pub(crate) mod efi;
pub(crate) mod exec;
pub(crate) mod files;
pub(crate) mod kmod;
pub(crate) mod log;
pub(crate) mod mounts;
pub(crate) mod net;
pub(crate) mod notify;
pub(crate) mod power;
pub(crate) mod settings;
pub(crate) mod slots;
pub(crate) mod sntp;
pub(crate) mod storage;
pub(crate) mod time;
pub(crate) mod watchdog;
