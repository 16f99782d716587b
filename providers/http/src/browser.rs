//! Keeps browsers out: a page that a user looks at must not be able to start jobs on the user's machine.

use hyper::{
    HeaderMap, StatusCode, Uri,
    header::{HOST, ORIGIN},
};

use crate::{address::Hosts, answer::Refusal};

/// Refuses what a foreign page may have sent: a name that is not ours (DNS rebinding), a foreign `Origin`, or a
/// browser that says so itself (`Sec-Fetch-Site`).
pub(crate) fn check(uri: &Uri, headers: &HeaderMap, hosts: &Hosts) -> Result<(), Refusal> {
    let text = |name: &str| headers.get(name).map(|value| value.to_str().unwrap_or("?"));
    // A request line with a whole URL counts more than the header (RFC 9112, 3.2.2).
    let host = uri.authority().map(|authority| authority.as_str()).or(text(HOST.as_str()));
    if let Some(host) = host
        && !hosts.has(name_of(host))
    {
        return Err(refuse(format!(
            "`{}` is not a name of this server: add it to `hosts` in the config if it should be",
            host.escape_debug()
        )));
    }
    if let Some(origin) = text(ORIGIN.as_str())
        && origin.split_once("://").map(|(_, place)| place) != host
    {
        return Err(refuse(format!("a page of `{}` may not send jobs", origin.escape_debug())));
    }
    match text("sec-fetch-site") {
        None | Some("same-origin" | "none") => Ok(()),
        Some(_) => Err(refuse("a page of another site may not send jobs".to_owned())),
    }
}

fn refuse(message: String) -> Refusal {
    Refusal::new(StatusCode::FORBIDDEN, message)
}

/// A host without its port.
fn name_of(host: &str) -> &str {
    if host.starts_with('[') {
        return host.find(']').map_or(host, |end| &host[..=end]);
    }
    host.rsplit_once(':').map_or(host, |(name, _)| name)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::HttpIntakeConfig;
    use hyper::header::{HeaderName, HeaderValue};

    fn allowed(pairs: &[(&'static str, &str)]) -> bool {
        let hosts = Hosts::new("127.0.0.1:8081".parse().unwrap(), &HttpIntakeConfig::default());
        let pair = |(name, value): &(&'static str, &str)| {
            (HeaderName::from_static(name), HeaderValue::from_str(value).unwrap())
        };
        check(&Uri::from_static("/job/add"), &pairs.iter().map(pair).collect(), &hosts).is_ok()
    }

    #[test]
    fn s5_a_foreign_page_gets_nowhere() {
        let own = ("host", "127.0.0.1:8081");
        assert!(allowed(&[own]));
        assert!(allowed(&[("host", "localhost:8081")]));
        assert!(allowed(&[("host", "[::1]:8081")]));
        assert!(allowed(&[own, ("origin", "http://127.0.0.1:8081"), ("sec-fetch-site", "same-origin")]));
        assert!(!allowed(&[("host", "evil.example:8081")]), "DNS rebinding");
        assert!(!allowed(&[own, ("origin", "http://evil.example")]));
        assert!(!allowed(&[own, ("origin", "http://127.0.0.1:3000")]), "another port is another page");
        assert!(!allowed(&[own, ("origin", "null")]));
        assert!(!allowed(&[own, ("sec-fetch-site", "cross-site")]));
        assert!(!allowed(&[own, ("sec-fetch-site", "same-site")]));
    }
}
