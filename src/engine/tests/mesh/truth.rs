//! What is true, whatever the nodes' books say.

use std::collections::{BTreeMap, BTreeSet};

use super::world::{AWAY_AFTER, Character, HOUR, Line, World};

/// What only the simulation knows.
#[derive(Default)]
pub(super) struct Truth {
    /// Packs that a holder lost, or never stored, without a word: pack and holder.
    pub(super) silent: BTreeSet<(usize, usize)>,
    /// How many copies more than wished a pack may have: one for each that its owner could not know, or not count on.
    forced: BTreeMap<usize, usize>,
    /// What holders were offered, got to know, and did not answer so that the owner heard it.
    open: BTreeSet<(Line, usize)>,
    /// Holders that an owner does not count.
    uncounted: BTreeSet<Line>,
    /// When each line went or came last.
    pub(super) gone: BTreeMap<Line, u64>,
    /// When an audit found something at a holder first.
    pub(super) found: BTreeMap<usize, u64>,
}

/// What an audit found out.
pub(super) struct Found {
    /// Packs that the holder does not have, or sends wrong.
    pub(super) packs: Vec<usize>,
    /// It answered every question.
    pub(super) is_all: bool,
}

impl Default for Found {
    fn default() -> Self {
        Self { packs: Vec::new(), is_all: true }
    }
}

impl Truth {
    pub(super) fn force(&mut self, pack: usize) {
        *self.forced.entry(pack).or_default() += 1;
    }

    pub(super) fn take_on(&mut self, line: Line, packs: &[usize]) {
        self.open.extend(packs.iter().map(|pack| (line, *pack)));
    }

    pub(super) fn take_back(&mut self, line: Line, packs: &[usize]) {
        packs.iter().for_each(|pack| {
            self.open.remove(&(line, *pack));
        });
    }
}

impl World {
    /// What an owner forgets to have offered may come all the same.
    pub(super) fn truth_of_forgotten(&mut self, line: Line) {
        let truth = &mut self.truth;
        let forgotten: Vec<usize> =
            truth.open.range((line, 0)..=(line, usize::MAX)).map(|(_, pack)| *pack).collect();
        truth.take_back(line, &forgotten);
        forgotten.into_iter().for_each(|pack| truth.force(pack));
    }

    /// A holder declines what it could not confirm, even what it stored.
    pub(super) fn truth_of_left(&mut self, line: Line, packs: &[usize]) {
        let stored = &self.holders[line.holder].packs;
        let is_stored =
            |pack: &&usize| stored.contains_key(pack) && self.truth.open.contains(&(line, **pack));
        let unheard: Vec<usize> = packs.iter().filter(is_stored).copied().collect();
        unheard.into_iter().for_each(|pack| self.truth.force(pack));
    }

    /// What is confirmed is there, unless the holder lies or lost it in this moment.
    pub(super) fn truth_of_receipt(&mut self, line: Line, packs: &[usize]) {
        packs.iter().for_each(|pack| self.check_copy(*pack, line.holder));
        self.truth.take_back(line, packs);
    }

    /// Copies at a holder that is missing do not count: others are made, but for nobody who was here not long ago.
    pub(super) fn truth_of_counted(&mut self, owner: usize, counted: &[bool]) {
        for (holder, counts) in counted.iter().enumerate() {
            let line = Line { owner, holder };
            if *counts {
                self.truth.uncounted.remove(&line);
            } else if self.truth.uncounted.insert(line) {
                let gone = self.now - self.truth.gone.get(&line).copied().unwrap_or(0);
                // An owner that was killed may not have noted the last hour.
                let away = AWAY_AFTER.as_millis() as u64 - HOUR;
                assert!(gone >= away && !self.is_connected(line), "{line:?} is missing after {gone} ms");
                let packs = self.owners[owner].receipted(holder);
                packs.into_iter().for_each(|pack| self.truth.force(pack));
            }
        }
    }

    /// Nobody is accused of what he did not do, and who was found out counts for nothing that he does not have.
    pub(super) fn truth_of_found(&mut self, line: Line, found: &Found) {
        self.truth.found.entry(line.holder).or_insert(self.now);
        let at = &self.holders[line.holder];
        for pack in &found.packs {
            let is_just = at.character == Character::Garbler || !at.packs.contains_key(pack);
            assert!(is_just, "holder {} has pack {pack} and was said to have lost it", line.holder);
        }
        let kept = self.owners[line.owner].receipted(line.holder);
        let untrue =
            kept.iter().find(|pack| !at.packs.contains_key(pack) || at.character == Character::Garbler);
        assert!(!found.is_all || untrue.is_none(), "{untrue:?} still counts at holder {}", line.holder);
        let there: Vec<usize> =
            found.packs.iter().filter(|pack| at.packs.contains_key(pack)).copied().collect();
        there.into_iter().for_each(|pack| self.truth.force(pack));
    }

    fn check_copy(&self, pack: usize, holder: usize) {
        let is_there = self.holders[holder].packs.contains_key(&pack);
        let is_silent = self.truth.silent.contains(&(pack, holder));
        assert!(is_there || is_silent, "pack {pack} is counted at holder {holder}, who never had it");
    }

    /// Every copy that an owner counts is there, but for what was lost, or never stored, without a word; and no holder
    /// stores more than it lends or agreed with an owner.
    pub(super) fn check(&self) {
        for (pack, holders) in self.owners.iter().flat_map(|owner| &owner.receipts) {
            holders.iter().for_each(|holder| self.check_copy(*pack, *holder));
        }
        let overspent = self.holders.iter().position(super::holders::Holder::has_overspent);
        assert_eq!(overspent, None, "a holder stores more than it should");
    }

    fn copies(&self, pack: usize) -> usize {
        self.holders.iter().filter(|at| at.packs.contains_key(&pack)).count()
    }

    /// No pack is stored more often than wished and what happened made necessary.
    pub(super) fn check_surplus(&self, pack: usize) {
        let (copies, forced) = (self.copies(pack), self.truth.forced.get(&pack).copied().unwrap_or(0));
        let most = self.shape.copies as usize + forced;
        assert!(
            copies <= most,
            "pack {pack} has {copies} copies at {} ms where {forced} were forced",
            self.now
        );
    }

    /// Copies of a pack more than wished, of all packs together.
    pub(super) fn surplus(&self) -> usize {
        let wished = self.shape.copies as usize;
        (0..self.packs.len()).map(|pack| self.copies(pack).saturating_sub(wished)).sum()
    }

    /// Whether each pack has as many counted copies as wished that are there and can be read.
    pub(super) fn is_safe(&self) -> bool {
        (0..self.owners.len()).all(|owner| {
            let (of, counted) = (&self.owners[owner], self.counted(owner));
            of.packs.clone().all(|pack| {
                let sound = |holder: &&usize| {
                    let at = &self.holders[**holder];
                    counted[**holder] && at.character != Character::Garbler && at.packs.contains_key(&pack)
                };
                let holders = of.receipts.get(&pack).into_iter().flatten();
                holders.filter(sound).count() >= self.shape.copies as usize
            })
        })
    }
}
