//! Entries of snapshots as `ls` and `find` show them: one a line, in pages, so that a million need no more memory than
//! a thousand.

use std::borrow::Cow;

use super::output::{escape, local_time};
use crate::api::EntryInfo;

/// Entries that have common column widths.
const PAGE: usize = 1000;

/// Turns entries into lines, some at a time.
pub(super) struct Lines {
    long: bool,
    page: Vec<EntryInfo>,
    widths: [usize; 3],
}

impl Lines {
    /// Paths only, or with modes, owners, sizes and times.
    pub fn new(long: bool) -> Self {
        Self { long, page: Vec::new(), widths: [0; 3] }
    }

    /// The lines of entries as far as they are settled.
    pub fn add(&mut self, entries: impl IntoIterator<Item = EntryInfo>) -> String {
        let mut text = String::new();
        for entry in entries {
            if !self.long {
                text += &format!("{}\n", path(&entry));
                continue;
            }
            self.page.push(entry);
            if self.page.len() == PAGE {
                text += &self.rest();
            }
        }
        text
    }

    /// The lines that were still to come.
    pub fn rest(&mut self) -> String {
        let page = std::mem::take(&mut self.page);
        for entry in &page {
            let cells = [owner(entry), group(entry), entry.size.to_string()];
            for (width, cell) in self.widths.iter_mut().zip(cells) {
                *width = (*width).max(cell.chars().count());
            }
        }
        page.iter().map(|entry| self.line(entry)).collect()
    }

    fn line(&self, entry: &EntryInfo) -> String {
        let [users, groups, sizes] = self.widths;
        let (owner, group, size, time) = (owner(entry), group(entry), entry.size, local_time(&entry.mtime));
        let target =
            entry.target.as_ref().map(|target| format!(" -> {}", escape(target))).unwrap_or_default();
        let path = path(entry);
        format!("{} {owner:<users$} {group:<groups$} {size:>sizes$} {time} {path}{target}\n", mode(entry))
    }
}

/// The path as it follows `REF:`, without characters that a terminal obeys.
fn path(entry: &EntryInfo) -> Cow<'_, str> {
    named(&entry.path, entry.path_encoded.as_deref())
}

/// A path, or its exact form when it has one: what stands there after `REF:` names it.
pub(super) fn named<'a>(path: &'a str, encoded: Option<&str>) -> Cow<'a, str> {
    match encoded {
        Some(encoded) => Cow::Owned(format!(":{}", escape(encoded))),
        None => escape(path),
    }
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

    fn entry(kind: &str, mode: u32, user: &str, size: u64) -> EntryInfo {
        EntryInfo {
            path: "/a\nb".into(),
            path_encoded: None,
            kind: kind.into(),
            mode,
            uid: 1000,
            gid: 0,
            user: user.into(),
            group: "root".into(),
            size,
            mtime: "?".into(),
            btime: None,
            target: (kind == "symlink").then(|| "/t".into()),
        }
    }

    #[test]
    fn entries_look_as_ls_shows_them() {
        let list =
            [entry("dir", 0o2755, "", 0), entry("symlink", 0o777, "me", 12), entry("file", 0o4640, "me", 5)];
        let expected = "\
            drwxr-sr-x 1000 root  0 ? /a\\nb\n\
            lrwxrwxrwx me   root 12 ? /a\\nb -> /t\n\
            -rwSr----- me   root  5 ? /a\\nb\n";
        let mut lines = Lines::new(true);
        assert_eq!(lines.add(list.clone()) + &lines.rest(), expected);
        assert_eq!(Lines::new(false).add(list[..1].to_vec()), "/a\\nb\n");
        assert_eq!(mode(&entry("dir", 0o1777, "", 0)), "drwxrwxrwt");
    }

    #[test]
    fn columns_are_as_wide_as_their_page_needs_however_entries_come() {
        let many: Vec<_> = (0..PAGE as u64 + 5).map(|size| entry("file", 0o644, "me", size * 100)).collect();
        let mut whole = Lines::new(true);
        let text = whole.add(many.clone()) + &whole.rest();
        let mut parts = Lines::new(true);
        let mut again: String = many.chunks(7).map(|part| parts.add(part.to_vec())).collect();
        again += &parts.rest();
        assert_eq!(text, again);
        assert!(text.starts_with("-rw-r--r-- me root     0 ?"), "{}", &text[..60]);
    }

    #[test]
    fn a_name_that_is_not_utf_8_is_shown_in_the_form_that_names_it() {
        let odd = EntryInfo { path_encoded: Some("/a%FF\u{1b}".into()), ..entry("file", 0, "", 0) };
        assert_eq!(Lines::new(false).add([odd]), ":/a%FF\\u{1b}\n");
    }
}
