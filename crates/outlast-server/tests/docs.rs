//! The pages for people: every route with its parameters and an example that works as it stands, every problem with when it
//! is answered and what to do; without anything from outside, and under a prefix as well.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that cannot go on fails")]

mod support;

use std::collections::BTreeSet;
use std::process::{Command, Stdio};

use outlast::status::Status;
use outlast::{Refusal, RefusalKind};
use outlast_server::http::problem::KINDS;
use outlast_server::http::{Policy, ROUTES, Route};
use outlast_testkit::eventually;
use outlast_testkit::faulty::Temper;
use support::{JSON, Reply, Server};
use url::Url;

/// Where the examples say that the server is.
const SHOWN: &str = "http://127.0.0.1:6885";

fn unescaped(text: &str) -> String {
    text.replace("&lt;", "<").replace("&gt;", ">").replace("&quot;", "\"").replace("&amp;", "&")
}

/// The part of the page about a route: from its heading to the end of its section.
fn section<'a>(page: &'a str, route: &Route) -> &'a str {
    let heading = format!("<h3><code>{} {}</code></h3>", route.method, route.path);
    let (_, rest) = page.split_once(&heading).unwrap_or_else(|| panic!("{heading} is not on the page"));
    rest.split_once("</section>").unwrap().0
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_page_has_every_route_with_its_parameters_statuses_and_role() {
    let server = Server::start().await;
    let page = server.get("/docs").await.body;
    let document = server.get("/openapi.json").await.json();
    for route in ROUTES {
        let section = section(&page, route);
        let operation = &document["paths"][route.path][route.method.as_str().to_lowercase()];
        for parameter in operation["parameters"].as_array().unwrap() {
            let name = format!("<td><code>{}</code></td>", parameter["name"].as_str().unwrap());
            assert!(section.contains(&name), "{} {}: {name}", route.method, route.path);
        }
        for status in operation["responses"].as_object().unwrap().keys() {
            let said = section.contains(&format!("<td>{status}</td>"));
            let problem = section.contains(&format!("\">{status} "));
            assert!(said || problem, "{} {}: {status}", route.method, route.path);
        }
        let role = match route.policy {
            Policy::Public => "For everybody.".to_owned(),
            Policy::AtLeast(role) => format!("Role: {}.", role.as_str()),
        };
        assert!(section.contains(&role), "{} {}: {role}", route.method, route.path);
    }
}

/// Waits until the library says so.
async fn until(server: &Server, what: &str, state: impl Fn(&Status) -> bool) {
    eventually(what, || state(&server.outlast.status())).await;
}

async fn put(server: &Server, prefer: &str) {
    let reply = server.send("PUT", "/v1/records/person/ann", &[JSON, ("prefer", prefer)], "{}").await;
    assert_eq!((reply.status / 100, reply.header("write-id")), (2, "1-1"), "{reply:?}");
}

/// A server in which there is what the example of a route names.
async fn world(route: &Route) -> Server {
    let server = Server::start_with(|config| config.outlast.storm_threshold = 1000).await;
    let pause = async || assert_eq!(server.json("POST", "/v1/queue/pause", "{}").await.status, 200);
    match (route.method.as_str(), route.path) {
        ("GET" | "PATCH", "/v1/records/{collection}/{id}") | ("GET", "/v1/writes/{id}") => {
            put(&server, "").await;
        }
        ("DELETE", "/v1/writes/{id}") | (_, "/v1/queue/writes/{id}") => {
            pause().await;
            put(&server, "respond-async").await;
        }
        (_, "/v1/queue/resume") => pause().await,
        (_, "/v1/dead-letters/runs/{id}") => {
            let run = server.json("POST", "/v1/dead-letters/retry", r#"{"filter":{},"confirm":0}"#).await;
            assert_eq!(run.json()["id"], 1, "{run:?}");
        }
        (_, path) if path.starts_with("/v1/dead-letters/{id}") => {
            server.database.judge(|_| Some((Refusal::new(RefusalKind::Constraint, "too young"), false)));
            // The records of the example: an edited write keeps its own.
            let body = r#"{"operations":[{"op":"put","collection":"person","id":"ann","data":{}},
                {"op":"delete","collection":"visit","id":"ann-3"}]}"#;
            let reply =
                server.send("POST", "/v1/transactions", &[JSON, ("prefer", "respond-async")], body).await;
            assert_eq!((reply.status, reply.header("write-id")), (202, "1-1"), "{reply:?}");
            until(&server, "it is dead", |status| status.accounting.dead == 1).await;
            server.database.acquit();
        }
        (_, path) if path.starts_with("/v1/outages/{id}") => {
            server.database.set(Temper::Away);
            until(&server, "an outage", |status| status.outage == Some(1)).await;
            server.database.set(Temper::Calm);
        }
        _ => {}
    }
    server
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_example_works_as_it_stands() {
    let page = Server::start().await.get("/docs").await.body;
    for route in ROUTES {
        let section = section(&page, route);
        let example =
            section.split("<pre tabindex=\"0\"><code>").nth(1).unwrap().split("</code>").next().unwrap();
        let server = world(route).await;
        let command = unescaped(example).replace(SHOWN, &format!("http://{}", server.address));
        assert!(command.starts_with("curl ") && command.contains(&server.address.to_string()), "{command}");
        let mut script = command.replacen("curl", "curl --fail-with-body --silent --show-error", 1);
        if route.answer == "text/event-stream" {
            // It does not end: its first line is enough.
            script = format!("head -n 1 < <({script} 2>/dev/null)");
        }
        let running = tokio::task::spawn_blocking(move || {
            Command::new("bash").args(["-c", &script]).stdin(Stdio::null()).output().unwrap()
        });
        let output = running.await.unwrap();
        let said =
            String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{command}\n{said}");
        if route.answer == "text/event-stream" {
            assert!(said.starts_with(": listening"), "{said}");
        }
    }
}

/// What a page leads to: everything in `href` and `src`.
fn links(page: &Reply) -> BTreeSet<String> {
    let mut links = BTreeSet::new();
    for attribute in [" href=\"", " src=\""] {
        links.extend(
            page.body.split(attribute).skip(1).map(|rest| rest.split('"').next().unwrap().to_owned()),
        );
    }
    links
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_pages_need_nothing_from_outside_and_lead_nowhere_that_is_not_there_even_under_a_prefix() {
    let server = Server::start().await;
    let prefix = Url::parse("http://outside.example/some/prefix/").unwrap();
    let mut pages = vec!["docs".to_owned()];
    pages.extend(KINDS.iter().map(|kind| format!("problems/{}", kind.name)));
    for path in pages {
        let page = server.get(&format!("/{path}")).await;
        assert_eq!((page.status, page.header("content-type")), (200, "text/html; charset=utf-8"), "{path}");
        let policy = page.header("content-security-policy");
        assert!(policy.starts_with("default-src 'none'") && !policy.contains("unsafe"), "{policy}");
        assert_eq!(page.header("x-content-type-options"), "nosniff");
        for inline in ["<style", " style=", "<script", " onclick="] {
            assert!(!page.body.contains(inline), "{path}: {inline}");
        }
        let here = prefix.join(&path).unwrap();
        for link in links(&page) {
            let target = here.join(&link).unwrap();
            let inside = target.as_str().strip_prefix(prefix.as_str());
            let inside = inside.unwrap_or_else(|| panic!("{path}: {link} leads out of the prefix"));
            if let Some(anchor) = target.fragment() {
                let anchor = format!(" id=\"{anchor}\"");
                assert_eq!(page.body.matches(&anchor).count(), 1, "{path}: {anchor}");
            } else {
                assert_eq!(server.get(&format!("/{inside}")).await.status, 200, "{path}: {link}");
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_type_of_every_problem_leads_to_a_page_that_says_when_it_is_answered_and_what_to_do() {
    let server = Server::start().await;
    let docs = server.get("/docs").await.body;
    for kind in KINDS {
        let problem = outlast_server::http::problem::Problem::new(*kind, "").body();
        let page = server.get(problem["type"].as_str().unwrap()).await;
        assert_eq!(page.status, 200, "{}", kind.name);
        let text = unescaped(&page.body);
        for said in [kind.title, kind.when, kind.advice, &kind.status.as_u16().to_string()] {
            assert!(
                !said.trim().is_empty() && text.contains(said),
                "{}: {said:?} is not on its page",
                kind.name
            );
        }
        assert!(docs.contains(&format!("href=\"problems/{}\"", kind.name)), "{}", kind.name);
    }
    server.get("/problems/none-such").await.problem(404, "not-found");
}
