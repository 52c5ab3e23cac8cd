//! `Address`: where a database is, and as whom to sign in, from one URL.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use outlast::error::Invalid;
use outlast::record::check_name;
use percent_encoding::percent_decode_str;

const FORM: &str = "postgres://USER:PASSWORD@HOST:5432/DATABASE";
const PORT_DEFAULT: u16 = 5432;

/// A server that may have the database.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Host {
    /// Name or address, an IPv6 one without brackets.
    pub(crate) name: String,
    /// Its port.
    pub(crate) port: u16,
}

/// A way to prove who we are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Proof {
    /// SCRAM-SHA-256: the password never leaves this machine.
    Scram,
    /// MD5: weak, and what is sent can be used by whoever sees it.
    Md5,
    /// The password itself.
    Password,
}

/// Where a database is, and as whom to use it.
pub(crate) struct Address {
    /// The servers, in the order in which they are tried.
    pub(crate) hosts: Vec<Host>,
    /// The database's name.
    pub(crate) database: String,
    /// The user.
    pub(crate) user: String,
    /// The password, if there is one.
    pub(crate) password: Option<String>,
    /// Speak TLS, with a server whose certificate is trusted and names the host.
    pub(crate) tls: bool,
    /// What may be sent as a proof.
    pub(crate) proofs: Vec<Proof>,
    /// What the server's lists of sessions show.
    pub(crate) application_name: String,
    /// Key columns of tables whose primary key is not to be used, or that have none.
    pub(crate) keys: BTreeMap<String, Vec<String>>,
    /// How long to wait for a lock.
    pub(crate) lock_timeout: Option<Duration>,
    /// How long bytes may stay unacknowledged.
    pub(crate) tcp_user_timeout: Option<Duration>,
}

impl Address {
    /// From `postgres://USER:PASSWORD@HOST:PORT,HOST:PORT/DATABASE?PARAMETER=VALUE&...`. Everything is percent-decoded.
    /// `password` goes before one in the URL.
    ///
    /// # Errors
    /// What is missing or wrong, and the form. The message never holds the password.
    pub(crate) fn parse(text: &str, password: Option<&str>) -> Result<Self, Invalid> {
        let (scheme, rest) =
            text.split_once("://").ok_or_else(|| wrong("must begin with postgres:// or postgresql://"))?;
        if !["postgres", "postgresql"].iter().any(|known| scheme.eq_ignore_ascii_case(known)) {
            return Err(wrong("must begin with postgres:// or postgresql://"));
        }
        if rest.contains('#') {
            return Err(wrong("must not have a # (write it as %23 inside a password)"));
        }
        let (rest, parameters) = rest.split_once('?').unwrap_or((rest, ""));
        let (authority, database) = rest.split_once('/').unwrap_or((rest, ""));
        let (account, hosts) = authority.rsplit_once('@').unwrap_or(("", authority));
        let (user, inside) =
            account.split_once(':').map_or((account, None), |(user, secret)| (user, Some(secret)));
        let database = decoded("database", database)?;
        if database.is_empty() || database.contains('/') {
            return Err(wrong("must name one database after the host"));
        }
        let user = decoded("user", user)?;
        if user.is_empty() {
            return Err(wrong("must name a user before the host"));
        }
        let inside = inside.map(|secret| decoded("password", secret)).transpose()?;
        let mut address = Self {
            hosts: hosts.split(',').map(host).collect::<Result<_, _>>()?,
            database,
            user,
            password: password.map(str::to_owned).or(inside),
            tls: false,
            proofs: Vec::new(),
            application_name: "outlast".to_owned(),
            keys: BTreeMap::new(),
            lock_timeout: None,
            tcp_user_timeout: None,
        };
        let mut proofs = None;
        for parameter in parameters.split('&').filter(|parameter| !parameter.is_empty()) {
            let (name, value) = parameter.split_once('=').unwrap_or((parameter, ""));
            let (name, value) = (decoded("parameter", name)?, decoded("parameter", value)?);
            address.set(&name, &value, &mut proofs)?;
        }
        // Without TLS only a proof that is of no use to who listens; another has to be asked for.
        let usual: &[Proof] =
            if address.tls { &[Proof::Scram, Proof::Md5, Proof::Password] } else { &[Proof::Scram] };
        address.proofs = proofs.unwrap_or_else(|| usual.to_vec());
        Ok(address)
    }

    fn set(&mut self, name: &str, value: &str, proofs: &mut Option<Vec<Proof>>) -> Result<(), Invalid> {
        match (name, value) {
            ("sslmode", "disable") => self.tls = false,
            // There is no TLS here that trusts just anybody, so both are the same.
            ("sslmode", "require" | "verify-full") => self.tls = true,
            ("sslmode", _) => {
                return Err(wrong("has an sslmode that is none of disable, require and verify-full"));
            }
            ("target_session_attrs", "read-write") => {}
            ("target_session_attrs", _) => {
                return Err(wrong("has target_session_attrs other than read-write: writes need that"));
            }
            ("application_name", name) => name.clone_into(&mut self.application_name),
            ("require_auth", list) => {
                let proof = |word: &str| match word {
                    "scram-sha-256" => Ok(Proof::Scram),
                    "md5" => Ok(Proof::Md5),
                    "password" => Ok(Proof::Password),
                    _ => Err(wrong("has a require_auth that is no list of scram-sha-256, md5 and password")),
                };
                *proofs = Some(list.split(',').map(proof).collect::<Result<_, _>>()?);
            }
            ("lock_timeout", number) => self.lock_timeout = Some(milliseconds(name, number)?),
            ("tcp_user_timeout", number) => self.tcp_user_timeout = Some(milliseconds(name, number)?),
            (name, columns) if name.starts_with("key.") => {
                let table = &name["key.".len()..];
                check_name("table", table)?;
                let columns: Vec<String> = columns.split(',').map(str::to_owned).collect();
                if columns.iter().any(String::is_empty) {
                    return Err(wrong("has a key without columns: write key.TABLE=COLUMN,COLUMN"));
                }
                self.keys.insert(table.to_owned(), columns);
            }
            (other, _) => {
                return Err(wrong(&format!(
                    "has the parameter \"{}\": known are sslmode, target_session_attrs, require_auth, \
                     application_name, lock_timeout, tcp_user_timeout and key.TABLE",
                    other.escape_debug()
                )));
            }
        }
        Ok(())
    }
}

fn wrong(what: &str) -> Invalid {
    Invalid::new(format!("the database URL {what}; its form is {FORM}"))
}

/// The unit that PostgreSQL and the system have for both, in a signed number; 0 would mean without a limit.
fn milliseconds(name: &str, number: &str) -> Result<Duration, Invalid> {
    match number.parse::<u32>() {
        Ok(number) if (1..=i32::MAX.unsigned_abs()).contains(&number) => {
            Ok(Duration::from_millis(number.into()))
        }
        _ => Err(wrong(&format!("has a {name} that is no number of milliseconds from 1 to {}", i32::MAX))),
    }
}

/// NUL ends a text in the protocol.
fn decoded(what: &str, part: &str) -> Result<String, Invalid> {
    let text = percent_decode_str(part).decode_utf8().ok().filter(|text| !text.contains('\0'));
    text.map(Into::into).ok_or_else(|| wrong(&format!("has a {what} that is not UTF-8 without NUL")))
}

fn host(text: &str) -> Result<Host, Invalid> {
    let (name, port) = match text.strip_prefix('[').map(|rest| rest.split_once(']')) {
        Some(Some((name, port))) => (name, port),
        Some(None) => return Err(wrong("has a host with [ but no ]")),
        None => text.find(':').map_or((text, ""), |at| text.split_at(at)),
    };
    let port = match port.strip_prefix(':') {
        None if port.is_empty() => PORT_DEFAULT,
        Some("") => PORT_DEFAULT,
        Some(number) => number.parse().map_err(|_| wrong("has a port that is no number up to 65535"))?,
        None => return Err(wrong("has something after a host that is no port")),
    };
    let name = decoded("host", name)?;
    if name.is_empty() {
        return Err(wrong("has no host"));
    }
    if name.starts_with('/') {
        return Err(wrong("names a Unix socket: only TCP is spoken, for example to 127.0.0.1"));
    }
    Ok(Host { name, port })
}

impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.name.contains(':') {
            write!(f, "[{}]:{}", self.name, self.port)
        } else {
            write!(f, "{}:{}", self.name, self.port)
        }
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("postgres ")?;
        for (at, host) in self.hosts.iter().enumerate() {
            write!(f, "{}{host}", if at == 0 { "" } else { "," })?;
        }
        write!(f, "/{}", self.database)
    }
}

impl fmt::Debug for Address {
    /// Without the password.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Address({self})")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_says_everything() {
        let url = "postgres://ro%40ot:p%2Fw%3Aé@db.example:5433,[::1]/my%20data?sslmode=verify-full\
                   &target_session_attrs=read-write&application_name=shop&key.orders=tenant,number\
                   &lock_timeout=250&tcp_user_timeout=7000";
        let address = Address::parse(url, None).unwrap();
        assert_eq!(address.to_string(), "postgres db.example:5433,[::1]:5432/my data");
        assert_eq!((address.user.as_str(), address.password.as_deref()), ("ro@ot", Some("p/w:é")));
        assert!(address.tls);
        assert_eq!(address.proofs, [Proof::Scram, Proof::Md5, Proof::Password]);
        assert_eq!(address.application_name, "shop");
        assert_eq!(address.keys["orders"], ["tenant", "number"]);
        assert_eq!(address.lock_timeout, Some(Duration::from_millis(250)));
        assert_eq!(address.tcp_user_timeout, Some(Duration::from_secs(7)));
    }

    #[test]
    fn a_password_apart_goes_before_one_inside_and_a_weak_proof_has_to_be_asked_for() {
        let address = Address::parse("postgresql://me:old@h/d", Some("new")).unwrap();
        assert_eq!(address.password.as_deref(), Some("new"));
        assert_eq!((address.tls, &address.proofs[..]), (false, &[Proof::Scram][..]));
        let address = Address::parse("postgres://me@h/d?require_auth=md5,password", None).unwrap();
        assert_eq!((address.password, &address.proofs[..]), (None, &[Proof::Md5, Proof::Password][..]));
    }

    #[test]
    fn what_is_missing_or_wrong_is_named() {
        for (url, what) in [
            ("me@host/d", "postgres://"),
            ("mysql://me@host/d", "postgres://"),
            ("postgres://me:secret@/d", "no host"),
            ("postgres://me:secret@a,,b/d", "no host"),
            ("postgres://me:secret@host", "one database"),
            ("postgres://me:secret@host/d/e", "one database"),
            ("postgres://host/d", "a user"),
            ("postgres://:secret@host/d", "a user"),
            ("postgres://me:secret@host:port/d", "no number"),
            ("postgres://me:secret@[::1/d", "no ]"),
            ("postgres://me:secret@[::1]5432/d", "no port"),
            ("postgres://me:secret@host/d#x", "%23"),
            ("postgres://me:secret@%2Fvar%2Frun/d", "Unix socket"),
            ("postgres://me:secret%00@host/d", "without NUL"),
            ("postgres://me:secret@host/d?sslmode=prefer", "sslmode"),
            ("postgres://me:secret@host/d?target_session_attrs=any", "read-write"),
            ("postgres://me:secret@host/d?require_auth=none", "require_auth"),
            ("postgres://me:secret@host/d?connect_timeout=1", "connect_timeout"),
            ("postgres://me:secret@host/d?lock_timeout=0", "milliseconds"),
            ("postgres://me:secret@host/d?tcp_user_timeout=5s", "milliseconds"),
            ("postgres://me:secret@host/d?tcp_user_timeout=2147483648", "2147483647"),
            ("postgres://me:secret@host/d?key.orders=", "without columns"),
            ("postgres://me:secret@host/d?key.a-b=x", "valid name"),
        ] {
            let error = Address::parse(url, None).unwrap_err().to_string();
            assert!(error.contains(what), "{url}: {error}");
            assert!(!error.contains("secret"), "{error}");
        }
    }

    #[test]
    fn shown_without_secrets() {
        let address = Address::parse("postgres://root:secret@h:1/d", None).unwrap();
        assert_eq!(format!("{address:?}"), "Address(postgres h:1/d)");
    }
}
