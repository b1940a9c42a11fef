//! Small formats of kernel and firmware: events, kernel messages, EFI variables.

/// A kernel's event about a device.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Uevent {
    /// As in `add`.
    pub action: String,
    /// As in `net`.
    pub subsystem: String,
    /// Which driver it asks for; empty where it has one or needs none.
    pub modalias: String,
}

/// Reads a kernel's event; `None` for one of udev or for what is none.
#[must_use]
pub fn uevent(message: &[u8]) -> Option<Uevent> {
    let mut words = message.split(|&byte| byte == 0);
    // udev's begin with its own name.
    words.next().filter(|header| header.contains(&b'@'))?;
    let mut event = Uevent::default();
    for word in words {
        let Ok(word) = str::from_utf8(word) else { continue };
        match word.split_once('=') {
            Some(("ACTION", value)) => value.clone_into(&mut event.action),
            Some(("SUBSYSTEM", value)) => value.clone_into(&mut event.subsystem),
            Some(("MODALIAS", value)) => value.clone_into(&mut event.modalias),
            _ => {}
        }
    }
    Some(event)
}

/// A record of `/dev/kmsg`: when, in milliseconds since the kernel's start, and what.
#[must_use]
pub fn kernel_message(record: &[u8]) -> Option<(u64, String)> {
    let text = String::from_utf8_lossy(record);
    let (head, rest) = text.split_once(';')?;
    let micros: u64 = head.split(',').nth(2)?.parse().ok()?;
    let line = rest.lines().next().unwrap_or("");
    Some((micros / 1000, crate::ring::escaped(line)))
}

/// The text of an EFI variable as `efivarfs` gives it: four bytes of attributes, then UTF-16.
#[must_use]
pub fn efi_text(bytes: &[u8]) -> Option<String> {
    let units: Vec<u16> = bytes
        .get(4..)?
        .chunks_exact(2)
        .map(|pair| pair.iter().rev().fold(0, |unit, &byte| unit << 8 | u16::from(byte)))
        .take_while(|&unit| unit != 0)
        .collect();
    String::from_utf16(&units).ok()
}

/// The last part of a path as EFI writes it, with backslashes.
#[must_use]
pub fn efi_file(path: &str) -> &str {
    path.rsplit(['\\', '/']).next().unwrap_or(path)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn events_are_read() {
        let message = b"add@/devices/x\0ACTION=add\0DEVPATH=/devices/x\0SUBSYSTEM=virtio\0MODALIAS=virtio:d1v2\0";
        let event = uevent(message).unwrap();
        assert_eq!(
            (event.action.as_str(), event.subsystem.as_str(), event.modalias.as_str()),
            ("add", "virtio", "virtio:d1v2")
        );
        assert_eq!(uevent(b"libudev\0ACTION=add\0"), None);
    }

    #[test]
    fn kernel_messages_are_read() {
        let record = b"6,339,5140900,-;NET: \x1b[31mRegistered\n SUBSYSTEM=net\n";
        assert_eq!(kernel_message(record), Some((5140, "NET: \\u{1b}[31mRegistered".to_owned())));
        assert_eq!(kernel_message(b"6,339"), None);
    }

    #[test]
    fn variables_are_read() {
        let mut bytes = vec![7, 0, 0, 0];
        bytes.extend("\\EFI\\Linux\\avr.efi\0".encode_utf16().flat_map(u16::to_le_bytes));
        let text = efi_text(&bytes).unwrap();
        assert_eq!(efi_file(&text), "avr.efi");
        assert_eq!(efi_text(&[1, 2]), None);
    }

    proptest! {
        #[test]
        fn no_bytes_panic(bytes in any::<Vec<u8>>()) {
            let _ = (uevent(&bytes), kernel_message(&bytes), efi_text(&bytes));
        }
    }
}
