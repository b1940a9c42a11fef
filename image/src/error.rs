//! Why an image cannot be built.

use std::io;
use std::process::{Command, Output, Stdio};

use config::ConfigError;

/// Most of what a failed program said that is shown, in bytes.
const COMPLAINT_BYTES_MAX: usize = 2_000;

/// Why an image cannot be built.
#[derive(Debug, thiserror::Error)]
pub enum ImageError {
    /// A settings file is wrong; says where, and what to write.
    #[error(transparent)]
    Settings(#[from] ConfigError),
    /// A file could not be read or written.
    #[error("{step}")]
    Io {
        /// What was being done.
        step: String,
        /// Why it failed.
        source: io::Error,
    },
    /// A program that does part of the work failed.
    #[error("{step}: {complaint}")]
    Program {
        /// What was being done.
        step: String,
        /// What the program said.
        complaint: String,
    },
    /// What goes into the image does not fit it; says what to do.
    #[error("{0}")]
    Wrong(String),
}

/// Names the step at which reading or writing failed.
pub(crate) trait Step<T> {
    fn step(self, step: impl FnOnce() -> String) -> Result<T, ImageError>;
}

impl<T> Step<T> for io::Result<T> {
    fn step(self, step: impl FnOnce() -> String) -> Result<T, ImageError> {
        self.map_err(|source| ImageError::Io { step: step(), source })
    }
}

/// Runs a program to its end and gives its output.
pub(crate) fn run(step: &str, command: &mut Command) -> Result<Output, ImageError> {
    let output = command
        .stdin(Stdio::null())
        .output()
        .step(|| format!("{step}: starting {}", command.get_program().display()))?;
    if output.status.success() {
        return Ok(output);
    }
    let said = String::from_utf8_lossy(&output.stderr);
    let start = said.len().saturating_sub(COMPLAINT_BYTES_MAX);
    let shown = said.get(start..).unwrap_or(&said).trim();
    let complaint = format!("{} ({}): {shown}", command.get_program().display(), output.status);
    Err(ImageError::Program { step: step.to_owned(), complaint })
}
