//! Virtual time, lines that lose messages, and faults. What owners and holders decide the rules of the node decide: here
//! those rules are only told what happens.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use super::holders::{Holder, Pull};
use super::owners::Owner;
use super::truth::Truth;
use crate::base::{Moment, PackId, PeerId, limit};
use crate::engine::AuditOutcome;
use crate::pack::Outboard;

pub(super) const SECOND: u64 = 1000;
pub(super) const MINUTE: u64 = 60 * SECOND;
pub(super) const HOUR: u64 = 60 * MINUTE;
/// The shortest packs that slices can be proven of: two cells.
pub(super) const PACK_BYTES: u64 = limit::CELL_BYTES as u64 + 1024;
/// The settings that are built in.
pub(super) const AWAY_AFTER: Duration = Duration::from_secs(72 * 3600);
/// How long an answer is waited for.
const TIMEOUT: u64 = 10 * SECOND;

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

/// How large a mesh is and how its lines are.
#[derive(Debug, Clone, Copy)]
pub(super) struct Shape {
    pub(super) owners: usize,
    pub(super) holders: usize,
    /// Of each owner.
    pub(super) packs: usize,
    /// Of these, those that a later backup brings.
    pub(super) late: usize,
    pub(super) copies: u32,
    /// Packs that each holder lends room for.
    pub(super) room: u64,
    /// Packs that each owner may store at one holder.
    pub(super) quota: Option<u64>,
    /// Messages in a thousand that are lost.
    pub(super) loss: u64,
}

/// What a holder is like.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Character {
    Honest,
    /// Confirms everything and stores nothing.
    Liar,
    /// Stores, and sends wrong bytes.
    Garbler,
}

/// What goes wrong, or is well again.
#[derive(Debug, Clone)]
pub(super) enum Fault {
    /// Who is on which side, owners first.
    Split(Vec<u8>),
    Heal,
    /// A holder is killed; it comes back with what it stored.
    Down(usize),
    Up(usize),
    OwnerAsleep(usize),
    OwnerAwake(usize),
    /// An owner's later packs come.
    Backup(usize),
    /// An owner is killed and starts again: it knows what it has receipts for.
    OwnerRestart(usize),
    /// A holder loses every so many-th pack, silently.
    Lose(usize, usize),
    /// A holder's disk takes so many bytes more.
    Disk(usize, u64),
    Turn(usize, Character),
    /// An image is made of a holder's disk.
    Image(usize),
    /// A holder is killed, and starts with the disk of its last image.
    PutBack(usize),
}

/// One owner and one holder.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Line {
    pub(super) owner: usize,
    pub(super) holder: usize,
}

/// What one end of a line asks the other.
#[derive(Debug, Clone)]
pub(super) enum Request {
    /// The owner: what there is room for.
    Room,
    /// The owner: to store these.
    Offer(Vec<usize>),
    /// The holder: these are stored.
    Receipt(Vec<usize>),
    /// The holder: these are not.
    Decline(Vec<usize>),
}

#[derive(Debug)]
pub(super) enum Event {
    Round(usize),
    Audit(usize),
    /// A request arrives.
    Asked(u64),
    /// Its answer does, with the room in bytes where that was asked for.
    Answered(u64, u64),
    /// There will be none.
    Late(u64),
    /// A pull ends.
    Pulled(u64),
    Fault(Fault),
    Check,
}

pub(super) struct World {
    pub(super) shape: Shape,
    pub(super) chance: Chance,
    pub(super) now: u64,
    events: BTreeMap<(u64, u64), Event>,
    count: u64,
    pub(super) packs: Vec<PackId>,
    pub(super) numbers: HashMap<PackId, usize>,
    pub(super) places: HashMap<PeerId, usize>,
    pub(super) owners: Vec<Owner>,
    pub(super) holders: Vec<Holder>,
    waiting: BTreeMap<u64, (Line, Request)>,
    pub(super) pulls: BTreeMap<u64, Pull>,
    sides: Vec<u8>,
    pub(super) truth: Truth,
    /// What slices proved before: of which pack, which cell, and whether the bytes were wrong.
    pub(super) proven: HashMap<(usize, usize, bool), AuditOutcome>,
    trace: blake3::Hasher,
}

/// The bytes of a pack.
pub(super) fn bytes_of(pack: usize) -> Vec<u8> {
    let mut bytes = blake3::hash(&pack.to_le_bytes()).as_bytes().repeat(PACK_BYTES as usize / 32);
    bytes[limit::CELL_BYTES..].reverse();
    bytes
}

/// A name for each node.
pub(super) fn peer(n: usize) -> PeerId {
    PeerId::new(*blake3::hash(format!("peer {n}").as_bytes()).as_bytes())
}

impl World {
    pub(super) fn new(shape: Shape, seed: u64) -> Self {
        let packs: Vec<PackId> =
            (0..shape.owners * shape.packs).map(|pack| Outboard::of(&bytes_of(pack)).0).collect();
        let holders: Vec<Holder> = (0..shape.holders).map(|n| Holder::new(n, &shape)).collect();
        let mut world = Self {
            shape,
            chance: Chance::new(seed),
            now: 0,
            events: BTreeMap::new(),
            count: 0,
            numbers: packs.iter().enumerate().map(|(at, pack)| (*pack, at)).collect(),
            packs,
            places: holders.iter().enumerate().map(|(at, holder)| (holder.peer, at)).collect(),
            owners: (0..shape.owners).map(|n| Owner::new(n, &shape)).collect(),
            holders,
            waiting: BTreeMap::new(),
            pulls: BTreeMap::new(),
            sides: vec![0; shape.owners + shape.holders],
            truth: Truth::default(),
            proven: HashMap::new(),
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

    /// A hash of all that happened.
    pub(super) fn trace(&self) -> blake3::Hash {
        self.trace.finalize()
    }

    pub(super) fn run_until(&mut self, end: u64) {
        while let Some(entry) = self.events.first_entry().filter(|entry| entry.key().0 <= end) {
            let ((at, _), event) = entry.remove_entry();
            self.now = at;
            self.note(&format_args!("{event:?}"));
            self.happen(event);
        }
        self.now = end;
    }

    /// Runs until every pack truly has its copies, looked at every minute; the time it took from now.
    pub(super) fn run_until_safe(&mut self, most: u64) -> Option<u64> {
        let began = self.now;
        while !self.is_safe() {
            if self.now - began >= most {
                return None;
            }
            self.run_until(self.now + MINUTE);
        }
        Some(self.now - began)
    }

    pub(super) fn uptime(&self) -> Duration {
        Duration::from_millis(self.now)
    }

    pub(super) fn moment(&self) -> Moment {
        Moment::from_millis(self.now)
    }

    /// Something is to happen after so many milliseconds; returns its number.
    pub(super) fn push(&mut self, after: u64, event: Event) -> u64 {
        self.count += 1;
        self.events.insert((self.now + after, self.count), event);
        self.count
    }

    pub(super) fn number(&mut self) -> u64 {
        self.count += 1;
        self.count
    }

    /// One end of a line asks the other. Request or answer may be lost.
    pub(super) fn ask(&mut self, line: Line, request: Request) {
        self.note(&format_args!("{line:?} {request:?}"));
        let number = self.number();
        self.waiting.insert(number, (line, request));
        if !self.is_connected(line) {
            self.push(0, Event::Late(number));
            return;
        }
        self.push(TIMEOUT, Event::Late(number));
        self.send(Event::Asked(number));
    }

    fn send(&mut self, event: Event) {
        let delay = 5 + self.chance.below(if self.shape.loss > 0 { 1500 } else { 100 });
        if !self.is_lost() {
            self.push(delay, event);
        }
    }

    /// Whether a message is lost.
    pub(super) fn is_lost(&mut self) -> bool {
        self.chance.below(1000) < self.shape.loss
    }

    pub(super) fn is_connected(&self, line: Line) -> bool {
        let sides = self.sides[line.owner] == self.sides[self.owners.len() + line.holder];
        self.owners[line.owner].is_up && self.holders[line.holder].is_up && sides
    }

    pub(super) fn numbers_of<'a>(&self, ids: impl IntoIterator<Item = &'a PackId>) -> Vec<usize> {
        ids.into_iter().map(|id| self.numbers[id]).collect()
    }

    pub(super) fn ids_of(&self, packs: &[usize]) -> Vec<PackId> {
        packs.iter().map(|pack| self.packs[*pack]).collect()
    }

    fn note(&mut self, what: &std::fmt::Arguments) {
        self.trace.update(format!("{} {what}\n", self.now).as_bytes());
    }

    fn happen(&mut self, event: Event) {
        match event {
            Event::Round(owner) => self.round(owner),
            Event::Audit(owner) => self.audit(owner),
            Event::Asked(number) => {
                if let Some((line, request)) = self.waiting.get(&number).cloned() {
                    let room = self.answer(line, request);
                    self.send(Event::Answered(number, room));
                }
            }
            Event::Answered(number, room) => self.hear(number, Some(room)),
            Event::Late(number) => self.hear(number, None),
            Event::Pulled(number) => self.pulled(number),
            Event::Fault(fault) => self.fail(fault),
            Event::Check => {
                self.check();
                self.push(HOUR, Event::Check);
            }
        }
    }

    fn answer(&mut self, line: Line, request: Request) -> u64 {
        match request {
            Request::Room => return self.free_for(line),
            Request::Offer(packs) => self.offered(line, packs),
            Request::Receipt(packs) => self.receipt(line, &packs),
            Request::Decline(packs) => self.declined(line, &packs),
        }
        0
    }

    /// The answer to a request, or that there is none.
    fn hear(&mut self, number: u64, answer: Option<u64>) {
        let Some((line, request)) = self.waiting.remove(&number) else { return };
        match request {
            Request::Room => self.room_told(line, answer),
            Request::Offer(_) => self.offer_answered(line, answer.is_some()),
            Request::Receipt(packs) => self.receipt_answered(line, &packs, answer.is_some()),
            Request::Decline(_) => {}
        }
    }

    fn lines(&self) -> Vec<Line> {
        let holders = 0..self.holders.len();
        (0..self.owners.len())
            .flat_map(|owner| holders.clone().map(move |holder| Line { owner, holder }))
            .collect()
    }

    fn fail(&mut self, fault: Fault) {
        let lines = self.lines();
        let before: Vec<bool> = lines.iter().map(|line| self.is_connected(*line)).collect();
        match fault {
            Fault::Split(sides) => self.sides = sides,
            Fault::Heal => self.sides.fill(0),
            Fault::Down(holder) => self.holder_down(holder),
            Fault::Up(holder) => self.holder_up(holder),
            Fault::OwnerAsleep(owner) => self.owners[owner].is_up = false,
            Fault::OwnerAwake(owner) => self.owners[owner].is_up = true,
            Fault::Backup(owner) => self.backup(owner),
            Fault::OwnerRestart(owner) => self.owner_restart(owner),
            Fault::Lose(holder, one_in) => self.lose(holder, one_in),
            Fault::Disk(holder, bytes) => self.holders[holder].disk = bytes,
            Fault::Turn(holder, character) => self.turn(holder, character),
            Fault::Image(holder) => self.holders[holder].make_image(),
            Fault::PutBack(holder) => self.put_back(holder),
        }
        for (line, was) in lines.into_iter().zip(before) {
            if was != self.is_connected(line) {
                self.truth.gone.insert(line, self.now);
                self.came_or_went(line);
            }
        }
    }

    /// A line is there again, or no more: what was under way on it fails, and both ends know.
    pub(super) fn came_or_went(&mut self, line: Line) {
        self.owner_sees(line);
        self.holder_sees(line);
        let under_way = self.waiting.iter().filter(|(_, (on, _))| *on == line);
        let under_way: Vec<u64> = under_way.map(|(number, _)| *number).collect();
        under_way.into_iter().for_each(|number| self.hear(number, None));
    }
}
