//! Files with several names: written under the first one, linked under the others once that is in place.
//!
//! Bounded whatever a snapshot claims: a file is forgotten when all its names were met, at most
//! `limit::RESTORE_LINKS_MAX` are remembered (each keeps a directory open), and few names wait.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::{Arc, Condvar, Mutex, PoisonError};

use prost::Message;

use super::making::OpenDir;
use super::tally::{Shared, count};
use crate::base::limit;
use crate::engine::error::EngineError;
use crate::fs::Outcome;
use crate::wire;

/// Names that wait at one time.
const LATER_MAX: usize = 1024;

/// A name under which a hard-linked file is restored first.
pub(super) struct FirstLink<'a> {
    dir: Arc<OpenDir<'a>>,
    name: Vec<u8>,
    /// Of what the file holds: another file's snapshot may name the same inode (numbers are used again).
    content: blake3::Hash,
    /// Whether it is there, from this restore or as the snapshot has it; `None` while it is under way.
    there: Mutex<Option<bool>>,
    settled: Condvar,
}

impl FirstLink<'_> {
    /// It is there, or never will be. Only the first word counts.
    pub(super) fn settle(&self, there: bool) {
        self.there.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(there);
        self.settled.notify_all();
    }

    /// Waits until its last job is done.
    fn is_there(&self) -> bool {
        let there = self.there.lock().unwrap_or_else(PoisonError::into_inner);
        let there = self.settled.wait_while(there, |there| there.is_none());
        there.unwrap_or_else(PoisonError::into_inner).unwrap_or(false)
    }
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
    /// By (device, inode), with the names still to come.
    known: HashMap<(u64, u64), (Arc<FirstLink<'a>>, u64)>,
    later: Vec<LaterLink<'a>>,
    known_max: usize,
}

impl<'a> Links<'a> {
    /// `handles`: files that this process may have open, if that is limited.
    pub(super) fn new(handles: Option<u64>) -> Self {
        let spare = handles.map_or(usize::MAX, |handles| usize::try_from(handles / 4).unwrap_or(usize::MAX));
        Self { known: HashMap::new(), later: Vec::new(), known_max: limit::RESTORE_LINKS_MAX.min(spare) }
    }

    /// Looks an entry up by its file, and remembers it if it is the first.
    pub(super) fn meet(&mut self, dir: &Arc<OpenDir<'a>>, node: &wire::Node) -> Met<'a> {
        let (key, content) = ((node.device, node.inode), content_hash(node));
        if let Some((first, left)) = self.known.get_mut(&key).filter(|(first, _)| first.content == content) {
            let first = first.clone();
            *left = left.saturating_sub(1);
            if *left == 0 {
                self.known.remove(&key);
            }
            return Met::Further(first);
        }
        if self.known.len() >= self.known_max && !self.known.contains_key(&key) {
            return Met::TooMany;
        }
        let first = Arc::new(FirstLink {
            dir: dir.clone(),
            name: node.name.clone(),
            content,
            there: Mutex::new(None),
            settled: Condvar::new(),
        });
        self.known.insert(key, (first.clone(), node.links - 1));
        Met::First(first)
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
        if self.later.len() < LATER_MAX { Ok(()) } else { make(std::mem::take(&mut self.later), shared) }
    }

    /// Makes the names that are left.
    pub(super) fn make_all(self, shared: &Shared<'_>) -> Result<(), EngineError> {
        make(self.later, shared)
    }
}

fn make(later: Vec<LaterLink<'_>>, shared: &Shared<'_>) -> Result<(), EngineError> {
    for LaterLink { first, dir, node, path } in later {
        shared.go_on()?;
        if !first.is_there() {
            shared.failed(&path, &EngineError::RecordMissing("another name".to_owned()));
            continue;
        }
        match dir.dir.hard_link(&node.name, (&first.dir.dir, &first.name)) {
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
fn content_hash(node: &wire::Node) -> blake3::Hash {
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
