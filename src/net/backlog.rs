//! Connections that come in and have not said yet who they are: how many there may be, from where, and for how long.
//!
//! Each transport has its own [`Backlog`], so that datagrams, whose sender can be made up, take no place from TCP. Hosts
//! that members were seen at have places of their own. Nobody is turned away because others are slow: one of those goes
//! ([`Crowd`] says which), and all go when they take too long.

use std::collections::{HashMap, HashSet, VecDeque};
use std::io;
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};

use libp2p::core::muxing::StreamMuxerBox;
use libp2p::core::transport::{Boxed, DialOpts, ListenerId, TransportError, TransportEvent};
use libp2p::multiaddr::Protocol as Part;
use libp2p::{Multiaddr, PeerId as Libp2pId, Transport};
use tokio::sync::oneshot;
use tokio::time::sleep;

use super::address::ip_of;
use crate::base::{Origin, limit, random_bytes};
use crate::policy::{Crowd, Entry, Room};

/// A connection that is whole.
type Whole = (Libp2pId, StreamMuxerBox);
type Pending = <Boxed<Whole> as Transport>::ListenerUpgrade;

/// Hosts at which members were seen.
#[derive(Clone, Default)]
pub(super) struct KnownHosts(Arc<Mutex<HashSet<IpAddr>>>);

impl KnownHosts {
    /// From now on these.
    pub(super) fn set(&self, addresses: impl Iterator<Item = IpAddr>) {
        let hosts = addresses.map(|ip| Origin::of(ip).host).collect();
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = hosts;
    }

    fn has(&self, origin: Origin) -> bool {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).contains(&origin.host)
    }
}

/// Addresses that a dial which is about to begin is to leave out, one each.
#[derive(Clone, Default)]
pub(super) struct Barred(Arc<Mutex<VecDeque<Multiaddr>>>);

impl Barred {
    pub(super) fn add(&self, addresses: impl Iterator<Item = Multiaddr>) {
        let mut barred = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        barred.extend(addresses);
        // A dial that came to nothing before it began leaves them here.
        let over = barred.len().saturating_sub(limit::BARRED_ADDRESSES_MAX);
        barred.drain(..over);
    }

    /// Whether this is one of them; then it is no longer.
    pub(super) fn takes(&self, address: &Multiaddr) -> bool {
        let place = |address: &Multiaddr| -> Multiaddr {
            address.iter().filter(|part| !matches!(part, Part::P2p(_))).collect()
        };
        let address = place(address);
        let mut barred = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let at = barred.iter().position(|one| place(one) == address);
        at.and_then(|at| barred.remove(at)).is_some()
    }
}

/// The places of one transport.
#[derive(Clone)]
pub(super) struct Backlog {
    known: KnownHosts,
    waiting: Arc<Mutex<Waiting>>,
}

struct Waiting {
    next: u64,
    strangers: Crowd<u64>,
    members: Crowd<u64>,
    guests: HashMap<u64, Guest>,
}

struct Guest {
    from: Multiaddr,
    /// Something came from it.
    heard: Arc<AtomicBool>,
    /// Dropped when it has to go.
    _stay: oneshot::Sender<()>,
}

/// One place; given back when it is dropped.
struct Place {
    backlog: Backlog,
    key: u64,
    /// Ends when it has to go.
    stay: oneshot::Receiver<()>,
}

impl Drop for Place {
    fn drop(&mut self) {
        self.backlog.lock().leave(self.key);
    }
}

impl Waiting {
    fn leave(&mut self, key: u64) {
        self.guests.remove(&key);
        self.strangers.leave(key);
        self.members.leave(key);
    }
}

impl Backlog {
    pub(super) fn new(known: KnownHosts) -> Self {
        const STRANGERS: Room = Room {
            all: limit::PENDING_STRANGERS_MAX,
            host: limit::PENDING_PER_HOST_MAX,
            network: limit::PENDING_PER_NETWORK_MAX,
        };
        const MEMBERS: Room = Room {
            all: limit::PENDING_MEMBERS_MAX,
            host: limit::PENDING_MEMBERS_MAX,
            network: limit::PENDING_MEMBERS_MAX,
        };
        let waiting = Waiting {
            next: 0,
            strangers: Crowd::new(STRANGERS),
            members: Crowd::new(MEMBERS),
            guests: HashMap::new(),
        };
        Self { known, waiting: Arc::new(Mutex::new(waiting)) }
    }

    /// What is to be set when something came from there; of nobody who waits, nothing.
    pub(super) fn ear(&self, from: &Multiaddr) -> Option<Arc<AtomicBool>> {
        let waiting = self.lock();
        waiting.guests.values().find(|guest| guest.from == *from).map(|guest| Arc::clone(&guest.heard))
    }

    fn enter(&self, from: &Multiaddr) -> Option<Place> {
        let origin = Origin::of(ip_of(from)?);
        let chance = u64::from_le_bytes(random_bytes());
        let is_known = self.known.has(origin);
        let mut waiting = self.lock();
        let Waiting { next, strangers, members, guests } = &mut *waiting;
        let key = *next;
        *next += 1;
        let crowd = if is_known { members } else { strangers };
        let worth =
            |key| Some(guests.get(&key).map_or(0, |guest| u8::from(guest.heard.load(Ordering::Relaxed))));
        if let Entry::InsteadOf(goes) = crowd.enter(key, origin, chance, worth) {
            guests.remove(&goes);
        }
        let (_stay, stay) = oneshot::channel();
        guests.insert(key, Guest { from: from.clone(), heard: Arc::default(), _stay });
        drop(waiting);
        Some(Place { backlog: self.clone(), key, stay })
    }

    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A transport whose incoming connections wait here.
    pub(super) fn before(&self, inner: Boxed<Whole>, barred: &Barred) -> Bounded {
        Bounded { inner, backlog: self.clone(), barred: barred.clone() }
    }
}

/// A transport with a [`Backlog`].
pub(super) struct Bounded {
    inner: Boxed<Whole>,
    backlog: Backlog,
    barred: Barred,
}

impl Transport for Bounded {
    type Output = Whole;
    type Error = io::Error;
    type ListenerUpgrade = Pending;
    type Dial = <Boxed<Whole> as Transport>::Dial;

    fn listen_on(&mut self, id: ListenerId, address: Multiaddr) -> Result<(), TransportError<io::Error>> {
        self.inner.listen_on(id, address)
    }

    fn remove_listener(&mut self, id: ListenerId) -> bool {
        self.inner.remove_listener(id)
    }

    fn dial(
        &mut self,
        address: Multiaddr,
        options: DialOpts,
    ) -> Result<Self::Dial, TransportError<io::Error>> {
        if self.barred.takes(&address) {
            let reason = "not dialled: the peer cannot be at this address";
            return Err(TransportError::Other(io::Error::other(reason)));
        }
        self.inner.dial(address, options)
    }

    fn poll(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<TransportEvent<Self::ListenerUpgrade, io::Error>> {
        let event = std::task::ready!(Pin::new(&mut self.inner).poll(cx));
        Poll::Ready(match event {
            TransportEvent::Incoming { listener_id, upgrade, local_addr, send_back_addr } => {
                let place = self.backlog.enter(&send_back_addr);
                let upgrade: Pending = Box::pin(wait(place, upgrade));
                TransportEvent::Incoming { listener_id, upgrade, local_addr, send_back_addr }
            }
            other => other,
        })
    }
}

/// Goes on with the handshake until it is done, takes too long, or has to make room.
async fn wait(place: Option<Place>, upgrade: Pending) -> io::Result<Whole> {
    let Some(mut place) = place else { return Err(io::ErrorKind::Unsupported.into()) };
    tokio::select! {
        biased;
        whole = upgrade => whole,
        _ = &mut place.stay => Err(io::Error::other("made room for another that has not said who it is")),
        () = sleep(limit::HANDSHAKE) => Err(io::ErrorKind::TimedOut.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::FutureExt;

    fn at(ip: &str, port: usize) -> Multiaddr {
        format!("/ip4/{ip}/tcp/{port}").parse().unwrap()
    }

    fn stays(place: &mut Place) -> bool {
        (&mut place.stay).now_or_never().is_none()
    }

    #[test]
    fn a_host_that_is_silent_again_and_again_keeps_nobody_else_out() {
        let backlog = Backlog::new(KnownHosts::default());
        let mut other = backlog.enter(&at("198.51.100.7", 1)).unwrap();
        let flood: Vec<Place> = (0..100).map(|n| backlog.enter(&at("203.0.113.9", n)).unwrap()).collect();
        assert!(stays(&mut other));
        assert_eq!(backlog.lock().strangers.len(), 1 + limit::PENDING_PER_HOST_MAX);
        assert_eq!(backlog.lock().guests.len(), 1 + limit::PENDING_PER_HOST_MAX);
        drop((flood, other));
        assert!(backlog.lock().guests.is_empty() && backlog.lock().strangers.is_empty());
    }

    #[test]
    fn what_is_barred_is_left_out_of_one_dial() {
        use libp2p::core::Endpoint;
        use libp2p::core::transport::{PortUse, dummy::DummyTransport};
        let barred = Barred::default();
        let mut transport =
            Backlog::new(KnownHosts::default()).before(DummyTransport::<Whole>::new().boxed(), &barred);
        let mut is_barred = |address: &Multiaddr| {
            let options = DialOpts { role: Endpoint::Dialer, port_use: PortUse::Reuse };
            matches!(transport.dial(address.clone(), options), Err(TransportError::Other(_)))
        };
        let (here, there) = (at("127.0.0.1", 1), at("198.51.100.7", 1));
        barred.add([here.clone()].into_iter());
        assert!(!is_barred(&there));
        let named = here.clone().with(Part::P2p(Libp2pId::random()));
        assert!(is_barred(&named) && !is_barred(&named));
        barred.add((0..1000).map(|port| at("127.0.0.1", port)));
        assert_eq!(barred.0.lock().unwrap().len(), limit::BARRED_ADDRESSES_MAX);
    }

    #[test]
    fn who_said_something_outlives_the_silent_and_members_hosts_have_places_of_their_own() {
        let known = KnownHosts::default();
        let backlog = Backlog::new(known.clone());
        let here = at("203.0.113.9", 1);
        let mut earnest = backlog.enter(&here).unwrap();
        backlog.ear(&here).unwrap().store(true, Ordering::Relaxed);
        let _flood: Vec<Place> = (2..500).map(|n| backlog.enter(&at("203.0.113.9", n)).unwrap()).collect();
        assert!(stays(&mut earnest));
        known.set(["198.51.100.7".parse().unwrap()].into_iter());
        let mut member = backlog.enter(&at("198.51.100.7", 1)).unwrap();
        let hosts = |n: usize| format!("10.{n}.0.1");
        let _many: Vec<Place> = (0..200).map(|n| backlog.enter(&at(&hosts(n), 1)).unwrap()).collect();
        assert!(stays(&mut member));
        assert_eq!(backlog.lock().strangers.len(), limit::PENDING_STRANGERS_MAX);
    }
}
