//! From the table of routes to a router: policy, body, handler and metrics, once for every route.

use std::sync::{Arc, Mutex};
use std::time::Instant;

use axum::Router;
use axum::body::Body;
use axum::extract::{FromRequestParts, RawPathParams, Request, State};
use axum::response::{IntoResponse, Response};
use axum::routing::{MethodFilter, on};
use http::request::Parts;
use http::{HeaderValue, Method, header};
use outlast::trace::TraceContext;

use super::app::{Answer, App, Call};
use super::auth::Policy;
use super::metrics::UNMATCHED;
use super::problem::{INVALID_REQUEST, METHOD_NOT_ALLOWED, Problem, UNKNOWN_ROUTE};
use super::routes::{self, ROUTES, Route};
use super::{audit, body};
use crate::traces::RequestSpan;

/// The router over every route of the table.
pub(super) fn router(app: Arc<App>) -> Router {
    let mut router = Router::new();
    for route in ROUTES {
        let filter = MethodFilter::try_from(route.method.clone()).unwrap_or(MethodFilter::GET);
        let handler =
            on(filter, move |State(app): State<Arc<App>>, request: Request| answer(route, app, request));
        router = router.route(route.path, handler);
    }
    router.fallback(unknown_route).method_not_allowed_fallback(wrong_method).with_state(app)
}

async fn answer(route: &'static Route, app: Arc<App>, request: Request) -> Response {
    let started = Instant::now();
    let _under_way = app.metrics.begin();
    let method = request.method().clone();
    let (parts, body) = request.into_parts();
    // Probes and pages are asked for all the time, and metrics too: they would hide the rest.
    let traces = app.traces.as_ref().filter(|_| route.policy != Policy::Public && route.path != "/metrics");
    let span = traces.map(|traces| traces.request(&parts, route.path));
    let trace = span.as_ref().and_then(RequestSpan::context);
    let response = match run(route, &app, parts, body, trace).await {
        Ok(response) => response,
        Err(problem) => problem.into_response(),
    };
    if let Some(span) = span {
        span.answered(response.status(), response.headers());
    }
    app.metrics.observe(&method, route.path, response.status(), started.elapsed());
    response
}

async fn run(
    route: &'static Route,
    app: &Arc<App>,
    mut parts: Parts,
    body: Body,
    trace: Option<TraceContext>,
) -> Answer {
    // Before anything of the body is read: who may not write here may not fill our memory either.
    app.auth.check(route.policy, &parts.method, &parts.headers)?;
    let params = RawPathParams::from_request_parts(&mut parts, &())
        .await
        .map_err(|error| Problem::new(INVALID_REQUEST, format!("the path: {error}")))?;
    let params = params.iter().map(|(name, value)| (name.to_owned(), value.to_owned())).collect();
    let (body, stream) = match route.body {
        routes::Body::None => (axum::body::Bytes::new(), Body::empty()),
        routes::Body::Optional(_) | routes::Body::Required(_) => {
            (body::read(body, app.server.max_body_bytes, app.server.body_timeout).await?, Body::empty())
        }
        routes::Body::Stream(_) => (axum::body::Bytes::new(), body),
    };
    let call = Call { app: Arc::clone(app), parts, params, body, stream: Mutex::new(stream), trace };
    if audit::is_noted(route, &call) { audit::noted(route, call).await } else { (route.handler)(call).await }
}

async fn unknown_route(State(app): State<Arc<App>>, request: Request) -> Response {
    let detail = format!("there is nothing at {}", shown(request.uri().path()));
    refuse(&app, request.method(), Problem::new(UNKNOWN_ROUTE, detail))
}

async fn wrong_method(State(app): State<Arc<App>>, request: Request<Body>) -> Response {
    let pattern =
        request.extensions().get::<axum::extract::MatchedPath>().map(|path| path.as_str().to_owned());
    let mut allowed: Vec<&str> = ROUTES
        .iter()
        .filter(|route| Some(route.path) == pattern.as_deref())
        .map(|route| route.method.as_str())
        .collect();
    if allowed.contains(&"GET") {
        allowed.push("HEAD");
    }
    let allowed = allowed.join(", ");
    let detail =
        format!("{} is not a method of {}; use {allowed}", request.method(), shown(request.uri().path()));
    let allow = HeaderValue::try_from(&allowed).unwrap_or(HeaderValue::from_static(""));
    refuse(&app, request.method(), Problem::new(METHOD_NOT_ALLOWED, detail).header(header::ALLOW, allow))
}

/// An answer to what never came to a route.
pub(super) fn refuse(app: &App, method: &Method, problem: Problem) -> Response {
    let response = problem.into_response();
    app.metrics.observe(method, UNMATCHED, response.status(), std::time::Duration::ZERO);
    response
}

fn shown(path: &str) -> String {
    path.chars().take(200).flat_map(char::escape_debug).collect()
}
