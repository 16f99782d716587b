//! A renewal, put into arguments and read out of answers.

use std::collections::HashMap;

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

impl Store {
    /// One renewal, in as many calls as it takes.
    pub(crate) async fn renew(&self, beat: &Beat, held: &[LeaseRef]) -> Result<Vec<Hold>, CallError> {
        let claims = ByToken::of(held).sets;
        let mut known: HashMap<Token, Held> = HashMap::with_capacity(claims.len());
        let beat_text = serde_json::to_string(beat).unwrap_or_default();
        let mut chunks = claims.chunks(CLAIMS_MAX);
        // Without a lease the beat goes alone.
        let mut next = Some(chunks.next().unwrap_or_default());
        while let Some(chunk) = next {
            let mut call = self.script(&RENEW);
            call.arg(&self.manager).arg(&beat_text).arg(beat.lease_millis.max(1)).arg(chunk.len());
            for (token, _) in chunk {
                call.arg(token.to_string());
            }
            for (_, bits) in chunk {
                call.arg(&bits[..]);
            }
            let Value::Array(answers) = call.send(&self.keep).await? else {
                return Err(CallError::Strange("the form of a renewal's answer"));
            };
            if answers.is_empty() {
                known.extend(chunk.iter().map(|(token, _)| (*token, Held::All)));
            }
            for ((token, _), answer) in chunk.iter().zip(answers) {
                let Value::BulkString(answer) = answer else {
                    return Err(CallError::Strange("the form of a lease's answer"));
                };
                known.insert(*token, if answer == b"=" { Held::All } else { Held::Some(answer) });
            }
            next = chunks.next();
        }
        Ok(held.iter().map(|lease| hold(known.get(&lease.token), lease.index)).collect())
    }
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
