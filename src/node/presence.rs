//! Who is there, who is away, and whose copies count.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex};

use super::core::Core;
use super::devices;
use crate::api::ApiError;
use crate::base::{Moment, PeerId};
use crate::policy::{self, Presence, is_to_note, presence};

/// Since when this node is awake.
pub(super) struct Waking(Mutex<policy::Waking>);

impl Waking {
    pub(super) fn new(now: Moment) -> Self {
        Self(Mutex::new(policy::Waking::new(now)))
    }

    /// Called again and again while the node is awake.
    pub(super) fn look(&self, now: Moment) {
        self.0.lock().expect("no panic while held").look(now);
    }

    fn since(&self) -> Moment {
        self.0.lock().expect("no panic while held").since()
    }
}

impl Core {
    /// How every allowed peer stands.
    pub(super) fn presences(&self) -> HashMap<PeerId, Presence> {
        let connected = self.connected();
        let (now, awake, away_after) = (self.now(), self.waking.since(), self.settings().p2p.away_after);
        let judge =
            |peer: PeerId, seen: Moment| presence(connected.contains(&peer), seen, awake, now, away_after);
        let book = self.book();
        let entries = book.allowed.iter();
        entries.map(|entry| (entry.peer, judge(entry.peer, entry.last_seen.unwrap_or(entry.added)))).collect()
    }

    /// Whose receipts count as copies: not of those that were found without what they confirmed, until they were asked; nor of
    /// those that have proved nothing for too long, nor of revoked devices.
    pub(super) fn counted(&self) -> impl Fn(&PeerId) -> bool + use<> {
        let presences = self.presences();
        // Without an index nothing counts anyway.
        let doubted = self.store.doubted_holders().ok();
        let revoked = devices::revoked_peers(self).ok();
        let unproven = self.auditing.unproven(self.settings().replication.proof_within);
        move |peer| {
            let stands = doubted.as_ref().is_some_and(|doubted| !doubted.contains(peer));
            let stands = stands && !unproven.contains(peer);
            let stands = stands && revoked.as_ref().is_some_and(|revoked| !revoked.contains(peer));
            stands && presences.get(peer).is_some_and(|presence| presence.counts())
        }
    }

    /// The same without those that are here and were not asked yet whether they still have what they confirmed: what
    /// somebody waits for rests on nothing less.
    pub(super) fn counted_now(&self) -> impl Fn(&PeerId) -> bool + use<> {
        let counted = self.counted();
        let connected = self.connected().into_iter();
        let unasked: HashSet<PeerId> = connected.filter(|peer| !self.comparing.is_done(peer)).collect();
        move |peer| counted(peer) && !unasked.contains(peer)
    }

    /// Writes down that these peers are or were here just now.
    pub(super) async fn note_present(self: &Arc<Self>, peers: Vec<PeerId>) -> Result<(), ApiError> {
        let now = self.now();
        self.edit_book(move |book| {
            for entry in book.allowed.iter_mut().filter(|entry| peers.contains(&entry.peer)) {
                entry.last_seen = Some(now);
            }
        })
        .await
    }

    /// The same for connected peers of whom it was not written for a while.
    pub(super) async fn note_connected(self: &Arc<Self>) -> Result<(), ApiError> {
        let (connected, now) = (self.connected(), self.now());
        let stale: Vec<PeerId> = {
            let book = self.book();
            let entries = book.allowed.iter();
            let stale =
                entries.filter(|entry| connected.contains(&entry.peer) && is_to_note(entry.last_seen, now));
            stale.map(|entry| entry.peer).collect()
        };
        if stale.is_empty() { Ok(()) } else { self.note_present(stale).await }
    }
}
