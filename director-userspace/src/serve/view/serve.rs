//! HTTP for read-only clients: metrics and the status page. A client, however slow, costs a bounded
//! amount of memory and does not delay other clients.

use std::{
    io,
    net::IpAddr,
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use axum::{Router, body::Body};
use bytes::Bytes;
use hyper::{
    Request, Response,
    body::{Body as HttpBody, Frame, Incoming, SizeHint},
    server::conn::http1,
    service::{Service as _, service_fn},
};
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    service::TowerToHyperService,
};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::{TcpListener, TcpStream},
    task::JoinSet,
    time::{Sleep, sleep},
};

use crate::serve::limiter::{Activity, Limiter, Limits, Place, Reporter, host_of};

/// Most connections at once. One host leaves a quarter of them to others.
const LIMITS: Limits = Limits { in_all: 64, of_a_peer: 48 };
/// Timeout of a request's head, and of an idle connection.
const HEAD_TIMEOUT: Duration = Duration::from_secs(if cfg!(test) { 1 } else { 10 });
/// How long a client may receive nothing of what is sent to it.
const WRITE_TIMEOUT: Duration = Duration::from_secs(if cfg!(test) { 1 } else { 10 });
/// Largest request head, bytes.
const BUFFER: usize = 16 << 10;

/// Serves `router` on `listener` until dropped; then every connection ends.
pub async fn serve(listener: TcpListener, router: Router) {
    let limiter = Limiter::new(LIMITS);
    let mut connections = JoinSet::new();
    loop {
        let Ok((stream, peer)) = listener.accept().await else {
            // Most likely no descriptors are left: others will be closed.
            sleep(Duration::from_millis(100)).await;
            continue;
        };
        while connections.try_join_next().is_some() {}
        // Without a place it is closed.
        if let Some(place) = limiter.admit(host_of(peer.ip())) {
            connections.spawn(serve_connection(stream, router.clone(), place));
        }
    }
}

async fn serve_connection(stream: TcpStream, router: Router, place: Place<IpAddr>) {
    let reporter = place.reporter();
    let router = TowerToHyperService::new(router);
    let service = {
        let reporter = reporter.clone();
        service_fn(move |request: Request<Incoming>| {
            let served = Served::begin(reporter.clone());
            let response = router.call(request);
            async move {
                let response: Response<Body> = response.await?;
                Ok::<_, std::convert::Infallible>(response.map(|body| Reported { body, served }))
            }
        })
    };
    let mut builder = http1::Builder::new();
    builder.timer(TokioTimer::new()).header_read_timeout(HEAD_TIMEOUT).max_buf_size(BUFFER);
    // A client may close its side once it has sent its request.
    builder.half_close(true);
    let stream = TokioIo::new(WriteTimeout::new(stream, reporter));
    tokio::select! {
        // Errors of a connection concern its client only.
        _ = builder.serve_connection(stream, service) => {}
        () = place.lost() => {}
    }
}

/// A request that is being served, until dropped.
struct Served(Reporter);

impl Served {
    fn begin(reporter: Reporter) -> Self {
        reporter.report(Activity::Serving);
        Self(reporter)
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        self.0.report(Activity::Idle);
    }
}

/// The body of a response: its connection is idle when all of it was taken.
struct Reported {
    body: Body,
    #[expect(dead_code, reason = "reports when it is dropped")]
    served: Served,
}

impl HttpBody for Reported {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        Pin::new(&mut self.body).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// A stream whose writes fail when its peer receives nothing for [`WRITE_TIMEOUT`].
struct WriteTimeout {
    stream: TcpStream,
    /// What the connection did before, and when it has been pending for too long.
    stalled: Option<(Activity, Pin<Box<Sleep>>)>,
    reporter: Reporter,
}

impl WriteTimeout {
    fn new(stream: TcpStream, reporter: Reporter) -> Self {
        Self { stream, stalled: None, reporter }
    }

    /// Returns the outcome of a write, or a timeout if it has been pending for too long.
    fn limit<T>(
        &mut self,
        outcome: Poll<io::Result<T>>,
        context: &mut Context<'_>,
    ) -> Poll<io::Result<T>> {
        if outcome.is_ready() {
            if let Some((before, _)) = self.stalled.take() {
                self.reporter.resume(before);
            }
            return outcome;
        }
        let reporter = &self.reporter;
        let (_, stalled) = self.stalled.get_or_insert_with(|| {
            (reporter.report(Activity::Stalled), Box::pin(sleep(WRITE_TIMEOUT)))
        });
        ready!(stalled.as_mut().poll(context));
        Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
    }
}

impl AsyncRead for WriteTimeout {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl AsyncWrite for WriteTimeout {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let outcome = Pin::new(&mut self.stream).poll_write(context, bytes);
        self.limit(outcome, context)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let outcome = Pin::new(&mut self.stream).poll_flush(context);
        self.limit(outcome, context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let outcome = Pin::new(&mut self.stream).poll_shutdown(context);
        self.limit(outcome, context)
    }
}

#[cfg(test)]
mod tests {
    use axum::{body::Body, response::IntoResponse as _, routing::get};
    use bytes::Bytes;
    use futures_util::stream;
    use tokio::{
        io::{AsyncReadExt as _, AsyncWriteExt as _},
        time::{Instant, timeout},
    };

    use super::*;

    /// A server whose `/flood` never ends.
    async fn server() -> (std::net::SocketAddr, tokio::task::JoinHandle<()>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let flood = || async {
            let chunk = Bytes::from(vec![b'x'; 1 << 16]);
            let endless = stream::repeat_with(move || Ok::<_, io::Error>(chunk.clone()));
            Body::from_stream(endless).into_response()
        };
        let router = Router::new().route("/", get(|| async { "well" })).route("/flood", get(flood));
        (address, tokio::spawn(serve(listener, router)))
    }

    async fn is_served(address: std::net::SocketAddr) -> bool {
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.write_all(b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").await.unwrap();
        let mut answer = String::new();
        timeout(Duration::from_secs(30), stream.read_to_string(&mut answer))
            .await
            .unwrap()
            .unwrap();
        answer.starts_with("HTTP/1.1 200") && answer.ends_with("well")
    }

    #[tokio::test]
    async fn stalled_clients_are_disconnected() {
        let (address, server) = server().await;
        assert!(is_served(address).await);
        let mut stalled = Vec::new();
        for number in 0..LIMITS.in_all {
            let mut stream = TcpStream::connect(address).await.unwrap();
            // Half never finish their request, half never read the answer.
            let head: &[u8] = if number % 2 == 0 {
                b"GET / HTTP/1.1\r\nHo"
            } else {
                b"GET /flood HTTP/1.1\r\nHost: x\r\n\r\n"
            };
            stream.write_all(head).await.unwrap();
            stalled.push(stream);
        }
        let began = Instant::now();
        assert!(is_served(address).await);
        assert!(began.elapsed() < WRITE_TIMEOUT / 2, "{:?}", began.elapsed());
        server.abort();
    }

    /// Reads until the server closes; returns what it sent, and after what time it closed.
    async fn read_all(stream: &mut TcpStream) -> (String, Duration) {
        let (began, mut answer) = (Instant::now(), Vec::new());
        let read = timeout(Duration::from_secs(30), stream.read_to_end(&mut answer)).await;
        let _ = read.expect("the server closes");
        (String::from_utf8_lossy(&answer).into_owned(), began.elapsed())
    }

    #[tokio::test]
    async fn idle_connections_make_room_and_end() {
        let (address, server) = server().await;
        let mut idle = Vec::new();
        for _ in 0..200 {
            idle.push(TcpStream::connect(address).await.unwrap());
        }
        let began = Instant::now();
        assert!(is_served(address).await);
        assert!(began.elapsed() < HEAD_TIMEOUT / 2, "{:?}", began.elapsed());
        // A head that does not end, a byte at a time, is not waited for longer.
        let mut slow = TcpStream::connect(address).await.unwrap();
        let sending = async {
            for byte in b"GET / HTTP/1.1\r\nHost: x\r\nX: ".iter().chain([b'y'; 100].iter()) {
                if slow.write_all(&[*byte]).await.is_err() {
                    return;
                }
                sleep(HEAD_TIMEOUT / 20).await;
            }
            panic!("it is never closed");
        };
        timeout(3 * HEAD_TIMEOUT, sending).await.expect("closed");
        for mut stream in idle {
            assert_eq!(read_all(&mut stream).await.0, "", "closed");
        }
        server.abort();
    }

    #[tokio::test]
    async fn a_client_that_closes_its_side_is_answered() {
        let (address, server) = server().await;
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.write_all(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
        stream.shutdown().await.unwrap();
        let (answer, _) = read_all(&mut stream).await;
        assert!(answer.starts_with("HTTP/1.1 200") && answer.ends_with("well"), "{answer}");
        server.abort();
    }
}
