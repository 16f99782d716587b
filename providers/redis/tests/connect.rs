//! Ways to a server: TLS, users, databases, sockets; and what is said where one does not work.
// Code of tests: a panic is how it speaks.
#![allow(clippy::unwrap_used)]

mod support;

use std::{path::PathBuf, sync::Arc, time::Duration};

use ganger_conformance::soon;
use ganger_core::{Batch, DynProvider, Exchange, Job, ProviderError, Severity, Token};
use ganger_testkit::server::{Durability, Redis, RedisOptions, RedisTls};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};
use redis::cmd;
use serde_json::{Value, json};
use support::{LIST, crew::any, durable, open_with};
use tempfile::TempDir;

const JOB: &str = r#"{"type":"test","name":"a"}"#;

/// Runs a command on the server's socket, whatever its port asks for.
fn run(redis: &Redis, query: &str, command: &redis::Cmd) -> redis::Value {
    let client = redis::Client::open(format!("unix://{}?{query}", redis.socket().display())).unwrap();
    command.query(&mut client.get_connection().unwrap()).unwrap()
}

/// Opens the store that these options lead to, of the tests' list.
async fn reach(mut options: Value) -> Result<Arc<dyn DynProvider>, ProviderError> {
    options["job_list"] = json!(LIST);
    soon("the opening of a store", open_with(options, 7)).await
}

async fn fault(options: Value) -> ProviderError {
    reach(options).await.err().expect("it cannot be opened so")
}

/// A job is put in, waited for, and claimed: all of a provider's connections work.
async fn works(provider: Arc<dyn DynProvider>) {
    let waiting = async { soon("a wait's end", provider.wait(&any(1))).await.unwrap() };
    let sink = provider.sink().unwrap();
    let storing = async {
        let batch = Batch::new(vec![Job::from_json(JOB.as_bytes()).unwrap()]);
        soon("storing", sink.enqueue(batch)).await.unwrap()
    };
    tokio::join!(waiting, storing);
    assert_eq!(claim(&*provider).await, 1);
}

async fn claim(provider: &dyn DynProvider) -> usize {
    let token = Token { incarnation: 7, seq: 1 };
    let give = Exchange { token, settle: Vec::new(), room: any(9), lease: Duration::from_secs(60) };
    soon("an exchange", provider.exchange(&give)).await.unwrap().leased.len()
}

/// An authority of a test's own, and what it vouches for, as files.
struct Authority {
    folder: TempDir,
    issuer: CertifiedIssuer<'static, KeyPair>,
}

impl Authority {
    fn new() -> Authority {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.distinguished_name.push(DnType::CommonName, "an authority of the tests");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        let authority = Authority { folder: tempfile::tempdir().unwrap(), issuer };
        std::fs::write(authority.file("ca"), authority.issuer.pem()).unwrap();
        authority
    }

    fn file(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// A certificate for a name or address, and its key.
    fn vouch(&self, name: &str) -> (PathBuf, PathBuf) {
        let key = KeyPair::generate().unwrap();
        let params = CertificateParams::new(vec![name.to_owned()]).unwrap();
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        let files = (self.file(&format!("{name}.crt")), self.file(&format!("{name}.key")));
        std::fs::write(&files.0, certificate.pem()).unwrap();
        std::fs::write(&files.1, key.serialize_pem()).unwrap();
        files
    }

    fn server(&self, name: &str, asks: bool) -> Redis {
        let (certificate, key) = self.vouch(name);
        let tls = RedisTls { certificate, key, clients: asks.then(|| self.file("ca")) };
        Redis::start(RedisOptions { tls: Some(tls), ..RedisOptions::default() })
    }
}

#[test]
fn tls_works_with_an_authority_of_ones_own() {
    ganger_conformance::run(async {
        let authority = Authority::new();
        let redis = authority.server("127.0.0.1", false);
        works(reach(json!({"url": redis.url(), "ca_file": authority.file("ca")})).await.unwrap()).await;
    });
}

#[test]
fn a_server_that_nobody_vouches_for_is_a_fatal_error_that_names_the_option() {
    ganger_conformance::run(async {
        let (authority, other) = (Authority::new(), Authority::new());
        let redis = authority.server("127.0.0.1", false);
        for options in [json!({"url": redis.url()}), json!({"url": redis.url(), "ca_file": other.file("ca")})]
        {
            let error = fault(options).await;
            assert_eq!(error.severity(), Severity::Fatal, "{error}");
            assert!(error.to_string().contains("`ca_file`"), "{error}");
        }
        let elsewhere = authority.server("elsewhere.example", false);
        let error = fault(json!({"url": elsewhere.url(), "ca_file": authority.file("ca")})).await;
        assert_eq!(error.severity(), Severity::Fatal, "{error}");
        assert!(error.to_string().contains("elsewhere.example"), "{error}");
    });
}

#[test]
fn a_server_that_asks_for_a_certificate_is_shown_one() {
    ganger_conformance::run(async {
        let authority = Authority::new();
        let redis = authority.server("127.0.0.1", true);
        let (certificate, key) = authority.vouch("client");
        let mut options = json!({"url": redis.url(), "ca_file": authority.file("ca")});
        let error = fault(options.clone()).await;
        assert_eq!(error.severity(), Severity::Fatal, "{error}");
        assert!(error.to_string().contains("`cert_file`"), "{error}");
        let other = Authority::new();
        let strange = other.vouch("client");
        (options["cert_file"], options["key_file"]) = (json!(strange.0), json!(strange.1));
        let error = fault(options.clone()).await;
        assert_eq!(error.severity(), Severity::Fatal, "{error}");
        assert!(error.to_string().contains("`cert_file`"), "{error}");
        (options["cert_file"], options["key_file"]) = (json!(certificate), json!(key));
        works(reach(options).await.unwrap()).await;
    });
}

#[test]
fn tls_at_a_port_that_speaks_none_says_what_is_likely_wrong() {
    ganger_conformance::run(async {
        let plain = Redis::start(RedisOptions::default());
        let error = fault(json!({"url": format!("rediss://{}", plain.address())})).await;
        assert_eq!(error.severity(), Severity::Transient, "it may be out of reach: {error}");
        assert!(error.to_string().contains("`redis://`"), "{error}");
    });
}

#[test]
fn a_user_with_rights_on_the_lists_and_on_gangers_keys_alone_works_in_a_database_of_its_own() {
    ganger_conformance::run(async {
        let redis = durable();
        let mut user = cmd("ACL");
        user.arg("SETUSER").arg("worker").arg("on").arg(">canary").arg("~jobs").arg("~ganger:*");
        user.arg("resetchannels").arg("&ganger:*").arg("+@all").arg("-@dangerous").arg("+info");
        run(&redis, "", &user);
        let url = |user: &str| format!("redis://{user}@{}/2", redis.address());
        run(&redis, "db=2", cmd("RPUSH").arg(LIST).arg(JOB));
        let provider = reach(json!({"url": url("worker:canary")})).await.unwrap();
        assert_eq!(claim(&*provider).await, 1);
        assert_eq!(claim(&*reach(json!({"url": redis.url()})).await.unwrap()).await, 0, "that is database 0");
        for wrong in ["worker:cannery", "walker:canary"] {
            let error = fault(json!({"url": url(wrong)})).await;
            assert_eq!(error.severity(), Severity::Fatal, "{error}");
            let said = format!("{error} {error:?}");
            assert!(
                said.contains("password") && !said.contains("cann") && !said.contains("canary"),
                "{said}"
            );
        }
        run(&redis, "", cmd("ACL").arg("SETUSER").arg("worker").arg("-info"));
        let error = fault(json!({"url": url("worker:canary")})).await;
        assert_eq!(error.severity(), Severity::Fatal, "{error}");
        assert!(error.to_string().contains("the commands that"), "{error}");
    });
}

#[test]
fn a_socket_with_a_password_and_a_database_works() {
    ganger_conformance::run(async {
        let redis = Redis::start(RedisOptions { password: Some("canary".into()), ..RedisOptions::default() });
        let url = |query: &str| format!("unix://{}?{query}", redis.socket().display());
        works(reach(json!({"url": url("db=3&pass=canary")})).await.unwrap()).await;
        let keys = run(&redis, "db=3&pass=canary", &cmd("DBSIZE"));
        assert!(matches!(keys, redis::Value::Int(1..)), "{keys:?}");
        let error = fault(json!({"url": url("db=3&pass=cannery")})).await;
        assert_eq!(error.severity(), Severity::Fatal, "{error}");
        assert!(!format!("{error} {error:?}").contains("cannery"), "{error}");
    });
}

/// Whether the server that is installed tells when something is on its disk.
fn tells_synced(redis: &Redis) -> bool {
    let info: String = redis::from_redis_value(run(redis, "", cmd("INFO").arg("server"))).unwrap();
    let version = info.lines().find_map(|line| line.strip_prefix("redis_version:")).unwrap();
    let mut parts = version.trim().split('.').map(|part| part.parse::<u32>().unwrap());
    (parts.next().unwrap(), parts.next().unwrap()) >= (7, 2)
}

#[test]
fn a_job_is_acknowledged_once_it_is_on_disk_where_the_server_tells_and_refused_by_name_where_not() {
    ganger_conformance::run(async {
        let log =
            Redis::start(RedisOptions { durability: Durability::EverySecond, ..RedisOptions::default() });
        let opened = reach(json!({"url": log.url(), "synced": true})).await;
        if !tells_synced(&log) {
            let error = opened.err().unwrap();
            assert_eq!(error.severity(), Severity::Fatal, "{error}");
            let said = error.to_string();
            assert!(
                said.contains("`synced`") && said.contains("7.2") && said.contains("appendfsync"),
                "{said}"
            );
            return;
        }
        works(opened.unwrap()).await;
        let none = Redis::start(RedisOptions::default());
        let error = fault(json!({"url": none.url(), "synced": true})).await;
        assert_eq!(error.severity(), Severity::Fatal, "{error}");
        assert!(error.to_string().contains("appendonly yes"), "{error}");
    });
}
