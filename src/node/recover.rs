//! New devices of a vault: from the phrase and one holder's address (recovery) or another device's ticket (joining) to a
//! working device. Both end the same way; they differ in how the first node is met.

use std::collections::HashSet;
use std::pin::pin;
use std::sync::Arc;

use futures::StreamExt;
use serde::Serialize;

use super::core::{Core, log_failure};
use super::devices;
use super::door::prove;
use super::error::{failed, panicked};
use super::inviting;
use super::owning::index_listed;
use super::records::{ask, heads_at, heads_of, pull_head, refused};
use super::ticket::Ticket;
use super::{Mode, Node};
use crate::api::{ApiError, Identity, Joined, Role};
use crate::base::{Clock, Code, Epoch, Moment, PackId, PeerId, SystemClock, VaultId, limit, random_bytes};
use crate::config::Settings;
use crate::crypto::{AdminKey, KdfCost, Passphrase, Phrase};
use crate::engine::{self, Carried, VaultView};
use crate::net::{Net, parse_peer_address};
use crate::snapshot::{HeadSummary, PeerAddress, open_device_name, sign_revocation};
use crate::store::{PeerEntry, Store};
use crate::wire::{self, Status, door_request, sync_request::Ask, sync_response::Answer};

/// What makes a node a device of a vault.
pub struct Newcomer {
    /// The vault's phrase.
    pub phrase: Phrase,
    /// Protects the new device's keys.
    pub passphrase: Passphrase,
    /// Name of the new device.
    pub device_name: String,
}

impl Newcomer {
    fn check(&self) -> Result<(), ApiError> {
        if self.passphrase.is_empty() {
            let text = "the passphrase for this device must not be empty";
            return Err(ApiError::new(Code::WrongPassphrase, text));
        }
        Ok(())
    }
}

/// `recover`.
pub struct RecoverRequest {
    /// The new device.
    pub newcomer: Newcomer,
    /// One holder's multiaddr with `/p2p/ID`.
    pub peer: String,
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

/// What joining a vault as another device brought.
#[derive(Debug, Clone, Serialize)]
pub struct DeviceJoined {
    /// The device that made the ticket.
    #[serde(flatten)]
    pub joined: Joined,
    /// The vault, as of a recovery.
    #[serde(flatten)]
    pub found: RecoverSummary,
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
    let RecoverRequest { newcomer, peer, heir_of, at } = request;
    let (peer, address) = parse_peer_address(&peer).map_err(failed)?;
    newcomer.check()?;
    as_new_node(settings, async |core| {
        progress("knocking at the holder's door");
        let admin = newcomer.phrase.root().admin();
        knock(core, core.net()?, &admin, peer, &[address]).await?;
        let found = find_vault(core, &admin, peer, at, &progress).await?;
        settle(core, newcomer, Wish { heir_of, all: at.is_some() }, found, &progress).await
    })
    .await
}

/// The same for a machine that another device of the vault invited; the two are peers afterwards.
///
/// # Errors
/// As of [`recover`]; a phrase of another vault than the ticket's: then nobody was asked anything.
pub async fn join_device(
    settings: Settings,
    newcomer: Newcomer,
    ticket: &Ticket,
    progress: impl Fn(&str) + Send + Sync,
) -> Result<DeviceJoined, ApiError> {
    let admin = newcomer.phrase.root().admin();
    if ticket.role != Role::Device {
        return Err(ApiError::new(Code::UsageInvalid, "this ticket is not for another device of a vault"));
    }
    if ticket.vault != Some(admin.vault()) {
        let text = "this is another vault's phrase: it does not belong to the ticket";
        return Err(ApiError::new(Code::InvalidKey, text)
            .with_hint("give the 24 words of the vault on the machine that made the ticket"));
    }
    newcomer.check()?;
    as_new_node(settings, async |core| {
        progress("redeeming the ticket");
        let joined = inviting::redeem(core, ticket).await?;
        let found = find_vault(core, &admin, ticket.peer, None, &progress).await?;
        let found = settle(core, newcomer, Wish::default(), found, &progress).await?;
        Ok(DeviceJoined { joined, found })
    })
    .await
}

/// Makes a node, has `work` make a device of it, and removes it again when that fails.
async fn as_new_node<T>(
    settings: Settings,
    work: impl AsyncFnOnce(&Arc<Core>) -> Result<T, ApiError>,
) -> Result<T, ApiError> {
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
    let result = work(&node.core).await;
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

/// Meets the other holders that the first one knows, and takes over heads and records; who let this node in.
async fn find_vault(
    core: &Arc<Core>,
    admin: &AdminKey,
    first: PeerId,
    at: Option<Moment>,
    progress: &(impl Fn(&str) + Send + Sync),
) -> Result<Vec<PeerId>, ApiError> {
    let net = core.net()?.clone();
    let vault = admin.vault();
    progress("fetching heads and snapshot records");
    let known = heads_of(core, &net, first, vault).await?.holders;
    let mut holders = vec![first];
    let others: Vec<&PeerAddress> =
        known.iter().filter(|other| other.peer != first && other.peer != net.peer_id()).collect();
    if !others.is_empty() {
        progress("meeting the other holders that it knows");
    }
    let met = others
        .into_iter()
        .map(async |other| (other, knock(core, &net, admin, other.peer, &other.addresses).await));
    // Best effort: one holder is enough to go on.
    let mut met = pin!(futures::stream::iter(met).buffered(limit::DIALS_MAX));
    while let Some((other, met)) = met.next().await {
        match met {
            Ok(()) => holders.push(other.peer),
            Err(error) => {
                progress(&format!("holder {} was not reached; going on without it", other.peer.short()));
                tracing::info!(target: "recover", peer = %other.peer.short(), %error, "a holder was not reached");
                // Its door opens to this device's certificate when it is back.
                devices::allow_holder(core, other, false).await?;
            }
        }
    }
    fetch_heads(core, &net, &holders, vault, at).await?;
    Ok(holders)
}

/// What a new device is to carry on, as [`Carried`] with the lost device's name or id.
#[derive(Default)]
struct Wish {
    heir_of: Option<String>,
    all: bool,
}

/// Makes this node a device, and lets it know what is where.
async fn settle(
    core: &Arc<Core>,
    newcomer: Newcomer,
    wish: Wish,
    holders: Vec<PeerId>,
    progress: &(impl Fn(&str) + Send + Sync),
) -> Result<RecoverSummary, ApiError> {
    let net = core.net()?.clone();
    progress("enrolling this machine");
    enrol(core, newcomer, wish).await?;
    let open = core.vault()?;
    let vault = open.id();
    progress("reading the directories of the vault's packs");
    let packs = index_listed(core, &net, vault).await?;
    progress("asking holders what they hold");
    for holder in &holders {
        log_failure(ask_receipts(core, &net, *holder, vault).await, "asking for receipts");
        // A device that this one is heir of was revoked just now.
        super::acl::tell(core.clone(), *holder).await;
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
    let mut best: Vec<(PeerId, HeadSummary)> = Vec::new();
    let mut failure = None;
    for holder in holders {
        let known = match heads_at(core, net, *holder, vault, at).await {
            Ok(known) => known,
            Err(error) => {
                failure = Some(error);
                continue;
            }
        };
        devices::take(core, *holder, Some(vault), known.revocations).await;
        for head in known.heads {
            // Holders may know different branches of one device's chain: all are taken over.
            if !best.iter().any(|(_, known)| known.id == head.id) {
                best.push((*holder, head));
            }
        }
    }
    if best.is_empty() {
        let when = if at.is_some() { " from that time" } else { "" };
        let nothing = ApiError::new(Code::VaultNotFound, format!("no holder has a head of this vault{when}"));
        return Err(failure.unwrap_or(nothing));
    }
    // One holder may not know yet what another one says of a device.
    let revoked = core.blocking(move |core| engine::revocations(&core.store, vault).map_err(failed)).await?;
    best.retain(|(_, head)| revoked.admits(head.device, head.seq, head.id));
    // What a later one carries on need not be fetched.
    best.sort_by_key(|(_, head)| std::cmp::Reverse(head.seq));
    for (holder, head) in best {
        if core.blocking(move |core| engine::is_known(&core.store, vault, &head).map_err(failed)).await? {
            continue;
        }
        pull_head(core, net, holder, vault, head.id).await?;
    }
    Ok(())
}

/// Makes this node a device and signs its first head.
async fn enrol(core: &Arc<Core>, newcomer: Newcomer, wish: Wish) -> Result<(), ApiError> {
    core.blocking(move |core| {
        let name = free_name(core, &newcomer)?;
        engine::enrol_device(
            &core.store,
            &newcomer.phrase,
            core.key.peer_id(),
            &name,
            &newcomer.passphrase,
            KdfCost::DEFAULT,
            SystemClock.now(),
        )
        .map_err(failed)?;
        core.unlock_new(&newcomer.passphrase)?;
        let vault = core.vault()?;
        let view = VaultView::load(&vault).map_err(failed)?;
        let heir_of = wish.heir_of.map(|name| devices::find(core, &name)).transpose()?;
        // What was there at an earlier time stays listed, whatever the newer heads say that come with the next contact.
        let carried = Carried { heir_of, all: wish.all };
        let holders: Vec<PeerAddress> = core.holder_addresses();
        engine::publish_first_head(&vault, carried, &holders).map_err(failed)?;
        let admin = newcomer.phrase.root().admin();
        let lost = view.heads.iter().filter(|head| Some(head.device()) == heir_of);
        if let Some(lost) = lost.max_by_key(|head| head.draft.seq) {
            // Whoever has the lost machine now cannot change what this one carries on.
            let heir = Some(vault.device());
            let signed = sign_revocation(&admin, &lost.summary(), heir, SystemClock.now());
            engine::keep_revocation(&core.store, &signed).map_err(failed)?;
        }
        Ok(())
    })
    .await
}

/// A name that no other device of the vault has: the wished one, or with a number behind it.
fn free_name(core: &Core, newcomer: &Newcomer) -> Result<String, ApiError> {
    let root = newcomer.phrase.root();
    let (vault, keys) = (root.admin().vault(), root.vault_keys(Epoch(0)));
    let heads = engine::newest_heads(&core.store, vault).map_err(failed)?;
    let taken: HashSet<String> =
        heads.iter().filter_map(|head| open_device_name(&head.certificate, &keys)).collect();
    let wished = &newcomer.device_name;
    let numbered = (2u32..).map(|number| format!("{wished}-{number}"));
    let mut names = std::iter::once(wished.clone()).chain(numbered);
    Ok(names.find(|name| !taken.contains(name)).expect("a vault's devices are finite"))
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
