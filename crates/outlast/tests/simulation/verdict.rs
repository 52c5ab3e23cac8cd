//! The conservation law. Everything is drained: each acknowledged write is exactly one of applied, dead or discarded; what
//! was applied took effect once, in order; nothing was invented, and what was refused took no effect.

use std::collections::{BTreeMap, BTreeSet};

use outlast::status::DeadFilter;
use outlast::{Fate, Outlast, RefusalKind, WriteId};
use outlast_testkit::history::{Cause, Seen, Token, Told, Violation};
use outlast_testkit::simulated::{Content, tokens_of};
use serde_json::Value;

use crate::story::{EDITED, Facts, Story};

/// Returns the number of acknowledged writes.
pub async fn check(story: &Story, outlast: Option<&Outlast>) -> u64 {
    let Some(outlast) = outlast else { return 0 };
    let content = story.database.content();
    let effects = counted(&content.effects);
    let letters = dead_letters(story, outlast).await;
    {
        let facts = story.facts();
        let found = each_exactly_one(&facts, &effects, &letters);
        drop(facts);
        for what in found {
            story.violation(what);
        }
    }
    edits(story, &content);
    receipts(story, outlast, &effects, &letters).await;
    complete(story, &effects, &letters);
    let seen = seen(&content);
    match story.history.check(&seen) {
        Ok(summary) => {
            story.trace.note(format_args!("{summary:?}"));
            summary.applied + summary.queued
        }
        Err(violations) => {
            for violation in &violations {
                story.violation(format!("{violation:?}\n{}", about(story, violation)));
            }
            0
        }
    }
}

fn counted(effects: &[String]) -> BTreeMap<String, u64> {
    let mut counts = BTreeMap::new();
    for token in effects {
        *counts.entry(token.clone()).or_default() += 1;
    }
    counts
}

/// The tokens of all dead letters, and why they are there.
async fn dead_letters(story: &Story, outlast: &Outlast) -> BTreeMap<String, RefusalKind> {
    let filter = DeadFilter { limit: usize::MAX - 1, ..DeadFilter::default() };
    let mut tokens = BTreeMap::new();
    match outlast.dead_letters(&filter).await {
        Ok(found) => {
            if outlast.status().accounting.dead != found.total {
                story.violation(format!(
                    "{} dead letters, but {:?}",
                    found.total,
                    outlast.status().accounting
                ));
            }
            for letter in found.letters {
                tokens.extend(
                    tokens_of(&letter.operations).into_iter().map(|token| (token, letter.reason.kind)),
                );
            }
        }
        Err(error) => story.violation(format!("dead letters cannot be read: {error}")),
    }
    tokens
}

fn each_exactly_one(
    facts: &Facts,
    effects: &BTreeMap<String, u64>,
    letters: &BTreeMap<String, RefusalKind>,
) -> Vec<String> {
    let mut violations = Vec::new();
    for (token, times) in effects {
        if *times > 1 {
            violations.push(format!("{token} took effect {times} times"));
        }
        // Of several entries under one key another one may have been given up.
        let single = !facts.sent_again.contains(token);
        if single && facts.discarded.contains(token) && !facts.retried.contains(token) {
            violations.push(format!("{token} was discarded and took effect"));
        }
        if single && letters.contains_key(token) {
            violations.push(format!("{token} is a dead letter and took effect"));
        }
        if facts.refused.contains(token) && !facts.retried.contains(token) {
            violations.push(format!("{token} was refused and took effect"));
        }
    }
    let acknowledged: BTreeSet<&String> = facts.applied.keys().chain(&facts.queued).collect();
    for token in acknowledged {
        let gone = facts.discarded.contains(token) || facts.perhaps_discarded.contains(token);
        let kept = effects.contains_key(token) || letters.contains_key(token) || gone;
        // A double fault: the log lost its tail, and the database forgot the same writes.
        let excused = !facts.queued.contains(token)
            && facts.only_in_database.contains(token)
            && facts.forgotten.contains(token);
        if !kept && !excused {
            violations.push(format!("{token} was acknowledged and is lost"));
        }
    }
    violations
}

/// What an edited write has written last is as it was edited, not as it was accepted.
fn edits(story: &Story, content: &Content) {
    let facts = story.facts();
    let edited = |token: &str| facts.edited.contains(token) && !facts.sent_again.contains(token);
    let mut wrong = Vec::new();
    for record in content.records.values() {
        let token = record.get("token").and_then(Value::as_str).unwrap_or_default();
        if edited(token) && !record.contains_key(EDITED) {
            wrong.push(format!("{token} was edited and took effect as it was before"));
        }
    }
    drop(facts);
    for what in wrong {
        story.violation(what);
    }
}

/// What receipts say is so.
async fn receipts(
    story: &Story,
    outlast: &Outlast,
    effects: &BTreeMap<String, u64>,
    letters: &BTreeMap<String, RefusalKind>,
) {
    let ids = story.facts().sequences.clone();
    for (sequence, name) in ids {
        // Gone from the log, long after it was decided, or with its tail.
        let Ok(receipt) = outlast.receipt(WriteId(sequence)).await else { continue };
        let receipt = receipt.status;
        for token in name.split('+') {
            let several = story.facts().sent_again.contains(token);
            let effect = effects.contains_key(token);
            let right = match receipt {
                Fate::Applied => effect,
                Fate::Dead => letters.contains_key(token),
                Fate::Discarded | Fate::Rejected => !effect || several,
                Fate::Pending | Fate::Parked => false,
            };
            if !right {
                let facts = format!("effect: {effect}, dead: {}", letters.contains_key(token));
                story.violation(format!("{token}: its receipt says {receipt:?}, but {facts}"));
            }
        }
    }
}

/// What the history should know before it is checked.
fn complete(story: &Story, effects: &BTreeMap<String, u64>, letters: &BTreeMap<String, RefusalKind>) {
    let facts = story.facts();
    let token = |text: &String| text.parse::<Token>().ok();
    let excused = facts.only_in_database.intersection(&facts.forgotten);
    let free = facts.retried.iter().chain(excused).filter_map(token);
    for token in free {
        story.history.end(token, Told::Unknown);
    }
    // In another order of things, in which the database forgot something, a refusal may have had another reason.
    let sure = facts.forgotten.is_empty() && facts.retried.is_empty();
    for (text, kind) in letters {
        let cause = match kind {
            RefusalKind::Exists if sure => Cause::Exists,
            RefusalKind::NotFound if sure => Cause::Absent,
            _ => Cause::Other,
        };
        if let Some(token) = token(text).filter(|_| !effects.contains_key(text)) {
            story.history.bury(token, cause);
        }
    }
    let gone = facts.discarded.iter().chain(&facts.perhaps_discarded);
    let gone = gone.filter(|text| !effects.contains_key(*text) && !letters.contains_key(*text));
    for token in gone.filter_map(token) {
        story.history.bury(token, Cause::Other);
    }
    if !sure {
        for token in facts.refused.difference(&facts.retried).filter_map(token) {
            story.history.end(token, Told::Refused(Cause::Other));
        }
    }
}

/// The final state as the history wants it.
fn seen(content: &Content) -> BTreeMap<String, Seen> {
    let mut seen = BTreeMap::new();
    for ((collection, id), record) in &content.records {
        let state = if collection == "ledgers" {
            let tokens = record.get("tokens").and_then(Value::as_array).into_iter().flatten();
            let tokens = tokens.filter_map(|token| token.as_str().map(str::to_owned)).collect();
            let count = record.get("n").and_then(Value::as_u64).unwrap_or_default();
            Seen::Ledger { count, tokens }
        } else {
            // The history knows what clients sent.
            let mut record = record.clone();
            record.remove(EDITED);
            Seen::Document(Value::Object(record))
        };
        seen.insert(id.clone(), state);
    }
    seen
}

fn about(story: &Story, violation: &Violation) -> String {
    match violation {
        Violation::Unexplained(record) => story.history.describe(record),
        _ => String::new(),
    }
}
