//! Backup sets: what is backed up together, when, and what runs around it.

use serde_json::json;
use std::path::PathBuf;
use std::time::Duration;

use super::key::{Allowed, Shape, Wrong};
use super::kind::{Absolute, Filled, Kind, Number, Scalar, Size, Span, Switch, wrong};
use super::list::{List, each};
use super::mistake::{Fault, nearest};
use super::node::{Node, Value};
use crate::base::{limit, tag_fault};
use crate::policy::CronLine;

/// What is backed up together.
#[derive(Clone, PartialEq, Debug)]
pub struct BackupSet {
    /// Its name, unique among the sets.
    pub id: String,
    /// Absolute paths; at least one.
    pub paths: Vec<PathBuf>,
    /// Gitignore patterns.
    pub exclude: Vec<String>,
    /// Files that mark directories whose contents are left out: `NAME` or `NAME:HEADER`.
    pub exclude_if_present: Vec<String>,
    /// Leave out the contents of directories that are tagged as caches.
    pub exclude_caches: bool,
    /// Leave out files of more bytes than this.
    pub exclude_larger_than: Option<u64>,
    /// Do not cross into other file systems.
    pub one_file_system: bool,
    /// A backup with fewer files is incomplete.
    pub min_files: u64,
    /// Much fewer files than before are well.
    pub allow_shrink: bool,
    /// Tags that its snapshots carry.
    pub tags: Vec<String>,
    /// When it runs.
    pub when: When,
    /// Commands around it.
    pub hooks: Hooks,
}

/// When a backup set runs.
#[derive(Clone, PartialEq, Debug)]
pub enum When {
    /// This long after it last began.
    Every(Duration),
    /// By a cron expression of five fields, in local time.
    Cron(Box<CronLine>),
}

/// Commands as argument lists; empty means none.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Hooks {
    /// Before the backup; its failure stops the backup.
    pub before: Vec<String>,
    /// After the backup, however it ended.
    pub after: Vec<String>,
    /// After a backup that worked.
    pub success: Vec<String>,
    /// After a backup that failed.
    pub failure: Vec<String>,
}

/// `backup_sets`.
pub(super) struct Sets;

impl Kind for Sets {
    type Value = Vec<BackupSet>;
    const SHAPE: Shape = Shape::Sets;

    fn read(node: &Node, _: Allowed) -> Result<Vec<BackupSet>, Vec<Wrong>> {
        let Value::List(items) = &node.value else {
            return Err(vec![wrong(node, "a list of backup sets".to_owned())]);
        };
        let sets = each(items, read_set)?;
        let twice =
            sets.iter().enumerate().find(|(i, set)| sets[..*i].iter().any(|before| before.id == set.id));
        match twice {
            None => Ok(sets),
            Some((i, set)) => {
                let rule = "every backup set has an id of its own".to_owned();
                let fault = Fault::Conflict { found: format!("{:?}", set.id), rule };
                Err(vec![Wrong { below: format!("[{}].id", i + 1), mark: items[i].mark, fault }])
            }
        }
    }

    fn show(sets: &Vec<BackupSet>) -> String {
        let shown: Vec<_> = sets.iter().map(show_set).collect();
        serde_json::Value::from(shown).to_string()
    }
}

fn show_set(set: &BackupSet) -> serde_json::Value {
    let mut shown = json!({ "id": set.id, "paths": set.paths, "exclude": set.exclude, "tags": set.tags,
        "hooks": { "before": set.hooks.before, "after": set.hooks.after,
                   "success": set.hooks.success, "failure": set.hooks.failure } });
    if !set.exclude_if_present.is_empty() {
        shown["exclude_if_present"] = json!(set.exclude_if_present);
    }
    if let Some(bytes) = set.exclude_larger_than {
        shown["exclude_larger_than"] = Size::print(&bytes).into();
    }
    let switches = [
        ("exclude_caches", set.exclude_caches),
        ("one_file_system", set.one_file_system),
        ("allow_shrink", set.allow_shrink),
    ];
    for (name, on) in switches {
        if on {
            shown[name] = true.into();
        }
    }
    if set.min_files > 0 {
        shown["min_files"] = set.min_files.into();
    }
    match &set.when {
        When::Every(span) => shown["every"] = Span::print(span).into(),
        When::Cron(line) => shown["cron"] = line.to_string().into(),
    }
    shown
}

const SET_FIELDS: [&str; 13] = [
    "id",
    "paths",
    "exclude",
    "exclude_if_present",
    "exclude_caches",
    "exclude_larger_than",
    "one_file_system",
    "min_files",
    "allow_shrink",
    "tags",
    "every",
    "cron",
    "hooks",
];

fn read_set(node: &Node) -> Result<BackupSet, Vec<Wrong>> {
    let mut fields = Fields::of(node, &SET_FIELDS)?;
    let id = fields.required::<SetId>("id");
    let paths = fields.required::<List<Absolute>>("paths");
    let exclude = fields.optional::<List<Filled>>("exclude");
    let exclude_if_present = fields.optional::<List<Marker>>("exclude_if_present");
    let exclude_caches = fields.optional::<Switch>("exclude_caches");
    let exclude_larger_than = fields.optional::<Size>("exclude_larger_than");
    let one_file_system = fields.optional::<Switch>("one_file_system");
    let min_files = fields.optional::<Number<u64>>("min_files");
    let allow_shrink = fields.optional::<Switch>("allow_shrink");
    let tags = fields.optional::<List<Tag>>("tags");
    let given = [fields.take("every").is_some(), fields.take("cron").is_some()];
    let every = fields.optional::<Every>("every").map(When::Every);
    let when = every.or(fields.optional::<Cron>("cron").map(|line| When::Cron(Box::new(line))));
    let hooks = fields.take("hooks").map(|node| fields.keep("hooks", read_hooks(node)));
    match given {
        [true, true] => fields.refuse("", node, "every and cron", "one of them, not both"),
        [false, false] => fields.refuse("", node, "neither every nor cron", "one of them"),
        _ => {}
    }
    if paths.as_ref().is_some_and(Vec::is_empty) {
        fields.refuse(".paths", node, "an empty list", "at least one path");
    }
    match (id, paths, when, fields.mistakes.is_empty()) {
        (Some(id), Some(paths), Some(when), true) => Ok(BackupSet {
            id,
            paths,
            exclude: exclude.unwrap_or_default(),
            exclude_if_present: exclude_if_present.unwrap_or_default(),
            exclude_caches: exclude_caches.unwrap_or_default(),
            exclude_larger_than,
            one_file_system: one_file_system.unwrap_or_default(),
            min_files: min_files.unwrap_or_default(),
            allow_shrink: allow_shrink.unwrap_or_default(),
            tags: tags.unwrap_or_default(),
            when,
            hooks: hooks.flatten().unwrap_or_default(),
        }),
        _ => Err(fields.mistakes),
    }
}

fn read_hooks(node: &Node) -> Result<Hooks, Vec<Wrong>> {
    let mut fields = Fields::of(node, &["before", "after", "success", "failure"])?;
    let mut list = |name| fields.optional::<List<Filled>>(name).unwrap_or_default();
    let hooks = Hooks {
        before: list("before"),
        after: list("after"),
        success: list("success"),
        failure: list("failure"),
    };
    if fields.mistakes.is_empty() { Ok(hooks) } else { Err(fields.mistakes) }
}

/// A set's name: a task goes by it as well.
struct SetId;

impl Scalar for SetId {
    type Value = String;
    const SHAPE: Shape = Shape::Text;
    fn expected() -> String {
        "a name of letters, digits, - _ and ., at most 64; not auto, scrub, forget or gc".to_owned()
    }
    fn parse(text: &str) -> Option<String> {
        let sound = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
        let named = (1..=limit::SCHEDULE_ID_BYTES_MAX).contains(&text.len()) && text.chars().all(sound);
        (named && !["auto", "scrub", "forget", "gc"].contains(&text)).then(|| text.to_owned())
    }
    fn print(value: &String) -> String {
        super::kind::quoted(value)
    }
}

/// A label of snapshots.
struct Tag;

impl Scalar for Tag {
    type Value = String;
    const SHAPE: Shape = Shape::Text;
    fn expected() -> String {
        "a word of at most 255 bytes, without commas".to_owned()
    }
    fn parse(text: &str) -> Option<String> {
        tag_fault(text).is_none().then(|| text.to_owned())
    }
    fn print(value: &String) -> String {
        super::kind::quoted(value)
    }
}

/// The name of a file that marks a directory, with what it begins with.
struct Marker;

impl Scalar for Marker {
    type Value = String;
    const SHAPE: Shape = Shape::Text;
    fn expected() -> String {
        "NAME or NAME:HEADER (such as .nobackup)".to_owned()
    }
    fn parse(text: &str) -> Option<String> {
        let name = text.split(':').next().unwrap_or_default();
        (!name.is_empty() && !name.contains('/') && ![".", ".."].contains(&name)).then(|| text.to_owned())
    }
    fn print(value: &String) -> String {
        super::kind::quoted(value)
    }
}

/// A span that is long enough to be a rhythm.
struct Every;

impl Scalar for Every {
    type Value = Duration;
    const SHAPE: Shape = Shape::Duration;
    fn expected() -> String {
        "a duration of at least 1m".to_owned()
    }
    fn parse(text: &str) -> Option<Duration> {
        Span::parse(text).filter(|span| *span >= Duration::from_secs(60))
    }
    fn print(value: &Duration) -> String {
        Span::print(value)
    }
}

/// A cron line that fires at some time.
struct Cron;

impl Scalar for Cron {
    type Value = CronLine;
    const SHAPE: Shape = Shape::Text;
    fn expected() -> String {
        "a cron expression of five fields that fires at some time (such as \"30 2 * * *\")".to_owned()
    }
    fn parse(text: &str) -> Option<CronLine> {
        CronLine::parse(text).ok()
    }
    fn print(value: &CronLine) -> String {
        super::kind::quoted(&value.to_string())
    }
}

/// The entries of a mapping, and all mistakes met in it so far.
struct Fields<'a> {
    node: &'a Node,
    entries: Vec<(&'a str, &'a Node)>,
    mistakes: Vec<Wrong>,
}

impl<'a> Fields<'a> {
    fn of(node: &'a Node, names: &[&'static str]) -> Result<Self, Vec<Wrong>> {
        let Value::Map(entries) = &node.value else {
            return Err(vec![wrong(node, format!("a mapping of {}", names.join(", ")))]);
        };
        let mut fields = Self { node, entries: Vec::new(), mistakes: Vec::new() };
        for (name, value) in entries {
            let fault = if !names.contains(&name.text.as_str()) {
                Fault::Unknown { near: nearest(&name.text, names.iter().copied()).map(str::to_owned) }
            } else if let Some((first, _)) = entries.iter().find(|(n, _)| n.text == name.text && n != name) {
                Fault::Twice { first_line: first.mark.line }
            } else {
                fields.entries.push((&name.text, value));
                continue;
            };
            fields.mistakes.push(Wrong { below: format!(".{}", name.text), mark: name.mark, fault });
        }
        Ok(fields)
    }

    fn take(&self, name: &str) -> Option<&'a Node> {
        self.entries.iter().find(|(n, v)| *n == name && v.value != Value::Null).map(|(_, value)| *value)
    }

    fn optional<K: Kind>(&mut self, name: &str) -> Option<K::Value> {
        let node = self.take(name)?;
        self.keep(name, K::read(node, Allowed::Any))
    }

    fn required<K: Kind>(&mut self, name: &str) -> Option<K::Value> {
        if self.take(name).is_none() {
            let fault = Fault::Absent { expected: format!("{name} in every backup set") };
            self.mistakes.push(Wrong { below: format!(".{name}"), mark: self.node.mark, fault });
        }
        self.optional::<K>(name)
    }

    fn keep<T>(&mut self, name: &str, read: Result<T, Vec<Wrong>>) -> Option<T> {
        read.map_err(|found| {
            self.mistakes
                .extend(found.into_iter().map(|w| Wrong { below: format!(".{name}{}", w.below), ..w }));
        })
        .ok()
    }

    fn refuse(&mut self, below: &str, node: &Node, found: &str, expected: &str) {
        let fault = Fault::Wrong { found: found.to_owned(), expected: expected.to_owned() };
        self.mistakes.push(Wrong { below: below.to_owned(), mark: node.mark, fault });
    }
}
