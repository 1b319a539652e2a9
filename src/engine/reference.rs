//! What a snapshot reference means: the beginning of an id, `latest`, `latest~N`. Pure.

use std::collections::HashSet;

use super::error::EngineError;
use super::heads::VaultView;
use crate::base::{SnapshotId, limit};
use crate::snapshot::Snapshot;

/// Finds the snapshot that `reference` names. Ids that a change of tags replaced are known as well.
///
/// # Errors
/// [`EngineError::SnapshotUnknown`] with those that are called alike, [`EngineError::SnapshotAmbiguous`] with those
/// that it could mean, [`EngineError::SnapshotBroken`] for one whose record cannot be read, and
/// [`EngineError::LatestUncertain`] when such a one may be what is meant by `latest`, or [`EngineError::HeadHidden`] when
/// one that nobody knows of here may be.
pub fn resolve<'a>(view: &'a VaultView, reference: &str) -> Result<&'a Snapshot, EngineError> {
    if let Some(rest) = reference.strip_prefix("latest") {
        let digits = rest.strip_prefix('~').filter(|n| n.bytes().all(|byte| byte.is_ascii_digit()));
        let back = if rest.is_empty() { Some(0) } else { digits.and_then(|n| n.parse::<usize>().ok()) };
        let found = back.and_then(|back| view.snapshots.iter().rev().nth(back));
        let newer: Vec<SnapshotId> =
            view.broken.iter().map(|(id, _)| *id).filter(|id| !is_older(view, *id, found)).collect();
        if back.is_some() && !newer.is_empty() {
            return Err(EngineError::LatestUncertain(newer));
        }
        if let Some(head) = view.hidden.first().filter(|_| back.is_some()) {
            return Err(EngineError::HeadHidden(head.clone()));
        }
        return found.ok_or_else(|| unknown(view, reference));
    }
    let prefix = reference.to_ascii_lowercase();
    if prefix.len() < limit::ID_PREFIX_DIGITS_MIN || !prefix.chars().all(|c| c.is_ascii_hexdigit()) {
        return Err(unknown(view, reference));
    }
    let mut found = named(view, |snapshot| snapshot.id.to_string().starts_with(&prefix));
    if found.is_empty() {
        let replaced = |id: SnapshotId| id.to_string().starts_with(&prefix);
        found = named(view, |snapshot| snapshot.original.is_some_and(replaced));
    }
    let broken: Vec<_> = view.broken.iter().filter(|(id, _)| id.to_string().starts_with(&prefix)).collect();
    match (found.as_slice(), broken.as_slice()) {
        ([], []) => Err(unknown(view, reference)),
        ([one], []) => Ok(one),
        ([], [(id, why)]) => Err(EngineError::SnapshotBroken { id: *id, why: why.clone() }),
        (several, broken) => {
            let broken = broken.iter().map(|(id, why)| format!("{}  {why}", digits(*id, prefix.len())));
            let candidates = several.iter().map(|one| describe(one, prefix.len())).chain(broken).collect();
            Err(EngineError::SnapshotAmbiguous { reference: prefix, candidates })
        }
    }
}

/// The same, for what concerns a snapshot whose record cannot be read as well.
pub fn resolve_listed(view: &VaultView, reference: &str) -> Result<SnapshotId, EngineError> {
    match resolve(view, reference) {
        Ok(snapshot) => Ok(snapshot.id),
        Err(EngineError::SnapshotBroken { id, .. }) => Ok(id),
        Err(error) => Err(error),
    }
}

/// Whether a snapshot that cannot be read is surely older than `than`: a head lists, after it, one that is no newer.
fn is_older(view: &VaultView, broken: SnapshotId, than: Option<&Snapshot>) -> bool {
    let Some(than) = than else { return false };
    let mut up_to: HashSet<SnapshotId> =
        view.snapshots.iter().map(|one| one.id).take_while(|id| *id != than.id).collect();
    up_to.insert(than.id);
    let is_no_newer = |id: &SnapshotId| up_to.contains(id);
    view.heads.iter().any(|head| {
        let mut after = head.draft.snapshots.iter().skip_while(|id| **id != broken).skip(1);
        after.any(is_no_newer)
    })
}

fn named(view: &VaultView, is_meant: impl Fn(&Snapshot) -> bool) -> Vec<&Snapshot> {
    view.snapshots.iter().filter(|snapshot| is_meant(snapshot)).collect()
}

/// The beginning of an id, some digits longer than what was given.
fn digits(id: SnapshotId, given: usize) -> String {
    id.to_string().chars().take((given + 4).max(8)).collect()
}

/// The first digits of its id, when and where it was made, and of what.
fn describe(snapshot: &Snapshot, digits: usize) -> String {
    let id = self::digits(snapshot.id, digits);
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
