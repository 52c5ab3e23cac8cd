//! 10,000 texts that would be something else if they were not bound: as ids and as values they come back exactly, and
//! nothing else has changed.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Value, json};

use crate::support::Server;

const COUNT: usize = 10_000;
/// Writes in one transaction.
const AT_ONCE: usize = 500;

const PAYLOADS: &[&str] = &[
    "'; DROP TABLE bystander; --",
    "\"; DROP TABLE bystander; --",
    "' OR '1'='1",
    "\" OR \"\"=\"",
    "1); DELETE FROM outlast_position; --",
    "'); INSERT INTO bystander VALUES ('x', '{}'); --",
    "' UNION SELECT id, data FROM bystander --",
    "x' || (SELECT data FROM bystander) || '",
    "]; ATTACH DATABASE '/tmp/pwned' AS p; --",
    "'; PRAGMA writable_schema=1; --",
    "'; VACUUM INTO '/tmp/pwned'; --",
    "load_extension('x')",
    "?1",
    ":id",
    "@id",
    "$1",
    "$id",
    "${id}",
    "{{id}}",
    "%s%n%x",
    "%00",
    "%27%20OR%201=1",
    "\\",
    "\\'",
    "\\\"",
    "\\\\';",
    "''",
    "\"\"",
    "``",
    "`id`",
    "[id]",
    "/* */",
    "/*! UNION */",
    "--",
    "# comment",
    ";",
    ";;;",
    "$.a",
    "$[0]",
    "*",
    "_",
    "%",
    "a%b_c",
    "../../etc/passwd",
    "..%2f..%2f",
    "file:///etc/passwd",
    "|id",
    "$(id)",
    "`id`&&id",
    "<script>alert(1)</script>",
    "\"><img src=x onerror=alert(1)>",
    "{\"$ne\": null}",
    "{\"$where\": \"1\"}",
    "__proto__",
    "constructor",
    "NULL",
    "null",
    "true",
    "NaN",
    "-0",
    "1e400",
    "0x1F",
    "007",
    "type::thing('bystander', 'x')",
    "bystander:x",
    "REMOVE TABLE bystander;",
    "LET $a = 1; DELETE bystander;",
    "ｆｕｌｌｗｉｄｔｈ＇",
    "ʼ OR 1=1",
    "\u{202e}gnirts",
    "\u{feff}bom",
    "é",
    "e\u{301}",
    "𝕏",
    "🧨'; --",
    "\u{2028}",
    "\u{fffd}",
];

/// Each payload again and again, between others and at the ends of text, none of them twice.
fn texts() -> Vec<String> {
    let mut texts = BTreeSet::new();
    let mut number = 0;
    while texts.len() < COUNT {
        let (first, second) =
            (PAYLOADS[number % PAYLOADS.len()], PAYLOADS[number / PAYLOADS.len() % PAYLOADS.len()]);
        let text = match number % 5 {
            0 => format!("{first}{second}"),
            1 => format!("{first} {number}"),
            2 => format!("{number}{first}"),
            3 => format!("a{first}{second}z"),
            _ => format!("{first}{number}{second}"),
        };
        texts.insert(text);
        number += 1;
    }
    texts.into_iter().collect()
}

/// What the database holds beside the collection of the injections: its tables, and the bystander.
fn rest_of(server: &Server) -> (Vec<String>, Vec<(String, String)>) {
    let database = rusqlite::Connection::open(server.directory().join("database.db")).unwrap();
    let mut tables = database
        .prepare("SELECT type || ' ' || name || ' ' || coalesce(sql, '') FROM sqlite_schema ORDER BY name")
        .unwrap();
    let tables = tables.query_map([], |row| row.get(0)).unwrap().collect::<Result<_, _>>().unwrap();
    let mut bystander = database.prepare("SELECT * FROM bystander ORDER BY id").unwrap();
    let bystander = bystander.query_map([], |row| Ok((row.get(0)?, row.get(1)?))).unwrap();
    (tables, bystander.collect::<Result<_, _>>().unwrap())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ten_thousand_injections_are_stored_exactly_and_change_nothing_else() {
    let server = Server::start().await;
    for id in ["x", "y"] {
        assert_eq!(
            server.json("PUT", &format!("/v1/records/bystander/{id}"), r#"{"untouched":true}"#).await.status,
            200
        );
    }
    assert_eq!(server.json("PUT", "/v1/records/injections/first", "{}").await.status, 200);
    assert_eq!(server.send("DELETE", "/v1/records/injections/first", &[], "").await.status, 204);
    let before = rest_of(&server);

    let texts = texts();
    assert_eq!(texts.len(), COUNT);
    for some in texts.chunks(AT_ONCE) {
        let operations: Vec<Value> = some
            .iter()
            .map(|text| {
                // As the key of a member, as text, within a list and deeper.
                let data = json!({ "value": text, text.as_str(): [text, { "deep": text }] });
                json!({ "op": "create", "collection": "injections", "id": text, "data": data })
            })
            .collect();
        let reply =
            server.json("POST", "/v1/transactions", &json!({ "operations": operations }).to_string()).await;
        assert_eq!(reply.status, 200, "{}", reply.body.chars().take(500).collect::<String>());
    }

    let mut found = BTreeMap::new();
    let mut path = "/v1/records/injections?limit=1000".to_owned();
    loop {
        let page = server.get(&path).await;
        assert_eq!(page.status, 200, "{page:?}");
        let page = page.json();
        for record in page["records"].as_array().unwrap() {
            found.insert(record["id"].as_str().unwrap().to_owned(), record.clone());
        }
        let Some(next) = page["next"].as_str() else { break };
        let next: String = url::form_urlencoded::byte_serialize(next.as_bytes()).collect();
        path = format!("/v1/records/injections?limit=1000&cursor={next}");
    }
    assert_eq!(found.len(), COUNT);
    for text in &texts {
        let record = found.get(text).unwrap_or_else(|| panic!("{text:?} is not there"));
        assert_eq!(record, &json!({ "id": text, "value": text, text.as_str(): [text, { "deep": text }] }));
    }

    // One by one: in the path, and as a filter.
    for text in texts.iter().step_by(97) {
        let id = percent_encoding::utf8_percent_encode(text, percent_encoding::NON_ALPHANUMERIC);
        assert_eq!(server.get(&format!("/v1/records/injections/{id}")).await.json()["value"], text.as_str());
        let value = percent_encoding::utf8_percent_encode(
            &json!(text).to_string(),
            percent_encoding::NON_ALPHANUMERIC,
        )
        .to_string();
        let matching = server.get(&format!("/v1/records/injections?value={value}")).await.json();
        assert_eq!(matching["records"].as_array().map(Vec::len), Some(1), "{text:?}: {matching}");
        assert_eq!(matching["records"][0]["id"], text.as_str());
        // Where only names are taken, it is none.
        for path in
            [format!("/v1/records/{id}"), format!("/v1/writes/{id}"), format!("/v1/records/bystander?{id}=1")]
        {
            let reply = server.get(&path).await;
            assert!([200, 400].contains(&reply.status), "{path}: {reply:?}");
            assert!(!reply.body.contains("untouched"), "{path}: {reply:?}");
        }
    }
    assert_eq!(rest_of(&server), before, "something else has changed");
}
