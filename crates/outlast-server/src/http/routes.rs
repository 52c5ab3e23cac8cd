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

/// A parameter of the query: its name, that of its schema in the `OpenAPI` document, and its meaning.
pub type Parameter = (&'static str, &'static str, &'static str);

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
    /// Parameters of the query.
    pub query: &'static [Parameter],
    /// The name of the schema of a successful answer, or media types with commas between them.
    pub answer: &'static str,
    /// The statuses that it answers with, beside those that [`Scope`](super::problem::Scope) says.
    pub statuses: &'static [u16],
    /// What runs.
    pub handler: Handler,
}

const PUBLIC: Policy = Policy::Public;
const READER: Policy = Policy::AtLeast(Role::Reader);
const WRITER: Policy = Policy::AtLeast(Role::Writer);
const OPERATOR: Policy = Policy::AtLeast(Role::Operator);

const NO_QUERY: &[Parameter] = &[];
const REDACT: Parameter = (
    "redact",
    "Redact",
    "false shows hidden values (privacy.redact), to operators only; it is noted in the audit log.",
);
const ONE: &[Parameter] = &[REDACT];
const WAITING: &[Parameter] = &[
    COLLECTION,
    ("record", "RecordId", "Only those that touch a record with this id."),
    ("write", "WriteId", "Only the write with this id."),
    ("status", "WaitingStatus", "Only pending or only parked ones."),
    ("op", "Verb", "Only those with an operation of this kind."),
    ("older_than", "Duration", "Only those that were accepted at least so long ago."),
    ("newer_than", "Duration", "Only those that were accepted at most so long ago."),
    (
        "after",
        "QueuePlace",
        "The member next of the page before; or a write id: only after its place in the log.",
    ),
    LIMIT,
    REDACT,
];
const LIST: &[Parameter] = &[
    (
        "limit",
        "Limit",
        "Most of them in the answer; 100 by default. A page ends after 8 MiB, too: go on with next.",
    ),
    ("cursor", "Cursor", "The member next of the page before."),
    (
        "FIELD",
        "Filter",
        "Only records whose member FIELD equals this JSON scalar; text that is no JSON is a string. Any number of them.",
    ),
];
const DEAD: &[Parameter] =
    &[KIND, MESSAGE, COLLECTION, ("after", "WriteId", "Only after this write id."), LIMIT, REDACT];

const MATCHING: &[Parameter] = &[KIND, MESSAGE, COLLECTION, REDACT];
const SAMPLES: &[Parameter] = &[("after", "Milliseconds", "Only samples after this time.")];
const LAST: &[Parameter] = &[LIMIT];

const WAIT: &[Parameter] = &[("wait", "Duration", "Wait so long for the write to be decided; 5min at most.")];

const LIMIT: Parameter = ("limit", "Limit", "Most of them in the answer; 100 by default.");
const KIND: Parameter = ("kind", "RefusalKind", "Only with this kind of reason.");
const MESSAGE: Parameter = ("message", "GroupMessage", "Only with this message, as a group has it.");
const COLLECTION: Parameter = ("collection", "Collection", "Only those that touch this collection.");

// The errors of every route, of its policy and of its body come from the table of problems: here stands what follows from
// what a route does.
const METRICS: &[u16] = &[200];
const PROBLEM: &[u16] = &[200, 404];
const PROBE: &[u16] = &[200, 503];
const READ: &[u16] = &[200, 404, 503];
const ASK: &[u16] = &[200, 404, 409, 503];
const WRITE: &[u16] = &[200, 202, 204, 404, 409, 422, 503];
const STREAM: &[u16] = &[200];
const CREATE: &[u16] = &[201, 202, 204, 409, 422, 503];
const DELETE: &[u16] = &[202, 204, 409, 422, 503];
const STATE: &[u16] = &[200];
const ACT: &[u16] = &[200, 404, 409, 503];
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
    POST "/v1/records/{collection}" WRITER Required("NewDocument"), NO_QUERY, "Record", CREATE, records::create_anywhere,
        "Create a record under a new id";
    GET "/v1/records/{collection}" READER Nothing, LIST, "Records", ASK, records::list,
        "List records in the order of their ids";
    GET "/v1/records/{collection}/{id}" READER Nothing, NO_QUERY, "Record", ASK, records::get,
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
    GET "/livez" PUBLIC Nothing, NO_QUERY, "Probe", PROBE, probes::live,
        "Alive: restart the process when this fails";
    GET "/readyz" PUBLIC Nothing, NO_QUERY, "Probe", PROBE, probes::ready,
        "Ready: a write can be durably accepted";
    GET "/startedz" PUBLIC Nothing, NO_QUERY, "Probe", PAGES, probes::started,
        "Started: the log is open";
    GET "/health" PUBLIC Nothing, NO_QUERY, "Health", PROBE, probes::health,
        "Health of every component";
    GET "/metrics" READER Nothing, NO_QUERY, "text/plain,application/openmetrics-text", METRICS, probes::metrics,
        "Metrics for Prometheus";
    GET "/" PUBLIC Nothing, NO_QUERY, "text/html", PAGES, dashboard::page,
        "The dashboard";
    GET "/dashboard/{name}" PUBLIC Nothing, NO_QUERY, "text/css,text/javascript,image/svg+xml", PROBLEM, dashboard::file,
        "What the dashboard is made of";
    GET "/openapi.json" PUBLIC Nothing, NO_QUERY, "OpenApi", PAGES, docs::openapi,
        "This interface as an OpenAPI document";
    GET "/docs" PUBLIC Nothing, NO_QUERY, "text/html", PAGES, docs::page,
        "This interface as a page";
    GET "/problems/{name}" PUBLIC Nothing, NO_QUERY, "text/html", PROBLEM, docs::problem,
        "What a type of problem means";
}
