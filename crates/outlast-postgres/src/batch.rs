//! [`Block`]: a batch as one flight of statements. Pure: no connection is needed.

use std::borrow::Cow;
use std::collections::{HashMap, HashSet};
use std::fmt::Write as _;
use std::sync::Arc;

use outlast::database::{Item, LaneId, Position};
use outlast::error::{Refusal, RefusalKind};
use outlast::{Collection, Operation, RecordName, Sequence, WriteId};
use serde_json::Value;

use crate::flight::{Flight, Text};
use crate::limits::Limits;
use crate::position::ADVANCE;
use crate::prepared::Prepared;
use crate::shape::{Column, Shape, Table};
use crate::sql::{self, Verb};
use crate::{statement, value};

/// A group is cut when its rows have more bytes than this: the server reads them into one value.
const GROUP_BYTES_MAX: usize = 8 << 20;
/// Most groups that are open at once.
const GROUPS_MAX: usize = 32;

/// What the whole batch is about.
#[derive(Clone, Copy)]
pub(crate) struct Target<'a> {
    /// The lanes whose positions are checked and moved.
    pub(crate) rows: &'a [(LaneId, Position)],
    pub(crate) next: Sequence,
    /// Whether operations on different records take effect in the order of the batch.
    pub(crate) keeps_order: bool,
    /// Whether the server may read, convert and plan before the position is reached: another batch may still be at work
    /// on it.
    pub(crate) binds_ahead: bool,
    pub(crate) create_collections: bool,
    pub(crate) limits: Limits,
}

/// What a statement of a flight is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Source {
    /// Begins the transaction.
    Begin,
    /// Binds what will be run when the position is reached.
    Ahead,
    /// Checks and moves the position.
    Position,
    /// Stores idempotency keys.
    Keys,
    /// Makes a table for the operation of this write.
    Table(usize),
    /// Checks that a collection still has no table, so that there is nothing to delete.
    Absent,
    /// Operations; `alone` names the write and the operation when it is a single one.
    Operations { alone: Option<(usize, usize)> },
    /// Checks what would otherwise be checked at the commit.
    Constraints,
    /// Commits, or rolls a trial back.
    End,
}

/// What becomes of a write whose idempotency key may be known.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Claim {
    /// It takes effect.
    Run,
    /// It was applied already: nothing is left to do.
    Done,
    /// The key belongs to this other write with other content.
    Reused(WriteId),
}

/// A batch in statements.
pub(crate) struct Block<'a> {
    pub(crate) flight: Flight,
    /// For each step what it is for.
    pub(crate) sources: Vec<Source>,
    /// Collections whose table it makes.
    pub(crate) made: Vec<&'a Collection>,
}

/// Why a batch cannot be put into statements.
#[derive(Debug)]
pub(crate) enum Stop {
    /// This write is refused, unless one before it is.
    Write(usize, Refusal),
    /// The whole is too large.
    TooLarge(String),
}

/// How a batch is sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mode {
    /// Alike operations grouped, and a commit at the end.
    Commit,
    /// Each operation alone, deferred constraints checked, and all rolled back: finds what is refused.
    Trial,
}

impl<'a> Block<'a> {
    /// The writes of `items` for which `claims` says so. `prepared`: what the server keeps, where it does.
    pub(crate) fn new(
        target: Target<'_>,
        items: &'a [Item],
        claims: &[Claim],
        shapes: &'a HashMap<&'a Collection, Arc<Shape>>,
        mode: Mode,
        prepared: Option<&Prepared>,
    ) -> Result<Self, Stop> {
        let mut builder = Builder {
            shapes,
            made: Vec::new(),
            absent: Vec::new(),
            parts: Vec::new(),
            groups: Groups::new(match mode {
                Mode::Trial => Grouping::None,
                Mode::Commit if target.keeps_order => Grouping::Adjacent,
                Mode::Commit => Grouping::Any,
            }),
            statements: Vec::new(),
            create_collections: target.create_collections,
        };
        let running = || items.iter().zip(claims).enumerate();
        if mode == Mode::Commit {
            let keyed = running().filter(|(_, (_, claim))| **claim == Claim::Run).map(|(_, (item, _))| item);
            builder.keys(&keyed.collect::<Vec<_>>());
        }
        for (index, (item, claim)) in running() {
            match claim {
                Claim::Done => continue,
                Claim::Reused(owner) => {
                    let message = format!("the idempotency key belongs to another write, {owner}");
                    return Err(Stop::Write(index, Refusal::new(RefusalKind::KeyReused, message)));
                }
                Claim::Run => {}
            }
            for (place, operation) in item.write.operations().iter().enumerate() {
                builder.operation(index, place, operation)?;
            }
        }
        builder.end_groups();
        builder.into_block(target, mode, prepared)
    }
}

/// One statement behind the position.
struct Part<'a> {
    source: Source,
    /// It can be bound before the position is reached, unless something stands in front of it that cannot.
    ahead: bool,
    /// It comes again with other batches: the server may keep it.
    recurs: bool,
    text: Cow<'static, str>,
    /// Text, or NULL.
    parameters: Vec<Option<Cow<'a, str>>>,
}

/// What makes operations alike: one statement can do all of them.
#[derive(PartialEq, Eq)]
struct Kind<'a> {
    verb: Verb,
    collection: &'a Collection,
    /// The columns whose values are given, in order.
    columns: Vec<&'a Column>,
}

/// Operations that become one statement.
struct Group<'a> {
    kind: Kind<'a>,
    table: Cow<'a, Table>,
    ids: HashSet<&'a str>,
    /// The rows as JSON, without the closing bracket.
    rows: String,
    first: (usize, usize),
}

/// Which operations become one statement.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Grouping {
    /// Each one by itself.
    None,
    /// Alike ones that follow each other.
    Adjacent,
    /// Alike ones, whatever stands between them, as long as each record, and each write, keeps its own order.
    Any,
}

/// Statements of alike operations that are not closed yet, in the order in which they will run.
struct Groups<'a> {
    grouping: Grouping,
    open: Vec<Group<'a>>,
    /// Into which of them the last operation on a record went.
    records: HashMap<(&'a Collection, &'a str), usize>,
    /// Into which of them the last operation of this write went.
    write: (usize, usize),
}

impl<'a> Groups<'a> {
    fn new(grouping: Grouping) -> Self {
        Self { grouping, open: Vec::new(), records: HashMap::new(), write: (0, 0) }
    }

    /// Where this operation may join: not before what its record or its write has to do first.
    fn fitting(&self, write: usize, kind: &Kind<'a>, id: &'a str, bytes: usize) -> Option<usize> {
        let first = match self.grouping {
            Grouping::None => return None,
            Grouping::Adjacent => self.open.len().saturating_sub(1),
            Grouping::Any => {
                let of_record = self.records.get(&(kind.collection, id)).map_or(0, |group| group + 1);
                let of_write = if self.write.0 == write { self.write.1 } else { 0 };
                of_record.max(of_write)
            }
        };
        let fits = |group: &Group<'_>| {
            group.kind == *kind && !group.ids.contains(id) && group.rows.len() + bytes < GROUP_BYTES_MAX
        };
        (first..self.open.len()).find(|at| fits(&self.open[*at]))
    }

    /// Whether all of them are to be closed before another one is opened.
    fn are_full(&self) -> bool {
        self.grouping != Grouping::Any || self.open.len() >= GROUPS_MAX
    }

    fn note(&mut self, write: usize, collection: &'a Collection, id: &'a str, group: usize) {
        if self.grouping == Grouping::Any {
            self.records.insert((collection, id), group);
            self.write = (write, group);
        }
    }

    fn close(&mut self) -> Vec<Group<'a>> {
        self.records.clear();
        self.write = (0, 0);
        std::mem::take(&mut self.open)
    }
}

struct Builder<'a, 's> {
    shapes: &'s HashMap<&'a Collection, Arc<Shape>>,
    /// Collections whose table an earlier statement of this block makes.
    made: Vec<&'a Collection>,
    /// Collections that are known to have none.
    absent: Vec<&'a Collection>,
    parts: Vec<Part<'a>>,
    groups: Groups<'a>,
    /// The texts of callers' statements so far.
    statements: Vec<&'a str>,
    create_collections: bool,
}

impl<'a, 's: 'a> Builder<'a, 's> {
    /// Stores the keys of all writes at once.
    fn keys(&mut self, items: &[&Item]) {
        let rows: Vec<Value> = items
            .iter()
            .filter_map(|item| {
                let key = item.write.key()?;
                Some(serde_json::json!({ "k": key.key, "f": key.fingerprint, "w": item.id.to_string() }))
            })
            .collect();
        if rows.is_empty() {
            return;
        }
        let text = "INSERT INTO outlast_keys (key, fingerprint, write_id) \
             SELECT r.k, r.f, r.w FROM jsonb_to_recordset($1::jsonb) AS r (k text, f text, w text)";
        let parameters = vec![Some(Value::from(rows).to_string().into())];
        self.parts.push(Part {
            source: Source::Keys,
            ahead: true,
            recurs: true,
            text: text.into(),
            parameters,
        });
    }

    fn operation(&mut self, write: usize, place: usize, operation: &'a Operation) -> Result<(), Stop> {
        let at = (write, place);
        match operation {
            Operation::Create { record, data } => self.record(at, Verb::Create, record, data.as_str()),
            Operation::Put { record, data } => self.record(at, Verb::Put, record, data.as_str()),
            Operation::Patch { record, data } => self.record(at, Verb::Patch, record, data.as_str()),
            Operation::Delete { record } => self.record(at, Verb::Delete, record, "{}"),
            Operation::Statement { text, parameters, .. } => {
                self.end_groups();
                self.statements.push(text);
                let numbered = statement::number(text).map_err(|invalid| {
                    Stop::Write(write, Refusal::new(RefusalKind::Statement, invalid.to_string()))
                })?;
                let values = statement::values(&numbered.names, parameters);
                let parameters = values.into_iter().map(|value| value.map(Cow::Owned)).collect();
                let source = Source::Operations { alone: Some(at) };
                self.parts.push(Part {
                    source,
                    ahead: false,
                    recurs: false,
                    text: numbered.text.into(),
                    parameters,
                });
                Ok(())
            }
        }
    }

    fn record(
        &mut self,
        at: (usize, usize),
        verb: Verb,
        record: &'a RecordName,
        data: &'a str,
    ) -> Result<(), Stop> {
        let RecordName { collection, id } = record;
        let refuse = |kind, message| Stop::Write(at.0, Refusal::new(kind, message));
        let shape = self.shapes.get(collection).map(Arc::as_ref);
        let table = match shape {
            Some(Shape::Unfit(why)) => return Err(refuse(RefusalKind::Schema, why.clone())),
            Some(Shape::Table(table)) => Cow::Borrowed(table),
            _ if self.made.contains(&collection) => Cow::Owned(Table::of_documents(collection)),
            // Not even a delete: what it is about may be there again with the table.
            Some(Shape::Gone) => {
                let message = format!(
                    "the collection \"{collection}\" has no table any more. The one that it had was not as Outlast makes \
                     them: make it again, as a migration does, and the write can be tried again"
                );
                return Err(refuse(RefusalKind::Schema, message));
            }
            // A table that was not there when the batch began may be there when its turn comes: then it is known.
            _ if matches!(verb, Verb::Delete | Verb::Patch) && self.is_mentioned(collection) => {
                let message = format!(
                    "the collection \"{collection}\" had no table when a statement that mentions it was sent: try again"
                );
                return Err(refuse(RefusalKind::Schema, message));
            }
            // Nothing is there: nothing to delete, and nothing to patch.
            _ if verb == Verb::Delete => {
                self.expect_absent(collection);
                return Ok(());
            }
            _ if verb == Verb::Patch => return Err(refuse(RefusalKind::NotFound, absent(record))),
            _ if !self.create_collections => {
                let message = format!(
                    "the collection \"{collection}\" has no table: make one, for example CREATE TABLE \
                     \"{collection}\" (id text COLLATE \"C\" PRIMARY KEY, data jsonb NOT NULL)"
                );
                return Err(refuse(RefusalKind::Schema, message));
            }
            _ => {
                self.make(at.0, collection);
                Cow::Owned(Table::of_documents(collection))
            }
        };
        let misfit = |message| refuse(RefusalKind::Schema, format!("{message} (\"{collection}\" \"{id}\")"));
        let (columns, values) = values(&table, shape, data).map_err(misfit)?;
        let kind = Kind { verb, collection, columns };
        let place = if let Some(place) = self.groups.fitting(at.0, &kind, id.as_str(), values.len()) {
            place
        } else {
            if self.groups.are_full() {
                self.end_groups();
            }
            let (table, ids, rows) = (table.clone(), HashSet::new(), String::new());
            self.groups.open.push(Group { kind, table, ids, rows, first: at });
            self.groups.open.len() - 1
        };
        let group = &mut self.groups.open[place];
        group.rows.push(if group.ids.is_empty() { '[' } else { ',' });
        push_row(&mut group.rows, &table, id.as_str(), &values).map_err(misfit)?;
        group.ids.insert(id.as_str());
        self.groups.note(at.0, collection, id.as_str(), place);
        Ok(())
    }

    /// A statement before may have made the table.
    fn is_mentioned(&self, collection: &Collection) -> bool {
        let name = collection.as_str().to_ascii_lowercase();
        self.statements.iter().any(|text| text.to_ascii_lowercase().contains(&name))
    }

    /// The batch in front may be about to make its table.
    fn expect_absent(&mut self, collection: &'a Collection) {
        if self.absent.contains(&collection) {
            return;
        }
        self.absent.push(collection);
        let text = "SELECT outlast_expect(CAST(to_regclass($1) IS NOT NULL AS integer), 0)";
        let parameters = vec![Some(format!("\"{collection}\"").into())];
        self.parts.push(Part {
            source: Source::Absent,
            ahead: false,
            recurs: false,
            text: text.into(),
            parameters,
        });
    }

    fn make(&mut self, write: usize, collection: &'a Collection) {
        self.end_groups();
        let text = format!(
            "CREATE TABLE IF NOT EXISTS \"{collection}\" (id text COLLATE \"C\" PRIMARY KEY, data jsonb NOT NULL)"
        );
        self.parts.push(Part {
            source: Source::Table(write),
            ahead: false,
            recurs: false,
            text: text.into(),
            parameters: Vec::new(),
        });
        self.made.push(collection);
    }

    /// Puts each group into a statement.
    fn end_groups(&mut self) {
        for group in self.groups.close() {
            let count = group.ids.len();
            let alone = (count == 1).then_some(group.first);
            let rows = group.rows + "]";
            let Kind { verb, collection, columns } = &group.kind;
            let text = sql::statement(*verb, collection, columns, &group.table);
            let mut parameters = vec![Some(rows.into())];
            // As many rows as it has to meet.
            parameters.extend((*verb != Verb::Delete).then(|| Some(count.to_string().into())));
            self.parts.push(Part {
                source: Source::Operations { alone },
                ahead: sql::changes(*verb, columns, &group.table),
                recurs: true,
                text: text.into(),
                parameters,
            });
        }
    }

    /// Lays out the flight: the positions stand in front of everything that takes effect.
    fn into_block(
        self,
        target: Target<'_>,
        mode: Mode,
        prepared: Option<&Prepared>,
    ) -> Result<Block<'a>, Stop> {
        let mut layout = Layout::default();
        target.limits.begin_batch(&mut layout.flight, prepared).map_err(Stop::TooLarge)?;
        layout.sources.extend([Source::Begin; 2]);
        // What callers state, and what makes tables, may change what everything behind it means.
        let ahead = if target.binds_ahead && mode == Mode::Commit {
            self.parts.iter().take_while(|part| part.ahead).count()
        } else {
            0
        };
        let portal = |index: usize| format!("o{index}");
        for (index, part) in self.parts.iter().enumerate().take(ahead) {
            layout.add(Source::Ahead, |flight| {
                flight.bind(&portal(index), part.text(prepared), &part.parameters())
            })?;
        }
        let advance = Text { text: ADVANCE, prepared };
        for (lane, Position { sequence, generation, owner }) in target.rows {
            let [next, sequence, generation] =
                [target.next.as_u64(), sequence.0.as_u64(), *generation].map(|number| number.to_string());
            let parameters = [lane.as_str(), &next, &sequence, &generation, owner].map(Some);
            layout.add(Source::Position, |flight| flight.add(advance, &parameters))?;
        }
        for (index, part) in self.parts.iter().enumerate() {
            layout.add(part.source, |flight| {
                if index < ahead {
                    flight.run(&portal(index))
                } else {
                    flight.add(part.text(prepared), &part.parameters())
                }
            })?;
        }
        if mode == Mode::Trial {
            layout.add(Source::Constraints, |flight| flight.add("SET CONSTRAINTS ALL IMMEDIATE", &[]))?;
        }
        let end = if mode == Mode::Commit { "COMMIT" } else { "ROLLBACK" };
        layout.add(Source::End, |flight| flight.add(end, &[]))?;
        Ok(Block { flight: layout.flight, sources: layout.sources, made: self.made })
    }
}

/// A flight, and for each of its steps what it is for.
#[derive(Default)]
struct Layout {
    flight: Flight,
    sources: Vec<Source>,
}

impl Layout {
    fn add(
        &mut self,
        source: Source,
        step: impl FnOnce(&mut Flight) -> Result<(), String>,
    ) -> Result<(), Stop> {
        step(&mut self.flight).map_err(Stop::TooLarge)?;
        self.sources.push(source);
        Ok(())
    }
}

impl Part<'_> {
    fn text<'b>(&'b self, prepared: Option<&'b Prepared>) -> Text<'b> {
        Text { text: &self.text, prepared: prepared.filter(|_| self.recurs) }
    }

    fn parameters(&self) -> Vec<Option<&str>> {
        self.parameters.iter().map(Option::as_deref).collect()
    }
}

/// What is told of a record that is not there.
pub(crate) fn absent(record: &RecordName) -> String {
    format!("there is no record \"{}\" in \"{}\" to patch", record.id, record.collection)
}

/// What is given for a record: a document as it is, or members of a row of JSON, `c0`, `c1`, ..., and the columns of
/// those. `shape` holds the same table for longer.
fn values<'a>(
    table: &Table,
    shape: Option<&'a Shape>,
    data: &'a str,
) -> Result<(Vec<&'a Column>, Cow<'a, str>), String> {
    if table.document {
        return Ok((Vec::new(), Cow::Borrowed(data)));
    }
    let (mut columns, mut values) = (Vec::new(), String::with_capacity(data.len() + 32));
    let Some(Shape::Table(lasting)) = shape else { return Ok((columns, values.into())) };
    for (name, value) in members(data) {
        if table.key.iter().any(|key| key.name == name) {
            return Err(format!("the column \"{name}\" is part of the record's id: leave it out"));
        }
        let column = lasting.column(&name).ok_or_else(|| format!("there is no column \"{name}\""))?;
        if column.automatic {
            continue;
        }
        if let Some(why) = value::misfit(column.type_id, column.scale, &value) {
            return Err(format!("the column \"{name}\" {why}"));
        }
        let _ = write!(values, ",\"c{}\":{value}", columns.len());
        columns.push(column);
    }
    Ok((columns, values.into()))
}

/// A record as a row of JSON: its key as texts `k0`, `k1`, ... and what is given for it.
fn push_row(rows: &mut String, table: &Table, id: &str, values: &str) -> Result<(), String> {
    let key = table
        .key_of(id)
        .ok_or_else(|| format!("the id must name {} key columns, apart by commas", table.key.len()))?;
    for (at, part) in key.iter().enumerate() {
        let _ = write!(rows, "{}\"k{at}\":", if at == 0 { '{' } else { ',' });
        push_text(rows, part);
    }
    if table.document {
        rows.push_str(",\"c0\":");
    }
    rows.push_str(values);
    rows.push('}');
    Ok(())
}

/// A text in JSON.
fn push_text(json: &mut String, text: &str) {
    if text.bytes().all(|byte| byte >= b' ' && byte != b'"' && byte != b'\\') {
        json.push('"');
        json.push_str(text);
        json.push('"');
    } else {
        let _ = write!(json, "{}", Value::from(text));
    }
}

/// The members of a document, in the order of their names.
pub(crate) fn members(data: &str) -> serde_json::Map<String, Value> {
    serde_json::from_str(data).unwrap_or_default()
}
