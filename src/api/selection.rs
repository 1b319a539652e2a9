//! What stands beside a backup's request: lists of patterns, questions about paths, and lines of a dry run.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::job::BackupRequest;

/// Gitignore lines that decide after the ignore files of the tree.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct PatternLines {
    /// Where they come from, for people.
    pub name: String,
    /// The lines, comments and all.
    pub lines: Vec<String>,
}

/// Asks what a backup would do with one path.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ExplainRequest {
    /// The absolute path.
    pub path: PathBuf,
    /// The backup.
    pub backup: BackupRequest,
}

/// What a backup would do with one path.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct ExplainReport {
    /// The path.
    pub path: PathBuf,
    /// It would be in the snapshot.
    pub included: bool,
    /// What decided: `asked`, `above`, `no-rule`, `pattern`, `if-present`, `larger-than`, `one-file-system`, `store`,
    /// `outside` or `unreadable`.
    pub rule: String,
    /// The path that the rule decided about: this one or a directory above it.
    pub at: PathBuf,
    /// Of `pattern`: as git reads it; of `if-present`: the file; of `larger-than`: the bytes; of `unreadable`: why.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub detail: Option<String>,
    /// Of `pattern`: the file, flag or backup set that it stands in.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub source: Option<String>,
    /// Of `pattern`: its line or number there.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub line: Option<u32>,
    /// The directory is included and its contents are not: by which rule.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub contents_left_out: Option<String>,
}

/// What a backup would do with a path, as a line of a dry run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PathFate {
    /// `new`, `changed`, `same`, `left-out` or `failed`.
    pub fate: String,
    /// The path, bytes that are not UTF-8 replaced.
    pub path: String,
    /// Why it is left out or failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub why: Option<String>,
}

/// Paths as JSON: a text, or an array of numbers where the bytes are not UTF-8.
pub(super) mod paths {
    use std::ffi::OsString;
    use std::os::unix::ffi::{OsStrExt, OsStringExt};
    use std::path::PathBuf;

    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    #[derive(Serialize, Deserialize)]
    #[serde(untagged)]
    enum Shape {
        Text(String),
        Bytes(Vec<u8>),
    }

    pub fn serialize<S: Serializer>(paths: &[PathBuf], serializer: S) -> Result<S::Ok, S::Error> {
        let shape = |path: &PathBuf| match path.to_str() {
            Some(text) => Shape::Text(text.to_owned()),
            None => Shape::Bytes(path.as_os_str().as_bytes().to_vec()),
        };
        serializer.collect_seq(paths.iter().map(shape))
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<PathBuf>, D::Error> {
        let path = |shape| match shape {
            Shape::Text(text) => PathBuf::from(text),
            Shape::Bytes(bytes) => PathBuf::from(OsString::from_vec(bytes)),
        };
        Ok(Vec::<Shape>::deserialize(deserializer)?.into_iter().map(path).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::ffi::OsStr;
    use std::os::unix::ffi::OsStrExt;

    #[test]
    fn paths_of_any_bytes_reach_the_daemon() {
        let paths = vec!["/a b".into(), OsStr::from_bytes(b"/x\xff").into()];
        let request = BackupRequest { paths, ..BackupRequest::default() };
        let text = serde_json::to_string(&request).unwrap();
        assert!(text.contains(r#"["/a b",[47,120,255]]"#), "{text}");
        assert_eq!(serde_json::from_str::<BackupRequest>(&text).unwrap(), request);
    }
}
