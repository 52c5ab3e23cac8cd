//! A ledger shows every effect and their order: what was told must fit it.

use std::collections::HashMap;

use super::{Change, Entry, NEVER, Token, Told, Violation};

/// Every broken promise that the list of a ledger shows.
pub(super) fn check(name: &str, entries: &[&Entry], count: u64, tokens: &[String]) -> Vec<Violation> {
    let mut violations = Vec::new();
    if count != tokens.len() as u64 {
        violations.push(Violation::Miscounted(name.to_owned()));
    }
    let asked: HashMap<Token, &Entry> = entries.iter().map(|entry| (entry.token, *entry)).collect();
    let mut effects: Vec<&Entry> = Vec::with_capacity(tokens.len());
    for text in tokens {
        let entry = text.parse().ok().and_then(|token: Token| asked.get(&token));
        match entry.filter(|entry| entry.change == Change::Note) {
            Some(entry) => effects.push(entry),
            None => violations.push(Violation::Invented(format!("{name}: {text}"))),
        }
    }
    let mut times: HashMap<Token, u32> = HashMap::new();
    for effect in &effects {
        *times.entry(effect.token).or_default() += 1;
    }
    for entry in entries {
        match (times.get(&entry.token), entry.told) {
            (Some(_), Told::Refused(_)) => violations.push(Violation::RefusedTookEffect(entry.token)),
            (Some(2..), _) => violations.push(Violation::Doubled(entry.token)),
            (None, Told::Applied | Told::Queued) => violations.push(Violation::Lost(entry.token)),
            _ => {}
        }
    }
    violations.extend(reordered(&effects));
    violations
}

/// From the last effect to the first: none may have been begun after one that comes later was acknowledged.
fn reordered(effects: &[&Entry]) -> Vec<Violation> {
    let mut violations = Vec::new();
    let mut earliest: Option<&Entry> = None;
    for effect in effects.iter().rev() {
        if let Some(later) = earliest.filter(|later| later.ended < effect.begun) {
            violations.push(Violation::Reordered(later.token, effect.token));
        }
        let acknowledged = effect.is_acknowledged() && effect.ended != NEVER;
        if acknowledged && earliest.is_none_or(|earliest| effect.ended < earliest.ended) {
            earliest = Some(effect);
        }
    }
    violations
}
