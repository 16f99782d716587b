//! Whatever is done in whatever order: no job is in two places or in none, and all of them reach an end.
// Code of tests: a panic is how it speaks.
#![allow(clippy::unwrap_used)]

mod support;

use std::collections::HashSet;

use ganger_core::{
    Admin, Beat, Filter, JobId, LeaseRef, Order, Page, Room, Settlement, Sink, Spend, State, Timestamp,
    Verdict,
};
use proptest::prelude::*;
use support::{File, Manager, check_places, job, room};

#[derive(Clone, Debug)]
enum Step {
    Put { jobs: u32, priority: i32, later: bool },
    Foreign { good: bool },
    Take { jobs: u32 },
    Settle { which: usize, how: u8 },
    Renew { leave_out: usize },
    Cancel { which: usize },
    Order { order: u8, which: usize },
    Die,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        (1..4u32, -1..2i32, any::<bool>()).prop_map(|(jobs, priority, later)| Step::Put {
            jobs,
            priority,
            later
        }),
        any::<bool>().prop_map(|good| Step::Foreign { good }),
        (1..5u32).prop_map(|jobs| Step::Take { jobs }),
        (any::<usize>(), 0..7u8).prop_map(|(which, how)| Step::Settle { which, how }),
        any::<usize>().prop_map(|leave_out| Step::Renew { leave_out }),
        any::<usize>().prop_map(|which| Step::Cancel { which }),
        (0..3u8, any::<usize>()).prop_map(|(order, which)| Step::Order { order, which }),
        Just(Step::Die),
    ]
}

/// The store, and what is held of it.
struct World {
    file: File,
    manager: Manager,
    held: Vec<LeaseRef>,
    ids: Vec<JobId>,
    removed: HashSet<JobId>,
}

impl World {
    async fn new() -> World {
        let file = File::quick();
        let manager = file.open().await;
        World { file, manager, held: Vec::new(), ids: Vec::new(), removed: HashSet::new() }
    }

    fn pick<T: Clone>(all: &[T], which: usize) -> Option<T> {
        (!all.is_empty()).then(|| all[which % all.len()].clone())
    }

    async fn take(&mut self, jobs: u32) -> usize {
        let (token, answer) = self.manager.exchange(Vec::new(), room(jobs)).await;
        assert!(answer.leased.len() <= jobs as usize);
        let suspects =
            answer.leased.iter().filter(|leased| leased.record.suspect || leased.record.crashes > 0);
        assert!(suspects.count() == 0 || answer.leased.len() == 1, "a suspect is leased alone");
        self.held.extend(answer.leased.iter().map(|leased| LeaseRef { token, index: leased.index }));
        answer.leased.len()
    }

    async fn settle(&mut self, which: usize, how: u8) {
        let Some(lease) = World::pick(&self.held, which) else { return };
        let verdict = match how {
            0 => Verdict::Retry { at: Timestamp::from_millis(0) },
            1 => Verdict::Dead { reason: "test".into() },
            2 => Verdict::Release,
            3 => Verdict::Park { until: None },
            4 => Verdict::Expired,
            _ => Verdict::Done,
        };
        let mut settlement = Settlement::new(lease, verdict);
        settlement.spend = if how == 0 { Spend::Retry } else { Spend::Nothing };
        if how == 6 {
            settlement.more_mut().follow.push(job(r#"{"type":"test"}"#));
        }
        assert!(self.manager.settle(settlement.clone()).await, "the lease is held");
        assert!(!self.manager.settle(settlement).await, "once");
        self.held.retain(|held| *held != lease);
    }

    async fn renew(&mut self, leave_out: usize) {
        let left_out = World::pick(&self.held, leave_out);
        let named: Vec<LeaseRef> =
            self.held.iter().copied().filter(|lease| Some(*lease) != left_out).collect();
        let beat = Beat {
            incarnation: self.manager.token().incarnation,
            host: String::new(),
            pid: 0,
            version: String::new(),
            types: Vec::new(),
            guarded: Vec::new(),
            draining: false,
            started: Timestamp::from_millis(0),
            lease_millis: 600_000,
        };
        let holds = self.manager.source.renew(&beat, &named).await.unwrap();
        assert!(holds.iter().all(|hold| *hold != ganger_core::Hold::Lost));
        // A token that is not named at all is as it was.
        if left_out.is_none_or(|lease| named.iter().any(|named| named.token == lease.token)) {
            self.held = named;
        }
    }

    async fn go(&mut self, step: Step) {
        match step {
            Step::Put { jobs, priority, later } => {
                let mut one = job(&format!(r#"{{"type":"test","priority":{priority}}}"#));
                one.run_at = later.then(|| Timestamp::from_millis(1));
                self.ids.extend(self.manager.put(vec![one; jobs as usize]).await);
            }
            Step::Foreign { good } => {
                let sql = format!(
                    "INSERT INTO jobs (type, params) VALUES ('test', '{}')",
                    if good { "1" } else { "{" }
                );
                self.file.foreign().execute(&sql, []).unwrap();
            }
            Step::Take { jobs } => drop(self.take(jobs).await),
            Step::Settle { which, how } => self.settle(which, how).await,
            Step::Renew { leave_out } => self.renew(leave_out).await,
            Step::Cancel { which } => {
                if let Some(id) = World::pick(&self.ids, which) {
                    self.manager.source.cancel(&id).await.unwrap();
                }
            }
            Step::Order { order, which } => {
                let Some(id) = World::pick(&self.ids, which) else { return };
                let order = [Order::Retry, Order::Cancel, Order::Remove][usize::from(order)];
                let changed = self.manager.source.order(order, &Filter::ids(vec![id.clone()])).await.unwrap();
                if order == Order::Remove && changed > 0 {
                    self.removed.insert(id);
                }
            }
            Step::Die => {
                self.manager = self.file.open().await;
                self.held.clear();
            }
        }
        check_places(&self.file.foreign());
    }

    /// Everything that is left ends.
    async fn finish(&mut self) {
        let held = std::mem::take(&mut self.held);
        let settle = held.into_iter().map(|lease| Settlement::new(lease, Verdict::Done)).collect();
        assert_eq!(self.manager.exchange(settle, Room::none()).await.1.stale, []);
        while self.take(64).await > 0 {
            for lease in std::mem::take(&mut self.held) {
                assert!(self.manager.say(lease, Verdict::Done).await);
            }
        }
        check_places(&self.file.foreign());
        let known: Vec<JobId> = self.ids.iter().filter(|id| !self.removed.contains(id)).cloned().collect();
        for (id, state) in known.iter().zip(Sink::states(&*self.manager.source, &known).await.unwrap()) {
            assert!(state.is_some_and(State::is_end), "`{id}` is {state:?}");
        }
        let all = self.manager.source.list(&Filter::default(), &Page::default()).await.unwrap();
        assert!(all.iter().all(|view| view.state.is_end() && !view.cancel));
        let counts = self.manager.source.counts().await.unwrap();
        assert!(counts.iter().all(|count| count.state.is_end()));
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn p1_every_job_is_in_one_place_and_reaches_an_end(steps in proptest::collection::vec(step(), 1..40)) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let mut world = World::new().await;
            for step in steps {
                world.go(step).await;
            }
            world.finish().await;
        });
    }
}
