//! `Address`: where a database is, and as whom to sign in, from one URL.

use std::fmt;

use outlast::error::Invalid;
use percent_encoding::percent_decode_str;
use url::{Host, Url};

const FORM: &str = "surrealdb://USER:PASSWORD@HOST:8000/NAMESPACE/DATABASE";
const PORT_DEFAULT: u16 = 8000;

/// Where a server is.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Server {
    /// Name or address of its host.
    pub(crate) host: String,
    /// Its port.
    pub(crate) port: u16,
    /// Speak TLS (`surrealdbs://`).
    pub(crate) tls: bool,
}

/// Where a database is.
pub(crate) enum Place {
    /// On a server.
    Server(Server),
    /// In this process.
    #[cfg(feature = "surrealdb-embedded")]
    Engine(crate::engine::Engine),
}

/// Where a database is, which namespace and database to use there, and as whom.
pub(crate) struct Address {
    /// Where.
    pub(crate) place: Place,
    /// The namespace.
    pub(crate) namespace: String,
    /// The database.
    pub(crate) database: String,
    /// User and password; without them no sign-in is tried.
    pub(crate) user: Option<(String, String)>,
}

impl Address {
    /// From `surrealdb://USER:PASSWORD@HOST:8000/NAMESPACE/DATABASE` (or `surrealdbs://` for TLS). User, password and
    /// names are percent-decoded. `password` goes before one in the URL.
    ///
    /// # Errors
    /// What is missing or wrong, and the form. The message never holds the password.
    pub(crate) fn parse(text: &str, password: Option<&str>) -> Result<Self, Invalid> {
        if let Some(engine) = engine(text) {
            return engine;
        }
        let wrong = |what: &str| Invalid::new(format!("the database URL {what}; its form is {FORM}"));
        let url = Url::parse(text).map_err(|error| wrong(&format!("is not a URL ({error})")))?;
        let tls = match url.scheme() {
            "surrealdb" => false,
            "surrealdbs" => true,
            _ => return Err(wrong("must begin with surrealdb:// or surrealdbs://")),
        };
        let host = match url.host() {
            None | Some(Host::Domain("")) => return Err(wrong("has no host")),
            Some(host) => host.to_string(),
        };
        if url.query().is_some() || url.fragment().is_some() {
            return Err(wrong("must not have a ? or # (write them as %3F and %23 inside a password)"));
        }
        let mut names = url.path().trim_matches('/').split('/').filter(|name| !name.is_empty());
        let (Some(namespace), Some(database), None) = (names.next(), names.next(), names.next()) else {
            return Err(wrong("must name a namespace and a database after the host"));
        };
        let user = decoded(url.username()).ok_or_else(|| wrong("has a user that is not UTF-8"))?;
        let inside = decoded(url.password().unwrap_or_default())
            .ok_or_else(|| wrong("has a password that is not UTF-8"))?;
        let secret = password.map_or(inside, str::to_owned);
        if user.is_empty() && !secret.is_empty() {
            return Err(wrong("has a password but no user"));
        }
        Ok(Self {
            place: Place::Server(Server { host, port: url.port().unwrap_or(PORT_DEFAULT), tls }),
            namespace: name("namespace", namespace)?,
            database: name("database", database)?,
            user: (!user.is_empty()).then_some((user, secret)),
        })
    }
}

/// An engine within this process, if the URL names one.
#[cfg(feature = "surrealdb-embedded")]
fn engine(text: &str) -> Option<Result<Address, Invalid>> {
    let name = "outlast".to_owned();
    let engine = crate::engine::Engine::named(text)?;
    Some(Ok(Address { place: Place::Engine(engine), namespace: name.clone(), database: name, user: None }))
}

/// An engine within this process, if the URL names one: this build has none.
#[cfg(not(feature = "surrealdb-embedded"))]
fn engine(text: &str) -> Option<Result<Address, Invalid>> {
    let embedded = ["surrealkv://", "mem://"].iter().any(|scheme| text.starts_with(scheme));
    embedded.then(|| {
        Err(Invalid::new(
            "this build has no embedded SurrealDB: build it with the feature surrealdb-embedded",
        ))
    })
}

fn decoded(part: &str) -> Option<String> {
    percent_decode_str(part).decode_utf8().ok().map(Into::into)
}

/// Names go into `DEFINE` statements between backticks, so they must not be able to end them.
fn name(what: &str, part: &str) -> Result<String, Invalid> {
    let name =
        decoded(part).ok_or_else(|| Invalid::new(format!("the {what} in the database URL is not UTF-8")))?;
    if name.chars().any(|c| c.is_control() || matches!(c, '`' | '\\')) {
        return Err(Invalid::new(format!(
            "the {what} in the database URL must not contain `, \\ or control characters"
        )));
    }
    Ok(name)
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.place {
            Place::Server(Server { host, port, tls }) => {
                let scheme = if *tls { "surrealdbs" } else { "surrealdb" };
                write!(f, "{scheme} {host}:{port}/{}/{}", self.namespace, self.database)
            }
            #[cfg(feature = "surrealdb-embedded")]
            Place::Engine(engine) => write!(f, "{engine}"),
        }
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

    fn server(address: &Address) -> (&str, u16, bool) {
        match &address.place {
            Place::Server(Server { host, port, tls }) => (host, *port, *tls),
            #[cfg(feature = "surrealdb-embedded")]
            Place::Engine(_) => panic!("not a server"),
        }
    }

    #[test]
    fn a_url_says_everything() {
        let url = "surrealdb://ro%40ot:p%2Fw%3Aé@db.example:9000/name%20space/data";
        let address = Address::parse(url, None).unwrap();
        assert_eq!(server(&address), ("db.example", 9000, false));
        assert_eq!((address.namespace.as_str(), address.database.as_str()), ("name space", "data"));
        assert_eq!(address.user, Some(("ro@ot".to_owned(), "p/w:é".to_owned())));
        let address = Address::parse("surrealdbs://[::1]/n/d", None).unwrap();
        assert_eq!(server(&address), ("[::1]", 8000, true));
        assert_eq!(address.user, None);
    }

    #[test]
    fn a_password_apart_goes_before_one_inside() {
        let address = Address::parse("surrealdb://root:old@h/n/d", Some("new")).unwrap();
        assert_eq!(address.user, Some(("root".to_owned(), "new".to_owned())));
    }

    #[test]
    fn what_is_missing_is_named() {
        for (url, what) in [
            ("root@host/n/d", "not a URL"),
            ("postgres://host/n/d", "surrealdb://"),
            ("surrealdb:///n/d", "no host"),
            ("surrealdb://host", "namespace and a database"),
            ("surrealdb://host/n", "namespace and a database"),
            ("surrealdb://host/n/d/e", "namespace and a database"),
            ("surrealdb://:secret@host/n/d", "no user"),
            ("surrealdb://host/n/d?x=1", "? or #"),
            ("surrealdb://host/n%60/d", "must not contain"),
        ] {
            let error = Address::parse(url, None).unwrap_err().to_string();
            assert!(error.contains(what), "{url}: {error}");
            assert!(!error.contains("secret"), "{error}");
        }
    }

    #[test]
    fn shown_without_secrets() {
        let address = Address::parse("surrealdb://root:secret@h:8000/n/d", None).unwrap();
        assert_eq!(address.to_string(), "surrealdb h:8000/n/d");
        assert_eq!(format!("{address:?}"), "Address(surrealdb h:8000/n/d)");
    }
}
