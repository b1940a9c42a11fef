//! A session as the fuzzer writes it: moves of both sides, in bytes.
//!
//! A move is a byte that says which, one with a number, and for a move that sends as many bytes as
//! the number says. So a fuzzer that inserts, removes or changes bytes makes another session.

/// One move.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Move {
    /// The client sends.
    Client(Vec<u8>),
    /// The server sends.
    Server(Vec<u8>),
    /// A side ends its direction: the client if even, with a reset if over 1 (of the lowest two bits).
    End(u8),
    /// So many times ten seconds pass.
    Wait(u8),
    /// The next verdicts are of this kind.
    Verdict(u8),
}

/// Reads moves until the bytes are used up.
#[must_use]
pub fn decode(bytes: &[u8]) -> Vec<Move> {
    let mut moves = Vec::new();
    let mut rest = bytes;
    while let [kind, number, behind @ ..] = rest {
        let (sent, after) = behind.split_at(behind.len().min(usize::from(*number)));
        rest = behind;
        moves.push(match kind & 7 {
            0 | 1 => {
                rest = after;
                Move::Client(sent.to_vec())
            }
            2 | 3 => {
                rest = after;
                Move::Server(sent.to_vec())
            }
            4 => Move::End(*number),
            5 => Move::Wait(*number),
            _ => Move::Verdict(*number),
        });
    }
    moves
}

/// The bytes of moves, for seeds.
#[must_use]
pub fn encode(moves: &[Move]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for step in moves {
        match step {
            Move::Client(sent) => send(&mut bytes, 0, sent),
            Move::Server(sent) => send(&mut bytes, 2, sent),
            Move::End(number) => bytes.extend_from_slice(&[4, *number]),
            Move::Wait(number) => bytes.extend_from_slice(&[5, *number]),
            Move::Verdict(number) => bytes.extend_from_slice(&[6, *number]),
        }
    }
    bytes
}

fn send(bytes: &mut Vec<u8>, kind: u8, sent: &[u8]) {
    for piece in sent.chunks(255) {
        bytes.push(kind);
        bytes.push(u8::try_from(piece.len()).unwrap_or(u8::MAX));
        bytes.extend_from_slice(piece);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moves_are_read_as_they_were_written() {
        let moves = vec![
            Move::Server(b"220 x\r\n".to_vec()),
            Move::Client(b"QUIT\r\n".to_vec()),
            Move::Verdict(1),
            Move::Wait(7),
            Move::End(3),
        ];
        assert_eq!(decode(&encode(&moves)), moves);
        assert_eq!(decode(&[0, 200, b'x']), [Move::Client(b"x".to_vec())]);
    }
}
