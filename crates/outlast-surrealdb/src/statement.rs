//! The guard for statements that callers write themselves.
//!
//! A statement becomes a branch inside a batch's transaction. It must therefore be one complete
//! statement that cannot reach out of its braces, and must leave alone the transaction, the session and Outlast's
//! tables. This catches mistakes; whoever may send statements has the database account's rights anyway.

use outlast::error::Invalid;
use outlast::record::check_name;
use serde_json::{Map, Value};

/// Statements that begin with these words act on the transaction or the session, or leave the branch.
const FORBIDDEN: [&str; 10] =
    ["BEGIN", "COMMIT", "CANCEL", "USE", "KILL", "LIVE", "BREAK", "CONTINUE", "OPTION", "RETURN"];
/// The server fills these in itself, so that a bound value would be refused or, worse, covered.
const PROTECTED: [&str; 10] =
    ["access", "after", "auth", "before", "event", "input", "parent", "session", "this", "token"];

/// Checks a statement's text and its parameters' names.
///
/// # Errors
/// What is not allowed, and what is.
pub(crate) fn check(statement: &str, parameters: &Map<String, Value>) -> Result<(), Invalid> {
    for name in parameters.keys() {
        check_name("parameter", name)?;
        if PROTECTED.contains(&name.to_ascii_lowercase().as_str()) {
            return Err(Invalid::new(format!(
                "the parameter \"{name}\" belongs to the database: use another name"
            )));
        }
    }
    crate::value::checked_text(statement)?;
    if statement.to_ascii_lowercase().contains("outlast_") {
        return Err(Invalid::new(
            "a statement must not name what begins with \"outlast_\": it belongs to Outlast",
        ));
    }
    Scanner { rest: statement, open: Vec::new(), begins: true, empty: true, ended: false }.run()
}

/// Goes over the text token by token, as far as needed to know what is text, a comment or a bracket.
struct Scanner<'a> {
    rest: &'a str,
    /// Closing brackets that are expected, innermost last.
    open: Vec<char>,
    /// The next word begins a statement.
    begins: bool,
    empty: bool,
    /// The one statement is over: a `;` came.
    ended: bool,
}

impl Scanner<'_> {
    fn run(mut self) -> Result<(), Invalid> {
        while let Some(next) = self.rest.chars().next() {
            if next.is_whitespace() {
                self.skip(next.len_utf8());
            } else if !self.comment()? {
                self.token(next)?;
            }
        }
        match (self.open.last(), self.empty) {
            (Some(close), _) => {
                Err(Invalid::new(format!("the statement is not complete: a \"{close}\" is missing")))
            }
            (None, true) => Err(Invalid::new("the statement is empty")),
            (None, false) => Ok(()),
        }
    }

    fn skip(&mut self, bytes: usize) {
        self.rest = self.rest.get(bytes..).unwrap_or_default();
    }

    /// Skips a comment if one begins here.
    fn comment(&mut self) -> Result<bool, Invalid> {
        if self.rest.starts_with("/*") {
            let end = self
                .rest
                .find("*/")
                .ok_or_else(|| Invalid::new("the statement has a comment without an end"))?;
            self.skip(end + 2);
            return Ok(true);
        }
        let line = self.rest.starts_with("--") || self.rest.starts_with("//") || self.rest.starts_with('#');
        if line {
            self.skip(self.rest.find('\n').unwrap_or(self.rest.len()));
        }
        Ok(line)
    }

    fn token(&mut self, next: char) -> Result<(), Invalid> {
        if self.ended {
            return Err(Invalid::new(
                "only one statement is allowed: send several as several operations of one write",
            ));
        }
        let begins = std::mem::replace(&mut self.begins, false);
        if next == ';' {
            self.begins = true;
            self.ended = self.open.is_empty();
            self.skip(1);
            return Ok(());
        }
        self.empty = false;
        match next {
            '\'' | '"' | '`' => return self.quoted(next, next),
            '⟨' => return self.quoted(next, '⟩'),
            '{' | '(' => self.begins = true,
            '}' | ')' | ']' if self.open.pop() != Some(next) => {
                return Err(Invalid::new(format!("the statement has a \"{next}\" that nothing opened")));
            }
            _ => {}
        }
        match next {
            '{' => self.open.push('}'),
            '(' => self.open.push(')'),
            '[' => self.open.push(']'),
            _ if next.is_alphanumeric() || next == '_' => return self.word(begins),
            // A parameter's name is no keyword.
            '$' => {
                self.skip(1);
                return self.word(false);
            }
            _ => {}
        }
        self.skip(next.len_utf8());
        Ok(())
    }

    fn word(&mut self, begins: bool) -> Result<(), Invalid> {
        let end = self.rest.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(self.rest.len());
        let word = self.rest.get(..end).unwrap_or_default().to_ascii_uppercase();
        let after = self.rest.get(end..).unwrap_or_default().trim_start();
        let is_member = after.starts_with(':') && !after.starts_with("::");
        if begins && !is_member && FORBIDDEN.contains(&word.as_str()) {
            return Err(Invalid::new(format!(
                "a statement must not {word}: Outlast runs it inside a transaction of its own; leave that out"
            )));
        }
        // `IF condition THEN statement ELSE statement END`: what follows begins a statement.
        self.begins = matches!(word.as_str(), "THEN" | "ELSE");
        self.skip(end);
        Ok(())
    }

    fn quoted(&mut self, open: char, close: char) -> Result<(), Invalid> {
        let mut escaped = false;
        for (at, next) in self.rest.char_indices().skip(1) {
            match next {
                _ if escaped => escaped = false,
                '\\' => escaped = true,
                _ if next == close => {
                    self.skip(at + close.len_utf8());
                    return Ok(());
                }
                _ => {}
            }
        }
        Err(Invalid::new(format!("the statement has a {open} without its {close}")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn checked(statement: &str) -> Result<(), Invalid> {
        check(statement, &Map::new())
    }

    #[test]
    fn one_complete_statement_is_allowed() {
        for good in [
            "UPDATE counters:a SET n += $by",
            "UPDATE t SET s = 'it''s; } -- not the end' RETURN NONE;",
            "IF $x { CREATE t; CREATE u } ELSE { DELETE t }",
            "UPSERT `a}b`:⟨x}y⟩ SET use = 1, begin = 2 -- a comment } ;",
            "CREATE t SET a = \"\\\"}\" /* } ; */ ;\n",
            "LET $use = 5;",
            "UPDATE t SET x = { return: 1, use : 2 } RETURN NONE",
        ] {
            checked(good).unwrap_or_else(|error| panic!("{good}: {error}"));
        }
    }

    #[test]
    fn what_reaches_out_of_the_statement_is_refused() {
        for (bad, what) in [
            ("", "empty"),
            (" ; ", "empty"),
            ("-- nothing", "empty"),
            ("CREATE a; CREATE b", "only one"),
            ("CREATE a }; DELETE t; {", "nothing opened"),
            ("CREATE a SET x = [1", "missing"),
            ("IF true { CREATE a", "missing"),
            ("CREATE a SET x = 'abc", "without its"),
            ("CREATE a SET x = \"abc\\\"", "without its"),
            ("CREATE a /* open", "comment"),
            ("commit", "COMMIT"),
            ("BEGIN TRANSACTION", "BEGIN"),
            ("IF true { cancel }", "CANCEL"),
            ("IF true THEN BREAK END", "BREAK"),
            ("(KILL $x)", "KILL"),
            ("RETURN 5", "RETURN"),
            ("IF true { RETURN 1 }", "RETURN"),
            ("LIVE SELECT * FROM t", "LIVE"),
            ("UPDATE outlast_position SET sequence = 0", "belongs to Outlast"),
            ("DELETE Outlast_Keys", "belongs to Outlast"),
        ] {
            let error = checked(bad).unwrap_err().to_string();
            assert!(error.contains(what), "{bad}: {error}");
        }
    }

    #[test]
    fn parameters_have_plain_names_that_are_free() {
        for bad in ["a b", "", "1", "auth", "Token", "this"] {
            let parameters = Map::from_iter([(bad.to_owned(), Value::Null)]);
            assert!(check("RETURN 1", &parameters).is_err(), "{bad}");
        }
    }
}
