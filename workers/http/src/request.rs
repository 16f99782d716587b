//! The request that a job asks for, and the next one after a redirect.

use bytes::Bytes;
use ganger_core::{JobContext, JobError};
use http_body_util::Full;
use hyper::{
    HeaderMap, Method, Request, StatusCode, Uri,
    header::{
        ACCEPT, AUTHORIZATION, CONNECTION, CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE, COOKIE, EXPECT,
        HOST, HeaderName, HeaderValue, PROXY_AUTHORIZATION, TE, TRAILER, TRANSFER_ENCODING, UPGRADE,
        USER_AGENT,
    },
};
use url::{Position, Url};

use crate::{
    client::{Proxy, basic_authorization},
    params::HttpParams,
};

/// Headers that are the connection's own: a job that set them could break its framing.
const FRAMING: [HeaderName; 8] =
    [CONNECTION, CONTENT_LENGTH, TRANSFER_ENCODING, UPGRADE, TE, TRAILER, EXPECT, PROXY_AUTHORIZATION];

/// What is wrong with params, whatever surrounds the run.
pub(crate) fn check(params: &HttpParams) -> Result<(), JobError> {
    read_url(&params.url)?;
    params.method.as_deref().map_or(Ok(Method::GET), read_method)?;
    params.headers.iter().try_for_each(|(name, value)| read_header("`headers`", name, value).map(drop))
}

/// One request, to be sent as often as redirects ask.
pub(crate) struct Call {
    pub method: Method,
    pub url: Url,
    headers: HeaderMap,
    body: Bytes,
}

impl Call {
    /// The request of a job.
    ///
    /// # Errors
    /// Dead, since it would be as wrong the next time: what is wrong with which param.
    pub(crate) fn new(
        params: &HttpParams,
        job: &JobContext,
        user_agent: &HeaderValue,
    ) -> Result<Self, JobError> {
        let input = job.input();
        let default = if input.is_some() { Method::POST } else { Method::GET };
        let method = params.method.as_deref().map_or(Ok(default), read_method)?;
        let mut url = read_url(&params.url)?;
        if !params.url_params.is_empty() {
            url.query_pairs_mut().extend_pairs(&params.url_params);
        }
        let mut headers = HeaderMap::with_capacity(8);
        if let Some(authorization) = basic_authorization(&url) {
            headers.insert(AUTHORIZATION, authorization);
            // Neither can fail: the URL has a host.
            let _ = (url.set_username(""), url.set_password(None));
        }
        let mut call = Call { method, url, headers, body: Bytes::new() };
        call.add_headers(params, job)?;
        call.add_body(params, job)?;
        call.headers.entry(USER_AGENT).or_insert_with(|| user_agent.clone());
        call.headers.entry(ACCEPT).or_insert(HeaderValue::from_static("*/*"));
        Ok(call)
    }

    /// The job's headers, and then those of its params, which count more.
    fn add_headers(&mut self, params: &HttpParams, job: &JobContext) -> Result<(), JobError> {
        for (name, value) in &job.job().rare().headers {
            let (name, value) = read_header("the job's `headers`", name, value)?;
            self.headers.append(name, value);
        }
        if job.input().is_some() {
            // One who is told twice, because a crash hid the first time, can tell by it.
            if let Ok(id) = HeaderValue::from_str(&job.id().to_string()) {
                self.headers.insert("ganger-job-id", id);
            }
        }
        let mut own: HeaderMap = HeaderMap::new();
        for (name, value) in &params.headers {
            let (name, value) = read_header("`headers`", name, value)?;
            own.append(name, value);
        }
        for name in own.keys() {
            self.headers.remove(name);
        }
        let mut last = None;
        for (name, value) in own {
            last = name.or(last);
            if let Some(name) = &last {
                self.headers.append(name, value);
            }
        }
        Ok(())
    }

    fn add_body(&mut self, params: &HttpParams, job: &JobContext) -> Result<(), JobError> {
        let Some(raw) = params.body.as_deref().or(job.input()) else { return Ok(()) };
        if raw.get().starts_with('"') {
            let text: String = serde_json::from_str(raw.get())?;
            self.body = Bytes::from(text);
            return Ok(());
        }
        self.body = Bytes::copy_from_slice(raw.get().as_bytes());
        self.headers.entry(CONTENT_TYPE).or_insert(HeaderValue::from_static("application/json"));
        Ok(())
    }

    /// The request as it goes out: to the host itself, or to the proxy that reads it.
    ///
    /// # Errors
    /// A URL that HTTP cannot carry.
    pub(crate) fn request(&self, proxy: Option<&Proxy>) -> Result<Request<Full<Bytes>>, hyper::http::Error> {
        let from = if proxy.is_some() { Position::BeforeScheme } else { Position::BeforePath };
        let uri: Uri = self.url[from..Position::AfterQuery].parse()?;
        let mut request = Request::new(Full::new(self.body.clone()));
        *request.method_mut() = self.method.clone();
        *request.uri_mut() = uri;
        let mut headers = self.headers.clone();
        if !headers.contains_key(HOST) {
            headers
                .insert(HOST, HeaderValue::from_str(&self.url[Position::BeforeHost..Position::AfterPort])?);
        }
        if let Some(authorization) = proxy.and_then(|proxy| proxy.authorization.clone()) {
            headers.insert(PROXY_AUTHORIZATION, authorization);
        }
        *request.headers_mut() = headers;
        Ok(request)
    }

    /// Scheme, host and port: whom a connection leads to.
    pub(crate) fn origin(&self) -> &str {
        &self.url[..Position::AfterPort]
    }

    pub(crate) fn is_https(&self) -> bool {
        self.url.scheme() == "https"
    }

    /// Whether the request may be carried out twice with the effect of one (RFC 9110, 9.2.2).
    pub(crate) fn is_idempotent(&self) -> bool {
        self.method.is_idempotent()
    }

    /// Turns into the request that a redirect asks for, as browsers do it (RFC 9110, 15.4).
    ///
    /// # Errors
    /// Dead: a place that is no `http` or `https` URL.
    pub(crate) fn follow(&mut self, status: StatusCode, location: &HeaderValue) -> Result<(), JobError> {
        let to = location.to_str().ok().and_then(|location| self.url.join(location).ok());
        let Some(to) = to.filter(is_web) else {
            return Err(JobError::dead(format!("{} redirects to no http or https URL", self.shown())));
        };
        let reads_again = match status {
            StatusCode::SEE_OTHER => self.method != Method::HEAD,
            StatusCode::MOVED_PERMANENTLY | StatusCode::FOUND => self.method == Method::POST,
            _ => false,
        };
        if reads_again {
            self.method = Method::GET;
            self.body = Bytes::new();
            self.headers.remove(CONTENT_TYPE);
            self.headers.remove(CONTENT_ENCODING);
        }
        self.headers.remove(HOST);
        if to.origin() != self.url.origin() {
            self.headers.remove(AUTHORIZATION);
            self.headers.remove(COOKIE);
        }
        self.url = to;
        Ok(())
    }

    /// The request in words, without what may be secret: name, password and query.
    pub(crate) fn shown(&self) -> String {
        shown(&self.method, &self.url)
    }
}

fn shown(method: &Method, url: &Url) -> String {
    let query = if url.query().is_some() { "?…" } else { "" };
    let port = url.port().map(|port| format!(":{port}")).unwrap_or_default();
    format!("{method} {}://{}{port}{}{query}", url.scheme(), url.host_str().unwrap_or(""), url.path())
}

fn is_web(url: &Url) -> bool {
    matches!(url.scheme(), "http" | "https") && url.has_host()
}

fn read_url(text: &str) -> Result<Url, JobError> {
    let fail =
        |why: &str| JobError::dead(format!("`url` {why}: it begins with http:// or https:// and a host"));
    let url = Url::parse(text).map_err(|error| fail(&format!("is no URL ({error})")))?;
    if is_web(&url) { Ok(url) } else { Err(fail(&format!("has the scheme `{}`", url.scheme()))) }
}

fn read_method(text: &str) -> Result<Method, JobError> {
    let method = Method::from_bytes(text.to_ascii_uppercase().as_bytes()).ok();
    method.filter(|method| *method != Method::CONNECT).ok_or_else(|| {
        JobError::dead(format!("`method`: `{}` is none that can be sent", text.escape_debug()))
    })
}

fn read_header(place: &str, name: &str, value: &str) -> Result<(HeaderName, HeaderValue), JobError> {
    let dead = |why: &str| JobError::dead(format!("{place}: `{}` {why}", name.escape_debug()));
    let key = HeaderName::from_bytes(name.as_bytes()).map_err(|_| dead("is no name of an HTTP header"))?;
    if FRAMING.contains(&key) {
        return Err(dead("is the connection's own header and cannot be set"));
    }
    // HeaderValue takes UTF-8 bytes as they are, and no line breaks.
    let value = HeaderValue::from_bytes(value.as_bytes())
        .map_err(|_| dead("has a value with a line break or control character in it"))?;
    Ok((key, value))
}

#[cfg(test)]
mod tests {
    use super::*;
    use ganger_core::{Advice, Job};
    use serde_json::{Value, json};

    fn call(params: Value) -> Result<Call, JobError> {
        let job = Job::new("http", &params).unwrap();
        let context = JobContext::detached(job);
        Call::new(&context.params()?, &context, &HeaderValue::from_static("ganger"))
    }

    fn uri(params: Value) -> String {
        format!("http://x{}", call(params).unwrap().request(None).unwrap().uri())
    }

    #[test]
    fn b26_url_params_join_the_query_and_nothing_else_is_added() {
        assert_eq!(uri(json!({"url": "http://x/echo"})), "http://x/echo");
        assert_eq!(uri(json!({"url": "http://x/echo?z=1"})), "http://x/echo?z=1");
        assert_eq!(
            uri(json!({"url": "http://x/echo?z=1", "url_params": {"a": "b c", "n": 7}})),
            "http://x/echo?z=1&a=b+c&n=7"
        );
        assert_eq!(
            uri(json!({"url": "http://x/echo#part", "UrlParams": {"a": [1, 2]}})),
            "http://x/echo?a=1&a=2"
        );
    }

    #[test]
    fn a_text_is_sent_as_it_is_and_json_as_json() {
        let text = call(json!({"url": "http://x/", "method": "post", "body": "a \"b\""})).unwrap();
        assert_eq!((&text.body[..], text.headers.get(CONTENT_TYPE)), (&b"a \"b\""[..], None));
        let object = call(json!({"url": "http://x/", "method": "PUT", "body": {"k": [1]}})).unwrap();
        assert_eq!(&object.body[..], br#"{"k":[1]}"#);
        assert_eq!(object.headers[CONTENT_TYPE], "application/json");
        let typed =
            json!({"url": "http://x/", "body": [1], "headers": {"Content-Type": "application/x-list"}});
        assert_eq!(call(typed).unwrap().headers[CONTENT_TYPE], "application/x-list");
    }

    #[test]
    fn the_jobs_headers_go_along_and_those_of_the_params_count_more() {
        let mut job =
            Job::new("http", &json!({"url": "http://u:p%40@x/", "headers": {"Tenant": 8}})).unwrap();
        job.rare_mut().headers = vec![("tenant".into(), "7".into()), ("traceparent".into(), "00-1".into())];
        let context = JobContext::detached(job);
        let call =
            Call::new(&context.params().unwrap(), &context, &HeaderValue::from_static("ganger")).unwrap();
        assert_eq!(call.headers.get_all("tenant").iter().collect::<Vec<_>>(), ["8"]);
        assert_eq!(call.headers["traceparent"], "00-1");
        assert_eq!(call.headers[AUTHORIZATION], "Basic dTpwQA==");
        assert_eq!((call.url.as_str(), call.shown().as_str()), ("http://x/", "GET http://x/"));
        assert_eq!(call.headers[USER_AGENT], "ganger");
    }

    #[test]
    fn what_cannot_be_sent_is_dead() {
        let wrong = [
            json!({"url": "file:///etc/passwd"}),
            json!({"url": "gopher://x/"}),
            json!({"url": "//x/"}),
            json!({"url": "x:80/"}),
            json!({"url": "http://"}),
            json!({"url": "http://x/", "method": "CONNECT"}),
            json!({"url": "http://x/", "method": "a b"}),
            json!({"url": "http://x/", "headers": {"a b": "c"}}),
            json!({"url": "http://x/", "headers": {"a": "b\r\nInjected: c"}}),
            json!({"url": "http://x/", "headers": {"Transfer-Encoding": "chunked"}}),
            json!({"url": "http://x/", "headers": {"content-length": 3}}),
        ];
        for params in wrong {
            let error = call(params.clone()).err().unwrap_or_else(|| panic!("{params} was taken"));
            assert_eq!(error.advice(), Advice::Dead, "{params}");
        }
    }

    #[test]
    fn a_redirect_elsewhere_takes_no_credentials_along() {
        let params = json!({"url": "http://x/a", "method": "POST", "body": [1],
            "headers": {"Authorization": "secret", "Cookie": "c", "Host": "y", "X-Own": "1"}});
        let mut there = call(params.clone()).unwrap();
        there.follow(StatusCode::FOUND, &HeaderValue::from_static("https://x/b?c=d")).unwrap();
        let names = ["authorization", "cookie", "host", "content-type"];
        assert!(names.iter().all(|name| !there.headers.contains_key(*name)));
        assert_eq!((there.method.as_str(), there.headers["x-own"].as_bytes()), ("GET", &b"1"[..]));
        assert_eq!((there.shown().as_str(), there.body.len()), ("GET https://x/b?…", 0));
        let mut same = call(params).unwrap();
        same.follow(StatusCode::TEMPORARY_REDIRECT, &HeaderValue::from_static("/b")).unwrap();
        assert_eq!((same.method.as_str(), &same.body[..]), ("POST", &b"[1]"[..]));
        assert_eq!(same.headers[AUTHORIZATION], "secret");
        assert!(same.follow(StatusCode::FOUND, &HeaderValue::from_static("file:///etc/passwd")).is_err());
    }
}
