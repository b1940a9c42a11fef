//! The composite entities that are open around a line, and which of them a delimiter belongs to.

use super::leaf::Leaf;

/// A composite entity that is open.
#[derive(Debug)]
pub(crate) struct Frame {
    pub(crate) kind: FrameKind,
    /// The same body in its encoded readings.
    pub(crate) shadow: Option<Leaf>,
    /// There is one way to read its header.
    pub(crate) definite: bool,
    /// All readers find its parts.
    pub(crate) plain: bool,
}

#[derive(Debug)]
pub(crate) enum FrameKind {
    Message,
    Multipart {
        boundaries: Vec<Vec<u8>>,
        digest: bool,
        /// Which of the boundaries has occurred.
        used: Option<usize>,
        /// The closing delimiter has been seen.
        closed: bool,
        /// There was a line that looks like a delimiter of nobody.
        stray_delimiter: bool,
    },
}

/// A line that is a delimiter.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Delimiter {
    pub(crate) frame: usize,
    pub(crate) boundary: usize,
    pub(crate) closing: bool,
}

impl Frame {
    /// Whether its closing delimiter has been seen.
    pub(crate) fn is_closed(&self) -> bool {
        matches!(self.kind, FrameKind::Multipart { closed: true, .. })
    }

    /// A line with `--` that is no delimiter to us, in this frame: whether somebody who compares
    /// beginnings only sees a delimiter in it.
    pub(crate) fn stray(&mut self, line: &[u8]) -> bool {
        let FrameKind::Multipart { boundaries, stray_delimiter, .. } = &mut self.kind else {
            return false;
        };
        *stray_delimiter |= !line.is_empty();
        boundaries.iter().any(|boundary| line.starts_with(boundary))
    }
}

/// The delimiter that this line is, `--` and blanks behind it taken off: of the innermost multipart that
/// has such a one. Multiparts that were closed count last.
pub(crate) fn find(frames: &[Frame], line: &[u8]) -> Option<Delimiter> {
    find_among(frames, line, false).or_else(|| find_among(frames, line, true))
}

fn find_among(frames: &[Frame], line: &[u8], closed_too: bool) -> Option<Delimiter> {
    for (frame, entry) in frames.iter().enumerate().rev() {
        let FrameKind::Multipart { boundaries, closed, .. } = &entry.kind else { continue };
        if *closed != closed_too {
            continue;
        }
        for (boundary, text) in boundaries.iter().enumerate() {
            let Some(rest) = line.strip_prefix(text.as_slice()) else { continue };
            if rest.is_empty() || rest == b"--" {
                return Some(Delimiter { frame, boundary, closing: !rest.is_empty() });
            }
        }
    }
    None
}

/// Whether a line that is this delimiter is so to everybody, without blanks behind it, and all multiparts inside its
/// own have been closed.
pub(crate) fn is_exact(frames: &[Frame], delimiter: Delimiter, line: &[u8]) -> bool {
    let dashes = if delimiter.closing { 4 } else { 2 };
    let Some(Frame { kind: FrameKind::Multipart { boundaries, .. }, .. }) =
        frames.get(delimiter.frame)
    else {
        return false;
    };
    delimiter.boundary == 0
        && boundaries.first().is_some_and(|b| b.len() + dashes == line.len())
        && frames.iter().skip(delimiter.frame + 1).all(Frame::is_closed)
}
