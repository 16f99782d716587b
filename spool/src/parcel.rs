//! Parcels: jobs of another store that this file holds for a while, a batch at a time. What is in one is that store's
//! own affair.
//!
//! They have a table of their own, made with the first: files without one, and programs that do not know it, are as
//! they were.

use std::sync::Arc;

use ganger_core::ProviderError;
use rusqlite::{Connection, OptionalExtension, Row};

use crate::{error::StoreError, read::Look, spool::Spool, tx::Tx};

/// `store` tells whose jobs they are; `owner` and `incarnation` which manager sees to them. Of one `episode` the parcel
/// with the highest `n` comes first.
const TABLE: &str = "CREATE TABLE IF NOT EXISTS parcel (token TEXT PRIMARY KEY, store TEXT NOT NULL, \
     owner TEXT NOT NULL, incarnation INTEGER NOT NULL, state TEXT NOT NULL, list TEXT NOT NULL, \
     episode INTEGER NOT NULL, n INTEGER NOT NULL, jobs INTEGER NOT NULL, items BLOB NOT NULL)";

const INDEX: &str =
    "CREATE INDEX IF NOT EXISTS parcel_next ON parcel (owner, store, state, list, episode, n DESC)";

/// A parcel without what is in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Label {
    /// Names it, in this file and in the store that the jobs are of.
    pub token: String,
    /// The list that the jobs were taken from.
    pub list: String,
    /// How many they are.
    pub jobs: u32,
}

/// Jobs of another store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Parcel {
    /// What is written on it.
    pub label: Label,
    /// The jobs, as that store packed them.
    pub items: Vec<u8>,
}

/// How far a parcel is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ParcelState {
    /// It is here, and perhaps in the other store still: that store has to be asked.
    Provisional,
    /// It is here and nowhere else.
    Ready,
    /// It is in the other store again, which may have a note of it still.
    Returned,
}

impl ParcelState {
    fn word(self) -> &'static str {
        match self {
            ParcelState::Provisional => "provisional",
            ParcelState::Ready => "ready",
            ParcelState::Returned => "returned",
        }
    }
}

/// The parcels of one store that one manager sees to. While this is held, no other manager takes them over.
#[derive(Debug)]
pub struct Parcels {
    spool: Arc<Spool>,
    store: String,
    owner: String,
    incarnation: u64,
}

impl Drop for Parcels {
    fn drop(&mut self) {
        self.spool.shared.holders.release(self.incarnation);
    }
}

impl Spool {
    /// The parcels of `store` for the manager `owner`, whose incarnation counts as alive from now on.
    ///
    /// # Errors
    /// The file cannot be written.
    pub async fn parcels(
        self: &Arc<Self>,
        store: impl Into<String>,
        owner: impl Into<String>,
        incarnation: u64,
    ) -> Result<Parcels, ProviderError> {
        let make = |tx: &mut Tx<'_>| {
            tx.run(TABLE, [])?;
            tx.run(INDEX, []).map(drop)
        };
        self.write(true, 0, make).await?;
        let held = self.shared.holders.hold(incarnation);
        held.map_err(|error| StoreError::from(error).on(self.path()))?;
        Ok(Parcels { spool: self.clone(), store: store.into(), owner: owner.into(), incarnation })
    }

    /// The first parcel of `store` whose token comes after `after` and that is not returned, whoever sees to it. One
    /// that is provisional may be in the other store still.
    ///
    /// # Errors
    /// The file cannot be read.
    pub async fn parcel_after(&self, store: &str, after: &str) -> Result<Option<Parcel>, ProviderError> {
        let (store, after) = (store.to_owned(), after.to_owned());
        let look = move |db: &Connection| {
            if !has_table(db)? {
                return Ok(None);
            }
            let sql = "SELECT token, list, jobs, items FROM parcel WHERE token > ?1 AND store = ?2 AND state <> 'returned' \
                 ORDER BY token LIMIT 1";
            Ok(db.prepare_cached(sql)?.query_row((after, store), read_parcel).optional()?)
        };
        self.readers.run(Look::Short, look).await
    }

    /// How many jobs of stores other than `store` are here.
    ///
    /// # Errors
    /// The file cannot be read.
    pub async fn jobs_of_others(&self, store: &str) -> Result<u64, ProviderError> {
        let store = store.to_owned();
        let look = move |db: &Connection| {
            if !has_table(db)? {
                return Ok(0);
            }
            let sql = "SELECT coalesce(sum(jobs), 0) FROM parcel WHERE store <> ?1 AND state <> 'returned'";
            let jobs: i64 = db.prepare_cached(sql)?.query_row([store], |row| row.get(0))?;
            Ok(u64::try_from(jobs).unwrap_or(0))
        };
        self.readers.run(Look::Long, look).await
    }
}

impl Parcels {
    /// Takes over the parcels of managers that are gone; answers how many jobs are in them.
    ///
    /// # Errors
    /// The file cannot be read or written.
    pub async fn adopt(&self) -> Result<u64, ProviderError> {
        let (store, owner, shared) = (self.store.clone(), self.owner.clone(), self.spool.shared.clone());
        let sql = "SELECT DISTINCT incarnation FROM parcel WHERE store = ?1 AND owner <> ?2";
        let look = move |db: &Connection| {
            let mut statement = db.prepare_cached(sql)?;
            let all = statement.query_map((store, owner), |row| row.get::<_, i64>(0))?;
            all.collect::<Result<Vec<i64>, _>>().map_err(StoreError::from)
        };
        let mut gone = self.spool.readers.run(Look::Short, look).await?;
        gone.retain(|incarnation| shared.holders.is_dead(*incarnation as u64));
        if gone.is_empty() {
            return Ok(0);
        }
        let (store, owner, mine) = (self.store.clone(), self.owner.clone(), self.incarnation as i64);
        let take = move |tx: &mut Tx<'_>| {
            let mut jobs = 0;
            for incarnation in &gone {
                let of = (&store, *incarnation);
                let sql = "SELECT sum(jobs) FROM parcel WHERE store = ?1 AND incarnation = ?2";
                jobs += tx.number(sql, of)?.unwrap_or(0);
                let sql =
                    "UPDATE parcel SET owner = ?3, incarnation = ?4 WHERE store = ?1 AND incarnation = ?2";
                tx.run(sql, (&store, *incarnation, &owner, mine))?;
            }
            Ok(jobs)
        };
        let jobs = self.spool.write(true, 0, take).await?;
        Ok(u64::try_from(jobs).unwrap_or(0))
    }

    /// Stores a parcel as provisional: durable when this is answered. Dropped before its turn nothing is stored, later
    /// it is.
    ///
    /// # Errors
    /// The file cannot be written, or has a parcel of this token.
    pub async fn keep(&self, parcel: Parcel, episode: i64, n: u32) -> Result<(), ProviderError> {
        let (store, owner, mine) = (self.store.clone(), self.owner.clone(), self.incarnation as i64);
        let bytes = parcel.items.len();
        let insert = move |tx: &mut Tx<'_>| {
            let sql = "INSERT INTO parcel (token, store, owner, incarnation, state, list, episode, n, jobs, items) \
                 VALUES (?1, ?2, ?3, ?4, 'provisional', ?5, ?6, ?7, ?8, ?9)";
            let Label { token, list, jobs } = &parcel.label;
            tx.run(sql, (token, &store, &owner, mine, list, episode, n, jobs, &parcel.items)).map(drop)
        };
        self.spool.write(true, bytes, insert).await
    }

    /// Takes a parcel from one state to another; one that is in another state stays as it is. Durable when this is
    /// answered.
    ///
    /// # Errors
    /// The file cannot be written.
    pub async fn advance(
        &self,
        token: &str,
        from: ParcelState,
        to: ParcelState,
    ) -> Result<(), ProviderError> {
        let token = token.to_owned();
        let sql = "UPDATE parcel SET state = ?3 WHERE token = ?1 AND state = ?2";
        let step = move |tx: &mut Tx<'_>| tx.run(sql, (&token, from.word(), to.word())).map(drop);
        self.spool.write(true, 0, step).await
    }

    /// Forgets a parcel that is in this state; one that is in another stays. After a loss of power it may be there
    /// again.
    ///
    /// # Errors
    /// The file cannot be written.
    pub async fn forget(&self, token: &str, state: ParcelState) -> Result<(), ProviderError> {
        let token = token.to_owned();
        let sql = "DELETE FROM parcel WHERE token = ?1 AND state = ?2";
        self.spool.write(false, 0, move |tx| tx.run(sql, (&token, state.word())).map(drop)).await
    }

    /// This manager's parcels in a state, at most 100.
    ///
    /// # Errors
    /// The file cannot be read.
    pub async fn labels(&self, state: ParcelState) -> Result<Vec<Label>, ProviderError> {
        let (store, owner) = (self.store.clone(), self.owner.clone());
        let sql =
            "SELECT token, list, jobs FROM parcel WHERE owner = ?1 AND store = ?2 AND state = ?3 LIMIT 100";
        let look = move |db: &Connection| {
            let mut statement = db.prepare_cached(sql)?;
            let labels = statement.query_map((owner, store, state.word()), read_label)?;
            labels.collect::<Result<Vec<_>, _>>().map_err(StoreError::from)
        };
        self.spool.readers.run(Look::Short, look).await
    }

    /// The lists that this manager has ready parcels of.
    ///
    /// # Errors
    /// The file cannot be read.
    pub async fn lists(&self) -> Result<Vec<String>, ProviderError> {
        let (store, owner) = (self.store.clone(), self.owner.clone());
        let sql = "SELECT DISTINCT list FROM parcel WHERE owner = ?1 AND store = ?2 AND state = 'ready'";
        let look = move |db: &Connection| {
            let mut statement = db.prepare_cached(sql)?;
            let lists = statement.query_map((owner, store), |row| row.get(0))?;
            lists.collect::<Result<Vec<_>, _>>().map_err(StoreError::from)
        };
        self.spool.readers.run(Look::Short, look).await
    }

    /// The ready parcel of a list whose turn is next, and how many bytes are in it.
    ///
    /// # Errors
    /// The file cannot be read.
    pub async fn next_ready(&self, list: &str) -> Result<Option<(Label, u64)>, ProviderError> {
        let (store, owner, list) = (self.store.clone(), self.owner.clone(), list.to_owned());
        let sql = "SELECT token, list, jobs, length(items) FROM parcel \
             WHERE owner = ?1 AND store = ?2 AND state = 'ready' AND list = ?3 ORDER BY episode, n DESC LIMIT 1";
        let look = move |db: &Connection| {
            let next = |row: &Row<'_>| Ok((read_label(row)?, row.get::<_, i64>(3)?));
            let next = db.prepare_cached(sql)?.query_row((owner, store, list), next).optional()?;
            Ok(next.map(|(label, bytes)| (label, u64::try_from(bytes).unwrap_or(0))))
        };
        self.spool.readers.run(Look::Short, look).await
    }

    /// What is in a parcel; nothing where it is gone.
    ///
    /// # Errors
    /// The file cannot be read.
    pub async fn items(&self, token: &str) -> Result<Option<Vec<u8>>, ProviderError> {
        let token = token.to_owned();
        let look = move |db: &Connection| {
            let sql = "SELECT items FROM parcel WHERE token = ?1";
            Ok(db.prepare_cached(sql)?.query_row([token], |row| row.get(0)).optional()?)
        };
        self.spool.readers.run(Look::Short, look).await
    }
}

fn has_table(db: &Connection) -> Result<bool, StoreError> {
    let sql = "SELECT 1 FROM sqlite_master WHERE type = 'table' AND name = 'parcel'";
    Ok(db.prepare_cached(sql)?.exists([])?)
}

fn read_label(row: &Row<'_>) -> rusqlite::Result<Label> {
    Ok(Label { token: row.get(0)?, list: row.get(1)?, jobs: row.get(2)? })
}

fn read_parcel(row: &Row<'_>) -> rusqlite::Result<Parcel> {
    Ok(Parcel { label: read_label(row)?, items: row.get(3)? })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::SpoolOptions;

    fn parcel(token: &str) -> Parcel {
        Parcel {
            label: Label { token: token.into(), list: "l".into(), jobs: 3 },
            items: token.as_bytes().to_vec(),
        }
    }

    async fn open(folder: &tempfile::TempDir) -> Arc<Spool> {
        Spool::open(folder.path().join("a.db"), SpoolOptions::default()).await.unwrap()
    }

    async fn next(parcels: &Parcels) -> Option<String> {
        parcels.next_ready("l").await.unwrap().map(|(label, _)| label.token)
    }

    use ParcelState::{Provisional, Ready, Returned};

    #[tokio::test]
    async fn a_parcel_is_provisional_ready_returned_and_gone() {
        let folder = tempfile::tempdir().unwrap();
        let spool = open(&folder).await;
        assert_eq!(spool.parcel_after("s", "").await.unwrap(), None, "there is no table yet");
        let parcels = spool.parcels("s", "m", 1).await.unwrap();
        parcels.keep(parcel("a"), 1, 1).await.unwrap();
        assert!(parcels.keep(parcel("a"), 1, 2).await.is_err(), "never in another's place");
        assert_eq!((next(&parcels).await, parcels.labels(Provisional).await.unwrap().len()), (None, 1));
        parcels.advance("a", Provisional, Ready).await.unwrap();
        parcels.forget("a", Provisional).await.unwrap();
        assert_eq!(spool.parcel_after("s", "").await.unwrap(), Some(parcel("a")), "it is not provisional");
        assert_eq!(parcels.next_ready("l").await.unwrap(), Some((parcel("a").label, 1)));
        assert_eq!(parcels.items("a").await.unwrap(), Some(b"a".to_vec()));
        assert_eq!(parcels.lists().await.unwrap(), ["l"]);
        assert_eq!(spool.jobs_of_others("t").await.unwrap(), 3);
        parcels.advance("a", Ready, Returned).await.unwrap();
        assert_eq!((next(&parcels).await, parcels.labels(Returned).await.unwrap().len()), (None, 1));
        assert_eq!(spool.parcel_after("s", "").await.unwrap(), None);
        parcels.forget("a", Returned).await.unwrap();
        assert_eq!(parcels.labels(Returned).await.unwrap(), []);
    }

    #[tokio::test]
    async fn what_was_taken_last_from_a_tail_comes_first_of_its_episode() {
        let folder = tempfile::tempdir().unwrap();
        let parcels = open(&folder).await.parcels("s", "m", 1).await.unwrap();
        for (token, episode, n) in [("a", 1, 1), ("b", 1, 2), ("c", 2, 3), ("d", 2, 4)] {
            parcels.keep(parcel(token), episode, n).await.unwrap();
            parcels.advance(token, Provisional, Ready).await.unwrap();
        }
        for token in ["b", "a", "d", "c"] {
            assert_eq!(next(&parcels).await.as_deref(), Some(token));
            parcels.advance(token, Ready, Returned).await.unwrap();
        }
    }

    #[tokio::test]
    async fn the_parcels_of_a_manager_that_is_gone_and_of_no_other_are_adopted() {
        let folder = tempfile::tempdir().unwrap();
        let spool = open(&folder).await;
        let (first, second) =
            (spool.parcels("s", "m", 1).await.unwrap(), spool.parcels("s", "n", 2).await.unwrap());
        let elsewhere = spool.parcels("t", "m", 1).await.unwrap();
        first.keep(parcel("a"), 1, 1).await.unwrap();
        elsewhere.keep(parcel("b"), 1, 1).await.unwrap();
        assert_eq!(second.adopt().await.unwrap(), 0, "it lives");
        drop((first, elsewhere));
        assert_eq!(second.adopt().await.unwrap(), 3);
        let labels = second.labels(Provisional).await.unwrap();
        assert_eq!(labels.iter().map(|label| label.token.as_str()).collect::<Vec<_>>(), ["a"]);
    }
}
