//! What a route answers: its own statuses, and those of the problems that its policy, its body and its way bring with them.

use http::Method;
use serde_json::{Map, Value, json};

use super::super::auth::Policy;
use super::super::problem::{KINDS, Kind, PROBLEM_JSON, Scope};
use super::super::routes::{Body, Route};
use super::{content, is_write, links, reference};

/// All answers of a route, by status.
pub(super) fn responses(route: &Route) -> Value {
    let mut statuses: Vec<u16> = route.statuses.iter().copied().chain(derived(route)).collect();
    statuses.sort_unstable();
    statuses.dedup();
    statuses
        .into_iter()
        .map(|status| (status.to_string(), response(route, status)))
        .collect::<Map<_, _>>()
        .into()
}

/// The statuses of the problems that come with what a route is.
fn derived(route: &Route) -> impl Iterator<Item = u16> {
    KINDS.iter().filter(|kind| comes_with(kind.scope, route)).map(|kind| kind.status.as_u16())
}

fn comes_with(scope: Scope, route: &Route) -> bool {
    match scope {
        Scope::Every => true,
        Scope::Guarded => route.policy != Policy::Public,
        Scope::Changing => route.method != Method::GET,
        Scope::Named => route.path.contains('{'),
        Scope::Body => route.body != Body::None,
        Scope::Json => matches!(route.body, Body::Optional(_) | Body::Required(_)),
        Scope::Stream => matches!(route.body, Body::Stream(_)),
        Scope::Write => is_write(route),
        Scope::Listed | Scope::Nowhere => false,
    }
}

/// The problems with which a route answers a status.
fn kinds(route: &Route, status: u16) -> impl Iterator<Item = &'static Kind> {
    KINDS.iter().filter(move |kind| {
        let listed = kind.scope == Scope::Listed && route.statuses.contains(&status);
        kind.status.as_u16() == status && (listed || comes_with(kind.scope, route))
    })
}

fn response(route: &Route, status: u16) -> Value {
    let mut response = json!({ "description": description(status), "headers": headers(route, status) });
    match status {
        204 => {}
        202 => response["content"] = content("Receipt"),
        400.. => {
            let mut answers = json!({ PROBLEM_JSON: { "schema": problem(route, status) } });
            // A probe that fails answers as one that passes.
            if route.statuses.contains(&status) && matches!(route.answer, "Probe" | "Health") {
                let own = content(route.answer);
                answers
                    .as_object_mut()
                    .into_iter()
                    .for_each(|answers| answers.extend(own.as_object().cloned().unwrap_or_default()));
            }
            response["content"] = answers;
        }
        _ => response["content"] = content(route.answer),
    }
    let links = links::links(route, status);
    if !links.is_empty() {
        response["links"] = Value::Object(links);
    }
    response
}

/// A problem of one of the kinds that this can be.
fn problem(route: &Route, status: u16) -> Value {
    let kinds: Vec<&Kind> = kinds(route, status).collect();
    let types: Vec<String> = kinds.iter().map(|kind| format!("/problems/{}", kind.name)).collect();
    json!({
        "allOf": [reference("Problem"), { "properties": { "type": { "enum": types }, "status": { "const": status } } }]
    })
}

fn header(required: bool, description: &str, schema: &Value) -> Value {
    json!({ "required": required, "description": description, "schema": schema })
}

fn headers(route: &Route, status: u16) -> Value {
    let mut headers = Map::new();
    let mut put = |name: &str, required, description, schema| {
        headers.insert(name.to_owned(), header(required, description, &schema));
    };
    let never = || json!({ "const": "no-store" });
    let is_guarded = route.policy != Policy::Public;
    match status {
        401 => put("WWW-Authenticate", true, "How to authenticate.", json!({ "type": "string" })),
        503 => {
            let seconds = json!({ "type": "integer", "minimum": 1, "maximum": 60 });
            put("Retry-After", true, "Seconds, estimated.", seconds);
        }
        409 if is_write(route) => {
            let seconds = json!({ "type": "integer", "minimum": 1, "maximum": 60 });
            put("Retry-After", false, "Seconds, while the first request with the key waits.", seconds);
        }
        _ => {}
    }
    match status {
        400.. => put("Cache-Control", true, "A problem is of this moment.", never()),
        _ if is_write(route) => {
            let word = if status == 202 { "queued" } else { "applied" };
            put("Write-Id", true, "The name of the write, for its receipt.", reference("WriteId"));
            put("Write-Status", true, "Which durable place has it.", json!({ "const": word }));
            put(
                "Preference-Applied",
                false,
                "The preferences that were followed (RFC 7240).",
                json!({ "type": "string" }),
            );
            if status != 202 {
                put(
                    "Idempotency-Replayed",
                    false,
                    "The write was applied before under the same key; this one took no effect.",
                    json!({ "const": "true" }),
                );
            }
            match status {
                201 => put(
                    "Location",
                    true,
                    "The record.",
                    json!({ "type": "string", "format": "uri-reference" }),
                ),
                202 => put(
                    "Location",
                    true,
                    "The receipt.",
                    json!({ "type": "string", "format": "uri-reference" }),
                ),
                _ => {}
            }
        }
        _ if is_guarded => put("Cache-Control", true, "It tells the state of things.", never()),
        _ => {}
    }
    if status == 200 && route.answer == "DeadLettersAnswer" {
        put("Location", false, "The run that began.", json!({ "type": "string", "format": "uri-reference" }));
    }
    if status == 200 && ["application/x-ndjson", "text/markdown"].contains(&route.answer) {
        put("Content-Disposition", true, "A name for the file.", json!({ "type": "string" }));
    }
    if status == 200 && route.answer.starts_with("text/") && !is_guarded {
        put("Content-Security-Policy", true, "Nothing from elsewhere.", json!({ "type": "string" }));
        put("X-Content-Type-Options", true, "The type is what it says.", json!({ "const": "nosniff" }));
    }
    Value::Object(headers)
}

fn description(status: u16) -> &'static str {
    match status {
        200 => "Done.",
        201 => "Created. Location names the record.",
        202 => "Durably queued. Location names the receipt.",
        204 => "Done; there is nothing to say.",
        400 => "The request is not valid.",
        401 => "A valid bearer token is needed.",
        403 => "The token's role may not do this, or a page of another origin asks.",
        404 => "It does not exist.",
        408 => "The body did not arrive in time.",
        409 => "Not possible in the present state.",
        413 => "Too large. Nothing was accepted.",
        415 => "The body is of a media type that is not taken.",
        421 => "Without tokens: the request was meant for another host.",
        422 => "The database refused the write. It took no effect.",
        500 => "A fault of the server.",
        _ => "Not possible now: try again after Retry-After.",
    }
}
