//! The `OpenAPI` document, made from the table of routes, that of problems, and the schemas that they name.

mod links;
mod parameters;
mod responses;

use serde_json::{Map, Value, json};

use super::auth::Policy;
use super::routes::{Body, ROUTES, Route};

/// What a route takes and answers when its schema is no other than JSON.
const JSON: &str = "application/json";

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
            "description": "Keeps accepting writes while the database is away, and brings every accepted write to it exactly once, in order. Every path that has GET has HEAD.",
            "license": { "name": "MIT OR Apache-2.0" }
        },
        "servers": [{ "url": "./", "description": "Where this document is." }],
        "tags": TAGS.iter().map(|(name, ..)| json!({ "name": name })).collect::<Value>(),
        "paths": paths,
        "components": {
            "securitySchemes": { "token": {
                "type": "http",
                "scheme": "bearer",
                "description": "A token of server.tokens. Each role may what the ones before it may: reader, writer, operator."
            } },
            "schemas": schemas(),
        },
    })
}

/// The same for a server that has no tokens: it asks for none.
pub(super) fn without_tokens(mut document: Value) -> Value {
    let paths = document["paths"].as_object_mut().into_iter().flat_map(Map::values_mut);
    for operation in paths.filter_map(Value::as_object_mut).flat_map(Map::values_mut) {
        operation["security"] = json!([]);
    }
    document
}

/// Groups of routes and the beginnings of their paths.
const TAGS: &[(&str, &[&str])] = &[
    ("Records", &["/v1/records", "/v1/transactions", "/v1/bulk"]),
    ("Receipts", &["/v1/writes"]),
    ("Queue", &["/v1/queue"]),
    ("Dead letters", &["/v1/dead-letters"]),
    ("Outages", &["/v1/outages", "/v1/history", "/v1/events"]),
    ("Server", &["/v1/"]),
    ("Probes", &["/livez", "/readyz", "/startedz", "/health", "/metrics"]),
    ("Pages", &["/"]),
];

fn tag(route: &Route) -> &'static str {
    let of = |(_, beginnings): &&(&str, &[&str])| beginnings.iter().any(|text| route.path.starts_with(text));
    TAGS.iter().find(of).map_or("", |(name, _)| name)
}

fn operation(route: &Route) -> Value {
    let mut operation = json!({
        "operationId": operation_id(route.method.as_str(), route.path),
        "tags": [tag(route)],
        "summary": route.summary,
        "parameters": parameters::parameters(route),
        "responses": responses::responses(route),
    });
    // For OpenAPI 3.1, the names beside a scheme of type http are roles.
    operation["security"] = match route.policy {
        Policy::Public => json!([]),
        Policy::AtLeast(role) => json!([{ "token": [role.as_str()] }]),
    };
    let (schema, required) = match route.body {
        Body::None => return operation,
        Body::Optional(schema) => (schema, false),
        Body::Required(schema) | Body::Stream(schema) => (schema, true),
    };
    operation["requestBody"] = json!({ "required": required, "content": content(schema) });
    operation
}

/// A name that follows from method and path, so that no two are the same and none changes while its route does not.
fn operation_id(method: &str, path: &str) -> String {
    let words =
        path.split(|c: char| !c.is_ascii_alphanumeric()).filter(|word| !word.is_empty() && *word != "v1");
    words.fold(method.to_ascii_lowercase(), |id, word| format!("{id}_{word}"))
}

/// Whether it goes through the queue.
fn is_write(route: &Route) -> bool {
    route.statuses.contains(&202)
}

/// What stands under `content`: the media type of a schema, or each of the named ones with text.
fn content(answer: &str) -> Value {
    match answer {
        "Probe" | "Health" => json!({ "application/health+json": { "schema": reference(answer) } }),
        "BulkLine" | "BulkResult" => json!({ "application/x-ndjson": { "schema": reference(answer) } }),
        types if types.contains('/') => {
            let text = |name: &str| (name.to_owned(), json!({ "schema": { "type": "string" } }));
            Value::Object(types.split(',').map(text).collect())
        }
        _ => json!({ JSON: { "schema": reference(answer) } }),
    }
}

fn reference(schema: &str) -> Value {
    json!({ "$ref": format!("#/components/schemas/{schema}") })
}

/// The shapes that the routes name.
fn schemas() -> Value {
    serde_json::from_str(include_str!("../schemas.json"))
        .expect("schemas.json is part of the program, and a test reads it")
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
        let mut ids = std::collections::HashSet::new();
        for route in ROUTES {
            let operation = &paths[route.path][route.method.as_str().to_ascii_lowercase()];
            let what = format!("{} {}", route.method, route.path);
            assert!(ids.insert(operation["operationId"].as_str().unwrap().to_owned()), "{what}");
            assert_ne!(operation["tags"][0], "", "{what}");
        }
    }

    /// An object that says nothing of further members takes any: where that is meant, it says so.
    #[test]
    fn every_object_says_whether_it_has_further_members() {
        fn look(at: &str, schema: &Value) {
            if schema["type"] == "object" {
                assert!(schema.get("additionalProperties").is_some(), "{at}: {schema}");
            }
            for (name, part) in schema.as_object().into_iter().flatten() {
                if let Some(list) = part.as_array() {
                    for part in list {
                        look(&format!("{at}/{name}"), part);
                    }
                }
                look(&format!("{at}/{name}"), part);
            }
        }
        look("", &schemas());
    }
}
