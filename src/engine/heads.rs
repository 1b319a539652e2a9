//! The vault as its heads tell it: which count, what they list, and the snapshots of all devices.

use std::collections::{HashMap, HashSet};

use super::chain::{Heads, UnreadableHead, admitted_names, counting, read_head, read_links};
use super::error::EngineError;
use super::expected;
use super::holder::{HolderError, check_device, readable};
use super::revocations::{Revocations, revocations};
use super::vault::Vault;
use crate::base::{DeviceId, HeadId, ListId, Moment, PackId, SnapshotId, VaultId, limit};
use crate::crypto::VaultKeys;
use crate::policy::believed;
use crate::snapshot::{
    Head, HeadName, HeadSummary, PackList, PackSize, Snapshot, open_device_name, open_record,
};
use crate::store::{RecordName, Store};

/// The heads of `vault` that count: of each device the tips of its chain, one or, where it forked, several. One that cannot be
/// read is passed over with a warning, and what it alone carries on counts ([`unreadable_heads`] tells). Of a revoked device
/// it is the last good one, or none once its heir carries on what it had.
pub fn newest_heads(store: &Store, vault: VaultId) -> Result<Heads<'_>, EngineError> {
    let revoked = revocations(store, vault)?;
    let carried_on = carried_on(store, vault, &revoked)?;
    Ok(Heads::of_vault(store, vault, &revoked)?.without(carried_on))
}

/// Revoked devices whose heir says, in a newest head, that it carries on what they had.
pub(super) fn carried_on(
    store: &Store,
    vault: VaultId,
    revoked: &Revocations,
) -> Result<HashSet<DeviceId>, EngineError> {
    let mut carried_on = HashSet::new();
    if !revoked.is_empty() {
        for head in Heads::of_vault(store, vault, revoked)? {
            carried_on.extend(revoked.carried_on(&head?));
        }
    }
    Ok(carried_on)
}

/// Heads of `vault` that cannot be read, or whose files are gone, and that no other one is known to carry on: what they list is
/// not known here.
pub fn unreadable_heads(store: &Store, vault: VaultId) -> Result<Vec<UnreadableHead>, EngineError> {
    let mut heads = Heads::of_vault(store, vault, &revocations(store, vault)?)?;
    let mut unreadable = Vec::new();
    while let Some(head) = heads.step()? {
        unreadable.extend(head.err());
    }
    Ok(unreadable)
}

/// Whether a peer that has this head can tell nothing new with it: it is here and can be read, or a head here carries it on.
pub fn is_known(store: &Store, vault: VaultId, head: &HeadSummary) -> Result<bool, EngineError> {
    let (device, name) = (head.device, (head.seq, head.id));
    if store.head_names(vault, device)?.contains(&name) && read_head(store, vault, device, name)?.is_ok() {
        return Ok(true);
    }
    let revoked = revocations(store, vault)?;
    Ok(!tips_with(store, vault, device, &revoked, (name, &[]))?.contains(&name))
}

/// Tips of a device's chain as they would be with one more head, which carries on those.
pub(super) fn tips_with(
    store: &Store,
    vault: VaultId,
    device: DeviceId,
    revoked: &Revocations,
    (one, its_links): (HeadName, &[HeadId]),
) -> Result<Vec<HeadName>, EngineError> {
    let mut names = admitted_names(store, vault, device, revoked)?;
    names.push(one);
    names.sort_unstable_by(|a, b| b.cmp(a));
    names.dedup();
    let (tips, _) = counting(&names, revoked.of(device), |name| match name == one {
        true => Ok(Some(its_links.to_vec())),
        false => read_links(store, vault, device, name),
    })?;
    Ok(tips)
}

/// The heads of `vault` that were the newest of their devices here at that moment, by when their files were written: a
/// device that lies about the time changes nothing. What was revoked since counted then.
pub fn heads_at(store: &Store, vault: VaultId, at: Moment) -> Result<Heads<'_>, EngineError> {
    Ok(Heads::of_vault(store, vault, &Revocations::default())?.at(at))
}

/// The newest heads of all devices, those of revoked ones too whose heirs carry on what they had: the last good ones.
pub fn last_heads(store: &Store, vault: VaultId) -> Result<Heads<'_>, EngineError> {
    Heads::of_vault(store, vault, &revocations(store, vault)?)
}

/// The newest head of a device that is here and can be read, whether or not it counts: it has the device's certificate.
pub fn any_head(store: &Store, vault: VaultId, device: DeviceId) -> Result<Option<Head>, EngineError> {
    for name in store.head_names(vault, device)? {
        if let Ok(head) = read_head(store, vault, device, name)? {
            return Ok(Some(head));
        }
    }
    Ok(None)
}

/// All packs that a head lists, a piece of its list in memory at a time. A piece that is missing or damaged is an error, and the
/// next ones follow.
pub fn head_packs<'a>(
    store: &'a Store,
    head: &'a Head,
) -> impl Iterator<Item = Result<(PackId, PackSize), EngineError>> + 'a {
    head.draft.lists.iter().flat_map(|list| {
        let (packs, problem) = match list_packs(store, list.id) {
            Ok(packs) => (packs, None),
            Err(problem) => (Vec::new(), Some(problem)),
        };
        packs.into_iter().map(Ok).chain(problem.map(Err))
    })
}

fn list_packs(store: &Store, id: ListId) -> Result<Vec<(PackId, PackSize)>, EngineError> {
    let bytes = readable(store.read_list(id))?;
    let bytes = bytes.ok_or_else(|| EngineError::RecordMissing(format!("pack list {id}")))?;
    Ok(PackList::decode(&bytes)?.into_packs())
}

/// A piece of a pack list, if it is here and can be read.
pub(super) fn read_list(store: &Store, id: ListId) -> Result<Option<PackList>, EngineError> {
    let bytes = readable(store.read_list(id))?;
    Ok(bytes.and_then(|bytes| PackList::decode(&bytes).ok()))
}

/// The packs that a head lists, and those of its lists that cannot be read.
pub fn packs_as_known(store: &Store, head: &Head) -> Result<(HashSet<PackId>, Vec<ListId>), EngineError> {
    let mut packs = HashSet::new();
    let lists = head.draft.lists.iter().map(|list| list.id).collect();
    let unreadable = for_each_listed(store, &lists, |id| {
        packs.insert(id);
    })?;
    Ok((packs, unreadable))
}

/// Calls `each` with every pack on these lists; a pack may come more than once. Returns the lists that cannot be read.
pub(super) fn for_each_listed(
    store: &Store,
    lists: &HashSet<ListId>,
    mut each: impl FnMut(PackId),
) -> Result<Vec<ListId>, EngineError> {
    let mut unreadable = Vec::new();
    for id in lists {
        match read_list(store, *id)? {
            Some(list) => list.packs().iter().for_each(|(id, _)| each(*id)),
            None => unreadable.push(*id),
        }
    }
    Ok(unreadable)
}

/// Calls `each` with every pack that any head here lists, replaced ones among them, of those devices that `counts` chooses;
/// returns the lists that cannot be read. A head that cannot be read is passed over.
pub(super) fn for_each_ever_listed(
    store: &Store,
    vault: VaultId,
    counts: impl Fn(DeviceId) -> bool,
    each: impl FnMut(PackId),
) -> Result<Vec<ListId>, EngineError> {
    let mut lists = HashSet::new();
    for device in store.head_devices(vault)?.into_iter().filter(|device| counts(*device)) {
        for name in store.head_names(vault, device)? {
            if let Ok(head) = read_head(store, vault, device, name)? {
                lists.extend(head.draft.lists.iter().map(|list| list.id));
            }
        }
    }
    for_each_listed(store, &lists, each)
}

/// Whether a head of that name was here, by what is known without its file.
pub fn was_here(
    store: &Store,
    vault: VaultId,
    device: DeviceId,
    name: HeadName,
) -> Result<bool, EngineError> {
    Ok(expected::expected(store, vault)?.contains(&(device, name)))
}

/// Snapshots of a revoked device that are listed by heads of it which are here and do not count, and by none that does.
pub fn snapshots_left_out(
    store: &Store,
    vault: VaultId,
    device: DeviceId,
) -> Result<HashSet<SnapshotId>, EngineError> {
    let (revoked, mut left) = (revocations(store, vault)?, HashSet::new());
    for (seq, id) in store.head_names(vault, device)? {
        if !revoked.admits(device, seq, id)
            && let Ok(head) = read_head(store, vault, device, (seq, id))?
        {
            left.extend(head.draft.snapshots);
        }
    }
    for head in newest_heads(store, vault)? {
        head?.draft.snapshots.iter().for_each(|id| {
            left.remove(id);
        });
    }
    Ok(left)
}

/// What came of a head that someone else had.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HeadNews {
    /// Known already, or carried on by what is known.
    Known,
    /// It carries on what was known: it is stored now.
    Adopted,
    /// The device's chain has several branches, this is the tip of one: all count.
    Forked,
    /// Its file was here, and damaged: it can be read again.
    Mended,
}

/// That a head is none that a revoked device may have signed since: of such a device one that is not here must be a last good
/// one or, while not all of these are here, come before them.
///
/// # Errors
/// [`HolderError::Revoked`]
pub fn check_counts(store: &Store, head: &Head) -> Result<(), EngineError> {
    let (vault, device, name) = (head.vault(), head.device(), (head.draft.seq, head.id));
    let revoked = revocations(store, vault)?;
    let Some(revocation) = revoked.of(device) else { return Ok(()) };
    let counts = revocation.admits(name.0, name.1)
        && (store.head_names(vault, device)?.contains(&name)
            || tips_with(store, vault, device, &revoked, (name, &[]))?.contains(&name));
    if counts { Ok(()) } else { Err(HolderError::Revoked(device).into()) }
}

/// Stores a verified head of anyone's vault if it is news. Its records must be stored before.
///
/// # Errors
/// [`HolderError::Revoked`]: see [`check_counts`].
/// [`HolderError::TooManyBranches`]: so many branches of that device's chain are here already.
/// [`HolderError::TooManyDevices`]: heads of as many other devices of that vault are here as it may have.
pub fn adopt_head(store: &Store, head: &Head, bytes: &[u8]) -> Result<HeadNews, EngineError> {
    let (vault, device, name) = (head.vault(), head.device(), (head.draft.seq, head.id));
    check_counts(store, head)?;
    let revoked = revocations(store, vault)?;
    let is_here = store.head_names(vault, device)?.contains(&name);
    if is_here && read_head(store, vault, device, name)?.is_ok() {
        return Ok(HeadNews::Known);
    }
    let links: Vec<HeadId> = head.carries_on().collect();
    let tips = tips_with(store, vault, device, &revoked, (name, &links))?;
    if !is_here && !tips.contains(&name) {
        return Ok(HeadNews::Known);
    }
    if tips.len() > limit::HEAD_BRANCHES_MAX {
        return Err(HolderError::TooManyBranches(device).into());
    }
    check_device(store, head.vault(), head.device())?;
    if is_here {
        store.replace_record(&RecordName::Head { vault, device, seq: name.0, id: name.1 }, bytes)?;
    } else {
        store.publish_head(vault, device, name.0, name.1, bytes)?;
    }
    expected::expect(store, vault, device, &tips)?;
    if is_here {
        return Ok(HeadNews::Mended);
    }
    if tips.len() == 1 {
        return Ok(HeadNews::Adopted);
    }
    tracing::warn!(target: "heads", %device, seq = name.0, branches = tips.len(),
        "forked head chain: a store was rolled back or copied; every branch counts until the device joins them");
    Ok(HeadNews::Forked)
}

/// The vault's heads and snapshots.
pub struct VaultView {
    /// Newest head of each device.
    pub heads: Vec<Head>,
    /// Snapshots of all devices, oldest first: those of one device in the order in which it made them, whatever its clock
    /// showed, and beside those of others by their times.
    pub snapshots: Vec<Snapshot>,
    /// Snapshots that a head lists but whose record is missing or damaged here.
    pub broken: Vec<(SnapshotId, String)>,
    /// Newest heads of their devices that cannot be read: they may list snapshots that are newer than all of these.
    pub hidden: Vec<UnreadableHead>,
    names: HashMap<DeviceId, String>,
    /// What is dated later is dated wrongly.
    latest: Moment,
}

impl VaultView {
    /// Reads heads and snapshot records of the vault.
    pub fn load(vault: &Vault) -> Result<Self, EngineError> {
        Self::read(vault)
    }

    fn read(vault: &Vault) -> Result<Self, EngineError> {
        let latest = vault.clock.now().after(limit::CLOCK_OFF_MIN);
        let (store, vault, keys) = (&vault.store, vault.id(), &vault.keyring.vault);
        let mut newest = newest_heads(store, vault)?;
        let heads: Vec<Head> = newest.by_ref().collect::<Result<_, _>>()?;
        if heads.is_empty() {
            // Every vault has a head from its first moment: without one this is damage, not an empty vault.
            return Err(EngineError::HeadsLost);
        }
        let mut hidden = newest.passed_over().to_vec();
        let is_later = |head: &Head, than: &UnreadableHead| {
            (head.device(), head.draft.seq > than.seq) == (than.device, true)
        };
        hidden.retain(|hidden| !heads.iter().any(|head| is_later(head, hidden)));
        let (snapshots, broken, names) = (Vec::new(), Vec::new(), HashMap::new());
        let mut view = Self { heads, snapshots, broken, hidden, names, latest };
        let mut seen = HashSet::new();
        for head in &view.heads {
            let name = open_device_name(&head.certificate, keys).unwrap_or_else(|| head.device().short());
            view.names.insert(head.device(), name);
            for id in head.draft.snapshots.iter().filter(|id| seen.insert(**id)) {
                match readable(store.read_snapshot(*id))? {
                    None => view.broken.push((*id, "its record is missing".to_owned())),
                    Some(bytes) => match open_record(&bytes, keys) {
                        Ok(snapshot) if snapshot.id == *id => view.snapshots.push(snapshot),
                        Ok(_) => view.broken.push((*id, "its record is another one".to_owned())),
                        Err(error) => view.broken.push((*id, error.to_string())),
                    },
                }
            }
        }
        view.name_former_devices(store, vault, keys)?;
        view.order();
        Ok(view)
    }

    /// Puts snapshots in order that come as heads list them. What one machine made comes in the order in which it made it;
    /// an heir lists what it carries on behind its own, and may have signed anew for it.
    fn order(&mut self) {
        // A clock before all of them is itself the wrong one.
        let is_sane = self.snapshots.iter().any(|snapshot| snapshot.time <= self.latest);
        let latest = if is_sane { self.latest } else { Moment::from_millis(u64::MAX) };
        let mut made: HashMap<(DeviceId, String), Vec<usize>> = HashMap::new();
        for (at, snapshot) in self.snapshots.iter().enumerate() {
            made.entry((snapshot.device, snapshot.info.hostname.clone())).or_default().push(at);
        }
        let mut placed = vec![Moment::default(); self.snapshots.len()];
        for of_one in made.into_values() {
            let times: Vec<Moment> = of_one.iter().map(|at| self.snapshots[*at].time).collect();
            for (at, time) in of_one.into_iter().zip(believed(&times, latest)) {
                placed[at] = time;
            }
        }
        let mut order: Vec<(Moment, Snapshot)> =
            placed.into_iter().zip(std::mem::take(&mut self.snapshots)).collect();
        order.sort_by_key(|(time, _)| *time);
        self.snapshots = order.into_iter().map(|(_, snapshot)| snapshot).collect();
    }

    /// Whether it is dated later than now by more than clocks differ: this one is wrong, or that was one.
    pub fn is_ahead(&self, snapshot: &Snapshot) -> bool {
        snapshot.time > self.latest
    }

    /// Devices without a head that counts keep their names for as long as one of their heads is here.
    fn name_former_devices(
        &mut self,
        store: &Store,
        vault: VaultId,
        keys: &VaultKeys,
    ) -> Result<(), EngineError> {
        for device in store.head_devices(vault)? {
            if !self.names.contains_key(&device)
                && let Some(head) = any_head(store, vault, device)?
                && let Some(name) = open_device_name(&head.certificate, keys)
            {
                self.names.insert(device, name);
            }
        }
        Ok(())
    }

    /// The name of a device, as its certificate has it.
    pub fn device_name(&self, device: DeviceId) -> String {
        self.names.get(&device).cloned().unwrap_or_else(|| device.short())
    }

    /// Whether a certificate of that device is known: its signature then counts.
    pub fn is_certified(&self, device: DeviceId) -> bool {
        let inherited = || self.heads.iter().any(|head| head.draft.inherited.contains(&device));
        self.names.contains_key(&device) || inherited()
    }
}
