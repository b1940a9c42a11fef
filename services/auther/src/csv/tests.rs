use proptest::prelude::*;
use wire::ticket::KeyFingerprint;

use super::*;
use crate::device::{NOTE_BYTES_MAX, SESSIONS_MAX_LIMIT};

fn parsed(text: &str) -> Vec<(String, NewDevice)> {
    let devices = parse(text.as_bytes()).unwrap();
    devices.into_iter().map(|(mac, device)| (mac.to_string(), device)).collect()
}

fn refused(text: &[u8]) -> String {
    parse(text).unwrap_err().to_string()
}

fn new(serial: &str, note: &str, sessions_max: u32) -> NewDevice {
    NewDevice {
        serial: serial.to_owned(),
        note: note.to_owned(),
        sessions_max,
        ..NewDevice::default()
    }
}

#[test]
fn a_line_without_a_heading_is_a_label() {
    let text = "# Tokyo\r\n\
                02:00:00:00:00:01\r\n\
                \r\n\
                02-00-00-00-00-02,AVR-7, front desk \r\n\
                020000000003,,\"2F, \"\"east\"\"\",50\n\
                0200.0000.0004,,,";
    assert_eq!(
        parsed(text),
        [
            ("02:00:00:00:00:01".to_owned(), NewDevice::default()),
            ("02:00:00:00:00:02".to_owned(), new("AVR-7", "front desk", SESSIONS_MAX_DEFAULT)),
            ("02:00:00:00:00:03".to_owned(), new("", "2F, \"east\"", 50)),
            ("02:00:00:00:00:04".to_owned(), NewDevice::default()),
        ]
    );
    assert!(parsed("").is_empty());
}

#[test]
fn a_heading_names_the_columns_in_any_order() {
    let key = "ab".repeat(32);
    let text = format!(
        "\u{feff}Note,MAC,state,suspended,key\n\
         desk,02:00:00:00:00:01,enrolled,yes,{key}\n\
         ,02:00:00:00:00:02\n"
    );
    let desk = NewDevice {
        suspended: true,
        key: Some(KeyFingerprint([0xab; 32])),
        ..new("", "desk", SESSIONS_MAX_DEFAULT)
    };
    let expected = [
        ("02:00:00:00:00:01".to_owned(), desk),
        ("02:00:00:00:00:02".to_owned(), NewDevice::default()),
    ];
    assert_eq!(parsed(&text), expected);
    let error = refused(b"mac,colour\n");
    assert!(error.contains("line 1: \"colour\" is no column; there are mac, "), "{error}");
    let error = refused(b"mac,note,NOTE\n");
    assert!(error.contains("line 1: the column \"NOTE\" stands there twice"), "{error}");
}

#[test]
fn every_bad_row_is_named_by_its_line() {
    let text = b"02:00:00:00:00:01\n\
                 nonsense,x\n\
                 02:00:00:00:00:02,s,ok,0\n\
                 02:00:00:00:00:03,s,a,1,b\n\
                 02:00:00:00:00:01\n\
                 ff:ff:ff:ff:ff:ff\n\
                 02:00:00:00:00:04,,\"open\n\
                 02:00:00:00:00:05,,\"a\"b\n\
                 02:00:00:00:00:06,,\x93\xfa\x96\x7b\n\
                 02:00:00:00:00:07,no space\n";
    assert_eq!(
        refused(text),
        "nothing was imported; 9 bad rows:\n  \
         line 2: \"nonsense\" is not a MAC address; write it as 02:00:5e:10:00:01\n  \
         line 3: \"0\" is no number of sessions from 1 to 100000\n  \
         line 4: more than 4 fields; a note with a comma needs \"quotes\"\n  \
         line 5: 02:00:00:00:00:01 stands on line 1 too\n  \
         line 6: ff:ff:ff:ff:ff:ff is the address of a group, not of a box\n  \
         line 7: a quote is not closed; a field ends on its line\n  \
         line 8: something stands behind a closing quote\n  \
         line 9: not UTF-8; save the file as \"CSV UTF-8\"\n  \
         line 10: \"no space\" is no serial number; letters, digits and -_./# make one"
    );
    let error = refused(b"mac,suspended,key\n02:00:00:00:00:01,maybe\n02:00:00:00:00:02,,ab\n");
    assert!(error.contains("line 2: \"maybe\" is neither yes nor no"), "{error}");
    assert!(error.contains("line 3: the key is not a key fingerprint"), "{error}");
    assert!(refused(b"note,mac\ndesk\n").contains("line 2: no MAC address on this line"));
}

#[test]
fn bad_rows_beyond_the_limit_are_counted() {
    let shown = refused("x\n".repeat(BAD_ROWS_SHOWN_MAX + 5).as_bytes());
    assert!(shown.starts_with("nothing was imported; 25 bad rows:"), "{shown}");
    assert!(shown.ends_with("\n  and 5 more"), "{shown}");
}

#[test]
fn a_file_has_so_many_boxes_and_no_more() {
    let line = |number: usize| format!("0200{number:08x}\n");
    let text: String = (0..ROWS_MAX).map(line).collect();
    assert_eq!(parse(text.as_bytes()).unwrap().len(), ROWS_MAX);
    let error = refused((text + &line(ROWS_MAX)).as_bytes());
    assert!(error.contains("line 100001: more than 100000 boxes"), "{error}");
}

#[test]
fn a_spreadsheet_sees_no_formula_in_an_export() {
    for (note, cell) in [
        ("=1+1", "'=1+1"),
        ("+1", "'+1"),
        ("-1", "'-1"),
        ("@x", "'@x"),
        ("'=1", "''=1"),
        ("'tis", "'tis"),
        ("=HYPERLINK(\"x\",1)", "\"'=HYPERLINK(\"\"x\"\",1)\""),
        ("a=1", "a=1"),
    ] {
        assert_eq!(write_cell(note), cell);
        let fields = split_fields(cell).unwrap();
        assert_eq!(read_cell(&fields[0]), note);
    }
}

fn any_device() -> impl Strategy<Value = Device> {
    let mac = any::<[u8; 6]>().prop_map(|mut mac| {
        mac[0] = mac[0] & 0xfe | 2;
        MacAddress(mac)
    });
    let note =
        "[=+@'\",#-]{0,3}\\PC{0,40}".prop_filter_map("a note", |note| parse_note(&note).ok());
    let key = proptest::option::of(any::<[u8; 32]>().prop_map(KeyFingerprint));
    let serial = "[-A-Za-z0-9_./#]{0,20}";
    (mac, serial, note, 1..=SESSIONS_MAX_LIMIT, proptest::option::of(any::<u32>()), key).prop_map(
        |(mac, serial, note, sessions_max, suspended_s, key)| Device {
            serial,
            note,
            sessions_max,
            suspended_s: suspended_s.map(u64::from),
            key,
            bound_s: Some(5),
            software: Some("avr, \"0.1\"".to_owned()),
            ..Device::new(mac, 5)
        },
    )
}

proptest! {
    #[test]
    fn what_is_exported_is_imported(
        devices in proptest::collection::vec(any_device(), 0..20),
    ) {
        let text: String =
            std::iter::once(HEADING.to_owned()).chain(devices.iter().map(row)).collect();
        let mut seen = std::collections::HashSet::new();
        prop_assume!(devices.iter().all(|device| seen.insert(device.mac)));
        let back = parse(text.as_bytes()).unwrap();
        let expected: Vec<_> = devices
            .into_iter()
            .map(|device| {
                let suspended = device.suspended_s.is_some();
                let Device { mac, serial, note, sessions_max, key, .. } = device;
                let new = NewDevice { serial, note, sessions_max, suspended, key, window_s: None };
                (mac, new)
            })
            .collect();
        prop_assert_eq!(back, expected);
    }

    #[test]
    fn any_bytes_are_boxes_or_bad_rows(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        let lines = bytes.iter().filter(|&&byte| byte == b'\n').count() + 1;
        match parse(&bytes) {
            Ok(devices) => prop_assert!(devices.len() <= lines),
            Err(bad) => prop_assert!((1..=lines).contains(&bad.count)),
        }
    }

    #[test]
    fn notes_of_any_length_have_a_limit(note in "\\PC{0,300}") {
        if let Ok(note) = parse_note(&note) {
            prop_assert!(note.len() <= NOTE_BYTES_MAX);
        }
    }
}
