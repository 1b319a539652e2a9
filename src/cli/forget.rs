//! `forget` and `gc`.

use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Args;
use prost::Message;

use super::init::read_phrase;
use super::job;
use super::output::{Paint, Table, count, escape, local_time, span};
use super::reference::reference;
use super::session::{Keys, Session};
use crate::api::{
    ApiError, ForgetReport, ForgetRequest, GcReport, GcRequest, GcStatus, JobOutcome, JobRequest, KeepRules,
    ReleaseReport,
};
use crate::base::{ByteSize, Code, PeerId, parse_duration};
use crate::node::Mode;
use crate::snapshot::{HeadSummary, sign_release};

/// Replaced files that the text for people names one by one.
const REPLACED_NAMED_MAX: usize = 20;

#[derive(Args)]
pub(super) struct ForgetArgs {
    /// Forget these: the beginning of an id, `latest` or `latest~N`
    #[arg(value_name = "REF", value_parser = reference(), conflicts_with_all = ["keep", "configured"])]
    snapshots: Vec<String>,
    #[command(flatten)]
    keep: KeepArgs,
    /// By the rules of the configuration (retention, storage.retention_days)
    #[arg(long, conflicts_with = "keep")]
    configured: bool,
    /// Give these up for good: their records are damaged and no holder has them; others are refused
    #[arg(long, requires = "snapshots")]
    lost: bool,
    /// Only show what would go and why the rest stays
    #[arg(long)]
    dry_run: bool,
    /// Then collect garbage
    #[arg(long)]
    gc: bool,
    /// Forget nothing here, but let the peers that hold this vault delete at once what its snapshots no longer need and
    /// what they would keep for their hold; nothing can bring that back. Takes the recovery phrase
    #[arg(long, requires = "phrase_file", conflicts_with_all = ["snapshots", "keep", "configured", "dry_run", "gc"])]
    release_holds: bool,
    /// Only of this peer; may be a name or an id
    #[arg(long, value_name = "PEER", requires = "release_holds")]
    holder: Option<String>,
    /// Read the recovery phrase from FILE (- for standard input)
    #[arg(long, value_name = "FILE", requires = "release_holds")]
    phrase_file: Option<PathBuf>,
}

/// What stays, for each device, host and set of paths. A snapshot stays when any rule keeps it.
#[derive(Args)]
#[group(id = "keep", multiple = true)]
struct KeepArgs {
    /// Keep the newest so many
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    keep_last: Option<u32>,
    /// Keep the newest of each of so many hours
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    keep_hourly: Option<u32>,
    /// Keep the newest of each of so many days
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    keep_daily: Option<u32>,
    /// Keep the newest of each of so many weeks
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    keep_weekly: Option<u32>,
    /// Keep the newest of each of so many months
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    keep_monthly: Option<u32>,
    /// Keep the newest of each of so many years
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    keep_yearly: Option<u32>,
    /// Keep all that are younger
    #[arg(long, value_name = "DUR", value_parser = parse_duration)]
    keep_within: Option<Duration>,
    /// Keep all with this label; may be repeated
    #[arg(long, value_name = "TAG")]
    keep_tag: Vec<String>,
}

#[derive(Args)]
pub(super) struct GcArgs {
    /// Show what waits to be deleted, and until when
    #[arg(long, conflicts_with_all = ["now", "dry_run", "max_unused"])]
    status: bool,
    /// Do not wait for the grace period; what work under way may need stays all the same
    #[arg(long)]
    now: bool,
    /// Only show what would be done
    #[arg(long)]
    dry_run: bool,
    /// Percent of the needed bytes that may stay unused in partly needed packs [default: 5]
    #[arg(long, value_name = "PERCENT", value_parser = clap::value_parser!(u32).range(0..=1000))]
    max_unused: Option<u32>,
}

pub(super) async fn run(args: ForgetArgs, session: &Session<'_>) -> Result<u8, ApiError> {
    if let (true, Some(phrase)) = (args.release_holds, &args.phrase_file) {
        return release(args.holder, phrase, session).await;
    }
    let keep = args.keep;
    let rules = KeepRules {
        keep_last: keep.keep_last,
        keep_hourly: keep.keep_hourly,
        keep_daily: keep.keep_daily,
        keep_weekly: keep.keep_weekly,
        keep_monthly: keep.keep_monthly,
        keep_yearly: keep.keep_yearly,
        keep_within_ms: keep.keep_within.map(|span| u64::try_from(span.as_millis()).unwrap_or(u64::MAX)),
        keep_tags: keep.keep_tag,
    };
    let request = ForgetRequest {
        snapshots: args.snapshots,
        rules,
        configured: args.configured,
        dry_run: args.dry_run,
        gc: args.gc,
        lost: args.lost,
        confirmed: session.globals.yes,
        scheduled: false,
    };
    if request.lost {
        return give_up(request, session).await;
    }
    let done = conduct(request.clone(), session).await;
    let question = match &done {
        // A machine has to say so with `--yes`.
        Err(error) if error.kind() == Code::ConfirmationNeeded && !session.globals.json => {
            format!("{}. Do it all the same?", error.message)
        }
        _ => return done,
    };
    if session.agreed(&question)? != Some(true) {
        return done;
    }
    conduct(ForgetRequest { confirmed: true, ..request }, session).await
}

async fn conduct(request: ForgetRequest, session: &Session<'_>) -> Result<u8, ApiError> {
    job::conduct(session, Mode::Offline, JobRequest::Forget(request), |job, paint| match &job.outcome {
        Some(JobOutcome::Forget(report)) => render(report, paint),
        _ => String::new(),
    })
    .await
}

/// Shows what giving snapshots up means, asks, and does it.
async fn give_up(request: ForgetRequest, session: &Session<'_>) -> Result<u8, ApiError> {
    let is_machine = session.globals.json;
    if !request.dry_run && !request.confirmed {
        if is_machine {
            let text = "snapshots would be given up for good; nothing was forgotten";
            return Err(ApiError::new(Code::ConfirmationNeeded, text).with_hint("--yes does it"));
        }
        let look = ForgetRequest { dry_run: true, gc: false, ..request.clone() };
        let code = conduct_lost(look, session).await?;
        let agreed = session.agreed("Give them up for good?")? == Some(true);
        if code != 0 || !agreed {
            let text = "nothing was forgotten";
            return Err(ApiError::new(Code::ConfirmationNeeded, text).with_hint("--yes does it"));
        }
    }
    let confirmed = !request.dry_run;
    conduct_lost(ForgetRequest { confirmed, ..request }, session).await
}

async fn conduct_lost(request: ForgetRequest, session: &Session<'_>) -> Result<u8, ApiError> {
    job::conduct(session, Mode::Online, JobRequest::Forget(request), |job, paint| match &job.outcome {
        Some(JobOutcome::Forget(report)) => render_lost(report) + &render(report, paint),
        _ => String::new(),
    })
    .await
}

/// Who was asked for what is given up, and what that means.
fn render_lost(report: &ForgetReport) -> String {
    let names = |names: &[String]| escape(&names.join(", ")).into_owned();
    let mut text = match report.asked.as_slice() {
        [] => "no holder could be asked for the records\n".to_owned(),
        asked => format!("asked for the records, and without them: {}\n", names(asked)),
    };
    if !report.not_asked.is_empty() {
        text += &format!(
            "not asked, as they are not connected, and one may have them: {}\n",
            names(&report.not_asked)
        );
    }
    for head in &report.heads {
        let id = head.to_string();
        text += &format!("head {}: nobody has it; what of its snapshots is here stays listed\n", &id[..12]);
    }
    for list in &report.lists {
        let id = list.to_string();
        text +=
            &format!("pack list {}: nobody has it; packs that only it names are listed no more\n", &id[..12]);
    }
    text + "what only they need is deleted by the next collections, here and, after their hold, at holders: that is final\n"
}

/// Signs a release of what holders keep beyond the newest heads, and hands it to the node.
async fn release(holder: Option<String>, phrase: &Path, session: &Session<'_>) -> Result<u8, ApiError> {
    let admin = read_phrase(phrase, session.output)?.root().admin();
    let handle = session.open(Keys::Unneeded, Mode::Offline).await?;
    let service = handle.service();
    let result = async {
        let all = service.releasable().await?;
        if all.vault_id != admin.vault() {
            let text = "that phrase is of another vault than this node's";
            return Err(ApiError::new(Code::InvalidSignature, text));
        }
        let holder = match holder {
            Some(name) => Some(service.peer(name, false).await?.peer.id),
            None => None,
        };
        confirm_release(session)?;
        let heads: Vec<HeadSummary> = all
            .heads
            .iter()
            .map(|head| HeadSummary { device: head.device, seq: head.seq, id: head.id })
            .collect();
        let signed = sign_release(&admin, holder, &heads);
        service.release_holds(hex::encode(signed.encode_to_vec())).await
    };
    let result = result.await;
    let report = handle.close(result).await?;
    session.output.show(&report, |report, _| render_release(report));
    Ok(0)
}

/// Asks a person at a terminal; without one, `--yes` says that it is meant. Nobody is asked for a machine's answer.
fn confirm_release(session: &Session<'_>) -> Result<(), ApiError> {
    let question =
        "Let holders delete all that was forgotten, now and for good? Look at `shadowvault snapshots` first.";
    let is_machine = session.globals.json && !session.globals.yes;
    if !is_machine && session.agreed(question)? == Some(true) {
        return Ok(());
    }
    let hint =
        "snapshots that were forgotten cannot be recovered from holders any more; add --yes if that is meant";
    Err(ApiError::new(Code::ConfirmationNeeded, "nothing was released").with_hint(hint))
}

fn render_release(report: &ReleaseReport) -> String {
    let names = |peers: &[PeerId]| peers.iter().map(PeerId::short).collect::<Vec<_>>().join(" ");
    let mut text = match report.told.as_slice() {
        [] => String::new(),
        told => format!("released at {}: {}\n", count(told.len() as u64, "holder"), names(told)),
    };
    if !report.waiting.is_empty() {
        text += &format!("not connected now, told when they are: {}\n", names(&report.waiting));
    }
    if text.is_empty() { "no peer holds anything of this vault\n".to_owned() } else { text }
}

pub(super) async fn gc(args: GcArgs, session: &Session<'_>) -> Result<u8, ApiError> {
    if args.status {
        let handle = session.open(Keys::Unneeded, Mode::Offline).await?;
        let result = handle.service().gc_status().await;
        let status = handle.close(result).await?;
        session.output.show(&status, |status, _| render_status(status));
        return Ok(0);
    }
    let (dry_run, now, max_unused) = (args.dry_run, args.now, args.max_unused);
    let request = GcRequest { dry_run, now, max_unused, scheduled: false };
    job::conduct(session, Mode::Offline, JobRequest::Gc(request), |job, _| match &job.outcome {
        Some(JobOutcome::Gc(report)) => render_gc(report),
        _ => String::new(),
    })
    .await
}

fn render(report: &ForgetReport, paint: Paint) -> String {
    let mut text = String::new();
    let told = report.kept.iter().any(|kept| !kept.reasons.is_empty());
    if told {
        let mut table = Table::new(&["KEPT", "WHY"]);
        for kept in &report.kept {
            table.row([kept.snapshot_id.short(), kept.reasons.join(", ")]);
        }
        text += &table.render(paint);
    }
    let short: Vec<String> = report.forgotten.iter().map(|id| id.short()).collect();
    let gone = count(short.len() as u64, "snapshot");
    let freed = ByteSize(report.freed_bytes);
    text += &match (short.is_empty(), report.dry_run) {
        (true, _) => format!("nothing to forget; {} kept\n", report.kept_count),
        (false, true) => {
            format!(
                "would forget {gone} and free about {freed}; {} kept: {}\n",
                report.kept_count,
                short.join(" ")
            )
        }
        (false, false) => format!("forgot {gone}; {} kept: {}\n", report.kept_count, short.join(" ")),
    };
    match &report.gc {
        Some(done) => text += &render_gc(done),
        None if !short.is_empty() && !report.dry_run => {
            text += &format!("about {freed} are free once `shadowvault gc` has deleted them\n");
        }
        None => {}
    }
    text
}

fn packs(number: u64, bytes: u64) -> String {
    format!("{} ({})", count(number, "pack"), ByteSize(bytes))
}

fn render_gc(report: &GcReport) -> String {
    if report.unchanged {
        return "nothing changed since the last collection\n".to_owned();
    }
    let would = if report.dry_run { "would be " } else { "" };
    let mut text = format!(
        "{} of {} needed by {}\n",
        count(report.live_chunks, "chunk"),
        report.live_chunks + report.dead_chunks,
        count(report.snapshots, "snapshot")
    );
    let mut line = |number: u64, what: String| {
        if number > 0 {
            text += &format!("  {what}\n");
        }
    };
    line(
        report.deleted_packs,
        format!("{would}deleted: {}", packs(report.deleted_packs, report.deleted_bytes)),
    );
    let size = ByteSize(report.resealed_bytes);
    line(
        report.resealed_packs,
        format!("{would}rewritten: {} into {size}", count(report.resealed_packs, "pack")),
    );
    line(
        report.cleared_files,
        format!(
            "deleted, having been replaced by repairs: {}",
            packs(report.cleared_files, report.cleared_bytes)
        ),
    );
    line(report.revived_packs, format!("needed again: {}", count(report.revived_packs, "pack")));
    if report.dry_run {
        line(
            report.quarantined_packs,
            format!("would be set aside: {}", packs(report.quarantined_packs, report.quarantined_bytes)),
        );
    } else {
        let until = report.next_deletion.as_deref().map(local_time).unwrap_or_default();
        let what = packs(report.waiting_packs, report.waiting_bytes);
        line(report.waiting_packs, format!("set aside: {what}; the first may be deleted from {until} on"));
    }
    if report.deleted_packs + report.resealed_packs + report.revived_packs + report.quarantined_packs == 0
        && report.waiting_packs == 0
    {
        text += "  nothing to delete\n";
    }
    for problem in &report.problems {
        text += &format!("  {}\n", escape(problem));
    }
    if report.total_duration >= 1.0 {
        text += &format!("  in {}\n", span(report.total_duration));
    }
    text
}

fn render_status(status: &GcStatus) -> String {
    let mut text = match (&status.next_deletion, &status.last_deletion) {
        (Some(first), Some(last)) => format!(
            "{} wait to be deleted, from {} to {}\n",
            packs(status.waiting_packs, status.waiting_bytes),
            local_time(first),
            local_time(last)
        ),
        _ => "nothing waits to be deleted\n".to_owned(),
    };
    if status.held_packs > 0 {
        let held = packs(status.held_packs, status.held_bytes);
        text += &format!("{held} of others are held that they list no more\n");
    }
    for one in status.replaced.iter().take(REPLACED_NAMED_MAX) {
        let (size, until) = (ByteSize(one.bytes), local_time(&one.until));
        text += &format!(
            "pack {} was mended; its damaged file ({size}) is kept until {until}\n",
            one.pack.short()
        );
    }
    if let Some(more) = status.replaced.len().checked_sub(REPLACED_NAMED_MAX).filter(|more| *more > 0) {
        text += &format!("and {more} more damaged files (all with --json)\n");
    }
    text += &match &status.last_run {
        Some(time) => format!("last collection: {}\n", local_time(time)),
        None => "no collection yet (`shadowvault gc`)\n".to_owned(),
    };
    if let Some(error) = &status.last_error {
        text += &format!("it failed: {}\n", escape(error));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::Kept;
    use crate::base::SnapshotId;

    #[test]
    fn a_reason_stands_beside_every_snapshot_that_stays() {
        let kept = Kept {
            snapshot_id: SnapshotId::new([0x11; 32]),
            reasons: vec!["last".into(), "newest complete".into()],
        };
        let report = ForgetReport {
            dry_run: true,
            forgotten: vec![SnapshotId::new([0x22; 32])],
            kept: vec![kept],
            kept_count: 1,
            freed_bytes: 2048,
            ..ForgetReport::default()
        };
        let expected = "\
            KEPT      WHY\n\
            11111111  last, newest complete\n\
            would forget 1 snapshot and free about 2.0 KiB; 1 kept: 22222222\n";
        assert_eq!(render(&report, Paint(false)), expected);
    }

    #[test]
    fn who_was_told_of_a_release_and_who_will_be() {
        let peer = |fill| PeerId::new([fill; 32]);
        let report = ReleaseReport { told: vec![peer(1)], waiting: vec![peer(2)] };
        let expected = format!(
            "released at 1 holder: {}\nnot connected now, told when they are: {}\n",
            peer(1).short(),
            peer(2).short()
        );
        assert_eq!(render_release(&report), expected);
        assert!(render_release(&ReleaseReport::default()).starts_with("no peer"));
    }

    #[test]
    fn a_collection_tells_what_it_did_and_what_waits() {
        let report = GcReport {
            snapshots: 2,
            live_chunks: 7,
            dead_chunks: 3,
            deleted_packs: 1,
            deleted_bytes: 1024,
            waiting_packs: 2,
            waiting_bytes: 2048,
            next_deletion: Some("soon".into()),
            ..GcReport::default()
        };
        let expected = "\
            7 chunks of 10 needed by 2 snapshots\n\
            \x20 deleted: 1 pack (1.0 KiB)\n\
            \x20 set aside: 2 packs (2.0 KiB); the first may be deleted from soon on\n";
        assert_eq!(render_gc(&report), expected);
        assert!(render_status(&GcStatus::default()).starts_with("nothing waits"));
    }
}
