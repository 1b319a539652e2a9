//! What a backup takes, as the command line says it: paths, lists of paths, patterns, and what is checked before the
//! node is asked.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use super::backup::absolute;
use super::output::escape;
use crate::api::{ApiError, PatternLines};
use crate::base::{Code, limit};

/// Where lists of paths are read from; `-` is standard input.
pub(super) struct Lists<'a> {
    /// One path a line.
    pub(super) lines: &'a [PathBuf],
    /// Paths that end with a zero byte.
    pub(super) zeros: &'a [PathBuf],
}

/// All paths, made absolute. One that was typed and does not exist is a slip, and so is a list of which none exists;
/// else a missing one is the node's to report.
pub(super) fn sources(given: &[PathBuf], lists: &Lists<'_>) -> Result<Vec<PathBuf>, ApiError> {
    let from_stdin = lists.lines.iter().chain(lists.zeros).filter(|file| file.as_os_str() == "-").count();
    if from_stdin > 1 {
        return Err(usage("standard input can be read for one list only"));
    }
    let mut paths = given.to_vec();
    for (files, end) in [(lists.lines, b'\n'), (lists.zeros, 0)] {
        for file in files {
            paths.extend(split(&read_list(file, "list of paths")?, end));
        }
    }
    let asked = !lists.lines.is_empty() || !lists.zeros.is_empty();
    if paths.is_empty() && asked {
        return Err(usage("there is no path in the list, so there is nothing to back up"));
    }
    let gone =
        |path: &&PathBuf| path.symlink_metadata().is_err_and(|error| error.kind() == io::ErrorKind::NotFound);
    let slip =
        given.iter().find(gone).or_else(|| paths.first().filter(|_| paths.iter().all(|path| gone(&path))));
    if let Some(path) = slip {
        return Err(ApiError::new(Code::PathNotFound, format!("{} does not exist", path.display())));
    }
    let paths: Vec<PathBuf> = paths.iter().map(|path| absolute(path)).collect::<Result<_, _>>()?;
    let bytes: usize = paths.iter().map(|path| path.as_os_str().len() + 3).sum();
    // As JSON a path has quotes and a comma besides.
    if bytes > limit::BACKUP_REQUEST_BYTES_MAX * 3 / 4 {
        let text = format!("the {} paths have {bytes} bytes together, which is too long", paths.len());
        return Err(usage(&text).with_hint(SHORTER));
    }
    Ok(paths)
}

/// What helps against lists that are too long.
const SHORTER: &str = "name directories instead of all their files, or make several backups";

/// The paths in a list: all but the empty ones, as they are. Of a line's end only the line break is none of them.
fn split(bytes: &[u8], end: u8) -> Vec<PathBuf> {
    let paths = bytes.split(|byte| *byte == end).filter(|path| !path.is_empty());
    paths.map(|path| PathBuf::from(std::ffi::OsString::from_vec(path.to_vec()))).collect()
}

/// The lines of pattern files, which the node reads as git reads its own.
pub(super) fn pattern_files(files: &[PathBuf]) -> Result<Vec<PatternLines>, ApiError> {
    files.iter().map(|file| pattern_file(file)).collect()
}

fn pattern_file(file: &Path) -> Result<PatternLines, ApiError> {
    if file.as_os_str() == "-" {
        return Err(
            usage("patterns come from a file, not from standard input").with_hint("name it ./- if it is one")
        );
    }
    let bytes = read_list(file, "file of patterns")?;
    let lines: Vec<&[u8]> = bytes.split(|byte| *byte == b'\n').collect();
    let read = |(number, line): (usize, &&[u8])| {
        std::str::from_utf8(line).map(str::to_owned).map_err(|_| {
            let text = format!("line {number} of {} is not UTF-8", file.display());
            usage(&text).with_hint("write the odd bytes as ? or *")
        })
    };
    let lines = (1..).zip(&lines).map(read).collect::<Result<_, _>>()?;
    Ok(PatternLines { name: file.display().to_string(), lines })
}

fn read_list(file: &Path, what: &str) -> Result<Vec<u8>, ApiError> {
    let failed = |error: io::Error| {
        usage(&format!("the {what} {} cannot be read: {error}", file.display()))
            .with_hint("name a file that this user can read")
    };
    let source: Box<dyn Read> = match file.as_os_str().as_bytes() {
        b"-" => Box::new(io::stdin()),
        _ => Box::new(File::open(file).map_err(failed)?),
    };
    let longest = limit::BACKUP_REQUEST_BYTES_MAX;
    let mut bytes = Vec::new();
    source.take(longest as u64 + 1).read_to_end(&mut bytes).map_err(failed)?;
    if bytes.len() > longest {
        let text = format!("the {what} {} has more than {longest} bytes", file.display());
        return Err(usage(&text).with_hint(SHORTER));
    }
    Ok(bytes)
}

/// What somebody who knows other tools may have meant: patterns count from each backed-up path, not from `/`.
pub(super) fn misunderstood<'a>(patterns: impl Iterator<Item = &'a str>, paths: &[PathBuf]) -> Vec<String> {
    let told = |pattern: &'a str| {
        let from_root = Path::new(pattern.strip_prefix('!').unwrap_or(pattern));
        let root = paths.iter().find(|root| from_root.starts_with(root) && root.as_os_str() != "/")?;
        let rest = from_root.strip_prefix(root).ok().filter(|rest| !rest.as_os_str().is_empty())?;
        Some(format!(
            "the pattern {} counts from each backed-up path, and so means {}; for what lies in {} write /{}",
            escape(pattern),
            escape(&format!("{}{}", root.display(), from_root.display())),
            escape(&root.to_string_lossy()),
            escape(&rest.to_string_lossy()),
        ))
    };
    patterns.filter(|pattern| pattern.trim_start_matches('!').starts_with('/')).filter_map(told).collect()
}

fn usage(text: &str) -> ApiError {
    ApiError::new(Code::UsageInvalid, text)
}

#[cfg(test)]
mod tests {
    use std::slice;

    use super::*;

    #[test]
    fn lists_of_paths_are_taken_as_they_are() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().canonicalize().unwrap();
        let names = ["plain", " blank ", "#hash", "line\nbreak"];
        names.iter().for_each(|name| std::fs::write(root.join(name), b"x").unwrap());
        let path = |name: &str| root.join(name).to_str().unwrap().to_owned();
        let (lines, zeros) = (root.join("lines"), root.join("zeros"));
        std::fs::write(&lines, format!("{}\n\n{}\n{}", path("plain"), path(" blank "), path("#hash")))
            .unwrap();
        std::fs::write(&zeros, format!("{}\0\0{}\0", path("line\nbreak"), path("absent"))).unwrap();
        let lists = Lists { lines: slice::from_ref(&lines), zeros: slice::from_ref(&zeros) };
        let found = sources(slice::from_ref(&root), &lists).unwrap();
        let expected = ["plain", " blank ", "#hash", "line\nbreak", "absent"].map(|name| root.join(name));
        assert_eq!(found, [slice::from_ref(&root), &expected[..]].concat());

        let none = |lines: &[PathBuf]| sources(&[], &Lists { lines, zeros: &[] }).unwrap_err().kind();
        assert_eq!(none(&[root.join("absent")]), Code::UsageInvalid);
        assert_eq!(none(&["-".into(), "-".into()]), Code::UsageInvalid);
        std::fs::write(&lines, b"\n\n").unwrap();
        assert_eq!(none(slice::from_ref(&lines)), Code::UsageInvalid);
        std::fs::write(&lines, b"/absent/1\n/absent/2\n").unwrap();
        assert_eq!(none(slice::from_ref(&lines)), Code::PathNotFound);
        std::fs::write(&lines, vec![b'x'; limit::BACKUP_REQUEST_BYTES_MAX + 1]).unwrap();
        assert_eq!(none(&[lines]), Code::UsageInvalid);
    }

    #[test]
    fn pattern_files_keep_their_lines() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("patterns");
        std::fs::write(&file, "# one\r\n*.o \n").unwrap();
        let read = pattern_files(std::slice::from_ref(&file)).unwrap();
        assert_eq!(read[0].lines, ["# one\r", "*.o ", ""]);
        std::fs::write(&file, b"a\n\xff\n").unwrap();
        assert!(pattern_files(&["-".into()]).is_err());
        let error = pattern_files(std::slice::from_ref(&file)).unwrap_err();
        assert!(error.message.contains("line 2"), "{error}");
    }

    #[test]
    fn patterns_with_whole_paths_are_pointed_out() {
        let roots = ["/home/me".into(), "/".into()];
        let table = [
            ("/home/me/.cache", true),
            ("!/home/me/x", true),
            ("/.cache", false),
            ("*.o", false),
            ("/home", false),
        ];
        for (pattern, odd) in table {
            assert_eq!(misunderstood(std::iter::once(pattern), &roots).len(), usize::from(odd), "{pattern}");
        }
    }
}
