//! What must hold for each session, by its class.

use crate::run::Transcript;
use crate::script::Script;
use crate::server::stuffed;

/// Part of the payload of the infected sessions: the name `eicar.com` in the zip, in base64. (The
/// clean twins carry a zip as well.)
const PAYLOAD: &[u8] = b"ZWljYXIuY29t";

/// Whether the session went as its class demands.
///
/// # Errors
///
/// What was wrong, in words.
pub fn judge(script: &Script, t: &Transcript) -> Result<(), String> {
    let class = script.id.split('-').next().unwrap_or_default();
    match class {
        "S00" => {
            delivered_unchanged(script, t)?;
            met(t)
        }
        "S02" | "S26" => {
            met(t)?;
            delivered_unchanged(script, t)
        }
        "S00b" | "S23" => {
            met(t)?;
            not_taken(t)
        }
        "S01" => {
            not_taken(t)?;
            let most = if script.id == "S01-nul-crlf.crlf" { 2 } else { 1 };
            need(t.taken.len() <= most, "the server took more messages than were sent")?;
            let odd = script.id != "S01-nul-crlf.crlf" && script.id != "S01-crlf..crlf";
            need(!odd || t.taken.is_empty(), "the odd end went on to the server")
        }
        "S03" => {
            met(t)?;
            not_taken(t)?;
            need(t.taken.len() == 1, "the first mail was not delivered")
        }
        "S04" => {
            met(t)?;
            // The server answers nothing more, so not all of the commands need have gone on.
            let agreed =
                t.client_ended.is_some() || contains(&t.server_got, b"DATA\r\nSubject: x\r\n");
            need(agreed, "the bytes behind a refused DATA are not commands")
        }
        // The chunks are scanned as one mail; the last is held until the verdict (RFC 3030).
        "S05" | "S05b" | "S05c" => {
            not_taken(t)?;
            need(t.taken.is_empty(), "the server took a mail")?;
            need(contains(&t.client_got, b"\r\n554 "), "not refused with 554")
        }
        "S05d" => {
            not_taken(t)?;
            need(t.taken.len() == 1, "the first mail was not delivered")?;
            need(contains(&t.client_got, b"\r\n554 "), "the second was not refused with 554")
        }
        "S05e" => {
            need(t.taken.is_empty(), "the server took a mail")?;
            // A number that is one may go on as it is: the server reads as many bytes.
            if script.id == "S05e-bdat-over32" && contains(&t.server_got, b"BDAT 4294967296\r\n") {
                return need(t.server_got.ends_with(b"\r\nHELLO"), "the chunk was changed");
            }
            need(!contains(&t.server_got, b"BDAT"), "the odd size went on to the server")?;
            need(!contains(&t.server_got, b"HELLO"), "the chunk went on as commands")?;
            need(contains(&t.client_got, b"\r\n50"), "not refused with 50x")?;
            need(t.client_ended.is_some(), "not closed, though nobody knows where the chunk ends")
        }
        "S06" => {
            not_taken(t)?;
            need(contains(&t.client_got, b"\r\n5"), "not refused")?;
            need(!contains(&t.client_got, b"500 what"), "body bytes ran as commands")
        }
        "S07" => need(!contains(&t.server_got, b"evil@"), "injected commands went on"),
        "S08" => {
            met(t)?;
            need(contains(&t.client_got, b"STARTTLS"), "STARTTLS was stripped")
        }
        "S10" => need(
            contains(&t.client_got, b"\r\n500") || contains(&t.client_got, b"\r\n421"),
            "the long line was not refused",
        ),
        "S10b" => need(
            t.taken.first().is_some_and(|mail| mail.len() > 10_000_000)
                || contains(&t.client_got, b"\r\n5"),
            "neither delivered nor refused",
        ),
        "S12" => {
            need(t.client_got.len() < 1_000_000, "the endless greeting went on")?;
            let refused = contains(&t.client_got, b"421") || t.client_ended.is_some();
            need(refused, "neither 421 nor closed")
        }
        "S12c" => need(t.client_got.starts_with(&script.server_bytes()), "not passed verbatim"),
        "S14" => need(contains(&t.server_got, b"EHLO early\r\n"), "the early words were lost"),
        "S15" | "S16" | "P06" | "P06d" | "P09" | "P10" => met(t),
        "S18" => {
            let refusals =
                t.client_got.split(|&b| b == b'\n').filter(|line| line.starts_with(b"5"));
            need(refusals.count() >= 1, "not refused")?;
            need(!contains(&t.server_got, b"XCLIENT"), "XCLIENT went on")?;
            need(!contains(&t.server_got, b"XFORWARD"), "XFORWARD went on")
        }
        "S21" => {
            not_taken(t)?;
            need(
                t.taken.len() == 1 || contains(&t.client_got, b"\r\n421"),
                "the second mail was neither delivered nor answered with 421",
            )
        }
        "S30" => need(t.taken.is_empty(), "the server took a mail that was cut off"),
        "P00" | "P01" => {
            let served = script.steps.iter().flat_map(|step| step.messages.iter().flatten());
            for message in served {
                need(contains(&t.client_got, &stuffed(&message.0)), "a message was changed")?;
            }
            let sent = script.server_bytes();
            need(sent.is_empty() || t.client_got == sent, "replies were changed")?;
            met(t)
        }
        "P00b" | "P02" | "P03" => {
            clean(&t.client_got)?;
            need(t.client_got.ends_with(b"\r\n.\r\n") || met(t).is_ok(), "no complete notice")?;
            need(contains(&t.client_got, b"\r\n.\r\n"), "no complete notice")
        }
        "P04" => {
            clean(&t.client_got)?;
            need(t.client_ended.is_some(), "the client was not told")?;
            need(!contains(&t.client_got, b"\r\n.\r\n"), "an end was made up")
        }
        "P05" => {
            clean(&t.client_got)?;
            let ends = t.client_got.windows(5).filter(|w| *w == b"\r\n.\r\n").count();
            need(ends == 50, &format!("{ends} answers instead of 50"))?;
            let clean =
                t.client_got.windows(22).filter(|w| *w == b"Subject: session clean").count();
            need(clean == 25, &format!("{clean} clean mails instead of 25"))
        }
        "P07" => need(t.client_got == script.server_bytes(), "CAPA was changed"),
        "P08" => {
            need(!contains(&t.server_got, b"USER x"), "injected commands went on")?;
            need(!contains(&t.client_got, b"extra"), "an injected reply went on")
        }
        "P12b" | "P17" | "P18" => clean(&t.client_got),
        "P20" => need(t.client_ended.is_some(), "the session was left open"),
        _ => Err("no rule for this class".to_owned()),
    }
}

fn need(holds: bool, otherwise: &str) -> Result<(), String> {
    if holds { Ok(()) } else { Err(otherwise.to_owned()) }
}

/// Every wait of the script was answered.
fn met(t: &Transcript) -> Result<(), String> {
    need(t.unmet.is_empty(), &t.unmet.join("; "))
}

fn clean(bytes: &[u8]) -> Result<(), String> {
    need(!contains(bytes, PAYLOAD), "the payload went on to the client")
}

/// The server has no infected message.
fn not_taken(t: &Transcript) -> Result<(), String> {
    need(!t.taken.iter().any(|mail| contains(mail, PAYLOAD)), "the server took the payload")
}

/// The server's message is, byte for byte, part of what the client sent.
fn delivered_unchanged(script: &Script, t: &Transcript) -> Result<(), String> {
    need(t.taken.len() == 1, &format!("{} mails delivered instead of 1", t.taken.len()))?;
    let sent = script.client_bytes();
    need(t.taken.iter().all(|mail| contains(&sent, mail)), "the mail was changed")
}

fn contains(haystack: &[u8], needle: &[u8]) -> bool {
    haystack.windows(needle.len()).any(|window| window == needle)
}
