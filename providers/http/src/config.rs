//! The options of an `http` intake in the config.

use std::net::SocketAddr;

use ganger_core::{ByteSize, JOB_BYTES_MAX, OUTPUT_MAX, Period, Secret};
use schemars::JsonSchema;
use serde::{Deserialize, Deserializer};

/// Options of an `http` intake.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
// `remote` names what is derived, so that reading it by `Deserialize` can check it as well.
#[serde(default, deny_unknown_fields, remote = "Self")]
pub struct HttpIntakeConfig {
    /// The address and port to listen on. A port alone (`:8081`) listens on 127.0.0.1; port 0 takes a free one.
    pub listen_on: String,
    /// The path that jobs are posted to; `{endpoint}/{id}` tells a job's state.
    pub endpoint: String,
    /// Types that are taken although this config has no worker for them, or although their worker runs commands.
    pub accept: Vec<String>,
    /// What clients must send as `Authorization: Bearer …`. Needed to listen on more than this machine.
    pub token: Option<Secret>,
    /// Host names under which browsers and proxies may reach it, beside those of this machine.
    pub hosts: Vec<String>,
    /// The methods that post a job.
    pub methods: Vec<String>,
    /// The longest wait for a job's end; then the answer is 202 and where to ask.
    pub wait: Period,
    /// The largest job.
    pub max_job: ByteSize,
    /// The largest request.
    pub max_body: ByteSize,
    /// The most jobs in a request.
    pub max_jobs: u32,
    /// The most connections at once.
    pub max_connections: u32,
    /// The most requests that wait for their jobs at once.
    pub max_waiting: u32,
    /// The longest time until a request's head is there, from the connection or, in a later one, its first byte.
    pub header_timeout: Period,
    /// The longest time that a connection stays open without a request, from the answer before.
    pub idle_timeout: Period,
    /// The longest time for a request's body to come, and for a client to take the next piece of its answer.
    pub body_timeout: Period,
    /// How much of a job's output is answered; the head and the tail of a longer one.
    pub output_max: ByteSize,
}

impl<'de> Deserialize<'de> for HttpIntakeConfig {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let config = HttpIntakeConfig::deserialize(deserializer)?;
        // A name is looked up when it is bound.
        let address = config.listen_on.trim().parse::<SocketAddr>().ok();
        match address.and_then(|address| config.needs_token(&address)) {
            Some(why) => Err(serde::de::Error::custom(why)),
            None => Ok(config),
        }
    }
}

impl HttpIntakeConfig {
    /// Why it may not listen there, if it may not: off this machine only with a token.
    pub(crate) fn needs_token(&self, address: &SocketAddr) -> Option<String> {
        let open = !address.ip().to_canonical().is_loopback() && self.token.is_none();
        open.then(|| {
            format!(
                "it would take jobs from every machine that reaches {address}, whoever sends them: set `token` \
                 (`token = \"${{file:/run/secrets/ganger}}\"`), or listen on 127.0.0.1"
            )
        })
    }
}

impl Default for HttpIntakeConfig {
    fn default() -> Self {
        HttpIntakeConfig {
            listen_on: "127.0.0.1:8081".to_owned(),
            endpoint: "/job/add".to_owned(),
            accept: Vec::new(),
            token: None,
            hosts: Vec::new(),
            methods: vec!["POST".to_owned(), "PUT".to_owned()],
            wait: Period::secs(300),
            max_job: ByteSize::new(JOB_BYTES_MAX as u64),
            max_body: ByteSize::new(8 << 20),
            max_jobs: 10_000,
            max_connections: 1_024,
            max_waiting: 1_000,
            header_timeout: Period::secs(30),
            idle_timeout: Period::secs(60),
            body_timeout: Period::secs(30),
            output_max: ByteSize::new(OUTPUT_MAX as u64),
        }
    }
}
