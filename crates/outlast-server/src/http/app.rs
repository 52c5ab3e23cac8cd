//! [`App`]: what every request needs, and [`Call`]: one request on its way to its handler.

use std::fmt;
use std::marker::PhantomData;
use std::str::FromStr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::response::Response;
use http::request::Parts;
use http::{HeaderMap, HeaderValue, StatusCode, header};
use outlast::trace::TraceContext;
use outlast::{Collection, Outlast, RecordId, WriteId};
use serde::de::value::MapAccessDeserializer;
use serde::de::{DeserializeOwned, Error, MapAccess, Visitor};
use serde::{Deserialize, Deserializer};
use serde_json::{Number, Value};
use tokio::sync::{broadcast, watch};

use super::audit::Audit;
use super::auth::Auth;
use super::bulk::Runs;
use super::history::History;
use super::metrics::HttpMetrics;
use super::problem::{INTERNAL, INVALID_REQUEST, MALFORMED_JSON, Problem, UNSUPPORTED_MEDIA_TYPE};
use crate::config::{ServerConfig, units};
use crate::traces::Traces;

/// Events that a slow listener may be behind.
const NEWS_KEPT: usize = 64;

/// What every request needs.
pub struct App {
    /// The library.
    pub outlast: Outlast,
    /// The section `server` of the configuration.
    pub server: ServerConfig,
    /// The tokens.
    pub auth: Auth,
    /// Counts and times requests.
    pub metrics: HttpMetrics,
    /// The settings as they are shown: without secrets.
    pub(super) configuration: Value,
    /// Makes spans, if there is a collector for them.
    pub(super) traces: Option<Arc<Traces>>,
    pub(super) audit: Audit,
    pub(super) history: History,
    pub(super) runs: Runs,
    news: broadcast::Sender<Value>,
    stopping: watch::Sender<bool>,
}

impl App {
    /// Registers the HTTP series with the library's metrics. Call it once per `outlast`.
    pub fn new(outlast: Outlast, server: ServerConfig) -> Arc<Self> {
        Self::with_configuration(outlast, server, Value::Object(serde_json::Map::new()), None)
    }

    /// As [`App::new`], with all settings and their sources as the dashboard shows them.
    pub fn with_configuration(
        outlast: Outlast,
        server: ServerConfig,
        configuration: Value,
        traces: Option<Arc<Traces>>,
    ) -> Arc<Self> {
        let metrics = outlast.registry(HttpMetrics::register);
        let auth = Auth::new(&server);
        let audit = Audit::open(&outlast.options().directory);
        Arc::new(Self {
            outlast,
            server,
            auth,
            metrics,
            configuration,
            traces,
            audit,
            history: History::default(),
            runs: Runs::default(),
            news: broadcast::Sender::new(NEWS_KEPT),
            stopping: watch::Sender::new(false),
        })
    }

    /// Tells whoever listens to `/v1/events`.
    pub(super) fn tell(&self, event: Value) {
        // Nobody listening is fine.
        let _ = self.news.send(event);
    }

    /// What the server tells from now on, beside the library's events.
    pub(super) fn news(&self) -> broadcast::Receiver<Value> {
        self.news.subscribe()
    }

    /// From now on the server is not ready, and streams end.
    pub fn stop(&self) {
        self.stopping.send_replace(true);
    }

    /// Whether [`App::stop`] was called.
    pub fn is_stopping(&self) -> bool {
        *self.stopping.borrow()
    }

    /// Resolves when [`App::stop`] is called.
    pub fn stopped(&self) -> impl Future<Output = ()> + Send + 'static {
        let mut stopping = self.stopping.subscribe();
        async move {
            // An error means that the app is gone, which is a stop as well.
            let _ = stopping.wait_for(|stopping| *stopping).await;
        }
    }
}

/// One request: authorised, its body read unless it is a stream.
pub struct Call {
    /// What every request needs.
    pub app: Arc<App>,
    /// Method, path and headers.
    pub parts: Parts,
    /// The parameters of the path, decoded.
    pub params: Vec<(String, String)>,
    /// The whole body; empty where the route takes none, or takes it as a stream.
    pub body: Bytes,
    /// The body of a route that takes a stream, not read yet. Behind a lock that nobody waits for: a body alone could not
    /// be lent to handlers.
    pub stream: Mutex<Body>,
    /// What a write of it is linked to.
    pub trace: Option<TraceContext>,
}

/// What a handler answers.
pub(super) type Answer = Result<Response, Problem>;

impl Call {
    /// The body of a route that takes a stream.
    pub fn into_stream(self) -> Body {
        self.stream.into_inner().unwrap_or_else(PoisonError::into_inner)
    }

    /// The request's headers.
    pub fn headers(&self) -> &HeaderMap {
        &self.parts.headers
    }

    /// A parameter of the path, parsed.
    ///
    /// # Errors
    /// 400 with what its grammar is.
    pub fn param<T>(&self, name: &str) -> Result<T, Problem>
    where
        T: FromStr,
        T::Err: std::fmt::Display,
    {
        let text = self.params.iter().find(|(key, _)| key == name).map_or("", |(_, value)| value.as_str());
        text.parse().map_err(|error: T::Err| Problem::new(INVALID_REQUEST, error.to_string()))
    }

    /// The collection and the id that the path names.
    ///
    /// # Errors
    /// 400 with the grammar of names.
    pub fn record(&self) -> Result<(Collection, RecordId), Problem> {
        Ok((self.param("collection")?, self.param("id")?))
    }

    /// The write that the path names.
    ///
    /// # Errors
    /// 400 with the form of a write id.
    pub fn write_id(&self) -> Result<WriteId, Problem> {
        self.param("id")
    }

    /// The parameters of the query, decoded, in order.
    pub fn query(&self) -> Vec<(String, String)> {
        let query = self.parts.uri.query().unwrap_or_default();
        url::form_urlencoded::parse(query.as_bytes()).into_owned().collect()
    }

    /// The parameters of the query, of which only `known` may appear, each once.
    ///
    /// # Errors
    /// 400 naming the unknown or repeated one.
    pub fn known_query<const N: usize>(&self, known: [&str; N]) -> Result<[Option<String>; N], Problem> {
        let mut found = [const { None }; N];
        for (name, value) in self.query() {
            let place = known.iter().position(|key| *key == name).ok_or_else(|| {
                let list = if N == 0 {
                    "there are none here".to_owned()
                } else {
                    format!("use {}", known.join(", "))
                };
                Problem::new(
                    INVALID_REQUEST,
                    format!("unknown query parameter \"{}\": {list}", name.escape_debug()),
                )
            })?;
            if found[place].replace(value).is_some() {
                return Err(Problem::new(
                    INVALID_REQUEST,
                    format!("query parameter \"{name}\" appears more than once"),
                ));
            }
        }
        Ok(found)
    }

    /// The body as JSON.
    ///
    /// # Errors
    /// 415 when it is not declared as JSON, 400 with line and column when it is not JSON or not of the right shape.
    pub fn json<T: DeserializeOwned>(&self) -> Result<T, Problem> {
        self.expect_json()?;
        let Object(value) = serde_json::from_slice(&self.body).map_err(|error| json_problem(&error))?;
        Ok(value)
    }

    /// The body as JSON, or the default when there is none.
    ///
    /// # Errors
    /// As [`Call::json`].
    pub fn json_or_default<T: DeserializeOwned + Default>(&self) -> Result<T, Problem> {
        if self.body.is_empty() { Ok(T::default()) } else { self.json() }
    }

    fn expect_json(&self) -> Result<(), Problem> {
        let declared =
            self.headers().get(header::CONTENT_TYPE).map(HeaderValue::as_bytes).unwrap_or_default();
        let essence = declared.split(|byte| *byte == b';').next().unwrap_or_default().trim_ascii();
        let json = essence.eq_ignore_ascii_case(b"application/json")
            || (essence.len() > 17
                && essence[..12].eq_ignore_ascii_case(b"application/")
                && essence[essence.len() - 5..].eq_ignore_ascii_case(b"+json"));
        if json {
            return Ok(());
        }
        let given = if declared.is_empty() {
            "no Content-Type was given".to_owned()
        } else {
            format!("Content-Type is {}", String::from_utf8_lossy(declared).escape_debug())
        };
        Err(Problem::new(UNSUPPORTED_MEDIA_TYPE, format!("{given}; send application/json")))
    }
}

/// What can only be read from a JSON object. A struct alone is also read from an array, member by member: one that has
/// nothing but optional members even from `[]`.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Object<T>(pub T);

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Object<T> {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct Members<T>(PhantomData<T>);
        impl<'de, T: Deserialize<'de>> Visitor<'de> for Members<T> {
            type Value = T;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, members: A) -> Result<T, A::Error> {
                T::deserialize(MapAccessDeserializer::new(members))
            }
        }
        from.deserialize_map(Members(PhantomData)).map(Self)
    }
}

/// A member that may be left out, but is not null.
///
/// # Errors
/// As those of the member's type.
pub(super) fn given<'de, D: Deserializer<'de>, T: Deserialize<'de>>(from: D) -> Result<Option<T>, D::Error> {
    T::deserialize(from).map(Some)
}

/// A whole number, or null. JSON does not tell `3` from `3.0`.
///
/// # Errors
/// For anything else, numbers that are negative or beyond 64 bits included.
pub(super) fn whole_or_null<'de, D: Deserializer<'de>>(from: D) -> Result<Option<u64>, D::Error> {
    let Some(number) = Option::<Number>::deserialize(from)? else { return Ok(None) };
    let text = number.to_string();
    let digits = text.strip_suffix(".0").unwrap_or(&text);
    digits
        .parse()
        .map(Some)
        .map_err(|_| Error::custom(format!("{text} is not a whole number from 0 to {}", u64::MAX)))
}

fn json_problem(error: &serde_json::Error) -> Problem {
    let kind = if error.is_data() { INVALID_REQUEST } else { MALFORMED_JSON };
    let (line, column) = (error.line(), error.column());
    Problem::new(kind, format!("the body: {error}")).with("line", line).with("column", column)
}

/// Reads a duration such as `10s`, at most `most`.
///
/// # Errors
/// 400 with what is accepted.
pub(super) fn duration(name: &str, text: &str, most: Duration) -> Result<Duration, Problem> {
    let given = units::parse_duration(text)
        .map_err(|why| Problem::new(INVALID_REQUEST, format!("\"{name}\": {why}")))?;
    Ok(given.min(most))
}

/// Reads a limit of 1 to `most`.
///
/// # Errors
/// 400 with the bounds.
pub(super) fn limit(text: Option<&str>, default: usize, most: usize) -> Result<usize, Problem> {
    match text.map(str::parse::<usize>) {
        None => Ok(default),
        Some(Ok(limit)) if (1..=most).contains(&limit) => Ok(limit),
        Some(_) => Err(Problem::new(INVALID_REQUEST, format!("\"limit\" must be a number from 1 to {most}"))),
    }
}

/// The present time as it is shown (RFC 3339).
pub(super) fn now() -> String {
    format!("{:.3}", jiff::Timestamp::now())
}

/// An answer in JSON.
pub(super) fn json(status: StatusCode, text: impl Into<Body>) -> Response {
    content(status, "application/json", text)
}

/// A value as an answer in JSON.
///
/// # Errors
/// 500 when it cannot be written, which does not happen to the types that are answered.
pub(super) fn json_of(status: StatusCode, value: &impl serde::Serialize) -> Answer {
    let text = serde_json::to_string(value).map_err(|error| Problem::new(INTERNAL, error.to_string()))?;
    Ok(json(status, text))
}

/// An answer with a content type.
pub(super) fn content(status: StatusCode, media_type: &'static str, body: impl Into<Body>) -> Response {
    let mut response = Response::new(body.into());
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(media_type));
    response
}

/// The same answer, never kept by a cache: for everything that tells the state of things.
pub(super) fn not_stored(mut response: Response) -> Response {
    response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Sample {
        #[serde(default, deserialize_with = "whole_or_null")]
        number: Option<u64>,
        #[serde(default, deserialize_with = "given")]
        text: Option<String>,
    }

    fn read(text: &str) -> Result<Sample, String> {
        serde_json::from_str(text).map(|Object(sample)| sample).map_err(|error| error.to_string())
    }

    #[test]
    fn an_array_is_no_object_and_null_is_no_text() {
        assert_eq!(read(r#"{"text":"a"}"#).unwrap().text.unwrap(), "a");
        assert!(read("{}").unwrap().text.is_none());
        for (bad, why) in [
            ("[]", "expected an object"),
            (r#"[1,"a"]"#, "expected an object"),
            ("null", "expected an object"),
            (r#"{"text":null}"#, "invalid type: null"),
            (r#"{"txt":""}"#, "unknown field"),
        ] {
            let error = read(bad).unwrap_err();
            assert!(error.contains(why), "{bad}: {error}");
        }
    }

    #[test]
    fn whole_numbers_are_read_however_json_writes_them() {
        for (text, number) in
            [("3", Some(3)), ("3.0", Some(3)), ("18446744073709551615", Some(u64::MAX)), ("null", None)]
        {
            assert_eq!(read(&format!(r#"{{"number":{text}}}"#)).unwrap().number, number, "{text}");
        }
        for bad in ["3.5", "-1", "18446744073709551616", "\"3\"", "[3]", "true"] {
            assert!(read(&format!(r#"{{"number":{bad}}}"#)).is_err(), "{bad}");
        }
    }
}
