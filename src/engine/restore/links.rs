//! Files with several names: written under the first one, linked under the others once that is in place.
//!
//! Bounded whatever a snapshot claims: at most `limit::RESTORE_LINKS_MAX` files are remembered, those whose names were
//! all met make room for others, few keep their directory open, and few names wait.

use std::collections::{HashMap, VecDeque};
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::sync::{Arc, Condvar, Mutex, PoisonError};

use prost::Message;

use super::making::OpenDir;
use super::tally::{Shared, count};
use crate::base::{Code, limit};
use crate::engine::error::EngineError;
use crate::fs::{Outcome, TargetDir};
use crate::wire;

/// Names that wait at one time.
const LATER_MAX: usize = 1024;

/// A name under which a hard-linked file is restored first.
pub(super) struct FirstLink<'a> {
    dir: Way<'a>,
    name: Vec<u8>,
    /// Of what the file holds: another file's snapshot may name the same inode (numbers are used again).
    content: blake3::Hash,
    /// It is there, from this restore or as the snapshot has it, or why it is not; `None` while it is under way.
    there: Mutex<Option<Result<(), Code>>>,
    settled: Condvar,
}

impl FirstLink<'_> {
    /// It is there, or never will be. Only the first word counts.
    pub(super) fn settle(&self, there: Result<(), Code>) {
        self.there.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(there);
        self.settled.notify_all();
    }

    /// Waits until its last job is done.
    fn outcome(&self) -> Result<(), Code> {
        let there = self.there.lock().unwrap_or_else(PoisonError::into_inner);
        let there = self.settled.wait_while(there, |there| there.is_none());
        there.unwrap_or_else(PoisonError::into_inner).unwrap_or(Err(Code::Internal))
    }
}

/// How to come to a first name's directory again.
enum Way<'a> {
    Open(Arc<OpenDir<'a>>),
    /// From the target, without following anything.
    Path(PathBuf),
}

/// A further name of a file.
struct LaterLink<'a> {
    first: Arc<FirstLink<'a>>,
    dir: Arc<OpenDir<'a>>,
    node: wire::Node,
    path: PathBuf,
}

/// What an entry of a file with several names is.
pub(super) enum Met<'a> {
    /// The first name.
    First(Arc<FirstLink<'a>>),
    /// One more.
    Further(Arc<FirstLink<'a>>),
    /// It is not remembered: it comes back as a file of its own.
    TooMany,
}

/// Files with several names that a walk has met.
pub(super) struct Links<'a> {
    root: Arc<TargetDir>,
    /// By (device, inode), with the number of names still to come.
    known: HashMap<(u64, u64), (Arc<FirstLink<'a>>, u64)>,
    /// Of which no name is to come any more, as far as the snapshot tells.
    spent: VecDeque<(u64, u64)>,
    later: Vec<LaterLink<'a>>,
    /// First names whose directory may be kept open, and how many of those may still be.
    open_most: usize,
    open_left: usize,
    told: bool,
}

impl<'a> Links<'a> {
    /// `handles`: files that this process may have open, if that is limited.
    pub(super) fn new(root: Arc<TargetDir>, handles: Option<u64>) -> Self {
        let spare = handles.map_or(usize::MAX, |handles| usize::try_from(handles / 8).unwrap_or(usize::MAX));
        let open_most = limit::RESTORE_LINKS_OPEN_MAX.min(spare);
        let (known, spent, later) = (HashMap::new(), VecDeque::new(), Vec::new());
        Self { root, known, spent, later, open_most, open_left: open_most, told: false }
    }

    /// Directories that are kept open for links that are still to be made, at most.
    pub(super) fn kept_open(&self) -> usize {
        self.open_most - self.open_left + self.later.len()
    }

    /// Looks an entry up by its file, and remembers it if it is the first.
    pub(super) fn meet(&mut self, dir: &Arc<OpenDir<'a>>, node: &wire::Node, shared: &Shared<'_>) -> Met<'a> {
        let (key, content) = ((node.device, node.inode), content_hash(node));
        if let Some((first, left)) = self.known.get_mut(&key).filter(|(first, _)| first.content == content) {
            *left = left.saturating_sub(1);
            if *left == 0 {
                self.spent.push_back(key);
            }
            return Met::Further(first.clone());
        }
        if !self.has_room() && !self.known.contains_key(&key) {
            if !std::mem::replace(&mut self.told, true) {
                let path = dir.path.join(OsStr::from_bytes(&node.name));
                let what = "this and further hard-linked files come back as files of their own: too many to remember";
                shared.monitor.problem(path.to_string_lossy(), what);
            }
            return Met::TooMany;
        }
        let way = match self.open_left.checked_sub(1) {
            Some(left) => {
                self.open_left = left;
                Way::Open(dir.clone())
            }
            None => Way::Path(dir.path.clone()),
        };
        let (there, settled) = (Mutex::new(None), Condvar::new());
        let first = Arc::new(FirstLink { dir: way, name: node.name.clone(), content, there, settled });
        self.known.insert(key, (first.clone(), node.links - 1));
        Met::First(first)
    }

    fn has_room(&mut self) -> bool {
        while self.known.len() >= limit::RESTORE_LINKS_MAX {
            let Some(key) = self.spent.pop_front() else { return false };
            // Its number may belong to another file by now.
            if self.known.get(&key).is_some_and(|(_, left)| *left == 0) {
                self.known.remove(&key);
            }
        }
        true
    }

    /// The next name of that file is a first one again.
    pub(super) fn forget(&mut self, key: (u64, u64)) {
        self.known.remove(&key);
    }

    /// Has a further name made later; now, if many wait.
    pub(super) fn add(
        &mut self,
        first: Arc<FirstLink<'a>>,
        dir: Arc<OpenDir<'a>>,
        node: wire::Node,
        path: PathBuf,
        shared: &Shared<'_>,
    ) -> Result<(), EngineError> {
        self.later.push(LaterLink { first, dir, node, path });
        if self.later.len() < LATER_MAX {
            return Ok(());
        }
        let later = std::mem::take(&mut self.later);
        make(&self.root, later, shared)
    }

    /// Makes the names that are left.
    pub(super) fn make_all(self, shared: &Shared<'_>) -> Result<(), EngineError> {
        make(&self.root, self.later, shared)
    }
}

fn make(root: &Arc<TargetDir>, later: Vec<LaterLink<'_>>, shared: &Shared<'_>) -> Result<(), EngineError> {
    for LaterLink { first, dir, node, path } in later {
        shared.go_on()?;
        if let Err(code) = first.outcome() {
            shared.failed(&path, &EngineError::FirstNameFailed(code));
            continue;
        }
        let there = match &first.dir {
            Way::Open(open) => Ok(open.dir.clone()),
            Way::Path(path) => root.reopen(path),
        };
        match there.and_then(|there| dir.dir.hard_link(&node.name, (&there, &first.name))) {
            Ok(Outcome::Made) => {
                count(&shared.tally.others);
                shared.progressed(&node);
            }
            Ok(Outcome::Skipped(_)) => shared.skipped(&path, &node),
            Err(error) => shared.settle(&path, error),
        }
    }
    Ok(())
}

/// What two names of one file have in common.
pub(in crate::engine) fn content_hash(node: &wire::Node) -> blake3::Hash {
    let content = wire::Node {
        r#type: node.r#type,
        size: node.size,
        target: node.target.clone(),
        rdev: node.rdev,
        content: node.content.clone(),
        content_lists: node.content_lists.clone(),
        ..Default::default()
    };
    blake3::hash(&content.encode_to_vec())
}
