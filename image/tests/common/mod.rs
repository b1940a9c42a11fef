//! What the tests build: an image with a PID 1 of their own, at a low compression.

use std::path::{Path, PathBuf};

use image::{Options, Release, Signing};

/// zstd's default: the tests are about what is in an image, not how small it is.
const LEVEL: i32 = 3;
/// Some commit's time, in Unix seconds.
const EPOCH: u32 = 1_790_000_000;

/// Root of the source tree.
pub(crate) fn tree() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the crate is in the tree").to_owned()
}

/// A board's image with the tests' PID 1.
pub(crate) fn options(board: &str, build: u32, output: &Path) -> Options {
    let tree = tree();
    Options {
        board: board.to_owned(),
        programs: vec![(tree.join("image/tests/init.sh"), "/init".to_owned())],
        files: Vec::new(),
        crates: vec!["board".to_owned()],
        release: Release {
            version: "0.0.1".to_owned(),
            build,
            commit: "0123456789ab".to_owned(),
            epoch: EPOCH,
        },
        // Where the program keeps them too: hundreds of MiB that are fetched once.
        cache: tree.join("target/debian/packages"),
        output: output.to_owned(),
        level: LEVEL,
        sign: Some(Signing { key: tree.join("image/keys/dev/dev-1.key"), floor: 1 }),
        tree,
    }
}
