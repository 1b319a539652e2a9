//! Owners and holders in virtual time. What they decide is decided by the rules of the node; here are only what those
//! rules are told: messages that come late or never, disks, lines, faults, and the truth to compare their books with.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet, VecDeque};
use std::time::Duration;

use crate::base::{Moment, PackId, PeerId, limit};
use crate::engine::{
    AuditOutcome, AuditTally, Candidate, Choice, Chosen, FetchFailure, Ledger, Lending, Pick, PulledSlice,
    Want, is_on_probation,
};
use crate::pack::Outboard;
use crate::policy::{Presence, Waking, presence};

pub(super) const SECOND: u64 = 1000;
pub(super) const HOUR: u64 = 3600 * SECOND;
/// The shortest packs that slices can be proven of: two cells.
pub(super) const PACK_BYTES: u64 = limit::CELL_BYTES as u64 + 1024;
/// The settings that are built in.
pub(super) const AWAY_AFTER: Duration = Duration::from_secs(72 * 3600);
/// As in the node: between rounds, before the next one when there is news, and how long answers are waited for.
const ROUND_INTERVAL: u64 = 30 * SECOND;
const ROUND_PAUSE: u64 = 200;
const ANSWERS_WAIT: u64 = 2 * SECOND;
const TIMEOUT: u64 = 10 * SECOND;
const PULL_TIME: u64 = 300;
const RECEIPT_PACKS: usize = 16;

/// A source of chance that a seed determines.
pub(super) struct Chance(u64);

impl Chance {
    pub(super) fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// Splitmix. Source: Steele, Lea and Flood 2014.
    pub(super) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    pub(super) fn below(&mut self, end: u64) -> u64 {
        self.next() % end
    }
}

/// What a holder is like.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Character {
    Honest,
    /// Confirms what it does not store.
    Liar,
    /// Stores, and sends wrong bytes.
    Garbler,
}

/// What goes wrong, or is well again.
#[derive(Debug, Clone)]
pub(super) enum Fault {
    /// Who is on which side.
    Split(Vec<u8>),
    Heal,
    Down(usize),
    Up(usize),
    OwnerDown(usize),
    OwnerUp(usize),
    /// Loses every so many-th pack, silently.
    Lose(usize, usize),
    /// Its disk takes so many bytes more.
    Disk(usize, u64),
    Turn(usize, Character),
}

#[derive(Debug, Clone)]
enum Event {
    Round(usize),
    Place(usize),
    Audit(usize),
    Pull(usize),
    AskRoom(usize, usize),
    Room(usize, usize, u64),
    Offer(usize, usize, Vec<usize>),
    Unanswered(usize, usize, bool),
    Receipt(usize, usize, Vec<usize>),
    Decline(usize, usize, Vec<usize>),
    Fault(Fault),
    Check,
}

struct Pack {
    id: PackId,
    bytes: Vec<u8>,
    outboard: Outboard,
}

struct Owner {
    is_up: bool,
    ledger: Ledger,
    packs: Vec<usize>,
    receipts: BTreeMap<usize, BTreeSet<usize>>,
    wanted: Vec<Want>,
    seen: Vec<Moment>,
    lost: Vec<Option<Moment>>,
    uncounted: BTreeSet<usize>,
    waking: Waking,
    /// 0 while a round is under way.
    next_round: u64,
    /// Something came while it was: the next follows at once.
    has_news: bool,
}

struct Holder {
    peer: PeerId,
    is_up: bool,
    character: Character,
    lent: u64,
    disk: u64,
    quota: Option<u64>,
    packs: BTreeMap<usize, usize>,
    queue: VecDeque<(usize, usize)>,
    is_pulling: bool,
    fresh: BTreeMap<usize, Vec<usize>>,
}

impl Holder {
    /// The holder's rule: what this owner may still store, in bytes.
    fn free_for(&self, owner: usize) -> u64 {
        let stored = self.packs.len() as u64 * PACK_BYTES;
        let of_owner = self.packs.values().filter(|of| **of == owner).count() as u64 * PACK_BYTES;
        Lending { lent: self.lent, stored, disk: self.disk }.free_for(self.quota, of_owner)
    }
}

/// How large a mesh is and how its lines are.
#[derive(Debug, Clone, Copy)]
pub(super) struct Shape {
    pub(super) owners: usize,
    pub(super) holders: usize,
    pub(super) packs: usize,
    pub(super) copies: u32,
    /// Packs that each holder lends room for.
    pub(super) room: u64,
    /// Packs that each owner may store at one holder.
    pub(super) quota: Option<u64>,
    /// Messages in a thousand that are lost.
    pub(super) loss: u64,
}

pub(super) struct World {
    shape: Shape,
    chance: Chance,
    now: u64,
    events: BTreeMap<(u64, u64), Event>,
    count: u64,
    packs: Vec<Pack>,
    numbers: HashMap<PackId, usize>,
    places: HashMap<PeerId, usize>,
    owners: Vec<Owner>,
    holders: Vec<Holder>,
    /// The side of the split that each node is on: owners first.
    sides: Vec<u8>,
    /// Copies that are gone without anyone having been told.
    silent: BTreeSet<(usize, usize)>,
    /// How many copies more than wished a pack may have, because of what happened.
    forced: BTreeMap<usize, usize>,
    /// When an audit found something at a holder first.
    pub(super) found: BTreeMap<usize, u64>,
    trace: blake3::Hasher,
}

impl World {
    pub(super) fn new(shape: Shape, seed: u64) -> Self {
        let pack = |n: usize| {
            let bytes = blake3::hash(&n.to_le_bytes()).as_bytes().repeat(PACK_BYTES as usize / 32);
            let (id, outboard) = Outboard::of(&bytes);
            Pack { id, bytes, outboard }
        };
        let packs: Vec<Pack> = (0..shape.owners * shape.packs).map(pack).collect();
        let holder = |n: usize| Holder {
            peer: PeerId::new(*blake3::hash(&(n as u64 + (1 << 40)).to_le_bytes()).as_bytes()),
            is_up: true,
            character: Character::Honest,
            lent: shape.room * PACK_BYTES,
            disk: u64::MAX,
            quota: shape.quota.map(|packs| packs * PACK_BYTES),
            packs: BTreeMap::new(),
            queue: VecDeque::new(),
            is_pulling: false,
            fresh: BTreeMap::new(),
        };
        let holders: Vec<Holder> = (0..shape.holders).map(holder).collect();
        let start = Moment::from_millis(0);
        let owner = |n: usize| Owner {
            is_up: true,
            ledger: Ledger::default(),
            packs: (n * shape.packs..(n + 1) * shape.packs).collect(),
            receipts: BTreeMap::new(),
            wanted: Vec::new(),
            seen: vec![start; shape.holders],
            lost: vec![None; shape.holders],
            uncounted: BTreeSet::new(),
            waking: Waking::new(start),
            next_round: 0,
            has_news: false,
        };
        let mut world = Self {
            shape,
            chance: Chance::new(seed),
            now: 0,
            events: BTreeMap::new(),
            count: 0,
            numbers: packs.iter().enumerate().map(|(at, pack)| (pack.id, at)).collect(),
            places: holders.iter().enumerate().map(|(at, holder)| (holder.peer, at)).collect(),
            packs,
            owners: (0..shape.owners).map(owner).collect(),
            holders,
            sides: vec![0; shape.owners + shape.holders],
            silent: BTreeSet::new(),
            forced: BTreeMap::new(),
            found: BTreeMap::new(),
            trace: blake3::Hasher::new(),
        };
        for owner in 0..shape.owners {
            world.push(0, Event::Round(owner));
            let first = world.chance.below(limit::AUDIT_ROUND.as_millis() as u64);
            world.push(first, Event::Audit(owner));
        }
        world.push(HOUR, Event::Check);
        world
    }

    /// Something is to go wrong at a time.
    pub(super) fn plan(&mut self, at: u64, fault: Fault) {
        self.push(at.saturating_sub(self.now), Event::Fault(fault));
    }

    pub(super) fn now(&self) -> u64 {
        self.now
    }

    /// A hash of all that happened.
    pub(super) fn trace(&self) -> blake3::Hash {
        self.trace.finalize()
    }

    /// Packs that a holder truly has.
    pub(super) fn stored(&self, holder: usize) -> usize {
        self.holders[holder].packs.len()
    }

    pub(super) fn run_until(&mut self, end: u64) {
        while let Some(entry) = self.events.first_entry().filter(|entry| entry.key().0 <= end) {
            let ((at, _), event) = entry.remove_entry();
            self.now = at;
            self.trace.update(format!("{at} {event:?}\n").as_bytes());
            self.happen(event);
        }
        self.now = end;
    }

    /// Runs until every pack truly has its copies, looked at every ten minutes; the time it took from now.
    pub(super) fn run_until_safe(&mut self, most: u64) -> Option<u64> {
        let began = self.now;
        while !self.is_safe() {
            if self.now - began >= most {
                return None;
            }
            self.run_until(self.now + HOUR / 6);
        }
        Some(self.now - began)
    }

    /// Whether each pack has as many counted copies as wished that are there and can be read.
    pub(super) fn is_safe(&self) -> bool {
        (0..self.owners.len()).all(|owner| {
            let counted = self.counted(owner);
            self.owners[owner].packs.iter().all(|pack| {
                let holders = self.owners[owner].receipts.get(pack).into_iter().flatten();
                let sound = holders.filter(|holder| {
                    let at = &self.holders[**holder];
                    counted[**holder] && at.character == Character::Honest && at.packs.contains_key(pack)
                });
                sound.count() >= self.shape.copies as usize
            })
        })
    }

    fn push(&mut self, after: u64, event: Event) {
        self.count += 1;
        self.events.insert((self.now + after, self.count), event);
    }

    /// Between an owner and a holder; `false` when it was lost.
    fn send(&mut self, event: Event) -> bool {
        let delay = 5 + self.chance.below(if self.shape.loss > 0 { 1500 } else { 100 });
        let is_lost = self.chance.below(1000) < self.shape.loss;
        if !is_lost {
            self.push(delay, event);
        }
        !is_lost
    }

    fn is_connected(&self, owner: usize, holder: usize) -> bool {
        let sides = self.sides[owner] == self.sides[self.owners.len() + holder];
        self.owners[owner].is_up && self.holders[holder].is_up && sides
    }

    fn force(&mut self, packs: &[usize]) {
        packs.iter().for_each(|pack| *self.forced.entry(*pack).or_default() += 1);
    }

    fn uptime(&self) -> Duration {
        Duration::from_millis(self.now)
    }

    fn moment(&self) -> Moment {
        Moment::from_millis(self.now)
    }

    fn happen(&mut self, event: Event) {
        match event {
            Event::Round(owner) if self.owners[owner].next_round == self.now => self.round(owner),
            Event::Round(_) => {}
            Event::Place(owner) => self.place(owner),
            Event::Audit(owner) => self.audit(owner),
            Event::Pull(holder) => self.pull(holder),
            Event::AskRoom(owner, holder) if self.is_connected(owner, holder) => {
                let free = self.holders[holder].free_for(owner);
                if !self.send(Event::Room(owner, holder, free)) {
                    self.push(TIMEOUT, Event::Unanswered(owner, holder, false));
                }
            }
            Event::Room(owner, holder, bytes) if self.is_connected(owner, holder) => {
                let (now, peer) = (self.uptime(), self.holders[holder].peer);
                self.owners[owner].ledger.note_room(now, peer, bytes);
            }
            Event::AskRoom(owner, holder) | Event::Room(owner, holder, _) => {
                self.push(TIMEOUT, Event::Unanswered(owner, holder, false));
            }
            Event::Offer(owner, holder, packs) => self.offered(owner, holder, packs),
            Event::Unanswered(owner, holder, was_offer) => {
                let (peer, ledger) = (self.holders[holder].peer, &mut self.owners[owner].ledger);
                if was_offer { ledger.forget_offers(peer) } else { ledger.note_silence(peer) }
            }
            Event::Receipt(owner, holder, packs) => self.receipt(owner, holder, packs),
            Event::Decline(owner, holder, packs) => self.declined(owner, holder, packs),
            Event::Fault(fault) => self.fault(fault),
            Event::Check => {
                self.check();
                self.push(HOUR, Event::Check);
            }
        }
    }

    /// News: the next round begins soon.
    fn wake(&mut self, owner: usize) {
        let at = self.now + ROUND_PAUSE;
        self.owners[owner].has_news |= self.owners[owner].next_round == 0;
        if self.owners[owner].next_round > at {
            self.owners[owner].next_round = at;
            self.push(ROUND_PAUSE, Event::Round(owner));
        }
    }

    fn presences(&self, owner: usize) -> Vec<Presence> {
        let (of, now) = (&self.owners[owner], self.moment());
        let judge = |holder: usize| {
            let connected = self.is_connected(owner, holder);
            presence(connected, of.seen[holder], of.waking.since(), now, AWAY_AFTER)
        };
        (0..self.holders.len()).map(judge).collect()
    }

    fn counted(&self, owner: usize) -> Vec<bool> {
        self.presences(owner).into_iter().map(Presence::counts).collect()
    }

    fn round(&mut self, owner: usize) {
        // Until its end no other begins.
        self.owners[owner].next_round = 0;
        if !self.owners[owner].is_up {
            return self.push(ANSWERS_WAIT, Event::Place(owner));
        }
        let (now, moment, copies) = (self.uptime(), self.moment(), self.shape.copies);
        self.owners[owner].waking.look(moment);
        let counted = self.counted(owner);
        self.note_uncounted(owner, &counted);
        let of = &mut self.owners[owner];
        let mut wanting = of.ledger.wanting(now, copies);
        for pack in &of.packs {
            let holders = of.receipts.get(pack).into_iter().flatten().filter(|holder| counted[**holder]);
            let holders = holders.map(|holder| self.holders[*holder].peer).collect();
            wanting.meet(self.packs[*pack].id, PACK_BYTES, holders);
        }
        of.wanted = wanting.finish();
        of.ledger.note_wanted(&of.wanted);
        for holder in
            (0..self.holders.len()).filter(|holder| self.is_connected(owner, *holder)).collect::<Vec<_>>()
        {
            self.owners[owner].seen[holder] = moment;
            let is_to_ask = self.owners[owner].ledger.is_to_ask(now, self.holders[holder].peer, true);
            if is_to_ask && !self.send(Event::AskRoom(owner, holder)) {
                self.push(TIMEOUT, Event::Unanswered(owner, holder, false));
            }
        }
        self.push(ANSWERS_WAIT, Event::Place(owner));
    }

    /// Copies at a holder that is missing do not count: others are made.
    fn note_uncounted(&mut self, owner: usize, counted: &[bool]) {
        for (holder, counts) in counted.iter().enumerate() {
            if *counts {
                self.owners[owner].uncounted.remove(&holder);
            } else if self.owners[owner].uncounted.insert(holder) {
                let receipts = self.owners[owner].receipts.iter();
                let packs: Vec<usize> =
                    receipts.filter(|(_, all)| all.contains(&holder)).map(|(pack, _)| *pack).collect();
                self.force(&packs);
            }
        }
    }

    fn place(&mut self, owner: usize) {
        let (now, moment, copies) = (self.uptime(), self.moment(), self.shape.copies);
        let pause =
            if std::mem::take(&mut self.owners[owner].has_news) { ROUND_PAUSE } else { ROUND_INTERVAL };
        self.owners[owner].next_round = self.now + pause;
        self.push(pause, Event::Round(owner));
        if !self.owners[owner].is_up {
            return;
        }
        let connected = (0..self.holders.len()).filter(|holder| self.is_connected(owner, *holder));
        let candidate = |holder: usize| Candidate {
            peer: self.holders[holder].peer,
            on_probation: is_on_probation(self.owners[owner].lost[holder], moment),
        };
        let candidates: Vec<Candidate> = connected.map(candidate).collect();
        let of = &mut self.owners[owner];
        let placed = of.ledger.plan(now, &candidates, copies).place(&of.wanted);
        for (peer, packs) in placed {
            self.owners[owner].ledger.note_offered(now, peer, &packs);
            let (holder, packs) = (self.places[&peer], self.numbers_of(&packs));
            if !self.send(Event::Offer(owner, holder, packs.clone())) {
                self.force(&packs);
                self.push(TIMEOUT, Event::Unanswered(owner, holder, true));
            }
        }
    }

    fn numbers_of(&self, ids: &[PackId]) -> Vec<usize> {
        ids.iter().map(|id| self.numbers[id]).collect()
    }

    fn ids_of(&self, packs: &[usize]) -> Vec<PackId> {
        packs.iter().map(|pack| self.packs[*pack].id).collect()
    }

    fn offered(&mut self, owner: usize, holder: usize, packs: Vec<usize>) {
        if !self.is_connected(owner, holder) {
            return self.force(&packs);
        }
        let at = &mut self.holders[holder];
        let (held, wanted): (Vec<usize>, Vec<usize>) =
            packs.into_iter().partition(|pack| at.packs.contains_key(pack));
        at.queue.extend(wanted.into_iter().map(|pack| (owner, pack)));
        let begins = !at.is_pulling && !at.queue.is_empty();
        at.is_pulling |= begins;
        if begins {
            self.push(PULL_TIME, Event::Pull(holder));
        }
        if !held.is_empty() {
            self.confirm(owner, holder, held);
        }
    }

    /// One pack has come. A full holder takes nothing more of that offer.
    fn pull(&mut self, holder: usize) {
        let at = &mut self.holders[holder];
        at.is_pulling = false;
        let Some((owner, pack)) = at.queue.pop_front() else { return };
        let is_there = at.packs.contains_key(&pack);
        if at.character == Character::Liar {
            self.silent.insert((pack, holder));
            at.fresh.entry(owner).or_default().push(pack);
        } else if is_there || at.free_for(owner) >= PACK_BYTES {
            if at.packs.insert(pack, owner).is_none() {
                at.disk = at.disk.saturating_sub(PACK_BYTES);
            }
            at.fresh.entry(owner).or_default().push(pack);
            self.silent.remove(&(pack, holder));
            self.check_surplus(pack);
        } else {
            let (left, others) = at.queue.drain(..).partition(|(of, _)| *of == owner);
            at.queue = others;
            let left: VecDeque<(usize, usize)> = left;
            let left = std::iter::once(pack).chain(left.into_iter().map(|(_, pack)| pack)).collect();
            self.refuse(owner, holder, left);
        }
        let at = &mut self.holders[holder];
        let is_last = !at.queue.iter().any(|(of, _)| *of == owner);
        let is_due = |fresh: &Vec<usize>| fresh.len() >= RECEIPT_PACKS || is_last;
        let due = at.fresh.get(&owner).is_some_and(is_due).then(|| at.fresh.remove(&owner)).flatten();
        if !at.queue.is_empty() {
            at.is_pulling = true;
            self.push(PULL_TIME, Event::Pull(holder));
        }
        if let Some(packs) = due {
            self.confirm(owner, holder, packs);
        }
    }

    /// A receipt; what it could not say is declined, as what is not stored.
    fn confirm(&mut self, owner: usize, holder: usize, packs: Vec<usize>) {
        if !self.send(Event::Receipt(owner, holder, packs.clone())) {
            self.force(&packs);
            self.refuse(owner, holder, packs);
        }
    }

    fn refuse(&mut self, owner: usize, holder: usize, packs: Vec<usize>) {
        self.send(Event::Decline(owner, holder, packs));
    }

    fn receipt(&mut self, owner: usize, holder: usize, packs: Vec<usize>) {
        if !self.is_connected(owner, holder) {
            return self.force(&packs);
        }
        let (now, peer, ids) = (self.uptime(), self.holders[holder].peer, self.ids_of(&packs));
        for pack in packs {
            self.owners[owner].receipts.entry(pack).or_default().insert(holder);
        }
        self.owners[owner].ledger.settle(now, peer, &ids);
        self.wake(owner);
    }

    fn declined(&mut self, owner: usize, holder: usize, packs: Vec<usize>) {
        if self.is_connected(owner, holder) {
            let (now, peer, ids) = (self.uptime(), self.holders[holder].peer, self.ids_of(&packs));
            self.owners[owner].ledger.decline(now, peer, &ids);
            self.wake(owner);
        }
    }

    fn fault(&mut self, fault: Fault) {
        let pairs = |world: &Self| -> Vec<bool> {
            let all = (0..world.owners.len()).flat_map(|o| (0..world.holders.len()).map(move |h| (o, h)));
            all.map(|(owner, holder)| world.is_connected(owner, holder)).collect()
        };
        let before = pairs(self);
        match fault {
            Fault::Split(sides) => self.sides = sides,
            Fault::Heal => self.sides.fill(0),
            Fault::Down(holder) => self.holders[holder].is_up = false,
            Fault::Up(holder) => self.holders[holder].is_up = true,
            Fault::OwnerDown(owner) => self.owners[owner].is_up = false,
            Fault::OwnerUp(owner) => self.owners[owner].is_up = true,
            Fault::Lose(holder, one_in) => self.lose(holder, one_in),
            Fault::Disk(holder, bytes) => self.holders[holder].disk = bytes,
            Fault::Turn(holder, character) => self.holders[holder].character = character,
        }
        let after = pairs(self);
        for at in (0..before.len()).filter(|at| before[*at] != after[*at]) {
            self.came_or_went(at / self.holders.len(), at % self.holders.len());
        }
    }

    fn lose(&mut self, holder: usize, one_in: usize) {
        let at = &mut self.holders[holder];
        let lost: Vec<usize> = at.packs.keys().copied().step_by(one_in).collect();
        for pack in lost {
            at.packs.remove(&pack);
            self.silent.insert((pack, holder));
        }
    }

    fn came_or_went(&mut self, owner: usize, holder: usize) {
        let peer = self.holders[holder].peer;
        let at = &mut self.holders[holder];
        let queued = at.queue.iter().filter(|(of, _)| *of == owner).map(|(_, pack)| *pack);
        let mut open: Vec<usize> = queued.collect();
        at.queue.retain(|(of, _)| *of != owner);
        open.extend(at.fresh.remove(&owner).into_iter().flatten());
        self.force(&open);
        self.owners[owner].seen[holder] = self.moment();
        self.owners[owner].ledger.forget_offers(peer);
        self.wake(owner);
    }

    fn audit(&mut self, owner: usize) {
        self.push(limit::AUDIT_ROUND.as_millis() as u64, Event::Audit(owner));
        if !self.owners[owner].is_up {
            return;
        }
        let seed = self.chance.next();
        for holder in 0..self.holders.len() {
            let mut choice = Choice::new(limit::AUDIT_SLICES_ROUND, seed);
            let receipted = self.receipted(owner, holder);
            receipted.iter().for_each(|pack| choice.meet(self.packs[*pack].id, PACK_BYTES, false));
            let (picks, mut tally) = (choice.picks(), AuditTally::default());
            self.ask_for(owner, holder, &picks, &mut tally);
            if !tally.lost.is_empty() {
                self.examine_rest(owner, holder, &receipted, &mut tally);
            }
            self.conclude(owner, holder, &tally);
        }
    }

    fn receipted(&self, owner: usize, holder: usize) -> Vec<usize> {
        let receipts = self.owners[owner].receipts.iter();
        receipts.filter(|(_, all)| all.contains(&holder)).map(|(pack, _)| *pack).collect()
    }

    fn ask_for(&mut self, owner: usize, holder: usize, picks: &[Pick], tally: &mut AuditTally) {
        for pick in picks {
            let answer = self.answer(owner, holder, pick);
            tally.note(pick, pick.judge(&answer));
        }
    }

    fn answer(&mut self, owner: usize, holder: usize, pick: &Pick) -> Result<PulledSlice, FetchFailure> {
        if !self.is_connected(owner, holder) {
            return Err(FetchFailure::Offline("away".to_owned()));
        }
        if self.chance.below(1000) < self.shape.loss {
            return Err(FetchFailure::Timeout);
        }
        let (number, at) = (self.numbers[&pick.pack], &self.holders[holder]);
        if !at.packs.contains_key(&number) {
            return Err(FetchFailure::NotFound);
        }
        let pack = &self.packs[number];
        let end = (pick.range().end * limit::CELL_BYTES).min(pack.bytes.len());
        let mut data = pack.bytes[pick.range().first * limit::CELL_BYTES..end].to_vec();
        data[7] ^= u8::from(at.character == Character::Garbler);
        Ok(PulledSlice { data, proof: pack.outboard.proof(pick.range()) })
    }

    /// As the node does: what the holder admits, then a slice of each pack that it says to have.
    fn examine_rest(&mut self, owner: usize, holder: usize, receipted: &[usize], tally: &mut AuditTally) {
        let lost = tally.lost.clone();
        let rest: Vec<usize> =
            receipted.iter().copied().filter(|pack| !lost.contains(&self.packs[*pack].id)).collect();
        let at = &self.holders[holder];
        let says_to_have = |pack: &usize| at.character == Character::Liar || at.packs.contains_key(pack);
        let (said, admitted): (Vec<usize>, Vec<usize>) = rest.into_iter().partition(says_to_have);
        tally.unconfirmed += admitted.len() as u64;
        self.drop_receipts(owner, holder, &admitted);
        let mut chosen = Chosen::new(limit::AUDIT_SLICES_SUSPECT_MAX, self.chance.next());
        said.iter().for_each(|pack| chosen.meet(self.packs[*pack].id, PACK_BYTES));
        self.ask_for(owner, holder, &chosen.picks_once(), tally);
    }

    fn conclude(&mut self, owner: usize, holder: usize, tally: &AuditTally) {
        if tally.packs_lost() == 0 {
            return;
        }
        let lost = self.numbers_of(&tally.lost.iter().copied().collect::<Vec<_>>());
        self.drop_receipts(owner, holder, &lost);
        self.owners[owner].lost[holder] = Some(self.moment());
        self.found.entry(holder).or_insert(self.now);
        // One that was found out has been asked for all it confirmed.
        if tally.of(AuditOutcome::Timeout) == 0 {
            let untrue =
                self.receipted(owner, holder).into_iter().find(|pack| self.silent.contains(&(*pack, holder)));
            assert_eq!(untrue, None, "still counted after the audit that found the loss of holder {holder}");
        }
        self.wake(owner);
    }

    fn drop_receipts(&mut self, owner: usize, holder: usize, packs: &[usize]) {
        for pack in packs {
            if let Some(all) = self.owners[owner].receipts.get_mut(pack) {
                all.remove(&holder);
            }
        }
        self.force(packs);
    }

    /// Every copy that an owner counts is there, but for what was lost, or never stored, without a word.
    pub(super) fn check(&self) {
        for of in &self.owners {
            for (pack, holders) in &of.receipts {
                for holder in holders {
                    let is_true = self.holders[*holder].packs.contains_key(pack);
                    let is_silent = self.silent.contains(&(*pack, *holder));
                    assert!(
                        is_true || is_silent,
                        "pack {pack} is counted at holder {holder}, who never had it"
                    );
                }
            }
        }
        let full = |at: &Holder| at.packs.len() as u64 * PACK_BYTES > at.lent;
        assert_eq!(self.holders.iter().position(full), None, "a holder stores more than it lends");
        if let Some(quota) = self.shape.quota {
            for at in &self.holders {
                let owners: HashSet<usize> = at.packs.values().copied().collect();
                let most = owners.iter().map(|o| at.packs.values().filter(|of| *of == o).count()).max();
                assert!(most.unwrap_or(0) as u64 <= quota, "an owner stores more than its quota");
            }
        }
    }

    /// No pack is stored more often than wished and what happened made necessary.
    fn check_surplus(&self, pack: usize) {
        let copies = self.holders.iter().filter(|at| at.packs.contains_key(&pack)).count();
        let forced = self.forced.get(&pack).copied().unwrap_or(0);
        let most = self.shape.copies as usize + forced;
        assert!(
            copies <= most,
            "pack {pack} has {copies} copies at {} ms where {forced} were forced",
            self.now
        );
    }

    /// Copies of a pack more than wished, of all packs together.
    pub(super) fn surplus(&self) -> usize {
        let copies = |pack: usize| self.holders.iter().filter(|at| at.packs.contains_key(&pack)).count();
        (0..self.packs.len()).map(|pack| copies(pack).saturating_sub(self.shape.copies as usize)).sum()
    }
}
