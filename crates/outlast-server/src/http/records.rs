//! Records: create, put, patch, delete, get, list.

use std::fmt::{Display, Write as _};

use http::StatusCode;
use outlast::database::ListQuery;
use outlast::record::check_name;
use outlast::{Collection, Document, RecordId, RecordName, Write};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::{Map, Value};
use sha2::{Digest, Sha256};

use super::app::{Answer, Call, json, limit, not_stored};
use super::prefer::{Preferences, idempotency_key};
use super::problem::{INVALID_REQUEST, NOT_FOUND, Problem};
use super::writes::{Done, submit, submit_new};

/// What stands as it is in a segment of a path (RFC 3986, unreserved).
const UNRESERVED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');
const LIMIT_DEFAULT: usize = 100;
const LIMIT_MAX: usize = 1000;
/// A page ends here whatever its limit: a thousand records of 1 MiB are too much for one answer.
const PAGE_BYTES_MAX: usize = 8 << 20;
/// The database is asked for so many records at once, so that neither are they too much for the memory: a usual page, and
/// the one after it, which tells whether there is another page.
const ASKED_MAX: usize = LIMIT_DEFAULT + 1;

/// `POST /v1/records/{collection}`: creates a record under an id of the server's choice.
///
/// # Errors
/// See the table of problems.
pub(super) async fn create_anywhere(call: Call) -> Answer {
    call.known_query([])?;
    let collection: Collection = call.param("collection")?;
    let map: Map<String, Value> = call.json()?;
    if map.contains_key("id") {
        let detail = "the document has a member \"id\": send it to /v1/records/COLLECTION/ID to choose the id yourself";
        return Err(Problem::new(INVALID_REQUEST, detail));
    }
    let id = match idempotency_key(call.headers())? {
        // Sent again under its key, the write must be the same one: so the id follows from the key and the content.
        Some(key) => id_of_key(&collection, key, &call.body)?,
        None => RecordId::generate(),
    };
    let record = RecordName { collection: collection.clone(), id: id.clone() };
    create(call, collection, id, map, Some(record)).await
}

/// `POST /v1/records/{collection}/{id}`: creates a record, 409 when it exists.
///
/// # Errors
/// See the table of problems.
pub(super) async fn create_here(call: Call) -> Answer {
    call.known_query([])?;
    let (collection, id) = call.record()?;
    let map = call.json()?;
    create(call, collection, id, map, None).await
}

async fn create(
    call: Call,
    collection: Collection,
    id: RecordId,
    map: Map<String, Value>,
    new: Option<RecordName>,
) -> Answer {
    let data = Document::for_record(&id, map)?;
    let body = data.with_id(&id);
    let location = location(&collection, &id);
    let write = Write::create(collection, id, data);
    submit_new(&call, write, new, async |preferences: Preferences, _| Done {
        status: if preferences.minimal { StatusCode::NO_CONTENT } else { StatusCode::CREATED },
        body: (!preferences.minimal).then_some(body),
        location: Some(location),
    })
    .await
}

/// `PUT /v1/records/{collection}/{id}`: creates or replaces a record.
///
/// # Errors
/// See the table of problems.
pub(super) async fn put(call: Call) -> Answer {
    call.known_query([])?;
    let (collection, id) = call.record()?;
    let data = Document::for_record(&id, call.json()?)?;
    let body = data.with_id(&id);
    let write = Write::put(collection, id, data);
    submit(&call, write, async |preferences: Preferences, _| {
        if preferences.minimal {
            return Done::empty();
        }
        Done { status: StatusCode::OK, body: Some(body), location: None }
    })
    .await
}

/// `PATCH /v1/records/{collection}/{id}`: merges into a record (RFC 7396), 404 when it is absent.
///
/// # Errors
/// See the table of problems.
pub(super) async fn patch(call: Call) -> Answer {
    call.known_query([])?;
    let (collection, id) = call.record()?;
    let data = Document::for_record(&id, call.json()?)?;
    let write = Write::patch(collection.clone(), id.clone(), data);
    submit(&call, write, async |preferences: Preferences, _| {
        if preferences.minimal {
            return Done::empty();
        }
        // The write is applied whatever becomes of this read.
        match call.app.outlast.get(&collection, &id).await {
            Ok(Some(record)) => {
                Done { status: StatusCode::OK, body: Some(record.with_id(&id)), location: None }
            }
            Ok(None) | Err(_) => Done::empty(),
        }
    })
    .await
}

/// `DELETE /v1/records/{collection}/{id}`: removes a record; one that is absent is fine.
///
/// # Errors
/// See the table of problems.
pub(super) async fn delete(call: Call) -> Answer {
    call.known_query([])?;
    let (collection, id) = call.record()?;
    submit(&call, Write::delete(collection, id), async |_, _| Done::empty()).await
}

/// `GET /v1/records/{collection}/{id}`.
///
/// # Errors
/// 404 when there is no such record, 503 while the database is away.
pub(super) async fn get(call: Call) -> Answer {
    call.known_query([])?;
    let (collection, id) = call.record()?;
    if let Some(record) = call.app.outlast.get(&collection, &id).await? {
        Ok(not_stored(json(StatusCode::OK, record.with_id(&id))))
    } else {
        let shown = id.as_str().escape_debug();
        Err(Problem::new(
            NOT_FOUND,
            format!("record \"{shown}\" of collection \"{collection}\" was not found"),
        ))
    }
}

/// `GET /v1/records/{collection}`: a page of records in the order of their ids, with equality filters.
///
/// # Errors
/// 400 for a wrong filter, limit or cursor, 503 while the database is away.
pub(super) async fn list(call: Call) -> Answer {
    let (mut query, limit) = list_query(&call)?;
    let mut page = Page::new(limit);
    loop {
        query.limit = (page.left() + 1).min(ASKED_MAX);
        let records = call.app.outlast.list(&query).await?;
        let is_last = records.len() < query.limit;
        for (id, record) in records {
            if !page.take(&id, &record) {
                return Ok(not_stored(json(StatusCode::OK, page.end(true))));
            }
            query.after = Some(id);
        }
        if is_last {
            return Ok(not_stored(json(StatusCode::OK, page.end(false))));
        }
    }
}

/// A page of records while it is written.
struct Page {
    text: String,
    limit: usize,
    records: usize,
    last: Option<RecordId>,
}

impl Page {
    fn new(limit: usize) -> Self {
        Self { text: String::from("{\"records\":["), limit, records: 0, last: None }
    }

    /// How many records it still takes at most.
    fn left(&self) -> usize {
        self.limit - self.records
    }

    /// Whether the record found place; the first one always does.
    fn take(&mut self, id: &RecordId, record: &Document) -> bool {
        let record = record.with_id(id);
        let is_full = self.left() == 0 || self.text.len() + record.len() > PAGE_BYTES_MAX;
        if self.records > 0 {
            if is_full {
                return false;
            }
            self.text.push(',');
        }
        self.text.push_str(&record);
        self.records += 1;
        self.last = Some(id.clone());
        true
    }

    fn end(mut self, more: bool) -> String {
        self.text.push(']');
        if let Some(last) = self.last.filter(|_| more) {
            let _ = write!(self.text, ",\"next\":\"{}\"", cursor(&last));
        }
        self.text.push('}');
        self.text
    }
}

fn list_query(call: &Call) -> Result<(ListQuery, usize), Problem> {
    let collection = call.param("collection")?;
    let (mut page, mut after, mut filters) = (None, None, Vec::new());
    for (name, value) in call.query() {
        match name.as_str() {
            "limit" => page = Some(limit(Some(&value), LIMIT_DEFAULT, LIMIT_MAX)?),
            "cursor" => after = Some(read_cursor(&value)?),
            "id" => {
                let detail = "records are not filtered by \"id\": get /v1/records/COLLECTION/ID instead";
                return Err(Problem::new(INVALID_REQUEST, detail));
            }
            _ => {
                check_name("the field", &name)?;
                filters.push((name, scalar(value)?));
            }
        }
    }
    let page = page.unwrap_or(LIMIT_DEFAULT);
    Ok((ListQuery { collection, filters, limit: page, after }, page))
}

/// A filter's value: a JSON scalar, or else a string. Quotes force a string: `?zip="00501"`.
fn scalar(text: String) -> Result<Value, Problem> {
    match serde_json::from_str(&text) {
        Ok(Value::Array(_) | Value::Object(_)) => Err(Problem::new(
            INVALID_REQUEST,
            "a filter compares with a string, a number, true, false or null",
        )),
        Ok(value) => Ok(value),
        Err(_) => Ok(Value::String(text)),
    }
}

fn cursor(last: &RecordId) -> String {
    last.as_str().bytes().fold(String::from("a"), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

fn read_cursor(text: &str) -> Result<RecordId, Problem> {
    let read = || {
        let hex = text.strip_prefix('a').filter(|hex| hex.is_ascii() && hex.len() % 2 == 0)?;
        let bytes: Option<Vec<u8>> =
            (0..hex.len()).step_by(2).map(|at| u8::from_str_radix(&hex[at..at + 2], 16).ok()).collect();
        String::from_utf8(bytes?).ok()?.parse().ok()
    };
    read().ok_or_else(|| {
        Problem::new(INVALID_REQUEST, "\"cursor\" is not one that this server gave: use \"next\"")
    })
}

fn location(collection: &Collection, id: &RecordId) -> String {
    format!("/v1/records/{collection}/{}", segment(id.as_str()))
}

/// An id as a segment of a path.
pub(crate) fn segment(id: &str) -> impl Display {
    utf8_percent_encode(id, UNRESERVED)
}

fn id_of_key(collection: &Collection, key: &str, body: &[u8]) -> Result<RecordId, Problem> {
    let mut hash = Sha256::new();
    for part in [collection.as_str().as_bytes(), key.as_bytes(), body] {
        hash.update((part.len() as u64).to_le_bytes());
        hash.update(part);
    }
    let mut bytes = [0; 16];
    bytes.copy_from_slice(&hash.finalize()[..16]);
    Ok(uuid::Builder::from_random_bytes(bytes).into_uuid().to_string().parse()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn filters_read_json_scalars_and_fall_back_to_text() {
        for (text, value) in [
            ("3", serde_json::json!(3)),
            ("\"3\"", serde_json::json!("3")),
            ("Ann", serde_json::json!("Ann")),
            ("true", serde_json::json!(true)),
            ("null", Value::Null),
            ("", serde_json::json!("")),
            ("\"open", serde_json::json!("\"open")),
        ] {
            assert_eq!(scalar(text.into()).unwrap(), value, "{text}");
        }
        assert!(scalar("[1]".into()).is_err());
        assert_eq!(scalar("18446744073709551615".into()).unwrap().to_string(), "18446744073709551615");
    }

    #[test]
    fn cursors_carry_any_id_and_refuse_anything_else() {
        for id in ["1", "a/b c", "ü→😀"] {
            let id: RecordId = id.parse().unwrap();
            assert_eq!(read_cursor(&cursor(&id)).unwrap(), id);
        }
        for bad in ["", "a", "a0", "b31", "azz", "aff", "é"] {
            assert!(read_cursor(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn locations_encode_what_a_path_cannot_hold() {
        let location = location(&"c".parse().unwrap(), &"a/b c?ü".parse().unwrap());
        assert_eq!(location, "/v1/records/c/a%2Fb%20c%3F%C3%BC");
    }

    #[test]
    fn a_key_and_its_content_always_give_the_same_id() {
        let collection: Collection = "c".parse().unwrap();
        let id = |key, body| id_of_key(&collection, key, body).unwrap();
        assert_eq!(id("k", b"{}"), id("k", b"{}"));
        assert_ne!(id("k", b"{}"), id("k2", b"{}"));
        assert_ne!(id("k", b"{}"), id("k", b"{ }"));
    }
}
