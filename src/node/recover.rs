//! Recovery: from the phrase and one holder's address to a working device.

use std::sync::Arc;

use serde::Serialize;

use super::core::{Core, log_failure};
use super::door::prove;
use super::error::{failed, panicked};
use super::owning::index_listed;
use super::records::{ask, heads_at, heads_of, pull_head, refused};
use super::{Mode, Node};
use crate::api::{ApiError, Identity};
use crate::base::{Clock, Code, DeviceId, Moment, PackId, PeerId, SystemClock, VaultId, limit, random_bytes};
use crate::config::Settings;
use crate::crypto::{AdminKey, KdfCost, Passphrase, Phrase};
use crate::engine::{self, Carried, VaultView};
use crate::net::{Net, parse_peer_address};
use crate::snapshot::{Head, PeerAddress};
use crate::store::{PeerEntry, Store};
use crate::wire::{self, Status, door_request, sync_request::Ask, sync_response::Answer};

/// `recover`.
pub struct RecoverRequest {
    /// The vault's phrase.
    pub phrase: Phrase,
    /// One holder's multiaddr with `/p2p/ID`.
    pub peer: String,
    /// Protects the new device's keys.
    pub passphrase: Passphrase,
    /// Name of the new device.
    pub device_name: String,
    /// The lost device (name or id) whose snapshots this one carries on.
    pub heir_of: Option<String>,
    /// The vault as holders had it then, by their clocks; as it is when absent.
    pub at: Option<Moment>,
}

/// What recovery brought.
#[derive(Debug, Clone, Serialize)]
pub struct RecoverSummary {
    /// The new node.
    pub identity: Identity,
    /// Snapshots that can be restored.
    pub snapshots: u64,
    /// Heads found, one for each device.
    pub heads: u64,
    /// Packs known.
    pub packs: u64,
    /// Holders that admitted this node.
    pub holders: Vec<PeerId>,
    /// Names of the vault's devices.
    pub devices: Vec<String>,
}

/// Makes a node in `settings.repository_path` that is a new device of the phrase's vault, with everything but the data,
/// which comes from holders when it is read.
///
/// # Errors
/// A directory in use, a holder that cannot be reached or does not know the vault. What was made is removed then, so
/// that the same command can be given again.
pub async fn recover(
    settings: Settings,
    request: RecoverRequest,
    progress: impl Fn(&str) + Send + Sync,
) -> Result<RecoverSummary, ApiError> {
    let (peer, address) = parse_peer_address(&request.peer).map_err(failed)?;
    if request.passphrase.is_empty() {
        return Err(ApiError::new(Code::WrongPassphrase, "the passphrase for this device must not be empty"));
    }
    let dir = settings.repository_path.clone();
    let made = {
        let dir = dir.clone();
        tokio::task::spawn_blocking(move || -> Result<(), ApiError> {
            let store = Store::create(&dir).map_err(failed)?;
            engine::make_node(&store).map_err(failed)?;
            Ok(())
        })
        .await
    };
    made.map_err(panicked)??;
    let node = Node::open(settings, None, Mode::Online).await?;
    let result = bring_back(&node.core, request, peer, &address, &progress).await;
    log_failure(node.shutdown().await, "shutting down");
    drop(node);
    if result.is_err() {
        // Only what this command made: the directory was empty or absent before.
        let removed = tokio::task::spawn_blocking(move || remove_made(&dir)).await;
        if !matches!(removed, Ok(Ok(()))) {
            tracing::warn!(target: "recover", "what was made could not be removed");
        }
    }
    result
}

/// `recover --drill`.
#[derive(Debug, Clone, Serialize)]
pub struct DrillSummary {
    /// The vault that the phrase opens.
    pub vault_id: VaultId,
    /// The holder that stores it.
    pub peer: PeerId,
    /// It took the proof: with these words and this address the vault comes back.
    pub proved: bool,
}

/// Proves to one holder that the phrase is that of a vault which it stores. Nothing stays, here or there: the node that
/// asks lives in a directory of its own, which is removed.
///
/// # Errors
/// As of [`recover`].
pub async fn drill(mut settings: Settings, phrase: &Phrase, peer: &str) -> Result<DrillSummary, ApiError> {
    let (peer, address) = parse_peer_address(peer).map_err(failed)?;
    let admin = phrase.root().admin();
    let dir =
        std::env::temp_dir().join(format!("shadowvault-drill-{:016x}", u64::from_le_bytes(random_bytes())));
    settings.repository_path = dir.clone();
    settings.peer_bootstrap.clear();
    let made = tokio::task::spawn_blocking({
        let dir = dir.clone();
        move || engine::make_node(&Store::create(&dir).map_err(failed)?).map(|_| ()).map_err(failed)
    });
    let made = made.await.map_err(panicked)?;
    let proved = match made {
        Ok(()) => knock_as_drill(settings, &admin, peer, address).await,
        Err(error) => Err(error),
    };
    let removed = tokio::task::spawn_blocking(move || std::fs::remove_dir_all(dir)).await;
    if !matches!(removed, Ok(Ok(()))) {
        tracing::warn!(target: "recover", "the drill's directory could not be removed");
    }
    proved.map(|()| DrillSummary { vault_id: admin.vault(), peer, proved: true })
}

async fn knock_as_drill(
    settings: Settings,
    admin: &AdminKey,
    peer: PeerId,
    address: String,
) -> Result<(), ApiError> {
    let node = Node::open(settings, None, Mode::Online).await?;
    let proved = match node.core.net() {
        Ok(net) => prove_to(net, admin, peer, &[address], true).await,
        Err(error) => Err(error),
    };
    log_failure(node.shutdown().await, "shutting down");
    proved.map(|_| ())
}

fn remove_made(dir: &std::path::Path) -> std::io::Result<()> {
    for entry in std::fs::read_dir(dir)? {
        let entry = entry?;
        let keep = ["config.yaml", "lost+found"].iter().any(|name| entry.file_name() == *name);
        match (keep, entry.file_type()?.is_dir()) {
            (true, _) => {}
            (false, true) => std::fs::remove_dir_all(entry.path())?,
            (false, false) => std::fs::remove_file(entry.path())?,
        }
    }
    Ok(())
}

async fn bring_back(
    core: &Arc<Core>,
    request: RecoverRequest,
    peer: PeerId,
    address: &str,
    progress: &(impl Fn(&str) + Send + Sync),
) -> Result<RecoverSummary, ApiError> {
    let net = core.net()?.clone();
    let admin = request.phrase.root().admin();
    let vault = admin.vault();
    progress("knocking at the holder's door");
    knock(core, &net, &admin, peer, &[address.to_owned()]).await?;
    progress("fetching heads and snapshot records");
    let (_, known) = heads_of(&net, peer, vault).await?;
    let mut holders = vec![peer];
    for other in known.iter().filter(|other| other.peer != peer && other.peer != net.peer_id()) {
        // Best effort: one holder is enough to go on.
        match knock(core, &net, &admin, other.peer, &other.addresses).await {
            Ok(()) => holders.push(other.peer),
            Err(error) => {
                tracing::info!(target: "recover", peer = %other.peer.short(), %error, "a holder was not reached");
            }
        }
    }
    fetch_heads(core, &net, &holders, vault, request.at).await?;
    progress("enrolling this machine");
    enrol(core, request).await?;
    let open = core.vault()?;
    progress("reading the directories of the vault's packs");
    let packs = index_listed(core, &net, vault).await?;
    progress("asking holders what they hold");
    for holder in &holders {
        log_failure(ask_receipts(core, &net, *holder, vault).await, "asking for receipts");
    }
    let view = core
        .blocking(move |_| {
            let view = VaultView::load(&open).map_err(failed)?;
            Ok(view)
        })
        .await?;
    Ok(RecoverSummary {
        identity: Identity { vault_id: Some(vault), ..super::status::identity(core) },
        snapshots: view.snapshots.len() as u64,
        heads: view.heads.len() as u64,
        packs,
        holders,
        devices: view.heads.iter().map(|head| view.device_name(head.device())).collect(),
    })
}

/// Proves the vault to a holder and makes it a member here.
async fn knock(
    core: &Arc<Core>,
    net: &Net,
    admin: &AdminKey,
    holder: PeerId,
    addresses: &[String],
) -> Result<(), ApiError> {
    if !prove_to(net, admin, holder, addresses, false).await? {
        return Err(refused(holder, Status::Refused));
    }
    let entry = PeerEntry {
        addresses: addresses.iter().take(limit::PEER_ADDRESSES_MAX).cloned().collect(),
        last_seen: Some(core.now()),
        ..PeerEntry::new(holder, core.now())
    };
    core.admit(entry).await
}

/// Proves the vault to a holder that stores it; whether that admitted this node.
async fn prove_to(
    net: &Net,
    admin: &AdminKey,
    holder: PeerId,
    addresses: &[String],
    drill: bool,
) -> Result<bool, ApiError> {
    net.dial(holder, addresses).await.map_err(failed)?;
    let challenge = wire::DoorRequest { ask: Some(door_request::Ask::Challenge(wire::DoorChallenge {})) };
    let answer = net.door(holder, challenge).await.map_err(failed)?;
    if answer.status() != Status::Ok {
        return Err(refused(holder, answer.status()));
    }
    let proof = prove(admin, net.peer_id(), holder, &answer.nonce, drill);
    let answer = net.door(holder, proof).await.map_err(failed)?;
    match answer.status() {
        Status::Ok => Ok(answer.admitted),
        Status::NotFound => {
            let text = format!("{} stores nothing of this vault", holder.short());
            let hint = "is it the right holder? the phrase itself is well formed, but may be another vault's";
            Err(ApiError::new(Code::VaultNotFound, text).with_hint(hint))
        }
        other => Err(refused(holder, other)),
    }
}

/// Takes over the newest head of every device that any holder has, or had at that moment.
async fn fetch_heads(
    core: &Arc<Core>,
    net: &Net,
    holders: &[PeerId],
    vault: VaultId,
    at: Option<Moment>,
) -> Result<(), ApiError> {
    let mut best: Vec<(PeerId, crate::snapshot::HeadSummary)> = Vec::new();
    let mut failure = None;
    for holder in holders {
        let heads = match heads_at(net, *holder, vault, at).await {
            Ok((heads, _)) => heads,
            Err(error) => {
                failure = Some(error);
                continue;
            }
        };
        for head in heads {
            match best.iter_mut().find(|(_, known)| known.device == head.device) {
                None => best.push((*holder, head)),
                Some(known) if known.1.seq < head.seq => *known = (*holder, head),
                Some(_) => {}
            }
        }
    }
    if best.is_empty() {
        let when = if at.is_some() { " from that time" } else { "" };
        let nothing = ApiError::new(Code::VaultNotFound, format!("no holder has a head of this vault{when}"));
        return Err(failure.unwrap_or(nothing));
    }
    for (holder, head) in best {
        pull_head(core, net, holder, vault, head.id).await?;
    }
    Ok(())
}

/// Makes this node a device and signs its first head.
async fn enrol(core: &Arc<Core>, request: RecoverRequest) -> Result<(), ApiError> {
    core.blocking(move |core| {
        engine::enrol_device(
            &core.store,
            &request.phrase,
            core.key.peer_id(),
            &request.device_name,
            &request.passphrase,
            KdfCost::DEFAULT,
            SystemClock.now(),
        )
        .map_err(failed)?;
        core.unlock_new(&request.passphrase)?;
        let vault = core.vault()?;
        let view = VaultView::load(&vault).map_err(failed)?;
        let heir_of = request.heir_of.map(|name| find_device(&view, &name)).transpose()?;
        // What was there at an earlier time stays listed, whatever the newer heads say that come with the next contact.
        let carried = Carried { heir_of, all: request.at.is_some() };
        let holders: Vec<PeerAddress> = core.holder_addresses();
        engine::publish_first_head(&vault, carried, &holders).map_err(failed)?;
        Ok(())
    })
    .await
}

/// A device by name or id prefix.
fn find_device(view: &VaultView, name: &str) -> Result<DeviceId, ApiError> {
    let matches = |head: &&Head| {
        let id = head.device().to_string();
        view.device_name(head.device()) == name || (name.len() >= 4 && id.starts_with(name))
    };
    let found: Vec<&Head> = view.heads.iter().filter(matches).collect();
    if let [head] = found.as_slice() {
        return Ok(head.device());
    }
    let names: Vec<String> = view
        .heads
        .iter()
        .map(|head| format!("{} ({})", view.device_name(head.device()), head.device().short()))
        .collect();
    Err(ApiError::new(Code::UsageInvalid, format!("no single device matches {name:?}"))
        .with_hint(format!("devices of this vault: {}", names.join(", "))))
}

/// Asks a holder to confirm what it holds of the vault's heads, so that copies are counted again.
pub(super) async fn ask_receipts(
    core: &Arc<Core>,
    net: &Net,
    holder: PeerId,
    vault: VaultId,
) -> Result<(), ApiError> {
    let heads = core.blocking(move |core| engine::newest_heads(&core.store, vault).map_err(failed)).await?;
    for head in heads {
        let id = head.id;
        let listed =
            core.blocking(move |core| engine::head_packs(&core.store, &head).map_err(failed)).await?;
        let packs: Vec<PackId> = listed.into_iter().map(|(id, _)| id).collect();
        let parts: Vec<&[PackId]> =
            if packs.is_empty() { vec![&[]] } else { packs.chunks(limit::OFFER_PACKS_MAX).collect() };
        for part in parts {
            let query = wire::ReceiptQuery {
                vault: vault.as_bytes().to_vec(),
                head: id.as_bytes().to_vec(),
                packs: part.iter().map(|pack| pack.as_bytes().to_vec()).collect(),
            };
            if let Some(Answer::Receipt(signed)) = ask(net, holder, Ask::Receipts(query)).await? {
                core.blocking(move |core| {
                    engine::record_receipt(&core.store, vault, holder, &signed).map_err(failed)
                })
                .await?;
            }
        }
    }
    Ok(())
}
