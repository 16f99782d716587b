//! While Redis is over `memory_limit`, the tails of the producers' lists move to a file of this machine, in parcels,
//! and come back when there is room again.
//!
//! A parcel is claimed from the tail under a lease, kept in the file as provisional, settled in Redis, which leaves a
//! receipt, and then ready. Back it goes under a receipt too. Whatever ends in between, asking Redis for the parcel by
//! its token tells where its jobs are; see `docs/decisions/0011-the-overflow-of-a-redis-list.md`.

use std::{
    path::PathBuf,
    sync::{
        Arc, Mutex, PoisonError, Weak,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use ganger_core::{LEASE, ProviderError, Stop, Stopper, draw_incarnation};
use ganger_spool::{Label, Parcel, ParcelState, Parcels, Spool, SpoolOptions};
use redis::Value;
use tokio::{
    task::JoinHandle,
    time::{Instant, timeout},
};

use crate::{
    error::CallError,
    exchange::millis,
    link::Link,
    opening::{field, text_of},
    pack,
    scan::{Found, Place},
    script::{Call, OVERFLOW},
    store::Store,
};

/// So many jobs, or bytes, are in a parcel (one job is always allowed).
const JOBS_MAX: usize = 500;
const BYTES_MAX: usize = 1 << 20;
/// So many jobs at the head of each list stay: what is done next is in Redis. With less than half of them a parcel
/// comes back even while Redis is over its limit, for its jobs shall be done and the others may not be ours.
const HEAD: i64 = 2 * JOBS_MAX as i64;

/// How often memory is looked at; while there is a parcel that may come back, more often.
const LOOK: Duration = Duration::from_secs(1);
const LOOK_SOON: Duration = Duration::from_millis(100);
/// How often parcels of managers that are gone are looked for.
const ADOPT: Duration = Duration::from_secs(2);
/// How long to pause after a failure.
const FAILED: Duration = Duration::from_secs(2);
/// How often a call whose outcome is unknown is made.
const TRIES: u32 = 3;
/// How long a step that is under way may take when the provider is closed.
const CLOSE_LIMIT: Duration = Duration::from_secs(2);

/// What the options ask for, and the task that does it.
pub(crate) struct Overflow {
    limit: u64,
    file: PathBuf,
    /// Whose jobs the parcels are: the server, its database and the keys' prefix.
    of: String,
    begun: AtomicBool,
    stopper: Stopper,
    task: Mutex<Option<JoinHandle<()>>>,
}

impl Overflow {
    pub(crate) fn new(limit: u64, file: PathBuf, of: String) -> Self {
        Overflow {
            limit,
            file,
            of,
            begun: AtomicBool::new(false),
            stopper: Stopper::default(),
            task: Mutex::default(),
        }
    }

    /// Lets a step that is under way come to its end; one that takes long is cut off, which loses nothing.
    pub(crate) async fn close(&self) {
        self.stopper.stop();
        let task = self.task.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(mut task) = task
            && timeout(CLOSE_LIMIT, &mut task).await.is_err()
        {
            task.abort();
        }
    }
}

impl Store {
    /// Begins to watch the memory, once, where the options ask for it.
    pub(crate) fn begin_overflow(self: &Arc<Self>) {
        let Some(overflow) = &self.overflow else { return };
        if overflow.begun.swap(true, Ordering::AcqRel) {
            return;
        }
        let watch = watch(Arc::downgrade(self), Link::new(self.server.clone()), overflow.stopper.handle());
        let task = self.server.handle().spawn(watch);
        *overflow.task.lock().unwrap_or_else(PoisonError::into_inner) = Some(task);
    }

    /// Shows every job that is on its way to a file, or in the one of this machine, to `visit`, until it says that it
    /// has seen enough.
    pub(crate) async fn scan_overflow(
        &self,
        visit: &mut (dyn FnMut(Found) -> bool + Send),
    ) -> Result<bool, CallError> {
        let mut moving = self.pairs("overflow", 20).await?;
        moving.retain(|token, _| !token.ends_with('l'));
        for packed in moving.values() {
            if !show(packed, visit) {
                return Ok(false);
            }
        }
        let Some(overflow) = self.overflow.as_ref().filter(|overflow| overflow.file.exists()) else {
            return Ok(true);
        };
        let options = SpoolOptions { existing_only: true, ..SpoolOptions::default() };
        let spool = Spool::open(&overflow.file, options).await?;
        let mut after = String::new();
        while let Some(parcel) = spool.parcel_after(&overflow.of, &after).await? {
            after = parcel.label.token;
            if !moving.contains_key(&after) && !show(&parcel.items.into(), visit) {
                return Ok(false);
            }
        }
        Ok(true)
    }
}

fn show(packed: &Bytes, visit: &mut (dyn FnMut(Found) -> bool + Send)) -> bool {
    pack::texts(packed).unwrap_or_default().into_iter().all(|(_, range)| {
        visit(Found { place: Place::Waits, envelope: None, item: packed.slice(range), cancel: false })
    })
}

async fn watch(store: Weak<Store>, link: Link, stop: Stop) {
    let mut mover = Mover::new(link);
    let (mut pause, mut failed) = (Duration::ZERO, false);
    while timeout(pause, stop.wait()).await.is_err() {
        let Some(store) = store.upgrade() else { break };
        let Some(overflow) = &store.overflow else { break };
        pause = match mover.step(&store, overflow).await {
            Ok(pause) => {
                failed = false;
                pause
            }
            Err(error) => {
                if !std::mem::replace(&mut failed, true) {
                    tracing::warn!(%error, "jobs cannot be moved out of Redis, or back; trying again");
                }
                mover.adopt_at = Instant::now();
                FAILED
            }
        };
    }
    // The last one to let go of the file waits for the writer's last commit.
    let _ = tokio::task::spawn_blocking(move || drop(mover)).await;
}

/// Moves parcels.
struct Mover {
    link: Link,
    /// `None` until the file is open.
    parcels: Option<(Parcels, String)>,
    /// Drawn at random, so that no token is ever made twice.
    incarnation: u64,
    made: u32,
    /// When Redis went over its limit; `None` while it is under it.
    episode: Option<i64>,
    adopt_at: Instant,
    /// It was said that the limit is too high.
    told: bool,
}

impl Mover {
    fn new(link: Link) -> Self {
        let (incarnation, adopt_at) = (draw_incarnation(), Instant::now());
        Mover { link, parcels: None, incarnation, made: 0, episode: None, adopt_at, told: false }
    }

    /// Looks, and moves a parcel out and one back at most; answers when to look again.
    async fn step(&mut self, store: &Store, overflow: &Overflow) -> Result<Duration, ProviderError> {
        if self.parcels.is_none() {
            self.parcels = Some(self.open(overflow).await?);
        }
        let Some((parcels, file)) = &self.parcels else { return Ok(LOOK) };
        let hands = Hands { store, link: &self.link, parcels, file };
        if self.adopt_at <= Instant::now() {
            let jobs = parcels.adopt().await?;
            if jobs > 0 {
                tracing::info!(file, jobs, "took over what a manager that is gone had moved out of Redis");
            }
            hands.resolve().await?;
            self.adopt_at = Instant::now() + ADOPT;
        }
        let (used, max) = hands.memory().await?;
        if (1..=overflow.limit).contains(&max) && !std::mem::replace(&mut self.told, true) {
            tracing::warn!(
                max,
                "`memory_limit` is not below Redis's `maxmemory`: producers are refused before jobs move to disk"
            );
        }
        let mut moved = false;
        if used > overflow.limit {
            let episode = *self.episode.get_or_insert_with(|| {
                tracing::warn!(
                    used,
                    file,
                    "Redis is over `memory_limit`: the tail of its lists moves to disk"
                );
                store.clock.wall().as_millis()
            });
            if let Some(list) = hands.too_long().await? {
                self.made += 1;
                let token = format!("o{:016x}-{}", self.incarnation, self.made);
                moved = hands.move_out(token, list, episode, self.made).await?;
            }
        } else {
            self.episode = None;
        }
        let back = hands.move_back(used, overflow.limit / 8 * 7).await?;
        Ok(match back {
            _ if moved => Duration::ZERO,
            Back::Moved => Duration::ZERO,
            Back::Waits => LOOK_SOON,
            Back::Nothing => LOOK,
        })
    }

    async fn open(&self, overflow: &Overflow) -> Result<(Parcels, String), ProviderError> {
        let spool = Spool::open(&overflow.file, SpoolOptions::default()).await?;
        let file = spool.path().display().to_string();
        let owner = format!("{:016x}", self.incarnation);
        let parcels = spool.parcels(&overflow.of, owner, self.incarnation).await?;
        let others = spool.jobs_of_others(&overflow.of).await?;
        if others > 0 {
            tracing::warn!(
                file,
                jobs = others,
                mine = overflow.of,
                "jobs of other servers or lists are in the file"
            );
        }
        Ok((parcels, file))
    }
}

/// Whether a parcel came back.
enum Back {
    Moved,
    /// There are some, and no room for them yet.
    Waits,
    Nothing,
}

/// What a step works with.
struct Hands<'a> {
    store: &'a Store,
    link: &'a Link,
    parcels: &'a Parcels,
    file: &'a str,
}

impl Hands<'_> {
    /// Brings to an end what was cut off: Redis knows how far it came.
    async fn resolve(&self) -> Result<(), ProviderError> {
        for label in self.parcels.labels(ParcelState::Provisional).await? {
            self.settle(&label.token).await?;
        }
        for label in self.parcels.labels(ParcelState::Returned).await? {
            self.clear_returned(&label.token).await?;
        }
        Ok(())
    }

    /// How much memory Redis uses, and how much it may; 0 where it may use any.
    async fn memory(&self) -> Result<(u64, u64), ProviderError> {
        let info = self.link.call(redis::cmd("INFO").arg("memory")).await.map_err(|error| self.at(error))?;
        let info = text_of(&info);
        let number = |name| field(&info, name).and_then(|text| text.parse().ok());
        let used = number("used_memory");
        let used = used.ok_or_else(|| self.at(CallError::Strange("an INFO without `used_memory`")))?;
        Ok((used, number("maxmemory").unwrap_or(0)))
    }

    async fn length(&self, list: &str) -> Result<i64, ProviderError> {
        match self.link.call(redis::cmd("LLEN").arg(list)).await {
            Ok(Value::Int(length)) => Ok(length),
            Ok(_) => Err(self.at(CallError::Strange("a length that is none"))),
            Err(error) => Err(self.at(error)),
        }
    }

    /// The list to take from: the last one, which is read last, that has more than what stays.
    async fn too_long(&self) -> Result<Option<&str>, ProviderError> {
        for list in self.store.keys.lists.iter().rev() {
            if self.length(list).await? > HEAD {
                return Ok(Some(list));
            }
        }
        Ok(None)
    }

    /// Moves a parcel of the list's tail to the file.
    async fn move_out(&self, token: String, list: &str, episode: i64, n: u32) -> Result<bool, ProviderError> {
        let mut call = self.script(Some(list), "claim", &token);
        call.arg(millis(LEASE)).arg(JOBS_MAX).arg(BYTES_MAX).arg(HEAD);
        let (jobs, items) = match self.send(&call).await? {
            Value::Array(answer) => match <[Value; 2]>::try_from(answer) {
                Ok([Value::Int(jobs), Value::BulkString(items)]) => (jobs, items),
                _ => return Err(self.at(CallError::Strange("the form of a claim of a tail"))),
            },
            _ => return Err(self.at(CallError::Strange("the form of a claim of a tail"))),
        };
        if jobs == 0 {
            return Ok(false);
        }
        fail::fail_point!("redis::tail_claimed");
        let label =
            Label { token: token.clone(), list: list.to_owned(), jobs: u32::try_from(jobs).unwrap_or(0) };
        if let Err(error) = self.parcels.keep(Parcel { label, items }, episode, n).await {
            // Else they come back when the lease runs out. If it is in the file all the same, it turns out stale.
            let release = self.send(&self.script(None, "release", &token)).await;
            tracing::debug!(?release, "a parcel that the disk does not take goes back");
            return Err(error);
        }
        fail::fail_point!("redis::parcel_provisional");
        self.settle(&token).await?;
        Ok(true)
    }

    /// Asks Redis whose a provisional parcel is: applied or with a receipt it is ready, stale it is dropped.
    async fn settle(&self, token: &str) -> Result<(), ProviderError> {
        let mut call = self.script(None, "settle", token);
        call.arg(self.file);
        match self.send(&call).await? {
            Value::Int(1) => {}
            Value::Int(0) => {
                tracing::debug!(token, "a parcel is dropped: its jobs are in Redis");
                return self.parcels.forget(token, ParcelState::Provisional).await;
            }
            _ => return Err(self.at(CallError::Strange("the form of a settlement's answer"))),
        }
        fail::fail_point!("redis::parcel_settled");
        self.parcels.advance(token, ParcelState::Provisional, ParcelState::Ready).await?;
        fail::fail_point!("redis::parcel_ready");
        self.send(&self.script(None, "clear", token)).await.map(drop)
    }

    /// Moves the parcel that is next back to its list, if there is room, or need.
    async fn move_back(&self, used: u64, low: u64) -> Result<Back, ProviderError> {
        let mut back = Back::Nothing;
        let mut lists = self.parcels.lists().await?;
        // One that the options no longer name comes last, and back to where it was all the same.
        lists
            .sort_by_key(|list| self.store.keys.lists.iter().position(|of| of == list).unwrap_or(usize::MAX));
        for list in lists {
            let Some((label, bytes)) = self.parcels.next_ready(&list).await? else { continue };
            let fits = used.saturating_add(2 * bytes) <= low;
            if fits || self.length(&list).await? < HEAD / 2 {
                self.give_back(&label).await?;
                return Ok(Back::Moved);
            }
            back = Back::Waits;
        }
        Ok(back)
    }

    async fn give_back(&self, label: &Label) -> Result<(), ProviderError> {
        let token = &label.token;
        let Some(items) = self.parcels.items(token).await? else { return Ok(()) };
        fail::fail_point!("redis::parcel_returning");
        let mut call = self.script(Some(&label.list), "back", token);
        call.arg(items);
        // Whether now or before: they are there.
        self.send(&call).await?;
        fail::fail_point!("redis::parcel_pushed");
        self.parcels.advance(token, ParcelState::Ready, ParcelState::Returned).await?;
        fail::fail_point!("redis::parcel_returned");
        self.clear_returned(token).await
    }

    async fn clear_returned(&self, token: &str) -> Result<(), ProviderError> {
        self.send(&self.script(None, "clear", token)).await?;
        fail::fail_point!("redis::receipt_cleared");
        self.parcels.forget(token, ParcelState::Returned).await
    }

    fn script(&self, list: Option<&str>, what: &str, token: &str) -> Call {
        let keys: Vec<&str> = std::iter::once(self.store.keys.prefix.as_str()).chain(list).collect();
        let mut call = OVERFLOW.on(keys.into_iter());
        call.arg(what).arg(token);
        call
    }

    /// Makes a call until its outcome is known: the same token gets the same answer.
    async fn send(&self, call: &Call) -> Result<Value, ProviderError> {
        let mut tries = 1;
        loop {
            match call.send(self.link).await {
                Err(error) if error.is_unknown_outcome() && tries < TRIES => tries += 1,
                answer => return answer.map_err(|error| self.at(error)),
            }
        }
    }

    fn at(&self, error: CallError) -> ProviderError {
        self.store.error("moving jobs out of memory", error)
    }
}
