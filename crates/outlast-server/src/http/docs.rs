//! Pages: the `OpenAPI` document, the list of routes, and what each type of problem means. No outside assets.

use std::fmt::Write as _;
use std::sync::LazyLock;

use axum::response::Response;
use http::{HeaderValue, StatusCode, header};
use serde_json::Value;

use super::app::{Answer, Call, content, json};
use super::openapi;
use super::problem::{self, KINDS, NOT_FOUND, Problem};

const STYLE: &str = "body{font:16px/1.5 system-ui,sans-serif;margin:2rem auto;max-width:64rem;padding:0 1rem;\
color-scheme:light dark}table{border-collapse:collapse;width:100%}td,th{text-align:left;padding:.3rem .6rem;\
border-bottom:1px solid #8884;vertical-align:top}code{font:14px ui-monospace,monospace}";

static DOCUMENT: LazyLock<Value> = LazyLock::new(openapi::document);
static TEXT: LazyLock<String> = LazyLock::new(|| DOCUMENT.to_string());
static PAGE: LazyLock<String> = LazyLock::new(|| routes_page(&DOCUMENT));

/// `GET /openapi.json`.
///
/// # Errors
/// None.
pub(super) async fn openapi(_call: Call) -> Answer {
    Ok(json(StatusCode::OK, TEXT.as_str()))
}

/// `GET /docs`.
///
/// # Errors
/// None.
pub(super) async fn page(_call: Call) -> Answer {
    Ok(html(PAGE.clone()))
}

/// `GET /problems/{name}`.
///
/// # Errors
/// 404 for a name that no problem has.
pub(super) async fn problem(call: Call) -> Answer {
    let name: String = call.param("name")?;
    let kind = problem::find(&name)
        .ok_or_else(|| Problem::new(NOT_FOUND, format!("there is no problem \"{}\"", name.escape_debug())))?;
    let body = format!(
        "<h1>{}</h1><p><code>{}</code>, status {}</p><p>{}</p><p><a href=\"/docs\">All routes and problems</a></p>",
        escaped(kind.title),
        kind.name,
        kind.status.as_u16(),
        escaped(kind.advice)
    );
    Ok(html(document(kind.title, &body)))
}

fn routes_page(openapi: &Value) -> String {
    let text = |value: &Value| escaped(value.as_str().unwrap_or_default());
    let mut body = format!(
        "<h1>{}</h1><p>{}</p>",
        text(&openapi["info"]["title"]),
        text(&openapi["info"]["description"])
    );
    body.push_str("<p>The same for machines: <a href=\"/openapi.json\">/openapi.json</a></p>");
    body.push_str("<h2>Routes</h2><table><tr><th>Method</th><th>Path</th><th>Role</th><th></th></tr>");
    for (path, methods) in openapi["paths"].as_object().into_iter().flatten() {
        for (method, operation) in methods.as_object().into_iter().flatten() {
            let _ = write!(
                body,
                "<tr><td><code>{}</code></td><td><code>{}</code></td><td>{}</td><td>{}</td></tr>",
                escaped(&method.to_uppercase()),
                escaped(path),
                text(&operation["x-role"]),
                text(&operation["summary"])
            );
        }
    }
    body.push_str("</table><h2>Problems</h2><table><tr><th>Type</th><th>Status</th><th></th></tr>");
    for kind in KINDS {
        let _ = write!(
            body,
            "<tr><td><a href=\"/problems/{0}\">{0}</a></td><td>{1}</td><td>{2}</td></tr>",
            kind.name,
            kind.status.as_u16(),
            escaped(kind.title)
        );
    }
    body.push_str("</table>");
    document("Outlast", &body)
}

fn document(title: &str, body: &str) -> String {
    format!(
        "<!doctype html><html lang=\"en\"><head><meta charset=\"utf-8\"><meta name=\"viewport\" \
         content=\"width=device-width\"><title>{}</title><style>{STYLE}</style></head><body>{body}</body></html>",
        escaped(title)
    )
}

fn html(text: String) -> Response {
    let mut response = content(StatusCode::OK, "text/html; charset=utf-8", text);
    let headers = response.headers_mut();
    let policy =
        HeaderValue::from_static("default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'");
    headers.insert(header::CONTENT_SECURITY_POLICY, policy);
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    response
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}
