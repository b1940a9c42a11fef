use serde::de::value::{Error, MapDeserializer};

use super::*;

fn read(key: &str, value: u64) -> Result<ScanSettings, String> {
    let table = MapDeserializer::<_, Error>::new(std::iter::once((key, value)));
    ScanSettings::deserialize(table).map_err(|error| error.to_string())
}

fn parse(text: &str) -> ScanSettings {
    Document::from_text("x.toml", text).parse().unwrap()
}

/// Beyond these, the clock would overflow at the first mail, or every mail pass unscanned.
#[test]
fn limits_that_would_be_none_are_refused() {
    for (key, min, max) in [
        ("message_bytes_max", BYTES_MAX_MIN, MESSAGE_BYTES_MAX_MAX),
        ("unpacked_bytes_max", BYTES_MAX_MIN, UNPACKED_BYTES_MAX_MAX),
        ("spool_bytes_max", BYTES_MAX_MIN, SPOOL_BYTES_MAX_MAX),
        ("verdict_seconds_max", 1, VERDICT_SECONDS_MAX_MAX),
        ("keep_alive_first_seconds", 1, KEEP_ALIVE_SECONDS_MAX),
        ("workers", 1, 8),
        ("ratio_max", 10, 100_000),
        ("archive_depth_max", 2, 64),
    ] {
        for good in [min, max] {
            read(key, good).unwrap();
        }
        for bad in [0, min - 1, max + 1, u64::MAX] {
            let expected = format!(
                "invalid value: integer `{bad}`, expected a whole number from {min} to {max}"
            );
            assert_eq!(read(key, bad).unwrap_err(), expected, "{key}");
        }
    }
    let longest = Duration::from_secs(VERDICT_SECONDS_MAX_MAX);
    assert!(longest < mail::smtp::VERDICT_TIMEOUT && longest < mail::pop3::VERDICT_TIMEOUT);
}

#[test]
fn what_engines_cannot_use_is_blamed_on_its_line() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("refused.en.txt"), "Subject: x\n\n{nonsense}\n").unwrap();
    let templates = format!("templates = {:?}", folder.path());
    for (line, problem, remedy) in [
        ("rules = \"/nonexistent\"", "`scan.rules`: ", "correct the rule file"),
        ("hashes = \"/nonexistent\"", "`scan.hashes`: ", "correct the list"),
        ("block = [\"nonsense\"]", "`scan.block`: ", "write extensions"),
        ("clamd = [\"nonsense\"]", "`scan.clamd`: ", "write \"host:port\""),
        ("icap = [\"nonsense\"]", "`scan.icap`: ", "write \"icap://"),
        ("spool = \"/nonexistent\"", "`scan.spool`: ", "write a folder"),
        ("unscanned_senders = [\"nonsense\"]", "`scan.unscanned_senders`: ", "write \"a@b"),
        ("unscanned_senders = [\"@\"]", "`scan.unscanned_senders`: ", "write \"a@b"),
        ("masked_extensions = [\"starttls\"]", "`scan.masked_extensions`: ", "write keywords"),
        ("masked_extensions = [\"X Y\"]", "`scan.masked_extensions`: ", "write keywords"),
        (templates.as_str(), "`scan.templates`: ", "correct the file"),
    ] {
        let text = format!("mode = \"on\"\n{line}\n");
        let document = Document::from_text("x.toml", format!("[scan]\n{text}"));
        let error = parse(&text).carrier_in(&document, Around::test()).unwrap_err().to_string();
        assert!(error.starts_with(&format!("x.toml:3: {problem}")), "{error}");
        assert!(error.contains(&format!("; {remedy}")), "{error}");
    }
}

fn refused(text: &str) -> String {
    parse(text).carrier(Around::test()).unwrap_err().to_string()
}

#[test]
fn tls_is_never_masked_and_it_is_said_why() {
    for keyword in ["STARTTLS", "StartTls"] {
        let error = refused(&format!("masked_extensions = [\"CHUNKING\", {keyword:?}]"));
        assert!(error.contains("would then cross the internet in clear; leave it out"), "{error}");
    }
    for keyword in ["", "-X", "X Y", "X\\r\\nY", "X=Y"] {
        let error = refused(&format!("masked_extensions = [\"{keyword}\"]"));
        assert!(error.contains("is no EHLO keyword"), "{error}");
    }
    parse("masked_extensions = [\"CHUNKING\", \"8BITMIME\", \"X-A\"]")
        .carrier(Around::test())
        .unwrap();
}

#[test]
fn a_sender_that_would_be_everybody_is_none() {
    for sender in ["@", "a@", "a", "", "<a@b.example>", "a@b.example, c@d.example", "a@b .example"]
    {
        let error = refused(&format!("unscanned_senders = [{sender:?}]"));
        assert!(error.contains("names no domain and so nobody, or everybody"), "{error}");
    }
    let policy = |count: usize| {
        let unscanned_senders = vec!["@b.example".to_owned(); count];
        ScanSettings { unscanned_senders, ..ScanSettings::default() }.policy()
    };
    assert_eq!(policy(UNSCANNED_SENDERS_MAX).unwrap().unscanned_senders.len(), 10_000);
    let error = policy(UNSCANNED_SENDERS_MAX + 1).unwrap_err().to_string();
    assert_eq!(error, "scan.unscanned_senders has more than 10000; name domains instead");
}

#[test]
fn the_defaults_are_within_the_limits() {
    let defaults = ScanSettings::default();
    for (key, value) in [
        ("message_bytes_max", defaults.message_bytes_max),
        ("spool_bytes_max", defaults.spool_bytes_max),
        ("unpacked_bytes_max", defaults.unpacked_bytes_max),
        ("verdict_seconds_max", defaults.verdict_seconds_max),
        ("keep_alive_interval_seconds", defaults.keep_alive_interval_seconds),
        ("ratio_max", defaults.ratio_max),
        ("members_max", defaults.members_max),
        ("parts_max", defaults.parts_max),
        ("mime_depth_max", defaults.mime_depth_max),
        ("archive_depth_max", defaults.archive_depth_max),
    ] {
        read(key, value).unwrap_or_else(|error| panic!("{key}: {error}"));
    }
    assert_eq!(defaults.policy().unwrap(), Policy::default());
    assert_eq!(defaults.limits(), Limits::default());
}

#[test]
fn rules_are_set_for_all_directions_and_for_one() {
    let settings = parse(
        "on_infected = \"refuse+quarantine\"\non_engine_failure = \"tempfail\"\n\
         [fetched]\ninfected = \"replace-part\"\n[received]\nencrypted = \"refuse\"\n",
    );
    let policy = settings.policy().unwrap();
    let kept = Rule { action: Action::Refuse, quarantine: true };
    assert_eq!((policy.submitted.infected, policy.received.infected), (kept, kept));
    assert_eq!(policy.fetched.infected.action, Action::ReplacePart);
    assert_eq!(policy.fetched.engine_failed.action, Action::Tempfail);
    assert_eq!(policy.received.encrypted.action, Action::Refuse);
    assert_eq!(policy.submitted.encrypted.action, Action::Pass);
    assert!(!policy.holds_smtp());
    let text = "on_infected = \"destroy\"";
    let error = Document::from_text("x.toml", text).parse::<ScanSettings>().unwrap_err();
    assert!(error.to_string().contains("write \"pass\", \"refuse\""), "{error}");
}
