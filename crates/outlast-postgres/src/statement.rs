//! A caller's own statement: one, with named parameters, kept away from transactions, sessions and Outlast's tables.

use outlast::error::Invalid;
use outlast::record::RESERVED_PREFIX;
use serde_json::{Map, Value};

/// What a statement may begin with. Transactions, settings of the session, prepared statements, cursors, blocks of code
/// and whole-server commands are not among them.
const BEGINNINGS: [&str; 11] = [
    "insert", "update", "delete", "merge", "select", "with", "values", "table", "truncate", "refresh", "call",
];
/// What may be created, altered and dropped. Functions, triggers and rules would later act with our rights.
const OBJECTS: [&str; 6] = ["table", "index", "unique", "view", "materialized", "sequence"];
/// Names that would change the session that other writes use.
const FORBIDDEN_NAMES: [&str; 2] = ["set_config", "pg_temp"];

/// A statement with numbered parameters.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Numbered {
    /// Its text, with `$1`, `$2`, ...
    pub(crate) text: String,
    /// The names of the parameters, in the order of their numbers.
    pub(crate) names: Vec<String>,
}

/// Refuses what a statement may not be or mention, and parameters that are missing.
pub(crate) fn check(text: &str, parameters: &Map<String, Value>) -> Result<(), Invalid> {
    let numbered = number(text)?;
    for name in &numbered.names {
        if !parameters.contains_key(name) {
            return Err(Invalid::new(format!("the statement's parameter \"{name}\" was given no value")));
        }
    }
    Ok(())
}

/// The values of parameters as the protocol carries them.
pub(crate) fn values(names: &[String], parameters: &Map<String, Value>) -> Vec<Option<String>> {
    let value = |name: &String| match parameters.get(name)? {
        Value::Null => None,
        Value::String(text) => Some(text.clone()),
        other => Some(other.to_string()),
    };
    names.iter().map(value).collect()
}

/// Puts numbers in the place of `:name` and `$name`.
///
/// # Errors
/// What a statement may not be or mention.
pub(crate) fn number(text: &str) -> Result<Numbered, Invalid> {
    if text.contains('\0') {
        return Err(Invalid::new("the statement must not hold the character U+0000"));
    }
    if contains_word(text, RESERVED_PREFIX) {
        return Err(Invalid::new(format!(
            "a statement must not mention names that begin with \"{RESERVED_PREFIX}\": they belong to Outlast"
        )));
    }
    let mut scanner = Scanner { text, at: 0, out: String::new(), names: Vec::new(), words: Vec::new() };
    scanner.run()?;
    let Scanner { out, names, words, .. } = scanner;
    check_words(&words)?;
    Ok(Numbered { text: out, names })
}

fn contains_word(text: &str, word: &str) -> bool {
    text.as_bytes().windows(word.len()).any(|window| window.eq_ignore_ascii_case(word.as_bytes()))
}

fn check_words(words: &[String]) -> Result<(), Invalid> {
    let first = words.first().map(String::as_str).unwrap_or_default();
    let second = words.get(1).map(String::as_str).unwrap_or_default();
    let defines = matches!(first, "create" | "alter" | "drop");
    if !(BEGINNINGS.contains(&first) || defines && OBJECTS.contains(&second)) {
        return Err(Invalid::new(format!(
            "a statement begins with one of {}, or with CREATE, ALTER or DROP of a table, index, view or sequence",
            BEGINNINGS.join(", ").to_uppercase()
        )));
    }
    if let Some(name) = words.iter().find(|word| FORBIDDEN_NAMES.contains(&word.as_str())) {
        return Err(Invalid::new(format!("a statement must not mention {name}: the session is not its own")));
    }
    let temporary = |pair: &[String]| matches!(pair, [into, what] if (into == "into" || into == "create") && what.starts_with("temp"));
    if words.windows(2).any(temporary) {
        return Err(Invalid::new("a statement must not make temporary tables: they would hide others"));
    }
    Ok(())
}

struct Scanner<'a> {
    text: &'a str,
    at: usize,
    out: String,
    names: Vec<String>,
    /// Words outside of texts and comments, in lower case, also those between double quotes.
    words: Vec<String>,
}

impl<'a> Scanner<'a> {
    fn run(&mut self) -> Result<(), Invalid> {
        while let Some(next) = self.rest().chars().next() {
            let rest = self.rest();
            let escaping = matches!(rest.get(..2), Some("e'" | "E'"));
            match next {
                'e' | 'E' if escaping => {
                    self.copy(1);
                    self.quoted('\'', true)?;
                }
                '\'' => self.quoted('\'', false)?,
                '"' => {
                    let start = self.at;
                    self.quoted('"', false)?;
                    self.words.push(self.text[start..self.at].trim_matches('"').to_ascii_lowercase());
                }
                '-' if rest.starts_with("--") => {
                    let length = rest.find('\n').unwrap_or(rest.len());
                    self.copy(length);
                }
                '/' if rest.starts_with("/*") => self.comment()?,
                '$' => self.dollar()?,
                ':' if rest.starts_with("::") => self.copy(2),
                ':' if is_start(rest[1..].chars().next()) => {
                    let name = word(&rest[1..]);
                    self.parameter(name, 1 + name.len());
                }
                ';' => {
                    if !rest[1..].trim().is_empty() {
                        return Err(Invalid::new(
                            "only one statement at a time: there is something behind the ;",
                        ));
                    }
                    self.at = self.text.len();
                }
                c if is_start(Some(c)) => {
                    let word = word(rest);
                    self.words.push(word.to_ascii_lowercase());
                    if matches!(self.words.last().map(String::as_str), Some("u"))
                        && matches!(rest.get(1..3), Some("&\"" | "&'"))
                    {
                        return Err(Invalid::new(
                            "a statement must not hold names or texts of the form U&\"...\"",
                        ));
                    }
                    self.copy(word.len());
                }
                c => self.copy(c.len_utf8()),
            }
        }
        Ok(())
    }

    fn rest(&self) -> &'a str {
        &self.text[self.at..]
    }

    fn copy(&mut self, length: usize) {
        self.out.push_str(&self.text[self.at..self.at + length]);
        self.at += length;
    }

    /// A text or name up to its closing quote; a doubled quote stands for itself.
    fn quoted(&mut self, quote: char, backslashes: bool) -> Result<(), Invalid> {
        let mut chars = self.rest().char_indices().skip(1).peekable();
        while let Some((at, c)) = chars.next() {
            if backslashes && c == '\\' {
                chars.next();
            } else if c == quote {
                if chars.peek().is_some_and(|(_, next)| *next == quote) {
                    chars.next();
                } else {
                    self.copy(at + quote.len_utf8());
                    return Ok(());
                }
            }
        }
        Err(Invalid::new(format!("the statement has a {quote} without its end")))
    }

    /// Comments nest.
    fn comment(&mut self) -> Result<(), Invalid> {
        let bytes = self.rest().as_bytes();
        let (mut at, mut depth) = (0, 0_usize);
        while let Some(pair) = bytes.get(at..at + 2) {
            match pair {
                b"/*" => (at, depth) = (at + 2, depth + 1),
                b"*/" => (at, depth) = (at + 2, depth - 1),
                _ => at += 1,
            }
            if depth == 0 {
                self.copy(at);
                return Ok(());
            }
        }
        Err(Invalid::new("the statement has a comment without its end"))
    }

    /// A parameter, or a text between `$tag$` and `$tag$`.
    fn dollar(&mut self) -> Result<(), Invalid> {
        let rest = self.rest();
        let name = word(&rest[1..]);
        let tag = &rest[..=name.len()];
        if rest[tag.len()..].starts_with('$') {
            let tag = &rest[..=tag.len()];
            let Some(length) = rest[tag.len()..].find(tag) else {
                return Err(Invalid::new(format!("the statement has a {tag} without its end")));
            };
            self.copy(2 * tag.len() + length);
            return Ok(());
        }
        if name.is_empty() {
            return Err(Invalid::new("parameters are named: write :name or $name instead of numbers"));
        }
        self.parameter(name, tag.len());
        Ok(())
    }

    fn parameter(&mut self, name: &str, length: usize) {
        let at = self.names.iter().position(|known| known == name).unwrap_or_else(|| {
            self.names.push(name.to_owned());
            self.names.len() - 1
        });
        self.out.push('$');
        self.out.push_str(&(at + 1).to_string());
        self.at += length;
    }
}

fn is_start(c: Option<char>) -> bool {
    c.is_some_and(|c| c.is_alphabetic() || c == '_')
}

/// The word at the beginning of a text, empty if there is none.
fn word(text: &str) -> &str {
    if !is_start(text.chars().next()) {
        return "";
    }
    let end = text.find(|c: char| !(c.is_alphanumeric() || c == '_')).unwrap_or(text.len());
    &text[..end]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn numbered(text: &str) -> (String, Vec<String>) {
        let Numbered { text, names } = number(text).unwrap_or_else(|error| panic!("{text}: {error}"));
        (text, names)
    }

    #[test]
    fn names_become_numbers_and_everything_else_stays() {
        for (text, expected, names) in [
            (
                "UPDATE t SET n = n + :by WHERE id = $id AND m = :by",
                "UPDATE t SET n = n + $1 WHERE id = $2 AND m = $1",
                &["by", "id"][..],
            ),
            ("SELECT :a::int, x::text", "SELECT $1::int, x::text", &["a"]),
            ("SELECT ':a $b' || :c, E'\\':d', \"x:e\"", "SELECT ':a $b' || $1, E'\\':d', \"x:e\"", &["c"]),
            (
                "SELECT 'it''s :a', :b -- :c\n, :d /* :e /* :f */ */",
                "SELECT 'it''s :a', $1 -- :c\n, $2 /* :e /* :f */ */",
                &["b", "d"],
            ),
            ("SELECT $$ :a $b $$, $x$ $$ :c $x$, $d", "SELECT $$ :a $b $$, $x$ $$ :c $x$, $1", &["d"]),
            ("SELECT :größe; ", "SELECT $1", &["größe"]),
            ("SELECT a[1:2], 5 % 3", "SELECT a[1:2], 5 % 3", &[]),
            ("CREATE UNIQUE INDEX i ON t (a)", "CREATE UNIQUE INDEX i ON t (a)", &[]),
            ("SELECT temp FROM t", "SELECT temp FROM t", &[]),
        ] {
            assert_eq!(
                numbered(text),
                (expected.to_owned(), names.iter().map(|name| (*name).to_owned()).collect())
            );
        }
    }

    #[test]
    fn transactions_sessions_and_outlasts_tables_are_out_of_reach() {
        for text in [
            "",
            "  ",
            "-- nothing",
            "COMMIT",
            "/* x */ rollback",
            "BEGIN; COMMIT",
            "SAVEPOINT a",
            "SET search_path = x",
            "PREPARE TRANSACTION 'x'",
            "PREPARE s AS SELECT 1",
            "DEALLOCATE ALL",
            "DISCARD ALL",
            "LISTEN x",
            "DO $$ BEGIN END $$",
            "COPY t FROM STDIN",
            "VACUUM",
            "LOAD 'x'",
            "ALTER SYSTEM SET x = 1",
            "CREATE FUNCTION f() RETURNS int LANGUAGE sql AS 'SELECT 1'",
            "CREATE TRIGGER x",
            "CREATE TEMP TABLE t (a int)",
            "CREATE TABLE pg_temp.t (a int)",
            "SELECT 1 INTO TEMPORARY t",
            "SELECT 1 INTO TEMP t",
            "SELECT set_config('role', 'x', false)",
            "SELECT \"set_config\"('role', 'x', false)",
            "UPDATE outlast_position SET sequence = 0",
            "DELETE FROM \"Outlast_Keys\"",
            "SELECT 'outlast_position'::regclass",
            "DELETE FROM U&\"\\006futlast_keys\"",
            "SELECT U&'x'",
            "SELECT 1; SELECT 2",
            "SELECT $1",
            "SELECT 'x",
            "SELECT \"x",
            "SELECT $a$ x",
            "SELECT /* x",
            "SELECT '\0'",
        ] {
            assert!(number(text).is_err(), "{text}");
        }
    }

    #[test]
    fn every_parameter_needs_a_value_and_keeps_its_digits() {
        let parameters: Map<String, Value> =
            serde_json::from_str(r#"{"n":12345678901234567890.5,"t":"x","z":null,"a":[1]}"#).unwrap();
        assert!(check("SELECT :n, :missing", &parameters).is_err());
        check("SELECT :n, :t", &parameters).unwrap();
        let names = ["n", "t", "z", "a"].map(str::to_owned);
        let expected = [Some("12345678901234567890.5"), Some("x"), None, Some("[1]")];
        assert_eq!(values(&names, &parameters), expected.map(|value| value.map(str::to_owned)));
    }
}
