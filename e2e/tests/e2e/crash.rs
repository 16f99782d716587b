//! Killed in the middle: nothing accepted is lost, children do not live on, and a poison job harms itself alone.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs::{self, OpenOptions},
    path::Path,
};

use ganger_e2e::{Place, Running, eventually};

/// A config with the disk store and `cli`, no ports.
pub(crate) const QUIET: &str = "stats_port = \"off\"\n[[providers]]\ndisk = { db_name = \"jobs.db\" }\n\
                     [[workers]]\ncli = { workers = 4 }\n";

/// A job that adds its id to the ledger, as a line of its own.
fn ledger_job(n: usize) -> String {
    format!(
        r#"{{"id":"job-{n}","type":"cli","params":{{"command":"sh","params":["-c","echo $GANGER_JOB_ID >> ledger"]}}}}"#
    )
}

/// How often each job ran.
fn ledger(place: &Place) -> BTreeMap<String, usize> {
    let mut runs = BTreeMap::new();
    for line in place.read("ledger").unwrap_or_default().lines() {
        *runs.entry(line.to_owned()).or_default() += 1;
    }
    runs
}

fn states(place: &Place, state: &str) -> usize {
    let args = ["job", "ls", "-c", "quiet.toml", "--state", state, "--json", "-n", "1000000"];
    place.ganger(&args).ok().json_lines().len()
}

#[test]
fn p1_no_accepted_job_is_lost_when_the_manager_is_killed() {
    const JOBS: usize = 400;
    let place = Place::new();
    place.write("quiet.toml", QUIET);
    let lines: String = (0..JOBS).map(|n| ledger_job(n) + "\n").collect();
    place.ganger_fed(&["enqueue", "-c", "quiet.toml"], &lines).ok();
    let mut kills = 0;
    for goal in [JOBS / 8, JOBS / 4, JOBS / 2] {
        let mut running = place.start(&["run", "-c", "quiet.toml"]);
        eventually("progress", || (ledger(&place).len() >= goal).then_some(()));
        running.kill();
        kills += 1;
    }
    place.ganger(&["run", "-c", "quiet.toml", "--once"]).ok();
    let runs = ledger(&place);
    assert_eq!(runs.len(), JOBS, "every job ran");
    assert_eq!(states(&place, "done"), JOBS, "every job is done");
    // P2: a run more for each kill that may have hit it.
    let most = runs.values().max().copied().unwrap_or(0);
    assert!(most <= 1 + kills, "a job ran {most} times with {kills} kills");
}

#[test]
fn p2_with_no_fault_every_job_runs_exactly_once() {
    const JOBS: usize = 300;
    let place = Place::new();
    place.write("quiet.toml", QUIET);
    let lines: String = (0..JOBS).map(|n| ledger_job(n) + "\n").collect();
    place.ganger_fed(&["enqueue", "-c", "quiet.toml"], &lines).ok();
    // Two managers on one file.
    let running = place.start(&["run", "-c", "quiet.toml"]);
    place.ganger(&["run", "-c", "quiet.toml", "--once"]).ok();
    eventually("end of all jobs", || (states(&place, "done") == JOBS).then_some(()));
    running.terminate();
    running.finish().ok();
    let runs = ledger(&place);
    assert_eq!((runs.len(), runs.values().max()), (JOBS, Some(&1)));
}

/// Whether a process is there, and no zombie.
pub(crate) fn lives(pid: u32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(") ").is_some_and(|(_, rest)| !rest.starts_with('Z'))
}

/// A manager at work on a command that would sleep for five minutes, with a child of its own; their ids.
pub(crate) fn with_sleepers(place: &Place) -> (Running, BTreeSet<u32>) {
    place.write("quiet.toml", QUIET);
    let script = "sleep 300 & echo $! >> pids; echo $$ >> pids; wait";
    place.ganger(&["enqueue", "-c", "quiet.toml", "cli", "--", "sh", "-c", script]).ok();
    let running = place.start(&["run", "-c", "quiet.toml"]);
    let pids = eventually("two processes of the job", || {
        let text = place.read("pids")?;
        let pids: BTreeSet<u32> = text.lines().filter_map(|line| line.parse().ok()).collect();
        (pids.len() == 2).then_some(pids)
    });
    (running, pids)
}

#[test]
fn b28_children_end_when_ganger_is_killed() {
    let place = Place::new();
    let (mut running, pids) = with_sleepers(&place);
    assert!(pids.iter().all(|pid| lives(*pid)));
    running.kill();
    eventually("end of the job's processes", || (!pids.iter().any(|pid| lives(*pid))).then_some(()));
}

#[test]
fn b28_fifty_commands_and_their_daemons_end_when_ganger_is_killed() {
    const COMMANDS: usize = 50;
    let place = Place::new();
    place.write("quiet.toml", QUIET.replace("workers = 4", &format!("workers = {COMMANDS}")));
    // Each is deaf to TERM and has a child that left its group as daemons do.
    let line =
        "trap '' TERM; setsid sh -c 'echo $$ >> pids; exec sleep 300' & echo $$ >> pids; wait; sleep 300";
    let params = serde_json::json!({"command": "sh", "params": ["-c", line]});
    let jobs: String = (0..COMMANDS).map(|_| format!("{{\"type\":\"cli\",\"params\":{params}}}\n")).collect();
    place.ganger_fed(&["enqueue", "-c", "quiet.toml"], &jobs).ok();
    let mut running = place.start(&["run", "-c", "quiet.toml"]);
    let pids: BTreeSet<u32> = eventually("all commands at work", || {
        let text = place.read("pids")?;
        let pids: BTreeSet<u32> = text.lines().filter_map(|line| line.parse().ok()).collect();
        (pids.len() == 2 * COMMANDS).then_some(pids)
    });
    running.kill();
    eventually("end of all processes", || (!pids.iter().any(|pid| lives(*pid))).then_some(()));
}

#[test]
fn b20_a_crash_during_a_retry_loses_nothing() {
    let place = Place::new();
    place.write("quiet.toml", QUIET);
    let job = r#"{"id":"late","type":"cli","retries":6,"backoff":{"initial":"10ms"},"params":{"command":"sh","params":
        ["-c","echo x >> runs; n=$(wc -l < runs); test $n -ne 2 || exec sleep 300; test $n -ge 4"]}}"#;
    place.ganger_fed(&["enqueue", "-c", "quiet.toml"], &job.replace('\n', "")).ok();
    let mut running = place.start(&["run", "-c", "quiet.toml"]);
    let runs = || place.read("runs").unwrap_or_default().lines().count();
    eventually("second run", || (runs() == 2).then_some(()));
    running.kill();
    place.ganger(&["run", "-c", "quiet.toml", "--once"]).ok();
    assert_eq!(states(&place, "done"), 1);
}

/// Appends nothing, but makes sure that a file is there to be counted.
fn touch(path: &Path) {
    OpenOptions::new().create(true).append(true).open(path).unwrap();
}

#[test]
fn p7_one_job_that_aborts_the_process_ends_crashed_alone_among_5000() {
    const GOOD: usize = 5000;
    let place = Place::new();
    place.write("quiet.toml", "stats_port = \"off\"\n[[providers]]\ndisk = { db_name = \"jobs.db\" }\n");
    touch(&place.file("aborted"));
    let mut lines = String::new();
    for n in 0..GOOD {
        lines.push_str(&format!("{{\"id\":\"good-{n}\",\"type\":\"good\"}}\n"));
        if n == GOOD / 2 {
            lines.push_str("{\"id\":\"poison\",\"type\":\"poison\",\"retries\":9}\n");
        }
    }
    place.ganger_fed(&["enqueue", "-c", "quiet.toml"], &lines).ok();
    let program = env!("CARGO_BIN_EXE_aborting");
    let mut running = place.launch(&mut place.command(program));
    let mut starts = 1;
    eventually("end of every job", || {
        if running.ended().is_some() {
            starts += 1;
            assert!(starts < 20, "the poison job loops: {}", running.stderr());
            running = place.launch(&mut place.command(program));
        }
        (states(&place, "done") + states(&place, "dead") == GOOD + 1).then_some(())
    });
    running.terminate();
    let dead = place.ganger(&["dead", "ls", "-c", "quiet.toml", "--json"]).ok().json_lines();
    assert_eq!(dead.len(), 1, "it alone is dead");
    assert_eq!((dead[0]["id"].as_str(), dead[0]["reason"].as_str()), (Some("poison"), Some("crashed")));
    // The first loss proves nothing; three more spend its crashes.
    let aborted = place.read("aborted").unwrap().lines().count();
    assert_eq!((aborted, starts), (4, 5), "it ran {aborted} times, the process {starts} times");
}
