//! Jobs that GoWorker's interrupted runs left in Redis come back by one command.

use ganger_e2e::{Finished, Place, eventually};
use ganger_testkit::server::{Redis, RedisOptions};

/// A Redis, and a place with a config for it.
struct Scene {
    place: Place,
    redis: Redis,
}

impl Scene {
    fn new() -> Scene {
        let (place, redis) = (Place::new(), Redis::start(RedisOptions::default()));
        let config = format!(
            "stats_port = \"off\"\n[[providers]]\ndisk = {{}}\n[[providers]]\nredis = {{ port = {} }}\n[[workers]]\ncli = {{}}\n",
            redis.port()
        );
        place.write("ganger.toml", config);
        Scene { place, redis }
    }

    fn cli(&self, args: &[&str]) -> String {
        let mut command = self.place.command("redis-cli");
        command.args(["-p", &self.redis.port().to_string()]).args(args);
        self.place.finish(&mut command).ok().stdout.trim().to_owned()
    }

    fn strand(&self, hash: &str, file: &str) {
        let job = format!(r#"{{"type":"cli.cli","params":{{"command":"touch","params":["{file}"]}}}}"#);
        self.cli(&["SET", &format!("tmp_job:value:{hash}"), &job]);
    }

    fn recover(&self, args: &[&str]) -> Finished {
        self.place.ganger(&[&["job", "recover", "-c", "ganger.toml"][..], args].concat())
    }
}

#[test]
fn job_recover_counts_asks_and_brings_back() {
    let scene = Scene::new();
    scene.strand("aa", "a");
    scene.strand("bb", "b");
    scene.cli(&["SET", "tmp_job:lock:bb", ""]);
    let counted = scene.recover(&[]).ok();
    for words in ["1 job can be brought back", "1 more job may still run", "Stop every GoWorker", "`--all`"] {
        assert!(counted.stdout.contains(words), "{words}: {}", counted.stdout);
    }
    let asked = scene.recover(&["--all"]);
    assert_eq!(asked.code, Some(2));
    assert!(asked.stderr.contains("Bring back 1 job?") && asked.stderr.contains("--yes"), "{}", asked.stderr);
    assert_eq!(scene.cli(&["LLEN", "job_list"]), "0");
    let back = scene.recover(&["--all", "--yes", "--json"]).ok().json();
    assert_eq!(back, serde_json::json!({"found": 1, "held": 1, "changed": 1}));
    let running = scene.place.start(&["run", "-c", "ganger.toml"]);
    eventually("file that the job makes", || scene.place.file("a").exists().then_some(()));
    drop(running);
    assert!(!scene.place.file("b").exists());
    assert_eq!(scene.cli(&["EXISTS", "tmp_job:value:aa", "tmp_job:value:bb"]), "1");
    let none = scene.recover(&["--all"]).ok();
    assert!(none.stdout.contains("0 jobs can be brought back"), "{}", none.stdout);
}

#[test]
fn job_recover_is_refused_where_there_is_nothing_like_it() {
    let scene = Scene::new();
    let refused = scene.recover(&["--provider", "disk"]);
    assert_eq!(refused.code, Some(3), "there is no store yet: {}", refused.stderr);
    let job = r#"{"type":"cli","params":{"command":"true"}}"#;
    scene.place.ganger_fed(&["enqueue", "-c", "ganger.toml", "--to", "disk"], job).ok();
    let refused = scene.recover(&["--provider", "disk"]);
    assert_eq!(refused.code, Some(4), "{}", refused.stderr);
    assert!(refused.stderr.contains("brings no jobs back"), "{}", refused.stderr);
}
