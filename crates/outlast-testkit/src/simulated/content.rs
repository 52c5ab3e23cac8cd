//! What the simulated database holds, and what a transaction does to it. Pure data: a clone is a snapshot.

use std::collections::BTreeMap;

use outlast::database::{Applied, ApplyError, Item, LaneId, Position, Sequence64, TakeOverError};
use outlast::record::merge_patch;
use outlast::{Operation, RecordName, Refusal, RefusalKind, Sequence, Write, WriteId};
use serde_json::{Map, Value, json};

/// The one statement that it knows: adds 1 to the `n` of each record that it touches, and to its `tokens` the one at
/// the same place in the parameter `tokens`.
pub const NOTE: &str = "note";

/// A record's name: collection and id.
type Name = (String, String);

/// Records, positions and idempotency keys.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Content {
    /// Every record.
    pub records: BTreeMap<Name, Map<String, Value>>,
    /// The token of each write that took effect, in order. Part of the content: it goes back with it.
    pub effects: Vec<String>,
    positions: BTreeMap<String, Position>,
    keys: BTreeMap<String, (WriteId, String)>,
}

impl Content {
    /// The position of a lane.
    pub fn position(&self, lane: &str) -> Option<&Position> {
        self.positions.get(lane)
    }

    /// The write that was applied under this key, and its fingerprint.
    pub fn key(&self, key: &str) -> Option<&(WriteId, String)> {
        self.keys.get(key)
    }

    /// As [`outlast::database::Database::take_over`], and `reset_position` when a sequence is given.
    ///
    /// # Errors
    /// When the row is not what was seen.
    pub fn take_over(
        &mut self,
        lane: &str,
        seen: Option<&Position>,
        sequence: Option<Sequence>,
        owner: &str,
    ) -> Result<Position, TakeOverError> {
        let row = self.positions.get(lane);
        if row != seen {
            return Err(TakeOverError::Moved { actual: row.cloned() });
        }
        let stays = row.map_or(Sequence64(Sequence::START), |row| row.sequence);
        let position = Position {
            sequence: sequence.map_or(stays, Sequence64),
            generation: row.map_or(0, |row| row.generation) + 1,
            owner: owner.to_owned(),
        };
        self.positions.insert(lane.to_owned(), position.clone());
        Ok(position)
    }

    /// As [`outlast::database::Database::apply_across`]: all or nothing. `refuses` are refusals that nothing in here explains.
    ///
    /// # Errors
    /// Never `Unavailable`, `Conflict` or `Unknown`.
    pub fn apply(
        &mut self,
        rows: &[(LaneId, Position)],
        next: Sequence,
        batch: &[Item],
        refuses: impl Fn(&Write) -> Option<(Refusal, bool)>,
    ) -> Result<Applied, ApplyError> {
        for (lane, position) in rows {
            let row = self.positions.get(lane.as_str());
            if row != Some(position) {
                return Err(ApplyError::Moved { actual: row.cloned() });
            }
        }
        let mut after = self.clone();
        let mut applied = Applied::default();
        for (index, item) in batch.iter().enumerate() {
            let rejected = |(reason, retryable)| ApplyError::Rejected { index, reason, retryable };
            if let Some(key) = item.write.key() {
                match after.keys.get(&key.key) {
                    Some((id, fingerprint)) if *fingerprint == key.fingerprint => {
                        applied.duplicates.push((index, *id));
                        continue;
                    }
                    Some(_) => {
                        return Err(rejected((
                            refusal(RefusalKind::KeyReused, "another write's key"),
                            false,
                        )));
                    }
                    None => {}
                }
            }
            if let Some(refused) = refuses(&item.write) {
                return Err(rejected(refused));
            }
            for operation in item.write.operations() {
                after.execute(operation).map_err(|reason| rejected((reason, false)))?;
            }
            after.effects.extend(tokens_of(item.write.operations()));
            if let Some(key) = item.write.key() {
                after.keys.insert(key.key.clone(), (item.id, key.fingerprint.clone()));
            }
        }
        for (lane, position) in rows {
            let moved = Position { sequence: Sequence64(next), ..position.clone() };
            after.positions.insert(lane.as_str().to_owned(), moved);
        }
        *self = after;
        Ok(applied)
    }

    fn execute(&mut self, operation: &Operation) -> Result<(), Refusal> {
        match operation {
            Operation::Create { record, data } => {
                if self.records.contains_key(&name(record)) {
                    return Err(refusal(RefusalKind::Exists, "it exists"));
                }
                self.records.insert(name(record), data.to_map());
            }
            Operation::Put { record, data } => {
                self.records.insert(name(record), data.to_map());
            }
            Operation::Patch { record, data } => {
                let found = self.records.get_mut(&name(record));
                merge_patch(
                    found.ok_or_else(|| refusal(RefusalKind::NotFound, "it is absent"))?,
                    data.to_map(),
                );
            }
            Operation::Delete { record } => {
                self.records.remove(&name(record));
            }
            Operation::Statement { text, parameters, touches } if text == NOTE => {
                for (place, record) in touches.iter().enumerate() {
                    let ledger = self.records.entry(name(record)).or_default();
                    let count = ledger.get("n").and_then(Value::as_u64).unwrap_or_default();
                    ledger.insert("n".to_owned(), json!(count + 1));
                    let tokens = ledger.entry("tokens").or_insert_with(|| json!([]));
                    if let Value::Array(tokens) = tokens {
                        tokens.extend(parameters.get("tokens").and_then(|all| all.get(place)).cloned());
                    }
                }
            }
            Operation::Statement { .. } => return Err(refusal(RefusalKind::Statement, "no such statement")),
        }
        Ok(())
    }
}

fn refusal(kind: RefusalKind, message: &str) -> Refusal {
    Refusal::new(kind, message)
}

fn name(record: &RecordName) -> Name {
    (record.collection.as_str().to_owned(), record.id.as_str().to_owned())
}

/// The tokens that stand in a write: members `token` of what it writes, and the parameter `tokens` of statements.
pub fn tokens_of(operations: &[Operation]) -> Vec<String> {
    let mut tokens = Vec::new();
    let text = |value: &Value| value.as_str().map(str::to_owned);
    for operation in operations {
        match operation {
            Operation::Create { data, .. } | Operation::Put { data, .. } | Operation::Patch { data, .. } => {
                tokens.extend(data.to_map().get("token").and_then(text));
            }
            Operation::Statement { parameters, .. } => {
                let all = parameters.get("tokens").and_then(Value::as_array);
                tokens.extend(all.into_iter().flatten().filter_map(text));
            }
            Operation::Delete { .. } => {}
        }
    }
    tokens
}
