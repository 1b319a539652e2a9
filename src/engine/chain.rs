//! Which heads of a device count: the tips of its chain.
//!
//! A head names earlier ones of its device that it carries on: its predecessor, a number of those before, and branches that
//! it joins. What no other head here carries on is a **tip**, whatever its number: of a chain that grew as it should there is
//! one, of one that forked (an old image of the disk was used, or a copy of it) each branch has one, and all of them count
//! until a head carries them on. A head that was not seen to be carried on is never taken for an old one.

use std::collections::HashSet;

use super::error::EngineError;
use super::revocations::Revocations;
use crate::base::{DeviceId, HeadId, VaultId, limit};
use crate::snapshot::{Head, HeadName, SignedHead};
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

/// The tips of one or more chains.
#[derive(Debug, Default)]
pub(super) struct Tips {
    /// Those that can be read, of each device the highest number first.
    pub(super) heads: Vec<Head>,
    /// Those that cannot.
    pub(super) unreadable: Vec<UnreadableHead>,
}

/// The tips of one device's heads here, of those that count as its.
pub(super) fn tips(
    store: &Store,
    vault: VaultId,
    device: DeviceId,
    revoked: &Revocations,
) -> Result<Tips, EngineError> {
    let names = admitted_names(store, vault, device, revoked)?;
    let stamp = store.chain_stamp(vault, device, &names);
    if let Some(known) = store.known_tips(vault, device, stamp) {
        let tips = read_all(store, vault, device, known)?;
        if tips.unreadable.is_empty() {
            return Ok(tips);
        }
        // It rotted since, and what it carries on counts again.
    }
    let found = tips_among(&names, |name| links(store, vault, device, name))?;
    let tips = read_all(store, vault, device, found)?;
    if tips.unreadable.is_empty() {
        let found = tips.heads.iter().map(|head| (head.draft.seq, head.id)).collect();
        store.remember_tips(vault, device, stamp, found);
    }
    Ok(tips)
}

/// Heads of a device that are here and count as its, newest first.
pub(super) fn admitted_names(
    store: &Store,
    vault: VaultId,
    device: DeviceId,
    revoked: &Revocations,
) -> Result<Vec<HeadName>, StoreError> {
    let mut names = store.head_names(vault, device)?;
    names.retain(|(seq, id)| revoked.admits(device, *seq, *id));
    Ok(names)
}

/// What a stored head carries on; nothing when it cannot be read.
pub(super) fn links(
    store: &Store,
    vault: VaultId,
    device: DeviceId,
    name: HeadName,
) -> Result<Vec<HeadId>, EngineError> {
    let head = read_head(store, vault, device, name)?;
    Ok(head.map_or_else(|_| Vec::new(), |head| head.carries_on().collect()))
}

fn read_all(
    store: &Store,
    vault: VaultId,
    device: DeviceId,
    names: Vec<HeadName>,
) -> Result<Tips, EngineError> {
    let mut tips = Tips::default();
    for (seq, id) in names {
        match read_head(store, vault, device, (seq, id))? {
            Ok(head) => tips.heads.push(head),
            Err(problem) => {
                tracing::warn!(target: "heads", %device, seq, problem, "unreadable head skipped");
                tips.unreadable.push(UnreadableHead { device, seq, id, problem });
            }
        }
    }
    Ok(tips)
}

/// One stored head, or what is wrong with its file.
pub(super) fn read_head(
    store: &Store,
    vault: VaultId,
    device: DeviceId,
    (seq, id): HeadName,
) -> Result<Result<Head, String>, EngineError> {
    let bytes = match store.read_head(vault, device, seq, id) {
        Ok(bytes) => bytes.unwrap_or_default(),
        Err(error @ StoreError::DamagedFile(_)) => return Ok(Err(error.to_string())),
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

/// What a new head carries on by name: branches that it joins, which heads holders were last known to have, those just
/// before it, and one at each power of two. All of `past` (highest number first) is carried on by one of the branches.
pub(super) fn names_to_carry_on(
    branches: &[HeadName],
    with_holders: &HashSet<HeadId>,
    past: &[HeadName],
) -> Vec<HeadName> {
    let recent = past.iter().take(limit::HEAD_SUPERSEDES_RECENT);
    let far = (0..usize::BITS).map_while(|bit| past.get(1usize.checked_shl(bit)?));
    let held = past.iter().filter(|(_, id)| with_holders.contains(id));
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
