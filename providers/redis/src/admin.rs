//! Looking at stored jobs, and orders about them.

use std::collections::{BTreeMap, HashMap};

use ganger_core::{
    Admin, BoxFuture, Count, DEFAULT_QUEUE, Filter, Job, JobId, JobView, Order, Page, ProviderError, State,
    Stranded,
};
use redis::Value;

use crate::{
    envelope::{digest, without_time},
    error::CallError,
    scan::{Found, Place},
    script::{ORDER, RETRY},
    store::Store,
};

/// The most jobs that one listing shows.
const LIST_MAX: usize = 1000;
/// How often a job that moves is followed.
const LOOKS: usize = 3;

/// A job's place in a listing: newer ones are greater.
type Age = (i64, String);

fn age(view: &JobView) -> Age {
    let created = view.job.as_ref().and_then(|job| job.created_at).or(view.ended_at);
    (created.map_or(0, |at| at.as_millis()), view.id.to_string())
}

fn matches(filter: &Filter, view: &JobView) -> bool {
    let job = view.job.as_ref();
    let is = |wanted: &Option<String>, have: Option<&str>| {
        wanted.as_deref().is_none_or(|wanted| have == Some(wanted))
    };
    let error = view.attempts.last().and_then(|run| run.error.as_deref()).or(view.reason.as_deref());
    filter.ids.as_ref().is_none_or(|ids| ids.contains(&view.id))
        && filter.states.as_ref().is_none_or(|states| states.contains(&view.state))
        && is(&filter.kind, job.map(|job| job.kind.as_str()))
        && is(&filter.queue, job.map(Job::queue))
        && is(&filter.name, job.and_then(|job| job.name.as_deref()))
        && filter.error.as_ref().is_none_or(|text| error.is_some_and(|error| error.contains(text)))
}

/// Whether a state may be among those asked for.
fn asks_for(filter: &Filter, fits: impl Fn(&State) -> bool) -> bool {
    filter.states.as_ref().is_none_or(|states| states.iter().any(fits))
}

impl Admin for Store {
    fn list<'a>(
        &'a self,
        filter: &'a Filter,
        page: &'a Page,
    ) -> BoxFuture<'a, Result<Vec<JobView>, ProviderError>> {
        Box::pin(async move {
            self.list_jobs(filter, page).await.map_err(|error| self.error("listing jobs", error))
        })
    }

    fn count<'a>(&'a self, filter: &'a Filter) -> BoxFuture<'a, Result<u64, ProviderError>> {
        Box::pin(async move {
            let mut count = 0;
            let look = self.each(filter, true, &mut |_, _| count += 1).await;
            look.map_err(|error| self.error("counting jobs", error))?;
            Ok(count)
        })
    }

    fn counts(&self) -> BoxFuture<'_, Result<Vec<Count>, ProviderError>> {
        Box::pin(async move {
            let mut by: HashMap<(String, String, State), u64> = HashMap::new();
            let mut count = |view: JobView, _: Option<Found>| {
                let job = view.job.as_ref();
                let queue = job.map_or(DEFAULT_QUEUE, Job::queue).to_owned();
                let kind = job.map_or_else(String::new, |job| job.kind.to_string());
                *by.entry((queue, kind, view.state)).or_default() += 1;
            };
            let look = self.each(&Filter::default(), true, &mut count).await;
            look.map_err(|error| self.error("counting jobs", error))?;
            let count = |((queue, kind, state), count)| Count { queue, kind, state, count };
            let mut counts: Vec<Count> = by.into_iter().map(count).collect();
            counts
                .sort_by(|a, b| (&a.queue, &a.kind, a.state as u8).cmp(&(&b.queue, &b.kind, b.state as u8)));
            Ok(counts)
        })
    }

    fn show<'a>(&'a self, id: &'a JobId) -> BoxFuture<'a, Result<Option<JobView>, ProviderError>> {
        Box::pin(async move { self.show_job(id).await.map_err(|error| self.error("showing a job", error)) })
    }

    fn order<'a>(&'a self, order: Order, filter: &'a Filter) -> BoxFuture<'a, Result<u64, ProviderError>> {
        Box::pin(async move {
            self.order_all(order, filter).await.map_err(|error| self.error("carrying out an order", error))
        })
    }

    fn holder<'a>(&'a self, key: &'a str) -> BoxFuture<'a, Result<Option<JobId>, ProviderError>> {
        Box::pin(async move {
            self.holder_of(key).await.map_err(|error| self.error("asking for the holder of a key", error))
        })
    }

    fn stranded(&self) -> BoxFuture<'_, Result<Stranded, ProviderError>> {
        Box::pin(async move {
            self.goworkers_jobs(false).await.map_err(|error| self.error("looking for stranded jobs", error))
        })
    }

    fn recover(&self) -> BoxFuture<'_, Result<Stranded, ProviderError>> {
        Box::pin(async move {
            self.goworkers_jobs(true).await.map_err(|error| self.error("bringing jobs back", error))
        })
    }
}

impl Store {
    /// Shows every job that matches, with where it was found unless it has ended. Bytes that have no id yet are shown
    /// where `nameless` says so, under an id that means nothing.
    async fn each(
        &self,
        filter: &Filter,
        nameless: bool,
        visit: &mut (dyn FnMut(JobView, Option<Found>) + Send),
    ) -> Result<(), CallError> {
        if asks_for(filter, |state| !state.is_end()) {
            let mut look = |found: Found| {
                let id = found.id().or_else(|| nameless.then(JobId::new));
                if let Some(view) = id.map(|id| found.view(id)).filter(|view| matches(filter, view)) {
                    visit(view, Some(found));
                }
                true
            };
            self.scan(&mut look).await?;
        }
        if asks_for(filter, |state| state.is_end()) {
            let mut look = |id: JobId, end: crate::ends::End| {
                let view = end.view(id, Vec::new());
                if matches(filter, &view) {
                    visit(view, None);
                }
            };
            self.scan_ends(&mut look).await?;
        }
        Ok(())
    }

    async fn list_jobs(&self, filter: &Filter, page: &Page) -> Result<Vec<JobView>, CallError> {
        let before = match &page.after {
            None => None,
            Some(id) => match self.show_job(id).await? {
                Some(view) => Some(age(&view)),
                None => return Ok(Vec::new()),
            },
        };
        let limit = page.limit.clamp(1, LIST_MAX);
        let mut newest: BTreeMap<Age, JobView> = BTreeMap::new();
        let mut take = |mut view: JobView, _: Option<Found>| {
            let age = age(&view);
            if before.as_ref().is_none_or(|before| age < *before) {
                view.output = None;
                newest.insert(age, view);
                if newest.len() > limit {
                    newest.pop_first();
                }
            }
        };
        self.each(filter, false, &mut take).await?;
        Ok(newest.into_values().rev().collect())
    }

    async fn show_job(&self, id: &JobId) -> Result<Option<JobView>, CallError> {
        if let Some(end) = self.ends_of(std::slice::from_ref(id)).await?.pop().flatten() {
            return Ok(Some(end.view(id.clone(), self.handled(id).await?)));
        }
        let found = self.find(&[id]).await?.remove(id);
        if found.is_none()
            && let Some(end) = self.ends_of(std::slice::from_ref(id)).await?.pop().flatten()
        {
            // It ended while it was looked for.
            return Ok(Some(end.view(id.clone(), self.handled(id).await?)));
        }
        Ok(found.map(|found| found.view(id.clone())))
    }

    async fn order_all(&self, order: Order, filter: &Filter) -> Result<u64, CallError> {
        let mut jobs: Vec<(Age, JobId, Option<Found>)> = Vec::new();
        if let (Some(ids), None, true) = (&filter.ids, &filter.states, is_by_ids(filter)) {
            let ends = self.ends_of(ids).await?;
            let alive: Vec<&JobId> =
                ids.iter().zip(&ends).filter(|(_, end)| end.is_none()).map(|(id, _)| id).collect();
            let mut found = if alive.is_empty() { HashMap::new() } else { self.find(&alive).await? };
            jobs.extend(ids.iter().map(|id| (Age::default(), id.clone(), found.remove(id))));
        } else {
            let mut take =
                |view: JobView, found: Option<Found>| jobs.push((age(&view), view.id.clone(), found));
            self.each(filter, false, &mut take).await?;
            // In the order in which they came.
            jobs.sort_by(|a, b| a.0.cmp(&b.0));
        }
        let mut changed = 0;
        for (_, id, found) in jobs {
            changed += u64::from(self.order_one(order, &id, found).await?);
        }
        Ok(changed)
    }

    /// Carries out an order on one job; `found` is where it was seen, `None` if it was not looked for or has ended.
    pub(crate) async fn order_one(
        &self,
        order: Order,
        id: &JobId,
        found: Option<Found>,
    ) -> Result<bool, CallError> {
        match order {
            Order::Retry => self.retry(id, found).await,
            Order::Cancel => self.cancel_or_remove("cancel", id, found).await,
            Order::Remove => self.cancel_or_remove("remove", id, found).await,
        }
    }

    async fn cancel_or_remove(
        &self,
        order: &str,
        id: &JobId,
        mut found: Option<Found>,
    ) -> Result<bool, CallError> {
        for _ in 0..LOOKS {
            match self.order_at(order, id, found.as_ref()).await? {
                -1 => found = self.find(&[id]).await?.remove(id),
                changed => {
                    let waited = found.as_ref().is_some_and(|found| matches!(found.place, Place::Waits));
                    if changed == 1 && waited && order == "cancel" {
                        self.cancel_if_claimed(id).await?;
                    }
                    return Ok(changed == 1);
                }
            }
            if found.is_none() {
                return Ok(false);
            }
        }
        Ok(false)
    }

    /// A job that was claimed between the look that saw it wait and the mark is told to its holder instead.
    async fn cancel_if_claimed(&self, id: &JobId) -> Result<(), CallError> {
        let mut claimed = None;
        let mut look = |found: Found| {
            if found.id().as_ref() == Some(id) {
                claimed = Some(found);
            }
            claimed.is_none()
        };
        self.scan_leased(&mut look).await?;
        if let Some(found) = claimed {
            self.order_at("cancel", id, Some(&found)).await?;
        }
        Ok(())
    }

    async fn order_at(&self, order: &str, id: &JobId, found: Option<&Found>) -> Result<i64, CallError> {
        let mut call = self.script(&ORDER);
        call.arg(order).arg(id.to_string());
        call.arg(found.map_or_else(String::new, Found::place_text))
            .arg(found.map_or(&[][..], |found| &found.item[..]));
        match call.send(&self.side).await? {
            Value::Int(changed) => Ok(changed),
            _ => Err(CallError::Strange("the form of an order's answer")),
        }
    }

    async fn retry(&self, id: &JobId, found: Option<Found>) -> Result<bool, CallError> {
        let mut call = self.script(&RETRY);
        call.arg(id.to_string());
        match found {
            Some(found) if matches!(found.place, Place::Due(_)) => {
                call.arg("").arg("").arg("").arg(&found.item[..]).arg("").arg("");
                call.arg(&without_time(&found.item)[..]);
            }
            Some(_) => return Ok(false),
            None => {
                let Some(end) = self.ends_of(std::slice::from_ref(id)).await?.pop().flatten() else {
                    return Ok(false);
                };
                if end.state == State::Done {
                    return Ok(false);
                }
                call.arg(&end.record[..]);
                match &end.envelope {
                    None => drop(call.arg("").arg("").arg("")),
                    Some(envelope) => {
                        let Some(text) = envelope.renewed(self.clock.wall()) else { return Ok(false) };
                        let is_indexed = envelope.indexed && envelope.is_job;
                        let digest = envelope.any_job().filter(|_| is_indexed).map(|job| digest(&job));
                        call.arg(&envelope.kind).arg(digest.unwrap_or_default()).arg(text);
                    }
                }
                let (key, states) = end.key();
                call.arg(states).arg(key);
            }
        }
        match call.send(&self.side).await? {
            Value::Int(changed) => Ok(changed == 1),
            _ => Err(CallError::Strange("the form of an order's answer")),
        }
    }
}

/// Whether nothing but ids is asked for.
fn is_by_ids(filter: &Filter) -> bool {
    Filter { ids: filter.ids.clone(), ..Filter::default() } == *filter
}
