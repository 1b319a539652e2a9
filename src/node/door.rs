//! The door: how a stranger becomes a member by proving a vault that this node stores, or with a ticket.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};

use super::core::{Core, log_failure};
use super::error::failed;
use super::inviting;
use crate::api::ApiError;
use crate::base::{Code, DeviceId, Moment, PeerId, VaultId, limit, random_bytes};
use crate::crypto::{self, AdminKey, Context};
use crate::engine;
use crate::snapshot::Certificate;
use crate::store::{PeerEntry, Word};
use crate::wire::{self, Status, door_request::Ask};

/// Nonces that may be outstanding at one time; the oldest makes room.
const NONCES_MAX: usize = 64;

/// Nonces given to strangers; each is good once, for one peer, for a minute.
#[derive(Default)]
pub(super) struct Doors {
    given: Mutex<VecDeque<(PeerId, [u8; 32], Moment)>>,
}

impl Doors {
    fn give(&self, peer: PeerId, now: Moment) -> [u8; 32] {
        let mut given = self.given.lock().expect("no panic while held");
        given.retain(|(other, _, _)| *other != peer);
        if given.len() >= NONCES_MAX {
            given.pop_front();
        }
        let nonce = random_bytes();
        given.push_back((peer, nonce, now));
        nonce
    }

    fn take(&self, peer: PeerId, nonce: &[u8], now: Moment) -> bool {
        let mut given = self.given.lock().expect("no panic while held");
        let Some(at) = given.iter().position(|(other, known, _)| *other == peer && known == nonce) else {
            return false;
        };
        let (_, _, when) = given.remove(at).expect("its position was just found");
        now.since(when) <= limit::DOOR_NONCE_LIFE
    }
}

/// What the admin key signs: prover, holder, nonce.
fn statement(prover: PeerId, holder: PeerId, nonce: &[u8]) -> Vec<u8> {
    [prover.as_bytes().as_slice(), holder.as_bytes(), nonce].concat()
}

/// The proof of a vault for one holder's nonce; a drill asks whether it holds and for nothing else.
pub(super) fn prove(
    admin: &AdminKey,
    me: PeerId,
    holder: PeerId,
    nonce: &[u8],
    drill: bool,
) -> wire::DoorRequest {
    let signed = crypto::sign(admin, Context::Door, statement(me, holder, nonce));
    let proof = wire::DoorProof {
        vault: admin.vault().as_bytes().to_vec(),
        nonce: nonce.to_vec(),
        signature: signed.signature,
        drill,
        certificate: None,
    };
    wire::DoorRequest { ask: Some(Ask::Proof(proof)) }
}

/// The proof of a device: its certificate.
pub(super) fn present(vault: VaultId, certificate: &wire::Signed) -> wire::DoorRequest {
    let vault = vault.as_bytes().to_vec();
    let proof = wire::DoorProof { vault, certificate: Some(certificate.clone()), ..Default::default() };
    wire::DoorRequest { ask: Some(Ask::Proof(proof)) }
}

/// Answers a knock.
pub(super) async fn answer(core: Arc<Core>, from: PeerId, request: wire::DoorRequest) -> wire::DoorResponse {
    match request.ask {
        Some(Ask::Challenge(_)) => {
            let nonce = core.doors.give(from, core.now()).to_vec();
            wire::DoorResponse { status: Status::Ok.into(), nonce, ..Default::default() }
        }
        Some(Ask::Proof(proof)) => admit(core, from, proof).await,
        Some(Ask::Hello(_)) => {
            let now = core.now();
            let noted = core.edit_book(move |book| book.knock(from, Vec::new(), now)).await;
            log_failure(noted, "noting a stranger");
            reply(Status::Ok, false)
        }
        Some(Ask::Redeem(redeem)) => inviting::answer(core, from, redeem).await,
        None => reply(Status::Unsupported, false),
    }
}

pub(super) fn reply(status: Status, admitted: bool) -> wire::DoorResponse {
    wire::DoorResponse { status: status.into(), admitted, ..Default::default() }
}

/// Whether a proof is of that vault and of this prover: the admin key's, or a device's whose certificate names the node
/// that shows it (the connection proves which that is). Of a device which one, in `Some(Some(_))`.
fn proven(
    core: &Core,
    from: PeerId,
    vault: VaultId,
    proof: &wire::DoorProof,
    now: Moment,
) -> Option<Option<DeviceId>> {
    if let Some(certificate) = &proof.certificate {
        let certificate = Certificate::verify(certificate).ok()?;
        return ((certificate.vault, certificate.peer) == (vault, from)).then_some(Some(certificate.device));
    }
    if !core.doors.take(from, &proof.nonce, now) {
        return None;
    }
    let body = statement(from, core.key.peer_id(), &proof.nonce);
    let signed = wire::Signed { body, signature: proof.signature.clone() };
    crypto::verify(vault.as_bytes(), Context::Door, &signed).ok().map(|_| None)
}

/// Whose account one shares that proves a vault: of those who brought it here, one that the vault itself names if there is
/// one. It has its own where nobody is known to have brought it.
fn voucher(core: &Core, vault: VaultId, from: PeerId) -> Result<Option<PeerId>, ApiError> {
    let mut bearers = core.store.accounts().map_err(failed)?.bearers(vault);
    bearers.retain(|peer| *peer != from);
    let mut named = Vec::new();
    for head in engine::newest_heads(&core.store, vault).map_err(failed)? {
        named.push(head.map_err(failed)?.certificate.peer);
    }
    bearers.sort_by_key(|peer| !named.contains(peer));
    Ok(core.book().voucher(&bearers))
}

async fn admit(core: Arc<Core>, from: PeerId, proof: wire::DoorProof) -> wire::DoorResponse {
    let now = core.now();
    if core.book().bars(from, Word::Proof) {
        tracing::info!(target: "door", peer = %from.short(), "one that was turned away shows a proof");
        return reply(Status::Refused, false);
    }
    let Ok(vault) = VaultId::try_from(proof.vault.as_slice()) else { return reply(Status::Refused, false) };
    let Some(device) = proven(&core, from, vault, &proof, now) else {
        tracing::warn!(target: "door", peer = %from.short(), "a proof does not hold");
        return reply(Status::Refused, false);
    };
    // Only now is it told whether the vault is here: a stranger cannot ask around.
    let stored = core.blocking(move |core| {
        let is_here = core.store.head_vaults().map_err(failed)?.contains(&vault);
        let revoked = match device {
            Some(device) => engine::revocations(&core.store, vault).map_err(failed)?.of(device).is_some(),
            None => false,
        };
        Ok(is_here && !revoked)
    });
    match stored.await {
        Ok(true) => {}
        Ok(false) => return reply(Status::NotFound, false),
        Err(error) => {
            log_failure::<()>(Err(error), "looking for a vault");
            return reply(Status::Busy, false);
        }
    }
    if proof.drill {
        // Knocking listed it; a drill leaves nothing behind.
        let forgotten = core.edit_book(move |book| book.pending.retain(|pending| pending.peer != from)).await;
        log_failure(forgotten, "forgetting a drill");
        return reply(Status::Ok, false);
    }
    let vouched_by = match core.blocking(move |core| voucher(core, vault, from)).await {
        Ok(vouched_by) => vouched_by,
        Err(error) => {
            log_failure::<()>(Err(error), "looking for who brought a vault");
            return reply(Status::Busy, false);
        }
    };
    let proved = Some(vault);
    let entry = PeerEntry { proved, vouched_by, last_seen: Some(now), ..PeerEntry::new(from, now) };
    match core.admit(entry, Word::Proof).await {
        Ok(()) => {
            tracing::info!(target: "door", peer = %from.short(), vault = %vault.short(), "admitted: it proved a vault");
            reply(Status::Ok, true)
        }
        Err(error) if error.kind() == Code::Unauthorized => reply(Status::Refused, false),
        Err(error) => {
            log_failure::<()>(Err(error), "admitting a peer");
            reply(Status::Busy, false)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::node::peering;
    use crate::node::tests::AloneNode;

    #[test]
    fn nonces_are_good_once_for_one_peer_and_a_minute() {
        let doors = Doors::default();
        let (a, b) = (PeerId::new([1; 32]), PeerId::new([2; 32]));
        let at = |ms| Moment::from_millis(ms);
        let nonce = doors.give(a, at(0));
        assert!(!doors.take(b, &nonce, at(1)));
        assert!(doors.take(a, &nonce, at(1)));
        assert!(!doors.take(a, &nonce, at(2)));
        let late = doors.give(a, at(0));
        assert!(!doors.take(a, &late, at(61_000)));
        for i in 0..=NONCES_MAX {
            doors.give(PeerId::new([i as u8; 32]), at(0));
        }
        assert!(doors.given.lock().unwrap().len() <= NONCES_MAX);
    }

    /// Whoever came by proof stored without any quota.
    #[tokio::test]
    async fn a_device_that_proves_a_vault_shares_what_was_granted_to_whoever_brought_it() {
        let node = AloneNode::new();
        let (core, owner, device) = (&node.core, PeerId::new([8; 32]), PeerId::new([9; 32]));
        let (vault, certificate) = node.stored_vault(device);
        let entry = PeerEntry { quota: Some(4096), ..PeerEntry::new(owner, core.now()) };
        core.admit(entry, Word::Person).await.unwrap();
        core.store.charge_records(vault, owner, &[([1; 32], 1)]).unwrap();
        assert!(answer(core.clone(), device, present(vault, &certificate)).await.admitted);
        let account = core.book().account_of(device);
        assert_eq!((account.quota, account.peers), (Some(4096), vec![device, owner]));
    }

    /// A peer that was removed, by its owner or by an admin, let itself in again with the certificate of its vault.
    #[tokio::test]
    async fn a_removal_stands_against_the_proof_of_a_stored_vault_until_a_person_undoes_it() {
        let node = AloneNode::new();
        let (core, peer) = (&node.core, PeerId::new([9; 32]));
        let (vault, certificate) = node.stored_vault(peer);
        let show = || answer(core.clone(), peer, present(vault, &certificate));
        let is_in = || core.members.allows(&peer) && core.book().find(peer).is_some();
        assert!(show().await.admitted && is_in());
        peering::remove(core, &peer.to_string()).await.unwrap();
        for drill in [false, true] {
            let mut request = present(vault, &certificate);
            if let Some(Ask::Proof(proof)) = &mut request.ask {
                proof.drill = drill;
            }
            let answer = answer(core.clone(), peer, request).await;
            assert_eq!((answer.status(), answer.admitted), (Status::Refused, false));
        }
        assert!(!is_in());
        // It may ask; that it does is seen, and a person lets it in.
        answer(core.clone(), peer, wire::DoorRequest { ask: Some(Ask::Hello(wire::DoorHello::default())) })
            .await;
        assert_eq!(core.book().pending.len(), 1);
        peering::accept(core, &peer.to_string()).await.unwrap();
        assert!(is_in() && show().await.admitted);
        // Neither does it come back when an admin removed it.
        peering::retire(core, peer, core.now()).await.unwrap();
        assert!(!show().await.admitted && !is_in());
    }
}
