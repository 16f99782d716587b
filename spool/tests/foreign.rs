//! Other programs insert into the view `jobs`, and read it.
// Code of tests: a panic is how it speaks.
#![allow(clippy::unwrap_used)]

mod support;

use std::time::Duration;

use ganger_core::{Admin, Entry, Filter, Page, Room, State, TypeRoom, Verdict};
use rusqlite::params;
use support::{File, check_places, job, jobs, name, names, room};

fn room_for(types: &[&str]) -> Room {
    let types = types.iter().map(|kind| TypeRoom { kind: (*kind).into(), jobs: 100 }).collect();
    Room { types, ..room(100) }
}

#[tokio::test]
async fn a_row_inserted_in_a_transaction_of_its_own_program_is_a_job() {
    let file = File::new();
    let manager = file.open().await;
    let mut program = file.foreign();
    let transaction = program.transaction().unwrap();
    let all = "INSERT INTO jobs (id, type, params, name, queue, retries, priority, capture_output, timeout, run_at, \
               expires_at, backoff, headers, keep, extra) VALUES ('order-17', 'http.http', '{\"url\": 1}', \
               'n', 'mail', 3, 7, 1, 2.5, 1, '2096-01-01T00:00:00+01:00', '{\"initial\":\"2s\"}', \
               '{\"tenant\":\"a\"}', 90, '{\"x-note\": {\"deep\": {}}}')";
    transaction.execute(all, []).unwrap();
    assert_eq!(manager.source.count(&Filter::default()).await.unwrap(), 0, "not before it is committed");
    transaction.commit().unwrap();
    manager.source.wait(&room_for(&["http"])).await.unwrap();
    let (_, answer) = manager.exchange(Vec::new(), room_for(&["http"])).await;
    let Entry::Job(job) = &answer.leased[0].entry else { panic!("{:?}", answer.leased) };
    let mut job = job.clone();
    assert!(job.created_at.take().is_some());
    let expected = "{\"id\":\"order-17\",\"type\":\"http\",\"params\":{\"url\": 1},\"name\":\"n\",\"queue\":\"mail\",\
        \"retries\":3,\"priority\":7,\"capture_output\":true,\"timeout\":\"2s500ms\",\
        \"run_at\":\"1970-01-01T00:00:01.000Z\",\"expires_at\":\"2095-12-31T23:00:00.000Z\",\
        \"backoff\":{\"initial\":\"2s\",\"factor\":2.0,\"max\":\"1h\",\"jitter\":0.2},\
        \"headers\":{\"tenant\":\"a\"},\"keep\":\"1m30s\",\"x-note\":{\"deep\": {}}}";
    assert_eq!(job.to_json(), expected);

    program.execute("INSERT INTO jobs (type, max_age) VALUES ('test', 60)", []).unwrap();
    let aged = manager.take(1).await.remove(0).1;
    let Entry::Job(aged) = aged.entry else { panic!("{aged:?}") };
    assert_eq!(aged.expires_at, aged.created_at.map(|at| at.plus(Duration::from_secs(60))));

    let transaction = program.transaction().unwrap();
    transaction.execute("INSERT INTO jobs (type) VALUES ('test')", []).unwrap();
    transaction.rollback().unwrap();
    assert!(manager.take(9).await.is_empty(), "what was rolled back never was");
}

#[tokio::test]
async fn foreign_rows_and_other_jobs_keep_their_common_order() {
    let file = File::new();
    let manager = file.open().await;
    manager.put(jobs(2)).await;
    let program = file.foreign();
    for name in ["2", "3"] {
        program.execute("INSERT INTO jobs (type, name) VALUES ('test', ?1)", [name]).unwrap();
    }
    manager.put(vec![job(r#"{"type":"test","name":"4"}"#)]).await;
    assert_eq!(names(&manager.take(9).await), ["0", "1", "2", "3", "4"]);
    check_places(&program);
}

#[tokio::test]
async fn a_row_whose_unique_key_is_held_ends_cancelled_and_names_the_holder() {
    let file = File::new();
    let manager = file.open().await;
    let program = file.foreign();
    let insert = |id: &str| {
        let sql = "INSERT INTO jobs (id, type, \"unique\") VALUES (?1, 'test', '{\"key\":\"k\"}')";
        program.execute(sql, [id]).unwrap();
    };
    insert("first");
    insert("second");
    let held = manager.take(9).await;
    assert_eq!(held.len(), 1);
    assert_eq!(manager.source.holder("k").await.unwrap(), Some("first".parse().unwrap()));
    let view = manager.source.show(&"second".parse().unwrap()).await.unwrap().unwrap();
    let told = "a duplicate: job first holds its `unique` key";
    assert_eq!((view.state, view.reason.as_deref()), (ganger_core::State::Cancelled, Some(told)));
    assert!(manager.say(held[0].0, Verdict::Done).await);
    insert("third");
    assert_eq!(manager.take(9).await.len(), 1);
    check_places(&program);
}

#[tokio::test]
async fn p8_rows_that_are_no_jobs_end_in_the_dead_letters_with_their_bytes() {
    let file = File::new();
    let manager = file.open().await;
    let program = file.foreign();
    let bad_utf8: &[u8] = b"{\"a\":\"\xff\"}";
    program.execute("INSERT INTO jobs (id, type, params) VALUES ('json', 'test', '{\"a\":')", []).unwrap();
    program
        .execute("INSERT INTO jobs (id, type, params) VALUES ('utf8', 'test', ?1)", params![bad_utf8])
        .unwrap();
    program.execute("INSERT INTO jobs (id, type, retries) VALUES ('number', 'test', 'many')", []).unwrap();
    program.execute("INSERT INTO jobs (id, type, run_at) VALUES ('time', 'test', 'tomorrow')", []).unwrap();
    program.execute("INSERT INTO jobs (id, type, run_at, delay) VALUES ('twice', 'test', 1, 5)", []).unwrap();
    program.execute("INSERT INTO jobs (id, params) VALUES ('type', '{}')", []).unwrap();
    program.execute("INSERT INTO jobs (id, type) VALUES ('two words', 'test')", []).unwrap();
    program.execute("INSERT INTO jobs (id, type) VALUES ('own', 'failure_handler.x')", []).unwrap();
    program
        .execute("INSERT INTO jobs (id, type, \"limit\") VALUES ('limit', 'test', '{\"key\":\"k\"}')", [])
        .unwrap();
    program.execute("INSERT INTO jobs (id, type, name) VALUES ('good', 'test', 'good')", []).unwrap();

    let (mut faults, mut good) = (Vec::new(), Vec::new());
    for (lease, leased) in manager.take(99).await {
        match &leased.entry {
            Entry::Malformed(fault) => {
                faults.push(fault.message.clone());
                let reason = format!("malformed: {fault}");
                assert!(manager.say(lease, Verdict::Dead { reason }).await);
            }
            _ => good.push(name(&leased)),
        }
    }
    assert_eq!(good, ["good"]);
    let parts = [
        "column `params`: not JSON: EOF",
        "column `params`: not UTF-8",
        "field `retries`: invalid type: string \"many\", expected a whole number",
        "`tomorrow` is no time",
        "fields `delay` and `run_at` both say when",
        "missing field `type`",
        "no spaces",
        "ganger's own",
        "does not support `limit`",
    ];
    assert_eq!(faults.len(), parts.len(), "{faults:#?}");
    for (fault, part) in faults.iter().zip(parts) {
        assert!(fault.contains(part), "{fault:?} should contain {part:?}");
    }
    let dead = Filter { states: Some(vec![State::Dead]), ..Filter::default() };
    let mut dead = manager.source.list(&dead, &Page::default()).await.unwrap();
    dead.reverse();
    assert_eq!(dead.len(), parts.len());
    assert!(dead.iter().all(|view| view.job.is_none() && view.reason.is_some()));
    assert_eq!(dead[0].raw.as_deref(), Some(&b"{\"a\":"[..]));
    assert_eq!(dead[1].raw.as_deref(), Some(bad_utf8));
    let number = String::from_utf8(dead[2].raw.clone().unwrap()).unwrap();
    assert_eq!(number, r#"{"id":"number","type":"test","retries":"many"}"#);
    assert_eq!(dead[0].id.to_string(), "json");
}

#[tokio::test]
async fn an_id_that_is_taken_is_an_error_in_the_program_that_inserts_it() {
    let file = File::new();
    let manager = file.open().await;
    manager.put(vec![job(r#"{"type":"test","id":"a"}"#)]).await;
    let program = file.foreign();
    let insert = "INSERT INTO jobs (id, type) VALUES (?1, 'test')";
    let error = program.execute(insert, ["a"]).unwrap_err();
    assert!(error.to_string().contains("a job with this id is stored already"), "{error}");
    program.execute(insert, ["b"]).unwrap();
    assert!(program.execute(insert, ["b"]).is_err(), "also while it waits to be taken over");
}

#[tokio::test]
async fn the_view_shows_every_state() {
    let file = File::new();
    let manager = file.open().await;
    manager.put(jobs(4)).await;
    let mut later = job(r#"{"type":"test","name":"later"}"#);
    later.rare_mut().delay = Some(support::LONG);
    manager.put(vec![later]).await;
    let held = manager.take(3).await;
    assert!(manager.say(held[0].0, Verdict::Done).await);
    assert!(manager.say(held[1].0, Verdict::Dead { reason: "broken".into() }).await);
    let program = file.foreign();
    program.execute("INSERT INTO jobs (type, name) VALUES ('test', 'foreign')", []).unwrap();
    let mut statement = program.prepare("SELECT name, state FROM jobs ORDER BY created_at, name").unwrap();
    let rows =
        statement.query_map([], |row| Ok((row.get::<_, String>(0)?, row.get::<_, String>(1)?))).unwrap();
    let mut rows: Vec<(String, String)> = rows.map(Result::unwrap).collect();
    rows.sort();
    let expected = [
        ("0", "done"),
        ("1", "dead"),
        ("2", "running"),
        ("3", "ready"),
        ("foreign", "ready"),
        ("later", "scheduled"),
    ];
    let rows: Vec<(&str, &str)> = rows.iter().map(|(name, state)| (name.as_str(), state.as_str())).collect();
    assert_eq!(rows, expected);
    let by_id: i64 = program
        .query_row("SELECT count(*) FROM jobs WHERE reason = 'broken' AND ended_at IS NOT NULL", [], |row| {
            row.get(0)
        })
        .unwrap();
    assert_eq!(by_id, 1);
}

#[tokio::test]
async fn a_program_may_insert_before_ganger_ever_runs_again() {
    let file = File::new();
    drop(file.open().await);
    {
        let program = file.foreign();
        for n in 0..10_000 {
            program.execute("INSERT INTO jobs (type, name) VALUES ('test', ?1)", [n.to_string()]).unwrap();
            if n == 0 {
                program.execute_batch("BEGIN").unwrap();
            }
        }
        program.execute_batch("COMMIT").unwrap();
    }
    let manager = file.open().await;
    let mut seen = 0;
    loop {
        let (_, answer) = manager.exchange(Vec::new(), room(3000)).await;
        for leased in &answer.leased {
            assert_eq!(name(leased), seen.to_string());
            seen += 1;
        }
        if answer.leased.is_empty() && !answer.more {
            break;
        }
    }
    assert_eq!(seen, 10_000);
}
