//! A system like the published one, but for its build number, a file, or a word of its command line: what is
//! in place of a file comes in a second archive behind the first, and the kernel unpacks both.

use std::num::NonZeroU32;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use box_update::{Manifest, Sha256, Uki};
use image::uki::{self, Parts};
use image::{Signing, Tree, bundle};

use crate::Released;
use crate::released::tree;

/// Archives begin on this within the kernel's root, in bytes.
const ALIGNMENT: usize = 4;

/// What is to be built.
#[derive(Debug)]
pub struct System<'r> {
    released: &'r Released,
    build: u32,
    board: String,
    words: Vec<String>,
    files: Tree,
}

impl<'r> System<'r> {
    /// The published one under another number.
    #[must_use]
    pub fn new(released: &'r Released, build: u32) -> Self {
        let board = released.board.id.clone();
        Self { released, build, board, words: Vec::new(), files: Tree::new() }
    }

    /// With another word on its command line.
    #[must_use]
    pub fn word(mut self, word: &str) -> Self {
        self.words.push(word.to_owned());
        self
    }

    /// With that script in place of a program, or where there is none.
    #[must_use]
    pub fn script(mut self, path: &str, lines: &str) -> Self {
        let text = format!("#!/usr/bin/busybox sh\n{lines}\n");
        self.files.put_program(path, text).expect("a path of these tests");
        self
    }

    /// That does so as soon as PID 1 answers, as root with all its power; `$b` is busybox, and what is said
    /// is on the console.
    #[must_use]
    pub fn at_start(self, lines: &str) -> Self {
        self.before_init(&format!("(\n{lines}\n) </dev/null >/dev/console 2>&1"))
    }

    /// With a shell on the second serial port, for [`crate::Machine::shell`].
    #[must_use]
    pub fn with_shell(self) -> Self {
        self.before_init(
            "$b stty -F /dev/ttyS1 raw -echo clocal\n\
             while read -r line; do eval \"$line\"; echo \"= $?\"; done </dev/ttyS1 >/dev/ttyS1 2>&1",
        )
    }

    fn before_init(self, lines: &str) -> Self {
        let wait = "until [ -S /run/init/control ]; do $b sleep 1; done";
        self.script(
            "/init",
            &format!("b=/usr/bin/busybox\n({wait}\n{lines}\n) &\nexec /usr/bin/box-init"),
        )
    }

    /// For another board.
    #[must_use]
    pub fn board(mut self, board: &str) -> Self {
        board.clone_into(&mut self.board);
        self
    }

    /// The system's file.
    ///
    /// # Errors
    /// The published one is none that `image` made.
    pub fn uki(&self) -> Result<Vec<u8>> {
        let original = &self.released.uki;
        let part = |name: &'static str| {
            uki::section(original, name).with_context(|| format!("the system has no {name}"))
        };
        let text = |name| Ok::<_, anyhow::Error>(str::from_utf8(part(name)?)?.to_owned());
        let manifest = &self.released.manifest;
        let os_release = text(".osrel")?
            .replace(&format!("_ID={}\n", manifest.build), &format!("_ID={}\n", self.build))
            .replace(
                &format!("_VERSION={}\n", manifest.build),
                &format!("_VERSION={}\n", self.build),
            )
            .replace(&format!("(build {})", manifest.build), &format!("(build {})", self.build))
            .replace(&manifest.board, &self.board);
        let mut cmdline = text(".cmdline")?;
        for word in &self.words {
            cmdline.push(' ');
            cmdline.push_str(word);
        }
        let mut files = self.files.clone();
        files.put_file("etc/avr/release.toml", self.release())?;
        let mut initrd = part(".initrd")?.to_vec();
        initrd.resize(initrd.len().next_multiple_of(ALIGNMENT), 0);
        initrd.extend(files.to_cpio(u32::try_from(manifest.built_at)?)?);
        let parts = Parts {
            os_release: &os_release,
            cmdline: &cmdline,
            linux: part(".linux")?,
            initrd: &initrd,
            dtb: None,
        };
        let stub = uki::stub(original).context("the system has no stub")?;
        Ok(uki::build(self.released.board.arch, &stub, &parts)?)
    }

    /// Writes the update to it, signed with the key in that file.
    ///
    /// # Errors
    /// It cannot be built, signed, or written.
    pub fn bundle(&self, to: &Path, key: &Path) -> Result<Manifest> {
        let uki = self.uki()?;
        let manifest = self.manifest(&uki)?;
        let folder = to.parent().context("a bundle is in a folder")?;
        let sign = Signing { key: key.to_owned(), floor: 1 };
        bundle::write(&manifest, &uki, &sign, folder, to)?;
        Ok(manifest)
    }

    fn manifest(&self, uki: &[u8]) -> Result<Manifest> {
        Ok(Manifest {
            build: NonZeroU32::new(self.build).context("builds count from 1")?,
            board: self.board.clone(),
            min_build_floor: 1,
            uki: Uki { bytes: uki.len() as u64, sha256: Sha256::of(uki) },
            ..self.released.manifest.clone()
        })
    }

    fn release(&self) -> String {
        let Manifest { version, built_at, commit, .. } = &self.released.manifest;
        format!(
            "product = \"avr\"\nversion = \"{version}\"\nbuild = {}\nboard = \"{}\"\narch = \"{}\"\n\
             built_at = {built_at}\ncommit = \"{commit}\"\nsbom_sha256 = \"\"\n",
            self.build,
            self.board,
            self.released.board.arch.name(),
        )
    }
}

/// The key that boxes of development builds know.
#[must_use]
pub fn known_key() -> PathBuf {
    tree().join("image/keys/dev/dev-1.key")
}
