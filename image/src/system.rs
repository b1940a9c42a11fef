//! The system: its root, its kernel's command line, and what it is called.

use std::collections::BTreeMap;

use board::{Arch, Board};
use object::{Object as _, ObjectSection as _};

use crate::{ImageError, Node, Release, Tree};

/// What the root has beside what is put into it: PID 1 mounts on these, or writes to them.
const FOLDERS: [(&str, u32); 12] = [
    ("data", 0o755),
    ("dev", 0o755),
    ("etc/avr", 0o755),
    ("proc", 0o555),
    ("root", 0o700),
    ("run", 0o755),
    ("state", 0o755),
    ("sys", 0o555),
    ("tmp", 0o1777),
    ("usr/share/avr/rules", 0o755),
    ("var", 0o755),
    ("usr/lib", 0o755),
];

/// Links: Debian's merged folders; what the kernel calls by itself to load a module; PID 1.
const LINKS: [(&str, &str); 4] = [
    ("bin", "usr/bin"),
    ("lib", "usr/lib"),
    ("sbin", "usr/sbin"),
    ("usr/sbin/modprobe", "../bin/busybox"),
];

/// PID 1, where the kernel does not look for it.
const INIT: &str = "usr/bin/box-init";

/// Users that own processes; nobody logs in as one.
const PASSWD: &str = "root:x:0:0:root:/root:/nonexistent\n\
                      avr:x:900:900:gateway:/nonexistent:/nonexistent\n\
                      nobody:x:65534:65534:nobody:/nonexistent:/nonexistent\n";
const GROUP: &str = "root:x:0:\navr:x:900:\nnogroup:x:65534:\n";
const HOSTS: &str = "127.0.0.1 localhost\n::1 localhost\n";

/// Puts what every root has into the tree.
///
/// # Errors
/// There is no PID 1, or something stands in the way.
pub fn put_base(
    tree: &mut Tree,
    board: &Board,
    release: &Release,
    sbom_sha256: &str,
) -> Result<(), ImageError> {
    for (path, mode) in FOLDERS {
        tree.put_folder(path, mode)?;
    }
    for (path, target) in LINKS {
        tree.put(path, Node::Link { target: target.to_owned() })?;
    }
    // Debian's kernel does not mount devtmpfs by itself, and PID 1 may have something to say before.
    tree.put("dev/console", Node::Device { major: 5, minor: 1 })?;
    tree.put("dev/null", Node::Device { major: 1, minor: 3 })?;
    if tree.at("init").is_none() {
        if tree.at(INIT).is_none() {
            return Err(ImageError::Wrong(
                "the image has no PID 1; give --bin PATH=/usr/bin/box-init".to_owned(),
            ));
        }
        tree.put("init", Node::Link { target: INIT.to_owned() })?;
    }
    tree.put_file("etc/passwd", PASSWD)?;
    tree.put_file("etc/group", GROUP)?;
    tree.put_file("etc/hosts", HOSTS)?;
    tree.put_file("etc/os-release", os_release(board, release, false))?;
    tree.put_file("etc/avr/board.toml", board.to_toml())?;
    tree.put_file("etc/avr/release.toml", release.to_toml(board, sbom_sha256))
}

/// The kernel's command line.
#[must_use]
pub fn cmdline(board: &Board, recovery: bool) -> String {
    let mut words = board.boot.cmdline.clone();
    words.extend(board.console.ttys.iter().map(|tty| match tty.is_serial() {
        true => format!("console={tty},{}", board.console.baud.bits_per_second()),
        false => format!("console={tty}"),
    }));
    if recovery {
        words.push("avr.recovery=1".to_owned());
    }
    words.join(" ")
}

/// What the system is called. The boot loader shows `PRETTY_NAME`, and sorts by `IMAGE_ID` and then
/// `IMAGE_VERSION`, the newest first.
#[must_use]
pub fn os_release(board: &Board, release: &Release, recovery: bool) -> String {
    let Release { version, build, .. } = release;
    // Behind everything else: it is started when nothing else can be.
    let (id, what) = if recovery { ("zz-recovery", " recovery") } else { ("avr", "") };
    format!(
        "ID=avr\nNAME=AVR\nPRETTY_NAME=\"AVR{what} {version} (build {build})\"\nVERSION_ID={version}\n\
         BUILD_ID={build}\nIMAGE_ID={id}\nIMAGE_VERSION={build}\nVARIANT_ID={}\n",
        board.id
    )
}

/// Programs have to run on the board, and there is no library but what they bring.
///
/// # Errors
/// It is linked dynamically or for another processor.
pub fn check_program(path: &str, bytes: &[u8], arch: Arch) -> Result<(), ImageError> {
    // Scripts, for tests.
    if bytes.starts_with(b"#!") {
        return Ok(());
    }
    let file = object::File::parse(bytes)
        .map_err(|error| ImageError::Wrong(format!("{path}: no program ({error})")))?;
    let wanted = match arch {
        Arch::X86_64 => object::Architecture::X86_64,
        Arch::Aarch64 => object::Architecture::Aarch64,
    };
    if file.architecture() != wanted {
        return Err(ImageError::Wrong(format!(
            "{path}: for {:?}, and the board is {}; give one that was built for it",
            file.architecture(),
            arch.name()
        )));
    }
    let needs_loader =
        file.sections().any(|section| section.name().is_ok_and(|name| name == ".interp"));
    if needs_loader {
        return Err(ImageError::Wrong(format!(
            "{path}: linked dynamically, and the image has no libraries; build it with \
             -C target-feature=+crt-static, as scripts/build-image does"
        )));
    }
    Ok(())
}

/// Finds one file by the start of its name.
pub(crate) fn only_one<'a>(
    files: &'a BTreeMap<String, Vec<u8>>,
    start: &str,
) -> Result<&'a [u8], ImageError> {
    let mut found = files.iter().filter(|(path, _)| path.starts_with(start));
    match (found.next(), found.next()) {
        (Some((_, bytes)), None) => Ok(bytes),
        (None, _) => Err(ImageError::Wrong(format!(
            "no file {start}… in its Debian package; look at image/packages.toml"
        ))),
        (Some((one, _)), Some((other, _))) => Err(ImageError::Wrong(format!(
            "both {one} and {other} in a Debian package; name one in image/packages.toml"
        ))),
    }
}

#[cfg(test)]
mod tests {
    use box_update::slots::{Trust, file_name};

    use super::*;

    #[test]
    fn only_programs_that_run_on_the_board_are_let_in() {
        let own = std::fs::read(std::env::current_exe().unwrap()).unwrap();
        let (here, other) = match cfg!(target_arch = "x86_64") {
            true => (Arch::X86_64, Arch::Aarch64),
            false => (Arch::Aarch64, Arch::X86_64),
        };
        let dynamic = check_program("/init", &own, here).unwrap_err().to_string();
        assert!(dynamic.starts_with("/init: linked dynamically"), "{dynamic}");
        let foreign = check_program("/init", &own, other).unwrap_err().to_string();
        assert!(foreign.contains("give one that was built for it"), "{foreign}");
        assert!(check_program("/init", b"text", here).is_err());
        check_program("/init", b"#!/usr/bin/busybox sh\n", here).unwrap();
    }

    #[test]
    fn names_of_slots_have_one_width() {
        assert_eq!(file_name(42, Trust::Good), "avr_000042.efi");
        let trial = Trust::Trial { left: 3, done: 0 };
        assert_eq!(file_name(43, trial), "avr_000043+3-0.efi");
    }
}
