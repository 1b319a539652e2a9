//! How much may flow: so many units a second, and some at once after a rest.

use std::num::NonZeroU64;
use std::time::Duration;

/// A bucket that is paid afterwards: whatever its size, something passes as soon as all that passed before is paid for. So
/// nothing is too large for ever, and in the long run no more flows than was said, and no less while somebody waits.
///
/// `now` is the time since any fixed moment of a clock that is never set.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Flow {
    per_second: NonZeroU64,
    /// How far ahead of what is paid for something may still pass.
    credit: Duration,
    /// When everything that passed will be paid for.
    paid: Duration,
}

impl Flow {
    /// `per_second` units, and after a rest up to `burst` at once.
    pub fn new(per_second: NonZeroU64, burst: u64) -> Self {
        let mut flow = Self { per_second, credit: Duration::ZERO, paid: Duration::ZERO };
        flow.credit = flow.time_of(burst.saturating_sub(1));
        flow
    }

    /// How long until something may pass; nothing is charged.
    pub fn wait(&self, now: Duration) -> Duration {
        self.paid.saturating_sub(now.saturating_add(self.credit))
    }

    /// Something passes.
    pub fn charge(&mut self, now: Duration, units: u64) {
        let time = self.time_of(units);
        self.paid = self.paid.max(now).saturating_add(time);
    }

    /// So much of what was charged did not pass after all.
    pub fn give_back(&mut self, units: u64) {
        self.paid = self.paid.saturating_sub(self.time_of(units));
    }

    /// Whether it is as good as new.
    pub fn is_rested(&self, now: Duration) -> bool {
        self.paid <= now
    }

    fn time_of(&self, units: u64) -> Duration {
        let nanos = u128::from(units) * 1_000_000_000 / u128::from(self.per_second.get());
        Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const T0: Duration = Duration::from_secs(1000);

    fn flow(per_second: u64, burst: u64) -> Flow {
        Flow::new(NonZeroU64::new(per_second).unwrap(), burst)
    }

    #[test]
    fn so_many_pass_at_once_after_a_rest_and_then_one_after_the_other() {
        for burst in [1, 3, 200] {
            let mut flow = flow(2, burst);
            let at_once = (0..1000).take_while(|_| {
                let passes = flow.wait(T0).is_zero();
                flow.charge(T0, u64::from(passes));
                passes
            });
            assert_eq!(at_once.count() as u64, burst);
            assert_eq!(flow.wait(T0), Duration::from_millis(500));
            assert!(!flow.is_rested(T0) && flow.is_rested(T0 + Duration::from_secs(burst)));
        }
    }

    /// A request above the burst failed for ever, and one that was refused had waited in vain.
    #[test]
    fn who_waits_gets_the_whole_rate_whatever_the_sizes() {
        for (per_second, size) in [(1, 65_536), (1000, 1 << 20), (100 << 10, 1 << 20), (2 << 20, 65_536)] {
            let (mut flow, mut now, mut passed) = (flow(per_second, per_second), T0, 0);
            for _ in 0..400 {
                now += flow.wait(now);
                flow.charge(now, size);
                passed += size;
            }
            now += flow.wait(now);
            let fair = (now - T0).as_secs_f64() * per_second as f64;
            let over = passed as f64 - fair;
            // At once, and the last one, which is still to be paid for.
            let most = (per_second + size) as f64;
            assert!(
                (-1.0..=most).contains(&over),
                "{per_second} a second in parts of {size}: {over} over {fair}"
            );
        }
    }

    #[test]
    fn what_did_not_pass_costs_nothing_and_an_unused_past_no_more_than_the_burst() {
        let mut flow = flow(10, 10);
        flow.charge(T0, 10);
        flow.charge(T0, 20);
        flow.give_back(20);
        assert_eq!(flow.wait(T0), Duration::from_millis(100));
        flow.give_back(1000);
        flow.charge(T0, 20);
        assert_eq!(flow.wait(T0), Duration::from_millis(1100), "as if nothing had passed before");
        assert!(flow.wait(Duration::ZERO) > T0, "time is given, and begins anywhere");
        let mut young = Flow::new(NonZeroU64::MIN, 3);
        (0..3).for_each(|_| young.charge(Duration::ZERO, 1));
        assert_eq!(young.wait(Duration::ZERO), Duration::from_secs(1));
        // The largest numbers there are.
        flow.charge(T0, u64::MAX);
        assert!(flow.wait(T0) > T0);
        assert!(Flow::new(NonZeroU64::MAX, u64::MAX).wait(T0).is_zero());
    }
}
