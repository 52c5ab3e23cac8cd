//! Applying a batch: one round trip when nothing is refused, and finding the write that is to blame when one is.

use std::collections::{HashMap, HashSet};
use std::time::{SystemTime, UNIX_EPOCH};

use ciborium::Value as Cbor;
use outlast::database::{Applied, ApplyError, Item};
use outlast::error::{Refusal, RefusalKind};
use outlast::{Operation, WriteId};
use tokio::time::Instant;

use crate::batch::{ABSENT, Block, Care, DONE, EXISTS, KEYS, MOVED, POSITIONS, TRIAL, Target};
use crate::connection::RequestError;
use crate::fault::{Fault, Meaning};
use crate::pool::Pooled;
use crate::position;
use crate::value::record;

/// How often a batch is sent: fast, without the writes whose keys are known, carefully, and once more for each of these
/// two, should others change keys or records meanwhile.
const ROUNDS: usize = 5;

/// A batch on its way.
pub(crate) struct Attempt<'a> {
    connection: Pooled,
    target: Target<'a>,
    batch: &'a [Item],
    deadline: Instant,
}

/// What the server made of a block.
enum Verdict {
    /// Committed; or, for a trial, ran to its end and was undone.
    Passed,
    /// Certainly not committed, because of one of the writes.
    Refused(Fault, Meaning),
}

impl<'a> Attempt<'a> {
    /// Makes the batch ready to be sent.
    pub(crate) fn prepare(
        connection: Pooled,
        target: Target<'a>,
        batch: &'a [Item],
    ) -> Result<Self, ApplyError> {
        let mut attempt = Self { connection, target, batch, deadline: Instant::now() };
        attempt.make_ready(batch, &HashSet::new(), Care::Fast)?;
        Ok(attempt)
    }

    /// Applies the batch.
    pub(crate) async fn run(mut self, deadline: Instant) -> Result<Applied, ApplyError> {
        self.deadline = deadline;
        let mut applied = Applied::default();
        let mut skipped = HashSet::new();
        let mut care = Care::Fast;
        for round in 0..ROUNDS {
            if round > 0 {
                self.make_ready(self.batch, &skipped, care)?;
            }
            let verdict = self.ask(care).await?;
            let (fault, meaning) = match verdict {
                Verdict::Passed => return Ok(applied),
                Verdict::Refused(fault, meaning) => (fault, meaning),
            };
            if fault.is_about_keys() {
                (skipped, applied.duplicates) = self.known_keys().await?;
                continue;
            }
            if let Some(index) = self.blamed(&fault).or_else(|| self.alone(&skipped, meaning)) {
                return Err(self.rejected(index, &fault, meaning));
            }
            // These two are named, or avoided, by looking first; all others would only be met again.
            let exists = matches!(meaning, Meaning::Refused { kind: RefusalKind::Exists, .. });
            if care == Care::Fast && (exists || meaning == Meaning::TableMissing) {
                care = Care::Careful;
                continue;
            }
            return Err(self.search(&skipped, &fault, meaning).await?);
        }
        Err(ApplyError::Conflict("the records or keys that the batch meets keep changing".to_owned()))
    }

    /// The only write of the batch, when what was answered can only be about it.
    fn alone(&self, skipped: &HashSet<usize>, meaning: Meaning) -> Option<usize> {
        let certain = matches!(meaning, Meaning::Refused { .. } | Meaning::Thrown);
        let mut sent = (0..self.batch.len()).filter(|index| !skipped.contains(index));
        sent.next().filter(|_| certain && sent.next().is_none())
    }

    /// Finds the first write that is refused, by transactions that are never committed: the shortest beginning of the
    /// batch that fails ends with it. Looks first at the write whose record the fault names.
    async fn search(
        &mut self,
        skipped: &HashSet<usize>,
        fault: &Fault,
        meaning: Meaning,
    ) -> Result<ApplyError, ApplyError> {
        let hint = self.batch.iter().position(|item| item.write.records().any(|record| fault.names(record)));
        let mut suggested = hint.map(|index| [index, index + 1].to_vec()).unwrap_or_default();
        let mut found = None;
        let (mut passes, mut fails) = (0, self.batch.len());
        while fails - passes > 1 || found.is_none() {
            let middle = match suggested.pop() {
                Some(middle) if passes < middle && middle < fails => middle,
                Some(_) => continue,
                // Nothing failed so far, so the whole batch must, unless the failure was another one.
                None if fails - passes == 1 => fails,
                None => passes + (fails - passes) / 2,
            };
            let beginning = self.batch.get(..middle).unwrap_or_default();
            match self.send(beginning, skipped, Care::Trial).await? {
                Verdict::Passed if middle == fails => return Ok(irreproducible(meaning)),
                Verdict::Passed => passes = middle,
                Verdict::Refused(fault, meaning) => {
                    found = Some((fault, meaning));
                    fails = middle;
                }
            }
        }
        let Some((fault, meaning)) = found else { return Ok(irreproducible(meaning)) };
        Ok(self.rejected(self.blamed(&fault).unwrap_or(fails - 1), &fault, meaning))
    }

    /// Sends these writes as a block.
    async fn send(
        &mut self,
        writes: &[Item],
        skipped: &HashSet<usize>,
        care: Care,
    ) -> Result<Verdict, ApplyError> {
        self.make_ready(writes, skipped, care)?;
        self.ask(care).await
    }

    /// Makes these writes ready to be sent as a block.
    fn make_ready(
        &mut self,
        writes: &[Item],
        skipped: &HashSet<usize>,
        care: Care,
    ) -> Result<(), ApplyError> {
        let block =
            Block::new(self.target, writes, skipped, care, now_millis()).map_err(|(index, invalid)| {
                let reason = Refusal::new(RefusalKind::Other, invalid.to_string());
                ApplyError::Rejected { index, reason, retryable: false }
            })?;
        self.connection.prepare(&block.text, block.values).map_err(|error| match error {
            RequestError::TooLarge(bytes) => self.too_large(bytes),
            error => ApplyError::Unavailable(error.into_message()),
        })
    }

    /// Sends what was made ready and sorts the answer. What is not about one of the writes is an error.
    async fn ask(&mut self, care: Care) -> Result<Verdict, ApplyError> {
        let fault = match self.connection.run(self.deadline).await {
            Ok(rows) => match worst(rows) {
                Ok(results) if results.iter().any(|row| row.as_text() == Some(DONE)) => {
                    return Ok(Verdict::Passed);
                }
                Ok(_) => return Err(ApplyError::Unknown("the database's answer makes no sense".to_owned())),
                Err(fault) => fault,
            },
            Err(RequestError::Fault(fault)) => fault,
            Err(error @ (RequestError::TooLarge(_) | RequestError::Unsendable(_))) => {
                return Err(ApplyError::Unavailable(error.into_message()));
            }
            // A trial commits nothing, whatever became of it.
            Err(RequestError::Lost(reason)) if care == Care::Trial => {
                return Err(ApplyError::Unavailable(reason));
            }
            Err(RequestError::Lost(reason)) => return Err(ApplyError::Unknown(reason)),
        };
        let thrown = fault.thrown();
        if thrown == Some(TRIAL) && care == Care::Trial {
            return Ok(Verdict::Passed);
        }
        if thrown == Some(MOVED) {
            return Err(self.moved().await);
        }
        let meaning = fault.meaning();
        Err(match meaning {
            Meaning::TableMissing if fault.is_about_table(POSITIONS) => ApplyError::Moved { actual: None },
            // The next probe makes it.
            Meaning::TableMissing if fault.is_about_table(KEYS) => ApplyError::Unavailable(fault.message),
            Meaning::Thrown | Meaning::Refused { .. } | Meaning::TableMissing | Meaning::Unclear => {
                return Ok(Verdict::Refused(fault, meaning));
            }
            Meaning::Echo | Meaning::Conflict => ApplyError::Conflict(fault.message),
            Meaning::Unknown if care != Care::Trial => ApplyError::Unknown(fault.message),
            Meaning::Session => {
                self.connection.abandon();
                ApplyError::Unavailable(fault.message)
            }
            _ => ApplyError::Unavailable(fault.message),
        })
    }

    /// The position was not the expected one: says what stands there.
    async fn moved(&mut self) -> ApplyError {
        for (lane, expected) in self.target.rows {
            match position::read(&mut self.connection, lane, self.deadline).await {
                Ok(Some(actual)) if actual == *expected => {}
                Ok(actual) => return ApplyError::Moved { actual },
                Err(error) => return ApplyError::Unavailable(error.to_string()),
            }
        }
        let rights = "the account may read but not write the table outlast_position: it needs the role EDITOR or OWNER";
        ApplyError::Unavailable(rights.to_owned())
    }

    /// The write that a refusal names by its index.
    fn blamed(&self, fault: &Fault) -> Option<usize> {
        let thrown = fault.thrown()?;
        let index = thrown.strip_prefix(EXISTS).or_else(|| thrown.strip_prefix(ABSENT))?;
        index.parse().ok().filter(|index| *index < self.batch.len())
    }

    fn rejected(&self, index: usize, fault: &Fault, meaning: Meaning) -> ApplyError {
        let write = self.batch.get(index).map(|item| &item.write);
        let operations = write.map_or(&[][..], |write| write.operations());
        let has_statement =
            operations.iter().any(|operation| matches!(operation, Operation::Statement { .. }));
        let thrown = fault.thrown();
        let (kind, retryable) = match meaning {
            Meaning::Refused { kind, retryable } => (kind, retryable),
            Meaning::TableMissing => (RefusalKind::Schema, false),
            Meaning::Thrown if thrown.is_some_and(|text| text.starts_with(EXISTS)) => {
                (RefusalKind::Exists, false)
            }
            Meaning::Thrown if thrown.is_some_and(|text| text.starts_with(ABSENT)) => {
                (RefusalKind::NotFound, false)
            }
            _ if has_statement => (RefusalKind::Statement, false),
            // An event, or a function in a check, threw.
            Meaning::Thrown => (RefusalKind::Constraint, false),
            _ => (RefusalKind::Other, false),
        };
        let message = match (kind, thrown, operations) {
            (RefusalKind::Exists, Some(_), [Operation::Create { record, .. }]) => {
                format!("the record \"{}\" of \"{}\" exists already", record.id, record.collection)
            }
            (RefusalKind::Exists, Some(_), _) => "a record that was to be created exists already".to_owned(),
            (RefusalKind::NotFound, Some(_), [Operation::Patch { record, .. }]) => {
                format!("there is no record \"{}\" in \"{}\" to patch", record.id, record.collection)
            }
            (RefusalKind::NotFound, Some(_), _) => {
                "a record that was to be patched does not exist".to_owned()
            }
            (_, Some(thrown), _) => thrown.to_owned(),
            _ => fault.message.clone(),
        };
        ApplyError::Rejected { index, reason: Refusal::new(kind, message), retryable }
    }

    /// Blames the largest write: without it the batch may fit.
    fn too_large(&self, bytes: usize) -> ApplyError {
        let sizes = self.batch.iter().map(|item| size(item.write.operations()));
        let index = sizes.enumerate().max_by_key(|(_, size)| *size).map_or(0, |(index, _)| index);
        let message = format!(
            "the request has {bytes} bytes, SurrealDB takes {} bytes",
            crate::socket::REQUEST_BYTES_MAX
        );
        ApplyError::Rejected { index, reason: Refusal::new(RefusalKind::TooLarge, message), retryable: false }
    }

    /// Which writes take no effect because their idempotency key is known, and the other writes that have those keys.
    async fn known_keys(&mut self) -> Result<(HashSet<usize>, Vec<(usize, WriteId)>), ApplyError> {
        let mut known = self.read_keys().await?;
        let (mut skipped, mut duplicates) = (HashSet::new(), Vec::new());
        for (index, item) in self.batch.iter().enumerate() {
            let Some(key) = item.write.key() else { continue };
            match known.get(key.key.as_str()) {
                None => {
                    known.insert(key.key.clone(), (item.id, key.fingerprint.clone()));
                }
                Some((_, fingerprint)) if *fingerprint != key.fingerprint => {
                    let reason = Refusal::new(
                        RefusalKind::KeyReused,
                        "the idempotency key belongs to a write with other content",
                    );
                    return Err(ApplyError::Rejected { index, reason, retryable: false });
                }
                Some((id, _)) => {
                    skipped.insert(index);
                    // Its own key: it was applied itself, which is no duplicate.
                    if *id != item.id {
                        duplicates.push((index, *id));
                    }
                }
            }
        }
        Ok((skipped, duplicates))
    }

    async fn read_keys(&mut self) -> Result<HashMap<String, (WriteId, String)>, ApplyError> {
        let keys = self.batch.iter().filter_map(|item| item.write.key());
        let ids = keys.map(|key| record(KEYS, &key.key)).collect();
        let values = vec![("outlast_keys".to_owned(), Cbor::Array(ids))];
        let query = "SELECT id, write_id, fingerprint FROM $outlast_keys";
        // Nothing of the batch is under way here: whatever goes wrong, nothing was committed.
        let rows = self.connection.query(query, values, self.deadline).await;
        let rows = rows.map_err(|error| ApplyError::Unavailable(error.into_message()))?;
        let results = worst(rows).map_err(|fault| ApplyError::Unavailable(fault.message))?;
        let rows = results.iter().filter_map(Cbor::as_array).flatten();
        Ok(rows.filter_map(position::key_row).collect())
    }
}

/// What to make of a failure that trials, which never reach a commit, do not meet.
fn irreproducible(meaning: Meaning) -> ApplyError {
    if meaning == Meaning::Unclear {
        return ApplyError::Unknown("the database failed in an unknown way at the commit".to_owned());
    }
    ApplyError::Conflict("the database refused a write, and then did not any more".to_owned())
}

/// All results, or the error that says most.
pub(crate) fn worst(rows: Vec<Result<Cbor, Fault>>) -> Result<Vec<Cbor>, Fault> {
    let mut echo = None;
    let mut results = Vec::with_capacity(rows.len());
    for row in rows {
        match row {
            Ok(result) => results.push(result),
            Err(fault) if fault.meaning() == Meaning::Echo => echo = Some(fault),
            Err(fault) => return Err(fault),
        }
    }
    echo.map_or(Ok(results), Err)
}

/// About how many bytes operations take in a request.
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

/// Milliseconds since 1970.
pub(crate) fn now_millis() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}
