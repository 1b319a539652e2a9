//! `jobs` and `unlock`: what only a running daemon has.

use clap::{Args, Subcommand};
use futures::StreamExt;
use serde_json::Value;

use super::output::{Paint, Table, escape};
use super::progress;
use super::session::Session;
use crate::api::{ApiError, Event, JobId, JobInfo, JobState, Service};

#[derive(Args)]
#[command(args_conflicts_with_subcommands = true)]
pub(super) struct JobsArgs {
    #[command(subcommand)]
    verb: Option<Verb>,
}

#[derive(Subcommand)]
enum Verb {
    /// List running and ended jobs
    List,
    /// Show one job
    Show {
        /// Its number
        id: JobId,
    },
    /// Ask a job to stop; what it has done is kept
    Cancel {
        /// Its number
        id: JobId,
    },
}

pub(super) async fn run(args: JobsArgs, session: &Session<'_>) -> Result<u8, ApiError> {
    let daemon = session.daemon().await?;
    match args.verb.unwrap_or(Verb::List) {
        Verb::List => session.output.show(&daemon.jobs().await?, |jobs, paint| render(jobs, paint)),
        Verb::Show { id } => session.output.show(&daemon.job(id).await?, |job, _| detail(job)),
        Verb::Cancel { id } => {
            daemon.cancel(id).await?;
            session.output.note(&format!("job {id} was asked to stop"));
        }
    }
    Ok(0)
}

#[derive(Args)]
pub(super) struct EventsArgs {
    /// Also what happened after the event with this number
    #[arg(long, value_name = "ID")]
    since: Option<u64>,
}

/// Prints events until the daemon stops or a signal comes.
pub(super) async fn events(args: EventsArgs, session: &Session<'_>) -> Result<u8, ApiError> {
    let mut events = session.daemon().await?.events(args.since).await?;
    while let Some(event) = events.next().await {
        let event = event?;
        if session.output.json {
            session.output.document(&serde_json::to_value(&event).expect("events are plain data"));
        } else {
            session.output.text(&line(&event));
        }
        if session.output.is_lost() {
            break;
        }
    }
    Ok(0)
}

/// An event as `number  time  what  key=value…`.
fn line(event: &Event) -> String {
    let what = serde_json::to_value(&event.what).expect("events are plain data");
    let mut text = format!("{}  {}", event.id, escape(&event.time));
    for (name, value) in what.as_object().into_iter().flatten() {
        match value {
            Value::String(word) if name == "event" => text += &format!("  {}", escape(word)),
            Value::Null => {}
            Value::String(word) => text += &format!("  {name}={}", escape(word)),
            other => text += &format!("  {name}={}", escape(&other.to_string())),
        }
    }
    text + "\n"
}

pub(super) async fn unlock(session: &Session<'_>) -> Result<u8, ApiError> {
    let daemon = session.daemon().await?;
    let passphrase = session.passphrases().existing()?;
    daemon.unlock(passphrase.into_text()).await?;
    session.output.note("unlocked");
    Ok(0)
}

fn render(jobs: &[JobInfo], paint: Paint) -> String {
    if jobs.is_empty() {
        return "no jobs\n".to_owned();
    }
    let mut table = Table::new(&[">ID", "KIND", "STATE", "PROGRESS"]);
    for job in jobs {
        let what = match &job.error {
            Some(error) => error.message.clone(),
            None => progress::line(&job.progress),
        };
        table.row([
            job.id.to_string(),
            progress::word(job.kind).to_owned(),
            state(job.state).to_owned(),
            what,
        ]);
    }
    table.render(paint)
}

fn detail(job: &JobInfo) -> String {
    let mut text = format!("job {}: {}, {}\n", job.id, progress::word(job.kind), state(job.state));
    let progress = progress::line(&job.progress);
    if !progress.is_empty() {
        text += &format!("  {progress}\n");
    }
    for problem in &job.problems {
        text += &format!("  {}: {}\n", escape(&problem.path), escape(&problem.reason));
    }
    if let Some(error) = &job.error {
        text += &format!("  {}: {}\n", escape(&error.code), escape(&error.message));
    }
    text
}

fn state(state: JobState) -> &'static str {
    match state {
        JobState::Queued => "queued",
        JobState::Running => "running",
        JobState::Done => "done",
        JobState::Failed => "failed",
        JobState::Cancelled => "cancelled",
        JobState::Interrupted => "interrupted",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::{JobKind, PathProblem, Progress};
    use crate::base::Code;

    #[test]
    fn jobs_show_how_far_they_are_or_why_they_failed() {
        let running = JobInfo {
            id: JobId(12),
            kind: JobKind::Backup,
            state: JobState::Running,
            started: "2026-11-22T10:00:00.000Z".into(),
            ended: None,
            progress: Progress { files_done: 3, ..Progress::default() },
            problems: vec![PathProblem { path: "/a\x1b".into(), reason: "denied".into() }],
            outcome: None,
            error: None,
        };
        let error = Some(ApiError::new(Code::StorageFull, "no room"));
        let failed = JobInfo { id: JobId(3), state: JobState::Failed, error, ..running.clone() };
        let expected =
            "ID  KIND    STATE    PROGRESS\n12  backup  running  3 files\n 3  backup  failed   no room\n";
        assert_eq!(render(&[running, failed.clone()], Paint(false)), expected);
        let expected = "job 3: backup, failed\n  3 files\n  /a\\u{1b}: denied\n  STORAGE_FULL: no room\n";
        assert_eq!(detail(&failed), expected);
    }
}
