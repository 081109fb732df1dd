//! Stored messages: pages of them, and following a room as it grows.

use std::sync::Arc;
use std::time::Duration;

use serde_json::value::RawValue;
use tokio::sync::broadcast;
use tokio::sync::broadcast::error::RecvError;
use tokio::time::{Instant, sleep, sleep_until};

use super::{Desk, Outcome, Trouble};
use crate::admin::{Admin, AdminError, Event, EventKind, HISTORY_PAGE, HistoryPage};
use crate::chat::event::{HistoryRange, LogFailure};
use crate::chat::id::{RoomName, Seq};
use crate::control::protocol::{self as api, Refusal};
use crate::control::server::Replies;
use crate::control::values::{bad, room_name};
use crate::control::wire::Parameters;
use crate::wire::json;

/// Entries that are shown where nobody says how many.
const USUAL: u64 = 50;
/// A follower looks for new entries as often as this, whatever it was told of: an event that was
/// missed is found out by the next look.
const LOOK: Duration = Duration::from_secs(1);
/// Between two looks of a follower: a busy room is read in pages, not message by message.
const PACE: Duration = Duration::from_millis(20);

/// A page with its entries as the text of their frames.
pub(in crate::control) type Page = api::HistoryPage<Box<RawValue>>;

impl Desk<'_> {
    pub(super) async fn history(&self, mut with: Parameters, replies: &mut Replies) -> Result<Outcome, Trouble> {
        let room = room_name("room", &with.need::<String>("room")?)?;
        let before: Option<u64> = with.take("before")?;
        let after: Option<u64> = with.take("after")?;
        let limit: Option<u64> = with.take("limit")?;
        let follow: bool = with.take("follow")?.unwrap_or(false);
        with.end()?;
        match (before, after) {
            (Some(before), Some(_)) => return Err(bad("before", before, "only one of before and after").into()),
            (Some(before), None) if follow => {
                return Err(bad("before", before, "none: it does not go with follow").into());
            }
            (None, Some(_)) if follow && limit.is_some() => {
                return Err(bad("limit", limit.unwrap_or_default(), "none: follow tells everything after a seq").into());
            }
            _ => {}
        }
        if !replies.more() {
            return Err(Refusal::ExpectedMore {}.into());
        }
        if replies.oneway() {
            return Ok(Outcome::Answered);
        }
        // Heard from before the first look, so that nothing falls between the two.
        let events = follow.then(|| self.admin.events());
        let ends = self.read(&room, HistoryRange::Latest, 1).await?;
        let limit = limit.unwrap_or(USUAL);
        // From here (exclusive) to there (inclusive). The numbers that are kept have no holes.
        let to = before.map_or(ends.head, |before| before.saturating_sub(1).min(ends.head));
        let from = after.unwrap_or_else(|| to.saturating_sub(limit).max(ends.first.saturating_sub(1)));
        if let Some(events) = events {
            let following = Following {
                admin: self.admin.clone(),
                room,
                epoch: ends.epoch,
                cursor: from.min(ends.head),
                events,
                begun: false,
                behind: true,
            };
            return Ok(Outcome::Follow(following));
        }
        let older = after.is_none() && from >= ends.first;
        self.pages(&room, ends, (from, to), (limit, older), replies).await?;
        Ok(Outcome::Answered)
    }

    /// Entries after `from` up to `to`, no more than the limit. `older`: the limit has kept back
    /// others in front of them.
    async fn pages(
        &self,
        room: &RoomName,
        ends: HistoryPage,
        (from, to): (Seq, Seq),
        (limit, older): (u64, bool),
        replies: &mut Replies,
    ) -> Result<(), Trouble> {
        // What is gone is not kept back by the limit.
        let (mut cursor, mut left) = (from.max(ends.first.saturating_sub(1)), limit);
        let epoch = ends.epoch.clone();
        loop {
            let want = u64::from(HISTORY_PAGE).min(left).min(to.saturating_sub(cursor));
            let mut page = match u32::try_from(want) {
                Ok(want) if want > 0 => self.read(room, HistoryRange::After(cursor), want).await?,
                _ => HistoryPage { entries: Vec::new(), ..ends.clone() },
            };
            // Where the stream has begun anew meanwhile, the rest of the old one is gone.
            let same = page.epoch == epoch;
            page.entries.retain(|entry| same && entry.seq <= to);
            // Where nothing has come of what was asked for, there is nothing up to the end.
            let nothing = if want > 0 { to.max(cursor) } else { cursor };
            cursor = page.entries.last().map_or(nothing, |entry| entry.seq);
            left = left.saturating_sub(page.entries.len() as u64);
            let newer = left == 0 && cursor < to;
            let page = shown(room, &page, older || newer);
            if cursor >= to || left == 0 {
                return Ok(replies.last(&page).await?);
            }
            replies.part(&page).await?;
        }
    }

    pub(super) async fn read(&self, room: &RoomName, range: HistoryRange, limit: u32) -> Result<HistoryPage, Trouble> {
        let read = self.admin.history(room.clone(), range, limit).await?;
        read.map_err(|failure| unreadable(failure, room).into())
    }
}

/// Why a room's history cannot be read.
pub(super) fn unreadable(failure: LogFailure, room: &RoomName) -> Refusal {
    match failure {
        LogFailure::NoSuchRoom => Refusal::NoSuchRoom { room: room.to_string() },
        other => Refusal::HistoryUnavailable { reason: other.to_string() },
    }
}

fn shown(room: &RoomName, page: &HistoryPage, more: bool) -> Page {
    api::HistoryPage {
        room: room.to_string(),
        epoch: page.epoch.to_string(),
        first: page.first,
        head: page.head,
        entries: page.entries.iter().map(|entry| json::entry(room, entry)).collect(),
        more,
    }
}

/// A room that is followed: what has been told of it, and who says that there is more.
pub(in crate::control) struct Following {
    admin: Admin,
    room: RoomName,
    epoch: Arc<str>,
    /// The last entry that has been told.
    cursor: Seq,
    events: broadcast::Receiver<Arc<Event>>,
    /// The first page has been given out; it may be empty.
    begun: bool,
    /// There may be entries after the cursor.
    behind: bool,
}

impl Following {
    /// The next page, however long it takes; `None`: the daemon is stopping. It reads only when it
    /// is asked for more, so a follower that is slow holds nothing but its place.
    pub(in crate::control) async fn next(&mut self) -> Option<Page> {
        loop {
            if !self.behind {
                self.wait().await;
            }
            let range = HistoryRange::After(self.cursor);
            let page = match self.admin.history(self.room.clone(), range, HISTORY_PAGE).await {
                Ok(Ok(page)) => page,
                Err(AdminError::Stopping) => return None,
                // Perhaps at the next look. A room that has gone may come back, as another stream.
                Ok(Err(_)) | Err(AdminError::Busy | AdminError::TimedOut) => {
                    self.behind = false;
                    continue;
                }
            };
            if page.epoch != self.epoch {
                (self.epoch, self.cursor) = (page.epoch, 0);
                self.behind = true;
                continue;
            }
            self.behind = page.more;
            let last = page.entries.last().map(|entry| entry.seq);
            // Where the next one has been taken away, the follower hears that from `first`.
            let gone = page.first.saturating_sub(1);
            if last.is_some() || gone > self.cursor || !self.begun {
                self.cursor = last.unwrap_or(self.cursor.max(gone));
                self.begun = true;
                return Some(shown(&self.room, &page, false));
            }
        }
    }

    /// Until there is reason to look.
    async fn wait(&mut self) {
        let deadline = Instant::now() + LOOK;
        loop {
            tokio::select! {
                heard = self.events.recv() => match heard {
                    Ok(event) if !self.concerns(&event) => {}
                    Ok(_) | Err(RecvError::Lagged(_)) => break,
                    // Nobody tells any more; there is still the clock.
                    Err(RecvError::Closed) => return sleep_until(deadline).await,
                },
                () = sleep_until(deadline) => return,
            }
        }
        sleep(PACE).await;
        // The look that follows sees all that these tell of.
        for _ in 0..self.events.len() {
            // What was missed is seen as well.
            let _ = self.events.try_recv();
        }
    }

    fn concerns(&self, event: &Event) -> bool {
        matches!(event.kind, EventKind::Message | EventKind::Delete) && event.room.as_ref() == Some(&self.room)
    }
}
