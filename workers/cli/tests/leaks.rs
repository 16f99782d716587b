//! Thousands of commands leave no process, file or thread behind.
#![allow(clippy::unwrap_used, reason = "a test says so by a panic")]

mod rig;

use rig::{Rig, children, eventually, files, job, sh};
use serde_json::json;

#[tokio::test]
async fn f20_thousands_of_commands_leave_no_zombie_and_no_file() {
    let rig = Rig::new().await;
    let mut slot = rig.slot().await;
    let warm_up = rig::run(&mut slot, &job(json!({"command": "true"}))).await;
    assert!(warm_up.0.is_ok());
    let (files_before, children_before) = (files(), children());
    for n in 0..3000 {
        let params = match n % 6 {
            0 => sh("sleep 0.001 & exit 1"),
            1 => json!({"command": "cat", "stdin": "x"}),
            2 => json!({"command": "no-such-command"}),
            _ => json!({"command": "/bin/true"}),
        };
        let (result, _) = rig::run(&mut slot, &job(params)).await;
        assert_eq!(result.is_ok(), ![0, 2].contains(&(n % 6)), "{result:?}");
    }
    assert_eq!(files(), files_before);
    assert_eq!(children(), children_before);
    drop(slot);
    drop(rig);
    // Standard input, output and error, the runtime's own, and this listing.
    eventually("the slot's files are closed", || files() < files_before).await;
}
