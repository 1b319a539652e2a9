//! What the store does to the disk, written down for tests that rebuild what a power cut may leave.
//!
//! Only in tests there is anything here: a thread that calls [`record`] has every store that it opens from then on note its
//! writes, flushes, renames and removals, the index's included.

#[cfg(not(test))]
use std::path::Path;

/// Where a store notes what it does; nowhere, outside of such tests.
#[derive(Clone, Default)]
pub(super) struct Trace {
    #[cfg(test)]
    events: Option<recorded::Events>,
}

#[cfg(not(test))]
impl Trace {
    pub(super) fn current() -> Self {
        Self {}
    }

    pub(super) fn write(&self, _: &Path, _: u64, _: &[u8]) {}

    pub(super) fn sync(&self, _: &Path) {}

    pub(super) fn rename(&self, _: &Path, _: &Path) {}

    pub(super) fn link(&self, _: &Path, _: &Path) {}

    pub(super) fn make_dir(&self, _: &Path) {}

    pub(super) fn sync_dir(&self, _: &Path) {}

    pub(super) fn remove(&self, _: &Path) {}
}

#[cfg(test)]
pub use recorded::{Event, record};
#[cfg(test)]
pub(super) use recorded::{Recorded, is_recording};

#[cfg(test)]
mod recorded {
    use std::cell::RefCell;
    use std::fs::File;
    use std::io;
    use std::os::unix::fs::FileExt;
    use std::path::{Path, PathBuf};
    use std::sync::{Arc, Mutex};

    use super::Trace;

    /// One thing done to the disk.
    #[derive(Clone, Debug)]
    pub enum Event {
        /// Bytes into a file, which is new if it was not there.
        Write(PathBuf, u64, Vec<u8>),
        /// A file's length.
        SetLength(PathBuf, u64),
        /// A file's content is durable.
        Sync(PathBuf),
        /// A name moves.
        Rename(PathBuf, PathBuf),
        /// A file gets a second name.
        Link(PathBuf, PathBuf),
        /// A directory is made.
        MakeDir(PathBuf),
        /// A directory's names are durable.
        SyncDir(PathBuf),
        /// A name goes.
        Remove(PathBuf),
    }

    pub(in crate::store) type Events = Arc<Mutex<Vec<Event>>>;

    thread_local! {
        static RECORDING: RefCell<Option<Events>> = const { RefCell::new(None) };
    }

    /// Has this thread's stores note what they do; what they noted so far is in what is returned.
    pub fn record(on: bool) -> Arc<Mutex<Vec<Event>>> {
        let events = Events::default();
        RECORDING.set(on.then(|| events.clone()));
        events
    }

    pub(in crate::store) fn is_recording() -> bool {
        RECORDING.with_borrow(Option::is_some)
    }

    impl Trace {
        pub(in crate::store) fn current() -> Self {
            Self { events: RECORDING.with_borrow(Clone::clone) }
        }

        fn note(&self, event: impl FnOnce() -> Event) {
            if let Some(events) = &self.events {
                events.lock().unwrap().push(event());
            }
        }

        pub(in crate::store) fn write(&self, path: &Path, offset: u64, bytes: &[u8]) {
            self.note(|| Event::Write(path.to_owned(), offset, bytes.to_vec()));
        }

        pub(in crate::store) fn sync(&self, path: &Path) {
            self.note(|| Event::Sync(path.to_owned()));
        }

        pub(in crate::store) fn rename(&self, from: &Path, to: &Path) {
            self.note(|| Event::Rename(from.to_owned(), to.to_owned()));
        }

        pub(in crate::store) fn link(&self, from: &Path, to: &Path) {
            self.note(|| Event::Link(from.to_owned(), to.to_owned()));
        }

        pub(in crate::store) fn make_dir(&self, path: &Path) {
            self.note(|| Event::MakeDir(path.to_owned()));
        }

        pub(in crate::store) fn sync_dir(&self, path: &Path) {
            self.note(|| Event::SyncDir(path.to_owned()));
        }

        pub(in crate::store) fn remove(&self, path: &Path) {
            self.note(|| Event::Remove(path.to_owned()));
        }
    }

    /// The index's file, noting what is done to it.
    pub(in crate::store) struct Recorded {
        file: File,
        path: PathBuf,
        trace: Trace,
    }

    impl Recorded {
        pub(in crate::store) fn open(path: &Path) -> io::Result<Self> {
            let file = File::options().read(true).write(true).open(path)?;
            Ok(Self { file, path: path.to_owned(), trace: Trace::current() })
        }
    }

    impl std::fmt::Debug for Recorded {
        fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            f.write_str("Recorded")
        }
    }

    impl redb::StorageBackend for Recorded {
        fn len(&self) -> io::Result<u64> {
            Ok(self.file.metadata()?.len())
        }

        fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
            self.file.read_exact_at(out, offset)
        }

        fn set_len(&self, length: u64) -> io::Result<()> {
            self.trace.note(|| Event::SetLength(self.path.clone(), length));
            self.file.set_len(length)
        }

        fn sync_data(&self) -> io::Result<()> {
            self.trace.sync(&self.path);
            Ok(())
        }

        fn write(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
            self.trace.write(&self.path, offset, bytes);
            self.file.write_all_at(bytes, offset)
        }
    }
}
