//! Whose turn it is in a slot. Orders are begun one after the other, or taken back before; what is asked of one never
//! reaches another.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use ganger_child::{Ask, Group};

/// The orders of a slot, by number.
#[derive(Debug)]
pub(crate) struct Turns {
    group: Arc<Group>,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// The last one that was given.
    ordered: u64,
    /// The last one that was begun.
    begun: u64,
    /// Up to here, none is begun any more.
    taken_back: u64,
}

impl Turns {
    /// The turns of a group, in which one command runs at a time.
    pub(crate) fn new(group: Arc<Group>) -> Self {
        Turns { group, state: Mutex::default() }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The number of a new order.
    pub(crate) fn order(&self) -> u64 {
        let mut state = self.state();
        state.ordered += 1;
        state.ordered
    }

    /// Its turn has come. False if it was taken back.
    pub(crate) fn begin(&self, number: u64) -> bool {
        let mut state = self.state();
        let may = number > state.taken_back;
        if may {
            state.begun = number;
            self.group.begin();
        }
        may
    }

    /// Its turn has come and is passed over. False if it was taken back.
    pub(crate) fn pass(&self, number: u64) -> bool {
        let mut state = self.state();
        let may = number > state.taken_back;
        if may {
            state.begun = number;
        }
        may
    }

    /// Takes back those after this one that have not begun; how many they were.
    pub(crate) fn take_back_after(&self, number: u64) -> usize {
        let mut state = self.state();
        let last_kept = number.max(state.begun).max(state.taken_back);
        state.taken_back = state.ordered;
        usize::try_from(state.ordered - last_kept).unwrap_or(usize::MAX)
    }

    /// Asks the command of an order to stop, or kills it; nothing happens if it was over. False if the order was not
    /// begun: then it will not be, nor those after it.
    pub(crate) fn ask(&self, number: u64, ask: Ask) -> bool {
        let mut state = self.state();
        if number > state.begun {
            state.taken_back = state.ordered;
            return false;
        }
        if number == state.begun {
            self.group.ask(ask);
        }
        true
    }

    /// Kills what runs, and begins nothing any more of what was ordered.
    pub(crate) fn give_up(&self) {
        let mut state = self.state();
        state.taken_back = state.ordered;
        self.group.ask(Ask::Kill);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_order_is_begun_or_taken_back_and_never_both() {
        let turns = Turns::new(Arc::default());
        let orders: Vec<_> = (0..4).map(|_| turns.order()).collect();
        assert_eq!(orders, [1, 2, 3, 4]);
        assert!(turns.begin(1) && turns.begin(2));
        assert_eq!(turns.take_back_after(1), 2, "the second has begun");
        assert_eq!(turns.take_back_after(1), 0, "they are taken back already");
        assert!(!turns.begin(3) && !turns.begin(4));
        assert_eq!(turns.order(), 5);
        assert!(turns.begin(5));
    }

    #[test]
    fn what_is_asked_of_one_does_not_reach_the_next() {
        let group = Arc::<Group>::default();
        let turns = Turns::new(Arc::clone(&group));
        for number in 1..=2 {
            assert_eq!(turns.order(), number);
        }
        assert!(turns.begin(1) && turns.begin(2));
        assert!(turns.ask(1, Ask::Kill), "it is over");
        assert_eq!(group.asked(), None);
        assert!(turns.ask(2, Ask::Stop));
        assert_eq!(group.asked(), Some(Ask::Stop));
        turns.order();
        assert!(!turns.ask(3, Ask::Stop));
        assert!(!turns.begin(3) && !turns.pass(3));
        for number in 4..=5 {
            assert_eq!(turns.order(), number);
        }
        assert!(turns.pass(4));
        assert!(turns.ask(4, Ask::Kill), "it will not be begun, and takes none along");
        assert!(turns.begin(5));
    }
}
