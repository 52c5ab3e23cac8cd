//! How a database is opened, and what a `sqlite://` URL means.

use std::path::{Path, PathBuf};
use std::time::Duration;

use outlast::Invalid;

/// How [`Sqlite`](crate::Sqlite) behaves. The defaults suit an instance that owns its database.
#[derive(Debug, Clone)]
pub struct SqliteOptions {
    /// Make the table of a collection when the first write to it arrives; otherwise such a write is refused.
    /// Default: true.
    pub create_collections: bool,
    /// How long to wait for a lock that another process holds before the answer is *conflict*. Default: 5 s.
    pub busy_timeout: Duration,
    /// The longest that any call takes. Work that takes longer is broken off and rolled back. Default: 30 s.
    pub request_timeout: Duration,
}

impl Default for SqliteOptions {
    fn default() -> Self {
        Self {
            create_collections: true,
            busy_timeout: Duration::from_secs(5),
            request_timeout: Duration::from_secs(30),
        }
    }
}

/// The path in `sqlite://PATH`: everything after the two slashes, taken literally.
pub(crate) fn path_of_url(url: &str) -> Result<PathBuf, Invalid> {
    let scheme = outlast::database::url_scheme(url)?;
    if scheme != "sqlite" {
        return Err(Invalid::new(format!("\"{scheme}\" is not sqlite: use sqlite://PATH")));
    }
    let path = &url[scheme.len() + "://".len()..];
    if path.contains('?') || path.contains('#') {
        return Err(Invalid::new("sqlite://PATH takes no options after the path (no ? or #)"));
    }
    Ok(PathBuf::from(path))
}

/// An absolute path, which SQLite never reads as one of its `file:` URIs or `:memory:`.
pub(crate) fn check_path(path: &Path) -> Result<PathBuf, Invalid> {
    let text = path.to_string_lossy();
    if text.is_empty() || text.starts_with(':') {
        return Err(Invalid::new(
            "the database needs a path to a file, for example sqlite://outlast-data/database.db",
        ));
    }
    if text.ends_with('/') || text.contains('\0') || path.file_name().is_none() {
        return Err(Invalid::new(format!("\"{}\" does not name a file", text.escape_debug())));
    }
    std::path::absolute(path).map_err(|error| Invalid::new(format!("\"{text}\" is no usable path: {error}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_name_a_path_and_nothing_else() {
        assert_eq!(
            path_of_url("sqlite://outlast-data/database.db").unwrap(),
            Path::new("outlast-data/database.db")
        );
        assert_eq!(path_of_url("SQLite:///var/lib/x.db").unwrap(), Path::new("/var/lib/x.db"));
        for bad in ["database.db", "postgres://x", "sqlite://x.db?mode=memory", "sqlite://x#y"] {
            assert!(path_of_url(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn only_paths_to_files_are_accepted() {
        assert!(check_path(Path::new("file:x?mode=memory")).unwrap().is_absolute());
        for bad in ["", ":memory:", "directory/", "..", "/"] {
            assert!(check_path(Path::new(bad)).is_err(), "{bad}");
        }
    }
}
