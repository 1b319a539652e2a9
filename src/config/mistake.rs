//! What can be wrong with a configuration, where, and what would be right.

use std::fmt;
use std::io;
use std::path::PathBuf;

use super::node::Mark;
use crate::base::{Code, Coded};

/// Where a value comes from.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Origin {
    /// The table of defaults.
    Default,
    /// A configuration file.
    File {
        /// The file.
        path: PathBuf,
        /// The place in it.
        mark: Mark,
    },
    /// An environment variable, by its name.
    Environment(String),
    /// A command-line flag, by its name.
    Flag(&'static str),
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => f.write_str("default"),
            Self::File { path, mark } if mark.line == 0 => write!(f, "file {}", path.display()),
            Self::File { path, mark } => write!(f, "file {}:{}", path.display(), mark.line),
            Self::Environment(name) => write!(f, "environment {name}"),
            Self::Flag(name) => write!(f, "flag {name}"),
        }
    }
}

/// What is wrong.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Fault {
    /// No key has this name.
    #[error("unknown key{}", near.as_ref().map(|n| format!("; did you mean {n}?")).unwrap_or_default())]
    Unknown {
        /// The key that was probably meant.
        near: Option<String>,
    },
    /// The same key stands twice in one mapping.
    #[error("given twice (first in line {first_line})")]
    Twice {
        /// Line of the first.
        first_line: u64,
    },
    /// Two variables name the same key and disagree.
    #[error("also set by {other}, to another value; keep one of them")]
    Disagrees {
        /// The other variable.
        other: String,
    },
    /// A value that cannot be.
    #[error("{found} is not allowed; expected {expected}")]
    Wrong {
        /// The value found.
        found: String,
        /// What is allowed.
        expected: String,
    },
    /// A required key is absent.
    #[error("missing; expected {expected}")]
    Absent {
        /// What is allowed.
        expected: String,
    },
    /// Two values that do not go together.
    #[error("{found} does not fit: {rule}")]
    Conflict {
        /// The value found.
        found: String,
        /// The rule, with the other value.
        rule: String,
    },
    /// The key has no effect in this version, so that another value than its default would promise too much.
    #[error("not available in this version; remove it or leave it at {default}")]
    Unavailable {
        /// The default.
        default: String,
    },
    /// The text is not YAML.
    #[error("not valid YAML: {0}")]
    Malformed(String),
}

/// One mistake: where, which key, what.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Mistake {
    /// Where the value comes from.
    pub origin: Origin,
    /// The key's path such as `p2p.max_peers`; empty when the whole file is meant.
    pub key: String,
    /// What is wrong.
    pub fault: Fault,
}

impl fmt::Display for Mistake {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.origin {
            Origin::Default => {}
            Origin::File { path, mark } if mark.line > 0 => {
                write!(f, "{}:{}:{}: ", path.display(), mark.line, mark.column)?;
            }
            Origin::File { path, .. } => write!(f, "{}: ", path.display())?,
            Origin::Environment(name) => write!(f, "{name}: ")?,
            Origin::Flag(name) => write!(f, "{name}: ")?,
        }
        if self.key.is_empty() {
            write!(f, "{}", self.fault)
        } else {
            write!(f, "{}: {}", self.key, self.fault)
        }
    }
}

/// Why no settings could be made.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file named on the command line does not exist.
    #[error("configuration file {} does not exist", .0.display())]
    Missing(PathBuf),
    /// The file cannot be read.
    #[error("reading configuration file {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Everything that is wrong, in the order of the file, then the environment, then rules between keys.
    #[error("{}", .0.iter().map(Mistake::to_string).collect::<Vec<_>>().join("\n"))]
    Invalid(Vec<Mistake>),
}

impl Coded for ConfigError {
    fn code(&self) -> Code {
        match self {
            Self::Missing(_) => Code::ConfigMissing,
            Self::Read { .. } | Self::Invalid(_) => Code::ConfigInvalid,
        }
    }

    fn hint(&self) -> Option<String> {
        match self {
            Self::Missing(_) => Some("`shadowvault init -c FILE` writes a commented one".to_owned()),
            Self::Read { .. } => None,
            Self::Invalid(_) => Some("`shadowvault config schema` lists every key".to_owned()),
        }
    }
}

/// The candidate that `text` was probably meant to be, if one is near enough.
///
/// Up to a third of the letters may differ (at least one), and a swap of neighbours counts once.
pub(super) fn nearest<'a>(text: &str, candidates: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let text: String = text.chars().take(80).collect();
    candidates
        .map(|candidate| (strsim::damerau_levenshtein(&text, candidate), candidate))
        .filter(|(distance, candidate)| *distance <= (candidate.len() / 3).max(1))
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, candidate)| candidate)
}
