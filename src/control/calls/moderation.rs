//! Bans, mutes, deletions, tokens: what operators order, and the audit of it.

use std::collections::BTreeSet;
use std::fmt::Display;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use super::{Desk, Trouble, user_name};
use crate::admin::{AdminError, Filter, TokenWish};
use crate::chat::event::{Action, ActionError, Close, Outcome};
use crate::chat::id::{ConnId, RoomGlob, RoomName};
use crate::chat::sanction::{BanTarget, Measure, Sanction, SanctionKind};
use crate::control::protocol::{self as api, Refusal, seconds, time};
use crate::control::server::Caller;
use crate::control::values::{bad, ban_target, lasts, nick, reason, room_name, token_lasts, user_id};
use crate::control::wire::Parameters;
use crate::wire::close;

/// How long a token lasts where nobody says how long.
const TOKEN_LASTS: Duration = Duration::from_secs(3600);
/// The most rooms or globs that a token is made with.
const TOKEN_ROOMS: usize = 100;
/// The most bytes of them: with them a token stays below the 8 KiB beyond which it is refused.
const TOKEN_ROOMS_BYTES: usize = 4096;

/// A caller by its name, for the audit and for the lists.
pub(super) struct Operator {
    caller: Caller,
    name: Option<String>,
}

/// A ban or a mute that is in force.
pub(super) struct Sanctioned {
    pub(super) id: u64,
    /// Whom it concerns now.
    pub(super) conns: BTreeSet<ConnId>,
    /// Why it ends with the daemon.
    pub(super) unsaved: Option<String>,
}

impl Operator {
    pub(super) fn name(&self) -> String {
        self.caller.named(self.name.as_deref())
    }

    /// Empty where the system knows none.
    pub(super) fn user_name(&self) -> &str {
        self.name.as_deref().unwrap_or("")
    }

    /// As the lists of bans and mutes show it.
    pub(super) fn by(&self) -> String {
        self.caller.by(self.name.as_deref())
    }

    /// The line of the journal about a change: who, what and how many.
    pub(super) fn did(&self, what: &str, matched: u64, done: u64, failed: usize, words: impl Display) {
        tracing::info!(
            uid = self.caller.uid,
            pid = self.caller.pid,
            user_name = self.user_name(),
            what,
            matched,
            done,
            failed,
            "{} {words}",
            self.name(),
        );
    }
}

impl From<ActionError> for Refusal {
    fn from(error: ActionError) -> Self {
        match error {
            ActionError::NoSuchRoom(room) => Refusal::NoSuchRoom { room: room.to_string() },
            ActionError::NoSuchMessage { room, target } => {
                Refusal::NoSuchMessage { room: room.to_string(), seq: target }
            }
            ActionError::NoSuchSanction { kind: SanctionKind::Ban, id } => Refusal::NoSuchBan { id },
            ActionError::NoSuchSanction { kind: SanctionKind::Mute, id } => Refusal::NoSuchMute { id },
            ActionError::TooMany { most } => Refusal::TooManySanctions { limit: most as u64 },
            ActionError::NotSaved(reason) => Refusal::NotSaved { ids: Vec::new(), reason },
            ActionError::Unavailable(reason) => Refusal::HistoryUnavailable { reason },
        }
    }
}

impl Desk<'_> {
    pub(super) async fn operator(&self) -> Operator {
        Operator { caller: self.caller, name: user_name(self.caller.uid).await }
    }

    /// Has an action carried out. `what` names it in the journal where nobody knows what became of it.
    pub(super) async fn act(
        &self,
        operator: &Operator,
        what: &str,
        action: Action,
    ) -> Result<Result<Outcome, ActionError>, AdminError> {
        let acted = self.admin.moderate(operator.by(), action).await;
        if let Err(error @ AdminError::TimedOut) = &acted {
            operator.did(what, 0, 0, 0, format_args!("ordered {what}; what became of it is unknown: {error}"));
        }
        acted
    }

    pub(super) async fn ban(
        &self,
        operator: &Operator,
        target: BanTarget,
        lasts: Option<Duration>,
        reason: String,
    ) -> Result<Sanctioned, Trouble> {
        let until = lasts.map(|lasts| SystemTime::now() + lasts);
        let measure = Measure::Ban(target.clone());
        let action = Action::Ban { target, until, reason };
        self.sanction(operator, measure, action).await
    }

    async fn sanction(&self, operator: &Operator, measure: Measure, action: Action) -> Result<Sanctioned, Trouble> {
        let what = in_words(&measure);
        match self.act(operator, &what, action).await? {
            Ok(Outcome::Sanctioned { sanction, conns }) => {
                Ok(Sanctioned { id: sanction.id, conns: conns.into_iter().collect(), unsaved: None })
            }
            Ok(other) => unreachable!("a ban or a mute is answered by itself, not by {other:?}"),
            // In force all the same: whom it concerns must be found in another way.
            Err(ActionError::NotSaved(why)) => {
                let kind = match measure {
                    Measure::Ban(_) => SanctionKind::Ban,
                    Measure::Mute { .. } => SanctionKind::Mute,
                };
                let known = self.admin.sanctions(kind).await?;
                let id = known.iter().find(|known| known.measure == measure).map_or(0, |known| known.id);
                let filter = match measure {
                    Measure::Ban(BanTarget::Net(net)) => Filter { ip: Some(net), ..Filter::default() },
                    Measure::Ban(BanTarget::User(user)) => Filter { user: Some(user), ..Filter::default() },
                    Measure::Mute { user, room } => Filter { user: Some(user), room, ..Filter::default() },
                };
                Ok(Sanctioned { id, conns: self.matching(filter).await?, unsaved: Some(why) })
            }
            Err(error) => Err(Refusal::from(error).into()),
        }
    }

    pub(super) async fn bans(&self, with: Parameters) -> Result<api::Bans, Trouble> {
        with.end()?;
        let now = SystemTime::now();
        let bans = self.admin.sanctions(SanctionKind::Ban).await?;
        Ok(api::Bans { bans: bans.iter().filter_map(|sanction| ban(sanction, now)).collect() })
    }

    pub(super) async fn add_ban(&self, mut with: Parameters) -> Result<api::Banned, Trouble> {
        let target = ban_target(with.take("ip")?, with.take("user")?)?;
        let lasts = with.take("seconds")?.map(lasts).transpose()?;
        let reason = reason(with.take("reason")?)?;
        with.end()?;
        let what = format!("ban of {target}");
        let operator = self.operator().await;
        let told = if reason.is_empty() {
            close::BANNED.close()
        } else {
            Close { reason: reason.clone(), ..close::BANNED.close() }
        };
        let banned = self.ban(&operator, target, lasts, reason.clone()).await?;
        let Sanctioned { id, conns, unsaved } = banned;
        let closed = self.close(conns, told, false, None).await?.kicked;
        operator.did(
            &what,
            closed.matched,
            closed.done,
            closed.failed.len(),
            format_args!(
                "put ban {id} in force: {what}{}{}; {} of {} connections closed{}",
                ending(lasts),
                because(&reason),
                closed.done,
                closed.matched,
                not_saved(unsaved.as_deref()),
            ),
        );
        match unsaved {
            Some(reason) => Err(Refusal::NotSaved { ids: vec![id], reason }.into()),
            None => Ok(api::Banned { id, matched: closed.matched, done: closed.done, failed: closed.failed }),
        }
    }

    pub(super) async fn delete_ban(&self, with: Parameters) -> Result<api::OneBan, Trouble> {
        let sanction = self.lift(SanctionKind::Ban, with).await?;
        match ban(&sanction, SystemTime::now()) {
            Some(ban) => Ok(api::OneBan { ban }),
            None => unreachable!("what was lifted as a ban is one"),
        }
    }

    pub(super) async fn mutes(&self, with: Parameters) -> Result<api::Mutes, Trouble> {
        with.end()?;
        let now = SystemTime::now();
        let mutes = self.admin.sanctions(SanctionKind::Mute).await?;
        Ok(api::Mutes { mutes: mutes.iter().filter_map(|sanction| mute(sanction, now)).collect() })
    }

    pub(super) async fn add_mute(&self, mut with: Parameters) -> Result<api::Muted, Trouble> {
        let user = user_id("user", &with.need::<String>("user")?)?;
        let room = with.take::<String>("room")?.map(|name| room_name("room", &name)).transpose()?;
        let lasts = with.take("seconds")?.map(lasts).transpose()?;
        let reason = reason(with.take("reason")?)?;
        with.end()?;
        let measure = Measure::Mute { user: user.clone(), room: room.clone() };
        let what = in_words(&measure);
        let operator = self.operator().await;
        let until = lasts.map(|lasts| SystemTime::now() + lasts);
        let action = Action::Mute { user, room, until, reason: reason.clone() };
        let Sanctioned { id, conns, unsaved } = self.sanction(&operator, measure, action).await?;
        let matched = conns.len() as u64;
        let (ending, because, lost) = (ending(lasts), because(&reason), not_saved(unsaved.as_deref()));
        operator.did(&what, matched, matched, 0, format_args!("put mute {id} in force: {what}{ending}{because}{lost}"));
        match unsaved {
            Some(reason) => Err(Refusal::NotSaved { ids: vec![id], reason }.into()),
            None => Ok(api::Muted { id, matched }),
        }
    }

    pub(super) async fn delete_mute(&self, with: Parameters) -> Result<api::OneMute, Trouble> {
        let sanction = self.lift(SanctionKind::Mute, with).await?;
        match mute(&sanction, SystemTime::now()) {
            Some(mute) => Ok(api::OneMute { mute }),
            None => unreachable!("what was lifted as a mute is one"),
        }
    }

    pub(super) async fn edit_ban(&self, with: Parameters) -> Result<api::OneBan, Trouble> {
        let sanction = self.amend(SanctionKind::Ban, with).await?;
        match ban(&sanction, SystemTime::now()) {
            Some(ban) => Ok(api::OneBan { ban }),
            None => unreachable!("what was changed as a ban is one"),
        }
    }

    pub(super) async fn edit_mute(&self, with: Parameters) -> Result<api::OneMute, Trouble> {
        let sanction = self.amend(SanctionKind::Mute, with).await?;
        match mute(&sanction, SystemTime::now()) {
            Some(mute) => Ok(api::OneMute { mute }),
            None => unreachable!("what was changed as a mute is one"),
        }
    }

    async fn amend(&self, kind: SanctionKind, mut with: Parameters) -> Result<Arc<Sanction>, Trouble> {
        let id: u64 = with.need("id")?;
        let seconds = with.take("seconds")?.map(lasts).transpose()?;
        let forever = with.take("forever")?.unwrap_or(false);
        let reason = match with.take("reason")? {
            Some(text) => Some(reason(Some(text))?),
            None => None,
        };
        with.end()?;
        let until = match (seconds, forever) {
            (Some(seconds), false) => Some(Some(SystemTime::now() + seconds)),
            (None, true) => Some(None),
            (None, false) if reason.is_some() => None,
            (Some(_), true) => return Err(bad("forever", true, "only one of seconds and forever").into()),
            (None, false) => return Err(bad("seconds", "nothing", "one of seconds, forever and reason").into()),
        };
        let operator = self.operator().await;
        let what = format!("change of {} {id}", kind.as_str());
        let end = match until {
            Some(None) => ", until it is ended".to_owned(),
            _ => ending(seconds),
        };
        let because = because(reason.as_deref().unwrap_or_default());
        let action = Action::Amend { kind, id, until, reason };
        match self.act(&operator, &what, action).await? {
            Ok(Outcome::Amended { sanction }) => {
                let measure = in_words(&sanction.measure);
                operator.did(&what, 1, 1, 0, format_args!("changed {} {id}: {measure}{end}{because}", kind.as_str()));
                Ok(sanction)
            }
            Ok(other) => unreachable!("a change is answered by what it changed, not by {other:?}"),
            Err(ActionError::NotSaved(reason)) => {
                let lost = not_saved(Some(&reason));
                operator.did(&what, 1, 1, 0, format_args!("changed {} {id}{end}{because}{lost}", kind.as_str()));
                Err(Refusal::NotSaved { ids: vec![id], reason }.into())
            }
            Err(error) => Err(Refusal::from(error).into()),
        }
    }

    async fn lift(&self, kind: SanctionKind, mut with: Parameters) -> Result<Arc<Sanction>, Trouble> {
        let id: u64 = with.need("id")?;
        with.end()?;
        let operator = self.operator().await;
        let what = format!("end of {} {id}", kind.as_str());
        match self.act(&operator, &what, Action::Lift { kind, id }).await? {
            Ok(Outcome::Lifted { sanction }) => {
                let measure = in_words(&sanction.measure);
                operator.did(&what, 1, 1, 0, format_args!("ended {} {id}: {measure}", kind.as_str()));
                Ok(sanction)
            }
            Ok(other) => unreachable!("an end is answered by what has ended, not by {other:?}"),
            Err(ActionError::NotSaved(reason)) => {
                let lost = not_saved(Some(&reason));
                operator.did(&what, 1, 1, 0, format_args!("ended {} {id}{lost}", kind.as_str()));
                Err(Refusal::NotSaved { ids: vec![id], reason }.into())
            }
            Err(error) => Err(Refusal::from(error).into()),
        }
    }

    pub(super) async fn token(&self, mut with: Parameters) -> Result<api::Minted, Trouble> {
        let user = user_id("user", &with.need::<String>("user")?)?;
        let nick = with.take::<String>("name")?.map(|name| nick("name", &name)).transpose()?;
        let rooms: Option<Vec<String>> = with.take("rooms")?;
        let roles: Vec<String> = with.take("roles")?.unwrap_or_default();
        let lasts = with.take("seconds")?.map_or(Ok(TOKEN_LASTS), token_lasts)?;
        with.end()?;
        if user.is_guest() {
            return Err(bad("user", user, "a name that does not begin with guest-, as only guests' names do").into());
        }
        for glob in rooms.iter().flatten() {
            RoomGlob::parse(glob).map_err(|e| bad("rooms", glob, &e.to_string()))?;
            if !RoomGlob::is_possible(glob) {
                return Err(bad("rooms", glob, "a room's name, or a glob that one can match").into());
            }
        }
        let many = rooms.as_ref().map_or(0, Vec::len);
        if many > TOKEN_ROOMS {
            return Err(bad("rooms", format_args!("{many} of them"), &format!("at most {TOKEN_ROOMS}")).into());
        }
        let bytes: usize = rooms.iter().flatten().map(String::len).sum();
        if bytes > TOKEN_ROOMS_BYTES {
            return Err(
                bad("rooms", format_args!("{bytes} bytes"), &format!("at most {TOKEN_ROOMS_BYTES} in all")).into()
            );
        }
        if let Some(odd) = roles.iter().find(|role| *role != api::MODERATOR) {
            return Err(bad("roles", odd, api::MODERATOR).into());
        }
        let what = format!("token for user:{user}");
        let moderator = !roles.is_empty();
        // `exp` counts whole seconds, rounded down.
        let expires = SystemTime::now() + lasts;
        let token = self.admin.token(TokenWish { user, nick, rooms, moderator, lasts }).await?;
        let token = token.map_err(|reason| Refusal::NoSecret { reason })?;
        let operator = self.operator().await;
        let role = if moderator { " as a moderator" } else { "" };
        operator.did(&what, 1, 1, 0, format_args!("made a {what}{role}, until {}", time(expires)));
        Ok(api::Minted { token, expires: time(expires) })
    }
}

fn in_words(measure: &Measure) -> String {
    match measure {
        Measure::Ban(target) => format!("ban of {target}"),
        Measure::Mute { user, room: Some(room) } => format!("mute of user:{user} in room {room}"),
        Measure::Mute { user, room: None } => format!("mute of user:{user} everywhere"),
    }
}

pub(super) fn ending(lasts: Option<Duration>) -> String {
    lasts.map_or_else(String::new, |lasts| format!(" for {}", humantime::format_duration(lasts)))
}

fn because(reason: &str) -> String {
    if reason.is_empty() { String::new() } else { format!(", {:?}", reason) }
}

pub(super) fn not_saved(why: Option<&str>) -> String {
    why.map_or_else(String::new, |why| format!("; not saved: {why}"))
}

fn left(until: Option<SystemTime>, now: SystemTime) -> Option<f64> {
    until.map(|until| seconds(until.duration_since(now).unwrap_or_default()))
}

fn ban(sanction: &Sanction, now: SystemTime) -> Option<api::Ban> {
    let Measure::Ban(target) = &sanction.measure else { return None };
    let (ip, user) = match target {
        BanTarget::Net(net) if net.prefix_len() == net.max_prefix_len() => (Some(net.addr().to_string()), None),
        BanTarget::Net(net) => (Some(net.to_string()), None),
        BanTarget::User(user) => (None, Some(user.to_string())),
    };
    Some(api::Ban {
        id: sanction.id,
        ip,
        user,
        reason: sanction.reason.clone(),
        by: sanction.by.clone(),
        since: time(sanction.since),
        until: sanction.until.map(time),
        left: left(sanction.until, now),
    })
}

fn mute(sanction: &Sanction, now: SystemTime) -> Option<api::Mute> {
    let Measure::Mute { user, room } = &sanction.measure else { return None };
    Some(api::Mute {
        id: sanction.id,
        user: user.to_string(),
        room: room.as_ref().map(RoomName::to_string),
        reason: sanction.reason.clone(),
        by: sanction.by.clone(),
        since: time(sanction.since),
        until: sanction.until.map(time),
        left: left(sanction.until, now),
    })
}
