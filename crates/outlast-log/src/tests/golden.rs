//! Today's writer gives the bytes of versions 1 and 2: every frame, header, sidecar and epoch of `tests/data` is decoded
//! and encoded again, with the salts, times and keys of the files. Of an encrypted sidecar, which never is the same twice,
//! what it says is compared.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::codec::{Frame, Parsed};
use crate::disk::RealDisk;
use crate::header::HEADER_BYTES;
use crate::inspect::ReadOnlyDisk;
use crate::inventory::{Examined, Listing, examine};
use crate::segment::Layout;
use crate::{Disk, Key, Mark, NewEntry, epochs, sidecar};

fn logs() -> Vec<PathBuf> {
    let data = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data");
    let logs = ["json", "json/dead", "bincode", "bincode/dead"];
    ["v1", "v2"].into_iter().flat_map(|version| logs.map(|log| data.join(version).join(log))).collect()
}

#[test]
fn every_frame_header_sidecar_and_epoch_is_written_as_it_was() {
    let keys: Vec<Key> = ["01", "02"].map(|byte| byte.repeat(32).parse().unwrap()).into();
    let (mut frames, mut sidecars, mut encrypted) = (0, 0, 0);
    for directory in logs() {
        let layout = Layout::new(&directory);
        let listing = Listing::read(&ReadOnlyDisk, &layout).unwrap();
        for (&number, &kept) in &listing.segments {
            let examined = examine(&ReadOnlyDisk, &layout, number, kept, false, &keys).unwrap();
            let Examined::Segment(candidate) = examined else { panic!("segment {number} has a header") };
            let bytes = fs::read(&candidate.path).unwrap();
            let mut header = Vec::new();
            candidate.header.encode(&mut header);
            assert_eq!(header, bytes[..HEADER_BYTES as usize]);
            let codec = candidate.codec.clone();
            let mut rest = &bytes[HEADER_BYTES as usize..];
            while !rest.is_empty() {
                let Parsed::Frame(frame, length) = codec.parse(rest) else {
                    rest = &rest[1..];
                    continue;
                };
                let place = (bytes.len() - rest.len()) as u64;
                let (mut again, mut body) = (Vec::new(), Vec::new());
                match codec.decrypt(frame, place, &mut body).unwrap() {
                    Frame::Entry { sequence, time_ms, origin, body } => {
                        codec.entry(&mut again, sequence, &NewEntry { body, time_ms, origin });
                    }
                    Frame::Mark { kind, target, time_ms, body } => {
                        codec.mark(&mut again, &Mark { kind, target, time_ms, body: body.into() });
                    }
                }
                codec.encrypt(&mut again, 0, place).unwrap();
                assert_eq!(again, rest[..length]);
                encrypted += usize::from(candidate.header.encryption.is_some());
                frames += 1;
                rest = &rest[length..];
            }
            if let Some(found) = candidate.sidecar {
                let is_encrypted = candidate.header.encryption.is_some();
                let said = format!("{found:?}");
                let scratch = tempfile::tempdir().unwrap();
                let path = scratch.path().join("again.index");
                let (segment, ledger, damage) =
                    found.into_segment(codec.clone(), &candidate.path, bytes.len() as u64);
                sidecar::write(&RealDisk, &path, &segment, &ledger, &damage).unwrap();
                if is_encrypted {
                    let again = sidecar::read(&RealDisk, &path).unwrap().decrypt(&codec).unwrap();
                    assert_eq!(format!("{again:?}"), said);
                } else {
                    assert_eq!(fs::read(&path).unwrap(), fs::read(layout.sidecar(number)).unwrap());
                }
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
    assert!(
        frames > 400 && sidecars > 10 && encrypted > 100,
        "{frames} frames, {sidecars} sidecars, {encrypted}"
    );
}
