//! Whom to ask for which range of a pack: rules for pulling one pack from several holders at once.
//!
//! Pure: told the time and what came, it says what to ask next. Every slice is verified against the pack's id before it
//! is copied into the buffer, and the first good one wins.
//!
//! - Holders that are sure to have the pack share its ranges: each has a few under way, and whoever is done gets the next,
//!   so that each gives as much as its line does.
//! - Those that may have it are asked for one range until they gave one. The rest, of which nothing is known, are tried a
//!   few at a time when nobody else is left.
//! - Once every range is asked for, one that takes long is asked of a second holder as well, once: the extra traffic is
//!   what is under way at the end, and no more.
//! - Who says that it is busy is asked again after a pause, and so, a few times, is one that broke off; what came stays.
//!   Others that have the pack take over meanwhile.
//! - Who answers wrongly or not at all gets no further range of this pack.
//! - No request is longer than what its holder brings within seconds: [`Stride`].

use std::collections::BTreeMap;
use std::time::Duration;

use super::error::EngineError;
use super::monitor::Monitor;
use super::pull::{FetchFailure, Given, PulledSlice, Sources};
use crate::base::{PackId, PeerId, limit};
use crate::pack::{CellRange, verify_slice};
use crate::policy::Stride;

/// One range to ask of one holder.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Errand {
    /// Of whom.
    pub holder: PeerId,
    /// What.
    pub range: CellRange,
    at: usize,
}

/// How well a holder is known to have the pack.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Standing {
    Sure,
    Maybe,
    Rest,
}

struct Holder {
    peer: PeerId,
    standing: Standing,
    /// What it is asked for, and since when.
    under_way: Vec<(usize, Duration)>,
    /// How long its last answer took.
    took: Option<Duration>,
    /// How much it is asked for at one time.
    stride: Stride,
    /// Until when it is left alone.
    rests_until: Duration,
    /// Since when, and how often in a row, it said that it is busy.
    busy: Option<(Duration, u32)>,
    /// How often in a row it broke off.
    broken: u32,
    /// It failed: it gets nothing more.
    out: bool,
}

impl Holder {
    /// Whether one that gave nothing this time is worth another question, and when.
    fn is_to_be_asked_again(&mut self, now: Duration, cells: usize, failure: &FetchFailure) -> bool {
        let doubled = |pause: Duration, times: u32| pause * (1 << times.min(16));
        // What was under way together fails together.
        let is_news = now >= self.rests_until;
        match failure {
            FetchFailure::Busy => {
                let (since, times) = self.busy.unwrap_or((now, 0));
                if is_news {
                    self.busy = Some((since, times + 1));
                    self.rests_until = now + doubled(limit::BUSY_PAUSE, times).min(limit::BUSY_PAUSE_MAX);
                }
                now.saturating_sub(since) < limit::BUSY_PATIENCE
            }
            FetchFailure::Timeout | FetchFailure::Offline(_) => {
                if *failure == FetchFailure::Timeout {
                    self.stride.missed(cells);
                }
                if is_news {
                    self.rests_until = now + doubled(limit::BROKEN_PAUSE, self.broken);
                    self.broken += 1;
                }
                // What it gave shows that it is there. One that gave nothing may have been asked for too much.
                let most = match (self.took, failure) {
                    (Some(_), _) => limit::BROKEN_TRIES,
                    (None, FetchFailure::Timeout) => u32::from(self.stride.cells() < cells),
                    _ => 0,
                };
                self.broken <= most
            }
            FetchFailure::NotFound
            | FetchFailure::Corrupt
            | FetchFailure::Malformed
            | FetchFailure::Refused => false,
        }
    }
}

struct Part {
    range: CellRange,
    done: bool,
    /// Holders that are asked for it now.
    askers: u32,
    /// It was asked of a second holder because the first took long.
    hedged: bool,
}

/// Pulls ranges of one pack. Drive it with [`Gathering::next`] and [`Gathering::answered`] until [`Gathering::is_over`].
pub struct Gathering<'a> {
    pack: PackId,
    buffer: &'a mut [u8],
    monitor: &'a Monitor,
    parts: Vec<Part>,
    holders: Vec<Holder>,
    given: Given,
    tried: Vec<String>,
    /// Somebody who may have what is missing was busy to the end.
    busy: bool,
    misbehaved: Vec<PeerId>,
    late: Vec<PeerId>,
}

impl<'a> Gathering<'a> {
    /// `buffer` has the pack's length; `ranges` go into their places in it.
    pub(super) fn new(
        pack: PackId,
        ranges: Vec<CellRange>,
        sources: Sources,
        buffer: &'a mut [u8],
        monitor: &'a Monitor,
    ) -> Self {
        let part = |range| Part { range, done: false, askers: 0, hedged: false };
        let mut holders: Vec<Holder> = Vec::new();
        let tiers = [
            (Standing::Sure, sources.sure),
            (Standing::Maybe, sources.maybe),
            (Standing::Rest, sources.rest),
        ];
        for (standing, peers) in tiers {
            for peer in peers {
                if holders.iter().all(|holder| holder.peer != peer) {
                    let stride = sources.strides.get(&peer).copied();
                    holders.push(Holder {
                        peer,
                        standing,
                        under_way: Vec::new(),
                        took: None,
                        stride: stride.unwrap_or_else(|| Stride::new(RANGE_CELLS_MAX)),
                        rests_until: Duration::ZERO,
                        busy: None,
                        broken: 0,
                        out: false,
                    });
                }
            }
        }
        Self {
            pack,
            buffer,
            monitor,
            parts: ranges.into_iter().map(part).collect(),
            holders,
            given: BTreeMap::new(),
            tried: Vec::new(),
            busy: false,
            misbehaved: Vec::new(),
            late: Vec::new(),
        }
    }

    /// What to ask now; `None` when nothing is to be asked before something comes or [`Gathering::wake`] is over.
    pub fn next(&mut self, now: Duration) -> Option<Errand> {
        if self.is_over() {
            return None;
        }
        let chosen = match self.parts.iter().position(|part| !part.done && part.askers == 0) {
            Some(at) => self.whom(now).map(|holder| (holder, at)),
            None => self.hedge(now),
        };
        let (holder, at) = chosen?;
        if self.parts[at].askers == 0 {
            self.cut(at, self.holders[holder].stride.cells());
        }
        self.parts[at].hedged = self.parts[at].askers > 0;
        self.parts[at].askers += 1;
        self.holders[holder].under_way.push((at, now));
        Some(Errand { holder: self.holders[holder].peer, range: self.parts[at].range, at })
    }

    /// Makes a range no longer than so many cells; the rest becomes one of its own.
    fn cut(&mut self, at: usize, cells: usize) {
        let CellRange { first, end } = self.parts[at].range;
        let middle = first + cells.max(1);
        if middle < end {
            self.parts[at].range.end = middle;
            let range = CellRange { first: middle, end };
            self.parts.push(Part { range, done: false, askers: 0, hedged: false });
        }
    }

    /// Of those that may be asked for more, the one with the least under way.
    fn whom(&self, now: Duration) -> Option<usize> {
        let left = |most: Standing| self.holders.iter().filter(move |h| !h.out && h.standing <= most);
        let several = left(Standing::Maybe).count();
        let tier = if several > 0 { Standing::Maybe } else { Standing::Rest };
        let probing =
            left(Standing::Rest).filter(|h| h.standing == Standing::Rest && !h.under_way.is_empty());
        let probing = probing.count();
        let has_room = |holder: &Holder| match holder.standing {
            Standing::Sure => holder.under_way.len() < window(several),
            Standing::Maybe => holder.under_way.is_empty(),
            Standing::Rest => holder.under_way.is_empty() && probing < limit::GATHER_PROBES_MAX,
        };
        let holders = self.holders.iter().enumerate();
        let is_free = |h: &Holder| !h.out && h.rests_until <= now;
        let able = holders.filter(|(_, h)| is_free(h) && h.standing <= tier && has_room(h));
        able.min_by_key(|(_, holder)| holder.under_way.len()).map(|(at, _)| at)
    }

    /// A second holder, and a range that takes long, once all are asked for.
    fn hedge(&self, now: Duration) -> Option<(usize, usize)> {
        let (second, patience) = self.second(now)?;
        let due = self.hedgeable().filter(|(_, since)| *since + patience <= now);
        // Of those that one holder has before it, the last one would come last.
        due.max_by_key(|(_, since)| *since).map(|(at, _)| (second, at))
    }

    /// Who has nothing to do, and after what time it is asked for what another one has not brought. Who has given
    /// something knows how long that takes.
    fn second(&self, now: Duration) -> Option<(usize, Duration)> {
        let idle = self.holders.iter().enumerate().filter(|(_, holder)| {
            !holder.out
                && holder.rests_until <= now
                && holder.under_way.is_empty()
                && holder.standing <= Standing::Maybe
        });
        let patience = |holder: &Holder| {
            holder.took.map_or(limit::HEDGE_AFTER_UNKNOWN, |took| (took * 2).max(limit::HEDGE_AFTER_MIN))
        };
        idle.map(|(at, holder)| (at, patience(holder))).min_by_key(|(_, patience)| *patience)
    }

    /// Ranges that one holder alone is asked for, and since when.
    fn hedgeable(&self) -> impl Iterator<Item = (usize, Duration)> {
        let under_way = self.holders.iter().flat_map(|holder| holder.under_way.iter().copied());
        under_way.filter(|(at, _)| {
            let part = &self.parts[*at];
            !part.done && !part.hedged && part.askers == 1
        })
    }

    /// How long to wait for answers before [`Gathering::next`] is to be asked again.
    pub fn wake(&self, now: Duration) -> Duration {
        let first = self.hedgeable().map(|(_, since)| since).min();
        let due = self.second(now).and_then(|(_, patience)| Some((first? + patience).saturating_sub(now)));
        let resting = self.holders.iter().filter(|holder| !holder.out && holder.rests_until > now);
        let rested = resting.map(|holder| holder.rests_until.saturating_sub(now)).min();
        let wake = due.into_iter().chain(rested).min();
        wake.unwrap_or(limit::GATHER_LOOK).clamp(Duration::from_millis(1), limit::GATHER_LOOK)
    }

    /// An errand came back.
    pub fn answered(&mut self, now: Duration, errand: Errand, answer: Result<PulledSlice, FetchFailure>) {
        let Some(who) = self.holders.iter().position(|holder| holder.peer == errand.holder) else { return };
        let asked = self.holders[who].under_way.iter().position(|(at, _)| *at == errand.at);
        let Some(asked) = asked else { return };
        let (_, since) = self.holders[who].under_way.remove(asked);
        let part = &mut self.parts[errand.at];
        part.askers = part.askers.saturating_sub(1);
        if part.done {
            // Somebody was faster; its bytes are good as well.
            return;
        }
        let cells = errand.range.end - errand.range.first;
        let failure = match answer {
            Err(failure) => {
                if self.holders[who].is_to_be_asked_again(now, cells, &failure) {
                    return;
                }
                self.busy |= failure == FetchFailure::Busy;
                failure.to_string()
            }
            Ok(slice) => match self.take(errand, &slice) {
                Ok(()) => {
                    let (holder, took) = (&mut self.holders[who], now.saturating_sub(since));
                    (holder.took, holder.standing) = (Some(took), Standing::Sure);
                    (holder.busy, holder.broken) = (None, 0);
                    holder.stride.brought(cells, took);
                    self.settle(now, errand, slice.data.len() as u64);
                    return;
                }
                Err(failure) => {
                    // What is under way there is of the same kind: it counts once.
                    if !self.holders[who].out {
                        self.misbehaved.push(errand.holder);
                    }
                    failure
                }
            },
        };
        if !self.holders[who].out {
            self.holders[who].out = true;
            self.tried.push(format!("{} {failure}", errand.holder.short()));
        }
    }

    fn take(&mut self, errand: Errand, slice: &PulledSlice) -> Result<(), String> {
        let length = self.buffer.len() as u64;
        verify_slice(self.pack, length, errand.range, &slice.data, &slice.proof)
            .map_err(|e| e.to_string())?;
        let start = errand.range.offset() as usize;
        self.buffer[start..start + slice.data.len()].copy_from_slice(&slice.data);
        Ok(())
    }

    /// A range is there. Whoever is still at it, and for long, was late.
    fn settle(&mut self, now: Duration, errand: Errand, bytes: u64) {
        self.parts[errand.at].done = true;
        *self.given.entry(errand.holder).or_default() += bytes;
        Monitor::add(&self.monitor.bytes_fetched, bytes);
        let took =
            self.holders.iter().find(|holder| holder.peer == errand.holder).and_then(|holder| holder.took);
        let long = took.unwrap_or_default().max(limit::HEDGE_AFTER_MIN) * 4;
        let is_late = |(at, since): &(usize, Duration)| *at == errand.at && now.saturating_sub(*since) > long;
        let late = self.holders.iter().filter(|holder| holder.under_way.iter().any(is_late));
        self.late.extend(late.map(|holder| holder.peer));
    }

    /// Nothing is missing, or nobody is left to ask, or it is to stop.
    pub fn is_over(&self) -> bool {
        let nobody = || self.holders.iter().all(|holder| holder.out && holder.under_way.is_empty());
        self.is_whole() || nobody() || self.monitor.go_on().is_err()
    }

    fn is_whole(&self) -> bool {
        self.parts.iter().all(|part| part.done)
    }

    /// Peers that sent bytes which do not verify.
    pub fn misbehaved(&self) -> &[PeerId] {
        &self.misbehaved
    }

    /// Holders that others overtook.
    pub fn late(&self) -> &[PeerId] {
        &self.late
    }

    /// How much each holder is best asked for at one time; of those that are not to be asked again, too.
    pub fn strides(&self) -> impl Iterator<Item = (PeerId, Stride)> {
        self.holders.iter().map(|holder| (holder.peer, holder.stride))
    }

    /// What each holder gave.
    ///
    /// # Errors
    /// Something is missing: [`EngineError::NoSource`] tells who was tried, what came of it, and whether somebody may have it
    /// who was busy.
    pub(super) fn finish(self) -> Result<Given, EngineError> {
        if self.is_whole() {
            return Ok(self.given);
        }
        let tried = match self.tried.is_empty() {
            true => "no holder is known, or none could be reached a moment ago".to_owned(),
            false => self.tried.join("; "),
        };
        Err(EngineError::NoSource { pack: self.pack, tried, busy: self.busy })
    }
}

/// Cells of the longest range there is.
const RANGE_CELLS_MAX: usize = limit::FETCH_BYTES_MAX / limit::CELL_BYTES;

/// Ranges under way to each of so many holders: enough to keep a line busy, and the last ones not long.
fn window(holders: usize) -> usize {
    if holders <= 1 { limit::FETCH_IN_FLIGHT_PER_PEER_MAX } else { limit::GATHER_WINDOW }
}
