//! Jobs that follow from a verdict, where the provider cannot store them with it: they are made durable first.

use std::{sync::Arc, time::Duration};

use ganger_core::{Batch, DynProvider, Job, RefusedKind, Settlement, Severity};
use tokio::time::timeout;

use crate::{house::House, source::Source};

/// How long a sink may take at most. Never longer than an exchange may, so that a lost answer holds up no backlog.
const LIMIT: Duration = Duration::from_secs(10);

/// Moves the follow-up jobs of `settle` into a sink, if their own provider cannot hold them. `false` when that
/// failed and must be tried again before anything is settled: enqueueing is idempotent by id.
pub(crate) async fn store_follow_ups(
    house: &House,
    source: &Source,
    provider: &Arc<dyn DynProvider>,
    settle: &mut [Settlement],
) -> bool {
    if provider.capabilities().follow {
        return true;
    }
    let jobs = follow_ups(settle);
    if jobs.is_empty() {
        return true;
    }
    let Some(sink) = provider.sink().or_else(|| crate::sinks::default_sink(&house.sources)) else {
        source.trouble(
            house,
            "follow",
            "there is no sink for the jobs that follow from its jobs: add a `disk` provider",
        );
        return false;
    };
    let mut batch = Batch::new(jobs);
    batch.token = (u128::from(house.incarnation) << 64) | u128::from(house.next_seq());
    let outcome = timeout(LIMIT.min(source.lease() / 3), sink.enqueue(batch)).await;
    match outcome {
        Ok(Ok(answers)) => {
            let refused: Vec<_> = answers.into_iter().filter_map(Result::err).collect();
            if let Some(full) = refused.iter().find(|refused| refused.kind == RefusedKind::Full) {
                source.trouble(house, "follow", &format!("storing the jobs that follow: {full}"));
                return false;
            }
            for refused in refused {
                tracing::error!(provider = %source.name, %refused, "a job that follows was refused");
            }
            for more in settle.iter_mut().filter_map(|settlement| settlement.more.as_mut()) {
                more.follow.clear();
            }
            source.well(house, "follow");
            true
        }
        Ok(Err(error)) if error.severity() == Severity::Fatal => {
            house.fatal(&source.name, error);
            false
        }
        Ok(Err(error)) => {
            source.trouble(house, "follow", &format!("storing the jobs that follow: {error}"));
            false
        }
        Err(_) => {
            source.trouble(house, "follow", "storing the jobs that follow: no answer");
            false
        }
    }
}

/// The jobs that follow from all of these.
fn follow_ups(settle: &[Settlement]) -> Vec<Job> {
    settle
        .iter()
        .filter_map(|settlement| settlement.more.as_ref())
        .flat_map(|more| more.follow.iter().cloned())
        .collect()
}
