//! What is known of every peer: connections, addresses and how each of them fared, when to try again.
//!
//! Shared between the swarm's task, which alone writes, and the handle, which reads. Pure state: no clock, no
//! I/O. Lost with the process; members' addresses are kept on disk by the node.

use std::collections::HashMap;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use libp2p::Multiaddr;
use libp2p::multiaddr::Protocol;
use libp2p::swarm::ConnectionId;

use super::address::{
    at_ip, first_ip, ip_of, is_loopback, is_relayed, is_tcp, may_claim, name_of, with_peer,
};
use super::{Members, Tried};
use crate::base::{Moment, PeerId, limit};

/// How a connection travels.
#[derive(Debug, Copy, Clone, PartialEq, Eq)]
pub enum Transport {
    /// TCP with Noise and Yamux.
    Tcp,
    /// QUIC.
    Quic,
    /// Through another member.
    Relay,
}

impl Transport {
    /// Lower-case name.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Quic => "quic",
            Self::Relay => "relay",
        }
    }

    pub(super) fn of(address: &Multiaddr) -> Self {
        match address {
            address if is_relayed(address) => Self::Relay,
            address if address.iter().any(|p| matches!(p, Protocol::QuicV1)) => Self::Quic,
            _ => Self::Tcp,
        }
    }
}

/// One address of a peer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AddressState {
    /// With `/p2p/PEER_ID` at its end.
    pub address: String,
    /// When it last led to the peer.
    pub last_good: Option<Moment>,
    /// Why it did not, the last time it was tried.
    pub last_error: Option<String>,
    /// The peer's own word that it is there; `None` when the owner gave it.
    pub claim: Option<Claim>,
    /// Whether it is to be known after a restart: it worked, or was given, or the peer claims an IP address at which it may be.
    pub lasting: bool,
}

/// A peer's word that it is somewhere.
#[derive(Debug, Copy, Clone, PartialEq, Eq)]
pub struct Claim {
    /// Where it was seen when it said so.
    pub seen_at: Option<IpAddr>,
    /// It signed it for others to pass on; otherwise it said so on its connection.
    pub signed: bool,
}

/// What this node knows of a peer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PeerState {
    /// Who.
    pub id: PeerId,
    /// Whether there is a connection, of whatever standing.
    pub connected: bool,
    /// Whether this node serves it.
    pub member: bool,
    /// Whether it serves this node; known only while connected.
    pub serves_us: bool,
    /// It speaks another version of the protocols, so nothing can be asked of it; known only while connected.
    pub other_version: bool,
    /// The one that last worked first.
    pub addresses: Vec<AddressState>,
    /// When something was last heard of it.
    pub last_seen: Option<Moment>,
    /// What it says it runs.
    pub agent_version: Option<String>,
    /// Of the last ping.
    pub round_trip: Option<Duration>,
    /// Of the newest connection, direct ones first.
    pub transport: Option<Transport>,
}

/// What the router does for this node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Router<Address = String> {
    /// None that can be asked answers.
    Silent,
    /// It has no address on the internet itself.
    Hidden,
    /// It answers and forwards nothing.
    Refuses,
    /// It forwards these of its addresses to this node.
    Forwards(Vec<Address>),
}

/// An open connection.
#[derive(Debug, Clone)]
pub(super) struct Link {
    pub(super) member: bool,
    /// Where the peer is; this node's own place at the relay for a peer that came through it.
    pub(super) remote: Multiaddr,
    pub(super) since: Instant,
}

/// Whose word it is that a peer is somewhere.
#[derive(Debug, Copy, Clone, PartialEq, Eq)]
pub(super) enum Word {
    /// The owner's of this node. Such an address never makes room for another.
    Given,
    /// The peer's own.
    Claimed(Claim),
}

#[derive(Debug, Clone)]
struct Known {
    address: Multiaddr,
    word: Word,
    good: Option<Moment>,
    error: Option<String>,
    /// Failures in a row of one that never led to the peer, and when it is tried again.
    failures: u32,
    retry_at: Option<Instant>,
}

impl Known {
    fn is_given(&self) -> bool {
        self.word == Word::Given
    }

    fn is_due(&self, now: Instant) -> bool {
        self.retry_at.is_none_or(|at| at <= now)
    }

    /// Whether the peer claims to be at an IP address at which it may be. Where a name leads may change at any time.
    fn is_claim_of_an_ip(&self, own: &[IpAddr]) -> bool {
        name_of(&self.address).is_none()
            && first_ip(&self.address).is_some_and(|ip| self.may_lead_to(ip, own))
    }

    /// Whether it may be dialled at that IP address.
    fn may_lead_to(&self, ip: IpAddr, own: &[IpAddr]) -> bool {
        match self.word {
            Word::Given => true,
            Word::Claimed(Claim { seen_at, signed }) => may_claim(ip, seen_at, own, signed),
        }
    }
}

/// Where a peer may be dialled now.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Ways {
    /// Addresses, best first.
    pub(super) ready: Vec<Multiaddr>,
    /// Names that the peer claims: where they lead is looked at first.
    pub(super) named: Vec<Multiaddr>,
    /// Those that are not dialled, and why.
    pub(super) left_out: Vec<Tried>,
}

/// One peer's record.
#[derive(Debug, Default)]
pub(super) struct Record {
    pub(super) links: HashMap<ConnectionId, Link>,
    addresses: Vec<Known>,
    pub(super) last_seen: Option<Moment>,
    pub(super) agent: Option<String>,
    pub(super) round_trip: Option<Duration>,
    pub(super) serves_us: bool,
    /// It speaks other versions of the protocols than this node.
    pub(super) other_version: bool,
    /// When this node last called it back.
    pub(super) called: Option<Instant>,
    /// Where it last was on a connection of a member.
    pub(super) seen_at: Option<IpAddr>,
    failures: u32,
    retry_at: Option<Instant>,
}

impl Record {
    pub(super) fn has_member_link(&self) -> bool {
        self.links.values().any(|l| l.member)
    }

    /// Where the peer is seen: the other end of a direct connection.
    pub(super) fn place(&self) -> Option<Multiaddr> {
        let direct = self.links.values().find(|link| link.member && !is_relayed(&link.remote));
        direct.map(|link| link.remote.clone())
    }

    /// Whether the owner gave an address of it.
    pub(super) fn is_given(&self) -> bool {
        self.addresses.iter().any(Known::is_given)
    }

    /// Connections through relays that a direct one has made needless.
    pub(super) fn needless(&self, now: Instant) -> impl Iterator<Item = ConnectionId> + '_ {
        let direct = self.links.values().any(|link| {
            link.member
                && !is_relayed(&link.remote)
                && now.saturating_duration_since(link.since) >= limit::RELAYED_PARTING
        });
        self.links.iter().filter(move |(_, link)| direct && is_relayed(&link.remote)).map(|(id, _)| *id)
    }

    /// All addresses, best first.
    #[cfg(test)]
    fn dialable(&self) -> Vec<Multiaddr> {
        self.addresses.iter().map(|k| k.address.clone()).collect()
    }

    /// Where to dial it now: claims that cannot be true are left out, and those that failed a moment ago.
    pub(super) fn ways(&self, now: Instant, own: &[IpAddr]) -> Ways {
        let mut ways = Ways::default();
        for known in &self.addresses {
            let is_claim = !known.is_given();
            let leave = |reason: &str| Tried {
                address: known.address.to_string(),
                reason: reason.to_owned(),
                hung_up: false,
            };
            if !known.is_due(now) {
                ways.left_out.push(leave(known.error.as_deref().unwrap_or(NOT_YET)));
            } else if is_claim && name_of(&known.address).is_some() {
                ways.named.push(known.address.clone());
            } else if first_ip(&known.address).is_some_and(|ip| !known.may_lead_to(ip, own)) {
                ways.left_out.push(leave(NOT_THERE));
            } else {
                ways.ready.push(known.address.clone());
            }
        }
        ways
    }

    /// Of the addresses that a claimed name leads to, those at which the peer may be.
    pub(super) fn plausible(&self, name: &Multiaddr, found: &[IpAddr], own: &[IpAddr]) -> Vec<Multiaddr> {
        let Some(known) = self.addresses.iter().find(|known| known.address == *name) else {
            return Vec::new();
        };
        let found = found.iter().filter(|ip| known.may_lead_to(**ip, own));
        found.take(limit::NAME_ADDRESSES_MAX).filter_map(|ip| at_ip(name, *ip)).collect()
    }

    /// Addresses that led to the peer.
    pub(super) fn good(&self) -> Vec<Multiaddr> {
        self.addresses.iter().filter(|k| k.good.is_some()).map(|k| k.address.clone()).collect()
    }

    /// Remembers an address; returns the one that had to make room, which may be the new one itself.
    pub(super) fn learn(&mut self, address: Multiaddr, word: Word) -> Option<Multiaddr> {
        if let Some(known) = self.addresses.iter_mut().find(|k| k.address == address) {
            if word == Word::Given {
                (known.word, known.failures, known.retry_at) = (word, 0, None);
            } else if !known.is_given() {
                known.word = word;
            }
            return None;
        }
        let entry = Known { address, word, good: None, error: None, failures: 0, retry_at: None };
        if self.addresses.len() < limit::PEER_ADDRESSES_MAX {
            self.addresses.push(entry);
            self.sort();
            return None;
        }
        // The last one that the owner did not give: the list is in order of worth.
        match self.addresses.iter().rposition(|k| !k.is_given()) {
            Some(i) if word == Word::Given || self.addresses[i].good.is_none() => {
                let evicted = std::mem::replace(&mut self.addresses[i], entry).address;
                self.sort();
                Some(evicted)
            }
            _ => Some(entry.address),
        }
    }

    /// A claim of an earlier run of the program, and when it last led to the peer. It is tried at once.
    pub(super) fn recall(&mut self, address: Multiaddr, claim: Claim, good: Option<Moment>) {
        self.learn(address.clone(), Word::Claimed(claim));
        if let Some(known) = self.addresses.iter_mut().find(|k| k.address == address && !k.is_given()) {
            (known.good, known.failures, known.retry_at) = (known.good.max(good), 0, None);
        }
        self.sort();
    }

    pub(super) fn forget_addresses(&mut self) {
        self.addresses.clear();
    }

    /// An address led to the peer.
    pub(super) fn worked(&mut self, address: &Multiaddr, now: Moment) {
        if let Some(known) = self.addresses.iter_mut().find(|k| k.address == *address) {
            known.good = Some(now);
            (known.error, known.failures, known.retry_at) = (None, 0, None);
        }
        self.sort();
    }

    /// An address did not lead to the peer. One that never did waits longer each time.
    pub(super) fn failed(&mut self, tried: &Tried, now: Instant) {
        if let Some(known) = self.addresses.iter_mut().find(|k| k.address.to_string() == tried.address) {
            known.error = Some(tried.reason.clone());
            if !known.is_given() && known.good.is_none() {
                known.failures = known.failures.saturating_add(1);
                known.retry_at = Some(now + CLAIM_PACE.wait(known.failures, 0));
            }
        }
        self.sort();
    }

    /// Latest good first, untried before failed, TCP before QUIC.
    fn sort(&mut self) {
        self.addresses.sort_by_key(|k| {
            (k.error.is_some(), std::cmp::Reverse(k.good), !k.is_given(), !is_tcp(&k.address))
        });
    }

    /// Whether it is time to dial in the background.
    pub(super) fn is_due(&self, now: Instant) -> bool {
        !self.has_member_link()
            && self.retry_at.is_none_or(|at| at <= now)
            && self.addresses.iter().any(|known| known.is_due(now))
    }

    /// Counts a failure and sets the time of the next try.
    pub(super) fn back_off(&mut self, now: Instant, pace: Pace, jitter: u8) {
        self.failures = self.failures.saturating_add(1);
        self.retry_at = Some(now + pace.wait(self.failures, jitter));
    }

    /// The peer is there and serves us: the next loss starts from the shortest wait.
    pub(super) fn settle(&mut self) {
        self.failures = 0;
        self.retry_at = None;
    }

    /// Dial again as soon as possible.
    pub(super) fn hurry(&mut self) {
        self.settle();
    }

    /// The network has ended, and with it all connections.
    pub(super) fn end(&mut self) {
        self.links.clear();
        self.serves_us = false;
        self.other_version = false;
        self.round_trip = None;
    }

    /// Whether it is remembered though its peer is no member.
    pub(super) fn is_worth_keeping(&self) -> bool {
        !self.links.is_empty() || self.is_given()
    }

    fn state(&self, id: PeerId, member: bool, own: &[IpAddr]) -> PeerState {
        let address = |k: &Known| AddressState {
            address: with_peer(&k.address, id),
            last_good: k.good,
            last_error: k.error.clone(),
            claim: match k.word {
                Word::Given => None,
                Word::Claimed(claim) => Some(claim),
            },
            lasting: k.is_given() || k.good.is_some() || k.is_claim_of_an_ip(own),
        };
        let newest = self
            .links
            .iter()
            .max_by_key(|(id, link)| (!is_relayed(&link.remote), **id))
            .map(|(_, link)| link);
        PeerState {
            id,
            connected: !self.links.is_empty(),
            member,
            serves_us: self.serves_us,
            other_version: self.other_version,
            addresses: self.addresses.iter().map(address).collect(),
            last_seen: self.last_seen,
            agent_version: self.agent.clone(),
            round_trip: self.round_trip,
            transport: newest.map(|link| Transport::of(&link.remote)),
        }
    }
}

const NOT_THERE: &str = "not dialled: the peer cannot be at this address";
const NOT_YET: &str = "not dialled: it failed a moment ago";
/// Between tries of an address that a peer claims and that never led to it.
const CLAIM_PACE: Pace = Pace { first: limit::CLAIM_PAUSE, max: limit::CLAIM_PAUSE_MAX };

/// How long to wait between attempts to reach a peer.
#[derive(Debug, Clone, Copy)]
pub(super) struct Pace {
    pub(super) first: Duration,
    pub(super) max: Duration,
}

impl Pace {
    /// Doubles from `first` to `max`, then takes away up to a quarter, so that peers that lost each other at
    /// one moment do not come back at one moment. `failures` counts from 1.
    pub(super) fn wait(self, failures: u32, jitter: u8) -> Duration {
        let doubled = self.first.saturating_mul(1u32 << failures.saturating_sub(1).min(20)).min(self.max);
        doubled - doubled / 1024 * u32::from(jitter)
    }
}

/// All records, and this node's own addresses.
#[derive(Debug, Default)]
pub(super) struct Table {
    pub(super) records: HashMap<PeerId, Record>,
    pub(super) listening: Vec<Multiaddr>,
    /// Where members reached this node from outside.
    pub(super) outside: Vec<Multiaddr>,
    /// Once it is known.
    pub(super) router: Option<Router<Multiaddr>>,
}

impl Table {
    pub(super) fn record(&mut self, peer: PeerId) -> &mut Record {
        self.records.entry(peer).or_default()
    }

    /// Addresses that the router forwards to this node.
    pub(super) fn mapped(&self) -> Vec<Multiaddr> {
        match &self.router {
            Some(Router::Forwards(mapped)) => mapped.clone(),
            _ => Vec::new(),
        }
    }

    /// Where others should dial this node, best first: as configured, as found from outside, as it listens; loopback last.
    pub(super) fn own(&self, announce: &[Multiaddr]) -> Vec<Multiaddr> {
        let (local, wide): (Vec<_>, Vec<_>) = self.listening.iter().cloned().partition(is_loopback);
        let mut all: Vec<Multiaddr> = Vec::new();
        let known = [announce.to_vec(), self.outside.clone(), self.mapped(), wide, local];
        for address in known.into_iter().flatten() {
            if !all.contains(&address) {
                all.push(address);
            }
        }
        all
    }

    /// This machine's own addresses: those that it listens at, and those that others reach it at.
    pub(super) fn own_ips(&self) -> Vec<IpAddr> {
        let all = self.listening.iter().filter_map(ip_of).map(|ip| ip.to_canonical());
        all.filter(|ip| !ip.is_loopback() && !ip.is_unspecified()).collect()
    }

    /// Where members were seen, or are where they once answered.
    pub(super) fn hosts_of(&self, members: &Members) -> Vec<IpAddr> {
        let of_member = self.records.iter().filter(|(id, _)| members.allows(id));
        let hosts = of_member.flat_map(|(_, record)| {
            let good = record.addresses.iter().filter(|known| known.good.is_some() || known.is_given());
            record.seen_at.into_iter().chain(good.filter_map(|known| ip_of(&known.address)))
        });
        hosts.collect()
    }

    /// Members first come from the list, whether anything is known of them or not; in order of id.
    pub(super) fn states(&self, members: &Members) -> Vec<PeerState> {
        let blank = Record::default();
        let mut ids: Vec<PeerId> = self.records.keys().copied().chain(members.all()).collect();
        ids.sort_unstable();
        ids.dedup();
        let own = self.own_ips();
        let state = |id: PeerId| self.records.get(&id).unwrap_or(&blank).state(id, members.allows(&id), &own);
        ids.into_iter().map(state).collect()
    }

    /// Forgets peers that are neither members nor connected nor given by the owner.
    pub(super) fn prune(&mut self, members: &Members) {
        self.records.retain(|id, record| members.allows(id) || record.is_worth_keeping());
    }

    /// Whether another peer may be remembered.
    pub(super) fn has_room_for(&self, peer: PeerId, members: &Members) -> bool {
        members.allows(&peer)
            || self.records.contains_key(&peer)
            || self.records.len() < limit::PEERS_REMEMBERED_MAX
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CLAIM: Word =
        Word::Claimed(Claim { seen_at: Some(IpAddr::V4(std::net::Ipv4Addr::LOCALHOST)), signed: false });

    fn address(n: usize, tail: &str) -> Multiaddr {
        format!("/ip4/10.0.0.{n}/{tail}").parse().unwrap()
    }

    #[test]
    fn addresses_are_dialled_in_order_of_worth() {
        let mut record = Record::default();
        let [quic, tcp, bad, good] = [
            address(1, "udp/1/quic-v1"),
            address(2, "tcp/1"),
            address(3, "tcp/1"),
            address(4, "udp/1/quic-v1"),
        ];
        for a in [&quic, &tcp, &bad, &good] {
            assert_eq!(record.learn(a.clone(), CLAIM), None);
        }
        record.worked(&good, Moment::from_millis(5));
        record.failed(
            &Tried { address: bad.to_string(), reason: "no".to_owned(), hung_up: false },
            Instant::now(),
        );
        assert_eq!(record.dialable(), [good, tcp, quic, bad]);
    }

    #[test]
    fn claimed_addresses_never_push_out_given_or_good_ones() {
        let mut record = Record::default();
        let given = address(250, "tcp/1");
        let good = address(251, "tcp/1");
        record.learn(given.clone(), Word::Given);
        record.learn(good.clone(), CLAIM);
        record.worked(&good, Moment::from_millis(1));
        for n in 0..100 {
            record.learn(address(n, "tcp/9"), CLAIM);
        }
        let kept = record.dialable();
        assert_eq!(kept.len(), limit::PEER_ADDRESSES_MAX);
        assert!(kept.contains(&given) && kept.contains(&good));
    }

    /// A claim of the victim's own ports was dialled again and again.
    #[test]
    fn claims_that_cannot_be_true_or_just_failed_are_left_out() {
        let (mut record, now) = (Record::default(), Instant::now());
        let far = Word::Claimed(Claim { seen_at: Some("198.51.100.1".parse().unwrap()), signed: false });
        let all = ["/ip4/127.0.0.1/tcp/1", "/dns4/localhost/tcp/1", "/ip4/198.51.100.9/tcp/1"];
        let [own, name, other] = all.map(|text| text.parse::<Multiaddr>().unwrap());
        [&own, &name, &other].into_iter().for_each(|address| drop(record.learn(address.clone(), far)));
        let ways = record.ways(now, &[]);
        assert_eq!((&ways.ready, &ways.named), (&vec![other.clone()], &vec![name.clone()]));
        let found = ["127.0.0.1", "::1", "198.51.100.7"].map(|ip| ip.parse().unwrap());
        assert_eq!(record.plausible(&name, &found, &[]), ["/ip4/198.51.100.7/tcp/1".parse().unwrap()]);
        let tried = Tried { address: other.to_string(), reason: "no".to_owned(), hung_up: false };
        for failures in 1..5 {
            record.failed(&tried, now);
            let pause = CLAIM_PACE.wait(failures, 0);
            assert!(!record.ways(now + pause / 2, &[]).ready.contains(&other), "{failures}");
            assert!(record.ways(now + pause, &[]).ready.contains(&other), "{failures}");
        }
        // What the owner says is dialled, wherever it leads.
        [&own, &name, &other]
            .into_iter()
            .for_each(|address| drop(record.learn(address.clone(), Word::Given)));
        assert_eq!(record.ways(now, &[]).ready.len(), 3);
    }

    /// After a restart a claim was the owner's word: dialled wherever it leads, and never given up for another.
    #[test]
    fn claims_of_an_earlier_run_are_claims() {
        let (mut record, now) = (Record::default(), Instant::now());
        let claim = Claim { seen_at: Some("198.51.100.1".parse().unwrap()), signed: false };
        let [own, good]: [Multiaddr; 2] =
            ["/ip4/127.0.0.1/tcp/1", "/ip4/198.51.100.1/tcp/1"].map(|text| text.parse().unwrap());
        record.recall(own.clone(), claim, None);
        record.recall(good.clone(), claim, Some(Moment::from_millis(5)));
        let given = address(250, "tcp/1");
        record.learn(given.clone(), Word::Given);
        record.recall(given.clone(), claim, None);
        assert_eq!(record.ways(now, &[]).ready, [good.clone(), given.clone()]);
        let state = record.state(PeerId::new([1; 32]), true, &[]);
        let claims: Vec<_> = state.addresses.iter().map(|known| known.claim).collect();
        assert_eq!(claims, [Some(claim), None, Some(claim)]);
        record.failed(
            &Tried { address: own.to_string(), reason: "no".to_owned(), hung_up: false },
            Instant::now(),
        );
        for n in 0..100 {
            record.learn(address(n, "tcp/9"), CLAIM);
        }
        let kept = record.dialable();
        assert!(kept.contains(&good) && kept.contains(&given) && !kept.contains(&own));
    }

    #[test]
    fn waits_double_to_the_maximum_and_are_spread() {
        let pace = Pace { first: Duration::from_secs(5), max: Duration::from_secs(300) };
        for (failures, seconds) in [(1, 5), (2, 10), (4, 40), (7, 300), (u32::MAX, 300)] {
            let full = pace.wait(failures, 0);
            assert_eq!(full.as_secs(), seconds);
            let spread = pace.wait(failures, u8::MAX);
            assert!(spread < full && spread > full * 7 / 10);
        }
    }

    #[test]
    fn members_are_listed_before_anything_is_known_of_them() {
        let [a, b] = [PeerId::new([1; 32]), PeerId::new([2; 32])];
        let members = Members::new([a]);
        let mut table = Table::default();
        table.record(b).learn(address(1, "tcp/1"), CLAIM);
        let states = table.states(&members);
        assert_eq!(states.iter().map(|s| (s.id, s.member)).collect::<Vec<_>>(), [(a, true), (b, false)]);
        table.prune(&members);
        assert!(table.records.is_empty(), "a stranger's claim is forgotten");
    }
}
