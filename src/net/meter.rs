//! How much each peer may ask: requests a second, and bytes a second of chunk fetches.

use std::net::IpAddr;
use std::num::NonZeroU32;

use governor::{DefaultDirectRateLimiter, DefaultKeyedRateLimiter, Quota, RateLimiter};

use crate::base::{PeerId, limit};

/// How much peers may ask, and how fast bytes may flow; 0 is no limit throughout.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Limits {
    /// Sync and door requests of one peer.
    pub requests_per_second: u32,
    /// Of those, how many may come at once.
    pub burst: u32,
    /// Chunk-fetch bytes served to one peer.
    pub peer_bytes_per_second: u64,
    /// Chunk-fetch bytes served to all peers together.
    pub upload_bytes_per_second: u64,
    /// Chunk-fetch bytes taken from all peers together.
    pub download_bytes_per_second: u64,
    /// Peers connected from these addresses only are not metered one by one. It grants nothing else.
    pub exempt: Vec<IpAddr>,
}

/// Bytes a second of all peers together, one way. Whoever is over it waits.
pub(super) struct Pace(Option<(DefaultDirectRateLimiter, NonZeroU32)>);

impl Pace {
    fn new(bytes_per_second: u64) -> Self {
        Self(quota(bytes_per_second).map(|(quota, burst)| (RateLimiter::direct(quota), burst)))
    }

    /// Waits until that many bytes may flow; nothing is charged to one who stops waiting.
    pub(super) async fn take(&self, bytes: u64) {
        if let Some((meter, burst)) = &self.0 {
            // A cost of at most the burst is never refused.
            meter.until_n_ready(cost(bytes, *burst)).await.ok();
        }
    }
}

/// Both ways.
pub(super) struct Paces {
    pub(super) up: Pace,
    pub(super) down: Pace,
}

impl Paces {
    pub(super) fn new(limits: &Limits) -> Self {
        Self {
            up: Pace::new(limits.upload_bytes_per_second),
            down: Pace::new(limits.download_bytes_per_second),
        }
    }
}

/// In KiB: governor treats more than 10^9 cells a second as no limit at all. The burst is at least one whole answer, or
/// else the largest request would fail for ever.
fn quota(bytes_per_second: u64) -> Option<(Quota, NonZeroU32)> {
    let kib = u32::try_from(bytes_per_second.div_ceil(1024)).unwrap_or(u32::MAX).min(1_000_000_000);
    let rate = NonZeroU32::new(kib)?;
    let answer = NonZeroU32::new((limit::FETCH_BYTES_MAX / limit::KIB) as u32).expect("a constant");
    let burst = rate.max(answer);
    Some((Quota::per_second(rate).allow_burst(burst), burst))
}

/// Bytes in KiB; more than the burst counts as the burst.
fn cost(bytes: u64, burst: NonZeroU32) -> NonZeroU32 {
    let kib = u32::try_from(bytes.div_ceil(1024)).unwrap_or(u32::MAX);
    NonZeroU32::new(kib).unwrap_or(NonZeroU32::MIN).min(burst)
}

/// Token buckets for all peers. Every check is immediate: over the rate is an answer, not a wait.
pub(super) struct Meter {
    requests: Option<(DefaultKeyedRateLimiter<PeerId>, NonZeroU32)>,
    fetched: Option<(DefaultKeyedRateLimiter<PeerId>, NonZeroU32)>,
    strangers: DefaultDirectRateLimiter,
    exempt: Vec<IpAddr>,
}

impl Meter {
    pub(super) fn new(limits: &Limits) -> Self {
        let requests = NonZeroU32::new(limits.requests_per_second).map(|rate| {
            let burst = NonZeroU32::new(limits.burst).unwrap_or(rate);
            (RateLimiter::keyed(Quota::per_second(rate).allow_burst(burst)), burst)
        });
        let fetched =
            quota(limits.peer_bytes_per_second).map(|(quota, burst)| (RateLimiter::keyed(quota), burst));
        let strangers = NonZeroU32::new(limit::DOOR_REQUESTS_PER_SECOND_MAX).expect("a constant");
        let exempt = limits.exempt.clone();
        Self { requests, fetched, strangers: RateLimiter::direct(Quota::per_second(strangers)), exempt }
    }

    /// Whether requests from that address are not metered.
    pub(super) fn exempts(&self, address: IpAddr) -> bool {
        self.exempt.contains(&address.to_canonical())
    }

    /// Charges `count` requests at once; more than the burst count as the burst.
    pub(super) fn allows_requests(&self, peer: PeerId, count: u32) -> bool {
        let Some((meter, burst)) = &self.requests else { return true };
        let count = NonZeroU32::new(count).unwrap_or(NonZeroU32::MIN).min(*burst);
        matches!(meter.check_key_n(&peer, count), Ok(Ok(())))
    }

    /// Charges one request of someone who may have any number of identities.
    pub(super) fn allows_stranger(&self) -> bool {
        self.strangers.check().is_ok()
    }

    /// Charges a fetch of `bytes`; more than the burst counts as the burst.
    pub(super) fn allows_fetch(&self, peer: PeerId, bytes: u64) -> bool {
        let Some((meter, burst)) = &self.fetched else { return true };
        matches!(meter.check_key_n(&peer, cost(bytes, *burst)), Ok(Ok(())))
    }

    /// Forgets peers whose buckets are full again. To be called now and then.
    pub(super) fn prune(&self) {
        if let Some((requests, _)) = &self.requests {
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

    fn meter(requests_per_second: u32, burst: u32, peer_bytes_per_second: u64) -> Meter {
        Meter::new(&Limits { requests_per_second, burst, peer_bytes_per_second, ..Limits::default() })
    }

    #[test]
    fn whitelisted_addresses_are_exempt_however_they_are_written() {
        let exempt = vec!["192.0.2.1".parse().unwrap()];
        let meter = Meter::new(&Limits { exempt, ..Limits::default() });
        let is_exempt = |address: &str| meter.exempts(address.parse().unwrap());
        assert!(is_exempt("192.0.2.1") && is_exempt("::ffff:192.0.2.1"));
        assert!(!is_exempt("192.0.2.2") && !is_exempt("2001:db8::1"));
    }

    #[test]
    fn requests_over_the_burst_are_refused_for_that_peer_only() {
        let meter = meter(1, 3, 0);
        let allowed = (0..10).filter(|_| meter.allows_requests(A, 1)).count();
        assert_eq!(allowed, 3);
        assert!(meter.allows_requests(B, 1));
    }

    #[test]
    fn what_counts_as_many_requests_is_charged_so_and_is_never_too_large_for_ever() {
        let meter = meter(1, 3, 0);
        assert!(meter.allows_requests(A, 2) && !meter.allows_requests(A, 2) && meter.allows_requests(A, 1));
        assert!(meter.allows_requests(B, 1000) && !meter.allows_requests(B, 1));
    }

    #[test]
    fn fetches_are_charged_by_bytes_and_none_is_too_large_for_ever() {
        let meter = meter(1, 1, 64 * 1024);
        assert!(meter.allows_fetch(A, 1 << 40), "clamped to the burst");
        assert!(!meter.allows_fetch(A, 65_536));
        assert!((0..16).all(|_| meter.allows_fetch(B, 65_536)));
        assert!(!meter.allows_fetch(B, 65_536));
    }

    #[test]
    fn zero_means_unlimited() {
        let meter = meter(0, 0, 0);
        assert!((0..10_000).all(|_| meter.allows_requests(A, 32) && meter.allows_fetch(A, 1 << 30)));
        assert!(
            Meter::new(&Limits { peer_bytes_per_second: u64::MAX, ..Limits::default() })
                .allows_fetch(A, 1 << 20)
        );
    }
}
