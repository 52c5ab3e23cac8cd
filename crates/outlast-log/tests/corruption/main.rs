//! Every byte of a log is changed, and every file cut at every length: nothing wrong is ever delivered, nothing valid
//! beside the change is lost, and what is lost is named by its exact sequences and kept in `damaged/`.
//!
//! Logs of 64 KiB in both formats, over several segments, with entries and marks. Closed, so that sidecars hide the
//! contents until they are read; and killed without any sidecar, so that opening scans everything. One byte is changed
//! in each segment at a time: each must keep its damage to itself. Of the segments every second one is cut. Encrypted logs
//! are smaller: what is different about them is the same in every segment.

#![allow(clippy::unwrap_used, clippy::panic, reason = "helpers of tests")]

#[path = "../common/mod.rs"]
mod common;
mod cost;
mod sample;

use std::io::Write;
use std::path::Path;

use common::{FORMATS, append, effort, encrypted, options};
use cost::{Change, check};
use outlast_log::{Disk, Format, LogOptions};
use outlast_testkit::disk::SimulatedDisk;
use sample::{End, HEADER_BYTES, QUEUE, Sample, open};

const LOG_BYTES: u64 = 66 * 1024;
const ENCRYPTED_LOG_BYTES: u64 = 20 * 1024;
/// Of bodies, at most.
const BODY_BYTES: usize = 900;

/// Past the harness, which would keep it for itself.
fn report(what: &str, format: Format, end: End, changes: usize) {
    let _ = writeln!(
        std::io::stderr(),
        "{what}: {changes} (a log in {format:?} that was {end:?}); every promise held"
    );
}

fn sample(format: Format, end: End) -> Sample {
    let sample = Sample::new(format, end, LOG_BYTES, BODY_BYTES);
    assert!(sample.segments.len() >= 4 && sample.log_bytes() >= 64 * 1024);
    sample
}

fn encrypted_sample(format: Format, end: End) -> Sample {
    let options = LogOptions { encryption: encrypted(&[1]), ..options(format) };
    let sample = Sample::with(options, end, ENCRYPTED_LOG_BYTES, BODY_BYTES);
    assert!(sample.segments.len() >= 2);
    let text = |segment: &sample::Segment| String::from_utf8_lossy(&segment.bytes).into_owned();
    assert!(sample.segments.iter().map(text).all(|text| !text.contains("xxxx")), "they are encrypted");
    sample
}

fn flip_every_byte(format: Format, end: End) {
    flip_every_byte_of(&sample(format, end));
}

/// One byte of each segment at a time; which bits of it change, changes from byte to byte.
fn flip_every_byte_of(sample: &Sample) {
    let longest = sample.segments.iter().map(|segment| segment.bytes.len()).max().unwrap();
    let mut changes = 0;
    for (at, round) in (0..longest).flat_map(|at| (0..effort() as usize).map(move |round| (at, round))) {
        let mask = [1, 2, 4, 8, 16, 32, 64, 128, 255][(at + round) % 9];
        let flip = |(segment, it): (usize, &sample::Segment)| {
            (at < it.bytes.len()).then_some(Change::Flip { segment, at, mask })
        };
        let flips: Vec<Change> = sample.segments.iter().enumerate().filter_map(flip).collect();
        changes += flips.len();
        check(sample, &flips);
    }
    report("bytes", sample.format, sample.end, changes);
}

fn cut_at_every_length(format: Format, end: End) {
    cut_at_every_length_of(&sample(format, end));
}

fn cut_at_every_length_of(sample: &Sample) {
    let longest = sample.segments.iter().map(|segment| segment.bytes.len()).max().unwrap();
    let mut changes = 0;
    for (length, odd) in (0..longest).flat_map(|length| [(length, 0), (length, 1)]) {
        let cut = |(segment, it): (usize, &sample::Segment)| {
            (segment % 2 == odd && length < it.bytes.len()).then_some(Change::Cut { segment, length })
        };
        let cuts: Vec<Change> = sample.segments.iter().enumerate().filter_map(cut).collect();
        changes += cuts.len();
        check(sample, &cuts);
    }
    report("cuts", sample.format, sample.end, changes);
}

#[test]
fn every_flipped_byte_of_a_closed_json_log_costs_one_frame() {
    flip_every_byte(Format::Json, End::Closed);
}

#[test]
fn every_flipped_byte_of_a_closed_bincode_log_costs_one_frame() {
    flip_every_byte(Format::Bincode, End::Closed);
}

#[test]
fn every_flipped_byte_of_a_killed_json_log_costs_one_frame() {
    flip_every_byte(Format::Json, End::Killed);
}

#[test]
fn every_flipped_byte_of_a_killed_bincode_log_costs_one_frame() {
    flip_every_byte(Format::Bincode, End::Killed);
}

#[test]
fn every_cut_of_a_closed_json_log_costs_what_it_cuts_off() {
    cut_at_every_length(Format::Json, End::Closed);
}

#[test]
fn every_cut_of_a_closed_bincode_log_costs_what_it_cuts_off() {
    cut_at_every_length(Format::Bincode, End::Closed);
}

#[test]
fn every_cut_of_a_killed_json_log_costs_what_it_cuts_off() {
    cut_at_every_length(Format::Json, End::Killed);
}

#[test]
fn every_cut_of_a_killed_bincode_log_costs_what_it_cuts_off() {
    cut_at_every_length(Format::Bincode, End::Killed);
}

#[test]
fn every_flipped_byte_of_an_encrypted_json_log_costs_one_frame() {
    flip_every_byte_of(&encrypted_sample(Format::Json, End::Closed));
}

#[test]
fn every_flipped_byte_of_an_encrypted_bincode_log_costs_one_frame() {
    flip_every_byte_of(&encrypted_sample(Format::Bincode, End::Killed));
}

#[test]
fn every_cut_of_an_encrypted_log_costs_what_it_cuts_off() {
    cut_at_every_length_of(&encrypted_sample(Format::Json, End::Killed));
    cut_at_every_length_of(&encrypted_sample(Format::Bincode, End::Closed));
}

#[test]
fn no_change_to_the_sidecar_of_an_encrypted_segment_costs_anything() {
    for format in FORMATS {
        let sample = encrypted_sample(format, End::Closed);
        let sidecars: Vec<_> = sample.segments.iter().map(sample::Segment::sidecar).collect();
        change_beside(&sample, &sidecars);
    }
}

#[test]
fn every_flipped_bit_of_some_frames_costs_one_frame() {
    for (format, end) in FORMATS.into_iter().flat_map(|format| [(format, End::Closed), (format, End::Killed)])
    {
        let sample = Sample::new(format, end, 2800, 100);
        assert_eq!(sample.segments.len(), 1);
        let places = HEADER_BYTES..sample.segments[0].end();
        for (at, bit) in places.clone().flat_map(|at| (0..8).map(move |bit| (at, bit))) {
            check(&sample, &[Change::Flip { segment: 0, at, mask: 1 << bit }]);
        }
        report("flips", format, end, places.len() * 8);
    }
}

/// The files beside the segments say nothing that cannot be found elsewhere.
#[test]
fn no_change_to_a_sidecar_costs_anything() {
    for format in FORMATS {
        let sample = sample(format, End::Closed);
        let sidecars: Vec<_> = sample.segments.iter().map(sample::Segment::sidecar).collect();
        change_beside(&sample, &sidecars);
    }
}

#[test]
fn no_change_to_the_epochs_costs_anything() {
    for format in FORMATS {
        let sample = sample(format, End::Closed);
        change_beside(&sample, &[Path::new(QUEUE).join("epochs.jsonl")]);
    }
}

/// Flips every byte of these files and cuts them at every length, all at once.
fn change_beside(sample: &Sample, paths: &[std::path::PathBuf]) {
    let original = SimulatedDisk::holding(sample.medium.clone(), 1);
    let files: Vec<Vec<u8>> = paths.iter().map(|path| original.read(path)).collect();
    let longest = files.iter().map(Vec::len).max().unwrap();
    for (at, cut) in (0..longest).flat_map(|at| [(at, false), (at, true)]) {
        let disk = SimulatedDisk::holding(sample.medium.clone(), 1);
        for (path, _) in paths.iter().zip(&files).filter(|(_, bytes)| at < bytes.len()) {
            if cut { disk.truncate(path, at) } else { disk.flip(path, at, (at % 8) as u8) }
        }
        let (log, recovered) = open(&disk, sample.format);
        assert!(
            recovered.damage.iter().all(|damage| damage.segment == 0 && damage.lost.is_none()),
            "{at} {cut}"
        );
        assert!(log.is_owner(&sample.owner), "{at} {cut}");
        let found = cost::Found { disk, log, recovered };
        found.compare(sample, &cost::Cost::default());
    }
}

/// A spare and a recycled file hold nothing yet: whatever stands in them is written over before it counts.
#[test]
fn no_change_to_a_spare_or_recycled_file_costs_anything() {
    for format in FORMATS {
        let sample = sample(format, End::Killed);
        let segments = Path::new(QUEUE).join("segments");
        let spare = segments.join("spare").with_extension(common::extension(format));
        let recycled = segments.join("recycled");
        for at in (0..16 * 1024).step_by(61) {
            let disk = SimulatedDisk::holding(sample.medium.clone(), 1);
            // Yesterday's frames, with a salt of yesterday.
            disk.create(&recycled).unwrap().write_at(&sample.segments[1].bytes, 0).unwrap();
            disk.flip(&recycled, at, (at % 8) as u8);
            disk.flip(&spare, at, (at % 8) as u8);
            let (log, recovered) = open(&disk, format);
            assert_eq!((&recovered.damage, recovered.torn), (&vec![], None), "{at}");
            let more: Vec<String> = (0..40).map(|number| common::body(number, 700)).collect();
            for body in &more {
                append(&log, body);
            }
            log.sync().wait().unwrap();
            let killed = disk.after_kill();
            drop(log);
            let (log, recovered) = open(&killed, format);
            let lost = |damage: &outlast_log::Damage| damage.lost.is_some();
            assert!(!recovered.damage.iter().any(lost), "{at} {:?}", recovered.damage);
            let (entries, _) = common::read(&log, outlast_log::Sequence::START);
            assert_eq!(entries[..sample.entries.len()], sample.entries);
            assert_eq!(common::bodies(&entries[sample.entries.len()..]), more);
        }
    }
}
