//! The admin secret: asked for without being shown, and kept as a hash only.

use std::fs::File;
use std::io::{self, BufRead as _, BufReader, Write as _};
use std::path::Path;

use argon2::Argon2;
use argon2::password_hash::PasswordHasher as _;
use argon2::password_hash::phc::PasswordHash;
use nix::sys::termios::{LocalFlags, SetArg, Termios, tcgetattr, tcsetattr};

use super::provision::read_line;
use crate::ImageError;
use crate::error::Step as _;
use crate::ext4::StateFile;

/// Shortest secret, in characters; as the console has it.
pub const CHARS_MIN: usize = 8;
/// Longest, in bytes.
const BYTES_MAX: u64 = 1024;

/// The file of STATE with the secret's hash: Argon2id, as a PHC string.
///
/// # Errors
/// The secret is too short, or cannot be hashed.
pub fn file(secret: &str) -> Result<StateFile, ImageError> {
    if secret.chars().count() < CHARS_MIN {
        let problem = format!("a secret has at least {CHARS_MIN} characters; take a longer one");
        return Err(ImageError::Wrong(problem));
    }
    let hash: PasswordHash = Argon2::default()
        .hash_password(secret.as_bytes())
        .map_err(|error| ImageError::Wrong(format!("the secret cannot be hashed: {error}")))?;
    Ok(StateFile { path: "config/secret".to_owned(), contents: format!("{hash}\n") })
}

/// The first line of a file, or of standard input (`-`).
///
/// # Errors
/// It cannot be read.
pub fn read(path: &Path) -> Result<String, ImageError> {
    read_line(path, BYTES_MAX).step(|| format!("reading the admin secret from {}", path.display()))
}

/// Asks on the terminal, twice.
///
/// # Errors
/// There is no terminal, or the two are not the same.
pub fn ask() -> Result<String, ImageError> {
    let step = || {
        "asking for the admin secret (without a terminal: --secret-file FILE, or --no-secret)"
            .to_owned()
    };
    let terminal = File::options().read(true).write(true).open("/dev/tty").step(step)?;
    let quiet = Quiet::new(&terminal).map_err(io::Error::from).step(step)?;
    let mut lines = BufReader::new(&terminal);
    let mut line = |prompt: &str| {
        let mut text = String::new();
        (&terminal).write_all(prompt.as_bytes())?;
        io::Read::take(&mut lines, BYTES_MAX).read_line(&mut text)?;
        (&terminal).write_all(b"\n")?;
        Ok::<_, io::Error>(text.trim_end_matches(['\r', '\n']).to_owned())
    };
    let first = line("Admin secret of the box: ").step(step)?;
    let again = line("Once more: ").step(step)?;
    drop(quiet);
    if first == again {
        return Ok(first);
    }
    Err(ImageError::Wrong("the two secrets are not the same; begin again".to_owned()))
}

/// A terminal that does not show what is typed, until this is dropped.
struct Quiet<'a> {
    terminal: &'a File,
    former: Termios,
}

impl<'a> Quiet<'a> {
    fn new(terminal: &'a File) -> nix::Result<Self> {
        let former = tcgetattr(terminal)?;
        let mut quiet = former.clone();
        quiet.local_flags.remove(LocalFlags::ECHO);
        tcsetattr(terminal, SetArg::TCSAFLUSH, &quiet)?;
        Ok(Self { terminal, former })
    }
}

impl Drop for Quiet<'_> {
    fn drop(&mut self) {
        let _ = tcsetattr(self.terminal, SetArg::TCSAFLUSH, &self.former);
    }
}

#[cfg(test)]
mod tests {
    use argon2::password_hash::PasswordVerifier as _;

    use super::*;

    #[test]
    fn the_hash_is_of_this_secret_and_salted() {
        let text = file("correct horse").unwrap().contents;
        assert!(text.starts_with("$argon2id$v=19$") && text.ends_with('\n'), "{text}");
        assert!(!text.contains("horse"));
        let hash = PasswordHash::new(text.trim()).unwrap();
        let is = |secret: &str| Argon2::default().verify_password(secret.as_bytes(), &hash).is_ok();
        assert!(is("correct horse") && !is("correct hors"));
        assert_ne!(text, file("correct horse").unwrap().contents);
    }

    #[test]
    fn short_ones_are_refused_and_files_are_read_to_their_line_end() {
        assert!(file("1234567").unwrap_err().to_string().contains("at least 8 characters"));
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("secret");
        std::fs::write(&path, "correct horse\r\nsecond line\n").unwrap();
        assert_eq!(read(&path).unwrap(), "correct horse");
        let said = read(&folder.path().join("none")).unwrap_err().to_string();
        assert!(said.starts_with("reading the admin secret from"), "{said}");
    }
}
