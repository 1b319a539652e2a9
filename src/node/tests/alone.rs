//! A node in this process over a store in a directory that goes with it; it speaks to nobody unless it is told to.

use std::sync::Arc;
use std::time::Duration;

use crate::base::{Epoch, Moment, PeerId, VaultId};
use crate::config::Settings;
use crate::crypto::{DeviceKeys, KdfCost, Passphrase, Phrase};
use crate::engine::{self, BackupOptions, Monitor};
use crate::node::Mode;
use crate::node::core::Core;
use crate::snapshot::{HeadDraft, SignedHead, issue_certificate};
use crate::store::Store;
use crate::wire;

pub(in crate::node) struct AloneNode {
    pub(in crate::node) core: Arc<Core>,
    dir: tempfile::TempDir,
}

impl AloneNode {
    pub(in crate::node) fn new() -> Self {
        Self::over(Settings::default(), Mode::Offline)
    }

    /// One that stores for others up to `lend` bytes, and runs.
    pub(in crate::node) async fn lending(lend: u64) -> Self {
        let mut settings = quiet();
        settings.replication.lend = lend;
        let node = Self::over(settings, Mode::Daemon);
        node.core.clone().start(Mode::Daemon).await.unwrap();
        node
    }

    /// One with a vault that wants one copy, and runs.
    pub(in crate::node) async fn owning(proof_within: Duration) -> Self {
        let mut settings = quiet();
        settings.replication.copies = 1;
        settings.replication.proof_within = proof_within;
        let node = Self::made(settings, Mode::Daemon, true);
        node.core.clone().start(Mode::Daemon).await.unwrap();
        node
    }

    fn over(settings: Settings, mode: Mode) -> Self {
        Self::made(settings, mode, false)
    }

    fn made(settings: Settings, mode: Mode, has_vault: bool) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let repository_path = dir.path().join("store");
        let store = Arc::new(Store::create(&repository_path).unwrap());
        let key = engine::make_node(&store).unwrap();
        let passphrase = || Passphrase::new("correct horse".to_owned());
        if has_vault {
            let (phrase, now) = (Phrase::generate(), Moment::from_millis(1));
            let cost = KdfCost::FAST;
            engine::enrol_device(&store, &phrase, key.peer_id(), "desk", &passphrase(), cost, now).unwrap();
        }
        let settings = Settings { repository_path, ..settings };
        let core = Core::over(store, settings, has_vault.then(passphrase), mode).unwrap();
        if has_vault {
            engine::publish_next_head(&core.vault().unwrap(), &[], &[]).unwrap();
        }
        Self { core, dir }
    }

    /// Backs up a file of noise of that length.
    pub(in crate::node) async fn back_up(&self, length: usize) {
        let source = self.dir.path().join("source");
        std::fs::create_dir_all(&source).unwrap();
        let mut noise = vec![0; length];
        blake3::Hasher::new().update(&crate::base::random_bytes::<32>()).finalize_xof().fill(&mut noise);
        std::fs::write(source.join("noise"), noise).unwrap();
        let options = BackupOptions {
            paths: vec![source],
            hostname: "host".to_owned(),
            memory_bytes: 64 << 20,
            ..BackupOptions::default()
        };
        let work = move |core: &Arc<Core>| {
            engine::backup(&*core.vault()?, &options, &Monitor::default()).unwrap();
            core.changed.notify_one();
            Ok(())
        };
        self.core.blocking(work).await.unwrap();
    }

    pub(in crate::node) fn id(&self) -> PeerId {
        self.core.key.peer_id()
    }

    /// Bytes of all files in a directory of the store, in whole blocks.
    pub(in crate::node) fn disk_bytes(&self, dir: &str) -> u64 {
        fn of(path: &std::path::Path) -> u64 {
            let entries = std::fs::read_dir(path).into_iter().flatten().flatten();
            entries
                .map(|entry| match entry.metadata().unwrap() {
                    there if there.is_dir() => of(&entry.path()),
                    there => there.len().next_multiple_of(4096),
                })
                .sum()
        }
        of(&self.core.store.dir().join(dir))
    }

    /// Stores a head of a new vault here, whose only device runs on `peer`: the vault, and the device's certificate.
    pub(in crate::node) fn stored_vault(&self, peer: PeerId) -> (VaultId, wire::Signed) {
        let root = Phrase::generate().root();
        let (admin, keys) = (root.admin(), root.vault_keys(Epoch(0)));
        let device = DeviceKeys::generate("laptop");
        let certificate = issue_certificate(&admin, &keys, &device, peer, Moment::from_millis(1)).unwrap();
        let draft = HeadDraft {
            seq: 1,
            predecessor: None,
            seen: Vec::new(),
            snapshots: Vec::new(),
            lists: Vec::new(),
            copies: 1,
            holders: Vec::new(),
            time: Moment::from_millis(1),
            epoch: Epoch(0),
            checkpoint: false,
            inherited: Vec::new(),
            carried: Vec::new(),
            supersedes: Vec::new(),
        };
        let (head, bytes) = SignedHead::sign(draft, &device, &certificate).unwrap();
        self.core.store.publish_head(admin.vault(), device.id(), 1, head.id, &bytes).unwrap();
        (admin.vault(), certificate)
    }
}

/// Settings of a node that listens on loopback ports of its own and leaves the network alone.
pub(in crate::node) fn quiet() -> Settings {
    let mut settings = Settings { listen_port: 0, ..Settings::default() };
    settings.nat_traversal.enable_mdns = false;
    settings.nat_traversal.enable_upnp = false;
    settings.nat_traversal.enable_auto_relay = false;
    settings.nat_traversal.enable_hole_punching = false;
    settings
}
