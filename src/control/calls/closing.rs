//! Closing connections: in portions, at a pace where one is asked for, and what becomes of each.

use std::collections::{BTreeSet, VecDeque};
use std::io;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until};

use super::{Desk, Trouble};
use crate::admin::{CloseError, Closed, DEADLINE, PORTION, PORTION_PAUSE};
use crate::chat::event::Close;
use crate::chat::id::ConnId;
use crate::control::protocol as api;
use crate::control::server::Replies;
use crate::pace::Pace;

/// How often the caller is told how far it is, while something happens and while nothing does: the
/// telling finds out that nobody listens any more.
const TOLD: Duration = Duration::from_millis(100);
const ALIVE: Duration = Duration::from_secs(1);

/// Closing that takes its time, told as it goes on.
pub(super) struct Paced<'a> {
    pub pace: Pace,
    pub replies: &'a mut Replies,
}

/// What becomes of connections that are to be closed.
pub(super) struct Closing {
    pub kicked: api::Kicked,
    /// The caller has gone, and those whose turn had not come were left alone.
    pub caller: Option<io::Error>,
}

/// What closing turns to next.
enum Turn {
    Portion,
    /// The caller is to be told that it goes on.
    Tell,
    Closed(Closed),
    /// The daemon stops.
    Stopping,
    /// Nothing has happened for too long.
    Late,
}

impl Desk<'_> {
    /// Closes these connections, and returns once their sockets are. `named`: the caller has named each
    /// of them, and is told which are not there.
    pub(super) async fn close(
        &self,
        ids: BTreeSet<ConnId>,
        close: Close,
        named: bool,
        mut paced: Option<Paced<'_>>,
    ) -> Result<Closing, Trouble> {
        let mut kicked = api::Kicked { matched: ids.len() as u64, done: 0, failed: Vec::new(), bans: Vec::new() };
        let (reply, mut answers) = mpsc::channel(ids.len().max(1));
        // Ours is let go of with the last portion, so that the answers end when the hub does.
        let mut reply = Some(reply);
        let begun = Instant::now();
        let (mut heard, mut told, mut next) = (begun, begun, begun);
        let mut left: VecDeque<ConnId> = ids.into_iter().collect();
        let total = left.len();
        let mut waiting = BTreeSet::new();
        let mut caller = None;
        while !left.is_empty() || !waiting.is_empty() {
            if let Some(Paced { pace, .. }) = &paced {
                next = next.max(begun + pace.moment((total - left.len()) as u64 + 1));
            }
            let turn = tokio::select! {
                closed = answers.recv() => closed.map_or(Turn::Stopping, Turn::Closed),
                () = sleep_until(next), if !left.is_empty() => Turn::Portion,
                () = sleep_until(told + ALIVE), if paced.is_some() => Turn::Tell,
                () = sleep_until(heard + DEADLINE), if left.is_empty() => Turn::Late,
            };
            if let (Turn::Portion | Turn::Tell, Some(Paced { replies, .. })) = (&turn, &mut paced)
                && told.elapsed() >= TOLD
            {
                told = Instant::now();
                if let Err(error) = replies.part(&kicked).await {
                    // Nobody else is closed; those who are being closed still count.
                    (caller, paced, reply) = (Some(error), None, None);
                    left.clear();
                    continue;
                }
            }
            match turn {
                Turn::Tell => {}
                Turn::Portion => {
                    let asked = (total - left.len()) as u64;
                    let due = paced.as_ref().map_or(total as u64, |paced| paced.pace.due(begun.elapsed()));
                    let due = usize::try_from(due.saturating_sub(asked)).unwrap_or(PORTION).min(PORTION);
                    let portion: Vec<ConnId> = left.drain(..due.min(left.len())).collect();
                    waiting.extend(portion.iter().copied());
                    let to = if left.is_empty() { reply.take() } else { reply.clone() };
                    let Some(to) = to else { break };
                    if let Err(error) = self.admin.close(portion, close.clone(), to).await {
                        fail(&mut kicked, waiting.into_iter().chain(left), &error.to_string());
                        break;
                    }
                    heard = Instant::now();
                    next = heard + PORTION_PAUSE;
                }
                Turn::Closed(closed) => {
                    heard = Instant::now();
                    if !waiting.remove(&closed.id) {
                        continue;
                    }
                    match closed.result {
                        Ok(()) => kicked.done += 1,
                        Err(error @ CloseError::NotFound) => {
                            kicked.matched -= 1;
                            // Whoever a filter found and who has gone since need not be told of.
                            if named {
                                kicked.failed.push(failure(closed.id, error));
                            }
                        }
                    }
                }
                Turn::Stopping => {
                    fail(&mut kicked, std::mem::take(&mut waiting), "the daemon is stopping");
                }
                Turn::Late => {
                    let why = format!("not closed within {} s", DEADLINE.as_secs());
                    fail(&mut kicked, std::mem::take(&mut waiting), &why);
                }
            }
        }
        Ok(Closing { kicked, caller })
    }
}

fn fail(kicked: &mut api::Kicked, ids: impl IntoIterator<Item = ConnId>, why: &str) {
    kicked.failed.extend(ids.into_iter().map(|id| failure(id, why)));
}

pub(super) fn failure(id: ConnId, error: impl ToString) -> api::Failure {
    api::Failure { id: id.0, error: error.to_string() }
}
