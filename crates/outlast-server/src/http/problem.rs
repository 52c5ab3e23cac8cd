//! Status codes and problem types (RFC 9457): the one place where an error becomes an HTTP status.

use std::time::Duration;

use axum::body::Body;
use axum::response::{IntoResponse, Response};
use http::{HeaderValue, StatusCode, header};
use outlast::{Error, RefusalKind, WriteId};
use serde_json::{Map, Value, json};

use super::metrics::LineStatus;

/// The media type of a problem.
pub const PROBLEM_JSON: &str = "application/problem+json";

/// Which routes answer with a kind of problem, beyond those whose row in the table of routes lists its status.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scope {
    /// All of them.
    Every,
    /// Those that need a role.
    Guarded,
    /// Those that change something.
    Changing,
    /// Those whose path names something.
    Named,
    /// Those that read a body.
    Body,
    /// Those that read a body in JSON.
    Json,
    /// Those that bring a write.
    Write,
    /// That of streams of writes: as its answer, or in the result of a line.
    Stream,
    /// Only those that list its status.
    Listed,
    /// None: it is the answer where there is no route.
    Nowhere,
}

/// A kind of problem: its name is the last part of its type, `/problems/NAME`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Kind {
    /// Words with hyphens between them.
    pub name: &'static str,
    /// The HTTP status.
    pub status: StatusCode,
    /// Which routes answer with it.
    pub scope: Scope,
    /// A short sentence that is the same for every problem of this kind.
    pub title: &'static str,
    /// When it is answered.
    pub when: &'static str,
    /// What a client or operator does about it.
    pub advice: &'static str,
}

/// A kind without a word on when it is answered and what to do does not compile: its page says just that.
macro_rules! kinds {
    ($($constant:ident, $name:literal, $status:ident, $scope:ident, $title:literal, $when:literal, $advice:literal;)+) => {
        $(
            #[doc = $title]
            pub const $constant: Kind = Kind {
                name: $name,
                status: StatusCode::$status,
                scope: Scope::$scope,
                title: $title,
                when: $when,
                advice: $advice,
            };
        )+
        /// Every kind.
        pub const KINDS: &[Kind] = &[$($constant),+];
    };
}

kinds! {
    MALFORMED_JSON, "malformed-json", BAD_REQUEST, Json, "The body is not valid JSON.",
        "The body breaks the grammar of JSON: it ends too early, or has a character where none may stand. Members line and column say where.",
        "Correct the body at that place. Nothing was accepted.";
    INVALID_REQUEST, "invalid-request", BAD_REQUEST, Every, "The request is not valid.",
        "A name, an id, a parameter, a member of the body or the framing of the request breaks a rule. The detail names the rule.",
        "Correct what the detail names. The same request never succeeds, and nothing was accepted.";
    UNAUTHENTICATED, "unauthenticated", UNAUTHORIZED, Guarded, "A valid bearer token is needed.",
        "The server has tokens, and the request carries none, more than one header Authorization, or one that the server does not take.",
        "Send Authorization: Bearer TOKEN with a token that the server's configuration (server.tokens) lists.";
    TOKEN_EXPIRED, "token-expired", UNAUTHORIZED, Guarded, "The token has expired.",
        "The token is one of the server's, and the time of its expires in server.tokens has passed.",
        "Ask whoever runs this server for a new token, or have its expires in server.tokens moved.";
    FORBIDDEN, "forbidden", FORBIDDEN, Guarded, "The token's role may not do this.",
        "The token is valid, and its role is smaller than the one that the route needs: reader, writer, operator, each may what the ones before it may.",
        "Use a token with the role that the detail names.";
    CROSS_ORIGIN, "cross-origin", FORBIDDEN, Changing, "A web page of another origin may not do this.",
        "A browser sent the request for a page of another origin: the header Origin names another host than Host, or Sec-Fetch-Site says cross-site.",
        "Send it from a program, or from a page of the same origin.";
    FOREIGN_HOST, "foreign-host", MISDIRECTED_REQUEST, Guarded, "The request was meant for another host.",
        "The server has no tokens, and Host is neither localhost nor an IP address: a web page could have given this machine a name of its own.",
        "Ask under localhost or an address. To lift this, configure tokens, or set server.insecure_listen.";
    UNKNOWN_ROUTE, "unknown-route", NOT_FOUND, Named, "There is nothing at this path.",
        "No route has this path. A part of it may be empty, or hold a / that is not written as %2F.",
        "See /docs for the paths that there are.";
    NOT_FOUND, "not-found", NOT_FOUND, Listed, "What was asked for does not exist.",
        "There is no record, write, dead letter, run, outage or page of that name, or no longer: receipts are kept as long as the log keeps the write (queue.retain).",
        "Check the name in the path. A write whose receipt is gone was decided long ago.";
    METHOD_NOT_ALLOWED, "method-not-allowed", METHOD_NOT_ALLOWED, Nowhere, "This path does not have this method.",
        "The path exists, and the method of the request is none of its own.",
        "Use one of the methods that the header Allow lists.";
    REQUEST_TIMEOUT, "request-timeout", REQUEST_TIMEOUT, Body, "The body did not arrive in time.",
        "The head of the request came, and the body was not complete within server.body_timeout. The connection is closed.",
        "Send the body faster, or raise server.body_timeout. Nothing was accepted.";
    BODY_INTERRUPTED, "body-interrupted", BAD_REQUEST, Body, "The body ended before it was complete.",
        "The connection broke, or the chunks of the body were not well formed. The connection is closed.",
        "Send the request again. Nothing was accepted; of a stream of writes, only what its results say.";
    RESULTS_NOT_READ, "results-not-read", REQUEST_TIMEOUT, Stream, "The results of a stream of writes were not read.",
        "The client of a stream sends lines, and reads none of the results that are there for it.",
        "Read results while you send lines, or send fewer lines in one stream. What has a result is as it says; lines from the one that the last result names were not taken.";
    RECORD_EXISTS, "record-exists", CONFLICT, Write, "The record exists already.",
        "The write creates a record, and the database has one under that id. The member write is the id of the refused write.",
        "Choose another id, or use PUT to replace the record. The write took no effect.";
    KEY_IN_FLIGHT, "idempotency-key-in-flight", CONFLICT, Write, "A write with this idempotency key is still under way.",
        "An earlier request with the same Idempotency-Key and content still waits for its answer. The member write is the id of its write.",
        "Wait for Retry-After, then send the same request again to get the outcome of the first.";
    LINE_NOT_ACCEPTED, "line-not-accepted", CONFLICT, Stream, "A line before this one was not accepted, and the stream is strict.",
        "The stream of writes was to end with its first line that is not accepted. This stands in the results of the lines after it.",
        "Correct that line, or wait as its problem says; then send it and those after it in a new stream.";
    CONFLICT, "conflict", CONFLICT, Listed, "This is not possible in the present state.",
        "A write to cancel is applied or under way, a halted queue needs a decision to go on or cannot go on at all, a queue to drain stands still, a plan is out of date, another run is under way, or fates cannot be decided while the database is away.",
        "The detail says why, and what would be possible.";
    TOO_LARGE, "too-large", PAYLOAD_TOO_LARGE, Body, "The request is too large.",
        "The body is larger than server.max_body_bytes, or the write larger than queue.write_bytes_max. The members bytes_max and setting say which.",
        "Send less at once, or raise that limit. Nothing was accepted.";
    REFUSED_TOO_LARGE, "refused-too-large", PAYLOAD_TOO_LARGE, Write, "The write is larger than the database takes.",
        "The database refused the write for its size, or that of a value in it.",
        "Send less in one write. It took no effect.";
    UNSUPPORTED_MEDIA_TYPE, "unsupported-media-type", UNSUPPORTED_MEDIA_TYPE, Body, "The body must be of another media type.",
        "Content-Type is missing, or is not one that the route takes.",
        "Send the Content-Type that the detail names.";
    KEY_REUSED, "idempotency-key-reused", UNPROCESSABLE_ENTITY, Write, "The idempotency key belongs to another write.",
        "A write with the same Idempotency-Key and other content was accepted within delivery.key_retention.",
        "Use a new key for a new write. This one took no effect.";
    REFUSED_NOT_FOUND, "record-not-found", NOT_FOUND, Write, "The record that the write needs does not exist.",
        "The write patches a record that the database does not have.",
        "Create it first, or use PUT. The write took no effect.";
    REFUSED_CONSTRAINT, "refused-constraint", UNPROCESSABLE_ENTITY, Write, "The write breaks a constraint of the database.",
        "A unique index, a reference or a check of the database refused the data. The detail has the database's words.",
        "Correct the data. The write took no effect.";
    REFUSED_SCHEMA, "refused-schema", UNPROCESSABLE_ENTITY, Write, "The write does not fit the database's schema.",
        "A field or table is not as the schema wants it. The detail has the database's words.",
        "Correct the data, or the schema. The write took no effect.";
    REFUSED_PERMISSION, "refused-permission", UNPROCESSABLE_ENTITY, Write, "The database account may not do this.",
        "The account that Outlast uses lacks a right in the database.",
        "Give the account the right. The write took no effect.";
    REFUSED_STATEMENT, "refused-statement", UNPROCESSABLE_ENTITY, Write, "The statement is wrong, or it failed.",
        "The database could not read the statement, or it threw. The detail has the database's words.",
        "Correct the statement. The write took no effect.";
    REFUSED, "refused", UNPROCESSABLE_ENTITY, Write, "The database refused the write.",
        "The database refused the write for a reason that has no name of its own here. The detail has the database's words.",
        "Correct what the detail names. The write took no effect.";
    INTERNAL, "internal-error", INTERNAL_SERVER_ERROR, Every, "Something went wrong inside Outlast.",
        "The server met what it did not expect: a fault of its own.",
        "Look at the server's log lines, and report it. Whether a write was accepted is not known: send it again with the same Idempotency-Key.";
    DATABASE_UNAVAILABLE, "database-unavailable", SERVICE_UNAVAILABLE, Listed, "The database cannot be reached.",
        "A read needs the database, and it is away; or a write came in a long outage, and health.after_timeout is reject.",
        "Try again after Retry-After. Writes are taken during an outage unless configured otherwise.";
    QUEUE_FULL, "queue-full", SERVICE_UNAVAILABLE, Write, "The queue is full.",
        "As much waits for the database as queue.max_writes or queue.max_bytes allow. The members say how much.",
        "Try again after Retry-After, or raise those limits. Nothing was accepted.";
    LOG_FAILED, "log-failed", SERVICE_UNAVAILABLE, Listed, "The log cannot take writes.",
        "The disk of the queue is full, or a write or sync of it has failed. What was acknowledged is safe.",
        "Make room, or look at the disk and start the server again. When the member outcome_unknown is true, this write may take effect after all: send it again with the same Idempotency-Key.";
    SHUTTING_DOWN, "shutting-down", SERVICE_UNAVAILABLE, Listed, "The server is shutting down.",
        "The server was told to end, and takes no further writes.",
        "Try again after Retry-After, or at another instance. Nothing was accepted.";
    TOO_MANY_CONNECTIONS, "too-many-connections", SERVICE_UNAVAILABLE, Every, "The server has as many connections as it may.",
        "As many connections are open as server.max_connections allows. This one is closed.",
        "Try again after Retry-After, close idle connections, or raise server.max_connections.";
}

/// The kind with that name.
pub fn find(name: &str) -> Option<&'static Kind> {
    KINDS.iter().find(|kind| kind.name == name)
}

/// An answer that is an error. Boxed, so that the way of a good answer stays narrow.
#[derive(Debug)]
pub struct Problem(Box<Inner>);

#[derive(Debug)]
struct Inner {
    kind: Kind,
    detail: String,
    members: Map<String, Value>,
    retry_after: Option<Duration>,
    headers: Vec<(header::HeaderName, HeaderValue)>,
}

impl Problem {
    /// Of that kind, with what is the matter this time.
    pub fn new(kind: Kind, detail: impl Into<String>) -> Self {
        let members = Map::new();
        Self(Box::new(Inner { kind, detail: detail.into(), members, retry_after: None, headers: Vec::new() }))
    }

    /// With a further member.
    pub fn with(mut self, name: &str, value: impl Into<Value>) -> Self {
        self.0.members.insert(name.to_owned(), value.into());
        self
    }

    /// With `Retry-After`: whole seconds, at least 1 and at most 60.
    pub fn retry_after(mut self, after: Duration) -> Self {
        self.0.retry_after = Some(after);
        self
    }

    /// With a response header.
    pub fn header(mut self, name: header::HeaderName, value: HeaderValue) -> Self {
        self.0.headers.push((name, value));
        self
    }

    /// As what it is told on a line of a stream of writes.
    pub(super) fn line_status(&self) -> LineStatus {
        let Inner { kind, members, .. } = &*self.0;
        let unknown = *kind == INTERNAL || members.get("outcome_unknown") == Some(&Value::Bool(true));
        if unknown {
            LineStatus::Unknown
        } else if kind.status == StatusCode::SERVICE_UNAVAILABLE || *kind == KEY_IN_FLIGHT {
            LineStatus::Unavailable
        } else if [MALFORMED_JSON, INVALID_REQUEST, TOO_LARGE].contains(kind) {
            LineStatus::Invalid
        } else {
            LineStatus::Rejected
        }
    }

    /// The write that it is about, when that has an id.
    pub(super) fn write(&self) -> Option<WriteId> {
        self.0.members.get("write")?.as_str()?.parse().ok()
    }

    /// What kind it is.
    pub fn kind(&self) -> Kind {
        self.0.kind
    }

    /// The body as JSON.
    pub fn body(&self) -> Value {
        let mut body = Map::new();
        body.insert("type".into(), json!(format!("/problems/{}", self.0.kind.name)));
        body.insert("title".into(), json!(self.0.kind.title));
        body.insert("status".into(), json!(self.0.kind.status.as_u16()));
        body.insert("detail".into(), json!(self.0.detail));
        body.insert("code".into(), json!(self.0.kind.name.replace('-', "_")));
        if let Some(seconds) = self.retry_after_seconds() {
            body.insert("retry_after_seconds".into(), json!(seconds));
        }
        body.extend(self.0.members.clone());
        Value::Object(body)
    }

    /// Every 503 says when to come back, even where nobody could estimate it.
    fn retry_after_seconds(&self) -> Option<u64> {
        let unknown = (self.0.kind.status == StatusCode::SERVICE_UNAVAILABLE).then(|| Duration::from_secs(5));
        self.0.retry_after.or(unknown).map(seconds)
    }
}

/// What `Retry-After` says: whole seconds, at least 1 and at most 60.
pub(super) fn seconds(after: Duration) -> u64 {
    after.as_secs_f64().ceil().clamp(1.0, 60.0) as u64
}

impl From<Error> for Problem {
    fn from(error: Error) -> Self {
        let text = error.to_string();
        match error {
            Error::ServiceUnavailable { retry_after, .. } => {
                Self::new(DATABASE_UNAVAILABLE, text).retry_after(retry_after)
            }
            Error::QueueFull { retry_after, writes, writes_max, bytes, bytes_max } => {
                Self::new(QUEUE_FULL, text)
                    .retry_after(retry_after)
                    .with("writes", writes)
                    .with("writes_max", writes_max)
                    .with("bytes", bytes)
                    .with("bytes_max", bytes_max)
            }
            Error::Rejected { id, reason } => Self::new(refusal(reason.kind), text)
                .with("write", id.to_string())
                .with("reason", reason.kind.as_str()),
            Error::NotFound { .. } => Self::new(NOT_FOUND, text),
            Error::Invalid(_) => Self::new(INVALID_REQUEST, text),
            Error::TooLarge { bytes, bytes_max, setting, .. } => Self::new(TOO_LARGE, text)
                .with("bytes", bytes)
                .with("bytes_max", bytes_max)
                .with("setting", setting),
            Error::KeyInFlight { id } => Self::new(KEY_IN_FLIGHT, text)
                .with("write", id.to_string())
                .retry_after(Duration::from_secs(1)),
            Error::KeyReused => Self::new(KEY_REUSED, text),
            Error::Conflict(_) => Self::new(CONFLICT, text),
            Error::LogFailed { outcome_unknown, .. } => Self::new(LOG_FAILED, text)
                .retry_after(Duration::from_secs(30))
                .with("outcome_unknown", outcome_unknown),
            Error::ShuttingDown => Self::shutting_down(),
            _ => Self::new(INTERNAL, text),
        }
    }
}

impl From<outlast::Invalid> for Problem {
    fn from(invalid: outlast::Invalid) -> Self {
        Self::new(INVALID_REQUEST, invalid.to_string())
    }
}

impl Problem {
    /// The server is going: the connection closes, and clients spread out before they come back.
    pub fn shutting_down() -> Self {
        Self::new(SHUTTING_DOWN, Error::ShuttingDown.to_string())
            .retry_after(Duration::from_secs(fastrand::u64(2..=6)))
            .header(header::CONNECTION, HeaderValue::from_static("close"))
    }
}

/// The status of a refusal whose caller still waits.
fn refusal(kind: RefusalKind) -> Kind {
    match kind {
        RefusalKind::Exists => RECORD_EXISTS,
        RefusalKind::NotFound => REFUSED_NOT_FOUND,
        RefusalKind::Constraint => REFUSED_CONSTRAINT,
        RefusalKind::Schema => REFUSED_SCHEMA,
        RefusalKind::Permission => REFUSED_PERMISSION,
        RefusalKind::TooLarge => REFUSED_TOO_LARGE,
        RefusalKind::KeyReused => KEY_REUSED,
        RefusalKind::Statement => REFUSED_STATEMENT,
        // A write expires only after it was queued, so that no caller waits for this one.
        RefusalKind::Expired | RefusalKind::Other => REFUSED,
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let mut response = Response::new(Body::from(self.body().to_string()));
        *response.status_mut() = self.0.kind.status;
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(PROBLEM_JSON));
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
        if let Some(seconds) = self.retry_after_seconds() {
            headers.insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        }
        headers.extend(self.0.headers);
        response
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_has_one_name_and_an_error_status() {
        for (index, kind) in KINDS.iter().enumerate() {
            assert!(kind.status.is_client_error() || kind.status.is_server_error(), "{}", kind.name);
            assert!(KINDS.iter().skip(index + 1).all(|other| other.name != kind.name), "{} twice", kind.name);
        }
    }

    #[test]
    fn every_503_says_when_to_come_back_in_1_to_60_seconds() {
        let unavailable = |retry_after| Error::ServiceUnavailable { retry_after, reason: "gone".into() };
        for (error, expected) in [
            (unavailable(Duration::ZERO), Some(1)),
            (unavailable(Duration::from_millis(1500)), Some(2)),
            (unavailable(Duration::from_hours(1)), Some(60)),
            (Error::LogFailed { reason: "disk".into(), outcome_unknown: false }, Some(30)),
            (Error::ShuttingDown, None),
        ] {
            let response = Problem::from(error).into_response();
            assert_eq!(response.status(), StatusCode::SERVICE_UNAVAILABLE);
            let seconds: u64 = response.headers()[header::RETRY_AFTER].to_str().unwrap().parse().unwrap();
            assert!((1..=60).contains(&seconds));
            assert!(expected.is_none_or(|expected| expected == seconds));
        }
    }

    #[test]
    fn refusals_have_the_status_of_the_table() {
        for (kind, status) in [
            (RefusalKind::Exists, 409),
            (RefusalKind::NotFound, 404),
            (RefusalKind::Constraint, 422),
            (RefusalKind::Schema, 422),
            (RefusalKind::Permission, 422),
            (RefusalKind::TooLarge, 413),
            (RefusalKind::KeyReused, 422),
            (RefusalKind::Statement, 422),
            (RefusalKind::Other, 422),
        ] {
            assert_eq!(refusal(kind).status.as_u16(), status, "{}", kind.as_str());
        }
    }
}
