//! What is written comes back as it was sent, and what could not is refused before it is accepted.

#![allow(clippy::unwrap_used, reason = "tests report by panicking")]

mod common;

use common::{Fixture, collection, create, data, patch, put};
use outlast::database::Database;
use outlast::record::merge_patch;
use outlast::{Document, RecordId, Write};
use serde_json::{Map, Value};

/// Texts that other layers like to take for something else, or to trip over.
const TEXTS: &[&str] = &[
    "",
    " ",
    "1",
    "-0",
    "1.0",
    "true",
    "null",
    "NONE",
    "a:b",
    "a:⟨b⟩",
    "person:1",
    "1h",
    "2020-01-01",
    "2020-01-01T00:00:00Z",
    "018f3f1e-0000-7000-8000-000000000000",
    "u'018f3f1e-0000-7000-8000-000000000000'",
    "12.5dec",
    "$param",
    "$outlast_o",
    "'; DROP TABLE a; --",
    "\"; REMOVE TABLE a; \"",
    "`a`",
    "⟨a⟩",
    "\\",
    "\\u0000",
    "{",
    "}",
    "[1]",
    "(1,2)",
    "/regex/",
    "-- comment",
    "/* comment */",
    "# comment",
    "../../etc",
    "é",
    "e\u{301}",
    "日本語",
    "😀👩‍👩‍👧",
    "\u{202e}rtl",
    "\u{feff}bom",
    "\u{fffd}",
    "%41",
    "+",
    "a b",
    "<script>",
    "..",
    "a..b",
    "|a|",
    "RETURN 1",
    "<future> { 1 }",
];
const CONTROL: &[&str] = &["\u{1}", "\n", "\r\n", "\t", "\u{1b}[0m", "\u{7f}"];

#[tokio::test(flavor = "multi_thread")]
async fn documents_come_back_with_every_value_exact() {
    let db = Fixture::new().await;
    let json = r#"{"arrays":[[],[[]],[null,{}]],"empty":{},"f":[0.1,1.0,-0.0,5e-324,1.7976931348623157e308,2.5e-8,1e22],
        "i":[0,-1,9007199254740993,9223372036854775807,-9223372036854775808,9223372036854775808,18446744073709551615],
        "nested":{"a":{"b":{"c":[{"d":null}]}}},"null":null,"true":true,"":"empty name","a.b":1,"$x":2,"`q`":3,"one\u0001":"\u0001"}"#;
    let sent: Value = serde_json::from_str(json).unwrap();
    db.apply(vec![
        create("a", "alone", json),
        create("a", "b", json),
        create("a", "c", json),
        put("a", "d", json),
    ])
    .await
    .unwrap();
    for id in ["alone", "b", "c", "d"] {
        let found = db.get("a", id).await.unwrap();
        assert_same(&sent, &found, id);
    }
    db.apply(vec![put("a", "b", "{}"), patch("a", "d", "{}")]).await.unwrap();
    assert_eq!(db.get("a", "b").await.unwrap().to_string(), "{}");
    assert_same(&sent, &db.get("a", "d").await.unwrap(), "after an empty patch");
}

/// Equal, where numbers are equal when they name the same value; integers must keep their digits.
fn assert_same(sent: &Value, found: &Value, at: &str) {
    match (sent, found) {
        (Value::Object(sent), Value::Object(found)) => {
            assert_eq!(sent.keys().collect::<Vec<_>>(), found.keys().collect::<Vec<_>>(), "{at}");
            sent.iter().for_each(|(name, value)| assert_same(value, &found[name], &format!("{at}.{name}")));
        }
        (Value::Array(sent), Value::Array(found)) => {
            assert_eq!(sent.len(), found.len(), "{at}");
            sent.iter().zip(found).for_each(|(sent, found)| assert_same(sent, found, at));
        }
        (Value::Number(sent), Value::Number(found)) if sent.as_str() != found.as_str() => {
            let bits = |text: &str| text.parse::<f64>().unwrap().to_bits();
            assert!(
                sent.as_str().contains(['.', 'e']) && bits(sent.as_str()) == bits(found.as_str()),
                "{at}: {sent} became {found}"
            );
        }
        _ => assert_eq!(sent, found, "{at}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn hostile_texts_are_stored_as_they_are_and_change_nothing_else() {
    let db = Fixture::new().await;
    let other = db.query("CREATE a:other SET untouched = true").to_string();
    let texts: Vec<&str> = TEXTS.iter().chain(CONTROL).copied().collect();
    let document = |text: &str| {
        let map = Map::from_iter([
            (format!("k{text}"), Value::from(text)),
            ("v".to_owned(), Value::from(vec![text])),
        ]);
        Document::from_map(&map).unwrap()
    };
    let ids: Vec<RecordId> = TEXTS.iter().filter_map(|text| text.parse().ok()).collect();
    assert!(ids.len() > 40);
    let mut writes: Vec<Write> =
        ids.iter().map(|id| Write::create(collection("ids"), id.clone(), document(id.as_str()))).collect();
    writes.extend(
        texts.iter().enumerate().map(|(n, text)| {
            Write::put(collection("texts"), format!("{n}").parse().unwrap(), document(text))
        }),
    );
    for write in &writes {
        db.database.check(write).unwrap();
    }
    db.apply(writes).await.unwrap();
    for id in &ids {
        let found = db.database.get(&collection("ids"), id).await.unwrap().unwrap();
        assert_eq!(found.to_map(), document(id.as_str()).to_map(), "{id}");
    }
    for (n, text) in texts.iter().enumerate() {
        assert_eq!(
            db.get("texts", &n.to_string()).await,
            Some(Value::Object(document(text).to_map())),
            "{text:?}"
        );
    }
    // Patched and deleted one by one, each reaches its own record.
    for id in &ids {
        let patched = Write::patch(collection("ids"), id.clone(), data("{\"p\":1}"));
        db.apply(vec![patched, Write::delete(collection("ids"), id.clone())]).await.unwrap();
    }
    assert_eq!(db.query("SELECT * FROM ids").to_string(), "[]");
    assert_eq!(db.query("SELECT * FROM a").to_string(), other);
}

/// Patches and targets made at random, against the reference that the library itself uses. The seed is printed;
/// `OUTLAST_SEED` replays one.
#[tokio::test(flavor = "multi_thread")]
async fn patches_do_what_rfc_7396_says() {
    let db = Fixture::new().await;
    let seed = std::env::var("OUTLAST_SEED").map_or_else(|_| fastrand::u64(..), |text| text.parse().unwrap());
    println!("OUTLAST_SEED={seed}");
    let mut random = fastrand::Rng::with_seed(seed);
    let pairs: Vec<(Map<String, Value>, Map<String, Value>)> =
        (0..300).map(|_| (object(&mut random, 3), object(&mut random, 3))).collect();
    let mut writes = Vec::new();
    for (n, (target, patch)) in pairs.iter().enumerate() {
        let id: RecordId = n.to_string().parse().unwrap();
        writes.push(Write::put(collection("a"), id.clone(), Document::from_map(target).unwrap()));
        writes.push(Write::patch(collection("a"), id, Document::from_map(patch).unwrap()));
    }
    db.apply(writes).await.unwrap();
    for (n, (target, patch)) in pairs.into_iter().enumerate() {
        let mut expected = target.clone();
        merge_patch(&mut expected, patch.clone());
        let found = db.get("a", &n.to_string()).await.unwrap();
        assert_eq!(
            found,
            Value::Object(expected),
            "{} patched with {}",
            Value::from(target),
            Value::from(patch)
        );
    }
}

fn object(random: &mut fastrand::Rng, depth: u32) -> Map<String, Value> {
    let names = ["a", "b", "c", "", "a.b", "*", "[0]", "..."];
    (0..random.usize(0..5))
        .map(|_| (random.choice(names).unwrap_or("a").to_owned(), value(random, depth)))
        .collect()
}

fn value(random: &mut fastrand::Rng, depth: u32) -> Value {
    match random.u8(0..if depth == 0 { 4 } else { 7 }) {
        0 => Value::Null,
        1 => Value::from(random.i64(..)),
        2 => Value::from("text"),
        3 => Value::Bool(true),
        4 => Value::Array((0..random.usize(0..3)).map(|_| value(random, depth - 1)).collect()),
        _ => Value::Object(object(random, depth - 1)),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_kept_is_refused_at_the_door() {
    let db = Fixture::new().await;
    let parameters = |json: &str| common::statement("LET $y = $x", json);
    for (write, what) in [
        (put("a", "1", r#"{"n":18446744073709551617}"#), "cannot be kept exactly"),
        (patch("a", "1", r#"{"n":{"m":[0.12345678901234567890]}}"#), "cannot be kept exactly"),
        (parameters(r#"{"x":1e400}"#), "cannot be kept exactly"),
        (create("a", "1", r#"{"id":"1"}"#), "names the record"),
        (put("a", "1", r#"{"list":[{"\u0000":1}]}"#), "U+0000"),
        (patch("a", "1", r#"{"text":"a\u0000b"}"#), "U+0000"),
        (parameters(r#"{"x":"\u0000"}"#), "U+0000"),
        (parameters(r#"{"auth":1}"#), "belongs to the database"),
        (common::statement("CREATE a; CREATE b", "{}"), "only one statement"),
    ] {
        let error = db.database.check(&write).unwrap_err().to_string();
        assert!(error.contains(what), "{error}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn parameters_of_statements_are_bound_by_any_plain_name() {
    let db = Fixture::new().await;
    let names = ["a", "value", "from", "in", "out", "where", "SELECT", "true", "NONE", "_x1", "content"];
    for name in names {
        let write = common::statement(
            &format!("UPSERT t:{} SET v = ${name}", "one"),
            &format!("{{\"{name}\":\"it's ; }} $a\"}}"),
        );
        db.database.check(&write).unwrap();
        db.apply(vec![write]).await.unwrap_or_else(|error| panic!("{name}: {error}"));
        assert_eq!(db.query("SELECT VALUE v FROM ONLY t:one"), "it's ; } $a", "{name}");
        db.query("DELETE t");
    }
}
