//! What is remembered of checks: how the last verification ended, its report, how far the rounds over all packs are.
//!
//! Small state files in the data directory. Losing them loses no data: a check begins anew.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::core::{Core, keep_note};
use super::error::failed;
use super::exposition;
use crate::api::{ApiError, Coverage, DrillReport, VerifyOutcomeShape, VerifyReport, VerifySnapshotReport};
use crate::base::{Code, Moment, limit};
use crate::policy::Round;

const LAST: &str = "verified.json";
const REPORT: &str = "verify-report.json";
const ROUNDS: &str = "rounds.json";
const DRILL: &str = "drill.json";

/// When verification last ended, and how.
#[derive(Serialize, Deserialize)]
pub(super) struct Verified {
    pub(super) time: Moment,
    pub(super) sound: bool,
}

/// Rounds over all packs.
#[derive(Clone, Default, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct Rounds {
    /// Of `verify --subset` with a share.
    pub(super) verify: Round,
    /// Of the scrub.
    pub(super) scrub: Round,
}

/// Remembers that a verification ended.
pub(super) fn note(core: &Arc<Core>, sound: bool) {
    let verified = Verified { time: core.now(), sound };
    keep_note(core, LAST, &verified, "noting a verification");
}

/// What the last verification found is mended since.
pub(super) fn note_mended(core: &Arc<Core>) {
    exposition::note_lost((0, 0), true);
    if let Ok(Some(last)) = last(core) {
        let verified = Verified { sound: true, ..last };
        keep_note(core, LAST, &verified, "noting a repair");
    }
}

/// How the last verification ended.
pub(super) fn last(core: &Arc<Core>) -> Result<Option<Verified>, ApiError> {
    core.store.read_state_if_sound(LAST).map_err(failed)
}

/// The last drill of restoring.
pub(super) fn last_drill(core: &Arc<Core>) -> Result<Option<DrillReport>, ApiError> {
    core.store.read_state_if_sound(DRILL).map_err(failed)
}

/// Remembers a drill. Paths of absurd length are not named.
pub(super) fn note_drill(core: &Arc<Core>, report: &DrillReport) {
    let mut kept = report.clone();
    if is_long(&kept) {
        kept.failures.clear();
    }
    keep_note(core, DRILL, &kept, "noting a drill");
}

fn is_long(report: &impl Serialize) -> bool {
    serde_json::to_vec(report).map_or(true, |bytes| bytes.len() > limit::REPORT_BYTES_MAX)
}

/// How far the rounds are. A file that cannot be read is as good as none: they begin anew.
pub(super) fn rounds(core: &Arc<Core>) -> Rounds {
    core.store.read_state(ROUNDS).ok().flatten().unwrap_or_default()
}

/// Changes what is remembered of the rounds.
pub(super) fn edit_rounds(core: &Arc<Core>, edit: impl FnOnce(&mut Rounds)) {
    // A scrub and a verification may end at the same time.
    let _one = core.rounds.lock().expect("no panic while held");
    let mut rounds = rounds(core);
    edit(&mut rounds);
    keep_note(core, ROUNDS, &rounds, "noting how far a check is");
}

/// A round as others see it; `all` are the bytes of all packs.
pub(super) fn coverage(round: &Round, all: u64) -> Coverage {
    let text = |time: Option<Moment>| time.map(Moment::to_rfc3339);
    let part = if all == 0 { 0.0 } else { (100.0 * round.bytes as f64 / all as f64).min(100.0) };
    Coverage {
        last: text(round.last),
        round_began: text(round.began),
        covered_percent: part,
        round_completed: text(round.completed),
    }
}

/// Keeps the report for those who ask later. Long lists are cut; the counts stay.
pub(super) fn keep_report(core: &Arc<Core>, report: &VerifyReport) {
    let mut kept = report.clone();
    kept.damaged_packs.truncate(limit::REPORT_NAMED_MAX);
    kept.damaged_records.truncate(limit::REPORT_NAMED_MAX);
    shorten(&mut kept.result, limit::REPORT_NAMED_MAX);
    if is_long(&kept) {
        shorten(&mut kept.result, 0);
    }
    keep_note(core, REPORT, &kept, "keeping a report");
}

fn shorten(shape: &mut VerifyOutcomeShape, most: usize) {
    let cut = |one: &mut VerifySnapshotReport| {
        one.missing_chunks.truncate(most);
        one.corrupted_chunks.truncate(most);
        one.damaged_files.truncate(most);
    };
    match shape {
        VerifyOutcomeShape::One(one) => cut(one),
        VerifyOutcomeShape::All(all) => {
            // What is wrong is what is looked for.
            all.snapshots.sort_by_key(|one| one.success);
            all.snapshots.truncate(limit::REPORT_NAMED_MAX);
            all.snapshots.iter_mut().for_each(cut);
        }
    }
}

/// What the last verification found.
pub(super) fn report(core: &Arc<Core>) -> Result<VerifyReport, ApiError> {
    core.store.read_state_if_sound(REPORT).map_err(failed)?.ok_or_else(|| {
        ApiError::new(Code::SnapshotNotFound, "nothing has been verified yet")
            .with_hint("`shadowvault verify` makes a report")
    })
}
