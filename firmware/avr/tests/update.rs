//! `avr update` and `avr slots` on a real block device, and what they say. As root. Not on
//! FAT, which the test machine's kernel may lack: what is special about that is tried in QEMU, and by the
//! tests of `box-update`.
#![allow(clippy::tests_outside_test_module, reason = "an integration test is one as a whole")]
#![allow(clippy::unwrap_used, reason = "a test")]

// Debian's nginx.
#[path = "../../box-fetch/tests/common/mod.rs"]
#[allow(dead_code, reason = "the tests of box-fetch use the rest")]
mod common;
// Systems, and signed bundles of them.
#[path = "../../box-update/tests/common/bundles.rs"]
mod bundles;

use std::fs;
use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, Mutex};

use box_update::Sha256;
use box_update::rollout::{INDEX_FILE, INDEX_FORMAT, INDEX_SIGNATURE_FILE, Index, Offer};
use bundles::{bundle, uki};
use serde_json::{Value, json};

const DISK_BYTES: u64 = 64 * 1024 * 1024;

/// A box, as far as these commands see one: a disk, and somebody who answers for PID 1, in its words.
struct Bench {
    folder: tempfile::TempDir,
    device: String,
    entry: Arc<Mutex<Value>>,
    asked: Arc<Mutex<Vec<String>>>,
}

impl Bench {
    fn new(slots: &[(&str, u32)]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let at = folder.path();
        fs::File::create(at.join("disk")).unwrap().set_len(DISK_BYTES).unwrap();
        fs::create_dir_all(at.join("files/EFI/Linux")).unwrap();
        for (name, build) in slots {
            fs::write(at.join("files/EFI/Linux").join(name), uki(*build, 100_000)).unwrap();
        }
        run(at, "mkfs.ext4", &["-q", "-d", "files", "disk"]);
        let device = run(at, "losetup", &["--find", "--show", "disk"]).trim().to_owned();
        let (entry, asked) = (Arc::default(), Arc::default());
        let listener = UnixListener::bind(at.join("init")).unwrap();
        let bench = Self { folder, device: device.clone(), entry, asked };
        let (entry, asked) = (Arc::clone(&bench.entry), Arc::clone(&bench.asked));
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let mut stream = BufReader::new(stream.unwrap());
                let mut line = String::new();
                stream.read_line(&mut line).unwrap();
                let reply = match line.trim() {
                    r#"{"verb":"slots"}"# => json!({
                        "reply": "slots", "device": device, "entry": *entry.lock().unwrap(),
                        "release": {
                            "product": "avr", "version": "0.1.0", "build": 2, "board": bundles::BOARD,
                            "arch": "x86_64", "sbom_sha256": "",
                        },
                    }),
                    r#"{"verb":"status"}"# => {
                        json!({"reply": "status", "clock": { "state": "synced" }})
                    }
                    _ => json!({"reply": "done", "note": "the box starts anew"}),
                };
                asked.lock().unwrap().push(line);
                writeln!(stream.get_mut(), "{reply}").unwrap();
            }
        });
        bench
    }

    fn runs(self, entry: &str) -> Self {
        *self.entry.lock().unwrap() = entry.into();
        self
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Exit code, and what was said on standard output or, where it failed, on the other.
    fn avr(&self, arguments: &[&str]) -> (Option<i32>, String) {
        let (verb, rest) = arguments.split_first().unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_avr"));
        command.arg(verb).current_dir(self.folder.path());
        command.args(["--init", "init", "--record", "update.json", "--mount", "mount"]);
        command.args(["--filesystem", "ext4", "--downloads", "downloads"]).args(rest);
        let output = command.output().unwrap();
        let said = if output.status.success() { output.stdout } else { output.stderr };
        (output.status.code(), String::from_utf8(said).unwrap())
    }

    /// Has a shell do something in the slots' folder.
    fn by_hand(&self, script: &str) -> String {
        let script = format!("mount {} files; cd files/EFI/Linux; {script}", self.device);
        run(self.folder.path(), "unshare", &["--mount", "sh", "-euc", &script])
    }

    fn files(&self) -> Vec<String> {
        self.by_hand("ls").lines().map(str::to_owned).collect()
    }
}

impl Drop for Bench {
    fn drop(&mut self) {
        run(self.folder.path(), "losetup", &["--detach", &self.device]);
    }
}

fn run(folder: &Path, program: &str, arguments: &[&str]) -> String {
    let mut command = Command::new(program);
    // A user's path may have no sbin.
    let path = format!("{}:/usr/sbin:/sbin", std::env::var("PATH").unwrap_or_default());
    command.args(arguments).current_dir(folder).env("PATH", path);
    let output = command.output().unwrap_or_else(|error| panic!("{program}: {error}; be root"));
    let problem = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{program}: {problem}");
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn an_update_is_installed_beside_what_runs_and_gone_back_from() {
    let bench = Bench::new(&[("avr_000001.efi", 1), ("avr_000002.efi", 2)]).runs("avr_000002.efi");
    let new = uki(3, 900_000);
    fs::write(bench.path("a.update.tar"), bundle(3, &new)).unwrap();
    let (code, said) = bench.avr(&["update", "--restart", "--", "a.update.tar"]);
    assert_eq!(code, Some(0), "{said}");
    assert!(said.contains("written: 0.8 MiB of 0.8 MiB\n"), "{said}");
    assert!(said.contains("build 3 (0.2.0) is verified and installed; it is on trial"), "{said}");
    assert!(said.ends_with("the box starts anew\n"), "{said}");
    assert_eq!(bench.asked.lock().unwrap()[1..], ["{\"verb\":\"reboot\"}\n"]);
    assert_eq!(bench.files(), ["avr_000002.efi", "avr_000003+3-0.efi"]);
    bench.by_hand("cp avr_000003+3-0.efi ../../../found");
    assert!(fs::read(bench.path("found")).unwrap() == new);

    let (code, said) = bench.avr(&["slots"]);
    assert_eq!(code, Some(0), "{said}");
    assert!(said.contains("     3  waits for its trial\n       2  good, runs\n"), "{said}");
    assert!(said.contains("build 3 (0.2.0) has to prove itself\n"), "{said}");
    let (_, said) = bench.avr(&["slots", "--json"]);
    let listing: Value = serde_json::from_str(&said).unwrap();
    assert_eq!(
        (&listing["slots"][0]["trust"], &listing["slots"][1]["runs"]),
        (&json!("trial"), &json!(true))
    );
    assert_eq!(listing["pending"]["build"], 3);

    // The new one has started: nothing is installed or gone back to while it is on trial.
    bench.by_hand("mv avr_000003+3-0.efi avr_000003+2-1.efi");
    let bench = bench.runs("avr_000003+2-1.efi");
    fs::write(bench.path("b.update.tar"), bundle(4, &uki(4, 1000))).unwrap();
    let (code, said) = bench.avr(&["update", "b.update.tar"]);
    assert_eq!(
        (code, said.as_str()),
        (
            Some(1),
            "avr: build 3, which runs, is on trial, 2 starts left: wait until it is blessed (2 minutes of health)\n"
        )
    );
    let (code, said) = bench.avr(&["slots", "switch"]);
    assert_eq!(
        (code, said.as_str()),
        (Some(1), "avr: build 3 is on trial: wait until it is blessed, or has failed\n")
    );
    bench.by_hand("mv avr_000003+2-1.efi avr_000003.efi");
    let (code, said) = bench.avr(&["slots", "switch"]);
    assert_eq!(
        (code, said.as_str()),
        (
            Some(0),
            "build 3 is marked bad: the other one runs from the next start on\nstart the box anew: `reboot` on the console\n"
        )
    );
    assert_eq!(bench.files(), ["avr_000002.efi", "avr_000003+0-1.efi"]);
}

#[test]
fn what_a_box_does_not_take_leaves_its_slots_as_they_are() {
    let bench = Bench::new(&[("avr_000001.efi", 1), ("avr_000002.efi", 2)]).runs("avr_000002.efi");
    let before = bench.files();
    let whole = bundle(3, &uki(3, 900_000));
    let mut other = bundles::manifest(3, &uki(3, 1000));
    other.board = "rockpro64".to_owned();
    for (bytes, told) in [
        (
            whole[..1000].to_vec(),
            "avr: the bundle ends after 1000 bytes, too early: fetch the rest\n",
        ),
        (
            b"something else, and long enough for a header".repeat(20),
            "avr: this is no update bundle (at byte 124): take a file named avr-BOARD-VERSION.update.tar\n",
        ),
        (
            bundle(2, &uki(2, 1000)),
            "avr: build 2 is not newer than 2, which is there: to go back, switch slots\n",
        ),
        (
            bundles::bundle_of(&other, &uki(3, 1000)),
            "avr: the bundle is for the board rockpro64 (x86_64), and this is qemu-x86_64 (x86_64): take one for qemu-x86_64 (x86_64)\n",
        ),
    ] {
        fs::write(bench.path("a.update.tar"), bytes).unwrap();
        let (code, said) = bench.avr(&["update", "a.update.tar"]);
        assert_eq!((code, said.as_str()), (Some(1), told));
        assert_eq!(bench.files(), before);
    }
    let (code, said) = bench.avr(&["update", "b.update.tar"]);
    assert!(code == Some(1) && said.starts_with("avr: open b.update.tar: "), "{said}");

    // Cut later: what there is stays, where the loader does not look, and is gone on behind.
    fs::write(bench.path("a.update.tar"), &whole[..600_000]).unwrap();
    let (code, said) = bench.avr(&["update", "a.update.tar"]);
    assert_eq!(
        (code, said.as_str()),
        (Some(1), "avr: the bundle ends after 600000 bytes, too early: fetch the rest\n")
    );
    assert_eq!(bench.files().iter().filter(|file| file.ends_with(".efi")).count(), before.len());
    fs::write(bench.path("a.update.tar"), &whole).unwrap();
    let (code, said) = bench.avr(&["update", "a.update.tar"]);
    assert_eq!(code, Some(0), "{said}");
    assert!(said.contains("0.5 MiB were there from an earlier attempt\n"), "{said}");
    assert!(said.ends_with("start the box anew: `reboot` on the console\n"), "{said}");
    assert_eq!(bench.files(), ["avr_000002.efi", "avr_000003+3-0.efi"]);
}

#[test]
fn one_at_a_time_and_only_on_a_box() {
    let bench = Bench::new(&[("avr_000002.efi", 2)]).runs("avr_000002.efi");
    fs::create_dir(bench.path("mount")).unwrap();
    let folder = fs::File::open(bench.path("mount")).unwrap();
    folder.lock().unwrap();
    let (code, said) = bench.avr(&["slots"]);
    assert_eq!(
        (code, said.as_str()),
        (Some(1), "avr: another `avr update` or `avr slots` is at work: wait until it has ended\n")
    );
    folder.unlock().unwrap();
    assert_eq!(bench.avr(&["slots"]).0, Some(0));
    fs::remove_file(bench.path("init")).unwrap();
    let (code, said) = bench.avr(&["slots"]);
    assert!(
        code == Some(1) && said.starts_with("avr: ask PID 1 at init: this is for a box, as root: "),
        "{said}"
    );
}

/// A fleet's folder on a web server, and a box whose settings name it.
struct Fleet {
    nginx: common::Nginx,
    bench: Bench,
}

impl Fleet {
    fn new() -> Self {
        let bench =
            Bench::new(&[("avr_000001.efi", 1), ("avr_000002.efi", 2)]).runs("avr_000002.efi");
        fs::create_dir(bench.path("www")).unwrap();
        let nginx = common::Nginx::start(bench.folder.path(), "", None);
        let settings = format!(
            "[ports]\nlan = \"lo\"\nwan = \"wan0\"\nbridge = \"br0\"\n\
             [identity]\nstate_directory = \"state\"\n\
             [updates]\nurl = \"http://127.0.0.1:{}/\"\nrestart = \"00:00-24:00\"\n",
            nginx.port
        );
        fs::write(bench.path("box.toml"), settings).unwrap();
        Self { nginx, bench }
    }

    /// Offers builds to so many percent; writes and signs the index.
    fn offers(&self, issued_at: u64, builds: &[(u32, u8)]) {
        let offers = builds.iter().map(|&(build, percent)| {
            let system = uki(build, 900_000);
            let whole = bundle(build, &system);
            let file = format!("{build}.update.tar");
            fs::write(self.bench.path("www").join(&file), &whole).unwrap();
            Offer {
                board: bundles::BOARD.to_owned(),
                version: bundles::VERSION.to_owned(),
                build: build.try_into().unwrap(),
                percent,
                file,
                bytes: whole.len() as u64,
                sha256: Sha256::of(&system),
            }
        });
        let (format, product) = (INDEX_FORMAT, "avr".to_owned());
        let index = Index { format, product, issued_at, offers: offers.collect() };
        let text = index.to_toml().unwrap();
        let signature = bundles::sign(text.as_bytes(), &bundles::key("dev-2.key"), false);
        fs::write(self.bench.path("www").join(INDEX_FILE), text).unwrap();
        fs::write(self.bench.path("www").join(INDEX_SIGNATURE_FILE), signature).unwrap();
    }

    fn look(&self) -> (Option<i32>, String) {
        self.bench.avr(&["updates", "--once", "--config", "box.toml"])
    }
}

#[test]
fn an_update_comes_from_an_address() {
    let fleet = Fleet::new();
    fleet.offers(1000, &[(3, 0)]);
    let url = format!("http://127.0.0.1:{}/3.update.tar", fleet.nginx.port);
    let (code, said) = fleet.bench.avr(&["update", "--", &url]);
    assert_eq!(code, Some(0), "{said}");
    assert!(said.contains("fetched: 0.8 MiB of 0.8 MiB\n"), "{said}");
    assert!(said.contains("build 3 (0.2.0) is verified and installed"), "{said}");
    assert_eq!(fleet.bench.files(), ["avr_000002.efi", "avr_000003+3-0.efi"]);
    assert_eq!(fs::read_dir(fleet.bench.path("downloads")).unwrap().count(), 0);
    let (code, said) = fleet.bench.avr(&["update", "--", &url.replace("http", "https")]);
    assert!(code == Some(1) && said.contains("needs an authority to believe"), "{said}");
    // Refused by its manifest, before anything is written.
    fs::write(fleet.bench.path("www/2.update.tar"), bundle(2, &uki(2, 900_000))).unwrap();
    let (_, said) = fleet.bench.avr(&["update", "--", &url.replace("/3.", "/2.")]);
    assert!(said.starts_with("avr: build 2 is not newer than 2"), "{said}");
    assert_eq!(fs::read_dir(fleet.bench.path("downloads")).unwrap().count(), 0);
}

#[test]
fn a_box_looks_for_updates_and_waits_for_its_turn() {
    let fleet = Fleet::new();
    let (code, said) = fleet.look();
    assert_eq!(code, Some(1), "{said}");
    assert!(fleet.bench.avr(&["slots"]).1.contains("updates: failed, because: http://"));
    fleet.offers(1000, &[(3, 0)]);
    let (code, said) = fleet.look();
    assert!(code == Some(0) && said.contains("build 3 (0.2.0) is held back: 0 percent"), "{said}");
    assert_eq!(fleet.bench.files(), ["avr_000001.efi", "avr_000002.efi"]);
    // An index from before is nobody's.
    fleet.offers(999, &[(3, 100)]);
    assert_eq!(fleet.look().0, Some(1));
    assert!(fleet.bench.avr(&["slots"]).1.contains("is of 999, and one of 1000 was here"));
    // Nor one that somebody has changed.
    fleet.offers(1001, &[(3, 100)]);
    let index = fleet.bench.path("www").join(INDEX_FILE);
    let text = fs::read_to_string(&index).unwrap();
    fs::write(&index, text.replace("1001", "1002")).unwrap();
    assert_eq!(fleet.look().0, Some(1));
    assert!(fleet.bench.avr(&["slots"]).1.contains("index of updates is not believed"));
    fs::write(&index, text).unwrap();
    let (code, said) = fleet.look();
    assert!(
        code == Some(0) && said.contains("build 3 is installed; the box starts anew"),
        "{said}"
    );
    assert_eq!(fleet.bench.files(), ["avr_000002.efi", "avr_000003+3-0.efi"]);
    let (_, said) = fleet.bench.avr(&["slots", "--json"]);
    let listing: Value = serde_json::from_str(&said).unwrap();
    assert_eq!(listing["updates"]["news"]["news"], "installed");
    assert_eq!(listing["updates"]["seen_at"], 1001);
    // One that failed here is not taken again.
    let failed = json!([{ "build": 3, "sha256": Sha256::of(&uki(3, 900_000)), "why": "no link" }]);
    fs::write(fleet.bench.path("update.json"), json!({ "failed": failed }).to_string()).unwrap();
    assert!(fleet.look().1.contains("build 3 failed here, and is not taken again: no link"));
}

#[test]
fn the_process_starts_the_box_anew_at_its_time() {
    let fleet = Fleet::new();
    fleet.offers(1000, &[(3, 100)]);
    let mut command = Command::new(env!("CARGO_BIN_EXE_avr"));
    command.current_dir(fleet.bench.folder.path()).args(["updates", "--hasty"]);
    command.args(["--config", "box.toml", "--init", "init", "--record", "update.json"]);
    command.args(["--mount", "mount", "--filesystem", "ext4", "--downloads", "downloads"]);
    let mut child = command.spawn().unwrap();
    let has_asked = || {
        let asked = fleet.bench.asked.lock().unwrap();
        asked.iter().any(|line| line.contains("reboot"))
    };
    while !has_asked() {
        assert!(child.try_wait().unwrap().is_none(), "it ended");
        std::thread::yield_now();
    }
    child.kill().unwrap();
    child.wait().unwrap();
    assert_eq!(fleet.bench.files(), ["avr_000002.efi", "avr_000003+3-0.efi"]);
}
