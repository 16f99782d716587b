//! Who may read.

use std::net::IpAddr;

use axum::http::{HeaderMap, StatusCode, header};
use ganger_core::Secret;

/// The rules of one listener.
pub(crate) struct Access {
    pub(crate) token: Option<Secret>,
    pub(crate) hosts: Vec<String>,
}

impl Access {
    /// Whether the request shows the token, where there is one.
    pub(crate) fn has_token(&self, headers: &HeaderMap) -> bool {
        let Some(token) = &self.token else { return true };
        let shown = headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
        let shown = shown.and_then(|value| value.strip_prefix("Bearer ")).unwrap_or_default();
        same(shown.as_bytes(), token.reveal().as_bytes())
    }

    /// Whether the request names this machine: a web page that points its own name here is refused. With a
    /// token it may be under any name, since no page knows the token.
    pub(crate) fn has_host(&self, headers: &HeaderMap) -> bool {
        if self.token.is_some() {
            return true;
        }
        let named = headers.get(header::HOST).and_then(|value| value.to_str().ok()).map(host_of);
        named.is_some_and(|host| {
            host.eq_ignore_ascii_case("localhost")
                || host.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
                || self.hosts.iter().any(|known| known.eq_ignore_ascii_case(host))
        })
    }

    /// Whether a page of another site may have sent the request: it must not even begin to listen.
    pub(crate) fn is_foreign_page(headers: &HeaderMap) -> bool {
        let text = |name: &str| headers.get(name).map(|value| value.to_str().unwrap_or("?"));
        let host = text(header::HOST.as_str());
        let origin =
            text(header::ORIGIN.as_str()).map(|origin| origin.split_once("://").map(|(_, place)| place));
        origin.is_some_and(|place| place.is_none() || place != host)
            || !matches!(text("sec-fetch-site"), None | Some("same-origin" | "none"))
    }

    /// Whether a request to listen to a job may be answered; if not, what to say.
    pub(crate) fn admit_listener(&self, headers: &HeaderMap) -> Result<(), (StatusCode, &'static str)> {
        if Access::is_foreign_page(headers) {
            return Err((StatusCode::FORBIDDEN, "a page of another site may not listen here\n"));
        }
        self.admit(headers)
    }

    /// Whether a request for figures may be answered; if not, what to say.
    pub(crate) fn admit(&self, headers: &HeaderMap) -> Result<(), (StatusCode, &'static str)> {
        if !self.has_host(headers) {
            return Err((
                StatusCode::MISDIRECTED_REQUEST,
                "this address is not served under that name: ask for localhost, or add the name to stats_hosts\n",
            ));
        }
        if !self.has_token(headers) {
            return Err((
                StatusCode::UNAUTHORIZED,
                "send the header `Authorization: Bearer <stats_token>`\n",
            ));
        }
        Ok(())
    }
}

/// The host without its port.
fn host_of(value: &str) -> &str {
    match value.strip_prefix('[') {
        Some(rest) => rest.split(']').next().unwrap_or(rest),
        None => value.split(':').next().unwrap_or(value),
    }
}

/// Compares in a time that depends on the lengths only.
fn same(a: &[u8], b: &[u8]) -> bool {
    a.len() == b.len() && a.iter().zip(b).fold(0, |differs, (a, b)| differs | (a ^ b)) == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(host: &str, authorization: &str) -> HeaderMap {
        let mut headers = HeaderMap::new();
        headers.insert(header::HOST, host.parse().unwrap());
        headers.insert(header::AUTHORIZATION, authorization.parse().unwrap());
        headers
    }

    #[test]
    fn only_this_machines_names_are_served() {
        let access = Access { token: None, hosts: vec!["stats.internal".to_owned()] };
        for host in ["localhost", "LOCALHOST:9090", "127.0.0.1:9090", "[::1]:9090", "stats.internal"] {
            assert!(access.has_host(&headers(host, "")), "{host}");
        }
        for host in ["evil.example", "evil.example:9090", "192.0.2.1", "localhost.evil.example", ""] {
            assert!(!access.has_host(&headers(host, "")), "{host}");
        }
        assert!(!access.has_host(&HeaderMap::new()));
    }

    #[test]
    fn s5_a_page_of_another_site_is_known_by_what_its_browser_says() {
        let foreign = |name: &'static str, value: &str| {
            let mut headers = headers("127.0.0.1:9090", "");
            headers.insert(name, value.parse().unwrap());
            Access::is_foreign_page(&headers)
        };
        assert!(!foreign("accept", "text/event-stream"));
        assert!(!foreign("origin", "http://127.0.0.1:9090") && !foreign("sec-fetch-site", "same-origin"));
        for origin in ["http://evil.example", "http://127.0.0.1:3000", "null"] {
            assert!(foreign("origin", origin), "{origin}");
        }
        assert!(foreign("sec-fetch-site", "cross-site") && foreign("sec-fetch-site", "same-site"));
    }

    #[test]
    fn a_token_must_be_shown_whole() {
        let access = Access { token: Some(Secret::new("s3cret")), hosts: Vec::new() };
        assert!(access.has_token(&headers("x", "Bearer s3cret")));
        for wrong in ["", "Bearer", "Bearer s3cre", "Bearer s3crets", "s3cret", "Basic s3cret"] {
            assert!(!access.has_token(&headers("x", wrong)), "{wrong}");
        }
    }
}
