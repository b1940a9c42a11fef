//! Frames that do not belong, by accident or on purpose.

use std::task::Poll;
use std::time::Duration;

use proptest::prelude::*;
use smoltcp::socket::tcp::State;
use smoltcp::wire::TcpControl;

use super::client::{CLIENT_MAC, SERVER_MAC, World, stack, start, v4_ends, v6_ends};
use crate::compose::{self, Answer};
use crate::frame::{ETHERNET_BYTES, IPV4_BYTES};
use crate::{Disposition, FlowError, Port, Segment, Settings, Verdict};

fn from_client() -> Answer {
    let (source, destination) = v4_ends();
    Answer { source, destination, source_mac: CLIENT_MAC, destination_mac: SERVER_MAC }
}

fn from_server() -> Answer {
    let (destination, source) = v4_ends();
    Answer { source, destination, source_mac: SERVER_MAC, destination_mac: CLIENT_MAC }
}

fn word(frame: &[u8], at: usize) -> u32 {
    u32::from_be_bytes(frame[ETHERNET_BYTES + IPV4_BYTES + at..][..4].try_into().unwrap())
}

#[test]
fn connections_that_were_there_before_are_bridged_both_ways_and_never_reset() {
    let now = start();
    let mut stack = stack(Settings::default(), now);
    let mut take = |_: &Segment<'_>, _| Verdict::Take;
    let kinds = [
        (TcpControl::None, Some(5)),
        (TcpControl::Psh, Some(5)),
        (TcpControl::Fin, Some(5)),
        (TcpControl::Rst, None),
        (TcpControl::Syn, Some(5)),
    ];
    for (control, acknowledgement) in kinds {
        for (port, way) in [(Port::Lan, from_client()), (Port::Wan, from_server())] {
            let frame = compose::segment(&way, control, 77, acknowledgement, 1000).unwrap();
            assert_eq!(stack.receive(port, &frame, now, &mut take), Disposition::Bridge);
        }
    }
    assert!(stack.poll_transmit(now).is_none());
    assert_eq!(stack.flows(), 0);
}

#[test]
fn a_damaged_syn_opens_nothing() {
    let now = start();
    let mut stack = stack(Settings::default(), now);
    let mut frame = compose::segment(&from_client(), TcpControl::Syn, 1, None, 1000).unwrap();
    let last = frame.len() - 1;
    frame[last] ^= 0x40;
    let mut take = |_: &Segment<'_>, _| Verdict::Take;
    assert_eq!(stack.receive(Port::Lan, &frame, now, &mut take), Disposition::Bridge);
    assert_eq!(stack.flows(), 0);
}

#[test]
fn the_real_server_cannot_speak_into_a_flow_of_ours() {
    let mut world = World::v4();
    let flow = world.open();
    let sent = world.seen.len();
    for control in [TcpControl::Rst, TcpControl::Syn, TcpControl::Psh] {
        let frame = compose::segment(&from_server(), control, 9, Some(9), 1000).unwrap();
        let mut take = |_: &Segment<'_>, _| Verdict::Take;
        let disposition = world.stack.receive(Port::Wan, &frame, world.now, &mut take);
        assert_eq!(disposition, Disposition::Dropped);
    }
    world.settle();
    assert_eq!(world.seen.len(), sent);
    assert!(world.read(flow, &mut [0; 8]).is_pending());
}

#[test]
fn a_clients_segment_on_the_other_port_is_dropped() {
    let mut world = World::v4();
    let flow = world.open();
    let frame = compose::segment(&from_client(), TcpControl::Rst, 0, None, 0).unwrap();
    let mut take = |_: &Segment<'_>, _| Verdict::Take;
    let disposition = world.stack.receive(Port::Wan, &frame, world.now, &mut take);
    assert_eq!(disposition, Disposition::Dropped);
    assert!(world.read(flow, &mut [0; 8]).is_pending());
}

#[test]
fn a_reset_that_does_not_know_the_number_is_challenged_once_a_second() {
    let mut world = World::v4();
    let flow = world.open();
    let expected = word(world.seen.last().unwrap(), 8);
    let sent = world.seen.len();
    for guess in [1, 100, 5000] {
        let number = expected.wrapping_add(guess);
        let frame = compose::segment(&from_client(), TcpControl::Rst, number, None, 0).unwrap();
        let _ = world.receive(&frame);
        world.transmit();
    }
    assert!(world.read(flow, &mut [0; 8]).is_pending(), "the flow lives");
    assert_eq!(world.seen.len(), sent + 1, "one challenge");
    assert_eq!(word(world.seen.last().unwrap(), 8), expected);
    world.pass(Duration::from_secs(2));
    let exact = compose::segment(&from_client(), TcpControl::Rst, expected, None, 0).unwrap();
    let _ = world.receive(&exact);
    assert_eq!(world.read(flow, &mut [0; 8]), Poll::Ready(Err(FlowError::Reset)));
}

#[test]
fn a_damaged_reset_is_not_believed() {
    let mut world = World::v4();
    let flow = world.open();
    let expected = word(world.seen.last().unwrap(), 8);
    let mut frame = compose::segment(&from_client(), TcpControl::Rst, expected, None, 0).unwrap();
    let last = frame.len() - 1;
    frame[last] ^= 1;
    let _ = world.receive(&frame);
    assert!(world.read(flow, &mut [0; 8]).is_pending());
}

#[test]
fn segments_after_the_end_are_answered_with_reset_not_bridged() {
    let mut world = World::v4();
    let flow = world.open();
    world.stack.abort(flow, world.now);
    world.transmit();
    let sent = world.seen.len();
    let frame = compose::segment(&from_client(), TcpControl::Psh, 3, Some(4242), 1000).unwrap();
    assert_eq!(world.receive(&frame), Disposition::Taken);
    world.transmit();
    assert_eq!(world.seen.len(), sent + 1);
    assert_eq!(word(world.seen.last().unwrap(), 4), 4242, "RST takes the number acknowledged");
}

#[test]
fn a_repeated_fin_after_the_end_is_acknowledged_again() {
    let mut world = World::v4();
    let flow = world.open();
    world.stack.shutdown(flow, world.now);
    world.settle();
    world.client.socket().close();
    world.settle();
    assert!(matches!(world.client.state(), State::Closed | State::TimeWait));
    let last = world.seen.last().unwrap().clone();
    let number = word(&last, 8).wrapping_sub(1);
    let fin = compose::segment(&from_client(), TcpControl::Fin, number, Some(word(&last, 4)), 1);
    assert_eq!(world.receive(&fin.unwrap()), Disposition::Taken);
    world.transmit();
    let again = world.seen.last().unwrap();
    assert_eq!((word(again, 4), word(again, 8)), (word(&last, 4), word(&last, 8)));
}

/// Garbage, bytes to change and what to, and whether to change a frame of the flow instead.
type Attempt = (Vec<u8>, Vec<(usize, u8)>, bool);

fn frames() -> impl Strategy<Value = Vec<Attempt>> {
    let changes = prop::collection::vec((0usize..80, any::<u8>()), 0..4);
    prop::collection::vec(
        (prop::collection::vec(any::<u8>(), 0..90), changes, any::<bool>()),
        1..40,
    )
}

/// Writes the checksums that fit, so that changes reach further than the first check.
fn repair(frame: &mut [u8]) {
    use smoltcp::wire::{IpAddress, Ipv4Packet, TcpPacket};
    let packet = &mut frame[ETHERNET_BYTES..];
    let Ok(mut ip) = Ipv4Packet::new_checked(packet) else { return };
    ip.fill_checksum();
    let (source, destination) = (IpAddress::from(ip.src_addr()), IpAddress::from(ip.dst_addr()));
    if let Ok(mut tcp) = TcpPacket::new_checked(ip.payload_mut()) {
        tcp.fill_checksum(&source, &destination);
    }
}

proptest! {
    #[test]
    fn no_frame_breaks_a_flow_or_the_stack(frames in frames(), sequence in any::<[i8; 2]>()) {
        let mut world = World::v4();
        let flow = world.open();
        let last = world.seen.last().unwrap().clone();
        let (number, acknowledgement) = (word(&last, 8), word(&last, 4).wrapping_add(1));
        for (garbage, changes, valid) in frames {
            let mut frame = if valid {
                compose::segment(
                    &from_client(),
                    TcpControl::Psh,
                    number.wrapping_add_signed(sequence[0].into()),
                    Some(acknowledgement.wrapping_add_signed(sequence[1].into())),
                    8192,
                )
                .unwrap()
            } else {
                garbage
            };
            for (at, to) in changes {
                if let Some(byte) = frame.get_mut(at) {
                    *byte = to;
                }
            }
            if valid {
                repair(&mut frame);
            }
            let _ = world.receive(&frame);
            world.transmit();
            let _ = world.read(flow, &mut [0; 100]);
            let _ = world.write(flow, b"250 OK\r\n");
            while world.stack.poll_transmit(world.now).is_some() {}
            world.now += Duration::from_millis(300);
            world.stack.handle_timeout(world.now);
        }
        prop_assert_eq!(world.stack.counters().broken, 0);
    }

    #[test]
    fn a_syn_of_any_shape_can_be_accepted_or_refused(changes in prop::collection::vec((14usize..80, any::<u8>()), 0..6)) {
        for (client, server) in [v4_ends(), v6_ends()] {
            let now = start();
            let mut stack = stack(Settings::default(), now);
            let way = Answer { source: client, destination: server, source_mac: CLIENT_MAC, destination_mac: SERVER_MAC };
            let mut frame = compose::segment(&way, TcpControl::Syn, 1, None, 1000).unwrap();
            for (at, to) in &changes {
                if let Some(byte) = frame.get_mut(*at) {
                    *byte = *to;
                }
            }
            repair(&mut frame);
            let _ = stack.receive(Port::Lan, &frame, now, &mut |_: &Segment<'_>, _| Verdict::Take);
            if let Some(opening) = stack.poll_event() {
                if stack.accept(opening.flow, now).is_ok() {
                    while stack.poll_transmit(now).is_some() {}
                }
                stack.release(opening.flow, now);
            }
            prop_assert_eq!(stack.counters().broken, 0);
        }
    }
}
