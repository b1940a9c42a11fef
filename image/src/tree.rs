//! A tree of files in memory, and the archive of it that the kernel unpacks.
//!
//! The archive is cpio's "newc" (the kernel's Documentation/driver-api/early-userspace/buffer-format).
//! Its writer is ours: owner, time, inode and order are all fixed, which no library of that name lets
//! one do, and devices are made without being root.

use std::collections::BTreeMap;

use crate::ImageError;

/// Last entry of an archive.
const TRAILER: &str = "TRAILER!!!";
/// Names and contents are padded to this, in bytes.
const ALIGNMENT: usize = 4;
/// An archive is padded to this, in bytes: `cpio` writes whole blocks.
const BLOCK_BYTES: usize = 512;

const MODE_DIRECTORY: u32 = 0o040_000;
const MODE_CHARACTER: u32 = 0o020_000;
const MODE_FILE: u32 = 0o100_000;
const MODE_LINK: u32 = 0o120_000;

/// What stands at a path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Node {
    /// A folder, `rwxr-xr-x` unless said.
    Folder {
        /// Permissions.
        mode: u32,
    },
    /// A file.
    File {
        /// Permissions.
        mode: u32,
        /// What is in it.
        bytes: Vec<u8>,
    },
    /// A symbolic link.
    Link {
        /// Where it leads.
        target: String,
    },
    /// A character device, `rw-------`.
    Device {
        /// The driver.
        major: u32,
        /// The driver's device.
        minor: u32,
    },
}

/// Files by path, without a slash at the start; folders above a file are there too.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Tree {
    nodes: BTreeMap<String, Node>,
}

impl Tree {
    /// An empty tree.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Puts something at a path, and folders above it where there are none.
    ///
    /// # Errors
    /// The path is taken by something else, leads through a file, or is no path within the tree.
    pub fn put(&mut self, path: &str, node: Node) -> Result<(), ImageError> {
        let path = path.strip_prefix('/').unwrap_or(path);
        let good =
            |part: &str| !part.is_empty() && part != "." && part != ".." && !part.contains('\0');
        if !path.split('/').all(good) {
            return Err(ImageError::Wrong(format!(
                "/{}: not a path in the image; write it from / on, without . and ..",
                path.escape_debug()
            )));
        }
        for (end, _) in path.match_indices('/') {
            let above = path[..end].to_owned();
            let there = self.nodes.entry(above.clone()).or_insert(Node::Folder { mode: 0o755 });
            if !matches!(there, Node::Folder { .. }) {
                return Err(ImageError::Wrong(format!(
                    "/{path}: /{above} is no folder in the image; write the path that it leads to"
                )));
            }
        }
        match self.nodes.get(path) {
            Some(there) if *there != node => {
                Err(ImageError::Wrong(format!("/{path}: two different things are to stand there")))
            }
            _ => {
                self.nodes.insert(path.to_owned(), node);
                Ok(())
            }
        }
    }

    /// Puts a file that everybody may read.
    ///
    /// # Errors
    /// As [`Self::put`].
    pub fn put_file(&mut self, path: &str, bytes: impl Into<Vec<u8>>) -> Result<(), ImageError> {
        self.put(path, Node::File { mode: 0o644, bytes: bytes.into() })
    }

    /// Puts a program.
    ///
    /// # Errors
    /// As [`Self::put`].
    pub fn put_program(&mut self, path: &str, bytes: impl Into<Vec<u8>>) -> Result<(), ImageError> {
        self.put(path, Node::File { mode: 0o755, bytes: bytes.into() })
    }

    /// Puts a folder, or gives one that is there these permissions.
    ///
    /// # Errors
    /// As [`Self::put`].
    pub fn put_folder(&mut self, path: &str, mode: u32) -> Result<(), ImageError> {
        if let Some(Node::Folder { mode: old }) = self.nodes.get_mut(path) {
            *old = mode;
            return Ok(());
        }
        self.put(path, Node::Folder { mode })
    }

    /// What stands at a path.
    #[must_use]
    pub fn at(&self, path: &str) -> Option<&Node> {
        self.nodes.get(path.strip_prefix('/').unwrap_or(path))
    }

    /// All paths in the order in which they are unpacked.
    pub fn paths(&self) -> impl Iterator<Item = &str> {
        self.nodes.keys().map(String::as_str)
    }

    /// The archive. Everything belongs to root and is as old as `epoch` says (Unix seconds).
    ///
    /// # Errors
    /// A file has 4 GiB or more, which the format cannot hold.
    pub fn to_cpio(&self, epoch: u32) -> Result<Vec<u8>, ImageError> {
        let mut archive = Vec::new();
        for (inode, (path, node)) in (1..).zip(&self.nodes) {
            let (mode, bytes, device): (u32, &[u8], (u32, u32)) = match node {
                Node::Folder { mode } => (MODE_DIRECTORY | mode, &[], (0, 0)),
                Node::File { mode, bytes } => (MODE_FILE | mode, bytes, (0, 0)),
                Node::Link { target } => (MODE_LINK | 0o777, target.as_bytes(), (0, 0)),
                Node::Device { major, minor } => (MODE_CHARACTER | 0o600, &[], (*major, *minor)),
            };
            let links = if matches!(node, Node::Folder { .. }) { 2 } else { 1 };
            let size = u32::try_from(bytes.len()).map_err(|_| {
                ImageError::Wrong(format!("/{path}: larger than 4 GiB, which no archive holds"))
            })?;
            header(&mut archive, path, [inode, mode, links, epoch, size, device.0, device.1]);
            archive.extend_from_slice(bytes);
            pad(&mut archive, ALIGNMENT);
        }
        header(&mut archive, TRAILER, [0, 0, 1, 0, 0, 0, 0]);
        pad(&mut archive, BLOCK_BYTES);
        Ok(archive)
    }
}

/// One entry's header and name, padded.
fn header(archive: &mut Vec<u8>, path: &str, fields: [u32; 7]) {
    let [inode, mode, links, time, size, major, minor] = fields;
    let name_bytes = u32::try_from(path.len() + 1).expect("paths are far below 4 GiB");
    let (owner, group, device_of_file, check) = (0, 0, 0, 0);
    let numbers = [
        inode,
        mode,
        owner,
        group,
        links,
        time,
        size,
        device_of_file,
        device_of_file,
        major,
        minor,
        name_bytes,
        check,
    ];
    archive.extend_from_slice(b"070701");
    for number in numbers {
        archive.extend_from_slice(format!("{number:08X}").as_bytes());
    }
    archive.extend_from_slice(path.as_bytes());
    archive.push(0);
    pad(archive, ALIGNMENT);
}

fn pad(archive: &mut Vec<u8>, alignment: usize) {
    archive.resize(archive.len().next_multiple_of(alignment), 0);
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;
    use std::process::{Command, Stdio};

    use super::*;

    fn tree() -> Tree {
        let mut tree = Tree::new();
        tree.put_program("/usr/bin/tool", *b"#!\n").unwrap();
        tree.put_file("etc/name", *b"box").unwrap();
        tree.put("bin", Node::Link { target: "usr/bin".to_owned() }).unwrap();
        tree.put("dev/console", Node::Device { major: 5, minor: 1 }).unwrap();
        tree.put("tmp", Node::Folder { mode: 0o1777 }).unwrap();
        tree
    }

    #[test]
    fn cpio_lists_what_was_put_in() {
        let archive = tree().to_cpio(86_400).unwrap();
        assert_eq!(archive.len() % BLOCK_BYTES, 0);
        let mut cpio = Command::new("cpio")
            .args(["--list", "--verbose", "--numeric-uid-gid", "--quiet"])
            .env("TZ", "UTC")
            .env("LC_ALL", "C")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        cpio.stdin.take().unwrap().write_all(&archive).unwrap();
        let output = cpio.wait_with_output().unwrap();
        assert!(output.status.success());
        let listing = String::from_utf8(output.stdout).unwrap();
        let lines: Vec<String> = listing
            .lines()
            .map(|line| line.split_whitespace().collect::<Vec<_>>().join(" "))
            .collect();
        assert_eq!(
            lines,
            [
                "lrwxrwxrwx 1 0 0 7 Jan 2 1970 bin -> usr/bin",
                "drwxr-xr-x 2 0 0 0 Jan 2 1970 dev",
                "crw------- 1 0 0 5, 1 Jan 2 1970 dev/console",
                "drwxr-xr-x 2 0 0 0 Jan 2 1970 etc",
                "-rw-r--r-- 1 0 0 3 Jan 2 1970 etc/name",
                "drwxrwxrwt 2 0 0 0 Jan 2 1970 tmp",
                "drwxr-xr-x 2 0 0 0 Jan 2 1970 usr",
                "drwxr-xr-x 2 0 0 0 Jan 2 1970 usr/bin",
                "-rwxr-xr-x 1 0 0 3 Jan 2 1970 usr/bin/tool",
            ]
        );
    }

    #[test]
    fn two_things_do_not_share_a_path() {
        let mut tree = tree();
        tree.put_file("etc/name", *b"box").unwrap();
        let other = tree.put_file("etc/name", *b"other").unwrap_err().to_string();
        assert_eq!(other, "/etc/name: two different things are to stand there");
        let through = tree.put_file("bin/sh", *b"").unwrap_err().to_string();
        assert!(through.starts_with("/bin/sh: /bin is no folder in the image"), "{through}");
        for bad in ["", "/", "a//b", "../a", "a/./b", "a/"] {
            assert!(tree.put_file(bad, *b"").is_err(), "{bad}");
        }
    }
}
