//! Texts of a board file that have a form, and cannot be wrong once read.

use std::fmt;

use serde::de::{Deserialize, Deserializer, Error as _, Unexpected};
use serde::ser::{Serialize, Serializer};

/// Longest name of a module or a terminal, in bytes; the kernel's own limit is 56.
const NAME_BYTES_MAX: usize = 55;
/// Most ports that `nth:` counts.
const NTH_MAX: u8 = 16;
/// Speeds that serial ports have, in bit/s.
const BAUDS: [u32; 7] = [9_600, 19_200, 38_400, 57_600, 115_200, 921_600, 1_500_000];

/// Makes a text type that is checked while it is read, so that the error knows its line.
macro_rules! checked_text {
    ($name:ident, $expected:literal) => {
        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text = String::deserialize(deserializer)?;
                Self::parse(&text)
                    .ok_or_else(|| D::Error::invalid_value(Unexpected::Str(&text), &$expected))
            }
        }

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }
    };
}

/// Name of a kernel module, with `_` throughout, as the kernel shows it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ModuleName(String);

impl ModuleName {
    /// `None` where no module is called that. `-` and `_` are the same.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'-';
        let good = !text.is_empty() && text.len() <= NAME_BYTES_MAX && text.bytes().all(plain);
        good.then(|| Self(text.replace('-', "_")))
    }

    /// The name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for ModuleName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

checked_text!(ModuleName, "the name of a kernel module, as in \"igc\"");

/// Name of a terminal in `/dev`, without the folder.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tty(String);

impl Tty {
    /// `None` where that is no terminal's name.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let rest = text.strip_prefix("tty").or_else(|| text.strip_prefix("hvc"))?;
        let good = !rest.is_empty()
            && text.len() <= NAME_BYTES_MAX
            && rest.bytes().all(|byte| byte.is_ascii_alphanumeric())
            && rest.bytes().last().is_some_and(|byte| byte.is_ascii_digit());
        good.then(|| Self(text.to_owned()))
    }

    /// The name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether it is a serial line, which has a speed: not a screen (`tty0`), nor a hypervisor's.
    #[must_use]
    pub fn is_serial(&self) -> bool {
        self.0
            .strip_prefix("tty")
            .is_some_and(|rest| !rest.starts_with(|c: char| c.is_ascii_digit()))
    }
}

impl fmt::Display for Tty {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

checked_text!(Tty, "the name of a terminal without /dev/, as in \"ttyS0\"");

/// Which network port, by where it is and not by what the kernel happens to call it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Port {
    /// `pci:0000:01:00.0`: domain, bus, device and function, as in `/sys/bus/pci/devices`.
    Pci(String),
    /// `platform:fe300000.ethernet`: as in `/sys/bus/platform/devices`.
    Platform(String),
    /// `nth:1`: the first of the wired ports in the order of their places in `/sys/devices`. For
    /// boards that are not known.
    Nth(u8),
}

impl Port {
    /// `None` where the text names no port.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let (bus, place) = text.split_once(':')?;
        match bus {
            "pci" => is_pci_address(place).then(|| Self::Pci(place.to_owned())),
            "platform" => {
                let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"._-:@".contains(&byte);
                let good = !place.is_empty() && !place.starts_with('.') && place.bytes().all(plain);
                good.then(|| Self::Platform(place.to_owned()))
            }
            "nth" => {
                let nth = place.parse().ok().filter(|nth| (1..=NTH_MAX).contains(nth))?;
                (place == nth.to_string()).then_some(Self::Nth(nth))
            }
            _ => None,
        }
    }
}

/// Whether the text is `DDDD:BB:DD.F`, in lower-case hex digits.
fn is_pci_address(text: &str) -> bool {
    let pattern = b"xxxx:xx:xx.x";
    text.len() == pattern.len()
        && text.bytes().zip(pattern).all(|(byte, &wanted)| match wanted {
            b'x' => matches!(byte, b'0'..=b'9' | b'a'..=b'f'),
            _ => byte == wanted,
        })
}

impl fmt::Display for Port {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Pci(place) => write!(f, "pci:{place}"),
            Self::Platform(place) => write!(f, "platform:{place}"),
            Self::Nth(nth) => write!(f, "nth:{nth}"),
        }
    }
}

checked_text!(
    Port,
    "where the port is, as in \"pci:0000:01:00.0\", \"platform:fe300000.ethernet\" or \"nth:1\""
);

/// Which machines an image is for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Machine {
    /// `dmi:VENDOR:PRODUCT`, as in `/sys/class/dmi/id/{sys_vendor,product_name}`; a `*` at the end of
    /// either stands for any rest.
    Dmi {
        /// Who made it.
        vendor: String,
        /// What it is called.
        product: String,
    },
    /// `of:COMPATIBLE`: one of the words in `/proc/device-tree/compatible`.
    DeviceTree(String),
}

impl Machine {
    /// `None` where the text names no machine.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        match text.split_once(':')? {
            ("dmi", rest) => {
                let (vendor, product) = rest.split_once(':')?;
                let good = !vendor.is_empty() && !product.is_empty();
                good.then(|| Self::Dmi { vendor: vendor.to_owned(), product: product.to_owned() })
            }
            ("of", compatible) => {
                let good = !compatible.is_empty() && !compatible.contains(char::is_whitespace);
                good.then(|| Self::DeviceTree(compatible.to_owned()))
            }
            _ => None,
        }
    }

    /// Whether a machine with these DMI texts (blanks at their ends do not count) is meant.
    #[must_use]
    pub fn fits_dmi(&self, sys_vendor: &str, product_name: &str) -> bool {
        let Self::Dmi { vendor, product } = self else { return false };
        fits(vendor, sys_vendor.trim()) && fits(product, product_name.trim())
    }

    /// Whether a machine with this word in its device tree's `compatible` is meant.
    #[must_use]
    pub fn fits_device_tree(&self, word: &str) -> bool {
        matches!(self, Self::DeviceTree(compatible) if compatible == word)
    }
}

fn fits(pattern: &str, text: &str) -> bool {
    match pattern.strip_suffix('*') {
        Some(start) => text.starts_with(start),
        None => text == pattern,
    }
}

impl fmt::Display for Machine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Dmi { vendor, product } => write!(f, "dmi:{vendor}:{product}"),
            Self::DeviceTree(compatible) => write!(f, "of:{compatible}"),
        }
    }
}

checked_text!(Machine, "a machine, as in \"dmi:VENDOR:PRODUCT*\" or \"of:pine64,rockpro64\"");

/// Speed of a serial line, in bit/s.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Baud(u32);

impl Baud {
    /// `None` where serial ports have no such speed.
    #[must_use]
    pub fn new(bits_per_second: u32) -> Option<Self> {
        BAUDS.contains(&bits_per_second).then_some(Self(bits_per_second))
    }

    /// In bit/s.
    #[must_use]
    pub fn bits_per_second(self) -> u32 {
        self.0
    }
}

impl<'de> Deserialize<'de> for Baud {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let number = u32::deserialize(deserializer)?;
        Self::new(number).ok_or_else(|| {
            let expected = format!("one of {}", BAUDS.map(|baud| baud.to_string()).join(", "));
            D::Error::invalid_value(Unexpected::Unsigned(number.into()), &expected.as_str())
        })
    }
}

impl Serialize for Baud {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_u32(self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_is_a_place_and_never_a_name() {
        for good in ["pci:0000:00:03.0", "pci:0000:0a:1f.7", "platform:fe300000.ethernet", "nth:2"]
        {
            assert_eq!(Port::parse(good).unwrap().to_string(), good);
        }
        let bad = [
            "eth0",
            "pci:eth0",
            "pci:00:03.0",
            "pci:0000:00:03.0 ",
            "pci:0000:00:03:0",
            "pci:0000:00:0G.0",
            "pci:0000:00:0A.0",
            "platform:",
            "platform:../x",
            "platform:a/b",
            "nth:0",
            "nth:01",
            "nth:17",
            "nth:",
            "usb:1",
            "",
        ];
        for bad in bad {
            assert_eq!(Port::parse(bad), None, "{bad}");
        }
    }

    #[test]
    fn a_screen_has_no_speed() {
        let serial = |name| Tty::parse(name).unwrap().is_serial();
        assert!(serial("ttyS0") && serial("ttyAMA0") && serial("ttyMV0"));
        assert!(!serial("tty0") && !serial("tty1") && !serial("hvc0"));
        for bad in ["", "tty", "console", "/dev/ttyS0", "ttyS", "ttyS0,115200", "tty S0"] {
            assert_eq!(Tty::parse(bad), None, "{bad}");
        }
    }

    #[test]
    fn module_names_are_spelt_in_one_way() {
        assert_eq!(ModuleName::parse("xhci-pci").unwrap().as_str(), "xhci_pci");
        for bad in ["", "a b", "a/b", "a.ko", &"x".repeat(56)] {
            assert_eq!(ModuleName::parse(bad), None, "{bad}");
        }
    }

    #[test]
    fn machines_are_told_by_what_firmware_says() {
        let vault = Machine::parse("dmi:Protectli:VP2420*").unwrap();
        assert!(vault.fits_dmi("Protectli\n", "VP2420-4\n"));
        assert!(!vault.fits_dmi("Protectli", "FW4B") && !vault.fits_dmi("Other", "VP2420"));
        assert!(!vault.fits_device_tree("Protectli"));
        let any = Machine::parse("dmi:*:*").unwrap();
        assert!(any.fits_dmi("x", "y"));
        let pine = Machine::parse("of:pine64,rockpro64").unwrap();
        assert!(pine.fits_device_tree("pine64,rockpro64"));
        assert!(!pine.fits_device_tree("pine64,rockpro64-v2.1") && !pine.fits_dmi("pine64", "x"));
        for bad in ["", "dmi:x", "dmi::x", "dmi:x:", "of:", "of:a b", "usb:x"] {
            assert_eq!(Machine::parse(bad), None, "{bad}");
        }
    }
}
