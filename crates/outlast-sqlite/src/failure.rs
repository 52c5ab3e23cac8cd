//! What SQLite's error codes mean for a batch.

use outlast::database::DatabaseError;
use outlast::{Refusal, RefusalKind};
use rusqlite::ffi;

/// Why a step did not succeed. Each variant says that the step itself had no effect that a rollback would not undo.
#[derive(Debug)]
pub(crate) enum Failure {
    /// The file or its disk does not serve us.
    Unavailable(String),
    /// Another connection holds a lock.
    Busy(String),
    /// Broken off at the call's time limit.
    Interrupted,
    /// The database will not do this.
    Refused {
        /// Why.
        refusal: Refusal,
        /// May pass later without anybody changing it.
        retryable: bool,
    },
}

impl Failure {
    /// A refusal that no repetition cures.
    pub(crate) fn refused(kind: RefusalKind, message: impl Into<String>) -> Self {
        Self::Refused { refusal: Refusal::new(kind, message), retryable: false }
    }

    /// Of a statement on Outlast's own tables: no write is to blame for what is wrong with those. A new connection
    /// makes them where they are missing.
    pub(crate) fn of_own_table(error: rusqlite::Error) -> Self {
        match Self::from(error) {
            Self::Refused { refusal, .. } => {
                Self::Unavailable(format!("Outlast's own tables cannot be used: {refusal}"))
            }
            other => other,
        }
    }

    /// True when the connection should not be used again.
    pub(crate) fn spoils_connection(&self) -> bool {
        matches!(self, Self::Unavailable(_))
    }

    /// For calls that are not batches.
    pub(crate) fn into_database_error(self) -> DatabaseError {
        match self {
            Self::Unavailable(reason) => DatabaseError::Unavailable(reason),
            Self::Busy(reason) => DatabaseError::Busy(reason),
            Self::Interrupted => DatabaseError::Busy("the call took longer than its time limit".into()),
            Self::Refused { refusal, .. } => DatabaseError::Refused(refusal.message),
        }
    }
}

impl From<rusqlite::Error> for Failure {
    fn from(error: rusqlite::Error) -> Self {
        let message = message(&error);
        let Some(code) = error.sqlite_error().map(|error| error.extended_code) else {
            return Self::refused(RefusalKind::Other, message);
        };
        match code & 0xff {
            ffi::SQLITE_BUSY | ffi::SQLITE_LOCKED | ffi::SQLITE_SCHEMA => Self::Busy(message),
            ffi::SQLITE_INTERRUPT => Self::Interrupted,
            ffi::SQLITE_CONSTRAINT => constraint(code, message),
            ffi::SQLITE_MISMATCH => Self::refused(RefusalKind::Schema, message),
            ffi::SQLITE_TOOBIG => Self::refused(RefusalKind::TooLarge, message),
            ffi::SQLITE_AUTH => Self::refused(
                RefusalKind::Permission,
                format!(
                    "{message}: a statement may not touch transactions, pragmas, triggers, other files or Outlast's own tables"
                ),
            ),
            ffi::SQLITE_ERROR
            | ffi::SQLITE_ABORT
            | ffi::SQLITE_RANGE
            | ffi::SQLITE_MISUSE
            | ffi::SQLITE_NOTFOUND
            | ffi::SQLITE_EMPTY => Self::refused(RefusalKind::Other, message),
            _ => Self::Unavailable(format!("{message} (SQLite's code {code})")),
        }
    }
}

fn constraint(code: i32, message: String) -> Failure {
    let kind =
        if code == ffi::SQLITE_CONSTRAINT_DATATYPE { RefusalKind::Schema } else { RefusalKind::Constraint };
    // The record that it refers to may be written later, by another lane.
    let retryable = code == ffi::SQLITE_CONSTRAINT_FOREIGNKEY;
    Failure::Refused { refusal: Refusal::new(kind, message), retryable }
}

/// SQLite's words, without the text of our own statement that rusqlite adds.
pub(crate) fn message(error: &rusqlite::Error) -> String {
    match error {
        rusqlite::Error::SqliteFailure(_, Some(message)) => message.clone(),
        rusqlite::Error::SqlInputError { msg, .. } => msg.clone(),
        other => other.to_string(),
    }
}

/// The extended code of an error that came from SQLite itself.
pub(crate) fn code(error: &rusqlite::Error) -> Option<i32> {
    error.sqlite_error().map(|error| error.extended_code)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(code: i32) -> Failure {
        rusqlite::Error::SqliteFailure(ffi::Error::new(code), Some("words".into())).into()
    }

    #[test]
    fn codes_decide_between_waiting_and_refusing() {
        for code in [
            ffi::SQLITE_FULL,
            ffi::SQLITE_IOERR_FSYNC,
            ffi::SQLITE_CANTOPEN,
            ffi::SQLITE_CORRUPT,
            ffi::SQLITE_NOTADB,
            ffi::SQLITE_READONLY_DBMOVED,
            ffi::SQLITE_NOMEM,
            ffi::SQLITE_PERM,
            ffi::SQLITE_PROTOCOL,
        ] {
            assert!(matches!(of(code), Failure::Unavailable(_)), "{code}");
        }
        assert!(matches!(of(ffi::SQLITE_BUSY_SNAPSHOT), Failure::Busy(_)));
        assert!(matches!(of(ffi::SQLITE_LOCKED), Failure::Busy(_)));
        for (code, expected, again) in [
            (ffi::SQLITE_CONSTRAINT_UNIQUE, RefusalKind::Constraint, false),
            (ffi::SQLITE_CONSTRAINT_TRIGGER, RefusalKind::Constraint, false),
            (ffi::SQLITE_CONSTRAINT_FOREIGNKEY, RefusalKind::Constraint, true),
            (ffi::SQLITE_CONSTRAINT_DATATYPE, RefusalKind::Schema, false),
            (ffi::SQLITE_TOOBIG, RefusalKind::TooLarge, false),
            (ffi::SQLITE_AUTH, RefusalKind::Permission, false),
        ] {
            let Failure::Refused { refusal, retryable } = of(code) else { panic!("{code}") };
            assert_eq!((refusal.kind, retryable), (expected, again), "{code}");
        }
    }
}
