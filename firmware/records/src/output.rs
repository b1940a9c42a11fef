//! Printing for a person.

use std::io::{self, Write as _};

use anyhow::Context;

/// Runs what prints; that a reader has seen enough (`avr trace … | head`) is no failure.
///
/// # Errors
///
/// Those of `print`, and that standard output cannot be written to.
pub fn print_to_end(
    print: impl FnOnce(&mut io::BufWriter<io::StdoutLock<'_>>) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    let mut out = io::BufWriter::new(io::stdout().lock());
    let result = print(&mut out).and_then(|()| out.flush().context("write"));
    result.or_else(|error| if is_broken_pipe(&error) { Ok(()) } else { Err(error) })
}

fn is_broken_pipe(error: &anyhow::Error) -> bool {
    error
        .root_cause()
        .downcast_ref::<io::Error>()
        .is_some_and(|error| error.kind() == io::ErrorKind::BrokenPipe)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reader_who_has_seen_enough_is_no_failure() {
        let broken = || io::Error::from(io::ErrorKind::BrokenPipe);
        print_to_end(|_| Err(broken().into())).unwrap();
        print_to_end(|_| Err(broken()).context("write")).unwrap();
        print_to_end(|_| Err(io::Error::from(io::ErrorKind::StorageFull).into())).unwrap_err();
        print_to_end(|_| Err(anyhow::anyhow!("other"))).unwrap_err();
    }
}
