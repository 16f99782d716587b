//! The exchange: verdicts in, leases out, in one step.

use ganger_core::{Exchange, LeaseRef, Token};
use rusqlite::OptionalExtension;

use crate::{
    absorb,
    claim::{self, Claim},
    error::StoreError,
    handout::Handout,
    lost, row,
    settle::{end_done, settle},
    source::Who,
    tx::Tx,
};

/// At most so many jobs become ready by their time in one transaction.
const DUE_MAX: i64 = 4096;

/// What an exchange answers; its jobs are handed out as rows.
#[derive(Debug, Default)]
pub(crate) struct Answer {
    pub(crate) stale: Vec<LeaseRef>,
    /// How many jobs were handed out.
    pub(crate) leased: usize,
    pub(crate) more: bool,
}

/// Carries out an exchange, or answers a repeated one as before.
pub(crate) fn exchange(
    tx: &mut Tx<'_>,
    who: &Who,
    give: &Exchange,
    out: &mut Handout,
) -> Result<Answer, StoreError> {
    let source = who.name.as_str();
    out.begin();
    if let Some(answer) = repeat(tx, source, give.token, out)? {
        return Ok(answer);
    }
    lost::note_contact(tx)?;
    let (stale, done) = settle(tx, source, &give.settle)?;
    let mut answer = Answer { stale, ..Answer::default() };
    let lease = row::as_millis(give.lease);
    if !give.room.is_none() {
        let arriving = absorb::absorb(tx)?;
        let due = wake_due(tx)?;
        let taken = claim::take(tx, &give.room, who, out)?;
        out.flush();
        answer.more = taken.more || arriving || due;
        answer.leased = taken.items.len();
        if !taken.items.is_empty() {
            who.hold(tx.shared, give.token.incarnation)?;
            Claim { items: taken.items }.create(tx, (source, give.token), lease)?;
        }
    }
    // Last, because nothing above depends on it and jobs are made of the rows meanwhile.
    end_done(tx, done)?;
    remember(tx, source, give.token, lease, &answer)?;
    Ok(answer)
}

/// The answer that was given to the same token before.
fn repeat(
    tx: &mut Tx<'_>,
    source: &str,
    token: Token,
    out: &mut Handout,
) -> Result<Option<Answer>, StoreError> {
    let sql = "SELECT stale, more FROM member WHERE incarnation = ?1 AND source = ?2 AND token = ?3";
    let remembered = tx
        .db
        .prepare_cached(sql)?
        .query_row((token.incarnation as i64, source, token.seq as i64), |row| {
            Ok((row.get::<_, Option<Vec<u8>>>(0)?.unwrap_or_default(), row.get::<_, bool>(1)?))
        })
        .optional()?;
    let Some((stale, more)) = remembered else { return Ok(None) };
    let stale = stale.chunks_exact(20).map(read_lease).collect();
    let mut answer = Answer { stale, more, leased: 0 };
    let claim = Claim::load(tx.db, (source, token))?.map_or_else(Vec::new, |claim| claim.items);
    let sql = format!("SELECT {} FROM job j WHERE j.seq = ?1", row::COLUMNS);
    for (index, item) in (0u32..).zip(claim) {
        let Some(seq) = item.seq() else { continue };
        let row =
            tx.db.prepare_cached(&sql)?.query_row([seq], |row| row::Row::read(tx.db, row)).optional()?;
        if let Some(row) = row {
            out.hand(tx.db, tx.lanes, index, row)?;
            answer.leased += 1;
        }
    }
    out.flush();
    Ok(Some(answer))
}

/// Keeps the answer until the manager's next exchange.
fn remember(tx: &Tx<'_>, source: &str, token: Token, lease: i64, answer: &Answer) -> Result<(), StoreError> {
    let stale =
        (!answer.stale.is_empty()).then(|| answer.stale.iter().flat_map(write_lease).collect::<Vec<u8>>());
    tx.run(
        "INSERT INTO member (incarnation, source, token, stale, more, boot, seen, lease) \
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8) ON CONFLICT (incarnation, source) DO UPDATE SET \
         token = excluded.token, stale = excluded.stale, more = excluded.more, seen = excluded.seen, \
         boot = excluded.boot",
        (
            token.incarnation as i64,
            source,
            token.seq as i64,
            stale,
            answer.more,
            &tx.shared.boot,
            tx.ticks,
            lease,
        ),
    )
    .map(drop)
}

fn write_lease(lease: &LeaseRef) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(20);
    bytes.extend(lease.token.incarnation.to_le_bytes());
    bytes.extend(lease.token.seq.to_le_bytes());
    bytes.extend(lease.index.to_le_bytes());
    bytes
}

fn read_lease(bytes: &[u8]) -> LeaseRef {
    let number = |from: usize, to: usize| {
        bytes[from..to].iter().rev().fold(0u64, |number, byte| number << 8 | u64::from(*byte))
    };
    LeaseRef { token: Token { incarnation: number(0, 8), seq: number(8, 16) }, index: number(16, 20) as u32 }
}

/// Jobs whose time has come wait for a worker now; answers whether there may be more of them.
pub(crate) fn wake_due(tx: &mut Tx<'_>) -> Result<bool, StoreError> {
    let mut due = Vec::new();
    {
        let mut statement =
            tx.db.prepare_cached("SELECT at, seq FROM due WHERE at <= ?1 ORDER BY at, seq LIMIT ?2")?;
        let mut rows = statement.query((tx.now, DUE_MAX))?;
        while let Some(row) = rows.next()? {
            due.push((row.get::<_, i64>(0)?, row.get::<_, i64>(1)?));
        }
    }
    for (at, seq) in &due {
        tx.run("DELETE FROM due WHERE at = ?1 AND seq = ?2", (at, seq))?;
        if let Some(place) = tx.place(*seq)? {
            tx.put_ready(&place)?;
        }
    }
    Ok(due.len() as i64 == DUE_MAX)
}
