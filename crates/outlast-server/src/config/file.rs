//! Takes `outlast.toml` apart into settings and values, each with its line.

use toml::de::{DeTable, DeValue};
use toml::{Spanned, de::DeString};

use super::token::Token;

/// A value of the file, as the text that a variable or flag would give.
pub(super) struct Entry {
    /// `section.key`.
    pub key: String,
    /// The text, or why the value cannot be one.
    pub value: Result<String, String>,
    /// Its line, from 1.
    pub line: usize,
}

/// Reads the text of the file.
///
/// # Errors
/// The line and what is wrong there, when it is not TOML.
pub(super) fn read(text: &str) -> Result<Vec<Entry>, (usize, String)> {
    let table = DeTable::parse(text).map_err(|error| {
        (error.span().map_or(1, |span| line_at(text, span.start)), error.message().to_owned())
    })?;
    let mut entries = Vec::new();
    for (section, value) in table.get_ref() {
        match value.get_ref() {
            DeValue::Table(keys) => {
                for (key, value) in keys {
                    entries.push(entry(
                        text,
                        &format!("{}.{}", section.get_ref(), key.get_ref()),
                        key,
                        value,
                    ));
                }
            }
            _ => entries.push(entry(text, section.get_ref(), section, value)),
        }
    }
    entries.sort_by_key(|entry| entry.line);
    Ok(entries)
}

fn entry(text: &str, name: &str, key: &Spanned<DeString<'_>>, value: &Spanned<DeValue<'_>>) -> Entry {
    Entry { key: name.to_owned(), value: as_text(value.get_ref()), line: line_at(text, key.span().start) }
}

fn as_text(value: &DeValue<'_>) -> Result<String, String> {
    match value {
        DeValue::String(text) => Ok(text.to_string()),
        DeValue::Integer(number) if number.radix() == 10 => Ok(number.as_str().to_owned()),
        DeValue::Boolean(flag) => Ok(flag.to_string()),
        DeValue::Array(items) => {
            let items: Result<Vec<String>, String> = items.iter().map(|each| item(each.get_ref())).collect();
            let items = items?;
            Ok(if items.is_empty() { "none".to_owned() } else { items.join(",") })
        }
        other => Err(format!("a value of type {} is not taken here", other.type_str())),
    }
}

/// An item of a list: a word, or a token.
fn item(value: &DeValue<'_>) -> Result<String, String> {
    match value {
        DeValue::String(text) if text.contains(',') => {
            Err("an item of a list must not hold a comma; in a URL write %2C".to_owned())
        }
        DeValue::String(text) => Ok(text.to_string()),
        other => token(other),
    }
}

/// A `[[server.tokens]]` table as `NAME:ROLE:SHA256`, with `:EXPIRES` behind it if it ends.
fn token(value: &DeValue<'_>) -> Result<String, String> {
    const SHAPE: &str = "each token is a table with name, role and sha256, all of them text, and perhaps expires, a time or a day";
    let DeValue::Table(table) = value else { return Err(SHAPE.to_owned()) };
    let mut parts = ["", "", ""];
    let mut expires = None;
    for (key, value) in table {
        let place = match &**key.get_ref() {
            "name" => 0,
            "role" => 1,
            "sha256" => 2,
            "expires" => {
                expires = Some(match value.get_ref() {
                    DeValue::Datetime(time) => time.to_string(),
                    other => other.as_str().ok_or(SHAPE)?.to_owned(),
                });
                continue;
            }
            other => return Err(format!("unknown member \"{other}\" of a token: {SHAPE}")),
        };
        parts[place] = value.get_ref().as_str().ok_or(SHAPE)?;
    }
    let [name, role, sha256] = parts;
    Token::read(name, role, sha256, expires.as_deref())?;
    let expires = expires.map_or_else(String::new, |expires| format!(":{expires}"));
    Ok(format!("{name}:{role}:{sha256}{expires}"))
}

fn line_at(text: &str, offset: usize) -> usize {
    text.bytes().take(offset).filter(|byte| *byte == b'\n').count() + 1
}
