//! Where jobs go in.

use compact_str::CompactString;
use ganger_core::{
    Batch, Beat, BoxFuture, Ended, Enqueued, Job, JobId, Provider, ProviderError, Refused, RefusedKind, Sink,
    State, Timestamp,
};

use crate::{
    MemoryProvider,
    store::{ANSWERS_MAX, Store},
};

impl Sink for MemoryProvider {
    fn enqueue(&self, batch: Batch) -> BoxFuture<'_, Result<Vec<Result<Enqueued, Refused>>, ProviderError>> {
        Box::pin(async move {
            let wall = self.clock.wall();
            let answer = self.lock().enqueue(batch, wall);
            self.changed.notify_waiters();
            Ok(answer)
        })
    }

    fn states<'a>(&'a self, ids: &'a [JobId]) -> BoxFuture<'a, Result<Vec<Option<State>>, ProviderError>> {
        Box::pin(async move {
            let store = self.lock();
            Ok(ids.iter().map(|id| store.known(id).map(|known| known.state)).collect())
        })
    }

    fn ended<'a>(&'a self, ids: &'a [JobId]) -> BoxFuture<'a, Result<Vec<Ended>, ProviderError>> {
        Box::pin(async move {
            loop {
                let mut changed = std::pin::pin!(self.ended.notified());
                changed.as_mut().enable();
                let ended: Vec<Ended> = {
                    let store = self.lock();
                    ids.iter().filter_map(|id| store.ended(id)).collect()
                };
                if !ended.is_empty() || ids.is_empty() {
                    return Ok(ended);
                }
                changed.await;
            }
        })
    }

    fn managers(&self) -> BoxFuture<'_, Result<Vec<Beat>, ProviderError>> {
        Box::pin(async move {
            let now = self.clock.monotonic();
            let store = self.lock();
            let alive = store.beats.values().filter(|(_, deadline)| *deadline > now);
            Ok(alive.map(|(beat, _)| beat.clone()).collect())
        })
    }

    fn ready_types(&self) -> BoxFuture<'_, Result<Vec<CompactString>, ProviderError>> {
        Box::pin(async move { Ok(self.lock().ready_types()) })
    }

    fn cancel<'a>(&'a self, id: &'a JobId) -> BoxFuture<'a, Result<bool, ProviderError>> {
        Box::pin(async move {
            let cancelled = self.lock().cancel(id);
            self.ended.notify_waiters();
            Ok(cancelled)
        })
    }
}

impl Store {
    fn enqueue(&mut self, batch: Batch, wall: Timestamp) -> Vec<Result<Enqueued, Refused>> {
        if let Some((_, answer)) = self.batches.iter().find(|(token, _)| *token == batch.token) {
            return answer.clone();
        }
        let answer: Vec<_> = batch.jobs.into_iter().map(|job| self.enqueue_one(job, wall)).collect();
        if self.batches.len() == ANSWERS_MAX {
            self.batches.pop_front();
        }
        self.batches.push_back((batch.token, answer.clone()));
        answer
    }

    fn enqueue_one(&mut self, mut job: Job, wall: Timestamp) -> Result<Enqueued, Refused> {
        MemoryProvider::CAPABILITIES.admit(&job)?;
        let id = job.accept(wall).clone();
        if let Some(known) = self.known(&id) {
            return match known.is(&job) {
                true => Ok(Enqueued { id, existed: true, state: known.state }),
                false => Err(Refused::new(
                    RefusedKind::Conflict,
                    format!("the id `{id}` belongs to another job: leave it out, or choose another"),
                )),
            };
        }
        if let Some(holder) = job.rare().unique.as_ref().and_then(|unique| self.holder(&unique.key, &id)) {
            return Err(Refused::duplicate(holder));
        }
        if !self.has_space(&job) {
            let message = "the store is full: wait until jobs are done, or raise `bytes_max`";
            return Err(Refused::new(RefusedKind::Full, message));
        }
        let state = self.add(job, wall);
        Ok(Enqueued { id, existed: false, state })
    }

    /// How a job ended; `None` while it has not.
    fn ended(&self, id: &JobId) -> Option<Ended> {
        let Some(known) = self.known(id) else {
            return Some(Ended { id: id.clone(), state: None, runs: 0, error: None, output: None });
        };
        known.state.is_end().then(|| Ended {
            id: id.clone(),
            state: Some(known.state),
            runs: known.runs,
            error: known.error.clone(),
            output: known.output.clone(),
        })
    }
}
