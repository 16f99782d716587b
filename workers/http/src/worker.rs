//! Does a job: sends its request, follows redirects, judges the answer.

use std::{sync::Arc, time::Duration};

use ganger_core::{
    JobContext, JobError, OptionsError, Output, SlotContext, Worker, WorkerContext, WorkerError,
};
use hyper::{
    HeaderMap, StatusCode,
    header::{HeaderValue, LOCATION},
};

use crate::{
    HttpConfig, HttpParams, Statuses, UnknownParams,
    answer::{chain, read, unexpected},
    client::{Answer, Client, ClientOptions, Proxy, read_certificates},
    guard::{Guard, Guarded},
    params::PARAMS,
    request::{self, Call},
    resolve::Resolver,
};

/// What the slots share: the connections and the rules.
pub struct HttpShared(Arc<Shared>);

struct Shared {
    client: Client,
    guard: Option<Guard>,
    user_agent: HeaderValue,
    config: HttpConfig,
}

/// Makes one request per job.
pub struct Http(Arc<Shared>);

impl Worker for Http {
    const NAME: &'static str = "http";
    type Config = HttpConfig;
    type Params = HttpParams;
    type Shared = HttpShared;

    fn check(config: &HttpConfig, params: &HttpParams) -> Result<(), OptionsError> {
        refuse_unknown(config, params)?;
        request::check(params).map_err(|error| OptionsError::whole(error.message()))
    }

    async fn share(config: HttpConfig, cx: &WorkerContext) -> Result<HttpShared, WorkerError> {
        let fail = |why: String| WorkerError::new(why);
        if let Some(why) = config.fault() {
            return Err(fail(why));
        }
        let guard = config.guard.then(|| Guard::new(&config.allow)).transpose().map_err(fail)?;
        let proxy =
            config.proxy.as_ref().map(|proxy| Proxy::new(proxy.reveal())).transpose().map_err(fail)?;
        let ca = config.ca_file.as_deref().map(read_certificates).transpose().map_err(fail)?;
        let user_agent = HeaderValue::from_str(&config.user_agent)
            .map_err(|_| fail("`user_agent` has a line break or control character in it".to_owned()))?;
        let client = Client::new(ClientOptions {
            resolver: Resolver::new(guard.clone()),
            connect_timeout: config.connect_timeout.get(),
            proxy,
            ca: ca.unwrap_or_default(),
            slots: cx.slots as usize,
        });
        Ok(HttpShared(Arc::new(Shared { client, guard, user_agent, config })))
    }

    async fn create(shared: &HttpShared, _: &SlotContext) -> Result<Self, WorkerError> {
        Ok(Http(shared.0.clone()))
    }

    async fn work(&mut self, params: HttpParams, job: &JobContext) -> Result<Output, JobError> {
        refuse_unknown(&self.0.config, &params).map_err(|error| job.unfit(&error))?;
        let mut call = Call::new(&params, job, &self.0.user_agent)?;
        let run = self.0.run(&mut call, params.expect.as_ref());
        let limit = match (params.timeout, job.deadline()) {
            (Some(timeout), _) => timeout,
            (None, None) => self.0.config.request_timeout,
            // The manager's own timeout is closer to what was asked for.
            (None, Some(_)) => return run.await,
        };
        match tokio::time::timeout(limit.get(), run).await {
            Ok(result) => result,
            Err(_) => Err(JobError::retry(format!("{}: no whole answer within {limit}", call.shown()))),
        }
    }
}

fn refuse_unknown(config: &HttpConfig, params: &HttpParams) -> Result<(), OptionsError> {
    match params.unknown.first() {
        Some(name) if config.unknown_params == UnknownParams::Refuse => Err(OptionsError::whole(format!(
            "there is no `{}` (there is {})",
            name.escape_debug(),
            PARAMS.join(", ")
        ))),
        _ => Ok(()),
    }
}

impl Shared {
    async fn run(&self, call: &mut Call, expect: Option<&Statuses>) -> Result<Output, JobError> {
        let mut redirects = 0;
        loop {
            let answer = self.send(call).await?;
            let status = answer.head.status;
            let is_expected = expect.map_or(status.is_success(), |expect| expect.has(status.as_u16()));
            let Some(location) = self.redirect(&answer, is_expected) else {
                return self.finish(call, answer, is_expected).await;
            };
            if redirects == self.config.redirects {
                let most = self.config.redirects;
                return Err(JobError::dead(format!("{}: more than {most} redirects", call.shown())));
            }
            redirects += 1;
            // Its body is not read: dropped here, the connection is closed rather than waited for.
            drop(answer);
            call.follow(status, &location)?;
        }
    }

    async fn send(&self, call: &Call) -> Result<Answer, JobError> {
        if let Some(guard) = &self.guard {
            guard.check_url(&call.url).map_err(|why| refused(call, &why))?;
        }
        self.client.send(call).await.map_err(|error| match find::<Guarded>(&*error) {
            Some(why) => refused(call, why),
            None if error.is::<hyper::http::Error>() => {
                JobError::dead(format!("`url`: {}: {error}", call.shown()))
            }
            None => JobError::retry(format!("{}: {}", call.shown(), chain(&*error))),
        })
    }

    /// Where an answer redirects to, unless the redirect is what the job wants.
    fn redirect(&self, answer: &Answer, is_expected: bool) -> Option<HeaderValue> {
        let is_redirect = matches!(
            answer.head.status,
            StatusCode::MOVED_PERMANENTLY
                | StatusCode::FOUND
                | StatusCode::SEE_OTHER
                | StatusCode::TEMPORARY_REDIRECT
                | StatusCode::PERMANENT_REDIRECT
        );
        if is_expected || !is_redirect || self.config.redirects == 0 {
            return None;
        }
        answer.head.headers.get(LOCATION).cloned()
    }

    async fn finish(&self, call: &Call, answer: Answer, is_expected: bool) -> Result<Output, JobError> {
        let max = usize::try_from(self.config.output_max.get()).unwrap_or(usize::MAX);
        let status = answer.head.status;
        if is_expected {
            return read(call, answer, max).await;
        }
        let headers: HeaderMap = answer.head.headers.clone();
        let wait_max: Duration = self.config.retry_after_max.get();
        let error = unexpected(&call.shown(), status, &headers, &self.config.retry_on, wait_max);
        // The status says what to do, whether or not the rest of the answer comes.
        let output = match read(call, answer, max).await {
            Ok(output) => output,
            Err(broke) => broke.into_parts().2.unwrap_or_default(),
        };
        Err(error.with_output(output))
    }
}

fn refused(call: &Call, why: &Guarded) -> JobError {
    JobError::dead(format!("{}: refused: {why}", call.shown()))
}

/// The cause of a type, anywhere in an error's chain.
fn find<'a, E: std::error::Error + 'static>(error: &'a (dyn std::error::Error + 'static)) -> Option<&'a E> {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(found) = error.downcast_ref::<E>() {
            return Some(found);
        }
        next = error.source();
    }
    None
}
