//! Idempotency keys, stored in the transaction of the write that has them.

use std::time::Duration;

use outlast::{IdempotencyKey, RefusalKind, WriteId};
use rusqlite::OptionalExtension;

use crate::connection::{Open, milliseconds_now};
use crate::failure::Failure;

/// Most keys forgotten in one transaction: short enough that writes hardly wait.
const PRUNED_AT_ONCE: u32 = 2_000;

/// What storing a key told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Claim {
    /// Nobody had it: the write takes effect.
    New,
    /// This very write had it: it was applied already. (Its row was committed together with its effect.)
    Own,
    /// Another write with the same content had it.
    Duplicate(WriteId),
}

/// Stores the key of a write.
pub(crate) fn claim(open: &Open, key: &IdempotencyKey, id: WriteId) -> Result<Claim, Failure> {
    let stored = open.own(
        "INSERT INTO outlast_keys (key, fingerprint, write_id, at) VALUES (?1, ?2, ?3, ?4) ON CONFLICT (key) DO NOTHING",
        |insert| insert.execute((&key.key, &key.fingerprint, id.to_string(), milliseconds_now())),
    )?;
    if stored == 1 {
        return Ok(Claim::New);
    }
    let (owner, fingerprint) =
        find(open, &key.key)?.ok_or_else(|| Failure::Busy("an idempotency key vanished".into()))?;
    if fingerprint != key.fingerprint {
        return Err(Failure::refused(
            RefusalKind::KeyReused,
            format!("the idempotency key belongs to another write, {owner}"),
        ));
    }
    Ok(if owner == id { Claim::Own } else { Claim::Duplicate(owner) })
}

/// The write that has a key, and its fingerprint.
pub(crate) fn find(open: &Open, key: &str) -> Result<Option<(WriteId, String)>, Failure> {
    let row: Option<(String, String)> = open
        .own("SELECT write_id, fingerprint FROM outlast_keys WHERE key = ?1", |select| {
            select.query_row([key], |row| Ok((row.get(0)?, row.get(1)?))).optional()
        })?;
    let Some((id, fingerprint)) = row else { return Ok(None) };
    let id = id.parse().map_err(|_| {
        Failure::refused(RefusalKind::Other, "a row of outlast_keys does not hold a write id")
    })?;
    Ok(Some((id, fingerprint)))
}

/// Forgets some keys older than `older_than`; returns how many, and whether there may be more.
pub(crate) fn prune(open: &Open, older_than: Duration) -> Result<(u64, bool), Failure> {
    let age = i64::try_from(older_than.as_millis()).unwrap_or(i64::MAX);
    let forgotten = open.own(
        "DELETE FROM outlast_keys WHERE key IN (SELECT key FROM outlast_keys WHERE at < ?1 ORDER BY at LIMIT ?2)",
        |delete| delete.execute((milliseconds_now().saturating_sub(age), PRUNED_AT_ONCE)),
    )?;
    Ok((forgotten as u64, forgotten == PRUNED_AT_ONCE as usize))
}
