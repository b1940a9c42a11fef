//! What is installed: `/etc/avr/release.toml`, which the image's builder writes.

use std::path::Path;

use serde::Deserialize;

use crate::control::Release;

/// Where it is.
const FILE: &str = "/etc/avr/release.toml";

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    product: String,
    version: String,
    build: u32,
    board: String,
    arch: String,
    /// Seconds since 1970 UTC.
    built_at: u64,
    #[serde(rename = "commit")]
    _commit: String,
    sbom_sha256: String,
}

/// The release, and when it was built, in seconds since 1970 UTC; 0 where nobody knows.
pub(crate) fn read() -> (Release, u64) {
    match config::load::<File>(Path::new(FILE)) {
        Ok(file) => {
            let release = Release {
                product: file.product,
                version: file.version,
                build: file.build,
                board: file.board,
                arch: file.arch,
                sbom_sha256: file.sbom_sha256,
            };
            (release, file.built_at)
        }
        Err(error) => {
            tracing::error!(error = telemetry::chain(&error), "it is not known what is installed");
            let unknown = || "unknown".to_owned();
            let release = Release {
                product: "avr".to_owned(),
                version: unknown(),
                build: 0,
                board: unknown(),
                arch: std::env::consts::ARCH.to_owned(),
                sbom_sha256: String::new(),
            };
            (release, 0)
        }
    }
}
