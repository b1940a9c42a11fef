//! Deserialising vectors and strings without believing their length prefix.
//!
//! serde reserves up to 1 MiB for a length that the peer merely claims. Here room is made for
//! [`PREALLOCATED_MAX`] elements and grows only as elements really arrive; the frame's body limit
//! bounds those, and [`crate::frame`] then checks each field's own limit by name.

use std::fmt;
use std::marker::PhantomData;

use serde::de::{Deserialize, Deserializer, Error, SeqAccess, Visitor};

/// Elements that room is made for before any was seen.
const PREALLOCATED_MAX: usize = 16;

pub(crate) fn vec<'de, D, T>(deserializer: D) -> Result<Vec<T>, D::Error>
where
    D: Deserializer<'de>,
    T: Deserialize<'de>,
{
    struct Elements<T>(PhantomData<T>);

    impl<'de, T: Deserialize<'de>> Visitor<'de> for Elements<T> {
        type Value = Vec<T>;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("a sequence")
        }

        fn visit_seq<A: SeqAccess<'de>>(self, mut sequence: A) -> Result<Vec<T>, A::Error> {
            let claimed = sequence.size_hint().unwrap_or(0);
            let mut elements = Vec::with_capacity(claimed.min(PREALLOCATED_MAX));
            while let Some(element) = sequence.next_element()? {
                elements.push(element);
            }
            Ok(elements)
        }
    }

    deserializer.deserialize_seq(Elements(PhantomData))
}

/// A string of printable ASCII (0x20 to 0x7e), so that it can go to any log.
pub(crate) fn string<'de, D: Deserializer<'de>>(deserializer: D) -> Result<String, D::Error> {
    struct Printable;

    impl Visitor<'_> for Printable {
        type Value = String;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("printable ASCII")
        }

        fn visit_str<E: Error>(self, text: &str) -> Result<String, E> {
            if is_printable(text) {
                Ok(text.to_owned())
            } else {
                Err(E::custom("not printable ASCII"))
            }
        }
    }

    deserializer.deserialize_str(Printable)
}

/// Whether all of it is printable ASCII.
pub(crate) fn is_printable(text: &str) -> bool {
    text.bytes().all(|byte| matches!(byte, 0x20..=0x7e))
}
