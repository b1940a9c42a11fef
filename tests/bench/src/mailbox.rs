//! Mailboxes for the POP3 server: made before each case, with mails that no arm has seen.

use std::{
    fs,
    os::unix::fs::chown,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};
use e2e::{MAIL_UID, message::to_lf};

use crate::message::{Id, Message, Pool};

/// Mailboxes in one or more folders. Dropping removes them.
#[derive(Debug)]
pub(crate) struct Mailboxes(Vec<PathBuf>);

impl Mailboxes {
    /// Makes mailboxes `USER0`, `USER1` and so on, in each of the folders the same.
    pub(crate) fn create(
        folders: &[PathBuf],
        user: &str,
        sessions: u32,
        mails: u32,
        first: Id,
    ) -> Result<Self> {
        let pool = Pool::new();
        let mut made = Self(Vec::new());
        for session in 0..sessions {
            for folder in folders {
                let mailbox = folder.join(format!("{user}{session}"));
                made.0.push(mailbox.clone());
                make(&mailbox).with_context(|| format!("cannot make {}", mailbox.display()))?;
            }
            for mail in 0..mails {
                let id = Id { number: first.number + session * mails + mail, ..first };
                let wire = Message::new(id).to_vec(&pool);
                let bytes = to_lf(&without_doubled_dots(&wire));
                for folder in folders {
                    let name = format!("{user}{session}/new/{mail:04}.bench");
                    let path = folder.join(name);
                    fs::write(&path, &bytes)?;
                    chown(&path, Some(MAIL_UID), Some(MAIL_UID))?;
                }
            }
        }
        Ok(made)
    }
}

impl Drop for Mailboxes {
    fn drop(&mut self) {
        for mailbox in &self.0 {
            // What is left is gone with the file system.
            let _ = fs::remove_dir_all(mailbox);
        }
    }
}

fn make(mailbox: &Path) -> Result<()> {
    for folder in ["cur", "new", "tmp"] {
        fs::create_dir_all(mailbox.join(folder))?;
        chown(mailbox.join(folder), Some(MAIL_UID), Some(MAIL_UID))?;
    }
    Ok(chown(mailbox, Some(MAIL_UID), Some(MAIL_UID))?)
}

/// As it was before it crossed (RFC 5321, section 4.5.2).
fn without_doubled_dots(wire: &[u8]) -> Vec<u8> {
    let lines = wire.split_inclusive(|&byte| byte == b'\n');
    let lines = lines.map(|line| line.strip_prefix(b".").unwrap_or(line));
    lines.collect::<Vec<_>>().concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_dot_of_each_line_is_taken_away() {
        assert_eq!(without_doubled_dots(b"..a\r\nb.\r\n...\r\n"), b".a\r\nb.\r\n..\r\n");
    }
}
