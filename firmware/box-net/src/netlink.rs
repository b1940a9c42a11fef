//! Just enough of netlink to write an nftables batch: messages, attributes, expressions.

use nix::libc;

/// `nfgenmsg.nfgen_family` of tables on network devices.
const FAMILY_NETDEV: u8 = 5;

/// The same for a batch's boundaries (`AF_UNSPEC`).
const FAMILY_UNSPECIFIED: u8 = 0;

/// `NFNL_SUBSYS_NFTABLES`.
const SUBSYSTEM: u16 = 10;

/// `NLA_F_NESTED`.
const NESTED: u16 = 1 << 15;

/// Bytes of a netlink message's header.
pub(crate) const HEADER_BYTES: usize = 16;

/// The first data register (`NFT_REG_1`).
const REGISTER: u32 = 1;

/// nftables messages, by their number in `nf_tables.h`.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Kind {
    NewTable = 0,
    DeleteTable = 2,
    NewChain = 3,
    NewRule = 6,
    NewSet = 9,
    NewSetElements = 12,
}

/// Messages that the kernel carries out together or not at all.
pub(crate) struct Batch {
    bytes: Vec<u8>,
    /// What each message does, in order; message n has sequence number n + 1.
    steps: Vec<&'static str>,
}

impl Batch {
    pub(crate) fn new() -> Self {
        let mut batch = Self { bytes: Vec::new(), steps: Vec::new() };
        batch.boundary(0x10);
        batch
    }

    /// Adds a message; `step` says what it does, for an error.
    pub(crate) fn add(&mut self, step: &'static str, kind: Kind, attributes: Attributes) {
        let create = match kind {
            Kind::DeleteTable => 0,
            Kind::NewRule => libc::NLM_F_CREATE | libc::NLM_F_APPEND,
            _ => libc::NLM_F_CREATE,
        };
        let flags = libc::NLM_F_REQUEST | libc::NLM_F_ACK | create;
        self.steps.push(step);
        let sequence = u32::try_from(self.steps.len()).unwrap_or(u32::MAX);
        let message = SUBSYSTEM << 8 | kind as u16;
        // c_int constants that fit in 12 bits.
        let flags = u16::try_from(flags).unwrap_or(0);
        self.message(message, flags, sequence, FAMILY_NETDEV, 0, &attributes.0);
    }

    /// The batch to send, and its steps.
    pub(crate) fn finish(mut self) -> (Vec<u8>, Vec<&'static str>) {
        self.boundary(0x11);
        (self.bytes, self.steps)
    }

    fn boundary(&mut self, message: u16) {
        let flags = u16::try_from(libc::NLM_F_REQUEST).unwrap_or(1);
        self.message(message, flags, 0, FAMILY_UNSPECIFIED, SUBSYSTEM, &[]);
    }

    fn message(
        &mut self,
        message: u16,
        flags: u16,
        sequence: u32,
        family: u8,
        resource: u16,
        body: &[u8],
    ) {
        let length = u32::try_from(HEADER_BYTES + 4 + body.len()).unwrap_or(u32::MAX);
        self.bytes.extend_from_slice(&length.to_ne_bytes());
        self.bytes.extend_from_slice(&message.to_ne_bytes());
        self.bytes.extend_from_slice(&flags.to_ne_bytes());
        self.bytes.extend_from_slice(&sequence.to_ne_bytes());
        self.bytes.extend_from_slice(&[0; 4]);
        self.bytes.extend_from_slice(&[family, 0]);
        self.bytes.extend_from_slice(&resource.to_be_bytes());
        self.bytes.extend_from_slice(body);
    }
}

/// Attributes of a message, each padded to four bytes.
#[derive(Debug, Default)]
pub(crate) struct Attributes(Vec<u8>);

impl Attributes {
    pub(crate) fn new() -> Self {
        Self::default()
    }

    pub(crate) fn bytes(mut self, kind: u16, value: &[u8]) -> Self {
        let length = u16::try_from(4 + value.len()).unwrap_or(u16::MAX);
        self.0.extend_from_slice(&length.to_ne_bytes());
        self.0.extend_from_slice(&kind.to_ne_bytes());
        self.0.extend_from_slice(value);
        self.0.resize(self.0.len().next_multiple_of(4), 0);
        self
    }

    pub(crate) fn text(self, kind: u16, value: &str) -> Self {
        let mut bytes = value.as_bytes().to_vec();
        bytes.push(0);
        self.bytes(kind, &bytes)
    }

    pub(crate) fn number(self, kind: u16, value: u32) -> Self {
        self.bytes(kind, &value.to_be_bytes())
    }

    pub(crate) fn nested(self, kind: u16, inner: Self) -> Self {
        self.bytes(kind | NESTED, &inner.0)
    }

    /// A value as `nft_data` carries it (`NFTA_DATA_VALUE`).
    pub(crate) fn data(self, kind: u16, value: &[u8]) -> Self {
        self.nested(kind, Self::new().bytes(1, value))
    }

    /// An element of a list (`NFTA_LIST_ELEM`).
    pub(crate) fn element(self, inner: Self) -> Self {
        self.nested(1, inner)
    }
}

/// A header that a payload is counted from.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Base {
    Link = 0,
    Network = 1,
    Transport = 2,
}

/// A rule's expressions, evaluated from left to right until one does not hold.
#[derive(Debug, Default)]
pub(crate) struct Rule(Attributes);

impl Rule {
    pub(crate) fn new() -> Self {
        Self::default()
    }

    /// The rule's expression list.
    pub(crate) fn into_attributes(self) -> Attributes {
        self.0
    }

    /// The bytes at `offset` equal `value`.
    pub(crate) fn payload(self, base: Base, offset: u32, value: &[u8]) -> Self {
        self.load(base, offset, value.len()).compare(0, value)
    }

    /// The bytes at `offset`, of which only `mask` counts, equal `value`.
    pub(crate) fn masked(self, base: Base, offset: u32, mask: &[u8], value: &[u8]) -> Self {
        self.load(base, offset, mask.len()).mask(mask).compare(0, value)
    }

    /// The bytes at `offset`, of which only `mask` counts, are not all zero.
    pub(crate) fn any_of(self, base: Base, offset: u32, mask: &[u8]) -> Self {
        self.load(base, offset, mask.len()).mask(mask).compare(1, &vec![0; mask.len()])
    }

    /// The `bytes` bytes at `offset` are in the set.
    pub(crate) fn in_set(self, base: Base, offset: u32, bytes: usize, set: &str, id: u32) -> Self {
        let lookup = Attributes::new().text(1, set).number(2, REGISTER).number(4, id);
        self.load(base, offset, bytes).expression("lookup", lookup)
    }

    /// The packet's protocol is this EtherType (`NFT_META_PROTOCOL`).
    pub(crate) fn protocol(self, ethertype: u16) -> Self {
        let meta = Attributes::new().number(1, REGISTER).number(2, 1);
        self.expression("meta", meta).compare(0, &ethertype.to_be_bytes())
    }

    /// The packet goes on as if there were no rules (`NF_ACCEPT`).
    pub(crate) fn accept(self) -> Self {
        let verdict = Attributes::new().nested(2, Attributes::new().number(1, 1));
        let immediate = Attributes::new().number(1, 0).nested(2, verdict);
        self.expression("immediate", immediate)
    }

    /// The packet leaves by the interface with this index.
    pub(crate) fn forward(self, interface: u32) -> Self {
        let immediate = Attributes::new().number(1, REGISTER).data(2, &interface.to_ne_bytes());
        self.expression("immediate", immediate)
            .expression("fwd", Attributes::new().number(1, REGISTER))
    }

    fn load(self, base: Base, offset: u32, bytes: usize) -> Self {
        let length = u32::try_from(bytes).unwrap_or(u32::MAX);
        let payload = Attributes::new()
            .number(1, REGISTER)
            .number(2, base as u32)
            .number(3, offset)
            .number(4, length);
        self.expression("payload", payload)
    }

    fn mask(self, mask: &[u8]) -> Self {
        let length = u32::try_from(mask.len()).unwrap_or(u32::MAX);
        let bitwise = Attributes::new()
            .number(1, REGISTER)
            .number(2, REGISTER)
            .number(3, length)
            .data(4, mask)
            .data(5, &vec![0; mask.len()]);
        self.expression("bitwise", bitwise)
    }

    /// `operation` 0 is "equal", 1 "not equal".
    fn compare(self, operation: u32, value: &[u8]) -> Self {
        let compare = Attributes::new().number(1, REGISTER).number(2, operation).data(3, value);
        self.expression("cmp", compare)
    }

    fn expression(self, name: &str, data: Attributes) -> Self {
        Self(self.0.element(Attributes::new().text(1, name).nested(2, data)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attributes_are_padded_but_their_length_is_not() {
        let attributes = Attributes::new().text(1, "avr").bytes(2, &[7]);
        let mut expected = Vec::new();
        expected.extend_from_slice(&8u16.to_ne_bytes());
        expected.extend_from_slice(&1u16.to_ne_bytes());
        expected.extend_from_slice(b"avr\0");
        expected.extend_from_slice(&5u16.to_ne_bytes());
        expected.extend_from_slice(&2u16.to_ne_bytes());
        expected.extend_from_slice(&[7, 0, 0, 0]);
        assert_eq!(attributes.0, expected);
    }

    #[test]
    fn a_batch_stands_between_its_two_boundaries() {
        let mut batch = Batch::new();
        batch.add("make a table", Kind::NewTable, Attributes::new().text(1, "avr"));
        let (bytes, steps) = batch.finish();
        assert_eq!(steps, ["make a table"]);
        let kinds: Vec<u16> = {
            let mut rest = &bytes[..];
            let mut kinds = Vec::new();
            while let Some(head) = rest.first_chunk::<HEADER_BYTES>() {
                let length = u32::from_ne_bytes(head[..4].try_into().unwrap());
                kinds.push(u16::from_ne_bytes(head[4..6].try_into().unwrap()));
                rest = &rest[usize::try_from(length).unwrap()..];
            }
            kinds
        };
        assert_eq!(kinds, [0x10, SUBSYSTEM << 8, 0x11]);
    }
}
