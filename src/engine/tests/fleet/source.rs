//! What a device backs up: files whose content and records are the model's own, so that a history makes the same bytes in
//! every run. A walk would tell of change times and inode numbers, which no two runs have in common.

use std::collections::BTreeMap;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use crate::engine::tests::fixture::noise;
use crate::fs::{Entries, WalkEvent};
use crate::snapshot::Omissions;
use crate::wire::{self, NodeType};

/// Names of files, and which content each has.
pub(super) type Files = BTreeMap<u8, u8>;

pub(super) fn content(of: u8) -> Vec<u8> {
    noise(u64::from(of), 20_000 * usize::from(of))
}

/// A directory with a few files in it.
pub(super) struct Source {
    dir: PathBuf,
    files: Files,
    /// When each file was changed, in changes.
    changed: BTreeMap<u8, i64>,
    changes: i64,
}

impl Source {
    pub(super) fn new(dir: PathBuf) -> Self {
        Self { dir, files: Files::new(), changed: BTreeMap::new(), changes: 0 }
    }

    pub(super) fn files(&self) -> &Files {
        &self.files
    }

    /// Gives the file that content; none with 0.
    pub(super) fn write(&mut self, name: u8, of: u8) {
        let path = self.dir.join(name.to_string());
        self.changes += 1;
        if of == 0 {
            std::fs::remove_file(path).ok();
            self.files.remove(&name);
        } else {
            std::fs::write(path, content(of)).unwrap();
            self.files.insert(name, of);
            self.changed.insert(name, self.changes);
        }
    }

    /// What a walk of the directory would tell. Where the feeder compares it with the disk, the file is read once more.
    pub(super) fn entries(&self) -> Box<dyn Entries> {
        let (mut events, mut above) = (Vec::new(), Vec::new());
        for path in self.dir.ancestors().collect::<Vec<_>>().into_iter().rev() {
            let changed = if path == self.dir { self.changes } else { 0 };
            let node = node(NodeType::NodeDirectory, name_of(path), changed);
            events.push(WalkEvent::Enter { path: path.to_owned(), node });
            above.push(WalkEvent::Leave { omissions: Omissions::default() });
        }
        for (name, of) in &self.files {
            let path = self.dir.join(name.to_string());
            let file = node(NodeType::NodeFile, name_of(&path), self.changed[name]);
            let (size, inode) = (content(*of).len() as u64, u64::from(*name) + 1);
            events.push(WalkEvent::Entry { path, node: wire::Node { size, inode, ..file } });
        }
        events.extend(above);
        Box::new(Told(events.into_iter()))
    }
}

fn name_of(path: &Path) -> &[u8] {
    path.file_name().map_or(b"", OsStrExt::as_bytes)
}

fn node(kind: NodeType, name: &[u8], changed: i64) -> wire::Node {
    let mode = if kind == NodeType::NodeDirectory { 0o700 } else { 0o600 };
    let time = Some(wire::Time { seconds: 1_600_000_000 + changed, nanos: 0 });
    let (uid, gid) = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
    let name = name.to_vec();
    wire::Node { name, r#type: kind.into(), mode, uid, gid, mtime: time, ctime: time, ..Default::default() }
}

struct Told(std::vec::IntoIter<WalkEvent>);

impl Entries for Told {
    fn advance(&mut self) -> Option<WalkEvent> {
        self.0.next()
    }

    fn complete(&mut self, _: &mut wire::Node) {}
}
