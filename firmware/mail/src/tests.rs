//! What the tests of both protocols share: a driver that does on buffers what a session asks for.

use bytes::Bytes;

use crate::{End, Framing, Output, Side};

/// Both connections, and what is kept for one of them.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(crate) struct Wires {
    pub(crate) to_client: Vec<u8>,
    pub(crate) to_server: Vec<u8>,
    /// How the direction towards each was ended.
    pub(crate) client_end: Option<End>,
    pub(crate) server_end: Option<End>,
    /// What [`Output::Hold`] brought and no [`Output::SendHeld`] has taken.
    pub(crate) held: Vec<u8>,
    /// What [`Output::SendEdited`] sends, before its framing.
    pub(crate) edited: Vec<u8>,
}

impl Wires {
    /// Does what is about bytes and connections; gives back the rest.
    pub(crate) fn perform(&mut self, output: Output) -> Option<Output> {
        match output {
            Output::Send { to, bytes } => {
                assert!(!bytes.is_empty(), "no empty sends");
                self.send(to, &bytes);
            }
            Output::Shutdown { to, how } => match to {
                Side::Client => self.client_end = Some(how),
                Side::Server => self.server_end = Some(how),
            },
            Output::Hold(bytes) => {
                assert!(!bytes.is_empty(), "nothing is not held");
                self.held.extend_from_slice(&bytes);
            }
            Output::SendHeld { to, bytes } => {
                let count = bytes.map_or(self.held.len(), |bytes| usize::try_from(bytes).unwrap());
                assert!(count > 0 || bytes.is_none(), "no empty sends");
                assert!(count <= self.held.len(), "no more than is kept");
                let bytes: Vec<u8> = self.held.drain(..count).collect();
                self.send(to, &bytes);
            }
            Output::DropHeld => self.held.clear(),
            Output::SendEdited { to, framing } => {
                assert!(self.held.is_empty(), "the original is dropped before");
                let bytes = framed(&self.edited, framing);
                self.send(to, &bytes);
            }
            other => return Some(other),
        }
        None
    }

    fn send(&mut self, to: Side, bytes: &[u8]) {
        let (out, end) = match to {
            Side::Client => (&mut self.to_client, self.client_end),
            Side::Server => (&mut self.to_server, self.server_end),
        };
        assert_eq!(end, None, "nothing is sent after the end");
        out.extend_from_slice(bytes);
    }
}

/// A message as a driver sends it.
fn framed(message: &[u8], framing: Framing) -> Vec<u8> {
    match framing {
        Framing::Dots => testkit::dot_stuffed(message),
        Framing::Chunk => {
            let command = format!("BDAT {} LAST\r\n", message.len());
            [command.as_bytes(), message].concat()
        }
    }
}

#[test]
fn what_is_held_goes_out_in_order_and_is_dropped_whole() {
    let mut wires = Wires { edited: b".x\r\n".to_vec(), ..Wires::default() };
    let hold = |bytes: &'static [u8]| Output::Hold(Bytes::from_static(bytes));
    let send = |bytes| Output::SendHeld { to: Side::Client, bytes };
    for output in [hold(b"abc"), send(Some(2)), hold(b"de"), send(None), hold(b"evil")] {
        assert_eq!(wires.perform(output), None);
    }
    assert_eq!(wires.to_client, b"abcde");
    assert_eq!(wires.perform(Output::DropHeld), None);
    for framing in [Framing::Dots, Framing::Chunk] {
        assert_eq!(wires.perform(Output::SendEdited { to: Side::Server, framing }), None);
    }
    assert_eq!(wires.to_server, b"..x\r\n.\r\nBDAT 4 LAST\r\n.x\r\n");
    assert_eq!(wires.perform(Output::MessageEnd), Some(Output::MessageEnd));
}
