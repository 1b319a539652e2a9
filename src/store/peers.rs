//! The peer book: who is allowed, where they were last reached, who knocked. A published JSON file, not the index.

use std::collections::HashSet;
use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use super::Store;
use super::error::StoreError;
use crate::base::{Moment, PeerId, VaultId, limit};

const FILE: &str = "peers.json";

/// A peer that may store for us and for whom we may store.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PeerEntry {
    /// Who.
    pub peer: PeerId,
    /// A name for people.
    #[serde(default)]
    pub name: Option<String>,
    /// Multiaddrs without the peer id, last good first.
    #[serde(default)]
    pub addresses: Vec<String>,
    /// Of those, the ones that it only says it is at. The others are the owner's word.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub claims: Vec<ClaimedAddress>,
    /// When it was allowed.
    #[serde(default)]
    pub added: Moment,
    /// The vault it proved at the door, if that is how it came.
    #[serde(default)]
    pub proved: Option<VaultId>,
    /// Whose account it shares, if it came by proving a vault which that one brought here.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vouched_by: Option<PeerId>,
    /// When it was last connected.
    #[serde(default)]
    pub last_seen: Option<Moment>,
    /// Bytes that it may store here, as agreed when it joined or was joined; absent: what this node lends in all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub quota: Option<u64>,
    /// Bytes that it agreed to lend this node when it joined.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lends: Option<u64>,
}

impl PeerEntry {
    /// One that is at these addresses by the word of somebody who was seen at `seen_at`, and not of the owner.
    pub fn told(peer: PeerId, added: Moment, addresses: &[String], seen_at: Option<IpAddr>) -> Self {
        let addresses: Vec<String> = addresses.iter().take(limit::PEER_ADDRESSES_MAX).cloned().collect();
        let claim = |address: &String| ClaimedAddress {
            address: address.clone(),
            seen_at,
            signed: false,
            last_good: None,
        };
        let claims = addresses.iter().map(claim).collect();
        Self { addresses, claims, ..Self::new(peer, added) }
    }

    /// One of which nothing else is known.
    pub fn new(peer: PeerId, added: Moment) -> Self {
        Self {
            peer,
            name: None,
            addresses: Vec::new(),
            claims: Vec::new(),
            added,
            proved: None,
            vouched_by: None,
            last_seen: None,
            quota: None,
            lends: None,
        }
    }
}

/// What a peer said of where it is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClaimedAddress {
    /// As in the list of all.
    pub address: String,
    /// Where the peer was seen when it said so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seen_at: Option<IpAddr>,
    /// It signed it for others to pass on.
    #[serde(default)]
    pub signed: bool,
    /// When the address last led to it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_good: Option<Moment>,
}

/// A stranger that dialled.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PendingPeer {
    /// Who.
    pub peer: PeerId,
    /// Where from.
    #[serde(default)]
    pub addresses: Vec<String>,
    /// When it last knocked.
    pub seen: Moment,
}

/// One that a person, or an admin whom this node trusts, took off the list or turned away.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "KeptTurnedAway")]
pub struct TurnedAway {
    /// Who.
    pub peer: PeerId,
    /// When that was said.
    pub time: Moment,
    /// It was on the list and may ask to be let in again: a person sees it and decides.
    #[serde(default)]
    pub may_knock: bool,
    /// An admin said so, who may only have lost a machine: this is what those may store who prove a vault that it had
    /// brought, absent where nothing was agreed. After a person's word here they may store nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub left: Option<Left>,
}

/// What an admin's removal leaves to the others of the vault.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Left {
    /// As [`PeerEntry::quota`].
    pub quota: Option<u64>,
}

/// What a peer may store here, in bytes (absent: what this node lends in all), and with whom together.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Account {
    /// As agreed with the one whose account it is.
    pub quota: Option<u64>,
    /// Everyone whose things count in it.
    pub peers: Vec<PeerId>,
}

/// The first version kept ids alone: of those only a person's present word counts.
#[derive(Deserialize)]
#[serde(untagged)]
enum KeptTurnedAway {
    Full {
        peer: PeerId,
        time: Moment,
        #[serde(default)]
        may_knock: bool,
        #[serde(default)]
        left: Option<Left>,
    },
    Id(PeerId),
}

impl From<KeptTurnedAway> for TurnedAway {
    fn from(kept: KeptTurnedAway) -> Self {
        match kept {
            KeptTurnedAway::Full { peer, time, may_knock, left } => Self { peer, time, may_knock, left },
            KeptTurnedAway::Id(peer) => {
                Self { peer, time: Moment::from_millis(u64::MAX), may_knock: false, left: None }
            }
        }
    }
}

/// On whose word a peer comes in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Word {
    /// A person's, here and now.
    Person,
    /// A person's, given at that time: a ticket nobody has used yet, or an admin's record.
    Given(Moment),
    /// Nobody's: it proved something, or another device keeps copies there.
    Proof,
}

/// All peers; written whole. A peer stands in one of the lists.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PeerBook {
    /// Allowed.
    #[serde(default)]
    pub allowed: Vec<PeerEntry>,
    /// Knocked and waiting.
    #[serde(default)]
    pub pending: Vec<PendingPeer>,
    /// Turned away, or taken off the list: nothing but a person's later word lets them in.
    #[serde(default, rename = "rejected", skip_serializing_if = "Vec::is_empty")]
    pub turned_away: Vec<TurnedAway>,
}

impl PeerBook {
    /// The entry of an allowed peer.
    pub fn find(&self, peer: PeerId) -> Option<&PeerEntry> {
        self.allowed.iter().find(|entry| entry.peer == peer)
    }

    /// What a peer may store here: one that came by proof shares with whoever brought its vault. Where that one was removed,
    /// it stores nothing more, and may restore.
    pub fn account_of(&self, peer: PeerId) -> Account {
        let owner = self.find(peer).and_then(|entry| entry.vouched_by).unwrap_or(peer);
        let left = || {
            let away = self.turned_away.iter().find(|away| away.peer == owner);
            away.and_then(|away| away.left).unwrap_or(Left { quota: Some(0) }).quota
        };
        let quota = self.find(owner).map_or_else(left, |entry| entry.quota);
        let vouched = self.allowed.iter().filter(|entry| entry.vouched_by == Some(owner));
        let mut peers: Vec<PeerId> =
            vouched.map(|entry| entry.peer).filter(|other| *other != owner).collect();
        peers.push(owner);
        Account { quota, peers }
    }

    /// Of those who brought a vault, likeliest first, the one whose account whoever proves it shares: one that is on the list
    /// before one that was removed.
    pub fn voucher(&self, bearers: &[PeerId]) -> Option<PeerId> {
        let owner = |peer: &PeerId| self.find(*peer).and_then(|entry| entry.vouched_by).unwrap_or(*peer);
        let mut owners = bearers.iter().map(owner);
        owners.clone().find(|owner| self.find(*owner).is_some()).or_else(|| owners.next())
    }

    /// Whether what a peer brought keeps its place here: it is on the list and was here after `since`, or it left on the word
    /// of an admin.
    pub fn keeps_place(&self, peer: PeerId, since: Moment) -> bool {
        let left = |away: &TurnedAway| away.peer == peer && away.left.is_some();
        self.find(peer).is_some_and(|entry| entry.last_seen.unwrap_or(entry.added).max(entry.added) >= since)
            || self.turned_away.iter().any(left)
    }

    /// What peers were promised by ticket, together, in bytes.
    pub fn promised(&self) -> u64 {
        self.allowed.iter().filter_map(|entry| entry.quota).fold(0, u64::saturating_add)
    }

    /// A name that no other peer has yet: `name`, or with a number behind it.
    pub fn free_name(&self, peer: PeerId, name: &str) -> String {
        let taken = |name: &str| {
            self.allowed.iter().any(|entry| entry.peer != peer && entry.name.as_deref() == Some(name))
        };
        let numbered = (2u32..).map(|n| format!("{name}-{n}"));
        let mut names = std::iter::once(name.to_owned()).chain(numbered);
        names.find(|name| !taken(name)).expect("the list of peers is finite")
    }

    /// Whether a peer may not come in on that word. Every door asks this, and nothing else.
    pub fn bars(&self, peer: PeerId, word: Word) -> bool {
        let outweighs = |away: &TurnedAway| match word {
            Word::Person => false,
            Word::Given(time) => time <= away.time,
            Word::Proof => true,
        };
        self.turned_away.iter().any(|away| away.peer == peer && outweighs(away))
    }

    /// Lists a peer, or notes what is new of one that is listed; false, and nothing is changed, when it may not come in.
    pub fn let_in(&mut self, entry: PeerEntry, word: Word) -> bool {
        let peer = entry.peer;
        if self.bars(peer, word) {
            return false;
        }
        self.turned_away.retain(|away| away.peer != peer);
        self.pending.retain(|pending| pending.peer != peer);
        match self.allowed.iter_mut().find(|known| known.peer == peer) {
            None => self.allowed.push(entry),
            Some(known) => {
                for address in entry.addresses {
                    let is_known = known.addresses.contains(&address);
                    match entry.claims.iter().find(|claim| claim.address == address) {
                        // A claim never replaces the owner's word.
                        Some(_) if is_known => continue,
                        Some(claim) => known.claims.push(claim.clone()),
                        None => known.claims.retain(|claim| claim.address != address),
                    }
                    known.addresses.retain(|old| *old != address);
                    known.addresses.insert(0, address);
                }
                known.addresses.truncate(limit::PEER_ADDRESSES_MAX);
                known.name = entry.name.or(known.name.take());
                known.proved = entry.proved.or(known.proved);
                // Whom a person lets in has an account of its own.
                known.vouched_by = known.vouched_by.filter(|_| word == Word::Proof);
                // Who was to store nothing here may when a person allows it without a limit of its own.
                let stays = |bytes: &u64| *bytes > 0 || word == Word::Proof;
                known.quota = entry.quota.or(known.quota.filter(stays));
                known.lends = entry.lends.or(known.lends);
            }
        }
        true
    }

    /// Takes a peer off the list until a person says otherwise, after `time`.
    pub fn remove(&mut self, peer: PeerId, time: Moment) {
        self.turn_away(TurnedAway { peer, time, may_knock: true, left: None });
    }

    /// The same on an admin's word: the vaults that it brought keep their account.
    pub fn retire(&mut self, peer: PeerId, time: Moment) {
        let left = self.find(peer).map(|_| Left { quota: self.account_of(peer).quota });
        let before = self.turned_away.iter().find(|away| away.peer == peer).and_then(|away| away.left);
        self.turn_away(TurnedAway { peer, time, may_knock: true, left: left.or(before) });
    }

    /// Turns a stranger away until a person says otherwise, after `time`; that it knocks is not told again.
    pub fn reject(&mut self, peer: PeerId, time: Moment) {
        self.turn_away(TurnedAway { peer, time, may_knock: false, left: None });
    }

    /// The one turned away first makes room.
    fn turn_away(&mut self, mut away: TurnedAway) {
        let is_other = |peer: PeerId| peer != away.peer;
        self.allowed.retain(|entry| is_other(entry.peer));
        self.pending.retain(|pending| is_other(pending.peer));
        if let Some(before) = self.turned_away.iter().find(|before| before.peer == away.peer) {
            away.time = away.time.max(before.time);
        }
        self.turned_away.retain(|before| before.peer != away.peer);
        if self.turned_away.len() >= limit::TURNED_AWAY_PEERS_MAX {
            self.turned_away.remove(0);
        }
        self.turned_away.push(away);
    }

    /// Whether a stranger that knocks is not even noted.
    pub fn ignores(&self, peer: PeerId) -> bool {
        self.turned_away.iter().any(|away| away.peer == peer && !away.may_knock)
    }

    /// Nobody is listed twice: a peer that is called by its id is one peer.
    pub fn settle(&mut self) {
        let mut seen = HashSet::new();
        self.allowed.retain(|entry| seen.insert(entry.peer));
        let is_allowed = seen.clone();
        self.turned_away.retain(|away| !is_allowed.contains(&away.peer));
        self.pending.retain(|pending| seen.insert(pending.peer));
    }

    /// Notes a stranger; the one waiting longest makes room. One that was turned away is not noted, and one that was let in
    /// since it knocked is no stranger.
    pub fn knock(&mut self, peer: PeerId, addresses: Vec<String>, now: Moment) {
        if self.ignores(peer) || self.find(peer).is_some() {
            return;
        }
        self.pending.retain(|pending| pending.peer != peer);
        if self.pending.len() >= limit::PENDING_PEERS_MAX {
            self.pending.remove(0);
        }
        self.pending.push(PendingPeer { peer, addresses, seen: now });
    }
}

impl Store {
    /// The peer book; empty when there is none yet.
    pub fn read_peers(&self) -> Result<PeerBook, StoreError> {
        let mut book: PeerBook = self.read_state(FILE)?.unwrap_or_default();
        book.settle();
        Ok(book)
    }

    /// Durably replaces the peer book.
    pub fn publish_peers(&self, book: &PeerBook) -> Result<(), StoreError> {
        self.publish_state(FILE, book)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Its knock was noted after its ticket had let it in: it was listed twice, and no name or id meant it any more.
    #[test]
    fn whoever_was_let_in_since_it_knocked_is_not_listed_as_a_stranger() {
        let (mut book, peer, now) = (PeerBook::default(), PeerId::new([1; 32]), Moment::from_millis(1));
        book.knock(peer, Vec::new(), now);
        book.knock(peer, Vec::new(), now);
        assert_eq!(book.pending.len(), 1);
        book.pending.clear();
        book.allowed.push(PeerEntry::new(peer, now));
        book.knock(peer, Vec::new(), now);
        assert!(book.pending.is_empty());
    }

    /// A peer was removed and let itself in again: with its used ticket, with its vault's certificate.
    #[test]
    fn who_was_taken_off_the_list_comes_in_on_a_later_word_of_a_person_and_on_nothing_else() {
        let (peer, at) = (PeerId::new([1; 32]), Moment::from_millis);
        let table = [
            (Word::Proof, false),
            (Word::Given(at(9)), false),
            (Word::Given(at(10)), false),
            (Word::Given(at(11)), true),
            (Word::Person, true),
        ];
        for (word, comes_in) in table {
            let mut book = PeerBook::default();
            assert!(book.let_in(PeerEntry::new(peer, at(1)), Word::Proof));
            book.remove(peer, at(10));
            book.knock(peer, Vec::new(), at(12));
            assert_eq!((book.allowed.len(), book.pending.len(), book.turned_away.len()), (0, 1, 1));
            // Turned away again on an older word, it stays so until the newer one.
            book.reject(peer, at(2));
            book.knock(peer, Vec::new(), at(12));
            assert_eq!((book.allowed.len(), book.pending.len(), book.turned_away.len()), (0, 0, 1));
            assert_eq!(book.let_in(PeerEntry::new(peer, at(12)), word), comes_in, "{word:?}");
            assert_eq!((book.allowed.len(), book.turned_away.len()), if comes_in { (1, 0) } else { (0, 1) });
        }
    }

    /// A peer that proved a vault had no quota at all, whatever the one that had brought the vault was granted.
    #[test]
    fn who_proves_a_vault_shares_the_account_of_whoever_brought_it() {
        let (owner, device, other) = (PeerId::new([1; 32]), PeerId::new([2; 32]), PeerId::new([3; 32]));
        let now = Moment::from_millis(1);
        let mut book = PeerBook::default();
        book.let_in(PeerEntry { quota: Some(7), ..PeerEntry::new(owner, now) }, Word::Person);
        let voucher = book.voucher(&[other, owner]);
        assert_eq!(voucher, Some(owner), "one on the list comes first");
        book.let_in(PeerEntry { vouched_by: voucher, ..PeerEntry::new(device, now) }, Word::Proof);
        let both = |quota| Account { quota, peers: vec![device, owner] };
        assert_eq!((book.account_of(owner), book.account_of(device)), (both(Some(7)), both(Some(7))));
        assert_eq!(book.voucher(&[device]), Some(owner));
        // An admin removed a machine that was lost: the vault keeps what it had.
        let mut lost = book.clone();
        lost.retire(owner, now);
        assert_eq!(lost.account_of(device), both(Some(7)));
        // A person removed the owner: nobody of the vault stores any more, whoever else proves it.
        book.remove(owner, now);
        assert_eq!(book.account_of(device), both(Some(0)));
        assert_eq!(book.voucher(&[owner]), Some(owner));
        // Until a person says otherwise.
        book.let_in(PeerEntry::new(device, now), Word::Person);
        assert_eq!(book.account_of(device), Account { quota: None, peers: vec![device] });
    }

    /// One that stood in two lists was called by no name: "2 peers are called X: X, X".
    #[test]
    fn a_book_that_names_a_peer_twice_is_put_right_when_it_is_read() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::create(&dir.path().join("s")).unwrap();
        let peers: Vec<PeerId> = (1..=3).map(|n| PeerId::new([n; 32])).collect();
        let now = Moment::from_millis(1);
        let pending = |peer: &PeerId| PendingPeer { peer: *peer, addresses: Vec::new(), seen: now };
        let twice = PeerBook {
            allowed: vec![PeerEntry::new(peers[0], now), PeerEntry::new(peers[0], now)],
            pending: peers.iter().chain(&peers).map(pending).collect(),
            turned_away: vec![TurnedAway { peer: peers[0], time: now, may_knock: true, left: None }],
        };
        store.publish_peers(&twice).unwrap();
        let book = store.read_peers().unwrap();
        assert_eq!((book.allowed.len(), book.turned_away.len()), (1, 0));
        assert_eq!(book.pending, peers[1..].iter().map(pending).collect::<Vec<_>>());
    }

    #[test]
    fn ids_that_the_first_version_kept_as_turned_away_stay_so() {
        let peer = PeerId::new([1; 32]);
        let text = format!("{{\"rejected\":[{}]}}", serde_json::to_string(&peer).unwrap());
        let book: PeerBook = serde_json::from_str(&text).unwrap();
        assert!(book.bars(peer, Word::Proof) && book.bars(peer, Word::Given(Moment::from_millis(1 << 50))));
        assert!(!book.bars(peer, Word::Person));
        let again: PeerBook = serde_json::from_str(&serde_json::to_string(&book).unwrap()).unwrap();
        assert_eq!(again, book);
    }
}
