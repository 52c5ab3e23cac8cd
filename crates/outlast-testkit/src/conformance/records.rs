//! Records: what the operations mean, reads and lists.

use outlast::database::ListQuery;
use serde_json::Value;

use super::{Harness, World, assert_same, create, delete, json, name, patch, put, record_id};

pub async fn put_replaces_wholly(harness: &dyn Harness) {
    let mut world = World::new(harness).await;
    world.apply([put("a", "1", "{\"x\":1,\"deep\":{\"y\":2}}")]).await;
    world.apply([put("a", "1", "{\"z\":3}")]).await;
    assert_same(world.get("a", "1").await.as_ref(), &json("{\"z\":3}"));
    world.apply([put("a", "1", "{}")]).await;
    assert_same(world.get("a", "1").await.as_ref(), &json("{}"));
}

pub async fn patch_merges_as_rfc_7396_says(harness: &dyn Harness) {
    let mut world = World::new(harness).await;
    for (n, (target, change, expected)) in [
        (r#"{"a":"b"}"#, r#"{"a":"c"}"#, r#"{"a":"c"}"#),
        (r#"{"a":"b"}"#, r#"{"b":"c"}"#, r#"{"a":"b","b":"c"}"#),
        (r#"{"a":"b"}"#, r#"{"a":null}"#, "{}"),
        (r#"{"a":"b","b":"c"}"#, r#"{"a":null}"#, r#"{"b":"c"}"#),
        (r#"{"a":["b"]}"#, r#"{"a":"c"}"#, r#"{"a":"c"}"#),
        (r#"{"a":"c"}"#, r#"{"a":["b"]}"#, r#"{"a":["b"]}"#),
        (r#"{"a":{"b":"c"}}"#, r#"{"a":{"b":"d","c":null}}"#, r#"{"a":{"b":"d"}}"#),
        (r#"{"a":{"b":"c","d":1}}"#, r#"{"a":{"b":null}}"#, r#"{"a":{"d":1}}"#),
        (r#"{"a":[{"b":"c"}]}"#, r#"{"a":[1]}"#, r#"{"a":[1]}"#),
        (r#"{"a":[1,2,3]}"#, r#"{"a":[null,{"x":null}]}"#, r#"{"a":[null,{"x":null}]}"#),
        (r#"{"e":null}"#, r#"{"a":1}"#, r#"{"e":null,"a":1}"#),
        (r#"{"e":null}"#, r#"{"e":null}"#, "{}"),
        ("{}", r#"{"a":{"bb":{"ccc":null}}}"#, r#"{"a":{"bb":{}}}"#),
        ("{}", r#"{"a":{"bb":{"ccc":null,"d":[null]}}}"#, r#"{"a":{"bb":{"d":[null]}}}"#),
        (r#"{"a":1}"#, r#"{"a":{"b":{"c":1}}}"#, r#"{"a":{"b":{"c":1}}}"#),
        (r#"{"a":{"b":1}}"#, r#"{"a":{}}"#, r#"{"a":{"b":1}}"#),
        (
            r#"{"a":{"b":{"c":{"d":1,"e":2}}}}"#,
            r#"{"a":{"b":{"c":{"d":null}}}}"#,
            r#"{"a":{"b":{"c":{"e":2}}}}"#,
        ),
        (
            r#"{"n":18446744073709551615,"f":1.5}"#,
            r#"{"x":1}"#,
            r#"{"n":18446744073709551615,"f":1.5,"x":1}"#,
        ),
        (r#"{"a":1}"#, "{}", r#"{"a":1}"#),
    ]
    .into_iter()
    .enumerate()
    {
        let id = n.to_string();
        // A number that the database refuses to hold is another rule's business.
        let target_write = put("a", &id, target);
        if world.database.check(&target_write).is_err() {
            continue;
        }
        world.apply([target_write]).await;
        world.apply([patch("a", &id, change)]).await;
        println!("{target} + {change}");
        assert_same(world.get("a", &id).await.as_ref(), &json(expected));
        // The same in one transaction.
        world.apply([put("b", &id, target), patch("b", &id, change)]).await;
        assert_same(world.get("b", &id).await.as_ref(), &json(expected));
    }
}

pub async fn deleting_what_is_absent_is_fine(harness: &dyn Harness) {
    let mut world = World::new(harness).await;
    world.apply([delete("never_seen", "1")]).await;
    world.apply([create("a", "1", "{}"), delete("a", "2"), delete("a", "1"), delete("a", "1")]).await;
    assert_eq!(world.all("a").await.len(), 0);
}

pub async fn a_deleted_record_can_be_created_again(harness: &dyn Harness) {
    let mut world = World::new(harness).await;
    world.apply([create("a", "1", "{\"n\":1,\"old\":true}")]).await;
    world.apply([delete("a", "1")]).await;
    assert_eq!(world.get("a", "1").await, None);
    world.apply([create("a", "1", "{\"n\":2}")]).await;
    assert_same(world.get("a", "1").await.as_ref(), &json("{\"n\":2}"));
}

pub async fn what_is_absent_is_absent(harness: &dyn Harness) {
    let mut world = World::new(harness).await;
    assert_eq!(world.get("never_seen", "1").await, None);
    assert!(world.all("never_seen").await.is_empty());
    world.apply([create("a", "1", "{}")]).await;
    for id in ["2", "01", "1 ", " 1", "1.0", "A"] {
        assert_eq!(world.get("a", id).await, None, "{id:?}");
    }
    assert_eq!(world.database.find_key("never seen").await.unwrap(), None);
}

pub async fn a_list_is_in_the_order_of_bytes(harness: &dyn Harness) {
    let mut world = World::new(harness).await;
    let mut ids = [
        "b",
        "B",
        "a",
        "aa",
        "a a",
        "10",
        "9",
        "1",
        "01",
        "Z",
        "z",
        "ä",
        "é",
        "ß",
        "日本",
        "🦀",
        "~",
        "_",
        "-1",
        "\u{ffff}",
        "\u{10000}",
        "a:b",
        "e\u{301}",
    ];
    world.apply(ids.iter().map(|id| create("a", id, "{}"))).await;
    ids.sort_unstable();
    let query = ListQuery { collection: name("a"), filters: Vec::new(), limit: 1_000, after: None };
    assert_eq!(world.ids(&query).await, ids);
}

pub async fn a_list_goes_on_after_an_id(harness: &dyn Harness) {
    let mut world = World::new(harness).await;
    world
        .apply((0..25).map(|n| create("a", &format!("{n:02}"), &format!("{{\"even\":{}}}", n % 2 == 0))))
        .await;
    let mut query = ListQuery { collection: name("a"), filters: Vec::new(), limit: 10, after: None };
    let mut pages = Vec::new();
    loop {
        let page = world.ids(&query).await;
        let Some(last) = page.last() else { break };
        query.after = Some(record_id(last));
        pages.push(page);
    }
    assert_eq!(pages.iter().map(Vec::len).collect::<Vec<_>>(), [10, 10, 5]);
    assert_eq!(pages.concat(), (0..25).map(|n| format!("{n:02}")).collect::<Vec<_>>());

    query = ListQuery {
        collection: name("a"),
        filters: vec![("even".into(), Value::Bool(true))],
        limit: 3,
        after: Some(record_id("05")),
    };
    assert_eq!(world.ids(&query).await, ["06", "08", "10"], "the limit counts what passed the filter");
    query.after = Some(record_id("05 is no record"));
    query.limit = 1;
    assert_eq!(world.ids(&query).await, ["06"], "the record to go on after need not exist");
    query.after = Some(record_id("99"));
    assert_eq!(world.ids(&query).await, [""; 0]);
}

pub async fn a_list_is_filtered_by_equality(harness: &dyn Harness) {
    let mut world = World::new(harness).await;
    for (id, data) in [
        ("string", r#"{"v":"1","w":"same"}"#),
        ("number", r#"{"v":1,"w":"same"}"#),
        ("float", r#"{"v":1.5}"#),
        ("large", r#"{"v":9007199254740993}"#),
        ("larger", r#"{"v":9007199254740992}"#),
        ("true", r#"{"v":true,"w":"same"}"#),
        ("word", r#"{"v":"true"}"#),
        ("false", r#"{"v":false}"#),
        ("null", r#"{"v":null}"#),
        ("no_word", r#"{"v":"null"}"#),
        ("empty", r#"{"v":""}"#),
        ("array", r#"{"v":["1"]}"#),
        ("object", r#"{"v":{"v":"1"}}"#),
        ("hostile", r#"{"v":"' OR '1'='1"}"#),
        ("date", r#"{"v":"2026-01-01T00:00:00Z"}"#),
        ("absent", r#"{"w":"same"}"#),
    ] {
        world.apply([create("a", id, data)]).await;
    }
    for (filter, expected) in [
        (r#"{"v":"1"}"#, vec!["string"]),
        (r#"{"v":1}"#, vec!["number"]),
        (r#"{"v":1.5}"#, vec!["float"]),
        (r#"{"v":9007199254740993}"#, vec!["large"]),
        (r#"{"v":true}"#, vec!["true"]),
        (r#"{"v":"true"}"#, vec!["word"]),
        (r#"{"v":false}"#, vec!["false"]),
        (r#"{"v":null}"#, vec!["null"]),
        (r#"{"v":"null"}"#, vec!["no_word"]),
        (r#"{"v":""}"#, vec!["empty"]),
        (r#"{"v":"' OR '1'='1"}"#, vec!["hostile"]),
        (r#"{"v":"2026-01-01T00:00:00Z"}"#, vec!["date"]),
        (r#"{"v":"nothing"}"#, vec![]),
        (r#"{"never":"1"}"#, vec![]),
        (r#"{"w":"same"}"#, vec!["absent", "number", "string", "true"]),
        (r#"{"w":"same","v":1}"#, vec!["number"]),
        (r#"{"w":"same","v":"nothing"}"#, vec![]),
    ] {
        let query = ListQuery {
            collection: name("a"),
            filters: json(filter).into_iter().collect(),
            limit: 100,
            after: None,
        };
        assert_eq!(world.ids(&query).await, expected, "{filter}");
    }
}

pub async fn collections_do_not_mix(harness: &dyn Harness) {
    let mut world = World::new(harness).await;
    // Words that mean something to databases are names like any other.
    let names = [
        "select", "table", "order", "group", "null", "true", "type", "value", "user", "index", "_", "a1",
        "in", "id", "data", "default", "create", "none",
    ];
    world.apply(names.iter().map(|name| create(name, "1", &format!("{{\"in\":\"{name}\"}}")))).await;
    for name in names {
        assert_same(world.get(name, "1").await.as_ref(), &json(&format!("{{\"in\":\"{name}\"}}")));
        assert_eq!(world.all(name).await.len(), 1, "{name}");
    }
    // Names that differ only by case are two collections, or the second is refused: never one.
    world.apply([create("things", "1", "{\"small\":true}")]).await;
    let item = world.item(create("Things", "2", "{}"));
    if world.try_apply(&[item]).await.is_ok() {
        assert_eq!(world.all("Things").await.keys().collect::<Vec<_>>(), ["2"]);
    }
    assert_eq!(world.all("things").await.keys().collect::<Vec<_>>(), ["1"]);
}
