//! One action on all dead letters that match a filter: planned with a count, then run on the server in the order of their
//! ids, one run at a time, with progress and a result.

use std::collections::VecDeque;
use std::fmt::Write as _;
use std::pin::pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use http::{HeaderValue, StatusCode, header};
use outlast::status::{DeadFilter, DeadMark, DeadStep};
use outlast::{Error, WriteId};
use serde::{Deserialize, Serialize};
use serde_json::json;
use sha2::{Digest, Sha256};
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;

use super::app::{Answer, App, Call, Object, json_of, not_stored, now, whole_or_null};
use super::audit;
use super::dead;
use super::problem::{CONFLICT, INVALID_REQUEST, NOT_FOUND, Problem};

/// Runs that are remembered.
const RUNS_MAX: usize = 20;
/// Failures that a run lists; further ones are only counted.
const FAILURES_MAX: usize = 1000;
/// Progress is told at most so often.
const TELL_EVERY: Duration = Duration::from_millis(250);
/// A step that takes longer waits for the database.
const WAITS_AFTER: Duration = Duration::from_secs(1);
/// Pause before a step is tried again that could not be decided: the database is away.
const AGAIN_AFTER: Duration = Duration::from_millis(500);

/// What is done to each letter.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum Action {
    Retry,
    Discard,
}

impl Action {
    fn as_str(self) -> &'static str {
        match self {
            Self::Retry => "retry",
            Self::Discard => "discard",
        }
    }
}

/// Which letters, in words; an empty filter is all of them.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Filter {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    kind: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    message: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    collection: Option<String>,
}

impl Filter {
    fn read(&self) -> Result<DeadFilter, Problem> {
        dead::filter(self.kind.as_deref(), self.message.clone(), self.collection.clone())
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Body {
    filter: Object<Filter>,
    #[serde(default)]
    plan: bool,
    token: Option<String>,
    #[serde(default, deserialize_with = "whole_or_null")]
    confirm: Option<u64>,
}

/// How far a run is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum State {
    Running,
    /// The database is away: fates are decided only while its position is known.
    Waiting,
    Done,
    Stopped,
}

#[derive(Debug, Clone, Serialize)]
struct Failed {
    id: WriteId,
    detail: String,
}

/// A run, as it is told.
#[derive(Debug, Clone, Serialize)]
struct Run {
    id: u64,
    action: Action,
    filter: Filter,
    state: State,
    total: u64,
    done: u64,
    failed: u64,
    started_at: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    ended_at: Option<String>,
    /// Why it was stopped.
    #[serde(skip_serializing_if = "Option::is_none")]
    message: Option<String>,
    failures: Vec<Failed>,
}

impl Run {
    fn is_open(&self) -> bool {
        matches!(self.state, State::Running | State::Waiting)
    }

    fn fail(&mut self, id: WriteId, error: &Error) {
        self.failed += 1;
        if self.failures.len() < FAILURES_MAX {
            self.failures.push(Failed { id, detail: error.to_string() });
        }
    }

    /// What came of it, for the audit log.
    fn result(&self) -> String {
        let Self { done, failed, total, .. } = self;
        let state = if self.state == State::Done { "done" } else { "stopped" };
        let why = self.message.iter().fold(String::new(), |text, why| format!("{text}; {why}"));
        format!("{state}: {done} of {total} done, {failed} failed{why}")
    }

    /// Without the list, for events and lists of runs.
    fn brief(&self) -> Self {
        Self {
            failures: Vec::new(),
            filter: self.filter.clone(),
            started_at: self.started_at.clone(),
            ended_at: self.ended_at.clone(),
            message: self.message.clone(),
            ..*self
        }
    }
}

/// The runs of this process; the audit log has how those of former ones began and ended.
#[derive(Debug, Default)]
pub(super) struct Runs(Mutex<VecDeque<Handle>>);

#[derive(Debug, Clone)]
struct Handle {
    run: Arc<Mutex<Run>>,
    stop: watch::Sender<bool>,
}

impl Handle {
    fn run(&self) -> MutexGuard<'_, Run> {
        self.run.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Runs {
    fn all(&self) -> MutexGuard<'_, VecDeque<Handle>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Nothing is begun while another run is under way.
    ///
    /// # Errors
    /// 409 that says which.
    fn free(all: &VecDeque<Handle>) -> Result<(), Problem> {
        let Some(open) = all.iter().find(|handle| handle.run().is_open()) else { return Ok(()) };
        let Run { id, action, done, failed, total, .. } = open.run().brief();
        let detail = format!(
            "run {id} ({}) is at {} of {total}; wait for its end, or stop it with DELETE /v1/dead-letters/runs/{id}",
            action.as_str(),
            done + failed,
        );
        Err(Problem::new(CONFLICT, detail).with("run", id))
    }

    fn begin(&self, action: Action, filter: Filter, total: u64) -> Result<Handle, Problem> {
        let mut all = self.all();
        Self::free(&all)?;
        let id = all.back().map_or(0, |last| last.run().id) + 1;
        let run = Run {
            id,
            action,
            filter,
            state: State::Running,
            total,
            done: 0,
            failed: 0,
            started_at: now(),
            ended_at: None,
            message: None,
            failures: Vec::new(),
        };
        let handle = Handle { run: Arc::new(Mutex::new(run)), stop: watch::Sender::new(false) };
        all.push_back(handle.clone());
        while all.len() > RUNS_MAX {
            all.pop_front();
        }
        Ok(handle)
    }

    /// Resolves when no run is under way, and the end of each is noted.
    pub(super) async fn ended(&self) {
        let all: Vec<Handle> = self.all().iter().cloned().collect();
        for handle in all {
            handle.stop.closed().await;
        }
    }

    fn find(&self, call: &Call) -> Result<Handle, Problem> {
        let id: u64 =
            call.param("id").map_err(|_| Problem::new(INVALID_REQUEST, "a run's id is a number"))?;
        let found = self.all().iter().find(|handle| handle.run().id == id).cloned();
        found.ok_or_else(|| {
            let detail = format!(
                "run {id} is not known: a restart of the server ends a run and forgets it, and only the last {RUNS_MAX} are kept. What it had done stays done; GET /v1/dead-letters shows what is left"
            );
            Problem::new(NOT_FOUND, detail)
        })
    }
}

/// `POST /v1/dead-letters/retry`: queues all that match again.
///
/// # Errors
/// 400 without a plan or count, 409 when the plan does not fit or another run is under way.
pub(super) async fn retry(call: Call) -> Answer {
    plan_or_begin(&call, Action::Retry)
}

/// `POST /v1/dead-letters/discard`: gives up all that match.
///
/// # Errors
/// As [`retry`].
pub(super) async fn discard(call: Call) -> Answer {
    plan_or_begin(&call, Action::Discard)
}

fn plan_or_begin(call: &Call, action: Action) -> Answer {
    call.known_query([])?;
    let body: Body = call.json()?;
    let Object(words) = body.filter;
    let mut filter = words.read()?;
    let confirmed = match (body.plan, body.token, body.confirm) {
        (true, None, None) => return plan(call, action, &words, &filter),
        (false, Some(token), None) => {
            filter.there_at = Some(mark_of(&token, action, &words)?);
            None
        }
        (false, None, Some(count)) => Some(count),
        _ => {
            let detail = "give one of \"plan\": true (says how many match), \"token\" (of such a plan) or \"confirm\" (how many there must be)";
            return Err(Problem::new(INVALID_REQUEST, detail));
        }
    };
    let (who, _) = call.app.auth.caller(call.headers())?;
    Runs::free(&call.app.runs.all())?;
    let ids = call.app.outlast.select_dead_letters(&filter).ids;
    let count = ids.len() as u64;
    if confirmed.is_some_and(|confirmed| confirmed != count) {
        return Err(Problem::new(CONFLICT, format!("{count} dead letters match now: plan again"))
            .with("count", count));
    }
    let handle = call.app.runs.begin(action, words, count)?;
    let run = handle.run().clone();
    let end = End { stop: handle.stop.subscribe(), app: Arc::clone(&call.app) };
    let (noted, beginning) = mpsc::channel(1);
    tokio::spawn(noted_run(who, handle, ids, end, beginning));
    let mut response = not_stored(json_of(StatusCode::OK, &run)?);
    let detail = format!("run {} over {count} dead letter{}", run.id, if count == 1 { "" } else { "s" });
    response.extensions_mut().insert(audit::Begun { detail, noted });
    if let Ok(location) = HeaderValue::try_from(format!("/v1/dead-letters/runs/{}", run.id)) {
        response.headers_mut().insert(header::LOCATION, location);
    }
    Ok(response)
}

fn plan(call: &Call, action: Action, words: &Filter, filter: &DeadFilter) -> Answer {
    let selection = call.app.outlast.select_dead_letters(filter);
    let token = token(selection.mark, action, words);
    let plan = json!({ "action": action, "filter": words, "count": selection.ids.len(), "token": token });
    Ok(not_stored(json_of(StatusCode::OK, &plan)?))
}

/// A token holds the moment of the plan, so that letters that die later are left alone; and a digest of what was planned,
/// so that nothing else is done with it. It is no secret: whoever may use it may make it.
fn token(mark: DeadMark, action: Action, filter: &Filter) -> String {
    let mut digest = Sha256::new();
    for part in [
        Some(action.as_str()),
        filter.kind.as_deref(),
        filter.message.as_deref(),
        filter.collection.as_deref(),
    ] {
        digest.update([u8::from(part.is_some())]);
        digest.update(part.unwrap_or_default().len().to_be_bytes());
        digest.update(part.unwrap_or_default());
    }
    digest.finalize().iter().take(8).fold(format!("{mark}."), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

fn mark_of(text: &str, action: Action, filter: &Filter) -> Result<DeadMark, Problem> {
    let mark = text.split_once('.').and_then(|(mark, _)| mark.parse().ok());
    mark.filter(|mark| token(*mark, action, filter) == text).ok_or_else(|| {
        Problem::new(CONFLICT, "the token belongs to a plan for another action or filter: plan again")
    })
}

/// Does it between the two entries of the audit log: nothing is done before the first is there.
async fn noted_run(
    who: String,
    handle: Handle,
    ids: Vec<WriteId>,
    mut end: End,
    mut beginning: mpsc::Receiver<()>,
) {
    let app = Arc::clone(&end.app);
    let _ = beginning.recv().await;
    let ended = carry_out(&app, &handle, ids, &mut end).await;
    audit::noted_later(&app, who, format!("run {} ended", ended.id), ended.result()).await;
}

/// Does it, step by step. Returns what came of it.
async fn carry_out(app: &App, handle: &Handle, ids: Vec<WriteId>, end: &mut End) -> Run {
    let mut told = Instant::now();
    tell(app, handle);
    let action = handle.run().action;
    let mut rest = &ids[..];
    let mut why = None;
    while !rest.is_empty() && why.is_none() {
        if let Some(asked) = end.asked() {
            why = Some(asked.to_owned());
            break;
        }
        match decide(app, handle, action, rest, end).await {
            Ok(step) => {
                let mut run = handle.run();
                run.state = State::Running;
                run.done += (step.reached - step.failures.len()) as u64;
                for (id, error) in &step.failures {
                    run.fail(*id, error);
                }
                rest = &rest[step.reached..];
            }
            Err(because) => why = Some(because),
        }
        if told.elapsed() >= TELL_EVERY {
            told = Instant::now();
            tell(app, handle);
        }
    }
    let ended = {
        let mut run = handle.run();
        run.state = if why.is_some() { State::Stopped } else { State::Done };
        run.message.clone_from(&why);
        run.ended_at = Some(now());
        run.brief()
    };
    tracing::info!(
        run = ended.id,
        action = action.as_str(),
        total = ended.total,
        done = ended.done,
        failed = ended.failed,
        stopped = why,
        "run over dead letters ended"
    );
    tell(app, handle);
    ended
}

/// What ends a run before its time.
struct End {
    stop: watch::Receiver<bool>,
    app: Arc<App>,
}

impl End {
    fn asked(&self) -> Option<&'static str> {
        if *self.stop.borrow() {
            return Some("stopped by an operator");
        }
        self.app.is_stopping().then_some("the server was stopped")
    }

    async fn wait(&mut self) {
        tokio::select! {
            _ = self.stop.wait_for(|stop| *stop) => {}
            () = self.app.stopped() => {}
        }
    }
}

/// One step. While fates cannot be decided it is tried again: an outage is no failure of a letter. A step that is under
/// way is waited for also when the run is to end, so that its result counts; one that waits for the database is not.
///
/// # Errors
/// Why the run ends here.
async fn decide(
    app: &App,
    handle: &Handle,
    action: Action,
    ids: &[WriteId],
    end: &mut End,
) -> Result<DeadStep, String> {
    let mut again = false;
    loop {
        let mut deciding = pin!(async {
            match action {
                Action::Retry => app.outlast.retry_dead_letters(ids).await,
                Action::Discard => app.outlast.discard_dead_letters(ids).await,
            }
        });
        let mut result = tokio::time::timeout(WAITS_AFTER, &mut deciding).await.ok();
        if result.is_none() {
            waits(app, handle);
            tokio::select! {
                decided = &mut deciding => result = Some(decided),
                () = end.wait() => {}
            }
        }
        match result {
            Some(Ok(mut step)) => {
                // Those were done the time before, whose answer came too late.
                step.failures.retain(|(_, error)| !(again && matches!(error, Error::NotFound { .. })));
                return Ok(step);
            }
            Some(Err(Error::Conflict(_))) => {
                again = true;
                waits(app, handle);
                let _ = tokio::time::timeout(AGAIN_AFTER, end.wait()).await;
            }
            Some(Err(error)) => return Err(format!("{error}; what is left is a dead letter as before")),
            None => {}
        }
        if let Some(asked) = end.asked() {
            return Err(asked.to_owned());
        }
    }
}

fn waits(app: &App, handle: &Handle) {
    let before = std::mem::replace(&mut handle.run().state, State::Waiting);
    if before != State::Waiting {
        tell(app, handle);
    }
}

fn tell(app: &App, handle: &Handle) {
    let run = handle.run().brief();
    app.tell(json!({ "at": now(), "event": "dead_letter_run", "run": run }));
}

/// `GET /v1/dead-letters/runs`: the last runs, newest first.
///
/// # Errors
/// 400 for unknown query parameters.
pub(super) async fn runs(call: Call) -> Answer {
    call.known_query([])?;
    let runs: Vec<Run> = call.app.runs.all().iter().rev().map(|handle| handle.run().brief()).collect();
    Ok(not_stored(json_of(StatusCode::OK, &json!({ "runs": runs }))?))
}

/// `GET /v1/dead-letters/runs/{id}`: one, with what failed.
///
/// # Errors
/// 404 when there is none.
pub(super) async fn run(call: Call) -> Answer {
    call.known_query([])?;
    let run = call.app.runs.find(&call)?.run().clone();
    Ok(not_stored(json_of(StatusCode::OK, &run)?))
}

/// `DELETE /v1/dead-letters/runs/{id}`: stops it behind the step that it is at.
///
/// # Errors
/// 404 when there is none.
pub(super) async fn stop(call: Call) -> Answer {
    call.known_query([])?;
    let handle = call.app.runs.find(&call)?;
    handle.stop.send_replace(true);
    let run = handle.run().clone();
    Ok(not_stored(json_of(StatusCode::OK, &run)?))
}
