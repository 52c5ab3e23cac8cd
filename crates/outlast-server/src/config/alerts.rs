//! Webhooks and the alerts that they are told.

use std::fmt;

use url::Url;

use super::value::HIDDEN;

/// What can be told.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum AlertKind {
    /// The database has been away for longer than `health.unavailable_timeout`.
    Outage,
    /// The queue is 75 % or 90 % full.
    Queue,
    /// There are dead letters.
    DeadLetters,
    /// Delivery is halted, or a refusal storm holds it back.
    Delivery,
    /// The log has failed, or its disk is full.
    Log,
    /// Acknowledged writes cannot be read back.
    Losses,
}

impl AlertKind {
    /// Every kind.
    pub const ALL: [Self; 6] =
        [Self::Outage, Self::Queue, Self::DeadLetters, Self::Delivery, Self::Log, Self::Losses];

    /// The word for it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Outage => "outage",
            Self::Queue => "queue",
            Self::DeadLetters => "dead_letters",
            Self::Delivery => "delivery",
            Self::Log => "log",
            Self::Losses => "losses",
        }
    }

    /// Several with commas between them; `none` is none.
    pub(super) fn read_list(text: &str) -> Result<Vec<Self>, String> {
        let one = |word: &str| {
            Self::ALL.into_iter().find(|kind| kind.as_str() == word.trim()).ok_or_else(|| {
                let known = Self::show_list(&Self::ALL);
                format!("\"{}\" is not an alert: use none, or some of {known}", word.trim())
            })
        };
        if text == "none" { Ok(Vec::new()) } else { text.split(',').map(one).collect() }
    }

    pub(super) fn show_list(kinds: &[Self]) -> String {
        if kinds.is_empty() {
            return "none".to_owned();
        }
        kinds.iter().map(|kind| kind.as_str()).collect::<Vec<_>>().join(",")
    }
}

/// A URL that alerts are posted to. Whoever has it can post there, so it is a secret: only its host is shown.
#[derive(Clone, PartialEq, Eq)]
pub struct Webhook(Url);

impl Webhook {
    /// The URL itself, for the one place that needs it.
    pub fn expose(&self) -> &Url {
        &self.0
    }

    fn read(text: &str) -> Result<Self, String> {
        // The text is not repeated: it is a secret.
        const WRONG: &str = "a webhook is a URL that begins with http:// or https://, with a host";
        let url = Url::parse(text).map_err(|_| WRONG.to_owned())?;
        if !matches!(url.scheme(), "http" | "https") || url.host().is_none() {
            return Err(WRONG.to_owned());
        }
        if !url.username().is_empty() || url.password().is_some() {
            return Err("a webhook must not have a user or password before its host: use one with a secret in its path"
                .to_owned());
        }
        Ok(Self(url))
    }

    /// Several with commas between them; `none` is none.
    pub(super) fn read_list(text: &str) -> Result<Vec<Self>, String> {
        if text == "none" {
            Ok(Vec::new())
        } else {
            text.split(',').map(|url| Self::read(url.trim())).collect()
        }
    }

    pub(super) fn show_list(hooks: &[Self]) -> String {
        if hooks.is_empty() {
            return "none".to_owned();
        }
        hooks.iter().map(ToString::to_string).collect::<Vec<_>>().join(",")
    }
}

impl fmt::Display for Webhook {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let port = self.0.port().map_or_else(String::new, |port| format!(":{port}"));
        write!(f, "{}://{}{port}/{HIDDEN}", self.0.scheme(), self.0.host_str().unwrap_or_default())
    }
}

impl fmt::Debug for Webhook {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn webhooks_are_checked_and_never_shown() {
        let hooks =
            Webhook::read_list("https://hooks.example/T0/s3cret?key=s3cret, http://[::1]:9/s3cret").unwrap();
        assert_eq!(format!("{hooks:?}"), "[https://hooks.example/(hidden), http://[::1]:9/(hidden)]");
        assert_eq!(hooks[0].expose().path(), "/T0/s3cret");
        for bad in
            ["s3cret", "ftp://s3cret/", "http://me:s3cret@host/", "https://s3cret host/", "", "http://a/,"]
        {
            let why = Webhook::read_list(bad).unwrap_err();
            assert!(!why.contains("s3cret"), "{why}");
        }
    }

    #[test]
    fn alerts_are_read_as_they_are_shown() {
        for kinds in [&AlertKind::ALL[..], &AlertKind::ALL[2..3], &[]] {
            assert_eq!(AlertKind::read_list(&AlertKind::show_list(kinds)).unwrap(), kinds);
        }
        assert!(AlertKind::read_list("outages").unwrap_err().contains("dead_letters"));
    }
}
