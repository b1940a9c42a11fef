//! The socket's lines, as console and status page rely on them.
#![allow(clippy::tests_outside_test_module, reason = "an integration test is a test module")]

use box_init::control::{
    AddressSource, Check, Clock, ClockState, Failure, Gateway, Ipv4Settings, LogLine, Mode,
    Network, NetworkRequest, NetworkSettings, Outcome, Port, Release, Reply, Request, Service,
    ServiceState, Slot, Slots, Status, Storage, Synced, Trial, Watchdog,
};

const GOLDEN: &str = include_str!("control.jsonl");

fn network() -> Network {
    Network {
        settings: NetworkSettings {
            ipv4: Ipv4Settings::Static {
                address: [192, 0, 2, 7].into(),
                prefix: 24,
                gateway: Some([192, 0, 2, 1].into()),
            },
            dns: vec!["2001:db8::53".parse().expect("an address")],
            ..NetworkSettings::default()
        },
        addresses: vec!["192.0.2.7/24".to_owned(), "fe80::1/64".to_owned()],
        gateway: Some([192, 0, 2, 1].into()),
        dns: vec!["2001:db8::53".parse().expect("an address")],
        source: AddressSource::Static,
        confirm_seconds: Some(171),
    }
}

fn port(number: u8) -> Port {
    Port {
        path: format!("pci:0000:00:0{number}.0"),
        found: true,
        mac: format!("02:00:5e:10:00:0{number}"),
        link: true,
        speed_mbit: Some(1000),
        driver: "virtio_net".to_owned(),
    }
}

fn status() -> Status {
    Status {
        release: Release {
            product: "avr".to_owned(),
            version: "0.1.0".to_owned(),
            build: 12,
            board: "qemu-x86_64".to_owned(),
            arch: "x86_64".to_owned(),
            sbom_sha256: "00ff".to_owned(),
        },
        serial: "02005e100003".to_owned(),
        slot: Slot {
            entry: Some("avr_000012+2-1.efi".to_owned()),
            trial: Trial::OnTrial {
                starts_left: 2,
                healthy_seconds: 0,
                unhealthy: Some("gateway: it starts".to_owned()),
            },
        },
        mode: Mode::Normal,
        uptime_seconds: 9,
        short_boots: 1,
        clock: Clock {
            state: ClockState::Synced,
            now_seconds: 1_800_000_000,
            synced: Some(Synced {
                server: [192, 0, 2, 1].into(),
                at_seconds: 1_799_999_999,
                offset_ms: -3,
            }),
        },
        gateway: Gateway::BackedOff { seconds: 4 },
        lan: port(3),
        wan: port(4),
        bridged: true,
        network: network(),
        watchdog: Watchdog { driver: "softdog".to_owned(), hardware: false, seconds: 30 },
        state: Storage::Disk {
            device: "/dev/vda3".to_owned(),
            bytes: 67_108_864,
            free_bytes: 60_000_000,
            repaired: None,
        },
        data: Storage::Memory { problem: "no partition DATA".to_owned() },
        memory_bytes: (1_000_000_000, 800_000_000),
        last_failure: Some(Failure {
            at_seconds: 1_799_990_000,
            entry: "avr_000011.efi".to_owned(),
            text: "Kernel panic".to_owned(),
        }),
        problems: vec!["DATA is in memory: no partition DATA".to_owned()],
    }
}

fn requests() -> Vec<Request> {
    let service = || "gateway".to_owned();
    vec![
        Request::Status,
        Request::Services,
        Request::Logs { service: service(), lines: 20 },
        Request::Restart { service: service() },
        Request::Bypass { on: true },
        Request::Network(NetworkRequest::Show),
        Request::Network(NetworkRequest::Set { settings: network().settings }),
        Request::Network(NetworkRequest::Confirm),
        Request::Network(NetworkRequest::Revert),
        Request::SelfTest,
        Request::Reboot,
        Request::Poweroff,
        Request::FactoryReset { serial: "02005e100003".to_owned() },
        Request::Slots,
    ]
}

fn replies() -> Vec<Reply> {
    let service = |name: &str, state| Service {
        name: name.to_owned(),
        state,
        note: String::new(),
        starts: 2,
        last_end: "exit code 1".to_owned(),
    };
    let check = |name: &str, outcome| Check { name: name.to_owned(), outcome };
    vec![
        Reply::Done { note: "starts anew".to_owned() },
        Reply::Failed { problem: "there is no service x".to_owned() },
        Reply::Status(Box::new(status())),
        Reply::Services {
            services: vec![
                service("a", ServiceState::Starting { pid: 7 }),
                service("b", ServiceState::Running { pid: 8, seconds: 60 }),
                service("c", ServiceState::Stopping { pid: 9 }),
                service("d", ServiceState::BackedOff { seconds: 8 }),
                service("e", ServiceState::Stopped),
            ],
        },
        Reply::Logs { lines: vec![LogLine { at_ms: 1500, text: "ready".to_owned() }] },
        Reply::Network(network()),
        Reply::SelfTest {
            checks: vec![
                check("lan", Outcome::Pass { detail: "link up".to_owned() }),
                check("wan", Outcome::Fail { detail: "no link: plug it in".to_owned() }),
                check("bridge", Outcome::Skipped { because: "wan".to_owned() }),
            ],
        },
        Reply::Slots(Box::new(Slots {
            device: "/dev/vda2".to_owned(),
            entry: Some("avr_000012+2-1.efi".to_owned()),
            release: status().release,
        })),
    ]
}

#[test]
fn lines_are_as_they_were() {
    let mut lines = String::new();
    for request in requests() {
        lines += &(serde_json::to_string(&request).unwrap() + "\n");
    }
    for reply in replies() {
        lines += &(serde_json::to_string(&reply).unwrap() + "\n");
    }
    assert_eq!(lines, GOLDEN, "what is written now:\n{lines}");
}

#[test]
fn lines_are_read_as_they_were_meant() {
    let (asked, answered) = (requests(), replies());
    let mut lines = GOLDEN.lines();
    for request in asked {
        assert_eq!(serde_json::from_str::<Request>(lines.next().unwrap()).unwrap(), request);
    }
    for reply in answered {
        assert_eq!(serde_json::from_str::<Reply>(lines.next().unwrap()).unwrap(), reply);
    }
    assert_eq!(lines.next(), None);
}

#[test]
fn what_nobody_understands_is_refused() {
    for line in [
        r#"{"verb":"stats"}"#,
        r#"{"verb":"logs","service":"gateway"}"#,
        r#"{"verb":"bypass","on":true,"for":"1h"}"#,
        r#"{"verb":"network","action":"set","settings":{"ipv4":{"method":"static"}}}"#,
        r#"{"verb":"network","action":"set","settings":{"gateway":"192.0.2.1"}}"#,
    ] {
        assert!(serde_json::from_str::<Request>(line).is_err(), "{line}");
    }
}
