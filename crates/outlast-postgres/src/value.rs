//! What PostgreSQL cannot hold exactly is refused before the write is accepted.

use outlast::error::Invalid;
use serde_json::{Map, Value};

/// Most digits of a number before and behind the point. `numeric` holds more, but a few bytes such as `1e100000` would
/// come back as a hundred thousand.
const DIGITS_MAX: i64 = 1000;

/// Refuses a document, as JSON text, that `jsonb` would change or refuse: the character U+0000, negative zero and
/// numbers of too many digits.
pub(crate) fn check_json(text: &str) -> Result<(), Invalid> {
    let bytes = text.as_bytes();
    let mut at = 0;
    while let Some(&byte) = bytes.get(at) {
        match byte {
            b'"' => at = end_of_string(text, at)?,
            b'-' | b'0'..=b'9' => {
                let length = bytes[at..].iter().take_while(|byte| is_of_number(**byte)).count();
                check_number(&text[at..at + length])?;
                at += length;
            }
            _ => at += 1,
        }
    }
    Ok(())
}

fn is_of_number(byte: u8) -> bool {
    matches!(byte, b'0'..=b'9' | b'-' | b'+' | b'.' | b'e' | b'E')
}

/// The place behind the string that begins at `start`.
fn end_of_string(text: &str, start: usize) -> Result<usize, Invalid> {
    let bytes = text.as_bytes();
    let mut at = start + 1;
    while let Some(&byte) = bytes.get(at) {
        match byte {
            b'"' => return Ok(at + 1),
            b'\\' if bytes.get(at + 1) == Some(&b'u') => {
                if bytes.get(at + 2..at + 6) == Some(b"0000") {
                    return Err(no_nul());
                }
                at += 2;
            }
            b'\\' => at += 2,
            _ => at += 1,
        }
    }
    Ok(at)
}

fn no_nul() -> Invalid {
    Invalid::new("PostgreSQL cannot hold the character U+0000 in a text: leave it out")
}

fn check_number(text: &str) -> Result<(), Invalid> {
    let (mantissa, exponent) = text.split_once(['e', 'E']).unwrap_or((text, "0"));
    let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    let negative = whole.starts_with('-');
    let whole = whole.trim_start_matches('-').trim_start_matches('0');
    if whole.is_empty() && fraction.bytes().all(|digit| digit == b'0') {
        return if negative {
            Err(Invalid::new(format!("PostgreSQL cannot hold {text} exactly: send 0, or a string")))
        } else {
            Ok(())
        };
    }
    let exponent: i64 = exponent.parse().unwrap_or(i64::MAX / 2);
    let length = |digits: &str| i64::try_from(digits.len()).unwrap_or(i64::MAX / 2);
    let before = length(whole).saturating_add(exponent);
    let behind = length(fraction).saturating_sub(exponent);
    if before > DIGITS_MAX || behind > DIGITS_MAX {
        return Err(Invalid::new(format!(
            "a number has more than {DIGITS_MAX} digits before or behind the point: send it as a string"
        )));
    }
    Ok(())
}

/// Refuses parameters of a statement that the protocol cannot carry.
pub(crate) fn check_parameters(parameters: &Map<String, Value>) -> Result<(), Invalid> {
    let texts = parameters.values().filter_map(Value::as_str);
    if texts.into_iter().any(|text| text.contains('\0')) { Err(no_nul()) } else { Ok(()) }
}

/// Why a column of the type with this object id would not keep a value as it is; `None` when it does, or when the
/// database itself will say so. `scale`: digits behind the point of a `numeric(p, s)`.
pub(crate) fn misfit(type_id: u32, scale: Option<i64>, value: &Value) -> Option<String> {
    const TEXTS: [u32; 3] = [25, 1043, 1042];
    const TIMES: [u32; 4] = [1114, 1184, 1083, 1266];
    match value {
        Value::String(text) if TIMES.contains(&type_id) && fraction_digits(text) > 6 => {
            Some(format!("keeps microseconds, and {text} is more exact"))
        }
        Value::Number(number) => {
            let text = number.to_string();
            let inexact = match type_id {
                701 => !is_same(&text, |text| text.parse::<f64>().ok().map(|float| format!("{float:e}"))),
                700 => !is_same(&text, |text| text.parse::<f32>().ok().map(|float| format!("{float:e}"))),
                1700 => scale.is_some_and(|scale| decimal(&text).is_none_or(|(_, power)| power < -scale)),
                _ => false,
            };
            if TEXTS.contains(&type_id) {
                return Some(format!("holds texts, and {text} is a number: send a string"));
            }
            inexact.then(|| format!("cannot hold {text} exactly"))
        }
        Value::Bool(_) | Value::Array(_) | Value::Object(_) if TEXTS.contains(&type_id) => {
            Some("holds texts: send a string".to_owned())
        }
        _ => None,
    }
}

/// Digits of a second in `12:00:00.1234567+01`.
fn fraction_digits(time: &str) -> usize {
    let Some((_, rest)) = time.split_once(':').and_then(|(_, rest)| rest.split_once('.')) else { return 0 };
    rest.bytes().take_while(u8::is_ascii_digit).count()
}

/// Whether a number means the same after it went through a type of the database.
fn is_same(text: &str, through: impl Fn(&str) -> Option<String>) -> bool {
    through(text).and_then(|after| decimal(&after)).is_some_and(|after| Some(after) == decimal(text))
}

/// The significant digits of a JSON number with its sign, and the power of ten of the last.
fn decimal(text: &str) -> Option<(String, i64)> {
    let (mantissa, exponent) = text.split_once(['e', 'E']).unwrap_or((text, "0"));
    let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    let (sign, whole) = whole.strip_prefix('-').map_or(("", whole), |rest| ("-", rest));
    let digits = format!("{whole}{fraction}");
    if !digits.bytes().all(|digit| digit.is_ascii_digit()) {
        return None;
    }
    let significant = digits.trim_end_matches('0');
    let zeros = i64::try_from(digits.len() - significant.len()).ok()?;
    let power = exponent.parse::<i64>().ok()? - i64::try_from(fraction.len()).ok()? + zeros;
    let significant = significant.trim_start_matches('0');
    Some(if significant.is_empty() { (String::new(), 0) } else { (format!("{sign}{significant}"), power) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_jsonb_would_change_or_refuse_is_refused() {
        for good in [
            r#"{"a":0,"b":0.0,"c":-1,"d":1e999,"e":-0.5,"f":5e-324,"g":0e5}"#,
            r#"{"text":"-0 1e9999 \\u0000 \" -0","in":["\u0001\\"]}"#,
            r#"{"-0":[]}"#,
        ] {
            check_json(good).unwrap_or_else(|error| panic!("{good}: {error}"));
        }
        for bad in [
            r#"{"a":"\u0000"}"#,
            r#"{"a\u0000b":1}"#,
            r#"{"a":["x\\\u0000"]}"#,
            r#"{"a":-0}"#,
            r#"{"a":[{"b":-0.0e3}]}"#,
            r#"{"a":1e1001}"#,
            r#"{"a":1e-1001}"#,
            r#"{"a":1e99999999999999999999}"#,
        ] {
            assert!(check_json(bad).is_err(), "{bad}");
        }
        let long = format!("{{\"a\":{}}}", "9".repeat(1001));
        assert!(check_json(&long).is_err());
    }

    #[test]
    fn a_column_that_would_round_or_retell_a_value_does_not_fit() {
        let misfit = |type_id, scale, json: &str| {
            misfit(type_id, scale, &serde_json::from_str::<Value>(json).unwrap()).is_some()
        };
        // double precision, real, numeric(_, 2), numeric, text, bigint, timestamptz.
        for (type_id, scale, good, bad) in [
            (
                701,
                None,
                &["0.1", "1e300", "9007199254740992", "0", "1.50"][..],
                &["9007199254740993", "0.12345678901234567"][..],
            ),
            (700, None, &["0.1", "16777216"], &["16777217", "0.123456789"]),
            (1700, Some(2), &["1.25", "1.250", "7", "1e3", "0"], &["1.255", "1e-3"]),
            (1700, None, &["0.12345678901234567890123"], &[]),
            (25, None, &["\"x\"", "null"], &["1", "true", "[1]", "{}"]),
            (20, None, &["9223372036854775807", "\"5\""], &[]),
            (
                1184,
                None,
                &["\"2026-01-01T00:00:00.123456Z\"", "\"infinity\""],
                &["\"2026-01-01T00:00:00.1234567Z\""],
            ),
        ] {
            for good in good {
                assert!(!misfit(type_id, scale, good), "{type_id} {good}");
            }
            for bad in bad {
                assert!(misfit(type_id, scale, bad), "{type_id} {bad}");
            }
        }
    }
}
