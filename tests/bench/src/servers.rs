//! The proxies that are compared, and what they need, on one machine of their own: its loopback,
//! and a file system in memory for whatever they spool.

use std::{
    fs::{self, Permissions},
    net::{Ipv4Addr, SocketAddr},
    os::unix::{fs::PermissionsExt as _, net::UnixStream},
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, ensure};
use e2e::{Daemon, MAIL_UID, Netns, message::EICAR_PARTS};

use crate::fetch::PASSWORD;

/// Sessions and scans that each program is allowed at once: more than any case has.
const SESSIONS_MAX: u32 = 256;
/// Threads of `clamd`, the same for all: more than sessions in any case.
const CLAMD_THREADS: u32 = 80;
/// Largest mail that each program is allowed, in MiB.
const MAIL_MIB_MAX: u32 = 100;

/// The mail server that SMTP proxies carry to.
pub(crate) const SINK: SocketAddr = local(2500);
pub(crate) const HAPROXY_SMTP: SocketAddr = local(2501);
pub(crate) const CLAMSMTP: SocketAddr = local(2502);
pub(crate) const POSTFIX: SocketAddr = local(2503);
pub(crate) const AVR_SMTP: SocketAddr = local(2504);
pub(crate) const AVR_CLAMD_SMTP: SocketAddr = local(2505);
/// The mail server that POP3 proxies carry to.
pub(crate) const DOVECOT: SocketAddr = local(1100);
pub(crate) const HAPROXY_POP3: SocketAddr = local(1101);
pub(crate) const AVR_POP3: SocketAddr = local(1104);
pub(crate) const AVR_CLAMD_POP3: SocketAddr = local(1105);

/// On the loopback of the machine, which nothing else uses.
const fn local(port: u16) -> SocketAddr {
    SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), port)
}

/// The machine, and where its programs keep what they keep.
#[derive(Debug)]
pub(crate) struct Host {
    pub(crate) netns: Netns,
    root: PathBuf,
    logs: PathBuf,
    programs: PathBuf,
}

impl Host {
    /// Makes it. `programs` is the folder of the product's.
    pub(crate) fn create(root: &Path, programs: &Path) -> Result<Self> {
        let host = Self {
            netns: Netns::create("bench")?,
            root: root.to_owned(),
            logs: root.join("log"),
            programs: programs.to_owned(),
        };
        for folder in [&host.logs, &host.maildirs(), &host.spool()] {
            fs::create_dir_all(folder)?;
            fs::set_permissions(folder, Permissions::from_mode(0o777))?;
        }
        Ok(host)
    }

    /// Where mailboxes of its POP3 server are.
    pub(crate) fn maildirs(&self) -> PathBuf {
        self.root.join("maildirs")
    }

    /// The socket of the `clamd` that all arms on this machine share.
    pub(crate) fn clamd_socket(&self) -> PathBuf {
        self.root.join("clamd.sock")
    }

    fn spool(&self) -> PathBuf {
        self.root.join("spool")
    }

    fn start(&self, name: &str, program: impl AsRef<Path>, arguments: &[&str]) -> Result<Daemon> {
        let mut command = self.netns.command(program.as_ref());
        command.args(arguments).env("TMPDIR", self.spool());
        Daemon::start(name, command, &self.logs)
    }

    /// Starts a program with a file of settings, and waits until it listens.
    fn start_with(
        &self,
        name: &str,
        arguments: &[&str],
        settings: &str,
        listens: SocketAddr,
    ) -> Result<Daemon> {
        let path = self.root.join(format!("{name}.conf"));
        fs::write(&path, settings)?;
        let path = path.display().to_string();
        let mut daemon = self.start(name, name, &[arguments, &[&path]].concat())?;
        daemon.wait_listening(&self.netns, listens)?;
        Ok(daemon)
    }

    /// The scanner, with one signature: what is compared is proxies, not scanning.
    pub(crate) fn start_clamd(&self) -> Result<Daemon> {
        let signatures = self.root.join("signatures");
        fs::create_dir_all(&signatures)?;
        let eicar: String =
            EICAR_PARTS.concat().bytes().map(|byte| format!("{byte:02x}")).collect();
        fs::write(signatures.join("bench.ndb"), format!("Eicar-Signature:0:*:{eicar}\n"))?;
        let settings = format!(
            "Foreground yes\nLocalSocket {socket}\nDatabaseDirectory {signatures}\n\
             TemporaryDirectory {spool}\nMaxThreads {CLAMD_THREADS}\nMaxQueue {queue}\n\
             MaxConnectionQueueLength {SESSIONS_MAX}\nStreamMaxLength {MAIL_MIB_MAX}M\n\
             MaxFileSize {MAIL_MIB_MAX}M\nOfficialDatabaseOnly no\nSelfCheck 0\n\
             ConcurrentDatabaseReload no\nAlertExceedsMax yes\nAlertEncrypted yes\n",
            socket = self.clamd_socket().display(),
            signatures = signatures.display(),
            spool = self.spool().display(),
            queue = 2 * CLAMD_THREADS,
        );
        let path = self.root.join("clamd.conf");
        fs::write(&path, settings)?;
        let path = path.display().to_string();
        let mut daemon = self.start("clamd", "clamd", &["--config-file", &path])?;
        let socket = self.clamd_socket();
        daemon.wait_until("clamd to listen", || UnixStream::connect(&socket).ok())?;
        Ok(daemon)
    }

    /// HAProxy, as it is installed, in front of both mail servers.
    pub(crate) fn start_haproxy(&self) -> Result<Daemon> {
        let settings = format!(
            "global\n maxconn 4096\n\
             defaults\n mode tcp\n timeout connect 5s\n timeout client 180s\n timeout server 180s\n\
             listen smtp\n bind {HAPROXY_SMTP}\n server sink {SINK}\n\
             listen pop3\n bind {HAPROXY_POP3}\n server dovecot {DOVECOT}\n"
        );
        self.start_with("haproxy", &["-db", "-f"], &settings, HAPROXY_SMTP)
    }

    /// clamsmtp, told to add no header, and allowed as many connections as the others.
    pub(crate) fn start_clamsmtp(&self) -> Result<Daemon> {
        let settings = format!(
            "OutAddress: {SINK}\nListen: {CLAMSMTP}\nClamAddress: {socket}\n\
             TempDirectory: {spool}\nMaxConnections: {SESSIONS_MAX}\nHeader:\n",
            socket = self.clamd_socket().display(),
            spool = self.spool().display(),
        );
        self.start_with("clamsmtpd", &["-d", "1", "-f"], &settings, CLAMSMTP)
    }

    /// Postfix with clamav-milter before its queue; what passes goes on to the mail server.
    pub(crate) fn start_postfix(&self) -> Result<[Daemon; 2]> {
        let socket = self.root.join("milter.sock");
        let settings = format!(
            "Foreground yes\nMilterSocket {socket}\nMilterSocketMode 666\nFixStaleSocket yes\n\
             ClamdSocket unix:{clamd}\nOnClean Accept\nOnInfected Reject\nOnFail Defer\n\
             AddHeader no\nMaxFileSize {MAIL_MIB_MAX}M\nTemporaryDirectory {spool}\n",
            socket = socket.display(),
            clamd = self.clamd_socket().display(),
            spool = self.spool().display(),
        );
        let path = self.root.join("clamav-milter.conf");
        fs::write(&path, settings)?;
        let path = path.display().to_string();
        let mut milter = self.start("clamav-milter", "clamav-milter", &["--config-file", &path])?;
        milter.wait_until("clamav-milter to listen", || UnixStream::connect(&socket).ok())?;

        let directory = self.root.join("postfix");
        let (queue, data) = (self.root.join("queue"), self.root.join("postfix-data"));
        for path in [&directory, &queue, &data] {
            fs::create_dir_all(path)?;
        }
        run(Command::new("chown").arg("postfix").arg(&data))?;
        let main = self.postfix_settings(&queue, &data, &socket);
        fs::write(directory.join("main.cf"), main)?;
        fs::write(
            directory.join("master.cf"),
            format!("{POSTFIX} inet n - n - - smtpd\n{MASTER}"),
        )?;
        let directory = directory.display().to_string();
        let mut postfix = self.start("postfix", "postfix", &["-c", &directory, "start-fg"])?;
        postfix.wait_listening(&self.netns, POSTFIX)?;
        Ok([postfix, milter])
    }

    fn postfix_settings(&self, queue: &Path, data: &Path, milter: &Path) -> String {
        format!(
            "compatibility_level = 3.6
queue_directory = {queue}
data_directory = {data}
maillog_file = {log}
maillog_file_prefixes = {logs}
myhostname = postfix.bench.test
mydestination =
mynetworks = 127.0.0.0/8
smtpd_relay_restrictions = permit_mynetworks, reject
inet_interfaces = loopback-only
inet_protocols = ipv4
disable_dns_lookups = yes
smtpd_peername_lookup = no
alias_maps =
alias_database =
relayhost = [{relay}]:{port}
smtpd_milters = unix:{milter}
milter_default_action = tempfail
message_size_limit = {size}
default_process_limit = {SESSIONS_MAX}
default_destination_concurrency_limit = 64
initial_destination_concurrency = 64
in_flow_delay = 0
smtpd_client_connection_count_limit = 0
smtpd_client_connection_rate_limit = 0
smtpd_client_message_rate_limit = 0
smtpd_error_sleep_time = 0
",
            queue = queue.display(),
            data = data.display(),
            log = self.logs.join("postfix.log").display(),
            logs = self.logs.display(),
            relay = SINK.ip(),
            port = SINK.port(),
            milter = milter.display(),
            size = MAIL_MIB_MAX << 20,
        )
    }

    /// Dovecot, whose mailboxes are the folders that are there at login.
    pub(crate) fn start_dovecot(&self) -> Result<Daemon> {
        let base = self.root.join("dovecot");
        fs::create_dir_all(&base)?;
        let settings = format!(
            "protocols = pop3
listen = {address}
base_dir = {base}
state_dir = {base}
log_path = /dev/stderr
ssl = no
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
  client_limit = 1000
  inet_listener pop3 {{
    port = {port}
  }}
}}
service anvil {{
  client_limit = 2000
}}
",
            address = DOVECOT.ip(),
            port = DOVECOT.port(),
            base = base.display(),
            maildirs = self.maildirs().display(),
        );
        self.start_with("dovecot", &["-F", "-c"], &settings, DOVECOT)
    }

    /// `avr listen` in front of one of the mail servers, with or without `clamd`.
    pub(crate) fn start_avr(&self, listen: SocketAddr, with_clamd: bool) -> Result<Daemon> {
        let program = self.programs.join("avr");
        ensure!(program.exists(), "no {}: build it first", program.display());
        let is_pop3 = [AVR_POP3, AVR_CLAMD_POP3].contains(&listen);
        let (protocol, to) = if is_pop3 { ("pop3", DOVECOT) } else { ("smtp", SINK) };
        let (address, to) = (listen.to_string(), to.to_string());
        let mut arguments =
            vec!["listen", "--listen", &address, "--to", &to, "--protocol", protocol];
        let clamd = format!("unix:{}", self.clamd_socket().display());
        if with_clamd {
            arguments.extend(["--clamd", &clamd]);
        }
        let name = format!("avr-{protocol}{}", if with_clamd { "-clamd" } else { "" });
        let mut daemon = self.start(&name, program, &arguments)?;
        daemon.wait_listening(&self.netns, listen)?;
        Ok(daemon)
    }
}

/// Nothing chrooted; mail goes on to the mail server.
const MASTER: &str = "\
cleanup   unix n - n -     0 cleanup
qmgr      unix n - n 300   1 qmgr
rewrite   unix - - n -     - trivial-rewrite
bounce    unix - - n -     0 bounce
defer     unix - - n -     0 bounce
trace     unix - - n -     0 bounce
verify    unix - - n -     1 verify
flush     unix n - n 1000? 0 flush
proxymap  unix - - n -     - proxymap
error     unix - - n -     - error
retry     unix - - n -     - error
smtp      unix - - n -     - smtp
relay     unix - - n -     - smtp
tlsmgr    unix - - n 1000? 1 tlsmgr
anvil     unix - - n -     1 anvil
scache    unix - - n -     1 scache
postlog   unix-dgram n - n - 1 postlogd
";

/// Runs a command to its end.
pub(crate) fn run(command: &mut Command) -> Result<String> {
    let output = command.output().with_context(|| format!("cannot run {command:?}"))?;
    let stderr = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{command:?} ended with {}: {stderr}", output.status);
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}
