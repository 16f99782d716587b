//! The connections: pooled, direct or through a proxy, with TLS where it is asked for.

use std::{
    io,
    path::Path,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use base64::Engine;
use bytes::Bytes;
use http_body_util::Full;
use hyper::{
    Request, Response, Uri,
    body::Incoming,
    header::{HeaderValue, PROXY_AUTHORIZATION},
    rt::{Read, ReadBufCursor, Write},
};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::{
    client::legacy::{
        Client as Pool,
        connect::{Connected, Connection, HttpConnector, proxy::Tunnel},
    },
    rt::{TokioExecutor, TokioIo, TokioTimer},
};
use rustls::{
    ClientConfig, RootCertStore,
    pki_types::{CertificateDer, pem::PemObject},
};
use tokio::{net::TcpStream, sync::OnceCell};
use tower_service::Service;
use url::Url;

use crate::resolve::Resolver;

/// How long a connection stays open without a request.
const IDLE: Duration = Duration::from_secs(30);

/// The largest head of an answer, and the largest read at once.
const BUFFER_MAX: usize = 64 << 10;

type Error = Box<dyn std::error::Error + Send + Sync>;

/// What a [`Client`] is made of.
pub(crate) struct ClientOptions {
    pub resolver: Resolver,
    pub connect_timeout: Duration,
    pub proxy: Option<Proxy>,
    pub ca: Vec<CertificateDer<'static>>,
    /// How many connections to one host stay open without a request.
    pub idle: usize,
}

/// Sends requests over pooled connections.
pub(crate) struct Client {
    dial: Dial,
    idle: usize,
    plain: Pool<Dial, Full<Bytes>>,
    ca: Vec<CertificateDer<'static>>,
    /// Made at the first `https` request: reading the system's certificates takes a while.
    tls: OnceCell<Pool<HttpsConnector<Dial>, Full<Bytes>>>,
}

impl Client {
    pub(crate) fn new(options: ClientOptions) -> Self {
        let mut http = HttpConnector::new_with_resolver(options.resolver);
        http.enforce_http(false);
        http.set_nodelay(true);
        http.set_connect_timeout(Some(options.connect_timeout));
        let dial = Dial { http, proxy: options.proxy.map(Arc::new) };
        let plain = pool(options.idle).build(dial.clone());
        Client { dial, idle: options.idle, plain, ca: options.ca, tls: OnceCell::new() }
    }

    /// Sends a request; answers when the head of its answer is there.
    ///
    /// # Errors
    /// No connection, or it broke; or there are no certificates to trust.
    pub(crate) async fn send(&self, mut request: Request<Full<Bytes>>) -> Result<Response<Incoming>, Error> {
        if request.uri().scheme_str() == Some("https") {
            let tls = self.tls.get_or_try_init(|| self.tls_pool()).await?;
            return Ok(tls.request(request).await?);
        }
        if let Some(authorization) = self.dial.proxy.as_ref().and_then(|proxy| proxy.authorization.clone()) {
            request.headers_mut().insert(PROXY_AUTHORIZATION, authorization);
        }
        Ok(self.plain.request(request).await?)
    }

    async fn tls_pool(&self) -> Result<Pool<HttpsConnector<Dial>, Full<Bytes>>, Error> {
        let ca = self.ca.clone();
        let config = tokio::task::spawn_blocking(move || tls_config(&ca)).await??;
        let builder = HttpsConnectorBuilder::new().with_tls_config(config).https_only().enable_http1();
        Ok(pool(self.idle).build(builder.wrap_connector(self.dial.clone())))
    }
}

fn pool(idle: usize) -> hyper_util::client::legacy::Builder {
    let mut builder = Pool::builder(TokioExecutor::new());
    builder
        .pool_timer(TokioTimer::new())
        .pool_idle_timeout(IDLE)
        .pool_max_idle_per_host(idle)
        .http1_max_buf_size(BUFFER_MAX);
    builder
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
    authorization: Option<HeaderValue>,
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
    type Response = Link;
    type Error = Error;
    type Future = Pin<Box<dyn Future<Output = Result<Link, Error>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Error>> {
        self.http.poll_ready(cx).map_err(Into::into)
    }

    fn call(&mut self, to: Uri) -> Self::Future {
        let Dial { mut http, proxy } = self.clone();
        Box::pin(async move {
            let Some(proxy) = proxy else {
                return Ok(Link { io: http.call(to).await?, through_proxy: false });
            };
            if to.scheme_str() != Some("https") {
                return Ok(Link { io: http.call(proxy.uri.clone()).await?, through_proxy: true });
            }
            let mut tunnel = Tunnel::new(proxy.uri.clone(), http);
            if let Some(authorization) = proxy.authorization.clone() {
                tunnel = tunnel.with_auth(authorization);
            }
            Ok(Link { io: tunnel.call(to).await?, through_proxy: false })
        })
    }
}

/// A connection.
struct Link {
    io: TokioIo<TcpStream>,
    /// A proxy reads the requests on it, so they name the whole URL.
    through_proxy: bool,
}

impl Connection for Link {
    fn connected(&self) -> Connected {
        self.io.connected().proxy(self.through_proxy)
    }
}

impl Read for Link {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_read(cx, buf)
    }
}

impl Write for Link {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(cx, buf)
    }
    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }
    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }
    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write_vectored(cx, bufs)
    }
}
