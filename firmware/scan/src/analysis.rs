//! Takes one complete mail apart and has every piece looked at: the part of scanning that reads
//! hostile bytes. Runs in a worker process ([`crate::worker`]), or wherever a test calls it.
//!
//! A mail gives objects: the message itself, the parts that the MIME walk decodes in every reading it
//! has, the members of containers, and, where such a member is a mail, its parts. Each object is
//! looked at once: by the rules on names and types, by every [`LocalEngine`], and then taken apart
//! itself. The first finding ends the analysis; the order is that of the mail, so the same mail always
//! gives the same finding.
//!
//! Does no IO and reads no clock; the caller says when the time is over. Entry: [`Analyzer`].

use std::collections::HashSet;
use std::fmt;
use std::hash::{BuildHasher, RandomState};
use std::ops::{ControlFlow, Range};
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::engine::{EngineOutcome, printable};
use crate::mime::{Event, Oddities, PartHead, Reading, Summary, Walker, further_readings};
use crate::{BLOCK, FINDING_NAME_BYTES_MAX, Finding, Limits, Unscannable};

/// How much of a message is walked before the time is looked at, bytes.
const WALK_STEP_BYTES: usize = 256 * 1024;

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
        Self { engines, limits }
    }

    /// Looks at one mail. `export` is given the objects that are asked for; `stop` says that there is
    /// no time left.
    pub fn analyze(
        &mut self,
        raw: &[u8],
        wanted: Export,
        stop: &unpack::Stop,
        export: &mut Exporter<'_>,
    ) -> Analysis {
        let mut inspection = Inspection {
            budget: Some(unpack::Budget::new(self.limits.unpacking(), Arc::clone(stop))),
            engines: &mut self.engines,
            limits: self.limits.clone(),
            wanted,
            stop: Arc::clone(stop),
            export,
            seen: HashSet::new(),
            keys: RandomState::new(),
            analysis: Analysis::default(),
        };
        let outermost = Origin { part: 0, range: None, depth: 0, is_outermost: true };
        // Whether it came to its end shows in the analysis.
        let _ = inspection.mail(raw, &outermost);
        inspection.analysis
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
    /// With the container that is being unpacked, while one is.
    budget: Option<unpack::Budget>,
    wanted: Export,
    stop: unpack::Stop,
    export: &'a mut Exporter<'a>,
    /// Objects that were looked at, so that the same bytes are not looked at twice. The keys are
    /// secret: nobody can make a collision.
    seen: HashSet<(usize, u64)>,
    keys: RandomState,
    analysis: Analysis,
}

/// A part being collected.
struct Part {
    number: u32,
    bytes: Vec<u8>,
}

/// Whether the analysis goes on.
type Flow = ControlFlow<()>;

impl Inspection<'_, '_> {
    /// A message: its parts in every reading, then itself.
    fn mail(&mut self, raw: &[u8], origin: &Origin) -> Flow {
        let mut oddities = self.walk(Walker::new(&self.limits), raw, origin)?;
        if origin.is_outermost {
            self.look(raw, &[], origin, true)?;
        }
        let mut done = vec![Reading::default()];
        // All readings share the limits, so that an odd mail costs no more than a large one.
        while let Some(reading) = further_readings(oddities, &done).first().copied() {
            done.push(reading);
            let seen = self.walk(Walker::reading(reading, &self.limits), raw, origin)?;
            oddities = Oddities { structure: oddities.structure, ..oddities.or(seen) };
        }
        Flow::Continue(())
    }

    /// One reading of a message.
    fn walk(
        &mut self,
        mut walker: Walker,
        raw: &[u8],
        origin: &Origin,
    ) -> ControlFlow<(), Oddities> {
        let flow = self.walk_steps(&mut walker, raw, origin);
        if origin.is_outermost {
            self.analysis.parts = self.analysis.parts.max(walker.parts());
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

    fn walk_steps(&mut self, walker: &mut Walker, raw: &[u8], origin: &Origin) -> Flow {
        let mut open: Vec<Part> = Vec::new();
        for step in raw.chunks(WALK_STEP_BYTES) {
            walker.feed(step);
            self.take(walker, &mut open, origin)?;
            if (self.stop)() {
                self.note(Unscannable::OverTime);
                return Flow::Break(());
            }
        }
        walker.finish();
        self.take(walker, &mut open, origin)
    }

    fn take(&mut self, walker: &mut Walker, open: &mut Vec<Part>, origin: &Origin) -> Flow {
        while let Some(event) = walker.poll_event() {
            match event {
                Event::PartStart(head) => {
                    open.push(Part { number: head.number, bytes: Vec::new() });
                }
                Event::PartData { number, bytes } => {
                    if let Some(part) = open.iter_mut().find(|part| part.number == number) {
                        part.bytes.extend_from_slice(&bytes);
                    }
                }
                Event::PartEnd(head) => {
                    if let Some(at) = open.iter().position(|part| part.number == head.number) {
                        let part = open.swap_remove(at);
                        self.part(&head, &part.bytes, origin)?;
                    }
                }
                // That it is a mail is only our guess, where it was found inside something.
                Event::Finding(Unscannable::Ambiguous) if !origin.is_outermost => {}
                Event::Finding(reason) => self.note(reason),
            }
        }
        Flow::Continue(())
    }

    /// A decoded part of a message.
    fn part(&mut self, head: &PartHead, bytes: &[u8], origin: &Origin) -> Flow {
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
        self.object(bytes, &head.file_names, &origin, is_wanted)
    }

    /// Anything but the message itself: looked at, then taken apart.
    fn object(&mut self, bytes: &[u8], names: &[String], origin: &Origin, is_wanted: bool) -> Flow {
        if self.examine(bytes, names, origin, is_wanted)? {
            self.open(bytes, origin)?;
        }
        Flow::Continue(())
    }

    /// Looks at an object as it is. Whether there is more to do: not if it was seen before.
    fn examine(
        &mut self,
        bytes: &[u8],
        names: &[String],
        origin: &Origin,
        is_wanted: bool,
    ) -> ControlFlow<(), bool> {
        let is_new =
            !bytes.is_empty() && self.seen.insert((bytes.len(), self.keys.hash_one(bytes)));
        if is_new && is_wanted {
            (self.export)(origin.part, names.first().map(String::as_str), bytes);
        }
        self.look(bytes, names, origin, is_new)?;
        ControlFlow::Continue(is_new)
    }

    /// Every engine looks at it; at bytes that are not new, those that care for names.
    fn look(&mut self, bytes: &[u8], names: &[String], origin: &Origin, is_new: bool) -> Flow {
        self.analysis.objects += u32::from(is_new);
        for number in 0..self.engines.len() {
            let Some(engine) = self.engines.get_mut(number) else { break };
            if !is_new && !engine.looks_at_names() {
                continue;
            }
            let outcome = engine.scan(&LocalObject { bytes, file_names: names });
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

    /// Takes a container apart, and a mail that was inside one.
    fn open(&mut self, bytes: &[u8], origin: &Origin) -> Flow {
        let formats = unpack::formats(bytes);
        let is_mail = looks_like_mail(bytes);
        if formats.is_empty() && !is_mail {
            return Flow::Continue(());
        }
        if origin.depth >= self.limits.container_depth_max {
            self.note(Unscannable::OverDepth);
            return Flow::Continue(());
        }
        for format in formats {
            self.container(bytes, format, origin)?;
        }
        if is_mail {
            self.mail(bytes, &Origin { depth: origin.depth + 1, ..origin.clone() })?;
        }
        Flow::Continue(())
    }

    /// Looks at each member as it comes, and opens those that are containers when all have come: one
    /// budget serves all, and unpacks one container at a time.
    fn container(&mut self, bytes: &[u8], format: unpack::Format, origin: &Origin) -> Flow {
        let Some(mut budget) = self.budget.take() else {
            // One container is unpacked at a time; were it not so, this one would go unseen.
            self.note(Unscannable::Crashed);
            return Flow::Break(());
        };
        let origin = Origin { depth: origin.depth + 1, ..origin.clone() };
        let mut inner: Vec<Vec<u8>> = Vec::new();
        let mut flow = Flow::Continue(());
        let troubles = unpack::unpack(bytes, format, &mut budget, &mut |member| {
            let is_wanted = member.is_odd && self.wanted != Export::Nothing;
            match self.examine(&member.bytes, &member.names, &origin, is_wanted) {
                ControlFlow::Continue(is_new) => {
                    if is_new && is_container(&member.bytes) {
                        inner.push(member.bytes);
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
        for bytes in inner {
            self.open(&bytes, &origin)?;
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
    !unpack::formats(bytes).is_empty() || looks_like_mail(bytes)
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
