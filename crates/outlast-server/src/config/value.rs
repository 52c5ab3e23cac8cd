//! [`Slot`]: a place in the configuration, how text is read into it, and how it is shown.

use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use outlast::options::{AfterTimeout, Compression, Format};
use outlast::redact::Redaction;

use super::alerts::{AlertKind, Webhook};
use super::token::Token;
use super::units;

/// A text that is never shown: passwords.
#[derive(Clone, PartialEq, Eq, Default)]
pub struct Secret(String);

impl Secret {
    /// Wraps a text.
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// The text itself, for the one place that needs it.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(HIDDEN)
    }
}

/// What stands in the place of a secret.
pub(super) const HIDDEN: &str = "(hidden)";

/// How log lines are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum LogFormat {
    /// For people.
    #[default]
    Text,
    /// One JSON object per line.
    Json,
}

/// What `/readyz` demands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Readiness {
    /// That a write can be durably accepted.
    #[default]
    Queue,
    /// That, and that the database is connected.
    Database,
}

/// Words that a setting chooses from.
pub trait Choice {
    /// Every word, in the order in which they are shown.
    fn words(&self) -> &'static [&'static str];
    /// Index of the present one.
    fn index(&self) -> usize;
    /// Takes the word at `index`, which is below the number of words.
    fn choose(&mut self, index: usize);
}

macro_rules! choice {
    ($name:ty, $($word:literal => $variant:path),+) => {
        impl Choice for $name {
            fn words(&self) -> &'static [&'static str] {
                &[$($word),+]
            }
            fn index(&self) -> usize {
                [$($variant),+].iter().position(|variant| variant == self).unwrap_or(0)
            }
            fn choose(&mut self, index: usize) {
                if let Some(variant) = [$($variant),+].get(index) {
                    *self = *variant;
                }
            }
        }
    };
}
choice!(LogFormat, "text" => LogFormat::Text, "json" => LogFormat::Json);
choice!(Readiness, "queue" => Readiness::Queue, "database" => Readiness::Database);
choice!(Format, "json" => Format::Json, "bincode" => Format::Bincode);
choice!(Compression, "none" => Compression::None, "zstd" => Compression::Zstd);
choice!(AfterTimeout, "queue" => AfterTimeout::Queue, "reject" => AfterTimeout::Reject);

/// A place in the configuration: its type says what is accepted.
pub enum Slot<'a> {
    /// A time.
    Duration(&'a mut Duration),
    /// A time, or `none`.
    DurationOrNone(&'a mut Option<Duration>),
    /// `reject` (kept as zero), or how long to wait first.
    RejectOrDuration(&'a mut Duration),
    /// A size on disk or in a body.
    Bytes(&'a mut u64),
    /// A size in memory.
    MemoryBytes(&'a mut usize),
    /// A count.
    Count(&'a mut u64),
    /// A small count.
    SmallCount(&'a mut u32),
    /// A count of things in memory.
    MemoryCount(&'a mut usize),
    /// A count, or `none`.
    CountOrNone(&'a mut Option<u64>),
    /// `true` or `false`.
    Flag(&'a mut bool),
    /// Any text.
    Text(&'a mut String),
    /// A URL that may hold a password.
    Url(&'a mut String),
    /// A URL of HTTP without a password, or `none`.
    UrlOrNone(&'a mut Option<url::Url>),
    /// From 0 to 1.
    Ratio(&'a mut f64),
    /// A secret, or `none`.
    Secret(&'a mut Option<Secret>),
    /// A file or directory.
    Path(&'a mut PathBuf),
    /// A file, or `none`.
    PathOrNone(&'a mut Option<PathBuf>),
    /// Where to listen.
    Address(&'a mut SocketAddr),
    /// One of several words.
    Choice(&'a mut dyn Choice),
    /// Bearer tokens: an array of tables in the file, `NAME:ROLE:SHA256[:EXPIRES]` with commas between them elsewhere.
    Tokens(&'a mut Vec<Token>),
    /// URLs that are secrets, with commas between them.
    Webhooks(&'a mut Vec<Webhook>),
    /// Kinds of alerts, with commas between them.
    Alerts(&'a mut Vec<AlertKind>),
    /// Fields whose values are hidden, with commas between them.
    Fields(&'a mut Redaction),
}

/// The smallest and the largest value: milliseconds, bytes or a count, as the slot is.
pub(super) type Bounds = (u64, u64);

impl Slot<'_> {
    /// What is accepted, for errors and documents.
    pub fn accepts(&self) -> String {
        match self {
            Self::Duration(_) => units::DURATION_ACCEPTED.to_owned(),
            Self::DurationOrNone(_) => format!("none, or {}", units::DURATION_ACCEPTED),
            Self::RejectOrDuration(_) => format!("reject, or {}", units::DURATION_ACCEPTED),
            Self::Bytes(_) | Self::MemoryBytes(_) => units::BYTES_ACCEPTED.to_owned(),
            Self::Count(_) | Self::SmallCount(_) | Self::MemoryCount(_) => units::COUNT_ACCEPTED.to_owned(),
            Self::CountOrNone(_) => format!("none, or {}", units::COUNT_ACCEPTED),
            Self::Flag(_) => "true or false".to_owned(),
            Self::Text(_) => "text".to_owned(),
            Self::Url(_) => "a URL, for example sqlite://outlast-data/database.db".to_owned(),
            Self::UrlOrNone(_) => "none, or a URL, for example http://localhost:4318/v1/traces".to_owned(),
            Self::Ratio(_) => "a number from 0 to 1".to_owned(),
            Self::Secret(_) => "none, or text".to_owned(),
            Self::Path(_) => "a path".to_owned(),
            Self::PathOrNone(_) => "none, or a path".to_owned(),
            Self::Address(_) => {
                "an IP address and a port, for example 127.0.0.1:6885 or [::1]:6885".to_owned()
            }
            Self::Choice(choice) => format!("one of: {}", choice.words().join(", ")),
            Self::Tokens(_) => {
                "a list of tokens: [[server.tokens]] tables with name, role, sha256 and perhaps expires"
                    .to_owned()
            }
            Self::Webhooks(_) => "none, or a list of URLs".to_owned(),
            Self::Fields(_) => {
                "none, or a list of fields, for example password or customers.email".to_owned()
            }
            Self::Alerts(_) => format!("none, or some of: {}", AlertKind::show_list(&AlertKind::ALL)),
        }
    }

    /// The kind of value, in a word or two, for the table in the documents.
    pub fn kind(&self) -> String {
        match self {
            Self::Duration(_) => "duration".to_owned(),
            Self::DurationOrNone(_) => "duration or `none`".to_owned(),
            Self::RejectOrDuration(_) => "`reject` or duration".to_owned(),
            Self::Bytes(_) | Self::MemoryBytes(_) => "size".to_owned(),
            Self::Count(_) | Self::SmallCount(_) | Self::MemoryCount(_) => "number".to_owned(),
            Self::CountOrNone(_) => "number or `none`".to_owned(),
            Self::Flag(_) => "`true`, `false`".to_owned(),
            Self::Text(_) => "text".to_owned(),
            Self::Url(_) => "URL".to_owned(),
            Self::UrlOrNone(_) => "URL or `none`".to_owned(),
            Self::Ratio(_) => "0 to 1".to_owned(),
            Self::Secret(_) => "secret".to_owned(),
            Self::Path(_) => "path".to_owned(),
            Self::PathOrNone(_) => "path or `none`".to_owned(),
            Self::Address(_) => "IP address and port".to_owned(),
            Self::Choice(choice) => {
                choice.words().iter().map(|word| format!("`{word}`")).collect::<Vec<_>>().join(", ")
            }
            Self::Tokens(_) => "list".to_owned(),
            Self::Webhooks(_) => "list of secret URLs".to_owned(),
            Self::Alerts(_) => "list of words".to_owned(),
            Self::Fields(_) => "list of fields".to_owned(),
        }
    }

    /// Reads `text` into the place.
    ///
    /// # Errors
    /// A sentence with what was given and what is accepted. The place is then unchanged.
    pub fn read(&mut self, text: &str, bounds: Bounds) -> Result<(), String> {
        let duration = |text: &str| -> Result<Duration, String> {
            let value = units::parse_duration(text)?;
            let millis = u64::try_from(value.as_millis()).unwrap_or(u64::MAX);
            within(text, millis, bounds, |limit| units::format_duration(Duration::from_millis(limit)))?;
            Ok(value)
        };
        let count = |text: &str| within(text, units::parse_count(text)?, bounds, |limit| limit.to_string());
        let bytes = |text: &str| within(text, units::parse_bytes(text)?, bounds, units::format_bytes);
        match self {
            Self::Duration(slot) => **slot = duration(text)?,
            Self::DurationOrNone(slot) => **slot = if text == "none" { None } else { Some(duration(text)?) },
            Self::RejectOrDuration(slot) => {
                **slot = if text == "reject" { Duration::ZERO } else { duration(text)? }
            }
            Self::Bytes(slot) => **slot = bytes(text)?,
            Self::MemoryBytes(slot) => **slot = fits(bytes(text)?)?,
            Self::Count(slot) => **slot = count(text)?,
            Self::SmallCount(slot) => **slot = fits(count(text)?)?,
            Self::MemoryCount(slot) => **slot = fits(count(text)?)?,
            Self::CountOrNone(slot) => **slot = if text == "none" { None } else { Some(count(text)?) },
            Self::Flag(slot) => {
                **slot = text.parse().map_err(|_| format!("\"{text}\" is neither true nor false"))?;
            }
            Self::Text(slot) => text.clone_into(slot),
            Self::Url(slot) => {
                // The text is not repeated: it may hold a password.
                outlast::database::url_scheme(text).map_err(|error| error.to_string())?;
                text.clone_into(slot);
            }
            Self::UrlOrNone(slot) => **slot = if text == "none" { None } else { Some(read_url(text)?) },
            Self::Ratio(slot) => {
                let ratio = text.parse().ok().filter(|ratio| (0.0..=1.0).contains(ratio));
                **slot = ratio.ok_or_else(|| format!("\"{text}\" is not a number from 0 to 1"))?;
            }
            Self::Secret(slot) => **slot = if text == "none" { None } else { Some(Secret::new(text)) },
            Self::Path(slot) => {
                if text.is_empty() {
                    return Err("a path must not be empty".to_owned());
                }
                **slot = PathBuf::from(text);
            }
            Self::PathOrNone(slot) => **slot = if text == "none" { None } else { Some(PathBuf::from(text)) },
            Self::Address(slot) => **slot = read_address(text)?,
            Self::Choice(slot) => {
                let index = slot.words().iter().position(|word| *word == text);
                let index =
                    index.ok_or_else(|| format!("\"{text}\" is not one of: {}", slot.words().join(", ")))?;
                slot.choose(index);
            }
            Self::Tokens(slot) => **slot = Token::read_list(text)?,
            Self::Webhooks(slot) => **slot = Webhook::read_list(text)?,
            Self::Alerts(slot) => **slot = AlertKind::read_list(text)?,
            Self::Fields(slot) => **slot = read_fields(text)?,
        }
        Ok(())
    }

    /// The present value as it would be written; secrets hidden.
    pub fn show(&self) -> String {
        let none = || "none".to_owned();
        match self {
            Self::DurationOrNone(value) => value.map_or_else(none, units::format_duration),
            Self::RejectOrDuration(value) if value.is_zero() => "reject".to_owned(),
            Self::Duration(value) | Self::RejectOrDuration(value) => units::format_duration(**value),
            Self::Bytes(value) => units::format_bytes(**value),
            Self::MemoryBytes(value) => units::format_bytes(**value as u64),
            Self::Count(value) => value.to_string(),
            Self::SmallCount(value) => value.to_string(),
            Self::MemoryCount(value) => value.to_string(),
            Self::CountOrNone(value) => value.map_or_else(none, |value| value.to_string()),
            Self::Flag(value) => value.to_string(),
            Self::Text(value) => (*value).clone(),
            Self::Url(value) => hide_password(value),
            Self::UrlOrNone(value) => value.as_ref().map_or_else(none, ToString::to_string),
            Self::Ratio(value) => value.to_string(),
            Self::Secret(value) => value.as_ref().map_or_else(none, |_| HIDDEN.to_owned()),
            Self::Path(value) => value.display().to_string(),
            Self::PathOrNone(value) => value.as_ref().map_or_else(none, |path| path.display().to_string()),
            Self::Address(value) => value.to_string(),
            Self::Choice(value) => value.words().get(value.index()).copied().unwrap_or_default().to_owned(),
            Self::Webhooks(hooks) => Webhook::show_list(hooks),
            Self::Alerts(kinds) => AlertKind::show_list(kinds),
            Self::Fields(fields) if fields.is_empty() => none(),
            Self::Fields(fields) => fields.fields().collect::<Vec<_>>().join(","),
            Self::Tokens(tokens) if tokens.is_empty() => none(),
            Self::Tokens(tokens) => tokens.iter().map(Token::show).collect::<Vec<_>>().join(", "),
        }
    }

    /// Whether the file writes it in quotation marks.
    pub fn quoted(&self) -> bool {
        !matches!(
            self,
            Self::Ratio(_) | Self::Count(_) | Self::SmallCount(_) | Self::MemoryCount(_) | Self::Flag(_)
        )
    }
}

/// The URL with its password, if it has one, taken out.
pub fn hide_password(url: &str) -> String {
    let Ok(mut parsed) = url::Url::parse(url) else {
        // What cannot be taken apart is shown only when it cannot hold a password.
        return if url.contains('@') { HIDDEN.to_owned() } else { url.to_owned() };
    };
    // The rest of a password that has a "/", "?" or "#" as it is. Paths of files may have such a sign.
    let is_file = matches!(parsed.scheme(), "sqlite" | "surrealkv");
    if !is_file && parsed[url::Position::BeforePath..].contains('@') {
        return HIDDEN.to_owned();
    }
    match parsed.password().is_some().then(|| parsed.set_password(Some("hidden"))) {
        None => url.to_owned(),
        Some(Ok(())) => parsed.to_string(),
        Some(Err(())) => HIDDEN.to_owned(),
    }
}

fn read_url(text: &str) -> Result<url::Url, String> {
    // The text is not repeated: it may hold a password.
    let url = url::Url::parse(text)
        .ok()
        .filter(|url| matches!(url.scheme(), "http" | "https") && url.host().is_some());
    let url = url.ok_or("it must be a URL that begins with http:// or https://, with a host")?;
    if !url.username().is_empty() || url.password().is_some() {
        return Err("it must not have a user or password before its host: use traces.headers".to_owned());
    }
    Ok(url)
}

fn read_fields(text: &str) -> Result<Redaction, String> {
    if text == "none" {
        return Ok(Redaction::default());
    }
    Redaction::new(text.split(',').map(str::trim)).map_err(|error| error.to_string())
}

fn read_address(text: &str) -> Result<SocketAddr, String> {
    let numeric = match text.strip_prefix("localhost:") {
        Some(port) => format!("127.0.0.1:{port}"),
        None => text.to_owned(),
    };
    numeric.parse().map_err(|_| {
        format!("\"{text}\" is not an IP address and a port, for example 127.0.0.1:6885, [::1]:6885 or 0.0.0.0:6885")
    })
}

fn within(
    text: &str,
    value: u64,
    (least, most): Bounds,
    show: impl Fn(u64) -> String,
) -> Result<u64, String> {
    if value < least {
        return Err(format!("{text} is too small: at least {}", show(least)));
    }
    if value > most {
        return Err(format!("{text} is too large: at most {}", show(most)));
    }
    Ok(value)
}

fn fits<T: TryFrom<u64>>(value: u64) -> Result<T, String> {
    T::try_from(value).map_err(|_| format!("{value} is too large"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn passwords_in_urls_are_hidden() {
        assert_eq!(
            hide_password("surrealdb://root:s3cret@db:8000/a/b"),
            "surrealdb://root:hidden@db:8000/a/b"
        );
        assert_eq!(hide_password("sqlite://outlast-data/database.db"), "sqlite://outlast-data/database.db");
        assert_eq!(
            hide_password("postgres://root@db/a?sslmode=require"),
            "postgres://root@db/a?sslmode=require"
        );
        assert_eq!(hide_password("sqlite://data@night/a.db"), "sqlite://data@night/a.db");
        for password in
            ["s3cret:", "/s3cret", "?s3cret", "#s3cret", "12/s3cret", "s3/cret", "s3@s3/cret", "@/s3cret"]
        {
            let shown = hide_password(&format!("postgres://root:{password}@db:5432/a"));
            assert!(!shown.contains("s3"), "{password}: {shown}");
        }
        assert_eq!(hide_password("surrealdb://root:s3cret@db:port/a"), HIDDEN);
        assert_eq!(format!("{:?}", Secret::new("s3cret")), HIDDEN);
    }

    #[test]
    fn addresses_take_localhost_but_no_other_name() {
        assert_eq!(read_address("localhost:6885").unwrap().to_string(), "127.0.0.1:6885");
        assert!(read_address("db.example:80").unwrap_err().contains("127.0.0.1:6885"));
    }
}
