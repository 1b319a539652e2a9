//! The one port through which long operations tell how far they are, and hear that they should stop.

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use super::error::EngineError;

/// Problems kept word for word; later ones are only counted.
const PROBLEMS_MAX: usize = 1000;

/// Something that could not be handled while the rest went on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// Where, bytes that are not UTF-8 replaced.
    pub path: String,
    /// Why.
    pub reason: String,
}

/// Counters that one operation writes and anyone reads.
#[derive(Debug, Default)]
pub struct Monitor {
    /// Files expected in all; 0 while unknown.
    pub files_total: AtomicU64,
    /// Files finished.
    pub files_done: AtomicU64,
    /// Bytes expected in all; 0 while unknown.
    pub bytes_total: AtomicU64,
    /// Bytes finished.
    pub bytes_done: AtomicU64,
    /// Bytes pulled from peers.
    pub bytes_fetched: AtomicU64,
    problem_count: AtomicU64,
    problems: Mutex<Vec<Problem>>,
    stage: Mutex<&'static str>,
    cancelled: AtomicBool,
}

impl Monitor {
    /// Adds to a counter.
    pub fn add(counter: &AtomicU64, amount: u64) {
        counter.fetch_add(amount, Ordering::Relaxed);
    }

    /// Notes a problem with one path.
    pub fn problem(&self, path: impl Into<String>, reason: impl Into<String>) {
        self.problem_count.fetch_add(1, Ordering::Relaxed);
        let mut problems = self.problems.lock().expect("no panic while held");
        if problems.len() < PROBLEMS_MAX {
            problems.push(Problem { path: path.into(), reason: reason.into() });
        }
    }

    /// Number of problems, and the first thousand of them.
    pub fn problems(&self) -> (u64, Vec<Problem>) {
        let problems = self.problems.lock().expect("no panic while held").clone();
        (self.problem_count.load(Ordering::Relaxed), problems)
    }

    /// Number of problems so far.
    pub fn problem_count(&self) -> u64 {
        self.problem_count.load(Ordering::Relaxed)
    }

    /// Names what is being done.
    pub fn enter(&self, stage: &'static str) {
        *self.stage.lock().expect("no panic while held") = stage;
    }

    /// What is being done.
    pub fn stage(&self) -> &'static str {
        *self.stage.lock().expect("no panic while held")
    }

    /// Asks the operation to stop soon.
    pub fn cancel(&self) {
        self.cancelled.store(true, Ordering::Relaxed);
    }

    /// `Err` once [`Monitor::cancel`] was called.
    pub fn go_on(&self) -> Result<(), EngineError> {
        if self.cancelled.load(Ordering::Relaxed) { Err(EngineError::Cancelled) } else { Ok(()) }
    }
}
