//! Recurring tasks.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// A task that `schedule add` makes.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct AddSchedule {
    /// Its name, unique among the tasks.
    pub id: String,
    /// What it backs up: absolute paths. None when it verifies.
    pub paths: Vec<PathBuf>,
    /// It verifies everything instead.
    pub verify: bool,
    /// Milliseconds between two runs.
    pub every_ms: Option<u64>,
    /// A cron line of five fields, in local time.
    pub cron: Option<String>,
    /// Tries after one that failed; what the configuration says when absent.
    pub retries: Option<u32>,
}

/// What can be changed about a task.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct EditSchedule {
    /// Whether it runs by itself.
    pub enabled: Option<bool>,
}

/// Where a task comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ScheduleSource {
    /// The configuration.
    Config,
    /// `schedule add`.
    Added,
}

/// A task as anyone may see it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ScheduleInfo {
    /// Its name.
    pub id: String,
    /// `backup`, `verify` or `scrub`.
    pub kind: String,
    /// What it backs up.
    pub paths: Vec<String>,
    /// `every 1d`, or a cron line.
    pub rhythm: String,
    /// Whether it runs by itself.
    pub enabled: bool,
    /// Where it comes from.
    pub source: ScheduleSource,
    /// At work now.
    pub running: bool,
    /// When it runs next, RFC 3339; absent when disabled or at work.
    pub next: Option<String>,
    /// Failed tries so far of the run that is being tried again.
    pub tries: u32,
    /// How it last ended.
    pub last: Option<LastRun>,
}

/// How a task last ended.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct LastRun {
    /// When it began, RFC 3339.
    pub began: String,
    /// When it ended, RFC 3339.
    pub ended: String,
    /// Whether it reached everything.
    pub success: bool,
    /// The code of what kept it from that.
    pub code: Option<String>,
    /// The same for people.
    pub message: Option<String>,
    /// The snapshot that it made.
    pub snapshot: Option<String>,
}
