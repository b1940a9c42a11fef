//! What is in an image, as CycloneDX 1.5: crates of the programs, and Debian's packages with the source
//! packages that the GPL has us offer.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;

use board::{Arch, Board};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::debian::{Package, sha256};
use crate::error::{Step as _, run};
use crate::{ImageError, Release};

/// Length of a UUID, in bytes.
const UUID_BYTES: usize = 16;

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Bom {
    bom_format: &'static str,
    spec_version: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    serial_number: Option<String>,
    version: u32,
    metadata: Metadata,
    components: Vec<Component>,
}

#[derive(Serialize)]
struct Metadata {
    component: Component,
}

/// A thing that is in the image.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Component {
    r#type: &'static str,
    name: String,
    version: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    purl: Option<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    hashes: Vec<Hash>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    licenses: Vec<Licence>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    properties: Vec<Property>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
struct Hash {
    alg: &'static str,
    content: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
struct Licence {
    expression: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
struct Property {
    name: &'static str,
    value: String,
}

#[derive(Deserialize)]
struct CargoLock {
    package: Vec<CargoPackage>,
}

#[derive(Deserialize)]
struct CargoPackage {
    name: String,
    version: String,
    checksum: Option<String>,
}

/// The whole list as JSON.
#[must_use]
pub fn to_json(board: &Board, release: &Release, components: &[Component]) -> String {
    let mut bom = Bom {
        bom_format: "CycloneDX",
        spec_version: "1.5",
        serial_number: None,
        version: 1,
        metadata: Metadata {
            component: Component {
                r#type: "firmware",
                name: format!("avr-{}", board.id),
                version: release.version.clone(),
                purl: None,
                hashes: Vec::new(),
                licenses: Vec::new(),
                properties: vec![
                    Property { name: "avr:build", value: release.build.to_string() },
                    Property { name: "avr:commit", value: release.commit.clone() },
                ],
            },
        },
        components: components.to_vec(),
    };
    let text = |bom: &Bom| serde_json::to_string_pretty(bom).expect("texts and numbers are JSON");
    // A list that says the same has the same number.
    let digest = sha256(text(&bom).as_bytes());
    let mut bytes = [0; UUID_BYTES];
    for (to, from) in bytes.iter_mut().zip(digest.as_bytes().chunks(2)) {
        let digits = std::str::from_utf8(from).expect("hex digits are text");
        *to = u8::from_str_radix(digits, 16).expect("they are hex digits");
    }
    let uuid: Uuid = uuid::Builder::from_custom_bytes(bytes).into_uuid();
    bom.serial_number = Some(format!("urn:uuid:{uuid}"));
    text(&bom) + "\n"
}

/// A Debian package.
#[must_use]
pub fn of_debian(package: &Package) -> Component {
    let Package { name, version, arch, sha256, source, source_version, .. } = package;
    let source = format!("{source} ({source_version})");
    Component {
        r#type: "library",
        name: name.clone(),
        version: version.clone(),
        purl: Some(format!(
            "pkg:deb/debian/{}@{}?arch={}",
            escaped(name),
            escaped(version),
            arch.debian()
        )),
        hashes: vec![Hash { alg: "SHA-256", content: sha256.clone() }],
        licenses: Vec::new(),
        properties: vec![Property { name: "avr:debian-source", value: source }],
    }
}

/// What a package's URL cannot hold as it is.
fn escaped(text: &str) -> String {
    text.replace('%', "%25").replace('+', "%2B").replace(':', "%3A").replace('~', "%7E")
}

/// The crates that these crates of the workspace link, themselves included.
///
/// # Errors
/// Cargo does not know them.
pub fn of_crates(
    workspace: &Path,
    crates: &[String],
    arch: Arch,
) -> Result<Vec<Component>, ImageError> {
    if crates.is_empty() {
        return Ok(Vec::new());
    }
    let mut tree = Command::new("cargo");
    // Of `cargo tree`, because `cargo metadata` counts crates that no feature switches on.
    tree.current_dir(workspace)
        .args(["tree", "--locked", "--edges=normal", "--prefix=none", "--format={p}|{l}"])
        .arg(format!("--target={}-unknown-linux-gnu", arch.name()))
        .args(crates.iter().map(|name| format!("--package={name}")));
    let lines = run("listing the crates of the programs", &mut tree)?.stdout;
    let path = workspace.join("Cargo.lock");
    let step = || format!("reading {}", path.display());
    let lock = std::fs::read_to_string(&path).step(step)?;
    let lock: CargoLock = toml::from_str(&lock)
        .map_err(|error| ImageError::Wrong(format!("{}: {error}", path.display())))?;
    let checksums: BTreeMap<(String, String), String> = lock
        .package
        .into_iter()
        .filter_map(|package| Some(((package.name, package.version), package.checksum?)))
        .collect();
    Ok(components(&String::from_utf8_lossy(&lines), &checksums))
}

/// Of lines as `serde v1.0.229 (proc-macro)|MIT (*)`.
fn components(lines: &str, checksums: &BTreeMap<(String, String), String>) -> Vec<Component> {
    let mut found = BTreeMap::new();
    for line in lines.lines() {
        let Some((package, licence)) = line.split_once('|') else { continue };
        let mut words = package.split(' ');
        let (Some(name), Some(version)) = (words.next(), words.next()) else { continue };
        // What runs while compiling is not in the program.
        if package.contains("(proc-macro)") {
            continue;
        }
        let version = version.trim_start_matches('v').to_owned();
        let key = (name.to_owned(), version);
        let checksum = checksums.get(&key);
        let component = Component {
            r#type: "library",
            name: key.0.clone(),
            version: key.1.clone(),
            purl: checksum.map(|_| format!("pkg:cargo/{}@{}", key.0, escaped(&key.1))),
            hashes: checksum
                .map(|sum| Hash { alg: "SHA-256", content: sum.clone() })
                .into_iter()
                .collect(),
            licenses: expression(licence).into_iter().collect(),
            properties: Vec::new(),
        };
        found.insert(key, component);
    }
    found.into_values().collect()
}

/// Cargo's old way of writing "or" is none for SPDX.
fn expression(licence: &str) -> Option<Licence> {
    let licence = licence.trim_end_matches("(*)").trim();
    let expression = licence.replace(" / ", " OR ").replace('/', " OR ");
    (!expression.is_empty()).then_some(Licence { expression })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn crates_are_those_that_are_linked() {
        let lines = "avr v0.1.0 (/work/firmware/avr)|Apache-2.0 OR MIT\n\
                     serde v1.0.229|MIT OR Apache-2.0\n\
                     serde_derive v1.0.229 (proc-macro)|MIT OR Apache-2.0\n\
                     byteorder v1.5.0|Unlicense/MIT\n\
                     serde v1.0.229|MIT OR Apache-2.0 (*)\n";
        let sums = BTreeMap::from([(("serde".to_owned(), "1.0.229".to_owned()), "ab".to_owned())]);
        let all = components(lines, &sums);
        let names: Vec<&str> = all.iter().map(|it| it.name.as_str()).collect();
        assert_eq!(names, ["avr", "byteorder", "serde"]);
        assert_eq!(all[0].purl, None);
        assert_eq!(all[1].licenses[0].expression, "Unlicense OR MIT");
        assert_eq!(all[2].purl.as_deref(), Some("pkg:cargo/serde@1.0.229"));
        assert_eq!(all[2].licenses[0].expression, "MIT OR Apache-2.0");
    }
}
