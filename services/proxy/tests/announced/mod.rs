//! Mail servers that are told who their client is: the bytes, and what real servers make of them.

use std::net::SocketAddr;
use std::path::Path;
use std::process::Stdio;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::process::{Child, Command};

use wire::Protocol;

use super::*;

const LOOPBACK: &str = "127.0.0.0/8";
/// The office's client, as the box says it.
const CLIENT: &str = "192.168.1.20:50000";

fn announce(settings: &mut proxy::Settings) {
    settings.proxy_protocol = vec![LOOPBACK.parse().unwrap()];
}

/// A listening socket on the loopback of one family, and its address.
async fn listen(host: &str) -> (TcpListener, SocketAddr) {
    let listener = TcpListener::bind((host, 0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    (listener, address)
}

/// What a mail server hears first of a session for this client.
async fn first_bytes(
    lab: &Lab,
    (listener, address): &(TcpListener, SocketAddr),
    client: Option<&str>,
) -> Vec<u8> {
    let mut played = lab.admitted().await;
    if let Some(client) = client {
        played.says_client(client).await;
    }
    let (_, accepted) = tokio::join!(played.opened(*address), listener.accept());
    let (mut stream, _) = accepted.unwrap();
    // It greets now, and the client says its first word behind the header.
    stream.write_all(b"220 mail.example\r\n").await.unwrap();
    let mut session = played.link.into_session();
    session.read_exact(&mut [0; 18]).await.unwrap();
    session.write_all(b"QUIT\r\n").await.unwrap();
    session.flush().await.unwrap();
    let mut bytes = Vec::new();
    while !bytes.ends_with(b"QUIT\r\n") {
        stream.read_buf(&mut bytes).await.unwrap();
    }
    bytes
}

#[tokio::test]
async fn the_header_stands_in_front_of_the_first_byte() {
    let v4 = listen("127.0.0.1").await;
    let lab = Lab::start(v4.1, announce).await;
    let begin = b"\r\n\r\n\0\r\nQUIT\n";
    let [high, low] = v4.1.port().to_be_bytes();
    let told =
        [&begin[..], &[0x21, 0x11, 0, 12, 192, 168, 1, 20, 127, 0, 0, 1, 0xc3, 0x50, high, low]];
    let expected = [&told.concat(), &b"QUIT\r\n"[..]].concat();
    assert_eq!(first_bytes(&lab, &v4, Some(CLIENT)).await, expected);
    assert_eq!(value(&lab.counters.announced), 1);
    // A box of an earlier version, and one that would have the mail server believe in itself.
    let local = [&begin[..], &[0x20, 0, 0, 0], b"QUIT\r\n"].concat();
    assert_eq!(first_bytes(&lab, &v4, None).await, local);
    assert_eq!(first_bytes(&lab, &v4, Some("127.0.0.1:50000")).await, local);
    assert_eq!(value(&lab.counters.announced_nobody), 2);
}

#[tokio::test]
async fn an_ipv6_client_is_told_likewise() {
    let v6 = listen("::1").await;
    let lab = Lab::start(v6.1, |settings| {
        settings.proxy_protocol = vec!["::1".parse().unwrap()];
        settings.policy.test.push("::1".parse().unwrap());
    })
    .await;
    let bytes = first_bytes(&lab, &v6, Some("[2001:db8::20]:50000")).await;
    let [high, low] = v6.1.port().to_be_bytes();
    let from = [0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x20];
    let to = [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1];
    let head = [0x21, 0x21, 0, 36];
    let ports = [0xc3, 0x50, high, low];
    let expected = [b"\r\n\r\n\0\r\nQUIT\n", &head[..], &from, &to, &ports, b"QUIT\r\n"].concat();
    assert_eq!(bytes, expected);
}

#[tokio::test]
async fn a_mail_server_that_is_not_listed_is_told_nothing() {
    let v4 = listen("127.0.0.1").await;
    let lab = Lab::start(v4.1, |settings| {
        settings.proxy_protocol = vec!["198.51.100.25".parse().unwrap()];
    })
    .await;
    assert_eq!(first_bytes(&lab, &v4, Some(CLIENT)).await, b"QUIT\r\n");
    assert_eq!(value(&lab.counters.announced) + value(&lab.counters.announced_nobody), 0);
}

/// A port that nobody has at this moment.
async fn free_port() -> u16 {
    listen("127.0.0.1").await.1.port()
}

/// Starts a real server whose log goes to a file, and waits until it takes connections.
async fn start(program: &str, arguments: &[&str], log: &Path, port: u16) -> Child {
    let to = || Stdio::from(std::fs::File::options().append(true).create(true).open(log).unwrap());
    let mut command = Command::new(program);
    command.args(arguments).stdin(Stdio::null()).stdout(to()).stderr(to()).kill_on_drop(true);
    let mut child = command
        .spawn()
        .unwrap_or_else(|error| panic!("{program}: {error}; scripts/install-packages has it"));
    let listens = async {
        while TcpStream::connect(("127.0.0.1", port)).await.is_err() {
            if let Some(status) = child.try_wait().unwrap() {
                panic!("{program} ended: {status}: {}", std::fs::read_to_string(log).unwrap());
            }
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(PATIENCE, listens).await.expect("it does not listen");
    child
}

/// Waits until the log has this in it.
async fn wait_logged(log: &Path, wanted: &str) {
    let logged = async {
        while !std::fs::read_to_string(log).unwrap_or_default().contains(wanted) {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    let waited = tokio::time::timeout(PATIENCE, logged).await;
    assert!(waited.is_ok(), "no {wanted} in {}", std::fs::read_to_string(log).unwrap());
}

fn path_of(path: &Path) -> &str {
    path.to_str().unwrap()
}

async fn played(lab: &Lab, client: Option<&str>) -> PlayedBox {
    let mut played = lab.admitted().await;
    if let Some(client) = client {
        played.says_client(client).await;
    }
    played
}

#[tokio::test]
async fn haproxy_takes_the_client_for_its_own() {
    let server = MailServer::start().await;
    let folder = tempfile::tempdir().unwrap();
    let port = free_port().await;
    let (settings, log) = (folder.path().join("haproxy.cfg"), folder.path().join("log"));
    let text = format!(
        "global\n log stdout format raw local0\ndefaults\n mode tcp\n timeout connect 10s\n \
         timeout client 60s\n timeout server 60s\n log global\n log-format \"from=%ci:%cp to=%fp\"\n\
         listen smtp\n bind 127.0.0.1:{port} accept-proxy\n server mail {}\n",
        server.address
    );
    std::fs::write(&settings, text).unwrap();
    let _haproxy = start("haproxy", &["-db", "-f", path_of(&settings)], &log, port).await;
    let address = SocketAddr::from(([127, 0, 0, 1], port));
    let lab = Lab::start(address, announce).await;
    let mut session = played(&lab, Some(CLIENT)).await.session(address).await;
    assert_eq!(session.send_mail(CLEAN_MAIL).await, "250 2.0.0 taken\r\n");
    session.quit().await;
    wait_logged(&log, &format!("from={CLIENT} to={port}\n")).await;
    // Without a client, HAProxy names the proxy.
    played(&lab, None).await.session(address).await.quit().await;
    wait_logged(&log, "from=127.0.0.1:").await;
    assert_eq!(server.mails(), [CLEAN_MAIL]);
}

#[tokio::test]
async fn postfix_takes_the_client_for_its_own() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    for name in ["queue", "data", "etc", "log"] {
        std::fs::create_dir(at(name)).unwrap();
    }
    let owned = std::process::Command::new("chown").arg("postfix").arg(at("data")).status();
    assert!(owned.unwrap().success(), "Postfix's master runs as root only, and so does this test");
    // Its daemons go through the folder as their own user.
    use std::os::unix::fs::PermissionsExt as _;
    std::fs::set_permissions(folder.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
    let port = free_port().await;
    let log = at("log/postfix.log");
    let main = format!(
        "compatibility_level = 3.6\nqueue_directory = {}\ndata_directory = {}\n\
         maillog_file = {}\nmaillog_file_prefixes = {}\nmyhostname = mail.example\nmydestination =\n\
         mynetworks = 203.0.113.0/24\nsmtpd_relay_restrictions = permit_mynetworks, reject\n\
         inet_interfaces = loopback-only\ninet_protocols = ipv4\ndisable_dns_lookups = yes\n\
         smtpd_peername_lookup = no\nalias_maps =\nalias_database =\n\
         smtpd_upstream_proxy_protocol = haproxy\n",
        path_of(&at("queue")),
        path_of(&at("data")),
        path_of(&log),
        path_of(folder.path()),
    );
    std::fs::write(at("etc/main.cf"), main).unwrap();
    let master = format!("127.0.0.1:{port} inet n - n - - smtpd\n{POSTFIX_SERVICES}");
    std::fs::write(at("etc/master.cf"), master).unwrap();
    let etc = at("etc");
    let mut postfix =
        start("postfix", &["-c", path_of(&etc), "start-fg"], &at("log/said"), port).await;
    let address = SocketAddr::from(([127, 0, 0, 1], port));
    let lab = Lab::start(address, announce).await;
    let (mut session, greeting) = played(&lab, Some(CLIENT)).await.greeted(address).await;
    assert_eq!(greeting, "220 mail.example ESMTP Postfix\r\n");
    assert_eq!(session.command("QUIT\r\n").await, "221 2.0.0 Bye\r\n");
    wait_logged(&log, "connect from unknown[192.168.1.20]").await;
    // Without a client, Postfix sees the proxy.
    let (mut session, _) = played(&lab, None).await.greeted(address).await;
    assert_eq!(session.command("QUIT\r\n").await, "221 2.0.0 Bye\r\n");
    wait_logged(&log, "connect from unknown[127.0.0.1]").await;
    let stopped =
        std::process::Command::new("postfix").args(["-c", path_of(&etc), "stop"]).output();
    assert!(stopped.unwrap().status.success());
    postfix.wait().await.unwrap();
}

const POSTFIX_SERVICES: &str = "\
cleanup   unix n - n -     0 cleanup
qmgr      unix n - n 300   1 qmgr
rewrite   unix - - n -     - trivial-rewrite
bounce    unix - - n -     0 bounce
anvil     unix - - n -     1 anvil
proxymap  unix - - n -     - proxymap
postlog   unix-dgram n - n - 1 postlogd
";

#[tokio::test]
async fn dovecot_takes_the_client_for_its_own() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    use std::os::unix::fs::PermissionsExt as _;
    std::fs::set_permissions(folder.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
    let port = free_port().await;
    let (settings, log) = (at("dovecot.conf"), at("log"));
    let text = format!(
        "protocols = pop3\nlisten = 127.0.0.1\nbase_dir = {run}\nstate_dir = {run}\n\
         log_path = /dev/stderr\nssl = no\ndisable_plaintext_auth = no\nauth_failure_delay = 0\n\
         haproxy_trusted_networks = 127.0.0.0/8\nmail_location = maildir:{run}/%n\n\
         passdb {{\n driver = static\n args = password=secret\n}}\n\
         userdb {{\n driver = static\n args = uid=65534 gid=65534 home={run}/%n\n}}\n\
         service pop3-login {{\n inet_listener pop3 {{\n  port = {port}\n  haproxy = yes\n }}\n}}\n",
        run = path_of(&at("run")),
    );
    std::fs::write(&settings, text).unwrap();
    let _dovecot = start("dovecot", &["-F", "-c", path_of(&settings)], &log, port).await;
    let address = SocketAddr::from(([127, 0, 0, 1], port));
    let lab = Lab::start(address, announce).await;
    let mut asking = played(&lab, Some(CLIENT)).await;
    asking.protocol = Protocol::Pop3;
    let (mut session, greeting) = asking.greeted(address).await;
    assert!(greeting.starts_with("+OK"), "{greeting}");
    assert!(session.command("USER somebody\r\n").await.starts_with("+OK"));
    assert!(session.command("PASS wrong\r\n").await.starts_with("-ERR"));
    assert!(session.command("QUIT\r\n").await.starts_with("+OK"));
    wait_logged(&log, "rip=192.168.1.20").await;
}
