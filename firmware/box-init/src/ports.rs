//! Which interfaces are the two ports: by their place on the bus, never by what the kernel calls them.

use board::Port;

/// An interface with hardware behind it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Interface {
    /// What the kernel calls it.
    pub name: String,
    /// Its device in `/sys`, resolved, as in `/sys/devices/pci0000:00/0000:00:03.0/virtio0`.
    pub device: String,
    /// It is wired Ethernet.
    pub wired: bool,
}

/// The interface at this place.
#[must_use]
pub fn find<'a>(place: &Port, interfaces: &'a [Interface]) -> Option<&'a Interface> {
    match place {
        Port::Pci(address) => interfaces
            .iter()
            .find(|interface| interface.wired && is_pci(&interface.device, address)),
        Port::Platform(name) => interfaces
            .iter()
            .find(|interface| interface.wired && steps(&interface.device).any(|step| step == name)),
        Port::Nth(nth) => {
            let mut wired: Vec<&Interface> = interfaces
                .iter()
                .filter(|interface| interface.wired && !is_usb(interface))
                .collect();
            // Numbers are of the same width within a bus, so the order of texts is that of places.
            wired.sort_by(|a, b| a.device.cmp(&b.device).then(a.name.cmp(&b.name)));
            wired.get(usize::from(*nth).checked_sub(1)?).copied()
        }
    }
}

/// Whether the nearest PCI device is this one, and nothing that is plugged into it.
fn is_pci(device: &str, address: &str) -> bool {
    let nearest = steps(device).filter(|step| is_pci_step(step)).last();
    nearest == Some(address) && !steps(device).any(is_usb_step)
}

fn is_usb(interface: &Interface) -> bool {
    steps(&interface.device).any(is_usb_step)
}

fn is_usb_step(step: &str) -> bool {
    step.strip_prefix("usb")
        .is_some_and(|rest| !rest.is_empty() && rest.bytes().all(|byte| byte.is_ascii_digit()))
}

/// As in `0000:00:03.0`.
fn is_pci_step(step: &str) -> bool {
    step.len() == 12
        && step.bytes().enumerate().all(|(at, byte)| match at {
            4 | 7 => byte == b':',
            10 => byte == b'.',
            _ => byte.is_ascii_hexdigit(),
        })
}

fn steps(device: &str) -> impl Iterator<Item = &str> {
    device.split('/')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn interface(name: &str, device: &str) -> Interface {
        Interface { name: name.to_owned(), device: format!("/sys/devices/{device}"), wired: true }
    }

    fn machine() -> Vec<Interface> {
        vec![
            interface("eth1", "pci0000:00/0000:00:03.0/virtio0"),
            interface("eth0", "pci0000:00/0000:00:1c.0/0000:02:00.0"),
            interface("usb0", "pci0000:00/0000:00:14.0/usb1/1-2/1-2:1.0"),
            interface("end0", "platform/fe300000.ethernet"),
            Interface { wired: false, ..interface("wlan0", "pci0000:00/0000:00:02.0") },
        ]
    }

    #[test]
    fn ports_are_found_by_their_places() {
        let machine = machine();
        let at = |place: &str| {
            find(&Port::parse(place).unwrap(), &machine).map(|interface| interface.name.as_str())
        };
        assert_eq!(at("pci:0000:00:03.0"), Some("eth1"));
        assert_eq!(at("pci:0000:02:00.0"), Some("eth0"));
        // A bridge on the way, what is plugged into a controller, and what has no wire.
        assert_eq!(at("pci:0000:00:1c.0"), None);
        assert_eq!(at("pci:0000:00:14.0"), None);
        assert_eq!(at("pci:0000:00:02.0"), None);
        assert_eq!(at("platform:fe300000.ethernet"), Some("end0"));
        assert_eq!(at("nth:1"), Some("eth1"));
        assert_eq!(at("nth:2"), Some("eth0"));
        assert_eq!(at("nth:3"), Some("end0"));
        assert_eq!(at("nth:4"), None);
    }
}
