//! An update from a stick, from its first byte to its blessing, with everything logged that is written to the
//! disk meanwhile; and what is on the disk when power is cut after any of these writes.
#![allow(clippy::tests_outside_test_module, reason = "an integration test is a test module")]
#![allow(clippy::unwrap_used, reason = "a test")]

mod cuts;

use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::time::Duration;

use boot::{Bench, Fittings, Log, System, known_key};
use box_update::slots::{Trust, file_name};
use cuts::{Loader, Replayed};
use image::ext4::{self, StateFile};
use image::layout::Partition;

/// Longest that the start of the new system may take: starting, intercepting, and two minutes of health.
const BLESSED_MAX: Duration = Duration::from_secs(500);
/// What is set on the box, and where.
const SETTINGS: &str = "hostname = \"settings-kept\"\n\n[ipv4]\nmethod = \"dhcp\"\n";
const SETTINGS_FILE: &str = "config/network.toml";

/// Catches: a box that cannot update itself with what we publish, or never trusts it, from the stick in its
/// port to the name of the slot, with the real gateway and the real two minutes; and an order of writes
/// that leaves, with power cut at some moment, no system that starts whole, or no settings.
#[test]
fn an_update_is_blessed_and_power_may_be_cut_at_any_write_of_it() {
    let bench = Bench::new().unwrap();
    let (old, new) = (bench.build(), bench.build() + 1);
    let (slots, state) = (partition(&bench, "SLOTS"), partition(&bench, "STATE"));
    let settings = StateFile { path: SETTINGS_FILE.to_owned(), contents: SETTINGS.to_owned() };
    let epoch = u32::try_from(bench.released.manifest.built_at).unwrap();
    let made = ext4::with_files("STATE", state.guid, epoch, &[settings]).unwrap();
    bench.overwrite("STATE", &made).unwrap();
    let before = [read(&bench, &slots), read(&bench, &state)];

    let log = bench.folder().join("writes.log");
    let system = System::new(&bench.released, new);
    blessed(&bench, &system, &log);
    let good = |build| file_name(build, Trust::Good);
    assert_eq!(bench.slot_names().unwrap(), [good(old), good(new)]);

    let log = Log::read(&log).unwrap();
    let esp = partition(&bench, "ESP");
    let is_in_esp = |at: u64| (esp.start..esp.start + esp.bytes).contains(&at);
    assert!(
        !log.0.iter().flatten().any(|write| is_in_esp(write.at)),
        "the boot loader's partition is written to"
    );
    let [slots_before, state_before] = before;
    let uki = system.uki().unwrap();
    let mut loader = Loader::new([(old, &bench.released.uki), (new, &uki)]);
    let replayed = Replayed::new(slots_before, &slots, &log);
    assert!(replayed.writes() > 20, "an update is more than {} writes", replayed.writes());
    let states = replayed.each(|bytes, state, written| loader.look(bytes, state, written));
    assert_eq!(loader.started.into_iter().collect::<Vec<_>>(), [old, new]);
    println!("SLOTS: {} writes, {states} states", replayed.writes());

    let replayed = Replayed::new(state_before, &state, &log);
    let states = replayed.each(|bytes, state, _| {
        let found = cuts::mended(&bytes.borrow(), bench.folder(), SETTINGS_FILE);
        assert_eq!(found.as_deref(), Ok(SETTINGS.as_bytes()), "{state}");
    });
    println!("STATE: {} writes, {states} states", replayed.writes());
}

/// Takes the update, and waits until it has proved itself.
fn blessed(bench: &Bench, system: &System<'_>, log: &Path) {
    let new = bench.build() + 1;
    let bundle = bench.folder().join("new.tar");
    system.bundle(&bundle, &known_key()).unwrap();
    let stick = Some(bench.stick(&[("new.tar", &bundle)]).unwrap());
    let fittings = Fittings { stick, log: Some(log.to_owned()), ..Fittings::default() };
    let mut machine = bench.start(&fittings).unwrap();
    machine.log_in().unwrap();
    let said = machine.confirm("update usb:new.tar").unwrap();
    assert!(said.contains(&format!("build {new}")) && !said.contains("FAIL"), "{said}");
    machine.confirm_away("reboot").unwrap();
    let banner = machine.log_in().unwrap();
    assert!(banner.contains(&format!("build {new}")), "{banner}");
    let good = file_name(new, Trust::Good);
    machine.ask_until("status", &format!("{good}, proved"), BLESSED_MAX).unwrap();
    // Not without what it is there for.
    let said = machine.ask("self-test").unwrap();
    assert!(said.contains("PASS gateway: mail is intercepted"), "{said}");
    machine.cut_power().unwrap();
}

fn partition(bench: &Bench, name: &str) -> Partition {
    bench.released.layout.partition(name).unwrap().clone()
}

fn read(bench: &Bench, partition: &Partition) -> Vec<u8> {
    let mut bytes = vec![0; usize::try_from(partition.bytes).unwrap()];
    File::open(bench.disk()).unwrap().read_exact_at(&mut bytes, partition.start).unwrap();
    bytes
}
