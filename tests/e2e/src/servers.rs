//! The real servers in the lab's internet: Knot, Postfix, Dovecot, and a web server.

use std::{
    collections::BTreeSet,
    fs::{self, Permissions},
    net::{IpAddr, Ipv4Addr},
    os::unix::fs::{PermissionsExt, chown},
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use anyhow::{Context, Result};
use nix::sys::signal::Signal;

use crate::{
    clock::wait_for,
    daemon::Daemon,
    netns::{Netns, run_command},
    plan::{DNS, DOMAIN, MAIL, MAIL_NAME, MANAGER_TTL_S, PASSWORD, POP3_PORT, SMTP_PORT, WEB},
};

/// Owner of the mail (nobody).
pub const MAIL_UID: u32 = 65_534;
/// Longest that Postfix may take from its "250" to the mailbox.
const DELIVERY_MAX: Duration = Duration::from_secs(10);
/// Size of the file that the web server offers, in bytes.
const DOWNLOAD_BYTES: usize = 4 << 20;

/// Postfix and Dovecot on one host.
#[derive(Debug)]
pub(crate) struct MailHost {
    directory: PathBuf,
    _postfix: Daemon,
    dovecot: Daemon,
}

impl MailHost {
    pub(crate) fn start(netns: &Netns, root: &Path, logs: &Path) -> Result<Self> {
        let directory = root.join("mail");
        let maildirs = directory.join("maildirs");
        fs::create_dir_all(&maildirs)?;
        chown(&maildirs, Some(MAIL_UID), Some(MAIL_UID))?;
        make_certificate(&directory)?;
        let mut postfix = start_postfix(netns, &directory, logs)?;
        let mut dovecot = start_dovecot(netns, &directory, logs)?;
        postfix.wait_listening(netns, (MAIL, SMTP_PORT).into())?;
        dovecot.wait_listening(netns, (MAIL, POP3_PORT).into())?;
        let host = Self { directory, _postfix: postfix, dovecot };
        for user in ["user", "partner"] {
            host.create_mailbox(user)?;
        }
        Ok(host)
    }

    /// Puts a message (lines ended by CRLF) into a mailbox, past all protocols. Keeps it with LF,
    /// as Postfix does.
    pub(crate) fn put(&self, user: &str, message: &[u8]) -> Result<()> {
        let mailbox = self.mailbox(user);
        let number = fs::read_dir(mailbox.join("new"))?.count();
        let temporary = mailbox.join(format!("tmp/{number}.lab"));
        fs::write(&temporary, crate::message::to_lf(message))?;
        chown(&temporary, Some(MAIL_UID), Some(MAIL_UID))?;
        fs::rename(&temporary, mailbox.join(format!("new/{number}.lab")))?;
        Ok(())
    }

    /// The messages in a mailbox, as the server keeps them.
    pub(crate) fn messages(&self, user: &str) -> Result<Vec<Vec<u8>>> {
        let mut files = BTreeSet::new();
        for folder in ["new", "cur"] {
            for entry in fs::read_dir(self.mailbox(user).join(folder))? {
                files.insert(entry?.path());
            }
        }
        files.iter().map(|path| Ok(fs::read(path)?)).collect()
    }

    /// Waits until a mailbox holds a message, and gives it.
    pub(crate) fn wait_delivered(&self, user: &str) -> Result<Vec<u8>> {
        wait_for(&format!("a message in the mailbox of {user}"), DELIVERY_MAX, || {
            self.messages(user).ok()?.pop()
        })
    }

    /// Deletes all messages of a mailbox, and what Dovecot knows of it.
    pub(crate) fn empty(&self, user: &str) -> Result<()> {
        fs::remove_dir_all(self.mailbox(user))?;
        self.create_mailbox(user)
    }

    /// Addresses that POP3 logins came from, oldest first: Dovecot's own log.
    pub(crate) fn pop3_peers(&self) -> Vec<IpAddr> {
        let log = self.dovecot.log();
        let logins = log.lines().filter(|line| line.contains("Login: user="));
        logins
            .filter_map(|line| line.split("rip=").nth(1)?.split(',').next()?.parse().ok())
            .collect()
    }

    pub(crate) fn maildirs(&self) -> PathBuf {
        self.directory.join("maildirs")
    }

    fn mailbox(&self, user: &str) -> PathBuf {
        self.maildirs().join(user)
    }

    fn create_mailbox(&self, user: &str) -> Result<()> {
        let mailbox = self.mailbox(user);
        for folder in ["cur", "new", "tmp"] {
            fs::create_dir_all(mailbox.join(folder))?;
            chown(mailbox.join(folder), Some(MAIL_UID), Some(MAIL_UID))?;
        }
        Ok(chown(mailbox, Some(MAIL_UID), Some(MAIL_UID))?)
    }
}

/// A self-signed certificate, for STARTTLS and STLS: `mail.pem` and `mail.key`.
fn make_certificate(directory: &Path) -> Result<()> {
    let mut command = Command::new("openssl");
    command.args(["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1"]);
    command.args(["-nodes", "-days", "2", "-subj", &format!("/CN={MAIL_NAME}"), "-keyout"]);
    command.arg(directory.join("mail.key")).arg("-out").arg(directory.join("mail.pem"));
    run_command(&mut command).map(drop)
}

fn start_postfix(netns: &Netns, directory: &Path, logs: &Path) -> Result<Daemon> {
    let settings = directory.join("postfix");
    let queue = directory.join("queue");
    let data = directory.join("postfix-data");
    for path in [&settings, &queue, &data] {
        fs::create_dir_all(path)?;
    }
    run_command(Command::new("chown").arg("postfix").arg(&data))?;
    let maildirs = directory.join("maildirs");
    let main = format!(
        "compatibility_level = 3.6
queue_directory = {queue}
data_directory = {data}
maillog_file = {log}
maillog_file_prefixes = {logs}
myhostname = {mail_name}
mydestination =
mynetworks = 127.0.0.0/8
inet_interfaces = all
inet_protocols = all
disable_dns_lookups = yes
smtpd_peername_lookup = no
smtputf8_enable = yes
alias_maps =
alias_database =
virtual_mailbox_domains = office.test, partner.test
virtual_mailbox_base = {maildirs}
virtual_mailbox_maps = inline:{{ {{ user@office.test = user/ }}, {{ partner@partner.test = partner/ }} }}
virtual_uid_maps = static:{MAIL_UID}
virtual_gid_maps = static:{MAIL_UID}
message_size_limit = 100000000
virtual_mailbox_limit = 0
smtpd_client_connection_count_limit = 0
smtpd_client_connection_rate_limit = 0
smtpd_error_sleep_time = 0
smtpd_tls_security_level = may
smtpd_tls_cert_file = {directory}/mail.pem
smtpd_tls_key_file = {directory}/mail.key
",
        directory = directory.display(),
        queue = queue.display(),
        data = data.display(),
        log = logs.join("postfix.log").display(),
        logs = logs.display(),
        maildirs = maildirs.display(),
        mail_name = MAIL_NAME,
    );
    fs::write(settings.join("main.cf"), main)?;
    fs::write(settings.join("master.cf"), POSTFIX_MASTER)?;
    let mut command = netns.command("postfix");
    command.arg("-c").arg(&settings).arg("start-fg");
    Daemon::start("postfix", command, logs)
}

/// Nothing chrooted, nothing sent on: mail ends in the mailboxes.
const POSTFIX_MASTER: &str = "\
25        inet n - n -     - smtpd
587       inet n - n -     - smtpd
pickup    unix n - n 60    1 pickup
cleanup   unix n - n -     0 cleanup
qmgr      unix n - n 300   1 qmgr
rewrite   unix - - n -     - trivial-rewrite
bounce    unix - - n -     0 bounce
defer     unix - - n -     0 bounce
trace     unix - - n -     0 bounce
verify    unix - - n -     1 verify
flush     unix n - n 1000? 0 flush
proxymap  unix - - n -     - proxymap
showq     unix n - n -     - showq
error     unix - - n -     - error
retry     unix - - n -     - error
discard   unix - - n -     - discard
smtp      unix - - n -     - smtp
local     unix - n n -     - local
virtual   unix - n n -     - virtual
tlsmgr    unix - - n 1000? 1 tlsmgr
anvil     unix - - n -     1 anvil
scache    unix - - n -     1 scache
postlog   unix-dgram n - n - 1 postlogd
";

fn start_dovecot(netns: &Netns, directory: &Path, logs: &Path) -> Result<Daemon> {
    let base = directory.join("dovecot");
    fs::create_dir_all(&base)?;
    let settings = directory.join("dovecot.conf");
    let text = format!(
        "protocols = pop3
base_dir = {base}
state_dir = {base}
log_path = /dev/stderr
ssl = yes
ssl_cert = <{directory}/mail.pem
ssl_key = <{directory}/mail.key
disable_plaintext_auth = no
first_valid_uid = 100
mail_location = maildir:{maildirs}/%n
passdb {{
  driver = static
  args = password={PASSWORD}
}}
userdb {{
  driver = static
  args = uid={MAIL_UID} gid={MAIL_UID} home={maildirs}/%n
}}
default_vsz_limit = 512M
service pop3-login {{
  service_count = 0
  process_min_avail = 1
  process_limit = 4
  client_limit = 4000
}}
service anvil {{
  client_limit = 4000
}}
",
        base = base.display(),
        directory = directory.display(),
        maildirs = directory.join("maildirs").display(),
    );
    fs::write(&settings, text)?;
    let mut command = netns.command("dovecot");
    command.arg("-F").arg("-c").arg(&settings);
    Daemon::start("dovecot", command, logs)
}

/// By what sites change the zone of the lab; no secret.
const UPDATE_SECRET: &str = "JHtPCiqMJYBZjlTcmnBDE5Rk1UzFJrW3ko5ePZh2jDE=";

/// The authoritative DNS server: its zone names the managers and authers of the sites.
#[derive(Debug)]
pub(crate) struct Dns {
    netns: Netns,
    directory: PathBuf,
    logs: PathBuf,
    serial: u32,
    daemon: Option<Daemon>,
}

impl Dns {
    pub(crate) fn start(
        netns: &Netns,
        root: &Path,
        logs: &Path,
        sites: &[Ipv4Addr],
    ) -> Result<Self> {
        let directory = root.join("dns");
        fs::create_dir_all(&directory)?;
        let mut dns = Self {
            netns: netns.clone(),
            directory,
            logs: logs.to_owned(),
            serial: 0,
            daemon: None,
        };
        dns.write_zone(sites)?;
        dns.start_again()?;
        Ok(dns)
    }

    /// A file with the key that may change the zone.
    pub(crate) fn update_key(&self) -> Result<PathBuf> {
        let path = self.directory.join("update.key");
        fs::write(&path, format!("hmac-sha256:avr-update:{UPDATE_SECRET}\n"))?;
        Ok(path)
    }

    /// From now on, these sites are listed.
    pub(crate) fn list(&mut self, sites: &[Ipv4Addr]) -> Result<()> {
        self.write_zone(sites)?;
        self.daemon.as_mut().context("the DNS server does not run")?.signal(Signal::SIGHUP)
    }

    /// Ends it at once (SIGKILL).
    pub(crate) fn kill(&mut self) -> Result<()> {
        self.daemon.take().context("the DNS server does not run")?.kill()
    }

    /// Starts it; nothing if it runs.
    pub(crate) fn start_again(&mut self) -> Result<()> {
        if self.daemon.is_none() {
            self.daemon = Some(start_knot(&self.netns, &self.directory, &self.logs)?);
        }
        Ok(())
    }

    fn write_zone(&mut self, sites: &[Ipv4Addr]) -> Result<()> {
        self.serial += 1;
        let mut zone = format!(
            "$ORIGIN {DOMAIN}.\n$TTL 60\n@ SOA ns hostmaster {} 3600 600 86400 5\n@ NS ns\n\
             ns A {DNS}\nmail A {MAIL}\nwww A {WEB}\n",
            self.serial
        );
        for site in sites {
            for role in ["manager", "auther"] {
                zone += &format!("{role} {MANAGER_TTL_S} A {site}\n");
            }
        }
        Ok(fs::write(self.directory.join(format!("{DOMAIN}.zone")), zone)?)
    }
}

fn start_knot(netns: &Netns, directory: &Path, logs: &Path) -> Result<Daemon> {
    let settings = format!(
        "server:\n  rundir: {directory}\n  listen: {DNS}@53\n  udp-workers: 1\n  tcp-workers: 1\n  \
         background-workers: 1\n\
         log:\n  - target: stderr\n    any: info\n\
         database:\n  storage: {directory}\n\
         template:\n  - id: default\n    storage: {directory}\n    file: \"%s.zone\"\n\
         key:\n  - id: avr-update\n    algorithm: hmac-sha256\n    secret: {UPDATE_SECRET}\n\
         acl:\n  - id: sites\n    key: avr-update\n    action: update\n    update-owner: name\n    \
         update-owner-match: equal\n    update-owner-name: [manager, auther]\n    \
         update-type: [A, AAAA]\n\
         zone:\n  - domain: {DOMAIN}\n    acl: sites\n",
        directory = directory.display(),
    );
    let path = directory.join("knot.conf");
    fs::write(&path, settings)?;
    let mut command = netns.command("knotd");
    command.arg("-c").arg(&path);
    let mut daemon = Daemon::start("knot", command, logs)?;
    daemon.wait_listening(netns, (DNS, 53).into())?;
    Ok(daemon)
}

/// A web server with one file, whose bytes it gives.
pub(crate) fn start_web(netns: &Netns, root: &Path, logs: &Path) -> Result<(Daemon, Vec<u8>)> {
    let directory = root.join("web");
    fs::create_dir_all(&directory)?;
    let download = crate::message::noise(DOWNLOAD_BYTES);
    fs::write(directory.join("download"), &download)?;
    let mut command = netns.command("busybox");
    command.args(["httpd", "-f", "-p", "80", "-h"]).arg(&directory);
    let mut daemon = Daemon::start("web", command, logs)?;
    daemon.wait_listening(netns, (WEB, 80).into())?;
    Ok((daemon, download))
}

/// The address of the last client that Postfix saw for a message it delivered.
pub(crate) fn smtp_peer(delivered: &[u8]) -> Result<IpAddr> {
    let text = String::from_utf8_lossy(delivered);
    let received = text.split("\nReceived: ").nth(1).context("no Received field")?;
    let address = received.split('[').nth(1).and_then(|rest| rest.split(']').next());
    let address = address.context("no address in the Received field")?;
    address.trim_start_matches("IPv6:").parse().context("not an address")
}

/// Lets others than root read a directory.
pub(crate) fn open_directory(path: &Path) -> Result<()> {
    Ok(fs::set_permissions(path, Permissions::from_mode(0o755))?)
}
