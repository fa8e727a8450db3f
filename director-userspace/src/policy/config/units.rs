//! Numbers with units: durations (`2h5m`, `500ms`) and sizes (`1Mi`, `64Ki`).

use std::{fmt, time::Duration};

use serde::Serializer;

/// Duration units from large to small, with their nanoseconds.
pub(super) const DURATION_UNITS: [(&str, u64); 7] = [
    ("d", 86_400_000_000_000),
    ("h", 3_600_000_000_000),
    ("m", 60_000_000_000),
    ("s", 1_000_000_000),
    ("ms", 1_000_000),
    ("us", 1_000),
    ("ns", 1),
];

/// Size units from small to large, with their factors.
const SIZE_UNITS: [(&str, u64); 4] = [("", 1), ("Ki", 1 << 10), ("Mi", 1 << 20), ("Gi", 1 << 30)];

/// Why a text is no duration or size.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum UnitError {
    /// No unit after the number.
    MissingUnit,
    /// A unit that does not exist.
    UnknownUnit(String),
    /// No number where one must be.
    NotANumber,
    /// Units not in descending order: `5m2h`, or one of them twice.
    Order,
    /// More than fits.
    TooLarge,
}

impl fmt::Display for UnitError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::MissingUnit => f.write_str("has no unit"),
            Self::UnknownUnit(unit) => write!(f, "has an unknown unit, {unit:?}"),
            Self::NotANumber => f.write_str("is not a whole number with a unit"),
            Self::Order => f.write_str("must name each unit once, the largest first"),
            Self::TooLarge => f.write_str("is too large"),
        }
    }
}

/// `2h5m`: whole numbers, each with a unit, the largest first. A plain `0` needs none.
pub fn parse_duration(text: &str) -> Result<Duration, UnitError> {
    if text == "0" {
        return Ok(Duration::ZERO);
    }
    let (mut rest, mut total, mut below) = (text, 0u64, u64::MAX);
    while !rest.is_empty() {
        let (number, unit, tail) = number_and_unit(rest)?;
        if unit.is_empty() {
            return Err(UnitError::MissingUnit);
        }
        let (_, nanos) = *DURATION_UNITS
            .iter()
            .find(|(name, _)| *name == unit)
            .ok_or_else(|| UnitError::UnknownUnit(unit.to_owned()))?;
        if nanos >= below {
            return Err(UnitError::Order);
        }
        let part = number.checked_mul(nanos).ok_or(UnitError::TooLarge)?;
        total = total.checked_add(part).ok_or(UnitError::TooLarge)?;
        (rest, below) = (tail, nanos);
    }
    if below == u64::MAX {
        return Err(UnitError::NotANumber);
    }
    Ok(Duration::from_nanos(total))
}

/// The same for command lines: an error is a sentence.
///
/// # Errors
///
/// What is wrong with the text.
pub fn duration(text: &str) -> Result<Duration, String> {
    parse_duration(text).map_err(|error| format!("{text:?} {error}, such as 500ms, 1s or 2h5m"))
}

/// `1Mi`: one whole number with a binary unit, or a plain number.
pub(super) fn parse_size(text: &str) -> Result<u64, UnitError> {
    let (number, unit, rest) = number_and_unit(text)?;
    if !rest.is_empty() {
        return Err(UnitError::NotANumber);
    }
    let (_, factor) = *SIZE_UNITS
        .iter()
        .find(|(name, _)| *name == unit)
        .ok_or_else(|| UnitError::UnknownUnit(unit.to_owned()))?;
    number.checked_mul(factor).ok_or(UnitError::TooLarge)
}

/// Splits off the leading number and the unit that follows it.
fn number_and_unit(text: &str) -> Result<(u64, &str, &str), UnitError> {
    let split = |s: &'_ str, stop: fn(char) -> bool| s.find(stop).unwrap_or(s.len());
    let (digits, rest) = text.split_at(split(text, |c| !c.is_ascii_digit()));
    if digits.is_empty() {
        return Err(UnitError::NotANumber);
    }
    let (unit, rest) = rest.split_at(split(rest, |c| c.is_ascii_digit()));
    Ok((digits.parse().map_err(|_| UnitError::TooLarge)?, unit, rest))
}

/// As [`parse_duration`] reads it: `2h5m`, and `0s` for nothing.
pub fn format_duration(duration: Duration) -> String {
    let mut rest = u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX);
    let mut text = String::new();
    for (unit, nanos) in DURATION_UNITS {
        if rest >= nanos {
            text += &format!("{}{unit}", rest / nanos);
            rest %= nanos;
        }
    }
    if text.is_empty() { "0s".to_owned() } else { text }
}

/// As [`parse_size`] reads it, in the largest unit that divides it: `1Mi`.
pub fn format_size(size: u64) -> String {
    let divides = |&&(_, factor): &&(&str, u64)| size >= factor && size.is_multiple_of(factor);
    let (unit, factor) = SIZE_UNITS.iter().rev().find(divides).unwrap_or(&SIZE_UNITS[0]);
    format!("{}{unit}", size / factor)
}

/// For `#[serde(serialize_with)]`.
pub(super) fn serialize_duration<S: Serializer>(
    duration: &Duration,
    to: S,
) -> Result<S::Ok, S::Error> {
    to.serialize_str(&format_duration(*duration))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations() {
        for (text, millis) in
            [("2h5m", 7_500_000), ("500ms", 500), ("0", 0), ("0s", 0), ("1d", 86_400_000)]
        {
            assert_eq!(parse_duration(text), Ok(Duration::from_millis(millis)), "{text}");
        }
        let unknown = |unit: &str| UnitError::UnknownUnit(unit.to_owned());
        for (text, error) in [
            ("", UnitError::NotANumber),
            ("s", UnitError::NotANumber),
            ("-5s", UnitError::NotANumber),
            ("1.5s", unknown(".")),
            ("5", UnitError::MissingUnit),
            ("2h5", UnitError::MissingUnit),
            ("5 s", unknown(" s")),
            ("5M", unknown("M")),
            ("5m2h", UnitError::Order),
            ("5m5m", UnitError::Order),
            ("99999999999999999999s", UnitError::TooLarge),
            ("99999999999s", UnitError::TooLarge),
        ] {
            assert_eq!(parse_duration(text), Err(error), "{text:?}");
        }
    }

    #[test]
    fn sizes() {
        for (text, size) in [("1Mi", 1 << 20), ("64Ki", 1 << 16), ("1024", 1024), ("0", 0)] {
            assert_eq!(parse_size(text), Ok(size), "{text}");
        }
        for (text, error) in [
            ("", UnitError::NotANumber),
            ("1M", UnitError::UnknownUnit("M".to_owned())),
            ("1Mi2", UnitError::NotANumber),
            ("99999999999Gi", UnitError::TooLarge),
        ] {
            assert_eq!(parse_size(text), Err(error), "{text:?}");
        }
    }

    #[test]
    fn printed_as_read() {
        for text in ["2h5m", "500ms", "1d1ns", "0s"] {
            assert_eq!(format_duration(parse_duration(text).unwrap()), text);
        }
        for text in ["1Mi", "64Ki", "3", "0", "1025"] {
            assert_eq!(format_size(parse_size(text).unwrap()), text);
        }
    }
}
