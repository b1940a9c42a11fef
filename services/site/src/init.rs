//! `avr-site init`: from a fleet bundle and a few addresses to all the files of a server.

use std::io::{BufRead, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};
use service_kit::host::WallClock;
use wire::identity::Role;

use crate::bundle::Bundle;
use crate::forward::{FORWARD_FILE, nft_file};
use crate::install::{State, Target, Wanted, agree};
use crate::plan::{Draft, SITE_FILE, Site, Wrong};
use crate::programs::{Checked, Programs};
use crate::records::TTL_S_DEFAULT;
use crate::settings::{self, Places, final_places};

/// The folder of all files but the registry, below the root.
const ETC: &str = "etc/avr";
/// The change in DNS, below the root.
const DNS_FILE: &str = "etc/avr/dns-change.txt";
/// Where a server keeps what it writes, below the root.
const STATE: &str = "var/lib/avr-auther";
/// Longest answer to a question, in bytes.
const ANSWER_BYTES_MAX: u64 = 8 * 1024;

/// What the command line says.
#[derive(Debug, Clone)]
pub struct Init {
    /// The fleet bundle.
    pub bundle: PathBuf,
    /// What was given; the rest is taken from `site.toml`, asked for, or empty.
    pub given: Given,
    /// Where files go.
    pub target: Target,
    /// Change files that are there.
    pub force: bool,
    /// Show everything, and write nothing.
    pub dry_run: bool,
    /// Where the servers' programs are, if not where they should be.
    pub programs: Programs,
    /// To tell whether certificates are good now.
    pub clock: WallClock,
}

/// Items of a site; `None` was not given.
#[derive(Debug, Clone, Default)]
pub struct Given {
    pub public: Option<Vec<String>>,
    pub auther: Option<Vec<String>>,
    pub manager: Option<Vec<String>>,
    pub proxy: Option<Vec<String>>,
    pub clamd: Option<Vec<String>>,
    pub icap: Option<Vec<String>>,
    pub ntp: Option<Vec<String>>,
}

/// Who answers questions: a person, or nobody.
pub type Asked<'a> = Option<&'a mut dyn BufRead>;

/// Does it.
///
/// # Errors
/// With what to do about it; nothing is written then.
pub fn run(init: &Init, person: Asked<'_>, out: &mut dyn Write) -> anyhow::Result<()> {
    let bundle = Bundle::load(&init.bundle, init.clock)?;
    let site = site(init, &bundle, person, out)?;
    let files = files(&bundle, &site);
    if init.dry_run {
        return show(init, &files, out);
    }
    agree(&init.target, &files, init.force, out)?;
    let staging = init.target.stage(ETC, &files)?;
    check(init, &bundle, &site, staging.folder(), out)?;
    init.target.put(&staging, &files)?;
    if bundle.roles.contains(&Role::Auther) {
        init.target.make_folder(&init.target.root.join(STATE), 0o750)?;
    }
    for wanted in &files {
        writeln!(out, "{}", init.target.root.join(wanted.path).display())?;
    }
    let roles: Vec<String> = bundle.roles.iter().map(|role| format!("avr-{role}")).collect();
    writeln!(
        out,
        "\n{} is set up as {}. Next: load forward.nft at the firewall, start {}, let\n\
         `avr-site check` look at everything, and make the change in DNS with `avr-site join`.",
        bundle.name,
        roles.join(", "),
        roles.join(" and "),
    )?;
    Ok(())
}

/// All files, whatever is there already.
fn files(bundle: &Bundle, site: &Site) -> Vec<Wanted> {
    let wanted = |path, text: &str, secret| Wanted { path, text: text.to_owned(), secret };
    let mut files = vec![
        wanted(SITE_FILE, &site.to_toml(), false),
        wanted("etc/avr/fleet-ca.pem", &bundle.ca, false),
        wanted("etc/avr/ticket.pub", &bundle.ticket_public_key, false),
        wanted("etc/avr/server.crt", &bundle.certificate, false),
        wanted("etc/avr/server.key", &bundle.key, true),
    ];
    if let Some(key) = &bundle.ticket_key {
        files.push(wanted("etc/avr/ticket.key", key, true));
    }
    for role in &bundle.roles {
        let path = match role {
            Role::Auther => "etc/avr/auther.toml",
            Role::Manager => "etc/avr/manager.toml",
            Role::Proxy => "etc/avr/proxy.toml",
        };
        files.push(wanted(path, &settings::text(*role, site, final_places()), false));
    }
    files.push(wanted(FORWARD_FILE, &nft_file(site), false));
    files.push(wanted(DNS_FILE, &settings::dns_change(site, TTL_S_DEFAULT), false));
    files
}

/// Lets the servers look at their settings, and nftables at its file, before anything is changed.
fn check(
    init: &Init,
    bundle: &Bundle,
    site: &Site,
    staging: &Path,
    out: &mut dyn Write,
) -> anyhow::Result<()> {
    // Copies that name the staged keys, line by line the same; and a registry that is not there.
    let folder = staging.join("check");
    init.target.make_folder(&folder, 0o700)?;
    let places = Places { etc: staging, state: staging };
    let etc = Path::new(settings::ETC);
    for role in &bundle.roles {
        let file = folder.join(settings::file_of(*role));
        std::fs::write(&file, settings::text(*role, site, places))
            .with_context(|| format!("cannot write {}", file.display()))?;
        let shown = etc.join(settings::file_of(*role));
        judge(init.programs.check_settings(*role, &file), staging, &shown, out)?;
    }
    let shown = Path::new("/").join(FORWARD_FILE);
    let file = staging.join("forward.nft");
    if nix::unistd::geteuid().is_root() {
        judge(init.programs.check_forwarding(&file), staging, &shown, out)?;
    } else {
        writeln!(out, "Note: {} is not checked: only root can run `nft -c`.", shown.display())?;
    }
    Ok(())
}

fn judge(
    checked: Checked,
    staging: &Path,
    shown: &Path,
    out: &mut dyn Write,
) -> anyhow::Result<()> {
    match checked {
        Checked::Good => Ok(()),
        Checked::Bad(said) => {
            // The names that files will have, not those that they had while they were looked at.
            let said =
                [staging.join("check"), staging.to_owned()].iter().fold(said, |said, folder| {
                    said.replace(&folder.display().to_string(), settings::ETC)
                });
            bail!("{} would not be good; nothing was written: {said}", shown.display())
        }
        Checked::NoProgram(program) => {
            let shown = shown.display();
            writeln!(out, "Note: {shown} is not checked: there is no {program} here.")?;
            Ok(())
        }
    }
}

fn show(init: &Init, files: &[Wanted], out: &mut dyn Write) -> anyhow::Result<()> {
    for wanted in files {
        let state = match init.target.state(wanted)? {
            State::Missing => "new",
            State::Same => "as it is",
            State::Other { .. } => "changed",
        };
        writeln!(out, "--- {} ({state})", init.target.root.join(wanted.path).display())?;
        match wanted.secret {
            true => writeln!(out, "(not shown: it is a key)")?,
            false => write!(out, "{}", wanted.text)?,
        }
    }
    Ok(())
}

/// What the site is: what was given, else what `site.toml` says, else what the person answers.
fn site(
    init: &Init,
    bundle: &Bundle,
    mut person: Asked<'_>,
    out: &mut dyn Write,
) -> anyhow::Result<Site> {
    let path = init.target.root.join(SITE_FILE);
    let before = match path.exists() {
        true => Some(Site::load(&path)?.draft().clone()),
        false => None,
    };
    let mut draft = before.clone().unwrap_or_default();
    draft.domain.clone_from(&bundle.domain);
    for item in &ITEMS {
        let value = match ((item.given)(&init.given), &before) {
            (Some(given), _) => given.clone(),
            (None, Some(_)) => continue,
            (None, None) => match &mut person {
                Some(person) => ask(item, &draft, *person, out)?,
                None if item.needed => bail!("{} is not known; write {}", item.what, item.flag),
                None => Vec::new(),
            },
        };
        *(item.place)(&mut draft) = value;
    }
    Site::new(draft).map_err(|wrong| {
        let item = ITEMS.iter().find(|item| wrong.key.starts_with(item.key));
        let flag = item.map_or("the bundle's domain", |item| item.flag);
        anyhow::anyhow!("{flag}: {}; {}", wrong.problem, wrong.remedy)
    })
}

/// One thing that has to be known of a site.
struct Item {
    key: &'static str,
    flag: &'static str,
    what: &'static str,
    question: &'static str,
    needed: bool,
    given: fn(&Given) -> &Option<Vec<String>>,
    place: fn(&mut Draft) -> &mut Vec<String>,
}

const ITEMS: [Item; 7] = [
    Item {
        key: "public",
        flag: "--public ADDRESS",
        what: "the public address",
        question: "Public address of the site (IPv4, or IPv6, or one of each)",
        needed: true,
        given: |given| &given.public,
        place: |draft| &mut draft.public,
    },
    Item {
        key: "proxy",
        flag: "--proxy ADDRESS",
        what: "the proxies' local address",
        question: "Local addresses of the proxies (one written twice takes twice the share)",
        needed: true,
        given: |given| &given.proxy,
        place: |draft| &mut draft.proxy,
    },
    Item {
        key: "manager",
        flag: "--manager ADDRESS",
        what: "the managers' local address",
        question: "Local addresses of the managers",
        needed: true,
        given: |given| &given.manager,
        place: |draft| &mut draft.manager,
    },
    Item {
        key: "auther",
        flag: "--auther ADDRESS",
        what: "the auther's local address",
        question: "Local address of the auther (nothing: this site has none)",
        needed: false,
        given: |given| &given.auther,
        place: |draft| &mut draft.auther,
    },
    Item {
        key: "clamd",
        flag: "--clamd ADDRESS:PORT",
        what: "the clamd servers",
        question: "clamd servers, as 10.0.0.1:3310 (nothing: none)",
        needed: false,
        given: |given| &given.clamd,
        place: |draft| &mut draft.clamd,
    },
    Item {
        key: "icap",
        flag: "--icap URL",
        what: "the ICAP services",
        question: "ICAP services, as icap://10.0.0.3:1344/avscan (nothing: none)",
        needed: false,
        given: |given| &given.icap,
        place: |draft| &mut draft.icap,
    },
    Item {
        key: "ntp",
        flag: "--ntp HOST",
        what: "the time servers",
        question: "Time servers to compare the clock with (nothing: none)",
        needed: false,
        given: |given| &given.ntp,
        place: |draft| &mut draft.ntp,
    },
];

/// Asks until the answer can be right by itself; what only shows together is found afterwards.
fn ask(
    item: &Item,
    draft: &Draft,
    person: &mut dyn BufRead,
    out: &mut dyn Write,
) -> anyhow::Result<Vec<String>> {
    loop {
        write!(out, "{}: ", item.question)?;
        out.flush()?;
        let mut answer = String::new();
        let length = std::io::Read::take(&mut *person, ANSWER_BYTES_MAX).read_line(&mut answer)?;
        if length == 0 {
            bail!("no answer; write {} instead", item.flag);
        }
        let list: Vec<String> = answer
            .split([',', ' ', '\t', '\n', '\r'])
            .filter(|word| !word.is_empty())
            .map(str::to_owned)
            .collect();
        match wrong_with(item, draft, &list) {
            None if item.needed && list.is_empty() => writeln!(out, "  this one is needed")?,
            Some(wrong) => writeln!(out, "  {}; {}", wrong.problem, wrong.remedy)?,
            None => return Ok(list),
        }
    }
}

/// What is wrong with one answer, whatever the others will be.
fn wrong_with(item: &Item, draft: &Draft, list: &[String]) -> Option<Wrong> {
    let mut draft = draft.clone();
    *(item.place)(&mut draft) = list.to_vec();
    Site::new(draft).err().filter(|wrong| match wrong.key.strip_prefix(item.key) {
        Some(rest) => rest.starts_with('[') || (rest.is_empty() && !list.is_empty()),
        None => false,
    })
}

#[cfg(test)]
mod tests;
