//! Tickets: what `invite` prints and `join` takes.
//!
//! `svt1`, then base58 of a protobuf `Ticket` and the first four bytes of its BLAKE3, so that one that was cut off or
//! mistyped is recognised before anybody is asked. Holds a secret: no `Debug`, `Clone` or `Serialize`.

use prost::Message;
use zeroize::Zeroizing;

use crate::api::{ApiError, Role, TicketText};
use crate::base::{Code, Coded, Moment, PeerId, VaultId, limit, random_bytes};
use crate::wire::{self, Bound, TicketRole};

const PREFIX: &str = "svt1";
const CHECK_BYTES: usize = 4;
/// Guessing one of 2^128 at the door's rate takes longer than there is time.
const SECRET_BYTES: usize = 16;

/// What a ticket proves: its issuer knows the hash, its bearer the bytes.
pub(super) struct TicketSecret(Zeroizing<[u8; SECRET_BYTES]>);

impl TicketSecret {
    pub(super) fn random() -> Self {
        Self(Zeroizing::new(random_bytes()))
    }

    pub(super) fn read(bytes: &[u8]) -> Option<Self> {
        Some(Self(Zeroizing::new(bytes.try_into().ok()?)))
    }

    pub(super) fn expose(&self) -> &[u8; SECRET_BYTES] {
        &self.0
    }

    /// What the issuer keeps. Two hashes are compared in constant time.
    pub(super) fn digest(&self) -> blake3::Hash {
        let key = blake3::derive_key("ShadowVault 2026 v1 ticket digest", self.0.as_slice());
        blake3::Hash::from_bytes(key)
    }
}

/// A ticket, read or to be written.
pub struct Ticket {
    /// Who invites.
    pub peer: PeerId,
    /// Where it can be dialled: multiaddrs without the peer id.
    pub addresses: Vec<String>,
    /// What the joiner is to be.
    pub role: Role,
    /// Bytes that the joiner lends.
    pub quota: u64,
    /// When it ends, by the inviter's clock.
    pub expires: Moment,
    /// The inviting machine's name for people; may be empty.
    pub from: String,
    /// The vault that a device joins; of other roles none.
    pub vault: Option<VaultId>,
    pub(super) secret: TicketSecret,
}

/// Why a text is no ticket. Never holds any of the text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum TicketError {
    /// Something else altogether.
    #[error("this is not a ticket: one starts with svt1")]
    Foreign,
    /// Made by a newer version.
    #[error("this ticket was made by a newer version of shadowvault")]
    TooNew,
    /// The checksum is wrong.
    #[error("this ticket is incomplete or mistyped")]
    Damaged,
}

impl Coded for TicketError {
    fn code(&self) -> Code {
        Code::TicketInvalid
    }

    fn hint(&self) -> Option<String> {
        Some(match self {
            Self::Foreign => "`shadowvault invite` on the other machine prints one".to_owned(),
            Self::TooNew => "update shadowvault on this machine".to_owned(),
            Self::Damaged => "copy the whole line that `shadowvault invite` printed".to_owned(),
        })
    }
}

impl Ticket {
    /// As people pass it on.
    pub(super) fn to_text(&self) -> TicketText {
        let role = match self.role {
            Role::Storage => TicketRole::RoleStorage,
            Role::Mutual => TicketRole::RoleMutual,
            Role::Device => TicketRole::RoleDevice,
        };
        let raw = wire::Ticket {
            peer: self.peer.as_bytes().to_vec(),
            addresses: self.addresses.clone(),
            secret: self.secret.expose().to_vec(),
            role: role.into(),
            quota: self.quota,
            expires_ms: self.expires.as_millis(),
            from: self.from.clone(),
            vault: self.vault.map_or_else(Vec::new, |vault| vault.as_bytes().to_vec()),
        };
        let mut bytes = Zeroizing::new(raw.encode_to_vec());
        let check = blake3::hash(&bytes);
        bytes.extend_from_slice(&check.as_bytes()[..CHECK_BYTES]);
        TicketText(format!("{PREFIX}{}", bs58::encode(bytes.as_slice()).into_string()))
    }

    /// Reads what `invite` printed; white space around and line breaks in it do not matter.
    pub fn parse(text: &TicketText) -> Result<Self, TicketError> {
        let text: Zeroizing<String> = Zeroizing::new(text.0.split_whitespace().collect());
        let Some(body) = text.strip_prefix(PREFIX) else {
            let is_ticket =
                text.strip_prefix("svt").is_some_and(|rest| rest.starts_with(|c: char| c.is_ascii_digit()));
            return Err(if is_ticket { TicketError::TooNew } else { TicketError::Foreign });
        };
        if text.len() > limit::TICKET_BYTES_MAX {
            return Err(TicketError::Damaged);
        }
        let bytes = Zeroizing::new(bs58::decode(body).into_vec().map_err(|_| TicketError::Damaged)?);
        let (body, check) = bytes.split_last_chunk::<CHECK_BYTES>().ok_or(TicketError::Damaged)?;
        if blake3::hash(body).as_bytes()[..CHECK_BYTES] != *check {
            return Err(TicketError::Damaged);
        }
        let raw: wire::Ticket = wire::decode(body, Bound::new(limit::TICKET_BYTES_MAX, limit::FIELDS_FEW))
            .map_err(|_| TicketError::Damaged)?;
        let role = match raw.role() {
            TicketRole::RoleStorage => Role::Storage,
            TicketRole::RoleMutual => Role::Mutual,
            TicketRole::RoleDevice => Role::Device,
            TicketRole::RoleUnspecified => return Err(TicketError::TooNew),
        };
        let vault = match role {
            Role::Device => Some(VaultId::try_from(raw.vault.as_slice()).map_err(|_| TicketError::Damaged)?),
            Role::Storage | Role::Mutual => None,
        };
        Ok(Self {
            peer: PeerId::try_from(raw.peer.as_slice()).map_err(|_| TicketError::Damaged)?,
            addresses: raw.addresses.into_iter().take(limit::TICKET_ADDRESSES_MAX).collect(),
            role,
            quota: raw.quota,
            expires: Moment::from_millis(raw.expires_ms),
            from: clean_name(&raw.from),
            vault,
            secret: TicketSecret::read(&raw.secret).ok_or(TicketError::Damaged)?,
        })
    }
}

/// A name that another machine gave itself, fit to be kept: short, on one line.
pub(super) fn clean_name(name: &str) -> String {
    let mut name: String = name.trim().chars().filter(|c| !c.is_control()).collect();
    let end = (0..=limit::PEER_NAME_BYTES_MAX.min(name.len())).rev().find(|at| name.is_char_boundary(*at));
    name.truncate(end.unwrap_or(0));
    name
}

/// A name that the owner gives a peer.
pub(super) fn check_name(name: &str) -> Result<(), ApiError> {
    if !name.is_empty() && clean_name(name) == name {
        return Ok(());
    }
    let text = format!("a peer's name has 1 to {} bytes on one line", limit::PEER_NAME_BYTES_MAX);
    Err(ApiError::new(Code::UsageInvalid, text))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ticket() -> Ticket {
        Ticket {
            peer: PeerId::new([7; 32]),
            addresses: vec!["/ip4/10.0.0.1/tcp/9000".to_owned(); 3],
            role: Role::Device,
            quota: 1 << 40,
            expires: Moment::from_millis(5),
            from: "host".to_owned(),
            vault: Some(VaultId::new([9; 32])),
            secret: TicketSecret::random(),
        }
    }

    #[test]
    fn tickets_come_back_from_their_text() {
        let made = ticket();
        let text = made.to_text();
        // As a mail program breaks it.
        let (a, b) = text.0.split_at(70);
        let read = Ticket::parse(&TicketText(format!(" {a}\n  {b}\n"))).ok().unwrap();
        assert_eq!((read.peer, &read.addresses, read.role), (made.peer, &made.addresses, made.role));
        assert_eq!(read.vault, made.vault);
        assert_eq!((read.quota, read.expires, &read.from), (made.quota, made.expires, &made.from));
        assert!(read.secret.digest() == made.secret.digest());
    }

    #[test]
    fn what_is_no_whole_ticket_is_refused_and_says_why() {
        let text = ticket().to_text().0;
        for cut in [4, 5, 20, text.len() - 1] {
            let error = Ticket::parse(&TicketText(text[..cut].to_owned())).err();
            assert_eq!(error, Some(TicketError::Damaged), "{cut}");
        }
        let mut swapped = text.clone().into_bytes();
        swapped.swap(40, 41);
        if swapped != text.as_bytes() {
            let swapped = TicketText(String::from_utf8(swapped).unwrap());
            assert_eq!(Ticket::parse(&swapped).err(), Some(TicketError::Damaged));
        }
        let table = [
            ("", TicketError::Foreign),
            ("12D3KooWD3eckifWpRn9wQpMG9R9hX3sD158z7EqHWmweQAJU5SA", TicketError::Foreign),
            ("svt2abc", TicketError::TooNew),
            ("svt1", TicketError::Damaged),
            ("svt10OIl", TicketError::Damaged),
        ];
        for (text, error) in table {
            assert_eq!(Ticket::parse(&TicketText(text.to_owned())).err(), Some(error), "{text}");
        }
        let long = TicketText(format!("svt1{}", "1".repeat(1 << 20)));
        assert_eq!(Ticket::parse(&long).err(), Some(TicketError::Damaged));
    }

    #[test]
    fn names_from_outside_are_cut_to_size() {
        assert_eq!(clean_name(" a\x1b[31mb\n"), "a[31mb");
        assert_eq!(clean_name(&"ä".repeat(50)), "ä".repeat(32));
        assert!(check_name("bob").is_ok());
        assert!(check_name("").is_err() && check_name("a\nb").is_err());
    }
}
