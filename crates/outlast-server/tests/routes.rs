//! One table of routes: router, policies and `OpenAPI` document say the same.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that cannot go on fails")]

mod support;

use outlast_server::config::{Role, Token};
use outlast_server::http::{Policy, ROUTES, Route};
use sha2::{Digest, Sha256};
use support::{JSON, Server};

const METHODS: [&str; 7] = ["GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE"];

/// A path of the route that names nothing that exists.
fn path_of(route: &Route) -> String {
    route.path.replace("{collection}", "things").replace("{id}", "1-99").replace("{name}", "queue-full")
}

fn token(name: &str, role: Role) -> Token {
    Token { name: name.into(), role, sha256: Sha256::digest(format!("{name}-token")).into(), expires: None }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_openapi_document_lists_exactly_the_routes_that_answer() {
    let server = Server::start().await;
    let document = server.get("/openapi.json").await.json();
    let paths = document["paths"].as_object().unwrap();
    for (path, methods) in paths {
        let route = ROUTES.iter().find(|route| route.path == path).unwrap();
        for method in METHODS {
            if method == "GET" && path == "/v1/events" {
                continue; // It never ends; its own test reads it.
            }
            let reply = server.send(method, &path_of(route), &[JSON], "").await;
            let listed = methods.get(method.to_ascii_lowercase()).is_some();
            assert_eq!(reply.status == 405, !listed, "{method} {path}: {reply:?}");
            if reply.status == 405 {
                reply.problem(405, "method-not-allowed");
                let allowed: Vec<&str> = reply.header("allow").split(", ").collect();
                for listed in methods.as_object().unwrap().keys() {
                    assert!(allowed.contains(&listed.to_uppercase().as_str()), "{path}: {allowed:?}");
                }
            } else if reply.status == 404 {
                assert_ne!(reply.json()["type"], "/problems/unknown-route", "{method} {path}");
            }
        }
    }
    assert_eq!(
        paths.len(),
        ROUTES.iter().map(|route| route.path).collect::<std::collections::HashSet<_>>().len()
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_route_lets_pass_exactly_the_roles_of_its_policy() {
    let roles = [("reader", Role::Reader), ("writer", Role::Writer), ("operator", Role::Operator)];
    let server = Server::start_with(|config| {
        config.server.tokens = roles.iter().map(|(name, role)| token(name, *role)).collect();
    })
    .await;
    for route in ROUTES.iter().filter(|route| route.path != "/v1/events") {
        let (method, path) = (route.method.as_str(), path_of(route));
        let status = async |authorization: &str| {
            server.send(method, &path, &[JSON, ("authorization", authorization)], "").await.status
        };
        for (name, role) in roles {
            let status = status(&format!("Bearer {name}-token")).await;
            let may = match route.policy {
                Policy::Public => true,
                Policy::AtLeast(least) => role >= least,
            };
            assert_eq!(status != 403 && status != 401, may, "{name} {method} {path}: {status}");
        }
        let nobody = server.send(method, &path, &[JSON], "").await;
        let public = route.policy == Policy::Public;
        for reply in [nobody, server.send(method, &format!("{path}?token=reader-token"), &[JSON], "").await] {
            assert_eq!(reply.status == 401, !public, "{method} {path}: {reply:?}");
            if reply.status == 401 {
                reply.problem(401, "unauthenticated");
                assert!(reply.header("www-authenticate").starts_with("Bearer"));
            }
        }
        assert_eq!(status("Bearer wrong").await == 401, !public, "{method} {path}");
        assert_eq!(status("Basic reader-token").await == 401, !public, "{method} {path}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_token_may_not_be_guessed_around_by_writing_the_path_differently() {
    let server = Server::start_with(|config| config.server.tokens = vec![token("o", Role::Operator)]).await;
    for path in [
        "//v1/queue",
        "/v1//queue",
        "/./v1/queue",
        "/v1/queue/",
        "/V1/queue",
        "/v1/queue%2f",
        "/%76%31/queue",
        "/livez/../v1/queue",
        "/v1/records/users/..%2f..%2fqueue",
        "/v1/queue/%2e%2e",
        "/v1/queue;a=b",
    ] {
        for method in ["GET", "HEAD", "POST", "OPTIONS"] {
            let status = server.send(method, path, &[], "").await.status;
            assert!([401, 404, 405].contains(&status), "{method} {path}: {status}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn probes_tell_strangers_the_status_and_no_more() {
    let server = Server::start_with(|config| config.server.tokens = vec![token("r", Role::Reader)]).await;
    let stranger = server.get("/health").await;
    assert_eq!(stranger.status, 200);
    assert_eq!(stranger.header("content-type"), "application/health+json");
    assert_eq!(stranger.json()["status"], "pass");
    assert!(stranger.json().get("checks").is_none());
    let reader = server.send("GET", "/health", &[("authorization", "Bearer r-token")], "").await;
    assert_eq!(reader.json()["checks"]["database"][0]["status"], "pass");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn head_is_get_without_a_body() {
    let server = Server::start().await;
    for path in ["/livez", "/readyz", "/startedz", "/health", "/v1/queue", "/docs"] {
        let (head, get) = (server.send("HEAD", path, &[], "").await, server.get(path).await);
        assert_eq!((head.status, head.body.as_str()), (get.status, ""), "{path}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_dashboard_is_served_with_a_strict_policy_and_needs_nothing_from_outside() {
    let server = Server::start_with(|config| config.server.tokens = vec![token("r", Role::Reader)]).await;
    let page = server.get("/").await;
    assert_eq!((page.status, page.header("content-type")), (200, "text/html; charset=utf-8"));
    let mut files = vec![page.clone()];
    for name in page.body.split('"').filter(|part| part.starts_with("dashboard/")) {
        files.push(server.get(&format!("/{name}")).await);
    }
    let main = server.get("/dashboard/main.js").await.body;
    for name in main.split('\'').filter_map(|part| part.strip_prefix("./")) {
        files.push(server.get(&format!("/dashboard/{name}")).await);
    }
    assert!(files.len() > 9, "{}", files.len());
    for file in files {
        assert_eq!(file.status, 200);
        let policy = file.header("content-security-policy");
        assert!(policy.starts_with("default-src 'none'") && !policy.contains("unsafe"), "{policy}");
        assert_eq!(file.header("x-content-type-options"), "nosniff");
        let outside = file.body.replace("http://www.w3.org/2000/svg", "");
        assert!(!outside.contains("http://") && !outside.contains("https://"), "{file:?}");
        assert!(!file.body.contains("<style") && !file.body.contains(" style="), "{file:?}");
        // Under a prefix, a path from the root would lead out of it.
        assert!(!file.body.contains("href=\"/") && !file.body.contains("src=\"/"), "{file:?}");
    }
    server.get("/dashboard/none.js").await.problem(404, "not-found");
    server.get("/nope").await.problem(404, "unknown-route");
    server.get("/dashboard").await.problem(404, "unknown-route");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pages_of_other_origins_cannot_change_anything() {
    let server = Server::start().await;
    let pause = async |headers: &[(&str, &str)]| server.send("POST", "/v1/queue/pause", headers, "").await;
    pause(&[("origin", "http://evil.example")]).await.problem(403, "cross-origin");
    pause(&[("sec-fetch-site", "cross-site")]).await.problem(403, "cross-origin");
    assert_eq!(server.get("/v1/queue").await.json()["lane"]["state"], "running");
    let own = format!("http://{}", server.address);
    assert_eq!(pause(&[("origin", &own)]).await.status, 200);
    assert_eq!(server.get("/v1/queue").await.json()["lane"]["state"], "paused");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_tokens_a_page_that_gave_this_machine_a_name_of_its_own_reads_nothing() {
    let server = Server::start().await;
    for (method, path) in [("GET", "/v1/queue"), ("GET", "/metrics"), ("DELETE", "/v1/records/a/1")] {
        let request = format!(
            "{method} {path} HTTP/1.1\r\nhost: evil.example:6885\r\norigin: http://evil.example:6885\r\nconnection: close\r\n\r\n"
        );
        support::raw(server.address, request.as_bytes()).await.unwrap().problem(421, "foreign-host");
    }
    let ask = async |path: &str, host: &str| {
        let request = format!("GET {path} HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\n\r\n");
        support::raw(server.address, request.as_bytes()).await.unwrap()
    };
    assert_eq!(ask("/livez", "evil.example").await.status, 200);
    assert!(ask("/health", "localhost").await.json()["checks"].is_object());
    let health = ask("/health", "evil.example").await;
    assert_eq!(health.status, 200, "a probe under another name is answered: {health:?}");
    assert!(health.json().get("checks").is_none() && health.json().get("notes").is_none(), "{health:?}");
}
