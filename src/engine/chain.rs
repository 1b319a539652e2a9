//! Which heads of a device count: the tips of its chain.
//!
//! A head names earlier ones of its device that it carries on: its predecessor, a number of those before, and branches that
//! it joins. What no other head here carries on is a **tip**, whatever its number: of a chain that grew as it should there is
//! one, of one that forked (an old image of the disk was used, or a copy of it) each branch has one, and all of them count
//! until a head carries them on. A head that was not seen to be carried on is never taken for an old one, and one that must be
//! here ([`super::expected`]) counts like one that cannot be read.

use std::collections::{HashMap, HashSet};

use super::error::EngineError;
use super::revocations::Revocations;
use crate::base::{DeviceId, HeadId, Moment, VaultId, limit};
use crate::snapshot::{Head, HeadName, Revocation, SignedHead};
use crate::store::{Store, StoreError};

/// A head whose file is of no use here, and that no other head is known to carry on: what it lists is not known.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UnreadableHead {
    /// Whose.
    pub device: DeviceId,
    /// Its number, as the file's name says.
    pub seq: u64,
    /// Its id, as the file's name says: a holder can be asked for it.
    pub id: HeadId,
    /// What is wrong with the file.
    pub problem: String,
}

/// The tips of one chain.
#[derive(Debug, Default)]
pub(super) struct Tips {
    /// Those that can be read, the highest number first.
    pub(super) heads: Vec<Head>,
    /// Those that cannot.
    pub(super) unreadable: Vec<UnreadableHead>,
}

/// Heads that count of a vault: of each device the tips of its chain. Read one at a time, so that one is in memory however many
/// there are and however long. As an iterator it passes over those that cannot be read, with a warning.
pub struct Heads<'a> {
    store: &'a Store,
    vault: VaultId,
    revoked: Revocations,
    /// Those of these devices do not count.
    without: HashSet<DeviceId>,
    /// Instead of now.
    at: Option<Moment>,
    /// No other.
    named: Option<HeadId>,
    devices: std::vec::IntoIter<DeviceId>,
    chain: Option<ChainLeft>,
    /// Those that the iterator came past and that cannot be read.
    passed_over: Vec<UnreadableHead>,
}

/// What is left to be read of one chain.
struct ChainLeft {
    device: DeviceId,
    /// The next one last.
    left: Vec<HeadName>,
    done: HashSet<HeadName>,
    /// That these are the tips was worked out earlier.
    remembered: bool,
}

impl<'a> Heads<'a> {
    /// All of them.
    pub(super) fn of_vault(
        store: &'a Store,
        vault: VaultId,
        revoked: &Revocations,
    ) -> Result<Self, EngineError> {
        Ok(Self::of(store, vault, revoked, devices(store, vault, revoked)?))
    }

    /// Those of these devices.
    pub(super) fn of(
        store: &'a Store,
        vault: VaultId,
        revoked: &Revocations,
        devices: Vec<DeviceId>,
    ) -> Self {
        let (revoked, devices) = (revoked.clone(), devices.into_iter());
        Self {
            store,
            vault,
            revoked,
            without: HashSet::new(),
            at: None,
            named: None,
            devices,
            chain: None,
            passed_over: Vec::new(),
        }
    }

    /// The same without those of some devices.
    pub(super) fn without(self, without: HashSet<DeviceId>) -> Self {
        Self { without, ..self }
    }

    /// Those that were the tips at that moment, by when their files were written.
    pub(super) fn at(self, at: Moment) -> Self {
        Self { at: Some(at), ..self }
    }

    /// The one with that id, if it is one of them; no other is read.
    pub(super) fn named(self, id: HeadId) -> Self {
        Self { named: Some(id), ..self }
    }

    /// What was passed over so far.
    pub fn passed_over(&self) -> &[UnreadableHead] {
        &self.passed_over
    }

    /// The next one, or what is known of it when it cannot be read.
    pub(super) fn step(&mut self) -> Result<Option<Result<Head, UnreadableHead>>, EngineError> {
        loop {
            let Some((device, name)) = self.next_name() else {
                let devices = self.devices.by_ref();
                let Some(device) = devices.find(|device| !self.without.contains(device)) else {
                    return Ok(None);
                };
                self.chain = Some(self.open(device)?);
                continue;
            };
            let problem = match read_head(self.store, self.vault, device, name)? {
                Ok(head) => return Ok(Some(Ok(head))),
                Err(problem) => problem,
            };
            if self.chain.as_ref().is_some_and(|chain| chain.remembered) {
                // It rotted since, and what it carries on counts again.
                self.work_out_again(device)?;
            }
            let (seq, id) = name;
            tracing::warn!(target: "heads", %device, seq, problem, "unreadable head skipped");
            return Ok(Some(Err(UnreadableHead { device, seq, id, problem })));
        }
    }

    fn next_name(&mut self) -> Option<(DeviceId, HeadName)> {
        let chain = self.chain.as_mut()?;
        let name = chain.left.pop()?;
        chain.done.insert(name);
        Some((chain.device, name))
    }

    fn open(&self, device: DeviceId) -> Result<ChainLeft, EngineError> {
        let (mut left, remembered) = match self.at {
            None => tip_names(self.store, self.vault, device, &self.revoked)?,
            Some(at) => (tips_at(self.store, self.vault, device, &self.revoked, at)?, false),
        };
        left.retain(|(_, id)| self.named.is_none_or(|named| *id == named));
        left.reverse();
        Ok(ChainLeft { device, left, done: HashSet::new(), remembered })
    }

    fn work_out_again(&mut self, device: DeviceId) -> Result<(), EngineError> {
        let names = admitted_names(self.store, self.vault, device, &self.revoked)?;
        let (mut left, _) = counting(&names, self.revoked.of(device), |name| {
            read_links(self.store, self.vault, device, name)
        })?;
        left.reverse();
        if let Some(chain) = &mut self.chain {
            left.retain(|name| !chain.done.contains(name) && self.named.is_none());
            (chain.left, chain.remembered) = (left, false);
        }
        Ok(())
    }
}

impl Iterator for Heads<'_> {
    type Item = Result<Head, EngineError>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            match self.step() {
                Ok(Some(Ok(head))) => return Some(Ok(head)),
                Ok(Some(Err(unreadable))) => self.passed_over.push(unreadable),
                Ok(None) => return None,
                Err(error) => return Some(Err(error)),
            }
        }
    }
}

/// Devices of which heads are here, or must be.
pub(super) fn devices(
    store: &Store,
    vault: VaultId,
    revoked: &Revocations,
) -> Result<Vec<DeviceId>, StoreError> {
    let mut devices = store.head_devices(vault)?;
    devices.extend(revoked.expected_devices());
    devices.sort_unstable();
    devices.dedup();
    Ok(devices)
}

/// The tips of one device's heads here, of those that count as its.
pub(super) fn tips(
    store: &Store,
    vault: VaultId,
    device: DeviceId,
    revoked: &Revocations,
) -> Result<Tips, EngineError> {
    let (mut tips, mut heads) = (Tips::default(), Heads::of(store, vault, revoked, vec![device]));
    while let Some(head) = heads.step()? {
        match head {
            Ok(head) => tips.heads.push(head),
            Err(unreadable) => tips.unreadable.push(unreadable),
        }
    }
    Ok(tips)
}

/// Their names, the highest number first, and whether that was remembered. It is when all of them can be read.
pub(super) fn tip_names(
    store: &Store,
    vault: VaultId,
    device: DeviceId,
    revoked: &Revocations,
) -> Result<(Vec<HeadName>, bool), EngineError> {
    let names = admitted_names(store, vault, device, revoked)?;
    let stamp = store.chain_stamp(vault, device, &names);
    if let Some(known) = store.known_tips(vault, device, stamp) {
        return Ok((known, true));
    }
    let (found, unreadable) =
        counting(&names, revoked.of(device), |name| read_links(store, vault, device, name))?;
    if !found.iter().any(|name| unreadable.contains(name)) {
        store.remember_tips(vault, device, stamp, found.clone());
    }
    Ok((found, false))
}

/// Names of the heads of a device that were its tips here at that moment, by when their files were written: a device that lies
/// about the time changes nothing.
fn tips_at(
    store: &Store,
    vault: VaultId,
    device: DeviceId,
    revoked: &Revocations,
    at: Moment,
) -> Result<Vec<HeadName>, EngineError> {
    let mut names = Vec::new();
    for (seq, id) in admitted_names(store, vault, device, revoked)? {
        let stored = store.head_stored_at(vault, device, seq, id)?;
        names.extend(stored.is_some_and(|stored| stored <= at).then_some((seq, id)));
    }
    tips_among(&names, |name| links(store, vault, device, name))
}

/// Heads of a device that are here, or must be, and count as its, newest first.
pub(super) fn admitted_names(
    store: &Store,
    vault: VaultId,
    device: DeviceId,
    revoked: &Revocations,
) -> Result<Vec<HeadName>, StoreError> {
    let mut names = store.head_names(vault, device)?;
    names.retain(|(seq, id)| revoked.admits(device, *seq, *id));
    let here = names.len();
    for name in revoked.expected(device) {
        if !names[..here].contains(&name) {
            names.push(name);
        }
    }
    names.sort_unstable_by(|a, b| b.cmp(a));
    Ok(names)
}

/// What a stored head carries on; `None` when it cannot be read.
pub(super) fn read_links(
    store: &Store,
    vault: VaultId,
    device: DeviceId,
    name: HeadName,
) -> Result<Option<Vec<HeadId>>, EngineError> {
    let head = read_head(store, vault, device, name)?;
    Ok(head.ok().map(|head| head.carries_on().collect()))
}

/// What a stored head carries on; nothing when it cannot be read.
fn links(
    store: &Store,
    vault: VaultId,
    device: DeviceId,
    name: HeadName,
) -> Result<Vec<HeadId>, EngineError> {
    Ok(read_links(store, vault, device, name)?.unwrap_or_default())
}

/// One stored head, or what is wrong with its file.
pub(super) fn read_head(
    store: &Store,
    vault: VaultId,
    device: DeviceId,
    (seq, id): HeadName,
) -> Result<Result<Head, String>, EngineError> {
    let read = store.read_head(vault, device, seq, id);
    let is_rot = read.as_ref().is_err_and(StoreError::is_rot);
    let bytes = match read {
        Ok(Some(bytes)) => bytes,
        Ok(None) => return Ok(Err("its file is gone".to_owned())),
        Err(StoreError::Io { source, .. }) if is_rot => return Ok(Err(source.to_string())),
        Err(error) if is_rot => return Ok(Err(error.to_string())),
        Err(error) => return Err(error.into()),
    };
    Ok(match SignedHead::verify(&bytes) {
        Ok(head) if (head.vault(), head.device(), head.draft.seq, head.id) == (vault, device, seq, id) => {
            Ok(head)
        }
        Ok(_) => Err("it does not match its name".to_owned()),
        Err(error) => Err(error.to_string()),
    })
}

/// The tips of a device's chain among `names` (highest number first), and those of the names that were found to be unreadable;
/// `read` tells what one carries on, or nothing of one that cannot be read.
///
/// Of a revoked device they are among the last good ones alone once all of these are here and sound: a number below theirs can
/// be signed at any time, and what they do not carry on was not there when the device was revoked.
pub(super) fn counting(
    names: &[HeadName],
    revoked: Option<&Revocation>,
    mut read: impl FnMut(HeadName) -> Result<Option<Vec<HeadId>>, EngineError>,
) -> Result<(Vec<HeadName>, HashSet<HeadName>), EngineError> {
    let last_good = revoked.map_or(&[][..], |revoked| &revoked.last_good);
    let mut sound = HashMap::new();
    for name in last_good.iter().copied().filter(|name| names.contains(name)) {
        if let Some(links) = read(name)? {
            sound.insert(name, links);
        }
    }
    if !last_good.is_empty() && sound.len() == last_good.len() {
        let links = |name| Ok::<_, EngineError>(sound.remove(&name).unwrap_or_default());
        return Ok((tips_among(last_good, links)?, HashSet::new()));
    }
    let mut unreadable = HashSet::new();
    let found = tips_among(names, |name| -> Result<_, EngineError> {
        let links = read(name)?;
        if links.is_none() {
            unreadable.insert(name);
        }
        Ok(links.unwrap_or_default())
    })?;
    Ok((found, unreadable))
}

/// Those of `names` (highest number first) that no other of them carries on; `links` tells what one carries on.
///
/// Each is carried on by one before it, if by any. A head names many before it, so that most need not be asked: only when
/// one seems to be carried on by none are those asked that have not been, the nearest first.
pub(super) fn tips_among<E>(
    names: &[HeadName],
    mut links: impl FnMut(HeadName) -> Result<Vec<HeadId>, E>,
) -> Result<Vec<HeadName>, E> {
    let (mut tips, mut carried_on) = (Vec::new(), HashSet::new());
    let mut not_asked: Vec<HeadName> = Vec::new();
    for name in names.iter().copied() {
        while !carried_on.contains(&name.1)
            && let Some(above) = not_asked.pop()
        {
            carried_on.extend(links(above)?);
        }
        if carried_on.contains(&name.1) {
            not_asked.push(name);
        } else {
            tips.push(name);
            carried_on.extend(links(name)?);
        }
    }
    Ok(tips)
}

/// What a new head carries on by name: branches that it joins, which heads holders and other devices were last known to have,
/// those just before it, and one at each power of two. All of `past` (highest number first) is carried on by one of the branches.
pub(super) fn names_to_carry_on(
    branches: &[HeadName],
    with_others: &HashSet<HeadId>,
    past: &[HeadName],
) -> Vec<HeadName> {
    let recent = past.iter().take(limit::HEAD_SUPERSEDES_RECENT);
    let far = (0..usize::BITS).map_while(|bit| past.get(1usize.checked_shl(bit)?));
    let held = past.iter().filter(|(_, id)| with_others.contains(id));
    let mut seen = HashSet::new();
    let all = branches.iter().chain(held).chain(far).chain(recent);
    all.filter(|(_, id)| seen.insert(*id)).take(limit::HEAD_SUPERSEDES_MAX).copied().collect()
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};
    use std::convert::Infallible;

    use proptest::prelude::*;

    use super::*;

    fn id(number: usize) -> HeadId {
        HeadId::new(*blake3::hash(&number.to_le_bytes()).as_bytes())
    }

    /// A chain as devices, copies of them and old images make it: each head follows one of those before it, or joins several.
    #[derive(Default)]
    struct History {
        /// Number and links of each head.
        heads: Vec<(u64, Vec<HeadId>)>,
    }

    impl History {
        fn name(&self, head: usize) -> HeadName {
            (self.heads[head].0, id(head))
        }

        /// All that a head carries on, near and far.
        fn past(&self, head: usize) -> BTreeSet<usize> {
            let mut past = BTreeSet::new();
            let mut open = vec![head];
            while let Some(one) = open.pop() {
                let parents = self.heads[one].1.iter();
                let parents = parents.map(|link| (0..self.heads.len()).find(|at| id(*at) == *link).unwrap());
                open.extend(parents.filter(|parent| past.insert(*parent)));
            }
            past
        }

        /// A device that has `known` signs the next head.
        fn sign(&mut self, known: &BTreeSet<usize>) {
            let names = |heads: &BTreeSet<usize>| {
                let mut names: Vec<HeadName> = heads.iter().map(|head| self.name(*head)).collect();
                names.sort_unstable_by(|a, b| b.cmp(a));
                names
            };
            let all = names(known);
            let tips = self.tips(&all);
            let past: Vec<HeadName> = all.iter().filter(|name| !tips.contains(name)).copied().collect();
            let mut carried: Vec<HeadId> = tips.iter().map(|(_, id)| *id).collect();
            carried.extend(names_to_carry_on(&[], &HashSet::new(), &past).into_iter().map(|(_, id)| id));
            self.heads.push((all.first().map_or(1, |(seq, _)| seq + 1), carried));
        }

        fn tips(&self, names: &[HeadName]) -> Vec<HeadName> {
            let links: BTreeMap<HeadId, &Vec<HeadId>> =
                self.heads.iter().enumerate().map(|(at, head)| (id(at), &head.1)).collect();
            tips_among(names, |(_, id)| Ok::<_, Infallible>(links[&id].clone())).unwrap()
        }
    }

    #[test]
    fn of_a_chain_that_grew_as_it_should_one_counts_whatever_was_missed() {
        let mut history = History::default();
        let mut known = BTreeSet::new();
        for head in 0..300 {
            history.sign(&known);
            known.insert(head);
        }
        let every = |step: usize| {
            let heads = (0..300).rev().filter(|head| head % step == 0 || *head == 299);
            heads.map(|head| history.name(head)).collect::<Vec<_>>()
        };
        for step in [1, 2, 7, 50] {
            assert_eq!(history.tips(&every(step)), [history.name(299)], "{step}");
        }
        // A whole chain is read sparsely.
        let mut asked = 0;
        let names = every(1);
        tips_among(&names, |(seq, _)| {
            asked += 1;
            Ok::<_, Infallible>(history.heads[seq as usize - 1].1.clone())
        })
        .unwrap();
        assert!(asked < 10, "{asked}");
    }

    proptest! {
        /// Never is one taken for carried on that is not: that would lose what it lists. And of what is here in full, each
        /// that is carried on is seen to be.
        #[test]
        fn tips_are_what_nothing_else_carries_on(
            parents in prop::collection::vec(prop::collection::vec(any::<prop::sample::Index>(), 0..3), 1..40),
            seen in prop::collection::vec(any::<bool>(), 40),
        ) {
            let mut history = History::default();
            for (head, parents) in parents.iter().enumerate() {
                let mut known = BTreeSet::new();
                for parent in parents.iter().filter(|_| head > 0).map(|parent| parent.index(head)) {
                    known.insert(parent);
                    known.extend(history.past(parent));
                }
                history.sign(&known);
            }
            let all: BTreeSet<usize> = (0..parents.len()).collect();
            for here in [all.clone(), all.iter().copied().filter(|head| seen[*head]).collect()] {
                let mut names: Vec<HeadName> = here.iter().map(|head| history.name(*head)).collect();
                names.sort_unstable_by(|a, b| b.cmp(a));
                let tips = history.tips(&names);
                let carried: BTreeSet<usize> = here.iter().flat_map(|head| history.past(*head)).collect();
                for head in &here {
                    let is_tip = tips.contains(&history.name(*head));
                    prop_assert!(is_tip || carried.contains(head), "{head} was lost");
                    prop_assert!(!is_tip || here.len() < all.len() || !carried.contains(head), "{head} is carried on");
                }
            }
        }
    }
}
