//! A slot: takes a batch, has its worker do it, hands back.

use std::{
    any::Any,
    collections::VecDeque,
    future::poll_fn,
    panic::{AssertUnwindSafe, catch_unwind},
    pin::pin,
    sync::{Arc, PoisonError, atomic::Ordering},
    task::Poll,
    time::Duration,
};

use futures_util::FutureExt;
use ganger_core::{DynWorker, JobContext, SlotContext, StopReason, WorkerError};
use tokio::time::timeout;

use super::{
    Pool,
    board::Board,
    feed::{SlotFeed, release},
    thread::run_thread_slot,
    watch::Watch,
};
use crate::house::{House, Phase};

/// How long a worker value may take to be made.
const CREATE_LIMIT: Duration = Duration::from_secs(30);

/// The waits between attempts to make a worker that cannot be made.
const SICK_WAIT_MIN: Duration = Duration::from_millis(200);
pub(super) const SICK_WAIT_MAX: Duration = Duration::from_secs(5);

/// Starts all slots of a pool.
pub(crate) fn start_slots(pool: &Arc<Pool>, house: &Arc<House>) {
    pool.each_board(|slot, board| start_slot(pool, house, slot, board.clone()));
}

/// Starts one slot, at a board of its own.
pub(super) fn start_slot(pool: &Arc<Pool>, house: &Arc<House>, slot: u32, board: Arc<Board>) {
    let (pool, house) = (pool.clone(), house.clone());
    let spawn = pool.spawner();
    let (watched, signs) = (house.clone(), board.clone());
    // A runtime lives as long as a slot is on it, also when its pool has moved.
    let here = spawn.clone();
    spawn.spawn(Box::pin(async move {
        let _here = here;
        let work = async {
            if pool.traits.blocking {
                run_thread_slot(pool, house, slot, board).await;
            } else {
                run_slot(pool, house, slot, board).await;
            }
        };
        let mut work = pin!(watched.guarded("a slot", work));
        poll_fn(|cx| {
            signs.sign(cx.waker());
            work.as_mut().poll(cx)
        })
        .await;
        signs.keep(false);
        watched.worker_is_gone();
    }));
}

/// Starts the slot again where the pool's tasks run now.
pub(super) fn restart(pool: &Arc<Pool>, house: &Arc<House>, slot: u32) {
    let board = Arc::new(Board::new(pool.moves.load(Ordering::Acquire)));
    *pool.boards[slot as usize].lock().unwrap_or_else(PoisonError::into_inner) = board.clone();
    start_slot(pool, house, slot, board);
    // Whatever was on the old board is nobody's to wait for.
    house.worker_is_gone();
}

/// How the worker's part of a batch ended.
enum End {
    Finished,
    /// The value cannot go on.
    Broken(WorkerError),
    Panicked(String),
    /// The run did not stop by itself.
    CutOff(StopReason),
}

async fn run_slot(pool: Arc<Pool>, house: Arc<House>, slot: u32, board: Arc<Board>) {
    let mut worker: Option<Box<dyn DynWorker>> = None;
    let (mut batch, mut rest) = (VecDeque::new(), VecDeque::new());
    while poll_fn(|cx| pool.poll_take(slot, &board, &mut batch, cx.waker())).await.is_some() {
        let single = batch.len() == 1;
        pool.fence_overdue(&batch, house.clock.monotonic());
        board.load(&mut batch);
        let able = match worker.take() {
            Some(able) => Some(able),
            None => make(&pool, &house, slot, &board).await,
        };
        let Some(mut able) = able else { continue };
        if !board.is_busy() {
            board.keep(true);
            worker = Some(able);
            continue;
        }
        let mut feed = SlotFeed::new(&house, &pool, &board, slot, single);
        let (end, waited) = drive(&mut *able, &mut feed, &board, &pool, &mut rest).await;
        match end {
            End::Finished => {
                feed.unanswered();
                worker = Some(able);
            }
            other => {
                part_with(&pool, able, &mut feed, other);
            }
        }
        let ended = feed.finish();
        board.take_all(&mut rest);
        if !rest.is_empty() {
            pool.give_back(&mut rest);
            release(&pool, rest.drain(..), house.clock.wall());
        }
        if board.ended() {
            pool.finished(ended.runs, ended.nanos, waited, ended.now);
        }
        if board.is_retired() {
            return;
        }
        if pool.moves.load(Ordering::Acquire) != board.epoch {
            return restart(&pool, &house, slot);
        }
        // A worker that never waits must not keep the others of its thread from theirs.
        if !waited {
            tokio::task::yield_now().await;
        }
    }
    if let Some(able) = worker.filter(|_| !board.is_retired()) {
        close(&pool, &house, able).await;
    }
}

/// Has a worker end what it kept for jobs to come, for as long as the manager's grace lasts.
async fn close(pool: &Pool, house: &House, mut worker: Box<dyn DynWorker>) {
    let closing = AssertUnwindSafe(async { worker.close().await }).catch_unwind();
    let closed = tokio::select! {
        biased;
        closed = closing => closed,
        () = house.reached(Phase::Hurry) => Ok(()),
    };
    if let Err(panic) = closed {
        tracing::warn!("type" = %pool.kind, panic = %panic_text(&*panic), "a worker panicked while it was closed");
    }
    drop_quietly(worker);
}

/// Takes note of a run that did not return, and drops its worker.
fn part_with(pool: &Pool, worker: Box<dyn DynWorker>, feed: &mut SlotFeed<'_>, end: End) {
    match end {
        End::Finished => {}
        End::Broken(error) => {
            tracing::info!("type" = %pool.kind, %error, "a worker is made anew");
            feed.unanswered();
        }
        End::Panicked(message) => feed.panicked(message),
        End::CutOff(reason) => feed.cut_off(reason),
    }
    drop_quietly(worker);
}

/// Drops a value of a plugin's whose drop may panic.
pub(super) fn drop_quietly<T>(value: T) {
    if let Err(panic) = catch_unwind(AssertUnwindSafe(|| drop(value))) {
        tracing::warn!(panic = %panic_text(&*panic), "a worker panicked while it was dropped");
    }
}

/// A panic's message.
pub(crate) fn panic_text(panic: &(dyn Any + Send)) -> String {
    panic
        .downcast_ref::<&str>()
        .map(|text| (*text).to_owned())
        .or_else(|| panic.downcast_ref::<String>().cloned())
        .unwrap_or_else(|| "no message".to_owned())
}

/// Has the worker do the batch, watching over every run of it that waits.
async fn drive(
    worker: &mut dyn DynWorker,
    feed: &mut SlotFeed<'_>,
    board: &Arc<Board>,
    pool: &Pool,
    rest: &mut VecDeque<JobContext>,
) -> (End, bool) {
    let mut watch = Watch::default();
    let mut run = AssertUnwindSafe(worker.run(feed)).catch_unwind();
    let end = poll_fn(|cx| match run.poll_unpin(cx) {
        Poll::Ready(Ok(Ok(()))) => Poll::Ready(End::Finished),
        Poll::Ready(Ok(Err(error))) => Poll::Ready(End::Broken(error)),
        Poll::Ready(Err(panic)) => Poll::Ready(End::Panicked(panic_text(&*panic))),
        Poll::Pending => watch.poll(cx, board, pool, rest).map(End::CutOff),
    })
    .await;
    drop_quietly(run);
    (end, watch.waited)
}

/// Makes the slot's worker. When it cannot be made, the jobs go back and the pool rests until it can.
async fn make(pool: &Arc<Pool>, house: &Arc<House>, slot: u32, board: &Board) -> Option<Box<dyn DynWorker>> {
    let error = match create(pool, slot).await {
        Ok(worker) => return Some(worker),
        Err(error) => error,
    };
    tracing::error!("type" = %pool.kind, %error, "a worker cannot be made; its jobs wait");
    let key = format!("worker {}", pool.kind);
    house.health.off(&key, format!("worker `{}` cannot be made: {error}", pool.kind));
    let mut batch = VecDeque::new();
    board.take_rest(&mut batch);
    batch.extend(pool.set_sick(true));
    release(pool, batch, house.clock.wall());
    let mut wait = SICK_WAIT_MIN;
    let made = loop {
        tokio::select! {
            biased;
            () = house.stopping() => break None,
            () = tokio::time::sleep(wait) => {}
        }
        wait = (wait * 2).min(SICK_WAIT_MAX);
        if let Ok(worker) = create(pool, slot).await {
            break Some(worker);
        }
    };
    if board.ended() {
        pool.finished(0, 0, false, house.clock.monotonic());
    }
    pool.set_sick(false);
    house.health.on(&key);
    made
}

/// Makes a worker value; it may fail, panic or take too long.
pub(super) async fn create(pool: &Pool, slot: u32) -> Result<Box<dyn DynWorker>, WorkerError> {
    let cx = SlotContext { name: pool.kind.to_string(), slot };
    let making = AssertUnwindSafe(pool.makers.create(&cx)).catch_unwind();
    match timeout(CREATE_LIMIT, making).await {
        Ok(Ok(made)) => made,
        Ok(Err(panic)) => Err(WorkerError::new(format!("it panicked: {}", panic_text(&*panic)))),
        Err(_) => Err(WorkerError::new(format!("it took longer than {} s", CREATE_LIMIT.as_secs()))),
    }
}
