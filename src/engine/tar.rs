//! Members of a tar archive: ustar headers, with pax records for what does not fit them. Pure.
//!
//! Long and odd names, times with nanoseconds or before 1970, large numbers and extended attributes (as star and GNU
//! tar name them, `SCHILY.xattr.`) go into pax records, and access control lists as text (`SCHILY.acl.`); whoever does
//! not know those still finds the file.

use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use tar::{EntryType, Header};

use crate::wire::{self, NodeType, Time};

/// Every member is padded to whole blocks, in bytes.
const BLOCK: usize = 512;
/// What ends an archive.
pub(super) const END: [u8; 2 * BLOCK] = [0; 2 * BLOCK];
/// The largest number of eleven octal digits, a size's or time's field, and of seven, an owner's.
const ELEVEN_DIGITS_MAX: u64 = (1 << 33) - 1;
const SEVEN_DIGITS_MAX: u64 = (1 << 21) - 1;

/// What one member is.
pub(super) struct Member<'a> {
    /// Its name in the archive, relative.
    pub(super) path: &'a Path,
    /// Its record.
    pub(super) node: &'a wire::Node,
    /// The member that it is another name of.
    pub(super) link: Option<&'a Path>,
}

impl Member<'_> {
    /// Bytes of content that follow the header, without padding.
    pub(super) fn content_bytes(&self) -> u64 {
        let is_file = self.node.r#type() == NodeType::NodeFile && self.link.is_none();
        if is_file { self.node.size } else { 0 }
    }

    /// Everything before the content; `None` for what no archive can hold: sockets.
    pub(super) fn header(&self) -> Option<Vec<u8>> {
        let node = self.node;
        let kind = match node.r#type() {
            NodeType::NodeSocket | NodeType::NodeUnspecified => return None,
            _ if self.link.is_some() => EntryType::Link,
            NodeType::NodeFile => EntryType::Regular,
            NodeType::NodeDirectory => EntryType::Directory,
            NodeType::NodeSymlink => EntryType::Symlink,
            NodeType::NodeFifo => EntryType::Fifo,
            NodeType::NodeCharacterDevice => EntryType::Char,
            NodeType::NodeBlockDevice => EntryType::Block,
        };
        let mut pax = Pax::default();
        let mut header = Header::new_ustar();
        header.set_entry_type(kind);
        header.set_mode(node.mode);
        self.names(&mut header, &mut pax);
        self.numbers(&mut header, &mut pax);
        for xattr in &node.xattrs {
            match acl_record(xattr) {
                Some((name, text)) => pax.add(name, text.as_bytes()),
                None => pax.add(&[b"SCHILY.xattr.", xattr.name.as_slice()].concat(), &xattr.value),
            }
        }
        header.set_cksum();
        let mut out = pax.member();
        out.extend_from_slice(header.as_bytes());
        Some(out)
    }

    fn names(&self, header: &mut Header, pax: &mut Pax) {
        let mut path = self.path.as_os_str().as_bytes().to_vec();
        if self.node.r#type() == NodeType::NodeDirectory && path.last() != Some(&b'/') {
            path.push(b'/');
        }
        let target = match (self.link, self.node.r#type()) {
            (Some(first), _) => first.as_os_str().as_bytes(),
            (None, NodeType::NodeSymlink) => &self.node.target,
            _ => &[],
        };
        let fields = header.as_ustar_mut().expect("it was made as ustar");
        pax.fit("path", &path, &mut fields.name);
        pax.fit("linkpath", target, &mut fields.linkname);
        // Programs expect a closing zero in these two.
        pax.fit("uname", self.node.user.as_bytes(), &mut fields.uname[..31]);
        pax.fit("gname", self.node.group.as_bytes(), &mut fields.gname[..31]);
    }

    fn numbers(&self, header: &mut Header, pax: &mut Pax) {
        let node = self.node;
        let mut number = |name: &str, value: u64, most: u64| {
            if value > most {
                pax.add(name.as_bytes(), value.to_string().as_bytes());
            }
            value.min(most)
        };
        header.set_size(number("size", self.content_bytes(), ELEVEN_DIGITS_MAX));
        header.set_uid(number("uid", node.uid.into(), SEVEN_DIGITS_MAX));
        header.set_gid(number("gid", node.gid.into(), SEVEN_DIGITS_MAX));
        let modified = node.mtime.unwrap_or_default();
        let whole = u64::try_from(modified.seconds).ok().filter(|seconds| *seconds <= ELEVEN_DIGITS_MAX);
        if whole.is_none() || modified.nanos != 0 {
            pax.add(b"mtime", decimal(modified).as_bytes());
        }
        header.set_mtime(whole.unwrap_or(0));
        let is_device = matches!(node.r#type(), NodeType::NodeCharacterDevice | NodeType::NodeBlockDevice);
        if is_device && self.link.is_none() {
            let fields = header.as_ustar_mut().expect("it was made as ustar");
            fields.set_device_major(rustix::fs::major(node.rdev));
            fields.set_device_minor(rustix::fs::minor(node.rdev));
        }
    }
}

/// An access control list as programs that write archives put it: text, with owners by number. `None` for any other
/// attribute, and for a list of a form that is not known.
fn acl_record(xattr: &wire::Xattr) -> Option<(&'static [u8], String)> {
    let name: &[u8] = match xattr.name.as_slice() {
        b"system.posix_acl_access" => b"SCHILY.acl.access",
        b"system.posix_acl_default" => b"SCHILY.acl.default",
        _ => return None,
    };
    let (version, entries) = xattr.value.split_first_chunk::<4>()?;
    let (entries, []) = entries.as_chunks::<8>() else { return None };
    if u32::from_le_bytes(*version) != 2 {
        return None;
    }
    let entry = |[tag, tag_high, rights, rights_high, id @ ..]: &[u8; 8]| {
        let id = u32::from_le_bytes(*id);
        let who = match u16::from_le_bytes([*tag, *tag_high]) {
            0x01 => "user:".to_owned(),
            0x02 => format!("user:{id}"),
            0x04 => "group:".to_owned(),
            0x08 => format!("group:{id}"),
            0x10 => "mask:".to_owned(),
            0x20 => "other:".to_owned(),
            _ => return None,
        };
        let rights = u16::from_le_bytes([*rights, *rights_high]);
        let right = |bit, letter| if rights & bit == 0 { '-' } else { letter };
        Some(format!("{who}:{}{}{}", right(4, 'r'), right(2, 'w'), right(1, 'x')))
    };
    let lines: Vec<String> = entries.iter().map(entry).collect::<Option<_>>()?;
    Some((name, lines.join(",")))
}

/// Zeros after so many bytes of content.
pub(super) fn padding(content_bytes: u64) -> &'static [u8] {
    let over = (content_bytes % BLOCK as u64) as usize;
    if over == 0 { &[] } else { &END[..BLOCK - over] }
}

/// Seconds as a decimal fraction; `nanos` count upwards from `seconds`, before 1970 too.
fn decimal(time: Time) -> String {
    let nanos = i128::from(time.seconds) * 1_000_000_000 + i128::from(time.nanos.min(999_999_999));
    let sign = if nanos < 0 { "-" } else { "" };
    let (whole, part) = (nanos.unsigned_abs() / 1_000_000_000, nanos.unsigned_abs() % 1_000_000_000);
    format!("{sign}{whole}.{part:09}")
}

/// Records of one member.
#[derive(Default)]
struct Pax {
    records: Vec<u8>,
}

impl Pax {
    /// Puts a text into a header's field, or into a record when it is too long or could be misread there.
    fn fit(&mut self, name: &str, text: &[u8], field: &mut [u8]) {
        let length = text.len().min(field.len());
        field[..length].copy_from_slice(&text[..length]);
        if length < text.len() {
            self.add(name.as_bytes(), text);
        }
    }

    /// `LENGTH NAME=VALUE\n`, where the length counts itself.
    fn add(&mut self, name: &[u8], value: &[u8]) {
        let rest = name.len() + value.len() + 3;
        let mut length = rest + 1;
        while length.to_string().len() + rest != length {
            length = length.to_string().len() + rest;
        }
        self.records.extend_from_slice(format!("{length} ").as_bytes());
        for part in [name, b"=", value, b"\n"] {
            self.records.extend_from_slice(part);
        }
    }

    /// The member that carries the records; nothing when there are none.
    fn member(self) -> Vec<u8> {
        let mut out = Vec::new();
        if self.records.is_empty() {
            return out;
        }
        let mut header = Header::new_ustar();
        header.set_entry_type(EntryType::XHeader);
        header.set_mode(0o644);
        header.set_size(self.records.len() as u64);
        let fields = header.as_ustar_mut().expect("it was made as ustar");
        pax_name(&mut fields.name);
        header.set_cksum();
        out.extend_from_slice(header.as_bytes());
        out.extend_from_slice(&self.records);
        out.extend_from_slice(padding(self.records.len() as u64));
        out
    }
}

fn pax_name(field: &mut [u8]) {
    const NAME: &[u8] = b"././@PaxHeader";
    field[..NAME.len()].copy_from_slice(NAME);
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::ffi::OsStr;
    use std::io::Read;

    /// Name, record, the member it is a link to, content.
    type Entry<'a> = (&'a [u8], wire::Node, Option<&'a str>, &'a [u8]);

    fn archive(members: &[Entry<'_>]) -> Vec<u8> {
        let mut out = Vec::new();
        for (path, node, link, content) in members {
            let path = Path::new(OsStr::from_bytes(path));
            let member = Member { path, node, link: link.map(Path::new) };
            out.extend(member.header().unwrap());
            assert_eq!(member.content_bytes(), content.len() as u64);
            out.extend_from_slice(content);
            out.extend_from_slice(padding(content.len() as u64));
        }
        out.extend_from_slice(&END);
        out
    }

    fn node(kind: NodeType) -> wire::Node {
        let mtime = Some(Time { seconds: 1_700_000_000, nanos: 0 });
        wire::Node { r#type: kind.into(), mode: 0o4755, mtime, ..Default::default() }
    }

    #[test]
    fn members_read_back_with_names_of_any_length_and_bytes() {
        let long = [b"d\xff/".repeat(60), b"end".to_vec()].concat();
        let file = wire::Node { size: 3, user: "u".repeat(40), uid: 3_000_000, ..node(NodeType::NodeFile) };
        let symlink = wire::Node { target: b"t\xfe".repeat(100), ..node(NodeType::NodeSymlink) };
        let bytes = archive(&[
            (b"dir", node(NodeType::NodeDirectory), None, b""),
            (&long, file.clone(), None, b"abc"),
            (b"again", file, Some("first"), b""),
            (b"link", symlink, None, b""),
        ]);
        assert_eq!(bytes.len() % BLOCK, 0);
        let mut archive = tar::Archive::new(bytes.as_slice());
        let mut found = Vec::new();
        for entry in archive.entries().unwrap() {
            let mut entry = entry.unwrap();
            let mut content = Vec::new();
            entry.read_to_end(&mut content).unwrap();
            let link = entry.link_name_bytes().map(|link| link.into_owned()).unwrap_or_default();
            found.push((entry.path_bytes().into_owned(), link, content, entry.header().mode().unwrap()));
        }
        let row = |path: &[u8], link: &[u8], content: &[u8]| {
            (path.to_vec(), link.to_vec(), content.to_vec(), 0o4755)
        };
        let expected = [
            row(b"dir/", b"", b""),
            row(&long, b"", b"abc"),
            row(b"again", b"first", b""),
            row(b"link", &b"t\xfe".repeat(100), b""),
        ];
        assert_eq!(found, expected);
    }

    #[test]
    fn times_and_attributes_are_pax_records() {
        let xattrs = vec![wire::Xattr { name: b"user.a".to_vec(), value: b"\0=\xff".to_vec() }];
        let mtime = Some(Time { seconds: -5, nanos: 999_999_999 });
        let odd = wire::Node { xattrs, mtime, ..node(NodeType::NodeFile) };
        let bytes = archive(&[(b"odd", odd, None, b"")]);
        let mut archive = tar::Archive::new(bytes.as_slice());
        let mut entry = archive.entries().unwrap().next().unwrap().unwrap();
        let records: Vec<(Vec<u8>, Vec<u8>)> = entry
            .pax_extensions()
            .unwrap()
            .unwrap()
            .map(|record| record.unwrap())
            .map(|record| (record.key_bytes().to_vec(), record.value_bytes().to_vec()))
            .collect();
        let expected = [
            (b"mtime".to_vec(), b"-4.000000001".to_vec()),
            (b"SCHILY.xattr.user.a".to_vec(), b"\0=\xff".to_vec()),
        ];
        assert_eq!(records, expected);
        assert_eq!(decimal(Time { seconds: 3, nanos: 5 }), "3.000000005");
    }

    #[test]
    fn a_records_length_counts_its_own_digits() {
        for length in 1..1200 {
            let mut pax = Pax::default();
            pax.add(b"k", &vec![b'v'; length]);
            let text = String::from_utf8(pax.records).unwrap();
            let (number, _) = text.split_once(' ').unwrap();
            assert_eq!(number.parse::<usize>().unwrap(), text.len());
        }
    }

    #[test]
    fn sockets_are_no_members() {
        // With several names neither: a link to what is not in the archive breaks it.
        let socket = node(NodeType::NodeSocket);
        for link in [None, Some(Path::new("first"))] {
            assert!(Member { path: Path::new("s"), node: &socket, link }.header().is_none());
        }
    }

    #[test]
    fn access_control_lists_are_text() {
        let value = |entries: &[(u16, u16, u32)]| {
            let mut bytes = 2u32.to_le_bytes().to_vec();
            for (tag, rights, id) in entries {
                bytes.extend([tag.to_le_bytes(), rights.to_le_bytes()].concat());
                bytes.extend(id.to_le_bytes());
            }
            bytes
        };
        let none = u32::MAX;
        let list = [(1, 6, none), (2, 5, 1000), (4, 4, none), (8, 1, 7), (16, 7, none), (32, 0, none)];
        let text = "user::rw-,user:1000:r-x,group::r--,group:7:--x,mask::rwx,other::---";
        let xattr = |name: &[u8], value: Vec<u8>| wire::Xattr { name: name.to_vec(), value };
        let (access, default) = (b"system.posix_acl_access", b"system.posix_acl_default");
        let found = acl_record(&xattr(access, value(&list)));
        assert_eq!(found, Some((&b"SCHILY.acl.access"[..], text.to_owned())));
        let found = acl_record(&xattr(default, value(&list)));
        assert_eq!(found, Some((&b"SCHILY.acl.default"[..], text.to_owned())));
        // What is not known stays as it is, with its bytes.
        let mut later = value(&list);
        later[0] = 3;
        for odd in [later, value(&list)[..11].to_vec(), value(&[(64, 0, 0)]), Vec::new()] {
            assert_eq!(acl_record(&xattr(access, odd)), None);
        }
        assert_eq!(acl_record(&xattr(b"user.a", value(&list))), None);
    }
}
