//! A whole hour of a site in virtual time, and the page of it: as text, over HTTP, and in a browser.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use service_kit::http::{Pages, Status, StatusSettings};
use service_kit::metrics::Registry;
use tokio::process::Command;
use tokio::time::timeout;

use super::*;
use crate::fleet::{Assignment, Fleet, Report};
use crate::health::{HealthSettings, PollFailure};
use crate::history::History;
use crate::table::Table;

const PATIENCE: Duration = Duration::from_secs(120);
/// 2026-11-26, 10:00 UTC.
const START_S: u64 = 1_795_687_200;
const HEALTH: HealthSettings = HealthSettings {
    load_average_max_milli: 8_000,
    load_average_recover_milli: 6_000,
    recover_polls: 3,
};

/// The site of the design: two proxies once in the table, three twice. In its hour one of them dies
/// and comes back, one is drained for a while, and one is overloaded at the end.
fn an_hour() -> View {
    let pairs: BTreeMap<String, String> =
        (1..=5).map(|n| (format!("10.0.0.{n}"), format!("203.0.113.10:{}", 4651 + n))).collect();
    let list = "10.0.0.1,10.0.0.2,10.0.0.3,10.0.0.3,10.0.0.4,10.0.0.4,10.0.0.5,10.0.0.5";
    let start = Instant::now().into_std();
    let mut fleet =
        Fleet::new(Table::parse(list, &pairs).unwrap(), Selection::TwoChoices, HEALTH, 7, start);
    let address = |n: u32| -> SocketAddr { format!("10.0.0.{n}:4652").parse().unwrap() };
    let connection = fleet.connected();
    let mut history = History::default();
    let mut running = Vec::new();
    let mut totals = Totals { denied: 3, busy: 12, ..Totals::default() };
    let (mut messages, mut infected, mut unscannable) = (0_u64, 0, 0);
    let (mut due, mut drawn) = (0.0, 7_u32);
    for second in 0..3_660_u32 {
        let now = start + Duration::from_secs(second.into());
        match second {
            1_200 => assert!(fleet.drain(Some(address(4)))),
            2_100 => assert!(fleet.undrain(Some(address(4)), now)),
            3_645 => assert!(fleet.drain(Some(address(3)))),
            _ => {}
        }
        let lives: Vec<u32> = fleet.status(now).map(|proxy| proxy.live).collect();
        for (place, sessions) in lives.into_iter().enumerate() {
            let dead = place == 4 && (2_700..3_000).contains(&second);
            let busy = if place == 1 && second > 3_640 { 9_120 } else { 0 };
            let load_average_milli = busy.max(sessions * 22 + 130);
            match dead {
                true => fleet.poll_failed(place, PollFailure::TimedOut, now),
                false => fleet.reported(
                    place,
                    Report { load_average_milli, sessions: 0, draining: false },
                    now,
                ),
            };
        }
        // Two to eight sessions a second, in waves, of twenty to forty seconds.
        let second_f = f64::from(second);
        let waves = (second_f / 900.0).sin() + (second_f / 190.0).sin() / 3.0;
        due += 5.0 + 2.2 * waves + (second_f / 23.0).cos() / 2.0;
        while due >= 1.0 {
            due -= 1.0;
            drawn = drawn.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            let Assignment::Use { lease, .. } = fleet.assign(connection, &[], now) else {
                continue;
            };
            totals.assignments += 1;
            running.push((second + 20 + (drawn >> 16) % 21, lease));
        }
        running.retain(|&(end, lease)| {
            if end <= second {
                fleet.bye(connection, lease);
                messages += 1;
                infected += u64::from(messages.is_multiple_of(97));
                unscannable += u64::from(messages.is_multiple_of(31));
            }
            end > second
        });
        totals.verdicts = Verdicts::of(messages, unscannable, infected);
        if second % 10 == 0 {
            let proxies: Vec<_> = fleet.status(now).collect();
            history.note(START_S + u64::from(second), proxies.iter(), totals.verdicts);
        }
    }
    let now = start + Duration::from_secs(3_660);
    View {
        name: "tokyo-1".to_owned(),
        now_s: START_S + 3_660,
        stopping: false,
        drained: false,
        selection: Selection::TwoChoices,
        boxes: 214,
        proxies: fleet.status(now).collect(),
        points: history.points().cloned().collect(),
        totals,
    }
}

#[tokio::test]
async fn the_page_shows_each_proxy_with_its_state_and_share() {
    let view = an_hour();
    let text = html::page(&view);
    for place in 1..=5 {
        assert!(text.contains(&format!("10.0.0.{place}:4652<br>")), "{text}");
        assert!(text.contains(&format!("203.0.113.10:{}", 4651 + place)));
    }
    assert!(text.contains("load average 9.120") && text.contains(">draining<"));
    assert!(text.contains("of 5") && text.contains("25 % by the table"));
    // All of it in elements of its own: no style or script stands in the page.
    assert!(!text.contains("style=") && !text.contains("<style") && !text.contains("onclick"));
    assert_eq!(text.matches("<script").count(), 1);
    assert!(!text.contains("http://") && !text.contains("https://"));
}

#[tokio::test]
async fn the_page_of_a_manager_that_has_just_started_is_whole() {
    let view = View { points: Vec::new(), proxies: Vec::new(), ..an_hour() };
    let text = html::page(&view);
    assert!(text.ends_with("</html>\n") && text.contains("of 0"));
    let evil = View { name: "\"><script>x</script>".to_owned(), ..view };
    assert!(!html::page(&evil).contains("<script>x"));
}

#[tokio::test]
async fn the_page_of_the_largest_site_is_bounded() {
    let mut view = an_hour();
    let proxies: Vec<ProxyStatus> = (0..64)
        .map(|n| ProxyStatus { local: SocketAddr::from(([10, 0, 1, n], 4652)), ..view.proxies[0] })
        .collect();
    for point in &mut view.points {
        let one = point.proxies[0];
        point.proxies =
            proxies.iter().map(|p| crate::history::ProxyPoint { proxy: p.local, ..one }).collect();
    }
    view.proxies = proxies;
    let bytes = html::content(&view).len();
    assert!(bytes < 256 * 1024, "{bytes}");
}

/// Debian's chromium, or what `AVR_CHROMIUM` names.
fn chromium() -> PathBuf {
    let named = std::env::var_os("AVR_CHROMIUM").map(PathBuf::from);
    named.unwrap_or_else(|| Path::new("/usr/bin/chromium").to_owned())
}

/// Runs a browser without a screen; returns what it says on standard output and error.
async fn browse(profile: &Path, options: &[&str], address: SocketAddr) -> (String, String) {
    let chromium = chromium();
    assert!(
        chromium.exists(),
        "no {}; scripts/install-packages --checks installs it",
        chromium.display()
    );
    let mut command = Command::new(chromium);
    command
        .args(["--headless", "--no-sandbox", "--disable-gpu", "--no-first-run"])
        .args(["--disable-dev-shm-usage", "--disable-background-networking"])
        .args(["--enable-logging=stderr", "--window-size=1120,1240", "--hide-scrollbars"])
        .arg(format!("--user-data-dir={}", profile.display()))
        .args(options)
        .arg(format!("http://{address}/"))
        .stdin(Stdio::null())
        .kill_on_drop(true);
    let output = timeout(PATIENCE, command.output()).await.expect("the browser hangs").unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
    (text(output.stdout), text(output.stderr))
}

/// The page of an hour on a real status port, and what sends it anew.
async fn serve(view: &View) -> (SocketAddr, watch::Sender<String>, tokio::task::AbortHandle) {
    let (sender, texts) = watch::channel(html::content(view));
    let shown = view.clone();
    let more = routes(
        move || {
            let text = html::page(&shown);
            async move { text }
        },
        texts,
    );
    let status = Status::bind(StatusSettings::on_loopback(0)).await.unwrap();
    let address = status.address().unwrap();
    let pages = Pages { registry: Registry::default(), missing: Box::new(Vec::new), more };
    (address, sender, tokio::spawn(status.serve(pages)).abort_handle())
}

/// In a browser: the page is drawn without a word of complaint, and what the server sends replaces
/// what it shows. With `AVR_PAGE_PNG=FILE` its picture is written there.
#[tokio::test(flavor = "multi_thread")]
async fn a_browser_shows_the_page_and_follows_it() {
    let profile = tempfile::tempdir().unwrap();
    let view = an_hour();
    let (address, sender, server) = serve(&view).await;
    let png = std::env::var_os("AVR_PAGE_PNG").map(PathBuf::from);
    let shot = png.unwrap_or_else(|| profile.path().join("page.png"));
    let option = format!("--screenshot={}", shot.display());
    let (_, complaints) = browse(profile.path(), &[&option, "--timeout=2000"], address).await;
    assert!(!complaints.contains("Content Security Policy"), "{complaints}");
    assert!(!complaints.contains("CONSOLE"), "{complaints}");
    let picture = std::fs::read(&shot).unwrap();
    assert!(picture.starts_with(b"\x89PNG") && picture.len() > 20_000, "{}", picture.len());

    // Only what came by the event can be in the document that the browser then has. The stream ends
    // behind it: while one is open, a browser's virtual time stands still.
    sender.send_replace(format!("<p id=\"live\">sent anew</p>\n{}", html::content(&view)));
    drop(sender);
    let options = ["--dump-dom", "--virtual-time-budget=3000"];
    let (document, complaints) = browse(profile.path(), &options, address).await;
    assert!(document.contains("<p id=\"live\">sent anew</p>"), "{document}\n{complaints}");
    assert!(document.contains("10.0.0.5:4652"), "{document}");
    server.abort();
}
