//! The servers of a relay site on one core: how many assignments a manager gives, and what sessions
//! cost a proxy beside HAProxy and nginx.
//!
//! The two programs that measure are examples beside the servers' code, for they speak as boxes do;
//! here they are started on their cores, round by round, one arm after the other.
#![allow(clippy::print_stdout, reason = "what a person waits for goes to standard output")]

use std::{
    fmt::Write as _,
    path::{Path, PathBuf},
    process::Stdio,
};

use anyhow::{Context, Result, ensure};
use e2e::{Netns, clock};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use serde_json::json;

use crate::{
    chart::{self, Bar},
    cli::{Sites, own_directory},
    machine::{Cores, LOAD_MAX, Machine, load_average},
    run::write_file,
    stats::Spread,
};

/// Rounds of a full measurement unless asked for otherwise.
const ROUNDS: u32 = 3;
/// Packages whose versions matter.
const PACKAGES: [&str; 2] = ["haproxy", "nginx-light"];
/// Where the tree keeps the last published results.
const PUBLISHED: &str = env!("CARGO_MANIFEST_DIR");
/// Files that a program may have open, if the machine allows it: enough for the full plan.
const FILES_MAX: u64 = 32_768;
/// Of these, for all but sessions and boxes.
const FILES_BESIDE: u64 = 512;
/// Boxes that ask without a pause.
const ASKING: usize = 64;

/// What a reader must know to read the figures rightly.
const LABELS: &str = "\
How it was measured
- Everything on one machine's loopback: the program that is measured has a core of its own, and clients,
  mail server and played proxies share another. Rounds go through all arms, one after the other; figures
  are medians of the rounds, rates and processor time with the least and the most.
- CPU is user's and system's of the measured program with its children, as the kernel counts it, so the
  kernel's work for its sockets is in it. Where the clients' core is the slower one, the rate by the clock
  is theirs, and what counts is the figure for a second of CPU.
- A manager's box has a TLS link and a ticket of its own. Assignments are asked one after the other by 64 of
  the boxes, each with a bye behind it; the p99 is that of the second measurement, at half of the first's
  rate. Memory is resident memory of the connected boxes, one of them subtracted, by their number.
- A session is a new connection to the proxy (a whole TLS 1.3 handshake where there is TLS, with a client's
  certificate and a ticket for avr-proxy, and without either for the others), one to the mail server, its
  greeting, QUIT and both ends. Streams are 8 sessions of mails one after the other.
- avr-proxy \"unread\" is with scan.mode = \"off\", which does what the others do; \"scanned\" takes every mail
  apart and looks at it, by its own rules, in a worker that is on the same core and counted.
- Logs are at warnings. HAProxy has one thread, nginx one process; both are as Debian has them.
- A stuck session sends a mail to a server that does not read any more, until nobody takes a byte. What it
  got rid of is in the kernel's buffers of both connections, and in the proxy; the memory is the proxy's.

Not compared: sessions over warm connections, which a box keeps so that no handshake is waited for; lines
with delay; more than one core.
";

/// What is measured, in the order of a round.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Arm {
    Avr,
    AvrUnread,
    HaproxyTcp,
    HaproxyTls,
    NginxTls,
}

impl Arm {
    const ALL: [Self; 5] =
        [Self::AvrUnread, Self::Avr, Self::HaproxyTls, Self::NginxTls, Self::HaproxyTcp];

    fn argument(self) -> &'static str {
        match self {
            Self::Avr => "avr",
            Self::AvrUnread => "avr-unread",
            Self::HaproxyTcp => "haproxy-tcp",
            Self::HaproxyTls => "haproxy-tls",
            Self::NginxTls => "nginx-tls",
        }
    }

    fn title(self) -> &'static str {
        match self {
            Self::Avr => "avr-proxy, scanned",
            Self::AvrUnread => "avr-proxy, unread",
            Self::HaproxyTcp => "HAProxy, TCP",
            Self::HaproxyTls => "HAProxy, TLS",
            Self::NginxTls => "nginx stream, TLS",
        }
    }

    fn is_ours(self) -> bool {
        matches!(self, Self::Avr | Self::AvrUnread)
    }
}

/// How much is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
struct Plan {
    boxes: usize,
    sessions: usize,
    stuck: usize,
    seconds: u64,
    mail_bytes: usize,
}

impl Plan {
    const FULL: Self =
        Self { boxes: 20_000, sessions: 10_000, stuck: 500, seconds: 5, mail_bytes: 1 << 20 };
    const QUICK: Self =
        Self { boxes: 1_000, sessions: 500, stuck: 20, seconds: 1, mail_bytes: 1 << 20 };

    /// As many as there can be sockets for: two a session, in the proxy as in the program beside it.
    fn fitting(self, files_max: u64) -> Self {
        let room = usize::try_from(files_max.saturating_sub(FILES_BESIDE)).unwrap_or(usize::MAX);
        Self { boxes: self.boxes.min(room), sessions: self.sessions.min(room / 2), ..self }
    }
}

/// What one run of the proxies' program says.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
struct Proxied {
    proxy: Arm,
    sessions_per_s: f64,
    sessions_per_cpu_s: f64,
    mail_bytes: usize,
    bytes_per_s: f64,
    cpu_s_per_gb: f64,
    idle_sessions: usize,
    idle_kib: f64,
    resident_kib: u64,
    stuck_sessions: usize,
    stuck_kib: f64,
    stuck_taken_bytes: u64,
}

/// What one run of the manager's program says.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
struct Managed {
    boxes: usize,
    resident_kib: u64,
    kib_per_box: f64,
    full: Asked,
    half: Asked,
}

/// Boxes that asked for a while.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
struct Asked {
    per_s: f64,
    per_cpu_s: f64,
    p50_ms: f64,
    p99_ms: f64,
}

/// All of it.
#[derive(Debug, Serialize)]
struct Results {
    machine: Machine,
    /// Of clients and servers, and of what is measured.
    cores: (String, String),
    rounds: u32,
    plan: Plan,
    load_average_max: f64,
    managed: Vec<Managed>,
    proxied: Vec<Proxied>,
    seconds: f64,
}

/// Does what was asked for. Only inside the namespaces.
pub(crate) fn measure(sites: &Sites) -> Result<()> {
    let start = clock::now();
    let machine = Machine::look_with(&PACKAGES)?;
    if machine.load_average > LOAD_MAX {
        println!(
            "WARNING: the load average is {:.1} before anything is started: this machine is busy \
             with something else, and the figures are worth little.",
            machine.load_average
        );
    }
    let (ends, middle) = Cores::all()?
        .shared_out()
        .context("a core for clients and one for what is measured: this machine has one")?;
    let wanted = if sites.quick { Plan::QUICK } else { Plan::FULL };
    let plan = wanted.fitting(files_max()?);
    if plan != wanted {
        println!("the hard limit of open files leaves room for fewer sessions and boxes only");
    }
    let mut results = Results {
        load_average_max: machine.load_average,
        machine,
        cores: (ends.list(), middle.first().to_string()),
        rounds: sites.rounds.unwrap_or(if sites.quick { 1 } else { ROUNDS }),
        plan,
        managed: Vec::new(),
        proxied: Vec::new(),
        seconds: 0.0,
    };
    let programs = sites.programs.clone().map_or_else(own_directory, Ok)?.join("examples");
    let stage = Stage { netns: Netns::create("bench")?, programs, ends, core: middle.first() };
    for round in 1..=results.rounds {
        println!("\nround {round} of {}", results.rounds);
        let managed = stage.managed(&plan)?;
        println!("{}", managed_line(&managed));
        results.managed.push(managed);
        for arm in Arm::ALL {
            let proxied = stage.proxied(arm, &plan)?;
            println!("{}", proxied_line(&proxied));
            results.proxied.push(proxied);
            results.load_average_max = results.load_average_max.max(load_average()?);
        }
    }
    results.seconds = start.elapsed().as_secs_f64();
    write(sites, &results)
}

/// How many files a program may have open; what is started inherits it.
fn files_max() -> Result<u64> {
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    let wanted = hard.max(FILES_MAX);
    // Without CAP_SYS_RESOURCE it stays as it is.
    Ok(setrlimit(Resource::RLIMIT_NOFILE, wanted, wanted).map_or(hard, |()| wanted))
}

/// Where the programs run.
struct Stage {
    netns: Netns,
    programs: PathBuf,
    ends: Cores,
    core: usize,
}

impl Stage {
    fn managed(&self, plan: &Plan) -> Result<Managed> {
        let (boxes, asking) = (plan.boxes.to_string(), ASKING.to_string());
        self.run("load", plan, &["--json", "--boxes", &boxes, "--asking", &asking])
    }

    fn proxied(&self, arm: Arm, plan: &Plan) -> Result<Proxied> {
        let numbers = [plan.sessions, plan.stuck, plan.mail_bytes].map(|number| number.to_string());
        let [sessions, stuck, bytes] = &numbers;
        let arguments =
            ["--sessions", sessions, "--stuck", stuck, "--mail-bytes", bytes, "--proxy"];
        self.run("sessions", plan, &[&arguments[..], &[arm.argument()]].concat())
    }

    /// Runs one of the two programs, and takes what it says.
    fn run<T: DeserializeOwned>(
        &self,
        program: &str,
        plan: &Plan,
        arguments: &[&str],
    ) -> Result<T> {
        let path = self.programs.join(program);
        ensure!(path.exists(), "no {}: scripts/bench builds it", path.display());
        let mut command = self.netns.command("taskset");
        command.args(["-c", &self.ends.list()]).arg(&path).args(arguments);
        command.args(["--core", &self.core.to_string(), "--seconds", &plan.seconds.to_string()]);
        command.stdin(Stdio::null()).stderr(Stdio::inherit());
        let output = command.output().with_context(|| format!("cannot run {command:?}"))?;
        ensure!(output.status.success(), "{command:?} ended with {}", output.status);
        serde_json::from_slice(&output.stdout)
            .with_context(|| format!("{command:?} said something else than its figures"))
    }
}

fn managed_line(one: &Managed) -> String {
    format!(
        "  {:<20} {:>8.0} assignments/s, {:>8.0} a CPU s; p99 at half load {:.2} ms; {:.1} KiB a box",
        "avr-manager", one.full.per_s, one.full.per_cpu_s, one.half.p99_ms, one.kib_per_box
    )
}

fn proxied_line(one: &Proxied) -> String {
    format!(
        "  {:<20} {:>6.0} sessions a CPU s, {:>7.1} MB/s, {:>6.2} CPU s/GB, {:>6.1} KiB idle, {:>6.0} stuck",
        one.proxy.title(),
        one.sessions_per_cpu_s,
        one.bytes_per_s / 1e6,
        one.cpu_s_per_gb,
        one.idle_kib,
        one.stuck_kib
    )
}

impl Results {
    /// A figure of an arm, over the rounds.
    fn proxied(&self, arm: Arm, figure: impl Fn(&Proxied) -> f64) -> Option<Spread> {
        Spread::of(self.proxied.iter().filter(|one| one.proxy == arm).map(figure))
    }

    fn managed(&self, figure: impl Fn(&Managed) -> f64) -> Option<Spread> {
        Spread::of(self.managed.iter().map(figure))
    }
}

/// Prints the tables, and writes the files.
fn write(sites: &Sites, results: &Results) -> Result<()> {
    let text = text(results);
    println!("\n{text}");
    let out = sites.out()?;
    let (chart, all) = (draw(results), serde_json::to_string_pretty(results)?);
    write_file(&out.join("sites.json"), &all)?;
    write_file(&out.join("sites.svg"), &chart)?;
    println!("\nwritten: {}", out.join("sites.{json,svg}").display());
    if sites.publish {
        let folder = Path::new(PUBLISHED);
        ensure!(folder.exists(), "{} is not there: publish from the tree", folder.display());
        write_file(&folder.join("SITES.md"), &published(results, &text))?;
        write_file(&folder.join("sites.svg"), &chart)?;
        println!("published: {} and sites.svg", folder.join("SITES.md").display());
    }
    Ok(())
}

fn published(results: &Results, text: &str) -> String {
    let rows: Vec<String> = results.managed.iter().map(|one| json!(one).to_string()).collect();
    let more: Vec<String> = results.proxied.iter().map(|one| json!(one).to_string()).collect();
    format!(
        "# The servers of a site on one core\n\nWritten by `scripts/bench sites --publish`.\n\n\
         ![Sessions and bytes a second of CPU, and memory](sites.svg)\n\n```text\n{text}```\n\n\
         The same for programs, each run a line.\n\n```json\n[\n{}\n]\n```\n",
        [rows, more].concat().join(",\n")
    )
}

/// Everything, for people.
fn text(results: &Results) -> String {
    let Results { machine, cores, plan, .. } = results;
    let mut text = format!(
        "The servers of a site on one core, rounds: {}, minutes: {:.0}\n\
         {}, {} cores (clients and mail server on {}, what is measured on {}), {} MiB, Linux {}\n\
         load average {:.1} at the start, at most {:.1} during it\n{}\n",
        results.rounds,
        results.seconds / 60.0,
        machine.processor,
        machine.cores,
        cores.0,
        cores.1,
        machine.memory_mib,
        machine.kernel,
        machine.load_average,
        results.load_average_max,
        machine.packages.join(", "),
    );
    let _ = writeln!(text, "\navr-manager, {} boxes connected", plan.boxes);
    let shown = |spread: Option<Spread>, digits: usize| {
        spread.map_or("-".to_owned(), |Spread { median, min, max }| {
            format!("{median:.digits$} ({min:.digits$}–{max:.digits$})")
        })
    };
    for (name, figure, digits) in [
        ("assignments/s", results.managed(|one| one.full.per_s), 0),
        ("assignments a CPU s", results.managed(|one| one.full.per_cpu_s), 0),
        ("p99 at half of that load, ms", results.managed(|one| one.half.p99_ms), 2),
        ("KiB a connected idle box", results.managed(|one| one.kib_per_box), 1),
    ] {
        let _ = writeln!(text, "  {name:<32} {}", shown(figure, digits));
    }
    let _ = writeln!(
        text,
        "\nProxies, mails of {} bytes, {} sessions at once, {} of them stuck\n  {:<20} {:>20} {:>10} \
         {:>20} {:>9} {:>9} {:>10} {:>11}",
        plan.mail_bytes,
        plan.sessions,
        plan.stuck,
        "",
        "sessions a CPU s",
        "sessions/s",
        "CPU s/GB",
        "MB/s",
        "KiB idle",
        "KiB stuck",
        "MB taken",
    );
    for arm in Arm::ALL {
        let middle = |figure: fn(&Proxied) -> f64, digits: usize| {
            let spread = results.proxied(arm, figure);
            spread.map_or("-".to_owned(), |spread| format!("{:.digits$}", spread.median))
        };
        let _ = writeln!(
            text,
            "  {:<20} {:>20} {:>10} {:>20} {:>9} {:>9} {:>10} {:>11}",
            arm.title(),
            shown(results.proxied(arm, |one| one.sessions_per_cpu_s), 0),
            middle(|one| one.sessions_per_s, 0),
            shown(results.proxied(arm, |one| one.cpu_s_per_gb), 2),
            middle(|one| one.bytes_per_s / 1e6, 0),
            middle(|one| one.idle_kib, 1),
            middle(|one| one.stuck_kib, 0),
            middle(|one| one.stuck_taken_bytes as f64 / 1e6, 2),
        );
    }
    text + "\n" + LABELS
}

/// What is drawn of an arm.
type Figure = fn(&Proxied) -> f64;

/// The picture, as SVG.
fn draw(results: &Results) -> String {
    let panels: [(&str, Figure); 4] = [
        ("Sessions set up and ended in a second of CPU", |one| one.sessions_per_cpu_s),
        ("MB carried in a second of CPU", |one| 1e3 / one.cpu_s_per_gb),
        ("KiB for an idle session", |one| one.idle_kib),
        ("KiB more for a session whose server does not read", |one| one.stuck_kib),
    ];
    let (mut body, mut top) = (String::new(), 0.0);
    for (title, figure) in panels {
        let bars = Arm::ALL.into_iter().filter_map(|arm| {
            let spread = results.proxied(arm, figure)?;
            Some(Bar { name: arm.title(), spread, is_ours: arm.is_ours() })
        });
        let title = format!("{title}: median, least and most");
        top = chart::panel(&mut body, top, &title, &bars.collect::<Vec<_>>());
    }
    chart::svg(&body, top)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn results() -> Results {
        let asked = Asked { per_s: 9e3, per_cpu_s: 1e4, p50_ms: 0.5, p99_ms: 1.5 };
        let managed = |kib_per_box| Managed {
            boxes: 20_000,
            resident_kib: 1,
            kib_per_box,
            full: asked,
            half: asked,
        };
        let proxied = |proxy, sessions_per_cpu_s| Proxied {
            proxy,
            sessions_per_s: 500.0,
            sessions_per_cpu_s,
            mail_bytes: 1 << 20,
            bytes_per_s: 2e8,
            cpu_s_per_gb: 2.5,
            idle_sessions: 10_000,
            idle_kib: 40.0,
            resident_kib: 400_000,
            stuck_sessions: 500,
            stuck_kib: 200.0,
            stuck_taken_bytes: 3_000_000,
        };
        let rounds = [1_000.0, 1_200.0, 900.0];
        Results {
            machine: Machine::look_with(&PACKAGES).unwrap(),
            cores: ("0".to_owned(), "1".to_owned()),
            rounds: 3,
            plan: Plan::FULL,
            load_average_max: 1.0,
            managed: vec![managed(18.0), managed(20.0), managed(19.0)],
            proxied: rounds
                .into_iter()
                .flat_map(|rate| Arm::ALL.map(|arm| proxied(arm, rate)))
                .collect(),
            seconds: 60.0,
        }
    }

    #[test]
    fn what_is_shown_is_the_middle_of_the_rounds() {
        let text = text(&results());
        assert!(text.contains("KiB a connected idle box         19.0 (18.0–20.0)\n"), "{text}");
        for arm in Arm::ALL {
            let line = text.lines().find(|line| line.trim_start().starts_with(arm.title()));
            assert!(line.unwrap().contains(" 1000 (900–1200) "), "{text}");
        }
    }

    #[test]
    fn every_run_is_published_and_every_arm_drawn() {
        let results = results();
        let published = published(&results, "the text\n");
        let start = published.find("```json\n").unwrap() + 8;
        let json = published[start..].strip_suffix("\n```\n").unwrap();
        let rows: Vec<serde_json::Value> = serde_json::from_str(json).unwrap();
        assert_eq!(rows.len(), 3 + 3 * Arm::ALL.len());
        let svg = draw(&results);
        for arm in Arm::ALL {
            assert_eq!(svg.matches(&format!(">{}<", arm.title())).count(), 4, "{arm:?}");
        }
    }

    #[test]
    fn a_plan_has_no_more_sockets_than_there_may_be() {
        assert_eq!(Plan::FULL.fitting(FILES_MAX), Plan::FULL);
        let few = Plan::FULL.fitting(20_000);
        assert_eq!((few.boxes, few.sessions), (19_488, 9_744));
        assert_eq!(Plan::FULL.fitting(0).sessions, 0);
    }

    #[test]
    fn arms_are_called_as_the_program_calls_them() {
        for arm in Arm::ALL {
            assert_eq!(json!(arm), json!(arm.argument()));
        }
    }
}
