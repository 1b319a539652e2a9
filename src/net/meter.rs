//! How much each peer may ask: requests a second, and bytes a second of chunk fetches; and how fast bytes flow in all.
//!
//! Whoever is over a rate waits for its turn, in the order of arrival. Who waits is bounded elsewhere: [`super::lane`].

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr};
use std::num::{NonZeroU32, NonZeroU64};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::{Instant, sleep};

use crate::base::{Origin, PeerId, limit};
use crate::policy::Flow;

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
    /// Over this much memory in use by the process, new connections are refused; `None` is no limit.
    pub memory_bytes_max: Option<usize>,
    /// Peers connected from these addresses only are not metered one by one. It grants nothing else.
    pub exempt: Vec<IpAddr>,
}

/// A rate at which something may pass. Whoever is over it waits, those that came first before the others.
pub(super) struct Pace {
    began: Instant,
    flow: Mutex<Option<Flow>>,
    /// Held by who is next.
    turn: tokio::sync::Mutex<()>,
    /// The rate has changed.
    changed: Notify,
}

impl Pace {
    /// `per_second` units, `burst` at once; 0 is no limit.
    fn new(per_second: u64, burst: u64) -> Self {
        let (flow, began) = (Mutex::new(flow(per_second, burst)), Instant::now());
        Self { began, flow, turn: tokio::sync::Mutex::default(), changed: Notify::new() }
    }

    /// Waits until something may pass and charges `units` for it. Nothing is charged to one who stops waiting, and what
    /// [`Fare::keep`] does not keep is given back.
    pub(super) async fn take(self: &Arc<Self>, units: u64) -> Fare {
        let _next = self.turn.lock().await;
        loop {
            let changed = self.changed.notified();
            let wait = self.flow().as_ref().map_or(Duration::ZERO, |flow| flow.wait(self.began.elapsed()));
            if wait.is_zero() {
                break;
            }
            tokio::select! {
                () = sleep(wait) => {}
                () = changed => {}
            }
        }
        if let Some(flow) = &mut *self.flow() {
            flow.charge(self.began.elapsed(), units);
        }
        Fare { pace: Arc::clone(self), units }
    }

    /// Another rate from now on, also for those who wait. What was used up of the old one is forgotten.
    fn change(&self, per_second: u64, burst: u64) {
        *self.flow() = flow(per_second, burst);
        self.changed.notify_waiters();
    }

    fn is_rested(&self) -> bool {
        self.flow().as_ref().is_none_or(|flow| flow.is_rested(self.began.elapsed()))
    }

    fn flow(&self) -> MutexGuard<'_, Option<Flow>> {
        self.flow.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn flow(per_second: u64, burst: u64) -> Option<Flow> {
    NonZeroU64::new(per_second).map(|rate| Flow::new(rate, burst))
}

/// What was charged for something that has not passed yet.
pub(super) struct Fare {
    pace: Arc<Pace>,
    units: u64,
}

impl Fare {
    /// So much passed; the rest is given back.
    pub(super) fn keep(mut self, units: u64) {
        self.units = self.units.saturating_sub(units);
    }
}

impl Drop for Fare {
    fn drop(&mut self) {
        if let Some(flow) = &mut *self.pace.flow() {
            flow.give_back(self.units);
        }
    }
}

/// Bytes a second of all peers together, both ways.
pub(super) struct Paces {
    pub(super) up: Arc<Pace>,
    pub(super) down: Arc<Pace>,
}

impl Paces {
    pub(super) fn new(limits: &Limits) -> Self {
        let pace = |rate| Arc::new(Pace::new(rate, rate));
        Self { up: pace(limits.upload_bytes_per_second), down: pace(limits.download_bytes_per_second) }
    }

    pub(super) fn change(&self, limits: &Limits) {
        self.up.change(limits.upload_bytes_per_second, limits.upload_bytes_per_second);
        self.down.change(limits.download_bytes_per_second, limits.download_bytes_per_second);
    }
}

/// A rate of each peer.
struct Each {
    per_second: u64,
    burst: u64,
    peers: Mutex<HashMap<PeerId, Arc<Pace>>>,
}

impl Each {
    fn new(per_second: u64, burst: u64) -> Self {
        Self { per_second, burst, peers: Mutex::default() }
    }

    fn of(&self, peer: PeerId) -> Option<Arc<Pace>> {
        let pace = || Arc::new(Pace::new(self.per_second, self.burst));
        (self.per_second > 0).then(|| Arc::clone(self.peers().entry(peer).or_insert_with(pace)))
    }

    /// Forgets peers that are as good as new.
    fn prune(&self) {
        self.peers().retain(|_, pace| Arc::strong_count(pace) > 1 || !pace.is_rested());
    }

    fn peers(&self) -> MutexGuard<'_, HashMap<PeerId, Arc<Pace>>> {
        self.peers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The rates of all peers, one by one.
pub(super) struct Meter {
    requests: Each,
    fetched: Each,
    strangers: Strangers,
    exempt: Vec<IpAddr>,
}

impl Meter {
    pub(super) fn new(limits: &Limits) -> Self {
        Self {
            requests: Each::new(limits.requests_per_second.into(), limits.burst.into()),
            fetched: Each::new(limits.peer_bytes_per_second, limits.peer_bytes_per_second),
            strangers: Strangers::new(),
            exempt: limits.exempt.clone(),
        }
    }

    /// Whether requests from that address are not metered.
    pub(super) fn exempts(&self, address: IpAddr) -> bool {
        self.exempt.contains(&address.to_canonical())
    }

    /// The pace of requests of one peer, if they have one.
    pub(super) fn requests_of(&self, peer: PeerId) -> Option<Arc<Pace>> {
        self.requests.of(peer)
    }

    /// The pace in bytes of fetches of one peer, if they have one.
    pub(super) fn fetches_of(&self, peer: PeerId) -> Option<Arc<Pace>> {
        self.fetched.of(peer)
    }

    /// Charges one request of someone who may have any number of identities. Nobody waits for that: over the rate is a
    /// refusal. `writes` is one that leaves something on the disk.
    pub(super) fn allows_stranger(&self, from: Option<IpAddr>, writes: bool) -> bool {
        self.strangers.allow(from, writes)
    }

    /// Forgets peers that may ask as if they had never asked. To be called now and then.
    pub(super) fn prune(&self) {
        self.requests.prune();
        self.fetched.prune();
        self.strangers.prune();
    }
}

/// What strangers ask at the door: so much each host, and so much all together. Who only knocks pays from a purse of its
/// own, so that no number of knocks keeps out who has a ticket or proves a vault.
struct Strangers {
    began: Instant,
    purses: Mutex<Purses>,
}

struct Purses {
    all: Flow,
    knocks: Flow,
    hosts: HashMap<IpAddr, Flow>,
}

impl Strangers {
    fn new() -> Self {
        let each_second = |rate: NonZeroU32| Flow::new(NonZeroU64::from(rate), rate.get().into());
        let purses = Purses {
            all: each_second(limit::DOOR_REQUESTS_PER_SECOND_MAX),
            knocks: each_second(limit::DOOR_KNOCKS_PER_SECOND_MAX),
            hosts: HashMap::new(),
        };
        Self { began: Instant::now(), purses: Mutex::new(purses) }
    }

    fn allow(&self, from: Option<IpAddr>, writes: bool) -> bool {
        let now = self.began.elapsed();
        let Purses { all, knocks, hosts } = &mut *self.purses();
        // Behind relays nobody is told apart.
        let host = Origin::of(from.unwrap_or(Ipv4Addr::UNSPECIFIED.into())).host;
        if hosts.len() >= limit::DOOR_HOSTS_MAX && !hosts.contains_key(&host) {
            return false;
        }
        let rate = limit::DOOR_REQUESTS_PER_HOST_PER_SECOND_MAX;
        let own = hosts.entry(host).or_insert_with(|| Flow::new(rate.into(), rate.get().into()));
        let shared = if writes { knocks } else { all };
        let allowed = own.wait(now).is_zero() && shared.wait(now).is_zero();
        if allowed {
            own.charge(now, 1);
            shared.charge(now, 1);
        }
        allowed
    }

    fn prune(&self) {
        let now = self.began.elapsed();
        self.purses().hosts.retain(|_, own| !own.is_rested(now));
    }

    fn purses(&self) -> MutexGuard<'_, Purses> {
        self.purses.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::FutureExt;

    const A: PeerId = PeerId::new([1; 32]);
    const B: PeerId = PeerId::new([2; 32]);

    #[test]
    fn whitelisted_addresses_are_exempt_however_they_are_written() {
        let exempt = vec!["192.0.2.1".parse().unwrap()];
        let meter = Meter::new(&Limits { exempt, ..Limits::default() });
        let is_exempt = |address: &str| meter.exempts(address.parse().unwrap());
        assert!(is_exempt("192.0.2.1") && is_exempt("::ffff:192.0.2.1"));
        assert!(!is_exempt("192.0.2.2") && !is_exempt("2001:db8::1"));
    }

    /// Twenty knocks a second, of whomever, kept everybody with a ticket out.
    #[tokio::test]
    async fn knocks_and_other_hosts_leave_who_has_a_ticket_its_turn() {
        let meter = Meter::new(&Limits::default());
        let ip = |n: u32| Some(IpAddr::from(Ipv4Addr::from(0x0a00_0000 + n)));
        let asked = |from: Option<IpAddr>, writes: bool| meter.allows_stranger(from, writes);
        let of_one = (0..1000).filter(|_| asked(ip(1), false)).count();
        assert_eq!(of_one as u32, limit::DOOR_REQUESTS_PER_HOST_PER_SECOND_MAX.get());
        let knocks = (2..1000).filter(|n| asked(ip(*n), true)).count();
        assert_eq!(knocks as u32, limit::DOOR_KNOCKS_PER_SECOND_MAX.get());
        assert!(asked(ip(5000), false));
        let hosts = || meter.strangers.purses().hosts.len();
        assert!((0..100_000).filter(|n| asked(ip(*n), false)).count() < 100);
        assert_eq!(hosts(), limit::DOOR_HOSTS_MAX);
        meter.prune();
        assert!(hosts() < limit::DOOR_HOSTS_MAX);
    }

    /// Takes and keeps without waiting; whether that went.
    fn passes(pace: &Arc<Pace>, units: u64) -> bool {
        pace.take(units).now_or_never().is_some_and(|fare| {
            fare.keep(units);
            true
        })
    }

    #[tokio::test]
    async fn each_peer_has_its_rate_and_is_forgotten_when_rested() {
        let (requests_per_second, burst, peer_bytes_per_second) = (1, 3, 1 << 40);
        let limits = Limits { requests_per_second, burst, peer_bytes_per_second, ..Limits::default() };
        let meter = Meter::new(&limits);
        let pace = meter.requests_of(A).unwrap();
        assert_eq!((0..10).filter(|_| passes(&pace, 1)).count(), 3);
        assert!(passes(&meter.requests_of(B).unwrap(), 1), "the other one is not concerned");
        assert!(!passes(&meter.requests_of(A).unwrap(), 1), "it is the same one");
        drop(pace);
        meter.fetches_of(A).unwrap();
        meter.prune();
        assert_eq!((meter.requests.peers().len(), meter.fetched.peers().len()), (2, 0));
        let unlimited = Meter::new(&Limits::default());
        assert!(unlimited.requests_of(A).is_none() && unlimited.fetches_of(A).is_none());
    }

    #[tokio::test]
    async fn what_did_not_pass_is_given_back_and_who_stopped_waiting_paid_nothing() {
        let pace = Arc::new(Pace::new(1 << 10, 0));
        drop(pace.take(1 << 30).await);
        pace.take(1 << 30).await.keep(0);
        assert!(passes(&pace, 1 << 10));
        assert!((0..100).all(|_| pace.take(1 << 30).now_or_never().is_none()));
        assert!(pace.flow().as_ref().unwrap().wait(pace.began.elapsed()) <= Duration::from_secs(1));
    }

    /// At a limit of one byte a second who waited would have done so for days after it was raised.
    #[tokio::test]
    async fn another_rate_counts_for_those_who_wait_and_who_came_first_passes_first() {
        let pace = Arc::new(Pace::new(1, 0));
        assert!(passes(&pace, 1 << 20));
        let order = Mutex::new(Vec::new());
        let wait = |name: u8| {
            let (pace, order) = (&pace, &order);
            async move {
                pace.take(1).await.keep(1);
                order.lock().unwrap().push(name);
            }
        };
        let raise = async { pace.change(0, 0) };
        futures::future::join4(wait(1), wait(2), wait(3), raise).await;
        assert_eq!(*order.lock().unwrap(), [1, 2, 3]);
    }
}
