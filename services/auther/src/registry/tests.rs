//! What must hold for either store, and what is of one of them.

use rusqlite::Connection;
use wire::ticket::TICKET_LIFE_S;

use super::cluster::Cluster;
use super::*;
use crate::change::{Command, NewDevice, Refusal};
use crate::device::{SESSIONS_MAX_DEFAULT, State};
use wire::DeniedReason;
use wire::ticket::KeyFingerprint;

const NOW_S: u64 = 1_800_000_000;
const WINDOW_S: u64 = 72 * 3600;
const KEY: KeyFingerprint = KeyFingerprint([1; 32]);
const OTHER: KeyFingerprint = KeyFingerprint([2; 32]);

fn mac(last: u8) -> MacAddress {
    MacAddress([2, 0, 0, 0, 0, last])
}

fn ops() -> Actor {
    Actor::token("ops")
}

fn admitted(enrolled: bool) -> Login {
    Login::Admitted { sessions_max: SESSIONS_MAX_DEFAULT, enrolled }
}

fn add() -> Command {
    Command::Add(NewDevice::default())
}

async fn change(registry: &Registry, mac: MacAddress, command: Command, now_s: u64) -> Outcome {
    let commands = vec![(mac, command)];
    let changes = Changes { actor: ops(), now_s, commands, mode: Mode::Commit };
    registry.apply(changes).await.unwrap().remove(0)
}

async fn login(registry: &Registry, mac: MacAddress, key: KeyFingerprint, now_s: u64) -> Login {
    let software = "avr 0.1".to_owned();
    let request = LoginRequest { mac, key, software, now_s, window_s: WINDOW_S };
    registry.login(request).await.unwrap()
}

/// Waits until the entry is so: PostgreSQL notes logins beside the login.
async fn until(registry: &Registry, mac: MacAddress, is_so: impl Fn(&Device) -> bool) -> Device {
    loop {
        if let Some(device) = registry.find(mac).await.unwrap().filter(|device| is_so(device)) {
            return device;
        }
        tokio::task::yield_now().await;
    }
}

async fn whole_audit(registry: &Registry) -> Vec<AuditEntry> {
    registry.audit(AuditFilter { limit: PAGE_MAX, ..AuditFilter::default() }).await.unwrap()
}

/// Makes a test over SQLite of each, and one over PostgreSQL of them all: a server takes a while to
/// start.
macro_rules! over_both_stores {
    ($($name:ident,)+) => {
        mod over_sqlite {
            $(
                #[tokio::test]
                async fn $name() {
                    let directory = tempfile::tempdir().unwrap();
                    let file = directory.path().join("registry.sqlite");
                    super::$name(super::Registry::create(&file).unwrap()).await;
                }
            )+
        }

        #[tokio::test]
        async fn over_postgresql() {
            let cluster = Cluster::start();
            $(
                let place = cluster.database(stringify!($name)).await;
                $name(Registry::connect(&place, None).await.unwrap()).await;
            )+
        }
    };
}

over_both_stores! {
    the_first_login_binds_the_key_and_later_ones_need_it,
    suspending_keeps_the_key_and_voids_its_tickets,
    a_replaced_key_is_good_until_the_new_one_comes,
    a_removed_box_may_bind_a_new_key,
    revocations_go_when_the_tickets_have,
    adding_twice_changes_nothing,
    changes_are_made_together_or_not_at_all,
    every_change_is_in_the_audit_log,
    boxes_are_found_by_page_text_and_state,
    statements_in_texts_are_texts,
    one_of_several_logins_at_once_binds,
    tokens_come_and_go,
}

async fn the_first_login_binds_the_key_and_later_ones_need_it(registry: Registry) {
    let denied = Login::Denied(DeniedReason::Unknown);
    assert_eq!(login(&registry, mac(1), KEY, NOW_S).await, denied);
    change(&registry, mac(1), add(), NOW_S).await;
    assert_eq!(login(&registry, mac(1), KEY, NOW_S + 1).await, admitted(true));
    let late_s = NOW_S + WINDOW_S + 9;
    assert_eq!(login(&registry, mac(1), KEY, late_s).await, admitted(false));
    let denied = Login::Denied(DeniedReason::OtherKey);
    assert_eq!(login(&registry, mac(1), OTHER, NOW_S + 2).await, denied);
    let device = until(&registry, mac(1), |device| {
        device.other_key_logins == 1 && device.last_login_s == Some(late_s)
    })
    .await;
    let expected = Device {
        key: Some(KEY),
        bound_s: Some(NOW_S + 1),
        last_login_s: Some(late_s),
        software: Some("avr 0.1".to_owned()),
        other_key_logins: 1,
        ..Device::new(mac(1), NOW_S)
    };
    assert_eq!(device, expected);
    change(&registry, mac(2), add(), NOW_S).await;
    let denied = Login::Denied(DeniedReason::EnrolmentClosed);
    assert_eq!(login(&registry, mac(2), KEY, NOW_S + WINDOW_S + 1).await, denied);
}

async fn suspending_keeps_the_key_and_voids_its_tickets(registry: Registry) {
    change(&registry, mac(1), add(), NOW_S).await;
    login(&registry, mac(1), KEY, NOW_S).await;
    let (before, list) = registry.revocations(NOW_S).await.unwrap();
    assert!(list.is_empty());
    assert!(change(&registry, mac(1), Command::Suspend, NOW_S).await.changed);
    assert!(!change(&registry, mac(1), Command::Suspend, NOW_S).await.changed);
    let denied = Login::Denied(DeniedReason::Suspended);
    assert_eq!(login(&registry, mac(1), KEY, NOW_S).await, denied);
    let (number, list) = registry.revocations(NOW_S).await.unwrap();
    assert!(number > before && number >= NOW_S, "{number} after {before}");
    assert_eq!(list, [Revocation::new(mac(1), KEY, NOW_S, RevokedReason::Suspended)]);
    change(&registry, mac(1), Command::Resume, NOW_S).await;
    assert_eq!(login(&registry, mac(1), KEY, NOW_S).await, admitted(false));
    let (last, list) = registry.revocations(NOW_S).await.unwrap();
    assert!(list.is_empty() && last > number);
}

async fn a_replaced_key_is_good_until_the_new_one_comes(registry: Registry) {
    change(&registry, mac(1), add(), NOW_S).await;
    login(&registry, mac(1), KEY, NOW_S).await;
    let late_s = NOW_S + 2 * WINDOW_S;
    let replace = |revoke_now| Command::ReplaceKey { window_s: Some(60), revoke_now };
    change(&registry, mac(1), replace(false), late_s).await;
    assert_eq!(login(&registry, mac(1), KEY, late_s).await, admitted(false));
    let denied = Login::Denied(DeniedReason::OtherKey);
    assert_eq!(login(&registry, mac(1), OTHER, late_s + 61).await, denied);
    assert_eq!(login(&registry, mac(1), OTHER, late_s + 60).await, admitted(true));
    assert_eq!(login(&registry, mac(1), KEY, late_s + 60).await, denied);
    let (_, list) = registry.revocations(late_s).await.unwrap();
    assert_eq!(list, [Revocation::new(mac(1), KEY, late_s + 60, RevokedReason::KeyReplaced)]);
    // At once: neither is good until one of them binds again, and then its old tickets are too.
    change(&registry, mac(1), replace(true), late_s + 100).await;
    let (_, list) = registry.revocations(late_s).await.unwrap();
    assert_eq!(list.len(), 2);
    assert_eq!(login(&registry, mac(1), KEY, late_s + 110).await, admitted(true));
    let (_, list) = registry.revocations(late_s).await.unwrap();
    assert_eq!(list, [Revocation::new(mac(1), OTHER, late_s + 100, RevokedReason::KeyReplaced)]);
}

async fn a_removed_box_may_bind_a_new_key(registry: Registry) {
    change(&registry, mac(1), add(), NOW_S).await;
    login(&registry, mac(1), KEY, NOW_S).await;
    let gone = Outcome { device: None, changed: true };
    assert_eq!(change(&registry, mac(1), Command::Remove, NOW_S).await, gone);
    let (_, list) = registry.revocations(NOW_S).await.unwrap();
    assert_eq!(list, [Revocation::new(mac(1), KEY, NOW_S, RevokedReason::Removed)]);
    change(&registry, mac(1), add(), NOW_S).await;
    assert_eq!(login(&registry, mac(1), OTHER, NOW_S).await, admitted(true));
}

async fn revocations_go_when_the_tickets_have(registry: Registry) {
    for last in [1, 2] {
        change(&registry, mac(last), add(), NOW_S).await;
        login(&registry, mac(last), KEY, NOW_S).await;
    }
    change(&registry, mac(1), Command::Suspend, NOW_S).await;
    let list = async |now_s| registry.revocations(now_s).await.unwrap().1;
    assert_eq!(list(NOW_S + TICKET_LIFE_S).await.len(), 1);
    let end_s = NOW_S + wire::revocation::REVOCATION_LIFE_S;
    assert_eq!(list(end_s).await.len(), 1);
    assert!(list(end_s + 1).await.is_empty());
    // The next change takes it out of the registry, too.
    change(&registry, mac(2), Command::Suspend, end_s + 1).await;
    assert_eq!(list(NOW_S).await.len(), 1);
}

async fn adding_twice_changes_nothing(registry: Registry) {
    let desk = NewDevice { note: "desk".to_owned(), ..NewDevice::default() };
    change(&registry, mac(1), Command::Add(desk), NOW_S).await;
    login(&registry, mac(1), KEY, NOW_S).await;
    let commands = vec![(mac(1), add())];
    let again = Changes { actor: ops(), now_s: NOW_S, commands, mode: Mode::Commit };
    let error = registry.apply(again).await.unwrap_err();
    assert!(error.to_string().contains("02:00:00:00:00:01 is registered already"), "{error}");
    let import = Command::Import(NewDevice::default());
    let outcome = change(&registry, mac(1), import, NOW_S + 5).await;
    assert!(!outcome.changed);
    let device = outcome.device.unwrap();
    assert_eq!((device.note.as_str(), device.key, device.added_s), ("desk", Some(KEY), NOW_S));
}

async fn changes_are_made_together_or_not_at_all(registry: Registry) {
    let changes = |commands, mode| Changes { actor: ops(), now_s: NOW_S, commands, mode };
    let good = vec![(mac(1), add()), (mac(2), add()), (mac(1), Command::Suspend)];
    let mut bad = good.clone();
    bad.push((mac(3), Command::Suspend));
    let error = registry.apply(changes(bad, Mode::Commit)).await.unwrap_err();
    let refused = ApplyError::Refused { mac: mac(3), refusal: Refusal::NotRegistered };
    assert_eq!(error.to_string(), refused.to_string());
    let tried = registry.apply(changes(good.clone(), Mode::DryRun)).await.unwrap();
    assert_eq!(tried.len(), 3);
    assert!(registry.list(ListFilter::page(None)).await.unwrap().is_empty());
    assert!(whole_audit(&registry).await.is_empty());
    registry.apply(changes(good, Mode::Commit)).await.unwrap();
    let list = registry.list(ListFilter::page(None)).await.unwrap();
    assert_eq!(list.iter().map(|device| device.mac).collect::<Vec<_>>(), [mac(1), mac(2)]);
    assert_eq!(list[0].suspended_s, Some(NOW_S));
}

async fn every_change_is_in_the_audit_log(registry: Registry) {
    change(&registry, mac(1), add(), NOW_S).await;
    login(&registry, mac(1), KEY, NOW_S + 1).await;
    login(&registry, mac(1), KEY, NOW_S + 2).await;
    change(&registry, mac(2), add(), NOW_S + 3).await;
    change(&registry, mac(1), Command::Suspend, NOW_S + 4).await;
    change(&registry, mac(1), Command::Suspend, NOW_S + 5).await;
    change(&registry, mac(1), Command::Remove, NOW_S + 6).await;
    let log = whole_audit(&registry).await;
    let short: Vec<_> = log
        .iter()
        .map(|entry| (entry.id, entry.at_s - NOW_S, entry.who.as_str(), entry.what.as_str()))
        .collect();
    assert_eq!(
        short,
        [
            (1, 0, "token:ops", "add"),
            (2, 1, "box", "bind"),
            (3, 3, "token:ops", "add"),
            (4, 4, "token:ops", "suspend"),
            (5, 6, "token:ops", "remove"),
        ]
    );
    assert_eq!(log[0].before, None);
    assert_eq!(log[1].before.as_ref().unwrap()["key"], serde_json::Value::Null);
    assert_eq!(log[1].after.as_ref().unwrap()["key"], KEY.to_string());
    assert_eq!(log[3].after.as_ref().unwrap()["suspended_s"], NOW_S + 4);
    assert_eq!(log[4].after, None);
    let filter = AuditFilter { mac: Some(mac(1)), since_s: NOW_S + 1, after: 2, limit: 1 };
    assert_eq!(registry.audit(filter).await.unwrap(), log[3..4]);
}

async fn boxes_are_found_by_page_text_and_state(registry: Registry) {
    for (last, note) in [(1, "Tokyo desk"), (2, "Osaka"), (3, "TOKYO 2"), (4, "Nagoya")] {
        let new = NewDevice {
            note: note.to_owned(),
            serial: format!("AVR-{last}"),
            ..NewDevice::default()
        };
        change(&registry, mac(last), Command::Add(new), NOW_S).await;
    }
    login(&registry, mac(2), KEY, NOW_S).await;
    change(&registry, mac(3), Command::Suspend, NOW_S).await;
    let found = async |filter: ListFilter| -> Vec<u8> {
        let list = registry.list(filter).await.unwrap();
        list.iter().map(|device| device.mac.0[5]).collect()
    };
    let all = || ListFilter::page(None);
    assert_eq!(found(ListFilter { limit: 2, ..all() }).await, [1, 2]);
    assert_eq!(found(ListFilter { limit: 2, ..ListFilter::page(Some(mac(2))) }).await, [3, 4]);
    let search = |text: &str| ListFilter { search: Some(text.to_owned()), ..all() };
    assert_eq!(found(search("tokyo")).await, [1, 3]);
    assert_eq!(found(search("avr-4")).await, [4]);
    assert_eq!(found(search("02-00-00-00-00-02")).await, [2]);
    assert_eq!(found(search(":04")).await, [4]);
    let state = |state| ListFilter { state: Some(state), ..all() };
    assert_eq!(found(state(State::Waiting)).await, [1, 4]);
    assert_eq!(found(state(State::Enrolled)).await, [2]);
    assert_eq!(found(state(State::Suspended)).await, [3]);
    assert_eq!(
        found(ListFilter { search: Some("tokyo".to_owned()), ..state(State::Waiting) }).await,
        [1]
    );
}

async fn statements_in_texts_are_texts(registry: Registry) {
    let evil = "'; DROP TABLE device; -- \" %_\\ $1 ?1";
    let new = NewDevice { note: evil.to_owned(), ..NewDevice::default() };
    change(&registry, mac(1), Command::Add(new), NOW_S).await;
    change(&registry, mac(2), add(), NOW_S).await;
    for (search, found) in [(evil, 1), ("%", 1), ("_\\", 1), ("' OR '1'='1", 0), ("x", 0)] {
        let filter = ListFilter { search: Some(search.to_owned()), ..ListFilter::page(None) };
        assert_eq!(registry.list(filter).await.unwrap().len(), found, "{search}");
    }
    assert_eq!(registry.find(mac(1)).await.unwrap().unwrap().note, evil);
    assert_eq!(registry.find_token("' OR '1'='1").await.unwrap(), None);
}

async fn one_of_several_logins_at_once_binds(registry: Registry) {
    change(&registry, mac(1), add(), NOW_S).await;
    let logins: Vec<_> = (0..6_u8)
        .map(|number| {
            let registry = registry.clone();
            let key = KeyFingerprint([number; 32]);
            tokio::spawn(async move { login(&registry, mac(1), key, NOW_S).await })
        })
        .collect();
    let mut enrolled = 0;
    for login in logins {
        match login.await.unwrap() {
            Login::Admitted { enrolled: true, .. } => enrolled += 1,
            denied => assert_eq!(denied, Login::Denied(DeniedReason::OtherKey)),
        }
    }
    assert_eq!(enrolled, 1);
}

async fn tokens_come_and_go(registry: Registry) {
    let token = |name: &str, expires_s| Token {
        name: name.to_owned(),
        hash: [name.as_bytes()[0]; 32],
        scope: Scope::Read,
        created_s: NOW_S,
        created_by: "unix:root".to_owned(),
        expires_s,
    };
    assert!(registry.add_token(token("b", None), &ops()).await.unwrap());
    assert!(registry.add_token(token("a", Some(NOW_S + 5)), &ops()).await.unwrap());
    assert!(!registry.add_token(token("a", None), &ops()).await.unwrap());
    let all = registry.tokens().await.unwrap();
    assert_eq!(all, [token("a", Some(NOW_S + 5)), token("b", None)]);
    assert_eq!(registry.find_token("b").await.unwrap(), Some(token("b", None)));
    assert!(registry.remove_token("b", &ops(), NOW_S + 1).await.unwrap());
    assert!(!registry.remove_token("b", &ops(), NOW_S + 1).await.unwrap());
    assert_eq!(registry.find_token("b").await.unwrap(), None);
    let log = whole_audit(&registry).await;
    let whats: Vec<_> = log.iter().map(|entry| entry.what.as_str()).collect();
    assert_eq!(whats, ["token add", "token add", "token remove"]);
    assert_eq!(log[2].before.as_ref().unwrap()["name"], "b");
    assert!(!format!("{log:?}").contains("hash"));
}

#[tokio::test]
async fn two_programs_use_a_file_at_once() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("registry.sqlite");
    let server = Registry::create(&file).unwrap();
    let operator = Registry::open(&file).unwrap();
    change(&operator, mac(1), add(), NOW_S).await;
    assert_eq!(login(&server, mac(1), KEY, NOW_S).await, admitted(true));
    change(&operator, mac(1), Command::Suspend, NOW_S).await;
    let denied = Login::Denied(DeniedReason::Suspended);
    assert_eq!(login(&server, mac(1), KEY, NOW_S).await, denied);
}

#[tokio::test]
async fn a_file_that_cannot_be_written_still_admits_who_is_known() {
    let directory = tempfile::tempdir().unwrap();
    let registry = Registry::create(&directory.path().join("registry.sqlite")).unwrap();
    change(&registry, mac(1), add(), NOW_S).await;
    change(&registry, mac(2), add(), NOW_S).await;
    login(&registry, mac(1), KEY, NOW_S).await;
    let Store::Sqlite(sqlite) = &registry.0 else { panic!() };
    let lock = |connection: &mut Connection| connection.pragma_update(None, "query_only", true);
    sqlite.call("lock", lock).await.unwrap();
    assert_eq!(login(&registry, mac(1), KEY, NOW_S).await, admitted(false));
    let software = String::new();
    let request = LoginRequest { mac: mac(2), key: KEY, software, now_s: NOW_S, window_s: 9 };
    let error = registry.login(request).await.unwrap_err();
    assert!(error.to_string().starts_with("cannot log a box in in the registry "), "{error}");
}

#[tokio::test]
async fn a_registry_of_the_first_version_is_brought_up() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("registry.sqlite");
    let old = Connection::open(&file).unwrap();
    old.execute_batch(include_str!("../../migrations/sqlite/0001.sql")).unwrap();
    old.execute_batch(
        "INSERT INTO device (mac, note, sessions_max, suspended, added_s, key, bound_s)
         VALUES ('02:00:00:00:00:01', 'desk', 7, 0, 1799999000, zeroblob(32), 1799999001),
                ('02:00:00:00:00:02', '', 1000, 1, 1799999000, NULL, NULL);
         PRAGMA user_version = 1;",
    )
    .unwrap();
    // A look changes nothing.
    Registry::inspect(&file).unwrap();
    let version = |connection: &Connection| -> i64 {
        connection.pragma_query_value(None, "user_version", |row| row.get(0)).unwrap()
    };
    assert_eq!(version(&old), 1);
    let registry = Registry::open(&file).unwrap();
    assert_eq!(version(&old), 2);
    let expected = Device {
        note: "desk".to_owned(),
        sessions_max: 7,
        key: Some(KeyFingerprint([0; 32])),
        bound_s: Some(1_799_999_001),
        ..Device::new(mac(1), 1_799_999_000)
    };
    assert_eq!(registry.find(mac(1)).await.unwrap(), Some(expected));
    assert_eq!(registry.find(mac(2)).await.unwrap().unwrap().state(), State::Suspended);
    assert_eq!(registry.revocations(NOW_S).await.unwrap(), (1, Vec::new()));
}

#[tokio::test]
async fn other_files_are_told_apart() {
    let directory = tempfile::tempdir().unwrap();
    let path = |name: &str| directory.path().join(name);
    Registry::create(&path("registry.sqlite")).unwrap();
    let other = path("other.sqlite");
    Connection::open(&other).unwrap().execute_batch("CREATE TABLE t (x)").unwrap();
    assert!(matches!(Registry::create(&other), Err(RegistryError::NotOurs { .. })));
    assert!(matches!(Registry::inspect(&other), Err(RegistryError::NotOurs { .. })));

    let newer = path("registry.sqlite");
    Connection::open(&newer).unwrap().pragma_update(None, "user_version", 9).unwrap();
    let error = Registry::open(&newer).unwrap_err();
    assert!(error.to_string().ends_with("knows 2; update avr-auther"), "{error}");
    assert!(matches!(Registry::inspect(&newer), Err(RegistryError::Version { .. })));

    std::fs::write(path("rubbish"), "no database at all, but long enough").unwrap();
    let error = Registry::create(&path("rubbish")).unwrap_err();
    assert!(matches!(error, RegistryError::Open { .. }), "{error}");
    assert!(matches!(Registry::open(&path("none")), Err(RegistryError::Missing { .. })));
    assert!(!path("none").exists());
    let error = Registry::create(&path("no/registry")).unwrap_err();
    assert!(matches!(error, RegistryError::Open { .. }), "{error}");
}

#[tokio::test]
async fn a_database_of_a_later_version_is_refused_and_one_that_is_away_named() {
    let mut cluster = Cluster::start();
    let place = cluster.database("later").await;
    Registry::connect(&place, None).await.unwrap();
    Registry::connect(&place, None).await.unwrap();
    let later =
        "INSERT INTO _sqlx_migrations (version, description, success, checksum, execution_time)
                 VALUES (99, 'x', true, '', 0)";
    cluster.run("later", later).await;
    let error = Registry::connect(&place, None).await.unwrap_err();
    assert!(
        error.to_string().contains("has schema version 99, this avr-auther knows 1; update"),
        "{error}"
    );
    cluster.kill();
    let error = Registry::connect(&place, None).await.unwrap_err();
    assert!(matches!(error, RegistryError::Connect { .. }), "{error}");
}

#[tokio::test]
async fn a_database_across_a_network_proves_who_it_is_and_asks_for_the_password() {
    let make_ca = || {
        let key = rcgen::KeyPair::generate().unwrap();
        let mut params = rcgen::CertificateParams::default();
        params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        (params.self_signed(&key).unwrap(), key)
    };
    let ((ca, ca_key), (other, _)) = (make_ca(), make_ca());
    let key = rcgen::KeyPair::generate().unwrap();
    let issuer = rcgen::Issuer::from_ca_cert_der(ca.der(), &ca_key).unwrap();
    let params = rcgen::CertificateParams::new(["localhost".to_owned()]).unwrap();
    let certificate = params.signed_by(&key, &issuer).unwrap();

    let mut cluster = Cluster::start();
    cluster.run("postgres", "CREATE USER avr PASSWORD 'secret'").await;
    cluster.run("postgres", "CREATE DATABASE boxes OWNER avr").await;
    let port = cluster.open(&certificate.pem(), &key.serialize_pem());
    let directory = tempfile::tempdir().unwrap();
    let file = |name: &str, pem: String| {
        let path = directory.path().join(name);
        std::fs::write(&path, pem).unwrap();
        path.display().to_string()
    };
    let (good, wrong) = (file("ca.pem", ca.pem()), file("other.pem", other.pem()));
    let connect = async |host: &str, mode: &str, password: &str| {
        let url = format!("postgresql://avr@{host}:{port}/boxes?{mode}");
        Registry::connect(&PgPlace::parse(&url, Some(password)).unwrap(), None).await
    };
    let full = |ca: &str| format!("sslmode=verify-full&sslrootcert={ca}");
    let registry = connect("localhost", &full(&good), "secret").await.unwrap();
    change(&registry, mac(1), add(), NOW_S).await;
    for (host, mode, password) in [
        ("localhost", full(&wrong), "secret"),
        ("127.0.0.1", full(&good), "secret"),
        ("localhost", full(&good), "wrong-secret"),
        ("localhost", "sslmode=disable".to_owned(), "secret"),
    ] {
        let error = connect(host, &mode, password).await.unwrap_err();
        assert!(matches!(error, RegistryError::Connect { .. }), "{error}");
        assert!(!telemetry::chain(&error).contains("secret"), "{error}");
    }
}

#[test]
fn a_database_is_named_without_its_password() {
    let place = |url| PgPlace::parse(url, None);
    let shown = format!("{:?}", place("postgresql://avr:secret@db.example:5433/boxes").unwrap());
    assert_eq!(shown, "postgresql://avr@db.example:5433/boxes");
    for bad in ["registry.sqlite", "postgresql://avr:secret@[x/boxes", "http://secret"] {
        let error = place(bad).unwrap_err();
        assert!(!error.contains("secret"), "{error}");
    }
}
