//! Lanes: which one a write belongs to, and how far each is. Pure data: no clock, no log, no database.

use outlast_log::Sequence;
use serde::{Deserialize, Serialize};

use crate::write::Write;

/// Which lane brings a write to the database.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Place {
    pub lane: usize,
    /// Its records belong to several lanes, or it does not say which they are: it goes alone, when all lanes have applied
    /// what is before it, and moves the positions of all of them. (If it moved one only, a database that goes back would
    /// take that one along, and the next write of another lane would overtake what is to be applied again.)
    pub alone: bool,
}

/// The place of a write among so many lanes. Restarts must find the same: see docs/format.md.
pub(crate) fn place_of(write: &Write, lanes: usize) -> Place {
    if lanes <= 1 {
        return Place { lane: 0, alone: false };
    }
    let mut places = write.records().map(|record| {
        let hash = fnv(record.collection.as_str().bytes().chain([0]).chain(record.id.as_str().bytes()));
        ((hash ^ (hash >> 32)) % lanes as u64) as usize
    });
    let first = places.next().unwrap_or(0);
    let tells_all = write.operations().iter().all(|operation| !operation.records().is_empty());
    if tells_all && places.all(|other| other == first) {
        Place { lane: first, alone: false }
    } else {
        Place { lane: 0, alone: true }
    }
}

/// FNV-1a with 64 bits: <http://www.isthe.com/chongo/tech/comp/fnv/>.
fn fnv(bytes: impl Iterator<Item = u8>) -> u64 {
    bytes.fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3))
}

/// How far each lane is, as far as is known here: every write of a lane up to there is decided.
#[derive(Debug)]
pub(crate) struct Progress(Vec<Sequence>);

impl Progress {
    /// So many lanes, all of which are there.
    pub(crate) fn new(lanes: usize, at: Sequence) -> Self {
        Self(vec![at; lanes.max(1)])
    }

    pub(crate) fn lanes(&self) -> usize {
        self.0.len()
    }

    pub(crate) fn of(&self, lane: usize) -> Sequence {
        self.0.get(lane).copied().unwrap_or(Sequence::START)
    }

    pub(crate) fn set(&mut self, lane: usize, to: Sequence) {
        if let Some(place) = self.0.get_mut(lane) {
            *place = to;
        }
    }

    /// Up to here every write is decided, whatever lane it belongs to.
    pub(crate) fn lowest(&self) -> Sequence {
        self.0.iter().copied().min().unwrap_or(Sequence::START)
    }

    /// Behind this no write is decided by a position.
    pub(crate) fn highest(&self) -> Sequence {
        self.0.iter().copied().max().unwrap_or(Sequence::START)
    }
}

/// What a note of the cursor says besides where it is: JSON in the mark's body.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct CursorNote {
    /// How many lanes there are.
    #[serde(skip_serializing_if = "is_one")]
    pub lanes: u16,
    /// How often that was changed, oldest first.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub changes: Vec<Change>,
}

impl Default for CursorNote {
    fn default() -> Self {
        Self { lanes: 1, changes: Vec::new() }
    }
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde's signature")]
fn is_one(lanes: &u16) -> bool {
    *lanes == 1
}

/// The number of lanes was changed. A database that comes back from before that is healed with the former number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Change {
    /// Every write up to here was decided by then: the positions of all lanes were set there.
    pub at: crate::write::WriteId,
    /// How many lanes there were before.
    pub before: u16,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::Document;
    use serde_json::Map;

    fn write(ids: &[&str]) -> Write {
        let put = |id: &&str| {
            Write::put(
                "person".parse().unwrap(),
                id.parse().unwrap(),
                Document::from_map(&Map::new()).unwrap(),
            )
        };
        Write::new(ids.iter().flat_map(|id| put(id).operations().to_vec()).collect()).unwrap()
    }

    fn seq(counter: u64) -> Sequence {
        Sequence::new(1, counter).unwrap()
    }

    /// What stands in logs and databases counts on it.
    #[test]
    fn the_lane_of_a_record_never_changes() {
        assert_eq!(fnv(b"foobar".iter().copied()), 0x8594_4171_f739_67e8, "of its authors' test vectors");
        let lanes: Vec<usize> =
            ["ann", "bob", "cid", "dan"].iter().map(|id| place_of(&write(&[id]), 4).lane).collect();
        assert_eq!(lanes, vec![2, 2, 1, 2]);
    }

    #[test]
    fn a_write_over_several_lanes_goes_alone() {
        let of = |ids: &[&str], lanes| place_of(&write(ids), lanes);
        let ids: Vec<String> = (0..100).map(|number| number.to_string()).collect();
        let lane = |id: &str| of(&[id], 3).lane;
        let other = ids.iter().find(|id| lane(id) != lane("0")).unwrap();
        let same = ids.iter().skip(1).find(|id| lane(id) == lane("0")).unwrap();
        assert_eq!(of(&["0", same], 3), Place { lane: lane("0"), alone: false });
        assert_eq!(of(&["0", other], 3), Place { lane: 0, alone: true });
        assert_eq!(of(&["0", other], 1), Place { lane: 0, alone: false });
        assert!(
            (0..3).all(|number| ids.iter().any(|id| lane(id) == number)),
            "every lane has something to do"
        );
    }

    #[test]
    fn the_slowest_lane_says_how_far_all_are() {
        let mut progress = Progress::new(3, seq(5));
        progress.set(1, seq(9));
        assert_eq!((progress.lowest(), progress.highest(), progress.of(1)), (seq(5), seq(9), seq(9)));
        progress.set(0, seq(7));
        progress.set(2, seq(8));
        assert_eq!(progress.lowest(), seq(7));
    }
}
