//! Where figures and health are read: `stats_port` and what belongs to it.

use std::net::{IpAddr, ToSocketAddrs};

use ganger_core::Secret;

use super::{
    error::Problem,
    node::{Kind, Node},
};

/// Where figures and health are read.
#[derive(Clone, Debug, Default)]
pub struct StatsConfig {
    /// Host and port; `None` is nowhere.
    pub listen: Option<String>,
    /// Whether the address was asked for: a default one that is taken is a warning.
    pub configured: bool,
    /// Who reads must show this.
    pub token: Option<Secret>,
    /// Names besides the address by which browsers may reach it.
    pub hosts: Vec<String>,
}

/// GoWorker's, on loopback.
pub(super) const DEFAULT_LISTEN: &str = "127.0.0.1:9090";

impl StatsConfig {
    /// The default: on loopback, and nothing amiss if the port is taken.
    pub(super) fn standard() -> Self {
        StatsConfig { listen: Some(DEFAULT_LISTEN.to_owned()), ..StatsConfig::default() }
    }

    /// Reads `stats_port`: `:9090`, `9090`, `host:port`, or `off`.
    pub(super) fn read_port(&mut self, node: &Node, notes: &mut Vec<String>) -> Result<(), Problem> {
        let text = match &node.kind {
            Kind::Text(text) => text.trim().to_owned(),
            Kind::Number(number) => format!(":{number}"),
            _ => String::new(),
        };
        self.configured = true;
        if text == "off" {
            self.listen = None;
            return Ok(());
        }
        let wrong = || {
            Problem::at(node.span.clone(), "`stats_port` is no address")
                .help("write it like \"127.0.0.1:9090\" or \":9090\", or \"off\" to have none")
        };
        let (host, port) = match text.rsplit_once(':') {
            Some(parts) => parts,
            None => ("", text.as_str()),
        };
        let port: u16 = port.parse().map_err(|_| wrong())?;
        if host.chars().any(char::is_whitespace) {
            return Err(wrong());
        }
        if host.is_empty() {
            notes.push(format!("stats_port \":{port}\" names no host: listening on 127.0.0.1 only"));
        }
        let host = if host.is_empty() { "127.0.0.1" } else { host };
        self.listen = Some(format!("{host}:{port}"));
        Ok(())
    }

    /// Off loopback, who reads must show a token.
    pub(super) fn check(&self, node: &Node) -> Result<(), Problem> {
        let Some(listen) =
            self.listen.as_deref().filter(|listen| self.token.is_none() && !is_loopback(listen))
        else {
            return Ok(());
        };
        Err(Problem::at(
            node.span.clone(),
            format!("{listen} can be reached from other machines, and there is no `stats_token`"),
        )
        .help("add `stats_token`, best as \"${file:/run/secrets/stats_token}\", or listen on 127.0.0.1"))
    }
}

/// Whether every address behind `host:port` is this machine's own. A name that cannot be looked up is not.
fn is_loopback(listen: &str) -> bool {
    let host = listen.rsplit_once(':').map_or(listen, |(host, _)| host).trim_matches(['[', ']']);
    if host == "localhost" {
        return true;
    }
    match host.parse::<IpAddr>() {
        Ok(address) => address.is_loopback(),
        Err(_) => listen
            .to_socket_addrs()
            .is_ok_and(|mut addresses| addresses.all(|address| address.ip().is_loopback())),
    }
}
