//! A dry run: what a restore would do, without touching anything.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::making::child_path;
use super::surplus::Surplus;
use super::tally::{Shared, count};
use super::walk::{Visit, walk};
use super::{RestoreAction, tree_below};
use crate::engine::error::EngineError;
use crate::engine::monitor::Monitor;
use crate::engine::reader::ChunkReader;
use crate::engine::remembered::{Remembered, file_key};
use crate::engine::tree::Found;
use crate::engine::vault::Vault;
use crate::fs::{Fate, Older, Selector, Target, TargetDir};
use crate::snapshot::Omissions;
use crate::wire::{self, NodeType};

/// Looks at everything that is chosen; `target` is absent when it is not there yet.
pub(super) fn look(
    vault: &Vault,
    reader: &mut ChunkReader<'_>,
    found: Found,
    selector: &Selector,
    target: Option<&Target>,
    shared: &Shared<'_>,
    surplus: &Surplus<'_>,
) -> Result<(), EngineError> {
    let mut preview = Preview { shared, surplus, linked: Remembered::new(vault) };
    let root = preview.place(target.map(Target::root), Path::new(""), !selector.has_includes())?;
    if let (Found::Node(node), Some(target), true) = (&found, target, root.chosen && shared.target_metadata)
        && tree_below(&found).is_some()
        && target.root().would_change(node)
    {
        shared.note(RestoreAction::Dress, Path::new("."));
    }
    match (tree_below(&found), found) {
        (Some(tree), _) => walk(reader, selector, &mut preview, root, tree),
        (None, Found::Node(node)) => {
            let path = child_path(Path::new(""), &node);
            preview.entry(&mut Place { older: None, ..root }, *node, path)
        }
        (None, Found::Root(_)) => Ok(()),
    }
}

struct Preview<'a> {
    shared: &'a Shared<'a>,
    surplus: &'a Surplus<'a>,
    /// Files with several names that were met: further names are links.
    linked: Remembered<'a>,
}

struct Place {
    /// `None` where the restore would make it.
    dir: Option<Arc<TargetDir>>,
    older: Option<Older>,
    chosen: bool,
}

impl Preview<'_> {
    fn is_further_name(&mut self, node: &wire::Node) -> Result<bool, EngineError> {
        if node.links < 2 {
            return Ok(false);
        }
        let key = file_key(node);
        let is_known = self.linked.get(&key)?.is_some();
        if !is_known {
            self.linked.insert(key, Vec::new())?;
        }
        Ok(is_known)
    }

    fn place(&self, dir: Option<Arc<TargetDir>>, path: &Path, chosen: bool) -> Result<Place, EngineError> {
        let older = match &dir {
            Some(dir) => self.surplus.older(dir, path)?,
            None => None,
        };
        Ok(Place { dir, older, chosen })
    }
}

impl Visit for Preview<'_> {
    type Dir = Place;

    fn enter(
        &mut self,
        parent: &mut Place,
        node: &wire::Node,
        path: &Path,
        chosen: bool,
    ) -> Result<Place, EngineError> {
        if let (Some(older), Some(dir)) = (&mut parent.older, &parent.dir) {
            dir.know(older, &node.name);
        }
        let dir = match &parent.dir {
            Some(parent) => parent.look_into(node)?,
            None => None,
        };
        count(&self.shared.tally.directories);
        match &dir {
            None => self.shared.note(RestoreAction::Create, path),
            Some(dir) if chosen && dir.takes_metadata() && dir.would_change(node) => {
                self.shared.note(RestoreAction::Dress, path);
            }
            Some(_) => {}
        }
        self.place(dir, path, chosen)
    }

    fn entry(&mut self, dir: &mut Place, node: wire::Node, path: PathBuf) -> Result<(), EngineError> {
        if let (Some(older), Some(there)) = (&mut dir.older, &dir.dir) {
            there.know(older, &node.name);
        }
        let fate = dir.dir.as_ref().map_or(Ok(Fate::New), |dir| dir.fate(&node));
        let tally = self.shared.tally;
        let action = match fate {
            Err(error) => {
                self.shared.settle(&path, error);
                return Ok(());
            }
            Ok(Fate::Skip(_)) => {
                self.shared.skipped(&path, &node);
                return Ok(());
            }
            Ok(Fate::Dress) => {
                count(&tally.skipped);
                self.shared.note(RestoreAction::Dress, &path);
                self.shared.progressed(&node);
                return Ok(());
            }
            Ok(Fate::New) => RestoreAction::Create,
            Ok(Fate::Replace) => {
                count(&tally.overwritten);
                RestoreAction::Overwrite
            }
        };
        if node.r#type() == NodeType::NodeFile && !self.is_further_name(&node)? {
            count(&tally.files);
            Monitor::add(&tally.bytes, node.size);
        } else {
            count(&tally.others);
        }
        self.shared.note(action, &path);
        self.shared.progressed(&node);
        Ok(())
    }

    fn leave(&mut self, dir: Place, path: &Path, omissions: Option<&Omissions>) -> Result<(), EngineError> {
        if let (Some(older), Some(there), Some(omissions)) = (&dir.older, &dir.dir, omissions) {
            self.surplus.remove(there, older, path, dir.chosen, omissions, self.shared);
        }
        Ok(())
    }

    fn failed(&mut self, path: &Path, error: EngineError) {
        self.shared.settle(path, error);
    }

    fn go_on(&self) -> Result<(), EngineError> {
        self.shared.go_on()
    }
}
