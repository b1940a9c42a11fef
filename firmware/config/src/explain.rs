//! Turns what serde and the TOML parser say into a problem and what to write instead.

/// Most letters by which a misspelt word may differ from the one suggested.
const TYPO_DISTANCE_MAX: usize = 3;

/// `(problem, remedy)` for a message of the parser. `place` is the dotted key of the value at fault
/// or of the table it stands in, empty for the top of the file, `None` where the file is no TOML.
pub(crate) fn explain(message: &str, place: Option<&str>) -> (String, String) {
    let Some(place) = place else {
        return (format!("is not TOML: {}", one_line(message)), syntax_remedy(message));
    };
    if let Some((name, expected)) = unknown(message, "unknown field `") {
        return unknown_key(name, &expected, place);
    }
    if let Some((name, expected)) = unknown(message, "unknown variant `") {
        return unknown_value(name, &expected, place);
    }
    if let Some(name) = message.strip_prefix("missing field `").and_then(|m| m.strip_suffix('`')) {
        let table = in_table(place);
        return (format!("`{name}` is missing{table}"), format!("write `{name} = …` there"));
    }
    let of = if place.is_empty() { String::new() } else { format!("`{place}`: ") };
    if let Some((found, expected)) = message.rsplit_once(", expected ") {
        let problem = format!("{of}{}", one_line(found));
        return (problem, format!("write {} instead", wanted(expected)));
    }
    (format!("{of}{}", one_line(message)), address_remedy(message))
}

fn unknown_key(name: &str, expected: &[&str], place: &str) -> (String, String) {
    let table = in_table(place);
    let problem = format!("unknown key `{}`{table}", name.escape_debug());
    let remedy = match nearest(name, expected) {
        Some(near) => format!("write `{near}` instead (keys here: {})", expected.join(", ")),
        None if expected.is_empty() => "remove it; nothing can be set here".to_owned(),
        None => format!("remove it, or write one of these instead: {}", expected.join(", ")),
    };
    (problem, remedy)
}

fn unknown_value(name: &str, expected: &[&str], place: &str) -> (String, String) {
    let quoted: Vec<String> = expected.iter().map(|value| format!("\"{value}\"")).collect();
    let problem = format!("`{place}`: unknown value \"{}\"", name.escape_debug());
    let remedy = match nearest(name, expected) {
        Some(near) => format!("write \"{near}\" instead (possible: {})", quoted.join(", ")),
        None => format!("write one of these instead: {}", quoted.join(", ")),
    };
    (problem, remedy)
}

/// Takes serde's "unknown field `x`, expected one of `a`, `b`" apart.
fn unknown<'a>(message: &'a str, prefix: &str) -> Option<(&'a str, Vec<&'a str>)> {
    let rest = message.strip_prefix(prefix)?;
    // The name is the user's and may hold anything; serde's own words stand behind it.
    let (name, expected) = rest
        .rsplit_once("`, expected ")
        .or_else(|| rest.rsplit_once("`, there are no ").map(|(name, _)| (name, "")))?;
    Some((name, expected.split('`').skip(1).step_by(2).collect()))
}

fn in_table(place: &str) -> String {
    if place.is_empty() { String::new() } else { format!(" in [{place}]") }
}

/// What serde expected, in words for whoever writes the file.
fn wanted(expected: &str) -> String {
    let words = match expected {
        "u8" => "a whole number from 0 to 255",
        "u16" => "a whole number from 0 to 65535",
        "u32" => "a whole number from 0 to 4294967295",
        "u64" | "usize" => "a whole number, 0 or more",
        "i64" | "i32" => "a whole number",
        "f32" | "f64" => "a number",
        "a boolean" => "true or false, without quotes",
        "a string" | "path string" => "a text in quotes",
        "a sequence" => "a list in [ ]",
        "a map" => "a table",
        "socket address" => "an address and port in quotes, as in \"192.0.2.1:4651\"",
        "IP address" => "an address in quotes, as in \"192.0.2.1\"",
        other if other.starts_with("struct ") => "a table, as in [name] with its keys below",
        other => return one_line(other),
    };
    words.to_owned()
}

/// A remedy for messages that do not say what was expected.
fn address_remedy(message: &str) -> String {
    let words = if message.contains("socket address") {
        "write an address and port instead, as in \"192.0.2.1:4651\" or \"[2001:db8::1]:4651\""
    } else if message.contains("IP address") {
        "write an address instead, as in \"192.0.2.1\" or \"2001:db8::1\""
    } else {
        "write a value of the kind that the example file shows instead"
    };
    words.to_owned()
}

fn syntax_remedy(message: &str) -> String {
    let words = if message.contains("duplicate key") {
        "write it only once"
    } else if message.contains("string") {
        "write the text between two quotes on one line instead"
    } else {
        "write KEY = VALUE or [TABLE] instead, texts in quotes"
    };
    words.to_owned()
}

/// A message without line breaks.
fn one_line(message: &str) -> String {
    message.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// The word that was probably meant.
fn nearest<'a>(name: &str, candidates: &[&'a str]) -> Option<&'a str> {
    candidates
        .iter()
        .map(|candidate| (edit_distance(name, candidate), *candidate))
        .filter(|(distance, candidate)| {
            *distance <= TYPO_DISTANCE_MAX && *distance < candidate.chars().count()
        })
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, candidate)| candidate)
}

/// Levenshtein's distance in characters, with `-` and `_` alike and case ignored.
fn edit_distance(left: &str, right: &str) -> usize {
    let fold = |text: &str| -> Vec<char> {
        text.to_lowercase().chars().map(|c| if c == '-' { '_' } else { c }).collect()
    };
    let (left, right) = (fold(left), fold(right));
    let mut row: Vec<usize> = (0..=right.len()).collect();
    for (above, &a) in left.iter().enumerate() {
        let mut diagonal = above;
        let mut last = above + 1;
        for (cell, &b) in row.iter_mut().skip(1).zip(&right) {
            let next = (diagonal + usize::from(a != b)).min(*cell + 1).min(last + 1);
            diagonal = std::mem::replace(cell, next);
            last = next;
        }
        if let Some(first) = row.first_mut() {
            *first = above + 1;
        }
    }
    row.last().copied().unwrap_or(left.len())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn distances() {
        assert_eq!(edit_distance("", ""), 0);
        assert_eq!(edit_distance("", "abc"), 3);
        assert_eq!(edit_distance("abc", ""), 3);
        assert_eq!(edit_distance("domian", "domain"), 2);
        assert_eq!(edit_distance("kitten", "sitting"), 3);
        assert_eq!(edit_distance("Fleet-CA", "fleet_ca"), 0);
    }

    #[test]
    fn only_near_words_are_suggested() {
        assert_eq!(nearest("lisen", &["listen", "log"]), Some("listen"));
        assert_eq!(nearest("colour", &["listen", "log"]), None);
        // Three letters away from a word of three letters is no likeness.
        assert_eq!(nearest("xyz", &["log"]), None);
    }

    #[test]
    fn a_key_with_back_quotes_does_not_confuse_the_list() {
        let (name, keys) =
            unknown("unknown field `a`, expected `b`, expected one of `c`, `d`", "unknown field `")
                .unwrap();
        assert_eq!(name, "a`, expected `b");
        assert_eq!(keys, ["c", "d"]);
    }

    #[test]
    fn line_breaks_in_names_are_shown_not_made() {
        let (problem, _) = explain("unknown field `a\nb`, expected `c`", Some(""));
        assert_eq!(problem, "unknown key `a\\nb`");
        let (problem, _) = explain("invalid value: string \"a\nb\", expected u8", Some("k"));
        assert_eq!(problem, "`k`: invalid value: string \"a b\"");
    }

    proptest! {
        #[test]
        fn distance_is_symmetric_and_bounded(a in ".{0,12}", b in ".{0,12}") {
            let distance = edit_distance(&a, &b);
            prop_assert_eq!(distance, edit_distance(&b, &a));
            prop_assert!(distance <= a.to_lowercase().chars().count().max(b.to_lowercase().chars().count()));
            prop_assert_eq!(edit_distance(&a, &a), 0);
        }

        #[test]
        fn any_message_is_explained_on_one_line(message in "(?s).*", place in "[a-z.]{0,9}") {
            let (problem, remedy) = explain(&message, Some(&place));
            prop_assert!(!problem.contains('\n') && !remedy.contains('\n'));
        }
    }
}
