//! What the loader says, in the firmware's variables.

use std::path::Path;

use super::files;
use crate::disk::Guid;
use crate::texts;

/// The loader's vendor (Boot Loader Interface).
const LOADER: &str = "4a67b082-0a4c-41cf-b6c7-440b29bb8c4f";

/// What the loader says of this start.
#[derive(Debug, Default)]
pub(crate) struct Loader {
    /// The entry that was started, as a file's name.
    pub(crate) entry: Option<String>,
    /// The same after its starts were counted; `None`: nothing was counted.
    pub(crate) counted: Option<String>,
    /// The partition that the loader came from.
    pub(crate) partition: Option<Guid>,
}

impl Loader {
    pub(crate) fn read() -> Self {
        let variable = |name: &str| {
            let path = format!("/sys/firmware/efi/efivars/{name}-{LOADER}");
            files::read(Path::new(&path)).ok().and_then(|bytes| texts::efi_text(&bytes))
        };
        Self {
            entry: variable("LoaderEntrySelected").filter(|entry| !entry.is_empty()),
            counted: variable("LoaderBootCountPath")
                .map(|path| texts::efi_file(&path).to_owned())
                .filter(|entry| !entry.is_empty()),
            partition: variable("LoaderDevicePartUUID").and_then(|text| Guid::parse(&text)),
        }
    }

    /// The running slot's file, as it is called now.
    pub(crate) fn running(&self) -> Option<&str> {
        self.counted.as_deref().or(self.entry.as_deref())
    }
}
