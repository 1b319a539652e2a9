//! What a snapshot reference means: the beginning of an id, `latest`, `latest~N`. Pure.

use super::error::EngineError;
use super::heads::VaultView;
use crate::base::limit;
use crate::snapshot::Snapshot;

/// Finds the snapshot that `reference` names. Ids that a change of tags replaced are known as well.
///
/// # Errors
/// [`EngineError::SnapshotUnknown`] with those that are called alike, [`EngineError::SnapshotAmbiguous`] with those
/// that it could mean.
pub fn resolve<'a>(view: &'a VaultView, reference: &str) -> Result<&'a Snapshot, EngineError> {
    if let Some(rest) = reference.strip_prefix("latest") {
        let digits = rest.strip_prefix('~').filter(|n| n.bytes().all(|byte| byte.is_ascii_digit()));
        let back = if rest.is_empty() { Some(0) } else { digits.and_then(|n| n.parse::<usize>().ok()) };
        let found = back.and_then(|back| view.snapshots.iter().rev().nth(back));
        return found.ok_or_else(|| unknown(view, reference));
    }
    let prefix = reference.to_ascii_lowercase();
    if prefix.len() < limit::ID_PREFIX_DIGITS_MIN || !prefix.chars().all(|c| c.is_ascii_hexdigit()) {
        return Err(unknown(view, reference));
    }
    let mut found = named(view, |snapshot| snapshot.id.to_string().starts_with(&prefix));
    if found.is_empty() {
        let replaced = |id: crate::base::SnapshotId| id.to_string().starts_with(&prefix);
        found = named(view, |snapshot| snapshot.original.is_some_and(replaced));
    }
    match found.as_slice() {
        [] => Err(unknown(view, reference)),
        [one] => Ok(one),
        several => {
            let candidates = several.iter().map(|one| describe(one, prefix.len())).collect();
            Err(EngineError::SnapshotAmbiguous { reference: prefix, candidates })
        }
    }
}

fn named(view: &VaultView, is_meant: impl Fn(&Snapshot) -> bool) -> Vec<&Snapshot> {
    view.snapshots.iter().filter(|snapshot| is_meant(snapshot)).collect()
}

/// The first digits of its id, when and where it was made, and of what.
fn describe(snapshot: &Snapshot, digits: usize) -> String {
    let id: String = snapshot.id.to_string().chars().take((digits + 4).max(8)).collect();
    let paths: Vec<_> =
        snapshot.info.paths.iter().take(3).map(|path| String::from_utf8_lossy(path)).collect();
    let more = if snapshot.info.paths.len() > paths.len() { " …" } else { "" };
    format!("{id}  {}  {}  {}{more}", snapshot.time, snapshot.info.hostname, paths.join(" "))
}

fn unknown(view: &VaultView, reference: &str) -> EngineError {
    let shown: String = reference.chars().take(80).collect();
    let count = view.snapshots.len();
    if reference.starts_with("latest~") && count > 0 {
        let near = vec![format!("latest~{} (the oldest of {count})", count - 1)];
        return EngineError::SnapshotUnknown { reference: shown, near };
    }
    EngineError::SnapshotUnknown { near: alike(view, &reference.to_ascii_lowercase()), reference: shown }
}

/// Snapshots whose ids begin almost like `reference`.
fn alike(view: &VaultView, reference: &str) -> Vec<String> {
    if reference.len() < limit::ID_PREFIX_DIGITS_MIN || !reference.is_ascii() {
        return Vec::new();
    }
    // A digit too many, too few or wrong; two in a longer beginning.
    let most = if reference.len() < 8 { 1 } else { 2 };
    let is_alike = |snapshot: &&Snapshot| {
        let id = snapshot.id.to_string();
        let lengths = reference.len().saturating_sub(1)..=(reference.len() + 1).min(id.len());
        lengths
            .into_iter()
            .any(|length| id.get(..length).is_some_and(|start| strsim::levenshtein(start, reference) <= most))
    };
    let found = view.snapshots.iter().rev().filter(is_alike).take(limit::CANDIDATES_NAMED_MAX);
    found.map(|snapshot| describe(snapshot, 8)).collect()
}
