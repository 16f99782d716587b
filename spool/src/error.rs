//! What can go wrong at the store, and whether trying again can help.

use std::path::Path;

use ganger_core::ProviderError;
use rusqlite::ErrorCode;

/// A failed operation on the store.
#[derive(Debug, thiserror::Error)]
pub(crate) enum StoreError {
    /// SQLite's word.
    #[error(transparent)]
    Sqlite(#[from] rusqlite::Error),
    /// The file cannot be used by this program.
    #[error("{0}")]
    Refused(String),
    /// The operation must be synced to the disk, and the transaction is not: it is done again in one that is.
    #[error("the transaction is not a synced one")]
    Unsynced,
    /// The transaction that the operation was part of was rolled back.
    #[error("the transaction was rolled back: {0}")]
    RolledBack(String),
    /// The store is closed.
    #[error("the store is closed")]
    Closed,
    /// A system call beside SQLite's.
    #[error(transparent)]
    Io(#[from] std::io::Error),
}

impl StoreError {
    /// The error as a provider reports it.
    pub(crate) fn on(self, path: &Path) -> ProviderError {
        let file = path.display();
        match self {
            StoreError::Refused(why) => ProviderError::refused(format!("job store `{file}`: {why}")),
            StoreError::Sqlite(error) => sqlite(error, path),
            other => ProviderError::transient(format!("job store `{file}`: {other}")),
        }
    }
}

fn sqlite(error: rusqlite::Error, path: &Path) -> ProviderError {
    let file = path.display();
    let fatal = |what: &str| ProviderError::fatal(format!("job store `{file}` {what}"));
    match error.sqlite_error_code() {
        Some(ErrorCode::NotADatabase) => fatal(
            "is no SQLite database (GoWorker's `my.db` is a bolt file, which ganger does not read): name another file",
        ),
        Some(ErrorCode::DatabaseCorrupt) => {
            fatal("is damaged: move it away; `sqlite3 FILE .recover` saves what can be saved").because(error)
        }
        Some(ErrorCode::ReadOnly | ErrorCode::PermissionDenied) => {
            fatal("cannot be written: check the permissions of the file and its folder").because(error)
        }
        Some(ErrorCode::DiskFull) => {
            ProviderError::transient(format!("job store `{file}`: the disk is full; nothing was accepted"))
        }
        Some(ErrorCode::CannotOpen) => ProviderError::transient(format!(
            "job store `{file}` cannot be opened: SQLite makes files beside it, so its folder must be writable"
        ))
        .because(error),
        Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => ProviderError::transient(format!(
            "job store `{file}`: another program holds its write lock (a transaction left open?)"
        )),
        _ => ProviderError::transient(format!("job store `{file}`")).because(error),
    }
}
