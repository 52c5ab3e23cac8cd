//! What happened in a simulation, line by line, with the virtual time.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::time::Instant;

/// Shared by everything in one simulation. Two runs of one seed have the same lines.
#[derive(Debug, Clone)]
pub struct Trace {
    begun: Instant,
    lines: Arc<Mutex<Vec<String>>>,
    aloud: bool,
}

impl Trace {
    /// An empty one; its clock begins now. `aloud`: each line is printed, too.
    #[must_use]
    pub fn begin(aloud: bool) -> Self {
        Self { begun: Instant::now(), lines: Arc::default(), aloud }
    }

    /// Adds a line.
    pub fn note(&self, line: impl std::fmt::Display) {
        let seconds = self.begun.elapsed().as_secs_f64();
        let line = format!("{seconds:>9.3}  {line}");
        if self.aloud {
            println!("{line}");
        }
        self.lock().push(line);
    }

    /// How many lines there are so far.
    pub fn lines(&self) -> usize {
        self.lock().len()
    }

    /// One number for all lines: the same in every process.
    pub fn hash(&self) -> u64 {
        let mut hasher = DefaultHasher::new();
        self.lock().hash(&mut hasher);
        hasher.finish()
    }

    fn lock(&self) -> MutexGuard<'_, Vec<String>> {
        self.lines.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
