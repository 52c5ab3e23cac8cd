//! Pages: the `OpenAPI` document, the same for people, and what each type of problem means. No outside assets, and no link
//! from the root, so that they work under a prefix, too.

mod example;
mod page;
mod shape;

use std::sync::LazyLock;

use axum::response::Response;
use http::{HeaderValue, StatusCode, header};
use serde_json::Value;

use super::app::{Answer, Call, content, json};
use super::openapi;
use super::problem::{self, Kind, NOT_FOUND, Problem, Scope};

static DOCUMENT: LazyLock<Value> = LazyLock::new(openapi::document);
static GUARDED: LazyLock<String> = LazyLock::new(|| DOCUMENT.to_string());
static OPEN: LazyLock<String> = LazyLock::new(|| openapi::without_tokens(DOCUMENT.clone()).to_string());
static PAGE: LazyLock<String> = LazyLock::new(|| page::page(&DOCUMENT));

/// `GET /openapi.json`: as this server is set up, with tokens or without.
///
/// # Errors
/// None.
pub(super) async fn openapi(call: Call) -> Answer {
    let text = if call.app.auth.is_open() { &OPEN } else { &GUARDED };
    Ok(json(StatusCode::OK, text.as_str()))
}

/// `GET /docs`.
///
/// # Errors
/// None.
pub(super) async fn page(_call: Call) -> Answer {
    Ok(html(PAGE.as_str()))
}

/// `GET /problems/{name}`.
///
/// # Errors
/// 404 for a name that no problem has.
pub(super) async fn problem(call: Call) -> Answer {
    let name: String = call.param("name")?;
    let kind = problem::find(&name)
        .ok_or_else(|| Problem::new(NOT_FOUND, format!("there is no problem \"{}\"", name.escape_debug())))?;
    Ok(html(document(kind.title, "../", &about(kind))))
}

fn about(kind: &Kind) -> String {
    let comes = match kind.status {
        StatusCode::SERVICE_UNAVAILABLE => " with <code>Retry-After</code>",
        StatusCode::UNAUTHORIZED => " with <code>WWW-Authenticate</code>",
        StatusCode::METHOD_NOT_ALLOWED => " with <code>Allow</code>",
        _ => "",
    };
    format!(
        "<h1>{}</h1><p class=\"lead\">Type <code>/problems/{}</code>, status {}{comes}, answered by {}.</p>\
         <section class=\"card\"><h2>When</h2><p>{}</p><h2>What to do</h2><p>{}</p></section>\
         <p><a href=\"../docs\">All routes and problems</a></p>",
        escaped(kind.title),
        kind.name,
        kind.status.as_u16(),
        whom(kind.scope),
        escaped(kind.when),
        escaped(kind.advice)
    )
}

/// Who answers with a problem.
fn whom(scope: Scope) -> &'static str {
    match scope {
        Scope::Every => "every route",
        Scope::Guarded => "every route that needs a role",
        Scope::Changing => "every route that changes something",
        Scope::Named => "the routes whose path names something, and where there is no route",
        Scope::Body => "every route that takes a body",
        Scope::Json => "every route that takes JSON",
        Scope::Write => "every route that brings a write",
        Scope::Stream => "a stream of writes",
        Scope::Listed => "the routes that list it",
        Scope::Nowhere => "the paths of all routes",
    }
}

/// A whole page; `root` leads from it to the top.
fn document(title: &str, root: &str, body: &str) -> String {
    let title = escaped(title);
    format!(
        "<!doctype html><html lang=\"en\"><head><meta charset=\"utf-8\"><meta name=\"viewport\" \
         content=\"width=device-width, initial-scale=1\"><meta name=\"color-scheme\" content=\"light dark\">\
         <title>{title}</title><link rel=\"icon\" type=\"image/svg+xml\" href=\"{root}dashboard/icon.svg\">\
         <link rel=\"stylesheet\" href=\"{root}dashboard/style.css\">\
         <link rel=\"stylesheet\" href=\"{root}dashboard/docs.css\"></head><body>\
         <a class=\"skip\" href=\"#main\">Skip to content</a>\
         <header class=\"top\"><a class=\"brand\" href=\"{root}.\">Outlast</a><nav><a href=\"{root}docs\">Interface</a>\
         </nav></header><main id=\"main\" tabindex=\"-1\">{body}</main></body></html>"
    )
}

fn html(text: impl Into<axum::body::Body>) -> Response {
    let mut response = content(StatusCode::OK, "text/html; charset=utf-8", text);
    let headers = response.headers_mut();
    let policy = HeaderValue::from_static(
        "default-src 'none'; style-src 'self'; img-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    );
    headers.insert(header::CONTENT_SECURITY_POLICY, policy);
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.insert(header::REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
    // Another version of the server has other pages.
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    response
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

/// A text of the document; empty where it has none.
fn text(value: &Value) -> String {
    escaped(value.as_str().unwrap_or_default())
}
