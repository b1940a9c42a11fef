//! What taking apart costs on this machine. `cargo run --release -p unpack --example measure` makes
//! its own containers; files may be named behind it. Rates are in MB a second of one core's time,
//! whatever else runs: of unpacked bytes, or of the bytes themselves where nothing is packed in them.
#![allow(clippy::print_stdout, clippy::unwrap_used, reason = "a program for a terminal")]

use std::io::{Cursor, Write};
use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::Duration;
use unpack::{Budget, Limits, formats, unpack};

/// How long each is repeated, in time of the processor.
const SPAN: Duration = Duration::from_secs(1);
/// Unpacked bytes of what is made here.
const BYTES: usize = 16 << 20;

fn main() {
    let files: Vec<(String, Vec<u8>)> = std::env::args().skip(1).map(read).collect();
    let files = if files.is_empty() { made() } else { files };
    println!("{:<28} {:>8} {:>9} {:>8} {:>9}", "what", "packed", "unpacked", "members", "MB/s");
    for (name, bytes) in files {
        let mut unpacked = (0, 0);
        let (mut rounds, begin) = (0_u32, cpu_time());
        while cpu_time() - begin < SPAN {
            unpacked = (0, 0);
            walk(&bytes, &mut Budget::new(Limits::default(), Arc::new(|| false)), &mut unpacked, 0);
            rounds += 1;
        }
        let seconds = (cpu_time() - begin).as_secs_f64() / f64::from(rounds);
        let looked_at = if unpacked.0 == 0 { bytes.len() } else { unpacked.0 };
        let megabytes = f64::from(u32::try_from(looked_at).unwrap()) / 1e6;
        println!(
            "{name:<28} {:>8} {:>9} {:>8} {:>9.1}",
            bytes.len(),
            unpacked.0,
            unpacked.1,
            megabytes / seconds
        );
    }
}

fn walk(bytes: &[u8], budget: &mut Budget, unpacked: &mut (usize, usize), depth: usize) {
    for format in formats(bytes) {
        let mut members = Vec::new();
        unpack(bytes, format, budget, &mut |member| {
            unpacked.0 += member.bytes.len();
            unpacked.1 += 1;
            members.push(member);
            ControlFlow::Continue(())
        });
        for member in members.iter().filter(|_| depth < 8) {
            walk(&member.bytes, budget, unpacked, depth + 1);
        }
    }
}

/// What this thread has had of the processor: the first number that Linux has for it.
fn cpu_time() -> Duration {
    let times = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap();
    Duration::from_nanos(times.split(' ').next().unwrap().parse().unwrap())
}

fn read(path: String) -> (String, Vec<u8>) {
    let bytes = std::fs::read(&path).unwrap();
    let name = path.rsplit('/').next().unwrap_or_default().to_owned();
    (name, bytes)
}

fn made() -> Vec<(String, Vec<u8>)> {
    let text = text(BYTES);
    let tar = tar(&text);
    let noise = noise(BYTES);
    vec![
        ("a text in a zip".into(), zip(&[("a.txt", &text)], 8)),
        ("a stored zip".into(), zip(&[("a.bin", &noise)], 0)),
        ("a document".into(), zip(&document(), 8)),
        ("a text in a tar.gz".into(), gzip(&tar)),
        ("a text in a tar.bz2".into(), bzip2(&tar)),
        ("a compound file".into(), compound(&noise)),
        ("no container at all".into(), noise),
    ]
}

/// Words in an order that does not repeat, which pack as well as prose does.
fn text(bytes: usize) -> Vec<u8> {
    const WORDS: [&str; 16] = [
        "mail ",
        "the ",
        "office ",
        "of ",
        "a ",
        "gateway ",
        "is ",
        "scanned ",
        "and ",
        "then ",
        "sent ",
        "on ",
        "without ",
        "being ",
        "changed ",
        "at all.\n",
    ];
    let mut out = Vec::with_capacity(bytes + 16);
    let mut state = 1_u32;
    while out.len() < bytes {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        let word = usize::try_from(state >> 28).unwrap();
        out.extend_from_slice(WORDS[word].as_bytes());
    }
    out
}

fn noise(bytes: usize) -> Vec<u8> {
    let mut state = 1_u32;
    let next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        state.to_be_bytes()[0]
    };
    std::iter::repeat_with(next).take(bytes).collect()
}

/// The shape of a text document with pictures: a few parts of XML, and JPEGs that do not pack.
fn document() -> Vec<(&'static str, &'static [u8])> {
    let xml: &'static [u8] = text(400_000).leak();
    let small: &'static [u8] = text(3_000).leak();
    let picture: &'static [u8] = noise(200_000).leak();
    vec![
        ("[Content_Types].xml", small),
        ("word/document.xml", xml),
        ("word/styles.xml", small),
        ("word/media/image1.jpeg", picture),
        ("word/media/image2.jpeg", &picture[1..]),
    ]
}

fn zip(members: &[(&str, &[u8])], method: u16) -> Vec<u8> {
    let (mut out, mut directory) = (Vec::new(), Vec::new());
    for (name, content) in members {
        let mut encoder =
            flate2::write::DeflateEncoder::new(Vec::new(), flate2::Compression::default());
        encoder.write_all(content).unwrap();
        let data = if method == 8 { encoder.finish().unwrap() } else { content.to_vec() };
        let mut fields = [0x14, 0, 0, 0, 0, 0, 0, 0, 0, 0];
        fields[4..6].copy_from_slice(&method.to_le_bytes());
        let mut header = fields.to_vec();
        header.extend_from_slice(&crc32fast::hash(content).to_le_bytes());
        for size in [data.len(), content.len()] {
            header.extend_from_slice(&u32::try_from(size).unwrap().to_le_bytes());
        }
        header.extend_from_slice(&u16::try_from(name.len()).unwrap().to_le_bytes());
        header.extend_from_slice(&[0, 0]);
        directory.extend_from_slice(b"PK\x01\x02\x14\0");
        directory.extend_from_slice(&header);
        directory.extend_from_slice(&[0; 10]);
        directory.extend_from_slice(&u32::try_from(out.len()).unwrap().to_le_bytes());
        directory.extend_from_slice(name.as_bytes());
        out.extend_from_slice(b"PK\x03\x04");
        out.extend_from_slice(&header);
        out.extend_from_slice(name.as_bytes());
        out.extend_from_slice(&data);
    }
    let at = u32::try_from(out.len()).unwrap().to_le_bytes();
    let count = u16::try_from(members.len()).unwrap().to_le_bytes();
    let size = u32::try_from(directory.len()).unwrap().to_le_bytes();
    out.extend_from_slice(&directory);
    out.extend_from_slice(b"PK\x05\x06\0\0\0\0");
    out.extend_from_slice(&[count, count].concat());
    out.extend_from_slice(&[size, at].concat());
    out.extend_from_slice(&[0, 0]);
    out
}

fn tar(content: &[u8]) -> Vec<u8> {
    let mut block = vec![0; 512];
    block[..5].copy_from_slice(b"a.txt");
    block[124..136].copy_from_slice(format!("{:011o}\0", content.len()).as_bytes());
    block[148..156].copy_from_slice(b"        ");
    block[156] = b'0';
    let sum: u32 = block.iter().map(|byte| u32::from(*byte)).sum();
    block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    block.extend_from_slice(content);
    block.resize(block.len().next_multiple_of(512) + 1024, 0);
    block
}

fn gzip(content: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
    encoder.write_all(content).unwrap();
    encoder.finish().unwrap()
}

fn bzip2(content: &[u8]) -> Vec<u8> {
    let mut encoder = bzip2::write::BzEncoder::new(Vec::new(), bzip2::Compression::default());
    encoder.write_all(content).unwrap();
    encoder.finish().unwrap()
}

fn compound(content: &[u8]) -> Vec<u8> {
    let mut file = cfb::CompoundFile::create(Cursor::new(Vec::new())).unwrap();
    file.create_stream("/content").unwrap().write_all(content).unwrap();
    file.into_inner().into_inner()
}
