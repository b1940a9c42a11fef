//! The figures: each measured beside the direct connection (the same box as a plain bridge) in the
//! same run. A figure that misses its target says so; that is news, not an error.

use std::{fs, net::Ipv4Addr, time::Duration};

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use crate::{
    Lab, Options,
    capture::{Capture, Direction, Ends, Segment, round_trips, waited_for},
    daemon::Daemon,
    failures::relay_in_use,
    netns::run_command,
    plan::{BOX, BULK_PORT, MAIL, MANAGER_PORT, PC, POP3_PORT, pop3_server},
    pop3,
    site::{Part, Site},
};

/// Sessions of which the median is taken.
const SAMPLES: usize = 11;
/// Sessions, one after the other, of which the slowest counts while a failure is being found out: the
/// first may still have a proxy that was named before.
const FINDING_OUT_SESSIONS: usize = 5;
/// Sessions that do nothing.
const IDLE_SESSIONS: usize = 1_000;
/// Most memory that they may cost, in KiB.
const IDLE_KIB_MAX: u64 = 64 * 1024;
/// Latest first byte with an unknown dead manager, beyond that with it alive.
const UNKNOWN_DEAD_MAX: Duration = Duration::from_millis(500);
/// Latest first byte of the first session with everything dead.
const ALL_DEAD_FIRST_MAX: Duration = Duration::from_millis(5_500);
/// Latest first byte of the sessions after it, beyond direct.
const ALL_DEAD_LATER_MAX: Duration = Duration::from_millis(50);
/// Two medians that differ by less are the same: what one measures twice differs so.
const NOISE: Duration = Duration::from_millis(5);
/// Extra round trips to the site that a warm session may cost.
const EXTRA_TRIPS_MAX: usize = 1;
/// Least speed of bulk data through the interceptor on one core.
const BULK_GBIT_MIN: f64 = 1.0;
/// How long bulk data flows each way, in seconds.
const BULK_SECONDS: u32 = 4;

/// One figure.
#[derive(Debug, Clone)]
pub struct Figure {
    pub name: &'static str,
    /// With the box.
    pub measured: String,
    /// Without it, or in the normal case.
    pub beside: String,
    pub target: String,
    pub reached: bool,
}

/// Measures all, and calls `show` with each as it is known. Needs a lab whose product runs; leaves
/// it so.
///
/// # Errors
/// When something cannot be measured at all.
pub fn measure_all(lab: &mut Lab, mut show: impl FnMut(&Figure)) -> Result<()> {
    lab.stop_box()?;
    let direct = first_bytes(lab, SAMPLES)?;
    let direct_trips = trips_to(lab, &[MAIL], |_| Ok(()))?;
    lab.start_box(Options::default())?;
    lab.wait_relaying()?;
    let manager =
        ["first byte, first manager dead, not known yet", "first byte, first manager known dead"];
    let site = ["first byte, first site gone, not known yet", "first byte, first site known gone"];
    for figure in one_dead(lab, direct, manager, |site| site.silence(Part::Manager))? {
        show(&figure);
    }
    for figure in one_dead(lab, direct, site, Site::cut)? {
        show(&figure);
    }
    for figure in all_sites_dead(lab, direct)? {
        show(&figure);
    }
    show(&warm_round_trips(lab, direct_trips)?);
    show(&idle_memory(lab)?);
    for figure in bulk(lab)? {
        show(&figure);
    }
    lab.start_box(Options::default())?;
    lab.wait_relaying()
}

/// Something of the site in use goes silent: the sessions that find out, and those after them.
fn one_dead(
    lab: &mut Lab,
    direct: Duration,
    names: [&'static str; 2],
    silence: fn(&Site) -> Result<()>,
) -> Result<[Figure; 2]> {
    lab.wait_relaying()?;
    let alive = first_bytes(lab, SAMPLES)?;
    let (site, _) = relay_in_use(lab)?;
    lab.wait_relaying()?;
    silence(lab.site(&site)?)?;
    let mut finding_out = Duration::ZERO;
    for _ in 0..FINDING_OUT_SESSIONS {
        finding_out = finding_out.max(first_bytes(lab, 1)?);
    }
    let known = first_bytes(lab, SAMPLES)?;
    lab.restore_sites()?;
    let beside = format!("alive {}, direct {}", ms(alive), ms(direct));
    Ok([
        Figure {
            name: names[0],
            measured: ms(finding_out),
            beside: beside.clone(),
            target: format!("at most {} later than alive", ms(UNKNOWN_DEAD_MAX)),
            reached: finding_out <= alive + UNKNOWN_DEAD_MAX,
        },
        Figure {
            name: names[1],
            measured: ms(known),
            beside,
            target: "not later than alive".to_owned(),
            reached: known <= alive + NOISE,
        },
    ])
}

/// Both sites go dead without a word.
fn all_sites_dead(lab: &mut Lab, direct: Duration) -> Result<[Figure; 2]> {
    lab.wait_relaying()?;
    for site in lab.sites() {
        site.cut()?;
    }
    let finding_out = first_bytes(lab, 1)?;
    let known = first_bytes(lab, SAMPLES)?;
    lab.restore_sites()?;
    lab.wait_relaying()?;
    let beside = format!("direct {}", ms(direct));
    Ok([
        Figure {
            name: "first byte, everything dead, first session",
            measured: ms(finding_out),
            beside: beside.clone(),
            target: format!("at most {}", ms(ALL_DEAD_FIRST_MAX)),
            reached: finding_out <= ALL_DEAD_FIRST_MAX,
        },
        Figure {
            name: "first byte, everything dead, later sessions",
            measured: ms(known),
            beside,
            target: format!("under {} more than direct", ms(ALL_DEAD_LATER_MAX)),
            reached: known < direct + ALL_DEAD_LATER_MAX,
        },
    ])
}

/// Round trips to the site from the client's SYN to the banner's first byte, counted on the wire.
fn warm_round_trips(lab: &mut Lab, direct: usize) -> Result<Figure> {
    // Any of them: on a busy machine a site may be passed over for a moment.
    let sites: Vec<Ipv4Addr> = lab.sites().iter().map(Site::public).collect();
    let by_site = trips_to(lab, &sites, Lab::wait_warm)?;
    Ok(Figure {
        name: "round trips to a warm site, SYN to banner",
        measured: by_site.to_string(),
        beside: format!("direct {direct}"),
        target: format!("at most {EXTRA_TRIPS_MAX} more than direct"),
        reached: by_site <= direct + EXTRA_TRIPS_MAX,
    })
}

/// What sessions that do nothing cost the box in resident memory.
///
/// # Errors
/// When one of them is lost.
pub fn idle_memory(lab: &Lab) -> Result<Figure> {
    let id = lab.gateway().id().context("the box does not run")?;
    let relayed_before = counter(lab, "/counters/sessions_relay")?;
    let before = resident_kib(id)?;
    let during = lab.pc().within(|| -> Result<u64> {
        let mut sessions = Vec::with_capacity(IDLE_SESSIONS);
        for number in 0..IDLE_SESSIONS {
            let session = pop3::Session::open(pop3_server());
            sessions.push(session.with_context(|| format!("idle session {number}"))?);
        }
        let during = resident_kib(id)?;
        // They are all still there, or the figure is worth nothing.
        for session in &mut sessions {
            session.command("CAPA").context("an idle session was lost")?;
        }
        Ok(during)
    })??;
    let cost = during.saturating_sub(before);
    let relayed = counter(lab, "/counters/sessions_relay")? - relayed_before;
    Ok(Figure {
        name: "memory of 1,000 idle intercepted sessions",
        measured: format!("{} MiB, {relayed} of them by relay", cost / 1024),
        beside: format!("{} MiB with none", before / 1024),
        target: format!("at most {} MiB more", IDLE_KIB_MAX / 1024),
        reached: cost <= IDLE_KIB_MAX,
    })
}

/// Bulk data both ways through a mail port, unread, `avr` on one core; beside it the plain bridge,
/// and HAProxy where it is installed. Leaves a plain bridge.
///
/// # Errors
/// When data does not get through, or not by way of the interceptor.
pub fn bulk(lab: &mut Lab) -> Result<Vec<Figure>> {
    lab.stop_box()?;
    let bridge = [transfer(lab, MAIL, false)?, transfer(lab, MAIL, true)?];
    let haproxy = haproxy_transfers(lab)?;
    lab.start_box(Options { scan_off: true, route_direct: true, core: Some(0) })?;
    let id = lab.gateway().id().context("the box does not run")?;
    let mut figures = Vec::new();
    for (name, download, bridge, haproxy) in [
        ("bulk to the server, unscanned, one core", false, bridge[0], haproxy.map(|both| both[0])),
        ("bulk to the client, unscanned, one core", true, bridge[1], haproxy.map(|both| both[1])),
    ] {
        let taken_before = counter(lab, "/flows/taken")?;
        let cpu_before = cpu_seconds(id)?;
        let gbit = transfer(lab, MAIL, download)?;
        let cpu = cpu_seconds(id)? - cpu_before;
        ensure!(counter(lab, "/flows/taken")? > taken_before, "the bulk data was not intercepted");
        let gigabytes = gbit * f64::from(BULK_SECONDS) / 8.0;
        let haproxy =
            haproxy.map_or("not installed".to_owned(), |gbit| format!("{gbit:.1} Gbit/s"));
        figures.push(Figure {
            name,
            measured: format!("{gbit:.1} Gbit/s, {:.2} CPU s/GB", cpu / gigabytes),
            beside: format!("plain bridge {bridge:.1} Gbit/s, HAProxy {haproxy}"),
            target: format!("at least {BULK_GBIT_MIN} Gbit/s"),
            reached: gbit >= BULK_GBIT_MIN,
        });
    }
    lab.stop_box()?;
    Ok(figures)
}

/// The median time to the banner's first byte, of so many sessions one after the other.
fn first_bytes(lab: &Lab, samples: usize) -> Result<Duration> {
    let mut times = lab.pc().within(|| -> Result<Vec<Duration>> {
        let one = |_| {
            let session = pop3::Session::open(pop3_server())?;
            let first_byte = session.first_byte;
            session.quit()?;
            Ok(first_byte)
        };
        (0..samples).map(one).collect()
    })??;
    Ok(median(&mut times))
}

/// The median of round trips between the box's uplink and one of `peers` for one session, from the client's
/// SYN to the banner's first byte. `ready` is called before each.
///
/// # Errors
/// When there is no session, or it is not on the wire.
pub fn trips_to(
    lab: &Lab,
    peers: &[Ipv4Addr],
    ready: impl Fn(&Lab) -> Result<()>,
) -> Result<usize> {
    let mut trips = Vec::new();
    let mut misread = 0;
    while trips.len() < SAMPLES {
        ready(lab)?;
        let netns = lab.gateway().netns();
        let client = Capture::start(netns, "lan0", lab.root(), lab.logs())?;
        let uplink = Capture::start(netns, "wan0", lab.root(), lab.logs())?;
        first_bytes(lab, 1)?;
        let client = client.finish_after("the goodbye on the wire", is_goodbye)?;
        let (start, banner, goodbye) = moments(&client)?;
        // A manager is asked for the next session's proxy at the same time, on a connection of its own.
        let asks = |segment: &Segment| {
            let to_peer = peers.contains(segment.to.ip()) && segment.to.port() != MANAGER_PORT;
            to_peer && segment.payload_bytes > 0
        };
        let follows = |segment: &Segment| segment.time > goodbye && asks(segment);
        let uplink = uplink.finish_after("the goodbye on the uplink", follows)?;
        let carrier = carrier(&uplink, follows).context("nothing carried the goodbye")?;
        let between: Vec<_> =
            uplink.into_iter().filter(|segment| (start..=banner).contains(&segment.time)).collect();
        let direction = |segment: &Segment| {
            if peers.contains(segment.to.ip()) {
                Direction::Out
            } else if peers.contains(segment.from.ip()) {
                Direction::In
            } else {
                Direction::Other
            }
        };
        let waited = round_trips(&waited_for(&between, carrier, direction), direction);
        // No banner comes unasked: something else that followed the goodbye was read.
        if waited == 0 {
            misread += 1;
            ensure!(misread < SAMPLES, "the connection that carries a session is not to be seen");
            continue;
        }
        trips.push(waited);
    }
    Ok(median(&mut trips))
}

/// The connection that carried the session: that of the goodbye. One made while the capture ran is
/// another's, the next session's, unless there is no other.
fn carrier(segments: &[Segment], follows: impl Fn(&Segment) -> bool) -> Option<Ends> {
    let made_now = |ends: Ends| segments.iter().any(|other| other.syn && other.ends() == ends);
    let candidates = || segments.iter().filter(|segment| follows(segment)).map(Segment::ends);
    candidates().find(|&ends| !made_now(ends)).or_else(|| candidates().next())
}

/// When the PC asked for a POP3 connection, had the banner's first byte, and said goodbye.
fn moments(segments: &[Segment]) -> Result<(Duration, Duration, Duration)> {
    let find = |what: fn(&Segment) -> bool| segments.iter().find(|segment| what(segment));
    let syn = find(|segment| segment.syn && is_asking(segment)).context("no SYN on the wire")?;
    let banner = find(|segment| {
        segment.payload_bytes > 0 && *segment.to.ip() == PC && segment.from.port() == POP3_PORT
    });
    let goodbye = find(is_goodbye).context("no goodbye on the wire")?;
    Ok((syn.time, banner.context("no banner on the wire")?.time, goodbye.time))
}

fn is_asking(segment: &Segment) -> bool {
    *segment.from.ip() == PC && segment.to.port() == POP3_PORT
}

/// The first thing that the client of [`first_bytes`] says.
fn is_goodbye(segment: &Segment) -> bool {
    segment.payload_bytes > 0 && is_asking(segment)
}

/// Sends bulk data from the PC to `server` (or back, for `download`); Gbit/s received.
///
/// # Errors
/// When it does not get through.
pub fn transfer(lab: &Lab, server: Ipv4Addr, download: bool) -> Result<f64> {
    let mut command = lab.mail_netns().command("iperf3");
    command.args(["--server", "--one-off", "--port", &BULK_PORT.to_string()]);
    let mut sink = Daemon::start("iperf3-server", command, lab.logs())?;
    sink.wait_until("iperf3 to listen", || {
        run_command(lab.mail_netns().command("ss").args([
            "-Hltn",
            "sport",
            "=",
            &format!(":{BULK_PORT}"),
        ]))
        .ok()
        .filter(|listeners| !listeners.is_empty())
    })?;
    let mut command = lab.pc().command("iperf3");
    command.args(["--json", "--port", &BULK_PORT.to_string(), "--client", &server.to_string()]);
    command.args(["--time", &BULK_SECONDS.to_string()]);
    if download {
        command.arg("--reverse");
    }
    let json: Value = serde_json::from_str(&run_command(&mut command)?)?;
    let speed = json["end"]["sum_received"]["bits_per_second"].as_f64();
    Ok(speed.context("iperf3 tells no speed")? / 1e9)
}

/// The same through HAProxy on the box, kernel TCP on both legs, on one core.
fn haproxy_transfers(lab: &Lab) -> Result<Option<[f64; 2]>> {
    if run_command(std::process::Command::new("which").arg("haproxy")).is_err() {
        return Ok(None);
    }
    let settings = lab.root().join("haproxy.cfg");
    fs::write(
        &settings,
        format!(
            "global\n nbthread 1\n\
             defaults\n mode tcp\n timeout connect 5s\n timeout client 60s\n timeout server 60s\n\
             listen bulk\n bind {BOX}:{BULK_PORT}\n option splice-auto\n server mail {MAIL}:{BULK_PORT}\n"
        ),
    )?;
    let mut command = lab.gateway().netns().command("taskset");
    command.args(["--cpu-list", "0", "haproxy", "-db", "-f"]).arg(&settings);
    let mut haproxy = Daemon::start("haproxy", command, lab.logs())?;
    haproxy.wait_listening(lab.gateway().netns(), (BOX, BULK_PORT).into())?;
    Ok(Some([transfer(lab, BOX, false)?, transfer(lab, BOX, true)?]))
}

/// A number in the box's status.
fn counter(lab: &Lab, pointer: &str) -> Result<u64> {
    let number = lab.status()?.pointer(pointer).and_then(Value::as_u64);
    number.with_context(|| format!("the status tells no {pointer}"))
}

/// Resident memory of a process, in KiB.
///
/// # Errors
/// When there is no such process.
pub fn resident_kib(id: u32) -> Result<u64> {
    let status = fs::read_to_string(format!("/proc/{id}/status"))?;
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).context("no VmRSS")?;
    let number = line.split_whitespace().nth(1).context("an empty VmRSS")?;
    Ok(number.parse()?)
}

/// Processor time that a process has used, its own and the kernel's for it.
fn cpu_seconds(id: u32) -> Result<f64> {
    /// Of `/proc/ID/stat`, on Linux always (proc(5), `USER_HZ`).
    const TICKS_PER_SECOND: f64 = 100.0;
    let stat = fs::read_to_string(format!("/proc/{id}/stat"))?;
    let (_, fields) = stat.rsplit_once(')').context("an odd /proc/ID/stat")?;
    let fields: Vec<_> = fields.split_whitespace().collect();
    let ticks = |index: usize| -> Result<f64> { Ok(fields.get(index).context("short")?.parse()?) };
    Ok((ticks(11)? + ticks(12)?) / TICKS_PER_SECOND)
}

fn median<T: Ord + Copy>(values: &mut [T]) -> T {
    values.sort_unstable();
    values[values.len() / 2]
}

fn ms(time: Duration) -> String {
    format!("{:.1} ms", time.as_secs_f64() * 1e3)
}
