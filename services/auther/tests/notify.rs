//! What a service manager is told by the program itself: `avr-auther serve` with `NOTIFY_SOCKET`,
//! as systemd starts it.
#![allow(clippy::tests_outside_test_module, reason = "an integration test is a test module")]
#![allow(clippy::unwrap_used, reason = "a test")]

use std::fs;
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::process::{Child, Command};
use std::time::Duration;

/// After this a test gives up; what is waited for takes milliseconds.
const PATIENCE: Duration = Duration::from_secs(60);

/// A service manager that listens.
struct Manager(UnixDatagram);

impl Manager {
    /// Returns when all of `words` have been told.
    fn hears(&self, words: &[&str]) {
        let mut missing = words.to_vec();
        let mut buffer = [0; 4096];
        while !missing.is_empty() {
            let length = self.0.recv(&mut buffer).unwrap_or_else(|_| panic!("no {missing:?}"));
            let told = std::str::from_utf8(&buffer[..length]).unwrap();
            missing.retain(|word| !told.lines().any(|line| line == *word));
        }
    }
}

/// Killed if the test fails before its end.
struct Server(Child);

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn auther(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_avr-auther"));
    command.args(arguments);
    command
}

/// A fleet, and the settings of its auther.
fn set_up(folder: &Path) -> String {
    let path = |name: &str| folder.join(name).to_str().unwrap().to_owned();
    for arguments in [
        vec!["init", "--dir", &path("fleet")],
        vec!["issue", "--dir", &path("fleet"), "--role", "auther", "--name", "a"],
    ] {
        assert!(auther(&arguments).output().unwrap().status.success(), "{arguments:?}");
    }
    let settings = format!(
        "listen = \"127.0.0.1:0\"\nfleet_ca = \"{}\"\ncertificate = \"{}\"\nkey = \"{}\"\n\
         ticket_key = \"{}\"\nregistry = \"{}\"\n",
        path("fleet/fleet-ca.pem"),
        path("fleet/a.crt"),
        path("fleet/a.key"),
        path("fleet/ticket.key"),
        path("registry.sqlite"),
    );
    fs::write(folder.join("auther.toml"), settings).unwrap();
    path("auther.toml")
}

#[test]
fn a_service_manager_is_told_of_its_life() {
    let folder = tempfile::tempdir().unwrap();
    let settings = set_up(folder.path());
    let socket = folder.path().join("notify");
    let manager = Manager(UnixDatagram::bind(&socket).unwrap());
    manager.0.set_read_timeout(Some(PATIENCE)).unwrap();

    let mut serve = auther(&["serve", "--config", &settings]);
    serve.env("NOTIFY_SOCKET", &socket).env("WATCHDOG_USEC", "300000").env_remove("WATCHDOG_PID");
    let mut server = Server(serve.spawn().unwrap());
    manager.hears(&["READY=1"]);
    manager.hears(&["WATCHDOG=1", "STATUS=serving, 0 connections"]);
    manager.hears(&["WATCHDOG=1"]);

    let id = server.0.id().to_string();
    assert!(Command::new("kill").args(["-TERM", &id]).status().unwrap().success());
    manager.hears(&["STOPPING=1"]);
    assert!(server.0.wait().unwrap().success());
}

/// As on a command line: nothing is told, and nothing is amiss.
#[test]
fn without_a_service_manager_it_ends_as_well() {
    let folder = tempfile::tempdir().unwrap();
    let settings = set_up(folder.path());
    let mut serve = auther(&["serve", "--config", &settings]);
    let log = fs::File::create(folder.path().join("log")).unwrap();
    serve.env_remove("NOTIFY_SOCKET").env_remove("WATCHDOG_USEC").stderr(log.try_clone().unwrap());
    let mut server = Server(serve.stdout(log).spawn().unwrap());
    while !fs::read_to_string(folder.path().join("log")).unwrap().contains("serving") {
        assert!(server.0.try_wait().unwrap().is_none(), "it ended by itself");
        std::thread::yield_now();
    }
    let id = server.0.id().to_string();
    assert!(Command::new("kill").args(["-TERM", &id]).status().unwrap().success());
    assert!(server.0.wait().unwrap().success());
}
