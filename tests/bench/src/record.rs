//! What is measured, as it stands in the file of results.

use serde::{Deserialize, Serialize};

use crate::{
    arm::Arm,
    machine::Machine,
    matrix::{Cell, Plan},
    sink::Counts,
    stats::{Percentiles, Spread},
    targets::Target,
};

/// One arm in one case in one round, by SMTP.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Smtp {
    pub(crate) arm: Arm,
    pub(crate) round: u32,
    pub(crate) cell: Cell,
    /// Mails answered by "250".
    pub(crate) mails: usize,
    pub(crate) seconds: f64,
    pub(crate) mails_per_second: f64,
    /// From a mail's last piece, of 64 KiB or less and with its end, to its "250".
    pub(crate) latency_us: Percentiles,
    /// Until the server had all of them, where that is later than the client's last "250".
    pub(crate) delivered_seconds: f64,
    /// Of the arm's own programs, without `clamd`, client and server.
    pub(crate) cpu_seconds: f64,
    pub(crate) peak_resident_kib: u64,
    /// Load average of the machine before it.
    pub(crate) load_average: f64,
    /// What arrived.
    pub(crate) arrived: Counts,
    /// Connections that were accepted and then had no banner for a second.
    pub(crate) lost_connections: u32,
    pub(crate) errors: Vec<String>,
}

/// One arm in one case in one round, by POP3.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Pop3 {
    pub(crate) arm: Arm,
    pub(crate) round: u32,
    pub(crate) cell: Cell,
    pub(crate) mails: usize,
    pub(crate) seconds: f64,
    pub(crate) mails_per_second: f64,
    /// From RETR to the first byte of its reply.
    pub(crate) first_byte_us: Percentiles,
    /// From RETR to the last byte.
    pub(crate) complete_us: Percentiles,
    pub(crate) cpu_seconds: f64,
    pub(crate) load_average: f64,
    pub(crate) arrived: Counts,
    pub(crate) errors: Vec<String>,
}

/// What large mails cost an arm in memory while they stream through.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Memory {
    pub(crate) arm: Arm,
    pub(crate) sessions: u32,
    pub(crate) size: usize,
    pub(crate) idle_kib: u64,
    pub(crate) peak_kib: u64,
    /// (peak − idle) / sessions.
    pub(crate) kib_per_session: f64,
    /// The rise of what the whole machine keeps in files in memory, a session: spools.
    pub(crate) spool_kib_per_session: f64,
    pub(crate) arrived: Counts,
    pub(crate) errors: Vec<String>,
}

/// What an arm does with the EICAR test file.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Infected {
    pub(crate) arm: Arm,
    /// The reply to the mail.
    pub(crate) reply: String,
    /// Whether the server got it.
    pub(crate) delivered: bool,
}

/// The same by another client: Postfix's `smtp-source`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Source {
    pub(crate) arm: Arm,
    pub(crate) mails: u32,
    /// `None`: it did not come to its end.
    pub(crate) mails_per_second: Option<f64>,
}

/// Everything.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Results {
    pub(crate) machine: Machine,
    /// The cores of client and server, and of the rest; none when all share all.
    pub(crate) cores: Option<(String, String)>,
    pub(crate) rounds: u32,
    pub(crate) plan: Plan,
    pub(crate) smtp: Vec<Smtp>,
    pub(crate) pop3: Vec<Pop3>,
    pub(crate) memory: Vec<Memory>,
    pub(crate) infected: Vec<Infected>,
    pub(crate) source: Vec<Source>,
    pub(crate) targets: Vec<Target>,
    pub(crate) seconds: f64,
}

/// An arm in a case, over all rounds.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub(crate) struct Summary {
    pub(crate) arm: Arm,
    pub(crate) cell: Cell,
    pub(crate) mails_per_second: Spread,
    /// Medians of the rounds' percentiles, in microseconds.
    pub(crate) p50_us: Spread,
    pub(crate) p95_us: Spread,
    pub(crate) p99_us: Spread,
    /// The same beyond the median of the direct way in the same round.
    pub(crate) added_p50_us: Option<Spread>,
    pub(crate) added_p95_us: Option<Spread>,
    pub(crate) added_p99_us: Option<Spread>,
    pub(crate) cpu_seconds_per_1000: Spread,
    pub(crate) peak_resident_kib: Spread,
}

impl Results {
    /// An arm in a case by SMTP, if any mail got through. What took none has a rate, and no times.
    pub(crate) fn summary(&self, arm: Arm, cell: Cell) -> Option<Summary> {
        let of = |arm: Arm| self.smtp.iter().filter(move |one| one.arm == arm && one.cell == cell);
        let sent = |arm| of(arm).filter(|one| one.mails > 0);
        let spread = |value: fn(&Smtp) -> f64| Spread::of(sent(arm).map(value));
        let added = |value: fn(&Smtp) -> u64| {
            Spread::of(sent(arm).filter_map(|one| {
                let same_round = sent(arm.baseline()).find(|direct| direct.round == one.round)?;
                Some(value(one) as f64 - same_round.latency_us.p50 as f64)
            }))
        };
        Some(Summary {
            arm,
            cell,
            mails_per_second: Spread::of(of(arm).map(|one| one.mails_per_second))?,
            p50_us: spread(|one| one.latency_us.p50 as f64)?,
            p95_us: spread(|one| one.latency_us.p95 as f64)?,
            p99_us: spread(|one| one.latency_us.p99 as f64)?,
            added_p50_us: added(|one| one.latency_us.p50),
            added_p95_us: added(|one| one.latency_us.p95),
            added_p99_us: added(|one| one.latency_us.p99),
            cpu_seconds_per_1000: spread(|one| one.cpu_seconds * 1e3 / one.mails.max(1) as f64)?,
            peak_resident_kib: spread(|one| one.peak_resident_kib as f64)?,
        })
    }

    /// All that [`Self::summary`] has, case by case.
    pub(crate) fn summaries(&self) -> Vec<Summary> {
        let cells = self.plan.smtp.iter();
        cells
            .flat_map(|cell| Arm::ALL.into_iter().filter_map(|arm| self.summary(arm, *cell)))
            .collect()
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::matrix::{KB_10, KB_100, MB_1, MB_25};

    /// Results with one round for each arm in the cases that targets look at, and these rates.
    pub(crate) fn results(rate: impl Fn(Arm, Cell) -> f64) -> Results {
        let plan = Plan::full();
        let smtp = plan.smtp.iter().flat_map(|cell| {
            let one = |arm| measurement(arm, 1, *cell, rate(arm, *cell), 500);
            Arm::ALL.map(one)
        });
        Results {
            machine: Machine::look().unwrap(),
            cores: None,
            rounds: 1,
            smtp: smtp.collect(),
            pop3: Vec::new(),
            memory: vec![Memory {
                arm: Arm::Avr,
                sessions: 64,
                size: MB_25,
                idle_kib: 1_000,
                peak_kib: 7_400,
                kib_per_session: 100.0,
                spool_kib_per_session: 0.0,
                arrived: Counts { exact: 64, ..Counts::default() },
                errors: Vec::new(),
            }],
            infected: Vec::new(),
            source: Vec::new(),
            targets: Vec::new(),
            seconds: 1.0,
            plan,
        }
    }

    pub(crate) fn measurement(arm: Arm, round: u32, cell: Cell, rate: f64, us: u64) -> Smtp {
        Smtp {
            arm,
            round,
            cell,
            mails: 1_000,
            seconds: 1_000.0 / rate,
            mails_per_second: rate,
            latency_us: Percentiles::of(vec![us; 10]),
            delivered_seconds: 0.0,
            cpu_seconds: 0.5,
            peak_resident_kib: 10_000,
            load_average: 0.0,
            arrived: Counts { exact: 1_000, ..Counts::default() },
            lost_connections: 0,
            errors: Vec::new(),
        }
    }

    #[test]
    fn added_latency_is_beyond_direct_of_the_same_round() {
        let cell = Cell::new(KB_10, 1, 1);
        let mut results = results(|_, _| 100.0);
        results.smtp = vec![
            measurement(Arm::Direct, 1, cell, 100.0, 100),
            measurement(Arm::Avr, 1, cell, 100.0, 400),
            measurement(Arm::Direct, 2, cell, 300.0, 1_000),
            measurement(Arm::Avr, 2, cell, 300.0, 1_100),
            measurement(Arm::Avr, 1, Cell::new(KB_100, 1, 1), 1.0, 9),
        ];
        let avr = results.summary(Arm::Avr, cell).unwrap();
        let added = avr.added_p50_us.unwrap();
        assert_eq!((added.median, added.min, added.max), (200.0, 100.0, 300.0));
        assert_eq!(avr.mails_per_second.median, 200.0);
        assert_eq!(avr.cpu_seconds_per_1000.median, 0.5);
        assert!(results.summary(Arm::Chain, cell).is_none());
        let alone = results.summary(Arm::Avr, Cell::new(KB_100, 1, 1)).unwrap();
        assert!(alone.added_p50_us.is_none());
        assert!(results.summary(Arm::Direct, Cell::new(MB_1, 1, 1)).is_none());
    }

    #[test]
    fn a_round_without_mails_is_slow_and_not_fast() {
        let cell = Cell::new(KB_10, 1, 1);
        let nothing = Smtp {
            mails: 0,
            latency_us: Percentiles::default(),
            ..measurement(Arm::Avr, 2, cell, 0.0, 0)
        };
        let mut results = results(|_, _| 100.0);
        results.smtp = vec![
            measurement(Arm::Direct, 1, cell, 100.0, 100),
            measurement(Arm::Avr, 1, cell, 100.0, 400),
            nothing.clone(),
        ];
        let avr = results.summary(Arm::Avr, cell).unwrap();
        assert_eq!((avr.mails_per_second.min, avr.p50_us.min), (0.0, 400.0));
        results.smtp = vec![nothing];
        assert!(results.summary(Arm::Avr, cell).is_none());
    }
}
