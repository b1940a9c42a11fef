use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use proptest::prelude::*;
use spool::Spooler;
use tokio::io::{AsyncBufReadExt, AsyncReadExt};
use tokio::net::TcpListener;

use super::*;

/// What a server that is well says to OPTIONS.
const OPTIONS: &str = "ICAP/1.0 200 OK\r\nMethods: RESPMOD, REQMOD\r\nAllow: 204\r\nPreview: 1024\r\n\
    Options-TTL: 600\r\nISTag: \"one\"\r\nEncapsulated: null-body=0\r\n\r\n";
const NO_PREVIEW: &str =
    "ICAP/1.0 200 OK\r\nMethods: RESPMOD\r\nAllow: 204\r\nISTag: \"one\"\r\n\r\n";
const LONG_PREVIEW: &str =
    "ICAP/1.0 200 OK\r\nMethods: RESPMOD\r\nPreview: 99999999\r\nISTag: \"one\"\r\n\r\n";
const CLEAN: &str = "ICAP/1.0 204 No Content\r\nISTag: \"one\"\r\n\r\n";
const GO_ON: &str = "ICAP/1.0 100 Continue\r\n\r\n";
const PREVIEW_BYTES: usize = 1024;

/// What a fake server does with each object.
#[derive(Debug, Clone)]
enum Act {
    /// Says this behind the preview, or behind the whole where it wants none.
    Say(String),
    /// Wants all of it, and then says this.
    GoOn(String),
    /// Wants all of it, and says this before it has read the rest.
    GoOnEarly(String),
    /// Gives the object back, changed or not.
    Echo {
        status: u16,
        change: fn(&mut Vec<u8>),
    },
    /// Says this and closes, without reading the object.
    Unread(String),
    Stall,
}

/// What reached the fake server.
#[derive(Debug, Default)]
struct Seen {
    connections: AtomicUsize,
    options: AtomicUsize,
    objects: Mutex<Vec<(String, Vec<u8>)>>,
}

async fn fake(options: &'static str, act: Act) -> (String, Arc<Seen>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = format!("icap://{}/avscan", listener.local_addr().unwrap());
    let seen = Arc::new(Seen::default());
    let shared = Arc::clone(&seen);
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            shared.connections.fetch_add(1, Ordering::Relaxed);
            tokio::spawn(serve(stream, options, act.clone(), Arc::clone(&shared)));
        }
    });
    (address, seen)
}

async fn lines(reader: &mut BufReader<OwnedReadHalf>) -> Option<String> {
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") {
        if reader.read_line(&mut head).await.ok()? == 0 {
            return None;
        }
    }
    Some(head)
}

/// Reads chunks; gives them, and whether they were all there is.
async fn chunks(reader: &mut BufReader<OwnedReadHalf>) -> Option<(Vec<u8>, bool)> {
    let mut body = Vec::new();
    loop {
        let mut line = String::new();
        reader.read_line(&mut line).await.ok()?;
        let bytes = usize::from_str_radix(line.trim().split(';').next()?, 16).ok()?;
        let mut chunk = vec![0; bytes + 2];
        reader.read_exact(&mut chunk).await.ok()?;
        assert_eq!(chunk.split_off(bytes), b"\r\n");
        if bytes == 0 {
            return Some((body, line.contains("ieof")));
        }
        body.append(&mut chunk);
    }
}

async fn serve(stream: TcpStream, options: &'static str, act: Act, seen: Arc<Seen>) -> Option<()> {
    let (reader, mut writer) = stream.into_split();
    let mut reader = BufReader::new(reader);
    loop {
        let head = lines(&mut reader).await?;
        if head.starts_with("OPTIONS") {
            seen.options.fetch_add(1, Ordering::Relaxed);
            writer.write_all(options.as_bytes()).await.ok()?;
            continue;
        }
        assert!(head.starts_with("RESPMOD icap://127.0.0.1:"), "{head}");
        let request = lines(&mut reader).await?;
        let response = lines(&mut reader).await?;
        let lengths = format!(
            "req-hdr=0, res-hdr={}, res-body={}",
            request.len(),
            request.len() + response.len()
        );
        assert!(head.contains(&lengths), "{head}");
        if let Act::Unread(words) = &act {
            writer.write_all(words.as_bytes()).await.ok()?;
            return None;
        }
        let (mut body, is_all) = chunks(&mut reader).await?;
        assert!(!head.contains("Preview:") || body.len() <= PREVIEW_BYTES_MAX);
        let is_all = is_all || !head.contains("Preview:");
        let go_on = async |writer: &mut OwnedWriteHalf| {
            if is_all { Some(()) } else { writer.write_all(GO_ON.as_bytes()).await.ok() }
        };
        let said = match &act {
            Act::Say(words) => words.clone().into_bytes(),
            Act::GoOn(words) => {
                go_on(&mut writer).await?;
                words.clone().into_bytes()
            }
            Act::GoOnEarly(words) => {
                go_on(&mut writer).await?;
                writer.write_all(words.as_bytes()).await.ok()?;
                return std::future::pending().await;
            }
            Act::Echo { .. } => {
                go_on(&mut writer).await?;
                Vec::new()
            }
            Act::Stall => std::future::pending().await,
            Act::Unread(_) => return None,
        };
        if !is_all && !matches!(act, Act::Say(_)) {
            body.extend(chunks(&mut reader).await?.0);
        }
        let said = match &act {
            Act::Echo { status, change } => {
                let mut body = body.clone();
                change(&mut body);
                page(*status, "", &body)
            }
            _ => said,
        };
        seen.objects.lock().unwrap().push((request, body));
        writer.write_all(&said).await.ok()?;
    }
}

/// An answer with a response in it.
fn page(status: u16, fields: &str, body: &[u8]) -> Vec<u8> {
    let response = format!("HTTP/1.0 {status} Some Words\r\nServer: fake\r\n\r\n");
    let mut answer = format!(
        "ICAP/1.0 200 OK\r\n{fields}ISTag: \"one\"\r\nEncapsulated: res-hdr=0, res-body={}\r\n\r\n\
         {response}",
        response.len()
    )
    .into_bytes();
    for piece in body.chunks(999) {
        push_chunk(&mut answer, piece);
    }
    answer.extend_from_slice(b"0\r\n\r\n");
    answer
}

fn text(answer: Vec<u8>) -> String {
    String::from_utf8(answer).unwrap()
}

fn settings() -> ServerSettings {
    ServerSettings { answer_time_max: Duration::from_secs(5), ..ServerSettings::default() }
}

async fn scan_named(engine: &IcapEngine, bytes: &[u8], name: Option<&str>) -> EngineOutcome {
    let content = Bytes::copy_from_slice(bytes).into();
    engine.scan(Object { part: 1, content, file_name: name.map(str::to_owned) }).await
}

async fn scan(engine: &IcapEngine, bytes: &[u8]) -> EngineOutcome {
    scan_named(engine, bytes, None).await
}

async fn outcome(options: &'static str, act: Act, bytes: &[u8]) -> EngineOutcome {
    let (address, _) = fake(options, act).await;
    scan(&IcapEngine::new(&[address], settings()).unwrap(), bytes).await
}

#[test]
fn addresses() {
    for (text, full) in [
        ("icap://scanner/avscan", "icap://scanner:1344/avscan"),
        ("icap://10.0.0.1:1345/a/b?mode=x&y", "icap://10.0.0.1:1345/a/b?mode=x&y"),
        ("icap://[::1]/avscan", "icap://[::1]:1344/avscan"),
        ("icap://[::1]:99/avscan", "icap://[::1]:99/avscan"),
    ] {
        assert_eq!(text.parse::<Address>().unwrap().to_string(), full);
    }
    for bad in [
        "",
        "scanner/avscan",
        "http://scanner/x",
        "icaps://scanner/x",
        "icap://scanner",
        "icap:///x",
        "icap://scanner/",
        "icap://scanner:0/x",
        "icap://scanner:x/x",
        "icap://a b/x",
        "icap://scanner/a b",
        "icap://scanner/a\r\nX: y",
        "icap://u@scanner/x",
        "icap://::1/x",
        &format!("icap://scanner/{}", "x".repeat(ADDRESS_BYTES_MAX)),
    ] {
        assert!(bad.parse::<Address>().is_err(), "{bad}");
    }
}

#[test]
fn names_are_one_segment_of_a_url() {
    assert_eq!(safe_name(None), "part");
    assert_eq!(safe_name(Some("")), "part");
    assert_eq!(safe_name(Some("a b/../c\r\n.exe")), "a%20b%2F..%2Fc%0D%0A.exe");
    let long = "あ".repeat(NAME_BYTES_MAX) + ".exe";
    let safe = safe_name(Some(&long));
    assert!(safe.len() <= 3 * NAME_BYTES_MAX && safe.ends_with(".exe"), "{safe}");
}

#[tokio::test]
async fn all_of_it_arrives_with_preview_and_without() {
    let spooler = Spooler::default();
    for options in [OPTIONS, NO_PREVIEW, LONG_PREVIEW] {
        let (address, seen) = fake(options, Act::GoOn(CLEAN.to_owned())).await;
        let engine = IcapEngine::new(&[address], settings()).unwrap();
        let sizes = [0, 1, PREVIEW_BYTES, PREVIEW_BYTES + 1, 65_536, 65_537, 1_000_000];
        for size in sizes {
            let bytes: Vec<u8> = (0..size).map(|at| u8::try_from(at * 31 % 251).unwrap()).collect();
            let mut spool = spooler.open();
            spool.write(&bytes).unwrap();
            let content = spool.finish();
            let object = Object { part: 1, content, file_name: Some("a b.txt".to_owned()) };
            assert_eq!(engine.scan(object).await, EngineOutcome::Clean, "{size}");
            let (request, body) = seen.objects.lock().unwrap().pop().unwrap();
            assert!(body == bytes, "{size}");
            assert!(request.starts_with("GET http://mail.invalid/a%20b.txt HTTP/1.1\r\n"));
        }
        assert_eq!(seen.connections.load(Ordering::Relaxed), 1, "the connection is used again");
        assert_eq!(seen.options.load(Ordering::Relaxed), 1);
        assert_eq!(engine.counts().asked, sizes.len() as u64);
    }
}

#[tokio::test]
async fn what_let_pass_unseen_is_not_clean() {
    // 204 behind the preview: too large for it, or a type that it does not look at.
    let passed = outcome(OPTIONS, Act::Say(CLEAN.to_owned()), &[b'x'; 5_000]).await;
    let why = "it let the object pass after 1024 of 5000 bytes".to_owned();
    assert_eq!(passed, EngineOutcome::Limit(why));
    let all = outcome(OPTIONS, Act::Say(CLEAN.to_owned()), &[b'x'; PREVIEW_BYTES]).await;
    assert_eq!(all, EngineOutcome::Clean);
    // And before it can have read the rest.
    const MORE_THAN_SOCKETS_HOLD_BYTES: usize = 32 * 1024 * 1024;
    let bytes = vec![b'x'; MORE_THAN_SOCKETS_HOLD_BYTES];
    let early = outcome(OPTIONS, Act::GoOnEarly(CLEAN.to_owned()), &bytes).await;
    assert!(matches!(early, EngineOutcome::Limit(_)), "{early:?}");
}

#[tokio::test]
async fn an_object_given_back_is_clean_only_if_it_is_the_same() {
    let clean: fn(&mut Vec<u8>) = |_| {};
    let found = |name: &str| EngineOutcome::Found(name.to_owned());
    for size in [0, 10, 5_000, 200_000] {
        let bytes = vec![b'x'; size];
        for (status, change, expected) in [
            (200, clean, EngineOutcome::Clean),
            (200, |body: &mut Vec<u8>| body.push(b'!'), found(verdict::REPLACED)),
            (403, clean, found(verdict::BLOCKED)),
        ] {
            let act = Act::Echo { status, change };
            assert_eq!(outcome(OPTIONS, act, &bytes).await, expected, "{size} {status}");
        }
        if size > 0 {
            for change in [
                (|body| body.truncate(body.len() - 1)) as fn(&mut Vec<u8>),
                |body| *body.last_mut().unwrap() = b'!',
                |body| body.clear(),
            ] {
                let act = Act::Echo { status: 200, change };
                assert_eq!(outcome(OPTIONS, act, &bytes).await, found(verdict::REPLACED), "{size}");
            }
        }
    }
}

#[tokio::test]
async fn answers_are_read_as_they_are_meant() {
    let found = |name: &str| EngineOutcome::Found(name.to_owned());
    let infected = "X-Infection-Found: Type=0; Resolution=2; Threat=Ei\x07car;\r\n";
    let too_large = "X-Infection-Found: Type=2; Resolution=2; Threat=Container size violation\r\n";
    for (words, expected) in [
        (text(page(403, infected, b"a page")), found("Ei?car")),
        (text(page(200, infected, b"a page")), found("Ei?car")),
        (format!("ICAP/1.0 204 x\r\n{infected}\r\n"), found("Ei?car")),
        (text(page(200, "X-Virus-ID: Evil\r\n", b"")), found("Evil")),
        (text(page(403, "", b"a page")), found(verdict::BLOCKED)),
        (text(page(200, "", b"a page")), found(verdict::REPLACED)),
        (
            text(page(403, too_large, b"a page")),
            EngineOutcome::Limit("Container size violation".to_owned()),
        ),
        ("ICAP/1.0 413 Too large\r\n\r\n".to_owned(), EngineOutcome::OverSize),
    ] {
        for act in [Act::Say(words.clone()), Act::GoOn(words.clone())] {
            assert_eq!(outcome(OPTIONS, act, &[b'x'; 5_000]).await, expected, "{words}");
        }
    }
}

#[tokio::test]
async fn faults_are_failures_never_clean() {
    let long = "x".repeat(HEAD_BYTES_MAX);
    let many = "X-A: b\r\n".repeat(HEADERS_MAX + 1);
    let echo = |status| text(page(status, "", &[b'x'; 100]));
    for words in [
        String::new(),
        "rubbish\r\n\r\n".to_owned(),
        "HTTP/1.1 204 No Content\r\n\r\n".to_owned(),
        "ICAP/1.0 2O4 No Content\r\n\r\n".to_owned(),
        "ICAP/1.0 204 No".to_owned(),
        "ICAP/1.0 100 Continue\r\n\r\n".to_owned(),
        "ICAP/1.0 206 Partial\r\n\r\n".to_owned(),
        "ICAP/1.0 404 Service not found\r\n\r\n".to_owned(),
        "ICAP/1.0 500 Server error\r\n\r\n".to_owned(),
        "ICAP/1.0 503 Overloaded\r\n\r\n".to_owned(),
        "ICAP/1.0 200 OK\r\n\r\n".to_owned(),
        "ICAP/1.0 200 OK\r\nEncapsulated: res-hdr=0, res-body=x\r\n\r\n".to_owned(),
        "ICAP/1.0 200 OK\r\nEncapsulated: res-body=0, res-hdr=9\r\n\r\n".to_owned(),
        "ICAP/1.0 200 OK\r\nEncapsulated: res-hdr=0, res-body=99999999999\r\n\r\n".to_owned(),
        format!("ICAP/1.0 204 OK\r\nX-A: {long}\r\n\r\n"),
        format!("ICAP/1.0 204 OK\r\n{many}\r\n"),
        echo(500),
        echo(302),
        echo(200).replace("\r\n64\r\n", "\r\n-64\r\n"),
        echo(200).replace("\r\n64\r\n", "\r\n\r\n"),
        echo(200).replace("\r\n64\r\n", "\r\nffffffffffffffffffff\r\n"),
        echo(200).replace("\r\n64\r\n", &format!("\r\n64;{long}\r\n")),
        echo(200).replace("\r\n64\r\n", "\r\n63\r\n"),
    ] {
        let shown = words.get(..words.len().min(200)).unwrap().to_owned();
        let outcome = outcome(OPTIONS, Act::Unread(words), &[b'x'; 100]).await;
        assert!(matches!(outcome, EngineOutcome::Failed(_)), "{shown}: {outcome:?}");
    }
}

#[tokio::test]
async fn a_service_that_cannot_help_is_not_asked() {
    let long = "OPTIONS-".repeat(HEAD_BYTES_MAX);
    let long: &'static str = Box::leak(format!("ICAP/1.0 200 OK\r\nX: {long}\r\n\r\n").into());
    let body = format!(
        "ICAP/1.0 200 OK\r\nMethods: RESPMOD\r\nEncapsulated: opt-body=0\r\n\r\n{:x}\r\n",
        message::SKIPPED_BYTES_MAX + 1
    );
    let body: &'static str = Box::leak(body.into());
    for options in [
        "ICAP/1.0 404 Service not found\r\n\r\n",
        "ICAP/1.0 200 OK\r\nMethods: REQMOD\r\n\r\n",
        "ICAP/1.0 200 OK\r\n\r\n",
        "HTTP/1.1 200 OK\r\nMethods: RESPMOD\r\n\r\n",
        long,
        body,
    ] {
        let (address, seen) = fake(options, Act::GoOn(CLEAN.to_owned())).await;
        let engine = IcapEngine::new(&[address], settings()).unwrap();
        assert!(matches!(scan(&engine, b"x").await, EngineOutcome::Failed(_)), "{options}");
        assert_eq!(seen.objects.lock().unwrap().len(), 0);
    }
}

#[tokio::test]
async fn options_with_a_body_and_a_few_connections() {
    let options = "ICAP/1.0 200 OK\r\nMethods: RESPMOD\r\nPreview: 0\r\nMax-Connections: 2\r\n\
        Options-TTL: 0\r\nEncapsulated: opt-body=0\r\n\r\n5;x=y\r\nhello\r\n0\r\nA: b\r\n\r\n";
    let (address, seen) = fake(options, Act::GoOn(CLEAN.to_owned())).await;
    let engine = Arc::new(IcapEngine::new(&[address], settings()).unwrap());
    assert_eq!(scan(&engine, b"first").await, EngineOutcome::Clean);
    let mut jobs = tokio::task::JoinSet::new();
    for _ in 0..50 {
        let engine = Arc::clone(&engine);
        jobs.spawn(async move { scan(&engine, b"x").await });
    }
    while let Some(outcome) = jobs.join_next().await {
        assert_eq!(outcome.unwrap(), EngineOutcome::Clean);
    }
    assert!(seen.connections.load(Ordering::Relaxed) <= 2);
    assert_eq!(seen.options.load(Ordering::Relaxed), 1, "it holds for a while all the same");
}

#[tokio::test]
async fn a_slow_server_has_failed_in_time_and_another_is_asked() {
    let (slow, _) = fake(OPTIONS, Act::Stall).await;
    let (good, _) = fake(OPTIONS, Act::GoOn(CLEAN.to_owned())).await;
    let settings = ServerSettings { answer_time_max: Duration::from_millis(50), ..settings() };
    let engine = IcapEngine::new(&[&slow], settings).unwrap();
    let EngineOutcome::Failed(why) = scan(&engine, b"x").await else { panic!() };
    assert!(why.ends_with("no answer in time"), "{why}");
    // Time enough for the good one on a busy machine.
    let settings = ServerSettings { answer_time_max: Duration::from_secs(1), ..settings };
    let engine = IcapEngine::new(&[slow, good], settings).unwrap();
    assert_eq!(scan(&engine, b"x").await, EngineOutcome::Clean);
    assert_eq!(engine.counts().retried, 1);
}

#[tokio::test]
async fn another_tag_makes_another_generation() {
    let (address, _) = fake(OPTIONS, Act::GoOn(CLEAN.replace("one", "two"))).await;
    let engine = IcapEngine::new(&[address], settings()).unwrap();
    engine.pool.note_version(0, "\"one\"");
    let before = engine.pool.generation();
    assert_eq!(scan(&engine, b"x").await, EngineOutcome::Clean);
    let after = engine.generation();
    assert_ne!(after, before);
    assert_eq!(scan(&engine, b"x").await, EngineOutcome::Clean);
    assert_eq!(engine.generation(), after);
}

/// What a server says, whole, as [`Session`] reads it.
async fn read(answer: &[u8], content: &[u8], capacity: usize) -> Result<EngineOutcome, String> {
    let mut reader = BufReader::with_capacity(capacity, answer);
    let content = Bytes::copy_from_slice(content).into();
    let said = async {
        let head = read_head(&mut reader, "ICAP/").await?;
        Said::read(&mut reader, head, &content).await
    };
    said.await.map(|said| said.outcome).map_err(|error| error.to_string())
}

/// Parts of answers, and what does not belong there.
fn piece() -> impl Strategy<Value = Vec<u8>> {
    let known = [
        "ICAP/1.0 200 OK\r\n",
        "ICAP/1.0 204 No\r\n",
        "HTTP/1.1 200 OK\r\n",
        "\r\n",
        "\n",
        " x\r\n",
        "Encapsulated: res-hdr=0, res-body=19\r\n",
        "Encapsulated: res-hdr=0, null-body=19\r\n",
        "X-Infection-Found: Type=2; Threat=a\r\n",
        "X-Violations-Found: 1\r\n\t-\r\n",
        "0\r\n\r\n",
        "5\r\nhello\r\n",
        "5;x=y\r\nhello",
        "ffffffffffffffff\r\n",
    ];
    prop_oneof![
        6 => proptest::sample::select(known.to_vec()).prop_map(|text| text.as_bytes().to_vec()),
        1 => proptest::collection::vec(any::<u8>(), 0..20),
    ]
}

proptest! {
    #[test]
    fn an_answer_means_the_same_however_it_is_cut(
        pieces in proptest::collection::vec(piece(), 0..12), capacity in 1..40_usize,
    ) {
        let answer = pieces.concat();
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let whole = runtime.block_on(read(&answer, b"hello", 65_536));
        let cut = runtime.block_on(read(&answer, b"hello", capacity));
        prop_assert_eq!(whole, cut);
    }
}
