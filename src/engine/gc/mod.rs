//! Garbage collection: what no snapshot needs is retired, and after a grace period deleted.
//!
//! 1. **Mark** ([`mark`]): every snapshot that any newest head lists is followed to its last chunk. One head, record or
//!    tree that cannot be read, one chunk that the index does not know: then nothing is deleted, and the reason is told.
//! 2. **Retire**: packs without a live chunk; and partly dead or small ones, once their live chunks are sealed anew in new
//!    packs ([`reseal`]). Nothing goes yet: a backup that comes upon a chunk of a retired pack takes the pack back.
//! 3. **Delete** what has waited long enough, is dead in this mark too, and nobody at work may need (the fence, see
//!    [`Store::condemn`](crate::store::Store)). The order is the reverse of that of storing: first a head that does not list
//!    the packs, then index rows, then files. A crash after any step leaves a store that verifies, and the next run goes
//!    on from there.
//!
//! Moved chunks: the old pack stays, listed and retired, until its successors have as many copies as it has.
//!
//! A pack that another device's head lists is that device's as well: this device stops listing it, and it goes once the
//! other one does too.

mod mark;
mod reseal;

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use super::borrow::read_again;
use super::error::EngineError;
use super::heads::{for_each_ever_listed, head_packs};
use super::monitor::Monitor;
use super::pull::PackSource;
use super::rebuild::adopt_unindexed;
use super::signing::{publish_next_head, unknown_lists};
use super::vault::Vault;
use crate::base::{Moment, PackId, SnapshotId};
use crate::snapshot::{Head, PeerAddress};
use crate::store::{Borrowed, MarkStart, PackNumber, PackRow, Retired, Store};
use mark::{PackUse, Usage};

pub use mark::memory_wanted as gc_memory_wanted;
use reseal::{Candidate, Mover, Plan, plan_reseal};

/// How garbage is collected.
#[derive(Debug, Clone, Copy)]
pub struct GcOptions {
    /// Change nothing.
    pub dry_run: bool,
    /// Delete what was retired just now, too.
    pub now: bool,
    /// Percent of the live bytes that may stay unused in partly dead packs.
    pub max_unused_percent: u32,
    /// How long retired packs wait.
    pub grace: Duration,
    /// What the mark may take, in bytes.
    pub memory_bytes: usize,
    /// What may be rewritten of packs that holders have, in bytes: they keep the old ones for their hold, beside the new
    /// ones. `None` where there is no holder.
    pub holder_room: Option<u64>,
}

/// What a collection did, or would do. Sizes in bytes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct GcResult {
    /// Snapshots followed.
    pub snapshots: u64,
    /// Chunks that one of them needs.
    pub live_chunks: u64,
    /// Chunks that none needs.
    pub dead_chunks: u64,
    /// Own packs before.
    pub packs: u64,
    /// Packs and bytes retired, moved ones among them.
    pub retired: (u64, u64),
    /// Packs taken back.
    pub revived: u64,
    /// Packs whose live chunks were moved.
    pub resealed: u64,
    /// Bytes of the packs that they were moved to.
    pub resealed_bytes: u64,
    /// Packs and bytes deleted.
    pub deleted: (u64, u64),
    /// What could not be done.
    pub problems: Vec<String>,
}

/// What waits to be deleted. Sizes in bytes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Waiting {
    /// Packs.
    pub packs: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Of those packs, such whose chunks were moved.
    pub resealed: u64,
    /// When the first of them may go.
    pub first: Option<Moment>,
    /// And the last.
    pub last: Option<Moment>,
}

/// What waits, and until when. Reads one row for each pack that does.
pub fn waiting(store: &Store, grace: Duration) -> Result<Waiting, EngineError> {
    let mut all = Waiting::default();
    for one in store.retired_packs() {
        let Some(row) = store.pack_by_number(one.pack)? else { continue };
        let until = one.since.after(grace);
        all.packs += 1;
        all.bytes += row.bytes;
        all.resealed += u64::from(!one.successors.is_empty());
        all.first = Some(all.first.map_or(until, |first| first.min(until)));
        all.last = all.last.max(Some(until));
    }
    Ok(all)
}

/// Collects garbage of the vault. Trees that are not here come from `source` where there is one.
///
/// # Errors
/// [`EngineError::RootUnreadable`] when something that tells what is needed cannot be read: then nothing was changed.
/// [`EngineError::Cancelled`]; a failed write. What was done until then stays, and the next run goes on.
pub fn collect(
    vault: &Vault,
    options: GcOptions,
    holders: &[PeerAddress],
    source: Option<&dyn PackSource>,
    monitor: &Monitor,
) -> Result<GcResult, EngineError> {
    let store = &vault.store;
    if !options.dry_run {
        store.remove_doomed()?;
        adopt_unindexed(vault, monitor)?;
        read_again(vault, source, monitor)?;
    }
    let start = store.mark_start();
    monitor.enter("reading heads");
    let roots = mark::roots(vault)?;
    lists_known(vault, &roots.heads)?;
    monitor.enter("following snapshots");
    let usage = mark::measure(vault, &roots.snapshots, source, options.memory_bytes, monitor)?;
    let mut run = Run {
        vault,
        options,
        holders,
        monitor,
        start,
        rows: rows_before(store, usage.packs_end)?,
        shared: shared(vault, &roots.heads)?,
        dead: HashSet::new(),
        now: vault.clock.now(),
        result: GcResult {
            snapshots: roots.snapshots.len() as u64,
            live_chunks: usage.live_chunks,
            dead_chunks: usage.dead_chunks,
            ..GcResult::default()
        },
        usage,
    };
    run.result.packs = run.rows.len() as u64;
    run.dead = run.rows.keys().copied().filter(|pack| run.usage.of(*pack).live_chunks == 0).collect();
    if options.dry_run {
        run.foresee()?;
        return Ok(run.result);
    }
    run.take_back()?;
    run.reseal()?;
    run.retire_dead()?;
    run.delete()?;
    let live: HashSet<SnapshotId> = roots.snapshots.iter().map(|snapshot| snapshot.id).collect();
    store.drop_snapshot_packs(|id| !live.contains(&id))?;
    // What came to light by that; what could not be read now is read when the next run begins.
    read_again(vault, source, monitor)?;
    Ok(run.result)
}

/// The own packs before number `end`: those that came after the mark are not its concern.
fn rows_before(store: &Store, end: PackNumber) -> Result<HashMap<PackNumber, PackRow>, EngineError> {
    let mut rows = HashMap::new();
    store.for_each_pack(true, |row| {
        if row.number < end {
            rows.insert(row.number, row);
        }
        true
    })?;
    Ok(rows)
}

/// That what this device lists is known: of a piece of its pack list that is not, packs would stay listed that are deleted.
fn lists_known(vault: &Vault, heads: &[Head]) -> Result<(), EngineError> {
    let mine: Vec<Head> = heads.iter().filter(|head| head.device() == vault.device()).cloned().collect();
    match unknown_lists(&vault.store, &mine)?.first() {
        Some(list) => Err(EngineError::RootUnreadable(format!("pack list {} of this device", list.id))),
        None => Ok(()),
    }
}

/// Packs that newest heads of other devices list; and, of what is kept for those, what heads list that are still held: they
/// may have been replaced by whoever stole the device.
fn shared(vault: &Vault, heads: &[Head]) -> Result<HashSet<PackId>, EngineError> {
    let mut shared = HashSet::new();
    for head in heads.iter().filter(|head| head.device() != vault.device()) {
        for listed in head_packs(&vault.store, head) {
            let (id, _) = listed.map_err(|error| {
                EngineError::RootUnreadable(format!(
                    "a pack list of device {}: {error}",
                    head.device().short()
                ))
            })?;
            shared.insert(id);
        }
    }
    if !vault.store.foreign_packs(vault.id())?.is_empty() {
        let is_other = |device| device != vault.device();
        for_each_ever_listed(&vault.store, vault.id(), is_other, |id| {
            shared.insert(id);
        })?;
    }
    Ok(shared)
}

/// One collection after its mark.
struct Run<'a> {
    vault: &'a Vault,
    options: GcOptions,
    holders: &'a [PeerAddress],
    monitor: &'a Monitor,
    usage: Usage,
    start: MarkStart,
    rows: HashMap<PackNumber, PackRow>,
    shared: HashSet<PackId>,
    /// Packs that are dead: by the mark, or because their chunks were moved since.
    dead: HashSet<PackNumber>,
    now: Moment,
    result: GcResult,
}

impl Run<'_> {
    fn bytes(&self, pack: PackNumber) -> u64 {
        self.rows.get(&pack).map_or(0, |row| row.bytes)
    }

    fn sum<'b>(&self, packs: impl IntoIterator<Item = &'b PackNumber>) -> (u64, u64) {
        packs.into_iter().fold((0, 0), |(count, bytes), pack| (count + 1, bytes + self.bytes(*pack)))
    }

    /// What a run that changes things would do.
    fn foresee(&mut self) -> Result<(), EngineError> {
        let retired: HashMap<PackNumber, Retired> = self.retired();
        let resealed = self.resealable(&retired)?.packs;
        let fresh: Vec<PackNumber> = self
            .dead
            .iter()
            .copied()
            .filter(|pack| !retired.contains_key(pack))
            .chain(resealed.iter().copied())
            .collect();
        self.result.retired = self.sum(&fresh);
        self.result.resealed = resealed.len() as u64;
        self.result.resealed_bytes = resealed.iter().map(|pack| self.usage.of(*pack).live_bytes).sum();
        let due = retired.values().filter(|one| self.dead.contains(&one.pack) && self.is_due(one));
        let mut due: Vec<PackNumber> = due.map(|one| one.pack).collect();
        if self.options.now {
            due.extend(fresh);
        }
        self.result.deleted = self.sum(&due);
        Ok(())
    }

    fn retired(&self) -> HashMap<PackNumber, Retired> {
        self.vault.store.retired_packs().into_iter().map(|one| (one.pack, one)).collect()
    }

    /// Retired packs that are needed again.
    fn take_back(&mut self) -> Result<(), EngineError> {
        let needed = |one: &&Retired| self.rows.contains_key(&one.pack) && !self.dead.contains(&one.pack);
        let back: HashSet<PackNumber> =
            self.vault.store.retired_packs().iter().filter(needed).map(|one| one.pack).collect();
        self.result.revived = back.len() as u64;
        Ok(self.vault.store.revive(&back)?)
    }

    /// Packs that are worth moving: here, this device's alone, not on their way out.
    fn resealable(&self, retired: &HashMap<PackNumber, Retired>) -> Result<Plan, EngineError> {
        if self.usage.marks.is_none() {
            return Ok(Plan::default());
        }
        // Without holders nothing takes of their room.
        let copies = match self.options.holder_room {
            Some(_) => self.vault.store.receipt_counts(|_| true)?,
            None => HashMap::new(),
        };
        let here = |row: &&PackRow| matches!(self.vault.store.pack_length(row.id), Ok(Some(length)) if length == row.bytes);
        let mut packs: Vec<Candidate> = self
            .rows
            .values()
            .filter(|row| !self.dead.contains(&row.number) && !retired.contains_key(&row.number))
            .filter(|row| !self.shared.contains(&row.id))
            .filter(here)
            .map(|row| Candidate {
                pack: row.number,
                bytes: row.bytes,
                used: self.usage.of(row.number),
                held: copies.contains_key(&row.number),
            })
            .collect();
        packs.sort_unstable_by_key(|one| one.pack);
        let room = self.options.holder_room.unwrap_or(u64::MAX);
        Ok(plan_reseal(&packs, self.options.max_unused_percent, room))
    }

    /// Moves what lives in partly dead and in small packs. A full disk ends that, and nothing else.
    fn reseal(&mut self) -> Result<(), EngineError> {
        let Plan { packs: chosen, without_room } = self.resealable(&self.retired())?;
        let Some(marks) = self.usage.marks.take() else {
            self.result.problems.push(
                "partly needed packs were left as they are: raise storage.memory_limit to have them rewritten".to_owned(),
            );
            return Ok(());
        };
        if without_room > 0 {
            self.result.problems.push(format!(
                "partly needed packs left as they are: {without_room}; their holders have no room for what would replace them, or cannot be asked"
            ));
        }
        if chosen.is_empty() {
            return Ok(());
        }
        self.monitor.enter("rewriting partly needed packs");
        let sources: Vec<(PackRow, PackUse)> =
            chosen.iter().map(|pack| (self.rows[pack], self.usage.of(*pack))).collect();
        let moved = Mover::new(self.vault, &marks, self.monitor, &sources)?.run()?;
        self.result.problems.extend(moved.problems);
        self.result.resealed = moved.emptied.len() as u64;
        self.result.resealed_bytes = moved.bytes;
        let (count, bytes) = self.sum(moved.emptied.iter().map(|(pack, _)| pack));
        self.result.retired = (self.result.retired.0 + count, self.result.retired.1 + bytes);
        self.dead.extend(moved.emptied.iter().map(|(pack, _)| *pack));
        Ok(self.vault.store.retire(&moved.emptied, self.now)?)
    }

    fn retire_dead(&mut self) -> Result<(), EngineError> {
        let retired = self.retired();
        let fresh: Vec<PackNumber> =
            self.dead.iter().copied().filter(|pack| !retired.contains_key(pack)).collect();
        let (count, bytes) = self.sum(&fresh);
        self.result.retired = (self.result.retired.0 + count, self.result.retired.1 + bytes);
        let fresh: Vec<(PackNumber, Vec<PackNumber>)> =
            fresh.into_iter().map(|pack| (pack, Vec::new())).collect();
        Ok(self.vault.store.retire(&fresh, self.now)?)
    }

    fn is_due(&self, one: &Retired) -> bool {
        self.options.now || self.now.since(one.since) >= self.options.grace
    }

    /// Deletes what is dead, due, covered by copies, and out of everybody's reach.
    fn delete(&mut self) -> Result<(), EngineError> {
        let store = &self.vault.store;
        self.monitor.enter("deleting what waited long enough");
        let mut retired = store.retired_packs();
        self.settle_clock(&mut retired)?;
        // Whoever is away has what it confirmed; it only cannot take what is new. What is not proven may be so for the old
        // packs, and not for the new ones.
        let doubted = store.doubted_holders()?;
        let (known, proven) =
            (store.receipt_counts(|_| true)?, store.receipt_counts(|holder| !doubted.contains(holder))?);
        let copies = self.vault.options().copies;
        let of = |counts: &HashMap<PackNumber, u32>, pack: &PackNumber| {
            counts.get(pack).copied().unwrap_or(0).min(copies)
        };
        let covered =
            |one: &Retired| one.successors.iter().all(|next| of(&proven, next) >= of(&known, &one.pack));
        retired.retain(|one| self.dead.contains(&one.pack) && self.is_due(one) && covered(one));
        let is_shared =
            |one: &Retired| self.rows.get(&one.pack).is_some_and(|row| self.shared.contains(&row.id));
        let (shared, alone): (Vec<Retired>, Vec<Retired>) = retired.into_iter().partition(is_shared);
        let shared: Vec<Retired> = shared
            .into_iter()
            .filter(|one| !one.unlisted)
            .map(|one| Retired { unlisted: true, ..one })
            .collect();
        let alone: Vec<PackNumber> = alone.iter().map(|one| one.pack).collect();
        let condemned = store.condemn(&alone, self.start);
        // New packs must be listed, so that holders take them.
        if shared.is_empty() && condemned.is_empty() && self.result.resealed_bytes == 0 {
            return Ok(());
        }
        // What this device lists no more it may refer to only once it lists it again.
        let unlisted: Vec<PackNumber> = shared.iter().map(|one| one.pack).collect();
        let delisted = store
            .update_retired(&shared)
            .and_then(|()| store.set_borrowed(&unlisted, Borrowed::Unconfirmed))
            .map_err(EngineError::from)
            .and_then(|()| publish_next_head(self.vault, &[], self.holders));
        if let Err(error) = delisted {
            store.spare(&condemned);
            return Err(error);
        }
        self.result.deleted = store.delete_condemned(&condemned)?;
        Ok(())
    }

    /// What waits since a moment that is still to come waits from now on: the clock was set back.
    fn settle_clock(&self, retired: &mut [Retired]) -> Result<(), EngineError> {
        let mut early: Vec<Retired> = Vec::new();
        for one in retired.iter_mut().filter(|one| one.since > self.now) {
            one.since = self.now;
            early.push(one.clone());
        }
        if early.is_empty() { Ok(()) } else { Ok(self.vault.store.update_retired(&early)?) }
    }
}
