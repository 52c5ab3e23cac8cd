//! Alerts reach a real listening socket: when something begins, while it lasts, when it is over; and a webhook that does
//! not answer holds up nobody.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that cannot go on fails")]

mod support;

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use outlast_testkit::eventually;
use outlast_testkit::process::Setup;
use serde_json::Value;
use support::{JSON, send};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

const BINARY: &str = env!("CARGO_BIN_EXE_outlast");
const SECRET: &str = "canary-in-the-path";

/// Somebody else's server: keeps what is posted to it.
struct Receiver {
    address: SocketAddr,
    taken: Arc<Mutex<Vec<Value>>>,
}

impl Receiver {
    /// Answers the first request with 503, all others with 204.
    async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let taken = Arc::new(Mutex::new(Vec::new()));
        let keeping = Arc::clone(&taken);
        tokio::spawn(async move {
            let mut answer = "503 Service Unavailable";
            while let Ok((mut stream, _)) = listener.accept().await {
                let text = request(&mut stream).await;
                let (head, body) = text.split_once("\r\n\r\n").unwrap();
                assert!(head.starts_with(&format!("POST /hook/{SECRET}?a=b HTTP/1.1\r\n")), "{head}");
                assert!(head.to_ascii_lowercase().contains("content-type: application/json"), "{head}");
                let _ = stream
                    .write_all(format!("HTTP/1.1 {answer}\r\ncontent-length: 0\r\n\r\n").as_bytes())
                    .await;
                if std::mem::replace(&mut answer, "204 No Content") == answer {
                    keeping.lock().unwrap().push(serde_json::from_str(body).unwrap());
                }
            }
        });
        Self { address, taken }
    }

    fn url(&self) -> String {
        format!("http://{}/hook/{SECRET}?a=b", self.address)
    }

    /// Those of a kind: their events, in order.
    fn events(&self, alert: &str) -> Vec<String> {
        let taken = self.taken.lock().unwrap();
        let of_kind = taken.iter().filter(|notice| notice["alert"] == alert);
        of_kind.map(|notice| notice["event"].as_str().unwrap().to_owned()).collect()
    }
}

/// A whole request with a length.
async fn request(stream: &mut TcpStream) -> String {
    let mut text = String::new();
    let mut buffer = [0; 4096];
    loop {
        let count = stream.read(&mut buffer).await.unwrap();
        text.push_str(std::str::from_utf8(&buffer[..count]).unwrap());
        if let Some((head, body)) = text.split_once("\r\n\r\n") {
            let length = head
                .lines()
                .find_map(|line| line.to_ascii_lowercase().strip_prefix("content-length: ")?.parse().ok());
            if body.len() >= length.unwrap_or(0) {
                return text;
            }
        }
        assert!(count > 0, "cut short: {text}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_outage_and_dead_letters_are_told_and_so_is_their_end() {
    let receiver = Receiver::start().await;
    // One that takes connections and says nothing.
    let mute = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mute_url = format!("http://{}/{SECRET}", mute.local_addr().unwrap());
    let directory = tempfile::tempdir().unwrap();
    let (database, away) = (directory.path().join("database.db"), directory.path().join("away.db"));
    let process = Setup::new(BINARY, directory.path(), &format!("sqlite://{}", database.display()))
        .with("alerts.webhooks", &format!("{mute_url},{}", receiver.url()))
        .with("alerts.repeat", "1s")
        .with("health.unavailable_timeout", "0s")
        .with("health.probe_max_interval", "1s")
        .with("log.level", "debug")
        .start();
    let address: SocketAddr = process.url().trim_start_matches("http://").parse().unwrap();
    let write = async |method: &str, headers: &[(&str, &str)]| {
        let reply = send(address, method, "/v1/records/things/a", &[&[JSON], headers].concat(), "{}").await;
        assert!((200..300).contains(&reply.status), "{reply:?}");
        reply
    };
    // In its first moment the database is still being opened.
    while write("PUT", &[]).await.header("write-status") != "applied" {}
    assert!(receiver.taken.lock().unwrap().is_empty(), "all is well");

    std::fs::rename(&database, &away).unwrap();
    write("PUT", &[]).await;
    eventually("the outage is told, and told again", || {
        receiver.events("outage").starts_with(&["fire".into(), "repeat".into(), "repeat".into()])
    })
    .await;
    // It exists already; nobody waits for it, so that it becomes a dead letter.
    write("POST", &[("prefer", "respond-async")]).await;
    std::fs::rename(&away, &database).unwrap();
    eventually("the end of the outage is told", || receiver.events("outage").contains(&"restored".into()))
        .await;
    eventually("the dead letter is told", || receiver.events("dead_letters").first() == Some(&"fire".into()))
        .await;
    let dead = send(address, "GET", "/v1/dead-letters", &[], "").await.json();
    let id = dead["letters"][0]["id"].as_str().unwrap().to_owned();
    assert_eq!(send(address, "POST", &format!("/v1/dead-letters/{id}/discard"), &[], "").await.status, 200);
    eventually("it is told that none is left", || {
        receiver.events("dead_letters").contains(&"restored".into())
    })
    .await;

    let taken = receiver.taken.lock().unwrap().clone();
    for alert in ["outage", "dead_letters"] {
        let events = receiver.events(alert);
        assert_eq!(
            events.iter().filter(|event| *event != "repeat").collect::<Vec<_>>(),
            ["fire", "restored"],
            "{taken:?}"
        );
        assert_eq!(events.last().unwrap(), "restored");
    }
    let fired = taken.iter().find(|notice| notice["alert"] == "outage").unwrap();
    assert_eq!(fired["severity"], "critical");
    assert!(fired["summary"].as_str().unwrap().contains("database.db is gone"), "{fired}");
    assert!(fired["text"].as_str().unwrap().contains("fire: critical: database: failed since"), "{fired}");
    assert_eq!(fired["listen"], address.to_string());
    let restored = taken.iter().find(|notice| notice["event"] == "restored").unwrap();
    assert_eq!(restored["since"], fired["since"]);

    // The alerts are about these components: under another name they would be silent.
    let status = send(address, "GET", "/v1/queue", &[], "").await.json();
    let names: Vec<&str> = status["components"]
        .as_array()
        .unwrap()
        .iter()
        .map(|component| component["name"].as_str().unwrap())
        .collect();
    assert_eq!(names, ["database", "queue", "log", "lane", "losses"]);

    let shown = process.cli(&["config", "show"]);
    assert!(shown.stdout.contains(&format!("http://{}/(hidden)", receiver.address)), "{}", shown.stdout);
    let everything = [shown.stdout, shown.stderr, process.errors()].concat();
    assert!(everything.contains("alert"), "{everything}");
    assert!(!everything.contains(SECRET), "{everything}");
}

#[test]
fn webhooks_that_are_wrong_are_refused_without_being_shown() {
    let directory = tempfile::tempdir().unwrap();
    let setup = Setup::new(BINARY, directory.path(), "sqlite://database.db");
    for wrong in
        [format!("hooks.example/{SECRET}"), format!("https://me:{SECRET}@host/"), format!("file:///{SECRET}")]
    {
        let ended = setup.clone().with("alerts.webhooks", &wrong).run(&["serve"]);
        assert_eq!(ended.code, Some(78), "{}", ended.stderr);
        assert!(
            ended.stderr.contains("OUTLAST_ALERTS__WEBHOOKS: alerts.webhooks: a webhook"),
            "{}",
            ended.stderr
        );
        assert!(!ended.stderr.contains(SECRET), "{}", ended.stderr);
    }
    let ended = setup.with("alerts.on", "outage,fire").run(&["serve"]);
    assert!(ended.code == Some(78) && ended.stderr.contains("\"fire\" is not an alert"), "{}", ended.stderr);
}
