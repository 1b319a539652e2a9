//! Paths that somebody asks to back up, made plain: what is one place has one spelling, and what cannot say anything is refused.

use std::fs::FileType;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};

use super::FsError;

/// The roots of a walk as it is recorded: without `.`, and without more slashes than it takes. A symlink stays one, but for
/// a slash after it, which means what it leads to. `skip`: directories of which nothing is walked.
///
/// # Errors
/// `UsageInvalid` for one in `skip`, and for a link to something that only a reader at its end can empty (`<(command)` of a
/// shell): of each there would be nothing in the snapshot. `PathNotFound` when a slash follows a link that leads nowhere.
pub fn plain_roots(given: &[PathBuf], skip: &[PathBuf]) -> Result<Vec<PathBuf>, FsError> {
    let skip: Vec<PathBuf> = skip.iter().filter_map(|dir| dir.canonicalize().ok()).collect();
    given
        .iter()
        .map(|path| {
            let plain = plain(path)?;
            let place = place_of(&plain);
            if place.is_some_and(|place| skip.iter().any(|dir| place.starts_with(dir))) {
                return Err(FsError::Spared(plain));
            }
            let is_pipe = |kind: FileType| kind.is_fifo() || kind.is_socket();
            if is_link(&plain) && plain.metadata().is_ok_and(|to| is_pipe(to.file_type())) {
                return Err(FsError::LeadsToPipe(plain));
            }
            Ok(plain)
        })
        .collect()
}

/// Whether it is a symlink, which is kept as one.
pub fn is_link(root: &Path) -> bool {
    root.symlink_metadata().is_ok_and(|found| found.is_symlink())
}

fn plain(path: &Path) -> Result<PathBuf, FsError> {
    let bytes = path.as_os_str().as_bytes();
    let plain: PathBuf = path.components().collect();
    let through = (bytes.ends_with(b"/") || bytes.ends_with(b"/.")) && is_link(&plain);
    if through {
        plain.canonicalize().map_err(|error| FsError::chosen("follow", path, error))
    } else {
        Ok(plain)
    }
}

/// Where it is, whatever links lead there; a link at its end stays one.
fn place_of(plain: &Path) -> Option<PathBuf> {
    match (plain.parent(), plain.file_name()) {
        (Some(parent), Some(name)) => Some(parent.canonicalize().ok()?.join(name)),
        _ => plain.canonicalize().ok(),
    }
}

#[cfg(test)]
mod tests {
    use rustix::fs::{CWD, Mode, mknodat};

    use super::*;

    #[test]
    fn roots_have_one_spelling_and_a_slash_after_a_link_is_what_it_leads_to() {
        let home = tempfile::tempdir().unwrap();
        let base = home.path().canonicalize().unwrap();
        std::fs::create_dir_all(base.join("a/b")).unwrap();
        for (to, name) in [("a/b", "link"), ("nowhere", "dangling")] {
            std::os::unix::fs::symlink(to, base.join(name)).unwrap();
        }
        let table = [
            ("a/b", Some("a/b")),
            ("a/b/", Some("a/b")),
            ("a/b//", Some("a/b")),
            ("a//./b/.", Some("a/b")),
            ("link", Some("link")),
            ("link/", Some("a/b")),
            ("link/.", Some("a/b")),
            ("dangling", Some("dangling")),
            ("dangling/", None),
            ("absent/", Some("absent")),
        ];
        for (given, expected) in table {
            let given = PathBuf::from(format!("{}//{given}", base.display()));
            let found = plain_roots(std::slice::from_ref(&given), &[]);
            let Some(expected) = expected.map(|expected| base.join(expected)) else {
                assert!(matches!(found, Err(FsError::NotFound(_))), "{found:?}");
                continue;
            };
            // Paths compare by their parts; what is recorded are bytes.
            let found: Vec<_> = found.unwrap().into_iter().map(PathBuf::into_os_string).collect();
            assert_eq!(found, [expected.into_os_string()], "{}", given.display());
        }
    }

    #[test]
    fn roots_of_which_nothing_would_be_kept_are_refused() {
        let home = tempfile::tempdir().unwrap();
        let base = home.path();
        std::fs::create_dir_all(base.join("store/packs")).unwrap();
        std::os::unix::fs::symlink("store", base.join("to store")).unwrap();
        mknodat(CWD, base.join("pipe"), rustix::fs::FileType::Fifo, Mode::RWXU, 0).unwrap();
        std::os::unix::fs::symlink("pipe", base.join("to pipe")).unwrap();
        let roots = |name: &str| plain_roots(&[base.join(name)], &[base.join("store")]);
        for name in ["store", "store/", "store/packs", "to store/", "to store/packs"] {
            assert!(matches!(roots(name), Err(FsError::Spared(_))), "{name}");
        }
        assert!(matches!(roots("to pipe"), Err(FsError::LeadsToPipe(_))));
        // A pipe in a directory is an entry like others, and so is a link to the store.
        assert!(roots("pipe").is_ok() && roots("to store").is_ok() && roots("").is_ok());
    }
}
