//! Carrying copies on a disk: what a holder would pull, in one file, and taking it in from there.
//!
//! The file is a tar archive of sealed things, in the order in which each can be checked when it comes: the vault's newest
//! heads, the pack lists and snapshot records that they name, packs. Nothing in it is believed: heads are signed, all else is
//! named by its hash and must be named by a head. At most one pack is in memory.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::fs::File;
use std::io::{self, Read, Seek, Write};

use tar::{Archive, Builder, Header};

use super::copies::packs_of;
use super::error::EngineError;
use super::heads::{adopt_head, for_each_listed, head_packs, is_known, newest_heads};
use super::holder::{
    HolderError, accept_head, charges_of, forward_packs, held_packs, missing_records, readable, store_list,
    store_snapshot,
};
use super::monitor::Monitor;
use super::pull::{PackSource, pull_pack};
use super::rebuild::adopt_unindexed;
use super::vault::Vault;
use crate::base::{HeadId, ListId, PackId, PeerId, SnapshotId, VaultId, limit};
use crate::pack::Outboard;
use crate::snapshot::{Head, PackSize, SignedHead, Snapshot};
use crate::store::{RecordName, Store, StoreError, record_room};

/// The first member; its content is the vault's id.
const FIRST: &str = "shadowvault-export-1";
/// Damaged parts that are told by name.
const FAULTS_TOLD: usize = 5;

/// Writes the vault's heads, with all that they list, to `out`; of the packs only those that `snapshot` needs, if one is given.
/// Every pack is compared with its id first. Packs that are not here, such as those that other devices wrote, are pulled
/// from `source` on the way and do not stay.
///
/// # Errors
/// A pack that nobody has, a record that is missing, either of them damaged; [`EngineError::Cancelled`] when `out` gives `false`.
pub fn export(
    vault: &Vault,
    source: Option<&dyn PackSource>,
    snapshot: Option<&Snapshot>,
    monitor: &Monitor,
    out: impl FnMut(&[u8]) -> bool,
) -> Result<(), EngineError> {
    let store = &vault.store;
    // Nothing that is listed now goes before it was written out.
    let _at_work = store.enter();
    let heads: Vec<Head> = newest_heads(store, vault.id())?.collect::<Result<_, _>>()?;
    let mut packs: BTreeMap<PackId, PackSize> = BTreeMap::new();
    for listed in heads.iter().flat_map(|head| head_packs(store, head)) {
        packs.extend([listed?]);
    }
    if let Some(snapshot) = snapshot {
        let mut needed = BTreeSet::new();
        for number in packs_of(vault, source, snapshot)? {
            needed.extend(store.pack_by_number(number)?.map(|row| row.id));
        }
        packs.retain(|id, _| needed.contains(id));
    }
    let mut archive = Builder::new(Sink(out));
    member(&mut archive, FIRST, vault.id().to_string().as_bytes())?;
    for head in &heads {
        let bytes = store.read_head(vault.id(), head.device(), head.draft.seq, head.id)?;
        member(&mut archive, &format!("heads/{}", head.id), &sound(bytes, head.id.as_bytes(), "a head")?)?;
    }
    for list in heads.iter().flat_map(|head| &head.draft.lists).map(|list| list.id).collect::<BTreeSet<_>>() {
        let bytes = sound(readable(store.read_list(list))?, list.as_bytes(), "a pack list")?;
        member(&mut archive, &format!("lists/{list}"), &bytes)?;
    }
    for id in heads.iter().flat_map(|head| head.draft.snapshots.iter().copied()).collect::<BTreeSet<_>>() {
        let what = format!("the record of snapshot {}", id.short());
        let bytes = sound(readable(store.read_snapshot(id))?, id.as_bytes(), &what)?;
        member(&mut archive, &format!("snapshots/{id}"), &bytes)?;
    }
    for (id, size) in packs {
        monitor.go_on()?;
        let bytes = whole_pack(store, source, id, size, monitor)?;
        member(&mut archive, &format!("packs/{id}"), &bytes)?;
    }
    archive.finish().map_err(|_| EngineError::Cancelled)
}

/// A pack from here or, if it is not here, from whoever has it.
fn whole_pack(
    store: &Store,
    source: Option<&dyn PackSource>,
    id: PackId,
    size: PackSize,
    monitor: &Monitor,
) -> Result<Vec<u8>, EngineError> {
    let bytes = match (store.open_pack(id), source) {
        (Ok(file), _) => file.read_all()?,
        (Err(StoreError::MissingPack(_)), Some(source)) => {
            let mut bytes = Vec::new();
            pull_pack(source, id, size.bytes(), &mut bytes, monitor)?;
            return Ok(bytes);
        }
        (Err(error), _) => return Err(error.into()),
    };
    if Outboard::of(&bytes).0 != id {
        return Err(StoreError::DamagedFile(format!("pack {id}")).into());
    }
    Ok(bytes)
}

/// A record that is here and is what its id says.
fn sound(bytes: Option<Vec<u8>>, id: &[u8; 32], what: &str) -> Result<Vec<u8>, EngineError> {
    let bytes = bytes.filter(|bytes| blake3::hash(bytes).as_bytes() == id);
    bytes.ok_or_else(|| EngineError::RecordMissing(what.to_owned()))
}

fn member<W: Write>(archive: &mut Builder<W>, name: &str, bytes: &[u8]) -> Result<(), EngineError> {
    let mut header = Header::new_ustar();
    header.set_size(bytes.len() as u64);
    header.set_mode(0o600);
    header.set_mtime(0);
    // Names are short, so only whoever takes the bytes can fail.
    archive.append_data(&mut header, name, bytes).map_err(|_| EngineError::Cancelled)
}

struct Sink<F>(F);

impl<F: FnMut(&[u8]) -> bool> Write for Sink<F> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let mut parts = bytes.chunks(limit::DUMP_PART_BYTES);
        if parts.all(|part| self.0(part)) { Ok(bytes.len()) } else { Err(io::ErrorKind::BrokenPipe.into()) }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// What was taken in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImportResult {
    /// Whose packs these are.
    pub vault: VaultId,
    /// Packs stored.
    pub packs: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Packs that were here already.
    pub held: u64,
    /// Snapshots of the own vault that were not listed here.
    pub snapshots: u64,
    /// Snapshots of the own vault that newer heads list no more, or that a revoked device had.
    pub passed_over: u64,
    /// Parts that were not what their names say, and were left out.
    pub damaged: u64,
    /// The first of them, and what was wrong.
    pub faults: Vec<String>,
}

/// Stores something of that vault and of so many bytes by calling what it is given with who pays for it, if there is room.
pub type Room<'a> = &'a dyn Fn(VaultId, u64, Keep<'_>) -> Result<(), EngineError>;

/// Stores something that is charged to this peer.
pub type Keep<'a> = &'a mut dyn FnMut(PeerId) -> Result<(), EngineError>;

/// Takes in an export: as copies for another's vault, or, with the keys of that very vault, as packs that are missing here and
/// as history that is: heads that no head here carries on, after an older image of the disk was put back, count as those that a
/// holder has.
///
/// Each pack is durable before the next one is read, so that an import that broke off can be made again and goes on. A damaged
/// pack is left out, and told of; with the keys of that vault so is any other part, and an end that is missing: what else is there
/// counts as what a holder has.
///
/// # Errors
/// [`EngineError::NotAnExport`] for anything else than an export, and of another's vault for one that has not all records;
/// heads that are not valid; no room.
pub fn import(
    store: &Store,
    own: Option<&Vault>,
    input: &mut dyn Read,
    room: Room<'_>,
    monitor: &Monitor,
) -> Result<ImportResult, EngineError> {
    let mut archive = Archive::new(input);
    // Without extensions of the format: a name of any length would be read into memory.
    let mut members = archive.entries().map_err(not_an_export)?.raw(true);
    let first = members.next().transpose().map_err(not_an_export)?;
    let mut first = first.ok_or_else(|| EngineError::NotAnExport("it is empty".to_owned()))?;
    let text = if name_of(&first)? == FIRST { read(&mut first, 64)? } else { Vec::new() };
    let vault = String::from_utf8(text).ok().and_then(|text| text.parse().ok());
    let vault: VaultId =
        vault.ok_or_else(|| EngineError::NotAnExport("it does not begin as one".to_owned()))?;
    let own = own.filter(|own| own.id() == vault);
    let (damaged, faults) = (0, Vec::new());
    let counts =
        ImportResult { vault, packs: 0, bytes: 0, held: 0, snapshots: 0, passed_over: 0, damaged, faults };
    let heads = SetAside { file: store.scratch()?, lengths: Vec::new() };
    let records = Names::default();
    let mut import = Import { store, own, room, heads, records, listed: None, all: false, result: counts };
    if own.is_some() {
        for head in newest_heads(store, vault)? {
            import.records.add_records(&head?);
        }
    }
    for member in members {
        monitor.go_on()?;
        match member.map_err(not_an_export).and_then(|mut member| import.member(&mut member, monitor)) {
            Err(EngineError::NotAnExport(why)) if own.is_some() => {
                import.fault(format!("{why}; what follows was not read"));
                break;
            }
            taken => taken?,
        }
    }
    import.listed()?;
    if let Some(own) = import.own {
        adopt_unindexed(own, monitor)?;
        import.adopt(own)?;
    }
    Ok(import.result)
}

fn not_an_export(error: io::Error) -> EngineError {
    EngineError::NotAnExport(error.to_string())
}

fn name_of(member: &tar::Entry<'_, impl Read>) -> Result<String, EngineError> {
    Ok(String::from_utf8_lossy(&member.path_bytes()).into_owned())
}

/// The whole content, if it is at most `most` bytes.
fn read(member: &mut tar::Entry<'_, impl Read>, most: usize) -> Result<Vec<u8>, EngineError> {
    let length = usize::try_from(member.size()).ok().filter(|length| *length <= most);
    let length = length.ok_or_else(|| EngineError::NotAnExport("a part of it is too large".to_owned()))?;
    let mut bytes = vec![0; length];
    member.read_exact(&mut bytes).map_err(not_an_export)?;
    Ok(bytes)
}

/// An import under way.
struct Import<'a> {
    store: &'a Store,
    own: Option<&'a Vault>,
    room: Room<'a>,
    /// Verified heads that are news, until what they name is here.
    heads: SetAside,
    /// Lists and snapshot records that heads name.
    records: Names,
    /// Packs that heads list, once all records are here.
    listed: Option<Names>,
    /// Any pack may come: it is not known which ones heads list.
    all: bool,
    result: ImportResult,
}

/// Heads that wait in a file.
struct SetAside {
    file: File,
    lengths: Vec<usize>,
}

impl SetAside {
    fn push(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.lengths.push(bytes.len());
        self.file.write_all(bytes)
    }

    /// Calls `each` with one after the other.
    fn for_each(
        &mut self,
        mut each: impl FnMut(&[u8]) -> Result<(), EngineError>,
    ) -> Result<(), EngineError> {
        self.file.rewind().map_err(set_aside)?;
        for length in &self.lengths {
            let mut bytes = vec![0; *length];
            self.file.read_exact(&mut bytes).map_err(set_aside)?;
            each(&bytes)?;
        }
        Ok(())
    }
}

fn set_aside(error: io::Error) -> EngineError {
    StoreError::io("setting heads aside", error).into()
}

/// Ids by their first eight bytes: heads may name many millions. Who makes two that begin alike gets one into his own import
/// that nothing names.
#[derive(Default)]
struct Names {
    short: Vec<u64>,
    /// How many of them are in order, each once.
    sorted: usize,
}

impl Names {
    fn short(id: &[u8; 32]) -> u64 {
        u64::from_le_bytes(*id.first_chunk().expect("an id is longer"))
    }

    fn add(&mut self, id: &[u8; 32]) {
        self.short.push(Self::short(id));
    }

    fn add_records(&mut self, head: &Head) {
        head.draft.lists.iter().for_each(|list| self.add(list.id.as_bytes()));
        head.draft.snapshots.iter().for_each(|id| self.add(id.as_bytes()));
    }

    /// How many there are.
    fn count(&mut self) -> usize {
        if self.sorted < self.short.len() {
            self.short.sort_unstable();
            self.short.dedup();
            self.sorted = self.short.len();
        }
        self.sorted
    }

    fn has(&mut self, id: &[u8; 32]) -> bool {
        self.count();
        self.short.binary_search(&Self::short(id)).is_ok()
    }
}

impl Import<'_> {
    fn member(
        &mut self,
        member: &mut tar::Entry<'_, impl Read>,
        monitor: &Monitor,
    ) -> Result<(), EngineError> {
        let name = name_of(member)?;
        match name.split_once('/') {
            Some(("heads", id)) => self.head(id, &read(member, limit::HEAD_BYTES_MAX)?),
            Some(("lists", id)) => self.list(id, &read(member, limit::LIST_BYTES_MAX)?),
            Some(("snapshots", id)) => self.snapshot(id, &read(member, limit::RECORD_BYTES)?),
            Some(("packs", id)) => {
                let bytes = read(member, limit::PACK_BYTES_MAX)?;
                self.pack(id, &bytes)?;
                Monitor::add(&monitor.bytes_done, bytes.len() as u64);
                Ok(())
            }
            _ => Err(EngineError::NotAnExport(format!("it holds {name:?}"))),
        }
    }

    /// Something is left out.
    fn fault(&mut self, what: String) {
        self.result.damaged += 1;
        if self.result.faults.len() < FAULTS_TOLD {
            self.result.faults.push(what);
        }
    }

    /// Whether a part of the own vault is not what its name says: it is left out, as nobody else is told that it is here.
    fn leaves_out(&mut self, what: &str, id: &[u8; 32], bytes: &[u8]) -> bool {
        let out = self.own.is_some() && blake3::hash(bytes).as_bytes() != id;
        if out {
            self.fault(format!("{what} {} is damaged in it", hex::encode(&id[..4])));
        }
        out
    }

    fn head(&mut self, id: &str, bytes: &[u8]) -> Result<(), EngineError> {
        let id: HeadId = named(id)?;
        if self.leaves_out("head", id.as_bytes(), bytes) {
            return Ok(());
        }
        if self.listed.is_some() || self.heads.lengths.len() >= limit::VAULT_DEVICES_MAX {
            return Err(EngineError::NotAnExport("a head is out of place".to_owned()));
        }
        let head = match accept_head(self.store, self.result.vault, id, bytes) {
            // It was written before that.
            Err(HolderError::Revoked(_)) if self.own.is_some() => return Ok(()),
            accepted => accepted?,
        };
        if self.own.is_some() && is_known(self.store, self.result.vault, &head.summary())? {
            return Ok(());
        }
        self.records.add_records(&head);
        self.heads.push(bytes).map_err(set_aside)
    }

    fn list(&mut self, id: &str, bytes: &[u8]) -> Result<(), EngineError> {
        let id: ListId = named(id)?;
        if self.leaves_out("pack list", id.as_bytes(), bytes) {
            return Ok(());
        }
        if !self.records.has(id.as_bytes()) {
            return self.passed_over("pack list");
        }
        self.keep_record(RecordName::List(id), bytes, || store_list(self.store, id, bytes))
    }

    fn snapshot(&mut self, id: &str, bytes: &[u8]) -> Result<(), EngineError> {
        let id: SnapshotId = named(id)?;
        if self.leaves_out("snapshot record", id.as_bytes(), bytes) {
            return Ok(());
        }
        if !self.records.has(id.as_bytes()) {
            self.result.passed_over += 1;
            return self.passed_over("snapshot record");
        }
        self.keep_record(RecordName::Snapshot(id), bytes, || store_snapshot(self.store, id, bytes))
    }

    /// Stores a record of another's vault in the room that there is; of the own one everything has room.
    fn keep_record(
        &self,
        name: RecordName,
        bytes: &[u8],
        store: impl Fn() -> Result<(), EngineError>,
    ) -> Result<(), EngineError> {
        if self.own.is_some() || self.store.record_length(&name)?.is_some() {
            return store();
        }
        let (vault, length) = (self.result.vault, bytes.len() as u64);
        let mut keep = |payer| {
            store()?;
            Ok(self.store.charge_records(vault, payer, &[(*name.hash(), length)])?)
        };
        (self.room)(vault, record_room(length), &mut keep)
    }

    fn pack(&mut self, id: &str, bytes: &[u8]) -> Result<(), EngineError> {
        let id: PackId = named(id)?;
        if !self.listed()?.has(id.as_bytes()) && !self.all {
            return self.passed_over("pack");
        }
        if self.is_here(id, bytes.len())? {
            self.result.held += 1;
            return Ok(());
        }
        let (found, outboard) = Outboard::of(bytes);
        if found != id || PackSize::of(bytes.len() as u64).is_none() {
            self.fault(format!("pack {} is damaged in it", id.short()));
            return Ok(());
        }
        if self.own.is_some() {
            self.store.replace_pack(id, bytes, &outboard)?;
        } else {
            let vault = self.result.vault;
            let mut keep = |payer| forward_packs(self.store, (vault, payer), id, bytes, &outboard);
            (self.room)(vault, bytes.len() as u64, &mut keep)?;
        }
        self.result.packs += 1;
        self.result.bytes += bytes.len() as u64;
        Ok(())
    }

    fn is_here(&self, id: PackId, length: usize) -> Result<bool, EngineError> {
        Ok(match self.own {
            Some(_) => self.store.pack_length(id)? == Some(length as u64),
            None => !held_packs(self.store, self.result.vault, &[id])?.is_empty(),
        })
    }

    /// The packs that may come. The first call ends the records: heads of others are stored once all records that they name are
    /// here.
    fn listed(&mut self) -> Result<&mut Names, EngineError> {
        if self.listed.is_none() {
            let (mut listed, mut lists, store) = (Names::default(), HashSet::new(), self.store);
            let (room, vault, is_own) = (self.room, self.result.vault, self.own.is_some());
            let mut lacking = false;
            if is_own {
                for head in newest_heads(store, vault)? {
                    list_packs(store, &head?, &mut lists, &mut listed)?;
                }
            }
            self.heads.for_each(|bytes| {
                let head = SignedHead::verify(bytes)?;
                let needs = missing_records(store, &head)?;
                if !is_own && !needs.is_empty() {
                    return Err(EngineError::NotAnExport("records of a head are not in it".to_owned()));
                }
                lacking |= !needs.lists.is_empty();
                list_packs(store, &head, &mut lists, &mut listed)?;
                if is_own {
                    return Ok(());
                }
                let mut keep = |payer| {
                    adopt_head(store, &head, bytes)?;
                    // What was here already is this vault's as well now.
                    Ok(store.charge_records(vault, payer, &charges_of(store, &head)?)?)
                };
                room(vault, record_room(bytes.len() as u64), &mut keep)
            })?;
            self.listed = Some(listed);
            self.all = lacking;
        }
        Ok(self.listed.get_or_insert_default())
    }

    /// Stores the heads of the own vault that are news, once all packs that came are in the index.
    fn adopt(&mut self, own: &Vault) -> Result<(), EngineError> {
        let (store, mut listed) = (self.store, HashSet::new());
        for head in newest_heads(store, own.id())? {
            listed.extend(head?.draft.snapshots);
        }
        let before = listed.len();
        self.heads.for_each(|bytes| {
            let head = SignedHead::verify(bytes)?;
            if head.device() == own.device() {
                // This disk is older than it was: holders may have let go what it does not know of.
                store.doubt_all_holders()?;
            }
            adopt_head(store, &head, bytes)?;
            listed.extend(head.draft.snapshots);
            Ok(())
        })?;
        self.result.snapshots = (listed.len() - before) as u64;
        Ok(())
    }

    /// What no head names: an older export of the own vault may hold what was forgotten since.
    fn passed_over(&self, what: &str) -> Result<(), EngineError> {
        match self.own {
            Some(_) => Ok(()),
            None => Err(EngineError::NotAnExport(format!("it holds a {what} that no head in it names"))),
        }
    }
}

/// Adds the packs on those lists of a head that did not come before.
fn list_packs(
    store: &Store,
    head: &Head,
    lists: &mut HashSet<u64>,
    listed: &mut Names,
) -> Result<(), EngineError> {
    for list in head.draft.lists.iter().filter(|list| lists.insert(Names::short(list.id.as_bytes()))) {
        for_each_listed(store, &HashSet::from([list.id]), |id| listed.add(id.as_bytes()))?;
        if listed.short.len() > limit::IMPORT_PACKS_MAX && listed.count() > limit::IMPORT_PACKS_MAX {
            let most = limit::IMPORT_PACKS_MAX;
            return Err(EngineError::NotAnExport(format!("its heads list more than {most} packs")));
        }
    }
    Ok(())
}

fn named<T: std::str::FromStr>(id: &str) -> Result<T, EngineError> {
    id.parse().map_err(|_| EngineError::NotAnExport(format!("{id:?} is no id")))
}
