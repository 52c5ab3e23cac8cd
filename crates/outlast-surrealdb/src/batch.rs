//! From a batch to one block of statements: a single statement for the server, hence one transaction and one answer.
//!
//! The texts hold no values: those are bound. The block begins by writing the lane's position, for which it must find
//! the expected one. It is written and not only read, because transactions of the server conflict on writes only.

use std::collections::HashSet;

use ciborium::Value as Cbor;
use outlast::database::{Item, LaneId, Position};
use outlast::error::Invalid;
use outlast::record::{Collection, RecordId};
use outlast::{Operation, RecordName, Sequence};

use crate::value::{from_json, from_map, from_merge_patch, integer, object, record, text};

/// The table of positions.
pub(crate) const POSITIONS: &str = "outlast_position";
/// The table of idempotency keys.
pub(crate) const KEYS: &str = "outlast_keys";
/// Rows in one `INSERT`: larger ones are slower in the server's memory engine.
const INSERT_ROWS_MAX: usize = 500;
/// What the block returns when it ran to its end.
pub(crate) const DONE: &str = "outlast_done";
/// Thrown: the position was not the expected one.
pub(crate) const MOVED: &str = "outlast_moved";
/// Thrown by a trial that ran to its end, so that it is never committed.
pub(crate) const TRIAL: &str = "outlast_trial";
/// Thrown with a write's index: the record of a create exists.
pub(crate) const EXISTS: &str = "outlast_exists ";
/// Thrown with a write's index: the record of a patch is absent.
pub(crate) const ABSENT: &str = "outlast_absent ";

/// How carefully the statements are put.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Care {
    /// The fewest and largest statements: a refusal does not say which write it is about.
    Fast,
    /// Looks at each record first, so that a refusal names its write and deletes need no table.
    Careful,
    /// As careful, and undone at the end.
    Trial,
}

/// What a batch is applied to.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Target<'a> {
    /// The lanes whose positions are checked and moved.
    pub(crate) rows: &'a [(LaneId, Position)],
    pub(crate) next: Sequence,
    /// Refuse writes to tables that are not defined, even where the server would define them.
    pub(crate) tables_must_exist: bool,
}

/// Statements and the values bound to their names.
pub(crate) struct Block {
    pub(crate) text: String,
    pub(crate) values: Vec<(String, Cbor)>,
}

/// One operation, ready to be put into a statement.
struct Step<'a> {
    index: usize,
    action: Action<'a>,
}

enum Action<'a> {
    Record { verb: Verb, collection: &'a Collection, id: &'a RecordId, data: Cbor },
    Statement { text: &'a str, parameters: Cbor, names: Vec<&'a str> },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Verb {
    Create,
    Put,
    Patch,
    Delete,
}

impl Block {
    /// The block for the writes of `batch` that are not in `skipped`.
    ///
    /// # Errors
    /// The index of a write whose values the server cannot hold (which `check` refuses at the door).
    pub(crate) fn new(
        target: Target<'_>,
        batch: &[Item],
        skipped: &HashSet<usize>,
        care: Care,
        now_millis: u64,
    ) -> Result<Self, (usize, Invalid)> {
        let mut steps = Vec::with_capacity(batch.len());
        let mut keys = Vec::new();
        for (index, item) in batch.iter().enumerate().filter(|(index, _)| !skipped.contains(index)) {
            for operation in item.write.operations() {
                let action = Action::new(operation).map_err(|invalid| (index, invalid))?;
                steps.push(Step { index, action });
            }
            keys.extend(item.write.key().map(|key| {
                object([
                    ("id", record(KEYS, &key.key)),
                    ("fingerprint", text(key.fingerprint.as_str())),
                    ("write_id", text(item.id.to_string())),
                    ("at", integer(now_millis)),
                ])
            }));
        }
        let mut block = Self { text: String::with_capacity(512), values: Vec::with_capacity(8) };
        block.begin(target);
        if target.tables_must_exist {
            block.look_at_tables(&steps);
        }
        if !keys.is_empty() {
            let rows = block.bind(Cbor::Array(keys));
            block.line(&format!("INSERT INTO {KEYS} ${rows} RETURN NONE;"));
        }
        block.steps(steps, care);
        block.line(&if care == Care::Trial {
            format!("THROW '{TRIAL}' }}")
        } else {
            format!("RETURN '{DONE}' }}")
        });
        Ok(block)
    }

    fn begin(&mut self, target: Target<'_>) {
        let next = target.next.as_u64();
        self.values.push(("outlast_next".to_owned(), integer(next)));
        self.line("{");
        for (lane, expected) in target.rows {
            self.advance(lane, expected, next);
        }
    }

    /// Checks and moves a position.
    fn advance(&mut self, lane: &LaneId, expected: &Position, next: u64) {
        let [lane, sequence, generation, owner] = [
            record(POSITIONS, lane.as_str()),
            integer(expected.sequence.0.as_u64()),
            integer(expected.generation),
            text(expected.owner.as_str()),
        ]
        .map(|value| self.bind(value));
        // The server does not write a record that does not change, and then a take-over would not conflict with this
        // transaction: so when the sequence stays, something else must change.
        let touch = if expected.sequence.0.as_u64() == next { ", touched += 1" } else { "" };
        self.line(&format!(
            "LET $outlast_moved = (UPDATE ${lane} SET sequence = $outlast_next{touch} WHERE sequence = ${sequence} AND \
             generation = ${generation} AND owner = ${owner} RETURN VALUE generation);\n\
             IF $outlast_moved = [] {{ THROW '{MOVED}' }};"
        ));
    }

    /// A read of a table that is not defined fails (from 3.0 on), so the whole transaction does.
    fn look_at_tables(&mut self, steps: &[Step<'_>]) {
        let mut seen = HashSet::new();
        for step in steps {
            if let Action::Record { verb: Verb::Create | Verb::Put, collection, .. } = &step.action
                && seen.insert(collection.as_str())
            {
                self.line(&format!("SELECT VALUE id FROM `{collection}` LIMIT 1;"));
            }
        }
    }

    fn line(&mut self, text: &str) {
        self.text.push_str(text);
        self.text.push('\n');
    }

    /// Binds a value to a name of its own.
    fn bind(&mut self, value: Cbor) -> String {
        let name = format!("outlast_{}", self.values.len());
        self.values.push((name.clone(), value));
        name
    }

    /// Puts what is alike and adjacent together, and keeps the order.
    fn steps(&mut self, steps: Vec<Step<'_>>, care: Care) {
        let mut rest = steps.into_iter().peekable();
        let mut mixed: Vec<Step<'_>> = Vec::new();
        while let Some(step) = rest.next() {
            let Action::Record { verb, collection, .. } = &step.action else {
                self.mixed(&mut mixed, care);
                self.statement(step);
                continue;
            };
            let (verb, collection) = (*verb, *collection);
            if care != Care::Fast || verb != Verb::Create {
                mixed.push(step);
                continue;
            }
            let mut run = vec![step];
            while run.len() < INSERT_ROWS_MAX
                && let Some(step) = rest.next_if(|step| step.creates_in(collection))
            {
                run.push(step);
            }
            if run.len() == 1 {
                mixed.append(&mut run);
            } else {
                self.mixed(&mut mixed, care);
                self.insert(collection, run);
            }
        }
        self.mixed(&mut mixed, care);
    }

    fn insert(&mut self, collection: &Collection, run: Vec<Step<'_>>) {
        let rows = run.into_iter().filter_map(|step| match step.action {
            Action::Record { id, data: Cbor::Map(mut members), .. } => {
                // A text is taken as it is; a name of the table with it would only be read again.
                members.push((text("id"), text(id.as_str())));
                Some(Cbor::Map(members))
            }
            _ => None,
        });
        let rows = rows.collect();
        let name = self.bind(Cbor::Array(rows));
        // The name follows the grammar of collections: it cannot leave the backticks.
        self.line(&format!("INSERT INTO `{collection}` ${name} RETURN NONE;"));
    }

    /// Operations that are not grouped: one by itself, several in a loop.
    fn mixed(&mut self, steps: &mut Vec<Step<'_>>, care: Care) {
        let mut verbs: Vec<Verb> = Vec::new();
        let mut rows: Vec<Cbor> = Vec::with_capacity(steps.len());
        for step in steps.drain(..) {
            let Action::Record { verb, collection, id, data } = step.action else { continue };
            if !verbs.contains(&verb) {
                verbs.push(verb);
            }
            rows.push(object([
                ("k", text(verb.letter())),
                ("r", record(collection.as_str(), id.as_str())),
                ("d", data),
                ("i", integer(step.index as u64)),
            ]));
        }
        match (verbs.as_slice(), rows.len()) {
            ([], _) => {}
            ([verb], 1) => {
                let row = rows.pop().map_or_else(String::new, |row| self.bind(row));
                self.line(&statement_of(*verb, care, &row));
            }
            (verbs, _) => {
                let rows = self.bind(Cbor::Array(rows));
                let body = choice(verbs, care);
                self.line(&format!("FOR $outlast_o IN ${rows} {{ {body} }};"));
            }
        }
    }

    /// In a branch, so that what it names concerns nothing outside (a bare block of 3.x tells its names). Not as the body of
    /// a function: one that writes has no effect in 2.x, and says nothing.
    fn statement(&mut self, step: Step<'_>) {
        let Action::Statement { text, parameters, names } = step.action else { return };
        let bound = self.bind(parameters);
        let named: Vec<String> = names.iter().map(|name| format!("LET ${name} = ${bound}.{name};")).collect();
        let named = named.join(" ");
        // On lines of its own: a comment at its end must not swallow the brace.
        self.line(&format!("IF true {{ {named}\n{text}\n}};"));
    }
}

impl Verb {
    fn letter(self) -> &'static str {
        match self {
            Self::Create => "c",
            Self::Put => "p",
            Self::Patch => "m",
            Self::Delete => "d",
        }
    }
}

/// The statement for each row of a loop, by its verb.
fn choice(verbs: &[Verb], care: Care) -> String {
    if let [verb] = verbs {
        return statement_of(*verb, care, "outlast_o");
    }
    let cases: Vec<String> = verbs
        .iter()
        .map(|verb| {
            let statement = statement_of(*verb, care, "outlast_o");
            format!("IF $outlast_o.k = '{}' {{ {statement} }}", verb.letter())
        })
        .collect();
    cases.join(" ELSE ")
}

/// The statement for the operation that is bound to the name `row`: its record `r`, data `d` and write's index `i`.
fn statement_of(verb: Verb, care: Care, row: &str) -> String {
    match (verb, care) {
        (Verb::Create, Care::Fast) => format!("CREATE ${row}.r CONTENT ${row}.d RETURN NONE;"),
        (Verb::Create, _) => format!(
            "IF record::exists(${row}.r) {{ THROW '{EXISTS}' + <string>${row}.i }}; \
             CREATE ${row}.r CONTENT ${row}.d RETURN NONE;"
        ),
        (Verb::Put, _) => format!("UPSERT ${row}.r CONTENT ${row}.d RETURN NONE;"),
        // An update of an absent record says nothing, it only returns no rows.
        (Verb::Patch, Care::Fast) => format!(
            "LET $outlast_u = (UPDATE ${row}.r MERGE ${row}.d RETURN VALUE id); \
             IF $outlast_u = [] {{ THROW '{ABSENT}' + <string>${row}.i }};"
        ),
        (Verb::Patch, _) => format!(
            "IF !record::exists(${row}.r) {{ THROW '{ABSENT}' + <string>${row}.i }}; \
             UPDATE ${row}.r MERGE ${row}.d RETURN NONE;"
        ),
        (Verb::Delete, Care::Fast) => format!("DELETE ${row}.r RETURN NONE;"),
        // From 3.0 on a delete from a table that is not defined fails.
        (Verb::Delete, _) => format!("IF record::exists(${row}.r) {{ DELETE ${row}.r RETURN NONE }};"),
    }
}

impl Step<'_> {
    fn creates_in(&self, wanted: &Collection) -> bool {
        matches!(&self.action, Action::Record { verb: Verb::Create, collection, .. } if *collection == wanted)
    }
}

impl<'a> Action<'a> {
    fn new(operation: &'a Operation) -> Result<Self, Invalid> {
        let of = |verb, record: &'a RecordName, data| Self::Record {
            verb,
            collection: &record.collection,
            id: &record.id,
            data,
        };
        Ok(match operation {
            Operation::Create { record, data } => of(Verb::Create, record, from_map(&data.to_map())?),
            Operation::Put { record, data } => of(Verb::Put, record, from_map(&data.to_map())?),
            Operation::Patch { record, data } => of(Verb::Patch, record, from_merge_patch(&data.to_map())?),
            Operation::Delete { record } => of(Verb::Delete, record, Cbor::Null),
            Operation::Statement { text, parameters, .. } => {
                let members = parameters.iter().map(|(name, value)| Ok((name.as_str(), from_json(value)?)));
                let members = members.collect::<Result<Vec<_>, Invalid>>()?;
                let names = members.iter().map(|(name, _)| *name).collect();
                Self::Statement { text, parameters: object(members), names }
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use outlast::database::Sequence64;
    use outlast::{Document, Write, WriteId};

    use super::*;

    fn block(writes: Vec<Write>, care: Care) -> Block {
        let position =
            Position { sequence: Sequence64(Sequence::START), generation: 1, owner: "me".to_owned() };
        let next = Sequence::from_u64(Sequence::START.as_u64() + 1).unwrap();
        let rows = [(LaneId::new("q", 0), position)];
        let target = Target { rows: &rows, next, tables_must_exist: false };
        let id = WriteId(next);
        let batch: Vec<Item> = writes.into_iter().map(|write| Item { id, write: Arc::new(write) }).collect();
        Block::new(target, &batch, &HashSet::new(), care, 0).map_err(|(index, _)| index).unwrap()
    }

    fn create(table: &str, id: &str) -> Write {
        Write::create(
            table.parse().unwrap(),
            id.parse().unwrap(),
            Document::parse("{\"x\":\"'; }\"}").unwrap(),
        )
    }

    #[test]
    fn texts_hold_no_values() {
        let patch = Write::patch(
            "a".parse().unwrap(),
            "secret-id".parse().unwrap(),
            Document::parse("{\"x\":\"'; }\"}").unwrap(),
        );
        let keyed = create("a", "secret-id").with_idempotency_key("secret-key").unwrap();
        for care in [Care::Fast, Care::Careful, Care::Trial] {
            let block = block(vec![keyed.clone(), patch.clone(), create("a", "secret-id")], care);
            assert!(!block.text.contains("secret") && !block.text.contains("'; }"), "{}", block.text);
            assert!(block.values.iter().all(|(name, _)| name.starts_with("outlast_")));
        }
    }

    #[test]
    fn runs_of_creates_are_grouped_and_the_order_kept() {
        let delete = Write::delete("a".parse().unwrap(), "1".parse().unwrap());
        let writes = vec![
            create("a", "1"),
            create("a", "2"),
            delete,
            create("b", "1"),
            create("b", "2"),
            create("a", "1"),
        ];
        let text = block(writes, Care::Fast).text;
        let places: Vec<usize> = ["INSERT INTO `a`", "DELETE", "INSERT INTO `b`", "CREATE"]
            .iter()
            .map(|part| text.find(part).unwrap_or_else(|| panic!("{part}: {text}")))
            .collect();
        assert!(places.is_sorted(), "{text}");
    }

    #[test]
    fn a_long_run_is_put_into_several_inserts() {
        let writes = (0..=2 * INSERT_ROWS_MAX).map(|n| create("a", &n.to_string())).collect();
        let text = block(writes, Care::Fast).text;
        assert_eq!((text.matches("INSERT").count(), text.matches("CREATE").count()), (2, 1), "{text}");
    }

    #[test]
    fn a_trial_can_only_end_by_throwing() {
        let text = block(vec![create("a", "1")], Care::Trial).text;
        assert!(text.trim_end().ends_with("THROW 'outlast_trial' }") && !text.contains(DONE), "{text}");
    }

    #[test]
    fn a_sequence_that_stays_still_writes_the_position() {
        let position =
            Position { sequence: Sequence64(Sequence::START), generation: 1, owner: "me".to_owned() };
        let rows = [(LaneId::new("q", 0), position)];
        let target = Target { rows: &rows, next: Sequence::START, tables_must_exist: false };
        let Ok(block) = Block::new(target, &[], &HashSet::new(), Care::Fast, 0) else { panic!() };
        assert!(block.text.contains("touched += 1"), "{}", block.text);
    }
}
