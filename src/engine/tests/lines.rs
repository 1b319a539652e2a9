//! Pulling over lines of given speeds in virtual time: the same rules as in the node, without a network.

use std::time::Duration;

use super::fixture::noise;
use crate::base::{PackId, PeerId};
use crate::engine::{Errand, FetchFailure, Gathering, Monitor, PulledSlice, Sources};
use crate::pack::{CellRange, Outboard, cell_count};

/// A holder's line: answers come one after the other.
pub(in crate::engine) struct Line {
    peer: PeerId,
    bytes_per_second: u64,
    latency: Duration,
    /// When it has sent what it was asked for.
    free: Duration,
    /// Bytes sent, wanted or not.
    sent: u64,
}

impl Line {
    pub(in crate::engine) fn new(peer: PeerId, bytes_per_second: u64, latency: Duration) -> Self {
        Self { peer, bytes_per_second, latency, free: Duration::ZERO, sent: 0 }
    }

    /// When the answer to something asked now is there.
    fn ask(&mut self, now: Duration, bytes: u64) -> Duration {
        self.sent += bytes;
        let begin = self.free.max(now + self.latency);
        self.free = begin + Duration::from_secs_f64(bytes as f64 / self.bytes_per_second as f64);
        self.free
    }
}

/// How long one that never answers is waited for.
const TIMEOUT: Duration = Duration::from_secs(30);

/// Runs a gathering to its end; returns how long it took. A timeout comes when a timeout is due, everything else when the
/// line has brought it.
pub(in crate::engine) fn run(
    gathering: &mut Gathering<'_>,
    lines: &mut [Line],
    answer: impl Fn(&Errand) -> Result<PulledSlice, FetchFailure>,
) -> Duration {
    let mut now = Duration::ZERO;
    let mut coming: Vec<(Duration, Errand, Result<PulledSlice, FetchFailure>)> = Vec::new();
    loop {
        while let Some(errand) = gathering.next(now) {
            let line = lines.iter_mut().find(|line| line.peer == errand.holder).unwrap();
            let bytes = ((errand.range.end - errand.range.first) << 16) as u64;
            let comes = answer(&errand);
            let due = match comes {
                Ok(_) => line.ask(now, bytes),
                Err(FetchFailure::Timeout) => now + TIMEOUT,
                Err(_) => now + line.latency,
            };
            coming.push((due, errand, comes));
        }
        if gathering.is_over() {
            return now;
        }
        let wake = now + gathering.wake(now);
        let next =
            coming.iter().enumerate().min_by_key(|(_, (due, ..))| *due).map(|(at, (due, ..))| (at, *due));
        match next {
            Some((at, due)) if due <= wake => {
                now = now.max(due);
                let (_, errand, came) = coming.swap_remove(at);
                gathering.answered(now, errand, came);
            }
            _ => now = wake,
        }
        assert!(now < Duration::from_secs(3600), "it never ends");
    }
}

/// Pulls a pack of 16 MiB over lines of these speeds in MiB/s, 0 for one that never answers: seconds, and bytes sent.
fn pulled(speeds: &[u64], latency_ms: u64) -> (f64, u64) {
    let bytes = noise(9, 16 << 20);
    let (pack, outboard) = Outboard::of(&bytes);
    let peers: Vec<PeerId> = (0..speeds.len()).map(|at| PeerId::new([at as u8; 32])).collect();
    let mut lines: Vec<Line> = peers
        .iter()
        .zip(speeds)
        .map(|(peer, speed)| Line::new(*peer, (*speed).max(1) << 20, Duration::from_millis(latency_ms)))
        .collect();
    let seconds = gather(pack, &mut lines, Sources { sure: peers, ..Sources::default() }, &|errand| {
        if speeds[usize::from(errand.holder.as_bytes()[0])] == 0 {
            return Err(FetchFailure::Timeout);
        }
        Ok(slice_of(&bytes, &outboard, errand.range))
    });
    (seconds, lines.iter().map(|line| line.sent).sum())
}

fn slice_of(bytes: &[u8], outboard: &Outboard, range: CellRange) -> PulledSlice {
    let end = (range.end << 16).min(bytes.len());
    PulledSlice { data: bytes[range.first << 16..end].to_vec().into(), proof: outboard.proof(range) }
}

fn gather(
    pack: PackId,
    lines: &mut [Line],
    sources: Sources,
    answer: &dyn Fn(&Errand) -> Result<PulledSlice, FetchFailure>,
) -> f64 {
    let (mut buffer, monitor) = (vec![0; 16 << 20], Monitor::default());
    let cells: Vec<usize> = (0..cell_count(16 << 20)).collect();
    let ranges = crate::engine::pull::ranges_of(&cells);
    let mut gathering = Gathering::new(pack, ranges, sources, &mut buffer, &monitor);
    let took = run(&mut gathering, lines, answer);
    gathering.finish().unwrap();
    assert_eq!(Outboard::of(&buffer).0, pack);
    took.as_secs_f64()
}

#[test]
fn several_holders_together_are_as_fast_as_their_lines() {
    let (alone, _) = pulled(&[10], 5);
    for (speeds, factor) in [(&[10, 10][..], 1.9), (&[10, 10, 10][..], 2.5), (&[10, 5][..], 1.25)] {
        let (together, sent) = pulled(speeds, 5);
        assert!(alone / together > factor, "{speeds:?}: {alone:.2} s alone, {together:.2} s together");
        assert!(sent <= 19 << 20, "{speeds:?}: {sent} bytes for 16 MiB");
    }
}

#[test]
fn a_slow_or_silent_holder_holds_up_nobody_and_costs_little() {
    let (alone, _) = pulled(&[10], 5);
    for speeds in [&[10, 1][..], &[1, 10][..], &[10, 0][..], &[0, 10][..], &[0, 10, 0, 10][..]] {
        let (together, sent) = pulled(speeds, 5);
        assert!(together < alone * 1.35, "{speeds:?}: {alone:.2} s alone, {together:.2} s together");
        assert!(sent <= 22 << 20, "{speeds:?}: {sent} bytes for 16 MiB");
    }
}

#[test]
fn a_single_slow_line_is_asked_for_nothing_twice() {
    let (seconds, sent) = pulled(&[1], 100);
    assert_eq!(sent, 16 << 20);
    assert!((16.0..16.5).contains(&seconds), "{seconds}");
}

#[test]
fn those_that_may_have_it_join_in_once_they_gave_something() {
    let bytes = noise(9, 16 << 20);
    let (pack, outboard) = Outboard::of(&bytes);
    let peer = |at: u8| PeerId::new([at; 32]);
    let has_it = |errand: &Errand| match errand.holder.as_bytes()[0] {
        0..5 => Err(FetchFailure::NotFound),
        _ => Ok(slice_of(&bytes, &outboard, errand.range)),
    };
    let lines = || -> Vec<Line> {
        (0..8).map(|at| Line::new(peer(at), 10 << 20, Duration::from_millis(5))).collect()
    };
    let run = |sources: Sources| {
        let mut lines = lines();
        let seconds = gather(pack, &mut lines, sources, &has_it);
        (seconds, lines.iter().filter(|line| line.sent > 0).count())
    };
    // One is sure and two more have it: all three give.
    let maybe = Sources { sure: vec![peer(5)], maybe: (0..8).map(peer).collect(), ..Sources::default() };
    let (seconds, givers) = run(maybe);
    assert!(seconds < 0.75 && givers == 3, "{seconds} {givers}");
    // Those of which nothing is known stay alone while somebody has it.
    let rest = Sources { sure: vec![peer(5)], rest: (0..8).map(peer).collect(), ..Sources::default() };
    let (seconds, givers) = run(rest);
    assert!(seconds > 1.5 && givers == 1, "{seconds} {givers}");
    // Nobody is known to have it: it is found all the same.
    let (seconds, givers) = run(Sources { rest: (0..8).map(peer).collect(), ..Sources::default() });
    assert!(seconds < 2.0 && givers >= 1, "{seconds} {givers}");
}
