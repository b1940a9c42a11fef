//! What stops, and that mail goes on: each step stops something, sends a mail, and checks its way.

use anyhow::{Result, bail, ensure};

use crate::{
    Lab, Options,
    evidence::{Snapshot, Way},
    plan::pop3_server,
    pop3,
    scenarios::{Done, short_out},
    site::Part,
};

/// The manager in use is killed: the next mail is relayed (its proxy was named before), and those
/// after it by way of another site.
///
/// # Errors
/// When they do not arrive so.
pub fn manager_killed(lab: &mut Lab) -> Result<Done> {
    let (site, _) = relay_in_use(lab)?;
    lab.wait_warm()?;
    lab.site(&site)?.kill(Part::Manager)?;
    let done = short_out(lab, "The manager in use is dead")?;
    check_relayed(&done)?;
    let later = short_out(lab, "Another manager is in use")?;
    ensure!(
        later.way.site().is_some_and(|other| other != site),
        "the manager of {site} is dead, but the way was {}",
        later.way
    );
    Ok(Done { seen: format!("{}; the next by way of {}", done.seen, later.way), ..done })
}

/// The proxy in use is killed: the mail goes by way of another proxy.
///
/// # Errors
/// When it does not arrive so.
pub fn proxy_killed(lab: &mut Lab) -> Result<Done> {
    let (site, proxy) = relay_in_use(lab)?;
    // Its twin goes first, or the next session might go there and prove nothing.
    let twin = 3 - proxy;
    lab.site(&site)?.kill(Part::Proxy(twin - 1))?;
    let done = short_out(lab, "One proxy is dead")?;
    check_relayed(&done)?;
    let (site, proxy) = relay_in_use(lab)?;
    lab.site(&site)?.kill(Part::Proxy(proxy - 1))?;
    let done = short_out(lab, "The proxy in use is dead")?;
    check_relayed(&done)?;
    ensure!(done.way != Way::Relay { site, proxy }, "a dead proxy carried a mail");
    Ok(done)
}

/// The line of the site in use goes dead without a word: the mail goes by way of the other site.
///
/// # Errors
/// When it does not arrive so.
pub fn site_stopped(lab: &mut Lab) -> Result<Done> {
    let (site, _) = relay_in_use(lab)?;
    lab.site(&site)?.cut()?;
    let done = short_out(lab, "The site in use is gone")?;
    ensure!(
        done.way.site().is_some_and(|other| other != site),
        "{site} is gone, but the way was {}",
        done.way
    );
    Ok(done)
}

/// All sites' lines are dead: the mail goes straight to its server.
///
/// # Errors
/// When it does not arrive so.
pub fn everything_stopped(lab: &mut Lab) -> Result<Done> {
    for site in lab.sites() {
        site.mend()?;
        site.cut()?;
    }
    let done = short_out(lab, "Every site is gone")?;
    ensure!(done.way == Way::Direct, "every site is gone, but the way was {}", done.way);
    Ok(done)
}

/// All sites run again: the box finds them by itself, and mail goes by way of one.
///
/// # Errors
/// When it does not.
pub fn everything_back(lab: &mut Lab) -> Result<Done> {
    lab.restore_sites()?;
    lab.wait_relaying()?;
    let done = short_out(lab, "Every site is back")?;
    check_relayed(&done)?;
    Ok(done)
}

/// The box's program is killed: mail crosses the plain bridge; started again, it intercepts again.
///
/// # Errors
/// When mail stops, or the program does not come back.
pub fn box_killed(lab: &mut Lab) -> Result<Done> {
    lab.kill_box()?;
    let done = short_out(lab, "The box's program is dead")?;
    ensure!(done.way == Way::Direct, "no program runs, but the way was {}", done.way);
    lab.start_box(Options::default())?;
    lab.wait_relaying()?;
    Ok(done)
}

/// The site and proxy that sessions go through now: that of one opened to see it.
///
/// # Errors
/// When they go through none.
pub fn relay_in_use(lab: &Lab) -> Result<(String, usize)> {
    let before = Snapshot::take(lab)?;
    lab.pc().within(|| pop3::Session::open(pop3_server())?.quit())??;
    match before.way_since(lab)? {
        Way::Relay { site, proxy } => Ok((site, proxy)),
        other => bail!("sessions go through no site: {other}"),
    }
}

fn check_relayed(done: &Done) -> Result<()> {
    ensure!(done.way.site().is_some(), "not relayed: {}", done.way);
    Ok(())
}
