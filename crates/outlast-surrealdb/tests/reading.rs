//! Reads: by id, in order, filtered, in pages; and what other writers stored.

#![allow(clippy::unwrap_used, reason = "tests report by panicking")]

mod common;

use common::{Fixture, collection, create};
use outlast::database::{Database, DatabaseError, ListQuery};
use outlast::{RecordId, Write};
use serde_json::{Value, json};

fn query(limit: usize) -> ListQuery {
    ListQuery { collection: collection("a"), filters: Vec::new(), limit, after: None }
}

async fn ids(db: &Fixture, query: &ListQuery) -> Vec<String> {
    db.database.list(query).await.unwrap().into_iter().map(|(id, _)| id.to_string()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_does_not_exist_is_nothing_and_no_error() {
    let db = Fixture::new().await;
    assert_eq!(db.get("nowhere", "1").await, None);
    assert!(ids(&db, &query(10)).await.is_empty());
    assert_eq!(db.database.find_key("nobody").await.unwrap(), None);
    db.apply(vec![create("a", "1", "{}")]).await.unwrap();
    assert_eq!(db.get("a", "2").await, None);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_list_follows_the_bytes_of_ids_in_pages() {
    let db = Fixture::new().await;
    let mut sorted = ["10", "2", "1", "Z", "a", "a b", "a:b", "é", "z", "日", "😀", "~", "a\u{301}", " "]
        .map(str::to_owned)
        .to_vec();
    let writes = sorted
        .iter()
        .map(|id| Write::create(collection("a"), id.parse().unwrap(), common::data("{}")))
        .collect();
    db.apply(writes).await.unwrap();
    sorted.sort();
    assert_eq!(ids(&db, &query(100)).await, sorted);
    let mut pages: Vec<String> = Vec::new();
    loop {
        let after = pages.last().map(|id| id.parse::<RecordId>().unwrap());
        let page = ids(&db, &ListQuery { after, ..query(3) }).await;
        assert!(page.len() <= 3);
        if page.is_empty() {
            break;
        }
        pages.extend(page);
    }
    assert_eq!(pages, sorted);
}

#[tokio::test(flavor = "multi_thread")]
async fn filters_compare_top_level_members_with_scalars() {
    let db = Fixture::new().await;
    db.apply(vec![
        create("a", "1", r#"{"s":"x","n":1,"b":true,"z":null}"#),
        create("a", "2", r#"{"s":"1","n":1.5,"b":false,"order":1}"#),
        create("a", "3", r#"{"s":"x","n":18446744073709551615,"b":true}"#),
        create("a", "4", r#"{"s":"2020-01-01T00:00:00Z"}"#),
    ])
    .await
    .unwrap();
    for (filters, expected) in [
        (vec![("s", json!("x"))], vec!["1", "3"]),
        (vec![("s", json!("1"))], vec!["2"]),
        (vec![("s", json!("2020-01-01T00:00:00Z"))], vec!["4"]),
        (vec![("n", json!(1))], vec!["1"]),
        (vec![("n", json!(1.5))], vec!["2"]),
        (vec![("n", json!(u64::MAX))], vec!["3"]),
        (vec![("b", json!(true)), ("s", json!("x")), ("n", json!(1))], vec!["1"]),
        (vec![("z", Value::Null)], vec!["1"]),
        (vec![("order", json!(1))], vec!["2"]),
        (vec![("absent", json!(1))], vec![]),
    ] {
        let filters: Vec<_> = filters.into_iter().map(|(name, value)| (name.to_owned(), value)).collect();
        assert_eq!(
            ids(&db, &ListQuery { filters: filters.clone(), ..query(10) }).await,
            expected,
            "{filters:?}"
        );
    }
    let hostile = ListQuery { filters: vec![("a` = 1 OR `b".to_owned(), json!(1))], ..query(10) };
    assert!(matches!(db.database.list(&hostile).await, Err(DatabaseError::Invalid(_))));
}

#[tokio::test(flavor = "multi_thread")]
async fn records_of_other_writers_are_read_where_their_key_is_a_text() {
    let db = Fixture::new().await;
    db.query(
        "CREATE a:1 SET number = true; CREATE a:⟨1⟩ SET at = d'2020-01-01T00:00:00.5Z', price = 1.50dec, owner = u:x, \
         for = 90s, absent = NONE; CREATE a:[1,2] SET array = true; CREATE a:u'018f3f1e-0000-7000-8000-000000000000';",
    );
    assert_eq!(ids(&db, &query(10)).await, ["1"]);
    let found = db.get("a", "1").await.unwrap();
    assert_eq!(found["at"], "2020-01-01T00:00:00.5Z");
    assert_eq!(found["price"].to_string(), "1.5");
    assert_eq!(found["owner"], "u:x");
    assert_eq!(found["for"], "1m30s");
    assert_eq!(found.as_object().unwrap().len(), 4);
}
