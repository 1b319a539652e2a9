//! What a directory's record leaves out although it was there, or may have been: no name of that kind is "not in the snapshot".

use crate::base::limit;
use crate::wire;

/// Why something of a directory is not in its record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Omission {
    /// A pattern, a marker or a limit of size left it out.
    ByRule,
    /// It could not be read.
    Unreadable,
    /// It lies on another file system, and the backup stayed on one.
    OtherFileSystem,
    /// It is the data directory of the node that made the backup.
    Store,
}

impl Omission {
    fn to_wire(self) -> wire::Omission {
        match self {
            Self::ByRule => wire::Omission::ByRule,
            Self::Unreadable => wire::Omission::Unreadable,
            Self::OtherFileSystem => wire::Omission::OtherFileSystem,
            Self::Store => wire::Omission::Store,
        }
    }

    /// A reason that this version does not know is one all the same.
    fn of_wire(number: i32) -> Self {
        match wire::Omission::try_from(number) {
            Ok(wire::Omission::ByRule) => Self::ByRule,
            Ok(wire::Omission::OtherFileSystem) => Self::OtherFileSystem,
            Ok(wire::Omission::Store) => Self::Store,
            Ok(wire::Omission::Unreadable | wire::Omission::Unspecified) | Err(_) => Self::Unreadable,
        }
    }
}

/// All that one directory leaves out. Names up to a bound; beyond it, and where names are not known, any name may be one.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Omissions {
    named: Vec<(Vec<u8>, Omission)>,
    named_bytes: usize,
    unnamed: Vec<Omission>,
}

impl Omissions {
    /// Notes a name that was there.
    pub fn note(&mut self, name: &[u8], why: Omission) {
        if self.unnamed.contains(&why) {
            return;
        }
        self.named_bytes += name.len();
        if self.named.len() < limit::OMISSIONS_MAX && self.named_bytes <= limit::OMISSIONS_BYTES_MAX {
            self.named.push((name.to_vec(), why));
        } else {
            self.note_unnamed(why);
        }
    }

    /// Notes that there may have been more.
    pub fn note_unnamed(&mut self, why: Omission) {
        if !self.unnamed.contains(&why) {
            self.unnamed.push(why);
        }
    }

    /// Why a name that has no record may have been there; `None` when it was not.
    pub fn why(&self, name: &[u8]) -> Option<Omission> {
        let named = self.named.iter().find(|(known, _)| known == name).map(|(_, why)| *why);
        named.or(self.unnamed.first().copied())
    }

    /// Whether the record has all that was there.
    pub fn is_empty(&self) -> bool {
        self.named.is_empty() && self.unnamed.is_empty()
    }

    /// What the names take in memory, in bytes.
    pub fn bytes(&self) -> usize {
        self.named.iter().map(|(name, _)| name.len() + size_of::<(Vec<u8>, Omission)>()).sum()
    }

    /// Adds what another part of the backup left out of the same directory.
    pub fn join(&mut self, other: Self) {
        other.unnamed.into_iter().for_each(|why| self.note_unnamed(why));
        other.named.into_iter().for_each(|(name, why)| self.note(&name, why));
    }

    pub(super) fn to_wire(&self) -> Option<wire::Omissions> {
        let named = self
            .named
            .iter()
            .map(|(name, why)| wire::Omitted { name: name.clone(), why: why.to_wire().into() });
        let unnamed = self.unnamed.iter().fold(0, |bits, why| bits | 1 << i32::from(why.to_wire()));
        let all = wire::Omissions { named: named.collect(), unnamed };
        (!self.is_empty()).then_some(all)
    }

    /// `None` when there are more than anybody writes.
    pub(super) fn of_wire(raw: Option<wire::Omissions>) -> Option<Self> {
        let raw = raw.unwrap_or_default();
        if raw.named.len() > limit::OMISSIONS_MAX {
            return None;
        }
        let mut omissions = Self::default();
        raw.named.iter().for_each(|omitted| omissions.note(&omitted.name, Omission::of_wire(omitted.why)));
        for bit in (0..32).filter(|bit| raw.unnamed & 1 << bit != 0) {
            omissions.note_unnamed(Omission::of_wire(bit));
        }
        Some(omissions)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_named_or_beyond_counting_may_have_been_there_and_nothing_else() {
        let mut some = Omissions::default();
        assert!(some.is_empty() && some.to_wire().is_none());
        some.note(b"a", Omission::ByRule);
        some.note(b"b", Omission::Store);
        assert_eq!((some.why(b"a"), some.why(b"b")), (Some(Omission::ByRule), Some(Omission::Store)));
        assert_eq!(some.why(b"c"), None);
        assert_eq!(Omissions::of_wire(some.to_wire()), Some(some.clone()));
        let mut many = Omissions::default();
        (0..100_000).for_each(|at| many.note(format!("name {at}").as_bytes(), Omission::Unreadable));
        assert_eq!(many.why(b"name 99999"), Some(Omission::Unreadable));
        assert!(many.bytes() < 64 << 10, "{} bytes", many.bytes());
        assert_eq!(Omissions::of_wire(many.to_wire()).unwrap().why(b"any"), Some(Omission::Unreadable));
        some.join(many);
        assert_eq!((some.why(b"a"), some.why(b"c")), (Some(Omission::ByRule), Some(Omission::Unreadable)));
    }

    #[test]
    fn reasons_of_later_versions_hold_too() {
        let raw = wire::Omissions { named: Vec::new(), unnamed: 1 << 31 };
        assert_eq!(Omissions::of_wire(Some(raw)).unwrap().why(b"x"), Some(Omission::Unreadable));
        let named = vec![wire::Omitted::default(); limit::OMISSIONS_MAX + 1];
        assert_eq!(Omissions::of_wire(Some(wire::Omissions { named, unnamed: 0 })), None);
    }
}
