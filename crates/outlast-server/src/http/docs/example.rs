//! A request that works, for the page: curl with the examples that the schemas have.

use std::fmt::Write as _;

use serde_json::Value;

use super::shape::{name_of, resolve};

/// Where a server listens by default.
const SERVER: &str = "http://127.0.0.1:6885";

/// The command for an operation of the document.
pub(super) fn curl(document: &Value, method: &str, path: &str, operation: &Value) -> String {
    let parameters = operation["parameters"].as_array().map(Vec::as_slice).unwrap_or_default();
    let mut filled = path.to_owned();
    for parameter in parameters.iter().filter(|parameter| parameter["in"] == "path") {
        let name = parameter["name"].as_str().unwrap_or_default();
        filled = filled.replace(&format!("{{{name}}}"), &plain(&example(document, &parameter["schema"])));
    }
    // One shows how; the table has the others.
    let query = parameters.iter().find(|parameter| parameter["in"] == "query");
    let query = query.map_or_else(String::new, |parameter| {
        let name = parameter["name"].as_str().unwrap_or_default();
        format!("?{name}={}", plain(&example(document, &parameter["schema"])))
    });
    let mut command = String::from("curl");
    if operation["responses"]["200"]["content"].get("text/event-stream").is_some() {
        command.push_str(" -N");
    }
    if method != "get" {
        let _ = write!(command, " -X {}", method.to_uppercase());
    }
    let _ = write!(command, " '{SERVER}{filled}{query}'");
    for (media_type, body) in operation["requestBody"]["content"].as_object().into_iter().flatten() {
        let body = example(document, &body["schema"]);
        let text = body.as_str().map_or_else(|| body.to_string(), str::to_owned);
        let _ = write!(command, " \\\n  -H 'Content-Type: {media_type}' \\\n  --data-binary '{text}'");
    }
    command
}

/// The first example of a schema, or of the one that it names.
fn example(document: &Value, schema: &Value) -> Value {
    let named = name_of(schema).map_or(schema, |_| resolve(document, schema));
    named["examples"][0].clone()
}

fn plain(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}
