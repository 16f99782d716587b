//! GETs by bare hyper connections, one request at a time on each.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicI64, Ordering},
    },
};

use bytes::Bytes;
use http_body_util::{BodyExt, Empty};
use hyper::Request;
use hyper_util::rt::TokioIo;
use tokio::{net::TcpStream, task::JoinSet};

/// Makes `n` GETs of `/` over `connections` kept-alive connections.
///
/// # Errors
/// The server is gone, or answers something else than 200.
pub(crate) async fn gets(address: SocketAddr, n: u64, connections: usize) -> Result<(), String> {
    let left = Arc::new(AtomicI64::new(i64::try_from(n).unwrap_or(i64::MAX)));
    let mut tasks = JoinSet::new();
    for _ in 0..connections {
        tasks.spawn(connection(address, Arc::clone(&left)));
    }
    while let Some(ended) = tasks.join_next().await {
        ended.map_err(|error| error.to_string())??;
    }
    Ok(())
}

async fn connection(address: SocketAddr, left: Arc<AtomicI64>) -> Result<(), String> {
    let text = |error: &dyn std::error::Error| error.to_string();
    let stream = TcpStream::connect(address).await.map_err(|error| text(&error))?;
    stream.set_nodelay(true).map_err(|error| text(&error))?;
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(|error| text(&error))?;
    let driver = tokio::spawn(connection);
    while left.fetch_sub(1, Ordering::Relaxed) > 0 {
        let request = Request::get("/")
            .header("host", address.to_string())
            .body(Empty::<Bytes>::new())
            .map_err(|error| text(&error))?;
        sender.ready().await.map_err(|error| text(&error))?;
        let answer = sender.send_request(request).await.map_err(|error| text(&error))?;
        if answer.status() != 200 {
            return Err(format!("the server answered {}", answer.status()));
        }
        answer.into_body().collect().await.map_err(|error| text(&error))?;
    }
    driver.abort();
    Ok(())
}
