//! Containers taken apart in memory, within a budget.
//!
//! [`formats`] says as which containers some bytes can be read, [`unpack`] hands out the members of
//! one reading. The caller feeds the members back (to [`formats`], to a mail parser, to engines)
//! and counts the depth; one [`Budget`] serves all containers of one mail.
//!
//! Three rules hold for every format. Everything that can be read is handed out, also from damaged
//! containers. What was not looked at is named by a [`Trouble`]; no trouble means that all was
//! seen. Where programs read a container differently, the union of their readings is handed out.
//!
//! Nothing here does IO or reads a clock: the budget asks its `stop` whether time is over. Memory
//! is never taken by a number that a container claims: outputs grow as they are decoded, and
//! decoders that need their dictionary at once are held to [`Limits::decoder_bytes_max`]. Must not
//! depend on any other crate of the workspace.
#![forbid(unsafe_code)]

mod base64;
pub mod ber;
mod budget;
mod bytes;
mod cab;
mod card;
mod cms;
mod compound;
mod detect;
mod foreign;
mod inflate;
mod iso;
mod lha;
mod lz4;
mod markup;
mod ole;
mod onenote;
mod openpgp;
mod ovba;
mod pdf;
mod rar;
mod rtf;
mod sevenz;
mod stream;
mod tar;
mod tnef;
mod unix;
pub mod watch;
mod work;
mod zip;
mod zlib;

pub use budget::{Budget, LimitKind, Limits, Stop};
pub use detect::{Format, formats};

use std::ops::ControlFlow;
use std::panic::{AssertUnwindSafe, catch_unwind};
use work::Work;

/// One member of a container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Member {
    /// Every name that a client may show or save it under; none where the format has no names.
    /// Control characters and path traversal are left in: a name is text, and no file is written.
    pub names: Vec<String>,
    /// Its content, as far as it could be read.
    pub bytes: Vec<u8>,
    /// It came from a reading that differs from the usual one, such as a local header of a zip
    /// that its central directory does not name.
    pub is_odd: bool,
}

/// Something in a container that was not looked at.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Trouble {
    /// Members, or the list of them, are encrypted.
    #[error("encrypted members in {}", .format.name())]
    Encrypted {
        /// Of what.
        format: Format,
    },
    /// A format, method or variant that this crate does not read.
    #[error("{}: {what} is not supported", .format.name())]
    Unsupported {
        /// Of what.
        format: Format,
        /// Which part of it.
        what: &'static str,
    },
    /// It breaks the rules of its format, and a lenient client may see more than was seen here.
    #[error("{} is damaged: {what}", .format.name())]
    Damaged {
        /// Of what.
        format: Format,
        /// What is wrong.
        what: &'static str,
    },
    /// A limit of the budget was reached.
    #[error("{0}")]
    Limit(LimitKind),
    /// One volume of several; the others are elsewhere.
    #[error("one volume of several ({})", .format.name())]
    Partial {
        /// Of what.
        format: Format,
    },
}

/// Hands out the members of one container, each as soon as it is complete, so that only one is in
/// memory at a time; says what was not looked at. Ends early where `found` breaks.
///
/// A panic of a decoder ends this container, or where it can be told apart this member, as damaged;
/// one of `found` does so too.
pub fn unpack(
    bytes: &[u8],
    format: Format,
    budget: &mut Budget,
    found: &mut dyn FnMut(Member) -> ControlFlow<()>,
) -> Vec<Trouble> {
    let mut work = Work::new(format, bytes.len(), budget, found);
    let done = catch_unwind(AssertUnwindSafe(|| dispatch(bytes, format, &mut work)));
    if done.is_err() {
        work.damaged("its decoder gave up");
    }
    work.into_troubles()
}

fn dispatch(bytes: &[u8], format: Format, work: &mut Work<'_>) {
    match format {
        Format::Zip => zip::unpack(bytes, work),
        Format::Gzip => stream::gzip(bytes, work),
        Format::Bzip2 => stream::bzip2(bytes, work),
        Format::Xz => stream::xz(bytes, work),
        Format::Lzma => stream::lzma(bytes, work),
        Format::Lzip => stream::lzip(bytes, work),
        Format::Zstd => stream::zstd(bytes, work),
        Format::Compress => stream::compress(bytes, work),
        Format::Tar => tar::unpack(bytes, work),
        Format::Ar => unix::ar(bytes, work),
        Format::Cpio => unix::cpio(bytes, work),
        Format::SevenZip => sevenz::unpack(bytes, work),
        Format::Rar => rar::unpack(bytes, work),
        Format::Cab => cab::unpack(bytes, work),
        Format::Lha => lha::unpack(bytes, work),
        Format::Tnef => tnef::unpack(bytes, work),
        Format::Ole => ole::unpack(bytes, work),
        Format::Pdf => pdf::unpack(bytes, work),
        Format::Rtf => rtf::unpack(bytes, work),
        Format::OneNote => onenote::unpack(bytes, work),
        Format::Lz4 => lz4::unpack(bytes, work),
        Format::Zlib => zlib::zlib(bytes, work),
        Format::ActiveMime => zlib::active_mime(bytes, work),
        Format::Flash => zlib::flash(bytes, work),
        Format::OpenPgp => openpgp::unpack(bytes, work),
        Format::Cms => cms::unpack(bytes, work),
        Format::Base64 => base64::unpack(bytes, work),
        Format::Card => card::unpack(bytes, work),
        Format::Markup => markup::unpack(bytes, work),
        Format::Iso => iso::unpack(bytes, work),
        _ => work.unsupported("the format"),
    }
}
