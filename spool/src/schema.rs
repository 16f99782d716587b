//! Opening the file: its settings, its format, its migrations.

use std::{
    path::Path,
    time::{Duration, Instant},
};

use rusqlite::{Connection, ErrorCode, OpenFlags, config::DbConfig};

use crate::error::StoreError;

/// What the file says it is: `GANG`.
const APPLICATION_ID: i64 = 0x4741_4e47;

/// What takes a file from each format to the next, from the empty file on.
pub(crate) const MIGRATIONS: &[&str] = &[include_str!("../sql/0001.sql"), include_str!("../sql/0002.sql")];

/// The log goes into the file after so many pages.
pub(crate) const CHECKPOINT: u32 = 2000;

/// How long a write waits for another program's transaction.
const BUSY: Duration = Duration::from_secs(5);

/// Opens a connection that writes.
pub(crate) fn open_writer(path: &Path, create: bool) -> Result<Connection, StoreError> {
    let mut flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    if create {
        flags |= OpenFlags::SQLITE_OPEN_CREATE;
    }
    look_first(path)?;
    let mut connection = Connection::open_with_flags(path, flags)?;
    connection.busy_handler(Some(wait_for_lock))?;
    // Pages of 8 KiB take a tenth off the cost of a drain; a file that exists keeps its own.
    connection.pragma_update(None, "page_size", 8192)?;
    let mode = enter_wal(&connection)?;
    if !mode.eq_ignore_ascii_case("wal") {
        return Err(StoreError::Refused(format!(
            "it cannot be used in WAL mode (SQLite stays in `{mode}` mode): it must be on a local disk"
        )));
    }
    connection.pragma_update(None, "synchronous", "FULL")?;
    connection.pragma_update(None, "cache_size", -8000)?;
    connection.pragma_update(None, "wal_autocheckpoint", CHECKPOINT)?;
    connection.pragma_update(None, "journal_size_limit", 64 << 20)?;
    connection.set_prepared_statement_cache_capacity(128);
    // Else SQLite prepares a statement anew when it is given another value to compare with.
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_QPSG, true)?;
    Ok(connection)
}

/// Refuses a file that this program may not use before anything is set in it.
fn look_first(path: &Path) -> Result<(), StoreError> {
    if std::fs::metadata(path).map_or(0, |file| file.len()) == 0 {
        return Ok(());
    }
    // One that cannot write leaves the log of a process that died as it is.
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let mut connection = Connection::open_with_flags(path, flags)?;
    connection.busy_handler(Some(wait_for_lock))?;
    check(&connection, MIGRATIONS.len()).map(drop)
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

/// Puts the file into WAL mode and answers the mode it is in. SQLite calls no busy handler for this switch, and
/// two programs that make the same file at once meet here: the later one waits as it would for any other write.
fn enter_wal(connection: &Connection) -> Result<String, StoreError> {
    for tries in 0.. {
        match connection.pragma_update_and_check(None, "journal_mode", "wal", |row| row.get(0)) {
            Err(error) if error.sqlite_error_code() == Some(rusqlite::ErrorCode::DatabaseBusy) => {
                if !wait_for_lock(tries) {
                    return Err(error.into());
                }
            }
            done => return Ok(done?),
        }
    }
    unreachable!("the loop ends by its own returns")
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
///
/// All of it is read at one moment: between two reads another program may make the file into a store, and half of
/// an empty file with half of a store looks like somebody else's.
pub(crate) fn check(connection: &Connection, ours: usize) -> Result<usize, StoreError> {
    if !connection.is_autocommit() {
        return check_at_once(connection, ours);
    }
    let moment = connection.unchecked_transaction()?;
    check_at_once(&moment, ours)
}

fn check_at_once(connection: &Connection, ours: usize) -> Result<usize, StoreError> {
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

#[cfg(test)]
mod tests {
    use super::*;

    /// A format that may come after this one.
    const NEXT: &str = "ALTER TABLE job ADD COLUMN colour TEXT; UPDATE job SET colour = 'red'";

    const OURS: i64 = MIGRATIONS.len() as i64;

    fn next() -> Vec<&'static str> {
        MIGRATIONS.iter().copied().chain([NEXT]).collect()
    }

    fn file() -> (tempfile::TempDir, std::path::PathBuf) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("jobs.db");
        (dir, path)
    }

    fn version(db: &Connection) -> i64 {
        db.pragma_query_value(None, "user_version", |row| row.get(0)).unwrap()
    }

    #[test]
    fn an_older_file_is_brought_up_to_date_with_what_it_holds() {
        let (_dir, path) = file();
        let db = open_writer(&path, true).unwrap();
        migrate(&db, MIGRATIONS).unwrap();
        assert_eq!(version(&db), OURS);
        db.execute("INSERT INTO jobs (type) VALUES ('test')", []).unwrap();
        db.execute_batch(
            "INSERT INTO lane VALUES (1, 'default', 'test'); INSERT INTO job (seq, lane, state, changed, priority, rare, \
             cancel, suspect, spent, crashes, capture_output, created_at, id) VALUES (9, 1, 3, 0, 0, 0, 0, 0, 0, 0, 0, 0, 'a')",
        )
        .unwrap();
        drop(db);
        let db = open_writer(&path, true).unwrap();
        migrate(&db, &next()).unwrap();
        assert_eq!(version(&db), OURS + 1);
        let colour: String =
            db.query_row("SELECT colour FROM job WHERE id = 'a'", [], |row| row.get(0)).unwrap();
        assert_eq!(colour, "red");
        assert_eq!(db.query_row("SELECT count(*) FROM jobs", [], |row| row.get::<_, i64>(0)).unwrap(), 2);
        migrate(&db, &next()).unwrap();
    }

    #[test]
    fn a_migration_that_fails_leaves_the_file_as_it_was() {
        let (_dir, path) = file();
        let db = open_writer(&path, true).unwrap();
        migrate(&db, MIGRATIONS).unwrap();
        let broken: Vec<&str> = next().into_iter().chain(["CREATE TABLE job (x)"]).collect();
        assert!(migrate(&db, &broken).is_err());
        assert_eq!(version(&db), OURS);
        assert!(db.prepare("SELECT colour FROM job").is_err());
    }

    #[test]
    fn the_format_before_runs_beside_this_one_and_an_older_one_is_refused() {
        let (_dir, path) = file();
        let db = open_writer(&path, true).unwrap();
        migrate(&db, &next()).unwrap();
        // The new format says that programs of the one before may use it.
        assert_eq!(check(&db, MIGRATIONS.len()).unwrap() as i64, OURS + 1);
        migrate(&db, MIGRATIONS).unwrap();
        assert_eq!(version(&db), OURS + 1, "the older program leaves the newer format alone");
        let mut known = OURS;
        recheck(&db, &mut known).unwrap();
        assert_eq!(known, OURS + 1);
        db.execute("UPDATE meta SET value = ?1 WHERE key = 'oldest'", [OURS + 1]).unwrap();
        let error = check(&db, MIGRATIONS.len()).unwrap_err().to_string();
        let told = format!("its format is {}, and this ganger knows formats up to {OURS}", OURS + 1);
        assert!(error.contains(&told), "{error}");
        let mut known = OURS;
        assert!(recheck(&db, &mut known).is_err(), "also a program that has the file open learns it");
    }

    #[test]
    fn the_database_of_another_program_is_refused_and_left_as_it_is() {
        let (_dir, path) = file();
        Connection::open(&path).unwrap().execute_batch("CREATE TABLE theirs (x)").unwrap();
        let before = std::fs::read(&path).unwrap();
        assert!(matches!(open_writer(&path, true), Err(StoreError::Refused(_))));
        assert_eq!(std::fs::read(&path).unwrap(), before);
    }

    #[test]
    fn connections_that_make_the_same_file_at_once_wait_for_each_other() {
        for _ in 0..40 {
            let folder = tempfile::tempdir().unwrap();
            let path = folder.path().join("jobs.db");
            std::thread::scope(|scope| {
                for _ in 0..8 {
                    scope.spawn(|| {
                        let connection = open_writer(&path, true).unwrap();
                        migrate(&connection, MIGRATIONS).unwrap();
                    });
                }
            });
        }
    }
}
