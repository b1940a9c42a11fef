//! Disks and clocks that are not as they should be, and little memory: the box starts, says what is wrong,
//! and goes on with its work as far as it can.
#![allow(clippy::tests_outside_test_module, reason = "an integration test is a test module")]
#![allow(clippy::unwrap_used, reason = "a test")]

use std::time::Duration;

use boot::{Bench, Fittings, Machine, System, known_key};
use box_update::slots::{FOLDER, TRIES, Trust, file_name};
use image::layout::MIB;

/// Longest from the console to a gateway that intercepts: it compiles its rules first.
const GATEWAY_MAX: Duration = Duration::from_secs(300);
/// What the self-test says of a gateway that does its work.
const INTERCEPTS: &str = "PASS gateway: mail is intercepted";

fn started(bench: &Bench, fittings: &Fittings) -> (Machine, String) {
    let mut machine = bench.start(fittings).unwrap();
    let banner = machine.log_in().unwrap();
    (machine, banner)
}

fn intercepting(machine: &mut Machine) -> String {
    machine.ask_until("self-test", INTERCEPTS, GATEWAY_MAX).unwrap()
}

/// Catches: a box that is dead, or that starts nothing, once its slots' file system is gone.
#[test]
fn without_slots_the_recovery_system_starts() {
    let bench = Bench::new().unwrap();
    bench.overwrite("SLOTS", &vec![0; usize::try_from(MIB).unwrap()]).unwrap();
    let (mut machine, _) = started(&bench, &Fittings::default());
    let said = machine.ask("status").unwrap();
    assert!(said.contains("zz-recovery.efi"), "{said}");
    assert!(said.contains("this is the recovery system"), "{said}");
    let said = machine.ask("self-test").unwrap();
    assert!(said.contains("PASS bridge: both ports forward"), "{said}");
    machine.cut_power().unwrap();
}

/// Catches: a recovery system from which there is no way back to a box that works.
#[test]
fn from_the_recovery_system_an_update_makes_the_box_whole() {
    let bench = Bench::new().unwrap();
    let slots = bench.slots().unwrap();
    let name = file_name(bench.build(), Trust::Good);
    slots.root_dir().remove(&format!("{FOLDER}/{name}")).unwrap();
    slots.unmount().unwrap();
    let new = bench.build() + 1;
    let bundle = bench.folder().join("new.tar");
    System::new(&bench.released, new).bundle(&bundle, &known_key()).unwrap();
    let stick = Some(bench.stick(&[("new.tar", &bundle)]).unwrap());
    let (mut machine, _) = started(&bench, &Fittings { stick, ..Fittings::default() });
    let said = machine.ask("status").unwrap();
    assert!(said.contains("this is the recovery system"), "{said}");
    let said = machine.confirm("update usb:new.tar").unwrap();
    assert!(!said.contains("FAIL"), "{said}");
    machine.confirm_away("reboot").unwrap();
    machine.log_in().unwrap();
    intercepting(&mut machine);
    let said = machine.ask("status").unwrap();
    let left = TRIES - 1;
    assert!(said.contains(&format!("ON TRIAL, {left} starts left")), "{said}");
    machine.cut_power().unwrap();
}

/// Catches: a box that does not start, that nobody can log in to, or that scans nothing, because its settings
/// cannot be read; and settings that are lost by less than that.
#[test]
fn without_its_settings_the_box_starts_with_those_of_a_new_one() {
    let bench = Bench::new().unwrap();
    // A new box: it makes what it needs, and has what it is told.
    let (mut machine, banner) = started(&bench, &Fittings::default());
    assert!(banner.contains("NO SECRET IS SET"), "{banner}");
    let said = machine.confirm("addresses static 192.0.2.7/24 192.0.2.1 192.0.2.1").unwrap();
    assert!(said.contains("NOT CONFIRMED"), "{said}");
    let said = machine.ask("addresses confirm").unwrap();
    assert!(!said.contains("NOT CONFIRMED") && !said.contains("FAIL"), "{said}");
    machine.cut_power().unwrap();

    // Its power is cut at once: what was confirmed is there.
    let (mut machine, _) = started(&bench, &Fittings::default());
    let said = machine.ask("addresses show").unwrap();
    assert!(said.contains("192.0.2.7/24"), "{said}");
    machine.cut_power().unwrap();

    bench.overwrite("STATE", &vec![0xa5; usize::try_from(4 * MIB).unwrap()]).unwrap();
    let (mut machine, banner) = started(&bench, &Fittings::default());
    assert!(banner.contains("NO SECRET IS SET"), "{banner}");
    let said = machine.ask("addresses show").unwrap();
    assert!(!said.contains("192.0.2.7/24"), "{said}");
    let said = intercepting(&mut machine);
    assert!(said.contains("PASS state: /dev/vda3"), "{said}");
    machine.cut_power().unwrap();
}

/// Catches: a box whose time is before its own certificates because its clock's battery is empty.
#[test]
fn a_clock_at_1970_is_set_to_no_earlier_than_the_image() {
    let bench = Bench::new().unwrap();
    let system = System::new(&bench.released, bench.build()).with_shell();
    bench.replace_system(&system.uki().unwrap()).unwrap();
    let clock = Some("1970-01-01T00:00:00".to_owned());
    let (mut machine, _) = started(&bench, &Fittings { clock, ..Fittings::default() });
    intercepting(&mut machine);
    let seconds: u64 = machine.shell("$b date +%s").unwrap().trim().parse().unwrap();
    let built_at = bench.released.manifest.built_at;
    assert!((built_at..built_at + 86_400).contains(&seconds), "{seconds}, built at {built_at}");
    machine.cut_power().unwrap();
}

/// Catches: a system that has grown beyond what the smallest boards have.
#[test]
fn it_works_in_512_mib() {
    let bench = Bench::new().unwrap();
    let system = System::new(&bench.released, bench.build()).with_shell();
    bench.replace_system(&system.uki().unwrap()).unwrap();
    let fittings = Fittings { memory_mib: Some(512), ..Fittings::default() };
    let (mut machine, _) = started(&bench, &fittings);
    intercepting(&mut machine);
    let said = machine.shell("$b cat /proc/meminfo").unwrap();
    let kib = |key: &str| -> u64 {
        let line = said.lines().find(|line| line.starts_with(key)).unwrap();
        line.split_whitespace().nth(1).unwrap().parse().unwrap()
    };
    assert!(kib("MemTotal:") < 512 * 1024, "{said}");
    // Room for mails that are judged, and for the page cache.
    assert!(kib("MemAvailable:") > 96 * 1024, "{said}");
    let said = machine.shell("$b dmesg").unwrap();
    assert!(!said.contains("Out of memory"), "{said}");
    machine.cut_power().unwrap();
}
