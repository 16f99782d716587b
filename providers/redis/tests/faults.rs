//! What a real server and a real network do to the provider: nothing is lost, and it gets on by itself.
// Code of tests: a panic is how it speaks.
#![allow(clippy::unwrap_used)]

mod support;

use std::{sync::Arc, time::Duration};

use ganger_conformance::{PATIENCE, eventually, eventually_within, label, soon};
use ganger_core::{
    Batch, DynProvider, Exchange, Exchanged, Hold, Job, LeaseRef, ProviderError, RefusedKind, Room,
    Settlement, Severity, Token, Verdict,
};
use ganger_testkit::{
    proxy::{Proxy, Way},
    server::{Durability, Redis, RedisOptions},
};
use redis::{Value, cmd};
use support::{
    LIST,
    crew::{Tally, Ways, any, beat, dismiss, entries, hire},
    durable, open, push, run, try_run,
};
use tokio::time::{Instant, sleep, timeout};

const LONG: Duration = Duration::from_secs(3600);

fn push_all(redis: &Redis, jobs: usize) {
    for part in entries(jobs).chunks(1000) {
        run(redis, cmd("RPUSH").arg(LIST).arg(part));
    }
}

/// An exchange that settles these and claims for any type.
fn give(seq: u64, settle: Vec<Settlement>, room: Room) -> Exchange {
    Exchange { token: Token { incarnation: 7, seq }, settle, room, lease: LONG }
}

/// Repeats an exchange until it is answered.
async fn until_answered(provider: &Arc<dyn DynProvider>, give: &Exchange) -> Exchanged {
    let repeat = async {
        loop {
            match timeout(Duration::from_secs(5), provider.exchange(give)).await {
                Ok(Ok(answer)) => return answer,
                Ok(Err(error)) => assert_eq!(error.severity(), Severity::Transient, "{error}"),
                Err(_) => {}
            }
            tokio::task::yield_now().await;
        }
    };
    soon("an answer", repeat).await
}

fn labels(answer: &Exchanged) -> Vec<String> {
    answer.leased.iter().map(label).collect()
}

fn done(answer: &Exchanged, token: Token) -> Vec<Settlement> {
    let settle =
        |one: &ganger_core::Leased| Settlement::new(LeaseRef { token, index: one.index }, Verdict::Done);
    answer.leased.iter().map(settle).collect()
}

/// Nothing is left of the jobs: no entry, no claim.
fn assert_empty(redis: &Redis) {
    for (command, key) in [("LLEN", LIST), ("HLEN", "ganger:{jobs}:claims")] {
        assert_eq!(run(redis, cmd(command).arg(key)), Value::Int(0), "{key}");
    }
    assert_eq!(run(redis, cmd("ZCARD").arg("ganger:{jobs}:leases")), Value::Int(0));
}

/// A server that is killed under two managers and comes back after so long.
async fn killed_for(absence: Duration) {
    let mut redis = durable();
    push_all(&redis, 3_000);
    let ways = Ways { lease: Duration::from_millis(1500), jobs: 20, ..Ways::default() };
    let tally = Tally::new();
    let crew: Vec<_> = (0..2).map(|_| hire(redis.url(), ways, tally.clone())).collect();
    tally.reaches(500).await;
    redis.kill();
    // tidy: allow(sleep), the absence is what is tested
    sleep(absence).await;
    redis.restart();
    tally.reaches(3_000).await;
    eventually("the settlement of all", async || {
        run(&redis, cmd("HLEN").arg("ganger:{jobs}:claims")) == Value::Int(0)
    })
    .await;
    dismiss(crew).await;
    assert_empty(&redis);
    let runs = tally.runs();
    assert_eq!(runs.len(), 3_000, "no job is lost");
    // What was under way may run again where its lease was lost meanwhile: at most what two managers held.
    let again: u32 = runs.values().map(|runs| runs - 1).sum();
    assert!(again <= 80, "{again} runs too many");
}

#[test]
fn a_server_killed_and_back_after_1_s_loses_nothing() {
    ganger_conformance::run(killed_for(Duration::from_secs(1)));
}

#[test]
fn a_server_killed_and_back_after_10_s_loses_nothing() {
    ganger_conformance::run(killed_for(Duration::from_secs(10)));
}

#[test]
fn a_server_killed_and_back_after_60_s_loses_nothing() {
    ganger_conformance::run(killed_for(Duration::from_secs(60)));
}

#[test]
fn after_an_absence_of_the_server_holders_renew_before_others_take_over() {
    ganger_conformance::run(async {
        let mut redis = durable();
        push_all(&redis, 1);
        // A third of it is what the holder has to come first in, on the slowest machine too.
        let lease = Duration::from_secs(6);
        let (holder, other) = (open(&redis.url(), 7).await.unwrap(), open(&redis.url(), 8).await.unwrap());
        let claim = Exchange { lease, ..give(1, Vec::new(), any(1)) };
        let held = LeaseRef { token: claim.token, index: 0 };
        assert_eq!(until_answered(&holder, &claim).await.leased.len(), 1);
        redis.kill();
        // tidy: allow(sleep), the absence is what is tested
        sleep(lease + Duration::from_millis(200)).await;
        redis.restart();
        let theirs =
            |seq| Exchange { token: Token { incarnation: 8, seq }, settle: Vec::new(), room: any(1), lease };
        assert!(until_answered(&other, &theirs(1)).await.leased.is_empty(), "its holder comes first");
        let renewed = holder.renew(&beat(7, lease), &[held]).await.unwrap();
        assert_eq!(renewed, [Hold::Held]);
        assert!(until_answered(&other, &theirs(2)).await.leased.is_empty());
    });
}

#[test]
fn connections_killed_every_200_ms_disturb_no_job() {
    ganger_conformance::run(async {
        let redis = durable();
        push_all(&redis, 24_000);
        let ways = Ways { jobs: 20, work: Duration::from_millis(50), ..Ways::default() };
        let tally = Tally::new();
        let crew: Vec<_> = (0..2).map(|_| hire(redis.url(), ways, tally.clone())).collect();
        let until = Instant::now() + Duration::from_secs(30);
        while Instant::now() < until {
            for kind in ["normal", "pubsub"] {
                let _ = try_run(&redis, cmd("CLIENT").arg("KILL").arg("TYPE").arg(kind));
            }
            // tidy: allow(sleep), so often connections are killed
            sleep(Duration::from_millis(200)).await;
        }
        tally.reaches(24_000).await;
        dismiss(crew).await;
        let runs = tally.runs();
        assert!(runs.len() == 24_000 && runs.values().all(|runs| *runs == 1), "each job ran exactly once");
    });
}

#[test]
fn a_server_that_stands_still_and_goes_on_disturbs_no_job() {
    ganger_conformance::run(async {
        let redis = durable();
        push_all(&redis, 1_000);
        let ways = Ways { jobs: 20, lease: Duration::from_secs(6), ..Ways::default() };
        let tally = Tally::new();
        let crew: Vec<_> = (0..2).map(|_| hire(redis.url(), ways, tally.clone())).collect();
        tally.reaches(100).await;
        redis.freeze();
        // tidy: allow(sleep), so long it stands still
        sleep(Duration::from_secs(3)).await;
        redis.thaw();
        let client = redis::Client::open(redis.url()).unwrap();
        let mut sleeper = client.get_connection().unwrap();
        let slept = tokio::task::spawn_blocking(move || cmd("DEBUG").arg("SLEEP").arg(1).exec(&mut sleeper));
        let _ = slept.await.unwrap();
        tally.reaches(1_000).await;
        dismiss(crew).await;
        let runs = tally.runs();
        assert!(runs.len() == 1_000 && runs.values().all(|runs| *runs == 1), "each job ran exactly once");
    });
}

/// A provider behind a proxy.
async fn behind_proxy() -> (Redis, Proxy, Arc<dyn DynProvider>) {
    let redis = durable();
    let proxy = Proxy::start(redis.address());
    let provider = open(&redis.url_at(proxy.address()), 7).await.unwrap();
    (redis, proxy, provider)
}

#[test]
fn a_reply_lost_after_the_command_ran_is_read_again_by_its_token() {
    ganger_conformance::run(async {
        let (redis, proxy, provider) = behind_proxy().await;
        push_all(&redis, 30);
        let first = give(1, Vec::new(), any(10));
        let answer = until_answered(&provider, &first).await;
        for seq in 2..4 {
            let settle = done(&answer, first.token);
            let next = give(seq, settle, any(10));
            proxy.cut_after(Way::ToClient, 0);
            let lost = provider.exchange(&next).await.unwrap_err();
            assert_eq!(lost.severity(), Severity::Transient, "{lost}");
            let again = until_answered(&provider, &next).await;
            // The first one's jobs were settled by the lost call already: the second settlement of them is stale.
            let expected: Vec<String> = (10 * (seq - 1)..10 * seq).map(|n| n.to_string()).collect();
            assert_eq!(labels(&again), expected);
            assert_eq!(again.stale.len(), if seq == 2 { 0 } else { 10 });
        }
    });
}

#[test]
fn an_enqueue_whose_reply_is_lost_stores_its_jobs_once() {
    ganger_conformance::run(async {
        let (redis, proxy, provider) = behind_proxy().await;
        let sink = provider.sink().unwrap();
        let jobs = || {
            (0..3).map(|n| Job::from_json(format!(r#"{{"type":"test","name":"{n}"}}"#).as_bytes()).unwrap())
        };
        // So that the connection is there.
        sink.states(&["none".parse().unwrap()]).await.unwrap();
        proxy.cut_after(Way::ToClient, 0);
        let answers = soon("the second try", sink.enqueue(Batch::new(jobs().collect()))).await.unwrap();
        assert!(proxy.seen().cuts >= 1 && answers.iter().all(Result::is_ok));
        assert_eq!(run(&redis, cmd("LLEN").arg("ganger:{jobs}:lane:test")), Value::Int(3));
    });
}

#[test]
fn a_half_open_connection_is_given_up() {
    ganger_conformance::run(async {
        for way in [Way::ToServer, Way::ToClient] {
            let (redis, proxy, provider) = behind_proxy().await;
            push_all(&redis, 2);
            assert_eq!(until_answered(&provider, &give(1, Vec::new(), any(1))).await.leased.len(), 1);
            proxy.swallow(way);
            let next = give(2, Vec::new(), any(1));
            let lost = soon("the end of a call that nobody answers", provider.exchange(&next)).await;
            assert!(lost.is_err());
            proxy.heal();
            let answer = until_answered(&provider, &next).await;
            assert_eq!(labels(&answer), ["1"]);
            // A wait wakes as well, though its connections were half open.
            let room = any(1);
            let producer = async { push(&redis, &[r#"{"type":"test","name":"2"}"#]) };
            let (waited, ()) = tokio::join!(soon("a wait that wakes", provider.wait(&room)), producer);
            waited.unwrap();
        }
    });
}

#[test]
fn slices_of_one_byte_are_put_together() {
    ganger_conformance::run(async {
        let (redis, proxy, provider) = behind_proxy().await;
        push_all(&redis, 40);
        proxy.slice(1);
        let answer = until_answered(&provider, &give(1, Vec::new(), any(40))).await;
        assert_eq!(labels(&answer), (0..40).map(|n: u32| n.to_string()).collect::<Vec<_>>());
        let leases: Vec<LeaseRef> = answer
            .leased
            .iter()
            .map(|one| LeaseRef { token: Token { incarnation: 7, seq: 1 }, index: one.index })
            .collect();
        assert_eq!(provider.renew(&beat(7, LONG), &leases).await.unwrap(), vec![Hold::Held; 40]);
    });
}

#[test]
fn over_its_memory_limit_jobs_are_refused_as_full_and_those_that_are_there_get_done() {
    ganger_conformance::run(async {
        let redis = durable();
        let provider = open(&redis.url(), 7).await.unwrap();
        push_all(&redis, 100);
        run(&redis, cmd("CONFIG").arg("SET").arg("maxmemory").arg(1));
        assert!(try_run(&redis, cmd("RPUSH").arg(LIST).arg("late")).is_err());
        let job = || Job::from_json(br#"{"type":"test","name":"late"}"#).unwrap();
        let sink = provider.sink().unwrap();
        let refused = sink.enqueue(Batch::new(vec![job()])).await.unwrap();
        assert_eq!(refused[0].as_ref().unwrap_err().kind, RefusedKind::Full);
        let mut seq = 1;
        let mut answer = until_answered(&provider, &give(seq, Vec::new(), any(30))).await;
        let mut labels_seen = labels(&answer);
        while !answer.leased.is_empty() {
            let settle = done(&answer, Token { incarnation: 7, seq });
            seq += 1;
            answer = until_answered(&provider, &give(seq, settle, any(30))).await;
            labels_seen.extend(labels(&answer));
        }
        assert_eq!(labels_seen.len(), 100);
        run(&redis, cmd("CONFIG").arg("SET").arg("maxmemory").arg(0));
        assert!(sink.enqueue(Batch::new(vec![job()])).await.unwrap()[0].is_ok());
    });
}

#[test]
fn a_server_that_becomes_a_replica_is_an_error_that_passes() {
    ganger_conformance::run(async {
        let redis = durable();
        push_all(&redis, 1);
        let provider = open(&redis.url(), 7).await.unwrap();
        run(&redis, cmd("REPLICAOF").arg("127.0.0.1").arg(1));
        let error = provider.exchange(&give(1, Vec::new(), any(1))).await.unwrap_err();
        assert_eq!(error.severity(), Severity::Transient);
        assert!(error.to_string().contains("replica"), "{error}");
        run(&redis, cmd("REPLICAOF").arg("NO").arg("ONE"));
        assert_eq!(labels(&until_answered(&provider, &give(1, Vec::new(), any(1))).await), ["0"]);
    });
}

#[test]
fn a_job_is_acknowledged_only_once_the_replicas_asked_for_have_it() {
    ganger_conformance::run(async {
        let (redis, replica) = (durable(), durable());
        let options = serde_json::json!({"url": redis.url(), "job_list": LIST, "replicas": 1});
        let sink = support::open_with(options, 7).await.unwrap().sink().unwrap();
        let batch = Batch::new(vec![Job::from_json(br#"{"type":"test","name":"a"}"#).unwrap()]);
        let error = sink.enqueue(batch.clone()).await.unwrap_err();
        assert!(error.to_string().contains("0 replicas"), "{error}");
        run(&replica, cmd("REPLICAOF").arg("127.0.0.1").arg(redis.port()));
        eventually("the same batch again, acknowledged", async || {
            sink.enqueue(batch.clone()).await.is_ok_and(|answers| answers[0].is_ok())
        })
        .await;
        assert_eq!(run(&replica, cmd("LLEN").arg("ganger:{jobs}:lane:test")), Value::Int(1));
    });
}

#[test]
fn a_server_that_is_busy_with_a_foreign_script_is_waited_for() {
    ganger_conformance::run(async {
        let settings = vec![("lua-time-limit".to_owned(), "50".to_owned())];
        let redis = Redis::start(RedisOptions { settings, ..RedisOptions::default() });
        push_all(&redis, 1);
        let provider = open(&redis.url(), 7).await.unwrap();
        let client = redis::Client::open(redis.url()).unwrap();
        let mut other = client.get_connection().unwrap();
        let busy = tokio::task::spawn_blocking(move || {
            cmd("EVAL").arg("while true do end").arg(0).query::<Value>(&mut other)
        });
        let mut saw_busy: Option<ProviderError> = None;
        eventually("a server that is busy", async || {
            saw_busy = provider.exchange(&give(1, Vec::new(), Room::none())).await.err();
            saw_busy.is_some()
        })
        .await;
        let error = saw_busy.unwrap();
        assert_eq!(error.severity(), Severity::Transient, "{error}");
        run(&redis, cmd("SCRIPT").arg("KILL"));
        assert!(busy.await.unwrap().is_err());
        assert_eq!(labels(&until_answered(&provider, &give(2, Vec::new(), any(1))).await), ["0"]);
    });
}

#[test]
fn scripts_that_the_server_forgot_are_told_again() {
    ganger_conformance::run(async {
        let redis = durable();
        push_all(&redis, 2);
        let provider = open(&redis.url(), 7).await.unwrap();
        for seq in 1..3 {
            run(&redis, cmd("SCRIPT").arg("FLUSH"));
            let answer = provider.exchange(&give(seq, Vec::new(), any(1))).await.unwrap();
            assert_eq!(answer.leased.len(), 1);
            run(&redis, cmd("SCRIPT").arg("FLUSH"));
            provider.renew(&beat(7, LONG), &[]).await.unwrap();
        }
    });
}

/// A server that answers every command with one error.
async fn server_that_says(error: &'static str) -> String {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let mut bytes = [0; 4096];
                while let Ok(read @ 1..) = stream.read(&mut bytes).await {
                    // One answer for each command of the pipeline.
                    let commands = bytes[..read].iter().filter(|byte| **byte == b'*').count();
                    let answer = format!("-{error}\r\n").repeat(commands);
                    if stream.write_all(answer.as_bytes()).await.is_err() {
                        return;
                    }
                }
            });
        }
    });
    format!("redis://{address}")
}

#[test]
fn errors_that_pass_are_told_from_those_that_do_not() {
    ganger_conformance::run(async {
        let errors = [
            ("LOADING Redis is loading the dataset in memory", Severity::Transient, "reads its data set"),
            ("MISCONF Redis is configured to save RDB snapshots", Severity::Transient, "cannot save"),
            ("NOAUTH Authentication required.", Severity::Fatal, "`url`"),
            ("NOPERM this user has no permissions", Severity::Fatal, "commands"),
        ];
        for (says, severity, hint) in errors {
            let url = server_that_says(says).await;
            let error = open(&url, 7).await.err().unwrap();
            assert_eq!(error.severity(), severity, "{error}");
            assert!(error.to_string().contains(hint), "{error}");
        }
    });
}

#[test]
fn a_job_list_that_is_no_list_is_a_fatal_error() {
    ganger_conformance::run(async {
        let redis = durable();
        run(&redis, cmd("SET").arg(LIST).arg("text"));
        let provider = open(&redis.url(), 7).await.unwrap();
        let error = provider.exchange(&give(1, Vec::new(), any(1))).await.unwrap_err();
        assert_eq!(error.severity(), Severity::Fatal, "{error}");
        assert!(error.to_string().contains("job_list"), "{error}");
    });
}

#[test]
fn a_wrong_password_is_a_fatal_error_that_does_not_tell_it() {
    ganger_conformance::run(async {
        let options = RedisOptions { password: Some("right".into()), ..RedisOptions::default() };
        let redis = Redis::start(options);
        assert!(open(&redis.url(), 7).await.is_ok());
        let error = open(&redis.url().replace("right", "canary"), 7).await.err().unwrap();
        assert_eq!(error.severity(), Severity::Fatal, "{error}");
        assert!(!format!("{error} {error:?}").contains("canary"));
    });
}

#[test]
fn a_unix_socket_works_as_well() {
    ganger_conformance::run(async {
        let redis = durable();
        push_all(&redis, 1);
        let provider = open(&format!("unix://{}", redis.socket().display()), 7).await.unwrap();
        assert_eq!(provider.exchange(&give(1, Vec::new(), any(1))).await.unwrap().leased.len(), 1);
    });
}

/// Three managers of which one dies every little while, and another comes in its place.
#[test]
fn three_managers_that_die_at_random_lose_nothing_of_20_000_jobs() {
    ganger_conformance::run(async {
        let redis =
            Redis::start(RedisOptions { durability: Durability::EverySecond, ..RedisOptions::default() });
        push_all(&redis, 20_000);
        let ways = Ways { lease: Duration::from_secs(1), jobs: 100, work: Duration::from_millis(3) };
        let tally = Tally::new();
        let mut crew: Vec<_> = (0..3).map(|_| hire(redis.url(), ways, tally.clone())).collect();
        let mut deaths = 0usize;
        while tally.settled() < 19_000 && deaths < 25 {
            tally.progress.told(tally.progress.times() + 25).await;
            let dead = crew.remove(deaths * 7 % 3);
            dismiss(vec![dead]).await;
            crew.push(hire(redis.url(), ways, tally.clone()));
            deaths += 1;
        }
        assert!(deaths >= 3, "managers died {deaths} times only");
        tally.reaches(20_000 - deaths * 200).await;
        eventually_within(PATIENCE * 4, "the settlement of all", async || {
            run(&redis, cmd("HLEN").arg("ganger:{jobs}:claims")) == Value::Int(0)
                && run(&redis, cmd("LLEN").arg(LIST)) == Value::Int(0)
        })
        .await;
        dismiss(crew).await;
        assert_empty(&redis);
        let runs = tally.runs();
        assert_eq!(runs.len(), 20_000, "no job is lost");
        let again: u32 = runs.values().map(|runs| runs - 1).sum();
        assert!(again as usize <= deaths * 200, "{again} runs too many after {deaths} deaths");
    });
}

/// A failover that forgets must not hand a token out twice: tokens are the managers'.
#[test]
fn a_snapshot_that_is_older_than_a_lease_fences_who_held_it() {
    ganger_conformance::run(async {
        let redis = durable();
        push_all(&redis, 4);
        let (first, other) = (open(&redis.url(), 7).await.unwrap(), open(&redis.url(), 8).await.unwrap());
        let theirs = |seq, settle| Exchange {
            token: Token { incarnation: 8, seq },
            settle,
            room: any(1),
            lease: LONG,
        };
        assert_eq!(labels(&until_answered(&first, &give(1, Vec::new(), any(1))).await), ["0"]);
        let snapshot = support::dump(&redis);
        let second = give(2, Vec::new(), any(1));
        assert_eq!(labels(&until_answered(&first, &second).await), ["1"]);
        // The failover: what came after the snapshot is forgotten.
        run(&redis, &cmd("FLUSHALL"));
        for (key, value) in snapshot {
            let Value::BulkString(bytes) = value else { panic!("{key} had no value") };
            run(&redis, cmd("RESTORE").arg(key).arg(0).arg(bytes));
        }
        // The job of the forgotten lease goes to another; nobody but that one can settle it.
        let taken = until_answered(&other, &theirs(1, Vec::new())).await;
        assert_eq!(labels(&taken), ["1"]);
        let late = Settlement::new(LeaseRef { token: second.token, index: 0 }, Verdict::Done);
        let answer = until_answered(&first, &give(3, vec![late], Room::none())).await;
        assert_eq!(answer.stale, [LeaseRef { token: second.token, index: 0 }]);
        let renewed =
            first.renew(&beat(7, LONG), &[LeaseRef { token: second.token, index: 0 }]).await.unwrap();
        assert_eq!(renewed, [Hold::Lost]);
        let settle = done(&taken, Token { incarnation: 8, seq: 1 });
        assert!(until_answered(&other, &theirs(2, settle)).await.stale.is_empty());
        let old =
            Settlement::new(LeaseRef { token: Token { incarnation: 7, seq: 1 }, index: 0 }, Verdict::Done);
        assert!(until_answered(&first, &give(4, vec![old], Room::none())).await.stale.is_empty());
    });
}

/// A version that stores more than this one reads leaves a store usable to it as long as it says so.
#[test]
fn a_store_of_a_newer_format_that_older_readers_may_have_is_used() {
    ganger_conformance::run(async {
        let redis = durable();
        push_all(&redis, 1);
        run(&redis, cmd("HSET").arg("ganger:{jobs}:meta").arg(&["format", "2", "oldest", "1"]));
        let provider = open(&redis.url(), 7).await.unwrap();
        assert_eq!(until_answered(&provider, &give(1, Vec::new(), any(1))).await.leased.len(), 1);
        // One that becomes unreadable under a running manager is refused by every script, untouched.
        run(&redis, cmd("HSET").arg("ganger:{jobs}:meta").arg(&["format", "3", "oldest", "3"]));
        let before = support::dump(&redis);
        let error = provider.exchange(&give(2, Vec::new(), any(1))).await.unwrap_err();
        assert!(error.is_refused(), "{error}");
        assert!(provider.renew(&beat(7, LONG), &[]).await.unwrap_err().is_refused());
        let job = Job::from_json(br#"{"type":"test"}"#).unwrap();
        assert!(provider.sink().unwrap().enqueue(Batch::new(vec![job])).await.unwrap_err().is_refused());
        assert!(support::dump(&redis) == before, "the store was changed although it was refused");
    });
}
