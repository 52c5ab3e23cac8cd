//! The bytes of one file: what is durable, and what happened since.

use std::sync::Arc;

use super::medium::{Left, Losses, PowerLoss};

/// A change that is not synced.
#[derive(Debug, Clone)]
enum Unsynced {
    Write { offset: usize, bytes: Arc<[u8]> },
    Size(usize),
}

#[derive(Debug, Clone, Default)]
pub(super) struct File {
    /// What a power loss leaves in any case.
    durable: Arc<Vec<u8>>,
    /// What reads see.
    current: Arc<Vec<u8>>,
    unsynced: Vec<Unsynced>,
    sync_failed: bool,
}

impl File {
    pub(super) fn current(&self) -> &[u8] {
        &self.current
    }

    pub(super) fn write(&mut self, offset: usize, bytes: &Arc<[u8]>) {
        put(Arc::make_mut(&mut self.current), offset, bytes);
        self.unsynced.push(Unsynced::Write { offset, bytes: bytes.clone() });
    }

    pub(super) fn set_size(&mut self, bytes: usize) {
        Arc::make_mut(&mut self.current).resize(bytes, 0);
        self.unsynced.push(Unsynced::Size(bytes));
    }

    /// What was changed since the last sync becomes durable, and only that: pages that a failed sync dropped are clean.
    pub(super) fn sync(&mut self) {
        if self.unsynced.is_empty() {
            return;
        }
        if !self.sync_failed {
            self.durable = self.current.clone();
            self.unsynced.clear();
            return;
        }
        let durable = Arc::make_mut(&mut self.durable);
        for change in self.unsynced.drain(..) {
            match change {
                Unsynced::Write { offset, bytes } => put(durable, offset, &bytes),
                Unsynced::Size(bytes) => durable.resize(bytes, 0),
            }
        }
    }

    /// Any part has become durable, and the kernel forgets the rest.
    pub(super) fn fail_sync(&mut self, seed: u64) {
        let loss = PowerLoss::any(seed);
        let mut random = fastrand::Rng::with_seed(seed);
        self.durable = self.left(loss, &mut random, &mut Losses::default());
        self.unsynced.clear();
        self.sync_failed = true;
    }

    /// Other bytes, durable at once; returns them.
    pub(super) fn rot(&mut self, change: impl FnOnce(&mut Vec<u8>)) -> Arc<[u8]> {
        change(Arc::make_mut(&mut self.current));
        self.durable = self.current.clone();
        self.unsynced.clear();
        self.current[..].into()
    }

    /// The file after a power loss.
    pub(super) fn after_power_loss(
        &self,
        loss: PowerLoss,
        random: &mut fastrand::Rng,
        losses: &mut Losses,
    ) -> Self {
        let durable = self.left(loss, random, losses);
        Self { current: durable.clone(), durable, ..Self::default() }
    }

    fn left(&self, loss: PowerLoss, random: &mut fastrand::Rng, losses: &mut Losses) -> Arc<Vec<u8>> {
        let all = self.unsynced.len();
        if all == 0 {
            return self.durable.clone();
        }
        // A torn write: those before it are whole, those behind it are lost.
        let torn = random.usize(..all);
        let sized = match loss.left {
            Left::Nothing => 0,
            Left::Everything => all,
            Left::Torn => torn + random.usize(..=1),
            Left::Any => random.usize(..=all),
        };
        let mut size = self.durable.len();
        let mut extent = size;
        for (index, change) in self.unsynced.iter().enumerate() {
            let next = match change {
                Unsynced::Write { offset, bytes } => size.max(offset + bytes.len()),
                Unsynced::Size(bytes) => *bytes,
            };
            extent = extent.max(next);
            if index < sized {
                size = next;
            }
        }
        // How many of the changes each sector has seen.
        let mut kept = vec![
            match loss.left {
                Left::Nothing => 0,
                Left::Everything => all,
                Left::Torn | Left::Any => torn,
            };
            extent.div_ceil(loss.sector)
        ];
        match (loss.left, &self.unsynced[torn]) {
            (Left::Torn, Unsynced::Write { offset, bytes }) => {
                let (first, last) = (offset / loss.sector, (offset + bytes.len()).div_ceil(loss.sector));
                kept[first..random.usize(first..=last)].fill(torn + 1);
            }
            (Left::Any, _) => kept.fill_with(|| random.usize(..=all)),
            _ => {}
        }
        let mut left = (*self.durable).clone();
        left.resize(extent, 0);
        for (index, change) in self.unsynced.iter().enumerate() {
            match change {
                Unsynced::Write { offset, bytes } => {
                    write_sectors(&mut left, *offset, bytes, loss.sector, losses, |sector| {
                        index < kept[sector]
                    });
                }
                Unsynced::Size(bytes) if index < sized => left[*bytes..].fill(0),
                Unsynced::Size(_) => losses.sizes += 1,
            }
        }
        left.truncate(size);
        Arc::new(left)
    }
}

/// Writes those sectors that are kept.
fn write_sectors(
    left: &mut [u8],
    offset: usize,
    bytes: &[u8],
    sector: usize,
    losses: &mut Losses,
    kept: impl Fn(usize) -> bool,
) {
    let end = offset + bytes.len();
    let (mut any_kept, mut any_lost) = (false, false);
    let mut start = offset;
    while start < end {
        let next = ((start / sector + 1) * sector).min(end);
        if kept(start / sector) {
            left[start..next].copy_from_slice(&bytes[start - offset..next - offset]);
            any_kept = true;
        } else {
            any_lost = true;
        }
        start = next;
    }
    losses.writes += u64::from(any_lost && !any_kept);
    losses.torn += u64::from(any_lost && any_kept);
}

fn put(to: &mut Vec<u8>, offset: usize, bytes: &[u8]) {
    let end = offset + bytes.len();
    if to.len() < end {
        to.resize(end, 0);
    }
    to[offset..end].copy_from_slice(bytes);
}
