//! Small files: heads, pack lists, snapshot records, receipts, keys. Bytes in, bytes out.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::fs::File;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use super::Store;
use super::error::StoreError;
use super::quarantine::DIRECTORY as QUARANTINE;
use crate::base::{DeviceId, HeadId, ListId, Moment, PeerId, SnapshotId, VaultId, limit, random_bytes};

/// Where it stands which receipts are void.
const VOID: &str = "members/void";
/// One row there: a pack's or a head's id, and a time.
const VOID_BYTES: usize = 40;

/// A small file of a vault that is named by the plain BLAKE3 of its bytes: whoever has it can give it, and nobody can give
/// another in its place.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum RecordName {
    /// A signed head.
    Head {
        /// Of which vault.
        vault: VaultId,
        /// Of which device.
        device: DeviceId,
        /// Its position in the chain.
        seq: u64,
        /// Its hash.
        id: HeadId,
    },
    /// A piece of a pack list.
    List(ListId),
    /// A sealed snapshot record.
    Snapshot(SnapshotId),
}

impl RecordName {
    /// The hash that its bytes must have.
    pub fn hash(&self) -> &[u8; 32] {
        match self {
            Self::Head { id, .. } => id.as_bytes(),
            Self::List(id) => id.as_bytes(),
            Self::Snapshot(id) => id.as_bytes(),
        }
    }

    /// Directory, file and the most bytes that it may have.
    fn place(&self) -> (String, String, usize) {
        match self {
            Self::Head { vault, device, seq, id } => {
                (head_dir(*vault, *device), format!("{seq:016x}-{id}"), limit::HEAD_BYTES_MAX)
            }
            Self::List(id) => ("lists".to_owned(), id.to_string(), limit::LIST_BYTES_MAX),
            Self::Snapshot(id) => ("snapshots".to_owned(), id.to_string(), limit::RECORD_BYTES),
        }
    }

    /// What kind it is, in the names of files in quarantine.
    fn kind(&self) -> &'static str {
        match self {
            Self::Head { .. } => "head",
            Self::List(_) => "list",
            Self::Snapshot(_) => "snapshot",
        }
    }

    /// A name that no other file in quarantine has.
    fn name_aside(&self) -> String {
        format!("{}-{}.{}", self.kind(), hex::encode(self.hash()), hex::encode(random_bytes::<4>()))
    }
}

impl fmt::Display for RecordName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.kind(), hex::encode(&self.hash()[..4]))
    }
}

fn head_dir(vault: VaultId, device: DeviceId) -> String {
    format!("heads/{vault}/{device}")
}

/// Which heads of each device no other carries on, once worked out; that takes reading many of them.
#[derive(Default)]
pub(super) struct Chains(Mutex<HashMap<(VaultId, DeviceId), Chain>>);

#[derive(Default)]
struct Chain {
    /// How often heads of the device were written or removed.
    writes: u64,
    known: Option<KnownTips>,
}

/// What was worked out, and of heads with which names.
struct KnownTips {
    names: [u8; 32],
    tips: Vec<(u64, HeadId)>,
}

/// What is known of a device's chain was worked out of these heads.
#[derive(Copy, Clone, PartialEq, Eq)]
pub struct ChainStamp {
    writes: u64,
    names: [u8; 32],
}

impl Chains {
    fn with<T>(&self, of: (VaultId, DeviceId), what: impl FnOnce(&mut Chain) -> T) -> T {
        what(self.0.lock().unwrap_or_else(PoisonError::into_inner).entry(of).or_default())
    }

    fn changed(&self, vault: VaultId, device: DeviceId) {
        self.with((vault, device), |chain| *chain = Chain { writes: chain.writes + 1, known: None });
    }
}

pub(super) const NODE_KEY: &str = "node.key";

/// The first bytes of the hash of a key's seed, for the file of it.
fn key_check(seed: &[u8; 32]) -> [u8; 4] {
    let hash = blake3::derive_key("shadowvault 2026-11 node key check", seed);
    [hash[0], hash[1], hash[2], hash[3]]
}

impl Store {
    /// Stamps what is going to be worked out of the heads of a device with these names.
    pub fn chain_stamp(&self, vault: VaultId, device: DeviceId, names: &[(u64, HeadId)]) -> ChainStamp {
        let mut hasher = blake3::Hasher::new();
        for (seq, id) in names {
            hasher.update(&seq.to_le_bytes());
            hasher.update(id.as_bytes());
        }
        let writes = self.chains.with((vault, device), |chain| chain.writes);
        ChainStamp { writes, names: *hasher.finalize().as_bytes() }
    }

    /// What was worked out under this stamp by this run of the program, if nothing was written since.
    pub fn known_tips(
        &self,
        vault: VaultId,
        device: DeviceId,
        stamp: ChainStamp,
    ) -> Option<Vec<(u64, HeadId)>> {
        self.chains.with((vault, device), |chain| match &chain.known {
            Some(known) if (chain.writes, known.names) == (stamp.writes, stamp.names) => {
                Some(known.tips.clone())
            }
            _ => None,
        })
    }

    /// Keeps what was worked out, unless something was written meanwhile.
    pub fn remember_tips(
        &self,
        vault: VaultId,
        device: DeviceId,
        stamp: ChainStamp,
        tips: Vec<(u64, HeadId)>,
    ) {
        self.chains.with((vault, device), |chain| {
            if chain.writes == stamp.writes {
                chain.known = Some(KnownTips { names: stamp.names, tips });
            }
        });
    }

    /// Durably stores a head. A device may have several with one number (a fork); all are kept.
    pub fn publish_head(
        &self,
        vault: VaultId,
        device: DeviceId,
        seq: u64,
        id: HeadId,
        bytes: &[u8],
    ) -> Result<(), StoreError> {
        let dir = head_dir(vault, device);
        self.files.ensure_dir(&dir)?;
        let written = self.files.publish(&dir, &format!("{seq:016x}-{id}"), &[bytes]);
        self.chains.changed(vault, device);
        written
    }

    /// A file without a name, for what does not fit into memory: it is gone when it is closed.
    pub fn scratch(&self) -> Result<File, StoreError> {
        self.files.scratch()
    }

    /// Whether a head of that device would be of one device more of its vault than `most`.
    pub fn is_device_over(&self, vault: VaultId, device: DeviceId, most: usize) -> Result<bool, StoreError> {
        let mut others = 0;
        for known in self.head_devices(vault)? {
            // The directory of one whose heads are all gone stays.
            let is_empty = self.files.names(&head_dir(vault, known))?.is_empty();
            match known == device {
                true if !is_empty => return Ok(false),
                true => {}
                false => others += usize::from(!is_empty),
            }
        }
        Ok(others >= most)
    }

    /// Vaults that have heads here.
    pub fn head_vaults(&self) -> Result<Vec<VaultId>, StoreError> {
        Ok(self.files.names("heads")?.iter().filter_map(|name| name.parse().ok()).collect())
    }

    /// Devices of a vault that have heads here.
    pub fn head_devices(&self, vault: VaultId) -> Result<Vec<DeviceId>, StoreError> {
        let names = self.files.names(&format!("heads/{vault}"))?;
        Ok(names.iter().filter_map(|name| name.parse().ok()).collect())
    }

    /// Heads of one device, newest first, without reading them.
    pub fn head_names(&self, vault: VaultId, device: DeviceId) -> Result<Vec<(u64, HeadId)>, StoreError> {
        let names = self.files.names(&head_dir(vault, device))?;
        let parse = |name: &String| {
            let (seq, id) = name.split_once('-')?;
            Some((u64::from_str_radix(seq, 16).ok()?, id.parse().ok()?))
        };
        Ok(names.iter().rev().filter_map(parse).collect())
    }

    /// How many heads of a vault are here, and their bytes. Looks at every file.
    pub fn head_sizes(&self, vault: VaultId) -> Result<(usize, u64), StoreError> {
        let (mut count, mut bytes) = (0, 0);
        for device in self.head_devices(vault)? {
            let dir = head_dir(vault, device);
            for name in self.files.names(&dir)? {
                count += 1;
                bytes += std::fs::metadata(self.files.path(&dir, &name)).map_or(0, |file| file.len());
            }
        }
        Ok((count, bytes))
    }

    /// One head's bytes; `None` when it is not here.
    pub fn read_head(
        &self,
        vault: VaultId,
        device: DeviceId,
        seq: u64,
        id: HeadId,
    ) -> Result<Option<Vec<u8>>, StoreError> {
        self.files.read(&head_dir(vault, device), &format!("{seq:016x}-{id}"), limit::HEAD_BYTES_MAX)
    }

    /// Durably stores a piece of a pack list.
    pub fn publish_list(&self, id: ListId, bytes: &[u8]) -> Result<(), StoreError> {
        self.files.publish("lists", &id.to_string(), &[bytes])
    }

    /// A pack list's bytes; `None` when it is not here or its hash is not `id`.
    pub fn read_list(&self, id: ListId) -> Result<Option<Vec<u8>>, StoreError> {
        let bytes = self.files.read("lists", &id.to_string(), limit::LIST_BYTES_MAX)?;
        Ok(bytes.filter(|bytes| blake3::hash(bytes).as_bytes() == id.as_bytes()))
    }

    /// Durably stores a sealed snapshot record.
    pub fn publish_snapshot(&self, id: SnapshotId, bytes: &[u8]) -> Result<(), StoreError> {
        self.files.publish("snapshots", &id.to_string(), &[bytes])
    }

    /// Durably stores sealed snapshot records: what they cost together is little more than one.
    pub fn publish_snapshots(&self, records: &[(SnapshotId, Vec<u8>)]) -> Result<(), StoreError> {
        let files: Vec<(String, &[u8])> =
            records.iter().map(|(id, bytes)| (id.to_string(), bytes.as_slice())).collect();
        self.files.publish_all("snapshots", &files)
    }

    /// A snapshot record's bytes as they are on disk; `None` when it is not here.
    pub fn read_snapshot(&self, id: SnapshotId) -> Result<Option<Vec<u8>>, StoreError> {
        self.files.read("snapshots", &id.to_string(), limit::RECORD_BYTES)
    }

    /// Ids of all snapshot records here, own and foreign.
    pub fn snapshot_files(&self) -> Result<Vec<SnapshotId>, StoreError> {
        Ok(self.files.names("snapshots")?.iter().filter_map(|name| name.parse().ok()).collect())
    }

    /// A record's bytes as they are on disk; `None` when it is not here.
    ///
    /// # Errors
    /// [`StoreError::DamagedFile`] when it is longer than any may be.
    pub fn read_record(&self, record: &RecordName) -> Result<Option<Vec<u8>>, StoreError> {
        let (dir, name, most) = record.place();
        self.files.read(&dir, &name, most)
    }

    /// A record's length on disk; `None` when it is not here.
    pub fn record_length(&self, record: &RecordName) -> Result<Option<u64>, StoreError> {
        let (dir, name, _) = record.place();
        self.files.length(&dir, &name)
    }

    /// Durably puts a record whose hash was checked in the place of a damaged or missing one; the damaged file is kept in
    /// quarantine. At every moment, and after any error, either the old or the new file is in place; of a directory that stood
    /// there nothing may be.
    pub fn replace_record(&self, record: &RecordName, bytes: &[u8]) -> Result<(), StoreError> {
        let (dir, name, _) = record.place();
        let aside = record.name_aside();
        self.files.ensure_dir(&dir)?;
        if self.files.path(&dir, &name).is_dir() {
            // Nothing can be renamed over it.
            self.files.rename((&dir, &name), (QUARANTINE, &aside))?;
        }
        let linked = self.files.link((&dir, &name), (QUARANTINE, &aside))?;
        let placed = self.files.publish(&dir, &name, &[bytes]).inspect_err(|_| {
            if linked {
                // The damaged file is still in its place; a second name for each attempt helps nobody.
                let _ = self.files.remove(QUARANTINE, &aside);
            }
        });
        self.note_changed(record);
        placed
    }

    /// Durably moves a damaged record that nobody waits for any more to quarantine.
    pub fn set_aside_record(&self, record: &RecordName) -> Result<(), StoreError> {
        let (dir, name, _) = record.place();
        self.files.link((&dir, &name), (QUARANTINE, &record.name_aside()))?;
        let removed = self.files.remove(&dir, &name);
        self.note_changed(record);
        removed
    }

    fn note_changed(&self, record: &RecordName) {
        if let RecordName::Head { vault, device, .. } = record {
            self.chains.changed(*vault, *device);
        }
    }

    /// Durably notes that what `holder` said of these packs and heads until then, by its own clock, is not so any more.
    pub(super) fn void_receipts(
        &self,
        holder: PeerId,
        names: impl IntoIterator<Item = ([u8; 32], Moment)>,
    ) -> Result<(), StoreError> {
        let mut void = self.void_receipts_of(holder)?;
        for (name, time) in names {
            let until = void.entry(name).or_insert(time);
            *until = (*until).max(time);
        }
        if void.len() > limit::VOID_RECEIPTS_MAX {
            // Without receipts an index that is made anew counts nothing of that holder before it is asked again.
            return self.remove_receipt_files(holder);
        }
        let mut bytes = Vec::with_capacity(void.len() * VOID_BYTES);
        for (name, until) in void {
            bytes.extend_from_slice(&name);
            bytes.extend_from_slice(&until.as_millis().to_le_bytes());
        }
        self.files.ensure_dir(VOID)?;
        self.files.publish(VOID, &holder.to_string(), &[&bytes])
    }

    /// Ids of packs and heads of which the holder's receipts are void, and until when.
    pub fn void_receipts_of(&self, holder: PeerId) -> Result<BTreeMap<[u8; 32], Moment>, StoreError> {
        let most = limit::VOID_RECEIPTS_MAX * VOID_BYTES;
        let bytes = self.files.read(VOID, &holder.to_string(), most)?.unwrap_or_default();
        let (rows, _) = bytes.as_chunks::<VOID_BYTES>();
        let row = |row: &[u8; VOID_BYTES]| {
            let (id, time) = row.split_first_chunk::<32>()?;
            Some((*id, Moment::from_millis(u64::from_le_bytes(time.try_into().ok()?))))
        };
        Ok(rows.iter().filter_map(row).collect())
    }

    /// Removes the stored receipts of a holder.
    pub fn remove_receipt_files(&self, holder: PeerId) -> Result<(), StoreError> {
        let dir = format!("members/receipts/{holder}");
        for name in self.files.names(&dir)? {
            self.files.remove(&dir, &name)?;
        }
        self.files.remove(VOID, &holder.to_string())
    }

    /// Durably replaces the node's key file: its seed, and what tells whether it is as it was.
    pub fn publish_node_key(&self, seed: &[u8; 32]) -> Result<(), StoreError> {
        self.files.publish("", NODE_KEY, &[seed, &key_check(seed)])
    }

    /// The node's key seed.
    ///
    /// # Errors
    /// [`StoreError::DamagedFile`]: with another key the node would be another peer. A file of 0.1 has no check.
    pub fn read_node_key(&self) -> Result<Option<[u8; 32]>, StoreError> {
        let Some(bytes) = self.files.read("", NODE_KEY, limit::KEY_FILE_BYTES_MAX)? else { return Ok(None) };
        let seed = bytes.first_chunk::<32>().copied();
        let is_sound = |seed: &[u8; 32]| bytes.len() == 32 || bytes[32..] == key_check(seed);
        match seed.filter(|seed| *seed != [0; 32] && is_sound(seed)) {
            Some(seed) => Ok(Some(seed)),
            None => Err(StoreError::DamagedFile(NODE_KEY.to_owned())),
        }
    }

    /// Durably replaces the sealed keyring.
    pub fn publish_keyring(&self, bytes: &[u8]) -> Result<(), StoreError> {
        self.files.publish("keys", "keyring", &[bytes])
    }

    /// The sealed keyring; `None` on a storage-only node.
    pub fn read_keyring(&self) -> Result<Option<Vec<u8>>, StoreError> {
        self.files.read("keys", "keyring", limit::KEY_FILE_BYTES_MAX)
    }

    /// Durably adds a key slot under a fresh name.
    pub fn publish_slot(&self, bytes: &[u8]) -> Result<(), StoreError> {
        let name = format!("slot-{}", hex::encode(random_bytes::<4>()));
        self.files.publish("keys", &name, &[bytes])
    }

    /// All key slots.
    pub fn read_slots(&self) -> Result<Vec<Vec<u8>>, StoreError> {
        let mut out = Vec::new();
        for name in self.files.names("keys")?.iter().filter(|name| name.starts_with("slot-")) {
            out.extend(self.files.read("keys", name, limit::KEY_FILE_BYTES_MAX)?);
        }
        Ok(out)
    }

    /// Durably keeps what the node knows of its vault in the clear: which one it is.
    pub fn publish_vault_id(&self, vault: VaultId) -> Result<(), StoreError> {
        self.files.publish("", "vault.id", &[vault.to_string().as_bytes()])
    }

    /// The node's vault; `None` on a storage-only node.
    pub fn read_vault_id(&self) -> Result<Option<VaultId>, StoreError> {
        let Some(bytes) = self.files.read("", "vault.id", 128)? else { return Ok(None) };
        let text = String::from_utf8_lossy(&bytes);
        text.trim().parse().map(Some).map_err(|_| StoreError::DamagedFile("vault.id".to_owned()))
    }

    /// Durably removes a head.
    pub fn remove_head(
        &self,
        vault: VaultId,
        device: DeviceId,
        seq: u64,
        id: HeadId,
    ) -> Result<(), StoreError> {
        let removed = self.files.remove(&head_dir(vault, device), &format!("{seq:016x}-{id}"));
        self.chains.changed(vault, device);
        removed
    }

    /// Removes all heads of a vault of which there are no packs here, its state files of these names, and what is charged for
    /// it. Cut short, it leaves fewer heads, and can be done again.
    pub fn forget_vault(&self, vault: VaultId, states: &[String]) -> Result<(), StoreError> {
        for device in self.head_devices(vault)? {
            for (seq, id) in self.head_names(vault, device)? {
                self.remove_head(vault, device, seq, id)?;
            }
            self.files.remove_empty_dir(&head_dir(vault, device));
        }
        self.files.remove_empty_dir(&format!("heads/{vault}"));
        for name in states {
            self.remove_state(name)?;
        }
        self.discharge_vault(vault)
    }

    /// Durably removes a piece of a pack list.
    pub fn remove_list(&self, id: ListId) -> Result<(), StoreError> {
        self.files.remove("lists", &id.to_string())
    }

    /// Pieces of pack lists here, own and foreign, whose files are at least this old.
    pub fn old_lists(&self, age: Duration) -> Result<Vec<ListId>, StoreError> {
        let names = self.files.old_names("lists", age)?;
        Ok(names.iter().filter_map(|name| name.parse().ok()).collect())
    }

    /// Snapshot records here, own and foreign, whose files are at least this old.
    pub fn old_snapshots(&self, age: Duration) -> Result<Vec<SnapshotId>, StoreError> {
        let names = self.files.old_names("snapshots", age)?;
        Ok(names.iter().filter_map(|name| name.parse().ok()).collect())
    }

    /// When a head came to this disk, by this machine's clock; `None` when it is not here.
    pub fn head_stored_at(
        &self,
        vault: VaultId,
        device: DeviceId,
        seq: u64,
        id: HeadId,
    ) -> Result<Option<Moment>, StoreError> {
        self.files.modified(&head_dir(vault, device), &format!("{seq:016x}-{id}"))
    }

    /// Durably removes a snapshot record.
    pub fn remove_snapshot(&self, id: SnapshotId) -> Result<(), StoreError> {
        self.files.remove("snapshots", &id.to_string())
    }
}
