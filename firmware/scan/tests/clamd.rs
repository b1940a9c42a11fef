//! The clamd adapter against clamd itself, where Debian's `clamav-daemon` is installed.
#![allow(
    clippy::tests_outside_test_module,
    clippy::print_stdout,
    clippy::unwrap_used,
    reason = "a test crate of its own, which says what it skips"
)]

mod servers;

use std::time::Duration;

use scan::engine::cache::{CachedEngine, VerdictCache};
use scan::engine::clamd::{ClamdEngine, ClamdSettings};
use scan::{Engine, EngineOutcome, Object};
use servers::{Clamd, LARGE_BYTES, STREAM_BYTES_MAX, eicar, scan, zip};
use spool::Spooler;

/// Probes follow each other closely, so that nothing waits for them.
fn engine(servers: &[&Clamd]) -> ClamdEngine {
    let settings =
        ClamdSettings { probe_every: Duration::from_millis(1), ..ClamdSettings::default() };
    let addresses: Vec<String> = servers.iter().map(|server| server.address()).collect();
    ClamdEngine::new(&addresses, settings).unwrap()
}

fn found() -> EngineOutcome {
    EngineOutcome::Found("Eicar-Test-Signature.UNOFFICIAL".to_owned())
}

#[tokio::test]
async fn what_clamd_says_is_understood() {
    let Some(clamd) = Clamd::start().await else { return };
    let engine = engine(&[&clamd]);
    for round in 0..3 {
        assert_eq!(scan(&engine, b"hello").await, EngineOutcome::Clean, "{round}");
        assert_eq!(scan(&engine, b"").await, EngineOutcome::Clean, "{round}");
        for before in [0, 1, 1_000_000] {
            let bytes = [&vec![b'x'; before], eicar().as_slice()].concat();
            assert_eq!(scan(&engine, &bytes).await, found(), "{round} {before}");
        }
        assert_eq!(scan(&engine, &zip(false, &eicar())).await, found(), "{round}");
        let encrypted = scan(&engine, &zip(true, &[7; 40])).await;
        assert_eq!(encrypted, EngineOutcome::Encrypted, "{round}");
        let limit = scan(&engine, &vec![b'x'; LARGE_BYTES]).await;
        let EngineOutcome::Limit(why) = limit else { panic!("{limit:?}") };
        assert!(why.starts_with("Heuristics.Limits.Exceeded"), "{why}");
        for bytes in [STREAM_BYTES_MAX + 1, 16 * STREAM_BYTES_MAX] {
            let outcome = scan(&engine, &vec![b'x'; bytes]).await;
            assert_eq!(outcome, EngineOutcome::OverSize, "{round} {bytes}");
        }
    }
    let counts = engine.counts();
    assert_eq!((counts.asked, counts.found, counts.failed, counts.retried), (30, 12, 0, 0));
}

#[tokio::test]
async fn what_waits_in_a_file_is_streamed_from_there() {
    let Some(clamd) = Clamd::start().await else { return };
    let engine = engine(&[&clamd]);
    let mut spool = Spooler::default().open();
    spool.write(&vec![b'x'; 1_000_000]).unwrap();
    spool.write(&eicar()).unwrap();
    let content = spool.finish();
    assert!(content.in_memory().is_none());
    let object = Object { part: 1, content, file_name: None };
    assert_eq!(engine.scan(object).await, found());
}

#[tokio::test]
async fn a_clamd_that_crashed_is_used_again_when_it_is_back() {
    let Some(mut clamd) = Clamd::start().await else { return };
    let engine = engine(&[&clamd]);
    assert_eq!(scan(&engine, &eicar()).await, found());
    clamd.kill().await;
    for _ in 0..3 {
        let outcome = scan(&engine, &eicar()).await;
        assert!(matches!(outcome, EngineOutcome::Failed(_)), "{outcome:?}");
    }
    clamd.restart().await;
    while scan(&engine, &eicar()).await != found() {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn of_two_one_may_crash() {
    let (Some(mut one), Some(two)) = (Clamd::start().await, Clamd::start().await) else { return };
    let engine = engine(&[&one, &two]);
    for _ in 0..4 {
        assert_eq!(scan(&engine, &eicar()).await, found());
    }
    one.kill().await;
    for _ in 0..20 {
        assert_eq!(scan(&engine, &eicar()).await, found());
        assert_eq!(scan(&engine, b"hello").await, EngineOutcome::Clean);
    }
    let counts = engine.counts();
    assert_eq!((counts.asked, counts.failed), (44, 0));
    assert_eq!(counts.retried, 1, "it was left alone after the first failure");
}

#[tokio::test]
async fn its_version_is_asked_and_what_it_said_is_remembered() {
    let Some(mut clamd) = Clamd::start().await else { return };
    let engine = std::sync::Arc::new(engine(&[&clamd]));
    while engine.generation() == 0 {
        tokio::task::yield_now().await;
    }
    let generation = engine.generation();
    let shared: std::sync::Arc<dyn Engine> = engine.clone();
    let cached = CachedEngine::new(shared, VerdictCache::default());
    assert_eq!(scan(&cached, &eicar()).await, found());
    clamd.kill().await;
    assert_eq!(scan(&cached, &eicar()).await, found());
    assert!(matches!(scan(&cached, b"other").await, EngineOutcome::Failed(_)));
    assert_eq!(engine.generation(), generation);
}
