//! What is shown of jobs that wait and run, and who has them.

use ganger_e2e::Place;

use crate::crash::{QUIET, with_sleepers};

#[test]
fn a_running_job_names_its_holder_and_one_that_nobody_does_says_so() {
    let place = Place::new();
    let (running, _pids) = with_sleepers(&place);
    place.ganger(&["enqueue", "-c", "quiet.toml", "--id", "odd", "polish", "{}"]).ok();
    let listed = place.ganger(&["job", "ls", "-c", "quiet.toml", "--json"]).ok().json_lines();
    let holder = listed[1]["holder"].as_str().unwrap();
    assert!(holder.ends_with(&format!(":{}", running.pid())), "{holder}");
    assert_eq!(listed[0]["reason"], "no worker does type `polish`");
    let shown = place.ganger(&["job", "show", "-c", "quiet.toml", "odd"]).ok();
    assert!(shown.stdout.contains("no worker does type `polish`"), "{}", shown.stdout);
    assert_eq!(shown.stderr, "", "somebody works");
}

#[test]
fn where_nobody_works_and_something_waits_a_list_says_so() {
    let place = Place::new();
    place.write("quiet.toml", QUIET);
    place.ganger(&["enqueue", "-c", "quiet.toml", "--id", "a", "cli", "--", "true"]).ok();
    for args in [&["job", "ls", "-c", "quiet.toml"][..], &["job", "show", "-c", "quiet.toml", "a"]] {
        let told = place.ganger(args).ok();
        assert!(told.stderr.contains("no ganger works on `disk`"), "{}", told.stderr);
    }
    assert_eq!(place.ganger(&["job", "ls", "-c", "quiet.toml", "--json"]).ok().stderr, "");
    let dead = place.ganger(&["dead", "ls", "-c", "quiet.toml"]).ok();
    assert_eq!((dead.stdout.as_str(), dead.stderr.as_str()), ("no dead letters\n", ""));
}
