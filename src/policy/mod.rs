//! Pure decisions: when a task runs next, when it is tried again, which snapshots stay, who counts as a holder, what is checked
//! next.
//!
//! Plain values in, plain values out. Whoever asks says what time it is and gives the seed for chance, so that a run
//! that went wrong can be played again. No clock, no I/O, no async.

mod cron;
mod crowd;
mod flow;
mod inventory;
mod misconduct;
mod presence;
mod proof;
mod repairs;
mod retention;
mod retry;
mod round;
mod sequence;
mod shortfall;
mod stride;
mod timing;

pub use cron::{CronError, CronLine};
pub use crowd::{Crowd, Entry, Room};
pub use flow::Flow;
pub use inventory::{Confirmed, Inventory, Mark, RUNS_MAX};
pub use misconduct::Misconduct;
pub use presence::{Presence, Waking, is_to_note, presence};
pub use proof::Proof;
pub use repairs::RepairQueue;
pub use retention::{Candidate, ClockNews, Reason, Rules, judge_clock, keep};
pub use retry::pause_after;
pub use round::{Round, Subset, SubsetError};
pub use sequence::believed;
pub use shortfall::{Expectation, Shortfall, SourceCount};
pub use stride::Stride;
pub use timing::{Outcome, Rhythm, Timing, Verdict};
