use proptest::prelude::*;

use super::*;

fn list(items: &[&str]) -> Vec<String> {
    items.iter().map(|item| (*item).to_owned()).collect()
}

pub(crate) fn draft() -> Draft {
    Draft {
        domain: "avr.example.net".to_owned(),
        public: list(&["203.0.113.10", "2001:db8:10::1"]),
        auther: list(&["10.0.0.20", "2001:db8:10:1::20"]),
        manager: list(&["10.0.0.1", "10.0.0.2", "2001:db8:10:1::1"]),
        proxy: list(&["10.0.0.1", "10.0.0.2", "10.0.0.3", "10.0.0.3"]),
        clamd: list(&["10.0.0.1:3310"]),
        icap: list(&["icap://10.0.0.3/avscan"]),
        ntp: list(&[]),
    }
}

fn error(change: impl FnOnce(&mut Draft)) -> String {
    let mut draft = draft();
    change(&mut draft);
    let wrong = Site::new(draft).unwrap_err();
    format!("{}: {wrong}", wrong.key)
}

#[test]
fn a_site_is_forwarded_as_its_table_says() {
    let site = Site::new(draft()).unwrap();
    let shown: Vec<String> = site
        .forwards()
        .iter()
        .map(|forward| {
            let local: Vec<String> = forward.local.iter().map(ToString::to_string).collect();
            format!("{} {} {}", forward.role, forward.public, local.join(" "))
        })
        .collect();
    assert_eq!(
        shown,
        [
            "auther 203.0.113.10:4650 10.0.0.20:4650",
            "manager 203.0.113.10:4651 10.0.0.1:4651 10.0.0.2:4651",
            "auther [2001:db8:10::1]:4650 [2001:db8:10:1::20]:4650",
            "manager [2001:db8:10::1]:4651 [2001:db8:10:1::1]:4651",
            "proxy 203.0.113.10:4652 10.0.0.1:4652",
            "proxy 203.0.113.10:4653 10.0.0.2:4652",
            "proxy 203.0.113.10:4654 10.0.0.3:4652",
        ]
    );
    assert_eq!(site.name_of(Role::Manager).to_string(), "manager.avr.example.net.");
    assert_eq!(site.machines().len(), 6);
}

#[test]
fn the_file_is_read_as_it_was_written() {
    let site = Site::new(draft()).unwrap();
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("site.toml");
    std::fs::write(&path, site.to_toml()).unwrap();
    assert_eq!(Site::load(&path).unwrap(), site);
    std::fs::write(&path, site.to_toml().replace("10.0.0.20", "10.0.0.256")).unwrap();
    let error = Site::load(&path).unwrap_err().to_string();
    assert!(error.contains("site.toml:6: \"10.0.0.256\" is no address; write "), "{error}");
}

#[test]
fn every_mistake_is_named_with_what_to_write() {
    assert_eq!(
        error(|draft| draft.domain = "manager.avr.example.net".to_owned()),
        "domain: \"manager.avr.example.net\" is the name of the manager, not the domain; \
         write \"avr.example.net\" instead"
    );
    assert!(error(|draft| draft.domain.clear()).starts_with("domain: no domain; write the domain"));
    assert!(error(|draft| draft.domain = "a..b".to_owned()).contains("\"a..b\" is no domain"));
    assert!(error(|draft| draft.domain = "x.".repeat(121)).contains("is no domain"));
    assert_eq!(
        error(|draft| draft.public[0] = "192.168.1.1".to_owned()),
        "public[0]: nobody outside reaches 192.168.1.1; write the address that the internet sees, \
         which the line's provider has given, as in 203.0.113.10"
    );
    assert!(error(|draft| draft.public[0] = "100.64.0.1".to_owned()).contains("nobody outside"));
    assert!(error(|draft| draft.public[1] = "fd00::1".to_owned()).starts_with("public[1]: nobody"));
    assert!(error(|draft| draft.public[1] = "203.0.113.11".to_owned()).contains("second address"));
    assert!(error(|draft| draft.public.clear()).starts_with("public: no public address"));
    assert!(error(|draft| draft.manager.clear()).starts_with("manager: no manager; write "));
    assert!(error(|draft| draft.proxy.clear()).starts_with("proxy: no proxy; write "));
    assert!(
        error(|draft| draft.proxy[2] = "tokyo".to_owned()).starts_with("proxy[2]: \"tokyo\" is no")
    );
    assert!(
        error(|draft| draft.proxy[2] = "0.0.0.0".to_owned()).contains("not the address of one")
    );
    assert_eq!(
        error(|draft| drop(draft.manager.pop())),
        "manager: 2001:db8:10::1 is public, and no manager has an address of IPv6; \
         write one, or leave 2001:db8:10::1 out of `public`"
    );
    assert!(
        error(|draft| drop(draft.public.pop()))
            .starts_with("auther[1]: 2001:db8:10:1::20 is of IPv6")
    );
    assert!(
        error(|draft| draft.auther.push("10.0.0.21".to_owned())).contains("more than one auther")
    );
    assert!(error(|draft| draft.clamd[0] = "10.0.0.1".to_owned()).starts_with("clamd[0]: "));
    assert!(
        error(|draft| draft.icap[0] = "http://x/".to_owned())
            .contains("icap://10.0.0.3:1344/avscan")
    );
    let many =
        |count: usize| (0..count).map(|n| format!("10.0.{}.{}", n / 250, n % 250 + 1)).collect();
    assert!(error(|draft| draft.proxy = many(PROXIES_MAX + 1)).contains("more than 64 proxies"));
    assert!(
        error(|draft| draft.proxy = vec!["10.0.0.1".to_owned(); LIST_MAX + 1]).contains("1024")
    );
    let mut most = draft();
    most.proxy = many(PROXIES_MAX);
    assert_eq!(Site::new(most).unwrap().forwards().len(), 4 + PROXIES_MAX);
}

#[test]
fn icap_services_are_taken_apart() {
    let address = |text| parse_icap(text).map(|(address, service)| (address.to_string(), service));
    assert_eq!(address("icap://10.0.0.3/avscan"), Some(("10.0.0.3:1344".to_owned(), "avscan")));
    assert_eq!(address("icap://[::1]:99/a?b"), Some(("[::1]:99".to_owned(), "a?b")));
    assert_eq!(address("icap://[::1]/a"), Some(("[::1]:1344".to_owned(), "a")));
    for bad in ["icap://10.0.0.3", "icap://x/avscan", "icap://10.0.0.3/", "icap://10.0.0.3/a b"] {
        assert_eq!(parse_icap(bad), None, "{bad}");
    }
}

proptest! {
    #[test]
    fn any_text_in_any_place_is_refused_or_written_so_that_it_is_read_again(
        text in ".{0,40}", place in 0..7_usize,
    ) {
        let mut draft = draft();
        match place {
            0 => draft.domain = text,
            1 => draft.public[0] = text,
            2 => draft.auther[0] = text,
            3 => draft.manager[0] = text,
            4 => draft.proxy[0] = text,
            5 => draft.icap[0] = text,
            _ => draft.ntp = vec![text],
        }
        if let Ok(site) = Site::new(draft.clone()) {
            let document = Document::from_text("site.toml", site.to_toml());
            prop_assert_eq!(document.parse::<Draft>().unwrap(), draft);
        }
    }
}
