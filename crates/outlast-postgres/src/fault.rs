//! What the server's errors mean: the table of SQLSTATEs.

use fallible_iterator::FallibleIterator;
use outlast::RefusalKind;
use postgres_protocol::message::backend::ErrorFields;

/// The code that our functions raise: a statement met fewer rows than it had to.
pub(crate) const EXPECTED: &str = "OL001";

/// An error of the server.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Fault {
    /// The SQLSTATE: five letters and digits.
    pub(crate) code: String,
    /// The server's words, with its detail.
    pub(crate) message: String,
    /// The constraint that it is about, if any.
    pub(crate) constraint: Option<String>,
    /// The function of the server's source that raised it: tells two meanings of one code apart.
    pub(crate) routine: String,
    /// The server ends the connection with it.
    pub(crate) fatal: bool,
}

impl Fault {
    /// From the fields of an `ErrorResponse`.
    pub(crate) fn read(mut fields: ErrorFields<'_>) -> Self {
        let mut fault = Self::default();
        let mut detail = String::new();
        let (mut shown, mut severity) = (String::new(), None);
        while let Ok(Some(field)) = fields.next() {
            let text = String::from_utf8_lossy(field.value_bytes()).into_owned();
            match field.type_() {
                b'C' => fault.code = text,
                b'M' => fault.message = text,
                b'D' => detail = text,
                b'n' => fault.constraint = Some(text),
                b'R' => fault.routine = text,
                b'S' => shown = text,
                // The same, never translated. Poolers leave it out, and do not translate the other.
                b'V' => severity = Some(text),
                _ => {}
            }
        }
        fault.fatal = severity.unwrap_or(shown) != "ERROR";
        if !detail.is_empty() {
            fault.message = format!("{} ({detail})", fault.message);
        }
        fault
    }

    /// What to do about it.
    pub(crate) fn meaning(&self) -> Meaning {
        // A plan of somebody's session that no longer fits: not the statement's fault.
        if self.code == "0A000" && self.routine == "RevalidateCachedQuery" {
            return Meaning::Session;
        }
        meaning(&self.code)
    }
}

/// What an error means, whatever it was about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Meaning {
    /// The server cannot serve anybody now: wait for it.
    Unavailable,
    /// This server takes reads only: another one is in charge.
    Elsewhere,
    /// It was in the way of another transaction: the same again.
    Conflict,
    /// It may have committed.
    Unknown,
    /// Something of this connection does not fit, or is gone: the same again on another one.
    Session,
    /// We are not let in.
    Login,
    /// The statement was broken off because it took too long, or by somebody.
    BrokenOff,
    /// A table or column is not, or no longer, as we think it is: look again.
    Shape,
    /// Fewer rows than there have to be ([`EXPECTED`]).
    Missing,
    /// One of the writes is at fault.
    Refused {
        /// How.
        kind: RefusalKind,
        /// May pass later without anybody changing it.
        retryable: bool,
    },
}

const fn refused(kind: RefusalKind) -> Meaning {
    Meaning::Refused { kind, retryable: false }
}

/// The table. Whole classes (two characters) come after the codes that differ from their class.
fn meaning(code: &str) -> Meaning {
    let class = code.get(..2).unwrap_or_default();
    match code {
        EXPECTED => Meaning::Missing,
        // A read-only server: a standby, or one that was demoted.
        "25006" => Meaning::Elsewhere,
        // Statement or portal missing or double: a pooler changed the server under us. Aborted transaction: another's.
        "26000" | "34000" | "42P05" | "42P03" | "25P02" => Meaning::Session,
        // Serialization failure, deadlock, rolled back; lock not available, object in use; snapshot too old.
        "40000" | "40001" | "40P01" | "55P03" | "55006" | "72000" => Meaning::Conflict,
        // "Statement completion unknown".
        "40003" => Meaning::Unknown,
        "40002" => refused(RefusalKind::Constraint),
        // A missing database; no right to connect is in class 28.
        "3D000" => Meaning::Login,
        "57014" => Meaning::BrokenOff,
        // Table, column, matching constraint; a generated column.
        "42P01" | "42703" | "42P10" | "428C9" => Meaning::Shape,
        "42501" => refused(RefusalKind::Permission),
        // Not null.
        "23502" => refused(RefusalKind::Schema),
        // The record that it refers to may be written later, by another lane.
        "23503" => Meaning::Refused { kind: RefusalKind::Constraint, retryable: true },
        _ => match class {
            // Connection exceptions, told by the server or by a pooler between.
            "08" => Meaning::Unknown,
            "28" => Meaning::Login,
            // Resources (a full disk is 53100), operator intervention, system errors, configuration.
            "53" | "57" | "58" | "F0" => Meaning::Unavailable,
            "23" | "44" | "27" | "09" => refused(RefusalKind::Constraint),
            // Data exceptions: the value does not fit the column. A missing schema.
            "22" | "3F" => refused(RefusalKind::Schema),
            "54" => refused(RefusalKind::TooLarge),
            // Syntax and rights; features, cardinality, transactions, cursors, what a function raised.
            "42" | "0A" | "21" | "25" | "2D" | "24" | "P0" | "38" | "39" | "3B" => {
                refused(RefusalKind::Statement)
            }
            // Foreign data wrappers and internal errors: nobody can tell, so it is tried again before it is given up.
            "HV" | "XX" => Meaning::Refused { kind: RefusalKind::Other, retryable: true },
            _ => refused(RefusalKind::Other),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::BytesMut;
    use postgres_protocol::message::backend::Message;

    fn read(fields: &[&str]) -> Fault {
        let body =
            fields.iter().fold(Vec::new(), |body, field| [&body[..], field.as_bytes(), b"\0"].concat());
        let length = u32::try_from(body.len() + 5).unwrap().to_be_bytes();
        let mut bytes = BytesMut::from(&[b"E", &length[..], &body, b"\0"].concat()[..]);
        match Message::parse(&mut bytes).unwrap() {
            Some(Message::ErrorResponse(body)) => Fault::read(body.fields()),
            _ => panic!("no error"),
        }
    }

    #[test]
    fn an_error_is_read_from_its_fields_and_one_that_ends_the_connection_is_known() {
        let fault =
            read(&["SFEHLER", "VERROR", "C23505", "Mdoppelt", "DKey (id)=(1)", "nt_pkey", "R_bt_check"]);
        assert_eq!((fault.code.as_str(), fault.fatal), ("23505", false));
        assert_eq!(
            (fault.message.as_str(), fault.constraint.as_deref()),
            ("doppelt (Key (id)=(1))", Some("t_pkey"))
        );
        assert!(read(&["SPANIK", "VPANIC", "CXX000", "Mx"]).fatal);
        // PgBouncer.
        assert!(read(&["SFATAL", "C08P01", "Mserver conn crashed?"]).fatal);
        assert!(!read(&["SERROR", "C08P01", "Mx"]).fatal);
        assert!(read(&["C08P01"]).fatal, "nobody knows");
    }

    #[test]
    fn every_kind_of_error_has_its_meaning() {
        use Meaning::*;
        use RefusalKind as Kind;
        for (codes, expected) in [
            // Over: wait. 53100 is a full disk, 57P01 to 57P05 a server that goes, comes or drops its database.
            (
                &[
                    "53000", "53100", "53200", "53300", "53400", "57000", "57P01", "57P02", "57P03", "57P04",
                    "57P05", "58000", "58030", "58P01", "F0000",
                ][..],
                Unavailable,
            ),
            (&["25006"], Elsewhere),
            (&["40001", "40P01", "55P03", "55006", "72000", "40000"], Conflict),
            (&["08000", "08003", "08006", "08001", "08004", "08007", "08P01", "40003"], Unknown),
            (&["26000", "42P05", "34000", "42P03", "25P02"], Session),
            (&["28000", "28P01", "3D000"], Login),
            (&["57014"], BrokenOff),
            (&["42P01", "42703", "42P10", "428C9"], Shape),
            (&["OL001"], Missing),
            (&["42501"], refused(Kind::Permission)),
            (
                &["23505", "23514", "23P01", "23000", "23001", "44000", "40002", "27000"],
                refused(Kind::Constraint),
            ),
            (&["23503"], Refused { kind: Kind::Constraint, retryable: true }),
            (
                &["23502", "22001", "22003", "22007", "22008", "22P02", "22P05", "22023", "3F000"],
                refused(Kind::Schema),
            ),
            (&["54000", "54001", "54011"], refused(Kind::TooLarge)),
            (
                &["42601", "42804", "42883", "42P18", "0A000", "21000", "25001", "2D000", "P0001", "P0002"],
                refused(Kind::Statement),
            ),
            (&["XX000", "XX001", "XX002", "HV000"], Refused { kind: Kind::Other, retryable: true }),
            (&["99999", "", "é"], refused(Kind::Other)),
        ] {
            for code in codes {
                assert_eq!(meaning(code), expected, "{code}");
            }
        }
    }

    #[test]
    fn a_plan_that_grew_stale_is_the_connections_fault_and_other_missing_features_the_statements() {
        let fault =
            |routine: &str| Fault { code: "0A000".into(), routine: routine.into(), ..Fault::default() };
        assert_eq!(fault("RevalidateCachedQuery").meaning(), Meaning::Session);
        assert_eq!(fault("transformInsertStmt").meaning(), refused(RefusalKind::Statement));
    }
}
