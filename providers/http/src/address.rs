//! Where the intake listens, and under which names.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, SocketAddr},
};

use ganger_core::ProviderError;
use tokio::net::TcpListener;

use crate::HttpIntakeConfig;

/// Binds the address that the config names. Off this machine only with a token. `None`, with a warning, if the
/// address was not asked for and is taken: several gangers on one machine get on.
///
/// # Errors
/// Fatal: an address that is none, that is taken, or that others reach without a token.
pub(crate) async fn bind(
    name: &str,
    config: &HttpIntakeConfig,
    configured: bool,
) -> Result<Option<TcpListener>, ProviderError> {
    let text = config.listen_on.trim();
    let addresses = resolve(name, text).await?;
    if let Some(why) = addresses.iter().find_map(|address| config.needs_token(address)) {
        return Err(ProviderError::fatal(format!("`{name}`: {why}")));
    }
    let bound = TcpListener::bind(&addresses[..]).await;
    if let Err(error) = &bound
        && error.kind() == io::ErrorKind::AddrInUse
        && !configured
    {
        tracing::warn!(
            intake = name,
            "{text} is taken, by another ganger perhaps: no jobs come in here over HTTP; `listen_on` takes another \
             address"
        );
        return Ok(None);
    }
    bound.map(Some).map_err(|error| {
        let help = match error.kind() {
            io::ErrorKind::AddrInUse => "; is another ganger running? `listen_on` takes another address",
            io::ErrorKind::PermissionDenied => "; ports below 1024 need a permission",
            _ => "",
        };
        ProviderError::fatal(format!("`{name}` cannot listen on {text}: {error}{help}"))
    })
}

/// The addresses of `host:port`, `:port` or `port`.
async fn resolve(name: &str, text: &str) -> Result<Vec<SocketAddr>, ProviderError> {
    let wrong = |why: &str| {
        ProviderError::fatal(format!(
            "`{name}`: `listen_on`: `{text}` {why} (write it like `127.0.0.1:8081`)"
        ))
    };
    let port = text.strip_prefix(':').unwrap_or(text);
    if let Ok(port) = port.parse::<u16>() {
        tracing::info!(
            intake = name,
            "`listen_on` names no address, so only this machine reaches it (127.0.0.1:{port}); `0.0.0.0:{port}` \
             with a `token` is for others"
        );
        return Ok(vec![SocketAddr::from((Ipv4Addr::LOCALHOST, port))]);
    }
    let found: Vec<SocketAddr> = tokio::net::lookup_host(text)
        .await
        .map_err(|error| wrong(&format!("is no address to listen on: {error}")))?
        .collect();
    if found.is_empty() { Err(wrong("has no address")) } else { Ok(found) }
}

/// The names under which the intake is reached: what a browser's `Host` may say.
#[derive(Clone, Debug)]
pub(crate) struct Hosts {
    bound: IpAddr,
    names: Vec<String>,
    /// A token keeps strangers out, whatever name they used.
    any: bool,
}

impl Hosts {
    pub(crate) fn new(bound: SocketAddr, config: &HttpIntakeConfig) -> Self {
        Hosts { bound: bound.ip(), names: config.hosts.clone(), any: config.token.is_some() }
    }

    /// Whether `host`, without its port, is one of ours.
    pub(crate) fn has(&self, host: &str) -> bool {
        if self.any {
            return true;
        }
        if let Ok(address) = host.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>() {
            return address.to_canonical().is_loopback() || address == self.bound;
        }
        let host = host.strip_suffix('.').unwrap_or(host);
        host.eq_ignore_ascii_case("localhost")
            || self.names.iter().any(|name| name.eq_ignore_ascii_case(host))
    }
}

/// The path that jobs are posted to: with a slash before it and none after.
///
/// # Errors
/// Fatal: a path that no request could have.
pub(crate) fn endpoint(name: &str, text: &str) -> Result<String, ProviderError> {
    let path = format!("/{}", text.trim_matches('/'));
    if path.bytes().any(|b| !b.is_ascii_graphic() || matches!(b, b'?' | b'#' | b'%')) {
        return Err(ProviderError::fatal(format!(
            "`{name}`: `endpoint`: `{}` is no path (write it like `/job/add`)",
            text.escape_debug()
        )));
    }
    Ok(path)
}

#[cfg(test)]
mod tests {
    use super::*;
    use ganger_core::{Secret, Severity};

    async fn bound(listen_on: &str, token: Option<&str>) -> Result<SocketAddr, ProviderError> {
        let config = HttpIntakeConfig {
            listen_on: listen_on.to_owned(),
            token: token.map(Secret::new),
            ..HttpIntakeConfig::default()
        };
        bind("http", &config, true)
            .await
            .map(|listener| listener.expect("it was asked for").local_addr().expect("it is bound"))
    }

    #[tokio::test]
    async fn a_port_alone_is_this_machine_only() {
        assert!(bound(":0", None).await.unwrap().ip().is_loopback());
        assert!(bound("0", None).await.unwrap().ip().is_loopback());
        assert!(bound("localhost:0", None).await.unwrap().ip().is_loopback());
    }

    #[tokio::test]
    async fn s4_off_this_machine_it_needs_a_token() {
        for open in ["0.0.0.0:0", "[::]:0"] {
            let error = bound(open, None).await.unwrap_err();
            assert_eq!(error.severity(), Severity::Fatal);
            assert!(error.to_string().contains("token"), "{error}");
        }
        assert!(bound("0.0.0.0:0", Some("secret")).await.is_ok());
    }

    #[tokio::test]
    async fn an_address_that_is_taken_is_named() {
        let first = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let taken = first.local_addr().unwrap().to_string();
        let error = bound(&taken, None).await.unwrap_err();
        assert_eq!(error.severity(), Severity::Fatal);
        assert!(error.to_string().contains(&taken) && error.to_string().contains("in use"), "{error}");
        let config = HttpIntakeConfig { listen_on: taken, ..HttpIntakeConfig::default() };
        assert!(bind("http", &config, false).await.unwrap().is_none(), "nobody asked for it: a warning");
        assert!(bound("nonsense", None).await.unwrap_err().to_string().contains("127.0.0.1:8081"));
    }

    #[test]
    fn s5_knows_its_own_names() {
        let config = HttpIntakeConfig { hosts: vec!["jobs.example".into()], ..HttpIntakeConfig::default() };
        let hosts = Hosts::new("127.0.0.1:8081".parse().unwrap(), &config);
        for ours in ["localhost", "LOCALHOST.", "127.0.0.1", "127.9.9.9", "[::1]", "jobs.example"] {
            assert!(hosts.has(ours), "{ours}");
        }
        for foreign in ["evil.example", "127.0.0.1.evil.example", "localhost.evil.example", "10.0.0.1", ""] {
            assert!(!hosts.has(foreign), "{foreign}");
        }
    }

    #[test]
    fn an_endpoint_is_a_path() {
        assert_eq!(endpoint("http", "job/add/").unwrap(), "/job/add");
        assert_eq!(endpoint("http", "/").unwrap(), "/");
        assert!(endpoint("http", "/a b").is_err() && endpoint("http", "/a?b").is_err());
    }
}
