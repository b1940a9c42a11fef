//! What the answer of an ICAP server means for an object.
//!
//! RFC 3507 knows no viruses. Servers tell of them in header fields: `X-Infection-Found` and
//! `X-Violations-Found` (draft-stecher-icap-subid-00), `X-Virus-ID` (its older name), or show a page in
//! place of the object.

use super::super::{EngineOutcome, named, printable};
use super::message::Head;
use crate::FINDING_NAME_BYTES_MAX;

/// What a page in place of the object is called, where nothing else names it.
pub(super) const BLOCKED: &str = "Icap.Blocked";

/// What another body in place of the object is called.
pub(super) const REPLACED: &str = "Icap.Replaced";

/// What is called infected and has no name.
const UNNAMED: &str = "Icap.Unnamed";

/// Words in `X-Virus-ID` that mean that there is none.
const NO_VIRUS: [&str; 6] = ["", "-", "none", "clean", "no threats", "no threat"];

/// What the fields of an answer say: nothing, or why the object is not clean.
pub(super) fn of_headers(head: &Head) -> Option<EngineOutcome> {
    if let Some(infection) = head.value("x-infection-found") {
        return Some(of_infection(infection));
    }
    if let Some(name) = head.value("x-virus-id")
        && !NO_VIRUS.contains(&name.to_ascii_lowercase().as_str())
    {
        return Some(named(name));
    }
    head.value("x-violations-found").and_then(of_violations)
}

/// What the response in an answer says: the same fields, or that something is refused.
pub(super) fn of_response(response: &Head) -> Option<EngineOutcome> {
    of_headers(response).or_else(|| {
        let is_refused = response.status == 403;
        is_refused.then(|| EngineOutcome::Found(BLOCKED.to_owned()))
    })
}

/// `Type=0; Resolution=2; Threat=Name;`, where type 2 is a container that it would not open.
fn of_infection(value: &str) -> EngineOutcome {
    let field = |wanted: &str| {
        value.split(';').find_map(|field| {
            let (name, value) = field.split_once('=')?;
            name.trim().eq_ignore_ascii_case(wanted).then(|| value.trim())
        })
    };
    let threat = field("Threat").filter(|threat| !threat.is_empty()).unwrap_or(UNNAMED);
    if field("Type") != Some("2") {
        return named(threat);
    }
    if threat.to_ascii_lowercase().contains("encrypt") {
        EngineOutcome::Encrypted
    } else {
        EngineOutcome::Limit(printable(threat, FINDING_NAME_BYTES_MAX))
    }
}

/// A count, and for each violation four lines: file, threat, problem, resolution.
fn of_violations(value: &str) -> Option<EngineOutcome> {
    let mut lines = value.split('\t').map(str::trim).filter(|line| !line.is_empty());
    let count = lines.next().unwrap_or_default();
    if count == "0" {
        return None;
    }
    let threat = lines.nth(1).filter(|&threat| threat != "-").unwrap_or(UNNAMED);
    Some(named(threat))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(fields: &str) -> Option<EngineOutcome> {
        let head = format!("ICAP/1.0 200 OK\r\n{fields}\r\n\r\n");
        of_headers(&Head::parse(head.as_bytes(), "ICAP/").unwrap())
    }

    #[test]
    fn fields_name_what_was_found() {
        let found = |name: &str| Some(EngineOutcome::Found(name.to_owned()));
        let limit = |why: &str| Some(EngineOutcome::Limit(why.to_owned()));
        for (fields, outcome) in [
            ("X-Infection-Found: Type=0; Resolution=2; Threat=Eicar;", found("Eicar")),
            ("x-infection-found:Type=0;threat=W97M.Downloader", found("W97M.Downloader")),
            ("X-Infection-Found: Type=1; Resolution=1; Threat=Policy", found("Policy")),
            ("X-Infection-Found: Type=0; Resolution=2; Threat=;", found(UNNAMED)),
            ("X-Infection-Found: yes", found(UNNAMED)),
            (
                "X-Infection-Found: Type=2; Resolution=2; Threat=Container size violation",
                limit("Container size violation"),
            ),
            (
                "X-Infection-Found: Type=2; Resolution=2; Threat=Encrypted container violation;",
                Some(EngineOutcome::Encrypted),
            ),
            (
                "X-Infection-Found: Type=0; Resolution=2; Threat=Heuristics.Encrypted.Zip;",
                Some(EngineOutcome::Encrypted),
            ),
            (
                "X-Infection-Found: Type=0; Resolution=2; Threat=Heuristics.Limits.Exceeded.MaxFiles;",
                limit("Heuristics.Limits.Exceeded.MaxFiles"),
            ),
            ("X-Virus-ID: Troj/DocDl-OYC", found("Troj/DocDl-OYC")),
            ("X-Virus-ID: no threats", None),
            ("X-Virus-ID:", None),
            ("X-Violations-Found: 1\r\n\t-\r\n\tEicar\r\n\t0\r\n\t0", found("Eicar")),
            (
                "X-Violations-Found: 2\r\n a.zip\r\n Evil\r\n 7\r\n 2\r\n b\r\n Worse\r\n 7\r\n 2",
                found("Evil"),
            ),
            ("X-Violations-Found: 1", found(UNNAMED)),
            ("X-Violations-Found: 0", None),
            ("X-Something: else", None),
        ] {
            assert_eq!(said(fields), outcome, "{fields}");
        }
    }
}
