//! Unique keys: who may have one is decided in `lua/unique.lua`.

use ganger_core::{JobId, Leased, State, Token, Unique};
use redis::Value;

use crate::{
    envelope::Envelope,
    error::CallError,
    script::{DUPLICATES, HOLDER},
    store::Store,
};

/// The states in which a job holds its key, as one number.
pub(crate) fn states_sum(unique: &Unique) -> u8 {
    State::ALL.iter().zip(0u8..).filter(|(state, _)| unique.holds_in(**state)).map(|(_, bit)| 1 << bit).sum()
}

/// An entry of a claim that a producer gave a unique key, and that has asked for it never before.
pub(crate) struct Keyed {
    /// Its place among the leased.
    at: usize,
    id: Option<JobId>,
    unique: Unique,
}

impl Keyed {
    /// The producer's bytes as such an entry, if they are one; with the envelope that they came in.
    pub(crate) fn look(at: usize, raw: &[u8], envelope: Option<&Envelope>) -> Option<Keyed> {
        // One that has its key is indexed.
        if envelope.is_some_and(|envelope| envelope.indexed) {
            return None;
        }
        let (unique, id) = Unique::in_raw(raw)?;
        Some(Keyed { at, id, unique })
    }
}

impl Store {
    /// Gives such entries their keys, or notes whose duplicates they are. The claim is made by then: what is cut off here
    /// is claimed once more, and asks then.
    pub(crate) async fn mark_duplicates(
        &self,
        token: Token,
        keyed: Vec<Keyed>,
        leased: &mut [Leased],
    ) -> Result<(), CallError> {
        if keyed.is_empty() {
            return Ok(());
        }
        fail::fail_point!("redis::keys_wanted");
        let mut call = self.script(&DUPLICATES);
        call.arg(token.to_string());
        for one in &keyed {
            let leased = &leased[one.at];
            let first = leased.record.first.ok_or(CallError::Strange("bytes without a first claim"))?;
            let name = JobId::claimed(first.lease).to_string();
            call.arg(leased.index).arg(&name).arg(one.id.as_ref().map_or(name.clone(), JobId::to_string));
            call.arg(&one.unique.key).arg(states_sum(&one.unique));
        }
        let Value::Array(holders) = call.send(&self.work).await? else {
            return Err(CallError::Strange("the form of an answer about unique keys"));
        };
        fail::fail_point!("redis::keys_given");
        for (one, holder) in keyed.iter().zip(holders) {
            leased[one.at].record.duplicate_of = id_of(holder)?.map(Box::new);
        }
        Ok(())
    }

    /// The job that holds a key.
    pub(crate) async fn holder_of(&self, key: &str) -> Result<Option<JobId>, CallError> {
        let mut call = self.script(&HOLDER);
        call.arg(key);
        id_of(call.send(&self.side).await?)
    }
}

/// An id in an answer; none where that is empty.
fn id_of(value: Value) -> Result<Option<JobId>, CallError> {
    let strange = CallError::Strange("a holder that is no id");
    match value {
        Value::BulkString(id) if id.is_empty() => Ok(None),
        Value::BulkString(id) => {
            std::str::from_utf8(&id).ok().and_then(|id| id.parse().ok()).map(Some).ok_or(strange)
        }
        _ => Err(strange),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_states_are_numbered_as_the_scripts_number_them() {
        let lua = include_str!("../lua/unique.lua");
        let line = lua.lines().find(|line| line.starts_with("local STATES")).unwrap();
        for state in State::ALL {
            let name = match state {
                State::Scheduled => "s",
                State::Ready => "r",
                State::Running => "R",
                other => other.as_str(),
            };
            let sum = states_sum(&Unique { key: "k".into(), states: vec![state] });
            assert!(line.contains(&format!(" {name} = {sum}")), "{state} is not {sum} in `{line}`");
        }
    }

    #[test]
    fn a_duplicate_is_told_in_the_same_words_everywhere() {
        let lua = include_str!("../lua/unique.lua");
        let [before, after] = ["a duplicate: job ", " holds its `unique` key"];
        assert!(lua.contains(&format!("return '{before}' .. holder .. '{after}'")));
        let id: JobId = "x".parse().unwrap();
        assert_eq!(Unique::duplicate_of(&id), format!("{before}x{after}"));
    }
}
