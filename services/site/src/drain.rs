//! `avr-site drain` and `undrain`: no new sessions for a proxy or the whole site.
//!
//! It is the manager that sends sessions to proxies, so it is told, by its own program and over its
//! control socket. A site with several managers is drained on the machine of each.

use std::io::Write;
use std::path::Path;

use anyhow::bail;

use crate::programs::Programs;

/// What is drained.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Whom {
    /// One proxy, by its local or public address.
    Proxy(String),
    /// All of this site's.
    Site,
}

/// What is to be done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Order {
    /// Name it no more; with `wait`, return when nothing is left on it.
    Drain { wait: bool },
    /// Name it again.
    Undrain,
}

/// Tells the manager of this machine; what it says goes to `out` as it comes.
///
/// # Errors
/// There is no manager, or it refuses.
pub fn tell(
    order: &Order,
    whom: &Whom,
    settings: &Path,
    programs: &Programs,
    out: &mut dyn Write,
) -> anyhow::Result<()> {
    if !settings.exists() {
        bail!(
            "there is no {}: this machine is no manager; run it on each of the site's managers",
            settings.display()
        );
    }
    let settings = settings.display().to_string();
    let mut arguments = vec!["--config", settings.as_str()];
    arguments.push(if *order == Order::Undrain { "undrain" } else { "drain" });
    match whom {
        Whom::Proxy(address) => arguments.push(address),
        Whom::Site => arguments.push("--site"),
    }
    if *order == (Order::Drain { wait: true }) {
        arguments.push("--wait");
    }
    programs.follow("avr-manager", &arguments, out)?;
    match order {
        Order::Drain { wait: true } => writeln!(out, "Nothing is left: it can be stopped.")?,
        Order::Drain { wait: false } => writeln!(
            out,
            "No new sessions; the old ones finish. The same with --wait says when none is left."
        )?,
        Order::Undrain => {}
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn the_manager_is_told_and_what_it_says_is_shown() {
        let folder = tempfile::tempdir().unwrap();
        let settings = folder.path().join("manager.toml");
        let programs = Programs::new(Some(folder.path()), None);
        let told = |order: Order, whom: Whom| {
            let mut out = Vec::new();
            let done = tell(&order, &whom, &settings, &programs, &mut out);
            let out = String::from_utf8(out).unwrap();
            done.map(|()| out).map_err(|error| format!("{error:#}"))
        };
        let error = told(Order::Undrain, Whom::Site).unwrap_err();
        assert!(error.contains("this machine is no manager"), "{error}");
        fs::write(&settings, "").unwrap();
        let error = told(Order::Undrain, Whom::Site).unwrap_err();
        assert!(error.starts_with("there is no avr-manager here"), "{error}");

        let program = folder.path().join("avr-manager");
        fs::write(
            &program,
            "#!/bin/sh\nshift 2\necho \"told: $*\"\n[ \"$1\" = drain ] || exit 1\n",
        )
        .unwrap();
        fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
        let said = told(Order::Drain { wait: true }, Whom::Proxy("10.0.0.1".to_owned())).unwrap();
        assert_eq!(said, "told: drain 10.0.0.1 --wait\nNothing is left: it can be stopped.\n");
        let said = told(Order::Drain { wait: false }, Whom::Site).unwrap();
        assert!(said.starts_with("told: drain --site\nNo new sessions; "), "{said}");
        let error = told(Order::Undrain, Whom::Site).unwrap_err();
        assert!(error.starts_with("avr-manager ended with exit status: 1"), "{error}");
    }
}
