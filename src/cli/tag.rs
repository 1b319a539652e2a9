//! `tag`, `pin` and `unpin`.

use clap::Args;

use super::output::{Paint, escape};
use super::reference::reference;
use super::session::{Keys, Session};
use crate::api::{ApiError, TagRequest, Tagged};
use crate::node::Mode;

#[derive(Args)]
pub(super) struct TagArgs {
    /// Snapshots: the beginning of an id, `latest` or `latest~N`
    #[arg(required = true, value_name = "REF", value_parser = reference())]
    snapshots: Vec<String>,
    /// Add this label; may be repeated
    #[arg(long, value_name = "TAG")]
    add: Vec<String>,
    /// Remove this label; may be repeated
    #[arg(long, value_name = "TAG")]
    remove: Vec<String>,
    /// Replace all labels by this one, or by none with ''; may be repeated
    #[arg(long, value_name = "TAG")]
    set: Vec<String>,
}

pub(super) async fn run(args: TagArgs, session: &Session<'_>) -> Result<u8, ApiError> {
    let set = (!args.set.is_empty()).then(|| args.set.into_iter().filter(|tag| !tag.is_empty()).collect());
    let request =
        TagRequest { snapshots: args.snapshots, add: args.add, remove: args.remove, set, pin: None };
    change(request, session).await
}

#[derive(Args)]
pub(super) struct PinArgs {
    /// Snapshots: the beginning of an id, `latest` or `latest~N`
    #[arg(required = true, value_name = "REF", value_parser = reference())]
    snapshots: Vec<String>,
}

pub(super) async fn pin(args: PinArgs, pinned: bool, session: &Session<'_>) -> Result<u8, ApiError> {
    let request = TagRequest { snapshots: args.snapshots, pin: Some(pinned), ..TagRequest::default() };
    change(request, session).await
}

async fn change(request: TagRequest, session: &Session<'_>) -> Result<u8, ApiError> {
    let handle = session.open(Keys::Needed, Mode::Offline).await?;
    let result = handle.service().tag(request).await;
    let tagged = handle.close(result).await?;
    session.output.show(&tagged, |tagged, paint| render(tagged, paint));
    Ok(0)
}

fn render(tagged: &[Tagged], paint: Paint) -> String {
    let line = |one: &Tagged| {
        let id = paint.bold(&one.snapshot_id.short());
        let was = match one.snapshot_id == one.old_snapshot_id {
            true => " as it was".to_owned(),
            false => format!(" (was {})", one.old_snapshot_id.short()),
        };
        let tags: Vec<_> = one.tags.iter().map(|tag| escape(tag)).collect();
        let tags = if tags.is_empty() { "no tags".to_owned() } else { tags.join(", ") };
        let pinned = if one.pinned { ", pinned" } else { "" };
        format!("{id}{was}: {tags}{pinned}\n")
    };
    tagged.iter().map(line).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::SnapshotId;

    #[test]
    fn a_new_id_is_told_beside_the_old_one() {
        let (a, b) = (SnapshotId::new([0x11; 32]), SnapshotId::new([0x22; 32]));
        let tagged = |new, old, tags: &[&str]| Tagged {
            snapshot_id: new,
            old_snapshot_id: old,
            tags: tags.iter().map(|tag| (*tag).to_owned()).collect(),
            pinned: old == new,
        };
        let list = [tagged(a, b, &["x", "y\u{7}"]), tagged(b, b, &[])];
        let expected = "11111111 (was 22222222): x, y\\u{7}\n22222222 as it was: no tags, pinned\n";
        assert_eq!(render(&list, Paint(false)), expected);
    }
}
