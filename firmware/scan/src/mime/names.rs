//! The names of a part: every one that a client might give the file that it makes of it.

use super::params::{readings, trim};
use super::words::{decode_words, unescape_percent, utf8_or_latin};

/// Most names of one part. More are ambiguous.
pub(crate) const NAMES_MAX: usize = 96;
/// Longest file name that is kept, characters. Of a longer one both ends are.
pub(crate) const NAME_CHARS_MAX: usize = 255;

/// The stream of a file that is the file itself (NTFS).
const DATA_STREAM: &str = "::$DATA";

/// The fields in which names stand, each value as often as it is given.
#[derive(Debug, Default)]
pub(crate) struct Sources<'a> {
    pub(crate) dispositions: Vec<&'a [u8]>,
    pub(crate) types: Vec<&'a [u8]>,
    /// Values that are a name, or prose.
    pub(crate) descriptions: Vec<&'a [u8]>,
    /// Values that are a URL.
    pub(crate) locations: Vec<&'a [u8]>,
}

/// The names, and whether there were more than are kept.
pub(crate) fn names(sources: &Sources<'_>) -> (Vec<String>, bool) {
    let Sources { dispositions, types, descriptions, locations } = sources;
    let mut raw: Vec<Vec<u8>> = Vec::new();
    for (values, parameters) in
        [(dispositions, ["filename", "name"]), (types, ["name", "filename"])]
    {
        for parameter in parameters {
            raw.extend(values.iter().flat_map(|value| readings(value, parameter)));
        }
    }
    // Pieces of one name in several fields.
    let all = [dispositions.as_slice(), types.as_slice()].concat();
    if all.len() > 1 && all.iter().any(|value| value.contains(&b'*')) {
        for all in [all.join(&b';'), all.iter().rev().copied().collect::<Vec<_>>().join(&b';')] {
            raw.extend(readings(&all, "filename"));
            raw.extend(readings(&all, "name"));
        }
    }
    for value in descriptions {
        let mut texts = decode_words(value);
        texts.push(trim(value).to_vec());
        raw.extend(texts.into_iter().filter(|text| has_extension(text)));
    }
    for value in locations {
        raw.push(last_segment(value));
    }
    let mut out = Vec::new();
    let mut over = false;
    for name in raw {
        for variant in variants(&name) {
            if variant.is_empty() || out.contains(&variant) {
            } else if out.len() < NAMES_MAX {
                out.push(variant);
            } else {
                over = true;
            }
        }
    }
    (out, over)
}

/// A name as it is, and as a file system or a careless program makes it.
fn variants(name: &[u8]) -> Vec<String> {
    let mut out = vec![clean_name(&utf8_or_latin(name))];
    let mut add = |bytes: &[u8]| out.push(clean_name(&utf8_or_latin(bytes)));
    if let Some(at) = name.iter().position(|&c| c == 0) {
        add(name.get(..at).unwrap_or_default());
    }
    if name.contains(&b'%') {
        add(&unescape_percent(name));
    }
    for at in 0..out.len() {
        let Some(name) = out.get(at) else { continue };
        // Blanks and dots at the end are no part of a name on Windows.
        let bare = name.trim_end_matches(['.', ' ']);
        let end = bare.len().saturating_sub(DATA_STREAM.len());
        let bare = match bare.split_at_checked(end) {
            Some((bare, end)) if end.eq_ignore_ascii_case(DATA_STREAM) => bare,
            _ => bare,
        };
        if bare != name {
            out.push(bare.to_owned());
        }
    }
    out
}

/// A file name without control characters, cut to its limit.
pub(crate) fn clean_name(name: &str) -> String {
    let chars: Vec<char> = name.chars().filter(|c| !c.is_control()).collect();
    if chars.len() <= NAME_CHARS_MAX {
        return chars.into_iter().collect();
    }
    // The end says what kind of file it is.
    let half = NAME_CHARS_MAX / 2;
    let (head, tail) = (chars.iter().take(half), chars.iter().skip(chars.len() - half));
    head.chain(std::iter::once(&'\u{2026}')).chain(tail).collect()
}

/// Whether this looks like a file name: a dot, and a few letters behind it.
fn has_extension(text: &[u8]) -> bool {
    let text = trim(text);
    let Some(at) = text.iter().rposition(|&c| c == b'.') else { return false };
    let extension = text.get(at + 1..).unwrap_or_default();
    (1..=8).contains(&extension.len()) && extension.iter().all(u8::is_ascii_alphanumeric)
}

/// The file name in a URL, decoded.
fn last_segment(url: &[u8]) -> Vec<u8> {
    let url = trim(url);
    let end = url.iter().position(|c| b"?#".contains(c)).unwrap_or(url.len());
    let path = url.get(..end).unwrap_or_default();
    let name = path.rsplit(|c| b"/:".contains(c)).next().unwrap_or_default();
    let name = unescape_percent(trim(name));
    name.into_iter().filter(|c| !b"\"<>".contains(c)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(disposition: &[u8], content_type: &[u8]) -> Vec<String> {
        let sources = Sources {
            dispositions: vec![disposition],
            types: vec![content_type],
            ..Sources::default()
        };
        names(&sources).0
    }

    #[test]
    fn the_disposition_comes_first() {
        assert_eq!(of(b"attachment; filename=a.zip", b"x/y; name=b.zip")[..], ["a.zip", "b.zip"]);
        assert_eq!(of(b"attachment; name=a.zip", b"x/y; filename=b.zip")[..], ["a.zip", "b.zip"]);
    }

    #[test]
    fn pieces_may_stand_in_several_fields() {
        let zip = "file.zip".to_owned();
        assert!(of(b"a; filename*0=file.", b"x/y; filename*1=zip").contains(&zip));
        assert!(of(b"a; name*1=zip", b"x/y; name*0=file.").contains(&zip));
    }

    #[test]
    fn a_name_is_also_what_a_file_system_makes_of_it() {
        for (value, wanted) in [
            ("filename=\"file.zip. .\"", "file.zip"),
            ("filename=\"file.zip::$data\"", "file.zip"),
            ("filename=file%2Ezip", "file.zip"),
            ("filename*=''file.zip%00.png", "file.zip"),
            ("filename*=''a%00%1b%0db", "ab"),
            ("filename*=iso-8859-1''%e4.zip", "\u{e4}.zip"),
        ] {
            let names = of(value.as_bytes(), b"");
            assert!(names.iter().any(|name| name == wanted), "{value}: {names:?}");
        }
    }

    #[test]
    fn descriptions_and_locations_may_be_names() {
        let sources = Sources {
            descriptions: vec![b" a (1).zip ", b"Mail message body.", b"=?utf-8?Q?b=2Ezip?="],
            locations: vec![b"http://x/y/c%2Ezip?d#e.f", b" cid:d.zip"],
            ..Sources::default()
        };
        assert_eq!(names(&sources).0, ["a (1).zip", "b.zip", "c.zip", "d.zip"]);
    }

    #[test]
    fn a_long_name_keeps_its_end() {
        let name = clean_name(&("x".repeat(NAME_CHARS_MAX - 4) + ".zip"));
        assert_eq!(name.chars().count(), NAME_CHARS_MAX);
        let name = clean_name(&("x".repeat(NAME_CHARS_MAX) + ".zip"));
        assert_eq!(name.chars().count(), NAME_CHARS_MAX);
        assert!(name.ends_with("x.zip"));
    }

    #[test]
    fn names_have_a_limit() {
        let many: String = (0..20).map(|n| format!("; filename={n}.zip")).collect();
        let value = many.as_bytes();
        let of = |values: usize| {
            names(&Sources { dispositions: vec![value; values], ..Sources::default() })
        };
        assert!(!of(1).1);
        let values: Vec<String> = (0..10)
            .map(|field| (0..20).map(|n| format!("; filename={field}x{n}.zip")).collect())
            .collect();
        let dispositions = values.iter().map(|value| value.as_bytes()).collect();
        let (kept, over) = names(&Sources { dispositions, ..Sources::default() });
        assert!(over && kept.len() == NAMES_MAX);
    }
}
