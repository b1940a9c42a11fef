//! The box's name, asked for by a resolver of another host: two network namespaces with a wire between.
//! Takes root, as all of the box's tests on a wire do.

use std::net::{IpAddr, Ipv4Addr, UdpSocket};
use std::process::Command;
use std::sync::Mutex;
use std::sync::mpsc::channel;
use std::time::Duration;

use hickory_proto::op::{Message, MessageType, OpCode, Query};
use hickory_proto::rr::{Name, RecordType};
use nix::sched::{CloneFlags, unshare};
use nix::unistd::gettid;
use tokio::sync::oneshot;

use super::bench::PATIENCE;
use crate::mdns::{GROUP, driver};

fn ip(words: &str) {
    let done = Command::new("ip").args(words.split(' ')).status().unwrap();
    assert!(done.success(), "ip {words}");
}

/// What dig is told of a name. It takes answers only from whom it asked, so it asks the box itself, as
/// section 5.5 of RFC 6762 has it.
fn dig(name: &str, kind: &str) -> String {
    let output = Command::new("dig")
        .args(["@192.0.2.7", "-p", "5353", "+timeout=1", "+tries=1", "+short", name, kind])
        .output()
        .expect("dig; scripts/install-packages --checks installs it");
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}

/// What a resolver is told that asks everybody on the wire, and takes an answer from anybody.
fn ask_everybody(name: &str) -> IpAddr {
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).unwrap();
    socket.set_read_timeout(Some(Duration::from_secs(1))).unwrap();
    let mut question = Message::new(4711, MessageType::Query, OpCode::Query);
    question.add_query(Query::query(Name::from_ascii(name).unwrap(), RecordType::A));
    let began = tokio::time::Instant::now();
    let mut buffer = [0; 512];
    loop {
        assert!(began.elapsed() < PATIENCE, "nobody has the name");
        socket.send_to(&question.to_vec().unwrap(), GROUP).unwrap();
        let Ok((bytes, from)) = socket.recv_from(&mut buffer) else { continue };
        let answer = Message::from_vec(&buffer[..bytes]).unwrap();
        assert_eq!((answer.metadata.id, answer.answers[0].ttl), (4711, 10));
        return from.ip();
    }
}

#[test]
fn a_resolver_on_the_wire_finds_the_box_by_its_name() {
    let (to_far, from_near) = channel();
    let (to_near, from_far) = channel();
    let (done, is_done) = oneshot::channel::<()>();
    let far = std::thread::spawn(move || {
        unshare(CloneFlags::CLONE_NEWNET).unwrap();
        to_near.send(gettid()).unwrap();
        // The wire is there.
        from_near.recv_timeout(PATIENCE).unwrap();
        ip("addr add 192.0.2.9/24 dev far0");
        ip("link set far0 up");
        ip("route add 224.0.0.0/4 dev far0");
        let began = tokio::time::Instant::now();
        while dig("avr-0200.local", "A") != "192.0.2.7" {
            assert!(began.elapsed() < PATIENCE, "nobody has the name");
        }
        assert_eq!(dig("AVR-0200.local", "AAAA"), "2001:db8::7");
        assert_ne!(dig("avr-0201.local", "A"), "192.0.2.7");
        assert_eq!(ask_everybody("avr-0200.local."), Ipv4Addr::new(192, 0, 2, 7));
        drop(done);
    });
    let near = std::thread::spawn(move || {
        unshare(CloneFlags::CLONE_NEWNET).unwrap();
        ip("link add box0 type veth peer name far0");
        ip(&format!("link set far0 netns {}", from_far.recv_timeout(PATIENCE).unwrap()));
        ip("addr add 192.0.2.7/24 dev box0");
        ip("addr add 2001:db8::7/64 dev box0 nodad");
        ip("link set box0 up");
        to_far.send(()).unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let name = Mutex::new("avr-0200.local".to_owned());
        runtime.block_on(async {
            tokio::select! {
                ended = driver::run("box0", "avr-0200", &name) => panic!("{ended:?}"),
                _ = is_done => {}
            }
        });
        assert_eq!(*name.lock().unwrap(), "avr-0200.local");
    });
    far.join().unwrap();
    near.join().unwrap();
}
