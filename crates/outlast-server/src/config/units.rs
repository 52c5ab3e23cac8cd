//! Durations and sizes as people write them: a whole number and a unit, read strictly.

use std::time::Duration;

const DURATION_UNITS: [(&str, u64); 6] =
    [("ms", 1), ("s", 1000), ("min", 60_000), ("m", 60_000), ("h", 3_600_000), ("d", 86_400_000)];
const BYTE_UNITS: [(&str, u64); 9] = [
    ("B", 1),
    ("KiB", 1 << 10),
    ("MiB", 1 << 20),
    ("GiB", 1 << 30),
    ("TiB", 1 << 40),
    ("kB", 1000),
    ("MB", 1_000_000),
    ("GB", 1_000_000_000),
    ("TB", 1_000_000_000_000),
];

/// What is accepted as a duration.
pub const DURATION_ACCEPTED: &str =
    "a duration: a whole number and a unit (ms, s, min or m, h, d), for example 200ms, 30s or 15min";
/// What is accepted as a size.
pub const BYTES_ACCEPTED: &str =
    "a size: a whole number and a unit (B, KiB, MiB, GiB, TiB, kB, MB, GB, TB), for example 512KiB or 1GiB";
/// What is accepted as a count.
pub const COUNT_ACCEPTED: &str = "a whole number, for example 1000 or 1_000_000";

/// Reads a duration such as `30s`, `15min` or `200ms`.
///
/// # Errors
/// With what is accepted, when the text has no unit, another unit, a fraction, or is too long for milliseconds.
pub fn parse_duration(text: &str) -> Result<Duration, String> {
    number_and_unit(text, &DURATION_UNITS)
        .map(Duration::from_millis)
        .ok_or_else(|| format!("\"{text}\" is not {DURATION_ACCEPTED}"))
}

/// Reads a size in bytes such as `1GiB` or `64KiB`.
///
/// # Errors
/// With what is accepted, when the text has no unit, another unit, a fraction, or exceeds 64 bits.
pub fn parse_bytes(text: &str) -> Result<u64, String> {
    number_and_unit(text, &BYTE_UNITS).ok_or_else(|| format!("\"{text}\" is not {BYTES_ACCEPTED}"))
}

/// Reads a count such as `500` or `1_000_000`.
///
/// # Errors
/// With what is accepted, when the text is anything but digits and single underscores between them.
pub fn parse_count(text: &str) -> Result<u64, String> {
    whole_number(text).ok_or_else(|| format!("\"{text}\" is not {COUNT_ACCEPTED}"))
}

/// Writes a duration with the largest unit that says it exactly. Parts of a millisecond are dropped.
pub fn format_duration(duration: Duration) -> String {
    let millis = u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
    format_with(millis, &[("d", 86_400_000), ("h", 3_600_000), ("min", 60_000), ("s", 1000)], "s", "ms")
}

/// Writes a size with the largest binary unit that says it exactly.
pub fn format_bytes(bytes: u64) -> String {
    format_with(bytes, &[("TiB", 1 << 40), ("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)], "B", "B")
}

fn format_with(amount: u64, units: &[(&str, u64)], zero: &str, smallest: &str) -> String {
    if amount == 0 {
        return format!("0{zero}");
    }
    match units.iter().find(|(_, size)| amount.is_multiple_of(*size)) {
        Some((unit, size)) => format!("{}{unit}", amount / size),
        None => format!("{amount}{smallest}"),
    }
}

fn number_and_unit(text: &str, units: &[(&str, u64)]) -> Option<u64> {
    let split = text.find(|c: char| !c.is_ascii_digit() && c != '_')?;
    let (number, unit) = text.split_at(split);
    let size = units.iter().find(|(name, _)| *name == unit.trim_start())?.1;
    whole_number(number)?.checked_mul(size)
}

fn whole_number(text: &str) -> Option<u64> {
    let tidy = text.split('_').all(|group| !group.is_empty() && group.bytes().all(|b| b.is_ascii_digit()));
    if tidy { text.replace('_', "").parse().ok() } else { None }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_reads_back() {
        for text in ["0s", "1ms", "200ms", "30s", "15min", "1h", "1d", "90s", "1500ms"] {
            assert_eq!(format_duration(parse_duration(text).unwrap()), text);
        }
        for text in ["0B", "1B", "1KiB", "1000B", "256MiB", "1GiB", "3TiB"] {
            assert_eq!(format_bytes(parse_bytes(text).unwrap()), text);
        }
        assert_eq!(parse_duration("10m").unwrap(), Duration::from_mins(10));
        assert_eq!(parse_bytes("2 MB").unwrap(), 2_000_000);
        assert_eq!(parse_count("1_000_000").unwrap(), 1_000_000);
    }

    #[test]
    fn anything_loose_is_refused_with_what_is_accepted() {
        for bad in
            ["", "30", "s", "1.5s", "-1s", "1 year", "1S", "30sec", "99999999999999999999s", "_1s", "1__0s"]
        {
            assert!(parse_duration(bad).unwrap_err().contains("for example 200ms"), "{bad}");
        }
        for bad in ["", "1024", "1gib", "1Gi", "1.5GiB", "99999999TiB", "-1B"] {
            assert!(parse_bytes(bad).unwrap_err().contains("for example 512KiB"), "{bad}");
        }
        for bad in ["", "1k", "1_", "-3", "0x10", "1 000"] {
            assert!(parse_count(bad).is_err(), "{bad}");
        }
    }
}
