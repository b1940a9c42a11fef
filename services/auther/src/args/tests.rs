use std::fs;
use std::path::Path;

use super::*;

/// Runs a command line in `directory` and returns what it showed.
fn avr_auther(directory: &Path, line: &[&str]) -> Result<String, String> {
    let registry = directory.join("registry.sqlite").display().to_string();
    let words = ["avr-auther", "--registry", &registry].into_iter().chain(line.iter().copied());
    let args = Args::try_parse_from(words).map_err(|error| error.to_string())?;
    let mut out = Vec::new();
    run(args, &mut out).map_err(|error| format!("{error:#}"))?;
    Ok(String::from_utf8(out).unwrap())
}

#[test]
fn an_operators_day() {
    let directory = tempfile::tempdir().unwrap();
    let run = |line: &[&str]| avr_auther(directory.path(), line);
    let mac = "02:00:00:00:00:01";
    let error = run(&["list"]).unwrap_err();
    assert!(error.contains("`avr-auther add` makes one"), "{error}");
    let line = ["add", "02-00-00-00-00-01", "--note", "front desk", "--sessions-max", "50"];
    assert_eq!(run(&line).unwrap(), format!("added {mac}; its first login binds its key\n"));
    let error = run(&["add", mac]).unwrap_err();
    assert!(error.contains("is registered already; `avr-auther replace-key"), "{error}");
    assert!(run(&["suspend", mac]).unwrap().contains("runs out within 24 hours"));
    assert!(run(&["edit", mac, "--serial", "AVR-7"]).unwrap().starts_with("changed"));
    let list = run(&["list", "--search", "avr-7", "--state", "suspended"]).unwrap();
    let row = list.lines().nth(1).unwrap();
    assert!(row.starts_with(mac) && row.contains("suspended") && row.ends_with("front desk"));
    assert_eq!(run(&["resume", mac]).unwrap(), format!("resumed {mac}\n"));
    assert_eq!(run(&["list", "--state", "suspended"]).unwrap().lines().count(), 1);
    let line = ["replace-key", mac, "--window-hours", "4"];
    assert!(run(&line).unwrap().contains("good until then"));
    let line = ["replace-key", mac, "--revoke-now", "--window-hours", "5"];
    assert!(run(&line).unwrap().contains("void from now on"));
    assert!(run(&["remove", mac]).unwrap().starts_with("removed"));
    for verb in ["suspend", "resume", "remove", "replace-key"] {
        let error = run(&[verb, mac]).unwrap_err();
        assert!(error.contains("is not registered; `avr-auther list`"), "{error}");
    }
    let audit = run(&["audit", "--since", "1d", "--mac", mac]).unwrap();
    let lines: Vec<_> = audit.lines().collect();
    assert_eq!(lines.len(), 7, "{audit}");
    let user = crate::registry::Actor::unix(nix::unistd::geteuid().as_raw());
    assert!(lines[0].contains(user.name()) && lines[0].contains("  add  "), "{audit}");
    assert!(lines[2].contains("edit") && lines[2].contains("serial: \"\" -> \"AVR-7\""), "{audit}");
    let json = run(&["audit", "--json"]).unwrap();
    let last: serde_json::Value = serde_json::from_str(json.lines().last().unwrap()).unwrap();
    assert_eq!((&last["what"], &last["before"]["serial"]), (&"remove".into(), &"AVR-7".into()));
    assert!(run(&["audit", "--since", "soon"]).unwrap_err().contains("write 2026-11-23"));
    assert!(run(&["revocations"]).unwrap().contains("0 revocations"));
}

#[test]
fn tokens_are_shown_once() {
    let directory = tempfile::tempdir().unwrap();
    let run = |line: &[&str]| avr_auther(directory.path(), line);
    let shown = run(&["token", "add", "ops", "--scope", "write", "--days", "30"]).unwrap();
    assert!(crate::token::split(shown.trim_end()).is_some());
    let list = run(&["token", "list"]).unwrap();
    assert!(list.lines().nth(1).unwrap().starts_with("ops "), "{list}");
    assert!(!list.contains(shown.trim_end()));
    let error = run(&["token", "add", "ops", "--scope", "read"]).unwrap_err();
    assert!(error.contains("there is a token ops already"), "{error}");
    assert_eq!(run(&["token", "remove", "ops"]).unwrap(), "removed the token ops\n");
    let error = run(&["token", "remove", "ops"]).unwrap_err();
    assert!(error.contains("there is no token ops"), "{error}");
    assert!(run(&["token", "add", "A", "--scope", "read"]).unwrap_err().contains("lower-case"));
    assert!(run(&["token", "add", "a", "--scope", "all"]).unwrap_err().contains("read or write"));
}

#[test]
fn an_export_is_another_registrys_import() {
    let (one, two) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    avr_auther(one.path(), &["add", "020000000001", "--note", "=x", "--serial", "A1"]).unwrap();
    let shown = avr_auther(one.path(), &["export"]).unwrap();
    assert!(shown.starts_with("mac,serial,note,") && shown.contains(",A1,'=x,"), "{shown}");
    let file = one.path().join("boxes.csv").display().to_string();
    avr_auther(one.path(), &["export", "--out", &file]).unwrap();
    assert_eq!(fs::read_to_string(&file).unwrap(), shown);
    let error = avr_auther(one.path(), &["export", "--out", &file]).unwrap_err();
    assert!(error.contains("cannot make"), "{error}");
    let tried = avr_auther(two.path(), &["import", "--dry-run", &file]).unwrap();
    assert!(tried.starts_with("would have added 1 boxes"), "{tried}");
    avr_auther(two.path(), &["import", &file]).unwrap();
    let list = avr_auther(two.path(), &["list"]).unwrap();
    assert!(list.ends_with("A1            =x\n"), "{list}");
}

#[test]
fn commands_go_to_the_server_that_runs_and_to_the_file_when_none_does() {
    let directory = tempfile::tempdir().unwrap();
    let at = directory.path().display();
    fleet::init(directory.path()).unwrap();
    fleet::issue(directory.path(), &[Role::Auther], "a", directory.path()).unwrap();
    let settings = directory.path().join("auther.toml");
    let text = format!(
        "listen = \"127.0.0.1:0\"\nfleet_ca = \"{at}/fleet-ca.pem\"\n\
         certificate = \"{at}/a.crt\"\nkey = \"{at}/a.key\"\nticket_key = \"{at}/ticket.key\"\n\
         registry = \"{at}/registry.sqlite\"\n[admin]\nsocket = \"{at}/auther.sock\"\n"
    );
    fs::write(&settings, text).unwrap();
    let path = settings.display().to_string();
    let operate = |line: &[&str]| {
        let words = ["avr-auther", "--config", &path].into_iter().chain(line.iter().copied());
        let mut out = Vec::new();
        run(Args::try_parse_from(words).unwrap(), &mut out).map_err(|e| format!("{e:#}"))?;
        Ok::<_, String>(String::from_utf8(out).unwrap())
    };
    operate(&["add", "020000000001"]).unwrap();

    let runtime = tokio::runtime::Runtime::new().unwrap();
    let (trigger, drain) = service_kit::DrainTrigger::new();
    let (counters, server) = runtime.block_on(async {
        let (settings, document) = settings::load(&settings).unwrap();
        let ready = settings.ready(&document, None).await.unwrap();
        let auther = Auther::bind(ready, unix_now_s).await.unwrap();
        (auther.admin_counters(), tokio::spawn(auther.serve(drain)))
    });
    operate(&["add", "020000000002"]).unwrap();
    assert!(operate(&["add", "020000000002"]).unwrap_err().contains("registered already"));
    assert_eq!(operate(&["list"]).unwrap().lines().count(), 3);
    assert!(operate(&["export"]).unwrap().lines().count() == 3);
    assert_eq!((counters.answered.get(), counters.bad.get()), (3, 1));
    trigger.drain();
    runtime.block_on(server).unwrap();
    assert_eq!(operate(&["list"]).unwrap().lines().count(), 3);
    assert_eq!(counters.answered.get(), 3);
}

#[test]
fn list_json_has_every_box_with_its_fields() {
    let directory = tempfile::tempdir().unwrap();
    let run = |line: &[&str]| avr_auther(directory.path(), line);
    run(&["add", "02:00:00:00:00:02", "--note", "2F \"east\""]).unwrap();
    run(&["add", "02:00:00:00:00:01"]).unwrap();
    let list: serde_json::Value = serde_json::from_str(&run(&["list", "--json"]).unwrap()).unwrap();
    let list = list.as_array().unwrap();
    assert_eq!(list.len(), 2);
    assert_eq!(list[0]["mac"], "02:00:00:00:00:01");
    assert_eq!(list[1]["note"], "2F \"east\"");
    assert_eq!(list[1]["state"], "waiting");
    assert_eq!(list[1]["sessions_max"], SESSIONS_MAX_DEFAULT);
    assert!(list[1]["added_s"].as_u64().unwrap() > 1_767_225_600);
    for field in ["key", "bound_s", "last_login_s", "software"] {
        assert!(list[1].get(field).unwrap().is_null(), "{field}");
    }
    assert_eq!(list[1]["other_key_logins"], 0);
}

#[test]
fn an_import_is_all_or_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let run = |line: &[&str]| avr_auther(directory.path(), line);
    let file = directory.path().join("boxes.csv");
    let path = file.display().to_string();
    fs::write(&file, "mac,note\n02:00:00:00:00:01,a\nrubbish,b\n").unwrap();
    let error = run(&["add", "--csv", &path]).unwrap_err();
    assert!(error.contains("boxes.csv") && error.contains("line 3: \"rubbish\" is not"), "{error}");
    assert_eq!(run(&["list"]).unwrap().lines().count(), 1);
    fs::write(&file, "mac,note\n02:00:00:00:00:01,a\n02:00:00:00:00:02,b\n").unwrap();
    let shown = run(&["add", "--csv", &path]).unwrap();
    assert!(shown.starts_with("added 2 boxes; 0 were"), "{shown}");
    let shown = run(&["add", "--csv", &path]).unwrap();
    assert!(shown.starts_with("added 0 boxes; 2 were registered already"), "{shown}");
}

#[test]
fn bad_arguments_are_explained() {
    let directory = tempfile::tempdir().unwrap();
    let run = |line: &[&str]| avr_auther(directory.path(), line).unwrap_err();
    assert!(run(&["add", "nonsense"]).contains("write it as 02:00:5e:10:00:01"));
    assert!(run(&["add", "ff:ff:ff:ff:ff:ff"]).contains("address of a group"));
    assert!(run(&["add"]).contains("MAC"));
    let line = ["add", "02:00:00:00:00:01", "--sessions-max", "0"];
    assert!(run(&line).contains("from 1 to 100000"));
    let line = ["issue", "--dir", "x", "--role", "boss", "--name", "n"];
    assert!(run(&line).contains("write auther, manager or proxy"));
    let line = ["issue", "--dir", "x", "--role", "proxy"];
    assert!(run(&line).contains("--name"));
}

#[test]
fn a_fleet_is_made_and_its_settings_checked() {
    let directory = tempfile::tempdir().unwrap();
    let run = |line: &[&str]| avr_auther(directory.path(), line);
    let fleet = directory.path().join("fleet");
    let at = fleet.display().to_string();
    let shown = run(&["init", "--dir", &at]).unwrap();
    assert_eq!(shown.lines().count(), 4);
    run(&["issue", "--dir", &at, "--role", "auther", "--role", "manager", "--name", "a"]).unwrap();
    run(&["issue", "--directory", &at, "--role", "proxy", "b"]).unwrap();
    let settings = directory.path().join("auther.toml");
    let text = format!(
        "fleet_ca = \"{at}/fleet-ca.pem\"\ncertificate = \"{at}/a.crt\"\nkey = \"{at}/a.key\"\n\
         ticket_key = \"{at}/ticket.key\"\nregistry = \"{at}/registry.sqlite\"\n"
    );
    fs::write(&settings, &text).unwrap();
    let path = settings.display().to_string();
    let line = ["config", "check", "--config", &path];
    assert!(run(&line).unwrap().ends_with("auther.toml is good\n"));
    fs::write(&settings, text.replace("a.crt", "b.crt").replace("a.key", "b.key")).unwrap();
    let error = run(&line).unwrap_err();
    assert!(error.contains("auther.toml:2: ") && error.contains("--role auther"), "{error}");

    let mut out = Vec::new();
    run_with_settings(&["avr-auther", "add", "02:00:00:00:00:01", "--config", &path], &mut out);
    run_with_settings(&["avr-auther", "list", "--config", &path], &mut out);
    assert_eq!(String::from_utf8(out).unwrap().lines().count(), 3);
    assert!(fleet.join("registry.sqlite").exists());
}

/// The registry is found through the settings.
fn run_with_settings(words: &[&str], out: &mut Vec<u8>) {
    run(Args::try_parse_from(words).unwrap(), out).unwrap();
}
