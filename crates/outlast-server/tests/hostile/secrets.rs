//! Secrets are planted in every place that takes one, the server is made to talk as much as it can, and none of them is
//! found in anything that it said.

use std::net::SocketAddr;

use outlast_server::http::ROUTES;
use outlast_testkit::process::Setup;
use sha2::{Digest, Sha256};

use crate::BINARY;
use crate::support::{JSON, send};

const TOKEN: &str = "canary-token-5d1f";
const STRANGER: &str = "canary-stranger-77aa";
const PASSWORD: &str = "canary-password-9c3e";
const HOOK: &str = "canary-webhook-41b7";
const HEADER: &str = "canary-header-3b1c";
/// Of the log: 32 bytes.
const KEY: &str = "c0ffee5ca1ab1ec0ffee5ca1ab1ec0ffee5ca1ab1ec0ffee5ca1ab1ec0ffee00";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn planted_secrets_are_found_nowhere() {
    let digest = Sha256::digest(TOKEN);
    let hash = digest.iter().fold(String::new(), |text, byte| text + &format!("{byte:02x}"));
    // The password in the URL and beside it; nobody listens there, so that there are errors to report.
    let urls = [
        format!("postgres://outlast:{PASSWORD}@127.0.0.1:9/shop"),
        "postgres://outlast@127.0.0.1:9/shop".to_owned(),
        format!("surrealdb://root:{PASSWORD}@127.0.0.1:9/shop/main"),
    ];
    let hearing = urls.map(|url| tokio::spawn(everything_said(url, hash.clone())));
    for hearing in hearing {
        let said = hearing.await.unwrap();
        assert!(said.len() > 100);
        assert!(said.iter().any(|reply| reply.contains("status: 202")), "something was written");
        for text in &said {
            for secret in [TOKEN, STRANGER, PASSWORD, HOOK, HEADER, KEY, &hash] {
                assert!(!text.contains(secret), "{secret} in {text}");
            }
        }
    }
}

/// Every answer, output, log line and file of a server whose database cannot be reached.
async fn everything_said(url: String, hash: String) -> Vec<String> {
    let directory = tempfile::tempdir().unwrap();
    let mut setup = Setup::new(BINARY, directory.path(), &url)
        .with("server.tokens", &format!("me:operator:{hash}"))
        .with("alerts.webhooks", &format!("http://127.0.0.1:9/{HOOK}?key={HOOK}"))
        .with("alerts.repeat", "1s")
        .with("traces.endpoint", "http://127.0.0.1:9/v1/traces")
        .with("traces.headers", &format!("authorization={HEADER}"))
        .with("queue.encrypt", "true")
        .with("queue.encryption_key", KEY)
        .with("health.unavailable_timeout", "0s")
        .with("health.read_wait", "10ms")
        .with("log.level", "debug");
    if !url.contains(PASSWORD) {
        setup = setup.with("database.password", PASSWORD);
    }
    let process = setup.start();
    let address: SocketAddr = process.url().trim_start_matches("http://").parse().unwrap();
    // All at once: some wait for a database that does not come.
    let mut asking = tokio::task::JoinSet::new();
    for bearer in [TOKEN, STRANGER] {
        for route in ROUTES.iter().filter(|route| route.path != "/v1/events") {
            // Draining waits for half a minute unless it is told otherwise.
            let short = if route.path.ends_with("/drain") { "{\"for\":\"1s\"}" } else { "" };
            for body in [short, "{\"a\":1}", "{"] {
                asking.spawn(async move {
                    let path = route.path.replace("{collection}", "things").replace("{id}", "1-1");
                    let path = path.replace("{name}", "queue-full");
                    let authorization = format!("Bearer {bearer}");
                    let headers =
                        [JSON, ("authorization", authorization.as_str()), ("prefer", "respond-async")];
                    let reply = send(address, route.method.as_str(), &path, &headers, body).await;
                    format!("{} {path}: {reply:?}", route.method)
                });
            }
        }
    }
    let mut said = asking.join_all().await;
    // An attempt at the webhook has failed and was said, without the URL.
    outlast_testkit::eventually("the webhook was tried", || {
        process.errors().contains("an alert was not taken")
    })
    .await;
    for command in [
        &["config", "show"] as &[&str],
        &["config", "show", "--json"],
        &["config", "init"],
        &["status"],
        &["status", "--json"],
        &["queue", "list"],
        &["dead", "list"],
        &["serve"],
        &["log", "verify"],
    ] {
        let ended = process.cli(command);
        said.push(format!("{command:?}: {}{}", ended.stdout, ended.stderr));
    }
    said.push(process.errors());
    for file in walk(directory.path()) {
        said.push(format!("{}: {}", file.display(), String::from_utf8_lossy(&std::fs::read(&file).unwrap())));
    }
    said
}

/// A password that is not encoded may end what is read as the host, and stand in what is read as the path.
#[test]
fn a_password_that_breaks_its_url_is_not_shown_either() {
    let directory = tempfile::tempdir().unwrap();
    for before in ["/", "?", "#", "12/", "@", "%", ":/"] {
        for scheme in ["postgres", "surrealdb", "surrealdbs"] {
            let url = format!("{scheme}://outlast:{before}{PASSWORD}@127.0.0.1:9/shop/main");
            let setup = Setup::new(BINARY, directory.path(), &url);
            for command in
                [&["config", "show"] as &[&str], &["config", "explain", "database.url"], &["config", "check"]]
            {
                let ended = setup.run(command);
                let said = format!("{}{}", ended.stdout, ended.stderr);
                assert!(said.len() > 10 && !said.contains(PASSWORD), "{url}, {command:?}: {said}");
            }
        }
        // What a server says before it refuses.
        let url = format!("postgres://outlast:{before}{PASSWORD}@127.0.0.1:9/shop?no_such_option=1");
        let ended = Setup::new(BINARY, directory.path(), &url).run(&["serve"]);
        let said = format!("{}{}", ended.stdout, ended.stderr);
        assert!(ended.code != Some(0) && !said.contains(PASSWORD), "{url}: {said}");
    }
}

/// Every file below a directory.
fn walk(directory: &std::path::Path) -> Vec<std::path::PathBuf> {
    let entries = std::fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path());
    entries.flat_map(|path| if path.is_dir() { walk(&path) } else { vec![path] }).collect()
}
