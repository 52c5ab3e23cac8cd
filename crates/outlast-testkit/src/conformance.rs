//! What every [`Database`] must do, as rules that each adapter's tests run against the real thing.
//!
//! An adapter's `tests/conformance.rs` makes a [`Harness`] and calls [`conformance!`](crate::conformance!) once; every rule
//! becomes a test of that name. A rule fails by panicking. Random rules print their seed and take one from
//! `OUTLAST_SEED`.

// A rule is a test's body: it reports by panicking.
#![allow(clippy::unwrap_used, clippy::panic, missing_docs)]

use std::any::Any;
use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use async_trait::async_trait;
use outlast::database::{Applied, ApplyError, Database, Item, LaneId, ListQuery, Position, TakeOverError};
use outlast::{Collection, Document, RecordId, RecordName, Refusal, RefusalKind, Sequence, Write, WriteId};
use serde_json::{Map, Number, Value};

use crate::proxy::Proxy;

pub mod batches;
pub mod outcomes;
pub mod positions;
pub mod records;
pub mod refusals;
pub mod values;

/// A database under test.
pub struct Fresh {
    /// Empty: nobody has used it before.
    pub database: Arc<dyn Database>,
    /// Kept until the rule is over: a temporary directory, a server.
    pub keep: Box<dyn Any + Send + Sync>,
}

impl fmt::Debug for Fresh {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.database.describe())
    }
}

/// What the rules need to know of an adapter.
#[async_trait]
pub trait Harness: Send + Sync {
    /// A fresh, empty database.
    async fn fresh(&self) -> Fresh;

    /// A fresh, empty database that is reached through a proxy; `None` where it is embedded.
    async fn behind_proxy(&self) -> Option<(Fresh, Proxy)> {
        None
    }

    /// A statement that adds `by` to the member `n` of a record that exists; `by` is bound, not written into the text.
    fn increment(&self, record: &RecordName, by: i64) -> Write;

    /// A statement that sets the member `text` of a record that exists to a bound string.
    fn set_text(&self, record: &RecordName, text: &str) -> Write;

    /// A statement that the database cannot understand.
    fn nonsense(&self) -> Write {
        Write::statement("THIS is no statement", Map::new(), Vec::new())
    }

    /// A statement that would change Outlast's own table of positions.
    fn trespass(&self) -> Write;

    /// Refusals for which the database needs a schema: each class that it has, [`RefusalKind::Constraint`], also one that
    /// may pass later, and [`RefusalKind::Schema`] at least.
    fn guarded(&self) -> Vec<Guarded>;

    /// Whether a record that one transaction changes twice keeps the second change for good. Without that an adapter
    /// refuses such a write.
    fn keeps_second_changes(&self) -> bool {
        true
    }

    /// Whether the database never commits two transactions that write one record at the same time. Without that no
    /// adapter can keep the rules about races, which are then skipped.
    fn isolates(&self) -> bool {
        true
    }
}

/// A write that the database refuses.
#[derive(Debug)]
pub struct Guarded {
    /// What has to stand there, each in a transaction of its own.
    pub ground: Vec<Write>,
    /// What is refused then.
    pub write: Write,
    /// Why.
    pub kind: RefusalKind,
    /// It may pass later.
    pub retryable: bool,
}

/// False, with a line that says so, where a rule cannot hold.
pub(crate) fn can_race(harness: &dyn Harness) -> bool {
    if !harness.isolates() {
        println!("SKIPPED: this database lets two transactions that write one record both commit");
    }
    harness.isolates()
}

/// Makes one test of each rule for a harness.
///
/// ```ignore
/// outlast_testkit::conformance!(MyHarness::new());
/// ```
#[macro_export]
macro_rules! conformance {
    ($harness:expr) => {
        $crate::conformance_tests! { $harness;
            positions: a_lane_has_no_position_before_it_is_taken_over,
            positions: a_take_over_raises_the_generation_and_keeps_the_sequence,
            positions: a_take_over_of_a_changed_row_says_what_stands_there,
            positions: only_one_of_several_take_overs_wins,
            positions: a_batch_prepared_before_a_take_over_has_no_effect,
            positions: a_take_over_and_a_batch_never_both_succeed,
            positions: a_batch_sent_ahead_takes_effect_right_behind_the_one_in_front_or_not_at_all,
            positions: a_batch_at_another_sequence_generation_or_owner_has_no_effect,
            positions: lanes_do_not_touch_each_other,
            positions: a_batch_over_several_lanes_moves_all_of_them_or_none,
            positions: an_operator_sets_the_position_whatever_it_was,
            positions: the_largest_sequence_is_kept,
            positions: a_closed_database_opens_again,
            outcomes: a_lost_answer_leaves_the_outcome_unknown_and_the_position_tells_it,
            batches: a_batch_takes_effect_in_order,
            batches: an_empty_batch_moves_the_sequence,
            batches: a_batch_of_500_and_one_of_5000_writes_take_effect,
            batches: a_batch_of_as_many_bytes_as_are_sent_at_once_takes_effect,
            batches: several_writes_to_one_record_take_effect_in_order,
            batches: writes_of_every_kind_mix_in_one_batch,
            batches: an_increment_counts_each_write_once,
            batches: concurrent_reads_see_whole_batches,
            refusals: a_refused_create_is_told_with_its_index_and_nothing_is_applied,
            refusals: a_refused_patch_is_told_with_its_index_and_nothing_is_applied,
            refusals: a_wrong_statement_is_told_with_its_index_and_nothing_is_applied,
            refusals: each_class_of_refusal_is_told_with_its_index_and_nothing_is_applied,
            refusals: a_statement_cannot_reach_the_positions,
            refusals: operations_of_one_write_take_effect_together_or_not_at_all,
            refusals: operations_of_one_write_may_change_a_record_one_after_the_other,
            refusals: the_first_refused_write_is_the_one_that_is_told,
            refusals: the_rest_of_a_batch_passes_without_the_refused_write,
            refusals: a_key_takes_effect_once,
            refusals: a_key_within_one_batch_takes_effect_once,
            refusals: a_key_reused_for_another_write_is_refused,
            refusals: a_refused_write_leaves_its_key_free,
            refusals: a_key_of_the_very_same_write_has_no_second_effect,
            refusals: old_keys_are_forgotten_and_young_ones_kept,
            records: put_replaces_wholly,
            records: patch_merges_as_rfc_7396_says,
            records: deleting_what_is_absent_is_fine,
            records: a_deleted_record_can_be_created_again,
            records: what_is_absent_is_absent,
            records: a_list_is_in_the_order_of_bytes,
            records: a_list_goes_on_after_an_id,
            records: a_list_is_filtered_by_equality,
            records: collections_do_not_mix,
            values: values_come_back_exactly,
            values: strings_stay_strings,
            values: long_strings_come_back_exactly,
            values: deep_documents_come_back_exactly,
            values: numbers_come_back_exactly_or_are_refused,
            values: odd_texts_come_back_exactly_or_are_refused,
            values: hostile_ids_and_strings_are_only_data,
            values: ten_thousand_hostile_texts_come_back_exactly,
            values: hostile_parameters_are_only_data,
            values: hostile_keys_and_member_names_are_only_data,
            values: random_documents_come_back_exactly,
        }
    };
}

/// Part of [`conformance!`](crate::conformance!).
#[doc(hidden)]
#[macro_export]
macro_rules! conformance_tests {
    ($harness:expr; $($group:ident : $rule:ident),* $(,)?) => {
        $(
            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $rule() {
                let harness = $harness;
                $crate::conformance::$group::$rule(&harness).await;
            }
        )*
    };
}

/// A database with a lane that is taken over, and the position that the next batch must have.
pub(crate) struct World {
    pub(crate) database: Arc<dyn Database>,
    pub(crate) lane: LaneId,
    pub(crate) position: Position,
    last_id: u64,
    _keep: Box<dyn Any + Send + Sync>,
}

impl World {
    pub(crate) async fn new(harness: &dyn Harness) -> Self {
        Self::on(harness.fresh().await).await
    }

    pub(crate) async fn on(fresh: Fresh) -> Self {
        let Fresh { database, keep } = fresh;
        database.probe().await.expect("a fresh database answers");
        let lane = LaneId::new("conformance", 0);
        let position = database.take_over(&lane, None, "owner").await.expect("a fresh lane is taken over");
        Self { database, lane, position, last_id: 0, _keep: keep }
    }

    /// Under a write id that was never used.
    pub(crate) fn item(&mut self, write: Write) -> Item {
        self.last_id += 1;
        if let Err(refused) = self.database.check(&write) {
            panic!("check refused {write:?}: {refused}");
        }
        Item { id: WriteId(Sequence::new(1, self.last_id).unwrap()), write: Arc::new(write) }
    }

    /// Applies a batch; the position follows.
    pub(crate) async fn try_apply(&mut self, items: &[Item]) -> Result<Applied, ApplyError> {
        let next = Sequence::from_u64(self.position.sequence.0.as_u64() + 1).unwrap();
        let applied = self.database.apply(&self.lane, &self.position, next, items).await?;
        self.position.sequence.0 = next;
        Ok(applied)
    }

    pub(crate) async fn apply(&mut self, writes: impl IntoIterator<Item = Write>) -> Applied {
        let items: Vec<Item> = writes.into_iter().map(|write| self.item(write)).collect();
        self.try_apply(&items).await.unwrap_or_else(|error| panic!("the batch was not applied: {error}"))
    }

    /// Applies a batch that must be refused without any effect on the position.
    pub(crate) async fn refused(&mut self, writes: impl IntoIterator<Item = Write>) -> (usize, Refusal) {
        let (index, refusal, _) = self.refused_for_now(writes).await;
        (index, refusal)
    }

    /// The same, and whether it may pass later.
    pub(crate) async fn refused_for_now(
        &mut self,
        writes: impl IntoIterator<Item = Write>,
    ) -> (usize, Refusal, bool) {
        let items: Vec<Item> = writes.into_iter().map(|write| self.item(write)).collect();
        let result = self.try_apply(&items).await;
        assert_eq!(
            self.stored_position().await.as_ref(),
            Some(&self.position),
            "a refused batch moves nothing"
        );
        match result {
            Err(ApplyError::Rejected { index, reason, retryable }) => {
                assert!(!reason.message.trim().is_empty(), "a refusal has words");
                (index, reason, retryable)
            }
            other => panic!("the batch should be refused: {other:?}"),
        }
    }

    pub(crate) async fn stored_position(&self) -> Option<Position> {
        self.database.position(&self.lane).await.unwrap()
    }

    pub(crate) async fn get(&self, collection: &str, id: &str) -> Option<Map<String, Value>> {
        let document = self.database.get(&name(collection), &record_id(id)).await.unwrap();
        document.map(|document| document.to_map())
    }

    /// All records of a collection, read through lists.
    pub(crate) async fn all(&self, collection: &str) -> BTreeMap<String, Map<String, Value>> {
        let mut query =
            ListQuery { collection: name(collection), filters: Vec::new(), limit: 700, after: None };
        let mut all = BTreeMap::new();
        loop {
            let page = self.database.list(&query).await.unwrap();
            query.after = page.last().map(|(id, _)| id.clone());
            let full = page.len() == query.limit;
            for (id, document) in page {
                assert!(
                    all.insert(id.as_str().to_owned(), document.to_map()).is_none(),
                    "{id} was listed twice"
                );
            }
            if !full {
                return all;
            }
        }
    }

    pub(crate) async fn ids(&self, query: &ListQuery) -> Vec<String> {
        self.database.list(query).await.unwrap().into_iter().map(|(id, _)| id.as_str().to_owned()).collect()
    }
}

pub(crate) fn name(collection: &str) -> Collection {
    collection.parse().unwrap_or_else(|error| panic!("{error}"))
}

pub(crate) fn record_id(id: &str) -> RecordId {
    id.parse().unwrap_or_else(|error| panic!("{id:?}: {error}"))
}

pub(crate) fn record(collection: &str, id: &str) -> RecordName {
    RecordName { collection: name(collection), id: record_id(id) }
}

pub(crate) fn json(text: &str) -> Map<String, Value> {
    serde_json::from_str(text).unwrap_or_else(|error| panic!("{text}: {error}"))
}

pub(crate) fn document(map: &Map<String, Value>) -> Document {
    Document::from_map(map).unwrap()
}

pub(crate) fn create(collection: &str, id: &str, data: &str) -> Write {
    Write::create(name(collection), record_id(id), document(&json(data)))
}

pub(crate) fn put(collection: &str, id: &str, data: &str) -> Write {
    Write::put(name(collection), record_id(id), document(&json(data)))
}

pub(crate) fn patch(collection: &str, id: &str, data: &str) -> Write {
    Write::patch(name(collection), record_id(id), document(&json(data)))
}

pub(crate) fn delete(collection: &str, id: &str) -> Write {
    Write::delete(name(collection), record_id(id))
}

/// Fails unless both are the same by value. Numbers are compared exactly, however they are spelled.
#[track_caller]
pub(crate) fn assert_same(actual: Option<&Map<String, Value>>, expected: &Map<String, Value>) {
    let same = actual.is_some_and(|actual| same_map(actual, expected));
    assert!(
        same,
        "\nexpected {}\n   found {}",
        Value::Object(expected.clone()),
        serde_json::to_string(&actual).unwrap()
    );
}

fn same_map(one: &Map<String, Value>, other: &Map<String, Value>) -> bool {
    one.len() == other.len()
        && one.iter().all(|(key, value)| other.get(key).is_some_and(|other| same_value(value, other)))
}

pub(crate) fn same_value(one: &Value, other: &Value) -> bool {
    match (one, other) {
        (Value::Number(one), Value::Number(other)) => same_number(one, other),
        (Value::Array(one), Value::Array(other)) => {
            one.len() == other.len() && one.iter().zip(other).all(|(one, other)| same_value(one, other))
        }
        (Value::Object(one), Value::Object(other)) => same_map(one, other),
        _ => one == other,
    }
}

/// The same decimal number, the sign of zero included; no floats are involved.
fn same_number(one: &Number, other: &Number) -> bool {
    fn normal(number: &Number) -> (bool, String, i64) {
        let text = number.to_string();
        let (negative, text) = text.strip_prefix('-').map_or((false, &*text), |rest| (true, rest));
        let (mantissa, exponent) = text.split_once(['e', 'E']).unwrap_or((text, "0"));
        let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
        let digits = format!("{whole}{fraction}");
        let shorter = digits.trim_end_matches('0');
        let zeros = digits.len() - shorter.len();
        let significant = shorter.trim_start_matches('0').to_owned();
        let power = exponent.parse::<i64>().unwrap() - i64::try_from(fraction.len()).unwrap()
            + i64::try_from(zeros).unwrap();
        let power = if significant.is_empty() { 0 } else { power };
        (negative, significant, power)
    }
    normal(one) == normal(other)
}

/// The seed of a random rule: from `OUTLAST_SEED`, or a new one; printed either way.
pub(crate) fn seeded(rule: &str) -> fastrand::Rng {
    let seed = std::env::var("OUTLAST_SEED")
        .ok()
        .and_then(|text| text.parse().ok())
        .unwrap_or_else(|| fastrand::u64(..));
    println!("{rule}: OUTLAST_SEED={seed}");
    fastrand::Rng::with_seed(seed)
}

/// For rules that need to say which refusal they expect.
#[track_caller]
pub(crate) fn assert_refused(actual: &(usize, Refusal), index: usize, kind: RefusalKind) {
    assert_eq!((actual.0, actual.1.kind), (index, kind), "{}", actual.1);
}

#[track_caller]
pub(crate) fn assert_moved(result: Result<Applied, ApplyError>, expected: Option<&Position>) {
    match result {
        Err(ApplyError::Moved { actual }) => assert_eq!(actual.as_ref(), expected),
        other => panic!("the position should have moved: {other:?}"),
    }
}

#[track_caller]
pub(crate) fn assert_not_taken(result: Result<Position, TakeOverError>, expected: Option<&Position>) {
    match result {
        Err(TakeOverError::Moved { actual }) => assert_eq!(actual.as_ref(), expected),
        other => panic!("the position should have moved: {other:?}"),
    }
}
