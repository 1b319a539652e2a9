//! What holders confirmed, in files beside the index, so that an index that is made anew knows it.
//!
//! A receipt is kept as rows of what counts of it: its signature was checked when it came. Each comes as a file of its own;
//! when a holder has too many of them they are joined into one, and what an index that is made anew would not count is left
//! out. So a holder takes no more space here than the packs that were offered to it. The first version kept receipts as they
//! were signed; those are still read.

use std::collections::BTreeMap;

use super::Store;
use super::error::StoreError;
use crate::base::{HeadId, Moment, PackId, PeerId, limit, random_bytes};
use crate::policy::Mark;

/// One row: a kind, an id, a number.
const ROW_BYTES: usize = 41;
const PACK: u8 = 0;
const HEAD: u8 = 1;
const MARK: u8 = 2;
/// How files of rows begin to be called.
const ROWS: &str = "rows-";

/// What a holder confirmed.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct KeptReceipts {
    /// Packs, and when it last said so, by its own clock.
    pub packs: BTreeMap<PackId, Moment>,
    /// Heads whose records it has, and when it last said so.
    pub heads: BTreeMap<HeadId, Moment>,
    /// Runs of its program, and what its store had taken in by then at least.
    pub marks: BTreeMap<u64, u64>,
}

impl KeptReceipts {
    /// One receipt.
    pub fn of(packs: &[PackId], head: Option<HeadId>, mark: Option<Mark>, time: Moment) -> Self {
        Self {
            packs: packs.iter().map(|pack| (*pack, time)).collect(),
            heads: head.into_iter().map(|head| (head, time)).collect(),
            marks: mark.into_iter().map(|mark| (mark.run, mark.count)).collect(),
        }
    }

    fn join(&mut self, other: Self) {
        fn newest<K: Ord, V: Ord + Copy>(into: &mut BTreeMap<K, V>, from: BTreeMap<K, V>) {
            for (key, value) in from {
                let known = into.entry(key).or_insert(value);
                *known = value.max(*known);
            }
        }
        newest(&mut self.packs, other.packs);
        newest(&mut self.heads, other.heads);
        newest(&mut self.marks, other.marks);
    }

    /// Only the newest heads are of use.
    fn shorten(&mut self) {
        if self.heads.len() > limit::RECEIPT_HEADS_MAX {
            let mut times: Vec<Moment> = self.heads.values().copied().collect();
            times.sort_unstable_by(|a, b| b.cmp(a));
            let oldest = times[limit::RECEIPT_HEADS_MAX - 1];
            self.heads.retain(|_, time| *time >= oldest);
        }
        while self.marks.len() > limit::RECEIPT_HEADS_MAX {
            let least = self.marks.iter().min_by_key(|(_, count)| **count).map(|(run, _)| *run);
            least.map(|run| self.marks.remove(&run));
        }
    }

    fn encode(&self) -> Vec<u8> {
        let mut bytes =
            Vec::with_capacity((self.packs.len() + self.heads.len() + self.marks.len()) * ROW_BYTES);
        let mut row = |kind: u8, id: &[u8; 32], number: u64| {
            bytes.push(kind);
            bytes.extend_from_slice(id);
            bytes.extend_from_slice(&number.to_le_bytes());
        };
        self.packs.iter().for_each(|(pack, time)| row(PACK, pack.as_bytes(), time.as_millis()));
        self.heads.iter().for_each(|(head, time)| row(HEAD, head.as_bytes(), time.as_millis()));
        for (run, count) in &self.marks {
            let mut id = [0; 32];
            id[..8].copy_from_slice(&run.to_le_bytes());
            row(MARK, &id, *count);
        }
        bytes
    }

    /// Rows that are of no known kind are left out.
    fn decode(bytes: &[u8]) -> Self {
        let mut kept = Self::default();
        for row in bytes.as_chunks::<ROW_BYTES>().0 {
            let Some((id, number)) = row[1..].split_first_chunk::<32>() else { continue };
            let Ok(number) = number.try_into().map(u64::from_le_bytes) else { continue };
            let time = Moment::from_millis(number);
            match row[0] {
                PACK => drop(kept.packs.insert(PackId::new(*id), time)),
                HEAD => drop(kept.heads.insert(HeadId::new(*id), time)),
                MARK => {
                    if let Some((run, _)) = id.split_first_chunk::<8>() {
                        kept.marks.insert(u64::from_le_bytes(*run), number);
                    }
                }
                _ => {}
            }
        }
        kept
    }
}

fn directory(holder: PeerId) -> String {
    format!("members/receipts/{holder}")
}

impl Store {
    /// Durably keeps what counts of a receipt of `holder`.
    pub fn keep_receipt(&self, holder: PeerId, receipt: &KeptReceipts) -> Result<(), StoreError> {
        let dir = directory(holder);
        self.files.ensure_dir(&dir)?;
        let name = format!("{ROWS}{}", hex::encode(random_bytes::<16>()));
        self.files.publish(&dir, &name, &[&receipt.encode()])?;
        let names = self.files.names(&dir)?;
        let rows: Vec<String> = names.into_iter().filter(|name| name.starts_with(ROWS)).collect();
        if rows.len() > limit::RECEIPT_FILES_MAX { self.join_receipts(holder, &rows) } else { Ok(()) }
    }

    /// Puts what these files say, as far as it counts, into one. A crash leaves some of it twice.
    fn join_receipts(&self, holder: PeerId, names: &[String]) -> Result<(), StoreError> {
        let dir = directory(holder);
        let mut all = KeptReceipts::default();
        for name in names {
            all.join(self.read_rows(&dir, name)?);
        }
        let void = self.void_receipts_of(holder)?;
        let counts = |id: &[u8; 32], time: &Moment| void.get(id).is_none_or(|until| time > until);
        all.heads.retain(|head, time| counts(head.as_bytes(), time));
        let mut known = BTreeMap::new();
        for (pack, time) in all.packs {
            if counts(pack.as_bytes(), &time) && self.pack_by_id(pack)?.is_some_and(|row| row.own) {
                known.insert(pack, time);
            }
        }
        all.packs = known;
        all.shorten();
        let joined = format!("{ROWS}{}", hex::encode(random_bytes::<16>()));
        self.files.publish(&dir, &joined, &[&all.encode()])?;
        names.iter().try_for_each(|name| self.files.remove(&dir, name))
    }

    fn read_rows(&self, dir: &str, name: &str) -> Result<KeptReceipts, StoreError> {
        let bytes = self.files.read(dir, name, limit::RECEIPT_FILE_BYTES_MAX)?.unwrap_or_default();
        Ok(KeptReceipts::decode(&bytes))
    }

    /// Everything that is kept of what holders confirmed, void or not, holder by holder.
    pub fn for_each_kept_receipt(
        &self,
        mut each: impl FnMut(PeerId, KeptReceipts) -> Result<(), StoreError>,
    ) -> Result<(), StoreError> {
        for holder in self.files.names("members/receipts")? {
            let Ok(peer) = holder.parse::<PeerId>() else { continue };
            each(peer, self.kept_receipts_of(peer)?)?;
        }
        Ok(())
    }

    /// The same of one holder.
    pub fn kept_receipts_of(&self, holder: PeerId) -> Result<KeptReceipts, StoreError> {
        let dir = directory(holder);
        let mut all = KeptReceipts::default();
        for name in self.files.names(&dir)?.iter().filter(|name| name.starts_with(ROWS)) {
            all.join(self.read_rows(&dir, name)?);
        }
        Ok(all)
    }

    /// Calls `each` with the bytes of every receipt that the first version kept as it was signed.
    pub fn for_each_signed_receipt(&self, mut each: impl FnMut(&[u8])) -> Result<(), StoreError> {
        for holder in self.files.names("members/receipts")? {
            let dir = format!("members/receipts/{holder}");
            for name in self.files.names(&dir)?.iter().filter(|name| !name.starts_with(ROWS)) {
                if let Some(bytes) = self.files.read(&dir, name, limit::RECEIPT_BYTES_MAX + 1024)? {
                    each(&bytes);
                }
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::Epoch;
    use crate::store::NewPack;

    fn pack(n: u32) -> PackId {
        PackId::new(*blake3::hash(&n.to_le_bytes()).as_bytes())
    }

    /// Receipts for packs that nobody had took 163 MiB in 1,196 files within half a minute.
    #[test]
    fn receipts_of_one_holder_take_a_bounded_number_of_files_with_what_counts_of_them() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::create(&dir.path().join("s")).unwrap();
        let holder = PeerId::new([7; 32]);
        let at = |n: u32| Moment::from_millis(u64::from(n) + 1);
        let new = |n| NewPack { id: pack(n), bytes: 1, epoch: Epoch(0), own: true, entries: Vec::new() };
        store.index_packs(&(0..100).map(new).collect::<Vec<_>>()).unwrap();
        for n in 0..1000 {
            let head = HeadId::new(*pack(n).as_bytes());
            // Packs that this node does not have are among them, and the same again and again.
            let mark = Some(Mark { run: 1, count: u64::from(n) });
            let kept = KeptReceipts::of(&[pack(n), pack(n % 10)], Some(head), mark, at(n));
            store.keep_receipt(holder, &kept).unwrap();
            let files = store.files.names(&directory(holder)).unwrap().len();
            assert!(files <= limit::RECEIPT_FILES_MAX, "{files}");
        }
        let kept = store.kept_receipts_of(holder).unwrap();
        assert!((0..100).all(|n| kept.packs.contains_key(&pack(n))));
        assert_eq!(kept.packs[&pack(3)], at(993));
        assert!(kept.packs.len() <= 100 + limit::RECEIPT_FILES_MAX);
        assert!(kept.heads.contains_key(&HeadId::new(*pack(999).as_bytes())));
        assert!(kept.heads.len() <= limit::RECEIPT_HEADS_MAX + limit::RECEIPT_FILES_MAX);
        assert_eq!(kept.marks, BTreeMap::from([(1, 999)]));
        let bytes: u64 = std::fs::read_dir(store.dir().join(directory(holder)))
            .unwrap()
            .map(|file| file.unwrap().metadata().unwrap().len())
            .sum();
        assert!(bytes < 64 << 10, "{bytes}");
    }
}
