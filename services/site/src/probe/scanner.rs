//! The site's anti-virus servers: `clamd` and ICAP.

use std::net::SocketAddr;

use service_kit::host::WallClock;

use super::{exchange, shown};
use crate::diag::Found;
use crate::dns::update::in_words;

/// Signatures older than this, in seconds, are not kept up to date: `freshclam` looks many times a
/// day, and there are new ones on most days.
pub const SIGNATURES_AGE_S_MAX: u64 = 3 * 24 * 60 * 60;

const MONTHS: [&str; 12] =
    ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];

/// Asks a `clamd` whether it is there, and how old its signatures are.
pub async fn clamd(address: SocketAddr, clock: WallClock) -> Found {
    let remedy = format!("start clamd there, and let it listen (TCPSocket {})", address.port());
    let ends = |answer: &[u8]| answer.ends_with(b"\0");
    match exchange(address, b"zPING\0", ends).await {
        Ok(answer) if answer == b"PONG\0" => {}
        Ok(answer) => {
            let what = format!("{address} says \"{}\" to PING", shown(&answer));
            return Found::wrong(what, "let a clamd listen there");
        }
        Err(error) => return Found::wrong(error.to_string(), remedy),
    }
    match exchange(address, b"zVERSION\0", ends).await {
        Ok(answer) => judge_version(&shown(&answer), clock()),
        Err(error) => Found::wrong(error.to_string(), remedy),
    }
}

/// `ClamAV 1.0.7/27462/Tue Nov 19 08:31:15 2024`.
fn judge_version(version: &str, now_s: u64) -> Found {
    let fresh = "let freshclam fetch signatures, and clamd load them";
    let mut parts = version.splitn(3, '/');
    let (Some(program), Some(_), Some(date)) = (parts.next(), parts.next(), parts.next()) else {
        return Found::doubtful(format!("{version}, without a date of its signatures"), fresh);
    };
    let Some(made_s) = parse_date(date) else {
        return Found::doubtful(format!("{version}: no date that can be read"), fresh);
    };
    let age_s = now_s.saturating_sub(made_s);
    let what = format!("{program}, signatures {} old", in_words(age_s));
    match age_s {
        0..=SIGNATURES_AGE_S_MAX => Found::Good(what),
        _ => Found::doubtful(what, fresh),
    }
}

/// A date of ctime(3), taken as UTC, in seconds since 1970.
fn parse_date(text: &str) -> Option<u64> {
    let fields: Vec<&str> = text.split_ascii_whitespace().collect();
    let [_, month, day, time, year] = fields.as_slice() else { return None };
    let month = u64::try_from(MONTHS.iter().position(|name| name == month)?).ok()? + 1;
    let day: u64 = day.parse().ok().filter(|day| (1..=31).contains(day))?;
    let year: u64 = year.parse().ok().filter(|year| (1970..=9999).contains(year))?;
    let mut clock = time.split(':').map(|part| part.parse::<u64>().ok().filter(|n| *n < 61));
    let (hour, minute, second) = (clock.next()??, clock.next()??, clock.next()??);
    // Days of the civil calendar in eras of 400 years that begin on 1 March (Howard Hinnant,
    // "chrono-Compatible Low-Level Date Algorithms", days_from_civil).
    let year = if month <= 2 { year - 1 } else { year };
    let year_of_era = year % 400;
    let month_from_march = if month > 2 { month - 3 } else { month + 9 };
    let day_of_year = (153 * month_from_march + 2) / 5 + day - 1;
    let day_of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year;
    let days = (year / 400 * 146_097 + day_of_era).checked_sub(719_468)?;
    Some(days * 86_400 + hour * 3_600 + minute * 60 + second)
}

/// Asks an ICAP service whether it is there (OPTIONS, RFC 3507 section 4.10).
pub async fn icap(address: SocketAddr, service: &str) -> Found {
    let request = format!(
        "OPTIONS icap://{address}/{service} ICAP/1.0\r\nHost: {address}\r\nUser-Agent: avr-site\r\n\r\n"
    );
    let whole = |answer: &[u8]| answer.windows(4).any(|bytes| bytes == b"\r\n\r\n");
    match exchange(address, request.as_bytes(), whole).await {
        Ok(answer) => judge_icap(&shown(&answer), service),
        Err(error) => Found::wrong(error.to_string(), "start the ICAP server there"),
    }
}

fn judge_icap(status: &str, service: &str) -> Found {
    let mut words = status.split(' ');
    match (words.next(), words.next()) {
        (Some("ICAP/1.0"), Some("200")) => Found::Good(format!("{service} is there")),
        (Some("ICAP/1.0"), Some("404")) => Found::wrong(
            format!("the server has no service {service}"),
            "write the service that the server's settings name (c-icap: ServiceAlias)",
        ),
        (Some("ICAP/1.0"), Some(_)) => {
            Found::wrong(format!("the server says \"{status}\""), "look into the server's log")
        }
        _ => Found::wrong(
            format!("\"{status}\" is no answer of ICAP"),
            "let an ICAP server listen there, or write another port",
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_of_signatures() {
        assert_eq!(parse_date("Thu Jan  1 00:00:00 1970"), Some(0));
        assert_eq!(parse_date("Tue Feb 29 23:59:59 2000"), Some(951_868_799));
        assert_eq!(parse_date("Mon Nov 23 04:11:00 2026"), Some(1_795_407_060));
        for bad in [
            "",
            "Tue Nov 19 2024",
            "Tue Nux 19 08:31:15 2024",
            "Tue Nov 40 08:31:15 2024",
            "Tue Nov 19 08:31 2024",
            "Tue Nov 19 08:31:99 2024",
            "x Jan 1 0:0:0 99999",
        ] {
            assert_eq!(parse_date(bad), None, "{bad}");
        }
    }

    #[test]
    fn old_signatures_are_doubtful() {
        let now_s = 1_795_407_060;
        let version = "ClamAV 1.0.7/27462/Mon Nov 23 04:11:00 2026";
        assert_eq!(
            judge_version(version, now_s + 3600),
            Found::Good("ClamAV 1.0.7, signatures 1 hour old".to_owned())
        );
        let old = judge_version(version, now_s + SIGNATURES_AGE_S_MAX + 1);
        let Found::Doubtful { what, .. } = old else { panic!("{old:?}") };
        assert_eq!(what, "ClamAV 1.0.7, signatures 3 days old");
        assert!(matches!(judge_version("ClamAV 1.0.7", now_s), Found::Doubtful { .. }));
    }

    #[test]
    fn answers_of_icap() {
        assert!(matches!(judge_icap("ICAP/1.0 200 OK", "avscan"), Found::Good(_)));
        let Found::Wrong { what, .. } = judge_icap("ICAP/1.0 404 Not Found", "x") else { panic!() };
        assert_eq!(what, "the server has no service x");
        assert!(matches!(judge_icap("HTTP/1.1 400 Bad", "x"), Found::Wrong { .. }));
        assert!(matches!(judge_icap("", "x"), Found::Wrong { .. }));
    }

    proptest::proptest! {
        #[test]
        fn any_text_is_judged(text in ".{0,60}", now_s in proptest::num::u64::ANY) {
            judge_version(&text, now_s);
            judge_icap(&text, "avscan");
            let _ = parse_date(&text);
        }
    }
}
