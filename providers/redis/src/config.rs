//! Options of the redis provider.

use std::path::PathBuf;

use ganger_core::{ByteSize, ProviderError, Secret};
use redis::{
    Client, ClientTlsConfig, ConnectionAddr, ConnectionInfo, IntoConnectionInfo, RedisConnectionInfo,
    TlsCertificates,
};
use schemars::JsonSchema;
use serde::{Deserialize, Deserializer, Serialize};

use crate::overflow::Overflow;

/// Options of the redis provider.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields, remote = "Self")]
pub struct RedisConfig {
    /// Where Redis is: `redis://[USER[:PASSWORD]@]HOST[:PORT][/DATABASE]`, `rediss://…` with TLS, or
    /// `unix:///PATH[?db=DATABASE]`. Instead of `host` and `port`.
    pub url: Option<Secret>,
    /// The host that Redis runs on.
    pub host: String,
    /// The port that Redis listens on, as a number or a text.
    #[serde(deserialize_with = "port")]
    #[schemars(with = "PortText")]
    pub port: u16,
    /// The list that producers push their jobs on; or several, read in this order; or several with weights,
    /// `[{ list = "urgent", weight = 3 }, { list = "bulk", weight = 1 }]`, of which one with weight 3 comes first
    /// three times as often as one with weight 1.
    pub job_list: Lists,
    /// A job that is put in through ganger is acknowledged once so many replicas have it (`WAIT`); 0 does not wait.
    /// Where they do not within 2 s, it is not acknowledged, though it may be stored.
    pub replicas: u32,
    /// A job that is put in through ganger is acknowledged once Redis has synced it to its disk (`WAITAOF`, Redis 7.2 or
    /// newer with `appendonly yes`), and so many `replicas` to theirs. Where they do not within 2 s, it is not
    /// acknowledged, though it may be stored.
    pub synced: bool,
    /// With a `rediss://` URL: a PEM file of the authorities that may vouch for the server, in place of the system's.
    pub ca_file: Option<PathBuf>,
    /// With a `rediss://` URL: a PEM file of the certificate that ganger shows the server; goes with `key_file`.
    pub cert_file: Option<PathBuf>,
    /// The PEM file of that certificate's key.
    pub key_file: Option<PathBuf>,
    /// Moves the tail of the lists to a file of this machine while Redis uses more memory than `memory_limit`, and
    /// back when it uses less.
    pub dump_on_limit: bool,
    /// The memory (`used_memory` of `INFO`) over which `dump_on_limit` moves jobs: `512MiB`, `2G`. Below seven eighths
    /// of it they come back. Without `dump_on_limit` it has no effect.
    #[serde(deserialize_with = "limit")]
    #[schemars(with = "Option<ByteSize>")]
    pub memory_limit: Option<ByteSize>,
    /// The file that `dump_on_limit` moves jobs to. It is made when it is needed first, its folder is not. Relative to
    /// the folder that ganger is started in.
    pub dump_to: PathBuf,
}

impl<'de> Deserialize<'de> for RedisConfig {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let config = RedisConfig::deserialize(deserializer)?;
        config.fault().map_or(Ok(config), |why| Err(serde::de::Error::custom(why)))
    }
}

impl Default for RedisConfig {
    fn default() -> Self {
        RedisConfig {
            url: None,
            host: "localhost".into(),
            port: 6379,
            job_list: Lists::One("job_list".into()),
            replicas: 0,
            synced: false,
            ca_file: None,
            cert_file: None,
            key_file: None,
            dump_on_limit: false,
            memory_limit: None,
            dump_to: "ganger-dump.db".into(),
        }
    }
}

/// A port, as GoWorker's configs write it (a text) or as a number.
#[derive(Deserialize, JsonSchema)]
#[serde(untagged)]
#[expect(dead_code, reason = "it is the schema of what `port` reads")]
enum PortText {
    Number(u16),
    Text(String),
}

fn port<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u16, D::Error> {
    struct Port;
    impl serde::de::Visitor<'_> for Port {
        type Value = u16;
        fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            f.write_str("a port, 1 to 65535")
        }
        fn visit_u64<E: serde::de::Error>(self, port: u64) -> Result<u16, E> {
            u16::try_from(port).ok().filter(|port| *port > 0).ok_or_else(|| E::custom("a port is 1 to 65535"))
        }
        fn visit_i64<E: serde::de::Error>(self, port: i64) -> Result<u16, E> {
            self.visit_u64(u64::try_from(port).unwrap_or(0))
        }
        fn visit_str<E: serde::de::Error>(self, port: &str) -> Result<u16, E> {
            self.visit_u64(port.trim().parse().unwrap_or(0))
        }
    }
    deserializer.deserialize_any(Port)
}

/// A size, as GoWorker's configs write it too: `2G` is 2 GiB, `2g` 2,000,000,000 bytes, an empty text none.
fn limit<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<ByteSize>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Limit {
        Bytes(u64),
        Text(String),
    }
    let text = match Option::<Limit>::deserialize(deserializer)? {
        None => return Ok(None),
        Some(Limit::Bytes(bytes)) => return Ok(Some(ByteSize::new(bytes))),
        Some(Limit::Text(text)) if text.trim().is_empty() => return Ok(None),
        Some(Limit::Text(text)) => text,
    };
    let by_thousands = match text.trim().strip_suffix(['k', 'm', 'g']) {
        Some(number) => {
            format!("{number}{}B", &text.trim()[number.len()..].replace('m', "M").replace('g', "G"))
        }
        None => text,
    };
    by_thousands.parse().map(Some).map_err(serde::de::Error::custom)
}

/// The producers' lists.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(untagged)]
pub enum Lists {
    /// One list.
    One(String),
    /// Several, the first one first.
    Strict(Vec<String>),
    /// Several, by turns according to their weights.
    Weighted(Vec<WeightedList>),
}

/// One of several lists that are read by turns.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct WeightedList {
    /// The list's name.
    pub list: String,
    /// How often it comes first, beside the others.
    pub weight: u32,
}

impl RedisConfig {
    /// The lists' names, in order.
    pub(crate) fn lists(&self) -> Vec<String> {
        match &self.job_list {
            Lists::One(name) => vec![name.clone()],
            Lists::Strict(names) => names.clone(),
            Lists::Weighted(lists) => lists.iter().map(|one| one.list.clone()).collect(),
        }
    }

    /// Their weights, where they have some.
    pub(crate) fn weights(&self) -> Option<Vec<u32>> {
        match &self.job_list {
            Lists::Weighted(lists) => Some(lists.iter().map(|one| one.weight).collect()),
            _ => None,
        }
    }

    /// What is wrong with it.
    pub(crate) fn fault(&self) -> Option<String> {
        let lists = self.lists();
        let mut seen = std::collections::HashSet::new();
        if lists.is_empty() || lists.iter().any(String::is_empty) {
            return Some("option `job_list`: the name of a list is expected".into());
        }
        if let Some(twice) = lists.iter().find(|name| !seen.insert(name.as_str())) {
            return Some(format!("option `job_list`: `{twice}` is named twice"));
        }
        if self.weights().is_some_and(|weights| weights.contains(&0)) {
            return Some(
                "option `job_list`: a weight is at least 1; leave a list out that is not to be read".into(),
            );
        }
        if self.cert_file.is_some() != self.key_file.is_some() {
            return Some("options `cert_file` and `key_file`: one needs the other".into());
        }
        if self.dump_on_limit && self.memory_limit.is_none() {
            return Some("option `dump_on_limit`: it needs `memory_limit`, somewhat below Redis's `maxmemory`: \"1GiB\"".into());
        }
        let info = match self.connection() {
            Ok(info) => info,
            // What could not be read may be a password: the reason alone is told.
            Err(error) => {
                return Some(format!(
                    "option `url`: {error}: expected redis://[USER[:PASSWORD]@]HOST[:PORT][/DATABASE], rediss:// or unix://"
                ));
            }
        };
        let files = [&self.ca_file, &self.cert_file, &self.key_file];
        let plain = !matches!(info.addr(), ConnectionAddr::TcpTls { .. });
        (plain && files.iter().any(|file| file.is_some()))
            .then(|| "options `ca_file`, `cert_file` and `key_file` go with a `rediss://` URL only".into())
    }

    fn connection(&self) -> redis::RedisResult<ConnectionInfo> {
        match &self.url {
            Some(url) => url.reveal().into_connection_info(),
            None => ConnectionAddr::Tcp(self.host.clone(), self.port)
                .into_connection_info()
                .map(|info| info.set_redis_settings(RedisConnectionInfo::default())),
        }
    }

    /// What moves jobs to disk, where that is asked for; for keys that begin so, at the server that `client` leads to.
    pub(crate) fn overflow(&self, client: &Client, prefix: &str) -> Option<Overflow> {
        let limit = self.memory_limit.filter(|_| self.dump_on_limit)?;
        let info = client.get_connection_info();
        let of = format!("{} database {} {prefix}", info.addr(), info.redis_settings().db());
        Some(Overflow::new(limit.get(), self.dump_to.clone(), of))
    }

    /// A client, not yet connected.
    ///
    /// # Errors
    /// The options name no server, or a file that cannot be used.
    pub(crate) fn client(&self) -> Result<Client, ProviderError> {
        let unusable = |error| ProviderError::fatal("redis: the options name no server").because(error);
        let info = named(self.connection().map_err(unusable)?);
        if !matches!(info.addr(), ConnectionAddr::TcpTls { .. }) {
            return Client::open(info).map_err(unusable);
        }
        // One that the program has chosen already stays.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let client_tls = match (pem(&self.cert_file, "cert_file")?, pem(&self.key_file, "key_file")?) {
            (Some(client_cert), Some(client_key)) => Some(ClientTlsConfig { client_cert, client_key }),
            _ => None,
        };
        let root_cert = pem(&self.ca_file, "ca_file")?;
        let bad = |error| {
            ProviderError::fatal(
                "redis: options `ca_file`, `cert_file`, `key_file`: what they name is no PEM",
            )
            .because(error)
        };
        Client::build_with_tls(info, TlsCertificates { client_tls, root_cert }).map_err(bad)
    }
}

/// What a PEM file of the options holds.
fn pem(file: &Option<PathBuf>, option: &str) -> Result<Option<Vec<u8>>, ProviderError> {
    let Some(file) = file else { return Ok(None) };
    let bytes = std::fs::read(file).map_err(|error| {
        let file = file.display();
        ProviderError::fatal(format!("redis: option `{option}`: {file} cannot be read")).because(error)
    })?;
    if !bytes.windows(11).any(|window| window == b"-----BEGIN ") {
        return Err(ProviderError::fatal(format!("redis: option `{option}`: {} is no PEM", file.display())));
    }
    Ok(Some(bytes))
}

/// The connection under ganger's name, as `CLIENT LIST` shows it.
fn named(info: ConnectionInfo) -> ConnectionInfo {
    let settings = info.redis_settings().clone().set_lib_name("ganger", env!("CARGO_PKG_VERSION"));
    info.set_redis_settings(settings)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(json: &str) -> Result<RedisConfig, serde_json::Error> {
        serde_json::from_str(json)
    }

    fn refused(json: &str) -> String {
        read(json).unwrap_err().to_string()
    }

    #[test]
    fn reads_goworkers_options() {
        let config =
            read(r#"{"host":"h","port":"6380","job_list":"jobs","dump_on_limit":false,"memory_limit":"2G"}"#)
                .unwrap();
        assert_eq!((config.host.as_str(), config.port, config.lists()), ("h", 6380, vec!["jobs".to_owned()]));
        assert_eq!(read(r#"{"port":6381}"#).unwrap().port, 6381);
        assert!(read(r#"{"port":"0"}"#).is_err());
        assert!(read(r#"{"hots":"h"}"#).unwrap_err().to_string().contains("hots"));
    }

    #[test]
    fn a_memory_limit_is_read_as_goworker_read_it_and_asked_for_where_it_is_needed() {
        let limit = |text: &str| {
            read(&format!(r#"{{"memory_limit":{text}}}"#))
                .map(|config| config.memory_limit.map(ByteSize::get))
        };
        for (text, bytes) in [
            (r#""2G""#, Some(2 << 30)),
            (r#""2g""#, Some(2_000_000_000)),
            (r#""512MiB""#, Some(512 << 20)),
            (r#""100m""#, Some(100_000_000)),
            ("4096", Some(4096)),
            (r#""""#, None),
            ("null", None),
        ] {
            assert_eq!(limit(text).unwrap(), bytes, "{text}");
        }
        assert!(limit(r#""lots""#).is_err());
        assert!(refused(r#"{"dump_on_limit":true}"#).contains("memory_limit"));
        assert!(read(r#"{"dump_on_limit":true,"memory_limit":"1G"}"#).is_ok());
    }

    #[test]
    fn several_lists_have_an_order_or_weights() {
        let strict = read(r#"{"job_list":["a","b"]}"#).unwrap();
        assert_eq!((strict.lists().len(), strict.weights()), (2, None));
        let weighted = read(r#"{"job_list":[{"list":"a","weight":3},{"list":"b","weight":1}]}"#).unwrap();
        assert_eq!(weighted.weights(), Some(vec![3, 1]));
        assert!(refused(r#"{"job_list":["a","a"]}"#).contains("twice"));
        assert!(refused(r#"{"job_list":[]}"#).contains("name of a list"));
        assert!(refused(r#"{"job_list":[{"list":"a","weight":0}]}"#).contains("at least 1"));
    }

    #[test]
    fn a_password_in_the_url_is_printed_nowhere() {
        let config = read(r#"{"url":"redis://user:canary@localhost/1"}"#).unwrap();
        assert!(!format!("{config:?}").contains("canary"));
        assert!(config.client().is_ok());
        for url in ["redis://user:canary@:x/", "rediss://user:canary@", "canary", "http://u:canary@h"] {
            let error = refused(&format!(r#"{{"url":"{url}"}}"#));
            assert!(error.contains("`url`") && !error.contains("canary"), "{error}");
        }
    }

    #[test]
    fn files_of_certificates_that_cannot_be_used_are_named() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("ca.pem");
        let fault = |options: &str| {
            let error = read(&options.replace("FILE", file.to_str().unwrap())).unwrap().client().unwrap_err();
            error.to_string()
        };
        assert!(refused(r#"{"ca_file":"ca.pem"}"#).contains("rediss://"));
        let secured = r#"{"url":"rediss://localhost","ca_file":"FILE"}"#;
        assert!(fault(secured).contains("`ca_file`") && fault(secured).contains("cannot be read"));
        std::fs::write(&file, "no certificate").unwrap();
        assert!(fault(secured).contains("is no PEM"));
        std::fs::write(&file, "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n").unwrap();
        assert!(fault(secured).contains("no PEM"), "{}", fault(secured));
        assert!(refused(r#"{"url":"rediss://localhost","cert_file":"c"}"#).contains("key_file"));
    }
}
