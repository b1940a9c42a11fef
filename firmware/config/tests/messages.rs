//! The exact words that whoever edits a settings file gets to see.
#![allow(clippy::tests_outside_test_module, reason = "an integration test is a test module")]

use std::collections::BTreeMap;
use std::io::Write as _;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;

use config::{ConfigError, Document, FILE_BYTES_MAX};
use proptest::prelude::*;
use serde::Deserialize;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
#[allow(dead_code, reason = "what matters is how it fails to be filled")]
struct Settings {
    listen: SocketAddr,
    #[serde(default)]
    own_addresses: Vec<IpAddr>,
    #[serde(default)]
    sessions_max: u16,
    #[serde(default)]
    log: Log,
    #[serde(default)]
    public: BTreeMap<String, String>,
    #[serde(default)]
    relay: Relay,
    #[serde(default)]
    route: Vec<Route>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Log {
    #[default]
    Text,
    Json,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
#[allow(dead_code, reason = "what matters is how it fails to be filled")]
struct Relay {
    domain: String,
    resolvers: Vec<IpAddr>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
#[allow(dead_code, reason = "what matters is how it fails to be filled")]
struct Route {
    to: String,
}

fn error_of(text: &str) -> String {
    Document::from_text("avr.toml", text).parse::<Settings>().expect_err("refused").to_string()
}

#[test]
fn a_good_file_loads() {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(b"listen = \"[::1]:25\"\nlog = \"json\"\n[relay]\ndomain = \"x.test\"\n")
        .unwrap();
    let settings: Settings = config::load(file.path()).unwrap();
    assert_eq!(settings.listen, "[::1]:25".parse().unwrap());
    assert!(matches!(settings.log, Log::Json));
    assert_eq!(settings.relay.domain, "x.test");
}

#[test]
fn misspelt_keys_are_named_with_the_one_that_was_meant() {
    assert_eq!(
        error_of("listen = \"[::1]:25\"\n[relay]\n# the site's\ndomian = \"x\"\n"),
        "avr.toml:4: unknown key `domian` in [relay]; \
         write `domain` instead (keys here: domain, resolvers)"
    );
    assert_eq!(
        error_of("lisen = \"[::1]:25\"\n"),
        "avr.toml:1: unknown key `lisen`; write `listen` instead \
         (keys here: listen, own_addresses, sessions_max, log, public, relay, route)"
    );
    assert_eq!(
        error_of("listen = \"[::1]:25\"\n[[route]]\nto = \"a\"\n[[route]]\ncolour = 1\n"),
        "avr.toml:5: unknown key `colour` in [route]; remove it, or write one of these instead: to"
    );
}

#[test]
fn missing_keys_are_named_with_their_table() {
    assert_eq!(error_of(""), "avr.toml:1: `listen` is missing; write `listen = …` there");
    assert_eq!(
        error_of("listen = \"[::1]:25\"\n\n[[route]]\n"),
        "avr.toml:3: `to` is missing in [route]; write `to = …` there"
    );
}

#[test]
fn wrong_types_and_values_say_what_to_write() {
    assert_eq!(
        error_of("listen = 25\n"),
        "avr.toml:1: `listen`: invalid type: integer `25`; \
         write an address and port in quotes, as in \"192.0.2.1:4651\" instead"
    );
    assert_eq!(
        error_of("listen = \"localhost\"\n"),
        "avr.toml:1: `listen`: invalid socket address syntax; \
         write an address and port instead, as in \"192.0.2.1:4651\" or \"[2001:db8::1]:4651\""
    );
    assert_eq!(
        error_of("listen = \"[::1]:25\"\nown_addresses = [\n  \"::1\",\n  \"x\",\n]\n"),
        "avr.toml:4: `own_addresses`: invalid IP address syntax; \
         write an address instead, as in \"192.0.2.1\" or \"2001:db8::1\""
    );
    assert_eq!(
        error_of("listen = \"[::1]:25\"\nsessions_max = 70000\n"),
        "avr.toml:2: `sessions_max`: invalid value: integer `70000`; \
         write a whole number from 0 to 65535 instead"
    );
    assert_eq!(
        error_of("listen = \"[::1]:25\"\nlog = \"jsno\"\n"),
        "avr.toml:2: `log`: unknown value \"jsno\"; \
         write \"json\" instead (possible: \"text\", \"json\")"
    );
    assert_eq!(
        error_of("listen = \"[::1]:25\"\nrelay = 3\n"),
        "avr.toml:2: `relay`: invalid type: integer `3`; \
         write a table, as in [name] with its keys below instead"
    );
}

#[test]
fn what_is_no_toml_says_where() {
    let error = error_of("listen = \"[::1]:25\"\nlog json\n");
    assert!(error.starts_with("avr.toml:2: is not TOML: "), "{error}");
    assert!(error.ends_with("; write KEY = VALUE or [TABLE] instead, texts in quotes"), "{error}");
    let error = error_of("listen = \"[::1]:25\"\nlisten = \"[::1]:26\"\n");
    assert_eq!(error, "avr.toml:2: is not TOML: duplicate key; write it only once");
}

#[test]
fn values_found_wrong_later_are_blamed_on_their_line() {
    let text = "listen = \"[::1]:25\"\n[public]\n\"10.0.0.1\" = \"nowhere\"\n";
    let document = Document::from_text("manager.toml", text);
    assert_eq!(
        document
            .invalid("public.\"10.0.0.1\"", "`nowhere` is no address", "write ADDRESS:PORT instead")
            .to_string(),
        "manager.toml:3: `nowhere` is no address; write ADDRESS:PORT instead"
    );
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(text.as_bytes()).unwrap();
    let error = config::invalid(file.path(), "listen", "is taken", "write another instead");
    assert_eq!(error.place().line, Some(1));
    let error = config::invalid(Path::new("/nonexistent/x"), "listen", "is taken", "write another");
    assert_eq!(error.to_string(), "/nonexistent/x: is taken; write another");
}

#[test]
fn files_that_cannot_be_read_say_why() {
    let error = config::load::<Settings>(Path::new("/nonexistent/avr.toml")).unwrap_err();
    assert!(matches!(error, ConfigError::Unreadable { .. }));
    assert_eq!(
        error.to_string(),
        "/nonexistent/avr.toml: there is no such file; \
         write one there, or name another with --config"
    );

    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("avr.toml");
    let shown = path.display();
    std::fs::write(&path, b"a = 1\nb = \"\xff\"\n").unwrap();
    assert_eq!(
        config::load::<Settings>(&path).unwrap_err().to_string(),
        format!("{shown}:2: is not UTF-8 text; save the file as UTF-8 instead")
    );

    let bytes_max = usize::try_from(FILE_BYTES_MAX).unwrap();
    std::fs::write(&path, vec![b'\n'; bytes_max + 1]).unwrap();
    assert_eq!(
        config::load::<Settings>(&path).unwrap_err().to_string(),
        format!("{shown}: is larger than 1048576 bytes; name a settings file with --config")
    );
    // Exactly at the limit it is read, and only its content is found wrong.
    std::fs::write(&path, vec![b'\n'; bytes_max]).unwrap();
    assert!(
        config::load::<Settings>(&path).unwrap_err().to_string().contains("`listen` is missing")
    );
}

const GOOD: &str = "listen = \"[::1]:25\"\nlog = \"json\"\n[relay]\ndomain = \"x.test\"\n\
                    resolvers = [\"::1\"]\n[[route]]\nto = \"a\"\n";

proptest! {
    /// Whatever a slip of the hand makes of a good file, the answer is one line that names it.
    #[test]
    fn a_spoilt_file_is_explained_on_one_line(
        at in 0..GOOD.len(),
        removed in 0_usize..6,
        inserted in "[ -~\n]{0,4}",
    ) {
        let end = (at + removed).min(GOOD.len());
        let text = format!("{}{inserted}{}", &GOOD[..at], &GOOD[end..]);
        if let Err(error) = Document::from_text("avr.toml", text).parse::<Settings>() {
            let shown = error.to_string();
            prop_assert!(shown.starts_with("avr.toml:"), "{}", shown);
            prop_assert!(!shown.contains('\n'), "{}", shown);
            prop_assert!(shown.contains("; write ") || shown.contains("; remove "), "{}", shown);
        }
    }
}

#[test]
fn a_number_out_of_its_range_is_blamed_on_its_line() {
    #[derive(Debug, Deserialize)]
    struct Limits {
        #[serde(deserialize_with = "config::within::<_, 3, 90>")]
        days_max: u64,
    }
    let read = |value: &str| {
        let document = Document::from_text("avr.toml", format!("\ndays_max = {value}\n"));
        document.parse::<Limits>().map(|limits| limits.days_max).map_err(|error| error.to_string())
    };
    assert_eq!((read("3"), read("90")), (Ok(3), Ok(90)));
    for bad in ["2", "91", "18446744073709551615"] {
        let error = read(bad).unwrap_err();
        assert!(error.starts_with("avr.toml:2: `days_max`: "), "{error}");
        assert!(error.ends_with("; write a whole number from 3 to 90 instead"), "{error}");
    }
}
