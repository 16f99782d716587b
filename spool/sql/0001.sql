-- Format 1. Nothing here is newer than SQLite 3.31, so that any program may open the file.
--
-- `jobs` (a view) is the public face: read it, and INSERT INTO it to enqueue. The tables are private.
-- Times are milliseconds since 1970 (UTC), spans are milliseconds; lease times are milliseconds of CLOCK_BOOTTIME.

-- What is known of the file as a whole: `oldest`, the oldest format whose programs may use it; `finished`, how
-- many entries `finish` lists; `patience`, until when no lease of a living holder is taken over.
CREATE TABLE meta (key TEXT PRIMARY KEY, value) WITHOUT ROWID;

-- One per queue and type, never changed.
CREATE TABLE lane (id INTEGER PRIMARY KEY, queue TEXT NOT NULL, type TEXT NOT NULL, UNIQUE (queue, type));

-- Every job. `seq` is its place in the order. `state`: 2 open, 3 done, 4 dead, 5 cancelled, 6 expired. An open job
-- is ready, scheduled or a suspect if it is listed so below; else it is leased.
CREATE TABLE job (
    seq INTEGER PRIMARY KEY,
    lane INTEGER NOT NULL,
    state INTEGER NOT NULL,
    changed INTEGER NOT NULL,
    priority INTEGER NOT NULL,
    rare INTEGER NOT NULL,
    cancel INTEGER NOT NULL,
    suspect INTEGER NOT NULL,
    spent INTEGER NOT NULL,
    crashes INTEGER NOT NULL,
    capture_output INTEGER NOT NULL,
    created_at INTEGER NOT NULL,
    id TEXT NOT NULL,
    params TEXT,
    name TEXT,
    retries INTEGER,
    timeout INTEGER,
    run_at INTEGER,
    expires_at INTEGER,
    due INTEGER,
    attempts TEXT,
    reason TEXT,
    -- Only where `rare` is 1.
    backoff TEXT,
    "unique" TEXT,
    "limit" TEXT,
    "after" TEXT,
    headers TEXT,
    keep INTEGER,
    input TEXT,
    via TEXT,
    extra TEXT,
    handled TEXT,
    -- An entry that is no job: what is wrong with it, and its bytes.
    fault TEXT,
    raw BLOB
);
CREATE UNIQUE INDEX job_id ON job (id);
CREATE INDEX job_ended ON job (state, seq) WHERE state > 3;

-- Open jobs that wait for a worker, in the order in which they are leased. `rank` is the priority, negated.
CREATE TABLE ready (lane INTEGER, rank INTEGER, seq INTEGER, PRIMARY KEY (lane, rank, seq)) WITHOUT ROWID;

-- Open jobs that wait for their time.
CREATE TABLE due (at INTEGER, seq INTEGER, PRIMARY KEY (at, seq)) WITHOUT ROWID;

-- Open jobs that lost a lease and wait for a worker: leased alone. `crashed`: whether a run was lost since then.
CREATE TABLE suspect (
    lane INTEGER, crashed INTEGER, seq INTEGER, PRIMARY KEY (lane, crashed, seq)
) WITHOUT ROWID;

-- Leased jobs that someone has asked to cancel.
CREATE TABLE cancel (seq INTEGER PRIMARY KEY);

-- Leases, one row a claim. `items`: 8 bytes each, little-endian, `seq * 8 + flags`; 0 is settled. Flags: 1 the job
-- has a `keep` of its own, 2 it was a suspect.
CREATE TABLE claim (
    incarnation INTEGER, source TEXT, token INTEGER, deadline INTEGER NOT NULL, lease INTEGER NOT NULL,
    claimed_at INTEGER NOT NULL, items BLOB NOT NULL,
    PRIMARY KEY (incarnation, source, token)
) WITHOUT ROWID;

-- Managers: the last exchange of each with its answer, and its beat.
CREATE TABLE member (
    incarnation INTEGER, source TEXT, token INTEGER, stale BLOB, more INTEGER, leased INTEGER,
    boot TEXT NOT NULL, seen INTEGER NOT NULL, lease INTEGER NOT NULL, beat TEXT,
    PRIMARY KEY (incarnation, source)
) WITHOUT ROWID;

-- Finished jobs in the order of their ends, to be forgotten from the front. `items`: 8 bytes each, `seq`.
CREATE TABLE finish (
    number INTEGER PRIMARY KEY, at INTEGER NOT NULL, count INTEGER NOT NULL, items BLOB NOT NULL
);

-- Finished jobs with a `keep` of their own.
CREATE TABLE keep (until INTEGER, seq INTEGER, at INTEGER, PRIMARY KEY (until, seq)) WITHOUT ROWID;

-- What a job's last run printed, where that is kept.
CREATE TABLE output (
    seq INTEGER PRIMARY KEY, bytes BLOB NOT NULL, cut INTEGER NOT NULL, cut_at INTEGER NOT NULL, content_type TEXT
);

-- Rows that other programs inserted into `jobs`, as they came. ganger reads them before its next claim.
CREATE TABLE inbox (
    seq INTEGER PRIMARY KEY, at INTEGER NOT NULL, id, type, params, name, queue, retries, priority, capture_output,
    timeout, run_at, expires_at, delay, max_age, backoff, "unique", "limit", "after", headers, keep, extra
);
CREATE INDEX inbox_id ON inbox (id);

CREATE VIEW jobs AS
SELECT
    j.id AS id,
    l.type AS type,
    j.params AS params,
    j.name AS name,
    l.queue AS queue,
    CASE j.state
        WHEN 3 THEN 'done' WHEN 4 THEN 'dead' WHEN 5 THEN 'cancelled' WHEN 6 THEN 'expired'
        ELSE CASE
            WHEN EXISTS (SELECT 1 FROM ready r WHERE r.lane = j.lane AND r.rank = -j.priority AND r.seq = j.seq)
                THEN 'ready'
            WHEN j.due IS NOT NULL AND EXISTS (SELECT 1 FROM due d WHERE d.at = j.due AND d.seq = j.seq)
                THEN 'scheduled'
            WHEN j.suspect AND EXISTS (
                SELECT 1 FROM suspect s WHERE s.lane = j.lane AND s.crashed = (j.crashes > 0) AND s.seq = j.seq
            ) THEN 'ready'
            ELSE 'running'
        END
    END AS state,
    j.retries AS retries,
    j.priority AS priority,
    j.capture_output AS capture_output,
    j.timeout / 1000.0 AS timeout,
    strftime('%Y-%m-%dT%H:%M:%fZ', coalesce(j.due, j.run_at) / 1000.0, 'unixepoch') AS run_at,
    strftime('%Y-%m-%dT%H:%M:%fZ', j.expires_at / 1000.0, 'unixepoch') AS expires_at,
    NULL AS delay,
    NULL AS max_age,
    j.backoff AS backoff,
    j."unique" AS "unique",
    j."limit" AS "limit",
    j."after" AS "after",
    j.headers AS headers,
    j.keep / 1000.0 AS keep,
    j.extra AS extra,
    strftime('%Y-%m-%dT%H:%M:%fZ', j.created_at / 1000.0, 'unixepoch') AS created_at,
    CASE WHEN j.state > 2 THEN strftime('%Y-%m-%dT%H:%M:%fZ', j.changed / 1000.0, 'unixepoch') END AS ended_at,
    j.reason AS reason,
    j.spent AS spent,
    j.crashes AS crashes,
    j.attempts AS attempts
FROM job j JOIN lane l ON l.id = j.lane
UNION ALL
SELECT
    id, type, params, name, coalesce(queue, 'default'), 'ready', retries, priority, capture_output, timeout, run_at,
    expires_at, delay, max_age, backoff, "unique", "limit", "after", headers, keep, extra,
    strftime('%Y-%m-%dT%H:%M:%fZ', at / 1000.0, 'unixepoch'), NULL, NULL, 0, 0, NULL
FROM inbox;

CREATE TRIGGER jobs_insert INSTEAD OF INSERT ON jobs BEGIN
    SELECT RAISE(ABORT, 'a job with this id is stored already')
    WHERE EXISTS (SELECT 1 FROM job WHERE id = NEW.id) OR EXISTS (SELECT 1 FROM inbox WHERE id = NEW.id);
    INSERT INTO inbox (
        seq, at, id, type, params, name, queue, retries, priority, capture_output, timeout, run_at, expires_at,
        delay, max_age, backoff, "unique", "limit", "after", headers, keep, extra
    )
    SELECT
        1 + max(coalesce((SELECT max(seq) FROM job), 0), coalesce((SELECT max(seq) FROM inbox), 0)),
        t.now,
        coalesce(NEW.id, lower(printf(
            '%08x-%04x-7%03x-%04x-%012x', t.now >> 16, t.now & 65535, random() & 4095, 32768 | (random() & 16383),
            random() & 281474976710655
        ))),
        NEW.type, NEW.params, NEW.name, NEW.queue, NEW.retries, NEW.priority, NEW.capture_output, NEW.timeout,
        NEW.run_at, NEW.expires_at, NEW.delay, NEW.max_age, NEW.backoff, NEW."unique", NEW."limit", NEW."after",
        NEW.headers, NEW.keep, NEW.extra
    FROM (SELECT CAST((julianday('now') - 2440587.5) * 86400000 AS INTEGER) AS now) t;
END;

INSERT INTO meta VALUES ('oldest', 1), ('finished', 0), ('patience', 0);
