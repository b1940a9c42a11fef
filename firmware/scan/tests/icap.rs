//! The ICAP adapter against c-icap and its virus_scan module, where Debian's `c-icap`,
//! `libc-icap-mod-virus-scan` and `clamav-daemon` are installed.
#![allow(
    clippy::tests_outside_test_module,
    clippy::print_stdout,
    clippy::unwrap_used,
    reason = "a test crate of its own, which says what it skips"
)]

mod servers;

use std::time::Duration;

use scan::engine::icap::IcapEngine;
use scan::engine::pool::ServerSettings;
use scan::{Engine, EngineOutcome};
use servers::{CIcap, Clamd, LARGE_BYTES, OBJECT_BYTES_MAX, eicar, scan, zip};

fn engine(addresses: &[String]) -> IcapEngine {
    let settings =
        ServerSettings { probe_every: Duration::from_millis(1), ..ServerSettings::default() };
    IcapEngine::new(addresses, settings).unwrap()
}

async fn start() -> Option<(Clamd, CIcap)> {
    let clamd = Clamd::start().await?;
    let c_icap = CIcap::start(&clamd).await?;
    Some((clamd, c_icap))
}

fn found() -> EngineOutcome {
    EngineOutcome::Found("Eicar-Test-Signature.UNOFFICIAL".to_owned())
}

/// With so much before it.
fn eicar_behind(bytes: usize) -> Vec<u8> {
    [&vec![b'x'; bytes], eicar().as_slice()].concat()
}

#[tokio::test]
async fn what_virus_scan_says_is_understood() {
    let Some((_clamd, c_icap)) = start().await else { return };
    let engine = engine(&[c_icap.address("avscan")]);
    for round in 0..3 {
        for bytes in [0, 1, 1024, 1025, 65_536, 500_000] {
            let outcome = scan(&engine, &vec![b'x'; bytes]).await;
            assert_eq!(outcome, EngineOutcome::Clean, "{round} {bytes}");
        }
        // In the preview, across its end, and far behind it.
        for before in [0, 1_000, 5_000, 900_000] {
            assert_eq!(scan(&engine, &eicar_behind(before)).await, found(), "{round} {before}");
        }
        assert_eq!(scan(&engine, &zip(false, &eicar())).await, found(), "{round}");
        let encrypted = scan(&engine, &zip(true, &[7; 40])).await;
        assert_eq!(encrypted, EngineOutcome::Encrypted, "{round}");
        let limit = scan(&engine, &vec![b'x'; LARGE_BYTES]).await;
        let EngineOutcome::Limit(why) = limit else { panic!("{limit:?}") };
        assert!(why.starts_with("Heuristics.Limits.Exceeded"), "{why}");
    }
    let counts = engine.counts();
    assert_eq!((counts.asked, counts.found, counts.failed), (39, 15, 0));
    assert!(engine.generation() > 0, "it tells its ISTag");
}

/// Without the arguments of `avscan`: with a limit of size, and giving back what it has begun to send.
#[tokio::test]
async fn what_virus_scan_does_not_look_at_is_not_clean() {
    let Some((_clamd, c_icap)) = start().await else { return };
    let engine = engine(&[c_icap.address("virus_scan")]);
    for round in 0..3 {
        for bytes in [100, 5_000, 200_000] {
            let outcome = scan(&engine, &vec![b'x'; bytes]).await;
            assert_eq!(outcome, EngineOutcome::Clean, "{round} {bytes}");
        }
        for before in [0, 5_000, 100_000, 500_000] {
            let outcome = scan(&engine, &eicar_behind(before)).await;
            let is_found = matches!(outcome, EngineOutcome::Found(_));
            assert!(is_found || matches!(outcome, EngineOutcome::Failed(_)), "{outcome:?}");
        }
        let outcome = scan(&engine, &eicar_behind(OBJECT_BYTES_MAX)).await;
        let EngineOutcome::Limit(why) = outcome else { panic!("{outcome:?}") };
        assert!(why.starts_with("it let the object pass after 1024 of"), "{why}");
    }
}

#[tokio::test]
async fn without_its_scanner_it_fails_and_never_says_clean() {
    let Some((mut clamd, c_icap)) = start().await else { return };
    let engine = engine(&[c_icap.address("avscan")]);
    assert_eq!(scan(&engine, b"hello").await, EngineOutcome::Clean);
    clamd.kill().await;
    for bytes in [5, 5_000, 200_000] {
        let outcome = scan(&engine, &vec![b'x'; bytes]).await;
        assert!(matches!(outcome, EngineOutcome::Failed(_)), "{bytes}: {outcome:?}");
    }
    clamd.restart().await;
    while scan(&engine, b"hello").await != EngineOutcome::Clean {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn a_service_that_stopped_is_used_again_and_one_that_is_none_fails() {
    let Some((_clamd, mut c_icap)) = start().await else { return };
    let none = engine(&[c_icap.address("nonsense")]);
    assert!(matches!(scan(&none, b"hello").await, EngineOutcome::Failed(_)));
    let engine = engine(&[c_icap.address("avscan")]);
    assert_eq!(scan(&engine, &eicar()).await, found());
    c_icap.stop().await;
    let outcome = scan(&engine, &eicar()).await;
    assert!(matches!(outcome, EngineOutcome::Failed(_)), "{outcome:?}");
    c_icap.restart().await;
    while scan(&engine, &eicar()).await != found() {
        tokio::task::yield_now().await;
    }
}
