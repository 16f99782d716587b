//! Leases are extended, and managers say that they live.

use ganger_core::{Beat, Hold, LeaseRef, Token};

use crate::{
    claim::Claim,
    error::StoreError,
    lost,
    source::Who,
    tx::{OPEN, Tx},
};

/// Extends the leases named and hands back what else the tokens named hold; answers for each, in order.
pub(crate) fn renew(
    tx: &mut Tx<'_>,
    who: &Who,
    beat: &Beat,
    held: &[LeaseRef],
) -> Result<Vec<Hold>, StoreError> {
    who.hold(tx.shared, beat.incarnation)?;
    lost::note_contact(tx)?;
    let lease = i64::try_from(beat.lease_millis).unwrap_or(i64::MAX);
    let mut answers = vec![Hold::Lost; held.len()];
    let mut tokens: Vec<Token> = held.iter().map(|held| held.token).collect();
    tokens.sort_unstable();
    tokens.dedup();
    let marks = tx.number("SELECT seq FROM cancel LIMIT 1", [])?.is_some();
    let mut by_token: Vec<usize> = (0..held.len()).collect();
    by_token.sort_by_key(|at| held[*at]);
    let mut at = 0;
    for token in tokens {
        let from = at;
        while by_token.get(at).is_some_and(|at| held[*at].token == token) {
            at += 1;
        }
        let named = &by_token[from..at];
        let key = (who.name.as_str(), token);
        let Some(mut claim) = Claim::load(tx.db, key)? else { continue };
        for at in named {
            if let Some(seq) = claim.open(held[*at].index).and_then(|item| item.seq()) {
                let cancel = marks && tx.number("SELECT seq FROM cancel WHERE seq = ?1", [seq])?.is_some();
                answers[*at] = if cancel { Hold::Cancel } else { Hold::Held };
            }
        }
        release_rest(tx, &mut claim, named.iter().map(|at| held[*at].index).collect())?;
        claim.save(tx, key)?;
        tx.run(
            "UPDATE claim SET deadline = ?4, lease = ?5 WHERE incarnation = ?1 AND source = ?2 AND token = ?3",
            (token.incarnation as i64, who.name.as_str(), token.seq as i64, tx.ticks.saturating_add(lease), lease),
        )?;
    }
    keep_beat(tx, who, beat, lease)?;
    Ok(answers)
}

/// An open item that is not named any more is ready again, with nothing spent.
fn release_rest(tx: &mut Tx<'_>, claim: &mut Claim, named: Vec<u32>) -> Result<(), StoreError> {
    let mut named = named.into_iter().peekable();
    for index in 0..claim.items.len() as u32 {
        while named.next_if(|at| *at < index).is_some() {}
        if named.peek() == Some(&index) {
            continue;
        }
        let Some(seq) = claim.open(index).and_then(|item| item.seq()) else { continue };
        claim.settle(index);
        if let Some(place) = tx.place(seq)?.filter(|place| place.state == OPEN) {
            if place.cancel {
                tx.end(&place, ganger_core::State::Cancelled, Some("cancelled"))?;
            } else {
                tx.put_ready(&place)?;
            }
        }
    }
    Ok(())
}

fn keep_beat(tx: &Tx<'_>, who: &Who, beat: &Beat, lease: i64) -> Result<(), StoreError> {
    let text = serde_json::to_string(beat).unwrap_or_default();
    tx.run(
        "INSERT INTO member (incarnation, source, token, more, boot, seen, lease, beat) \
         VALUES (?1, ?2, 0, 0, ?3, ?4, ?5, ?6) ON CONFLICT (incarnation, source) DO UPDATE SET \
         boot = excluded.boot, seen = excluded.seen, lease = excluded.lease, beat = excluded.beat",
        (beat.incarnation as i64, &who.name, &tx.shared.boot, tx.ticks, lease, text),
    )?;
    // Those that are gone and hold nothing: a file outlives many managers.
    let mut gone = Vec::new();
    {
        let mut statement = tx.db.prepare_cached(
            "SELECT DISTINCT incarnation FROM member m WHERE incarnation <> ?1 AND NOT EXISTS \
             (SELECT 1 FROM claim c WHERE c.incarnation = m.incarnation)",
        )?;
        let mut rows = statement.query([beat.incarnation as i64])?;
        while let Some(row) = rows.next()? {
            gone.push(row.get::<_, i64>(0)?);
        }
    }
    for incarnation in gone.into_iter().filter(|of| tx.shared.holders.is_dead(*of as u64)) {
        tx.run("DELETE FROM member WHERE incarnation = ?1", [incarnation])?;
    }
    Ok(())
}
