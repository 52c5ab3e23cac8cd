//! [`Redaction`]: values that are not shown to people.
//!
//! Two things quote what clients wrote: the operations of a write that is shown, and the words in which a database
//! refuses it. The first loses the values of the fields that are listed. Of the second nobody can say which words are
//! values: a database quotes what stands in other records as well, and functions of its own say what they like. So only
//! words of a fixed list are left in it (`words.rs`), and names. That is done before a reason is kept anywhere.

use std::collections::BTreeSet;
use std::str::FromStr;

use serde_json::{Map, Value};

use crate::error::{Invalid, Refusal, RefusalKind};
use crate::record::{Collection, Document};
use crate::words::words_only;
use crate::write::{Operation, RecordName};

/// What stands in the place of a value that is not shown.
pub const MARK: &str = "[redacted]";

/// One field, or several.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Rule {
    /// As it was written.
    text: Box<str>,
    /// `None`: every collection.
    collection: Option<Collection>,
    /// From the document down. `None`: a member of this name wherever it stands.
    path: Option<Vec<Step>>,
    /// The last name of the path.
    last: Step,
}

/// A name, or `None` for any name.
type Step = Option<Box<str>>;

/// Case does not count: a field that is hidden once too often does less harm.
fn is(step: Option<&str>, name: &str) -> bool {
    step.is_none_or(|wanted| wanted.eq_ignore_ascii_case(name))
}

impl FromStr for Rule {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Invalid> {
        let wrong = |why: &str| {
            let shown: String = text.chars().take(80).flat_map(char::escape_debug).collect();
            Invalid::new(format!(
                "\"{shown}\" is no field: {why}; write FIELD (wherever it stands), COLLECTION.FIELD, or *.FIELD.FIELD"
            ))
        };
        let step = |name: &str| (name != "*").then(|| name.into());
        let parts: Vec<&str> = text.split('.').collect();
        if parts.iter().any(|part| part.is_empty() || part.chars().any(|c| c.is_control() || c == ',')) {
            return Err(wrong("a part of it is empty, or holds a comma"));
        }
        let rule = match parts.as_slice() {
            ["*"] => return Err(wrong("to hide every field write *.*")),
            [name] => Self { text: text.into(), collection: None, path: None, last: step(name) },
            [collection, path @ ..] => {
                let collection = match *collection {
                    "*" => None,
                    name => Some(name.parse().map_err(|error: Invalid| wrong(&error.to_string()))?),
                };
                let path: Vec<Step> = path.iter().map(|name| step(name)).collect();
                let last = path.last().cloned().flatten();
                Self { text: text.into(), collection, path: Some(path), last }
            }
            [] => return Err(wrong("it is empty")),
        };
        if rule.path.as_ref().is_none_or(|path| path.len() == 1) && rule.last.as_deref() == Some("id") {
            return Err(wrong("the id is the name of a record, and names are shown"));
        }
        Ok(rule)
    }
}

impl Rule {
    fn holds_in(&self, collection: &Collection) -> bool {
        let is = |own: &Collection| own.as_str().eq_ignore_ascii_case(collection.as_str());
        self.collection.as_ref().is_none_or(is)
    }
}

/// Which values are not shown. Without any rule everything is.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Redaction {
    rules: Vec<Rule>,
}

impl Redaction {
    /// From fields: `password` is a member of that name wherever it stands, `customers.email` the member `email` of the
    /// documents of `customers`, `*.card.number` the member `number` of `card` in every collection. `*` stands for any
    /// name. Elements of arrays are gone through. Case does not count.
    ///
    /// # Errors
    /// When one of them is not such a text.
    pub fn new<'a>(fields: impl IntoIterator<Item = &'a str>) -> Result<Self, Invalid> {
        fields.into_iter().map(str::parse).collect::<Result<_, _>>().map(|rules| Self { rules })
    }

    /// The fields as they were written.
    pub fn fields(&self) -> impl Iterator<Item = &str> {
        self.rules.iter().map(|rule| &*rule.text)
    }

    /// Whether everything is shown.
    pub fn is_empty(&self) -> bool {
        self.rules.is_empty()
    }

    /// Puts [`MARK`] in the place of every value that is not shown. True when there was one.
    pub fn hide(&self, operations: &mut [Operation]) -> bool {
        if self.is_empty() {
            return false;
        }
        operations.iter_mut().fold(false, |hidden, operation| self.hide_in(operation) | hidden)
    }

    fn hide_in(&self, operation: &mut Operation) -> bool {
        let Some(mut map) = content(operation) else { return false };
        let hidden = self.hide_content(operation, &mut map);
        match operation {
            Operation::Create { data, .. } | Operation::Put { data, .. } | Operation::Patch { data, .. }
                if hidden =>
            {
                *data = Document::to_be_shown(&map);
            }
            Operation::Statement { text, parameters, .. } => {
                *parameters = map;
                if holds_values(text) {
                    MARK.clone_into(text);
                    return true;
                }
            }
            _ => {}
        }
        hidden
    }

    /// In what the operation brings.
    fn hide_content(&self, operation: &Operation, map: &mut Map<String, Value>) -> bool {
        let (Operation::Create { record, .. }
        | Operation::Put { record, .. }
        | Operation::Patch { record, .. }
        | Operation::Delete { record }) = operation
        else {
            // Nobody knows which parameter comes into which field: all of such a name are hidden.
            return self.hide_named(map);
        };
        let of_collection = self.rules.iter().filter(|rule| rule.holds_in(&record.collection));
        let paths: Vec<&[Step]> = of_collection.filter_map(|rule| rule.path.as_deref()).collect();
        self.hide_members(map, &paths)
    }

    fn hide_members(&self, map: &mut Map<String, Value>, paths: &[&[Step]]) -> bool {
        let mut hidden = false;
        for (name, value) in map {
            let rest: Vec<&[Step]> = paths
                .iter()
                .filter_map(|path| path.split_first())
                .filter_map(|(first, rest)| is(first.as_deref(), name).then_some(rest))
                .collect();
            let anywhere =
                self.rules.iter().any(|rule| rule.path.is_none() && is(rule.last.as_deref(), name));
            if anywhere || rest.iter().any(|rest| rest.is_empty()) {
                *value = Value::from(MARK);
                hidden = true;
            } else {
                hidden |= self.hide_below(value, &rest);
            }
        }
        hidden
    }

    fn hide_below(&self, value: &mut Value, paths: &[&[Step]]) -> bool {
        match value {
            Value::Object(map) => self.hide_members(map, paths),
            Value::Array(items) => {
                items.iter_mut().fold(false, |hidden, item| self.hide_below(item, paths) | hidden)
            }
            _ => false,
        }
    }

    /// Hides whatever has the last name of a rule.
    fn hide_named(&self, map: &mut Map<String, Value>) -> bool {
        let mut hidden = false;
        for (name, value) in map {
            if self.rules.iter().any(|rule| is(rule.last.as_deref(), name)) {
                *value = Value::from(MARK);
                hidden = true;
                continue;
            }
            let mut below = vec![value];
            while let Some(value) = below.pop() {
                match value {
                    Value::Object(map) => hidden |= self.hide_named(map),
                    Value::Array(items) => below.extend(items),
                    _ => {}
                }
            }
        }
        hidden
    }

    /// The first value that is [`MARK`] in a field that is not shown: somebody writes what he was shown, and not what
    /// stood there. Names the field.
    pub fn marked(&self, operations: &[Operation]) -> Option<String> {
        operations.iter().find_map(|operation| {
            let given = content(operation)?;
            if matches!(operation, Operation::Statement { text, .. } if text == MARK) {
                return Some("statement".to_owned());
            }
            // Without the marks that it holds, so that those are left which stand for fields that are not shown.
            let mut hidden = given.clone();
            hidden.values_mut().for_each(unmark);
            self.hide_content(operation, &mut hidden);
            common(&Value::Object(given), &Value::Object(hidden), "")
        })
    }

    /// A reason without the values that it may quote, if the write is one of those that may hold such values. Done
    /// again it changes nothing.
    pub fn reason(&self, reason: Refusal, operations: &[Operation]) -> Refusal {
        let mut names = BTreeSet::new();
        let mut statement = false;
        let mut documents = Vec::new();
        for operation in operations {
            names.extend(operation.records().iter().map(|record| record.collection.as_str()));
            if matches!(operation, Operation::Statement { .. }) {
                statement = true;
            } else {
                documents.extend(content(operation));
            }
        }
        if !statement && !self.concerns(operations.iter().flat_map(Operation::records)) {
            return reason;
        }
        for document in &documents {
            names_in(document, &mut names);
        }
        // What stands in quotation marks in a statement may be a value: a database then takes it for the name of a column.
        self.without_values(reason, &names, !statement)
    }

    /// The same of a write of which only the records are known.
    pub(crate) fn reason_about(&self, reason: Refusal, records: &[RecordName]) -> Refusal {
        if !records.is_empty() && !self.concerns(records) {
            return reason;
        }
        let names = records.iter().map(|record| record.collection.as_str()).collect();
        self.without_values(reason, &names, !records.is_empty())
    }

    fn concerns<'a>(&self, records: impl IntoIterator<Item = &'a RecordName>) -> bool {
        records.into_iter().any(|record| self.rules.iter().any(|rule| rule.holds_in(&record.collection)))
    }

    fn without_values(&self, reason: Refusal, names: &BTreeSet<&str>, quoted_names: bool) -> Refusal {
        // Those words are ours.
        if self.is_empty() || reason.kind == RefusalKind::Expired {
            return reason;
        }
        Refusal { message: words_only(&reason.message, names, quoted_names), ..reason }
    }
}

/// The document, or the parameters.
fn content(operation: &Operation) -> Option<Map<String, Value>> {
    match operation {
        Operation::Create { data, .. } | Operation::Put { data, .. } | Operation::Patch { data, .. } => {
            Some(data.to_map())
        }
        Operation::Delete { .. } => None,
        Operation::Statement { parameters, .. } => Some(parameters.clone()),
    }
}

/// Whether a statement's text may hold values: they should be parameters.
fn holds_values(text: &str) -> bool {
    if text == MARK {
        return true;
    }
    let mut before = ' ';
    for (at, c) in text.char_indices() {
        let comment = text[at..].starts_with("--") || text[at..].starts_with("/*");
        // Parameters of PostgreSQL are numbers.
        let number = c.is_ascii_digit() && !before.is_alphanumeric() && !matches!(before, '_' | '$' | '?');
        if comment || number || matches!(c, '\'' | '"' | '`' | '#') || (before == '$' && c == '$') {
            return true;
        }
        before = if c.is_ascii_digit() && matches!(before, '$' | '?') { before } else { c };
    }
    false
}

fn unmark(value: &mut Value) {
    match value {
        Value::Object(map) => map.values_mut().for_each(unmark),
        Value::Array(items) => items.iter_mut().for_each(unmark),
        value if value == MARK => *value = Value::Null,
        _ => {}
    }
}

/// Where both hold [`MARK`].
fn common(given: &Value, hidden: &Value, at: &str) -> Option<String> {
    match (given, hidden) {
        (Value::Object(given), Value::Object(hidden)) => given.iter().find_map(|(name, value)| {
            let at = if at.is_empty() { name.clone() } else { format!("{at}.{name}") };
            common(value, hidden.get(name)?, &at)
        }),
        (Value::Array(given), Value::Array(hidden)) => {
            given.iter().zip(hidden).find_map(|(given, hidden)| common(given, hidden, at))
        }
        (given, hidden) => (given == MARK && hidden == MARK).then(|| at.to_owned()),
    }
}

fn names_in<'a>(map: &'a Map<String, Value>, names: &mut BTreeSet<&'a str>) {
    for (name, value) in map {
        names.insert(name);
        let mut below = vec![value];
        while let Some(value) = below.pop() {
            match value {
                Value::Object(map) => names_in(map, names),
                Value::Array(items) => below.extend(items),
                _ => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn redaction(fields: &[&str]) -> Redaction {
        Redaction::new(fields.iter().copied()).unwrap()
    }

    fn put(collection: &str, data: &str) -> Operation {
        let record = RecordName { collection: collection.parse().unwrap(), id: "1".parse().unwrap() };
        Operation::Put { record, data: Document::parse(data).unwrap() }
    }

    fn statement(text: &str, parameters: &str) -> Operation {
        let parameters = serde_json::from_str(parameters).unwrap();
        Operation::Statement { text: text.into(), parameters, touches: vec![] }
    }

    fn hidden(fields: &[&str], operation: Operation) -> String {
        let mut operations = [operation];
        redaction(fields).hide(&mut operations);
        match &operations[0] {
            Operation::Put { data, .. } => data.as_str().to_owned(),
            Operation::Statement { text, parameters, .. } => {
                format!("{text} {}", Value::Object(parameters.clone()))
            }
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn the_fields_that_are_listed_are_hidden_and_no_others() {
        for (field, collection, data, expected) in [
            ("password", "people", r#"{"a":1.50,"password":"x"}"#, r#"{"a":1.50,"password":"[redacted]"}"#),
            (
                "password",
                "people",
                r#"{"in":[{"PassWord":{"x":1}}]}"#,
                r#"{"in":[{"PassWord":"[redacted]"}]}"#,
            ),
            ("people.email", "people", r#"{"email":null}"#, r#"{"email":"[redacted]"}"#),
            ("people.email", "People", r#"{"email":7}"#, r#"{"email":"[redacted]"}"#),
            ("people.email", "others", r#"{"email":7}"#, r#"{"email":7}"#),
            ("people.email", "people", r#"{"in":{"email":7}}"#, r#"{"in":{"email":7}}"#),
            (
                "*.card.number",
                "orders",
                r#"{"card":[{"number":1},{"number":2,"of":3}],"number":4}"#,
                r#"{"card":[{"number":"[redacted]"},{"number":"[redacted]","of":3}],"number":4}"#,
            ),
            ("*.*.number", "c", r#"{"x":{"number":1},"y":2}"#, r#"{"x":{"number":"[redacted]"},"y":2}"#),
            ("people.*", "people", r#"{"x":{"number":1},"y":2}"#, r#"{"x":"[redacted]","y":"[redacted]"}"#),
        ] {
            assert_eq!(hidden(&[field], put(collection, data)), expected, "{field}");
        }
    }

    #[test]
    fn statements_lose_parameters_of_such_a_name_and_texts_that_may_hold_values() {
        for (field, text, parameters, expected) in [
            (
                "people.email",
                "UPDATE people SET e = :e",
                r#"{"email":1,"e":2}"#,
                r#"UPDATE people SET e = :e {"e":2,"email":"[redacted]"}"#,
            ),
            (
                "pin",
                "UPDATE p2 SET a = $1",
                r#"{"x":[{"pin":1}]}"#,
                r#"UPDATE p2 SET a = $1 {"x":[{"pin":"[redacted]"}]}"#,
            ),
            ("people.*", "DELETE x", r#"{"a":1}"#, r#"DELETE x {"a":"[redacted]"}"#),
            ("pin", "UPDATE p SET a = 'x'", "{}", "[redacted] {}"),
            ("pin", "UPDATE p SET a = \"x\"", "{}", "[redacted] {}"),
            ("pin", "UPDATE p SET a = $$x$$", "{}", "[redacted] {}"),
            ("pin", "UPDATE p SET a = 4711", "{}", "[redacted] {}"),
            ("pin", "UPDATE p SET a = :a -- x", "{}", "[redacted] {}"),
        ] {
            assert_eq!(hidden(&[field], statement(text, parameters)), expected);
        }
    }

    #[test]
    fn of_a_reason_only_words_of_the_list_and_names_are_left() {
        let redaction = redaction(&["people.email"]);
        let people = [put("people", r#"{"email":"ann@example.com","n":{"age":7}}"#)];
        let reason = |message: &str, operations: &[Operation]| {
            let reason = Refusal::new(RefusalKind::Constraint, message);
            let first = redaction.reason(reason, operations);
            assert_eq!(redaction.reason(first.clone(), operations), first, "done twice");
            first.message
        };
        for (message, expected) in [
            (
                r#"duplicate key value violates unique constraint "people_email_key" (Key (email)=(ann@example.com) already exists.)"#,
                r#"duplicate key value violates unique constraint "people_email_key" (Key (email)=([redacted]) already exists.)"#,
            ),
            (
                r#"new row for relation "people" violates check constraint "adult" (Failing row contains (1, bob@example.com, 7).)"#,
                r#"new row for relation "people" violates check constraint "adult" (Failing row contains ([redacted]).)"#,
            ),
            (
                "invalid input syntax for type integer: \"hunter2\"",
                "invalid input syntax for type integer: \"[redacted]\"",
            ),
            ("UNIQUE constraint failed: people.email", "UNIQUE constraint failed: people.email"),
            (
                "Database index `mails` already contains 'ann@example.com', with record `people:4`",
                "Database index `mails` already contains '[redacted]', with record `people:[redacted]`",
            ),
            (
                "Found 'hunter2' for field `age`, with record `people:1`, but expected a int",
                "Found '[redacted]' for field `age`, with record `people:[redacted]`, but expected a int",
            ),
            ("Ann is 7 — no, café \u{7}", "[redacted] is [redacted] no, [redacted]"),
            ("it is \"hunter2\" or `table`", "it is \"[redacted]\" or `table`"),
        ] {
            assert_eq!(reason(message, &people), expected);
        }
        let other = [put("orders", "{}")];
        assert_eq!(reason("hunter2", &other), "hunter2", "no field of that collection is hidden");
        let column = r#"column "hunter2" does not exist"#;
        assert_eq!(reason(column, &[statement("x", "{}")]), r#"column "[redacted]" does not exist"#);
        assert_eq!(Redaction::default().reason(Refusal::new(RefusalKind::Other, "x"), &people).message, "x");
    }

    #[test]
    fn a_mark_that_is_written_back_is_noticed() {
        let redaction = redaction(&["people.email", "pin"]);
        let marked = |operation| redaction.marked(&[operation]);
        assert_eq!(marked(put("people", r#"{"email":"[redacted]"}"#)).as_deref(), Some("email"));
        assert_eq!(marked(put("x", r#"{"in":[{"pin":"[redacted]"}]}"#)).as_deref(), Some("in.pin"));
        assert_eq!(marked(put("people", r#"{"email":"x","note":"[redacted]"}"#)), None);
        assert_eq!(marked(statement(MARK, "{}")).as_deref(), Some("statement"));
    }

    #[test]
    fn fields_are_read_with_clear_errors() {
        for bad in ["", "*", ".", "a.", "a..b", "a-b.c", "outlast_keys.key", "id", "people.id", "*.id", "a,b"]
        {
            assert!(Redaction::new([bad]).is_err(), "{bad}");
        }
        assert!(Redaction::new(["*.user.id"]).is_ok());
    }
}
