//! The office's line while what is behind it fails: the gateway is killed, the gateway hangs, the disk is
//! pulled. Frames go into one port of the machine and are looked for at the other.
#![allow(clippy::tests_outside_test_module, reason = "an integration test is a test module")]
#![allow(clippy::unwrap_used, reason = "a test")]

use std::time::Duration;

use boot::{Bench, Fittings, Machine, Side, System};

/// Longest from the console to a gateway that intercepts.
const GATEWAY_MAX: Duration = Duration::from_secs(300);
/// Longest that a frame may be on its way through a machine that has other things to do.
const FRAME_MAX: Duration = Duration::from_secs(20);
/// Longest until a gateway that is gone or silent is bypassed: its watchdog is 20 s, and it has time to end.
const BYPASS_MAX: Duration = Duration::from_secs(120);
/// What a line is tried with, each time.
const FRAMES: u16 = 20;

const PC: [u8; 6] = [0x02, 0, 0x5e, 0, 0x53, 0x11];
const ROUTER: [u8; 6] = [0x02, 0, 0x5e, 0, 0x53, 0x12];
/// An Ethernet type for experiments (IEEE 802).
const EXPERIMENT: [u8; 2] = [0x88, 0xb5];
const IPV4: [u8; 2] = [0x08, 0x00];

fn frame(from: [u8; 6], to: [u8; 6], kind: [u8; 2], payload: &[u8]) -> Vec<u8> {
    let mut frame = [&to[..], &from, &kind, payload].concat();
    frame.resize(frame.len().max(60), 0);
    frame
}

/// The first packet of a connection from the PC to a mail server outside.
fn syn(port: u16) -> Vec<u8> {
    let (pc, server) = ([192, 0, 2, 11], [198, 51, 100, 25]);
    let mut ip = vec![0x45, 0, 0, 40, 0, 1, 0x40, 0, 64, 6, 0, 0];
    ip.extend(pc);
    ip.extend(server);
    let sum = checksum(&ip);
    ip[10..12].copy_from_slice(&sum);
    let mut tcp = Vec::new();
    tcp.extend(port.to_be_bytes());
    tcp.extend(25_u16.to_be_bytes());
    tcp.extend([0, 0, 0, 1, 0, 0, 0, 0, 0x50, 0x02, 0xff, 0xff, 0, 0, 0, 0]);
    let pseudo = [&pc[..], &server, &[0, 6, 0, 20], &tcp].concat();
    let sum = checksum(&pseudo);
    tcp[16..18].copy_from_slice(&sum);
    frame(PC, ROUTER, IPV4, &[ip, tcp].concat())
}

/// The Internet's (RFC 1071).
fn checksum(bytes: &[u8]) -> [u8; 2] {
    let words = bytes.chunks(2).map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]])));
    let sum: u32 = words.sum();
    let folded = (sum & 0xffff) + (sum >> 16);
    let folded = (folded & 0xffff) + (folded >> 16);
    (!u16::try_from(folded).unwrap()).to_be_bytes()
}

/// Not one frame is lost, in either direction.
fn crosses(machine: &Machine, number: &mut u16) {
    let ports = machine.ports();
    for _ in 0..FRAMES {
        for (from, to, sender) in [(Side::Lan, Side::Wan, PC), (Side::Wan, Side::Lan, ROUTER)] {
            *number += 1;
            let sent = frame(sender, [0xff; 6], EXPERIMENT, &number.to_be_bytes());
            ports.send(from, &sent).unwrap();
            let what = format!("frame {number}");
            ports.wait(to, &what, FRAME_MAX, |seen| seen == sent).unwrap();
        }
    }
}

/// Connections to port 25 go into the gateway, and not across the bridge.
fn is_intercepted(machine: &mut Machine, port: u16) -> bool {
    machine.ports().drain();
    machine.ports().send(Side::Lan, &syn(port)).unwrap();
    // What comes later than that has overtaken it: both go through the same bridge.
    let mark = frame(PC, [0xff; 6], EXPERIMENT, &[&port.to_be_bytes()[..], b"mark"].concat());
    machine.ports().send(Side::Lan, &mark).unwrap();
    let crossed = std::cell::Cell::new(false);
    machine
        .ports()
        .wait(Side::Wan, "the mark", FRAME_MAX, |seen| {
            crossed.set(crossed.get() || seen.starts_with(&syn(port)[..54]));
            seen == mark
        })
        .unwrap();
    !crossed.get()
}

/// Waits until connections to port 25 cross the bridge.
fn wait_bypassed(machine: &mut Machine) {
    let mut port = 20_000;
    e2e::clock::wait_for("mail to cross the bridge", BYPASS_MAX, || {
        port += 1;
        (!is_intercepted(machine, port)).then_some(())
    })
    .unwrap();
}

fn intercepting() -> (Bench, Machine) {
    let bench = Bench::new().unwrap();
    let system = System::new(&bench.released, bench.build()).with_shell();
    bench.replace_system(&system.uki().unwrap()).unwrap();
    let mut machine = bench.start(&Fittings::default()).unwrap();
    machine.log_in().unwrap();
    wait_intercepts(&mut machine);
    assert!(is_intercepted(&mut machine, 10_001), "what the tests wait for is none");
    (bench, machine)
}

fn wait_intercepts(machine: &mut Machine) {
    let says = "PASS gateway: mail is intercepted";
    machine.ask_until("self-test", says, GATEWAY_MAX).unwrap();
}

/// Catches: a bridge that depends on the gateway's process, mail that stands still when it is gone, and a
/// gateway that does not come back.
#[test]
fn with_the_gateway_killed_frames_and_mail_cross() {
    let (_bench, mut machine) = intercepting();
    let mut number = 0;
    crosses(&machine, &mut number);
    machine.shell("$b killall -9 avr").unwrap();
    wait_bypassed(&mut machine);
    crosses(&machine, &mut number);
    wait_intercepts(&mut machine);
    assert!(is_intercepted(&mut machine, 10_002));
    crosses(&machine, &mut number);
}

/// Catches: a gateway that stands still and holds the mail for ever; frames that stand still with it.
#[test]
fn with_the_gateway_hung_frames_cross_and_mail_follows() {
    let (_bench, mut machine) = intercepting();
    let mut number = 0;
    machine.shell("$b killall -STOP avr").unwrap();
    crosses(&machine, &mut number);
    wait_bypassed(&mut machine);
    crosses(&machine, &mut number);
    wait_intercepts(&mut machine);
    assert!(is_intercepted(&mut machine, 10_002));
}

/// Catches: a gateway, a console or a PID 1 that needs the disk once it runs; and the watchdog that ends such
/// a box.
#[test]
fn with_the_disk_pulled_frames_cross_and_mail_is_intercepted() {
    let (_bench, mut machine) = intercepting();
    let mut number = 0;
    machine.pull_disk().unwrap();
    // Whoever looks at it sees that it is gone.
    machine.shell("! $b dd if=/dev/vda of=/dev/null bs=1M count=1 iflag=direct").unwrap();
    crosses(&machine, &mut number);
    assert!(is_intercepted(&mut machine, 10_002));
    // Longer than the box's watchdog and than anything that writes now and then.
    let uptime = |machine: &mut Machine| -> f64 {
        let said = machine.shell("$b cut -d ' ' -f 1 /proc/uptime").unwrap();
        said.trim().parse().unwrap()
    };
    let pulled_at = uptime(&mut machine);
    e2e::clock::wait_for("the box to run on for two minutes", GATEWAY_MAX, || {
        crosses(&machine, &mut number);
        (uptime(&mut machine) > pulled_at + 120.0).then_some(())
    })
    .unwrap();
    assert!(is_intercepted(&mut machine, 10_003));
    wait_intercepts(&mut machine);
}
