//! Updates that are refused, and those that fail in one way or another: after them the box runs what it ran
//! before.
#![allow(clippy::tests_outside_test_module, reason = "an integration test is a test module")]
#![allow(clippy::unwrap_used, reason = "a test")]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use boot::{Bench, Fittings, Machine, System, known_key};
use box_update::slots::{TRIES, Trust, file_name};

/// Longest that anything of one start may take: starting, intercepting, and two minutes of health.
const START_MAX: Duration = Duration::from_secs(400);
/// Longest that all tries of a system that fails may take.
const TRIES_MAX: Duration = Duration::from_secs(600);

/// Takes an update from a stick at the console.
fn update(machine: &mut Machine, file: &str) -> String {
    machine.confirm(&format!("update usb:{file}")).unwrap()
}

fn good(build: u32) -> String {
    file_name(build, Trust::Good)
}

fn failed(build: u32) -> String {
    file_name(build, Trust::Failed { done: TRIES })
}

/// What must not be installed, and what the console says of it.
fn refused(bench: &Bench) -> Vec<(&'static str, PathBuf, &'static str)> {
    let folder = bench.folder();
    let (released, new) = (&bench.released, bench.build() + 1);
    let write = |name: &str, bytes: &[u8]| {
        let path = folder.join(name);
        fs::write(&path, bytes).unwrap();
        path
    };
    let bundle = |name: &str, system: System<'_>, key: &Path| {
        let path = folder.join(name);
        system.bundle(&path, key).unwrap();
        path
    };
    let good = fs::read(bundle("good", System::new(released, new), &known_key())).unwrap();
    let flipped = |at: usize| {
        let mut bytes = good.clone();
        bytes[at] ^= 1;
        bytes
    };
    let board = System::new(released, new).board("generic-x86_64");
    vec![
        ("half.tar", write("half", &good[..good.len() / 2]), "too early"),
        ("system.tar", write("system", &flipped(good.len() / 2)), "is damaged"),
        ("head.tar", write("head", &flipped(600)), "is not what was signed"),
        ("sign.tar", foreign(bench, &good), "signed with a key that this system does not know"),
        ("board.tar", bundle("board", board, &known_key()), "is for the board generic-x86_64"),
        ("same.tar", released.update.clone(), "is not newer than"),
        ("older.tar", bundle("older", System::new(released, 1), &known_key()), "is not newer than"),
        ("junk.tar", write("junk", &[7; 70_000]), "is no update bundle"),
    ]
}

/// The same bundle with a signature by somebody else.
fn foreign(bench: &Bench, bundle: &[u8]) -> PathBuf {
    let folder = bench.folder().join("foreign");
    fs::create_dir(&folder).unwrap();
    fs::write(folder.join("good.tar"), bundle).unwrap();
    let run = |program: &str, arguments: &[&str]| {
        let output = Command::new(program).args(arguments).current_dir(&folder).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    };
    run("tar", &["xf", "good.tar"]);
    run("minisign", &["-G", "-W", "-p", "a.pub", "-s", "a.key"]);
    run("minisign", &["-S", "-s", "a.key", "-m", "manifest.toml", "-t", "avr"]);
    // Headers as a bundle has them, or they would be what is refused.
    let path = folder.join("foreign.tar");
    let mut archive = tar::Builder::new(fs::File::create(&path).unwrap());
    for name in ["manifest.toml", "manifest.toml.minisig", "system.efi"] {
        let bytes = fs::read(folder.join(name)).unwrap();
        let mut header = tar::Header::new_ustar();
        header.set_path(name).unwrap();
        header.set_size(bytes.len() as u64);
        header.set_mode(0o644);
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(0);
        header.set_entry_type(tar::EntryType::Regular);
        header.set_cksum();
        archive.append(&header, bytes.as_slice()).unwrap();
    }
    archive.finish().unwrap();
    path
}

/// Catches: a box that installs what is not whole, not ours, not for it, or older than what it runs; and one
/// that such a file leaves unable to take the good one.
#[test]
fn what_is_no_update_for_this_box_is_refused() {
    let bench = Bench::new().unwrap();
    let files = refused(&bench);
    let mut on_stick: Vec<(&str, &Path)> =
        files.iter().map(|(name, path, _)| (*name, path.as_path())).collect();
    let good = bench.folder().join("good");
    on_stick.push(("good.tar", &good));
    let stick = Some(bench.stick(&on_stick).unwrap());
    let before = bench.slot_names().unwrap();
    let mut machine = bench.start(&Fittings { stick, ..Fittings::default() }).unwrap();
    machine.log_in().unwrap();
    for (name, _, says) in &files {
        let said = update(&mut machine, name);
        assert!(said.contains("FAIL") && said.contains(says), "{name}: not {says:?} in\n{said}");
    }
    let said = machine.ask("slots").unwrap();
    assert!(!said.contains("on trial"), "{said}");
    let said = update(&mut machine, "good.tar");
    assert!(!said.contains("FAIL"), "{said}");
    machine.cut_power().unwrap();
    let after = bench.slot_names().unwrap();
    let trial = file_name(bench.build() + 1, Trust::Trial { left: TRIES, done: 0 });
    assert_eq!(after, [before, vec![trial]].concat());
}

/// Has a new system try what it may, and waits for the old one; its console is logged in.
fn goes_back(bench: &Bench, system: &System<'_>, fails: &str) -> Machine {
    let (old, new) = (bench.build(), bench.build() + 1);
    bench.put_on_trial(new, &system.uki().unwrap()).unwrap();
    let mut machine = bench.start(&Fittings::default()).unwrap();
    for _ in 0..TRIES {
        machine.expect(fails, TRIES_MAX).unwrap();
    }
    machine.log_in().unwrap();
    let said = machine.ask_until("status", &good(old), START_MAX).unwrap();
    assert!(said.contains(&format!("avr_{new:06} is marked bad")), "{said}");
    machine
}

/// Catches: a kernel that stays where it stopped (no `panic=`), a loader that does not count, a box that
/// tries the new system for ever, or that does not say that it went back.
#[test]
fn a_system_that_panics_goes_back() {
    let bench = Bench::new().unwrap();
    let system = System::new(&bench.released, bench.build() + 1).script("/init", "exit 1");
    let machine = goes_back(&bench, &system, "Attempted to kill init");
    machine.cut_power().unwrap();
    assert_eq!(bench.slot_names().unwrap(), [good(bench.build()), failed(bench.build() + 1)]);
}

/// Catches: a watchdog that is not armed, or that is fed by something else than PID 1's own loop.
#[test]
fn a_system_whose_pid_1_hangs_goes_back() {
    let bench = Bench::new().unwrap();
    // PID 1 stands still, the kernel does not.
    let system = System::new(&bench.released, bench.build() + 1).at_start(
        "g=/sys/fs/cgroup/frozen\n$b mkdir $g\necho 1 >$g/cgroup.procs\necho 1 >$g/cgroup.freeze\n\
         until $b grep -q 'frozen 1' $g/cgroup.events; do $b sleep 1; done\necho PID 1 hangs",
    );
    let machine = goes_back(&bench, &system, "PID 1 hangs");
    machine.cut_power().unwrap();
    assert_eq!(bench.slot_names().unwrap(), [good(bench.build()), failed(bench.build() + 1)]);
}
