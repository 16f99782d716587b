//! A slot of a worker that blocks: a thread of its own, and a task that watches it.
//!
//! Blocking code cannot be stopped. A run past its end is fenced and left behind with its thread, and counted;
//! the slot goes on with a new one.

use std::{
    collections::VecDeque,
    future::poll_fn,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{Arc, atomic::Ordering, mpsc},
};

use futures_util::FutureExt;
use ganger_core::{DynWorker, Feed, JobContext, JobError, Output, StopReason, WorkerError};
use tokio::{runtime::Handle, sync::oneshot, time::Instant};

use super::{
    Pool,
    board::Board,
    feed::{SlotFeed, release},
    slot::{create, drop_quietly, panic_text, restart},
    watch::{HURRIED_GRACE, grace},
};
use crate::house::House;

/// What a thread is given, and where it answers.
struct Errand {
    run: JobContext,
    answer: oneshot::Sender<Answer>,
}

/// How a run on a thread ended.
enum Answer {
    Returned(Result<Output, JobError>),
    Panicked(String),
    /// No worker could be made for it: it has not run.
    NoWorker(WorkerError),
}

pub(super) async fn run_thread_slot(pool: Arc<Pool>, house: Arc<House>, slot: u32, board: Arc<Board>) {
    let mut thread: Option<mpsc::Sender<Errand>> = None;
    let mut batch = VecDeque::new();
    while poll_fn(|cx| pool.poll_take(slot, &board, &mut batch, cx.waker())).await.is_some() {
        let single = batch.len() == 1;
        pool.fence_overdue(&batch, house.clock.monotonic());
        board.load(&mut batch);
        let mut feed = SlotFeed::new(&house, &pool, &board, slot, single);
        let mut failed_to_make = None;
        while let Some(run) = feed.next() {
            match errand(&mut thread, &pool, slot, &run).await {
                Ok(Answer::Returned(result)) => feed.done(result),
                Ok(Answer::Panicked(message)) => feed.panicked(message),
                Ok(Answer::NoWorker(error)) => {
                    feed.cut_off(StopReason::Shutdown);
                    failed_to_make = Some(error);
                    break;
                }
                Err(reason) => {
                    thread = None;
                    house.stats.abandoned.fetch_add(1, Ordering::Relaxed);
                    tracing::warn!(id = %run.id(), "type" = %pool.kind, ?reason, "a blocking run could not be stopped and is left behind");
                    feed.cut_off(reason);
                }
            }
        }
        let ended = feed.finish();
        let mut rest = VecDeque::new();
        board.take_rest(&mut rest);
        release(&pool, rest, house.clock.wall());
        // Threads are handed one job at a time: what it waits for cannot be seen.
        if board.ended() {
            pool.finished(ended.runs, ended.nanos, true, ended.now);
        }
        if let Some(error) = failed_to_make {
            rest_sick(&pool, &house, slot, &error).await;
        }
        if board.is_retired() {
            return;
        }
        if pool.moves.load(Ordering::Acquire) != board.epoch {
            return restart(&pool, &house, slot);
        }
        tokio::task::yield_now().await;
    }
}

/// The pool's workers cannot be made: waits, and lets it try again.
async fn rest_sick(pool: &Pool, house: &House, slot: u32, error: &WorkerError) {
    tracing::error!("type" = %pool.kind, %error, "a worker cannot be made; its jobs wait");
    let key = format!("worker {}", pool.kind);
    house.health.off(&key, format!("worker `{}` cannot be made: {error}", pool.kind));
    release(pool, pool.set_sick(true), house.clock.wall());
    loop {
        tokio::select! {
            biased;
            () = house.stopping() => break,
            () = tokio::time::sleep(super::slot::SICK_WAIT_MAX) => {}
        }
        if create(pool, slot).await.is_ok() {
            break;
        }
    }
    pool.set_sick(false);
    house.health.on(&key);
}

/// Has the slot's thread do one job. An error is the reason why it was left behind.
async fn errand(
    thread: &mut Option<mpsc::Sender<Errand>>,
    pool: &Arc<Pool>,
    slot: u32,
    run: &JobContext,
) -> Result<Answer, StopReason> {
    let (answer, mut answered) = oneshot::channel();
    let mut order = Errand { run: run.clone(), answer };
    loop {
        let errands = match thread {
            Some(errands) => errands,
            None => match start_thread(pool, slot) {
                Ok(started) => thread.insert(started),
                Err(error) => {
                    let error = WorkerError::new(format!("no thread for it: {error}"));
                    return Ok(Answer::NoWorker(error));
                }
            },
        };
        match errands.send(order) {
            Ok(()) => break,
            // The thread is gone: a new one takes the errand.
            Err(mpsc::SendError(back)) => {
                order = back;
                *thread = None;
            }
        }
    }
    let far = Instant::now() + std::time::Duration::from_secs(u64::from(u32::MAX));
    let deadline = run.deadline().map_or(far, Instant::from_std);
    let lost = || Answer::Panicked("its thread ended without an answer".to_owned());
    let reason = tokio::select! {
        biased;
        answer = &mut answered => return Ok(answer.unwrap_or_else(|_| lost())),
        reason = run.stop_asked() => reason,
        () = tokio::time::sleep_until(deadline) => StopReason::Timeout,
    };
    run.ask_to_stop(reason);
    // Blocking code looks now and then whether it is to stop, if at all: whether it does cannot be seen.
    let moment = if run.heeds_stop() { grace(reason, run, pool) } else { HURRIED_GRACE };
    tokio::select! {
        biased;
        answer = &mut answered => Ok(answer.unwrap_or_else(|_| lost())),
        () = tokio::time::sleep(moment) => Err(reason),
    }
}

/// Starts a thread that does one errand after the other, until its slot lets go of it.
fn start_thread(pool: &Arc<Pool>, slot: u32) -> std::io::Result<mpsc::Sender<Errand>> {
    let (errands, orders) = mpsc::channel::<Errand>();
    let (pool, handle) = (pool.clone(), Handle::current());
    let name = format!("{}-{slot}", pool.kind);
    std::thread::Builder::new().name(name).spawn(move || {
        let mut worker: Option<Box<dyn DynWorker>> = None;
        for Errand { run, answer } in orders {
            let told = do_errand(&handle, &pool, slot, &mut worker, run);
            // A slot that left the run behind does not listen any more.
            let _ = answer.send(told);
        }
        drop_quietly(worker);
    })?;
    Ok(errands)
}

fn do_errand(
    handle: &Handle,
    pool: &Pool,
    slot: u32,
    worker: &mut Option<Box<dyn DynWorker>>,
    run: JobContext,
) -> Answer {
    let mut able = match worker.take() {
        Some(able) => able,
        None => match handle.block_on(create(pool, slot)) {
            Ok(made) => made,
            Err(error) => return Answer::NoWorker(error),
        },
    };
    let mut feed = OneJob { run: Some(run), result: None };
    let ended = catch_unwind(AssertUnwindSafe(|| {
        handle.block_on(AssertUnwindSafe(able.run(&mut feed)).catch_unwind())
    }))
    .and_then(|ended| ended);
    match ended {
        Err(panic) => {
            drop_quietly(able);
            return Answer::Panicked(panic_text(&*panic));
        }
        Ok(Err(error)) => {
            tracing::info!("type" = %pool.kind, %error, "a worker is made anew");
            drop_quietly(able);
        }
        Ok(Ok(())) => *worker = Some(able),
    }
    let unanswered = || Err(JobError::retry("the worker ended without an answer for this job"));
    Answer::Returned(feed.result.unwrap_or_else(unanswered))
}

/// A batch of one.
struct OneJob {
    run: Option<JobContext>,
    result: Option<Result<Output, JobError>>,
}

impl Feed for OneJob {
    fn next(&mut self) -> Option<JobContext> {
        self.run.take()
    }
    fn done(&mut self, result: Result<Output, JobError>) {
        self.result = Some(result);
    }
}
