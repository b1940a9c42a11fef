//! The proxy under test, with everything round it.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use config::Document;
use link::{Acceptor, Link, LinkError, SessionStream};
use proxy::counters::Counters;
use proxy::operate::{Reply, Request};
use proxy::{Proxy, Settings};
use service_kit::control::{self, Line};
use service_kit::{DrainTrigger, Served, host};
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use wire::identity::{
    DeviceKey, FleetCa, FleetRoots, Role, device_client_config, server_client_config, server_config,
};
use wire::revocation::{Revocation, RevocationPart};
use wire::ticket::{KeyFingerprint, SignedTicket, Ticket, TicketSigner};
use wire::{Bye, Client, LeaseId, MacAddress, Message, Open, Protocol, RefusedReason, SessionId};

pub(crate) const PATIENCE: Duration = Duration::from_secs(30);
pub(crate) const CLEAN_MAIL: &str =
    "From: <a@example.org>\r\nSubject: x\r\n\r\n..a stuffed dot\r\né\r\n";
/// The EICAR test file, put together here so that this file is none.
pub(crate) const EICAR_MAIL: &str = concat!(
    "From: <a@example.org>\r\nSubject: x\r\n\r\n",
    "X5O!P%@AP[4\\PZX54(P^)7CC)7}$EICAR-STANDARD-",
    "ANTIVIRUS-TEST-FILE!$H+H*\r\n"
);
pub(crate) const MAC: MacAddress = MacAddress([2, 0, 0, 0, 0, 1]);

/// A proxy that runs, and its fleet.
pub(crate) struct Lab {
    ca: FleetCa,
    signer: TicketSigner,
    directory: tempfile::TempDir,
    pub(crate) address: SocketAddr,
    pub(crate) status: SocketAddr,
    pub(crate) counters: Arc<Counters>,
    pub(crate) trigger: DrainTrigger,
    task: JoinHandle<Served>,
}

impl Lab {
    /// With a settings file as an operator would write it, changed by `change`; mail servers are
    /// on loopback at the port of `server`.
    pub(crate) async fn start(server: SocketAddr, change: impl FnOnce(&mut Settings)) -> Self {
        Self::start_with(server, "", change).await
    }

    /// The same with tables in the file.
    pub(crate) async fn start_with(
        server: SocketAddr,
        tables: &str,
        change: impl FnOnce(&mut Settings),
    ) -> Self {
        telemetry::init(telemetry::Format::Text);
        let ca = FleetCa::create().unwrap();
        let signer = TicketSigner::generate().unwrap();
        let directory = tempfile::tempdir().unwrap();
        let (certificate, key) = ca.issue(&[Role::Proxy], "tokyo-2").unwrap();
        let file = |name: &str, text: &str| {
            let path = directory.path().join(name);
            std::fs::write(&path, text).unwrap();
            path.display().to_string()
        };
        let text = format!(
            "listen = \"127.0.0.1:0\"\nfleet_ca = {:?}\ncertificate = {:?}\nkey = {:?}\n\
             ticket_key = {:?}\nmail_ports = [{}]\ntest_networks = [\"127.0.0.0/8\"]\n\
             state_directory = {:?}\ncontrol = {:?}\n[status]\nlisten = \"127.0.0.1:0\"\n{tables}",
            file("ca.pem", &ca.certificate_pem()),
            file("a.crt", &certificate),
            file("a.key", key.expose()),
            file("ticket.pub", &signer.verifier().to_pem()),
            server.port(),
            directory.path().join("state"),
            directory.path().join("control"),
        );
        file("proxy.toml", &text);
        file("loadavg", "0.00 0 0 1/1 1\n");
        Self::run(ca, signer, directory, change).await
    }

    /// The same proxy again, when it has come to its end.
    pub(crate) async fn restart(self, change: impl FnOnce(&mut Settings)) -> Self {
        let Self { ca, signer, directory, trigger, task, .. } = self;
        trigger.drain();
        let served = tokio::time::timeout(PATIENCE, task).await.expect("the drain hangs").unwrap();
        assert_eq!(served.cut_off, 0);
        Self::run(ca, signer, directory, change).await
    }

    async fn run(
        ca: FleetCa,
        signer: TicketSigner,
        directory: tempfile::TempDir,
        change: impl FnOnce(&mut Settings),
    ) -> Self {
        let document = Document::load(&directory.path().join("proxy.toml")).unwrap();
        let mut settings =
            Settings::from_document(&document, session::settings::Around::test()).unwrap();
        settings.load_average = directory.path().join("loadavg");
        change(&mut settings);
        let proxy = Proxy::bind(settings, host::unix_now_s).await.unwrap();
        let (address, counters) = (proxy.address().unwrap(), proxy.counters());
        let status = proxy.status_address().unwrap().unwrap();
        let (trigger, drain) = DrainTrigger::new();
        let task = tokio::spawn(proxy.run(drain));
        Self { ca, signer, directory, address, status, counters, trigger, task }
    }

    /// What the operator's command says, line by line.
    pub(crate) async fn tell(&self, request: Request) -> Result<Vec<Reply>, String> {
        let path = self.path("control");
        let telling = tokio::task::spawn_blocking(move || {
            let mut replies = Vec::new();
            let asked = control::ask(&path, &request, |reply| {
                let is_more = matches!(reply, Reply::Left { .. });
                replies.push(reply);
                if is_more { Line::More } else { Line::Last }
            });
            asked.map(|()| replies).map_err(|error| telemetry::chain(&error))
        });
        tokio::time::timeout(PATIENCE, telling).await.expect("no answer").unwrap()
    }

    /// An auther of the lab's fleet, who answers every question with this list.
    pub(crate) async fn play_auther(&self, entries: &[Revocation]) -> SocketAddr {
        let ca = self.ca.certificate_pem();
        let (certificate, key) = self.ca.issue(&[Role::Auther], "tokyo-9").unwrap();
        let tls = server_config(&ca, &certificate, key.expose()).unwrap();
        let acceptor = Acceptor::new(tls, FleetRoots::from_pem(&ca).unwrap());
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let parts = RevocationPart::split(1, host::unix_now_s(), entries).unwrap();
        let signed: Vec<_> =
            parts.iter().map(|part| self.signer.sign_revocations(part).unwrap()).collect();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let Ok(mut link) = acceptor.accept(stream, PATIENCE).await else { continue };
                while let Ok(Message::Fetch(_)) = link.recv().await {
                    for part in &signed {
                        // Who has what it wanted may have gone.
                        let _ = link.send(&Message::Revocations(part.clone())).await;
                    }
                }
            }
        });
        address
    }

    /// A page of the status port: its status line and all that follows.
    pub(crate) async fn page(&self, path: &str) -> String {
        let mut stream = TcpStream::connect(self.status).await.unwrap();
        let request =
            format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        answer
    }

    pub(crate) fn ticket(
        &self,
        key: KeyFingerprint,
        since_s: u64,
        sessions_max: u32,
    ) -> SignedTicket {
        self.signer.sign(&Ticket::new(MAC, key, since_s, sessions_max)).unwrap()
    }

    pub(crate) async fn link(&self, key: &DeviceKey) -> Link {
        let tls = device_client_config(&self.ca.certificate_pem(), key).unwrap();
        link::connect(self.address, Role::Proxy, tls, PATIENCE).await.unwrap()
    }

    /// A box's TLS connection, for bytes that are no frames.
    pub(crate) async fn raw(&self) -> TlsStream<TcpStream> {
        let key = DeviceKey::generate().unwrap();
        let tls = device_client_config(&self.ca.certificate_pem(), &key).unwrap();
        let stream = TcpStream::connect(self.address).await.unwrap();
        let name = Role::Proxy.server_name();
        TlsConnector::from(tls).connect(name, stream).await.unwrap()
    }

    /// A new box with a good ticket.
    pub(crate) async fn admitted(&self) -> PlayedBox {
        let key = DeviceKey::generate().unwrap();
        let ticket = self.ticket(key.fingerprint(), host::unix_now_s(), 100);
        PlayedBox::new(self.link(&key).await, ticket)
    }

    pub(crate) async fn manager(&self) -> Link {
        self.server_link(Role::Manager).await
    }

    pub(crate) async fn server_link(&self, role: Role) -> Link {
        let (certificate, key) = self.ca.issue(&[role], "tokyo-1").unwrap();
        let ca = self.ca.certificate_pem();
        let tls = server_client_config(&ca, &certificate, key.expose()).unwrap();
        link::connect(self.address, Role::Proxy, tls, PATIENCE).await.unwrap()
    }

    /// A file or folder of the lab.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// What `avr-proxy` with the lab's settings says to a verb, or why it does not.
    pub(crate) fn verb(&self, words: &[&str]) -> Result<String, String> {
        Self::verb_of(&self.path("proxy.toml"), words)
    }

    /// The same from another thread, for verbs that the lab's own proxy answers.
    pub(crate) fn verb_of(settings: &Path, words: &[&str]) -> Result<String, String> {
        let mut command = Command::new(env!("CARGO_BIN_EXE_avr-proxy"));
        let output = command.arg("--config").arg(settings).args(words).output().unwrap();
        let text = |bytes| String::from_utf8(bytes).unwrap();
        if output.status.success() { Ok(text(output.stdout)) } else { Err(text(output.stderr)) }
    }

    /// What the host's load average file says.
    pub(crate) fn set_load(&self, text: &str) {
        std::fs::write(self.directory.path().join("loadavg"), text).unwrap();
    }

    pub(crate) async fn ended(self) -> Served {
        tokio::time::timeout(PATIENCE, self.task).await.expect("the drain hangs").unwrap()
    }
}

pub(crate) async fn recv(link: &mut Link) -> Result<Message, LinkError> {
    tokio::time::timeout(PATIENCE, link.recv()).await.expect("no word from the proxy")
}

pub(crate) struct PlayedBox {
    pub(crate) link: Link,
    pub(crate) ticket: SignedTicket,
    pub(crate) protocol: Protocol,
}

impl PlayedBox {
    pub(crate) fn new(link: Link, ticket: SignedTicket) -> Self {
        Self { link, ticket, protocol: Protocol::Smtp }
    }

    /// Asks for a session and returns the first answer.
    pub(crate) async fn open(&mut self, destination: SocketAddr, hops_left: u8) -> Message {
        let open = Open {
            ticket: self.ticket.clone(),
            session: SessionId([9; 16]),
            lease: LeaseId(1),
            destination,
            protocol: self.protocol,
            hops_left,
        };
        self.link.send(&Message::Open(open)).await.unwrap();
        recv(&mut self.link).await.unwrap()
    }

    /// For a session that this proxy does not even try to open.
    pub(crate) async fn refused(
        &mut self,
        destination: SocketAddr,
        hops_left: u8,
    ) -> RefusedReason {
        match self.open(destination, hops_left).await {
            Message::Refused(refused) => refused.reason,
            message => panic!("{message:?}"),
        }
    }

    /// For a session that the mail server does not take.
    pub(crate) async fn refused_by_server(&mut self, destination: SocketAddr) -> RefusedReason {
        assert_eq!(self.open(destination, 1).await, Message::Opening);
        match recv(&mut self.link).await.unwrap() {
            Message::Refused(refused) => refused.reason,
            message => panic!("{message:?}"),
        }
    }

    /// Has a session opened, and leaves it so.
    pub(crate) async fn opened(&mut self, destination: SocketAddr) {
        assert_eq!(self.open(destination, 1).await, Message::Opening);
        let opened = recv(&mut self.link).await.unwrap();
        assert!(matches!(opened, Message::Opened(_)), "{opened:?}");
    }

    /// Says whom the next session is for.
    pub(crate) async fn says_client(&mut self, address: &str) {
        let client = Message::Client(Client { address: address.parse().unwrap() });
        self.link.send(&client).await.unwrap();
    }

    /// A session up to the mail server's greeting.
    pub(crate) async fn session(self, destination: SocketAddr) -> PlayedSession {
        let (session, greeting) = self.greeted(destination).await;
        assert_eq!(greeting, "220 mail.example\r\n");
        session
    }

    /// A session, and what the mail server greets with.
    pub(crate) async fn greeted(mut self, destination: SocketAddr) -> (PlayedSession, String) {
        self.opened(destination).await;
        let mut session = PlayedSession { stream: BufReader::new(self.link.into_session()) };
        let greeting = session.reply().await;
        (session, greeting)
    }
}

/// A box's end of a session, and the mail client behind it.
pub(crate) struct PlayedSession {
    stream: BufReader<SessionStream>,
}

impl PlayedSession {
    async fn reply(&mut self) -> String {
        let mut line = String::new();
        let reading = self.stream.read_line(&mut line);
        tokio::time::timeout(PATIENCE, reading).await.expect("no reply").unwrap();
        line
    }

    pub(crate) async fn command(&mut self, line: &str) -> String {
        self.stream.write_all(line.as_bytes()).await.unwrap();
        self.reply().await
    }

    /// Sends a mail, dot-stuffed already, and returns the reply to its end.
    pub(crate) async fn send_mail(&mut self, mail: &str) -> String {
        assert_eq!(self.command("EHLO pc.example\r\n").await, "250 mail.example\r\n");
        assert_eq!(self.command("MAIL FROM:<a@example.org>\r\n").await, "250 2.1.0 ok\r\n");
        assert_eq!(self.command("RCPT TO:<b@example.org>\r\n").await, "250 2.1.5 ok\r\n");
        assert_eq!(self.command("DATA\r\n").await, "354 go on\r\n");
        self.command(&format!("{mail}.\r\n")).await
    }

    /// Ends the session in order and waits until the proxy has closed the link.
    pub(crate) async fn quit_without_bye(mut self) {
        self.end().await;
        let mut stream = self.stream.into_inner();
        let closed = tokio::time::timeout(PATIENCE, stream.recv_bye()).await;
        assert_eq!(closed.expect("the proxy waits for ever"), None);
    }

    async fn end(&mut self) {
        assert_eq!(self.command("QUIT\r\n").await, "221 2.0.0 bye\r\n");
        let mut rest = Vec::new();
        self.stream.read_to_end(&mut rest).await.unwrap();
        assert!(rest.is_empty(), "{rest:?}");
        self.stream.shutdown().await.unwrap();
    }

    /// Ends the session as a box does.
    pub(crate) async fn quit(mut self) {
        self.end().await;
        let bye = Bye {
            session: SessionId([9; 16]),
            lease: LeaseId(1),
            bytes_up: 1,
            bytes_down: 1,
            messages: 0,
            infected: 0,
            unscannable: 0,
            opaque: false,
        };
        self.stream.into_inner().finish(bye).await.unwrap();
    }
}

/// A mail server that takes every mail.
pub(crate) struct MailServer {
    pub(crate) address: SocketAddr,
    mails: Arc<Mutex<Vec<String>>>,
    begun: Arc<AtomicU64>,
    ended: Arc<AtomicU64>,
}

impl MailServer {
    pub(crate) async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let server = Self {
            address: listener.local_addr().unwrap(),
            mails: Arc::default(),
            begun: Arc::default(),
            ended: Arc::default(),
        };
        let (mails, begun, ended) =
            (server.mails.clone(), server.begun.clone(), server.ended.clone());
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                begun.fetch_add(1, Ordering::Relaxed);
                let (mails, ended) = (mails.clone(), ended.clone());
                tokio::spawn(async move {
                    // A client that goes away is the end of the session, as QUIT is.
                    let _ = converse(stream, &mails).await;
                    ended.fetch_add(1, Ordering::Relaxed);
                });
            }
        });
        server
    }

    /// The mails taken, as they came.
    pub(crate) fn mails(&self) -> Vec<String> {
        self.mails.lock().unwrap().clone()
    }

    pub(crate) fn connections(&self) -> u64 {
        self.begun.load(Ordering::Relaxed)
    }

    /// Waits until so many sessions have ended; fails after [`PATIENCE`].
    pub(crate) async fn wait_ended(&self, count: u64) {
        let waiting = async {
            while self.ended.load(Ordering::Relaxed) < count {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        tokio::time::timeout(PATIENCE, waiting).await.expect("the session goes on");
    }
}

async fn converse(stream: TcpStream, mails: &Mutex<Vec<String>>) -> std::io::Result<()> {
    let mut stream = BufReader::new(stream);
    stream.write_all(b"220 mail.example\r\n").await?;
    loop {
        let mut line = String::new();
        if stream.read_line(&mut line).await? == 0 {
            return Ok(());
        }
        let reply = match line.split_ascii_whitespace().next().unwrap_or_default() {
            "EHLO" => "250 mail.example\r\n",
            "MAIL" => "250 2.1.0 ok\r\n",
            "RCPT" => "250 2.1.5 ok\r\n",
            "DATA" => {
                stream.write_all(b"354 go on\r\n").await?;
                let mut mail = String::new();
                while !mail.ends_with("\r\n.\r\n") {
                    if stream.read_line(&mut mail).await? == 0 {
                        return Ok(());
                    }
                }
                mail.truncate(mail.len() - 3);
                mails.lock().unwrap().push(mail);
                "250 2.0.0 taken\r\n"
            }
            "QUIT" => {
                stream.write_all(b"221 2.0.0 bye\r\n").await?;
                return stream.shutdown().await;
            }
            _ => "500 5.5.1 what\r\n",
        };
        stream.write_all(reply.as_bytes()).await?;
    }
}
