//! Looking into snapshots: listing, finding, comparing, dumping, counting; and their tags.

use std::sync::Arc;

use bytes::Bytes;
use futures::StreamExt;

use super::core::Core;
use super::error::failed;
use super::flow::{Goods, flow, one_by_one};
use super::source::Mesh;
use super::status;
use super::work::{know_listed_packs, split_reference};
use crate::api::{
    ApiError, Batches, DiffChange, DiffItem, DiffQuery, DiffSide, DiffStatistics, Dump, EntryInfo, FindQuery,
    Found, SnapshotQuery, Stats, TagRequest, Tagged, TreeQuery,
};
use crate::base::{Code, SnapshotId, encode_path, limit, tag_fault};
use crate::engine::{
    self, Change, DumpKind, EngineError, FindOptions, Monitor, PackSource, Pattern, Search, SideTotals, Spot,
    Sums, TagEdit, Vault, VaultView,
};
use crate::snapshot::Snapshot;
use crate::wire::NodeType;

/// A vault, and where chunks that are not here may come from.
struct Reading {
    vault: Arc<Vault>,
    source: Option<Mesh>,
}

impl Reading {
    fn source(&self) -> Option<&dyn PackSource> {
        self.source.as_ref().map(|source| source as &dyn PackSource)
    }

    fn locate(
        &self,
        view: &VaultView,
        reference: &str,
        monitor: &Monitor,
    ) -> Result<(SnapshotId, Spot), ApiError> {
        let (reference, path) = split_reference(reference);
        let snapshot = engine::resolve(view, reference).map_err(failed)?;
        let spot = engine::locate(&self.vault, snapshot, &path, self.source(), monitor).map_err(failed)?;
        Ok((snapshot.id, spot))
    }
}

fn open(core: &Core, source: Option<Mesh>) -> Result<(Reading, VaultView), ApiError> {
    let vault = core.vault()?;
    let view = VaultView::load(&vault).map_err(failed)?;
    Ok((Reading { vault, source }, view))
}

pub(super) async fn list(core: &Arc<Core>, query: TreeQuery) -> Result<Batches<EntryInfo>, ApiError> {
    let source = core.source();
    let streamed = flow(core, Goods::Entries, move |core, monitor| {
        let (reading, view) = open(core, source)?;
        let (_, spot) = reading.locate(&view, &query.snapshot, monitor)?;
        Ok((
            (),
            Box::new(move |sink, monitor| {
                let each = |entry| sink.put(status::entry(entry));
                engine::list(&reading.vault, &spot, query.recursive, reading.source(), monitor, each)
                    .map_err(failed)
            }),
        ))
    });
    Ok(streamed.await?.1)
}

pub(super) async fn find(core: &Arc<Core>, query: FindQuery) -> Result<Batches<Found>, ApiError> {
    let source = core.source();
    let streamed = flow(core, Goods::Entries, move |core, _| {
        let options = find_options(&query)?;
        let (reading, view) = open(core, source)?;
        let broken =
            view.broken.first().map(|(id, why)| EngineError::SnapshotBroken { id: *id, why: why.clone() });
        let hidden = view.hidden.first().map(|head| EngineError::HeadHidden(head.clone()));
        let unread = broken.or(hidden).filter(|_| query.snapshots.is_empty());
        let snapshots = chosen(view, &query)?;
        Ok((
            (),
            Box::new(move |sink, monitor| {
                let mut search = Search::new(&reading.vault, &options, reading.source(), monitor);
                for snapshot in &snapshots {
                    let time = snapshot.time.to_rfc3339();
                    let each = |entry| {
                        sink.put(Found {
                            snapshot: snapshot.id,
                            time: time.clone(),
                            entry: status::entry(entry),
                        })
                    };
                    search.run(snapshot, each).map_err(failed)?;
                }
                search.finish().map_err(failed)?;
                // What could not be searched is told at the end.
                unread.map_or(Ok(()), |error| Err(failed(error)))
            }),
        ))
    });
    Ok(streamed.await?.1)
}

/// The snapshots that a search looks into, oldest first.
fn chosen(view: VaultView, query: &FindQuery) -> Result<Vec<Snapshot>, ApiError> {
    let named: Vec<SnapshotId> = query
        .snapshots
        .iter()
        .map(|reference| engine::resolve(&view, reference).map(|snapshot| snapshot.id).map_err(failed))
        .collect::<Result<_, _>>()?;
    let filter = SnapshotQuery {
        host: query.host.clone(),
        tag: query.tag.clone(),
        path: query.path.clone(),
        latest: None,
    };
    let is_chosen = |snapshot: &Snapshot| {
        (query.snapshots.is_empty() || named.contains(&snapshot.id))
            && status::is_asked_for(&filter, snapshot)
    };
    Ok(view.snapshots.into_iter().filter(is_chosen).collect())
}

fn find_options(query: &FindQuery) -> Result<FindOptions, ApiError> {
    let moment = |name: &str, text: &Option<String>| -> Result<Option<i64>, ApiError> {
        let Some(text) = text else { return Ok(None) };
        let moment = text.parse::<jiff::Timestamp>().map_err(|error| {
            ApiError::new(Code::UsageInvalid, format!("{name}: {text:?} is no RFC 3339 moment: {error}"))
        })?;
        Ok(Some(moment.as_second()))
    };
    Ok(FindOptions {
        pattern: Pattern::new(&query.pattern, query.ignore_case).map_err(failed)?,
        kind: query.kind.as_deref().map(kind).transpose()?,
        newer: moment("newer", &query.newer)?,
        older: moment("older", &query.older)?,
    })
}

fn kind(name: &str) -> Result<NodeType, ApiError> {
    Ok(match name {
        "file" | "f" => NodeType::NodeFile,
        "dir" | "d" => NodeType::NodeDirectory,
        "symlink" | "l" => NodeType::NodeSymlink,
        "fifo" | "p" => NodeType::NodeFifo,
        "socket" | "s" => NodeType::NodeSocket,
        "chardev" | "c" => NodeType::NodeCharacterDevice,
        "dev" | "b" => NodeType::NodeBlockDevice,
        other => {
            let text = format!("{other:?} is no type: file, dir, symlink, fifo, socket, chardev or dev");
            return Err(ApiError::new(Code::UsageInvalid, text));
        }
    })
}

pub(super) async fn diff(core: &Arc<Core>, query: DiffQuery) -> Result<Batches<DiffItem>, ApiError> {
    let source = core.source();
    let streamed = flow(core, Goods::Entries, move |core, monitor| {
        let (reading, view) = open(core, source)?;
        let (source_snapshot, old) = reading.locate(&view, &query.from, monitor)?;
        let (target_snapshot, new) = reading.locate(&view, &query.to, monitor)?;
        Ok((
            (),
            Box::new(move |sink, monitor| {
                let each = |change| sink.put(DiffItem::Change(change_info(&change)));
                let pair = (&old, &new);
                let totals =
                    engine::diff(&reading.vault, pair, query.metadata, reading.source(), monitor, each)
                        .map_err(failed)?;
                sink.put(DiffItem::Statistics(DiffStatistics {
                    source_snapshot,
                    target_snapshot,
                    changed_files: totals.changed_files,
                    added: side(totals.added),
                    removed: side(totals.removed),
                }));
                Ok(())
            }),
        ))
    });
    Ok(streamed.await?.1)
}

fn change_info(change: &Change) -> DiffChange {
    let end = if change.is_dir { "/" } else { "" };
    DiffChange {
        path: format!("{}{end}", change.path.to_string_lossy()),
        path_encoded: encode_path(&change.path),
        modifier: change.what.letters(),
    }
}

fn side(totals: SideTotals) -> DiffSide {
    DiffSide { files: totals.files, dirs: totals.dirs, others: totals.others, bytes: totals.bytes }
}

pub(super) async fn dump(core: &Arc<Core>, reference: String) -> Result<Dump, ApiError> {
    know_listed_packs(core).await;
    let source = core.source();
    let (kind, parts) = flow(core, Goods::Parts, move |core, monitor| {
        let (reading, view) = open(core, source)?;
        let (_, spot) = reading.locate(&view, &reference, monitor)?;
        let kind = DumpKind::of(&spot).map_err(failed)?;
        Ok((
            kind,
            Box::new(move |sink, monitor| {
                let out = |bytes: &[u8]| sink.put(Bytes::copy_from_slice(bytes));
                engine::dump(&reading.vault, &spot, reading.source(), monitor, out).map_err(failed)
            }),
        ))
    })
    .await?;
    let bytes = match kind {
        DumpKind::File(bytes) => Some(bytes),
        DumpKind::Archive => None,
    };
    Ok(Dump { archive: kind == DumpKind::Archive, bytes, parts: one_by_one(parts) })
}

pub(super) async fn stats(core: &Arc<Core>, reference: Option<String>) -> Result<Stats, ApiError> {
    let source = core.source();
    // A stream of one: it ends with its reader, and with the node.
    let ((), mut counted) = flow(core, Goods::Entries, move |core, _| {
        let (reading, view) = open(core, source)?;
        let resolve = |reference: String| engine::resolve(&view, &reference).cloned().map_err(failed);
        let snapshot = reference.map(resolve).transpose()?;
        let index_bytes = core.store.index_bytes();
        Ok((
            (),
            Box::new(move |sink, monitor| {
                sink.put(count(&reading, &view, snapshot.as_ref(), index_bytes, monitor)?);
                Ok(())
            }),
        ))
    })
    .await?;
    let batch = counted.next().await.transpose()?;
    let stats = batch.and_then(|mut batch| batch.pop());
    stats.ok_or_else(|| ApiError::new(Code::Internal, "the count ended without a result"))
}

fn count(
    reading: &Reading,
    view: &VaultView,
    snapshot: Option<&Snapshot>,
    index_bytes: u64,
    monitor: &Monitor,
) -> Result<Stats, ApiError> {
    let Some(snapshot) = snapshot else {
        let sums = engine::vault_sums(&reading.vault, view, monitor).map_err(failed)?;
        return Ok(Stats { index_size: Some(index_bytes), ..numbers(&sums) });
    };
    let sums = engine::snapshot_sums(&reading.vault, view, snapshot, reading.source(), monitor);
    let sums = sums.map_err(failed)?;
    let exclusive_size = Some(sums.exclusive_pack_bytes);
    Ok(Stats { snapshot_id: Some(snapshot.id), exclusive_size, ..numbers(&sums) })
}

fn numbers(sums: &Sums) -> Stats {
    // To three digits: more would say more than such numbers mean.
    let ratio = |of: u64, to: u64| if to == 0 { 1.0 } else { (of as f64 / to as f64 * 1e3).round() / 1e3 };
    let distinct = &sums.distinct;
    Stats {
        snapshots_count: sums.snapshots,
        total_file_count: sums.files,
        total_size: sums.restore_bytes,
        unique_size: distinct.data_bytes,
        tree_size: distinct.tree_bytes,
        sealed_size: distinct.sealed_bytes,
        stored_size: sums.pack_bytes,
        deduplication_ratio: ratio(sums.restore_bytes, distinct.data_bytes),
        compression_ratio: ratio(
            distinct.data_bytes.saturating_add(distinct.tree_bytes),
            distinct.sealed_bytes,
        ),
        total_chunk_count: distinct.chunks,
        total_pack_count: sums.packs,
        estimated: sums.is_estimate,
        ..Stats::default()
    }
}

pub(super) async fn tag(core: &Arc<Core>, request: TagRequest) -> Result<Vec<Tagged>, ApiError> {
    check_tags(&request)?;
    let done = core
        .blocking(move |core| {
            let vault = core.vault()?;
            let view = VaultView::load(&vault).map_err(failed)?;
            let mut chosen: Vec<SnapshotId> = Vec::new();
            for reference in &request.snapshots {
                let id = engine::resolve(&view, reference).map_err(failed)?.id;
                if !chosen.contains(&id) {
                    chosen.push(id);
                }
            }
            let edit =
                TagEdit { set: request.set, remove: request.remove, add: request.add, pin: request.pin };
            engine::tag(&vault, &view, &chosen, &edit, &core.holder_addresses()).map_err(failed)
        })
        .await?;
    // Holders get the new head and its records.
    core.changed.notify_one();
    let tagged = done.into_iter().map(|one| Tagged {
        snapshot_id: one.new,
        old_snapshot_id: one.old,
        tags: one.tags,
        pinned: one.pinned,
    });
    Ok(tagged.collect())
}

fn check_tags(request: &TagRequest) -> Result<(), ApiError> {
    let wrong = |text: String| Err(ApiError::new(Code::UsageInvalid, text));
    if request.snapshots.is_empty() {
        return wrong("no snapshot is named".to_owned());
    }
    let new: Vec<&String> = request.add.iter().chain(request.set.iter().flatten()).collect();
    if new.is_empty() && request.remove.is_empty() && request.set.is_none() && request.pin.is_none() {
        return wrong("nothing to change: name tags to add, to remove or to set".to_owned());
    }
    if new.len() > limit::TAGS_MAX {
        return wrong(format!("{} tags are more than the {} that fit", new.len(), limit::TAGS_MAX));
    }
    match new.iter().find_map(|tag| Some((tag, tag_fault(tag)?))) {
        Some((tag, fault)) => wrong(format!("{tag:?} is no tag: {fault}")),
        None => Ok(()),
    }
}
