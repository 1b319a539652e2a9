//! Inviting and joining: a ticket makes two nodes allow each other.
//!
//! The issuer keeps the hash of a ticket's secret in a published file, so invitations outlive a restart and the file
//! tells nobody how to join. A ticket is good once: it is durably marked as used before its bearer is admitted. Until it
//! expires the same bearer may come again with it, for its first answer may have been lost; not when it was removed
//! meanwhile, and one that was turned away before the ticket was made needs another one. Guessing is bounded by the door's rate
//! for all strangers together and by 128 bits; digests are compared in constant time.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::core::{Core, log_failure};
use super::door;
use super::error::failed;
use super::records::{Patience, refused, unmet};
use super::ticket::{Ticket, TicketSecret, check_name, clean_name};
use crate::api::{
    ApiError, Happening, Invitation, InviteInfo, InviteRequest, InviteState, JoinRequest, Joined, Role,
};
use crate::base::{Code, Moment, PeerId, limit, random_bytes};
use crate::crypto;
use crate::net::{Net, NetError, parse_peer_address};
use crate::store::{PeerEntry, Store, Word};
use crate::wire::{self, Status, TicketRefusal, door_request::Ask};

const FILE: &str = "invites.json";
/// What a joiner lends when nothing else is said.
const QUOTA_BYTES: u64 = 100 << 30;
/// How long a ticket is good when nothing else is said.
const LIFE: Duration = Duration::from_secs(24 * 3600);
/// How often `join` looks whether the inviter serves it.
const LOOK: Duration = Duration::from_millis(50);

/// One invitation as it is kept.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Invite {
    id: String,
    /// Hex of the secret's digest.
    digest: String,
    #[serde(default)]
    name: Option<String>,
    role: Role,
    quota: u64,
    created: Moment,
    expires: Moment,
    #[serde(default)]
    used_by: Option<PeerId>,
}

impl Invite {
    fn state(&self, now: Moment) -> InviteState {
        match self.used_by {
            Some(_) => InviteState::Used,
            None if now > self.expires => InviteState::Expired,
            None => InviteState::Open,
        }
    }

    fn is_for(&self, digest: blake3::Hash) -> bool {
        blake3::Hash::from_hex(&self.digest).is_ok_and(|known| known == digest)
    }
}

/// All invitations; written whole.
#[derive(Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
struct InviteBook {
    invites: Vec<Invite>,
}

impl InviteBook {
    /// Adds one; those that are over make room, the oldest first. False when all places are taken by open ones.
    fn add(&mut self, invite: Invite, now: Moment) -> bool {
        if self.invites.len() >= limit::INVITES_MAX {
            let over = self.invites.iter().position(|known| known.state(now) != InviteState::Open);
            let Some(over) = over else { return false };
            self.invites.remove(over);
        }
        self.invites.push(invite);
        true
    }

    /// Takes a secret from `peer`. What is not known, over, or another's says so; to one that was turned away,
    /// [`PeerBook::bars`] says on whose word, nothing is said.
    fn redeem(
        &mut self,
        digest: blake3::Hash,
        (peer, now): (PeerId, Moment),
        bars: impl Fn(Word) -> bool,
    ) -> Result<Invite, TicketRefusal> {
        let found = self.invites.iter_mut().find(|invite| invite.is_for(digest));
        let invite = found.ok_or(TicketRefusal::TicketUnknown)?;
        match invite.used_by {
            Some(before) if before != peer => return Err(TicketRefusal::TicketUsed),
            Some(_) if bars(Word::Proof) => return Err(TicketRefusal::TicketUnspecified),
            None if bars(Word::Given(invite.created)) => return Err(TicketRefusal::TicketUnspecified),
            _ if now > invite.expires => return Err(TicketRefusal::TicketExpired),
            _ => invite.used_by = Some(peer),
        }
        Ok(invite.clone())
    }
}

/// The invitations of a node, in memory as on disk.
pub(super) struct Invites {
    book: Mutex<InviteBook>,
}

impl Invites {
    pub(super) fn load(store: &Store) -> Result<Self, ApiError> {
        let book = store.read_state(FILE).map_err(failed)?.unwrap_or_default();
        Ok(Self { book: Mutex::new(book) })
    }
}

/// Changes the invitations durably: written before it counts. Blocking.
fn edit<T>(core: &Core, edit: impl FnOnce(&mut InviteBook) -> T) -> Result<T, ApiError> {
    let mut book = core.invites.book.lock().expect("no panic while held");
    let mut next = book.clone();
    let value = edit(&mut next);
    if next != *book {
        core.store.publish_state(FILE, &next).map_err(failed)?;
        *book = next;
    }
    Ok(value)
}

/// This machine's name for people.
fn host() -> String {
    clean_name(&rustix::system::uname().nodename().to_string_lossy())
}

/// Makes a ticket.
pub(super) async fn invite(core: &Arc<Core>, request: InviteRequest) -> Result<Invitation, ApiError> {
    let vault = match request.role {
        Role::Device => Some(core.vault_id().ok_or_else(no_vault)?),
        Role::Storage | Role::Mutual => None,
    };
    if let Some(name) = &request.name {
        check_name(name)?;
    }
    let life = request.expires_seconds.map_or(LIFE, Duration::from_secs);
    if !(limit::INVITE_LIFE_MIN..=limit::INVITE_LIFE_MAX).contains(&life) {
        return Err(ApiError::new(Code::UsageInvalid, "an invitation lives from one minute to 30 days"));
    }
    let now = core.now();
    let secret = TicketSecret::random();
    let invite = Invite {
        id: hex::encode(random_bytes::<4>()),
        digest: secret.digest().to_hex().to_string(),
        name: request.name,
        role: request.role,
        quota: request.quota.unwrap_or(if vault.is_some() { 0 } else { QUOTA_BYTES }),
        created: now,
        expires: now.after(life),
        used_by: None,
    };
    let ticket = Ticket {
        peer: core.key.peer_id(),
        addresses: ticket_addresses(&core.net()?.addresses()),
        role: invite.role,
        quota: invite.quota,
        expires: invite.expires,
        from: host(),
        vault,
        secret,
    };
    let made = Invitation {
        ticket: ticket.to_text(),
        id: invite.id.clone(),
        expires: invite.expires.to_rfc3339(),
        role: invite.role,
        quota: invite.quota,
    };
    let added = core.blocking(move |core| edit(core, |book| book.add(invite, now))).await?;
    if !added {
        let text = format!("{} invitations are open already", limit::INVITES_MAX);
        return Err(
            ApiError::new(Code::ResourceExhausted, text).with_hint("wait until some are used or expire")
        );
    }
    tracing::info!(target: "invite", invite = made.id, "made");
    Ok(made)
}

fn no_vault() -> ApiError {
    ApiError::new(Code::VaultNotFound, "this node stores for others only: it has no vault for another device")
        .with_hint("run `shadowvault invite --role device` on a machine that makes backups")
}

/// Where the joiner should dial, without the peer id; loopback only on a machine that has nothing else. Ways through
/// relays keep two of the places, for a bearer whom the same relay carries.
fn ticket_addresses(own: &[String]) -> Vec<String> {
    let all: Vec<String> =
        own.iter().filter_map(|address| Some(parse_peer_address(address).ok()?.1)).collect();
    let is_local = |address: &&String| address.starts_with("/ip4/127.") || address.starts_with("/ip6/::1/");
    let (local, wide): (Vec<&String>, Vec<&String>) = all.iter().partition(is_local);
    let chosen = if wide.is_empty() { local } else { wide };
    let (relayed, direct): (Vec<&String>, Vec<&String>) =
        chosen.into_iter().partition(|address| address.ends_with("/p2p-circuit"));
    let room = limit::TICKET_ADDRESSES_MAX - relayed.len().min(2);
    direct.into_iter().take(room).chain(relayed).take(limit::TICKET_ADDRESSES_MAX).cloned().collect()
}

/// Invitations that are remembered.
pub(super) fn list(core: &Core) -> Vec<InviteInfo> {
    let now = core.now();
    let me = core.key.peer_id();
    let book = core.invites.book.lock().expect("no panic while held");
    let info = |invite: &Invite| InviteInfo {
        id: invite.id.clone(),
        name: invite.name.clone(),
        role: invite.role,
        quota: invite.quota,
        expires: invite.expires.to_rfc3339(),
        state: invite.state(now),
        peer: invite.used_by,
        words: invite.used_by.map(|peer| crypto::pairing_words(me, peer)),
    };
    book.invites.iter().map(info).collect()
}

// ---- The inviter's side of the door ------------------------------------------------------------------------

/// Answers the bearer of a ticket.
pub(super) async fn answer(core: Arc<Core>, from: PeerId, redeem: wire::DoorRedeem) -> wire::DoorResponse {
    let refuse = |refusal: TicketRefusal| wire::DoorResponse {
        status: Status::Refused.into(),
        refusal: refusal.into(),
        ..Default::default()
    };
    let Some(secret) = TicketSecret::read(&redeem.secret) else {
        return refuse(TicketRefusal::TicketUnknown);
    };
    let (digest, now) = (secret.digest(), core.now());
    let taken = core.blocking(move |core| {
        let peers = core.book().clone();
        edit(core, |book| book.redeem(digest, (from, now), |word| peers.bars(from, word)))
    });
    let taken = taken.await;
    let invite = match taken {
        Ok(Ok(invite)) => invite,
        Ok(Err(refusal)) => {
            tracing::warn!(target: "invite", peer = %from.short(), reason = refusal.as_str_name(), "a ticket was refused");
            return refuse(refusal);
        }
        Err(error) => {
            log_failure::<()>(Err(error), "noting a redeemed ticket");
            return door::reply(Status::Busy, false);
        }
    };
    let given = clean_name(&redeem.name);
    let wished = invite.name.clone().or((!given.is_empty()).then_some(given));
    let name = wished.map(|name| core.book().free_name(from, &name));
    let entry = PeerEntry {
        name,
        last_seen: Some(now),
        // One that only stores for others gets nothing stored here.
        quota: (invite.role == Role::Storage).then_some(0),
        lends: agreed(invite.role, invite.quota),
        ..PeerEntry::new(from, now)
    };
    if let Err(error) = core.admit(entry, Word::Given(invite.created)).await {
        if error.kind() == Code::Unauthorized {
            return refuse(TicketRefusal::TicketUnspecified);
        }
        log_failure::<()>(Err(error), "admitting a peer");
        return door::reply(Status::Busy, false);
    }
    tracing::info!(target: "invite", peer = %from.short(), invite = invite.id, "redeemed");
    core.tell(Happening::PeerJoined { peer: from });
    door::reply(Status::Ok, true)
}

/// What a ticket's bytes mean: a device that lends nothing by ticket lends what it is configured to.
fn agreed(role: Role, quota: u64) -> Option<u64> {
    (role != Role::Device || quota > 0).then_some(quota)
}

// ---- The joiner's side -------------------------------------------------------------------------------------

/// Redeems a ticket for a node that is there already.
pub(super) async fn join(core: &Arc<Core>, request: JoinRequest) -> Result<Joined, ApiError> {
    let ticket = Ticket::parse(&request.ticket).map_err(failed)?;
    if ticket.role == Role::Device {
        let text = "this ticket is for a new device of a vault, and here is a node already";
        return Err(ApiError::new(Code::UsageInvalid, text)
            .with_hint("run `shadowvault join` where there is no node yet: --repo names another directory"));
    }
    redeem(core, &ticket, &Patience::CALL).await
}

/// Redeems a ticket: afterwards both nodes allow each other, here with what the ticket promises the inviter.
pub(super) async fn redeem(
    core: &Arc<Core>,
    ticket: &Ticket,
    patience: &Patience<'_>,
) -> Result<Joined, ApiError> {
    let (peer, me) = (ticket.peer, core.key.peer_id());
    if peer == me {
        return Err(ApiError::new(Code::TicketInvalid, "this node made this ticket itself")
            .with_hint("run `shadowvault join` on the other machine"));
    }
    let net = core.net()?.clone();
    let meet = async || {
        let dialled = net.dial(peer, &ticket.addresses).await;
        dialled.map_err(|error| unreached(ticket, core.now(), error))?;
        knock(&net, ticket).await
    };
    patience.at_the_door().with(core, peer, meet).await?;
    let name = (!ticket.from.is_empty()).then(|| core.book().free_name(peer, &ticket.from));
    let entry = PeerEntry {
        name: name.clone(),
        addresses: ticket.addresses.clone(),
        last_seen: Some(core.now()),
        quota: agreed(ticket.role, ticket.quota),
        ..PeerEntry::new(peer, core.now())
    };
    core.admit(entry, Word::Person).await?;
    tracing::info!(target: "invite", peer = %peer.short(), "joined");
    Ok(Joined {
        peer,
        name,
        words: crypto::pairing_words(me, peer),
        role: ticket.role,
        quota: ticket.quota,
        lend: core.lent(),
        connected: is_served(core, &net, ticket).await,
    })
}

/// That the inviter cannot be reached; that the ticket seems to be over, too, is worth saying.
fn unreached(ticket: &Ticket, now: Moment, error: NetError) -> ApiError {
    let mut error = unmet(error);
    if now > ticket.expires {
        error.message = format!("{}; the ticket expired at {}", error.message, ticket.expires);
    }
    error
}

async fn knock(net: &Net, ticket: &Ticket) -> Result<(), ApiError> {
    let redeem = wire::DoorRedeem { secret: ticket.secret.expose().to_vec(), name: host() };
    let request = wire::DoorRequest { ask: Some(Ask::Redeem(redeem)) };
    let answer = net.door(ticket.peer, request).await.map_err(unmet)?;
    let again = "ask for a new one: `shadowvault invite` on the other machine";
    let (code, text) = match (answer.status(), answer.refusal()) {
        (Status::Ok, _) if answer.admitted => return Ok(()),
        (_, TicketRefusal::TicketUsed) => {
            (Code::TicketUsed, "this ticket was used by another machine".to_owned())
        }
        (_, TicketRefusal::TicketExpired) => {
            (Code::TicketExpired, format!("this ticket expired at {}", ticket.expires))
        }
        (_, TicketRefusal::TicketUnknown) => {
            (Code::TicketUnknown, "the other machine does not know this ticket".to_owned())
        }
        (other, TicketRefusal::TicketUnspecified) => return Err(refused(ticket.peer, other)),
    };
    Err(ApiError::new(code, text).with_hint(again))
}

/// Waits a moment for the connection that both sides now give all rights.
async fn is_served(core: &Core, net: &Net, ticket: &Ticket) -> bool {
    let served = async {
        // It may be dialled from the other side as well: what counts is that there is a connection.
        let _ = net.dial(ticket.peer, &ticket.addresses).await;
        while !core.connected().contains(&ticket.peer) {
            tokio::time::sleep(LOOK).await;
        }
    };
    tokio::time::timeout(limit::JOIN_WAIT, served).await.is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::node::peering;
    use crate::node::tests::AloneNode;
    use crate::store::PeerBook;

    const HOUR_MS: u64 = 3_600_000;

    fn invite(secret: &TicketSecret, expires: u64) -> Invite {
        Invite {
            id: "ab".to_owned(),
            digest: secret.digest().to_hex().to_string(),
            name: None,
            role: Role::Storage,
            quota: 1,
            created: Moment::from_millis(0),
            expires: Moment::from_millis(expires),
            used_by: None,
        }
    }

    fn peer(n: u8) -> PeerId {
        PeerId::new([n; 32])
    }

    #[test]
    fn a_ticket_is_good_once_for_one_peer_until_it_expires() {
        let at = Moment::from_millis;
        let (secret, late, unknown, fresh) =
            (TicketSecret::random(), TicketSecret::random(), TicketSecret::random(), TicketSecret::random());
        let fresh_invite = Invite { created: at(HOUR_MS / 2), ..invite(&fresh, HOUR_MS) };
        let mut book =
            InviteBook { invites: vec![invite(&secret, HOUR_MS), invite(&late, HOUR_MS), fresh_invite] };
        let mut peers = PeerBook::default();
        let mut redeem = |peers: &PeerBook, secret: &TicketSecret, by: u8, when: u64| {
            let bars = |word| peers.bars(peer(by), word);
            book.redeem(secret.digest(), (peer(by), at(when)), bars).map(|_| ()).err()
        };
        let table = [
            (&unknown, 1, 0, Some(TicketRefusal::TicketUnknown)),
            (&secret, 1, HOUR_MS - 1, None),
            // Its answer may have been lost.
            (&secret, 1, HOUR_MS, None),
            (&secret, 1, HOUR_MS + 1, Some(TicketRefusal::TicketExpired)),
            (&secret, 2, 1, Some(TicketRefusal::TicketUsed)),
            (&late, 2, HOUR_MS + 1, Some(TicketRefusal::TicketExpired)),
        ];
        for (step, (secret, by, when, refusal)) in table.into_iter().enumerate() {
            assert_eq!(redeem(&peers, secret, by, when), refusal, "step {step}");
        }
        // Removed, it comes back with no ticket but one that was made since.
        peers.remove(peer(1), at(9));
        for old in [&secret, &late] {
            assert_eq!(redeem(&peers, old, 1, 10), Some(TicketRefusal::TicketUnspecified));
        }
        assert_eq!(redeem(&peers, &fresh, 1, HOUR_MS), None);
        // A removal that an admin signed before that ticket was made, and that came after it was used.
        peers.remove(peer(1), at(10));
        assert_eq!(redeem(&peers, &fresh, 1, HOUR_MS), Some(TicketRefusal::TicketUnspecified));
    }

    /// A peer that was removed let itself in again with the ticket that it had used.
    #[tokio::test]
    async fn a_removed_peer_comes_back_with_no_ticket_that_was_made_before() {
        let node = AloneNode::new();
        let (core, joiner) = (&node.core, peer(9));
        let make = || {
            let (secret, now) = (TicketSecret::random(), core.now());
            let made = Invite { created: now, ..invite(&secret, now.after(LIFE).as_millis()) };
            edit(core, |book| book.add(made, now)).unwrap();
            secret
        };
        let redeem = |secret: &TicketSecret| {
            let secret = secret.expose().to_vec();
            answer(core.clone(), joiner, wire::DoorRedeem { secret, name: "attic".to_owned() })
        };
        let (used, open) = (make(), make());
        assert!(redeem(&used).await.admitted && redeem(&used).await.admitted);
        peering::retire(core, joiner, core.now()).await.unwrap();
        for secret in [&used, &open] {
            let answer = redeem(secret).await;
            assert_eq!((answer.status(), answer.admitted), (Status::Refused, false));
        }
        assert!(!core.members.allows(&joiner) && core.book().find(joiner).is_none());
        let removed = core.now();
        while core.now() <= removed {
            std::hint::spin_loop();
        }
        assert!(redeem(&make()).await.admitted && core.members.allows(&joiner));
    }

    #[test]
    fn tickets_keep_room_for_ways_through_relays() {
        let id = "12D3KooWD3eckifWpRn9wQpMG9R9hX3sD158z7EqHWmweQAJU5SA";
        let direct = (1..20).map(|n| format!("/ip4/10.0.0.{n}/tcp/9000/p2p/{id}"));
        let relayed = (1..4).map(|n| format!("/ip4/9.9.9.{n}/tcp/9000/p2p/{id}/p2p-circuit/p2p/{id}"));
        let local = std::iter::once(format!("/ip4/127.0.0.1/tcp/9000/p2p/{id}"));
        let own: Vec<String> = local.chain(direct).chain(relayed).collect();
        let chosen = ticket_addresses(&own);
        assert_eq!(chosen.len(), limit::TICKET_ADDRESSES_MAX);
        assert_eq!(chosen.iter().filter(|address| address.ends_with("/p2p-circuit")).count(), 2);
        assert_eq!(ticket_addresses(&own[..1]), ["/ip4/127.0.0.1/tcp/9000"]);
    }

    #[test]
    fn only_invitations_that_are_over_make_room() {
        let mut book = InviteBook::default();
        let now = Moment::from_millis(10);
        for n in 0..limit::INVITES_MAX as u64 {
            // One of them is over.
            assert!(book.add(invite(&TicketSecret::random(), if n == 5 { 9 } else { 10 }), now));
        }
        assert!(book.add(invite(&TicketSecret::random(), 10), now));
        assert!(!book.add(invite(&TicketSecret::random(), 10), now));
        assert_eq!(book.invites.len(), limit::INVITES_MAX);
    }
}
