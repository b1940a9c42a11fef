//! Takes one complete mail apart and has every piece looked at: the part of scanning that reads
//! hostile bytes. Runs in a worker process ([`crate::worker`]), or wherever a test calls it.
//!
//! A mail gives objects: the message itself, the parts that the MIME walk decodes in every reading it
//! has, the members of containers, and, where such a member is a mail, its parts. Each object is
//! looked at once: by the rules on names and types, by every [`LocalEngine`], and then taken apart
//! itself. The first finding ends the analysis; the order is that of the mail, so the same mail always
//! gives the same finding.
//!
//! A message that is not in memory ([`Source`]) streams by, once for each of its readings, and so do its
//! large parts: what is kept of them is a window ([`windows`]). The analysis is the same either way.
//!
//! Does no IO and reads no clock; the caller says when the time is over. Entry: [`Analyzer`].

mod source;
mod windows;

use std::collections::HashSet;
use std::fmt;
use std::hash::RandomState;
use std::ops::{ControlFlow, Range};
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use self::source::Held;
pub use self::source::Source;
use self::windows::{Collected, Key, NeededWhole, Showing, WINDOW_BYTES, Whole, key};
pub use self::windows::{OVERLAP_BYTES, START_BYTES, Slot, Slots, Window};
use crate::engine::{EngineOutcome, printable};
use crate::mime::{
    Event, Oddities, PartHead, Reading, Summary, Walker, further_readings, holds_files,
};
use crate::volume::{is_named_volume, is_volume};
use crate::{BLOCK, FINDING_NAME_BYTES_MAX, Finding, Limits, Unscannable};

/// Looks at one object, in the process that holds it.
pub trait LocalEngine {
    /// For logs, replies and notices.
    fn name(&self) -> &'static str;

    /// Looks at one object.
    fn scan(&mut self, object: &LocalObject<'_>) -> EngineOutcome;

    /// Whether the names count: such an engine is also asked about bytes that were looked at before
    /// under other names.
    fn looks_at_names(&self) -> bool {
        false
    }

    /// An object streams by that begins so; what was in that slot is forgotten. `false`: this engine
    /// needs it whole.
    fn begin(&mut self, _slot: Slot, _start: &[u8]) -> bool {
        false
    }

    /// The next window of it.
    fn window(&mut self, _slot: Slot, _window: &Window<'_>) {}

    /// All of it has been shown.
    fn end(&mut self, _slot: Slot, _file_names: &[String]) -> EngineOutcome {
        EngineOutcome::Failed("it takes no windows".to_owned())
    }
}

/// The raw message, a decoded part, or a member of a container.
#[derive(Debug, Clone, Copy)]
pub struct LocalObject<'a> {
    /// All of its bytes.
    pub bytes: &'a [u8],
    /// Every name that a program might give it.
    pub file_names: &'a [String],
}

/// Takes an object for engines elsewhere: its part, its file name, its bytes.
pub type Exporter<'a> = dyn FnMut(u32, Option<&str>, &[u8]) + 'a;

/// Which objects are handed out for engines elsewhere.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Export {
    /// None.
    Nothing,
    /// Those that an engine which takes mail apart itself might read otherwise, or not see.
    Odd,
    /// Every part.
    Parts,
}

/// What an analysis says.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Analysis {
    /// The first finding, at which the analysis ended.
    pub found: Option<Finding>,
    /// The first object that the operator blocks; what else is in the mail was looked at all the same.
    pub blocked: Option<Finding>,
    /// Why not everything was looked at, each reason once.
    pub unscannable: Vec<Unscannable>,
    /// Leaf parts of the message.
    pub parts: u32,
    /// Objects looked at.
    pub objects: u32,
    /// What the message's header says to people.
    pub summary: Summary,
}

impl Analysis {
    /// With nothing in it that its reader would have to be afraid of: it comes from a process that has
    /// read hostile bytes.
    pub(crate) fn within(self, mail_bytes: u64) -> Self {
        let finding = |finding: Finding| Finding {
            name: printable(&finding.name, FINDING_NAME_BYTES_MAX),
            engine: printable(&finding.engine, FINDING_NAME_BYTES_MAX),
            file_name: finding.file_name.map(bounded),
            range: finding.range.filter(|at| at.start <= at.end && at.end <= mail_bytes),
            ..finding
        };
        let Summary { message_id, subject, from, to, date } = self.summary;
        let mut unscannable = self.unscannable;
        unscannable.truncate(REASONS_MAX);
        Self {
            found: self.found.map(finding),
            blocked: self.blocked.map(finding),
            unscannable: unscannable.into_iter().map(Unscannable::bounded).collect(),
            summary: Summary {
                message_id: message_id.map(bounded),
                subject: subject.map(bounded),
                from: from.map(bounded),
                to: to.map(bounded),
                date: date.map(bounded),
            },
            ..self
        }
    }
}

/// A text of a worker, without control characters and cut at [`TEXT_CHARS_MAX`].
pub(crate) fn bounded(text: String) -> String {
    text.chars().filter(|c| !c.is_control()).take(TEXT_CHARS_MAX).collect()
}

/// Longest text that is taken from a worker, in characters.
const TEXT_CHARS_MAX: usize = 512;

/// Looks at mails, one after the other.
pub struct Analyzer<'r> {
    engines: Vec<Box<dyn LocalEngine + 'r>>,
    limits: Limits,
    window_bytes: usize,
}

impl fmt::Debug for Analyzer<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let engines: Vec<_> = self.engines.iter().map(|engine| engine.name()).collect();
        f.debug_struct("Analyzer").field("engines", &engines).finish_non_exhaustive()
    }
}

impl<'r> Analyzer<'r> {
    /// With these engines, asked in this order.
    #[must_use]
    pub fn new(engines: Vec<Box<dyn LocalEngine + 'r>>, limits: Limits) -> Self {
        Self { engines, limits, window_bytes: WINDOW_BYTES }
    }

    /// Whether a mail costs less memory that is not held: an engine may need everything whole.
    pub fn takes_windows(&mut self) -> bool {
        self.engines.iter_mut().all(|engine| engine.begin(Slot::Message, b"text"))
    }

    /// Looks at one mail that is in memory. `export` is given the objects that are asked for; `stop`
    /// says that there is no time left.
    pub fn analyze(
        &mut self,
        raw: &[u8],
        wanted: Export,
        stop: &unpack::Stop,
        export: &mut Exporter<'_>,
    ) -> Analysis {
        self.analyze_source(&mut Held::new(raw), wanted, stop, export)
    }

    /// [`Self::analyze`] for a mail that may have to be asked for.
    pub fn analyze_source(
        &mut self,
        source: &mut dyn Source,
        wanted: Export,
        stop: &unpack::Stop,
        export: &mut Exporter<'_>,
    ) -> Analysis {
        let mut inspection = Inspection {
            budget: Some(unpack::Budget::new(self.limits.unpacking(), Arc::clone(stop))),
            engines: &mut self.engines,
            limits: self.limits.clone(),
            window_bytes: self.window_bytes,
            wanted,
            stop: Arc::clone(stop),
            export,
            seen: HashSet::new(),
            keys: RandomState::new(),
            analysis: Analysis::default(),
        };
        let outermost = Origin { part: 0, range: None, depth: 0, is_outermost: true };
        // Whether it came to its end shows in the analysis.
        let _ = inspection.mail(source, &outermost);
        inspection.analysis
    }
}

impl Pass {
    /// A part starts.
    fn open(&mut self, number: u32) {
        self.parts += 1;
        if self.done.contains(&number) {
            return;
        }
        let is_free = self.in_windows && !self.open.iter().any(|part| part.content.has_slot());
        let collected = if is_free { Collected::windowed } else { Collected::held };
        self.open.push(Part { number, content: collected(Slot::Part) });
    }

    /// One that has started.
    fn part(&mut self, number: u32) -> Option<&mut Part> {
        self.open.iter_mut().find(|part| part.number == number)
    }
}

/// Where an object comes from.
#[derive(Debug, Clone)]
struct Origin {
    /// Part of the outermost message; 0 for that itself.
    part: u32,
    /// Where that part's entity stands in the message, if it can be told.
    range: Option<Range<u64>>,
    /// Containers, and mails in containers, around it.
    depth: usize,
    /// Of the message that crosses, not of one found inside.
    is_outermost: bool,
}

/// The analysis of one mail.
struct Inspection<'a, 'r> {
    engines: &'a mut Vec<Box<dyn LocalEngine + 'r>>,
    limits: Limits,
    window_bytes: usize,
    /// With the container that is being unpacked, while one is.
    budget: Option<unpack::Budget>,
    wanted: Export,
    stop: unpack::Stop,
    export: &'a mut Exporter<'a>,
    /// Objects that were looked at, so that the same bytes are not looked at twice. The keys are
    /// secret: nobody can make a collision.
    seen: HashSet<Key>,
    keys: RandomState,
    analysis: Analysis,
}

/// A part being collected.
struct Part {
    number: u32,
    content: Collected,
}

/// One reading of a message, in one or two passes over it.
struct Pass {
    /// Parts that have started and not ended.
    open: Vec<Part>,
    /// Parts that an earlier pass came to the end of.
    done: HashSet<u32>,
    /// Parts that have started.
    parts: u32,
    /// Parts may go by in windows.
    in_windows: bool,
}

/// Whether the analysis goes on.
type Flow = ControlFlow<()>;

/// How far a pass over a message came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Passed {
    ToTheEnd,
    /// To a part that is needed whole.
    InVain,
}

impl<'r> Inspection<'_, 'r> {
    /// A message: its parts in every reading, then itself.
    fn mail(&mut self, source: &mut dyn Source, origin: &Origin) -> Flow {
        let mut message = source.whole().is_none().then(|| Collected::windowed(Slot::Message));
        let mut oddities = self.walk(&Walker::new, source, message.as_mut(), origin)?;
        if origin.is_outermost {
            match (&mut message, source.whole()) {
                (Some(message), _) => {
                    // Only a part is ever needed whole after its start.
                    let _ = message.finish(&mut self.showing());
                    self.look(message.whole(), &[], origin, true)?;
                }
                (None, raw) => {
                    self.look(Whole::Held(raw.unwrap_or_default()), &[], origin, true)?;
                }
            }
        }
        drop(message);
        let mut done = vec![Reading::default()];
        // All readings share the limits, so that an odd mail costs no more than a large one.
        while let Some(reading) = further_readings(oddities, &done).first().copied() {
            done.push(reading);
            let begin = |limits: &Limits| Walker::reading(reading, limits);
            let seen = self.walk(&begin, source, None, origin)?;
            oddities = Oddities { structure: oddities.structure, ..oddities.or(seen) };
        }
        Flow::Continue(())
    }

    /// One reading of a message, which itself is collected on the way. `begin` makes its walker.
    fn walk(
        &mut self,
        begin: &dyn Fn(&Limits) -> Walker,
        source: &mut dyn Source,
        mut message: Option<&mut Collected>,
        origin: &Origin,
    ) -> ControlFlow<(), Oddities> {
        // What engines elsewhere get is handed out as a whole.
        let in_windows = source.whole().is_none() && self.wanted == Export::Nothing;
        let mut pass = Pass { open: Vec::new(), done: HashSet::new(), parts: 0, in_windows };
        // Mails inside, which a pass in vain may have come to, count after this one.
        let limits = self.limits.clone();
        let (flow, walker) = loop {
            let mut walker = begin(&limits);
            source.restart();
            match self.pass(&mut pass, &mut walker, source, message.as_deref_mut(), origin) {
                ControlFlow::Continue(Passed::InVain) => {
                    pass = Pass { open: Vec::new(), parts: 0, in_windows: false, ..pass };
                }
                ControlFlow::Continue(Passed::ToTheEnd) => break (Flow::Continue(()), walker),
                ControlFlow::Break(()) => break (Flow::Break(()), walker),
            }
        };
        if origin.is_outermost {
            self.analysis.parts = self.analysis.parts.max(pass.parts);
            if self.analysis.summary == Summary::default() {
                self.analysis.summary = walker.summary();
            }
        }
        self.limits.decoded_bytes_max =
            self.limits.decoded_bytes_max.saturating_sub(walker.decoded_bytes());
        self.limits.parts_max = self.limits.parts_max.saturating_sub(walker.parts());
        flow?;
        ControlFlow::Continue(walker.oddities())
    }

    /// Walks a message from its start to its end.
    fn pass(
        &mut self,
        pass: &mut Pass,
        walker: &mut Walker,
        source: &mut dyn Source,
        mut message: Option<&mut Collected>,
        origin: &Origin,
    ) -> ControlFlow<(), Passed> {
        let mut at = 0;
        loop {
            let piece = source.next_piece();
            if piece.is_empty() {
                break;
            }
            if let Some(message) = message.as_deref_mut() {
                // An earlier pass may have come further.
                let new = piece.get(message.length().saturating_sub(at)..).unwrap_or_default();
                let _ = message.push(new, &mut self.showing());
                at += piece.len();
            }
            walker.feed(piece);
            if self.take(pass, walker, origin)? == Passed::InVain {
                return ControlFlow::Continue(Passed::InVain);
            }
            if (self.stop)() {
                self.note(Unscannable::OverTime);
                return ControlFlow::Break(());
            }
        }
        walker.finish();
        self.take(pass, walker, origin)
    }

    fn take(
        &mut self,
        pass: &mut Pass,
        walker: &mut Walker,
        origin: &Origin,
    ) -> ControlFlow<(), Passed> {
        while let Some(event) = walker.poll_event() {
            let taken = match event {
                Event::PartStart(head) => {
                    pass.open(head.number);
                    Ok(())
                }
                Event::PartData { number, bytes } => match pass.part(number) {
                    Some(part) => part.content.push(&bytes, &mut self.showing()),
                    None => Ok(()),
                },
                Event::PartEnd(head) => self.part_end(pass, &head, origin)?,
                // That it is a mail is only our guess, where it was found inside something.
                Event::Finding(Unscannable::Ambiguous) if !origin.is_outermost => Ok(()),
                Event::Finding(reason) => {
                    self.note(reason);
                    Ok(())
                }
            };
            if taken == Err(NeededWhole) {
                return ControlFlow::Continue(Passed::InVain);
            }
        }
        ControlFlow::Continue(Passed::ToTheEnd)
    }

    fn part_end(
        &mut self,
        pass: &mut Pass,
        head: &PartHead,
        origin: &Origin,
    ) -> ControlFlow<(), Result<(), NeededWhole>> {
        let Some(at) = pass.open.iter().position(|part| part.number == head.number) else {
            return ControlFlow::Continue(Ok(()));
        };
        let mut part = pass.open.swap_remove(at);
        match part.content.finish(&mut self.showing()) {
            Ok(seen) => {
                pass.done.insert(head.number);
                self.part(head, part.content.whole(), seen, origin)?;
                if seen.is_some() && part.content.is_binary() && is_named_volume(&head.file_names) {
                    self.note(Unscannable::Partial);
                }
                ControlFlow::Continue(Ok(()))
            }
            Err(NeededWhole) => ControlFlow::Continue(Err(NeededWhole)),
        }
    }

    /// What shows objects in windows.
    fn showing(&mut self) -> Showing<'_, 'r> {
        Showing { engines: self.engines, keys: &self.keys, window_bytes: self.window_bytes }
    }

    /// A decoded part of a message.
    fn part(
        &mut self,
        head: &PartHead,
        whole: Whole<'_>,
        seen: Option<Key>,
        origin: &Origin,
    ) -> Flow {
        let inside = Origin { depth: origin.depth + 1, is_outermost: false, ..origin.clone() };
        let (origin, is_wanted) = if origin.is_outermost {
            let is_wanted = match self.wanted {
                Export::Nothing => false,
                Export::Odd => !head.verbatim && !head.is_plain,
                Export::Parts => true,
            };
            (Origin { part: head.number, range: head.range.clone(), ..inside }, is_wanted)
        } else {
            (inside, false)
        };
        match (whole, seen) {
            (Whole::Held(bytes), _) => {
                if self.examine(bytes, &head.file_names, &origin, is_wanted)? {
                    self.open(bytes, &head.file_names, &origin, head.verbatim)?;
                }
                Flow::Continue(())
            }
            // There is nothing in it to be taken out.
            (Whole::Seen(_), key) => {
                let is_new = key.is_some_and(|key| self.seen.insert(key));
                self.look(whole, &head.file_names, &origin, is_new)
            }
        }
    }

    /// Looks at an object as it is. Whether there is more to do: not if it was seen before.
    fn examine(
        &mut self,
        bytes: &[u8],
        names: &[String],
        origin: &Origin,
        is_wanted: bool,
    ) -> ControlFlow<(), bool> {
        let is_new = !bytes.is_empty() && self.seen.insert(key(&self.keys, bytes));
        if is_new && is_wanted {
            (self.export)(origin.part, names.first().map(String::as_str), bytes);
        }
        self.look(Whole::Held(bytes), names, origin, is_new)?;
        if is_new && is_volume(names, bytes) {
            self.note(Unscannable::Partial);
        }
        ControlFlow::Continue(is_new)
    }

    /// Every engine looks at it; at bytes that are not new, those that care for names.
    fn look(&mut self, whole: Whole<'_>, names: &[String], origin: &Origin, is_new: bool) -> Flow {
        self.analysis.objects += u32::from(is_new);
        for number in 0..self.engines.len() {
            let Some(engine) = self.engines.get_mut(number) else { break };
            if !is_new && !engine.looks_at_names() {
                continue;
            }
            let outcome = match whole {
                Whole::Held(bytes) => engine.scan(&LocalObject { bytes, file_names: names }),
                Whole::Seen(slot) => engine.end(slot, names),
            };
            let engine = engine.name();
            match outcome {
                EngineOutcome::Clean => {}
                EngineOutcome::Found(name) => {
                    let finding = Finding {
                        name: printable(&name, FINDING_NAME_BYTES_MAX),
                        engine: engine.to_owned(),
                        part: origin.part,
                        file_name: names.first().cloned(),
                        range: origin.range.clone(),
                    };
                    // Blocked is a matter of taste, and may be let pass: worse may be behind it.
                    if engine == BLOCK {
                        self.analysis.blocked.get_or_insert(finding);
                    } else {
                        self.analysis.found = Some(finding);
                        return Flow::Break(());
                    }
                }
                EngineOutcome::Encrypted => self.note(Unscannable::Encrypted),
                EngineOutcome::OverSize => self.note(Unscannable::OverSize),
                EngineOutcome::Limit(why) => {
                    self.note(Unscannable::EngineLimit { engine: engine.to_owned(), why });
                }
                EngineOutcome::Failed(why) => {
                    self.note(Unscannable::EngineFailed { engine: engine.to_owned(), why });
                }
            }
            if (self.stop)() {
                self.note(Unscannable::OverTime);
                return Flow::Break(());
            }
        }
        Flow::Continue(())
    }

    /// Takes a container apart, a mail that was inside one, and a text that has files in its lines,
    /// unless these `were_read` with the message round it.
    fn open(&mut self, bytes: &[u8], names: &[String], origin: &Origin, were_read: bool) -> Flow {
        let formats = unpack::formats(bytes);
        let is_mail = looks_like_mail(bytes);
        let is_text = !is_mail && !were_read && holds_files(bytes);
        if formats.is_empty() && !is_mail && !is_text {
            return Flow::Continue(());
        }
        if origin.depth >= self.limits.container_depth_max {
            self.note(Unscannable::OverDepth);
            return Flow::Continue(());
        }
        for format in formats {
            self.container(bytes, format, names, origin)?;
        }
        let inside = Origin { depth: origin.depth + 1, ..origin.clone() };
        if is_mail {
            self.mail(&mut Held::new(bytes), &inside)?;
        } else if is_text {
            let inside = Origin { is_outermost: false, ..inside };
            self.walk(&Walker::text, &mut Held::new(bytes), None, &inside)?;
        }
        Flow::Continue(())
    }

    /// Looks at each member as it comes, and opens those that are containers when all have come: one
    /// budget serves all, and unpacks one container at a time.
    fn container(
        &mut self,
        bytes: &[u8],
        format: unpack::Format,
        names: &[String],
        origin: &Origin,
    ) -> Flow {
        let Some(mut budget) = self.budget.take() else {
            // One container is unpacked at a time; were it not so, this one would go unseen.
            self.note(Unscannable::Crashed);
            return Flow::Break(());
        };
        let origin = Origin { depth: origin.depth + 1, ..origin.clone() };
        let mut inner: Vec<unpack::Member> = Vec::new();
        let mut flow = Flow::Continue(());
        let troubles = unpack::unpack(bytes, format, &mut budget, &mut |mut member| {
            if format.is_stream() {
                // Programs name what they unpack after the file.
                member.names.extend(names.iter().filter_map(|name| unpacked_name(name)));
            }
            let is_wanted = member.is_odd && self.wanted != Export::Nothing;
            match self.examine(&member.bytes, &member.names, &origin, is_wanted) {
                ControlFlow::Continue(is_new) => {
                    if is_new && is_container(&member.bytes) {
                        inner.push(member);
                    }
                }
                ControlFlow::Break(()) => flow = Flow::Break(()),
            }
            flow
        });
        self.budget = Some(budget);
        flow?;
        for trouble in troubles {
            self.trouble(&trouble);
        }
        for member in inner {
            self.open(&member.bytes, &member.names, &origin, false)?;
        }
        Flow::Continue(())
    }

    fn trouble(&mut self, trouble: &unpack::Trouble) {
        use unpack::{LimitKind, Trouble};
        let why = match trouble {
            Trouble::Encrypted { .. } => Unscannable::Encrypted,
            // A whole kind that is not opened here may be opened elsewhere; of a kind that is, some
            // method or volume is missing, and nobody says that others have it.
            Trouble::Unsupported { format, .. } if !format.is_read() => {
                Unscannable::Archive { format: format.name().to_owned() }
            }
            Trouble::Unsupported { .. } => Unscannable::Archive { format: trouble.to_string() },
            Trouble::Damaged { .. } => Unscannable::Damaged { what: trouble.to_string() },
            Trouble::Partial { .. } => Unscannable::Partial,
            Trouble::Limit(LimitKind::Members) => Unscannable::OverParts,
            Trouble::Limit(LimitKind::Bytes | LimitKind::Memory) => Unscannable::OverDecoded,
            Trouble::Limit(LimitKind::Ratio) => Unscannable::OverRatio,
            Trouble::Limit(LimitKind::Time) => Unscannable::OverTime,
        };
        self.note(why);
    }

    /// Keeps a reason.
    fn note(&mut self, why: Unscannable) {
        note(&mut self.analysis.unscannable, why);
    }
}

/// Whether [`Inspection::open`] would find something in it.
fn is_container(bytes: &[u8]) -> bool {
    !unpack::formats(bytes).is_empty() || looks_like_mail(bytes) || holds_files(bytes)
}

/// The name that the content of a packed file gets: without its end, or of a tar with that of a tar.
fn unpacked_name(name: &str) -> Option<String> {
    const TARS: [&str; 6] = ["tgz", "tbz", "tbz2", "txz", "taz", "tzst"];
    let (before, end) = name.trim_end().rsplit_once('.')?;
    let is_tar = TARS.iter().any(|tar| end.eq_ignore_ascii_case(tar));
    Some(if is_tar { format!("{before}.tar") } else { before.to_owned() })
}

/// A message: its first line is a header field (RFC 5322 section 2.2; a mailbox file has one of its
/// own), and among its first lines is one that only mail has. Programs open such a file as a mail, or
/// as a web archive, whatever it is called.
fn looks_like_mail(bytes: &[u8]) -> bool {
    let bytes = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes);
    let start = bytes.get(..MAIL_START_BYTES).unwrap_or(bytes);
    let mut lines = start.split(|byte| *byte == b'\n').filter(|line| !line.trim_ascii().is_empty());
    let Some(first) = lines.next() else { return false };
    if !first.starts_with(b"From ") && !is_field(first) {
        return false;
    }
    std::iter::once(first).chain(lines).any(|line| {
        MAIL_FIELDS.iter().any(|field| {
            let name = line.get(..field.len()).unwrap_or_default();
            name.eq_ignore_ascii_case(field.as_bytes())
        })
    })
}

/// Fields of which a mail has one, without what follows their name.
const MAIL_FIELDS: [&str; 9] = [
    "content-type",
    "content-transfer-encoding",
    "content-disposition",
    "mime-version",
    "received",
    "return-path",
    "message-id",
    "subject",
    "from:",
];
/// How much of a file is looked at to find them, bytes.
const MAIL_START_BYTES: usize = 32 * 1024;
/// Longest name of a header field that is looked for at the start of a mail, bytes.
const FIELD_NAME_BYTES_MAX: usize = 64;

/// Printable characters, and a colon behind them.
fn is_field(line: &[u8]) -> bool {
    let name = line.iter().take(FIELD_NAME_BYTES_MAX).position(|byte| *byte == b':');
    name.is_some_and(|end| {
        let name = line.get(..end).unwrap_or_default().trim_ascii_end();
        !name.is_empty() && name.iter().all(u8::is_ascii_graphic)
    })
}

/// Most reasons that are kept for one mail: each kind once, and several kinds of archives.
pub const REASONS_MAX: usize = 32;

/// Keeps a reason: each kind once, but each kind of archive.
pub(crate) fn note(kept: &mut Vec<Unscannable>, why: Unscannable) {
    let is_archive = matches!(why, Unscannable::Archive { .. });
    let is_known = |known: &Unscannable| {
        if is_archive { *known == why } else { known.kind() == why.kind() }
    };
    if kept.len() < REASONS_MAX && !kept.iter().any(is_known) {
        kept.push(why);
    }
}

/// The reason that is named where there are several.
pub(crate) fn heaviest(reasons: &[Unscannable]) -> Option<&Unscannable> {
    reasons.iter().max_by_key(|why| weight(why))
}

/// The more suspicious the mail, the more it weighs.
fn weight(why: &Unscannable) -> u8 {
    match why {
        Unscannable::Ambiguous => 12,
        Unscannable::Crashed => 11,
        Unscannable::OverDepth => 10,
        Unscannable::OverParts => 9,
        Unscannable::OverDecoded | Unscannable::OverRatio => 8,
        Unscannable::OverTime => 7,
        Unscannable::Partial => 6,
        Unscannable::EngineFailed { .. } => 5,
        Unscannable::EngineLimit { .. } => 4,
        Unscannable::OverSize => 3,
        Unscannable::Damaged { .. } => 2,
        Unscannable::Archive { .. } => 1,
        Unscannable::Encrypted => 0,
    }
}

#[cfg(test)]
mod tests;
