//! Sends requests: over a connection that is kept, or a new one; direct or through a proxy, with TLS where it is
//! asked for.

use std::{
    path::Path,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use base64::Engine;
use bytes::Bytes;
use hyper::{
    Uri,
    body::{Frame, Incoming},
    header::HeaderValue,
    http::response::Parts,
};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder, MaybeHttpsStream};
use hyper_util::{
    client::legacy::connect::{HttpConnector, proxy::Tunnel},
    rt::TokioIo,
};
use rustls::{
    ClientConfig, RootCertStore,
    pki_types::{CertificateDer, pem::PemObject},
};
use tokio::{net::TcpStream, sync::OnceCell};
use tower_service::Service;
use url::Url;

use crate::{connection::Connection, idle::Idle, request::Call, resolve::Resolver};

pub(crate) type Error = Box<dyn std::error::Error + Send + Sync>;

/// What a [`Client`] is made of.
pub(crate) struct ClientOptions {
    pub resolver: Resolver,
    pub connect_timeout: Duration,
    pub proxy: Option<Proxy>,
    pub ca: Vec<CertificateDer<'static>>,
    /// How many requests there are at once.
    pub slots: usize,
}

/// Sends requests over connections that are kept.
pub(crate) struct Client {
    dial: Dial,
    idle: Arc<Idle>,
    ca: Vec<CertificateDer<'static>>,
    /// Made at the first `https` request: reading the system's certificates takes a while.
    tls: OnceCell<HttpsConnector<Dial>>,
}

impl Client {
    pub(crate) fn new(options: ClientOptions) -> Self {
        let mut http = HttpConnector::new_with_resolver(options.resolver);
        http.enforce_http(false);
        http.set_nodelay(true);
        http.set_connect_timeout(Some(options.connect_timeout));
        let dial = Dial { http, proxy: options.proxy.map(Arc::new) };
        Client { dial, idle: Idle::new(options.slots), ca: options.ca, tls: OnceCell::new() }
    }

    /// Sends a request; answers when the head of its answer is there.
    ///
    /// A connection that was kept may be closed by the server at any moment. If nothing of the request was sent on
    /// it, or it may be carried out twice (RFC 9110, 9.2.2), it goes over another.
    ///
    /// # Errors
    /// No connection, or it broke; or there are no certificates to trust.
    pub(crate) async fn send(&self, call: &Call) -> Result<Answer, Error> {
        let proxy = self.dial.proxy.as_deref().filter(|_| !call.is_https());
        let mut request = call.request(proxy)?;
        while let Some((origin, mut connection)) = self.idle.take(call.origin()) {
            if !connection.is_free().await {
                continue;
            }
            match connection.send(request).await {
                Ok(answer) => return Ok(self.answer(answer, origin, connection)),
                Err(mut error) => match error.take_message() {
                    Some(unsent) => request = unsent,
                    // An answer that cannot be read is an answer.
                    None if call.is_idempotent() && !error.error().is_parse() => {
                        request = call.request(proxy)?;
                        break;
                    }
                    None => return Err(error.into_error().into()),
                },
            }
        }
        // Boxed, since few requests need it and all would have to have room for it.
        let mut connection = Box::pin(self.connect(call)).await?;
        let answer = connection.send(request).await.map_err(|error| error.into_error())?;
        Ok(self.answer(answer, call.origin().into(), connection))
    }

    fn answer(&self, answer: hyper::Response<Incoming>, origin: Box<str>, connection: Connection) -> Answer {
        let (head, body) = answer.into_parts();
        Answer { head, body, origin, connection, idle: self.idle.clone() }
    }

    async fn connect(&self, call: &Call) -> Result<Connection, Error> {
        let to: Uri = call.origin().parse()?;
        let stream = match call.is_https() {
            true => self.tls.get_or_try_init(|| self.tls()).await?.clone().call(to).await?,
            false => MaybeHttpsStream::Http(self.dial.clone().call(to).await?),
        };
        Ok(Connection::new(stream).await?)
    }

    async fn tls(&self) -> Result<HttpsConnector<Dial>, Error> {
        let ca = self.ca.clone();
        let config = tokio::task::spawn_blocking(move || tls_config(&ca)).await??;
        let builder = HttpsConnectorBuilder::new().with_tls_config(config).https_only().enable_http1();
        Ok(builder.wrap_connector(self.dial.clone()))
    }
}

/// An answer: its head, and the rest as it comes. Dropped before its end it takes its connection along.
pub(crate) struct Answer {
    pub head: Parts,
    body: Incoming,
    origin: Box<str>,
    connection: Connection,
    idle: Arc<Idle>,
}

impl Answer {
    /// The next piece of the body; `None` at its end.
    pub(crate) async fn frame(&mut self) -> Option<hyper::Result<Frame<Bytes>>> {
        self.connection.frame(&mut self.body).await
    }

    /// The answer is read to its end: its connection serves the next request.
    pub(crate) async fn finish(mut self) {
        if self.connection.is_free().await {
            self.idle.put(self.origin, self.connection);
        }
    }
}

/// Trusts what the system trusts, and the certificates given beside.
fn tls_config(extra: &[CertificateDer<'static>]) -> Result<ClientConfig, String> {
    let mut roots = RootCertStore::empty();
    let native = rustls_native_certs::load_native_certs();
    roots.add_parsable_certificates(native.certs);
    for certificate in extra {
        roots.add(certificate.clone()).map_err(|error| format!("`ca_file`: {error}"))?;
    }
    if roots.is_empty() {
        let why = native.errors.first().map(|error| format!(" ({error})")).unwrap_or_default();
        return Err(format!(
            "no certificates to trust were found{why}: install the system's (package `ca-certificates`) or set `ca_file`"
        ));
    }
    let config = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(|error| error.to_string())?;
    Ok(config.with_root_certificates(roots).with_no_client_auth())
}

/// Reads a file of certificates.
pub(crate) fn read_certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, String> {
    let fail = |why: String| format!("`ca_file`: {}: {why}", path.display());
    let certificates: Vec<_> = CertificateDer::pem_file_iter(path)
        .and_then(Iterator::collect)
        .map_err(|error: rustls::pki_types::pem::Error| fail(error.to_string()))?;
    if certificates.is_empty() {
        return Err(fail("no certificate in it (PEM, `-----BEGIN CERTIFICATE-----`)".to_owned()));
    }
    Ok(certificates)
}

/// A proxy that requests go through.
pub(crate) struct Proxy {
    uri: Uri,
    pub authorization: Option<HeaderValue>,
}

impl Proxy {
    /// A proxy from its URL; the error never shows it, since it may hold a password.
    pub(crate) fn new(url: &str) -> Result<Self, String> {
        let wrong =
            || "`proxy`: not the URL of an HTTP proxy (write it like `http://proxy.example:3128`)".to_owned();
        let url = Url::parse(url).ok().filter(|url| url.scheme() == "http").ok_or_else(wrong)?;
        let host = url.host_str().ok_or_else(wrong)?;
        let uri = format!("http://{host}:{}/", url.port_or_known_default().unwrap_or(80));
        Ok(Proxy { uri: uri.parse().map_err(|_| wrong())?, authorization: basic_authorization(&url) })
    }
}

/// The name and password of a URL as a header.
pub(crate) fn basic_authorization(url: &Url) -> Option<HeaderValue> {
    let decode = |text: &str| percent_encoding::percent_decode_str(text).collect::<Vec<u8>>();
    if url.username().is_empty() && url.password().is_none() {
        return None;
    }
    let mut pair = decode(url.username());
    pair.push(b':');
    pair.extend(decode(url.password().unwrap_or_default()));
    let text = format!("Basic {}", base64::engine::general_purpose::STANDARD.encode(pair));
    let mut value = HeaderValue::from_str(&text).ok()?;
    value.set_sensitive(true);
    Some(value)
}

/// Connects, to the host itself or to the proxy.
#[derive(Clone)]
struct Dial {
    http: HttpConnector<Resolver>,
    proxy: Option<Arc<Proxy>>,
}

impl Service<Uri> for Dial {
    type Response = TokioIo<TcpStream>;
    type Error = Error;
    type Future = Pin<Box<dyn Future<Output = Result<TokioIo<TcpStream>, Error>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Error>> {
        self.http.poll_ready(cx).map_err(Into::into)
    }

    fn call(&mut self, to: Uri) -> Self::Future {
        let Dial { mut http, proxy } = self.clone();
        Box::pin(async move {
            let Some(proxy) = proxy else { return Ok(http.call(to).await?) };
            if to.scheme_str() != Some("https") {
                return Ok(http.call(proxy.uri.clone()).await?);
            }
            let mut tunnel = Tunnel::new(proxy.uri.clone(), http);
            if let Some(authorization) = proxy.authorization.clone() {
                tunnel = tunnel.with_auth(authorization);
            }
            Ok(tunnel.call(to).await?)
        })
    }
}
