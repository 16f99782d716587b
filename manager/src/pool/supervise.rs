//! Looks after slots that cannot look after themselves, because a worker holds their thread.
//!
//! A batch that waits behind such a run goes back to the pool. A run that holds its thread past its timeout is
//! given up: the pool moves to a fresh runtime, where its slots go on.

use std::{
    collections::HashMap,
    sync::{Arc, PoisonError, atomic::Ordering},
    time::Duration,
};

use ganger_core::{JobContext, LeaseRef, Outcome, StopReason};
use tokio::time::Instant;

use super::{Pool, feed::release, slot::restart, watch::grace};
use crate::{
    house::House,
    judge::{Case, Run, judge},
    stats::Tally,
};

/// How often it looks.
const TICK: Duration = Duration::from_millis(500);

/// How long after its timeout and grace a run is taken to hold its thread.
const HELD_AFTER: Duration = Duration::from_secs(1);

/// How often a pool may move before readiness says so.
const MOVES_MAX: u32 = 4;

/// Looks after a pool until the manager stops.
pub(crate) async fn supervise(pool: Arc<Pool>, house: Arc<House>) {
    let mut seen: HashMap<u32, LeaseRef> = HashMap::new();
    loop {
        tokio::select! {
            biased;
            () = house.stopped() => return,
            () = tokio::time::sleep(TICK) => {}
        }
        let mut held = Vec::new();
        pool.each_board(|slot, board| {
            let Some(run) = board.current() else {
                seen.remove(&slot);
                return;
            };
            if seen.insert(slot, run.lease()) == Some(run.lease()) {
                let mut rest = std::collections::VecDeque::new();
                board.take_rest(&mut rest);
                pool.give_back(&mut rest);
                release(&pool, rest, house.clock.wall());
            }
            if !pool.traits.blocking && is_held(&pool, &run) {
                held.push(slot);
            }
        });
        if !held.is_empty() {
            give_up(&pool, &house, &held);
        }
    }
}

fn is_held(pool: &Pool, run: &JobContext) -> bool {
    let Some(deadline) = run.deadline() else { return false };
    let grace = if run.heeds_stop() { grace(StopReason::Timeout, run, pool) } else { Duration::ZERO };
    Instant::now() > Instant::from_std(deadline) + grace + HELD_AFTER
}

/// Gives up the runs of these slots and moves the pool away from the threads they hold.
fn give_up(pool: &Arc<Pool>, house: &Arc<House>, held: &[u32]) {
    let fresh = house.fresh_workers();
    let moved = fresh.is_some();
    if let Some(fresh) = fresh {
        *pool.spawn.lock().unwrap_or_else(PoisonError::into_inner) = fresh;
    }
    let moves = if moved { pool.moves.fetch_add(1, Ordering::AcqRel) + 1 } else { 0 };
    for slot in held {
        let board = pool.boards[*slot as usize].lock().unwrap_or_else(PoisonError::into_inner).clone();
        let (current, mut rest) = board.retire();
        pool.give_back(&mut rest);
        release(pool, rest, house.clock.wall());
        if let Some(run) = current {
            abandon(pool, house, &run);
        }
        pool.finished(0, 0, true, house.clock.monotonic());
        restart(pool, house, *slot);
    }
    if moved {
        move_idle(pool, house);
    }
    if moves > MOVES_MAX {
        let reason = format!(
            "worker `{}` has held its thread past its timeout in {moves} places: it blocks, and must say so",
            pool.kind
        );
        house.health.off(&format!("worker {} blocks", pool.kind), reason);
    }
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
        let board = pool.boards[slot as usize].lock().unwrap_or_else(PoisonError::into_inner).clone();
        board.retire();
        waker.wake();
        restart(pool, house, slot);
    }
}

/// The run is judged as timed out; whatever it yields later is not wanted.
fn abandon(pool: &Pool, house: &House, run: &JobContext) {
    run.ask_to_stop(StopReason::Timeout);
    house.stats.abandoned.fetch_add(1, Ordering::Relaxed);
    tracing::error!(id = %run.id(), kind = %pool.kind, "a run holds its thread past its timeout and is left behind");
    let now = house.clock.wall();
    let timeout = run.job().timeout.or(pool.timeout).unwrap_or_default();
    let took = timeout + HELD_AFTER;
    let started =
        ganger_core::Timestamp::from_millis(now.as_millis().saturating_sub(took.as_millis() as i64));
    let outcome = Outcome::TimedOut;
    let tally = Tally::of(&outcome, true);
    let case = Case {
        lease: run.lease(),
        job: Some(run.job()),
        record: run.record(),
        run: Some(Run { started, took, side: None }),
    };
    let settlement = judge(case, outcome, &pool.policy, now);
    let tally = Tally { nanos: took.as_nanos() as u64, ..tally.judged(&settlement.verdict) };
    house.stats.count(0, pool.index, run.origin(), &tally, house.clock.monotonic());
    pool.source(run).settle(&mut vec![settlement], true);
}
