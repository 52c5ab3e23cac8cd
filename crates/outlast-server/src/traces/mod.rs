//! OpenTelemetry traces over OTLP (protobuf over HTTP): a span for each request that comes to a route behind a token, and
//! one for each transaction that applies writes of such requests, linked to them. The context of a request is kept with its
//! write in the log, so that the link holds over outages and restarts.
//!
//! A collector that is slow or away costs spans, never writes: ended spans wait in a queue with an end, and what finds no
//! place there is counted and forgotten.

mod client;
mod export;

use std::sync::Arc;
use std::time::Duration;

use http::request::Parts;
use http::{HeaderMap, StatusCode};
use opentelemetry::propagation::TextMapPropagator;
use opentelemetry::trace::{
    Link, Span as _, SpanContext, SpanKind, Status, TraceContextExt as _, Tracer as _, TracerProvider as _,
};
use opentelemetry::{Context, KeyValue};
use opentelemetry_http::HeaderExtractor;
use opentelemetry_otlp::{Protocol, SpanExporter, WithExportConfig as _, WithHttpConfig as _};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::propagation::TraceContextPropagator;
use opentelemetry_sdk::trace::{Sampler, SdkTracer, SdkTracerProvider, Span};
use outlast::Outlast;
use outlast::trace::{Attempt, TraceContext, Tracer};

use self::export::{Counts, Export, Linked, Queue};
use crate::config::TracesConfig;

/// How long one export may take, attempts included.
const LIMIT: Duration = Duration::from_secs(10);

/// Makes spans, and sends them to a collector.
#[derive(Debug)]
pub struct Traces {
    tracer: SdkTracer,
    counts: Counts,
}

impl Traces {
    /// As configured; `None` without a collector. What it returns beside runs until it is told to end.
    ///
    /// # Errors
    /// What of the configuration cannot be used.
    pub fn start(config: &TracesConfig) -> Result<Option<(Arc<Self>, Export)>, String> {
        let Some(endpoint) = &config.endpoint else { return Ok(None) };
        let headers = config.headers.as_ref().map(|headers| read_headers(headers.expose())).transpose()?;
        let exporter = SpanExporter::builder()
            .with_http()
            .with_http_client(client::Client::new(LIMIT))
            .with_protocol(Protocol::HttpBinary)
            .with_endpoint(endpoint.as_str())
            .with_headers(headers.unwrap_or_default())
            .with_timeout(LIMIT)
            .build()
            .map_err(|error| format!("traces: {error}"))?;
        let resource = Resource::builder()
            .with_service_name(config.service_name.clone())
            .with_attribute(KeyValue::new("service.version", env!("CARGO_PKG_VERSION")))
            .build();
        let counts = Counts::default();
        let (queue, export) = Queue::before(exporter, &resource, counts.clone());
        let ratio = Sampler::ParentBased(Box::new(Sampler::TraceIdRatioBased(config.sample_ratio)));
        let provider = SdkTracerProvider::builder()
            .with_resource(resource)
            .with_sampler(Linked(ratio))
            .with_span_processor(queue)
            .build();
        let tracer = provider.tracer("outlast");
        Ok(Some((Arc::new(Self { tracer, counts }), export)))
    }

    /// Shows what became of spans among the metrics.
    pub fn register(&self, outlast: &Outlast) {
        outlast.registry(|registry| self.counts.register(registry));
    }

    /// A request came: a span that goes on from the context which it brought, if it brought one.
    pub(crate) fn request(&self, parts: &Parts, route: &'static str) -> RequestSpan {
        let before = TraceContextPropagator::new()
            .extract_with_context(&Context::new(), &HeaderExtractor(&parts.headers));
        let span = self
            .tracer
            .span_builder(format!("{} {route}", parts.method))
            .with_kind(SpanKind::Server)
            .with_attributes([
                KeyValue::new("http.request.method", parts.method.as_str().to_owned()),
                KeyValue::new("http.route", route),
            ])
            .start_with_context(&self.tracer, &before);
        RequestSpan(span)
    }
}

/// The span of a request; it ends when it is dropped, also when the client has gone.
#[derive(Debug)]
pub(crate) struct RequestSpan(Span);

impl RequestSpan {
    /// What a write keeps of it; nothing, when it is not sampled.
    pub(crate) fn context(&self) -> Option<TraceContext> {
        let context = self.0.span_context();
        let text =
            format!("00-{}-{}-{:02x}", context.trace_id(), context.span_id(), context.trace_flags().to_u8());
        context.is_sampled().then(|| TraceContext::new(&text)).flatten()
    }

    /// It was answered.
    pub(crate) fn answered(mut self, status: StatusCode, headers: &HeaderMap) {
        self.0.set_attribute(KeyValue::new("http.response.status_code", i64::from(status.as_u16())));
        for (name, header) in [("outlast.write.id", "write-id"), ("outlast.write.status", "write-status")] {
            if let Some(value) = headers.get(header).and_then(|value| value.to_str().ok()) {
                self.0.set_attribute(KeyValue::new(name, value.to_owned()));
            }
        }
        if status.is_server_error() {
            self.0.set_status(Status::error(""));
        }
    }
}

impl Tracer for Traces {
    fn attempted(&self, attempt: &Attempt<'_>) {
        let count = |count: usize| i64::try_from(count).unwrap_or(i64::MAX);
        let links =
            attempt.contexts.iter().filter_map(|context| span_context(context)).map(Link::with_context);
        let mut span = self
            .tracer
            .span_builder("apply")
            .with_kind(SpanKind::Client)
            .with_start_time(attempt.started)
            .with_links(links.collect())
            .with_attributes([
                KeyValue::new("outlast.batch.writes", count(attempt.writes)),
                KeyValue::new("outlast.batch.traced", count(attempt.traced)),
                KeyValue::new("outlast.result", attempt.result),
            ])
            .start_with_context(&self.tracer, &Context::new());
        if attempt.result != "applied" {
            span.set_status(Status::error(attempt.result));
        }
        span.end_with_timestamp(attempt.started + attempt.took);
    }
}

/// What a write has kept.
fn span_context(context: &TraceContext) -> Option<SpanContext> {
    let mut headers = HeaderMap::new();
    headers.insert("traceparent", context.as_str().parse().ok()?);
    let read =
        TraceContextPropagator::new().extract_with_context(&Context::new(), &HeaderExtractor(&headers));
    let context = read.span().span_context().clone();
    context.is_valid().then_some(context)
}

/// `name=value`, several with commas between them, as in `OTEL_EXPORTER_OTLP_HEADERS`. The text is not repeated: it may be
/// a secret.
fn read_headers(text: &str) -> Result<std::collections::HashMap<String, String>, String> {
    const WRONG: &str = "traces.headers must be NAME=VALUE, several with commas between them";
    let one = |part: &str| {
        let (name, value) = part.split_once('=').ok_or(WRONG)?;
        let value = percent_encoding::percent_decode_str(value.trim()).decode_utf8().map_err(|_| WRONG)?;
        http::HeaderName::try_from(name.trim()).map_err(|_| WRONG)?;
        http::HeaderValue::try_from(&*value).map_err(|_| WRONG)?;
        Ok((name.trim().to_owned(), value.into_owned()))
    };
    text.split(',').map(one).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_are_read_and_never_repeated() {
        let headers = read_headers("authorization=Bearer%20s3cret, x-tenant = shop").unwrap();
        assert_eq!((&*headers["authorization"], &*headers["x-tenant"]), ("Bearer s3cret", "shop"));
        for bad in ["s3cret", "s3 cret=x", "a=s3cret%0a"] {
            assert!(!read_headers(bad).unwrap_err().contains("s3"), "{bad}");
        }
    }

    #[test]
    fn a_kept_context_is_read_again() {
        let text = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
        let context = span_context(&TraceContext::new(text).unwrap()).unwrap();
        assert_eq!(context.trace_id().to_string(), "4bf92f3577b34da6a3ce929d0e0e4736");
        assert_eq!(context.span_id().to_string(), "00f067aa0ba902b7");
        assert!(context.is_sampled());
    }
}
