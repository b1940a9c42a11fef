//! placeholder
use std::sync::Arc;
use bytes::Bytes;
use crate::{Engine, Limits, Report};
/// Shared by all sessions; cheap to clone.
#[derive(Debug, Clone)]
pub struct Scanner {}
impl Scanner {
    pub fn new(_engines: Vec<Arc<dyn Engine>>, _limits: Limits) -> Self { Self {} }
    /// Opens the scan of one mail.
    pub fn begin(&self) -> MailScan { MailScan {} }
}
/// The scan of one mail. Dropping it ends it.
#[derive(Debug)]
pub struct MailScan {}
impl MailScan {
    /// Takes the next bytes of the raw message.
    pub fn feed(&mut self, _bytes: Bytes) {}
    /// All has been fed: the verdict.
    pub async fn finish(self) -> Report { unimplemented!() }
}
