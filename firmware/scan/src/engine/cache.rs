//! Remembers what an engine said of the same bytes before: newsletters, logos and retried mails come
//! many times.
//!
//! [`CachedEngine`] stands before an engine and asks it about what is not in its [`VerdictCache`]. Only
//! what the same bytes will bring again is kept: never a failure. Everything is forgotten when the engine's
//! [`generation`](Engine::generation) changes.

use std::collections::{HashMap, VecDeque};
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use aws_lc_rs::digest::{Context, SHA256};
use serde::Serialize;
use spool::SpoolError;
use tokio::time::Instant;

use super::pool::lock;
use super::{Counts, Engine, EngineOutcome, Object, ScanFuture, ServerNumbers};

/// Most verdicts kept, unless set otherwise. Each costs some 200 bytes.
pub const ENTRIES_MAX_DEFAULT: usize = 16_384;

/// How long a verdict is kept, unless set otherwise. Signatures that change without a word of it (an
/// operator's own, a service without `ISTag`) are so late by ten minutes at most, which is less than their
/// own way to the server; and most repetitions, mails to many, come within minutes.
pub const AGE_MAX_DEFAULT: Duration = Duration::from_secs(600);

/// Chunks that are hashed before others get their turn: a megabyte, less than a millisecond.
const CHUNKS_AT_ONCE: usize = 16;

/// Length of a key, bytes.
const KEY_BYTES: usize = 32;

/// What stands for content (and name) in the cache: SHA-256, so that nobody can make another mail's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Key([u8; KEY_BYTES]);

impl Key {
    /// The key of an object; with its file name where the engine looks at that.
    ///
    /// # Errors
    ///
    /// When the content cannot be read back.
    pub async fn of(object: &Object, with_name: bool) -> Result<Self, SpoolError> {
        let mut context = Context::new(&SHA256);
        for (number, chunk) in object.content.chunks().enumerate() {
            if number > 0 && number % CHUNKS_AT_ONCE == 0 {
                tokio::task::yield_now().await;
            }
            context.update(&chunk?);
        }
        let mut digest = context.finish();
        if with_name && let Some(name) = &object.file_name {
            // Behind the digest, whose length is fixed: no content can look like another's name.
            let mut context = Context::new(&SHA256);
            context.update(digest.as_ref());
            context.update(name.as_bytes());
            digest = context.finish();
        }
        let mut key = [0; KEY_BYTES];
        key.iter_mut().zip(digest.as_ref()).for_each(|(to, from)| *to = *from);
        Ok(Self(key))
    }
}

/// Verdicts by content: bounded, the oldest go first.
#[derive(Debug)]
pub struct VerdictCache {
    entries_max: usize,
    age_max: Duration,
    entries: Mutex<Entries>,
    hits: AtomicU64,
    misses: AtomicU64,
}

#[derive(Debug, Default)]
struct Entries {
    generation: u64,
    outcomes: HashMap<Key, EngineOutcome>,
    /// Keys of all outcomes, in the order of the times at which they came.
    order: VecDeque<(Instant, Key)>,
}

/// How often a cache could answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
pub struct CacheCounts {
    /// Objects whose verdict was there.
    pub hits: u64,
    /// Objects whose verdict was not.
    pub misses: u64,
    /// Verdicts kept now.
    pub entries: usize,
}

impl VerdictCache {
    /// An empty cache of at most `entries_max` verdicts, none older than `age_max`.
    #[must_use]
    pub fn new(entries_max: usize, age_max: Duration) -> Self {
        Self {
            entries_max,
            age_max,
            entries: Mutex::default(),
            hits: AtomicU64::new(0),
            misses: AtomicU64::new(0),
        }
    }

    /// What was said of it, by rules of this generation.
    #[must_use]
    pub fn lookup(&self, key: &Key, generation: u64, now: Instant) -> Option<EngineOutcome> {
        let mut entries = lock(&self.entries);
        entries.turn_to(generation);
        entries.drop_older(now, self.age_max);
        let outcome = entries.outcomes.get(key).cloned();
        drop(entries);
        let counter = if outcome.is_some() { &self.hits } else { &self.misses };
        counter.fetch_add(1, Ordering::Relaxed);
        outcome
    }

    /// Keeps an outcome, if it is one that will be the same the next time. `generation` is the one before
    /// the engine was asked: if it is no longer the latest, nobody knows which rules were used.
    pub fn insert(&self, key: Key, outcome: &EngineOutcome, generation: u64, now: Instant) {
        if matches!(outcome, EngineOutcome::Failed(_)) || self.entries_max == 0 {
            return;
        }
        let mut entries = lock(&self.entries);
        // Whoever looked it up at the same time may have been quicker: its age counts.
        if entries.generation != generation || entries.outcomes.contains_key(&key) {
            return;
        }
        entries.drop_older(now, self.age_max);
        while entries.order.len() >= self.entries_max {
            entries.drop_first();
        }
        entries.outcomes.insert(key, outcome.clone());
        entries.order.push_back((now, key));
    }

    /// For status pages.
    #[must_use]
    pub fn counts(&self) -> CacheCounts {
        CacheCounts {
            hits: self.hits.load(Ordering::Relaxed),
            misses: self.misses.load(Ordering::Relaxed),
            entries: lock(&self.entries).order.len(),
        }
    }
}

impl Default for VerdictCache {
    /// With [`ENTRIES_MAX_DEFAULT`] and [`AGE_MAX_DEFAULT`].
    fn default() -> Self {
        Self::new(ENTRIES_MAX_DEFAULT, AGE_MAX_DEFAULT)
    }
}

impl Entries {
    /// Generations only ever grow: one that is behind comes from somebody who was overtaken.
    fn turn_to(&mut self, generation: u64) {
        if generation > self.generation {
            *self = Self { generation, ..Self::default() };
        }
    }

    fn drop_older(&mut self, now: Instant, age_max: Duration) {
        while self.order.front().is_some_and(|(at, _)| now.duration_since(*at) >= age_max) {
            self.drop_first();
        }
    }

    fn drop_first(&mut self) {
        if let Some((_, key)) = self.order.pop_front() {
            self.outcomes.remove(&key);
        }
    }
}

/// An engine, and what it said.
pub struct CachedEngine {
    engine: Arc<dyn Engine>,
    cache: VerdictCache,
}

impl CachedEngine {
    /// This engine behind this cache.
    #[must_use]
    pub fn new(engine: Arc<dyn Engine>, cache: VerdictCache) -> Self {
        Self { engine, cache }
    }

    async fn ask(&self, object: Object) -> EngineOutcome {
        let key = match Key::of(&object, self.engine.looks_at_names()).await {
            Ok(key) => key,
            Err(error) => return EngineOutcome::Failed(error.to_string()),
        };
        let generation = self.engine.generation();
        if let Some(outcome) = self.cache.lookup(&key, generation, Instant::now()) {
            return outcome;
        }
        let outcome = self.engine.scan(object).await;
        if self.engine.generation() == generation {
            self.cache.insert(key, &outcome, generation, Instant::now());
        }
        outcome
    }
}

impl Engine for CachedEngine {
    fn name(&self) -> &str {
        self.engine.name()
    }

    fn scan(&self, object: Object) -> ScanFuture<'_> {
        Box::pin(self.ask(object))
    }

    fn reads_mail(&self) -> bool {
        self.engine.reads_mail()
    }

    fn opens(&self, format: &str) -> bool {
        self.engine.opens(format)
    }

    fn looks_at_names(&self) -> bool {
        self.engine.looks_at_names()
    }

    fn generation(&self) -> u64 {
        self.engine.generation()
    }

    /// What the cache answered is not among them.
    fn counts(&self) -> Counts {
        self.engine.counts()
    }

    fn servers(&self) -> Vec<ServerNumbers> {
        self.engine.servers()
    }

    fn cache_counts(&self) -> Option<CacheCounts> {
        Some(self.cache.counts())
    }
}

impl fmt::Debug for CachedEngine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("CachedEngine").field(&self.engine).finish()
    }
}

#[cfg(test)]
mod tests {
    use std::future::Future as _;

    use bytes::Bytes;

    use super::*;

    fn object(content: &[u8], name: Option<&str>) -> Object {
        let content = Bytes::copy_from_slice(content).into();
        Object { part: 0, content, file_name: name.map(str::to_owned) }
    }

    fn key(content: &[u8]) -> Key {
        key_of(content, None, true)
    }

    /// What is in memory never has to wait.
    fn key_of(content: &[u8], name: Option<&str>, with_name: bool) -> Key {
        let object = object(content, name);
        let key = std::pin::pin!(Key::of(&object, with_name));
        match key.poll(&mut std::task::Context::from_waker(std::task::Waker::noop())) {
            std::task::Poll::Ready(key) => key.unwrap(),
            std::task::Poll::Pending => panic!("it waits"),
        }
    }

    fn found() -> EngineOutcome {
        EngineOutcome::Found("X".to_owned())
    }

    #[test]
    fn keys_are_of_the_content_and_where_wanted_of_the_name() {
        assert_eq!(key_of(b"a", Some("x"), false), key_of(b"a", Some("y"), false));
        assert_ne!(key_of(b"a", Some("x"), true), key_of(b"a", Some("y"), true));
        assert_ne!(key_of(b"a", Some("x"), true), key_of(b"a", None, true));
        assert_ne!(key_of(b"a", None, true), key_of(b"b", None, true));
        let empty = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
        let hex: String = key(b"").0.iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(hex, empty);
    }

    #[tokio::test(start_paused = true)]
    async fn what_will_be_the_same_is_kept_and_a_failure_is_not() {
        let cache = VerdictCache::default();
        let now = Instant::now();
        for (content, outcome, is_kept) in [
            (b"1", EngineOutcome::Clean, true),
            (b"2", found(), true),
            (b"3", EngineOutcome::Encrypted, true),
            (b"4", EngineOutcome::OverSize, true),
            (b"5", EngineOutcome::Limit("x".to_owned()), true),
            (b"6", EngineOutcome::Failed("x".to_owned()), false),
        ] {
            assert_eq!(cache.lookup(&key(content), 0, now), None);
            cache.insert(key(content), &outcome, 0, now);
            assert_eq!(cache.lookup(&key(content), 0, now), is_kept.then_some(outcome));
        }
        assert_eq!(cache.counts(), CacheCounts { hits: 5, misses: 7, entries: 5 });
    }

    #[tokio::test(start_paused = true)]
    async fn the_oldest_go_first_and_none_gets_too_old() {
        let cache = VerdictCache::new(3, Duration::from_secs(10));
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        for (second, content) in [(0, b"1"), (1, b"2"), (2, b"3"), (3, b"4")] {
            cache.insert(key(content), &found(), 0, at(second));
        }
        let kept = |content: &[u8], second| cache.lookup(&key(content), 0, at(second)).is_some();
        assert!(!kept(b"1", 3) && kept(b"2", 3) && kept(b"3", 3) && kept(b"4", 3));
        // Once more: its age goes on from the first time.
        cache.insert(key(b"2"), &found(), 0, at(4));
        assert!(kept(b"2", 10) && !kept(b"2", 11) && kept(b"3", 11));
        assert_eq!(cache.counts().entries, 2);
        let none = VerdictCache::new(0, Duration::from_secs(10));
        none.insert(key(b"1"), &found(), 0, start);
        assert_eq!(none.lookup(&key(b"1"), 0, start), None);
    }

    #[tokio::test(start_paused = true)]
    async fn other_rules_forget_everything_and_old_rules_say_nothing_new() {
        let cache = VerdictCache::default();
        let now = Instant::now();
        cache.insert(key(b"1"), &EngineOutcome::Clean, 0, now);
        assert_eq!(cache.lookup(&key(b"1"), 1, now), None);
        assert_eq!(cache.counts().entries, 0);
        // Asked before the change, answered after it.
        cache.insert(key(b"1"), &EngineOutcome::Clean, 0, now);
        assert_eq!(cache.lookup(&key(b"1"), 1, now), None);
        cache.insert(key(b"1"), &found(), 1, now);
        assert_eq!(cache.lookup(&key(b"1"), 1, now), Some(found()));
    }

    /// Counts how often it is asked; changes its rules when told to.
    #[derive(Debug, Default)]
    struct Counting {
        asked: AtomicU64,
        generation: AtomicU64,
        changes_meanwhile: bool,
    }

    impl Engine for Counting {
        fn name(&self) -> &'static str {
            "counting"
        }

        fn scan(&self, _: Object) -> ScanFuture<'_> {
            self.asked.fetch_add(1, Ordering::Relaxed);
            if self.changes_meanwhile {
                self.generation.fetch_add(1, Ordering::Relaxed);
            }
            Box::pin(async { EngineOutcome::Clean })
        }

        fn generation(&self) -> u64 {
            self.generation.load(Ordering::Relaxed)
        }
    }

    #[tokio::test(start_paused = true)]
    async fn an_engine_is_asked_once_about_the_same_bytes() {
        let inner = Arc::new(Counting::default());
        let engine =
            CachedEngine::new(Arc::clone(&inner) as Arc<dyn Engine>, VerdictCache::default());
        let asked = || inner.asked.load(Ordering::Relaxed);
        for _ in 0..3 {
            assert_eq!(engine.scan(object(b"a", Some("x"))).await, EngineOutcome::Clean);
        }
        assert_eq!(asked(), 1);
        engine.scan(object(b"b", None)).await;
        assert_eq!(asked(), 2);
        inner.generation.fetch_add(1, Ordering::Relaxed);
        engine.scan(object(b"a", None)).await;
        assert_eq!(asked(), 3);
        tokio::time::advance(AGE_MAX_DEFAULT).await;
        engine.scan(object(b"a", None)).await;
        assert_eq!(asked(), 4);
        let counts = CacheCounts { hits: 2, misses: 4, entries: 1 };
        assert_eq!(engine.cache_counts(), Some(counts));
    }

    #[tokio::test(start_paused = true)]
    async fn a_verdict_by_rules_that_changed_meanwhile_is_not_kept() {
        let inner = Arc::new(Counting { changes_meanwhile: true, ..Counting::default() });
        let engine =
            CachedEngine::new(Arc::clone(&inner) as Arc<dyn Engine>, VerdictCache::default());
        for _ in 0..3 {
            engine.scan(object(b"a", None)).await;
        }
        assert_eq!(inner.asked.load(Ordering::Relaxed), 3);
        assert_eq!(engine.cache_counts().unwrap().entries, 0);
    }
}
