//! What must hold for any bytes that a peer may send: one entry function for each parser.
//!
//! The fuzzer calls an entry of [`ENTRIES`] with bytes of its choice (`targets`, a workspace of its own
//! for the nightly toolchain; `scripts/fuzz` runs it). The tests of this crate call them on stable with
//! the seeds, with what the fuzzer has found, and with the corpus beside the tree. An entry panics where
//! something does not hold; it returns for everything else.
//!
//! Entry: [`entry`].
#![forbid(unsafe_code)]

mod containers;
mod dot;
mod engines;
mod frames;
mod mime;
mod notice;
mod script;
mod sessions;
mod settings;
mod update;
mod wired;

pub use script::{Move, decode, encode};

/// A parser under test.
pub type Entry = fn(&[u8]);

/// All of them, by the name of their target.
pub const ENTRIES: &[(&str, Entry)] = &[
    ("box_frame", frames::frame),
    ("box_stack", frames::stack),
    ("clamd_reply", engines::clamd_reply),
    ("container_forced", containers::forced),
    ("containers", containers::containers),
    ("dns_answer", wired::dns_answer),
    ("dot_framer", dot::framer),
    ("icap_head", engines::icap_head),
    ("mime_header", mime::header),
    ("mime_walk", mime::walk),
    ("notice", notice::hostile_header),
    ("pop3_session", sessions::pop3),
    ("settings", settings::document),
    ("smtp_session", sessions::smtp),
    ("text_files", mime::text_files),
    ("tsig_key", settings::tsig_key),
    ("update_answer", update::answer),
    ("update_bundle", update::bundle),
    ("update_index", update::index),
    ("update_texts", update::texts),
    ("wire_frame", wired::frame),
    ("wire_ticket", wired::ticket),
];

/// The entry of a target.
#[must_use]
pub fn entry(name: &str) -> Option<Entry> {
    ENTRIES.iter().find(|(known, _)| *known == name).map(|(_, entry)| *entry)
}
