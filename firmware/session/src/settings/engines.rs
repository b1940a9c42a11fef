//! From settings to engines and texts.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use config::{ConfigError, Document};
use mail::notice::{Kind, Language, TEMPLATE_BYTES_MAX, Template, TemplateError, Templates};
use scan::engine::cache::{AGE_MAX_DEFAULT, CachedEngine, ENTRIES_MAX_DEFAULT, VerdictCache};
use scan::engine::clamd::ClamdEngine;
use scan::engine::icap::IcapEngine;
use scan::engine::pool::ServerSettings;
use scan::local::block::BlockRules;
use scan::local::hashes::HashLists;
use scan::worker::Knowledge;
use scan::worker::pool::{Isolation, Workers};
use scan::yara::CompiledRules;
use scan::{Engine, Scanner};
use spool::Spooler;
use tracing::info;

use super::{ScanSettings, UNSCANNED_SENDERS_MAX};

/// Why the engines could not be made ready, and what to do.
#[derive(Debug, thiserror::Error)]
pub enum ScanSettingsError {
    /// The rules cannot be read or compiled.
    #[error("scan.rules cannot be used; correct the rule file or leave the key out")]
    Rules(#[source] scan::yara::RulesError),
    /// A list of hashes cannot be read.
    #[error("scan.hashes cannot be used; correct the list or leave the key out")]
    Hashes(#[source] scan::local::hashes::HashListError),
    /// A block rule is none.
    #[error("scan.block cannot be used; write an extension as in \".exe\", or a kind as in \"pe\"")]
    Block(#[source] scan::local::block::BlockRuleError),
    /// What is to be looked for cannot be handed to the workers.
    #[error("scan.rules cannot be used; they are too many for a worker")]
    Knowledge(#[source] scan::worker::WorkerError),
    /// An address is none.
    #[error("scan.clamd cannot be used; write \"host:port\" or \"unix:/path\"")]
    Clamd(#[source] scan::engine::clamd::AddressError),
    /// An address is none.
    #[error("scan.icap cannot be used; write \"icap://host:1344/service\"")]
    Icap(#[source] scan::engine::icap::AddressError),
    /// The folder for what waits takes no files.
    #[error("scan.spool cannot be used; write a folder on a disk with room instead")]
    Spool(#[source] spool::SpoolError),
    /// A notice text cannot be read.
    #[error("scan.templates: {} cannot be read", path.display())]
    ReadTemplate {
        /// Which.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// A notice text is wrong.
    #[error("scan.templates: {} cannot be used", path.display())]
    Template {
        /// Which.
        path: PathBuf,
        /// Why.
        source: TemplateError,
    },
    /// A masked extension is no keyword.
    #[error("scan.masked_extensions: {0:?} is no EHLO keyword; write one as in \"CHUNKING\"")]
    Masked(String),
    /// Mail that its client would encrypt would cross the internet in clear.
    #[error(
        "scan.masked_extensions: STARTTLS is never masked, because mail and passwords that were \
         encrypted would then cross the internet in clear; leave it out (sessions that go to TLS \
         pass unread and are counted)"
    )]
    MaskedTls,
    /// An unscanned sender is nobody, or everybody.
    #[error(
        "scan.unscanned_senders: {0:?} names no domain and so nobody, or everybody; write \
         \"a@b.example\" or \"@b.example\""
    )]
    Sender(String),
    /// Too many of them.
    #[error("scan.unscanned_senders has more than {UNSCANNED_SENDERS_MAX}; name domains instead")]
    TooManySenders,
}

impl ScanSettingsError {
    /// With the file and line to blame.
    pub(super) fn at(&self, document: &Document) -> ConfigError {
        let (key, remedy) = match self {
            Self::Rules(_) | Self::Knowledge(_) => {
                ("scan.rules", "correct the rule file, or leave the key out")
            }
            Self::Hashes(_) => ("scan.hashes", "correct the list, or leave the key out"),
            Self::Block(_) => {
                ("scan.block", "write extensions as in \".exe\" and kinds as in \"pe\" instead")
            }
            Self::Clamd(_) => ("scan.clamd", "write \"host:port\" or \"unix:/path\" instead"),
            Self::Icap(_) => ("scan.icap", "write \"icap://host:1344/service\" instead"),
            Self::Spool(_) => ("scan.spool", "write a folder on a disk with room instead"),
            Self::ReadTemplate { .. } | Self::Template { .. } => {
                ("scan.templates", "correct the file, or leave the key out")
            }
            Self::Masked(_) | Self::MaskedTls => {
                ("scan.masked_extensions", "write keywords as in [\"CHUNKING\"] instead")
            }
            Self::Sender(_) | Self::TooManySenders => {
                ("scan.unscanned_senders", "write \"a@b.example\" or \"@b.example\" instead")
            }
        };
        // The outer text names the key and the remedy, too.
        let cause: &dyn std::error::Error = std::error::Error::source(self).unwrap_or(self);
        let problem = match self {
            Self::ReadTemplate { path, .. } | Self::Template { path, .. } => {
                format!("`{key}`: {}: {}", path.display(), telemetry::chain(cause))
            }
            _ => format!("`{key}`: {}", telemetry::chain(cause)),
        };
        document.invalid(key, problem, remedy)
    }
}

/// What workers can be taught anew while the program runs.
#[derive(Debug, Clone)]
pub(super) struct Sources {
    pub(super) rules: Option<PathBuf>,
    pub(super) hashes: Option<PathBuf>,
    block: BlockRules,
    limits: scan::Limits,
}

impl Sources {
    /// Reads and compiles everything.
    pub(super) fn knowledge(&self) -> Result<Knowledge, ScanSettingsError> {
        let rules = CompiledRules::load(self.rules.as_deref()).map_err(ScanSettingsError::Rules)?;
        if let Some(rule) = rules.whole_because() {
            info!(
                rule,
                "large mails and their parts are held in memory as a whole: a rule needs it"
            );
        }
        let hashes = match &self.hashes {
            Some(folder) => HashLists::load(folder).map_err(ScanSettingsError::Hashes)?,
            None => HashLists::default(),
        };
        Knowledge::new(&rules, hashes, self.block.clone(), self.limits.clone())
            .map_err(ScanSettingsError::Knowledge)
    }
}

impl ScanSettings {
    pub(super) fn sources(&self) -> Result<Sources, ScanSettingsError> {
        Ok(Sources {
            rules: self.rules.clone(),
            hashes: self.hashes.clone(),
            block: BlockRules::parse(&self.block).map_err(ScanSettingsError::Block)?,
            limits: self.limits(),
        })
    }

    pub(super) fn scanner(&self, isolation: Isolation) -> Result<Scanner, ScanSettingsError> {
        let knowledge = self.sources()?.knowledge()?;
        let count = self.workers.unwrap_or_else(|| {
            std::thread::available_parallelism().map_or(1, std::num::NonZero::get)
        });
        let workers =
            Workers::new(isolation, count, &knowledge).map_err(ScanSettingsError::Knowledge)?;
        let mut engines: Vec<Arc<dyn Engine>> = Vec::new();
        if !self.clamd.is_empty() {
            let clamd = ClamdEngine::new(&self.clamd, ServerSettings::default())
                .map_err(ScanSettingsError::Clamd)?;
            engines.push(cached(clamd));
        }
        if !self.icap.is_empty() {
            let icap = IcapEngine::new(&self.icap, ServerSettings::default())
                .map_err(ScanSettingsError::Icap)?;
            engines.push(cached(icap));
        }
        let folder = self.spool.clone().unwrap_or_else(std::env::temp_dir);
        let spooler = Spooler::new(&folder, self.spool_bytes_max);
        spooler.check().map_err(ScanSettingsError::Spool)?;
        Ok(Scanner::new(workers, engines, self.limits(), spooler))
    }

    /// The texts of notices.
    pub(super) fn notices(&self) -> Result<Templates, ScanSettingsError> {
        let mut templates = Templates::default();
        if let Some(contact) = &self.contact {
            templates = templates.with_contact(contact);
        }
        let Some(folder) = &self.templates else { return Ok(templates) };
        for (language, suffix) in [(Language::English, "en"), (Language::Japanese, "ja")] {
            for (kind, name) in [(Kind::Refused, "refused"), (Kind::Unscanned, "unscanned")] {
                let path = folder.join(format!("{name}.{suffix}.txt"));
                if let Some(text) = read_template(&path)? {
                    let template = Template::parse(&text)
                        .map_err(|source| ScanSettingsError::Template { path, source })?;
                    templates = templates.with(language, kind, template);
                }
            }
        }
        Ok(templates)
    }
}

/// `None` where there is no such file: the built-in text stays.
fn read_template(path: &Path) -> Result<Option<String>, ScanSettingsError> {
    let failed = |source| ScanSettingsError::ReadTemplate { path: path.to_owned(), source };
    match std::fs::metadata(path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(failed(error)),
        Ok(file) if file.len() > TEMPLATE_BYTES_MAX as u64 => {
            return Err(failed(std::io::ErrorKind::FileTooLarge.into()));
        }
        Ok(_) => {}
    }
    std::fs::read_to_string(path).map(Some).map_err(failed)
}

fn cached(engine: impl Engine + 'static) -> Arc<dyn Engine> {
    let cache = VerdictCache::new(ENTRIES_MAX_DEFAULT, AGE_MAX_DEFAULT);
    Arc::new(CachedEngine::new(Arc::new(engine), cache))
}
