//! What the adapter costs beside feeding `clamd` directly: `cargo run --release -p scan --example
//! measure_clamd ADDRESS [CONNECTIONS]`, with the address as in the settings.
//!
//! The direct way is threads that write `zINSTREAM` to blocking sockets in `IDSESSION`, each object in one
//! write, and read the answer. Both ways have the same number of connections, and take turns. Processor
//! time is this program's own, without clamd's: it says more than the rate where others use the machine.
#![allow(
    clippy::print_stdout,
    clippy::disallowed_methods,
    reason = "a program for a terminal that measures time"
)]

use std::error::Error;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use scan::engine::clamd::{ClamdEngine, ClamdSettings};
use scan::{Engine, EngineOutcome, Object};
use spool::{Spooled, Spooler};

/// How often each way is measured; the best counts.
const TURNS: usize = 5;
/// Objects of each size, and how many in a turn.
const LOADS: [(&str, usize, usize); 2] = [("10 KB", 10_000, 2_000), ("1 MB", 1_000_000, 100)];
/// Most bytes in one chunk; larger objects go in several writes.
const CHUNK_BYTES: usize = 64 * 1024;

type Failure = Box<dyn Error + Send + Sync>;

#[tokio::main]
async fn main() -> Result<(), Failure> {
    let mut arguments = std::env::args().skip(1);
    let address = arguments.next().ok_or("which clamd? host:port, or unix:/path")?;
    let connections = arguments.next().map_or(Ok(4), |number| number.parse())?;
    let settings = ClamdSettings { connections_max: connections, ..ClamdSettings::default() };
    let engine = Arc::new(ClamdEngine::new(&[&address], settings)?);
    for (name, bytes, objects) in LOADS {
        let content = Arc::new(text(bytes));
        let (mut direct, mut adapter) = (Duration::MAX, Duration::MAX);
        let mut ticks = [0; 2];
        for _ in 0..TURNS {
            let before = cpu_ticks()?;
            direct = direct.min(feed_directly(&address, connections, &content, objects).await?);
            let between = cpu_ticks()?;
            adapter = adapter.min(ask_engine(&engine, connections, &content, objects).await?);
            ticks = [ticks[0] + between - before, ticks[1] + cpu_ticks()? - between];
        }
        let rate =
            |time: Duration| f64::from(u32::try_from(objects).unwrap_or(0)) / time.as_secs_f64();
        // A tick is 10 ms (`CONFIG_HZ` does not show in /proc).
        let each = |ticks: u32| {
            f64::from(ticks) * 10_000.0 / f64::from(u32::try_from(objects * TURNS).unwrap_or(1))
        };
        println!(
            "{name}, {connections} connections: directly {:.0} objects/s, through the adapter {:.0}: {:.0} %; \
             processor time {:.0} and {:.0} us an object",
            rate(direct),
            rate(adapter),
            100.0 * rate(adapter) / rate(direct),
            each(ticks[0]),
            each(ticks[1]),
        );
    }
    Ok(())
}

/// What this process has used so far, of its own and of the kernel's (proc(5), fields 14 and 15).
fn cpu_ticks() -> Result<u32, Failure> {
    let stat = std::fs::read_to_string("/proc/self/stat")?;
    let fields = stat.rsplit(')').next().unwrap_or_default();
    Ok(fields
        .split_whitespace()
        .skip(11)
        .take(2)
        .filter_map(|ticks| ticks.parse::<u32>().ok())
        .sum())
}

/// Lines that no signature knows.
fn text(bytes: usize) -> Vec<u8> {
    b"Nothing to see here, just a line of a letter.\r\n"
        .iter()
        .copied()
        .cycle()
        .take(bytes)
        .collect()
}

async fn ask_engine(
    engine: &Arc<ClamdEngine>,
    connections: usize,
    content: &[u8],
    objects: usize,
) -> Result<Duration, Failure> {
    // As the mail pipeline has it: what is large waits in a sealed file.
    let content: Spooled = if content.len() <= CHUNK_BYTES {
        Bytes::copy_from_slice(content).into()
    } else {
        let mut spool = Spooler::default().open();
        spool.write(content)?;
        spool.finish()
    };
    let started = Instant::now();
    let mut tasks = tokio::task::JoinSet::new();
    for _ in 0..connections {
        let (engine, content) = (Arc::clone(engine), content.clone());
        tasks.spawn(async move {
            for _ in 0..objects / connections {
                let object = Object { part: 1, content: content.clone(), file_name: None };
                let outcome = engine.scan(object).await;
                if outcome != EngineOutcome::Clean {
                    return Err(Failure::from(format!("{outcome:?}")));
                }
            }
            Ok(())
        });
    }
    while let Some(done) = tasks.join_next().await {
        done??;
    }
    Ok(started.elapsed())
}

async fn feed_directly(
    address: &str,
    connections: usize,
    content: &Arc<Vec<u8>>,
    objects: usize,
) -> Result<Duration, Failure> {
    let mut threads = tokio::task::JoinSet::new();
    let started = Instant::now();
    for _ in 0..connections {
        let (address, content) = (address.to_owned(), Arc::clone(content));
        threads.spawn_blocking(move || match address.strip_prefix("unix:") {
            Some(path) => feed(UnixStream::connect(path)?, &content, objects / connections),
            None => {
                let stream = TcpStream::connect(address)?;
                stream.set_nodelay(true)?;
                feed(stream, &content, objects / connections)
            }
        });
    }
    while let Some(done) = threads.join_next().await {
        done??;
    }
    Ok(started.elapsed())
}

fn feed(mut stream: impl Read + Write, content: &[u8], objects: usize) -> Result<(), Failure> {
    let mut buffer = Vec::new();
    let mut reply = [0; 512];
    stream.write_all(b"zIDSESSION\0")?;
    for _ in 0..objects {
        buffer.clear();
        buffer.extend_from_slice(b"zINSTREAM\0");
        for chunk in content.chunks(CHUNK_BYTES) {
            buffer.extend_from_slice(&u32::try_from(chunk.len())?.to_be_bytes());
            buffer.extend_from_slice(chunk);
            if buffer.len() >= CHUNK_BYTES {
                stream.write_all(&buffer)?;
                buffer.clear();
            }
        }
        buffer.extend_from_slice(&[0; 4]);
        stream.write_all(&buffer)?;
        let count = stream.read(&mut reply)?;
        let reply = reply.get(..count).unwrap_or_default();
        if !reply.ends_with(b": stream: OK\0") {
            return Err(String::from_utf8_lossy(reply).into());
        }
    }
    Ok(())
}
