//! Unique keys in Redis: any order of calls agrees with a model, nothing of a key is left behind, and what is cut off
//! between a claim and its keys neither lets two in nor keeps all out.
#![allow(clippy::unwrap_used, reason = "a panic is how a test speaks")]

mod support;

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use ganger_conformance::{eventually, label};
use ganger_core::{
    Batch, DynProvider, Enqueued, Exchange, Exchanged, Filter, Job, JobId, LeaseRef, Leased, Order, Refused,
    Room, Settlement, State, Timestamp, Token, TypeRoom, Unique, Verdict, draw_incarnation,
};
use ganger_testkit::server::Redis;
use redis::{Value, cmd};
use support::{crew::any, durable, open, push, run};

const LEASE: Duration = Duration::from_secs(600);

/// A manager that claims and settles as it is told.
struct Hand {
    provider: Arc<dyn DynProvider>,
    incarnation: u64,
    seq: u64,
}

impl Hand {
    async fn open(url: &str) -> Hand {
        let incarnation = draw_incarnation();
        Hand { provider: open(url, incarnation).await.unwrap(), incarnation, seq: 0 }
    }

    fn give(&mut self, settle: Vec<Settlement>, room: Room, lease: Duration) -> Exchange {
        self.seq += 1;
        Exchange { token: Token { incarnation: self.incarnation, seq: self.seq }, settle, room, lease }
    }

    async fn claim(&mut self, room: Room, lease: Duration) -> Vec<(LeaseRef, Leased)> {
        let give = self.give(Vec::new(), room, lease);
        let leased = self.exchange(&give).await.leased;
        leased.into_iter().map(|one| (LeaseRef { token: give.token, index: one.index }, one)).collect()
    }

    async fn settle(&mut self, lease: LeaseRef, verdict: Verdict) {
        let give = self.give(vec![Settlement::new(lease, verdict)], Room::none(), LEASE);
        assert!(self.exchange(&give).await.stale.is_empty());
    }

    /// Repeated until it is answered, as a manager does it.
    async fn exchange(&self, give: &Exchange) -> Exchanged {
        let mut answer = None;
        eventually("an exchange is answered", async || {
            answer = self.provider.exchange(give).await.ok();
            answer.is_some()
        })
        .await;
        answer.unwrap()
    }

    async fn enqueue(&self, job: Job) -> Result<Enqueued, Refused> {
        self.provider.sink().unwrap().enqueue(Batch::new(vec![job])).await.unwrap().remove(0)
    }

    async fn order(&self, order: Order, id: &JobId) -> u64 {
        self.provider.admin().unwrap().order(order, &Filter::ids(vec![id.clone()])).await.unwrap()
    }
}

/// Room for plain jobs.
fn plain(jobs: u32) -> Room {
    let types = vec![TypeRoom { kind: "test".into(), jobs }];
    Room { types, jobs, bytes: 1 << 23, suspect: false, crashed: false }
}

fn job(name: &str, key: &str, states: &[State]) -> Job {
    let mut job = Job { kind: "test".into(), name: Some(name.into()), ..Job::default() };
    job.rare_mut().unique = Some(Unique { key: key.into(), states: states.to_vec() });
    job
}

fn exists(redis: &Redis, key: &str) -> bool {
    run(redis, cmd("EXISTS").arg(format!("ganger:{{jobs}}:{key}"))) == Value::Int(1)
}

use State::{Cancelled, Dead, Done, Expired, Ready, Running, Scheduled};

const WHILES: [&[State]; 7] = [
    &[Scheduled, Ready, Running],
    &[Scheduled, Ready],
    &[Running],
    &[Ready],
    &[Ready, Dead],
    &[Scheduled, Ready, Running, Dead, Cancelled, Expired],
    &[Running, Cancelled, Done],
];

/// A job as the model knows it.
#[derive(Clone, Debug)]
struct Known {
    name: String,
    /// Not known of bytes that nobody has claimed yet.
    id: Option<JobId>,
    key: String,
    states: &'static [State],
    /// `None` when nothing is known of it any more.
    state: Option<State>,
    /// Bytes have their key from the claim on that gave it to them.
    keyed: bool,
    lease: Option<LeaseRef>,
    duplicate: bool,
    cancel: bool,
}

/// The store in plain words, beside the store.
struct Model {
    hand: Hand,
    redis: Redis,
    jobs: BTreeMap<String, Known>,
    seed: u64,
    trail: Vec<String>,
}

impl Model {
    fn below(&mut self, n: usize) -> usize {
        self.seed = self.seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        ((self.seed >> 33) as usize) % n
    }

    /// Those that hold a key, but for one.
    fn holders(&self, key: &str, than: &str) -> Vec<JobId> {
        let holds = |job: &&Known| {
            job.keyed
                && job.key == key
                && job.name != than
                && job.state.is_some_and(|state| job.states.contains(&state))
        };
        self.jobs.values().filter(holds).map(|job| job.id.clone().unwrap()).collect()
    }

    fn pick(&mut self, fits: impl Fn(&Known) -> bool) -> Option<Known> {
        let fitting: Vec<String> =
            self.jobs.values().filter(|job| fits(job)).map(|job| job.name.clone()).collect();
        if fitting.is_empty() {
            return None;
        }
        let at = self.below(fitting.len());
        Some(self.jobs[&fitting[at]].clone())
    }

    fn known(&mut self, name: &str) -> &mut Known {
        self.jobs.get_mut(name).unwrap()
    }

    async fn enqueue(&mut self, name: String) {
        let key = format!("key {}", self.below(3));
        let states = WHILES[self.below(WHILES.len())];
        let is_raw = self.below(3) == 0;
        let mut job = job(&name, &key, states);
        let later = !is_raw && self.below(4) == 0;
        if later {
            job.run_at = Some(Timestamp::now().plus(LEASE));
        }
        self.trail.push(format!("{name}: enqueued, {key} while {states:?}, raw {is_raw}, later {later}"));
        let mut known = Known {
            name: name.clone(),
            id: None,
            key: key.clone(),
            states,
            state: Some(if later { Scheduled } else { Ready }),
            keyed: !is_raw,
            lease: None,
            duplicate: false,
            cancel: false,
        };
        if is_raw {
            push(&self.redis, &[&job.to_json()]);
        } else {
            let holders = self.holders(&key, &name);
            match self.hand.enqueue(job).await {
                Ok(stored) => {
                    assert!(holders.is_empty(), "{holders:?} hold {key}: {:#?}", self.trail);
                    known.id = Some(stored.id);
                }
                Err(refused) => {
                    let holder = refused.holder.unwrap();
                    assert!(holders.contains(&holder), "{holder} for {holders:?}: {:#?}", self.trail);
                    return;
                }
            }
        }
        self.jobs.insert(name, known);
    }

    async fn claim(&mut self, jobs: u32) -> usize {
        let claimed = self.hand.claim(plain(jobs), LEASE).await;
        for (lease, leased) in &claimed {
            let name = label(leased);
            let id = match &leased.entry {
                ganger_core::Entry::Job(job) => job.id.clone().unwrap(),
                _ => JobId::claimed(leased.record.first.unwrap().lease),
            };
            assert_eq!(self.jobs[&name].state, Some(Ready), "{name} is claimed: {:#?}", self.trail);
            let job = self.known(&name);
            (job.state, job.lease, job.id, job.duplicate) = (Some(Running), Some(*lease), Some(id), false);
        }
        for (_, leased) in &claimed {
            let name = label(leased);
            let job = self.jobs[&name].clone();
            let of = leased.record.duplicate_of.as_deref().cloned();
            self.trail.push(format!("{name}: claimed, a duplicate of {of:?}"));
            let holders = if job.keyed { Vec::new() } else { self.holders(&job.key, &name) };
            match &of {
                Some(of) => assert!(holders.contains(of), "{name}: {of} for {holders:?}: {:#?}", self.trail),
                None => assert!(holders.is_empty(), "{name}: {holders:?} hold its key: {:#?}", self.trail),
            }
            let known = self.known(&name);
            (known.duplicate, known.keyed) = (of.is_some(), known.keyed || of.is_none());
        }
        claimed.len()
    }

    async fn settle(&mut self) {
        let Some(job) = self.pick(|job| job.lease.is_some()) else { return };
        let verdict = match self.below(8) {
            _ if job.duplicate => Verdict::Duplicate { of: Box::new("x".parse().unwrap()) },
            0 | 1 => Verdict::Done,
            2 => Verdict::Retry { at: Timestamp::from_millis(1) },
            3 => Verdict::Retry { at: Timestamp::now().plus(LEASE) },
            4 => Verdict::Dead { reason: "no luck".into() },
            5 => Verdict::Release,
            6 => Verdict::Park { until: None },
            _ => Verdict::Expired,
        };
        self.say(&job, verdict).await;
    }

    async fn say(&mut self, job: &Known, verdict: Verdict) {
        self.trail.push(format!("{}: {verdict:?}, cancel {}", job.name, job.cancel));
        let now_due = matches!(verdict, Verdict::Retry { at } if at.as_millis() == 1);
        let state = match verdict.state() {
            Done => None,
            _ if job.cancel => Some(Cancelled),
            _ if now_due => Some(Ready),
            state => Some(state),
        };
        self.hand.settle(job.lease.unwrap(), verdict).await;
        let known = self.known(&job.name);
        (known.state, known.lease, known.cancel) = (state, None, false);
    }

    async fn order(&mut self) {
        let order = [Order::Cancel, Order::Retry, Order::Remove][self.below(3)];
        let Some(job) = self.pick(|job| job.id.is_some() && job.state.is_some()) else { return };
        let (id, state) = (job.id.clone().unwrap(), job.state.unwrap());
        let others = self.holders(&job.key, &job.name);
        self.trail.push(format!("{}: {order:?} while {state}, beside {others:?}", job.name));
        let changed = self.hand.order(order, &id).await;
        let trail = self.trail.clone();
        let known = self.known(&job.name);
        let expected = match (order, state) {
            (Order::Cancel, Running) => {
                known.cancel = true;
                1
            }
            (Order::Cancel, Scheduled | Ready) => {
                known.state = Some(Cancelled);
                1
            }
            (Order::Retry, Scheduled) => {
                known.state = Some(Ready);
                1
            }
            (Order::Retry, Dead | Cancelled | Expired) if others.is_empty() => {
                known.state = Some(Ready);
                1
            }
            (Order::Remove, Running) => 0,
            (Order::Remove, _) => {
                known.state = None;
                1
            }
            _ => 0,
        };
        assert_eq!(changed, expected, "{trail:#?}");
    }

    async fn holder(&mut self) {
        let key = format!("key {}", self.below(3));
        let holders = self.holders(&key, "");
        let holder = self.hand.provider.admin().unwrap().holder(&key).await.unwrap();
        match holder {
            None => assert!(holders.is_empty(), "{key}, {holders:?}: {:#?}", self.trail),
            Some(holder) => assert!(holders.contains(&holder), "{key}, {holder}: {:#?}", self.trail),
        }
    }

    /// Everything ends and is forgotten.
    async fn end(&mut self) {
        for job in self.jobs.clone().into_values().filter(|job| job.state == Some(Scheduled)) {
            self.hand.order(Order::Retry, job.id.as_ref().unwrap()).await;
            self.known(&job.name).state = Some(Ready);
        }
        loop {
            let got = self.claim(50).await;
            let held: Vec<Known> = self.jobs.values().filter(|job| job.lease.is_some()).cloned().collect();
            if got == 0 && held.is_empty() {
                break;
            }
            for job in held {
                self.say(&job, Verdict::Done).await;
            }
        }
        for job in self.jobs.clone().into_values().filter(|job| job.state.is_some()) {
            assert_eq!(self.hand.order(Order::Remove, job.id.as_ref().unwrap()).await, 1, "{job:?}");
        }
        for key in ["unique", "state", "ids", "claims", "leases", "cancel", "marks", "ends"] {
            assert!(!exists(&self.redis, key), "`{key}` is left: {:#?}", self.trail);
        }
    }
}

#[test]
fn any_order_of_calls_agrees_with_the_model_and_leaves_nothing() {
    ganger_conformance::run(async {
        for seed in 1..=12 {
            let redis = Redis::start(ganger_testkit::server::RedisOptions::default());
            let hand = Hand::open(&redis.url()).await;
            let mut model = Model { hand, redis, jobs: BTreeMap::new(), seed, trail: Vec::new() };
            for step in 0..250 {
                match model.below(10) {
                    0..3 => model.enqueue(step.to_string()).await,
                    3..5 => {
                        let jobs = 1 + model.below(4) as u32;
                        model.claim(jobs).await;
                    }
                    5..7 => model.settle().await,
                    7..9 => model.order().await,
                    _ => model.holder().await,
                }
            }
            model.end().await;
        }
    });
}

#[test]
fn bytes_that_name_the_id_of_another_job_are_no_excuse_for_each_other() {
    ganger_conformance::run(async {
        let redis = durable();
        let mut hand = Hand::open(&redis.url()).await;
        let stored = Job { id: Some("a".parse().unwrap()), ..Job::new("test", &()).unwrap() };
        let stored =
            Job { name: Some("stored".into()), run_at: Some(Timestamp::now().plus(LEASE)), ..stored };
        hand.enqueue(stored.clone()).await.unwrap();
        let twin = r#"{"type":"test","name":"twin","id":"a","unique":{"key":"k"}}"#;
        push(&redis, &[twin, twin]);
        let both = hand.claim(any(10), LEASE).await;
        let duplicates: Vec<Option<JobId>> =
            both.iter().map(|(_, leased)| leased.record.duplicate_of.as_deref().cloned()).collect();
        assert_eq!(duplicates, [None, Some("a".parse().unwrap())]);
        hand.settle(both[1].0, Verdict::Duplicate { of: Box::new("a".parse().unwrap()) }).await;
        hand.settle(both[0].0, Verdict::Done).await;
        assert!(!exists(&redis, "unique"));
        let again = hand.enqueue(Job { run_at: None, ..stored }).await.unwrap();
        assert_eq!((again.existed, again.state), (true, State::Scheduled), "its id is known still");
    });
}

#[test]
fn of_a_key_that_lets_many_in_a_hundred_jobs_are_known() {
    ganger_conformance::run(async {
        let redis = durable();
        let hand = Hand::open(&redis.url()).await;
        let first = hand.enqueue(job("0", "k", &[State::Running])).await.unwrap().id;
        for n in 1..100 {
            hand.enqueue(job(&n.to_string(), "k", &[State::Running])).await.unwrap();
        }
        let refused = hand.enqueue(job("100", "k", &[State::Running])).await.unwrap_err();
        assert_eq!(refused.holder, Some(first));
    });
}

#[test]
fn a_key_is_held_over_a_crash_of_redis() {
    ganger_conformance::run(async {
        let mut redis = durable();
        let mut hand = Hand::open(&redis.url()).await;
        let states = [State::Scheduled, State::Ready, State::Running];
        let id = hand.enqueue(job("0", "stored", &states)).await.unwrap().id;
        push(&redis, &[&job("1", "pushed", &states).to_json()]);
        let claimed = hand.claim(plain(10), LEASE).await;
        assert_eq!(claimed.len(), 2);
        redis.kill();
        redis.restart();
        let other = Hand::open(&redis.url()).await;
        let refused = other.enqueue(job("2", "stored", &states)).await.unwrap_err();
        assert_eq!(refused.holder, Some(id));
        assert!(other.enqueue(job("3", "pushed", &states)).await.unwrap_err().holder.is_some());
        for (lease, _) in claimed {
            hand.settle(lease, Verdict::Done).await;
        }
        assert!(!exists(&redis, "unique"));
    });
}

/// What is cut off between a claim and its keys.
#[cfg(feature = "failpoints")]
mod failpoints {
    use std::process::Command;

    use super::*;

    const POINTS: [&str; 2] = ["redis::keys_wanted", "redis::keys_given"];
    const SHORT: Duration = Duration::from_millis(300);

    /// The other process: is aborted when it has claimed.
    #[test]
    fn aborted_process() {
        let Ok(url) = std::env::var("UNIQUE_ABORTED") else { return };
        let scenario = fail::FailScenario::setup();
        fail::cfg_callback(std::env::var("UNIQUE_POINT").unwrap(), || std::process::abort()).unwrap();
        ganger_conformance::run(async {
            Hand::open(&url).await.claim(plain(10), SHORT).await;
        });
        scenario.teardown();
    }

    #[test]
    fn a_ganger_that_ends_between_a_claim_and_its_keys_lets_no_two_in_and_loses_none() {
        let states = [State::Scheduled, State::Ready, State::Running];
        for point in POINTS {
            let redis = durable();
            for name in ["0", "1", "2"] {
                push(&redis, &[&job(name, "k", &states).to_json()]);
            }
            let ended = Command::new(std::env::current_exe().unwrap())
                .args(["--exact", "failpoints::aborted_process", "--nocapture"])
                .env("UNIQUE_ABORTED", redis.url())
                .env("UNIQUE_POINT", point)
                .output()
                .unwrap();
            assert_eq!(ended.status.code(), None, "{point} is passed: {ended:?}");
            ganger_conformance::run(async {
                let mut hand = Hand::open(&redis.url()).await;
                // Suspects come alone, once their lease has run out; none is settled before all have come.
                let mut claimed = Vec::new();
                eventually("all come again", async || {
                    claimed.extend(hand.claim(any(10), LEASE).await);
                    claimed.len() == 3
                })
                .await;
                let to_run: Vec<_> =
                    claimed.iter().filter(|(_, one)| one.record.duplicate_of.is_none()).collect();
                assert_eq!(to_run.len(), 1, "{point}: {claimed:?}");
                let refused = hand.enqueue(job("3", "k", &states)).await.unwrap_err();
                assert_eq!(refused.holder.map(|id| id.to_string()), Some(id_of(&to_run[0].1)), "{point}");
                for (lease, one) in claimed.clone() {
                    let verdict = match one.record.duplicate_of {
                        Some(of) => Verdict::Duplicate { of },
                        None => Verdict::Done,
                    };
                    hand.settle(lease, verdict).await;
                }
                assert!(!exists(&redis, "unique"), "{point}");
                hand.enqueue(job("3", "k", &states)).await.unwrap();
            });
        }
    }

    fn id_of(leased: &Leased) -> String {
        JobId::claimed(leased.record.first.unwrap().lease).to_string()
    }
}
