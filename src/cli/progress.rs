//! How far a job is: a bar on a terminal, one line a minute elsewhere, JSON lines for programs.

use std::io::IsTerminal;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde_json::{Value, json};

use super::output::{Output, count, escape, span};
use crate::api::{JobId, JobInfo, JobKind, PathProblem, Progress};
use crate::base::ByteSize;

/// Between two lines where no terminal shows a bar.
const LINE_EVERY: Duration = Duration::from_secs(60);
/// Between two JSON lines.
const JSON_EVERY: Duration = Duration::from_secs(1);
/// Steps of the bar.
const STEPS: u64 = 1000;

/// Shows progress while a job runs.
pub(super) struct Meter<'a> {
    output: &'a Output,
    id: JobId,
    kind: JobKind,
    way: Way,
    problems_shown: usize,
}

enum Way {
    Silent,
    Bar(ProgressBar),
    Lines {
        next: Instant,
    },
    /// `None` with `--quiet`: problems only.
    Json {
        next: Option<Instant>,
    },
}

impl<'a> Meter<'a> {
    pub fn new(output: &'a Output, id: JobId, kind: JobKind) -> Self {
        let now = Instant::now();
        let way = if output.json {
            // A verification or repair is a report: one document, without lines before it.
            match kind {
                JobKind::Backup | JobKind::Restore | JobKind::Import => {
                    Way::Json { next: (!output.quiet).then_some(now) }
                }
                JobKind::Verify | JobKind::Repair | JobKind::Forget | JobKind::Gc => Way::Silent,
            }
        } else if output.quiet {
            Way::Silent
        } else if std::io::stderr().is_terminal() {
            let bar = ProgressBar::with_draw_target(Some(STEPS), ProgressDrawTarget::stderr_with_hz(4));
            let style = ProgressStyle::with_template("{bar:24} {wide_msg}");
            Way::Bar(bar.with_style(style.expect("the template is valid")))
        } else {
            Way::Lines { next: now + LINE_EVERY }
        };
        Self { output, id, kind, way, problems_shown: 0 }
    }

    /// Shows what is new.
    pub fn update(&mut self, job: &JobInfo) {
        self.show_problems(&job.problems);
        let now = Instant::now();
        match &mut self.way {
            Way::Silent => {}
            Way::Bar(bar) => {
                bar.set_position((job.progress.percent_done.clamp(0.0, 1.0) * STEPS as f64) as u64);
                bar.set_message(line(&job.progress));
            }
            Way::Lines { next } if now >= *next => {
                *next = now + LINE_EVERY;
                self.output.note(&format!("{}: {}", word(self.kind), line(&job.progress)));
            }
            Way::Json { next: Some(next) } if now >= *next => {
                *next = now + JSON_EVERY;
                self.output.document(&status(self.id, &job.progress));
            }
            Way::Lines { .. } | Way::Json { .. } => {}
        }
    }

    fn show_problems(&mut self, problems: &[PathProblem]) {
        for problem in problems.get(self.problems_shown..).unwrap_or_default() {
            let line = format!("{}: {}", escape(&problem.path), escape(&problem.reason));
            match &self.way {
                Way::Json { .. } => self.output.document(&error(self.id, self.kind, problem)),
                Way::Bar(bar) => bar.println(line),
                Way::Silent if self.output.json => {}
                Way::Silent | Way::Lines { .. } => self.output.warn(&line),
            }
        }
        self.problems_shown = self.problems_shown.max(problems.len());
    }

    /// Shows the rest and leaves the terminal clean.
    pub fn finish(mut self, job: &JobInfo) {
        self.show_problems(&job.problems);
        if let Way::Bar(bar) = &self.way {
            bar.finish_and_clear();
        }
        let more = job.progress.error_count.saturating_sub(job.problems.len() as u64);
        if more > 0 && !job.problems.is_empty() {
            self.output.note(&format!("and {} more", count(more, "problem")));
        }
    }
}

pub(super) fn word(kind: JobKind) -> &'static str {
    match kind {
        JobKind::Backup => "backup",
        JobKind::Restore => "restore",
        JobKind::Verify => "verify",
        JobKind::Repair => "repair",
        JobKind::Import => "import",
        JobKind::Forget => "forget",
        JobKind::Gc => "gc",
    }
}

/// `45% reading, 1.2 GiB of 3.4 GiB, 12 of 40 files, 85.0 MiB/s, 26.0s left, 2 errors`.
pub(super) fn line(progress: &Progress) -> String {
    let mut parts = Vec::new();
    let stage = escape(&progress.stage);
    if progress.total_bytes > 0 {
        parts.push(
            format!("{:.0}% {stage}", progress.percent_done.clamp(0.0, 1.0) * 100.0).trim_end().to_owned(),
        );
        parts.push(format!("{} of {}", ByteSize(progress.bytes_done), ByteSize(progress.total_bytes)));
    } else {
        parts.extend((!stage.is_empty()).then(|| stage.into_owned()));
        parts.extend((progress.bytes_done > 0).then(|| ByteSize(progress.bytes_done).to_string()));
    }
    if progress.total_files > 0 {
        parts.push(format!("{} of {}", progress.files_done, count(progress.total_files, "file")));
    } else if progress.files_done > 0 {
        parts.push(count(progress.files_done, "file"));
    }
    if progress.seconds_elapsed >= 1.0 && progress.bytes_done > 0 {
        let rate = progress.bytes_done as f64 / progress.seconds_elapsed;
        parts.push(format!("{}/s", ByteSize(rate as u64)));
        let left = progress.total_bytes.saturating_sub(progress.bytes_done);
        if left > 0 {
            parts.push(format!("{} left", span(left as f64 / rate)));
        }
    }
    if progress.error_count > 0 {
        parts.push(count(progress.error_count, "error"));
    }
    parts.join(", ")
}

fn status(id: JobId, progress: &Progress) -> Value {
    let mut line = serde_json::to_value(progress).expect("progress is plain data");
    line["message_type"] = "status".into();
    line["job_id"] = id.0.into();
    line
}

fn error(id: JobId, kind: JobKind, problem: &PathProblem) -> Value {
    json!({ "message_type": "error", "job_id": id.0, "during": word(kind), "item": problem.path,
        "error": { "message": problem.reason } })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn line_tells_what_is_known() {
        let mut progress = Progress { stage: "walking".into(), files_done: 1, ..Progress::default() };
        assert_eq!(line(&progress), "walking, 1 file");
        progress = Progress {
            seconds_elapsed: 2.0,
            percent_done: 0.25,
            total_files: 40,
            files_done: 10,
            total_bytes: 4 << 20,
            bytes_done: 1 << 20,
            error_count: 2,
            stage: "read\x1bing".into(),
        };
        let shown =
            "25% read\\u{1b}ing, 1.0 MiB of 4.0 MiB, 10 of 40 files, 512.0 KiB/s, 6.0s left, 2 errors";
        assert_eq!(line(&progress), shown);
        assert_eq!(line(&Progress::default()), "");
    }

    #[test]
    fn json_lines_carry_their_type_and_job() {
        let line = status(JobId(3), &Progress { files_done: 2, ..Progress::default() });
        assert_eq!(
            (&line["message_type"], &line["job_id"], &line["files_done"]),
            (&json!("status"), &json!(3), &json!(2))
        );
        let problem = PathProblem { path: "/x".into(), reason: "no".into() };
        let line = error(JobId(3), JobKind::Backup, &problem);
        assert_eq!((&line["message_type"], &line["item"]), (&json!("error"), &json!("/x")));
        assert_eq!(line["error"]["message"], "no");
    }
}
