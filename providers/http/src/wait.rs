//! Waiting for jobs' ends, whichever process runs them: one question to the store for all requests that wait.

use std::{
    collections::HashMap,
    slice,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use ganger_core::{Ended, JobId, Sink, State, Stop};
use tokio::{
    sync::{Notify, oneshot},
    time::{Instant, sleep, sleep_until, timeout},
};

use crate::intake::Door;

/// How long to leave a store alone that did not answer.
const AGAIN: Duration = Duration::from_secs(1);

/// How often to look, while ganger stops, which jobs still run.
const LOOK: Duration = Duration::from_millis(250);

/// The longest wait for a single answer of the store.
const STORE_LIMIT: Duration = Duration::from_secs(5);

/// The least time between two questions; who begins to wait in between is in the next.
const GATHER: Duration = Duration::from_millis(5);

/// What each job in a question adds to that time: the more is asked, the less often.
const GATHER_EACH: Duration = Duration::from_micros(20);

/// The ends that requests wait for.
#[derive(Default)]
pub(crate) struct Ends {
    jobs: Mutex<Jobs>,
    joined: Notify,
}

#[derive(Default)]
struct Jobs {
    next: u64,
    by_id: HashMap<JobId, Vec<Request>>,
}

/// A request that waits, and where it is told: the end, or `None` when the job is not waited for any longer.
struct Request {
    number: u64,
    tell: oneshot::Sender<Option<Ended>>,
}

impl Ends {
    fn jobs(&self) -> MutexGuard<'_, Jobs> {
        self.jobs.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for a job's end, at most `limit`; `None` when that is over, or ganger stops and the job does not run: it
    /// is done after the restart. May be dropped at any time.
    pub(crate) async fn until_end(&self, id: &JobId, limit: Duration) -> Option<Ended> {
        let (tell, told) = oneshot::channel();
        let _place = self.join(id, tell);
        timeout(limit, told).await.ok()?.ok()?
    }

    fn join<'a>(&'a self, id: &'a JobId, tell: oneshot::Sender<Option<Ended>>) -> Joined<'a> {
        let mut jobs = self.jobs();
        jobs.next += 1;
        let number = jobs.next;
        jobs.by_id.entry(id.clone()).or_default().push(Request { number, tell });
        drop(jobs);
        self.joined.notify_one();
        Joined { ends: self, id, number }
    }

    fn ids(&self) -> Vec<JobId> {
        self.jobs().by_id.keys().cloned().collect()
    }

    /// Tells the requests that wait for a job.
    fn tell(&self, id: &JobId, ended: Option<Ended>) {
        let Some(mut requests) = self.jobs().by_id.remove(id) else { return };
        let last = requests.pop();
        // One that has gone does not listen.
        for request in requests {
            let _ = request.tell.send(ended.clone());
        }
        if let Some(last) = last {
            let _ = last.tell.send(ended);
        }
    }

    /// Asks the store for the ends, for as long as it is polled. Once ganger stops, only jobs that run are waited for.
    pub(crate) async fn serve(&self, intake: &str, sink: &dyn Sink, stop: &Stop) {
        loop {
            let ids = self.ids();
            let not_before =
                Instant::now() + GATHER + GATHER_EACH * u32::try_from(ids.len()).unwrap_or(u32::MAX);
            if stop.is_set() {
                self.let_go(sink, &ids).await;
            }
            let next_question = async {
                if stop.is_set() {
                    return sleep(LOOK).await;
                }
                tokio::select! {
                    () = self.joined.notified() => sleep_until(not_before).await,
                    () = stop.wait() => {}
                }
            };
            tokio::select! {
                biased;
                answer = sink.ended(&ids), if !ids.is_empty() => match answer {
                    Ok(ended) => {
                        ended.into_iter().for_each(|ended| self.tell(&ended.id.clone(), Some(ended)));
                        sleep_until(not_before).await;
                    }
                    Err(error) => {
                        tracing::debug!(intake, %error, "the store does not tell how jobs end; asked again");
                        sleep(AGAIN).await;
                    }
                },
                () = next_question => {}
            }
        }
    }

    /// Lets go of those who wait for jobs that neither run nor have ended.
    async fn let_go(&self, sink: &dyn Sink, ids: &[JobId]) {
        let states =
            timeout(STORE_LIMIT, sink.states(ids)).await.ok().and_then(Result::ok).unwrap_or_default();
        let mut states = states.into_iter();
        for id in ids {
            let state = states.next().flatten();
            if !state.is_some_and(|state| state == State::Running || state.is_end()) {
                self.tell(id, None);
            }
        }
    }
}

/// A request's place among those that wait; given up when dropped.
struct Joined<'a> {
    ends: &'a Ends,
    id: &'a JobId,
    number: u64,
}

impl Drop for Joined<'_> {
    fn drop(&mut self) {
        let mut jobs = self.ends.jobs();
        let Some(requests) = jobs.by_id.get_mut(self.id) else { return };
        requests.retain(|request| request.number != self.number);
        if requests.is_empty() {
            jobs.by_id.remove(self.id);
        }
    }
}

/// A job's state now, where the store can tell.
pub(crate) async fn state(door: &Door, id: &JobId) -> Option<State> {
    let asked = timeout(STORE_LIMIT, door.sink.sink.states(slice::from_ref(id))).await;
    asked.ok()?.ok()?.into_iter().next()?
}

/// Cancels a job whose client has gone.
pub(crate) async fn cancel(door: &Door, id: &JobId) {
    match timeout(STORE_LIMIT, door.sink.sink.cancel(id)).await {
        Ok(Ok(_)) => {}
        Ok(Err(error)) => {
            tracing::warn!(intake = door.name, job = %id, %error, "the job of a client that left is not cancelled");
        }
        Err(_) => {
            tracing::warn!(intake = door.name, job = %id, "the job of a client that left is not cancelled")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use compact_str::CompactString;
    use ganger_core::{Batch, Beat, BoxFuture, Enqueued, ProviderError, Refused, Stopper};
    use std::{collections::HashSet, sync::Arc};
    use tokio::task::{AbortHandle, JoinSet};

    /// A store that tells of the ends it was given, and keeps the sizes of the questions.
    #[derive(Default)]
    struct Told {
        ended: Mutex<HashSet<JobId>>,
        news: Notify,
        questions: Mutex<Vec<usize>>,
    }

    impl Told {
        fn end(&self, ids: impl IntoIterator<Item = JobId>) {
            self.ended.lock().unwrap().extend(ids);
            self.news.notify_waiters();
        }

        fn questions(&self) -> Vec<usize> {
            std::mem::take(&mut self.questions.lock().unwrap())
        }
    }

    type Answer<'a, T> = BoxFuture<'a, Result<T, ProviderError>>;

    impl Sink for Told {
        fn enqueue(&self, _: Batch) -> Answer<'_, Vec<Result<Enqueued, Refused>>> {
            unreachable!("nothing is stored")
        }
        fn states<'a>(&'a self, ids: &'a [JobId]) -> Answer<'a, Vec<Option<State>>> {
            let running = |id: &JobId| id.to_string().starts_with("running").then_some(State::Running);
            let states = ids.iter().map(running).collect();
            Box::pin(async move { Ok(states) })
        }
        fn ended<'a>(&'a self, ids: &'a [JobId]) -> Answer<'a, Vec<Ended>> {
            Box::pin(async move {
                self.questions.lock().unwrap().push(ids.len());
                loop {
                    let news = self.news.notified();
                    let ended: Vec<Ended> = {
                        let ended = self.ended.lock().unwrap();
                        ids.iter().filter(|id| ended.contains(id)).map(end).collect()
                    };
                    if !ended.is_empty() {
                        return Ok(ended);
                    }
                    news.await;
                }
            })
        }
        fn managers(&self) -> Answer<'_, Vec<Beat>> {
            unreachable!("nobody asks")
        }
        fn ready_types(&self) -> Answer<'_, Vec<CompactString>> {
            unreachable!("nobody asks")
        }
        fn cancel<'a>(&'a self, _: &'a JobId) -> Answer<'a, bool> {
            unreachable!("nobody cancels")
        }
    }

    fn end(id: &JobId) -> Ended {
        Ended { id: id.clone(), state: Some(State::Done), runs: 1, error: None, output: None }
    }

    fn id(text: impl std::fmt::Display) -> JobId {
        text.to_string().parse().unwrap()
    }

    /// Lets time pass: it moves when everybody waits.
    async fn later(time: Duration) {
        // tidy: allow(sleep), the clock is paused
        sleep(time).await;
    }

    struct House {
        ends: Arc<Ends>,
        store: Arc<Told>,
        stopper: Stopper,
        requests: JoinSet<Option<JobId>>,
    }

    impl House {
        fn new() -> Self {
            let house = House {
                ends: Arc::default(),
                store: Arc::default(),
                stopper: Stopper::default(),
                requests: JoinSet::new(),
            };
            let (ends, store, stop) = (house.ends.clone(), house.store.clone(), house.stopper.handle());
            tokio::spawn(async move { ends.serve("door", &*store, &stop).await });
            house
        }

        fn wait(&mut self, id: JobId) -> AbortHandle {
            let ends = self.ends.clone();
            let limit = Duration::from_secs(300);
            self.requests.spawn(async move { ends.until_end(&id, limit).await.map(|ended| ended.id) })
        }

        async fn told(&mut self) -> Option<JobId> {
            self.requests.join_next().await.unwrap().unwrap()
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_thousand_requests_are_one_question() {
        let mut house = House::new();
        let ids: Vec<JobId> = (0..1_000).map(id).collect();
        ids.iter().for_each(|id| drop(house.wait(id.clone())));
        later(Duration::from_secs(1)).await;
        let questions = house.store.questions();
        assert!(questions.len() <= 2 && questions.last() == Some(&1_000), "{questions:?}");
        house.store.end(ids[..400].iter().cloned());
        for _ in 0..400 {
            assert!(house.told().await.is_some());
        }
        later(Duration::from_secs(1)).await;
        assert_eq!(house.store.questions(), [600], "the rest is asked for again, once");
        // Every millisecond one more comes, each with a quick job.
        for n in 1_000..1_100 {
            house.wait(id(n));
            later(Duration::from_millis(1)).await;
            house.store.end([id(n)]);
        }
        for _ in 0..100 {
            assert!(house.told().await.is_some());
        }
        let questions = house.store.questions();
        assert!(questions.len() < 20, "the more is asked, the less often: {questions:?}");
        house.store.end(ids);
        while let Some(told) = house.requests.join_next().await {
            assert!(told.unwrap().is_some());
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_request_that_goes_away_is_not_asked_for_and_takes_nobody_along() {
        let mut house = House::new();
        house.wait(id("both"));
        let gone = house.wait(id("both"));
        let ends = house.ends.clone();
        let late = async move { ends.until_end(&id("late"), Duration::from_secs(1)).await };
        assert!(late.await.is_none(), "its time is over");
        gone.abort();
        assert!(house.requests.join_next().await.unwrap().is_err());
        house.wait(id("third"));
        later(Duration::from_secs(1)).await;
        assert_eq!(house.store.questions().last(), Some(&2));
        house.store.end([id("both"), id("third")]);
        assert!(house.told().await.is_some() && house.told().await.is_some());
        assert!(house.ends.ids().is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn at_a_stop_only_jobs_that_run_are_waited_for() {
        let mut house = House::new();
        house.wait(id("running"));
        house.wait(id("ready"));
        later(Duration::from_secs(1)).await;
        house.stopper.stop();
        assert_eq!(house.told().await, None);
        house.store.end([id("running")]);
        assert_eq!(house.told().await, Some(id("running")));
    }
}
