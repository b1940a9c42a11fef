//! A process on its way to become a service: what it has given up when it is there. Needs root.
#![allow(clippy::tests_outside_test_module, reason = "an integration test is a test module")]

use std::collections::HashMap;
use std::process::{Command, Output};

use box_init::Spec;

/// `CAP_KILL` and `CAP_NET_ADMIN`, as bits.
const KILL: u64 = 1 << 5;
const NET_ADMIN: u64 = 1 << 12;

fn spec(script: &str) -> Spec {
    Spec {
        program: "/bin/sh".to_owned(),
        args: vec!["-c".to_owned(), script.to_owned()],
        env: vec![("PATH".to_owned(), "/usr/bin:/bin".to_owned())],
        user: 0,
        capabilities: KILL | NET_ADMIN,
        descriptors_max: 77,
        processes_max: 0,
        oom_score: 300,
        group: "no-such-group".to_owned(),
    }
}

fn run(spec: &Spec) -> Output {
    let spec = serde_json::to_string(spec).expect("a spec is JSON");
    let mut command = Command::new(env!("CARGO_BIN_EXE_box-init"));
    command.args(["exec", &spec]).env("SECRET", "of PID 1").output().expect("the program is built")
}

/// `/proc/self/status` of the service.
fn status(spec: &Spec) -> HashMap<String, String> {
    let output = run(spec);
    assert!(output.status.success(), "{output:?}");
    let text = String::from_utf8(output.stdout).expect("text");
    let pairs = text.lines().filter_map(|line| line.split_once(':'));
    pairs.map(|(key, value)| (key.to_owned(), value.trim().to_owned())).collect()
}

#[test]
fn root_is_left_with_what_the_table_says() {
    let status = status(&spec("cat /proc/self/status"));
    for key in ["CapPrm", "CapEff", "CapBnd"] {
        assert_eq!(u64::from_str_radix(&status[key], 16), Ok(KILL | NET_ADMIN), "{key}");
    }
    assert_eq!(status["NoNewPrivs"], "1");
    assert_eq!(status["Groups"], "");
    assert_eq!(u64::from_str_radix(&status["SigBlk"], 16), Ok(0));
}

#[test]
fn another_user_keeps_its_capabilities_and_gets_no_more() {
    let status = status(&Spec { user: 65_534, ..spec("cat /proc/self/status") });
    assert_eq!(status["Uid"].split_whitespace().next(), Some("65534"));
    for key in ["CapPrm", "CapEff", "CapBnd", "CapAmb"] {
        assert_eq!(u64::from_str_radix(&status[key], 16), Ok(KILL | NET_ADMIN), "{key}");
    }
}

#[test]
fn limits_environment_and_session_are_its_own() {
    let output = run(&spec("ulimit -n; ulimit -c; cat /proc/self/oom_score_adj; pwd; env"));
    let text = String::from_utf8(output.stdout).expect("text");
    assert!(text.starts_with("77\n0\n300\n/\n"), "{text}");
    assert!(!text.contains("SECRET"), "{text}");
}

#[test]
fn what_cannot_be_started_is_said() {
    let output = run(&Spec { program: "/no/such/program".to_owned(), ..spec("") });
    assert!(!output.status.success());
    let problem = String::from_utf8(output.stderr).expect("text");
    assert_eq!(problem, "box-init: start the program: No such file or directory (os error 2)\n");
}
