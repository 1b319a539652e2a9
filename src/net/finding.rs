//! Where members are: what is heard of them on the local network, and what they signed for others to pass on.
//!
//! Every node puts its signed whereabouts (`whereabouts`) with each member that it is connected to, as a record of the
//! members' Kademlia; only its own, and only for members. Who lost a member asks for that record. Addresses that
//! Kademlia's messages carry beside it are signed by nobody, and are neither dialled nor remembered.

use std::net::IpAddr;

use libp2p::kad::store::RecordStore;
use libp2p::{Multiaddr, PeerId as Libp2pId, kad};
use tracing::debug;

use super::address::{
    first_ip, from_libp2p, is_claimable, is_loopback, is_relayed, may_claim, strip_peer, to_libp2p,
};
use super::peers::{Claim, Record, Word};
use super::swarm::{Found, Node};
use super::whereabouts::Whereabouts;
use crate::base::{Clock, PeerId, SystemClock, limit};

/// A search for a member under way.
pub(super) struct Search {
    peer: PeerId,
    reply: Option<Found>,
    /// With where the one that told it is seen.
    newest: Option<(Whereabouts, Option<IpAddr>)>,
}

fn key_of(peer: PeerId) -> kad::RecordKey {
    kad::RecordKey::new(peer.as_bytes())
}

impl Node {
    // ---- The local network -------------------------------------------------------------------------------

    /// Members that were heard on the local network; all others there are none of this node's business.
    pub(super) fn on_nearby(&mut self, found: Vec<(Libp2pId, Multiaddr)>) {
        for (id, address) in found {
            let Ok(peer) = from_libp2p(&id) else { continue };
            let address = strip_peer(address, peer);
            let usable = is_claimable(&address) && !is_relayed(&address) && !is_loopback(&address);
            if peer != self.me && usable && self.is_looked_for(peer) {
                debug!(target: "net", %peer, %address, "heard on the local network");
                // It was heard here, so it is on a network of this machine.
                let word = Word::Claimed(Claim { seen_at: first_ip(&address), signed: true });
                self.take_found(peer, vec![address], word);
            }
        }
    }

    /// Members, and peers that the owner gave an address of: no others are remembered.
    fn is_looked_for(&self, peer: PeerId) -> bool {
        let given = || self.table().records.get(&peer).is_some_and(|record| record.is_given());
        self.shared.members.allows(&peer) || given()
    }

    /// Remembers where a peer is said to be, and dials it there. Who answers has to prove who it is.
    fn take_found(&mut self, peer: PeerId, addresses: Vec<Multiaddr>, word: Word) {
        {
            let mut table = self.table();
            let record = table.record(peer);
            for address in addresses {
                record.learn(address, word);
            }
        }
        if !self.is_usable(peer) {
            self.dial(peer, Vec::new(), None);
        }
    }

    // ---- What members signed -----------------------------------------------------------------------------

    /// Tells members where this node is.
    pub(super) fn tell_whereabouts(&mut self, members: &[PeerId]) {
        let now = SystemClock.now().as_millis();
        // A clock that was set back must not make the new word look older than the last.
        self.said = now.max(self.said + 1);
        let addresses = self.table().own(&self.shared.announce);
        let value = Whereabouts { seq: self.said, addresses }.sign(&self.key);
        let record = kad::Record { key: key_of(self.me), value, publisher: None, expires: None };
        let members: Vec<Libp2pId> = members.iter().map(|peer| to_libp2p(*peer)).collect();
        if !members.is_empty() {
            let kad = self.swarm.behaviour_mut().kad();
            kad.put_record_to(record, members.into_iter(), kad::Quorum::One);
        }
    }

    /// The same for all that are connected, after this node's addresses changed.
    pub(super) fn tell_all(&mut self) {
        self.moved = false;
        let connected: Vec<PeerId> = {
            let table = self.table();
            table.records.iter().filter(|(_, record)| record.serves_us).map(|(peer, _)| *peer).collect()
        };
        self.tell_whereabouts(&connected);
    }

    pub(super) fn on_kad(&mut self, event: kad::Event) {
        match event {
            kad::Event::InboundRequest {
                request: kad::InboundRequest::PutRecord { source, record: Some(record), .. },
            } => self.keep_whereabouts(source, record),
            kad::Event::OutboundQueryProgressed {
                id,
                result: kad::QueryResult::GetRecord(result),
                step,
                ..
            } => {
                if let Ok(kad::GetRecordOk::FoundRecord(found)) = result {
                    self.weigh(id, found);
                }
                if step.last {
                    self.on_searched(id);
                }
            }
            _ => {}
        }
    }

    /// Keeps a member's own word for those who look for it. Nobody says where somebody else is, and what a member says
    /// of itself replaces what it said before, whatever its clock shows.
    fn keep_whereabouts(&mut self, source: Libp2pId, record: kad::Record) {
        let Ok(peer) = from_libp2p(&source) else { return };
        let kept = match Whereabouts::verify(peer, &record.value) {
            Ok(_) if record.key != key_of(peer) => Err("under another's name".to_owned()),
            Ok(_) if !self.shared.members.allows(&peer) => Err("not a member".to_owned()),
            Ok(_) => {
                let record = kad::Record { publisher: None, expires: None, ..record };
                let store = self.swarm.behaviour_mut().kad().store_mut();
                store.put(record).map_err(|error| error.to_string())
            }
            Err(error) => Err(error.to_string()),
        };
        if let Err(reason) = kept {
            debug!(target: "net", %peer, reason, "a word about whereabouts is not kept");
        }
    }

    /// Forgets what peers said that are no longer members.
    pub(super) fn forget_whereabouts(&mut self) {
        let members: Vec<kad::RecordKey> = self.shared.members.all().into_iter().map(key_of).collect();
        let store = self.swarm.behaviour_mut().kad().store_mut();
        store.retain(|key, _| members.contains(key));
    }

    pub(super) fn search(&mut self, peer: PeerId, reply: Option<Found>) {
        if self.finds.len() >= limit::FINDS_MAX {
            // The dropped reply reads as "nobody knows".
            return;
        }
        let id = self.swarm.behaviour_mut().kad().get_record(key_of(peer));
        self.finds.insert(id, Search { peer, reply, newest: None });
    }

    /// One answer to a search: it counts if the one who is looked for signed it, and nothing newer is known.
    fn weigh(&mut self, id: kad::QueryId, found: kad::PeerRecord) {
        let Some(search) = self.finds.get(&id) else { return };
        let peer = search.peer;
        let mut told = match Whereabouts::verify(peer, &found.record.value) {
            Ok(told) => told,
            Err(error) => {
                debug!(target: "net", %peer, by = ?found.peer, %error, "a wrong word about whereabouts");
                return;
            }
        };
        // Of this machine's own addresses only from who is on it as well.
        let teller = found.peer.and_then(|id| from_libp2p(&id).ok()).unwrap_or(peer);
        let (seen_at, own) = {
            let table = self.table();
            (table.records.get(&teller).and_then(Record::place).as_ref().and_then(first_ip), table.own_ips())
        };
        told.addresses.retain(|address| {
            let may_be = |ip| may_claim(ip, seen_at, &own, true);
            is_claimable(address) && first_ip(address).is_none_or(may_be)
        });
        if let Some(search) = self.finds.get_mut(&id)
            && search.newest.as_ref().is_none_or(|(known, _)| known.seq < told.seq)
        {
            search.newest = Some((told, seen_at));
        }
    }

    fn on_searched(&mut self, id: kad::QueryId) {
        let Some(Search { peer, reply, newest }) = self.finds.remove(&id) else { return };
        let (told, seen_at) = newest.map(|(newest, seen_at)| (newest.addresses, seen_at)).unwrap_or_default();
        if let Some(reply) = reply {
            let mut found = self.table().records.get(&peer).map(|record| record.good()).unwrap_or_default();
            found.extend(told.iter().filter(|address| !found.contains(address)).cloned().collect::<Vec<_>>());
            found.truncate(limit::PEER_ADDRESSES_MAX);
            // A caller that left does not want to know.
            let _ = reply.send(found);
        }
        if !told.is_empty() && self.shared.members.allows(&peer) {
            self.take_found(peer, told, Word::Claimed(Claim { seen_at, signed: true }));
        }
    }
}
