//! The rules of the test kit, on a real PostgreSQL server.

#![allow(clippy::unwrap_used, reason = "tests report by panicking")]

mod common;

use std::sync::Arc;

use async_trait::async_trait;
use common::{put, statement};
use outlast::{RecordName, RefusalKind, Write};
use outlast_postgres::{Postgres, PostgresOptions};
use outlast_testkit::conformance::{Fresh, Guarded, Harness};
use outlast_testkit::postgres;
use outlast_testkit::proxy::Proxy;
use serde_json::json;

struct Server;

#[async_trait]
impl Harness for Server {
    async fn fresh(&self) -> Fresh {
        let (server, name) = common::fresh();
        let database = Postgres::from_url(&server.url(&name), PostgresOptions::default()).unwrap();
        Fresh { database: Arc::new(database), keep: Box::new(server) }
    }

    async fn behind_proxy(&self) -> Option<(Fresh, Proxy)> {
        let (server, name) = common::fresh();
        let proxy = Proxy::start(server.authority().parse().unwrap()).await.unwrap();
        let url = postgres::url(&proxy.address().to_string(), &name);
        let database = Postgres::from_url(&url, PostgresOptions::default()).unwrap();
        Some((Fresh { database: Arc::new(database), keep: Box::new(server) }, proxy))
    }

    fn increment(&self, record: &RecordName, by: i64) -> Write {
        let text = format!(
            "UPDATE \"{}\" SET data = jsonb_set(data, '{{n}}', to_jsonb((data->>'n')::bigint + :by::bigint)) WHERE id = $id",
            record.collection
        );
        let parameters = json!({ "id": record.id, "by": by });
        Write::statement(text, parameters.as_object().cloned().unwrap(), vec![record.clone()])
    }

    fn set_text(&self, record: &RecordName, text: &str) -> Write {
        let statement = format!(
            "UPDATE \"{}\" SET data = data || jsonb_build_object('text', :text::text) WHERE id = :id",
            record.collection
        );
        let parameters = json!({ "id": record.id, "text": text });
        Write::statement(statement, parameters.as_object().cloned().unwrap(), vec![record.clone()])
    }

    fn nonsense(&self) -> Write {
        // What begins with a word of no statement is refused at the door.
        statement("SELECT FROM WHERE =", "{}")
    }

    fn guarded(&self) -> Vec<Guarded> {
        let guarded = |ground: &[&str], write, kind, retryable| Guarded {
            ground: ground.iter().map(|text| statement(text, "{}")).collect(),
            write,
            kind,
            retryable,
        };
        let users = "CREATE TABLE users (id text PRIMARY KEY, data jsonb NOT NULL)";
        let parents = "CREATE TABLE parents (id text PRIMARY KEY)";
        vec![
            guarded(
                &[
                    users,
                    "CREATE UNIQUE INDEX email ON users ((data->>'email'))",
                    "INSERT INTO users VALUES ('1', '{\"email\":\"x\"}')",
                ],
                put("users", "2", "{\"email\":\"x\"}"),
                RefusalKind::Constraint,
                false,
            ),
            guarded(
                &[parents, "CREATE TABLE children (id text PRIMARY KEY, parent text REFERENCES parents)"],
                put("children", "1", "{\"parent\":\"nobody\"}"),
                RefusalKind::Constraint,
                true,
            ),
            guarded(
                &[
                    parents,
                    "CREATE TABLE late (id text PRIMARY KEY, \
                    parent text REFERENCES parents DEFERRABLE INITIALLY DEFERRED)",
                ],
                put("late", "1", "{\"parent\":\"nobody\"}"),
                RefusalKind::Constraint,
                true,
            ),
            guarded(
                &["CREATE TABLE narrow (id text PRIMARY KEY, n integer)"],
                put("narrow", "1", "{\"n\":\"text\"}"),
                RefusalKind::Schema,
                false,
            ),
            guarded(
                &["CREATE TABLE needy (id text PRIMARY KEY, n integer NOT NULL)"],
                put("needy", "1", "{}"),
                RefusalKind::Schema,
                false,
            ),
        ]
    }

    fn trespass(&self) -> Write {
        statement("UPDATE outlast_position SET sequence = 0", "{}")
    }
}

outlast_testkit::conformance!(Server);
