//! The one publish path: write to `tmp/`, fdatasync, rename, fsync the directory.

use std::fs::{File, OpenOptions};
use std::io::{self, Read};
use std::os::fd::AsFd;
use std::os::unix::fs::{DirBuilderExt, FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use super::error::StoreError;
use super::health::{Failure, Health};
use super::reserve::Reserve;
use super::states::COPIES;
use super::trace::Trace;
use crate::base::{Moment, limit, random_bytes};

/// Everything a store has beside the index. Packs are spread over up to 256 directories by their first byte, made as they come.
const DIRECTORIES: [&str; 10] = [
    "packs",
    "heads",
    "lists",
    "snapshots",
    "members",
    "members/receipts",
    COPIES,
    "keys",
    "quarantine",
    "tmp",
];

/// Files that are written together before they are flushed; each is open until then.
const FILES_AT_ONCE: usize = 32;

pub(super) struct Files {
    health: Arc<Health>,
    /// Where small files take space on a full disk; not while the store is being made or opened.
    reserve: Option<Arc<Reserve>>,
    trace: Trace,
}

/// A file that is being written in `tmp/`. Dropped, it leaves nothing.
pub(super) struct Draft {
    pub(super) file: File,
    path: PathBuf,
    trace: Trace,
}

impl Draft {
    /// Writes at `offset`.
    pub(super) fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        self.trace.write(&self.path, offset, bytes);
        self.file.write_all_at(bytes, offset)
    }

    /// It has another name now.
    fn placed(mut self) {
        self.path = PathBuf::new();
    }
}

impl Drop for Draft {
    fn drop(&mut self) {
        if !self.path.as_os_str().is_empty() {
            // What cannot be deleted now is cleared at the next start.
            self.trace.remove(&self.path);
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

/// Whether a disk, or what a user may take of it, is used up.
fn is_full(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}

/// A file without a name in the system's directory for such, readable for nobody else.
pub(super) fn temporary() -> Result<File, StoreError> {
    nameless(&std::env::temp_dir())
}

/// A file without a name, readable for nobody else.
fn nameless(dir: &Path) -> Result<File, StoreError> {
    use rustix::fs::{Mode, OFlags};
    let made =
        rustix::fs::open(dir, OFlags::TMPFILE | OFlags::RDWR | OFlags::CLOEXEC, Mode::from_raw_mode(0o600));
    if let Ok(file) = made {
        return Ok(file.into());
    }
    // Not every file system can make one without a name.
    let failed =
        |source| StoreError::Io { doing: format!("making a file in {}", dir.display()).into(), source };
    let path = dir.join(format!("shadowvault-{}", hex::encode(random_bytes::<16>())));
    let mut options = OpenOptions::new();
    let file = options.read(true).write(true).create_new(true).mode(0o600).open(&path).map_err(failed)?;
    std::fs::remove_file(&path).map_err(failed)?;
    Ok(file)
}

/// What root makes in another user's store belongs to that user: the daemon that runs as him could not read it. Where that cannot
/// be had, as on some network file systems, it stays as it is.
pub(super) fn hand_over(root: &Path, made: impl AsFd) {
    if !rustix::process::geteuid().is_root() {
        return;
    }
    if let Ok(owner) = std::fs::metadata(root)
        && owner.uid() != 0
    {
        let (user, group) = (rustix::fs::Uid::from_raw(owner.uid()), rustix::fs::Gid::from_raw(owner.gid()));
        let _ = rustix::fs::fchown(made, Some(user), Some(group));
    }
}

fn make_dir(path: &Path) -> Result<(), StoreError> {
    let made = std::fs::DirBuilder::new().recursive(true).mode(0o700).create(path);
    made.map_err(|e| match is_full(&e) {
        true => StoreError::Full("making directories"),
        false => StoreError::Unavailable { path: path.to_owned(), source: e },
    })
}

impl Files {
    /// Makes the place of a new store in `root`: enough for its first file. Refuses what others put there, unless it was begun
    /// before, which the file `begun` says.
    pub(super) fn prepare(root: &Path, begun: &str) -> Result<Self, StoreError> {
        make_dir(root)?;
        let own = ["lock", "index.redb", "config.yaml", "control.sock"];
        let foreign = std::fs::read_dir(root)
            .map_err(|e| StoreError::Unavailable { path: root.to_owned(), source: e })?
            .filter_map(Result::ok)
            .any(|entry| {
                let name = entry.file_name();
                let name = name.to_string_lossy();
                !own.contains(&name.as_ref()) && !DIRECTORIES.contains(&name.as_ref()) && name != "lost+found"
            });
        if foreign && !root.join(begun).exists() {
            return Err(StoreError::Foreign(root.to_owned()));
        }
        let files = Self::at(root);
        make_dir(&root.join("tmp"))?;
        if let Some(parent) = root.parent().filter(|parent| !parent.as_os_str().is_empty()) {
            files.sync_dir(parent)?;
        }
        Ok(files)
    }

    /// Makes the directories of a new store, and clears what an earlier try left.
    pub(super) fn furnish(&self) -> Result<(), StoreError> {
        for name in DIRECTORIES {
            make_dir(&self.root().join(name))?;
        }
        for name in ["members", ""] {
            self.sync_dir(&self.root().join(name))?;
        }
        self.clear_tmp()
    }

    /// Opens a store's directories and clears what a crash left in `tmp/`.
    pub(super) fn open(root: &Path) -> Result<Self, StoreError> {
        let files = Self::at(root);
        for name in DIRECTORIES {
            // A directory that went missing is made again: its files, if any were lost, are found by verify.
            make_dir(&root.join(name))?;
        }
        files.clear_tmp()?;
        Ok(files)
    }

    /// Opens a store's directories for reading alone.
    pub(super) fn open_read_only(root: &Path) -> Self {
        Self { health: Arc::new(Health::of_read_only(root)), ..Self::at(root) }
    }

    fn clear_tmp(&self) -> Result<(), StoreError> {
        let unavailable = |source| StoreError::Unavailable { path: self.root().to_owned(), source };
        for entry in std::fs::read_dir(self.root().join("tmp")).map_err(unavailable)? {
            let entry = entry.map_err(unavailable)?;
            let is_dir = entry.file_type().is_ok_and(|kind| kind.is_dir());
            let path = entry.path();
            let cleared = if is_dir { std::fs::remove_dir_all(path) } else { std::fs::remove_file(path) };
            if let Err(error) = cleared {
                // Whatever somebody put there, it keeps nobody from their data.
                tracing::warn!(target: "store", %error, "something in tmp/ could not be removed");
            }
        }
        Ok(())
    }

    fn at(root: &Path) -> Self {
        Self { health: Arc::new(Health::of(root)), reserve: None, trace: Trace::current() }
    }

    /// From now on small files find room on a full disk.
    pub(super) fn draw_on(&mut self, reserve: &Arc<Reserve>) {
        self.reserve = Some(reserve.clone());
    }

    /// Sorts the error of a write, and notes one for want of space.
    pub(super) fn refused(&self, doing: &'static str, error: io::Error) -> StoreError {
        if let (true, Some(reserve)) = (is_full(&error), &self.reserve) {
            reserve.note_refusal();
        }
        StoreError::io(doing, error)
    }

    pub(super) fn root(&self) -> &Path {
        self.health.root()
    }

    /// Shared with whatever else writes to the store.
    pub(super) fn health(&self) -> &Arc<Health> {
        &self.health
    }

    pub(super) fn path(&self, dir: &str, name: &str) -> PathBuf {
        if dir.is_empty() { self.root().join(name) } else { self.root().join(dir).join(name) }
    }

    /// Turns the error of looking for a file into `None` when the file is not there, and that of a store whose directory is
    /// not there into [`StoreError::Unavailable`].
    pub(super) fn found<T>(
        &self,
        doing: &'static str,
        looked: io::Result<T>,
    ) -> Result<Option<T>, StoreError> {
        match looked {
            Ok(value) => Ok(Some(value)),
            Err(e) if e.kind() == io::ErrorKind::NotFound => self.health.here().map(|()| None),
            Err(e) => Err(StoreError::io(doing, e)),
        }
    }

    /// The same of one file, which the error names; where it may not be read, with its owner.
    fn found_at<T>(
        &self,
        doing: &'static str,
        path: &Path,
        looked: io::Result<T>,
    ) -> Result<Option<T>, StoreError> {
        self.found(doing, looked).map_err(|error| match error {
            StoreError::Io { source, .. } => {
                let owner = std::fs::metadata(path).ok().map(|file| file.uid());
                let whose = owner
                    .filter(|_| source.kind() == io::ErrorKind::PermissionDenied)
                    .map_or(String::new(), |uid| format!(", which belongs to user {uid}"));
                StoreError::Io { doing: format!("{doing} {}{whose}", path.display()).into(), source }
            }
            other => other,
        })
    }

    /// Remembers a failed flush for good: after it the kernel may have dropped dirty pages, so nothing is certain.
    pub(super) fn poison(&self, doing: &'static str, error: io::Error) -> StoreError {
        self.health.fail(Failure::Write);
        StoreError::io(doing, error)
    }

    /// Flushes the names in a directory that have changed already: whoever cannot even open it does not know what of them
    /// is durable.
    pub(super) fn sync_dir(&self, dir: &Path) -> Result<(), StoreError> {
        self.trace.sync_dir(dir);
        let flushed = File::open(dir).and_then(|dir| dir.sync_all());
        flushed.map_err(|e| self.poison("flushing a directory", e))
    }

    /// Changes names in a directory and flushes it. It is opened before, so that for want of a handle nothing is changed.
    fn change_names<T>(
        &self,
        dir: &str,
        change: impl FnOnce() -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        let path = if dir.is_empty() { self.root().to_owned() } else { self.root().join(dir) };
        let Some(handle) = self.found("opening a directory to flush it", File::open(&path))? else {
            // There is nothing in it to change, and putting something there fails by itself.
            return change();
        };
        let value = change()?;
        self.trace.sync_dir(&path);
        handle.sync_all().map_err(|e| self.poison("flushing a directory", e))?;
        Ok(value)
    }

    /// Durably puts the file `dir/name` in place, atomically replacing what was there; mode 0600.
    ///
    /// When this returns `Ok`, the file survives a power cut. On an error nothing is changed.
    pub(super) fn publish(&self, dir: &str, name: &str, parts: &[&[u8]]) -> Result<(), StoreError> {
        let tmp = self.write_tmp(parts, true)?;
        self.change_names(dir, || self.put(tmp, dir, name))
    }

    /// Like [`Files::publish`] but without any flush: for files that can be made again from others.
    pub(super) fn publish_lazily(&self, dir: &str, name: &str, bytes: &[u8]) -> Result<(), StoreError> {
        let tmp = self.write_tmp(&[bytes], false)?;
        self.put(tmp, dir, name)
    }

    fn put(&self, tmp: Draft, dir: &str, name: &str) -> Result<(), StoreError> {
        let place = self.path(dir, name);
        self.trace.rename(&tmp.path, &place);
        std::fs::rename(&tmp.path, place).map_err(|e| self.refused("putting a file in place", e))?;
        tmp.placed();
        Ok(())
    }

    /// The same for many files of one directory, which is flushed once for all. Some are in place when it fails.
    pub(super) fn publish_all(&self, dir: &str, files: &[(String, &[u8])]) -> Result<(), StoreError> {
        self.change_names(dir, || {
            for part in files.chunks(FILES_AT_ONCE) {
                // All are written before the first is flushed: that one carries most of the others with it.
                let written = part.iter().map(|(_, bytes)| self.write_draft(&[bytes]));
                let drafts = written.collect::<Result<Vec<Draft>, _>>()?;
                for (draft, (name, _)) in drafts.into_iter().zip(part) {
                    self.flush(&draft)?;
                    self.put(draft, dir, name)?;
                }
            }
            Ok(())
        })
    }

    fn write_tmp(&self, parts: &[&[u8]], flush: bool) -> Result<Draft, StoreError> {
        let draft = self.write_draft(parts)?;
        if flush {
            self.flush(&draft)?;
        }
        Ok(draft)
    }

    fn write_draft(&self, parts: &[&[u8]]) -> Result<Draft, StoreError> {
        let bytes: usize = parts.iter().map(|part| part.len()).sum();
        if let (true, Some(reserve)) = (bytes <= limit::HEAD_BYTES_MAX, &self.reserve) {
            reserve.make_room(bytes as u64 + limit::SMALL_FILE_ROOM_BYTES);
        }
        let draft = self.draft()?;
        let mut offset = 0;
        for part in parts {
            draft.write_at(part, offset).map_err(|e| self.refused("writing a file", e))?;
            offset += part.len() as u64;
        }
        Ok(draft)
    }

    /// A new file in `tmp/`, deleted again unless it is published.
    pub(super) fn draft(&self) -> Result<Draft, StoreError> {
        self.health.writable()?;
        let path = self.path("tmp", &hex::encode(random_bytes::<16>()));
        let mut options = OpenOptions::new();
        let file = options.read(true).write(true).create_new(true).mode(0o600).open(&path);
        let trace = self.trace.clone();
        let file = file.map_err(|e| StoreError::io("making a file", e))?;
        hand_over(self.root(), &file);
        Ok(Draft { file, path, trace })
    }

    /// A file without a name: it is gone when it is closed, whatever happens.
    pub(super) fn scratch(&self) -> Result<File, StoreError> {
        if self.health.is_read_only() {
            return temporary();
        }
        self.health.writable()?;
        nameless(&self.root().join("tmp"))
    }

    /// Durably puts a draft in place, as [`Files::publish`] does.
    pub(super) fn publish_draft(&self, draft: Draft, dir: &str, name: &str) -> Result<(), StoreError> {
        self.health.writable()?;
        self.flush(&draft)?;
        self.change_names(dir, || self.put(draft, dir, name))
    }

    /// Flushes a file that nobody was told of yet.
    fn flush(&self, draft: &Draft) -> Result<(), StoreError> {
        self.trace.sync(&draft.path);
        draft.file.sync_data().map_err(|e| {
            // Delayed allocation reports a full disk only here; nothing was acknowledged, so that alone
            // does not put earlier files in doubt.
            if is_full(&e) { self.refused("flushing a file", e) } else { self.poison("flushing a file", e) }
        })
    }

    /// Moves a file within the store, durably.
    pub(super) fn rename(&self, from: (&str, &str), to: (&str, &str)) -> Result<(), StoreError> {
        self.health.writable()?;
        let (old, new) = (self.path(from.0, from.1), self.path(to.0, to.1));
        self.change_names(from.0, || {
            self.change_names(to.0, || {
                self.trace.rename(&old, &new);
                std::fs::rename(old, new).map_err(|e| self.refused("moving a file", e))
            })
        })
    }

    /// Durably gives a file a second name within the store, or a copy where the file system has no links; `false` when
    /// it is not there.
    pub(super) fn link(&self, from: (&str, &str), to: (&str, &str)) -> Result<bool, StoreError> {
        self.health.writable()?;
        let (from, target) = (self.path(from.0, from.1), self.path(to.0, to.1));
        self.trace.link(&from, &target);
        let linked = std::fs::hard_link(&from, &target).or_else(|error| match error.kind() {
            io::ErrorKind::NotFound => Err(error),
            _ if is_full(&error) => Err(error),
            _ => std::fs::copy(&from, &target).map(|_| ()),
        });
        if self.found("keeping a damaged file", linked)?.is_none() {
            return Ok(false);
        }
        self.sync_dir(&self.root().join(to.0)).map(|()| true)
    }

    /// Durably removes a file; one that is not there is no error.
    pub(super) fn remove(&self, dir: &str, name: &str) -> Result<(), StoreError> {
        if self.remove_lazily(dir, name)? { self.sync_dir(&self.root().join(dir)) } else { Ok(()) }
    }

    /// Removes a file without any flush, so that a crash may bring it back; whether it was there.
    pub(super) fn remove_lazily(&self, dir: &str, name: &str) -> Result<bool, StoreError> {
        self.health.writable()?;
        let path = self.path(dir, name);
        self.trace.remove(&path);
        Ok(self.found("removing a file", std::fs::remove_file(path))?.is_some())
    }

    /// Removes a directory if it is empty, without any flush: a crash may bring it back.
    pub(super) fn remove_empty_dir(&self, dir: &str) {
        // Whatever came into it meanwhile stays.
        std::fs::remove_dir(self.root().join(dir)).ok();
    }

    /// Reads a whole file of at most `limit` bytes; `None` when it is not there.
    pub(super) fn read(&self, dir: &str, name: &str, limit: usize) -> Result<Option<Vec<u8>>, StoreError> {
        let path = self.path(dir, name);
        let Some(file) = self.found_at("opening", &path, File::open(&path))? else {
            return Ok(None);
        };
        let mut bytes = Vec::new();
        let doing = || format!("reading {}", path.display()).into();
        file.take(limit as u64 + 1)
            .read_to_end(&mut bytes)
            .map_err(|source| StoreError::Io { doing: doing(), source })?;
        if bytes.len() > limit {
            return Err(StoreError::DamagedFile(format!("{dir}/{name}")));
        }
        Ok(Some(bytes))
    }

    /// Names in a directory, sorted; empty when the directory is not there.
    pub(super) fn names(&self, dir: &str) -> Result<Vec<String>, StoreError> {
        let Some(entries) = self.found("listing a directory", std::fs::read_dir(self.root().join(dir)))?
        else {
            return Ok(Vec::new());
        };
        let mut names = Vec::new();
        for entry in entries {
            let entry = entry.map_err(|e| StoreError::io("listing a directory", e))?;
            if let Ok(name) = entry.file_name().into_string() {
                names.push(name);
            }
        }
        names.sort_unstable();
        Ok(names)
    }

    /// Names of files that were written at least `age` ago; one whose age cannot be told is young.
    pub(super) fn old_names(&self, dir: &str, age: Duration) -> Result<Vec<String>, StoreError> {
        let mut names = self.names(dir)?;
        names.retain(|name| {
            let written = std::fs::metadata(self.path(dir, name)).and_then(|file| file.modified());
            written.is_ok_and(|time| time.elapsed().is_ok_and(|since| since >= age))
        });
        Ok(names)
    }

    /// When a file was written; `None` when it is not there.
    pub(super) fn modified(&self, dir: &str, name: &str) -> Result<Option<Moment>, StoreError> {
        let looked = std::fs::metadata(self.path(dir, name)).and_then(|file| file.modified());
        Ok(self.found("examining a file", looked)?.map(|time| {
            let since = time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
            Moment::from_millis(u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
        }))
    }

    /// How long a file is; `None` when there is none.
    pub(super) fn length(&self, dir: &str, name: &str) -> Result<Option<u64>, StoreError> {
        let looked = std::fs::metadata(self.path(dir, name));
        Ok(self.found("examining a file", looked)?.map(|file| file.len()))
    }

    /// Makes a directory of the store, durably.
    pub(super) fn ensure_dir(&self, dir: &str) -> Result<(), StoreError> {
        let path = self.root().join(dir);
        if path.is_dir() {
            return Ok(());
        }
        self.health.writable()?;
        let absent: Vec<&Path> = path.ancestors().take_while(|dir| !dir.is_dir()).collect();
        absent.iter().for_each(|dir| self.trace.make_dir(dir));
        make_dir(&path)?;
        absent.iter().filter_map(|dir| File::open(dir).ok()).for_each(|dir| hand_over(self.root(), dir));
        let mut up = path.as_path();
        while let Some(parent) = up.parent().filter(|parent| parent.starts_with(self.root())) {
            self.sync_dir(parent)?;
            up = parent;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{MetadataExt, chown};

    use super::*;

    /// Root backed up into the directory of a service's user, which could read nothing of it and did not start again. Says nothing
    /// where tests do not run as root.
    #[test]
    fn what_root_makes_in_another_users_store_is_that_users() {
        if !rustix::process::geteuid().is_root() {
            return;
        }
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("store");
        let files = Files::prepare(&root, "begun").unwrap();
        files.furnish().unwrap();
        chown(&root, Some(65_534), Some(65_534)).unwrap();
        files.ensure_dir("heads/one/two").unwrap();
        files.publish("heads/one/two", "three", &[b"head"]).unwrap();
        for made in ["heads/one", "heads/one/two", "heads/one/two/three"] {
            assert_eq!(std::fs::metadata(root.join(made)).unwrap().uid(), 65_534, "{made}");
        }
    }
}
