//! Metrics: every series of the design (section 11) is there from the start, and none has an id for a label.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that cannot go on fails")]

mod support;

use support::Server;

const SERIES: &[(&str, &str)] = &[
    ("queue_writes", "gauge"),
    ("queue_writes_capacity", "gauge"),
    ("queue_bytes", "gauge"),
    ("queue_bytes_capacity", "gauge"),
    ("queue_oldest_age_seconds", "gauge"),
    ("queue_time_to_full_seconds", "gauge"),
    ("drain_eta_seconds", "gauge"),
    ("parked_writes", "gauge"),
    ("dead_letters", "gauge"),
    ("writes_accepted_total{status=\"applied\"}", "counter"),
    ("writes_accepted_total{status=\"queued\"}", "counter"),
    ("writes_applied_total{operation=\"create\"}", "counter"),
    ("writes_applied_total{operation=\"put\"}", "counter"),
    ("writes_applied_total{operation=\"patch\"}", "counter"),
    ("writes_applied_total{operation=\"delete\"}", "counter"),
    ("writes_failed_total{reason=\"exists\"}", "counter"),
    ("writes_failed_total{reason=\"constraint\"}", "counter"),
    ("writes_lost_total", "counter"),
    ("apply_attempts_total{result=\"applied\"}", "counter"),
    ("apply_attempts_total{result=\"unknown\"}", "counter"),
    ("apply_batch_size_count", "histogram"),
    ("apply_duration_seconds_count", "histogram"),
    ("log_sync_duration_seconds_count", "histogram"),
    ("log_syncs_total", "counter"),
    ("accepting_writes", "gauge"),
    ("lane_state{state=\"running\"}", "gauge"),
    ("lane_state{state=\"halted\"}", "gauge"),
    ("log_state{state=\"ok\"}", "gauge"),
    ("log_state{state=\"no_space\"}", "gauge"),
    ("database_state{state=\"connected\"}", "gauge"),
    ("database_state{state=\"connecting\"}", "gauge"),
    ("database_state{state=\"failed\"}", "gauge"),
    ("database_state{state=\"disconnected\"}", "gauge"),
    ("database_state_changes_total", "counter"),
    ("database_last_success_timestamp_seconds", "gauge"),
    ("outages_total", "counter"),
    ("outage_duration_seconds_count", "histogram"),
    ("http_requests_under_way", "gauge"),
    ("bulk_lines_total{status=\"applied\"}", "counter"),
    ("bulk_lines_total{status=\"ended\"}", "counter"),
    ("http_requests_total{method=\"PUT\",route=\"/v1/records/{collection}/{id}\",status=\"202\"}", "counter"),
    ("http_request_duration_seconds_count{method=\"GET\",route=\"/metrics\"}", "histogram"),
];

/// The value of a series.
fn value(text: &str, series: &str) -> Option<f64> {
    let name = format!("outlast_{series} ");
    text.lines().find_map(|line| line.strip_prefix(name.as_str())).and_then(|value| value.parse().ok())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_series_is_there_before_anything_has_happened() {
    let server = Server::start().await;
    let reply = server.get("/metrics").await;
    assert_eq!(reply.status, 200);
    assert!(reply.header("content-type").starts_with("text/plain; version=0.0.4"));
    for (series, kind) in SERIES {
        let found = value(&reply.body, series);
        assert!(found.is_some(), "{series} is missing in:\n{}", reply.body);
        if *kind == "counter" || *kind == "histogram" {
            let started = series.starts_with("database_state_changes")
                || series.starts_with("apply_")
                || series == &"log_syncs_total";
            assert!(started || found == Some(0.0), "{series} is {found:?} at the start");
        }
    }
    let accept = "application/openmetrics-text;version=1.0.0;q=0.5,text/plain;version=0.0.4;q=0.4,*/*;q=0.1";
    let open = server.send("GET", "/metrics", &[("accept", accept)], "").await;
    assert!(open.header("content-type").starts_with("application/openmetrics-text; version=1.0.0"));
    assert!(open.body.ends_with("# EOF\n"));
    for (series, _) in SERIES {
        assert!(value(&open.body, series).is_some(), "{series} is missing in:\n{}", open.body);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn requests_are_counted_by_route_and_never_by_path() {
    let server = Server::start().await;
    for id in 0..3 {
        server.json("PUT", &format!("/v1/records/canary/canary-{id}"), "{}").await;
    }
    server.get("/v1/records/canary/none").await;
    server.get("/canary").await;
    server.send("CANARY", "/v1/queue", &[], "").await;
    let text = server.get("/metrics").await.body;
    let put = "http_requests_total{method=\"PUT\",route=\"/v1/records/{collection}/{id}\",status=\"200\"}";
    assert_eq!(value(&text, put), Some(3.0));
    let get = "http_requests_total{method=\"GET\",route=\"/v1/records/{collection}/{id}\",status=\"404\"}";
    assert_eq!(value(&text, get), Some(1.0));
    let lost = "http_requests_total{method=\"GET\",route=\"unmatched\",status=\"404\"}";
    assert_eq!(value(&text, lost), Some(1.0));
    let odd = "http_requests_total{method=\"other\",route=\"unmatched\",status=\"405\"}";
    assert_eq!(value(&text, odd), Some(1.0));
    assert!(!text.to_lowercase().contains("canary"), "ids or paths stand in labels");
    assert_eq!(value(&text, "writes_applied_total{operation=\"put\"}"), Some(3.0));
}
