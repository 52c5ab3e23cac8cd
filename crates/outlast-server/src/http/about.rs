//! Who asks, and how this server is set up.

use http::StatusCode;
use serde_json::json;

use super::app::{Answer, Call, json_of, not_stored};

/// `GET /v1/me`: the name and the role of the caller.
///
/// # Errors
/// 400 for unknown query parameters.
pub(super) async fn me(call: Call) -> Answer {
    call.known_query([])?;
    let (name, role) = call.app.auth.caller(call.headers())?;
    let mut body = json!({ "name": name, "role": role.as_str(), "version": env!("CARGO_PKG_VERSION") });
    if let Some(expires) = call.app.auth.expires(call.headers()) {
        body["token_expires_at"] = json!(expires.to_string());
    }
    Ok(not_stored(json_of(StatusCode::OK, &body)?))
}

/// `GET /v1/configuration`: each setting with its value and where that came from; secrets are hidden.
///
/// # Errors
/// 400 for unknown query parameters.
pub(super) async fn configuration(call: Call) -> Answer {
    call.known_query([])?;
    Ok(not_stored(json_of(StatusCode::OK, &json!({ "settings": call.app.configuration }))?))
}
