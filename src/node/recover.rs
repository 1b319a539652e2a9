//! New devices of a vault: from the phrase and one holder's address (recovery) or another device's ticket (joining) to a
//! working device. Both end the same way; they differ in how the first node is met.

use std::collections::HashSet;
use std::net::IpAddr;
use std::pin::pin;
use std::sync::Arc;

use futures::StreamExt;
use serde::Serialize;
use tokio::time::timeout;

use super::auditing;
use super::chains;
use super::core::{Core, log_failure, recall};
use super::devices;
use super::door::prove;
use super::error::{failed, panicked};
use super::inviting;
use super::making::as_new_device;
use super::owning::index_listed;
use super::records::{Patience, Pull, ask, heads_at, refused, unmet};
use super::ticket::Ticket;
use super::{Mode, Node};
use crate::api::{ApiError, Identity, Joined, Role};
use crate::base::{
    Category, Clock, Code, Epoch, ListId, Moment, PackId, PeerId, SystemClock, VaultId, limit, random_bytes,
};
use crate::config::Settings;
use crate::crypto::{AdminKey, KdfCost, Passphrase, Phrase};
use crate::engine::{self, Carried, VaultView};
use crate::net::{Net, parse_peer_address};
use crate::snapshot::{Head, HeadName, HeadSummary, PeerAddress, open_device_name, sign_revocation};
use crate::store::{PeerEntry, Purpose, Store, Word};
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
    /// The lost device is inherited from although holders that may have more of it are not there.
    pub confirmed: bool,
}

/// What recovery brought.
#[derive(Debug, Clone, Serialize)]
pub struct RecoverSummary {
    /// The new node.
    pub identity: Identity,
    /// Snapshots that can be restored.
    pub snapshots: u64,
    /// Snapshots whose records are at no holder that was reached.
    pub damaged: u64,
    /// Heads found, one for each device.
    pub heads: u64,
    /// Newest heads of devices that are damaged at the holders that were reached: what only they list was not found.
    pub hidden: u64,
    /// Pieces of pack lists that are at no holder that was reached: packs that only they name are not known.
    pub lists: u64,
    /// Packs known.
    pub packs: u64,
    /// Packs whose directories could not be read yet; the daemon goes on with them when holders come.
    pub unread: u64,
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
/// which comes from holders when it is read. One that was cut off goes on where it was. `ready` is called last, before the
/// node is whole.
///
/// # Errors
/// A directory in use, a holder that cannot be reached or does not know the vault. What came stays, so that the same command goes on.
pub async fn recover(
    settings: Settings,
    request: RecoverRequest,
    progress: impl Fn(&str) + Send + Sync,
    ready: impl FnOnce(),
) -> Result<RecoverSummary, ApiError> {
    let RecoverRequest { newcomer, peer, heir_of, at, confirmed } = request;
    let (peer, address) = parse_peer_address(&peer).map_err(failed)?;
    newcomer.check()?;
    let admin = newcomer.phrase.root().admin();
    let vault = admin.vault();
    let then = at.map_or_else(String::new, |at| format!(" at {}", at.as_millis()));
    let purpose = Purpose { command: "recover".to_owned(), detail: format!("{vault}{then}") };
    let work = async |core: &Arc<Core>| {
        let patience = Patience::endless(&progress);
        let named = PeerAddress { peer, addresses: vec![address] };
        let first = first_holder(core, &admin, named, &patience).await?;
        let found = find_vault(core, &admin, first, at, &patience).await?;
        if heir_of.is_some() && !confirmed {
            found.is_all_there_was()?;
        }
        settle(core, newcomer, Wish { heir_of, all: at.is_some() }, found, &patience).await
    };
    as_new_device(settings, purpose, vault, work, ready).await
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
    ready: impl FnOnce(),
) -> Result<DeviceJoined, ApiError> {
    let admin = newcomer.phrase.root().admin();
    let vault = admin.vault();
    if ticket.role != Role::Device {
        return Err(ApiError::new(Code::UsageInvalid, "this ticket is not for another device of a vault"));
    }
    if ticket.vault != Some(vault) {
        let text = "this is another vault's phrase: it does not belong to the ticket";
        return Err(ApiError::new(Code::InvalidKey, text)
            .with_hint("give the 24 words of the vault on the machine that made the ticket"));
    }
    newcomer.check()?;
    let purpose = Purpose { command: "join".to_owned(), detail: vault.to_string() };
    let work = async |core: &Arc<Core>| {
        let patience = Patience::endless(&progress);
        patience.tell("redeeming the ticket");
        let joined = inviting::redeem(core, ticket, &patience).await?;
        let found = find_vault(core, &admin, ticket.peer, None, &patience).await?;
        let found = settle(core, newcomer, Wish::default(), found, &patience).await?;
        Ok(DeviceJoined { joined, found })
    };
    as_new_device(settings, purpose, vault, work, ready).await
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
        Ok(net) => {
            let addresses = [address];
            let patience = Patience::SHORT.at_the_door();
            patience.with(&node.core, peer, || prove_to(net, admin, peer, &addresses, true)).await
        }
        Err(error) => Err(error),
    };
    log_failure(node.shutdown().await, "shutting down");
    proved.map(|_| ())
}

/// Has a holder let this node in: the one that is named, or, when that cannot be reached, one that an earlier try met.
async fn first_holder(
    core: &Arc<Core>,
    admin: &AdminKey,
    named: PeerAddress,
    patience: &Patience<'_>,
) -> Result<PeerId, ApiError> {
    let met = core.holder_addresses();
    patience.tell("knocking at the holder's door");
    let error = match knock_patiently(core, admin, &named, Said::Owner, patience).await {
        Ok(()) => return Ok(named.peer),
        Err(error) => error,
    };
    for other in met.iter().filter(|other| other.peer != named.peer) {
        let (gone, next) = (named.peer.short(), other.peer.short());
        patience.tell(&format!("holder {gone} was not reached; asking {next}, which an earlier try met"));
        if knock_patiently(core, admin, other, Said::Owner, patience).await.is_ok() {
            return Ok(other.peer);
        }
    }
    Err(error)
}

/// Meets the other holders that the first one knows, and takes over heads and records; who let this node in.
async fn find_vault(
    core: &Arc<Core>,
    admin: &AdminKey,
    first: PeerId,
    at: Option<Moment>,
    patience: &Patience<'_>,
) -> Result<Met, ApiError> {
    let net = core.net()?.clone();
    let vault = admin.vault();
    let known = patience.with(core, first, || heads_at(core, &net, first, vault, None)).await?.holders;
    let others: Vec<PeerAddress> =
        known.into_iter().filter(|other| other.peer != first && other.peer != net.peer_id()).collect();
    let mut holders = vec![first];
    let (met, absent) = meet(core, admin, first, others, patience).await?;
    holders.extend(met);
    patience.tell("fetching heads and snapshot records");
    let hidden = fetch_heads(core, &net, &holders, vault, at, patience).await?;
    // Whom one peer names is a holder once a head of the vault says so too.
    let named = core.blocking(move |core| named_holders(core, vault)).await?;
    let seen_at = net.seen_at(first);
    for holder in named.iter().filter(|holder| absent.contains(&holder.peer)) {
        devices::allow_holder(core, holder, seen_at, false).await?;
    }
    Ok(Met { holders, absent, hidden })
}

/// What became of the vault's holders, and of what they have.
struct Met {
    /// Those that let this node in.
    holders: Vec<PeerId>,
    /// Those that were not reached.
    absent: Vec<PeerId>,
    /// Newest heads that holders had, that cannot be read there, and that no other one has.
    hidden: Vec<HeadSummary>,
}

impl Met {
    /// Whether nobody may know of more than was found: what an heir carries on ends there.
    fn is_all_there_was(&self) -> Result<(), ApiError> {
        let names = self.absent.iter().map(|peer| peer.short()).collect::<Vec<_>>().join(", ");
        let text = match (self.absent.is_empty(), self.hidden.is_empty()) {
            (true, true) => return Ok(()),
            (false, _) => format!("{names} were not reached, and may have newer snapshots of that device"),
            (true, false) => {
                "the newest head of a device is damaged at the holders that were reached".to_owned()
            }
        };
        let hint = "when they are there, run the same command again: it goes on where it was; with --yes, what only they have of that device counts no more";
        Err(ApiError::new(Code::Incomplete, text).with_hint(hint))
    }
}

/// Holders that heads of the vault name. Blocking.
fn named_holders(core: &Core, vault: VaultId) -> Result<Vec<PeerAddress>, ApiError> {
    let mut named: Vec<PeerAddress> = Vec::new();
    for head in engine::newest_heads(&core.store, vault).map_err(failed)?.flatten() {
        let is_new = |holder: &&PeerAddress| !named.iter().any(|known| known.peer == holder.peer);
        let fresh: Vec<PeerAddress> = head.draft.holders.iter().filter(is_new).cloned().collect();
        named.extend(fresh);
    }
    Ok(named)
}

/// Knocks at the doors of all that `first` says are holders; those that opened, and those that were not reached. One holder is enough to go on, so nobody waits long for one
/// that is away: its door opens to this device's certificate when it is back.
async fn meet(
    core: &Arc<Core>,
    admin: &AdminKey,
    first: PeerId,
    holders: Vec<PeerAddress>,
    patience: &Patience<'_>,
) -> Result<(Vec<PeerId>, Vec<PeerId>), ApiError> {
    if holders.is_empty() {
        return Ok((Vec::new(), Vec::new()));
    }
    let names = |holders: &[&PeerAddress]| {
        holders.iter().map(|holder| holder.peer.short()).collect::<Vec<_>>().join(", ")
    };
    let mut waited: Vec<&PeerAddress> = holders.iter().collect();
    let (teller, told) = (first.short(), names(&waited));
    patience.tell(&format!("{teller} says that these are holders too, and they are asked: {told}"));
    let seen_at = core.net()?.seen_at(first);
    let knocks = holders.iter().map(async |holder| {
        let knocked = knock_patiently(core, admin, holder, Said::By { seen_at }, patience).await;
        (holder, knocked)
    });
    let mut knocks = pin!(futures::stream::iter(knocks).buffer_unordered(limit::DIALS_MAX));
    let (mut met, mut absent) = (Vec::new(), Vec::new());
    while let Ok(Some((holder, knocked))) = timeout(limit::HOLDER_WAIT, knocks.next()).await {
        waited.retain(|other| other.peer != holder.peer);
        match knocked {
            Ok(()) => met.push(holder.peer),
            Err(error) => {
                tracing::info!(target: "recover", peer = %holder.peer.short(), %error, "a holder was not reached");
                absent.push(holder);
            }
        }
    }
    absent.extend(waited);
    if !absent.is_empty() {
        patience.tell(&format!("going on without those that were not reached: {}", names(&absent)));
    }
    Ok((met, absent.iter().map(|holder| holder.peer).collect()))
}

/// Who says where a holder is.
#[derive(Debug, Copy, Clone)]
enum Said {
    /// The owner, or it was met there before.
    Owner,
    /// A peer that is seen there.
    By { seen_at: Option<IpAddr> },
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
    Met { holders, hidden, .. }: Met,
    patience: &Patience<'_>,
) -> Result<RecoverSummary, ApiError> {
    let net = core.net()?.clone();
    patience.tell("enrolling this machine");
    enrol(core, newcomer, wish).await?;
    let open = core.vault()?;
    let vault = open.id();
    patience.tell("reading the directories of the vault's packs");
    let unread = read_directories(core, &net, vault, patience).await?;
    patience.tell("asking holders what they hold");
    for holder in &holders {
        let asked = ask_receipts(core, &net, *holder, vault, patience).await;
        log_failure(asked, "asking for receipts");
        // A device that this one is heir of was revoked just now.
        super::acl::tell(core.clone(), *holder).await;
    }
    let (view, packs, lists) = core
        .blocking(move |core| {
            let view = VaultView::load(&open).map_err(failed)?;
            let mut lists: HashSet<ListId> = HashSet::new();
            for head in &view.heads {
                lists.extend(engine::packs_as_known(&core.store, head).map_err(failed)?.1);
            }
            Ok((view, core.store.pack_counts().map_err(failed)?.own_packs, lists.len() as u64))
        })
        .await?;
    Ok(RecoverSummary {
        identity: Identity { vault_id: Some(vault), ..super::status::identity(core) },
        snapshots: view.snapshots.len() as u64,
        heads: view.heads.len() as u64,
        damaged: view.broken.len() as u64,
        hidden: hidden.len() as u64,
        lists,
        packs,
        unread,
        holders,
        devices: view.heads.iter().map(|head| view.device_name(head.device())).collect(),
    })
}

/// Reads the directories of all packs that the vault's heads list, for as long as that gets on; how many it did not get.
async fn read_directories(
    core: &Arc<Core>,
    net: &Net,
    vault: VaultId,
    patience: &Patience<'_>,
) -> Result<u64, ApiError> {
    let mut before = u64::MAX;
    loop {
        let failure = match index_listed(core, net, vault).await {
            Err(error) if is_ours(&error) => return Err(error),
            read => read.err(),
        };
        let unread = core.blocking(move |core| unread_packs(core, vault)).await?;
        if unread == 0 {
            return Ok(0);
        }
        if unread >= before {
            let why = failure.map(|error| format!(": {}", error.message)).unwrap_or_default();
            patience.tell(&format!("the directories of {unread} packs could not be read yet{why}"));
            return Ok(unread);
        }
        before = unread;
    }
}

/// Packs that heads list and that are not in the index. Blocking.
fn unread_packs(core: &Arc<Core>, vault: VaultId) -> Result<u64, ApiError> {
    let mut unread = HashSet::new();
    for head in engine::newest_heads(&core.store, vault).map_err(failed)? {
        let head = head.map_err(failed)?;
        for listed in engine::head_packs(&core.store, &head) {
            // Pieces of lists that are nowhere are told for themselves.
            let Ok((id, _)) = listed else { continue };
            if core.store.pack_by_id(id).map_err(failed)?.is_none() {
                unread.insert(id);
            }
        }
    }
    Ok(unread.len() as u64)
}

/// Whether the fault lies with this machine, so that it makes no sense to go on.
fn is_ours(error: &ApiError) -> bool {
    matches!(error.kind().category(), Category::Storage | Category::Resource)
        && !matches!(error.kind(), Code::ChunkNotFound | Code::StorageCorrupted)
}

/// Knocks for as long as the door is only said to be busy.
async fn knock_patiently(
    core: &Arc<Core>,
    admin: &AdminKey,
    holder: &PeerAddress,
    said: Said,
    patience: &Patience<'_>,
) -> Result<(), ApiError> {
    let knock = || knock(core, admin, holder.peer, &holder.addresses, said);
    patience.at_the_door().with(core, holder.peer, knock).await
}

/// Proves the vault to a holder and makes it a member here.
async fn knock(
    core: &Arc<Core>,
    admin: &AdminKey,
    holder: PeerId,
    addresses: &[String],
    said: Said,
) -> Result<(), ApiError> {
    let net = core.net()?;
    let addresses: Vec<String> = addresses.iter().take(limit::PEER_ADDRESSES_MAX).cloned().collect();
    let entry = match said {
        Said::Owner => PeerEntry { addresses, ..PeerEntry::new(holder, core.now()) },
        Said::By { seen_at } => PeerEntry::told(holder, core.now(), &addresses, seen_at),
    };
    let dialled = match said {
        Said::Owner => entry.addresses.as_slice(),
        Said::By { .. } => {
            recall(net, &entry).await;
            &[]
        }
    };
    if !prove_to(net, admin, holder, dialled, false).await? {
        return Err(refused(holder, Status::Refused));
    }
    let entry = PeerEntry { last_seen: Some(core.now()), ..entry };
    core.admit(entry, Word::Proof).await
}

/// Proves the vault to a holder that stores it; whether that admitted this node.
async fn prove_to(
    net: &Net,
    admin: &AdminKey,
    holder: PeerId,
    addresses: &[String],
    drill: bool,
) -> Result<bool, ApiError> {
    net.dial(holder, addresses).await.map_err(unmet)?;
    let challenge = wire::DoorRequest { ask: Some(door_request::Ask::Challenge(wire::DoorChallenge {})) };
    let answer = net.door(holder, challenge).await.map_err(unmet)?;
    if answer.status() != Status::Ok {
        return Err(refused(holder, answer.status()));
    }
    let proof = prove(admin, net.peer_id(), holder, &answer.nonce, drill);
    let answer = net.door(holder, proof).await.map_err(unmet)?;
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
    patience: &Patience<'_>,
) -> Result<Vec<HeadSummary>, ApiError> {
    let ask = holders.iter().map(async |holder| {
        let known = patience.with(core, *holder, || heads_at(core, net, *holder, vault, at)).await;
        (*holder, known)
    });
    let mut told = pin!(futures::stream::iter(ask).buffer_unordered(limit::DIALS_MAX));
    let mut best: Vec<(HeadSummary, Vec<PeerId>)> = Vec::new();
    let mut hidden: Vec<HeadSummary> = Vec::new();
    let mut failure = None;
    while let Some((holder, known)) = told.next().await {
        let known = match known {
            Ok(known) => known,
            Err(error) => {
                patience.tell(&format!("{} tells nothing: {}", holder.short(), error.message));
                failure = Some(error);
                continue;
            }
        };
        devices::take(core, holder, Some(vault), known.revocations).await;
        hidden.extend(known.unreadable);
        for head in known.heads {
            // Holders may know different branches of one device's chain: all are taken over.
            match best.iter_mut().find(|(known, _)| known.id == head.id) {
                None => best.push((head, vec![holder])),
                Some((_, holders)) => holders.push(holder),
            }
        }
    }
    if best.is_empty() {
        let when = if at.is_some() { " from that time" } else { "" };
        let nothing = match hidden.len() {
            0 => ApiError::new(Code::VaultNotFound, format!("no holder has a head of this vault{when}")),
            damaged => ApiError::new(
                Code::SnapshotCorrupted,
                format!(
                    "all {damaged} heads that the holders which were reached have of this vault are damaged there"
                ),
            ),
        };
        return Err(failure.unwrap_or(nothing));
    }
    // One holder may not know yet what another one says of a device.
    let revoked = core.blocking(move |core| engine::revocations(&core.store, vault).map_err(failed)).await?;
    best.retain(|(head, _)| revoked.admits(head.device, head.seq, head.id));
    // What a later one carries on need not be fetched.
    best.sort_by_key(|(head, _)| std::cmp::Reverse(head.seq));
    for (head, named_by) in best {
        if core.blocking(move |core| engine::is_known(&core.store, vault, &head).map_err(failed)).await? {
            continue;
        }
        // Who does not name it may have some of its records.
        let others = holders.iter().filter(|holder| !named_by.contains(holder));
        let asked: Vec<PeerId> = named_by.iter().chain(others).copied().collect();
        fetch_head(core, net, &asked, vault, head, patience).await?;
    }
    // What another holder had, or a later head carries on, is missed by nobody.
    let missed = core.blocking(move |core| chains::missed(core, vault, hidden)).await?;
    for head in &missed {
        let device = head.device.short();
        patience.tell(&format!(
            "head {} of device {device} is damaged at the holders that were reached: what only it lists is not found",
            head.seq
        ));
    }
    Ok(missed)
}

/// Takes over one head: what one holder does not have comes from the next. Records and pieces of pack lists that none of them
/// has do not keep the rest from coming back.
async fn fetch_head(
    core: &Arc<Core>,
    net: &Net,
    holders: &[PeerId],
    vault: VaultId,
    head: HeadSummary,
    patience: &Patience<'_>,
) -> Result<(), ApiError> {
    let mut failure = None;
    for holder in holders {
        match Pull::new(core, net, *holder, vault).with(patience).pull(head.id).await {
            Ok(_) => return Ok(()),
            Err(error) if is_ours(&error) => return Err(error),
            Err(error) => {
                patience.tell(&format!("not all of a head came from {}: {}", holder.short(), error.message));
                failure.get_or_insert(error);
            }
        }
    }
    let error = failure.expect("one holder let this node in");
    for holder in holders {
        let pull = Pull::new(core, net, *holder, vault).with(patience);
        if let Ok((lists, records)) = pull.pull_without(head.id).await {
            let nowhere = "are at none of the holders that were reached";
            if lists > 0 {
                patience.tell(&format!("{lists} pieces of pack lists {nowhere}"));
            }
            if records > 0 {
                patience.tell(&format!("{records} snapshot records {nowhere}"));
            }
            return Ok(());
        }
    }
    Err(error)
}

/// Makes this node a device and signs its first head.
async fn enrol(core: &Arc<Core>, newcomer: Newcomer, wish: Wish) -> Result<(), ApiError> {
    core.blocking(move |core| {
        let mine = newcomer.phrase.root().admin().vault();
        // An earlier try may have got so far. With another passphrase its keys are of no use.
        let is_enrolled = core.store.read_vault_id().map_err(failed)? == Some(mine)
            && engine::unlock(&core.store, &newcomer.passphrase).is_ok();
        if !is_enrolled {
            core.store.remove_vault().map_err(failed)?;
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
        }
        core.unlock_new(&newcomer.passphrase)?;
        let vault = core.vault()?;
        let view = VaultView::load(&vault).map_err(failed)?;
        let heir_of = wish.heir_of.map(|name| devices::find(core, &name)).transpose()?;
        if !view.heads.iter().any(|head| head.device() == vault.device()) {
            // What was there at an earlier time stays listed, whatever the newer heads say that come with the next contact.
            let carried = Carried { heir_of, all: wish.all };
            let holders: Vec<PeerAddress> = core.holder_addresses();
            engine::publish_first_head(&vault, carried, &holders).map_err(failed)?;
        }
        let admin = newcomer.phrase.root().admin();
        let lost = view.heads.iter().filter(|head| Some(head.device()) == heir_of);
        let last_good: Vec<HeadName> = lost.map(|head| (head.draft.seq, head.id)).collect();
        if let (Some(device), false) = (heir_of, last_good.is_empty()) {
            // Whoever has the lost machine now cannot change what this one carries on.
            let heir = Some(vault.device());
            let signed = sign_revocation(&admin, device, &last_good, heir, SystemClock.now());
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
    let mut taken: HashSet<String> = HashSet::new();
    for head in heads {
        taken.extend(open_device_name(&head.map_err(failed)?.certificate, &keys));
    }
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
    patience: &Patience<'_>,
) -> Result<(), ApiError> {
    let heads: Vec<Head> = core
        .blocking(move |core| {
            engine::newest_heads(&core.store, vault).and_then(Iterator::collect).map_err(failed)
        })
        .await?;
    for head in heads {
        let id = head.id;
        let packs: Vec<PackId> = core
            .blocking(move |core| {
                let packs = engine::head_packs(&core.store, &head).map(|listed| listed.map(|(id, _)| id));
                packs.collect::<Result<_, _>>().map_err(failed)
            })
            .await?;
        let parts: Vec<&[PackId]> =
            if packs.is_empty() { vec![&[]] } else { packs.chunks(limit::OFFER_PACKS_MAX).collect() };
        for part in parts {
            let query = wire::ReceiptQuery {
                vault: vault.as_bytes().to_vec(),
                head: id.as_bytes().to_vec(),
                packs: part.iter().map(|pack| pack.as_bytes().to_vec()).collect(),
            };
            let answer =
                patience.with(core, holder, || ask(net, holder, Ask::Receipts(query.clone()))).await?;
            if let Some(Answer::Receipt(signed)) = answer {
                let asked: HashSet<PackId> = part.iter().copied().collect();
                core.blocking(move |core| {
                    auditing::take_receipt(core, vault, holder, &signed, &|pack| asked.contains(pack))
                })
                .await?;
            }
        }
    }
    Ok(())
}
