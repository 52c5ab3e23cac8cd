//! [`Shape`]: what stands under the name of a collection, and what Outlast can do with it.

use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::fmt::Write as _;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use outlast::Collection;
use serde_json::Value;

use crate::connection::Connection;
use crate::flight::Row;
use crate::limits::Limits;
use crate::position::{Trouble, ask};

/// How long a shape is believed. One that has changed shows itself by an error, or after this time.
const AGE_MAX: Duration = Duration::from_mins(1);

const TEXT: u32 = 25;
const NUMERIC: u32 = 1700;
const JSONB: u32 = 3802;

/// What stands under the name of a collection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Shape {
    /// Nothing.
    Absent,
    /// Nothing any more: what stood there last was not a table as Outlast makes them. Whoever made it makes it again.
    Gone,
    /// A table.
    Table(Table),
    /// Something that cannot hold records: why.
    Unfit(String),
}

/// A table that holds records.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Table {
    /// The columns that name a record.
    pub(crate) key: Vec<Column>,
    /// All others.
    pub(crate) columns: Vec<Column>,
    /// The index that keeps keys apart, as errors name it.
    pub(crate) key_index: String,
    /// The document stands in the column `data` as it is (`id text PRIMARY KEY, data jsonb`); otherwise each member
    /// has a column of its own.
    pub(crate) document: bool,
    /// It has columns that it would not have if Outlast made it.
    pub(crate) is_wider: bool,
}

/// A column.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Column {
    /// Its name.
    pub(crate) name: String,
    /// Its type, as SQL writes it.
    pub(crate) type_name: String,
    /// The type's object id.
    pub(crate) type_id: u32,
    /// Digits behind the point that a `numeric(p, s)` keeps.
    pub(crate) scale: Option<i64>,
    /// The database alone fills it in: generated, or an identity that is always generated.
    pub(crate) automatic: bool,
    /// An identity that takes a value where one is given.
    pub(crate) by_default: bool,
    /// An identity that takes a value only when overridden.
    pub(crate) always: bool,
}

impl Column {
    fn plain(name: &str, type_name: &str, type_id: u32) -> Self {
        let (name, type_name) = (name.to_owned(), type_name.to_owned());
        Self { name, type_name, type_id, scale: None, automatic: false, by_default: false, always: false }
    }

    /// Its name as SQL writes it.
    pub(crate) fn quoted(&self) -> String {
        quoted(&self.name)
    }

    /// It holds any JSON.
    pub(crate) fn is_json(&self) -> bool {
        self.type_id == JSONB
    }

    /// Its values are texts that need no other spelling.
    pub(crate) fn is_text(&self) -> bool {
        self.type_id == TEXT
    }
}

impl Table {
    /// The table that Outlast makes for a collection.
    pub(crate) fn of_documents(collection: &Collection) -> Self {
        Self {
            key: vec![Column::plain("id", "text", TEXT)],
            columns: vec![Column::plain("data", "jsonb", JSONB)],
            key_index: format!("{collection}_pkey"),
            document: true,
            is_wider: false,
        }
    }

    /// The column that holds a member of documents and may be written.
    pub(crate) fn column(&self, name: &str) -> Option<&Column> {
        self.columns.iter().find(|column| column.name == name)
    }

    /// The values of the key columns that an id names: parts apart by commas, a comma inside one as `\,`.
    pub(crate) fn key_of<'a>(&self, id: &'a str) -> Option<Vec<Cow<'a, str>>> {
        if self.key.len() == 1 {
            return Some(vec![Cow::Borrowed(id)]);
        }
        let mut parts = vec![String::new()];
        let mut chars = id.chars();
        while let Some(c) = chars.next() {
            match (c, parts.last_mut()) {
                (',', _) => parts.push(String::new()),
                ('\\', Some(part)) => part.push(chars.next().filter(|next| matches!(next, ',' | '\\'))?),
                (c, Some(part)) => part.push(c),
                (_, None) => {}
            }
        }
        (parts.len() == self.key.len()).then(|| parts.into_iter().map(Cow::Owned).collect())
    }

    /// The id of a row of `t`, as SQL.
    pub(crate) fn id_expression(&self) -> String {
        if let [key] = self.key.as_slice() {
            return format!("t.{}::text", key.quoted());
        }
        let mut text = "concat_ws(','".to_owned();
        for key in &self.key {
            let _ = write!(text, r", replace(replace(t.{}::text, '\', '\\'), ',', '\,')", key.quoted());
        }
        text + ")"
    }

    /// The document of a row of `t`, as SQL: without what its id says.
    pub(crate) fn document_expression(&self) -> String {
        if self.document {
            return "t.data::text".to_owned();
        }
        let mut text = "(to_jsonb(t) - 'id'".to_owned();
        for key in self.key.iter().filter(|key| key.name != "id") {
            let _ = write!(text, " - {}", literal(&key.name));
        }
        text + ")::text"
    }
}

/// A name as SQL writes it.
pub(crate) fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// A text of the catalog as SQL writes it. (`standard_conforming_strings` is on.)
fn literal(text: &str) -> String {
    format!("'{}'", text.replace('\'', "''"))
}

/// The shapes that are known.
pub(crate) struct Shapes {
    keys: BTreeMap<String, Vec<String>>,
    known: Mutex<Known>,
}

#[derive(Default)]
struct Known {
    /// With when they were seen.
    shapes: HashMap<Collection, (Arc<Shape>, Instant)>,
    /// Collections whose table was not as Outlast makes them when it was seen last. Kept for the life of the process: a
    /// migration may drop the table and make it again.
    others: HashSet<Collection>,
}

impl Shapes {
    /// With key columns by configuration.
    pub(crate) fn new(keys: BTreeMap<String, Vec<String>>) -> Self {
        Self { keys, known: Mutex::default() }
    }

    /// Nothing can panic while the lock is held; a poisoned map would still be a map.
    fn lock(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// One that is known and young.
    pub(crate) fn get(&self, collection: &Collection) -> Option<Arc<Shape>> {
        let known = self.lock();
        let (shape, since) = known.shapes.get(collection)?;
        (since.elapsed() < AGE_MAX).then(|| Arc::clone(shape))
    }

    /// Remembers a table. What is absent or unfit may change at any time, and costs a look anyway.
    pub(crate) fn put(&self, collection: &Collection, shape: &Arc<Shape>) {
        let mut known = self.lock();
        let is_other = match &**shape {
            Shape::Table(table) => !table.document || table.is_wider,
            Shape::Unfit(_) => true,
            Shape::Absent | Shape::Gone => return,
        };
        if is_other {
            known.others.insert(collection.clone());
        } else {
            known.others.remove(collection);
        }
        if matches!(**shape, Shape::Table(_)) {
            known.shapes.insert(collection.clone(), (Arc::clone(shape), Instant::now()));
        }
    }

    /// What to say of a collection that has no table.
    fn missing(&self, collection: &Collection) -> Shape {
        if self.lock().others.contains(collection) { Shape::Gone } else { Shape::Absent }
    }

    /// Forgets what may have changed.
    pub(crate) fn forget<'a>(&self, collections: impl IntoIterator<Item = &'a Collection>) {
        let mut known = self.lock();
        for collection in collections {
            known.shapes.remove(collection);
        }
    }

    /// The shapes of collections: those that are known, and the others by one look at the catalog.
    pub(crate) async fn of<'a>(
        &self,
        connection: &mut Connection,
        collections: impl IntoIterator<Item = &'a Collection>,
        limits: Limits,
    ) -> Result<HashMap<&'a Collection, Arc<Shape>>, Trouble> {
        let mut shapes = HashMap::new();
        let mut unknown = Vec::new();
        for collection in collections {
            match self.get(collection) {
                _ if shapes.contains_key(collection) => {}
                Some(shape) => {
                    shapes.insert(collection, shape);
                }
                None => {
                    unknown.push(collection);
                    shapes.insert(collection, Arc::new(self.missing(collection)));
                }
            }
        }
        if unknown.is_empty() {
            return Ok(shapes);
        }
        let names = Value::from(unknown.iter().map(|name| name.as_str()).collect::<Vec<_>>()).to_string();
        let mut rows: HashMap<String, Vec<Row>> = HashMap::new();
        for row in ask(connection, CATALOG, &[Some(&names)], limits).await?.rows {
            rows.entry(text(&row, 0).to_owned()).or_default().push(row);
        }
        for collection in unknown {
            let Some(rows) = rows.get(collection.as_str()) else { continue };
            let configured = self.keys.get(collection.as_str()).map(Vec::as_slice);
            let shape = Arc::new(shape(collection.as_str(), rows, configured));
            self.put(collection, &shape);
            shapes.insert(collection, shape);
        }
        Ok(shapes)
    }
}

/// For each table of a JSON array of names: its kind and its columns in order; at last whether equal values of the column
/// have the same text (for a domain and for an array, those that it is made of).
const CATALOG: &str = "SELECT w.name, c.relkind::text, a.attname, format_type(a.atttypid, a.atttypmod), a.atttypid::bigint, \
     a.atttypmod, a.attgenerated::text, a.attidentity::text, \
     (SELECT k.place FROM unnest(i.indkey::int2[]) WITH ORDINALITY AS k (number, place) WHERE k.number = a.attnum), \
     x.relname, coalesce(o.collisdeterministic, true), \
     (SELECT b.typname NOT IN ('citext', 'float4', 'float8', 'interval', 'jsonb') \
         AND (b.typname <> 'numeric' OR greatest(a.atttypmod, y.typtypmod) >= 0) \
      FROM pg_catalog.pg_type AS y JOIN pg_catalog.pg_type AS b ON b.oid = CASE WHEN y.typtype = 'd' \
         THEN y.typbasetype WHEN y.typcategory = 'A' THEN y.typelem ELSE y.oid END WHERE y.oid = a.atttypid) \
     FROM jsonb_array_elements_text($1::text::jsonb) AS w (name) \
     JOIN pg_catalog.pg_class AS c ON c.oid = to_regclass(quote_ident(w.name)) \
     JOIN pg_catalog.pg_attribute AS a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped \
     LEFT JOIN pg_catalog.pg_index AS i ON i.indrelid = c.oid AND i.indisprimary \
     LEFT JOIN pg_catalog.pg_class AS x ON x.oid = i.indexrelid \
     LEFT JOIN pg_catalog.pg_collation AS o ON o.oid = a.attcollation \
     ORDER BY w.name, a.attnum";

fn text(row: &Row, at: usize) -> &str {
    row.get(at).and_then(|value| value.as_deref()).unwrap_or_default()
}

/// The shape that rows of the catalog tell.
fn shape(name: &str, rows: &[Row], configured: Option<&[String]>) -> Shape {
    let Some(first) = rows.first() else { return Shape::Absent };
    if !matches!(text(first, 1), "r" | "p") {
        return Shape::Unfit(format!("\"{name}\" is no table; a collection is a table"));
    }
    let place = |row: &Row| match configured {
        Some(names) => names.iter().position(|name| name == text(row, 2)),
        None => text(row, 8).parse::<usize>().ok(),
    };
    let mut key: Vec<(usize, Column)> = Vec::new();
    let mut columns = Vec::new();
    for row in rows {
        match place(row) {
            Some(_) if text(row, 10) != "t" => {
                return Shape::Unfit(format!(
                    "the key column \"{}\" of \"{name}\" has a collation for which different texts are the same",
                    text(row, 2)
                ));
            }
            Some(_) if text(row, 11) == "f" => {
                return Shape::Unfit(format!(
                    "the key column \"{}\" of \"{name}\" is of the type {}, in which different texts are the same value, so \
                     that they cannot name different records: use text, an integer, uuid or a numeric with a scale",
                    text(row, 2),
                    text(row, 3)
                ));
            }
            Some(place) => key.push((place, column(row))),
            None => columns.push(column(row)),
        }
    }
    if key.is_empty() || configured.is_some_and(|names| names.len() != key.len()) {
        return Shape::Unfit(format!(
            "the table \"{name}\" cannot hold records: it needs a primary key, or key.{name}=COLUMN,COLUMN in the \
             database URL with columns that it has and that a unique index keeps apart"
        ));
    }
    key.sort_by_key(|(place, _)| *place);
    let key: Vec<Column> = key.into_iter().map(|(_, column)| column).collect();
    let document = matches!(key.as_slice(), [id] if id.name == "id" && id.is_text())
        && columns.iter().any(|column| column.name == "data" && column.is_json() && !column.automatic);
    let is_wider = !document || columns.len() > 1;
    if document {
        columns.retain(|column| column.name == "data");
    }
    Shape::Table(Table { key, columns, key_index: text(first, 9).to_owned(), document, is_wider })
}

fn column(row: &Row) -> Column {
    let type_id = text(row, 4).parse().unwrap_or(0);
    let modifier: i64 = text(row, 5).parse().unwrap_or(-1);
    // The lower half of a numeric's modifier, an eleven-bit number with a sign since version 15, less the header.
    let scale = (type_id == NUMERIC && modifier >= 4).then(|| {
        let bits = (modifier - 4) & 0x7ff;
        if bits & 0x400 == 0 { bits } else { bits - 0x800 }
    });
    Column {
        name: text(row, 2).to_owned(),
        type_name: text(row, 3).to_owned(),
        type_id,
        scale,
        automatic: !text(row, 6).is_empty() || text(row, 7) == "a",
        by_default: text(row, 7) == "d",
        always: text(row, 7) == "a",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(kind: &str, name: &str, type_name: &str, type_id: u32, place: Option<u32>) -> Row {
        let values = ["t", kind, name, type_name, &type_id.to_string(), "-1", "", ""]
            .map(|value| Some(value.to_owned()));
        let rest = [place.map(|place| place.to_string()), Some("t_pkey".to_owned()), Some("t".to_owned())];
        values.into_iter().chain(rest).collect()
    }

    fn table(rows: &[Row], configured: Option<&[String]>) -> Table {
        match shape("t", rows, configured) {
            Shape::Table(table) => table,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_text_key_and_a_json_column_make_a_table_of_documents_and_other_keys_a_table_of_columns() {
        let id = row("r", "id", "text", TEXT, Some(1));
        let data = row("r", "data", "jsonb", JSONB, None);
        let number = row("r", "n", "bigint", 20, Some(2));
        assert!(table(&[id.clone(), data.clone()], None).document);
        assert!(!table(std::slice::from_ref(&id), None).document);
        let two = table(&[id.clone(), number.clone(), data.clone()], None);
        assert_eq!((two.document, two.key.len(), two.columns.len()), (false, 2, 1));
        let configured = ["n".to_owned(), "data".to_owned()];
        let other = table(&[id.clone(), number, data.clone()], Some(&configured));
        assert_eq!(other.key.iter().map(|key| key.name.as_str()).collect::<Vec<_>>(), ["n", "data"]);
        let missing = ["n".to_owned()];
        assert!(matches!(shape("t", &[id, data.clone()], Some(&missing)), Shape::Unfit(_)));
        assert!(matches!(shape("t", &[data], None), Shape::Unfit(_)));
        assert!(matches!(shape("t", &[row("v", "id", "text", TEXT, None)], None), Shape::Unfit(_)));
        assert_eq!(shape("t", &[], None), Shape::Absent);
    }

    #[test]
    fn ids_of_several_key_columns_read_back_as_they_were_joined() {
        let table =
            table(&[row("r", "a", "text", TEXT, Some(1)), row("r", "b", "bigint", 20, Some(2))], None);
        assert_eq!(table.key_of("x,5"), Some(vec!["x".into(), "5".into()]));
        assert_eq!(table.key_of(r"x\,\\y,5"), Some(vec![r"x,\y".into(), "5".into()]));
        for bad in ["x", "x,5,6", r"x\y,5", "x,5\\"] {
            assert_eq!(table.key_of(bad), None, "{bad}");
        }
    }
}
