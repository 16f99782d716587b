//! The servers that tests start: they come up, obey, and end with their value.
#![allow(clippy::unwrap_used)]

use std::{
    io::{BufRead, BufReader, ErrorKind, Read, Write},
    net::TcpStream,
    os::unix::net::UnixStream,
    panic::catch_unwind,
    path::Path,
    time::Duration,
};

use ganger_testkit::server::{Durability, Nginx, Redis, RedisOptions};

const PATIENCE: Duration = Duration::from_secs(20);

fn connect(redis: &Redis) -> BufReader<TcpStream> {
    let stream = TcpStream::connect(redis.address()).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    BufReader::new(stream)
}

/// Sends a command as a person would type it, and reads the first line of the answer.
fn ask(redis: &Redis, command: &str) -> String {
    say(&mut connect(redis), command)
}

fn say(connection: &mut BufReader<TcpStream>, command: &str) -> String {
    connection.get_mut().write_all(format!("{command}\r\n").as_bytes()).unwrap();
    let mut line = String::new();
    connection.read_line(&mut line).unwrap();
    line.trim_end().to_owned()
}

fn is_running(pid: u32) -> bool {
    Path::new(&format!("/proc/{pid}")).exists()
}

#[test]
fn a_redis_is_ready_when_start_returns() {
    let redis = Redis::start(RedisOptions::default());
    assert_eq!(ask(&redis, "PING"), "+PONG");
    let mut socket = UnixStream::connect(redis.socket()).unwrap();
    socket.write_all(b"PING\r\n").unwrap();
    let mut answer = [0; 7];
    socket.read_exact(&mut answer).unwrap();
    assert_eq!(&answer, b"+PONG\r\n");
    assert_eq!(redis.url(), format!("redis://127.0.0.1:{}", redis.port()));
}

#[test]
fn a_redis_with_a_password_asks_for_it() {
    let redis = Redis::start(RedisOptions { password: Some("hush".into()), ..RedisOptions::default() });
    assert!(ask(&redis, "PING").starts_with("-NOAUTH"));
    let mut connection = connect(&redis);
    assert_eq!(say(&mut connection, "AUTH hush"), "+OK");
    assert_eq!(say(&mut connection, "PING"), "+PONG");
    assert!(redis.url().starts_with("redis://:hush@127.0.0.1:"));
}

#[test]
fn a_redis_over_its_memory_refuses_writes() {
    let redis = Redis::start(RedisOptions { memory_max: Some(1), ..RedisOptions::default() });
    assert!(ask(&redis, "SET a b").starts_with("-OOM"));
}

#[test]
fn further_settings_are_taken_and_wrong_ones_are_an_error_with_what_it_said() {
    let with = |name: &str, value: &str| RedisOptions {
        settings: vec![(name.into(), value.into())],
        ..RedisOptions::default()
    };
    let redis = Redis::start(with("databases", "1"));
    assert!(ask(&redis, "SELECT 1").starts_with("-ERR"));
    let panic = catch_unwind(|| Redis::start(with("databases", "none"))).unwrap_err();
    let message = panic.downcast_ref::<String>().unwrap();
    assert!(message.contains("redis-server ended at once") && message.contains("databases"), "{message}");
}

#[test]
fn a_redis_that_keeps_nothing_comes_back_empty_on_the_same_port() {
    let mut redis = Redis::start(RedisOptions::default());
    assert_eq!(ask(&redis, "SET a b"), "+OK");
    let (address, pid) = (redis.address(), redis.pid());
    redis.kill();
    assert!(!is_running(pid));
    assert_eq!(TcpStream::connect(address).unwrap_err().kind(), ErrorKind::ConnectionRefused);
    redis.restart();
    assert_eq!(redis.address(), address);
    assert_eq!(ask(&redis, "GET a"), "$-1");
}

#[test]
fn a_redis_that_keeps_every_write_has_it_after_a_crash_and_after_a_stop() {
    let mut redis = Redis::start(RedisOptions { durability: Durability::Always, ..RedisOptions::default() });
    assert_eq!(ask(&redis, "SET a b"), "+OK");
    redis.kill();
    redis.restart();
    assert_eq!(ask(&redis, "GET a"), "$1");
    assert_eq!(ask(&redis, "SET c d"), "+OK");
    redis.stop();
    redis.restart();
    assert_eq!(ask(&redis, "GET c"), "$1");
    redis.restart();
    assert_eq!(ask(&redis, "GET c"), "$1", "a running one is killed and started again");
}

#[test]
fn a_frozen_redis_answers_once_it_is_thawed() {
    let redis = Redis::start(RedisOptions::default());
    let mut connection = connect(&redis);
    assert_eq!(say(&mut connection, "PING"), "+PONG");
    redis.freeze();
    connection.get_mut().write_all(b"PING\r\n").unwrap();
    connection.get_ref().set_read_timeout(Some(Duration::from_millis(50))).unwrap();
    let mut answer = [0; 7];
    let silence = connection.read_exact(&mut answer).unwrap_err();
    assert!(matches!(silence.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut), "{silence}");
    redis.thaw();
    connection.get_ref().set_read_timeout(Some(PATIENCE)).unwrap();
    connection.read_exact(&mut answer).unwrap();
    assert_eq!(&answer, b"+PONG\r\n");
}

#[test]
fn the_processor_time_of_a_redis_grows_with_its_work() {
    let redis = Redis::start(RedisOptions::default());
    let before = redis.cpu_time();
    let mut connection = connect(&redis);
    // Bounded: each round is some milliseconds of work.
    let mut rounds = 0..1000;
    while redis.cpu_time() < before + Duration::from_millis(30) {
        rounds.next().expect("a thousand rounds of work cost processor time");
        assert_eq!(say(&mut connection, "EVAL \"for i = 1, 100000 do end\" 0"), "$-1");
    }
}

#[test]
fn servers_end_with_their_test_also_when_it_panics_and_when_frozen() {
    let mut pid = 0;
    let pid_of = std::panic::AssertUnwindSafe(&mut pid);
    let panic = catch_unwind(move || {
        let redis = Redis::start(RedisOptions::default());
        redis.freeze();
        let pid_of = pid_of;
        *pid_of.0 = redis.pid();
        panic!("a failing test");
    });
    assert!(panic.is_err() && pid > 0);
    assert!(!is_running(pid));
}

#[test]
fn an_nginx_answers_as_its_locations_say() {
    let nginx = Nginx::start(r#"location /teapot { return 418 "short\n"; }"#);
    let mut stream = TcpStream::connect(nginx.address()).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.write_all(b"GET /teapot HTTP/1.0\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 418 ") && answer.ends_with("\r\n\r\nshort\n"), "{answer}");
    assert_eq!(nginx.url("/teapot"), format!("http://{}/teapot", nginx.address()));
}
