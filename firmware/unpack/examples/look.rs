//! Prints what containers hold: for each file named, its formats, its members and what was not
//! seen.

use std::ops::ControlFlow;
use std::sync::Arc;
use unpack::{Budget, Limits, formats, unpack};

fn main() -> std::io::Result<()> {
    use std::io::Write;
    let mut out = std::io::stdout().lock();
    for path in std::env::args_os().skip(1) {
        let bytes = std::fs::read(&path)?;
        let mut budget = Budget::new(Limits::default(), Arc::new(|| false));
        writeln!(out, "{}", path.display())?;
        for format in formats(&bytes) {
            let mut lines = Vec::new();
            let troubles = unpack(&bytes, format, &mut budget, &mut |member| {
                let odd = if member.is_odd { " odd" } else { "" };
                lines.push(format!("  {:?} {}{odd}", member.names, member.bytes.len()));
                ControlFlow::Continue(())
            });
            writeln!(out, " {}", format.name())?;
            for line in lines {
                writeln!(out, "{line}")?;
            }
            for trouble in troubles {
                writeln!(out, "  ! {trouble}")?;
            }
        }
    }
    Ok(())
}
