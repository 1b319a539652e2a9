//! Proofs for ranges of a pack: its BLAKE3 tree, cut at 64 KiB cells.
//!
//! An outboard is the chaining value of every cell. With it any run of cells is proven by the chaining values of
//! the subtrees beside the run (at most two for each level); without it, nothing has to be trusted: the root must
//! equal the pack's id. The same idea as bao, with a fixed and larger granularity.

use blake3::hazmat::{ChainingValue, HasherExt, Mode, merge_subtrees_non_root, merge_subtrees_root};

use crate::base::{Code, Coded, PackId, limit};

/// Whole cells of a pack, `first..end`.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
pub struct CellRange {
    /// First cell.
    pub first: usize,
    /// One past the last cell.
    pub end: usize,
}

impl CellRange {
    /// The cells that cover `length` bytes at `offset` of a pack of `pack_length` bytes; `None` when that is
    /// empty or outside the pack.
    pub fn covering(offset: u64, length: u64, pack_length: u64) -> Option<Self> {
        let end = offset.checked_add(length)?;
        if length == 0 || end > pack_length || pack_length > limit::PACK_BYTES_MAX as u64 {
            return None;
        }
        let cell = limit::CELL_BYTES as u64;
        Some(Self { first: (offset / cell) as usize, end: end.div_ceil(cell) as usize })
    }

    /// Offset in bytes of the first cell.
    pub fn offset(&self) -> u64 {
        (self.first * limit::CELL_BYTES) as u64
    }

    /// Length in bytes within a pack of `pack_length` bytes.
    pub fn length(&self, pack_length: u64) -> u64 {
        pack_length.min((self.end * limit::CELL_BYTES) as u64).saturating_sub(self.offset())
    }
}

/// Number of cells of a pack of `length` bytes.
pub fn cell_count(length: usize) -> usize {
    length.div_ceil(limit::CELL_BYTES)
}

/// A slice that does not verify.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ProofError {
    /// Range, data or proof have impossible lengths.
    #[error("slice has an impossible shape")]
    Shape,
    /// The data does not lead to the pack's id.
    #[error("slice does not belong to the pack")]
    Mismatch,
}

impl Coded for ProofError {
    fn code(&self) -> Code {
        Code::PeerMisbehaved
    }
}

/// The chaining value of every cell of one pack.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Outboard {
    cells: Vec<ChainingValue>,
}

fn cell_value(index: usize, data: &[u8]) -> ChainingValue {
    let mut hasher = blake3::Hasher::new();
    hasher.set_input_offset((index * limit::CELL_BYTES) as u64);
    hasher.update(data);
    hasher.finalize_non_root()
}

/// Cells in the left child of a subtree of `cells` ≥ 2 cells: BLAKE3 fills the left side with a power of two.
fn left_cells(cells: usize) -> usize {
    cells.div_ceil(2).next_power_of_two()
}

/// Hashes a pack that comes piece by piece.
#[derive(Default)]
pub struct OutboardBuilder {
    cells: Vec<ChainingValue>,
}

impl OutboardBuilder {
    /// Takes the pack's next bytes: whole cells, except at the very end.
    pub fn append(&mut self, bytes: &[u8]) {
        let first = self.cells.len();
        let cells = bytes.chunks(limit::CELL_BYTES).enumerate();
        self.cells.extend(cells.map(|(i, cell)| cell_value(first + i, cell)));
    }

    /// The pack's id and outboard; `None` with fewer than two cells.
    pub fn finish(self) -> Option<(PackId, Outboard)> {
        let outboard = Outboard { cells: self.cells };
        outboard.root().map(|id| (id, outboard))
    }
}

impl Outboard {
    /// Hashes a whole pack: its id and its outboard. A pack has at least two cells.
    pub fn of(pack: &[u8]) -> (PackId, Self) {
        let mut cells = OutboardBuilder::default();
        cells.append(pack);
        let outboard = Self { cells: cells.cells };
        let id = outboard.root().unwrap_or_else(|| PackId::new(*blake3::hash(pack).as_bytes()));
        (id, outboard)
    }

    /// Reads the file that [`Outboard::to_bytes`] wrote; `None` unless it belongs to `id` with that length.
    pub fn read(bytes: &[u8], id: PackId, pack_length: usize) -> Option<Self> {
        let (cells, rest) = bytes.as_chunks::<32>();
        let outboard = Self { cells: cells.to_vec() };
        let whole = rest.is_empty() && cells.len() == cell_count(pack_length);
        (whole && outboard.root() == Some(id)).then_some(outboard)
    }

    /// The file that lies beside a pack: 32 bytes a cell.
    pub fn to_bytes(&self) -> Vec<u8> {
        self.cells.concat()
    }

    /// The pack id these values lead to; `None` with fewer than two cells.
    pub fn root(&self) -> Option<PackId> {
        if self.cells.len() < 2 {
            return None;
        }
        let (left, right) = self.cells.split_at(left_cells(self.cells.len()));
        let hash = merge_subtrees_root(&subtree(left), &subtree(right), Mode::Hash);
        Some(PackId::new(*hash.as_bytes()))
    }

    /// Whether cell `index` holds what it should.
    pub fn matches(&self, index: usize, data: &[u8]) -> bool {
        self.cells.get(index) == Some(&cell_value(index, data))
    }

    /// The chaining values that connect the cells of `range` to the id, in the order [`verify_slice`] reads them.
    pub fn proof(&self, range: CellRange) -> Vec<u8> {
        let mut out = Vec::new();
        self.collect(0, self.cells.len(), range, &mut out);
        out
    }

    fn collect(&self, first: usize, end: usize, range: CellRange, out: &mut Vec<u8>) {
        if range.first <= first && end <= range.end {
            return;
        }
        if end <= range.first || range.end <= first {
            out.extend_from_slice(&subtree(&self.cells[first..end]));
            return;
        }
        let middle = first + left_cells(end - first);
        self.collect(first, middle, range, out);
        self.collect(middle, end, range, out);
    }
}

fn subtree(cells: &[ChainingValue]) -> ChainingValue {
    if let [only] = cells {
        return *only;
    }
    let (left, right) = cells.split_at(left_cells(cells.len()));
    merge_subtrees_non_root(&subtree(left), &subtree(right), Mode::Hash)
}

/// Checks that `data` are the cells `range` of the pack `id` of `pack_length` bytes.
///
/// # Errors
/// [`ProofError`]; nothing is trusted before this returned `Ok`.
pub fn verify_slice(
    id: PackId,
    pack_length: u64,
    range: CellRange,
    data: &[u8],
    proof: &[u8],
) -> Result<(), ProofError> {
    let cells = usize::try_from(pack_length).map_err(|_| ProofError::Shape).map(cell_count)?;
    let (values, rest) = proof.as_chunks::<32>();
    let shaped = rest.is_empty()
        && (2..=limit::PACK_CELLS_MAX).contains(&cells)
        && range.first < range.end
        && range.end <= cells
        && data.len() as u64 == range.length(pack_length);
    if !shaped {
        return Err(ProofError::Shape);
    }
    let mut check = Check { range, data, values: values.iter() };
    let middle = left_cells(cells);
    let (left, right) = (check.value(0, middle)?, check.value(middle, cells)?);
    if check.values.next().is_some() {
        return Err(ProofError::Shape);
    }
    let root = merge_subtrees_root(&left, &right, Mode::Hash);
    if root.as_bytes() == id.as_bytes() { Ok(()) } else { Err(ProofError::Mismatch) }
}

struct Check<'a> {
    range: CellRange,
    data: &'a [u8],
    values: std::slice::Iter<'a, [u8; 32]>,
}

impl Check<'_> {
    fn value(&mut self, first: usize, end: usize) -> Result<ChainingValue, ProofError> {
        if end <= self.range.first || self.range.end <= first {
            return self.values.next().copied().ok_or(ProofError::Shape);
        }
        if end - first == 1 {
            let start = (first - self.range.first) * limit::CELL_BYTES;
            let stop = (start + limit::CELL_BYTES).min(self.data.len());
            return Ok(cell_value(first, &self.data[start..stop]));
        }
        let middle = first + left_cells(end - first);
        let (left, right) = (self.value(first, middle)?, self.value(middle, end)?);
        Ok(merge_subtrees_non_root(&left, &right, Mode::Hash))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn noise(length: usize) -> Vec<u8> {
        let mut out = vec![0; length];
        blake3::Hasher::new().update(&length.to_le_bytes()).finalize_xof().fill(&mut out);
        out
    }

    #[test]
    fn outboard_root_is_the_plain_hash() {
        for length in [limit::CELL_BYTES + 1, 128 << 10, 200_000, 5 * limit::CELL_BYTES, 1 << 20, 16 << 20] {
            let pack = noise(length);
            let (id, outboard) = Outboard::of(&pack);
            assert_eq!(id.as_bytes(), blake3::hash(&pack).as_bytes(), "{length}");
            assert_eq!(Outboard::read(&outboard.to_bytes(), id, length), Some(outboard.clone()));
            assert_eq!(Outboard::read(&outboard.to_bytes(), PackId::new([0; 32]), length), None);
            assert_eq!(Outboard::read(&outboard.to_bytes()[32..], id, length), None);
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn slices_verify_and_altered_ones_do_not(cells in 2usize..20, short in 0usize..65_535, a in 0usize..20, b in 0usize..20, flip: prop::sample::Index) {
            let length = cells * limit::CELL_BYTES - short;
            let pack = noise(length);
            let (id, outboard) = Outboard::of(&pack);
            let range = CellRange { first: a.min(b) % cells, end: a.max(b) % cells + 1 };
            prop_assume!(range.first < range.end);
            let start = range.offset() as usize;
            let data = &pack[start..start + range.length(length as u64) as usize];
            let proof = outboard.proof(range);
            let check = |data: &[u8], proof: &[u8], range| verify_slice(id, length as u64, range, data, proof);
            prop_assert_eq!(check(data, &proof, range), Ok(()));
            let mut bad = data.to_vec();
            bad[flip.index(data.len())] ^= 1;
            prop_assert_eq!(check(&bad, &proof, range), Err(ProofError::Mismatch));
            if !proof.is_empty() {
                let mut bad = proof.clone();
                bad[flip.index(proof.len())] ^= 1;
                prop_assert!(check(data, &bad, range).is_err());
                prop_assert!(check(data, &proof[32..], range).is_err());
            }
            prop_assert!(check(data, &[proof.as_slice(), &[0; 32]].concat(), range).is_err());
            prop_assert!(check(&data[1..], &proof, range).is_err());
        }
    }

    #[test]
    fn ranges_widen_to_cells_and_refuse_nonsense() {
        let pack = 16u64 << 20;
        assert_eq!(CellRange::covering(0, 1, pack), Some(CellRange { first: 0, end: 1 }));
        assert_eq!(CellRange::covering(65_535, 2, pack), Some(CellRange { first: 0, end: 2 }));
        for (offset, length) in [(0, 0), (pack, 1), (pack - 1, 2), (u64::MAX, 1), (1, u64::MAX)] {
            assert_eq!(CellRange::covering(offset, length, pack), None);
        }
        assert!(CellRange::covering(0, 1, u64::MAX).is_none());
    }
}
