//! What scanning costs on this machine: `cargo run --release -p scan --example measure`.
#![allow(
    clippy::print_stdout,
    clippy::disallowed_methods,
    reason = "a program for a terminal that measures time"
)]

use std::time::{Duration, Instant};

use scan::analysis::{LocalEngine, LocalObject};
use scan::local::block::BlockRules;
use scan::local::hashes::HashLists;
use scan::mime::Walker;
use scan::worker::Knowledge;
use scan::worker::pool::{Isolation, Workers};
use scan::yara::{CompiledRules, YaraEngine};
use scan::{Limits, Scanner};
use spool::Spooler;

/// How often the cheap things are done.
const ROUNDS: u32 = 2_000;

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("memory at the start               {}", memory());
    let started = Instant::now();
    let rules = CompiledRules::load(None)?;
    println!("compile the embedded rules       {:>10.1?}", started.elapsed());
    let mut engine = YaraEngine::new(&rules);
    println!("memory with an engine             {}", memory());
    let each = time(ROUNDS, || drop(YaraEngine::new(&rules)));
    println!("set up a YARA-X scanner          {each:>10.1?}");
    let bytes = vec![b'x'; 10 * 1024];
    let object = LocalObject { bytes: &bytes, file_names: &[] };
    let each = time(ROUNDS, || drop(engine.scan(&object)));
    println!("scan 10 KiB, scanner at hand     {each:>10.1?}");

    let limits = Limits::default();
    let (hashes, block) = (HashLists::default(), BlockRules::default());
    let knowledge = Knowledge::new(&rules, hashes, block, limits.clone())?;
    let workers = Workers::new(Isolation::Thread, 2, &knowledge)?;
    let started = Instant::now();
    workers.warm_up().await;
    println!("start two workers                {:>10.1?}", started.elapsed());
    let scanner = Scanner::new(workers, Vec::new(), limits, Spooler::default());

    for (name, mail) in [("10 KiB", mail(10 * 1024)), ("10 MiB", mail(10 * 1024 * 1024))] {
        let rounds = if mail.len() > 1024 * 1024 { 10 } else { ROUNDS };
        let each = time(rounds, || {
            let mut walker = Walker::new(&Limits::default());
            for chunk in mail.chunks(16 * 1024) {
                walker.feed(chunk);
                while walker.poll_event().is_some() {}
            }
            walker.finish();
        });
        println!("walk a mail of {name}            {each:>10.1?}  {:>6.0} MB/s", rate(&mail, each));

        let (started, mut waited) = (Instant::now(), Duration::ZERO);
        for _ in 0..rounds {
            let mut scan = scanner.begin();
            for chunk in mail.chunks(16 * 1024) {
                scan.feed(chunk);
            }
            waited += scan.finish().await.waited;
        }
        let each = started.elapsed() / rounds;
        println!(
            "scan a mail of {name}            {each:>10.1?}  {:>6.0} MB/s, {:.1?} of it after its end",
            rate(&mail, each),
            waited / rounds
        );
    }
    Ok(())
}

fn time(rounds: u32, mut work: impl FnMut()) -> Duration {
    let started = Instant::now();
    for _ in 0..rounds {
        work();
    }
    started.elapsed() / rounds
}

/// Virtual and resident, as the kernel says.
fn memory() -> String {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let wanted =
        status.lines().filter(|line| line.starts_with("VmSize") || line.starts_with("VmRSS"));
    wanted.map(|line| line.replace('\t', " ")).collect::<Vec<_>>().join(", ")
}

/// Megabytes a second.
fn rate(mail: &[u8], each: Duration) -> f64 {
    f64::from(u32::try_from(mail.len()).unwrap_or(u32::MAX)) / each.as_secs_f64() / 1e6
}

/// A text, and an attachment that makes up the rest.
fn mail(bytes: usize) -> Vec<u8> {
    let mut mail = b"Subject: x\r\nContent-Type: multipart/mixed; boundary=BND\r\n\r\n\
        --BND\r\n\r\nhello\r\n--BND\r\nContent-Transfer-Encoding: base64\r\n\r\n"
        .to_vec();
    while mail.len() < bytes {
        mail.extend([b'A'; 76]);
        mail.extend(b"\r\n");
    }
    mail.extend(b"--BND--\r\n");
    mail
}
