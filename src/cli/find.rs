//! `find`.

use clap::Args;
use futures::TryStreamExt;
use serde_json::json;

use super::entries::Lines;
use super::output::{Array, Output, local_time};
use super::reference::reference;
use super::session::{Keys, Session};
use crate::api::{ApiError, Batches, FindQuery, Found};
use crate::base::{SnapshotId, parse_duration};
use crate::node::Mode;

#[derive(Args)]
pub(super) struct FindArgs {
    /// Glob of a name; with a `/`, of the end of a path, or of a whole path that begins with one
    #[arg(value_name = "PATTERN")]
    pattern: String,
    /// Look into this snapshot only; may be repeated
    #[arg(short, long = "snapshot", value_name = "REF", value_parser = reference())]
    snapshots: Vec<String>,
    /// Only in snapshots of this host
    #[arg(long, value_name = "HOST")]
    host: Option<String>,
    /// Only in snapshots with this label
    #[arg(long, value_name = "TAG")]
    tag: Option<String>,
    /// Only in snapshots of this path
    #[arg(long, value_name = "PATH")]
    path: Option<String>,
    /// Only of this type: f(ile), d(ir), (sym)l(ink), fifo, socket, chardev, dev
    #[arg(long = "type", value_name = "TYPE")]
    kind: Option<String>,
    /// Only what was modified then or later: 2026-11-25, 2026-11-25T10:00:00Z, or 3d for three days ago
    #[arg(long, value_name = "TIME", value_parser = moment)]
    newer: Option<jiff::Timestamp>,
    /// Only what was modified then or earlier
    #[arg(long, value_name = "TIME", value_parser = moment)]
    older: Option<jiff::Timestamp>,
    /// Capitals do not count
    #[arg(short, long)]
    ignore_case: bool,
    /// Show modes, owners, sizes and times
    #[arg(short, long)]
    long: bool,
}

/// A moment, a date or date and time of this machine's zone, or a span back from now.
pub(super) fn moment(text: &str) -> Result<jiff::Timestamp, String> {
    if let Ok(moment) = text.parse::<jiff::Timestamp>() {
        return Ok(moment);
    }
    if let Ok(local) = text.parse::<jiff::civil::DateTime>() {
        let zoned = local.to_zoned(jiff::tz::TimeZone::system());
        return zoned.map(|zoned| zoned.timestamp()).map_err(|error| error.to_string());
    }
    let span = parse_duration(text)
        .map_err(|_| "not a time (examples: 2026-11-25, 2026-11-25T10:00:00Z, 3d)".to_owned())?;
    jiff::Timestamp::now().checked_sub(span).map_err(|error| error.to_string())
}

pub(super) async fn run(args: FindArgs, session: &Session<'_>) -> Result<u8, ApiError> {
    let query = FindQuery {
        pattern: args.pattern,
        snapshots: args.snapshots,
        host: args.host,
        tag: args.tag,
        path: args.path,
        kind: args.kind,
        newer: args.newer.map(|moment| moment.to_string()),
        older: args.older.map(|moment| moment.to_string()),
        ignore_case: args.ignore_case,
    };
    let handle = session.open(Keys::Needed, Mode::Offline).await?;
    let result = match handle.service().find(query).await {
        Ok(found) if session.output.json => print_json(found, session.output).await,
        Ok(found) => print(found, args.long, session.output).await,
        Err(error) => Err(error),
    };
    handle.close(result).await.map(|()| 0)
}

/// The finds of one snapshot in a row of finds.
fn runs(batch: Vec<Found>) -> Vec<(SnapshotId, Vec<Found>)> {
    let mut runs: Vec<(SnapshotId, Vec<Found>)> = Vec::new();
    for found in batch {
        match runs.last_mut() {
            Some((snapshot, run)) if *snapshot == found.snapshot => run.push(found),
            _ => runs.push((found.snapshot, vec![found])),
        }
    }
    runs
}

async fn print(mut found: Batches<Found>, long: bool, output: &Output) -> Result<(), ApiError> {
    let (mut at, mut lines) = (None, Lines::new(long));
    while let Some(batch) = found.try_next().await? {
        let mut text = String::new();
        for (snapshot, run) in runs(batch) {
            if at != Some(snapshot) {
                text += &lines.rest();
                let space = if at.is_some() { "\n" } else { "" };
                let time = run.first().map(|first| local_time(&first.time)).unwrap_or_default();
                let head = format!("in snapshot {} of {time}", snapshot.short());
                text += &format!("{space}{}\n", output.paint.bold(&head));
                at = Some(snapshot);
            }
            text += &lines.add(run.into_iter().map(|found| found.entry));
        }
        output.write(text.as_bytes())?;
    }
    output.write(lines.rest().as_bytes())?;
    if at.is_none() {
        output.note("nothing matches");
    }
    Ok(())
}

/// restic's shape: a list of `{matches, hits, snapshot}`.
async fn print_json(mut found: Batches<Found>, output: &Output) -> Result<(), ApiError> {
    let mut open: Option<(SnapshotId, u64, Array<'_>)> = None;
    let close = |(snapshot, hits, array): (SnapshotId, u64, Array<'_>)| {
        array.end(&format!(",\"hits\":{hits},\"snapshot\":{}}}", json!(snapshot)))
    };
    let mut before = "[";
    while let Some(batch) = found.try_next().await? {
        for (snapshot, run) in runs(batch) {
            if open.as_ref().is_none_or(|(at, ..)| *at != snapshot) {
                open.take().map_or(Ok(()), close)?;
                output.write(format!("{before}{{\"matches\":").as_bytes())?;
                before = ",";
                open = Some((snapshot, 0, Array::new(output)));
            }
            let entries: Vec<_> = run.into_iter().map(|found| found.entry).collect();
            if let Some((_, hits, array)) = &mut open {
                *hits += entries.len() as u64;
                array.add(&entries)?;
            }
        }
    }
    open.take().map_or(Ok(()), close)?;
    output.write(if before == "[" { b"[]\n" } else { b"]\n" })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_moments_dates_or_spans_back() {
        let now = jiff::Timestamp::now();
        assert_eq!(moment("2026-11-25T10:00:00Z").unwrap().to_string(), "2026-11-25T10:00:00Z");
        assert!(moment("2026-11-25").is_ok() && moment("2026-11-25T10:00").is_ok());
        let back = now.as_second() - moment("3d").unwrap().as_second();
        assert!((3 * 86_400 - 2..=3 * 86_400).contains(&back), "{back}");
        for wrong in ["", "soon", "2026-13-01", "3"] {
            assert!(moment(wrong).is_err(), "{wrong}");
        }
    }
}
