//! [`Server`]: the binary `outlast` as a process of its own, and what the kernel says about it.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::Result;

/// How long a server may take to be ready.
const START_LIMIT: Duration = Duration::from_mins(1);
/// Between two looks at a server that is not ready yet.
const LOOK_AGAIN: Duration = Duration::from_millis(1);
/// How often a second the kernel counts a process's time (`USER_HZ`, the same on every Linux that Rust runs on).
const TICKS_PER_SECOND: f64 = 100.0;

/// A running server; killed when it is dropped.
#[derive(Debug)]
pub(crate) struct Server {
    process: Child,
    address: SocketAddr,
    stderr: PathBuf,
    ready_after: Duration,
}

/// The memory of a process, in bytes.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Memory {
    /// Resident now.
    pub(crate) resident: u64,
    /// The most that was ever resident.
    pub(crate) peak: u64,
}

impl Server {
    /// Starts `outlast serve` on a free port of the loopback interface, with these further arguments, in `directory`,
    /// and waits until `/readyz` answers 200.
    pub(crate) fn start(binary: &Path, directory: &Path, arguments: &[&str]) -> Result<Self> {
        let address = unused_address()?;
        let stderr = directory.join("outlast.stderr");
        let started = Instant::now();
        let process = Command::new(binary)
            .args(["serve", "--listen", &address.to_string()])
            .args(arguments)
            .current_dir(directory)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(File::create(&stderr)?)
            .spawn()
            .map_err(|error| format!("{} does not start: {error}", binary.display()))?;
        let mut server = Self { process, address, stderr, ready_after: Duration::ZERO };
        server.wait_until_ready(started)?;
        server.ready_after = started.elapsed();
        Ok(server)
    }

    fn wait_until_ready(&mut self, started: Instant) -> Result<()> {
        loop {
            if self.get("/readyz").is_ok_and(|answer| answer.starts_with("HTTP/1.1 200")) {
                return Ok(());
            }
            if let Some(status) = self.process.try_wait()? {
                return Err(format!("the server has ended: {status}; it said:\n{}", self.said()).into());
            }
            if started.elapsed() > START_LIMIT {
                return Err(format!("not ready within {START_LIMIT:?}; it said:\n{}", self.said()).into());
            }
            std::thread::sleep(LOOK_AGAIN);
        }
    }

    fn said(&self) -> String {
        fs::read_to_string(&self.stderr).unwrap_or_default()
    }

    /// Where it listens.
    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// From its start to the first 200 of `/readyz`.
    pub(crate) fn ready_after(&self) -> Duration {
        self.ready_after
    }

    /// One request on a connection of its own; the whole answer.
    pub(crate) fn get(&self, path: &str) -> Result<String> {
        let mut stream = TcpStream::connect(self.address)?;
        stream.set_read_timeout(Some(Duration::from_secs(5)))?;
        write!(stream, "GET {path} HTTP/1.1\r\nHost: {}\r\nConnection: close\r\n\r\n", self.address)?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        Ok(answer)
    }

    /// The value of a series of `/metrics` without labels.
    pub(crate) fn metric(&self, name: &str) -> Result<f64> {
        let answer = self.get("/metrics")?;
        let value = answer.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        Ok(value.ok_or_else(|| format!("/metrics has no series {name}"))?.trim().parse()?)
    }

    /// Time that it has had a processor for, in seconds.
    pub(crate) fn cpu_seconds(&self) -> Result<f64> {
        cpu_seconds(&self.process.id().to_string())
    }

    /// Its memory.
    pub(crate) fn memory(&mut self) -> Result<Memory> {
        if let Some(status) = self.process.try_wait()? {
            return Err(format!("the server has ended: {status}; it said:\n{}", self.said()).into());
        }
        let status = fs::read_to_string(format!("/proc/{}/status", self.process.id()))?;
        let bytes = |name: &str| -> Result<u64> {
            let line = status.lines().find_map(|line| line.strip_prefix(name));
            let kib = line.and_then(|line| line.trim().strip_suffix("kB")).map(str::trim);
            Ok(kib.ok_or_else(|| format!("/proc has no {name}"))?.parse::<u64>()? * 1024)
        };
        Ok(Memory { resident: bytes("VmRSS:")?, peak: bytes("VmHWM:")? })
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // Only fails when it has ended already.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// Time that a process (a number, or `self`) has had a processor for, in seconds: user and system time together.
pub(crate) fn cpu_seconds(process: &str) -> Result<f64> {
    let stat = fs::read_to_string(format!("/proc/{process}/stat"))?;
    // The name before the last parenthesis may hold anything; the fields behind it are numbers. utime and stime are
    // the 14th and 15th of all, see proc_pid_stat(5).
    let fields = stat.rsplit_once(')').map_or("", |(_, rest)| rest).split_whitespace();
    let ticks: Vec<u64> = fields.skip(11).take(2).map(str::parse).collect::<std::result::Result<_, _>>()?;
    Ok(ticks.iter().sum::<u64>() as f64 / TICKS_PER_SECOND)
}

/// An address of the loopback interface where nobody listens.
pub(crate) fn unused_address() -> Result<SocketAddr> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_time_of_this_process_is_read_from_the_kernel() {
        let before = cpu_seconds("self").unwrap();
        let deadline = Instant::now() + Duration::from_secs(30);
        while cpu_seconds("self").unwrap() <= before {
            assert!(Instant::now() < deadline, "the time of a busy process does not grow");
        }
    }
}
