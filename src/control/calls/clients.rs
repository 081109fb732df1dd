//! Connections: which there are, and closing them.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, SystemTime};

use futures_util::future::join_all;
use ipnet::IpNet;

use super::closing::{Closing, Paced, failure};
use super::moderation::{Operator, Sanctioned, ending, not_saved};
use super::{Desk, Trouble};
use crate::admin::order::{ClientKey, First, Merged};
use crate::admin::{AdminError, ClientView, CloseError, Filter};
use crate::chat::id::{ConnId, Nick, RoomName, UserId};
use crate::chat::sanction::BanTarget;
use crate::control::protocol::{self as api, Refusal, seconds, time};
use crate::control::server::Replies;
use crate::control::values::{bad, ban_network, close, cut, filter, lasts, order, rate};
use crate::control::wire::Parameters;
use crate::pace::Pace;

/// Connections that the hub looks at for one page: the first rows are there at once, and nobody's
/// message waits long.
const PAGE: usize = 512;
/// The most that one answer holds in order.
const SORTED_MOST: u64 = 1000;

/// The most connections whose people are banned by one kick: each is found out about and banned
/// by itself.
const KICK_BANS: usize = 1000;
/// Bans that are ordered together: far fewer than the operators' queue takes.
const BANS_AT_ONCE: usize = 32;

/// How long those who are kicked stay away, and why.
struct Ban {
    lasts: Option<Duration>,
    reason: String,
}

/// What has become of the bans of a kick.
#[derive(Default)]
struct Banned {
    /// Whom to close.
    close: BTreeSet<ConnId>,
    ids: Vec<u64>,
    failed: Vec<api::Failure>,
    unsaved: Option<String>,
}

impl Desk<'_> {
    pub(super) async fn list(&self, mut with: Parameters, replies: &mut Replies) -> Result<(), Trouble> {
        let filter = filter(with.take("filter")?)?;
        let limit: Option<u64> = with.take("limit")?;
        let count: bool = with.take("count")?.unwrap_or(false);
        let order = order("sort", &mut with, &ClientKey::ALL, ClientKey::as_str, limit, SORTED_MOST)?;
        with.end()?;
        if order.is_some() && count {
            return Err(bad("count", count, "false together with sort").into());
        }
        if !replies.more() {
            return Err(Refusal::ExpectedMore {}.into());
        }
        if replies.oneway() {
            return Ok(());
        }
        if let Some(order) = order {
            return self.first(filter, order, replies).await;
        }
        let limit = limit.unwrap_or(u64::MAX);
        let mut matched = 0;
        let mut after = Some(ConnId(0));
        while let Some(begin) = after.take_if(|_| matched < limit) {
            let page = self.admin.clients(filter.clone(), begin, PAGE).await?;
            let mut found = page.clients;
            found.truncate(usize::try_from(limit - matched).unwrap_or(usize::MAX));
            matched += found.len() as u64;
            after = page.next.filter(|next| *next > begin && matched < limit);
            if count && after.is_some() || found.is_empty() && after.is_some() {
                continue;
            }
            let now = SystemTime::now();
            let clients = if count { Vec::new() } else { found.iter().map(|view| client(view, now)).collect() };
            let part = api::Clients { clients, matched };
            match after {
                Some(_) => replies.part(&part).await?,
                None => return Ok(replies.last(&part).await?),
            }
        }
        // Only a limit of 0 comes here.
        Ok(replies.last(&api::Clients { clients: Vec::new(), matched }).await?)
    }

    /// Looks at all, page by page, and holds no more than it answers and one page.
    async fn first(&self, filter: Filter, order: First<ClientKey>, replies: &mut Replies) -> Result<(), Trouble> {
        let mut merged = Merged::new(order.most);
        let mut after = Some(ConnId(0));
        while let Some(begin) = after {
            let page = self.admin.first_clients(filter.clone(), order, merged.bar(), begin, PAGE).await?;
            after = merged.take(page).filter(|next| *next > begin);
        }
        let (matched, now) = (merged.matched, SystemTime::now());
        let clients = merged.all().map(|view| client(&view, now)).collect();
        Ok(replies.last(&api::Clients { clients, matched }).await?)
    }

    pub(super) async fn client(&self, mut with: Parameters) -> Result<api::OneClient, Trouble> {
        let id: u64 = with.need("id")?;
        with.end()?;
        let view = self.admin.client(ConnId(id)).await?.ok_or(Refusal::NoSuchClient { id })?;
        Ok(api::OneClient { client: client(&view, SystemTime::now()) })
    }

    pub(super) async fn kick(&self, mut with: Parameters, replies: &mut Replies) -> Result<api::Kicked, Trouble> {
        let ids: Option<Vec<u64>> = with.take("ids")?;
        let filter = filter(with.take("filter")?)?;
        let all: bool = with.take("all")?.unwrap_or(false);
        let code: Option<u16> = with.take("code")?;
        let reason: Option<String> = with.take("reason")?;
        let reconnect: bool = with.take("reconnect")?.unwrap_or(false);
        let dry_run: bool = with.take("dry_run")?.unwrap_or(false);
        let bans: bool = with.take("ban")?.unwrap_or(false);
        let seconds: Option<f64> = with.take("seconds")?;
        let each_second: Option<f64> = with.take("rate")?.map(rate).transpose()?;
        with.end()?;
        if each_second.is_some() && !dry_run && (!replies.more() || replies.oneway()) {
            return Err(Refusal::ExpectedMore {}.into());
        }
        let close = close(code, reason.clone(), reconnect, bans)?;
        let ban = match (bans, seconds) {
            (false, Some(seconds)) => return Err(bad("seconds", seconds, "none without ban: true").into()),
            (true, _) if reconnect => return Err(bad("reconnect", reconnect, "false together with ban").into()),
            (true, _) if all => return Err(bad("all", all, "ids or a filter: nobody bans everyone").into()),
            (true, seconds) => Some(Ban { lasts: seconds.map(lasts).transpose()?, reason: reason.unwrap_or_default() }),
            (false, None) => None,
        };
        let what = match (&ids, filter.is_empty(), all) {
            (Some(ids), true, false) => format!("ids {}", cut(&format!("{ids:?}"))),
            (None, false, false) => filter.to_string(),
            (None, true, true) => "everyone".to_owned(),
            (None, true, false) => {
                return Err(Refusal::EmptyFilter { expected: "ids, a filter, or all: true".into() }.into());
            }
            _ => return Err(bad("all", all, "exactly one of ids, filter and all").into()),
        };
        // Whom the filter names is banned as such; of others, whoever is found.
        let target = match (&ban, &filter.user, filter.ip) {
            (Some(_), Some(user), _) => Some(BanTarget::User(user.clone())),
            (Some(_), None, Some(net)) => Some(BanTarget::Net(ban_network("filter.ip", net)?)),
            _ => None,
        };

        let named = ids.is_some();
        let ids: BTreeSet<ConnId> = match ids {
            Some(ids) => ids.into_iter().map(ConnId).collect(),
            None => self.matching(filter.clone()).await?,
        };
        if dry_run {
            return self.only_count(ids, named).await;
        }
        let operator = self.operator().await;
        let mut banned = Banned { close: ids, ..Banned::default() };
        if let Some(ban) = &ban
            && !banned.close.is_empty()
        {
            banned = match target {
                Some(target) => self.ban_named(&operator, target, ban, &filter).await?,
                None => self.ban_found(&operator, banned.close, ban).await?,
            };
        }
        let code = close.code;
        let reason = close.reason.escape_debug().to_string();
        let count = banned.close.len() as u64;
        let pace = |each_second| {
            Pace::at_rate(count, each_second).ok_or_else(|| bad("rate", each_second, "more: it would never end"))
        };
        let paced = each_second.map(pace).transpose()?.map(|pace| Paced { pace, replies });
        let Closing { mut kicked, caller: gone } = self.close(banned.close, close, named, paced).await?;
        kicked.matched += banned.failed.len() as u64;
        kicked.failed.extend(banned.failed);
        kicked.bans = banned.ids;
        let also = match &ban {
            Some(ban) => {
                format!("; bans {:?}{}{}", kicked.bans, ending(ban.lasts), not_saved(banned.unsaved.as_deref()))
            }
            None => String::new(),
        };
        let also = match &gone {
            Some(_) => format!("{also}; the caller has gone, and the others were left alone"),
            None => also,
        };
        let (caller, who) = (self.caller, operator.user_name());
        tracing::info!(
            uid = caller.uid,
            pid = caller.pid,
            user_name = who,
            what,
            code,
            reason,
            matched = kicked.matched,
            done = kicked.done,
            failed = kicked.failed.len(),
            "{} kicked {what}: {} of {} connections closed with {code} {reason}{also}",
            operator.name(),
            kicked.done,
            kicked.matched,
        );
        if let Some(error) = gone {
            return Err(error.into());
        }
        match banned.unsaved {
            Some(reason) => Err(Refusal::NotSaved { ids: kicked.bans, reason }.into()),
            None => Ok(kicked),
        }
    }

    /// Bans whom the filter names. Whoever has come in between is met as well.
    async fn ban_named(
        &self,
        operator: &Operator,
        target: BanTarget,
        ban: &Ban,
        filter: &Filter,
    ) -> Result<Banned, Trouble> {
        let Sanctioned { id, mut conns, unsaved } = self.ban(operator, target, ban.lasts, ban.reason.clone()).await?;
        conns.extend(self.matching(filter.clone()).await?);
        Ok(Banned { close: conns, ids: vec![id], failed: Vec::new(), unsaved })
    }

    /// Bans the people behind these connections.
    async fn ban_found(&self, operator: &Operator, ids: BTreeSet<ConnId>, ban: &Ban) -> Result<Banned, Trouble> {
        if ids.len() > KICK_BANS {
            let expected = format!("at most {KICK_BANS} connections at once; ban a user or a network instead");
            return Err(bad("ban", format_args!("{} connections", ids.len()), &expected).into());
        }
        let mut found: Vec<(ConnId, Vec<BanTarget>)> = Vec::new();
        let mut banned = Banned::default();
        for id in ids {
            match self.admin.client(id).await? {
                Some(view) => found.push((id, behind(&view))),
                // Closing finds out that it is not there.
                None => drop(banned.close.insert(id)),
            }
        }
        let targets: BTreeSet<&BanTarget> = found.iter().flat_map(|(_, targets)| targets).collect();
        let targets: Vec<&BanTarget> = targets.into_iter().collect();
        let mut results: BTreeMap<&BanTarget, Result<Sanctioned, String>> = BTreeMap::new();
        for some in targets.chunks(BANS_AT_ONCE) {
            let one = |target: &BanTarget| self.ban(operator, target.clone(), ban.lasts, ban.reason.clone());
            let done = join_all(some.iter().map(|target| one(target))).await;
            let done = done.into_iter().map(|result| result.map_err(|trouble| trouble.to_string()));
            results.extend(some.iter().copied().zip(done));
        }
        for (id, targets) in &found {
            let failed = targets.iter().filter_map(|target| results.get(target)?.as_ref().err()).next();
            let why = match (failed, targets.is_empty()) {
                (Some(why), _) => why,
                (None, true) => "cannot be banned: it is nobody yet, and comes from this machine itself",
                (None, false) => {
                    banned.close.insert(*id);
                    continue;
                }
            };
            banned.failed.push(failure(*id, why));
        }
        for (target, result) in results {
            let Ok(Sanctioned { id, conns, unsaved }) = result else { continue };
            banned.ids.push(id);
            banned.unsaved = banned.unsaved.or(unsaved);
            // Others may come from the same address.
            if matches!(target, BanTarget::User(_)) {
                banned.close.extend(conns);
            }
        }
        banned.ids.sort_unstable();
        for failed in &banned.failed {
            banned.close.remove(&ConnId(failed.id));
        }
        Ok(banned)
    }

    pub(super) async fn matching(&self, filter: Filter) -> Result<BTreeSet<ConnId>, AdminError> {
        let mut ids = BTreeSet::new();
        let mut after = Some(ConnId(0));
        while let Some(begin) = after {
            let page = self.admin.clients(filter.clone(), begin, PAGE).await?;
            ids.extend(page.clients.iter().map(|view| view.peer.id));
            after = page.next.filter(|next| *next > begin);
        }
        Ok(ids)
    }

    async fn only_count(&self, ids: BTreeSet<ConnId>, named: bool) -> Result<api::Kicked, Trouble> {
        let mut kicked = api::Kicked { matched: 0, done: 0, failed: Vec::new(), bans: Vec::new() };
        for id in ids {
            // What a filter has found was there a moment ago.
            match named && self.admin.client(id).await?.is_none() {
                true => kicked.failed.push(failure(id, CloseError::NotFound)),
                false => kicked.matched += 1,
            }
        }
        Ok(kicked)
    }
}

/// Who is to be kept out: the user whom a token named; a guest's user and address. The addresses of
/// this machine stand for everybody behind a proxy.
fn behind(client: &ClientView) -> Vec<BanTarget> {
    let user = client.user.clone().map(BanTarget::User);
    let address = client.peer.address.to_canonical();
    let guest = client.token_exp.is_none() && !address.is_loopback();
    let prefix = if address.is_ipv6() { 64 } else { 32 };
    let net = IpNet::new(address, prefix).ok().filter(|_| guest).map(|net| BanTarget::Net(net.trunc()));
    user.into_iter().chain(net).collect()
}

fn client(view: &ClientView, now: SystemTime) -> api::Client {
    let peer = &*view.peer;
    let text = |text: &Option<Box<str>>| text.as_deref().map(str::to_owned);
    api::Client {
        id: peer.id.0,
        user: view.user.as_ref().map(UserId::to_string),
        nick: view.nick.as_ref().map(Nick::to_string),
        address: peer.address.to_string(),
        port: peer.port,
        rooms: view.rooms.iter().map(RoomName::to_string).collect(),
        since: time(peer.since),
        age: seconds(peer.age(now)),
        idle: seconds(peer.idle(now)),
        sendq: peer.counters.sendq.load(Relaxed) as u64,
        rtt: peer.counters.rtt().map(seconds),
        tls: peer.tls.map(|version| version.as_str().to_owned()),
        alpn: peer.alpn.map(|alpn| alpn.as_str().to_owned()),
        origin: text(&peer.origin),
        agent: text(&peer.agent),
        dialect: peer.dialect.as_str().into(),
        messages_in: peer.counters.frames_in.load(Relaxed),
        messages_out: peer.counters.frames_out.load(Relaxed),
        in_bytes: peer.counters.bytes_in.load(Relaxed),
        out_bytes: peer.counters.bytes_out.load(Relaxed),
        resumed: view.resumed,
        token_exp: view.token_exp.map(time),
        roles: if view.moderator { vec![api::MODERATOR.into()] } else { Vec::new() },
    }
}
