//! On a real line: an office PC, the box, and a server, each in a network namespace of its own.
//!
//! Each test runs itself again under `unshare --mount --net`, so nothing of it is to be seen outside
//! and several may run at once. Without root, or without `unshare` and `ip`, it says so and passes.
#![allow(clippy::tests_outside_test_module, reason = "an integration test is one")]
#![allow(clippy::unwrap_used, reason = "the helpers of a test are tests")]
#![allow(clippy::print_stderr, reason = "says why a test was not run")]

use std::fs::File;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::Duration;

use box_net::{BoxNet, OpenError, Port, Settings};
use box_stack::Segment;
use nix::sched::{CloneFlags, setns};

const INSIDE: &str = "BOX_NET_TEST_INSIDE";
const HOLD: &str = "BOX_NET_TEST_HOLD";

/// Runs `body` in namespaces of its own; `name` is the test's.
fn in_private_namespaces(name: &str, body: impl FnOnce()) {
    if std::env::var_os(INSIDE).is_some() {
        lay_line();
        return body();
    }
    if !nix::unistd::geteuid().is_root() {
        eprintln!("{name}: not run, it needs root");
        return;
    }
    let exe = std::env::current_exe().unwrap();
    let status = Command::new("unshare")
        .args(["--mount", "--net", "--"])
        .arg(exe)
        .args(["--exact", name, "--nocapture"])
        .env(INSIDE, "1")
        .status();
    match status {
        Ok(status) => assert!(status.success(), "{name} failed inside its namespaces"),
        Err(error) => eprintln!("{name}: not run, no unshare: {error}"),
    }
}

fn sh(script: &str) {
    let status = Command::new("sh").args(["-ec", script]).status().unwrap();
    assert!(status.success(), "{script}");
}

/// `pc` — lan0 (here) wan0 — `srv`. The bridge is left to the box.
fn lay_line() {
    sh("mount -t tmpfs none /run && mkdir /run/netns && ip link set lo up");
    for (host, port, last) in [("pc", "lan0", 2), ("srv", "wan0", 3)] {
        sh(&format!(
            "ip netns add {host}
             ip link add {port} type veth peer name eth0 netns {host}
             ip -n {host} addr add 10.9.0.{last}/24 dev eth0
             ip -n {host} addr add fd09::{last}/64 dev eth0 nodad
             ip -n {host} link set eth0 up"
        ));
    }
}

fn settings() -> Settings {
    Settings {
        lan: "lan0".to_owned(),
        wan: "wan0".to_owned(),
        bridge: "br0".to_owned(),
        mail_ports: vec![25, 110],
        name: "avr".to_owned(),
    }
}

/// Does something as a host of the line; sockets made so stay that host's.
fn on<R: Send>(host: &str, act: impl FnOnce() -> R + Send) -> R {
    let namespace = File::open(format!("/run/netns/{host}")).unwrap();
    thread::scope(|scope| {
        let task = scope.spawn(move || {
            setns(&namespace, CloneFlags::CLONE_NEWNET).unwrap();
            act()
        });
        task.join().unwrap()
    })
}

/// A server that sends back what it gets.
fn echo(host: &str, address: &str) {
    let address: SocketAddr = address.parse().unwrap();
    let listener = on(host, || TcpListener::bind(address).unwrap());
    thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            thread::spawn(move || {
                let mut reader = stream.try_clone().unwrap();
                // A client that goes away ends the copy.
                let _ = std::io::copy(&mut reader, &mut stream);
            });
        }
    });
}

/// Sends `bytes` from `host` and reads them back.
fn round_trip(host: &str, server: &str, bytes: usize, limit: Duration) -> std::io::Result<()> {
    let server: SocketAddr = server.parse().unwrap();
    let mut stream = on(host, || TcpStream::connect_timeout(&server, limit))?;
    stream.set_read_timeout(Some(limit))?;
    let mut writer = stream.try_clone()?;
    let sent: Vec<u8> = (0..bytes).map(|n| n.to_le_bytes()[0]).collect();
    let expected = sent.clone();
    let task = thread::spawn(move || writer.write_all(&sent));
    let mut received = vec![0; bytes];
    stream.read_exact(&mut received)?;
    task.join().unwrap()?;
    assert!(received == expected);
    Ok(())
}

/// Waits until the bridge has seen that its ports have a line, which the kernel looks at once a second,
/// and the hosts know each other's addresses.
fn wait_line() {
    echo("srv", "10.9.0.3:80");
    round_trip("pc", "10.9.0.3:80", 10, PATIENCE).unwrap();
}

const PATIENCE: Duration = Duration::from_secs(5);
const MOMENT: Duration = Duration::from_millis(700);

/// Carries frames between the two ports by hand until `over`.
fn carry(net: &BoxNet, over: impl Fn() -> bool) -> [usize; 2] {
    let mut counts = [0; 2];
    let mut buffer = vec![0; net.frame_bytes_max()];
    while !over() {
        net.wait(Some(Duration::from_millis(50))).unwrap();
        for (count, port) in counts.iter_mut().zip([Port::Lan, Port::Wan]) {
            while let Some(bytes) = net.recv(port, &mut buffer).unwrap() {
                let frame = &buffer[..bytes];
                let segment = Segment::parse(frame).expect("only TCP comes here");
                assert!(segment.is_intact(), "segmented and with its checksums");
                let client_side = segment.source().ip().to_string().ends_with('2');
                assert_eq!(client_side, port == Port::Lan, "each TAP is one side");
                assert!(net.send(port.opposite(), frame).unwrap());
                *count += 1;
            }
        }
    }
    counts
}

#[test]
fn mail_comes_out_and_goes_in_and_the_rest_stays_on_the_bridge() {
    in_private_namespaces("mail_comes_out_and_goes_in_and_the_rest_stays_on_the_bridge", || {
        for address in ["10.9.0.3", "[fd09::3]"] {
            echo("srv", &format!("{address}:25"));
        }
        echo("srv", "10.9.0.3:80");
        let net = BoxNet::open(&settings()).unwrap();
        assert_eq!(net.mtu(), 1500);
        let mut buffer = vec![0; net.frame_bytes_max()];

        round_trip("pc", "10.9.0.3:80", 1000, PATIENCE).unwrap();
        for port in [Port::Lan, Port::Wan] {
            assert_eq!(net.recv(port, &mut buffer).unwrap(), None, "nothing came to {port}");
        }

        for server in ["10.9.0.3:25", "[fd09::3]:25"] {
            let client = thread::spawn(move || round_trip("pc", server, 1_000_000, PATIENCE));
            let counts = carry(&net, || client.is_finished());
            client.join().unwrap().unwrap();
            assert!(counts.iter().all(|count| *count > 300), "{counts:?} frames");
        }
    });
}

/// A TCP SYN to port 25 between two made-up hosts.
fn syn() -> Vec<u8> {
    let mut frame = vec![2, 0, 0, 0, 0, 0x22, 2, 0, 0, 0, 0, 0x11, 0x08, 0x00];
    frame.extend([0x45, 0, 0, 40, 0, 1, 0x40, 0, 64, 6, 0, 0, 10, 9, 0, 92, 10, 9, 0, 93]);
    frame.extend([0x9c, 0x40, 0, 25, 0, 0, 0, 1, 0, 0, 0, 0, 0x50, 2, 4, 0, 0, 0, 0, 0]);
    with_checksum(frame)
}

/// Writes the IPv4 header's checksum, without which a bridge may drop the frame.
fn with_checksum(mut frame: Vec<u8>) -> Vec<u8> {
    let bytes = usize::from(frame[14] & 0x0f) * 4;
    frame[24..26].fill(0);
    let sum: u32 = frame[14..14 + bytes]
        .chunks(2)
        .map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]])))
        .sum();
    let folded = (sum & 0xffff) + (sum >> 16);
    let checksum = !u16::try_from((folded & 0xffff) + (folded >> 16)).unwrap();
    frame[24..26].copy_from_slice(&checksum.to_be_bytes());
    frame
}

#[test]
fn frames_out_of_the_ordinary_stay_on_the_bridge() {
    in_private_namespaces("frames_out_of_the_ordinary_stay_on_the_bridge", || {
        let net = BoxNet::open(&settings()).unwrap();
        wait_line();
        let channel = |host: &str| {
            on(host, || {
                let interfaces = pnet::datalink::interfaces();
                let eth0 = interfaces.into_iter().find(|found| found.name == "eth0").unwrap();
                let config = pnet::datalink::Config {
                    read_timeout: Some(PATIENCE),
                    promiscuous: true,
                    ..Default::default()
                };
                match pnet::datalink::channel(&eth0, config).unwrap() {
                    pnet::datalink::Channel::Ethernet(sender, receiver) => (sender, receiver),
                    _ => unreachable!("Ethernet is all there is"),
                }
            })
        };
        let (mut pc, _) = channel("pc");
        let (_, mut srv) = channel("srv");
        let changed = |at: usize, to: u8| {
            let mut frame = syn();
            frame[at] = to;
            with_checksum(frame)
        };
        let mut tagged = syn();
        tagged.splice(12..12, [0x81, 0x00, 0x00, 0x07]);
        let mut with_options = changed(14, 0x46);
        with_options.splice(34..34, [1, 1, 1, 0]);
        with_options[17] = 44;
        let with_options = with_checksum(with_options);
        let mut extended = syn();
        extended.truncate(12);
        extended.extend([0x86, 0xdd, 0x60, 0, 0, 0, 0, 28, 0, 64]);
        extended.extend([0xfd; 32]);
        extended.extend([6, 0, 1, 4, 0, 0, 0, 0]);
        extended.extend(&syn()[34..]);
        for (what, frame) in [
            ("VLAN tag", tagged),
            ("IPv4 options", with_options),
            ("first fragment", changed(20, 0x20)),
            ("later fragment", changed(21, 1)),
            ("UDP", changed(23, 17)),
            ("another port", changed(37, 80)),
            ("IPv6 extension header", extended),
        ] {
            pc.send_to(&frame, None).unwrap().unwrap();
            // A packet socket keeps the VLAN tag beside the frame.
            let untagged = if what == "VLAN tag" { syn() } else { frame };
            while srv.next().expect(what) != untagged {}
            let taken = net.recv(Port::Lan, &mut [0; 2000]).unwrap();
            assert_eq!(taken, None, "{what}");
        }
        // The ordinary one is taken, and comes out where it is sent.
        pc.send_to(&syn(), None).unwrap().unwrap();
        assert!(net.wait(Some(PATIENCE)).unwrap().lan);
        let mut buffer = [0; 2000];
        assert_eq!(net.recv(Port::Lan, &mut buffer).unwrap(), Some(syn().len()));
        assert!(net.send(Port::Wan, &syn()).unwrap());
        while srv.next().unwrap() != syn() {}
    });
}

#[test]
fn the_boxs_own_mail_connections_stay_its_own() {
    in_private_namespaces("the_boxs_own_mail_connections_stay_its_own", || {
        let net = BoxNet::open(&settings()).unwrap();
        sh("ip addr add 10.9.0.1/24 dev br0");
        echo("srv", "10.9.0.3:25");
        let own = TcpListener::bind("10.9.0.1:110").unwrap();
        let server: SocketAddr = "10.9.0.3:25".parse().unwrap();
        TcpStream::connect_timeout(&server, PATIENCE).expect("from the box to a mail server");
        let own_address = own.local_addr().unwrap();
        on("pc", || TcpStream::connect_timeout(&own_address, PATIENCE))
            .expect("from a PC to the box");
        assert_eq!(net.recv(Port::Wan, &mut [0; 2000]).unwrap(), None);
    });
}

#[test]
fn the_bridge_carries_mail_again_once_the_box_lets_go() {
    in_private_namespaces("the_bridge_carries_mail_again_once_the_box_lets_go", || {
        echo("srv", "10.9.0.3:25");
        let net = BoxNet::open(&settings()).unwrap();
        wait_line();
        round_trip("pc", "10.9.0.3:25", 10, MOMENT).expect_err("nobody reads the frames");
        net.let_go();
        round_trip("pc", "10.9.0.3:25", 10, PATIENCE).unwrap();
        drop(net);
        // Opening again finds the bridge as it is.
        let again = BoxNet::open(&settings()).unwrap();
        round_trip("pc", "10.9.0.3:25", 10, MOMENT).expect_err("taken again");
        drop(again);
        round_trip("pc", "10.9.0.3:25", 10, PATIENCE).unwrap();
    });
}

#[test]
fn a_killed_box_leaves_a_bridge_that_carries_mail() {
    in_private_namespaces("a_killed_box_leaves_a_bridge_that_carries_mail", || {
        echo("srv", "10.9.0.3:25");
        let mut holder = hold();
        assert!(
            matches!(BoxNet::open(&settings()), Err(OpenError::TapBusy { .. })),
            "one at a time"
        );
        wait_line();
        round_trip("pc", "10.9.0.3:25", 10, MOMENT).expect_err("the holder does not answer");
        holder.kill().unwrap();
        holder.wait().unwrap();
        round_trip("pc", "10.9.0.3:25", 10, Duration::from_secs(1)).expect("within a second");
    });
}

/// Another process that holds the line until it is killed.
fn hold() -> Child {
    let mut holder = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "holder", "--nocapture"])
        .env(HOLD, "1")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let lines = BufReader::new(holder.stdout.take().unwrap()).lines();
    assert!(lines.map_while(Result::ok).any(|line| line.contains("holding")));
    holder
}

#[test]
fn holder() {
    if std::env::var_os(HOLD).is_none() {
        return;
    }
    let _net = BoxNet::open(&settings()).unwrap();
    std::io::stdout().write_all(b"holding\n").unwrap();
    // Until its end, which is a signal.
    let _ = std::io::stdin().read(&mut [0]);
}

#[test]
fn settings_that_cannot_be_are_refused_by_name() {
    in_private_namespaces("settings_that_cannot_be_are_refused_by_name", || {
        let with = |change: fn(&mut Settings)| {
            let mut settings = settings();
            change(&mut settings);
            BoxNet::open(&settings).unwrap_err().to_string()
        };
        assert_eq!(with(|s| s.lan = "lan9".into()), "there is no interface lan9");
        assert_eq!(with(|s| s.wan = "lan0".into()), "lan0 is set as both ports");
        assert_eq!(with(|s| s.bridge = "lan0".into()), "lan0 is not a bridge");
        assert!(with(|s| s.bridge = "a-name-that-is-too-long".into()).contains("1 to 15 bytes"));
        assert!(with(|s| s.mail_ports.clear()).contains("no mail port"));
        sh("ip link add br9 type bridge && ip link set lan0 master br9");
        assert_eq!(with(|_| ()), "lan0 belongs to another bridge");
    });
}

#[test]
fn the_bridge_knows_who_is_behind_which_port() {
    in_private_namespaces("the_bridge_knows_who_is_behind_which_port", || {
        echo("srv", "10.9.0.3:80");
        let net = BoxNet::open(&settings()).unwrap();
        round_trip("pc", "10.9.0.3:80", 10, PATIENCE).unwrap();
        let address = |host: &'static str| {
            let output =
                Command::new("ip").args(["-n", host, "-o", "link", "show", "eth0"]).output();
            let text = String::from_utf8(output.unwrap().stdout).unwrap();
            let mac = text.split("link/ether ").nth(1).unwrap()[..17].to_owned();
            let bytes: Vec<u8> =
                mac.split(':').map(|byte| u8::from_str_radix(byte, 16).unwrap()).collect();
            <[u8; 6]>::try_from(bytes).unwrap()
        };
        let (pc, srv) = (address("pc"), address("srv"));
        assert!(net.is_behind(Port::Lan, pc) && !net.is_behind(Port::Wan, pc));
        assert!(net.is_behind(Port::Wan, srv) && !net.is_behind(Port::Lan, srv));
        assert!(!net.is_behind(Port::Lan, [2, 9, 9, 9, 9, 9]));
    });
}
