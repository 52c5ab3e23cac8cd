//! The table of routes: the one source for the router, the policies, the metrics and the `OpenAPI` document.

use std::pin::Pin;

use http::Method;

use super::app::{Answer, Call};
use super::auth::Policy;
use super::{
    about, audit, bulk, dashboard, dead, docs, events, export, history, probes, queue, records, report,
    transactions, writes, writes_stream,
};
use crate::config::Role;

/// What a route takes as its body; the text names a schema of the `OpenAPI` document.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Body {
    /// None: it is not read.
    None,
    /// JSON, or nothing.
    Optional(&'static str),
    /// JSON.
    Required(&'static str),
    /// Lines of JSON without an end, which the handler reads; the answer is of the same kind.
    Stream(&'static str),
}

/// A handler. Its future is boxed once, here.
pub(super) type Handler = fn(Call) -> Pin<Box<dyn Future<Output = Answer> + Send>>;

/// A route: leaving out any of this does not compile, the policy least of all.
pub struct Route {
    /// The method.
    pub method: Method,
    /// The path, with `{parameters}`.
    pub path: &'static str,
    /// Who may.
    pub policy: Policy,
    /// What it does, in a few words.
    pub summary: &'static str,
    /// What it takes.
    pub body: Body,
    /// Parameters of the query: name and meaning.
    pub query: &'static [(&'static str, &'static str)],
    /// The name of the schema of a successful answer, or a media type.
    pub answer: &'static str,
    /// The statuses that it answers with.
    pub statuses: &'static [u16],
    /// What runs.
    pub handler: Handler,
}

const PUBLIC: Policy = Policy::Public;
const READER: Policy = Policy::AtLeast(Role::Reader);
const WRITER: Policy = Policy::AtLeast(Role::Writer);
const OPERATOR: Policy = Policy::AtLeast(Role::Operator);

const NO_QUERY: &[(&str, &str)] = &[];
const REDACT: (&str, &str) = (
    "redact",
    "false shows hidden values (privacy.redact), to operators only; it is noted in the audit log.",
);
const ONE: &[(&str, &str)] = &[REDACT];
const WAITING: &[(&str, &str)] = &[
    ("collection", "Only those that touch this collection."),
    ("record", "Only those that touch a record with this id."),
    ("write", "Only the write with this id."),
    ("status", "Only pending or only parked ones."),
    ("op", "Only those with an operation of this kind: create, put, patch, delete or statement."),
    ("older_than", "Only those that were accepted at least so long ago, for example 10m."),
    ("newer_than", "Only those that were accepted at most so long ago, for example 10m."),
    ("after", "The member next of the page before; or a write id: only after its place in the log."),
    ("limit", "1 to 1000, 100 by default."),
    REDACT,
];
const LIST: &[(&str, &str)] = &[
    ("limit", "1 to 1000, 100 by default."),
    ("cursor", "The member next of the page before."),
    ("FIELD", "Only records whose member FIELD equals this JSON scalar; text that is no JSON is a string."),
];
const DEAD: &[(&str, &str)] = &[
    ("kind", "Only with this kind of reason, for example constraint."),
    ("message", "Only with this message, as a group has it."),
    ("collection", "Only those that touch this collection."),
    ("after", "Only after this write id."),
    ("limit", "1 to 1000, 100 by default."),
    REDACT,
];

const MATCHING: &[(&str, &str)] = &[
    ("kind", "Only with this kind of reason, for example constraint."),
    ("message", "Only with this message, as a group has it."),
    ("collection", "Only those that touch this collection."),
    REDACT,
];
const SAMPLES: &[(&str, &str)] = &[("after", "Only samples after this time in Unix milliseconds.")];
const LAST: &[(&str, &str)] = &[("limit", "1 to 1000, 100 by default.")];

const WAIT: &[(&str, &str)] = &[("wait", "Wait so long for the write to be decided, for example 10s.")];

const METRICS: &[u16] = &[200, 401, 403];
const PROBLEM: &[u16] = &[200, 404];
const PROBE: &[u16] = &[200, 503];
const READ: &[u16] = &[200, 400, 401, 403, 404, 503];
const WRITE: &[u16] = &[200, 202, 204, 400, 401, 403, 404, 408, 409, 413, 415, 422, 503];
const STREAM: &[u16] = &[200, 400, 401, 403, 408, 415];
const CREATE: &[u16] = &[201, 202, 204, 400, 401, 403, 408, 409, 413, 415, 422, 503];
const DELETE: &[u16] = &[202, 204, 400, 401, 403, 409, 422, 503];
const STATE: &[u16] = &[200, 400, 401, 403];
const ACT: &[u16] = &[200, 400, 401, 403, 404, 408, 409, 413, 415, 503];
const PAGES: &[u16] = &[200];

macro_rules! handler {
    ($handler:path) => {
        |call| Box::pin($handler(call))
    };
}

macro_rules! routes {
    ($($method:ident $path:literal $policy:ident $body:expr, $query:ident, $answer:literal, $statuses:ident, $handler:path, $summary:literal;)+) => {
        /// Every route.
        pub static ROUTES: &[Route] = &[$(Route {
            method: Method::$method,
            path: $path,
            policy: $policy,
            summary: $summary,
            body: $body,
            query: $query,
            answer: $answer,
            statuses: $statuses,
            handler: handler!($handler),
        }),+];
    };
}

use Body::{None as Nothing, Optional, Required, Stream};

routes! {
    POST "/v1/records/{collection}" WRITER Required("Document"), NO_QUERY, "Record", CREATE, records::create_anywhere,
        "Create a record under a new id";
    GET "/v1/records/{collection}" READER Nothing, LIST, "Records", READ, records::list,
        "List records in the order of their ids";
    GET "/v1/records/{collection}/{id}" READER Nothing, NO_QUERY, "Record", READ, records::get,
        "Read a record";
    POST "/v1/records/{collection}/{id}" WRITER Required("Document"), NO_QUERY, "Record", CREATE, records::create_here,
        "Create a record; refused when it exists";
    PUT "/v1/records/{collection}/{id}" WRITER Required("Document"), NO_QUERY, "Record", WRITE, records::put,
        "Create or replace a record";
    PATCH "/v1/records/{collection}/{id}" WRITER Required("Document"), NO_QUERY, "Record", WRITE, records::patch,
        "Merge into a record (JSON merge patch); refused when it is absent";
    DELETE "/v1/records/{collection}/{id}" WRITER Nothing, NO_QUERY, "Nothing", DELETE, records::delete,
        "Remove a record; one that is absent is fine";
    POST "/v1/transactions" WRITER Required("Transaction"), NO_QUERY, "Applied", WRITE, transactions::post,
        "Several operations that take effect together, or not at all";
    POST "/v1/bulk" WRITER Stream("BulkLine"), NO_QUERY, "BulkResult", STREAM, writes_stream::post,
        "A stream of writes, one on each line; each line is answered with one, in order, while the stream goes on";
    GET "/v1/writes/{id}" READER Nothing, WAIT, "Receipt", READ, writes::receipt,
        "The receipt of a write: its fate, position and estimate";
    DELETE "/v1/writes/{id}" WRITER Nothing, NO_QUERY, "Receipt", ACT, writes::cancel,
        "Cancel a write while it is pending";
    GET "/v1/queue" READER Nothing, NO_QUERY, "Status", STATE, queue::status,
        "The whole picture: database, queue, accounting";
    GET "/v1/queue/writes" READER Nothing, WAITING, "QueuedWrites", READ, queue::list,
        "The writes that wait and match, in order; one answer looks at a bounded part of the queue";
    GET "/v1/queue/writes/{id}" READER Nothing, ONE, "QueuedWrite", READ, queue::show,
        "One write that waits";
    POST "/v1/queue/pause" OPERATOR Optional("Pause"), NO_QUERY, "Status", ACT, queue::pause,
        "Finish what is under way, then queue everything";
    POST "/v1/queue/resume" OPERATOR Optional("Resume"), NO_QUERY, "Status", ACT, queue::resume,
        "Go on after a pause, or after a halt with a decision";
    POST "/v1/queue/drain" OPERATOR Optional("Drain"), NO_QUERY, "Drained", ACT, queue::drain,
        "Wait until nothing waits";
    POST "/v1/queue/throttle" OPERATOR Required("Throttle"), NO_QUERY, "Throttle", ACT, queue::throttle,
        "Limit the rate at which a backlog is drained";
    GET "/v1/dead-letters" READER Nothing, DEAD, "DeadLetters", READ, dead::list,
        "Dead letters, and how many there are of each reason";
    POST "/v1/dead-letters/retry" OPERATOR Required("DeadLettersAction"), NO_QUERY, "DeadLettersAnswer", ACT, bulk::retry,
        "Queue all dead letters that match again: a plan, or a run on the server";
    POST "/v1/dead-letters/discard" OPERATOR Required("DeadLettersAction"), NO_QUERY, "DeadLettersAnswer", ACT, bulk::discard,
        "Give all dead letters that match up for good: a plan, or a run on the server";
    GET "/v1/dead-letters/export" READER Nothing, MATCHING, "application/x-ndjson", STATE, export::export,
        "All dead letters that match, one a line";
    GET "/v1/dead-letters/runs" READER Nothing, NO_QUERY, "DeadLettersRuns", STATE, bulk::runs,
        "The last runs over dead letters, newest first";
    GET "/v1/dead-letters/runs/{id}" READER Nothing, NO_QUERY, "DeadLettersRun", READ, bulk::run,
        "A run over dead letters: its progress, its result and what failed";
    DELETE "/v1/dead-letters/runs/{id}" OPERATOR Nothing, NO_QUERY, "DeadLettersRun", READ, bulk::stop,
        "Stop a run over dead letters";
    GET "/v1/dead-letters/{id}" READER Nothing, ONE, "DeadLetter", READ, dead::show,
        "One dead letter with its history";
    POST "/v1/dead-letters/{id}/retry" OPERATOR Nothing, NO_QUERY, "Receipt", ACT, dead::retry,
        "Queue a dead letter again";
    POST "/v1/dead-letters/{id}/edit" OPERATOR Required("Transaction"), NO_QUERY, "Receipt", ACT, dead::edit,
        "Queue a dead letter again with other operations on the same records";
    POST "/v1/dead-letters/{id}/discard" OPERATOR Nothing, NO_QUERY, "Receipt", ACT, dead::discard,
        "Give a dead letter up for good";
    GET "/v1/outages" READER Nothing, NO_QUERY, "Outages", STATE, dead::outages,
        "Reports of outages, newest first";
    GET "/v1/outages/{id}" READER Nothing, NO_QUERY, "Outage", READ, dead::outage,
        "The report of one outage";
    GET "/v1/outages/{id}/report" READER Nothing, NO_QUERY, "text/markdown", READ, report::report,
        "The report of one outage as Markdown";
    GET "/v1/history" READER Nothing, SAMPLES, "History", STATE, history::history,
        "The last hour in samples: depth, rates, latency";
    GET "/v1/me" READER Nothing, NO_QUERY, "Me", STATE, about::me,
        "The name and the role of the caller";
    GET "/v1/configuration" OPERATOR Nothing, NO_QUERY, "Configuration", STATE, about::configuration,
        "Every setting with its source; secrets are hidden";
    GET "/v1/audit" OPERATOR Nothing, LAST, "Audit", STATE, audit::list,
        "What operators did, newest first";
    GET "/v1/events" READER Nothing, NO_QUERY, "text/event-stream", STATE, events::stream,
        "What happens, as server-sent events";
    GET "/livez" PUBLIC Nothing, NO_QUERY, "application/health+json", PROBE, probes::live,
        "Alive: restart the process when this fails";
    GET "/readyz" PUBLIC Nothing, NO_QUERY, "application/health+json", PROBE, probes::ready,
        "Ready: a write can be durably accepted";
    GET "/startedz" PUBLIC Nothing, NO_QUERY, "application/health+json", PAGES, probes::started,
        "Started: the log is open";
    GET "/health" PUBLIC Nothing, NO_QUERY, "application/health+json", PROBE, probes::health,
        "Health of every component";
    GET "/metrics" READER Nothing, NO_QUERY, "text/plain", METRICS, probes::metrics,
        "Metrics for Prometheus";
    GET "/" PUBLIC Nothing, NO_QUERY, "text/html", PAGES, dashboard::page,
        "The dashboard";
    GET "/dashboard/{name}" PUBLIC Nothing, NO_QUERY, "text/plain", PROBLEM, dashboard::file,
        "What the dashboard is made of";
    GET "/openapi.json" PUBLIC Nothing, NO_QUERY, "application/json", PAGES, docs::openapi,
        "This interface as an OpenAPI document";
    GET "/docs" PUBLIC Nothing, NO_QUERY, "text/html", PAGES, docs::page,
        "This interface as a page";
    GET "/problems/{name}" PUBLIC Nothing, NO_QUERY, "text/html", PROBLEM, docs::problem,
        "What a type of problem means";
}
