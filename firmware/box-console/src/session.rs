//! Who sits at the console, and what the console is doing: bytes, reports of jobs and the time in; bytes
//! for the screen and orders for jobs out.
//!
//! The driver calls [`Session::opened`] when the line is there (again), [`Session::bytes`] for what was
//! typed, [`Session::report`] for what a job says, [`Session::tick`] when [`Session::deadline`] is
//! over; and after each of them it takes [`Session::take_output`] and [`Session::take_orders`]. One job
//! runs at a time; what a job says after it was cancelled is dropped.

use std::collections::VecDeque;
use std::time::Duration;

use crate::command::{self, AddressOrder, COMMANDS, Command, Line, Rights, Spec};
use crate::editor::{Edit, Editor};
use crate::keys::{Key, Keys};
use crate::login::Throttle;
use crate::secret::Door;
use crate::text::{COLUMNS, ROWS, visible, wrap};

/// Shortest secret that can be set, in characters.
pub const SECRET_CHARS_MIN: usize = 8;
/// Without a key for so long, the console locks itself.
pub const IDLE_MAX: Duration = Duration::from_secs(900);
/// Without a key for so long, the question for the secret is given up.
pub const LOGIN_MAX: Duration = Duration::from_secs(60);
/// Lines that wait to be shown; a job that says more waits.
pub const WAITING_LINES_MAX: usize = 64;

/// What is done outside of the session.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Job {
    /// Says how the box is, and who may come in ([`Report::Door`]).
    Banner,
    /// Says whether this is the secret ([`Report::Verified`]).
    Verify(Secret),
    /// Makes this the secret.
    SetSecret(Secret),
    /// Forgets everything; the serial number as typed.
    FactoryReset(String),
    /// Does what a command says.
    Run(Command),
    /// Does this if the secret still cannot be checked, and says so ([`Report::Door`]) if it can.
    Repair(Box<Self>),
}

/// A secret; not shown by `Debug`.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(pub String);

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Secret(..)")
    }
}

/// An order to the driver.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Order {
    /// Start this job; its reports carry the number.
    Start(u64, Job),
    /// Let the job end.
    Cancel(u64),
}

/// What a job says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Report {
    /// A line for the screen.
    Line(String),
    /// A screen in place of the one before.
    Screen(Vec<String>),
    /// Who may come in.
    Door(Door),
    /// Whether the secret was right.
    Verified(bool),
    /// New addresses wait for their confirmation, for so many seconds, or no longer do.
    Unconfirmed(Option<u32>),
    /// The job has ended.
    End,
}

#[derive(Debug)]
enum State {
    /// Nobody is there.
    Locked,
    /// The banner is on its way.
    Greeting,
    /// The secret is asked for.
    Login,
    /// It is being looked at.
    Verifying,
    /// It was wrong: the next one is taken then.
    Held(Duration),
    /// A command can be typed.
    Prompt,
    /// Words of a command are asked for.
    Asking(&'static Spec, Vec<String>),
    /// A command waits for "yes".
    Confirming(Command),
    /// A factory reset waits for the serial number.
    TypingSerial,
    /// The new secret is typed, and typed again.
    NewSecret(Option<Secret>),
    /// A job runs.
    Running(View),
}

/// How a job's lines are shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum View {
    /// As they come.
    Lines,
    /// Likewise, and q asks it to end; it has still something to say then.
    Ends { asked: bool },
    /// A screen at a time; how many more fit, and whether it was asked to go on.
    Pages { left: usize, asked: bool },
    /// Each screen in place of the one before.
    Live,
}

const PAGE_LINES: usize = ROWS - 2;
const MORE: &str = "-- space: more, q: enough --";

/// See the module.
#[derive(Debug)]
pub struct Session {
    keys: Keys,
    editor: Editor,
    state: State,
    rights: Rights,
    /// Outlives a hang-up, or hanging up would be the way round the wait.
    throttle: Throttle,
    /// When new addresses go back.
    unconfirmed_until: Option<Duration>,
    last_key: Duration,
    job: u64,
    waiting: VecDeque<String>,
    ended: bool,
    dirty: bool,
    output: String,
    orders: Vec<Order>,
}

impl Default for Session {
    fn default() -> Self {
        Self {
            keys: Keys::default(),
            editor: Editor::default(),
            state: State::Locked,
            rights: Rights::Repair,
            throttle: Throttle::default(),
            unconfirmed_until: None,
            last_key: Duration::ZERO,
            job: 0,
            waiting: VecDeque::new(),
            ended: false,
            dirty: false,
            output: String::new(),
            orders: Vec::new(),
        }
    }
}

impl Session {
    /// The line is there, for the first time or after a hang-up: whoever was there is gone.
    pub fn opened(&mut self, now: Duration) {
        self.lock(now, "");
    }

    /// Bytes from the terminal.
    pub fn bytes(&mut self, bytes: &[u8], now: Duration) {
        for &byte in bytes {
            if let Some(key) = self.keys.push(byte) {
                self.last_key = now;
                self.key(key, now);
            }
        }
        self.draw(now);
    }

    /// A job says something.
    pub fn report(&mut self, job: u64, report: Report, now: Duration) {
        if job != self.job {
            return;
        }
        match report {
            Report::Line(line) => {
                let pieces = wrap(&visible(&line), COLUMNS - 1);
                self.waiting.extend(pieces);
            }
            Report::Screen(lines) => self.screen(&lines),
            Report::Door(door) => self.door(&door, now),
            Report::Verified(right) => self.verified(right, now),
            Report::Unconfirmed(seconds) => {
                self.unconfirmed_until =
                    seconds.map(|seconds| now + Duration::from_secs(u64::from(seconds)));
            }
            Report::End => self.ended = true,
        }
        self.flow();
        self.draw(now);
    }

    /// Some time has passed.
    pub fn tick(&mut self, now: Duration) {
        if self.unconfirmed_until.is_some_and(|until| now >= until) {
            self.unconfirmed_until = None;
            if matches!(self.state, State::Prompt | State::Asking(..)) {
                self.say("");
                self.say("Nobody confirmed the new addresses: the former ones are back.");
                self.dirty = true;
            }
        }
        match self.state {
            State::Held(until) if now >= until => self.ask_secret(now),
            _ => {}
        }
        if self.silence_max().is_some_and(|max| now >= self.last_key + max) {
            let why =
                if matches!(self.state, State::Login) { "" } else { "Nobody is there: locked." };
            self.lock(now, why);
        }
        self.draw(now);
    }

    /// When [`Session::tick`] is to be called, if nothing comes before.
    #[must_use]
    pub fn deadline(&self) -> Option<Duration> {
        let held = if let State::Held(until) = self.state { Some(until) } else { None };
        let silence = self.silence_max().map(|max| self.last_key + max);
        [held, silence, self.unconfirmed_until].into_iter().flatten().min()
    }

    /// Whether a job may say more now.
    #[must_use]
    pub fn wants_reports(&self) -> bool {
        self.waiting.len() < WAITING_LINES_MAX
    }

    /// What is to be written to the terminal.
    pub fn take_output(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.output).into_bytes()
    }

    /// What is to be started and cancelled, in this order.
    pub fn take_orders(&mut self) -> Vec<Order> {
        std::mem::take(&mut self.orders)
    }

    fn silence_max(&self) -> Option<Duration> {
        match self.state {
            State::Locked | State::Greeting | State::Verifying | State::Held(_) => None,
            // These end by themselves, and their owner may wait elsewhere.
            State::Running(View::Lines | View::Ends { .. }) => None,
            State::Login => Some(LOGIN_MAX),
            _ => Some(IDLE_MAX),
        }
    }

    fn key(&mut self, key: Key, now: Duration) {
        match &self.state {
            State::Locked => {
                if key == Key::Enter {
                    self.output.push_str("\r\n");
                    self.start(Job::Banner, State::Greeting);
                }
            }
            State::Greeting | State::Verifying => {}
            State::Held(until) => {
                if key == Key::Enter {
                    let seconds = until.saturating_sub(now).as_secs() + 1;
                    self.say(&format!("Wait {seconds} s."));
                }
            }
            State::Running(view) => self.key_while_running(key, *view),
            State::Login
            | State::Prompt
            | State::Asking(..)
            | State::Confirming(_)
            | State::TypingSerial
            | State::NewSecret(_) => self.edit(key, now),
        }
    }

    fn key_while_running(&mut self, key: Key, view: View) {
        let paused = matches!(view, View::Pages { left: 0, .. }) && !self.waiting.is_empty();
        match key {
            Key::Interrupt | Key::Char('q') if view == (View::Ends { asked: false }) => {
                self.orders.push(Order::Cancel(self.job));
                self.state = State::Running(View::Ends { asked: true });
            }
            Key::Interrupt | Key::Char('q') => {
                if paused {
                    self.output.push_str("\r\u{1b}[K");
                }
                self.cancel();
                if view == View::Live {
                    self.output.push_str("\r\n");
                }
                self.prompt();
            }
            Key::Char(' ') if paused => self.turn(PAGE_LINES),
            Key::Enter if paused => self.turn(1),
            _ => {}
        }
    }

    fn turn(&mut self, lines: usize) {
        self.output.push_str("\r\u{1b}[K");
        self.state = State::Running(View::Pages { left: lines, asked: false });
        self.flow();
    }

    fn edit(&mut self, key: Key, now: Duration) {
        match self.editor.key(key) {
            Edit::Nothing => {}
            Edit::Changed => self.dirty = true,
            Edit::Complete => self.complete(),
            Edit::Line(line) => {
                // What was typed may not have been drawn yet.
                self.editor_line(&line, now);
                self.line(&line, now);
            }
            Edit::Interrupted => {
                self.output.push_str("\r\n");
                match self.state {
                    State::Login => self.lock(now, ""),
                    _ => self.prompt(),
                }
            }
            Edit::EndOfInput => {
                self.output.push_str("\r\n");
                match self.state {
                    State::Login | State::Prompt => self.lock(now, ""),
                    _ => self.prompt(),
                }
            }
        }
    }

    /// Draws a line that is done, as it stands for good, and goes to the next.
    fn editor_line(&mut self, line: &str, now: Duration) {
        let mut done = Editor::default();
        done.begin(matches!(self.state, State::Login | State::NewSecret(_)));
        done.insert(line);
        let drawn = done.draw(&self.prompt_text(now));
        self.output.push_str(&drawn);
        self.output.push_str("\r\n");
    }

    fn complete(&mut self) {
        if !matches!(self.state, State::Prompt) {
            return;
        }
        let (added, fitting) = command::complete(&self.editor.before_cursor());
        if added.is_empty() && fitting.len() > 1 {
            self.output.push_str("\r\n");
            self.say(&fitting.join("  "));
        }
        self.editor.insert(&added);
        self.dirty = true;
    }

    fn line(&mut self, line: &str, now: Duration) {
        match std::mem::replace(&mut self.state, State::Prompt) {
            State::Login if line.is_empty() => self.ask_secret(now),
            State::Login => self.start(Job::Verify(Secret(line.to_owned())), State::Verifying),
            State::Asking(spec, mut given) => {
                // "none" and nothing differ, so a word left out in the middle stays a place.
                given.extend(line.split_whitespace().map(str::to_owned));
                let place = given.len();
                let rest_optional = spec.parameters.iter().skip(place).all(|p| p.optional);
                if line.trim().is_empty() && rest_optional {
                    self.made(spec, &given);
                } else {
                    self.ask_next(spec, given);
                }
            }
            State::Confirming(command) if line.trim() == "yes" => self.run(command),
            State::Confirming(_) => {
                self.say("Nothing is done.");
                self.prompt();
            }
            State::TypingSerial if line.trim().is_empty() => {
                self.say("Nothing is done.");
                self.prompt();
            }
            State::TypingSerial => {
                self.start(Job::FactoryReset(line.trim().to_owned()), State::Running(View::Lines));
            }
            State::NewSecret(first) => self.new_secret(first, line),
            _ => self.command_line(line),
        }
    }

    fn command_line(&mut self, line: &str) {
        if line.trim().is_empty() {
            self.show_menu();
            self.prompt();
            return;
        }
        match command::read(line) {
            Ok(Line::Do(spec, command)) => self.obey(spec, command),
            Ok(Line::Ask(spec, _)) if spec.rights > self.rights => self.not_allowed(),
            Ok(Line::Ask(spec, given)) => self.ask_next(spec, given),
            Err(problem) => {
                self.say(&problem);
                self.prompt();
            }
        }
    }

    /// Asks for the next word, or does what all the words say.
    fn ask_next(&mut self, spec: &'static Spec, given: Vec<String>) {
        // Of the choices only one takes more words.
        let complete =
            spec.name == "addresses" && given.first().is_some_and(|word| word != "static");
        if complete || given.len() >= spec.parameters.len() {
            return self.made(spec, &given);
        }
        self.state = State::Asking(spec, given);
        self.editor.begin(false);
        self.dirty = true;
    }

    fn made(&mut self, spec: &'static Spec, given: &[String]) {
        let words: Vec<&str> = given.iter().map(String::as_str).collect();
        match command::make(spec, &words) {
            Ok(command) => self.obey(spec, command),
            Err(problem) => {
                self.say(&problem);
                self.prompt();
            }
        }
    }

    fn not_allowed(&mut self) {
        self.say("Not now: the secret cannot be checked, so only looking and repairing is open.");
        self.prompt();
    }

    fn obey(&mut self, spec: &Spec, command: Command) {
        if command.rights(spec) > self.rights {
            return self.not_allowed();
        }
        let question = match &command {
            Command::Menu => {
                self.show_menu();
                return self.prompt();
            }
            Command::Help => {
                self.waiting.extend(COMMANDS.iter().enumerate().flat_map(|(number, spec)| {
                    let text = format!("{:>2} {}", number + 1, command::usage(spec));
                    [text, format!("      {}", spec.help)]
                }));
                self.state = State::Running(View::Pages { left: PAGE_LINES, asked: false });
                self.ended = true;
                self.job += 1;
                return self.flow();
            }
            Command::Exit => return self.lock(self.last_key, ""),
            Command::Secret => {
                self.state = State::NewSecret(None);
                self.editor.begin(true);
                self.dirty = true;
                return;
            }
            Command::FactoryReset => {
                self.say("Settings, keys, identity, quarantine and logs are forgotten, and the box starts");
                self.say("anew. It has to be registered again.");
                self.state = State::TypingSerial;
                self.editor.begin(false);
                self.dirty = true;
                return;
            }
            Command::Bypass(true) => "Mail is not scanned until this is turned off.",
            Command::Reboot => "The box starts anew; nothing crosses it meanwhile.",
            Command::Poweroff => {
                "The box turns off; nothing crosses it until it is turned on by hand."
            }
            Command::Update(_) => {
                "The update goes into the other slot, which is used at the next start."
            }
            Command::SwitchSlot => {
                "The build that runs is marked bad, and the other one starts from the next start on."
            }
            Command::Addresses(AddressOrder::Dhcp | AddressOrder::Static { .. }) => {
                "The box's addresses change; they go back after 3 minutes unless confirmed."
            }
            _ => return self.run(command),
        };
        self.say(question);
        self.state = State::Confirming(command);
        self.editor.begin(false);
        self.dirty = true;
    }

    fn run(&mut self, command: Command) {
        let view = match command {
            Command::Live => {
                self.output.push_str("\u{1b}[2J\u{1b}[H");
                View::Live
            }
            Command::Capture(_) => View::Ends { asked: false },
            Command::Status | Command::Logs { .. } | Command::Mail(_) => {
                View::Pages { left: PAGE_LINES, asked: false }
            }
            _ => View::Lines,
        };
        self.start(Job::Run(command), State::Running(view));
    }

    fn new_secret(&mut self, first: Option<Secret>, line: &str) {
        match first {
            None if line.is_empty() => self.say("Nothing is changed."),
            None if line.chars().count() < SECRET_CHARS_MIN => {
                self.say(&format!(
                    "Too short: a secret has at least {SECRET_CHARS_MIN} characters."
                ));
            }
            None => {
                self.state = State::NewSecret(Some(Secret(line.to_owned())));
                self.editor.begin(true);
                self.dirty = true;
                return;
            }
            Some(Secret(first)) if first == line => {
                self.start(Job::SetSecret(Secret(first)), State::Running(View::Lines));
                return;
            }
            Some(_) => self.say("The two are not the same: nothing is changed."),
        }
        self.prompt();
    }

    fn door(&mut self, door: &Door, now: Duration) {
        match (&self.state, door) {
            (State::Greeting, _) => self.flow(),
            // What was asked for was not done.
            (State::Running(_), Door::Locked) if self.rights == Rights::Repair => {
                self.cancel();
                self.say("The secret can be checked by now.");
            }
            _ => return,
        }
        match door {
            Door::Locked => match self.throttle.held_until(now) {
                Some(until) => {
                    let seconds = until.saturating_sub(now).as_secs() + 1;
                    self.say(&format!("After wrong secrets: wait {seconds} s."));
                    self.state = State::Held(until);
                }
                None => self.ask_secret(now),
            },
            Door::Open => {
                self.let_in(Rights::Full);
                self.say("NO SECRET IS SET: whoever is here can do everything. Set one: secret");
            }
            Door::Broken(why) => {
                self.let_in(Rights::Repair);
                self.say(&format!(
                    "The secret cannot be checked ({why}): only looking and repairing is open."
                ));
            }
            Door::Early(seconds) => self.lock(
                now,
                &format!(
                    "The box has only just started, and its secret is still looked for: come back, \
                     at the latest in {seconds} s."
                ),
            ),
        }
    }

    fn verified(&mut self, right: bool, now: Duration) {
        if !matches!(self.state, State::Verifying) {
            return;
        }
        if right {
            self.throttle.right();
            return self.let_in(Rights::Full);
        }
        let delay = self.throttle.wrong(now);
        self.state = State::Held(now + delay);
        self.say(&format!("Wrong. The next one is taken in {} s.", delay.as_secs()));
    }

    fn let_in(&mut self, rights: Rights) {
        self.rights = rights;
        self.show_menu();
        self.prompt();
    }

    fn ask_secret(&mut self, now: Duration) {
        self.state = State::Login;
        self.last_key = now;
        self.editor.begin(true);
        self.dirty = true;
    }

    fn show_menu(&mut self) {
        self.output.push_str("\r\n");
        for line in command::menu() {
            self.say(&line);
        }
        self.say("A number, or a command with its words; Tab completes; arrows; help says more.");
    }

    fn prompt(&mut self) {
        self.state = State::Prompt;
        self.editor.begin(false);
        self.dirty = true;
    }

    fn lock(&mut self, now: Duration, why: &str) {
        self.cancel();
        self.editor.forget();
        self.keys = Keys::default();
        self.rights = Rights::Repair;
        self.state = State::Locked;
        self.last_key = now;
        self.dirty = false;
        // Whatever the terminal was left in: no attributes, the cursor on a line of its own.
        self.output.push_str("\u{1b}[0m\r\n");
        if !why.is_empty() {
            self.say(why);
        }
        self.say("AVR mail gateway. Press Enter.");
    }

    fn start(&mut self, job: Job, state: State) {
        self.cancel();
        let running = matches!(state, State::Running(_));
        let job = match self.rights {
            Rights::Repair if running => Job::Repair(Box::new(job)),
            _ => job,
        };
        self.job += 1;
        self.state = state;
        self.orders.push(Order::Start(self.job, job));
    }

    /// Ends what runs, if anything does, and drops what it has still to say.
    fn cancel(&mut self) {
        if matches!(self.state, State::Running(_) | State::Greeting | State::Verifying) {
            self.orders.push(Order::Cancel(self.job));
            self.job += 1;
        }
        self.waiting.clear();
        self.ended = false;
    }

    /// Shows the lines that wait, as far as the page goes; behind the last of an ended job, the prompt.
    fn flow(&mut self) {
        while let Some(line) = self.waiting.front() {
            if let State::Running(View::Pages { left, asked }) = &mut self.state {
                if *left == 0 {
                    if !std::mem::replace(asked, true) {
                        self.output.push_str(MORE);
                    }
                    return;
                }
                *left -= 1;
            }
            self.output.push_str(line);
            self.output.push_str("\r\n");
            self.waiting.pop_front();
        }
        if self.ended {
            self.ended = false;
            if matches!(self.state, State::Running(_)) {
                self.prompt();
            }
        }
    }

    fn screen(&mut self, lines: &[String]) {
        if self.state_is_live() {
            self.output.push_str("\u{1b}[H");
            for line in lines.iter().take(ROWS - 1) {
                self.output.push_str(&crate::text::clip(&visible(line), COLUMNS - 1));
                self.output.push_str("\u{1b}[K\r\n");
            }
            self.output.push_str("\u{1b}[J");
        }
    }

    fn state_is_live(&self) -> bool {
        matches!(self.state, State::Running(View::Live))
    }

    fn say(&mut self, text: &str) {
        for piece in wrap(&visible(text), COLUMNS - 1) {
            self.output.push_str(&piece);
            self.output.push_str("\r\n");
        }
    }

    fn draw(&mut self, now: Duration) {
        if std::mem::take(&mut self.dirty) {
            let drawn = self.editor.draw(&self.prompt_text(now));
            self.output.push_str(&drawn);
        }
    }

    fn prompt_text(&self, now: Duration) -> String {
        match &self.state {
            State::Login => "Secret: ".to_owned(),
            State::Prompt => match self.unconfirmed_until {
                Some(until) => {
                    let seconds = until.saturating_sub(now).as_millis().div_ceil(1000);
                    format!("avr (addresses: confirm within {seconds} s)> ")
                }
                None => "avr> ".to_owned(),
            },
            State::Asking(spec, given) => spec
                .parameters
                .get(given.len())
                .map_or_else(String::new, |parameter| format!("{}: ", parameter.question)),
            State::Confirming(_) => "Type yes to go on: ".to_owned(),
            State::TypingSerial => "Type the box's serial number to go on: ".to_owned(),
            State::NewSecret(None) => "New secret: ".to_owned(),
            State::NewSecret(Some(_)) => "Again: ".to_owned(),
            _ => String::new(),
        }
    }
}

#[cfg(test)]
mod tests;
