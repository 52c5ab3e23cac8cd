//! [`Base`]: the database of a drill, which can be taken away and given back.

use std::fs;
use std::io;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use url::Url;

use super::proxy::Proxy;
use crate::cli::Exit;
use crate::cli::output::Failure;
use crate::config::hide_password;

pub(super) enum Base {
    /// SQLite in the drill's own directory: away while the link to its folder leads elsewhere.
    Embedded { directory: PathBuf },
    /// A server of somebody's, behind a proxy: away while that cuts every connection.
    Server { url: String, shown: String, proxy: Proxy },
}

/// The folder that holds the database, the file that stands for its absence, and the link that leads to one of them.
const STORE: &str = "store";
const NOTHING: &str = "nothing";
const LINK: &str = "database";

impl Base {
    pub(super) fn embedded(directory: &Path) -> Result<Self, Failure> {
        let base = Self::Embedded { directory: directory.to_owned() };
        let made = fs::create_dir(directory.join(STORE))
            .and_then(|()| fs::write(directory.join(NOTHING), ""))
            .and_then(|()| point(directory, STORE));
        made.map(|()| base).map_err(|error| Failure::failed(format!("{}: {error}", directory.display())))
    }

    /// Of the server that a URL names; `named` says where that stands. Its port must be reachable.
    pub(super) async fn server(url: &str, named: &str) -> Result<Self, Failure> {
        let refused = |why: &str| Failure::new(Exit::Usage, format!("{named}: {why}"));
        let (mut behind, upstream) = take_apart(url).map_err(refused)?;
        let proxy = Proxy::start(upstream.clone()).await.map_err(|error| {
            Failure::new(
                Exit::Unreachable,
                format!("the database at {upstream} could not be reached: {error}"),
            )
        })?;
        let moved = behind.set_host(Some("127.0.0.1")).is_ok()
            && behind.set_port(Some(proxy.address().port())).is_ok();
        if !moved {
            return Err(refused(FORM));
        }
        Ok(Self::Server { url: behind.into(), shown: hide_password(url), proxy })
    }

    /// `database.url` for the drill's server.
    pub(super) fn url(&self) -> String {
        match self {
            Self::Embedded { directory } => {
                format!("sqlite://{}", directory.join(LINK).join("database.db").display())
            }
            Self::Server { url, .. } => url.clone(),
        }
    }

    /// For people, without a password.
    pub(super) fn shown(&self) -> String {
        match self {
            Self::Embedded { .. } => "SQLite".to_owned(),
            Self::Server { shown, .. } => shown.clone(),
        }
    }

    pub(super) fn take_away(&self) -> Result<(), Failure> {
        self.set_there(false)
    }

    pub(super) fn give_back(&self) -> Result<(), Failure> {
        self.set_there(true)
    }

    /// Connections that were cut, where that is what takes it away.
    pub(super) fn cut(&self) -> Option<u64> {
        match self {
            Self::Embedded { .. } => None,
            Self::Server { proxy, .. } => Some(proxy.cut()),
        }
    }

    fn set_there(&self, there: bool) -> Result<(), Failure> {
        match self {
            Self::Embedded { directory } => point(directory, if there { STORE } else { NOTHING })
                .map_err(|error| Failure::failed(format!("{}: {error}", directory.display()))),
            Self::Server { proxy, .. } => {
                proxy.set_open(there);
                Ok(())
            }
        }
    }
}

/// Leads the link somewhere else in one step: a server that starts in between must not find nothing there, and make a
/// database of its own.
fn point(directory: &Path, target: &str) -> io::Result<()> {
    let next = directory.join("next");
    symlink(target, &next)?;
    fs::rename(next, directory.join(LINK))
}

const FORM: &str = "the drill takes postgres://USER:PASSWORD@HOST:5432/DATABASE or \
                    surrealdb://USER:PASSWORD@HOST:8000/NAMESPACE/DATABASE, with one host: name such an address with \
                    --database";

const SQLITE: &str = "the drill takes the database away, so it makes an SQLite database of its own: leave --database and \
                      --configured out";

const NO_TLS: &str = "the drill puts a proxy between, and a verified TLS connection rightly refuses that: with --database \
                      name an address of the same database without TLS (on its own machine, or through a tunnel), or a \
                      server like it that is for tests";

/// The URL, and the `HOST:PORT` in it.
fn take_apart(text: &str) -> Result<(Url, String), &'static str> {
    // What cannot be read is not repeated: it may hold a password.
    let url = Url::parse(text).map_err(|_| FORM)?;
    let port = match url.scheme() {
        "postgres" | "postgresql" => 5432,
        "surrealdb" => 8000,
        "sqlite" => return Err(SQLITE),
        "surrealdbs" => return Err(NO_TLS),
        _ => return Err(FORM),
    };
    // Outlast verifies with `require`, too.
    let verifies = |mode: &str| mode == "require" || mode.starts_with("verify");
    if url.query_pairs().any(|(name, value)| name == "sslmode" && verifies(&value)) {
        return Err(NO_TLS);
    }
    match url.host_str().filter(|host| !host.is_empty() && !host.contains([',', '%'])) {
        Some(host) => {
            let upstream = format!("{host}:{}", url.port().unwrap_or(port));
            Ok((url, upstream))
        }
        None => Err(FORM),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_a_proxy_can_stand_in_front_of_is_taken() {
        for (url, expected) in [
            ("postgres://u:canary@h/d", "h:5432"),
            ("postgresql://u@[::1]:6000/d?sslmode=prefer", "[::1]:6000"),
            ("surrealdb://u:canary@h/n/d", "h:8000"),
        ] {
            assert_eq!(take_apart(url).unwrap().1, expected);
        }
        for (url, why) in [
            ("sqlite://x.db", "of its own"),
            ("surrealdbs://u:canary@h/n/d", "TLS"),
            ("postgres://u:canary@h/d?sslmode=verify-full", "TLS"),
            ("postgres://u:canary@h/d?sslmode=require", "TLS"),
            ("postgres://u:canary@h1,h2/d", "one host"),
            ("postgres://u:canary@h1:1,h2:2/d", "one host"),
            ("mysql://u:canary@h/d", "the drill takes"),
            ("canary", "the drill takes"),
        ] {
            let said = take_apart(url).unwrap_err();
            assert!(said.contains(why) && !said.contains("canary"), "{url}: {said}");
        }
    }
}
