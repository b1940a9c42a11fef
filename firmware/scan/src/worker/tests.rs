//! Workers as threads: what they are told, what they answer, and what becomes of a mail whose worker
//! ends. (That processes are locked in is tested with the programs that have the verb.)

use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use bytes::Bytes;
use spool::{Spooled, Spooler};
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::pool::{
    ExportedObject, GRACE, Isolation, PoolError, QUEUE_TIME_MAX, START_TIME_MAX, Start, TRIES_MAX,
    Workers,
};
use super::*;
use crate::tests::{eicar, encode_base64};

fn knowledge(rules: &[(&str, &str)], block: &[&str]) -> Knowledge {
    let rules: Vec<_> =
        rules.iter().map(|(name, text)| ((*name).to_owned(), (*text).to_owned())).collect();
    let rules = CompiledRules::from_sources(&rules).unwrap();
    let block: Vec<_> = block.iter().map(|entry| (*entry).to_owned()).collect();
    let block = BlockRules::parse(&block).unwrap();
    Knowledge::new(&rules, HashLists::default(), block, Limits::default()).unwrap()
}

fn workers(count: usize) -> Workers {
    Workers::new(Isolation::Thread, count, &knowledge(&[], &[])).unwrap()
}

async fn scan(workers: &Workers, mail: &[u8], export: Export) -> (Analysis, Vec<ExportedObject>) {
    let mail = Spooled::from(Bytes::copy_from_slice(mail));
    let (exported, mut objects) = mpsc::channel(16);
    let time = Duration::from_secs(30);
    let spooler = Spooler::default();
    let scan = workers.scan(&mail, export, time, &spooler, &exported);
    let analysis = scan.await.unwrap();
    drop(exported);
    let mut all = Vec::new();
    while let Some(object) = objects.recv().await {
        all.push(object);
    }
    (analysis, all)
}

fn attachment(name: &str, bytes: &[u8]) -> Vec<u8> {
    format!(
        "Received: x\r\nContent-Type: multipart/mixed; boundary=B\r\n\r\n\
         --B\r\n\r\nhello\r\n--B\r\n\
         Content-Type: application/octet-stream\r\n\
         Content-Disposition: attachment; filename={name}\r\n\
         Content-Transfer-Encoding: base64\r\n\r\n{}\r\n--B--\r\n",
        encode_base64(bytes)
    )
    .into_bytes()
}

#[tokio::test]
async fn a_worker_serves_one_mail_after_the_other() {
    let workers = workers(1);
    for _ in 0..3 {
        let (analysis, _) = scan(&workers, b"Subject: x\r\n\r\nhello\r\n", Export::Nothing).await;
        assert_eq!((analysis.found, analysis.parts), (None, 1));
        assert!(analysis.unscannable.is_empty());
        let (analysis, _) = scan(&workers, &eicar(), Export::Nothing).await;
        assert_eq!(analysis.found.unwrap().name, "EICAR-Test-File");
    }
    assert_eq!((workers.numbers().started, workers.numbers().died), (1, 0));
}

#[tokio::test]
async fn objects_are_handed_out_as_far_as_they_are_asked_for() {
    let workers = workers(1);
    let mail = attachment("a.bin", b"some bytes");
    assert!(scan(&workers, &mail, Export::Nothing).await.1.is_empty());
    // Base64 in its simplest form: every engine that reads mail decodes it so.
    assert!(scan(&workers, &mail, Export::Odd).await.1.is_empty());
    let (_, objects) = scan(&workers, &mail, Export::Parts).await;
    let bytes = |at: usize| objects[at].content.in_memory().unwrap().to_vec();
    assert_eq!((bytes(0), bytes(1)), (b"hello".to_vec(), b"some bytes".to_vec()));
    assert_eq!((objects[1].part, objects[1].file_name.as_deref()), (2, Some("a.bin")));
}

/// A text, and an attachment of that many bytes which ends in the test file.
fn large(bytes: usize) -> Vec<u8> {
    let filler = b"The quick brown fox. ".iter().copied().cycle().take(bytes);
    attachment("a.bin", &filler.chain(eicar()).collect::<Vec<u8>>())
}

#[tokio::test]
async fn a_mail_that_is_not_held_is_looked_at_all_the_same() {
    let needs_whole = "rule whole { strings: $a = \"quick\" condition: $a and filesize < 1KB }";
    for rules in [&[][..], &[("a.yar", needs_whole)]] {
        let workers = Workers::new(Isolation::Thread, 1, &knowledge(rules, &[".exe"])).unwrap();
        let mail = large(3_000_000);
        assert!(mail.len() as u64 > 2 * HELD_BYTES_MAX);
        for _ in 0..2 {
            let (analysis, _) = scan(&workers, &mail, Export::Nothing).await;
            let found = analysis.found.unwrap();
            assert_eq!((found.name.as_str(), found.part), ("EICAR-Test-File", 2));
            let (analysis, _) =
                scan(&workers, b"Subject: x\r\n\r\nhello\r\n", Export::Nothing).await;
            assert_eq!((analysis.found, analysis.parts), (None, 1));
        }
        let mut clean = mail;
        let end = clean.len() - 200;
        clean.truncate(end);
        let (analysis, objects) = scan(&workers, &clean, Export::Parts).await;
        assert_eq!((analysis.found, analysis.objects), (None, 3));
        let bytes: u64 = objects.iter().map(|object| object.content.len()).sum();
        assert!(bytes > 2_900_000, "{bytes}");
        assert_eq!((workers.numbers().started, workers.numbers().died), (1, 0));
    }
}

#[tokio::test]
async fn new_knowledge_reaches_the_next_mail() {
    let workers = workers(1);
    let mail = b"Subject: x\r\n\r\na cat\r\n";
    assert_eq!(scan(&workers, mail, Export::Nothing).await.0.found, None);
    let rule = "rule cat { strings: $a = \"a cat\" condition: $a }";
    workers.learn(&knowledge(&[("cat.yar", rule)], &[])).unwrap();
    assert_eq!(scan(&workers, mail, Export::Nothing).await.0.found.unwrap().name, "cat");
    workers.learn(&knowledge(&[], &[".exe", "elf"])).unwrap();
    assert_eq!(scan(&workers, mail, Export::Nothing).await.0.found, None);
    for (name, bytes) in [("a.exe", &b"x"[..]), ("a.bin", b"\x7fELF\x02\x01\x01")] {
        let blocked = scan(&workers, &attachment(name, bytes), Export::Nothing).await.0.blocked;
        let blocked = blocked.unwrap_or_else(|| panic!("{name}"));
        assert_eq!((blocked.engine.as_str(), blocked.part), (crate::BLOCK, 2));
        assert!(blocked.range.is_some());
    }
    assert_eq!(workers.numbers().started, 3);
}

#[tokio::test]
async fn many_mails_share_few_workers() {
    let workers = workers(2);
    let mut scans = tokio::task::JoinSet::new();
    for number in 0..20 {
        let workers = workers.clone();
        scans.spawn(async move {
            let mail = if number % 2 == 0 { eicar() } else { b"hello".to_vec() };
            (number, scan(&workers, &mail, Export::Nothing).await.0.found.is_some())
        });
    }
    while let Some(done) = scans.join_next().await {
        let (number, found) = done.unwrap();
        assert_eq!(found, number % 2 == 0);
    }
    assert!(workers.numbers().started <= 2);
}

#[tokio::test(start_paused = true)]
async fn a_mail_does_not_wait_for_ever_for_a_worker() {
    let workers = workers(1);
    let mail = Spooled::from(Bytes::from_static(b"hello"));
    let (exported, _objects) = mpsc::channel(1);
    let _all = workers.turns().acquire_many(1).await.unwrap();
    let began = Instant::now();
    let (spooler, time) = (Spooler::default(), Duration::from_secs(30));
    let busy = workers.scan(&mail, Export::Nothing, time, &spooler, &exported).await;
    assert!(matches!(busy, Err(PoolError::Busy)));
    assert_eq!(began.elapsed(), QUEUE_TIME_MAX);
}

/// Workers that are no more than this.
fn odd_workers(start: Start) -> Workers {
    Workers::with(Isolation::Thread, start, 1, &knowledge(&[], &[])).unwrap()
}

async fn scan_fails(workers: &Workers, time: Duration) -> PoolError {
    let mail = Spooled::from(Bytes::from_static(b"hello"));
    let (exported, _objects) = mpsc::channel(1);
    let spooler = Spooler::default();
    workers.scan(&mail, Export::Nothing, time, &spooler, &exported).await.unwrap_err()
}

/// Takes what the daemon says of its rules, and answers that it is ready.
fn get_ready(mut socket: &UnixStream) -> Result<(), WorkerError> {
    let _: Knowledge = receive(&mut socket)?;
    let confined = confine::Confined { landlock: false, seccomp: false };
    socket.write_all(&encode(&Answer::Ready(confined))?)?;
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn a_worker_that_does_not_start_is_given_up_and_another_is_tried() {
    // The socket stays open, and nobody reads it.
    let workers = odd_workers(|socket| {
        std::mem::forget(socket);
        Ok(None)
    });
    let began = Instant::now();
    let error = scan_fails(&workers, Duration::from_secs(1_000)).await;
    assert!(matches!(&error, PoolError::Start(why) if why.kind() == io::ErrorKind::TimedOut));
    assert_eq!(began.elapsed(), START_TIME_MAX * TRIES_MAX);
    assert_eq!(workers.numbers().started, u64::from(TRIES_MAX));
}

/// Workers that read a mail, for which that is too much.
pub(crate) fn dying_workers() -> Workers {
    odd_workers(|socket| {
        std::thread::spawn(move || {
            get_ready(&socket)?;
            receive::<Request>(&mut &socket).map(drop)
        });
        Ok(None)
    })
}

#[tokio::test]
async fn a_mail_whose_worker_dies_twice_is_given_up() {
    let workers = dying_workers();
    let error = scan_fails(&workers, Duration::from_secs(1_000)).await;
    assert!(matches!(error, PoolError::Died(_)), "{error}");
    let numbers = workers.numbers();
    let tries = u64::from(TRIES_MAX);
    assert_eq!((numbers.started, numbers.died), (tries, tries));
}

#[tokio::test]
async fn a_worker_that_takes_too_long_is_stopped_a_moment_after_the_time_of_its_mail() {
    let workers = odd_workers(|socket| {
        std::thread::spawn(move || {
            get_ready(&socket)?;
            // Ends when the daemon closes the socket: then nothing more comes.
            io::copy(&mut &socket, &mut io::sink())?;
            Ok::<_, WorkerError>(())
        });
        Ok(None)
    });
    workers.warm_up().await;
    tokio::time::pause();
    let (began, time) = (Instant::now(), Duration::from_secs(30));
    let error = scan_fails(&workers, time).await;
    assert!(matches!(error, PoolError::TimedOut), "{error}");
    // Timers go by whole milliseconds.
    let late = began.elapsed().saturating_sub(time + GRACE);
    assert!(began.elapsed() >= time + GRACE && late < Duration::from_millis(2), "{late:?}");
    assert_eq!((workers.numbers().started, workers.numbers().died), (1, 1));
}

/// The first worker never comes to an end with its mail; those after it are as they should be.
fn first_hangs() -> Workers {
    static STARTED: AtomicU32 = AtomicU32::new(0);
    odd_workers(|socket| {
        let is_first = STARTED.fetch_add(1, Ordering::Relaxed) == 0;
        std::thread::spawn(move || {
            if is_first {
                get_ready(&socket)?;
                io::copy(&mut &socket, &mut io::sink())?;
                return Ok(());
            }
            serve(socket, || Ok(confine::Confined { landlock: false, seccomp: false }))
        });
        Ok(None)
    })
}

#[tokio::test]
async fn a_mail_that_takes_long_does_not_hold_up_the_next_ones() {
    let workers = first_hangs();
    let long = tokio::spawn({
        let workers = workers.clone();
        async move { scan_fails(&workers, Duration::from_secs(1_000)).await }
    });
    while workers.numbers().started == 0 {
        tokio::task::yield_now().await;
    }
    // One turn for all, which is lent while the first mail has it.
    for _ in 0..3 {
        scan(&workers, b"Subject: x\r\n\r\nhello\r\n", Export::Nothing).await;
    }
    assert_eq!((workers.numbers().started, long.is_finished()), (2, false));
    // Lent to small mails only.
    let large =
        Spooled::from(Bytes::from(vec![b'x'; usize::try_from(HELD_BYTES_MAX).unwrap() + 1]));
    let (exported, _objects) = mpsc::channel(1);
    let (spooler, time) = (Spooler::default(), Duration::from_secs(30));
    let waits = workers.scan(&large, Export::Nothing, time, &spooler, &exported);
    tokio::time::timeout(Duration::from_millis(100), waits).await.unwrap_err();
    long.abort();
    assert!(long.await.unwrap_err().is_cancelled());
    // Nobody has a turn now: there is the one, and no other.
    assert_eq!(workers.turns().available_permits(), 1);
    let small = workers.turns().try_acquire().unwrap();
    let busy = Duration::from_millis(100);
    let waits = scan(&workers, b"Subject: x\r\n\r\nhello\r\n", Export::Nothing);
    tokio::time::timeout(busy, waits).await.unwrap_err();
    drop(small);
}

#[test]
fn messages_that_are_none_are_refused() {
    let mut frame =
        encode(&Request::Scan { bytes: 1, export: Export::Odd, time: Duration::from_secs(1) })
            .unwrap();
    assert!(receive::<Request>(&mut frame.as_slice()).is_ok());
    frame.push(0);
    let length = u32::try_from(frame.len() - LENGTH_BYTES).unwrap();
    frame[..LENGTH_BYTES].copy_from_slice(&length.to_le_bytes());
    assert!(receive::<Request>(&mut frame.as_slice()).is_err(), "bytes behind the message");
    let too_long = u32::try_from(MESSAGE_BYTES_MAX + 1).unwrap().to_le_bytes();
    assert!(receive::<Request>(&mut too_long.as_slice()).is_err());
}

#[test]
fn a_worker_ends_when_the_daemon_does() {
    let (daemon, worker) = UnixStream::pair().unwrap();
    let confined = confine::Confined { landlock: false, seccomp: false };
    let running = std::thread::spawn(move || serve(worker, || Ok(confined)));
    let mut writer = daemon.try_clone().unwrap();
    writer.write_all(&encode(&knowledge(&[], &[])).unwrap()).unwrap();
    let mut reader = BufReader::new(daemon);
    assert!(matches!(receive::<Answer>(&mut reader).unwrap(), Answer::Ready(_)));
    drop((reader, writer));
    running.join().unwrap().unwrap();
}
