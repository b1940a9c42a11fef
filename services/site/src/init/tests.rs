use std::fs;
use std::os::unix::fs::PermissionsExt as _;

use service_kit::host::unix_now_s;

use super::*;
use crate::bundle::tests::fleet;

/// A bundle, a root, and stand-ins for the servers' programs, which say yes unless told otherwise.
struct Place {
    folder: tempfile::TempDir,
}

impl Place {
    fn new(roles: &[Role]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let keys = folder.path().join("fleet");
        fs::create_dir(&keys).unwrap();
        fleet(&keys, &[("tokyo-1", roles)]);
        let bundle = Bundle::collect(&keys, "tokyo-1", "avr.test", unix_now_s).unwrap();
        bundle.write(&folder.path().join("bundle")).unwrap();
        let place = Self { folder };
        for program in ["avr-auther", "avr-manager", "avr-proxy", "nft"] {
            place.program(program, "exit 0");
        }
        place
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn program(&self, name: &str, does: &str) {
        let path = self.path(name);
        fs::write(&path, format!("#!/bin/sh\n{does}\n")).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    }

    fn init(&self) -> Init {
        let list = |items: &[&str]| Some(items.iter().map(|item| (*item).to_owned()).collect());
        Init {
            bundle: self.path("bundle"),
            given: Given {
                public: list(&["203.0.113.10"]),
                auther: list(&["10.0.0.1"]),
                manager: list(&["10.0.0.1"]),
                proxy: list(&["10.0.0.1", "10.0.0.2"]),
                clamd: list(&["10.0.0.3:3310"]),
                ..Given::default()
            },
            target: Target { root: self.path("root"), group: None },
            force: false,
            dry_run: false,
            programs: Programs::new(Some(self.folder.path()), None),
            clock: unix_now_s,
        }
    }

    fn names(&self) -> Vec<String> {
        let Ok(entries) = fs::read_dir(self.path("root/etc/avr")) else { return Vec::new() };
        let mut names: Vec<String> =
            entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    fn read(&self, name: &str) -> String {
        fs::read_to_string(self.path("root/etc/avr").join(name)).unwrap()
    }
}

fn ran(init: &Init, answers: Option<&str>) -> Result<String, String> {
    let mut out = Vec::new();
    let mut answers = answers.map(str::as_bytes);
    let person = answers.as_mut().map(|answers| answers as &mut dyn BufRead);
    let done = run(init, person, &mut out);
    let out = String::from_utf8(out).unwrap();
    done.map(|()| out.clone()).map_err(|error| format!("{error:#}\n{out}"))
}

#[test]
fn everything_a_server_needs_is_written_once() {
    let place = Place::new(&Role::ALL);
    ran(&place.init(), None).unwrap();
    let all = [
        "auther.toml",
        "dns-change.txt",
        "fleet-ca.pem",
        "forward.nft",
        "manager.toml",
        "proxy.toml",
        "server.crt",
        "server.key",
        "site.toml",
        "ticket.key",
        "ticket.pub",
    ];
    assert_eq!(place.names(), all);
    for (name, mode) in [("server.key", 0o600), ("ticket.key", 0o600), ("manager.toml", 0o644)] {
        let found =
            fs::metadata(place.path("root/etc/avr").join(name)).unwrap().permissions().mode();
        assert_eq!(found & 0o777, mode, "{name}");
    }
    assert!(place.path("root/var/lib/avr-auther").is_dir());
    let before = place.read("manager.toml");
    ran(&place.init(), None).unwrap();
    // The answers of the last time stand where nothing else is given.
    ran(&Init { given: Given::default(), ..place.init() }, None).unwrap();
    assert_eq!(place.read("manager.toml"), before);
    assert_eq!(place.names(), all);
}

#[test]
fn a_server_gets_only_the_files_of_its_roles() {
    let place = Place::new(&[Role::Proxy]);
    ran(&place.init(), None).unwrap();
    let names = place.names();
    for absent in ["ticket.key", "auther.toml", "manager.toml"] {
        assert!(!names.iter().any(|name| name == absent), "{names:?}");
    }
}

#[test]
fn a_change_is_shown_and_made_only_when_forced() {
    let place = Place::new(&Role::ALL);
    ran(&place.init(), None).unwrap();
    let mut init = place.init();
    init.given.public = Some(vec!["203.0.113.11".to_owned()]);
    let refused = ran(&init, None).unwrap_err();
    assert!(refused.contains("Write --force to change it"), "{refused}");
    assert!(refused.contains("-\"10.0.0.2\" = \"203.0.113.10:4653\"\n"), "{refused}");
    assert!(refused.contains("+\"10.0.0.2\" = \"203.0.113.11:4653\"\n"), "{refused}");
    assert!(place.read("site.toml").contains("203.0.113.10"));
    init.force = true;
    ran(&init, None).unwrap();
    assert!(place.read("forward.nft").contains("ip daddr 203.0.113.11 tcp dport 4653"));
}

#[test]
fn a_dry_run_shows_all_but_keys_and_writes_nothing() {
    let place = Place::new(&Role::ALL);
    let shown = ran(&Init { dry_run: true, ..place.init() }, None).unwrap();
    assert!(place.names().is_empty());
    assert!(shown.contains("etc/avr/server.key (new)\n(not shown: it is a key)"), "{shown}");
    assert!(shown.contains("proxy_address = \"10.0.0.1, 10.0.0.2\""), "{shown}");
    assert!(!shown.contains("PRIVATE KEY"), "{shown}");
}

#[test]
fn what_a_server_refuses_is_not_written() {
    let place = Place::new(&Role::ALL);
    place.program("avr-manager", "echo \"avr-manager: $4:9: bad\" >&2; exit 1");
    let refused = ran(&place.init(), None).unwrap_err();
    assert!(
        refused.starts_with(
            "/etc/avr/manager.toml would not be good; nothing was written: \
             avr-manager: /etc/avr/manager.toml:9: bad"
        ),
        "{refused}"
    );
    assert!(place.names().is_empty());
    fs::remove_file(place.path("avr-manager")).unwrap();
    let said = ran(&place.init(), None).unwrap();
    assert!(said.contains("/etc/avr/manager.toml is not checked: there is no avr-manager here"));
}

#[test]
fn a_person_is_asked_until_the_answer_can_be_right() {
    let place = Place::new(&Role::ALL);
    let init = Init { given: Given::default(), ..place.init() };
    let answers = "10.0.0.9\n203.0.113.10\n\n10.0.0.1, 10.0.0.2 10.0.0.2\n10.0.0.1\n\n\
                   10.0.0.3\n10.0.0.3:3310\n\n\n";
    let said = ran(&init, Some(answers)).unwrap();
    assert!(said.contains("nobody outside reaches 10.0.0.9; write the address"), "{said}");
    assert!(said.contains("\"10.0.0.3\" is no address and port; write them as in"), "{said}");
    assert!(place.read("manager.toml").contains("\"10.0.0.1, 10.0.0.2, 10.0.0.2\""));
    assert!(place.read("proxy.toml").contains("clamd = [\"10.0.0.3:3310\"]"));
    let place = Place::new(&Role::ALL);
    let init = Init { given: Given::default(), ..place.init() };
    assert!(ran(&init, Some("")).unwrap_err().starts_with("no answer; write --public ADDRESS"));
    let said = ran(&init, None).unwrap_err();
    assert!(said.starts_with("the public address is not known; write --public ADDRESS"), "{said}");
}

#[test]
fn a_mistake_names_the_flag() {
    let place = Place::new(&Role::ALL);
    let mut init = place.init();
    init.given.proxy = Some(vec!["2001:db8::1".to_owned()]);
    let said = ran(&init, None).unwrap_err();
    assert!(
        said.starts_with("--proxy ADDRESS: 2001:db8::1 is of IPv6, and `public` has"),
        "{said}"
    );
}
