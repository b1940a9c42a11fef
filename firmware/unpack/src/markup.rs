//! Web pages, pictures and documents in markup (HTML, SVG, XML, in UTF-16 as well): the files in
//! their `data:` addresses (RFC 2397), and in elements that hold nothing but base64, as `w:binData`
//! of Word 2003 and `pkg:binaryData` of Office's documents in one file do.
//!
//! Browsers write out entities and drop the ends of lines before they look at an address, so that
//! is done here. What a script puts together when it runs is not seen.

use crate::base64;
use crate::bytes::{self, add_name, find_word, narrow, starts_with_word};
use crate::work::Work;
use memchr::{memchr_iter, memmem};
use std::borrow::Cow;
use std::collections::HashSet;
use std::hash::{BuildHasher, RandomState};

/// Bytes of an address before its comma: media type, parameters.
const HEAD_BYTES_MAX: usize = 512;
/// Bytes before an address in which the quotation mark round it may stand.
const QUOTE_BYTES_MAX: usize = 64;
/// Bytes before and behind an address in which the rest of its tag is looked at.
const TAG_BYTES_MAX: usize = 1024;
/// How often entities are written out: a page in an attribute of another has each of its own twice.
const ROUNDS_MAX: usize = 3;
/// Letters of the shortest word that is taken for base64 in any element.
const WORD_LETTERS_MIN: usize = 40;
/// Elements whose text is base64, however it is broken into words.
const ELEMENTS: [&[u8]; 9] = [
    b"bindata",
    b"binarydata",
    b"binary",
    b"base64binary",
    b"data",
    b"chunk",
    b"image",
    b"content",
    b"attachment",
];
/// Whether there may be addresses or elements to look at.
pub(crate) fn is_markup(bytes: &[u8]) -> bool {
    const BEGINNING_BYTES: usize = 4096;
    let beginning = narrow(bytes.get(..BEGINNING_BYTES).unwrap_or(bytes));
    beginning.trim_ascii_start().starts_with(b"<")
        || bytes.starts_with(b"\xff\xfe")
        || bytes.starts_with(b"\xfe\xff")
        || has_address(bytes)
}

/// Whether there may be an address here: its scheme, or an entity for a character of that.
pub(crate) fn has_address(bytes: &[u8]) -> bool {
    memchr_iter(b':', bytes).any(|colon| is_scheme(bytes.get(..colon).unwrap_or_default()))
        || memchr_iter(b'&', bytes).any(|at| is_disguise(bytes, at))
}

/// Whether at this ampersand stands a character of "data:", or what browsers drop within that. Random
/// bytes hold shorter signs every few megabytes.
fn is_disguise(bytes: &[u8], at: usize) -> bool {
    /// Zeros that a number may begin with and be read at the edge of a window.
    const ZEROS: &[u8] = b"#00000000";
    let tail = bytes.get(at + 1..).unwrap_or_default();
    match entity(tail) {
        Some((Some(b'\r' | b'\n' | b'\t'), rest)) => {
            let before = at.checked_sub(1).and_then(|before| bytes.get(before));
            before.is_some_and(|byte| b"dDaAtT;\r\n\t".contains(byte))
                && rest.first().is_some_and(|byte| b"aAtT:&\r\n\t".contains(byte))
        }
        Some((Some(char), _)) if b"dDaAtT:".contains(&char) => true,
        _ => tail.starts_with(ZEROS) || tail.starts_with(b"#x00000000"),
    }
}

/// Whether a text ends in "data", with ends of lines in it or not.
fn is_scheme(before: &[u8]) -> bool {
    /// Ends of lines in four letters that are passed over.
    const BYTES_MAX: usize = 64;
    let near = before.get(before.len().saturating_sub(BYTES_MAX)..).unwrap_or_default();
    let mut letters = near.iter().rev().filter(|byte| !b"\r\n\t".contains(byte));
    b"data"
        .iter()
        .rev()
        .all(|own| letters.next().is_some_and(|byte| byte.eq_ignore_ascii_case(own)))
}

pub(crate) fn unpack(bytes: &[u8], work: &mut Work<'_>) {
    let narrow = narrow(bytes);
    let mut seen = Seen::default();
    if narrow.trim_ascii_start().starts_with(b"<") {
        elements(&narrow, work);
    }
    addresses(&narrow, &mut seen, work);
    let mut current = written_out(&narrow);
    for _ in 0..ROUNDS_MAX {
        if work.is_over() || current == *narrow {
            return;
        }
        addresses(&current, &mut seen, work);
        let next = written_out(&current);
        if next == current {
            return;
        }
        current = next;
    }
    // Nobody writes a page so.
    work.damaged("entities in entities");
}

/// What was handed out: most addresses are the same with and without disguise. The hash is keyed,
/// so that no content can be made to look like another.
#[derive(Default)]
struct Seen {
    keys: RandomState,
    hashes: HashSet<u64>,
}

impl Seen {
    fn is_new(&mut self, content: &[u8]) -> bool {
        self.hashes.insert(self.keys.hash_one(content))
    }
}

/// With entities as the characters that they stand for, and without the ends of lines.
fn written_out(text: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some((byte, tail)) = rest.split_first() {
        rest = tail;
        match byte {
            b'\r' | b'\n' | b'\t' => {}
            b'&' => match entity(tail) {
                Some((char, tail)) => {
                    rest = tail;
                    out.extend(char.filter(|char| !b"\r\n\t".contains(char)));
                }
                None => out.push(*byte),
            },
            _ => out.push(*byte),
        }
    }
    out
}

/// The character of an entity, given without its ampersand, as far as addresses need it; and what
/// follows.
fn entity(bytes: &[u8]) -> Option<(Option<u8>, &[u8])> {
    const NAMES: [(&[u8], u8); 15] = [
        (b"lt", b'<'),
        (b"gt", b'>'),
        (b"amp", b'&'),
        (b"quot", b'"'),
        (b"apos", b'\''),
        (b"colon", b':'),
        (b"semi", b';'),
        (b"comma", b','),
        (b"sol", b'/'),
        (b"plus", b'+'),
        (b"equals", b'='),
        (b"period", b'.'),
        (b"num", b'#'),
        (b"Tab", b'\t'),
        (b"NewLine", b'\n'),
    ];
    if let Some(number) = bytes.strip_prefix(b"#") {
        let (digits, radix) = match number {
            [b'x' | b'X', digits @ ..] => (digits, 16),
            _ => (number, 10),
        };
        let count = digits.iter().take_while(|byte| char::from(**byte).is_digit(radix)).count();
        let (digits, rest) = digits.split_at(count);
        let value = u32::from_str_radix(str::from_utf8(digits).ok()?, radix);
        let char = value.ok().map(|value| u8::try_from(value).unwrap_or(b'?'));
        // A number without digits is none.
        return (count > 0).then_some((char, rest.strip_prefix(b";").unwrap_or(rest)));
    }
    NAMES.iter().find_map(|(name, char)| {
        let rest = bytes.strip_prefix(*name)?;
        // Browsers do without the semicolon for the oldest names.
        let rest = match rest.strip_prefix(b";") {
            Some(rest) => rest,
            None if *char == b'"' || b"<>&".contains(char) => rest,
            None => return None,
        };
        Some((Some(*char), rest))
    })
}

/// Hands out what stands in the `data:` addresses of a text. One address ends before the next
/// begins; what looks like an address in the content of another is left to whoever looks at that.
fn addresses(text: &[u8], seen: &mut Seen, work: &mut Work<'_>) {
    const SCHEME: &[u8] = b"data";
    let mut done = 0;
    for colon in memchr_iter(b':', text) {
        let Some(at) = colon.checked_sub(SCHEME.len()).filter(|at| *at >= done) else { continue };
        if !starts_with_word(text.get(at..).unwrap_or_default(), SCHEME) {
            continue;
        }
        let Some(address) = Address::read(text, at) else { continue };
        done = address.end;
        if !address.content.is_empty() && seen.is_new(&address.content) {
            work.slice(address.names, &address.content, false);
        }
        if work.is_over() {
            return;
        }
    }
}

struct Address {
    names: Vec<String>,
    content: Vec<u8>,
    /// Where it ends in the text.
    end: usize,
}

impl Address {
    /// Reads the address that begins here, if it is one.
    fn read(text: &[u8], at: usize) -> Option<Self> {
        let head_at = at + b"data:".len();
        let head = text.get(head_at..)?;
        let head = head.get(..HEAD_BYTES_MAX).unwrap_or(head);
        let comma = head.iter().position(|byte| b",<>\n".contains(byte))?;
        let kind = head.get(..comma).filter(|_| head.get(comma) == Some(&b','))?;
        let before = text.get(..at).unwrap_or_default();
        let is_base64 = find_word(kind, b"base64").is_some();
        // A word of a script: `{data:a,b:c}`.
        if !is_base64 && !kind.contains(&b'/') && !is_address(before) {
            return None;
        }
        let content_at = head_at + comma + 1;
        let content = text.get(content_at..)?;
        let length = if is_base64 { base64_length(content) } else { length(before, content) };
        let content = unescaped(content.get(..length).unwrap_or_default());
        let content =
            if is_base64 { base64::decode(content.iter().copied()) } else { content.into() };
        let end = content_at + length;
        let mut names = Vec::new();
        download_name(text, at, end).into_iter().for_each(|name| add_name(&mut names, name));
        Some(Self { names, content, end })
    }
}

/// Whether what stands before it makes it the value of something.
fn is_address(before: &[u8]) -> bool {
    before.trim_ascii_end().last().is_none_or(|byte| b"\"'=(`".contains(byte))
}

/// How far base64 goes, its letters escaped or not: to its padding, behind which nothing is read.
fn base64_length(content: &[u8]) -> usize {
    let is_letter =
        |byte: &u8| base64::value(*byte).is_some() || byte.is_ascii_whitespace() || *byte == b'%';
    let letters = content.iter().take_while(|byte| is_letter(byte)).count();
    let behind = content.get(letters..).unwrap_or_default();
    letters + behind.iter().take_while(|byte| **byte == b'=').count()
}

/// How far an address goes that is written as it is: to the quotation mark that stands before it,
/// or to the next blank or bracket.
fn length(before: &[u8], content: &[u8]) -> usize {
    let from = before.len().saturating_sub(QUOTE_BYTES_MAX);
    let near = before.get(from..).unwrap_or_default();
    let quote =
        near.iter().rev().take_while(|byte| **byte != b'>').find(|byte| b"\"'`".contains(byte));
    let is_end = |byte: &u8| match quote {
        Some(quote) => byte == quote,
        None => byte.is_ascii_whitespace() || *byte == b'>',
    };
    content.iter().position(is_end).unwrap_or(content.len())
}

/// With `%` and two digits as the byte that they stand for.
fn unescaped(content: &[u8]) -> Cow<'_, [u8]> {
    if memchr::memchr(b'%', content).is_none() {
        return content.into();
    }
    let mut out = Vec::with_capacity(content.len());
    let mut rest = content;
    while let Some((byte, tail)) = rest.split_first() {
        rest = tail;
        let digits = tail.get(..2).filter(|_| *byte == b'%');
        let value = digits.and_then(|digits| {
            u8::from_str_radix(
                str::from_utf8(digits).ok().filter(|digits| !digits.starts_with('+'))?,
                16,
            )
            .ok()
        });
        match value {
            Some(value) => {
                out.push(value);
                rest = tail.get(2..).unwrap_or_default();
            }
            None => out.push(*byte),
        }
    }
    out.into()
}

/// The name under which a link's file is saved: `download="name"` in the same tag.
fn download_name(text: &[u8], at: usize, end: usize) -> Option<String> {
    let before = text.get(at.saturating_sub(TAG_BYTES_MAX)..at)?;
    let open = memchr::memrchr(b'<', before)?;
    let behind = text.get(end..)?;
    let behind = behind.get(..TAG_BYTES_MAX).unwrap_or(behind);
    let close = memchr::memchr(b'>', behind).unwrap_or(behind.len());
    [before.get(open..)?, behind.get(..close)?]
        .into_iter()
        .find_map(|tag| attribute(tag, b"download"))
}

/// The value of an attribute.
fn attribute(tag: &[u8], name: &[u8]) -> Option<String> {
    let behind = tag.get(find_word(tag, name)? + name.len()..)?.trim_ascii_start();
    let value = behind.strip_prefix(b"=")?.trim_ascii_start();
    let (quote, rest) = value.split_first()?;
    let value = if b"\"'".contains(quote) {
        rest.split(|byte| byte == quote).next()?
    } else {
        value.split(|byte| byte.is_ascii_whitespace() || *byte == b'>').next()?
    };
    Some(bytes::text(value))
}

/// Hands out what elements hold in base64, under the name that their tag has, or the one round it.
fn elements(text: &[u8], work: &mut Work<'_>) {
    let mut done = 0;
    let mut name = None;
    for open in memchr_iter(b'<', text) {
        let Some(rest) = text.get(open + 1..).filter(|_| open >= done) else { continue };
        if rest.first().is_none_or(|byte| !byte.is_ascii_alphabetic()) {
            continue;
        }
        let Some(close) = memchr::memchr(b'>', rest) else { return };
        let (tag, content) = rest.split_at(close);
        // No bracket stands in a tag: an earlier one opens none.
        let tag = tag.rsplit(|byte| *byte == b'<').next().unwrap_or_default();
        name = attribute(tag.get(..TAG_BYTES_MAX).unwrap_or(tag), b"name").or(name);
        let content = content.get(1..).unwrap_or_default();
        let (letters, length) = letters(content, is_named(tag));
        done = open + 1 + close + 1 + length;
        if letters.is_empty() {
            continue;
        }
        let names = name.take().into_iter().collect();
        work.slice(names, &base64::decode(letters), false);
        if work.is_over() {
            return;
        }
    }
}

/// Whether it is one of [`ELEMENTS`], whatever its prefix.
fn is_named(tag: &[u8]) -> bool {
    let end = tag.iter().position(|byte| byte.is_ascii_whitespace() || *byte == b'/');
    let name = tag.get(..end.unwrap_or(tag.len())).unwrap_or_default();
    let own = name.rsplit(|byte| *byte == b':').next().unwrap_or_default();
    ELEMENTS.iter().any(|element| own.eq_ignore_ascii_case(element))
}

/// The base64 that an element's text is, empty where it is anything else; and how far was looked,
/// with what XML drops.
fn letters(content: &[u8], is_named: bool) -> (Vec<u8>, usize) {
    const DROPPED: [(&[u8], &[u8]); 4] =
        [(b"<!--", b"-->"), (b"<![CDATA[", b""), (b"]]>", b""), (b"<?", b"?>")];
    let mut letters = Vec::new();
    let mut rest = content;
    let (mut word, mut longest) = (0, 0);
    while let Some((byte, tail)) = rest.split_first() {
        if base64::value(*byte).is_some() || *byte == b'=' {
            letters.push(*byte);
            word += 1;
            longest = longest.max(word);
            rest = tail;
        } else if byte.is_ascii_whitespace() {
            word = 0;
            rest = tail;
        } else if let Some((char, tail)) = entity(tail).filter(|_| *byte == b'&') {
            letters.extend(char);
            rest = tail;
        } else if let Some((begin, end)) = DROPPED.iter().find(|(begin, _)| rest.starts_with(begin))
        {
            let inside = rest.get(begin.len()..).unwrap_or_default();
            let at = memmem::find(inside, end).unwrap_or(inside.len());
            rest = inside.get(at.saturating_add(end.len())..).unwrap_or_default();
        } else if *byte == b'<' {
            break;
        } else {
            letters.clear();
            break;
        }
    }
    if !is_named && longest < WORD_LETTERS_MIN {
        letters.clear();
    }
    (letters, content.len() - rest.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(text: &str) -> Vec<(Vec<u8>, Vec<String>)> {
        let (text, mut at, mut all) = (text.as_bytes(), 0, Vec::new());
        while let Some(colon) = memchr::memchr(b':', &text[at..]).map(|colon| at + colon) {
            at = colon + 1;
            if let Some(address) = colon.checked_sub(4).and_then(|from| Address::read(text, from)) {
                all.push((address.content, address.names));
                at = at.max(address.end);
            }
        }
        all
    }

    #[test]
    fn addresses_are_read_as_browsers_do() {
        let one = |text: &str| found(text).remove(0).0;
        assert_eq!(one("<a href=\"data:text/html;base64,aGVsbG8=\">"), b"hello");
        assert_eq!(one("<a href='data:;base64,aGVs bG8%3D'>"), b"hello");
        assert_eq!(one("<a href=data:,he%6c%6Co%zz>"), b"hello%zz");
        assert_eq!(one("<a href=\"data:text/html,<b>'x' y</b>\">"), b"<b>'x' y</b>");
        assert_eq!(one("url(data:image/png;base64,aGVsbG8=)"), b"hello");
        let named =
            "<a download=\"x.exe\" href=\"data:a/b,x\"> <a href='data:a/b,y' DOWNLOAD=z.js>";
        let names: Vec<_> = found(named).into_iter().flat_map(|found| found.1).collect();
        assert_eq!(names, ["x.exe", "z.js"]);
    }

    #[test]
    fn words_of_scripts_are_no_addresses() {
        assert_eq!(found("f({data:a,b:c})").len() + found("data:<a,").len(), 0);
        assert_eq!(found("the data: see, there").len(), 0);
    }

    #[test]
    fn entities_are_written_out() {
        assert_eq!(written_out(b"&#100;a&#x74&#X61;&colon;,&lt;&ltb&amp;amp;"), b"data:,<<b&amp;");
        assert_eq!(written_out(b"d\na\tt&Tab;a&NewLine;&#10;: &x; &#; &"), b"data: &x; &#; &");
        assert_eq!(written_out("&#x3042;&#99999999999999;".as_bytes()), b"?");
    }

    #[test]
    fn elements_are_base64_or_something_else() {
        let of = |text: &str, is_named| letters(text.as_bytes(), is_named);
        assert_eq!(of("aGVs\n bG8=</x>", true), (b"aGVsbG8=".to_vec(), 10));
        assert_eq!(of("aGVs<!-- - --><![CDATA[bG]]>8&#61;</x>", true).0, b"aGVsbG8=");
        assert_eq!(of("aGVs bG8=</x>", false).0, b"");
        assert_eq!(of(&"A".repeat(WORD_LETTERS_MIN), false).0.len(), WORD_LETTERS_MIN);
        assert_eq!(of("Hello, you</x>", true).0, b"");
        assert!(is_named(b"w:binData w:name=\"x\"") && is_named(b"DATA") && !is_named(b"datax"));
    }
}
