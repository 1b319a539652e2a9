//! Owners: rounds that look for packs without enough copies, and audits.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::ops::Range;

use super::truth::Found;
use super::world::{AWAY_AFTER, Character, Event, Line, PACK_BYTES, Request, Shape, World, bytes_of, peer};
use crate::base::{Moment, PackId, PeerId, limit};
use crate::engine::{
    AuditOutcome, AuditTally, Candidate, Choice, Doubts, FetchFailure, Ledger, Pick, PulledSlice,
    ROUND_INTERVAL, ROUND_PAUSE, Want, on_probation,
};
use crate::pack::Outboard;
use crate::policy::{Confirmed, Waking, is_to_note, presence};

/// Where an owner's round is.
enum Phase {
    Resting,
    /// Holders were asked for their room; this wants holders.
    Asking(Vec<Want>),
    Offering,
}

pub(super) struct Owner {
    pub(super) peer: PeerId,
    pub(super) is_up: bool,
    ledger: Ledger,
    pub(super) packs: Range<usize>,
    /// Of each pack, the holders.
    pub(super) receipts: BTreeMap<usize, BTreeSet<usize>>,
    /// When each holder was noted to be there.
    seen: Vec<Moment>,
    /// When each was found to have lost something.
    lost: Vec<Option<Moment>>,
    /// What is known of each holder's store, and which were compared since they came.
    confirmed: Vec<Confirmed>,
    compared: BTreeSet<usize>,
    waking: Waking,
    phase: Phase,
    unanswered: usize,
    has_news: bool,
    ended: u64,
    next_round: u64,
}

impl Owner {
    pub(super) fn new(n: usize, shape: &Shape) -> Self {
        let start = Moment::from_millis(0);
        Self {
            peer: peer(shape.holders + n),
            is_up: true,
            ledger: Ledger::default(),
            packs: n * shape.packs..(n + 1) * shape.packs - shape.late,
            receipts: BTreeMap::new(),
            seen: vec![start; shape.holders],
            lost: vec![None; shape.holders],
            confirmed: vec![Confirmed::default(); shape.holders],
            compared: BTreeSet::new(),
            waking: Waking::new(start),
            phase: Phase::Resting,
            unanswered: 0,
            has_news: false,
            ended: 0,
            next_round: 0,
        }
    }

    /// Packs that a holder confirmed.
    pub(super) fn receipted(&self, holder: usize) -> Vec<usize> {
        let receipts = self.receipts.iter().filter(|(_, all)| all.contains(&holder));
        receipts.map(|(pack, _)| *pack).collect()
    }
}

impl World {
    fn connected(&self, owner: usize) -> Vec<usize> {
        (0..self.holders.len()).filter(|holder| self.is_connected(Line { owner, holder: *holder })).collect()
    }

    /// Whose receipts count.
    pub(super) fn counted(&self, owner: usize) -> Vec<bool> {
        let (of, now) = (&self.owners[owner], self.moment());
        let judge = |holder: usize| {
            let connected = self.is_connected(Line { owner, holder });
            presence(connected, of.seen[holder], of.waking.since(), now, AWAY_AFTER).counts()
        };
        (0..self.holders.len()).map(judge).collect()
    }

    /// Compares the stores of those that came, as the node does it.
    fn compare(&mut self, line: Line) {
        if self.owners[line.owner].compared.contains(&line.holder) || self.is_lost() {
            return;
        }
        let inventory = self.holders[line.holder].inventory.clone();
        let receipted = self.owners[line.owner].receipted(line.holder);
        let known = &mut self.owners[line.owner].confirmed[line.holder];
        if !known.is_in(&inventory) {
            if !std::mem::replace(&mut known.doubted, true) {
                // Until it has confirmed them again others may get them.
                receipted.iter().for_each(|pack| self.truth.force(*pack));
            }
            for page in receipted.chunks(limit::RECEIPT_PACKS_MAX) {
                let Some(there) = self.confirmed(line, page) else { return };
                let gone: Vec<usize> =
                    page.iter().copied().filter(|pack| !there.contains(&self.packs[*pack])).collect();
                assert!(gone.iter().all(|pack| !self.holders[line.holder].packs.contains_key(pack)));
                self.drop_receipts(line, &gone);
            }
        }
        let of = &mut self.owners[line.owner];
        of.confirmed[line.holder].settle(&inventory);
        of.compared.insert(line.holder);
    }

    /// As the node does it, if it is time.
    pub(super) fn round(&mut self, owner: usize) {
        if self.owners[owner].next_round != self.now || !matches!(self.owners[owner].phase, Phase::Resting) {
            return;
        }
        let connected = self.connected(owner);
        if !self.owners[owner].is_up {
            return self.rest(owner);
        }
        let now = self.moment();
        self.owners[owner].waking.look(now);
        for holder in &connected {
            let seen = &mut self.owners[owner].seen[*holder];
            *seen = if is_to_note(Some(*seen), now) { now } else { *seen };
        }
        if connected.is_empty() {
            return self.rest(owner);
        }
        connected.iter().for_each(|holder| self.compare(Line { owner, holder: *holder }));
        let wanted = self.look_for_wanted(owner);
        let (now, of) = (self.uptime(), &mut self.owners[owner]);
        of.ledger.note_wanted(&wanted);
        of.phase = Phase::Asking(wanted);
        let is_to_ask =
            |holder: &usize| self.owners[owner].ledger.is_to_ask(now, self.holders[*holder].peer, true);
        let asked: Vec<usize> = connected.into_iter().filter(is_to_ask).collect();
        self.wait_for(owner, asked.len());
        asked.into_iter().for_each(|holder| self.ask(Line { owner, holder }, Request::Room));
    }

    fn look_for_wanted(&mut self, owner: usize) -> Vec<Want> {
        let counted = self.counted(owner);
        self.truth_of_counted(owner, &counted);
        let stands = |holder: &usize| counted[*holder] && !self.owners[owner].confirmed[*holder].doubted;
        let counted: Vec<bool> = (0..counted.len()).map(|holder| stands(&holder)).collect();
        let (now, copies) = (self.uptime(), self.shape.copies);
        let of = &mut self.owners[owner];
        let listed = of.packs.clone().map(|pack| self.packs[pack]).collect();
        let mut wanting = of.ledger.wanting(now, copies, listed);
        for pack in of.packs.clone() {
            let holders = of.receipts.get(&pack).into_iter().flatten().filter(|holder| counted[**holder]);
            let holders = holders.map(|holder| self.holders[*holder].peer).collect();
            wanting.meet(self.packs[pack], PACK_BYTES, holders);
        }
        wanting.finish()
    }

    /// A round goes on when so many answers came, or were waited for long enough.
    fn wait_for(&mut self, owner: usize, answers: usize) {
        self.owners[owner].unanswered = answers;
        if answers == 0 {
            self.step(owner);
        }
    }

    fn step(&mut self, owner: usize) {
        match std::mem::replace(&mut self.owners[owner].phase, Phase::Resting) {
            Phase::Asking(wanted) => self.place(owner, &wanted),
            Phase::Offering | Phase::Resting => self.rest(owner),
        }
    }

    fn heard(&mut self, owner: usize) {
        self.owners[owner].unanswered -= 1;
        if self.owners[owner].unanswered == 0 {
            self.step(owner);
        }
    }

    pub(super) fn room_told(&mut self, line: Line, bytes: Option<u64>) {
        let (now, peer, ledger) =
            (self.uptime(), self.holders[line.holder].peer, &mut self.owners[line.owner].ledger);
        match bytes {
            Some(bytes) => ledger.note_room(now, peer, bytes),
            None => ledger.note_silence(peer),
        }
        self.heard(line.owner);
    }

    fn place(&mut self, owner: usize, wanted: &[Want]) {
        let (now, moment, copies) = (self.uptime(), self.moment(), self.shape.copies);
        let candidate = |holder: usize| Candidate {
            peer: self.holders[holder].peer,
            lost: on_probation(self.owners[owner].lost[holder], moment),
        };
        let candidates: Vec<Candidate> = self.connected(owner).into_iter().map(candidate).collect();
        let of = &mut self.owners[owner];
        of.phase = Phase::Offering;
        let placed = of.ledger.plan(now, &candidates, copies).place(wanted);
        placed.iter().for_each(|(peer, packs)| of.ledger.note_offered(now, *peer, packs));
        self.wait_for(owner, placed.len());
        for (peer, packs) in placed {
            let (holder, packs) = (self.places[&peer], self.numbers_of(&packs));
            self.ask(Line { owner, holder }, Request::Offer(packs));
        }
    }

    pub(super) fn offer_answered(&mut self, line: Line, is_taken: bool) {
        if !is_taken {
            self.forget_offers(line);
        }
        self.heard(line.owner);
    }

    fn forget_offers(&mut self, line: Line) {
        self.truth_of_forgotten(line);
        self.owners[line.owner].ledger.forget_offers(self.holders[line.holder].peer);
    }

    fn rest(&mut self, owner: usize) {
        let (now, of) = (self.now, &mut self.owners[owner]);
        of.ended = now;
        let pause = if std::mem::take(&mut of.has_news) { ROUND_PAUSE } else { ROUND_PAUSE + ROUND_INTERVAL };
        self.next_round_at(owner, now + pause.as_millis() as u64);
    }

    fn next_round_at(&mut self, owner: usize, at: u64) {
        self.owners[owner].next_round = at;
        self.push(at - self.now, Event::Round(owner));
    }

    /// News: the next round begins soon.
    fn wake(&mut self, owner: usize) {
        let of = &mut self.owners[owner];
        if !matches!(of.phase, Phase::Resting) {
            of.has_news = true;
            return;
        }
        let at = self.now.max(of.ended + ROUND_PAUSE.as_millis() as u64);
        if of.next_round > at {
            self.next_round_at(owner, at);
        }
    }

    /// A receipt arrives.
    pub(super) fn receipt(&mut self, line: Line, packs: &[usize]) {
        self.truth_of_receipt(line, packs);
        let (now, peer, ids) = (self.uptime(), self.holders[line.holder].peer, self.ids_of(packs));
        let mark = self.holders[line.holder].inventory.mark();
        let of = &mut self.owners[line.owner];
        mark.into_iter().for_each(|mark| of.confirmed[line.holder].note(mark));
        packs.iter().for_each(|pack| {
            of.receipts.entry(*pack).or_default().insert(line.holder);
        });
        of.ledger.settle(now, peer, &ids);
        self.wake(line.owner);
    }

    pub(super) fn declined(&mut self, line: Line, packs: &[usize]) {
        self.truth.take_back(line, packs);
        let (now, peer, ids) = (self.uptime(), self.holders[line.holder].peer, self.ids_of(packs));
        self.owners[line.owner].ledger.decline(now, peer, &ids);
        self.wake(line.owner);
    }

    /// A holder came or went.
    pub(super) fn owner_sees(&mut self, line: Line) {
        if self.owners[line.owner].is_up {
            self.owners[line.owner].seen[line.holder] = self.moment();
        }
        self.owners[line.owner].compared.remove(&line.holder);
        self.forget_offers(line);
        self.wake(line.owner);
    }

    pub(super) fn backup(&mut self, owner: usize) {
        self.owners[owner].packs.end = (owner + 1) * self.shape.packs;
        self.wake(owner);
    }

    /// What is written down stays, and nothing else; all lines are gone and there again.
    pub(super) fn owner_restart(&mut self, owner: usize) {
        for holder in self.connected(owner) {
            let seen = self.owners[owner].seen[holder];
            self.came_or_went(Line { owner, holder });
            // It had no time to note who was there.
            self.owners[owner].seen[holder] = seen;
        }
        let now = self.moment();
        let of = &mut self.owners[owner];
        (of.ledger, of.waking, of.is_up) = (Ledger::default(), Waking::new(now), true);
    }

    pub(super) fn audit(&mut self, owner: usize) {
        self.push(limit::AUDIT_ROUND.as_millis() as u64, Event::Audit(owner));
        if !self.owners[owner].is_up {
            return;
        }
        let seed = self.chance.next();
        let mut chosen: BTreeMap<usize, Choice> = BTreeMap::new();
        for (pack, holders) in &self.owners[owner].receipts {
            for holder in holders {
                let choice =
                    chosen.entry(*holder).or_insert_with(|| Choice::new(limit::AUDIT_SLICES_ROUND, seed));
                choice.meet(self.packs[*pack], PACK_BYTES, false);
            }
        }
        for (holder, choice) in chosen {
            let line = Line { owner, holder };
            if self.is_connected(line) {
                self.examine(line, &choice.picks());
            }
        }
    }

    fn examine(&mut self, line: Line, picks: &[Pick]) {
        let (mut tally, mut found) = (AuditTally::default(), Found::default());
        self.ask_for(line, picks, &mut tally);
        if !tally.lost.is_empty() {
            self.examine_rest(line, &mut tally, &mut found);
        }
        found.packs.extend(self.numbers_of(&tally.lost));
        found.is_all &= tally.of(AuditOutcome::Timeout) == 0;
        if tally.packs_lost() > 0 {
            self.owners[line.owner].lost[line.holder] = Some(self.moment());
            self.drop_receipts(line, &found.packs);
            self.truth_of_found(line, &found);
        }
        // The node tells it in any case.
        self.wake(line.owner);
    }

    fn ask_for(&mut self, line: Line, picks: &[Pick], tally: &mut AuditTally) {
        for pick in picks {
            let outcome = self.slice(line, pick);
            tally.note(pick, outcome);
        }
    }

    fn slice(&mut self, line: Line, pick: &Pick) -> AuditOutcome {
        if self.is_lost() {
            return pick.judge(&Err(FetchFailure::Timeout));
        }
        let (pack, at) = (self.numbers[&pick.pack], &self.holders[line.holder]);
        if !at.packs.contains_key(&pack) {
            return pick.judge(&Err(FetchFailure::NotFound));
        }
        let is_wrong = at.character == Character::Garbler;
        // What a slice proves once it proves again: the same bytes are not hashed a thousand times.
        *self
            .proven
            .entry((pack, pick.cell, is_wrong))
            .or_insert_with(|| pick.judge(&Ok(sent(pack, pick, is_wrong))))
    }

    fn examine_rest(&mut self, line: Line, tally: &mut AuditTally, found: &mut Found) {
        let mut doubts = Doubts::new(self.chance.next());
        let receipted = self.owners[line.owner].receipted(line.holder);
        for page in receipted.chunks(limit::RECEIPT_PACKS_MAX) {
            let confirmed = self.confirmed(line, page);
            found.is_all &= confirmed.is_some();
            let page: Vec<(PackId, u64)> = page.iter().map(|pack| (self.packs[*pack], PACK_BYTES)).collect();
            found.packs.extend(self.numbers_of(&doubts.hear(tally, &page, confirmed.as_ref())));
        }
        self.ask_for(line, &doubts.picks(), tally);
    }

    /// Of these packs, those that the holder confirms again.
    fn confirmed(&mut self, line: Line, packs: &[usize]) -> Option<HashSet<PackId>> {
        if self.is_lost() {
            return None;
        }
        let at = &self.holders[line.holder];
        let says = |pack: &&usize| at.character == Character::Liar || at.packs.contains_key(pack);
        Some(packs.iter().filter(says).map(|pack| self.packs[*pack]).collect())
    }

    fn drop_receipts(&mut self, line: Line, packs: &[usize]) {
        for pack in packs {
            if let Some(all) = self.owners[line.owner].receipts.get_mut(pack) {
                all.remove(&line.holder);
            }
        }
    }
}

/// What a holder that has the pack sends.
fn sent(pack: usize, pick: &Pick, is_wrong: bool) -> PulledSlice {
    let bytes = bytes_of(pack);
    let (_, outboard) = Outboard::of(&bytes);
    let end = (pick.range().end * limit::CELL_BYTES).min(bytes.len());
    let mut data = bytes[pick.range().first * limit::CELL_BYTES..end].to_vec();
    data[7] ^= u8::from(is_wrong);
    PulledSlice { data: data.into(), proof: outboard.proof(pick.range()) }
}
