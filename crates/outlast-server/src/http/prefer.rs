//! `Prefer` (RFC 7240) and `Idempotency-Key`: what a client asks for beside the write itself.

use std::time::Duration;

use http::{HeaderMap, HeaderName, HeaderValue};
use outlast::status::Wait;

use super::problem::{INVALID_REQUEST, Problem};

/// The request header.
pub(super) const PREFER: HeaderName = HeaderName::from_static("prefer");
/// The response header that says which preferences were followed.
pub(super) const PREFERENCE_APPLIED: HeaderName = HeaderName::from_static("preference-applied");
/// The request header with a client's own name for a write.
pub(super) const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");
/// The longest that a request may wait, whatever it asks for.
pub(super) const WAIT_MAX: Duration = Duration::from_mins(5);

/// What the client prefers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Preferences {
    /// Do not wait, except as `wait` says.
    respond_async: bool,
    /// Wait so many seconds.
    wait: Option<u64>,
    /// Leave the record out of the answer.
    pub minimal: bool,
    /// The client asked for the record.
    representation: bool,
    /// Of a stream: end it at the first line that is not accepted (`handling=strict`).
    pub strict: bool,
}

impl Preferences {
    /// From the request's headers. What is not known or not understood is ignored, as the RFC asks.
    pub(super) fn of(headers: &HeaderMap) -> Self {
        let mut preferences = Self::default();
        let values = headers.get_all(PREFER).into_iter().filter_map(|value| value.to_str().ok());
        for item in values.flat_map(|value| value.split(',')) {
            let preference = item.split(';').next().unwrap_or_default().trim();
            let (name, value) = preference.split_once('=').unwrap_or((preference, ""));
            let value = value.trim().trim_matches('"');
            match name.trim().to_ascii_lowercase().as_str() {
                "respond-async" => preferences.respond_async = true,
                // The first of several counts (RFC 7240, section 2).
                "wait" if preferences.wait.is_none() => preferences.wait = value.parse().ok(),
                "return" if !preferences.minimal && !preferences.representation => {
                    preferences.minimal = value.eq_ignore_ascii_case("minimal");
                    preferences.representation = value.eq_ignore_ascii_case("representation");
                }
                "handling" => preferences.strict |= value.eq_ignore_ascii_case("strict"),
                _ => {}
            }
        }
        preferences
    }

    /// How long to wait for *applied*.
    pub(super) fn wait(&self, default: Duration) -> Wait {
        match (self.wait, self.respond_async) {
            (Some(0), _) | (None, true) => Wait::No,
            (Some(seconds), _) => Wait::UpTo(Duration::from_secs(seconds).min(WAIT_MAX)),
            (None, false) if default.is_zero() => Wait::No,
            (None, false) => Wait::UpTo(default),
        }
    }

    /// The value of `Preference-Applied`, if any preference was followed.
    pub(super) fn applied(&self) -> Option<HeaderValue> {
        if *self == Self::default() {
            return None;
        }
        let mut followed = Vec::new();
        if self.respond_async {
            followed.push("respond-async".to_owned());
        }
        if let Some(seconds) = self.wait {
            followed.push(format!("wait={}", seconds.min(WAIT_MAX.as_secs())));
        }
        if self.minimal {
            followed.push("return=minimal".to_owned());
        }
        if self.representation {
            followed.push("return=representation".to_owned());
        }
        if self.strict {
            followed.push("handling=strict".to_owned());
        }
        HeaderValue::from_str(&followed.join(", ")).ok()
    }
}

/// The client's idempotency key: a quoted string as the draft has it, or bare.
///
/// # Errors
/// 400 when the header appears twice, or is not visible ASCII.
pub(super) fn idempotency_key(headers: &HeaderMap) -> Result<Option<&str>, Problem> {
    let mut values = headers.get_all(IDEMPOTENCY_KEY).into_iter();
    let Some(value) = values.next() else { return Ok(None) };
    if values.next().is_some() {
        return Err(Problem::new(INVALID_REQUEST, "Idempotency-Key appears more than once"));
    }
    let text = value
        .to_str()
        .map_err(|_| {
            Problem::new(INVALID_REQUEST, "Idempotency-Key has characters other than visible ASCII")
        })?
        .trim();
    let bare = text.strip_prefix('"').and_then(|rest| rest.strip_suffix('"')).unwrap_or(text);
    Ok(Some(bare))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn prefer(values: &[&'static str]) -> Preferences {
        let mut headers = HeaderMap::new();
        for value in values {
            headers.append(PREFER, HeaderValue::from_static(value));
        }
        Preferences::of(&headers)
    }

    #[test]
    fn preferences_choose_how_long_to_wait() {
        let ten = Duration::from_secs(10);
        assert_eq!(prefer(&[]).wait(ten), Wait::UpTo(ten));
        assert_eq!(prefer(&["respond-async"]).wait(ten), Wait::No);
        assert_eq!(prefer(&["Wait=3"]).wait(ten), Wait::UpTo(Duration::from_secs(3)));
        assert_eq!(prefer(&["respond-async, wait=2"]).wait(ten), Wait::UpTo(Duration::from_secs(2)));
        assert_eq!(prefer(&["respond-async", "wait=0"]).wait(ten), Wait::No);
        assert_eq!(prefer(&["wait=99999999999"]).wait(ten), Wait::UpTo(WAIT_MAX));
        assert_eq!(prefer(&["wait=soon, colour=blue"]).wait(ten), Wait::UpTo(ten));
    }

    #[test]
    fn followed_preferences_are_told() {
        assert_eq!(prefer(&["colour=blue"]).applied(), None);
        assert_eq!(
            prefer(&["respond-async, return=minimal"]).applied().unwrap(),
            "respond-async, return=minimal"
        );
        assert_eq!(prefer(&["return=minimal, return=representation"]).applied().unwrap(), "return=minimal");
        assert_eq!(prefer(&["wait=400"]).applied().unwrap(), "wait=300");
        assert_eq!(prefer(&["handling=lenient"]).applied(), None);
        assert_eq!(prefer(&["handling=strict"]).applied().unwrap(), "handling=strict");
    }

    #[test]
    fn keys_are_taken_quoted_or_bare_and_only_once() {
        let mut headers = HeaderMap::new();
        assert_eq!(idempotency_key(&headers).unwrap(), None);
        headers.append(IDEMPOTENCY_KEY, HeaderValue::from_static("\"abc\""));
        assert_eq!(idempotency_key(&headers).unwrap(), Some("abc"));
        headers.insert(IDEMPOTENCY_KEY, HeaderValue::from_static("abc"));
        assert_eq!(idempotency_key(&headers).unwrap(), Some("abc"));
        headers.append(IDEMPOTENCY_KEY, HeaderValue::from_static("def"));
        assert!(idempotency_key(&headers).is_err());
    }
}
