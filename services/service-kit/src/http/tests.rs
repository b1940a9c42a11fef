//! A status port on loopback, and what it answers to the bytes of a request.

use std::collections::BTreeMap;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::sync::Notify;
use tokio::task::JoinHandle;

use super::*;
use crate::metrics::Counter;

const TOKEN: &str = "0123456789abcdef";
const PATIENCE: Duration = Duration::from_secs(30);

struct Running {
    address: SocketAddr,
    mails: Counter,
    task: JoinHandle<()>,
}

impl Drop for Running {
    fn drop(&mut self) {
        self.task.abort();
    }
}

struct Answer {
    status: u16,
    headers: BTreeMap<String, String>,
    body: String,
}

/// A port that is never ready, has one counter, and pages that panic and never answer.
async fn start(token: Option<&str>) -> Running {
    let settings = StatusSettings::on_loopback(0);
    let settings = match token {
        Some(token) => settings.with_token(Token::new(token).unwrap()),
        None => settings,
    };
    let status = Status::bind(settings).await.unwrap();
    let address = status.address().unwrap();
    let mut registry = Registry::with_prefix("test");
    let mails = Counter::default();
    registry.register("mails", "Mails", mails.clone());
    let silent = Arc::new(Notify::new());
    let more = Router::new()
        .route("/panic", get(async || -> &str { panic!("as the test asked") }))
        .route("/never", get(async move || silent.notified().await))
        .route(
            "/own",
            get(async || ([(header::CONTENT_SECURITY_POLICY, "default-src 'self'")], "own")),
        );
    let missing = || vec!["no proxy has answered yet".to_owned()];
    let pages = Pages { registry, missing: Box::new(missing), more };
    Running { address, mails, task: tokio::spawn(status.serve(pages)) }
}

impl Running {
    async fn get(&self, path: &str, more: &str) -> Answer {
        let request =
            format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n{more}Connection: close\r\n\r\n");
        self.send(request.as_bytes()).await
    }

    /// Sends bytes and reads to the end.
    async fn send(&self, bytes: &[u8]) -> Answer {
        let mut stream = TcpStream::connect(self.address).await.unwrap();
        stream.write_all(bytes).await.unwrap();
        answer_on(&mut stream).await
    }
}

async fn answer_on(stream: &mut TcpStream) -> Answer {
    let mut bytes = Vec::new();
    // A port that refuses early resets what it has not read: what came before that counts.
    let _ = timeout(PATIENCE, stream.read_to_end(&mut bytes)).await.expect("it never ends");
    let text = String::from_utf8(bytes).unwrap();
    let (head, body) = text.split_once("\r\n\r\n").unwrap_or((&text, ""));
    let mut lines = head.lines();
    let status = lines.next().and_then(|line| line.split(' ').nth(1)?.parse().ok()).unwrap_or(0);
    let headers = lines
        .filter_map(|line| line.split_once(": "))
        .map(|(name, value)| (name.to_ascii_lowercase(), value.to_owned()))
        .collect();
    Answer { status, headers, body: body.to_owned() }
}

#[tokio::test]
async fn life_readiness_and_metrics_are_told() {
    let running = start(None).await;
    let alive = running.get("/healthz", "").await;
    assert_eq!((alive.status, alive.body.as_str()), (200, "alive\n"));
    let ready = running.get("/readyz", "").await;
    assert_eq!((ready.status, ready.body.as_str()), (503, "no proxy has answered yet\n"));
    running.mails.inc();
    let metrics = running.get("/metrics", "").await;
    assert_eq!(metrics.status, 200);
    assert_eq!(metrics.headers["content-type"], metrics::CONTENT_TYPE);
    assert!(metrics.body.contains("test_mails_total 1\n"), "{}", metrics.body);
    assert!(metrics.body.contains("test_status_connections_accepted_total 3\n"));
    assert!(metrics.body.ends_with("# EOF\n"));
    assert_eq!(running.get("/nothing", "").await.status, 404);
}

#[tokio::test]
async fn every_answer_forbids_what_browsers_would_do_with_it() {
    let running = start(Some(TOKEN)).await;
    for path in ["/healthz", "/metrics", "/nothing"] {
        let answer = running.get(path, "").await;
        assert_eq!(answer.headers["content-security-policy"], "default-src 'none'");
        assert_eq!(answer.headers["x-content-type-options"], "nosniff");
        assert_eq!(answer.headers["cache-control"], "no-store");
    }
    let own = running.get("/own", &format!("Authorization: Bearer {TOKEN}\r\n")).await;
    assert_eq!(own.headers["content-security-policy"], "default-src 'self'");
}

#[tokio::test]
async fn a_port_with_a_token_shows_strangers_only_that_it_lives() {
    let running = start(Some(TOKEN)).await;
    assert_eq!(running.get("/healthz", "").await.status, 200);
    for path in ["/readyz", "/metrics", "/own", "/nothing"] {
        for header in ["", "Authorization: Bearer 0123456789abcdeX\r\n"] {
            let refused = running.get(path, header).await;
            assert_eq!(refused.status, 401, "{path}");
            assert!(refused.headers["www-authenticate"].starts_with("Basic "));
            assert!(!refused.body.contains("mails"));
        }
    }
    let header = format!("Authorization: Bearer {TOKEN}\r\n");
    assert_eq!(running.get("/metrics", &header).await.status, 200);
    // With a token any name of the host will do.
    let request =
        format!("GET /own HTTP/1.1\r\nHost: tokyo-1\r\n{header}Connection: close\r\n\r\n");
    assert_eq!(running.send(request.as_bytes()).await.status, 200);
}

#[tokio::test]
async fn without_a_token_only_names_of_loopback_are_answered() {
    let running = start(None).await;
    for (host, status) in [
        ("localhost", 200),
        ("LOCALHOST:4661", 200),
        ("127.0.0.1:4661", 200),
        ("127.0.0.1", 200),
        ("[::1]", 200),
        ("[::1]:4661", 200),
        ("rebound.example", 421),
        ("localhost.example:80", 421),
        ("192.0.2.1", 421),
        ("", 421),
    ] {
        let request = format!("GET /own HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n");
        assert_eq!(running.send(request.as_bytes()).await.status, status, "{host}");
    }
}

#[tokio::test]
async fn sizes_are_limited() {
    let running = start(None).await;
    let long = format!("X: {}\r\n", "x".repeat(HEAD_BYTES_MAX));
    assert_eq!(running.get("/own", &long).await.status, 431);
    let most = "X: x\r\n".repeat(HEADERS_MAX - 2);
    assert_eq!(running.get("/own", &most).await.status, 200);
    assert_eq!(running.get("/own", &format!("{most}X: x\r\n")).await.status, 431);
    let body = format!("Content-Length: {}\r\n", BODY_BYTES_MAX + 1);
    assert_eq!(running.get("/own", &body).await.status, 413);
    assert_eq!(running.send(b"\x16\x03\x01 rubbish\r\n\r\n").await.status, 400);
    // None of it hurt anybody else.
    assert_eq!(running.get("/own", "").await.status, 200);
}

#[tokio::test]
async fn who_says_nothing_makes_room_for_who_reads() {
    let running = start(Some(TOKEN)).await;
    let mut idle = Vec::new();
    for _ in 0..CONNECTIONS_MAX + 8 {
        idle.push(TcpStream::connect(running.address).await.unwrap());
    }
    let header = format!("Authorization: Bearer {TOKEN}\r\n");
    assert_eq!(running.get("/own", &header).await.status, 200);
}

#[tokio::test]
async fn a_page_that_panics_ends_only_its_own_connection() {
    let running = start(None).await;
    assert_eq!(running.get("/panic", "").await.status, 0);
    let metrics = running.get("/metrics", "").await;
    assert!(metrics.body.contains("test_status_connections_panics_total 1\n"));
}

#[tokio::test(start_paused = true)]
async fn waits_are_limited() {
    let running = start(None).await;
    let before = tokio::time::Instant::now();
    assert_eq!(running.get("/never", "").await.status, 503);
    assert!(before.elapsed() >= ANSWER_TIME_MAX);
    // A head that never ends.
    let mut slow = TcpStream::connect(running.address).await.unwrap();
    slow.write_all(b"GET / HTTP/1.1\r\n").await.unwrap();
    assert_ne!(answer_on(&mut slow).await.status, 200);
    assert!(before.elapsed() >= ANSWER_TIME_MAX + HEAD_TIME_MAX);
}
