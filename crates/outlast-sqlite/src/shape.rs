//! Whether the table of a collection is one that records can be kept in.

use std::collections::HashMap;

use outlast::{Collection, RefusalKind};
use rusqlite::{Connection, OptionalExtension};

use crate::failure::Failure;

/// What stands under a collection's name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Shape {
    /// Nothing.
    Absent,
    /// A table that holds records.
    Records,
    /// Something that cannot hold records, in words.
    Unfit(String),
}

/// The shapes seen so far, valid for one version of the schema.
#[derive(Debug, Default)]
pub(crate) struct Shapes {
    version: Option<i64>,
    known: HashMap<Collection, Shape>,
}

impl Shapes {
    /// Forgets everything: the schema may have changed in a way that its version does not tell.
    pub(crate) fn forget(&mut self) {
        self.version = None;
        self.known.clear();
    }

    /// Forgets what another version of the schema taught.
    pub(crate) fn refresh(&mut self, connection: &Connection) -> rusqlite::Result<()> {
        let now =
            connection.prepare_cached("PRAGMA schema_version")?.query_row([], |row| row.get::<_, i64>(0))?;
        if self.version != Some(now) {
            self.known.clear();
            self.version = Some(now);
        }
        Ok(())
    }

    /// What stands under the name.
    pub(crate) fn of(
        &mut self,
        connection: &Connection,
        collection: &Collection,
    ) -> rusqlite::Result<&Shape> {
        if !self.known.contains_key(collection) {
            let shape = look_at(connection, collection)?;
            self.known.insert(collection.clone(), shape);
        }
        Ok(&self.known[collection])
    }

    /// Makes sure that records can be written: the table is there and fits, or is made now.
    pub(crate) fn for_writing(
        &mut self,
        connection: &Connection,
        collection: &Collection,
        create: bool,
    ) -> Result<(), Failure> {
        match self.of(connection, collection)? {
            Shape::Records => return Ok(()),
            Shape::Unfit(why) => return Err(Failure::refused(RefusalKind::Schema, why.clone())),
            Shape::Absent if !create => {
                let message = format!("there is no table \"{collection}\", and creating collections is off");
                return Err(Failure::refused(RefusalKind::Schema, message));
            }
            Shape::Absent => {}
        }
        // With rows of their own (decision 0026).
        let sql = format!(
            "CREATE TABLE \"{collection}\" (id TEXT NOT NULL PRIMARY KEY, data TEXT NOT NULL) STRICT"
        );
        connection.execute(&sql, []).map_err(|error| match Failure::from(error) {
            Failure::Refused { refusal, .. } => Failure::refused(RefusalKind::Schema, refusal.message),
            other => other,
        })?;
        self.known.insert(collection.clone(), Shape::Records);
        Ok(())
    }
}

fn look_at(connection: &Connection, collection: &Collection) -> rusqlite::Result<Shape> {
    let found: Option<(String, String)> = connection
        .prepare_cached("SELECT name, type FROM sqlite_schema WHERE name = ?1 COLLATE NOCASE AND type IN ('table', 'view')")?
        .query_row([collection.as_str()], |row| Ok((row.get(0)?, row.get(1)?)))
        .optional()?;
    let Some((name, kind)) = found else { return Ok(Shape::Absent) };
    if name != collection.as_str() {
        let why = format!(
            "SQLite cannot tell the collections \"{collection}\" and \"{name}\" apart: use names that differ by more than case"
        );
        return Ok(Shape::Unfit(why));
    }
    if kind != "table" {
        return Ok(Shape::Unfit(format!("\"{collection}\" is a view; a collection is a table")));
    }
    let fits: bool = connection
        .prepare_cached(
            "SELECT (SELECT count(*) = 1 AND sum(name = 'id' AND type NOT LIKE '%INT%'
                            AND (type LIKE '%TEXT%' OR type LIKE '%CHAR%' OR type LIKE '%CLOB%')) = 1
                       FROM pragma_table_xinfo(?1) WHERE pk > 0)
                AND (SELECT count(*) = 1 FROM pragma_table_xinfo(?1) WHERE name = 'data' AND hidden = 0)
                AND (SELECT count(*) = 1 FROM pragma_index_list(?1) AS i JOIN pragma_index_xinfo(i.name) AS c
                      WHERE i.origin = 'pk' AND c.key = 1 AND c.name = 'id' AND c.coll = 'BINARY')",
        )?
        .query_row([collection.as_str()], |row| row.get(0))?;
    Ok(if fits {
        Shape::Records
    } else {
        Shape::Unfit(format!(
            "the table \"{collection}\" cannot hold records: a collection needs the columns id TEXT PRIMARY KEY (and no other key) and data TEXT"
        ))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_tables_that_keep_ids_apart_hold_records() {
        let connection = Connection::open_in_memory().unwrap();
        connection
            .execute_batch(
                "CREATE TABLE plain (id TEXT NOT NULL PRIMARY KEY, data TEXT NOT NULL) STRICT, WITHOUT ROWID;
                 CREATE TABLE wider (id TEXT PRIMARY KEY, data, added INTEGER DEFAULT 1, part AS (json_extract(data, '$.x')));
                 CREATE TABLE number (id INTEGER PRIMARY KEY, data TEXT);
                 CREATE TABLE nocase (id TEXT COLLATE NOCASE PRIMARY KEY, data TEXT);
                 CREATE TABLE two (id TEXT, part TEXT, data TEXT, PRIMARY KEY (id, part));
                 CREATE TABLE keyless (id TEXT UNIQUE, data TEXT);
                 CREATE TABLE empty (id TEXT PRIMARY KEY, body TEXT);
                 CREATE TABLE made (id TEXT PRIMARY KEY, data AS ('{}'));
                 CREATE VIEW seen AS SELECT id, data FROM plain;",
            )
            .unwrap();
        let mut shapes = Shapes::default();
        let mut of = |name: &str| shapes.of(&connection, &name.parse().unwrap()).unwrap().clone();
        for good in ["plain", "wider"] {
            assert_eq!(of(good), Shape::Records, "{good}");
        }
        for bad in ["number", "nocase", "two", "keyless", "empty", "made", "seen", "Plain"] {
            assert!(matches!(of(bad), Shape::Unfit(_)), "{bad}");
        }
        assert_eq!(of("nothing"), Shape::Absent);
        assert_eq!(of("sqlite_schema"), Shape::Absent, "SQLite's own tables are no collections");
    }
}
