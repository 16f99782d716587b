//! Looking at the store and giving orders, as [`Admin`] and [`Sink`] want it.

use compact_str::CompactString;
use ganger_core::{
    Admin, Batch, Beat, BoxFuture, Count, Ended, Enqueued, Filter, JobId, JobView, Order, Page,
    ProviderError, Refused, Sink, State, Timestamp,
};

use crate::{list, order, read::Look, source::Source, unique};

impl Sink for Source {
    fn enqueue(&self, batch: Batch) -> BoxFuture<'_, Result<Vec<Result<Enqueued, Refused>>, ProviderError>> {
        Box::pin(Source::enqueue(self, batch))
    }

    fn states<'a>(&'a self, ids: &'a [JobId]) -> BoxFuture<'a, Result<Vec<Option<State>>, ProviderError>> {
        Box::pin(Source::states(self, ids))
    }

    fn ended<'a>(&'a self, ids: &'a [JobId]) -> BoxFuture<'a, Result<Vec<Ended>, ProviderError>> {
        Box::pin(Source::ended(self, ids))
    }

    fn managers(&self) -> BoxFuture<'_, Result<Vec<Beat>, ProviderError>> {
        Box::pin(Source::managers(self))
    }

    fn ready_types(&self) -> BoxFuture<'_, Result<Vec<CompactString>, ProviderError>> {
        Box::pin(async move {
            self.absorb().await?;
            let queue = self.who.queue.clone();
            self.spool.readers.run(Look::Short, move |db| list::ready_types(db, queue.as_deref())).await
        })
    }

    fn cancel<'a>(&'a self, id: &'a JobId) -> BoxFuture<'a, Result<bool, ProviderError>> {
        Box::pin(Source::cancel(self, id))
    }
}

impl Source {
    /// The filter, held to this source's queue.
    fn mine(&self, filter: &Filter) -> Filter {
        let mut filter = filter.clone();
        if filter.queue.is_none() && filter.ids.is_none() {
            filter.queue = self.who.queue.as_ref().map(ToString::to_string);
        }
        filter
    }
}

impl Admin for Source {
    fn list<'a>(
        &'a self,
        filter: &'a Filter,
        page: &'a Page,
    ) -> BoxFuture<'a, Result<Vec<JobView>, ProviderError>> {
        Box::pin(async move {
            self.absorb().await?;
            let (filter, page) = (self.mine(filter), page.clone());
            self.spool.readers.run(Look::Long, move |db| list::list(db, &filter, &page)).await
        })
    }

    fn count<'a>(&'a self, filter: &'a Filter) -> BoxFuture<'a, Result<u64, ProviderError>> {
        Box::pin(async move {
            self.absorb().await?;
            let filter = self.mine(filter);
            self.spool.readers.run(Look::Long, move |db| list::count(db, &filter)).await
        })
    }

    fn counts(&self) -> BoxFuture<'_, Result<Vec<Count>, ProviderError>> {
        Box::pin(async move {
            self.absorb().await?;
            let mut counts = self.spool.readers.run(Look::Long, list::counts).await?;
            counts.retain(|count| self.who.takes(&count.queue));
            Ok(counts)
        })
    }

    fn show<'a>(&'a self, id: &'a JobId) -> BoxFuture<'a, Result<Option<JobView>, ProviderError>> {
        Box::pin(async move {
            self.absorb().await?;
            let id = id.clone();
            self.spool.readers.run(Look::Short, move |db| list::show(db, &id)).await
        })
    }

    fn holder<'a>(&'a self, key: &'a str) -> BoxFuture<'a, Result<Option<JobId>, ProviderError>> {
        Box::pin(async move {
            self.absorb().await?;
            let key = key.to_owned();
            let now = Timestamp::now().as_millis();
            self.spool.readers.run(Look::Short, move |db| unique::holder(db, &key, "", now)).await
        })
    }

    fn order<'a>(&'a self, order: Order, filter: &'a Filter) -> BoxFuture<'a, Result<u64, ProviderError>> {
        Box::pin(async move {
            self.absorb().await?;
            let (mut changed, mut after) = (0, 0);
            loop {
                let filter = self.mine(filter);
                let step = move |tx: &mut crate::tx::Tx<'_>| order::order(tx, order, &filter, after);
                let (some, next) = self.spool.write(true, 0, step).await?;
                changed += some;
                match next {
                    Some(next) => after = next,
                    None => return Ok(changed),
                }
            }
        })
    }
}
