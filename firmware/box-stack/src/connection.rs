//! One TCP connection: smoltcp's socket with an interface of its own.
//!
//! An interface a flow, because smoltcp looks for a segment's socket by trying all of a set, answers
//! segments that fit none with RST, and draws sequence numbers from a generator whose state two of
//! its outputs give away. Alone with its socket and seeded from the operating system, none of this
//! matters.

use std::net::SocketAddr;
use std::panic::{AssertUnwindSafe, catch_unwind};

use smoltcp::iface::{Config, Interface, SocketHandle, SocketSet};
use smoltcp::phy::{Device, DeviceCapabilities, Medium, RxToken, TxToken};
use smoltcp::socket::tcp::{CongestionControl, RecvError, Socket, SocketBuffer, State};
use smoltcp::time::Instant;
use smoltcp::wire::{HardwareAddress, IpCidr};

use crate::frame::{ETHERNET_BYTES, IPV4_BYTES, IPV6_BYTES, TCP_BYTES};

/// Sizes of a connection's buffers and packets, in bytes.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Sizes {
    pub(crate) receive: usize,
    pub(crate) transmit: usize,
    pub(crate) mtu: usize,
}

/// Where one outgoing frame is written: room for the Ethernet header, then the packet.
#[derive(Debug)]
pub(crate) struct Outgoing {
    buffer: Box<[u8]>,
    filled: Option<usize>,
}

impl Outgoing {
    pub(crate) fn new(mtu: usize) -> Self {
        Self { buffer: vec![0; ETHERNET_BYTES + mtu].into_boxed_slice(), filled: None }
    }

    /// The frame written last, with `ethernet` in front of it.
    pub(crate) fn take(&mut self, ethernet: &[u8; ETHERNET_BYTES]) -> Option<usize> {
        let bytes = self.filled.take()?;
        self.buffer[..ETHERNET_BYTES].copy_from_slice(ethernet);
        Some(ETHERNET_BYTES + bytes)
    }

    pub(crate) fn frame(&self, bytes: usize) -> &[u8] {
        &self.buffer[..bytes]
    }
}

/// smoltcp broke one of its own assumptions; the connection cannot be used any more.
#[derive(Debug)]
pub(crate) struct Broken;

/// What a read found.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Received {
    Bytes(usize),
    /// Nothing yet.
    Nothing,
    /// The peer has sent FIN and everything before it has been read.
    End,
    /// The connection is gone.
    Reset,
}

/// A connection being set up, open, or closing.
pub(crate) struct Connection {
    interface: Interface,
    sockets: SocketSet<'static>,
    handle: SocketHandle,
    mtu: usize,
    /// Sequence number of the first byte that has not been read.
    unread: u32,
    /// Sequence number after the last segment sent, and the acknowledgement in it.
    sent: (u32, u32),
    /// The peer's FIN has been taken in.
    fin: bool,
    ipv4: bool,
}

impl Connection {
    /// A connection to `server` that has not seen its SYN. `seed` makes its
    /// sequence numbers, the client's start at `syn`.
    pub(crate) fn listen(
        server: SocketAddr,
        sizes: Sizes,
        seed: u64,
        syn: u32,
        now: Instant,
    ) -> Self {
        let receive = SocketBuffer::new(vec![0; sizes.receive]);
        let mut socket = Socket::new(receive, SocketBuffer::new(vec![0; sizes.transmit]));
        socket.set_congestion_control(CongestionControl::Cubic);
        // A mail session is a dialogue of short lines in both directions: waiting for more to send
        // costs a round trip each time.
        socket.set_nagle_enabled(false);
        socket.set_hop_limit(Some(crate::compose::HOP_LIMIT));
        // Cannot fail: the port is not 0 (`Segment::parse`) and the socket is new.
        let _ = socket.listen((server.ip(), server.port()));
        let mut config = Config::new(HardwareAddress::Ip);
        config.random_seed = seed;
        let mut outgoing = Outgoing { buffer: Box::default(), filled: None };
        let mut device = Wire { receive: None, transmit: &mut outgoing, mtu: sizes.mtu };
        let mut interface = Interface::new(config, &mut device, now);
        let prefix = if server.is_ipv4() { 32 } else { 128 };
        interface.update_ip_addrs(|addresses| {
            // Cannot fail: an empty list has room for one.
            let _ = addresses.push(IpCidr::new(server.ip().into(), prefix));
        });
        let mut sockets = SocketSet::new(Vec::with_capacity(1));
        let handle = sockets.add(socket);
        let ipv4 = server.is_ipv4();
        Self {
            interface,
            sockets,
            handle,
            mtu: sizes.mtu,
            unread: syn.wrapping_add(1),
            sent: (0, 0),
            fin: false,
            ipv4,
        }
    }

    pub(crate) fn state(&self) -> State {
        self.socket().state()
    }

    /// Takes one packet in. An immediate answer is left in `outgoing`.
    pub(crate) fn ingress(
        &mut self,
        packet: &[u8],
        outgoing: &mut Outgoing,
        now: Instant,
    ) -> Result<(), Broken> {
        let mtu = self.mtu;
        let (interface, sockets) = (&mut self.interface, &mut self.sockets);
        let mut device = Wire { receive: Some(packet), transmit: outgoing, mtu };
        guarded(|| interface.poll_ingress_single(now, &mut device, sockets))?;
        self.note_sent(outgoing);
        self.fin |= matches!(
            self.state(),
            State::CloseWait | State::Closing | State::LastAck | State::TimeWait
        );
        Ok(())
    }

    /// Writes the next packet that is due into `outgoing`, if there is one.
    pub(crate) fn egress(&mut self, outgoing: &mut Outgoing, now: Instant) -> Result<(), Broken> {
        let mtu = self.mtu;
        let (interface, sockets) = (&mut self.interface, &mut self.sockets);
        let mut device = Wire { receive: None, transmit: outgoing, mtu };
        guarded(|| interface.poll_egress(now, &mut device, sockets))?;
        self.note_sent(outgoing);
        Ok(())
    }

    /// When [`Connection::egress`] has something to do next.
    pub(crate) fn poll_at(&mut self, now: Instant) -> Option<Instant> {
        let (interface, sockets) = (&mut self.interface, &self.sockets);
        guarded(|| interface.poll_at(now, sockets)).ok().flatten()
    }

    pub(crate) fn read(&mut self, buffer: &mut [u8]) -> Received {
        let socket = self.sockets.get_mut::<Socket<'static>>(self.handle);
        match socket.recv_slice(buffer) {
            Ok(0) => Received::Nothing,
            Ok(bytes) => {
                // At most a buffer's size, which smoltcp keeps below 2^30.
                let advance = u32::try_from(bytes).unwrap_or(u32::MAX);
                self.unread = self.unread.wrapping_add(advance);
                Received::Bytes(bytes)
            }
            Err(RecvError::Finished) => Received::End,
            Err(RecvError::InvalidState) => match socket.state() {
                State::Listen | State::SynReceived | State::SynSent => Received::Nothing,
                _ => Received::Reset,
            },
        }
    }

    /// Queues bytes; `None` if this direction is closed, `Some(0)` if the buffer is full or the
    /// handshake is not over.
    pub(crate) fn write(&mut self, data: &[u8]) -> Option<usize> {
        let socket = self.sockets.get_mut::<Socket<'static>>(self.handle);
        if matches!(socket.state(), State::Listen | State::SynReceived) {
            return Some(0);
        }
        socket.send_slice(data).ok()
    }

    /// FIN after what is queued.
    pub(crate) fn shutdown(&mut self) {
        self.sockets.get_mut::<Socket<'static>>(self.handle).close();
    }

    /// RST at the next [`Connection::egress`].
    pub(crate) fn abort(&mut self) {
        self.sockets.get_mut::<Socket<'static>>(self.handle).abort();
    }

    pub(crate) fn has_unread(&self) -> bool {
        self.socket().can_recv()
    }

    /// Whether a read would not wait.
    pub(crate) fn is_readable(&self) -> bool {
        self.has_unread() || self.has_received_fin() || self.state() == State::Closed
    }

    /// Whether a write would take a good deal: waking a task for each acknowledgement would have it
    /// write two segments at a time.
    pub(crate) fn is_writable(&self) -> bool {
        let socket = self.socket();
        match socket.state() {
            State::Listen | State::SynReceived => false,
            State::Established | State::CloseWait => {
                let free = socket.send_capacity() - socket.send_queue();
                free >= socket.send_capacity() / 4
            }
            _ => true,
        }
    }

    /// Whether the client has yet to answer our SYN-ACK.
    pub(crate) fn is_half_open(&self) -> bool {
        self.state() == State::SynReceived
    }

    /// Whether the peer owes us an acknowledgement.
    pub(crate) fn awaits_acknowledgement(&self) -> bool {
        let socket = self.socket();
        socket.send_queue() > 0
            || matches!(
                socket.state(),
                State::SynReceived | State::FinWait1 | State::Closing | State::LastAck
            )
    }

    /// Whether the peer's FIN has been taken in.
    pub(crate) fn has_received_fin(&self) -> bool {
        self.fin
    }

    /// Whether our FIN is queued or sent.
    pub(crate) fn is_shut_down(&self) -> bool {
        !matches!(
            self.state(),
            State::Listen | State::SynReceived | State::Established | State::CloseWait
        )
    }

    /// The sequence number the peer must use next (RCV.NXT of RFC 9293 §3.3.1).
    pub(crate) fn next_expected(&self) -> u32 {
        // Below 2^30, see `read`.
        let queued = u32::try_from(self.socket().recv_queue()).unwrap_or(u32::MAX);
        self.unread.wrapping_add(queued).wrapping_add(u32::from(self.has_received_fin()))
    }

    /// The sequence number after the last segment sent, and the acknowledgement in that segment.
    pub(crate) fn last_sent(&self) -> (u32, u32) {
        self.sent
    }

    fn socket(&self) -> &Socket<'static> {
        self.sockets.get::<Socket<'static>>(self.handle)
    }

    fn note_sent(&mut self, outgoing: &Outgoing) {
        let Some(bytes) = outgoing.filled else { return };
        let ip_bytes = if self.ipv4 { IPV4_BYTES } else { IPV6_BYTES };
        let at = ETHERNET_BYTES + ip_bytes;
        let Some(tcp) = outgoing.buffer.get(at..ETHERNET_BYTES + bytes) else { return };
        let (Some(sequence), Some(acknowledgement), Some(&[offset, flags])) =
            (word(tcp, 4), word(tcp, 8), tcp.get(12..14).and_then(|pair| pair.first_chunk()))
        else {
            return;
        };
        let header = usize::from(offset >> 4) * 4;
        let data = tcp.len().saturating_sub(header.max(TCP_BYTES));
        // SYN is bit 1, FIN bit 0 (RFC 9293 §3.1); the data is at most a packet.
        let control = u32::from(flags >> 1 & 1) + u32::from(flags & 1);
        let end = sequence.wrapping_add(u32::try_from(data).unwrap_or(0)).wrapping_add(control);
        self.sent = (end, acknowledgement);
    }
}

fn word(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..)?.first_chunk().map(|word| u32::from_be_bytes(*word))
}

/// Runs smoltcp on a peer's bytes. It is careful code, but sequence arithmetic that goes wrong panics
/// in it, and one flow's peer must not take down the others.
fn guarded<R>(run: impl FnOnce() -> R) -> Result<R, Broken> {
    catch_unwind(AssertUnwindSafe(run)).map_err(|_| Broken)
}

/// smoltcp's device: one packet in, one packet out.
struct Wire<'a> {
    receive: Option<&'a [u8]>,
    transmit: &'a mut Outgoing,
    mtu: usize,
}

impl Device for Wire<'_> {
    type RxToken<'b>
        = Incoming<'b>
    where
        Self: 'b;
    type TxToken<'b>
        = Slot<'b>
    where
        Self: 'b;

    fn receive(&mut self, _now: Instant) -> Option<(Self::RxToken<'_>, Self::TxToken<'_>)> {
        let packet = self.receive.take()?;
        Some((Incoming(packet), Slot(self.transmit)))
    }

    fn transmit(&mut self, _now: Instant) -> Option<Self::TxToken<'_>> {
        if self.transmit.filled.is_some() { None } else { Some(Slot(self.transmit)) }
    }

    fn capabilities(&self) -> DeviceCapabilities {
        let mut capabilities = DeviceCapabilities::default();
        capabilities.medium = Medium::Ip;
        capabilities.max_transmission_unit = self.mtu;
        capabilities
    }
}

struct Incoming<'a>(&'a [u8]);

impl RxToken for Incoming<'_> {
    fn consume<R, F: FnOnce(&[u8]) -> R>(self, read: F) -> R {
        read(self.0)
    }
}

struct Slot<'a>(&'a mut Outgoing);

impl TxToken for Slot<'_> {
    fn consume<R, F: FnOnce(&mut [u8]) -> R>(self, bytes: usize, write: F) -> R {
        let result = write(&mut self.0.buffer[ETHERNET_BYTES..ETHERNET_BYTES + bytes]);
        self.0.filled = Some(bytes);
        result
    }
}
