//! Ended spans on their way out: a queue with an end, and a task that sends what is in it.

use std::time::Duration;

use opentelemetry::trace::{Link, SpanKind, TraceId, TraceState};
use opentelemetry::{Context, KeyValue};
use opentelemetry_otlp::SpanExporter;
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::error::OTelSdkResult;
use opentelemetry_sdk::trace::{
    Sampler, SamplingDecision, SamplingResult, ShouldSample, Span, SpanData, SpanExporter as _, SpanProcessor,
};
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::registry::Registry;
use tokio::sync::{mpsc, watch};

/// Spans that wait; some hundred bytes each, and more with links.
const WAITING_MAX: usize = 4096;
/// Spans in one export.
const BATCH_MAX: usize = 512;
/// What comes within this time goes together.
const GATHERING: Duration = Duration::from_millis(500);
/// For what is left when the server stops.
const CLOSING: Duration = Duration::from_secs(2);

/// Samples what is linked: the request was sampled, so the transaction is. For all else the other sampler decides.
#[derive(Debug, Clone)]
pub(super) struct Linked(pub(super) Sampler);

impl ShouldSample for Linked {
    fn should_sample(
        &self,
        parent: Option<&Context>,
        trace: TraceId,
        name: &str,
        kind: &SpanKind,
        attributes: &[KeyValue],
        links: &[Link],
    ) -> SamplingResult {
        if links.is_empty() {
            return self.0.should_sample(parent, trace, name, kind, attributes, links);
        }
        SamplingResult {
            decision: SamplingDecision::RecordAndSample,
            attributes: Vec::new(),
            trace_state: TraceState::default(),
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Became {
    result: &'static str,
}

/// What became of spans.
#[derive(Debug, Clone, Default)]
pub(super) struct Counts(Family<Became, Counter>);

impl Counts {
    pub(super) fn register(&self, registry: &mut Registry) {
        for result in ["exported", "failed", "dropped"] {
            drop(self.0.get_or_create(&Became { result }));
        }
        let help =
            "Ended spans: exported, failed (the collector did not take them), dropped (too many waited)";
        registry.register("trace_spans", help, self.0.clone());
    }

    fn count(&self, result: &'static str, spans: usize) {
        self.0.get_or_create(&Became { result }).inc_by(spans as u64);
    }
}

/// Where spans go when they end. Never waits.
#[derive(Debug)]
pub(super) struct Queue {
    waiting: mpsc::Sender<SpanData>,
    counts: Counts,
}

impl Queue {
    pub(super) fn before(mut exporter: SpanExporter, resource: &Resource, counts: Counts) -> (Self, Export) {
        exporter.set_resource(resource);
        let (waiting, spans) = mpsc::channel(WAITING_MAX);
        (Self { waiting, counts: counts.clone() }, Export { exporter, spans, counts })
    }
}

impl SpanProcessor for Queue {
    fn on_start(&self, _span: &mut Span, _context: &Context) {}

    fn on_end(&self, span: SpanData) {
        if span.span_context.is_sampled() && self.waiting.try_send(span).is_err() {
            self.counts.count("dropped", 1);
        }
    }

    fn force_flush(&self) -> OTelSdkResult {
        Ok(())
    }

    fn shutdown_with_timeout(&self, _timeout: Duration) -> OTelSdkResult {
        Ok(())
    }
}

/// Sends what waits.
#[derive(Debug)]
pub struct Export {
    exporter: SpanExporter,
    spans: mpsc::Receiver<SpanData>,
    counts: Counts,
}

impl Export {
    /// Runs until `stop` is true, and then sends what is left, as far as that goes quickly.
    pub async fn run(mut self, mut stop: watch::Receiver<bool>) {
        let mut taken = true;
        loop {
            let mut batch = Vec::new();
            tokio::select! {
                biased;
                // An error means that nobody can tell it any more: a stop as well.
                _ = stop.wait_for(|stop| *stop) => break,
                count = self.spans.recv_many(&mut batch, BATCH_MAX) => {
                    if count == 0 {
                        return;
                    }
                }
            }
            tokio::select! {
                () = tokio::time::sleep(GATHERING) => {}
                _ = stop.wait_for(|stop| *stop) => {}
            }
            self.fill(&mut batch);
            tokio::select! {
                () = self.send(batch, &mut taken) => {}
                _ = stop.wait_for(|stop| *stop) => {}
            }
        }
        let closing = async {
            loop {
                let mut batch = Vec::new();
                self.fill(&mut batch);
                if batch.is_empty() {
                    return;
                }
                self.send(batch, &mut taken).await;
            }
        };
        let _ = tokio::time::timeout(CLOSING, closing).await;
    }

    fn fill(&mut self, batch: &mut Vec<SpanData>) {
        while batch.len() < BATCH_MAX
            && let Ok(span) = self.spans.try_recv()
        {
            batch.push(span);
        }
    }

    /// One line when the collector stops taking spans, and one when it goes on.
    async fn send(&self, batch: Vec<SpanData>, taken: &mut bool) {
        let spans = batch.len();
        let result = self.exporter.export(batch).await;
        self.counts.count(if result.is_ok() { "exported" } else { "failed" }, spans);
        match &result {
            Ok(()) if !*taken => {
                tracing::info!(event = "traces", state = "ok", "the collector takes spans again");
            }
            Err(error) if *taken => {
                tracing::warn!(event = "traces", state = "failed", reason = %error, "the collector takes no spans");
            }
            _ => {}
        }
        *taken = result.is_ok();
    }
}
