//! Sites made by their commands alone, and traffic that moves as they join, are drained, and leave.

use std::{fs, path::Path, process::Command, time::Duration};

use anyhow::{Context, Result, bail, ensure};

use crate::{Lab, Options, clock, evidence::Way, netns::run_command, plan::DNS, scenarios};

/// Longest that traffic may take to move: the TTL, and the time until the box has seen to it.
const MOVED_MAX: Duration = Duration::from_secs(60);
/// Folders of the machine that every machine of the lab needs its own part of.
const SHARED_FOLDERS: [&str; 2] = ["/etc", "/var/lib"];

/// A line of the table.
#[derive(Debug, Clone)]
pub struct Step {
    /// What was done.
    pub what: String,
    /// The way of the mail that was sent then, if one was.
    pub way: Option<Way>,
    /// How long it took.
    pub took: Duration,
    /// What was seen, in a few words.
    pub seen: String,
}

/// Makes the two sites, one after the other, and lets them come and go; each step is shown as it is
/// done.
///
/// # Errors
/// When a command fails, or traffic does not move.
pub fn run_all(lab: &mut Lab, mut show: impl FnMut(&Step)) -> Result<()> {
    give_own_folders(lab.root())?;
    lab.list_sites(|_| false)?;
    lab.make_fleet()?;
    let mut step = |what: &str, work: &mut dyn FnMut() -> Result<(Option<Way>, String)>| {
        let start = clock::now();
        let (way, seen) = work().with_context(|| what.to_owned())?;
        show(&Step { what: what.to_owned(), way, took: start.elapsed(), seen });
        anyhow::Ok(())
    };
    step("tokyo: bundles, init, forwards", &mut || made(lab, "tokyo"))?;
    step("the box starts; no site in DNS", &mut || {
        lab.start_box(Options::default())?;
        moved(lab, None)
    })?;
    step("tokyo joins", &mut || changed(lab, "tokyo", "join"))?;
    step("  a mail", &mut || moved(lab, Some("tokyo")))?;
    step("osaka: the same again", &mut || made(lab, "osaka"))?;
    step("osaka joins", &mut || changed(lab, "osaka", "join"))?;
    step("tokyo is drained", &mut || drained(lab, "tokyo", &["drain"]))?;
    step("  a mail", &mut || moved(lab, Some("osaka")))?;
    step("tokyo has nothing left", &mut || drained(lab, "tokyo", &["drain", "--wait"]))?;
    step("tokyo is back, osaka drained", &mut || {
        drained(lab, "tokyo", &["undrain"])?;
        drained(lab, "osaka", &["drain"])
    })?;
    step("  a mail", &mut || moved(lab, Some("tokyo")))?;
    step("osaka is back", &mut || drained(lab, "osaka", &["undrain"]))?;
    step("tokyo leaves", &mut || changed(lab, "tokyo", "leave"))?;
    step("  a mail", &mut || moved(lab, Some("osaka")))?;
    step("tokyo joins again", &mut || changed(lab, "tokyo", "join"))?;
    step("osaka leaves", &mut || changed(lab, "osaka", "leave"))?;
    step("  a mail", &mut || moved(lab, Some("tokyo")))?;
    step("tokyo leaves, as the last", &mut || match changed(lab, "tokyo", "leave") {
        Ok((_, said)) => bail!("the last manager was let go: {said}"),
        Err(error) => {
            let said = format!("{error:#}");
            ensure!(said.contains("write --last"), "refused for another reason: {said}");
            Ok((None, "refused: no site would be left".to_owned()))
        }
    })?;
    step("  a mail", &mut || moved(lab, Some("tokyo")))
}

fn made(lab: &mut Lab, site: &str) -> Result<(Option<Way>, String)> {
    lab.make_site(site)?;
    let said = lab.check_site(site)?;
    let last = said.lines().last().unwrap_or_default();
    Ok((None, format!("check: {last}")))
}

fn changed(lab: &mut Lab, site: &str, verb: &str) -> Result<(Option<Way>, String)> {
    let said = lab.change_dns(site, verb)?;
    let seen = said.lines().find(|line| line.contains(" at ns.")).unwrap_or_default();
    Ok((None, seen.to_owned()))
}

fn drained(lab: &mut Lab, site: &str, verb: &[&str]) -> Result<(Option<Way>, String)> {
    let said = lab.drain_site(site, verb)?;
    Ok((None, said.lines().last().unwrap_or_default().to_owned()))
}

/// Sends mails until one goes by way of that site, or of none.
fn moved(lab: &Lab, site: Option<&str>) -> Result<(Option<Way>, String)> {
    let start = clock::now();
    let mut mails = 0;
    loop {
        mails += 1;
        let done = scenarios::short_out(lab, &format!("Mail {mails}"))?;
        if done.way.site() == site {
            let seen = match mails {
                1 => done.seen,
                _ => format!("{}, behind {} by the way before", done.seen, mails - 1),
            };
            return Ok((Some(done.way), seen));
        }
        ensure!(start.elapsed() < MOVED_MAX, "mails still go by way of {}", done.way);
    }
}

/// Lays a file system of the lab's own over folders of the machine: nothing that the commands write
/// reaches it, and what is there stays readable.
fn give_own_folders(root: &Path) -> Result<()> {
    for folder in SHARED_FOLDERS {
        let own = root.join("own").join(folder.trim_start_matches('/').replace('/', "-"));
        let (upper, work) = (own.join("upper"), own.join("work"));
        fs::create_dir_all(&upper)?;
        fs::create_dir_all(&work)?;
        let options =
            format!("lowerdir={folder},upperdir={},workdir={}", upper.display(), work.display());
        run_command(
            Command::new("mount").args(["-t", "overlay", "overlay", "-o", &options, folder]),
        )?;
    }
    for folder in ["/etc/avr", "/var/lib/avr-auther", "/var/lib/avr-proxy"] {
        fs::create_dir_all(folder)?;
    }
    // Covered by the overlay; a link where the machine has one.
    let _ = fs::remove_file("/etc/resolv.conf");
    Ok(fs::write("/etc/resolv.conf", format!("nameserver {DNS}\n"))?)
}
