//! Peers whose standing changes: connections with the wrong rights are closed, so that they are made anew.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Instant;

use libp2p::PeerId as Libp2pId;
use libp2p::swarm::ConnectionId;
use tokio::sync::oneshot;

use super::address::from_libp2p;
use super::gate::Admitted;
use super::swarm::Node;
use crate::base::{PeerId, limit};

impl Node {
    /// Closes every connection whose rights are no longer those of its peer.
    pub(super) fn review_members(&mut self) {
        let members = Arc::clone(&self.shared.members);
        self.close_where(|a| a.member && !members.allows(&a.peer));
        for peer in members.all() {
            if let Some(record) = self.table().records.get_mut(&peer)
                && !record.has_member_link()
            {
                record.hurry();
            }
        }
        let known: Vec<Libp2pId> = {
            let kad = self.swarm.behaviour_mut().kad();
            kad.kbuckets()
                .flat_map(|b| b.iter().map(|e| *e.node.key.preimage()).collect::<Vec<_>>())
                .collect()
        };
        for peer in known {
            if !from_libp2p(&peer).is_ok_and(|p| members.allows(&p)) {
                self.swarm.behaviour_mut().kad().remove_peer(&peer);
            }
        }
        self.part_with_admitted();
        self.know_hosts();
    }

    /// Who calls from where members were seen waits apart from all others.
    pub(super) fn know_hosts(&self) {
        let hosts = self.table().hosts_of(&self.shared.members);
        self.shared.known.set(hosts.into_iter());
    }

    /// Closes strangers' connections of peers that have become members: not before the door has answered them
    /// and they had time to read that and to hang up themselves.
    pub(super) fn part_with_admitted(&mut self) {
        let now = Instant::now();
        self.door_answered.retain(|_, at| now.duration_since(*at) < limit::ADMISSION_GRACE);
        let mut busy: HashSet<PeerId> = self.door_answered.keys().copied().collect();
        busy.extend(self.lanes.door.inward.values().map(|a| a.peer));
        let members = Arc::clone(&self.shared.members);
        let stays = |a: &Admitted| busy.contains(&a.peer) || a.is_ringing();
        self.close_where(|a| !a.member && members.allows(&a.peer) && !stays(a));
    }

    pub(super) fn close_where(&mut self, wanted: impl Fn(&Admitted) -> bool) {
        let ids: Vec<ConnectionId> =
            self.swarm.behaviour().admission.all().filter(|(_, a)| wanted(a)).map(|(id, _)| id).collect();
        ids.into_iter().for_each(|id| {
            self.swarm.close_connection(id);
        });
    }

    /// The peer admitted this node: connections from before that serve no longer. `gone` hears when they are
    /// closed; until then libp2p might choose one of them for a request.
    pub(super) fn come_again(&mut self, peer: PeerId, gone: oneshot::Sender<()>) {
        let open: HashSet<ConnectionId> = match self.table().records.get_mut(&peer) {
            Some(record) if !record.serves_us => {
                record.hurry();
                std::mem::take(&mut record.links).into_keys().collect()
            }
            _ => return,
        };
        open.iter().for_each(|id| {
            self.swarm.close_connection(*id);
        });
        if !open.is_empty() {
            self.partings.push((open, gone));
        }
    }

    /// A connection is closed: tells those who waited for that.
    pub(super) fn parted(&mut self, id: ConnectionId) {
        let all = std::mem::take(&mut self.partings);
        for (mut open, gone) in all {
            open.remove(&id);
            if !open.is_empty() && !gone.is_closed() {
                self.partings.push((open, gone));
            }
        }
    }
}
