//! `dump_on_limit`: the tail of a list that is over its memory moves to disk and back, and nothing is lost or doubled.
//!
//! What ends or forgets in between is in the module `failpoints`:
//! `cargo test -p ganger-provider-redis --features failpoints --test overflow`
#![allow(clippy::unwrap_used, reason = "a panic is how a test speaks")]

mod support;

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use ganger_conformance::{eventually, eventually_within, label};
use ganger_core::{
    DynProvider, Exchange, Filter, JobId, LeaseRef, Order, Settlement, State, Token, Verdict,
    draw_incarnation,
};
use ganger_spool::{Spool, SpoolOptions};
use ganger_testkit::server::Redis;
use redis::{Value, cmd};
use support::{
    LIST,
    crew::{any, beat, entries},
    durable, open_with, push, run, try_run,
};

/// A limit that Redis is always over, and one that it never is.
const ALWAYS: &str = "1";
const NEVER: &str = "1024GiB";
/// What stays of a list while Redis is over its limit.
const HEAD: i64 = 1000;
const LEASE: Duration = Duration::from_secs(15);
const PATIENCE: Duration = Duration::from_secs(60);

/// A manager that has begun its work.
struct Member {
    provider: Arc<dyn DynProvider>,
    incarnation: u64,
}

impl Member {
    async fn begin(url: &str, file: &Path, limit: &str) -> Member {
        let options = serde_json::json!({
            "url": url, "job_list": LIST, "dump_on_limit": true, "memory_limit": limit, "dump_to": file,
        });
        let incarnation = draw_incarnation();
        let member = Member { provider: open_with(options, incarnation).await.unwrap(), incarnation };
        member.provider.renew(&beat(incarnation, LEASE), &[]).await.unwrap();
        member
    }

    /// Takes and does all that there is, until so many different jobs were done; how often each was taken.
    async fn drain(&self, jobs: usize) -> BTreeMap<String, u32> {
        let mut taken = BTreeMap::new();
        let (mut seq, mut settle) = (0, Vec::new());
        let all = async {
            while taken.len() < jobs || !settle.is_empty() {
                seq += 1;
                let token = Token { incarnation: self.incarnation, seq };
                let room = any(400);
                let give = Exchange { token, settle: std::mem::take(&mut settle), room, lease: LEASE };
                let Ok(answer) = self.provider.exchange(&give).await else { continue };
                for one in &answer.leased {
                    *taken.entry(label(one)).or_default() += 1;
                    settle.push(Settlement::new(LeaseRef { token, index: one.index }, Verdict::Done));
                }
                if answer.leased.is_empty() {
                    let _ = tokio::time::timeout(LEASE / 100, self.provider.wait(&give.room)).await;
                }
            }
        };
        let all = tokio::time::timeout(PATIENCE, all).await;
        assert!(all.is_ok(), "{} of {jobs} jobs were taken", taken.len());
        taken
    }
}

struct Folder(tempfile::TempDir);

impl Folder {
    fn new() -> Folder {
        Folder(tempfile::tempdir().unwrap())
    }

    fn file(&self) -> PathBuf {
        self.0.path().join("dump.db")
    }
}

fn length(redis: &Redis) -> i64 {
    match try_run(redis, cmd("LLEN").arg(LIST)) {
        Ok(Value::Int(length)) => length,
        _ => -1,
    }
}

fn push_jobs(redis: &Redis, jobs: usize) {
    let entries = entries(jobs);
    let entries: Vec<&str> = entries.iter().map(String::as_str).collect();
    push(redis, &entries);
}

async fn becomes(redis: &Redis, jobs: i64) {
    eventually_within(PATIENCE, &format!("{jobs} jobs in the list"), async || length(redis) == jobs).await;
}

/// No parcel is on its way.
async fn comes_to_rest(url: &str) {
    let mut redis = redis::Client::open(url).unwrap().get_connection().unwrap();
    let left = cmd("EXISTS").arg("ganger:{jobs}:overflow").arg("ganger:{jobs}:receipts").to_owned();
    eventually("the last receipt is cleared", async || left.query::<i64>(&mut redis) == Ok(0)).await;
}

/// Nothing of a move is left, neither in Redis nor in the file.
async fn leaves_nothing(url: &str, file: &Path) {
    comes_to_rest(url).await;
    let spool = Spool::open(file, SpoolOptions::default()).await.unwrap();
    assert_eq!(spool.jobs_of_others("nobody").await.unwrap(), 0);
}

fn once_each(taken: &BTreeMap<String, u32>, jobs: usize, case: &str) {
    assert_eq!(taken.len(), jobs, "{case}: all came back");
    let twice: Vec<_> = taken.iter().filter(|(_, times)| **times > 1).collect();
    assert!(twice.is_empty(), "{case}: none came twice: {twice:?}");
}

#[test]
fn the_tail_moves_to_disk_over_the_limit_and_comes_back_below_it_in_its_order() {
    ganger_conformance::run(async {
        let (redis, folder) = (durable(), Folder::new());
        push_jobs(&redis, 4197);
        // Bytes of any kind, and one entry that is larger than a parcel.
        for entry in [&b"\xff\0\n\n"[..], b"", &[b'x'; 3 << 20]] {
            run(&redis, cmd("RPUSH").arg(LIST).arg(entry));
        }
        let before = run(&redis, cmd("LRANGE").arg(LIST).arg(0).arg(-1));
        let manager = Member::begin(&redis.url(), &folder.file(), ALWAYS).await;
        becomes(&redis, HEAD).await;
        manager.provider.close().await.unwrap();
        let manager = Member::begin(&redis.url(), &folder.file(), NEVER).await;
        becomes(&redis, 4200).await;
        assert_eq!(run(&redis, cmd("LRANGE").arg(LIST).arg(0).arg(-1)), before);
        manager.provider.close().await.unwrap();
        leaves_nothing(&redis.url(), &folder.file()).await;
    });
}

#[test]
fn where_redis_stays_over_its_limit_jobs_come_back_as_the_list_runs_short() {
    ganger_conformance::run(async {
        let (redis, folder) = (durable(), Folder::new());
        push_jobs(&redis, 4000);
        let manager = Member::begin(&redis.url(), &folder.file(), ALWAYS).await;
        becomes(&redis, HEAD).await;
        once_each(&manager.drain(4000).await, 4000, "over its limit");
        manager.provider.close().await.unwrap();
        leaves_nothing(&redis.url(), &folder.file()).await;
    });
}

#[test]
fn several_managers_move_one_list_to_one_file_and_to_others() {
    ganger_conformance::run(async {
        let (redis, folder, other) = (durable(), Folder::new(), Folder::new());
        push_jobs(&redis, 6000);
        let mut managers = Vec::new();
        for folder in [&folder, &folder, &other] {
            managers.push(Member::begin(&redis.url(), &folder.file(), ALWAYS).await);
        }
        becomes(&redis, HEAD).await;
        once_each(&managers[0].drain(6000).await, 6000, "three managers");
        for manager in managers {
            manager.provider.close().await.unwrap();
        }
        leaves_nothing(&redis.url(), &folder.file()).await;
    });
}

#[test]
fn a_job_on_disk_is_listed_counted_shown_and_cancelled() {
    ganger_conformance::run(async {
        let (redis, folder) = (durable(), Folder::new());
        push_jobs(&redis, 1400);
        push(
            &redis,
            &[r#"{"type":"test","name":"b","id":"late"}"#, r#"{"type":"test","name":"c","id":"later"}"#],
        );
        let manager = Member::begin(&redis.url(), &folder.file(), ALWAYS).await;
        becomes(&redis, HEAD).await;
        let admin = manager.provider.admin().unwrap();
        assert_eq!(admin.count(&Filter::default()).await.unwrap(), 1402);
        let id: JobId = "late".parse().unwrap();
        assert_eq!(admin.show(&id).await.unwrap().unwrap().state, State::Ready);
        let late = Filter { ids: Some(vec![id.clone()]), ..Filter::default() };
        assert_eq!(admin.order(Order::Cancel, &late).await.unwrap(), 1);
        assert_eq!(admin.show(&id).await.unwrap().unwrap().state, State::Cancelled);
        let taken = manager.drain(1401).await;
        assert!(!taken.contains_key("b") && taken.contains_key("c"));
    });
}

#[test]
fn a_folder_that_is_not_there_leaves_the_jobs_where_they_are() {
    ganger_conformance::run(async {
        let (redis, folder) = (durable(), Folder::new());
        push_jobs(&redis, 2000);
        let file = folder.0.path().join("none/dump.db");
        let manager = Member::begin(&redis.url(), &file, ALWAYS).await;
        once_each(&manager.drain(2000).await, 2000, "no folder");
    });
}

#[test]
fn the_parcels_of_another_server_in_the_same_file_stay_there() {
    ganger_conformance::run(async {
        let (redis, other, folder) = (durable(), durable(), Folder::new());
        push_jobs(&redis, 1500);
        let manager = Member::begin(&redis.url(), &folder.file(), ALWAYS).await;
        becomes(&redis, HEAD).await;
        manager.provider.close().await.unwrap();
        let elsewhere = Member::begin(&other.url(), &folder.file(), NEVER).await;
        push_jobs(&other, 10);
        once_each(&elsewhere.drain(10).await, 10, "the other server");
        assert_eq!(elsewhere.provider.admin().unwrap().count(&Filter::default()).await.unwrap(), 0);
        let again = Member::begin(&redis.url(), &folder.file(), NEVER).await;
        once_each(&again.drain(1500).await, 1500, "the first server");
    });
}

#[test]
fn producers_push_more_than_redis_may_hold() {
    ganger_conformance::run(async {
        let (redis, folder) = (durable(), Folder::new());
        run(&redis, cmd("CONFIG").arg("SET").arg("maxmemory").arg("16mb"));
        let _manager = Member::begin(&redis.url(), &folder.file(), "8MiB").await;
        let padding = "x".repeat(900);
        let entry = |n: usize| format!(r#"{{"type":"test","name":"{n}","params":"{padding}"}}"#);
        // 40 MB.
        for from in (0..40_000).step_by(500) {
            let entries: Vec<String> = (from..from + 500).map(entry).collect();
            let mut command = cmd("RPUSH");
            command.arg(LIST).arg(entries);
            eventually_within(PATIENCE, "a push is taken", async || try_run(&redis, &command).is_ok()).await;
        }
        assert!(length(&redis) < 20_000, "most are on disk: {} are not", length(&redis));
        let manager = Member::begin(&redis.url(), &folder.file(), "8MiB").await;
        once_each(&manager.drain(40_000).await, 40_000, "five times the limit");
    });
}

#[cfg(feature = "failpoints")]
mod failpoints {
    use std::{
        process::Command,
        sync::{
            Mutex,
            atomic::{AtomicUsize, Ordering},
        },
    };

    use ganger_testkit::server::RedisOptions;

    use super::*;

    const JOBS: usize = 2700;

    /// The names in `fail_point!("…")`.
    fn points() -> Vec<String> {
        let text = include_str!("../src/overflow.rs");
        let after = text.split("fail_point!(\"").skip(1);
        after.map(|rest| rest.split('"').next().unwrap().to_owned()).collect()
    }

    /// Calls `act` at the nth passing of a point; answers how often it was passed.
    fn at(point: &str, nth: usize, act: impl Fn() + Send + Sync + 'static) -> Arc<AtomicUsize> {
        let passed = Arc::new(AtomicUsize::new(0));
        let count = passed.clone();
        let act = move || {
            if count.fetch_add(1, Ordering::SeqCst) + 1 == nth {
                act();
            }
        };
        fail::cfg_callback(point, act).unwrap();
        passed
    }

    /// All that can be moved goes out, and comes back.
    async fn out_and_back(url: &str, file: &Path, mut length: impl AsyncFnMut() -> i64) {
        for (limit, jobs) in [(ALWAYS, HEAD), (NEVER, JOBS as i64)] {
            let manager = Member::begin(url, file, limit).await;
            eventually_within(PATIENCE, &format!("{jobs} jobs in the list"), async || length().await == jobs)
                .await;
            manager.provider.close().await.unwrap();
        }
    }

    /// Has the lease of what is on its way run out, as it does in 15 s.
    fn run_out(redis: &Redis) {
        let tokens: Vec<String> =
            redis::from_redis_value(run(redis, cmd("HKEYS").arg("ganger:{jobs}:overflow"))).unwrap();
        for token in tokens.iter().filter(|token| !token.ends_with('l')) {
            run(redis, cmd("ZADD").arg("ganger:{jobs}:leases").arg("XX").arg(1).arg(token));
        }
    }

    /// The other process: is aborted on its way.
    #[test]
    fn aborted_process() {
        let Ok(url) = std::env::var("OVERFLOW_ABORTED") else { return };
        let scenario = fail::FailScenario::setup();
        let variable = |name: &str| std::env::var(name).unwrap();
        at(&variable("OVERFLOW_POINT"), variable("OVERFLOW_NTH").parse().unwrap(), || std::process::abort());
        ganger_conformance::run(async {
            let client = redis::Client::open(url.as_str()).unwrap();
            let length = async || cmd("LLEN").arg(LIST).query(&mut client.get_connection().unwrap()).unwrap();
            out_and_back(&url, variable("OVERFLOW_FILE").as_ref(), length).await;
        });
        scenario.teardown();
    }

    #[test]
    fn a_ganger_that_ends_at_any_step_loses_and_doubles_nothing() {
        let points = points();
        assert!(points.len() >= 8, "{points:?}");
        let redis = durable();
        for point in &points {
            for nth in [1, 2] {
                let (folder, case) = (Folder::new(), format!("{point}, passing {nth}"));
                push_jobs(&redis, JOBS);
                let ended = Command::new(std::env::current_exe().unwrap())
                    .args(["--exact", "failpoints::aborted_process", "--nocapture"])
                    .env("OVERFLOW_ABORTED", redis.url())
                    .env("OVERFLOW_POINT", point)
                    .env("OVERFLOW_NTH", nth.to_string())
                    .env("OVERFLOW_FILE", folder.file())
                    .output()
                    .unwrap();
                assert_eq!(ended.status.code(), None, "{case} is passed: {ended:?}");
                ganger_conformance::run(async {
                    run_out(&redis);
                    let manager = Member::begin(&redis.url(), &folder.file(), NEVER).await;
                    once_each(&manager.drain(JOBS).await, JOBS, &case);
                    manager.provider.close().await.unwrap();
                    assert_eq!(length(&redis), 0, "{case}");
                    leaves_nothing(&redis.url(), &folder.file()).await;
                });
            }
        }
    }

    #[test]
    fn a_redis_that_is_killed_at_any_step_loses_and_doubles_nothing() {
        for point in &points() {
            let scenario = fail::FailScenario::setup();
            let (redis, folder) = (Arc::new(Mutex::new(durable())), Folder::new());
            let url = redis.lock().unwrap().url();
            push_jobs(&redis.lock().unwrap(), JOBS);
            let killed = redis.clone();
            let passed = at(point, 2, move || killed.lock().unwrap().restart());
            ganger_conformance::run(async {
                out_and_back(&url, &folder.file(), async || length(&redis.lock().unwrap())).await;
                fail::remove(point);
                assert!(passed.load(Ordering::SeqCst) >= 2, "{point} is passed");
                let manager = Member::begin(&url, &folder.file(), NEVER).await;
                once_each(&manager.drain(JOBS).await, JOBS, point);
                manager.provider.close().await.unwrap();
                leaves_nothing(&url, &folder.file()).await;
            });
            scenario.teardown();
        }
    }

    #[test]
    fn a_parcel_is_dropped_where_redis_has_forgotten_its_claim() {
        let scenario = fail::FailScenario::setup();
        let redis = Arc::new(Mutex::new(Redis::start(RedisOptions::default())));
        let (url, folder) = (redis.lock().unwrap().url(), Folder::new());
        push_jobs(&redis.lock().unwrap(), JOBS);
        let older = redis.clone();
        at("redis::parcel_provisional", 1, move || {
            // As from a backup that was made before the claim.
            let mut redis = older.lock().unwrap();
            redis.restart();
            push_jobs(&redis, JOBS);
        });
        ganger_conformance::run(async {
            out_and_back(&url, &folder.file(), async || length(&redis.lock().unwrap())).await;
            let manager = Member::begin(&url, &folder.file(), NEVER).await;
            once_each(&manager.drain(JOBS).await, JOBS, "an older state");
        });
        scenario.teardown();
    }

    #[test]
    fn a_full_disk_gives_back_what_it_does_not_take() {
        let scenario = fail::FailScenario::setup();
        ganger_conformance::run(async {
            let (redis, folder) = (durable(), Folder::new());
            let manager = Member::begin(&redis.url(), &folder.file(), ALWAYS).await;
            eventually("the file is there", async || folder.file().exists()).await;
            push_jobs(&redis, JOBS);
            becomes(&redis, HEAD).await;
            comes_to_rest(&redis.url()).await;
            fail::cfg("spool::before_commit", "return(full)").unwrap();
            push_jobs(&redis, JOBS);
            let tried = at("redis::tail_claimed", 1, || {});
            eventually("a move is tried", async || tried.load(Ordering::SeqCst) > 0).await;
            becomes(&redis, HEAD + JOBS as i64).await;
            fail::remove("spool::before_commit");
            becomes(&redis, HEAD).await;
            let taken = manager.drain(JOBS).await;
            assert!(taken.values().all(|times| *times <= 2));
        });
        scenario.teardown();
    }
}
