//! Which paths a walk was asked for: a small tree of names, so that nested and repeated roots fall together.

use std::collections::BTreeMap;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};

use super::FsError;

/// One directory or file on the way to a root, or a root itself.
#[derive(Default, Debug, PartialEq, Eq)]
pub(super) struct Selection {
    /// A root: everything below it belongs to the walk.
    pub(super) chosen: bool,
    /// What lies below, by name. A root may have some too: a nested root is walked even where its
    /// surroundings are left out (excluded, or on another file system).
    pub(super) below: BTreeMap<Vec<u8>, Selection>,
}

impl Selection {
    /// Joins `roots`, which must be absolute and without `..`. Those that are not there (a dangling symlink is) or
    /// cannot be looked at come beside it; they are an error when there are no others.
    pub(super) fn of(roots: &[PathBuf]) -> Result<(Self, Vec<(PathBuf, io::Error)>), FsError> {
        let (mut all, mut missing) = (Self::default(), Vec::new());
        for root in roots {
            match std::fs::symlink_metadata(root) {
                Ok(_) => all.add(root)?,
                // Names that could not be walked are refused all the same.
                Err(error) => Self::default().add(root).map(|()| missing.push((root.clone(), error)))?,
            }
        }
        if missing.len() == roots.len()
            && let Some((root, error)) = missing.drain(..).next()
        {
            return Err(FsError::chosen("look at", &root, error));
        }
        Ok((all, missing))
    }

    fn add(&mut self, root: &Path) -> Result<(), FsError> {
        if !root.is_absolute() {
            return Err(FsError::NotAbsolute(root.to_owned()));
        }
        let mut here = self;
        for part in root.components() {
            match part {
                Component::Normal(name) => here = here.below.entry(name.as_bytes().to_vec()).or_default(),
                Component::RootDir | Component::CurDir => {}
                Component::ParentDir | Component::Prefix(_) => {
                    return Err(FsError::NotAbsolute(root.to_owned()));
                }
            }
        }
        here.chosen = true;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn selection_joins_repeated_and_nested_roots_and_refuses_odd_ones() {
        let mut all = Selection::default();
        for root in ["/a/b", "/a/b/", "/a/./b", "/a", "/c"] {
            all.add(Path::new(root)).unwrap();
        }
        assert!(!all.chosen && all.below.len() == 2);
        assert!(all.below[&b"a"[..]].chosen && all.below[&b"a"[..]].below[&b"b"[..]].chosen);
        for bad in ["a", "", "/a/../b"] {
            assert!(matches!(all.add(Path::new(bad)), Err(FsError::NotAbsolute(_))), "{bad}");
        }
    }
}
