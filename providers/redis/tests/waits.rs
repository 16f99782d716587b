//! Waits that claim: the exchange that stands behind a blocking read, and what may happen to it.
// Code of tests: a panic is how it speaks.
#![allow(clippy::unwrap_used)]

mod support;

use std::{sync::Arc, time::Duration};

use ganger_conformance::{eventually, label, soon};
use ganger_core::{DynProvider, Exchange, Exchanged, ProviderError, Token};
use ganger_testkit::{
    proxy::{Proxy, Way},
    server::Redis,
};
use redis::{Value, cmd};
use serde_json::json;
use support::{crew::any, durable, open, open_with, push, run};
use tokio::task::JoinHandle;

const LONG: Duration = Duration::from_secs(3600);
const JOB: &str = r#"{"type":"test","name":"a"}"#;

type Answer = Result<Option<Exchanged>, ProviderError>;

fn give(seq: u64) -> Exchange {
    Exchange { token: Token { incarnation: 7, seq }, settle: Vec::new(), room: any(10), lease: LONG }
}

fn labels(answer: &Exchanged) -> Vec<String> {
    answer.leased.iter().map(label).collect()
}

/// How many connections are in a blocking read.
fn reads(redis: &Redis) -> usize {
    match run(redis, cmd("CLIENT").arg("LIST")) {
        Value::BulkString(text) => String::from_utf8(text).unwrap().matches("cmd=blmove").count(),
        Value::VerbatimString { text, .. } => text.matches("cmd=blmove").count(),
        other => panic!("{other:?}"),
    }
}

/// A wait whose reads are under way. One may end for nothing, as when the channel is heard anew.
async fn standing(
    redis: &Redis,
    provider: &Arc<dyn DynProvider>,
    give: Exchange,
    lists: usize,
) -> JoinHandle<Answer> {
    let start = || {
        let (waits, give) = (provider.clone(), give.clone());
        tokio::spawn(async move { waits.wait_and_claim(&give).await })
    };
    let mut wait = start();
    eventually("a blocking read for each list", async || {
        if wait.is_finished() {
            wait = start();
        }
        reads(redis) == lists
    })
    .await;
    wait
}

async fn other_finds(redis: &Redis) -> Vec<String> {
    let other = open(&redis.url(), 8).await.unwrap();
    let give = Exchange { token: Token { incarnation: 8, seq: 1 }, ..give(1) };
    labels(&other.exchange(&give).await.unwrap())
}

#[test]
fn a_job_that_is_pushed_comes_with_the_answer_to_the_wait() {
    ganger_conformance::run(async {
        let redis = durable();
        let options = json!({"url": redis.url(), "job_list": ["urgent", "bulk"]});
        let provider = open_with(options, 7).await.unwrap();
        for (seq, list) in (1..).zip(["bulk", "urgent", "bulk", "bulk", "urgent"]) {
            let wait = standing(&redis, &provider, give(seq), 2).await;
            let job = format!(r#"{{"type":"test","name":"{seq}"}}"#);
            run(&redis, cmd("RPUSH").arg(list).arg(job));
            let answer = match soon("the job", wait).await.unwrap().unwrap() {
                Some(answer) => answer,
                None => {
                    assert_eq!(seq, 1, "only where the channel is heard for the first time");
                    provider.exchange(&give(seq)).await.unwrap()
                }
            };
            assert_eq!(labels(&answer), [seq.to_string()]);
            assert!(answer.stale.is_empty());
        }
    });
}

#[test]
fn a_claim_by_a_wait_whose_reply_is_lost_is_read_again_by_its_token() {
    ganger_conformance::run(async {
        let redis = durable();
        let proxy = Proxy::start(redis.address());
        let provider = open(&redis.url_at(proxy.address()), 7).await.unwrap();
        let wait = standing(&redis, &provider, give(1), 1).await;
        proxy.cut_after(Way::ToClient, 0);
        push(&redis, &[JOB]);
        assert!(!matches!(soon("the wait's end", wait).await.unwrap(), Ok(Some(_))), "its reply is lost");
        let again = async {
            loop {
                if let Ok(answer) = provider.exchange(&give(1)).await {
                    return answer;
                }
            }
        };
        assert_eq!(labels(&soon("the answer", again).await), ["a"]);
        assert!(other_finds(&redis).await.is_empty());
    });
}

#[test]
fn a_wait_whose_connection_or_owner_is_gone_takes_nothing() {
    ganger_conformance::run(async {
        let redis = durable();
        let provider = open(&redis.url(), 7).await.unwrap();
        let wait = standing(&redis, &provider, give(1), 1).await;
        run(&redis, cmd("CLIENT").arg("KILL").arg("TYPE").arg("normal"));
        assert!(!matches!(soon("the wait's end", wait).await.unwrap(), Ok(Some(_))));
        let wait = standing(&redis, &provider, give(2), 1).await;
        wait.abort();
        drop(provider);
        eventually("its connections to end", async || reads(&redis) == 0).await;
        push(&redis, &[JOB]);
        assert_eq!(other_finds(&redis).await, ["a"]);
    });
}

#[test]
fn a_script_that_was_forgotten_under_a_wait_is_told_again() {
    ganger_conformance::run(async {
        let redis = durable();
        let provider = open(&redis.url(), 7).await.unwrap();
        let wait = standing(&redis, &provider, give(1), 1).await;
        run(&redis, cmd("SCRIPT").arg("FLUSH"));
        push(&redis, &[JOB]);
        let answer = soon("the wait's end", wait).await.unwrap().unwrap();
        assert!(answer.is_none(), "an exchange is to be made");
        assert_eq!(labels(&provider.exchange(&give(1)).await.unwrap()), ["a"]);
    });
}

#[test]
fn an_order_that_nobody_waits_for_any_more_claims_nothing() {
    ganger_conformance::run(async {
        let redis = durable();
        let provider = open(&redis.url(), 7).await.unwrap();
        let wait = standing(&redis, &provider, give(1), 1).await;
        wait.abort();
        assert!(provider.exchange(&give(1)).await.unwrap().leased.is_empty());
        assert_eq!(reads(&redis), 1, "it stands");
        push(&redis, &[JOB]);
        eventually("its end", async || reads(&redis) == 0).await;
        assert_eq!(other_finds(&redis).await, ["a"]);
    });
}
