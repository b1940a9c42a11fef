use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use spool::Spooler;
use tokio::net::TcpListener;

use super::*;

/// What a fake server does with an object.
#[derive(Debug, Clone, Copy)]
enum Act {
    Reply(&'static str),
    /// Answers before it has read anything, and closes.
    EarlyReply(&'static str),
    /// Says that all is well before it has read anything, and then reads nothing.
    EarlyOk,
    /// Without the number of the command.
    BareReply(&'static str),
    /// Clean, and this is its version.
    Version(&'static str),
    /// Closes where an answer is due, and knows no PING.
    NoPong,
    Close,
    CloseInside,
    Endless,
    /// Answers a PING only.
    Stall,
    /// Answers nothing at all.
    Mute,
    /// Ends the session behind each answer, with these words.
    EndsSession(&'static str),
}

/// A server that acts like this on every object; counts connections that ask about one.
async fn fake(act: Act) -> (String, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    fake_at(listener, act)
}

fn fake_at(listener: TcpListener, act: Act) -> (String, Arc<AtomicUsize>) {
    let address = listener.local_addr().unwrap().to_string();
    let connections = Arc::new(AtomicUsize::new(0));
    let counter = Arc::clone(&connections);
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(serve(stream, act, Arc::clone(&counter)));
        }
    });
    (address, connections)
}

async fn command(stream: &mut TcpStream) -> io::Result<Vec<u8>> {
    let mut command = Vec::new();
    loop {
        match stream.read_u8().await? {
            0 => return Ok(command),
            byte => command.push(byte),
        }
    }
}

async fn serve(mut stream: TcpStream, act: Act, connections: Arc<AtomicUsize>) -> io::Result<()> {
    assert_eq!(command(&mut stream).await?, b"zIDSESSION");
    let mut is_counted = false;
    for number in 1.. {
        match command(&mut stream).await?.as_slice() {
            b"zPING" => {
                let pong = match act {
                    Act::Mute => std::future::pending().await,
                    Act::NoPong => "WHAT?",
                    _ => "PONG",
                };
                stream.write_all(format!("{number}: {pong}\0").as_bytes()).await?;
                continue;
            }
            b"zVERSION" => {
                let version = if let Act::Version(version) = act { version } else { "ClamAV 1" };
                stream.write_all(format!("{number}: {version}\0").as_bytes()).await?;
                continue;
            }
            command => assert_eq!(command, b"zINSTREAM"),
        }
        if !is_counted {
            connections.fetch_add(1, Ordering::Relaxed);
            is_counted = true;
        }
        match act {
            Act::EarlyReply(reply) => {
                stream.write_all(format!("{reply}\0").as_bytes()).await?;
                return stream.shutdown().await;
            }
            Act::EarlyOk => {
                stream.write_all(b"1: stream: OK\0").await?;
                return std::future::pending().await;
            }
            Act::CloseInside => return Ok(()),
            _ => {}
        }
        loop {
            let length = stream.read_u32().await?;
            if length == 0 {
                break;
            }
            assert!(usize::try_from(length).unwrap() <= CHUNK_BYTES);
            let mut chunk = vec![0; length.try_into().unwrap()];
            stream.read_exact(&mut chunk).await?;
        }
        match act {
            Act::Reply(reply) => {
                stream.write_all(format!("{number}: {reply}\0").as_bytes()).await?;
            }
            Act::Version(_) => {
                stream.write_all(format!("{number}: stream: OK\0").as_bytes()).await?;
            }
            Act::BareReply(reply) => stream.write_all(format!("{reply}\0").as_bytes()).await?,
            Act::EndsSession(words) => {
                let reply = format!("{number}: stream: OK\0{words}");
                stream.write_all(reply.as_bytes()).await?;
                return Ok(());
            }
            Act::Endless => stream.write_all(&[b'x'; 2 * REPLY_BYTES_MAX]).await?,
            Act::Stall | Act::Mute => std::future::pending().await,
            _ => return Ok(()),
        }
    }
    Ok(())
}

async fn scan(engine: &ClamdEngine, bytes: Vec<u8>) -> EngineOutcome {
    engine.scan(Object { part: 0, content: Bytes::from(bytes).into(), file_name: None }).await
}

fn engine(addresses: &[&str]) -> ClamdEngine {
    let settings =
        ClamdSettings { answer_time_max: Duration::from_secs(5), ..ClamdSettings::default() };
    ClamdEngine::new(addresses, settings).unwrap()
}

/// Gives up soon, so that what gives no answer costs the test little.
fn quick() -> ClamdSettings {
    ClamdSettings {
        connect_time_max: Duration::from_millis(20),
        answer_time_max: Duration::from_millis(50),
        probe_every: Duration::ZERO,
        ..ClamdSettings::default()
    }
}

async fn outcome(act: Act) -> EngineOutcome {
    let (address, _) = fake(act).await;
    scan(&engine(&[&address]), vec![b'x'; 3 * CHUNK_BYTES + 1]).await
}

#[test]
fn addresses() {
    for good in ["127.0.0.1:3310", "scanner.example:3310", "[::1]:3310", "unix:/run/clamd.sock"] {
        assert_eq!(good.parse::<Address>().unwrap().to_string(), good);
    }
    for bad in [
        "",
        "127.0.0.1",
        "host:",
        ":3310",
        "host:0",
        "host:99999",
        "unix:relative",
        "a b:1",
        "[::1:3310",
        "[host]:3310",
        "::1:3310",
        "ho\0st:1",
        "unix:/a\0b",
        &"h".repeat(400),
    ] {
        assert!(bad.parse::<Address>().is_err(), "{bad}");
    }
}

#[tokio::test]
async fn what_is_called_clean_before_it_was_sent_is_not_clean() {
    const MORE_THAN_SOCKETS_HOLD_BYTES: usize = 32 * 1024 * 1024;
    let (address, _) = fake(Act::EarlyOk).await;
    let outcome = scan(&engine(&[&address]), vec![b'x'; MORE_THAN_SOCKETS_HOLD_BYTES]).await;
    let EngineOutcome::Failed(why) = outcome else { panic!("{outcome:?}") };
    assert!(why.contains("it said OK before it had all of it"), "{why}");
}

#[tokio::test]
async fn answers_are_read_as_clamd_means_them() {
    let limit = |why: &str| EngineOutcome::Limit(why.to_owned());
    for (reply, meaning) in [
        ("stream: OK", EngineOutcome::Clean),
        ("stream: Eicar\x1b-Test FOUND", EngineOutcome::Found("Eicar?-Test".to_owned())),
        (
            "stream: Heuristics.Limits.Exceeded.MaxFileSize FOUND",
            limit("Heuristics.Limits.Exceeded.MaxFileSize"),
        ),
        ("stream: Heuristics.Encrypted.Zip FOUND", EngineOutcome::Encrypted),
        ("INSTREAM size limit exceeded. ERROR", EngineOutcome::OverSize),
        ("stream: Time limit reached ERROR", limit("stream: Time limit reached ERROR")),
    ] {
        assert_eq!(outcome(Act::Reply(reply)).await, meaning, "{reply}");
    }
}

#[tokio::test]
async fn faults_are_failures_never_clean() {
    for act in [
        Act::Reply("stream: Can't allocate memory ERROR"),
        Act::Reply("stream:OK"),
        Act::Reply("OK"),
        Act::Reply("stream: FOUND"),
        Act::Reply(""),
        Act::Reply("7: stream: OK"),
        Act::BareReply("stream: OK"),
        Act::BareReply("7: stream: OK"),
        Act::Close,
        Act::CloseInside,
        Act::Endless,
    ] {
        let outcome = outcome(act).await;
        assert!(matches!(outcome, EngineOutcome::Failed(_)), "{act:?}: {outcome:?}");
    }
}

#[tokio::test]
async fn an_early_answer_is_read_though_sending_fails() {
    let (address, _) = fake(Act::EarlyReply("INSTREAM size limit exceeded. ERROR")).await;
    let outcome = scan(&engine(&[&address]), vec![b'x'; 32 * 1024 * 1024]).await;
    // A reset may overtake the answer; what it must not be is clean.
    assert!(matches!(outcome, EngineOutcome::OverSize | EngineOutcome::Failed(_)), "{outcome:?}");
    let (address, _) = fake(Act::EarlyReply("INSTREAM size limit exceeded. ERROR")).await;
    let outcome = scan(&engine(&[&address]), b"small".to_vec()).await;
    assert_eq!(outcome, EngineOutcome::OverSize);
}

#[tokio::test]
async fn a_slow_server_has_failed_in_time() {
    let (address, _) = fake(Act::Stall).await;
    let settings =
        ClamdSettings { answer_time_max: Duration::from_millis(50), ..ClamdSettings::default() };
    let engine = ClamdEngine::new(&[address], settings).unwrap();
    let outcome = scan(&engine, b"x".to_vec()).await;
    let EngineOutcome::Failed(why) = outcome else { panic!("{outcome:?}") };
    assert!(why.ends_with("no answer in time"), "{why}");
}

#[tokio::test]
async fn a_server_that_is_down_is_replaced_by_another() {
    let gone = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let down = gone.local_addr().unwrap().to_string();
    drop(gone);
    let outcome = scan(&engine(&[&down]), b"x".to_vec()).await;
    assert!(matches!(&outcome, EngineOutcome::Failed(why) if why.contains("connect")));
    for act in [Act::Reply("stream: OK"), Act::Reply("stream: X FOUND")] {
        let (up, _) = fake(act).await;
        let engine = engine(&[&down, "unix:/nonexistent/clamd.sock", &up]);
        // Only one other is tried: with two of three down this may fail, but never be clean by mistake.
        let outcome = scan(&engine, b"x".to_vec()).await;
        assert!(matches!(outcome, EngineOutcome::Failed(_)), "{outcome:?}");
    }
    let (up, _) = fake(Act::Reply("stream: X FOUND")).await;
    let outcome = scan(&engine(&[&down, &up]), b"x".to_vec()).await;
    assert_eq!(outcome, EngineOutcome::Found("X".to_owned()));
}

#[tokio::test]
async fn nobody_to_ask_is_a_failure() {
    let outcome = scan(&engine(&[]), b"x".to_vec()).await;
    assert_eq!(outcome, EngineOutcome::Failed("no server is up".to_owned()));
}

#[tokio::test]
async fn a_dead_server_is_left_alone_until_a_probe_has_had_an_answer() {
    // It accepts, and says nothing, to probes neither.
    let (address, connections) = fake(Act::Mute).await;
    let engine = ClamdEngine::new(&[&address], quick()).unwrap();
    for round in 0..5 {
        let EngineOutcome::Failed(why) = scan(&engine, b"x".to_vec()).await else { panic!() };
        assert_eq!(why.contains("no server is up"), round > 0, "{why}");
    }
    assert_eq!(connections.load(Ordering::Relaxed), 1);
    // Nobody listens; then somebody does.
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    drop(listener);
    // Patient with an answer: only the connection fails here.
    let settings = ClamdSettings { probe_every: Duration::ZERO, ..ClamdSettings::default() };
    let engine = ClamdEngine::new(&[address.to_string()], settings).unwrap();
    assert!(matches!(scan(&engine, b"x".to_vec()).await, EngineOutcome::Failed(_)));
    let (_, connections) =
        fake_at(TcpListener::bind(address).await.unwrap(), Act::Reply("stream: OK"));
    while scan(&engine, b"x".to_vec()).await != EngineOutcome::Clean {
        assert_eq!(connections.load(Ordering::Relaxed), 0, "only probes reach it");
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn trouble_with_one_object_is_no_trouble_with_the_server() {
    let (address, connections) = fake(Act::Reply("stream: Can't read file ERROR")).await;
    let engine = ClamdEngine::new(&[&address], ClamdSettings::default()).unwrap();
    for _ in 0..3 {
        let EngineOutcome::Failed(why) = scan(&engine, b"x".to_vec()).await else { panic!() };
        assert!(why.contains("Can't read file"), "{why}");
    }
    assert_eq!(connections.load(Ordering::Relaxed), 3);
}

#[tokio::test]
async fn a_probe_needs_a_proper_answer() {
    let (address, _) = fake(Act::NoPong).await;
    let protocol = Clamd { address: address.parse().unwrap() };
    let error = protocol.probe(&mut protocol.connect().await.unwrap()).await.unwrap_err();
    assert!(matches!(&error, AskError::Rubbish(what) if what == "WHAT?"), "{error}");
}

#[tokio::test]
async fn other_signatures_make_another_generation() {
    let settings = ClamdSettings { version_every: Duration::ZERO, ..ClamdSettings::default() };
    let (address, _) = fake(Act::Version("ClamAV 1.4.6/27500/Thu Nov 26")).await;
    let engine = ClamdEngine::new(&[&address], settings).unwrap();
    let changed = |before| {
        let engine = &engine;
        async move {
            while engine.generation() == before {
                tokio::task::yield_now().await;
            }
            engine.generation()
        }
    };
    let first = changed(0).await;
    let server = &engine.pool;
    for _ in 0..5 {
        server.note_version(0, "ClamAV 1.4.6/27500/Thu Nov 26");
        assert_eq!(engine.generation(), first, "the same is no change");
    }
    server.note_version(0, "ClamAV 1.4.6/27501/Fri Nov 27");
    assert_ne!(engine.generation(), first);
}

#[tokio::test]
async fn who_does_not_tell_its_version_is_down_before_any_mail_waited() {
    let settings = ClamdSettings { probe_every: Duration::from_secs(3600), ..quick() };
    let (mute, connections) = fake(Act::Mute).await;
    let engine = ClamdEngine::new(&[&mute], settings).unwrap();
    assert_eq!(engine.generation(), 0);
    while !engine.pool.is_down(0) {
        tokio::task::yield_now().await;
    }
    let outcome = scan(&engine, b"x".to_vec()).await;
    assert_eq!(outcome, EngineOutcome::Failed("no server is up".to_owned()));
    assert_eq!(connections.load(Ordering::Relaxed), 0);
}

#[tokio::test]
async fn what_is_in_a_file_is_streamed_from_there() {
    let (address, _) = fake(Act::Reply("stream: OK")).await;
    let engine = engine(&[&address]);
    let spooler = Spooler::default();
    for bytes in [CHUNK_BYTES, CHUNK_BYTES + 1, 5 * CHUNK_BYTES, 5 * CHUNK_BYTES + 7] {
        let mut spool = spooler.open();
        spool.write(&vec![b'x'; bytes]).unwrap();
        let object = Object { part: 0, content: spool.finish(), file_name: None };
        assert_eq!(engine.scan(object).await, EngineOutcome::Clean, "{bytes}");
    }
}

#[test]
fn only_numbered_answers_are_verdicts() {
    assert_eq!(parse(b"3: stream: OK", 3).unwrap(), EngineOutcome::Clean);
    for other in ["stream: OK", "2: stream: OK", "3: stream: OK\n3: x", "3: stream: X FOUND OK"] {
        assert!(parse(other.as_bytes(), 3).is_err(), "{other}");
    }
    // A name that looks like a limit is still a name.
    let named = parse(b"3: stream: INSTREAM size limit exceeded FOUND", 3).unwrap();
    assert!(matches!(named, EngineOutcome::Found(_)), "{named:?}");
}

#[tokio::test]
async fn counts_tell_what_was_asked_and_what_came() {
    let (up, _) = fake(Act::Reply("stream: X FOUND")).await;
    let (ill, _) = fake(Act::Reply("stream: Can't read file ERROR")).await;
    let engine = engine(&[&ill, &up]);
    for _ in 0..4 {
        assert_eq!(scan(&engine, b"x".to_vec()).await, EngineOutcome::Found("X".to_owned()));
    }
    let Counts { asked, found, failed, retried } = engine.counts();
    assert_eq!((asked, found, failed), (4, 4, 0));
    assert_eq!(retried, 2, "they take turns, and one of them fails");
}

#[tokio::test]
async fn sessions_are_used_again() {
    let (address, connections) = fake(Act::Reply("stream: OK")).await;
    let engine = engine(&[&address]);
    for _ in 0..20 {
        assert_eq!(scan(&engine, b"x".to_vec()).await, EngineOutcome::Clean);
    }
    assert_eq!(connections.load(Ordering::Relaxed), 1);
}

#[tokio::test]
async fn a_session_that_ended_meanwhile_is_replaced() {
    for words in ["", "COMMAND READ TIMED OUT\0"] {
        let (address, connections) = fake(Act::EndsSession(words)).await;
        let engine = engine(&[&address]);
        for _ in 0..5 {
            assert_eq!(scan(&engine, b"x".to_vec()).await, EngineOutcome::Clean);
        }
        assert_eq!(connections.load(Ordering::Relaxed), 5);
    }
}

#[tokio::test]
async fn connections_are_bounded() {
    const CONNECTIONS: usize = 3;
    let (address, connections) = fake(Act::Reply("stream: OK")).await;
    let settings = ClamdSettings { connections_max: CONNECTIONS, ..ClamdSettings::default() };
    let engine = Arc::new(ClamdEngine::new(&[address], settings).unwrap());
    let mut jobs = tokio::task::JoinSet::new();
    for _ in 0..100 {
        let engine = Arc::clone(&engine);
        jobs.spawn(async move { scan(&engine, vec![b'x'; 9999]).await });
    }
    while let Some(outcome) = jobs.join_next().await {
        assert_eq!(outcome.unwrap(), EngineOutcome::Clean);
    }
    assert!(connections.load(Ordering::Relaxed) <= CONNECTIONS);
    assert_eq!(engine.pool.outstanding(), [0]);
}

#[tokio::test]
async fn a_number_of_connections_that_is_none_is_the_nearest_that_is_one() {
    let (address, _) = fake(Act::Reply("stream: OK")).await;
    for connections_max in [0, usize::MAX] {
        let settings = ClamdSettings { connections_max, ..ClamdSettings::default() };
        let engine = ClamdEngine::new(&[&address], settings).unwrap();
        assert_eq!(scan(&engine, b"x".to_vec()).await, EngineOutcome::Clean);
    }
}

#[tokio::test]
async fn the_server_with_least_outstanding_is_asked() {
    let (busy, _) = fake(Act::Stall).await;
    let (free, connections) = fake(Act::Reply("stream: OK")).await;
    let engine = Arc::new(engine(&[&busy, &free]));
    let stuck = Arc::clone(&engine);
    let stuck = tokio::spawn(async move { scan(&stuck, vec![b'x'; 100]).await });
    while engine.pool.outstanding()[0] == 0 {
        tokio::task::yield_now().await;
    }
    for _ in 0..5 {
        assert_eq!(scan(&engine, b"x".to_vec()).await, EngineOutcome::Clean);
    }
    assert_eq!(connections.load(Ordering::Relaxed), 1);
    stuck.abort();
}
