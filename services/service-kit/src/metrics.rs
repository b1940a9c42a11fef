//! Counters with a name and a help text, exported as OpenMetrics.
//!
//! No globals: a server makes one [`Registry`], registers what it counts, and hands it to its status
//! port. [`counters!`](crate::counters) makes the structure whose fields are counters, so that a
//! counter cannot exist without being exported, nor be exported without a help text.

use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};

pub use prometheus_client::collector::Collector;
pub use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
pub use prometheus_client::metrics::MetricType;
pub use prometheus_client::metrics::counter::{ConstCounter, Counter};
pub use prometheus_client::metrics::family::Family;
pub use prometheus_client::metrics::gauge::{ConstGauge, Gauge};
pub use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
pub use prometheus_client::registry::Registry;
use wire::DeniedReason;

/// The content type of [`text`].
pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// One label with a value from a closed set, as in `reason="expired"`.
pub type Label = [(&'static str, &'static str); 1];

/// The registry in the text format of OpenMetrics.
#[must_use]
pub fn text(registry: &Registry) -> String {
    let mut text = String::new();
    // Writing to a string fails only if a collector says so, and ours do not.
    let written = prometheus_client::encoding::text::encode(&mut text, registry);
    debug_assert!(written.is_ok(), "a collector failed");
    text
}

/// A ticket's refusal as the value of a label.
#[must_use]
pub fn denied(reason: DeniedReason) -> &'static str {
    match reason {
        DeniedReason::Unknown => "unknown",
        DeniedReason::Suspended => "suspended",
        DeniedReason::TicketExpired => "expired",
        DeniedReason::OtherKey | DeniedReason::TicketOtherKey => "other-key",
        DeniedReason::TicketForged => "forged",
        _ => "other",
    }
}

/// Something that counts one up: [`Counter`], or a bare number.
pub trait Count {
    /// Counts one.
    fn count(&self);
}

impl Count for Counter {
    fn count(&self) {
        self.inc();
    }
}

impl Count for AtomicU64 {
    fn count(&self) {
        self.fetch_add(1, Ordering::Relaxed);
    }
}

/// A doc comment as a help text: trimmed, and without the full stop, which the registry adds.
#[must_use]
pub fn help(comment: &str) -> &str {
    let comment = comment.trim();
    comment.strip_suffix('.').unwrap_or(comment)
}

/// For a test: those of `names` that no line of Rust under `source` counts, by `count(&….name)`,
/// `.name.inc…`, `.name.get_or_create` or `.name….observe`. A counter that stands still for ever
/// would otherwise look as if all were well.
#[must_use]
pub fn never_counted<'a>(source: &Path, names: impl Iterator<Item = &'a str>) -> Vec<&'a str> {
    let mut text = String::new();
    let mut folders = vec![source.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
            let path = entry.path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                // White space aside, because formatters break lines.
                let file = std::fs::read_to_string(path).unwrap_or_default();
                text.extend(file.split_whitespace());
            }
        }
    }
    let by_itself = |name: &str| {
        let ends = ["inc(", "inc_by(", "get_or_create(", "0.observe("];
        ends.iter().any(|end| text.contains(&format!(".{name}.{end}")))
    };
    let by_function = |name: &str| {
        let calls =
            ["count(&", "refused(&", "add(&"].iter().flat_map(|call| text.split(call).skip(1));
        let paths = calls.filter_map(|rest| {
            rest.split(|c: char| !(c.is_alphanumeric() || "._".contains(c))).next()
        });
        paths.into_iter().any(|path| path.rsplit('.').next() == Some(name))
    };
    let counted = |name: &str| by_itself(name) || by_function(name);
    names.filter(|name| !counted(name)).collect()
}

/// A structure of counters. Each field's comment is the counter's help text; its name, with the
/// registry's prefix and `_total`, is the counter's.
///
/// ```
/// service_kit::counters! {
///     /// Since the start.
///     pub struct Counters {
///         /// Mails seen.
///         mails,
///     } with {
///         /// Not a counter of this structure's own.
///         pub other: u32,
///     }
/// }
/// let counters = Counters::default();
/// counters.mails.inc();
/// let mut registry = service_kit::metrics::Registry::with_prefix("example");
/// counters.register(&mut registry);
/// assert_eq!(counters.to_string(), "mails=1");
/// assert!(service_kit::metrics::text(&registry).contains("example_mails_total 1\n"));
/// ```
#[macro_export]
macro_rules! counters {
    (
        $(#[$about:meta])*
        $visible:vis struct $name:ident {
            $( $(#[doc = $help:literal])+ $field:ident, )+
        }
        $( with { $( $(#[$other_about:meta])* $other_visible:vis $other:ident: $type:ty, )* } )?
    ) => {
        $(#[$about])*
        #[derive(Debug, Default)]
        $visible struct $name {
            $( $(#[doc = $help])+ pub $field: $crate::metrics::Counter, )+
            $( $( $(#[$other_about])* $other_visible $other: $type, )* )?
        }

        impl $name {
            /// The names of the counters, as in the code; exported with a prefix and `_total`.
            $visible const NAMES: &'static [&'static str] = &[$( stringify!($field) ),+];

            /// Adds every counter.
            $visible fn register(&self, registry: &mut $crate::metrics::Registry) {
                $( registry.register(
                    stringify!($field),
                    $crate::metrics::help(concat!($($help),+)),
                    self.$field.clone(),
                ); )+
            }
        }

        /// `name=12 other=0 …`
        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                let pairs = [$( (stringify!($field), self.$field.get()) ),+];
                for (at, (name, value)) in pairs.into_iter().enumerate() {
                    let separator = if at == 0 { "" } else { " " };
                    write!(f, "{separator}{name}={value}")?;
                }
                Ok(())
            }
        }
    };
}

#[cfg(test)]
mod tests {
    use super::*;

    counters! {
        /// For the test.
        struct Two {
            /// The first.
            first,
            /// The second, whose
            /// comment has two lines.
            second,
        }
    }

    #[test]
    fn what_nothing_counts_is_found() {
        let source = tempfile::tempdir().unwrap();
        let code = "fn f() { count(&self.counters.a); c.b\n    .inc_by(2); refused(&counters.c, x); \
                    read(&counters.d); shown(e.get()); }";
        std::fs::write(source.path().join("x.rs"), code).unwrap();
        let names = ["a", "b", "c", "d", "e"];
        assert_eq!(never_counted(source.path(), names.into_iter()), ["d", "e"]);
    }

    #[test]
    fn every_field_is_exported_with_its_comment() {
        let two = Two::default();
        let mut registry = Registry::with_prefix("test");
        two.register(&mut registry);
        two.second.count();
        assert_eq!(two.to_string(), "first=0 second=1");
        assert_eq!(Two::NAMES, ["first", "second"]);
        assert_eq!(
            text(&registry),
            "# HELP test_first The first.\n# TYPE test_first counter\ntest_first_total 0\n\
             # HELP test_second The second, whose comment has two lines.\n\
             # TYPE test_second counter\ntest_second_total 1\n# EOF\n"
        );
    }
}
