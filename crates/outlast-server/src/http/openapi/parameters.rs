//! What a route is asked with beside its body: parts of the path, the query, headers.

use serde_json::{Value, json};

use super::super::dashboard;
use super::super::problem::KINDS;
use super::super::routes::{Body, Route};
use super::{is_write, reference};

/// Headers of the request that every write takes: name, schema and meaning.
const HEADERS: &[(&str, &str, &str)] = &[
    ("Prefer", "Prefer", "How long to wait, and whether the record is answered."),
    ("Idempotency-Key", "IdempotencyKey", "Your own name for this write: sent again, it takes effect once."),
];

/// All parameters of a route.
pub(super) fn parameters(route: &Route) -> Value {
    let in_path = names(route.path).map(
        |name| json!({ "name": name, "in": "path", "required": true, "schema": in_path(route.path, name) }),
    );
    let in_query = route.query.iter().map(|(name, schema, meaning)| {
        let mut parameter =
            json!({ "name": name, "in": "query", "description": meaning, "schema": reference(schema) });
        if *schema == "Filter" {
            // Each of its members is a parameter of its own.
            (parameter["style"], parameter["explode"]) = (json!("form"), json!(true));
        }
        parameter
    });
    // The lines of a stream have keys of their own.
    let takes = |name: &str| is_write(route) || name == "Prefer" && matches!(route.body, Body::Stream(_));
    let headers = HEADERS.iter().filter(|(name, ..)| takes(name)).map(|(name, schema, meaning)| {
        json!({ "name": name, "in": "header", "description": meaning, "schema": reference(schema) })
    });
    in_path.chain(in_query).chain(headers).collect()
}

/// The names in `{}`.
pub(super) fn names(path: &str) -> impl Iterator<Item = &str> {
    path.split('/').filter_map(|part| part.strip_prefix('{')).map(|name| name.trim_end_matches('}'))
}

/// What may stand in that place of the path.
fn in_path(path: &str, name: &str) -> Value {
    match (name, path) {
        ("collection", _) => reference("Collection"),
        ("name", path) if path.starts_with("/problems/") => one_of(KINDS.iter().map(|kind| kind.name)),
        ("name", _) => one_of(dashboard::names()),
        (_, path) if path.starts_with("/v1/records/") => reference("RecordId"),
        (_, path) if path.starts_with("/v1/outages/") || path.contains("/runs/") => reference("Number"),
        _ => reference("WriteId"),
    }
}

fn one_of<'a>(names: impl Iterator<Item = &'a str>) -> Value {
    let names: Vec<&str> = names.collect();
    json!({ "type": "string", "enum": names, "examples": [names.first()] })
}
