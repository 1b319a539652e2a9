//! How much each peer may ask: requests a second, and bytes a second of chunk fetches.

use std::num::NonZeroU32;

use governor::{DefaultDirectRateLimiter, DefaultKeyedRateLimiter, Quota, RateLimiter};

use crate::base::{PeerId, limit};

/// Token buckets for all peers. Every check is immediate: over the rate is an answer, not a wait.
pub(super) struct Meter {
    requests: Option<DefaultKeyedRateLimiter<PeerId>>,
    /// In KiB: governor treats more than 10^9 cells a second as no limit at all.
    fetched: Option<(DefaultKeyedRateLimiter<PeerId>, NonZeroU32)>,
    strangers: DefaultDirectRateLimiter,
}

impl Meter {
    /// Zero means unlimited, for either rate.
    pub(super) fn new(requests_per_second: u32, burst: u32, bytes_per_second: u64) -> Self {
        let requests = NonZeroU32::new(requests_per_second).map(|rate| {
            RateLimiter::keyed(Quota::per_second(rate).allow_burst(NonZeroU32::new(burst).unwrap_or(rate)))
        });
        let kib = u32::try_from(bytes_per_second.div_ceil(1024)).unwrap_or(u32::MAX).min(1_000_000_000);
        let fetched = NonZeroU32::new(kib).map(|rate| {
            // At least one whole answer, or else the largest request would fail for ever.
            let answer = NonZeroU32::new((limit::FETCH_BYTES_MAX / limit::KIB) as u32).expect("a constant");
            let burst = rate.max(answer);
            (RateLimiter::keyed(Quota::per_second(rate).allow_burst(burst)), burst)
        });
        let strangers = NonZeroU32::new(limit::DOOR_REQUESTS_PER_SECOND_MAX).expect("a constant");
        Self { requests, fetched, strangers: RateLimiter::direct(Quota::per_second(strangers)) }
    }

    /// Charges one request.
    pub(super) fn allows_request(&self, peer: PeerId) -> bool {
        self.requests.as_ref().is_none_or(|r| r.check_key(&peer).is_ok())
    }

    /// Charges one request of someone who may have any number of identities.
    pub(super) fn allows_stranger(&self) -> bool {
        self.strangers.check().is_ok()
    }

    /// Charges a fetch of `bytes`; more than the burst counts as the burst.
    pub(super) fn allows_fetch(&self, peer: PeerId, bytes: u64) -> bool {
        let Some((meter, burst)) = &self.fetched else { return true };
        let kib = u32::try_from(bytes.div_ceil(1024)).unwrap_or(u32::MAX);
        let cost = NonZeroU32::new(kib).unwrap_or(NonZeroU32::MIN).min(*burst);
        matches!(meter.check_key_n(&peer, cost), Ok(Ok(())))
    }

    /// Forgets peers whose buckets are full again. To be called now and then.
    pub(super) fn prune(&self) {
        if let Some(requests) = &self.requests {
            requests.retain_recent();
        }
        if let Some((fetched, _)) = &self.fetched {
            fetched.retain_recent();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: PeerId = PeerId::new([1; 32]);
    const B: PeerId = PeerId::new([2; 32]);

    #[test]
    fn requests_over_the_burst_are_refused_for_that_peer_only() {
        let meter = Meter::new(1, 3, 0);
        let allowed = (0..10).filter(|_| meter.allows_request(A)).count();
        assert_eq!(allowed, 3);
        assert!(meter.allows_request(B));
    }

    #[test]
    fn fetches_are_charged_by_bytes_and_none_is_too_large_for_ever() {
        let meter = Meter::new(1, 1, 64 * 1024);
        assert!(meter.allows_fetch(A, 1 << 40), "clamped to the burst");
        assert!(!meter.allows_fetch(A, 65_536));
        assert!((0..16).all(|_| meter.allows_fetch(B, 65_536)));
        assert!(!meter.allows_fetch(B, 65_536));
    }

    #[test]
    fn zero_means_unlimited() {
        let meter = Meter::new(0, 0, 0);
        assert!((0..10_000).all(|_| meter.allows_request(A) && meter.allows_fetch(A, 1 << 30)));
        assert!(Meter::new(u32::MAX, u32::MAX, u64::MAX).allows_fetch(A, 1 << 20));
    }
}
