//! What is shown of writes: without the values of the fields in `privacy.redact`, unless an operator asks for them.

use outlast::redact::Redaction;
use outlast::status::{DeadLetter, QueuedWrite};
use serde_json::{Value, json};

use super::app::Call;
use super::problem::{FORBIDDEN, INVALID_REQUEST, Problem};
use super::routes::Route;
use crate::config::Role;

/// The parameter of the query with which an operator asks for what is hidden.
pub(super) const PARAMETER: &str = "redact";
/// What it says then.
const OFF: &str = "false";

/// What one caller is shown.
#[derive(Debug, Clone)]
pub(super) struct View(Redaction);

impl View {
    /// As the parameter of the query has it.
    ///
    /// # Errors
    /// 400 for anything but true or false; 403 when hidden values are asked for, and the caller is no operator.
    pub(super) fn of(call: &Call, redact: Option<&str>) -> Result<Self, Problem> {
        match redact {
            None | Some("true") => return Ok(Self(call.app.outlast.options().redact.clone())),
            Some(OFF) => {}
            Some(_) => return Err(Problem::new(INVALID_REQUEST, "\"redact\" must be true or false")),
        }
        let (_, role) = call.app.auth.caller(call.headers())?;
        if role < Role::Operator && !call.app.outlast.options().redact.is_empty() {
            let detail =
                format!("to see hidden values this needs the role operator, the token has {}", role.as_str());
            return Err(Problem::new(FORBIDDEN, detail));
        }
        Ok(Self(Redaction::default()))
    }

    /// A write that waits.
    pub(super) fn queued(&self, mut write: QueuedWrite) -> QueuedWrite {
        write.reason = write.reason.map(|reason| self.0.reason(reason, &write.operations));
        write.redacted = self.0.hide(&mut write.operations);
        write
    }

    /// A dead letter. It may have died before the fields were listed.
    pub(super) fn letter(&self, mut letter: DeadLetter) -> DeadLetter {
        letter.reason = self.0.reason(letter.reason, &letter.operations);
        for attempt in &mut letter.history {
            attempt.reason = self.0.reason(attempt.reason.clone(), &letter.operations);
        }
        letter.redacted = self.0.hide(&mut letter.operations);
        letter
    }
}

/// Whether hidden values are asked for: that is noted, whoever asks.
pub(super) fn is_off(route: &Route, call: &Call) -> bool {
    route.query.iter().any(|(name, ..)| *name == PARAMETER)
        && !call.app.outlast.options().redact.is_empty()
        && call.query().iter().any(|(name, value)| name == PARAMETER && value == OFF)
}

/// What an operator sent, as it is noted: when anything is hidden, without what writes hold.
pub(super) fn noted(redaction: &Redaction, request: &mut Value) {
    if redaction.is_empty() {
        return;
    }
    match request {
        Value::Object(members) => {
            for (name, value) in members {
                if matches!(name.as_str(), "data" | "parameters" | "statement") {
                    *value = json!(outlast::redact::MARK);
                } else {
                    noted(redaction, value);
                }
            }
        }
        Value::Array(items) => {
            for item in items {
                noted(redaction, item);
            }
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_writes_hold_is_not_noted() {
        let mut request =
            json!({ "operations": [{ "op": "put", "data": { "pin": 1 } }], "filter": { "kind": "x" } });
        let before = request.clone();
        noted(&Redaction::default(), &mut request);
        assert_eq!(request, before);
        noted(&Redaction::new(["pin"]).unwrap(), &mut request);
        let after =
            json!({ "operations": [{ "op": "put", "data": "[redacted]" }], "filter": { "kind": "x" } });
        assert_eq!(request, after);
    }
}
