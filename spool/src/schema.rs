//! Opening the file: its settings, its format, its migrations.

use std::{
    path::Path,
    time::{Duration, Instant},
};

use rusqlite::{Connection, ErrorCode, OpenFlags};

use crate::error::StoreError;

/// What the file says it is: `GANG`.
const APPLICATION_ID: i64 = 0x4741_4e47;

/// What takes a file from each format to the next, from the empty file on.
pub(crate) const MIGRATIONS: &[&str] = &[include_str!("../sql/0001.sql")];

/// How long a write waits for another program's transaction.
const BUSY: Duration = Duration::from_secs(5);

/// Opens a connection that writes.
pub(crate) fn open_writer(path: &Path, create: bool) -> Result<Connection, StoreError> {
    let mut flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    if create {
        flags |= OpenFlags::SQLITE_OPEN_CREATE;
    }
    let mut connection = Connection::open_with_flags(path, flags)?;
    connection.busy_handler(Some(wait_for_lock))?;
    // Pages of 8 KiB take a tenth off the cost of a drain; a file that exists keeps its own.
    connection.pragma_update(None, "page_size", 8192)?;
    let mode: String = connection.pragma_update_and_check(None, "journal_mode", "wal", |row| row.get(0))?;
    if !mode.eq_ignore_ascii_case("wal") {
        return Err(StoreError::Refused(format!(
            "it cannot be used in WAL mode (SQLite stays in `{mode}` mode): it must be on a local disk"
        )));
    }
    connection.pragma_update(None, "synchronous", "FULL")?;
    connection.pragma_update(None, "cache_size", -8000)?;
    connection.pragma_update(None, "wal_autocheckpoint", 2000)?;
    connection.pragma_update(None, "journal_size_limit", 64 << 20)?;
    connection.set_prepared_statement_cache_capacity(128);
    Ok(connection)
}

/// Opens a connection that only reads.
pub(crate) fn open_reader(path: &Path) -> Result<Connection, StoreError> {
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let mut connection = Connection::open_with_flags(path, flags)?;
    connection.busy_handler(Some(wait_for_lock))?;
    connection.pragma_update(None, "query_only", true)?;
    connection.set_prepared_statement_cache_capacity(64);
    Ok(connection)
}

/// SQLite's busy handler: tries again every millisecond, for [`BUSY`] in all. Its own one waits up to 100 ms
/// between tries and would miss most of the gaps that another ganger leaves.
fn wait_for_lock(tries: i32) -> bool {
    thread_local!(static SINCE: std::cell::Cell<Option<Instant>> = const { std::cell::Cell::new(None) });
    let since = match SINCE.get() {
        Some(since) if tries > 0 => since,
        _ => {
            let now = Instant::now();
            SINCE.set(Some(now));
            now
        }
    };
    if since.elapsed() >= BUSY {
        return false;
    }
    std::thread::sleep(Duration::from_millis(1));
    true
}

/// Brings the file to the newest format of `migrations`, in one transaction.
pub(crate) fn migrate(connection: &Connection, migrations: &[&str]) -> Result<(), StoreError> {
    if check(connection, migrations.len())? == migrations.len() {
        return Ok(());
    }
    connection.execute_batch("BEGIN IMMEDIATE")?;
    let migrated = migrate_locked(connection, migrations);
    match &migrated {
        Ok(()) => connection.execute_batch("COMMIT")?,
        Err(_) => connection.execute_batch("ROLLBACK")?,
    }
    migrated
}

fn migrate_locked(connection: &Connection, migrations: &[&str]) -> Result<(), StoreError> {
    // Another process may have been quicker.
    let format = check(connection, migrations.len())?;
    for migration in migrations.get(format..).unwrap_or_default() {
        connection.execute_batch(migration)?;
    }
    connection.pragma_update(None, "user_version", migrations.len().max(format) as i64)?;
    connection.pragma_update(None, "application_id", APPLICATION_ID)?;
    Ok(())
}

/// The file's format, if a program that knows formats up to `ours` may use it; 0 for an empty file.
pub(crate) fn check(connection: &Connection, ours: usize) -> Result<usize, StoreError> {
    let format: i64 = connection.pragma_query_value(None, "user_version", |row| row.get(0))?;
    let application: i64 = connection.pragma_query_value(None, "application_id", |row| row.get(0))?;
    let empty: bool = connection.query_row("SELECT count(*) = 0 FROM sqlite_master", [], |row| row.get(0))?;
    if !empty && application != APPLICATION_ID {
        return Err(StoreError::Refused(
            "it is an SQLite database of some other program: name another file".to_owned(),
        ));
    }
    let format = usize::try_from(format).unwrap_or(usize::MAX);
    if format > ours {
        let oldest: i64 = connection
            .query_row("SELECT value FROM meta WHERE key = 'oldest'", [], |row| row.get(0))
            .unwrap_or(i64::MAX);
        if i64::try_from(ours).unwrap_or(i64::MAX) < oldest {
            return Err(StoreError::Refused(format!(
                "its format is {format}, and this ganger knows formats up to {ours}: use a newer ganger; the file is \
                 left as it is"
            )));
        }
    }
    Ok(format)
}

/// Checks the format once more, within a transaction: another process may have migrated the file meanwhile.
/// `known` is the number that was found good last.
pub(crate) fn recheck(connection: &Connection, known: &mut i64) -> Result<(), StoreError> {
    let format: i64 = connection.prepare_cached("PRAGMA user_version")?.query_row([], |row| row.get(0))?;
    if format != *known {
        check(connection, MIGRATIONS.len())?;
        *known = format;
    }
    Ok(())
}

/// Whether an error means that the whole transaction is gone, not only the statement.
pub(crate) fn is_fatal_to_transaction(error: &rusqlite::Error) -> bool {
    matches!(
        error.sqlite_error_code(),
        Some(
            ErrorCode::DiskFull
                | ErrorCode::SystemIoFailure
                | ErrorCode::OutOfMemory
                | ErrorCode::DatabaseCorrupt
                | ErrorCode::DatabaseBusy
        )
    )
}
