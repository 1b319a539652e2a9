//! The holder's memory: what no newest head needs any more is kept for a while all the same.
//!
//! A head that another one carries on gets a stamp; for the length of the hold it counts as if it were still the newest, and
//! with it every pack, list and record that it names. So nothing that a device signs can destroy history before the hold
//! is over: not a head that lists nothing, not a clock, not a flood of heads. Time is what this node itself has seen pass
//! while it ran; stamps lie in a published file for each vault, and a lost one only makes the hold begin anew.
//!
//! What goes is what an expired head listed. A pack that no head here lists is held as well, from the moment that this is
//! noticed: the head may be what is lost. While a newest head is known to be gone, nothing of its vault goes.
//!
//! Heads of this node's own vault are pruned by the same rule; its packs are `gc`'s.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::chain::{Heads, UnreadableHead, devices, read_head};
use super::error::EngineError;
use super::expected;
use super::heads::{carried_on, for_each_listed};
use super::revocations::revocations;
use crate::base::{DeviceId, HeadId, ListId, PackId, SnapshotId, VaultId, limit};
use crate::snapshot::Release;
use crate::store::{PackNumber, Store};

/// What the hold keeps, and what its end removed. Sizes in bytes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct HoldResult {
    /// For each vault: packs and bytes here that no newest head lists.
    pub held: BTreeMap<VaultId, (u64, u64)>,
    /// Packs and bytes deleted.
    pub deleted: (u64, u64),
    /// Heads, lists and records removed.
    pub records: u64,
    /// Newest heads of others whose files are gone: what they list is not known here.
    pub lost: Vec<(VaultId, DeviceId, u64)>,
}

/// Stamps of one vault.
#[derive(Default, Serialize, Deserialize)]
#[serde(default)]
struct Stamps {
    /// How long this node has watched, in milliseconds.
    observed_ms: u64,
    /// Replaced heads: what `observed_ms` was when that was noticed.
    heads: BTreeMap<String, u64>,
    /// Devices, and of each the number of a head: the admin key released what came before it.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    released: BTreeMap<String, u64>,
    /// Packs that no head lists.
    #[serde(skip_serializing_if = "Option::is_none")]
    unlisted: Option<Unlisted>,
}

/// A set of packs that are here and that no head here lists.
#[derive(Serialize, Deserialize)]
struct Unlisted {
    /// What `observed_ms` was when it was noticed.
    since: u64,
    /// The hash of their numbers: with another set the hold begins anew.
    packs: String,
}

impl Stamps {
    fn is_released(&self, device: DeviceId, seq: u64) -> bool {
        self.released.get(&device.to_string()).is_some_and(|end| seq < *end)
    }
}

pub(super) fn file(vault: VaultId) -> String {
    format!("hold-{vault}.json")
}

/// What the heads of one vault name, once the expired ones are gone. The heads themselves would be too many to keep.
#[derive(Default)]
struct Kept {
    /// Lists of newest heads.
    newest: HashSet<ListId>,
    /// Lists of replaced heads.
    replaced: HashSet<ListId>,
    records: HashSet<SnapshotId>,
    /// Lists of heads that were removed now.
    expired: HashSet<ListId>,
    /// Heads that were looked at.
    seen: HashSet<HeadId>,
    /// A head that cannot be read, or is gone, may need anything.
    uncertain: bool,
    /// Devices whose newest heads are gone, and their numbers.
    lost: Vec<(DeviceId, u64)>,
    removed: u64,
}

/// Durably notes what the vault's admin key released; whether that was news. [`drop_expired`] lets it go.
pub fn note_release(store: &Store, release: &Release) -> Result<bool, EngineError> {
    // Who looks what goes writes the same file.
    let _alone = store.keep_hold();
    let mut stamps: Stamps = store.read_state_if_sound(&file(release.vault))?.unwrap_or_default();
    let mut news = false;
    for head in &release.heads {
        let end = stamps.released.entry(head.device.to_string()).or_default();
        news |= head.seq > *end;
        *end = head.seq.max(*end);
    }
    // A vault has no more devices than that; who signs more with the phrase harms only itself.
    while stamps.released.len() > limit::VAULT_DEVICES_MAX {
        stamps.released.pop_first();
    }
    if news {
        store.publish_state(&file(release.vault), &stamps)?;
    }
    Ok(news)
}

/// Removes what the hold no longer protects. `elapsed` is the time since the last call of this run of the program, by a
/// clock that nobody can set; `own` is this node's vault.
///
/// While packs go none is taken in for others; all heads are read and checked before that. What cannot be read keeps
/// everything of its vault.
pub fn drop_expired(
    store: &Store,
    own: Option<VaultId>,
    hold: Duration,
    elapsed: Duration,
) -> Result<HoldResult, EngineError> {
    let _alone = store.keep_hold();
    let mut of_vaults = Vec::new();
    for vault in expected::vaults(store)? {
        of_vaults.push((vault, expire_heads(store, vault, own == Some(vault), hold, elapsed)?));
    }
    let _gate = store.close_gate();
    let mut result = HoldResult::default();
    let (mut lists, mut records): (HashSet<ListId>, HashSet<SnapshotId>) = Default::default();
    let mut uncertain = false;
    for (vault, mut kept) in of_vaults {
        add_late_heads(store, vault, &mut kept)?;
        result.records += kept.removed;
        lists.extend(kept.newest.union(&kept.replaced));
        records.extend(&kept.records);
        uncertain |= kept.uncertain;
        if own != Some(vault) {
            result.lost.extend(kept.lost.iter().map(|(device, seq)| (vault, *device, *seq)));
        }
        if own != Some(vault) && !kept.uncertain {
            let (held, deleted) = drop_packs(store, vault, &kept, hold)?;
            result.held.insert(vault, held);
            result.deleted = (result.deleted.0 + deleted.0, result.deleted.1 + deleted.1);
        }
    }
    if !uncertain {
        result.records += remove_records(store, &lists, &records)?;
    }
    Ok(result)
}

fn expire_heads(
    store: &Store,
    vault: VaultId,
    is_own: bool,
    hold: Duration,
    elapsed: Duration,
) -> Result<Kept, EngineError> {
    let mut stamps: Stamps = store.read_state_if_sound(&file(vault))?.unwrap_or_default();
    let millis = |span: Duration| u64::try_from(span.as_millis()).unwrap_or(u64::MAX);
    stamps.observed_ms = stamps.observed_ms.saturating_add(millis(elapsed));
    // What a holder confirmed last is how its copies are counted.
    let confirmed: HashSet<HeadId> = match is_own {
        true => store.head_receipts()?.into_iter().map(|(_, _, _, head)| head).collect(),
        false => HashSet::new(),
    };
    let revoked = revocations(store, vault)?;
    let carried_on = carried_on(store, vault, &revoked)?;
    let mut kept = Kept::default();
    let mut still: BTreeMap<String, u64> = BTreeMap::new();
    let mut gone: Vec<[u8; 32]> = Vec::new();
    for device in devices(store, vault, &revoked)? {
        let names = store.head_names(vault, device)?;
        // What every branch of the chain lists is needed, whatever their numbers, until a head carries it on.
        let (mut live, mut newest, mut sure) = (HashSet::new(), Vec::new(), true);
        let mut tips = Heads::of(store, vault, &revoked, vec![device]);
        while let Some(tip) = tips.step()? {
            match tip {
                Ok(head) => {
                    live.insert(head.id);
                    newest.push((head.draft.seq, head.id));
                }
                // What one that cannot be read carries on is not known.
                Err(UnreadableHead { seq, id, .. }) => {
                    sure = false;
                    if !names.contains(&(seq, id)) && !carried_on.contains(&device) {
                        tracing::warn!(target: "hold", vault = %vault.short(), device = %device.short(), seq,
                            "the newest head of a device is gone: nothing of its vault is removed until it is here again");
                        kept.uncertain = true;
                        kept.lost.push((device, seq));
                    }
                }
            }
        }
        if sure {
            // Before any of them goes. Of a device that is carried on, all may.
            newest.retain(|_| !carried_on.contains(&device));
            expected::expect(store, vault, device, &newest)?;
        }
        let counts = |id: HeadId| !carried_on.contains(&device) && live.contains(&id);
        // Of the head looked at last: its predecessor, and since when it is replaced. That one is no shorter.
        let mut chain: (Option<HeadId>, u64) = (None, stamps.observed_ms);
        for (seq, id) in names {
            kept.seen.insert(id);
            let head = match read_head(store, vault, device, (seq, id))? {
                Ok(head) => head,
                Err(_) => {
                    kept.uncertain = true;
                    continue;
                }
            };
            let named = head.draft.lists.iter().map(|list| list.id);
            if counts(id) {
                chain = (head.draft.predecessor, stamps.observed_ms);
                kept.newest.extend(named);
                kept.records.extend(&head.draft.snapshots);
                continue;
            }
            let key = id.to_string();
            let without_stamp = if chain.0 == Some(id) { chain.1 } else { stamps.observed_ms };
            let since = stamps.heads.get(&key).copied().unwrap_or(without_stamp);
            chain = (head.draft.predecessor, since);
            let over =
                stamps.is_released(device, seq) || stamps.observed_ms.saturating_sub(since) >= millis(hold);
            if over && sure && !confirmed.contains(&id) {
                store.remove_head(vault, device, seq, id)?;
                gone.push(*id.as_bytes());
                kept.expired.extend(named);
                kept.removed += 1;
            } else {
                // One without room for a stamp goes with the one that replaced it.
                if still.len() < limit::HOLD_STAMPS_MAX {
                    still.insert(key, since);
                }
                kept.replaced.extend(named);
                kept.records.extend(&head.draft.snapshots);
            }
        }
    }
    store.discharge_records(&gone)?;
    stamps.heads = still;
    store.publish_state(&file(vault), &stamps)?;
    Ok(kept)
}

/// Heads that came while the others were being read: what they name is needed.
fn add_late_heads(store: &Store, vault: VaultId, kept: &mut Kept) -> Result<(), EngineError> {
    for device in store.head_devices(vault)? {
        for (seq, id) in store.head_names(vault, device)? {
            if !kept.seen.insert(id) {
                continue;
            }
            match read_head(store, vault, device, (seq, id))? {
                Ok(head) => {
                    kept.newest.extend(head.draft.lists.iter().map(|list| list.id));
                    kept.records.extend(&head.draft.snapshots);
                }
                Err(_) => kept.uncertain = true,
            }
        }
    }
    Ok(())
}

/// A number of packs, and their bytes.
type Amount = (u64, u64);

/// Deletes packs of a foreign vault that an expired head listed and neither a newest nor a held one lists, and what no head has
/// listed for the length of the hold; what is held, and what went.
fn drop_packs(
    store: &Store,
    vault: VaultId,
    kept: &Kept,
    hold: Duration,
) -> Result<(Amount, Amount), EngineError> {
    // What is here is bounded by what is lent, what is listed by nothing: so the lists pass by, and not the packs.
    let mut others: HashMap<PackId, (PackNumber, u64)> = HashMap::new();
    for number in store.foreign_packs(vault)? {
        let row = store.pack_by_number(number)?;
        others.extend(row.map(|row| (row.id, (number, row.bytes))));
    }
    let mut unreadable = for_each_listed(store, &kept.newest, |id| {
        others.remove(&id);
    })?;
    let mut held = (0, 0);
    unreadable.extend(for_each_listed(store, &kept.replaced, |id| {
        if let Some((_, bytes)) = others.remove(&id) {
            held = (held.0 + 1, held.1 + bytes);
        }
    })?);
    if !unreadable.is_empty() {
        return Ok(((0, 0), (0, 0)));
    }
    let mut gone: Vec<PackNumber> = Vec::new();
    for_each_listed(store, &kept.expired, |id| gone.extend(others.remove(&id).map(|(number, _)| number)))?;
    let mut unlisted: Vec<(PackNumber, u64)> = others.into_values().collect();
    unlisted.sort_unstable();
    if is_over(store, vault, &unlisted, hold)? {
        gone.extend(unlisted.iter().map(|(number, _)| *number));
    } else {
        held = unlisted.iter().fold(held, |held, (_, bytes)| (held.0 + 1, held.1 + bytes));
    }
    gone.sort_unstable();
    Ok((held, store.drop_foreign(vault, &gone)?))
}

/// Whether just these packs have been listed by no head for the length of the hold.
fn is_over(
    store: &Store,
    vault: VaultId,
    unlisted: &[(PackNumber, u64)],
    hold: Duration,
) -> Result<bool, EngineError> {
    let mut stamps: Stamps = store.read_state_if_sound(&file(vault))?.unwrap_or_default();
    let mut hasher = blake3::Hasher::new();
    unlisted.iter().for_each(|(number, _)| {
        hasher.update(&number.0.to_le_bytes());
    });
    let packs = hasher.finalize().to_hex().to_string();
    let known = stamps.unlisted.take();
    if unlisted.is_empty() {
        if known.is_some() {
            store.publish_state(&file(vault), &stamps)?;
        }
        return Ok(false);
    }
    if let Some(known) = known.filter(|known| known.packs == packs) {
        return Ok(Duration::from_millis(stamps.observed_ms.saturating_sub(known.since)) >= hold);
    }
    tracing::warn!(target: "hold", vault = %vault.short(), packs = unlisted.len(),
        "no head here lists some packs: they are kept for as long as what a device has replaced");
    stamps.unlisted = Some(Unlisted { since: stamps.observed_ms, packs });
    store.publish_state(&file(vault), &stamps)?;
    Ok(false)
}

/// Removes lists and records that no kept head names. A young file may be of a head that is still on its way.
fn remove_records(
    store: &Store,
    lists: &HashSet<ListId>,
    records: &HashSet<SnapshotId>,
) -> Result<u64, EngineError> {
    let mut removed = Vec::new();
    for id in store.old_lists(limit::RECORD_AGE_MIN)?.into_iter().filter(|id| !lists.contains(id)) {
        store.remove_list(id)?;
        removed.push(*id.as_bytes());
    }
    for id in store.old_snapshots(limit::RECORD_AGE_MIN)?.into_iter().filter(|id| !records.contains(id)) {
        store.remove_snapshot(id)?;
        removed.push(*id.as_bytes());
    }
    store.discharge_records(&removed)?;
    Ok(removed.len() as u64)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::Epoch;
    use crate::base::{Moment, PeerId};
    use crate::crypto::{DeviceKeys, Phrase};
    use crate::engine::holder::{HolderError, accept_head, forward_packs, held_packs};
    use crate::engine::{Monitor, Rebuilt, rebuild_index};
    use crate::pack::Outboard;
    use crate::snapshot::{
        HeadDraft, HeadSummary, ListRef, PackList, PackSize, SignedHead, issue_certificate,
    };

    const DAY: Duration = Duration::from_secs(86_400);
    const HOLD: Duration = Duration::from_secs(30 * 86_400);

    /// A holder, and a device that it holds for.
    struct Held {
        _dir: tempfile::TempDir,
        store: Store,
        phrase: Phrase,
        device: DeviceKeys,
        previous: Option<HeadId>,
        seq: u64,
    }

    impl Held {
        fn new() -> Self {
            let dir = tempfile::tempdir().unwrap();
            let store = Store::create(&dir.path().join("s")).unwrap();
            let (phrase, device) = (Phrase::generate(), DeviceKeys::generate("d"));
            Self { _dir: dir, store, phrase, device, previous: None, seq: 0 }
        }

        fn vault(&self) -> VaultId {
            self.phrase.root().admin().vault()
        }

        /// Takes in a head that lists these packs, and the packs.
        fn receive(&mut self, fills: &[u8]) {
            let root = self.phrase.root();
            let (admin, keys) = (root.admin(), root.vault_keys(Epoch(0)));
            let peer = PeerId::new([1; 32]);
            let certificate =
                issue_certificate(&admin, &keys, &self.device, peer, Moment::from_millis(1)).unwrap();
            let packs: Vec<(PackId, Vec<u8>, Outboard)> = fills
                .iter()
                .map(|fill| {
                    let bytes = vec![*fill; 128 << 10];
                    let (id, outboard) = Outboard::of(&bytes);
                    (id, bytes, outboard)
                })
                .collect();
            let size = PackSize::of(128 << 10).unwrap();
            let lists = packs.iter().map(|(id, ..)| {
                let list = PackList::new(vec![(*id, size)]);
                let (id, bytes) = list.encode();
                self.store.publish_list(id, &bytes).unwrap();
                ListRef { id, packs: 1, bytes: list.bytes() }
            });
            let lists = lists.collect();
            self.seq += 1;
            let draft = HeadDraft {
                seq: self.seq,
                predecessor: self.previous,
                seen: vec![],
                snapshots: vec![],
                lists,
                copies: 1,
                holders: vec![],
                // What a device says of the time counts for nothing.
                time: Moment::from_millis(u64::MAX / 2),
                epoch: Epoch(0),
                checkpoint: false,
                inherited: vec![],
                carried: vec![],
                supersedes: vec![],
            };
            let (head, bytes) = SignedHead::sign(draft, &self.device, &certificate).unwrap();
            self.previous = Some(head.id);
            self.store.publish_head(self.vault(), self.device.id(), self.seq, head.id, &bytes).unwrap();
            for (id, bytes, outboard) in packs {
                forward_packs(&self.store, (self.vault(), PeerId::new([1; 32])), id, &bytes, &outboard)
                    .unwrap();
            }
        }

        fn pass(&self, elapsed: Duration) -> HoldResult {
            drop_expired(&self.store, None, HOLD, elapsed).unwrap()
        }

        fn rebuild(&mut self) -> Rebuilt {
            let path = self.store.dir().to_owned();
            // A store is closed before it is opened again.
            self.store = Store::create(&path.with_file_name("other")).unwrap();
            self.store = Store::rebuild(&path).unwrap();
            rebuild_index(&self.store, None, &Monitor::default()).unwrap()
        }

        fn files(&self) -> usize {
            self.store.pack_files().unwrap().len()
        }
    }

    #[test]
    fn what_a_device_no_longer_lists_stays_for_the_hold() {
        let mut held = Held::new();
        held.receive(&[1, 2, 3]);
        assert_eq!(
            held.pass(DAY * 100),
            HoldResult { held: [(held.vault(), (0, 0))].into(), ..HoldResult::default() }
        );
        // Everything is forgotten, and a flood of heads follows.
        for _ in 0..5 {
            held.receive(&[3]);
        }
        let done = held.pass(Duration::ZERO);
        assert_eq!((done.held[&held.vault()], done.deleted), ((2, 256 << 10), (0, 0)));
        assert_eq!(held.store.foreign_usage().unwrap()[&held.vault()], (3, 384 << 10), "the quota counts it");
        for _ in 0..29 {
            assert_eq!(held.pass(DAY).deleted, (0, 0));
        }
        assert_eq!(held.files(), 3);
        let done = held.pass(DAY);
        assert_eq!((done.deleted, done.held[&held.vault()]), ((2, 256 << 10), (0, 0)));
        assert!(done.records >= 5, "{done:?}");
        assert_eq!((held.files(), held.store.foreign_usage().unwrap()[&held.vault()].0), (1, 1));
        // It comes again like any other.
        held.receive(&[2, 3]);
        assert_eq!((held.pass(DAY).deleted, held.files()), ((0, 0), 2));
    }

    /// With more replaced heads than there is room for stamps, the oldest had none and never went.
    #[test]
    fn a_head_without_a_stamp_goes_with_the_one_that_replaced_it() {
        let mut held = Held::new();
        for fill in 0..4 {
            held.receive(&[fill]);
        }
        held.pass(DAY);
        let mut stamps: Stamps = held.store.read_state(&file(held.vault())).unwrap().unwrap();
        assert_eq!(stamps.heads.len(), 3);
        let third = held.store.head_names(held.vault(), held.device.id()).unwrap()[1].1.to_string();
        stamps.heads.retain(|id, _| *id == third);
        held.store.publish_state(&file(held.vault()), &stamps).unwrap();
        assert_eq!((held.pass(DAY * 29).deleted.0, held.files()), (0, 4));
        assert_eq!((held.pass(DAY).deleted.0, held.files()), (3, 1));
    }

    #[test]
    fn what_the_admin_key_releases_goes_at_once_and_nothing_that_came_later() {
        let mut held = Held::new();
        let release = |held: &Held, seq| Release {
            vault: held.vault(),
            holder: None,
            heads: vec![HeadSummary { device: held.device.id(), seq, id: held.previous.unwrap() }],
        };
        held.receive(&[1, 2]);
        held.receive(&[2]);
        assert_eq!(held.pass(DAY).deleted, (0, 0));
        let first = release(&held, 2);
        assert!(note_release(&held.store, &first).unwrap());
        assert_eq!((held.pass(Duration::ZERO).deleted.0, held.files()), (1, 1));
        // Sent again later, it says nothing of what was forgotten since.
        held.receive(&[3]);
        assert!(!note_release(&held.store, &first).unwrap());
        assert_eq!((held.pass(DAY).deleted.0, held.files()), (0, 2));
        // Nor does one that names heads which are not here take the newest that is.
        assert!(note_release(&held.store, &release(&held, 9)).unwrap());
        assert_eq!((held.pass(DAY).deleted.0, held.files()), (1, 1));
        assert_eq!(held.store.head_names(held.vault(), held.device.id()).unwrap().len(), 1);
    }

    /// Only what newest heads list was entered again: the rest could not be given to anyone, and never went.
    #[test]
    fn an_index_made_anew_knows_what_is_held_and_when_it_goes() {
        let mut held = Held::new();
        held.receive(&[1, 2]);
        held.receive(&[2]);
        held.pass(DAY);
        held.rebuild();
        assert_eq!(held.pass(DAY).held[&held.vault()], (1, 128 << 10));
        assert_eq!((held.pass(HOLD).deleted.0, held.files()), (1, 1));
    }

    /// With one list unreadable none of its head was read, and what the others were was taken for known.
    #[test]
    fn a_lost_list_hides_no_other_from_an_index_made_anew() {
        let mut held = Held::new();
        held.receive(&[2]);
        held.receive(&[3, 2]);
        let list =
            PackList::new(vec![(Outboard::of(&vec![3; 128 << 10]).0, PackSize::of(128 << 10).unwrap())]);
        held.store.remove_list(list.encode().0).unwrap();
        let unreadable = held.rebuild().unreadable;
        assert!(unreadable.iter().any(|line| line.contains(&list.encode().0.to_string())), "{unreadable:?}");
        let pack = Outboard::of(&vec![2; 128 << 10]).0;
        assert_eq!(held_packs(&held.store, held.vault(), &[pack]).unwrap(), [pack]);
    }

    #[test]
    fn heads_of_one_vault_have_a_bound() {
        let mut held = Held::new();
        held.receive(&[1]);
        let (vault, device) = (held.vault(), held.device.id());
        let id = held.previous.unwrap();
        let bytes = held.store.read_head(vault, device, 1, id).unwrap().unwrap();
        assert!(accept_head(&held.store, vault, id, &bytes).is_ok());
        let flood =
            held.store.dir().join(format!("heads/{vault}/{device}/{:016x}-{}", 2, HeadId::new([0; 32])));
        std::fs::File::create(flood).unwrap().set_len(limit::VAULT_HEADS_BYTES_MAX).unwrap();
        let refused = accept_head(&held.store, vault, id, &bytes);
        assert!(matches!(refused, Err(HolderError::TooManyHeads(_))));
    }

    #[test]
    fn lost_stamps_and_unreadable_heads_only_make_it_last_longer() {
        let mut held = Held::new();
        held.receive(&[1]);
        held.receive(&[2]);
        held.pass(DAY);
        held.pass(DAY * 20);
        std::fs::write(held.store.dir().join("members").join(file(held.vault())), b"broken").unwrap();
        held.pass(DAY * 20);
        assert_eq!((held.pass(DAY * 29).deleted, held.files()), ((0, 0), 2));
        let newest = (held.vault(), held.device.id(), 2, held.previous.unwrap());
        let bytes = held.store.read_head(newest.0, newest.1, newest.2, newest.3).unwrap().unwrap();
        held.store.publish_head(newest.0, newest.1, newest.2, newest.3, b"broken").unwrap();
        held.pass(DAY * 100);
        assert_eq!(held.files(), 2);
        held.store.publish_head(newest.0, newest.1, newest.2, newest.3, &bytes).unwrap();
        // While the newest could not be read the one before it counted, so its hold begins anew.
        held.pass(DAY);
        assert_eq!(held.files(), 2);
        held.pass(DAY * 31);
        assert_eq!(held.files(), 1);
    }

    /// The newest head's file was gone, and three seconds later so was every pack that only that one listed.
    #[test]
    fn what_a_lost_head_lists_stays_until_it_is_here_again() {
        for all in [false, true] {
            let mut held = Held::new();
            held.receive(&[1, 2]);
            held.receive(&[2, 3]);
            held.pass(DAY);
            let (vault, device, newest) = (held.vault(), held.device.id(), held.previous.unwrap());
            let bytes = held.store.read_head(vault, device, 2, newest).unwrap().unwrap();
            let heads = held.store.dir().join(format!("heads/{vault}"));
            match all {
                true => std::fs::remove_dir_all(&heads).unwrap(),
                false => held.store.remove_head(vault, device, 2, newest).unwrap(),
            }
            for _ in 0..3 {
                let done = held.pass(HOLD * 2);
                assert_eq!((done.deleted, done.records), ((0, 0), 0));
                assert_eq!(done.lost, [(vault, device, 2)]);
            }
            assert_eq!(held.files(), 3);
            assert_eq!(held.store.old_lists(Duration::ZERO).unwrap().len(), 3);
            held.store.publish_head(vault, device, 2, newest, &bytes).unwrap();
            let done = held.pass(DAY);
            assert_eq!((done.deleted, done.lost), ((0, 0), vec![]));
            held.pass(HOLD);
            assert_eq!(held.files(), 2, "what a replaced head or none lists goes after the hold");
            // With one that carries it on nothing is missed.
            held.store.remove_head(vault, device, 2, newest).unwrap();
            held.receive(&[3]);
            assert_eq!(held.pass(DAY).lost, []);
        }
    }

    /// When the names of the heads are gone as well, packs wait for the hold all the same.
    #[test]
    fn packs_that_no_head_lists_go_after_the_hold() {
        let mut held = Held::new();
        held.receive(&[1]);
        held.receive(&[1, 2]);
        held.pass(DAY);
        let (vault, device, newest) = (held.vault(), held.device.id(), held.previous.unwrap());
        held.store.remove_head(vault, device, 2, newest).unwrap();
        expected::lose_names(held.store.dir());
        assert_eq!(held.pass(DAY).held[&vault].0, 1);
        held.pass(DAY * 29);
        assert_eq!(held.files(), 2);
        assert_eq!(held.pass(DAY).deleted.0, 1);
        assert_eq!(held.files(), 1);
    }
}
