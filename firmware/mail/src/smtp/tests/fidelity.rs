//! No acknowledged mail is lost, doubled or altered: a client and a server that keep to the RFCs, a
//! session between them, and mails of every kind.

use proptest::prelude::*;
use proptest::sample::select;

use super::server::Server;
use super::*;

/// A mail, and how it is sent.
#[derive(Debug, Clone)]
struct Mail {
    content: Vec<u8>,
    /// The sizes of its chunks, over and over, and whether an empty one is the last; none: DATA.
    chunks: Option<(Vec<usize>, bool)>,
    /// All commands at once.
    pipelined: bool,
}

/// The three of them.
struct Office<'a> {
    lab: Lab,
    server: Server,
    sizes: &'a mut dyn Iterator<Item = usize>,
}

impl Office<'_> {
    /// Sends; the codes of the replies.
    fn say(&mut self, bytes: &[u8]) -> Vec<u16> {
        self.lab.send(Side::Client, bytes, self.sizes);
        while !self.lab.to_server.is_empty() {
            let replies = self.server.answers(&mem::take(&mut self.lab.to_server));
            self.lab.send(Side::Server, &replies, self.sizes);
        }
        let said = String::from_utf8(mem::take(&mut self.lab.to_client)).expect("ASCII");
        let lines = said.lines().filter(|line| line.as_bytes().get(3) == Some(&b' '));
        lines.map(|line| line[..3].parse().expect("a code")).collect()
    }

    fn is_over(&self) -> bool {
        self.lab.ends[1].is_some()
    }

    /// Sends a mail; the code of the reply that decides about it.
    fn mail(&mut self, mail: &Mail) -> u16 {
        let start = "MAIL FROM:<a@a>\r\nRCPT TO:<b@b>\r\n";
        let Some((sizes, has_empty_last)) = &mail.chunks else {
            let codes = self.say(format!("{start}DATA\r\n").as_bytes());
            assert_eq!(codes.len(), 3, "{codes:?}");
            let [.., code] = codes[..] else { return 0 };
            if code != 354 {
                return code;
            }
            let codes = self.say(&testkit::dot_stuffed(&mail.content));
            assert_eq!(codes.len(), 1, "{codes:?}");
            return codes[0];
        };
        let mut commands = vec![start.as_bytes().to_vec()];
        let chunks: Vec<_> = testkit::chunks(&mail.content, sizes).collect();
        let last = if *has_empty_last { chunks.len() } else { chunks.len().saturating_sub(1) };
        for (number, chunk) in chunks.iter().chain([&&[][..]]).enumerate().take(last + 1) {
            let mark = if number == last { " LAST" } else { "" };
            commands.push([format!("BDAT {}{mark}\r\n", chunk.len()).as_bytes(), chunk].concat());
        }
        if mail.pipelined {
            let codes = self.say(&commands.concat());
            assert!(self.is_over() || codes.len() == commands.len() + 1, "{codes:?}");
            return *codes.last().expect("a reply");
        }
        let mut code = 0;
        for command in commands {
            let codes = self.say(&command);
            assert_eq!(codes.len(), 1 + usize::from(command.starts_with(b"MAIL")), "{codes:?}");
            code = codes[codes.len() - 1];
            if code != 250 {
                break;
            }
        }
        code
    }
}

fn mails() -> impl Strategy<Value = Mail> {
    let words = vec![
        "\r\n",
        ".\r\n",
        "a",
        ".",
        "..\r\n",
        "BDAT 9 LAST\r\n",
        "RSET\r\n",
        "\0",
        "hello ",
        "LATER",
        "REPLACE",
        "EDIT",
        "EVIL",
    ];
    let small = prop::collection::vec(select(words), 0..8).prop_map(|words| words.concat());
    let large = (65_530usize..65_545)
        .prop_map(|bytes| "0123456\r\n".repeat(bytes / 9 + 1)[..bytes].to_owned());
    let content = prop_oneof![9 => small, 1 => large];
    let chunks = (prop::collection::vec(1usize..70_000, 0..3), any::<bool>());
    let tiny = (prop::collection::vec(1usize..9, 1..4), any::<bool>());
    (content, prop::option::weighted(0.8, prop_oneof![chunks, tiny]), any::<bool>()).prop_map(
        |(text, chunks, pipelined)| {
            // Few chunks of a large one, and no more commands than are taken at once.
            let chunks = chunks.map(|(sizes, is_empty)| {
                let least = text.len() / 40;
                (sizes.into_iter().map(|size| size.max(least)).collect(), is_empty)
            });
            let mut content = text.into_bytes();
            if chunks.is_none() {
                // Lone dots between odd line ends are refused, and are tested elsewhere.
                content.retain(|byte| *byte != 0);
                content.extend_from_slice(b"\r\n");
            }
            Mail { content, chunks, pipelined }
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(3_000))]

    #[test]
    fn what_is_acknowledged_has_arrived_and_nothing_else(
        mails in prop::collection::vec(mails(), 1..6),
        refusals in prop::collection::vec(prop::bool::weighted(0.15), 0..5),
        hold in any::<bool>(),
        sizes in prop::collection::vec(prop_oneof![1usize..20, 1usize..20_000], 1..9),
    ) {
        let settings = Settings { hold, ..Settings::default() };
        let mut sizes = sizes.into_iter().cycle();
        let server = Server::new(refusals, false);
        let mut office = Office { lab: Lab::with(settings), server, sizes: &mut sizes };
        office.lab.judges = Some("EVIL");
        office.lab.send(Side::Server, b"220 mx\r\n", &mut std::iter::empty());
        office.say(b"EHLO c\r\n");
        for mail in &mails {
            let before = office.server.messages.len();
            let code = office.mail(mail);
            let arrived = &office.server.messages[before..];
            if code == 250 {
                prop_assert_eq!(arrived.len(), 1);
                let has = |word| memchr::memmem::find(&mail.content, word).is_some();
                let is_notice = arrived[0].starts_with(b"From: ");
                let is_edited = arrived[0].starts_with(b"<edited>");
                prop_assert!(!has(b"EVIL") && !has(b"LATER"));
                prop_assert!(arrived[0] == mail.content || hold && has(b"REPLACE") && is_notice
                    || hold && has(b"EDIT") && is_edited);
            } else {
                prop_assert!(arrived.is_empty(), "{} for a mail that arrived", code);
            }
            if office.is_over() {
                break;
            }
            prop_assert_eq!(office.say(b"RSET\r\n"), [250]);
        }
    }
}

/// What a hostile client says.
const HOSTILE: &[&str] = &[
    "MAIL FROM:<a@a>\r\n",
    "RCPT TO:<b@b>\r\n",
    "MAIL FROM:<a@a>\r\nRCPT TO:<b@b>\r\nBDAT 4\r\nEVIL",
    "DATA\r\n",
    "BDAT 4\r\n",
    "BDAT 4\r\nEVIL",
    "BDAT 4 LAST\r\n",
    "BDAT 4 LAST\r\nnice",
    "BDAT 0 LAST\r\n",
    "BDAT 0\r\n",
    "BDAT 004 LAST\r\n",
    "BDAT 17\r\n",
    "BDAT 70000 LAST\r\n",
    "BURL x LAST\r\n",
    "BURL x\r\n",
    "EVIL",
    "EV",
    "IL",
    "nice",
    "\r\n.\r\n",
    ".\r\n",
    "\r\n",
    "RSET\r\n",
    "EHLO c\r\n",
    "HELO c\r\n",
    "NOOP\r\n",
    "XYZ\r\n",
    "STARTTLS\r\n",
    "LONG",
];

proptest! {
    #![proptest_config(ProptestConfig::with_cases(5_000))]

    #[test]
    fn whatever_a_client_says_only_what_was_scanned_and_released_arrives(
        says in prop::collection::vec((select(HOSTILE), any::<bool>()), 1..30),
        refusals in prop::collection::vec(prop::bool::weighted(0.3), 0..5),
        (hold, is_sloppy) in any::<(bool, bool)>(),
        sizes in prop::collection::vec(prop_oneof![1usize..20, 1usize..90_000], 1..9),
    ) {
        let settings = Settings { hold, ..Settings::default() };
        let mut sizes = sizes.into_iter().cycle();
        let server = Server::new(refusals, is_sloppy);
        let mut office = Office { lab: Lab::with(settings), server, sizes: &mut sizes };
        office.lab.judges = Some("EVIL");
        office.lab.send(Side::Server, b"220 mx\r\n", &mut std::iter::empty());
        office.say(b"EHLO c\r\n");
        let long = b"BDAT 9 LAST\r\n".repeat(5_000);
        for (text, is_answered) in says {
            let bytes = if text == "LONG" { &long } else { text.as_bytes() };
            office.lab.send(Side::Client, bytes, office.sizes);
            if is_answered {
                office.say(b"");
            }
        }
        office.say(b"");
        let mut released = office.lab.released.iter();
        for message in &office.server.messages {
            let was_released = released.any(|content| content == message);
            prop_assert!(was_released, "{}", message.escape_ascii());
        }
    }
}
