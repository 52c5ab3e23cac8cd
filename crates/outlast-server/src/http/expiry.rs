//! Tokens that end: health and a log line say so before it happens, and when it has.

use std::collections::HashMap;
use std::time::Duration;

use jiff::Timestamp;
use outlast::Outlast;
use outlast::health::{Check, Level};

use crate::config::{Life, Token};

/// How often the clock is looked at.
const INTERVAL: Duration = Duration::from_secs(1);

/// Watches tokens until the future is dropped. Those without an end need no watching.
pub async fn watch(outlast: Outlast, tokens: Vec<Token>) {
    let tokens: Vec<Token> = tokens.into_iter().filter(|token| token.expires.is_some()).collect();
    if tokens.is_empty() {
        return;
    }
    let watched = tokens.clone();
    outlast.health().register("tokens", move || check(&watched, Timestamp::now()));
    let mut told = HashMap::new();
    let mut ticks = tokio::time::interval(INTERVAL);
    loop {
        ticks.tick().await;
        for token in changed(&tokens, &mut told, Timestamp::now()) {
            let (name, role) = (&*token.name, token.role.as_str());
            let expires = token.expires.map(|expires| expires.to_string());
            match told.get(name) {
                Some(Life::Expired) => {
                    tracing::warn!(
                        event = "token_expired",
                        name,
                        role,
                        expires,
                        "a token has expired: it is refused"
                    );
                }
                Some(Life::Ending) => {
                    tracing::warn!(
                        event = "token_expires",
                        name,
                        role,
                        expires,
                        "a token expires before long"
                    );
                }
                _ => {}
            }
        }
    }
}

/// Those whose life has changed since they were last told. All are valid at first.
fn changed<'a>(tokens: &'a [Token], told: &mut HashMap<String, Life>, now: Timestamp) -> Vec<&'a Token> {
    let has_changed = |token: &&Token| {
        let life = token.life(now);
        told.insert(token.name.clone(), life).unwrap_or(Life::Valid) != life
    };
    tokens.iter().filter(has_changed).collect()
}

fn check(tokens: &[Token], now: Timestamp) -> Check {
    let of = |life: Life| -> Vec<String> {
        tokens.iter().filter(|token| token.life(now) == life).map(Token::show).collect()
    };
    let (expired, ending) = (of(Life::Expired), of(Life::Ending));
    let mut said = Vec::new();
    if !expired.is_empty() {
        said.push(format!("expired, and refused: {}", expired.join(", ")));
    }
    if !ending.is_empty() {
        said.push(format!("before long expire: {}", ending.join(", ")));
    }
    if said.is_empty() {
        return Check::new(Level::Healthy, "none expires before long");
    }
    Check::new(Level::Warning, format!("{}; see server.tokens", said.join("; ")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn token(name: &str, expires: &str) -> Token {
        Token::read(name, "writer", &"ab".repeat(32), Some(expires)).unwrap()
    }

    #[test]
    fn each_change_is_told_once_and_health_tells_what_is() {
        let tokens = [token("ci", "2027-01-31T12:00:00Z"), token("app", "2027-02-28T12:00:00Z")];
        let mut told = HashMap::new();
        let mut names = |now: &str| -> Vec<String> {
            let now = now.parse().unwrap();
            changed(&tokens, &mut told, now).into_iter().map(|token| token.name.clone()).collect()
        };
        let said = |now: &str| {
            let check = check(&tokens, now.parse().unwrap());
            (check.level, check.message)
        };
        assert!(names("2027-01-01T00:00:00Z").is_empty());
        assert_eq!(said("2027-01-01T00:00:00Z").0, Level::Healthy);
        assert_eq!(names("2027-01-20T00:00:00Z"), ["ci"]);
        assert!(names("2027-01-20T00:00:01Z").is_empty());
        let (level, message) = said("2027-01-20T00:00:00Z");
        assert_eq!(level, Level::Warning);
        assert!(
            message.starts_with("before long expire: ci (writer, expires 2027-01-31T12:00:00Z)"),
            "{message}"
        );
        assert_eq!(names("2027-02-20T00:00:00Z"), ["ci", "app"]);
        let (_, message) = said("2027-02-20T00:00:00Z");
        assert!(message.starts_with("expired, and refused: ci ("), "{message}");
        assert!(message.contains("before long expire: app ("), "{message}");
        assert!(names("2027-02-21T00:00:00Z").is_empty());
    }
}
