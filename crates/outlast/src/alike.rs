//! Which refusals are alike: the database's words without what is the write's own, so that ten thousand letters for one
//! cause are one group.

use serde_json::Value;

use crate::write::{Operation, Write};

/// Stands for a name or a value of the write.
const LEFT_OUT: char = '…';
/// Members of a document that are looked for; a refusal rarely speaks of more.
const VALUES_MAX: usize = 64;

/// The message without the ids and values of the write that it quotes.
pub(crate) fn without_own_values(message: &str, write: &Write) -> String {
    let mut own = own_values(write);
    // The longest first: one may be a part of another.
    own.sort_unstable_by_key(|value| std::cmp::Reverse(value.len()));
    own.dedup();
    own.iter().fold(message.to_owned(), |message, value| leave_out(&message, value))
}

fn own_values(write: &Write) -> Vec<String> {
    let mut own: Vec<String> = write.records().map(|record| record.id.as_str().to_owned()).collect();
    for operation in write.operations() {
        let (Operation::Create { data, .. } | Operation::Put { data, .. } | Operation::Patch { data, .. }) =
            operation
        else {
            continue;
        };
        own.extend(data.to_map().values().take(VALUES_MAX).filter_map(|value| match value {
            Value::String(text) => Some(text.clone()),
            Value::Number(number) => Some(number.to_string()),
            _ => None,
        }));
    }
    own.retain(|value| !value.is_empty());
    own
}

/// Leaves a value out wherever it is quoted, or stands behind a colon as in `people:4`. Elsewhere it may be a word.
fn leave_out(message: &str, value: &str) -> String {
    let opens = |c: char| matches!(c, '"' | '\'' | '`' | '(' | ':' | '⟨');
    let closes = |c: char| !c.is_alphanumeric() && c != '_';
    let mut left = String::with_capacity(message.len());
    let mut rest = message;
    while let Some(at) = rest.find(value) {
        let end = at + value.len();
        let before = rest[..at].chars().next_back().or_else(|| left.chars().next_back());
        let quoted = before.is_some_and(opens) && rest[end..].chars().next().is_none_or(closes);
        left.push_str(&rest[..at]);
        if quoted {
            left.push(LEFT_OUT);
        } else {
            left.push_str(value);
        }
        rest = &rest[end..];
    }
    left + rest
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::Document;

    fn put(id: &str, data: &str) -> Write {
        Write::put("people".parse().unwrap(), id.parse().unwrap(), Document::parse(data).unwrap())
    }

    #[test]
    fn names_and_values_of_the_write_are_left_out_and_nothing_else() {
        for (message, id, data, expected) in [
            (
                "the record \"ann\" of \"people\" exists already",
                "ann",
                "{}",
                "the record \"…\" of \"people\" exists already",
            ),
            (
                "Database index `names` already contains 'Ann', with record `people:4`",
                "4",
                r#"{"name":"Ann"}"#,
                "Database index `names` already contains '…', with record `people:…`",
            ),
            (
                "Key (age)=(42) already exists in \"index_42\"",
                "x",
                r#"{"age":42}"#,
                "Key (age)=(…) already exists in \"index_42\"",
            ),
            (
                "UNIQUE constraint failed: people.name",
                "name",
                r#"{"name":"failed"}"#,
                "UNIQUE constraint failed: people.name",
            ),
            ("'1' and '11'", "1", r#"{"n":11}"#, "'…' and '…'"),
        ] {
            assert_eq!(without_own_values(message, &put(id, data)), expected);
        }
    }
}
