//! The faults of GoWorker's Redis provider, each by its number, as they do not happen here. Those of its manager and
//! its workers are tried here as far as a provider has a part in them.
// Code of tests: a panic is how it speaks.
#![allow(clippy::unwrap_used)]

mod support;

use std::{sync::Arc, time::Duration};

use ganger_conformance::{label, soon};
use ganger_core::{
    DynProvider, Entry, Exchange, Exchanged, Filter, Hold, Job, LeaseRef, Order, Page, Room, Settlement,
    Spend, State, Timestamp, Token, TypeRoom, Verdict,
};
use ganger_testkit::server::Redis;
use redis::{Value, cmd};
use support::{
    LIST,
    crew::{Tally, Ways, any, beat, dismiss, entries, hire},
    durable, open, push, run,
};
use tokio::time::{Instant, sleep};

const LONG: Duration = Duration::from_secs(3600);

struct Manager {
    provider: Arc<dyn DynProvider>,
    incarnation: u64,
    seq: u64,
}

impl Manager {
    async fn open(redis: &Redis, incarnation: u64) -> Self {
        Manager { provider: open(&redis.url(), incarnation).await.unwrap(), incarnation, seq: 0 }
    }

    async fn exchange(&mut self, settle: Vec<Settlement>, room: Room, lease: Duration) -> Exchanged {
        self.seq += 1;
        let give = Exchange { token: self.token(), settle, room, lease };
        soon("an exchange", self.provider.exchange(&give)).await.unwrap()
    }

    async fn claim(&mut self, jobs: u32) -> Exchanged {
        self.exchange(Vec::new(), any(jobs), LONG).await
    }

    /// The newest token.
    fn token(&self) -> Token {
        Token { incarnation: self.incarnation, seq: self.seq }
    }

    fn lease(&self, index: u32) -> LeaseRef {
        LeaseRef { token: self.token(), index }
    }

    async fn say(&mut self, lease: LeaseRef, verdict: Verdict) {
        let answer = self.exchange(vec![Settlement::new(lease, verdict)], Room::none(), LONG).await;
        assert!(answer.stale.is_empty());
    }
}

fn labels(answer: &Exchanged) -> Vec<String> {
    answer.leased.iter().map(label).collect()
}

fn number(value: Value) -> i64 {
    redis::from_redis_value(value).unwrap()
}

/// How many commands the server has run so far, without the ones that ask.
fn calls(redis: &Redis) -> u64 {
    let stats: String = redis::from_redis_value(run(redis, cmd("INFO").arg("commandstats"))).unwrap();
    let calls = |line: &str| line.split_once("calls=")?.1.split(',').next()?.parse::<u64>().ok();
    stats.lines().filter(|line| !line.starts_with("cmdstat_info")).filter_map(calls).sum()
}

#[test]
fn b1_a_long_job_does_not_starve_the_list() {
    ganger_conformance::run(async {
        let redis = durable();
        let mut manager = Manager::open(&redis, 7).await;
        push(&redis, &[r#"{"type":"test","name":"long"}"#]);
        assert_eq!(labels(&manager.claim(1).await), ["long"]);
        let long = manager.lease(0);
        for part in entries(200).chunks(20) {
            let part: Vec<&str> = part.iter().map(String::as_str).collect();
            push(&redis, &part);
            let answer = manager.claim(20).await;
            assert_eq!(answer.leased.len(), 20);
            let done = (0..20).map(|index| Settlement::new(manager.lease(index), Verdict::Done)).collect();
            manager.exchange(done, Room::none(), LONG).await;
        }
        manager.say(long, Verdict::Done).await;
    });
}

#[test]
fn b2_no_settlement_is_lost_among_many() {
    ganger_conformance::run(async {
        let redis = durable();
        for part in entries(5_000).chunks(1_000) {
            run(&redis, cmd("RPUSH").arg(LIST).arg(part));
        }
        let tally = Tally::new();
        let crew =
            (0..3).map(|_| hire(redis.url(), Ways { jobs: 7, ..Ways::default() }, tally.clone())).collect();
        tally.reaches(5_000).await;
        dismiss(crew).await;
        assert!(tally.runs().values().all(|runs| *runs == 1));
        assert_eq!(number(run(&redis, cmd("HLEN").arg("ganger:{jobs}:claims"))), 0);
    });
}

#[test]
fn b3_a_job_that_asks_for_its_output_keeps_it_with_its_end() {
    ganger_conformance::run(async {
        let redis = durable();
        let mut manager = Manager::open(&redis, 7).await;
        push(&redis, &[r#"{"type":"test","id":"x","name":"a","capture_output":true,"keep":"1m"}"#]);
        manager.claim(1).await;
        let mut done = Settlement::new(manager.lease(0), Verdict::Done);
        done.more_mut().output = Some(ganger_core::Output::new("out"));
        manager.exchange(vec![done], Room::none(), LONG).await;
        let ended = manager.provider.sink().unwrap().ended(&["x".parse().unwrap()]).await.unwrap();
        assert_eq!((ended[0].state, ended[0].runs), (Some(State::Done), 1));
        assert_eq!(ended[0].output.as_ref().unwrap().text(), "out");
    });
}

#[test]
fn b4_an_output_of_a_failed_run_is_kept_with_the_dead_letter() {
    ganger_conformance::run(async {
        let redis = durable();
        let mut manager = Manager::open(&redis, 7).await;
        push(&redis, &[r#"{"type":"test","id":"x","name":"a","capture_output":true}"#]);
        manager.claim(1).await;
        let mut dead = Settlement::new(manager.lease(0), Verdict::Dead { reason: "refused".into() });
        dead.more_mut().output = Some(ganger_core::Output::default());
        manager.exchange(vec![dead], Room::none(), LONG).await;
        let view = manager.provider.admin().unwrap().show(&"x".parse().unwrap()).await.unwrap().unwrap();
        assert_eq!((view.state, view.reason.as_deref()), (State::Dead, Some("refused")));
    });
}

#[test]
fn b5_figures_are_read_by_many_at_once() {
    ganger_conformance::run(async {
        let redis = durable();
        let manager = Manager::open(&redis, 7).await;
        let parts = entries(500);
        push(&redis, &parts.iter().map(String::as_str).collect::<Vec<_>>());
        let admin = manager.provider.admin().unwrap();
        let readers: Vec<_> = (0..4)
            .map(|_| {
                let admin = admin.clone();
                tokio::spawn(async move {
                    for _ in 0..20 {
                        assert_eq!(admin.count(&Filter::default()).await.unwrap(), 500);
                    }
                })
            })
            .collect();
        for reader in readers {
            soon("a reader", reader).await.unwrap();
        }
    });
}

#[test]
fn b6_a_malformed_entry_goes_to_the_dead_letters_with_its_bytes_and_blocks_nothing() {
    ganger_conformance::run(async {
        let redis = durable();
        let mut manager = Manager::open(&redis, 7).await;
        run(&redis, cmd("RPUSH").arg(LIST).arg(b"\xff not json".as_slice()).arg(""));
        push(&redis, &[r#"{"type":"test","name":"later"}"#]);
        let answer = manager.claim(10).await;
        assert_eq!(answer.leased.len(), 3);
        assert!(matches!(&answer.leased[0].entry, Entry::Raw(bytes) if bytes[..] == b"\xff not json"[..]));
        assert_eq!(label(&answer.leased[2]), "later");
        let dead = |index| {
            Settlement::new(manager.lease(index), Verdict::Dead { reason: "malformed: no job".into() })
        };
        let settle = vec![dead(0), dead(1), Settlement::new(manager.lease(2), Verdict::Done)];
        manager.exchange(settle, Room::none(), LONG).await;
        let filter = Filter { states: Some(vec![State::Dead]), ..Filter::default() };
        let admin = manager.provider.admin().unwrap();
        let letters = admin.list(&filter, &Default::default()).await.unwrap();
        assert_eq!(letters.len(), 2);
        let raw: Vec<_> = letters.iter().map(|view| view.raw.clone().unwrap()).collect();
        assert!(raw.contains(&b"\xff not json".to_vec()) && raw.contains(&Vec::new()));
        assert!(letters.iter().all(|view| view.reason.as_deref() == Some("malformed: no job")));
        // Mended, they can be run again: the bytes come as they were.
        assert_eq!(admin.order(ganger_core::Order::Retry, &filter).await.unwrap(), 2);
        assert_eq!(manager.claim(10).await.leased.len(), 2);
    });
}

#[test]
fn b7_settling_renewing_and_claiming_at_once_never_lock_each_other() {
    ganger_conformance::run(async {
        let redis = durable();
        for part in entries(3_000).chunks(1_000) {
            run(&redis, cmd("RPUSH").arg(LIST).arg(part));
        }
        let ways = Ways { lease: Duration::from_millis(300), jobs: 10, work: Duration::from_millis(1) };
        let tally = Tally::new();
        let crew = (0..4).map(|_| hire(redis.url(), ways, tally.clone())).collect();
        tally.reaches(3_000).await;
        dismiss(crew).await;
    });
}

#[test]
fn b8_after_a_restart_of_redis_the_list_is_read_again() {
    ganger_conformance::run(async {
        let mut redis = durable();
        let tally = Tally::new();
        let crew = vec![hire(redis.url(), Ways::default(), tally.clone())];
        push(&redis, &[r#"{"type":"test","name":"before"}"#]);
        tally.reaches(1).await;
        redis.restart();
        push(&redis, &[r#"{"type":"test","name":"after"}"#]);
        tally.reaches(2).await;
        dismiss(crew).await;
    });
}

#[test]
fn b10_jobs_of_a_type_that_nobody_does_wait_aside_and_starve_nobody() {
    ganger_conformance::run(async {
        let redis = durable();
        let mut manager = Manager::open(&redis, 7).await;
        let unknown: Vec<String> = (0..30).map(|n| format!(r#"{{"type":"nobody","name":"u{n}"}}"#)).collect();
        push(&redis, &unknown.iter().map(String::as_str).collect::<Vec<_>>());
        push(&redis, &[r#"{"type":"test","name":"known"}"#]);
        let mut seen = Vec::new();
        for _ in 0..4 {
            let answer = manager.claim(10).await;
            let park = |one: &ganger_core::Leased| {
                let name = label(one);
                let parks = name.starts_with('u');
                let verdict = if parks { Verdict::Park { until: None } } else { Verdict::Done };
                let mut settlement = Settlement::new(manager.lease(one.index), verdict);
                settlement.more_mut().kind = Some("nobody".into());
                settlement
            };
            let settle = answer.leased.iter().map(park).collect();
            seen.extend(labels(&answer));
            manager.exchange(settle, Room::none(), LONG).await;
        }
        assert_eq!((seen.len(), seen.last().unwrap().as_str()), (31, "known"));
        assert!(manager.claim(10).await.leased.is_empty(), "they are not fetched again");
        let types = vec![TypeRoom { kind: "nobody".into(), jobs: 100 }];
        let room = Room { types, jobs: 100, ..any(1) };
        let somebody = manager.exchange(Vec::new(), room, LONG).await;
        assert_eq!(labels(&somebody), (0..30).map(|n| format!("u{n}")).collect::<Vec<_>>());
    });
}

#[test]
fn b15_neither_a_large_claim_nor_thousands_of_lost_leases_are_too_much() {
    ganger_conformance::run(async {
        let redis = durable();
        for part in entries(20_000).chunks(1_000) {
            run(&redis, cmd("RPUSH").arg(LIST).arg(part));
        }
        let (mut first, mut other) = (Manager::open(&redis, 7).await, Manager::open(&redis, 8).await);
        let lease = Duration::from_millis(200);
        assert_eq!(first.exchange(Vec::new(), any(10_000), lease).await.leased.len(), 10_000);
        let suspect = soon("a job whose lease ran out", async {
            loop {
                let answer = other.exchange(Vec::new(), any(10_000), Duration::from_secs(15)).await;
                if answer.leased.first().is_some_and(|one| one.record.suspect) {
                    return answer;
                }
            }
        })
        .await;
        assert_eq!(suspect.leased.len(), 1);
        for _ in 0..50 {
            assert_eq!(other.claim(10_000).await.leased.len(), 1);
        }
        let held: Vec<LeaseRef> =
            (0..10_000).map(|index| LeaseRef { token: Token { incarnation: 7, seq: 1 }, index }).collect();
        let holds = first.provider.renew(&beat(7, LONG), &held).await.unwrap();
        assert_eq!(holds.iter().filter(|hold| **hold == Hold::Lost).count(), 51);
    });
}

#[test]
fn b20_a_crash_during_a_retry_loses_nothing() {
    ganger_conformance::run(async {
        let redis = durable();
        let mut manager = Manager::open(&redis, 7).await;
        push(&redis, &[r#"{"type":"test","name":"a","retries":6}"#]);
        manager.claim(1).await;
        let mut retry = Settlement::new(manager.lease(0), Verdict::Retry { at: Timestamp::now() });
        retry.spend = Spend::Retry;
        retry.more_mut().kind = Some("test".into());
        manager.exchange(vec![retry], Room::none(), LONG).await;
        let second = manager.exchange(Vec::new(), any(1), Duration::from_millis(200)).await;
        assert_eq!((labels(&second), second.leased[0].record.spent), (vec!["a".to_owned()], 1));
        drop(manager);
        let mut next = Manager::open(&redis, 8).await;
        let again = soon("the job of the manager that is gone", async {
            loop {
                let answer = next.exchange(Vec::new(), any(1), Duration::from_secs(1)).await;
                if !answer.leased.is_empty() {
                    return answer;
                }
                next.provider.wait(&any(1)).await.unwrap();
            }
        })
        .await;
        let record = &again.leased[0].record;
        assert_eq!((labels(&again), record.spent, record.suspect), (vec!["a".to_owned()], 1, true));
    });
}

#[test]
fn b22_two_jobs_of_identical_bytes_are_two_jobs_also_after_a_crash() {
    ganger_conformance::run(async {
        let redis = durable();
        let same = r#"{"type":"test","name":"same"}"#;
        push(&redis, &[same, same, same]);
        let (mut first, mut other) = (Manager::open(&redis, 7).await, Manager::open(&redis, 8).await);
        let lease = Duration::from_millis(200);
        assert_eq!(first.exchange(Vec::new(), any(3), lease).await.leased.len(), 3);
        first.say(first.lease(0), Verdict::Done).await;
        drop(first);
        let mut back = 0;
        let recovered = async {
            while back < 2 {
                back += other.exchange(Vec::new(), any(3), Duration::from_secs(1)).await.leased.len();
            }
        };
        soon("both jobs of the manager that is gone", recovered).await;
        assert!(other.exchange(Vec::new(), any(3), Duration::from_secs(1)).await.leased.is_empty());
    });
}

#[test]
fn b27_a_job_that_is_held_longer_than_its_lease_is_given_to_nobody_else() {
    ganger_conformance::run(async {
        let redis = durable();
        push(&redis, &[r#"{"type":"test","name":"a"}"#]);
        let (mut first, mut other) = (Manager::open(&redis, 7).await, Manager::open(&redis, 8).await);
        let lease = Duration::from_secs(3);
        first.exchange(Vec::new(), any(1), lease).await;
        let held = first.lease(0);
        let until = Instant::now() + lease * 2;
        while Instant::now() < until {
            assert_eq!(first.provider.renew(&beat(7, lease), &[held]).await.unwrap(), [Hold::Held]);
            assert!(other.exchange(Vec::new(), any(1), lease).await.leased.is_empty());
            // tidy: allow(sleep), a renewal at a sixth of the lease
            sleep(lease / 6).await;
        }
        first.say(held, Verdict::Done).await;
    });
}

#[test]
fn b28_a_job_of_a_killed_manager_runs_elsewhere_after_its_lease() {
    ganger_conformance::run(async {
        let redis = durable();
        push(&redis, &[r#"{"type":"test","name":"a"}"#]);
        let ways = Ways { lease: Duration::from_secs(1), work: Duration::from_secs(60), ..Ways::default() };
        let tally = Tally::new();
        let killed = hire(redis.url(), ways, tally.clone());
        ganger_conformance::eventually("its start", async || tally.runs().len() == 1).await;
        dismiss(vec![killed]).await;
        let start = Instant::now();
        let next = hire(redis.url(), Ways { work: Duration::ZERO, ..ways }, tally.clone());
        tally.reaches(1).await;
        assert!(start.elapsed() < ways.lease * 4 / 3 + Duration::from_secs(2), "{:?}", start.elapsed());
        assert_eq!(tally.runs()["a"], 2);
        dismiss(vec![next]).await;
    });
}

#[test]
fn b30_a_held_job_and_an_idle_wait_cost_the_server_next_to_nothing() {
    ganger_conformance::run(async {
        let redis = durable();
        push(&redis, &[r#"{"type":"test","name":"a"}"#]);
        let mut manager = Manager::open(&redis, 7).await;
        manager.claim(1).await;
        let room = any(1);
        let before = calls(&redis);
        let mut ends = 0;
        let waiting = async {
            // A wait may end for nothing, but not as a habit.
            while manager.provider.wait(&room).await.is_ok() {
                ends += 1;
                assert!(ends < 10, "{ends} waits ended, and there was nothing to wait for");
            }
        };
        assert!(tokio::time::timeout(Duration::from_secs(5), waiting).await.is_err(), "a wait failed");
        let calls = calls(&redis) - before;
        assert!(calls < 60, "{calls} commands in 5 s of waiting");
    });
}

/// What its producers pushed for later is due at once when people ask for that, and does not go back to wait.
#[test]
fn a_pushed_job_that_is_told_to_run_now_names_no_time_any_more() {
    ganger_conformance::run(async {
        let redis = durable();
        let mut manager = Manager::open(&redis, 7).await;
        push(&redis, &[r#"{"type":"t","name":"later","mine":1,"run_at":"2099-01-01T00:00:00Z"}"#]);
        assert_eq!(labels(&manager.claim(1).await), ["later"]);
        let until = Some(Timestamp::now().plus(LONG));
        manager.say(manager.lease(0), Verdict::Park { until }).await;
        let admin = manager.provider.admin().unwrap();
        let all = admin.list(&Filter::default(), &Page::default()).await.unwrap();
        assert_eq!(all[0].state, State::Scheduled);
        assert_eq!(admin.order(Order::Retry, &Filter::ids(vec![all[0].id.clone()])).await.unwrap(), 1);
        let again = manager.claim(1).await;
        let Entry::Raw(bytes) = &again.leased[0].entry else { panic!("it is bytes") };
        let job = Job::from_json(bytes).unwrap();
        assert_eq!((job.name.as_deref(), job.run_at), (Some("later"), None));
        assert!(String::from_utf8_lossy(bytes).contains(r#""mine":1"#));
        assert_eq!(again.leased[0].record.first.map(|first| first.lease.token.seq), Some(1));
    });
}
