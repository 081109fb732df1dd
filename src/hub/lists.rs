//! Lists of clients and rooms for operators, a page at a time: what is not asked for is passed over
//! before anything is copied, and nobody's message waits for more than one page.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, SystemTime};

use super::HubTask;
use super::samples::Samples;
use crate::admin::order::{ClientKey, First, FirstPage, Place, Podium, Rank, RoomKey, Tie};
use crate::admin::{ClientPage, ClientView, Filter, RoomView};
use crate::chat::id::{ConnId, RoomId, RoomName, UserId};
use crate::chat::view::{ClientRow, RoomRow};
use crate::peer::Peer;

/// The last looks at counters, where somebody orders by how fast they go up.
#[derive(Default)]
pub(super) struct Looks {
    clients_in: Samples<ConnId>,
    clients_out: Samples<ConnId>,
    rooms: Samples<RoomId>,
}

impl Looks {
    pub(super) fn gone(&mut self, id: ConnId) {
        self.clients_in.forget(&id);
        self.clients_out.forget(&id);
    }
}

/// A filter with what it takes to look at many.
struct Wanted<'a> {
    filter: &'a Filter,
    /// Who has the nick that is asked for: folding each one's would take longer than all the rest.
    holder: Option<UserId>,
    now: SystemTime,
}

impl HubTask {
    fn wanted<'a>(&self, filter: &'a Filter) -> Wanted<'a> {
        let holder = filter.nick.as_ref().and_then(|nick| self.chat.nick_holder(nick)).cloned();
        Wanted { filter, holder, now: SystemTime::now() }
    }

    /// The connection's own, where the filter asks for it.
    fn peer_if(&self, row: &ClientRow<'_>, wanted: &Wanted<'_>) -> Option<&Arc<Peer>> {
        let Wanted { filter, holder, now } = wanted;
        let peer = &self.clients.get(&row.conn)?.peer;
        let is_wanted = filter.user.as_ref().is_none_or(|user| row.user == Some(user))
            && (filter.nick.is_none() || holder.is_some() && row.user == holder.as_ref() && row.nick.is_some())
            && filter.matches_peer(peer, *now)
            && filter.room.as_ref().is_none_or(|room| self.chat.rooms_of(row.conn).any(|name| name == room));
        is_wanted.then_some(peer)
    }

    pub(super) fn page(&self, filter: &Filter, after: ConnId, scan: usize) -> ClientPage {
        let wanted = self.wanted(filter);
        let mut rows = self.chat.clients(after);
        let mut last = None;
        let mut clients = Vec::new();
        for row in rows.by_ref().take(scan) {
            last = Some(row.conn);
            clients.extend(self.peer_if(&row, &wanted).map(|peer| self.view_of(&row, peer)));
        }
        let next = if rows.next().is_some() { last } else { None };
        ClientPage { clients, next }
    }

    /// Those of a page that come first and before `bar`.
    pub(super) fn first_clients(
        &mut self,
        filter: &Filter,
        order: First<ClientKey>,
        bar: Option<Place>,
        after: ConnId,
        scan: usize,
    ) -> FirstPage<ClientView, ConnId> {
        let mut looks = std::mem::take(&mut self.looks);
        let mono = self.started.elapsed();
        let wanted = self.wanted(filter);
        let mut rows = self.chat.clients(after);
        let (mut last, mut matched) = (None, 0);
        let mut podium = Podium::new(order.most, bar);
        for row in rows.by_ref().take(scan) {
            last = Some(row.conn);
            let Some(peer) = self.peer_if(&row, &wanted) else { continue };
            matched += 1;
            let rank = rank(order.key, &row, peer, &mut looks, wanted.now, mono);
            podium.show(Place { rank, descending: order.descending, tie: Tie::Client(row.conn) });
        }
        let next = if rows.next().is_some() { last } else { None };
        drop(rows);
        let first = podium.places().into_iter().filter_map(|place| match place.tie {
            Tie::Client(id) => Some((place, self.chat.client(id).and_then(|row| self.view(&row))?)),
            Tie::Room(_) => None,
        });
        let first = first.collect();
        self.looks = looks;
        FirstPage { first, next, matched }
    }

    pub(super) fn first_rooms(
        &mut self,
        order: First<RoomKey>,
        bar: Option<Place>,
        after: Option<&RoomName>,
        scan: usize,
    ) -> FirstPage<RoomView, RoomName> {
        let mono = self.started.elapsed();
        let mut looks = std::mem::take(&mut self.looks);
        if after.is_none() {
            looks.rooms.keep(|id| self.chat.room_name(*id).is_some());
        }
        let mut rows = self.chat.rooms_after(after);
        let (mut last, mut matched) = (None, 0);
        let mut podium = Podium::new(order.most, bar);
        for row in rows.by_ref().take(scan) {
            last = Some(row.name.clone());
            matched += 1;
            let rank = match order.key {
                RoomKey::Name => Rank::Text(row.name.as_str().into()),
                RoomKey::Users => Rank::Number(row.online as u64),
                RoomKey::Clients => Rank::Number(row.members as u64),
                RoomKey::Seq => Rank::Number(row.head),
                RoomKey::Rate => Rank::Numbers(looks.rooms.rate(row.id, row.head, None, mono), row.members as u64),
            };
            podium.show(Place { rank, descending: order.descending, tie: Tie::Room(row.name.clone()) });
        }
        let next = if rows.next().is_some() { last } else { None };
        drop(rows);
        let first = podium.places().into_iter().filter_map(|place| match &place.tie {
            Tie::Room(name) => self.chat.room(name).map(|row| (place, room_view(&row))),
            Tie::Client(_) => None,
        });
        let first = first.collect();
        self.looks = looks;
        FirstPage { first, next, matched }
    }

    pub(super) fn view(&self, row: &ClientRow<'_>) -> Option<ClientView> {
        Some(self.view_of(row, &self.clients.get(&row.conn)?.peer))
    }

    fn view_of(&self, row: &ClientRow<'_>, peer: &Arc<Peer>) -> ClientView {
        ClientView {
            peer: peer.clone(),
            user: row.user.cloned(),
            nick: row.nick.cloned(),
            rooms: self.chat.rooms_of(row.conn).cloned().collect(),
            resumed: row.resumed,
            token_exp: row.token_exp,
            moderator: row.moderator,
        }
    }
}

fn rank(key: ClientKey, row: &ClientRow<'_>, peer: &Peer, looks: &mut Looks, now: SystemTime, mono: Duration) -> Rank {
    let counters = &peer.counters;
    let begun = Some(mono.saturating_sub(peer.age(now)));
    match key {
        ClientKey::Id => Rank::Number(row.conn.0),
        ClientKey::User => row.user.map_or(Rank::Absent, |user| Rank::Text(user.as_str().into())),
        ClientKey::Nick => row.nick.map_or(Rank::Absent, |nick| Rank::Text(nick.as_str().into())),
        ClientKey::Address => Rank::Address(peer.address),
        // By when it was, which does not change from page to page.
        ClientKey::Age => Rank::Number(u64::MAX - micros(peer.since)),
        ClientKey::Idle => {
            Rank::Number(u64::MAX - micros(peer.since + Duration::from_millis(counters.heard.load(Relaxed))))
        }
        ClientKey::Sendq => Rank::Number(counters.sendq.load(Relaxed) as u64),
        ClientKey::Rtt => counters.rtt().map_or(Rank::Absent, |rtt| Rank::Number(rtt.as_micros() as u64)),
        ClientKey::In => Rank::Number(counters.frames_in.load(Relaxed)),
        ClientKey::Out => Rank::Number(counters.frames_out.load(Relaxed)),
        ClientKey::InBytes => Rank::Number(counters.bytes_in.load(Relaxed)),
        ClientKey::OutBytes => Rank::Number(counters.bytes_out.load(Relaxed)),
        ClientKey::InRate => {
            Rank::Number(looks.clients_in.rate(row.conn, counters.frames_in.load(Relaxed), begun, mono))
        }
        ClientKey::OutRate => {
            Rank::Number(looks.clients_out.rate(row.conn, counters.frames_out.load(Relaxed), begun, mono))
        }
    }
}

fn micros(at: SystemTime) -> u64 {
    let since = at.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_micros()).unwrap_or(u64::MAX)
}

pub(super) fn room_view(row: &RoomRow<'_>) -> RoomView {
    RoomView { name: row.name.clone(), users: row.online, clients: row.members, seq: row.head }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_has_gone_is_looked_at_for_the_first_time_again() {
        let (id, at) = (ConnId(1), Duration::from_secs);
        let mut looks = Looks::default();
        looks.clients_in.rate(id, 100, None, at(1));
        looks.clients_out.rate(id, 100, None, at(1));
        looks.gone(id);
        assert_eq!(looks.clients_in.rate(id, 200, None, at(10)), 0);
        assert_eq!(looks.clients_out.rate(id, 200, None, at(10)), 0);
    }
}
