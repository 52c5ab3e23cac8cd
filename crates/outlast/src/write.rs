//! [`Write`]: one or more operations that take effect together, or not at all.

use std::collections::BTreeSet;

use outlast_log::Sequence;
use serde::de::Visitor;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::{Map, Value};

use crate::error::Invalid;
use crate::record::{Collection, Document, RecordId};
use crate::trace::TraceContext;

/// Most operations in one write.
pub const OPERATIONS_MAX: usize = 1000;
/// The word for each kind of operation.
pub const VERBS: [&str; 5] = ["create", "put", "patch", "delete", "statement"];
/// Longest idempotency key, in bytes.
pub const KEY_BYTES_MAX: usize = 255;

/// Names a record.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct RecordName {
    /// Its collection.
    pub collection: Collection,
    /// Its id.
    pub id: RecordId,
}

/// One change.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(try_from = "WireOperation")]
pub enum Operation {
    /// Make a record; refused when it exists.
    Create {
        /// Where.
        record: RecordName,
        /// What.
        data: Document,
    },
    /// Make or replace a record.
    Put {
        /// Where.
        record: RecordName,
        /// What.
        data: Document,
    },
    /// Merge into a record (JSON merge patch, RFC 7396); refused when it is absent.
    Patch {
        /// Where.
        record: RecordName,
        /// The merge patch.
        data: Document,
    },
    /// Remove a record; one that is absent is fine.
    Delete {
        /// Where.
        record: RecordName,
    },
    /// One parameterised statement of the database's language.
    Statement {
        /// The statement's text; values only through `parameters`.
        text: String,
        /// Bound by name (without the leading `:` or `$`).
        parameters: Map<String, Value>,
        /// The records it writes to: orders it with other writes to them. Without any it is ordered with nothing
        /// while it is parked.
        touches: Vec<RecordName>,
    },
}

/// An operation as it stands in the log and in a transaction's body: one flat object. Raw JSON needs a plain struct:
/// serde's tagged enums read through a buffer that would lose the digits of numbers.
#[derive(Deserialize)]
struct WireOperation {
    op: Verb,
    #[serde(default)]
    collection: Option<Collection>,
    #[serde(default)]
    id: Option<RecordId>,
    #[serde(default)]
    data: Option<Document>,
    #[serde(default)]
    statement: Option<String>,
    #[serde(default)]
    parameters: Option<Map<String, Value>>,
    #[serde(default)]
    touches: Vec<RecordName>,
}

/// The same to be written.
#[derive(Serialize)]
struct WireOperationRef<'a> {
    op: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    collection: Option<&'a Collection>,
    #[serde(skip_serializing_if = "Option::is_none")]
    id: Option<&'a RecordId>,
    #[serde(skip_serializing_if = "Option::is_none")]
    data: Option<&'a Document>,
    #[serde(skip_serializing_if = "Option::is_none")]
    statement: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    parameters: Option<&'a Map<String, Value>>,
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    touches: &'a [RecordName],
}

impl Serialize for Operation {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        let mut wire = WireOperationRef {
            op: self.verb(),
            collection: None,
            id: None,
            data: None,
            statement: None,
            parameters: None,
            touches: &[],
        };
        let record = match self {
            Self::Create { record, data } | Self::Put { record, data } | Self::Patch { record, data } => {
                wire.data = Some(data);
                Some(record)
            }
            Self::Delete { record } => Some(record),
            Self::Statement { text, parameters, touches } => {
                (wire.statement, wire.parameters, wire.touches) =
                    (Some(text.as_str()), Some(parameters), touches);
                None
            }
        };
        wire.collection = record.map(|record| &record.collection);
        wire.id = record.map(|record| &record.id);
        wire.serialize(to)
    }
}

/// The member `op`.
enum Verb {
    Create,
    Put,
    Patch,
    Delete,
    Statement,
    Unknown(Box<str>),
}

impl<'de> Deserialize<'de> for Verb {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct Name;
        impl Visitor<'_> for Name {
            type Value = Verb;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("a string")
            }

            fn visit_str<E>(self, text: &str) -> Result<Verb, E> {
                Ok(match text {
                    "create" => Verb::Create,
                    "put" => Verb::Put,
                    "patch" => Verb::Patch,
                    "delete" => Verb::Delete,
                    "statement" => Verb::Statement,
                    unknown => Verb::Unknown(unknown.into()),
                })
            }
        }
        from.deserialize_str(Name)
    }
}

impl Verb {
    fn as_str(&self) -> &str {
        match self {
            Self::Create => "create",
            Self::Put => "put",
            Self::Patch => "patch",
            Self::Delete => "delete",
            Self::Statement => "statement",
            Self::Unknown(text) => text,
        }
    }
}

impl TryFrom<WireOperation> for Operation {
    type Error = Invalid;

    fn try_from(wire: WireOperation) -> Result<Self, Invalid> {
        let op = wire.op;
        let missing = |what: &str| Invalid::new(format!("operation \"{}\" needs \"{what}\"", op.as_str()));
        let record = || -> Result<RecordName, Invalid> {
            let collection = wire.collection.ok_or_else(|| missing("collection"))?;
            Ok(RecordName { collection, id: wire.id.ok_or_else(|| missing("id"))? })
        };
        let data = || wire.data.ok_or_else(|| missing("data"));
        match &op {
            Verb::Create => Ok(Self::Create { record: record()?, data: data()? }),
            Verb::Put => Ok(Self::Put { record: record()?, data: data()? }),
            Verb::Patch => Ok(Self::Patch { record: record()?, data: data()? }),
            Verb::Delete => Ok(Self::Delete { record: record()? }),
            Verb::Statement => Ok(Self::Statement {
                text: wire.statement.ok_or_else(|| missing("statement"))?,
                parameters: wire.parameters.unwrap_or_default(),
                touches: wire.touches,
            }),
            Verb::Unknown(unknown) => Err(Invalid::new(format!(
                "unknown operation \"{unknown}\": use create, put, patch, delete or statement"
            ))),
        }
    }
}

impl Operation {
    /// The word for it in metrics and messages.
    pub fn verb(&self) -> &'static str {
        match self {
            Self::Create { .. } => "create",
            Self::Put { .. } => "put",
            Self::Patch { .. } => "patch",
            Self::Delete { .. } => "delete",
            Self::Statement { .. } => "statement",
        }
    }

    /// The records that it writes to.
    pub fn records(&self) -> &[RecordName] {
        match self {
            Self::Create { record, .. }
            | Self::Put { record, .. }
            | Self::Patch { record, .. }
            | Self::Delete { record } => std::slice::from_ref(record),
            Self::Statement { touches, .. } => touches,
        }
    }

    /// The same, with the text of its document held against what is taken in from callers: what was deserialised was
    /// only seen to be an object.
    pub(crate) fn checked(&self) -> Result<Self, Invalid> {
        let checked = |record: &RecordName, data: &Document| {
            let map = serde_json::from_str(data.as_str())
                .map_err(|error| Invalid::new(format!("\"data\" is not a JSON object: {error}")))?;
            Document::for_record(&record.id, map)
        };
        let mut operation = self.clone();
        match &mut operation {
            Self::Create { record, data } | Self::Put { record, data } | Self::Patch { record, data } => {
                *data = checked(record, data)?;
            }
            Self::Delete { .. } | Self::Statement { .. } => {}
        }
        Ok(operation)
    }
}

/// A client's own name for a write, so that sending it again is harmless (`Idempotency-Key`, IETF draft).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct IdempotencyKey {
    /// 1 to 255 visible ASCII characters.
    pub key: String,
    /// SHA-256 of the operations, as hex: tells the same write from another one under the same key.
    pub fingerprint: String,
}

/// One or more operations that take effect together, or not at all: the unit of order, retry and fate.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Write {
    operations: Vec<Operation>,
    #[serde(default, rename = "idempotency", skip_serializing_if = "Option::is_none")]
    key: Option<IdempotencyKey>,
    /// Of the request that brought it. It is no part of what the write does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    trace: Option<TraceContext>,
}

impl Write {
    /// A write of several operations, in order.
    ///
    /// # Errors
    /// Without any operation, or with more than [`OPERATIONS_MAX`].
    pub fn new(operations: Vec<Operation>) -> Result<Self, Invalid> {
        if operations.is_empty() || operations.len() > OPERATIONS_MAX {
            return Err(Invalid::new(format!(
                "a write has 1 to {OPERATIONS_MAX} operations, this one has {}",
                operations.len()
            )));
        }
        Ok(Self { operations, key: None, trace: None })
    }

    fn one(operation: Operation) -> Self {
        Self { operations: vec![operation], key: None, trace: None }
    }

    /// Make a record; refused when it exists.
    pub fn create(collection: Collection, id: RecordId, data: Document) -> Self {
        Self::one(Operation::Create { record: RecordName { collection, id }, data })
    }

    /// Make or replace a record.
    pub fn put(collection: Collection, id: RecordId, data: Document) -> Self {
        Self::one(Operation::Put { record: RecordName { collection, id }, data })
    }

    /// Merge into a record (RFC 7396); refused when it is absent.
    pub fn patch(collection: Collection, id: RecordId, data: Document) -> Self {
        Self::one(Operation::Patch { record: RecordName { collection, id }, data })
    }

    /// Remove a record; one that is absent is fine.
    pub fn delete(collection: Collection, id: RecordId) -> Self {
        Self::one(Operation::Delete { record: RecordName { collection, id } })
    }

    /// One parameterised statement of the database's language.
    pub fn statement(
        text: impl Into<String>,
        parameters: Map<String, Value>,
        touches: Vec<RecordName>,
    ) -> Self {
        Self::one(Operation::Statement { text: text.into(), parameters, touches })
    }

    /// The same write under an idempotency key.
    ///
    /// # Errors
    /// When the key is empty, longer than [`KEY_BYTES_MAX`], or not visible ASCII.
    pub fn with_idempotency_key(mut self, key: &str) -> Result<Self, Invalid> {
        if key.is_empty()
            || key.len() > KEY_BYTES_MAX
            || !key.bytes().all(|b| b.is_ascii_graphic() || b == b' ')
        {
            return Err(Invalid::new(format!(
                "an idempotency key has 1 to {KEY_BYTES_MAX} visible ASCII characters"
            )));
        }
        self.key = Some(IdempotencyKey { key: key.to_owned(), fingerprint: fingerprint(&self.operations) });
        Ok(self)
    }

    /// The same write with other operations. It keeps its idempotency key with the fingerprint of what its client sent: who
    /// sends that again is told what became of it.
    ///
    /// # Errors
    /// As [`Write::new`]; and when they write to other records: the order of a record would be lost.
    pub(crate) fn edited(&self, operations: Vec<Operation>) -> Result<Self, Invalid> {
        let edited = Self { key: self.key.clone(), trace: self.trace.clone(), ..Self::new(operations)? };
        let records = |write: &Self| write.records().cloned().collect::<BTreeSet<_>>();
        let (before, after) = (records(self), records(&edited));
        if before == after {
            return Ok(edited);
        }
        let named = |only: std::collections::btree_set::Difference<'_, RecordName>| {
            only.map(|record| format!("{}/{}", record.collection, record.id)).collect::<Vec<_>>().join(", ")
        };
        let (left, added) = (named(before.difference(&after)), named(after.difference(&before)));
        let what = match (left.as_str(), added.as_str()) {
            (left, "") => format!("it would not write to {left} any more"),
            ("", added) => format!("it would also write to {added}"),
            (left, added) => format!("it would write to {added} instead of {left}"),
        };
        Err(Invalid::new(format!(
            "an edited write keeps its records, so that their order is kept: {what}. To write to other records, discard \
             the dead letter and send a new write"
        )))
    }

    /// The same write, linked to the request that brought it.
    #[must_use]
    pub fn with_trace(mut self, trace: Option<TraceContext>) -> Self {
        self.trace = trace;
        self
    }

    /// The context of the request that brought it.
    pub fn trace(&self) -> Option<&TraceContext> {
        self.trace.as_ref()
    }

    /// The operations, in order.
    pub fn operations(&self) -> &[Operation] {
        &self.operations
    }

    /// The idempotency key, if the client gave one.
    pub fn key(&self) -> Option<&IdempotencyKey> {
        self.key.as_ref()
    }

    /// Every record that it writes to.
    pub fn records(&self) -> impl Iterator<Item = &RecordName> {
        self.operations.iter().flat_map(Operation::records)
    }

    /// The first operation's word, or `transaction` when there are several.
    pub fn verb(&self) -> &'static str {
        match self.operations.as_slice() {
            [one] => one.verb(),
            _ => "transaction",
        }
    }
}

fn fingerprint(operations: &[Operation]) -> String {
    use sha2::Digest;
    use std::fmt::Write as _;
    let text = serde_json::to_vec(operations).unwrap_or_default();
    sha2::Sha256::digest(text).iter().fold(String::with_capacity(64), |mut hex, byte| {
        let _ = write!(hex, "{byte:02x}");
        hex
    })
}

/// A write as the log keeps it: with the history that it had before it was appended again.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct LoggedWrite {
    /// The id under which its caller knows it, when it was appended again after that.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub first: Option<WriteId>,
    /// Attempts that the database refused so far.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub attempts: u32,
    /// The write.
    pub write: Write,
}

/// [`LoggedWrite`] to be written: the same text without a copy.
#[derive(Debug, Serialize)]
pub(crate) struct LoggedWriteRef<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub first: Option<WriteId>,
    #[serde(skip_serializing_if = "is_zero")]
    pub attempts: u32,
    pub write: &'a Write,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "the signature that serde asks for")]
fn is_zero(count: &u32) -> bool {
    *count == 0
}

/// A sequence as callers see it: `EPOCH-COUNTER`. A write keeps its first id for life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct WriteId(pub Sequence);

impl std::fmt::Display for WriteId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.fmt(f)
    }
}

impl std::str::FromStr for WriteId {
    type Err = outlast_log::ParseSequenceError;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        text.parse().map(Self)
    }
}

impl Serialize for WriteId {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for WriteId {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> Write {
        let collection: Collection = "users".parse().unwrap();
        let data = Document::parse("{\"n\":18446744073709551615,\"f\":1e300}").unwrap();
        let parameters = serde_json::from_str("{\"by\":9007199254740993}").unwrap();
        Write::new(vec![
            Operation::Put {
                record: RecordName { collection: collection.clone(), id: "1".parse().unwrap() },
                data,
            },
            Operation::Delete { record: RecordName { collection, id: "2".parse().unwrap() } },
            Operation::Statement { text: "UPDATE x".into(), parameters, touches: vec![] },
        ])
        .unwrap()
    }

    #[test]
    fn a_logged_write_reads_back_as_it_was() {
        let logged = LoggedWrite {
            first: Some("3-17".parse().unwrap()),
            attempts: 2,
            write: sample().with_idempotency_key("k").unwrap(),
        };
        let text = serde_json::to_string(&logged).unwrap();
        assert!(text.contains("18446744073709551615"), "{text}");
        assert_eq!(serde_json::from_str::<LoggedWrite>(&text).unwrap(), logged);
    }

    #[test]
    fn a_trace_is_kept_and_its_absence_changes_nothing() {
        let logged = |write| LoggedWrite { first: None, attempts: 0, write };
        let plain = serde_json::to_string(&logged(sample())).unwrap();
        assert!(!plain.contains("trace"), "entries without one are as they were: {plain}");
        let trace = TraceContext::new("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01");
        let traced = logged(sample().with_trace(trace.clone()));
        let text = serde_json::to_string(&traced).unwrap();
        assert_eq!(serde_json::from_str::<LoggedWrite>(&text).unwrap(), traced);
        assert_eq!(traced.write.trace(), trace.as_ref());
        let keyed = |write: Write| write.with_idempotency_key("k").unwrap().key().cloned();
        assert_eq!(keyed(sample()), keyed(sample().with_trace(trace)), "it is no other write");
        // What a later version adds does not keep this one from reading.
        let later = plain.replacen("{\"write\":{", "{\"write\":{\"later\":[1],", 1);
        assert_eq!(serde_json::from_str::<LoggedWrite>(&later).unwrap(), logged(sample()));
    }

    #[test]
    fn the_fingerprint_tells_writes_apart() {
        let one = sample().with_idempotency_key("k").unwrap();
        let two = Write::new(sample().operations[..2].to_vec()).unwrap().with_idempotency_key("k").unwrap();
        assert_ne!(one.key(), two.key());
        assert_eq!(one.key(), sample().with_idempotency_key("k").unwrap().key());
    }
}
