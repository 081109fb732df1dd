//! What each method means: parameters become [`Admin`] calls, their answers become replies.
//!
//! Decides nothing about clients or rooms. Every call that changes something leaves a line in the
//! journal that says who, what and how many.

mod backup;
mod clients;
mod closing;
mod daemon;
mod drain;
mod history;
mod moderation;
mod rooms;
mod stats;

use std::io;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::broadcast;
use tokio::time::timeout;

use super::protocol::{self as api, Refusal};
use super::server::{Access, Caller, Replies};
use super::values::{EventFilter, cut};
use super::wire::{Call, Parameters};
use crate::admin::{Admin, AdminError, DEADLINE, Event, EventKind};

pub(super) use backup::{Copying, Next};
pub(super) use daemon::event;
pub(super) use history::Following;

/// The longest that the name service is waited for; the journal has the number in any case.
const NAME_DEADLINE: Duration = Duration::from_secs(1);

/// What is left to do after a call.
pub(super) enum Outcome {
    Answered,
    Watch(Watching),
    Follow(Following),
    Copy(Copying),
}

/// A watcher's wishes.
pub(super) struct Watching {
    pub(super) events: broadcast::Receiver<Arc<Event>>,
    /// Empty: all.
    pub(super) types: Vec<EventKind>,
    pub(super) filter: EventFilter,
}

/// Answers one call, except for watching and following. An `Err` is the caller's socket.
pub(super) async fn answer(
    call: Call,
    admin: &Admin,
    access: Access,
    caller: Caller,
    replies: &mut Replies,
) -> io::Result<Outcome> {
    let method = call.method;
    let (interface, name) = method.rsplit_once('.').unwrap_or(("", &method));
    let interface = match (interface, access) {
        (api::SERVICE, _) => api::SERVICE,
        (api::PUSH, _) => api::PUSH,
        (api::CONTROL, Access::Control) => api::CONTROL,
        _ => {
            let unknown = Refusal::InterfaceNotFound { interface: cut(interface) };
            replies.refuse(&unknown, access.interface()).await?;
            return Ok(Outcome::Answered);
        }
    };
    let desk = Desk { admin, access, caller, interface };
    let answered = match call.upgrade {
        Some(true) => Err(Refusal::InvalidParameter { parameter: "upgrade".into() }.into()),
        _ => match Parameters::new(call.parameters) {
            Ok(parameters) => desk.dispatch(name, parameters, replies).await,
            Err(refusal) => Err(refusal.into()),
        },
    };
    match answered {
        Ok(outcome) => Ok(outcome),
        Err(Trouble::Caller(error)) => Err(error),
        Err(Trouble::Refused(refusal)) => {
            replies.refuse(&refusal, interface).await?;
            Ok(Outcome::Answered)
        }
    }
}

enum Trouble {
    Refused(Refusal),
    Caller(io::Error),
}

impl std::fmt::Display for Trouble {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Trouble::Refused(refusal) => refusal.fmt(f),
            Trouble::Caller(error) => error.fmt(f),
        }
    }
}

impl From<Refusal> for Trouble {
    fn from(refusal: Refusal) -> Self {
        Trouble::Refused(refusal)
    }
}

impl From<io::Error> for Trouble {
    fn from(error: io::Error) -> Self {
        Trouble::Caller(error)
    }
}

impl From<AdminError> for Trouble {
    fn from(error: AdminError) -> Self {
        Trouble::Refused(error.into())
    }
}

impl From<AdminError> for Refusal {
    fn from(error: AdminError) -> Self {
        match error {
            AdminError::Busy => Refusal::Busy {},
            AdminError::TimedOut => Refusal::TimedOut { seconds: DEADLINE.as_secs() },
            AdminError::Stopping => Refusal::Stopping {},
        }
    }
}

/// One call's surroundings.
struct Desk<'a> {
    admin: &'a Admin,
    access: Access,
    caller: Caller,
    interface: &'static str,
}

impl Desk<'_> {
    async fn dispatch(&self, name: &str, with: Parameters, replies: &mut Replies) -> Result<Outcome, Trouble> {
        match (self.interface, name) {
            (api::SERVICE, "GetInfo") => replies.last(&self.info(with)?).await?,
            (api::SERVICE, "GetInterfaceDescription") => replies.last(&self.description(with)?).await?,
            (api::CONTROL, "Status") => replies.last(&self.status(with).await?).await?,
            (api::CONTROL, "ListClients") => self.list(with, replies).await?,
            (api::CONTROL, "ShowClient") => replies.last(&self.client(with).await?).await?,
            (api::CONTROL, "Kick") => {
                let kicked = self.kick(with, replies).await?;
                replies.last(&kicked).await?;
            }
            (api::CONTROL | api::PUSH, "Notice") => replies.last(&self.notice(with).await?).await?,
            (api::CONTROL, "ListRooms") => self.rooms(with, replies).await?,
            (api::CONTROL, "ShowRoom") => replies.last(&self.room(with).await?).await?,
            (api::CONTROL, "CloseRoom") => replies.last(&self.close_room(with).await?).await?,
            (api::CONTROL, "PurgeRoom") => replies.last(&self.purge_room(with).await?).await?,
            (api::CONTROL, "DeleteMessage") => replies.last(&self.delete_message(with).await?).await?,
            (api::CONTROL, "History") => return self.history(with, replies).await,
            (api::CONTROL, "ListBans") => replies.last(&self.bans(with).await?).await?,
            (api::CONTROL, "AddBan") => replies.last(&self.add_ban(with).await?).await?,
            (api::CONTROL, "EditBan") => replies.last(&self.edit_ban(with).await?).await?,
            (api::CONTROL, "EditMute") => replies.last(&self.edit_mute(with).await?).await?,
            (api::CONTROL, "Backup") => return self.backup(with, replies).await,
            (api::CONTROL, "DeleteBan") => replies.last(&self.delete_ban(with).await?).await?,
            (api::CONTROL, "ListMutes") => replies.last(&self.mutes(with).await?).await?,
            (api::CONTROL, "AddMute") => replies.last(&self.add_mute(with).await?).await?,
            (api::CONTROL, "DeleteMute") => replies.last(&self.delete_mute(with).await?).await?,
            (api::CONTROL, "MintToken") => replies.last(&self.token(with).await?).await?,
            (api::CONTROL, "Events") => return self.events(with, replies),
            (api::CONTROL, "Reload") => replies.last(&self.reload(with).await?).await?,
            (api::CONTROL, "Drain") => self.drain(with, replies).await?,
            (api::CONTROL, "Resume") => replies.last(&self.resume(with).await?).await?,
            (api::CONTROL, "LogLevel") => replies.last(&self.log_level(with).await?).await?,
            (api::CONTROL, "Stats") => replies.last(&self.stats(with).await?).await?,
            (api::CONTROL, "Tls") => replies.last(&self.tls(with).await?).await?,
            (api::CONTROL, "Ping") => {
                with.end()?;
                self.admin.ping().await?;
                replies.last(&api::Nothing {}).await?;
            }
            (api::PUSH, "Online") => replies.last(&self.online(with).await?).await?,
            _ => return Err(Refusal::MethodNotFound { method: format!("{}.{}", self.interface, cut(name)) }.into()),
        }
        Ok(Outcome::Answered)
    }

    fn info(&self, with: Parameters) -> Result<api::ServiceInfo, Refusal> {
        with.end()?;
        let ours: &[&str] = match self.access {
            Access::Control => &[api::SERVICE, api::CONTROL, api::PUSH],
            Access::Push => &[api::SERVICE, api::PUSH],
        };
        Ok(api::ServiceInfo {
            vendor: "wschat".into(),
            product: "wschat".into(),
            version: env!("CARGO_PKG_VERSION").into(),
            url: env!("CARGO_PKG_HOMEPAGE").into(),
            interfaces: ours.iter().map(|name| name.to_string()).collect(),
        })
    }

    fn description(&self, mut with: Parameters) -> Result<api::Description, Refusal> {
        let interface: String = with.need("interface")?;
        with.end()?;
        let description = match (interface.as_str(), self.access) {
            (api::SERVICE, _) => api::SERVICE_TEXT,
            (api::PUSH, _) => api::PUSH_TEXT,
            (api::CONTROL, Access::Control) => api::CONTROL_TEXT,
            _ => return Err(Refusal::InterfaceNotFound { interface: cut(&interface) }),
        };
        Ok(api::Description { description: description.into() })
    }
}

/// The caller's name for the journal. The name service may ask a network: never on our thread.
async fn user_name(uid: u32) -> Option<String> {
    let look_up = tokio::task::spawn_blocking(move || nix::unistd::User::from_uid(uid.into()));
    let found = timeout(NAME_DEADLINE, look_up).await.ok()?.ok()?;
    Some(found.ok()??.name)
}
