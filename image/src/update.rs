//! Writes `debian.lock` anew: the newest version of each wanted package, of lists that apt has checked.

use std::collections::HashMap;
use std::fs;
use std::path::Path;
use std::process::Command;

use board::Arch;

use crate::ImageError;
use crate::debian::{Lock, Package, Wanted};
use crate::error::{Step as _, run};

/// Debian's keys, of the package `debian-archive-keyring`.
const KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";
const MIRROR: &str = "http://deb.debian.org";
const ARCHES: [Arch; 2] = [Arch::X86_64, Arch::Aarch64];
const HEADING: &str = "# Written by scripts/update-lock: the exact packages that image/packages.toml \
                       asks for.\n# Not to be edited by hand.\n\n";

/// Asks Debian for the newest versions. `folder` is for apt's lists; the machine's own apt is left
/// alone. `snapshot` is the present time, as in `20261126T160000Z`.
///
/// # Errors
/// A list cannot be fetched or is not signed by Debian, or a package is not in any.
pub fn newest(wanted: &Wanted, folder: &Path, snapshot: &str) -> Result<Lock, ImageError> {
    let apt = Apt::new(wanted, folder)?;
    run("fetching Debian's lists", apt.command("apt-get").args(["-qq", "update"]))?;
    let mut packages = Vec::new();
    for arch in ARCHES {
        for name in wanted.packages(arch) {
            let mut found = apt.show(&name, arch)?;
            if name == crate::debian::fill(&wanted.kernel.package, arch) {
                let exact = found.depends.clone();
                found = apt.show(&exact, arch)?;
            }
            packages.push(found.into_package(name, arch)?);
        }
    }
    Ok(Lock { snapshot: snapshot.to_owned(), package: packages })
}

/// The lock as a file.
#[must_use]
pub fn to_text(lock: &Lock) -> String {
    let body =
        toml::to_string(lock).expect("a lock is tables of texts and numbers, which TOML has");
    format!("{HEADING}{body}")
}

/// An apt of our own, with the wanted suites only.
struct Apt {
    config: std::path::PathBuf,
}

impl Apt {
    fn new(wanted: &Wanted, folder: &Path) -> Result<Self, ImageError> {
        let folder =
            std::path::absolute(folder).step(|| "finding the folder for apt".to_owned())?;
        for part in ["lists/partial", "cache/archives/partial", "state"] {
            fs::create_dir_all(folder.join(part)).step(|| format!("making {part} for apt"))?;
        }
        let lines: Vec<String> = wanted
            .suite
            .iter()
            .map(|it| {
                format!("deb [signed-by={KEYRING}] {MIRROR}/{} {} main\n", it.archive, it.suite)
            })
            .collect();
        let at = folder.display();
        let arches: String = ARCHES.map(|arch| format!("\"{}\"; ", arch.debian())).concat();
        let config = format!(
            "Dir::Etc::sourcelist \"{at}/sources.list\";\nDir::Etc::sourceparts \"/dev/null\";\n\
             Dir::Etc::preferences \"/dev/null\";\nDir::Etc::preferencesparts \"/dev/null\";\n\
             Dir::State \"{at}/state\";\nDir::State::lists \"{at}/lists\";\n\
             Dir::State::status \"{at}/state/status\";\nDir::Cache \"{at}/cache\";\n\
             APT::Architectures {{ {arches}}};\nAcquire::Languages \"none\";\n\
             APT::Sandbox::User \"root\";\n"
        );
        let files = [
            ("sources.list", lines.concat()),
            ("apt.conf", config),
            ("state/status", String::new()),
        ];
        for (name, text) in files {
            fs::write(folder.join(name), text).step(|| format!("writing apt's {name}"))?;
        }
        Ok(Self { config: folder.join("apt.conf") })
    }

    fn command(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        command.env("APT_CONFIG", &self.config).env("LC_ALL", "C");
        command
    }

    /// The newest version of a package.
    fn show(&self, name: &str, arch: Arch) -> Result<Shown, ImageError> {
        let mut cache = self.command("apt-cache");
        cache.args(["show", "--no-all-versions"]).arg(format!("{name}:{}", arch.debian()));
        let output = run(&format!("looking for {name} in Debian's lists"), &mut cache)?;
        Ok(Shown::of(&String::from_utf8_lossy(&output.stdout)))
    }
}

/// What `apt-cache show` says of a package.
struct Shown {
    fields: HashMap<String, String>,
    /// The first package it depends on.
    depends: String,
}

impl Shown {
    fn of(text: &str) -> Self {
        let fields: HashMap<String, String> = text
            .lines()
            .take_while(|line| !line.is_empty())
            .filter_map(|line| line.split_once(": "))
            .map(|(key, value)| (key.to_owned(), value.to_owned()))
            .collect();
        let depends = fields.get("Depends").and_then(|all| all.split([' ', ',']).next());
        Self { depends: depends.unwrap_or_default().to_owned(), fields }
    }

    fn into_package(mut self, wanted: String, arch: Arch) -> Result<Package, ImageError> {
        let mut field = |name: &str| {
            self.fields.remove(name).ok_or_else(|| {
                ImageError::Wrong(format!("{wanted}: apt-cache shows no {name}; run it by hand"))
            })
        };
        let (name, version) = (field("Package")?, field("Version")?);
        // Only where it differs: "Source: linux-signed-6.12-amd64 (6.12.117+1)".
        let source = field("Source").unwrap_or_else(|_| name.clone());
        let (source, source_version) = match source.split_once(" (") {
            Some((source, version)) => {
                (source.to_owned(), version.trim_end_matches(')').to_owned())
            }
            None => (source, version.clone()),
        };
        let path = field("Filename")?;
        let security = path.starts_with("pool/updates/");
        let bytes = field("Size")?.parse().map_err(|_| {
            ImageError::Wrong(format!("{name}: apt-cache shows no size; run it by hand"))
        })?;
        let sha256 = field("SHA256")?;
        let archive = if security { "debian-security" } else { "debian" }.to_owned();
        Ok(Package {
            wanted,
            name,
            arch,
            version,
            source,
            source_version,
            archive,
            path,
            bytes,
            sha256,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHOWN: &str = "Package: linux-image-6.12.117+deb12-amd64\n\
        Source: linux-signed-6.12-amd64 (6.12.117+1~deb12u1)\n\
        Version: 6.12.117-1~deb12u1\n\
        Depends: kmod, linux-base (>= 4.3~)\n\
        Filename: pool/updates/main/l/linux-signed-6.12-amd64/x_amd64.deb\n\
        Size: 107179464\nSHA256: 5b85\n\nPackage: other\nVersion: 1\n";

    #[test]
    fn the_first_version_shown_is_taken() {
        let shown = Shown::of(SHOWN);
        assert_eq!(shown.depends, "kmod");
        let package =
            shown.into_package("linux-image-6.12-amd64".to_owned(), Arch::X86_64).unwrap();
        assert_eq!(package.name, "linux-image-6.12.117+deb12-amd64");
        assert_eq!(package.version, "6.12.117-1~deb12u1");
        assert_eq!(package.source, "linux-signed-6.12-amd64");
        assert_eq!(package.source_version, "6.12.117+1~deb12u1");
        assert_eq!((package.archive.as_str(), package.bytes), ("debian-security", 107_179_464));
        let error = Shown::of("Package: x\n").into_package("x".to_owned(), Arch::X86_64);
        assert!(error.unwrap_err().to_string().contains("shows no Version"));
    }

    #[test]
    fn the_lock_is_read_back_as_it_was() {
        let package = Shown::of(SHOWN).into_package("w".to_owned(), Arch::Aarch64).unwrap();
        let lock = Lock { snapshot: "20261126T160000Z".to_owned(), package: vec![package] };
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("debian.lock");
        fs::write(&file, to_text(&lock)).unwrap();
        assert_eq!(Lock::load(&file).unwrap(), lock);
    }
}
