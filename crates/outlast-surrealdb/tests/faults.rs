//! Connections that fail in every way: nothing is guessed, nothing is sent twice, and reads do not wait behind batches.

#![allow(clippy::unwrap_used, reason = "tests report by panicking")]

mod common;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use common::{Fixture, NAMESPACE, after, collection, create, items, statement};
use futures_util::{SinkExt, StreamExt};
use outlast::database::{ApplyError, Database, DatabaseError, LaneId, Position};
use outlast_surrealdb::{SurrealDb, SurrealOptions};
use outlast_testkit::eventually;
use outlast_testkit::proxy::{Faults, Mode, Proxy};
use outlast_testkit::surreal::{Storage, SurrealServer, free_port, url};
use serde_json::json;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::handshake::server::{Request, Response};

/// A database whose client goes through a proxy, and one that does not.
struct Proxied {
    db: Fixture,
    proxy: Proxy,
    client: Arc<SurrealDb>,
}

impl Proxied {
    async fn new(request_timeout: Duration) -> Self {
        let db = Fixture::new().await;
        let upstream: SocketAddr = db.server.authority().parse().unwrap();
        let proxy = Proxy::start(upstream).await.unwrap();
        let client = client(proxy.address(), &db.name, request_timeout);
        Self { db, proxy, client }
    }

    async fn take_over(&self) -> Position {
        self.client.probe().await.unwrap();
        let seen = self.client.position(&self.db.lane).await.unwrap();
        self.client.take_over(&self.db.lane, seen.as_ref(), "me").await.unwrap()
    }

    /// Applies one write in the background.
    fn begin(
        &self,
        position: &Position,
        write: outlast::Write,
    ) -> tokio::task::JoinHandle<Result<(), ApplyError>> {
        let (client, lane, position) = (Arc::clone(&self.client), self.db.lane.clone(), position.clone());
        tokio::spawn(async move {
            let batch = items(&position, vec![write]);
            client.apply(&lane, &position, after(&position, 1), &batch).await.map(|_| ())
        })
    }

    /// Waits until more bytes than `sent` have gone to the server.
    async fn until_sent(&self, sent: u64) {
        eventually("the request is at the server", || self.proxy.bytes_to_server() > sent).await;
    }
}

fn client(address: SocketAddr, name: &str, request_timeout: Duration) -> Arc<SurrealDb> {
    let connect_timeout = Duration::from_secs(3);
    let options = SurrealOptions { request_timeout, connect_timeout, ..SurrealOptions::default() };
    Arc::new(SurrealDb::from_url(&url(&address.to_string(), NAMESPACE, name), options).unwrap())
}

const LONG: Duration = Duration::from_secs(20);
const SHORT: Duration = Duration::from_secs(2);

#[tokio::test(flavor = "multi_thread")]
async fn a_commit_whose_answer_is_lost_is_unknown_and_the_position_tells() {
    let world = Proxied::new(LONG).await;
    let position = world.take_over().await;
    world.proxy.cut_before_answer(0);
    let batch = items(&position, vec![create("a", "1", "{}")]);
    let next = after(&position, 1);
    let applied = world.client.apply(&world.db.lane, &position, next, &batch).await;
    assert!(matches!(applied, Err(ApplyError::Unknown(_))), "{applied:?}");
    assert_eq!(Faults::count(&world.proxy.faults().answers_dropped), 1, "the fault has not happened");
    let found = world.client.position(&world.db.lane).await.unwrap().unwrap();
    assert_eq!(found.sequence.0, next, "it had committed");
    // Sending it again has no second effect.
    let again = world.client.apply(&world.db.lane, &position, next, &batch).await;
    assert_eq!(again, Err(ApplyError::Moved { actual: Some(found) }));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_that_arrives_after_a_take_over_has_no_effect() {
    let world = Proxied::new(LONG).await;
    let position = world.take_over().await;
    world.proxy.set(Mode::BlackHole).await;
    let late = world.begin(&position, create("a", "1", "{}"));
    eventually("the request is held", || Faults::count(&world.proxy.faults().swallowed) == 1).await;
    let taken = world.db.database.take_over(&world.db.lane, Some(&position), "other").await.unwrap();
    world.proxy.set(Mode::Pass).await;
    assert_eq!(late.await.unwrap(), Err(ApplyError::Moved { actual: Some(taken) }));
    assert_eq!(world.db.get("a", "1").await, None);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_batch_under_way_is_fenced_even_when_it_leaves_the_sequence() {
    let world = Proxied::new(LONG).await;
    let position = world.take_over().await;
    let batch = items(&position, vec![statement("{ CREATE a:⟨1⟩; sleep(1s) }", "{}")]);
    let (writer, queue_lane, expected) = (Arc::clone(&world.client), world.db.lane.clone(), position.clone());
    let sent = world.proxy.bytes_to_server();
    let late =
        tokio::spawn(async move { writer.apply(&queue_lane, &expected, expected.sequence.0, &batch).await });
    world.until_sent(sent).await;
    // Whichever commits first, not both.
    let taken = world.db.database.take_over(&world.db.lane, Some(&position), "other").await;
    let late = late.await.unwrap();
    assert!(taken.is_ok() != late.is_ok(), "{taken:?}, {late:?}");
    assert_eq!(world.db.get("a", "1").await.is_some(), late.is_ok());
}

#[tokio::test(flavor = "multi_thread")]
async fn no_answer_in_time_is_unknown_for_a_batch_and_unavailable_for_a_read() {
    let world = Proxied::new(SHORT).await;
    let position = world.take_over().await;
    world.client.get(&collection("a"), &"1".parse().unwrap()).await.unwrap();
    let connections = world.proxy.connections();
    world.proxy.set(Mode::HoldAnswers).await;
    let batch = items(&position, vec![create("a", "1", "{}")]);
    let applied = world.client.apply(&world.db.lane, &position, after(&position, 1), &batch).await;
    assert!(matches!(applied, Err(ApplyError::Unknown(_))), "{applied:?}");
    let read = world.client.get(&collection("a"), &"1".parse().unwrap()).await;
    assert!(matches!(read, Err(DatabaseError::Unavailable(_))), "{read:?}");
    assert_eq!(Faults::count(&world.proxy.faults().held), 2);
    world.proxy.set(Mode::Pass).await;
    // Late answers meet nobody: both connections were thrown away.
    let found = world.client.position(&world.db.lane).await.unwrap().unwrap();
    assert_eq!(found.sequence.0, after(&position, 1));
    assert!(world.client.get(&collection("a"), &"1".parse().unwrap()).await.unwrap().is_some());
    assert_eq!(world.proxy.connections(), connections + 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dropped_call_leaves_no_connection_behind() {
    let world = Proxied::new(LONG).await;
    let position = world.take_over().await;
    let connections = world.proxy.connections();
    world.proxy.set(Mode::HoldAnswers).await;
    let sent = world.proxy.bytes_to_server();
    let call = world.begin(&position, create("a", "1", "{}"));
    world.until_sent(sent).await;
    eventually("its answer is held", || Faults::count(&world.proxy.faults().held) == 1).await;
    call.abort();
    assert!(call.await.unwrap_err().is_cancelled());
    world.proxy.set(Mode::Pass).await;
    // Its answer must not be taken for that of the next call.
    let found = world.client.position(&world.db.lane).await.unwrap().unwrap();
    assert_eq!(found.sequence.0, after(&position, 1));
    assert_eq!(world.proxy.connections(), connections + 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_cannot_be_reached_is_certain_not_to_have_committed() {
    let world = Proxied::new(LONG).await;
    let position = world.take_over().await;
    let batch = items(&position, vec![create("a", "1", "{}")]);
    for mode in [Mode::Refuse, Mode::BlackHole] {
        world.client.close().await;
        world.proxy.set(mode).await;
        let applied = world.client.apply(&world.db.lane, &position, after(&position, 1), &batch).await;
        assert!(matches!(applied, Err(ApplyError::Unavailable(_))), "{mode:?}: {applied:?}");
        assert!(matches!(world.client.probe().await, Err(DatabaseError::Unavailable(_))), "{mode:?}");
    }
    world.proxy.set(Mode::Pass).await;
    world.client.probe().await.unwrap();
    world.client.apply(&world.db.lane, &position, after(&position, 1), &batch).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_that_was_cut_while_idle_is_not_used_for_a_batch() {
    let world = Proxied::new(LONG).await;
    let mut position = world.take_over().await;
    for round in 1..=20 {
        let cut = Faults::count(&world.proxy.faults().cut);
        world.proxy.cut();
        eventually("the connection is cut", || Faults::count(&world.proxy.faults().cut) > cut).await;
        let batch = items(&position, vec![create("a", &round.to_string(), "{}")]);
        let next = after(&position, 1);
        // The cut is counted a moment before the socket closes: an unlucky round may still be unknown, but it must
        // never be applied twice or be told wrongly.
        match world.client.apply(&world.db.lane, &position, next, &batch).await {
            Ok(_) => {}
            Err(ApplyError::Unknown(_)) => {
                let found = world.client.position(&world.db.lane).await.unwrap().unwrap();
                if found.sequence == position.sequence {
                    world.client.apply(&world.db.lane, &position, next, &batch).await.unwrap();
                }
            }
            Err(error) => panic!("{error:?}"),
        }
        position.sequence.0 = next;
    }
    assert_eq!(world.db.query("RETURN count(SELECT * FROM a)"), json!(20));
}

#[tokio::test(flavor = "multi_thread")]
async fn reads_do_not_wait_behind_a_slow_batch() {
    let world = Proxied::new(LONG).await;
    let position = world.take_over().await;
    let sent = world.proxy.bytes_to_server();
    let slow = world.begin(&position, statement("sleep(2s)", "{}"));
    world.until_sent(sent).await;
    world.client.get(&collection("a"), &"1".parse().unwrap()).await.unwrap();
    assert!(!slow.is_finished(), "the read waited for the batch");
    slow.await.unwrap().unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_server_is_reconnected_to_and_has_what_it_acknowledged() {
    let directory = tempfile::tempdir().unwrap();
    let mut server = SurrealServer::start(Storage::File(directory.path().join("data")));
    let database = SurrealDb::from_url(&server.url("n", "d"), SurrealOptions::default()).unwrap();
    let lane = LaneId::new("queue", 0);
    database.probe().await.unwrap();
    let mut position = database.take_over(&lane, None, "me").await.unwrap();
    for round in 0..3 {
        let next = after(&position, 10);
        let writes = (0..10).map(|n| create("a", &format!("{round}-{n}"), "{}")).collect();
        database.apply(&lane, &position, next, &items(&position, writes)).await.unwrap();
        server.kill();
        let away = database.apply(&lane, &position, next, &[]).await;
        assert!(matches!(away, Err(ApplyError::Unavailable(_))), "{away:?}");
        server.restart();
        let found = database.position(&lane).await.unwrap().unwrap();
        assert_eq!(found.sequence.0, next);
        position = database.take_over(&lane, Some(&found), "me").await.unwrap();
    }
    assert_eq!(server.query("n", "d", "RETURN count(SELECT * FROM a)"), json!(30));
}

/// A server that completes the handshake and then answers each frame with what it is told to.
async fn strange_server(answer: Message) -> SocketAddr {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let answer = answer.clone();
            tokio::spawn(async move {
                #[expect(clippy::result_large_err, reason = "the signature that the library asks for")]
                let agree = |_: &Request, mut response: Response| {
                    response.headers_mut().insert("Sec-WebSocket-Protocol", "cbor".parse().unwrap());
                    Ok(response)
                };
                let mut socket = tokio_tungstenite::accept_hdr_async(stream, agree).await.unwrap();
                while let Some(Ok(_)) = socket.next().await {
                    if socket.send(answer.clone()).await.is_err() {
                        return;
                    }
                }
            });
        }
    });
    address
}

#[tokio::test(flavor = "multi_thread")]
async fn answers_that_make_no_sense_are_an_outage_and_no_panic() {
    let deep = [vec![0x81; 100_000], vec![0]].concat();
    let answers = [
        Message::Binary(vec![0xff, 0x00].into()),
        Message::Binary(vec![].into()),
        Message::Binary(deep.into()),
        Message::Binary(vec![0xa0].into()),
        Message::Text("{\"id\":1,\"result\":null}".into()),
        // {"id": 99, "result": null}: an answer to nobody.
        Message::Binary(b"\xa2\x62id\x18\x63\x66result\xf6".to_vec().into()),
        Message::Close(None),
    ];
    for answer in answers {
        let shown = format!("{answer:?}").chars().take(60).collect::<String>();
        let database = client(strange_server(answer).await, "d", SHORT);
        let probed = database.probe().await;
        assert!(matches!(probed, Err(DatabaseError::Unavailable(_))), "{shown}: {probed:?}");
    }
    let nobody = client(format!("127.0.0.1:{}", free_port()).parse().unwrap(), "d", SHORT);
    assert!(matches!(nobody.probe().await, Err(DatabaseError::Unavailable(_))));
}
