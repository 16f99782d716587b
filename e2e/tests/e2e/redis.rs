//! Jobs in Redis, from the command line to a real server.

use std::collections::BTreeMap;

use ganger_e2e::{Place, Running, eventually, free_port, post};
use ganger_testkit::server::{Durability, Redis, RedisOptions};

use crate::server::Server;

/// A Redis that keeps what it acknowledged, and a place with a config for it.
struct Scene {
    place: Place,
    redis: Redis,
}

impl Scene {
    /// `rest` is what the config says beside its provider `redis`.
    fn new(rest: &str) -> Scene {
        let options = RedisOptions { durability: Durability::EverySecond, ..RedisOptions::default() };
        let (place, redis) = (Place::new(), Redis::start(options));
        let config = format!(
            "stats_port = \"off\"\n[[providers]]\nredis = {{ port = {}, lease = \"2s\" }}\n{rest}",
            redis.port()
        );
        place.write("ganger.toml", config);
        Scene { place, redis }
    }

    fn run(&self) -> Running {
        self.place.start(&["run", "-c", "ganger.toml"])
    }

    fn cli(&self, args: &[&str]) -> String {
        let mut command = self.place.command("redis-cli");
        command.args(["-p", &self.redis.port().to_string()]).args(args);
        self.place.finish(&mut command).ok().stdout.trim().to_owned()
    }

    /// How many jobs wait or are leased.
    fn left(&self) -> usize {
        let number = |args: &[&str]| self.cli(args).parse::<usize>().unwrap();
        number(&["LLEN", "job_list"])
            + number(&["LLEN", "ganger:{job_list}:lane:http"])
            + number(&["HLEN", "ganger:{job_list}:claims"])
    }
}

/// How often each path was asked for.
fn asked(server: &Server) -> BTreeMap<String, usize> {
    let mut runs = BTreeMap::new();
    for request in server.requests() {
        let path = request.split(' ').nth(1).unwrap_or_default().to_owned();
        *runs.entry(path).or_default() += 1;
    }
    runs
}

#[test]
fn jobs_pushed_enqueued_posted_and_forwarded_are_done_and_can_be_asked_about() {
    let door = free_port();
    let scene = Scene::new(&format!(
        "[[providers]]\ndisk = {{ db_name = \"jobs.db\" }}\n\
         [[providers]]\nhttp = {{ listen_on = \"127.0.0.1:{door}\", into = \"redis\", accept = [\"cli\"] }}\n\
         [[workers]]\ncli = {{ workers = 2 }}\n[[workers]]\nforward = {{ to = \"redis\" }}\n",
    ));
    let place = &scene.place;
    let job = |file: &str| format!(r#"{{"type":"cli","params":{{"command":"touch","params":["{file}"]}}}}"#);
    let running = scene.run();
    eventually("word that it works", || running.stderr().contains("ganger works").then_some(()));

    scene.cli(&["RPUSH", "job_list", &job("pushed"), "no job"]);
    let forwarded = format!(r#"{{"job":{}}}"#, job("forwarded"));
    place.ganger(&["enqueue", "-c", "ganger.toml", "--to", "disk", "forward", &forwarded]).ok();
    let waited = ["enqueue", "-c", "ganger.toml", "--to", "redis", "--wait", "cli", "--", "echo", "hello"];
    assert!(place.ganger(&waited).ok().stdout.contains("hello"));
    let posted = post(door, "/job/add", r#"{"type":"cli","params":{"command":"echo","params":["posted"]}}"#);
    let posted = posted.unwrap();
    assert_eq!((posted.status, posted.text().trim()), (200, "posted"), "{posted:?}");
    for file in ["pushed", "forwarded"] {
        eventually(file, || place.file(file).exists().then_some(()));
    }

    let of_redis = |args: &[&str]| {
        place.ganger(&[args, &["-c", "ganger.toml", "--provider", "redis", "--json"]].concat()).ok()
    };
    let dead = eventually("the dead letter", || {
        let dead = of_redis(&["dead", "ls"]).json_lines();
        (dead.len() == 1).then_some(dead)
    });
    assert!(dead[0].to_string().contains("malformed"), "{dead:?}");
    let later =
        ["enqueue", "-c", "ganger.toml", "--to", "redis", "--id", "later", "--in", "1h", "cli", "--", "true"];
    place.ganger(&later).ok();
    assert_eq!(of_redis(&["job", "show", "later"]).json()["state"], "scheduled");
    of_redis(&["job", "cancel", "later"]);
    assert_eq!(of_redis(&["job", "show", "later"]).json()["state"], "cancelled");
    running.terminate();
    running.finish().ok();
}

#[test]
fn run_once_does_what_producers_pushed() {
    let scene = Scene::new("[[workers]]\ncli = { workers = 2 }\n");
    for round in 0..4 {
        let job =
            |n: u32| format!(r#"{{"type":"cli","params":{{"command":"touch","params":["{round}-{n}"]}}}}"#);
        scene.cli(&["RPUSH", "job_list", &job(0), &job(1), &job(2)]);
        let ran = scene.place.ganger(&["run", "--once", "-c", "ganger.toml"]).ok();
        assert!(!ran.stdout.contains("nothing to do"), "{}", ran.stdout);
        assert!((0..3).all(|n| scene.place.file(&format!("{round}-{n}")).exists()), "{}", ran.stdout);
    }
}

/// Three managers, of which one is killed every little while and another comes in its place.
#[test]
fn p1_managers_killed_at_random_lose_nothing_of_20_000_jobs() {
    const JOBS: usize = 20_000;
    let scene = Scene::new("[[workers]]\nhttp = { workers = 20 }\n");
    let server = Server::start(|_| (200, String::new()));
    let lines: String = (0..JOBS)
        .map(|n| {
            format!("{{\"type\":\"http\",\"params\":{{\"url\":\"{}\"}}}}\n", server.url(&format!("/{n}")))
        })
        .collect();
    scene.place.ganger_fed(&["enqueue", "-c", "ganger.toml", "--to", "redis"], &lines).ok();
    let mut crew: Vec<Running> = (0..3).map(|_| scene.run()).collect();
    let mut kills = 0;
    for goal in (1..JOBS / 1_500).map(|n| n * 1_500) {
        eventually("progress", || (server.count() >= goal).then_some(()));
        let mut killed = crew.remove(kills * 7 % 3);
        killed.kill();
        crew.push(scene.run());
        kills += 1;
    }
    eventually("the end of all jobs", || (scene.left() == 0).then_some(()));
    let runs = asked(&server);
    assert_eq!(runs.len(), JOBS, "every job ran");
    let dead = scene.place.ganger(&["dead", "ls", "-c", "ganger.toml", "--json"]).ok();
    assert_eq!(dead.json_lines().len(), 0, "{}", dead.stdout);
    // P2: a run more for each kill that may have hit it.
    let most = runs.values().max().copied().unwrap_or(0);
    assert!(most <= 1 + kills, "a job ran {most} times with {kills} kills");
    for running in &crew {
        running.terminate();
    }
    crew.into_iter().for_each(|running| drop(running.finish().ok()));
}
