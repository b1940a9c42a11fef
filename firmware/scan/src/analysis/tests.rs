//! One analysis, two ways to get at the bytes: a mail that streams by gives what it gives in memory.

use std::sync::atomic::{AtomicUsize, Ordering};

use proptest::prelude::*;

use super::*;
use crate::local::block::BlockRules;
use crate::local::hashes::HashLists;
use crate::local::{BlockEngine, HashEngine};
use crate::tests::{eicar, encode_base64};
use crate::worker::PASSES_MAX;
use crate::yara::{CompiledRules, YaraEngine};

/// A mail that is not kept.
struct Pieces<'a> {
    bytes: &'a [u8],
    at: usize,
    piece_bytes: usize,
    passes: usize,
}

impl Source for Pieces<'_> {
    fn restart(&mut self) {
        self.at = 0;
        self.passes += 1;
    }

    fn next_piece(&mut self) -> &[u8] {
        let rest = self.bytes.get(self.at..).unwrap_or_default();
        let piece = rest.get(..self.piece_bytes).unwrap_or(rest);
        self.at += piece.len();
        piece
    }
}

/// What is looked for.
struct Known {
    rules: CompiledRules,
    hashes: HashLists,
    block: BlockRules,
}

/// How much larger the listed file is than a start.
const MORE: usize = 10_000;

impl Known {
    fn new(rules: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("x.sha256"), listed()).unwrap();
        let block = [".exe", "pe", "dos", "elf", "iso", "html-app", "rtf-object", "script"];
        Self {
            rules: CompiledRules::from_sources(&[("a.yar".to_owned(), rules.to_owned())]).unwrap(),
            hashes: HashLists::load(folder.path()).unwrap(),
            block: BlockRules::parse(&block.map(str::to_owned)).unwrap(),
        }
    }

    fn analyzer(&self, window_bytes: usize) -> Analyzer<'_> {
        let engines: Vec<Box<dyn LocalEngine + '_>> = vec![
            Box::new(BlockEngine::new(self.block.clone())),
            Box::new(HashEngine::new(self.hashes.clone())),
            Box::new(YaraEngine::new(&self.rules)),
        ];
        Analyzer { window_bytes, ..Analyzer::new(engines, Limits::default()) }
    }
}

/// A file that is in the list.
fn listed_file() -> Vec<u8> {
    vec![b'a'; START_BYTES + MORE]
}

fn listed() -> String {
    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, &listed_file());
    let hex: String = digest.as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
    format!("{hex} Listed.File\n")
}

/// Two rules of which neither needs the whole.
const RULES: &str = "rule cat { strings: $a = \"a cat and a dog\" condition: $a } \
    rule pair { strings: $a = { 01 02 [0-3000] 03 04 05 } $b = \"never\" condition: $a and not $b }";

fn never() -> unpack::Stop {
    Arc::new(|| false)
}

fn held(known: &Known, mail: &[u8]) -> Analysis {
    known.analyzer(WINDOW_BYTES).analyze(mail, Export::Nothing, &never(), &mut |_, _, _| {})
}

/// The analysis, and how often the mail was read for it.
fn streamed(
    known: &Known,
    mail: &[u8],
    piece_bytes: usize,
    window_bytes: usize,
) -> (Analysis, usize) {
    let mut source = Pieces { bytes: mail, at: 0, piece_bytes, passes: 0 };
    let mut analyzer = known.analyzer(window_bytes);
    let analysis =
        analyzer.analyze_source(&mut source, Export::Nothing, &never(), &mut |_, _, _| {
            panic!("nothing is exported")
        });
    (analysis, source.passes)
}

/// Letters that mean nothing.
fn filler(bytes: usize) -> Vec<u8> {
    b"The quick brown fox jumps over the lazy hen. ".iter().copied().cycle().take(bytes).collect()
}

/// A zip without a directory, of one file as it is.
fn zip(content: &[u8]) -> Vec<u8> {
    let size = u32::try_from(content.len()).unwrap().to_le_bytes();
    let mut zip = b"PK\x03\x04\x0a\0\0\0\0\0\0\0\0\0\0\0\0\0".to_vec();
    zip.extend(size);
    zip.extend(size);
    zip.extend(b"\x05\0\0\0a.txt");
    zip.extend(content);
    zip
}

/// Things that decide over an object, wherever they stand in it.
fn needles() -> Vec<Vec<u8>> {
    let footer = [b"conectix".as_slice(), &[0; 504]].concat();
    let pair = [b"\x01\x02".as_slice(), &[b'x'; 2_500], b"\x03\x04\x05"].concat();
    vec![
        Vec::new(),
        eicar(),
        b"a cat and a dog".to_vec(),
        pair,
        b"never".to_vec(),
        zip(b"harmless"),
        zip(&eicar()),
        b"PK\x03\x04".to_vec(),
        b"MSCF\0\0\0\0".to_vec(),
        footer,
        b"<hta:application".to_vec(),
        b"Content-Type: text/plain\r\n".to_vec(),
    ]
}

/// How objects begin.
fn starts() -> Vec<Vec<u8>> {
    let mut near = b"MZ".to_vec();
    near.resize(0x3c, 0);
    near.extend_from_slice(b"\x40\0\0\0PE\0\0");
    let mut far = near.clone();
    far[0x3c..0x40].copy_from_slice(&u32::try_from(START_BYTES + 5_000).unwrap().to_le_bytes());
    vec![
        Vec::new(),
        near,
        far,
        b"\x7fELF".to_vec(),
        b"Subject: a mail\r\nContent-Type: text/plain\r\n\r\n".to_vec(),
        b"{\\rtf1 ".to_vec(),
        b"%PDF-1.7\n".to_vec(),
        zip(b"first"),
        b"\x50\x2a\x4d\x18\x02\0\0\0xx".to_vec(),
    ]
}

#[derive(Debug, Clone)]
struct Attachment {
    start: usize,
    /// What follows, and after how much of it, and of all.
    needle: usize,
    before: usize,
    behind: usize,
    is_named: bool,
    coding: u8,
}

impl Attachment {
    fn content(&self) -> Vec<u8> {
        let start = starts().swap_remove(self.start);
        let needle = needles().swap_remove(self.needle);
        let before = filler(self.before.saturating_sub(start.len()));
        [start, before, needle, filler(self.behind)].concat()
    }

    fn entity(&self) -> Vec<u8> {
        let name = if self.is_named { "a.exe" } else { "a.bin" };
        let mut entity = format!(
            "Content-Type: application/octet-stream\r\n\
             Content-Disposition: attachment; filename={name}\r\n"
        )
        .into_bytes();
        let content = self.content();
        let text = encode_base64(&content);
        match self.coding {
            0 => {
                entity.extend_from_slice(b"\r\n");
                entity.extend(content);
            }
            // Padding inside: readers differ, and the mail is read again.
            1 => {
                entity.extend_from_slice(b"Content-Transfer-Encoding: base64\r\n\r\nQQ==QUJD\r\n");
                entity.extend(text.into_bytes());
            }
            _ => {
                entity.extend_from_slice(b"Content-Transfer-Encoding: base64\r\n\r\n");
                entity.extend(text.into_bytes());
            }
        }
        entity
    }
}

fn attachment() -> impl Strategy<Value = Attachment> {
    let near = START_BYTES - 3_000..START_BYTES + 9_000;
    let place = prop_oneof![1 => 0..3_000_usize, 4 => near];
    let behind = prop_oneof![Just(0), 0..9_000_usize];
    (0..starts().len(), 0..needles().len(), place, behind, any::<bool>(), 0..6_u8).prop_map(
        |(start, needle, before, behind, is_named, coding)| Attachment {
            start,
            needle,
            before,
            behind,
            is_named,
            coding,
        },
    )
}

fn mail(attachments: &[Attachment]) -> Vec<u8> {
    let mut mail = b"Received: x\r\nSubject: y\r\n\
        Content-Type: multipart/mixed; boundary=\"=_b\"\r\n\r\n"
        .to_vec();
    for attachment in attachments {
        mail.extend_from_slice(b"--=_b\r\n");
        mail.extend(attachment.entity());
        mail.extend_from_slice(b"\r\n");
    }
    mail.extend_from_slice(b"--=_b--\r\n");
    mail
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    #[test]
    fn a_mail_that_streams_by_gives_what_it_gives_in_memory(
        mut attachments in proptest::collection::vec(attachment(), 1..4),
        is_repeated in any::<bool>(),
        piece_bytes in prop_oneof![Just(997_usize), Just(65_536), Just(1_000_000)],
        window_bytes in prop_oneof![Just(61_usize), Just(1_000), Just(4_099), Just(WINDOW_BYTES)],
    ) {
        if is_repeated {
            attachments.extend(attachments.first().cloned());
        }
        let known = Known::new(RULES);
        let mail = mail(&attachments);
        let (analysis, passes) = streamed(&known, &mail, piece_bytes, window_bytes);
        prop_assert_eq!(analysis, held(&known, &mail));
        prop_assert!(passes as u64 <= PASSES_MAX);
    }
}

/// An attachment of which nothing is said but what it contains.
fn plain(before: usize, needle: &[u8], behind: usize) -> Vec<u8> {
    let content = [filler(before), needle.to_vec(), filler(behind)].concat();
    let entity = format!("Content-Transfer-Encoding: base64\r\n\r\n{}", encode_base64(&content));
    [
        b"Content-Type: multipart/mixed; boundary=b\r\n\r\n--b\r\n",
        entity.as_bytes(),
        b"\r\n--b--\r\n",
    ]
    .concat()
}

#[test]
fn what_lies_across_the_edge_of_windows_is_found_whatever_their_size() {
    let known = Known::new(RULES);
    for window_bytes in [3, 7, 50] {
        for before in [START_BYTES - 1, START_BYTES - 67, START_BYTES, START_BYTES + 11] {
            let mail = plain(before, &eicar(), 90);
            let (analysis, passes) = streamed(&known, &mail, 100_000, window_bytes);
            assert_eq!(analysis.found.as_ref().unwrap().name, "EICAR-Test-File", "{before}");
            assert_eq!((analysis, passes), (held(&known, &mail), 1));
        }
    }
}

#[test]
fn a_listed_file_is_known_in_windows() {
    let known = Known::new(RULES);
    let mail = plain(0, &listed_file(), 0);
    let (analysis, passes) = streamed(&known, &mail, 65_536, 1_000);
    assert_eq!(analysis.found.as_ref().unwrap().name, "Listed.File");
    assert_eq!((analysis, passes), (held(&known, &mail), 1));
}

#[test]
fn an_archive_behind_something_else_is_opened_in_a_second_pass() {
    let known = Known::new(RULES);
    let harmless = plain(START_BYTES + 5_000, b"nothing", 5_000);
    assert_eq!(streamed(&known, &harmless, 65_536, 1_000).1, 1);
    let mail = plain(START_BYTES + 5_000, &zip(&eicar()), 0);
    let (analysis, passes) = streamed(&known, &mail, 65_536, 1_000);
    let found = analysis.found.clone().unwrap();
    // The file is found in the raw bytes already, as it is in memory.
    assert_eq!((found.name.as_str(), passes), ("EICAR-Test-File", 2));
    assert_eq!(analysis, held(&known, &mail));
}

#[test]
fn rules_that_need_the_whole_get_it() {
    let rule = "rule large { strings: $a = \"lazy hen\" condition: $a and filesize > 100KB }";
    let known = Known::new(rule);
    assert!(known.rules.whole_because().is_some_and(|why| why.contains("rule large")));
    assert!(!known.analyzer(WINDOW_BYTES).takes_windows());
    let mail = plain(START_BYTES + 5_000, b"", 0);
    let (analysis, _) = streamed(&known, &mail, 65_536, 1_000);
    assert_eq!(analysis.found.as_ref().unwrap().name, "large");
    assert_eq!(analysis, held(&known, &mail));
    let known = Known::new(RULES);
    assert!(known.rules.whole_because().is_none());
    assert!(known.analyzer(WINDOW_BYTES).takes_windows());
}

#[test]
fn all_readings_are_within_what_a_worker_may_ask_for() {
    let all = Oddities {
        padding_inside: true,
        url_alphabet: true,
        bad_escape: true,
        trailing_blanks: true,
        structure: true,
    };
    assert!(2 * further_readings(all, &[]).len() as u64 <= PASSES_MAX);
}

/// Says how much of an object it was shown at once.
struct Largest<'a>(&'a AtomicUsize);

impl Largest<'_> {
    fn see(&self, bytes: &[u8]) {
        self.0.fetch_max(bytes.len(), Ordering::Relaxed);
    }
}

impl LocalEngine for Largest<'_> {
    fn name(&self) -> &'static str {
        "largest"
    }

    fn scan(&mut self, object: &LocalObject<'_>) -> EngineOutcome {
        self.see(object.bytes);
        EngineOutcome::Clean
    }

    fn begin(&mut self, _: Slot, start: &[u8]) -> bool {
        self.see(start);
        true
    }

    fn window(&mut self, _: Slot, window: &Window<'_>) {
        self.see(window.bytes);
    }

    fn end(&mut self, _: Slot, _: &[String]) -> EngineOutcome {
        EngineOutcome::Clean
    }
}

#[test]
fn a_large_mail_costs_windows_unless_its_parts_go_to_engines_elsewhere() {
    let mail = plain(3_000_000, b"", 0);
    for (wanted, is_small) in [(Export::Nothing, true), (Export::Parts, false)] {
        let largest = AtomicUsize::new(0);
        let engines: Vec<Box<dyn LocalEngine + '_>> = vec![Box::new(Largest(&largest))];
        let mut analyzer = Analyzer::new(engines, Limits::default());
        let mut source = Pieces { bytes: &mail, at: 0, piece_bytes: 65_536, passes: 0 };
        let mut exported = 0;
        let mut export = |_, _: Option<&str>, bytes: &[u8]| exported += bytes.len();
        let analysis = analyzer.analyze_source(&mut source, wanted, &never(), &mut export);
        assert_eq!((analysis.parts, analysis.objects), (1, 2));
        assert_eq!(exported > 0, !is_small);
        let limit = OVERLAP_BYTES + WINDOW_BYTES;
        assert_eq!(largest.load(Ordering::Relaxed) <= limit, is_small, "{largest:?}");
    }
}
