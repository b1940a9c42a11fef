use proptest::prelude::*;

use super::*;

const SECRET: &str = "JHtPCiqMJYBZjlTcmnBDE5Rk1UzFJrW3ko5ePZh2jDE=";

fn error(text: &str) -> String {
    let error = Key::parse(text, None).unwrap_err().to_string();
    assert!(!error.contains(SECRET), "{error}");
    error
}

#[test]
fn the_forms_of_bind_knot_and_of_one_line_are_the_same_key() {
    let bind = format!(
        "// for the sites\nkey \"avr-update\" {{\n\talgorithm hmac-sha512; # strong\n\
         /* the\nsecret */ secret \"{SECRET}\";\n}};\n"
    );
    let unquoted = format!("key AVR-update. {{ algorithm HMAC-SHA512; secret {SECRET}; }};");
    let knot = format!(
        "# hmac-sha512:avr-update:{SECRET}\nkey:\n  - id: avr-update.\n    \
         algorithm: hmac-sha512\n    secret: \"{SECRET}\" # here\n"
    );
    let line = format!("hmac-sha512:avr-update:{SECRET}\n");
    for text in [bind, unquoted, knot, line] {
        let key = Key::parse(&text, None).unwrap();
        assert_eq!(key.to_line(), format!("hmac-sha512:avr-update.:{SECRET}"), "{text}");
        assert!(!format!("{key:?}").contains("JHtP"));
    }
    let key = Key::parse(&format!("avr-update:{SECRET}"), None).unwrap();
    assert_eq!(*key.algorithm(), TsigAlgorithm::HmacSha256);
}

#[test]
fn one_of_several_is_chosen_by_name() {
    let text = format!("hmac-sha256:a:{SECRET}\nhmac-sha384:b.example:{SECRET}\n");
    assert_eq!(
        Key::parse(&text, None).unwrap_err().to_string(),
        "line 2: the file holds 2 keys; say which one with --key-name"
    );
    let key = Key::parse(&text, Some("B.example")).unwrap();
    assert_eq!(key.name().to_string(), "b.example.");
    assert_eq!(
        Key::parse(&text, Some("c")).unwrap_err().problem,
        "no key of that name is in the file"
    );
}

#[test]
fn errors_name_the_line_and_not_the_secret() {
    assert!(error("").starts_with("line 1: no key is in the file; "));
    assert!(error(&format!("key a {{\nsecret {SECRET};\n}};")).contains("has no algorithm"));
    assert!(
        error("key a {\nalgorithm hmac-sha256;\n};").starts_with("line 1: the key has no secret")
    );
    assert!(
        error(&format!("key a {{\nalgorithm hmac-md5;\nsecret {SECRET};\n}};"))
            .starts_with("line 2: the key's algorithm is too weak to be used; write hmac-sha256")
    );
    assert!(error(&format!("hmac-sha257:a:{SECRET}")).contains("algorithm is not known"));
    assert!(
        error(&format!("key a {{\nsecret {SECRET}\n")).starts_with("line 2: not `ITEM VALUE;`")
    );
    assert!(error(&format!("key a {{ secret {SECRET};")).contains("not closed by `};`"));
    assert!(error(&format!("key a {{ secret \"{SECRET}")).contains("a quote has no end"));
    assert!(error("key a { /* ").contains("a comment has no end"));
    assert!(error(&format!("options {{ secret {SECRET}; }};")).contains("not `key NAME {`"));
    assert!(error(&format!("a:b:c:{SECRET}")).contains("not in the form of a key"));
    assert!(error("hmac-sha256:a:not*base64").contains("no base64"));
    assert!(error("hmac-sha256:a:AAAA").contains("shorter than 16 bytes"));
    let long = STANDARD.encode([7; SECRET_BYTES_MAX + 1]);
    assert!(error(&format!("a:{long}")).contains("longer than 256 bytes"));
    let just = STANDARD.encode([7; SECRET_BYTES_MAX]);
    Key::parse(&format!("a:{just}"), None).unwrap();
    assert!(error(&format!("hmac-sha256:.:{SECRET}")).contains("no domain name"));
    assert!(error(&format!("key:\n- id: a\n  colour: {SECRET}")).contains("an item that no key"));
    assert!(error(&format!("key:\n- id: a\n  id: {SECRET}")).contains("written twice"));
    let many = format!("a:{SECRET}\n").repeat(KEYS_MAX + 1);
    assert!(error(&many).starts_with("line 65: the file holds more than 64 keys"));
}

proptest! {
    #[test]
    fn any_text_is_a_key_or_an_error_with_a_line(text in "(?s).{0,200}") {
        if let Err(error) = Key::parse(&text, None) {
            prop_assert!(error.line <= text.lines().count().max(1) + 1);
        }
    }

    #[test]
    fn what_looks_like_a_key_file_neither_panics_nor_tells(
        parts in proptest::collection::vec(
            prop_oneof![
                Just("key".to_owned()), Just("key:".to_owned()), Just("{".to_owned()), Just("};".to_owned()),
                Just("\n".to_owned()), Just("- id:".to_owned()), Just("algorithm".to_owned()),
                Just("hmac-sha256".to_owned()), Just(";".to_owned()), Just("secret".to_owned()),
                Just(SECRET.to_owned()), Just("\"".to_owned()), Just("/*".to_owned()), "[a-z:.]{1,6}",
            ],
            0..24,
        ),
    ) {
        match Key::parse(&parts.join(" "), None) {
            Ok(key) => {
                let shown = format!("{key:?}");
                prop_assert!(!shown.contains("JHtP"));
            }
            Err(error) => prop_assert!(!error.to_string().contains("JHtP")),
        }
    }

    #[test]
    fn a_key_is_read_as_it_was_written(
        name in "[a-z][a-z0-9-]{0,20}(\\.[a-z]{1,10}){0,3}",
        secret in proptest::collection::vec(any::<u8>(), SECRET_BYTES_MIN..=SECRET_BYTES_MAX),
    ) {
        let secret = STANDARD.encode(secret);
        let bind = format!("key \"{name}\" {{\n\talgorithm hmac-sha384;\n\tsecret \"{secret}\";\n}};\n");
        let knot = format!("key:\n  - id: {name}.\n    algorithm: hmac-sha384\n    secret: {secret}\n");
        for text in [bind, knot] {
            let key = Key::parse(&text, None).unwrap();
            prop_assert_eq!(key.to_line(), format!("hmac-sha384:{name}.:{secret}"));
        }
    }
}
