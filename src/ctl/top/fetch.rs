//! Asks the daemon, on threads of its own: the screen never waits for it.

use std::sync::mpsc::{Receiver, SyncSender};
use std::thread;
use std::time::Instant;

use super::Heard;
use super::model::{LISTED, Question};
use super::snapshot::{Snapshot, Totals};
use crate::control::protocol::{self as api, Refusal};
use crate::ctl::client::Daemon;
use crate::ctl::commands::control;
use crate::ctl::failure::Failure;

/// How a connection is made; more than one thread does it.
pub type Connect = dyn Fn() -> Result<Daemon, Failure> + Send + Sync;

/// One who asks over and over, and connects again when that fails.
struct Asker {
    begun: Instant,
    daemon: Option<Daemon>,
    /// An older daemon has no `Stats`.
    stats: bool,
}

/// Answers each question once, in order, until nobody asks any more.
pub fn spawn(
    daemon: Daemon,
    connect: std::sync::Arc<Connect>,
    begun: Instant,
    questions: Receiver<Question>,
    tell: SyncSender<Heard>,
) {
    let mut asker = Asker { begun, daemon: Some(daemon), stats: true };
    thread::spawn(move || {
        for question in questions {
            let answer = asker.ask(&question, &*connect);
            if answer.is_err() {
                // Whatever it was, a new connection begins in order.
                asker.daemon = None;
            }
            if tell.send(Heard::Answer(answer.map(Box::new).map_err(|failure| failure.to_string()))).is_err() {
                return;
            }
        }
    });
}

impl Asker {
    fn ask(&mut self, question: &Question, connect: &Connect) -> Result<Snapshot, Failure> {
        let daemon = match &mut self.daemon {
            Some(daemon) => daemon,
            none => {
                self.stats = true;
                none.insert(connect()?)
            }
        };
        let status: api::Status = daemon.call(&control("Status"), api::Nothing {})?;
        let mut totals = None;
        if self.stats {
            match daemon.call::<_, api::Stats>(&control("Stats"), api::AskStats::default()) {
                Ok(stats) => totals = Some(Totals::of(&stats)),
                Err(Failure::Refused(Refusal::MethodNotFound { .. })) => self.stats = false,
                Err(failure) => return Err(failure),
            }
        }
        let busiest = api::ListRooms {
            sort: Some("rate".into()),
            descending: Some(true),
            limit: Some(LISTED),
            ..api::ListRooms::default()
        };
        let rooms: api::Rooms = daemon.call(&control("ListRooms"), busiest)?;
        let list = api::ListClients {
            filter: question.filter.clone(),
            limit: Some(LISTED),
            sort: Some(question.sort.key().into()),
            descending: Some(question.descending),
            ..api::ListClients::default()
        };
        let mut pages = daemon.stream(&control("ListClients"), list)?;
        let mut clients = api::Clients { clients: Vec::new(), matched: 0 };
        while let Some(page) = pages.next::<api::Clients>()? {
            clients.matched = page.matched;
            clients.clients.extend(page.clients);
        }
        let watched = match question.watch.filter(|id| !clients.clients.iter().any(|client| client.id == *id)) {
            None => None,
            Some(id) => match daemon.call::<_, api::OneClient>(&control("ShowClient"), api::ShowClient { id }) {
                Ok(found) => Some((id, Some(found.client))),
                Err(Failure::Refused(Refusal::NoSuchClient { .. })) => Some((id, None)),
                Err(failure) => return Err(failure),
            },
        };
        let api::Clients { clients, matched } = clients;
        Ok(Snapshot { at: self.begun.elapsed(), status, totals, rooms: rooms.rooms, clients, matched, watched })
    }
}

/// Kicks on a connection of its own: it may take seconds until the socket is closed.
pub fn kick(id: u64, who: String, connect: std::sync::Arc<Connect>, tell: SyncSender<Heard>) {
    thread::spawn(move || {
        let request = api::Kick { ids: vec![id], ..api::Kick::default() };
        let kicked = connect().and_then(|mut daemon| daemon.call::<_, api::Kicked>(&control("Kick"), request));
        let outcome = match kicked {
            Ok(kicked) if kicked.done == 1 => format!("kicked {who}: closed with 4003"),
            Ok(kicked) => match kicked.failed.first() {
                Some(failed) => format!("{who} was not kicked: {}", failed.error),
                None => format!("{who} was not kicked: it has gone already"),
            },
            Err(failure) => format!("{who} was not kicked: {failure}"),
        };
        // The screen may be gone meanwhile.
        let _ = tell.send(Heard::Kicked(outcome));
    });
}
