//! `invite` and `join`: two machines become peers by a ticket.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use clap::{Args, ValueEnum};

use super::init::{load_for_setup, write_config};
use super::output::{Paint, escape, local_time};
use super::recover::{phrase, render_found};
use super::session::{Handle, Keys, Session};
use crate::api::{
    ApiError, Invitation, InviteInfo, InviteRequest, InviteState, JoinRequest, Joined, Role, Service,
    TicketText,
};
use crate::base::{ByteSize, Code, format_duration, limit, parse_duration};
use crate::node::{self, DeviceJoined, InitRequest, Mode, Newcomer, Ticket};

/// How often `invite --wait` looks whether the ticket was redeemed.
const LOOK: Duration = Duration::from_millis(500);

/// Between two tries of `join` at a door that is busy.
const AGAIN: Duration = Duration::from_secs(5);

#[derive(Args)]
pub(super) struct InviteArgs {
    /// A name for the machine that will join
    #[arg(value_name = "NAME")]
    name: Option<String>,
    /// Disk space that it lends this node, such as 500GiB [default: 100GiB; a device: none]
    #[arg(long, value_name = "SIZE")]
    quota: Option<ByteSize>,
    /// How long the ticket is good, such as 24h
    #[arg(long, value_name = "DUR", default_value = "24h", value_parser = parse_duration)]
    expires: Duration,
    /// What the other machine will be
    #[arg(long, value_name = "ROLE", default_value = "storage")]
    role: RoleArg,
    /// Wait until it has joined
    #[arg(long)]
    wait: bool,
}

/// [`Role`] as an argument.
#[derive(ValueEnum, Copy, Clone, PartialEq, Eq, Debug)]
enum RoleArg {
    /// It stores for this node
    Storage,
    /// Both store for each other
    Mutual,
    /// Another machine of the same owner: it backs up to the same vault, and needs the phrase
    Device,
}

impl From<RoleArg> for Role {
    fn from(role: RoleArg) -> Self {
        match role {
            RoleArg::Storage => Self::Storage,
            RoleArg::Mutual => Self::Mutual,
            RoleArg::Device => Self::Device,
        }
    }
}

#[derive(Args)]
pub(super) struct JoinArgs {
    /// What `shadowvault invite` printed on the other machine
    #[arg(value_name = "TICKET")]
    ticket: String,
    /// For a ticket of a device: read the recovery phrase from this file; - reads stdin
    #[arg(long, value_name = "FILE")]
    phrase_file: Option<PathBuf>,
}

pub(super) async fn invite(args: InviteArgs, session: &Session<'_>) -> Result<u8, ApiError> {
    // Only a node that runs can be joined.
    let daemon = session.daemon().await?;
    let request = InviteRequest {
        name: args.name,
        quota: args.quota.map(|quota| quota.0),
        expires_seconds: Some(args.expires.as_secs()),
        role: args.role.into(),
    };
    let made = daemon.invite(request).await?;
    if !args.wait {
        session.output.show(&made, |made, _| render_invitation(made));
        session.output.note(&format!(
            "good once, until {}; on the other machine: shadowvault join TICKET",
            local_time(&made.expires)
        ));
        return Ok(0);
    }
    // The other machine needs it now; the result comes when it has joined.
    if session.output.json {
        session.output.document(&made);
    } else {
        session.output.text(&render_invitation(&made));
    }
    session.output.note("waiting for the other machine; Ctrl-C leaves the invitation open");
    let joined = wait(&daemon, &made).await?;
    session.output.show(&joined, |joined, _| render_redeemed(joined));
    Ok(0)
}

async fn wait(daemon: &dyn Service, made: &Invitation) -> Result<InviteInfo, ApiError> {
    loop {
        let found = daemon.invites().await?.into_iter().find(|invite| invite.id == made.id);
        match found {
            Some(invite) if invite.state == InviteState::Used => return Ok(invite),
            Some(invite) if invite.state == InviteState::Open => tokio::time::sleep(LOOK).await,
            _ => {
                let text = "nobody joined before the ticket expired";
                return Err(ApiError::new(Code::TicketExpired, text).with_hint("make another one"));
            }
        }
    }
}

pub(super) async fn join(args: JoinArgs, session: &Session<'_>) -> Result<u8, ApiError> {
    let text = TicketText(args.ticket);
    // Before anything is made or asked: a ticket that is cut off, too.
    let ticket = Ticket::parse(&text).map_err(|error| ApiError::from(&error))?;
    if ticket.role == Role::Device {
        return join_as_device(&ticket, args.phrase_file, session).await;
    }
    if args.phrase_file.is_some() {
        let text = "this ticket needs no phrase: it is not for a device of a vault";
        return Err(ApiError::new(Code::UsageInvalid, text));
    }
    confirm(session, &ticket)?;
    let handle = open(session, &ticket).await?;
    let is_daemon = matches!(handle, Handle::Daemon(_));
    let result = join_patiently(handle.service(), &text, session).await;
    let joined = handle.close(result).await?;
    session.output.show(&joined, render_joined);
    if !is_daemon {
        session.output.note("next: `shadowvault daemon` runs this node");
    } else if !joined.connected {
        session.output.note("not connected yet; `shadowvault peers why` tells what is in the way");
    }
    Ok(0)
}

/// Redeems the ticket; at a door that is busy again and again, for some minutes, and says so.
async fn join_patiently(
    node: &dyn Service,
    ticket: &TicketText,
    session: &Session<'_>,
) -> Result<Joined, ApiError> {
    let began = Instant::now();
    loop {
        let error = match node.join(JoinRequest { ticket: ticket.clone() }).await {
            Err(error) if matches!(error.kind(), Code::PeerBusy | Code::ConnectionFailed) => error,
            result => return result,
        };
        if began.elapsed() > limit::JOIN_PATIENCE {
            return Err(error);
        }
        let again = format_duration(AGAIN);
        session.output.note(&format!("{}; trying again in {again}", escape(&error.message)));
        tokio::time::sleep(AGAIN).await;
    }
}

/// Makes this machine, which has no node yet, another device of the inviter's vault.
async fn join_as_device(
    ticket: &Ticket,
    phrase_file: Option<PathBuf>,
    session: &Session<'_>,
) -> Result<u8, ApiError> {
    let loaded = load_for_setup(session)?;
    node::check_free(&loaded.settings, "join")?;
    confirm(session, ticket)?;
    let phrase = phrase(phrase_file.as_deref(), session)?;
    let passphrase = session.passphrases().fresh()?.into_passphrase();
    let newcomer = Newcomer { phrase, passphrase, device_name: super::init::device_name() };
    let progress = |stage: &str| session.output.note(&escape(stage));
    let lend = (ticket.quota > 0).then_some(ByteSize(ticket.quota));
    let ready = || drop(write_config(session, &loaded, lend));
    let made = node::join_device(loaded.settings.clone(), newcomer, ticket, progress, ready).await?;
    session.output.show(&made, render_device);
    session.output.note(
        "next: `shadowvault daemon` runs this device, `shadowvault backup PATH` makes its first backup",
    );
    Ok(0)
}

/// Asks a person at a terminal. Without one, `-y` says that whoever runs this agrees to what the ticket asks for.
fn confirm(session: &Session<'_>, ticket: &Ticket) -> Result<(), ApiError> {
    let from = if ticket.from.is_empty() { ticket.peer.to_string() } else { ticket.from.clone() };
    let (from, size) = (escape(&from), ByteSize(ticket.quota));
    let wish = match ticket.role {
        Role::Storage => format!("keep up to {size} of encrypted backups for {from}"),
        Role::Mutual => format!("keep up to {size} of encrypted backups for {from}, and let it keep yours"),
        Role::Device => {
            format!("make this machine a device of the vault on {from}, which reads all its backups")
        }
    };
    match session.agreed(&format!("This ticket asks to {wish}. Agree?"))? {
        Some(true) => Ok(()),
        Some(false) => Err(ApiError::new(Code::Cancelled, "not joined")),
        None => {
            let text = format!("this ticket asks to {wish}, and there is nobody to ask");
            Err(ApiError::new(Code::ConfirmationNeeded, text)
                .with_hint("`shadowvault join -y TICKET` agrees"))
        }
    }
}

/// The node that joins: the daemon, the one on this disk, or a new one that only stores for others.
async fn open(session: &Session<'_>, ticket: &Ticket) -> Result<Handle, ApiError> {
    match session.open(Keys::Unneeded, Mode::Online).await {
        Err(error)
            if matches!(error.kind(), Code::VaultNotFound | Code::VaultUnfinished | Code::ConfigMissing) =>
        {
            make(session, ticket).await
        }
        other => other,
    }
}

async fn make(session: &Session<'_>, ticket: &Ticket) -> Result<Handle, ApiError> {
    let loaded = load_for_setup(session)?;
    node::check_free(&loaded.settings, "join")?;
    let settings = loaded.settings.clone();
    let request = InitRequest {
        command: "join",
        storage_only: true,
        phrase: None,
        passphrase: None,
        device_name: super::init::device_name(),
    };
    let made = tokio::task::spawn_blocking(move || node::init(&settings, request)).await;
    let made = made.unwrap_or_else(|_| Err(ApiError::new(Code::Internal, "making the node panicked")))?;
    write_config(session, &loaded, Some(ByteSize(ticket.quota)));
    made.finish()?;
    session.output.note("there was no node here: made one that stores for others");
    session.open(Keys::Unneeded, Mode::Online).await
}

fn render_invitation(made: &Invitation) -> String {
    format!("{}\n", escape(&made.ticket.0))
}

fn render_redeemed(invite: &InviteInfo) -> String {
    let name = invite.name.as_deref().map(|name| format!(" as {}", escape(name))).unwrap_or_default();
    let peer = invite.peer.map(|peer| peer.to_string()).unwrap_or_default();
    format!("joined    {peer}{name}\n{}", render_words(invite.words.as_deref().unwrap_or_default()))
}

fn render_joined(joined: &Joined, _: Paint) -> String {
    let name = joined.name.as_deref().map(|name| format!(" ({})", escape(name))).unwrap_or_default();
    format!(
        "joined    {}{name}\n{}lends     {} to it, {} in all\n",
        joined.peer,
        render_words(&joined.words),
        ByteSize(joined.quota),
        ByteSize(joined.lend)
    )
}

fn render_device(made: &DeviceJoined, _: Paint) -> String {
    let joined = &made.joined;
    let name = joined.name.as_deref().map(|name| format!(" ({})", escape(name))).unwrap_or_default();
    let words = render_words(&joined.words);
    format!(
        "joined    {}{name} as another device of its vault\n{words}{}",
        joined.peer,
        render_found(&made.found)
    )
}

/// The words with what they are for.
pub(super) fn render_words(words: &str) -> String {
    format!("words     {}  (`shadowvault peers show` on the other machine shows the same)\n", escape(words))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::PeerId;

    #[test]
    fn a_joined_machine_shows_words_to_compare_and_what_it_lends() {
        let joined = Joined {
            peer: PeerId::new([7; 32]),
            name: Some("attic".into()),
            words: "one two three four".into(),
            role: Role::Storage,
            quota: 1 << 30,
            lend: 3 << 30,
            connected: true,
        };
        let text = render_joined(&joined, Paint(false));
        let lines: Vec<&str> = text.lines().collect();
        assert!(lines[0].ends_with(" (attic)"), "{text}");
        assert!(lines[1].contains("one two three four"), "{text}");
        let lends = format!("lends     {} to it, {} in all", ByteSize(1 << 30), ByteSize(3 << 30));
        assert_eq!(lines[2], lends);
    }
}
