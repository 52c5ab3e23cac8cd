//! Values: what comes back is what was sent, and whatever looks like code is only data.

use std::collections::{BTreeMap, BTreeSet};

use outlast::{RecordId, Write};
use serde_json::{Map, Value};

use super::{
    Harness, World, assert_same, create, document, json, name, patch, put, record, record_id, same_value,
    seeded,
};

/// Applies it, and expects it back exactly; a value that the database cannot hold must be refused by `check`.
async fn round_trip(world: &mut World, id: &str, data: &Map<String, Value>) -> bool {
    let write = Write::put(name("values"), record_id(id), document(data));
    if let Err(refused) = world.database.check(&write) {
        assert!(refused.to_string().len() > 20, "a refusal explains itself: {refused}");
        return false;
    }
    world.apply([write]).await;
    assert_same(world.get("values", id).await.as_ref(), data);
    true
}

/// As `round_trip`, for what every database must hold.
async fn must_hold(world: &mut World, id: &str, data: &Map<String, Value>) {
    assert!(round_trip(world, id, data).await, "check refused {}", Value::Object(data.clone()));
}

pub async fn values_come_back_exactly(harness: &dyn Harness) {
    let mut world = World::new(harness).await;
    for (n, value) in [
        "null",
        "true",
        "false",
        "0",
        "1",
        "-1",
        "1.0",
        "1.5",
        "-0.5",
        "0.1",
        "100",
        "1e2",
        "1E+2",
        "1e-2",
        "1e15",
        "1e16",
        "1e21",
        "1e22",
        "123456789.125",
        "2147483648",
        "4294967296",
        "9007199254740991",
        "9007199254740992",
        "9007199254740993",
        "-9007199254740993",
        "9223372036854775807",
        "-9223372036854775808",
        "\"\"",
        "\"text\"",
        "\" \"",
        "\"ü\"",
        "\"日本語\"",
        "\"🦀👩‍👩‍👧\"",
        "\"e\u{301} is not é\"",
        "\"\\\"\\\\\\/\"",
        "\"\\n\\t\\r\\b\\f\"",
        "\"\u{2028}\u{feff}\u{fffd}\"",
        "\"\\u0001\\u001f\\u007f\"",
        "[]",
        "{}",
        "[[]]",
        "[{}]",
        "[null]",
        "[null,[null,{\"a\":null}]]",
        "[1,\"1\",1.5,true,null,[],{}]",
        "{\"a\":{}}",
        "{\"a\":[]}",
        "{\"a\":null}",
        "{\"a\":{\"b\":{\"c\":[{\"d\":[]}]}}}",
        "{\" \":1,\"a b\":2,\"ü\":3,\"🦀\":4}",
    ]
    .into_iter()
    .enumerate()
    {
        must_hold(&mut world, &n.to_string(), &json(&format!("{{\"v\":{value}}}"))).await;
    }
    must_hold(&mut world, "empty", &Map::new()).await;
    let many: Map<String, Value> = (0..500).map(|n| (format!("member_{n}"), Value::from(n))).collect();
    must_hold(&mut world, "many", &many).await;
}

pub async fn strings_stay_strings(harness: &dyn Harness) {
    let mut world = World::new(harness).await;
    for (n, text) in [
        "2026-07-31T12:00:00Z",
        "2026-07-31",
        "12:00",
        "d'2026-07-31T12:00:00Z'",
        "018f3c5e-7a1b-7c2d-8e3f-4a5b6c7d8e9f",
        "u'018f3c5e-7a1b-7c2d-8e3f-4a5b6c7d8e9f'",
        "a:b",
        "a:⟨b⟩",
        "a:`b`",
        "person:1",
        "r'a:b'",
        "a:1..2",
        "a:[1,2]",
        "a:uuid()",
        "1h",
        "1h30m",
        "5ns",
        "0",
        "1",
        "-1",
        "1.0",
        "1e400",
        "007",
        "0x1f",
        "1dec",
        "1f",
        "NaN",
        "Infinity",
        "18446744073709551616",
        "true",
        "false",
        "null",
        "NULL",
        "none",
        "NONE",
        "undefined",
        "[]",
        "{}",
        "[1]",
        "{\"a\":1}",
        "{ }",
        "$param",
        "$auth",
        "$1",
        ":name",
        "@x",
        "?1",
        "?",
        "<datetime>",
        "<future> { time::now() }",
        "time::now()",
        "CURRENT_TIMESTAMP",
        "x'00'",
        "b\"00\"",
        "\\x00",
        "\\u0041",
        "/regex/",
        "|a:1..5|",
        "[[ ]]",
        "%00",
        "%s",
        "{}{}",
        "POINT(1 2)",
        "(1,2)",
        "-- comment",
        "/* comment */",
        "# comment",
        "a\\",
        "'",
        "\"",
        "`",
        "``",
        "''",
        "\"\"",
        "⟩",
        "⟨",
        "\u{202e}reversed",
    ]
    .into_iter()
    .enumerate()
    {
        let value = Value::String(text.to_owned());
        let data: Map<String, Value> =
            [("v".to_owned(), value.clone()), ("in".to_owned(), Value::Array(vec![value]))]
                .into_iter()
                .collect();
        must_hold(&mut world, &n.to_string(), &data).await;
        // As an id, too.
        let by_id: RecordId = record_id(text);
        world.apply([Write::put(name("by_id"), by_id, document(&data))]).await;
        assert_same(world.get("by_id", text).await.as_ref(), &data);
    }
}

pub async fn long_strings_come_back_exactly(harness: &dyn Harness) {
    let mut world = World::new(harness).await;
    for length in [1_000, 65_535, 65_536, 65_537, 900_000] {
        let text: String = "aü🦀\"\\".chars().cycle().take(length / 3).collect();
        let data: Map<String, Value> = [("v".to_owned(), Value::String(text))].into_iter().collect();
        must_hold(&mut world, &length.to_string(), &data).await;
    }
    let longest = "i".repeat(256);
    world.apply([create("a", &longest, "{\"n\":1}")]).await;
    assert_same(world.get("a", &longest).await.as_ref(), &json("{\"n\":1}"));
    let collection = "c".repeat(63);
    world.apply([create(&collection, "1", "{\"n\":2}")]).await;
    assert_same(world.get(&collection, "1").await.as_ref(), &json("{\"n\":2}"));
}

pub async fn deep_documents_come_back_exactly(harness: &dyn Harness) {
    let mut world = World::new(harness).await;
    for depth in [10, 30, 63] {
        for (open, close) in [("[", "]"), ("{\"a\":", "}")] {
            let data = json(&format!("{{\"v\":{}1{}}}", open.repeat(depth), close.repeat(depth)));
            must_hold(&mut world, &format!("{depth}{}", &open[..1]), &data).await;
        }
    }
}

pub async fn numbers_come_back_exactly_or_are_refused(harness: &dyn Harness) {
    let mut world = World::new(harness).await;
    for (n, number) in [
        "5e-324",
        "2.2250738585072014e-308",
        "1.7976931348623157e308",
        "-1.7976931348623157e308",
        "0.30000000000000004",
        "1e300",
        "123456.789e3",
    ]
    .into_iter()
    .enumerate()
    {
        must_hold(&mut world, &format!("f{n}"), &json(&format!("{{\"v\":{number},\"in\":[{number}]}}")))
            .await;
    }
    let mut refused = Vec::new();
    for (n, number) in [
        "18446744073709551615",
        "9223372036854775808",
        "-0.0",
        "-0",
        "0.0",
        "18446744073709551616",
        "18446744073709551617",
        "-9223372036854775809",
        "9007199254740993.5",
        "0.12345678901234567890",
        "1e400",
        "-1e400",
        "1e-400",
        "100000000000000000000",
        "123456789012345678901234567890",
    ]
    .into_iter()
    .enumerate()
    {
        for text in [format!("{{\"v\":{number}}}"), format!("{{\"deep\":{{\"in\":[{{\"v\":{number}}}]}}}}")] {
            let data = json(&text);
            if !round_trip(&mut world, &format!("n{n}"), &data).await {
                refused.push(number);
                // What cannot be put cannot be patched in either.
                assert!(world.database.check(&patch("values", "x", &text)).is_err(), "{number}");
                assert!(world.database.check(&create("values", "x", &text)).is_err(), "{number}");
            }
        }
    }
    println!("refused: {refused:?}");
}

pub async fn odd_texts_come_back_exactly_or_are_refused(harness: &dyn Harness) {
    let mut world = World::new(harness).await;
    for (n, text) in [
        r#"{"v":"\u0000"}"#,
        r#"{"v":["a\u0000b"]}"#,
        r#"{"a\u0000b":1}"#,
        r#"{"":1}"#,
        r#"{"v":{"":{"":null}}}"#,
        r#"{"v":"\uFFFE\uFFFF"}"#,
        r#"{"__proto__":1,"constructor":2}"#,
        r#"{"ID":1,"Id":2,"in":3,"out":4}"#,
    ]
    .into_iter()
    .enumerate()
    {
        round_trip(&mut world, &n.to_string(), &json(text)).await;
    }
}

/// Texts that would do harm if any of them were ever read as code.
fn hostile(rng: &mut fastrand::Rng) -> Vec<String> {
    let payloads = [
        "DELETE FROM victims",
        "DROP TABLE victims",
        "REMOVE TABLE victims",
        "UPDATE victims SET n = 0",
        "DELETE victims",
        "COMMIT",
        "ROLLBACK",
        "CANCEL TRANSACTION",
        "THROW 'x'",
        "$position",
        "$data",
        "NULL",
        "1=1",
        "victims:1",
        "RETURN NONE",
    ];
    let frames = [
        ("'; ", "; --"),
        ("\"; ", "; --"),
        ("`; ", "; --"),
        ("'); ", "; --"),
        ("\"); ", " /*"),
        ("} ; ", "; {"),
        ("⟩; ", "; "),
        ("\\'; ", "; --"),
        ("' OR ", " OR '"),
        ("' || (", ") || '"),
        ("${", "}"),
        ("$(", ")"),
        ("{{", "}}"),
        ("/* */ ", " #"),
        ("%27; ", "; %23"),
        ("''; ", "; ''"),
        ("x:", ""),
        ("x:⟨", "⟩"),
    ];
    let mut texts: Vec<String> = Vec::new();
    for payload in payloads {
        for (open, close) in frames {
            texts.push(format!("{open}{payload}{close}"));
        }
    }
    let alphabet: Vec<char> = "'\"`;-$:@?{}[]()<>\\/|⟨⟩%#,.=*+!~^& abc019é🦀\u{2028}".chars().collect();
    for _ in 0..80 {
        let length = rng.usize(1..40);
        texts.push((0..length).map(|_| alphabet[rng.usize(..alphabet.len())]).collect());
    }
    texts.retain(|text| text.len() <= 256);
    texts.sort_unstable();
    texts.dedup();
    texts
}

/// So many different ones: hostile texts, and two of them run together.
fn many_hostile(rng: &mut fastrand::Rng, count: usize) -> BTreeSet<String> {
    let some = hostile(rng);
    let mut many: BTreeSet<String> = some.iter().cloned().collect();
    while many.len() < count {
        let text: String =
            [rng.choice(&some), rng.choice(&some)].into_iter().flatten().map(String::as_str).collect();
        if text.len() <= 256 {
            many.insert(text);
        }
    }
    many
}

async fn with_victims(harness: &dyn Harness) -> (World, BTreeMap<String, Map<String, Value>>) {
    let mut world = World::new(harness).await;
    world.apply((0..3).map(|n| create("victims", &n.to_string(), "{\"n\":7,\"text\":\"untouched\"}"))).await;
    let victims = world.all("victims").await;
    (world, victims)
}

pub async fn hostile_ids_and_strings_are_only_data(harness: &dyn Harness) {
    let mut rng = seeded("hostile_ids_and_strings_are_only_data");
    let (mut world, victims) = with_victims(harness).await;
    let texts = hostile(&mut rng);
    let data = |text: &str, round: u32| -> Map<String, Value> {
        [
            ("text".to_owned(), Value::from(text)),
            ("in".to_owned(), Value::from(vec![text])),
            ("round".to_owned(), Value::from(round)),
        ]
        .into_iter()
        .collect()
    };
    for chunk in texts.chunks(100) {
        world
            .apply(
                chunk.iter().map(|text| Write::create(name("a"), record_id(text), document(&data(text, 1)))),
            )
            .await;
    }
    let expected: BTreeMap<String, Map<String, Value>> =
        texts.iter().map(|text| (text.clone(), data(text, 1))).collect();
    assert_eq!(world.all("a").await, expected);
    for (n, text) in texts.iter().enumerate() {
        match n % 3 {
            0 => world.apply([Write::put(name("a"), record_id(text), document(&data(text, 2)))]).await,
            1 => world.apply([Write::patch(name("a"), record_id(text), document(&data(text, 2)))]).await,
            _ => world.apply([Write::delete(name("a"), record_id(text))]).await,
        };
        let found = world.get("a", text).await;
        if n % 3 == 2 {
            assert_eq!(found, None, "{text:?}");
        } else {
            assert_same(found.as_ref(), &data(text, 2));
        }
        let query = super::ListQuery {
            collection: name("a"),
            filters: vec![("text".into(), Value::from(text.as_str()))],
            limit: 10,
            after: Some(record_id(text)),
        };
        assert_eq!(
            world.ids(&query).await,
            [""; 0],
            "only the record itself has the text, and it is not after itself"
        );
    }
    assert_eq!(world.all("victims").await, victims);
    assert_eq!(world.stored_position().await.as_ref(), Some(&world.position));
}

pub async fn ten_thousand_hostile_texts_come_back_exactly(harness: &dyn Harness) {
    let mut rng = seeded("ten_thousand_hostile_texts_come_back_exactly");
    let (mut world, victims) = with_victims(harness).await;
    let expected: BTreeMap<String, Map<String, Value>> = many_hostile(&mut rng, 10_000)
        .into_iter()
        .map(|text| {
            // As an id, the name of a member, and a value.
            let data = [(text.clone(), Value::from(text.as_str()))].into_iter().collect();
            (text, data)
        })
        .collect();
    let writes: Vec<Write> = expected
        .iter()
        .map(|(text, data)| Write::create(name("a"), record_id(text), document(data)))
        .collect();
    for chunk in writes.chunks(500) {
        world.apply(chunk.iter().cloned()).await;
    }
    assert!(world.all("a").await == expected, "what came back differs from the 10,000 that were sent");
    assert_eq!(world.all("victims").await, victims);
    assert_eq!(world.stored_position().await.as_ref(), Some(&world.position));
}

pub async fn hostile_parameters_are_only_data(harness: &dyn Harness) {
    let mut rng = seeded("hostile_parameters_are_only_data");
    let (mut world, victims) = with_victims(harness).await;
    let texts = hostile(&mut rng);
    for text in texts.iter().step_by(4) {
        world.apply([put("a", text, "{\"n\":1}"), harness.set_text(&record("a", text), text)]).await;
        let mut expected = json("{\"n\":1}");
        expected.insert("text".into(), Value::from(text.as_str()));
        assert_same(world.get("a", text).await.as_ref(), &expected);
    }
    assert_eq!(world.all("victims").await, victims);
}

pub async fn hostile_keys_and_member_names_are_only_data(harness: &dyn Harness) {
    let mut rng = seeded("hostile_keys_and_member_names_are_only_data");
    let (mut world, victims) = with_victims(harness).await;
    for (n, text) in hostile(&mut rng).iter().step_by(3).enumerate() {
        let inner: Map<String, Value> = [(text.clone(), Value::from(1))].into_iter().collect();
        let data: Map<String, Value> =
            [(text.clone(), Value::from(text.as_str())), ("in".to_owned(), Value::Object(inner))]
                .into_iter()
                .collect();
        let write = Write::create(name("a"), record_id(&n.to_string()), document(&data));
        let Ok(keyed) = write.clone().with_idempotency_key(text) else {
            world.apply([write]).await;
            continue;
        };
        let item = world.item(keyed);
        world.try_apply(std::slice::from_ref(&item)).await.unwrap();
        assert_same(world.get("a", &n.to_string()).await.as_ref(), &data);
        assert_eq!(world.database.find_key(text).await.unwrap().map(|(id, _)| id), Some(item.id), "{text:?}");
        // The same by a patch, which some databases build from the names of members.
        let id = format!("patched {n}");
        world.apply([create("a", &id, "{}"), Write::patch(name("a"), record_id(&id), document(&data))]).await;
        assert_same(world.get("a", &id).await.as_ref(), &data);
    }
    assert_eq!(world.all("victims").await, victims);
}

pub async fn random_documents_come_back_exactly(harness: &dyn Harness) {
    let mut rng = seeded("random_documents_come_back_exactly");
    let mut world = World::new(harness).await;
    for round in 0..5 {
        let mut expected = BTreeMap::new();
        for n in 0..60 {
            let Value::Object(data) = Value::Object(
                (0..rng.usize(0..8)).map(|_| (random_text(&mut rng), random_value(&mut rng, 4))).collect(),
            ) else {
                continue;
            };
            let id = format!("{n} {}", random_text(&mut rng));
            let id: String = id.chars().filter(|c| !c.is_control()).take(60).collect();
            if !id.is_empty()
                && world.database.check(&Write::put(name("a"), record_id(&id), document(&data))).is_ok()
            {
                expected.insert(id, data);
            }
        }
        assert!(expected.len() > 30, "most random documents can be held");
        let collection = format!("round_{round}");
        world
            .apply(
                expected
                    .iter()
                    .map(|(id, data)| Write::create(name(&collection), record_id(id), document(data))),
            )
            .await;
        let found = world.all(&collection).await;
        assert_eq!(found.keys().collect::<Vec<_>>(), expected.keys().collect::<Vec<_>>());
        for (id, data) in &expected {
            assert!(
                same_value(&Value::Object(found[id].clone()), &Value::Object(data.clone())),
                "{id:?}\n{data:?}\n{:?}",
                found[id]
            );
        }
    }
}

fn random_text(rng: &mut fastrand::Rng) -> String {
    (0..rng.usize(0..12))
        .map(|_| if rng.u8(..4) == 0 { rng.char('\u{1}'..) } else { rng.alphanumeric() })
        .collect()
}

fn random_value(rng: &mut fastrand::Rng, depth: usize) -> Value {
    match rng.u8(..if depth == 0 { 6 } else { 8 }) {
        0 => Value::Null,
        1 => Value::Bool(rng.bool()),
        2 => Value::from(rng.i64(..)),
        3 => Value::from(rng.i64(-1000..1000)),
        4 => {
            let float = f64::from_bits(rng.u64(..));
            if float.is_finite() { Value::from(float) } else { Value::from(0.5) }
        }
        5 => Value::from(random_text(rng)),
        6 => Value::Array((0..rng.usize(0..5)).map(|_| random_value(rng, depth - 1)).collect()),
        _ => Value::Object(
            (0..rng.usize(0..5)).map(|_| (random_text(rng), random_value(rng, depth - 1))).collect(),
        ),
    }
}
