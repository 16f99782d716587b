//! Waiting until there may be work.

use std::time::Duration;

use ganger_core::{ProviderError, Room, Timestamp};
use rusqlite::{Connection, OptionalExtension};

use crate::{
    enqueue::NO_TYPE,
    error::StoreError,
    lost::{self, Absences, Lease},
    read::Look,
    source::Who,
    spool::{Shared, Spool},
    tx::Lanes,
};

/// How often a waiting manager looks whether the holder of a lease has died: nothing else would tell it.
const LOOK_AT_HOLDERS: Duration = Duration::from_millis(500);

/// The longest sleep: the wall clock may have been set meanwhile.
const SLEEP_MAX: Duration = Duration::from_secs(5);

/// Returns when an exchange may find work for `room`.
pub(crate) async fn wait(spool: &Spool, who: &std::sync::Arc<Who>, room: &Room) -> Result<(), ProviderError> {
    let mut changes = spool.shared.changes();
    loop {
        changes.borrow_and_update();
        let (of, who, room) = (spool.shared.clone(), who.clone(), room.clone());
        let next = spool.readers.run(Look::Short, move |db| look(db, &of, &who, &room)).await?;
        let Some(sleep) = next else { return Ok(()) };
        // Either way the file is looked at again.
        let _ = tokio::time::timeout(sleep, changes.changed()).await;
    }
}

/// `None` when there may be work now; else how long there will be none if nothing changes.
fn look(db: &Connection, shared: &Shared, who: &Who, room: &Room) -> Result<Option<Duration>, StoreError> {
    if room.is_none() {
        return Ok(Some(SLEEP_MAX));
    }
    let exists = |sql: &str| -> Result<bool, StoreError> {
        Ok(db.prepare_cached(sql)?.query_row([], |_| Ok(())).optional()?.is_some())
    };
    if exists("SELECT 1 FROM inbox LIMIT 1")? || ready_lane(db, who, room)? {
        return Ok(None);
    }
    let mut sleep = SLEEP_MAX;
    let due: Option<i64> = db
        .prepare_cached("SELECT at FROM due ORDER BY at LIMIT 1")?
        .query_row([], |row| row.get(0))
        .optional()?;
    if let Some(at) = due {
        match u64::try_from(at - Timestamp::now().as_millis()) {
            Ok(left) if left > 0 => sleep = sleep.min(Duration::from_millis(left)),
            _ => return Ok(None),
        }
    }
    if room.suspect {
        if suspect_lane(db, who, room)? {
            return Ok(None);
        }
        if lost::find(db, &mut Lanes::default(), shared, room, who)?.is_some() {
            return Ok(None);
        }
        if let Some(left) = lost_lease(db, shared)? {
            sleep = sleep.min(left).min(LOOK_AT_HOLDERS);
        }
    }
    Ok(Some(sleep))
}

/// Whether a lane that there is room for has a job ready.
fn ready_lane(db: &Connection, who: &Who, room: &Room) -> Result<bool, StoreError> {
    let mut next = db.prepare_cached(
        "SELECT r.lane, l.queue, l.type FROM ready r JOIN lane l ON l.id = r.lane WHERE r.lane > ?1 \
         ORDER BY r.lane LIMIT 1",
    )?;
    let mut lane = -1;
    while let Some((found, queue, kind)) = next
        .query_row([lane], |row| {
            Ok((row.get::<_, i64>(0)?, row.get::<_, String>(1)?, row.get::<_, String>(2)?))
        })
        .optional()?
    {
        if who.takes(&queue) && (kind == NO_TYPE || room.of(&kind) > 0) {
            return Ok(true);
        }
        lane = found;
    }
    Ok(false)
}

fn suspect_lane(db: &Connection, who: &Who, room: &Room) -> Result<bool, StoreError> {
    let mut statement = db.prepare_cached(
        "SELECT DISTINCT s.crashed, l.queue, l.type FROM suspect s JOIN lane l ON l.id = s.lane",
    )?;
    let mut rows = statement.query([])?;
    while let Some(row) = rows.next()? {
        let (crashed, queue, kind): (bool, String, String) = (row.get(0)?, row.get(1)?, row.get(2)?);
        if (!crashed || room.crashed) && who.takes(&queue) && (kind == NO_TYPE || room.of(&kind) > 0) {
            return Ok(true);
        }
    }
    Ok(false)
}

/// When the next lease may be taken over, from now.
fn lost_lease(db: &Connection, shared: &Shared) -> Result<Option<Duration>, StoreError> {
    let (absences, ticks) = (Absences::load(db, &shared.boot)?, crate::clock::boot_millis());
    let leases = Lease::all(db)?;
    // Those that are free already hold nothing that there is room for.
    let next = leases.iter().map(|lease| lease.free_at(shared, &absences)).filter(|at| *at > ticks).min();
    let left = |at: i64| Duration::from_millis(u64::try_from(at.saturating_sub(ticks)).unwrap_or(0));
    Ok(next.map(left).or(leases.first().map(|_| LOOK_AT_HOLDERS)))
}
