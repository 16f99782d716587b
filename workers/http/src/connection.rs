//! A connection and the request on it, polled together: a task for the connection would cost each request two
//! switches.

use std::{
    future::poll_fn,
    pin::Pin,
    task::{Context, Poll},
};

use bytes::Bytes;
use http_body_util::Full;
use hyper::{
    Request, Response,
    body::{Body, Frame, Incoming},
    client::conn::{TrySendError, http1},
};
use hyper_rustls::MaybeHttpsStream;
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

/// The largest head of an answer, and the largest read at once.
const BUFFER_MAX: usize = 64 << 10;

/// What requests go over.
pub(crate) type Stream = MaybeHttpsStream<TokioIo<TcpStream>>;

/// An open connection. It is closed when dropped.
pub(crate) struct Connection {
    sender: http1::SendRequest<Full<Bytes>>,
    /// `None` once it has closed. Boxed, since a connection is moved about and has room for TLS in it.
    driver: Option<Box<http1::Connection<Stream, Full<Bytes>>>>,
}

impl Connection {
    /// Makes ready a stream that nothing was sent on.
    ///
    /// # Errors
    /// None that is known: nothing is read or written.
    pub(crate) async fn new(stream: Stream) -> hyper::Result<Self> {
        let (sender, driver) = http1::Builder::new().max_buf_size(BUFFER_MAX).handshake(stream).await?;
        Ok(Connection { sender, driver: Some(Box::new(driver)) })
    }

    /// Moves bytes. What goes wrong is told to the request or the body that waits for them.
    fn drive(&mut self, cx: &mut Context<'_>) {
        if let Some(driver) = &mut self.driver
            && Pin::new(&mut **driver).poll(cx).is_ready()
        {
            self.driver = None;
        }
    }

    /// Whether it is open and has nothing to do: a request can be sent.
    pub(crate) async fn is_free(&mut self) -> bool {
        poll_fn(|cx| {
            self.drive(cx);
            Poll::Ready(self.driver.is_some() && self.sender.is_ready())
        })
        .await
    }

    /// Sends a request; answers when the head of its answer is there.
    ///
    /// # Errors
    /// The connection broke; the request is in the error if nothing of it was sent.
    pub(crate) async fn send(
        &mut self,
        request: Request<Full<Bytes>>,
    ) -> Result<Response<Incoming>, TrySendError<Request<Full<Bytes>>>> {
        let mut answer = std::pin::pin!(self.sender.try_send_request(request));
        poll_fn(|cx| {
            self.drive(cx);
            answer.as_mut().poll(cx)
        })
        .await
    }

    /// The next piece of an answer's body; `None` at its end.
    pub(crate) async fn frame(&mut self, body: &mut Incoming) -> Option<hyper::Result<Frame<Bytes>>> {
        poll_fn(|cx| {
            // Asked before, so that the connection knows that the piece is wanted; and after, when it may be there.
            match Pin::new(&mut *body).poll_frame(cx) {
                Poll::Pending => {}
                ready => return ready,
            }
            self.drive(cx);
            Pin::new(&mut *body).poll_frame(cx)
        })
        .await
    }
}
