//! The checker finds what it is for, and nothing else.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::*;

fn ledger(tokens: &[Token]) -> BTreeMap<String, Seen> {
    let tokens: Vec<String> = tokens.iter().map(Token::to_string).collect();
    let count = tokens.len() as u64;
    BTreeMap::from([("counters/a".to_owned(), Seen::Ledger { count, tokens })])
}

fn document(value: Option<Value>) -> BTreeMap<String, Seen> {
    value.map(|value| ("documents/a".to_owned(), Seen::Document(value))).into_iter().collect()
}

fn note(history: &History, told: Told) -> Token {
    let (token, _) = history.begin("counters/a", |_| Change::Note);
    history.end(token, told);
    token
}

fn write(history: &History, change: Change, told: Told) -> Token {
    let (token, _) = history.begin("documents/a", |_| change);
    history.end(token, told);
    token
}

#[test]
fn acknowledged_effects_in_order_are_right_and_unknown_ones_may_be_there_or_not() {
    let history = History::default();
    let first = note(&history, Told::Applied);
    let unknown = note(&history, Told::Unknown);
    note(&history, Told::Refused(Cause::Other));
    let last = note(&history, Told::Queued);
    for tokens in [vec![first, last], vec![first, unknown, last], vec![first, last, unknown]] {
        let summary = history.check(&ledger(&tokens)).unwrap();
        assert_eq!(summary, Summary { applied: 1, queued: 1, refused: 1, unknown: 1 });
    }
}

#[test]
fn a_lost_effect_is_found_also_when_the_whole_record_is_gone() {
    let history = History::default();
    let (first, second) = (note(&history, Told::Queued), note(&history, Told::Applied));
    assert_eq!(history.check(&ledger(&[first])), Err(vec![Violation::Lost(second)]));
    assert_eq!(history.check(&BTreeMap::new()), Err(vec![Violation::Lost(first), Violation::Lost(second)]));
}

#[test]
fn a_doubled_effect_is_found_for_acknowledged_and_for_unknown_writes() {
    for told in [Told::Applied, Told::Queued, Told::Unknown] {
        let history = History::default();
        let token = note(&history, told);
        assert_eq!(history.check(&ledger(&[token, token])), Err(vec![Violation::Doubled(token)]), "{told:?}");
    }
}

#[test]
fn a_reordered_effect_is_found_only_when_the_order_was_promised() {
    let history = History::default();
    let (first, second) = (note(&history, Told::Queued), note(&history, Told::Applied));
    assert_eq!(history.check(&ledger(&[second, first])), Err(vec![Violation::Reordered(first, second)]));

    let history = History::default();
    let (first, _) = history.begin("counters/a", |_| Change::Note);
    let (second, _) = history.begin("counters/a", |_| Change::Note);
    history.end(first, Told::Applied);
    history.end(second, Told::Applied);
    history.check(&ledger(&[second, first])).expect("both were under way: any order is right");

    let history = History::default();
    let first = note(&history, Told::Queued);
    let late = note(&history, Told::Unknown);
    let between = note(&history, Told::Applied);
    assert_eq!(history.check(&ledger(&[late, first, between])), Err(vec![Violation::Reordered(first, late)]));
    history.check(&ledger(&[first, between, late])).expect("an unknown one may come late");
}

#[test]
fn an_invented_effect_and_one_of_a_refused_write_are_found() {
    let history = History::default();
    let refused = note(&history, Told::Refused(Cause::Other));
    let buried = note(&history, Told::Queued);
    history.bury(buried, Cause::Other);
    assert_eq!(history.check(&ledger(&[refused])), Err(vec![Violation::RefusedTookEffect(refused)]));
    assert_eq!(history.check(&ledger(&[buried])), Err(vec![Violation::RefusedTookEffect(buried)]));
    let stranger = ledger(&[Token(77)]);
    assert_eq!(history.check(&stranger), Err(vec![Violation::Invented("counters/a: t77".into())]));
    assert_eq!(history.check(&ledger(&[])).unwrap().refused, 2);
}

#[test]
fn a_counter_that_does_not_fit_its_list_is_found() {
    let history = History::default();
    let token = note(&history, Told::Applied);
    let tokens = vec![token.to_string()];
    let seen = BTreeMap::from([("counters/a".to_owned(), Seen::Ledger { count: 2, tokens })]);
    assert_eq!(history.check(&seen), Err(vec![Violation::Miscounted("counters/a".into())]));
}

#[test]
fn the_state_of_a_document_is_explained_by_the_acknowledged_order_alone() {
    let history = History::default();
    write(&history, Change::Create(json!({ "by": 1 })), Told::Applied);
    write(&history, Change::Create(json!({ "by": 2 })), Told::Refused(Cause::Exists));
    write(&history, Change::Patch(json!({ "more": { "a": 1, "b": null } })), Told::Queued);
    write(&history, Change::Delete, Told::Queued);
    write(&history, Change::Patch(json!({ "by": 3 })), Told::Refused(Cause::Absent));
    write(&history, Change::Put(json!({ "by": 4, "x": 1 })), Told::Applied);
    write(&history, Change::Patch(json!({ "x": null, "y": 2 })), Told::Applied);
    history.check(&document(Some(json!({ "by": 4, "y": 2 })))).unwrap();
    let wrong = [
        None,
        Some(json!({ "by": 4, "x": 1 })),
        Some(json!({ "by": 1, "more": { "a": 1 } })),
        Some(json!({ "by": 4, "y": 2, "more": { "a": 1 } })),
    ];
    for state in wrong {
        let unexplained = Err(vec![Violation::Unexplained("documents/a".into())]);
        assert_eq!(history.check(&document(state.clone())), unexplained, "{state:?}");
    }
}

#[test]
fn a_refusal_that_the_order_does_not_explain_is_found() {
    for (change, cause) in
        [(Change::Create(json!({})), Cause::Exists), (Change::Patch(json!({ "x": 1 })), Cause::Absent)]
    {
        let history = History::default();
        let present = matches!(change, Change::Patch(_));
        if present {
            write(&history, Change::Put(json!({ "by": 1 })), Told::Applied);
        }
        write(&history, change, Told::Refused(cause));
        let state = present.then(|| json!({ "by": 1 }));
        assert!(history.check(&document(state)).is_err(), "{cause:?}");
    }
}

#[test]
fn an_unknown_write_explains_a_document_at_any_place_after_it_was_sent_but_only_once() {
    let history = History::default();
    write(&history, Change::Put(json!({ "by": 1 })), Told::Applied);
    write(&history, Change::Delete, Told::Unknown);
    write(&history, Change::Patch(json!({ "x": 1 })), Told::Applied);
    history.check(&document(Some(json!({ "by": 1, "x": 1 })))).expect("it never took effect");
    history.check(&document(None)).expect("it took effect last");

    let history = History::default();
    write(&history, Change::Put(json!({ "by": 1 })), Told::Unknown);
    write(&history, Change::Delete, Told::Applied);
    history.check(&document(Some(json!({ "by": 1 })))).expect("it came late");
    write(&history, Change::Create(json!({ "by": 2 })), Told::Refused(Cause::Exists));
    write(&history, Change::Delete, Told::Applied);
    history.check(&document(None)).expect("it came between");
    assert!(history.check(&document(Some(json!({ "by": 1 })))).is_err(), "it cannot have come twice");
}

#[test]
fn writes_under_way_at_the_same_time_may_come_in_either_order() {
    let history = History::default();
    let (a, _) = history.begin("documents/a", |_| Change::Put(json!({ "by": "a" })));
    let (b, _) = history.begin("documents/a", |_| Change::Put(json!({ "by": "b" })));
    history.end(a, Told::Applied);
    history.end(b, Told::Queued);
    for by in ["a", "b"] {
        history.check(&document(Some(json!({ "by": by })))).unwrap();
    }
    let (c, _) = history.begin("documents/a", |_| Change::Put(json!({ "by": "c" })));
    history.end(c, Told::Queued);
    assert!(
        history.check(&document(Some(json!({ "by": "a" })))).is_err(),
        "c was begun after a was acknowledged"
    );
}

#[test]
fn a_document_that_nobody_wrote_is_found() {
    let violations = History::default().check(&document(Some(json!({}))));
    assert_eq!(violations, Err(vec![Violation::Invented("documents/a".into())]));
}

#[test]
fn long_histories_with_many_unknown_outcomes_are_checked_in_reasonable_time() {
    let history = History::default();
    for round in 0..120 {
        let told = if round % 15 == 7 { Told::Unknown } else { Told::Applied };
        write(&history, Change::Put(json!({ "by": round })), told);
        write(&history, Change::Patch(json!({ "x": round })), Told::Queued);
    }
    history.check(&document(Some(json!({ "by": 119, "x": 119 })))).unwrap();
    assert!(history.check(&document(Some(json!({ "by": 3, "x": 119 })))).is_err());
}
