//! The layers that settings come from, and which of them says what about a key.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use super::key::{Key, Shape};
use super::mistake::{ConfigError, Fault, Mistake, Origin, nearest};
use super::node::{Malformed, Mark, Name, Node, Value, parse};
use super::table::{KEYS, SECTIONS};
use crate::base::limit;

/// What the command line says; it outranks everything else.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Overrides {
    /// `--repo`.
    pub repo: Option<PathBuf>,
    /// `--config`: this file and no other; it must exist.
    pub config: Option<PathBuf>,
}

/// Environment variables, as the process or a test has them.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Environment(BTreeMap<OsString, OsString>);

impl Environment {
    /// Those of this process.
    pub fn of_process() -> Self {
        std::env::vars_os().collect()
    }

    /// The value of `name`; an empty one counts as absent.
    fn find(&self, name: &str) -> Option<&OsString> {
        self.0.get(OsString::from(name).as_os_str()).filter(|value| !value.is_empty())
    }
}

impl<K: Into<OsString>, V: Into<OsString>> FromIterator<(K, V)> for Environment {
    fn from_iter<I: IntoIterator<Item = (K, V)>>(pairs: I) -> Self {
        Self(pairs.into_iter().map(|(name, value)| (name.into(), value.into())).collect())
    }
}

/// Short names beside `SHADOWVAULT_<SECTION>__<KEY>`.
const SHORT_NAMES: [(&str, &str); 6] = [
    ("SHADOWVAULT_REPO_PATH", "repository_path"),
    ("SHADOWVAULT_LOG_LEVEL", "monitoring.log_level"),
    ("SHADOWVAULT_LOG_FORMAT", "monitoring.log_format"),
    ("SHADOWVAULT_METRICS_PORT", "monitoring.metrics_port"),
    ("SHADOWVAULT_BOOTSTRAP_PEERS", "peer_bootstrap"),
    ("SHADOWVAULT_ENABLE_COMPRESSION", "snapshot.compression"),
];

/// What has been said about each key, by index in [`KEYS`], and the mistakes met while gathering it.
///
/// Layers are added from the top: what was said first stays.
#[derive(Default)]
pub(super) struct Layers {
    pub said: BTreeMap<usize, (Node, Origin)>,
    pub mistakes: Vec<Mistake>,
}

impl Layers {
    /// Lays the entries of a file below what is there already.
    pub fn add_file(&mut self, path: &Path, source: &str) {
        let at = |mark: Mark| Origin::File { path: path.to_owned(), mark };
        match parse(source) {
            Err(Malformed { mark, reason }) => {
                let fault = Fault::Malformed(reason);
                self.mistakes.push(Mistake { origin: at(mark), key: String::new(), fault });
            }
            Ok(Node { value: Value::Null, .. }) => {}
            Ok(root) => self.add_mapping("", &root, &at),
        }
    }

    fn add_mapping(&mut self, section: &str, node: &Node, at: &impl Fn(Mark) -> Origin) {
        let Value::Map(entries) = &node.value else {
            let expected = "a mapping of keys (key: value)".to_owned();
            let fault = Fault::Wrong { found: node.describe(), expected };
            return self.mistakes.push(Mistake { origin: at(node.mark), key: section.to_owned(), fault });
        };
        for (index, (name, value)) in entries.iter().enumerate() {
            let first = entries[..index].iter().find(|(before, _)| before.text == name.text);
            if let Some((Name { mark, .. }, _)) = first {
                let fault = Fault::Twice { first_line: mark.line };
                self.mistakes.push(Mistake { origin: at(name.mark), key: join(section, &name.text), fault });
            } else if let Some(key) = find_key(section, &name.text) {
                if value.value != Value::Null {
                    self.said.entry(key).or_insert_with(|| (value.clone(), at(value.mark)));
                }
            } else if section.is_empty() && SECTIONS.iter().any(|(known, _)| *known == name.text) {
                if value.value != Value::Null {
                    self.add_mapping(&name.text, value, at);
                }
            } else {
                let key: String = join(section, &name.text).chars().take(120).collect();
                let fault = Fault::Unknown { near: suggest(section, &name.text) };
                self.mistakes.push(Mistake { origin: at(name.mark), key, fault });
            }
        }
    }

    /// Lays what the environment says below what is there already.
    pub fn add_environment(&mut self, environment: &Environment) {
        for (index, key) in KEYS.iter().enumerate() {
            let short = SHORT_NAMES.iter().find(|(_, path)| *path == key.path()).map(|(name, _)| *name);
            let names = [Some(key.variable()), short.map(str::to_owned)];
            let given: Vec<_> = names
                .into_iter()
                .flatten()
                .filter_map(|name| Some((environment.find(&name)?, name)))
                .collect();
            if let [(one, name), (two, other)] = given.as_slice()
                && one != two
            {
                let fault = Fault::Disagrees { other: other.clone() };
                let origin = Origin::Environment(name.clone());
                self.mistakes.push(Mistake { origin, key: key.path(), fault });
            } else if let Some((value, name)) = given.into_iter().next() {
                self.add_variable(index, key, name, value);
            }
        }
        self.refuse_unknown_variables(environment);
    }

    fn add_variable(&mut self, index: usize, key: &Key, name: String, value: &OsString) {
        let origin = Origin::Environment(name);
        let node =
            value.to_str().ok_or_else(|| "not UTF-8".to_owned()).and_then(|text| written(text, key.shape));
        match node {
            Ok(node) => {
                self.said.entry(index).or_insert((node, origin));
            }
            Err(reason) => {
                self.mistakes.push(Mistake { origin, key: key.path(), fault: Fault::Malformed(reason) });
            }
        }
    }

    /// Only names with `__` are surely meant for the configuration; others belong to flags and secrets.
    fn refuse_unknown_variables(&mut self, environment: &Environment) {
        let known: Vec<String> = KEYS.iter().map(Key::variable).collect();
        for name in environment.0.keys().filter_map(|name| name.to_str()) {
            let ours = name.strip_prefix("SHADOWVAULT_").is_some_and(|rest| rest.contains("__"));
            if ours && !known.iter().any(|k| k == name) {
                let near = nearest(name, known.iter().map(String::as_str)).map(str::to_owned);
                let origin = Origin::Environment(name.to_owned());
                self.mistakes.push(Mistake { origin, key: String::new(), fault: Fault::Unknown { near } });
            }
        }
    }

    /// Adds what the command line says; comes first, because it outranks everything.
    pub fn add_flags(&mut self, overrides: &Overrides) {
        if let (Some(repo), Some(index)) = (&overrides.repo, find_key("", "repository_path")) {
            let node = Node::text(&repo.to_string_lossy());
            self.said.insert(index, (node, Origin::Flag("--repo")));
        }
    }
}

/// Reads a value written outside a file: lists are comma separated, or YAML when they begin with `[`.
pub(super) fn written(text: &str, shape: Shape) -> Result<Node, String> {
    let text = text.trim();
    match shape {
        Shape::List if !text.starts_with('[') => {
            Ok(Node::list(text.split(',').map(str::trim).filter(|item| !item.is_empty())))
        }
        Shape::List | Shape::Sets => match parse(text) {
            Ok(node) => Ok(unmarked(node)),
            Err(malformed) => Err(malformed.reason),
        },
        _ => Ok(Node::text(text)),
    }
}

/// Places in a variable's text would be taken for places in a file.
fn unmarked(node: Node) -> Node {
    let value = match node.value {
        Value::List(items) => Value::List(items.into_iter().map(unmarked).collect()),
        Value::Map(entries) => Value::Map(entries.into_iter().map(|(n, v)| (n, unmarked(v))).collect()),
        scalar => scalar,
    };
    Node { mark: Mark::default(), value }
}

/// The text of the one file that counts: the named one, else the first that exists.
pub(super) fn read_file(
    overrides: &Overrides,
    environment: &Environment,
    system: &Path,
) -> Result<Option<(PathBuf, String)>, ConfigError> {
    if let Some(path) = &overrides.config {
        let text = read_bounded(path)?.ok_or_else(|| ConfigError::Missing(path.clone()))?;
        return Ok(Some((path.clone(), text)));
    }
    for path in [user_file(environment), Some(system.to_owned())].into_iter().flatten() {
        if let Some(text) = read_bounded(&path)? {
            return Ok(Some((path, text)));
        }
    }
    Ok(None)
}

/// Where a user's own configuration file is: below `$XDG_CONFIG_HOME`, else `$HOME/.config`.
pub fn user_file(environment: &Environment) -> Option<PathBuf> {
    let base = match environment.find("XDG_CONFIG_HOME").map(PathBuf::from).filter(|path| path.is_absolute())
    {
        Some(base) => base,
        None => PathBuf::from(environment.find("HOME")?).join(".config"),
    };
    Some(base.join("shadowvault/config.yaml"))
}

fn read_bounded(path: &Path) -> Result<Option<String>, ConfigError> {
    let failed = |source| ConfigError::Read { path: path.to_owned(), source };
    let file = match File::open(path) {
        Ok(file) => file,
        Err(e) if matches!(e.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
            return Ok(None);
        }
        Err(e) => return Err(failed(e)),
    };
    let mut text = String::new();
    file.take(limit::CONFIG_BYTES_MAX as u64 + 1).read_to_string(&mut text).map_err(failed)?;
    if text.len() > limit::CONFIG_BYTES_MAX {
        let reason = format!("longer than {} bytes", limit::CONFIG_BYTES_MAX);
        return Err(failed(io::Error::new(io::ErrorKind::FileTooLarge, reason)));
    }
    Ok(Some(text))
}

fn join(section: &str, name: &str) -> String {
    if section.is_empty() { name.to_owned() } else { format!("{section}.{name}") }
}

fn find_key(section: &str, name: &str) -> Option<usize> {
    KEYS.iter().position(|key| key.section == section && key.name == name)
}

/// The key that `name` was probably meant to be: misspelt here, or at home in another section.
fn suggest(section: &str, name: &str) -> Option<String> {
    let here = KEYS.iter().filter(|key| key.section == section).map(|key| key.name);
    let sections = SECTIONS.iter().map(|(name, _)| *name).filter(|_| section.is_empty());
    if let Some(near) = nearest(name, here.chain(sections)) {
        return Some(join(section, near));
    }
    if let Some(key) = KEYS.iter().find(|key| key.name == name || (!section.is_empty() && key.path() == name))
    {
        return Some(key.path());
    }
    let elsewhere = nearest(name, KEYS.iter().map(|key| key.name))?;
    KEYS.iter().find(|key| key.name == elsewhere).map(Key::path)
}
