//! Outlast's own tables and functions: made where the account may, named in full where it may not.

use outlast::database::DatabaseError;

use crate::connection::Connection;
use crate::fault::Meaning;
use crate::flight::{Flight, Landing};
use crate::limits::{Limits, settings};
use crate::position::trouble;

/// In this order. Each can be run again. A function that works otherwise than before needs another name: whether one is
/// there is all that is looked at.
const DEFINITIONS: [&str; 7] = [
    // Room on the page for the next version of a row that changes with every batch.
    "CREATE TABLE IF NOT EXISTS outlast_position (lane text COLLATE \"C\" PRIMARY KEY, sequence bigint NOT NULL, \
     generation bigint NOT NULL, owner text NOT NULL) WITH (fillfactor = 50)",
    "CREATE TABLE IF NOT EXISTS outlast_keys (key text COLLATE \"C\" PRIMARY KEY, fingerprint text NOT NULL, \
     write_id text NOT NULL, at timestamptz NOT NULL DEFAULT clock_timestamp())",
    "CREATE INDEX IF NOT EXISTS outlast_keys_at ON outlast_keys (at)",
    // Makes a statement fail that met too few rows, so that everything behind it is skipped.
    "CREATE OR REPLACE FUNCTION outlast_expect(met bigint, needed bigint) RETURNS boolean LANGUAGE plpgsql AS $f$ \
     BEGIN IF met IS DISTINCT FROM needed THEN RAISE EXCEPTION USING ERRCODE = 'OL001', \
     MESSAGE = format('%s of %s rows', met, needed); END IF; RETURN true; END $f$",
    // Begins a batch.
    concat!(
        "CREATE OR REPLACE FUNCTION outlast_limits(text, text, text) RETURNS void LANGUAGE plpgsql AS $f$ \
         BEGIN PERFORM ",
        settings!(),
        "; END $f$"
    ),
    // Takes a lane's position from what was expected ($3 to $5) to $2. It waits for whoever has the row, and only then
    // looks: a statement that looks for a row with certain values does not wait for one that is about to have them.
    "CREATE OR REPLACE FUNCTION outlast_advance(text, bigint, bigint, bigint, text) RETURNS void LANGUAGE plpgsql AS $f$ \
     BEGIN PERFORM FROM outlast_position WHERE lane = $1 FOR UPDATE; \
     UPDATE outlast_position SET sequence = $2 \
     WHERE lane = $1 AND sequence = $3 AND generation = $4 AND owner = $5; \
     IF NOT FOUND THEN RAISE EXCEPTION USING ERRCODE = 'OL001', MESSAGE = 'the position is another one'; END IF; \
     END $f$",
    // JSON merge patch, RFC 7396.
    "CREATE OR REPLACE FUNCTION outlast_merge(target jsonb, patch jsonb) RETURNS jsonb LANGUAGE plpgsql IMMUTABLE AS $f$ \
     DECLARE merged jsonb; member text; content jsonb; \
     BEGIN IF jsonb_typeof(patch) IS DISTINCT FROM 'object' THEN RETURN patch; END IF; \
     merged := CASE WHEN jsonb_typeof(target) = 'object' THEN target ELSE '{}' END; \
     FOR member, content IN SELECT e.key, e.value FROM jsonb_each(patch) AS e LOOP \
     IF jsonb_typeof(content) = 'null' THEN merged := merged - member; \
     ELSIF jsonb_typeof(content) = 'object' THEN \
     merged := merged || jsonb_build_object(member, outlast_merge(merged -> member, content)); \
     ELSE merged := merged || jsonb_build_object(member, content); END IF; END LOOP; RETURN merged; END $f$",
];

/// Fails when a table is missing, and tells whether all functions are there.
const LOOK: &str = "SELECT to_regprocedure('outlast_expect(bigint,bigint)') IS NOT NULL \
     AND to_regprocedure('outlast_limits(text,text,text)') IS NOT NULL \
     AND to_regprocedure('outlast_advance(text,bigint,bigint,bigint,text)') IS NOT NULL \
     AND to_regprocedure('outlast_merge(jsonb,jsonb)') IS NOT NULL, \
     (SELECT sequence FROM outlast_position LIMIT 1), (SELECT at FROM outlast_keys LIMIT 1)";

/// Looks whether all is there, which touches storage, and makes what is missing if `may_define`.
pub(crate) async fn define_missing(
    connection: &mut Connection,
    may_define: bool,
    limits: Limits,
) -> Result<(), DatabaseError> {
    let look = limits.around(LOOK, &[]).map_err(DatabaseError::Refused)?;
    let missing = match connection.fly(look, limits.deadline).await {
        Ok(Landing::Done(answers)) => {
            let answer =
                answers.iter().rev().nth(1).and_then(|answer| answer.rows.first()?.first()?.as_deref());
            if answer == Some("t") {
                return Ok(());
            }
            "Outlast's functions are missing".to_owned()
        }
        Ok(Landing::Failed(_, fault)) if fault.code == "42P01" => fault.message,
        Ok(Landing::Failed(_, fault)) if fault.code == "42501" => {
            return Err(DatabaseError::Refused(crate::position::rights(&fault)));
        }
        Ok(Landing::Failed(_, fault)) => return Err(trouble(connection, fault).into()),
        Err(lost) => return Err(DatabaseError::Unavailable(lost.into_message())),
    };
    if !may_define {
        return Err(to_be_run(&missing));
    }
    let fault =
        match connection.fly(definitions(limits).map_err(DatabaseError::Refused)?, limits.deadline).await {
            Ok(Landing::Done(_)) => {
                tracing::info!("made the tables and functions that were missing");
                return Ok(());
            }
            Ok(Landing::Failed(_, fault)) => fault,
            Err(lost) => return Err(DatabaseError::Unavailable(lost.into_message())),
        };
    match fault.meaning() {
        Meaning::Refused { .. } => Err(to_be_run(&fault.message)),
        _ => Err(trouble(connection, fault).into()),
    }
}

fn definitions(limits: Limits) -> Result<Flight, String> {
    let mut flight = Flight::default();
    limits.begin(&mut flight)?;
    // One at a time: two that make the same function get in each other's way.
    flight.add("SELECT pg_advisory_xact_lock(hashtext('outlast definitions'))", &[])?;
    for definition in DEFINITIONS {
        flight.add(definition, &[])?;
    }
    flight.add("COMMIT", &[])?;
    Ok(flight)
}

fn to_be_run(reason: &str) -> DatabaseError {
    DatabaseError::Refused(format!(
        "{reason}. Let an owner run: {};\nGRANT SELECT, INSERT, UPDATE, DELETE ON outlast_position, outlast_keys TO the account;",
        DEFINITIONS.join(";\n")
    ))
}
