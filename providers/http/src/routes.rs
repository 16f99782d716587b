//! Which request is what.

use std::sync::Arc;

use hyper::{
    Method, Request, StatusCode,
    body::Incoming,
    header::{ALLOW, AUTHORIZATION, HeaderValue, WWW_AUTHENTICATE},
};
use subtle::ConstantTimeEq;

use crate::{
    answer::{Answer, Refusal},
    browser,
    intake::Door,
    post, show,
};

/// Answers a request.
pub(crate) async fn answer(door: &Arc<Door>, request: Request<Incoming>) -> Answer {
    match route(door, request).await {
        Ok(answer) => answer,
        Err(refusal) => {
            tracing::debug!(intake = door.name, status = refusal.status.as_u16(), "{}", refusal.message);
            let mut answer = refusal.answer();
            match refusal.status {
                StatusCode::UNAUTHORIZED => {
                    answer.headers_mut().insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
                }
                StatusCode::METHOD_NOT_ALLOWED => {
                    let names: Vec<&str> = door.methods.iter().map(Method::as_str).collect();
                    if let Ok(value) = HeaderValue::from_str(&names.join(", ")) {
                        answer.headers_mut().insert(ALLOW, value);
                    }
                }
                _ => {}
            }
            answer
        }
    }
}

async fn route(door: &Arc<Door>, request: Request<Incoming>) -> Result<Answer, Refusal> {
    browser::check(request.uri(), request.headers(), &door.hosts)?;
    check_token(door, request.headers().get(AUTHORIZATION))?;
    let path = request.uri().path();
    let Some(rest) = path.strip_prefix(door.endpoint.as_str()) else { return Err(not_found(door)) };
    let id = match rest.strip_prefix('/') {
        Some(id) => id,
        // The root's own slash is part of the endpoint.
        None if rest.is_empty() || door.endpoint == "/" => rest,
        None => return Err(not_found(door)),
    };
    if id.is_empty() {
        if !door.methods.contains(request.method()) {
            let message = format!("a job is posted: `curl -d '{{\"type\":…}}' http://…{}`", door.endpoint);
            return Err(Refusal::new(StatusCode::METHOD_NOT_ALLOWED, message));
        }
        return post::post(door, request).await;
    }
    if request.method() != Method::GET {
        let message =
            format!("{}/ID tells a job's state: it is asked with GET", door.endpoint.trim_end_matches('/'));
        return Err(Refusal::new(StatusCode::METHOD_NOT_ALLOWED, message));
    }
    show::show(door, id).await
}

fn not_found(door: &Door) -> Refusal {
    Refusal::new(
        StatusCode::NOT_FOUND,
        format!("there is nothing here: jobs are posted to {}", door.endpoint),
    )
}

fn check_token(door: &Door, given: Option<&HeaderValue>) -> Result<(), Refusal> {
    let Some(token) = &door.config.token else { return Ok(()) };
    let given = given.and_then(|value| value.as_bytes().split_at_checked(7));
    let given = given.filter(|(scheme, _)| scheme.eq_ignore_ascii_case(b"bearer ")).map(|(_, token)| token);
    // Compared in constant time, so that the time of an answer tells nothing of the token.
    let fits = given.is_some_and(|given| bool::from(given.ct_eq(token.reveal().as_bytes())));
    if fits {
        return Ok(());
    }
    Err(Refusal::new(StatusCode::UNAUTHORIZED, "send the token: `Authorization: Bearer …`"))
}
