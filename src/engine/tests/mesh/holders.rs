//! Holders: offers wait, packs are pulled and stored, and what is stored is confirmed.

use std::collections::{BTreeMap, HashSet, VecDeque};
use std::time::Duration;

use super::world::{Character, Event, Line, PACK_BYTES, Request, Shape, World, peer};
use crate::base::{Code, DeviceId, HeadId, PeerId, VaultId};
use crate::engine::{Lending, PULLS_MAX, PULLS_PER_OWNER_MAX, Serving, WishKey, Wishes, is_hopeless};
use crate::policy::Inventory;
use crate::snapshot::HeadSummary;

/// The longest time that a pull takes.
const PULL_TIME: u64 = 500;

/// One owner who is served.
struct Service {
    serving: Serving,
    began: u64,
    wanted: VecDeque<usize>,
    /// A receipt is on its way: nothing goes on before it is answered.
    is_telling: bool,
}

/// A pack on its way.
pub(super) struct Pull {
    line: Line,
    pack: usize,
    /// The line went meanwhile.
    is_broken: bool,
    /// Its service ended meanwhile: it will be stored, and nobody will be told.
    is_orphan: bool,
}

pub(super) struct Holder {
    pub(super) peer: PeerId,
    pub(super) is_up: bool,
    pub(super) character: Character,
    /// In bytes, as the next two.
    lent: u64,
    pub(super) disk: u64,
    quota: Option<u64>,
    /// What is stored, and for whom.
    pub(super) packs: BTreeMap<usize, usize>,
    pub(super) inventory: Inventory,
    image: Option<(BTreeMap<usize, usize>, Inventory)>,
    wishes: Wishes,
    services: BTreeMap<usize, Service>,
}

impl Holder {
    pub(super) fn new(n: usize, shape: &Shape) -> Self {
        let mut inventory = Inventory::default();
        inventory.begin(1);
        Self {
            peer: peer(n),
            is_up: true,
            character: Character::Honest,
            // What is left at the end is too little for a pack.
            lent: shape.room * PACK_BYTES + 1000,
            disk: u64::MAX,
            quota: shape.quota.map(|packs| packs * PACK_BYTES + 1000),
            packs: BTreeMap::new(),
            inventory,
            image: None,
            wishes: Wishes::default(),
            services: BTreeMap::new(),
        }
    }

    pub(super) fn make_image(&mut self) {
        self.image = Some((self.packs.clone(), self.inventory.clone()));
    }

    pub(super) fn stored_for(&self, owner: usize) -> u64 {
        self.packs.values().filter(|of| **of == owner).count() as u64 * PACK_BYTES
    }

    pub(super) fn has_overspent(&self) -> bool {
        let stored = self.packs.len() as u64 * PACK_BYTES;
        let most = |quota: u64| self.packs.values().all(|owner| self.stored_for(*owner) <= quota);
        stored > self.lent || !self.quota.is_none_or(most)
    }
}

fn key_of(owner: PeerId) -> WishKey {
    (owner, VaultId::new(*owner.as_bytes()))
}

impl World {
    fn pulls_of(&self, holder: usize) -> usize {
        self.pulls.values().filter(|pull| pull.line.holder == holder).count()
    }

    /// What an owner may still store, in bytes, beyond what is on its way.
    pub(super) fn free_for(&self, line: Line) -> u64 {
        let at = &self.holders[line.holder];
        let lending = Lending { lent: at.lent, stored: at.packs.len() as u64 * PACK_BYTES, disk: at.disk };
        let promised = self.pulls_of(line.holder) as u64 * PACK_BYTES;
        lending.free_for(at.quota, at.stored_for(line.owner)).saturating_sub(promised)
    }

    pub(super) fn offered(&mut self, line: Line, packs: Vec<usize>) {
        let head = HeadSummary { device: DeviceId::new([1; 32]), seq: 1, id: HeadId::new([2; 32]) };
        let (key, ids) = (key_of(self.owners[line.owner].peer), self.ids_of(&packs));
        assert_eq!(self.holders[line.holder].wishes.add(key, head, &ids), packs.len() as u32);
        self.truth.take_on(line, &packs);
        self.go_on(line.holder);
    }

    /// Does what can be done now.
    fn go_on(&mut self, holder: usize) {
        self.begin_services(holder);
        let owners: Vec<usize> = self.holders[holder].services.keys().copied().collect();
        owners.into_iter().for_each(|owner| self.tell(Line { owner, holder }));
        self.begin_pulls(holder);
    }

    fn begin_services(&mut self, holder: usize) {
        loop {
            let at = &mut self.holders[holder];
            let served: HashSet<PeerId> = at.services.keys().map(|owner| self.owners[*owner].peer).collect();
            let Some(((peer, _), wish)) = at.wishes.take(&served, |_| false) else { return };
            let owner = self.owners.iter().position(|owner| owner.peer == peer).expect("an owner");
            let serving = Serving::new(&wish.packs);
            let offered: Vec<usize> = wish.packs.iter().map(|id| self.numbers[id]).collect();
            let (held, wanted): (Vec<usize>, Vec<usize>) =
                offered.into_iter().partition(|pack| at.packs.contains_key(pack));
            let service =
                Service { serving, began: self.now, wanted: wanted.into(), is_telling: !held.is_empty() };
            at.services.insert(owner, service);
            if !held.is_empty() {
                self.ask(Line { owner, holder }, Request::Receipt(held));
            }
        }
    }

    /// Tells an owner what is stored when it is time, and at the end what is not.
    fn tell(&mut self, line: Line) {
        let is_pulling = self.pulls.values().any(|pull| pull.line == line && !pull.is_orphan);
        let (now, at) = (self.now, &mut self.holders[line.holder]);
        let Some(service) = at.services.get_mut(&line.owner).filter(|service| !service.is_telling) else {
            return;
        };
        let is_over = service.wanted.is_empty() && !is_pulling;
        let elapsed = Duration::from_millis(now - service.began);
        let due = if is_over { service.serving.rest() } else { service.serving.due(elapsed) };
        if !due.is_empty() {
            service.is_telling = true;
            let due = self.numbers_of(&due);
            self.ask(line, Request::Receipt(due));
        } else if is_over {
            self.end_service(line);
        }
    }

    fn end_service(&mut self, line: Line) {
        let Some(service) = self.holders[line.holder].services.remove(&line.owner) else { return };
        self.leave_pulls(line);
        let left = self.numbers_of(&service.serving.into_left());
        self.truth_of_left(line, &left);
        if !left.is_empty() {
            self.ask(line, Request::Decline(left));
        }
        self.begin_services(line.holder);
    }

    fn leave_pulls(&mut self, line: Line) {
        self.pulls.values_mut().filter(|pull| pull.line == line).for_each(|pull| pull.is_orphan = true);
    }

    pub(super) fn receipt_answered(&mut self, line: Line, packs: &[usize], is_answered: bool) {
        let ids = self.ids_of(packs);
        if !is_answered {
            self.end_service(line);
        } else if let Some(service) = self.holders[line.holder].services.get_mut(&line.owner) {
            let elapsed = Duration::from_millis(self.now - service.began);
            service.serving.confirm(elapsed, &ids);
            service.is_telling = false;
        }
        self.go_on(line.holder);
    }

    fn begin_pulls(&mut self, holder: usize) {
        while self.pulls_of(holder) < PULLS_MAX {
            let waiting = self.holders[holder].services.iter();
            let waiting = waiting.filter(|(_, service)| !service.is_telling && !service.wanted.is_empty());
            let pulls = |line: &Line| self.pulls.values().filter(|pull| pull.line == *line).count();
            let lines = waiting.map(|(owner, _)| Line { owner: *owner, holder });
            let lines = lines.filter(|line| pulls(line) < PULLS_PER_OWNER_MAX);
            let Some(line) = lines.min_by_key(pulls) else { return };
            if self.free_for(line) >= PACK_BYTES {
                self.begin_pull(line);
            } else if self.pulls_of(holder) > 0 {
                // What is on its way may fail.
                return;
            } else {
                self.pull_failed(line, Code::StorageFull);
                self.tell(line);
            }
        }
    }

    fn begin_pull(&mut self, line: Line) {
        let service = self.holders[line.holder].services.get_mut(&line.owner).expect("a service");
        let pack = service.wanted.pop_front().expect("something wanted");
        let took = 1 + self.chance.below(PULL_TIME);
        let number = self.number();
        self.pulls.insert(number, Pull { line, pack, is_broken: false, is_orphan: false });
        self.push(took, Event::Pulled(number));
    }

    fn pull_failed(&mut self, line: Line, code: Code) {
        if is_hopeless(code) {
            self.leave_pulls(line);
            if let Some(service) = self.holders[line.holder].services.get_mut(&line.owner) {
                service.wanted.clear();
            }
        }
    }

    pub(super) fn pulled(&mut self, number: u64) {
        let Some(Pull { line, pack, is_broken, is_orphan }) = self.pulls.remove(&number) else { return };
        if is_broken && !is_orphan {
            self.pull_failed(line, Code::NetworkUnreachable);
        } else if !is_broken && !self.is_lost() {
            self.store(line, pack);
            match self.holders[line.holder].services.get_mut(&line.owner) {
                Some(service) if !is_orphan => service.serving.store(self.packs[pack]),
                _ => self.truth.force(pack),
            }
            self.check_surplus(pack);
        }
        self.go_on(line.holder);
    }

    fn store(&mut self, line: Line, pack: usize) {
        let at = &mut self.holders[line.holder];
        if at.character == Character::Liar {
            self.truth.silent.insert((pack, line.holder));
        } else if at.packs.insert(pack, line.owner).is_none() {
            at.disk = at.disk.saturating_sub(PACK_BYTES);
            at.inventory.count += 1;
            self.truth.silent.remove(&(pack, line.holder));
        }
    }

    /// An owner came or went.
    pub(super) fn holder_sees(&mut self, line: Line) {
        self.holders[line.holder].wishes.forget(self.owners[line.owner].peer);
        self.pulls.values_mut().filter(|pull| pull.line == line).for_each(|pull| pull.is_broken = true);
    }

    pub(super) fn holder_down(&mut self, holder: usize) {
        let at = &mut self.holders[holder];
        at.is_up = false;
        at.services.clear();
        self.pulls.retain(|_, pull| pull.line.holder != holder);
    }

    pub(super) fn holder_up(&mut self, holder: usize) {
        let run = self.number() + 1;
        let at = &mut self.holders[holder];
        at.is_up = true;
        at.inventory.begin(run);
    }

    pub(super) fn put_back(&mut self, holder: usize) {
        let Some((packs, inventory)) = self.holders[holder].image.clone() else { return };
        self.holder_down(holder);
        for owner in 0..self.owners.len() {
            self.came_or_went(Line { owner, holder });
        }
        let at = &mut self.holders[holder];
        let lost: Vec<usize> = at.packs.keys().copied().filter(|pack| !packs.contains_key(pack)).collect();
        // What it lost since stays lost: its disk is no better for being old.
        at.packs.retain(|pack, _| packs.contains_key(pack));
        at.inventory = inventory;
        self.truth.silent.extend(lost.into_iter().map(|pack| (pack, holder)));
        self.holder_up(holder);
    }

    pub(super) fn turn(&mut self, holder: usize, character: Character) {
        self.holders[holder].character = character;
        if character == Character::Liar {
            self.lose(holder, 1);
        }
    }

    pub(super) fn lose(&mut self, holder: usize, one_in: usize) {
        let at = &mut self.holders[holder];
        let lost: Vec<usize> = at.packs.keys().copied().step_by(one_in).collect();
        for pack in lost {
            at.packs.remove(&pack);
            self.truth.silent.insert((pack, holder));
        }
    }
}
