//! Units people write and read: byte sizes, durations; and the key epoch.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

/// A text that is not a size or duration.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum UnitError {
    /// Not a byte size.
    #[error("{0:?} is not a size (examples: 1048576, 64KiB, 1.5GiB, 20MB)")]
    Size(String),
    /// Not a duration.
    #[error("{0:?} is not a duration (examples: 500ms, 30s, 5m, 24h, 7d, 2w)")]
    Duration(String),
}

/// A number of bytes; reads `1048576`, `64KiB`, `1.5GiB`, `20MB`; prints in binary units.
#[derive(Copy, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Debug, Default)]
pub struct ByteSize(pub u64);

const SIZE_UNITS: [(&str, u64); 15] = [
    ("kib", 1 << 10),
    ("mib", 1 << 20),
    ("gib", 1 << 30),
    ("tib", 1 << 40),
    ("kb", 1_000),
    ("mb", 1_000_000),
    ("gb", 1_000_000_000),
    ("tb", 1_000_000_000_000),
    ("k", 1 << 10),
    ("m", 1 << 20),
    ("g", 1 << 30),
    ("t", 1 << 40),
    ("bytes", 1),
    ("b", 1),
    ("", 1),
];

impl FromStr for ByteSize {
    type Err = UnitError;
    fn from_str(text: &str) -> Result<Self, UnitError> {
        let wrong = || UnitError::Size(text.chars().take(40).collect());
        let (number, unit) = split_number(text).ok_or_else(wrong)?;
        let unit = unit.to_ascii_lowercase();
        let scale = SIZE_UNITS.iter().find(|(name, _)| *name == unit).ok_or_else(wrong)?.1;
        if let Ok(whole) = number.parse::<u64>() {
            return whole.checked_mul(scale).map(Self).ok_or_else(wrong);
        }
        let value = number.parse::<f64>().map_err(|_| wrong())? * scale as f64;
        if value.is_finite() && (0.0..9.0e18).contains(&value) {
            Ok(Self(value as u64))
        } else {
            Err(wrong())
        }
    }
}

impl fmt::Display for ByteSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const NAMES: [&str; 6] = ["B", "KiB", "MiB", "GiB", "TiB", "PiB"];
        let mut value = self.0 as f64;
        let mut unit = 0;
        while value >= 1024.0 && unit + 1 < NAMES.len() {
            value /= 1024.0;
            unit += 1;
        }
        if unit == 0 { write!(f, "{} B", self.0) } else { write!(f, "{value:.1} {}", NAMES[unit]) }
    }
}

impl serde::Serialize for ByteSize {
    fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.serialize_u64(self.0)
    }
}

/// The generation of a vault's sealing keys; 0 at first.
#[derive(Copy, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Debug, Default)]
pub struct Epoch(pub u32);

/// Splits `12.5GiB` into `12.5` and `GiB`; `None` when no number stands first.
fn split_number(text: &str) -> Option<(&str, &str)> {
    let text = text.trim();
    let end = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    (end > 0).then(|| (&text[..end], text[end..].trim()))
}

/// Reads `500ms`, `30s`, `5m`, `24h`, `7d`, `2w`, and sums such as `1h30m`. A bare number is refused: its unit is unclear.
pub fn parse_duration(text: &str) -> Result<Duration, UnitError> {
    let wrong = || UnitError::Duration(text.chars().take(40).collect());
    let mut rest = text.trim();
    if rest == "0" {
        return Ok(Duration::ZERO);
    }
    if rest.is_empty() {
        return Err(wrong());
    }
    let mut total = Duration::ZERO;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit()).ok_or_else(wrong)?;
        let value: u64 = rest[..digits].parse().map_err(|_| wrong())?;
        rest = &rest[digits..];
        let letters = rest.find(|c: char| c.is_ascii_digit()).unwrap_or(rest.len());
        let ms: u64 = match rest[..letters].trim() {
            "ms" => 1,
            "s" => 1_000,
            "m" | "min" => 60_000,
            "h" => 3_600_000,
            "d" => 86_400_000,
            "w" => 604_800_000,
            _ => return Err(wrong()),
        };
        let part = Duration::from_millis(value.checked_mul(ms).ok_or_else(wrong)?);
        total = total.checked_add(part).ok_or_else(wrong)?;
        rest = &rest[letters..];
    }
    Ok(total)
}

/// The shortest exact text that [`parse_duration`] reads back (to the millisecond).
pub fn format_duration(span: Duration) -> String {
    let mut ms = u64::try_from(span.as_millis()).unwrap_or(u64::MAX);
    if ms == 0 {
        return "0s".to_owned();
    }
    let mut text = String::new();
    for (unit, size) in [("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1_000), ("ms", 1)] {
        if ms >= size {
            text.push_str(&format!("{}{unit}", ms / size));
            ms %= size;
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_read_as_people_write_them() {
        let table = [
            ("0", 0),
            ("10", 10),
            ("64KiB", 65_536),
            ("1.5 GiB", 1_610_612_736),
            ("20MB", 20_000_000),
            ("5g", 5 << 30),
        ];
        for (text, bytes) in table {
            assert_eq!(text.parse(), Ok(ByteSize(bytes)), "{text}");
        }
        for bad in ["", "-1", "KiB", "1 XB", "99999999999999999999", "1e5", "20000000 TiB"] {
            assert!(bad.parse::<ByteSize>().is_err(), "{bad}");
        }
    }

    #[test]
    fn durations_round_trip_and_need_a_unit() {
        for (text, ms) in [("24h", 86_400_000), ("1h30m", 5_400_000), ("250ms", 250), ("2w", 1_209_600_000)] {
            let span = parse_duration(text).unwrap();
            assert_eq!(span.as_millis(), ms);
            assert_eq!(parse_duration(&format_duration(span)), Ok(span));
        }
        for bad in ["", "5", "h", "5x", "1h 5", "-3s"] {
            assert!(parse_duration(bad).is_err(), "{bad}");
        }
    }
}
