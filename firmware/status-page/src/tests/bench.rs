//! A box that is none.

use std::io::{BufRead as _, BufReader, Write as _};
use std::net::SocketAddr;
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use journal::{Action, Direction, Entry, Journal, Timestamp, Verdict};
use quarantine::{Meta, Vault, VaultKey};
use rustls::RootCertStore;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::history::{COUNTS, History, MINUTES, Minute};
use crate::{Options, Page, Places};

pub(super) const PATIENCE: Duration = Duration::from_secs(120);
/// 2026-11-26, 10:00 UTC.
pub(super) const NOW_S: u64 = 1_795_687_200;
pub(super) const SECRET: &str = "hunter42 & more";
/// What somebody writes who wants the page to do what he says.
pub(super) const HOSTILE: &str =
    "\"><img src=x onerror=alert(1)><script>document.title='taken'</script>";
/// What is in the quarantine.
pub(super) const MAIL: &[u8] = b"Subject: x\r\n\r\nA mail\r\n.\r\nbyte for byte \xff\r\n";

/// A box's page, and what is round it.
pub(super) struct Bench {
    pub(super) folder: TempDir,
    pub(super) https: SocketAddr,
    pub(super) http: SocketAddr,
    /// What the gateway was asked.
    pub(super) asked: Arc<Mutex<Vec<Value>>>,
    server: tokio::task::AbortHandle,
}

impl Bench {
    pub(super) async fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        answer(&at("init"), |_| golden());
        let asked = Arc::new(Mutex::new(Vec::new()));
        let (log, mut snooze) = (Arc::clone(&asked), None);
        answer(&at("gateway"), move |request| {
            log.lock().unwrap().push(request.clone());
            gateway(request, &mut snooze)
        });
        box_console::secret::set(&at("state"), SECRET).unwrap();
        fill(&at("data"));
        let data = at("data");
        let options = Options {
            init: at("init"),
            gateway: at("gateway"),
            state: at("state"),
            history: at("data/page/day"),
            fingerprint: at("run/fingerprint"),
            https: SocketAddr::from(([127, 0, 0, 1], 0)),
            http: SocketAddr::from(([127, 0, 0, 1], 0)),
            interface: None,
            places: Box::new(move || {
                Ok(Places { journal: data.join("journal"), vault: Ok(vault(&data)) })
            }),
            clock: || NOW_S,
        };
        let page = Page::bind(options).await.unwrap();
        let (https, http) = page.addresses().unwrap();
        let server = tokio::spawn(page.serve()).abort_handle();
        Self { folder, https, http, asked, server }
    }

    /// What everybody may see, as the owner sets it.
    pub(super) fn shows(&self, before_login: &str) {
        let path = self.folder.path().join("state/config/page.toml");
        std::fs::write(path, format!("before_login = \"{before_login}\"\n")).unwrap();
    }

    /// A client that believes the unit's certificate alone, by its name.
    pub(super) async fn connect(&self) -> TlsStream<TcpStream> {
        let pem = std::fs::read(self.folder.path().join("state/identity/page.pem")).unwrap();
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(&pem).unwrap()).unwrap();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        let name = ServerName::try_from("avr-02005e100003.local").unwrap();
        let stream = TcpStream::connect(self.https).await.unwrap();
        TlsConnector::from(Arc::new(config)).connect(name, stream).await.unwrap()
    }

    /// Sends a request as written, and reads to the end.
    pub(super) async fn exchange(&self, request: &[u8]) -> Answer {
        let mut stream = self.connect().await;
        stream.write_all(request).await.unwrap();
        Answer::read(&mut stream).await
    }

    pub(super) async fn get(&self, path: &str, cookie: &str) -> Answer {
        let host = self.https;
        let request = format!(
            "GET {path} HTTP/1.1\r\nHost: {host}\r\nCookie: {cookie}\r\nConnection: close\r\n\r\n"
        );
        self.exchange(request.as_bytes()).await
    }

    /// As a browser does from the page.
    pub(super) async fn post(&self, path: &str, cookie: &str, form: &str) -> Answer {
        self.post_from(path, cookie, form, &format!("https://{}", self.https)).await
    }

    pub(super) async fn post_from(
        &self,
        path: &str,
        cookie: &str,
        form: &str,
        origin: &str,
    ) -> Answer {
        let (host, length) = (self.https, form.len());
        let request = format!(
            "POST {path} HTTP/1.1\r\nHost: {host}\r\nOrigin: {origin}\r\nCookie: {cookie}\r\n\
             Content-Length: {length}\r\nConnection: close\r\n\r\n{form}"
        );
        self.exchange(request.as_bytes()).await
    }

    /// Logs in; the cookie, and what forms must carry.
    pub(super) async fn log_in(&self) -> (String, String) {
        let secret = SECRET.replace('&', "%26").replace(' ', "+");
        let answer = self.post("/login", "", &format!("secret={secret}")).await;
        assert_eq!(answer.status, 303, "{}", answer.text());
        let cookie = answer.header("set-cookie").unwrap();
        for part in ["__Host-avr=", "; Path=/", "; Secure", "; HttpOnly", "; SameSite=Strict"] {
            assert!(cookie.contains(part), "{cookie}");
        }
        let cookie = cookie.split(';').next().unwrap().to_owned();
        let page = self.get("/", &cookie).await;
        let (_, rest) = page
            .text()
            .split_once("name=\"form\" value=\"")
            .map(|(a, b)| (a.to_owned(), b.to_owned()))
            .unwrap();
        (cookie, rest.split('"').next().unwrap().to_owned())
    }

    /// The quarantine's one item.
    pub(super) fn item(&self) -> Option<String> {
        let vault = vault(&self.folder.path().join("data"));
        vault.list(NOW_S).unwrap().next().map(|(id, _)| id.to_string())
    }
}

impl Drop for Bench {
    fn drop(&mut self) {
        self.server.abort();
    }
}

/// An answer in full.
pub(super) struct Answer {
    pub(super) status: u16,
    head: String,
    pub(super) body: Vec<u8>,
}

impl Answer {
    pub(super) async fn read(stream: &mut (impl AsyncRead + Unpin)) -> Self {
        let mut bytes = Vec::new();
        // A server that cuts off does so without a farewell.
        let _ = timeout(PATIENCE, stream.read_to_end(&mut bytes)).await.expect("an end");
        let end = bytes.windows(4).position(|four| four == b"\r\n\r\n").unwrap_or(bytes.len());
        let head = String::from_utf8_lossy(&bytes[..end]).into_owned();
        let mut body = bytes.get(end + 4..).unwrap_or_default().to_vec();
        if head.contains("transfer-encoding: chunked") {
            body = unchunked(&body);
        }
        let status = head.split(' ').nth(1).and_then(|code| code.parse().ok()).unwrap_or(0);
        Self { status, head, body }
    }

    pub(super) fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    pub(super) fn header(&self, name: &str) -> Option<&str> {
        self.head.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "))
    }
}

fn unchunked(mut body: &[u8]) -> Vec<u8> {
    let mut whole = Vec::new();
    loop {
        let end = body.windows(2).position(|two| two == b"\r\n").unwrap();
        let bytes = usize::from_str_radix(str::from_utf8(&body[..end]).unwrap(), 16).unwrap();
        if bytes == 0 {
            return whole;
        }
        whole.extend(&body[end + 2..end + 2 + bytes]);
        body = &body[end + 2 + bytes + 2..];
    }
}

/// Answers each line of JSON by a line of it, in a thread of its own.
fn answer(path: &Path, mut answer: impl FnMut(&Value) -> Value + Send + 'static) {
    let listener = UnixListener::bind(path).unwrap();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let mut line = String::new();
            if BufReader::new(&stream).read_line(&mut line).is_ok_and(|bytes| bytes > 0) {
                let reply = answer(&serde_json::from_str(&line).unwrap());
                let _ = stream.write_all(format!("{reply}\n").as_bytes());
            }
        }
    });
}

/// As PID 1 answers.
fn golden() -> Value {
    let text = include_str!("../../../box-init/tests/control.jsonl");
    let reply = text.lines().find(|line| line.starts_with(r#"{"reply":"status""#)).unwrap();
    let mut reply: Value = serde_json::from_str(reply).unwrap();
    reply["gateway"] = json!({ "gateway": "intercepting" });
    reply["slot"]["trial"] = json!({ "trial": "blessed" });
    reply["clock"]["now_seconds"] = NOW_S.into();
    reply["clock"]["synced"]["at_seconds"] = (NOW_S - 900).into();
    reply["uptime_seconds"] = 432_000.into();
    reply["problems"] = json!([]);
    for done in ["/last_failure", "/network/confirm_seconds"] {
        *reply.pointer_mut(done).unwrap() = Value::Null;
    }
    reply
}

/// As the gateway does.
fn gateway(request: &Value, snooze: &mut Option<u64>) -> Value {
    match request["verb"].as_str() {
        Some("snooze") => *snooze = request["seconds"].as_u64(),
        Some("resume") => *snooze = None,
        _ => {
            return json!({ "status": {
                "version": "0.1.0", "uptime_s": 86_400, "mac": "02:00:5e:10:00:03",
                "key_fingerprint": "ab12cd34", "snooze_seconds_left": snooze,
                "counters": { "mails": 1234, "sessions": 2345 },
                "relay": { "route": { "warm": { "proxy": "198.51.100.1:4652" } },
                    "ticket": { "valid": { "until_s": NOW_S + 80_000 } } },
            } });
        }
    }
    json!({ "snooze": { "seconds_left": snooze } })
}

fn vault(data: &Path) -> Vault {
    let key = VaultKey::derive(b"the unit's").unwrap();
    let settings = quarantine::settings::QuarantineSettings::default();
    Vault::open(&data.join("quarantine"), &key, settings.limits()).unwrap()
}

/// A day of mail, two mails of it, and a refused one.
fn fill(data: &Path) {
    let mut history = History::open(&data.join("page/day")).unwrap();
    let now = u32::try_from(NOW_S / 60).unwrap();
    for at in now - MINUTES + 1..=now {
        history.add(&office(at)).unwrap();
    }
    let meta = Meta {
        subject: HOSTILE.to_owned(),
        from: format!("{HOSTILE} <evil@example.com>"),
        verdict: "Win.Test.EICAR_HDB-1".to_owned(),
        ..Meta::default()
    };
    let id = vault(data)
        .store(&meta, [Ok::<_, std::io::Error>(Bytes::from_static(MAIL))], NOW_S - 600)
        .unwrap();
    let journal = Journal::open(
        &data.join("journal"),
        journal::settings::JournalSettings::default().limits(),
    );
    let clean = Entry {
        time: Timestamp::from_unix(NOW_S - 1_200),
        session: "00112233445566778899aabbccddeeff".to_owned(),
        client: "192.168.1.5:50000".to_owned(),
        server: "203.0.113.5:587".to_owned(),
        mail_from: "sender@example.jp".to_owned(),
        rcpt_to: vec!["someone@example.com".to_owned()],
        recipients: 1,
        bytes: 12_345,
        verdict: Verdict::Clean,
        action: Action::Passed,
        ..Entry::default()
    };
    let infected = Entry {
        time: Timestamp::from_unix(NOW_S - 600),
        direction: Direction::Incoming,
        mail_from: HOSTILE.to_owned(),
        message_id: format!("<{HOSTILE}>"),
        verdict: Verdict::Infected,
        name: "Win.Test.EICAR_HDB-1".to_owned(),
        action: Action::Refused,
        quarantine: id.to_string(),
        ..clean.clone()
    };
    let journal = journal.unwrap();
    journal.append(&clean).unwrap();
    journal.append(&infected).unwrap();
}

/// What an office counts in a minute: little by night, most in the morning; an hour of it by no site, a
/// snooze, and half an hour in which the gateway was not there.
fn office(at: u32) -> Minute {
    let day = at % MINUTES;
    let busy = match day / 60 {
        0..7 => 0,
        7 | 18..22 => 1,
        8 | 12 | 17 => 3,
        9..12 => 6,
        _ => 4,
    };
    let uneven = |part: u32| (at.wrapping_mul(2_654_435_761) >> 16) % part;
    let sessions = busy + busy * uneven(3) / 2;
    let away = (780..840).contains(&day);
    let infected = u32::from(sessions > 0 && uneven(61) == 0);
    let unscannable = u32::from(sessions > 0 && uneven(23) == 0);
    let mails = sessions + infected + unscannable;
    let tls = sessions * uneven(4) / 8;
    let by_site = if away { 0 } else { sessions };
    let counts: [u32; COUNTS] =
        [mails, infected, unscannable, 0, sessions, tls, 0, by_site, sessions - by_site, 0];
    let answered = !(90..120).contains(&day);
    let counts = if answered { counts } else { [0; COUNTS] };
    Minute { at, counts, answered, snoozing: (1_000..1_030).contains(&day) }
}
