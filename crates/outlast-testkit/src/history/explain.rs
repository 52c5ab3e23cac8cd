//! A document shows only its last state: is there an order of its writes that keeps the rules and ends there?
//!
//! The search is the usual one for linearizability: step by step, take a write that no other open write precedes; never
//! look twice at the same set of taken writes with the same state.

use std::collections::HashSet;
use std::fmt::Write as _;

use serde_json::{Map, Value};

use super::{Cause, Change, Entry, Told, Violation};

type State = Option<Value>;

/// A set of writes, by their index.
type Taken = Vec<u64>;

/// One violation, or none.
pub(super) fn check(name: &str, entries: &[&Entry], seen: Option<&Value>) -> Option<Violation> {
    // These took no effect, whatever the document was.
    let entries: Vec<&Entry> =
        entries.iter().copied().filter(|entry| entry.told != Told::Refused(Cause::Other)).collect();
    let explained = is_explained(&entries, &seen.cloned());
    (!explained).then(|| Violation::Unexplained(name.to_owned()))
}

fn is_explained(entries: &[&Entry], last: &State) -> bool {
    let mut looked_at: HashSet<(Taken, String)> = HashSet::new();
    let mut open: Vec<(Taken, State)> = vec![(vec![0; entries.len().div_ceil(64)], None)];
    while let Some((taken, state)) = open.pop() {
        if !looked_at.insert((taken.clone(), text(&state))) {
            continue;
        }
        let rest =
            || (0..entries.len()).filter(|index| !holds(&taken, *index)).map(|index| (index, entries[index]));
        // What nobody was told of may also never take effect.
        if state == *last && rest().all(|(_, entry)| entry.told == Told::Unknown) {
            return true;
        }
        let first_end = rest().map(|(_, entry)| entry.ended).min().unwrap_or_default();
        // The last is looked at first: put what began first there.
        for (index, entry) in
            rest().filter(|(_, entry)| entry.begun <= first_end).collect::<Vec<_>>().into_iter().rev()
        {
            if let Some(next) = step(entry, &state) {
                open.push((with(&taken, index), next));
            }
        }
    }
    false
}

/// The state after the write, or `None` when it cannot stand at this place in the order.
fn step(entry: &Entry, state: &State) -> Option<State> {
    if let Told::Refused(cause) = entry.told {
        let fits = match cause {
            Cause::Exists => state.is_some(),
            Cause::Absent => state.is_none(),
            Cause::Other => true,
        };
        return fits.then(|| state.clone());
    }
    match (&entry.change, state) {
        (Change::Create(_), Some(_)) | (Change::Patch(_), None) | (Change::Note, _) => None,
        (Change::Create(value) | Change::Put(value), _) => Some(Some(value.clone())),
        (Change::Patch(patch), Some(value)) => Some(Some(merged(value.clone(), patch))),
        (Change::Delete, _) => Some(None),
    }
}

/// JSON merge patch, from the text of RFC 7396.
fn merged(target: Value, patch: &Value) -> Value {
    let Value::Object(patch) = patch else { return patch.clone() };
    let mut members = if let Value::Object(members) = target { members } else { Map::new() };
    for (name, value) in patch {
        let former = members.remove(name);
        if !value.is_null() {
            members.insert(name.clone(), merged(former.unwrap_or(Value::Null), value));
        }
    }
    Value::Object(members)
}

fn holds(taken: &Taken, index: usize) -> bool {
    taken[index / 64] & (1 << (index % 64)) != 0
}

fn with(taken: &Taken, index: usize) -> Taken {
    let mut taken = taken.clone();
    taken[index / 64] |= 1 << (index % 64);
    taken
}

/// Members in the order of their names, whatever map `serde_json` was built with.
fn text(state: &State) -> String {
    fn spell(value: &Value, out: &mut String) {
        if let Value::Object(members) = value {
            let mut names: Vec<_> = members.keys().collect();
            names.sort();
            for name in names {
                let _ = write!(out, "{name:?}:(");
                spell(&members[name], out);
                out.push(')');
            }
        } else {
            out.push_str(&value.to_string());
        }
    }
    let mut out = String::new();
    if let Some(value) = state {
        spell(value, &mut out);
    }
    out
}
