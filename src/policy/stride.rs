//! How much to ask of a peer at one time: as much as it brings within seconds.

use std::time::Duration;

/// An answer that takes longer asked for too much: several are under way, and all share what the line or the other side's
/// limit gives.
const LONG: Duration = Duration::from_secs(6);
/// One that comes within this time could have been longer.
const SHORT: Duration = Duration::from_secs(2);
/// At first, in cells: ten of 256 KiB under way come within a minute at 43 KiB/s, and a fast line is known after one.
const FIRST: usize = 4;

/// The length of one request to one peer, in cells; one at least.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stride {
    cells: usize,
    most: usize,
}

impl Stride {
    /// Of a peer that is not known yet, which may be asked for `most` cells at a time.
    pub fn new(most: usize) -> Self {
        Self { cells: FIRST.min(most).max(1), most: most.max(1) }
    }

    /// Cells to ask for now.
    pub fn cells(&self) -> usize {
        self.cells
    }

    /// So many cells came, after that time.
    pub fn brought(&mut self, cells: usize, took: Duration) {
        if took > LONG {
            self.cells = self.cells.min((cells / 2).max(1));
        } else if took < SHORT && cells >= self.cells {
            self.cells = (cells * 2).min(self.most);
        }
    }

    /// So many cells did not come in time.
    pub fn missed(&mut self, cells: usize) {
        self.cells = self.cells.min((cells / 4).max(1));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_become_as_long_as_the_line_brings_in_seconds() {
        // Bytes a second, shared by ten requests under way; cells of 64 KiB that are asked for in the end.
        for (per_second, cells) in [(100 << 20, 16), (2 << 20, 8), (100 << 10, 1), (10 << 10, 1)] {
            let mut stride = Stride::new(16);
            for _ in 0..40 {
                let asked = stride.cells();
                let took = Duration::from_secs_f64((asked << 16) as f64 * 10.0 / f64::from(per_second));
                match took > Duration::from_secs(60) {
                    true => stride.missed(asked),
                    false => stride.brought(asked, took),
                }
            }
            assert_eq!(stride.cells(), cells, "{per_second}");
        }
        assert_eq!(Stride::new(0).cells(), 1);
    }

    #[test]
    fn what_was_asked_before_says_nothing_of_what_is_asked_now() {
        let mut stride = Stride::new(16);
        stride.brought(4, Duration::ZERO);
        stride.brought(8, Duration::ZERO);
        stride.brought(4, Duration::ZERO);
        assert_eq!(stride.cells(), 16, "a short one that came fast");
        stride.missed(16);
        stride.missed(16);
        assert_eq!(stride.cells(), 4, "ten that are late are one lesson");
        stride.brought(16, Duration::from_secs(20));
        assert_eq!(stride.cells(), 4);
    }
}
