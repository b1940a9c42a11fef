//! The alert rules and the dashboard: they are right, and name only what a manager exports.
#![allow(clippy::tests_outside_test_module, reason = "an integration test is a test module")]
#![allow(clippy::unwrap_used, reason = "a test")]

mod lab;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;

use lab::{Fleet, Lab, named};
use service_kit::host;
use wire::Message;

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../monitoring")
}

fn promtool(arguments: &[&str]) {
    let output = Command::new("promtool")
        .args(arguments)
        .current_dir(folder())
        .output()
        .expect("promtool; scripts/install-packages --checks installs it");
    let said = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
    assert!(output.status.success(), "{said}");
}

#[test]
fn the_alert_rules_are_right_and_fire_when_they_should() {
    promtool(&["check", "rules", "alerts.yml"]);
    promtool(&["test", "rules", "alerts.test.yml"]);
}

/// The words in a text that begin so.
fn names(text: &str, prefix: &str) -> BTreeSet<String> {
    text.split(|c: char| !(c.is_ascii_alphanumeric() || c == '_'))
        .filter(|word| word.starts_with(prefix))
        .map(str::to_owned)
        .collect()
}

#[tokio::test]
async fn the_dashboard_and_the_rules_name_what_a_manager_exports() {
    let lab = Lab::new(1).await;
    // What has labels is exported from its first value on: a refusal, and a mark.
    let mut one = lab.admitted().await;
    one.ask_until(|answer| named(answer).len() == 1).await;
    lab.proxies[0].set_load(9_000);
    one.ask_until(|answer| named(answer).is_empty()).await;
    let key = wire::identity::DeviceKey::generate().unwrap();
    let ticket = Fleet::new().ticket(key.fingerprint(), host::unix_now_s());
    let mut stranger = lab::PlayedBox { link: lab.link(&key).await, ticket };
    assert!(matches!(stranger.ask(&[]).await, Message::Denied(_)));

    let exported = names(&lab.page("/metrics").await, "avr_manager_");
    let mut named = BTreeSet::new();
    for file in ["dashboard.json", "alerts.yml"] {
        let text = std::fs::read_to_string(folder().join(file)).unwrap();
        named.append(&mut names(&text, "avr_manager_"));
    }
    assert!(named.len() > 10, "{named:?}");
    let unknown: Vec<_> = named.difference(&exported).collect();
    assert!(unknown.is_empty(), "{unknown:?} of {exported:?}");
}
