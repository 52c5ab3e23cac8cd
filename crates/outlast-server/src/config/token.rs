//! Bearer tokens: who may do what. Only the SHA-256 of a token is ever stored.

use std::fmt;

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
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.show())
    }
}

impl Token {
    /// From its three parts.
    ///
    /// # Errors
    /// When a part is empty or not what it should be. The hash is not repeated.
    pub fn read(name: &str, role: &str, sha256: &str) -> Result<Self, String> {
        if name.is_empty() || name.contains([':', ',']) {
            return Err("a token's name must not be empty, nor hold a colon or a comma".to_owned());
        }
        let hash = read_hash(sha256).ok_or_else(|| {
            format!("sha256 of the token \"{name}\" must be 64 hexadecimal digits: printf %s \"$TOKEN\" | sha256sum")
        })?;
        Ok(Self { name: name.to_owned(), sha256: hash, role: Role::read(role)? })
    }

    /// From `NAME:ROLE:SHA256`, several with commas between them; `none` is none.
    ///
    /// # Errors
    /// As [`Token::read`].
    pub fn read_list(text: &str) -> Result<Vec<Self>, String> {
        if text == "none" || text.is_empty() {
            return Ok(Vec::new());
        }
        let one = |item: &str| {
            let mut parts = item.trim().split(':');
            match (parts.next(), parts.next(), parts.next(), parts.next()) {
                (Some(name), Some(role), Some(hash), None) => Self::read(name, role, hash),
                _ => Err("a token is written NAME:ROLE:SHA256, several with commas between them".to_owned()),
            }
        };
        text.split(',').map(one).collect()
    }

    /// Its name and role; never the hash.
    pub fn show(&self) -> String {
        format!("{} ({})", self.name, self.role.as_str())
    }
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
        for bad in ["x", "a:admin:00", ":reader:00", &format!("a:reader:{}", "g".repeat(64))] {
            assert!(Token::read_list(bad).is_err(), "{bad}");
        }
    }
}
