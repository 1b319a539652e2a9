//! Records from members, one by one: whoever keeps a vault, or writes to it, may have what is damaged here.

use std::cell::RefCell;
use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use tokio::runtime::Handle;

use super::core::Core;
use super::error::failed;
use super::records::{Patience, record};
use crate::api::ApiError;
use crate::base::{Code, HeadId, PeerId, VaultId, limit};
use crate::engine::{self, AuditOutcome, RecordSource, is_record};
use crate::net::Net;
use crate::store::RecordName;
use crate::wire::RecordKind;

/// Gets records from members. Use it from blocking threads only.
pub(super) struct RecordMesh {
    core: Arc<Core>,
    net: Net,
    runtime: Handle,
    /// Whom to ask for records of a vault, the likeliest first.
    order: RefCell<HashMap<VaultId, Vec<PeerId>>>,
    /// Who did not answer: each record would wait for it again.
    silent: RefCell<HashSet<PeerId>>,
}

impl RecordMesh {
    /// `None` without a network. Must be made on a thread of the runtime.
    pub(super) fn new(core: &Arc<Core>) -> Option<Self> {
        let net = core.net().ok()?.clone();
        let (order, silent) = (RefCell::default(), RefCell::default());
        Some(Self { core: core.clone(), net, runtime: Handle::current(), order, silent })
    }

    /// Who may have records of a vault, and has answered whatever it was asked.
    pub(super) fn answering(&self, vault: VaultId) -> Vec<PeerId> {
        let silent = self.silent.borrow();
        self.order(vault).into_iter().filter(|peer| !silent.contains(peer)).collect()
    }

    fn order(&self, vault: VaultId) -> Vec<PeerId> {
        let mut orders = self.order.borrow_mut();
        orders.entry(vault).or_insert_with(|| keepers(&self.core, vault)).clone()
    }
}

/// Members that are connected: first those that a vault's heads name as its devices and holders. Who sent wrong bytes comes
/// last. Blocking.
fn keepers(core: &Core, vault: VaultId) -> Vec<PeerId> {
    let mut named: HashSet<PeerId> = HashSet::new();
    for head in engine::newest_heads(&core.store, vault).into_iter().flatten().flatten() {
        named.insert(head.certificate.peer);
        named.extend(head.draft.holders.iter().map(|holder| holder.peer));
    }
    let mut all: Vec<PeerId> =
        core.connected().into_iter().filter(|peer| core.members.allows(peer)).collect();
    all.sort_by_key(|peer| (core.is_distrusted(*peer), !named.contains(peer)));
    all
}

impl RecordSource for RecordMesh {
    fn ask(&self, vault: VaultId, name: &RecordName, take: &mut dyn FnMut(PeerId, &[u8]) -> bool) -> String {
        let mut tried = Vec::new();
        for peer in self.order(vault) {
            if self.silent.borrow().contains(&peer) {
                tried.push(format!("{} does not answer", peer.short()));
                continue;
            }
            match self.runtime.block_on(fetch(&self.core, &self.net, peer, vault, name)) {
                Ok(bytes) if take(peer, &bytes) => return String::new(),
                Ok(_) => {
                    self.core.blame(peer);
                    tried.push(format!("{} sent something else", peer.short()));
                }
                Err(error) => {
                    if judge(&error) != AuditOutcome::Wrong {
                        self.silent.borrow_mut().insert(peer);
                    }
                    tried.push(error.message);
                }
            }
        }
        if tried.is_empty() { "no peer is connected".to_owned() } else { tried.join("; ") }
    }
}

/// One record from one member, not yet checked; one that says "later" is asked again for some time.
async fn fetch(
    core: &Core,
    net: &Net,
    peer: PeerId,
    vault: VaultId,
    name: &RecordName,
) -> Result<Vec<u8>, ApiError> {
    let kind = match name {
        RecordName::Head { .. } => RecordKind::RecordHead,
        RecordName::List(_) => RecordKind::RecordList,
        RecordName::Snapshot(_) => RecordKind::RecordSnapshot,
    };
    record(core, net, peer, (vault, kind), name.hash(), &Patience::SHORT).await
}

/// Asks a holder for a record that it has confirmed; what that proves.
pub(super) async fn audit(
    core: &Core,
    net: &Net,
    holder: PeerId,
    vault: VaultId,
    name: &RecordName,
) -> AuditOutcome {
    match tokio::time::timeout(limit::AUDIT_DEADLINE, fetch(core, net, holder, vault, name)).await {
        Err(_) => AuditOutcome::Timeout,
        Ok(Ok(bytes)) if is_record(name, &bytes) => AuditOutcome::Ok,
        Ok(Ok(_)) => AuditOutcome::Wrong,
        Ok(Err(error)) => judge(&error),
    }
}

/// What a member's refusal proves.
fn judge(error: &ApiError) -> AuditOutcome {
    match error.kind() {
        Code::ChunkNotFound | Code::StorageCorrupted | Code::PeerMisbehaved => AuditOutcome::Wrong,
        Code::NetworkTimeout => AuditOutcome::Timeout,
        Code::NetworkUnreachable | Code::ConnectionFailed | Code::PeerNotFound => AuditOutcome::Offline,
        _ => AuditOutcome::Unknown,
    }
}

/// What of a vault's newest heads cannot be confirmed here, as not all their records are sound: of each head the node that
/// wrote it. Blocking.
pub(super) fn unsound_heads(core: &Core, vault: VaultId) -> Result<Vec<(PeerId, HeadId)>, ApiError> {
    let store = &core.store;
    let mut unsound = Vec::new();
    for head in engine::newest_heads(store, vault).map_err(failed)? {
        let head = head.map_err(failed)?;
        if !engine::missing_records(store, &head).map_err(failed)?.is_empty() {
            unsound.push((head.certificate.peer, head.id));
        }
    }
    for device in store.head_devices(vault).map_err(failed)? {
        let Some(any) = engine::any_head(store, vault, device).map_err(failed)? else { continue };
        for (seq, id) in store.head_names(vault, device).map_err(failed)? {
            let name = RecordName::Head { vault, device, seq, id };
            let bytes = store.read_record(&name).ok().flatten();
            if !bytes.is_some_and(|bytes| is_record(&name, &bytes)) {
                unsound.push((any.certificate.peer, id));
            }
        }
    }
    Ok(unsound)
}
