//! What is mounted where before anything else, and the kernel's settings.

use std::fs;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::Path;

use nix::errno::Errno;
use nix::mount::{MsFlags, mount};

use super::files;

/// A file system of the kernel's own.
struct Mount {
    kind: &'static str,
    at: &'static str,
    flags: MsFlags,
    options: &'static str,
}

fn table() -> [Mount; 8] {
    let strict = MsFlags::MS_NOSUID | MsFlags::MS_NOEXEC | MsFlags::MS_NODEV;
    let devices = MsFlags::MS_NOSUID | MsFlags::MS_NOEXEC;
    [
        Mount { kind: "proc", at: "/proc", flags: strict, options: "" },
        Mount { kind: "sysfs", at: "/sys", flags: strict, options: "" },
        Mount { kind: "devtmpfs", at: "/dev", flags: devices, options: "mode=0755" },
        Mount {
            kind: "devpts",
            at: "/dev/pts",
            flags: devices,
            options: "mode=0600,ptmxmode=0600",
        },
        Mount { kind: "tmpfs", at: "/run", flags: strict, options: "mode=0755,size=16m" },
        Mount { kind: "tmpfs", at: "/tmp", flags: strict, options: "mode=1777,size=20%" },
        Mount { kind: "cgroup2", at: "/sys/fs/cgroup", flags: strict, options: "" },
        Mount { kind: "pstore", at: "/sys/fs/pstore", flags: strict, options: "" },
    ]
}

/// Mounts what the kernel offers; what failed, for the log, which is not there yet.
pub(crate) fn early() -> Vec<String> {
    let mut problems = Vec::new();
    for Mount { kind, at, flags, options } in table() {
        // Below /sys the folders are the kernel's.
        let _ = fs::create_dir_all(at);
        match mount(Some(kind), at, Some(kind), flags, Some(options)) {
            Ok(()) | Err(Errno::EBUSY) => {}
            Err(error) => problems.push(format!("mount {kind} on {at}: {error}")),
        }
    }
    problems
}

/// The firmware's variables, where there are any.
pub(crate) fn efi_variables() {
    let at = "/sys/firmware/efi/efivars";
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NOEXEC | MsFlags::MS_NODEV;
    if Path::new(at).is_dir() && files::names(at).is_empty() {
        match mount(Some("efivarfs"), at, Some("efivarfs"), flags, None::<&str>) {
            Ok(()) | Err(Errno::EBUSY) => {}
            Err(error) => tracing::warn!(%error, "the firmware's variables cannot be mounted"),
        }
    }
}

/// A file system in memory in place of a partition.
pub(crate) fn memory(at: &Path, size: &str, mode: u32) -> Result<(), Errno> {
    let _ = fs::create_dir_all(at);
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NOEXEC | MsFlags::MS_NODEV;
    mount(
        Some("tmpfs"),
        at,
        Some("tmpfs"),
        flags,
        Some(format!("size={size},mode={mode:o}").as_str()),
    )
}

/// Folders of PID 1 and of services, and what the root needs before it is closed for writing.
pub(crate) fn folders() {
    for (folder, mode) in [("/run/init", 0o755), ("/run/avr", 0o755)] {
        let made = fs::create_dir_all(folder)
            .and_then(|()| fs::set_permissions(folder, fs::Permissions::from_mode(mode)));
        if let Err(error) = made {
            tracing::error!(%error, folder, "a folder cannot be made");
        }
    }
    for folder in ["/etc", "/state", "/data", "/mnt"] {
        let _ = fs::create_dir_all(folder);
    }
    // The DHCP client runs its script by name; the script is PID 1's program by another name.
    let _ = symlink("/usr/bin/box-init", "/run/init/dhcp-script");
    // So does the kernel when it misses a module.
    let _ = symlink("/usr/bin/box-init", "/run/init/modprobe");
    let _ = fs::remove_file("/etc/resolv.conf");
    let _ = symlink("/run/init/resolv.conf", "/etc/resolv.conf");
    let _ = symlink("/proc/mounts", "/etc/mtab");
}

/// From here on nothing can be changed in what came with the image.
pub(crate) fn close_root() {
    let flags = MsFlags::MS_REMOUNT | MsFlags::MS_RDONLY;
    if let Err(error) = mount(None::<&str>, "/", None::<&str>, flags, None::<&str>) {
        tracing::warn!(%error, "the root stays open for writing");
    }
}

/// Settings of the kernel, below `/proc/sys`; those of a bridge that filters are there only with a module
/// that the image does not have.
const KERNEL: &[(&str, &str)] = &[
    // The box is a bridge for others and a host for itself: it routes nothing.
    ("net/ipv4/ip_forward", "0"),
    ("net/ipv6/conf/all/forwarding", "0"),
    ("net/bridge/bridge-nf-call-iptables", "0"),
    ("net/bridge/bridge-nf-call-ip6tables", "0"),
    ("net/bridge/bridge-nf-call-arptables", "0"),
    ("net/ipv4/conf/all/accept_redirects", "0"),
    ("net/ipv4/conf/default/accept_redirects", "0"),
    ("net/ipv6/conf/all/accept_redirects", "0"),
    ("net/ipv6/conf/default/accept_redirects", "0"),
    ("net/ipv4/conf/all/send_redirects", "0"),
    ("net/ipv4/conf/all/accept_source_route", "0"),
    ("net/ipv4/conf/all/arp_ignore", "1"),
    ("net/ipv4/tcp_syncookies", "1"),
    // Interfaces have no address of their own until somebody says so: the ports never do.
    ("net/ipv6/conf/default/disable_ipv6", "1"),
    ("kernel/modprobe", "/run/init/modprobe"),
    ("kernel/kptr_restrict", "2"),
    ("kernel/dmesg_restrict", "1"),
    ("kernel/unprivileged_bpf_disabled", "1"),
    ("kernel/yama/ptrace_scope", "2"),
    ("kernel/kexec_load_disabled", "1"),
    ("kernel/sysrq", "0"),
    ("fs/protected_symlinks", "1"),
    ("fs/protected_hardlinks", "1"),
    ("fs/suid_dumpable", "0"),
    ("vm/overcommit_memory", "0"),
    ("vm/panic_on_oom", "0"),
];

/// Sets them; those that this kernel does not have are skipped.
pub(crate) fn kernel_settings() {
    for (key, value) in KERNEL {
        let path = format!("/proc/sys/{key}");
        if Path::new(&path).exists()
            && let Err(error) = files::put(&path, value)
        {
            tracing::warn!(%error, key, "a setting of the kernel cannot be set");
        }
    }
}
