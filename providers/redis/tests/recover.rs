//! Jobs that GoWorker had popped and not finished come back.
// Code of tests: a panic is how it speaks.
#![allow(clippy::unwrap_used)]

mod support;

use std::sync::Arc;

use ganger_conformance::soon;
use ganger_core::{Admin, Stranded};
use ganger_testkit::{
    proxy::{Proxy, Way},
    server::Redis,
};
use redis::cmd;
use support::{LIST, crew::entries, durable, open, push, run, strand};

async fn admin(url: &str) -> Arc<dyn Admin> {
    open(url, 7).await.unwrap().admin().unwrap()
}

async fn recover(admin: &Arc<dyn Admin>) -> (u64, u64) {
    let Stranded { jobs, held, .. } = soon("jobs that come back", admin.recover()).await.unwrap();
    (jobs, held)
}

fn list(redis: &Redis) -> Vec<String> {
    redis::from_redis_value(run(redis, cmd("LRANGE").arg(LIST).arg(0).arg(-1))).unwrap()
}

#[test]
fn interrupted_jobs_come_back_before_those_that_wait_with_their_bytes_as_they_were() {
    ganger_conformance::run(async {
        let redis = durable();
        push(&redis, &["waits"]);
        strand(&redis, b"no job \xff", false);
        assert_eq!(recover(&admin(&redis.url()).await).await, (1, 0));
        let front: Vec<u8> = redis::from_redis_value(run(&redis, cmd("LINDEX").arg(LIST).arg(0))).unwrap();
        assert_eq!(front, b"no job \xff");
    });
}

#[test]
fn a_job_that_goworker_gave_out_again_is_left_to_it() {
    ganger_conformance::run(async {
        let redis = durable();
        strand(&redis, b"a", false);
        // How GoWorker locks what it gives out a second time.
        run(&redis, cmd("SET").arg("tmp_job:lock:tmp_job:value:1").arg("").arg("EX").arg(30));
        let admin = admin(&redis.url()).await;
        assert_eq!(recover(&admin).await, (0, 1));
        run(&redis, cmd("DEL").arg("tmp_job:lock:tmp_job:value:1"));
        assert_eq!(recover(&admin).await, (1, 0));
        assert_eq!(list(&redis), ["a"]);
    });
}

#[test]
fn a_reply_that_is_lost_neither_loses_nor_doubles_a_job() {
    ganger_conformance::run(async {
        let redis = durable();
        let mut jobs = entries(1000);
        let mut all = cmd("MSET");
        for (n, job) in jobs.iter().enumerate() {
            all.arg(format!("tmp_job:value:{n}")).arg(job);
        }
        run(&redis, &all);
        let proxy = Proxy::start(redis.address());
        let admin = admin(&redis.url_at(proxy.address())).await;
        let look = async || {
            let before = proxy.seen().to_client;
            soon("a count", admin.stranded()).await.unwrap();
            proxy.seen().to_client - before
        };
        look().await;
        // As many bytes as will come back; what is missing are the last answers.
        proxy.cut_after(Way::ToClient, look().await - 40);
        soon("an answer", admin.recover()).await.unwrap_err();
        let before = list(&redis).len();
        assert!(before > 0 && before < 1000, "{before}");
        assert_eq!(recover(&admin).await, (1000 - u64::try_from(before).unwrap(), 0));
        let mut all = list(&redis);
        all.sort();
        jobs.sort();
        assert_eq!(all, jobs);
    });
}
