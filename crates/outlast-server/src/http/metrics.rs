//! Counts and times requests: one update per request; labels are routes, never paths. And the two formats in which all
//! metrics can be read.

use std::fmt::Write as _;
use std::time::Duration;

use http::{Method, StatusCode};
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::{Registry, Unit};

use serde::Serialize;

use super::routes::ROUTES;

/// The media type of `OpenMetrics`, which `prometheus-client` writes.
pub(super) const OPENMETRICS: &str = "application/openmetrics-text";
/// The same, as it is answered.
pub(super) const OPENMETRICS_TEXT: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
/// The older format of Prometheus.
pub(super) const PROMETHEUS_TEXT: &str = "text/plain; version=0.0.4; charset=utf-8";

/// The route of requests that match none.
pub(super) const UNMATCHED: &str = "unmatched";

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RequestLabels {
    method: &'static str,
    route: &'static str,
    status: u32,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RouteLabels {
    method: &'static str,
    route: &'static str,
}

/// What a line of a stream of writes is answered with. They differ in what its sender does next.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) enum LineStatus {
    /// The database has committed it.
    #[default]
    Applied,
    /// It is fsynced in the log.
    Queued,
    /// Refused, for good.
    Rejected,
    /// No write at all: it must be corrected.
    Invalid,
    /// Not accepted: it can be sent again.
    Unavailable,
    /// It may take effect.
    Unknown,
    /// It was not taken, nor anything after it.
    Ended,
}

impl LineStatus {
    const ALL: [Self; 7] = [
        Self::Applied,
        Self::Queued,
        Self::Rejected,
        Self::Invalid,
        Self::Unavailable,
        Self::Unknown,
        Self::Ended,
    ];

    fn as_str(self) -> &'static str {
        match self {
            Self::Applied => "applied",
            Self::Queued => "queued",
            Self::Rejected => "rejected",
            Self::Invalid => "invalid",
            Self::Unavailable => "unavailable",
            Self::Unknown => "unknown",
            Self::Ended => "ended",
        }
    }
}

impl Serialize for LineStatus {
    fn serialize<S: serde::Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(self.as_str())
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct LineLabels {
    status: &'static str,
}

/// `outlast_http_requests_total` and `outlast_http_request_duration_seconds`.
pub struct HttpMetrics {
    requests: Family<RequestLabels, Counter>,
    durations: Family<RouteLabels, Histogram, fn() -> Histogram>,
    under_way: Gauge,
    lines: Family<LineLabels, Counter>,
}

impl HttpMetrics {
    /// Makes every series that a documented answer can touch, and registers them.
    pub fn register(registry: &mut Registry) -> Self {
        let histogram: fn() -> Histogram = || Histogram::new(exponential_buckets(0.000_2, 2.5, 13));
        let metrics = Self {
            requests: Family::default(),
            durations: Family::new_with_constructor(histogram),
            under_way: Gauge::default(),
            lines: Family::default(),
        };
        for status in LineStatus::ALL {
            drop(metrics.lines.get_or_create(&LineLabels { status: status.as_str() }));
        }
        for route in ROUTES {
            let (method, route_path) = (method_label(&route.method), route.path);
            drop(metrics.durations.get_or_create(&RouteLabels { method, route: route_path }));
            for status in route.statuses {
                let labels = RequestLabels { method, route: route_path, status: u32::from(*status) };
                drop(metrics.requests.get_or_create(&labels));
            }
        }
        registry.register("http_requests", "Requests, by method, route and status", metrics.requests.clone());
        registry.register(
            "http_requests_under_way",
            "Requests that are not answered yet; those that wait for their write included",
            metrics.under_way.clone(),
        );
        registry.register_with_unit(
            "http_request_duration",
            "Time from the head of a request to its answer, by method and route",
            Unit::Seconds,
            metrics.durations.clone(),
        );
        registry.register(
            "bulk_lines",
            "Lines of streams of writes, by what they were answered with; ended: streams that ended early",
            metrics.lines.clone(),
        );
        metrics
    }

    /// A request begins; it ends when the guard is dropped, also when its client has gone.
    pub(super) fn begin(&self) -> UnderWay {
        self.under_way.inc();
        UnderWay(self.under_way.clone())
    }

    /// A line of a stream of writes was answered.
    pub(super) fn line(&self, status: LineStatus) {
        self.lines.get_or_create(&LineLabels { status: status.as_str() }).inc();
    }

    /// One request was answered.
    pub fn observe(&self, method: &Method, route: &'static str, status: StatusCode, took: Duration) {
        let method = method_label(method);
        let labels = RequestLabels { method, route, status: u32::from(status.as_u16()) };
        self.requests.get_or_create(&labels).inc();
        self.durations.get_or_create(&RouteLabels { method, route }).observe(took.as_secs_f64());
    }
}

/// A request that is not answered yet.
pub(super) struct UnderWay(Gauge);

impl Drop for UnderWay {
    fn drop(&mut self) {
        self.0.dec();
    }
}

/// `OpenMetrics` in the older format of Prometheus: a counter is declared under the name of its series, and there are
/// neither units nor an end mark.
pub(super) fn prometheus(open: &str) -> String {
    let mut text = String::with_capacity(open.len());
    // The help comes before the type that decides about the name of both.
    let mut help = "";
    for line in open.lines() {
        if line.starts_with("# HELP ") {
            help = line;
        } else if let Some(declared) = line.strip_prefix("# TYPE ") {
            let (name, kind) = declared.split_once(' ').unwrap_or((declared, "untyped"));
            let suffix = if kind == "counter" { "_total" } else { "" };
            let about = help.strip_prefix("# HELP ").and_then(|help| help.strip_prefix(name)).unwrap_or("");
            let kind = if kind == "unknown" { "untyped" } else { kind };
            let _ = write!(text, "# HELP {name}{suffix}{about}\n# TYPE {name}{suffix} {kind}\n");
        } else if !line.starts_with('#') {
            text.push_str(line);
            text.push('\n');
        }
    }
    text
}

/// Methods that a client makes up do not become labels.
fn method_label(method: &Method) -> &'static str {
    match *method {
        Method::GET => "GET",
        Method::HEAD => "HEAD",
        Method::POST => "POST",
        Method::PUT => "PUT",
        Method::PATCH => "PATCH",
        Method::DELETE => "DELETE",
        _ => "other",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn open_metrics_become_the_older_format() {
        let open = "# HELP a_b Counts.\n# TYPE a_b counter\na_b_total{x=\"# EOF\"} 1\n\
                    # HELP t_seconds Time.\n# TYPE t_seconds histogram\n# UNIT t_seconds seconds\nt_seconds_sum 0.0\n# EOF\n";
        let older = "# HELP a_b_total Counts.\n# TYPE a_b_total counter\na_b_total{x=\"# EOF\"} 1\n\
                     # HELP t_seconds Time.\n# TYPE t_seconds histogram\nt_seconds_sum 0.0\n";
        assert_eq!(prometheus(open), older);
    }
}
