//! A renewal, put into arguments and read out of answers.

use std::{
    collections::{HashMap, HashSet},
    sync::{Mutex, PoisonError},
};

use ganger_core::{Beat, Hold, LeaseRef, Token};
use redis::Value;

use crate::{
    bits::{self, ByToken},
    error::CallError,
    script::RENEW,
    store::Store,
};

/// So many claims are renewed by one call: others get their turn in between.
const CLAIMS_MAX: usize = 500;

/// What is known of a claim after a renewal.
enum Held {
    /// All that was named.
    All,
    /// The items held, then as many bytes of those to be cancelled.
    Some(Vec<u8>),
}

/// The claims of which one item alone was open when they were answered: to renew them, the server need not look which of
/// their items are open. A claim that is not known here is renewed all the same, at the price of that look.
#[derive(Default)]
pub(crate) struct Lone(Mutex<HashSet<Token>>);

/// A claim, and bits of its items that are held.
type Claim = (Token, Vec<u8>);

impl Lone {
    pub(crate) fn note(&self, token: Token) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(token);
    }

    /// Puts claims that are held apart: those of one item, and the others. Forgets those that are held no more.
    fn part(&self, held: Vec<Claim>) -> (Vec<Claim>, Vec<Claim>) {
        let newest = held.iter().map(|(token, _)| token.seq).max();
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let (lone, others): (Vec<_>, Vec<_>) = held.into_iter().partition(|(token, _)| known.contains(token));
        // One that is newer was claimed after this renewal had begun.
        known.retain(|token| newest.is_some_and(|newest| token.seq > newest));
        known.extend(lone.iter().map(|(token, _)| *token));
        (lone, others)
    }
}

impl Store {
    /// One renewal, in as many calls as it takes.
    pub(crate) async fn renew(&self, beat: &Beat, held: &[LeaseRef]) -> Result<Vec<Hold>, CallError> {
        let (lone, others) = self.lone.part(ByToken::of(held).sets);
        let mut known = HashMap::with_capacity(lone.len() + others.len());
        let beat_text = serde_json::to_string(beat).unwrap_or_default();
        let mut chunks = lone
            .chunks(CLAIMS_MAX)
            .map(|chunk| (chunk, true))
            .chain(others.chunks(CLAIMS_MAX).map(|chunk| (chunk, false)));
        // Without a lease the beat goes alone.
        let mut next = Some(chunks.next().unwrap_or_default());
        while let Some((chunk, lone)) = next {
            let mut call = self.script(&RENEW);
            call.arg(&self.manager).arg(&beat_text).arg(beat.lease_millis.max(1)).arg(chunk.len());
            for (token, _) in chunk {
                call.arg(token.to_string());
            }
            for (_, bits) in chunk.iter().filter(|_| !lone) {
                call.arg(&bits[..]);
            }
            read(call.send(&self.keep).await?, chunk, &mut known)?;
            next = chunks.next();
        }
        Ok(held.iter().map(|lease| hold(known.get(&lease.token), lease.index)).collect())
    }
}

/// Reads a call's answer about these claims.
fn read(answer: Value, claims: &[Claim], known: &mut HashMap<Token, Held>) -> Result<(), CallError> {
    let Value::Array(answers) = answer else {
        return Err(CallError::Strange("the form of a renewal's answer"));
    };
    if answers.is_empty() {
        known.extend(claims.iter().map(|(token, _)| (*token, Held::All)));
    }
    for ((token, _), answer) in claims.iter().zip(answers) {
        let Value::BulkString(answer) = answer else {
            return Err(CallError::Strange("the form of a lease's answer"));
        };
        known.insert(*token, if answer == b"=" { Held::All } else { Held::Some(answer) });
    }
    Ok(())
}

fn hold(held: Option<&Held>, index: u32) -> Hold {
    match held {
        None => Hold::Lost,
        Some(Held::All) => Hold::Held,
        Some(Held::Some(answer)) => {
            let (held, cancel) = answer.split_at(answer.len() / 2);
            match (bits::has(held, index), bits::has(cancel, index)) {
                (false, _) => Hold::Lost,
                (true, true) => Hold::Cancel,
                (true, false) => Hold::Held,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn claims_of_one_item_are_known_while_they_are_held() {
        let claim = |seq| (Token { incarnation: 1, seq }, vec![1]);
        let lone = Lone::default();
        [1, 2, 9].into_iter().for_each(|seq| lone.note(claim(seq).0));
        assert_eq!(lone.part(vec![claim(1), claim(3)]), (vec![claim(1)], vec![claim(3)]));
        assert_eq!(lone.part(vec![claim(2), claim(9)]), (vec![claim(9)], vec![claim(2)]));
        assert_eq!(lone.part(Vec::new()), (Vec::new(), Vec::new()));
        assert_eq!(lone.part(vec![claim(9)]), (Vec::new(), vec![claim(9)]));
    }
}
