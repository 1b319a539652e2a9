//! How many directories a restore has open at a time: few, where the system lets the process open few files.
//!
//! Each directory that something is still to be made in holds a handle until that is done. The walk waits for the workers
//! before it opens more than its share; what it needs to be where it is, it always gets.

use std::sync::{Condvar, Mutex, PoisonError};
use std::time::Duration;

use super::tally::Shared;
use crate::engine::error::EngineError;

/// Of all files that the process may have open, the share of a restore's directories. The rest is for the files that are
/// written, the packs that are read, and whatever else the process does.
const SHARE: u64 = 4;
/// Between two looks whether the restore was cancelled.
const LOOK: Duration = Duration::from_millis(200);

pub(super) struct Handles {
    most: usize,
    open: Mutex<usize>,
    freed: Condvar,
}

impl Handles {
    /// `limit`: files that this process may have open, if that is limited.
    pub(super) fn new(limit: Option<u64>) -> Self {
        let most = limit.map_or(usize::MAX, |limit| usize::try_from(limit / SHARE).unwrap_or(usize::MAX));
        Self { most, open: Mutex::new(0), freed: Condvar::new() }
    }

    /// Whether the next directory has to wait for one that is done with. `held` of them are not done with before it is.
    pub(super) fn is_short(&self, held: usize) -> bool {
        let open = *self.open.lock().unwrap_or_else(PoisonError::into_inner);
        open >= self.most && open > held
    }

    /// Waits until it need not wait any more.
    pub(super) fn wait(&self, held: usize, shared: &Shared<'_>) -> Result<(), EngineError> {
        while self.is_short(held) {
            shared.go_on()?;
            let open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
            if *open >= self.most && *open > held {
                drop(self.freed.wait_timeout(open, LOOK).unwrap_or_else(PoisonError::into_inner));
            }
        }
        Ok(())
    }

    pub(super) fn opened(&self) {
        *self.open.lock().unwrap_or_else(PoisonError::into_inner) += 1;
    }

    pub(super) fn closed(&self) {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        *open = open.saturating_sub(1);
        self.freed.notify_all();
    }
}
