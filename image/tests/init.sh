#!/usr/bin/busybox sh
# PID 1 of the boot tests: loads the board's modules as it says, shows what it finds, one line each, and
# ends. A system on trial starts again, so that its tries run out; a good one switches off.
b=/usr/bin/busybox
vendor=4a67b082-0a4c-41cf-b6c7-440b29bb8c4f # the boot loader interface's
say() { echo "TEST $*"; }
# An EFI variable of the boot loader: four bytes of attributes, then UTF-16.
variable() { $b tail -c +5 /sys/firmware/efi/efivars/$1-$vendor 2>/dev/null | $b tr -d '\000'; }

$b mount -t proc proc /proc
$b mount -t sysfs sysfs /sys
$b mount -t devtmpfs dev /dev
say started on "$($b uname -r -m)" after "$($b cut -d ' ' -f 1 /proc/uptime)" s
say cmdline "$($b cat /proc/cmdline)"
for module in $($b sed -n 's/^load = \[\(.*\)\]/\1/p' /etc/avr/board.toml | $b tr -d '",'); do
    $b modprobe "$module" || say "no module $module"
done
# Twice: what drives a bus brings more hardware to light.
for round in 1 2; do
    $b find /sys/devices -name modalias -exec $b cat {} + | $b sort -u | while read -r alias; do
        $b modprobe -q "$alias"
    done
done
$b mount -t efivarfs efivarfs /sys/firmware/efi/efivars || say "no EFI variables"
for port in /sys/class/net/*/device; do
    [ -e "$port" ] || continue
    place=$($b readlink -f "$port")
    # The port of a virtio device is the PCI function above it.
    case $place in */virtio*) place=${place%/*} ;; esac
    say "port ${place##*/}"
done
for part in /sys/class/block/*/partition; do
    disk=${part%/partition}
    disk=${disk##*/}
    for kind in ext4 vfat; do
        $b mount -t $kind -o ro "/dev/$disk" /data 2>/dev/null || continue
        say "partition $($b cat /sys/class/block/$disk/partition) $kind $($b ls /data/EFI/Linux 2>/dev/null | $b tr '\n' ' ')"
        [ ! -e /data/config/serial ] || say "serial $($b cat /data/config/serial)"
        $b umount /data
    done
done
for part in /sys/class/block/*/uevent; do
    $b grep -q '^PARTNAME=DATA$' "$part" && say "data $($b cat "${part%uevent}size")"
done
[ ! -e /dev/watchdog0 ] || say "watchdog $($b cat /sys/class/watchdog/watchdog0/identity)"
/usr/sbin/e2fsck -V 2>&1 | $b head -n 1 | while read -r line; do say "$line"; done
$b ip link add br0 type bridge && say bridge
say entry "$(variable LoaderEntrySelected)"
say count "$(variable LoaderBootCountPath)"
say memory "$($b sed -n 's/^MemAvailable: *//p' /proc/meminfo)" uptime "$($b cut -d ' ' -f 1 /proc/uptime)"
if [ -e /sys/firmware/efi/efivars/LoaderBootCountPath-$vendor ]; then
    say again
    $b reboot -f
fi
say done
$b poweroff -f
