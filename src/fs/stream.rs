//! A file that comes as a stream, as a walk would tell of it.

use std::ffi::CStr;
use std::path::PathBuf;

use super::FsError;
use super::capture::Capture;
use super::walk::{Entries, WalkEvent};
use crate::base::{Moment, limit};
use crate::snapshot::Omissions;
use crate::wire;

/// Whoever may restore a snapshot decides who else reads the file.
const MODE: u32 = 0o100_600;
const ROOT: &CStr = c"/";

/// The events of a walk that finds one file called `name` in `/`, last changed `now`. Its size is not known yet.
///
/// # Errors
/// [`FsError::StreamName`] for a name that no file has.
pub fn stream_events(name: &str, now: Moment) -> Result<impl Entries + use<>, FsError> {
    let odd = name.is_empty() || name.contains(['/', '\0']) || [".", ".."].contains(&name);
    if odd || name.len() > limit::NAME_BYTES_MAX {
        return Err(FsError::StreamName(name.chars().take(limit::NAME_BYTES_MAX).collect()));
    }
    let path = PathBuf::from("/");
    let mut stat = rustix::fs::stat(ROOT).map_err(|error| FsError::io("look at", &path, error))?;
    let capture = Capture::new();
    let root = capture.node(b"", &stat);
    stat.st_uid = rustix::process::geteuid().as_raw();
    stat.st_gid = rustix::process::getegid().as_raw();
    (stat.st_mode, stat.st_nlink) = (MODE, 1);
    let time = Some(of_moment(now));
    let node = capture.node(name.as_bytes(), &stat);
    let file = wire::Node { size: 0, inode: 0, mtime: time, ctime: time, atime: time, ..node };
    let entry = WalkEvent::Entry { path: path.join(name), node: file };
    Ok(Stream(
        [WalkEvent::Enter { path, node: root }, entry, WalkEvent::Leave { omissions: Omissions::default() }]
            .into_iter(),
    ))
}

struct Stream(std::array::IntoIter<WalkEvent, 3>);

impl Entries for Stream {
    fn advance(&mut self) -> Option<WalkEvent> {
        self.0.next()
    }

    fn complete(&mut self, _: &mut wire::Node) {}
}

fn of_moment(now: Moment) -> wire::Time {
    let ms = now.as_millis();
    super::capture::time(i64::try_from(ms / 1000).unwrap_or(0), (ms % 1000) * 1_000_000)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stream_is_one_private_file_below_the_root() {
        let mut entries = stream_events("db.sql", Moment::from_millis(1_700_000_000_123)).unwrap();
        let events: Vec<_> = std::iter::from_fn(|| entries.advance()).collect();
        let [WalkEvent::Enter { .. }, WalkEvent::Entry { path, node }, WalkEvent::Leave { .. }] = &events[..]
        else {
            panic!("{events:?}")
        };
        assert_eq!(
            (path.to_str(), node.mode, node.r#type()),
            (Some("/db.sql"), 0o600, wire::NodeType::NodeFile)
        );
        assert_eq!(node.mtime.unwrap().nanos, 123_000_000);
        for odd in ["", ".", "..", "a/b", "/a", "a\0", &"x".repeat(256)] {
            assert!(stream_events(odd, Moment::from_millis(0)).is_err(), "{odd:?}");
        }
    }
}
