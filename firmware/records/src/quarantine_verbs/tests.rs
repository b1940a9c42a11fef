use std::convert::Infallible;
use std::io::{BufRead as _, BufReader};
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt as _;

use bytes::Bytes;
use clap::Parser;
use quarantine::{Limits, Meta, VaultKey};
use serde_json::Value;
use tempfile::TempDir;

use super::*;

const NOW: u64 = 1_790_000_000;
const DAY: u64 = 86_400;
const MAIL: &[u8] = b"Subject: invoice\r\n\r\n.\r\nX5O!\r\n";

#[derive(Debug, Parser)]
struct Command {
    #[command(subcommand)]
    verb: QuarantineVerb,
}

struct Lab {
    folder: TempDir,
    vault: Vault,
}

impl Lab {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let limits =
            Limits { bytes_max: 1_000_000, age_max: Duration::from_secs(30 * DAY), items_max: 100 };
        let key = VaultKey::derive(b"secret").unwrap();
        let vault = Vault::open(&folder.path().join("quarantine"), &key, limits).unwrap();
        Self { folder, vault }
    }

    fn store(&self, meta: &Meta, now: u64) -> Id {
        let mail = [Ok::<_, Infallible>(Bytes::from_static(MAIL))];
        self.vault.store(meta, mail, now).unwrap()
    }

    /// What `quarantine` prints to these words.
    fn run(&self, words: &[&str]) -> Result<String, String> {
        let command = Command::try_parse_from([&["quarantine"], words].concat())
            .map_err(|error| error.to_string())?;
        let mut out = Vec::new();
        command.verb.execute(&self.vault, NOW, &mut out).map_err(|error| format!("{error:#}"))?;
        Ok(String::from_utf8(out).unwrap())
    }

    fn path(&self, name: &str) -> String {
        self.folder.path().join(name).to_str().unwrap().to_owned()
    }

    fn damage(&self, id: Id) {
        let path = self.folder.path().join(format!("quarantine/{id}.sealed"));
        let mut bytes = fs::read(&path).unwrap();
        *bytes.last_mut().unwrap() ^= 1;
        fs::write(path, bytes).unwrap();
    }
}

fn meta() -> Meta {
    Meta {
        session: "00112233445566778899aabbccddeeff".to_owned(),
        protocol: "smtp".to_owned(),
        direction: "outgoing".to_owned(),
        client: "192.168.1.5:50000".to_owned(),
        server: "203.0.113.5:587".to_owned(),
        mail_from: "a@example.jp".to_owned(),
        rcpt_to: vec!["b@example.jp".to_owned(), "c@example.jp".to_owned()],
        message_id: "<abc@example.jp>".to_owned(),
        subject: "請求書".to_owned(),
        from: "山田太郎 <a@example.jp>".to_owned(),
        verdict: "Eicar-Test-Signature".to_owned(),
        engine: "yara".to_owned(),
        file_name: "invoice.exe".to_owned(),
        part: "2".to_owned(),
        ..Meta::default()
    }
}

#[test]
fn a_list_has_a_row_for_each_item() {
    let lab = Lab::new();
    assert_eq!(lab.run(&["list"]).unwrap(), "the quarantine is empty\n");
    assert_eq!(lab.run(&["list", "--json"]).unwrap(), "");
    let first = lab.store(&meta(), NOW - 3 * DAY);
    let long = Meta {
        from: String::new(),
        verdict: "a name of a virus that is longer than the column".to_owned(),
        subject: String::new(),
        ..meta()
    };
    let second = lab.store(&long, NOW - 90);
    assert_eq!(
        lab.run(&["list"]).unwrap(),
        format!(
            "\
id           age       size  verdict                       from                              subject
{second}    1m       29 B  a name of a virus that is l…  a@example.jp
{first}    3d       29 B  Eicar-Test-Signature          山田太郎 <a@example.jp>           請求書
"
        )
    );
    let json = lab.run(&["list", "--json"]).unwrap();
    let items: Vec<Value> = json.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(items[1]["id"], first.to_string());
    assert_eq!(items[1]["subject"], "請求書");
    assert_eq!(items[1]["stored_at"], NOW - 3 * DAY);
    assert_eq!(items[1]["bytes"], 29);
}

#[test]
fn an_item_that_does_not_open_is_a_row_too() {
    let lab = Lab::new();
    let id = lab.store(&meta(), NOW);
    fs::write(lab.folder.path().join(format!("quarantine/{id}.sealed")), "nonsense").unwrap();
    let text = lab.run(&["list"]).unwrap();
    assert!(text.contains(&format!("{id}  cannot be read: item {id} is not as it was")), "{text}");
    let json: Value = serde_json::from_str(&lab.run(&["list", "--json"]).unwrap()).unwrap();
    assert_eq!(json["id"], id.to_string());
    assert!(json["error"].as_str().unwrap().contains("delete it"), "{json}");
    assert_eq!(lab.run(&["delete", "--all"]).unwrap(), "deleted: 1\n");
}

#[test]
fn an_item_is_shown_with_all_that_is_known_of_it() {
    let lab = Lab::new();
    let id = lab.store(&Meta { recipients: 3, ..meta() }, NOW - 7_200);
    assert_eq!(
        lab.run(&["show", &id.to_string().to_uppercase()]).unwrap(),
        format!(
            "\
item        {id}
stored      2026-09-21T12:13:20Z, 2h ago
size        29 bytes
verdict     Eicar-Test-Signature
engine      yara
file        invoice.exe
part        2
session     00112233445566778899aabbccddeeff
protocol    smtp outgoing
client      192.168.1.5:50000
server      203.0.113.5:587
mail from   a@example.jp
rcpt to     b@example.jp, c@example.jp and 1 more
message-id  <abc@example.jp>
from        山田太郎 <a@example.jp>
subject     請求書
"
        )
    );
    let json: Value =
        serde_json::from_str(&lab.run(&["show", "--json", &id.to_string()]).unwrap()).unwrap();
    assert_eq!(json["rcpt_to"][1], "c@example.jp");
    let error = lab.run(&["show", "0000000000"]).unwrap_err();
    assert!(error.starts_with("there is no item 0000000000; `quarantine list`"), "{error}");
    let error = lab.run(&["show", "nonsense"]).unwrap_err();
    assert!(error.contains("has 10 letters and digits, as in `quarantine list`"), "{error}");
}

#[test]
fn an_original_is_handed_out_byte_for_byte_to_its_owner_alone() {
    let lab = Lab::new();
    let id = lab.store(&meta(), NOW).to_string();
    let path = lab.path("mail.EML");
    let text = lab.run(&["release", &id, "--to", &path]).unwrap();
    assert_eq!(
        text,
        format!(
            "{path}: 29 bytes, as they came (Eicar-Test-Signature); the sealed copy stays until it \
             is deleted\n"
        )
    );
    assert_eq!(fs::read(&path).unwrap(), MAIL);
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o7777, 0o600);
    let error = lab.run(&["release", &id, "--to", &path]).unwrap_err();
    assert!(error.contains("it must not be there yet"), "{error}");
    for name in ["mail.exe", "mail", "mail.eml.sh", ".eml", "mail.eml "] {
        let path = lab.path(name);
        let error = lab.run(&["release", &id, "--to", &path]).unwrap_err();
        assert!(error.contains("under a name that ends in .eml"), "{error}");
        assert!(!Path::new(&path).exists());
    }
}

#[test]
fn a_damaged_original_is_not_handed_out() {
    let lab = Lab::new();
    let id = lab.store(&meta(), NOW);
    lab.damage(id);
    let path = lab.path("mail.eml");
    let error = lab.run(&["release", &id.to_string(), "--to", &path]).unwrap_err();
    assert!(error.contains("do not trust it, delete it"), "{error}");
    assert!(!Path::new(&path).exists());
    // Nor is a server asked to take it.
    let error = lab.run(&["release", &id.to_string(), "--via", "127.0.0.1:1"]).unwrap_err();
    assert!(error.contains("do not trust it, delete it"), "{error}");
}

/// A mail server for one mail; what it was told.
fn mail_server() -> (String, std::thread::JoinHandle<String>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let via = listener.local_addr().unwrap().to_string();
    let serve = move || {
        let (mut stream, _) = listener.accept().unwrap();
        let lines = BufReader::new(stream.try_clone().unwrap()).lines();
        let (mut seen, mut in_data) = (String::new(), false);
        stream.write_all(b"220 mail\r\n").unwrap();
        for line in lines.map_while(Result::ok) {
            let reply = match line.as_str() {
                "." if in_data => "250 queued as 1\r\n",
                "DATA" => "354 go on\r\n",
                _ if in_data => "",
                _ => "250 Ok\r\n",
            };
            in_data = (in_data || line == "DATA") && line != ".";
            stream.write_all(reply.as_bytes()).unwrap();
            seen += &format!("{line}\n");
        }
        seen
    };
    (via, std::thread::spawn(serve))
}

#[test]
fn an_original_is_mailed_to_whom_it_was_for_or_to_whom_is_named() {
    let lab = Lab::new();
    let id = lab.store(&meta(), NOW).to_string();
    let (via, server) = mail_server();
    let text = lab.run(&["release", &id, "--via", &via]).unwrap();
    assert!(text.contains("went to b@example.jp, c@example.jp through 127.0.0.1:"), "{text}");
    assert!(text.contains(", unchanged (Eicar-Test-Signature): queued as 1; "), "{text}");
    let seen = server.join().unwrap();
    assert!(
        seen.contains("MAIL FROM:<a@example.jp>\nRCPT TO:<b@example.jp>\nRCPT TO:<c@"),
        "{seen}"
    );
    assert!(seen.contains("DATA\nSubject: invoice\n\n..\nX5O!\n.\nQUIT\n"), "{seen}");
    let (via, server) = mail_server();
    let admin = ["--mail-to", "admin@example.jp", "--mail-from", ""];
    lab.run(&[&["release", &id, "--via", &via], &admin[..]].concat()).unwrap();
    let seen = server.join().unwrap();
    assert!(seen.contains("MAIL FROM:<>\nRCPT TO:<admin@example.jp>\nDATA\n"), "{seen}");
}

#[test]
fn without_all_its_recipients_a_mail_needs_some() {
    let lab = Lab::new();
    let fetched = lab.store(&Meta { rcpt_to: Vec::new(), ..meta() }, NOW).to_string();
    let error = lab.run(&["release", &fetched, "--via", "127.0.0.1:1"]).unwrap_err();
    assert_eq!(error, "the item has no recipients of its own; name one with --mail-to");
    let many = lab.store(&Meta { recipients: 200, ..meta() }, NOW).to_string();
    let error = lab.run(&["release", &many, "--via", "127.0.0.1:1"]).unwrap_err();
    assert!(error.starts_with("of 200 recipients only 2 are known; name those"), "{error}");
}

#[test]
fn a_release_needs_one_place_and_a_deletion_its_items() {
    let lab = Lab::new();
    let id = lab.store(&meta(), NOW).to_string();
    let file = lab.path("a.eml");
    for bad in [
        &["release", &id][..],
        &["release", &id, "--mail-to", "a@example.jp"],
        &["release", &id, "--to", &file, "--via", "127.0.0.1:25"],
        &["release", &id, "--to", &file, "--mail-to", "a@example.jp"],
        &["release", &id, "--to", &file, "--mail-from", ""],
        &["delete"],
        &["delete", &id, "--all"],
        &["delete", &id, "--older-than", "7d"],
        &["delete", "--older-than", "7d"],
        &["delete", "--all", "--older-than", "soon"],
    ] {
        let error = lab.run(bad).unwrap_err();
        assert!(error.contains("Usage:") || error.contains("write one as in 90s"), "{error}");
    }
    assert!(lab.run(&["show", &id]).is_ok());
}

#[test]
fn items_are_deleted_by_name_by_age_or_all() {
    let lab = Lab::new();
    let ids: Vec<_> =
        [20, 10, 7, 6, 0].map(|days| lab.store(&meta(), NOW - days * DAY).to_string()).to_vec();
    assert_eq!(lab.run(&["delete", &ids[0], &ids[1]]).unwrap(), "deleted: 2\n");
    let error = lab.run(&["delete", &ids[0], &ids[4], &ids[1]]).unwrap_err();
    assert_eq!(error.lines().count(), 2, "{error}");
    assert!(error.starts_with(&format!("there is no item {}; ", ids[0])), "{error}");
    // The others were deleted all the same.
    assert!(lab.run(&["show", &ids[4]]).is_err());
    assert_eq!(lab.run(&["delete", "--all", "--older-than", "7d"]).unwrap(), "deleted: 1\n");
    assert!(lab.run(&["show", &ids[3]]).is_ok());
    assert_eq!(lab.run(&["delete", "--all"]).unwrap(), "deleted: 1\n");
    assert_eq!(lab.run(&["list"]).unwrap(), "the quarantine is empty\n");
}
