//! The dashboard: plain files that are part of the binary. They ask this server and nobody else.

use axum::response::Response;
use http::{HeaderValue, StatusCode, header};

use super::app::{Answer, Call, content};
use super::problem::{NOT_FOUND, Problem};

const PAGE: &str = include_str!("../dashboard/index.html");

macro_rules! files {
    ($($name:literal $media_type:expr;)+) => {
        /// Name, media type and content.
        const FILES: &[(&str, &str, &str)] = &[$(($name, $media_type, include_str!(concat!("../dashboard/", $name)))),+];
    };
}

const SCRIPT: &str = "text/javascript; charset=utf-8";

files! {
    "style.css" "text/css; charset=utf-8";
    "docs.css" "text/css; charset=utf-8";
    "icon.svg" "image/svg+xml";
    "main.js" SCRIPT;
    "api.js" SCRIPT;
    "chart.js" SCRIPT;
    "dom.js" SCRIPT;
    "words.js" SCRIPT;
    "parts.js" SCRIPT;
    "overview.js" SCRIPT;
    "queue.js" SCRIPT;
    "dead.js" SCRIPT;
    "outages.js" SCRIPT;
    "settings.js" SCRIPT;
}

/// The names of all files.
pub(super) fn names() -> impl Iterator<Item = &'static str> {
    FILES.iter().map(|(name, ..)| *name)
}

/// Nothing from elsewhere, nothing inline, in nobody's frame.
const POLICY: HeaderValue = HeaderValue::from_static(
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; base-uri 'none'; \
     form-action 'none'; frame-ancestors 'none'",
);

/// `GET /`.
///
/// # Errors
/// None.
pub(super) async fn page(_call: Call) -> Answer {
    Ok(guarded(content(StatusCode::OK, "text/html; charset=utf-8", PAGE)))
}

/// `GET /dashboard/{name}`.
///
/// # Errors
/// 404 for a name that none has.
pub(super) async fn file(call: Call) -> Answer {
    let name: String = call.param("name")?;
    let (_, media_type, text) = FILES
        .iter()
        .find(|(known, ..)| *known == name)
        .ok_or_else(|| Problem::new(NOT_FOUND, format!("there is no file \"{}\"", name.escape_debug())))?;
    Ok(guarded(content(StatusCode::OK, media_type, *text)))
}

fn guarded(mut response: Response) -> Response {
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_SECURITY_POLICY, POLICY);
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.insert(header::REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
    // Another version of the server brings other files.
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    response
}
