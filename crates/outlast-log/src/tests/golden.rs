//! Today's writer gives the bytes of version 1: every frame, header, sidecar and epoch of `tests/data/v1` is decoded
//! and encoded again, with the salts and times that are in the files.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::codec::{Frame, Parsed};
use crate::disk::RealDisk;
use crate::header::HEADER_BYTES;
use crate::inspect::ReadOnlyDisk;
use crate::inventory::{Examined, Listing, examine};
use crate::segment::Layout;
use crate::{Disk, Mark, NewEntry, epochs, sidecar};

fn logs() -> Vec<PathBuf> {
    let data = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/v1");
    ["json", "json/dead", "bincode", "bincode/dead"].into_iter().map(|name| data.join(name)).collect()
}

#[test]
fn every_frame_header_sidecar_and_epoch_of_version_1_is_written_as_it_was() {
    let (mut frames, mut sidecars) = (0, 0);
    for directory in logs() {
        let layout = Layout::new(&directory);
        let listing = Listing::read(&ReadOnlyDisk, &layout).unwrap();
        for (&number, &kept) in &listing.segments {
            let examined = examine(&ReadOnlyDisk, &layout, number, kept, false).unwrap();
            let Examined::Segment(candidate) = examined else { panic!("segment {number} has a header") };
            let bytes = fs::read(&candidate.path).unwrap();
            let mut header = Vec::new();
            candidate.header.encode(&mut header);
            assert_eq!(header, bytes[..HEADER_BYTES as usize]);
            let codec = candidate.header.codec(candidate.format);
            let mut rest = &bytes[HEADER_BYTES as usize..];
            while !rest.is_empty() {
                let Parsed::Frame(frame, length) = codec.parse(rest) else {
                    rest = &rest[1..];
                    continue;
                };
                let mut again = Vec::new();
                match frame {
                    Frame::Entry { sequence, time_ms, origin, body } => {
                        codec.entry(&mut again, sequence, &NewEntry { body, time_ms, origin });
                    }
                    Frame::Mark { kind, target, time_ms, body } => {
                        codec.mark(&mut again, &Mark { kind, target, time_ms, body: body.into() });
                    }
                }
                assert_eq!(again, rest[..length]);
                frames += 1;
                rest = &rest[length..];
            }
            if let Some(found) = candidate.sidecar {
                let scratch = tempfile::tempdir().unwrap();
                let path = scratch.path().join("again.index");
                let (segment, ledger, damage) =
                    found.into_segment(candidate.format, &candidate.path, bytes.len() as u64);
                sidecar::write(&RealDisk, &path, &segment, &ledger, &damage).unwrap();
                assert_eq!(fs::read(&path).unwrap(), fs::read(layout.sidecar(number)).unwrap());
                sidecars += 1;
            }
        }
        let recorded = epochs::read(&ReadOnlyDisk, &layout).unwrap();
        let scratch = tempfile::tempdir().unwrap();
        let again = Layout::new(scratch.path());
        let disk: Arc<dyn Disk> = Arc::new(RealDisk);
        epochs::rewrite(&*disk, &again, recorded.queue.unwrap(), &recorded.epochs).unwrap();
        assert_eq!(fs::read(again.epochs()).unwrap(), fs::read(layout.epochs()).unwrap());
    }
    assert!(frames > 200 && sidecars > 5, "{frames} frames, {sidecars} sidecars");
}
