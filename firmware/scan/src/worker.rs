//! The process that reads hostile bytes: unpacking, decoding and matching happen there and nowhere else.
//!
//! The daemon starts its own program again with the verb [`WORKER_VERB`], as another user, with a socket
//! as standard input ([`pool`]). The worker learns what to look for ([`Knowledge`]), locks itself in
//! ([`confine`]): no files, no sockets, no programs, bounded memory; and then looks at one mail after
//! the other ([`serve`]). It knows nothing of sessions, and has no key and no configuration. Whatever a
//! mail does to it, that process ends, that mail is unscannable, and the next one starts.
//!
//! Messages are a length (u32, little endian) and a postcard body; the bytes of a mail follow as they
//! are. Both ends are the same program, so there is no version. A large mail does not follow: the
//! worker asks for it stretch by stretch, as often as it has readings, and does not keep it.

pub mod confine;
pub mod pool;
mod stretches;

use std::io::{self, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use self::stretches::Stretches;
use crate::Limits;
use crate::analysis::{Analysis, Analyzer, Export, LocalEngine};
use crate::local::block::BlockRules;
use crate::local::hashes::HashLists;
use crate::local::{BlockEngine, HashEngine};
use crate::yara::{CompiledRules, YaraEngine};

/// The verb that makes a program of this workspace a worker. Not for people.
pub const WORKER_VERB: &str = "scan-worker";

/// Largest message between daemon and worker, the bytes of mails apart, in bytes. Compiled rules are
/// the largest by far.
pub const MESSAGE_BYTES_MAX: usize = 512 * 1024 * 1024;

/// Largest mail that is sent with the request for its scan, bytes: what streams is read at least twice.
pub const HELD_BYTES_MAX: u64 = 1024 * 1024;

/// How much of a larger mail is sent at a time, in bytes.
const STRETCH_BYTES: u64 = 1024 * 1024;

/// How often a worker may ask for all of a mail, which goes on for as long as it is wanted: readings
/// have two structures and eight dialects, and each may be read twice, because a part is needed whole.
pub const PASSES_MAX: u64 = 40;

/// What is looked for, in a form that can be sent to another process.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Knowledge {
    /// [`CompiledRules::to_bytes`].
    rules: Vec<u8>,
    /// [`CompiledRules::whole_because`].
    whole_because: Option<String>,
    hashes: HashLists,
    block: BlockRules,
    limits: Limits,
}

impl Knowledge {
    /// Of these rules and lists, within these limits.
    ///
    /// # Errors
    ///
    /// Rules that cannot be written as bytes; the library's fault.
    pub fn new(
        rules: &CompiledRules,
        hashes: HashLists,
        block: BlockRules,
        limits: Limits,
    ) -> Result<Self, WorkerError> {
        let whole_because = rules.whole_because().map(str::to_owned);
        let rules = rules.to_bytes().map_err(WorkerError::Rules)?;
        Ok(Self { rules, whole_because, hashes, block, limits })
    }

    /// The engines that know this, cheapest first; `rules` are [`Self::rules`] made ready.
    fn engines<'r>(&self, rules: &'r CompiledRules) -> Vec<Box<dyn LocalEngine + 'r>> {
        let mut engines: Vec<Box<dyn LocalEngine + 'r>> = Vec::new();
        if !self.block.is_empty() {
            engines.push(Box::new(BlockEngine::new(self.block.clone())));
        }
        if !self.hashes.is_empty() {
            engines.push(Box::new(HashEngine::new(self.hashes.clone())));
        }
        engines.push(Box::new(YaraEngine::new(rules)));
        engines
    }
}

/// From the daemon.
#[derive(Debug, Serialize, Deserialize)]
enum Request {
    /// A mail of that many bytes, which follow up to [`HELD_BYTES_MAX`].
    Scan { bytes: u64, export: Export, time: Duration },
}

/// From the worker.
#[derive(Debug, Serialize, Deserialize)]
enum Answer {
    /// It has learned, and is locked in as far as this says.
    Ready(confine::Confined),
    /// Wants a stretch of the mail, of [`STRETCH_BYTES`] or to its end, from that byte on.
    More { at: u64 },
    /// An object for engines elsewhere, whose bytes follow.
    Object { part: u32, file_name: Option<String>, bytes: u64 },
    /// The mail has been looked at.
    Done(Box<Analysis>),
}

/// Why a worker ends.
#[derive(Debug, thiserror::Error)]
pub enum WorkerError {
    /// Its standard input is no socket, or the daemon has gone in the middle of a message.
    #[error("talk over the worker's socket")]
    Socket(#[from] io::Error),
    /// The daemon says what this program does not know; the two are not the same version.
    #[error("read or write a message between daemon and worker")]
    Message(#[from] postcard::Error),
    /// Rules that cannot be used.
    #[error("take over the rules")]
    Rules(#[source] yara_x::errors::SerializationError),
    /// It could not be locked in, and so does not run.
    #[error("lock the worker in")]
    Confine(#[from] confine::ConfineError),
}

/// Runs a worker on its standard input until the daemon goes: what the verb [`WORKER_VERB`] does.
///
/// # Errors
///
/// Why it ended, unless the daemon ended it.
pub fn run() -> Result<(), WorkerError> {
    use std::os::fd::AsFd as _;
    // A panic's text may quote the bytes that caused it, and they belong in no log.
    std::panic::set_hook(Box::new(|panic| {
        let place = panic.location().map(ToString::to_string).unwrap_or_default();
        let _ = writeln!(io::stderr(), "scan worker: panic at {place}");
    }));
    confine::die_with_parent()?;
    confine::limit_resources()?;
    let socket = UnixStream::from(io::stdin().as_fd().try_clone_to_owned()?);
    serve(socket, confine::lock_in)
}

/// Learns, locks the process in by `confine`, and looks at mails until the other end closes.
///
/// # Errors
///
/// Why it ended, unless the other end closed between two mails.
pub fn serve(
    socket: UnixStream,
    confine: impl FnOnce() -> Result<confine::Confined, confine::ConfineError>,
) -> Result<(), WorkerError> {
    let mut reader = BufReader::with_capacity(READ_BYTES, &socket);
    let knowledge: Knowledge = receive(&mut reader)?;
    let rules = CompiledRules::from_bytes(&knowledge.rules, knowledge.whole_because.clone())
        .map_err(WorkerError::Rules)?;
    let mut analyzer = Analyzer::new(knowledge.engines(&rules), knowledge.limits.clone());
    // The rule engine starts a thread with its first scan, which a locked-in process could not.
    let unlimited: unpack::Stop = Arc::new(|| false);
    analyzer.analyze(b"warm", Export::Nothing, &unlimited, &mut |_, _, _| {});
    let takes_windows = analyzer.takes_windows();
    send(&socket, &Answer::Ready(confine()?), &[])?;
    loop {
        let request = match receive(&mut reader) {
            Err(WorkerError::Socket(error)) if error.kind() == io::ErrorKind::UnexpectedEof => {
                return Ok(());
            }
            request => request?,
        };
        let Request::Scan { bytes, export, time } = request;
        let started = now();
        let stop: unpack::Stop = Arc::new(move || now().saturating_duration_since(started) >= time);
        let mut failed = None;
        let mut hand_out = |part, file_name: Option<&str>, bytes: &[u8]| {
            let file_name = file_name.map(str::to_owned);
            let object = Answer::Object { part, file_name, bytes: bytes.len() as u64 };
            if failed.is_none() {
                failed = send(&socket, &object, bytes).err();
            }
        };
        let mut stretches = Stretches::new(&mut reader, &socket, bytes);
        let analysis = if bytes <= HELD_BYTES_MAX {
            let mail = stretches.take_sent()?;
            analyzer.analyze(&mail, export, &stop, &mut hand_out)
        } else if takes_windows {
            analyzer.analyze_source(&mut stretches, export, &stop, &mut hand_out)
        } else {
            let mail = stretches.take_all()?;
            analyzer.analyze(&mail, export, &stop, &mut hand_out)
        };
        stretches.finish()?;
        if let Some(error) = failed {
            return Err(error);
        }
        send(&socket, &Answer::Done(Box::new(analysis)), &[])?;
    }
}

/// Buffer for requests; a mail is read past it.
const READ_BYTES: usize = 64 * 1024;

#[allow(clippy::disallowed_methods, reason = "the driver's clock, in a process without a runtime")]
fn now() -> Instant {
    Instant::now()
}

/// Writes a message and the bytes behind it; small ones in one piece.
fn send(
    mut socket: &UnixStream,
    message: &impl Serialize,
    bytes: &[u8],
) -> Result<(), WorkerError> {
    let mut frame = encode(message)?;
    if bytes.len() <= SMALL_BYTES_MAX {
        frame.extend_from_slice(bytes);
        socket.write_all(&frame)?;
    } else {
        socket.write_all(&frame)?;
        socket.write_all(bytes)?;
    }
    Ok(())
}

/// Up to so many bytes leave together with the message before them.
const SMALL_BYTES_MAX: usize = 64 * 1024;

/// Length and body.
fn encode(message: &impl Serialize) -> Result<Vec<u8>, postcard::Error> {
    let mut frame = vec![0; LENGTH_BYTES];
    frame = postcard::to_extend(message, frame)?;
    let length = u32::try_from(frame.len() - LENGTH_BYTES)
        .ok()
        .filter(|_| frame.len() - LENGTH_BYTES <= MESSAGE_BYTES_MAX)
        .ok_or(postcard::Error::SerializeBufferFull)?;
    frame[..LENGTH_BYTES].copy_from_slice(&length.to_le_bytes());
    Ok(frame)
}

/// Of the length before each message.
const LENGTH_BYTES: usize = size_of::<u32>();

fn receive<T: DeserializeOwned>(reader: &mut impl Read) -> Result<T, WorkerError> {
    let mut length = [0; LENGTH_BYTES];
    reader.read_exact(&mut length)?;
    let length = checked_length(length, MESSAGE_BYTES_MAX)?;
    let mut body = vec![0; length];
    reader.read_exact(&mut body)?;
    Ok(decode(&body)?)
}

fn checked_length(length: [u8; LENGTH_BYTES], bytes_max: usize) -> io::Result<usize> {
    usize::try_from(u32::from_le_bytes(length))
        .ok()
        .filter(|length| *length <= bytes_max)
        .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "a message over the limit"))
}

fn decode<T: DeserializeOwned>(body: &[u8]) -> Result<T, postcard::Error> {
    match postcard::take_from_bytes(body)? {
        (message, []) => Ok(message),
        _ => Err(postcard::Error::DeserializeBadEncoding),
    }
}

#[cfg(test)]
pub(crate) mod tests;
