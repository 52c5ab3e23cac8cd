//! Which calls fail, and what has failed.

use std::io;

/// What a call may come to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum FaultKind {
    /// EIO, from any call. A write has done nothing; a sync has failed.
    Io,
    /// ENOSPC, from calls that need space: writing (a part is written), creating, renaming.
    NoSpace,
    /// Only a part is written, then EIO.
    ShortWrite,
    /// EIO from a sync, of a file or a directory.
    FailedSync,
    /// EIO from reading.
    FailedRead,
}

impl FaultKind {
    /// Every kind.
    pub const ALL: [Self; 5] =
        [Self::Io, Self::NoSpace, Self::ShortWrite, Self::FailedSync, Self::FailedRead];

    fn hits(self, verb: Verb) -> bool {
        match self {
            Self::Io => true,
            Self::NoSpace => matches!(verb, Verb::Write | Verb::Create),
            Self::ShortWrite => verb == Verb::Write,
            Self::FailedSync => verb == Verb::Sync,
            Self::FailedRead => verb == Verb::Read,
        }
    }

    pub(super) fn error(self) -> io::Error {
        match self {
            Self::NoSpace => {
                io::Error::new(io::ErrorKind::StorageFull, "no space left on the simulated disk")
            }
            Self::FailedSync => io::Error::other("the device has failed (a simulated sync)"),
            Self::Io | Self::ShortWrite | Self::FailedRead => {
                io::Error::other("the device has failed (a simulated call)")
            }
        }
    }
}

/// How often.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Repeat {
    /// One call fails.
    Once,
    /// All calls from then on.
    Forever,
}

/// A fault that is to happen.
#[derive(Debug, Clone, Copy)]
pub struct Fault {
    /// What happens.
    pub kind: FaultKind,
    /// So many calls that it could hit go well first.
    pub after: u64,
    /// Once or for ever.
    pub repeat: Repeat,
}

impl Fault {
    /// The next call of its kind fails.
    pub const fn next(kind: FaultKind) -> Self {
        Self { kind, after: 0, repeat: Repeat::Once }
    }

    /// Every call of its kind fails.
    pub const fn always(kind: FaultKind) -> Self {
        Self { kind, after: 0, repeat: Repeat::Forever }
    }

    /// The same after so many more calls that it could hit.
    pub const fn after(mut self, calls: u64) -> Self {
        self.after = calls;
        self
    }
}

/// What has happened, so that a test can see that its faults did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Fired {
    /// Calls that failed with EIO.
    pub io: u64,
    /// Calls that failed with ENOSPC.
    pub no_space: u64,
    /// Writes that were short.
    pub short_writes: u64,
    /// Syncs that failed.
    pub failed_syncs: u64,
    /// Reads that failed.
    pub failed_reads: u64,
    /// Files whose bytes were changed from outside.
    pub rot: u64,
    /// Not a fault of the disk but of its user: syncs of a file on which one had failed.
    pub syncs_after_failure: u64,
}

impl Fired {
    /// Calls that failed, in any way.
    pub const fn errors(&self) -> u64 {
        self.io + self.no_space + self.short_writes + self.failed_syncs + self.failed_reads
    }

    /// Calls that failed in this way.
    pub const fn of(&self, kind: FaultKind) -> u64 {
        match kind {
            FaultKind::Io => self.io,
            FaultKind::NoSpace => self.no_space,
            FaultKind::ShortWrite => self.short_writes,
            FaultKind::FailedSync => self.failed_syncs,
            FaultKind::FailedRead => self.failed_reads,
        }
    }
}

/// What calls have in common that fail alike.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verb {
    Create,
    Remove,
    Read,
    Write,
    Sync,
}

#[derive(Debug, Default)]
pub(super) struct Faults {
    planned: Vec<Fault>,
    pub(super) space_left: Option<u64>,
    pub(super) stalled: bool,
    pub(super) fired: Fired,
    /// By kind of fault: calls that it could have hit.
    calls: [u64; FaultKind::ALL.len()],
}

impl Faults {
    pub(super) fn add(&mut self, fault: Fault) {
        self.planned.push(fault);
    }

    pub(super) fn heal(&mut self) {
        self.planned.clear();
        (self.space_left, self.stalled) = (None, false);
    }

    pub(super) fn calls(&self, kind: FaultKind) -> u64 {
        self.calls[kind as usize]
    }

    /// Counts the call, and says what happens to it.
    pub(super) fn strike(&mut self, verb: Verb) -> Option<FaultKind> {
        for kind in FaultKind::ALL.into_iter().filter(|kind| kind.hits(verb)) {
            self.calls[kind as usize] += 1;
        }
        let mut struck = None;
        self.planned.retain_mut(|fault| {
            if struck.is_some() || !fault.kind.hits(verb) {
                return true;
            }
            if fault.after > 0 {
                fault.after -= 1;
                return true;
            }
            struck = Some(fault.kind);
            fault.repeat == Repeat::Forever
        });
        match struck? {
            FaultKind::Io => self.fired.io += 1,
            FaultKind::NoSpace => self.fired.no_space += 1,
            FaultKind::ShortWrite => self.fired.short_writes += 1,
            FaultKind::FailedSync => self.fired.failed_syncs += 1,
            FaultKind::FailedRead => self.fired.failed_reads += 1,
        }
        struck
    }
}
