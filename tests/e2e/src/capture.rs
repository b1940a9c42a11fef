//! What crossed a cable: `tcpdump`'s file, read as TCP segments.

use std::{
    fs,
    net::{Ipv4Addr, SocketAddrV4},
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context, Result, bail};

use crate::{daemon::Daemon, netns::Netns};

/// First bytes of a capture in nanoseconds, in this machine's byte order.
const MAGIC_NANOSECONDS: u32 = 0xa1b2_3c4d;
const FILE_HEADER_BYTES: usize = 24;
const RECORD_HEADER_BYTES: usize = 16;
const ETHERNET_BYTES: usize = 14;

/// A running capture.
#[derive(Debug)]
pub(crate) struct Capture {
    tcpdump: Daemon,
    file: PathBuf,
}

/// One TCP segment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Segment {
    /// Since 1970.
    pub(crate) time: Duration,
    pub(crate) from: SocketAddrV4,
    pub(crate) to: SocketAddrV4,
    pub(crate) syn: bool,
    pub(crate) payload_bytes: usize,
}

impl Capture {
    /// Captures all TCP of an interface; returns when it really does.
    pub(crate) fn start(netns: &Netns, interface: &str, root: &Path, logs: &Path) -> Result<Self> {
        let file = root.join(format!("{interface}.pcap"));
        let mut command = netns.command("tcpdump");
        command.args(["-i", interface, "-n", "-s", "128", "-U", "--immediate-mode", "-Z", "root"]);
        command.args(["--time-stamp-precision=nano", "-w"]).arg(&file).arg("tcp");
        let name = format!("tcpdump-{interface}");
        let mut tcpdump = Daemon::start(&name, command, logs)?;
        // It writes the file's header when the interface is open and the filter set.
        tcpdump.wait_until("tcpdump to listen", || {
            let written = fs::metadata(&file).ok()?.len();
            (written >= u64::try_from(FILE_HEADER_BYTES).ok()?).then_some(())
        })?;
        Ok(Self { tcpdump, file })
    }

    /// Ends it when it has seen a segment that was waited for (tcpdump is always a little behind),
    /// and gives all that it saw, in the order of time.
    pub(crate) fn finish_after(
        mut self,
        what: &str,
        wanted: impl Fn(&Segment) -> bool,
    ) -> Result<Vec<Segment>> {
        let file = &self.file;
        let segments = self.tcpdump.wait_until(what, || {
            let segments = parse(&fs::read(file).ok()?).ok()?;
            segments.iter().any(&wanted).then_some(segments)
        })?;
        self.tcpdump.stop()?;
        fs::remove_file(&self.file)?;
        Ok(segments)
    }
}

/// How often someone waited for the other side: runs of segments with something to say (SYN or
/// data) that went out and were followed by a run that came in.
pub(crate) fn round_trips(
    segments: &[Segment],
    direction: impl Fn(&Segment) -> Direction,
) -> usize {
    let mut waiting = false;
    let mut trips = 0;
    for segment in segments.iter().filter(|segment| segment.speaks()) {
        match direction(segment) {
            Direction::Out => waiting = true,
            Direction::In if waiting => {
                waiting = false;
                trips += 1;
            }
            Direction::In | Direction::Other => {}
        }
    }
    trips
}

/// The two ends of a connection, in either order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Ends([SocketAddrV4; 2]);

impl Segment {
    /// The connection it belongs to.
    pub(crate) fn ends(&self) -> Ends {
        Ends([self.from.min(self.to), self.from.max(self.to)])
    }

    /// Whether it says something: a SYN or data.
    fn speaks(&self) -> bool {
        self.syn || self.payload_bytes > 0
    }
}

/// The segments that a session waited for: all on the connection that carried it, and what came and
/// went before anything was said there. The rest is other business at the same time.
pub(crate) fn waited_for(
    segments: &[Segment],
    carrier: Ends,
    direction: impl Fn(&Segment) -> Direction,
) -> Vec<Segment> {
    let asks = |segment: &&Segment| {
        segment.ends() == carrier && segment.speaks() && direction(segment) == Direction::Out
    };
    let asked = segments.iter().find(asks).map(|segment| segment.time);
    let counts = |segment: &&Segment| {
        segment.ends() == carrier || asked.is_some_and(|asked| segment.time < asked)
    };
    segments.iter().filter(counts).cloned().collect()
}

/// Which way a segment goes, as seen from the box.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Direction {
    Out,
    In,
    Other,
}

fn parse(bytes: &[u8]) -> Result<Vec<Segment>> {
    if bytes.get(..4) != Some(&MAGIC_NANOSECONDS.to_ne_bytes()) {
        bail!("not a capture in nanoseconds");
    }
    let mut rest = bytes.get(FILE_HEADER_BYTES..).context("a capture without its header")?;
    let mut segments = Vec::new();
    while let Some((header, after)) = rest.split_at_checked(RECORD_HEADER_BYTES) {
        let field = |at: usize| {
            let field = header.get(at..at + 4).and_then(|bytes| bytes.try_into().ok());
            field.map(u32::from_ne_bytes).unwrap_or_default()
        };
        let time = Duration::new(field(0).into(), field(4));
        let length = usize::try_from(field(8))?;
        let (frame, after) = after.split_at_checked(length).context("a record cut short")?;
        segments.extend(segment(time, frame));
        rest = after;
    }
    Ok(segments)
}

/// An Ethernet frame with IPv4 and TCP (RFC 791, RFC 9293), else nothing.
fn segment(time: Duration, frame: &[u8]) -> Option<Segment> {
    let ip = frame.get(ETHERNET_BYTES..)?;
    if frame.get(12..ETHERNET_BYTES)? != [8, 0] || *ip.get(9)? != 6 {
        return None;
    }
    let header_bytes = usize::from(ip.first()? & 15) * 4;
    let total_bytes = usize::from(number(ip, 2)?);
    let tcp = ip.get(header_bytes..)?;
    let tcp_header_bytes = usize::from(tcp.get(12)? >> 4) * 4;
    Some(Segment {
        time,
        from: SocketAddrV4::new(address(ip, 12)?, number(tcp, 0)?),
        to: SocketAddrV4::new(address(ip, 16)?, number(tcp, 2)?),
        syn: tcp.get(13)? & 2 != 0,
        payload_bytes: total_bytes.checked_sub(header_bytes + tcp_header_bytes)?,
    })
}

fn number(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_be_bytes(bytes.get(at..at + 2)?.try_into().ok()?))
}

fn address(bytes: &[u8], at: usize) -> Option<Ipv4Addr> {
    let octets: [u8; 4] = bytes.get(at..at + 4)?.try_into().ok()?;
    Some(octets.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    const NEAR: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::new(192, 0, 2, 1), 1000);
    const FAR: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::new(192, 0, 2, 2), 25);

    fn said(out: bool, syn: bool, payload_bytes: usize) -> Segment {
        let (from, to) = if out { (NEAR, FAR) } else { (FAR, NEAR) };
        Segment { time: Duration::ZERO, from, to, syn, payload_bytes }
    }

    fn trips(segments: &[Segment]) -> usize {
        round_trips(segments, |segment| match segment.to == FAR {
            true => Direction::Out,
            false => Direction::In,
        })
    }

    #[test]
    fn a_connection_and_its_banner_are_one_round_trip() {
        let syn = said(true, true, 0);
        let answer = said(false, true, 0);
        let acknowledgement = said(true, false, 0);
        let banner = said(false, false, 30);
        assert_eq!(trips(&[syn, answer, acknowledgement, banner]), 1);
    }

    #[test]
    fn requests_sent_together_are_one_round_trip() {
        let (ask, answer) = (said(true, false, 9), said(false, false, 9));
        assert_eq!(trips(&[ask.clone(), ask.clone(), answer.clone(), answer.clone()]), 1);
        assert_eq!(trips(&[ask.clone(), answer.clone(), ask, answer]), 2);
    }

    #[test]
    fn what_goes_on_beside_the_session_does_not_count() {
        let at = |ms, port, segment: Segment| {
            let near = |end| if end == NEAR { SocketAddrV4::new(*NEAR.ip(), port) } else { end };
            let time = Duration::from_millis(ms);
            Segment { time, from: near(segment.from), to: near(segment.to), ..segment }
        };
        let (ask, answer) = (said(true, false, 9), said(false, false, 9));
        let before = [at(0, 1, ask.clone()), at(1, 1, answer.clone())];
        let session = [at(2, 2, ask.clone()), at(5, 2, answer.clone())];
        let beside = [at(3, 3, ask), at(4, 3, answer)];
        let all: Vec<_> = [&before[..], &session[..1], &beside[..], &session[1..]].concat();
        let direction = |segment: &Segment| match segment.to == FAR {
            true => Direction::Out,
            false => Direction::In,
        };
        let counted = waited_for(&all, session[0].ends(), direction);
        assert_eq!(counted, [before, session].concat());
        assert_eq!(round_trips(&counted, direction), 2);
    }

    #[test]
    fn reads_a_segment_of_a_capture() {
        let mut frame = vec![0; 12];
        frame.extend([8, 0]);
        frame.extend([0x45, 0, 0, 44, 0, 0, 0, 0, 64, 6, 0, 0, 192, 0, 2, 1, 192, 0, 2, 2]);
        frame.extend([3, 232, 0, 25, 0, 0, 0, 0, 0, 0, 0, 0, 0x50, 0x18, 0, 0, 0, 0, 0, 0]);
        frame.extend(*b"QUIT");
        let mut file = MAGIC_NANOSECONDS.to_ne_bytes().to_vec();
        file.resize(FILE_HEADER_BYTES, 0);
        for field in [5, 7, u32::try_from(frame.len()).unwrap(), 0] {
            file.extend(field.to_ne_bytes());
        }
        file.extend(&frame);
        let expected = Segment { time: Duration::new(5, 7), ..said(true, false, 4) };
        assert_eq!(parse(&file).unwrap(), [expected]);
        assert!(parse(&file[..file.len() - 1]).is_err());
    }
}
