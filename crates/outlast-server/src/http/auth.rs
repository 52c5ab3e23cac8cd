//! Who may do what: the policy of a route against the bearer token of a request.

use http::{HeaderMap, HeaderValue, Method, header};
use jiff::Timestamp;
use sha2::{Digest, Sha256};

use super::problem::{CROSS_ORIGIN, FORBIDDEN, FOREIGN_HOST, Problem, TOKEN_EXPIRED, UNAUTHENTICATED};
use crate::config::{Life, Role, ServerConfig, Token};

/// What a route demands. Every route has one: a route without does not compile.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Policy {
    /// Nothing: probes and documents.
    Public,
    /// A token with at least this role, when any tokens are configured.
    AtLeast(Role),
}

/// The tokens that the server takes.
#[derive(Debug, Clone)]
pub struct Auth {
    tokens: Vec<Token>,
    /// Only requests that name this machine are served: being on it is all that protects the server.
    local_only: bool,
}

impl Auth {
    /// As configured. Without any tokens everybody who reaches the server may do everything.
    pub fn new(server: &ServerConfig) -> Self {
        let tokens = server.tokens.clone();
        let local_only = tokens.is_empty() && !server.insecure_listen;
        Self { tokens, local_only }
    }

    /// Lets the request pass, or says why not.
    ///
    /// # Errors
    /// 401 without a valid token or with one that has expired, 403 when its role may not do this or a web page of another origin asks, 421 when a
    /// server without tokens is asked under a name that is not this machine's.
    pub fn check(&self, policy: Policy, method: &Method, headers: &HeaderMap) -> Result<(), Problem> {
        if !matches!(*method, Method::GET | Method::HEAD) {
            refuse_foreign_page(headers)?;
        }
        match policy {
            Policy::Public => Ok(()),
            Policy::AtLeast(_) if self.local_only => refuse_foreign_name(headers),
            Policy::AtLeast(_) if self.tokens.is_empty() => Ok(()),
            Policy::AtLeast(least) => {
                let role = self.token(headers)?.role;
                if role >= least {
                    return Ok(());
                }
                let detail =
                    format!("this needs the role {}, the token has {}", least.as_str(), role.as_str());
                let challenge = challenge("insufficient_scope", "the role of the token is too small");
                Err(Problem::new(FORBIDDEN, detail).header(header::WWW_AUTHENTICATE, challenge))
            }
        }
    }

    /// Whether no tokens are configured: nobody is asked for one.
    pub fn is_open(&self) -> bool {
        self.tokens.is_empty()
    }

    /// Who asks: the name of the token, and what its bearer may do. Without any tokens it is somebody on this machine.
    ///
    /// # Errors
    /// 401 without a valid token.
    pub fn caller(&self, headers: &HeaderMap) -> Result<(String, Role), Problem> {
        if self.tokens.is_empty() {
            return Ok(("local".to_owned(), Role::Operator));
        }
        self.token(headers).map(|token| (token.name.clone(), token.role))
    }

    /// When the caller's token ends, if it does.
    pub fn expires(&self, headers: &HeaderMap) -> Option<Timestamp> {
        self.token(headers).ok().and_then(|token| token.expires)
    }

    /// Whether the request may see details that not everybody who can reach a probe should.
    pub fn may_see_details(&self, headers: &HeaderMap) -> bool {
        if self.tokens.is_empty() {
            return !self.local_only || refuse_foreign_name(headers).is_ok();
        }
        self.token(headers).is_ok()
    }

    fn token(&self, headers: &HeaderMap) -> Result<&Token, Problem> {
        let mut values = headers.get_all(header::AUTHORIZATION).into_iter();
        let Some(value) = values.next() else {
            return Err(unauthenticated("this needs a bearer token: Authorization: Bearer TOKEN"));
        };
        if values.next().is_some() {
            return Err(unauthenticated("the header Authorization appears more than once"));
        }
        let token = value
            .to_str()
            .ok()
            .and_then(|text| text.split_once(' '))
            .filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer"))
            .map(|(_, token)| token.trim())
            .ok_or_else(|| unauthenticated("the header Authorization does not have the form Bearer TOKEN"))?;
        let hash: [u8; 32] = Sha256::digest(token).into();
        // Every token is compared to its end, so that the time tells nothing.
        let found = self
            .tokens
            .iter()
            .fold(None, |found, known| if same(&known.sha256, &hash) { Some(known) } else { found });
        let Some(found) = found else {
            let detail = "the token is not one that this server takes";
            let challenge = challenge("invalid_token", detail);
            return Err(Problem::new(UNAUTHENTICATED, detail).header(header::WWW_AUTHENTICATE, challenge));
        };
        match (found.life(Timestamp::now()), found.expires) {
            (Life::Expired, Some(expires)) => {
                let detail = format!("the token \"{}\" expired at {expires}", found.name);
                let challenge = challenge("invalid_token", "the token expired");
                Err(Problem::new(TOKEN_EXPIRED, detail).header(header::WWW_AUTHENTICATE, challenge))
            }
            _ => Ok(found),
        }
    }
}

/// A browser names the page that asks: one of another origin must not pause the queue of somebody who reads it.
fn refuse_foreign_page(headers: &HeaderMap) -> Result<(), Problem> {
    let foreign = |detail: &str| Err(Problem::new(CROSS_ORIGIN, detail));
    if headers.get("sec-fetch-site").is_some_and(|site| site == "cross-site") {
        return foreign("the request comes from a web page of another site");
    }
    let Some(origin) = headers.get(header::ORIGIN) else { return Ok(()) };
    let host = headers.get(header::HOST).and_then(|host| host.to_str().ok()).unwrap_or_default();
    let authority =
        origin.to_str().ok().and_then(|origin| origin.split_once("://")).map(|(_, authority)| authority);
    if authority.is_some_and(|authority| authority.eq_ignore_ascii_case(host)) {
        return Ok(());
    }
    foreign("the header Origin names another origin than the header Host")
}

/// A web page may have its own name point at this machine, and then reads and writes as if it were of the same origin.
/// Its name stands in `Host`; programs on this machine say localhost or an address.
fn refuse_foreign_name(headers: &HeaderMap) -> Result<(), Problem> {
    let Some(host) = headers.get(header::HOST) else { return Ok(()) };
    let host = host.to_str().unwrap_or_default();
    let name = match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => name,
        _ => host,
    };
    let address = name.trim_start_matches('[').trim_end_matches(']').parse::<std::net::IpAddr>();
    if address.is_ok() || name.eq_ignore_ascii_case("localhost") {
        return Ok(());
    }
    let detail = format!(
        "the header Host is \"{}\", which is neither localhost nor an IP address",
        name.escape_debug()
    );
    Err(Problem::new(FOREIGN_HOST, detail))
}

fn unauthenticated(detail: &str) -> Problem {
    let challenge = HeaderValue::from_static("Bearer realm=\"outlast\"");
    Problem::new(UNAUTHENTICATED, detail).header(header::WWW_AUTHENTICATE, challenge)
}

/// What was wrong with the token that was sent (RFC 6750, section 3.1).
fn challenge(error: &str, description: &str) -> HeaderValue {
    let text = format!("Bearer realm=\"outlast\", error=\"{error}\", error_description=\"{description}\"");
    HeaderValue::try_from(text).unwrap_or(HeaderValue::from_static("Bearer realm=\"outlast\""))
}

/// Compares without stopping at the first difference.
fn same(a: &[u8; 32], b: &[u8; 32]) -> bool {
    std::hint::black_box(a.iter().zip(b).fold(0, |difference, (a, b)| difference | (a ^ b))) == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    fn token(name: &str, role: Role, text: &str) -> Token {
        Token { name: name.into(), role, sha256: Sha256::digest(text).into(), expires: None }
    }

    fn auth(tokens: Vec<Token>) -> Auth {
        Auth::new(&ServerConfig { tokens, ..crate::config::Config::default().server })
    }

    fn headers(pairs: &[(&'static str, &str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in pairs {
            headers.append(*name, HeaderValue::from_str(value).unwrap());
        }
        headers
    }

    fn status(auth: &Auth, least: Role, pairs: &[(&'static str, &str)]) -> u16 {
        match auth.check(Policy::AtLeast(least), &Method::GET, &headers(pairs)) {
            Ok(()) => 200,
            Err(problem) => problem.kind().status.as_u16(),
        }
    }

    #[test]
    fn a_role_may_what_the_lesser_ones_may_and_no_more() {
        let auth = self::auth(vec![token("r", Role::Reader, "rrr"), token("w", Role::Writer, "www")]);
        assert_eq!(status(&auth, Role::Reader, &[("authorization", "Bearer rrr")]), 200);
        assert_eq!(status(&auth, Role::Reader, &[("authorization", "bearer www")]), 200);
        assert_eq!(status(&auth, Role::Writer, &[("authorization", "Bearer rrr")]), 403);
        assert_eq!(status(&auth, Role::Operator, &[("authorization", "Bearer www")]), 403);
    }

    #[test]
    fn anything_but_one_known_bearer_token_is_401() {
        let auth = self::auth(vec![token("r", Role::Reader, "rrr")]);
        for pairs in [
            &[] as &[(&'static str, &str)],
            &[("authorization", "Bearer rrrr")],
            &[("authorization", "Bearer RRR")],
            &[("authorization", "rrr")],
            &[("authorization", "Basic rrr")],
            &[("authorization", "Bearer ")],
            &[("authorization", "Bearer rrr"), ("authorization", "Bearer rrr")],
        ] {
            assert_eq!(status(&auth, Role::Reader, pairs), 401, "{pairs:?}");
        }
        assert_eq!(status(&self::auth(vec![]), Role::Operator, &[]), 200);
    }

    #[test]
    fn a_token_that_has_expired_is_401_and_says_so() {
        let ended = Some("2020-01-01T00:00:00Z".parse().unwrap());
        let auth = self::auth(vec![Token { expires: ended, ..token("r", Role::Operator, "rrr") }]);
        let headers = self::headers(&[("authorization", "Bearer rrr")]);
        let problem = auth.check(Policy::AtLeast(Role::Reader), &Method::GET, &headers).unwrap_err();
        assert_eq!((problem.kind().name, problem.kind().status.as_u16()), ("token-expired", 401));
        let detail = problem.body()["detail"].as_str().unwrap().to_owned();
        assert_eq!(detail, "the token \"r\" expired at 2020-01-01T00:00:00Z");
        assert!(auth.caller(&headers).is_err() && !auth.may_see_details(&headers));
    }

    #[test]
    fn without_tokens_only_names_of_this_machine_are_served() {
        let check = |server: ServerConfig, host: &str| {
            let policy = Policy::AtLeast(Role::Reader);
            Auth::new(&server).check(policy, &Method::GET, &headers(&[("host", host)])).is_ok()
        };
        let plain = || crate::config::Config::default().server;
        for host in ["localhost", "LOCALHOST:6885", "127.0.0.1:6885", "[::1]:6885", "[::1]", "10.0.0.7"] {
            assert!(check(plain(), host), "{host}");
        }
        for host in [
            "evil.example",
            "evil.example:6885",
            "localhost.evil.example",
            "127.0.0.1.evil.example:80",
            "",
            ":80",
        ] {
            assert!(!check(plain(), host), "{host}");
            assert!(check(ServerConfig { insecure_listen: true, ..plain() }, host), "{host}");
        }
    }

    #[test]
    fn pages_of_another_origin_change_nothing() {
        let auth = self::auth(vec![]);
        let check = |pairs: &[(&'static str, &str)]| {
            auth.check(Policy::AtLeast(Role::Operator), &Method::POST, &headers(pairs)).is_ok()
        };
        assert!(check(&[("host", "127.0.0.1:6885")]));
        assert!(check(&[("host", "127.0.0.1:6885"), ("origin", "http://127.0.0.1:6885")]));
        assert!(!check(&[("host", "127.0.0.1:6885"), ("origin", "http://evil.example")]));
        assert!(!check(&[("host", "127.0.0.1:6885"), ("origin", "null")]));
        assert!(!check(&[("host", "127.0.0.1:6885"), ("sec-fetch-site", "cross-site")]));
    }
}
