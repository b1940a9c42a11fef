//! What leaves the box in a support bundle, without secrets and without people's addresses.
//!
//! Line by line, and rather too much than too little: a value whose key sounds like a secret, anything
//! within PEM marks, hashes of secrets, and mail addresses are left out.

/// Parts of keys whose values are left out.
const KEYS: &[&str] = &["secret", "passw", "token", "key", "seed", "credential", "auth"];
/// Words that sound like one of these and are none: what a person compares opens nothing.
const NOT_KEYS: &[&str] = &["key_fingerprint", "auther"];
const LEFT_OUT: &str = "(left out)";

/// The text without what must not leave.
#[must_use]
pub fn redact(text: &str) -> String {
    let mut kept = String::with_capacity(text.len());
    let mut within_pem = false;
    for line in text.lines() {
        if line.contains("-----BEGIN") {
            within_pem = true;
            kept.push_str("(a PEM block, left out)\n");
        }
        if !within_pem {
            kept.push_str(&one_line(line));
            kept.push('\n');
        }
        if line.contains("-----END") {
            within_pem = false;
        }
    }
    kept
}

fn one_line(line: &str) -> String {
    for (at, mark) in line.match_indices(['=', ':']) {
        let (key, rest) = line.split_at(at);
        if sounds_secret(key) && !rest.trim_matches(['=', ':', ' ']).is_empty() {
            return format!("{}{mark} {LEFT_OUT}", words(key));
        }
    }
    words(line)
}

/// What stands behind a secret's key is gone already; this is about what a word is by itself.
fn words(text: &str) -> String {
    text.split_inclusive([' ', '"', '\'', '<', '>', '(', ')', '[', ']', ';']).map(word).collect()
}

fn word(word: &str) -> String {
    let body = word.trim_end_matches([' ', '"', '\'', '<', '>', '(', ')', '[', ']', ';']);
    let end = word.get(body.len()..).unwrap_or("");
    let is_address =
        body.split_once('@').is_some_and(|(local, domain)| !local.is_empty() && !domain.is_empty());
    if is_address {
        return format!("(address){end}");
    }
    if body.contains("$argon2") {
        return format!("{LEFT_OUT}{end}");
    }
    word.to_owned()
}

/// Of the last two words before a mark: `the secret is: …`.
fn sounds_secret(key: &str) -> bool {
    let mut last: String = key
        .rsplit([' ', ',', '{', '"'])
        .filter(|part| !part.is_empty())
        .take(2)
        .map(str::to_ascii_lowercase)
        .collect::<Vec<_>>()
        .join(" ");
    for harmless in NOT_KEYS {
        last = last.replace(harmless, "");
    }
    KEYS.iter().any(|part| last.contains(part))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn secrets_and_addresses_stay() {
        let text = "admin_secret = \"hunter42\"\nlan = \"lan0\"\n  \"token\": \"abc\",\n\
            from=<Taro@example.co.jp> to=\"b@c.example\" verdict=clean\n\
            -----BEGIN PRIVATE KEY-----\nMIIEv\n-----END PRIVATE KEY-----\n\
            stored $argon2id$v=19$m=1,t=1,p=1$c2FsdA$aGFzaA here\n\
            key_fingerprint: ab12\nlogin password=x user=y\n";
        assert_eq!(
            redact(text),
            "admin_secret = (left out)\nlan = \"lan0\"\n  \"token\": (left out)\n\
             from=<(address)> to=\"(address)\" verdict=clean\n(a PEM block, left out)\n\
             stored (left out) here\nkey_fingerprint: ab12\nlogin password= (left out)\n"
        );
    }

    proptest! {
        #[test]
        fn a_secret_is_gone_wherever_it_stands(
            before in "([a-z]{1,9}[=: ]){0,4}",
            key in "(admin_secret|password|api-token|ticket_key)",
            mark in "( = |=|: )",
        ) {
            let text = format!("x\n{before} {key}{mark}\"S3CRET\"\nq");
            prop_assert!(!redact(&text).contains("S3CRET"));
        }
    }
}
