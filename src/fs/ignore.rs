//! Which entries a backup leaves out, by gitignore patterns.

use std::path::{Path, PathBuf};

use ignore::gitignore::{Gitignore, GitignoreBuilder};

use super::walk::{Filter, Item};
use super::{FsError, Listing};

/// Patterns as if they stood in an ignore file in each root. What lies in a left-out directory is left out with it.
pub struct Excludes {
    rules: Vec<Gitignore>,
}

impl Excludes {
    /// Patterns for all `roots`.
    ///
    /// # Errors
    /// [`FsError::Pattern`] for one that is none.
    pub fn new(roots: &[PathBuf], patterns: &[String]) -> Result<Self, FsError> {
        let rules = roots.iter().map(|root| {
            let mut builder = GitignoreBuilder::new(root);
            for pattern in patterns {
                let wrong = |error: ignore::Error| FsError::Pattern(pattern.clone(), error.to_string());
                builder.add_line(None, pattern).map_err(wrong)?;
            }
            builder.build().map_err(|error| FsError::Pattern(patterns.join(" "), error.to_string()))
        });
        Ok(Self { rules: rules.collect::<Result<_, _>>()? })
    }

    fn excludes(&self, path: &Path, is_directory: bool) -> bool {
        let below = |rules: &&Gitignore| path != rules.path() && path.starts_with(rules.path());
        self.rules.iter().filter(below).any(|rules| rules.matched(path, is_directory).is_ignore())
    }
}

impl Filter for Excludes {
    fn keeps(&mut self, item: &Item<'_>) -> bool {
        !self.excludes(item.path, item.is_directory)
    }

    fn enters(&mut self, _: &Listing<'_>) -> bool {
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_mean_what_they_mean_to_git() {
        let table: [(&[&str], &str, bool, bool); 14] = [
            (&["*.o"], "a/b.o", false, true),
            (&["*.o", "!keep.o"], "a/keep.o", false, false),
            (&["/build"], "build", true, true),
            (&["/build"], "src/build", true, false),
            (&["build/"], "src/build", true, true),
            (&["build/"], "src/build", false, false),
            (&["doc/*.txt"], "doc/a.txt", false, true),
            (&["doc/*.txt"], "doc/sub/a.txt", false, false),
            (&["**/cache"], "a/b/cache", true, true),
            (&["cache/**"], "cache/x", false, true),
            (&["cache/**"], "cache", true, false),
            (&["# comment", "\\#file"], "#file", false, true),
            (&["[a-c].txt"], "b.txt", false, true),
            (&["name "], "name", false, true),
        ];
        for (patterns, path, directory, excluded) in table {
            let patterns: Vec<String> = patterns.iter().map(|p| (*p).to_owned()).collect();
            let excludes = Excludes::new(&["/home/x".into(), "/srv".into()], &patterns).unwrap();
            for root in ["/home/x", "/srv"] {
                let path = Path::new(root).join(path);
                assert_eq!(
                    excludes.excludes(&path, directory),
                    excluded,
                    "{patterns:?} on {}",
                    path.display()
                );
            }
            assert!(!excludes.excludes(&Path::new("/elsewhere").join(path), directory));
            assert!(!excludes.excludes(Path::new("/srv"), true), "what was asked for is never left out");
        }
        assert!(matches!(Excludes::new(&["/a".into()], &["[z-a]".to_owned()]), Err(FsError::Pattern(..))));
    }
}
