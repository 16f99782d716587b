//! The provider: a source of jobs that can be leased.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use compact_str::CompactString;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize, de::DeserializeOwned};

use crate::{
    Admin, Attempt, BoxFuture, Capabilities, Clock, Hold, Job, JobId, LeaseRef, ProviderError, Settlement,
    Sink, Timestamp, Token,
};

/// The default lease. Renewed at a third; the manager fences itself at two thirds (P6).
pub const LEASE: Duration = Duration::from_secs(15);

/// How many runs may be lost to one job before it is dead as `crashed` (P7).
pub const CRASHES_MAX: u32 = 3;

/// What a plugin is given when it is opened.
#[derive(Clone)]
pub struct ProviderContext {
    /// The instance's name: the plugin's, or the `name` in its config entry.
    pub name: String,
    /// The random incarnation of the manager (or command) that opens it.
    pub incarnation: u64,
    /// The time.
    pub clock: Arc<dyn Clock>,
    /// Open what exists, create nothing: set by commands that only read.
    pub existing_only: bool,
}

/// A source of jobs that can be leased, and, where the technology can, a sink.
///
/// A provider stores; it decides nothing. How many jobs to ask for, who does them, when to retry and when to
/// give up are the manager's. The manager wraps every call with a deadline, a retry and its telemetry, so a
/// provider has none of these.
///
/// # The mistake everyone makes
/// Taking a job and recording the lease afterwards. A crash between the two loses the job. Taking and leasing
/// are one atomic step at the store, or the provider is an [`Intake`](crate::Intake).
pub trait Provider: Sized + Send + Sync + 'static {
    /// Its name in the config file, which is also its folder and the end of its crate's name.
    const NAME: &'static str;

    /// What it can do.
    const CAPABILITIES: Capabilities;

    /// Its options in the config file. Derive with `deny_unknown_fields`; every field has a doc comment, which
    /// is its reference.
    type Config: DeserializeOwned + JsonSchema + Send;

    /// Opens the store.
    ///
    /// What is open serves until it is closed: a connection that breaks is the provider's to make anew, within the
    /// call that needs it. The manager calls again until it is answered; it never opens a second time.
    ///
    /// # Behavior
    /// - Opening a store that is out of reach is a transient error; the manager tries again.
    /// - Opening a store of a newer format is refused and leaves it untouched.
    /// - Tasks that it needs are spawned here; they live on the manager's own runtime.
    fn open(
        config: Self::Config,
        cx: &ProviderContext,
    ) -> impl Future<Output = Result<Self, ProviderError>> + Send;

    /// Waits until an exchange may find work: something new, due, or a lease that ran out.
    ///
    /// # Behavior
    /// - Waiting takes nothing.
    /// - Waiting returns when a job becomes ready, due, or free of its lease.
    /// - Waiting may return although there is nothing.
    /// - A wait that is dropped loses nothing.
    fn wait(&self, room: &Room) -> impl Future<Output = Result<(), ProviderError>> + Send;

    /// Waits, and where the store can, makes the exchange in the same breath: its answer, or `None` when an
    /// exchange may find work. `give` settles nothing. For a store that is a round trip away, which may so give a
    /// job to a manager that waits without being asked again.
    ///
    /// A wait that ends without an answer, also by being dropped, may have claimed, or do it yet: its token is not
    /// spent. The next exchange goes under it.
    ///
    /// # Behavior
    /// - A wait that claims answers as an exchange would, with no suspect.
    /// - An exchange under the token of a wait settles, and answers what the wait has claimed.
    /// - A wait whose token was exchanged claims nothing.
    fn wait_and_claim(
        &self,
        give: &Exchange,
    ) -> impl Future<Output = Result<Option<Exchanged>, ProviderError>> + Send {
        async { self.wait(&give.room).await.map(|()| None) }
    }

    /// One atomic step, one round trip: applies the settlements, then leases what the room allows. Never waits
    /// for work.
    ///
    /// # Behavior
    /// - A settlement under a lease that is still held is applied, also if the lease ran out but was not taken.
    /// - A settlement under a lease that is lost changes nothing and is reported stale.
    /// - Follow-up jobs of a settlement become real together with it.
    /// - A leased job is leased to nobody else until its lease runs out.
    /// - A claim leases at most what the room allows, by type, in all and in bytes (one job is always allowed).
    /// - Jobs of one queue and priority are leased in the order in which they were enqueued.
    /// - A job whose lease ran out becomes a suspect, and is leased alone, as the only one of its claim.
    /// - A suspect's lease is durable before the claim is answered; a suspect whose lease ran out has one crash more.
    /// - The same token again gets the same answer.
    /// - A cancelled job is leased to nobody.
    /// - A producer's entry whose unique key another job holds is leased as its duplicate; else it holds the key from then on.
    /// - A follow-up job whose unique key another job holds ends cancelled, and its record names that job.
    fn exchange(&self, give: &Exchange) -> impl Future<Output = Result<Exchanged, ProviderError>> + Send;

    /// Extends exactly the leases named, answering for each in the same order, and records the beat.
    ///
    /// # Behavior
    /// - A lease that is held is extended, also if it ran out but was not taken.
    /// - A lease that was taken or settled is answered as lost.
    /// - A held job that someone asked to cancel is answered as such.
    /// - An open item of a named token that is left out is ready again, with nothing spent.
    /// - The beat is kept for a lease, also when nothing is held.
    fn renew(
        &self,
        beat: &Beat,
        held: &[LeaseRef],
    ) -> impl Future<Output = Result<Vec<Hold>, ProviderError>> + Send;

    /// Ends its tasks and connections. The leases it leaves behind run out; the manager has released them before.
    fn close(&self) -> impl Future<Output = Result<(), ProviderError>> + Send;

    /// Where jobs go in; `None` where the technology cannot.
    fn sink(self: &Arc<Self>) -> Option<Arc<dyn Sink>> {
        None
    }

    /// Looks at stored jobs and changes them; `None` where the technology cannot.
    fn admin(self: &Arc<Self>) -> Option<Arc<dyn Admin>> {
        None
    }
}

/// What a manager has room for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Room {
    /// Room by type. A type that is not here has none.
    pub types: Vec<TypeRoom>,
    /// At most so many jobs in all.
    pub jobs: u32,
    /// At most so many bytes in all.
    pub bytes: u64,
    /// Whether a suspect may be leased (alone) instead of other jobs. With it, one that is due comes first.
    pub suspect: bool,
    /// Whether that suspect may be one that has lost runs already (`crashes > 0`): one at a time a manager.
    pub crashed: bool,
}

impl Room {
    /// No room at all: an exchange that only settles.
    pub fn none() -> Self {
        Room::default()
    }

    /// Whether nothing may be leased.
    pub fn is_none(&self) -> bool {
        self.jobs == 0 || self.types.iter().all(|room| room.jobs == 0)
    }

    /// The room for a type.
    pub fn of(&self, kind: &str) -> u32 {
        self.types.iter().find(|room| room.kind == kind).map_or(0, |room| room.jobs).min(self.jobs)
    }
}

/// The room for one type.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TypeRoom {
    /// The type.
    pub kind: CompactString,
    /// How many jobs of it.
    pub jobs: u32,
}

/// What a manager gives in one exchange.
#[derive(Clone, Debug)]
pub struct Exchange {
    /// Names this exchange, and the leases that it grants.
    pub token: Token,
    /// Verdicts on jobs leased before.
    pub settle: Vec<Settlement>,
    /// What may be leased.
    pub room: Room,
    /// How long the new leases last.
    pub lease: Duration,
}

/// What a store answers to an [`Exchange`].
#[derive(Debug, Default)]
pub struct Exchanged {
    /// Settlements that were not applied because their lease is lost.
    pub stale: Vec<LeaseRef>,
    /// Jobs now leased under the exchange's token, in order.
    pub leased: Vec<Leased>,
    /// Whether more that there was room for may be ready now: ask again without waiting.
    pub more: bool,
}

/// One job of a claim.
#[derive(Clone, Debug)]
pub struct Leased {
    /// Its place in the claim: with the token, its [`LeaseRef`].
    pub index: u32,
    /// The job, or the bytes that should be one.
    pub entry: Entry,
    /// What happened to it so far.
    pub record: Record,
}

/// What a store holds for a job.
#[derive(Clone, Debug)]
pub enum Entry {
    /// A producer's bytes, read by the codec that the config names.
    Raw(Bytes),
    /// A job.
    Job(Job),
    /// A stored row that is no job: what is wrong with it.
    Malformed(crate::Malformed),
}

/// What happened to a job so far.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// Retries spent: how many runs failed.
    pub spent: u32,
    /// Crashes spent: how many runs were lost, with proof against the job.
    pub crashes: u32,
    /// A lease of it was lost once, which proves nothing yet: it is leased alone.
    pub suspect: bool,
    /// Someone has asked for it to be cancelled.
    pub cancel: bool,
    /// Another job holds its `unique` key: it is not to be run. Only of a producer's entry, which nobody could refuse.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub duplicate_of: Option<Box<JobId>>,
    /// Its runs so far, the last ten; empty on a first run.
    pub attempts: Vec<Attempt>,
    /// For a raw entry: its first claim, from which its id and its times are made, so that every later claim
    /// sees the same. `None` for a job, whose id and times are fixed already.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub first: Option<FirstClaim>,
}

/// The first claim of a raw entry: ganger's first durable word on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FirstClaim {
    /// The lease, of which its id is made ([`JobId::claimed`](crate::JobId::claimed)).
    pub lease: LeaseRef,
    /// When, by the store's wall clock: its `created_at`, from which `delay` and `max_age` count.
    pub at: Timestamp,
}

impl Record {
    /// The number of the run that comes next, from 1.
    pub fn next_run(&self) -> u32 {
        let counted = self.spent.saturating_add(self.crashes);
        self.attempts.last().map_or(0, |attempt| attempt.number).max(counted).saturating_add(1)
    }
}

/// A manager's sign of life: goes with every renewal, also when it holds no lease. Stores keep it for a lease;
/// that is the register of managers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Beat {
    /// The manager's incarnation.
    pub incarnation: u64,
    /// Its host's name.
    pub host: String,
    /// Its process id.
    pub pid: u32,
    /// Its version of ganger.
    pub version: String,
    /// The types it does, each with its slots.
    pub types: Vec<(String, u32)>,
    /// Those of its types whose worker runs commands that the job names, or whose jobs carry jobs: an intake of
    /// another config takes them only where its own `accept` names them.
    #[serde(default)]
    pub guarded: Vec<String>,
    /// Whether it is shutting down and asks for no more.
    pub draining: bool,
    /// When it started.
    pub started: Timestamp,
    /// How long its leases last: how long this beat is good for.
    pub lease_millis: u64,
}

/// A [`Provider`] with its types erased: what the manager holds.
pub trait DynProvider: Send + Sync {
    /// What it can do.
    fn capabilities(&self) -> Capabilities;
    /// See [`Provider::wait`].
    fn wait<'a>(&'a self, room: &'a Room) -> BoxFuture<'a, Result<(), ProviderError>>;
    /// See [`Provider::wait_and_claim`].
    fn wait_and_claim<'a>(
        &'a self,
        give: &'a Exchange,
    ) -> BoxFuture<'a, Result<Option<Exchanged>, ProviderError>> {
        Box::pin(async { self.wait(&give.room).await.map(|()| None) })
    }
    /// See [`Provider::exchange`].
    fn exchange<'a>(&'a self, give: &'a Exchange) -> BoxFuture<'a, Result<Exchanged, ProviderError>>;
    /// See [`Provider::renew`].
    fn renew<'a>(
        &'a self,
        beat: &'a Beat,
        held: &'a [LeaseRef],
    ) -> BoxFuture<'a, Result<Vec<Hold>, ProviderError>>;
    /// See [`Provider::close`].
    fn close(&self) -> BoxFuture<'_, Result<(), ProviderError>>;
    /// See [`Provider::sink`].
    fn sink(&self) -> Option<Arc<dyn Sink>>;
    /// See [`Provider::admin`].
    fn admin(&self) -> Option<Arc<dyn Admin>>;
}

/// The one implementation of [`DynProvider`].
struct Erased<P>(Arc<P>);

impl<P: Provider> DynProvider for Erased<P> {
    fn capabilities(&self) -> Capabilities {
        P::CAPABILITIES
    }
    fn wait<'a>(&'a self, room: &'a Room) -> BoxFuture<'a, Result<(), ProviderError>> {
        Box::pin(self.0.wait(room))
    }
    fn wait_and_claim<'a>(
        &'a self,
        give: &'a Exchange,
    ) -> BoxFuture<'a, Result<Option<Exchanged>, ProviderError>> {
        Box::pin(self.0.wait_and_claim(give))
    }
    fn exchange<'a>(&'a self, give: &'a Exchange) -> BoxFuture<'a, Result<Exchanged, ProviderError>> {
        Box::pin(self.0.exchange(give))
    }
    fn renew<'a>(
        &'a self,
        beat: &'a Beat,
        held: &'a [LeaseRef],
    ) -> BoxFuture<'a, Result<Vec<Hold>, ProviderError>> {
        Box::pin(self.0.renew(beat, held))
    }
    fn close(&self) -> BoxFuture<'_, Result<(), ProviderError>> {
        Box::pin(self.0.close())
    }
    fn sink(&self) -> Option<Arc<dyn Sink>> {
        self.0.sink()
    }
    fn admin(&self) -> Option<Arc<dyn Admin>> {
        self.0.admin()
    }
}

/// Erases a provider's types.
pub fn erase_provider<P: Provider>(provider: Arc<P>) -> Arc<dyn DynProvider> {
    Arc::new(Erased(provider))
}
