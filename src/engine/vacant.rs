//! Vaults of which there is no pack here: they take places that others need, so they stay as long as who brought them.

use std::collections::HashSet;

use super::error::EngineError;
use super::{expected, hold, revocations};
use crate::base::{PeerId, VaultId};
use crate::store::Store;

/// Drops foreign vaults of which there are heads here and no pack, when none of those who brought them `stays`. What they
/// name goes like all that no head names. What nobody is known to have brought stays; so does `own`, this node's vault.
pub fn drop_vacant(
    store: &Store,
    own: Option<VaultId>,
    stays: impl Fn(PeerId) -> bool,
) -> Result<Vec<VaultId>, EngineError> {
    let _alone = store.keep_hold();
    // No pack comes meanwhile.
    let _gate = store.close_gate();
    let accounts = store.accounts()?;
    let usage = store.foreign_usage()?.into_iter();
    let filled: HashSet<VaultId> =
        usage.filter(|(_, (packs, _))| *packs > 0).map(|(vault, _)| vault).collect();
    let mut dropped = Vec::new();
    for vault in expected::vaults(store)? {
        let bearers = accounts.bearers(vault);
        let is_kept = own == Some(vault) || filled.contains(&vault) || bearers.is_empty();
        if !is_kept && !bearers.into_iter().any(&stays) {
            let state = [expected::file(vault), hold::file(vault), revocations::file(vault)];
            store.forget_vault(vault, &state)?;
            dropped.push(vault);
        }
    }
    Ok(dropped)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::{DeviceId, HeadId, ListId};
    use crate::engine::forward_packs;
    use crate::pack::Outboard;
    use crate::store::NOBODY;

    #[test]
    fn what_has_a_pack_or_a_bearer_that_stays_is_kept() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::create(&dir.path().join("s")).unwrap();
        let [here, gone] = [PeerId::new([1; 32]), PeerId::new([2; 32])];
        let brings = |n: u8, bearers: &[PeerId]| {
            let (vault, head) = (VaultId::new([n; 32]), HeadId::new([n; 32]));
            store.publish_head(vault, DeviceId::new([n; 32]), 1, head, b"a head").unwrap();
            for (record, bearer) in bearers.iter().enumerate() {
                let id = *ListId::new([n + 100 * record as u8; 32]).as_bytes();
                store.charge_records(vault, *bearer, &[(id, 10)]).unwrap();
            }
            vault
        };
        let (own, filled) = (brings(1, &[gone]), brings(2, &[gone]));
        let kept = [own, filled, brings(3, &[here]), brings(4, &[gone, here]), brings(5, &[NOBODY])];
        let vacant = [brings(6, &[gone]), brings(7, &[gone, NOBODY])];
        let bytes = vec![9; 128 << 10];
        let (pack, outboard) = Outboard::of(&bytes);
        forward_packs(&store, (filled, gone), pack, &bytes, &outboard).unwrap();
        for vault in vacant {
            store.publish_state(&hold::file(vault), &1).unwrap();
            let head = (1, HeadId::new([1; 32]));
            expected::expect(&store, vault, DeviceId::new([9; 32]), &[head]).unwrap();
        }
        let mut dropped = drop_vacant(&store, Some(own), |peer| peer == here).unwrap();
        dropped.sort_unstable();
        assert_eq!(dropped, vacant);
        assert_eq!(store.head_vaults().unwrap().len(), kept.len());
        let accounts = store.accounts().unwrap();
        for vault in vacant {
            assert_eq!(accounts.of_vault(vault).bytes(), 0);
            assert_eq!(store.read_state::<u32>(&hold::file(vault)).unwrap(), None);
            assert!(expected::expected(&store, vault).unwrap().is_empty());
            assert!(!dir.path().join(format!("s/heads/{vault}")).exists());
        }
        assert!(drop_vacant(&store, Some(own), |peer| peer == here).unwrap().is_empty());
    }
}
