//! Renewals: what is held, lost and cancelled, and what they leave in Redis.
// Code of tests: a panic is how it speaks.
#![allow(clippy::unwrap_used)]

mod support;

use std::{sync::Arc, time::Duration};

use ganger_conformance::soon;
use ganger_core::{DynProvider, Exchange, Exchanged, Hold, LeaseRef, Room, Settlement, Token, Verdict};
use ganger_testkit::server::Redis;
use redis::{Value, cmd};
use support::{
    LIST,
    crew::{any, beat, entries},
    durable, open, run,
};

const LONG: Duration = Duration::from_secs(3600);
const LONGER: Duration = Duration::from_secs(7200);
const CLAIMS: &str = "ganger:{jobs}:claims";

fn token(seq: u64) -> Token {
    Token { incarnation: 7, seq }
}

fn lease(seq: u64, index: u32) -> LeaseRef {
    LeaseRef { token: token(seq), index }
}

async fn exchange(
    provider: &Arc<dyn DynProvider>,
    seq: u64,
    done: impl IntoIterator<Item = LeaseRef>,
    room: Room,
) -> Exchanged {
    let settle = done.into_iter().map(|lease| Settlement::new(lease, Verdict::Done)).collect();
    let give = Exchange { token: token(seq), settle, room, lease: LONG };
    soon("an exchange", provider.exchange(&give)).await.unwrap()
}

fn int(redis: &Redis, command: &mut redis::Cmd) -> i64 {
    redis::from_redis_value(run(redis, command)).unwrap()
}

/// How many leases run out later than [`LONG`] from now.
fn renewed(redis: &Redis) -> i64 {
    let now: Vec<i64> = redis::from_redis_value(run(redis, &cmd("TIME"))).unwrap();
    let later = now[0] * 1000 + i64::try_from(LONG.as_millis()).unwrap() + 60_000;
    int(redis, cmd("ZCOUNT").arg("ganger:{jobs}:leases").arg(later).arg("+inf"))
}

#[test]
fn claims_of_one_job_are_held_lost_and_cancelled_each_for_itself() {
    ganger_conformance::run(async {
        const LONE: u64 = 1_100;
        let redis = durable();
        run(&redis, cmd("RPUSH").arg(LIST).arg(entries(LONE as usize + 3)));
        let provider = open(&redis.url(), 7).await.unwrap();
        for seq in 1..=LONE {
            assert_eq!(exchange(&provider, seq, [], any(1)).await.leased.len(), 1);
        }
        let three = LONE + 1;
        assert_eq!(exchange(&provider, three, [], any(3)).await.leased.len(), 3);
        // One that is not named keeps its deadline; of the three, one that is not named is ready again.
        let mut held: Vec<LeaseRef> = (2..=LONE).map(|seq| lease(seq, 0)).collect();
        held.extend([lease(three, 0), lease(three, 2)]);
        let holds = provider.renew(&beat(7, LONGER), &held).await.unwrap();
        assert_eq!(holds, vec![Hold::Held; held.len()]);
        assert_eq!(renewed(&redis), i64::try_from(LONE).unwrap());
        let again = exchange(&provider, three + 1, [], any(1)).await;
        assert_eq!(again.leased.len(), 1, "the one that was not named");

        exchange(&provider, three + 2, [lease(700, 0)], Room::none()).await;
        let expected = |lost: u64, cancelled: u64| -> Vec<Hold> {
            let hold = |lease: &LeaseRef| match lease.token.seq {
                seq if seq == lost => Hold::Lost,
                seq if seq == cancelled => Hold::Cancel,
                _ => Hold::Held,
            };
            held.iter().map(hold).collect()
        };
        assert_eq!(provider.renew(&beat(7, LONGER), &held).await.unwrap(), expected(700, 0));
        run(&redis, cmd("HSET").arg("ganger:{jobs}:cancel").arg(format!("{}/0", token(300))).arg(1));
        assert_eq!(provider.renew(&beat(7, LONGER), &held).await.unwrap(), expected(700, 300));
    });
}

#[test]
fn a_claim_is_packed_anew_by_the_renewal_that_finds_half_of_it_settled() {
    ganger_conformance::run(async {
        let redis = durable();
        run(&redis, cmd("RPUSH").arg(LIST).arg(entries(100)));
        let provider = open(&redis.url(), 7).await.unwrap();
        let claim = exchange(&provider, 1, [], any(100)).await;
        let packed = || int(&redis, cmd("HSTRLEN").arg(CLAIMS).arg(format!("{}i", token(1))));
        let whole = packed();
        exchange(&provider, 2, (0..90).map(|index| lease(1, index)), Room::none()).await;
        assert_eq!(packed(), whole, "an exchange leaves that to a renewal");
        let held: Vec<LeaseRef> = (90..100).map(|index| lease(1, index)).collect();
        assert_eq!(provider.renew(&beat(7, LONGER), &held).await.unwrap(), vec![Hold::Held; 10]);
        assert!(packed() * 5 < whole, "{} of {whole} bytes are left", packed());
        // What is left has its old places: a failed job comes back with its own bytes.
        let give = Exchange {
            token: token(3),
            settle: vec![Settlement::new(lease(1, 95), Verdict::Release)],
            room: any(1),
            lease: LONG,
        };
        let back = soon("an exchange", provider.exchange(&give)).await.unwrap();
        assert!(back.stale.is_empty());
        assert_eq!(ganger_conformance::label(&back.leased[0]), ganger_conformance::label(&claim.leased[95]));
        let rest = (90..100).filter(|index| *index != 95).map(|index| lease(1, index));
        exchange(&provider, 4, rest.chain([lease(3, 0)]), Room::none()).await;
        assert_eq!(run(&redis, cmd("HLEN").arg(CLAIMS)), Value::Int(0));
    });
}
