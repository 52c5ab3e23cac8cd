//! Connections that fail in every way: nothing is guessed, nothing is sent twice, and reads do not wait behind batches.

#![allow(clippy::unwrap_used, clippy::panic, reason = "tests report by panicking")]

mod common;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use common::{Fixture, after, collection, create, items, put, statement};
use outlast::Write;
use outlast::database::{ApplyError, Database, DatabaseError, LaneId, Position, TakeOverError};
use outlast_postgres::{Postgres, PostgresOptions};
use outlast_testkit::eventually;
use outlast_testkit::postgres::{PostgresServer, url};
use outlast_testkit::proxy::{Faults, Mode, Proxy};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

/// A database whose client goes through a proxy, and one that does not.
struct Proxied {
    db: Fixture,
    proxy: Proxy,
    client: Arc<Postgres>,
}

impl Proxied {
    async fn new(request_timeout: Duration) -> Self {
        let db = Fixture::new().await;
        let upstream: SocketAddr = db.server.authority().parse().unwrap();
        let proxy = Proxy::start(upstream).await.unwrap();
        let client = client(&url(&proxy.address().to_string(), &db.name), request_timeout);
        Self { db, proxy, client }
    }

    async fn take_over(&self) -> Position {
        self.client.probe().await.unwrap();
        let seen = self.client.position(&self.db.lane).await.unwrap();
        self.client.take_over(&self.db.lane, seen.as_ref(), "me").await.unwrap()
    }

    /// Applies one write in the background.
    fn begin(&self, position: &Position, write: Write) -> tokio::task::JoinHandle<Result<(), ApplyError>> {
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

    /// Waits until a session of this database runs a statement with these words.
    async fn until_running(&self, words: &str) {
        let query = format!(
            "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND state = 'active' \
             AND query LIKE '%{words}%' AND pid <> pg_backend_pid()"
        );
        eventually("the statement runs", || self.db.query(&query) == "1").await;
    }
}

fn client(url: &str, request_timeout: Duration) -> Arc<Postgres> {
    let connect_timeout = Duration::from_secs(3);
    let options = PostgresOptions { request_timeout, connect_timeout, ..PostgresOptions::default() };
    Arc::new(Postgres::from_url(url, options).unwrap())
}

const LONG: Duration = Duration::from_secs(20);
const SHORT: Duration = Duration::from_secs(2);

#[tokio::test(flavor = "multi_thread")]
async fn a_commit_whose_answer_is_lost_is_unknown_and_the_position_tells() {
    let world = Proxied::new(LONG).await;
    let position = world.take_over().await;
    // The table is there, so that the batch is one flight.
    world.db.query("CREATE TABLE a (id text PRIMARY KEY, data jsonb)");
    world.client.get(&collection("a"), &"1".parse().unwrap()).await.unwrap();
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
async fn a_healthy_batch_is_one_round_trip() {
    let world = Proxied::new(LONG).await;
    let mut position = world.take_over().await;
    let mut apply = async |writes: Vec<Write>| {
        let (batch, next) = (items(&position, writes), after(&position, 1));
        world.client.apply(&world.db.lane, &position, next, &batch).await.unwrap();
        position.sequence.0 = next;
    };
    apply(vec![create("a", "1", "{}")]).await;
    // Everything of a batch leaves in one piece, and nothing is sent after its answer: only then does holding back
    // the answers let it reach its end on the server.
    world.proxy.set(Mode::HoldAnswers).await;
    let sent = world.proxy.bytes_to_server();
    let batch = apply(vec![create("a", "2", "{}"), put("a", "1", r#"{"n":1}"#), statement("SELECT 1", "{}")]);
    tokio::pin!(batch);
    let committed = async {
        world.until_sent(sent).await;
        eventually("the batch is committed", || world.db.query("SELECT count(*) FROM a") == "2").await;
    };
    tokio::select! {
        () = &mut batch => panic!("an answer came through"),
        () = committed => {}
    }
    world.proxy.set(Mode::Pass).await;
    batch.await;
    assert!(Faults::count(&world.proxy.faults().held) > 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_that_arrives_after_a_take_over_has_no_effect() {
    let world = Proxied::new(LONG).await;
    let position = world.take_over().await;
    world.db.query("CREATE TABLE a (id text PRIMARY KEY, data jsonb)");
    world.client.get(&collection("a"), &"1".parse().unwrap()).await.unwrap();
    world.proxy.set(Mode::BlackHole).await;
    let late = world.begin(&position, create("a", "1", "{}"));
    eventually("the request is held", || Faults::count(&world.proxy.faults().swallowed) == 1).await;
    let taken = world.db.database.take_over(&world.db.lane, Some(&position), "other").await.unwrap();
    world.proxy.set(Mode::Pass).await;
    assert_eq!(late.await.unwrap(), Err(ApplyError::Moved { actual: Some(taken) }));
    assert_eq!(world.db.get("a", "1").await, None);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_take_over_waits_for_a_batch_under_way_and_is_told_what_it_did() {
    let world = Proxied::new(LONG).await;
    let position = world.take_over().await;
    let late = world.begin(&position, statement("SELECT pg_sleep(1)", "{}"));
    world.until_running("pg_sleep").await;
    // The batch holds the row: the take-over comes after its commit, and finds another position than it has seen.
    let taken = world.db.database.take_over(&world.db.lane, Some(&position), "other").await;
    late.await.unwrap().unwrap();
    let Err(TakeOverError::Moved { actual: Some(actual) }) = taken else { panic!("{taken:?}") };
    assert_eq!(actual.sequence.0, after(&position, 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn no_answer_in_time_is_unknown_for_a_batch_and_unavailable_for_a_read() {
    let world = Proxied::new(SHORT).await;
    let position = world.take_over().await;
    world.db.query("CREATE TABLE a (id text PRIMARY KEY, data jsonb)");
    world.client.get(&collection("a"), &"1".parse().unwrap()).await.unwrap();
    let connections = world.proxy.connections();
    world.proxy.set(Mode::HoldAnswers).await;
    let batch = items(&position, vec![create("a", "1", "{}")]);
    let applied = world.client.apply(&world.db.lane, &position, after(&position, 1), &batch).await;
    assert!(matches!(applied, Err(ApplyError::Unknown(_))), "{applied:?}");
    let read = world.client.get(&collection("a"), &"1".parse().unwrap()).await;
    assert!(matches!(read, Err(DatabaseError::Unavailable(_))), "{read:?}");
    assert!(Faults::count(&world.proxy.faults().held) > 0, "the fault has not happened");
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
    world.db.query("CREATE TABLE a (id text PRIMARY KEY, data jsonb)");
    world.client.get(&collection("a"), &"1".parse().unwrap()).await.unwrap();
    let connections = world.proxy.connections();
    world.proxy.set(Mode::HoldAnswers).await;
    let call = world.begin(&position, create("a", "1", "{}"));
    eventually("its answer is held", || Faults::count(&world.proxy.faults().held) == 1).await;
    call.abort();
    assert!(call.await.unwrap_err().is_cancelled());
    // Its answer must not be taken for that of the next call, which is sent before it comes.
    let sent = world.proxy.bytes_to_server();
    let next = tokio::spawn({
        let (client, lane) = (world.client.clone(), world.db.lane.clone());
        async move { client.position(&lane).await }
    });
    eventually("the next call is sent", || world.proxy.bytes_to_server() > sent).await;
    world.proxy.set(Mode::Pass).await;
    let found = next.await.unwrap().unwrap().unwrap();
    assert_eq!(found.sequence.0, after(&position, 1));
    assert_eq!(world.proxy.connections(), connections + 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_dropped_in_the_middle_of_its_request_commits_nothing() {
    let world = Proxied::new(LONG).await;
    let position = world.take_over().await;
    world.db.query("CREATE TABLE a (id text PRIMARY KEY, data jsonb)");
    world.client.get(&collection("a"), &"1".parse().unwrap()).await.unwrap();
    // More than the buffers between us and the proxy hold, so that its end has not left.
    let large = format!(r#"{{"text":"{}"}}"#, "x".repeat(30 << 20));
    world.proxy.set(Mode::BlackHole).await;
    let call = world.begin(&position, create("a", "1", &large));
    eventually("the request has begun", || Faults::count(&world.proxy.faults().swallowed) > 0).await;
    call.abort();
    assert!(call.await.unwrap_err().is_cancelled());
    world.proxy.set(Mode::Pass).await;
    let taken = world.db.take_over().await;
    assert_eq!(taken.sequence, position.sequence);
    assert_eq!(world.db.get("a", "1").await, None);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_whose_end_cannot_leave_is_certain_not_to_have_committed() {
    let world = Proxied::new(SHORT).await;
    let position = world.take_over().await;
    world.db.query("CREATE TABLE a (id text PRIMARY KEY, data jsonb)");
    world.client.get(&collection("a"), &"1".parse().unwrap()).await.unwrap();
    world.proxy.set(Mode::BlackHole).await;
    let large = format!(r#"{{"text":"{}"}}"#, "x".repeat(30 << 20));
    let applied = world.begin(&position, create("a", "1", &large)).await.unwrap();
    assert!(matches!(applied, Err(ApplyError::Unavailable(_))), "{applied:?}");
    assert!(Faults::count(&world.proxy.faults().swallowed) > 0, "the fault has not happened");
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
async fn a_connection_that_was_ended_while_idle_is_not_used_for_a_batch() {
    let world = Proxied::new(LONG).await;
    let mut position = world.take_over().await;
    for round in 1..=20 {
        // By the server, with a farewell; or by the network, without.
        if round % 2 == 0 {
            let cut = Faults::count(&world.proxy.faults().cut);
            world.proxy.cut();
            eventually("the connection is cut", || Faults::count(&world.proxy.faults().cut) > cut).await;
        } else {
            world.db.query(
                "SELECT pg_terminate_backend(pid, 10000) FROM pg_stat_activity \
                 WHERE datname = current_database() AND pid <> pg_backend_pid()",
            );
        }
        let batch = items(&position, vec![create("a", &round.to_string(), "{}")]);
        let next = after(&position, 1);
        // An end may be on its way in the moment when we look: an unlucky round may still be unknown, but it must
        // never be applied twice or be told wrongly.
        match world.client.apply(&world.db.lane, &position, next, &batch).await {
            Ok(_) => {}
            Err(ApplyError::Unknown(_) | ApplyError::Unavailable(_)) => {
                let found = world.client.position(&world.db.lane).await.unwrap().unwrap();
                if found.sequence == position.sequence {
                    world.client.apply(&world.db.lane, &position, next, &batch).await.unwrap();
                }
            }
            Err(error) => panic!("{error:?}"),
        }
        position.sequence.0 = next;
    }
    assert_eq!(world.db.query("SELECT count(*) FROM a"), "20");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_ended_in_the_middle_of_a_batch_is_unknown_and_nothing_of_it_stays() {
    let world = Proxied::new(LONG).await;
    let position = world.take_over().await;
    let batch = vec![create("a", "1", "{}"), statement("SELECT pg_sleep(10)", "{}")];
    let batch = items(&position, batch);
    let next = after(&position, 2);
    let apply = world.client.apply(&world.db.lane, &position, next, &batch);
    let end = async {
        world.until_running("pg_sleep").await;
        world.db.query("SELECT pg_terminate_backend(pid, 10000) FROM pg_stat_activity WHERE query LIKE '%pg_sleep%' AND pid <> pg_backend_pid() AND datname = current_database()");
    };
    let (applied, ()) = tokio::join!(apply, end);
    let Err(ApplyError::Unknown(reason)) = applied else { panic!("{applied:?}") };
    assert!(reason.contains("terminating connection"), "{reason}");
    assert_eq!(world.client.position(&world.db.lane).await.unwrap(), Some(position));
    assert_eq!(world.db.get("a", "1").await, None);
}

#[tokio::test(flavor = "multi_thread")]
async fn reads_do_not_wait_behind_a_slow_batch() {
    let world = Proxied::new(LONG).await;
    let position = world.take_over().await;
    let slow = world.begin(&position, statement("SELECT pg_sleep(2)", "{}"));
    world.until_running("pg_sleep").await;
    world.client.get(&collection("a"), &"1".parse().unwrap()).await.unwrap();
    assert!(!slow.is_finished(), "the read waited for the batch");
    slow.await.unwrap().unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn how_long_to_wait_for_a_lock_can_be_said_in_the_url() {
    for (parameters, expected) in [("", "5s"), ("lock_timeout=250", "250ms")] {
        let db = Fixture::with_parameters(parameters).await;
        db.query("CREATE TABLE told (value text)");
        let note = "INSERT INTO told SELECT current_setting('lock_timeout')";
        db.apply(vec![common::statement(note, "{}")]).await.unwrap();
        assert_eq!(db.query("SELECT value FROM told"), expected);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lock_that_somebody_holds_is_a_conflict_and_a_statement_without_end_is_refused() {
    let db = Fixture::new().await;
    db.apply(vec![create("a", "1", "{}")]).await.unwrap();
    let short = Duration::from_secs(6);
    let options = PostgresOptions { lock_timeout: Duration::from_millis(50), ..PostgresOptions::default() };
    let hasty = Postgres::from_url(&db.server.url(&db.name), options).unwrap();
    let holder = Fixture {
        server: Arc::clone(&db.server),
        name: db.name.clone(),
        database: hasty,
        lane: LaneId::new("queue", 1),
    };
    let position = holder.take_over().await;
    let client = client(&db.server.url(&db.name), LONG);
    let lane = LaneId::new("queue", 2);
    let other = client.take_over(&lane, None, "me").await.unwrap();
    let held = items(&other, vec![put("a", "1", "{}"), statement("SELECT pg_sleep(2)", "{}")]);
    let holding = tokio::spawn(async move { client.apply(&lane, &other, after(&other, 1), &held).await });
    eventually("it sleeps", || db.query("SELECT count(*) FROM pg_stat_activity WHERE query LIKE '%pg_sleep%' AND pid <> pg_backend_pid() AND datname = current_database()") == "1").await;
    let waiting = holder
        .database
        .apply(&holder.lane, &position, after(&position, 1), &items(&position, vec![put("a", "1", "{}")]))
        .await;
    assert!(matches!(waiting, Err(ApplyError::Conflict(_))), "{waiting:?}");
    holding.await.unwrap().unwrap();
    // A reader that waits for a lock is served nothing, and that is no outage for everybody else.
    let (server, name) = (Arc::clone(&db.server), db.name.clone());
    let migrating =
        std::thread::spawn(move || server.query(&name, "BEGIN; LOCK TABLE a; SELECT pg_sleep(2)"));
    eventually("it is locked", || db.query("SELECT count(*) FROM pg_locks WHERE relation = 'a'::regclass AND mode = 'AccessExclusiveLock' AND granted") == "1").await;
    let read = holder.database.get(&collection("a"), &"1".parse().unwrap()).await;
    assert!(matches!(read, Err(DatabaseError::Busy(_))), "{read:?}");
    migrating.join().unwrap();
    // The server breaks it off, and the answer says which write it was.
    let options = PostgresOptions { request_timeout: short, ..PostgresOptions::default() };
    let impatient = Postgres::from_url(&db.server.url(&db.name), options).unwrap();
    let endless = items(&position, vec![put("a", "2", "{}"), statement("SELECT pg_sleep(60)", "{}")]);
    let applied = impatient.apply(&holder.lane, &position, after(&position, 2), &endless).await;
    let Err(ApplyError::Rejected { index: 1, reason, .. }) = applied else { panic!("{applied:?}") };
    assert_eq!(reason.kind, outlast::RefusalKind::Statement);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_server_is_reconnected_to_and_has_what_it_acknowledged() {
    let mut server = PostgresServer::start();
    let database = Postgres::from_url(&server.url("postgres"), PostgresOptions::default()).unwrap();
    let lane = LaneId::new("queue", 0);
    database.probe().await.unwrap();
    let mut position = database.take_over(&lane, None, "me").await.unwrap();
    for round in 0..3 {
        let next = after(&position, 10);
        let writes = (0..10).map(|n| create("a", &format!("{round}-{n}"), "{}")).collect();
        database.apply(&lane, &position, next, &items(&position, writes)).await.unwrap();
        if round == 1 {
            server.stop();
        } else {
            server.kill();
        }
        let away = database.apply(&lane, &position, next, &[]).await;
        assert!(matches!(away, Err(ApplyError::Unavailable(_))), "{away:?}");
        server.restart();
        let found = database.position(&lane).await.unwrap().unwrap();
        assert_eq!(found.sequence.0, next);
        position = database.take_over(&lane, Some(&found), "me").await.unwrap();
    }
    assert_eq!(server.query("postgres", "SELECT count(*) FROM a"), "30");
}

/// A server that sends these bytes to everybody who says something.
async fn strange_server(answer: Vec<u8>) -> SocketAddr {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let answer = answer.clone();
            tokio::spawn(async move {
                let mut question = [0; 1024];
                while stream.read(&mut question).await.is_ok_and(|length| length > 0) {
                    if stream.write_all(&answer).await.is_err() {
                        return;
                    }
                }
            });
        }
    });
    address
}

#[tokio::test(flavor = "multi_thread")]
async fn answers_that_make_no_sense_are_an_error_and_no_panic() {
    let mut rng = fastrand::Rng::new();
    let seed =
        std::env::var("OUTLAST_SEED").ok().and_then(|text| text.parse().ok()).unwrap_or_else(|| rng.u64(..));
    println!("OUTLAST_SEED={seed}");
    rng.seed(seed);
    let ready = b"R\0\0\0\x08\0\0\0\0S\0\0\0\x16in_hot_standby\0off\0S\0\0\0\x26default_transaction_read_only\0off\0Z\0\0\0\x05I".to_vec();
    let mut answers = vec![
        b"HTTP/1.1 400 Bad Request\r\n\r\n".to_vec(),
        b"R\xff\xff\xff\xff".to_vec(),
        b"R\0\0\0\x01".to_vec(),
        b"R\0\0\0\x08\0\0\0\x63".to_vec(),
        b"E\0\0\0\x05\0".to_vec(),
        b"Z\0\0\0\x05I".to_vec(),
        b"R\0\0\0\x2c\0\0\0\x0aSCRAM-SHA-256\0\0R\0\0\0\x20\0\0\0\x0br=x,s=eA==,i=4294967295".to_vec(),
        [&ready[..], b"D\0\0\0\x0a\0\x01\xff\xff\xff\0"].concat(),
        ready.clone(),
    ];
    answers.extend((0..40).map(|_| {
        let mut bytes = ready.clone();
        for _ in 0..rng.usize(1..4) {
            let at = rng.usize(..bytes.len());
            bytes[at] = rng.u8(..);
        }
        bytes
    }));
    for answer in answers {
        let address = strange_server(answer.clone()).await;
        let client = client(&url(&address.to_string(), "d"), Duration::from_millis(300));
        let probed = client.probe().await;
        assert!(probed.is_err(), "{answer:?}: {probed:?}");
        let position = Position {
            sequence: outlast::database::Sequence64(outlast::Sequence::START),
            generation: 1,
            owner: "me".to_owned(),
        };
        let applied = client.apply(&LaneId::new("q", 0), &position, after(&position, 1), &[]).await;
        assert!(applied.is_err(), "{answer:?}: {applied:?}");
    }
}
