//! A made-up auther on a free port, with real TLS.

use link::Acceptor;
use tokio::net::TcpListener;
use wire::MacAddress;
use wire::identity::{FleetCa, FleetRoots, server_client_config, server_config};
use wire::revocation::Revocation;
use wire::ticket::{KeyFingerprint, TicketSigner};

use super::*;

const NOW_S: u64 = 1_800_000_000;
const KEY: KeyFingerprint = KeyFingerprint([7; 32]);
const MAC: MacAddress = MacAddress([2, 0, 0, 0, 0, 1]);

struct Scene {
    signer: TicketSigner,
    acceptor: Acceptor,
    listener: TcpListener,
    authers: Authers,
}

impl Scene {
    async fn new() -> Self {
        let ca = FleetCa::create().unwrap();
        let ca_pem = ca.certificate_pem();
        let (certificate, key) = ca.issue(&[Role::Auther], "a").unwrap();
        let server = server_config(&ca_pem, &certificate, key.expose()).unwrap();
        let (certificate, key) = ca.issue(&[Role::Manager], "m").unwrap();
        let tls = server_client_config(&ca_pem, &certificate, key.expose()).unwrap();
        let signer = TicketSigner::generate().unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let authers = Authers {
            addresses: vec![listener.local_addr().unwrap()],
            tls,
            verifier: signer.verifier(),
            clock: || NOW_S,
            kept: None,
        };
        let acceptor = Acceptor::new(server, FleetRoots::from_pem(&ca_pem).unwrap());
        Self { signer, acceptor, listener, authers }
    }

    /// Answers one question with these parts, and says what was asked.
    async fn answer(&self, parts: &[RevocationPart]) -> u64 {
        let (socket, _) = self.listener.accept().await.unwrap();
        let mut link = self.acceptor.accept(socket, FETCH_TIME_MAX).await.unwrap();
        let Message::Fetch(Fetch { after }) = link.recv().await.unwrap() else { panic!() };
        for part in parts {
            let signed = self.signer.sign_revocations(part).unwrap();
            // Who was told something wrong may have gone.
            let _ = link.send(&Message::Revocations(signed)).await;
        }
        let _ = link.close().await;
        after
    }

    async fn fetch(&self, after: u64, parts: &[RevocationPart]) -> Result<Fetched, FetchError> {
        let Authers { addresses, tls, verifier, clock, .. } = &self.authers;
        let fetched = fetch(addresses[0], tls.clone(), verifier, after, *clock);
        let (fetched, asked) = tokio::join!(fetched, self.answer(parts));
        assert_eq!(asked, after);
        fetched
    }
}

fn list(number: u64, count: u8) -> Vec<RevocationPart> {
    let entry = |last| {
        let mac = MacAddress([2, 0, 0, 0, 0, last]);
        Revocation::new(mac, KEY, NOW_S, RevokedReason::Suspended)
    };
    let entries: Vec<_> = (1..=count).flat_map(|last| [entry(last); 200]).collect();
    RevocationPart::split(number, NOW_S, &entries).unwrap()
}

#[tokio::test]
async fn a_list_comes_whole_or_not_at_all() {
    let scene = Scene::new().await;
    let parts = list(7, 2);
    assert_eq!(parts.len(), 2);
    let Ok(Fetched::List { list: fetched, .. }) = scene.fetch(0, &parts).await else { panic!() };
    assert_eq!((fetched.number(), fetched.len()), (7, 2));
    let error = scene.fetch(0, &parts[..1]).await.unwrap_err();
    assert!(matches!(&error, FetchError::Link { source, .. } if source.is_closed()), "{error}");
    let swapped = [parts[1].clone(), parts[0].clone()];
    let error = scene.fetch(0, &swapped).await.unwrap_err();
    assert!(matches!(error, FetchError::Revocations { .. }), "{error}");
}

#[tokio::test]
async fn old_lists_are_not_taken() {
    let scene = Scene::new().await;
    let error = scene.fetch(8, &list(7, 1)).await.unwrap_err();
    assert!(matches!(error, FetchError::Older { number: 7, ours: 8, .. }), "{error}");
    let mut stale = list(9, 1);
    stale[0].made_s -= CLOCK_SKEW_S + 1;
    let error = scene.fetch(8, &stale).await.unwrap_err();
    assert!(matches!(error, FetchError::Stale { age_s: 301, .. }), "{error}");
    // "Unchanged" is said of the list that was asked about, and of no other.
    let error = scene.fetch(8, &[RevocationPart::unchanged(9, NOW_S)]).await.unwrap_err();
    assert!(matches!(error, FetchError::Revocations { .. }), "{error}");
}

#[tokio::test]
async fn what_is_revoked_follows_the_auther() {
    let mut scene = Scene::new().await;
    // The first auther is down.
    let gone = TcpListener::bind("127.0.0.1:0").await.unwrap();
    scene.authers.addresses.insert(0, gone.local_addr().unwrap());
    drop(gone);
    let revoked = Arc::new(Revoked::new());
    let ticket = Ticket::new(MAC, KEY, NOW_S, 1);
    assert_eq!((revoked.revoked(&ticket), revoked.age_s(NOW_S)), (None, None));
    let (trigger, drain) = crate::DrainTrigger::new();
    let following =
        tokio::spawn(follow(revoked.clone(), scene.authers.clone(), Duration::ZERO, drain));
    assert_eq!(scene.answer(&list(5, 1)).await, 0);
    // The second question comes when the first answer has been taken.
    assert_eq!(scene.answer(&[RevocationPart::unchanged(5, NOW_S + 60)]).await, 5);
    assert_eq!(revoked.revoked(&ticket), Some(RevokedReason::Suspended));
    assert_eq!(scene.answer(&list(6, 0)).await, 5);
    assert_eq!(scene.answer(&list(6, 0)).await, 6);
    assert_eq!((revoked.revoked(&ticket), revoked.number(), revoked.count()), (None, 6, 0));
    assert_eq!(revoked.age_s(NOW_S + 30), Some(30));
    trigger.drain();
    following.await.unwrap();
}

#[tokio::test]
async fn a_list_survives_a_restart_as_long_as_it_says_something() {
    let mut scene = Scene::new().await;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("state/revocations");
    scene.authers.kept = Some(path.clone());
    let (trigger, drain) = crate::DrainTrigger::new();
    let revoked = Arc::new(Revoked::kept(&path, &scene.authers.verifier, NOW_S));
    assert_eq!(revoked.number(), 0, "there is no file yet");
    let following = tokio::spawn(follow(revoked, scene.authers.clone(), Duration::ZERO, drain));
    assert_eq!(scene.answer(&list(5, 2)).await, 0);
    // The second question comes when the first answer has been taken.
    assert_eq!(scene.answer(&[RevocationPart::unchanged(5, NOW_S + 60)]).await, 5);
    trigger.drain();
    following.await.unwrap();

    let again = |now_s| Revoked::kept(&path, &scene.authers.verifier, now_s);
    let ticket = Ticket::new(MAC, KEY, NOW_S, 1);
    assert_eq!(again(NOW_S).revoked(&ticket), Some(RevokedReason::Suspended));
    assert_eq!((again(NOW_S).number(), again(NOW_S).count()), (5, 2));
    assert_eq!(again(NOW_S + REVOCATION_LIFE_S).number(), 5);
    assert_eq!(again(NOW_S + REVOCATION_LIFE_S + 1).number(), 0);
    // Another fleet's, a torn one, and rubbish.
    let other = TicketSigner::generate().unwrap().verifier();
    assert_eq!(Revoked::kept(&path, &other, NOW_S).number(), 0);
    let whole = std::fs::read(&path).unwrap();
    for bytes in [&whole[..whole.len() - 1], b"rubbish", b""] {
        std::fs::write(&path, bytes).unwrap();
        assert_eq!(again(NOW_S).number(), 0);
    }
    std::fs::write(&path, whole).unwrap();
    assert_eq!(again(NOW_S).number(), 5);
}
