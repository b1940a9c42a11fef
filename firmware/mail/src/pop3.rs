//! placeholder
use std::time::Instant;
use bytes::Bytes;
use crate::{Decision, End, Output, Side};
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Settings {}
#[derive(Debug)]
pub struct Pop3Session {}
impl Pop3Session {
    pub fn new(_settings: &crate::Settings, _now: Instant) -> Self { Self {} }
    pub fn receive(&mut self, _from: Side, _bytes: Bytes, _now: Instant) {}
    pub fn receive_end(&mut self, _from: Side, _end: End, _now: Instant) {}
    pub fn verdict(&mut self, _d: Decision, _now: Instant) {}
    pub fn poll_output(&mut self) -> Option<Output> { None }
    pub fn poll_timeout(&self) -> Option<Instant> { None }
    pub fn handle_timeout(&mut self, _now: Instant) {}
    pub fn wants(&self, _from: Side) -> bool { true }
    pub fn is_opaque(&self) -> bool { false }
}
