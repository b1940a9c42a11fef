//! A client on the line: a second smoltcp, a line that may lose and reorder, and a clock that only the
//! test moves.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use smoltcp::iface::{Config, Interface, SocketHandle, SocketSet};
use smoltcp::phy::{Device, DeviceCapabilities, Medium, RxToken, TxToken};
use smoltcp::socket::tcp::{Socket, SocketBuffer, State};
use smoltcp::time::Instant as StackInstant;
use smoltcp::wire::{HardwareAddress, IpCidr, Ipv4Packet, Ipv6Packet, TcpPacket};

use crate::frame::ETHERNET_BYTES;
use crate::{Disposition, FlowError, FlowId, Opening, Port, Segment, Settings, Stack, Verdict};

pub(crate) const CLIENT_MAC: [u8; 6] = [2, 0, 0, 0, 0, 1];
pub(crate) const SERVER_MAC: [u8; 6] = [2, 0, 0, 0, 0, 2];

/// An arbitrary instant; the tests' clock counts from here.
pub(crate) fn start() -> Instant {
    #[allow(clippy::disallowed_methods, reason = "an epoch: no test depends on its value")]
    Instant::now()
}

/// What a line does to frames, by a seed.
#[derive(Debug, Clone)]
pub(crate) struct Faults {
    state: u64,
    /// Of 256 frames, how many are lost, are sent twice, and change places with the next.
    pub(crate) lost: u8,
    pub(crate) doubled: u8,
    pub(crate) swapped: u8,
}

impl Faults {
    pub(crate) fn none() -> Self {
        Self { state: 1, lost: 0, doubled: 0, swapped: 0 }
    }

    pub(crate) fn seeded(seed: u64) -> Self {
        Self { state: seed | 1, lost: 8, doubled: 8, swapped: 16 }
    }

    fn happens(&mut self, of_256: u8) -> bool {
        // xorshift64; the seed is printed by whoever drew it.
        self.state ^= self.state << 13;
        self.state ^= self.state >> 7;
        self.state ^= self.state << 17;
        self.state.to_le_bytes()[3] < of_256
    }

    fn pass(&mut self, frames: &mut VecDeque<Vec<u8>>, frame: Vec<u8>) {
        if self.happens(self.lost) {
            return;
        }
        if self.happens(self.doubled) {
            frames.push_back(frame.clone());
        }
        frames.push_back(frame);
        if self.happens(self.swapped) && frames.len() >= 2 {
            let last = frames.len() - 1;
            frames.swap(last, last - 1);
        }
    }
}

/// A host that connects to a server.
pub(crate) struct Client {
    interface: Interface,
    sockets: SocketSet<'static>,
    handle: SocketHandle,
    link: Link,
    pub(crate) mac: [u8; 6],
}

#[derive(Default)]
struct Link {
    received: VecDeque<Vec<u8>>,
    sent: VecDeque<Vec<u8>>,
}

impl Client {
    pub(crate) fn connect(local: SocketAddr, server: SocketAddr, seed: u64) -> Self {
        let mut config = Config::new(HardwareAddress::Ip);
        config.random_seed = seed;
        let mut link = Link::default();
        let mut interface = Interface::new(config, &mut link, StackInstant::ZERO);
        interface.update_ip_addrs(|addresses| {
            let prefix = if local.is_ipv4() { 24 } else { 64 };
            addresses.push(IpCidr::new(local.ip().into(), prefix)).unwrap();
        });
        let buffer = || SocketBuffer::new(vec![0; 128 * 1024]);
        let mut socket = Socket::new(buffer(), buffer());
        socket
            .connect(interface.context(), (server.ip(), server.port()), (local.ip(), local.port()))
            .unwrap();
        let mut sockets = SocketSet::new(Vec::new());
        let handle = sockets.add(socket);
        Self { interface, sockets, handle, link, mac: CLIENT_MAC }
    }

    pub(crate) fn socket(&mut self) -> &mut Socket<'static> {
        self.sockets.get_mut(self.handle)
    }

    pub(crate) fn state(&mut self) -> State {
        self.socket().state()
    }

    fn frame(&self, packet: &[u8]) -> Vec<u8> {
        let mut frame = Vec::with_capacity(ETHERNET_BYTES + packet.len());
        frame.extend_from_slice(&SERVER_MAC);
        frame.extend_from_slice(&self.mac);
        let ethertype: u16 = if packet[0] >> 4 == 4 { 0x0800 } else { 0x86dd };
        frame.extend_from_slice(&ethertype.to_be_bytes());
        frame.extend_from_slice(packet);
        frame
    }
}

/// A stack with a client on its LAN port.
pub(crate) struct World {
    pub(crate) stack: Stack,
    pub(crate) client: Client,
    pub(crate) now: Instant,
    pub(crate) faults: Faults,
    pub(crate) policy: Verdict,
    /// What the stack said to the client's frames.
    pub(crate) dispositions: Vec<Disposition>,
    /// Every frame the stack has sent.
    pub(crate) seen: Vec<Vec<u8>>,
    pub(crate) longest_train: usize,
    epoch: Instant,
    to_stack: VecDeque<Vec<u8>>,
    to_client: VecDeque<Vec<u8>>,
}

pub(crate) fn stack(settings: Settings, now: Instant) -> Stack {
    let mut seed = 0x9e37_79b9_7f4a_7c15_u64;
    let entropy = move || {
        seed = seed.wrapping_mul(0xd134_2543_de82_ef95).wrapping_add(1);
        seed
    };
    Stack::new(settings, Box::new(entropy), now)
}

impl World {
    pub(crate) fn new(settings: Settings, client: Client) -> Self {
        let now = start();
        Self {
            stack: stack(settings, now),
            client,
            now,
            faults: Faults::none(),
            policy: Verdict::Take,
            dispositions: Vec::new(),
            seen: Vec::new(),
            longest_train: 0,
            epoch: now,
            to_stack: VecDeque::new(),
            to_client: VecDeque::new(),
        }
    }

    pub(crate) fn v4() -> Self {
        let (client, server) = v4_ends();
        Self::new(Settings::default(), Client::connect(client, server, 5))
    }

    /// Moves every frame that is under way, until nobody has anything to say at this moment.
    pub(crate) fn settle(&mut self) {
        loop {
            let at = self.client_time();
            let Client { interface, sockets, link, .. } = &mut self.client;
            interface.poll(at, link, sockets);
            let packets: Vec<_> = link.sent.drain(..).collect();
            for packet in packets {
                let frame = self.client.frame(&packet);
                self.faults.pass(&mut self.to_stack, frame);
            }
            let idle = self.to_stack.is_empty() && self.to_client.is_empty();
            while let Some(frame) = self.to_stack.pop_front() {
                let _ = self.receive(&frame);
            }
            self.stack.handle_timeout(self.now);
            self.transmit();
            if idle && self.to_client.is_empty() {
                return;
            }
            for frame in self.to_client.drain(..) {
                self.client.link.received.push_back(frame[ETHERNET_BYTES..].to_vec());
            }
        }
    }

    /// Hands one frame to the stack as if it came from the client's side.
    pub(crate) fn receive(&mut self, frame: &[u8]) -> Disposition {
        let policy = self.policy;
        let disposition =
            self.stack.receive(Port::Lan, frame, self.now, &mut |_: &Segment<'_>, _| policy);
        self.dispositions.push(disposition);
        disposition
    }

    pub(crate) fn transmit(&mut self) {
        while let Some(transmit) = self.stack.poll_transmit(self.now) {
            let frame = transmit.frame;
            assert_eq!(transmit.port, Port::Lan, "the client is on the LAN port");
            assert_eq!((&frame[..6], &frame[6..12]), (&CLIENT_MAC[..], &SERVER_MAC[..]));
            self.longest_train = self.longest_train.max(frame.len());
            for frame in cut(frame, transmit.segment_bytes) {
                self.seen.push(frame.clone());
                self.faults.pass(&mut self.to_client, frame);
            }
        }
    }

    /// What is under way gets lost.
    pub(crate) fn drop_frames(&mut self) {
        self.to_client.clear();
        self.to_stack.clear();
    }

    /// Lets time pass, from one thing that is due to the next.
    pub(crate) fn pass(&mut self, time: Duration) {
        let end = self.now + time;
        self.settle();
        while let Some(next) = self.next_due().filter(|next| *next <= end) {
            self.now = next.max(self.now + Duration::from_micros(1));
            self.settle();
        }
        self.now = end;
        self.settle();
    }

    /// Goes on to the next thing that is due; `false` if nothing is.
    pub(crate) fn advance(&mut self) -> bool {
        let Some(next) = self.next_due() else { return false };
        self.now = next.max(self.now + Duration::from_micros(1));
        self.settle();
        true
    }

    fn next_due(&mut self) -> Option<Instant> {
        let at = self.client_time();
        let Client { interface, sockets, .. } = &mut self.client;
        let client = interface.poll_at(at, sockets).map(|due| {
            self.epoch + Duration::from_micros(u64::try_from(due.total_micros()).unwrap())
        });
        client.into_iter().chain(self.stack.poll_timeout()).min()
    }

    fn client_time(&self) -> StackInstant {
        let since = self.now.duration_since(self.epoch).as_micros();
        StackInstant::from_micros(i64::try_from(since).unwrap())
    }

    /// The client asks, the stack accepts.
    pub(crate) fn open(&mut self) -> FlowId {
        let opening = self.ask();
        self.stack.accept(opening.flow, self.now).unwrap();
        while self.client.state() != State::Established {
            self.settle();
            assert!(self.client.state() == State::Established || self.advance());
        }
        self.settle();
        opening.flow
    }

    /// The client asks.
    pub(crate) fn ask(&mut self) -> Opening {
        loop {
            self.settle();
            if let Some(opening) = self.stack.poll_event() {
                return opening;
            }
            assert!(self.advance());
        }
    }

    /// A new connection from the same host.
    pub(crate) fn reconnect(&mut self, local: SocketAddr, server: SocketAddr, seed: u64) {
        self.client = Client::connect(local, server, seed);
    }

    pub(crate) fn read(
        &mut self,
        flow: FlowId,
        buffer: &mut [u8],
    ) -> Poll<Result<usize, FlowError>> {
        let mut context = Context::from_waker(Waker::noop());
        self.stack.poll_read(flow, &mut context, buffer, self.now)
    }

    pub(crate) fn write(&mut self, flow: FlowId, data: &[u8]) -> Poll<Result<usize, FlowError>> {
        let mut context = Context::from_waker(Waker::noop());
        self.stack.poll_write(flow, &mut context, data, self.now)
    }
}

/// Cuts a frame into segments as the kernel does.
fn cut(frame: &[u8], segment_bytes: Option<u16>) -> Vec<Vec<u8>> {
    let Some(segment_bytes) = segment_bytes else { return vec![frame.to_vec()] };
    let segment = Segment::parse(frame).unwrap();
    let network = if segment.source().is_ipv4() { 20 } else { 40 };
    let headers = &frame[..ETHERNET_BYTES + network + 20];
    let data = &frame[headers.len()..];
    let chunks: Vec<&[u8]> = data.chunks(segment_bytes.into()).collect();
    let last = chunks.len() - 1;
    let mut frames = Vec::new();
    let mut sequence = segment.sequence();
    for (n, chunk) in chunks.into_iter().enumerate() {
        let mut frame = [headers, chunk].concat();
        let (source, destination) = (segment.source().ip(), segment.destination().ip());
        let packet = &mut frame[ETHERNET_BYTES..];
        if network == 20 {
            let length = u16::try_from(packet.len()).unwrap();
            let mut ip = Ipv4Packet::new_unchecked(packet);
            ip.set_total_len(length);
            ip.fill_checksum();
        } else {
            let length = u16::try_from(packet.len() - 40).unwrap();
            Ipv6Packet::new_unchecked(packet).set_payload_len(length);
        }
        let mut tcp = TcpPacket::new_unchecked(&mut frame[ETHERNET_BYTES + network..]);
        tcp.set_seq_number(crate::compose::sequence_number(sequence));
        tcp.set_psh(tcp.psh() && n == last);
        tcp.fill_checksum(&source.into(), &destination.into());
        sequence = sequence.wrapping_add(u32::try_from(chunk.len()).unwrap());
        frames.push(frame);
    }
    frames
}

pub(crate) fn v4_ends() -> (SocketAddr, SocketAddr) {
    ("192.0.2.1:40000".parse().unwrap(), "198.51.100.2:25".parse().unwrap())
}

pub(crate) fn v6_ends() -> (SocketAddr, SocketAddr) {
    ("[2001:db8::1]:40000".parse().unwrap(), "[2001:db8:1::2]:25".parse().unwrap())
}

impl Device for Link {
    type RxToken<'a> = Packet;
    type TxToken<'a> = Place<'a>;

    fn receive(&mut self, _: StackInstant) -> Option<(Packet, Place<'_>)> {
        let packet = self.received.pop_front()?;
        Some((Packet(packet), Place(&mut self.sent)))
    }

    fn transmit(&mut self, _: StackInstant) -> Option<Place<'_>> {
        Some(Place(&mut self.sent))
    }

    fn capabilities(&self) -> DeviceCapabilities {
        let mut capabilities = DeviceCapabilities::default();
        capabilities.medium = Medium::Ip;
        capabilities.max_transmission_unit = 1500;
        capabilities
    }
}

pub(crate) struct Packet(Vec<u8>);

impl RxToken for Packet {
    fn consume<R, F: FnOnce(&[u8]) -> R>(self, read: F) -> R {
        read(&self.0)
    }
}

pub(crate) struct Place<'a>(&'a mut VecDeque<Vec<u8>>);

impl TxToken for Place<'_> {
    fn consume<R, F: FnOnce(&mut [u8]) -> R>(self, bytes: usize, write: F) -> R {
        let mut packet = vec![0; bytes];
        let result = write(&mut packet);
        self.0.push_back(packet);
        result
    }
}
