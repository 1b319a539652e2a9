//! `snapshots` and `ls`.

use clap::Args;

use super::output::{Paint, Table, escape, local_time};
use super::session::{Keys, Session};
use crate::api::{ApiError, EntryInfo, SnapshotInfo, SnapshotQuery, TreeQuery};
use crate::base::ByteSize;
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

#[derive(Args)]
pub(super) struct LsArgs {
    /// Snapshot: the beginning of its id, `latest` or `latest~N`; with :PATH, what is there
    #[arg(value_name = "REF[:PATH]")]
    snapshot: String,
    /// Show modes, owners, sizes and times
    #[arg(short, long)]
    long: bool,
    /// Show everything below, too
    #[arg(short = 'R', long)]
    recursive: bool,
}

pub(super) async fn run(args: SnapshotsArgs, session: &Session<'_>) -> Result<u8, ApiError> {
    let query = SnapshotQuery { host: args.host, tag: args.tag, path: args.path, latest: args.latest };
    let handle = session.open(Keys::Needed, Mode::Offline).await?;
    let result = handle.service().snapshots(query).await;
    let list = handle.close(result).await?;
    session.output.show(&list, |list, paint| render(list, paint));
    Ok(0)
}

pub(super) async fn list(args: LsArgs, session: &Session<'_>) -> Result<u8, ApiError> {
    let query = TreeQuery { snapshot: args.snapshot, recursive: args.recursive };
    let handle = session.open(Keys::Needed, Mode::Offline).await?;
    let result = handle.service().list(query).await;
    let entries = handle.close(result).await?;
    session.output.show(&entries, |entries, _| if args.long { long(entries) } else { short(entries) });
    Ok(0)
}

fn render(list: &[SnapshotInfo], paint: Paint) -> String {
    if list.is_empty() {
        return "no snapshots; `shadowvault backup PATH` makes one\n".to_owned();
    }
    let mut table = Table::new(&["ID", "TIME", "HOST", "PATHS", "TAGS", ">FILES", ">SIZE", ">COPIES"]);
    for one in list {
        let incomplete = if one.complete { "" } else { " (incomplete)" };
        table.row([
            one.short_id.clone(),
            local_time(&one.time),
            one.hostname.clone(),
            format!("{}{incomplete}", one.paths.join(" ")),
            one.tags.join(","),
            one.files.to_string(),
            ByteSize(one.bytes).to_string(),
            format!("{}/{}", one.copies, one.copies_wanted),
        ]);
    }
    table.render(paint)
}

fn short(entries: &[EntryInfo]) -> String {
    entries.iter().map(|entry| format!("{}\n", escape(&entry.path))).collect()
}

fn long(entries: &[EntryInfo]) -> String {
    let width =
        |text: fn(&EntryInfo) -> String| entries.iter().map(|e| text(e).chars().count()).max().unwrap_or(0);
    let (users, groups, sizes) = (width(owner), width(group), width(|entry| entry.size.to_string()));
    let line = |entry: &EntryInfo| {
        let (owner, group, size, time) = (owner(entry), group(entry), entry.size, local_time(&entry.mtime));
        let target =
            entry.target.as_ref().map(|target| format!(" -> {}", escape(target))).unwrap_or_default();
        let path = escape(&entry.path);
        format!("{} {owner:<users$} {group:<groups$} {size:>sizes$} {time} {path}{target}\n", mode(entry))
    };
    entries.iter().map(line).collect()
}

fn owner(entry: &EntryInfo) -> String {
    if entry.user.is_empty() { entry.uid.to_string() } else { escape(&entry.user).into_owned() }
}

fn group(entry: &EntryInfo) -> String {
    if entry.group.is_empty() { entry.gid.to_string() } else { escape(&entry.group).into_owned() }
}

/// `drwxr-sr-x`, as `ls` shows it.
fn mode(entry: &EntryInfo) -> String {
    let kind = match entry.kind.as_str() {
        "file" => '-',
        "dir" => 'd',
        "symlink" => 'l',
        "fifo" => 'p',
        "socket" => 's',
        "chardev" => 'c',
        "dev" => 'b',
        _ => '?',
    };
    let mut text = String::from(kind);
    for (shift, special, letter) in [(6, 0o4000, 's'), (3, 0o2000, 's'), (0, 0o1000, 't')] {
        let bits = entry.mode >> shift;
        text.push(if bits & 4 != 0 { 'r' } else { '-' });
        text.push(if bits & 2 != 0 { 'w' } else { '-' });
        text.push(match (entry.mode & special != 0, bits & 1 != 0) {
            (true, true) => letter,
            (true, false) => letter.to_ascii_uppercase(),
            (false, true) => 'x',
            (false, false) => '-',
        });
    }
    text
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
            device: "d".into(),
        };
        let expected = "\
            ID        TIME        HOST            PATHS               TAGS  FILES     SIZE  COPIES\n\
            12121212  not a time  evil\\u{1b}host  /a /b (incomplete)  x,y       7  1.5 KiB     1/2\n";
        assert_eq!(render(&[one], Paint(false)), expected);
        assert!(render(&[], Paint(false)).contains("shadowvault backup"));
    }

    #[test]
    fn entries_look_as_ls_shows_them() {
        let entry = |kind: &str, mode: u32, user: &str, size| EntryInfo {
            path: "/a\nb".into(),
            kind: kind.into(),
            mode,
            uid: 1000,
            gid: 0,
            user: user.into(),
            group: "root".into(),
            size,
            mtime: "?".into(),
            target: (kind == "symlink").then(|| "/t".into()),
        };
        let list =
            [entry("dir", 0o2755, "", 0), entry("symlink", 0o777, "me", 12), entry("file", 0o4640, "me", 5)];
        let expected = "\
            drwxr-sr-x 1000 root  0 ? /a\\nb\n\
            lrwxrwxrwx me   root 12 ? /a\\nb -> /t\n\
            -rwSr----- me   root  5 ? /a\\nb\n";
        assert_eq!(long(&list), expected);
        assert_eq!(short(&list[..1]), "/a\\nb\n");
        assert_eq!(mode(&entry("dir", 0o1777, "", 0)), "drwxrwxrwt");
    }
}
