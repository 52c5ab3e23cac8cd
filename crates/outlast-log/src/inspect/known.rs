//! `damaged/reported.jsonl`: losses that a repair has reported, so that they are told from new ones ever after.

use std::collections::BTreeSet;
use std::io;

use serde::{Deserialize, Serialize};

use super::Finding;
use crate::checked;
use crate::disk::Disk;
use crate::epochs::now_ms;
use crate::error::OpenError;
use crate::segment::Layout;

/// What was reported.
#[derive(Debug, Default)]
pub(super) struct Known(BTreeSet<String>);

#[derive(Serialize, Deserialize)]
struct Line {
    /// In the words of the report.
    finding: String,
    reported_at_ms: u64,
}

impl Known {
    pub(super) fn read(disk: &dyn Disk, layout: &Layout) -> Result<Self, OpenError> {
        let path = layout.damaged.join("reported.jsonl");
        let bytes = match disk.open(&path).and_then(|file| read_all(&*file)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Self::default()),
            bytes => bytes.map_err(OpenError::io("read", &path))?,
        };
        let lines = bytes.split(|byte| *byte == b'\n').filter_map(checked::from_line::<Line>);
        Ok(Self(lines.map(|line| line.finding).collect()))
    }

    /// Marks it as known if it was reported.
    pub(super) fn recognise(&self, finding: &mut Finding) {
        let reported = self.0.contains(&words(finding));
        if let Finding::Damage { known, .. }
        | Finding::MarksLost { known, .. }
        | Finding::HeaderCopy { known, .. } = finding
        {
            *known |= reported;
        }
    }

    /// Adds these to the file, which is written anew as a whole.
    pub(super) fn report(&self, disk: &dyn Disk, layout: &Layout, findings: &[Finding]) -> io::Result<()> {
        let all: BTreeSet<String> = self.0.iter().cloned().chain(findings.iter().map(words)).collect();
        let mut bytes = Vec::new();
        for finding in all {
            bytes.extend(checked::to_line(&Line { finding, reported_at_ms: now_ms() })?);
            bytes.push(b'\n');
        }
        disk.create_directory(&layout.damaged)?;
        let temporary = layout.damaged.join("reported.jsonl-new");
        let file = disk.create(&temporary)?;
        file.write_at(&bytes, 0)?;
        file.sync()?;
        disk.rename(&temporary, &layout.damaged.join("reported.jsonl"))?;
        disk.sync_directory(&layout.damaged)
    }
}

/// The same before and after it is known, and before and after an unreadable segment was moved away.
fn words(finding: &Finding) -> String {
    let mut finding = finding.clone();
    if let Finding::Damage { damage, .. } = &mut finding
        && damage.segment > 0
        && damage.offset == 0
    {
        damage.bytes = 0;
    }
    if let Finding::Damage { known, .. }
    | Finding::MarksLost { known, .. }
    | Finding::HeaderCopy { known, .. } = &mut finding
    {
        *known = false;
    }
    finding.to_string()
}

fn read_all(file: &dyn crate::disk::DiskFile) -> io::Result<Vec<u8>> {
    let mut bytes = vec![0; usize::try_from(file.size()?).map_err(io::Error::other)?];
    let length = file.read_at(&mut bytes, 0)?;
    bytes.truncate(length);
    Ok(bytes)
}
