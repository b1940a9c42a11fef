//! What this project reads of BER (ITU-T X.690): the elements' headers, and what their octet strings hold.

const OCTET_STRING: u8 = 0x04;
const CONSTRUCTED: u8 = 0x20;
/// Tags of more than one byte start like this; nothing in a CMS body has one.
const LONG_TAG: u8 = 0x1f;

/// All octet strings, in order: what programs put together as the content of a CMS body. Does not recurse;
/// a damaged end is where programs stop too.
#[must_use]
pub fn octets(bytes: &[u8]) -> Vec<u8> {
    let (mut content, mut rest) = (Vec::new(), bytes);
    while let Some((tag, length, inside)) = header(rest) {
        if tag & CONSTRUCTED != 0 {
            // What is inside comes next.
            rest = inside;
            continue;
        }
        let (value, after) = inside.split_at(length.unwrap_or(0).min(inside.len()));
        if tag == OCTET_STRING {
            content.extend_from_slice(value);
        }
        rest = after;
    }
    content
}

/// Tag, length in bytes (`None` where it is indefinite), and all that follows them. `None` where there is
/// no header.
#[must_use]
pub fn header(bytes: &[u8]) -> Option<(u8, Option<usize>, &[u8])> {
    let (&tag, rest) = bytes.split_first()?;
    if tag & LONG_TAG == LONG_TAG {
        return None;
    }
    let (&first, rest) = rest.split_first()?;
    match first {
        0x80 => Some((tag, None, rest)),
        0..0x80 => Some((tag, Some(usize::from(first)), rest)),
        _ => {
            let (digits, rest) = rest.split_at_checked(usize::from(first & 0x7f))?;
            let length = digits.iter().try_fold(0_usize, |length, &digit| {
                length.checked_mul(256)?.checked_add(usize::from(digit))
            })?;
            Some((tag, Some(length), rest))
        }
    }
}
