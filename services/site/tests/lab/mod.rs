//! A network of the test's own, with real DNS servers in it.
#![allow(dead_code, unreachable_pub, reason = "each test program uses its own part")]
#![allow(clippy::unwrap_used, reason = "a test")]

use std::fs;
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use nix::mount::{MsFlags, mount};

/// Set in the environment of the process inside.
const INSIDE: &str = "AVR_SITE_LAB_INSIDE";
/// Longest wait for anything of a server.
const WAIT_MAX: Duration = Duration::from_secs(20);

/// Runs `test` in namespaces of its own (network, mounts, processes), with an empty `/run` and a
/// loopback that is up: this very program is run again for the test of that name. What it starts
/// ends with it.
pub fn inside(name: &str, test: impl FnOnce()) {
    if std::env::var_os(INSIDE).is_some() {
        mount(Some("tmpfs"), "/run", Some("tmpfs"), MsFlags::empty(), Some("mode=755")).unwrap();
        run("ip", &["link", "set", "lo", "up"]);
        return test();
    }
    let output = Command::new("setpriv")
        .args(["--pdeathsig", "KILL", "unshare", "--mount", "--pid", "--net", "--fork"])
        .args(["--kill-child", "--mount-proc", "--propagation", "private", "--"])
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", name, "--nocapture", "--test-threads=1"])
        .env(INSIDE, "1")
        .output()
        .expect("setpriv and unshare (Debian package util-linux), as root");
    let stdout = String::from_utf8_lossy(&output.stdout);
    // A filter that matches nothing succeeds too: one test must have passed.
    let passed = output.status.success() && stdout.contains("test result: ok. 1 passed");
    assert!(passed, "{name}:\n{stdout}\n{}", String::from_utf8_lossy(&output.stderr));
}

/// Runs a command to its end and gives what it printed.
pub fn run(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program)
        .args(arguments)
        .output()
        .unwrap_or_else(|error| panic!("{program}: {error}"));
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{program} {arguments:?}: {stderr}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Waits until `probe` gives a value.
pub fn wait_for<T>(what: &str, mut probe: impl FnMut() -> Option<T>) -> T {
    #[allow(
        clippy::disallowed_methods,
        reason = "a limit for what goes wrong, nothing is measured"
    )]
    let now = Instant::now;
    let start = now();
    loop {
        if let Some(found) = probe() {
            return found;
        }
        assert!(now() - start < WAIT_MAX, "waited in vain for {what}");
        std::thread::park_timeout(Duration::from_millis(20));
    }
}

/// A server that runs until it is dropped.
pub struct Daemon {
    child: Child,
    log: PathBuf,
}

impl Daemon {
    pub fn start(mut command: Command, log: PathBuf) -> Self {
        let output = fs::File::create(&log).unwrap();
        let child = command
            .stdin(Stdio::null())
            .stdout(output.try_clone().unwrap())
            .stderr(output)
            .spawn()
            .unwrap_or_else(|error| panic!("{command:?}: {error}"));
        Self { child, log }
    }

    pub fn wait_listening(&mut self, address: SocketAddr) {
        let (child, log) = (&mut self.child, &self.log);
        wait_for(&format!("a server at {address}"), || {
            let ended = child.try_wait().unwrap();
            assert!(ended.is_none(), "{}", fs::read_to_string(log).unwrap());
            TcpStream::connect(address).ok()
        });
    }

    pub fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap()
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The DNS servers of Debian that are tried.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Knot,
    Bind,
}

/// Name and address of the zone's first server, and its second.
pub const FIRST: &str = "127.0.0.1";
pub const SECOND: &str = "127.0.0.2";

/// The zone `avr.test` at the start.
const ZONE: &str = "$ORIGIN avr.test.\n$TTL 60\n@ SOA ns1 hostmaster 1 3600 600 86400 30\n@ NS ns1\n@ NS ns2\n\
                    ns1 A 127.0.0.1\nns2 A 127.0.0.2\nalias CNAME ns1\n";

/// Two servers of `avr.test`: `kind` as the primary, Knot as the secondary.
pub struct Dns {
    _first: Daemon,
    second: Option<Daemon>,
}

/// Made by the servers' own tools, so that their forms are what is read.
pub fn make_key(kind: Kind, algorithm: &str, name: &str) -> String {
    match kind {
        Kind::Bind => run("tsig-keygen", &["-a", algorithm, name]),
        Kind::Knot => run("keymgr", &["-t", name, algorithm]),
    }
}

impl Dns {
    /// Starts them; `keys` are texts of key files, of which the first may change the managers' and
    /// authers' addresses, and the others nothing.
    pub fn start(directory: &Path, kind: Kind, keys: &[&str], records: &str) -> Self {
        let primary = directory.join("primary");
        fs::create_dir_all(&primary).unwrap();
        fs::write(primary.join("avr.test.zone"), format!("{ZONE}{records}")).unwrap();
        let mut first = match kind {
            Kind::Knot => {
                knot(Command::new("knotd"), &primary, FIRST, &knot_keys(keys), &knot_primary(keys))
            }
            Kind::Bind => bind(&primary, keys),
        };
        first.wait_listening(address(FIRST));
        let secondary = directory.join("secondary");
        fs::create_dir_all(&secondary).unwrap();
        let zone = "remote:\n  - id: first\n    address: 127.0.0.1\n    via: 127.0.0.2\n\
                    acl:\n  - id: told\n    address: 127.0.0.1\n    action: notify\n\
                    zone:\n  - domain: avr.test\n    master: first\n    acl: told\n";
        let mut second = knot(Command::new("knotd"), &secondary, SECOND, "", zone);
        second.wait_listening(address(SECOND));
        wait_for("the secondary to have the zone", || {
            dig(SECOND, "ns1.avr.test", "A").contains("127.0.0.1").then_some(())
        });
        Self { _first: first, second: Some(second) }
    }

    pub fn stop_second(&mut self) {
        self.second = None;
    }
}

pub fn address(ip: &str) -> SocketAddr {
    SocketAddr::new(ip.parse().unwrap(), 53)
}

/// The answer section, as somebody else's program shows it.
pub fn dig(server: &str, name: &str, record_type: &str) -> String {
    let server = format!("@{server}");
    run("dig", &["+noall", "+answer", "+norecurse", &server, name, record_type])
}

/// The addresses under a name, sorted, with their TTL.
pub fn records(server: &str, name: &str) -> Vec<String> {
    let mut lines: Vec<String> = ["A", "AAAA"]
        .iter()
        .flat_map(|record_type| {
            let answer = dig(server, name, record_type);
            answer
                .lines()
                .map(|line| {
                    let fields: Vec<&str> = line.split_ascii_whitespace().collect();
                    format!("{} {}", fields[1], fields[4])
                })
                .collect::<Vec<_>>()
        })
        .collect();
    lines.sort();
    lines
}

/// Starts Knot by `command`, which its settings are added to.
pub fn knot(mut command: Command, directory: &Path, ip: &str, keys: &str, zone: &str) -> Daemon {
    let shown = directory.display();
    let text = format!(
        "server:\n  rundir: {shown}\n  listen: {ip}@53\n  udp-workers: 1\n  tcp-workers: 1\n  \
         background-workers: 1\nlog:\n  - target: stderr\n    any: info\n\
         database:\n  storage: {shown}\n{keys}\
         template:\n  - id: default\n    storage: {shown}\n    file: \"%s.zone\"\n{zone}"
    );
    let path = directory.join("knot.conf");
    fs::write(&path, text).unwrap();
    command.arg("-c").arg(&path);
    Daemon::start(command, directory.join("log"))
}

/// Whatever form the keys have, in Knot's.
pub fn knot_keys(keys: &[&str]) -> String {
    let mut text = "key:\n".to_owned();
    for key in keys {
        let (name, algorithm, secret) = parts(key);
        text += &format!("  - id: {name}\n    algorithm: {algorithm}\n    secret: {secret}\n");
    }
    text
}

fn knot_primary(keys: &[&str]) -> String {
    let (name, ..) = parts(keys[0]);
    format!(
        "remote:\n  - id: second\n    address: 127.0.0.2\n\
         acl:\n  - id: change\n    key: {name}\n    action: update\n    update-owner: name\n    \
         update-owner-match: equal\n    update-owner-name: [manager, auther]\n    \
         update-type: [A, AAAA]\n  - id: copy\n    address: 127.0.0.2\n    action: transfer\n\
         zone:\n  - domain: avr.test\n    acl: [change, copy]\n    notify: second\n"
    )
}

fn bind(directory: &Path, keys: &[&str]) -> Daemon {
    let shown = directory.display();
    let mut text = String::new();
    for key in keys {
        let (name, algorithm, secret) = parts(key);
        text += &format!("key \"{name}\" {{ algorithm {algorithm}; secret \"{secret}\"; }};\n");
    }
    let (name, ..) = parts(keys[0]);
    text += &format!(
        "options {{\n  directory \"{shown}\";\n  pid-file \"{shown}/pid\";\n  session-keyfile none;\n  \
         listen-on {{ {FIRST}; }};\n  listen-on-v6 {{ none; }};\n  recursion no;\n  \
         dnssec-validation no;\n  notify explicit;\n  notify-delay 0;\n  allow-transfer {{ {SECOND}; }};\n}};\n\
         controls {{ }};\n\
         zone \"avr.test\" {{\n  type primary;\n  file \"avr.test.zone\";\n  also-notify {{ {SECOND}; }};\n  \
         update-policy {{\n    grant {name} name manager.avr.test. A AAAA;\n    \
         grant {name} name auther.avr.test. A AAAA;\n  }};\n}};\n"
    );
    let path = directory.join("named.conf");
    fs::write(&path, text).unwrap();
    let mut command = Command::new("named");
    command.args(["-g", "-n", "1", "-c"]).arg(&path);
    Daemon::start(command, directory.join("log"))
}

/// Name, algorithm and secret of a key file of either tool.
fn parts(key: &str) -> (&str, &str, &str) {
    let value = |names: [&str; 2]| {
        let line = key
            .lines()
            .map(|line| line.trim().trim_start_matches("- "))
            .find(|line| names.iter().any(|name| line.starts_with(name)))
            .unwrap_or_else(|| panic!("no {names:?} in a key file"));
        let value = line.split_ascii_whitespace().nth(1).unwrap();
        value.trim_matches(['"', ';', '{', ' '])
    };
    (value(["key \"", "id:"]), value(["algorithm ", "algorithm:"]), value(["secret ", "secret:"]))
}
