//! A store with an enrolled vault, short verbs over it, holders made of copies, and a watchdog.

use std::collections::HashMap;
use std::fs::File;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::time::Duration;

use super::lines::{Line, run};
use crate::base::{Clock, Moment, PackId, PeerId, VaultId, limit};
use crate::chunker::ChunkSizes;
use crate::crypto::{KdfCost, Passphrase, Phrase};
use crate::engine::{
    BackupOptions, BackupResult, Carried, EngineError, FetchFailure, Gathering, GcOptions, Monitor,
    PackSource, PulledSlice, RestoreOptions, RestoreResult, Sources, Vault, VaultOptions, VaultView,
    VerifyOptions, VerifyResult, backup, enrol_device, make_node, publish_first_head, restore, unlock,
    verify,
};
use crate::fs::Overwrite;
use crate::pack::Outboard;
use crate::snapshot::{Head, PackSize, Snapshot};
use crate::store::Store;

/// Every reading is a second later than the one before.
#[derive(Default)]
pub(super) struct Ticking(AtomicU64);

impl Clock for Ticking {
    fn now(&self) -> Moment {
        Moment::from_millis(1_700_000_000_000 + 1000 * self.0.fetch_add(1, Ordering::Relaxed))
    }

    fn running(&self) -> Duration {
        Duration::from_secs(self.0.load(Ordering::Relaxed))
    }
}

/// All newest heads at once.
pub(super) fn newest_heads(store: &Store, vault: VaultId) -> Result<Vec<Head>, EngineError> {
    crate::engine::newest_heads(store, vault)?.collect()
}

/// The same of an earlier moment.
pub(super) fn heads_at(store: &Store, vault: VaultId, at: Moment) -> Result<Vec<Head>, EngineError> {
    crate::engine::heads_at(store, vault, at)?.collect()
}

/// All packs of a head at once.
pub(super) fn head_packs(store: &Store, head: &Head) -> Result<Vec<(PackId, PackSize)>, EngineError> {
    crate::engine::head_packs(store, head).collect()
}

pub(super) fn passphrase() -> Passphrase {
    Passphrase::new("correct horse".to_owned())
}

/// What jobs may take, in bytes.
const MEMORY: usize = 96 << 20;

/// How long garbage waits in tests.
pub(super) const GRACE: Duration = Duration::from_secs(3600);

/// A collection that deletes what waited for [`GRACE`], or with `now` everything.
pub(super) fn gc_options(now: bool) -> GcOptions {
    GcOptions {
        dry_run: false,
        now,
        max_unused_percent: 5,
        grace: GRACE,
        memory_bytes: 48 << 20,
        holder_room: None,
    }
}

pub(super) fn vault_options() -> VaultOptions {
    VaultOptions { sizes: ChunkSizes::default(), level: Some(3), deduplicate: true, copies: 2, workers: 2 }
}

/// Somewhere fast: nothing there has to survive, and a disk would have to flush all of it.
pub(super) fn scratch() -> tempfile::TempDir {
    tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap()
}

/// A directory as [`scratch`] makes them, with the same path in every run: what a history leaves has paths in it. Whoever
/// wants one that is taken, in this process or another, waits.
pub(super) struct Place {
    path: PathBuf,
    /// Its lock ends with it.
    _lock: File,
}

impl Place {
    pub(super) fn named(name: &str) -> Self {
        let shared = Path::new("/dev/shm");
        let above = if shared.is_dir() { shared.to_owned() } else { std::env::temp_dir() };
        let path = above.join(format!("shadowvault-{name}"));
        loop {
            std::fs::create_dir_all(&path).unwrap();
            let Ok(lock) = File::open(&path) else { continue };
            lock.lock().unwrap();
            // Who had it before has taken it away.
            let inode = lock.metadata().unwrap().ino();
            if std::fs::metadata(&path).is_ok_and(|now| now.ino() == inode) {
                // What a run left that was killed.
                let left = std::fs::read_dir(&path).unwrap();
                left.for_each(|entry| std::fs::remove_dir_all(entry.unwrap().path()).unwrap());
                return Self { path, _lock: lock };
            }
        }
    }

    pub(super) fn dir(&self, name: &str) -> tempfile::TempDir {
        tempfile::Builder::new().prefix(name).rand_bytes(0).tempdir_in(&self.path).unwrap()
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.path);
    }
}

/// A store, its vault, and a directory to back up.
pub(super) struct Fixture {
    pub(super) dir: tempfile::TempDir,
    pub(super) vault: Vault,
    pub(super) phrase: Phrase,
}

impl Fixture {
    pub(super) fn new() -> Self {
        Self::with(vault_options())
    }

    pub(super) fn with(options: VaultOptions) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let store = dir.path().join("store");
        Self::at(dir, &store, options)
    }

    /// With the store somewhere else.
    pub(super) fn at(dir: tempfile::TempDir, store: &Path, options: VaultOptions) -> Self {
        let store = Store::create(store).unwrap();
        let node = make_node(&store).unwrap();
        let phrase = Phrase::generate();
        let clock = Ticking::default();
        let cost = KdfCost::FAST;
        let keyring =
            enrol_device(&store, &phrase, node.peer_id(), "desk", &passphrase(), cost, clock.now()).unwrap();
        std::fs::create_dir(dir.path().join("src")).unwrap();
        let vault = Vault::new(Arc::new(store), keyring, Arc::new(clock), options);
        // As `init` does: a vault has a head from its first moment.
        publish_first_head(&vault, Carried::default(), &[]).unwrap();
        Self { dir, vault, phrase }
    }

    /// A copy of the store, which lies in `dir`, in use beside it.
    pub(super) fn again(&self, dir: tempfile::TempDir) -> Self {
        std::fs::create_dir(dir.path().join("src")).unwrap();
        let store = Store::open(&dir.path().join("store")).unwrap();
        let keyring = unlock(&store, &passphrase()).unwrap();
        let clock = Ticking(AtomicU64::new(self.vault.clock.running().as_secs()));
        let vault = Vault::new(Arc::new(store), keyring, Arc::new(clock), (*self.vault.options()).clone());
        Self { dir, vault, phrase: Phrase::parse(&self.phrase.words()).unwrap() }
    }

    /// Closes the store, lets `change` loose on its directory, and opens it with `open`.
    pub(super) fn reopened(self, change: impl FnOnce(&Path), open: fn(&Path) -> Store) -> Self {
        let path = self.store().dir().to_owned();
        self.opened_at(&path.clone(), || change(&path), open)
    }

    /// Closes the store, does `change`, and opens the one in `store`.
    pub(super) fn moved(self, change: impl FnOnce(), store: &Path) -> Self {
        self.opened_at(store, change, |path| Store::open(path).unwrap())
    }

    fn opened_at(self, path: &Path, change: impl FnOnce(), open: fn(&Path) -> Store) -> Self {
        let Self { dir, vault, phrase } = self;
        let options = (*vault.options()).clone();
        let Vault { store, clock, .. } = vault;
        assert_eq!(Arc::strong_count(&store), 1);
        drop(store);
        change();
        let store = open(path);
        let keyring = unlock(&store, &passphrase()).unwrap();
        Self { dir, vault: Vault::new(Arc::new(store), keyring, clock, options), phrase }
    }

    pub(super) fn store(&self) -> &Store {
        &self.vault.store
    }

    pub(super) fn src(&self) -> PathBuf {
        self.dir.path().join("src")
    }

    pub(super) fn write(&self, name: &str, bytes: &[u8]) {
        let path = self.src().join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, bytes).unwrap();
    }

    /// Waits until the file system's clock has moved on: within one of its ticks two changes look alike.
    pub(super) fn let_the_clock_tick(&self) {
        let probe = self.dir.path().join("probe");
        let stamp = || {
            std::fs::write(&probe, b"x").unwrap();
            let meta = std::fs::metadata(&probe).unwrap();
            (meta.mtime(), meta.mtime_nsec())
        };
        let before = stamp();
        while stamp() == before {}
    }

    pub(super) fn options(&self) -> BackupOptions {
        BackupOptions {
            paths: vec![self.src()],
            hostname: "host".to_owned(),
            memory_bytes: MEMORY,
            ..Default::default()
        }
    }

    pub(super) fn backup(&self) -> BackupResult {
        self.try_backup(&Monitor::default()).unwrap()
    }

    pub(super) fn try_backup(&self, monitor: &Monitor) -> Result<BackupResult, EngineError> {
        backup(&self.vault, &self.options(), monitor)
    }

    pub(super) fn view(&self) -> VaultView {
        VaultView::load(&self.vault).unwrap()
    }

    pub(super) fn snapshot(&self, backup: &BackupResult) -> Snapshot {
        self.view().snapshots.into_iter().find(|snapshot| snapshot.id == backup.snapshot).unwrap()
    }

    /// How the source's contents come back into `target`.
    pub(super) fn restore_options(&self, target: &Path) -> RestoreOptions {
        RestoreOptions {
            path: self.src(),
            target: target.to_owned(),
            memory_bytes: MEMORY,
            overwrite: Overwrite::Never,
            owner: true,
            privileged: true,
            verify: true,
            ..Default::default()
        }
    }

    /// Restores the source as that backup saw it into a fresh directory.
    pub(super) fn restore(&self, backup: &BackupResult, name: &str) -> (PathBuf, RestoreResult) {
        let (target, result, monitor) = self.restore_from(backup, name, None);
        assert_eq!(monitor.problems().1, []);
        (target, result)
    }

    pub(super) fn restore_from(
        &self,
        backup: &BackupResult,
        name: &str,
        source: Option<&dyn PackSource>,
    ) -> (PathBuf, RestoreResult, Monitor) {
        self.restore_path(&self.snapshot(backup), &self.src(), name, source)
    }

    /// Restores the contents of `path`.
    pub(super) fn restore_path(
        &self,
        snapshot: &Snapshot,
        path: &Path,
        name: &str,
        source: Option<&dyn PackSource>,
    ) -> (PathBuf, RestoreResult, Monitor) {
        let (target, monitor) = (self.dir.path().join(name), Monitor::default());
        let options = RestoreOptions { path: path.to_owned(), ..self.restore_options(&target) };
        let result = restore(&self.vault, snapshot, &options, source, &monitor).unwrap();
        (target, result, monitor)
    }

    pub(super) fn verify(&self) -> VerifyResult {
        let monitor = Monitor::default();
        verify(
            self.store(),
            Some(&self.vault),
            VerifyOptions { memory_bytes: MEMORY, ..Default::default() },
            2,
            &monitor,
        )
        .unwrap()
    }

    /// Pack files by id, and where they lie.
    pub(super) fn packs(&self) -> Vec<(PackId, PathBuf)> {
        let path = |id: PackId| self.store().dir().join(format!("packs/{:02x}/{id}", id.as_bytes()[0]));
        self.store().pack_files().unwrap().into_iter().map(|id| (id, path(id))).collect()
    }
}

/// Bytes that do not shrink, the same for the same seed.
pub(super) fn noise(seed: u64, length: usize) -> Vec<u8> {
    let mut bytes = vec![0; length];
    blake3::Hasher::new().update(&seed.to_le_bytes()).finalize_xof().fill(&mut bytes);
    bytes
}

/// Every test ends within seconds on an idle machine; one that many builds share was seen to need over a minute.
const WATCHDOG: Duration = Duration::from_secs(180);

/// Runs `work` on a thread of its own; fails when it takes longer than [`WATCHDOG`].
pub(super) fn watched<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    let (done_in, done_out) = mpsc::channel();
    let thread = std::thread::spawn(move || {
        let value = work();
        let _ = done_in.send(());
        value
    });
    if let Err(mpsc::RecvTimeoutError::Timeout) = done_out.recv_timeout(WATCHDOG) {
        panic!("still running after {WATCHDOG:?}");
    }
    thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}

/// How a holder behaves.
#[derive(Copy, Clone, PartialEq, Eq)]
pub(super) enum Manner {
    Honest,
    WrongBytes,
    Absent,
}

/// Holders in memory, each with a copy of a store's packs.
pub(super) struct Holders {
    packs: HashMap<PackId, Vec<u8>>,
    manners: Vec<Manner>,
    /// Cells asked of each pack.
    pub(super) asked: Mutex<Vec<(PackId, usize)>>,
    pub(super) blamed: Mutex<Vec<PeerId>>,
}

pub(super) fn holder(at: usize) -> PeerId {
    PeerId::new([at as u8 + 1; 32])
}

impl Holders {
    pub(super) fn of(fixture: &Fixture, manners: &[Manner]) -> Self {
        let packs = fixture.packs().into_iter().map(|(id, path)| (id, std::fs::read(path).unwrap()));
        Self {
            packs: packs.collect(),
            manners: manners.to_vec(),
            asked: Mutex::default(),
            blamed: Mutex::default(),
        }
    }

    /// Of a pack that they have, in bytes.
    pub(super) fn length(&self, pack: PackId) -> usize {
        self.packs[&pack].len()
    }

    /// Cells asked of a pack so far, ascending.
    pub(super) fn cells(&self, pack: PackId) -> Vec<usize> {
        let asked = self.asked.lock().unwrap();
        let mut cells: Vec<_> = asked.iter().filter(|(id, _)| *id == pack).map(|(_, cell)| *cell).collect();
        cells.sort_unstable();
        cells
    }
}

impl PackSource for Holders {
    fn sources(&self, _: PackId) -> Sources {
        Sources { sure: (0..self.manners.len()).map(holder).collect(), ..Sources::default() }
    }

    fn gather(&self, pack: PackId, gathering: &mut Gathering<'_>) {
        let bytes = self.packs.get(&pack);
        let outboard = bytes.map(|bytes| Outboard::of(bytes).1);
        let mut lines: Vec<Line> =
            (0..self.manners.len()).map(|at| Line::new(holder(at), 10 << 20, Duration::ZERO)).collect();
        run(gathering, &mut lines, |errand| {
            let manner = self.manners[usize::from(errand.holder.as_bytes()[0]) - 1];
            let (Some(bytes), Some(outboard), true) = (bytes, &outboard, manner != Manner::Absent) else {
                return Err(FetchFailure::NotFound);
            };
            let range = errand.range;
            self.asked.lock().unwrap().extend((range.first..range.end).map(|cell| (pack, cell)));
            let end = (range.end * limit::CELL_BYTES).min(bytes.len());
            let mut data = bytes[range.first * limit::CELL_BYTES..end].to_vec();
            if manner == Manner::WrongBytes {
                data[0] ^= 1;
            }
            Ok(PulledSlice { data: data.into(), proof: outboard.proof(range) })
        });
        self.blamed.lock().unwrap().extend(gathering.misbehaved());
    }
}

/// Whether this is a process of its own for the test of that name; the other one makes it and waits until it ended well.
pub(super) fn in_own_process(test: &str) -> bool {
    const OWN: &str = "SHADOWVAULT_TEST_ALONE";
    if std::env::var_os(OWN).is_some() {
        return true;
    }
    let program = std::env::current_exe().unwrap();
    let done =
        std::process::Command::new(program).args(["--exact", test, "--nocapture"]).env(OWN, "1").output();
    let done = done.unwrap();
    let said = String::from_utf8_lossy(&done.stdout);
    assert!(
        done.status.success() && said.contains("1 passed"),
        "{said}{}",
        String::from_utf8_lossy(&done.stderr)
    );
    false
}

/// The most memory that this process ever had, in bytes.
pub(super) fn peak_bytes() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() << 10
}
