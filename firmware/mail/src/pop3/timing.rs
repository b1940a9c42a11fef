//! What the session waits for, how long, and what happens then.

use std::time::Instant;

use super::{
    ANSWER_TIMEOUT, HALF_CLOSED_TIMEOUT, IDLE_TIMEOUT, InFlight, LINE_TIMEOUT, MULTI_LINE_TIMEOUT,
    ODD_END_TIMEOUT, Phase, Pop3Session, Reading, Turn, UNFRAMED_TIMEOUT, VERDICT_TIMEOUT, replies,
};
use crate::{Decision, End, Event, Output, SettledBy, Side};

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
    /// More of an answer that may have ended with its first line.
    Unframed,
    /// Nothing must come: the client must hear something.
    KeepAlive,
}

impl Pop3Session {
    /// The first wait that will have been too long.
    pub(super) fn deadline(&self) -> Option<(Instant, Wait)> {
        if self.phase != Phase::Open {
            return None;
        }
        let keep_alive = self.keep_alive_due().map(|due| (due, Wait::KeepAlive));
        if let Reading::Verdict { since, .. } = self.reading {
            let verdict = (since + VERDICT_TIMEOUT, Wait::Verdict);
            return Some(keep_alive.map_or(verdict, |keep_alive| keep_alive.min(verdict)));
        }
        let client_line = self.client.line_since.map(|since| (since + LINE_TIMEOUT, Wait::Client));
        let server_line = self.server.line_since.map(|since| (since + LINE_TIMEOUT, Wait::Server));
        let since = match &self.reading {
            Reading::Message { since, .. } | Reading::List { since, .. } => Some(*since),
            Reading::Reply | Reading::Unframed { .. } | Reading::Verdict { .. } => None,
        };
        let multi_line = since.map(|since| (since + MULTI_LINE_TIMEOUT, Wait::Server));
        let silence = match &self.reading {
            Reading::Message { message, .. } if message.at_odd_end => {
                Some((self.server.heard + ODD_END_TIMEOUT, Wait::OddEnd))
            }
            // Nobody waits for that as long as the client does not go on.
            Reading::Unframed { since, .. } if !self.client.is_empty() => {
                Some((*since + UNFRAMED_TIMEOUT, Wait::Unframed))
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
        [client_line, server_line, multi_line, silence, keep_alive, Some(speaker)]
            .into_iter()
            .flatten()
            .min()
    }

    /// When something has to leave for a client that waits for a message.
    fn keep_alive_due(&self) -> Option<Instant> {
        match &self.reading {
            Reading::Message { message, .. } | Reading::Verdict { message, .. } => {
                message.early.due
            }
            Reading::Reply | Reading::List { .. } | Reading::Unframed { .. } => None,
        }
    }

    /// Whether it is the server's turn.
    fn owes_server(&self) -> bool {
        let awaited = self.in_flight.iter().any(|reply| matches!(reply, InFlight::Server(_)));
        // Behind the `+OK` to an unknown command it may owe nothing.
        let is_unframed = matches!(self.reading, Reading::Unframed { .. });
        awaited && !is_unframed && self.turn != Turn::AuthResponse
    }

    pub(super) fn expire(&mut self, wait: Wait, now: Instant) {
        match wait {
            Wait::Server => {
                self.event(Event::TimedOut { side: Side::Server });
                self.fail(Side::Server, replies::SERVER_TIMED_OUT);
            }
            // RFC 1939 section 3: closed without a reply.
            Wait::Client => {
                self.event(Event::TimedOut { side: Side::Client });
                self.close(Side::Client, End::Fin, End::Reset);
            }
            Wait::Verdict => {
                self.outputs.push_back(Output::MessageAbort);
                let reason = "the scan took too long".to_owned();
                self.decide(Decision::Tempfail { reason }, SettledBy::NoVerdict, now);
            }
            Wait::OddEnd => self.end_message(now),
            // Its client's next step ends it.
            Wait::Unframed => {}
            Wait::KeepAlive => self.keep_alive(now),
        }
    }
}
