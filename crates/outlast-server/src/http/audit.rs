//! The audit log: every action that needs the role operator, and what only an operator does in earnest, with who, when,
//! what and the result. In `audit.jsonl` beside the queue; a file that is full becomes `audit.old.jsonl`, in the place of
//! the one before.

use std::collections::VecDeque;
use std::fs::{File, OpenOptions};
use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use axum::body::Bytes;
use http::{Method, StatusCode};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokio::sync::mpsc;

use super::app::{Answer, App, Call, json_of, limit, not_stored, now};
use super::auth::Policy;
use super::redact;
use super::routes::{Body, Route};
use crate::config::Role;

/// A file of this size is full.
const FILE_BYTES_MAX: u64 = 1 << 20;
/// Lines that are kept in memory, and shown.
const SHOWN_MAX: usize = 1000;
/// Of a longer body only that it was too long is noted.
const REQUEST_BYTES_MAX: usize = 2048;

/// One action.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Entry {
    at: String,
    /// The name of the token, or `local` where none are configured.
    who: String,
    /// Method and path; or what came of an action after its answer.
    action: String,
    /// What was sent with it; of a write, and of what is long, only how long it is.
    #[serde(default, skip_serializing_if = "Value::is_null")]
    request: Value,
    /// The status that was answered. What comes after an answer has none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    status: Option<u16>,
    /// Why it was not done; of a run how large it is, and what became of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    detail: Option<String>,
}

/// With an answer: what it begins, which goes on after it.
#[derive(Debug, Clone)]
pub(super) struct Begun {
    pub(super) detail: String,
    /// Dropped once the beginning is noted: who holds the other end waits for that.
    pub(super) noted: mpsc::Sender<()>,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Audit {
    path: PathBuf,
    entries: Mutex<VecDeque<Entry>>,
}

impl Audit {
    /// With what former runs of the server have noted.
    pub(super) fn open(directory: &Path) -> Self {
        let path = directory.join("audit.jsonl");
        let mut entries = VecDeque::new();
        for path in [old(&path), path.clone()] {
            let Ok(file) = File::open(&path) else { continue };
            for line in BufReader::new(file).split(b'\n').map_while(Result::ok) {
                // A crash may have torn one, also within a character.
                if let Ok(entry) = serde_json::from_slice(&line) {
                    push(&mut entries, entry);
                }
            }
        }
        Self { path, entries: Mutex::new(entries) }
    }

    fn note(&self, entry: Entry) {
        tracing::info!(
            event = "operator",
            who = entry.who,
            action = entry.action,
            request = %entry.request,
            status = entry.status,
            detail = entry.detail,
            "operator"
        );
        let mut entries = self.entries.lock().unwrap_or_else(PoisonError::into_inner);
        if let Err(error) = self.append(&entry) {
            tracing::error!(%error, path = %self.path.display(), "the audit log was not written");
        }
        push(&mut entries, entry);
    }

    fn append(&self, entry: &Entry) -> std::io::Result<()> {
        let mut file =
            OpenOptions::new().read(true).append(true).create(true).mode(0o600).open(&self.path)?;
        // What a crash or a full disk has torn stays a line of its own.
        let mut line = if ends_torn(&file)? { vec![b'\n'] } else { Vec::new() };
        serde_json::to_writer(&mut line, entry)?;
        line.push(b'\n');
        file.write_all(&line)?;
        file.sync_data()?;
        if file.metadata()?.len() >= FILE_BYTES_MAX {
            std::fs::rename(&self.path, old(&self.path))?;
        }
        Ok(())
    }
}

/// Whether the last line has no end.
fn ends_torn(file: &File) -> std::io::Result<bool> {
    let Some(last) = file.metadata()?.len().checked_sub(1) else { return Ok(false) };
    let mut byte = [0];
    file.read_exact_at(&mut byte, last)?;
    Ok(byte != *b"\n")
}

fn old(path: &Path) -> PathBuf {
    path.with_extension("old.jsonl")
}

fn push(entries: &mut VecDeque<Entry>, entry: Entry) {
    entries.push_back(entry);
    while entries.len() > SHOWN_MAX {
        entries.pop_front();
    }
}

/// Whether what this route does is noted: every action of operators, who looks at hidden values, and an operator who gives
/// up a write that was accepted.
pub(super) fn is_noted(route: &Route, call: &Call) -> bool {
    redact::is_off(route, call)
        || route.policy == Policy::AtLeast(Role::Operator)
            && !matches!(route.method, Method::GET | Method::HEAD)
        || route.method == Method::DELETE && route.path == CANCEL && is_operator(call)
}

/// A writer that cancels what it wrote is ordinary traffic, which would push everything else out of the log.
const CANCEL: &str = "/v1/writes/{id}";

fn is_operator(call: &Call) -> bool {
    call.app.auth.caller(call.headers()).is_ok_and(|(_, role)| role == Role::Operator)
}

/// Runs the handler to its end, also when the client leaves, and notes what came of it.
pub(super) async fn noted(route: &'static Route, call: Call) -> Answer {
    let app = Arc::clone(&call.app);
    let (who, _) = app.auth.caller(call.headers())?;
    let looking = if redact::is_off(route, &call) { "?redact=false" } else { "" };
    let action = format!("{} {}{looking}", call.parts.method, call.parts.uri.path());
    let mut request = shown(route, &call.body);
    redact::noted(&app.outlast.options().redact, &mut request);
    let acting = tokio::spawn(async move {
        let mut answer = (route.handler)(call).await;
        let begun = answer.as_mut().ok().and_then(|response| response.extensions_mut().remove());
        let (begins, noted) = begun.map(|Begun { detail, noted }| (detail, noted)).unzip();
        let (status, detail) = match &answer {
            Ok(response) => (response.status(), begins),
            Err(problem) => (problem.kind().status, problem.body()["detail"].as_str().map(str::to_owned)),
        };
        note(&app, Entry { at: now(), who, action, request, status: Some(status.as_u16()), detail }).await;
        drop(noted);
        answer
    });
    acting.await.unwrap_or_else(|error| {
        Err(super::problem::Problem::new(super::problem::INTERNAL, error.to_string()))
    })
}

/// Notes what came of an action after its answer.
pub(super) async fn noted_later(app: &Arc<App>, who: String, action: String, detail: String) {
    let entry = Entry { at: now(), who, action, request: Value::Null, status: None, detail: Some(detail) };
    note(app, entry).await;
}

/// It waits for the disk.
async fn note(app: &Arc<App>, entry: Entry) {
    let app = Arc::clone(app);
    let _ = tokio::task::spawn_blocking(move || app.audit.note(entry)).await;
}

fn shown(route: &Route, body: &Bytes) -> Value {
    match body.len() {
        0 => Value::Null,
        // What people store is nobody's business here.
        bytes if route.body == Body::Required("Transaction") => json!(format!("{bytes} bytes")),
        1..=REQUEST_BYTES_MAX => serde_json::from_slice(body).unwrap_or(Value::Null),
        bytes => json!(format!("{bytes} bytes")),
    }
}

/// `GET /v1/audit`: what operators did, newest first.
///
/// # Errors
/// 400 for a wrong limit.
pub(super) async fn list(call: Call) -> Answer {
    let [page] = call.known_query(["limit"])?;
    let page = limit(page.as_deref(), 100, SHOWN_MAX)?;
    let entries = {
        let entries = call.app.audit.entries.lock().unwrap_or_else(PoisonError::into_inner);
        entries.iter().rev().take(page).cloned().collect::<Vec<_>>()
    };
    Ok(not_stored(json_of(StatusCode::OK, &json!({ "entries": entries }))?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(status: u16) -> Entry {
        let request = json!({ "filter": "x".repeat(1000) });
        let (who, action) = ("me".into(), "POST /".into());
        Entry { at: now(), who, action, request, status: Some(status), detail: None }
    }

    #[test]
    fn it_survives_a_restart_and_its_files_stay_bounded() {
        let directory = tempfile::tempdir().unwrap();
        let audit = Audit::open(directory.path());
        for status in 0..3000 {
            audit.append(&entry(status)).unwrap();
        }
        std::fs::OpenOptions::new().append(true).open(&audit.path).unwrap().write_all(b"{\"torn").unwrap();
        let again = Audit::open(directory.path());
        let entries = again.entries.lock().unwrap();
        assert_eq!((entries.len(), entries.back().unwrap().status), (SHOWN_MAX, Some(2999)));
        let bytes = |path: &Path| path.metadata().map_or(0, |metadata| metadata.len());
        let all = bytes(&again.path) + bytes(&old(&again.path));
        assert!(all < 2 * FILE_BYTES_MAX + 2000, "{all}");
    }

    #[test]
    fn a_torn_line_takes_no_other_with_it() {
        let directory = tempfile::tempdir().unwrap();
        let audit = Audit::open(directory.path());
        audit.append(&entry(1)).unwrap();
        OpenOptions::new().append(true).open(&audit.path).unwrap().write_all(b"{\"torn\xc3").unwrap();
        audit.append(&entry(2)).unwrap();
        audit.append(&entry(3)).unwrap();
        let again = Audit::open(directory.path());
        let entries = again.entries.lock().unwrap();
        assert_eq!(entries.iter().filter_map(|entry| entry.status).collect::<Vec<_>>(), [1, 2, 3]);
    }
}
