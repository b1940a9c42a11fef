use std::sync::Arc;

use bytes::Bytes;
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
    Close,
    CloseInside,
    Endless,
    Stall,
    /// Ends the session behind each answer, with these words.
    EndsSession(&'static str),
}

/// A server that acts like this on every object; counts connections.
async fn fake(act: Act) -> (String, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let connections = Arc::new(AtomicUsize::new(0));
    let counter = Arc::clone(&connections);
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            counter.fetch_add(1, Ordering::Relaxed);
            tokio::spawn(serve(stream, act));
        }
    });
    (address, connections)
}

async fn serve(mut stream: TcpStream, act: Act) -> io::Result<()> {
    let mut command = [0; 11];
    stream.read_exact(&mut command).await?;
    assert_eq!(&command, b"zIDSESSION\0");
    for number in 1.. {
        if let Act::EarlyReply(reply) = act {
            stream.write_all(format!("{reply}\0").as_bytes()).await?;
            return stream.shutdown().await;
        }
        if matches!(act, Act::EarlyOk) {
            stream.write_all(b"1: stream: OK\0").await?;
            return std::future::pending().await;
        }
        if matches!(act, Act::CloseInside) {
            return Ok(());
        }
        let mut command = [0; 10];
        stream.read_exact(&mut command).await?;
        assert_eq!(&command, b"zINSTREAM\0");
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
            Act::EndsSession(words) => {
                let reply = format!("{number}: stream: OK\0{words}");
                stream.write_all(reply.as_bytes()).await?;
                return Ok(());
            }
            Act::Endless => stream.write_all(&[b'x'; 2 * REPLY_BYTES_MAX]).await?,
            Act::Stall => std::future::pending().await,
            Act::Close | Act::CloseInside | Act::EarlyReply(_) | Act::EarlyOk => return Ok(()),
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

async fn outcome(act: Act) -> EngineOutcome {
    let (address, _) = fake(act).await;
    scan(&engine(&[&address]), vec![b'x'; 3 * CHUNK_BYTES + 1]).await
}

#[test]
fn addresses() {
    for good in ["127.0.0.1:3310", "scanner.example:3310", "[::1]:3310", "unix:/run/clamd.sock"] {
        assert_eq!(good.parse::<Address>().unwrap().to_string(), good);
    }
    for bad in ["", "127.0.0.1", "host:", ":3310", "host:0", "host:99999", "unix:relative"] {
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
async fn a_dead_server_is_left_alone_and_tried_again() {
    let settings = |retry_after| ClamdSettings {
        answer_time_max: Duration::from_millis(50),
        retry_after,
        ..ClamdSettings::default()
    };
    let (address, connections) = fake(Act::Stall).await;
    let engine = ClamdEngine::new(&[&address], settings(Duration::from_secs(3600))).unwrap();
    for _ in 0..5 {
        assert!(matches!(scan(&engine, b"x".to_vec()).await, EngineOutcome::Failed(_)));
    }
    assert_eq!(connections.load(Ordering::Relaxed), 1);
    let engine = ClamdEngine::new(&[&address], settings(Duration::ZERO)).unwrap();
    for _ in 0..2 {
        assert!(matches!(scan(&engine, b"x".to_vec()).await, EngineOutcome::Failed(_)));
    }
    assert_eq!(connections.load(Ordering::Relaxed), 3);
    // Trouble with one object is no trouble with the server.
    let (address, connections) = fake(Act::Reply("stream: Can't read file ERROR")).await;
    let engine = ClamdEngine::new(&[&address], settings(Duration::from_secs(3600))).unwrap();
    for _ in 0..3 {
        assert!(matches!(scan(&engine, b"x".to_vec()).await, EngineOutcome::Failed(_)));
    }
    assert_eq!(connections.load(Ordering::Relaxed), 3);
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
    let (address, connections) = fake(Act::Reply("stream: OK")).await;
    let engine = Arc::new(engine(&[&address]));
    let mut jobs = tokio::task::JoinSet::new();
    for _ in 0..100 {
        let engine = Arc::clone(&engine);
        jobs.spawn(async move { scan(&engine, vec![b'x'; 9999]).await });
    }
    while let Some(outcome) = jobs.join_next().await {
        assert_eq!(outcome.unwrap(), EngineOutcome::Clean);
    }
    assert!(connections.load(Ordering::Relaxed) <= CONNECTIONS_MAX);
    assert_eq!(engine.servers[0].outstanding.load(Ordering::Relaxed), 0);
}

#[tokio::test]
async fn the_server_with_least_outstanding_is_asked() {
    let (busy, _) = fake(Act::Stall).await;
    let (free, connections) = fake(Act::Reply("stream: OK")).await;
    let engine = Arc::new(engine(&[&busy, &free]));
    let stuck = Arc::clone(&engine);
    let stuck = tokio::spawn(async move { scan(&stuck, vec![b'x'; 100]).await });
    while engine.servers[0].outstanding.load(Ordering::Relaxed) == 0 {
        tokio::task::yield_now().await;
    }
    for _ in 0..5 {
        assert_eq!(scan(&engine, b"x".to_vec()).await, EngineOutcome::Clean);
    }
    assert_eq!(connections.load(Ordering::Relaxed), 1);
    stuck.abort();
}

/// The real thing, where it is installed.
#[tokio::test]
async fn a_real_clamd() {
    const CLAMD: &str = "/usr/sbin/clamd";
    if !std::path::Path::new(CLAMD).exists() {
        println!("SKIPPED: {CLAMD} is not installed");
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    std::fs::create_dir(path("db")).unwrap();
    // Any file with the words "avr-test-virus" in it.
    std::fs::write(path("db/test.ndb"), "Avr.Test:0:*:6176722d746573742d7669727573\n").unwrap();
    let settings = format!(
        "LocalSocket {}\nDatabaseDirectory {}\nTemporaryDirectory {}\nForeground yes\n\
         StreamMaxLength 1M\nAlertExceedsMax yes\nAlertEncrypted yes\nMaxThreads 2\n",
        path("sock"),
        path("db"),
        folder.path().to_str().unwrap(),
    );
    std::fs::write(path("clamd.conf"), settings).unwrap();
    let mut clamd = tokio::process::Command::new(CLAMD)
        .args(["-c", &path("clamd.conf"), "-F"])
        .stdout(std::process::Stdio::null())
        .stderr(std::process::Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let engine = ClamdEngine::new(&[format!("unix:{}", path("sock"))], ClamdSettings::default());
    let engine = engine.unwrap();
    while UnixStream::connect(path("sock")).await.is_err() {
        assert!(clamd.try_wait().unwrap().is_none(), "clamd does not start");
        tokio::task::yield_now().await;
    }
    assert_eq!(scan(&engine, b"hello".to_vec()).await, EngineOutcome::Clean);
    for size in [0, 1, 500_000] {
        let bytes = [&vec![b'x'; size], b"avr-test-virus".as_slice()].concat();
        let found = EngineOutcome::Found("Avr.Test.UNOFFICIAL".to_owned());
        assert_eq!(scan(&engine, bytes).await, found);
    }
    assert_eq!(scan(&engine, Vec::new()).await, EngineOutcome::Clean);
    for _ in 0..3 {
        let outcome = scan(&engine, vec![b'x'; 8 * 1024 * 1024]).await;
        assert_eq!(outcome, EngineOutcome::OverSize);
        assert_eq!(scan(&engine, b"hello".to_vec()).await, EngineOutcome::Clean);
    }
    clamd.kill().await.unwrap();
    let outcome =
        engine.scan(Object { part: 0, content: Bytes::new().into(), file_name: None }).await;
    assert!(matches!(outcome, EngineOutcome::Failed(_)), "{outcome:?}");
}
