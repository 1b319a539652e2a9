//! Where on this machine there have been nodes, so that an empty mount point is not taken for a place without one.
//!
//! One small file of paths beside the user's other state, outside of every data directory. It is a help, nothing more:
//! without it (no home, no right to write there) an empty directory is one in which there is no node.

use std::ffi::OsString;
use std::fs::{self, DirBuilder, OpenOptions};
use std::io::{self, Write};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use crate::base::limit;
use crate::store::StoreError;

/// `$XDG_STATE_HOME/shadowvault/nodes`, or the usual place for it.
fn file() -> Option<PathBuf> {
    let set = |name: &str| std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
    let state = set("XDG_STATE_HOME").or_else(|| Some(set("HOME")?.join(".local/state")))?;
    Some(state.join("shadowvault/nodes"))
}

/// Notes that there is a node in `dir`.
pub(super) fn remember(dir: &Path) {
    if let Some(file) = file()
        && let Err(error) = remember_in(&file, dir)
    {
        tracing::debug!(target: "node", %error, "where this node is could not be noted");
    }
}

/// There is no store in a directory: it is out of reach if there was one.
pub(super) fn not_here(dir: PathBuf) -> StoreError {
    match file() {
        Some(file) if known(&file).contains(&whole(&dir)) => {
            let source = io::Error::other("there was a node, and nothing of it is there now");
            StoreError::Unavailable { path: dir, source }
        }
        _ => StoreError::NotHere(dir),
    }
}

/// The same path from everywhere; nothing in it need exist.
fn whole(dir: &Path) -> PathBuf {
    std::path::absolute(dir).unwrap_or_else(|_| dir.to_owned())
}

fn known(file: &Path) -> Vec<PathBuf> {
    let is_sane = fs::metadata(file).is_ok_and(|there| there.len() <= limit::PLACES_BYTES_MAX);
    let bytes = if is_sane { fs::read(file).unwrap_or_default() } else { Vec::new() };
    let lines = bytes.split(|byte| *byte == b'\n').filter(|line| !line.is_empty());
    lines.map(|line| PathBuf::from(OsString::from_vec(line.to_vec()))).collect()
}

fn remember_in(file: &Path, dir: &Path) -> io::Result<()> {
    let (dir, mut all) = (whole(dir), known(file));
    let (Some(parent), false) = (file.parent(), dir.as_os_str().as_bytes().contains(&b'\n')) else {
        return Ok(());
    };
    // What lies in the data directory goes away with it.
    if all.contains(&dir) || file.starts_with(&dir) {
        return Ok(());
    }
    all.push(dir);
    all.drain(..all.len().saturating_sub(limit::PLACES_MAX));
    DirBuilder::new().recursive(true).mode(0o700).create(parent)?;
    let beside = file.with_extension(std::process::id().to_string());
    let mut out = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&beside)?;
    for path in &all {
        out.write_all(path.as_os_str().as_bytes())?;
        out.write_all(b"\n")?;
    }
    fs::rename(&beside, file)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_remembered_once_and_the_oldest_are_forgotten() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("state/shadowvault/nodes");
        for n in 0..limit::PLACES_MAX + 3 {
            for _ in 0..2 {
                remember_in(&file, Path::new(&format!("/node/{n}"))).unwrap();
            }
        }
        let all = known(&file);
        assert_eq!(all.len(), limit::PLACES_MAX);
        assert_eq!(all.last(), Some(&PathBuf::from(format!("/node/{}", limit::PLACES_MAX + 2))));
        assert!(!all.contains(&PathBuf::from("/node/2")) && all.contains(&PathBuf::from("/node/3")));
        remember_in(&file, &dir.path().join("state")).unwrap();
        assert_eq!(known(&file), all, "nothing is kept in the directory itself");
    }
}
