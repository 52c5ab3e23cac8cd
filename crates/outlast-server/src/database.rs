//! One URL picks the database: from the configuration to an adapter.

use std::sync::Arc;

use outlast::database::{Database, url_scheme};
use outlast_postgres::{Postgres, PostgresOptions};
use outlast_sqlite::{Sqlite, SqliteOptions};
use outlast_surrealdb::{SurrealDb, SurrealOptions};

use crate::config::{DatabaseConfig, Secret};

/// Makes the adapter. It connects later: the server starts also while the database is away. `keeps_order` says whether
/// writes to different records take effect in the order in which they came.
///
/// # Errors
/// A sentence with what is wrong with the URL and what would be right. It never holds the password.
pub fn open(config: &DatabaseConfig, keeps_order: bool) -> Result<Arc<dyn Database>, String> {
    let url = config.url.as_str();
    let scheme = url_scheme(url).map_err(|error| format!("database.url: {error}"))?;
    match scheme.as_str() {
        "sqlite" => {
            let path = &url["sqlite://".len()..];
            if path.contains(['?', '#']) {
                return Err(
                    "database.url: sqlite://PATH takes no options after the path (no ? or #)".to_owned()
                );
            }
            let options = SqliteOptions {
                create_collections: config.create_collections,
                request_timeout: config.request_timeout,
                ..SqliteOptions::default()
            };
            let database = Sqlite::open(path, options).map_err(|error| format!("database.url: {error}"))?;
            Ok(Arc::new(database))
        }
        // The last two are the embedded engine: a build without it says so.
        "surrealdb" | "surrealdbs" | "surrealkv" | "mem" => {
            let options = SurrealOptions {
                create_collections: config.create_collections,
                request_timeout: config.request_timeout,
                connect_timeout: config.connect_timeout,
                password: config.password.as_ref().map(|secret| Secret::expose(secret).to_owned()),
            };
            let database =
                SurrealDb::from_url(url, options).map_err(|error| format!("database.url: {error}"))?;
            Ok(Arc::new(database))
        }
        "postgres" | "postgresql" => {
            let options = PostgresOptions {
                create_collections: config.create_collections,
                request_timeout: config.request_timeout,
                connect_timeout: config.connect_timeout,
                keeps_order,
                password: config.password.as_ref().map(|secret| Secret::expose(secret).to_owned()),
                ..PostgresOptions::default()
            };
            let database =
                Postgres::from_url(url, options).map_err(|error| format!("database.url: {error}"))?;
            Ok(Arc::new(database))
        }
        other => Err(format!(
            "database.url: this build has no adapter for \"{other}\": use sqlite://PATH, \
             postgres://USER:PASSWORD@HOST/DATABASE or surrealdb://USER:PASSWORD@HOST:8000/NAMESPACE/DATABASE"
        )),
    }
}
