//! `recover` and `rebuild-index`: what brings a vault or an index back.

use std::path::{Path, PathBuf};

use clap::Args;
use zeroize::Zeroizing;

use super::find::moment;
use super::init::{device_name, load_for_setup, read_phrase, write_config};
use super::output::{Paint, count, escape};
use super::passphrase::Text;
use super::peers::describe;
use super::session::Session;
use crate::api::{ApiError, RebuildSummary};
use crate::base::{Code, Moment};
use crate::crypto::Phrase;
use crate::node::{self, DrillSummary, Newcomer, RecoverRequest, RecoverSummary};

#[derive(Args)]
pub(super) struct RecoverArgs {
    /// A peer that keeps copies: its multiaddr with /p2p/ID
    #[arg(long, value_name = "MULTIADDR")]
    peer: String,
    /// Read the recovery phrase from this file; - reads stdin
    #[arg(long, value_name = "FILE")]
    phrase_file: Option<PathBuf>,
    /// Only prove that phrase and peer would bring the vault back; nothing is made or changed
    #[arg(long, conflicts_with = "heir_of")]
    drill: bool,
    /// Carry on the snapshots of this lost device
    #[arg(long, value_name = "DEVICE")]
    heir_of: Option<String>,
    /// The vault as it was then (2026-03-01, 2026-03-01T18:00:00Z), for as far back as holders keep what was forgotten
    #[arg(long, value_name = "TIME", value_parser = moment)]
    at: Option<jiff::Timestamp>,
}

pub(super) async fn run(args: RecoverArgs, session: &Session<'_>) -> Result<u8, ApiError> {
    let loaded = load_for_setup(session)?;
    let phrase = phrase(args.phrase_file.as_deref(), session)?;
    if args.drill {
        let summary = node::drill(loaded.settings, &phrase, &args.peer).await?;
        session.output.show(&summary, render_drill);
        return Ok(0);
    }
    let passphrase = session.passphrases().fresh()?.into_passphrase();
    let request = RecoverRequest {
        newcomer: Newcomer { phrase, passphrase, device_name: device_name() },
        peer: args.peer,
        heir_of: args.heir_of,
        confirmed: session.globals.yes,
        at: args.at.map(|at| Moment::from_millis(u64::try_from(at.as_millisecond()).unwrap_or(0))),
    };
    let progress = |stage: &str| session.output.note(&escape(stage));
    let ready = || drop(write_config(session, &loaded, None));
    let summary = node::recover(loaded.settings.clone(), request, progress, ready).await?;
    session.output.show(&summary, render);
    session.output.note("next: `shadowvault snapshots`, then `shadowvault restore latest --target DIR`");
    if summary.damaged == 0 && summary.unread == 0 && summary.hidden == 0 && summary.lists == 0 {
        return Ok(0);
    }
    if summary.lists > 0 {
        let lists = count(summary.lists, "piece");
        let text =
            format!("{lists} of pack lists are at no holder that was reached: some packs are not known");
        let hint = "everything else is here (`shadowvault verify` tells what); when other holders come, `shadowvault repair` asks them";
        return Err(ApiError::new(Code::StorageCorrupted, text).with_hint(hint));
    }
    if summary.hidden > 0 {
        let heads = count(summary.hidden, "newest head");
        let text = format!(
            "{heads} of devices cannot be read at the holders that were reached: snapshots may be missing"
        );
        let hint = "`shadowvault repair` at those holders gets them from others; what comes of it is taken over by itself";
        return Err(ApiError::new(Code::SnapshotCorrupted, text).with_hint(hint));
    }
    if summary.damaged == 0 {
        let packs = count(summary.unread, "pack");
        let error =
            ApiError::new(Code::Incomplete, format!("the directories of {packs} could not be read yet"));
        return Err(error.with_hint("`shadowvault daemon` goes on with them whenever a holder is there"));
    }
    let lost = count(summary.damaged, "snapshot");
    let error = ApiError::new(
        Code::SnapshotCorrupted,
        format!("the records of {lost} are at no holder that was reached"),
    );
    Err(error.with_hint("everything else is here; when other holders come, `shadowvault repair` asks them"))
}

fn render_drill(summary: &DrillSummary, paint: Paint) -> String {
    let good = paint.good("proven: this phrase and this peer bring the vault back");
    format!("{good}\nvault     {}\nholder    {}\n", summary.vault_id, summary.peer)
}

/// The recovery phrase, from a file if one is given, else typed.
pub(super) fn phrase(file: Option<&Path>, session: &Session<'_>) -> Result<Phrase, ApiError> {
    match file {
        Some(path) => read_phrase(path, session.output),
        None => ask_phrase(session),
    }
}

fn ask_phrase(session: &Session<'_>) -> Result<Phrase, ApiError> {
    let typed = session.passphrases().ask("Recovery phrase (24 words, not shown): ").map_err(|_| {
        let error = ApiError::new(Code::InvalidKey, "the recovery phrase is needed and was not given");
        error.with_hint("give it with --phrase-file FILE (- for stdin), or at the prompt")
    })?;
    Phrase::parse(&Zeroizing::new(typed.into_text())).map_err(|error| ApiError::from(&error))
}

fn render(summary: &RecoverSummary, paint: Paint) -> String {
    paint.good("recovered") + "\n" + &render_found(summary)
}

/// What of the vault was found, and where.
pub(super) fn render_found(summary: &RecoverSummary) -> String {
    let mut text = describe(&summary.identity);
    let (snapshots, heads) = (count(summary.snapshots, "snapshot"), count(summary.heads, "head"));
    text += &format!("found     {snapshots}, {heads}, {}\n", count(summary.packs, "pack"));
    for holder in &summary.holders {
        text += &format!("holder    {holder}\n");
    }
    for device in &summary.devices {
        text += &format!("device    {}\n", escape(device));
    }
    text
}

#[derive(clap::Args)]
pub(super) struct RebuildArgs {
    /// Go on although none of the packs that heads list is here: they are lost, not on a disk that is not mounted
    #[arg(long)]
    yes: bool,
}

pub(super) async fn rebuild_index(args: RebuildArgs, session: &Session<'_>) -> Result<u8, ApiError> {
    let settings = session.load()?.settings;
    // Without keys it makes what a holder needs; a prompt would be wrong on a storage-only node.
    let passphrase = session.passphrases().given()?.map(Text::into_passphrase);
    let work = move || node::rebuild_index(&settings, passphrase.as_ref(), args.yes);
    let work = tokio::task::spawn_blocking(work).await;
    let summary =
        work.unwrap_or_else(|_| Err(ApiError::new(Code::Internal, "rebuilding the index panicked")))?;
    session.output.show(&summary, render_rebuilt);
    if summary.unreadable.is_empty() {
        return Ok(0);
    }
    let error = ApiError::new(
        Code::StorageCorrupted,
        format!("{} could not be read", count(summary.unreadable.len() as u64, "file")),
    );
    Err(error.with_hint("mend them from peers with `shadowvault repair`"))
}

fn render_rebuilt(summary: &RebuildSummary, paint: Paint) -> String {
    let mut text = paint.bold("index rebuilt") + "\n";
    let (packs, chunks) = (count(summary.packs, "pack"), count(summary.chunks, "chunk"));
    let (snapshots, heads) = (count(summary.snapshots, "snapshot"), count(summary.heads, "head"));
    text += &format!("  {packs}, {chunks}, {snapshots}, {heads}\n");
    if !summary.with_keys {
        text +=
            "  without keys: own chunks are not indexed; give the passphrase (--passphrase-file) for them\n";
    }
    for path in &summary.unreadable {
        text += &format!("  {} {}\n", paint.bad("unreadable:"), escape(path));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::Identity;
    use crate::base::PeerId;

    #[test]
    fn summaries_read_well() {
        let id = PeerId::new([1; 32]);
        let identity = Identity { peer_id: id, addresses: vec![], vault_id: None };
        let summary = RecoverSummary {
            identity,
            snapshots: 2,
            damaged: 0,
            hidden: 0,
            lists: 0,
            heads: 1,
            packs: 3,
            unread: 0,
            holders: vec![id],
            devices: vec!["lap\x1btop".into()],
        };
        let text = render(&summary, Paint(false));
        assert!(
            text.starts_with("recovered\npeer id")
                && text.contains("found     2 snapshots, 1 head, 3 packs\n")
        );
        assert!(text.ends_with(&format!("holder    {id}\ndevice    lap\\u{{1b}}top\n")));

        let summary = RebuildSummary { packs: 1, unreadable: vec!["x".into()], ..RebuildSummary::default() };
        let text = render_rebuilt(&summary, Paint(false));
        assert!(
            text.contains("1 pack, 0 chunks")
                && text.contains("without keys")
                && text.contains("unreadable: x")
        );
    }
}
