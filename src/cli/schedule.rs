//! `schedule`: recurring tasks.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Subcommand};

use super::backup::absolute;
use super::output::{Paint, Table, escape};
use super::session::{Keys, Session};
use crate::api::{AddSchedule, ApiError, EditSchedule, ScheduleInfo, ScheduleSource, Service};
use crate::base::parse_duration;
use crate::node::Mode;

#[derive(Args)]
#[command(args_conflicts_with_subcommands = true)]
pub(super) struct ScheduleArgs {
    #[command(subcommand)]
    verb: Option<Verb>,
}

#[derive(Subcommand)]
enum Verb {
    /// List all tasks
    List,
    /// Add a task that backs up paths, or verifies
    Add(Add),
    /// Remove a task that was added
    Remove {
        /// Its name
        id: String,
    },
    /// Let a task run by itself again
    Enable {
        /// Its name
        id: String,
    },
    /// Keep a task from running by itself
    Disable {
        /// Its name
        id: String,
    },
    /// Run a task now
    Run {
        /// Its name
        id: String,
    },
}

#[derive(Args)]
struct Add {
    /// Its name
    id: String,
    /// What it backs up
    #[arg(required_unless_present = "verify")]
    paths: Vec<PathBuf>,
    /// Verify everything instead
    #[arg(long, conflicts_with = "paths")]
    verify: bool,
    /// Run this long after it last began, such as 24h
    #[arg(long, value_name = "DUR", value_parser = parse_duration, required_unless_present = "cron", conflicts_with = "cron")]
    every: Option<Duration>,
    /// Run by a cron line of five fields, in local time
    #[arg(long, value_name = "EXPR")]
    cron: Option<String>,
    /// Tries after one that failed
    #[arg(long, value_name = "N")]
    retries: Option<u32>,
}

pub(super) async fn run(args: ScheduleArgs, session: &Session<'_>) -> Result<u8, ApiError> {
    let handle = session.open(Keys::Unneeded, Mode::Offline).await?;
    let result = apply(args.verb.unwrap_or(Verb::List), handle.service(), session).await;
    handle.close(result).await?;
    Ok(0)
}

async fn apply(verb: Verb, service: &dyn Service, session: &Session<'_>) -> Result<(), ApiError> {
    let edit = |enabled| EditSchedule { enabled: Some(enabled) };
    let (info, said) = match verb {
        Verb::List => {
            session.output.show(&service.schedule().await?, |tasks, paint| render(tasks, paint));
            return Ok(());
        }
        Verb::Remove { id } => {
            service.remove_schedule(id.clone()).await?;
            session.output.note(&format!("task {} was removed; its snapshots stay", escape(&id)));
            return Ok(());
        }
        Verb::Add(add) => {
            let request = AddSchedule {
                id: add.id,
                paths: add.paths.iter().map(|path| absolute(path)).collect::<Result<_, _>>()?,
                verify: add.verify,
                every_ms: add.every.map(|span| u64::try_from(span.as_millis()).unwrap_or(u64::MAX)),
                cron: add.cron,
                retries: add.retries,
            };
            (service.add_schedule(request).await?, "added")
        }
        Verb::Enable { id } => (service.edit_schedule(id, edit(true)).await?, "enabled"),
        Verb::Disable { id } => (service.edit_schedule(id, edit(false)).await?, "disabled"),
        Verb::Run { id } => (service.run_schedule(id).await?, "started"),
    };
    session.output.show(&info, |task, _| {
        let next = task.next.as_ref().map(|next| format!("; next at {next}")).unwrap_or_default();
        format!("task {} {said}: {}{next}\n", escape(&task.id), escape(&task.rhythm))
    });
    Ok(())
}

fn render(tasks: &[ScheduleInfo], paint: Paint) -> String {
    let mut table = Table::new(&["ID", "WHAT", "WHEN", "FROM", "LAST RUN", "NEXT"]);
    for task in tasks {
        let what = match task.paths.as_slice() {
            [] => task.kind.clone(),
            [path] => format!("{} {path}", task.kind),
            [path, rest @ ..] => format!("{} {path} and {} more", task.kind, rest.len()),
        };
        let last = match &task.last {
            None => "-".to_owned(),
            Some(last) if last.success => format!("{} ok", last.began),
            Some(last) => format!("{} {}", last.began, last.code.as_deref().unwrap_or("failed")),
        };
        let next = match (&task.next, task.running, task.enabled) {
            (_, true, _) => "at work".to_owned(),
            (_, _, false) => "disabled".to_owned(),
            (Some(next), ..) if task.tries > 0 => format!("{next} (try {})", task.tries + 1),
            (Some(next), ..) => next.clone(),
            (None, ..) => "never".to_owned(),
        };
        let from = match task.source {
            ScheduleSource::Config => "config",
            ScheduleSource::Added => "added",
        };
        table.row([task.id.clone(), what, task.rhythm.clone(), from.to_owned(), last, next]);
    }
    table.render(paint)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::LastRun;

    #[test]
    fn tasks_show_when_they_ran_and_will() {
        let task = ScheduleInfo {
            id: "docs".into(),
            kind: "backup".into(),
            paths: vec!["/a".into(), "/b".into()],
            rhythm: "every 1d".into(),
            enabled: true,
            source: ScheduleSource::Config,
            running: false,
            next: Some("T2".into()),
            tries: 1,
            last: Some(LastRun {
                began: "T1".into(),
                ended: "T1".into(),
                success: false,
                code: Some("STORAGE_FULL".into()),
                message: None,
                snapshot: None,
            }),
        };
        let scrub = ScheduleInfo {
            id: "scrub".into(),
            kind: "scrub".into(),
            paths: vec![],
            enabled: false,
            source: ScheduleSource::Added,
            last: None,
            ..task.clone()
        };
        let expected = "ID     WHAT                  WHEN      FROM    LAST RUN         NEXT\n\
            docs   backup /a and 1 more  every 1d  config  T1 STORAGE_FULL  T2 (try 2)\n\
            scrub  scrub                 every 1d  added   -                disabled\n";
        assert_eq!(render(&[task, scrub], Paint(false)), expected);
    }
}
