//! What the session waits for, how long, and what happens then.

use std::time::Instant;

use super::{
    ANSWER_TIMEOUT, HALF_CLOSED_TIMEOUT, IDLE_TIMEOUT, InFlight, LINE_TIMEOUT, MULTI_LINE_TIMEOUT,
    ODD_END_TIMEOUT, Phase, Pop3Session, Reading, Turn, VERDICT_TIMEOUT, replies,
};
use crate::{Decision, End, Event, Output, Side};

/// Something that must come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Wait {
    /// The rest of a reply, or a reply.
    Server,
    /// The rest of a command line, or any command.
    Client,
    /// The verdict.
    Verdict,
    /// More of a message that may have ended oddly.
    OddEnd,
}

impl Pop3Session {
    /// The first wait that will have been too long.
    pub(super) fn deadline(&self) -> Option<(Instant, Wait)> {
        if self.phase != Phase::Open {
            return None;
        }
        if let Reading::Verdict { since, .. } = self.reading {
            return Some((since + VERDICT_TIMEOUT, Wait::Verdict));
        }
        let client_line = self.client.line_since.map(|since| (since + LINE_TIMEOUT, Wait::Client));
        let server_line = self.server.line_since.map(|since| (since + LINE_TIMEOUT, Wait::Server));
        let since = match &self.reading {
            Reading::Message { since, .. } | Reading::List { since, .. } => Some(*since),
            Reading::Reply | Reading::Verdict { .. } => None,
        };
        let multi_line = since.map(|since| (since + MULTI_LINE_TIMEOUT, Wait::Server));
        let odd_end = match &self.reading {
            Reading::Message { message, .. } if message.at_odd_end => {
                Some((self.server.heard + ODD_END_TIMEOUT, Wait::OddEnd))
            }
            _ => None,
        };
        let speaker = if self.server.end_relayed {
            (self.server.heard + HALF_CLOSED_TIMEOUT, Wait::Client)
        } else if self.owes_server() {
            (self.server.heard + ANSWER_TIMEOUT, Wait::Server)
        } else {
            (self.client.heard.max(self.server.heard) + IDLE_TIMEOUT, Wait::Client)
        };
        [client_line, server_line, multi_line, odd_end, Some(speaker)].into_iter().flatten().min()
    }

    /// Whether it is the server's turn.
    fn owes_server(&self) -> bool {
        let awaited = self.in_flight.iter().any(|reply| matches!(reply, InFlight::Server(_)));
        awaited && self.turn != Turn::AuthResponse
    }

    pub(super) fn expire(&mut self, wait: Wait, now: Instant) {
        match wait {
            Wait::Server => {
                self.event(Event::TimedOut { side: Side::Server });
                self.fail(replies::SERVER_TIMED_OUT);
            }
            // RFC 1939 section 3: closed without a reply.
            Wait::Client => {
                self.event(Event::TimedOut { side: Side::Client });
                self.close(End::Fin, End::Reset);
            }
            Wait::Verdict => {
                self.outputs.push_back(Output::MessageAbort);
                let reason = "the scan took too long".to_owned();
                self.decide(Decision::Tempfail { reason }, now);
            }
            Wait::OddEnd => self.end_message(now),
        }
    }
}
