//! The shared corpus as cases: which file is a mail, which an attachment, and what is expected.

use std::path::{Path, PathBuf};

use anyhow::Context;

use crate::case::{Case, Expect, Setup};
use crate::wire;

/// Folders that hold no mails: scripted sessions and replies, which have runners of their own.
const NO_MAILS: &[&str] = &["authored-sessions", "james-mpt-smtp", "mailkit-transcripts"];

/// Names that end so are attachments, as they are.
const ATTACHMENTS: &[&str] = &[
    "7z", "bz2", "docx", "gz", "iso", "lzma", "pdf", "png", "rar", "tar", "tbz", "tgz", "txz",
    "xz", "zip",
];

/// A file's line ends are all bare LFs: it is run with CRLF, as a proper client sends it, and as it
/// is stored in a row of its own, which this ends.
pub const BARE_LF: &str = ", bare LF";

/// Everything in the corpus that is a mail or can be one.
#[derive(Debug, Default)]
pub struct Corpus {
    /// In the order of their names.
    pub cases: Vec<Case>,
    /// Files that hold neither mail nor attachment.
    pub without_mail: Vec<String>,
}

/// Where the corpus is: the variable `AVR_CORPUS`, else `../shared/corpus` beside the workspace.
#[must_use]
pub fn folder() -> PathBuf {
    std::env::var_os("AVR_CORPUS").map_or_else(
        || Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared/corpus"),
        PathBuf::from,
    )
}

/// What is said where there is none.
#[must_use]
pub fn absent() -> String {
    format!(
        "SKIPPED: no corpus at {}; set AVR_CORPUS to the folder that has MANIFEST.md",
        folder().display()
    )
}

/// Reads it. `None` where there is none.
///
/// # Errors
///
/// When a file is there and cannot be read.
pub fn load() -> anyhow::Result<Option<Corpus>> {
    let root = folder();
    if !root.join("MANIFEST.md").is_file() {
        return Ok(None);
    }
    let index = std::fs::read_to_string(root.join("AUTHORED-INDEX.tsv"))
        .context("read AUTHORED-INDEX.tsv of the corpus")?;
    let mut names = Vec::new();
    for folder in std::fs::read_dir(&root).context("read the corpus")? {
        let folder = folder?.path();
        let is_mail = !NO_MAILS.iter().any(|name| folder.ends_with(name));
        if folder.is_dir() && is_mail {
            files(&folder, &mut names)?;
        }
    }
    names.sort();
    let mut corpus = Corpus::default();
    for path in names {
        let name = path.strip_prefix(&root).context("a file of the corpus")?;
        let name = name.to_string_lossy().into_owned();
        let bytes = std::fs::read(&path).with_context(|| path.display().to_string())?;
        corpus.add(&name, &bytes, &index)?;
    }
    Ok(Some(corpus))
}

fn files(folder: &Path, names: &mut Vec<PathBuf>) -> anyhow::Result<()> {
    for entry in std::fs::read_dir(folder).with_context(|| folder.display().to_string())? {
        let path = entry?.path();
        if path.is_dir() {
            files(&path, names)?;
        } else if path.extension().is_none_or(|extension| extension != "tsv") {
            names.push(path);
        }
    }
    Ok(())
}

impl Corpus {
    fn add(&mut self, name: &str, bytes: &[u8], index: &str) -> anyhow::Result<()> {
        let (source, setup) = source(name);
        let expect = expectation(name, index)?;
        let case = |name: String, source: String, mail: Vec<u8>, expect: Expect| Case {
            source,
            name,
            mail,
            expect,
            setup,
        };
        if let Some((file_name, content)) = attachment(name, bytes)? {
            let mail = with_attachment(&file_name, &content);
            self.cases.push(case(name.to_owned(), source, mail, expect));
            return Ok(());
        }
        let mail = match source.as_str() {
            "curl-tests" => match mail_of_curl(&String::from_utf8_lossy(bytes)) {
                Some(mail) => mail,
                None => {
                    self.without_mail.push(name.to_owned());
                    return Ok(());
                }
            },
            _ => bytes.to_vec(),
        };
        if wire::has_only_bare_lf(&mail) {
            let strict = wire::with_crlf(&mail);
            self.cases.push(case(name.to_owned(), source.clone(), strict, expect));
            let (name, source) = (format!("{name}{BARE_LF}"), format!("{source}{BARE_LF}"));
            self.cases.push(case(name, source, mail, expect.with_bare_line_ends()));
        } else {
            self.cases.push(case(name.to_owned(), source, mail, expect));
        }
        Ok(())
    }
}

/// Row of the table, and the gateway.
fn source(name: &str) -> (String, Setup) {
    let parts: Vec<&str> = name.split('/').collect();
    match parts.as_slice() {
        ["mime-is-broken", "hide-filename", ..] => {
            ("mime-is-broken/hide-filename".to_owned(), Setup::Block)
        }
        ["mime-is-broken", second, ..] => (format!("mime-is-broken/{second}"), Setup::Mail),
        ["yauzl", second, ..] => (format!("yauzl/{second}"), Setup::Archive),
        [first @ ("authored-archive" | "libarchive"), ..] => ((*first).to_owned(), Setup::Archive),
        [first, ..] => ((*first).to_owned(), Setup::Mail),
        [] => (String::new(), Setup::Mail),
    }
}

fn expectation(name: &str, index: &str) -> anyhow::Result<Expect> {
    if name.starts_with("authored-") {
        let line = index.lines().find(|line| line.split('\t').next() == Some(name));
        let word = line.and_then(|line| line.split('\t').nth(4));
        return match word.with_context(|| format!("{name} is not in AUTHORED-INDEX.tsv"))? {
            "DETECT" => Ok(Expect::Detect),
            "DETECT|REJECT" => Ok(Expect::DetectOrRefuse),
            "DETECT|POLICY-UNSCANNABLE" | "POLICY-UNSCANNABLE" | "LIMIT" => Ok(Expect::NotClean),
            word if word.starts_with("PASS") => {
                Ok(if is_malformed(name) { Expect::PassOrRefuse } else { Expect::Pass })
            }
            other => anyhow::bail!("{name}: unknown expectation {other}"),
        };
    }
    if name.starts_with("mime-is-broken/") {
        let file = name.rsplit('/').next().unwrap_or_default();
        if file.starts_with("v3_fname-cdisp.png_") || file.starts_with("v3_fname-ctype.png_") {
            // The controls: their attachment is file.png for everyone.
            return Ok(Expect::Pass);
        }
        let is_valid = file.starts_with("v2_") || file.starts_with("v3_");
        return Ok(if is_valid { Expect::Detect } else { Expect::DetectOrRefuse });
    }
    if name.ends_with("/inlineVirusTextAttachment.eml") {
        return Ok(Expect::Detect);
    }
    if name.starts_with("spamassassin-gtube/") {
        return Ok(Expect::Any);
    }
    if name.starts_with("yauzl/failure/") || name.starts_with("yauzl/wrong-entry-sizes/") {
        // Each has a fault that makes it unreadable for some; none holds anything bad.
        return Ok(Expect::PassOrRefuse);
    }
    Ok(Expect::PassOrArgued)
}

/// Clean twins of archives with a fault: the index says `PASS (PASS|REJECT where malformed)` of all.
fn is_malformed(name: &str) -> bool {
    ["A06-", "A07b-", "A12b-", "A15-", "A17c-"].iter().any(|fault| name.contains(fault))
}

/// File name and content, if the file is to be attached rather than sent.
fn attachment(name: &str, bytes: &[u8]) -> anyhow::Result<Option<(String, Vec<u8>)>> {
    let file = name.rsplit('/').next().unwrap_or_default();
    if let Some(stem) = file.strip_suffix(".uu") {
        // Of libarchive alone; elsewhere a .uu is a mail with such a body.
        if name.starts_with("libarchive/") {
            let content = uudecoded(bytes).with_context(|| format!("decode {name}"))?;
            return Ok(Some((stem.to_owned(), content)));
        }
    }
    let is_attached =
        file.rsplit_once('.').is_some_and(|(_, extension)| ATTACHMENTS.contains(&extension))
            || name.starts_with("yauzl/");
    Ok(is_attached.then(|| (file.to_owned(), bytes.to_vec())))
}

/// A plain mail with one attachment in base64.
#[must_use]
pub fn with_attachment(file_name: &str, content: &[u8]) -> Vec<u8> {
    use base64::Engine as _;
    let mut mail = format!(
        "From: Alice <alice@client.example>\r\n\
         To: Bob <bob@office.example>\r\n\
         Subject: with a file\r\n\
         Date: Tue, 02 Jan 2024 03:04:05 +0000\r\n\
         Message-ID: <attached@client.example>\r\n\
         MIME-Version: 1.0\r\n\
         Content-Type: multipart/mixed; boundary=\"=_bound\"\r\n\
         \r\n\
         --=_bound\r\n\
         Content-Type: text/plain\r\n\
         \r\n\
         The file.\r\n\
         --=_bound\r\n\
         Content-Type: application/octet-stream; name=\"{file_name}\"\r\n\
         Content-Transfer-Encoding: base64\r\n\
         Content-Disposition: attachment; filename=\"{file_name}\"\r\n\
         \r\n"
    );
    let encoded = base64::engine::general_purpose::STANDARD.encode(content);
    for line in encoded.as_bytes().chunks(76) {
        mail.push_str(&String::from_utf8_lossy(line));
        mail.push_str("\r\n");
    }
    mail.push_str("--=_bound--\r\n");
    mail.into_bytes()
}

/// Decodes `begin … end` (POSIX uuencode).
fn uudecoded(bytes: &[u8]) -> anyhow::Result<Vec<u8>> {
    let mut lines = bytes.split(|&byte| byte == b'\n');
    anyhow::ensure!(lines.any(|line| line.starts_with(b"begin ")), "no line `begin`");
    let mut content = Vec::new();
    for line in lines {
        if line.starts_with(b"end") {
            return Ok(content);
        }
        let Some((&count, digits)) = line.split_first() else { continue };
        let count = usize::from(count.wrapping_sub(b' ') & 63);
        let mut decoded = Vec::new();
        for group in digits.chunks(4) {
            let six =
                |at: usize| u32::from(group.get(at).map_or(0, |&d| d.wrapping_sub(b' ') & 63));
            let word = six(0) << 18 | six(1) << 12 | six(2) << 6 | six(3);
            decoded.extend_from_slice(word.to_be_bytes().get(1..).unwrap_or_default());
        }
        content.extend_from_slice(decoded.get(..count).unwrap_or(&decoded));
    }
    anyhow::bail!("no line `end`")
}

/// The mail in a test case of curl: what its server has, or what its client sends.
fn mail_of_curl(text: &str) -> Option<Vec<u8>> {
    let section = |tag: &str| {
        let (_, rest) = text.split_once(&format!("<{tag}"))?;
        let (_, rest) = rest.split_once(">\n")?;
        let (inside, _) = rest.split_once(&format!("</{tag}>"))?;
        (!inside.trim().is_empty()).then(|| inside.to_owned())
    };
    let mail = section("data").or_else(|| section("stdin")).or_else(|| section("file"))?;
    Some(mail.replace("%CR", "").into_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn uuencoded_files_are_decoded() {
        let text = b"noise\nbegin 644 x\n#0V%T\n`\nend\n";
        assert_eq!(uudecoded(text).unwrap(), b"Cat");
        assert!(uudecoded(b"begin 644 x\n#0V%T\n").is_err());
    }

    #[test]
    fn the_mail_of_a_test_case_is_cut_out() {
        let text = "<reply>\n<data crlf=\"yes\">\nFrom: me%CR\n\nbody\n</data>\n</reply>\n";
        assert_eq!(mail_of_curl(text).unwrap(), b"From: me\n\nbody\n");
        assert_eq!(mail_of_curl("<reply>\n</reply>"), None);
    }

    #[test]
    fn validity_decides_what_is_expected() {
        let of = |name: &str| expectation(name, "").unwrap();
        assert_eq!(of("mime-is-broken/hide-content/v3_x.eml"), Expect::Detect);
        assert_eq!(of("mime-is-broken/hide-content/v0_x.eml"), Expect::DetectOrRefuse);
        assert_eq!(of("enmime/mail/x.raw"), Expect::PassOrArgued);
        assert!(expectation("authored-mime/unknown.eml", "").is_err());
    }
}
