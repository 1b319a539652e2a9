//! Cron lines of five fields.

use std::fmt;

use croner::Cron;
use croner::parser::{CronParser, Seconds, Year};
use jiff::tz::TimeZone;
use jiff::{Timestamp, Zoned};

use crate::base::Moment;

/// A cron line that fires now and then: minute, hour, day of month, month, day of week.
#[derive(Clone, Debug)]
pub struct CronLine {
    text: String,
    cron: Cron,
}

impl PartialEq for CronLine {
    fn eq(&self, other: &Self) -> bool {
        self.text == other.text
    }
}

/// Why a text is no usable cron line.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CronError {
    /// Not five fields that cron knows.
    #[error("{0:?} is not a cron line of five fields: {1}")]
    Malformed(String, String),
    /// There is no such day.
    #[error("{0:?} never fires")]
    Never(String),
}

impl CronLine {
    /// Reads a line such as `30 2 * * *`, or a word such as `@daily`.
    pub fn parse(text: &str) -> Result<Self, CronError> {
        let parser = CronParser::builder().seconds(Seconds::Disallowed).year(Year::Disallowed).build();
        let cron = parser.parse(text).map_err(|e| CronError::Malformed(text.to_owned(), e.to_string()))?;
        let line = Self { text: text.to_owned(), cron };
        // In 28 years every combination of date and weekday has been; a century tells of 29 February as well.
        let start = Moment::from_millis(946_684_800_000);
        let first =
            line.next_after(start, &TimeZone::UTC).ok_or_else(|| CronError::Never(text.to_owned()))?;
        let century = std::time::Duration::from_secs(100 * 366 * 86_400);
        if first > start.after(century) { Err(CronError::Never(text.to_owned())) } else { Ok(line) }
    }

    /// The first time after `from` at which it fires by the clocks of `zone`; `None` when there is none.
    ///
    /// A time that is skipped when clocks go forward fires right after the gap; one that comes twice fires once.
    pub fn next_after(&self, from: Moment, zone: &TimeZone) -> Option<Moment> {
        let from = Timestamp::from_millisecond(i64::try_from(from.as_millis()).ok()?).ok()?;
        let next: Zoned = self.cron.find_next_occurrence(&from.to_zoned(zone.clone()), false).ok()?;
        u64::try_from(next.timestamp().as_millisecond()).ok().map(Moment::from_millis)
    }
}

impl fmt::Display for CronLine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn moment(text: &str) -> Moment {
        let time: Timestamp = text.parse().unwrap();
        Moment::from_millis(time.as_millisecond() as u64)
    }

    fn check(line: &str, zone: &str, from: &str, expected: &[&str]) {
        let line = CronLine::parse(line).unwrap();
        let zone = TimeZone::get(zone).unwrap();
        let mut at = moment(from);
        for next in expected {
            at = line.next_after(at, &zone).unwrap();
            assert_eq!(at, moment(next), "{line} in {zone:?}: {at}");
        }
    }

    #[test]
    fn lines_fire_at_local_times() {
        check("30 2 * * *", "UTC", "2026-01-01T02:30:00Z", &["2026-01-02T02:30:00Z"]);
        check("30 2 * * *", "Europe/Berlin", "2026-01-01T00:00:00Z", &["2026-01-01T01:30:00Z"]);
        check("0 0 29 2 *", "UTC", "2026-01-01T00:00:00Z", &["2028-02-29T00:00:00Z"]);
        check(
            "*/15 * * * *",
            "UTC",
            "2026-01-01T00:14:59Z",
            &["2026-01-01T00:15:00Z", "2026-01-01T00:30:00Z"],
        );
    }

    #[test]
    fn a_time_that_the_clock_skips_or_repeats_fires_once() {
        // Berlin: 02:00 becomes 03:00 on 29 March, and 03:00 becomes 02:00 on 25 October.
        let spring = ["2026-03-28T01:30:00Z", "2026-03-29T01:00:00Z", "2026-03-30T00:30:00Z"];
        check("30 2 * * *", "Europe/Berlin", "2026-03-28T00:00:00Z", &spring);
        let autumn = ["2026-10-25T00:30:00Z", "2026-10-26T01:30:00Z"];
        check("30 2 * * *", "Europe/Berlin", "2026-10-24T12:00:00Z", &autumn);
    }

    #[test]
    fn lines_that_say_nothing_or_never_fire_are_refused() {
        for line in ["", "* * * *", "* * * * * *", "61 * * * *", "a b c d e", "0 25 * * *", "* * 32 * *"] {
            assert!(matches!(CronLine::parse(line), Err(CronError::Malformed(..))), "{line}");
        }
        for line in ["0 0 30 2 *", "0 0 31 4,6,9,11 *"] {
            assert_eq!(CronLine::parse(line), Err(CronError::Never(line.to_owned())));
        }
    }
}
