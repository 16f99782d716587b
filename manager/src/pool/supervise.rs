//! Looks after slots that cannot look after themselves, because a worker holds their thread.
//!
//! A batch that waits behind such a run goes back to the pool. A run that holds its thread past its timeout is
//! given up: its pool moves to a fresh runtime of its own, and the pools that shared the old one to another. Idle
//! slots move at once, the others when their batch has ended. Those that the old runtime does not carry that far
//! (all its threads are held) are given up too, their runs handed back.

use std::{
    collections::{HashMap, VecDeque},
    sync::{Arc, PoisonError, atomic::Ordering},
    time::Duration,
};

use ganger_core::{JobContext, LeaseRef, StopReason, Timestamp};
use tokio::time::Instant;

use super::{
    Pool,
    board::Board,
    feed::{cut_off, release},
    slot::restart,
    watch::grace,
};
use crate::{
    house::House,
    judge::{Case, Run, judge},
    spawn::Spawn,
    stats::Tally,
};

/// How often it looks.
const TICK: Duration = Duration::from_millis(500);

/// How long after its timeout and grace a run is taken to hold its thread.
const HELD_AFTER: Duration = Duration::from_secs(1);

/// So many looks in a row a slot that was left behind may owe a sign of life: without a run, and with one. A run
/// may go on when its thread is free again, so that it is given more time.
const SIGNS_OWED: u32 = 2;
const SIGNS_OWED_RUNNING: u32 = 20;

/// How often a pool may hold its threads before readiness says so.
const HOLDS_MAX: u32 = 4;

/// What was seen of a slot at the last look.
#[derive(Default)]
struct Look {
    run: Option<LeaseRef>,
    /// For so many looks in a row it has been past its time.
    past: u32,
    owed: u32,
}

/// Looks after a pool until the manager stops.
pub(crate) async fn supervise(pool: Arc<Pool>, house: Arc<House>) {
    let mut looks: HashMap<u32, Look> = HashMap::new();
    loop {
        tokio::select! {
            biased;
            () = house.stopped() => return,
            () = tokio::time::sleep(TICK) => {}
        }
        if pool.holds.load(Ordering::Acquire) == 0
            && !pool.traits.one_thread
            && let Some(other) = house.workers_elsewhere(&pool.spawner())
        {
            move_to(&pool, &house, other);
        }
        let (mut held, mut stuck) = (Vec::new(), Vec::new());
        pool.each_board(|slot, board| {
            let look = looks.entry(slot).or_default();
            let run = board.current();
            if let Some(run) = &run {
                look_after(&pool, &house, look, board, run);
                if !pool.traits.blocking && is_held(&pool, look, run) {
                    return held.push(slot);
                }
            }
            look.run = run.as_ref().map(JobContext::lease);
            if is_stuck(&pool, look, board, run.is_some()) {
                stuck.push(slot);
            }
        });
        if !held.is_empty() {
            leave(&pool, &house);
        }
        for slot in held.into_iter().chain(stuck) {
            give_up(&pool, &house, slot);
        }
    }
}

/// What waits behind a run that takes long goes back to the pool.
fn look_after(pool: &Pool, house: &House, look: &Look, board: &Board, run: &JobContext) {
    if look.run == Some(run.lease()) {
        let mut rest = VecDeque::new();
        board.take_rest(&mut rest);
        pool.give_back(&mut rest);
        release(pool, rest, house.clock.wall());
    }
}

/// Whether a run holds its thread: it has not ended although its time is over, and that of its end. Counted in looks:
/// in a process that stood still, everything is past its time, and has had no time to end.
fn is_held(pool: &Pool, look: &mut Look, run: &JobContext) -> bool {
    let past = run.deadline().is_some_and(|deadline| Instant::now() > Instant::from_std(deadline));
    let before = if look.run == Some(run.lease()) { look.past } else { 0 };
    look.past = if past { before + 1 } else { 0 };
    let grace = if run.heeds_stop() { grace(StopReason::Timeout, run, pool) } else { Duration::ZERO };
    TICK * look.past > grace + HELD_AFTER
}

/// Whether a slot was left behind where nothing goes on.
fn is_stuck(pool: &Pool, look: &mut Look, board: &Board, runs: bool) -> bool {
    let behind = board.epoch != pool.moves.load(Ordering::Acquire);
    look.owed = if behind && board.ask_for_sign() { look.owed + 1 } else { 0 };
    look.owed >= if runs { SIGNS_OWED_RUNNING } else { SIGNS_OWED }
}

/// Moves the pool away from threads that it holds.
fn leave(pool: &Arc<Pool>, house: &Arc<House>) {
    let Some(fresh) = house.fresh_workers() else { return };
    house.workers_are_held(&pool.spawner());
    let holds = pool.holds.fetch_add(1, Ordering::AcqRel) + 1;
    move_to(pool, house, fresh);
    if holds > HOLDS_MAX {
        let reason = format!(
            "worker `{}` has held its thread past its timeout in {holds} places: it blocks, and must say so",
            pool.kind
        );
        house.health.off(&format!("worker {} blocks", pool.kind), reason);
    }
}

fn move_to(pool: &Arc<Pool>, house: &Arc<House>, runtime: Arc<dyn Spawn>) {
    *pool.spawn.lock().unwrap_or_else(PoisonError::into_inner) = runtime;
    pool.moves.fetch_add(1, Ordering::AcqRel);
    move_idle(pool, house);
}

/// Gives a slot up, and starts it again where the pool is now.
fn give_up(pool: &Arc<Pool>, house: &Arc<House>, slot: u32) {
    let mut left = pool.board(slot).retire();
    pool.give_back(&mut left.rest);
    release(pool, left.rest, house.clock.wall());
    if let Some(run) = left.current {
        abandon(pool, house, &run);
    }
    if left.busy {
        pool.finished(0, 0, true, house.clock.monotonic());
    }
    restart(pool, house, slot);
}

/// Idle slots wait on the runtime that is held: they go on elsewhere.
fn move_idle(pool: &Arc<Pool>, house: &Arc<House>) {
    let idle: Vec<_> = {
        let mut state = pool.state();
        let idle: Vec<_> = state.idle.drain(..).collect();
        state.is_idle.fill(false);
        idle
    };
    for (slot, waker) in idle {
        pool.board(slot).retire();
        waker.wake();
        restart(pool, house, slot);
    }
}

/// The run is judged as timed out, or as handed back where its time is not over; whatever it yields later is not
/// wanted.
fn abandon(pool: &Pool, house: &House, run: &JobContext) {
    let late = run.deadline().is_some_and(|at| Instant::now() > Instant::from_std(at));
    let reason = if late { StopReason::Timeout } else { StopReason::Fenced };
    run.ask_to_stop(reason);
    house.stats.abandoned.fetch_add(1, Ordering::Relaxed);
    tracing::error!(id = %run.id(), "type" = %pool.kind, ?reason, "a run is left behind on a thread that is held");
    let now = house.clock.wall();
    let timeout = run.job().timeout.or(pool.timeout).unwrap_or_default();
    let took = timeout + HELD_AFTER;
    let started = Timestamp::from_millis(now.as_millis().saturating_sub(took.as_millis() as i64));
    let outcome = cut_off(reason);
    let tally = Tally::of(&outcome, true);
    let case = Case {
        lease: run.lease(),
        job: Some(run.job()),
        record: run.record(),
        run: Some(Run { started, took, side: None, usage: None }),
    };
    let settlement = judge(case, outcome, &pool.policy, now);
    let tally = Tally { nanos: took.as_nanos() as u64, ..tally.judged(&settlement.verdict) };
    house.stats.count(0, pool.index, run.origin(), &tally, &[], house.clock.monotonic());
    pool.source(run).settle(&mut vec![settlement], true);
}
