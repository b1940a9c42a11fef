//! TSIG keys, in each of the forms in which DNS servers hand them out.
//!
//! - BIND's `tsig-keygen`: `key "NAME" { algorithm hmac-sha256; secret "…"; };`
//! - Knot's `keymgr -t`: the YAML of its settings, `key:`, `- id:`, `algorithm:`, `secret:`
//! - one line `hmac-sha256:NAME:SECRET`, as `kdig -y` and `nsupdate -y` take it
//!
//! No error and no `Debug` shows anything of a secret; so errors name lines, not what is in them.

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hickory_proto::rr::Name;
use hickory_proto::rr::TSigner;
use hickory_proto::rr::rdata::tsig::TsigAlgorithm;

/// Largest key file that is read, in bytes; a key has some hundred.
pub const KEY_FILE_BYTES_MAX: u64 = 64 * 1024;
/// Most keys in one file.
pub const KEYS_MAX: usize = 64;
/// Shortest secret taken, in bytes: what RFC 8945 section 8 asks for beside the hash's own length.
pub const SECRET_BYTES_MIN: usize = 16;
/// Longest secret taken, in bytes: twice the longest block of the hashes; more is hashed anyhow.
pub const SECRET_BYTES_MAX: usize = 256;
/// How far the clocks of both ends may differ, in seconds (RFC 8945 section 10 advises 300).
pub const FUDGE_S: u16 = 300;

/// A key to sign updates with.
#[derive(Clone)]
pub struct Key {
    name: Name,
    algorithm: TsigAlgorithm,
    secret: Vec<u8>,
}

/// Why a key file cannot be used. Displays as `line N: what is wrong; what to write instead`.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("line {line}: {problem}; {remedy}")]
pub struct KeyError {
    /// Counted from 1.
    pub line: usize,
    /// What is wrong.
    pub problem: String,
    /// What to write instead.
    pub remedy: &'static str,
}

impl Key {
    /// The key in the text of a key file; the one of that name where it holds several.
    ///
    /// # Errors
    /// The first thing that is wrong, with its line.
    pub fn parse(text: &str, name: Option<&str>) -> Result<Self, KeyError> {
        let drafts = drafts(text)?;
        let wanted = match name {
            Some(name) => Some(parse_name(name, 1)?),
            None => None,
        };
        let mut found = Vec::new();
        for draft in drafts {
            let line = draft.line;
            let key = draft.finish()?;
            if wanted.as_ref().is_none_or(|wanted| *wanted == key.name) {
                found.push((line, key));
            }
        }
        match (found.len(), found.pop()) {
            (1, Some((_, key))) => Ok(key),
            (0, _) | (_, None) => Err(KeyError {
                line: 1,
                problem: match name {
                    Some(_) => "no key of that name is in the file".to_owned(),
                    None => "no key is in the file".to_owned(),
                },
                remedy: FORMS,
            }),
            (count, Some((line, _))) => Err(KeyError {
                line,
                problem: format!("the file holds {count} keys"),
                remedy: "say which one with --key-name",
            }),
        }
    }

    /// Its name, which the DNS server knows it by.
    #[must_use]
    pub fn name(&self) -> &Name {
        &self.name
    }

    /// As in `hmac-sha256`.
    #[must_use]
    pub fn algorithm(&self) -> &TsigAlgorithm {
        &self.algorithm
    }

    /// What signs with it.
    pub(crate) fn signer(&self) -> TSigner {
        let made =
            TSigner::new(self.secret.clone(), self.algorithm.clone(), self.name.clone(), FUDGE_S);
        match made {
            Ok(signer) => signer,
            Err(_) => unreachable!("only algorithms that are supported are parsed"),
        }
    }

    /// One line, as `kdig -y` takes it. Holds the secret.
    #[cfg(test)]
    fn to_line(&self) -> String {
        let secret = STANDARD.encode(&self.secret);
        format!("{}:{}:{secret}", self.algorithm, self.name)
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { name, algorithm, secret: _ } = self;
        f.debug_struct("Key")
            .field("name", name)
            .field("algorithm", algorithm)
            .finish_non_exhaustive()
    }
}

const FORMS: &str = "write what `tsig-keygen NAME` or `keymgr -t NAME` prints, or one line \
                     hmac-sha256:NAME:SECRET";
const ALGORITHMS: &str = "write hmac-sha256, hmac-sha384 or hmac-sha512, with a key made for it";

/// A key as far as it has been read; a part is its line and text.
#[derive(Debug, Default)]
struct Draft<'a> {
    line: usize,
    name: Option<(usize, &'a str)>,
    algorithm: Option<(usize, &'a str)>,
    secret: Option<(usize, &'a str)>,
}

impl Draft<'_> {
    fn finish(self) -> Result<Key, KeyError> {
        let missing = |what: &str| KeyError {
            line: self.line,
            problem: format!("the key has no {what}"),
            remedy: FORMS,
        };
        let (line, name) = self.name.ok_or_else(|| missing("name"))?;
        let name = parse_name(name, line)?;
        let (line, algorithm) = self.algorithm.ok_or_else(|| missing("algorithm"))?;
        let algorithm = parse_algorithm(algorithm, line)?;
        let (line, secret) = self.secret.ok_or_else(|| missing("secret"))?;
        let secret = parse_secret(secret, line)?;
        Ok(Key { name, algorithm, secret })
    }
}

fn parse_name(text: &str, line: usize) -> Result<Name, KeyError> {
    let wrong = || KeyError {
        line,
        problem: "the key's name is no domain name".to_owned(),
        remedy: "write letters, digits, hyphens and dots, as in avr-update",
    };
    let mut name = Name::from_ascii(text).map_err(|_| wrong())?;
    if name.is_root() {
        return Err(wrong());
    }
    name.set_fqdn(true);
    Ok(name.to_lowercase())
}

fn parse_algorithm(text: &str, line: usize) -> Result<TsigAlgorithm, KeyError> {
    let wrong = |problem: &str| KeyError { line, problem: problem.to_owned(), remedy: ALGORITHMS };
    match text.trim_end_matches('.').to_ascii_lowercase().as_str() {
        "hmac-sha256" => Ok(TsigAlgorithm::HmacSha256),
        "hmac-sha384" => Ok(TsigAlgorithm::HmacSha384),
        "hmac-sha512" => Ok(TsigAlgorithm::HmacSha512),
        "hmac-md5" | "hmac-md5.sig-alg.reg.int" | "hmac-sha1" | "hmac-sha224" => {
            Err(wrong("the key's algorithm is too weak to be used"))
        }
        _ => Err(wrong("the key's algorithm is not known here")),
    }
}

fn parse_secret(text: &str, line: usize) -> Result<Vec<u8>, KeyError> {
    let wrong = |problem: String| KeyError {
        line,
        problem,
        remedy: "copy the whole secret as the DNS server's tool printed it",
    };
    let secret =
        STANDARD.decode(text).map_err(|_| wrong("the secret is no base64 text".to_owned()))?;
    match secret.len() {
        SECRET_BYTES_MIN..=SECRET_BYTES_MAX => Ok(secret),
        0..SECRET_BYTES_MIN => {
            Err(wrong(format!("the secret is shorter than {SECRET_BYTES_MIN} bytes")))
        }
        _ => Err(wrong(format!("the secret is longer than {SECRET_BYTES_MAX} bytes"))),
    }
}

/// The keys of a file, none of them looked at.
fn drafts(text: &str) -> Result<Vec<Draft<'_>>, KeyError> {
    let first = text.lines().map(str::trim).find(|line| !is_blank(line)).unwrap_or_default();
    if first.trim_end() == "key:" {
        return knot_drafts(text);
    }
    if first.split_ascii_whitespace().count() == 1 && first.contains(':') {
        return line_drafts(text);
    }
    bind_drafts(text)
}

/// Nothing but a comment, as both Knot and BIND write it.
fn is_blank(line: &str) -> bool {
    line.is_empty() || line.starts_with('#') || line.starts_with("//")
}

fn push<'a>(drafts: &mut Vec<Draft<'a>>, draft: Draft<'a>) -> Result<(), KeyError> {
    if drafts.len() == KEYS_MAX {
        let problem = format!("the file holds more than {KEYS_MAX} keys");
        return Err(KeyError { line: draft.line, problem, remedy: "write only those needed" });
    }
    drafts.push(draft);
    Ok(())
}

/// `hmac-sha256:NAME:SECRET` or `NAME:SECRET`, a key a line.
fn line_drafts(text: &str) -> Result<Vec<Draft<'_>>, KeyError> {
    let mut drafts = Vec::new();
    for (line, written) in numbered(text).filter(|(_, written)| !is_blank(written)) {
        let parts: Vec<&str> = written.split(':').collect();
        let part = |text| Some((line, text));
        let (algorithm, name, secret) = match *parts {
            // The default of all tools that take this form.
            [name, secret] => ("hmac-sha256", name, secret),
            [algorithm, name, secret] => (algorithm, name, secret),
            _ => {
                let problem = "not in the form of a key".to_owned();
                return Err(KeyError { line, problem, remedy: FORMS });
            }
        };
        let draft =
            Draft { line, name: part(name), algorithm: part(algorithm), secret: part(secret) };
        push(&mut drafts, draft)?;
    }
    Ok(drafts)
}

/// The part of YAML that Knot's settings of keys have.
fn knot_drafts(text: &str) -> Result<Vec<Draft<'_>>, KeyError> {
    let mut drafts: Vec<Draft<'_>> = Vec::new();
    let lines = numbered(text).filter(|(_, written)| !is_blank(written));
    for (line, written) in lines.skip(1) {
        let wrong = |problem: &str| KeyError { line, problem: problem.to_owned(), remedy: FORMS };
        let (entry, begins) = match written.strip_prefix("- ") {
            Some(entry) => (entry.trim_start(), true),
            None => (written, false),
        };
        let (item, value) = entry.split_once(':').ok_or_else(|| wrong("not `item: value`"))?;
        if begins {
            push(&mut drafts, Draft { line, ..Draft::default() })?;
        }
        let draft = drafts.last_mut().ok_or_else(|| wrong("not below a `- id:`"))?;
        let value = Some((line, unquoted(value)));
        let place = match item.trim() {
            "id" => &mut draft.name,
            "algorithm" => &mut draft.algorithm,
            "secret" => &mut draft.secret,
            "comment" => continue,
            _ => return Err(wrong("an item that no key has")),
        };
        if place.is_some() {
            return Err(wrong("written twice for one key"));
        }
        *place = value;
    }
    Ok(drafts)
}

/// A YAML scalar without its quotes and the comment behind it.
fn unquoted(value: &str) -> &str {
    let value = value.split(" #").next().unwrap_or_default().trim();
    let inner = |quote| value.strip_prefix(quote).and_then(|rest| rest.strip_suffix(quote));
    inner('"').or_else(|| inner('\'')).unwrap_or(value)
}

fn numbered(text: &str) -> impl Iterator<Item = (usize, &str)> {
    text.lines().enumerate().map(|(index, line)| (index + 1, line.trim()))
}

/// `key NAME { algorithm A; secret S; };`, any number of them.
fn bind_drafts(text: &str) -> Result<Vec<Draft<'_>>, KeyError> {
    let tokens = tokens(text)?;
    let mut drafts = Vec::new();
    let mut rest = tokens.as_slice();
    while let Some((&(line, first), behind)) = rest.split_first() {
        let wrong =
            |line, problem: &str| KeyError { line, problem: problem.to_owned(), remedy: FORMS };
        let [(name_line, Token::Word(name)), (_, Token::Sign('{')), inside @ ..] = behind else {
            return Err(wrong(line, "not `key NAME {`"));
        };
        if first != Token::Word("key") {
            return Err(wrong(line, "not `key NAME {`"));
        }
        let mut draft = Draft { line, name: Some((*name_line, name)), ..Draft::default() };
        rest = inside;
        loop {
            match rest {
                [(_, Token::Sign('}')), (_, Token::Sign(';')), after @ ..] => {
                    rest = after;
                    break;
                }
                [
                    (at, Token::Word(item)),
                    (_, Token::Word(value)),
                    (_, Token::Sign(';')),
                    after @ ..,
                ] => {
                    let place = match *item {
                        "algorithm" => &mut draft.algorithm,
                        "secret" => &mut draft.secret,
                        _ => return Err(wrong(*at, "an item that no key has")),
                    };
                    if place.is_some() {
                        return Err(wrong(*at, "written twice for one key"));
                    }
                    *place = Some((*at, *value));
                    rest = after;
                }
                [(at, _), ..] => return Err(wrong(*at, "not `ITEM VALUE;` nor `};`")),
                [] => return Err(wrong(line, "the key is not closed by `};`")),
            }
        }
        push(&mut drafts, draft)?;
    }
    Ok(drafts)
}

/// A word, quoted or not, or one of `{`, `}`, `;`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Token<'a> {
    Word(&'a str),
    Sign(char),
}

fn tokens(text: &str) -> Result<Vec<(usize, Token<'_>)>, KeyError> {
    let mut tokens = Vec::new();
    let mut rest = text;
    let mut line = 1;
    while let Some(first) = rest.chars().next() {
        let unclosed =
            |what: &str| KeyError { line, problem: format!("a {what} has no end"), remedy: FORMS };
        let length = if first == '#' || rest.starts_with("//") {
            rest.find('\n').unwrap_or(rest.len())
        } else if let Some(comment) = rest.strip_prefix("/*") {
            2 + comment.find("*/").ok_or_else(|| unclosed("comment"))? + 2
        } else if let Some(quoted) = rest.strip_prefix('"') {
            let inner = quoted.find(['"', '\n']).ok_or_else(|| unclosed("quote"))?;
            let (word, behind) = quoted.split_at(inner);
            if !behind.starts_with('"') {
                return Err(unclosed("quote"));
            }
            tokens.push((line, Token::Word(word)));
            inner + 2
        } else if matches!(first, '{' | '}' | ';') {
            tokens.push((line, Token::Sign(first)));
            1
        } else if first.is_whitespace() {
            first.len_utf8()
        } else {
            let ends = |c: char| c.is_whitespace() || matches!(c, '{' | '}' | ';' | '"' | '#');
            let length = rest.find(ends).unwrap_or(rest.len());
            tokens.push((line, Token::Word(rest.get(..length).unwrap_or_default())));
            length
        };
        let (taken, behind) = rest.split_at_checked(length).unwrap_or((rest, ""));
        line += taken.matches('\n').count();
        rest = behind;
    }
    Ok(tokens)
}

#[cfg(test)]
mod tests;
