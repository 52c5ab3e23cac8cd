//! Time as Outlast writes it. The time of day comes from the log, and intervals are measured with tokio's clock, so that
//! a simulation has both in hand.

pub(crate) use outlast_log::now_ms;

/// A Unix time in milliseconds as RFC 3339, with milliseconds.
pub(crate) fn rfc3339(ms: u64) -> String {
    jiff::Timestamp::from_millisecond(i64::try_from(ms).unwrap_or(i64::MAX))
        .map_or_else(|_| "unknown".to_owned(), |time| format!("{time:.3}"))
}

pub(crate) fn rfc3339_now() -> String {
    rfc3339(now_ms())
}

#[cfg(test)]
mod tests {
    #[test]
    fn times_are_rfc_3339_with_milliseconds() {
        assert_eq!(super::rfc3339(1_763_911_111_111), "2025-11-23T15:18:31.111Z");
        assert_eq!(super::rfc3339(0), "1970-01-01T00:00:00.000Z");
    }
}
