//! A whole site from nothing, by the commands that an operator types: two machines behind a firewall
//! that forwards ports by the file that `avr-site init` wrote, real servers on them, a DNS server in
//! the internet, and somebody outside.
#![allow(clippy::tests_outside_test_module, reason = "an integration test is a test module")]
#![allow(clippy::unwrap_used, reason = "a test")]

mod lab;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use lab::{Daemon, inside, knot, knot_keys, make_key, run, wait_for};
use serde_json::Value;

const LAB: &str = "/run/lab";
const PUBLIC: &str = "203.0.113.10";
const PUBLIC6: &str = "2001:db8:a::10";
const DNS: &str = "203.0.113.53";
/// What every machine of the site is given: identical machines, identical answers.
const ANSWERS: [&str; 20] = [
    "--public",
    PUBLIC,
    "--public",
    PUBLIC6,
    "--auther",
    "10.0.0.1",
    "--auther",
    "fd00:a::1",
    "--manager",
    "10.0.0.1",
    "--manager",
    "fd00:a::1",
    "--proxy",
    "10.0.0.1",
    "--proxy",
    "10.0.0.2",
    "--proxy",
    "10.0.0.2",
    "--clamd",
    "10.0.0.2:3310",
];

/// Where cargo put the programs: one above this test.
fn program(name: &str) -> String {
    let own = std::env::current_exe().unwrap();
    let folder = own.parent().and_then(Path::parent).unwrap();
    let path = folder.join(name);
    assert!(path.exists(), "no {}: build the workspace first", path.display());
    path.display().to_string()
}

/// A command on one of the machines, whose `/etc/avr` is its own.
fn on(machine: &str) -> Command {
    let mut command = Command::new("ip");
    command.args(["netns", "exec", machine, "sh", "-c"]);
    command.arg(format!("mount --bind {LAB}/{machine} /etc/avr && exec \"$@\"")).arg("sh");
    command
}

/// Runs it and gives what it printed, and its errors, and whether it ended well.
fn ended(mut command: Command) -> (String, String, bool) {
    let output = command.output().unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (text(&output.stdout), text(&output.stderr), output.status.success())
}

fn site_on(machine: &str, arguments: &[&str]) -> (String, String, bool) {
    let mut command = on(machine);
    command.arg(env!("CARGO_BIN_EXE_avr-site")).args(arguments);
    ended(command)
}

/// The same, which has to go well.
fn good(machine: &str, arguments: &[&str]) -> String {
    let (out, errors, is_good) = site_on(machine, arguments);
    assert!(is_good, "{arguments:?}\n{out}\n{errors}");
    out
}

/// The network: the site's two machines, its firewall, and the internet.
fn build_network() {
    for name in ["one", "two", "firewall", "outside"] {
        fs::create_dir_all(Path::new(LAB).join(name)).unwrap();
        run("ip", &["netns", "add", name]);
        run("ip", &["-netns", name, "link", "set", "lo", "up"]);
    }
    // Settings and registry of the test's own, whatever the host has at their places.
    for folder in ["/etc", "/var/lib"] {
        let own = format!("{LAB}/own{folder}");
        for part in ["upper", "work"] {
            fs::create_dir_all(format!("{own}/{part}")).unwrap();
        }
        let options = format!("lowerdir={folder},upperdir={own}/upper,workdir={own}/work");
        run("mount", &["-t", "overlay", "overlay", "-o", &options, folder]);
    }
    fs::create_dir_all("/etc/avr").unwrap();
    let ip = |netns: &str, lines: &[&str]| {
        for line in lines {
            let mut arguments = vec!["-netns", netns];
            arguments.extend(line.split(' '));
            run("ip", &arguments);
        }
    };
    ip(
        "firewall",
        &[
            "link add lan type bridge",
            "addr add 10.0.0.254/24 dev lan",
            "addr add fd00:a::254/64 dev lan nodad",
            "link set lan up",
            "link add line type veth peer name eth0 netns outside",
            &format!("addr add {PUBLIC}/24 dev line"),
            &format!("addr add {PUBLIC6}/64 dev line nodad"),
            "link set line up",
        ],
    );
    ip(
        "outside",
        &[
            &format!("addr add {DNS}/24 dev eth0"),
            "addr add 2001:db8:a::53/64 dev eth0 nodad",
            "link set eth0 up",
        ],
    );
    for (machine, number) in [("one", 1), ("two", 2)] {
        ip(
            "firewall",
            &[
                &format!("link add {machine} type veth peer name eth0 netns {machine}"),
                &format!("link set {machine} master lan"),
                &format!("link set {machine} up"),
            ],
        );
        ip(
            machine,
            &[
                &format!("addr add 10.0.0.{number}/24 dev eth0"),
                &format!("addr add fd00:a::{number}/64 dev eth0 nodad"),
                "link set eth0 up",
                "route add default via 10.0.0.254",
                "route add default via fd00:a::254",
            ],
        );
    }
    // The last: where the host's bridges call nftables, this one would answer in its place.
    let forwarding = "echo 1 > /proc/sys/net/ipv4/ip_forward; \
                      echo 1 > /proc/sys/net/ipv6/conf/all/forwarding; \
                      nft 'table ip out { chain c { type nat hook postrouting priority srcnat; \
                      oifname \"line\" masquerade; }; }'; \
                      for n in /proc/sys/net/bridge/bridge-nf-call-ip*tables; do \
                      [ ! -e $n ] || echo 0 > $n; done";
    run("ip", &["netns", "exec", "firewall", "sh", "-c", forwarding]);
}

/// A zone in which no site is yet, which its key may change.
fn start_dns(key: &str) -> Daemon {
    let folder = PathBuf::from(LAB).join("dns");
    fs::create_dir_all(&folder).unwrap();
    let zone = format!(
        "$ORIGIN avr.test.\n$TTL 60\n@ SOA ns1 hostmaster 1 3600 600 86400 30\n@ NS ns1\nns1 A {DNS}\n"
    );
    fs::write(folder.join("avr.test.zone"), zone).unwrap();
    let mut command = Command::new("ip");
    command.args(["netns", "exec", "outside", "knotd"]);
    let zone = "acl:\n  - id: change\n    key: avr-update\n    action: update\n\
                zone:\n  - domain: avr.test\n    acl: change\n";
    let daemon = knot(command, &folder, DNS, &knot_keys(&[key]), zone);
    wait_for("Knot to serve", || {
        let dig = ["netns", "exec", "outside", "dig", "+short", &format!("@{DNS}"), "ns1.avr.test"];
        let output = Command::new("ip").args(dig).output().ok()?;
        String::from_utf8_lossy(&output.stdout).contains(DNS).then_some(())
    });
    daemon
}

fn serve(machine: &str, role: &str) -> Daemon {
    let mut command = on(machine);
    command.arg(program(&format!("avr-{role}"))).arg("serve");
    Daemon::start(command, PathBuf::from(LAB).join(format!("{machine}-{role}.log")))
}

fn start_clamd() -> Daemon {
    let folder = PathBuf::from(LAB).join("clamd");
    fs::create_dir_all(&folder).unwrap();
    fs::write(folder.join("lab.ndb"), "Lab:0:*:6c61622d6d61726b6572\n").unwrap();
    let path = folder.display();
    let settings = format!(
        "Foreground yes\nTCPSocket 3310\nTCPAddr 10.0.0.2\nDatabaseDirectory {path}\n\
         TemporaryDirectory {path}\nMaxThreads 2\nOfficialDatabaseOnly no\nSelfCheck 0\n"
    );
    fs::write(folder.join("clamd.conf"), settings).unwrap();
    let mut command = on("two");
    command.args(["clamd", "--config-file"]).arg(folder.join("clamd.conf"));
    Daemon::start(command, folder.join("log"))
}

/// Check, outcome and text of each line of `avr-site check --json`.
fn checked(machine: &str, arguments: &[&str]) -> Vec<(String, String, String)> {
    let mut all = vec!["check", "--json", "--resolver", DNS];
    all.extend(arguments);
    let (out, errors, is_good) = site_on(machine, &all);
    let value: Value = serde_json::from_str(&out).unwrap_or_else(|_| panic!("{out}\n{errors}"));
    let text = |line: &Value, key: &str| line[key].as_str().unwrap().to_owned();
    let lines: Vec<_> = value["lines"]
        .as_array()
        .unwrap()
        .iter()
        .map(|line| (text(line, "check"), text(line, "outcome"), text(line, "what")))
        .collect();
    let wrong = lines.iter().filter(|(_, outcome, _)| outcome == "wrong").count();
    assert_eq!(is_good, wrong == 0, "the exit code says what the lines say: {lines:#?}");
    lines
}

fn with_outcome(lines: &[(String, String, String)], wanted: &str) -> Vec<String> {
    let found = lines.iter().filter(|(_, outcome, _)| outcome == wanted);
    found.map(|(check, _, what)| format!("{check}: {what}")).collect()
}

/// Waits until the only thing wrong is what is expected; servers take a moment to start.
fn wait_wrong(
    machine: &str,
    arguments: &[&str],
    expected: &[&str],
) -> Vec<(String, String, String)> {
    let mut last = Vec::new();
    let waited = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        wait_for("a check's result", || {
            last = checked(machine, arguments);
            let wrong = with_outcome(&last, "wrong");
            let fits = wrong.len() == expected.len()
                && wrong.iter().zip(expected).all(|(wrong, part)| wrong.contains(part));
            fits.then_some(())
        });
    }));
    assert!(waited.is_ok(), "expected {expected:#?}\n{last:#?}");
    last
}

/// The fleet's keys, made at home, and a bundle for each of the two machines.
fn make_bundles() {
    let fleet = format!("{LAB}/fleet");
    let auther = program("avr-auther");
    run(&auther, &["init", "--dir", &fleet]);
    for (name, roles) in [("tokyo-1", &["auther", "manager", "proxy"][..]), ("tokyo-2", &["proxy"])]
    {
        let mut arguments = vec!["issue", "--dir", &fleet, "--name", name];
        arguments.extend(roles.iter().flat_map(|role| ["--role", role]));
        run(&auther, &arguments);
        let out = format!("{LAB}/{name}");
        let bundle = ["bundle", "--fleet", &fleet, "--name", name, "--domain", "avr.test", "--out"];
        run(env!("CARGO_BIN_EXE_avr-site"), &[&bundle[..], &[&out]].concat());
    }
}

/// `avr-site init` on both, with the same answers; the servers' programs look at what it writes.
fn set_up_machines() {
    for (machine, name) in [("one", "tokyo-1"), ("two", "tokyo-2")] {
        let bundle = format!("{LAB}/{name}");
        let mut arguments = vec!["init", "--bundle", &bundle];
        arguments.extend(ANSWERS);
        let said = good(machine, &arguments);
        assert!(!said.contains("is not checked"), "{said}");
        // Once more, with nothing to say and nothing to do.
        good(machine, &["init", "--bundle", &bundle]);
    }
    let read = |machine: &str, file: &str| fs::read(format!("{LAB}/{machine}/{file}")).unwrap();
    for file in ["site.toml", "proxy.toml", "forward.nft", "fleet-ca.pem"] {
        assert_eq!(read("one", file), read("two", file), "{file}");
    }
    // How busy the machine is that runs the tests is nothing to these servers.
    let settings = format!("{LAB}/one/manager.toml");
    let written = fs::read_to_string(&settings).unwrap();
    fs::write(&settings, format!("load_average_max = 10000\n{written}")).unwrap();
    let mut add = on("one");
    add.arg(program("avr-auther")).args(["add", "02:00:5e:10:00:01"]);
    assert!(ended(add).2);
}

/// Loads a file at the firewall.
fn load(file: &str) {
    run("ip", &["netns", "exec", "firewall", "nft", "-f", file]);
}

#[test]
fn a_site_is_made_by_its_commands_and_every_fault_is_named_once() {
    inside("a_site_is_made_by_its_commands_and_every_fault_is_named_once", || {
        build_network();
        let key = make_key(lab::Kind::Knot, "hmac-sha256", "avr-update");
        let key_file = format!("{LAB}/update.key");
        fs::write(&key_file, &key).unwrap();
        let _dns = start_dns(&key);
        make_bundles();
        set_up_machines();
        let forwards = format!("{LAB}/one/forward.nft");
        load(&forwards);
        load(&forwards);
        let _servers = [serve("one", "auther"), serve("one", "manager"), serve("one", "proxy")];
        let proxy_two = serve("two", "proxy");
        let _clamd = start_clamd();

        // From inside: all good but that no box finds it yet.
        let lines = wait_wrong("one", &[], &[]);
        let doubtful = with_outcome(&lines, "doubtful").join("\n");
        assert!(doubtful.contains("manager.avr.test has no address"), "{lines:#?}");
        for seen in [
            "public proxy 203.0.113.10:4653: poll",
            "public manager [2001:db8:a::10]:4651: certificate",
        ] {
            assert!(lines.iter().any(|(check, ..)| check == seen), "{lines:#?}");
        }
        let zone = ["--key", &key_file, "--resolver", DNS];
        let said = good("one", &[&["join", "--auther"], &zone[..]].concat());
        assert!(said.contains("manager.avr.test 2001:db8:a::10, TTL 20 minutes: adding"), "{said}");
        let lines = wait_wrong("one", &[], &[]);
        let dns = lines.iter().find(|(check, ..)| check == "DNS manager.avr.test").unwrap();
        assert_eq!(dns.1, "good", "{dns:?}");

        look_from_outside();
        stop_a_proxy(proxy_two);
        forward_wrongly(&forwards);

        let (_, errors, is_good) = site_on("one", &[&["leave"], &zone[..]].concat());
        assert!(!is_good && errors.contains("write --last"), "{errors}");
        let said = good("one", &[&["leave", "--auther", "--last"], &zone[..]].concat());
        assert!(said.contains("let the site run until then"), "{said}");
    });
}

const FROM_OUTSIDE: [&str; 6] =
    ["--bundle", "/run/lab/tokyo-1", "--from-outside", PUBLIC, "--proxies", "2"];

/// With nothing but a bundle.
fn look_from_outside() {
    let lines = wait_wrong("outside", &FROM_OUTSIDE, &[]);
    assert!(with_outcome(&lines, "good").len() > 8, "{lines:#?}");
    // A proxy is reached by one family only.
    let both = [&FROM_OUTSIDE[..], &["--from-outside", PUBLIC6]].concat();
    let wrong6 = ["public proxy [2001:db8:a::10]:4652", "public proxy [2001:db8:a::10]:4653"];
    wait_wrong("outside", &both, &wrong6);
}

/// That is said once, and nothing that rests on it.
fn stop_a_proxy(proxy: Daemon) {
    drop(proxy);
    let lines = wait_wrong("one", &[], &["proxy 10.0.0.2:4652: 10.0.0.2:4652 is closed"]);
    let skipped = "public proxy 203.0.113.10:4653: not looked at, because of: proxy 10.0.0.2:4652";
    assert!(with_outcome(&lines, "skipped").contains(&skipped.to_owned()), "{lines:#?}");
    let _proxy = serve("two", "proxy");
    wait_wrong("one", &[], &[]);
}

/// First one port to the wrong server, and then nothing at all.
fn forward_wrongly(forwards: &str) {
    let text = fs::read_to_string(forwards).unwrap();
    let right = "tcp dport 4651 dnat to 10.0.0.1:4651";
    let swapped = text.replace(right, "tcp dport 4651 dnat to 10.0.0.2:4652");
    assert_ne!(swapped, text);
    let _proxy = serve("two", "proxy");
    let swapped_file = format!("{LAB}/swapped.nft");
    fs::write(&swapped_file, swapped).unwrap();
    load(&swapped_file);
    wait_wrong("outside", &FROM_OUTSIDE, &["is of the fleet, and no manager"]);
    run("ip", &["netns", "exec", "firewall", "nft", "delete", "table", "ip", "avr_site"]);
    let closed = ["auther", "manager", "proxy", "proxy"].map(|role| format!("public {role} "));
    let closed: Vec<&str> = closed.iter().map(String::as_str).collect();
    wait_wrong("outside", &FROM_OUTSIDE, &closed);
    load(forwards);
}
