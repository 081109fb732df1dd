//! The daemon as a whole: its status, reloads, certificates, notices, what is watched.

use super::{Desk, Outcome, Trouble, Watching, user_name};
use crate::admin::{Event, Filter, LogLevels};
use crate::chat::id::{Nick, RoomName, UserId};
use crate::config::Level;
use crate::control::protocol::{self as api, Refusal, time};
use crate::control::server::Replies;
use crate::control::values::{bad, cut, event_filter, kind, level, notice_text, room_name, target, user_id};
use crate::control::wire::Parameters;
use crate::log::{Health, LogCounts};

impl Desk<'_> {
    pub(super) async fn status(&self, with: Parameters) -> Result<api::Status, Trouble> {
        with.end()?;
        let (counts, info) = tokio::join!(self.admin.counts(), self.admin.info());
        let (counts, info) = (counts?, info?);
        Ok(api::Status {
            version: info.version.into(),
            pid: info.pid,
            state: self.admin.phase().as_str().into(),
            since: time(info.since),
            clients: counts.clients as u64,
            clients_max: info.clients_max as u64,
            users: counts.users as u64,
            rooms: counts.rooms as u64,
            messages: counts.messages,
            messages_per_second: counts.rate,
            certificate_until: info.certificate_until.map(time),
            listen: info.listen,
            config: info.config,
            bans: counts.bans as u64,
            mutes: counts.mutes as u64,
            drain: info.drain.as_ref().map(super::drain::state),
            history: history(info.store, info.store_path, &counts.health, &counts.log),
        })
    }

    pub(super) async fn notice(&self, mut with: Parameters) -> Result<api::Noticed, Trouble> {
        let target = target(with.need("target")?)?;
        let text = notice_text(with.need("text")?)?;
        let level = level(with.take::<String>("level")?.as_deref())?;
        with.end()?;
        let what = target.to_string();
        let told = cut(&text);
        let delivery = self.admin.notice(target, text, level).await;
        let who = user_name(self.caller.uid).await;
        let delivery = match delivery {
            Ok(delivery) => delivery,
            Err(error) => {
                let (uid, pid, name) = (self.caller.uid, self.caller.pid, self.caller.named(who.as_deref()));
                tracing::info!(
                    uid,
                    pid,
                    what,
                    "{name} sent a notice to {what}: {told:?}; what became of it is unknown: {error}"
                );
                return Err(error.into());
            }
        };
        tracing::info!(
            uid = self.caller.uid,
            pid = self.caller.pid,
            user_name = who.as_deref().unwrap_or(""),
            what,
            text = &*told,
            matched = delivery.matched,
            done = delivery.delivered,
            "{} sent a notice to {what}: {told:?}, written to {} of {} connections",
            self.caller.named(who.as_deref()),
            delivery.delivered,
            delivery.matched,
        );
        Ok(api::Noticed { matched: delivery.matched, delivered: delivery.delivered })
    }

    pub(super) fn events(&self, mut with: Parameters, replies: &mut Replies) -> Result<Outcome, Trouble> {
        let names: Vec<String> = with.take("types")?.unwrap_or_default();
        let types = names.iter().map(|name| kind(name)).collect::<Result<_, _>>()?;
        let filter = event_filter(with.take("filter")?)?;
        with.end()?;
        if !replies.more() {
            return Err(Refusal::ExpectedMore {}.into());
        }
        match replies.oneway() {
            true => Ok(Outcome::Answered),
            false => Ok(Outcome::Watch(Watching { events: self.admin.events(), types, filter })),
        }
    }

    pub(super) async fn reload(&self, mut with: Parameters) -> Result<api::Reloaded, Trouble> {
        let tls_only: bool = with.take("tls_only")?.unwrap_or(false);
        with.end()?;
        let reloaded = self.admin.reload(tls_only).await?;
        let who = user_name(self.caller.uid).await;
        let (uid, pid, user_name) = (self.caller.uid, self.caller.pid, who.as_deref().unwrap_or(""));
        let what = if tls_only { "certificate" } else { "configuration and certificate" };
        match reloaded {
            Ok(done) => {
                let (changed, waiting) = (done.changed.len(), done.needs_restart.len());
                tracing::info!(
                    uid,
                    pid,
                    user_name,
                    what,
                    changed,
                    waiting,
                    certificate = done.certificate,
                    "{} reloaded the {what}",
                    self.caller.named(who.as_deref())
                );
                let api = api::Reloaded {
                    changed: done.changed,
                    needs_restart: done.needs_restart,
                    certificate: done.certificate,
                };
                Ok(api)
            }
            Err(reason) => {
                tracing::info!(
                    uid,
                    pid,
                    user_name,
                    what,
                    reason,
                    "{} could not reload the {what}: {reason}",
                    self.caller.named(who.as_deref())
                );
                Err(Refusal::ReloadRefused { reason }.into())
            }
        }
    }

    pub(super) async fn log_level(&self, mut with: Parameters) -> Result<api::LogLevels, Trouble> {
        let wanted = with.take::<String>("level")?.map(|name| log_level(&name)).transpose()?;
        with.end()?;
        let Some(wanted) = wanted else { return Ok(log_levels(self.admin.log_level(None).await?)) };
        let before = self.admin.log_level(None).await?.level;
        let who = user_name(self.caller.uid).await;
        let tell = || {
            let (uid, pid, user_name) = (self.caller.uid, self.caller.pid, who.as_deref().unwrap_or(""));
            let (what, name) = (wanted.as_str(), self.caller.named(who.as_deref()));
            tracing::info!(uid, pid, user_name, what, "{name} set the log's level from {} to {what}", before.as_str());
        };
        // While either level has the line.
        if wanted < before {
            tell();
        }
        let levels = self.admin.log_level(Some(wanted)).await?;
        if wanted >= before {
            tell();
        }
        Ok(log_levels(levels))
    }

    pub(super) async fn tls(&self, with: Parameters) -> Result<api::Tls, Trouble> {
        with.end()?;
        let certificate = self.admin.certificate().await?.map(|found| api::Certificate {
            names: found.names,
            issuer: found.issuer,
            from: time(found.from),
            until: time(found.until),
            fingerprint: found.fingerprint,
            source: found.source,
            renewal: found.renewal.map(|renewal| {
                let (failed, error) = renewal.error.unzip();
                api::Renewal {
                    names: renewal.names,
                    directory: renewal.directory,
                    next: renewal.next.map(time),
                    failed: failed.map(time),
                    error,
                    failures: renewal.failures,
                }
            }),
        });
        Ok(api::Tls { certificate })
    }

    pub(super) async fn online(&self, mut with: Parameters) -> Result<api::Online, Trouble> {
        let user = with.take::<String>("user")?.map(|name| user_id("user", &name)).transpose()?;
        let room = with.take::<String>("room")?.map(|name| room_name("room", &name)).transpose()?;
        with.end()?;
        match (user, room) {
            (None, None) => Err(Refusal::InvalidParameter { parameter: "user".into() }.into()),
            (None, Some(name)) => {
                let found = self.admin.room(name).await?;
                let (users, clients) = found.map_or((0, 0), |room| (room.view.users as u64, room.view.clients as u64));
                Ok(api::Online { users, clients })
            }
            (user, room) => {
                let clients = self.matching(Filter { user, room, ..Filter::default() }).await?.len() as u64;
                Ok(api::Online { users: clients.min(1), clients })
            }
        }
    }
}

fn log_level(name: &str) -> Result<Level, Refusal> {
    let known = Level::ALL.into_iter().find(|level| level.as_str() == name);
    known.ok_or_else(|| bad("level", name, &Level::ALL.map(Level::as_str).join(", ")))
}

fn log_levels(levels: LogLevels) -> api::LogLevels {
    api::LogLevels { level: levels.level.as_str().into(), configured: levels.configured.as_str().into() }
}

pub(in crate::control) fn event(event: &Event) -> api::Event {
    api::Event {
        time: time(event.time),
        kind: event.kind.as_str().into(),
        client: event.client.map(|id| id.0),
        user: event.user.as_ref().map(UserId::to_string),
        nick: event.nick.as_ref().map(Nick::to_string),
        address: event.address.map(|address| address.to_string()),
        room: event.room.as_ref().map(RoomName::to_string),
        dialect: event.dialect.map(|dialect| dialect.as_str().into()),
        detail: event.detail.clone(),
    }
}

fn history(store: &str, path: Option<String>, health: &Health, log: &LogCounts) -> api::HistoryStore {
    let (state, why, since) = match health {
        Health::Good => ("good", None, None),
        Health::Failing { why, since } => ("failing", Some(why.clone()), Some(time(*since))),
    };
    let LogCounts { commits, entries, refused, waiting, bytes, .. } = *log;
    api::HistoryStore {
        store: store.into(),
        path,
        state: state.into(),
        why,
        since,
        commits,
        entries,
        refused,
        waiting,
        bytes,
    }
}
