//! SIGTERM, once and twice.

use ganger_e2e::{Place, Running, Signal, eventually};

use crate::crash::{QUIET, lives, with_sleepers};

#[test]
fn sigterm_lets_a_running_job_finish_and_hands_back_the_others() {
    let place = Place::new();
    place.write("quiet.toml", QUIET.replace("workers = 4", "workers = 1"));
    let script = "echo x >> begun; while [ ! -e go ]; do sleep 0.02; done; echo y >> ended";
    let mut lines = String::new();
    for n in 0..3 {
        lines.push_str(&format!(
            "{{\"id\":\"job-{n}\",\"type\":\"cli\",\"params\":{{\"command\":\"sh\",\"params\":[\"-c\",\"{script}\"]}}}}\n"
        ));
    }
    place.ganger_fed(&["enqueue", "-c", "quiet.toml"], &lines).ok();
    let running = place.start(&["run", "-c", "quiet.toml"]);
    eventually("first job", || place.read("begun"));
    running.terminate();
    // Handed back while the first still runs: at once, not when the grace is over.
    let ready = || {
        let args = ["job", "ls", "-c", "quiet.toml", "--state", "ready", "--json"];
        place.ganger(&args).ok().json_lines().len()
    };
    eventually("two jobs handed back", || (ready() == 2).then_some(()));
    place.write("go", "");
    running.finish().ok();
    let count = |name: &str| place.read(name).unwrap_or_default().lines().count();
    assert_eq!((count("begun"), count("ended")), (1, 1));
    let rest =
        place.ganger(&["job", "ls", "-c", "quiet.toml", "--state", "ready", "--json"]).ok().json_lines();
    assert!(
        rest.iter().all(|job| job["retries_spent"] == 0 && job["crashes"] == 0),
        "a shutdown spends nothing"
    );
}

#[test]
fn a_second_sigterm_ends_at_once_and_the_job_is_ready_again() {
    let place = Place::new();
    let (running, pids) = with_sleepers(&place);
    running.terminate();
    eventually("word of the drain", || running.stderr().contains("second signal").then_some(()));
    running.terminate();
    running.finish().ok();
    assert!(!pids.iter().any(|pid| lives(*pid)), "its processes ended with it");
    let jobs = place.ganger(&["job", "ls", "-c", "quiet.toml", "--json"]).ok().json_lines();
    assert_eq!((jobs.len(), jobs[0]["state"].as_str()), (1, Some("ready")));
    assert_eq!((&jobs[0]["retries_spent"], &jobs[0]["crashes"]), (&0.into(), &0.into()));
}

#[test]
fn a_terminal_that_is_closed_ends_it_as_sigterm_does_unless_it_was_told_to_ignore_that() {
    let place = Place::new();
    place.write("quiet.toml", QUIET);
    let works = |running: &Running| {
        eventually("word that it works", || running.stderr().contains("ganger works").then_some(()));
    };
    // Who runs the tests may have been told to ignore it (nohup), and what is ignored is inherited.
    let mut plain = place.command("env");
    plain.arg("--default-signal=HUP").arg(ganger_e2e::ganger()).args(["run", "-c", "quiet.toml"]);
    let running = place.launch(&mut plain);
    works(&running);
    running.signal(Signal::HUP);
    let ended = running.finish().ok();
    assert!(ended.stderr.contains("Hangup"), "{}", ended.stderr);
    let mut nohup = place.command("sh");
    nohup.args(["-c", "trap '' HUP; exec \"$0\" run -c quiet.toml"]).arg(ganger_e2e::ganger());
    let running = place.launch(&mut nohup);
    works(&running);
    running.signal(Signal::HUP);
    running.terminate();
    let ended = running.finish().ok();
    assert!(!ended.stderr.contains("Hangup") && ended.stderr.contains("Terminate"), "{}", ended.stderr);
}

#[test]
fn a_log_that_nobody_takes_costs_no_job() {
    let place = Place::new();
    place.write("quiet.toml", QUIET);
    place.ganger(&["enqueue", "-c", "quiet.toml", "--id", "a", "cli", "--", "false"]).ok();
    let mut full = place.command("sh");
    full.args(["-c", "exec \"$0\" run -c quiet.toml 2> /dev/full"]).arg(ganger_e2e::ganger());
    let running = place.launch(&mut full);
    let waited = place.ganger(&["job", "wait", "-c", "quiet.toml", "a", "--timeout", "20s"]);
    assert_eq!(waited.stdout, "a dead: exit status 1\n", "{}", waited.stderr);
    running.terminate();
    running.finish().ok();
}

#[test]
fn sigterm_with_nothing_to_do_ends_at_once() {
    let place = Place::new();
    place.write("quiet.toml", QUIET);
    let running = place.start(&["run", "-c", "quiet.toml"]);
    eventually("store", || place.file("jobs.db").exists().then_some(()));
    eventually("word that it works", || running.stderr().contains("ganger works").then_some(()));
    running.terminate();
    running.finish().ok();
}
