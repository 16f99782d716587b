//! What the guide's page says to type works as it says.
// Code of tests: a panic is how it speaks.
#![allow(clippy::unwrap_used)]

mod support;

use std::{os::unix::fs::PermissionsExt, process::Command};

use ganger_core::{Entry, Exchange, Job, Provider, Token};
use ganger_provider_redis::{RedisConfig, RedisProvider};
use ganger_testkit::server::Redis;
use redis::cmd;
use support::{context, crew::any, durable, open_with, run};

const PAGE: &str = include_str!("../../../docs/guide/redis.md");

/// The page's blocks of code in a language.
fn blocks(language: &str) -> Vec<String> {
    let fence = format!("```{language}\n");
    PAGE.split(&fence).skip(1).map(|rest| rest.split("```").next().unwrap().to_owned()).collect()
}

/// Runs a shell's commands with `redis-cli` on a test's server.
fn shell(redis: &Redis, script: &str) {
    let folder = tempfile::tempdir().unwrap();
    let cli = folder.path().join("redis-cli");
    let path = std::env::var("PATH").unwrap();
    std::fs::write(&cli, format!("#!/bin/sh\nPATH='{path}' exec redis-cli -p {} \"$@\"\n", redis.port()))
        .unwrap();
    std::fs::set_permissions(&cli, PermissionsExt::from_mode(0o755)).unwrap();
    let path = format!("{}:{path}", folder.path().display());
    let status = Command::new("sh").arg("-ec").arg(script).env("PATH", path).status().unwrap();
    assert!(status.success(), "{script}");
}

async fn leased(redis: &Redis, list: &str) -> Vec<Job> {
    let options = serde_json::json!({"host": "127.0.0.1", "port": redis.port(), "job_list": list});
    let provider = open_with(options, 7).await.unwrap();
    let mut room = any(10);
    room.types[0].kind = "cli".into();
    let token = Token { incarnation: 7, seq: 1 };
    let give = Exchange { token, settle: Vec::new(), room, lease: std::time::Duration::from_secs(60) };
    let leased = provider.exchange(&give).await.unwrap().leased;
    let read = |entry| match entry {
        Entry::Raw(bytes) => Job::from_json(&bytes).unwrap(),
        other => panic!("{other:?}"),
    };
    leased.into_iter().map(|one| read(one.entry)).collect()
}

#[test]
fn the_quick_start_pushes_a_job() {
    ganger_conformance::run(async {
        let redis = durable();
        let push = blocks("sh")[0].lines().find(|line| line.starts_with("redis-cli")).unwrap().to_owned();
        shell(&redis, &push);
        let jobs = leased(&redis, "job_list").await;
        assert_eq!((jobs.len(), jobs[0].kind.as_str()), (1, "cli"));
        assert_eq!(jobs[0].params_text(), r#"{"command":"echo","params":["hello"]}"#);
    });
}

/// A client library's place in the page's examples: it pushes on the test's server, by the call that the page shows.
/// The real ones are tried by hand.
const PYTHON_CLIENT: &str = r#"
import os, socket

class Redis:
    def rpush(self, *words):
        words = [b"RPUSH"] + [word.encode() for word in words]
        server = socket.create_connection(("127.0.0.1", int(os.environ["PORT"])))
        server.sendall(b"*3\r\n" + b"".join(b"$%d\r\n%s\r\n" % (len(word), word) for word in words))
        assert server.recv(16).startswith(b":")
"#;

const NODE_CLIENT: &str = r#"
import net from "node:net";

export const createClient = () => ({
  async connect() { return this; },
  rPush(...words) {
    const command = ["RPUSH", ...words].map((word) => `$${Buffer.byteLength(word)}\r\n${word}\r\n`).join("");
    return new Promise((pushed) => {
      const server = net.connect(Number(process.env.PORT), "127.0.0.1");
      server.end(`*3\r\n${command}`);
      server.resume().on("end", pushed);
    });
  },
  async close() {},
});
"#;

#[test]
fn the_examples_of_other_languages_push_a_job() {
    for (language, program, example, library, client) in [
        ("python", "python3", "example.py", "redis.py", PYTHON_CLIENT),
        ("js", "node", "example.mjs", "node_modules/redis/index.mjs", NODE_CLIENT),
    ] {
        ganger_conformance::run(async {
            let redis = durable();
            let folder = tempfile::tempdir().unwrap();
            let library = folder.path().join(library);
            std::fs::create_dir_all(library.parent().unwrap()).unwrap();
            std::fs::write(&library, client).unwrap();
            if language == "js" {
                std::fs::write(library.with_file_name("package.json"), r#"{"main": "index.mjs"}"#).unwrap();
            }
            std::fs::write(folder.path().join(example), blocks(language).remove(0)).unwrap();
            let mut run = Command::new(program);
            run.arg(example).current_dir(folder.path()).env("PORT", redis.port().to_string());
            let status = run.status().unwrap_or_else(|error| panic!("{program}: {error}: install it"));
            assert!(status.success(), "{language}");
            let jobs = leased(&redis, "job_list").await;
            assert_eq!((jobs.len(), jobs[0].kind.as_str(), jobs[0].retries), (1, "cli", Some(3)));
            let params: serde_json::Value = serde_json::from_str(jobs[0].params_text()).unwrap();
            assert_eq!(params, serde_json::json!({"command": "echo", "params": ["hello"]}));
        });
    }
}

#[test]
fn several_lists_are_read_in_their_order_or_by_weights() {
    ganger_conformance::run(async {
        let redis = durable();
        let lists = ["urgent", "bulk"];
        for list in lists {
            for n in 0..40 {
                let job = format!(r#"{{"type":"test","name":"{list}{n}"}}"#);
                run(&redis, cmd("RPUSH").arg(list).arg(job));
            }
        }
        let claims = async |options: serde_json::Value, incarnation: u64, claims: u64| {
            let provider = open_with(options, incarnation).await.unwrap();
            let mut names = Vec::new();
            for seq in 1..=claims {
                let token = Token { incarnation, seq };
                let lease = std::time::Duration::from_secs(60);
                let give = Exchange { token, settle: Vec::new(), room: any(2), lease };
                let leased = provider.exchange(&give).await.unwrap().leased;
                names.extend(leased.iter().map(ganger_conformance::label));
            }
            let urgent = names.iter().filter(|name| name.starts_with("urgent")).count();
            (urgent, names.len() - urgent)
        };
        let weights = serde_json::json!([{"list": "urgent", "weight": 3}, {"list": "bulk", "weight": 1}]);
        let weighted = serde_json::json!({"url": redis.url(), "job_list": weights});
        assert_eq!(claims(weighted, 7, 8).await, (12, 4));
        let strict = serde_json::json!({"url": redis.url(), "job_list": lists});
        assert_eq!(claims(strict, 8, 16).await, (28, 4));
    });
}

#[test]
fn settings_that_lose_jobs_are_warned_of() {
    ganger_conformance::run(async {
        let redis = durable();
        let config =
            || -> RedisConfig { serde_json::from_value(serde_json::json!({"url": redis.url()})).unwrap() };
        let warnings = async || RedisProvider::open(config(), &context(7)).await.unwrap().warnings().await;
        assert_eq!(warnings().await, Vec::<String>::new());
        run(&redis, cmd("CONFIG").arg("SET").arg("maxmemory-policy").arg("allkeys-lru"));
        run(&redis, cmd("CONFIG").arg("SET").arg("appendonly").arg("no"));
        let told = warnings().await;
        assert!(
            told.len() == 2 && told[0].contains("noeviction") && told[1].contains("appendonly yes"),
            "{told:?}"
        );
    });
}
