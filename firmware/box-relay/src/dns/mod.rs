//! Asks resolvers for the addresses of one name, by UDP and, where that is too short, by TCP.
//!
//! Both families are asked at the same time. Each question has a random number and its own socket,
//! hence a random source port, connected so that only the resolver's datagrams are seen (RFC 5452
//! section 9). What is not the answer is ignored until the resolver's time is up; then the next
//! resolver is asked.

mod message;

use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::time::Duration;

use hickory_proto::op::ResponseCode;
use hickory_proto::rr::Name;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpStream, UdpSocket};
use tokio::time::{Instant, timeout, timeout_at};

use crate::directory::Answer;
use crate::limits::{DNS_GARBAGE_MAX, DNS_UDP_BYTES_MAX, RESOLVERS_MAX, Timing};
use message::{Family, Question, Reading, join};

/// Where DNS listens.
const DNS_PORT: u16 = 53;

/// Why a name could not be looked up.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LookupError {
    /// The settings' fault.
    #[error("the name to look up is not a domain name")]
    Name,
    /// The machine's fault.
    #[error("no resolver is known: none in the settings, none in resolv.conf")]
    NoResolver,
    /// The operator's, or the resolver's.
    #[error("the name has no addresses")]
    NoAddresses,
    /// The last resolver's fault.
    #[error("ask resolver {resolver}")]
    Resolver {
        /// The last one asked.
        resolver: SocketAddr,
        /// What it did.
        #[source]
        source: ResolverError,
    },
}

/// Why one resolver did not help.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ResolverError {
    /// Ours, or no route.
    #[error("exchange with the resolver")]
    Io(#[from] std::io::Error),
    /// It was silent, or sent nothing that answers the question.
    #[error("no answer in time")]
    TimedOut,
    /// It sent datagrams without end that are no answer.
    #[error("more than {DNS_GARBAGE_MAX} datagrams that are no answer")]
    Garbage,
    /// By TCP it sent something that is not the answer.
    #[error("the TCP answer does not belong to the question")]
    NotOurs,
    /// It answered that it cannot.
    #[error("the resolver says {0}")]
    Failed(ResponseCode),
}

/// Looks up the IPv4 and IPv6 addresses of `name`.
///
/// # Errors
///
/// If neither family gave an address, says why for the last resolver asked.
pub(crate) async fn lookup(
    name: &str,
    resolvers: &[SocketAddr],
    timing: &Timing,
) -> Result<Answer, LookupError> {
    let name = Name::from_ascii(name).map_err(|_| LookupError::Name)?;
    let v4 = family(&name, Family::V4, resolvers, timing);
    let v6 = family(&name, Family::V6, resolvers, timing);
    tokio::pin!(v4, v6);
    // Some resolvers never answer for one of the families: the other one does not wait for that.
    let (v4, v6) = tokio::select! {
        v4 = &mut v4 => { let v6 = second(&v4, v6, timing).await; (Some(v4), v6) }
        v6 = &mut v6 => { let v4 = second(&v6, v4, timing).await; (v4, Some(v6)) }
    };
    match (v4.transpose(), v6.transpose()) {
        (Ok(v4), Ok(v6)) => join(v4, v6).ok_or(LookupError::NoAddresses),
        (Ok(found), Err(error)) | (Err(error), Ok(found)) => join(found, None).ok_or(error),
        (Err(error), Err(_)) => Err(error),
    }
}

/// Addresses of any host, asked of these resolvers or, where there are none, of those of
/// `/etc/resolv.conf`; how long that may take is as for the sites.
///
/// # Errors
///
/// If neither family gave an address, says why for the last resolver asked.
pub async fn lookup_host(
    name: &str,
    resolvers: &[SocketAddr],
) -> Result<Vec<IpAddr>, impl std::error::Error + Send + Sync + 'static> {
    let resolvers = self::resolvers(resolvers, Path::new("/etc/resolv.conf"));
    lookup(name, &resolvers, &Timing::default()).await.map(|answer| answer.addresses)
}

/// The other family's outcome; none if it takes too long and the first gave addresses.
async fn second(
    first: &Result<Answer, LookupError>,
    other: impl Future<Output = Result<Answer, LookupError>>,
    timing: &Timing,
) -> Option<Result<Answer, LookupError>> {
    match first {
        Ok(answer) if !answer.addresses.is_empty() => {
            timeout(timing.dns_second_family_max, other).await.ok()
        }
        _ => Some(other.await),
    }
}

/// The addresses in bytes that claim to answer whichever question they carry; for `tests/fuzz`.
#[doc(hidden)]
#[must_use]
pub fn read_dns_answer(bytes: &[u8]) -> Vec<IpAddr> {
    let id = bytes.first_chunk().copied().map(u16::from_be_bytes).unwrap_or_default();
    let Ok(name) = Name::from_ascii("manager.avr.example") else { return vec![] };
    let mut addresses = Vec::new();
    for family in [Family::V4, Family::V6] {
        if let Reading::Answer(answer) = Question::new(&name, family, id).read(bytes) {
            addresses.extend(answer.addresses);
        }
    }
    addresses
}

/// The resolvers to ask: those of the settings, else those of a `resolv.conf` file.
pub(crate) fn resolvers(settings: &[SocketAddr], resolv_conf: &Path) -> Vec<SocketAddr> {
    let mut resolvers = settings.to_vec();
    if resolvers.is_empty() {
        resolvers = parse_resolv_conf(&std::fs::read(resolv_conf).unwrap_or_default());
    }
    resolvers.truncate(RESOLVERS_MAX);
    resolvers
}

/// Sixteen bits that nobody can guess.
pub(crate) fn random_u16() -> u16 {
    let mut bytes = [0; 2];
    // Fails only where the operating system has no randomness at all; the random source port is
    // then still there, and garbage is checked for as always.
    let _ = aws_lc_rs::rand::fill(&mut bytes);
    u16::from_be_bytes(bytes)
}

/// One family, resolver by resolver.
async fn family(
    name: &Name,
    family: Family,
    resolvers: &[SocketAddr],
    timing: &Timing,
) -> Result<Answer, LookupError> {
    let mut error = LookupError::NoResolver;
    for &resolver in resolvers {
        let question = Question::new(name, family, random_u16());
        match ask(&question, resolver, timing).await {
            Ok(answer) => return Ok(answer),
            Err(source) => {
                tracing::debug!(%resolver, error = %telemetry::chain(&source), "resolver skipped");
                error = LookupError::Resolver { resolver, source };
            }
        }
    }
    Err(error)
}

/// One question to one resolver.
async fn ask(
    question: &Question,
    resolver: SocketAddr,
    timing: &Timing,
) -> Result<Answer, ResolverError> {
    let end = Instant::now() + timing.dns_resolver_max;
    let bytes = question.encode().ok_or_else(|| std::io::Error::other("name too long"))?;
    let reading = match by_udp(question, &bytes, resolver, timing.dns_resend, end).await? {
        Reading::Truncated => timeout_at(end, by_tcp(question, &bytes, resolver))
            .await
            .map_err(|_| ResolverError::TimedOut)??,
        reading => reading,
    };
    match reading {
        Reading::Answer(answer) => Ok(answer),
        Reading::Failed(code) => Err(ResolverError::Failed(code)),
        Reading::NotOurs | Reading::Truncated => Err(ResolverError::NotOurs),
    }
}

async fn by_udp(
    question: &Question,
    bytes: &[u8],
    resolver: SocketAddr,
    resend: Duration,
    end: Instant,
) -> Result<Reading, ResolverError> {
    let any = match resolver {
        SocketAddr::V4(_) => IpAddr::from([0; 4]),
        SocketAddr::V6(_) => IpAddr::from([0; 16]),
    };
    let socket = UdpSocket::bind((any, 0)).await?;
    socket.connect(resolver).await?;
    let mut buffer = vec![0; DNS_UDP_BYTES_MAX];
    let mut garbage = 0;
    let mut send_again = Instant::now();
    loop {
        if Instant::now() >= end {
            return Err(ResolverError::TimedOut);
        }
        if Instant::now() >= send_again {
            socket.send(bytes).await?;
            send_again += resend;
        }
        let Ok(received) = timeout_at(end.min(send_again), socket.recv(&mut buffer)).await else {
            continue;
        };
        let datagram = buffer.get(..received?).unwrap_or_default();
        match question.read(datagram) {
            Reading::NotOurs => garbage += 1,
            reading => return Ok(reading),
        }
        if garbage > DNS_GARBAGE_MAX {
            return Err(ResolverError::Garbage);
        }
    }
}

/// RFC 1035 section 4.2.2: two bytes of length, then the message.
async fn by_tcp(
    question: &Question,
    bytes: &[u8],
    resolver: SocketAddr,
) -> Result<Reading, ResolverError> {
    let mut stream = TcpStream::connect(resolver).await?;
    let length = u16::try_from(bytes.len()).map_err(std::io::Error::other)?;
    let mut framed = length.to_be_bytes().to_vec();
    framed.extend_from_slice(bytes);
    stream.write_all(&framed).await?;
    let mut answer = vec![0; stream.read_u16().await?.into()];
    stream.read_exact(&mut answer).await?;
    Ok(question.read(&answer))
}

/// The `nameserver` lines (resolv.conf(5)). Addresses with an interface name after `%` are left
/// out: the interface's number is not ours to look up here.
fn parse_resolv_conf(bytes: &[u8]) -> Vec<SocketAddr> {
    String::from_utf8_lossy(bytes)
        .lines()
        .filter_map(|line| {
            let mut words = line.split_ascii_whitespace();
            (words.next() == Some("nameserver")).then(|| words.next()).flatten()
        })
        .filter_map(|word| word.parse::<IpAddr>().ok())
        .map(|ip| SocketAddr::new(ip, DNS_PORT))
        .take(RESOLVERS_MAX)
        .collect()
}

#[cfg(test)]
mod tests {
    use hickory_proto::rr::RecordType;

    use super::*;
    use crate::tests_support::dns::{FakeDns, Reply};

    fn timing() -> Timing {
        Timing {
            dns_resend: Duration::from_millis(400),
            dns_resolver_max: Duration::from_millis(1200),
            ..Timing::default()
        }
    }

    fn ip(last: u8) -> IpAddr {
        IpAddr::from([127, 0, 0, last])
    }

    async fn ask(server: &FakeDns) -> Result<Answer, LookupError> {
        lookup("manager.example", &[server.address], &timing()).await
    }

    #[tokio::test]
    async fn both_families_are_asked_and_joined() {
        let server = FakeDns::start().await;
        server.set(Reply::addresses(&[ip(3), ip(2), "::1".parse().unwrap()], 1200));
        let answer = ask(&server).await.unwrap();
        assert_eq!(answer.addresses, [ip(3), ip(2), "::1".parse().unwrap()]);
        assert_eq!(answer.ttl_s, 1200);
        let ports = server.source_ports();
        assert_eq!(ports.len(), 2);
        assert_ne!(ports[0], ports[1], "each question has its own port");
    }

    #[tokio::test]
    async fn garbage_and_wrong_numbers_are_ignored_until_the_answer_comes() {
        let server = FakeDns::start().await;
        server.set(Reply { garbage_before: 5, ..Reply::addresses(&[ip(2)], 60) });
        assert_eq!(ask(&server).await.unwrap().addresses, [ip(2)]);
    }

    #[tokio::test]
    async fn garbage_without_end_gives_the_resolver_up() {
        let server = FakeDns::start().await;
        server.set(Reply { garbage_before: 2 * DNS_GARBAGE_MAX, ..Reply::silent() });
        let error = ask(&server).await.unwrap_err();
        let LookupError::Resolver { source, .. } = error else { panic!("{error}") };
        assert!(matches!(source, ResolverError::Garbage | ResolverError::TimedOut), "{source}");
    }

    #[tokio::test]
    async fn truncated_answers_come_by_tcp() {
        let server = FakeDns::start().await;
        server.set(Reply { truncated: true, ..Reply::addresses(&[ip(2), ip(3)], 60) });
        assert_eq!(ask(&server).await.unwrap().addresses, [ip(2), ip(3)]);
        assert_eq!(server.tcp_questions(), 2);
    }

    #[tokio::test]
    async fn a_lost_datagram_is_sent_again() {
        let server = FakeDns::start().await;
        server.set(Reply { dropped: 2, ..Reply::addresses(&[ip(2)], 60) });
        assert_eq!(ask(&server).await.unwrap().addresses, [ip(2)]);
    }

    #[tokio::test]
    async fn a_resolver_that_fails_or_is_silent_is_passed_over() {
        let (failing, silent, good) =
            (FakeDns::start().await, FakeDns::start().await, FakeDns::start().await);
        failing.set(Reply { code: ResponseCode::ServFail, ..Reply::addresses(&[], 0) });
        silent.set(Reply::silent());
        good.set(Reply::addresses(&[ip(9)], 60));
        let resolvers = [failing.address, silent.address, good.address];
        let answer = lookup("manager.example", &resolvers, &timing()).await.unwrap();
        assert_eq!(answer.addresses, [ip(9)]);
    }

    #[tokio::test]
    async fn a_family_that_is_never_answered_does_not_hold_up_the_other() {
        let server = FakeDns::start().await;
        server.set(Reply { only: Some(RecordType::A), ..Reply::addresses(&[ip(2)], 60) });
        let timing = Timing {
            dns_resolver_max: Duration::from_secs(60),
            dns_second_family_max: Duration::from_millis(50),
            ..timing()
        };
        let resolvers = [server.address];
        let lookup = lookup("manager.example", &resolvers, &timing);
        let answer = timeout(Duration::from_secs(10), lookup).await.unwrap().unwrap();
        assert_eq!(answer.addresses, [ip(2)]);
    }

    #[tokio::test]
    async fn failures_say_whose_fault_it_is() {
        let server = FakeDns::start().await;
        server.set(Reply { code: ResponseCode::ServFail, ..Reply::addresses(&[], 0) });
        let text = telemetry::chain(&ask(&server).await.unwrap_err());
        assert!(text.contains(&server.address.to_string()) && text.contains("says"), "{text}");
        server.set(Reply::addresses(&[], 0));
        assert!(matches!(ask(&server).await, Err(LookupError::NoAddresses)));
        server.set(Reply { code: ResponseCode::NXDomain, ..Reply::addresses(&[], 0) });
        assert!(matches!(ask(&server).await, Err(LookupError::NoAddresses)));
        assert!(matches!(lookup("a", &[], &timing()).await, Err(LookupError::NoResolver)));
        let long = "x".repeat(64);
        assert!(matches!(lookup(&long, &[], &timing()).await, Err(LookupError::Name)));
    }

    #[test]
    fn resolv_conf_gives_its_nameservers() {
        let text = b"# comment\nsearch example\nnameserver 192.0.2.1\n nameserver\t2001:db8::1 \n\
                     nameserver fe80::1%eth0\nnameserver what\nnameserver\noptions edns0\n";
        let expected: Vec<SocketAddr> =
            vec!["192.0.2.1:53".parse().unwrap(), "[2001:db8::1]:53".parse().unwrap()];
        assert_eq!(parse_resolv_conf(text), expected);
        let many = "nameserver 192.0.2.1\n".repeat(100);
        assert_eq!(parse_resolv_conf(many.as_bytes()).len(), RESOLVERS_MAX);
        assert_eq!(parse_resolv_conf(b"\xff\xfe\0"), []);
    }
}
