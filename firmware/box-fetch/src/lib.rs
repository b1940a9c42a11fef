//! How updates reach the box: from a web server, in pieces, without believing anybody on the way.
//!
//! Purpose: bring a bundle to DATA as it was signed. [`head`] reads what a web server answers, [`Url`] is
//! where it is; [`Client`] is the driver, over TCP or TLS. [`download()`] keeps what has come, goes on
//! behind it, and writes nothing before the bundle's signature holds. [`schedule`] says when to look and
//! when to start anew, and [`State`] is what is told of it. What is *in* a bundle or an index, and whose
//! turn it is, is `box_update`'s; settings, slots and names of hosts are the caller's.
//!
//! What is trusted is minisign's signature. So plain `http://` is as good as `https://` for what gets
//! installed; the latter hides which version a box asks for, and keeps others from cutting it off
//! unnoticed. The box has no list of the world's authorities, which would age with its image: for
//! `https://`, the caller names one ([`Trust`]). TLS is 1.3. Proxies in the environment are ignored.
//! Not supported, because no server needs them for a file: answers of unknown length, compression,
//! cookies, passwords in addresses.
//!
//! Must not depend on PID 1, on the gateway, nor on anything that scans. Entry: [`download()`].
#![forbid(unsafe_code)]

mod client;
mod download;
pub mod head;
pub mod schedule;
mod state;
mod url;

pub use client::{Body, Client, FetchError, Limits, Names, Response, Trust, TrustError};
pub use download::{DownloadError, Downloaded, Wanted, download};
pub use state::{FILE, News, State};
pub use url::{URL_BYTES_MAX, Url, UrlError};

/// Where downloads and [`FILE`] are on the box. DATA may be made anew at any time: then a download
/// begins from its start.
pub const FOLDER: &str = "/data/updates";
