//! Bearer tokens: who may do what. Only the SHA-256 of a token is ever stored.

use std::fmt;
use std::time::Duration;

use jiff::Timestamp;
use jiff::civil::Date;

/// So long before its end a token is warned about.
const WARNED_BEFORE: Duration = Duration::from_hours(14 * 24);

/// What the bearer of a token may do. Each role may do what the ones before it may.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Role {
    /// Read records, receipts and the state of things.
    Reader,
    /// And write.
    Writer,
    /// And pause, resume, throttle, retry and discard.
    Operator,
}

impl Role {
    /// The word for it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Reader => "reader",
            Self::Writer => "writer",
            Self::Operator => "operator",
        }
    }

    fn read(text: &str) -> Result<Self, String> {
        [Self::Reader, Self::Writer, Self::Operator]
            .into_iter()
            .find(|role| role.as_str() == text)
            .ok_or_else(|| format!("\"{text}\" is not a role: use reader, writer or operator"))
    }
}

/// A token that the server takes.
#[derive(Clone, PartialEq, Eq)]
pub struct Token {
    /// For people: whose it is.
    pub name: String,
    /// SHA-256 of the token's text.
    pub sha256: [u8; 32],
    /// What its bearer may do.
    pub role: Role,
    /// From when on it is refused, if it is.
    pub expires: Option<Timestamp>,
}

/// Where a token stands in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Life {
    /// It is taken.
    Valid,
    /// It is taken, and ends before long.
    Ending,
    /// It is refused.
    Expired,
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.show())
    }
}

impl Token {
    /// From its parts; without `expires` it does not end.
    ///
    /// # Errors
    /// When a part is empty or not what it should be. The hash is not repeated.
    pub fn read(name: &str, role: &str, sha256: &str, expires: Option<&str>) -> Result<Self, String> {
        if name.is_empty() || name.contains([':', ',']) {
            return Err("a token's name must not be empty, nor hold a colon or a comma".to_owned());
        }
        let hash = read_hash(sha256).ok_or_else(|| {
            format!("sha256 of the token \"{name}\" must be 64 hexadecimal digits: printf %s \"$TOKEN\" | sha256sum")
        })?;
        let expires = expires.map(|text| read_expires(name, text)).transpose()?;
        Ok(Self { name: name.to_owned(), sha256: hash, role: Role::read(role)?, expires })
    }

    /// From `NAME:ROLE:SHA256` or `NAME:ROLE:SHA256:EXPIRES`, several with commas between them; `none` is none.
    ///
    /// # Errors
    /// As [`Token::read`].
    pub fn read_list(text: &str) -> Result<Vec<Self>, String> {
        if text == "none" || text.is_empty() {
            return Ok(Vec::new());
        }
        let one = |item: &str| {
            // A time has colons of its own.
            let mut parts = item.trim().splitn(4, ':');
            match (parts.next(), parts.next(), parts.next(), parts.next()) {
                (Some(name), Some(role), Some(hash), expires) => Self::read(name, role, hash, expires),
                _ => Err(
                    "a token is written NAME:ROLE:SHA256 or NAME:ROLE:SHA256:EXPIRES, several with commas between them"
                        .to_owned(),
                ),
            }
        };
        text.split(',').map(one).collect()
    }

    /// Its name and role, and when it ends; never the hash.
    pub fn show(&self) -> String {
        let (name, role) = (&self.name, self.role.as_str());
        match self.expires {
            Some(expires) => format!("{name} ({role}, expires {expires})"),
            None => format!("{name} ({role})"),
        }
    }

    /// Where it stands at that time.
    pub fn life(&self, now: Timestamp) -> Life {
        match self.expires {
            Some(expires) if expires <= now => Life::Expired,
            Some(expires) if expires.duration_since(now).unsigned_abs() <= WARNED_BEFORE => Life::Ending,
            _ => Life::Valid,
        }
    }
}

/// A time, or a day of which all is still good.
fn read_expires(name: &str, text: &str) -> Result<Timestamp, String> {
    let end_of_day = |day: Date| format!("{}T00:00:00Z", day.tomorrow().ok()?).parse().ok();
    let day = || text.parse::<Date>().ok().filter(|_| text.len() == 10).and_then(end_of_day);
    let time = text.parse().ok().or_else(day);
    time.ok_or_else(|| {
        format!(
            "expires of the token \"{name}\" must be a time such as 2027-01-31T12:00:00Z, or a day such as 2027-01-31: it is taken until that day has ended (UTC)"
        )
    })
}

fn read_hash(hex: &str) -> Option<[u8; 32]> {
    if hex.len() != 64 || !hex.is_ascii() {
        return None;
    }
    let mut hash = [0; 32];
    for (index, byte) in hash.iter_mut().enumerate() {
        *byte = u8::from_str_radix(hex.get(2 * index..2 * index + 2)?, 16).ok()?;
    }
    Some(hash)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_of_tokens_are_read_and_never_show_the_hash() {
        let hash = "ab".repeat(32);
        let tokens = Token::read_list(&format!("ci:writer:{hash}, me:operator:{hash}")).unwrap();
        assert_eq!(format!("{tokens:?}"), "[ci (writer), me (operator)]");
        assert!(tokens[1].role > tokens[0].role);
        let ending = Token::read_list(&format!(
            "ci:writer:{hash}:2027-01-31T12:00:00+01:00,d:reader:{hash}:2027-01-31"
        ));
        let shown = "[ci (writer, expires 2027-01-31T11:00:00Z), d (reader, expires 2027-02-01T00:00:00Z)]";
        assert_eq!(format!("{:?}", ending.unwrap()), shown);
        for bad in ["", "soon", "2027-01-31T12:00:00", "2027-13-01", "1800000000", "2027-01-31 "] {
            let why = Token::read("a", "reader", &hash, Some(bad)).unwrap_err();
            assert!(why.contains("2027-01-31T12:00:00Z"), "{bad}: {why}");
        }
        for bad in ["x", "a:admin:00", ":reader:00", &format!("a:reader:{}", "g".repeat(64))] {
            assert!(Token::read_list(bad).is_err(), "{bad}");
        }
    }
    #[test]
    fn a_token_is_refused_from_its_end_on_and_warned_about_before() {
        let at = |text: &str| text.parse::<Timestamp>().unwrap();
        let token = Token::read("a", "reader", &"ab".repeat(32), Some("2027-01-31T12:00:00Z")).unwrap();
        for (now, life) in [
            ("2027-01-17T11:59:59Z", Life::Valid),
            ("2027-01-17T12:00:00Z", Life::Ending),
            ("2027-01-31T11:59:59.999Z", Life::Ending),
            ("2027-01-31T12:00:00Z", Life::Expired),
            ("2031-01-31T12:00:00Z", Life::Expired),
        ] {
            assert_eq!(token.life(at(now)), life, "{now}");
        }
        assert_eq!(Token { expires: None, ..token }.life(at("2031-01-31T12:00:00Z")), Life::Valid);
    }
}
