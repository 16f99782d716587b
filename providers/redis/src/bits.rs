//! Sets of a claim's items: bit `i % 8` of byte `i / 8` stands for item `i`.

use std::collections::HashMap;

use ganger_core::{LeaseRef, Token};

/// Whether an item is in the set.
pub(crate) fn has(bits: &[u8], index: u32) -> bool {
    bits.get(index as usize / 8).is_some_and(|byte| byte >> (index % 8) & 1 == 1)
}

/// The items of several claims, as sets by token, in the order in which the tokens came.
#[derive(Default)]
pub(crate) struct ByToken {
    pub(crate) sets: Vec<(Token, Vec<u8>)>,
    places: HashMap<Token, usize>,
    last: usize,
}

impl ByToken {
    pub(crate) fn of(leases: &[LeaseRef]) -> Self {
        let mut by_token = ByToken::default();
        leases.iter().for_each(|lease| by_token.add(*lease));
        by_token
    }

    pub(crate) fn add(&mut self, lease: LeaseRef) {
        // Neighbours are mostly of one claim.
        if self.sets.get(self.last).is_none_or(|(token, _)| *token != lease.token) {
            let sets = &mut self.sets;
            self.last = *self.places.entry(lease.token).or_insert_with(|| {
                sets.push((lease.token, Vec::new()));
                sets.len() - 1
            });
        }
        let bits = &mut self.sets[self.last].1;
        let at = lease.index as usize / 8;
        if bits.len() <= at {
            bits.resize(at + 1, 0);
        }
        bits[at] |= 1 << (lease.index % 8);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn items_are_grouped_by_their_claims() {
        let token = |seq| Token { incarnation: 1, seq };
        let lease = |seq, index| LeaseRef { token: token(seq), index };
        let sets = ByToken::of(&[lease(1, 0), lease(2, 9), lease(1, 3)]).sets;
        assert_eq!(sets, [(token(1), vec![0b1001]), (token(2), vec![0, 0b10])]);
        assert!(has(&sets[1].1, 9) && !has(&sets[1].1, 8) && !has(&sets[1].1, 99));
    }
}
