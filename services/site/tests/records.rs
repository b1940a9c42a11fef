//! Joining and leaving, with Debian's Knot and BIND as the servers of the zone.
#![allow(clippy::tests_outside_test_module, reason = "an integration test is a test module")]
#![allow(clippy::unwrap_used, reason = "a test")]

mod lab;

use std::net::IpAddr;
use std::path::Path;
use std::time::Duration;

use hickory_proto::rr::Name;
use lab::{Dns, FIRST, Kind, SECOND, address, inside, make_key, records};
use service_kit::host::unix_now_s;
use site::dns::exchange::Transport;
use site::dns::key::Key;
use site::dns::zone::Resolver;
use site::plan::{Draft, Site};
use site::records::{Request, join, leave};
use site::settings::dns_change;

const MANAGER: &str = "manager.avr.test";
/// Another site's, there from the start.
const OTHERS: &str = "manager 1200 A 198.51.100.1\nauther 1200 A 198.51.100.1\n";

fn request(addresses: &[&str]) -> Request {
    Request {
        names: vec![name(MANAGER)],
        addresses: addresses.iter().map(|text| text.parse::<IpAddr>().unwrap()).collect(),
        resolver: Resolver::new(Some(address(FIRST))).unwrap(),
        zone: None,
        server: None,
        transport: Transport::Tcp,
        wait: Duration::from_secs(20),
        clock: unix_now_s,
        dry_run: false,
    }
}

fn name(text: &str) -> Name {
    Name::from_ascii(format!("{text}.")).unwrap()
}

fn key(text: &str) -> Key {
    Key::parse(text, None).unwrap()
}

async fn joined(request: &Request, key: &Key) -> Result<String, String> {
    let mut out = Vec::new();
    let done = join(request, key, 1200, &mut out).await;
    let out = String::from_utf8(out).unwrap();
    done.map(|()| out).map_err(|error| format!("{error:#}"))
}

async fn left(request: &Request, key: &Key, last: bool) -> Result<String, String> {
    let mut out = Vec::new();
    let done = leave(request, key, last, &mut out).await;
    let out = String::from_utf8(out).unwrap();
    done.map(|()| out).map_err(|error| format!("{error:#}"))
}

/// Runs `test` once with each server as the primary, in a network of its own.
fn with_each<F: Future<Output = ()>>(
    test: &str,
    records: &str,
    run: impl Fn(Kind, Dns, Vec<String>) -> F,
) {
    inside(test, || {
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
        for kind in [Kind::Knot, Kind::Bind] {
            let directory = tempfile::tempdir_in("/run").unwrap();
            let keys = vec![
                make_key(kind, "hmac-sha256", "avr-update"),
                make_key(kind, "hmac-sha512", "other-key"),
            ];
            let texts: Vec<&str> = keys.iter().map(String::as_str).collect();
            let dns = Dns::start(Path::new(directory.path()), kind, &texts, records);
            runtime.block_on(run(kind, dns, keys));
        }
    });
}

#[test]
fn a_site_joins_and_leaves_by_both_families_and_others_stay() {
    with_each(
        "a_site_joins_and_leaves_by_both_families_and_others_stay",
        OTHERS,
        async |_, _dns, keys| {
            let key = key(&keys[0]);
            let mut own = request(&["203.0.113.10", "2001:db8:10::1"]);
            let dry = Request { dry_run: true, ..own.clone() };
            let said = joined(&dry, &key).await.unwrap();
            assert!(said.contains("would be done at ns1.avr.test"), "{said}");
            assert_eq!(records(FIRST, MANAGER), ["1200 198.51.100.1"]);

            let said = joined(&own, &key).await.unwrap();
            let expected = ["1200 198.51.100.1", "1200 2001:db8:10::1", "1200 203.0.113.10"];
            assert_eq!(records(FIRST, MANAGER), expected);
            assert_eq!(records(SECOND, MANAGER), expected);
            assert!(
                said.contains("203.0.113.10, TTL 20 minutes: adding at ns1.avr.test"),
                "{said}"
            );
            assert!(said.contains("ns2.avr.test (127.0.0.2): has it so"), "{said}");
            assert!(said.contains("in 20 minutes, at "), "{said}");

            // Once more changes nothing; the other name is only touched when asked for.
            let said = joined(&own, &key).await.unwrap();
            assert!(said.contains("203.0.113.10: is there already"), "{said}");
            assert_eq!(records(FIRST, "auther.avr.test"), ["1200 198.51.100.1"]);
            own.names.push(name("auther.avr.test"));
            own.transport = Transport::Udp;
            joined(&own, &key).await.unwrap();
            assert_eq!(records(SECOND, "auther.avr.test"), expected);

            let said = left(&own, &key, false).await.unwrap();
            assert_eq!(records(FIRST, MANAGER), ["1200 198.51.100.1"]);
            assert_eq!(records(SECOND, "auther.avr.test"), ["1200 198.51.100.1"]);
            assert!(
                said.contains("The last copy of the old list has gone in 20 minutes"),
                "{said}"
            );
            let said = left(&own, &key, false).await.unwrap();
            assert!(said.contains("manager.avr.test: has no address of this site"), "{said}");
        },
    );
}

#[test]
fn the_ttl_is_settable_and_what_the_server_makes_of_it_is_said() {
    with_each(
        "the_ttl_is_settable_and_what_the_server_makes_of_it_is_said",
        "",
        async |_, _dns, keys| {
            let key = key(&keys[0]);
            let own = request(&["203.0.113.10"]);
            let mut out = Vec::new();
            join(&own, &key, 300, &mut out).await.unwrap();
            assert_eq!(records(FIRST, MANAGER), ["300 203.0.113.10"]);
            // The name was not there: that may be remembered for the zone's own 30 seconds.
            let said = String::from_utf8(out).unwrap();
            assert!(said.contains("in 30 seconds, at "), "{said}");
            let mut out = Vec::new();
            join(&own, &key, 90, &mut out).await.unwrap();
            let found = records(FIRST, MANAGER);
            let said = String::from_utf8(out).unwrap();
            assert!(
                found == ["90 203.0.113.10"] || said.contains("Note: the server gives"),
                "{found:?}\n{said}"
            );
        },
    );
}

#[test]
fn the_last_manager_does_not_leave_unless_told() {
    with_each("the_last_manager_does_not_leave_unless_told", "", async |_, _dns, keys| {
        let key = key(&keys[0]);
        let own = request(&["203.0.113.10", "2001:db8:10::1"]);
        joined(&own, &key).await.unwrap();
        let refused = left(&own, &key, false).await.unwrap_err();
        assert!(refused.contains("boxes would find no site at all"), "{refused}");
        assert_eq!(records(FIRST, MANAGER).len(), 2);
        // One of two addresses is not the last.
        left(&request(&["203.0.113.10"]), &key, false).await.unwrap();
        assert_eq!(records(FIRST, MANAGER), ["1200 2001:db8:10::1"]);
        left(&own, &key, true).await.unwrap();
        assert!(records(SECOND, MANAGER).is_empty());
    });
}

#[test]
fn sites_that_join_and_leave_at_once_do_not_undo_each_other() {
    with_each(
        "sites_that_join_and_leave_at_once_do_not_undo_each_other",
        "",
        async |_, _dns, keys| {
            let key = key(&keys[0]);
            let sites: Vec<Request> =
                (1..=4).map(|n| request(&[&format!("203.0.113.{n}")])).collect();
            let (a, b, c, d) = tokio::join!(
                joined(&sites[0], &key),
                joined(&sites[1], &key),
                joined(&sites[2], &key),
                joined(&sites[3], &key)
            );
            for done in [a, b, c, d] {
                done.unwrap();
            }
            assert_eq!(records(FIRST, MANAGER).len(), 4);
            let (a, b, c, d) = tokio::join!(
                left(&sites[0], &key, false),
                left(&sites[1], &key, false),
                left(&sites[2], &key, false),
                left(&sites[3], &key, false)
            );
            // However they came between each other: one of them was the last, and stayed.
            let stayed: Vec<String> = [a, b, c, d].into_iter().filter_map(Result::err).collect();
            assert_eq!(stayed.len(), 1, "{stayed:?}");
            assert!(stayed[0].contains("boxes would find no site at all"), "{stayed:?}");
            assert_eq!(records(FIRST, MANAGER).len(), 1);
        },
    );
}

#[test]
fn refusals_say_what_to_do_and_change_nothing() {
    with_each("refusals_say_what_to_do_and_change_nothing", OTHERS, async |kind, _dns, keys| {
        let own = request(&["203.0.113.10"]);
        let unknown = key(&make_key(kind, "hmac-sha256", "nobody"));
        let error = joined(&own, &unknown).await.unwrap_err();
        assert!(error.contains("BADKEY: the server does not know the key nobody."), "{error}");
        let other_secret = key(&make_key(kind, "hmac-sha256", "avr-update"));
        let error = joined(&own, &other_secret).await.unwrap_err();
        assert!(error.contains("BADSIG"), "{error}");
        assert!(error.starts_with("the zone avr.test is not changed at ns1.avr.test: "), "{error}");
        let error = joined(&own, &key(&keys[1])).await.unwrap_err();
        match kind {
            // Knot knows of a zone only the keys of its acl.
            Kind::Knot => assert!(error.contains("no acl of the zone names it"), "{error}"),
            Kind::Bind => {
                assert!(error.contains("lets this key not change these names"), "{error}")
            }
        }

        let key = key(&keys[0]);
        for (clock, apart) in
            [((|| unix_now_s() + 3600) as fn() -> u64, 3600_u64), (|| unix_now_s() - 3600, 3600)]
        {
            let error = joined(&Request { clock, ..own.clone() }, &key).await.unwrap_err();
            assert!(error.contains("BADTIME: this machine's clock"), "{error}");
            let near = [apart - 1, apart, apart + 1].map(site::dns::update::in_words);
            assert!(near.iter().any(|words| error.contains(words)), "{error}");
        }

        let other_zone = Request { zone: Some(name("example.test")), ..own.clone() };
        let error = joined(&other_zone, &key).await.unwrap_err();
        assert!(error.contains("example.test") || error.contains("no zone is found"), "{error}");
        let nowhere = Request { names: vec![name("manager.nowhere.example")], ..own.clone() };
        let error = joined(&nowhere, &key).await.unwrap_err();
        assert!(error.contains("REFUSED") || error.contains("Refused"), "{error}");
        let alias = Request { names: vec![name("alias.avr.test")], ..own };
        let error = joined(&alias, &key).await.unwrap_err();
        assert!(error.contains("alias.avr.test is an alias (CNAME)"), "{error}");
        assert_eq!(records(FIRST, MANAGER), ["1200 198.51.100.1"]);
    });
}

#[test]
fn a_server_that_does_not_follow_is_named() {
    with_each("a_server_that_does_not_follow_is_named", OTHERS, async |_, mut dns, keys| {
        dns.stop_second();
        let own = Request { wait: Duration::ZERO, ..request(&["203.0.113.10"]) };
        let error = joined(&own, &key(&keys[0])).await.unwrap_err();
        assert!(error.contains("the change is made, but not seen at ns2.avr.test"), "{error}");
        assert_eq!(records(FIRST, MANAGER).len(), 2);
    });
}

#[test]
fn the_written_change_is_what_nsupdate_takes() {
    let test = "the_written_change_is_what_nsupdate_takes";
    with_each(test, "", async |kind, _dns, keys| {
        let directory = tempfile::tempdir_in("/run").unwrap();
        let path = |name: &str| directory.path().join(name).display().to_string();
        let list = |items: &[&str]| items.iter().map(|item| (*item).to_owned()).collect();
        let site = Site::new(Draft {
            domain: "avr.test".to_owned(),
            public: list(&["203.0.113.10", "2001:db8:10::1"]),
            auther: list(&["10.0.0.1", "fd00::1"]),
            manager: list(&["10.0.0.1", "fd00::1"]),
            proxy: list(&["10.0.0.1"]),
            ..Draft::default()
        });
        let change = dns_change(&site.unwrap(), 1200);
        std::fs::write(path("change"), format!("server {FIRST}\n{change}")).unwrap();
        match kind {
            Kind::Bind => {
                std::fs::write(path("key"), &keys[0]).unwrap();
                lab::run("nsupdate", &["-k", &path("key"), &path("change")]);
            }
            Kind::Knot => {
                // The first line of what `keymgr -t` prints is the key for the command line.
                let key = keys[0].lines().next().unwrap().trim_start_matches(['#', ' ']);
                lab::run("nsupdate", &["-y", key, &path("change")]);
            }
        }
        let expected = ["1200 2001:db8:10::1", "1200 203.0.113.10"];
        assert_eq!(records(FIRST, MANAGER), expected);
        assert_eq!(records(FIRST, "auther.avr.test"), expected);
        // What is there already needs no key that is right.
        let said = joined(&request(&["203.0.113.10"]), &key(&keys[1])).await.unwrap();
        assert!(said.contains("is there already"), "{said}");
    });
}

#[test]
fn a_server_without_an_address_is_named_and_keeps_nobody_from_leaving() {
    let test = "a_server_without_an_address_is_named_and_keeps_nobody_from_leaving";
    with_each(test, &format!("{OTHERS}@ NS ns.elsewhere.example.\n"), async |_, _dns, keys| {
        let (own, key) = (request(&["203.0.113.10"]), key(&keys[0]));
        joined(&own, &key).await.unwrap();
        let said = left(&own, &key, false).await.unwrap();
        assert!(said.contains("ns.elsewhere.example: has no address"), "{said}");
        assert_eq!(records(FIRST, MANAGER), ["1200 198.51.100.1"]);
    });
}
