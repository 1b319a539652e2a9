//! `verify` and `repair`.

use std::fmt::Write as _;

use clap::Args;

use super::job::{self, is_sound};
use super::output::{Paint, count, escape, local_time, span};
use super::session::Session;
use crate::api::{
    ApiError, AuditReport, Coverage, DrillReport, JobOutcome, JobRequest, RepairReport, RepairRequest,
    VerifyOutcomeShape, VerifyReport, VerifyRequest, VerifySnapshotReport,
};
use crate::base::ByteSize;
use crate::node::Mode;

/// Damaged things that the text for people names one by one; JSON has them all.
const NAMED_MAX: usize = 20;

#[derive(Args)]
pub(super) struct VerifyArgs {
    /// One snapshot; all when absent
    #[arg(value_name = "REF")]
    snapshot: Option<String>,
    /// Only that everything is there with the right length
    #[arg(long)]
    quick: bool,
    /// Read only a part: a share such as 5%, on from where the last such check stopped, or the first of 20 parts as 1/20
    #[arg(long, value_name = "PART", conflicts_with_all = ["quick", "snapshot"])]
    subset: Option<String>,
    /// Mend what is found, from peers or else from the files it came from; with --yes however much that is
    #[arg(long)]
    repair: bool,
    /// Also ask holders for random pieces and check them
    #[arg(long)]
    peers: bool,
    /// Instead restore one file in a hundred (at least 100) from peers alone into a scratch directory, and compare
    #[arg(long, conflicts_with_all = ["quick", "subset", "repair", "peers"])]
    drill: bool,
}

#[derive(Args)]
pub(super) struct ScrubArgs {
    /// Check every pack now, own and kept for others, and mend what is damaged
    #[arg(long, required = true)]
    now: bool,
}

#[derive(Args)]
pub(super) struct RepairArgs {
    /// One snapshot; all when absent
    #[arg(value_name = "REF")]
    snapshot: Option<String>,
    /// Only show what would be done
    #[arg(long)]
    dry_run: bool,
    /// Instead put the damaged file of this pack back that a repair replaced last; with --yes even where the pack is sound now
    #[arg(long, value_name = "PACK", conflicts_with_all = ["snapshot", "dry_run"])]
    undo: Option<String>,
}

pub(super) async fn run(args: VerifyArgs, session: &Session<'_>) -> Result<u8, ApiError> {
    let request = VerifyRequest {
        snapshot: args.snapshot,
        quick: args.quick,
        subset: args.subset,
        repair: args.repair,
        peers: args.peers,
        drill: args.drill,
        ..VerifyRequest::default()
    };
    check(request, session).await
}

pub(super) async fn scrub(args: ScrubArgs, session: &Session<'_>) -> Result<u8, ApiError> {
    check(VerifyRequest { scrub: args.now, repair: true, ..VerifyRequest::default() }, session).await
}

async fn check(request: VerifyRequest, session: &Session<'_>) -> Result<u8, ApiError> {
    let mode = if request.repair || request.peers || request.drill { Mode::Online } else { Mode::Offline };
    let scrub = request.scrub;
    let request = VerifyRequest { confirmed: session.globals.yes, ..request };
    job::conduct(session, mode, JobRequest::Verify(request), |job, paint| match &job.outcome {
        Some(JobOutcome::Drill(report)) => render_drill(report, paint),
        Some(JobOutcome::Verify(report)) => render(report, scrub, paint),
        _ => String::new(),
    })
    .await
}

pub(super) async fn repair(args: RepairArgs, session: &Session<'_>) -> Result<u8, ApiError> {
    let (confirmed, undo) = (session.globals.yes, args.undo.is_some());
    let mode = if undo { Mode::Offline } else { Mode::Online };
    let (snapshot, dry_run) = (args.snapshot, args.dry_run);
    let request = RepairRequest { snapshot, dry_run, confirmed, undo: args.undo, ..RepairRequest::default() };
    job::conduct(session, mode, JobRequest::Repair(request), |job, paint| match &job.outcome {
        Some(JobOutcome::Repair(report)) if undo => {
            report.plan.iter().map(|line| format!("{}\n", escape(line))).collect()
        }
        Some(JobOutcome::Repair(report)) => render_repair(report, dry_run, paint),
        _ => String::new(),
    })
    .await
}

fn render(report: &VerifyReport, scrub: bool, paint: Paint) -> String {
    let mut text = match (is_sound(report), &report.repair) {
        (true, Some(repair)) if job::did_something(repair) => paint.good("mended"),
        (true, _) if report.unreachable_packs > 0 => {
            paint.warning("no damage found, but not everything was read")
        }
        (true, _) if report.unread_packs > 0 => paint.good("sound, as far as it is on this machine"),
        (true, _) => paint.good("all sound"),
        (false, _) if is_clean_here(report) && !job::holders_proved(report) => paint.bad("lost on a holder"),
        (false, _) => paint.bad("damaged"),
    } + "\n";
    match &report.result {
        VerifyOutcomeShape::One(one) => text += &render_one(one, paint),
        // A scrub knows of packs only.
        VerifyOutcomeShape::All(_) if scrub => {}
        VerifyOutcomeShape::All(all) => {
            let (valid, total) = (all.valid_snapshots, count(all.total_snapshots, "snapshot"));
            text += &format!("  {valid} of {total} sound ({:.1}%)\n", all.health_percentage);
            let open = all.total_snapshots - all.valid_snapshots - all.invalid_snapshots;
            if open > 0 {
                let line = format!("{} could not be read in whole", count(open, "snapshot"));
                text += &format!("  {}\n", paint.warning(&line));
            }
            for one in all.snapshots.iter().filter(|one| !one.success) {
                text += &render_one(one, paint);
            }
        }
    }
    let (packs, bytes) = (count(report.packs_checked, "pack"), ByteSize(report.bytes_checked));
    text += &format!("  {packs} with {bytes} checked in {}\n", span(report.total_duration));
    if report.unread_packs > 0 {
        let (packs, bytes) = (count(report.unread_packs, "pack"), ByteSize(report.unread_bytes));
        text += &format!("  {packs} with {bytes} not read: with holders only");
        if report.unreachable_packs > 0 {
            let (packs, bytes) =
                (count(report.unreachable_packs, "pack"), ByteSize(report.unreachable_bytes));
            text += &paint.bad(&format!("; no holder of {packs} with {bytes} is connected"));
        }
        text.push('\n');
    }
    if let Some(round) = &report.coverage {
        text += &covered(round);
    }
    for audit in &report.audits {
        text += &format!("  {}\n", render_audit(audit, paint));
    }
    for pack in report.damaged_packs.iter().take(NAMED_MAX) {
        text += &format!("  damaged or missing: pack {pack}\n");
    }
    text += &more(report.damaged_packs.len(), "damaged pack");
    for record in report.damaged_records.iter().take(NAMED_MAX) {
        text += &format!("  {}\n", escape(record));
    }
    text += &more(report.damaged_records.len(), "damaged record");
    if let Some(repair) = &report.repair {
        text += &render_repair(repair, false, paint);
    }
    text
}

/// Nothing on this machine is damaged.
fn is_clean_here(report: &VerifyReport) -> bool {
    let success = match &report.result {
        VerifyOutcomeShape::One(one) => one.success,
        VerifyOutcomeShape::All(all) => all.invalid_snapshots == 0,
    };
    success && report.damaged_packs.is_empty() && report.damaged_records.is_empty()
}

fn render_one(one: &VerifySnapshotReport, paint: Paint) -> String {
    let short: String = one.snapshot_id.chars().take(8).collect();
    if let Some(why) = &one.damaged {
        let (short, state) = (escape(&short), paint.bad("cannot be read"));
        return format!(
            "  snapshot {short} {state}: {} (`shadowvault repair`; if no holder has it, `shadowvault forget {short} --lost`)\n",
            escape(why)
        );
    }
    let state = if one.success { paint.good("sound") } else { paint.bad("damaged") };
    let (sound, total) = (one.verified_chunks, count(one.total_chunks, "chunk"));
    let mut text = format!("  snapshot {} {state}: {sound} of {total} sound", escape(&short));
    let rest = [
        (one.missing_chunks.len() as u64, "missing"),
        (one.corrupted_chunks.len() as u64, "damaged"),
        (one.unread_chunks, "with holders only"),
    ];
    for (number, what) in rest {
        if number > 0 {
            write!(text, ", {number} {what}").expect("writing to a string works");
        }
    }
    if !one.signature_valid {
        text += &paint.bad(", signature INVALID");
    }
    text.push('\n');
    for file in one.damaged_files.iter().take(NAMED_MAX) {
        text += &format!("    needs them: {}\n", escape(&file.path));
    }
    text + &more(usize::try_from(one.damaged_files_total).unwrap_or(usize::MAX), "file")
}

fn covered(round: &Coverage) -> String {
    match (&round.round_completed, round.round_began.is_some()) {
        (_, true) => format!("  {:.0}% of all packs checked in this round\n", round.covered_percent),
        (Some(_), false) => "  every pack has been checked: the round is complete\n".to_owned(),
        (None, false) => String::new(),
    }
}

/// One holder's audit in a line.
pub(super) fn render_audit(audit: &AuditReport, paint: Paint) -> String {
    let mut text = format!("audit of {}: {} of {} right", audit.peer, audit.ok, count(audit.slices, "piece"));
    let rest = [("late", audit.timeout), ("not reached", audit.offline), ("not answered", audit.unknown)];
    for (what, number) in rest.into_iter().filter(|(_, number)| *number > 0) {
        text += &format!(", {number} {what}");
    }
    if audit.wrong > 0 {
        let lost = format!(", {} WRONG: {} lost there", audit.wrong, count(audit.packs_lost, "pack"));
        text += &paint.bad(&lost);
    }
    if let Some(since) = &audit.unproven_since {
        text += &format!(", nothing proven since {}", local_time(since));
        if audit.not_counted {
            text += ": NOT COUNTED as a copy";
        }
    }
    match (audit.records_ok, audit.records_lost) {
        (0, 0) => {}
        (ok, 0) => text += &format!("; {} right", count(ok, "record")),
        (_, lost) => text += &paint.bad(&format!("; {} lost there", count(lost, "record"))),
    }
    text
}

fn render_drill(drill: &DrillReport, paint: Paint) -> String {
    let Some(snapshot) = &drill.snapshot else {
        return "no holder has all of a snapshot yet: nothing can be restored from peers\n".to_owned();
    };
    let snapshot: String = snapshot.chars().take(8).collect();
    let (files, bytes) = (count(drill.files, "file"), ByteSize(drill.bytes));
    let mut text =
        if drill.failed == 0 { paint.good("restoring works") } else { paint.bad("not everything came back") };
    text += &format!(
        "\n  {files} with {bytes} of snapshot {} restored from peers and compared",
        escape(&snapshot)
    );
    text += &format!(", {} fetched\n", ByteSize(drill.bytes_fetched));
    for failure in drill.failures.iter().take(NAMED_MAX) {
        text += &format!("  {}: {}\n", escape(&failure.path), escape(&failure.reason));
    }
    text + &more(usize::try_from(drill.failed).unwrap_or(usize::MAX), "file")
}

fn render_repair(report: &RepairReport, dry_run: bool, paint: Paint) -> String {
    let mut text = String::new();
    if report.plan.is_empty() && !job::did_something(report) && job::is_mended(report) {
        return "  nothing to mend\n".to_owned();
    }
    if report.refused {
        let much = "much is damaged at once; nothing was touched without --yes";
        text += &format!("  {}\n", paint.bad(much));
    }
    for step in report.plan.iter().take(NAMED_MAX) {
        text += &format!("  {}\n", escape(step));
    }
    text += &more(report.plan.len(), "step");
    let (packs, chunks) = (count(report.repaired_packs, "pack"), count(report.repaired_chunks, "chunk"));
    if dry_run {
        text += "  nothing was changed (--dry-run)\n";
    } else {
        text += &format!("  mended {packs} and {chunks}, {} fetched\n", ByteSize(report.bytes_fetched));
    }
    if report.repaired_records > 0 {
        text += &format!("  mended {}\n", count(report.repaired_records, "record"));
    }
    if report.regained_chunks > 0 || !report.replaced_packs.is_empty() {
        let (chunks, packs) = (count(report.regained_chunks, "chunk"), report.replaced_packs.len() as u64);
        text += &format!("  {chunks} read again from files; {} replaced\n", count(packs, "pack"));
    }
    for (peer, bytes) in &report.sources {
        text += &format!("  {} from {}\n", ByteSize(*bytes), escape(peer));
    }
    if !job::is_mended(report) {
        let (packs, chunks) = (report.unrepaired_packs.len() as u64, report.unrepaired_chunks);
        let mut lost =
            format!("no sound copy found of {} and {}", count(packs, "pack"), count(chunks, "chunk"));
        if !report.unrepaired_records.is_empty() {
            lost += &format!(", and of {}", count(report.unrepaired_records.len() as u64, "record"));
        }
        text += &format!("  {}\n", paint.bad(&lost));
    }
    text
}

fn more(number: usize, what: &str) -> String {
    match number.checked_sub(NAMED_MAX) {
        Some(more) if more > 0 => format!("  and {} more (all with --json)\n", count(more as u64, what)),
        _ => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::VerifyAllReport;
    use crate::base::{ChunkId, PackId};
    use std::collections::BTreeMap;

    fn report(repair: Option<RepairReport>) -> VerifyReport {
        let one = |id: &str, success| VerifySnapshotReport {
            snapshot_id: id.into(),
            total_chunks: 3,
            verified_chunks: if success { 3 } else { 2 },
            missing_chunks: if success { vec![] } else { vec![ChunkId::new([1; 32])] },
            corrupted_chunks: vec![],
            unread_chunks: 0,
            damaged: None,
            signature_valid: true,
            success,
            damaged_files: vec![],
            damaged_files_total: 0,
        };
        VerifyReport {
            result: VerifyOutcomeShape::All(VerifyAllReport {
                total_snapshots: 2,
                valid_snapshots: 1,
                invalid_snapshots: 1,
                health_percentage: 50.0,
                snapshots: vec![one("aaaaaaaaaa", true), one("bbbbbbbbbb", false)],
            }),
            packs_checked: 1,
            bytes_checked: 1024,
            damaged_packs: vec![],
            damaged_records: vec![],
            unread_packs: 0,
            unread_bytes: 0,
            unreachable_packs: 0,
            unreachable_bytes: 0,
            complete: false,
            total_duration: 2.0,
            time: String::new(),
            coverage: None,
            audits: vec![],
            repair: repair.map(Box::new),
        }
    }

    #[test]
    fn damage_is_named_and_mending_is_told() {
        let text = render(&report(None), false, Paint(false));
        let expected = "damaged\n  1 of 2 snapshots sound (50.0%)\n  \
            snapshot bbbbbbbb damaged: 2 of 3 chunks sound, 1 missing\n  1 pack with 1.0 KiB checked in 2.0s\n";
        assert_eq!(text, expected);
        let repair = RepairReport {
            repaired_packs: 1,
            bytes_fetched: 5,
            sources: BTreeMap::from([("bob".into(), 5)]),
            ..RepairReport::default()
        };
        let text = render(&report(Some(repair)), false, Paint(false));
        assert!(text.starts_with("mended\n") && text.ends_with("  5 B from bob\n"), "{text}");
    }

    #[test]
    fn what_stays_lost_is_told_and_long_plans_are_cut() {
        let lost = RepairReport {
            unrepaired_packs: vec![PackId::new([1; 32])],
            plan: vec!["pull \x1b".into(); NAMED_MAX + 2],
            ..RepairReport::default()
        };
        let text = render_repair(&lost, true, Paint(false));
        assert!(text.contains("no sound copy found of 1 pack and 0 chunks"), "{text}");
        assert!(text.contains("and 2 steps more") && text.contains("nothing was changed"), "{text}");
        assert!(!text.contains('\x1b'));
        assert_eq!(render_repair(&RepairReport::default(), false, Paint(false)), "  nothing to mend\n");
    }
}
