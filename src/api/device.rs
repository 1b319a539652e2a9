//! The devices of a vault.

use serde::{Deserialize, Serialize};

use super::error::ApiError;
use crate::base::{Code, DeviceId, HeadId, PeerId, limit};

/// One device of this node's vault.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct DeviceInfo {
    /// Its id.
    pub id: DeviceId,
    /// Its name, as its certificate has it; the beginning of its id where that cannot be read.
    pub name: String,
    /// Whether it is the one that answers.
    pub this: bool,
    /// What its certificate lets it do: `writer`.
    pub role: String,
    /// Its node; absent when no head of it is known.
    pub peer: Option<PeerId>,
    /// The newest of its heads that counts.
    pub head: Option<DeviceHead>,
    /// Further ones, where its history has branches that are not joined yet.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub branches: Vec<DeviceHead>,
    /// Newest heads of it that are damaged wherever they are known: what only they list is not.
    #[serde(default)]
    pub hidden: u64,
    /// Whether its node is connected.
    pub connected: bool,
    /// When it was last connected, or a head of it came; RFC 3339.
    pub last_seen: Option<String>,
    /// Set when it counts no more.
    pub revoked: Option<RevokedDevice>,
    /// The device whose newest head carries on its snapshots.
    pub carried_on_by: Option<DeviceId>,
}

/// A head of a device.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct DeviceHead {
    /// Its number.
    pub seq: u64,
    /// Its id.
    pub id: HeadId,
    /// When it was written, by the device's clock; RFC 3339.
    pub time: String,
    /// Snapshots that it lists.
    pub snapshots: u64,
}

/// What the vault's owner said of a device.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RevokedDevice {
    /// When, RFC 3339.
    pub time: String,
    /// Number of its last head that counts; absent when none does.
    pub last_good: Option<u64>,
    /// Number and id of that one and of those of other branches of its history.
    #[serde(default)]
    pub heads: Vec<(u64, HeadId)>,
    /// The device that carries on its snapshots.
    pub heir: Option<DeviceId>,
}

impl DeviceInfo {
    /// The one device with this name, id, or beginning of an id.
    pub fn find<'a>(devices: &'a [Self], name: &str) -> Result<&'a Self, ApiError> {
        let matches = |device: &&Self| {
            device.name == name
                || (name.len() >= limit::ID_PREFIX_DIGITS_MIN && device.id.to_string().starts_with(name))
        };
        let found: Vec<&Self> = devices.iter().filter(matches).collect();
        match found.as_slice() {
            [device] => Ok(device),
            _ => Err(Self::not_found(name, devices)),
        }
    }

    /// That no single device is called so.
    pub fn not_found(name: &str, devices: &[Self]) -> ApiError {
        let name: String = name.chars().take(80).collect();
        let known: Vec<String> =
            devices.iter().map(|one| format!("{} ({})", one.name, one.id.short())).collect();
        ApiError::new(Code::DeviceNotFound, format!("no single device is called {name:?}"))
            .with_hint(format!("devices of this vault: {}", known.join(", ")))
    }
}
