//! The process is aborted at each fail point in turn; what was accepted is done all the same.

use std::{collections::BTreeSet, fs, path::Path};

use ganger_e2e::{Place, checkout};

use crate::crash::QUIET;

const JOBS: usize = 24;

/// The names in `fail_point!("…")` of these rooms.
fn points() -> BTreeSet<String> {
    let mut points = BTreeSet::new();
    for room in ["spool/src", "manager/src", "providers/disk/src", "workers/disk/src"] {
        search(&checkout().join(room), &mut points);
    }
    points
}

fn search(folder: &Path, points: &mut BTreeSet<String>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            search(&path, points);
        } else if path.extension().is_some_and(|end| end == "rs") {
            let text = fs::read_to_string(path).unwrap();
            let after = text.split("fail_point!(").skip(1);
            points.extend(after.filter_map(|rest| {
                rest.trim_start().strip_prefix('"')?.split('"').next().map(str::to_owned)
            }));
        }
    }
}

fn ledger(place: &Place) -> Vec<String> {
    place.read("ledger").unwrap_or_default().lines().map(str::to_owned).collect()
}

/// Enqueues and does jobs with an abort at the `nth` passing of a point; whether it came to that.
fn abort_at(point: &str, nth: usize) -> bool {
    let place = Place::new();
    // A short lease, so that a renewal comes while a job runs.
    place.write("quiet.toml", QUIET.replace("jobs.db\"", "jobs.db\", lease = \"1200ms\""));
    let lines: String = (0..JOBS)
        .map(|n| {
            format!(
                "{{\"id\":\"job-{n}\",\"type\":\"cli\",\"retries\":3,\"backoff\":{{\"initial\":\"1ms\"}},\"params\":{{\"command\":\"sh\",\"params\":[\"-c\",\"echo $GANGER_JOB_ID >> ledger; sleep {}; test $GANGER_ATTEMPT -gt {}\"]}}}}\n",
                if n == 0 { 2 } else { 0 },
                n % 2
            )
        })
        .collect();
    let failing = |args: &[&str], input: &str| {
        let mut command = place.command(env!("CARGO_BIN_EXE_failing"));
        command.args(args).env("GANGER_ABORT_AT", point).env("GANGER_ABORT_NTH", nth.to_string());
        place.fed(&mut command, input).code
    };
    let enqueued = failing(&["enqueue", "-c", "quiet.toml"], &lines);
    let ran = failing(&["run", "-c", "quiet.toml", "--once"], "");
    // A producer that does not know whether it was heard says it again; nothing is stored twice.
    place.ganger_fed(&["enqueue", "-c", "quiet.toml"], &lines).ok();
    place.ganger(&["run", "-c", "quiet.toml", "--once"]).ok();
    let done = place
        .ganger(&["job", "ls", "-c", "quiet.toml", "--state", "done", "--json", "-n", "1000"])
        .ok()
        .json_lines();
    assert_eq!(done.len(), JOBS, "{point}, passing {nth}: all are done");
    let runs = ledger(&place);
    for n in 0..JOBS {
        let id = format!("job-{n}");
        let count = runs.iter().filter(|run| **run == id).count();
        let needed = 1 + n % 2;
        // P1: each ran as often as it had to. P2: the abort costs each job one run more at most.
        assert!((needed..=needed + 1).contains(&count), "{point}, passing {nth}: {id} ran {count} times");
    }
    enqueued.is_none() || ran.is_none()
}

#[test]
fn failpoints_each_in_turn_lose_nothing() {
    let points = points();
    assert!(points.len() >= 4, "{points:?}");
    let mut reached = BTreeSet::new();
    for point in &points {
        for nth in [1, 2, 4] {
            if abort_at(point, nth) {
                reached.insert(point.clone());
            }
        }
    }
    assert_eq!(reached, points, "every point is passed");
}
