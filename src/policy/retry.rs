//! How long to wait before something that failed is tried again.

use std::time::Duration;

/// Pause before the try that follows `tries` failed ones.
///
/// Doubles from one minute to one hour, less up to a quarter by `seed`, so that nodes that failed together do not come
/// back together. A disk that is full or a peer that is away rarely recovers in less than a minute.
pub fn pause_after(tries: u32, seed: u64) -> Duration {
    const FIRST: Duration = Duration::from_secs(60);
    const LAST: Duration = Duration::from_secs(3600);
    let doubled = FIRST.saturating_mul(1 << tries.saturating_sub(1).min(16)).min(LAST);
    doubled - doubled.mul_f64((seed % 1000) as f64 / 4000.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_up_to_an_hour_and_spread_downwards() {
        let table = [(0, 60), (1, 60), (2, 120), (3, 240), (7, 3600), (1000, 3600)];
        for (tries, seconds) in table {
            assert_eq!(pause_after(tries, 0), Duration::from_secs(seconds), "{tries}");
            let spread = pause_after(tries, 999);
            assert!(spread < Duration::from_secs(seconds) && spread >= Duration::from_secs(seconds * 3 / 4));
        }
    }
}
