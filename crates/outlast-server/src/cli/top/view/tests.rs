//! Screens as text, from states made by hand.

use jiff::Timestamp;
use ratatui::Terminal;
use ratatui::backend::TestBackend;
use ratatui::style::Color;
use serde_json::{Value, json};

use super::super::super::status::Picture;
use super::super::asking::News;
use super::super::state::{State, View};
use super::{Theme, draw};

const NOW: &str = "2026-11-30T03:04:05Z";

fn now() -> Timestamp {
    NOW.parse().unwrap()
}

/// A server on which all is well.
fn well() -> Value {
    json!({
        "health": "healthy",
        "components": [],
        "database": { "state": "connected", "since": "2026-11-30T02:00:00.123Z" },
        "database_name": "sqlite:///var/lib/shop/database.db",
        "lane": { "state": "running" },
        "queue": {
            "id": "q", "writes": 0, "writes_max": 1_000_000, "bytes": 0, "bytes_max": 1_073_741_824,
            "oldest_age_seconds": 0.0, "drain_rate": 0.0, "drain_eta_seconds": 0, "time_to_full_seconds": null,
            "throttle": null, "lanes": 1
        },
        "accounting": { "accepted": 1234, "applied": 1234, "pending": 0, "parked": 0, "dead": 0, "discarded": 0 },
        "accounting_holds": true,
        "accepting": true
    })
}

/// A server whose database is away, with dead letters from before.
fn away() -> Value {
    let mut status = well();
    status["health"] = json!("warning");
    status["database"] = json!({ "state": "failed", "since": "2026-11-30T03:03:53Z", "reason": "connection\u{1b}[31m refused" });
    status["queue"]["writes"] = json!(1500);
    status["queue"]["bytes"] = json!(820_000_000);
    status["queue"]["oldest_age_seconds"] = json!(11.5);
    status["queue"]["drain_eta_seconds"] = json!(null);
    status["queue"]["time_to_full_seconds"] = json!(7300);
    status["accounting"] =
        json!({ "accepted": 2737, "applied": 1234, "pending": 1500, "parked": 0, "dead": 3, "discarded": 0 });
    status["outage"] = json!(7);
    status
}

fn outage() -> Value {
    json!({
        "id": 7, "started_at": "2026-11-30T03:03:53Z", "detected_by": "write", "reason": "connection refused",
        "duration_seconds": 12.0, "writes_queued": 1500, "peak_writes": 1500, "oldest_age_seconds": 11.5,
        "reads_refused": 4, "dead": 0, "lost": 0, "healed_writes": 0
    })
}

fn letters() -> Value {
    let reason = json!({ "kind": "constraint", "message": "UNIQUE constraint failed: person.email" });
    json!({
        "total": 3, "groups_total": 2,
        "groups": [
            { "reason": reason, "count": 2 },
            { "reason": { "kind": "exists", "message": "… exists already" }, "count": 1 }
        ],
        "letters": [
            {
                "id": "1-7", "accepted_at": "2026-11-29T03:00:00Z", "died_at": "2026-11-30T03:00:05Z",
                "reason": reason, "history": [{}, {}, {}],
                "operations": [{ "op": "put", "collection": "person", "id": "ann", "data": {} },
                               { "op": "delete", "collection": "person", "id": "bob" }]
            },
            {
                "id": "1-9", "accepted_at": "2026-11-30T03:00:00Z", "died_at": "2026-11-30T03:00:05Z",
                "reason": reason, "history": [{}],
                "operations": [{ "op": "create", "collection": "person", "id": "eve", "data": {} }]
            }
        ]
    })
}

/// A state that has heard so much.
fn state(status: &Value, outages: Value) -> State {
    let mut state = State::new("http://127.0.0.1:6885");
    let picture = Picture {
        status: serde_json::from_value(status.clone()).unwrap(),
        outages: serde_json::from_value(outages).unwrap(),
        raw: Value::Null,
    };
    state.hear(News::Picture(Box::new(picture)), now());
    state.drawn(now());
    state
}

fn hear_everything(state: &mut State) {
    let history = json!({
        "at": [1, 2, 3, 4], "writes": [0, 0, 750, 1500], "accepted_per_second": [0.5, 100, 200, 150],
        "applied_per_second": [0.5, 100, 0, 0], "latency_ms": [1.25, 2.5, null, null]
    });
    state.hear(News::History(serde_json::from_value(history).unwrap()), now());
    state.hear(News::Dead(Box::new(serde_json::from_value(letters()).unwrap())), now());
    state.hear(News::Event("2026-11-30T03:03:53.5Z outage 7 began: connection refused".to_owned()), now());
    state.hear(
        News::Event("2026-11-30T03:03:53.5Z database: connected -> failed: connection refused".to_owned()),
        now(),
    );
    state.drawn(now());
}

/// The screen as text.
fn screen(state: &State, width: u16, height: u16) -> String {
    let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
    terminal.draw(|frame| draw(frame, state, Theme::of(true))).unwrap();
    let buffer = terminal.backend().buffer();
    let lines = (0..height).map(|y| {
        let cells = (0..width).map(|x| buffer[(x, y)].symbol());
        cells.collect::<String>().trim_end().to_owned()
    });
    lines.collect::<Vec<_>>().join("\n").trim_end().to_owned()
}

#[track_caller]
fn assert_screen(shown: &str, expected: &str) {
    assert!(
        shown == expected.trim_matches('\n'),
        "this is shown:\n{shown}\n\nthis was expected:\n{expected}"
    );
}

#[test]
fn all_is_well() {
    let shown = screen(&state(&well(), json!([])), 80, 24);
    assert_screen(
        &shown,
        "
outlast http://127.0.0.1:6885  sqlite:///var/lib/shop/database.…  live 03:04:05Z
 Overview | Queue | Dead letters | Outages
Accepting?  yes, and applied at once
Lost?       none
Clear?      now: nothing waits

Database    connected for 64 min 4 s (since 02:00:00Z)
Delivery    running
Queue       0 of 1,000,000 writes, 0 B of 1.0 GiB, 0 % full
Accounts    1,234 accepted = 1,234 applied
Dead        none

Waiting     no samples yet: the server takes one every 5 s
Accepted    no samples yet: the server takes one every 5 s
Applied     no samples yet: the server takes one every 5 s
Latency     no samples yet: the server takes one every 5 s

What happened since this screen was opened, newest first
nothing yet




q leave  p pause  Tab view  Up/Down row  ? help
",
    );
}

#[test]
fn an_outage_with_dead_letters() {
    let mut state = state(&away(), json!([outage()]));
    hear_everything(&mut state);
    assert_screen(
        &screen(&state, 80, 24),
        "
outlast http://127.0.0.1:6885  sqlite:///var/lib/shop/database.…  live 03:04:05Z
 Overview | Queue 1,500 | Dead letters 3 | Outages 1
Accepting?  yes, into the queue until the database is back
Lost?       none
Clear?      nobody can tell yet

Database    AWAY for 12 s (since 03:03:53Z)
Reason      connection [31m refused
Outage      no. 7, since 03:03:53Z; 1,500 queued, peak 1,500; reads refused: 4
Delivery    running
Queue       1,500 of 1,000,000 writes, 782.0 MiB of 1.0 GiB, 76 % full
            the oldest for 11 s, full in about 2 h 1 min
Accounts    2,737 accepted = 1,234 applied + 1,500 pending + 3 dead
Dead        3 in all; 2 constraint: UNIQUE constraint failed: person.email; 1 e…

Waiting                                               ▄█ 1,500, most 1,500
Accepted                                             ▄█▆ 150/s, most 200
Applied                                              █   0/s, most 100
Latency                                             ▄█   none, most 2.50

What happened since this screen was opened, newest first
03:03:53Z database: connected -> failed: connection refused
03:03:53Z outage 7 began: connection refused
q leave  p pause  Tab view  Up/Down row  ? help
",
    );
}

#[test]
fn a_small_terminal_shows_what_matters_most() {
    let mut state = state(&away(), json!([outage()]));
    hear_everything(&mut state);
    assert_screen(
        &screen(&state, 40, 8),
        "
outlast http://127.0.0.…  live 03:04:05Z
 Overview | Queue 1,500 | Dead letters 3
Accepting?  yes, into the queue until t…
Lost?       none
Clear?      nobody can tell yet
Database    AWAY for 12 s (since 03:03:…
Reason      connection [31m refused
Outage      no. 7, since 03:03:53Z; 1,5…
",
    );
    assert_screen(
        &screen(&state, 30, 3),
        "
Accepting?  yes, into the que…
Lost?       none
Clear?      nobody can tell y…
",
    );
}

#[test]
fn every_size_is_drawn() {
    let mut state = state(&away(), json!([outage()]));
    hear_everything(&mut state);
    for view in View::ALL {
        state.view = view;
        for (width, height) in (0..40).flat_map(|width| (0..30).map(move |height| (width * 5, height))) {
            let _ = screen(&state, width.max(1), height.max(1));
        }
    }
}

#[test]
fn a_server_that_is_silent() {
    let mut state = state(&well(), json!([]));
    let since: Timestamp = "2026-11-30T03:03:05Z".parse().unwrap();
    state.hear(News::Silent("the server at http://127.0.0.1:6885 could not be reached".to_owned()), since);
    let shown = screen(&state, 80, 24);
    assert!(shown.lines().next().unwrap().ends_with("no answer 03:04:05Z"), "{shown}");
    assert!(shown.contains("NO ANSWER for 60 s; trying again. What you see is from before.\n"), "{shown}");
    assert!(shown.contains("\nthe server at http://127.0.0.1:6885 could not be reached\n"), "{shown}");
    assert!(shown.contains("Accepting?"), "{shown}");
    // On the smallest, too.
    assert!(screen(&state, 40, 2).contains("NO ANSWER for 60 s"));
}

#[test]
fn dead_letters_by_reason_and_one_by_one() {
    let mut state = state(&away(), json!([outage()]));
    hear_everything(&mut state);
    state.view = View::Dead;
    assert_screen(
        &screen(&state, 80, 24),
        "
outlast http://127.0.0.1:6885  sqlite:///var/lib/shop/database.…  live 03:04:05Z
 Overview | Queue 1,500 | Dead letters 3 | Outages 1
3 dead letters
        2  constraint: UNIQUE constraint failed: person.email
        1  exists: … exists already
WRITE                DEAD FOR     KIND        REFUSED  WHAT
1-7                  4 min 0 s    constraint  3        put person/ann and 1 more
1-9                  4 min 0 s    constraint  1        create person/eve










1-7, accepted 2026-11-29 03:00:00Z, died 03:00:05Z
put person/ann, delete person/bob
constraint: UNIQUE constraint failed: person.email
Correct what it conflicts with in the database, then retry; otherwise discard.

q leave  p pause  Tab view  Up/Down row  ? help
",
    );
}

#[test]
fn the_queue() {
    let mut state = state(&away(), json!([outage()]));
    state.view = View::Queue;
    assert!(screen(&state, 80, 24).contains("Asking the server"));
    let writes = json!([{
        "id": "3-1", "sequence": "3-1", "status": "parked", "accepted_at": "2026-11-30T03:04:00Z", "attempts": 2,
        "reason": { "kind": "constraint", "message": "FOREIGN KEY constraint failed" },
        "operations": [{ "op": "put", "collection": "person", "id": "ann", "data": {} }]
    }]);
    state.hear(News::Queue(serde_json::from_value(writes).unwrap()), now());
    assert_screen(
        &screen(&state, 80, 16),
        "
outlast http://127.0.0.1:6885  sqlite:///var/lib/shop/database.…  live 03:04:05Z
 Overview | Queue 1,500 | Dead letters 3 | Outages 1
1,500 wait; the first 1 in order
WRITE                WAITS FOR    STATUS   REFUSED  WHAT
3-1                  5 s          parked   2        put person/ann






3-1, accepted 03:04:00Z
put person/ann
Last refused: constraint: FOREIGN KEY constraint failed

q leave  p pause  Tab view  Up/Down row  ? help
",
    );
}

#[test]
fn outages_newest_first() {
    let mut before = outage();
    for (member, value) in [
        ("id", json!(6)),
        ("started_at", json!("2026-11-28T23:00:00Z")),
        ("reconnected_at", json!("2026-11-28T23:10:00Z")),
        ("drained_at", json!("2026-11-28T23:10:09Z")),
        ("duration_seconds", json!(600.0)),
    ] {
        before[member] = value;
    }
    let mut state = state(&away(), json!([outage(), before]));
    state.view = View::Outages;
    assert_screen(
        &screen(&state, 80, 16),
        "
outlast http://127.0.0.1:6885  sqlite:///var/lib/shop/database.…  live 03:04:05Z
 Overview | Queue 1,500 | Dead letters 3 | Outages 2
2 outages, newest first
NO    BEGAN                 AWAY         QUEUED      STATE
7     03:03:53Z             12 s         1,500       LASTS
6     2026-11-28 23:00:00Z  10 min 0 s   1,500       drained 2026-11-28 23:10:09





Outage 7, noticed by a write: connection refused
1,500 queued, 1,500 at once at most, the oldest for 11 s; reads refused: 4
lost: 0, dead letters: 0, healed: 0; the database is still away

q leave  p pause  Tab view  Up/Down row  ? help
",
    );
}

#[test]
fn without_colours_nothing_is_coloured() {
    let mut state = state(&away(), json!([outage()]));
    hear_everything(&mut state);
    let colours = |coloured: bool| {
        let mut terminal = Terminal::new(TestBackend::new(80, 24)).unwrap();
        terminal.draw(|frame| draw(frame, &state, Theme::of(coloured))).unwrap();
        let cells = terminal.backend().buffer().content().to_vec();
        cells.iter().filter(|cell| cell.fg != Color::Reset || cell.bg != Color::Reset).count()
    };
    assert!(colours(true) > 0);
    assert_eq!(colours(false), 0);
}
