use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;

use proptest::prelude::*;
use smoltcp::socket::tcp::State;

use super::client::{Client, Faults, World, v4_ends, v6_ends};
use crate::flow::LINGER;
use crate::frame::{ETHERNET_BYTES, IPV4_BYTES, IPV6_BYTES};
use crate::{Disposition, FlowError, HELD_MAX, Overflow, Refusal, Settings, Verdict};

const SECOND: Duration = Duration::from_secs(1);

#[test]
fn nothing_is_answered_before_the_server_has() {
    let mut world = World::v4();
    let opening = world.ask();
    assert_eq!((opening.client, opening.server), v4_ends());
    // Two more SYNs come in this time.
    world.pass(5 * SECOND);
    assert_eq!((world.seen.len(), world.stack.poll_event()), (0, None));
    assert_eq!(world.client.state(), State::SynSent);
    world.stack.accept(opening.flow, world.now).unwrap();
    world.settle();
    assert_eq!(world.client.state(), State::Established);
    assert_eq!(world.stack.counters().opened, 1);
}

#[test]
fn refused_looks_refused() {
    for (client, server) in [v4_ends(), v6_ends()] {
        let mut world = World::new(Settings::default(), Client::connect(client, server, 1));
        let opening = world.ask();
        world.stack.refuse(opening.flow, Refusal::Refused);
        world.settle();
        assert_eq!((world.client.state(), world.seen.len()), (State::Closed, 1));
        assert_eq!(world.stack.flows(), 0);
    }
}

#[test]
fn unreachable_is_said_by_icmp() {
    let expected = [(v4_ends(), IPV4_BYTES, [3, 1]), (v6_ends(), IPV6_BYTES, [1, 3])];
    for ((client, server), header, kind_and_code) in expected {
        let mut world = World::new(Settings::default(), Client::connect(client, server, 1));
        let opening = world.ask();
        world.stack.refuse(opening.flow, Refusal::Unreachable);
        world.settle();
        let icmp = &world.seen[0][ETHERNET_BYTES + header..];
        assert_eq!(&icmp[..2], kind_and_code);
        // The quoted packet ends with the client's TCP header, which begins with its port.
        assert_eq!(&icmp[8 + header..8 + header + 2], client.port().to_be_bytes());
    }
}

#[test]
fn a_server_that_does_not_answer_is_silence_and_the_next_syn_a_new_attempt() {
    let mut world = World::v4();
    let opening = world.ask();
    world.stack.refuse(opening.flow, Refusal::TimedOut);
    world.settle();
    assert_eq!((world.stack.flows(), world.seen.len()), (0, 0));
    assert_ne!(world.ask().flow, opening.flow);
}

#[test]
fn a_client_that_starts_anew_while_it_waits_is_a_new_connection() {
    let mut world = World::v4();
    let first = world.ask();
    let (client, server) = v4_ends();
    world.reconnect(client, server, 99);
    let second = world.ask();
    assert_eq!(world.stack.accept(first.flow, world.now), Err(FlowError::Gone));
    world.stack.accept(second.flow, world.now).unwrap();
    world.settle();
    assert_eq!(world.client.state(), State::Established);
}

#[test]
fn what_the_policy_leaves_stays_on_the_bridge() {
    let mut world = World::v4();
    world.policy = Verdict::Bridge;
    world.pass(2 * SECOND);
    assert_eq!(world.dispositions, [Disposition::Bridge; 2]);
    assert_eq!(world.stack.flows(), 0);
    world.policy = Verdict::Drop;
    world.pass(2 * SECOND);
    assert_eq!(world.dispositions.last(), Some(&Disposition::Dropped));
}

/// Carries `up` and `down` at the same time and then both FINs.
fn transfer(world: &mut World, up: &[u8], down: &[u8]) {
    let flow = world.open();
    let (mut sent_up, mut sent_down) = (0, 0);
    let (mut received_up, mut received_down) = (Vec::new(), Vec::new());
    let mut buffer = vec![0; 8192];
    let mut ended = false;
    for _ in 0..200_000 {
        sent_up += world.client.socket().send_slice(&up[sent_up..]).unwrap_or(0);
        if sent_up == up.len() {
            world.client.socket().close();
        }
        if let Poll::Ready(Ok(bytes)) = world.write(flow, &down[sent_down..]) {
            sent_down += bytes;
        }
        if sent_down == down.len() {
            world.stack.shutdown(flow, world.now);
        }
        world.settle();
        while let Poll::Ready(read) = world.read(flow, &mut buffer) {
            match read.unwrap() {
                0 => {
                    ended = true;
                    break;
                }
                bytes => received_up.extend_from_slice(&buffer[..bytes]),
            }
        }
        while let Ok(bytes @ 1..) = world.client.socket().recv_slice(&mut buffer) {
            received_down.extend_from_slice(&buffer[..bytes]);
        }
        let over = matches!(world.client.state(), State::TimeWait | State::Closed);
        if ended && over && received_down.len() == down.len() {
            break;
        }
        world.advance();
    }
    assert!(received_up == up, "{} of {} bytes up", received_up.len(), up.len());
    assert!(received_down == down, "{} of {} bytes down", received_down.len(), down.len());
    assert_eq!(world.stack.counters().broken, 0);
    world.stack.release(flow, world.now);
    world.pass(3 * LINGER);
    assert_eq!(world.stack.flows(), 0, "nothing is left");
}

fn pattern(bytes: usize, salt: u8) -> Vec<u8> {
    (0..bytes).map(|n| (n.wrapping_mul(31) >> 3).to_le_bytes()[0] ^ salt).collect()
}

#[test]
fn bytes_arrive_whole_both_ways_over_both_families() {
    for (client, server) in [v4_ends(), v6_ends()] {
        let mut world = World::new(Settings::default(), Client::connect(client, server, 1));
        transfer(&mut world, &pattern(700_000, 1), &pattern(900_000, 2));
    }
}

#[test]
fn segments_travel_together_where_the_driver_can_cut_them() {
    for (client, server) in [v4_ends(), v6_ends()] {
        let settings = Settings { segments: true, ..Settings::default() };
        let mut world = World::new(settings, Client::connect(client, server, 1));
        transfer(&mut world, &pattern(300_000, 1), &pattern(900_000, 2));
        assert!(world.longest_train > 20_000, "{} bytes", world.longest_train);
        assert!(world.longest_train <= 60 * 1024);
        assert!(world.seen.iter().all(|frame| frame.len() <= 1514));
    }
}

proptest! {
    #[test]
    fn bytes_arrive_whole_over_a_bad_line(
        seed: u64,
        segments: bool,
        up in 0usize..200_000,
        down in 0usize..200_000,
    ) {
        let (client, server) = v4_ends();
        let settings = Settings { segments, ..Settings::default() };
        let mut world = World::new(settings, Client::connect(client, server, 1));
        world.faults = Faults::seeded(seed);
        transfer(&mut world, &pattern(up, 3), &pattern(down, 4));
    }
}

/// Found by the property above: both sides say FIN at once and ours is lost.
#[test]
fn a_flow_whose_fin_is_lost_in_a_simultaneous_close_is_let_go() {
    let (client, server) = v4_ends();
    let mut world = World::new(Settings::default(), Client::connect(client, server, 1));
    world.faults = Faults::seeded(14_494_595_616_415_649_346);
    transfer(&mut world, &pattern(13_445, 3), &pattern(99_566, 4));
}

#[test]
fn the_clients_fin_ends_its_direction_only() {
    let mut world = World::v4();
    let flow = world.open();
    world.client.socket().close();
    world.settle();
    let mut buffer = [0; 64];
    assert_eq!(world.read(flow, &mut buffer), Poll::Ready(Ok(0)));
    assert_eq!(world.write(flow, b"250 still here\r\n"), Poll::Ready(Ok(16)));
    world.settle();
    assert_eq!(world.client.socket().recv_slice(&mut buffer), Ok(16));
}

#[test]
fn our_fin_ends_our_direction_only() {
    let mut world = World::v4();
    let flow = world.open();
    world.stack.shutdown(flow, world.now);
    world.settle();
    assert_eq!(world.client.state(), State::CloseWait);
    assert_eq!(world.write(flow, b"late"), Poll::Ready(Err(FlowError::ShutDown)));
    world.client.socket().send_slice(b"QUIT\r\n").unwrap();
    world.settle();
    assert_eq!(world.read(flow, &mut [0; 64]), Poll::Ready(Ok(6)));
}

#[test]
fn the_clients_reset_reaches_the_owner() {
    let mut world = World::v4();
    let flow = world.open();
    world.client.socket().send_slice(b"DATA\r\n").unwrap();
    world.settle();
    world.client.socket().abort();
    world.settle();
    assert_eq!(world.read(flow, &mut [0; 64]), Poll::Ready(Err(FlowError::Reset)));
    assert_eq!(world.write(flow, b"354\r\n"), Poll::Ready(Err(FlowError::Reset)));
    assert_eq!(world.stack.counters().reset_by_client, 1);
}

#[test]
fn what_came_before_a_fin_survives_a_reset_after_it() {
    let mut world = World::v4();
    let flow = world.open();
    world.client.socket().send_slice(b"QUIT\r\n").unwrap();
    world.client.socket().close();
    world.settle();
    world.client.socket().abort();
    world.settle();
    let mut buffer = [0; 64];
    assert_eq!(world.write(flow, b"221 bye\r\n"), Poll::Ready(Err(FlowError::Reset)));
    assert_eq!(world.read(flow, &mut buffer), Poll::Ready(Ok(6)));
    assert_eq!(world.read(flow, &mut buffer), Poll::Ready(Ok(0)));
    world.stack.release(flow, world.now);
    world.pass(2 * LINGER);
    assert_eq!(world.stack.flows(), 0);
}

#[test]
fn a_flow_let_go_without_a_shutdown_is_reset() {
    let mut world = World::v4();
    let flow = world.open();
    world.write(flow, b"220 half a gree").map(Result::unwrap).is_ready().then_some(()).unwrap();
    world.stack.release(flow, world.now);
    world.settle();
    assert_eq!(world.client.state(), State::Closed);
    assert_eq!(world.read(flow, &mut [0; 8]), Poll::Ready(Err(FlowError::Reset)));
    world.pass(2 * LINGER);
    assert_eq!(world.stack.flows(), 0);
    assert_eq!(world.read(flow, &mut [0; 8]), Poll::Ready(Err(FlowError::Gone)));
}

#[test]
fn a_flow_let_go_after_its_shutdown_delivers_what_was_written() {
    let mut world = World::v4();
    let flow = world.open();
    let farewell = pattern(100_000, 9);
    assert_eq!(world.write(flow, &farewell), Poll::Ready(Ok(farewell.len())));
    // The client has said something that nobody will read.
    world.client.socket().send_slice(b"NOOP\r\n").unwrap();
    world.stack.shutdown(flow, world.now);
    world.stack.release(flow, world.now);
    let mut received = Vec::new();
    let mut buffer = vec![0; 8192];
    while received.len() < farewell.len() {
        world.settle();
        while let Ok(bytes @ 1..) = world.client.socket().recv_slice(&mut buffer) {
            received.extend_from_slice(&buffer[..bytes]);
        }
        world.advance();
    }
    assert!(received == farewell);
    assert_eq!(world.client.state(), State::CloseWait);
    world.client.socket().close();
    world.pass(2 * LINGER);
    assert_eq!(world.stack.flows(), 0);
}

#[test]
fn an_orphan_whose_client_never_closes_is_reset_in_the_end() {
    let mut world = World::v4();
    let flow = world.open();
    world.stack.shutdown(flow, world.now);
    world.stack.release(flow, world.now);
    world.pass(Duration::from_secs(59));
    assert_eq!(world.client.state(), State::CloseWait);
    world.pass(Duration::from_secs(2));
    assert_eq!(world.client.state(), State::Closed);
}

#[test]
fn a_slow_reader_loses_nothing_to_time_wait() {
    let mut world = World::v4();
    let flow = world.open();
    world.client.socket().send_slice(&pattern(50_000, 7)).unwrap();
    world.stack.shutdown(flow, world.now);
    world.client.socket().close();
    world.pass(100 * SECOND);
    let mut buffer = vec![0; 60_000];
    assert_eq!(world.read(flow, &mut buffer), Poll::Ready(Ok(50_000)));
    assert!(buffer[..50_000] == pattern(50_000, 7));
    assert_eq!(world.read(flow, &mut buffer), Poll::Ready(Ok(0)));
}

#[test]
fn the_same_ends_may_connect_again_while_the_old_connection_lingers() {
    let mut world = World::v4();
    let (client, server) = v4_ends();
    for seed in 10..20 {
        let flow = world.open();
        world.stack.shutdown(flow, world.now);
        world.client.socket().close();
        world.settle();
        if seed % 2 == 0 {
            world.stack.release(flow, world.now);
        }
        world.reconnect(client, server, seed);
    }
    assert_eq!(world.stack.counters().opened, 10);
}

#[test]
fn a_full_table_bridges_or_drops_as_told() {
    for (overflow, expected) in
        [(Overflow::Bridge, Disposition::Bridge), (Overflow::Drop, Disposition::Dropped)]
    {
        let (client, server) = v4_ends();
        let settings = Settings { flows_max: 2, overflow, ..Settings::default() };
        let mut world = World::new(settings, Client::connect(client, server, 1));
        for port in 1..=2 {
            world.ask();
            world.reconnect((client.ip(), port).into(), server, 1);
        }
        world.reconnect((client.ip(), 3).into(), server, 1);
        world.settle();
        assert_eq!(world.dispositions.last(), Some(&expected));
        assert_eq!(world.stack.counters().overflowed, 1);
    }
}

#[test]
fn a_flow_that_only_lingers_makes_way() {
    let (client, server) = v4_ends();
    let settings = Settings { flows_max: 1, ..Settings::default() };
    let mut world = World::new(settings, Client::connect(client, server, 1));
    let flow = world.open();
    world.stack.shutdown(flow, world.now);
    world.client.socket().close();
    world.settle();
    world.stack.release(flow, world.now);
    assert_eq!(world.stack.flows(), 1);
    world.reconnect((client.ip(), 9).into(), server, 2);
    world.open();
    assert_eq!(world.stack.counters().overflowed, 0);
}

#[test]
fn a_flood_of_syns_stops_at_the_limit_and_leaves_open_flows_alone() {
    let mut world = World::v4();
    let flow = world.open();
    let (client, server) = v4_ends();
    let mut open = std::mem::replace(&mut world.client, Client::connect(client, server, 0));
    for port in 1..=u16::try_from(HELD_MAX + 50).unwrap() {
        world.reconnect((client.ip(), port).into(), server, 3);
        world.settle();
    }
    let counters = world.stack.counters();
    assert_eq!((counters.opened, counters.overflowed), (u64::try_from(HELD_MAX).unwrap() + 1, 50));
    std::mem::swap(&mut world.client, &mut open);
    world.client.socket().send_slice(b"NOOP\r\n").unwrap();
    world.settle();
    assert_eq!(world.read(flow, &mut [0; 64]), Poll::Ready(Ok(6)));
    world.pass(Settings::default().hold_limit + SECOND);
    assert_eq!(world.stack.flows(), 1, "held flows are forgotten in the end");
}

#[test]
fn clients_that_never_confirm_make_room_for_those_that_do() {
    let (client, server) = v4_ends();
    let settings = Settings { flows_max: 4, ..Settings::default() };
    let mut world = World::new(settings, Client::connect(client, server, 1));
    let confirmed = world.open();
    for port in 1..=20 {
        world.reconnect((client.ip(), port).into(), server, 3);
        let opening = world.ask();
        world.stack.accept(opening.flow, world.now).unwrap();
        // The SYN-ACK reaches nobody, as after a SYN with a false address.
        world.reconnect((client.ip(), 30_000).into(), server, 3);
        world.transmit();
        world.drop_frames();
        world.now += 4 * SECOND;
    }
    assert_eq!(world.stack.counters().overflowed, 0);
    assert!(world.read(confirmed, &mut [0; 8]).is_pending(), "a confirmed flow stays");
}

#[test]
fn a_silent_flow_is_reset_at_its_limit_and_an_active_one_is_not() {
    let mut world = World::v4();
    let flow = world.open();
    let limit = Settings::default().idle_limit;
    world.pass(limit - SECOND);
    world.client.socket().send_slice(b"NOOP\r\n").unwrap();
    world.pass(limit - SECOND);
    assert_eq!(world.client.state(), State::Established);
    world.pass(2 * SECOND);
    assert_eq!(world.client.state(), State::Closed);
    assert_eq!(world.write(flow, b"x"), Poll::Ready(Err(FlowError::TimedOut)));
}

#[test]
fn a_client_that_stops_acknowledging_is_given_up() {
    let mut world = World::v4();
    let flow = world.open();
    world.faults.lost = 255;
    assert_eq!(world.write(flow, b"220 hello\r\n"), Poll::Ready(Ok(11)));
    world.pass(Duration::from_secs(119));
    assert!(world.seen.len() > 5, "it is retransmitted");
    world.pass(Duration::from_secs(3));
    assert_eq!(world.write(flow, b"x"), Poll::Ready(Err(FlowError::TimedOut)));
}

#[test]
fn sequence_numbers_follow_the_seed_and_nothing_else() {
    let first_number = |seed: u64| {
        let (client, server) = v4_ends();
        let mut world = World::new(Settings::default(), Client::connect(client, server, 1));
        world.stack = crate::Stack::new(Settings::default(), Box::new(move || seed), world.now);
        world.open();
        world.seen[0][ETHERNET_BYTES + IPV4_BYTES + 4..][..4].to_vec()
    };
    assert_eq!(first_number(1), first_number(1));
    let mut numbers: Vec<_> = (1..100).map(first_number).collect();
    numbers.sort();
    numbers.dedup();
    assert_eq!(numbers.len(), 99);
}

struct Count(AtomicUsize);

impl Wake for Count {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

#[test]
fn readers_and_writers_are_woken_when_they_can_get_on() {
    let mut world = World::v4();
    let flow = world.open();
    let count = Arc::new(Count(AtomicUsize::new(0)));
    let waker = Waker::from(Arc::clone(&count));
    let mut context = Context::from_waker(&waker);
    let wake_all = |world: &mut World| {
        let mut wakers = Vec::new();
        world.stack.take_wakers(&mut wakers);
        wakers.into_iter().for_each(Waker::wake);
        count.0.swap(0, Ordering::Relaxed)
    };
    let mut buffer = [0; 64];
    assert!(world.stack.poll_read(flow, &mut context, &mut buffer, world.now).is_pending());
    assert_eq!(wake_all(&mut world), 0);
    world.client.socket().send_slice(b"EHLO\r\n").unwrap();
    world.settle();
    assert_eq!(wake_all(&mut world), 1, "bytes wake the reader");
    // Until the client's window and our buffer are full.
    let block = vec![0; 64 * 1024];
    while world.stack.poll_write(flow, &mut context, &block, world.now).is_ready() {}
    world.pass(SECOND);
    while world.stack.poll_write(flow, &mut context, &block, world.now).is_ready() {}
    wake_all(&mut world);
    let mut taken = vec![0; 128 * 1024];
    world.client.socket().recv_slice(&mut taken).unwrap();
    world.pass(SECOND);
    assert_eq!(wake_all(&mut world), 1, "room wakes the writer");
    assert!(world.stack.poll_read(flow, &mut context, &mut buffer, world.now).is_ready());
    assert!(world.stack.poll_read(flow, &mut context, &mut buffer, world.now).is_pending());
    world.client.socket().abort();
    world.settle();
    assert_eq!(wake_all(&mut world), 1, "a reset wakes the reader");
}
