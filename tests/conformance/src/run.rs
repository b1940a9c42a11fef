//! Runs a script: a client and a server of the harness, `avr listen` between them.

use std::time::Duration;

use anyhow::Context;
use regex::bytes::Regex;
use tokio::net::TcpListener;

use crate::case::Path as Way;
use crate::peer::{Ended, Peer};
use crate::program::{Avr, Options};
use crate::script::{Script, Step, Who};
use crate::server::{self, Taken};

/// How long an awaited answer may take.
const EXPECT_MAX: Duration = Duration::from_secs(20);
/// How long a step waits that only paces the script.
const PACE_MAX: Duration = Duration::from_millis(700);
/// Silence on both sides for so long ends an observation.
const QUIET: Duration = Duration::from_millis(1500);
/// Longest observation.
const OBSERVE_MAX: Duration = Duration::from_secs(20);

/// What happened.
#[derive(Debug)]
pub struct Transcript {
    /// All the client received.
    pub client_got: Vec<u8>,
    /// How the client's connection ended, if it did.
    pub client_ended: Option<Ended>,
    /// All the server received.
    pub server_got: Vec<u8>,
    /// How the server's connection ended, if it did.
    pub server_ended: Option<Ended>,
    /// Messages that the server took to their end.
    pub taken: Vec<Vec<u8>>,
    /// Expectations of the script that were not met, in words.
    pub unmet: Vec<String>,
}

/// Runs one script through `avr listen` as the options say.
///
/// # Errors
///
/// When the script or the machine does not allow it; what the session did is in the transcript.
pub async fn run(script: &Script, options: &Options) -> anyhow::Result<Transcript> {
    let backend = TcpListener::bind("127.0.0.1:0").await.context("listen as the server")?;
    let way = if script.proto == "pop3" { Way::Pop3 } else { Way::Smtp };
    // Killed when dropped.
    let avr = Avr::start(backend.local_addr()?, way, options).await?;
    let client = Peer::new(avr.connect().await?);
    let (server, _) = backend.accept().await.context("accept as the server")?;
    let mut stage =
        Stage { client, server: Peer::new(server), taken: Taken::default(), unmet: Vec::new() };
    for (number, step) in script.steps.iter().enumerate() {
        stage.step(number, step).await?;
    }
    stage.observe().await;
    let (client_got, client_ended) = stage.client.inbox().all();
    let (server_got, server_ended) = stage.server.inbox().all();
    let taken = stage.taken.lock().map(|taken| taken.clone()).unwrap_or_default();
    let unmet = stage.unmet;
    Ok(Transcript { client_got, client_ended, server_got, server_ended, taken, unmet })
}

struct Stage {
    client: Peer,
    server: Peer,
    taken: Taken,
    unmet: Vec<String>,
}

impl Stage {
    async fn step(&mut self, number: usize, step: &Step) -> anyhow::Result<()> {
        if step.who == Who::X || step.action.as_deref() == Some("observe") {
            self.observe().await;
            return Ok(());
        }
        if step.action.as_deref() == Some("serve") {
            return self.serve(step);
        }
        let peer = match step.who {
            Who::C => &mut self.client,
            Who::S | Who::X => &mut self.server,
        };
        if let Some(send) = &step.send {
            let segments = step.segments.as_deref().unwrap_or_default();
            let gap = Duration::from_millis(step.gap_ms.unwrap_or(0));
            peer.send(&send.0, segments, gap).await;
        }
        if let Some(pattern) = &step.expect {
            let regex = Regex::new(pattern).context("read a pattern")?;
            let limit = if step.auto { PACE_MAX } else { EXPECT_MAX };
            if !peer.expect(&regex, limit).await && !step.auto {
                self.unmet.push(format!("step {number}: {:?} did not get {pattern}", step.who));
            }
            return Ok(());
        }
        match step.action.as_deref() {
            None => {}
            Some("repeat") => {
                let data = step.data.as_ref().context("repeat without data")?;
                let all = data.0.repeat(step.times.unwrap_or(1));
                peer.send(&all, &[], Duration::ZERO).await;
            }
            Some("shutdown_write") => peer.shutdown().await,
            Some("close") if step.how.as_deref() == Some("rst") => peer.reset(),
            Some("close") => peer.shutdown().await,
            Some("sleep") => {
                tokio::time::sleep(Duration::from_millis(step.ms.unwrap_or(0))).await;
            }
            Some(other) => anyhow::bail!("step {number}: unknown action {other}"),
        }
        Ok(())
    }

    fn serve(&mut self, step: &Step) -> anyhow::Result<()> {
        let writer = self.server.take_writer().context("the server is served already")?;
        let (inbox, taken) = (self.server.inbox(), Taken::clone(&self.taken));
        let step: Step = step.clone();
        tokio::spawn(async move {
            if step.messages.is_some() {
                server::pop3(&step, inbox, writer).await;
            } else {
                server::smtp(&step, inbox, writer, taken).await;
            }
        });
        Ok(())
    }

    /// Waits until both sides are silent, or closed.
    async fn observe(&self) {
        let (client, server) = (self.client.inbox(), self.server.inbox());
        let _ = tokio::time::timeout(OBSERVE_MAX, async {
            loop {
                let (a, b) = (client.len(), server.len());
                let changed = async {
                    tokio::select! {
                        () = client.changed(a) => {}
                        () = server.changed(b) => {}
                    }
                };
                if tokio::time::timeout(QUIET, changed).await.is_err() {
                    return;
                }
            }
        })
        .await;
    }
}
