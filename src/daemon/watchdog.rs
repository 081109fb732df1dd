//! Feeding systemd's watchdog: only what has been seen to live is said to live.
//!
//! It owns the question to the hub and the workers, not how systemd is told.

use std::time::Duration;

use tokio::sync::{mpsc, oneshot};
use tokio::time::{MissedTickBehavior, interval, timeout};

use crate::hub::Order;
use crate::hub::link::ToWorker;
use crate::state::{Phase, State};

/// Calls `feed` once in each period of `every`, after the hub and every one of the `workers` have
/// answered within it. Returns when the hub is gone, or a worker before the daemon stops.
pub(super) async fn watch(
    every: Duration,
    hub: mpsc::Sender<Order>,
    workers: usize,
    state: State,
    mut feed: impl FnMut(),
) {
    let mut ticks = interval(every);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let answers = async {
            for index in 0..workers {
                let (answer, answered) = oneshot::channel();
                hub.send(Order::Worker(index, ToWorker::Alive(answer))).await.ok()?;
                // A worker ends before the others when it has nobody left to say goodbye to.
                answered.await.ok().or_else(|| (state.phase() >= Phase::Stopping).then_some(()))?;
            }
            Some(())
        };
        match timeout(every, answers).await {
            Ok(Some(())) => feed(),
            Ok(None) => return,
            Err(_) => tracing::error!("the hub or a worker has not answered for {every:?}: the watchdog is not fed"),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::sync::{Arc, Mutex};

    use tokio::task::JoinHandle;
    use tokio::time::sleep;

    use super::*;

    const EVERY: Duration = Duration::from_secs(15);
    const WORKERS: usize = 3;

    /// What a worker does with the question whether it is alive.
    #[derive(Clone, Copy)]
    enum Worker {
        Answers,
        Hangs,
        Ended,
    }

    /// A watch over workers that do as they are told, on a clock that runs by itself.
    struct Watched {
        fed: Arc<AtomicUsize>,
        workers: Arc<Mutex<[Worker; WORKERS]>>,
        state: State,
        watch: JoinHandle<()>,
    }

    impl Watched {
        fn begin() -> (Self, mpsc::Receiver<Order>) {
            let (hub, orders) = mpsc::channel(1);
            let (fed, state) = (Arc::new(AtomicUsize::new(0)), State::default());
            state.advance(Phase::Serving);
            let counter = fed.clone();
            let feed = move || {
                counter.fetch_add(1, Ordering::Relaxed);
            };
            let watch = tokio::spawn(watch(EVERY, hub, WORKERS, state.clone(), feed));
            (Watched { fed, workers: Arc::new(Mutex::new([Worker::Answers; WORKERS])), state, watch }, orders)
        }

        fn with_hub() -> Self {
            let (watched, mut orders) = Watched::begin();
            let workers = watched.workers.clone();
            tokio::spawn(async move {
                let mut hanging = Vec::new();
                while let Some(order) = orders.recv().await {
                    let Order::Worker(index, ToWorker::Alive(answer)) = order else { panic!("{order:?}") };
                    match workers.lock().unwrap()[index] {
                        // The watch may have given up waiting.
                        Worker::Answers => drop(answer.send(())),
                        Worker::Hangs => hanging.push(answer),
                        Worker::Ended => drop(answer),
                    }
                }
            });
            watched
        }

        fn set(&self, index: usize, worker: Worker) {
            self.workers.lock().unwrap()[index] = worker;
        }

        /// How often it is fed in so many periods.
        async fn fed_in(&self, periods: u32) -> usize {
            let before = self.fed.load(Ordering::Relaxed);
            sleep(EVERY * periods).await;
            self.fed.load(Ordering::Relaxed) - before
        }
    }

    #[tokio::test(start_paused = true)]
    async fn it_is_fed_while_all_answer() {
        let watched = Watched::with_hub();
        sleep(EVERY / 2).await;
        assert_eq!(watched.fed.load(Ordering::Relaxed), 1, "the first time at once");
        assert_eq!(watched.fed_in(10).await, 10);
    }

    #[tokio::test(start_paused = true)]
    async fn it_is_not_fed_while_any_one_worker_hangs() {
        for index in 0..WORKERS {
            let watched = Watched::with_hub();
            sleep(EVERY / 2).await;
            watched.set(index, Worker::Hangs);
            assert_eq!(watched.fed_in(10).await, 0, "worker {index}");
            watched.set(index, Worker::Answers);
            assert!(watched.fed_in(10).await >= 8, "worker {index} is back");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn it_is_not_fed_while_the_hub_hangs() {
        let (watched, orders) = Watched::begin();
        assert_eq!(watched.fed_in(10).await, 0);
        assert!(!watched.watch.is_finished(), "it may come back");
        drop(orders);
        watched.watch.await.unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn a_worker_may_end_in_a_stop_and_never_else() {
        let watched = Watched::with_hub();
        sleep(EVERY / 2).await;
        watched.state.advance(Phase::Stopping);
        watched.set(1, Worker::Ended);
        assert_eq!(watched.fed_in(10).await, 10);

        // A drain ends connections, not workers.
        for phase in [Phase::Serving, Phase::Draining] {
            let watched = Watched::with_hub();
            sleep(EVERY / 2).await;
            watched.state.advance(phase);
            watched.set(1, Worker::Ended);
            assert_eq!(watched.fed_in(10).await, 0, "{phase:?}");
            watched.watch.await.unwrap();
        }
    }
}
