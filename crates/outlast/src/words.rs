//! What is left of the words in which a database refuses a write, where values are hidden.

use std::collections::BTreeSet;

use crate::redact::MARK;

/// The message with [`MARK`] for every word that is neither of the list nor a name. With `quoted_names` a word in
/// quotation marks behind one that says what it names is a name, too: of a constraint, say, which is what an operator
/// looks for.
pub(crate) fn words_only(message: &str, names: &BTreeSet<&str>, quoted_names: bool) -> String {
    let mut shown = String::with_capacity(message.len());
    // Where the last mark ends, as long as nothing but signs has followed.
    let mut marked: Option<usize> = None;
    let mut rest = message;
    let mut before = "";
    while let Some(c) = rest.chars().next() {
        if let Some(after) = rest.strip_prefix(MARK) {
            put_mark(&mut shown, &mut marked);
            (rest, before) = (after, "");
            continue;
        }
        if c.is_alphanumeric() || c == '_' {
            let end = rest.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(rest.len());
            let (word, after) = rest.split_at(end);
            let quoted = shown.ends_with(['"', '`']) && after.starts_with(['"', '`']);
            let is_name = quoted_names && quoted && NAMING.contains(&before) && is_plain(word);
            if is_name || names.contains(word) || is_listed(word) {
                shown.push_str(word);
                marked = None;
            } else {
                put_mark(&mut shown, &mut marked);
            }
            (rest, before) = (after, word);
            continue;
        }
        if c.is_ascii() && !c.is_control() || c == '\n' || c == '…' {
            shown.push(c);
        } else {
            put_mark(&mut shown, &mut marked);
        }
        if !matches!(c, ' ' | '"' | '`') {
            before = "";
        }
        rest = &rest[c.len_utf8()..];
    }
    shown
}

/// One mark stands for all words between which there are only signs.
fn put_mark(shown: &mut String, marked: &mut Option<usize>) {
    match *marked {
        Some(end) => shown.truncate(end),
        None => shown.push_str(MARK),
    }
    *marked = Some(shown.len());
}

fn is_plain(word: &str) -> bool {
    word.len() <= 63 && word.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
}

fn is_listed(word: &str) -> bool {
    let lower = word.to_ascii_lowercase();
    WORDS.binary_search(&lower.as_str()).is_ok()
}

/// Behind these words databases put a name in quotation marks.
const NAMING: [&str; 10] = [
    "collection",
    "column",
    "constraint",
    "field",
    "function",
    "index",
    "relation",
    "schema",
    "table",
    "trigger",
];

/// The words in which databases and adapters refuse, in the order of the alphabet. None of them says what a record holds.
#[rustfmt::skip]
const WORDS: &[&str] = &[
    "a", "able", "about", "absent", "access", "account", "active", "aggregate", "all", "allow", "allowed",
    "already", "also", "ambiguous", "an", "and", "another", "any", "are", "argument", "array", "as", "assert",
    "assertion", "at", "attempted", "authorization", "bad", "be", "because", "been", "before", "begin", "behind",
    "belong", "belongs", "between", "bigint", "bool", "boolean", "both", "bound", "but", "by", "bytea", "bytes",
    "cache", "called", "cannot", "cascade", "case", "cast", "cause", "change", "changed", "char", "character",
    "characters", "check", "claimed", "clause", "closed", "coerce", "collation", "collection", "column", "columns",
    "command", "committed", "compared", "comparison", "conflict", "conflicting", "conform", "conforming", "connect",
    "connection", "constraint", "constraints", "contain", "contains", "content", "context", "convert", "converted",
    "correct", "could", "couldn", "couldnt", "create", "created", "creating", "cross", "current", "data",
    "database", "datatype", "date", "datetime", "day", "decimal", "declared", "default", "deferred", "define",
    "defined", "defines", "definition", "delete", "deleted", "denied", "depth", "detail", "did", "different",
    "digits", "dimension", "does", "doesn", "domain", "dont", "double", "duplicate", "duration", "each", "either",
    "element", "elements", "empty", "encoding", "end", "ends", "enough", "enum", "error", "event", "every", "exact",
    "exactly", "exceeded", "exceeds", "excessive", "exclusion", "execute", "exist", "existing", "exists", "exit",
    "expect", "expected", "expression", "extension", "failed", "failing", "fails", "field", "fields", "file",
    "find", "float", "for", "foreign", "format", "found", "from", "function", "functions", "generated", "geometry",
    "given", "got", "greater", "has", "have", "header", "hint", "id", "idempotency", "identifier", "if", "ignored",
    "in", "inactive", "incorrect", "index", "indexed", "indices", "infinity", "input", "insert", "inserted",
    "inserting", "inside", "int", "int2", "int4", "int8", "integer", "internal", "interval", "into", "invalid",
    "is", "isn", "it", "item", "items", "its", "join", "json", "jsonb", "keep", "kept", "key", "keys", "kind",
    "language", "large", "larger", "least", "length", "less", "level", "like", "limit", "line", "list", "literal",
    "long", "longer", "loop", "lower", "match", "matching", "maximum", "may", "mismatch", "missing", "mode", "more",
    "most", "must", "name", "named", "names", "namespace", "nan", "need", "needs", "negative", "nested", "never",
    "new", "no", "non", "none", "not", "nothing", "null", "number", "numeric", "object", "objects", "of", "off",
    "on", "one", "only", "operand", "operation", "operator", "option", "or", "order", "other", "out", "outlast",
    "outside", "over", "own", "owner", "parameter", "parameters", "parent", "parse", "parsing", "partition", "path",
    "pattern", "perform", "permission", "permissions", "permitted", "please", "point", "position", "positive",
    "possible", "precision", "present", "primary", "privilege", "privileges", "problem", "process", "protected",
    "query", "raised", "range", "read", "readonly", "real", "recomputed", "record", "records", "recursion",
    "reference", "referenced", "references", "referencing", "refers", "refused", "regex", "reject", "relation",
    "relational", "remaining", "requires", "reserved", "restrict", "restricted", "result", "return", "returned",
    "returning", "returns", "role", "row", "rowid", "rows", "rule", "save", "schema", "scope", "security", "see",
    "select", "sequence", "serial", "set", "setting", "setup", "short", "should", "single", "size", "smallint",
    "some", "specific", "specified", "specify", "sql", "starts", "state", "statement", "still", "stored", "strict",
    "string", "subquery", "supplied", "supported", "syntax", "table", "tables", "takes", "text", "than", "that",
    "the", "their", "them", "there", "this", "time", "timestamp", "timestamptz", "timezone", "to", "together",
    "too", "transaction", "trigger", "triggers", "tuple", "type", "types", "unable", "undefined", "unexpected",
    "union", "unique", "unknown", "unsigned", "unsupported", "update", "updated", "updating", "use", "used", "user",
    "using", "uuid", "valid", "value", "values", "varchar", "variable", "varying", "version", "view", "viewed",
    "violate", "violated", "violates", "violating", "violation", "was", "went", "were", "what", "when", "where",
    "which", "while", "will", "with", "within", "without", "would", "write", "writes", "wrong", "year", "zero",
    "zone",
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_list_is_in_order_and_has_what_names_things() {
        assert!(WORDS.is_sorted());
        assert!(NAMING.iter().all(|word| is_listed(word)));
    }
}
