//! An open store: one per file and process, whoever opens it.

use std::{
    collections::HashMap,
    fmt,
    path::{Path, PathBuf},
    sync::{Arc, LazyLock, Mutex, PoisonError, Weak, mpsc},
    time::Duration,
};

use ganger_core::ProviderError;
use tokio::sync::{Semaphore, oneshot, watch};

use crate::{
    error::StoreError,
    lock::{Holders, Visitors},
    read::Readers,
    schema,
    tx::Tx,
    watch::Watcher,
    writer::{Call, Operation, Writer},
};

/// How long finished jobs are kept, by default.
pub const KEEP_DONE: Duration = Duration::from_secs(3600);

/// How many finished jobs are kept, by default.
pub const KEEP_DONE_MAX: u64 = 100_000;

/// What may wait for the writer, in KiB and operations together.
const WAITING_MAX: usize = 32 << 10;

/// How an open store behaves.
#[derive(Clone, Debug, Default)]
pub struct SpoolOptions {
    /// How long finished jobs stay; `None` leaves it as it is (at first [`Retention::default`]).
    pub retention: Option<Retention>,
    /// Open what exists, create nothing.
    pub existing_only: bool,
}

/// How long jobs that ended done, cancelled or expired stay on record. Dead ones stay until an order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Retention {
    /// At most this long; zero keeps none.
    pub time: Duration,
    /// At most so many; zero keeps none.
    pub count: u64,
}

impl Default for Retention {
    fn default() -> Self {
        Retention { time: KEEP_DONE, count: KEEP_DONE_MAX }
    }
}

impl Retention {
    /// Whether any are kept.
    pub fn keeps(&self) -> bool {
        self.count > 0 && !self.time.is_zero()
    }
}

/// What the threads of an open store share.
pub(crate) struct Shared {
    pub(crate) path: PathBuf,
    pub(crate) holders: Holders,
    pub(crate) visitors: Visitors,
    pub(crate) boot: String,
    retention: Mutex<Retention>,
    /// Counts commits, ours and those of other processes.
    commits: watch::Sender<u64>,
}

impl Shared {
    pub(crate) fn retention(&self) -> Retention {
        *self.retention.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Tells those who wait that the file has changed.
    pub(crate) fn changed(&self) {
        self.commits.send_modify(|commits| *commits += 1);
    }

    /// Learns of changes from now on.
    pub(crate) fn changes(&self) -> watch::Receiver<u64> {
        self.commits.subscribe()
    }
}

/// An open store. The last handle closes it.
pub struct Spool {
    // In the order in which they are let go: SQLite's connections before `shared`, which holds a descriptor of
    // one of SQLite's files.
    sender: Mutex<Option<mpsc::Sender<Box<dyn Operation>>>>,
    thread: Mutex<Option<std::thread::JoinHandle<()>>>,
    pub(crate) readers: Arc<Readers>,
    _watcher: Watcher,
    room: Arc<Semaphore>,
    pub(crate) shared: Arc<Shared>,
    /// Let go last: who opens the file next waits for it.
    _open: mpsc::Sender<()>,
}

impl fmt::Debug for Spool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Spool").field("path", &self.shared.path).finish_non_exhaustive()
    }
}

/// The stores that this process has open, by canonical path.
static OPEN: LazyLock<Mutex<HashMap<PathBuf, Arc<Mutex<Slot>>>>> = LazyLock::new(Mutex::default);

/// A file that is open, or was.
#[derive(Default)]
struct Slot {
    spool: Weak<Spool>,
    /// Disconnected when the store is closed whole. Until then its descriptors must not be mixed with new ones:
    /// closing one drops the locks that SQLite has on the file.
    open: Option<mpsc::Receiver<()>>,
}

impl Slot {
    fn is_used(&self) -> bool {
        self.open.as_ref().is_some_and(|open| open.try_recv() != Err(mpsc::TryRecvError::Disconnected))
    }
}

impl Spool {
    /// Opens the store in the file `path`, or hands out the one that this process has open already: a process
    /// has one writer a file.
    ///
    /// # Errors
    /// Transient when the file does not exist and may not be created, or is busy; fatal when it is no job store;
    /// refused, the file untouched, when its format is newer than this ganger knows.
    pub async fn open(path: impl Into<PathBuf>, options: SpoolOptions) -> Result<Arc<Spool>, ProviderError> {
        let path = path.into();
        tokio::task::spawn_blocking(move || Spool::open_blocking(&path, &options))
            .await
            .map_err(|error| ProviderError::transient("opening the job store was cut off").because(error))?
    }

    fn open_blocking(path: &Path, options: &SpoolOptions) -> Result<Arc<Spool>, ProviderError> {
        let path = canonical(path, options.existing_only)?;
        let slot = {
            let mut open = OPEN.lock().unwrap_or_else(PoisonError::into_inner);
            open.retain(|_, slot| {
                Arc::strong_count(slot) > 1 || slot.try_lock().is_ok_and(|slot| slot.is_used())
            });
            open.entry(path.clone()).or_default().clone()
        };
        let mut slot = slot.lock().unwrap_or_else(PoisonError::into_inner);
        let spool = match slot.spool.upgrade() {
            Some(spool) => spool,
            None => {
                if let Some(open) = slot.open.take() {
                    // Disconnecting is all that ever happens.
                    let _ = open.recv();
                }
                let (open, closed) = mpsc::channel();
                let spool = Spool::start(path.clone(), options, open).map_err(|error| error.on(&path))?;
                let spool = Arc::new(spool);
                *slot = Slot { spool: Arc::downgrade(&spool), open: Some(closed) };
                spool
            }
        };
        if let Some(retention) = options.retention {
            *spool.shared.retention.lock().unwrap_or_else(PoisonError::into_inner) = retention;
        }
        Ok(spool)
    }

    fn start(path: PathBuf, options: &SpoolOptions, open: mpsc::Sender<()>) -> Result<Spool, StoreError> {
        let db = schema::open_writer(&path, !options.existing_only)?;
        schema::migrate(&db, schema::MIGRATIONS)?;
        // What a process left in the log when it died may not be on the disk although it can be read.
        db.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(()))?;
        let shared = Arc::new(Shared {
            holders: Holders::open(&beside(&path, "-lock"))?,
            visitors: Visitors::open(&beside(&path, "-shm"))?,
            boot: crate::clock::boot(),
            retention: Mutex::new(options.retention.unwrap_or_default()),
            commits: watch::Sender::new(0),
            path,
        });
        let readers = Arc::new(Readers::open(shared.clone())?);
        let watcher = Watcher::start(&shared)?;
        let (sender, inbox) = mpsc::channel();
        let writer = Writer::new(db, shared.clone(), inbox);
        let thread =
            std::thread::Builder::new().name("spool-writer".to_owned()).spawn(move || writer.run())?;
        Ok(Spool {
            sender: Mutex::new(Some(sender)),
            thread: Mutex::new(Some(thread)),
            readers,
            _watcher: watcher,
            room: Arc::new(Semaphore::new(WAITING_MAX)),
            shared,
            _open: open,
        })
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.shared.path
    }

    /// Has the writer do `step`; answers when it is committed, and on the disk if `synced`. `bytes` is what the
    /// operation holds in memory. Dropped before its turn, it is not carried out; later, it is.
    pub(crate) async fn write<T, F>(&self, synced: bool, bytes: usize, step: F) -> Result<T, ProviderError>
    where
        T: Send + 'static,
        F: FnMut(&mut Tx<'_>) -> Result<T, StoreError> + Send + 'static,
    {
        let shares = u32::try_from((1 + bytes / 1024).min(WAITING_MAX)).unwrap_or(1);
        let closed = |_| StoreError::Closed.on(&self.shared.path);
        let share = self.room.clone().acquire_many_owned(shares).await.map_err(|_| closed(()))?;
        let (reply, answer) = oneshot::channel();
        let call = Box::new(Call { synced, step, answer: None, reply, _share: share });
        {
            let sender = self.sender.lock().unwrap_or_else(PoisonError::into_inner);
            sender.as_ref().and_then(|sender| sender.send(call).ok()).ok_or_else(|| closed(()))?;
        }
        answer.await.map_err(|_| closed(()))?.map_err(|error| error.on(&self.shared.path))
    }
}

impl Drop for Spool {
    fn drop(&mut self) {
        self.sender.lock().unwrap_or_else(PoisonError::into_inner).take();
        let thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner).take();
        // The writer finishes what it has; it waits for nothing but the disk.
        if let Some(thread) = thread
            && thread.join().is_err()
        {
            tracing::error!(file = %self.shared.path.display(), "the writer of the job store panicked");
        }
    }
}

/// The one name of a file, whether it exists or not.
fn canonical(path: &Path, existing_only: bool) -> Result<PathBuf, ProviderError> {
    let fail = |error: std::io::Error, what: &Path| {
        ProviderError::transient(format!("job store `{}`", what.display())).because(error)
    };
    match path.canonicalize() {
        Ok(path) if path.is_dir() => Err(ProviderError::fatal(format!(
            "job store `{0}` is a folder: name a file in it, as `{0}/ganger.db`",
            path.display()
        ))),
        Ok(path) => Ok(path),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound && existing_only => {
            Err(ProviderError::transient(format!(
                "job store `{}` does not exist: `ganger run` and `ganger enqueue` make one, `-c` names another config",
                path.display()
            )))
        }
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            let folder =
                path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
            let name = path.file_name().ok_or_else(|| fail(error, path))?;
            let folder = folder.canonicalize().map_err(|error| {
                let (file, folder) = (path.display(), folder.display());
                ProviderError::transient(format!("job store `{file}`: its folder `{folder}`")).because(error)
            })?;
            Ok(folder.join(name))
        }
        Err(error) => Err(fail(error, path)),
    }
}

/// A file beside the store.
pub(crate) fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    PathBuf::from(name)
}
