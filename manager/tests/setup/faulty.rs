//! A provider whose calls a test can fail, lose, hang or watch.

use std::{
    collections::VecDeque,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering},
    },
    time::Duration,
};

use ganger_core::{
    Admin, Beat, BoxFuture, Capabilities, DynProvider, Exchange, Exchanged, Hold, LeaseRef, ProviderError,
    Room, Sink, Token, erase_provider,
};
use ganger_provider_memory::MemoryProvider;

/// What happens to a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    /// It fails before it reaches the store.
    Fail,
    /// It is carried out, and its answer is lost.
    LoseReply,
    /// It never comes back.
    Hang,
    /// It is carried out, and its answer never comes.
    HangReply,
    /// It is carried out, and its answer comes two seconds later.
    Late,
    /// It fails, and trying again cannot help.
    Fatal,
}

/// The memory provider behind a line that fails as told.
pub(crate) struct Faulty {
    inner: Arc<dyn DynProvider>,
    /// The next exchanges go like this.
    pub(crate) exchanges: Mutex<VecDeque<Fault>>,
    /// The next renewals go like this.
    pub(crate) renewals: Mutex<VecDeque<Fault>>,
    /// Nothing reaches the store.
    pub(crate) cut: AtomicBool,
    pub(crate) sent: Mutex<Vec<(Token, usize, Room)>>,
    pub(crate) most_held: AtomicUsize,
    pub(crate) renewed: AtomicU32,
    pub(crate) closed: AtomicBool,
    capabilities: Option<Capabilities>,
}

impl Faulty {
    pub(crate) fn new(inner: &Arc<MemoryProvider>) -> Arc<Self> {
        Arc::new(Faulty::with(inner, None))
    }

    /// One that claims to be able to do this only.
    pub(crate) fn able(inner: &Arc<MemoryProvider>, capabilities: Capabilities) -> Arc<Self> {
        Arc::new(Faulty::with(inner, Some(capabilities)))
    }

    fn with(inner: &Arc<MemoryProvider>, capabilities: Option<Capabilities>) -> Self {
        Faulty {
            inner: erase_provider(inner.clone()),
            exchanges: Mutex::default(),
            renewals: Mutex::default(),
            cut: AtomicBool::new(false),
            sent: Mutex::default(),
            most_held: AtomicUsize::new(0),
            renewed: AtomicU32::new(0),
            closed: AtomicBool::new(false),
            capabilities,
        }
    }

    fn fault(&self, of: &Mutex<VecDeque<Fault>>) -> Option<Fault> {
        of.lock().unwrap().pop_front().or_else(|| self.cut.load(Ordering::SeqCst).then_some(Fault::Fail))
    }
}

async fn through<T>(
    fault: Option<Fault>,
    call: impl Future<Output = Result<T, ProviderError>>,
) -> Result<T, ProviderError> {
    let lost = || ProviderError::transient("the line is cut");
    match fault {
        None => call.await,
        Some(Fault::Fail) => Err(lost()),
        Some(Fault::Fatal) => Err(ProviderError::fatal("permission denied")),
        Some(Fault::LoseReply) => {
            call.await?;
            Err(lost())
        }
        Some(Fault::Late) => {
            let answer = call.await;
            crate::setup::pass(Duration::from_secs(2)).await;
            answer
        }
        Some(Fault::Hang) => std::future::pending().await,
        Some(Fault::HangReply) => {
            call.await?;
            std::future::pending().await
        }
    }
}

impl DynProvider for Faulty {
    fn capabilities(&self) -> Capabilities {
        self.capabilities.unwrap_or_else(|| self.inner.capabilities())
    }
    fn wait<'a>(&'a self, room: &'a Room) -> BoxFuture<'a, Result<(), ProviderError>> {
        let fault = self.cut.load(Ordering::SeqCst).then_some(Fault::Fail);
        Box::pin(through(fault, self.inner.wait(room)))
    }
    fn exchange<'a>(&'a self, give: &'a Exchange) -> BoxFuture<'a, Result<Exchanged, ProviderError>> {
        self.sent.lock().unwrap().push((give.token, give.settle.len(), give.room.clone()));
        Box::pin(through(self.fault(&self.exchanges), self.inner.exchange(give)))
    }
    fn renew<'a>(
        &'a self,
        beat: &'a Beat,
        held: &'a [LeaseRef],
    ) -> BoxFuture<'a, Result<Vec<Hold>, ProviderError>> {
        self.most_held.fetch_max(held.len(), Ordering::SeqCst);
        self.renewed.fetch_add(1, Ordering::SeqCst);
        Box::pin(through(self.fault(&self.renewals), self.inner.renew(beat, held)))
    }
    fn close(&self) -> BoxFuture<'_, Result<(), ProviderError>> {
        self.closed.store(true, Ordering::SeqCst);
        self.inner.close()
    }
    fn sink(&self) -> Option<Arc<dyn Sink>> {
        self.inner.sink()
    }
    fn admin(&self) -> Option<Arc<dyn Admin>> {
        self.inner.admin()
    }
}
