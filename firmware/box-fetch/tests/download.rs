//! Bundles signed by the development keys, from servers that fail in every way, and from nginx.
#![allow(clippy::tests_outside_test_module, reason = "an integration test is one as a whole")]
#![allow(clippy::unwrap_used, reason = "a test")]

#[path = "../../box-update/tests/common/bundles.rs"]
mod bundles;
mod common;

use std::error::Error as _;
use std::fs;
use std::io::{Read as _, Write as _};
use std::net::Shutdown;
use std::path::Path;
use std::time::Duration;

// Of the bundles.
use board as _;
use box_fetch::{Downloaded, Limits, Trust, Url, Wanted, download};
use bundles::{bundle, bundle_of, keys, manifest, uki};
use common::{Nginx, Server, client, limits, rest, whole};

const SYSTEM_BYTES: usize = 600_000;

/// Where a bundle goes, and what was asked about it.
struct Bench {
    folder: tempfile::TempDir,
    limits: Limits,
    trust: Option<Trust>,
    refuses: Option<&'static str>,
}

impl Bench {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        Self { folder, limits: limits(), trust: None, refuses: None }
    }

    fn folder(&self) -> std::path::PathBuf {
        self.folder.path().join("updates")
    }

    fn fetch(&self, url: &str) -> Result<Downloaded, String> {
        let url: Url = url.parse().unwrap();
        let keys = keys();
        let folder = self.folder();
        let mut admit = |_: &_| match self.refuses {
            // Nothing may be written by now.
            Some(why) => Err(format!("{why}, with {} files", self.files().len())),
            None => Ok(()),
        };
        let mut wanted = Wanted {
            url: &url,
            keys: &keys,
            offer: None,
            admit: &mut admit,
            progress: &mut |_, _| {},
        };
        run(async {
            let client = client(self.limits, self.trust.clone());
            let downloaded = download(&client, &folder, &mut wanted).await;
            downloaded.map_err(|error| match error.source() {
                Some(source) => format!("{error}: {source}"),
                None => error.to_string(),
            })
        })
    }

    fn files(&self) -> Vec<String> {
        let entries = fs::read_dir(self.folder()).into_iter().flatten();
        let mut names: Vec<String> =
            entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }
}

fn run<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(future)
}

fn file() -> Vec<u8> {
    bundle(3, &uki(3, SYSTEM_BYTES))
}

/// Until the other side is gone.
fn hold(stream: &mut std::net::TcpStream) {
    let _ = stream.read(&mut [0]);
}

#[test]
fn a_download_that_breaks_goes_on_where_it_stopped() {
    let file = file();
    let sent = file.clone();
    let server = Server::start(move |number, asked, stream| match (number, asked.from) {
        (0, None) => whole(stream, &sent, "\"one\"", 200_000),
        (1, Some(from)) => rest(stream, &sent, "\"one\"", from, 100_000),
        (2, Some(from)) => rest(stream, &sent, "\"one\"", from, usize::MAX),
        other => panic!("{other:?}"),
    });
    let bench = Bench::new();
    let downloaded = bench.fetch(&server.url()).unwrap();
    assert!(fs::read(&downloaded.path).unwrap() == file);
    assert_eq!(downloaded.manifest.build.get(), 3);
    let asked = server.asked();
    assert_eq!((asked[1].from, asked[2].from), (Some(200_000), Some(300_000)));
    assert_eq!(asked[2].if_range.as_deref(), Some("\"one\""));
    downloaded.remove();
    assert!(bench.files().is_empty());
}

#[test]
fn it_goes_on_after_a_start_as_well_and_a_whole_one_is_not_fetched_twice() {
    let file = file();
    let sent = file.clone();
    let server = Server::start(move |number, asked, stream| match number {
        0 => whole(stream, &sent, "\"one\"", 200_000),
        1 => {
            assert_eq!(asked.from, Some(200_000));
            let _ = stream.write_all(b"HTTP/1.1 503 Busy\r\nContent-Length: 0\r\n\r\n");
        }
        _ => rest(stream, &sent, "\"one\"", asked.from.unwrap(), usize::MAX),
    });
    let bench = Bench::new();
    let error = bench.fetch(&server.url()).unwrap_err();
    assert!(
        error.ends_with("is answered with status 503: look whether the file is there"),
        "{error}"
    );
    assert_eq!(bench.files(), ["bundle.json", "bundle.part"]);
    let downloaded = bench.fetch(&server.url()).unwrap();
    assert_eq!(downloaded.resumed_bytes, 200_000);
    assert!(fs::read(&downloaded.path).unwrap() == file);
    let error = bench.fetch(&server.url()).unwrap_err();
    assert!(error.contains("another download is at work"), "{error}");
    drop(downloaded);
    assert_eq!(bench.fetch(&server.url()).unwrap().resumed_bytes, file.len() as u64);
    assert_eq!(server.asked().len(), 3);
    // Of another address it begins anew.
    let other = format!("http://{}/b.update.tar", server.address);
    let _ = bench.fetch(&other);
    assert_eq!(server.asked()[3].from, None);
}

#[test]
fn a_server_that_knows_no_ranges_sends_it_whole_again() {
    let file = file();
    let sent = file.clone();
    let server = Server::start(move |number, _, stream| {
        whole(stream, &sent, "\"one\"", if number == 0 { 200_000 } else { usize::MAX });
    });
    let bench = Bench::new();
    let downloaded = bench.fetch(&server.url()).unwrap();
    assert!(fs::read(downloaded.path).unwrap() == file);
    assert_eq!(server.asked().len(), 2);
}

#[test]
fn without_a_tag_it_does_not_go_on_behind_what_may_be_of_another_file() {
    let file = file();
    let server = Server::start(move |_, _, stream| whole(stream, &file, "W/\"one\"", 200_000));
    let bench = Bench::new();
    let error = bench.fetch(&server.url()).unwrap_err();
    assert!(error.contains("bytes too early"), "{error}");
    assert!(bench.files().is_empty());
    assert_eq!(server.asked().len(), 1);
}

#[test]
fn a_file_that_was_changed_meanwhile_begins_anew() {
    let new = bundle(4, &uki(4, SYSTEM_BYTES + 1000));
    let (old, sent) = (file(), new.clone());
    let server = Server::start(move |number, asked, stream| match number {
        0 => whole(stream, &old, "\"one\"", 200_000),
        _ => {
            assert_eq!(asked.if_range.as_deref(), Some("\"one\""));
            whole(stream, &sent, "\"two\"", usize::MAX);
        }
    });
    let bench = Bench::new();
    let downloaded = bench.fetch(&server.url()).unwrap();
    assert_eq!(downloaded.manifest.build.get(), 4);
    assert!(fs::read(downloaded.path).unwrap() == new);
}

#[test]
fn nothing_else_passes_for_the_rest() {
    let file = file();
    // Of another content, size, or place; and a rest that the server does not have.
    let other =
        bundle(3, &uki(3, SYSTEM_BYTES)[..].iter().map(|byte| byte ^ 1).collect::<Vec<_>>());
    let longer = [file.as_slice(), &[0; 512]].concat();
    for fault in 0..4 {
        let (good, other, longer) = (file.clone(), other.clone(), longer.clone());
        let server = Server::start(move |number, asked, stream| match (number, asked.from) {
            (0, _) => whole(stream, &good, "\"one\"", 200_000),
            (1, Some(from)) => match fault {
                0 => rest(stream, &other, "\"one\"", from, usize::MAX),
                1 => rest(stream, &longer, "\"one\"", from, usize::MAX),
                2 => rest(stream, &good, "\"one\"", from + 1, usize::MAX),
                _ => {
                    let _ = stream.write_all(b"HTTP/1.1 416 No\r\nContent-Length: 0\r\n\r\n");
                }
            },
            (2, None) => whole(stream, &good, "\"one\"", usize::MAX),
            unexpected => panic!("{unexpected:?}"),
        });
        let bench = Bench::new();
        let downloaded = bench.fetch(&server.url()).unwrap();
        assert!(fs::read(downloaded.path).unwrap() == file, "{fault}");
    }
}

#[test]
fn nothing_is_written_before_the_signature_holds() {
    let mut forged = file();
    // In the manifest, behind its first header.
    forged[600] ^= 1;
    let many_zeros = vec![0; 1_000_000];
    for bytes in [forged, many_zeros, b"<html>not found</html>".repeat(10_000)] {
        let server = Server::start(move |_, _, stream| whole(stream, &bytes, "\"x\"", usize::MAX));
        let bench = Bench::new();
        let error = bench.fetch(&server.url()).unwrap_err();
        assert!(
            error.contains("no update bundle") || error.contains("not what was signed"),
            "{error}"
        );
        assert!(bench.files().is_empty());
    }
    let sent = file();
    let server = Server::start(move |_, _, stream| whole(stream, &sent, "\"x\"", usize::MAX));
    let bench = Bench { refuses: Some("not for this box"), ..Bench::new() };
    assert_eq!(bench.fetch(&server.url()).unwrap_err(), "not for this box, with 0 files");
}

#[test]
fn what_is_refused_later_does_not_stay() {
    let mut damaged = file();
    let at = damaged.len() - 100_000;
    damaged[at] ^= 1;
    let long = [file(), vec![0; 5000]].concat();
    let short = file()[..300_000].to_vec();
    for (bytes, told) in [
        (damaged, "the system in the bundle is damaged"),
        (long, "something follows the bundle's end"),
        (short, "the bundle ends after 300000 bytes"),
    ] {
        let server = Server::start(move |_, _, stream| whole(stream, &bytes, "\"x\"", usize::MAX));
        let bench = Bench::new();
        let error = bench.fetch(&server.url()).unwrap_err();
        assert!(error.contains(told), "{error}");
        assert!(bench.files().is_empty());
        assert_eq!(server.asked().len(), 1);
    }
}

#[test]
fn bodies_without_an_end_and_servers_that_go_round_are_left() {
    let size = u64::MAX;
    for (head, told, times) in [
        (format!("200 OK\r\nContent-Length: {size}"), "and may have 125", 1),
        ("200 OK\r\nTransfer-Encoding: chunked".to_owned(), "without its length, or coded", 1),
        ("200 OK".to_owned(), "without its length, or coded", 1),
        ("302 Found\r\nLocation: /b".to_owned(), "more than 5 redirects", 6),
        ("302 Found\r\nLocation: gopher://b/".to_owned(), "neither of http:// nor", 1),
        ("302 Found".to_owned(), "status 302", 1),
        ("404 Not Found\r\nContent-Length: 3".to_owned(), "status 404", 1),
        ("206 Partial\r\nContent-Length: 3".to_owned(), "status 206", 1),
        (format!("200 OK\r\nX: {}", "y".repeat(20_000)), "its head is too long", 1),
    ] {
        let server = Server::start(move |_, _, stream| {
            let _ = stream.write_all(format!("HTTP/1.1 {head}\r\n\r\n").as_bytes());
            // Whatever comes behind it, without an end.
            while head.starts_with("200") && stream.write_all(&[b'x'; 4096]).is_ok() {}
        });
        let bench = Bench::new();
        let error = bench.fetch(&server.url()).unwrap_err();
        assert!(error.contains(told), "{error}");
        assert_eq!(server.asked().len(), times, "{told}");
        assert!(bench.files().is_empty());
    }
}

#[test]
fn servers_that_are_slow_are_left_and_gone_on_with_later() {
    let file = file();
    let sent = file.clone();
    let server = Server::start(move |_, asked, stream| match asked.from {
        None => {
            whole(stream, &sent, "\"one\"", 200_000);
            // A byte now and then: never silent for long, and never done.
            let _ = stream.set_read_timeout(Some(Duration::from_millis(5)));
            for byte in sent[200_000..].chunks(1) {
                let is_gone = matches!(stream.read(&mut [0]), Ok(0));
                if is_gone || stream.write_all(byte).is_err() {
                    break;
                }
            }
        }
        Some(from) => rest(stream, &sent, "\"one\"", from, usize::MAX),
    });
    let window = Duration::from_millis(500);
    let mut bench = Bench::new();
    bench.limits = Limits { window, window_bytes_min: 1_000_000, ..limits() };
    let downloaded = bench.fetch(&server.url()).unwrap();
    assert!(fs::read(downloaded.path).unwrap() == file);
    assert!(server.asked()[1].from.unwrap() >= 200_000);
}

#[test]
fn servers_that_say_nothing_are_left() {
    let soon = Duration::from_millis(300);
    let server = Server::start(|_, _, stream| hold(stream));
    let bench = Bench { limits: Limits { head: soon, ..limits() }, ..Bench::new() };
    let error = bench.fetch(&server.url()).unwrap_err();
    assert!(error.contains("the server's answer took too long"), "{error}");
    let sent = file();
    let server = Server::start(move |_, _, stream| {
        whole(stream, &sent, "W/\"none\"", 1000);
        hold(stream);
    });
    let bench = Bench { limits: Limits { silence: soon, ..limits() }, ..Bench::new() };
    let error = bench.fetch(&server.url()).unwrap_err();
    assert!(error.contains("the next bytes took too long"), "{error}");
    let server = Server::start(|_, _, stream| {
        let _ = stream.shutdown(Shutdown::Both);
    });
    let error = Bench::new().fetch(&server.url()).unwrap_err();
    assert!(error.contains("broke while waiting for the answer"), "{error}");
    let error = Bench::new().fetch("http://nowhere.test/").unwrap_err();
    assert_eq!(error, "look nowhere.test up: there is no such name");
}

/// As root: DATA is a file system of its own here.
#[test]
fn a_full_disk_is_said_before_anything_is_fetched() {
    use nix::mount::{MsFlags, mount};
    use nix::sched::{CloneFlags, unshare};
    let sent = file();
    let server = Server::start(move |_, _, stream| whole(stream, &sent, "\"x\"", usize::MAX));
    let bench = Bench::new();
    fs::create_dir(bench.folder()).unwrap();
    let none = None::<&str>;
    // Of this thread alone, on which the download runs as well.
    unshare(CloneFlags::CLONE_NEWNS).expect("be root");
    mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none).unwrap();
    mount(none, &bench.folder(), Some("tmpfs"), MsFlags::empty(), Some("size=8m")).unwrap();
    let error = bench.fetch(&server.url()).unwrap_err();
    assert!(
        error.starts_with("the bundle needs ") && error.contains("are free: delete"),
        "{error}"
    );
    assert!(bench.files().is_empty());
}

#[test]
fn nginx_serves_it_plain_and_by_tls() {
    let bench = Bench::new();
    let at = bench.folder.path();
    fs::create_dir(at.join("www")).unwrap();
    let file = bundle_of(&manifest(3, &uki(3, SYSTEM_BYTES)), &uki(3, SYSTEM_BYTES));
    fs::write(at.join("www/a.update.tar"), &file).unwrap();
    let (ca, wrong) = (authority(at, "ca"), authority(at, "wrong"));

    let plain = Nginx::start(at, "location /old/ { return 301 /a.update.tar; }", None);
    // Half of it is there.
    let url = format!("http://127.0.0.1:{}/old/a", plain.port);
    let downloaded = bench.fetch(&url).unwrap();
    assert!(fs::read(&downloaded.path).unwrap() == file);
    let path = downloaded.path.clone();
    drop(downloaded);
    fs::OpenOptions::new().write(true).open(&path).unwrap().set_len(250_000).unwrap();
    let downloaded = bench.fetch(&url).unwrap();
    assert_eq!(downloaded.resumed_bytes, 250_000);
    assert!(fs::read(&downloaded.path).unwrap() == file);
    downloaded.remove();

    let down =
        format!("location /down/ {{ return 302 http://127.0.0.1:{}/a.update.tar; }}", plain.port);
    let (certificate, key) = (at.join("ca.server.pem"), at.join("ca.server.key"));
    let tls = Nginx::start(at, &down, Some((&certificate, &key)));
    let url = format!("https://updates.test:{}/a.update.tar", tls.port);
    let error = bench.fetch(&url).unwrap_err();
    assert!(error.contains("needs an authority to believe"), "{error}");
    let believes = |pem: &str| Bench { trust: Some(Trust::from_pem(pem).unwrap()), ..Bench::new() };
    let error = believes(&wrong).fetch(&url).unwrap_err();
    assert!(error.contains("speak TLS with updates.test: look at its certificate"), "{error}");
    let by_address = format!("https://127.0.0.1:{}/a.update.tar", tls.port);
    assert!(believes(&ca).fetch(&by_address).unwrap_err().contains("speak TLS with 127.0.0.1"));
    let believer = believes(&ca);
    assert!(fs::read(believer.fetch(&url).unwrap().path).unwrap() == file);
    let url = format!("https://updates.test:{}/down/a", tls.port);
    let error = believes(&ca).fetch(&url).unwrap_err();
    assert!(error.contains("sends from https:// on to http://"), "{error}");
    assert!(Trust::from_pem("").is_err());
}

/// An authority, and a certificate of it for `updates.test`.
fn authority(folder: &Path, name: &str) -> String {
    let ca_key = rcgen::KeyPair::generate().unwrap();
    let mut ca = rcgen::CertificateParams::new([]).unwrap();
    ca.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let pem = ca.self_signed(&ca_key).unwrap().pem();
    let key = rcgen::KeyPair::generate().unwrap();
    let server = rcgen::CertificateParams::new(["updates.test".to_owned()]).unwrap();
    let server = server.signed_by(&key, &rcgen::Issuer::new(ca, &ca_key)).unwrap();
    fs::write(folder.join(format!("{name}.server.pem")), server.pem()).unwrap();
    fs::write(folder.join(format!("{name}.server.key")), key.serialize_pem()).unwrap();
    pem
}
