//! All that a comparison needs, up and waiting: every arm's programs run from the start to the end,
//! and idle while another arm is measured.
#![allow(clippy::print_stdout, reason = "what a person waits for goes to standard output")]

use std::{
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};
use e2e::{Daemon, Lab, Netns, plan::MAIL};

use crate::{
    arm::Arm,
    cli::Mail,
    machine::Cores,
    process::Tree,
    servers::{
        AVR_CLAMD_POP3, AVR_CLAMD_SMTP, AVR_POP3, AVR_SMTP, CLAMSMTP, DOVECOT, HAPROXY_POP3,
        HAPROXY_SMTP, Host, POSTFIX, SINK, run,
    },
    worker::SinkProcess,
};

/// Where the programs keep what they keep: in the file system of the namespaces.
const ROOT: &str = "/run/avr-bench";
/// What they said.
pub(crate) const LOGS: &str = "/run/avr-bench/log";
/// A port of the lab's mail server that the box takes, and one that it leaves on its bridge.
const LAB_SMTP: u16 = e2e::plan::BULK_PORT;
const LAB_SMTP_BRIDGED: u16 = 2626;
const LAB_POP3_BRIDGED: u16 = 1110;

/// Where an arm is reached, and what it consists of.
#[derive(Debug, Clone)]
pub(crate) struct Place {
    pub(crate) arm: Arm,
    /// The client's machine.
    pub(crate) netns: Netns,
    pub(crate) smtp: Option<SocketAddr>,
    /// Where the client itself asks `clamd`.
    pub(crate) clamd: Option<PathBuf>,
    pub(crate) pop3: Option<SocketAddr>,
    /// Its programs, without `clamd`.
    pub(crate) smtp_tree: Tree,
    pub(crate) pop3_tree: Tree,
}

/// Everything.
#[derive(Debug)]
pub(crate) struct Stage {
    pub(crate) places: Vec<Place>,
    /// The core of client and mail server.
    pub(crate) ends: Option<Cores>,
    /// Folders of the mailboxes, for all POP3 servers.
    pub(crate) maildirs: Vec<PathBuf>,
    sink: SinkProcess,
    lab_sink: Option<SinkProcess>,
    daemons: Vec<Daemon>,
}

impl Stage {
    /// Starts what the arms need.
    pub(crate) fn build(mail: &Mail, ends: Option<Cores>, lab: Option<&mut Lab>) -> Result<Self> {
        let root = Path::new(ROOT);
        fs::create_dir_all(root)?;
        let host = Host::create(root, &mail.programs()?)?;
        let sink = SinkProcess::start(&host.netns, ends.as_ref(), &[SINK])?;
        let mut stage = Self {
            places: Vec::new(),
            maildirs: vec![host.maildirs()],
            sink,
            lab_sink: None,
            daemons: vec![host.start_clamd()?, host.start_dovecot()?],
            ends,
        };
        for arm in mail.arms().into_iter().filter(|arm| !arm.is_in_lab()) {
            stage.start_local(&host, arm).with_context(|| format!("arm {}", arm.title()))?;
        }
        if let Some(lab) = lab {
            stage.join_lab(lab, &mail.arms())?;
        }
        Ok(stage)
    }

    /// The mail server that an arm carries to.
    pub(crate) fn sink(&mut self, arm: Arm) -> &mut SinkProcess {
        match &mut self.lab_sink {
            Some(sink) if arm.is_in_lab() => sink,
            _ => &mut self.sink,
        }
    }

    /// Says of each program that has ended by itself that it did, once, with the end of its log. Its
    /// arm's errors are measured from then on.
    pub(crate) fn tell_ended(&mut self) {
        self.daemons.retain_mut(|daemon| match daemon.check_running() {
            Ok(()) => true,
            Err(error) => {
                println!("ENDED: {error:#}");
                false
            }
        });
    }

    fn start_local(&mut self, host: &Host, arm: Arm) -> Result<()> {
        let mut place = Place {
            arm,
            netns: host.netns.clone(),
            smtp: Some(SINK),
            clamd: None,
            pop3: None,
            smtp_tree: Tree::default(),
            pop3_tree: Tree::default(),
        };
        let started = match arm {
            Arm::Direct => {
                place.pop3 = Some(DOVECOT);
                Vec::new()
            }
            Arm::Haproxy => {
                let haproxy = host.start_haproxy()?;
                (place.smtp, place.pop3) = (Some(HAPROXY_SMTP), Some(HAPROXY_POP3));
                place.pop3_tree = Tree::new(vec![haproxy.id()]);
                vec![haproxy]
            }
            Arm::Clamsmtp => {
                place.smtp = Some(CLAMSMTP);
                vec![host.start_clamsmtp()?]
            }
            Arm::Postfix => {
                place.smtp = Some(POSTFIX);
                host.start_postfix()?.into()
            }
            Arm::Avr | Arm::AvrClamd => {
                let (smtp, pop3) = match arm {
                    Arm::Avr => (AVR_SMTP, AVR_POP3),
                    _ => (AVR_CLAMD_SMTP, AVR_CLAMD_POP3),
                };
                (place.smtp, place.pop3) = (Some(smtp), Some(pop3));
                let for_pop3 = host.start_avr(pop3, arm == Arm::AvrClamd)?;
                place.pop3_tree = Tree::new(vec![for_pop3.id()]);
                self.daemons.push(for_pop3);
                vec![host.start_avr(smtp, arm == Arm::AvrClamd)?]
            }
            Arm::Free | Arm::Clamd => {
                place.clamd = Some(host.clamd_socket());
                place.smtp = (arm == Arm::Free).then_some(SINK);
                Vec::new()
            }
            Arm::Bridge | Arm::Chain => return Ok(()),
        };
        place.smtp_tree = Tree::new(started.iter().map(Daemon::id).collect());
        self.daemons.extend(started);
        self.places.push(place);
        Ok(())
    }

    /// Puts the arms of the lab where the others of their kind are.
    fn join_lab(&mut self, lab: &mut Lab, arms: &[Arm]) -> Result<()> {
        let address = |port| SocketAddr::from((MAIL, port));
        let listen = [address(LAB_SMTP), address(LAB_SMTP_BRIDGED)];
        self.lab_sink = Some(SinkProcess::start(lab.mail_netns(), self.ends.as_ref(), &listen)?);
        self.maildirs.push(lab.maildirs());
        run(lab.mail_netns().command("nft").arg(format!(
            "add table ip bench; \
             add chain ip bench prerouting {{ type nat hook prerouting priority dstnat; }}; \
             add rule ip bench prerouting tcp dport {LAB_POP3_BRIDGED} redirect to :{}",
            e2e::plan::POP3_PORT
        )))?;
        let mut programs = vec![lab.gateway().id().context("the box does not run")?];
        let sites: Vec<String> = lab.sites().iter().map(|site| site.name().to_owned()).collect();
        for name in sites {
            let site = lab.site(&name)?;
            let servers: Vec<String> =
                site.public_ports().into_iter().map(|(server, _)| server.to_owned()).collect();
            for server in servers {
                programs.push(site.server(&server)?.0);
            }
        }
        for arm in arms.iter().copied().filter(|arm| arm.is_in_lab()) {
            let (smtp, pop3, programs) = match arm {
                Arm::Chain => (LAB_SMTP, e2e::plan::POP3_PORT, programs.clone()),
                _ => (LAB_SMTP_BRIDGED, LAB_POP3_BRIDGED, Vec::new()),
            };
            let tree = Tree::new(programs);
            let place = Place {
                arm,
                netns: lab.pc().clone(),
                smtp: Some(address(smtp)),
                clamd: None,
                pop3: Some(address(pop3)),
                smtp_tree: tree.clone(),
                pop3_tree: tree,
            };
            let before = self.places.iter().position(|other| other.arm > arm);
            self.places.insert(before.unwrap_or(self.places.len()), place);
        }
        Ok(())
    }
}
