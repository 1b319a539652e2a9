//! Whether a backup's source has what one expects of it: a file system that is not mounted looks like an empty directory,
//! and a backup of it is as good as any to rules that count snapshots.

use std::fmt;

use crate::base::limit;

/// What a backup met, beside what the snapshot before it has.
#[derive(Debug, Default, Copy, Clone, PartialEq, Eq)]
pub struct SourceCount {
    /// Entries that are no directories.
    pub entries: u64,
    /// Of those, files.
    pub files: u64,
    /// Of those, files that the snapshot before has as well.
    pub known: u64,
    /// Files of the snapshot before; 0 without one.
    pub before: u64,
}

/// What one expects of a source.
#[derive(Debug, Default, Copy, Clone, PartialEq, Eq)]
pub struct Expectation {
    /// At least so many files.
    pub files_min: u64,
    /// Nothing at all is well.
    pub empty: bool,
    /// Much less than before is well.
    pub less: bool,
}

/// In what a source falls short.
#[derive(Debug, Copy, Clone, PartialEq, Eq)]
pub enum Shortfall {
    /// There is nothing but directories.
    Empty {
        /// Files of the snapshot before.
        before: u64,
    },
    /// Fewer files than are asked for.
    Few {
        /// So many.
        files: u64,
        /// Asked for.
        wanted: u64,
    },
    /// Most files of the snapshot before are gone.
    Gone {
        /// So many.
        gone: u64,
        /// Of these.
        before: u64,
    },
}

impl SourceCount {
    /// Files of the snapshot before that are not there now.
    pub fn gone(&self) -> u64 {
        self.before.saturating_sub(self.known)
    }

    /// Whether nearly all files of the snapshot before are gone, and that is not meant: a mount that is missing, as a rule.
    /// Files count by number, so that a directory with another name is no loss; of a few files all have to be gone.
    pub fn is_lost(&self, expected: Expectation) -> bool {
        let is_meant = expected.less || (expected.empty && self.entries == 0);
        let left = u128::from(self.files) * 100;
        let little = u128::from(self.before) * u128::from(limit::SOURCE_LEFT_PERCENT_MIN);
        let is_nothing = self.files == 0 && self.before > 0;
        (is_nothing || self.before >= limit::SOURCE_LOST_FILES_MIN) && left < little && !is_meant
    }

    /// In what the source falls short of `expected`; the gravest only.
    pub fn shortfall(&self, expected: Expectation) -> Option<Shortfall> {
        let Self { files, before, .. } = *self;
        if self.entries == 0 {
            return (!expected.empty).then_some(Shortfall::Empty { before });
        }
        if expected.less {
            return None;
        }
        if files < expected.files_min {
            return Some(Shortfall::Few { files, wanted: expected.files_min });
        }
        let gone = self.gone();
        (gone > before / 2).then_some(Shortfall::Gone { gone, before })
    }
}

impl fmt::Display for Shortfall {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Empty { before: 0 } => f.write_str("there is no file in the source"),
            Self::Empty { before } => {
                write!(f, "there is no file in the source; the snapshot before has {before}")
            }
            Self::Few { files, wanted } => {
                write!(f, "only {files} files in the source, of at least {wanted}")
            }
            Self::Gone { gone, before } => {
                write!(f, "{gone} of the {before} files of the snapshot before are gone from the source")
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Files, before; whether it is lost, and is so for who says that less, or that nothing, is well.
    #[test]
    fn a_source_is_lost_when_nearly_all_files_are_gone() {
        let table = [
            ([0, 1], [true, false, false]),
            ([0, 19], [true, false, false]),
            ([1, 19], [false, false, false]),
            ([0, 20], [true, false, false]),
            ([1, 20], [true, false, true]),
            ([2, 20], [false, false, false]),
            ([99, 1000], [true, false, true]),
            ([100, 1000], [false, false, false]),
            ([0, 0], [false, false, false]),
            ([0, u64::MAX], [true, false, false]),
        ];
        for ([files, before], expected) in table {
            // All files under new names are no loss.
            let met = SourceCount { entries: files, files, known: 0, before };
            let asked = Expectation::default();
            let (less, empty) = (Expectation { less: true, ..asked }, Expectation { empty: true, ..asked });
            assert_eq!([asked, less, empty].map(|asked| met.is_lost(asked)), expected, "{met:?}");
        }
    }

    /// Entries, files, known, before, wanted; what is said.
    #[test]
    fn an_empty_a_small_and_a_shrunken_source_are_told_apart() {
        let table = [
            ([0, 0, 0, 0, 0], Some(Shortfall::Empty { before: 0 })),
            ([0, 0, 0, 9, 0], Some(Shortfall::Empty { before: 9 })),
            ([0, 0, 0, 9, 5], Some(Shortfall::Empty { before: 9 })),
            ([1, 0, 0, 9, 0], Some(Shortfall::Gone { gone: 9, before: 9 })),
            ([4, 4, 4, 9, 0], Some(Shortfall::Gone { gone: 5, before: 9 })),
            ([9, 9, 4, 9, 0], Some(Shortfall::Gone { gone: 5, before: 9 })),
            ([5, 5, 5, 9, 0], None),
            ([5, 5, 5, 10, 0], None),
            ([4, 4, 4, 4, 5], Some(Shortfall::Few { files: 4, wanted: 5 })),
            ([5, 5, 0, 0, 5], None),
            // An input, or a source that is a link.
            ([1, 0, 0, 0, 0], None),
            // A file whose parent was a directory counts as known.
            ([3, 3, 3, 2, 0], None),
        ];
        for ([entries, files, known, before, files_min], expected) in table {
            let met = SourceCount { entries, files, known, before };
            let asked = Expectation { files_min, ..Expectation::default() };
            assert_eq!(met.shortfall(asked), expected, "{met:?}");
            // Who says that nothing is well has not said that little is, and the other way round.
            let empty = met.shortfall(Expectation { empty: true, ..asked });
            assert_eq!(empty, expected.filter(|_| entries > 0), "{met:?}");
            let less = met.shortfall(Expectation { less: true, ..asked });
            assert_eq!(less, expected.filter(|_| entries == 0), "{met:?}");
        }
    }
}
