//! Probes and health: what load balancers, orchestrators and people ask.

use axum::response::Response;
use http::{HeaderValue, StatusCode, header};
use outlast::health::{Component, Level};
use serde_json::{Map, Value, json};

use super::app::{Answer, App, Call, content, not_stored};
use super::metrics::{OPENMETRICS, OPENMETRICS_TEXT, PROMETHEUS_TEXT, prometheus};
use super::problem::{self, SHUTTING_DOWN};
use crate::config::Readiness;

const HEALTH_JSON: &str = "application/health+json";
/// All that a stranger is told.
const NOT_READY: &str = "Writes cannot be durably accepted now.";

/// `GET /livez`: the event loop answers, and the committer makes progress. Restart the process when it fails.
///
/// # Errors
/// 503 when the committer stands still.
pub(super) async fn live(call: Call) -> Answer {
    call.app.outlast.alive().map_or_else(|why| Ok(failed(&call, &why)), |()| Ok(passed()))
}

/// `GET /readyz`: a write can be durably accepted now; with `readiness = "database"` also applied.
///
/// # Errors
/// 503 when it cannot, or the server is stopping.
pub(super) async fn ready(call: Call) -> Answer {
    let app = &call.app;
    if app.is_stopping() {
        return Ok(failed(&call, SHUTTING_DOWN.title));
    }
    if let Err(why) = app.outlast.ready() {
        return Ok(failed(&call, &why));
    }
    if app.server.readiness == Readiness::Database && !app.outlast.is_healthy() {
        return Ok(failed(&call, "the database is not connected, and server.readiness demands it"));
    }
    Ok(passed())
}

/// `GET /startedz`: the server listens only once the log is open, so whoever gets an answer gets this one.
///
/// # Errors
/// None.
pub(super) async fn started(_call: Call) -> Answer {
    Ok(passed())
}

/// `GET /health`: the worst of the components decides; pass and warn are 200, fail is 503.
///
/// # Errors
/// 503 when a component is critical.
pub(super) async fn health(call: Call) -> Answer {
    let components = call.app.outlast.health().components();
    let level = components.iter().map(|component| component.level).max().unwrap_or(Level::Healthy);
    let mut body = Map::new();
    body.insert("status".into(), json!(word(level)));
    body.insert("version".into(), json!(env!("CARGO_PKG_VERSION")));
    if call.app.auth.may_see_details(call.headers()) {
        let notes: Vec<String> = components
            .iter()
            .filter(|component| component.level != Level::Healthy)
            .map(|component| format!("{}: {}", component.name, component.message))
            .collect();
        body.insert("notes".into(), json!(notes));
        let checks: Map<String, Value> =
            components.iter().map(|component| (component.name.clone(), json!([check(component)]))).collect();
        body.insert("checks".into(), Value::Object(checks));
    }
    let status = if level == Level::Critical { StatusCode::SERVICE_UNAVAILABLE } else { StatusCode::OK };
    Ok(come_back(&call.app, content(status, HEALTH_JSON, Value::Object(body).to_string())))
}

fn check(component: &Component) -> Value {
    let kind = if component.name == "database" { "datastore" } else { "component" };
    let mut check =
        json!({ "componentType": kind, "status": word(component.level), "output": component.message });
    if !component.data.is_null() {
        check["data"] = component.data.clone();
    }
    check
}

fn word(level: Level) -> &'static str {
    match level {
        Level::Healthy => "pass",
        Level::Warning => "warn",
        Level::Critical => "fail",
    }
}

/// `GET /metrics`: as `OpenMetrics` for whoever asks for it, as Prometheus does; in the older Prometheus format, which
/// every tool reads, otherwise.
///
/// # Errors
/// None.
pub(super) async fn metrics(call: Call) -> Answer {
    let accepts = call.headers().get_all(header::ACCEPT).iter().filter_map(|value| value.to_str().ok());
    let open = accepts.flat_map(|list| list.split(',')).any(|item| item.trim().starts_with(OPENMETRICS));
    let text = call.app.outlast.metrics();
    let (media_type, text) =
        if open { (OPENMETRICS_TEXT, text) } else { (PROMETHEUS_TEXT, prometheus(&text)) };
    Ok(not_stored(content(StatusCode::OK, media_type, text)))
}

fn passed() -> Response {
    not_stored(content(StatusCode::OK, HEALTH_JSON, r#"{"status":"pass"}"#))
}

/// A probe says why only to whoever may see it.
fn failed(call: &Call, why: &str) -> Response {
    let detail = if call.app.auth.may_see_details(call.headers()) { why } else { NOT_READY };
    let body = json!({ "status": "fail", "output": detail }).to_string();
    come_back(&call.app, content(StatusCode::SERVICE_UNAVAILABLE, HEALTH_JSON, body))
}

/// A failing probe tells when to ask again: after the next probe of the database at the latest.
fn come_back(app: &App, mut response: Response) -> Response {
    if response.status() == StatusCode::SERVICE_UNAVAILABLE {
        let seconds = problem::seconds(app.outlast.options().probe_max_interval);
        response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(seconds));
    }
    not_stored(response)
}
