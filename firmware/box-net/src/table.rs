//! The nftables table that takes mail frames off the bridge, for as long as this process lives.
//!
//! The table carries `flags owner`: the kernel removes it when the socket it was made through is
//! closed, and a process that dies in whatever way closes its sockets. No helper program and no
//! cleaning up is involved, so there is no way to die that leaves mail frames without a reader.

use std::os::fd::{AsRawFd as _, OwnedFd};

use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, bind, recv, send,
    setsockopt, socket, sockopt,
};
use nix::sys::time::{TimeVal, TimeValLike as _};

use crate::netlink::{Attributes, Base, Batch, HEADER_BYTES, Kind, Rule};

/// How long the kernel may take to answer a batch, in seconds; it takes milliseconds.
const ANSWER_SECONDS_MAX: i64 = 5;

/// Room for one read of the kernel's answers, in bytes.
const ANSWER_BYTES: usize = 16 * 1024;

/// Before anything else on the ingress hook.
const PRIORITY: i32 = -300;

/// The set of mail ports.
const SET: &str = "mail";
const SET_ID: u32 = 1;

const ETHERTYPE_IPV4: u16 = 0x0800;
const ETHERTYPE_IPV6: u16 = 0x86dd;
const PROTOCOL_TCP: u8 = 6;

/// An interface, for a chain on it and for frames that leave by it.
#[derive(Debug, Clone)]
pub(crate) struct Interface {
    pub(crate) name: String,
    pub(crate) index: u32,
}

/// A port and the TAP device that stands for it.
#[derive(Debug, Clone)]
pub(crate) struct Pair {
    pub(crate) chains: (&'static str, &'static str),
    pub(crate) port: Interface,
    pub(crate) tap: Interface,
}

/// The table could not be made.
#[derive(Debug, thiserror::Error)]
pub enum TableError {
    /// The kernel has no nftables, or the process may not use them.
    #[error("open a netfilter socket")]
    Socket(#[source] Errno),
    /// Another program holds the table.
    #[error("the nftables table is held by another program; is avr running already?")]
    Held,
    /// The kernel refused a step.
    #[error("{step}")]
    Step {
        /// What was being done.
        step: &'static str,
        /// Why not.
        source: Errno,
    },
}

/// The table; dropping it removes it.
#[derive(Debug)]
pub(crate) struct Table {
    _socket: OwnedFd,
}

impl Table {
    /// Makes the table: frames to and from `mail_ports` that come in at a port go to its TAP device,
    /// frames from a TAP device leave by its port. Frames to one of `own` stay in the kernel.
    ///
    /// A table of that name without an owner, left by an older program, is replaced.
    pub(crate) fn create(
        name: &str,
        pairs: &[Pair],
        mail_ports: &[u16],
        own: &[[u8; 6]],
    ) -> Result<Self, TableError> {
        let socket = open().map_err(TableError::Socket)?;
        let mut batch = Batch::new();
        batch.add("look for an old table", Kind::NewTable, Attributes::new().text(1, name));
        batch.add("remove an old table", Kind::DeleteTable, Attributes::new().text(1, name));
        match run(&socket, batch) {
            Err(TableError::Step { source: Errno::EPERM | Errno::EBUSY, .. })
                if can_ask(&socket) =>
            {
                return Err(TableError::Held);
            }
            other => other?,
        }
        run(&socket, rules(name, pairs, mail_ports, own))?;
        Ok(Self { _socket: socket })
    }
}

/// The whole table as one batch: it is there completely or not at all.
fn rules(name: &str, pairs: &[Pair], mail_ports: &[u16], own: &[[u8; 6]]) -> Batch {
    const OWNER: u32 = 2;
    let mut batch = Batch::new();
    let table = Attributes::new().text(1, name).number(2, OWNER);
    batch.add("make the table", Kind::NewTable, table);
    // A constant set of `inet_service` (type 13), two bytes each.
    let set = Attributes::new()
        .text(1, name)
        .text(2, SET)
        .number(3, 2)
        .number(4, 13)
        .number(5, 2)
        .number(10, SET_ID);
    batch.add("make the set of mail ports", Kind::NewSet, set);
    let elements = mail_ports.iter().fold(Attributes::new(), |list, port| {
        list.element(Attributes::new().data(1, &port.to_be_bytes()))
    });
    let elements =
        Attributes::new().text(1, name).text(2, SET).nested(3, elements).number(4, SET_ID);
    batch.add("fill the set of mail ports", Kind::NewSetElements, elements);
    for pair in pairs {
        let (port_chain, tap_chain) = pair.chains;
        batch.add("make a port's chain", Kind::NewChain, chain(name, port_chain, &pair.port, 1));
        for rule in port_rules(own, pair.tap.index) {
            batch.add("add a port's rule", Kind::NewRule, attach(name, port_chain, rule));
        }
        // What a TAP device sends is meant for its port or for nobody; never for this host.
        batch.add("make a TAP's chain", Kind::NewChain, chain(name, tap_chain, &pair.tap, 0));
        let onward = Rule::new().forward(pair.port.index);
        batch.add("add a TAP's rule", Kind::NewRule, attach(name, tap_chain, onward));
    }
    batch
}

/// In order: what is not ours for a reason of its own stays in the kernel, then mail goes to the TAP.
///
/// A VLAN tag may be kept beside the frame, where `meta protocol` does not see it; the EtherType in
/// the Ethernet header, as the kernel shows it to a rule, has it.
fn port_rules(own: &[[u8; 6]], tap: u32) -> Vec<Rule> {
    let mut rules = vec![Rule::new().any_of(Base::Link, 0, &[1]).accept()];
    rules.extend(own.iter().map(|mac| Rule::new().payload(Base::Link, 0, mac).accept()));
    for direction in [2, 0] {
        // Offset 2 is TCP's destination port, 0 its source port.
        let ipv4 = Rule::new()
            .payload(Base::Link, 12, &ETHERTYPE_IPV4.to_be_bytes())
            .protocol(ETHERTYPE_IPV4)
            .masked(Base::Network, 0, &[0x0f], &[5])
            .masked(Base::Network, 6, &[0x3f, 0xff], &[0, 0])
            .payload(Base::Network, 9, &[PROTOCOL_TCP]);
        let ipv6 = Rule::new()
            .payload(Base::Link, 12, &ETHERTYPE_IPV6.to_be_bytes())
            .protocol(ETHERTYPE_IPV6)
            .payload(Base::Network, 6, &[PROTOCOL_TCP]);
        for family in [ipv4, ipv6] {
            rules.push(family.in_set(Base::Transport, direction, 2, SET, SET_ID).forward(tap));
        }
    }
    rules
}

/// A chain on an interface's ingress; `policy` 1 accepts, 0 drops.
fn chain(table: &str, chain: &str, interface: &Interface, policy: u32) -> Attributes {
    let hook =
        Attributes::new().number(1, 0).number(2, PRIORITY.cast_unsigned()).text(3, &interface.name);
    Attributes::new()
        .text(1, table)
        .text(3, chain)
        .nested(4, hook)
        .number(5, policy)
        .text(7, "filter")
}

fn attach(table: &str, chain: &str, rule: Rule) -> Attributes {
    Attributes::new().text(1, table).text(2, chain).nested(4, rule.into_attributes())
}

fn open() -> Result<OwnedFd, Errno> {
    let socket = socket(
        AddressFamily::Netlink,
        SockType::Raw,
        // A child that kept the socket would keep the table.
        SockFlag::SOCK_CLOEXEC,
        SockProtocol::NetlinkNetFilter,
    )?;
    bind(socket.as_raw_fd(), &NetlinkAddr::new(0, 0))?;
    setsockopt(&socket, sockopt::ReceiveTimeout, &TimeVal::seconds(ANSWER_SECONDS_MAX))?;
    Ok(socket)
}

/// Whether a refusal was about the one table: an empty batch is allowed.
fn can_ask(socket: &OwnedFd) -> bool {
    let mut batch = Batch::new();
    let probe = "avr-probe";
    batch.add("ask for a table", Kind::NewTable, Attributes::new().text(1, probe));
    batch.add("remove it", Kind::DeleteTable, Attributes::new().text(1, probe));
    run(socket, batch).is_ok()
}

/// Sends a batch and waits until the kernel has answered its last step.
fn run(socket: &OwnedFd, batch: Batch) -> Result<(), TableError> {
    let (bytes, steps) = batch.finish();
    let last = steps.len();
    let talk = |source| TableError::Step { step: "talk to netfilter", source };
    send(socket.as_raw_fd(), &bytes, MsgFlags::empty()).map_err(talk)?;
    let mut room = vec![0; ANSWER_BYTES];
    let mut failure = None;
    loop {
        let count = recv(socket.as_raw_fd(), &mut room, MsgFlags::empty()).map_err(talk)?;
        let mut rest = room.get(..count).unwrap_or_default();
        while let Some((answer, after)) = next_answer(rest) {
            rest = after;
            let step = usize::try_from(answer.sequence).unwrap_or(0);
            if answer.error != 0 && failure.is_none() {
                let step = step.checked_sub(1).and_then(|n| steps.get(n)).copied();
                failure = Some(TableError::Step {
                    step: step.unwrap_or("commit the nftables batch"),
                    source: Errno::from_raw(answer.error.saturating_neg()),
                });
            }
            // Sequence 0 is the batch itself: nothing follows its failure.
            if step == last || (step == 0 && failure.is_some()) {
                return failure.map_or(Ok(()), Err);
            }
        }
    }
}

/// The kernel's answer to one message.
struct Answer {
    sequence: u32,
    /// 0, or an errno made negative.
    error: i32,
}

fn next_answer(bytes: &[u8]) -> Option<(Answer, &[u8])> {
    /// `NLMSG_ERROR`.
    const ERROR: [u8; 2] = 2u16.to_ne_bytes();
    let length = usize::try_from(u32::from_ne_bytes(*bytes.first_chunk()?)).ok()?;
    let message = bytes.get(..length)?;
    let after = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
    let sequence = u32::from_ne_bytes(*message.get(8..)?.first_chunk()?);
    let error = match message.get(4..6) {
        Some(kind) if kind == ERROR => {
            i32::from_ne_bytes(*message.get(HEADER_BYTES..)?.first_chunk()?)
        }
        _ => 0,
    };
    Some((Answer { sequence, error }, after))
}
