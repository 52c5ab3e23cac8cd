//! Promise: nothing is written into a file that no longer stands under the path, a copy put in its place is
//! opened as it is, and two histories are never mixed. Every test meddles with the files of a running database.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test reports by panicking")]

mod common;

use std::fs;

use common::{World, create, other, put};
use outlast::database::{ApplyError, Database, DatabaseError};
use rusqlite::Connection;

/// A complete copy of the database as it is now, beside it.
fn copy(world: &World, name: &str) -> std::path::PathBuf {
    let copy = world.directory.path().join(name);
    world.other().execute("VACUUM INTO ?1", [copy.to_str().unwrap()]).unwrap();
    copy
}

fn is_sound(connection: &Connection) -> bool {
    connection.query_row("PRAGMA integrity_check", [], |row| row.get::<_, String>(0)).unwrap() == "ok"
}

async fn assert_unavailable(world: &mut World) {
    let id = "into the void";
    let result = world.try_apply(&[create("a", id, "{}")]).await;
    assert!(matches!(result, Err(ApplyError::Unavailable(_))), "{result:?}");
    let read = world.database.get(&"a".parse().unwrap(), &id.parse().unwrap()).await;
    assert!(matches!(read, Err(DatabaseError::Unavailable(_))), "{read:?}");
}

#[tokio::test]
async fn an_older_copy_put_back_while_running_is_opened_by_the_next_probe() {
    let mut world = World::new().await;
    world.apply(&[create("a", "old", "{\"n\":1}")]).await;
    let older = copy(&world, "copy.db");
    let position_then = world.stored().await;
    for n in 0..50 {
        world.apply(&[put("a", "old", "{\"n\":2}"), create("a", &format!("new {n}"), "{}")]).await;
    }
    assert!(world.text("a", "new 7").await.is_some());

    fs::rename(&older, world.path()).unwrap();
    assert_unavailable(&mut world).await;
    assert_unavailable(&mut world).await;
    world.database.probe().await.unwrap();
    assert_eq!(world.stored().await, position_then, "the position of the older copy");
    assert_eq!(world.text("a", "old").await.as_deref(), Some("{\"n\":1}"));
    assert_eq!(world.text("a", "new 7").await, None, "the former file's log did not reach the copy");
    assert!(world.directory.path().join("database.db-wal.replaced").exists());

    // What is missing is applied again, as healing does.
    world.position = world.database.take_over(&world.lane, position_then.as_ref(), "owner").await.unwrap();
    world.apply(&[create("a", "new 7", "{}")]).await;
    world.database.close().await;
    let file = other(&world.path());
    assert!(is_sound(&file));
    assert_eq!(file.query_row("SELECT count(*) FROM a", [], |row| row.get::<_, i64>(0)), Ok(2));
}

#[tokio::test]
async fn a_probe_notices_a_replaced_file_without_any_call_before_it() {
    let mut world = World::new().await;
    let older = copy(&world, "copy.db");
    let position_then = world.stored().await;
    world.apply(&[create("a", "1", "{}")]).await;
    world.text("a", "1").await;
    fs::rename(&older, world.path()).unwrap();
    world.database.probe().await.unwrap();
    assert_eq!(world.stored().await, position_then);
    assert_eq!(world.text("a", "1").await, None);
    world.apply_after_take_over("2").await;
}

impl World {
    async fn apply_after_take_over(&mut self, id: &str) {
        let seen = self.stored().await;
        self.position = self.database.take_over(&self.lane, seen.as_ref(), "owner").await.unwrap();
        self.apply(&[create("a", id, "{}")]).await;
        assert!(self.text("a", id).await.is_some());
    }
}

#[tokio::test]
async fn several_replacements_one_after_the_other_are_each_opened() {
    let mut world = World::new().await;
    for round in 0..4 {
        let id = format!("round {round}");
        let older = copy(&world, "copy.db");
        world.apply(&[create("a", &id, "{}")]).await;
        fs::rename(&older, world.path()).unwrap();
        world.database.probe().await.unwrap();
        assert_eq!(world.text("a", &id).await, None);
        world.apply_after_take_over(&id).await;
    }
    world.database.close().await;
    assert!(is_sound(&other(&world.path())));
}

#[tokio::test]
async fn a_file_that_is_gone_is_an_outage_and_is_not_made_anew() {
    let mut world = World::new().await;
    world.apply(&[create("a", "1", "{}")]).await;
    let away = world.directory.path().join("away.db");
    fs::rename(world.path(), &away).unwrap();
    assert_unavailable(&mut world).await;
    assert!(matches!(world.database.probe().await, Err(DatabaseError::Unavailable(_))));
    assert!(!world.path().exists());
    // The same file comes back: nothing was lost.
    fs::rename(&away, world.path()).unwrap();
    world.database.probe().await.unwrap();
    assert_eq!(world.stored().await.as_ref(), Some(&world.position));
    world.apply(&[create("a", "2", "{}")]).await;
    assert!(world.text("a", "1").await.is_some());
}

#[tokio::test]
async fn a_removed_file_that_another_one_follows_is_opened_without_the_former_log() {
    let mut world = World::new().await;
    let older = copy(&world, "copy.db");
    world.apply(&[create("a", "1", "{}")]).await;
    fs::remove_file(world.path()).unwrap();
    assert_unavailable(&mut world).await;
    // On many file systems this gets the number that the removed file had.
    fs::copy(&older, world.path()).unwrap();
    world.database.probe().await.unwrap();
    assert_eq!(world.text("a", "1").await, None);
    world.apply_after_take_over("2").await;
    world.database.close().await;
    assert!(is_sound(&other(&world.path())));
}

#[tokio::test]
async fn an_empty_file_in_its_place_is_a_wiped_database() {
    let mut world = World::new().await;
    world.apply(&[create("a", "1", "{}")]).await;
    let empty = world.directory.path().join("empty.db");
    fs::write(&empty, "").unwrap();
    fs::rename(&empty, world.path()).unwrap();
    world.database.probe().await.unwrap();
    assert_eq!(world.stored().await, None);
    assert_eq!(world.text("a", "1").await, None);
}

#[tokio::test]
async fn a_file_that_is_no_database_is_an_outage_until_a_database_follows() {
    let mut world = World::new().await;
    world.apply(&[create("a", "1", "{}")]).await;
    let whole = copy(&world, "copy.db");
    let noise = world.directory.path().join("noise.db");
    fs::write(&noise, "this is no database, though it is long enough to have a header of one ".repeat(200))
        .unwrap();
    fs::rename(&noise, world.path()).unwrap();
    for _ in 0..2 {
        assert!(matches!(world.database.probe().await, Err(DatabaseError::Unavailable(_))));
        assert_unavailable(&mut world).await;
    }
    fs::rename(&whole, world.path()).unwrap();
    world.database.probe().await.unwrap();
    assert_eq!(world.stored().await.as_ref(), Some(&world.position));
    world.apply(&[create("a", "2", "{}")]).await;
}

#[tokio::test]
async fn a_log_that_is_removed_from_under_the_database_costs_nothing() {
    let mut world = World::new().await;
    world.apply(&[create("a", "1", "{}")]).await;
    fs::remove_file(world.directory.path().join("database.db-wal")).unwrap();
    assert_unavailable(&mut world).await;
    world.database.probe().await.unwrap();
    assert!(world.text("a", "1").await.is_some());
    assert_eq!(world.stored().await.as_ref(), Some(&world.position));
    world.apply(&[create("a", "2", "{}")]).await;
    world.database.close().await;
    assert!(is_sound(&other(&world.path())));
}

#[tokio::test]
async fn a_database_behind_a_link_is_noticed_when_the_link_points_elsewhere() {
    let mut world = World::new().await;
    world.apply(&[create("a", "1", "{}")]).await;
    world.database.close().await;
    let (one, two) = (world.directory.path().join("one.db"), world.directory.path().join("two.db"));
    fs::copy(world.path(), &one).unwrap();
    fs::copy(world.path(), &two).unwrap();
    let link = world.directory.path().join("link.db");
    std::os::unix::fs::symlink(&one, &link).unwrap();
    let options = outlast_sqlite::SqliteOptions::default();
    world.database = std::sync::Arc::new(outlast_sqlite::Sqlite::open(&link, options).unwrap());
    world.apply(&[create("a", "2", "{}")]).await;
    let next = world.directory.path().join("next");
    std::os::unix::fs::symlink(&two, &next).unwrap();
    fs::rename(&next, &link).unwrap();
    assert_unavailable(&mut world).await;
    world.database.probe().await.unwrap();
    assert_eq!(world.text("a", "2").await, None);
    assert!(world.text("a", "1").await.is_some());
}
