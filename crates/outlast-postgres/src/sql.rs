//! The statements that do several operations of one kind at once.
//!
//! `$1` is a JSON array of rows: a record's key as the texts `k0`, `k1`, ... and its values as `c0`, `c1`, ..., so that no
//! name of a column ever meets one of ours.

use outlast::Collection;

use crate::shape::{Column, Table};

/// What an operation does to a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verb {
    /// Makes it; fails if it exists.
    Create,
    /// Makes or replaces it.
    Put,
    /// Merges into it; fails if it is absent.
    Patch,
    /// Removes it.
    Delete,
}

/// The statement that does operations of one kind, with their rows in `$1`, whose values are for `columns`. All but a
/// delete have to meet as many rows as `$2` says, and fail when they did not. So the text is the same for any number of
/// them.
pub(crate) fn statement(verb: Verb, collection: &Collection, columns: &[&Column], table: &Table) -> String {
    let name = format!("\"{collection}\"");
    // In a table of documents the one value is the document.
    let given: Vec<&Column> = if table.document { table.columns.iter().collect() } else { columns.to_vec() };
    let keys = || table.key.iter().enumerate();
    let values = || given.iter().enumerate();
    let cast = |at: usize, key: &Column| format!("CAST(r.k{at} AS {})", key.type_name);
    let list = |parts: Vec<String>, between: &str| parts.join(between);
    let definition = list(
        keys()
            .map(|(at, _)| format!("k{at} text"))
            .chain(values().map(|(at, column)| format!("c{at} {}", column.type_name)))
            .collect(),
        ", ",
    );
    let rows = format!("r AS (SELECT * FROM jsonb_to_recordset($1::jsonb) AS r ({definition}))");
    // An id names a record only in the spelling in which the database tells it.
    let mut spelled: Vec<String> = keys()
        .filter(|(_, key)| !key.is_text())
        .map(|(at, key)| format!("CAST({} AS text) = r.k{at}", cast(at, key)))
        .collect();
    let same = keys().map(|(at, key)| format!("t.{} = {}", key.quoted(), cast(at, key))).collect::<Vec<_>>();
    let done = match verb {
        Verb::Create | Verb::Put => {
            let names = table.key.iter().chain(given.iter().copied()).map(Column::quoted).collect();
            let picked = keys()
                .map(|(at, key)| cast(at, key))
                .chain(values().map(|(at, _)| format!("r.c{at}")))
                .collect();
            let over = if table.key.iter().any(|key| key.always) { " OVERRIDING SYSTEM VALUE" } else { "" };
            let conflict = if verb == Verb::Put { conflict(table, &given) } else { String::new() };
            let filter =
                if spelled.is_empty() { String::new() } else { format!(" WHERE {}", spelled.join(" AND ")) };
            // Without a WHERE the parser could take ON CONFLICT for a join's.
            let filter = if filter.is_empty() { " WHERE true".to_owned() } else { filter };
            format!(
                "INSERT INTO {name} AS t ({}){over} SELECT {} FROM r{filter}{conflict} RETURNING 1",
                list(names, ", "),
                list(picked, ", ")
            )
        }
        Verb::Patch if given.is_empty() => {
            spelled.extend(same);
            format!("SELECT 1 FROM {name} AS t, r WHERE {} FOR UPDATE OF t", spelled.join(" AND "))
        }
        Verb::Patch => {
            spelled.extend(same);
            let sets = values().map(|(at, column)| {
                let name = column.quoted();
                if column.is_json() {
                    format!("{name} = outlast_merge(t.{name}, r.c{at})")
                } else {
                    format!("{name} = r.c{at}")
                }
            });
            let sets = list(sets.collect(), ", ");
            format!("UPDATE {name} AS t SET {sets} FROM r WHERE {} RETURNING 1", spelled.join(" AND "))
        }
        Verb::Delete => {
            spelled.extend(same);
            return format!("WITH {rows} DELETE FROM {name} AS t USING r WHERE {}", spelled.join(" AND "));
        }
    };
    format!("WITH {rows}, done AS ({done}) SELECT outlast_expect((SELECT count(*) FROM done), $2::bigint)")
}

/// Whether the statement changes rows. One that only looks for them looks when it is bound.
pub(crate) fn changes(verb: Verb, columns: &[&Column], table: &Table) -> bool {
    verb != Verb::Patch || table.document || !columns.is_empty()
}

/// A record that is there is replaced wholly: columns that are not given go back to their defaults. An identity stays,
/// since its default would be another number each time.
fn conflict(table: &Table, given: &[&Column]) -> String {
    let is_set = |column: &&Column| !column.automatic && (!column.by_default || given.contains(column));
    let replaced: Vec<&Column> = table.columns.iter().filter(is_set).collect();
    // Something has to be set for the row to count.
    let replaced = if replaced.is_empty() { table.key.iter().take(1).collect() } else { replaced };
    let sets: Vec<String> =
        replaced.iter().map(|column| format!("{0} = EXCLUDED.{0}", column.quoted())).collect();
    let keys: Vec<String> = table.key.iter().map(Column::quoted).collect();
    format!(" ON CONFLICT ({}) DO UPDATE SET {}", keys.join(", "), sets.join(", "))
}
