//! The options of an `http` worker in the config.

use std::path::PathBuf;

use ganger_core::{ByteSize, OUTPUT_MAX, Period, Secret};
use hyper::header::HeaderValue;
use schemars::JsonSchema;
use serde::{Deserialize, Deserializer};

use crate::{Statuses, client::Proxy, guard::Guard};

/// Options of an `http` worker.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
// `remote` names what is derived, so that reading it by `Deserialize` can check it as well.
#[serde(default, deny_unknown_fields, remote = "Self")]
pub struct HttpConfig {
    /// Refuse private and other special addresses (loopback, link-local, the cloud's metadata service): for jobs
    /// that come from people who are not trusted with this machine's network.
    pub guard: bool,
    /// What the guard lets through all the same: networks (`10.1.0.0/16`), addresses, host names.
    pub allow: Vec<String>,
    /// How many redirects are followed; 0 takes a redirect as the answer.
    pub redirects: u32,
    /// Statuses that are worth a retry. All others that a job does not expect make it dead at once.
    pub retry_on: Statuses,
    /// The longest wait that a server may ask for with `Retry-After`.
    pub retry_after_max: Period,
    /// The longest wait for a connection.
    pub connect_timeout: Period,
    /// The longest request, from its start to the last byte of the answer, for jobs and entries without a
    /// `timeout`.
    pub request_timeout: Period,
    /// How much of an answer is kept; the head and the tail of a longer one.
    pub output_max: ByteSize,
    /// A proxy for all requests, like `http://proxy.example:3128`. Proxies in the environment are not used.
    pub proxy: Option<Secret>,
    /// A file of certificates (PEM) that are trusted beside the system's.
    pub ca_file: Option<PathBuf>,
    /// The `User-Agent` of requests that do not bring their own.
    pub user_agent: String,
    /// What becomes of a job with a param that is not known: `refuse` makes it dead, `ignore` runs it.
    pub unknown_params: UnknownParams,
}

impl<'de> Deserialize<'de> for HttpConfig {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let config = HttpConfig::deserialize(deserializer)?;
        config.fault().map_or(Ok(config), |why| Err(serde::de::Error::custom(why)))
    }
}

impl HttpConfig {
    /// What of it cannot work, as far as it shows without opening anything.
    pub(crate) fn fault(&self) -> Option<String> {
        if !self.allow.is_empty() && !self.guard {
            return Some("`allow` has no effect without `guard = true`".to_owned());
        }
        if self.guard && self.proxy.is_some() {
            let why = "`guard` and `proxy` exclude each other: the proxy connects, so only it can check the address";
            return Some(why.to_owned());
        }
        if HeaderValue::from_str(&self.user_agent).is_err() {
            return Some("`user_agent` has a line break or control character in it".to_owned());
        }
        let proxy = self.proxy.as_ref().and_then(|proxy| Proxy::new(proxy.reveal()).err());
        proxy.or_else(|| Guard::new(&self.allow).err())
    }
}

/// What becomes of a job with a param that is not known.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum UnknownParams {
    /// It is dead, with the param's name in the error.
    #[default]
    Refuse,
    /// It runs as if the param were not there.
    Ignore,
}

impl Default for HttpConfig {
    fn default() -> Self {
        let timeouts = Statuses::range(408, 408).and(Statuses::range(425, 425));
        HttpConfig {
            guard: false,
            allow: Vec::new(),
            redirects: 5,
            retry_on: timeouts.and(Statuses::range(429, 429)).and(Statuses::range(500, 599)),
            retry_after_max: Period::secs(3600),
            connect_timeout: Period::secs(10),
            request_timeout: Period::secs(300),
            output_max: ByteSize::new(OUTPUT_MAX as u64),
            proxy: None,
            ca_file: None,
            user_agent: concat!("ganger/", env!("CARGO_PKG_VERSION")).to_owned(),
            unknown_params: UnknownParams::default(),
        }
    }
}
