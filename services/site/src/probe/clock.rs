//! The clock, compared with a time server's (SNTP, RFC 4330).

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};

use service_kit::host::WallClock;
use tokio::net::UdpSocket;
use tokio::time::timeout;

use super::{PROBE_TIME_MAX, ProbeError};
use crate::diag::Found;
use crate::dns::update::in_words;

/// The port of NTP.
pub const NTP_PORT: u16 = 123;
/// Apart by more than this, in seconds, a clock is wrong: tickets and signatures have times.
pub const APART_S_MAX: u64 = 30;
/// Apart by more than this, in seconds, nobody keeps it right.
pub const APART_S_DOUBTFUL: u64 = 3;
/// Bytes of a message.
const BYTES: usize = 48;
/// Version 4, client.
const REQUEST_MODE: u8 = 0x23;
/// From NTP's 1900 to 1970, in seconds.
const EPOCH_S: u64 = 2_208_988_800;

/// The request. `cookie` stands where the server copies it from.
fn request(cookie: u64) -> [u8; BYTES] {
    let mut request = [0; BYTES];
    let [first, .., last] = request.each_mut();
    *first = REQUEST_MODE;
    *last = 0;
    for (place, byte) in request.iter_mut().skip(40).zip(cookie.to_be_bytes()) {
        *place = byte;
    }
    request
}

/// The server's time, in seconds since 1970.
fn parse(answer: &[u8], cookie: u64) -> Result<u64, &'static str> {
    let field = |from: usize, length: usize| answer.get(from..from + length);
    let number = |bytes: &[u8]| bytes.iter().fold(0, |sum, byte| sum << 8 | u64::from(*byte));
    let [flags, stratum] = *field(0, 2).ok_or("it is too short")? else {
        return Err("it is too short");
    };
    let (seconds, origin) = match (field(40, 4), field(24, 8)) {
        (Some(seconds), Some(origin)) => (number(seconds), number(origin)),
        _ => return Err("it is too short"),
    };
    if flags & 0x07 != 4 || origin != cookie {
        return Err("it is no answer to the question");
    }
    if flags >> 6 == 3 || !(1..16).contains(&stratum) || seconds == 0 {
        return Err("the server does not know the time itself");
    }
    // The second era begins in 2036.
    let since_1900 = if seconds < EPOCH_S { seconds + (1 << 32) } else { seconds };
    Ok(since_1900 - EPOCH_S)
}

/// Compares this machine's clock with that of `server`.
pub async fn compare(server: &str, clock: WallClock) -> Found {
    let unknown = |why: String| {
        Found::doubtful(
            format!("could not be compared with {server}: {why}"),
            "name a time server that answers (`ntp` in site.toml, or --ntp)",
        )
    };
    let looked_up = match server.parse::<std::net::IpAddr>() {
        Ok(ip) => Some(SocketAddr::new(ip, NTP_PORT)),
        Err(_) if server.contains(':') => server.parse().ok(),
        Err(_) => {
            match timeout(PROBE_TIME_MAX, tokio::net::lookup_host((server, NTP_PORT))).await {
                Ok(Ok(mut addresses)) => addresses.next(),
                _ => None,
            }
        }
    };
    let Some(address) = looked_up else { return unknown("it has no address".to_owned()) };
    match ask(address, clock).await {
        Ok(Ok(theirs_s)) => judge(theirs_s, clock(), server),
        Ok(Err(why)) => unknown(why.to_owned()),
        Err(error) => unknown(error.to_string()),
    }
}

fn judge(theirs_s: u64, ours_s: u64, server: &str) -> Found {
    let apart_s = theirs_s.abs_diff(ours_s);
    let side = if ours_s > theirs_s { "ahead of" } else { "behind" };
    let what = format!("{} {side} {server}", in_words(apart_s));
    match apart_s {
        // Less than what whole seconds can tell.
        0 | 1 => Found::Good(format!("as {server} has it")),
        _ if apart_s <= APART_S_DOUBTFUL => Found::Good(what),
        _ if apart_s <= APART_S_MAX => {
            Found::doubtful(what, "let a time service keep it (apt install chrony)")
        }
        _ => Found::wrong(
            what,
            "set it (chronyc makestep) and let a time service keep it: boxes' tickets and changes \
             in DNS are refused with a wrong clock",
        ),
    }
}

async fn ask(
    address: SocketAddr,
    clock: WallClock,
) -> Result<Result<u64, &'static str>, ProbeError> {
    let any: std::net::IpAddr = match address {
        SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    // Not a secret: whoever could answer in the server's place is on the way anyhow.
    let cookie = clock() << 32 | u64::from(std::process::id());
    let work = async {
        let socket = UdpSocket::bind((any, 0)).await?;
        socket.connect(address).await?;
        socket.send(&request(cookie)).await?;
        let mut answer = [0; 2 * BYTES];
        let length = socket.recv(&mut answer).await?;
        Ok(parse(answer.get(..length).unwrap_or_default(), cookie))
    };
    match timeout(PROBE_TIME_MAX, work).await {
        Ok(done) => done.map_err(|error| ProbeError::Network(address, error)),
        Err(_) => Err(ProbeError::Silent(address)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::diag::Found;

    const NOW_S: u64 = 1_795_407_060;
    const COOKIE: u64 = 0x0102_0304_0506_0708;

    fn answer(seconds: u64, flags: u8, stratum: u8) -> Vec<u8> {
        let mut answer = vec![0; BYTES];
        answer[0] = flags;
        answer[1] = stratum;
        answer[24..32].copy_from_slice(&COOKIE.to_be_bytes());
        let bytes = seconds.to_be_bytes();
        answer[40..44].copy_from_slice(&bytes[4..]);
        answer
    }

    #[test]
    fn a_servers_time_is_read_in_both_eras() {
        assert_eq!(parse(&answer(NOW_S + EPOCH_S, 0x24, 2), COOKIE), Ok(NOW_S));
        let in_2040 = 2_208_988_800;
        assert_eq!(parse(&answer(in_2040 + EPOCH_S, 0x24, 2), COOKIE), Ok(in_2040));
        assert_eq!(request(COOKIE)[40..48], COOKIE.to_be_bytes());
        assert_eq!(request(COOKIE)[0], 0x23);
    }

    #[test]
    fn answers_that_say_nothing_are_refused() {
        let good = NOW_S + EPOCH_S;
        assert!(parse(&answer(good, 0x23, 2), COOKIE).unwrap_err().contains("no answer"));
        assert!(parse(&answer(good, 0x24, 2), 7).unwrap_err().contains("no answer"));
        for (flags, stratum) in [(0xe4, 2), (0x24, 0), (0x24, 16)] {
            let error = parse(&answer(good, flags, stratum), COOKIE).unwrap_err();
            assert!(error.contains("does not know the time"), "{error}");
        }
        assert!(parse(&answer(good, 0x24, 2)[..47], COOKIE).is_ok());
        assert!(parse(&answer(good, 0x24, 2)[..43], COOKIE).unwrap_err().contains("short"));
        assert!(parse(b"", COOKIE).is_err());
    }

    #[tokio::test]
    async fn a_server_is_asked_and_one_that_is_silent_is_no_fault_of_the_clock() {
        let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let server = socket.local_addr().unwrap().to_string();
        let reply = async {
            let mut request = [0; BYTES];
            let (_, peer) = socket.recv_from(&mut request).await.unwrap();
            let mut reply = answer(NOW_S + EPOCH_S, 0x24, 2);
            reply[24..32].copy_from_slice(&request[40..48]);
            socket.send_to(&reply, peer).await.unwrap();
        };
        let (found, ()) = tokio::join!(compare(&server, || NOW_S + 40), reply);
        let Found::Wrong { what, .. } = found else { panic!("{found:?}") };
        assert_eq!(what, format!("40 seconds ahead of {server}"));
        drop(socket);
        assert!(matches!(compare(&server, || NOW_S).await, Found::Doubtful { .. }));
    }

    #[test]
    fn how_far_is_too_far() {
        assert!(matches!(judge(NOW_S, NOW_S + 3, "x"), Found::Good(_)));
        assert!(matches!(judge(NOW_S, NOW_S - 4, "x"), Found::Doubtful { .. }));
        let Found::Wrong { what, .. } = judge(NOW_S, NOW_S + 7200, "x") else { panic!() };
        assert_eq!(what, "2 hours ahead of x");
    }

    proptest::proptest! {
        #[test]
        fn any_answer_is_taken_without_a_panic(
            bytes in proptest::collection::vec(proptest::num::u8::ANY, 0..100),
            cookie in proptest::num::u64::ANY,
        ) {
            let _ = parse(&bytes, cookie);
        }
    }
}
