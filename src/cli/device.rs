//! `device`: the machines that write to this vault, and which of them no longer may.

use std::path::PathBuf;

use clap::{Args, Subcommand};
use prost::Message;

use super::find::moment;
use super::output::{Paint, Table, escape, local_time};
use super::recover::phrase;
use super::session::{Keys, Session};
use crate::api::{ApiError, DeviceInfo, PeerInfo, Service};
use crate::base::{Clock, Code, SystemClock, limit};
use crate::node::Mode;
use crate::snapshot::{HeadName, sign_revocation};

#[derive(Args)]
#[command(args_conflicts_with_subcommands = true)]
pub(super) struct DeviceArgs {
    #[command(subcommand)]
    verb: Option<Verb>,
}

#[derive(Subcommand)]
enum Verb {
    /// List the devices of the vault
    List,
    /// A device counts no more: whatever it signs from now on is refused. Asks for the phrase
    Revoke(RevokeArgs),
}

#[derive(Args)]
struct RevokeArgs {
    /// Its name, or the beginning of its id
    #[arg(value_name = "NAME")]
    device: String,
    /// The device that carries on its snapshots; without one they stay as they are
    #[arg(long, value_name = "NAME")]
    heir: Option<String>,
    /// Take what the device had then for its last good state (2026-03-01, 3d), as far back as it is kept here or at connected holders
    #[arg(long, value_name = "TIME", value_parser = moment)]
    before: Option<jiff::Timestamp>,
    /// Read the recovery phrase from this file; - reads stdin
    #[arg(long, value_name = "FILE")]
    phrase_file: Option<PathBuf>,
}

pub(super) async fn run(args: DeviceArgs, session: &Session<'_>) -> Result<u8, ApiError> {
    let handle = session.open(Keys::Needed, Mode::Offline).await?;
    match args.verb.unwrap_or(Verb::List) {
        Verb::List => {
            let result = handle.service().devices(None).await;
            let devices = handle.close(result).await?;
            session.output.show(&devices, |devices, paint| render(devices, paint));
        }
        Verb::Revoke(args) => {
            let result = revoke(handle.service(), args, session).await;
            let device = handle.close(result).await?;
            session.output.show(&device, |device, _| render_revoked(device));
            session.output.note(
                "peers hear of it when they connect; to cut the machine off as well: `shadowvault peers remove PEER --for-all --phrase-file F`",
            );
        }
    }
    Ok(0)
}

/// Signs the revocation with the phrase's admin key and hands it to the node; the phrase stays in this process.
async fn revoke(
    service: &dyn Service,
    args: RevokeArgs,
    session: &Session<'_>,
) -> Result<DeviceInfo, ApiError> {
    // Connected holders are asked too: they may have heard of heads that this node has not. Their clocks may be ahead.
    let before = args.before.unwrap_or_else(|| jiff::Timestamp::now() + limit::PEER_RECORD_AHEAD);
    let devices = service.devices(Some(before.to_string())).await?;
    let device = DeviceInfo::find(&devices, &args.device)?;
    if device.this && !session.globals.yes {
        return Err(ApiError::new(Code::UsageInvalid, "that is this very device: it could back up no more")
            .with_hint("run this on another device, or add --yes if it is meant"));
    }
    let heir = args.heir.as_deref().map(|name| DeviceInfo::find(&devices, name)).transpose()?;
    if heir.is_some_and(|heir| heir.id == device.id || heir.revoked.is_some()) {
        return Err(ApiError::new(Code::UsageInvalid, "the heir must be another device, one that counts"));
    }
    let known: Vec<HeadName> =
        device.head.iter().chain(&device.branches).map(|head| (head.seq, head.id)).collect();
    // Another heir, or one at last, says nothing about how far the device is trusted.
    let said = device.revoked.as_ref().filter(|said| args.before.is_none() && !said.heads.is_empty());
    if !session.globals.yes && said.is_none() {
        is_all_there_was(&service.peers().await?, device)?;
        if known.is_empty() {
            return Err(none_counts(device, args.before));
        }
    }
    let admin = phrase(args.phrase_file.as_deref(), session)?.root().admin();
    if service.identity().await?.vault_id != Some(admin.vault()) {
        let text = "this is another vault's phrase: it cannot speak for this vault's devices";
        return Err(ApiError::new(Code::InvalidKey, text).with_hint("give the 24 words of this vault"));
    }
    let last_good = said.map_or(known, |said| said.heads.clone());
    if last_good.len() > limit::REVOCATION_HEADS_MAX {
        let text = format!("its history has {} branches, more than a revocation can name", last_good.len());
        return Err(ApiError::new(Code::UsageInvalid, text)
            .with_hint("have it join them first: start it once, or `shadowvault recover --heir-of` it"));
    }
    if let Some(said) = said {
        session.output.note(&format!(
            "which of its heads count was said {} and stays so; `--before 1s` takes all that it has signed until now",
            local_time(&said.time)
        ));
    }
    let heir = heir.map(|heir| heir.id);
    let signed = sign_revocation(&admin, device.id, &last_good, heir, SystemClock.now());
    service.revoke_device(device.id.to_string(), hex::encode(signed.encode_to_vec())).await
}

/// Whether no holder is away that may know of more: what the device signed after its last good head counts no more.
fn is_all_there_was(peers: &[PeerInfo], device: &DeviceInfo) -> Result<(), ApiError> {
    let is_away =
        |peer: &&PeerInfo| peer.standing == "allowed" && !peer.connected && Some(peer.id) != device.peer;
    let away: Vec<String> = peers
        .iter()
        .filter(is_away)
        .map(|peer| peer.name.clone().unwrap_or_else(|| peer.id.short()))
        .collect();
    let text = match (away.is_empty(), device.hidden) {
        (true, 0) => return Ok(()),
        (true, _) => {
            "a newest head of that device is damaged wherever it is known: what only it lists is not"
                .to_owned()
        }
        (false, _) => {
            format!("{} cannot be asked now, and may have newer snapshots of that device", away.join(", "))
        }
    };
    Err(ApiError::new(Code::Incomplete, text).with_hint(
        "run this again with the daemon connected to all of them, and once the device or a holder has brought what is damaged; with --yes, what is not known now of that device counts no more",
    ))
}

/// Nothing is known of a device that would count.
fn none_counts(device: &DeviceInfo, before: Option<jiff::Timestamp>) -> ApiError {
    let when =
        before.map_or(String::new(), |before| format!(" from before {}", local_time(&before.to_string())));
    let text =
        format!("no head of {}{when} is known: none of its snapshots would count any more", device.name);
    ApiError::new(Code::Incomplete, text).with_hint(
        "name a later moment with --before (holders keep what was replaced for 30 days); with --yes, it has nothing that counts",
    )
}

fn render(devices: &[DeviceInfo], paint: Paint) -> String {
    let mut table = Table::new(&["NAME", "DEVICE", "ROLE", ">HEAD", ">SNAPSHOTS", "SEEN", "STANDING"]);
    for device in devices {
        let seen = match (&device.last_seen, device.connected) {
            (_, true) if device.this => "this one".to_owned(),
            (_, true) => "connected".to_owned(),
            (Some(seen), false) => local_time(seen),
            (None, false) => "never".to_owned(),
        };
        let head = device.head.as_ref();
        table.row([
            device.name.clone(),
            device.id.short(),
            device.role.clone(),
            head.map_or("-".to_owned(), |head| head.seq.to_string()),
            head.map_or("-".to_owned(), |head| head.snapshots.to_string()),
            seen,
            standing(device, devices),
        ]);
    }
    table.render(paint)
}

fn standing(device: &DeviceInfo, devices: &[DeviceInfo]) -> String {
    let name = |id| devices.iter().find(|one| Some(one.id) == id).map(|one| one.name.clone());
    let Some(revoked) = &device.revoked else { return "ok".to_owned() };
    match (name(device.carried_on_by), name(revoked.heir)) {
        (Some(heir), _) => format!("revoked, carried on by {heir}"),
        (None, Some(heir)) => format!("revoked, waits for its heir {heir}"),
        (None, None) => "revoked".to_owned(),
    }
}

fn render_revoked(device: &DeviceInfo) -> String {
    let last = device.revoked.as_ref().and_then(|revoked| revoked.last_good);
    let last = last.map_or("none of its heads counts".to_owned(), |seq| {
        format!("its head {seq} is the last that counts")
    });
    format!("revoked   {} ({}); {last}\n", escape(&device.name), device.id.short())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::RevokedDevice;
    use crate::base::DeviceId;

    fn device(fill: u8, name: &str) -> DeviceInfo {
        DeviceInfo {
            id: DeviceId::new([fill; 32]),
            name: name.to_owned(),
            this: false,
            role: "writer".to_owned(),
            peer: None,
            head: None,
            connected: false,
            last_seen: None,
            revoked: None,
            branches: Vec::new(),
            hidden: 0,
            carried_on_by: None,
        }
    }

    #[test]
    fn a_list_says_who_counts_and_who_carries_on() {
        let revoked = RevokedDevice {
            time: String::new(),
            last_good: Some(3),
            heads: Vec::new(),
            heir: Some(DeviceId::new([1; 32])),
        };
        let lost = DeviceInfo { revoked: Some(revoked), ..device(2, "lost") };
        let devices = [device(1, "desk"), lost];
        let text = render(&devices, Paint(false));
        assert!(text.contains("revoked, waits for its heir desk") && text.contains("never"), "{text}");
        assert!(render_revoked(&devices[1]).contains("its head 3 is the last that counts"));
        let carried = DeviceInfo { carried_on_by: Some(DeviceId::new([1; 32])), ..devices[1].clone() };
        assert_eq!(standing(&carried, &devices), "revoked, carried on by desk");
    }

    #[test]
    fn devices_are_found_by_name_and_by_the_beginning_of_their_id() {
        let devices = [device(1, "desk"), device(2, "twin"), device(3, "twin")];
        assert_eq!(DeviceInfo::find(&devices, "desk").unwrap().id, devices[0].id);
        assert_eq!(DeviceInfo::find(&devices, "0303").unwrap().id, devices[2].id);
        for unclear in ["twin", "03", "nobody"] {
            let error = DeviceInfo::find(&devices, unclear).unwrap_err();
            assert_eq!(error.kind(), Code::DeviceNotFound, "{unclear}");
        }
    }
}
