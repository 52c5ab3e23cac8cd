//! [`Fault`]: an error that the server answered, and what it means for a write.
//!
//! Servers from 3.0 on give an error a kind; older ones only a text. But 3.x files schema errors under `Internal`
//! together with storage faults, so the texts are needed as well: see [`TEXTS`].

use ciborium::Value as Cbor;
use outlast::RecordName;
use outlast::error::RefusalKind;

use crate::value::member;

/// An error as the server worded it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Fault {
    /// The server's words.
    pub(crate) message: String,
    /// `NotFound`, `NotAllowed`, `Internal` ...: empty before 3.0.
    kind: String,
    /// Kinds within the kind, outermost first: for example `Auth`, `TokenExpired`.
    details: Vec<String>,
}

/// What a fault means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Meaning {
    /// Another statement of the same transaction failed: says nothing by itself.
    Echo,
    /// A conflicting transaction committed first: certainly rolled back, may be tried again.
    Conflict,
    /// It may have committed.
    Unknown,
    /// The database takes no writes now; certainly not committed.
    Unavailable,
    /// The session ended or never was: sign in again; certainly not committed.
    Session,
    /// A namespace is not defined; certainly not committed.
    NamespaceMissing,
    /// A database is not defined; certainly not committed.
    DatabaseMissing,
    /// A table is not defined; certainly not committed.
    TableMissing,
    /// The statement threw; certainly not committed.
    Thrown,
    /// Refused; certainly not committed.
    Refused {
        /// What kind of refusal.
        kind: RefusalKind,
        /// May pass later without anybody changing the write.
        retryable: bool,
    },
    /// Nothing known: it failed while the statements ran or, less likely, at the commit.
    Unclear,
}

const fn refused(kind: RefusalKind) -> Meaning {
    Meaning::Refused { kind, retryable: false }
}

/// What a part of a message says: the first row whose every part occurs decides.
type Texts = &'static [(&'static [&'static str], Meaning)];

/// How messages begin that quote values of callers: whatever else they hold, they are about a write.
const QUOTING: &[&str] = &[
    "An error occurred: ",
    "Database record `",
    "Database index `",
    "Cannot delete `",
    "Cannot perform ",
    "Could not cast",
    "Couldn't coerce value",
    "Found ",
    "Incorrect arguments",
    "Parse error",
];

/// Texts of those.
const QUOTING_TEXTS: Texts = &[
    (&["An error occurred: "], Meaning::Thrown),
    (&["Database record `", "already exists"], refused(RefusalKind::Exists)),
    (&["Database index `", "already contains"], refused(RefusalKind::Constraint)),
    (
        &["but field must conform to", "record::exists"],
        Meaning::Refused { kind: RefusalKind::Constraint, retryable: true },
    ),
    (
        &["but field must conform to", ".exists()"],
        Meaning::Refused { kind: RefusalKind::Constraint, retryable: true },
    ),
    (
        &["but field must conform to", "SELECT"],
        Meaning::Refused { kind: RefusalKind::Constraint, retryable: true },
    ),
    (&["but field must conform to"], refused(RefusalKind::Constraint)),
    (
        &["Cannot delete `", "ON DELETE REJECT"],
        Meaning::Refused { kind: RefusalKind::Constraint, retryable: true },
    ),
    (&["Couldn't coerce value"], refused(RefusalKind::Schema)),
    (&["Found ", " for field `", "but expected a"], refused(RefusalKind::Schema)),
    (&["but no such field exists for table"], refused(RefusalKind::Schema)),
    (&["but field is readonly"], refused(RefusalKind::Schema)),
    (&["for the `id` field, but a specific record"], refused(RefusalKind::Schema)),
    (&["Found record: `", "a relation"], refused(RefusalKind::Schema)),
    (&["Parse error"], refused(RefusalKind::Statement)),
];

/// Texts of all other messages of servers 2.x (from their sources; run with 2.7.0) and 3.0 to 3.3.5 (run). Those that may
/// report a commit of unknown outcome come first.
const TEXTS: Texts = &[
    (&["outcome is unknown"], Meaning::Unknown),
    (&["can be retried"], Meaning::Conflict),
    (&["read or write conflict"], Meaning::Conflict),
    (&["Resource busy"], Meaning::Conflict),
    (&["not executed due to a failed transaction"], Meaning::Echo),
    (&["not executed due to a cancelled transaction"], Meaning::Echo),
    (&["exceeded the timeout"], Meaning::Unknown),
    (&["read-and-deletion-only mode"], Meaning::Unavailable),
    (&["datastore is shutting down"], Meaning::Unavailable),
    (&["The transaction is too large"], refused(RefusalKind::TooLarge)),
    (&["The key being inserted is too large"], refused(RefusalKind::TooLarge)),
    (&["There was a problem with the key-value store"], Meaning::Unknown),
    (&["There was a problem with the datastore"], Meaning::Unknown),
    (&["There was a problem with the underlying datastore"], Meaning::Unknown),
    (&["There was a problem with a transaction"], Meaning::Unknown),
    (&["There was a problem with a datastore transaction"], Meaning::Unknown),
    (&["Connection to storage backend failed"], Meaning::Unknown),
    (&["Specify a namespace to use"], Meaning::Session),
    (&["Specify a database to use"], Meaning::Session),
    (&["token has expired"], Meaning::Session),
    (&["session has expired"], Meaning::Session),
    (&["Anonymous access not allowed"], Meaning::Session),
    (&["The namespace '", "does not exist"], Meaning::NamespaceMissing),
    (&["The database '", "does not exist"], Meaning::DatabaseMissing),
    (&["The table '", "does not exist"], Meaning::TableMissing),
    (&["table while setup as a view"], refused(RefusalKind::Schema)),
    (&["is a protected variable"], refused(RefusalKind::Statement)),
    (&["Reached excessive computation depth"], refused(RefusalKind::Statement)),
    (&["Not enough permissions"], refused(RefusalKind::Permission)),
    (&["You don't have permission"], refused(RefusalKind::Permission)),
];

impl Fault {
    /// From an error object (of a request) or a row with the status `ERR` (of a query).
    pub(crate) fn read(error: &Cbor) -> Self {
        let message = member(error, "message").or_else(|| member(error, "result")).and_then(Cbor::as_text);
        let mut details = Vec::new();
        let mut inner = member(error, "details");
        while let Some(level) = inner {
            details.extend(member(level, "kind").and_then(Cbor::as_text).map(str::to_owned));
            inner = member(level, "details");
        }
        Self {
            message: message.unwrap_or("an error without a message").to_owned(),
            kind: member(error, "kind").and_then(Cbor::as_text).unwrap_or_default().to_owned(),
            details,
        }
    }

    /// What it means.
    pub(crate) fn meaning(&self) -> Meaning {
        let detail = self.details.first().map_or("", String::as_str);
        let inner = self.details.get(1).map_or("", String::as_str);
        match (self.kind.as_str(), detail, inner) {
            ("Query", "TransactionConflict", _) => return Meaning::Conflict,
            ("Query", "NotExecuted", _) => return Meaning::Echo,
            ("NotAllowed", "Auth", "TokenExpired" | "SessionExpired" | "InvalidAuth")
            | ("NotFound", "Session", _) => {
                return Meaning::Session;
            }
            ("NotFound", "Namespace", _) => return Meaning::NamespaceMissing,
            ("NotFound", "Database", _) => return Meaning::DatabaseMissing,
            ("NotFound", "Table", _) => return Meaning::TableMissing,
            ("AlreadyExists", "Record", _) => return refused(RefusalKind::Exists),
            ("Thrown", _, _) => return Meaning::Thrown,
            _ => {}
        }
        let quotes = QUOTING.iter().any(|beginning| self.message.starts_with(beginning));
        let texts = if quotes { QUOTING_TEXTS } else { TEXTS };
        if let Some((_, meaning)) =
            texts.iter().find(|(parts, _)| parts.iter().all(|part| self.message.contains(part)))
        {
            return *meaning;
        }
        match self.kind.as_str() {
            // Also `Cancelled` and `TimedOut`: the time may have run out during the commit.
            "Query" | "Connection" => Meaning::Unknown,
            "NotAllowed" => refused(RefusalKind::Permission),
            "Validation" => refused(RefusalKind::Statement),
            "Serialization" => refused(RefusalKind::Other),
            _ => Meaning::Unclear,
        }
    }

    /// What a `THROW` threw.
    pub(crate) fn thrown(&self) -> Option<&str> {
        self.message.strip_prefix("An error occurred: ")
    }

    /// True when the record that exists already is an idempotency key's.
    pub(crate) fn is_about_keys(&self) -> bool {
        self.message.starts_with("Database record `outlast_keys:")
    }

    /// True when the words hold this record's name, in one of the ways in which servers write it.
    pub(crate) fn names(&self, record: &RecordName) -> bool {
        let RecordName { collection, id } = record;
        let names =
            [format!("{collection}:{id}"), format!("{collection}:`{id}`"), format!("{collection}:⟨{id}⟩")];
        names.iter().any(|name| self.message.contains(name))
    }

    /// True when this table is the one that is missing.
    pub(crate) fn is_about_table(&self, table: &str) -> bool {
        self.message.contains(&format!("table '{table}'"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::value::{object, text};

    fn fault(message: &str, kinds: &[&str]) -> Fault {
        let details = kinds.iter().skip(1).rev().fold(None, |inner: Option<Cbor>, kind| {
            let mut members = vec![("kind", text(*kind))];
            members.extend(inner.map(|inner| ("details", inner)));
            Some(object(members))
        });
        let mut members = vec![("result", text(message))];
        members.extend(kinds.first().map(|kind| ("kind", text(*kind))));
        members.extend(details.map(|details| ("details", details)));
        Fault::read(&object(members))
    }

    #[test]
    fn what_a_write_says_does_not_decide_what_its_refusal_means() {
        for value in [
            "this can be retried",
            "Resource busy",
            "the outcome is unknown",
            "token has expired",
            "record `outlast_keys:1`",
            "There was a problem with the datastore",
            "The table 't' does not exist",
        ] {
            for (message, meaning) in [
                (
                    format!("Database index `i` already contains '{value}', with record `t:1`"),
                    RefusalKind::Constraint,
                ),
                (
                    format!(
                        "Couldn't coerce value for field `n` of `t:1`: Expected `int` but found '{value}'"
                    ),
                    RefusalKind::Schema,
                ),
                (
                    format!(
                        "Found '{value}' for field `n`, with record `t:1`, but field must conform to: $value > 3"
                    ),
                    RefusalKind::Constraint,
                ),
                (format!("Parse error: Unexpected token `{value}`"), RefusalKind::Statement),
            ] {
                let fault = fault(&message, &["Internal"]);
                assert!(fault.meaning() == refused(meaning) && !fault.is_about_keys(), "{message}");
            }
            assert_eq!(fault(&format!("An error occurred: {value}"), &[]).meaning(), Meaning::Thrown);
            let cast = format!("Could not cast into `int` using input '{value}'");
            assert_eq!(fault(&cast, &["Internal"]).meaning(), Meaning::Unclear);
        }
    }

    #[test]
    fn errors_of_3_3_5_mean_what_they_do_there() {
        use Meaning::{Conflict, Echo, NamespaceMissing, Session, TableMissing, Thrown, Unclear, Unknown};
        let permission = refused(RefusalKind::Permission);
        for (message, kinds, meaning) in [
            (
                "There was a problem with the key-value store: Transaction conflict: Write conflict, retry the transaction. This transaction can be retried",
                &["Query", "TransactionConflict"][..],
                Conflict,
            ),
            ("The query was not executed due to a failed transaction", &["Query", "NotExecuted"], Echo),
            (
                "The query was not executed because it exceeded the timeout: 1ns",
                &["Query", "TimedOut"],
                Unknown,
            ),
            ("Cancelled", &["Query", "Cancelled"], Unknown),
            (
                "The transaction's commit outcome is unknown; it may or may not have been applied: x",
                &["Internal"],
                Unknown,
            ),
            ("There was a problem with the datastore: disk", &["Internal"], Unknown),
            (
                "The datastore is in read-and-deletion-only mode due to disk space limitations.",
                &["Internal"],
                Meaning::Unavailable,
            ),
            ("The token has expired", &["NotAllowed", "Auth", "TokenExpired"], Session),
            (
                "Anonymous access not allowed: Not enough permissions to perform this action",
                &["NotAllowed", "Auth", "NotAllowed"],
                Session,
            ),
            ("The namespace 'n' does not exist", &["NotFound", "Namespace"], NamespaceMissing),
            ("The table 't' does not exist", &["NotFound", "Table"], TableMissing),
            ("An error occurred: outlast_moved", &["Thrown"], Thrown),
            (
                "IAM error: Not enough permissions to perform this action",
                &["NotAllowed", "Auth", "NotAllowed"],
                permission,
            ),
            ("You don't have permission to change to the d2 database", &["NotAllowed"], permission),
            (
                "Database record `t:`1`` already exists",
                &["AlreadyExists", "Record"],
                refused(RefusalKind::Exists),
            ),
            (
                "Database index `sn` already contains 1, with record `sf:`1``",
                &["Internal"],
                refused(RefusalKind::Constraint),
            ),
            (
                "Couldn't coerce value for field `n` of `sf:`2``: Expected `int` but found `'x'`",
                &["Internal"],
                refused(RefusalKind::Schema),
            ),
            (
                "Found field 'zzz', but no such field exists for table 'sf'",
                &["Internal"],
                refused(RefusalKind::Schema),
            ),
            (
                "Found changed value for field `ro`, with record `sf:`1``, but field is readonly",
                &["Internal"],
                refused(RefusalKind::Schema),
            ),
            (
                "Found 1 for field `r`, with record `sf:`2``, but field must conform to: $value > 3",
                &["Internal"],
                refused(RefusalKind::Constraint),
            ),
            ("Parse error: Unexpected token", &["Validation"], refused(RefusalKind::Statement)),
            ("Could not cast into `int` using input `'x'`", &["Internal"], Unclear),
        ] {
            assert_eq!(fault(message, kinds).meaning(), meaning, "{message}");
        }
    }

    #[test]
    fn errors_of_2_x_are_told_by_their_texts() {
        for (message, meaning) in [
            (
                "Failed to commit transaction due to a read or write conflict. This transaction can be retried",
                Meaning::Conflict,
            ),
            ("The query was not executed due to a failed transaction", Meaning::Echo),
            ("Database record `t:1` already exists", refused(RefusalKind::Exists)),
            ("Found 'x' for field `n`, with record `t:1`, but expected a int", refused(RefusalKind::Schema)),
            ("The table 'x' does not exist", Meaning::TableMissing),
            ("An error occurred: x", Meaning::Thrown),
        ] {
            assert_eq!(fault(message, &[]).meaning(), meaning, "{message}");
        }
    }

    #[test]
    fn a_check_that_looks_at_other_records_may_pass_later() {
        let message =
            "Found a:1 for field `r`, with record `b:1`, but field must conform to: record::exists($value)";
        let Meaning::Refused { kind, retryable } = fault(message, &["Internal"]).meaning() else { panic!() };
        assert_eq!((kind, retryable), (RefusalKind::Constraint, true));
    }
}
