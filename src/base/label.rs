//! Labels of snapshots: tags and host names, which stand in lists and on terminals.

use super::limit;

/// Why `tag` is no tag; `None` for a sound one: no comma or control character, no blank around it, and not too long.
pub fn tag_fault(tag: &str) -> Option<&'static str> {
    if tag.contains(',') {
        return Some("it has a comma in it; give each tag by itself");
    }
    if tag.trim() != tag {
        return Some("it begins or ends with a blank");
    }
    label_fault(tag)
}

/// Why `host` is no name of a host; `None` for a sound one: no blank or control character, and not too long.
pub fn host_fault(host: &str) -> Option<&'static str> {
    if host.contains(char::is_whitespace) {
        return Some("it has a blank in it");
    }
    label_fault(host)
}

fn label_fault(text: &str) -> Option<&'static str> {
    if text.is_empty() {
        return Some("it is empty");
    }
    if text.contains(char::is_control) {
        return Some("it has a control character in it");
    }
    (text.len() > limit::LABEL_BYTES_MAX).then_some("it has more than 255 bytes")
}

const _: () = assert!(limit::LABEL_BYTES_MAX == 255);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_are_short_words() {
        let long = "x".repeat(limit::LABEL_BYTES_MAX + 1);
        let table =
            [("nightly", true), ("ünï-2", true), ("", false), (" a", false), ("a\nb", false), (&long, false)];
        for (text, sound) in table {
            assert_eq!((tag_fault(text).is_none(), host_fault(text).is_none()), (sound, sound), "{text:?}");
        }
        for (text, tag, host) in [("a,b", false, true), ("a b", true, false)] {
            assert_eq!((tag_fault(text).is_none(), host_fault(text).is_none()), (tag, host), "{text:?}");
        }
    }
}
