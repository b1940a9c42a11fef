//! Updates of the box: the bundle, and what is read of a manifest, an index and the slots' names.

use std::sync::LazyLock;

use box_update::bundle::{BUNDLE_BYTES_MAX, Event, Reader};
use box_update::record::Record;
use box_update::rollout::{Index, Taker};
use box_update::slots::{Loader, Slot, Slots, file_name};
use box_update::{Keys, Manifest, Sha256};

static KEYS: LazyLock<Keys> = LazyLock::new(|| Keys::built_in().expect("keys are built in"));

/// A bundle in one piece and byte by byte. The system's bytes come behind the manifest, and all of them
/// are what was signed when the end has come.
pub(crate) fn bundle(bytes: &[u8]) {
    let whole = read(bytes, usize::MAX);
    assert_eq!(whole, read(bytes, 1), "the reading depends on how the bytes were cut");
    if whole.problem.is_none() {
        let uki = whole.manifest.expect("a whole bundle has a manifest").uki;
        assert_eq!((uki.bytes, uki.sha256), (whole.uki.len() as u64, Sha256::of(&whole.uki)));
        assert!(bytes.len() as u64 <= BUNDLE_BYTES_MAX);
    }
}

#[derive(Debug, Default, PartialEq, Eq)]
struct Found {
    manifest: Option<Manifest>,
    uki: Vec<u8>,
    problem: Option<String>,
}

fn read(bytes: &[u8], piece: usize) -> Found {
    let mut reader = Reader::new(&KEYS);
    let mut found = Found::default();
    for mut part in bytes.chunks(piece) {
        loop {
            match reader.read(&mut part) {
                Ok(Some(Event::Manifest(manifest))) => {
                    assert!(found.manifest.replace(*manifest).is_none());
                }
                Ok(Some(Event::Uki(bytes))) => {
                    assert!(found.manifest.is_some(), "nothing comes before the signature holds");
                    found.uki.extend_from_slice(bytes);
                }
                Ok(Some(Event::End)) => {}
                Ok(None) => break,
                Err(error) => {
                    assert!(reader.read(&mut part).is_err(), "it goes on behind an error");
                    found.problem = Some(error.to_string());
                    return found;
                }
            }
        }
        assert!(part.is_empty(), "all of it is taken");
    }
    found.problem = reader.finish().err().map(|error| error.to_string());
    found
}

/// A manifest, and names of slots, one a line, of which the first is what the loader says.
pub(crate) fn texts(bytes: &[u8]) {
    if let Ok(manifest) = Manifest::parse(bytes) {
        let text = manifest.to_toml().expect("what was read can be written");
        assert_eq!(Manifest::parse(text.as_bytes()), Ok(manifest));
    }
    let text = String::from_utf8_lossy(bytes);
    for slot in text.lines().filter_map(Slot::parse) {
        let again = Slot::parse(&file_name(slot.build(), slot.trust())).expect("our own spelling");
        assert_eq!(again.build(), slot.build());
    }
    let slots = Slots::of(text.lines());
    let selected = text.lines().next().map(str::to_owned);
    let loader = Loader { selected: selected.clone(), counted: selected };
    if let Ok(running) = slots.running(&loader) {
        assert!(slots.replaced_by(1, running).len() <= slots.iter().count());
    }
}

/// An index of updates: what it names stays in its folder, and a box's choice among it is one of them.
pub(crate) fn index(bytes: &[u8]) {
    let Ok(index) = Index::parse(bytes) else { return };
    for offer in &index.offers {
        assert!(offer.percent <= 100 && !offer.file.contains('/'));
    }
    let text = index.to_toml().expect("what was read can be written");
    assert_eq!(Index::parse(text.as_bytes()).as_ref(), Ok(&index));
    let Some(first) = index.offers.first() else { return };
    let record = Record::default();
    let taker = Taker {
        product: &index.product,
        board: &first.board,
        unit: "02:00:5e:10:00:01",
        running: 0,
        record: &record,
        seen_at: index.issued_at,
    };
    let choice = index.choose(&taker).expect("it is of this product, and not stale");
    if let box_update::rollout::Choice::Take(offer) = choice {
        assert!(offer.percent > 0 && offer.board == first.board);
    }
}

/// A web server's answer, in one piece and byte by byte; and an address.
pub(crate) fn answer(bytes: &[u8]) {
    let whole = box_fetch::head::read(bytes);
    let found = (1..=bytes.len()).find_map(|end| {
        match box_fetch::head::read(bytes.get(..end).unwrap_or_default()) {
            Ok(None) => None,
            found => Some(found),
        }
    });
    match (&whole, &found) {
        (Ok(Some((head, taken))), Some(Ok(Some((other, same))))) => {
            assert_eq!(
                (head, taken),
                (other, same),
                "the reading depends on how the bytes were cut"
            );
            assert!(*taken <= bytes.len());
        }
        (Ok(Some(_)), _) => panic!("a head that is whole is read when its last byte is there"),
        _ => {}
    }
    let text = String::from_utf8_lossy(bytes);
    if let Ok(url) = text.parse::<box_fetch::Url>() {
        assert_eq!(url.to_string().parse(), Ok(url.clone()));
        assert!(!url.request_target().contains([' ', '\r', '\n']));
        if let Some(other) = text.lines().last() {
            let _ = url.join(other);
        }
    }
}
