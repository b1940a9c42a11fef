//! The API by itself, and over real sockets with real TLS, attacked.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use axum::body::Body;
use axum::http::{Method, StatusCode};
use http_body_util::BodyExt as _;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName};
use serde_json::{Value, json};
use service_kit::DrainTrigger;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpStream, UnixStream};
use tokio::task::JoinHandle;
use tokio_rustls::TlsConnector;
use tower::ServiceExt as _;
use wire::identity::Role;

use super::*;
use crate::csv::CSV_BYTES_MAX;
use crate::fleet::{CA_CERTIFICATE, init, issue};
use crate::registry::Scope;

const NOW_S: u64 = 1_800_000_000;
const MAC: &str = "02:00:00:00:00:01";
const LOCAL: Peer = Peer::Unix { uid: 0 };

struct Scene {
    directory: tempfile::TempDir,
    router: Router,
    counters: Arc<Counters>,
}

fn remote(last: u8) -> Peer {
    Peer::Tcp(SocketAddr::from(([192, 0, 2, last], 40_000)))
}

impl Scene {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let registry = Registry::create(&directory.path().join("registry.sqlite")).unwrap();
        let counters = Arc::new(Counters::default());
        let router = router(registry, || NOW_S, counters.clone());
        Self { directory, router, counters }
    }

    async fn send(&self, mut request: Request, peer: Peer) -> (StatusCode, String) {
        request.extensions_mut().insert(peer);
        let response = self.router.clone().oneshot(request).await.unwrap();
        assert_eq!(response.headers()[header::CACHE_CONTROL], "no-store");
        let status = response.status();
        let bytes = response.into_body().collect().await.unwrap().to_bytes();
        (status, String::from_utf8(bytes.to_vec()).unwrap())
    }

    async fn ask(&self, method: Method, path: &str, body: impl Into<Body>) -> (StatusCode, Value) {
        let request = Request::builder().method(method).uri(path).body(body.into()).unwrap();
        let (status, text) = self.send(request, LOCAL).await;
        (status, serde_json::from_str(&text).unwrap_or(Value::String(text)))
    }

    async fn get(&self, path: &str) -> Value {
        let (status, body) = self.ask(Method::GET, path, "").await;
        assert_eq!(status, StatusCode::OK, "{path}: {body}");
        body
    }

    async fn post(&self, path: &str, body: Value) -> (StatusCode, Value) {
        self.ask(Method::POST, path, body.to_string()).await
    }

    /// The error of a request that is wrong.
    async fn bad(&self, method: Method, path: &str, body: impl Into<Body>) -> String {
        let (status, body) = self.ask(method, path, body).await;
        assert_eq!(status, StatusCode::BAD_REQUEST, "{path}: {body}");
        body["error"].as_str().unwrap().to_owned()
    }

    async fn token(&self, name: &str, scope: Scope) -> String {
        let (status, body) = self.post("/v1/tokens", json!({"name": name, "scope": scope})).await;
        assert_eq!(status, StatusCode::CREATED, "{body}");
        body["token"].as_str().unwrap().to_owned()
    }

    async fn with_token(&self, peer: Peer, method: Method, path: &str, shown: &str) -> StatusCode {
        let request = Request::builder().method(method).uri(path);
        let request = request.header(header::AUTHORIZATION, shown).body(Body::empty()).unwrap();
        self.send(request, peer).await.0
    }
}

#[tokio::test]
async fn a_box_is_added_changed_and_removed() {
    let scene = Scene::new();
    let new = json!({"mac": "02-00-00-00-00-01", "serial": "AVR-1", "note": " desk "});
    let (status, body) = scene.post("/v1/boxes", new.clone()).await;
    assert_eq!(status, StatusCode::CREATED);
    assert_eq!(body["changed"], true);
    assert_eq!((&body["box"]["mac"], &body["box"]["note"]), (&json!(MAC), &json!("desk")));
    let (status, body) = scene.post("/v1/boxes", new).await;
    assert_eq!(status, StatusCode::CONFLICT);
    assert!(body["error"].as_str().unwrap().contains("registered already"), "{body}");

    let at = format!("/v1/boxes/{MAC}");
    let edit = json!({"note": "2F", "sessions_max": 5}).to_string();
    let (_, body) = scene.ask(Method::PATCH, &at, edit).await;
    assert_eq!((&body["box"]["note"], &body["box"]["serial"]), (&json!("2F"), &json!("AVR-1")));
    for (verb, state) in [("suspend", "suspended"), ("resume", "waiting")] {
        let (status, body) = scene.post(&format!("{at}/{verb}"), Value::Null).await;
        assert_eq!((status, &body["box"]["state"]), (StatusCode::OK, &json!(state)));
        let (_, body) = scene.post(&format!("{at}/{verb}"), Value::Null).await;
        assert_eq!(body["changed"], false);
    }
    let replace = json!({"window_hours": 2, "revoke_now": true});
    let (_, body) = scene.post(&format!("{at}/replace-key"), replace).await;
    assert_eq!(body["box"]["enrolment_window_s"], 7200);
    assert_eq!(scene.ask(Method::POST, &format!("{at}/replace-key"), "").await.0, StatusCode::OK);
    assert_eq!(scene.get(&at).await["sessions_max"], 5);
    let (_, body) = scene.ask(Method::DELETE, &at, "").await;
    assert_eq!(body, json!({"changed": true, "box": null}));
    for (method, path) in [(Method::GET, at.clone()), (Method::POST, format!("{at}/suspend"))] {
        assert_eq!(scene.ask(method, &path, "").await.0, StatusCode::NOT_FOUND);
    }
    let audit = scene.get("/v1/audit").await;
    let whats: Vec<_> = audit["entries"].as_array().unwrap().iter().map(|e| &e["what"]).collect();
    assert_eq!(
        whats,
        ["add", "edit", "suspend", "resume", "replace-key --revoke-now", "replace-key", "remove"]
    );
    assert_eq!(audit["entries"][0]["who"], "unix:root");
}

#[tokio::test]
async fn boxes_come_in_pages() {
    let scene = Scene::new();
    let csv = "020000000001,,a\n020000000002,,b\n020000000003,,ab\n";
    let (_, body) = scene.ask(Method::POST, "/v1/import", csv).await;
    assert_eq!(body, json!({"added": 3, "already": 0, "dry_run": false}));
    let page = scene.get("/v1/boxes?limit=2").await;
    assert_eq!(page["next"], "02:00:00:00:00:02");
    let page = scene.get("/v1/boxes?limit=2&after=02:00:00:00:00:02").await;
    assert_eq!((page["boxes"].as_array().unwrap().len(), &page["next"]), (1, &Value::Null));
    let page = scene.get("/v1/boxes?q=a&state=waiting").await;
    assert_eq!(page["boxes"].as_array().unwrap().len(), 2);
    let page = scene.get("/v1/audit?limit=1&after=1").await;
    assert_eq!(
        (&page["entries"][0]["mac"], &page["next"]),
        (&json!("02:00:00:00:00:02"), &json!(2))
    );
}

#[tokio::test]
async fn an_export_is_imported_elsewhere() {
    let scene = Scene::new();
    let notes = ["=1+1", "a, \"b\"", "東京", "'-x"];
    for (index, note) in notes.iter().enumerate() {
        let mac = format!("02000000000{index}");
        let (status, body) = scene.post("/v1/boxes", json!({"mac": mac, "note": note})).await;
        assert_eq!(status, StatusCode::CREATED, "{body}");
    }
    let request = Request::builder().uri("/v1/export").body(Body::empty()).unwrap();
    let (_, csv) = scene.send(request, LOCAL).await;
    assert!(csv.contains("'=1+1") && csv.contains("''-x"), "{csv}");
    let other = Scene::new();
    let (_, tried) = other.ask(Method::POST, "/v1/import?dry_run=true", csv.clone()).await;
    assert_eq!(tried, json!({"added": 4, "already": 0, "dry_run": true}));
    assert_eq!(other.get("/v1/boxes").await["boxes"], json!([]));
    other.ask(Method::POST, "/v1/import", csv.clone()).await;
    let request = Request::builder().uri("/v1/export").body(Body::empty()).unwrap();
    assert_eq!(other.send(request, LOCAL).await.1, csv);
    let (_, again) = other.ask(Method::POST, "/v1/import", csv).await;
    assert_eq!(again["already"], 4);
}

#[tokio::test]
async fn an_import_names_every_bad_line_and_takes_none() {
    let scene = Scene::new();
    let (status, body) = scene.ask(Method::POST, "/v1/import", "020000000001\nnonsense\n,\n").await;
    assert_eq!(status, StatusCode::BAD_REQUEST);
    assert_eq!((&body["rows"][0]["line"], &body["rows"][1]["line"]), (&json!(2), &json!(3)));
    assert_eq!(scene.get("/v1/boxes").await["boxes"], json!([]));
    let large = vec![b'#'; CSV_BYTES_MAX + 1];
    let (status, _) = scene.ask(Method::POST, "/v1/import", large).await;
    assert_eq!(status, StatusCode::PAYLOAD_TOO_LARGE);
}

#[tokio::test]
async fn what_is_wrong_is_named() {
    let scene = Scene::new();
    let add = |body: Value| scene.bad(Method::POST, "/v1/boxes", body.to_string());
    assert!(add(json!({"mac": "x"})).await.contains("\"x\" is not a MAC address"));
    assert!(add(json!({"mac": "ffffffffffff"})).await.contains("address of a group"));
    assert!(add(json!({"mac": MAC, "note": "a\r\nSet-Cookie: x"})).await.contains("control"));
    assert!(add(json!({"mac": MAC, "note": "x".repeat(257)})).await.contains("257 bytes"));
    assert!(add(json!({"mac": MAC, "serial": "a b"})).await.contains("no serial number"));
    assert!(add(json!({"mac": MAC, "sessions_max": 0})).await.contains("from 1 to 100000"));
    assert!(add(json!({"mac": MAC, "window_hours": 0})).await.contains("no enrolment window"));
    assert!(add(json!({"mac": MAC, "key": "x"})).await.contains("unknown field `key`"));
    assert!(add(json!({})).await.contains("missing field `mac`"));
    let bad = |path: &'static str| scene.bad(Method::GET, path, "");
    assert!(bad("/v1/boxes?limit=0").await.contains("from 1 to 1000"));
    assert!(bad("/v1/boxes?limit=x").await.contains("limit"));
    assert!(bad("/v1/boxes?state=gone").await.contains("state"));
    assert!(bad("/v1/boxes?nonsense=1").await.contains("unknown field"));
    assert!(bad("/v1/boxes?q=%00").await.contains("zero byte"));
    assert!(bad("/v1/boxes?after=x").await.contains("not a MAC address"));
    assert!(bad("/v1/audit?mac=%0d%0aX:%20y").await.contains("\\r\\n"));
    assert!(bad("/v1/boxes/%27%20OR%201=1").await.contains("not a MAC address"));
    let long = format!("/v1/boxes?q={}", "x".repeat(SEARCH_BYTES_MAX + 1));
    assert!(scene.bad(Method::GET, &long, "").await.contains("at most 256"));
    assert_eq!(scene.ask(Method::GET, "/v1/nothing", "").await.0, StatusCode::NOT_FOUND);
    let (status, body) = scene.ask(Method::PUT, "/v1/boxes", "").await;
    assert_eq!(status, StatusCode::METHOD_NOT_ALLOWED);
    assert!(body["error"].is_string());
    let large = format!("{{\"mac\": \"{}\"}}", "0".repeat(BODY_BYTES_MAX));
    let (status, body) = scene.ask(Method::POST, "/v1/boxes", large).await;
    assert_eq!(status, StatusCode::PAYLOAD_TOO_LARGE, "{body}");
    assert!(scene.counters.bad.get() >= 20);
}

#[tokio::test]
async fn texts_are_never_statements() {
    let scene = Scene::new();
    let evil = "x'; DROP TABLE device; --";
    scene.post("/v1/boxes", json!({"mac": MAC, "note": evil})).await;
    let page = scene.get("/v1/boxes?q=x%27%3b%20drop%20table%20device").await;
    assert_eq!(page["boxes"][0]["note"], evil);
    assert_eq!(scene.get("/v1/boxes?q=%27%20OR%20%27%27%3d%27").await["boxes"], json!([]));
    let shown = format!("Bearer avr.x' OR '1'='1.{}", "0".repeat(64));
    let status = scene.with_token(remote(1), Method::GET, "/v1/boxes", &shown).await;
    assert_eq!(status, StatusCode::UNAUTHORIZED);
}

#[tokio::test]
async fn a_token_opens_what_it_is_for() {
    let scene = Scene::new();
    let read = format!("Bearer {}", scene.token("reader", Scope::Read).await);
    let write = format!("Bearer {}", scene.token("writer", Scope::Write).await);
    scene.post("/v1/boxes", json!({"mac": MAC})).await;
    let suspend = format!("/v1/boxes/{MAC}/suspend");
    let ask = |method, path, shown| scene.with_token(remote(1), method, path, shown);
    assert_eq!(ask(Method::GET, "/v1/boxes", &read).await, StatusCode::OK);
    assert_eq!(ask(Method::POST, &suspend, &read).await, StatusCode::FORBIDDEN);
    assert_eq!(ask(Method::POST, &suspend, &write).await, StatusCode::OK);
    for path in ["/v1/tokens", "/v1/tokens/writer"] {
        let method = if path.ends_with("writer") { Method::DELETE } else { Method::GET };
        assert_eq!(ask(method, path, &write).await, StatusCode::FORBIDDEN);
    }
    let audit = scene.get("/v1/audit").await;
    let last = audit["entries"].as_array().unwrap().last().unwrap();
    assert_eq!((&last["who"], &last["what"]), (&json!("token:writer"), &json!("suspend")));

    assert_eq!(
        scene.post("/v1/tokens", json!({"name": "reader", "scope": "read"})).await.0,
        StatusCode::CONFLICT
    );
    let tokens = scene.get("/v1/tokens").await;
    assert_eq!(tokens["tokens"].as_array().unwrap().len(), 2);
    assert!(!tokens.to_string().contains("hash"));
    assert_eq!(scene.ask(Method::DELETE, "/v1/tokens/writer", "").await.0, StatusCode::NO_CONTENT);
    assert_eq!(ask(Method::GET, "/v1/boxes", &write).await, StatusCode::UNAUTHORIZED);
}

#[tokio::test]
async fn who_shows_wrong_tokens_waits_and_others_do_not() {
    let scene = Scene::new();
    let good = format!("Bearer {}", scene.token("a", Scope::Read).await);
    let wrong = format!("Bearer avr.a.{}", "0".repeat(64));
    let ask = |peer, shown| scene.with_token(peer, Method::GET, "/v1/boxes", shown);
    for _ in 0..AUTH_FAILURES_MAX {
        assert_eq!(ask(remote(1), &wrong).await, StatusCode::UNAUTHORIZED);
    }
    assert_eq!(ask(remote(1), &good).await, StatusCode::TOO_MANY_REQUESTS);
    assert_eq!(ask(remote(2), &good).await, StatusCode::OK);
    assert_eq!(scene.counters.unauthorised.get(), u64::from(AUTH_FAILURES_MAX) + 1);
    let (status, _) = scene
        .send(Request::builder().uri("/v1/boxes").body(Body::empty()).unwrap(), remote(3))
        .await;
    assert_eq!(status, StatusCode::UNAUTHORIZED);
}

#[tokio::test]
async fn the_document_has_every_route_and_is_for_everybody() {
    let scene = Scene::new();
    let request = Request::builder().uri("/v1/openapi.json").body(Body::empty()).unwrap();
    let (status, text) = scene.send(request, remote(1)).await;
    assert_eq!(status, StatusCode::OK);
    let served: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(served, serde_json::to_value(document()).unwrap());
    assert!(served["openapi"].as_str().unwrap().starts_with("3.1"), "{}", served["openapi"]);
    assert_eq!(served["components"]["securitySchemes"]["token"]["scheme"], "bearer");
    // Each is answered by its handler, and not as a path or a method that there is not.
    let mut routes = 0;
    for (path, methods) in served["paths"].as_object().unwrap() {
        for method in methods.as_object().unwrap().keys() {
            let method = Method::from_bytes(method.to_uppercase().as_bytes()).unwrap();
            let path = path.replace("{mac}", MAC).replace("{name}", "none");
            let (status, body) = scene.ask(method.clone(), &path, "").await;
            assert_ne!(status, StatusCode::METHOD_NOT_ALLOWED, "{method} {path}");
            let error = body["error"].as_str().unwrap_or_default();
            assert!(!error.contains("nothing at this path"), "{method} {path}: {body}");
            routes += 1;
        }
    }
    assert_eq!(routes, 15);
    // Every field of what is sent has its place and its words.
    for (name, fields) in [("Box", 15), ("AddBox", 5), ("ReplaceKey", 2), ("ProblemBody", 2)] {
        let properties = served["components"]["schemas"][name]["properties"].as_object().unwrap();
        assert_eq!(properties.len(), fields, "{name}");
        for (field, schema) in properties {
            let is_described = schema["description"].is_string()
                || schema["$ref"].is_string()
                || schema["oneOf"].is_array()
                || schema["allOf"].is_array();
            assert!(is_described, "{name}.{field}: {schema}");
        }
    }
}

/// The API on a free port with TLS and on a local socket.
struct Served {
    scene: Scene,
    address: SocketAddr,
    socket: PathBuf,
    tls: TlsConnector,
    trigger: DrainTrigger,
    server: JoinHandle<()>,
}

impl Served {
    async fn new() -> Self {
        let scene = Scene::new();
        let at = scene.directory.path();
        init(at).unwrap();
        issue(at, &[Role::Auther], "auther-1", at).unwrap();
        let config = tls_config(&at.join("auther-1.crt"), &at.join("auther-1.key")).unwrap();
        let socket = Socket { path: at.join("auther.sock"), gid: None };
        let tcp = Some(("127.0.0.1:0".parse().unwrap(), Some(config)));
        let listeners = Listeners::bind(tcp, Some(&socket)).await.unwrap();
        let address = listeners.address().unwrap();
        let (trigger, drain) = DrainTrigger::new();
        let (router, counters) = (scene.router.clone(), scene.counters.clone());
        let drain_max = Duration::from_secs(5);
        let server = tokio::spawn(listeners.serve(router, counters, drain, drain_max));
        let mut roots = rustls::RootCertStore::empty();
        let ca = std::fs::read(at.join(CA_CERTIFICATE)).unwrap();
        roots.add(CertificateDer::from_pem_slice(&ca).unwrap()).unwrap();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let client = rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        let tls = TlsConnector::from(Arc::new(client));
        let socket = socket.path;
        Self { scene, address, socket, tls, trigger, server }
    }

    /// What is answered to these bytes, over TLS, until the server closes.
    async fn raw(&self, bytes: &[u8]) -> String {
        let stream = TcpStream::connect(self.address).await.unwrap();
        let name = ServerName::try_from("auther.avr.internal").unwrap();
        let mut stream = self.tls.connect(name, stream).await.unwrap();
        // What the server does not want to read may be reset.
        let _ = stream.write_all(bytes).await;
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer).await;
        String::from_utf8_lossy(&answer).into_owned()
    }

    async fn get(&self, more: &str) -> String {
        let head = format!("GET /v1/boxes HTTP/1.1\r\nHost: x\r\nConnection: close\r\n{more}\r\n");
        self.raw(head.as_bytes()).await
    }
}

#[tokio::test]
async fn over_tls_a_token_is_asked_for_and_oddities_are_refused() {
    let served = Served::new().await;
    let token = served.scene.token("a", Scope::Read).await;
    let shown = format!("Authorization: Bearer {token}\r\n");
    let good = served.get(&shown).await;
    assert!(good.starts_with("HTTP/1.1 200 OK\r\n"), "{good}");
    assert!(served.get("").await.starts_with("HTTP/1.1 401 "));
    assert!(served.get(&format!("{shown}{shown}")).await.starts_with("HTTP/1.1 401 "));
    // Two lengths, a header in a header, a line feed in one, and heads beyond the limits.
    let more = "Content-Length: 1\r\nContent-Length: 2\r\n";
    assert!(served.get(&format!("{shown}{more}")).await.starts_with("HTTP/1.1 400 "));
    let odd = served.get(&format!("{shown}X: a\rb\r\n")).await;
    assert!(odd.starts_with("HTTP/1.1 400 "), "{odd}");
    let long = format!("{shown}X: {}\r\n", "x".repeat(HEAD_BYTES_MAX));
    assert!(served.get(&long).await.starts_with("HTTP/1.1 431 "));
    let many = format!("{shown}{}", "X: y\r\n".repeat(200));
    assert!(served.get(&many).await.starts_with("HTTP/1.1 431 "));
    let plain = served.raw(b"nonsense\r\n\r\n").await;
    assert!(plain.starts_with("HTTP/1.1 400 "), "{plain}");
    assert!(served.get(&shown).await.starts_with("HTTP/1.1 200 OK\r\n"));
}

#[tokio::test]
async fn who_says_nothing_makes_room_for_who_shows_a_token() {
    let served = Served::new().await;
    let token = served.scene.token("a", Scope::Read).await;
    let shown = format!("Authorization: Bearer {token}\r\n");
    // Half-open handshakes beyond the limit.
    let mut idle = Vec::new();
    for _ in 0..CONNECTIONS_MAX + 8 {
        idle.push(TcpStream::connect(served.address).await.unwrap());
    }
    assert!(served.get(&shown).await.starts_with("HTTP/1.1 200 OK"));
    assert!(matches!(idle[0].read(&mut [0]).await, Ok(0) | Err(_)));
    assert!(served.scene.counters.connections.refused.get() >= 8);
    // One that has shown a token stays, whoever comes.
    let stream = TcpStream::connect(served.address).await.unwrap();
    let name = ServerName::try_from("auther.avr.internal").unwrap();
    let mut good = served.tls.connect(name, stream).await.unwrap();
    let head = format!("GET /v1/revocations HTTP/1.1\r\nHost: x\r\n{shown}\r\n");
    for _ in 0..2 {
        good.write_all(head.as_bytes()).await.unwrap();
        let mut answer = [0; 15];
        good.read_exact(&mut answer).await.unwrap();
        assert_eq!(&answer, b"HTTP/1.1 200 OK");
        let mut rest = [0; 4096];
        assert!(good.read(&mut rest).await.unwrap() > 0);
        for _ in 0..CONNECTIONS_MAX {
            idle.push(TcpStream::connect(served.address).await.unwrap());
        }
    }
    // The local socket has places of its own.
    let mut local = UnixStream::connect(&served.socket).await.unwrap();
    local.write_all(b"GET /v1/tokens HTTP/1.0\r\n\r\n").await.unwrap();
    let mut answer = String::new();
    local.read_to_string(&mut answer).await.unwrap();
    assert!(answer.starts_with("HTTP/1.0 200 OK"), "{answer}");
}

#[tokio::test]
async fn the_local_socket_is_its_owners_and_goes_with_the_server() {
    use std::os::unix::fs::PermissionsExt as _;
    let served = Served::new().await;
    let mode = std::fs::metadata(&served.socket).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    let socket = Socket { path: served.socket.clone(), gid: None };
    let error = format!("{:#}", Listeners::bind(None, Some(&socket)).await.unwrap_err());
    assert!(error.contains("another server answers there"), "{error}");
    served.trigger.drain();
    served.server.await.unwrap();
    assert!(!served.socket.exists());
    // One that a server left behind when it was killed is taken over; a file is not.
    drop(std::os::unix::net::UnixListener::bind(&served.socket).unwrap());
    Listeners::bind(None, Some(&socket)).await.unwrap();
    std::fs::remove_file(&served.socket).unwrap();
    std::fs::write(&served.socket, "mine").unwrap();
    Listeners::bind(None, Some(&socket)).await.unwrap_err();
    assert_eq!(std::fs::read(&served.socket).unwrap(), b"mine");
}

#[tokio::test]
async fn a_slow_reader_of_an_export_holds_a_page_and_no_more() {
    let scene = Scene::new();
    let line = |number: usize| format!("0200{number:08x},,{}\n", "n".repeat(200));
    let csv: String = (0..5 * crate::registry::PAGE_MAX as usize).map(line).collect();
    let (status, body) = scene.ask(Method::POST, "/v1/import", csv).await;
    assert_eq!(status, StatusCode::OK, "{body}");
    let mut request = Request::builder().uri("/v1/export").body(Body::empty()).unwrap();
    request.extensions_mut().insert(LOCAL);
    let response = scene.router.clone().oneshot(request).await.unwrap();
    let mut body = response.into_body();
    let (mut frames, mut lines) = (0, 0);
    while let Some(frame) = body.frame().await {
        let bytes = frame.unwrap().into_data().unwrap();
        lines += bytes.iter().filter(|&&byte| byte == b'\n').count();
        frames += 1;
        assert!(bytes.len() < 500_000);
    }
    assert_eq!((frames, lines), (6, 5 * crate::registry::PAGE_MAX as usize + 1));
}
