//! Verdicts: what becomes of leased jobs.

use ganger_core::{
    ATTEMPTS_MAX, Attempt, Handled, Job, JobId, LeaseRef, Output, Refused, RefusedKind, Settlement,
    SettlementMore, Spend, State, Timestamp, Token, Unique, Verdict,
};
use rusqlite::OptionalExtension;

use crate::{
    claim::Claim,
    enqueue,
    error::StoreError,
    row::attempts,
    tx::{OPEN, Place, Tx},
};

/// Applies settlements; answers those whose lease is lost, and the jobs that [`end_done`] is to end.
pub(crate) fn settle(
    tx: &mut Tx<'_>,
    source: &str,
    verdicts: &[Settlement],
) -> Result<(Vec<LeaseRef>, Vec<i64>), StoreError> {
    let mut stale = Vec::new();
    let mut claims: Vec<(Token, Option<Claim>)> = Vec::new();
    let mut done = Vec::new();
    let marks = !verdicts.is_empty() && tx.number("SELECT seq FROM cancel LIMIT 1", [])?.is_some();
    let mut at = usize::MAX;
    for settlement in verdicts {
        let LeaseRef { token, index } = settlement.lease;
        if claims.get(at).is_none_or(|(of, _)| *of != token) {
            at = match claims.iter().position(|(of, _)| *of == token) {
                Some(known) => known,
                None => {
                    claims.push((token, Claim::load(tx.db, (source, token))?));
                    claims.len() - 1
                }
            };
        }
        let claim = &mut claims[at].1;
        let Some((item, seq)) =
            claim.as_ref().and_then(|claim| claim.open(index)).and_then(|item| Some((item, item.seq()?)))
        else {
            stale.push(settlement.lease);
            continue;
        };
        if let Some(claim) = claim {
            claim.settle(index);
        }
        let quick = settlement.verdict == Verdict::Done && settlement.more.is_none();
        if quick && item.is_plain() && !marks {
            done.push(seq);
        } else {
            settle_one(tx, seq, settlement)?;
        }
    }
    for (token, claim) in &claims {
        if let Some(claim) = claim {
            claim.save(tx, (source, *token))?;
        }
    }
    Ok((stale, done))
}

/// Ends many jobs that ended well and leave nothing more to do.
pub(crate) fn end_done(tx: &mut Tx<'_>, mut done: Vec<i64>) -> Result<(), StoreError> {
    done.sort_unstable();
    let keeps = tx.shared.retention().keeps();
    for run in done.chunk_by(|a, b| *b == a + 1) {
        let (first, last) = (run[0], run[run.len() - 1]);
        if keeps {
            // OR FAIL: a statement that may have to be undone keeps a copy of every page that it changes.
            let sql = "UPDATE OR FAIL job SET state = 3, changed = ?3 WHERE seq BETWEEN ?1 AND ?2";
            tx.run(sql, (first, last, tx.now))?;
        } else {
            tx.run("DELETE FROM job WHERE seq BETWEEN ?1 AND ?2", (first, last))?;
            tx.run("DELETE FROM output WHERE seq BETWEEN ?1 AND ?2", (first, last))?;
        }
    }
    if keeps {
        tx.finished.append(&mut done);
    }
    Ok(())
}

fn settle_one(tx: &mut Tx<'_>, seq: i64, settlement: &Settlement) -> Result<(), StoreError> {
    let Some(mut place) = tx.place(seq)?.filter(|place| place.state == OPEN) else { return Ok(()) };
    match settlement.spend {
        Spend::Nothing => {}
        Spend::Retry => place.spent += 1,
        Spend::Crash => place.crashes += 1,
    }
    if settlement.spend != Spend::Nothing {
        tx.run("UPDATE job SET spent = ?2, crashes = ?3 WHERE seq = ?1", (seq, place.spent, place.crashes))?;
    }
    let follow = settlement.more.as_ref().map_or(&[][..], |more| &more.follow);
    // Read now: a job whose end is not kept is gone afterwards.
    let parent = match follow {
        [] => String::new(),
        _ => tx.db.query_row("SELECT id FROM job WHERE seq = ?1", [seq], |row| row.get(0))?,
    };
    if let Some(more) = &settlement.more {
        keep_more(tx, seq, more)?;
    }
    apply(tx, &place, &settlement.verdict)?;
    // Last: what follows may have the unique key that its parent had.
    self::follow(tx, &parent, follow)
}

fn apply(tx: &mut Tx<'_>, place: &Place, verdict: &Verdict) -> Result<(), StoreError> {
    if place.cancel && *verdict != Verdict::Done {
        return tx.end(place, State::Cancelled, Some("cancelled while it ran"));
    }
    match verdict {
        Verdict::Done => tx.end(place, State::Done, None),
        Verdict::Dead { reason } => tx.end(place, State::Dead, Some(reason)),
        Verdict::Cancelled => tx.end(place, State::Cancelled, Some("cancelled")),
        Verdict::Duplicate { of } => tx.end(place, State::Cancelled, Some(&Unique::duplicate_of(of))),
        Verdict::Expired => tx.end(place, State::Expired, Some("not started in time")),
        Verdict::Release | Verdict::Park { until: None } => tx.put_ready(place),
        Verdict::Retry { at } | Verdict::Park { until: Some(at) } => tx.put_due(place.seq, at.as_millis()),
    }
}

/// What few settlements carry.
fn keep_more(tx: &mut Tx<'_>, seq: i64, more: &SettlementMore) -> Result<(), StoreError> {
    if let Some(attempt) = &more.attempt {
        let text = tx
            .db
            .prepare_cached("SELECT attempts FROM job WHERE seq = ?1")?
            .query_row([seq], |row| row.get::<_, Option<String>>(0))?;
        append_attempt(tx, seq, attempts(text.as_deref()), attempt.clone())?;
    }
    if let Some(Output { bytes, cut, cut_at, content_type }) = &more.output {
        tx.run(
            "INSERT OR REPLACE INTO output VALUES (?1, ?2, ?3, ?4, ?5)",
            (seq, bytes, *cut as i64, *cut_at as i64, content_type.as_deref()),
        )?;
    }
    match &more.handled {
        Some(handled) => note_handled(tx, handled),
        None => Ok(()),
    }
}

/// Adds a run to the job's record; the last ten stay.
pub(crate) fn append_attempt(
    tx: &Tx<'_>,
    seq: i64,
    mut runs: Vec<Attempt>,
    attempt: Attempt,
) -> Result<(), StoreError> {
    runs.push(attempt);
    let first = runs.len().saturating_sub(ATTEMPTS_MAX);
    let text = serde_json::to_string(&runs[first..]).unwrap_or_default();
    tx.run("UPDATE job SET attempts = ?2 WHERE seq = ?1", (seq, text)).map(drop)
}

/// Jobs that become real together with the settlement.
fn follow(tx: &mut Tx<'_>, parent: &str, jobs: &[Job]) -> Result<(), StoreError> {
    for (n, job) in jobs.iter().enumerate() {
        let mut job = job.clone();
        if job.id.is_none() {
            job.id = parent.parse::<JobId>().ok().map(|id| id.child(n + 1));
        }
        job.accept(Timestamp::from_millis(tx.now));
        match enqueue::enqueue_one(tx, &job)? {
            Ok(_) => {}
            Err(refused) if refused.kind == RefusedKind::Duplicate => {
                enqueue::end_as_duplicate(tx, &job, &refused)?;
            }
            Err(refused) => refused_follow(tx, parent, &job, &refused)?,
        }
    }
    Ok(())
}

/// A follow-up job that cannot be taken: its parent has run and cannot be asked any more, so that it ends among
/// the dead letters, with its text and the reason.
fn refused_follow(tx: &mut Tx<'_>, parent: &str, job: &Job, refused: &Refused) -> Result<(), StoreError> {
    tracing::warn!(parent, %refused, "a follow-up job was refused and is kept as a dead letter");
    let fault = format!("follow-up of `{parent}` refused: {refused}");
    let raw = job.to_json();
    enqueue::store_malformed(tx, &JobId::new().to_string(), job.queue(), &fault, raw.as_bytes())
}

/// How a failure handler ended is shown on the job that it was for.
fn note_handled(tx: &Tx<'_>, handled: &Handled) -> Result<(), StoreError> {
    let row = tx
        .db
        .prepare_cached("SELECT seq, handled FROM job WHERE id = ?1")?
        .query_row([handled.job.to_string()], |row| {
            Ok((row.get::<_, i64>(0)?, row.get::<_, Option<String>>(1)?))
        })
        .optional()?;
    let Some((seq, text)) = row else { return Ok(()) };
    let mut all: Vec<Handled> = text.and_then(|text| serde_json::from_str(&text).ok()).unwrap_or_default();
    all.retain(|known| known.handler != handled.handler);
    all.push(handled.clone());
    let text = serde_json::to_string(&all).unwrap_or_default();
    tx.run("UPDATE job SET handled = ?2, rare = 1 WHERE seq = ?1", (seq, text)).map(drop)
}
