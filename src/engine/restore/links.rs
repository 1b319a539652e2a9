//! Files with several names: written under the first one, linked under the others once that is in place.
//!
//! Bounded whatever a snapshot claims: of at most `limit::RESTORE_LINKS_MAX` files all is known, of others that are in place
//! only where; few keep their directory open, and few names wait.

use std::collections::HashMap;
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::PathBuf;
use std::sync::{Arc, Condvar, Mutex, PoisonError};

use super::making::OpenDir;
use super::tally::{Shared, count};
use crate::base::{Code, limit};
use crate::engine::error::EngineError;
use crate::engine::remembered::Remembered;
use crate::engine::vault::Vault;
use crate::fs::{Outcome, TargetDir};
use crate::wire;

/// Names that wait at one time.
const LATER_MAX: usize = 1024;

/// A name under which a hard-linked file is restored first.
pub(super) struct FirstLink<'a> {
    dir: Way<'a>,
    name: Vec<u8>,
    /// It is there, from this restore or as the snapshot has it, or why it is not; `None` while it is under way.
    there: Mutex<Option<Result<(), Code>>>,
    settled: Condvar,
}

impl FirstLink<'_> {
    /// One that is in place.
    fn in_place(mut path: PathBuf) -> Self {
        let name = path.file_name().unwrap_or_default().as_bytes().to_vec();
        path.pop();
        Self { dir: Way::Path(path), name, there: Mutex::new(Some(Ok(()))), settled: Condvar::new() }
    }

    /// Where it is.
    fn path(&self) -> PathBuf {
        let dir = match &self.dir {
            Way::Open(open) => &open.path,
            Way::Path(path) => path,
        };
        dir.join(OsStr::from_bytes(&self.name))
    }

    /// It is there, or never will be. Only the first word counts.
    pub(super) fn settle(&self, there: Result<(), Code>) {
        self.there.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(there);
        self.settled.notify_all();
    }

    fn is_settled(&self) -> bool {
        self.there.lock().unwrap_or_else(PoisonError::into_inner).is_some()
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
    /// Whether it is a further one is forgotten: it comes back as a file of its own, which is told.
    Lost,
}

/// Files with several names that a walk has met.
pub(super) struct Links<'a> {
    root: Arc<TargetDir>,
    known: HashMap<blake3::Hash, Arc<FirstLink<'a>>>,
    /// First names of other files, which are in place.
    older: Remembered<'a>,
    later: Vec<LaterLink<'a>>,
    /// First names whose directory may be kept open, and how many of those may still be.
    open_most: usize,
    open_left: usize,
    told: bool,
}

impl<'a> Links<'a> {
    /// `handles`: files that this process may have open, if that is limited.
    pub(super) fn new(vault: &'a Vault, root: Arc<TargetDir>, handles: Option<u64>) -> Self {
        let spare = handles.map_or(usize::MAX, |handles| usize::try_from(handles / 8).unwrap_or(usize::MAX));
        let open_most = limit::RESTORE_LINKS_OPEN_MAX.min(spare);
        let (known, older, later) = (HashMap::new(), Remembered::new(vault), Vec::new());
        Self { root, known, older, later, open_most, open_left: open_most, told: false }
    }

    /// Directories that are kept open for links that are still to be made, at most.
    pub(super) fn kept_open(&self) -> usize {
        self.open_most - self.open_left + self.later.len()
    }

    /// Looks an entry up by its file, whose key `key` is, and remembers it if it is the first.
    pub(super) fn meet(
        &mut self,
        key: blake3::Hash,
        dir: &Arc<OpenDir<'a>>,
        node: &wire::Node,
        shared: &Shared<'_>,
    ) -> Met<'a> {
        if let Some(first) = self.known.get(&key) {
            return Met::Further(first.clone());
        }
        match self.look_back(&key) {
            Ok(None) => {}
            Ok(Some(first)) => return Met::Further(Arc::new(first)),
            Err(error) => {
                if !std::mem::replace(&mut self.told, true) {
                    let path = dir.path.join(OsStr::from_bytes(&node.name));
                    shared.failed(&path, &EngineError::LinksLost(Box::new(error)));
                }
                return Met::Lost;
            }
        }
        let way = match self.open_left.checked_sub(1) {
            Some(left) => {
                self.open_left = left;
                Way::Open(dir.clone())
            }
            None => Way::Path(dir.path.clone()),
        };
        let (there, settled) = (Mutex::new(None), Condvar::new());
        let first = Arc::new(FirstLink { dir: way, name: node.name.clone(), there, settled });
        self.known.insert(key, first.clone());
        Met::First(first)
    }

    /// Looks among those that made room for others; makes room for one more.
    fn look_back(&mut self, key: &blake3::Hash) -> Result<Option<FirstLink<'a>>, EngineError> {
        let older = self.older.get(key)?;
        if older.is_none() && self.known.len() >= limit::RESTORE_LINKS_MAX {
            self.make_room()?;
        }
        Ok(older.map(|path| FirstLink::in_place(OsString::from_vec(path).into())))
    }

    /// Those that are in place make room. So do those that failed: the next name of such a file is a first one.
    fn make_room(&mut self) -> Result<(), EngineError> {
        for (key, first) in self.known.extract_if(|_, first| first.is_settled()) {
            if matches!(first.dir, Way::Open(_)) {
                self.open_left += 1;
            }
            if first.outcome().is_ok() {
                self.older.insert(key, first.path().into_os_string().into_vec())?;
            }
        }
        Ok(())
    }

    /// The next name of that file is a first one again.
    pub(super) fn forget(&mut self, key: &blake3::Hash) {
        if self.known.remove(key).is_some_and(|first| matches!(first.dir, Way::Open(_))) {
            self.open_left += 1;
        }
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
