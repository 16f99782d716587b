//! Leases: what a claim holds, and how jobs are chosen for one.

use std::collections::VecDeque;

use ganger_core::{Room, Token};
use rusqlite::{Connection, OptionalExtension};

use crate::{
    enqueue::NO_TYPE,
    error::StoreError,
    handout::Handout,
    lost,
    row::{COLUMNS, Row},
    source::Who,
    tx::Tx,
};

/// One item of a claim: a job's place in the order and what is special about it, in 8 bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Item(u64);

impl Item {
    const KEEP: u64 = 1;
    const SUSPECT: u64 = 2;
    const SETTLED: Item = Item(0);

    pub(crate) fn of(row: &Row) -> Item {
        let keep = if row.has_keep() { Item::KEEP } else { 0 };
        let suspect = if row.suspect || row.crashes > 0 { Item::SUSPECT } else { 0 };
        Item(((row.seq as u64) << 3) | keep | suspect)
    }

    /// The job's place in the order; `None` when it is settled.
    pub(crate) fn seq(self) -> Option<i64> {
        (self != Item::SETTLED).then_some((self.0 >> 3) as i64)
    }

    /// Whether its end needs no look at its row.
    pub(crate) fn is_plain(self) -> bool {
        self.0 & 7 == 0
    }

    /// Whether it was leased as a suspect.
    pub(crate) fn is_suspect(self) -> bool {
        self.0 & Item::SUSPECT != 0
    }
}

/// Which claim: its token, and the provider that made it.
pub(crate) type Key<'a> = (&'a str, Token);

/// A stored claim.
#[derive(Clone, Debug)]
pub(crate) struct Claim {
    pub(crate) items: Vec<Item>,
}

impl Claim {
    /// Reads a claim; `None` when it is taken or settled whole.
    pub(crate) fn load(db: &Connection, (source, token): Key<'_>) -> Result<Option<Claim>, StoreError> {
        let sql = "SELECT items FROM claim WHERE incarnation = ?1 AND source = ?2 AND token = ?3";
        let mut statement = db.prepare_cached(sql)?;
        let claim = statement
            .query_row((token.incarnation as i64, source, token.seq as i64), |row| {
                Ok(Claim::from_bytes(row.get_ref(0)?.as_blob()?))
            })
            .optional()?;
        Ok(claim)
    }

    pub(crate) fn from_bytes(bytes: &[u8]) -> Claim {
        Claim { items: words(bytes).map(Item).collect() }
    }

    pub(crate) fn to_bytes(&self) -> Vec<u8> {
        self.items.iter().flat_map(|item| item.0.to_le_bytes()).collect()
    }

    /// The item at `index`, if it is open.
    pub(crate) fn open(&self, index: u32) -> Option<Item> {
        self.items.get(index as usize).copied().filter(|item| *item != Item::SETTLED)
    }

    /// Marks an item as settled.
    pub(crate) fn settle(&mut self, index: u32) {
        if let Some(item) = self.items.get_mut(index as usize) {
            *item = Item::SETTLED;
        }
    }

    /// Writes what is left of the claim.
    pub(crate) fn save(&self, tx: &Tx<'_>, (source, token): Key<'_>) -> Result<(), StoreError> {
        let key = (token.incarnation as i64, source, token.seq as i64);
        if self.items.iter().all(|item| *item == Item::SETTLED) {
            let sql = "DELETE FROM claim WHERE incarnation = ?1 AND source = ?2 AND token = ?3";
            return tx.run(sql, key).map(drop);
        }
        let sql = "UPDATE claim SET items = ?4 WHERE incarnation = ?1 AND source = ?2 AND token = ?3";
        tx.run(sql, (key.0, key.1, key.2, self.to_bytes())).map(drop)
    }

    /// Writes a new claim.
    pub(crate) fn create(&self, tx: &Tx<'_>, (source, token): Key<'_>, lease: i64) -> Result<(), StoreError> {
        let deadline = tx.ticks.saturating_add(lease);
        let key = (token.incarnation as i64, source, token.seq as i64);
        let sql = "INSERT INTO claim VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)";
        tx.run(sql, (key.0, key.1, key.2, deadline, lease, tx.now, self.to_bytes())).map(drop)
    }
}

/// The 8-byte numbers that a blob is made of.
pub(crate) fn words(bytes: &[u8]) -> impl Iterator<Item = u64> {
    bytes.chunks_exact(8).map(|word| word.iter().rev().fold(0, |number, byte| number << 8 | u64::from(*byte)))
}

/// What a claim got.
#[derive(Debug, Default)]
pub(crate) struct Taken {
    pub(crate) items: Vec<Item>,
    /// Whether more that there was room for may be ready.
    pub(crate) more: bool,
}

/// Takes what the room allows from where it waits, and hands it out.
pub(crate) fn take(tx: &mut Tx<'_>, room: &Room, who: &Who, out: &mut Handout) -> Result<Taken, StoreError> {
    if room.is_none() {
        return Ok(Taken::default());
    }
    if room.suspect
        && let Some(row) = lost::take_suspect(tx, room, who)?
    {
        let items = vec![Item::of(&row)];
        out.hand(tx.db, tx.lanes, 0, row)?;
        return Ok(Taken { items, more: true });
    }
    let mut choice = Choice::new(tx, room, who)?;
    let chosen = choice.choose(tx)?;
    let (items, cut) = load(tx, &chosen, room.bytes, out)?;
    choice.remove(tx, &chosen[..items.len()])?;
    Ok(Taken { more: cut || choice.more(items.len()), items })
}

/// A ready job's place: `rank` and `seq` order it among all lanes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Key3 {
    rank: i64,
    seq: i64,
    cursor: usize,
}

/// One lane's ready jobs, read piece by piece.
struct Cursor {
    lane: i64,
    /// Index into the room by type; `None` for entries that are no jobs, which any room takes.
    kind: Option<usize>,
    read: VecDeque<(i64, i64)>,
    last: (i64, i64),
    dry: bool,
}

/// The choice among all lanes that there is room for: the first by priority, then by order.
struct Choice {
    cursors: Vec<Cursor>,
    room: Vec<u32>,
    jobs: u32,
    piece: i64,
    left_over: bool,
}

impl Choice {
    fn new(tx: &mut Tx<'_>, room: &Room, who: &Who) -> Result<Choice, StoreError> {
        let mut cursors = Vec::new();
        let mut lane = -1;
        // From lane to lane that has anything ready, however many jobs each has.
        while let Some(next) =
            tx.number("SELECT lane FROM ready WHERE lane > ?1 ORDER BY lane LIMIT 1", [lane])?
        {
            lane = next;
            let names = tx.lanes.get(tx.db, lane)?;
            if !who.takes(&names.queue) {
                continue;
            }
            let kind = room.types.iter().position(|of| of.kind == names.kind && of.jobs > 0);
            if kind.is_some() || names.kind == NO_TYPE {
                cursors.push(Cursor { lane, kind, read: VecDeque::new(), last: (i64::MIN, 0), dry: false });
            }
        }
        let piece = i64::from(room.jobs).min(if cursors.len() > 1 { 256 } else { i64::MAX }) + 1;
        let by_type = room.types.iter().map(|of| of.jobs).collect();
        Ok(Choice { cursors, room: by_type, jobs: room.jobs, piece, left_over: false })
    }

    /// Chooses, and reads no more of a lane than it needs.
    fn choose(&mut self, tx: &Tx<'_>) -> Result<Vec<Key3>, StoreError> {
        let mut heads = std::collections::BinaryHeap::new();
        for at in 0..self.cursors.len() {
            if let Some(key) = self.head(tx, at)? {
                heads.push(std::cmp::Reverse(key));
            }
        }
        let mut chosen = Vec::new();
        while let Some(std::cmp::Reverse(key)) = heads.pop() {
            if chosen.len() as u32 >= self.jobs {
                self.left_over = true;
                break;
            }
            let cursor = &mut self.cursors[key.cursor];
            if let Some(kind) = cursor.kind {
                if self.room[kind] == 0 {
                    continue;
                }
                self.room[kind] -= 1;
            }
            cursor.read.pop_front();
            chosen.push(key);
            if let Some(next) = self.head(tx, key.cursor)? {
                heads.push(std::cmp::Reverse(next));
            }
        }
        Ok(chosen)
    }

    fn head(&mut self, tx: &Tx<'_>, at: usize) -> Result<Option<Key3>, StoreError> {
        let piece = self.piece;
        let cursor = &mut self.cursors[at];
        if cursor.read.is_empty() && !cursor.dry {
            let mut statement = tx.db.prepare_cached(
                "SELECT rank, seq FROM ready WHERE lane = ?1 AND (rank, seq) > (?2, ?3) ORDER BY rank, seq LIMIT ?4",
            )?;
            let mut rows = statement.query((cursor.lane, cursor.last.0, cursor.last.1, piece))?;
            while let Some(row) = rows.next()? {
                cursor.read.push_back((row.get(0)?, row.get(1)?));
            }
            cursor.dry = (cursor.read.len() as i64) < piece;
            cursor.last = cursor.read.back().copied().unwrap_or(cursor.last);
        }
        Ok(cursor.read.front().map(|(rank, seq)| Key3 { rank: *rank, seq: *seq, cursor: at }))
    }

    /// Takes the chosen ones from their lanes: of each lane and rank they are the first.
    fn remove(&self, tx: &Tx<'_>, chosen: &[Key3]) -> Result<(), StoreError> {
        let mut last: Vec<(i64, i64, i64)> = Vec::new();
        for key in chosen {
            let lane = self.cursors[key.cursor].lane;
            match last.iter_mut().rev().find(|(of, rank, _)| *of == lane && *rank == key.rank) {
                Some((_, _, seq)) => *seq = key.seq,
                None => last.push((lane, key.rank, key.seq)),
            }
        }
        for range in last {
            tx.run("DELETE FROM ready WHERE lane = ?1 AND rank = ?2 AND seq <= ?3", range)?;
        }
        Ok(())
    }

    /// Whether the limit on all jobs, not that on a type, is what ended the choice.
    fn more(&self, taken: usize) -> bool {
        self.left_over && taken > 0
    }
}

/// Reads the chosen jobs, as far as the room in bytes goes (one always fits); answers whether it cut any off.
fn load(
    tx: &mut Tx<'_>,
    chosen: &[Key3],
    bytes: u64,
    out: &mut Handout,
) -> Result<(Vec<Item>, bool), StoreError> {
    let sql = format!("SELECT {COLUMNS} FROM job j WHERE j.seq BETWEEN ?1 AND ?2 ORDER BY j.seq");
    let mut statement = tx.db.prepare_cached(&sql)?;
    let mut items = Vec::with_capacity(chosen.len());
    let mut weight = 0u64;
    let mut at = 0;
    while at < chosen.len() {
        let run = chosen[at..].windows(2).take_while(|pair| pair[1].seq == pair[0].seq + 1).count() + 1;
        let mut rows = statement.query((chosen[at].seq, chosen[at + run - 1].seq))?;
        while let Some(row) = rows.next()? {
            let row = Row::read(tx.db, row)?;
            weight = weight.saturating_add(row.weight());
            if weight > bytes && !items.is_empty() {
                return Ok((items, true));
            }
            items.push(Item::of(&row));
            out.hand(tx.db, tx.lanes, items.len() as u32 - 1, row)?;
        }
        at += run;
    }
    Ok((items, false))
}
