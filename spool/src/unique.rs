//! Who holds a unique key: a job does it by being in one of the states that it names, and by nothing else.

use ganger_core::{JobId, State, Unique};
use rusqlite::{Connection, OptionalExtension, named_params};

use crate::{
    error::StoreError,
    read::STATE,
    tx::{OPEN, end_code},
};

/// So many open jobs of a key are looked at, where their states let several in; beyond it the first counts as the holder.
const LOOK_MAX: usize = 100;

/// The job that holds a key, other than the one of this id.
pub(crate) fn holder(db: &Connection, key: &str, than: &str, now: i64) -> Result<Option<JobId>, StoreError> {
    // What the texts of this key begin with, and the first text behind all of them.
    let key = serde_json::to_string(key).unwrap_or_default();
    let (mut after, end) = (format!("{{\"key\":{key},"), format!("{{\"key\":{key}-"));
    loop {
        let next: Option<String> = db
            .prepare_cached(
                "SELECT \"unique\" FROM job WHERE \"unique\" > ?1 AND \"unique\" < ?2 ORDER BY \"unique\" LIMIT 1",
            )?
            .query_row((&after, &end), |row| row.get(0))
            .optional()?;
        let Some(text) = next else { return Ok(None) };
        if let Ok(unique) = serde_json::from_str::<Unique>(&text)
            && let Some(id) = among(db, &text, &unique, than, now)?
        {
            return Ok(id.parse().ok());
        }
        after = text;
    }
}

/// Among the jobs of one text, which is a key with its states.
fn among(
    db: &Connection,
    text: &str,
    unique: &Unique,
    than: &str,
    now: i64,
) -> Result<Option<String>, StoreError> {
    if unique.states.iter().any(|state| !state.is_end()) {
        let sql = format!(
            "SELECT j.id, {STATE} FROM job j WHERE j.\"unique\" = :text AND j.state = :open AND j.id <> :than LIMIT {LOOK_MAX}"
        );
        let mut statement = db.prepare_cached(&sql)?;
        let values = named_params! {":text": text, ":open": OPEN, ":than": than, ":now": now};
        let (mut first, mut seen) = (None, 0);
        let mut rows = statement.query(values)?;
        while let Some(row) = rows.next()? {
            let (id, state): (String, String) = (row.get(0)?, row.get(1)?);
            if state.parse::<State>().is_ok_and(|state| unique.holds_in(state)) {
                return Ok(Some(id));
            }
            seen += 1;
            first.get_or_insert(id);
        }
        if seen == LOOK_MAX {
            return Ok(first);
        }
    }
    for state in unique.states.iter().filter(|state| state.is_end()) {
        let ended = db
            .prepare_cached("SELECT id FROM job WHERE \"unique\" = ?1 AND state = ?2 AND id <> ?3 LIMIT 1")?
            .query_row((text, end_code(*state), than), |row| row.get(0))
            .optional()?;
        if ended.is_some() {
            return Ok(ended);
        }
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::schema::{MIGRATIONS, migrate, open_writer};

    #[test]
    fn a_key_is_looked_up_by_its_index() {
        let folder = tempfile::tempdir().unwrap();
        let db = open_writer(&folder.path().join("jobs.db"), true).unwrap();
        migrate(&db, MIGRATIONS).unwrap();
        for (condition, index) in [
            (
                "\"unique\" > ?1 AND \"unique\" < ?2 ORDER BY \"unique\" LIMIT 1",
                "job_unique (unique>? AND unique<?)",
            ),
            ("\"unique\" = ?1 AND state = ?2 AND id <> 'a'", "job_unique (unique=? AND state=?)"),
        ] {
            let plan: String = db
                .prepare(&format!("EXPLAIN QUERY PLAN SELECT \"unique\" FROM job WHERE {condition}"))
                .unwrap()
                .query_row([Some("a"), Some("b")], |row| row.get(3))
                .unwrap();
            assert!(plan.contains(index), "{plan}");
        }
    }

    #[test]
    fn a_key_is_not_taken_for_one_that_begins_alike() {
        let folder = tempfile::tempdir().unwrap();
        let db = open_writer(&folder.path().join("jobs.db"), true).unwrap();
        migrate(&db, MIGRATIONS).unwrap();
        let keys = ["a", "ab", "a\"", "a\\", "a,", "ä", "a\",\"while\":[\"ready\"]"];
        for (n, key) in (1..).zip(keys) {
            let text = serde_json::to_string(&Unique { key: key.into(), states: vec![State::Dead] }).unwrap();
            db.execute(
                "INSERT INTO job (seq, lane, state, changed, priority, rare, cancel, suspect, spent, crashes, \
                 capture_output, created_at, id, \"unique\") VALUES (?1, 1, 4, 0, 0, 1, 0, 0, 0, 0, 0, 0, ?2, ?3)",
                (n, n.to_string(), text),
            )
            .unwrap();
        }
        for (n, key) in (1..).zip(keys) {
            let id: JobId = n.to_string().parse().unwrap();
            assert_eq!(holder(&db, key, "", 0).unwrap(), Some(id.clone()), "{key}");
            assert_eq!(holder(&db, key, &id.to_string(), 0).unwrap(), None, "{key}");
        }
        assert_eq!(holder(&db, "b", "", 0).unwrap(), None);
    }
}
