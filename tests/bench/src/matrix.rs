//! Which cases are measured, and for how long.

use std::fmt;

use serde::{Deserialize, Serialize};

/// Ten kilobytes, as in the tables.
pub(crate) const KB_10: usize = 10 * 1024;
pub(crate) const KB_100: usize = 100 * 1024;
pub(crate) const MB_1: usize = 1 << 20;
pub(crate) const MB_25: usize = 25 << 20;

/// One case.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Cell {
    /// Of a mail, in bytes.
    pub(crate) size: usize,
    /// Sessions at once.
    pub(crate) sessions: u32,
    /// Mails in a session.
    pub(crate) mails: u32,
    /// All with the same attachment.
    pub(crate) repeated: bool,
}

impl Cell {
    pub(crate) const fn new(size: usize, sessions: u32, mails: u32) -> Self {
        Self { size, sessions, mails, repeated: false }
    }
}

impl fmt::Display for Cell {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { size, sessions, mails, repeated } = self;
        let attachment = if *repeated { ", same attachment" } else { "" };
        write!(f, "{}, {sessions} × {mails}{attachment}", size_name(*size))
    }
}

/// `10 KB`, `25 MB`.
pub(crate) fn size_name(bytes: usize) -> String {
    match bytes {
        MB_1.. => format!("{} MB", bytes >> 20),
        _ => format!("{} KB", bytes >> 10),
    }
}

/// How much is measured.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Plan {
    pub(crate) smtp: Vec<Cell>,
    pub(crate) pop3: Vec<Cell>,
    /// No mail of a measurement is begun later than this.
    pub(crate) measure_ms: u64,
    /// The same for the mails before it, which do not count.
    pub(crate) warm_up_ms: u64,
    /// Sessions and bytes a second for each, for the figure of memory.
    pub(crate) memory_sessions: u32,
    pub(crate) memory_bytes_per_second: u64,
    /// Mails sent with Postfix's `smtp-source`, which measures the client.
    pub(crate) source_mails: u32,
}

impl Plan {
    /// Everything.
    pub(crate) fn full() -> Self {
        let mut smtp = Vec::new();
        for size in [KB_10, KB_100, MB_1] {
            for sessions in [1, 20, 64] {
                smtp.extend([1, 20].map(|mails| Cell::new(size, sessions, mails)));
            }
        }
        smtp.extend([(1, 1), (1, 20), (20, 1), (64, 1)].map(|(sessions, mails)| {
            // With more sessions the time is over before any has its second mail of this size.
            Cell::new(MB_25, sessions, mails)
        }));
        smtp.push(Cell { repeated: true, ..Cell::new(KB_100, 20, 20) });
        Self {
            smtp,
            pop3: vec![
                Cell::new(KB_10, 1, 20),
                Cell::new(KB_10, 20, 20),
                Cell::new(KB_10, 64, 20),
                Cell::new(KB_100, 1, 20),
                Cell::new(KB_100, 20, 20),
                Cell::new(MB_1, 1, 20),
                Cell::new(MB_1, 20, 5),
                Cell::new(MB_25, 1, 2),
                Cell::new(MB_25, 20, 1),
            ],
            measure_ms: 1_500,
            warm_up_ms: 250,
            memory_sessions: 64,
            memory_bytes_per_second: MB_1 as u64,
            source_mails: 2_000,
        }
    }

    /// What the targets need, and little else.
    pub(crate) fn quick() -> Self {
        Self {
            smtp: vec![
                Cell::new(KB_10, 1, 1),
                Cell::new(KB_10, 1, 20),
                Cell::new(KB_10, 20, 1),
                Cell::new(KB_10, 20, 20),
                Cell::new(KB_100, 1, 20),
                Cell::new(MB_1, 20, 1),
            ],
            pop3: vec![Cell::new(KB_10, 20, 20), Cell::new(MB_1, 1, 5)],
            measure_ms: 800,
            warm_up_ms: 150,
            memory_sessions: 8,
            memory_bytes_per_second: 5 * MB_1 as u64,
            source_mails: 300,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_full_matrix_has_every_size_and_number_of_sessions() {
        let plan = Plan::full();
        for size in [KB_10, KB_100, MB_1, MB_25] {
            for sessions in [1, 20, 64] {
                let has = |cell: &&Cell| cell.size == size && cell.sessions == sessions;
                assert!(plan.smtp.iter().any(|cell| has(&cell)), "{size} {sessions}");
            }
        }
    }

    #[test]
    fn no_case_is_there_twice_and_quick_is_a_part_of_full() {
        let full = Plan::full().smtp;
        for (index, cell) in full.iter().enumerate() {
            assert!(!full[..index].contains(cell), "{cell}");
        }
        assert!(Plan::quick().smtp.iter().all(|cell| full.contains(cell)));
    }

    #[test]
    fn cases_have_names() {
        assert_eq!(Cell::new(KB_10, 20, 1).to_string(), "10 KB, 20 × 1");
        let repeated = Cell { repeated: true, ..Cell::new(MB_25, 1, 20) };
        assert_eq!(repeated.to_string(), "25 MB, 1 × 20, same attachment");
    }
}
