//! The page in headless Chromium, which is told what to do over a pair of pipes (the DevTools protocol).

use std::fs::File;
use std::io::{BufRead as _, BufReader, Write as _};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, sync_channel};

use base64::Engine as _;
use nix::sys::stat::Mode;
use nix::unistd::mkfifo;
use serde_json::{Value, json};

use super::bench::{Bench, HOSTILE, PATIENCE, SECRET};

/// What the browser says and has not been read yet.
const SAYINGS_MAX: usize = 1024;

struct Browser {
    child: Child,
    orders: File,
    said: Receiver<Value>,
    number: u64,
    session: Value,
    /// What it complained of.
    complaints: Vec<String>,
}

impl Browser {
    /// Debian's chromium, or what `AVR_CHROMIUM` names, with nobody's certificate believed or not.
    fn open(folder: &Path, address: SocketAddr) -> Self {
        let program = std::env::var_os("AVR_CHROMIUM").map(PathBuf::from);
        let program = program.unwrap_or_else(|| Path::new("/usr/bin/chromium").to_owned());
        assert!(
            program.exists(),
            "no {}; scripts/install-packages --checks installs it",
            program.display()
        );
        let (orders, sayings) = (folder.join("orders"), folder.join("sayings"));
        for pipe in [&orders, &sayings] {
            mkfifo(pipe, Mode::S_IRUSR | Mode::S_IWUSR).unwrap();
        }
        // It reads from its descriptor 3 and writes to 4; a shell puts the pipes there.
        let child = Command::new("/bin/sh")
            .args(["-c", "exec \"$@\" 3<\"$ORDERS\" 4>\"$SAYINGS\"", "sh"])
            .arg(program)
            .args(["--headless", "--no-sandbox", "--disable-gpu", "--no-first-run"])
            .args(["--disable-dev-shm-usage", "--disable-background-networking"])
            .args(["--ignore-certificate-errors", "--remote-debugging-pipe", "--hide-scrollbars"])
            .arg("--window-size=1120,1240")
            .arg(format!("--user-data-dir={}", folder.join("profile").display()))
            .env("ORDERS", &orders)
            .env("SAYINGS", &sayings)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let orders = File::options().write(true).open(orders).unwrap();
        let sayings = File::open(sayings).unwrap();
        let (sender, said) = sync_channel(SAYINGS_MAX);
        std::thread::spawn(move || {
            for text in BufReader::new(sayings).split(0).map_while(Result::ok) {
                if sender.send(serde_json::from_slice(&text).unwrap()).is_err() {
                    return;
                }
            }
        });
        let mut browser =
            Self { child, orders, said, number: 0, session: Value::Null, complaints: Vec::new() };
        let target = browser.order("Target.createTarget", json!({ "url": "about:blank" }));
        let attach = json!({ "targetId": target["targetId"], "flatten": true });
        browser.session = browser.order("Target.attachToTarget", attach)["sessionId"].clone();
        for domain in ["Page.enable", "Log.enable", "Runtime.enable"] {
            browser.order(domain, json!({}));
        }
        browser.order("Page.navigate", json!({ "url": format!("https://{address}/") }));
        browser
    }

    fn order(&mut self, method: &str, params: Value) -> Value {
        self.number += 1;
        let mut order = json!({ "id": self.number, "method": method, "params": params });
        if !self.session.is_null() {
            order["sessionId"] = self.session.clone();
        }
        self.orders.write_all(format!("{order}\0").as_bytes()).unwrap();
        loop {
            let said = self.said.recv_timeout(PATIENCE).expect("the browser says something");
            // What it merely recommends is no complaint.
            let level = &said["params"]["entry"]["level"];
            let complains =
                ["Log.entryAdded", "Runtime.consoleAPICalled", "Runtime.exceptionThrown"]
                    .contains(&said["method"].as_str().unwrap_or_default());
            if complains && level != "verbose" {
                self.complaints.push(said.to_string());
            }
            if said["id"] == self.number {
                assert!(said["error"].is_null(), "{method}: {said}");
                return said["result"].clone();
            }
        }
    }

    fn value(&mut self, script: &str) -> Value {
        let params = json!({ "expression": script, "returnByValue": true });
        self.order("Runtime.evaluate", params)["result"]["value"].clone()
    }

    /// Asks until it is so. While a page goes for the next, there may be none to ask.
    fn wait_for(&mut self, script: &str) {
        let began = tokio::time::Instant::now();
        while self.value(script) != true {
            let text = self.value("document.documentElement.outerHTML");
            assert!(began.elapsed() < PATIENCE, "{script} is not so in {text}");
        }
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A person logs in and sees everything; what a hostile mail says is shown and not done. With
/// `AVR_PAGE_PNG=FILE` the page's picture is written there.
#[tokio::test(flavor = "multi_thread")]
async fn a_browser_logs_in_and_shows_what_a_hostile_mail_says_and_does_not_do_it() {
    let bench = Bench::start().await;
    let (folder, address) = (tempfile::tempdir().unwrap(), bench.https);
    let look = move || {
        let mut browser = Browser::open(folder.path(), address);
        browser.wait_for("document.querySelectorAll('svg.chart').length === 4");
        let hidden = browser.value("document.body.innerText.includes('EICAR')");
        assert_eq!(hidden, false, "mails are nobody's business");
        browser.value(&format!(
            "document.querySelector('input[name=secret]').value = {}; \
             document.querySelector('form[action=\"/login\"]').requestSubmit(); 0",
            Value::from(SECRET)
        ));
        browser.wait_for("!!document.querySelector('form[action=\"/logout\"]') && document.readyState === 'complete'");
        assert_eq!(browser.value("document.querySelectorAll('svg.chart').length"), 4);
        assert!(
            browser.value("document.querySelectorAll('svg.chart rect').length").as_u64().unwrap()
                > 200
        );
        let text = browser.value("document.body.innerText");
        assert!(text.as_str().unwrap().contains(HOSTILE), "{text}");
        assert_eq!(browser.value("document.querySelectorAll('script, img').length"), 0);
        assert_eq!(browser.value("document.title"), "AVR mail gateway");
        // The style sheet was taken: it is what gives the page its width.
        let width = browser.value("getComputedStyle(document.querySelector('main')).maxWidth");
        assert_eq!(width, "1080px");
        browser.value("document.querySelector('details').open = true; 0");
        let size = browser.order("Page.getLayoutMetrics", json!({}));
        let height = size["cssContentSize"]["height"].as_u64().unwrap_or(2_000);
        let clip = json!({ "x": 0, "y": 0, "width": 1120, "height": height, "scale": 1 });
        let params = json!({ "format": "png", "captureBeyondViewport": true, "clip": clip });
        let picture = browser.order("Page.captureScreenshot", params)["data"].clone();
        let picture =
            base64::engine::general_purpose::STANDARD.decode(picture.as_str().unwrap()).unwrap();
        assert!(picture.starts_with(b"\x89PNG") && picture.len() > 20_000, "{}", picture.len());
        if let Some(path) = std::env::var_os("AVR_PAGE_PNG") {
            std::fs::write(path, picture).unwrap();
        }
        // An order by its button.
        browser.value("document.querySelector('form[action=\"/snooze\"] button').click(); 0");
        browser.wait_for("document.body.innerText.includes('Snoozing for another 10 min.')");
        assert!(browser.complaints.is_empty(), "{:?}", browser.complaints);
    };
    tokio::task::spawn_blocking(look).await.unwrap();
    assert!(bench.asked.lock().unwrap().iter().any(|asked| asked["seconds"] == 600));
}
