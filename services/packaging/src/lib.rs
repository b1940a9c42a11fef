//! What a package has beside its program: the manual pages, the shell completions, and the licences of
//! what is linked.
//!
//! Purpose: write them from what the programs themselves know. A page of section 8 is the command
//! line as clap has it, and behind it what is written by hand in `pages/` ([`program`]); a page of
//! section 5 is the commented example of a settings file ([`settings`]). So neither can name an
//! option that is no more. Run by `scripts/build-debs`; part of no server. Entry: [`write`].
#![forbid(unsafe_code)]

mod licences;
mod program;
mod roff;
mod settings;

use std::fs;
use std::path::Path;

use anyhow::Context as _;
use clap::CommandFactory as _;
use clap_complete::Shell;

/// A program of the packages.
#[derive(Debug)]
struct Program {
    command: clap::Command,
    /// What follows on its page after the options: roff, written by hand.
    page: &'static str,
    /// Its settings file: its name, and the example of it.
    settings: Option<(&'static str, &'static str)>,
}

fn programs() -> Vec<Program> {
    vec![
        Program {
            command: auther::args::Args::command(),
            page: include_str!("../pages/avr-auther.roff"),
            settings: Some(("auther.toml", include_str!("../../auther/auther.example.toml"))),
        },
        Program {
            command: manager::args::Args::command(),
            page: include_str!("../pages/avr-manager.roff"),
            settings: Some(("manager.toml", include_str!("../../manager/manager.example.toml"))),
        },
        Program {
            command: proxy::args::Args::command(),
            page: include_str!("../pages/avr-proxy.roff"),
            settings: Some(("proxy.toml", include_str!("../../proxy/proxy.example.toml"))),
        },
        Program {
            command: site::args::Args::command(),
            page: include_str!("../pages/avr-site.roff"),
            settings: None,
        },
    ]
}

/// Writes everything into `folder`: `avr-proxy.8`, `avr-proxy.toml.5`, and `avr-proxy.bash`,
/// `_avr-proxy`, `avr-proxy.fish`, `avr-proxy.licences`. `date` stands on the pages.
///
/// # Errors
/// A file cannot be written, or `cargo` does not say what the programs are linked with.
pub fn write(folder: &Path, date: &str) -> anyhow::Result<()> {
    fs::create_dir_all(folder).with_context(|| format!("make {}", folder.display()))?;
    let write = |name: String, bytes: &[u8]| {
        let path = folder.join(name);
        fs::write(&path, bytes).with_context(|| format!("write {}", path.display()))
    };
    let metadata = licences::Metadata::ask()?;
    for Program { mut command, page, settings } in programs() {
        let name = command.get_name().to_owned();
        let linked = licences::file(&metadata, name.trim_start_matches("avr-"))?;
        write(format!("{name}.licences"), linked.as_bytes())?;
        write(format!("{name}.8"), &program::page(&command, page, date)?)?;
        if let Some((file, example)) = settings {
            let page = settings::page(&name, file, example, date);
            write(format!("{name}.toml.5"), page.as_bytes())?;
        }
        for shell in [Shell::Bash, Shell::Zsh, Shell::Fish] {
            clap_complete::generate_to(shell, &mut command, &name, folder)
                .with_context(|| format!("write the {shell} completions of {name}"))?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const DATE: &str = "2026-11-26";

    #[test]
    fn every_program_has_its_pages_and_completions() {
        let folder = tempfile::tempdir().unwrap();
        write(folder.path(), DATE).unwrap();
        for program in programs() {
            let name = program.command.get_name();
            let settings = program.settings.map(|_| format!("{name}.toml.5"));
            let files =
                [".8", ".bash", ".fish", ".licences"].map(|suffix| format!("{name}{suffix}"));
            for file in files.into_iter().chain([format!("_{name}")]).chain(settings) {
                let text = fs::read_to_string(folder.path().join(&file)).unwrap();
                // Roff writes a hyphen so.
                assert!(text.replace("\\-", "-").contains(name), "{file}");
            }
        }
    }

    #[test]
    fn a_program_page_has_the_sections_that_an_operator_looks_for() {
        for program in programs() {
            let page = program::page(&program.command, program.page, DATE).unwrap();
            let page = String::from_utf8(page).unwrap();
            for section in [
                "NAME",
                "SYNOPSIS",
                "DESCRIPTION",
                "OPTIONS",
                "COMMANDS",
                "FILES",
                "SIGNALS",
                "EXIT STATUS",
                "EXAMPLES",
                "SEE ALSO",
            ] {
                let times = page.lines().filter(|line| *line == format!(".SH {section}")).count();
                assert_eq!(times, 1, "{}: {section}", program.command.get_name());
            }
        }
    }

    /// Every verb that is no secret is on the page, and the hidden ones are not.
    #[test]
    fn a_program_page_names_every_command() {
        let programs = programs();
        let page = |name: &str| {
            let program = programs.iter().find(|program| program.command.get_name() == name);
            let program = program.unwrap();
            let page = program::page(&program.command, program.page, DATE).unwrap();
            String::from_utf8(page).unwrap()
        };
        let auther = page("avr-auther");
        for verb in ["init", "issue", "add", "suspend", "remove", "list", "serve", "config check"] {
            let line = format!(".SS \"avr\\-auther {verb}");
            assert!(auther.contains(&line), "{verb}: {auther}");
        }
        assert!(auther.contains("\\fB\\-\\-sessions\\-max <N>\\fR\n"), "{auther}");
        assert!(!page("avr-proxy").contains("scan\\-worker"));
    }
}
