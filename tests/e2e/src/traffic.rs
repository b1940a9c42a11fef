//! Steady mail of an office, while something happens to the servers: who sent, who fetched, how long
//! each waited, what was cut, and whether each mail arrived once and whole.

use std::{
    collections::BTreeMap,
    ops::RangeInclusive,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, anyhow, ensure};

use crate::{
    Lab, Netns,
    clock::{now, wait_for},
    message,
    plan::{PASSWORD, RECIPIENT, SENDER, USER, pop3_server, smtp_server},
    pop3, smtp,
};

/// The mailbox of [`RECIPIENT`].
const RECIPIENT_BOX: &str = "partner";
/// Longest that the mail server may take from its last "250" to the mailboxes.
const DELIVERED_MAX: Duration = Duration::from_secs(30);
/// Longest wait for a number of sessions.
const SESSIONS_MAX: Duration = Duration::from_secs(120);
/// Pause of a client between two sessions.
const PAUSE: Duration = Duration::from_millis(20);
/// Over how many steps, with [`SLOW_PAUSE`] between them, a slow mail is sent.
const SLOW_STEPS: usize = 10;
const SLOW_PAUSE: Duration = Duration::from_millis(150);

/// Numbers of mails that one traffic has for itself: what an earlier one sent may arrive late, when its
/// clients have long been told that the connection is lost.
const NUMBERS: u64 = 1_000_000;
/// Traffics so far.
static TRAFFICS: AtomicU64 = AtomicU64::new(0);

/// What the clients do, each one after the other for as long as the traffic lasts.
const CLIENTS: [Kind; 6] =
    [Kind::Short, Kind::Short, Kind::Large, Kind::Slow, Kind::Fetch, Kind::Fetch];

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// Sends a mail of a few lines.
    Short,
    /// Sends one of some hundred kilobytes.
    Large,
    /// Sends one as over a bad line, so that some session is always in the middle of a mail.
    Slow,
    /// Fetches one.
    Fetch,
}

/// How a session ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum End {
    /// As it should.
    Done,
    /// The mail was not taken for now (4xx): the client keeps it.
    Later(String),
    /// The mail was refused, or is not what it was.
    Wrong(String),
    /// The connection was not made, or did not last.
    Cut(String),
}

/// What a client saw of one session.
#[derive(Debug, Clone)]
pub struct Session {
    /// When it asked for the connection.
    pub started: Instant,
    /// From then to the banner; `None` if none came.
    pub first_byte: Option<Duration>,
    /// From then to the end.
    pub took: Duration,
    /// How it ended.
    pub end: End,
    /// The mail that it sent.
    mail: Option<u64>,
}

impl Session {
    /// Whether it was going on at some time of these.
    #[must_use]
    pub fn overlaps(&self, times: &RangeInclusive<Instant>) -> bool {
        self.started <= *times.end() && *times.start() < self.started + self.took
    }
}

/// Mail going out and coming in.
#[derive(Debug)]
pub struct Traffic {
    shared: Arc<Shared>,
    clients: Vec<JoinHandle<Result<()>>>,
}

#[derive(Debug)]
struct Shared {
    is_over: AtomicBool,
    mails: AtomicU64,
    /// Number of the first mail.
    first: u64,
    sessions: Mutex<Vec<Session>>,
    /// What a fetch must give.
    original: Vec<u8>,
}

/// What came of it.
#[derive(Debug)]
pub struct Outcome {
    /// In the order of their ends.
    pub sessions: Vec<Session>,
    /// Mails that were acknowledged and did not arrive.
    pub lost: usize,
    /// Mails that arrived more than once.
    pub doubled: usize,
    /// Mails that arrived otherwise than they were sent.
    pub altered: usize,
}

impl Traffic {
    /// Begins, with empty mailboxes but for the mail that is fetched again and again.
    ///
    /// # Errors
    /// When the mailboxes cannot be prepared.
    pub fn start(lab: &Lab) -> Result<Self> {
        let mail = lab.mail();
        mail.empty(RECIPIENT_BOX)?;
        mail.empty(USER)?;
        mail.put(USER, &message::clean("Fetched all the time"))?;
        let original = lab.mail_netns().within(fetch)??;
        let first = TRAFFICS.fetch_add(1, Ordering::Relaxed) * NUMBERS;
        let shared = Arc::new(Shared {
            is_over: AtomicBool::new(false),
            mails: AtomicU64::new(first),
            first,
            sessions: Mutex::default(),
            original,
        });
        let clients = CLIENTS.map(|kind| {
            let (pc, shared) = (lab.pc().clone(), Arc::clone(&shared));
            thread::spawn(move || client(&pc, kind, &shared))
        });
        Ok(Self { shared, clients: clients.into() })
    }

    /// Waits until so many sessions that started after `since` have ended.
    ///
    /// # Errors
    /// When they do not.
    pub fn wait_sessions(&self, since: Instant, count: usize) -> Result<()> {
        wait_for(&format!("{count} sessions"), SESSIONS_MAX, || {
            let sessions = self.shared.sessions.lock().unwrap_or_else(PoisonError::into_inner);
            (sessions.iter().filter(|session| session.started >= since).count() >= count)
                .then_some(())
        })
    }

    /// Lets every client end its session, and looks at what has arrived.
    ///
    /// # Errors
    /// When a client failed by itself, or the mailbox cannot be read.
    pub fn finish(self, lab: &Lab) -> Result<Outcome> {
        self.shared.is_over.store(true, Ordering::Relaxed);
        for client in self.clients {
            client.join().map_err(|_| anyhow!("a client panicked"))??;
        }
        let sessions = std::mem::take(
            &mut *self.shared.sessions.lock().unwrap_or_else(PoisonError::into_inner),
        );
        let acknowledged: Vec<u64> = sessions
            .iter()
            .filter(|session| session.end == End::Done)
            .filter_map(|session| session.mail)
            .collect();
        // What does not come in this time is lost; the count says so.
        let mut arrived = Arrived::default();
        let _ = wait_for("all mails to arrive", DELIVERED_MAX, || {
            arrived = Arrived::read(lab, self.shared.first).ok()?;
            acknowledged.iter().all(|mail| arrived.times.contains_key(mail)).then_some(())
        });
        let lost = acknowledged.iter().filter(|mail| !arrived.times.contains_key(mail)).count();
        let doubled = arrived.times.values().filter(|times| **times > 1).count();
        Ok(Outcome { sessions, lost, doubled, altered: arrived.altered })
    }
}

/// What is in the recipient's mailbox.
#[derive(Debug, Default)]
struct Arrived {
    times: BTreeMap<u64, usize>,
    altered: usize,
}

impl Arrived {
    /// Those of the traffic whose mails have these numbers.
    fn read(lab: &Lab, first: u64) -> Result<Self> {
        let mut arrived = Self::default();
        for delivered in lab.mail().messages(RECIPIENT_BOX)? {
            let mail = number_of(&delivered).context("a mail that nobody sent")?;
            if !(first..first + NUMBERS).contains(&mail) {
                continue;
            }
            *arrived.times.entry(mail).or_default() += 1;
            let is_whole = [Kind::Short, Kind::Large]
                .into_iter()
                .any(|kind| delivered.ends_with(&message::to_lf(&mail_of(kind, mail))));
            arrived.altered += usize::from(!is_whole);
        }
        Ok(arrived)
    }
}

fn client(pc: &Netns, kind: Kind, shared: &Shared) -> Result<()> {
    pc.within(|| {
        while !shared.is_over.load(Ordering::Relaxed) {
            let session = match kind {
                Kind::Fetch => fetching(shared),
                kind => sending(kind, shared.mails.fetch_add(1, Ordering::Relaxed)),
            };
            shared.sessions.lock().unwrap_or_else(PoisonError::into_inner).push(session);
            thread::park_timeout(PAUSE);
        }
    })
}

fn sending(kind: Kind, mail: u64) -> Session {
    let message = mail_of(kind, mail);
    let started = now();
    let mut first_byte = None;
    let sent = (|| {
        let mut session = smtp::Session::open(smtp_server())?;
        first_byte = Some(session.first_byte);
        let reply = match kind {
            Kind::Slow => session.send_slowly(SENDER, RECIPIENT, &message, SLOW_STEPS, SLOW_PAUSE),
            _ => session.send(SENDER, RECIPIENT, &message),
        }?;
        // What is said after the reply to the mail changes nothing for it.
        let _ = session.quit();
        Ok(reply)
    })();
    let end = match sent {
        Ok(reply) if reply.code == 250 => End::Done,
        Ok(reply) if (400..500).contains(&reply.code) => End::Later(reply.text),
        Ok(reply) => End::Wrong(reply.text),
        Err(error) => broken(&error),
    };
    Session { started, first_byte, took: started.elapsed(), end, mail: Some(mail) }
}

fn fetching(shared: &Shared) -> Session {
    let started = now();
    let mut first_byte = None;
    let fetched = (|| {
        let session = pop3::Session::open(pop3_server())?;
        first_byte = Some(session.first_byte);
        fetch_in(session)
    })();
    let end = match fetched {
        Ok(message) if message == shared.original => End::Done,
        Ok(message) => {
            End::Wrong(format!("{} bytes in place of {}", message.len(), shared.original.len()))
        }
        Err(error) => broken(&error),
    };
    Session { started, first_byte, took: started.elapsed(), end, mail: None }
}

/// A reply that refuses shows in the error's text, for an SMTP command before the mail.
fn broken(error: &anyhow::Error) -> End {
    let text = format!("{error:#}");
    match text.contains("was answered by Reply { code: 4") {
        true => End::Later(text),
        false => End::Cut(text),
    }
}

fn fetch() -> Result<Vec<u8>> {
    fetch_in(pop3::Session::open(pop3_server())?)
}

fn fetch_in(mut session: pop3::Session) -> Result<Vec<u8>> {
    session.log_in(USER, PASSWORD)?;
    let message = session.retrieve(1)?;
    let _ = session.quit();
    Ok(message)
}

/// How the number of a mail stands in its subject.
const SUBJECT: &str = "Outage mail ";

fn mail_of(kind: Kind, mail: u64) -> Vec<u8> {
    let subject = format!("{SUBJECT}{mail} ");
    match kind {
        Kind::Large => message::clean(&subject),
        _ => message::short(&subject),
    }
}

fn number_of(delivered: &[u8]) -> Result<u64> {
    let text = String::from_utf8_lossy(delivered);
    let subject = text.split_once(&format!("Subject: {SUBJECT}")).context("no such subject")?.1;
    let number = subject.split(' ').next().unwrap_or_default();
    ensure!(!number.is_empty(), "a subject without a number");
    Ok(number.parse()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mail_tells_its_number() {
        for kind in [Kind::Short, Kind::Large] {
            assert_eq!(number_of(&mail_of(kind, 1_234)).unwrap(), 1_234);
        }
        assert!(number_of(&message::short("another")).is_err());
    }

    #[test]
    fn a_session_overlaps_what_happens_between_its_ends() {
        let started = now();
        let second = Duration::from_secs(1);
        let session =
            Session { started, first_byte: None, took: 2 * second, end: End::Done, mail: None };
        assert!(session.overlaps(&(started + second..=started + second)));
        assert!(session.overlaps(&(started..=started)));
        assert!(!session.overlaps(&(started + 2 * second..=started + 3 * second)));
    }
}
