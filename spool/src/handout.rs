//! Leased jobs on their way to whoever asked for them, as rows, piece by piece while the transaction goes on: jobs
//! are made of them there, beside the writer. They count only when the answer comes, which follows the commit.

use std::pin::pin;

use ganger_core::Leased;
use rusqlite::Connection;
use tokio::sync::mpsc;

use crate::{
    exchange::Answer,
    row::Row,
    tx::{Lane, Lanes},
};

/// So many rows go together: enough to be worth a wake-up.
const PIECE: usize = 512;

/// A leased job: its index in the claim, its columns, its queue and type.
type Handed = (u32, Row, Lane);

/// The writer's side.
pub(crate) struct Handout {
    // Bounded by the room that was asked for.
    to: mpsc::UnboundedSender<Vec<Handed>>,
    piece: Vec<Handed>,
    lane: Option<(i64, Lane)>,
}

/// The side of whoever asked.
pub(crate) struct Intake(mpsc::UnboundedReceiver<Vec<Handed>>);

/// Both sides.
pub(crate) fn handout() -> (Handout, Intake) {
    let (to, from) = mpsc::unbounded_channel();
    (Handout { to, piece: Vec::new(), lane: None }, Intake(from))
}

impl Handout {
    /// Hands a job over.
    pub(crate) fn hand(
        &mut self,
        db: &Connection,
        lanes: &mut Lanes,
        index: u32,
        row: Row,
    ) -> rusqlite::Result<()> {
        let lane = match &self.lane {
            Some((of, lane)) if *of == row.lane => lane.clone(),
            _ => {
                let lane = lanes.get(db, row.lane)?;
                self.lane = Some((row.lane, lane.clone()));
                lane
            }
        };
        self.piece.push((index, row, lane));
        if self.piece.len() >= PIECE {
            self.flush();
        }
        Ok(())
    }

    /// Sends what is not on its way yet.
    pub(crate) fn flush(&mut self) {
        if !self.piece.is_empty() {
            let piece = std::mem::replace(&mut self.piece, Vec::with_capacity(PIECE));
            // Nobody asks any more: the answer will find that out too.
            let _ = self.to.send(piece);
        }
    }

    /// Forgets what is not on its way yet.
    pub(crate) fn begin(&mut self) {
        self.piece.clear();
        self.lane = None;
    }
}

impl Intake {
    /// Makes jobs of the rows as they come, until the answer is there: that, and the jobs that it leases.
    pub(crate) async fn take<E>(
        mut self,
        answer: impl Future<Output = Result<Answer, E>>,
    ) -> Result<(Answer, Vec<Leased>), E> {
        let mut answer = pin!(answer);
        let mut leased = Vec::new();
        let answer = loop {
            tokio::select! {
                biased;
                Some(piece) = self.0.recv() => leased.extend(piece.into_iter().map(make)),
                answer = &mut answer => break answer?,
            }
        };
        while let Ok(piece) = self.0.try_recv() {
            leased.extend(piece.into_iter().map(make));
        }
        // Those of a try that was not committed came before.
        leased.drain(..leased.len().saturating_sub(answer.leased));
        Ok((answer, leased))
    }
}

fn make((index, row, lane): Handed) -> Leased {
    Leased { index, record: row.record(), entry: row.entry(lane) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{row::COLUMNS, schema::MIGRATIONS};

    #[tokio::test]
    async fn the_jobs_of_a_try_that_was_not_committed_are_not_answered() {
        let db = Connection::open_in_memory().unwrap();
        db.execute_batch(MIGRATIONS[0]).unwrap();
        db.execute_batch(
            "INSERT INTO lane VALUES (1, 'default', 'test'); INSERT INTO job (seq, lane, state, changed, priority, rare, \
             cancel, suspect, spent, crashes, capture_output, created_at, id) VALUES (9, 1, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 'a')",
        )
        .unwrap();
        let sql = format!("SELECT {COLUMNS} FROM job j");
        let (mut out, jobs) = handout();
        for _ in 0..2 {
            out.begin();
            for index in 0..PIECE as u32 + 1 {
                let row = db.query_row(&sql, [], |row| Row::read(&db, row)).unwrap();
                out.hand(&db, &mut Lanes::default(), index, row).unwrap();
            }
            out.flush();
        }
        let answer = Answer { leased: PIECE + 1, ..Answer::default() };
        let (_, leased) = jobs.take(std::future::ready(Ok::<_, ()>(answer))).await.unwrap();
        let indexes: Vec<u32> = leased.iter().map(|job| job.index).collect();
        assert_eq!(indexes, (0..PIECE as u32 + 1).collect::<Vec<_>>());
    }
}
