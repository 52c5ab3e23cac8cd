//! Applying a batch: one round trip when nothing is refused, and finding the write that is to blame when one is.

use std::collections::HashMap;
use std::sync::Arc;

use outlast::database::{Applied, ApplyError, Item};
use outlast::error::{Refusal, RefusalKind};
use outlast::{Collection, Operation, WriteId};
use serde_json::Value;

use crate::batch::{Block, Claim, Mode, Source, Stop, Target, absent};
use crate::connection::Connection;
use crate::fault::{Fault, Meaning};
use crate::flight::{FLIGHT_BYTES_MAX, Landing, Lost};
use crate::position::{self, READ_KEYS, ask, key_row};
use crate::shape::{Shape, Shapes, Table};

/// How often a batch is sent: at first, with nothing ahead of the position, in its own order, without the writes whose keys
/// are known, with tables looked at anew, with those that were absent, and once more for each of these three, should others
/// change keys or tables meanwhile.
const ROUNDS: usize = 9;

/// What stands under the names of the batch's collections.
type Known<'a> = HashMap<&'a Collection, Arc<Shape>>;

/// A batch on its way.
pub(crate) struct Attempt<'a> {
    pub(crate) connection: &'a mut Connection,
    pub(crate) shapes: &'a Shapes,
    pub(crate) target: Target<'a>,
    pub(crate) batch: &'a [Item],
}

/// What became of a trial.
enum Verdict {
    /// Ran to its end, and was undone.
    Passed,
    /// A write was refused.
    Refused(ApplyError),
    /// A constraint that is checked at the commit does not hold.
    Constraint(Fault),
}

impl<'a> Attempt<'a> {
    /// Applies the batch.
    pub(crate) async fn run(mut self) -> Result<Applied, ApplyError> {
        let mut stored = HashMap::new();
        let mut looked = false;
        for _ in 0..ROUNDS {
            let (claims, applied) = claims(self.batch, &stored);
            let known = self.look().await?;
            let prepared = self.connection.prepared();
            let block = match Block::new(self.target, self.batch, &claims, &known, Mode::Commit, prepared) {
                Ok(block) => block,
                Err(Stop::Write(index, refusal)) => {
                    let is_of_tables = matches!(refusal.kind, RefusalKind::Schema | RefusalKind::NotFound);
                    let refused = self.first_refused(index, refusal, &claims, &known).await?;
                    let is_first =
                        matches!(refused, ApplyError::Rejected { index: first, .. } if first == index);
                    if !(is_of_tables && is_first) || looked {
                        return Err(refused);
                    }
                    // Its turn has come by now. A table that was made or changed since it was looked at, by the batch in
                    // front for example, may take the write after all.
                    looked = true;
                    self.forget();
                    continue;
                }
                Err(Stop::TooLarge(reason)) => return Err(too_large(self.batch, &reason)),
            };
            let Block { flight, sources, made } = block;
            let (at, fault) = match self.connection.fly(flight, self.target.limits.deadline).await {
                Ok(Landing::Done(_)) => {
                    for collection in made {
                        let table = Table::of_documents(collection);
                        self.shapes.put(collection, &Arc::new(Shape::Table(table)));
                    }
                    return Ok(applied);
                }
                Ok(Landing::Failed(at, fault)) => (at, fault),
                Err(Lost::NotSent(reason)) => return Err(ApplyError::Unavailable(reason)),
                Err(Lost::Sent(reason)) => return Err(ApplyError::Unknown(reason)),
            };
            let source = sources.get(at).copied().unwrap_or(Source::End);
            if source == Source::Absent && fault.meaning() == Meaning::Missing {
                // Tables are looked at again.
            } else if source == Source::Ahead && is_refusal(&fault) {
                // It counts only once the position is known to be the expected one.
                self.target.binds_ahead = false;
            } else if source == Source::Keys && fault.code == "23505" {
                stored = self.read_keys().await?;
            } else if !looked && is_of_tables(&fault) {
                // A column may by now have another type, which takes the value.
                looked = true;
                self.forget();
            } else if source == Source::End && fault.code.starts_with("XX") {
                // Not every relative of PostgreSQL rolls back what fails at its commit in this way.
                return Err(ApplyError::Unknown(fault.message));
            } else if !self.target.keeps_order && is_refusal(&fault) {
                // It may only be refused for the order in which it was sent.
                self.target.keeps_order = true;
            } else if let Some(error) = self.refused(source, &fault, &known) {
                return Err(error);
            } else if is_refusal(&fault) && matches!(source, Source::Operations { .. } | Source::End) {
                return Err(self.blame(self.batch.len(), &claims, &known).await?);
            } else {
                return Err(self.failed(source, &fault).await);
            }
        }
        Err(ApplyError::Conflict("the tables or keys that the batch meets keep changing".to_owned()))
    }

    fn collections(&self) -> impl Iterator<Item = &'a Collection> + use<'a> {
        let operations = self.batch.iter().flat_map(|item| item.write.operations());
        operations
            .filter(|operation| !matches!(operation, Operation::Statement { .. }))
            .flat_map(Operation::records)
            .map(|record| &record.collection)
    }

    async fn look(&mut self) -> Result<Known<'a>, ApplyError> {
        let collections = self.collections();
        let shapes = self.shapes.of(self.connection, collections, self.target.limits).await;
        // Nothing of the batch is under way here: whatever goes wrong, nothing was committed.
        shapes.map_err(|trouble| {
            ApplyError::Unavailable(outlast::database::DatabaseError::from(trouble).to_string())
        })
    }

    fn forget(&self) {
        self.shapes.forget(self.collections());
    }

    /// The refusal of a write that is alone in its statement.
    fn refused(&self, source: Source, fault: &Fault, known: &Known<'_>) -> Option<ApplyError> {
        match source {
            // Another made the same table in the same moment.
            Source::Table(_) if matches!(&*fault.code, "23505" | "42P07" | "42710") => {
                Some(ApplyError::Conflict(fault.message.clone()))
            }
            Source::Table(write) if is_refusal(fault) => {
                let kind = match fault.meaning() {
                    Meaning::Refused { kind: RefusalKind::Permission, .. } => RefusalKind::Permission,
                    _ => RefusalKind::Schema,
                };
                let reason = Refusal::new(kind, fault.message.clone());
                Some(ApplyError::Rejected { index: write, reason, retryable: false })
            }
            Source::Operations { alone: Some((write, place)) } => {
                let operation = self.batch.get(write)?.write.operations().get(place)?;
                let statement = matches!(operation, Operation::Statement { .. });
                let broken_off = statement && fault.meaning() == Meaning::BrokenOff;
                (broken_off || is_refusal(fault)).then(|| rejected(write, operation, fault, known))
            }
            _ => None,
        }
    }

    /// A failure that no write is to blame for.
    async fn failed(&mut self, source: Source, fault: &Fault) -> ApplyError {
        let message = fault.message.clone();
        match (source, fault.meaning()) {
            (Source::Position, Meaning::Missing) => self.moved().await,
            (Source::Absent, Meaning::Missing) => {
                ApplyError::Conflict("a table was made in the same moment".to_owned())
            }
            (Source::Position, _) if fault.code == "42P01" => ApplyError::Moved { actual: None },
            (Source::Position | Source::Keys, _) if fault.code == "42501" => {
                ApplyError::Unavailable(position::rights(fault))
            }
            (_, Meaning::Conflict) => ApplyError::Conflict(message),
            (_, Meaning::Session) => {
                self.connection.abandon();
                ApplyError::Conflict(message)
            }
            (_, Meaning::Unknown) => {
                self.connection.abandon();
                ApplyError::Unknown(message)
            }
            (_, Meaning::Elsewhere) => {
                self.connection.note_demotion();
                ApplyError::Unavailable(message)
            }
            (_, Meaning::BrokenOff) => {
                ApplyError::Unavailable(format!("the batch took longer than its time limit ({message})"))
            }
            _ => ApplyError::Unavailable(message),
        }
    }

    /// The position was not the expected one: says what stands there.
    async fn moved(&mut self) -> ApplyError {
        for (lane, expected) in self.target.rows {
            match position::read(self.connection, lane, self.target.limits).await {
                Ok(Some(actual)) if actual == *expected => {}
                Ok(actual) => return ApplyError::Moved { actual },
                Err(error) => return ApplyError::Unavailable(error.to_string()),
            }
        }
        match self.advances().await {
            Ok(true) => {
                return ApplyError::Conflict(
                    "the position was reached only after the batch had come".to_owned(),
                );
            }
            Ok(false) => {}
            Err(reason) => return ApplyError::Unavailable(reason),
        }
        // Row-level security, or a trigger, keeps us from changing it.
        let rights = "the account may read but not change its row of the table outlast_position";
        ApplyError::Unavailable(rights.to_owned())
    }

    /// Whether the position can be moved now. Leaves nothing behind.
    async fn advances(&mut self) -> Result<bool, String> {
        let target = self.target;
        let shapes = HashMap::new();
        let block = Block::new(target, &[], &[], &shapes, Mode::Trial, None);
        let Ok(Block { flight, .. }) = block else { return Ok(false) };
        match self.connection.fly(flight, target.limits.deadline).await {
            Ok(Landing::Done(_)) => Ok(true),
            Ok(Landing::Failed(_, fault)) if fault.meaning() == Meaning::Missing => Ok(false),
            Ok(Landing::Failed(_, fault)) => Err(fault.message),
            Err(lost) => Err(lost.into_message()),
        }
    }

    /// The write at `index` is refused without asking the database. One before it may be refused by that: then it is
    /// the first.
    async fn first_refused(
        &mut self,
        index: usize,
        refusal: Refusal,
        claims: &[Claim],
        known: &Known<'_>,
    ) -> Result<ApplyError, ApplyError> {
        let retryable = refusal.kind == RefusalKind::Schema;
        match self.trial(index, claims, known).await? {
            Verdict::Refused(error) => Ok(error),
            // What the refused write itself would have made right does not count.
            Verdict::Passed | Verdict::Constraint(_) => {
                Ok(ApplyError::Rejected { index, reason: refusal, retryable })
            }
        }
    }

    /// Finds the first write of a beginning of the batch that is refused, by transactions that are rolled back.
    async fn blame(
        &mut self,
        writes: usize,
        claims: &[Claim],
        known: &Known<'_>,
    ) -> Result<ApplyError, ApplyError> {
        let mut fault = match self.trial(writes, claims, known).await? {
            Verdict::Refused(error) => return Ok(error),
            Verdict::Constraint(fault) => fault,
            Verdict::Passed => {
                return Ok(ApplyError::Conflict(
                    "the database refused a write, and then did not any more".to_owned(),
                ));
            }
        };
        // A write before which a commit would pass and after which it would not.
        let (mut passes, mut fails) = (0, writes);
        while fails - passes > 1 {
            let middle = usize::midpoint(passes, fails);
            match self.trial(middle, claims, known).await? {
                Verdict::Passed => passes = middle,
                Verdict::Constraint(another) => (fails, fault) = (middle, another),
                Verdict::Refused(error) => return Ok(error),
            }
        }
        let retryable = matches!(fault.meaning(), Meaning::Refused { retryable: true, .. });
        let reason = Refusal::new(RefusalKind::Constraint, fault.message);
        Ok(ApplyError::Rejected { index: fails - 1, reason, retryable })
    }

    /// Runs the first `writes` writes, one statement for each operation, and rolls them back.
    async fn trial(
        &mut self,
        writes: usize,
        claims: &[Claim],
        known: &Known<'_>,
    ) -> Result<Verdict, ApplyError> {
        let beginning = self.batch.get(..writes).unwrap_or(self.batch);
        let block = match Block::new(self.target, beginning, claims, known, Mode::Trial, None) {
            Ok(block) => block,
            Err(Stop::Write(index, reason)) => {
                let retryable = reason.kind == RefusalKind::Schema;
                return Ok(Verdict::Refused(ApplyError::Rejected { index, reason, retryable }));
            }
            Err(Stop::TooLarge(reason)) => return Ok(Verdict::Refused(too_large(beginning, &reason))),
        };
        let (at, fault) = match self.connection.fly(block.flight, self.target.limits.deadline).await {
            Ok(Landing::Done(_)) => return Ok(Verdict::Passed),
            Ok(Landing::Failed(at, fault)) => (at, fault),
            // A trial commits nothing, whatever became of it.
            Err(lost) => return Err(ApplyError::Unavailable(lost.into_message())),
        };
        let source = block.sources.get(at).copied().unwrap_or(Source::End);
        if source == Source::Constraints && is_refusal(&fault) {
            return Ok(Verdict::Constraint(fault));
        }
        if let Some(error) = self.refused(source, &fault, known) {
            return Ok(Verdict::Refused(error));
        }
        Err(match self.failed(source, &fault).await {
            ApplyError::Unknown(reason) => ApplyError::Unavailable(reason),
            error => error,
        })
    }

    async fn read_keys(&mut self) -> Result<HashMap<String, (WriteId, String)>, ApplyError> {
        let keys: Vec<&str> = self.batch.iter().filter_map(|item| Some(&*item.write.key()?.key)).collect();
        let keys = Value::from(keys).to_string();
        let rows = ask(self.connection, READ_KEYS, &[Some(&keys)], self.target.limits).await;
        // Nothing of the batch is under way here: whatever goes wrong, nothing was committed.
        let answer = rows.map_err(|trouble| {
            ApplyError::Unavailable(outlast::database::DatabaseError::from(trouble).to_string())
        })?;
        Ok(answer.rows.iter().filter_map(key_row).collect())
    }
}

/// What becomes of each write, with the keys that are stored and those of the writes before it, and which writes take
/// no effect because another has their key.
fn claims(batch: &[Item], stored: &HashMap<String, (WriteId, String)>) -> (Vec<Claim>, Applied) {
    let mut known: HashMap<&str, (WriteId, &str)> =
        stored.iter().map(|(key, (id, fingerprint))| (&**key, (*id, &**fingerprint))).collect();
    let mut applied = Applied::default();
    let mut claims = Vec::with_capacity(batch.len());
    for (index, item) in batch.iter().enumerate() {
        let Some(key) = item.write.key() else {
            claims.push(Claim::Run);
            continue;
        };
        claims.push(match known.get(key.key.as_str()) {
            None => {
                known.insert(&key.key, (item.id, &key.fingerprint));
                Claim::Run
            }
            Some((owner, fingerprint)) if *fingerprint != key.fingerprint => Claim::Reused(*owner),
            // Its own key: it was applied itself, which is no duplicate.
            Some((owner, _)) if *owner == item.id => Claim::Done,
            Some((owner, _)) => {
                applied.duplicates.push((index, *owner));
                Claim::Done
            }
        });
    }
    (claims, applied)
}

/// The database refuses something, and it is not one of our own tables or functions that is missing.
fn is_refusal(fault: &Fault) -> bool {
    matches!(fault.meaning(), Meaning::Refused { .. } | Meaning::Missing | Meaning::Shape)
        && !is_about_ours(fault)
}

/// A table may not be as it was when it was looked at.
fn is_of_tables(fault: &Fault) -> bool {
    let meaning = fault.meaning();
    let kind = |kind| matches!(kind, RefusalKind::Schema | RefusalKind::Statement);
    let is_of_tables =
        meaning == Meaning::Shape || matches!(meaning, Meaning::Refused { kind: of, .. } if kind(of));
    is_of_tables && !is_about_ours(fault)
}

fn is_about_ours(fault: &Fault) -> bool {
    matches!(&*fault.code, "42P01" | "42883") && fault.message.contains("outlast_")
}

/// The refusal of one operation.
fn rejected(index: usize, operation: &Operation, fault: &Fault, known: &Known<'_>) -> ApplyError {
    let (kind, retryable) = match fault.meaning() {
        Meaning::Refused { kind, retryable } => (kind, retryable),
        // A migration may be under way.
        Meaning::Shape => (RefusalKind::Schema, true),
        Meaning::BrokenOff => (RefusalKind::Statement, false),
        _ => (RefusalKind::Other, false),
    };
    let refusal = |kind, message: String| ApplyError::Rejected {
        index,
        reason: Refusal::new(kind, message),
        retryable,
    };
    let missing = fault.meaning() == Meaning::Missing;
    match operation {
        Operation::Statement { .. } => {
            let kind = match kind {
                RefusalKind::Schema | RefusalKind::Other => RefusalKind::Statement,
                kind => kind,
            };
            refusal(kind, fault.message.clone())
        }
        Operation::Patch { record, .. } if missing => refusal(RefusalKind::NotFound, absent(record)),
        _ if missing => refusal(
            RefusalKind::Constraint,
            "a trigger of the table ignored the write, or the id is not spelled as its column spells it"
                .to_owned(),
        ),
        Operation::Create { record, .. } if fault.code == "23505" => {
            let table = known.get(&record.collection).map(Arc::as_ref);
            if is_about_key(fault, table, &record.collection) {
                let message =
                    format!("the record \"{}\" of \"{}\" exists already", record.id, record.collection);
                return refusal(RefusalKind::Exists, message);
            }
            refusal(kind, fault.message.clone())
        }
        // Our own statement is right: it is a trigger that raised, or the table that does not fit.
        _ if fault.code.starts_with("P0") => refusal(RefusalKind::Constraint, fault.message.clone()),
        _ if kind == RefusalKind::Statement => refusal(RefusalKind::Schema, fault.message.clone()),
        _ => refusal(kind, fault.message.clone()),
    }
}

/// A unique violation is about the record's key, and not about another index.
fn is_about_key(fault: &Fault, shape: Option<&Shape>, collection: &Collection) -> bool {
    let own;
    let table = if let Some(Shape::Table(table)) = shape {
        table
    } else {
        own = Table::of_documents(collection);
        &own
    };
    let columns: Vec<&str> = table.key.iter().map(|key| key.name.as_str()).collect();
    fault.constraint.as_deref() == Some(&table.key_index)
        || fault.message.contains(&format!("({})=(", columns.join(", ")))
}

/// Blames the largest write: without it the batch may fit.
fn too_large(batch: &[Item], reason: &str) -> ApplyError {
    let sizes = batch.iter().map(|item| size(item.write.operations()));
    let index = sizes.enumerate().max_by_key(|(_, size)| *size).map_or(0, |(index, _)| index);
    let message = format!("the batch cannot be sent: {reason} (at most {FLIGHT_BYTES_MAX} bytes)");
    ApplyError::Rejected { index, reason: Refusal::new(RefusalKind::TooLarge, message), retryable: false }
}

/// About how many bytes operations take in a flight.
pub(crate) fn size(operations: &[Operation]) -> usize {
    let of = |operation: &Operation| match operation {
        Operation::Create { data, .. } | Operation::Put { data, .. } | Operation::Patch { data, .. } => {
            data.as_str().len()
        }
        Operation::Delete { .. } => 0,
        Operation::Statement { text, parameters, .. } => {
            text.len() + parameters.values().map(|value| value.to_string().len()).sum::<usize>()
        }
    };
    operations.iter().map(of).sum()
}
