//! The interface for people: every route with its parameters, a request that works, and what it answers.

use std::fmt::Write as _;

use serde_json::Value;

use super::super::problem::{KINDS, PROBLEM_JSON};
use super::{document, escaped, example, shape, text};

/// The page, from the `OpenAPI` document.
pub(super) fn page(openapi: &Value) -> String {
    let mut body = format!(
        "<h1>Interface</h1><p class=\"lead\">{}</p>\
         <p>The same for machines: <a href=\"openapi.json\">openapi.json</a>. Where the server has tokens, add \
         <code>-H \"Authorization: Bearer $TOKEN\"</code> to the commands. Errors are \
         <a href=\"#problems\">problems</a>; what is sent and answered is described under <a href=\"#shapes\">shapes</a>.</p>",
        text(&openapi["info"]["description"])
    );
    let groups: Vec<(&str, String)> = openapi["tags"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(|tag| tag["name"].as_str())
        .map(|name| (name, group(openapi, name)))
        .collect();
    body.push_str("<nav class=\"contents\" aria-label=\"Contents\"><ul>");
    for (name, _) in &groups {
        let _ = write!(body, "<li><a href=\"#{}\">{name}</a></li>", anchor(name));
    }
    body.push_str(
        "<li><a href=\"#problems\">Problems</a></li><li><a href=\"#shapes\">Shapes</a></li></ul></nav>",
    );
    for (name, routes) in &groups {
        let _ = write!(body, "<h2 id=\"{}\">{name}</h2>{routes}", anchor(name));
    }
    body.push_str(&problems());
    body.push_str("<h2 id=\"shapes\">Shapes</h2>");
    for (name, schema) in openapi["components"]["schemas"].as_object().into_iter().flatten() {
        body.push_str(&shape::described(name, schema));
    }
    document("Outlast: interface", "", &body)
}

fn anchor(name: &str) -> String {
    name.to_lowercase().replace(' ', "-")
}

/// The routes with that tag.
fn group(openapi: &Value, tag: &str) -> String {
    let mut html = String::new();
    for (path, methods) in openapi["paths"].as_object().into_iter().flatten() {
        let of_tag = |(_, operation): &(&String, &Value)| operation["tags"][0] == tag;
        for (method, operation) in methods.as_object().into_iter().flatten().filter(of_tag) {
            html.push_str(&route(openapi, method, path, operation));
        }
    }
    html
}

fn route(openapi: &Value, method: &str, path: &str, operation: &Value) -> String {
    let role = operation["security"][0]["token"][0].as_str();
    let mut html = format!(
        "<section class=\"card route\" id=\"{}\"><h3><code>{} {}</code></h3><p>{}. {}</p>",
        text(&operation["operationId"]),
        method.to_uppercase(),
        escaped(path),
        text(&operation["summary"]),
        role.map_or_else(|| "For everybody.".to_owned(), |role| format!("Role: {role}."))
    );
    html.push_str(&parameters(operation));
    if let Some(body) = operation.get("requestBody") {
        let optional = if body["required"] == true { "" } else { ", or nothing" };
        for (media_type, content) in body["content"].as_object().into_iter().flatten() {
            let _ = write!(
                html,
                "<p>Body: {} as <code>{media_type}</code>{optional}.</p>",
                shape::words(&content["schema"])
            );
        }
    }
    let _ = write!(
        html,
        "<pre tabindex=\"0\"><code>{}</code></pre>",
        escaped(&example::curl(openapi, method, path, operation))
    );
    html.push_str(&answers(&operation["responses"]));
    html.push_str("</section>");
    html
}

fn parameters(operation: &Value) -> String {
    let mut rows = String::new();
    for parameter in operation["parameters"].as_array().into_iter().flatten() {
        let _ = write!(
            rows,
            "<tr><td><code>{}</code></td><td>{}</td><td>{}</td><td>{}</td></tr>",
            text(&parameter["name"]),
            text(&parameter["in"]),
            shape::words(&parameter["schema"]),
            text(&parameter["description"])
        );
    }
    if rows.is_empty() {
        return rows;
    }
    format!(
        "<div class=\"scroll\"><table><thead><tr><th>Parameter</th><th>In</th><th></th><th></th></tr></thead><tbody>{rows}</tbody></table></div>"
    )
}

/// A row for each good answer with what it holds; the others are problems, and stand behind them with links.
fn answers(responses: &Value) -> String {
    let (mut rows, mut refusals) = (String::new(), Vec::new());
    for (status, response) in responses.as_object().into_iter().flatten() {
        let mut holds = Vec::new();
        for (media_type, content) in response["content"].as_object().into_iter().flatten() {
            if media_type == PROBLEM_JSON {
                refusals.extend(
                    types(&content["schema"])
                        .map(|name| format!("<a href=\"problems/{name}\">{status} {name}</a>")),
                );
            } else {
                holds.push(format!("{} as <code>{media_type}</code>", shape::words(&content["schema"])));
            }
        }
        if holds.is_empty() && status.as_str() >= "400" {
            continue;
        }
        let headers: Vec<String> = response["headers"]
            .as_object()
            .into_iter()
            .flatten()
            .map(|(name, _)| format!("<code>{}</code>", escaped(name)))
            .collect();
        let _ = write!(
            rows,
            "<tr><td>{status}</td><td>{}</td><td>{}</td><td>{}</td></tr>",
            text(&response["description"]),
            holds.join(", "),
            headers.join(", ")
        );
    }
    format!(
        "<div class=\"scroll\"><table><thead><tr><th>Answer</th><th></th><th>Body</th><th>Headers</th></tr></thead><tbody>{rows}</tbody></table></div>\
         <p class=\"refusals\">Problems: {}</p>",
        refusals.join(", ")
    )
}

/// The names of the problems that a schema lists.
fn types(schema: &Value) -> impl Iterator<Item = &str> {
    let types = schema["allOf"][1]["properties"]["type"]["enum"].as_array().into_iter().flatten();
    types.filter_map(|name| name.as_str()?.rsplit('/').next())
}

fn problems() -> String {
    let mut html = String::from(
        "<h2 id=\"problems\">Problems</h2><div class=\"scroll\"><table><thead><tr><th>Type</th><th>Status</th><th></th></tr></thead><tbody>",
    );
    for kind in KINDS {
        let _ = write!(
            html,
            "<tr><td><a href=\"problems/{0}\">{0}</a></td><td>{1}</td><td>{2}</td></tr>",
            kind.name,
            kind.status.as_u16(),
            escaped(kind.title)
        );
    }
    html.push_str("</tbody></table></div>");
    html
}
