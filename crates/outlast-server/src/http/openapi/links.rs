//! How one answer leads to the next request.

use serde_json::{Map, Value, json};

use super::super::routes::Route;
use super::operation_id;

/// From an answer to a request: the route and status, the route that it leads to, and where its parameters come from.
struct Link {
    from: (&'static str, &'static str, u16),
    to: (&'static str, &'static str),
    parameters: &'static [(&'static str, &'static str)],
    body: &'static [(&'static str, &'static str)],
}

const RECORD: &str = "/v1/records/{collection}/{id}";
const RECORDS: &str = "/v1/records/{collection}";
const RECEIPT: &str = "/v1/writes/{id}";
const LETTER: &str = "/v1/dead-letters/{id}";
const RUN: &str = "/v1/dead-letters/runs/{id}";
const RETRY: &str = "/v1/dead-letters/retry";
const DISCARD: &str = "/v1/dead-letters/discard";

const CREATED: &[(&str, &str)] = &[("collection", "$request.path.collection"), ("id", "$response.body#/id")];
const SAME: &[(&str, &str)] = &[("collection", "$request.path.collection"), ("id", "$request.path.id")];
const WRITE: &[(&str, &str)] = &[("id", "$response.header.Write-Id")];
const FIRST_LETTER: &[(&str, &str)] = &[("id", "$response.body#/letters/0/id")];
const ITS_RUN: &[(&str, &str)] = &[("id", "$response.body#/id")];
const PLANNED: &[(&str, &str)] = &[("filter", "$request.body#/filter"), ("token", "$response.body#/token")];

const fn link(
    from: (&'static str, &'static str, u16),
    to: (&'static str, &'static str),
    parameters: &'static [(&'static str, &'static str)],
) -> Link {
    Link { from, to, parameters, body: &[] }
}

const LINKS: &[Link] = &[
    link(("POST", RECORDS, 201), ("GET", RECORD), CREATED),
    link(("POST", RECORDS, 201), ("PATCH", RECORD), CREATED),
    link(("POST", RECORDS, 201), ("DELETE", RECORD), CREATED),
    link(("POST", RECORD, 201), ("GET", RECORD), SAME),
    link(("POST", RECORD, 201), ("PUT", RECORD), SAME),
    link(("POST", RECORD, 201), ("DELETE", RECORD), SAME),
    link(("PUT", RECORD, 200), ("GET", RECORD), SAME),
    link(("PUT", RECORD, 200), ("DELETE", RECORD), SAME),
    link(("DELETE", RECORD, 204), ("GET", RECORD), SAME),
    link(
        ("GET", RECORDS, 200),
        ("GET", RECORDS),
        &[("collection", "$request.path.collection"), ("cursor", "$response.body#/next")],
    ),
    link(("POST", RECORDS, 202), ("GET", RECEIPT), WRITE),
    link(("POST", RECORD, 202), ("GET", RECEIPT), WRITE),
    link(("PUT", RECORD, 200), ("GET", RECEIPT), WRITE),
    link(("PUT", RECORD, 202), ("GET", RECEIPT), WRITE),
    link(("PUT", RECORD, 202), ("DELETE", RECEIPT), WRITE),
    link(("PATCH", RECORD, 202), ("GET", RECEIPT), WRITE),
    link(("DELETE", RECORD, 202), ("GET", RECEIPT), WRITE),
    link(("POST", "/v1/transactions", 200), ("GET", RECEIPT), WRITE),
    link(("POST", "/v1/transactions", 202), ("GET", RECEIPT), WRITE),
    link(
        ("GET", "/v1/queue/writes", 200),
        ("GET", "/v1/queue/writes/{id}"),
        &[("id", "$response.body#/writes/0/id")],
    ),
    link(("GET", "/v1/queue/writes", 200), ("GET", "/v1/queue/writes"), &[("after", "$response.body#/next")]),
    link(("GET", "/v1/dead-letters", 200), ("GET", LETTER), FIRST_LETTER),
    link(("GET", "/v1/dead-letters", 200), ("POST", "/v1/dead-letters/{id}/retry"), FIRST_LETTER),
    link(("GET", "/v1/dead-letters", 200), ("POST", "/v1/dead-letters/{id}/discard"), FIRST_LETTER),
    link(("GET", "/v1/dead-letters", 200), ("GET", "/v1/dead-letters"), &[("after", "$response.body#/next")]),
    Link { from: ("POST", RETRY, 200), to: ("POST", RETRY), parameters: &[], body: PLANNED },
    Link { from: ("POST", DISCARD, 200), to: ("POST", DISCARD), parameters: &[], body: PLANNED },
    link(("POST", RETRY, 200), ("GET", RUN), ITS_RUN),
    link(("POST", DISCARD, 200), ("GET", RUN), ITS_RUN),
    link(("POST", RETRY, 200), ("DELETE", RUN), ITS_RUN),
    link(("GET", "/v1/dead-letters/runs", 200), ("GET", RUN), &[("id", "$response.body#/runs/0/id")]),
    link(("GET", "/v1/outages", 200), ("GET", "/v1/outages/{id}"), &[("id", "$response.body#/outages/0/id")]),
    link(
        ("GET", "/v1/outages", 200),
        ("GET", "/v1/outages/{id}/report"),
        &[("id", "$response.body#/outages/0/id")],
    ),
];

/// Where an answer of this route with this status leads.
pub(super) fn links(route: &Route, status: u16) -> Map<String, Value> {
    let here = |link: &&Link| link.from == (route.method.as_str(), route.path, status);
    LINKS.iter().filter(here).map(written).collect()
}

fn written(link: &Link) -> (String, Value) {
    let id = operation_id(link.to.0, link.to.1);
    let values = |pairs: &[(&str, &str)]| {
        pairs.iter().map(|(name, from)| ((*name).to_owned(), json!(from))).collect::<Map<_, _>>()
    };
    let mut written = json!({ "operationId": id, "parameters": values(link.parameters) });
    if !link.body.is_empty() {
        written["requestBody"] = Value::Object(values(link.body));
    }
    (id, written)
}

#[cfg(test)]
mod tests {
    use super::super::super::routes::ROUTES;
    use super::super::parameters::names;
    use super::*;

    #[test]
    fn both_ends_of_every_link_are_there() {
        for link in LINKS {
            let find = |method: &str, path: &str| {
                ROUTES.iter().find(|route| route.method == method && route.path == path)
            };
            let from = find(link.from.0, link.from.1).unwrap();
            assert!(from.statuses.contains(&link.from.2), "{} {:?}", from.path, link.from.2);
            let to = find(link.to.0, link.to.1).unwrap();
            let known: Vec<&str> = names(to.path).chain(to.query.iter().map(|(name, ..)| *name)).collect();
            for (name, _) in link.parameters {
                assert!(known.contains(name), "{}: {name}", to.path);
            }
        }
    }
}
