//! `avr updates`: looks for updates where the settings say, installs what is this box's turn, and starts it
//! anew for that at the time of the day that is set. A process of its own, which PID 1 supervises, so that
//! mail has nothing to do with it.
//!
//! The settings are read again before each look and each restart; what comes of a look is kept for
//! `avr slots`, and told to the log when it is something else than before.
#![allow(clippy::print_stdout, reason = "what a person asked for goes to standard output")]

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, bail};
use box_fetch::schedule::{first_look, next_look};
use box_fetch::{Downloaded, News, State};
use box_update::install::InstallError;
use box_update::rollout::{
    Choice, INDEX_BYTES_MAX, INDEX_FILE, INDEX_SIGNATURE_FILE, Index, Taker,
};
use box_update::slots::Trust;
use box_update::{Keys, SIGNATURE_BYTES_MAX};
use journal::Timestamp;
use tokio::time::{Instant, sleep};
use tracing::{info, warn};
use wire::MacAddress;

use crate::fetch;
use crate::settings::{DEFAULT_PATH, Settings, Updates};
use crate::unix_now_s;
use crate::update::{About, Places, is_next_part};

/// How often is looked whether settings or the time of the day have changed.
const TICK: Duration = Duration::from_secs(60);
/// The same for tests, which do not wait for the first look either.
const TICK_OF_TESTS: Duration = Duration::from_millis(50);

/// Looks for updates.
#[derive(Debug, clap::Args)]
pub(crate) struct UpdatesArgs {
    /// The settings file.
    #[arg(long, default_value = DEFAULT_PATH)]
    config: PathBuf,
    /// Looks once, at once, says what came of it, and ends.
    #[arg(long)]
    once: bool,
    /// Does not wait.
    #[arg(long, hide = true)]
    hasty: bool,
    #[command(flatten)]
    places: Places,
}

impl UpdatesArgs {
    pub(crate) fn execute(self) -> anyhow::Result<()> {
        let runtime = fetch::runtime()?;
        let state = State::load(&self.places.downloads);
        let mut looker = Looker { saved: state.clone(), state, args: self };
        if !looker.args.once {
            telemetry::init(telemetry::Format::Text);
            runtime.block_on(looker.serve());
            return Ok(());
        }
        let settings = Settings::load(&looker.args.config)?;
        let Some(updates) = settings.updates.clone() else {
            bail!("the settings name no place to look at: set updates.url");
        };
        runtime.block_on(looker.look(&settings, &updates));
        for line in looker.state.lines(|at| Timestamp::from_unix(at).to_string()) {
            println!("{line}");
        }
        match looker.state.news {
            News::Failed { .. } => bail!("the look for updates failed"),
            _ => Ok(()),
        }
    }
}

struct Looker {
    args: UpdatesArgs,
    state: State,
    /// As it is in DATA: what has not changed is not written again.
    saved: State,
}

impl Looker {
    /// For ever.
    async fn serve(&mut self) {
        // Of the last start, and another system may run by now.
        self.tell(News::None);
        let tick = if self.args.hasty { TICK_OF_TESTS } else { TICK };
        let mut known: Option<Updates> = None;
        let mut look_at = Instant::now();
        loop {
            let loaded = Settings::load(&self.args.config);
            match loaded.as_ref().map(|settings| (settings, &settings.updates)) {
                Ok((_, None)) => {
                    known = None;
                    self.state.next_at = None;
                    self.tell(News::NotSet);
                }
                Ok((settings, Some(updates))) => {
                    if known.as_ref() != Some(updates) {
                        let wait =
                            if self.args.hasty { Duration::ZERO } else { first_look(random()) };
                        look_at = self.look_after(wait);
                        known = Some(updates.clone());
                    }
                    if Instant::now() >= look_at {
                        self.look(settings, updates).await;
                        let interval = Duration::from_secs(updates.interval_hours * 3600);
                        look_at =
                            self.look_after(next_look(interval, self.state.failures, random()));
                    }
                    self.restart_if_it_is_time(updates);
                }
                // Also before STATE is there.
                Err(error) => self.tell(News::Failed { why: telemetry::chain(error) }),
            }
            sleep(tick).await;
        }
    }

    fn look_after(&mut self, wait: Duration) -> Instant {
        self.state.next_at = Some(unix_now_s().saturating_add(wait.as_secs()));
        self.save();
        Instant::now() + wait
    }

    /// One look, and what follows from it.
    async fn look(&mut self, settings: &Settings, updates: &Updates) {
        self.state.looked_at = Some(unix_now_s());
        let news = match self.try_to_look(settings, updates).await {
            Ok(news) => {
                self.state.failures = 0;
                news
            }
            Err(error) => {
                self.state.failures = self.state.failures.saturating_add(1);
                News::Failed { why: format!("{error:#}") }
            }
        };
        self.tell(news);
    }

    async fn try_to_look(
        &mut self,
        settings: &Settings,
        updates: &Updates,
    ) -> anyhow::Result<News> {
        let places = self.args.places.clone();
        let about = places.about()?;
        let slot = about.slot();
        if let Some(slot) = slot.filter(|slot| slot.trust() != Trust::Good) {
            bail!(
                "build {}, which runs, is {}: wait until it is blessed",
                slot.build(),
                slot.trust()
            );
        }
        let record = places.record().unwrap_or_default();
        let unit = MacAddress(box_net::mac_address(&settings.ports.lan)?).to_string();
        let folder = updates.folder()?;
        let client = fetch::client(updates.ca.as_deref(), settings.resolvers())?;
        let index = client.get_small(&folder.join(INDEX_FILE)?, INDEX_BYTES_MAX).await?;
        let signature = folder.join(INDEX_SIGNATURE_FILE)?;
        let signature = client.get_small(&signature, SIGNATURE_BYTES_MAX).await?;
        let index = Index::open(&index, &signature, &Keys::built_in()?)?;
        let choice = index.choose(&Taker {
            product: &about.release.product,
            board: &about.release.board,
            unit: &unit,
            running: about.release.build,
            record: &record,
            seen_at: self.state.seen_at,
        })?;
        self.state.seen_at = index.issued_at;
        let restart = updates.restart.map(|window| window.to_string());
        match choice {
            Choice::UpToDate => Ok(News::UpToDate),
            Choice::HeldBack(offer) => Ok(News::HeldBack {
                build: offer.build.get(),
                version: offer.version.clone(),
                percent: offer.percent,
                place: offer.place(&unit),
            }),
            Choice::FailedBefore(offer, failed) => {
                Ok(News::FailedBefore { build: offer.build.get(), why: failed.why })
            }
            Choice::Installed(offer) => Ok(News::Installed { build: offer.build.get(), restart }),
            Choice::Take(offer) => {
                let (build, version) = (offer.build.get(), offer.version.clone());
                let url = folder.join(&offer.file)?;
                let expected = Some((offer.bytes, offer.sha256));
                let mut told = 0;
                let fetching =
                    |bytes, total| News::Fetching { build, version: version.clone(), bytes, total };
                self.tell(fetching(0, offer.bytes));
                let mut progress = |bytes, total| {
                    if is_next_part(&mut told, bytes, total) {
                        self.tell(fetching(bytes, total));
                    }
                };
                let downloaded =
                    fetch::bundle(&client, &places, &about, &url, expected, &mut progress).await?;
                install(&places, &about, downloaded)?;
                Ok(News::Installed { build, restart })
            }
        }
    }

    fn restart_if_it_is_time(&self, updates: &Updates) {
        let News::Installed { build, .. } = self.state.news else { return };
        let Some(window) = updates.restart.filter(|window| window.is_open(unix_now_s())) else {
            return;
        };
        let places = &self.args.places;
        let restart = || -> anyhow::Result<()> {
            // What is not known to be night may be the middle of the day.
            if places.knows_the_time()? {
                info!(build, %window, "the box starts anew for an update");
                places.reboot()?;
            }
            Ok(())
        };
        if let Err(error) = restart() {
            warn!(error = format!("{error:#}"), "the box cannot be started anew for an update");
        }
    }

    fn tell(&mut self, news: News) {
        if self.state.news == news {
            return self.save();
        }
        self.state.news = news;
        self.save();
        if let Some(text) = self.state.lines(|at| Timestamp::from_unix(at).to_string()).first() {
            match self.state.news {
                News::Failed { .. } | News::FailedBefore { .. } => warn!("{text}"),
                _ => info!("{text}"),
            }
        }
    }

    fn save(&mut self) {
        if self.saved == self.state {
            return;
        }
        self.saved = self.state.clone();
        if let Err(error) = self.state.save(&self.args.places.downloads) {
            warn!(%error, "it cannot be kept how the look for updates went");
        }
    }
}

/// On a thread of its own, since the slots are mounted for that thread alone, as long as it lives.
fn install(places: &Places, about: &About, downloaded: Downloaded) -> anyhow::Result<()> {
    let installed = std::thread::scope(|scope| {
        let installing =
            scope.spawn(|| places.install(about, &downloaded.path, &mut |line| info!("{line}")));
        installing.join().unwrap_or_else(|_| bail!("installing it has panicked: look at the log"))
    });
    let is_of_the_disk = |error: &anyhow::Error| {
        matches!(
            error.downcast_ref(),
            Some(InstallError::Disk { .. } | InstallError::ReadBack | InstallError::Store(_))
        )
    };
    // Else it would not be taken the next time either.
    if !installed.as_ref().is_err_and(is_of_the_disk) {
        downloaded.remove();
    }
    installed.map(|_| ()).context("install it")
}

/// Any number; that of a source which gives none is as good.
fn random() -> u32 {
    let mut bytes = [0; 4];
    let _ = aws_lc_rs::rand::fill(&mut bytes);
    u32::from_ne_bytes(bytes)
}
