//! What an open dashboard costs the writes: the same load with none, with one and with many of them.

use std::net::SocketAddr;
use std::thread::JoinHandle;
use std::time::Duration;

use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until, timeout};

use super::Settings;
use super::http::{CPU_EACH, binary, round, start, wait_until_connected};
use super::load::{Answer, Load};
use super::place::{Kind, Place};
use super::report::{Bound, Goal, Section, Table};
use super::stats::{Compare, Contender, Sample, Series, Spread, interleave};
use super::workload::Workload;
use crate::Result;
use crate::server::Server;

/// As `EVERY` in the dashboard's `main.js`.
const EVERY: Duration = Duration::from_secs(2);
/// An event makes `main.js` ask again so soon.
const SOON: Duration = Duration::from_millis(250);
/// Writes a second of the load with a pace.
const PACE: f64 = 5000.0;
/// Rounds with a pace are longer: the kernel counts a process's time in steps of 10 ms.
const PACED_TIMES: u32 = 4;
/// What a crowd of operators opens.
const CROWD: usize = 20;
/// Of throughput, and of the server's time by write.
const COST: f64 = 0.02;
const WARM_UP: Duration = Duration::from_secs(2);

/// Measures.
pub(super) fn measure(settings: &Settings) -> Result<Section> {
    let directory = settings.directory.join("dashboard");
    std::fs::create_dir_all(&directory)?;
    let place = Place::start(Kind::Sqlite, &directory);
    let server = start(&binary()?, &directory, &place.make("dashboard"))?;
    wait_until_connected(&server)?;
    let document = Workload::new()?.document().as_str().to_owned();
    let load = Load::post(server.address(), "/v1/records/bench", &document, 201, settings.callers);
    let paced = load.clone().at(PACE);
    load.run(WARM_UP)?;

    let fast = interleave(contenders(&server, &load, &[0, 1, CROWD]), settings.rounds, settings.time)?;
    let even =
        interleave(contenders(&server, &paced, &[0, 1]), settings.rounds, settings.time * PACED_TIMES)?;
    let connections = settings.callers;
    let title =
        |what: &str| format!("{what}, {} bytes of JSON in a request, applied by SQLite", document.len());
    Ok(Section {
        title: format!("An open dashboard, {connections} connections that write"),
        tables: vec![
            Table::compare(title("As many writes as the server takes"), &fast, 0, Compare::Rate),
            Table::compare(title("5,000 writes a second"), &even, 0, Compare::Rate),
        ],
        goals: goals(&even),
        notes: notes(),
    })
}

fn goals(even: &[Series]) -> Vec<Goal> {
    let throughput = Compare::Rate.ratio(&even[1], &even[0]).map(|measured| Goal {
        what: "throughput under 5,000 writes a second with a dashboard open, as a ratio to that without"
            .to_owned(),
        bound: Bound::AtLeast(1.0 - COST),
        measured,
        unit: "",
    });
    let time = time_each(&even[1], &even[0]).map(|measured| Goal {
        what: "the server's processor time for each of 5,000 writes a second with a dashboard open, as a ratio to that without".to_owned(),
        bound: Bound::AtMost(1.0 + COST),
        measured,
        unit: "",
    });
    throughput.into_iter().chain(time).collect()
}

/// The server's processor time for each write, round by round.
fn time_each(series: &Series, reference: &Series) -> Option<Spread> {
    let each =
        |sample: &Sample| sample.more.iter().find(|(name, _)| *name == CPU_EACH).map(|(_, value)| *value);
    let pairs = series.samples.iter().zip(&reference.samples);
    Spread::of(pairs.filter_map(|(one, other)| Some(each(one)? / each(other)?)))
}

fn notes() -> Vec<String> {
    vec![
        "A dashboard here is a client that sends what the page's main.js sends: it listens to /v1/events, and asks for /v1/queue, /v1/outages and /v1/history every 2 s, and 0.25 s after an event. What a browser needs to draw it is not in here: that is another machine's work.".to_owned(),
        "Under as many writes as the server takes rates and processor times of rounds differ too much to show a cost of some percent.".to_owned(),
        "Each round opens its dashboards anew, so it also has the whole hour of history sent. Callers, dashboards and the database share the server's processors.".to_owned(),
    ]
}

fn contenders<'a>(server: &'a Server, load: &'a Load, dashboards: &[usize]) -> Vec<Contender<'a>> {
    let named = |count: usize| match count {
        0 => "no dashboard".to_owned(),
        1 => "1 dashboard".to_owned(),
        many => format!("{many} dashboards"),
    };
    dashboards
        .iter()
        .map(|&count| {
            Contender::new(named(count), move |time| {
                let open = Dashboards::open(server.address(), count);
                let mut sample = round(server, load, time)?;
                let asked = open.close()?;
                sample.more.push(("asked/s", asked as f64 / time.as_secs_f64()));
                Ok(sample)
            })
        })
        .collect()
}

/// Open pages, in a thread of their own.
struct Dashboards {
    thread: JoinHandle<Result<usize>>,
    close: watch::Sender<bool>,
}

impl Dashboards {
    fn open(server: SocketAddr, count: usize) -> Self {
        let (close, closed) = watch::channel(false);
        let thread = std::thread::spawn(move || {
            tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(async {
                let mut pages = JoinSet::new();
                for _ in 0..count {
                    pages.spawn(page(server, closed.clone()));
                }
                let mut asked = 0;
                while let Some(page) = pages.join_next().await {
                    asked += page??;
                }
                Ok(asked)
            })
        });
        Self { thread, close }
    }

    /// How many requests they have sent.
    fn close(self) -> Result<usize> {
        self.close.send_replace(true);
        self.thread.join().map_err(|_| "a dashboard panicked")?
    }
}

/// One page until it is closed.
async fn page(server: SocketAddr, mut closed: watch::Receiver<bool>) -> Result<usize> {
    let mut events = request(TcpStream::connect(server).await?, server, "/v1/events").await?;
    let mut idle = Vec::new();
    let mut after: Option<i64> = None;
    let mut asked = 1;
    loop {
        let history = after.map_or_else(|| "/v1/history".to_owned(), |at| format!("/v1/history?after={at}"));
        let paths = ["/v1/queue", "/v1/outages", &history];
        // As a browser does: on connections that stay open, all at once.
        while idle.len() < paths.len() {
            idle.push(TcpStream::connect(server).await?);
        }
        let mut asking = JoinSet::new();
        for (stream, path) in idle.drain(..).zip(paths.map(str::to_owned)) {
            asking.spawn(async move { get(stream, server, &path).await.map(|answer| (path, answer)) });
        }
        while let Some(answer) = asking.join_next().await {
            let (path, (stream, body)) = answer??;
            idle.push(stream);
            asked += 1;
            if path.starts_with("/v1/history") {
                let last = body["at"].as_array().and_then(|at| at.last()).and_then(Value::as_i64);
                after = last.or(after);
            }
        }
        if !rest(&mut events, &mut closed).await? {
            return Ok(asked);
        }
    }
}

/// Waits until it is time to ask again; false when the page is closed.
async fn rest(events: &mut TcpStream, closed: &mut watch::Receiver<bool>) -> Result<bool> {
    let mut due = Instant::now() + EVERY;
    let mut bytes = vec![0; 16 << 10];
    loop {
        tokio::select! {
            _ = closed.wait_for(|closed| *closed) => return Ok(false),
            () = sleep_until(due) => return Ok(true),
            read = events.read(&mut bytes) => {
                let read = read?;
                if read == 0 {
                    return Err("the server ended the stream of events".into());
                }
                if bytes[..read].windows(5).any(|window| window == b"data:") {
                    due = due.min(Instant::now() + SOON);
                }
            }
        }
    }
}

async fn request(mut stream: TcpStream, server: SocketAddr, path: &str) -> Result<TcpStream> {
    stream.set_nodelay(true)?;
    stream.write_all(format!("GET {path} HTTP/1.1\r\nHost: {server}\r\n\r\n").as_bytes()).await?;
    Ok(stream)
}

/// The body of an answer.
async fn get(stream: TcpStream, server: SocketAddr, path: &str) -> Result<(TcpStream, Value)> {
    let mut stream = request(stream, server, path).await?;
    let mut bytes = Vec::new();
    loop {
        let read = timeout(Duration::from_secs(30), stream.read_buf(&mut bytes)).await??;
        if let Some(answer) = Answer::parse(&bytes)? {
            let head = bytes.windows(4).position(|window| window == b"\r\n\r\n").map_or(0, |at| at + 4);
            if answer.status != 200 {
                return Err(format!("{path}: {}", answer.status).into());
            }
            return Ok((stream, serde_json::from_slice(&bytes[head..answer.bytes])?));
        }
        if read == 0 {
            return Err(format!("{path}: the server closed the connection in the middle of an answer").into());
        }
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn it_asks_as_the_page_does() {
        let page = include_str!("../../../crates/outlast-server/src/dashboard/main.js");
        for line in [
            "const EVERY = 2000;",
            "  }, 250);",
            "Promise.all([get('v1/queue'), get('v1/outages'), get(`v1/history${last ? `?after=${last}` : ''}`)])",
        ] {
            assert!(page.contains(line), "the page does something else now: {line}");
        }
    }
}
