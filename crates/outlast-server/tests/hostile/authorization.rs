//! The table: every route times every way to ask for it. A denied request changes nothing.

use std::net::SocketAddr;

use outlast_server::config::{Role, Token};
use outlast_server::http::{Policy, ROUTES, Route};
use sha2::{Digest, Sha256};

use crate::status;
use crate::support::Server;

/// What stands in the header lines of a request, and which role that is worth.
const CREDENTIALS: &[(&str, Option<Role>)] = &[
    ("", None),
    ("authorization: Bearer reader-token\r\n", Some(Role::Reader)),
    ("authorization: Bearer writer-token\r\n", Some(Role::Writer)),
    ("authorization: bearer operator-token\r\n", Some(Role::Operator)),
    ("authorization: Bearer wrong-token\r\n", None),
    ("authorization: Bearer expired-token\r\n", None),
    // One that the configuration had once: taking it out is how a token is revoked at once.
    ("authorization: Bearer revoked-token\r\n", None),
    ("authorization: Bearer \r\n", None),
    ("authorization: Bearer\r\n", None),
    ("authorization: operator-token\r\n", None),
    ("authorization: Basic operator-token\r\n", None),
    ("authorization: Bearer operator-token, Bearer operator-token\r\n", None),
    ("authorization: Bearer operator-token extra\r\n", None),
    ("authorization: Bearer operator-token\r\nauthorization: Bearer operator-token\r\n", None),
    ("authorization: Bearer wrong-token\r\nauthorization: Bearer operator-token\r\n", None),
    ("authorization: Bearer operator-token\r\nAuthorization: Basic x\r\n", None),
    ("proxy-authorization: Bearer operator-token\r\ncookie: token=operator-token\r\n", None),
    ("x-forwarded-user: operator\r\nx-original-url: /livez\r\nx-http-method-override: GET\r\n", None),
];

async fn server() -> Server {
    let token = |name: &str, role| Token {
        name: name.into(),
        role,
        sha256: Sha256::digest(format!("{name}-token")).into(),
        expires: None,
    };
    let ended = Some("2020-01-01T00:00:00Z".parse().unwrap());
    Server::start_with(|config| {
        config.server.tokens = vec![
            token("reader", Role::Reader),
            token("writer", Role::Writer),
            Token { expires: "9999-01-01T00:00:00Z".parse().ok(), ..token("operator", Role::Operator) },
            Token { expires: ended, ..token("expired", Role::Operator) },
        ];
    })
    .await
}

/// A path of the route that names nothing that exists.
fn path_of(route: &Route) -> String {
    route.path.replace("{collection}", "things").replace("{id}", "1-99").replace("{name}", "queue-full")
}

async fn ask(to: SocketAddr, method: &str, path: &str, headers: &str) -> u16 {
    status(to, &format!("{method} {path} HTTP/1.1\r\nhost: {to}\r\nconnection: close\r\n{headers}\r\n")).await
}

/// What a request that names a route exactly gets before the route itself decides; `None`: it comes to the route.
fn refused(policy: Policy, role: Option<Role>) -> Option<u16> {
    match (policy, role) {
        (Policy::Public, _) => None,
        (Policy::AtLeast(_), None) => Some(401),
        (Policy::AtLeast(least), Some(role)) => (role < least).then_some(403),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_route_times_every_credential_is_as_its_policy_says() {
    let server = server().await;
    let (mut asked, mut denied, mut deleted) = (0, 0, 0);
    for route in ROUTES {
        let path = path_of(route);
        for (headers, role) in CREDENTIALS {
            let status = ask(server.address, route.method.as_str(), &path, headers).await;
            let what = format!("{} {path} with {headers:?}: {status}", route.method);
            match refused(route.policy, *role) {
                Some(expected) => assert_eq!(status, expected, "{what}"),
                None => assert!(![401, 403].contains(&status) && status != 500, "{what}"),
            }
            asked += 1;
            denied += u32::from(refused(route.policy, *role).is_some());
            // The only write that needs no body.
            let is_delete = route.method == "DELETE" && route.path.starts_with("/v1/records/");
            deleted += u64::from(is_delete && refused(route.policy, *role).is_none());
        }
    }
    println!("{asked} requests, {denied} of them denied");
    let accepted = server.outlast.status().accounting.accepted;
    assert_eq!((deleted, accepted), (2, 2), "a writer's and an operator's");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_head_is_authorised_as_its_get_and_options_answer_nobody() {
    let server = server().await;
    for route in ROUTES {
        let path = path_of(route);
        let readable = ROUTES.iter().find(|other| other.path == route.path && other.method == "GET");
        for (headers, role) in CREDENTIALS {
            let head = ask(server.address, "HEAD", &path, headers).await;
            let what = format!("HEAD {path} with {headers:?}: {head}");
            match readable.map(|get| refused(get.policy, *role)) {
                None => assert_eq!(head, 405, "{what}"),
                Some(Some(expected)) => assert_eq!(head, expected, "{what}"),
                Some(None) => assert!(![401, 403, 405, 500].contains(&head), "{what}"),
            }
            for method in ["OPTIONS", "TRACE", "PROPFIND", "get"] {
                let status = ask(server.address, method, &path, headers).await;
                assert_eq!(status, 405, "{method} {path} with {headers:?}");
            }
        }
    }
}

/// Other ways to write a path: none of them is that route, so none of them is let in where that route would not.
fn written_differently(path: &str) -> Vec<String> {
    let first = path.chars().nth(1).unwrap();
    let encoded = format!("/%{:02X}{}", first as u32, &path[2..]);
    let last = path.rfind('/').unwrap();
    let (parent, name) = (&path[..last], &path[last + 1..]);
    // A slash that is no slash; the first one of a path must be one.
    let slashes = ["%2f", "%2F", "%252f", "/%2f"].into_iter().filter(|_| last > 0);
    let mut paths: Vec<String> = slashes.map(|slash| format!("{parent}{slash}{name}")).collect();
    paths.extend([
        format!("/{path}"),
        format!("{path}/"),
        format!("{parent}//{name}"),
        format!("/.{path}"),
        format!("/x/..{path}"),
        format!("/livez/..{path}"),
        format!("/livez%2f..{path}"),
        format!("{path}%00"),
        format!("{path};a=b"),
        format!("{parent}\\{name}"),
        path.to_uppercase(),
        encoded,
    ]);
    paths
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_other_spelling_of_a_path_lets_anybody_in() {
    let server = server().await;
    // The first page has nothing that could be written differently, and is for everybody.
    for route in ROUTES.iter().filter(|route| route.path != "/") {
        let (parent, _) = route.path.rsplit_once('/').unwrap();
        let beside_ids =
            parent.ends_with('}') || ROUTES.iter().any(|other| other.path == format!("{parent}/{{id}}"));
        for path in written_differently(&path_of(route)) {
            for (headers, role) in &CREDENTIALS[..5] {
                let status = ask(server.address, route.method.as_str(), &path, headers).await;
                let what = format!("{} {path} with {headers:?}: {status}", route.method);
                // As an id, some of these are text like any other: then that route's policy holds.
                let as_id = route.path.ends_with('}') && route.policy != Policy::Public;
                let denied = as_id.then(|| refused(route.policy, *role)).flatten();
                let expected = match denied {
                    Some(denied) => vec![denied, 404, 405, 400],
                    None if as_id => vec![200, 202, 204, 400, 404, 405, 409, 415],
                    // Taken for an id of the route beside it, whose policy holds: there is none of that form.
                    None if beside_ids => vec![400, 401, 403, 404, 405],
                    None => vec![400, 404, 405],
                };
                assert!(expected.contains(&status), "{what}, not one of {expected:?}");
            }
        }
    }
}
