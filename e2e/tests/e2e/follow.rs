//! `ganger job logs -f`: a job's output while it runs.

use ganger_e2e::{Place, Running, eventually, free_port};

/// A place with a config, whose figures and events are at a port of its own.
fn place() -> Place {
    let place = Place::new();
    let port = free_port();
    place.write(
        "ganger.toml",
        format!(
            "stats_port = \"127.0.0.1:{port}\"\nstats_token = \"s3cret\"\n[[providers]]\ndisk = {{ db_name = \"jobs.db\" }}\n\
             [[workers]]\ncli = {{ workers = 1, backoff = {{ initial = \"10ms\" }} }}\n"
        ),
    );
    place
}

fn enqueue(place: &Place, id: &str, script: &str, more: &[&str]) {
    let args =
        [&["enqueue", "-c", "ganger.toml", "--id", id], more, &["cli", "--", "sh", "-c", script]].concat();
    place.ganger(&args).ok();
}

fn follow(place: &Place, id: &str, more: &[&str]) -> Running {
    place.start(&[&["job", "logs", "-c", "ganger.toml", "-f", id], more].concat())
}

/// Follows a job and has heard of it, of a ganger that may be about to start.
fn attached(place: &Place, id: &str) -> Running {
    eventually("an answer", || {
        let mut followed = follow(place, id, &[]);
        eventually("a word", || {
            let word = !followed.stdout().is_empty() || !followed.stderr().is_empty();
            (word || followed.ended().is_some()).then_some(())
        });
        followed.ended().is_none().then_some(followed)
    })
}

/// Waits for a file, as a shell does.
fn until(file: &str) -> String {
    format!("while [ ! -e {file} ]; do sleep 0.01; done")
}

#[test]
fn a_job_is_followed_from_before_its_beginning_to_its_end() {
    let place = place();
    let running = place.start(&["run", "-c", "ganger.toml"]);
    enqueue(&place, "first", &until("go-first"), &[]);
    let script = format!("echo one; {}; printf 'two \\377'; echo problem >&2", until("go"));
    enqueue(&place, "second", &script, &[]);
    let early = attached(&place, "second");
    assert!(early.stderr().contains("job second is ready: waiting until it runs"), "{}", early.stderr());
    place.write("go-first", "");
    eventually("the first line", || (early.stdout() == "one\n").then_some(()));
    let late = follow(&place, "second", &["--json"]);
    eventually("what was printed before", || late.stdout().contains(r#""text":"one\n""#).then_some(()));
    place.write("go", "");
    let late = late.finish().ok();
    assert!(
        late.stdout.ends_with("{\"event\":\"end\",\"state\":\"done\",\"attempts\":1}\n"),
        "{}",
        late.stdout
    );
    let early = early.finish().ok();
    assert!(early.stdout.starts_with("one\ntwo ") && early.stdout.ends_with("problem\n"), "{}", early.stdout);
    running.terminate();
    running.finish().ok();
}

#[test]
fn each_run_of_a_job_that_dies_is_seen_and_the_answer_is_no() {
    let place = place();
    let running = place.start(&["run", "-c", "ganger.toml"]);
    let script = format!("echo try $GANGER_ATTEMPT; {}; exit 3", until("go"));
    enqueue(&place, "a", &script, &["--retries", "1"]);
    let followed = attached(&place, "a");
    place.write("go", "");
    let followed = followed.finish();
    assert_eq!((followed.code, followed.stdout.as_str()), (Some(1), "try 1\ntry 2\n"), "{}", followed.stderr);
    assert!(followed.stderr.contains("run 2 of job a"), "{}", followed.stderr);
    assert!(followed.stderr.contains("job a is dead: exit status 3"), "{}", followed.stderr);
    drop(running);
}

#[test]
fn a_follower_outlives_a_ganger_that_is_killed_and_comes_again() {
    let place = place();
    let mut running = place.start(&["run", "-c", "ganger.toml"]);
    enqueue(
        &place,
        "a",
        &format!("echo run $GANGER_ATTEMPT; {}; echo over", until("go")),
        &["--retries", "3"],
    );
    let followed = attached(&place, "a");
    running.kill();
    let again = place.start(&["run", "-c", "ganger.toml"]);
    eventually("the run that follows", || (followed.stdout().matches("run ").count() == 2).then_some(()));
    place.write("go", "");
    let followed = followed.finish().ok();
    assert!(followed.stdout.ends_with("over\n"), "{}", followed.stdout);
    drop(again);
}

#[test]
fn where_nobody_works_it_says_so_and_shows_what_is_stored_of_a_job_that_has_ended() {
    let place = place();
    enqueue(&place, "a", "printf 'kept \\377'", &[]);
    let nobody = place.ganger(&["job", "logs", "-c", "ganger.toml", "-f", "a"]);
    assert_eq!((nobody.code, nobody.stdout.as_str()), (Some(3), ""), "{}", nobody.stderr);
    assert!(nobody.stderr.contains("no ganger answers at 127.0.0.1:"), "{}", nobody.stderr);
    assert!(nobody.stderr.contains("ganger job wait ID"), "{}", nobody.stderr);
    let unknown = place.ganger(&["job", "logs", "-c", "ganger.toml", "-f", "b"]);
    assert_eq!(unknown.code, Some(1), "{}", unknown.stderr);
    place.ganger(&["run", "-c", "ganger.toml", "--once"]).ok();
    let over = place.ganger(&["job", "logs", "-c", "ganger.toml", "-f", "a"]);
    assert_eq!(over.code, Some(0), "{}", over.stderr);
    place.write("off.toml", "stats_port = \"off\"\n[[providers]]\ndisk = { db_name = \"jobs.db\" }\n");
    assert_eq!(place.ganger(&["job", "logs", "-c", "off.toml", "-f", "a"]).code, Some(2));
}

#[test]
fn the_whole_output_is_shown_from_its_file_and_a_full_disk_is_in_the_record() {
    let place = Place::new();
    let config = |more: &str| {
        format!(
            "stats_port = \"off\"\noutput_max = 100\n[[providers]]\ndisk = {{ db_name = \"jobs.db\" }}\n\
             [[workers]]\ncli = {{ keep_output = {{ dir = \"kept\"{more} }} }}\n"
        )
    };
    place.write("ganger.toml", config(""));
    enqueue(&place, "a/b", "seq 100000", &[]);
    place.ganger(&["run", "-c", "ganger.toml", "--once"]).ok();
    let whole = place.ganger(&["job", "logs", "-c", "ganger.toml", "a/b"]).ok();
    assert_eq!((whole.stdout.len(), whole.stdout.ends_with("99999\n100000\n")), (588_895, true));
    assert!(place.file("kept/a%2Fb.1.log").exists());
    place.write("ganger.toml", config(", max_size = \"1KiB\""));
    enqueue(&place, "c", "seq 100000", &[]);
    place.ganger(&["run", "-c", "ganger.toml", "--once"]).ok();
    let shown = place.ganger(&["job", "show", "-c", "ganger.toml", "c"]).ok();
    assert!(shown.stdout.contains("only the first 1024 bytes of the output"), "{}", shown.stdout);
}

#[test]
fn streams_that_are_apart_stay_so_to_whoever_looks() {
    let place = place();
    let config = place.read("ganger.toml").unwrap();
    place.write("ganger.toml", config.replace("workers = 1,", "workers = 1, streams = \"apart\","));
    let running = place.start(&["run", "-c", "ganger.toml"]);
    let script = format!("echo out; echo problem >&2; {}; echo more; exit 3", until("go"));
    enqueue(&place, "a", &script, &[]);
    let followed = attached(&place, "a");
    eventually("both streams", || {
        (followed.stdout() == "out\n" && followed.stderr().contains("problem\n")).then_some(())
    });
    place.write("go", "");
    let followed = followed.finish();
    assert_eq!((followed.code, followed.stdout.as_str()), (Some(1), "out\nmore\n"), "{}", followed.stderr);
    running.terminate();
    running.finish().ok();
    let logs = place.ganger(&["job", "logs", "-c", "ganger.toml", "a"]).ok();
    assert_eq!((logs.stdout.as_str(), logs.stderr.as_str()), ("out\nmore\n", "problem\n"));
    let json = place.ganger(&["job", "logs", "-c", "ganger.toml", "--json", "a"]).ok().stdout;
    assert!(json.contains(r#""output":"out\nmore\n""#) && json.contains(r#""stderr":"problem\n""#), "{json}");
    let dead = place.ganger(&["dead", "ls", "-c", "ganger.toml"]).ok().stdout;
    assert!(dead.contains("exit status 3: problem"), "{dead}");
}
