//! How commands fail, and how they print.

use std::fmt::Write as _;
use std::io::{self, Write as _};
use std::sync::OnceLock;

use serde_json::Value;

use super::Exit;
use crate::config::ConfigError;

/// Why a command did not do what was asked.
#[derive(Debug)]
pub(super) struct Failure {
    pub(super) exit: Exit,
    pub(super) message: String,
}

impl Failure {
    pub(super) fn new(exit: Exit, message: impl Into<String>) -> Self {
        Self { exit, message: message.into() }
    }

    pub(super) fn failed(message: impl Into<String>) -> Self {
        Self::new(Exit::Failed, message)
    }
}

impl From<ConfigError> for Failure {
    fn from(error: ConfigError) -> Self {
        let message = match error.mistakes.as_slice() {
            [one] => format!("the configuration is wrong: {one}"),
            _ => format!("the configuration is wrong:\n  {}", error.mistakes.join("\n  ")),
        };
        Self::new(Exit::Config, message)
    }
}

/// The first error of standard output. It is kept here for [`written`], so that no command can forget it.
static UNWRITTEN: OnceLock<io::Error> = OnceLock::new();

/// Prints text to standard output.
pub(super) fn print(text: &str) {
    print_line(text.trim_end_matches('\n'));
}

/// Prints a line of many; false when there is no use in printing more.
pub(super) fn print_line(line: &str) -> bool {
    let mut out = io::stdout().lock();
    is_written(writeln!(out, "{line}").and_then(|()| out.flush()))
}

/// Standard output for JSON that comes in parts.
pub(super) fn json_out() -> Harmless<io::Stdout> {
    Harmless::new(io::stdout())
}

/// Prints a part of JSON; false when there is no use in printing more.
pub(super) fn print_json_part(out: &mut Harmless<io::Stdout>, part: &[u8]) -> bool {
    is_written(out.write_all(part).and_then(|()| out.flush()))
}

/// Prints JSON as it is, one of many lines perhaps; false when there is no use in printing more.
pub(super) fn print_json_text(text: &str) -> bool {
    print_json_part(&mut json_out(), format!("{}\n", text.trim_end_matches('\n')).as_bytes())
}

fn is_written(result: io::Result<()>) -> bool {
    let Err(error) = result else { return true };
    // A reader that has gone (`| head`) has what it wanted.
    if error.kind() != io::ErrorKind::BrokenPipe {
        let _ = UNWRITTEN.set(error);
    }
    false
}

/// Whether everything that was printed has been written: an export that a full disk cut short must not look like a whole
/// one.
pub(super) fn written() -> Result<(), Failure> {
    match UNWRITTEN.get() {
        None => Ok(()),
        Some(error) => Err(Failure::failed(format!(
            "standard output could not be written: {error}; what is there is not whole, and not to be used. Make room for it and run the command again; what it was to change is changed already"
        ))),
    }
}

/// Prints JSON, indented.
pub(super) fn print_json(value: &Value) {
    print_json_text(&serde_json::to_string_pretty(value).unwrap_or_default());
}

/// Passes JSON on with U+007F to U+009F as `\u00XX`, which is the same value. JSON may hold them as they are, and to a
/// terminal U+009B begins a command: what somebody wrote into a record must not reach the one who looks at it.
pub(super) struct Harmless<W> {
    out: W,
    /// The last byte was C2: with the next one it may be such a character.
    begun: bool,
}

impl<W: io::Write> Harmless<W> {
    pub(super) fn new(out: W) -> Self {
        Self { out, begun: false }
    }

    pub(super) fn into_inner(self) -> W {
        self.out
    }
}

impl<W: io::Write> io::Write for Harmless<W> {
    fn write(&mut self, json: &[u8]) -> io::Result<usize> {
        let mut text = Vec::with_capacity(json.len() + 1);
        for &byte in json {
            match (std::mem::replace(&mut self.begun, byte == 0xc2), byte) {
                // In UTF-8 these are C2 and the character's own number.
                (true, 0x80..=0x9f) | (false, 0x7f) => write!(text, "\\u{byte:04x}")?,
                (begun, byte) => {
                    text.extend(begun.then_some(0xc2));
                    text.extend((byte != 0xc2).then_some(byte));
                }
            }
        }
        self.out.write_all(&text)?;
        Ok(json.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}

/// Rows as columns under a heading.
pub(super) fn table(heading: &[&str], rows: &[Vec<String>]) -> String {
    let mut widths: Vec<usize> = heading.iter().map(|cell| cell.chars().count()).collect();
    for row in rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    let mut text = String::new();
    let heading: Vec<String> = heading.iter().map(|cell| (*cell).to_owned()).collect();
    for row in std::iter::once(&heading).chain(rows) {
        let mut line = String::new();
        for (width, cell) in widths.iter().zip(row) {
            let _ = write!(line, "{cell:width$}  ");
        }
        let _ = writeln!(text, "{}", line.trim_end());
    }
    text
}

/// A count with commas between thousands.
pub(super) fn grouped(count: u64) -> String {
    let digits = count.to_string();
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// So many dead letters, in words.
pub(super) fn dead_letters(count: u64) -> String {
    format!("{} dead letter{}", grouped(count), if count == 1 { "" } else { "s" })
}

/// A size as people read it: one decimal place, rounded down.
pub(super) fn size(bytes: u64) -> String {
    let mut unit = "B";
    let mut scaled = bytes as f64;
    for next in ["KiB", "MiB", "GiB", "TiB"] {
        if scaled < 1024.0 {
            break;
        }
        scaled /= 1024.0;
        unit = next;
    }
    if unit == "B" { format!("{bytes} B") } else { format!("{scaled:.1} {unit}") }
}

/// A time as people read it: two units at most.
pub(super) fn span(seconds: f64) -> String {
    let whole = seconds.max(0.0) as u64;
    match whole {
        0..=119 => format!("{whole} s"),
        120..=7199 => format!("{} min {} s", whole / 60, whole % 60),
        7200..=172_799 => format!("{} h {} min", whole / 3600, whole % 3600 / 60),
        _ => format!("{} d {} h", whole / 86_400, whole % 86_400 / 3600),
    }
}

/// Text from elsewhere, without control characters, at most `width` characters.
pub(super) fn safe(text: &str, width: usize) -> String {
    let clean: String = text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    if clean.chars().count() <= width {
        return clean;
    }
    clean.chars().take(width.saturating_sub(1)).chain(std::iter::once('…')).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn json_commands_no_terminal_however_it_is_cut() {
        let text: String = ('\u{20}'..='\u{ff}').filter(|c| !matches!(c, '"' | '\\')).collect();
        let json = json!({ text.clone(): [text, "ü→😀\u{9b}31m\u{1b}"] });
        let raw = json.to_string();
        for size in 1..raw.len() {
            let mut out = Harmless::new(Vec::new());
            raw.as_bytes().chunks(size).for_each(|chunk| out.write_all(chunk).unwrap());
            let harmless = String::from_utf8(out.into_inner()).unwrap();
            assert!(!harmless.chars().any(char::is_control), "{harmless:?}");
            assert!(harmless.contains("ü→😀\\u009b31m\\u001b"), "{harmless}");
            assert_eq!(serde_json::from_str::<Value>(&harmless).unwrap(), json, "in chunks of {size}");
        }
    }

    #[test]
    fn numbers_read_like_prose() {
        assert_eq!(grouped(1_234_567), "1,234,567");
        assert_eq!(grouped(0), "0");
        assert_eq!(size(1536), "1.5 KiB");
        assert_eq!(size(7), "7 B");
        assert_eq!(span(12.9), "12 s");
        assert_eq!(span(3725.0), "62 min 5 s");
        assert_eq!(safe("a\u{1b}[31mb", 10), "a [31mb");
        assert_eq!(safe("abcdef", 4), "abc…");
    }
}
