//! A drain: everybody who is connected is asked to go, evenly over a time and in a random order.
//!
//! It owns the pace and the order, and what is told of both. Who is there, echoes included, the
//! workers know, and they close; that newcomers are refused follows from the daemon's state. It goes
//! on by itself, whoever has begun it.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use rand::seq::SliceRandom;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, sleep_until};

use crate::admin::{DrainView, PORTION, PORTION_PAUSE};
use crate::chat::event::Close;
use crate::chat::id::ConnId;
use crate::hub::Order;
use crate::hub::link::ToWorker;
use crate::net::gate::Gate;
use crate::pace::Pace;

/// How often it is told how many are left.
const LOOK: Duration = Duration::from_millis(100);

/// A drain under way, or over with nobody left. Dropped, it stops asking people away.
pub(super) struct Drain {
    /// Tells how far it is to those who wait for it, whoever gave it another pace meanwhile.
    tell: watch::Sender<DrainView>,
    gate: Arc<Gate>,
    task: JoinHandle<()>,
}

/// What a drain needs of the daemon.
pub(super) struct Means {
    pub gate: Arc<Gate>,
    pub hub: mpsc::Sender<Order>,
    pub workers: usize,
}

impl Drain {
    /// Newcomers must be refused already. `before`: the drain that this one goes on with at another
    /// pace.
    pub(super) fn begin(means: Means, over: Duration, close: Close, before: Option<Drain>) -> Self {
        let (left, until) = (means.gate.clients() as u64, SystemTime::now() + over);
        let tell = match before {
            Some(before) => before.tell.clone(),
            None => watch::Sender::new(DrainView { matched: left, left, until }),
        };
        tell.send_modify(|view| *view = DrainView { matched: view.matched.max(left), left, until });
        let gate = means.gate.clone();
        let task = tokio::spawn(empty(means, Instant::now(), over, close, tell.clone()));
        Drain { tell, gate, task }
    }

    /// As of now.
    pub(super) fn view(&self) -> DrainView {
        DrainView { left: self.gate.clients() as u64, ..self.tell.borrow().clone() }
    }

    /// Each change of it, for as long as there is this drain.
    pub(super) fn watch(&self) -> watch::Receiver<DrainView> {
        self.tell.subscribe()
    }

    /// Nobody else is asked away after this.
    pub(super) fn halt(&self) {
        self.task.abort();
    }

    /// Halts, and lets go of everything.
    pub(super) async fn stop(mut self) -> DrainView {
        self.halt();
        // It holds an end of the hub's queue; afterwards it does not.
        let _ = (&mut self.task).await;
        let view = self.view();
        // What those who wait for it see last is what came of it.
        self.tell.send_replace(view.clone());
        view
    }
}

impl Drop for Drain {
    fn drop(&mut self) {
        self.halt();
    }
}

/// Asks everybody away, and ends once they have gone.
async fn empty(means: Means, begun: Instant, over: Duration, close: Close, tell: watch::Sender<DrainView>) {
    let asking = async {
        // The hub is gone only when the daemon ends.
        let _ = ask_away(&means, begun, over, &close).await;
    };
    let counting = async {
        loop {
            let left = means.gate.clients() as u64;
            tell.send_if_modified(|view| std::mem::replace(&mut view.left, left) != left);
            if left == 0 {
                return;
            }
            sleep(LOOK).await;
        }
    };
    tokio::pin!(asking, counting);
    tokio::select! {
        () = &mut counting => {}
        () = &mut asking => counting.await,
    }
    tracing::info!(matched = tell.borrow().matched, "drained: nobody is left; newcomers are refused until a resume");
}

/// `None`: the daemon ends.
async fn ask_away(means: &Means, begun: Instant, over: Duration, close: &Close) -> Option<()> {
    let mut everyone = Vec::new();
    for worker in 0..means.workers {
        let (answer, here) = oneshot::channel();
        means.hub.send(Order::Worker(worker, ToWorker::WhoIsHere(answer))).await.ok()?;
        everyone.extend(here.await.ok()?.into_iter().map(|id| (worker, id)));
    }
    everyone.shuffle(&mut rand::rng());
    let pace = Pace::new(everyone.len() as u64, over);
    let mut asked = 0;
    while let Some(rest) = everyone.get(asked..).filter(|rest| !rest.is_empty()) {
        sleep_until(begun + pace.moment(asked as u64 + 1)).await;
        let due = usize::try_from(pace.due(begun.elapsed())).unwrap_or(usize::MAX).saturating_sub(asked);
        let portion = &rest[..due.min(PORTION).min(rest.len())];
        for (worker, ids) in by_worker(portion, means.workers) {
            let order = ToWorker::Dismiss { ids, close: close.clone() };
            means.hub.send(Order::Worker(worker, order)).await.ok()?;
        }
        asked += portion.len();
        sleep(PORTION_PAUSE).await;
    }
    Some(())
}

fn by_worker(portion: &[(usize, ConnId)], workers: usize) -> impl Iterator<Item = (usize, Vec<ConnId>)> {
    let mut split = vec![Vec::new(); workers];
    for (worker, id) in portion {
        split[*worker].push(*id);
    }
    split.into_iter().enumerate().filter(|(_, ids)| !ids.is_empty())
}

#[cfg(test)]
mod tests {
    //! Under a clock that runs by itself.

    use std::collections::HashMap;
    use std::sync::Mutex;

    use super::*;
    use crate::net::gate::GateLimits;
    use crate::wire::close;

    const WORKERS: usize = 3;

    /// When how many were asked to go, and of which worker they are.
    type Asked = Arc<Mutex<Vec<(Duration, usize, usize)>>>;

    /// So many connections, which close at once when they are asked to.
    fn crowd(count: u64) -> (Means, Asked) {
        let gate = Gate::new(GateLimits {
            sockets: usize::MAX,
            clients: usize::MAX,
            clients_per_ip: usize::MAX,
            handshakes_per_s: 1.0,
        });
        let mut places: HashMap<ConnId, _> =
            (0..count).map(|id| (ConnId(id), gate.client(None, false).expect("no limit"))).collect();
        let (hub, mut orders) = mpsc::channel(4);
        let asked = Asked::default();
        let (record, begun) = (asked.clone(), Instant::now());
        tokio::spawn(async move {
            while let Some(Order::Worker(worker, order)) = orders.recv().await {
                match order {
                    ToWorker::WhoIsHere(answer) => {
                        let ids = (0..count).filter(|id| id % WORKERS as u64 == worker as u64);
                        answer.send(ids.map(ConnId).collect()).expect("it waits");
                    }
                    ToWorker::Dismiss { ids, close } => {
                        assert_eq!(close, close::DRAINING.close());
                        record.lock().unwrap().push((begun.elapsed(), worker, ids.len()));
                        for id in ids {
                            assert_eq!(id.0 % WORKERS as u64, worker as u64);
                            places.remove(&id).expect("asked once");
                        }
                    }
                    other => panic!("{other:?}"),
                }
            }
        });
        (Means { gate, hub, workers: WORKERS }, asked)
    }

    async fn until_empty(drain: &Drain) {
        drain.watch().wait_for(|view| view.left == 0).await.expect("the drain lives");
    }

    #[tokio::test(start_paused = true)]
    async fn evenly_over_the_time_and_over_the_workers() {
        let (means, asked) = crowd(1000);
        let over = Duration::from_secs(60);
        let drain = Drain::begin(means, over, close::DRAINING.close(), None);
        until_empty(&drain).await;
        let (pace, mut done, mut of) = (Pace::new(1000, over), 0, [0; WORKERS]);
        for (at, worker, count) in asked.lock().unwrap().iter() {
            done += *count as u64;
            of[*worker] += count;
            // The timer's granularity is a millisecond.
            assert!(done <= pace.due(*at + Duration::from_millis(2)), "{done} after {at:?}");
            assert!(done + 3 >= pace.due(*at), "{done} only after {at:?}");
            if done == 100 {
                assert!(of.iter().all(|count| (10..60).contains(count)), "{of:?}");
            }
        }
        assert_eq!((done, drain.view().done()), (1000, 1000));
    }

    #[tokio::test(start_paused = true)]
    async fn at_once_is_in_portions() {
        let (means, asked) = crowd(1000);
        let drain = Drain::begin(means, Duration::ZERO, close::DRAINING.close(), None);
        until_empty(&drain).await;
        let mut portions: HashMap<Duration, usize> = HashMap::new();
        for (at, _, count) in asked.lock().unwrap().iter() {
            *portions.entry(*at).or_default() += count;
        }
        assert_eq!(portions.len(), 1000_usize.div_ceil(PORTION));
        assert!(portions.values().all(|count| *count <= PORTION), "{portions:?}");
        let mut moments: Vec<&Duration> = portions.keys().collect();
        moments.sort_unstable();
        assert!(moments.windows(2).all(|two| *two[1] - *two[0] >= PORTION_PAUSE), "{moments:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn at_another_pace_it_is_the_same_drain() {
        let (means, asked) = crowd(300);
        // The crowd is there for as long as the hub has somebody who orders.
        let _orders = means.hub.clone();
        let again = || Means { gate: means.gate.clone(), hub: means.hub.clone(), workers: 0 };
        let mut slow = Drain::begin(again(), Duration::from_secs(3600), close::DRAINING.close(), None);
        let mut waiting = slow.watch();
        // Without workers nobody is asked, however long it takes.
        sleep(Duration::from_secs(7200)).await;
        assert!(asked.lock().unwrap().is_empty());
        slow = Drain::begin(means, Duration::from_secs(10), close::DRAINING.close(), Some(slow));
        let view = waiting.wait_for(|view| view.left < 300).await.expect("the same drain").clone();
        assert_eq!(view.matched, 300);
        let told = asked.lock().unwrap().len();
        let left = slow.stop().await;
        assert!(left.left > 0 && left.done() > 0, "{left:?}");
        sleep(Duration::from_secs(60)).await;
        assert!(asked.lock().unwrap().len() <= told + WORKERS, "nobody else");
        assert!(waiting.wait_for(|_| false).await.is_err(), "who waits learns that it is over");
    }
}
