//! Requests that somebody between a client and this server could read differently than we do (RFC 9112): refused, and
//! never followed by another on the same connection.

use axum::body::Body;
use http::{HeaderValue, Request, Response, Version, header};

use super::problem::{INVALID_REQUEST, Problem};

/// Why a request is refused whatever it asks for, if so.
pub(super) fn refusal<B>(request: &Request<B>) -> Option<Problem> {
    let refuse = |why: &str| {
        let close = HeaderValue::from_static("close");
        Some(Problem::new(INVALID_REQUEST, why).header(header::CONNECTION, close))
    };
    let mut hosts = request.headers().get_all(header::HOST).iter();
    let host = hosts.next();
    if hosts.next().is_some() {
        return refuse("the header Host appears more than once");
    }
    if host.is_none() && request.version() == Version::HTTP_11 {
        return refuse("the header Host is missing");
    }
    let named = request.uri().authority().map(|authority| authority.as_str().as_bytes());
    if named.is_some_and(|named| host.is_none_or(|host| !host.as_bytes().eq_ignore_ascii_case(named))) {
        return refuse("the request line names another host than the header Host");
    }
    let mut codings = request.headers().get_all(header::TRANSFER_ENCODING).iter();
    let chunked = |value: &HeaderValue| value.as_bytes().trim_ascii().eq_ignore_ascii_case(b"chunked");
    if codings.next().is_some_and(|coding| !chunked(coding)) || codings.next().is_some() {
        return refuse("the only Transfer-Encoding that is taken is chunked, once");
    }
    None
}

/// Whether this must be the last request of its connection. A Content-Length beside a Transfer-Encoding makes two readers
/// disagree about where the next one begins, and hyper drops it unseen: so nothing follows a Transfer-Encoding.
pub(super) fn is_last<B>(request: &Request<B>) -> bool {
    request.headers().contains_key(header::TRANSFER_ENCODING)
}

/// The same answer, after which the connection is closed.
pub(super) fn last(mut response: Response<Body>) -> Response<Body> {
    response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
    response
}
