//! Exports and imports: copies that are carried on a disk.

use std::sync::Arc;

use bytes::Bytes;

use crate::api::{ApiError, Dump, ImportRequest, ImportSummary, JobOutcome};
use crate::base::{Code, VaultId};
use crate::engine::{self, EngineError, Monitor, PackSource, VaultView};
use crate::node::core::Core;
use crate::node::error::failed;
use crate::node::flow::{Goods, flow, one_by_one};
use crate::node::holding::{Share, free_bytes, free_for, promise_room};
use crate::node::jobs::Ended;
use crate::node::streams::Input;
use crate::store::NOBODY;

/// Streams the vault's heads, records and packs.
pub(in crate::node) async fn export(core: &Arc<Core>, snapshot: Option<String>) -> Result<Dump, ApiError> {
    let ((), parts) = flow(core, Goods::Parts, move |core, _| {
        let vault = core.vault()?;
        let view = VaultView::load(&vault).map_err(failed)?;
        let source = core.source();
        let resolved = snapshot.map(|reference| engine::resolve(&view, &reference).cloned().map_err(failed));
        let snapshot = resolved.transpose()?;
        if let Some(head) = view.hidden.first().filter(|_| snapshot.is_none()) {
            return Err(failed(EngineError::HeadHidden(head.clone())));
        }
        Ok((
            (),
            Box::new(move |sink, monitor| {
                let source = source.as_ref().map(|mesh| mesh as &dyn PackSource);
                let out = |bytes: &[u8]| sink.put(Bytes::copy_from_slice(bytes));
                engine::export(&vault, source, snapshot.as_ref(), monitor, out).map_err(failed)
            }),
        ))
    })
    .await?;
    Ok(Dump { archive: true, bytes: None, parts: one_by_one(parts) })
}

/// Takes in what is streamed to the job.
pub(super) async fn import(
    core: &Arc<Core>,
    request: ImportRequest,
    monitor: Arc<Monitor>,
    input: Option<Input>,
) -> Ended {
    let mut input = input.ok_or_else(|| ApiError::new(Code::Internal, "an import without its input"))?;
    monitor.enter("waiting for the input");
    input.begin().await?;
    monitor.enter("importing");
    Monitor::add(&monitor.bytes_total, request.bytes);
    core.blocking(move |core| {
        let vault = core.vault().ok();
        let room = |vault: VaultId, bytes: u64, keep: engine::Keep<'_>| {
            // Who brought of that vault before pays for this too; else whoever comes for it first.
            let payer = core.store.accounts()?.bearers(vault).first().copied();
            let free = || payer.map_or_else(|| free_bytes(core), |payer| free_for(core, payer, Share::All));
            let _promise = promise_room(core, bytes, free)?;
            keep(payer.unwrap_or(NOBODY))
        };
        let done =
            engine::import(&core.store, vault.as_deref(), &mut input, &room, &monitor).map_err(failed)?;
        let summary = ImportSummary {
            vault: done.vault.to_string(),
            own: vault.is_some_and(|vault| vault.id() == done.vault),
            packs: done.packs,
            bytes: done.bytes,
            held: done.held,
            snapshots: done.snapshots,
            passed_over: done.passed_over,
            damaged: done.damaged,
        };
        core.owning.note_heads();
        core.changed.notify_one();
        let error = (done.damaged > 0).then(|| {
            let more = if done.damaged > done.faults.len() as u64 { ", …" } else { "" };
            let text = format!("not all of it was taken in: {}{more}", done.faults.join(", "));
            let hint = "everything else that was read is here; `shadowvault verify` says what is missing now, which a holder or another export may have";
            ApiError::new(Code::StorageCorrupted, text).with_hint(hint)
        });
        Ok((JobOutcome::Import(summary), error))
    })
    .await
}
