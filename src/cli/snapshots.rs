//! `snapshots`.

use clap::Args;

use super::output::{Paint, Table, count, escape, local_time};
use super::session::{Keys, Session};
use crate::api::{ApiError, SnapshotInfo, SnapshotQuery};
use crate::base::{ByteSize, Code};
use crate::node::Mode;

#[derive(Args)]
pub(super) struct SnapshotsArgs {
    /// Only of this host
    #[arg(long, value_name = "HOST")]
    host: Option<String>,
    /// Only with this label
    #[arg(long, value_name = "TAG")]
    tag: Option<String>,
    /// Only of this path
    #[arg(long, value_name = "PATH")]
    path: Option<String>,
    /// Only the newest so many
    #[arg(long, value_name = "N")]
    latest: Option<usize>,
}

pub(super) async fn run(args: SnapshotsArgs, session: &Session<'_>) -> Result<u8, ApiError> {
    let query = SnapshotQuery { host: args.host, tag: args.tag, path: args.path, latest: args.latest };
    let handle = session.open(Keys::Needed, Mode::Offline).await?;
    let result = handle.service().snapshots(query).await;
    let list = handle.close(result).await?;
    session.output.show(&list, |list, paint| render(list, paint));
    match list.iter().filter(|one| one.damaged.is_some()).count() {
        0 => Ok(0),
        damaged => Err(unreadable(damaged as u64)),
    }
}

fn unreadable(damaged: u64) -> ApiError {
    let hint = "`shadowvault repair` gets records from holders; if none has one, `shadowvault forget ID --lost` takes that snapshot out";
    ApiError::new(Code::SnapshotCorrupted, format!("{} cannot be read", count(damaged, "snapshot")))
        .with_hint(hint)
}

fn render(list: &[SnapshotInfo], paint: Paint) -> String {
    if list.is_empty() {
        return "no snapshots; `shadowvault backup PATH` makes one\n".to_owned();
    }
    let (damaged, list): (Vec<_>, Vec<_>) = list.iter().partition(|one| one.damaged.is_some());
    let mut text = String::new();
    for one in damaged {
        let why = one.damaged.as_deref().unwrap_or_default();
        let state = paint.bad("damaged");
        text += &format!("{}  {state}: {} (of device {})\n", one.short_id, escape(why), escape(&one.device));
    }
    if list.is_empty() {
        return text;
    }
    let mut table = Table::new(&["ID", "TIME", "HOST", "PATHS", "TAGS", ">FILES", ">SIZE", ">COPIES"]);
    for one in list {
        let marks = [
            (!one.complete, "incomplete"),
            (one.shrunk, "shrunk"),
            (one.ahead, "dated later than now"),
            (one.pinned, "pinned"),
        ];
        let marks: Vec<&str> = marks.into_iter().filter_map(|(on, mark)| on.then_some(mark)).collect();
        let marks = if marks.is_empty() { String::new() } else { format!(" ({})", marks.join(", ")) };
        table.row([
            one.short_id.clone(),
            local_time(&one.time),
            one.hostname.clone(),
            format!("{}{marks}", one.paths.join(" ")),
            one.tags.join(","),
            one.files.to_string(),
            ByteSize(one.bytes).to_string(),
            format!("{}/{}", one.copies, one.copies_wanted),
        ]);
    }
    text + &table.render(paint)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::SnapshotId;

    #[test]
    fn snapshots_are_a_table() {
        let one = SnapshotInfo {
            id: SnapshotId::new([0x12; 32]),
            short_id: "12121212".into(),
            time: "not a time".into(),
            hostname: "evil\x1bhost".into(),
            paths: vec!["/a".into(), "/b".into()],
            tags: vec!["x".into(), "y".into()],
            parent: None,
            files: 7,
            bytes: 1536,
            copies: 1,
            copies_wanted: 2,
            complete: false,
            shrunk: false,
            ahead: false,
            pinned: false,
            device: "d".into(),
            damaged: None,
            original: None,
        };
        let expected = "\
            ID        TIME        HOST            PATHS               TAGS  FILES     SIZE  COPIES\n\
            12121212  not a time  evil\\u{1b}host  /a /b (incomplete)  x,y       7  1.5 KiB     1/2\n";
        assert_eq!(render(std::slice::from_ref(&one), Paint(false)), expected);
        let why = Some("its record is missing".to_owned());
        let broken = SnapshotInfo { damaged: why, device: "desk".into(), ..one.clone() };
        let line = "12121212  damaged: its record is missing (of device desk)\n";
        assert_eq!(render(std::slice::from_ref(&broken), Paint(false)), line);
        assert_eq!(render(&[broken, one], Paint(false)), format!("{line}{expected}"));
        assert!(render(&[], Paint(false)).contains("shadowvault backup"));
    }
}
