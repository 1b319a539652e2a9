//! Labels of snapshots: tags and host names, which stand in lists and on terminals.

use super::limit;

/// Why `tag` is no tag; `None` for a sound one: no comma, blank or control character, and not too long.
pub fn tag_fault(tag: &str) -> Option<&'static str> {
    if tag.contains(',') {
        return Some("it has a comma in it; give --tag once for each tag");
    }
    host_fault(tag)
}

/// Why `host` is no name of a host; `None` for a sound one.
pub fn host_fault(host: &str) -> Option<&'static str> {
    if host.is_empty() {
        return Some("it is empty");
    }
    if host.chars().any(|c| c.is_whitespace() || c.is_control()) {
        return Some("it has a blank or control character in it");
    }
    (host.len() > limit::LABEL_BYTES_MAX).then_some("it has more than 255 bytes")
}

const _: () = assert!(limit::LABEL_BYTES_MAX == 255);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_are_short_words() {
        let long = "x".repeat(limit::LABEL_BYTES_MAX + 1);
        let table =
            [("nightly", true), ("ünï-2", true), ("", false), ("a b", false), ("a\n", false), (&long, false)];
        for (text, sound) in table {
            assert_eq!((tag_fault(text).is_none(), host_fault(text).is_none()), (sound, sound), "{text:?}");
        }
        assert_eq!((tag_fault("a,b").is_none(), host_fault("a,b").is_none()), (false, true));
    }
}
