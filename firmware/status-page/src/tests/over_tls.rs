//! Each rule of the page, over TLS.

use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::bench::{Answer, Bench, HOSTILE, MAIL, PATIENCE};
use crate::app::{BODY_BYTES_MAX, BODY_TIME_MAX};
use crate::serve::{CONNECTIONS_OF_ONE_MAX, HEAD_BYTES_MAX};

#[test]
fn any_serial_number_makes_a_name() {
    for (serial, label) in [
        ("02005e100003", "02005e100003"),
        ("ABC 12/3_", "abc123"),
        ("-x-", "x"),
        ("\u{1f4e6}", "box"),
        ("", "box"),
    ] {
        assert_eq!(crate::label_of(serial), label);
    }
    assert_eq!(crate::label_of(&"a".repeat(300)).len(), 48);
}

#[tokio::test]
async fn who_is_not_logged_in_sees_what_the_setting_says_and_nothing_of_mails_by_default() {
    let bench = Bench::start().await;
    let page = bench.get("/", "").await;
    assert_eq!(page.status, 200);
    let text = page.text();
    for says in ["serial number 02005e100003", "ab12cd34", "198.51.100.1:4652", "action=\"/login\""]
    {
        assert!(text.contains(says), "{says} is not in\n{text}");
    }
    // The certificate is the one that the console names.
    let print = std::fs::read_to_string(bench.folder.path().join("run/fingerprint")).unwrap();
    assert!(text.contains(print.trim()), "{text}");
    assert_eq!(text.matches("<svg class=\"chart\"").count(), 4);
    for hidden in ["sender@example.jp", "evil@example.com", "EICAR", "Quarantine", "/snooze"] {
        assert!(!text.contains(hidden), "{hidden} is in\n{text}");
    }
    bench.shows("short");
    let text = until(&bench, |text| !text.contains("ab12cd34")).await;
    assert!(
        text.contains("serial number 02005e100003") && !text.contains("class=\"chart\""),
        "{text}"
    );
    bench.shows("all");
    let text = until(&bench, |text| text.contains("sender@example.jp")).await;
    assert!(text.contains("EICAR") && text.contains("evil@example.com"), "{text}");
    assert!(!text.contains("/snooze") && !text.contains("/quarantine/"), "{text}");
    bench.shows("everything");
    let text = until(&bench, |text| !text.contains("ab12cd34")).await;
    assert!(!text.contains("page.toml"), "{text}");
}

/// What is shown is asked for anew within a second or so.
async fn until(bench: &Bench, holds: impl Fn(&str) -> bool) -> String {
    let wait = async {
        loop {
            let text = bench.get("/", "").await.text();
            if holds(&text) {
                return text;
            }
        }
    };
    timeout(PATIENCE, wait).await.expect("the page follows the setting")
}

#[tokio::test]
async fn browsers_are_told_to_do_nothing_but_show() {
    let bench = Bench::start().await;
    bench.shows("all");
    let page = until(&bench, |text| text.contains("EICAR")).await;
    // Whatever a mail says is text.
    assert!(!page.contains("<script") && !page.contains("<img"), "{page}");
    assert!(page.contains("&quot;&gt;&lt;img src=x onerror=alert(1)&gt;&lt;script&gt;"), "{page}");
    assert!(!page.contains(HOSTILE));
    assert!(
        !page.contains("style=") && !page.contains("<style") && !page.contains("http-equiv=\"set")
    );
    for path in ["/", "/style.css", "/icon.svg", "/gone"] {
        let answer = bench.get(path, "").await;
        assert_eq!(answer.status, if path == "/gone" { 404 } else { 200 });
        let policy = answer.header("content-security-policy").unwrap();
        assert!(policy.contains("default-src 'none'") && !policy.contains("script"), "{policy}");
        for (name, value) in [
            ("x-content-type-options", "nosniff"),
            ("x-frame-options", "DENY"),
            ("cache-control", "no-store"),
        ] {
            assert_eq!(answer.header(name), Some(value));
        }
    }
}

#[tokio::test]
async fn wrong_secrets_wait_and_the_right_one_opens() {
    let bench = Bench::start().await;
    let wrong = bench.post("/login", "", "secret=wrong").await;
    assert_eq!((wrong.status, wrong.header("set-cookie")), (403, None));
    assert!(wrong.text().contains("Wrong. The next one is taken in 1 s."), "{}", wrong.text());
    // Somebody who goes on soon enough is not even looked at; the wait doubles until he is that soon.
    let guess = async {
        loop {
            let answer = bench.post("/login", "", "secret=wrong").await;
            match answer.status {
                403 => {}
                429 => return assert!(answer.text().contains("After wrong secrets: wait ")),
                _ => panic!("{}", answer.text()),
            }
        }
    };
    timeout(PATIENCE, guess).await.expect("who guesses waits");
    // Nor is who knows it, until the wait is over.
    let attempt = async {
        loop {
            let answer = bench.post("/login", "", "secret=hunter42+%26+more").await;
            match answer.status {
                429 => {}
                303 => return,
                _ => panic!("{}", answer.text()),
            }
        }
    };
    timeout(PATIENCE, attempt).await.expect("the right secret opens");
}

#[tokio::test]
async fn a_box_without_a_secret_lets_nobody_in_by_the_network() {
    let bench = Bench::start().await;
    std::fs::remove_file(bench.folder.path().join("state/config/secret")).unwrap();
    let text = until(&bench, |text| !text.contains("action=\"/login\"")).await;
    assert!(text.contains("No secret is set: set one at the console"), "{text}");
    for form in ["secret=", "secret=x", ""] {
        let answer = bench.post("/login", "", form).await;
        assert_eq!((answer.status, answer.header("set-cookie")), (403, None));
    }
}

#[tokio::test]
async fn orders_are_taken_from_the_sessions_own_page_alone() {
    let bench = Bench::start().await;
    let (cookie, form) = bench.log_in().await;
    let id = bench.item().unwrap();
    let body = format!("form={form}&id={id}&minutes=30");
    for path in ["/snooze", "/resume", "/quarantine/release", "/quarantine/delete", "/logout"] {
        assert_eq!(bench.post(path, "", &body).await.status, 403, "{path} without a login");
        let other = body.replace(&form, &"0".repeat(form.len()));
        assert_eq!(bench.post(path, &cookie, &other).await.status, 403, "{path} with a guess");
        for origin in ["https://evil.example", "null", "http://127.0.0.1"] {
            let answer = bench.post_from(path, &cookie, &body, origin).await;
            assert_eq!(answer.status, 403, "{path} from {origin}");
        }
        assert_eq!(bench.get(path, &cookie).await.status, 405, "{path} by a link");
    }
    assert!(bench.item().is_some());
    assert!(bench.asked.lock().unwrap().iter().all(|asked| asked["verb"] == "status"));
    // All of them done as they should be.
    assert_eq!(bench.post("/snooze", &cookie, &body).await.status, 303);
    let text = bench.get("/", &cookie).await.text();
    assert!(text.contains("Snoozing for 30 min: new connections"), "{text}");
    assert!(text.contains("Snoozing for another 30 min."), "{text}");
    assert_eq!(bench.post("/resume", &cookie, &body).await.status, 303);
    assert!(bench.get("/", &cookie).await.text().contains("Mail is scanned again."));
    let released = bench.post("/quarantine/release", &cookie, &body).await;
    assert_eq!(released.body, MAIL);
    assert_eq!(
        released.header("content-disposition"),
        Some(format!("attachment; filename=\"{id}.eml\"").as_str())
    );
    assert_eq!(released.header("content-type"), Some("application/octet-stream"));
    assert_eq!(bench.post("/quarantine/delete", &cookie, &body).await.status, 303);
    assert!(bench.get("/", &cookie).await.text().contains(&format!("{id} is deleted.")));
    assert_eq!(bench.item(), None);
    let again = bench.post("/quarantine/release", &cookie, &body).await;
    assert_eq!(again.status, 303);
    assert!(bench.get("/", &cookie).await.text().contains("FAIL there is no item"));
    for wrong in ["0", "-1", "1441", "x", ""] {
        let body = format!("form={form}&minutes={wrong}");
        bench.post("/snooze", &cookie, &body).await;
        assert!(bench.get("/", &cookie).await.text().contains("FAIL a snooze lasts"), "{wrong}");
    }
    assert_eq!(bench.post("/logout", &cookie, &body).await.status, 303);
    assert!(bench.get("/", &cookie).await.text().contains("action=\"/login\""));
}

#[tokio::test]
async fn another_name_that_leads_here_is_told_nothing() {
    let bench = Bench::start().await;
    for host in ["evil.example", "127.0.0.1.evil.example", ""] {
        let request = format!("GET / HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n");
        let answer = bench.exchange(request.as_bytes()).await;
        assert_eq!(answer.status, 421, "{host}");
    }
    for host in ["avr-02005e100003.local", "AVR", "avr.local:443"] {
        let request = format!("GET / HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n");
        assert_eq!(bench.exchange(request.as_bytes()).await.status, 200, "{host}");
    }
}

#[tokio::test]
async fn plain_http_only_says_where_the_page_is() {
    let bench = Bench::start().await;
    for (host, status, location) in [
        ("127.0.0.1", 302, Some(format!("https://127.0.0.1:{}/", bench.https.port()))),
        ("evil.example", 421, None),
    ] {
        let mut stream = TcpStream::connect(bench.http).await.unwrap();
        let request = format!("GET /x?y HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let answer = Answer::read(&mut stream).await;
        assert_eq!((answer.status, answer.header("location")), (status, location.as_deref()));
        assert!(answer.body.len() < 100);
    }
}

#[tokio::test]
async fn what_is_too_much_is_refused() {
    let bench = Bench::start().await;
    let long = format!("secret={}", "x".repeat(BODY_BYTES_MAX));
    assert_eq!(bench.post("/login", "", &long).await.status, 413);
    let head = "x".repeat(HEAD_BYTES_MAX);
    assert_eq!(bench.get(&format!("/{head}"), "").await.status, 431, "a long head");
    let many = "a: b\r\n".repeat(100);
    let request = format!("GET / HTTP/1.1\r\nHost: 127.0.0.1\r\n{many}\r\n");
    assert_eq!(bench.exchange(request.as_bytes()).await.status, 431, "many lines");
    // All places of one address are taken by connections that say nothing: the next is closed.
    let mut silent = Vec::new();
    for _ in 0..CONNECTIONS_OF_ONE_MAX {
        silent.push(TcpStream::connect(bench.https).await.unwrap());
    }
    let closed = async {
        loop {
            let mut late = TcpStream::connect(bench.https).await.unwrap();
            if let Ok(Ok(0) | Err(_)) = timeout(Duration::from_secs(1), late.read(&mut [0])).await {
                return;
            }
            silent.push(late);
        }
    };
    timeout(PATIENCE, closed).await.expect("one too many is closed");
    drop(silent);
    // What is no TLS is told so, where there is room; where there is none, nothing is said.
    let open = async {
        loop {
            let mut stream = TcpStream::connect(bench.https).await.unwrap();
            let _ = stream.write_all(b"GET / HTTP/1.1\r\n\r\n").await;
            if matches!(stream.read(&mut [0]).await, Ok(1)) {
                return;
            }
        }
    };
    timeout(PATIENCE, open).await.expect("there is room again");
}

/// Slow clients, each at its own step: nothing is waited for beyond its limit.
#[tokio::test]
async fn who_is_slow_is_cut_off() {
    let bench = Bench::start().await;
    // No handshake; half a head; half a form.
    let mut mute = TcpStream::connect(bench.https).await.unwrap();
    let mut slow = bench.connect().await;
    slow.write_all(b"GET / HTTP/1.1\r\nHost: 127.0").await.unwrap();
    let mut form = bench.connect().await;
    let head = "POST /login HTTP/1.1\r\nHost: 127.0.0.1\r\nOrigin: https://127.0.0.1\r\n\
                Content-Length: 30\r\nConnection: close\r\n\r\nsecret=";
    form.write_all(head.as_bytes()).await.unwrap();
    let began = tokio::time::Instant::now();
    let (mute, slow, form) =
        tokio::join!(Answer::read(&mut mute), Answer::read(&mut slow), Answer::read(&mut form));
    assert!(began.elapsed() >= BODY_TIME_MAX);
    assert_eq!(form.status, 408);
    assert!(mute.body.is_empty() && [0, 408].contains(&slow.status), "{}", slow.status);
}
