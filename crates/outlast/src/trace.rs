//! Traces: the context of the request that brought a write is kept with it, so that the transaction which applies it,
//! hours and restarts later, can still be linked to that request. What is made of it is the embedding service's: this
//! crate knows no tracing protocol.

use std::fmt;
use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};

/// Most contexts that one transaction is linked to.
pub const LINKS_MAX: usize = 128;

/// A trace context as the W3C writes it (`traceparent`, version 00).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct TraceContext(Box<str>);

impl TraceContext {
    /// From the value of a `traceparent`; `None` when it is not one of version 00.
    pub fn new(traceparent: &str) -> Option<Self> {
        let mut parts = traceparent.split('-');
        let mut part = |length: usize| {
            parts.next().filter(|part| {
                part.len() == length && part.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
            })
        };
        let (version, trace, span, _flags) = (part(2)?, part(32)?, part(16)?, part(2)?);
        let is_zero = |id: &str| id.bytes().all(|byte| byte == b'0');
        let valid = version == "00" && !is_zero(trace) && !is_zero(span) && parts.next().is_none();
        valid.then(|| Self(traceparent.into()))
    }

    /// The value of a `traceparent`.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// A transaction that was tried.
#[derive(Debug)]
pub struct Attempt<'a> {
    /// When it was sent.
    pub started: SystemTime,
    /// Until its answer.
    pub took: Duration,
    /// How many writes it has.
    pub writes: usize,
    /// `applied`, `unavailable`, `conflict`, `rejected`, `unknown` or `moved`.
    pub result: &'static str,
    /// The contexts of its writes, at most [`LINKS_MAX`] of them.
    pub contexts: Vec<&'a TraceContext>,
    /// Writes that have a context.
    pub traced: usize,
}

/// Takes note of transactions. It is called between two transactions and must not wait for anything.
pub trait Tracer: fmt::Debug + Send + Sync {
    /// A transaction with at least one write that has a context was answered.
    fn attempted(&self, attempt: &Attempt<'_>);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_contexts_of_version_00_are_taken() {
        let good = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
        assert_eq!(TraceContext::new(good).unwrap().as_str(), good);
        for bad in [
            "",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-x",
            "01-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
            "00-4BF92F3577B34DA6A3CE929D0E0E4736-00f067aa0ba902b7-01",
            "00-00000000000000000000000000000000-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-01",
            "00-4bf92f3577b34da6a3ce929d0e0e473-00f067aa0ba902b7-001",
        ] {
            assert_eq!(TraceContext::new(bad), None, "{bad}");
        }
    }
}
