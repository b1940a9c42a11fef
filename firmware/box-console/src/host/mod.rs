//! The driver: the terminal, the clock, and the threads on which jobs run.

mod bundle;
mod capture;
mod jobs;
mod probes;
mod program;
mod self_test;
mod stick;
mod tty;

use std::convert::Infallible;
use std::io;
use std::os::fd::AsFd as _;
use std::sync::Arc;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, SyncSender, TryRecvError};
use std::time::Duration;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::eventfd::{EfdFlags, EventFd};
use nix::sys::time::TimeSpec;
use nix::time::{ClockId, clock_gettime};

use crate::Options;
use crate::session::{Job, Order, Report, Session};
use tty::Tty;

/// Until a terminal that cannot be opened is tried again; it doubles each time.
const REOPEN_MIN: Duration = Duration::from_secs(1);
/// The longest that it gets.
const REOPEN_MAX: Duration = Duration::from_secs(60);
/// Bytes that wait for the terminal; beyond, neither keys nor jobs are listened to.
const PENDING_BYTES_MAX: usize = 64 * 1024;
/// Reports on their way; a job that says more waits.
const REPORTS_MAX: usize = 16;
/// Jobs that run, with those that were cancelled and have not noticed yet.
const JOBS_MAX: usize = 8;

/// Serves the terminal for ever.
pub(crate) fn run(options: &Options) -> io::Result<Infallible> {
    let mut desk = Desk::new(options)?;
    let mut wait = REOPEN_MIN;
    let mut told = false;
    loop {
        match Tty::open(&options.tty_path(), options.baud) {
            Ok(mut tty) => {
                (wait, told) = (REOPEN_MIN, false);
                desk.session.opened(uptime());
                let error = desk.serve(&mut tty);
                tell(&format!("{} hung up: {error}; it is opened again", options.tty));
                // Whoever was there is gone, and so is what he had running.
                desk.session.opened(uptime());
                desk.session.take_output();
                desk.obey();
            }
            Err(error) if !told => {
                tell(&format!("{}: {error}; tried again, silently", options.tty));
                told = true;
            }
            Err(_) => wait = wait.saturating_mul(2).min(REOPEN_MAX),
        }
        desk.rest(wait);
    }
}

/// To PID 1's log of this service.
#[allow(clippy::print_stderr, reason = "PID 1 keeps what services write to standard error")]
fn tell(line: &str) {
    eprintln!("{line}");
}

struct Desk {
    session: Session,
    options: Arc<Options>,
    wake: Arc<EventFd>,
    sender: SyncSender<(u64, Report)>,
    receiver: Receiver<(u64, Report)>,
    /// Who drops it, cancels the job.
    running: Option<(u64, SyncSender<Infallible>)>,
    /// As many as there are jobs.
    count: Arc<()>,
}

impl Desk {
    fn new(options: &Options) -> io::Result<Self> {
        let wake = EventFd::from_flags(EfdFlags::EFD_NONBLOCK | EfdFlags::EFD_CLOEXEC)?;
        let (sender, receiver) = mpsc::sync_channel(REPORTS_MAX);
        Ok(Self {
            session: Session::default(),
            options: Arc::new(options.clone()),
            wake: Arc::new(wake),
            sender,
            receiver,
            running: None,
            count: Arc::new(()),
        })
    }

    /// Until the line hangs up.
    fn serve(&mut self, tty: &mut Tty) -> io::Error {
        let mut pending: Vec<u8> = Vec::new();
        loop {
            while pending.len() < PENDING_BYTES_MAX && self.session.wants_reports() {
                let Ok((job, report)) = self.receiver.try_recv() else { break };
                self.session.report(job, report, uptime());
                pending.extend(self.session.take_output());
            }
            self.session.tick(uptime());
            self.obey();
            pending.extend(self.session.take_output());
            let step = tty.write(&mut pending).and_then(|()| self.wait(tty, &pending));
            match step.and_then(|readable| if readable { tty.read() } else { Ok(Vec::new()) }) {
                Ok(bytes) => self.session.bytes(&bytes, uptime()),
                Err(error) => return error,
            }
        }
    }

    /// Whether there is something to read.
    fn wait(&self, tty: &Tty, pending: &[u8]) -> io::Result<bool> {
        let mut wanted = PollFlags::empty();
        if !pending.is_empty() {
            wanted |= PollFlags::POLLOUT;
        }
        if pending.len() < PENDING_BYTES_MAX {
            wanted |= PollFlags::POLLIN;
        }
        let timeout = self.session.deadline().map(|at| at.saturating_sub(uptime()));
        let mut descriptors =
            [PollFd::new(tty.as_fd(), wanted), PollFd::new(self.wake.as_fd(), PollFlags::POLLIN)];
        poll_for(&mut descriptors, timeout)?;
        let [tty, wake] =
            descriptors.map(|descriptor| descriptor.revents().unwrap_or(PollFlags::empty()));
        if !wake.is_empty() {
            // Only resets the counter.
            let _ = self.wake.read();
        }
        if tty.intersects(PollFlags::POLLHUP | PollFlags::POLLERR | PollFlags::POLLNVAL) {
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the other end is gone"));
        }
        Ok(tty.contains(PollFlags::POLLIN))
    }

    /// Lets time pass without a terminal; jobs may end meanwhile.
    fn rest(&self, time: Duration) {
        while self.receiver.try_recv().is_ok() {}
        let _ = self.wake.read();
        let _ = poll_for(&mut [], Some(time));
    }

    fn obey(&mut self) {
        for order in self.session.take_orders() {
            match order {
                Order::Cancel(_) => self.running = None,
                Order::Start(id, job) => self.start(id, job),
            }
        }
    }

    fn start(&mut self, id: u64, job: Job) {
        let (alive, cancelled) = mpsc::sync_channel(0);
        let reporter = Reporter {
            id,
            sender: self.sender.clone(),
            wake: Arc::clone(&self.wake),
            cancelled,
            _count: Arc::clone(&self.count),
        };
        self.running = Some((id, alive));
        let options = Arc::clone(&self.options);
        let busy = Arc::strong_count(&self.count) > JOBS_MAX + 1;
        let started = (!busy).then(|| {
            std::thread::Builder::new()
                .name("job".to_owned())
                .spawn(move || jobs::run(&job, &options, &reporter))
        });
        if !matches!(started, Some(Ok(_))) {
            let now = uptime();
            let line = "too much is still running: try again in a moment".to_owned();
            self.session.report(id, Report::Line(line), now);
            self.session.report(id, Report::End, now);
        }
    }
}

/// What a job says, and whether it is still wanted.
struct Reporter {
    id: u64,
    sender: SyncSender<(u64, Report)>,
    wake: Arc<EventFd>,
    cancelled: Receiver<Infallible>,
    _count: Arc<()>,
}

impl Reporter {
    fn say(&self, report: Report) {
        // Both fail only when the console ends.
        let _ = self.wake.write(1);
        let _ = self.sender.send((self.id, report));
        let _ = self.wake.write(1);
    }

    fn line(&self, line: impl Into<String>) {
        self.say(Report::Line(line.into()));
    }

    fn lines(&self, lines: impl IntoIterator<Item = String>) {
        for line in lines {
            self.line(line);
        }
    }

    fn is_cancelled(&self) -> bool {
        self.cancelled.try_recv() == Err(TryRecvError::Disconnected)
    }

    /// Lets time pass; false: cancelled.
    fn rest(&self, time: Duration) -> bool {
        self.cancelled.recv_timeout(time) == Err(RecvTimeoutError::Timeout)
    }
}

/// Since the kernel's start.
pub(crate) fn uptime() -> Duration {
    read_clock(ClockId::CLOCK_BOOTTIME)
}

/// Since 1970 UTC, as far as the box knows.
fn wall_clock() -> Duration {
    read_clock(ClockId::CLOCK_REALTIME)
}

fn read_clock(clock: ClockId) -> Duration {
    // Fails only for a clock that the kernel does not have, and it has both.
    clock_gettime(clock).map_or(Duration::ZERO, |time: TimeSpec| Duration::from(time))
}

/// Waits; an interruption counts as the end of it.
fn poll_for(descriptors: &mut [PollFd<'_>], timeout: Option<Duration>) -> io::Result<()> {
    // Rounded up, or the last millisecond is a busy loop.
    let timeout = timeout.map_or(PollTimeout::NONE, |timeout| {
        PollTimeout::try_from(timeout.saturating_add(Duration::from_millis(1)))
            .unwrap_or(PollTimeout::MAX)
    });
    match poll(descriptors, timeout) {
        Ok(_) | Err(Errno::EINTR) => Ok(()),
        Err(error) => Err(error.into()),
    }
}
