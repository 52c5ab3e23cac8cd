//! Reclaiming: segments leave the log from the front, when everything in them is settled and was kept long enough.

use std::io;
use std::path::Path;
use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};

use crate::epochs::now_ms;
use crate::error::is_no_space;
use crate::options::Compression;
use crate::segment::Segment;
use crate::shared::Shared;
use crate::{Failure, Reclaimed, Retention, Sequence};

impl Shared {
    /// See [`Log::reclaim`](crate::Log::reclaim).
    pub(crate) fn reclaim(&self, keep: Retention) -> Result<Reclaimed, Failure> {
        let _one_at_a_time = self.reclaiming.lock().unwrap_or_else(PoisonError::into_inner);
        self.check()?;
        let mut reclaimed = Reclaimed::default();
        while let Some(segment) = self.take_front(keep) {
            if let Err(reason) = self.remove(&segment) {
                self.fail(reason);
                self.check()?;
            }
            reclaimed.segments += 1;
            reclaimed.bytes += segment.bytes();
        }
        Ok(reclaimed)
    }

    /// Takes the first segment out of the list if it may go.
    fn take_front(&self, keep: Retention) -> Option<Arc<Segment>> {
        let settled = Sequence::from_u64(self.settled.load(Ordering::Acquire))?;
        self.change_segments(|segments| {
            let [front, ..] = &segments[..] else { return None };
            let goes = may_go(segments, settled, now_ms(), keep);
            if !goes {
                return None;
            }
            front.set_reclaimed();
            Some(segments.remove(0))
        })
    }

    /// Removes the files. The segment's goes first: a sidecar without its segment is removed at the next opening,
    /// while a segment without its sidecar would be scanned. Its going is durable before the next segment goes, so
    /// that no hole can appear in the log.
    fn remove(&self, segment: &Segment) -> Result<(), String> {
        let layout = &self.layout;
        let explain = |path: &Path| {
            let path = path.display().to_string();
            move |error: io::Error| format!("could not remove {path}: {error}")
        };
        self.give_back_file(segment).map_err(explain(&segment.path))?;
        let sidecar = layout.sidecar(segment.number());
        match self.disk.remove(&sidecar) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(explain(&sidecar)(error)),
            _ => Ok(()),
        }
    }

    /// Takes the name from a file that nobody needs any more, for good. If it fits, the next spare is made of it.
    pub(crate) fn give_back_file(&self, segment: &Segment) -> io::Result<()> {
        let fits = segment.compression() == Compression::None
            && segment.file_bytes.load(Ordering::Relaxed) == self.options.segment_bytes;
        let mut reused = fits && self.keeper().recycled.is_none();
        let recycled = self.layout.recycled();
        if reused {
            match self.disk.rename(&segment.path, &recycled) {
                // A new name takes space on some file systems. Going is what gives it back.
                Err(error) if is_no_space(&error) => reused = false,
                renamed => renamed?,
            }
        }
        if !reused {
            self.disk.remove(&segment.path)?;
        }
        self.disk.sync_directory(&self.layout.segments)?;
        // Only now may the keeper write over it: a power cut could still give it its old name back.
        if reused {
            self.keeper().recycled = Some(recycled);
        }
        Ok(())
    }
}

/// Whether the first of these segments may go.
fn may_go(segments: &[Arc<Segment>], settled: Sequence, now_ms: u64, keep: Retention) -> bool {
    let [front, rest @ ..] = segments else { return false };
    let Some(sealed_at_ms) = front.sealed_at_ms() else { return false };
    if rest.is_empty() || front.last() > settled {
        return false;
    }
    let old = u128::from(now_ms.saturating_sub(sealed_at_ms)) >= keep.time.as_millis();
    let is_settled = |segment: &&Arc<Segment>| segment.sealed_at_ms().is_some() && segment.last() <= settled;
    let bytes: u64 = segments.iter().take_while(is_settled).map(|segment| segment.bytes()).sum();
    old || bytes > keep.bytes
}
