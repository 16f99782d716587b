//! The register of managers.

use ganger_core::Beat;
use rusqlite::Connection;

use crate::{error::StoreError, spool::Shared};

/// The beats of the managers that gave a sign of life within their lease, one each.
pub(crate) fn managers(db: &Connection, shared: &Shared) -> Result<Vec<Beat>, StoreError> {
    let ticks = crate::clock::boot_millis();
    let mut statement = db.prepare_cached(
        "SELECT beat, incarnation FROM member WHERE beat IS NOT NULL AND boot = ?1 AND seen + lease >= ?2 \
         ORDER BY incarnation, seen DESC",
    )?;
    let mut rows = statement.query((&shared.boot, ticks))?;
    let mut beats: Vec<Beat> = Vec::new();
    while let Some(row) = rows.next()? {
        let (text, incarnation): (String, i64) = (row.get(0)?, row.get(1)?);
        let known = beats.last().is_some_and(|beat| beat.incarnation == incarnation as u64);
        if known || shared.holders.is_dead(incarnation as u64) {
            continue;
        }
        // A beat that a newer version wrote otherwise is one that this version cannot show.
        if let Ok(beat) = serde_json::from_str(&text) {
            beats.push(beat);
        }
    }
    Ok(beats)
}
