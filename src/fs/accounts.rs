//! User and group names by number, from `/etc/passwd` and `/etc/group`, read once for each walk.
//!
//! No libc lookup: those block on directory servers, once for each file, and are not thread-safe everywhere.

use std::collections::HashMap;
use std::fs;

/// Names of the users and groups that this machine lists itself.
pub(super) struct Accounts {
    users: HashMap<u32, String>,
    groups: HashMap<u32, String>,
}

impl Accounts {
    /// Reads both files; what cannot be read has no names.
    pub(super) fn load() -> Self {
        let read = |path| fs::read(path).map(|bytes| parse(&bytes)).unwrap_or_default();
        Self { users: read("/etc/passwd"), groups: read("/etc/group") }
    }

    /// The user's name; empty when unknown.
    pub(super) fn user(&self, uid: u32) -> String {
        self.users.get(&uid).cloned().unwrap_or_default()
    }

    /// The group's name; empty when unknown.
    pub(super) fn group(&self, gid: u32) -> String {
        self.groups.get(&gid).cloned().unwrap_or_default()
    }
}

/// Lines of `name:password:number:…`; the first line for a number counts, as in libc. Others are passed over.
fn parse(bytes: &[u8]) -> HashMap<u32, String> {
    let mut names = HashMap::new();
    for line in String::from_utf8_lossy(bytes).lines() {
        let mut fields = line.split(':');
        let (Some(name), Some(_), Some(number)) = (fields.next(), fields.next(), fields.next()) else {
            continue;
        };
        if let Ok(number) = number.parse() {
            names.entry(number).or_insert_with(|| name.to_owned());
        }
    }
    names
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn accounts_first_line_of_a_number_counts_and_noise_is_passed_over() {
        let names = parse(
            b"root:x:0:0:root:/root:/bin/sh\ntoor:x:0:0::\n# a comment\n+::::\nann:x:1000:\nbad:x:y:\n",
        );
        assert_eq!(names.len(), 2);
        assert_eq!(names[&0], "root");
        assert_eq!(names[&1000], "ann");
    }
}
