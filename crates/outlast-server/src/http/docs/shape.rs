//! Schemas in words.

use std::fmt::Write as _;

use serde_json::Value;

use super::{escaped, text};

/// The name of the schema that this one refers to.
pub(super) fn name_of(schema: &Value) -> Option<&str> {
    schema["$ref"].as_str()?.rsplit('/').next()
}

/// The schema that this one refers to.
pub(super) fn resolve<'a>(document: &'a Value, schema: &'a Value) -> &'a Value {
    name_of(schema).map_or(schema, |name| &document["components"]["schemas"][name])
}

/// What may stand there, in a few words with links.
pub(super) fn words(schema: &Value) -> String {
    if let Some(name) = name_of(schema) {
        return format!("<a href=\"#{name}\">{name}</a>");
    }
    if let Some(value) = schema.get("const") {
        return code(value);
    }
    if let Some(values) = schema["enum"].as_array() {
        return values.iter().map(code).collect::<Vec<_>>().join(", ");
    }
    for way in ["oneOf", "anyOf"] {
        if let Some(ways) = schema[way].as_array() {
            return ways.iter().map(words).collect::<Vec<_>>().join(" or ");
        }
    }
    let types = match &schema["type"] {
        Value::Array(types) => types.iter().filter_map(Value::as_str).collect(),
        Value::String(one) => vec![one.as_str()],
        _ => return "anything".to_owned(),
    };
    types.into_iter().map(|one| of_type(one, schema)).collect::<Vec<_>>().join(" or ")
}

fn of_type(one: &str, schema: &Value) -> String {
    match one {
        "string" => match schema["format"].as_str() {
            Some("date-time") => "time (RFC 3339)".to_owned(),
            Some("uuid") => "UUID".to_owned(),
            _ => "text".to_owned(),
        },
        "integer" | "number" => {
            let kind = if one == "integer" { "whole number" } else { "number" };
            match (&schema["minimum"], &schema["maximum"]) {
                (Value::Number(least), Value::Number(most)) => format!("{kind}, {least} to {most}"),
                (Value::Number(least), _) => format!("{kind}, at least {least}"),
                _ => kind.to_owned(),
            }
        }
        "array" if schema.get("items").is_some() => format!("list of {}", words(&schema["items"])),
        "array" => "list".to_owned(),
        "boolean" => "true or false".to_owned(),
        "object" => "object".to_owned(),
        other => other.to_owned(),
    }
}

fn code(value: &Value) -> String {
    let shown = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
    format!("<code>{}</code>", escaped(&shown))
}

/// A schema: what it is, and a row for each of its members and of those within.
pub(super) fn described(name: &str, schema: &Value) -> String {
    let mut html = format!("<section class=\"card\" id=\"{name}\"><h3>{name}</h3>");
    if schema.get("description").is_some() {
        let _ = write!(html, "<p>{}</p>", text(&schema["description"]));
    }
    let mut rows = String::new();
    members("", schema, &mut rows);
    if rows.is_empty() {
        let _ = write!(html, "<p>{}</p>", words(schema));
    } else {
        let _ = write!(
            html,
            "<div class=\"scroll\"><table><thead><tr><th>Member</th><th></th><th></th></tr></thead><tbody>{rows}</tbody></table></div>"
        );
    }
    if let Some(pattern) = schema["pattern"].as_str() {
        let _ = write!(html, "<p>Pattern <code>{}</code></p>", escaped(pattern));
    }
    if let Some(example) = schema["examples"].get(0) {
        let _ = write!(html, "<p>For example {}</p>", code(example));
    }
    html.push_str("</section>");
    html
}

fn members(within: &str, schema: &Value, rows: &mut String) {
    let is_required = |name: &str| {
        schema["required"].as_array().is_some_and(|required| required.iter().any(|other| other == name))
    };
    for (name, member) in
        schema["properties"].as_object().into_iter().flatten().filter(|(_, member)| **member != false)
    {
        let path = format!("{within}{name}");
        let optional = if is_required(name) { "" } else { " <span class=\"muted\">optional</span>" };
        let _ = write!(
            rows,
            "<tr><td><code>{}</code>{optional}</td><td>{}</td><td>{}</td></tr>",
            escaped(&path),
            words(member),
            text(&member["description"])
        );
        if name_of(member).is_none() {
            members(&format!("{path}."), member, rows);
            members(&format!("{path}[]."), &member["items"], rows);
            members(&format!("{path}.*."), &member["additionalProperties"], rows);
            members(&format!("{path}.*[]."), &member["additionalProperties"]["items"], rows);
        }
    }
    for way in schema["oneOf"].as_array().into_iter().flatten().filter(|way| way.get("type").is_some()) {
        let _ = write!(rows, "<tr><th colspan=\"3\">{}</th></tr>", one_of_them(way));
        members(within, way, rows);
    }
}

/// A heading for one way of several.
fn one_of_them(way: &Value) -> String {
    way.get("description").map_or_else(|| "Or".to_owned(), text)
}
