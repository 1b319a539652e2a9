//! Configuration: a YAML file, the environment and flags become checked [`Settings`].
//!
//! Every key stands once, in the table of `table.rs`: type, default, what is allowed, whether a change counts
//! without a restart, whether it does something in this version. Flags outrank the environment, which outranks
//! the file, which outranks the defaults. One file counts: the one named, else the first that exists of
//! [`user_file`] and `/etc/shadowvault/config.yaml`; files are not merged.
//!
//! Refuses, with place and cure, and as many mistakes at once as it finds: unknown and repeated keys, values
//! that a key cannot have, values that do not fit each other, and keys that do nothing yet. Reads the one file
//! and nothing else; makes no directory and opens no connection.

mod check;
mod key;
mod kind;
mod layer;
mod list;
mod mistake;
mod node;
mod render;
mod sets;
mod table;
#[cfg(test)]
mod tests;

use std::path::{Path, PathBuf};

pub use key::{Allowed, Change, Key, Shape, State};
pub use kind::{LocalCopy, LogFormat, LogLevel};
pub use layer::{Environment, Overrides, user_file};
pub use list::{Address, PeerAddress};
pub use mistake::{ConfigError, Fault, Mistake, Origin};
pub use node::Mark;
pub use render::{example, schema};
pub use sets::{BackupSet, Hooks, When};
pub use table::{
    Acl, KEYS, Monitoring, NatTraversal, Notify, P2p, Replication, Retention, Scheduler, Security, Settings,
    Snapshot, Storage,
};

/// The system's configuration file.
pub const SYSTEM_FILE: &str = "/etc/shadowvault/config.yaml";

/// Checked settings, and where each of them comes from.
#[derive(Clone, PartialEq, Debug)]
pub struct Loaded {
    /// The settings.
    pub settings: Settings,
    /// The file that was read, if any.
    pub file: Option<PathBuf>,
    origins: Vec<Origin>,
}

/// One line of `config show --effective --origin`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Effective {
    /// The key's path, such as `p2p.max_peers`.
    pub key: String,
    /// The value as one would write it.
    pub value: String,
    /// Where it comes from.
    pub origin: Origin,
}

impl Loaded {
    /// Whether nobody has said anything about a key, such as `repository_path`.
    pub fn is_default(&self, path: &str) -> bool {
        self.origins[position(path)] == Origin::Default
    }

    /// Every key with its value and origin, in the order of the table.
    pub fn effective(&self) -> Vec<Effective> {
        let rows = KEYS.iter().zip(&self.origins);
        rows.map(|(key, origin)| Effective {
            key: key.path(),
            value: (key.show)(&self.settings),
            origin: origin.clone(),
        })
        .collect()
    }
}

impl Loaded {
    /// Takes over what `new` says of keys that can change while the node runs. Returns the keys that changed now, and
    /// those that differ and keep their old value until the next start.
    pub fn adopt(&mut self, new: Self) -> (Vec<String>, Vec<String>) {
        let (mut changed, mut restart) = (Vec::new(), Vec::new());
        for (index, key) in KEYS.iter().enumerate() {
            let differs = (key.show)(&self.settings) != (key.show)(&new.settings);
            match key.change {
                Change::Live => {
                    (key.copy)(&new.settings, &mut self.settings);
                    self.origins[index] = new.origins[index].clone();
                    changed.extend(differs.then(|| key.path()));
                }
                Change::Restart if differs => restart.push(key.path()),
                Change::Restart => self.origins[index] = new.origins[index].clone(),
            }
        }
        self.file = new.file;
        (changed, restart)
    }
}

/// Reads the file that counts and the environment, and checks everything.
///
/// [`ConfigError::Missing`] only for a file named in `overrides`; the usual files may be absent.
pub fn load(overrides: &Overrides, environment: &Environment) -> Result<Loaded, ConfigError> {
    load_with(overrides, environment, Path::new(SYSTEM_FILE))
}

fn load_with(overrides: &Overrides, environment: &Environment, system: &Path) -> Result<Loaded, ConfigError> {
    let file = layer::read_file(overrides, environment, system)?;
    let mut layers = layer::Layers::default();
    layers.add_flags(overrides);
    layers.add_environment(environment);
    if let Some((path, source)) = &file {
        layers.add_file(path, source);
    }
    let (mut settings, origins) = settle(layers).map_err(ConfigError::Invalid)?;
    if let Some(repo) = &overrides.repo {
        settings.repository_path.clone_from(repo); // the layers hold text, and a path need not be UTF-8
    }
    Ok(Loaded { settings, file: file.map(|(path, _)| path), origins })
}

/// Turns what was said into settings. Rules between keys are applied to values that are sound by themselves.
fn settle(layers: layer::Layers) -> Result<(Settings, Vec<Origin>), Vec<Mistake>> {
    let layer::Layers { said, mut mistakes } = layers;
    let defaults = Settings::default();
    let mut settings = defaults.clone();
    let mut origins = vec![Origin::Default; KEYS.len()];
    for (index, (node, origin)) in said {
        let key = &KEYS[index];
        match (key.set)(key, &mut settings, &node) {
            Ok(()) => {
                if let Some(fault) = check::unavailable(key, &settings, &defaults) {
                    mistakes.push(Mistake { origin: origin.clone(), key: key.path(), fault });
                }
            }
            Err(found) => mistakes.extend(found.into_iter().map(|wrong| Mistake {
                origin: narrowed(&origin, wrong.mark),
                key: key.path() + &wrong.below,
                fault: wrong.fault,
            })),
        }
        origins[index] = origin;
    }
    for check::Conflict { key, other, fault } in check::conflicts(&settings) {
        let already = |path| mistakes.iter().any(|mistake| mistake.key == path);
        if !already(key) && !already(other) {
            let said = [key, other].map(|path| &origins[position(path)]);
            let origin = said.into_iter().find(|origin| **origin != Origin::Default);
            let origin = origin.cloned().unwrap_or(Origin::Default);
            mistakes.push(Mistake { origin, key: key.to_owned(), fault });
        }
    }
    mistakes.sort_by_key(|mistake| match &mistake.origin {
        Origin::File { mark, .. } => (0, *mark),
        _ => (1, Mark::default()),
    });
    if mistakes.is_empty() { Ok((settings, origins)) } else { Err(mistakes) }
}

fn position(path: &str) -> usize {
    KEYS.iter().position(|key| key.path() == path).expect("rules name keys of the table")
}

/// The same origin at the exact place of the wrong part.
fn narrowed(origin: &Origin, mark: Mark) -> Origin {
    match origin {
        Origin::File { path, .. } if mark.line > 0 => Origin::File { path: path.clone(), mark },
        other => other.clone(),
    }
}
