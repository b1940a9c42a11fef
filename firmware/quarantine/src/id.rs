//! Names of items: short enough to be typed, in the order of time.

use std::fmt;
use std::str::FromStr;

use serde::{Serialize, Serializer};

/// Letters of an [`Id`].
pub const ID_LETTERS: usize = 10;

/// Bits of an [`Id`] that are random; those above are the time.
const RANDOM_BITS: u32 = 18;

/// Bits of one letter.
const LETTER_BITS: u32 = 5;

/// Crockford's base 32: none of its letters is taken for another, and they stand in the order of
/// their values, so that names sort as their times do.
const LETTERS: &[u8; 32] = b"0123456789abcdefghjkmnpqrstvwxyz";

/// Name of an item: [`ID_LETTERS`] letters, of which the first ones are the second in which it was
/// stored and the rest are random. Read in either case, and with `o`, `i`, `l` for `0` and `1`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Id(u64);

/// Not the name of an item.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("an item's name has {ID_LETTERS} letters and digits, as in `quarantine list`")]
pub struct ParseIdError;

impl Id {
    /// For an item stored at this second since 1970; 32 bits of it are kept, until the year 2106.
    pub(crate) fn new(stored_at: u64, random: u32) -> Self {
        let seconds = stored_at.min(u64::from(u32::MAX));
        let random = u64::from(random) & ((1 << RANDOM_BITS) - 1);
        Self(seconds << RANDOM_BITS | random)
    }

    /// When it was stored, in seconds since 1970 by the clock of then.
    #[must_use]
    pub fn stored_at(self) -> u64 {
        self.0 >> RANDOM_BITS
    }

    pub(crate) fn to_bytes(self) -> [u8; 8] {
        self.0.to_be_bytes()
    }
}

impl fmt::Display for Id {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for place in (0..ID_LETTERS).rev() {
            let bits = self.0 >> (place * LETTER_BITS as usize);
            // Five bits are always within the 32 letters.
            let letter = LETTERS[usize::try_from(bits & 31).unwrap_or_default()];
            write!(f, "{}", char::from(letter))?;
        }
        Ok(())
    }
}

impl fmt::Debug for Id {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for Id {
    type Err = ParseIdError;

    fn from_str(text: &str) -> Result<Self, ParseIdError> {
        if text.len() != ID_LETTERS {
            return Err(ParseIdError);
        }
        let bits = text.bytes().try_fold(0, |bits, byte| {
            let letter = match byte.to_ascii_lowercase() {
                b'o' => b'0',
                b'i' | b'l' => b'1',
                other => other,
            };
            let value = LETTERS.iter().position(|&known| known == letter)?;
            Some(bits << LETTER_BITS | u64::try_from(value).ok()?)
        });
        bits.map(Self).ok_or(ParseIdError)
    }
}

impl Serialize for Id {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn names_are_read_as_people_type_them() {
        let id = Id::new(1_790_000_000, 0x2_1f3c);
        assert_eq!(id.to_string(), "darkq047sw");
        for typed in ["darkq047sw", "DARKQ047SW", "darkqo47sw", "DarkQO47sW"] {
            assert_eq!(typed.parse(), Ok(id), "{typed}");
        }
        assert_eq!("l0Ioi0Lo01".parse::<Id>(), "1010101001".parse());
        for none in ["", "darkq047s", "darkq047sww", "darkq047su", "../kq047sw", "darkq047\u{e9}"] {
            assert_eq!(none.parse::<Id>(), Err(ParseIdError), "{none}");
        }
    }

    proptest! {
        #[test]
        fn names_come_back_and_sort_by_time(a: u32, b: u32, random: [u32; 2]) {
            let (first, second) = (Id::new(a.into(), random[0]), Id::new(b.into(), random[1]));
            prop_assert_eq!(first.to_string().parse(), Ok(first));
            prop_assert_eq!(first.stored_at(), u64::from(a));
            if a != b {
                prop_assert_eq!(a < b, first.to_string() < second.to_string());
            }
            prop_assert_eq!(first < second, first.to_string() < second.to_string());
        }
    }

    #[test]
    fn a_clock_beyond_2106_still_gives_names() {
        assert_eq!(Id::new(u64::MAX, u32::MAX).to_string(), "zzzzzzzzzz");
    }
}
