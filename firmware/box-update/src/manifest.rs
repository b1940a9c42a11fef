//! What is in a bundle: the one thing that is signed.

use std::num::NonZeroU32;

use board::Arch;
use serde::{Deserialize, Serialize};

use crate::digest::Sha256;

/// The form that this crate writes, and the only one it reads.
pub const FORMAT: u32 = 1;

/// Longest manifest, in bytes: many times what its fields can need.
pub const MANIFEST_BYTES_MAX: u64 = 8 * 1024;

/// Largest system, in bytes. Three of them have room in SLOTS (384 MiB), with what FAT itself needs.
pub const UKI_BYTES_MAX: u64 = 120 * 1024 * 1024;

/// Longest name of a product, board or version, in bytes.
pub(crate) const NAME_BYTES_MAX: usize = 40;

/// Longest commit, in bytes: SHA-256 in hexadecimal digits.
const COMMIT_BYTES_MAX: usize = 64;

/// A manifest, in TOML. `Deserialize` checks types alone; [`Manifest::parse`] all of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    /// [`FORMAT`].
    pub format: u32,
    /// `avr`.
    pub product: String,
    /// The board it is for.
    pub board: String,
    /// The board's processor.
    pub arch: Arch,
    /// For people.
    pub version: String,
    /// For programs: a later one has a larger number.
    pub build: NonZeroU32,
    /// Once this build is blessed, none below that number is installed or switched to any more. At most
    /// `build`.
    pub min_build_floor: u32,
    /// The commit's time, in seconds since 1970 UTC.
    pub built_at: u64,
    /// The commit it is of.
    pub commit: String,
    /// The system itself.
    pub uki: Uki,
}

/// The system: one file that firmware starts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Uki {
    /// Its size.
    pub bytes: u64,
    /// Its digest.
    pub sha256: Sha256,
}

/// What a manifest says cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ManifestError {
    /// It is of a later form.
    #[error(
        "the bundle has format {0}, and this system knows {FORMAT}: install an older build first, which \
         knows both"
    )]
    Format(u32),
    /// It is none.
    #[error("the manifest cannot be read ({0}): have the bundle built again")]
    Unreadable(String),
    /// A field has a value that no builder writes.
    #[error("the manifest's {field} {problem}: have the bundle built again")]
    Field {
        /// Which.
        field: &'static str,
        /// What is wrong with it.
        problem: String,
    },
}

impl Manifest {
    /// Reads and checks it.
    ///
    /// # Errors
    /// [`ManifestError`].
    pub fn parse(bytes: &[u8]) -> Result<Self, ManifestError> {
        #[derive(Deserialize)]
        struct Format {
            format: u32,
        }
        let unreadable = |error: toml::de::Error| ManifestError::Unreadable(one_line(&error));
        let text = str::from_utf8(bytes)
            .map_err(|_| ManifestError::Unreadable("it is no text".to_owned()))?;
        // First, since a later form has fields that are unknown here.
        let Format { format } = toml::from_str(text).map_err(unreadable)?;
        if format != FORMAT {
            return Err(ManifestError::Format(format));
        }
        let manifest: Self = toml::from_str(text).map_err(unreadable)?;
        manifest.check()?;
        Ok(manifest)
    }

    /// As it is signed.
    ///
    /// # Errors
    /// A field has a value that would not be read again.
    pub fn to_toml(&self) -> Result<String, ManifestError> {
        self.check()?;
        toml::to_string(self).map_err(|error| ManifestError::Unreadable(error.to_string()))
    }

    fn check(&self) -> Result<(), ManifestError> {
        let wrong =
            |field, problem: &str| Err(ManifestError::Field { field, problem: problem.to_owned() });
        for (field, text) in
            [("product", &self.product), ("board", &self.board), ("version", &self.version)]
        {
            let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.+~".contains(&byte);
            if text.is_empty() || text.len() > NAME_BYTES_MAX || !text.bytes().all(is_plain) {
                return wrong(field, "is not 1 to 40 of letters, digits and -_.+~");
            }
        }
        let is_digit = |byte: u8| byte.is_ascii_hexdigit();
        if self.commit.len() > COMMIT_BYTES_MAX || !self.commit.bytes().all(is_digit) {
            return wrong("commit", "is not at most 64 hexadecimal digits");
        }
        if self.min_build_floor > self.build.get() {
            return wrong("min_build_floor", "is above its own build");
        }
        if !(1..=UKI_BYTES_MAX).contains(&self.uki.bytes) {
            return Err(ManifestError::Field {
                field: "uki.bytes",
                problem: format!("is {}, and can be 1 to {UKI_BYTES_MAX}", self.uki.bytes),
            });
        }
        Ok(())
    }
}

fn one_line(error: &toml::de::Error) -> String {
    error.message().escape_debug().to_string()
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// A manifest for these bytes.
    pub(crate) fn manifest(build: u32, uki: &[u8]) -> Manifest {
        Manifest {
            format: FORMAT,
            product: "avr".to_owned(),
            board: "qemu-x86_64".to_owned(),
            arch: Arch::X86_64,
            version: "0.2.0".to_owned(),
            build: NonZeroU32::new(build).unwrap(),
            min_build_floor: 1,
            built_at: 1_790_000_000,
            commit: "4f2a91".to_owned(),
            uki: Uki { bytes: uki.len() as u64, sha256: Sha256::of(uki) },
        }
    }

    #[test]
    fn a_manifest_survives_being_written() {
        let manifest = manifest(7, b"system");
        let text = manifest.to_toml().unwrap();
        assert!(text.contains("\nbuild = 7\n") && text.contains("\n[uki]\nbytes = 6\n"), "{text}");
        assert_eq!(Manifest::parse(text.as_bytes()), Ok(manifest));
    }

    #[test]
    fn what_no_builder_writes_is_refused_with_its_name() {
        let good = manifest(7, b"system").to_toml().unwrap();
        for (from, to, told) in [
            ("format = 1", "format = 2", "format 2, and this system knows 1: install an older"),
            ("build = 7", "build = 0", "a nonzero u32"),
            ("build = 7", "build = 7\nnew = 1", "unknown field `new`"),
            ("\"avr\"", "\"a/r\"", "manifest's product is not 1 to 40"),
            ("\"0.2.0\"", "\"\"", "manifest's version is not 1 to 40"),
            ("floor = 1", "floor = 8", "min_build_floor is above its own build"),
            ("bytes = 6", "bytes = 0", "uki.bytes is 0"),
            ("bytes = 6", "bytes = 125829121", "uki.bytes is 125829121, and can be 1 to 125829120"),
            ("\"4f2a91\"", "\"main\"", "commit is not"),
            ("\"x86_64\"", "\"mips\"", "unknown variant `mips`"),
        ] {
            let text = good.replacen(from, to, 1);
            assert_ne!(text, good, "{from}");
            let error = Manifest::parse(text.as_bytes()).unwrap_err().to_string();
            assert!(error.contains(told), "{from} -> {to}: {error}");
        }
        assert!(Manifest::parse(b"\xff").is_err());
    }
}
