use super::*;

const NOW_S: u64 = 1_800_000_000;
const WINDOW_S: u64 = 72 * 3600;
const KEY: KeyFingerprint = KeyFingerprint([1; 32]);
const OTHER: KeyFingerprint = KeyFingerprint([2; 32]);

struct Scene {
    directory: tempfile::TempDir,
    registry: Registry,
}

impl Scene {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let registry = Registry::create(&directory.path().join("registry.sqlite")).unwrap();
        Self { directory, registry }
    }

    fn path(&self) -> PathBuf {
        self.directory.path().join("registry.sqlite")
    }

    fn login(&mut self, mac: MacAddress, key: KeyFingerprint, now_s: u64) -> Login {
        self.registry.login(mac, key, "avr 0.1", now_s, WINDOW_S).unwrap()
    }
}

fn mac(last: u8) -> MacAddress {
    MacAddress([2, 0, 0, 0, 0, last])
}

fn admitted(enrolled: bool) -> Login {
    Login::Admitted { sessions_max: SESSIONS_MAX_DEFAULT, enrolled }
}

#[test]
fn the_first_login_binds_the_key_and_later_ones_need_it() {
    let mut scene = Scene::new();
    let denied = Login::Denied(DeniedReason::Unknown);
    assert_eq!(scene.login(mac(1), KEY, NOW_S), denied);
    scene.registry.add(&Device::new(mac(1), NOW_S)).unwrap();
    assert_eq!(scene.login(mac(1), KEY, NOW_S + 1), admitted(true));
    assert_eq!(scene.login(mac(1), KEY, NOW_S + WINDOW_S + 9), admitted(false));
    let denied = Login::Denied(DeniedReason::OtherKey);
    assert_eq!(scene.login(mac(1), OTHER, NOW_S + 2), denied);
    assert_eq!(scene.login(mac(1), OTHER, NOW_S + 2), denied);

    let device = scene.registry.find(mac(1)).unwrap().unwrap();
    let expected = Device {
        key: Some(KEY),
        bound_s: Some(NOW_S + 1),
        last_login_s: Some(NOW_S + WINDOW_S + 9),
        software: Some("avr 0.1".to_owned()),
        other_key_logins: 2,
        ..Device::new(mac(1), NOW_S)
    };
    assert_eq!(device, expected);
}

#[test]
fn a_removed_box_may_bind_a_new_key() {
    let mut scene = Scene::new();
    scene.registry.add(&Device::new(mac(1), NOW_S)).unwrap();
    scene.login(mac(1), KEY, NOW_S);
    assert!(scene.registry.remove(mac(1)).unwrap());
    assert!(!scene.registry.remove(mac(1)).unwrap());
    scene.registry.add(&Device::new(mac(1), NOW_S)).unwrap();
    assert_eq!(scene.login(mac(1), OTHER, NOW_S), admitted(true));
}

#[test]
fn suspending_keeps_the_key() {
    let mut scene = Scene::new();
    scene.registry.add(&Device::new(mac(1), NOW_S)).unwrap();
    scene.login(mac(1), KEY, NOW_S);
    assert!(scene.registry.set_suspended(mac(1), true).unwrap());
    assert_eq!(scene.login(mac(1), KEY, NOW_S), Login::Denied(DeniedReason::Suspended));
    assert!(scene.registry.set_suspended(mac(1), false).unwrap());
    assert_eq!(scene.login(mac(1), KEY, NOW_S), admitted(false));
    assert!(!scene.registry.set_suspended(mac(2), true).unwrap());
}

#[test]
fn adding_twice_changes_nothing() {
    let mut scene = Scene::new();
    let device = Device { note: "desk".to_owned(), ..Device::new(mac(1), NOW_S) };
    assert_eq!(scene.registry.add(&device).unwrap(), Added::Yes);
    scene.login(mac(1), KEY, NOW_S);
    assert_eq!(scene.registry.add(&Device::new(mac(1), 5)).unwrap(), Added::Already);
    let devices = [Device::new(mac(1), 5), Device::new(mac(2), 5)];
    assert_eq!(scene.registry.add_all(&devices).unwrap(), 1);
    let list = scene.registry.list().unwrap();
    assert_eq!(list.len(), 2);
    assert_eq!((list[0].note.as_str(), list[0].key), ("desk", Some(KEY)));
}

#[test]
fn two_programs_use_it_at_once() {
    let mut scene = Scene::new();
    let mut operator = Registry::open(&scene.path()).unwrap();
    operator.add(&Device::new(mac(1), NOW_S)).unwrap();
    assert_eq!(scene.login(mac(1), KEY, NOW_S), admitted(true));
    operator.set_suspended(mac(1), true).unwrap();
    assert_eq!(scene.login(mac(1), KEY, NOW_S), Login::Denied(DeniedReason::Suspended));
}

#[test]
fn one_of_two_logins_at_once_binds() {
    let scene = Scene::new();
    let path = scene.path();
    Registry::open(&path).unwrap().add(&Device::new(mac(1), NOW_S)).unwrap();
    let logins: Vec<_> = (0..4_u8)
        .map(|number| {
            let mut registry = Registry::open(&path).unwrap();
            let key = KeyFingerprint([number; 32]);
            std::thread::spawn(move || registry.login(mac(1), key, "x", NOW_S, WINDOW_S).unwrap())
        })
        .collect();
    let logins: Vec<_> = logins.into_iter().map(|thread| thread.join().unwrap()).collect();
    let enrolled = logins.iter().filter(|&&login| login == admitted(true)).count();
    assert_eq!(enrolled, 1, "{logins:?}");
}

#[test]
fn a_registry_that_cannot_be_written_still_admits_who_is_known() {
    let mut scene = Scene::new();
    scene.registry.add(&Device::new(mac(1), NOW_S)).unwrap();
    scene.registry.add(&Device::new(mac(2), NOW_S)).unwrap();
    scene.login(mac(1), KEY, NOW_S);
    scene.registry.connection.pragma_update(None, "query_only", true).unwrap();
    assert_eq!(scene.login(mac(1), KEY, NOW_S), admitted(false));
    let error = scene.registry.login(mac(2), KEY, "x", NOW_S, WINDOW_S).unwrap_err();
    assert!(error.to_string().starts_with("cannot bind a key in the registry "), "{error}");
}

#[test]
fn other_files_are_told_apart() {
    let scene = Scene::new();
    let other = scene.directory.path().join("other.sqlite");
    Connection::open(&other).unwrap().execute_batch("CREATE TABLE t (x)").unwrap();
    assert!(matches!(Registry::create(&other), Err(RegistryError::NotOurs { .. })));

    Connection::open(scene.path()).unwrap().pragma_update(None, "user_version", 9).unwrap();
    let error = Registry::open(&scene.path()).unwrap_err();
    assert!(matches!(error, RegistryError::Version { version: 9, .. }), "{error}");

    let rubbish = scene.directory.path().join("rubbish");
    std::fs::write(&rubbish, "no database at all, but long enough").unwrap();
    assert!(matches!(Registry::create(&rubbish), Err(RegistryError::Open { .. })));
    let none = scene.directory.path().join("none");
    assert!(matches!(Registry::open(&none), Err(RegistryError::Missing { .. })));
    assert!(!none.exists());
    let nowhere = scene.directory.path().join("no/registry");
    assert!(matches!(Registry::create(&nowhere), Err(RegistryError::Open { .. })));
}
