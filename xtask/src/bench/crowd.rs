//! A thousand connections that never finish what they began, and what honest clients notice of them.

use std::io::Write as _;
use std::net::{SocketAddr, TcpStream};

use super::Settings;
use super::http::{binary, start, wait_until_connected};
use super::load::Load;
use super::place::{Kind, Place};
use super::report::{Bound, Goal, Section, Table};
use super::stats::{Compare, Contender, Series, Spread, interleave};
use super::workload::Workload;
use crate::Result;

const CROWD: usize = 1000;
/// Honest clients, and what they write in a second: far less than the server takes, so that what they wait for is not
/// each other.
const HONEST: usize = 4;
const PACE: f64 = 200.0;
/// Of the 99th percentile.
const COST: f64 = 2.0;
/// Heads and bodies that never end.
const HEAD: &str = "PUT /v1/records/crowd/1 HTTP/1.1\r\nhost: localhost\r\nx-slow: ";
const BODY: &str = "PUT /v1/records/crowd/1 HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n\
                    content-length: 1000000\r\n\r\n{\"a\":\"";

/// Measures.
pub(super) fn measure(settings: &Settings) -> Result<Section> {
    let directory = settings.directory.join("crowd");
    std::fs::create_dir_all(&directory)?;
    let place = Place::start(Kind::Sqlite, &directory);
    let server = start(&binary()?, &directory, &place.make("crowd"))?;
    wait_until_connected(&server)?;
    let document = Workload::new()?.document().as_str().to_owned();
    let load = Load::post(server.address(), "/v1/records/bench", &document, 201, HONEST).at(PACE);
    load.run(settings.time)?;
    let among = |name: &str, begun: Option<&'static str>| {
        let (load, address) = (load.clone(), server.address());
        Contender::new(name, move |time| {
            let crowd = begun.map(|begun| crowd(address, begun)).transpose()?;
            let sample = load.run(time)?;
            drop(crowd);
            Ok(sample)
        })
    };
    let contenders = vec![
        among("nobody else", None),
        among("beside 1,000 heads that do not end", Some(HEAD)),
        among("beside 1,000 bodies that do not end", Some(BODY)),
    ];
    let series = interleave(contenders, settings.rounds, settings.time)?;
    let what = "200 writes a second over 4 connections, applied by SQLite";
    Ok(Section {
        title: "A crowd of half-open connections".to_owned(),
        tables: vec![Table::compare(what, &series, 0, Compare::Median)],
        goals: series[1..].iter().filter_map(|one| goal(one, &series[0])).collect(),
        notes: vec![
            "They are opened before each round, and most of them are still there at its end: the server ends them after server.header_timeout and server.body_timeout. That it does: `outlast-server/tests/hostile/crowd.rs`.".to_owned(),
        ],
    })
}

fn crowd(address: SocketAddr, begun: &str) -> Result<Vec<TcpStream>> {
    let one = || -> Result<TcpStream> {
        let mut stream = TcpStream::connect(address)?;
        stream.write_all(begun.as_bytes())?;
        Ok(stream)
    };
    (0..CROWD).map(|_| one()).collect()
}

/// The 99th percentile to that of nobody else, round by round.
fn goal(series: &Series, reference: &Series) -> Option<Goal> {
    let pairs = series.samples.iter().zip(&reference.samples);
    Some(Goal {
        what: format!("99th percentile of honest clients {}, to that without", series.name),
        bound: Bound::AtMost(COST),
        measured: Spread::of(pairs.filter_map(|(one, other)| Some(one.p99_us? / other.p99_us?)))?,
        unit: "",
    })
}
