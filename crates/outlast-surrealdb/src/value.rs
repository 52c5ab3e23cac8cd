//! JSON and the server's CBOR, both ways, without changing a value.
//!
//! The JSON sub-protocol of the server would turn texts that look like dates or record ids into such values, and
//! libraries that go through `f64` would change the digits of large numbers: so each kind is converted by hand.

use std::fmt::Write as _;

use ciborium::Value as Cbor;
use outlast::database::number_is_exact;
use outlast::error::Invalid;
use outlast::record::{Collection, RecordId};
use serde_json::{Map, Number, Value as Json};

const TAG_DATETIME_TEXT: u64 = 0;
const TAG_NONE: u64 = 6;
const TAG_TABLE: u64 = 7;
const TAG_RECORD: u64 = 8;
const TAG_DECIMAL: u64 = 10;
const TAG_DATETIME: u64 = 12;
const TAG_DURATION: u64 = 14;
const TAG_UUID: u64 = 37;
const TAG_RANGE: u64 = 49;
const TAG_BOUND_INCLUDED: u64 = 50;
const TAG_BOUND_EXCLUDED: u64 = 51;
const TAG_GEOMETRY_FIRST: u64 = 88;
const TAG_GEOMETRY_COLLECTION: u64 = 94;
const GEOMETRIES: [&str; 6] =
    ["Point", "LineString", "Polygon", "MultiPoint", "MultiLineString", "MultiPolygon"];

/// Text.
pub(crate) fn text(text: impl Into<String>) -> Cbor {
    Cbor::Text(text.into())
}

/// An unsigned integer that the server holds (it keeps 64 bits with a sign).
pub(crate) fn integer(number: u64) -> Cbor {
    Cbor::Integer(number.into())
}

/// An object from its members.
pub(crate) fn object<'a>(members: impl IntoIterator<Item = (&'a str, Cbor)>) -> Cbor {
    Cbor::Map(members.into_iter().map(|(name, value)| (text(name), value)).collect())
}

/// A record of a table, with a text as its key: "1" stays a text.
pub(crate) fn record(table: &str, id: &str) -> Cbor {
    Cbor::Tag(TAG_RECORD, Box::new(Cbor::Array(vec![text(table), text(id)])))
}

/// All records of a collection whose key is a text, or of another kind that sorts after texts: from the first one, or
/// from the one after `after`.
pub(crate) fn records_from(collection: &Collection, after: Option<&RecordId>) -> Cbor {
    let first = match after {
        Some(id) => Cbor::Tag(TAG_BOUND_EXCLUDED, Box::new(text(id.as_str()))),
        None => Cbor::Tag(TAG_BOUND_INCLUDED, Box::new(text(""))),
    };
    let range = Cbor::Tag(TAG_RANGE, Box::new(Cbor::Array(vec![first, Cbor::Null])));
    Cbor::Tag(TAG_RECORD, Box::new(Cbor::Array(vec![text(collection.as_str()), range])))
}

/// The key of a record's id when it is a text.
pub(crate) fn text_key(id: &Cbor) -> Option<&str> {
    let Cbor::Tag(TAG_RECORD, inner) = id else { return None };
    match inner.as_array()?.as_slice() {
        [_, Cbor::Text(key)] => Some(key),
        _ => None,
    }
}

/// A member of an object.
pub(crate) fn member<'a>(object: &'a Cbor, name: &str) -> Option<&'a Cbor> {
    object.as_map()?.iter().find(|(key, _)| key.as_text() == Some(name)).map(|(_, value)| value)
}

/// True for the value that stands for "nothing there" (other than a stored null).
pub(crate) fn is_none(value: &Cbor) -> bool {
    matches!(value, Cbor::Tag(TAG_NONE, _))
}

/// A text that the server keeps as it is.
///
/// # Errors
/// For U+0000, which 3.x holds; but 2.x stores it and cannot read it back, and what is taken in while the server is away
/// must not depend on which one returns.
pub(crate) fn checked_text(words: &str) -> Result<Cbor, Invalid> {
    if words.contains('\0') {
        return Err(Invalid::new(
            "U+0000 cannot be kept exactly by every SurrealDB (2.x cannot read it back): leave it out, or encode it",
        ));
    }
    Ok(text(words))
}

/// A JSON value, kept exactly.
///
/// # Errors
/// For a number that neither a 64-bit integer nor a 64-bit float holds, and for U+0000.
pub(crate) fn from_json(value: &Json) -> Result<Cbor, Invalid> {
    Ok(match value {
        Json::Null => Cbor::Null,
        Json::Bool(yes) => Cbor::Bool(*yes),
        Json::Number(number) => from_number(number)?,
        Json::String(string) => checked_text(string)?,
        Json::Array(items) => Cbor::Array(items.iter().map(from_json).collect::<Result<_, _>>()?),
        Json::Object(map) => from_map(map)?,
    })
}

/// A JSON object, kept exactly.
///
/// # Errors
/// As [`from_json`].
pub(crate) fn from_map(map: &Map<String, Json>) -> Result<Cbor, Invalid> {
    let members = map.iter().map(|(name, value)| Ok((checked_text(name)?, from_json(value)?)));
    Ok(Cbor::Map(members.collect::<Result<_, Invalid>>()?))
}

/// A JSON merge patch (RFC 7396) as the server's `MERGE` understands it: there a null is stored and NONE removes. Only
/// nulls that are members of objects remove; inside an array they are values.
///
/// # Errors
/// As [`from_json`].
pub(crate) fn from_merge_patch(patch: &Map<String, Json>) -> Result<Cbor, Invalid> {
    let members = patch.iter().map(|(name, value)| {
        let value = match value {
            Json::Null => none(),
            Json::Object(inner) => from_merge_patch(inner)?,
            value => from_json(value)?,
        };
        Ok((checked_text(name)?, value))
    });
    Ok(Cbor::Map(members.collect::<Result<_, Invalid>>()?))
}

fn none() -> Cbor {
    Cbor::Tag(TAG_NONE, Box::new(Cbor::Null))
}

fn from_number(number: &Number) -> Result<Cbor, Invalid> {
    let digits = number.as_str();
    // Integers have no negative zero: as a float the sign survives.
    if let Ok(integer) = digits.parse::<i64>()
        && !(integer == 0 && digits.starts_with('-'))
    {
        return Ok(Cbor::Integer(integer.into()));
    }
    // The server would silently wrap an integer beyond 63 bits around; a decimal keeps its digits.
    if digits.parse::<u64>().is_ok() {
        return Ok(Cbor::Tag(TAG_DECIMAL, Box::new(text(digits))));
    }
    match digits.parse::<f64>() {
        Ok(float) if number_is_exact(digits) => Ok(Cbor::Float(float)),
        _ => Err(Invalid::new(format!(
            "the number {} cannot be kept exactly: SurrealDB holds 64-bit integers and 64-bit floats; send it as a string",
            shortened(digits)
        ))),
    }
}

/// Digits that every 64-bit float keeps.
const DIGITS_KEPT: usize = 15;

/// Whether its text alone tells that the server keeps a document as it is: no number has many digits or an exponent, and
/// no member can be called "id". Nearly all documents are so, and need not be read a second time. Never true by mistake:
/// digits within texts count as well.
pub(crate) fn is_plain(text: &str) -> bool {
    let mut digits = 0;
    for byte in text.bytes() {
        match byte {
            b'0'..=b'9' => digits += 1,
            b'.' => {}
            b'e' | b'E' if digits > 0 => return false,
            _ => digits = 0,
        }
        if digits > DIGITS_KEPT {
            return false;
        }
    }
    // An escape may spell a name in another way.
    !text.contains("\"id\"") && !text.contains("\\u")
}

fn shortened(digits: &str) -> String {
    if digits.len() <= 60 {
        digits.to_owned()
    } else {
        format!("{}...", digits.get(..60).unwrap_or_default())
    }
}

/// A value of the server as JSON. Kinds that JSON lacks, which only other writers can have stored, become texts.
pub(crate) fn to_json(value: Cbor) -> Json {
    match value {
        Cbor::Bool(yes) => Json::Bool(yes),
        Cbor::Integer(integer) => integer_to_json(i128::from(integer)),
        Cbor::Float(float) => {
            Number::from_f64(float).map_or_else(|| Json::String(float.to_string()), Json::Number)
        }
        Cbor::Text(text) => Json::String(text),
        Cbor::Bytes(bytes) => Json::String(hex(&bytes)),
        Cbor::Array(items) => Json::Array(items.into_iter().map(to_json).collect()),
        Cbor::Map(members) => Json::Object(to_map(members)),
        Cbor::Tag(tag, inner) => tagged_to_json(tag, *inner),
        _ => Json::Null,
    }
}

/// An object of the server as JSON; members that are absent (NONE) are left out.
pub(crate) fn to_map(members: Vec<(Cbor, Cbor)>) -> Map<String, Json> {
    let kept = members.into_iter().filter(|(_, value)| !is_none(value));
    kept.filter_map(|(name, value)| Some((name.into_text().ok()?, to_json(value)))).collect()
}

fn integer_to_json(integer: i128) -> Json {
    let small = i64::try_from(integer).map(Number::from);
    small
        .or_else(|_| u64::try_from(integer).map(Number::from))
        .map_or_else(|_| Json::String(integer.to_string()), Json::Number)
}

fn tagged_to_json(tag: u64, inner: Cbor) -> Json {
    match (tag, inner) {
        (TAG_NONE, _) => Json::Null,
        (TAG_DECIMAL, Cbor::Text(digits)) => {
            serde_json::from_str::<Number>(&digits).map_or(Json::String(digits), Json::Number)
        }
        (TAG_DATETIME_TEXT | TAG_TABLE, Cbor::Text(text)) => Json::String(text),
        (TAG_DATETIME, Cbor::Array(parts)) => Json::String(datetime(&parts)),
        (TAG_DURATION, Cbor::Array(parts)) => Json::String(duration(&parts)),
        (TAG_UUID, Cbor::Bytes(bytes)) => Json::String(uuid(&bytes)),
        (TAG_RECORD, Cbor::Array(parts)) => Json::String(record_text(parts)),
        (TAG_GEOMETRY_FIRST..TAG_GEOMETRY_COLLECTION, inner) => geometry(tag, inner),
        (TAG_GEOMETRY_COLLECTION, inner) => {
            let mut map = Map::new();
            map.insert("type".to_owned(), "GeometryCollection".into());
            map.insert("geometries".to_owned(), to_json(inner));
            Json::Object(map)
        }
        (_, inner) => to_json(inner),
    }
}

/// GeoJSON (RFC 7946): a shape and its coordinates. The parts of a shape are shapes themselves on the wire.
fn geometry(tag: u64, inner: Cbor) -> Json {
    fn coordinates(value: Cbor) -> Json {
        match value {
            Cbor::Tag(_, inner) => coordinates(*inner),
            Cbor::Array(items) => Json::Array(items.into_iter().map(coordinates).collect()),
            value => to_json(value),
        }
    }
    let name = usize::try_from(tag - TAG_GEOMETRY_FIRST)
        .ok()
        .and_then(|at| GEOMETRIES.get(at))
        .copied()
        .unwrap_or("Geometry");
    let mut map = Map::new();
    map.insert("type".to_owned(), name.into());
    map.insert("coordinates".to_owned(), coordinates(inner));
    Json::Object(map)
}

fn record_text(parts: Vec<Cbor>) -> String {
    let texts: Vec<String> = parts
        .into_iter()
        .map(|part| match to_json(part) {
            Json::String(text) => text,
            other => other.to_string(),
        })
        .collect();
    texts.join(":")
}

fn whole(parts: &[Cbor], at: usize) -> i128 {
    parts.get(at).and_then(Cbor::as_integer).map_or(0, i128::from)
}

/// RFC 3339 in UTC, with as many fraction digits as there are.
fn datetime(parts: &[Cbor]) -> String {
    let (seconds, nanos) = (whole(parts, 0), whole(parts, 1));
    let stamp = i64::try_from(seconds).ok().zip(i32::try_from(nanos).ok());
    let stamp = stamp.and_then(|(seconds, nanos)| jiff::Timestamp::new(seconds, nanos).ok());
    stamp.map_or_else(|| format!("{seconds}.{nanos:09}"), |stamp| stamp.to_string())
}

/// As the server writes durations: `1w2d3h4m5s6ms7us8ns`, without the parts that are zero.
fn duration(parts: &[Cbor]) -> String {
    let (mut seconds, mut nanos) = (whole(parts, 0), whole(parts, 1));
    let mut out = String::new();
    for (unit, size) in [("y", 31_536_000), ("w", 604_800), ("d", 86_400), ("h", 3_600), ("m", 60), ("s", 1)]
    {
        push_unit(&mut out, &mut seconds, size, unit);
    }
    for (unit, size) in [("ms", 1_000_000), ("us", 1_000), ("ns", 1)] {
        push_unit(&mut out, &mut nanos, size, unit);
    }
    if out.is_empty() { "0ns".to_owned() } else { out }
}

fn push_unit(out: &mut String, rest: &mut i128, size: i128, unit: &str) {
    if *rest >= size {
        let _ = write!(out, "{}{unit}", *rest / size);
        *rest %= size;
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut out, byte| {
        let _ = write!(out, "{byte:02x}");
        out
    })
}

fn uuid(bytes: &[u8]) -> String {
    let mut digits = hex(bytes);
    if digits.len() == 32 {
        for at in [20, 16, 12, 8] {
            digits.insert(at, '-');
        }
    }
    digits
}

#[cfg(test)]
mod tests {
    use super::*;

    fn there_and_back(json: &str) -> String {
        let value: Json = serde_json::from_str(json).unwrap();
        let mut bytes = Vec::new();
        ciborium::into_writer(&from_json(&value).unwrap(), &mut bytes).unwrap();
        to_json(ciborium::from_reader(bytes.as_slice()).unwrap()).to_string()
    }

    #[test]
    fn what_looks_plain_is_kept_and_holds_no_member_called_id() {
        let mut random = fastrand::Rng::with_seed(7);
        let pieces = ["0", "1", "9", "-", ".", "e", "E", "17", "000000", "+"];
        let mut plain = 0;
        for _ in 0..100_000 {
            let text: String =
                (0..random.usize(1..8)).map(|_| pieces[random.usize(..pieces.len())]).collect();
            let Ok(Json::Number(number)) = serde_json::from_str(&text) else { continue };
            if is_plain(&format!("{{\"n\":{text}}}")) {
                assert!(from_number(&number).is_ok(), "{text}");
                plain += 1;
            }
        }
        assert!(plain > 1000, "{plain}");
        for no in ["{\"id\":1}", "{\"\\u0069d\":1}", "{\"n\":1e400}", "{\"n\":0.12345678901234567890}"] {
            assert!(!is_plain(no), "{no}");
        }
    }

    #[test]
    fn numbers_keep_their_value_and_integers_their_digits() {
        for same in [
            "0",
            "1",
            "-1",
            "9223372036854775807",
            "-9223372036854775808",
            "9223372036854775808",
            "18446744073709551615",
            "1.5",
            "-0.0",
            "1.0",
            "5e-324",
        ] {
            assert_eq!(there_and_back(same), same);
        }
        assert_eq!(there_and_back("-0"), "-0.0");
        for (sent, value) in
            [("1e2", 1e2), ("100000000000000000000", 1e20), ("1.7976931348623157e308", f64::MAX)]
        {
            assert_eq!(there_and_back(sent).parse::<f64>().unwrap().to_bits(), f64::to_bits(value), "{sent}");
        }
    }

    #[test]
    fn numbers_that_would_change_are_refused() {
        for inexact in ["18446744073709551617", "0.12345678901234567890", "1e400"] {
            let value: Json = serde_json::from_str(inexact).unwrap();
            assert!(
                from_json(&value).unwrap_err().to_string().contains("cannot be kept exactly"),
                "{inexact}"
            );
        }
    }

    #[test]
    fn everything_else_comes_back_as_it_was() {
        let json = r#"{"":{},"a":[],"b":[null,[{}],{"c":null}],"d":"2020-01-01T00:00:00Z","e":"a:⟨b⟩","f":"a\u0001b","n":null,"t":true}"#;
        assert_eq!(there_and_back(json), json);
    }

    #[test]
    fn in_a_merge_patch_only_nulls_of_objects_remove() {
        let patch: Map<String, Json> =
            serde_json::from_str(r#"{"a":null,"b":{"c":null,"d":[null,{"e":null}]}}"#).unwrap();
        let array = Cbor::Array(vec![Cbor::Null, object([("e", Cbor::Null)])]);
        let expected = object([("a", none()), ("b", object([("c", none()), ("d", array)]))]);
        assert_eq!(from_merge_patch(&patch).unwrap(), expected);
    }

    #[test]
    fn kinds_of_other_writers_become_texts() {
        let tag = |tag, inner| to_json(Cbor::Tag(tag, Box::new(inner)));
        let numbers = |items: &[i64]| Cbor::Array(items.iter().map(|n| Cbor::Integer((*n).into())).collect());
        assert_eq!(tag(TAG_DATETIME, numbers(&[1_577_836_800, 123_000_000])), "2020-01-01T00:00:00.123Z");
        assert_eq!(tag(TAG_DURATION, numbers(&[90_061, 5])), "1d1h1m1s5ns");
        assert_eq!(tag(TAG_DURATION, numbers(&[])), "0ns");
        assert_eq!(tag(TAG_UUID, Cbor::Bytes(vec![0x11; 16])), "11111111-1111-1111-1111-111111111111");
        assert_eq!(tag(TAG_DECIMAL, text("1.50")).to_string(), "1.50");
        assert_eq!(to_json(record("a", "b c")), "a:b c");
        assert_eq!(tag(88, numbers(&[1, 2])).to_string(), r#"{"coordinates":[1,2],"type":"Point"}"#);
        assert_eq!(to_json(Cbor::Float(f64::NAN)), "NaN");
    }
}
