//! Secrets are planted in the fields of writes that a database refuses in words which quote whole records. With those
//! fields in `privacy.redact` they are found nowhere that people look, also when they came in before they were listed;
//! and whoever may see them can.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::{Arc, Mutex};

use outlast_testkit::process::{OutlastProcess, Setup};
use outlast_testkit::{eventually, found};
use serde_json::Value;
use sha2::{Digest, Sha256};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use crate::BINARY;
use crate::support::{JSON, Reply, send};

const FIELDS: &str = "password, customers.email, *.card.number, pin";
/// In fields that are listed. All of them begin alike.
const CANARY: &str = "canary";
/// In a field that is not.
const NOTE: &str = "everybody-may-read-this";

fn document(name: &str, refused: bool) -> String {
    serde_json::json!({
        "email": format!("canary-mail-{name}@example.com"),
        "password": format!("canary \"quoted\" '{name}' 4711"),
        "card": [{ "number": format!("canary-card-{name}") }],
        "deep": [[{ "PIN": format!("canary-pin-{name}") }]],
        "note": NOTE,
        "refused": refused,
    })
    .to_string()
}

/// A table that quotes the whole record when it refuses one.
fn nasty_table(path: &Path) {
    let connection = rusqlite::Connection::open(path).unwrap();
    connection
        .execute_batch(
            "CREATE TABLE customers (id TEXT PRIMARY KEY, data TEXT NOT NULL) STRICT;
             CREATE TRIGGER refuse BEFORE INSERT ON customers
             WHEN json_extract(NEW.data, '$.refused') BEGIN
                 SELECT RAISE(ABORT, 'not this customer: ' || NEW.data);
             END;",
        )
        .unwrap();
}

/// A server that takes whatever is posted to it.
async fn receiver() -> (String, Arc<Mutex<String>>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/hook", listener.local_addr().unwrap());
    let caught = Arc::new(Mutex::new(String::new()));
    let keeping = Arc::clone(&caught);
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let (mut text, mut buffer) = (String::new(), vec![0; 1 << 16]);
            let whole = |text: &str| {
                let (head, body) = text.split_once("\r\n\r\n")?;
                let mut lines = head.lines().map(str::to_ascii_lowercase);
                let length = lines.find_map(|line| line.strip_prefix("content-length: ")?.parse().ok());
                (body.len() >= length.unwrap_or(0)).then_some(())
            };
            while whole(&text).is_none() {
                let Ok(count @ 1..) = stream.read(&mut buffer).await else { break };
                text.push_str(&String::from_utf8_lossy(&buffer[..count]));
            }
            keeping.lock().unwrap().push_str(&text);
            let _ = stream.write_all(b"HTTP/1.1 204 No Content\r\nconnection: close\r\n\r\n").await;
        }
    });
    (url, caught)
}

/// Everything that comes on the stream of events.
async fn listen(to: SocketAddr) -> Arc<Mutex<String>> {
    let mut stream = TcpStream::connect(to).await.unwrap();
    let head = format!("GET /v1/events HTTP/1.1\r\nhost: {to}\r\nauthorization: Bearer reader\r\n\r\n");
    stream.write_all(head.as_bytes()).await.unwrap();
    let caught = Arc::new(Mutex::new(String::new()));
    let keeping = Arc::clone(&caught);
    tokio::spawn(async move {
        let mut buffer = vec![0; 1 << 16];
        while let Ok(count @ 1..) = stream.read(&mut buffer).await {
            keeping.lock().unwrap().push_str(&String::from_utf8_lossy(&buffer[..count]));
        }
    });
    caught
}

struct World {
    process: OutlastProcess,
    address: SocketAddr,
}

impl World {
    async fn ask(&self, who: &str, method: &str, path: &str, body: &str) -> Reply {
        let bearer = format!("Bearer {who}");
        let mut headers = vec![("authorization", bearer.as_str()), ("prefer", "respond-async")];
        if !body.is_empty() {
            headers.push(JSON);
        }
        send(self.address, method, path, &headers, body).await
    }

    async fn get(&self, path: &str) -> Reply {
        self.ask("operator", "GET", path, "").await
    }

    async fn dead(&self) -> u64 {
        self.get("/v1/dead-letters").await.json()["total"].as_u64().unwrap()
    }

    /// Puts a customer who is refused nothing until that is applied at once.
    async fn applies(&self) {
        let headers = [JSON, ("authorization", "Bearer operator")];
        found("a write that is applied at once", async || {
            let path = "/v1/records/customers/warm";
            let reply = send(self.address, "PUT", path, &headers, &document("warm", false)).await;
            (reply.header("write-status") == "applied").then_some(())
        })
        .await;
    }

    /// Puts a customer, and leaves.
    async fn put(&self, name: &str, refused: bool) -> String {
        let path = format!("/v1/records/customers/{name}");
        let reply = self.ask("operator", "PUT", &path, &document(name, refused)).await;
        assert_eq!(reply.status, 202, "{reply:?}");
        reply.json()["id"].as_str().unwrap().to_owned()
    }
}

fn hash(token: &str) -> String {
    Sha256::digest(token).iter().fold(String::new(), |text, byte| text + &format!("{byte:02x}"))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn values_of_hidden_fields_are_found_nowhere() {
    let directory = tempfile::tempdir().unwrap();
    let database = directory.path().join("database.db");
    nasty_table(&database);
    let (hook, told) = receiver().await;
    let tokens = format!("op:operator:{},r:reader:{}", hash("operator"), hash("reader"));
    let setup = Setup::new(BINARY, directory.path(), &format!("sqlite://{}", database.display()))
        .with("server.tokens", &tokens)
        .with("alerts.webhooks", &hook)
        .with("delivery.storm_threshold", "3")
        .with("delivery.batch_max", "1")
        .with("log.level", "debug");
    let process = setup.clone().start();
    let address = process.url().trim_start_matches("http://").parse().unwrap();
    let mut world = World { process, address };

    // One dies before anything is hidden.
    world.put("eve", true).await;
    found("a dead letter", async || (world.dead().await == 1).then_some(())).await;
    assert!(world.get("/v1/dead-letters").await.body.contains(CANARY), "nothing is hidden yet");
    assert!(world.process.terminate().success());
    told.lock().unwrap().clear();
    world.process = setup.with("privacy.redact", FIELDS).start();
    world.applies().await;

    let events = listen(address).await;
    let mut said = Vec::new();
    // Somebody waits for this one, and is told.
    let headers = [JSON, ("authorization", "Bearer operator"), ("prefer", "wait=30")];
    let reply = send(address, "PUT", "/v1/records/customers/gus", &headers, &document("gus", true)).await;
    let detail = reply.problem(422, "refused-constraint");
    assert!(
        detail.starts_with("the database refused the write: not this [redacted]: {\"card\":"),
        "{detail}"
    );
    said.push(format!("{reply:?}"));
    // One waits in the queue.
    assert_eq!(world.ask("operator", "POST", "/v1/queue/pause", "").await.status, 200);
    let waiting = world.put("fay", false).await;
    let listed = world.get("/v1/queue/writes").await;
    assert!(listed.body.contains(NOTE) && listed.body.contains("[redacted]"), "{listed:?}");
    assert_eq!(listed.json()["writes"][0]["redacted"], true);
    let one = format!("/v1/queue/writes/{waiting}");
    for command in [vec!["queue", "list", "--json"], vec!["queue", "show", &waiting], vec!["queue", "export"]]
    {
        said.push(run(&world, &command));
    }
    said.extend([format!("{listed:?}"), world.get(&one).await.body]);
    // Two die, and the third is one too many.
    let last = world.put("ann", true).await;
    for name in ["bob", "cay", "dan"] {
        world.put(name, true).await;
    }
    assert_eq!(world.ask("operator", "POST", "/v1/queue/resume", "").await.status, 200);
    found("a storm", async || {
        (world.get("/v1/queue").await.json()["lane"]["state"] == "storm").then_some(())
    })
    .await;
    eventually("both alerts", || {
        let told = told.lock().unwrap();
        told.contains("\"dead_letters\"") && told.contains("\"delivery\"")
    })
    .await;
    eventually("the events", || events.lock().unwrap().contains("storm")).await;

    // Everything that can be asked.
    let letters = world.get("/v1/dead-letters").await;
    assert_eq!(letters.json()["total"], 3, "{letters:?}");
    let ids: Vec<String> = ["letters", "groups"]
        .iter()
        .flat_map(|list| letters.json()[*list].as_array().unwrap().clone())
        .filter_map(|letter| letter["id"].as_str().map(str::to_owned))
        .collect();
    for who in ["operator", "reader"] {
        for path in [
            "/v1/queue",
            "/v1/queue/writes",
            "/v1/dead-letters",
            "/v1/dead-letters/export",
            "/v1/outages",
            "/v1/history",
            "/v1/me",
            "/v1/configuration",
            "/v1/audit",
            "/health",
            "/readyz",
            "/metrics",
        ] {
            said.push(format!("{path}: {:?}", world.ask(who, "GET", path, "").await));
        }
        for id in &ids {
            for path in [format!("/v1/dead-letters/{id}"), format!("/v1/writes/{id}")] {
                said.push(format!("{path}: {:?}", world.ask(who, "GET", &path, "").await));
            }
        }
    }
    for command in [
        vec!["status"],
        vec!["status", "--json"],
        vec!["queue", "list"],
        vec!["queue", "export"],
        vec!["dead", "list"],
        vec!["dead", "list", "--json"],
        vec!["dead", "groups"],
        vec!["dead", "export"],
        vec!["dead", "show", &last],
        vec!["outage", "list"],
        vec!["check"],
    ] {
        said.push(run(&world, &command));
    }
    assert!(world.process.errors().contains("dead letter"), "{}", world.process.errors());
    said.push(world.process.errors());
    said.push(events.lock().unwrap().clone());
    said.push(told.lock().unwrap().clone());
    said.push(std::fs::read_to_string(directory.path().join("queue/audit.jsonl")).unwrap());

    // What is not shown cannot be searched for: only what is shown can.
    let groups = letters.json()["groups"].as_array().unwrap().clone();
    assert_eq!(groups.len(), 1, "{groups:?}");
    let matching = async |message: &str| {
        let query =
            url::form_urlencoded::Serializer::new(String::new()).append_pair("message", message).finish();
        world.get(&format!("/v1/dead-letters?{query}")).await.json()["total"].as_u64().unwrap()
    };
    assert_eq!(matching(groups[0]["reason"]["message"].as_str().unwrap()).await, 3);
    let raw = format!("not this customer: {}", document("ann", true));
    assert_eq!(matching(&raw).await, 0);

    // An operator may look, which is noted; a reader may not.
    let path = format!("/v1/dead-letters/{last}?redact=false");
    assert_eq!(
        world.ask("reader", "GET", &path, "").await.problem(403, "forbidden").matches(CANARY).count(),
        0
    );
    let shown = world.get(&path).await;
    assert_eq!(shown.json()["operations"][0]["data"]["card"][0]["number"], "canary-card-ann", "{shown:?}");
    assert_eq!(shown.json()["redacted"], Value::Null);
    let audit = world.get("/v1/audit").await;
    let entries = audit.json()["entries"].as_array().unwrap().clone();
    let looks = entries.iter().filter(|entry| entry["action"] == format!("GET {path}"));
    let looks: Vec<_> = looks.map(|entry| (entry["who"].clone(), entry["status"].clone())).collect();
    assert_eq!(looks, [("op".into(), 200.into()), ("r".into(), 403.into())], "{entries:?}");
    said.push(audit.body);
    // What is read is data, and is as it was written.
    let record = world.get("/v1/records/customers/fay").await;
    assert_eq!(record.json()["email"], "canary-mail-fay@example.com", "{record:?}");

    // The files without a server: to look at, and to take elsewhere.
    assert!(world.process.terminate().success());
    said.push(run(&world, &["log", "list", "--all", "--json"]));
    said.push(run(&world, &["log", "list", "--dead"]));
    said.push(run(&world, &["log", "show", &last]));
    said.push(run(&world, &["log", "stat"]));
    said.push(world.process.errors());
    assert!(run(&world, &["log", "export"]).contains("canary-card-ann"), "an export can be imported");
    assert!(run(&world, &["log", "show", &last, "--unredacted"]).contains("canary-card-ann"));

    for text in &said {
        let at = found_in(text);
        assert!(at.is_none(), "{}", at.unwrap());
    }
    assert!(said.iter().any(|text| text.contains(NOTE)), "other fields are shown");
}

/// The surroundings of what should not be there.
fn found_in(text: &str) -> Option<String> {
    let at = text.find(CANARY)?;
    let around = |from: usize, to: usize| String::from_utf8_lossy(&text.as_bytes()[from..to]).into_owned();
    Some(around(at.saturating_sub(200), (at + 80).min(text.len())))
}

fn run(world: &World, command: &[&str]) -> String {
    let ended =
        world.process.cli(&[&["--token", "operator", "--url", &world.process.url()], command].concat());
    let said = format!("{command:?}: {}{}", ended.stdout, ended.stderr);
    assert!(ended.stdout.len() > 10, "{said}");
    said
}
