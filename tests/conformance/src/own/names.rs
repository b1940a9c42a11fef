//! Names of attachments: every way to write `.zip` must meet the rule that blocks it.

use super::Soundness::{self, Broken, Sound};
use crate::case::{Case, Setup};

/// Name, soundness, and the header lines in which `STEM` stands for the part of the name before the
/// dot and `EXT` for what is behind it.
const FORMS: &[(&str, Soundness, &str)] = &[
    ("quoted", Sound, "Content-Disposition: attachment; filename=\"STEM.EXT\""),
    ("unquoted", Sound, "Content-Disposition: attachment; filename=STEM.EXT"),
    ("upper-case-key", Sound, "CONTENT-DISPOSITION: ATTACHMENT; FILENAME=\"STEM.EXT\""),
    ("inline", Sound, "Content-Disposition: inline; filename=\"STEM.EXT\""),
    ("folded", Sound, "Content-Disposition: attachment;\r\n\tfilename=\r\n \"STEM.EXT\""),
    ("of-the-type", Sound, "Content-Type: application/octet-stream; name=\"STEM.EXT\""),
    ("pieces", Sound, "Content-Disposition: attachment; filename*0=\"STEM.\"; filename*1=\"EXT\""),
    (
        "pieces-in-disorder",
        Sound,
        "Content-Disposition: attachment; filename*1=\".EXT\"; filename*0=\"STEM\"",
    ),
    ("percent", Sound, "Content-Disposition: attachment; filename*=utf-8''STEM%2eEXT"),
    (
        "percent-and-other",
        Sound,
        "Content-Disposition: attachment; filename=\"a.txt\"; filename*=utf-8'ja'STEM.EXT",
    ),
    (
        "type-and-disposition",
        Sound,
        "Content-Type: text/plain; name=\"STEM.EXT\"\r\nContent-Disposition: attachment; filename=\"a.txt\"",
    ),
    ("encoded-word", Sound, "Content-Disposition: attachment; filename=\"=?utf-8?q?STEM=2EEXT?=\""),
    ("blank-behind", Broken, "Content-Disposition: attachment; filename=\"STEM.EXT \""),
    ("dot-behind", Broken, "Content-Disposition: attachment; filename=\"STEM.EXT.\""),
    ("quoted-pair", Broken, "Content-Disposition: attachment; filename=\"STEM\\.EXT\""),
    ("twice", Broken, "Content-Disposition: attachment; filename=a.txt; filename=STEM.EXT"),
    ("comment", Broken, "Content-Disposition: attachment; (a;b) filename=STEM.EXT"),
    ("blanks-round-equals", Broken, "Content-Disposition: attachment; filename = \"STEM.EXT\""),
    ("no-semicolon", Broken, "Content-Disposition: attachment filename=STEM.EXT"),
    ("open-quote", Broken, "Content-Disposition: attachment; filename=\"STEM.EXT"),
    ("colon-blank", Broken, "Content-Disposition : attachment; filename=\"STEM.EXT\""),
    (
        "header-twice",
        Broken,
        "Content-Disposition: attachment; filename=a.txt\r\nContent-Disposition: attachment; filename=STEM.EXT",
    ),
];

/// Each form with a name that is blocked, and with one that is not.
#[must_use]
pub fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for (name, soundness, header) in FORMS {
        let twins = [("evil", "zip", soundness.evil()), ("clean", "text", soundness.clean())];
        for (twin, extension, expect) in twins {
            let header = header.replace("STEM", "file").replace("EXT", extension);
            cases.push(Case {
                source: "own/names".to_owned(),
                name: format!("own/names/{name}.{twin}"),
                mail: mail(&header),
                expect,
                setup: Setup::Block,
            });
        }
    }
    cases
}

fn mail(header: &str) -> Vec<u8> {
    format!(
        "From: Alice <alice@client.example>\r\nSubject: a file\r\nMIME-Version: 1.0\r\n\
         Content-Type: multipart/mixed; boundary=b\r\n\r\n\
         --b\r\nContent-Type: text/plain\r\n\r\nThe file.\r\n\
         --b\r\n{header}\r\n\r\nJust some text in it.\r\n--b--\r\n"
    )
    .into_bytes()
}
