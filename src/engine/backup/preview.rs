//! A backup that is only thought: the walk and the comparison with the parent, and nothing is read or written.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use crossbeam_channel::bounded;

use super::survey::{Change, Event, Survey};
use super::{BackupOptions, EVENTS_MAX, FILES_MAX, files_of, join, path_list, plain, root_cause, walk_of};
use crate::engine::error::EngineError;
use crate::engine::heads::VaultView;
use crate::engine::monitor::Monitor;
use crate::engine::vault::Vault;
use crate::fs::{Ground, Watch};
use crate::wire::{Node, NodeType, SnapshotCounts};

/// What a backup would do with a path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fate {
    /// It is not in the parent.
    New,
    /// It differs from the parent.
    Changed,
    /// It is as in the parent.
    Same,
    /// A rule leaves it out, or with [`Ground::Marker`] its contents.
    LeftOut(Ground),
    /// It cannot be looked at.
    Failed(String),
}

/// What a backup would count.
#[derive(Debug, Clone, Copy)]
pub struct PreviewResult {
    /// As in a snapshot; nothing is added.
    pub counts: SnapshotCounts,
    /// Files of the snapshot before, of the same host and paths; 0 without one.
    pub files_before: u64,
    /// What would be read, in bytes. How much of it is stored already, only reading tells.
    pub bytes_to_read: u64,
}

/// Hears of every path, in walk order; what is left out may come a little early. An error ends the preview.
pub type Listener<'a> = &'a mut dyn FnMut(&Path, Fate) -> Result<(), EngineError>;

/// Tells what [`super::backup`] would do now with the same options. Writes nothing.
///
/// # Errors
/// As a backup's walk.
pub fn preview<'a>(
    vault: &Vault,
    options: &BackupOptions,
    monitor: &'a Monitor,
    listener: Option<Listener<'a>>,
) -> Result<PreviewResult, EngineError> {
    monitor.enter("comparing");
    let options = &plain(vault, options)?;
    let (events_in, events_out) = bounded(EVENTS_MAX);
    let watch = listener.is_some().then(|| {
        let events = events_in.clone();
        let watch: Watch = Box::new(move |path, ground| {
            // When nobody listens any more the walk hears it from its next event.
            let _ = events.send(vec![Event::LeftOut { path: path.to_owned(), ground }]);
        });
        watch
    });
    let walk = walk_of(vault, options, watch)?;
    let view = VaultView::load(vault)?;
    let (paths, _, list) = path_list(vault, options);
    let parent = view.parent_for(&options.hostname, &paths, list);
    let (files_before, parent) = (files_of(parent), parent.map(|parent| parent.tree));
    let (jobs_in, jobs_out) = bounded(FILES_MAX);
    std::thread::scope(|scope| {
        let survey = scope.spawn(move || {
            Survey::new(vault, monitor, options.force).run(walk, parent, &jobs_in, &events_in)
        });
        let counts = SnapshotCounts::default();
        let result = PreviewResult { counts, files_before, bytes_to_read: 0 };
        let mut counter = Counter { monitor, listener, path: Vec::new(), ends: Vec::new(), result };
        let counted = events_out.iter().flatten().try_for_each(|event| {
            if matches!(event, Event::File { .. }) {
                // It follows its event; there is none only when the survey has ended.
                let _ = jobs_out.recv();
            }
            counter.note(event)
        });
        drop((events_out, jobs_out));
        match (counted, join(survey)) {
            (Ok(()), Ok(_)) => Ok(counter.result),
            (counted, surveyed) => Err(root_cause(counted.err().into_iter().chain(surveyed.err()).collect())),
        }
    })
}

/// Counts what the survey tells, and keeps track of where it is.
struct Counter<'a> {
    monitor: &'a Monitor,
    listener: Option<Listener<'a>>,
    path: Vec<u8>,
    /// Length of the path of each directory around.
    ends: Vec<usize>,
    result: PreviewResult,
}

impl Counter<'_> {
    fn note(&mut self, event: Event) -> Result<(), EngineError> {
        self.monitor.go_on()?;
        match event {
            Event::Enter { node, change } => {
                self.result.counts.directories += 1;
                self.result.counts.dirs_new += u64::from(change == Change::New);
                self.ends.push(self.path.len());
                self.go_to(&node);
                self.tell(fate(change))
            }
            Event::Leave { .. } => {
                self.path.truncate(self.ends.pop().unwrap_or(0));
                Ok(())
            }
            Event::Entry { node, change } => self.entry(&node, change),
            Event::File { node, change, .. } => {
                self.result.bytes_to_read += node.size;
                Monitor::add(&self.monitor.bytes_done, node.size);
                self.entry(&node, change)
            }
            Event::Failed { path, reason } => {
                self.result.counts.unreadable += 1;
                self.monitor.problem(&*path, &*reason);
                self.tell_of(Path::new(&path), Fate::Failed(reason))
            }
            Event::LeftOut { path, ground } => self.tell_of(&path, Fate::LeftOut(ground)),
        }
    }

    fn entry(&mut self, node: &Node, change: Change) -> Result<(), EngineError> {
        let counts = &mut self.result.counts;
        if node.r#type() == NodeType::NodeFile {
            counts.files += 1;
            counts.bytes += node.size;
            *match change {
                Change::New => &mut counts.files_new,
                Change::Changed => &mut counts.files_changed,
                Change::Same => &mut counts.files_unmodified,
            } += 1;
            Monitor::add(&self.monitor.files_done, 1);
        } else {
            counts.others += 1;
        }
        let around = self.path.len();
        self.go_to(node);
        let told = self.tell(fate(change));
        self.path.truncate(around);
        told
    }

    fn go_to(&mut self, node: &Node) {
        if !self.path.ends_with(b"/") {
            self.path.push(b'/');
        }
        self.path.extend_from_slice(&node.name);
    }

    fn tell(&mut self, fate: Fate) -> Result<(), EngineError> {
        match &mut self.listener {
            Some(listener) => listener(Path::new(OsStr::from_bytes(&self.path)), fate),
            None => Ok(()),
        }
    }

    fn tell_of(&mut self, path: &Path, fate: Fate) -> Result<(), EngineError> {
        self.listener.as_mut().map_or(Ok(()), |listener| listener(path, fate))
    }
}

fn fate(change: Change) -> Fate {
    match change {
        Change::New => Fate::New,
        Change::Changed => Fate::Changed,
        Change::Same => Fate::Same,
    }
}
