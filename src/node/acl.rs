//! Peers that admins allow or remove for all who trust them.
//!
//! A record is applied once: when it comes and is newer than what is known of its peer. What the owner of this node
//! decides afterwards stands until a newer record comes. Records are kept in a published file and given to every member
//! that connects, so that they reach nodes that were away. One whose admin this node does not trust is refused, logged
//! and not passed on.

use std::sync::{Arc, Mutex};

use prost::Message;
use serde::{Deserialize, Serialize};

use super::core::Core;
use super::devices;
use super::error::failed;
use super::peering;
use super::records::{ask, signed_from_hex};
use crate::api::ApiError;
use crate::base::{Code, PeerId, VaultId, limit};
use crate::snapshot::PeerRecord;
use crate::store::{PeerEntry, Store, Word};
use crate::wire::{self, sync_request::Ask};

const FILE: &str = "acl.json";

/// Records as they came, in hex; one a peer.
#[derive(Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Kept {
    records: Vec<String>,
}

/// What admins said, in memory as on disk.
pub(super) struct Acl {
    records: Mutex<Vec<(PeerRecord, wire::Signed)>>,
}

impl Acl {
    /// Records that no longer verify are dropped: they would be refused anyway.
    pub(super) fn load(store: &Store) -> Result<Self, ApiError> {
        let kept: Kept = store.read_state(FILE).map_err(failed)?.unwrap_or_default();
        let records = kept.records.iter().filter_map(|text| {
            let signed = read(text).ok()?;
            Some((PeerRecord::verify(&signed).ok()?, signed))
        });
        Ok(Self { records: Mutex::new(records.collect()) })
    }

    fn all(&self) -> Vec<wire::Signed> {
        self.records.lock().expect("no panic while held").iter().map(|(_, signed)| signed.clone()).collect()
    }
}

fn read(text: &str) -> Result<wire::Signed, ApiError> {
    signed_from_hex(text, limit::PEER_RECORD_BYTES_MAX, "peer record")
}

/// Keeps a record durably if it is news. Blocking.
fn keep(core: &Core, record: &PeerRecord, signed: &wire::Signed) -> Result<bool, ApiError> {
    let mut records = core.acl.records.lock().expect("no panic while held");
    let known = records.iter().find(|(known, _)| known.draft.peer == record.draft.peer);
    if known.is_some_and(|(known, _)| !record.outranks(known)) {
        return Ok(false);
    }
    let mut next = records.clone();
    next.retain(|(known, _)| known.draft.peer != record.draft.peer);
    next.push((record.clone(), signed.clone()));
    next.sort_by_key(|(record, _)| record.draft.time);
    let over = next.len().saturating_sub(limit::PEER_RECORDS_MAX);
    next.drain(..over);
    let kept = Kept { records: next.iter().map(|(_, signed)| hex::encode(signed.encode_to_vec())).collect() };
    core.store.publish_state(FILE, &kept).map_err(failed)?;
    *records = next;
    Ok(true)
}

/// Whether this node does what an admin says: one that is configured, or the owner of its own vault.
fn trusts(core: &Core, admin: VaultId) -> bool {
    core.vault_id() == Some(admin) || core.settings().acl.admins.contains(&admin)
}

/// Applies one record; false when it is old.
async fn apply(core: &Arc<Core>, signed: wire::Signed) -> Result<bool, ApiError> {
    // Not on the network's threads: a member may send hundreds.
    let (record, signed) =
        core.blocking(move |_| Ok((PeerRecord::verify(&signed).map_err(failed)?, signed))).await?;
    if !trusts(core, record.admin) {
        let text = format!("this node does not trust the admin {}", record.admin);
        return Err(ApiError::new(Code::Unauthorized, text)
            .with_hint("add the key to `acl.admins`, then `shadowvault config reload`"));
    }
    if record.draft.time.since(core.now()) > limit::PEER_RECORD_AHEAD {
        return Err(ApiError::new(
            Code::UsageInvalid,
            "the record's time lies in the future: see the clocks",
        ));
    }
    let draft = record.draft.clone();
    if !core.blocking(move |core| keep(core, &record, &signed)).await? {
        return Ok(false);
    }
    let peer = draft.peer;
    if peer == core.key.peer_id() {
        return Ok(true);
    }
    if draft.removes {
        tracing::info!(target: "acl", peer = %peer.short(), "removed by an admin");
        peering::retire(core, peer, draft.time).await?;
    } else if core.book().bars(peer, Word::Given(draft.time)) {
        tracing::info!(target: "acl", peer = %peer.short(), "allowed by an admin, but removed here since");
    } else {
        tracing::info!(target: "acl", peer = %peer.short(), "allowed by an admin");
        let name = (!draft.name.is_empty()).then(|| core.book().free_name(peer, &draft.name));
        let entry = PeerEntry { name, addresses: draft.addresses, ..PeerEntry::new(peer, core.now()) };
        core.admit(entry, Word::Given(draft.time)).await?;
    }
    Ok(true)
}

/// Takes a record from this node's owner, and passes it on.
pub(super) async fn publish(core: &Arc<Core>, text: String) -> Result<(), ApiError> {
    apply(core, read(&text)?).await?;
    spread(core, None);
    Ok(())
}

/// Takes records from a member; what is news goes on to the others.
pub(super) async fn take(core: &Arc<Core>, from: PeerId, records: wire::PeerRecords) {
    let mut news = false;
    // Said once for all: a member may send many that are refused.
    let (mut refused, mut last) = (0, None);
    for signed in records.records.into_iter().take(limit::PEER_RECORDS_MAX) {
        match apply(core, signed).await {
            Ok(fresh) => news |= fresh,
            Err(error) => {
                refused += 1;
                last = Some(error);
            }
        }
    }
    if let Some(error) = last {
        tracing::warn!(target: "acl", peer = %from.short(), refused, code = error.code, %error, "refused peer records");
    }
    if news {
        spread(core, Some(from));
    }
}

/// Gives all records to all connected members but one, in the background.
fn spread(core: &Arc<Core>, but: Option<PeerId>) {
    for peer in core.connected().into_iter().filter(|peer| Some(*peer) != but) {
        core.tasks.spawn(tell(core.clone(), peer));
    }
}

/// Gives all records to a member, and the revocations that concern it.
pub(super) async fn tell(core: Arc<Core>, peer: PeerId) {
    let records = core.acl.all();
    let Ok(net) = core.net() else { return };
    let revocations = core.blocking(move |core| devices::revocations_for(core, peer)).await;
    let revocations = revocations.unwrap_or_default();
    if records.is_empty() && revocations.is_empty() {
        return;
    }
    let asked = ask(net, peer, Ask::Records(wire::PeerRecords { records, revocations }));
    tokio::select! {
        () = core.stop.cancelled() => {}
        asked = asked => {
            if let Err(error) = asked {
                // It gets them when it connects the next time.
                tracing::debug!(target: "acl", peer = %peer.short(), code = error.code, %error, "did not take peer records");
            }
        }
    }
}
