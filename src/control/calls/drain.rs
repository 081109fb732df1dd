//! Emptying the daemon of its connections, and taking that back.
//!
//! The daemon does it, whoever asked: a caller that goes away only stops watching.

use std::time::Duration;

use tokio::time::timeout;

use super::{Desk, Trouble};
use crate::admin::{Admin, DrainView};
use crate::chat::event::{Level, Target};
use crate::chat::id::breaks_a_line;
use crate::control::protocol::{self as api, Refusal, time};
use crate::control::server::Replies;
use crate::control::values::{cut, drain_over, notice_text};
use crate::control::wire::Parameters;
use crate::wire::close;

/// A caller that waits hears at least so often how far it is.
const ALIVE: Duration = Duration::from_secs(1);

impl Desk<'_> {
    /// With `more` until nobody is left, or the drain is no more; without it, one answer at once.
    pub(super) async fn drain(&self, mut with: Parameters, replies: &mut Replies) -> Result<(), Trouble> {
        let over = drain_over(with.take("over")?.unwrap_or(api::DRAIN_OVER))?;
        let notice = with.take::<String>("notice")?.map(notice_text).transpose()?;
        with.end()?;
        if let Some(text) = &notice {
            // Who is asked away first has seen it by then; who reads slowly holds it up for a moment.
            self.admin.notice(Target::Everyone, text.clone(), Level::Info).await?;
        }
        let mut changes = self.admin.drain(over, notice.as_deref().and_then(reason)).await?;
        let view = changes.borrow_and_update().clone();
        let operator = self.operator().await;
        let (uid, pid, user_name) = (self.caller.uid, self.caller.pid, operator.user_name());
        let told = notice.as_deref().map(|text| format!(", with the notice {:?}", cut(text))).unwrap_or_default();
        tracing::info!(
            uid,
            pid,
            user_name,
            what = "everyone",
            matched = view.matched,
            done = view.done(),
            "{} drains the daemon: {} of {} connections are asked to go, over {}{told}",
            operator.name(),
            view.left,
            view.matched,
            humantime::format_duration(over),
        );
        if !replies.more() || replies.oneway() {
            return Ok(replies.last(&drained(&view, self.admin)).await?);
        }
        loop {
            let view = changes.borrow_and_update().clone();
            if view.left == 0 {
                break;
            }
            replies.part(&drained(&view, self.admin)).await?;
            let changed = tokio::select! {
                changed = timeout(ALIVE, changes.changed()) => changed,
                () = self.admin.stopping() => break,
            };
            // Taken back: nobody tells of it any more.
            if matches!(changed, Ok(Err(_))) {
                break;
            }
        }
        let view = changes.borrow().clone();
        Ok(replies.last(&drained(&view, self.admin)).await?)
    }

    pub(super) async fn resume(&self, with: Parameters) -> Result<api::Resumed, Trouble> {
        with.end()?;
        let view = self.admin.resume().await?.ok_or(Refusal::NotDraining {})?;
        let operator = self.operator().await;
        let (uid, pid, user_name) = (self.caller.uid, self.caller.pid, operator.user_name());
        tracing::info!(
            uid,
            pid,
            user_name,
            what = "everyone",
            matched = view.matched,
            done = view.done(),
            "{} took the drain back: {} of {} connections had gone",
            operator.name(),
            view.done(),
            view.matched,
        );
        Ok(api::Resumed { matched: view.matched, done: view.done(), left: view.left })
    }
}

/// What those who are asked away are told, where somebody has words for them: what fits of the notice.
fn reason(notice: &str) -> Option<String> {
    let line: String = notice.chars().map(|c| if breaks_a_line(c) { ' ' } else { c }).collect();
    Some(close::reason(line.trim())).filter(|line| !line.is_empty())
}

fn drained(view: &DrainView, admin: &Admin) -> api::Drained {
    let api::DrainState { matched, done, left, until } = state(view);
    api::Drained { matched, done, left, until, state: admin.phase().as_str().into() }
}

pub(super) fn state(view: &DrainView) -> api::DrainState {
    api::DrainState { matched: view.matched, done: view.done(), left: view.left, until: time(view.until) }
}
