use std::time::Duration;

use proptest::prelude::*;

use super::*;
use crate::engine::ScanFuture;
use crate::engine::cache::{CachedEngine, VerdictCache};
use crate::local::block::BlockRules;
use crate::local::hashes::HashLists;
use crate::tests::{eicar, encode_base64};
use crate::worker::Knowledge;
use crate::worker::pool::Isolation;
use crate::yara::CompiledRules;

/// Answers as it is told, after a time, and remembers what it was asked.
#[derive(Debug)]
struct Fake {
    answer: EngineOutcome,
    after: Duration,
    panics: bool,
    reads_mail: bool,
    opens_arj: bool,
    asked: Mutex<Vec<(u32, Vec<u8>)>>,
}

impl Fake {
    fn new(answer: EngineOutcome) -> Self {
        Self {
            answer,
            after: Duration::ZERO,
            panics: false,
            reads_mail: false,
            opens_arj: false,
            asked: Mutex::default(),
        }
    }

    fn parts(&self) -> Vec<u32> {
        let mut parts: Vec<u32> = self.asked.lock().unwrap().iter().map(|asked| asked.0).collect();
        parts.sort_unstable();
        parts
    }
}

impl Engine for Fake {
    fn name(&self) -> &'static str {
        "fake"
    }

    fn scan(&self, object: Object) -> ScanFuture<'_> {
        Box::pin(async move {
            self.asked.lock().unwrap().push((object.part, whole(&object.content)));
            assert!(!self.panics, "told to panic");
            tokio::time::sleep(self.after).await;
            self.answer.clone()
        })
    }

    fn reads_mail(&self) -> bool {
        self.reads_mail
    }

    fn counts(&self) -> Counts {
        let asked = self.asked.lock().unwrap().len() as u64;
        let found = if matches!(self.answer, EngineOutcome::Found(_)) { asked } else { 0 };
        Counts { asked, found, ..Counts::default() }
    }

    fn opens(&self, format: &str) -> bool {
        self.opens_arj && format == "arj"
    }
}

fn whole(content: &Spooled) -> Vec<u8> {
    content.chunks().map(Result::unwrap).collect::<Vec<_>>().concat()
}

fn mail(part: &[u8]) -> Vec<u8> {
    let head = "Received: x\r\nSubject: x\r\nContent-Type: multipart/mixed; boundary=BND\r\n\r\n\
        --BND\r\n\r\nhello\r\n\
        --BND\r\nContent-Transfer-Encoding: base64\r\n\
        Content-Disposition: attachment; filename=\"a\x1b.com\"\r\n\r\n";
    [head.as_bytes(), encode_base64(part).as_bytes(), b"\r\n--BND--\r\n"].concat()
}

async fn scan(scanner: &Scanner, mail: &[u8]) -> Report {
    let mut scan = scanner.begin();
    for chunk in mail.chunks(100) {
        scan.feed(chunk);
    }
    scan.finish().await
}

/// A worker that knows the test file and blocks nothing.
fn workers(limits: &Limits) -> Workers {
    let rules = CompiledRules::load(None).unwrap();
    let (hashes, block) = (HashLists::default(), BlockRules::default());
    let knowledge = Knowledge::new(&rules, hashes, block, limits.clone()).unwrap();
    Workers::new(Isolation::Thread, 1, &knowledge).unwrap()
}

fn scanner(engines: Vec<Arc<dyn Engine>>, limits: Limits) -> Scanner {
    Scanner::new(workers(&limits), engines, limits, Spooler::default())
}

fn with(engine: &Arc<Fake>, limits: Limits) -> Scanner {
    scanner(vec![Arc::clone(engine) as Arc<dyn Engine>], limits)
}

fn yara() -> Scanner {
    scanner(Vec::new(), Limits::default())
}

#[tokio::test]
async fn an_infected_part_is_found_with_its_name() {
    let report = scan(&yara(), &mail(&eicar())).await;
    let Verdict::Infected(finding) = report.verdict else { panic!("{report:?}") };
    assert_eq!(finding.name, "EICAR-Test-File");
    assert_eq!((finding.engine.as_str(), finding.part), ("yara", 2));
    assert_eq!(finding.file_name.as_deref(), Some("a.com"));
    assert_eq!(report.parts, 2);
}

#[tokio::test]
async fn a_clean_mail_is_clean_and_gives_its_memory_back() {
    let scanner = yara();
    let mail = mail(b"harmless");
    let report = scan(&scanner, &mail).await;
    assert_eq!(report.verdict, Verdict::Clean);
    assert_eq!(report.bytes, mail.len() as u64);
    drop(report);
    assert_eq!(scanner.spooler().bytes(), 0);
    assert_eq!(scan(&scanner, b"").await.verdict, Verdict::Clean);
}

#[tokio::test]
async fn engines_get_the_message_and_every_part() {
    let fake = Arc::new(Fake::new(EngineOutcome::Clean));
    let mail = mail(b"harmless");
    scan(&with(&fake, Limits::default()), &mail).await;
    assert_eq!(fake.parts(), [0, 1, 2]);
    let asked = fake.asked.lock().unwrap();
    let of = |part| &asked.iter().find(|asked| asked.0 == part).unwrap().1;
    assert_eq!((of(0), of(2)), (&mail, &b"harmless".to_vec()));
}

#[tokio::test]
async fn who_reads_mail_is_not_sent_what_stands_in_it() {
    let fake = Arc::new(Fake { reads_mail: true, ..Fake::new(EngineOutcome::Clean) });
    scan(&with(&fake, Limits::default()), &mail(b"harmless")).await;
    assert_eq!(fake.parts(), [0, 2]);
}

#[tokio::test]
async fn the_same_bytes_are_looked_at_once() {
    let fake = Arc::new(Fake::new(EngineOutcome::Clean));
    scan(&with(&fake, Limits::default()), &mail(b"hello")).await;
    assert_eq!(fake.parts(), [0, 1]);
}

#[tokio::test]
async fn found_weighs_more_than_unscannable_and_that_more_than_clean() {
    let found = Arc::new(Fake::new(EngineOutcome::Found("x\r\ny".repeat(99))));
    let failed = Arc::new(Fake::new(EngineOutcome::Failed("down".to_owned())));
    let clean = Arc::new(Fake::new(EngineOutcome::Clean));
    let both = scanner(vec![clean.clone(), failed.clone(), found], Limits::default());
    let Verdict::Infected(finding) = scan(&both, b"x").await.verdict else { panic!() };
    assert!(finding.name.starts_with("x??yx??y"));
    assert_eq!(finding.name.len(), FINDING_NAME_BYTES_MAX);
    let down = scanner(vec![clean, failed], Limits::default());
    assert_eq!(
        scan(&down, b"x").await.verdict,
        Verdict::Unscannable(Unscannable::EngineFailed {
            engine: "fake".to_owned(),
            why: "down".to_owned()
        })
    );
}

#[tokio::test]
async fn an_encrypted_part_does_not_hide_what_nobody_can_read() {
    let encrypted = Arc::new(Fake::new(EngineOutcome::Encrypted));
    let scanner = with(&encrypted, Limits { parts_max: 1, ..Limits::default() });
    assert_eq!(scan(&scanner, b"x").await.verdict, Verdict::Unscannable(Unscannable::Encrypted));
    let report = scan(&scanner, &mail(b"x")).await;
    assert_eq!(report.verdict, Verdict::Unscannable(Unscannable::OverParts));
}

#[tokio::test]
async fn the_same_finding_is_named_whichever_engine_is_quicker() {
    for (first_after, second_after) in [(0, 50), (50, 0)] {
        let fake = |name: &str, after| {
            let answer = EngineOutcome::Found(name.to_owned());
            Arc::new(Fake { after: Duration::from_millis(after), ..Fake::new(answer) })
        };
        let engines: Vec<Arc<dyn Engine>> =
            vec![fake("First", first_after), fake("Second", second_after)];
        let report = scan(&scanner(engines, Limits::default()), &mail(b"x")).await;
        let Verdict::Infected(finding) = report.verdict else { panic!("{report:?}") };
        assert_eq!((finding.name.as_str(), finding.part), ("First", 1), "{first_after}");
    }
}

#[tokio::test]
async fn what_is_found_here_is_named_before_what_others_find() {
    let fake = Arc::new(Fake::new(EngineOutcome::Found("Theirs".to_owned())));
    let report = scan(&with(&fake, Limits::default()), &mail(&eicar())).await;
    let Verdict::Infected(finding) = report.verdict else { panic!("{report:?}") };
    assert_eq!((finding.name.as_str(), finding.engine.as_str()), ("EICAR-Test-File", "yara"));
}

#[tokio::test]
async fn an_archive_of_a_kind_that_nobody_opened_is_not_clean() {
    let rar = mail(b"Rar!\x1a\x07\x01\0 and what is no block of it");
    let shut = Arc::new(Fake::new(EngineOutcome::Clean));
    let report = scan(&with(&shut, Limits::default()), &rar).await;
    assert!(matches!(report.verdict, Verdict::Unscannable(_)), "{report:?}");
    let arj = mail(b"\x60\xea\x2c\x00\x22\x06 and its members");
    let report = scan(&with(&shut, Limits::default()), &arj).await;
    assert!(matches!(report.verdict, Verdict::Unscannable(Unscannable::Archive { .. })));
    let opens = Arc::new(Fake { opens_arj: true, ..Fake::new(EngineOutcome::Clean) });
    assert_eq!(scan(&with(&opens, Limits::default()), &arj).await.verdict, Verdict::Clean);
    // Of another kind nobody said that he opens it.
    let ace = mail(b"\x00\x00\x31\x00\x00\x00\x90**ACE**\x14\x14\x02\x00");
    let report = scan(&with(&opens, Limits::default()), &ace).await;
    assert!(
        matches!(report.verdict, Verdict::Unscannable(Unscannable::Archive { .. })),
        "{report:?}"
    );
}

#[tokio::test]
async fn what_is_blocked_does_not_hide_what_is_infected_and_every_reason_is_told() {
    let limits = Limits { members_max: 10, ..Limits::default() };
    let block = BlockRules::parse(&[".com".to_owned()]).unwrap();
    let rules = CompiledRules::load(None).unwrap();
    let knowledge = Knowledge::new(&rules, HashLists::default(), block, limits.clone()).unwrap();
    let workers = Workers::new(Isolation::Thread, 1, &knowledge).unwrap();
    let scanner = Scanner::new(workers, Vec::new(), limits, Spooler::default());
    let report = scan(&scanner, &mail(&eicar())).await;
    let Verdict::Infected(finding) = &report.verdict else { panic!("{report:?}") };
    assert_eq!(finding.engine, "yara");
    assert_eq!(report.blocked.as_ref().unwrap().name, "Blocked.Extension.com");
    assert_eq!(report.outcomes().len(), 2);
    let report = scan(&scanner, &mail(b"\x60\xea\x2c\x00\x22\x06 and its members")).await;
    let Verdict::Infected(finding) = &report.verdict else { panic!("{report:?}") };
    assert_eq!(finding.engine, crate::BLOCK);
    let [Unscannable::Archive { format }] = report.unscannable.as_slice() else { panic!() };
    assert_eq!(format, "arj");
}

#[tokio::test]
async fn an_engine_that_panics_has_failed() {
    let fake = Arc::new(Fake { panics: true, ..Fake::new(EngineOutcome::Clean) });
    let report = scan(&with(&fake, Limits::default()), b"x").await;
    assert_eq!(
        report.verdict,
        Verdict::Unscannable(Unscannable::EngineFailed {
            engine: "fake".to_owned(),
            why: "the engine panicked".to_owned()
        })
    );
}

#[tokio::test]
async fn all_readings_share_the_limits_of_the_mail() {
    // Padding inside: three readings more, each with the same bytes again.
    let text = format!("Content-Transfer-Encoding: base64\n\n{}=AAAA\n", "A".repeat(4000));
    let fake = Arc::new(Fake::new(EngineOutcome::Clean));
    let roomy = Limits { decoded_bytes_max: 4 * 3010, ..Limits::default() };
    assert_eq!(scan(&with(&fake, roomy), text.as_bytes()).await.verdict, Verdict::Clean);
    let tight = Limits { decoded_bytes_max: 3 * 3000, ..Limits::default() };
    let report = scan(&with(&fake, tight), text.as_bytes()).await;
    assert_eq!(report.verdict, Verdict::Unscannable(Unscannable::OverDecoded));
}

#[tokio::test]
async fn an_engine_that_does_not_answer_in_time_has_failed() {
    let fake = Fake { after: Duration::MAX, ..Fake::new(EngineOutcome::Clean) };
    let limits = Limits { time_max: Duration::from_millis(100), ..Limits::default() };
    let scanner = with(&Arc::new(fake), limits.clone());
    scanner.workers().warm_up().await;
    let report = scan(&scanner, b"x").await;
    let Verdict::Unscannable(Unscannable::EngineFailed { .. }) = report.verdict else {
        panic!("{report:?}")
    };
    assert!(report.waited >= limits.time_max);
}

#[tokio::test]
async fn an_engine_that_hangs_holds_a_finding_up_for_a_moment_only() {
    let hangs = Arc::new(Fake { after: Duration::MAX, ..Fake::new(EngineOutcome::Clean) });
    let quick = Arc::new(Fake::new(EngineOutcome::Found("x".to_owned())));
    let report = scan(&scanner(vec![hangs, quick], Limits::default()), b"x").await;
    assert!(matches!(report.verdict, Verdict::Infected(_)));
    assert!(report.waited >= AFTER_FOUND_MAX && report.waited < Limits::default().time_max);
}

#[tokio::test]
async fn a_mail_that_ends_its_workers_is_not_clean() {
    let workers = crate::worker::tests::dying_workers();
    let scanner = Scanner::new(workers, Vec::new(), Limits::default(), Spooler::default());
    let report = scan(&scanner, &mail(b"harmless")).await;
    assert_eq!(report.verdict, Verdict::Unscannable(Unscannable::Crashed));
}

#[tokio::test]
async fn a_message_over_the_limit_is_let_go() {
    let fake = Arc::new(Fake::new(EngineOutcome::Clean));
    let limits = Limits { message_bytes_max: 1000, ..Limits::default() };
    let scanner = with(&fake, limits);
    assert_eq!(scan(&scanner, &[b'x'; 1000]).await.verdict, Verdict::Clean);
    let mut mail = scanner.begin();
    mail.feed(&[b'x'; 1000]);
    assert_eq!(scanner.spooler().bytes(), 1000);
    mail.feed(b"x");
    assert_eq!(scanner.spooler().bytes(), 0);
    let report = mail.finish().await;
    assert_eq!(report.verdict, Verdict::Unscannable(Unscannable::OverSize));
    assert_eq!(report.bytes, 1001);
    assert!(report.content.is_none());
    assert_eq!(scanner.numbers().unscannable, [("over-size", 1)].into());
}

#[tokio::test]
async fn all_mails_together_have_a_limit_and_none_waits() {
    let limits = Limits::default();
    let spooler = Spooler::new(&std::env::temp_dir(), 1000);
    let scanner = Scanner::new(workers(&limits), Vec::new(), limits, spooler);
    let mut first = scanner.begin();
    first.feed(&[b'x'; 600]);
    let report = scan(&scanner, &[b'y'; 600]).await;
    assert!(
        matches!(report.verdict, Verdict::Unscannable(Unscannable::EngineFailed { .. })),
        "{report:?}"
    );
    drop((first, report));
    assert_eq!(scanner.spooler().bytes(), 0);
    assert_eq!(scan(&scanner, &[b'y'; 400]).await.verdict, Verdict::Clean);
}

/// Base64 in lines of the usual length.
fn folded(line: &str) -> String {
    let pieces: Vec<_> = line.as_bytes().chunks(76).map(String::from_utf8_lossy).collect();
    pieces.join("\r\n")
}

#[tokio::test]
async fn a_large_mail_is_scanned_out_of_its_file() {
    // Of a kind that every engine decodes alike.
    let plain = |part: &[u8]| {
        let mail = String::from_utf8(mail(part)).unwrap();
        let kind = "Content-Type: application/octet-stream\r\nContent-Disposition";
        let lines: Vec<_> = mail.split("\r\n").map(folded).collect();
        lines.join("\r\n").replace("Content-Disposition", kind).replace('\x1b', "").into_bytes()
    };
    let clean = plain(&vec![b'z'; 3 * spool::MEMORY_BYTES_MAX]);
    let fake = Arc::new(Fake { reads_mail: true, ..Fake::new(EngineOutcome::Clean) });
    let scanner = with(&fake, Limits::default());
    let report = scan(&scanner, &clean).await;
    assert_eq!(report.verdict, Verdict::Clean);
    // The message, and not the part, which any engine decodes as we do.
    assert_eq!(fake.parts(), [0]);
    assert_eq!(fake.asked.lock().unwrap()[0].1, clean);
    let infected = plain(&[vec![b'z'; 3 * spool::MEMORY_BYTES_MAX], eicar()].concat());
    assert!(matches!(scan(&scanner, &infected).await.verdict, Verdict::Infected(_)));
}

#[tokio::test]
async fn what_the_header_says_is_reported_also_of_an_infected_mail() {
    let mut mail = b"Message-ID: <1@x.example>\r\n".to_vec();
    mail.extend(self::mail(&eicar()));
    let report = scan(&yara(), &mail).await;
    assert!(matches!(report.verdict, Verdict::Infected(_)));
    assert_eq!(report.summary.message_id.as_deref(), Some("<1@x.example>"));
    assert_eq!(report.summary.subject.as_deref(), Some("x"));
    let names: Vec<_> = report.engines.iter().map(|engine| engine.name.as_str()).collect();
    assert_eq!(names, ["analysis"]);
    assert_eq!(report.engines[0].outcome, "infected: EICAR-Test-File");
}

#[tokio::test]
async fn base64_in_another_dialect_is_read_too() {
    for (from, to) in [("+", "-"), ("/", "_"), ("Q", "Q=")] {
        // Something in front brings the letters in.
        let payload = [b"\xfb\xff\xfe>?>".as_slice(), &eicar()].concat();
        let mail = String::from_utf8(mail(&payload)).unwrap();
        let (head, body) = mail.split_at(mail.find("com\"").unwrap() + 5);
        let mail = format!("{head}{}", body.replacen(from, to, 3));
        let report = scan(&yara(), mail.as_bytes()).await;
        assert!(matches!(report.verdict, Verdict::Infected(_)), "{from}: {report:?}\n{mail}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn any_chunking_gives_the_same_verdict(
        infected: bool,
        sizes in proptest::collection::vec(1_usize..200, 1..20),
    ) {
        let mail = mail(&if infected { eicar() } else { b"harmless".to_vec() });
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let report = runtime.block_on(async {
            let scanner = yara();
            let mut scan = scanner.begin();
            let (mut rest, mut at) = (mail.as_slice(), 0);
            while !rest.is_empty() {
                let (chunk, tail) = rest.split_at(sizes[at % sizes.len()].min(rest.len()));
                scan.feed(chunk);
                (rest, at) = (tail, at + 1);
            }
            scan.finish().await
        });
        prop_assert_eq!(matches!(report.verdict, Verdict::Infected(_)), infected);
        prop_assert_eq!(report.verdict == Verdict::Clean, !infected);
    }
}

/// The same mail twice: the second time nobody has to be asked.
#[tokio::test]
async fn engines_are_counted_with_what_was_known_already() {
    let fake = Arc::new(Fake::new(EngineOutcome::Clean));
    let cached = CachedEngine::new(fake, VerdictCache::default());
    let scanner = scanner(vec![Arc::new(cached)], Limits::default());
    assert_eq!(
        scanner.numbers().to_string(),
        "fake: asked=0 found=0 failed=0 retried=0 hits=0 \
                                               misses=0 entries=0"
    );
    scan(&scanner, &mail(b"clean")).await;
    let EngineNumbers { counts, cache } = scanner.numbers().engines["fake"];
    let cache = cache.unwrap();
    assert!(counts.asked > 0, "{counts:?}");
    assert_eq!((cache.hits, cache.misses), (0, counts.asked));
    scan(&scanner, &mail(b"clean")).await;
    let again = scanner.numbers().engines["fake"];
    assert_eq!(again.counts.asked, counts.asked);
    assert_eq!(again.cache.unwrap().hits, counts.asked);
}
