//! The entries with everything that is known: seeds, finds of the fuzzer, and the corpus.
#![allow(clippy::tests_outside_test_module, reason = "an integration test is one as a whole")]
#![allow(clippy::print_stdout, reason = "where there is no corpus, that must be seen")]

use std::path::{Path, PathBuf};

use anyhow::Context as _;
use fuzz::{ENTRIES, Entry, Move, encode, entry};

/// Larger files of the corpus are left to the conformance run: each is read byte by byte here.
const BYTES_MAX: usize = 16 * 1024;

/// `seeds/TARGET/*`: small inputs, and each find as a file of its own name.
#[test]
fn seeds_and_finds() -> anyhow::Result<()> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("seeds");
    for (name, entry) in ENTRIES {
        let files = files(&root.join(name))?;
        anyhow::ensure!(!files.is_empty(), "{name} has no seeds");
        for file in files {
            let bytes = std::fs::read(&file).with_context(|| file.display().to_string())?;
            replay(&file, *entry, &bytes)?;
        }
    }
    Ok(())
}

#[test]
fn no_folder_of_seeds_is_left_over() -> anyhow::Result<()> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("seeds");
    for folder in std::fs::read_dir(root)? {
        let folder = folder?.path();
        let name = folder.file_name().unwrap_or_default().to_string_lossy();
        anyhow::ensure!(entry(&name).is_some(), "seeds/{name} belongs to no target");
    }
    Ok(())
}

/// Every target of the fuzzer calls the entry of its name.
#[test]
fn targets_and_entries_agree() -> anyhow::Result<()> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("targets");
    let manifest = std::fs::read_to_string(root.join("Cargo.toml"))?;
    for (name, _) in ENTRIES {
        let text = std::fs::read_to_string(root.join(format!("fuzz_targets/{name}.rs")))
            .with_context(|| format!("{name} has no target"))?;
        anyhow::ensure!(text.contains(&format!("\"{name}\"")), "{name}: calls another entry");
        anyhow::ensure!(manifest.contains(&format!("name = \"{name}\"")), "{name}: not listed");
    }
    Ok(())
}

/// Mails of the corpus through the walk, the framer, and both sessions.
#[test]
fn the_corpus() -> anyhow::Result<()> {
    let root = std::env::var_os("AVR_CORPUS").map_or_else(
        || Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared/corpus"),
        PathBuf::from,
    );
    if !root.join("MANIFEST.md").is_file() {
        println!("SKIPPED: no corpus at {}; set AVR_CORPUS to its folder", root.display());
        return Ok(());
    }
    for file in files(&root)? {
        let bytes = std::fs::read(&file).with_context(|| file.display().to_string())?;
        if bytes.len() > BYTES_MAX {
            continue;
        }
        for name in ["mime_walk", "dot_framer", "notice", "settings"] {
            replay(&file, named(name)?, &bytes)?;
        }
        replay(&file, named("smtp_session")?, &sent(&bytes))?;
        replay(&file, named("pop3_session")?, &fetched(&bytes))?;
    }
    Ok(())
}

fn named(name: &str) -> anyhow::Result<Entry> {
    entry(name).with_context(|| format!("no entry {name}"))
}

fn replay(file: &Path, entry: Entry, bytes: &[u8]) -> anyhow::Result<()> {
    let ended = std::panic::catch_unwind(|| entry(bytes));
    ended.map_err(|_| anyhow::anyhow!("{} breaks what must hold", file.display()))
}

/// Sorted, in all folders below.
fn files(folder: &Path) -> anyhow::Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).with_context(|| folder.display().to_string())? {
        let path = entry?.path();
        if path.is_dir() {
            found.extend(files(&path)?);
        } else {
            found.push(path);
        }
    }
    found.sort();
    Ok(found)
}

/// A session in which the bytes are what a client sends behind DATA.
fn sent(bytes: &[u8]) -> Vec<u8> {
    let mut moves = vec![Move::Server(b"220 mx\r\n".to_vec())];
    for (command, reply) in [
        (&b"EHLO c\r\n"[..], &b"250-mx\r\n250 CHUNKING\r\n"[..]),
        (b"MAIL FROM:<a@a>\r\n", b"250 ok\r\n"),
        (b"RCPT TO:<b@b>\r\n", b"250 ok\r\n"),
        (b"DATA\r\n", b"354 go\r\n"),
    ] {
        moves.extend([Move::Client(command.to_vec()), Move::Server(reply.to_vec())]);
    }
    moves.push(Move::Client([bytes, b"\r\n.\r\n"].concat()));
    moves.push(Move::Server(b"250 queued\r\n".to_vec()));
    [&[0], encode(&moves).as_slice()].concat()
}

/// A session in which the bytes are what a server answers to RETR.
fn fetched(bytes: &[u8]) -> Vec<u8> {
    let moves = [
        Move::Server(b"+OK\r\n".to_vec()),
        Move::Client(b"RETR 1\r\n".to_vec()),
        Move::Server([b"+OK\r\n", bytes, b"\r\n.\r\n"].concat()),
        Move::Client(b"QUIT\r\n".to_vec()),
        Move::Server(b"+OK bye\r\n".to_vec()),
    ];
    [&[0], encode(&moves).as_slice()].concat()
}
