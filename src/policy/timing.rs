//! When a task that comes again and again runs next.

use std::time::Duration;

use jiff::tz::TimeZone;
use serde::{Deserialize, Serialize};

use super::cron::CronLine;
use super::retry::pause_after;
use crate::base::Moment;

/// How often a task runs.
#[derive(Clone, PartialEq, Debug)]
pub enum Rhythm {
    /// This long after it last began.
    Every(Duration),
    /// At these local times.
    Cron(Box<CronLine>),
}

/// What a scheduler must remember of a task to know when it runs next.
///
/// Invariants, whatever the wall clock does: a time that has passed leads to one run however many were missed; a clock
/// that is set back leads to none, and delays the next one by no more than the rhythm itself.
#[derive(Copy, Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Timing {
    /// When it last began, or when it was first known; never in the future once [`Timing::settle`] has seen the clock.
    pub anchor: Option<Moment>,
    /// Failed tries since it last worked or was given up.
    pub tries: u32,
    /// When it is tried again.
    pub retry_at: Option<Moment>,
}

/// How a run ended.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
pub enum Outcome {
    /// It worked.
    Success,
    /// It failed, and trying again may help.
    Retryable,
    /// It failed, and trying again will not help before something else changes.
    Permanent,
}

/// What follows from it.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
pub enum Verdict {
    /// It worked.
    Done,
    /// It is tried again then.
    Retry(Moment),
    /// It is not tried again before its next regular time.
    GivenUp,
}

impl Timing {
    /// Takes notice of a clock that was set back: what lies in its future now is taken to have happened just now.
    pub fn settle(&mut self, now: Moment) {
        self.anchor = self.anchor.map(|anchor| anchor.min(now));
        let latest = now.after(pause_after(u32::MAX, 0));
        self.retry_at = self.retry_at.map(|at| at.min(latest));
    }

    /// When it runs next: in the past or `now` when it is due. `None` when it never will.
    ///
    /// A task without an anchor is due at once.
    pub fn next(&self, rhythm: &Rhythm, now: Moment, zone: &TimeZone) -> Option<Moment> {
        let regular = match (self.anchor, rhythm) {
            (None, _) => Some(now),
            (Some(anchor), Rhythm::Every(span)) => Some(anchor.after(*span)),
            (Some(anchor), Rhythm::Cron(line)) => line.next_after(anchor, zone),
        };
        match (regular, self.retry_at) {
            (Some(regular), Some(retry)) => Some(regular.min(retry)),
            (regular, retry) => regular.or(retry),
        }
    }

    /// It begins.
    pub fn began(&mut self, now: Moment) {
        self.anchor = Some(now);
        self.retry_at = None;
    }

    /// It ended. After `retries` failed tries beyond the first it is given up until its next regular time.
    pub fn ended(&mut self, now: Moment, outcome: Outcome, retries: u32, seed: u64) -> Verdict {
        self.retry_at = None;
        match outcome {
            Outcome::Success => {
                self.tries = 0;
                Verdict::Done
            }
            Outcome::Retryable if self.tries < retries => {
                self.tries += 1;
                let at = now.after(pause_after(self.tries, seed));
                self.retry_at = Some(at);
                Verdict::Retry(at)
            }
            Outcome::Retryable | Outcome::Permanent => {
                self.tries = 0;
                Verdict::GivenUp
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const HOUR: u64 = 3_600_000;

    fn at(hours: f64) -> Moment {
        Moment::from_millis((1_000_000.0 * HOUR as f64 + hours * HOUR as f64) as u64)
    }

    fn daily() -> Rhythm {
        Rhythm::Every(Duration::from_secs(86_400))
    }

    fn due(timing: &mut Timing, rhythm: &Rhythm, now: Moment) -> bool {
        timing.settle(now);
        timing.next(rhythm, now, &TimeZone::UTC).is_some_and(|next| next <= now)
    }

    #[test]
    fn downtime_and_clocks_that_jump_make_one_run_or_none() {
        let cron = Rhythm::Cron(Box::new(CronLine::parse("0 * * * *").unwrap()));
        // Began at 0 (on the hour for cron); looked at then; due?
        let table = [
            (daily(), 23.9, false),
            (daily(), 24.0, true),
            (daily(), 24.0 * 30.0, true),
            (daily(), -24.0, false),
            (cron.clone(), 0.9, false),
            (cron.clone(), 1.0, true),
            (cron.clone(), 100.0, true),
            (cron, -24.0, false),
        ];
        for (rhythm, hours, expected) in table {
            let mut timing = Timing::default();
            timing.began(at(0.0));
            assert_eq!(due(&mut timing, &rhythm, at(hours)), expected, "{rhythm:?} after {hours} h");
            timing.began(at(hours));
            assert!(
                !due(&mut timing, &rhythm, at(hours + 0.01)),
                "once is enough: {rhythm:?} after {hours} h"
            );
        }
    }

    #[test]
    fn a_clock_that_was_set_back_stalls_nothing() {
        let mut timing = Timing::default();
        timing.began(at(1000.0));
        assert!(!due(&mut timing, &daily(), at(0.0)));
        assert!(due(&mut timing, &daily(), at(24.0)), "a day later by the clock as it is now");
        timing.ended(at(1000.0), Outcome::Retryable, 3, 0);
        assert!(due(&mut timing, &daily(), at(25.1)), "nor does it put off a retry");
    }

    #[test]
    fn only_what_may_work_later_is_tried_again_and_not_for_ever() {
        let mut timing = Timing::default();
        timing.began(at(0.0));
        for (tries, minutes) in [(1, 1), (2, 2), (3, 4)] {
            let verdict = timing.ended(at(0.0), Outcome::Retryable, 3, 0);
            assert_eq!(verdict, Verdict::Retry(at(0.0).after(Duration::from_secs(60 * minutes))));
            assert_eq!(timing.tries, tries);
        }
        assert_eq!(timing.ended(at(0.0), Outcome::Retryable, 3, 0), Verdict::GivenUp);
        assert_eq!(timing.ended(at(0.0), Outcome::Retryable, 0, 0), Verdict::GivenUp);
        assert_eq!(timing.ended(at(0.0), Outcome::Permanent, 3, 0), Verdict::GivenUp);
        assert_eq!((timing.tries, timing.retry_at), (0, None));
        timing.ended(at(0.0), Outcome::Retryable, 3, 0);
        assert_eq!(timing.ended(at(0.0), Outcome::Success, 3, 0), Verdict::Done);
        assert_eq!((timing.tries, timing.retry_at), (0, None));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(300))]

        /// Whatever the clock does: real time between two regular runs is at least the rhythm, less what the clock
        /// jumped forward; and no stretch of real time without jumps that is longer than the rhythm is without a run.
        #[test]
        fn runs_keep_their_distance_and_come(
            steps in prop::collection::vec((1u64..40, prop::option::weighted(0.1, -100i64..100), 0u8..4), 1..200),
        ) {
            let rhythm = Rhythm::Every(Duration::from_millis(10 * HOUR));
            let (mut timing, mut clock, mut real) = (Timing::default(), 10_000 * HOUR, 0u64);
            let (mut last_run, mut forward, mut quiet) = (None::<u64>, 0u64, 0u64);
            for (wait, jump, ending) in steps {
                // Quarter hours pass for the world and for the clock; then somebody may set it.
                let wait = wait * HOUR / 4;
                (clock, real, quiet) = (clock + wait, real + wait, quiet + wait);
                if let Some(hours) = jump {
                    clock = clock.saturating_add_signed(hours * HOUR as i64);
                    forward += u64::try_from(hours).unwrap_or(0) * HOUR;
                    quiet = 0;
                }
                let now = Moment::from_millis(clock);
                let retry = timing.retry_at.is_some();
                if !due(&mut timing, &rhythm, now) {
                    prop_assert!(quiet <= 10 * HOUR, "no run for {quiet} ms of a steady clock");
                    continue;
                }
                if let Some(last) = last_run && !retry {
                    prop_assert!(real - last + forward >= 10 * HOUR, "{} ms after the last", real - last);
                }
                timing.began(now);
                (last_run, forward, quiet) = (Some(real), 0, 0);
                let outcome = [Outcome::Success, Outcome::Success, Outcome::Retryable, Outcome::Permanent];
                timing.ended(now, outcome[usize::from(ending)], 3, u64::from(ending));
                prop_assert!(!due(&mut timing, &rhythm, now), "due again in the same moment");
            }
        }
    }
}
