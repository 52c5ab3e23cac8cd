//! Unknown outcomes on real servers, SurrealDB and PostgreSQL: a proxy cuts the connection between a commit and its
//! answer, holds answers and requests back, and delivers them late. No effect is lost or doubled.
//! Method: hundreds of seeded cases, each with a queue and a proxy of its own; every write is acknowledged, so the list
//! of tokens of each ledger must be exact. The proxy counts its faults: a case in which none fired proves nothing.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that cannot go on fails")]

mod e2e;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use e2e::{Dialect, check};
use outlast::database::Database;
use outlast::{Options, Outcome, Outlast, RecordName, Wait, Write};
use outlast_postgres::{Postgres, PostgresOptions};
use outlast_surrealdb::{SurrealDb, SurrealOptions};
use outlast_testkit::history::{Cause, Change, History, Seen, Token, Told};
use outlast_testkit::postgres::{PostgresServer, is_installed};
use outlast_testkit::proxy::{Faults, Mode, Proxy};
use outlast_testkit::surreal::{Storage, SurrealServer};
use outlast_testkit::{eventually, seeds};
use serde_json::json;

const CASES: usize = 200;
/// Cases at the same time.
const ABREAST: usize = 25;
const CALLERS: usize = 3;
/// Of each caller, and more while no fault has fired: on a busy machine the first ones may find nothing to meet.
const WRITES: usize = 12;
const WRITES_MAX: usize = 500;
/// After this time without an answer the client takes the outcome for unknown.
const REQUEST_TIMEOUT: Duration = Duration::from_millis(500);
const PATIENCE: Duration = Duration::from_secs(30);
const PATIENT: Wait = Wait::UpTo(PATIENCE);
/// The longest that a fault is waited for.
const FAULT_PATIENCE: Duration = Duration::from_millis(250);

/// The server that the proxy stands before.
enum Server {
    Surreal(SurrealServer),
    Postgres(PostgresServer),
}

/// Signing in costs a server more than all the rest, and each fault makes a new connection: so nobody signs in.
impl Server {
    fn surreal() -> Arc<Self> {
        let server = SurrealServer::start_with(Storage::Memory, &["--unauthenticated"]);
        server.sql("", "", "DEFINE NAMESPACE proof; USE NS proof; DEFINE DATABASE unknown;");
        Arc::new(Self::Surreal(server))
    }

    /// `None` where none is installed.
    fn postgres() -> Option<Arc<Self>> {
        if !is_installed() {
            return None;
        }
        let server = PostgresServer::start();
        server.set_access("host all all 127.0.0.1/32 trust\n");
        server.create_database("unknown");
        server.query("unknown", "CREATE TABLE counters (id text PRIMARY KEY, data jsonb NOT NULL)");
        Some(Arc::new(Self::Postgres(server)))
    }

    fn authority(&self) -> String {
        match self {
            Self::Surreal(server) => server.authority(),
            Self::Postgres(server) => server.authority(),
        }
    }

    /// An adapter that finds the server at this address.
    fn database(&self, address: SocketAddr, request_timeout: Duration) -> Arc<dyn Database> {
        match self {
            Self::Surreal(_) => {
                let options = SurrealOptions { request_timeout, ..SurrealOptions::default() };
                let url = format!("surrealdb://{address}/proof/unknown");
                Arc::new(SurrealDb::from_url(&url, options).unwrap())
            }
            Self::Postgres(_) => {
                let options = PostgresOptions { request_timeout, ..PostgresOptions::default() };
                let url = outlast_testkit::postgres::url(&address.to_string(), "unknown");
                Arc::new(Postgres::from_url(&url, options).unwrap())
            }
        }
    }

    /// Adds a token to a ledger.
    fn note(&self, id: &str, token: Token) -> Write {
        let dialect = match self {
            Self::Surreal(_) => Dialect::Surreal,
            Self::Postgres(_) => Dialect::Postgres,
        };
        let record = RecordName { collection: "counters".parse().unwrap(), id: id.parse().unwrap() };
        let parameters = json!({ "id": id, "note": token.to_string() }).as_object().unwrap().clone();
        Write::statement(dialect.note(), parameters, vec![record])
    }

    /// The ledgers of a case, read past the proxy.
    fn seen(&self, seed: u64) -> BTreeMap<String, Seen> {
        let ids: Vec<String> = (0..2).map(|at| format!("{seed:x}_{at}")).collect();
        let rows = match self {
            Self::Surreal(server) => {
                let names: Vec<String> = ids.iter().map(|id| format!("counters:⟨{id}⟩")).collect();
                let query = format!("SELECT *, record::id(id) AS name FROM {}", names.join(", "));
                server.query("proof", "unknown", &query)
            }
            Self::Postgres(server) => {
                let query = format!(
                    "SELECT coalesce(jsonb_agg(data || jsonb_build_object('name', id)), '[]') FROM counters \
                     WHERE id IN ('{}')",
                    ids.join("', '")
                );
                serde_json::from_str(&server.query("unknown", &query)).unwrap()
            }
        };
        let rows = rows.as_array().unwrap().iter().map(|row| {
            let tokens = row["tokens"].as_array().unwrap().iter();
            let tokens = tokens.map(|token| token.as_str().unwrap().to_owned()).collect();
            let ledger = Seen::Ledger { count: row["count"].as_u64().unwrap(), tokens };
            (format!("counters/{}", row["name"].as_str().unwrap()), ledger)
        });
        rows.collect()
    }
}

#[derive(Debug, Default, Clone, Copy)]
struct Fired {
    answers_dropped: u64,
    held: u64,
    swallowed: u64,
    cut: u64,
    /// Requests that reached the server after a new connection had been made.
    late: u64,
    unknown: u64,
}

/// Two ways to the server behind one address: a request can be held on one while new connections take the other.
#[expect(clippy::struct_field_names, reason = "they are the ways")]
struct Ways {
    front: Proxy,
    ways: [Proxy; 2],
    now: usize,
    late: u64,
}

impl Fired {
    fn any(&self) -> bool {
        self.answers_dropped + self.held + self.swallowed + self.cut + self.late > 0
    }
}

impl Ways {
    async fn start(server: &Server) -> Self {
        let server = server.authority().parse().unwrap();
        let ways = [Proxy::start(server).await.unwrap(), Proxy::start(server).await.unwrap()];
        let front = Proxy::start(ways[0].address()).await.unwrap();
        Self { front, ways, now: 0, late: 0 }
    }

    /// Holds the next request, and lets new connections take the other way.
    async fn hold_next_request(&mut self) {
        let way = &self.ways[self.now];
        let before = Faults::count(&way.faults().swallowed);
        way.set(Mode::BlackHole).await;
        fires(&way.faults().swallowed, before).await;
        self.change_way();
    }

    fn change_way(&mut self) {
        self.now = 1 - self.now;
        self.front.set_upstream(self.ways[self.now].address());
    }

    /// Lets the held request go on to the server.
    async fn deliver_late(&mut self) {
        let way = &self.ways[1 - self.now];
        let before = way.bytes_to_server();
        way.set(Mode::Pass).await;
        let deadline = Instant::now() + FAULT_PATIENCE;
        while way.bytes_to_server() == before && Instant::now() < deadline {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        self.late += u64::from(way.bytes_to_server() > before);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_effect_is_lost_or_doubled_however_the_connection_breaks_around_a_commit() {
    break_around_commits(&Server::surreal()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_effect_is_lost_or_doubled_however_a_connection_to_postgresql_breaks_around_a_commit() {
    if let Some(server) = Server::postgres() {
        break_around_commits(&server).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_late_commit_has_no_effect_after_its_write_was_cancelled() {
    cancel_before_a_late_commit(&Server::surreal()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_late_commit_to_postgresql_has_no_effect_after_its_write_was_cancelled() {
    if let Some(server) = Server::postgres() {
        cancel_before_a_late_commit(&server).await;
    }
}

async fn break_around_commits(server: &Arc<Server>) {
    let mut total = Fired::default();
    let mut histories = Vec::new();
    for some in seeds(CASES).chunks(ABREAST) {
        let cases: Vec<_> = some.iter().map(|seed| tokio::spawn(case(server.clone(), *seed))).collect();
        for (seed, case) in some.iter().zip(cases) {
            let done = case.await;
            let (history, fired) =
                done.unwrap_or_else(|error| panic!("replay with OUTLAST_SEED={seed}: {error}"));
            assert!(fired.any(), "seed {seed}: {fired:?}");
            total.answers_dropped += fired.answers_dropped;
            total.held += fired.held;
            total.swallowed += fired.swallowed;
            total.cut += fired.cut;
            total.late += fired.late;
            total.unknown += fired.unknown;
            histories.push((*seed, history));
        }
    }
    println!("{} cases: {total:?}", histories.len());
    if histories.len() == CASES {
        assert!(total.answers_dropped > 50 && total.held > 50 && total.swallowed > 5, "{total:?}");
        assert!(total.late > 15, "{total:?}");
        assert!(total.unknown > 150, "commits whose outcome was unknown: {total:?}");
    }
    // Once more: what was delivered late has arrived by now, and must have been fenced.
    for (seed, history) in &histories {
        check(history, &server.seen(*seed));
    }
}

/// The fence must hold by itself: here the retry that would hide a missing one never comes, because the write is cancelled
/// between the take-over and the arrival of the late commit.
async fn cancel_before_a_late_commit(server: &Arc<Server>) {
    let directory = tempfile::tempdir().unwrap();
    let mut ways = Ways::start(server).await;
    // Its request does not time out: on a busy machine it might, and be sent again, before the pause.
    let outlast =
        Outlast::open(server.database(ways.front.address(), PATIENCE), options_for(directory.path()))
            .await
            .unwrap();
    eventually("connected", || outlast.is_healthy()).await;
    let history = History::default();
    let submit = async |told: Option<Told>, wait: Wait| {
        let (token, _) = history.begin("counters/0_0", |_| Change::Note);
        let outcome = outlast.submit(server.note("0_0", token), wait).await.unwrap();
        let queued = if let Outcome::Queued(receipt) = outcome { Some(receipt.id) } else { None };
        history.end(token, told.unwrap_or(if queued.is_some() { Told::Queued } else { Told::Applied }));
        queued
    };
    submit(None, PATIENT).await;

    // The commit is held, its caller goes with a receipt, and the lane stands still once the position is taken over.
    // Paused while the request is held, so that it is not sent again before it is cancelled.
    ways.ways[0].set(Mode::BlackHole).await;
    let hold_and_pause = async {
        eventually("the commit is held", || Faults::count(&ways.ways[0].faults().swallowed) == 1).await;
        outlast.pause(None).await.unwrap();
        ways.change_way();
        ways.front.cut();
    };
    let (id, ()) = tokio::join!(submit(Some(Told::Refused(Cause::Other)), PATIENT), hold_and_pause);
    let id = id.expect("its outcome is unknown, so that it is not known as applied");
    outlast.cancel(id).await.unwrap();
    assert_eq!((fired(&ways, &outlast).unknown, ways.late), (1, 0));
    ways.deliver_late().await;
    assert_eq!(ways.late, 1, "the server has the late commit now");
    // Nothing tells when the server is done with it: this is the time in which an effect would be seen.
    let deadline = Instant::now() + FAULT_PATIENCE;
    while Instant::now() < deadline {
        check(&history, &server.seen(0));
    }
    outlast.resume(None).await.unwrap();
    submit(None, PATIENT).await;
    assert!(outlast.drain(Duration::from_secs(30)).await.unwrap(), "{:#?}", outlast.status());
    check(&history, &server.seen(0));
    assert_eq!(outlast.status().accounting.discarded, 1);
    outlast.shutdown(Duration::from_secs(5)).await.unwrap();
}

/// One queue, and a proxy that misbehaves until every write is acknowledged.
async fn case(server: Arc<Server>, seed: u64) -> (History, Fired) {
    let mut random = fastrand::Rng::with_seed(seed);
    let directory = tempfile::tempdir().unwrap();
    let mut ways = Ways::start(&server).await;
    let outlast =
        Outlast::open(server.database(ways.front.address(), REQUEST_TIMEOUT), options_for(directory.path()))
            .await
            .unwrap();
    eventually("connected", || outlast.is_healthy()).await;

    let history = Arc::new(History::default());
    let enough = Arc::new(AtomicBool::new(false));
    let callers: Vec<_> = (0..CALLERS)
        .map(|_| {
            tokio::spawn(caller(
                server.clone(),
                outlast.clone(),
                history.clone(),
                enough.clone(),
                seed,
                random.fork(),
            ))
        })
        .collect();
    let over = || callers.iter().all(tokio::task::JoinHandle::is_finished);
    let applied = || outlast.status().accounting.applied;
    // The first fault is one that surely meets a request.
    let (mut kinds, mut before) = (0..5, applied());
    while !over() {
        disturb(&mut ways, &mut random, kinds).await;
        enough.store(fired(&ways, &outlast).any(), Ordering::Relaxed);
        // The next fault is to meet a commit, and not the way back to one.
        eventually("it goes on", || over() || applied() > before).await;
        (kinds, before) = (0..7, applied());
    }
    for caller in callers {
        caller.await.unwrap();
    }
    ways.front.set(Mode::Pass).await;
    eventually("connected again", || outlast.is_healthy()).await;
    assert!(outlast.drain(Duration::from_secs(30)).await.unwrap(), "{:#?}", outlast.status());
    let status = outlast.status();
    assert!(status.accounting_holds && status.accounting.dead == 0, "{:?}", status.accounting);
    check(&history, &server.seen(seed));
    let fired = fired(&ways, &outlast);
    outlast.shutdown(Duration::from_secs(5)).await.unwrap();
    (Arc::try_unwrap(history).unwrap(), fired)
}

fn options_for(directory: &std::path::Path) -> Options {
    let mut options = Options::new(directory.join("queue"));
    options.segment_bytes = 64 << 10;
    options.write_bytes_max = 16 << 10;
    options.probe_max_interval = Duration::from_millis(50);
    options.probe_timeout = REQUEST_TIMEOUT;
    // Small, so that a fault hits a few writes and not all of them at once.
    options.batch_max = 4;
    options
}

async fn caller(
    server: Arc<Server>,
    outlast: Outlast,
    history: Arc<History>,
    enough: Arc<AtomicBool>,
    seed: u64,
    mut random: fastrand::Rng,
) {
    for at in 0..WRITES_MAX {
        if at >= WRITES && enough.load(Ordering::Relaxed) {
            return;
        }
        // The caller's own rhythm, not a wait for anything.
        tokio::time::sleep(Duration::from_millis(random.u64(0..80))).await;
        let id = format!("{seed:x}_{}", random.u8(0..2));
        let (token, _) = history.begin(format!("counters/{id}"), |_| Change::Note);
        let write = server.note(&id, token);
        let wait = if random.u8(0..4) == 0 { Wait::No } else { PATIENT };
        let told = match outlast.submit(write, wait).await.unwrap() {
            Outcome::Applied { .. } => Told::Applied,
            Outcome::Queued(_) => Told::Queued,
        };
        history.end(token, told);
    }
}

/// One fault, and back to normal.
async fn disturb(ways: &mut Ways, random: &mut fastrand::Rng, kinds: Range<u8>) {
    let later = Duration::from_millis(random.u64(0..600));
    let kind = random.u8(kinds);
    if kind == 4 {
        ways.hold_next_request().await;
        // How late it reaches the server: before or after another connection has taken the position over.
        tokio::time::sleep(later + REQUEST_TIMEOUT / 2).await;
        ways.deliver_late().await;
        return;
    }
    let proxy = &ways.front;
    let faults = proxy.faults();
    match kind {
        0 | 1 => {
            let before = Faults::count(&faults.answers_dropped);
            proxy.cut_before_answer(random.u64(0..3) / 2);
            fires(&faults.answers_dropped, before).await;
        }
        2 => {
            let before = Faults::count(&faults.held);
            proxy.set(Mode::HoldAnswers).await;
            fires(&faults.held, before).await;
            if random.bool() {
                proxy.cut();
            } else {
                // How late the answer comes, before or after the client has given it up.
                tokio::time::sleep(later).await;
            }
        }
        3 => {
            let before = Faults::count(&faults.swallowed);
            proxy.set(Mode::BlackHole).await;
            fires(&faults.swallowed, before).await;
            // How late the request reaches the server, before or after the client has given it up.
            tokio::time::sleep(later).await;
        }
        5 => proxy.cut(),
        _ => {
            proxy.set(Mode::Refuse).await;
            tokio::time::sleep(later / 10).await;
        }
    }
    proxy.set(Mode::Pass).await;
    // The case's own rhythm, not a wait for anything.
    tokio::time::sleep(Duration::from_millis(random.u64(0..100))).await;
}

/// Waits until the fault has fired, but not for ever: it may be that nothing is sent now.
async fn fires(counter: &AtomicU64, before: u64) {
    let deadline = Instant::now() + FAULT_PATIENCE;
    while Faults::count(counter) == before && Instant::now() < deadline {
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

fn fired(ways: &Ways, outlast: &Outlast) -> Fired {
    let faults = ways.front.faults();
    let all = [&ways.front, &ways.ways[0], &ways.ways[1]];
    let metrics = outlast.metrics();
    let series = "outlast_apply_attempts_total{result=\"unknown\"} ";
    let unknown = metrics.lines().find_map(|line| line.strip_prefix(series)).unwrap();
    Fired {
        answers_dropped: Faults::count(&faults.answers_dropped),
        held: Faults::count(&faults.held),
        swallowed: all.iter().map(|way| Faults::count(&way.faults().swallowed)).sum(),
        cut: Faults::count(&faults.cut),
        late: ways.late,
        unknown: unknown.parse().unwrap(),
    }
}
