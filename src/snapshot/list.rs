//! Pack lists: which packs a head keeps alive, in content-addressed pieces that successive heads share.

use crate::base::{Code, Coded, ListId, PackId, limit};

const MAGIC: [u8; 4] = *b"SVPL";
const VERSION: u16 = 1;
const HEADER_BYTES: usize = 8;
const ROW_BYTES: usize = 33;

/// Why a piece is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ListError {
    /// Not a pack list, or damaged.
    #[error("not a pack list: {0}")]
    Malformed(&'static str),
    /// From a newer version.
    #[error("pack list has version {0}; this program knows version {VERSION}")]
    TooNew(u16),
}

impl Coded for ListError {
    fn code(&self) -> Code {
        match self {
            Self::Malformed(_) => Code::StorageCorrupted,
            Self::TooNew(_) => Code::StorageTooNew,
        }
    }
}

/// A pack's size class.
#[derive(Copy, Clone, PartialEq, Eq, Debug, PartialOrd, Ord)]
pub struct PackSize(u8);

impl PackSize {
    /// `None` unless `bytes` is one of the eight sizes.
    pub fn of(bytes: u64) -> Option<Self> {
        limit::PACK_SIZES.iter().position(|size| *size as u64 == bytes).map(|at| Self(at as u8))
    }

    /// Length in bytes.
    pub fn bytes(self) -> u64 {
        limit::PACK_SIZES[usize::from(self.0)] as u64
    }
}

/// One piece: packs in id order, each with its size.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PackList {
    packs: Vec<(PackId, PackSize)>,
}

impl PackList {
    /// Sorts; at most [`limit::LIST_PACKS_MAX`] packs.
    ///
    /// # Panics
    /// With more packs than that.
    pub fn new(mut packs: Vec<(PackId, PackSize)>) -> Self {
        packs.sort_unstable();
        packs.dedup();
        assert!(packs.len() <= limit::LIST_PACKS_MAX, "the caller cuts lists");
        Self { packs }
    }

    /// The packs, by id.
    pub fn packs(&self) -> &[(PackId, PackSize)] {
        &self.packs
    }

    /// The same, to keep.
    pub fn into_packs(self) -> Vec<(PackId, PackSize)> {
        self.packs
    }

    /// Sum of the packs' lengths.
    pub fn bytes(&self) -> u64 {
        self.packs.iter().map(|(_, size)| size.bytes()).sum()
    }

    /// The file and its id.
    pub fn encode(&self) -> (ListId, Vec<u8>) {
        let mut out = Vec::with_capacity(HEADER_BYTES + self.packs.len() * ROW_BYTES);
        out.extend_from_slice(&MAGIC);
        out.extend_from_slice(&VERSION.to_le_bytes());
        out.extend_from_slice(&[0; 2]);
        for (id, size) in &self.packs {
            out.extend_from_slice(id.as_bytes());
            out.push(size.0);
        }
        (ListId::new(*blake3::hash(&out).as_bytes()), out)
    }

    /// Reads a piece; the caller has compared its hash with the id it asked for.
    pub fn decode(bytes: &[u8]) -> Result<Self, ListError> {
        let (header, rows) =
            bytes.split_first_chunk::<HEADER_BYTES>().ok_or(ListError::Malformed("too short"))?;
        if header[..4] != MAGIC {
            return Err(ListError::Malformed("no list magic"));
        }
        let version = u16::from_le_bytes([header[4], header[5]]);
        if version > VERSION {
            return Err(ListError::TooNew(version));
        }
        let (rows, rest) = rows.as_chunks::<ROW_BYTES>();
        if version != VERSION
            || header[6..] != [0; 2]
            || !rest.is_empty()
            || rows.len() > limit::LIST_PACKS_MAX
        {
            return Err(ListError::Malformed("shape"));
        }
        let packs: Vec<_> = rows
            .iter()
            .map(|row| {
                let id: [u8; 32] = row[..32].try_into().expect("32 bytes of a fixed row");
                let known = usize::from(row[32]) < limit::PACK_SIZES.len();
                known.then_some((PackId::new(id), PackSize(row[32])))
            })
            .collect::<Option<_>>()
            .ok_or(ListError::Malformed("unknown size class"))?;
        if !packs.is_sorted_by(|a, b| a.0 < b.0) {
            return Err(ListError::Malformed("order"));
        }
        Ok(Self { packs })
    }
}

/// How the next head's lists come about.
#[derive(Debug, PartialEq, Eq)]
pub struct ListPlan {
    /// Pieces that stay as they are: this many from the front.
    pub keep: usize,
    /// The pieces behind them are joined with the new packs into new pieces.
    pub merge: usize,
}

/// Plans the lists after `added` new packs, given the sizes of the present pieces, oldest first.
///
/// Like the digits of a counter: a piece is joined with its successor when that has at least half its size, so
/// there are O(log n) small pieces and each pack is rewritten O(log n) times; full pieces stay for ever.
pub fn plan_lists(pieces: &[usize], added: usize) -> ListPlan {
    let mut total = added;
    let mut keep = pieces.len();
    while keep > 0 {
        let last = pieces[keep - 1];
        if last >= limit::LIST_PACKS_MAX || total < last.div_ceil(2) {
            break;
        }
        total += last;
        keep -= 1;
    }
    if added == 0 {
        keep = pieces.len();
    }
    ListPlan { keep, merge: pieces.len() - keep }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn packs(count: usize) -> Vec<(PackId, PackSize)> {
        (0..count)
            .map(|i| (PackId::new(*blake3::hash(&i.to_le_bytes()).as_bytes()), PackSize((i % 8) as u8)))
            .collect()
    }

    #[test]
    fn list_round_trips_and_refuses_damage() {
        for count in [0, 1, 100, 4096] {
            let list = PackList::new(packs(count));
            let (_, bytes) = list.encode();
            assert_eq!(PackList::decode(&bytes), Ok(list));
            assert!(bytes.len() <= limit::LIST_BYTES_MAX);
        }
        let (_, bytes) = PackList::new(packs(3)).encode();
        for cut in [0, 7, bytes.len() - 1] {
            assert!(PackList::decode(&bytes[..cut]).is_err());
        }
        for at in [0, 5, 6, 8 + 32] {
            let mut bad = bytes.clone();
            bad[at] = 0xee;
            assert!(PackList::decode(&bad).is_err(), "byte {at}");
        }
        let twice = [&bytes[..8], &bytes[8..41], &bytes[8..41]].concat();
        assert_eq!(PackList::decode(&twice), Err(ListError::Malformed("order")));
    }

    #[test]
    fn list_matches_its_frozen_bytes() {
        let (id, bytes) =
            PackList::new(vec![(PackId::new([9; 32]), PackSize(7)), (PackId::new([1; 32]), PackSize(0))])
                .encode();
        crate::base::frozen("list.txt", format!("{id} {}\n", hex::encode(bytes)).as_bytes());
    }

    proptest! {
        #[test]
        fn plans_keep_few_pieces(adds in prop::collection::vec(1usize..300, 1..200)) {
            let mut pieces: Vec<usize> = Vec::new();
            for added in adds {
                let plan = plan_lists(&pieces, added);
                let mut total: usize = pieces.split_off(plan.keep).iter().sum::<usize>() + added;
                while total > 0 {
                    let part = total.min(limit::LIST_PACKS_MAX);
                    pieces.push(part);
                    total -= part;
                }
            }
            let small = pieces.iter().filter(|n| **n < limit::LIST_PACKS_MAX).count();
            prop_assert!(small <= 16, "{pieces:?}");
        }
    }
}
