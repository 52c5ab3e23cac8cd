//! Records and the grammar of their names. Everything after these types trusts them.

use std::fmt;
use std::marker::PhantomData;
use std::str::FromStr;

use serde::de::{self, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::value::RawValue;
use serde_json::{Map, Value};

use crate::error::Invalid;

/// Longest collection name, in bytes (PostgreSQL's limit for a table name).
pub const COLLECTION_BYTES_MAX: usize = 63;
/// Longest record id, in bytes.
pub const RECORD_ID_BYTES_MAX: usize = 256;
/// Deepest nesting of a document (SurrealDB's limit is 100 for objects; one level is the document itself).
pub const DOCUMENT_DEPTH_MAX: usize = 64;
/// Tables with this prefix belong to Outlast.
pub const RESERVED_PREFIX: &str = "outlast_";

/// The name of a collection (a table): a letter or `_`, then letters, digits or `_`, at most 63 bytes, ASCII only.
/// Names that begin with `outlast_` are reserved, in any case of letters.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Collection(Box<str>);

impl Collection {
    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for Collection {
    type Err = Invalid;

    fn from_str(name: &str) -> Result<Self, Invalid> {
        check_name("collection", name)?;
        if name.len() >= RESERVED_PREFIX.len()
            && name.as_bytes()[..RESERVED_PREFIX.len()].eq_ignore_ascii_case(RESERVED_PREFIX.as_bytes())
        {
            return Err(Invalid::new(format!(
                "collection \"{name}\" is reserved: names that begin with \"{RESERVED_PREFIX}\" belong to Outlast"
            )));
        }
        Ok(Self(name.into()))
    }
}

/// The grammar of collection names and of the fields that a list may filter by.
///
/// # Errors
/// `Invalid` naming `what`, the text and the rule.
pub fn check_name(what: &str, name: &str) -> Result<(), Invalid> {
    let mut bytes = name.bytes();
    let first = bytes.next().is_some_and(|b| b.is_ascii_alphabetic() || b == b'_');
    if first && bytes.all(|b| b.is_ascii_alphanumeric() || b == b'_') && name.len() <= COLLECTION_BYTES_MAX {
        return Ok(());
    }
    let shown: String = name.chars().take(80).flat_map(char::escape_debug).collect();
    Err(Invalid::new(format!(
        "{what} \"{shown}\" is not a valid name: use a letter or _, then letters, digits or _, at most {COLLECTION_BYTES_MAX} characters"
    )))
}

/// The id of a record within its collection: any text of 1 to 256 bytes without control characters.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RecordId(Box<str>);

impl RecordId {
    /// The id as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// A new id that sorts by time (UUID version 7, RFC 9562).
    pub fn generate() -> Self {
        Self(uuid::Uuid::now_v7().to_string().into())
    }
}

impl FromStr for RecordId {
    type Err = Invalid;

    fn from_str(id: &str) -> Result<Self, Invalid> {
        if id.is_empty() || id.len() > RECORD_ID_BYTES_MAX {
            return Err(Invalid::new(format!(
                "a record id has 1 to {RECORD_ID_BYTES_MAX} bytes, this one has {}",
                id.len()
            )));
        }
        if id.chars().any(char::is_control) {
            return Err(Invalid::new("a record id must not contain control characters"));
        }
        Ok(Self(id.into()))
    }
}

macro_rules! text_newtype {
    ($name:ident) => {
        impl TryFrom<String> for $name {
            type Error = Invalid;
            fn try_from(text: String) -> Result<Self, Invalid> {
                text.parse()
            }
        }
        impl From<$name> for String {
            fn from(name: $name) -> String {
                name.0.into()
            }
        }
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Debug::fmt(&*self.0, f)
            }
        }
        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
                to.serialize_str(&self.0)
            }
        }
        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
                from.deserialize_str(Parsed(PhantomData))
            }
        }
    };
}
text_newtype!(Collection);
text_newtype!(RecordId);

/// Reads a text and parses it where it stands: names are read for every write, so without a copy in between.
struct Parsed<T>(PhantomData<T>);

impl<T: FromStr<Err = Invalid>> Visitor<'_> for Parsed<T> {
    type Value = T;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a string")
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<T, E> {
        text.parse().map_err(E::custom)
    }
}

/// The content of a record: a JSON object as compact text, exactly as it was sent (numbers keep their digits).
///
/// The record's id is not part of it: a member `id` that says the same as the record's id is taken out on the way
/// in ([`Document::for_record`]) and put back on the way out ([`Document::with_id`]).
#[derive(Clone, Serialize, Deserialize)]
#[serde(try_from = "Box<RawValue>")]
pub struct Document(Box<RawValue>);

impl Document {
    /// From a parsed object.
    ///
    /// # Errors
    /// When it nests deeper than [`DOCUMENT_DEPTH_MAX`].
    pub fn from_map(map: &Map<String, Value>) -> Result<Self, Invalid> {
        if map.values().any(|value| deeper_than(value, DOCUMENT_DEPTH_MAX - 1)) {
            return Err(Invalid::new(format!("the document nests deeper than {DOCUMENT_DEPTH_MAX} levels")));
        }
        serde_json::value::to_raw_value(map)
            .map(Self)
            .map_err(|error| Invalid::new(format!("the document is not JSON: {error}")))
    }

    /// From an object that is only to be shown.
    pub(crate) fn to_be_shown(map: &Map<String, Value>) -> Self {
        Self(serde_json::value::to_raw_value(map).unwrap_or_else(|_| RawValue::NULL.to_owned()))
    }

    /// From JSON text, checked to be an object.
    ///
    /// # Errors
    /// When the text is not a JSON object, or nests too deeply.
    pub fn parse(text: &str) -> Result<Self, Invalid> {
        let map: Map<String, Value> = serde_json::from_str(text)
            .map_err(|error| Invalid::new(format!("the body is not a JSON object: {error}")))?;
        Self::from_map(&map)
    }

    /// From a parsed object sent for the record `id`: a member `id` must be that id and is taken out.
    ///
    /// # Errors
    /// When the member `id` says something else, or the document nests too deeply.
    pub fn for_record(id: &RecordId, mut map: Map<String, Value>) -> Result<Self, Invalid> {
        match map.remove("id") {
            None => {}
            Some(Value::String(inside)) if inside == id.as_str() => {}
            Some(other) => {
                return Err(Invalid::new(format!(
                    "the member \"id\" of the document is {other}, but the record is \"{id}\": leave it out, or send the same string"
                )));
            }
        }
        Self::from_map(&map)
    }

    /// The compact JSON text.
    pub fn as_str(&self) -> &str {
        self.0.get()
    }

    /// Parsed. The text was checked when the document was made.
    pub fn to_map(&self) -> Map<String, Value> {
        serde_json::from_str(self.0.get()).unwrap_or_default()
    }

    /// The record as callers see it: the object with its `id` as the first member.
    pub fn with_id(&self, id: &RecordId) -> String {
        let inner = self.as_str().trim_start_matches('{');
        let comma = if inner.starts_with('}') { "" } else { "," };
        format!("{{\"id\":{}{comma}{inner}", Value::String(id.as_str().to_owned()))
    }
}

impl TryFrom<Box<RawValue>> for Document {
    type Error = Invalid;

    /// Raw JSON is compact already where it comes from the log; from elsewhere it goes through
    /// [`Document::for_record`].
    fn try_from(raw: Box<RawValue>) -> Result<Self, Invalid> {
        if raw.get().starts_with('{') {
            Ok(Self(raw))
        } else {
            Err(Invalid::new("\"data\" must be a JSON object"))
        }
    }
}

impl fmt::Debug for Document {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl PartialEq for Document {
    fn eq(&self, other: &Self) -> bool {
        self.as_str() == other.as_str()
    }
}

/// JSON merge patch (RFC 7396) of `patch` into `target`.
pub fn merge_patch(target: &mut Map<String, Value>, patch: Map<String, Value>) {
    for (key, value) in patch {
        match value {
            Value::Null => {
                target.remove(&key);
            }
            Value::Object(inner) => {
                let slot = target.entry(key).or_insert_with(|| Value::Object(Map::new()));
                if !slot.is_object() {
                    *slot = Value::Object(Map::new());
                }
                if let Value::Object(slot) = slot {
                    merge_patch(slot, inner);
                }
            }
            value => {
                target.insert(key, value);
            }
        }
    }
}

fn deeper_than(value: &Value, levels: usize) -> bool {
    match value {
        Value::Array(items) => levels == 0 || items.iter().any(|item| deeper_than(item, levels - 1)),
        Value::Object(map) => levels == 0 || map.values().any(|item| deeper_than(item, levels - 1)),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn collection_names_follow_the_grammar() {
        for good in ["a", "_x", "Users_2"] {
            assert!(good.parse::<Collection>().is_ok(), "{good}");
        }
        for bad in
            ["", "1a", "a-b", "a b", "é", "a;DROP TABLE x", "outlast_keys", "OUTLAST_x", &"a".repeat(64)]
        {
            assert!(bad.parse::<Collection>().is_err(), "{bad}");
        }
    }

    #[test]
    fn documents_keep_numbers_and_carry_the_id_apart() {
        let id: RecordId = "4\"2".parse().unwrap();
        let map =
            serde_json::from_str("{\"id\":\"4\\\"2\", \"n\": 18446744073709551615, \"x\":1.0}").unwrap();
        let document = Document::for_record(&id, map).unwrap();
        assert_eq!(document.as_str(), "{\"n\":18446744073709551615,\"x\":1.0}");
        assert_eq!(document.with_id(&id), "{\"id\":\"4\\\"2\",\"n\":18446744073709551615,\"x\":1.0}");
        assert_eq!(Document::parse("{}").unwrap().with_id(&id), "{\"id\":\"4\\\"2\"}");
        assert!(Document::for_record(&id, serde_json::from_str("{\"id\":1}").unwrap()).is_err());
        let deep = "[".repeat(DOCUMENT_DEPTH_MAX) + &"]".repeat(DOCUMENT_DEPTH_MAX);
        assert!(Document::parse(&format!("{{\"a\":{deep}}}")).is_err());
    }

    #[test]
    fn merge_patch_follows_the_examples_of_rfc_7396() {
        for (target, patch, expected) in [
            (r#"{"a":"b"}"#, r#"{"a":"c"}"#, r#"{"a":"c"}"#),
            (r#"{"a":"b"}"#, r#"{"b":"c"}"#, r#"{"a":"b","b":"c"}"#),
            (r#"{"a":"b","b":"c"}"#, r#"{"a":null}"#, r#"{"b":"c"}"#),
            (r#"{"a":["b"]}"#, r#"{"a":"c"}"#, r#"{"a":"c"}"#),
            (r#"{"a":{"b":"c"}}"#, r#"{"a":{"b":"d","c":null}}"#, r#"{"a":{"b":"d"}}"#),
            (r#"{"e":null}"#, r#"{"a":1}"#, r#"{"a":1,"e":null}"#),
            (r"{}", r#"{"a":{"bb":{"ccc":null}}}"#, r#"{"a":{"bb":{}}}"#),
        ] {
            let mut map: Map<String, Value> = serde_json::from_str(target).unwrap();
            merge_patch(&mut map, serde_json::from_str(patch).unwrap());
            assert_eq!(Value::Object(map), serde_json::from_str::<Value>(expected).unwrap());
        }
    }
}
