//! What usually helps against a refusal. The dashboard says the same (`dashboard/words.js`).

use outlast::error::RefusalKind;

/// A sentence or two about refusals of this kind.
pub(super) fn suggestion(kind: RefusalKind) -> &'static str {
    match kind {
        RefusalKind::Exists => {
            "The record was there already: another writer was first. Usually discard; retry once the record is gone."
        }
        RefusalKind::NotFound => {
            "The record to be patched was missing. Create it, then retry; otherwise discard."
        }
        RefusalKind::Constraint => {
            "Correct what it conflicts with in the database, then retry; otherwise discard."
        }
        RefusalKind::Schema => {
            "The database's schema does not take it. Adapt the schema, then retry; otherwise discard and mend the sender."
        }
        RefusalKind::Permission => "Give Outlast's database account the right, then retry all of them.",
        RefusalKind::TooLarge => "Raise the database's limit, then retry; otherwise discard.",
        RefusalKind::KeyReused => "The sender used one key for two writes. Discard, and tell the sender.",
        RefusalKind::Statement => "The statement failed. Mend what it needs, then retry; otherwise discard.",
        RefusalKind::Expired => "Older than queue.max_age. Retry it if it is still wanted.",
        RefusalKind::Other => "See the database's words. Retry when the cause is mended.",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_dashboard_suggests_the_same() {
        let words = include_str!("../dashboard/words.js").replace('’', "'");
        for kind in RefusalKind::ALL {
            let line = format!("  {}: '{}',", kind.as_str(), suggestion(kind).replace('\'', "’"));
            assert!(words.contains(&line.replace('’', "'")), "not in words.js: {line}");
        }
    }
}
