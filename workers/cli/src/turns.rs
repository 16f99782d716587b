//! What a slot's thread runs next, and what became of what it ran. An order waits here until it is begun or taken back, so
//! that it is never both, and what is asked of one never reaches another.

use std::{
    collections::VecDeque,
    future::poll_fn,
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    task::{Poll, Waker},
    thread,
    time::{Duration, Instant},
};

use ganger_child::{Ask, Group};

/// How long a thread that has done a run looks for the next order before it sleeps.
const AWAKE: Duration = Duration::from_micros(100);

/// An order that has waited longer is not begun by itself: ganger may have stood still, and others have the job by now. A
/// job is handed over within two thirds of its lease, and the shortest lease is 1 s: it is begun before its end.
const STALE_AFTER: Duration = Duration::from_millis(250);

/// The orders of a slot, and their ends.
#[derive(Debug)]
pub(crate) struct Turns<O, E> {
    group: Arc<Group>,
    state: Mutex<State<O, E>>,
    /// Something has come for the thread, or nothing comes any more.
    news: Condvar,
}

#[derive(Debug)]
struct State<O, E> {
    waiting: VecDeque<Waiting<O>>,
    /// What became of those that were begun, or went stale; in their order.
    told: VecDeque<(u64, Told<E>)>,
    /// The number of the last order that was given.
    given: u64,
    /// The number of the last order that was begun.
    begun: u64,
    /// What waits is not begun until [`Turns::give_now`].
    is_held: bool,
    is_closed: bool,
    /// The thread is asleep.
    sleeps: bool,
    /// Who waits to be told.
    near: Option<Waker>,
}

#[derive(Debug)]
struct Waiting<O> {
    number: u64,
    since: Instant,
    order: O,
}

/// What became of an order.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Told<E> {
    /// It was run.
    Ended(E),
    /// It had waited too long. It is not begun unless it is given again, nor are those behind it before that.
    Stale,
    /// The thread has ended without a word of it.
    Gone,
}

impl<O, E> Turns<O, E> {
    /// The turns of a group, in which one command runs at a time.
    pub(crate) fn new(group: Arc<Group>) -> Self {
        let state = State {
            waiting: VecDeque::new(),
            told: VecDeque::new(),
            given: 0,
            begun: 0,
            is_held: false,
            is_closed: false,
            sleeps: false,
            near: None,
        };
        Turns { group, state: Mutex::new(state), news: Condvar::new() }
    }

    fn state(&self) -> MutexGuard<'_, State<O, E>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Gives an order that comes after all that were given; its number. `None` once they are over.
    pub(crate) fn give(&self, order: O) -> Option<u64> {
        self.give_to(self.state(), order)
    }

    /// Gives an order that comes next, where none waits that is still wanted; its number. `None` once they are over.
    pub(crate) fn give_now(&self, order: O) -> Option<u64> {
        let mut state = self.state();
        state.waiting.clear();
        state.is_held = false;
        self.give_to(state, order)
    }

    fn give_to(&self, mut state: MutexGuard<'_, State<O, E>>, order: O) -> Option<u64> {
        if state.is_closed {
            return None;
        }
        state.given += 1;
        let number = state.given;
        state.waiting.push_back(Waiting { number, since: Instant::now(), order });
        // To wake nobody would be a system call.
        if state.sleeps {
            self.news.notify_one();
        }
        Some(number)
    }

    /// Waits until it is known what became of an order; they are asked for in their order. Cancel-safe.
    pub(crate) async fn told(&self, number: u64) -> Told<E> {
        poll_fn(|cx| {
            let mut state = self.state();
            while let Some((of, told)) = state.told.pop_front_if(|(of, _)| *of <= number) {
                // Those before it were of nobody any more.
                if of == number {
                    return Poll::Ready(told);
                }
            }
            if state.is_closed {
                return Poll::Ready(Told::Gone);
            }
            match &mut state.near {
                Some(near) => near.clone_from(cx.waker()),
                near => *near = Some(cx.waker().clone()),
            }
            Poll::Pending
        })
        .await
    }

    /// Takes back those that wait behind this one, which may itself still wait; how many they were.
    pub(crate) fn take_back_after(&self, number: u64) -> usize {
        let mut state = self.state();
        let before = state.waiting.len();
        state.waiting.retain(|waiting| waiting.number <= number);
        before - state.waiting.len()
    }

    /// Asks the command of an order to stop, or kills it; nothing happens if it was over. False if the order still
    /// waited: then it will not be begun, nor those behind it.
    pub(crate) fn ask(&self, number: u64, ask: Ask) -> bool {
        let mut state = self.state();
        if let Some(place) = state.waiting.iter().position(|waiting| waiting.number == number) {
            state.waiting.truncate(place);
            return false;
        }
        if number == state.begun {
            self.group.ask(ask);
        }
        true
    }

    /// Kills what runs, and takes back what waits.
    pub(crate) fn kill(&self) {
        let mut state = self.state();
        state.waiting.clear();
        self.group.ask(Ask::Kill);
    }

    /// Takes back what waits; nothing more is given or begun.
    pub(crate) fn close(&self) {
        let mut state = self.state();
        state.is_closed = true;
        state.waiting.clear();
        self.news.notify_one();
        if let Some(near) = state.near.take() {
            near.wake();
        }
    }

    /// The thread's: waits for the next order that it is to begin; `None` when no more come. Of a busy slot it follows
    /// within microseconds: to look for it, letting others run, costs less than to sleep and to be woken.
    pub(crate) fn next(&self) -> Option<(u64, O)> {
        let since = Instant::now();
        let mut state = self.state();
        while !state.is_closed {
            if let Some(begun) = self.begin(&mut state) {
                return Some(begun);
            }
            if since.elapsed() < AWAKE {
                drop(state);
                thread::yield_now();
                state = self.state();
            } else {
                state.sleeps = true;
                state = self.news.wait(state).unwrap_or_else(PoisonError::into_inner);
                state.sleeps = false;
            }
        }
        None
    }

    fn begin(&self, state: &mut State<O, E>) -> Option<(u64, O)> {
        if state.is_held {
            return None;
        }
        let Waiting { number, since, order } = state.waiting.pop_front()?;
        if since.elapsed() <= STALE_AFTER {
            state.begun = number;
            self.group.begin();
            return Some((number, order));
        }
        state.is_held = true;
        state.told.push_back((number, Told::Stale));
        let State { waiting, told, .. } = state;
        told.extend(waiting.drain(..).map(|waiting| (waiting.number, Told::Stale)));
        if let Some(near) = state.near.take() {
            near.wake();
        }
        None
    }

    /// The thread's: an order has come to its end. While others wait behind it nobody is woken to hear of it, unless it is
    /// `urgent`: to be woken for each takes more than to hear of some together, and the near side looks by itself now and
    /// then. It is woken before they run out.
    pub(crate) fn ended(&self, number: u64, end: E, urgent: bool) {
        let mut state = self.state();
        state.told.push_back((number, Told::Ended(end)));
        let is_due = urgent || state.waiting.len() <= 1;
        let near = state.near.take_if(|_| is_due);
        // Whoever is woken takes the lock first thing.
        drop(state);
        if let Some(near) = near {
            near.wake();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{
        pin::pin,
        sync::{
            atomic::{AtomicBool, Ordering},
            mpsc,
        },
        task::{Context, Wake},
    };

    use super::*;

    type Names = Turns<&'static str, &'static str>;

    /// Makes all that waits older than anything may.
    fn stand_still<O, E>(turns: &Turns<O, E>) {
        for waiting in &mut turns.state().waiting {
            waiting.since = waiting.since.checked_sub(STALE_AFTER * 2).unwrap();
        }
    }

    fn turns() -> (Names, Arc<Group>) {
        let group = Arc::<Group>::default();
        (Turns::new(Arc::clone(&group)), group)
    }

    fn give_three(turns: &Names) {
        assert_eq!((turns.give_now("a"), turns.give("b"), turns.give("c")), (Some(1), Some(2), Some(3)));
    }

    /// What the thread would begin at once, if anything.
    fn begin(turns: &Names) -> Option<&'static str> {
        turns.begin(&mut turns.state()).map(|(_, order)| order)
    }

    /// Whether somebody was woken.
    #[derive(Default)]
    struct Woken(AtomicBool);

    impl Wake for Woken {
        fn wake(self: Arc<Self>) {
            self.0.store(true, Ordering::Relaxed);
        }
    }

    /// Waits for what becomes of an order, without an end.
    fn ask(turns: &Names, number: u64, woken: &Arc<Woken>) -> Option<Told<&'static str>> {
        match pin!(turns.told(number)).poll(&mut Context::from_waker(&Arc::clone(woken).into())) {
            Poll::Ready(told) => Some(told),
            Poll::Pending => None,
        }
    }

    /// What is known of an order by now.
    fn told(turns: &Names, number: u64) -> Option<Told<&'static str>> {
        ask(turns, number, &Arc::default())
    }

    #[test]
    fn what_has_not_begun_when_those_behind_it_are_taken_back_is_begun() {
        let (turns, _) = turns();
        give_three(&turns);
        assert_eq!(turns.take_back_after(1), 2);
        assert_eq!((begin(&turns), begin(&turns)), (Some("a"), None));
    }

    #[test]
    fn what_is_asked_of_one_does_not_reach_the_next() {
        let (turns, group) = turns();
        give_three(&turns);
        assert_eq!((begin(&turns), begin(&turns)), (Some("a"), Some("b")));
        assert!(turns.ask(1, Ask::Kill), "it is over");
        assert_eq!(group.asked(), None);
        assert!(turns.ask(2, Ask::Stop));
        assert_eq!(group.asked(), Some(Ask::Stop));
        assert!(!turns.ask(3, Ask::Stop));
        assert_eq!(begin(&turns), None);
    }

    #[test]
    fn after_a_standstill_nothing_is_begun_but_what_is_given_now() {
        let (turns, _) = turns();
        give_three(&turns);
        stand_still(&turns);
        assert_eq!(begin(&turns), None);
        assert_eq!((told(&turns, 1), told(&turns, 2)), (Some(Told::Stale), Some(Told::Stale)));
        turns.give("d");
        assert_eq!(begin(&turns), None, "it may be behind one that is given again");
        assert_eq!(turns.give_now("a"), Some(5));
        assert_eq!((begin(&turns), begin(&turns)), (Some("a"), None));
        turns.ended(5, "end of a", false);
        assert_eq!(told(&turns, 5), Some(Told::Ended("end of a")));
    }

    #[test]
    fn ends_are_told_in_their_order_and_nobody_elses() {
        let (turns, _) = turns();
        give_three(&turns);
        for number in 1..=3 {
            begin(&turns);
            turns.ended(number, ["end of a", "end of b", "end of c"][number as usize - 1], false);
        }
        assert_eq!(told(&turns, 2), Some(Told::Ended("end of b")), "nobody wanted the first");
        assert_eq!(told(&turns, 3), Some(Told::Ended("end of c")));
    }

    #[test]
    fn who_waits_is_woken_before_orders_run_out_or_if_it_presses() {
        for (urgent, wakes) in [(false, [false, false, true]), (true, [true, true, true])] {
            let (turns, _) = turns();
            give_three(&turns);
            turns.give("d");
            for (number, wakes) in (1..).zip(wakes) {
                begin(&turns);
                let woken = Arc::default();
                assert_eq!(ask(&turns, number, &woken), None);
                turns.ended(number, "end", urgent);
                assert_eq!(woken.0.load(Ordering::Relaxed), wakes, "{number}");
            }
        }
    }

    #[test]
    fn once_closed_there_are_no_more() {
        let (turns, _) = turns();
        give_three(&turns);
        begin(&turns);
        turns.ended(1, "end of a", false);
        turns.close();
        assert_eq!(turns.next(), None);
        assert_eq!((turns.give("d"), turns.give_now("d")), (None, None));
        assert_eq!(told(&turns, 1), Some(Told::Ended("end of a")), "that is known");
        assert_eq!(told(&turns, 2), Some(Told::Gone));
    }

    #[test]
    fn an_order_is_begun_or_taken_back_and_never_both_however_the_two_sides_meet() {
        let turns = Turns::new(Arc::default());
        let (begun, begins) = mpsc::channel();
        thread::scope(|scope| {
            scope.spawn(|| {
                while let Some((number, order)) = turns.next() {
                    begun.send(order).unwrap();
                    turns.ended(number, (), false);
                }
            });
            for round in 0..5_000 {
                let first = turns.give_now((round, 0)).unwrap();
                (1..4).for_each(|order| _ = turns.give((round, order)));
                // From at once to after all of them.
                (0..round % 50).for_each(|_| thread::yield_now());
                let taken_back = turns.take_back_after(first);
                for order in 0..4 - taken_back {
                    assert_eq!(begins.recv(), Ok((round, order)));
                }
            }
            turns.close();
        });
        assert_eq!(begins.try_recv(), Err(mpsc::TryRecvError::Empty), "none of those that were taken back");
    }
}
