//! Decoders that say where their stream ends, over one slice of input.

use crate::work::Source;
use std::io::{self, Read};

/// What one step of a decoder did.
pub(crate) struct Step {
    pub(crate) consumed: usize,
    pub(crate) produced: usize,
    pub(crate) state: State,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum State {
    Going,
    Ended,
    Broken,
}

/// A decoder of a stream that knows its own end.
pub(crate) trait Decoder {
    fn step(&mut self, input: &[u8], output: &mut [u8]) -> Step;
}

/// Reads what a decoder makes of a slice, up to the end of its first stream. A slice that ends
/// earlier is an error, after all that could be decoded.
pub(crate) struct Stream<'a, D> {
    input: &'a [u8],
    consumed: usize,
    decoder: D,
    state: State,
}

impl<'a, D: Decoder> Stream<'a, D> {
    pub(crate) fn new(input: &'a [u8], decoder: D) -> Self {
        Self { input, consumed: 0, decoder, state: State::Going }
    }

    /// Bytes of input used so far.
    pub(crate) fn consumed(&self) -> usize {
        self.consumed
    }
}

impl<D: Decoder> Read for Stream<'_, D> {
    fn read(&mut self, output: &mut [u8]) -> io::Result<usize> {
        while self.state == State::Going {
            let input = self.input.get(self.consumed..).unwrap_or_default();
            let step = self.decoder.step(input, output);
            self.consumed = self.consumed.saturating_add(step.consumed);
            self.state = step.state;
            if step.state == State::Going && step.consumed == 0 && step.produced == 0 {
                self.state = State::Broken;
            }
            if step.produced > 0 {
                return Ok(step.produced);
            }
        }
        match self.state {
            State::Ended => Ok(0),
            _ => Err(io::ErrorKind::InvalidData.into()),
        }
    }
}

impl<D: Decoder> Source for Stream<'_, D> {
    fn packed(&self) -> usize {
        self.consumed
    }
}

/// Bytes of input and output by which [`trial`] tells whether something is a stream.
const TRIAL_INPUT_BYTES: usize = 64 * 1024;
const TRIAL_OUTPUT_BYTES: usize = 4096;

/// Decodes the beginning of what may be a stream: how that went, and what came out. Broken also
/// where the bytes end within it; going where there is more of it than is tried.
pub(crate) fn trial(bytes: &[u8], mut decoder: impl Decoder) -> (State, Vec<u8>) {
    let window = bytes.get(..TRIAL_INPUT_BYTES).unwrap_or(bytes);
    let mut output = vec![0; TRIAL_OUTPUT_BYTES];
    let (mut consumed, mut produced) = (0, 0);
    let state = loop {
        let input = window.get(consumed..).unwrap_or_default();
        let step = decoder.step(input, output.get_mut(produced..).unwrap_or_default());
        consumed += step.consumed;
        produced += step.produced;
        if step.state != State::Going || produced == output.len() {
            break step.state;
        }
        if step.consumed == 0 && step.produced == 0 {
            break if window.len() < bytes.len() { State::Going } else { State::Broken };
        }
    };
    output.truncate(produced);
    (state, output)
}

/// Deflate (RFC 1951), without a wrapper.
pub(crate) struct Deflate(flate2::Decompress);

impl Deflate {
    pub(crate) fn new() -> Self {
        Self(flate2::Decompress::new(false))
    }

    /// Deflate in the zlib wrapper (RFC 1950).
    pub(crate) fn zlib() -> Self {
        Self(flate2::Decompress::new(true))
    }
}

impl Decoder for Deflate {
    fn step(&mut self, input: &[u8], output: &mut [u8]) -> Step {
        let (before_in, before_out) = (self.0.total_in(), self.0.total_out());
        let status = self.0.decompress(input, output, flate2::FlushDecompress::None);
        Step {
            consumed: difference(before_in, self.0.total_in()),
            produced: difference(before_out, self.0.total_out()),
            state: match status {
                Ok(flate2::Status::StreamEnd) => State::Ended,
                Ok(_) => State::Going,
                Err(_) => State::Broken,
            },
        }
    }
}

/// Deflate with a window of 64 KiB, method 9 of zip.
pub(crate) struct Deflate64(Box<deflate64::InflaterManaged>);

impl Deflate64 {
    pub(crate) fn new() -> Self {
        Self(Box::new(deflate64::InflaterManaged::new()))
    }
}

impl Decoder for Deflate64 {
    fn step(&mut self, input: &[u8], output: &mut [u8]) -> Step {
        let result = self.0.inflate(input, output);
        let state = match (result.data_error, self.0.finished()) {
            (true, _) => State::Broken,
            (false, true) if result.bytes_written == 0 => State::Ended,
            _ => State::Going,
        };
        Step { consumed: result.bytes_consumed, produced: result.bytes_written, state }
    }
}

/// One bzip2 stream.
pub(crate) struct Bzip2(bzip2::Decompress);

impl Bzip2 {
    pub(crate) fn new() -> Self {
        Self(bzip2::Decompress::new(false))
    }
}

impl Decoder for Bzip2 {
    fn step(&mut self, input: &[u8], output: &mut [u8]) -> Step {
        let (before_in, before_out) = (self.0.total_in(), self.0.total_out());
        let status = self.0.decompress(input, output);
        Step {
            consumed: difference(before_in, self.0.total_in()),
            produced: difference(before_out, self.0.total_out()),
            state: match status {
                Ok(bzip2::Status::StreamEnd) => State::Ended,
                Ok(_) => State::Going,
                Err(_) => State::Broken,
            },
        }
    }
}

fn difference(before: u64, after: u64) -> usize {
    usize::try_from(after.saturating_sub(before)).unwrap_or(0)
}
