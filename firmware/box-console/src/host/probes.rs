//! Questions to others on the line: names, ports, mail servers.

use std::collections::hash_map::RandomState;
use std::fs;
use std::hash::{BuildHasher as _, Hasher as _};
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{IpAddr, SocketAddr, TcpStream, UdpSocket};
use std::path::Path;
use std::time::Duration;

use hickory_proto::op::{Message, MessageType, OpCode, Query, ResponseCode};
use hickory_proto::rr::{Name, RData, RecordType};

use super::{Reporter, uptime};
use crate::command::Target;

/// How long a DNS server has.
const DNS_WAIT: Duration = Duration::from_secs(2);
/// How long a connection has.
const CONNECT_WAIT: Duration = Duration::from_secs(5);
/// How long a mail server has for all its answers: some greet late on purpose.
const SMTP_WAIT: Duration = Duration::from_secs(40);
/// Most lines of a mail server's answer, and bytes of one; RFC 5321 section 4.5.3.1.5 has 512.
const SMTP_LINES_MAX: usize = 64;
const SMTP_LINE_BYTES_MAX: u64 = 1024;
/// DNS servers that are asked; resolvers ask three.
const SERVERS_MAX: usize = 3;
const DNS_PORT: u16 = 53;
/// What a server says of a name that does not exist.
pub(crate) const NO_SUCH_NAME: &str = "there is no such name";

/// The box's DNS servers, of `resolv.conf`; a port may stand behind an address.
pub(crate) fn dns_servers(resolv_conf: &Path) -> Vec<SocketAddr> {
    let text = fs::read_to_string(resolv_conf).unwrap_or_default();
    text.lines()
        .filter_map(|line| line.trim().strip_prefix("nameserver")?.split_whitespace().next())
        .filter_map(|word| {
            word.parse().ok().or_else(|| Some(SocketAddr::new(word.parse().ok()?, DNS_PORT)))
        })
        .take(SERVERS_MAX)
        .collect()
}

/// The addresses that a server has for a name; none: it has none of this kind.
pub(crate) fn ask_dns(
    server: SocketAddr,
    name: &Name,
    kind: RecordType,
) -> Result<Vec<IpAddr>, String> {
    let id = random();
    let mut question = Message::new(id, MessageType::Query, OpCode::Query);
    question.metadata.recursion_desired = true;
    let query = Query::query(name.clone(), kind);
    question.add_query(query.clone());
    let bytes = question.to_vec().map_err(|error| format!("ask for it: {error}"))?;
    let deadline = uptime() + DNS_WAIT;
    let send = || -> std::io::Result<UdpSocket> {
        let any: IpAddr = if server.is_ipv4() { [0; 4].into() } else { [0_u16; 8].into() };
        let socket = UdpSocket::bind((any, 0))?;
        socket.connect(server)?;
        socket.send(&bytes)?;
        Ok(socket)
    };
    let socket = send().map_err(|error| error.to_string())?;
    let mut buffer = [0; 4096];
    loop {
        let left = deadline.saturating_sub(uptime());
        if left.is_zero() {
            return Err(format!("no answer within {} s", DNS_WAIT.as_secs()));
        }
        socket.set_read_timeout(Some(left)).map_err(|error| error.to_string())?;
        let bytes = match socket.recv(&mut buffer) {
            Ok(bytes) => buffer.get(..bytes).unwrap_or_default(),
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => continue,
            Err(error) => return Err(error.to_string()),
        };
        let Ok(answer) = Message::from_vec(bytes) else { continue };
        if answer.metadata.id != id || answer.queries.as_slice() != [query.clone()] {
            continue;
        }
        return match answer.metadata.response_code {
            ResponseCode::NoError => Ok(answer
                .answers
                .iter()
                .filter_map(|record| match &record.data {
                    RData::A(address) => Some(IpAddr::V4(address.0)),
                    RData::AAAA(address) => Some(IpAddr::V6(address.0)),
                    _ => None,
                })
                .collect()),
            ResponseCode::NXDomain => Err(NO_SUCH_NAME.to_owned()),
            code => Err(format!("it says {code}")),
        };
    }
}

/// An address for a name, of the first server that has one.
pub(crate) fn resolve(host: &str, resolv_conf: &Path) -> Result<IpAddr, String> {
    if let Ok(address) = host.parse() {
        return Ok(address);
    }
    let name = absolute(host)?;
    let servers = dns_servers(resolv_conf);
    if servers.is_empty() {
        return Err(format!("{host}: no DNS server is known, so names cannot be looked up"));
    }
    let mut problem = format!("{host} has no address");
    for server in servers {
        for kind in [RecordType::A, RecordType::AAAA] {
            match ask_dns(server, &name, kind) {
                Ok(addresses) => {
                    if let Some(address) = addresses.first() {
                        return Ok(*address);
                    }
                }
                Err(error) => problem = format!("{host}: DNS server {server}: {error}"),
            }
        }
    }
    Err(problem)
}

pub(crate) fn absolute(host: &str) -> Result<Name, String> {
    let mut name =
        Name::from_ascii(host).map_err(|error| format!("\"{host}\" is no name: {error}"))?;
    name.set_fqdn(true);
    Ok(name)
}

pub(crate) fn dns(host: &str, resolv_conf: &Path, reporter: &Reporter) -> Result<(), String> {
    let name = absolute(host)?;
    let servers = dns_servers(resolv_conf);
    if servers.is_empty() {
        return Err("no DNS server is known: DHCP has named none, and none is set".to_owned());
    }
    for server in servers {
        let mut found = Vec::new();
        let began = uptime();
        let mut problem = None;
        for kind in [RecordType::A, RecordType::AAAA] {
            match ask_dns(server, &name, kind) {
                Ok(addresses) => found.extend(addresses.iter().map(ToString::to_string)),
                Err(error) => problem = Some(error),
            }
            if reporter.is_cancelled() {
                return Ok(());
            }
        }
        let milliseconds = (uptime() - began).as_millis();
        reporter.line(match problem {
            Some(problem) if found.is_empty() => format!("FAIL {server}: {problem}"),
            _ if found.is_empty() => format!("PASS {server}: no address ({milliseconds} ms)"),
            _ => format!("PASS {server}: {} ({milliseconds} ms)", found.join(", ")),
        });
    }
    Ok(())
}

/// Opens a TCP connection.
pub(crate) fn connect(
    target: &Target,
    resolv_conf: &Path,
) -> Result<(TcpStream, SocketAddr, u128), String> {
    let address = SocketAddr::new(resolve(&target.host, resolv_conf)?, target.port);
    let began = uptime();
    let stream = TcpStream::connect_timeout(&address, CONNECT_WAIT)
        .map_err(|error| format!("{address}: {error}"))?;
    Ok((stream, address, (uptime() - began).as_millis()))
}

pub(crate) fn port(target: &Target, resolv_conf: &Path, reporter: &Reporter) -> Result<(), String> {
    let (_, address, milliseconds) = connect(target, resolv_conf)?;
    reporter.line(format!("PASS {address}: open, {milliseconds} ms"));
    Ok(())
}

pub(crate) fn smtp(target: &Target, resolv_conf: &Path, reporter: &Reporter) -> Result<(), String> {
    let (stream, address, milliseconds) = connect(target, resolv_conf)?;
    reporter.line(format!("{address}: open, {milliseconds} ms"));
    let deadline = uptime() + SMTP_WAIT;
    let mut reader = BufReader::new(stream);
    answer(&mut reader, deadline, "220", reporter)?;
    for (command, good) in [("EHLO localhost", "250"), ("QUIT", "221")] {
        reporter.line(format!("> {command}"));
        let sent = reader.get_mut().write_all(format!("{command}\r\n").as_bytes());
        sent.map_err(|error| format!("it does not take what is sent: {error}"))?;
        answer(&mut reader, deadline, good, reporter)?;
    }
    reporter.line(format!("PASS {address}: speaks SMTP"));
    Ok(())
}

/// One answer of all its lines (RFC 5321 section 4.2.1).
fn answer(
    reader: &mut BufReader<TcpStream>,
    deadline: Duration,
    good: &str,
    reporter: &Reporter,
) -> Result<(), String> {
    for _ in 0..SMTP_LINES_MAX {
        let mut line = Vec::new();
        while !line.ends_with(b"\n") {
            let left = deadline.saturating_sub(uptime());
            if left.is_zero() || reporter.is_cancelled() {
                return Err(format!("no whole answer within {} s", SMTP_WAIT.as_secs()));
            }
            // In small pieces, so that one who has given up is noticed.
            let piece = left.min(Duration::from_millis(500));
            reader.get_ref().set_read_timeout(Some(piece)).map_err(|error| error.to_string())?;
            let room =
                SMTP_LINE_BYTES_MAX.saturating_sub(u64::try_from(line.len()).unwrap_or(u64::MAX));
            match reader.by_ref().take(room).read_until(b'\n', &mut line) {
                Ok(0) if room == 0 => return Err("it answers with an endless line".to_owned()),
                Ok(0) => return Err("it closed the connection".to_owned()),
                Ok(_) => {}
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(format!("read its answer: {error}")),
            }
        }
        let line = String::from_utf8_lossy(&line);
        let line = line.trim_end();
        reporter.line(format!("< {line}"));
        if line.as_bytes().get(3) == Some(&b'-') {
            continue;
        }
        if line.starts_with(good) {
            return Ok(());
        }
        return Err(format!("it should have said {good}"));
    }
    Err(format!("its answer has more than {SMTP_LINES_MAX} lines"))
}

/// The number of a question: only whoever saw it can answer.
fn random() -> u16 {
    let [low, high, ..] = RandomState::new().build_hasher().finish().to_le_bytes();
    u16::from_le_bytes([low, high])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn servers_are_read_with_and_without_a_port() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("resolv.conf");
        fs::write(&path, "search x\nnameserver 192.0.2.53\n nameserver 2001:db8::53 # x\nnameserver 127.0.0.1:5353\nnameserver x\n").unwrap();
        let servers: Vec<String> = dns_servers(&path).iter().map(ToString::to_string).collect();
        assert_eq!(servers, ["192.0.2.53:53", "[2001:db8::53]:53", "127.0.0.1:5353"]);
    }
}
