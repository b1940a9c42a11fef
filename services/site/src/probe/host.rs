//! This machine: its addresses, disks, limits, and its service manager.

use std::net::IpAddr;
use std::path::{Path, PathBuf};

use nix::net::if_::InterfaceFlags;
use nix::sys::resource::{Resource, getrlimit};
use nix::sys::statvfs::statvfs;
use wire::identity::Role;

use crate::diag::Found;
use crate::programs::Programs;

/// Less free room than this share, in hundredths, is worth a word; the half of it is wrong.
pub const FREE_PERCENT_MIN: u64 = 10;
/// Open files that a server's settings take with all defaults, and some more.
pub const OPEN_FILES_MIN: u64 = 9_000;

/// Whether the machine is on a network, and which of the site's machines it is.
#[must_use]
pub fn link(machines: &[IpAddr]) -> Found {
    let addresses = match own_addresses() {
        Ok(addresses) => addresses,
        Err(error) => return Found::Unknown(format!("the system does not say: {error}")),
    };
    judge_link(&addresses, machines)
}

/// Addresses of interfaces that are up, with the interfaces' names; without loopback.
fn own_addresses() -> nix::Result<Vec<(String, IpAddr)>> {
    let up = |flags: InterfaceFlags| {
        flags.contains(InterfaceFlags::IFF_UP | InterfaceFlags::IFF_RUNNING)
            && !flags.contains(InterfaceFlags::IFF_LOOPBACK)
    };
    let interfaces = nix::ifaddrs::getifaddrs()?.filter(|interface| up(interface.flags));
    Ok(interfaces
        .filter_map(|interface| {
            let address = interface.address?;
            let v4 = address.as_sockaddr_in().map(|v4| IpAddr::V4(v4.ip()));
            let ip = v4.or_else(|| address.as_sockaddr_in6().map(|v6| IpAddr::V6(v6.ip())))?;
            Some((interface.interface_name, ip))
        })
        .collect())
}

fn judge_link(addresses: &[(String, IpAddr)], machines: &[IpAddr]) -> Found {
    if addresses.is_empty() {
        return Found::wrong(
            "no network interface is up with an address",
            "plug the cable in, and set the interface up (ip link, ip address)",
        );
    }
    let own = addresses.iter().find(|(_, address)| machines.contains(address));
    match own {
        Some((interface, address)) => Found::Good(format!("{interface} is up with {address}")),
        None => {
            let found: Vec<String> =
                addresses.iter().map(|(_, address)| address.to_string()).collect();
            Found::wrong(
                format!("has {}, and none of the site's addresses", found.join(", ")),
                "give it the address that site.toml has for it, or mend site.toml with `avr-site init`",
            )
        }
    }
}

/// Room on the disk of a folder.
#[must_use]
pub fn disk(folder: &Path) -> Found {
    match statvfs(folder) {
        Ok(stat) => {
            let bytes = (stat.blocks_available(), stat.blocks());
            let files = (stat.files_available(), stat.files());
            let (free, all) = bytes;
            let fragment = stat.fragment_size();
            judge_disk(folder, (free * fragment, all * fragment), files)
        }
        Err(error) => Found::wrong(
            format!("{} cannot be looked at: {error}", folder.display()),
            "make the folder, for the user that the servers run as",
        ),
    }
}

fn judge_disk(folder: &Path, bytes: (u64, u64), files: (u64, u64)) -> Found {
    let percent = |(free, all): (u64, u64)| match all {
        // A file system without a number of files has no limit of them.
        0 => 100,
        all => u64::try_from(u128::from(free) * 100 / u128::from(all)).unwrap_or(100),
    };
    let (room, inodes) = (percent(bytes), percent(files));
    let mib = bytes.0 >> 20;
    let what = format!("{}: {mib} MiB free ({room} %), {inodes} % of files free", folder.display());
    let remedy = "delete what is not needed there, or give it a larger disk";
    match room.min(inodes) {
        low if low < FREE_PERCENT_MIN / 2 => Found::wrong(what, remedy),
        low if low < FREE_PERCENT_MIN => Found::doubtful(what, remedy),
        _ => Found::Good(what),
    }
}

/// How many files a server may have open: of its unit where there is systemd, else of this shell.
#[must_use]
pub fn open_files(role: Role, programs: &Programs) -> Found {
    let of_unit = unit_property(role, "LimitNOFILE", programs);
    let limit = match of_unit.as_deref() {
        Some("infinity") => u64::MAX,
        Some(text) => text.parse().unwrap_or(0),
        None => getrlimit(Resource::RLIMIT_NOFILE).map_or(0, |(_, hard)| hard),
    };
    judge_open_files(limit, role)
}

fn judge_open_files(limit: u64, role: Role) -> Found {
    match limit {
        u64::MAX => Found::Good("no limit".to_owned()),
        OPEN_FILES_MIN.. => Found::Good(limit.to_string()),
        _ => Found::wrong(
            format!("avr-{role} may open only {limit} files"),
            "write LimitNOFILE=65536 into its unit (systemctl edit)",
        ),
    }
}

/// Whether systemd has the server running; `None` without systemd.
#[must_use]
pub fn unit(role: Role, programs: &Programs) -> Option<Found> {
    let state = unit_property(role, "ActiveState", programs)?;
    let restarts = unit_property(role, "NRestarts", programs).and_then(|n| n.parse().ok());
    Some(judge_unit(&state, restarts.unwrap_or(0), role))
}

fn judge_unit(state: &str, restarts: u32, role: Role) -> Found {
    match (state, restarts) {
        ("active", 0) => Found::Good("runs".to_owned()),
        ("active", restarts) => Found::doubtful(
            format!("runs, and was started again {restarts} times"),
            format!("look into its log: journalctl -u avr-{role}"),
        ),
        (state, _) => Found::wrong(
            format!("is {}", state.escape_debug()),
            format!("systemctl enable --now avr-{role}; its log: journalctl -u avr-{role}"),
        ),
    }
}

fn unit_property(role: Role, property: &str, programs: &Programs) -> Option<String> {
    // Where systemd runs; systemctl alone says nothing of that (sd_booted(3)).
    if !Path::new("/run/systemd/system").is_dir() {
        return None;
    }
    let unit = format!("avr-{role}.service");
    let printed =
        programs.output("systemctl", &["show", "--value", "--property", property, &unit])?;
    let value = printed.trim();
    (!value.is_empty()).then(|| value.to_owned())
}

/// The folders in which the servers write, as far as they are there.
#[must_use]
pub fn folders(root: &Path, roles: &[Role]) -> Vec<PathBuf> {
    let state = roles.contains(&Role::Auther).then_some("var/lib/avr-auther");
    let spool = roles.contains(&Role::Proxy).then_some("tmp");
    state.into_iter().chain(spool).map(|folder| root.join(folder)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_machine_has_to_be_one_of_the_site() {
        let machines: Vec<IpAddr> = vec!["10.0.0.1".parse().unwrap()];
        let has = |address: &str| vec![("eth0".to_owned(), address.parse().unwrap())];
        assert_eq!(
            judge_link(&has("10.0.0.1"), &machines),
            Found::Good("eth0 is up with 10.0.0.1".to_owned())
        );
        let Found::Wrong { what, .. } = judge_link(&has("10.0.0.9"), &machines) else { panic!() };
        assert_eq!(what, "has 10.0.0.9, and none of the site's addresses");
        assert!(matches!(judge_link(&[], &machines), Found::Wrong { .. }));
    }

    #[test]
    fn a_full_disk_is_seen_by_room_and_by_files() {
        let judge = |bytes, files| judge_disk(Path::new("/x"), bytes, files);
        assert!(matches!(judge((50, 100), (0, 0)), Found::Good(_)));
        assert!(matches!(judge((9, 100), (50, 100)), Found::Doubtful { .. }));
        assert!(matches!(judge((50, 100), (4, 100)), Found::Wrong { .. }));
        assert!(matches!(judge((u64::MAX, u64::MAX), (1, 1)), Found::Good(_)));
        assert!(matches!(disk(Path::new("/nonexistent")), Found::Wrong { .. }));
        assert!(!matches!(disk(Path::new("/")), Found::Unknown(_)));
    }

    #[test]
    fn limits_and_units() {
        assert!(matches!(judge_open_files(OPEN_FILES_MIN, Role::Proxy), Found::Good(_)));
        let low = judge_open_files(OPEN_FILES_MIN - 1, Role::Proxy);
        assert!(matches!(low, Found::Wrong { .. }));
        assert!(matches!(judge_unit("active", 0, Role::Proxy), Found::Good(_)));
        assert!(matches!(judge_unit("active", 3, Role::Proxy), Found::Doubtful { .. }));
        let Found::Wrong { remedy, .. } = judge_unit("failed", 0, Role::Auther) else { panic!() };
        assert!(remedy.starts_with("systemctl enable --now avr-auther"), "{remedy}");
    }
}
