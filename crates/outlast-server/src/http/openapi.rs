//! The `OpenAPI` document, made from the table of routes.

use serde_json::{Map, Value, json};

use super::auth::Policy;
use super::problem::PROBLEM_JSON;
use super::routes::{Body, ROUTES, Route};

/// The media type of a body.
fn media_type(body: Body) -> &'static str {
    if matches!(body, Body::Stream(_)) { "application/x-ndjson" } else { "application/json" }
}

/// The whole document.
pub(super) fn document() -> Value {
    let mut paths = Map::new();
    for route in ROUTES {
        let path = paths.entry(route.path).or_insert_with(|| json!({}));
        path[route.method.as_str().to_ascii_lowercase()] = operation(route);
    }
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": "Outlast",
            "version": env!("CARGO_PKG_VERSION"),
            "description": "Keeps accepting writes while the database is away, and brings every accepted write to it exactly once, in order.",
            "license": { "name": "MIT OR Apache-2.0" }
        },
        "paths": paths,
        "components": {
            "securitySchemes": { "token": { "type": "http", "scheme": "bearer" } },
            "schemas": schemas(),
        },
    })
}

fn operation(route: &Route) -> Value {
    let mut operation = json!({
        "summary": route.summary,
        "parameters": parameters(route),
        "responses": responses(route),
    });
    let (role, security) = match route.policy {
        Policy::Public => ("public", json!([])),
        Policy::AtLeast(role) => (role.as_str(), json!([{ "token": [] }])),
    };
    operation["x-role"] = json!(role);
    operation["security"] = security;
    let (schema, required) = match route.body {
        Body::None => return operation,
        Body::Optional(schema) => (schema, false),
        Body::Required(schema) | Body::Stream(schema) => (schema, true),
    };
    let content = json!({ media_type(route.body): { "schema": reference(schema) } });
    operation["requestBody"] = json!({ "required": required, "content": content });
    operation
}

fn parameters(route: &Route) -> Value {
    let mut parameters = Vec::new();
    for part in route.path.split('/').filter_map(|part| part.strip_prefix('{')) {
        let name = part.trim_end_matches('}');
        parameters
            .push(json!({ "name": name, "in": "path", "required": true, "schema": { "type": "string" } }));
    }
    for (name, meaning) in route.query {
        parameters.push(
            json!({ "name": name, "in": "query", "description": meaning, "schema": { "type": "string" } }),
        );
    }
    let mut headers = Vec::new();
    if is_write(route) || matches!(route.body, Body::Stream(_)) {
        headers.push(("Prefer", "respond-async, wait=SECONDS, return=minimal (RFC 7240)."));
    }
    if is_write(route) {
        headers.push(("Idempotency-Key", "Your own name for this write: sent again, it takes effect once."));
    }
    for (name, meaning) in headers {
        let schema = json!({ "type": "string" });
        parameters.push(json!({ "name": name, "in": "header", "description": meaning, "schema": schema }));
    }
    Value::Array(parameters)
}

/// Whether it goes through the queue.
fn is_write(route: &Route) -> bool {
    route.statuses.contains(&202)
}

fn responses(route: &Route) -> Value {
    let mut responses = Map::new();
    for status in route.statuses {
        let (schema, media_type) = match status {
            204 => {
                responses.insert("204".into(), json!({ "description": "Done." }));
                continue;
            }
            202 => ("Receipt", "application/json"),
            400.. if route.answer == "application/health+json" => (route.answer, route.answer),
            400.. => ("Problem", PROBLEM_JSON),
            _ if route.answer.contains('/') => (route.answer, route.answer),
            _ => (route.answer, media_type(route.body)),
        };
        let schema = match schema {
            "application/json" | "application/health+json" => json!({ "type": "object" }),
            text if text.contains('/') => json!({ "type": "string" }),
            name => reference(name),
        };
        let body =
            json!({ "description": description(*status), "content": { media_type: { "schema": schema } } });
        responses.insert(status.to_string(), body);
    }
    Value::Object(responses)
}

fn description(status: u16) -> &'static str {
    match status {
        200 => "Done.",
        201 => "Created. Location names the record.",
        202 => "Durably queued. Location names the receipt.",
        400 => "The request is not valid.",
        401 => "A valid bearer token is needed.",
        403 => "The token's role may not do this.",
        404 => "It does not exist.",
        408 => "The body did not arrive in time.",
        409 => "Not possible in the present state.",
        413 => "Too large. Nothing was accepted.",
        415 => "The body must be JSON.",
        422 => "The database refused the write. It took no effect.",
        _ => "Not possible now: try again after Retry-After.",
    }
}

fn reference(schema: &str) -> Value {
    json!({ "$ref": format!("#/components/schemas/{schema}") })
}

/// The shapes that the routes name.
fn schemas() -> Value {
    let mut schemas = Map::new();
    let texts = [include_str!("schemas.json")];
    for text in texts {
        let parsed: Map<String, Value> =
            serde_json::from_str(text).expect("schemas.json is part of the program, and a test reads it");
        schemas.extend(parsed);
    }
    Value::Object(schemas)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn references(value: &Value, found: &mut Vec<String>) {
        match value {
            Value::Object(map) => {
                if let Some(Value::String(reference)) = map.get("$ref") {
                    found.push(reference.clone());
                }
                map.values().for_each(|value| references(value, found));
            }
            Value::Array(items) => items.iter().for_each(|item| references(item, found)),
            _ => {}
        }
    }

    #[test]
    fn every_schema_that_is_named_exists_and_every_one_that_exists_is_named() {
        let document = document();
        let mut found = Vec::new();
        references(&document, &mut found);
        for reference in &found {
            let pointer = reference.trim_start_matches('#');
            assert!(document.pointer(pointer).is_some(), "{reference} does not exist");
        }
        for name in document["components"]["schemas"].as_object().unwrap().keys() {
            assert!(
                found.iter().any(|reference| reference.ends_with(&format!("/{name}"))),
                "{name} is not used"
            );
        }
    }

    #[test]
    fn the_document_has_every_route_and_no_other() {
        let document = document();
        let paths = document["paths"].as_object().unwrap();
        let listed: usize = paths.values().map(|methods| methods.as_object().unwrap().len()).sum();
        assert_eq!(listed, ROUTES.len());
        for route in ROUTES {
            let method = route.method.as_str().to_ascii_lowercase();
            assert!(paths[route.path].get(&method).is_some(), "{} {}", route.method, route.path);
        }
    }
}
