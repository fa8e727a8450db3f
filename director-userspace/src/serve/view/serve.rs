//! HTTP for read-only clients: metrics and the status page. A client, however slow, costs a bounded
//! amount of memory and does not delay other clients.

use std::{
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use axum::Router;
use hyper::server::conn::http1;
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    service::TowerToHyperService,
};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::{TcpListener, TcpStream},
    sync::Semaphore,
    task::JoinSet,
    time::{Sleep, sleep},
};

/// Most connections at once; more wait in the kernel's queue.
const MAX_CONNECTIONS: usize = 64;
/// Timeout of a request's head, and of an idle connection.
const HEAD_TIMEOUT: Duration = Duration::from_secs(if cfg!(test) { 1 } else { 10 });
/// How long a client may receive nothing of what is sent to it.
const WRITE_TIMEOUT: Duration = Duration::from_secs(if cfg!(test) { 1 } else { 10 });
/// Largest request head, bytes.
const BUFFER: usize = 16 << 10;

/// Serves `router` on `listener` until dropped; then every connection ends.
pub async fn serve(listener: TcpListener, router: Router) {
    let permits = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    let mut connections = JoinSet::new();
    loop {
        // Never closed.
        let Ok(permit) = permits.clone().acquire_owned().await else { return };
        let Ok((stream, _)) = listener.accept().await else {
            // Most likely no descriptors are left: others will be closed.
            sleep(Duration::from_millis(100)).await;
            continue;
        };
        while connections.try_join_next().is_some() {}
        let service = TowerToHyperService::new(router.clone());
        connections.spawn(async move {
            let _permit = permit;
            let mut builder = http1::Builder::new();
            builder.timer(TokioTimer::new()).header_read_timeout(HEAD_TIMEOUT).max_buf_size(BUFFER);
            // Errors of a connection concern its client only.
            let _ =
                builder.serve_connection(TokioIo::new(WriteTimeout::new(stream)), service).await;
        });
    }
}

/// A stream whose writes fail when its peer receives nothing for [`WRITE_TIMEOUT`].
struct WriteTimeout {
    stream: TcpStream,
    stalled: Option<Pin<Box<Sleep>>>,
}

impl WriteTimeout {
    fn new(stream: TcpStream) -> Self {
        Self { stream, stalled: None }
    }

    /// Returns the outcome of a write, or a timeout if it has been pending for too long.
    fn limit<T>(
        &mut self,
        outcome: Poll<io::Result<T>>,
        context: &mut Context<'_>,
    ) -> Poll<io::Result<T>> {
        if outcome.is_ready() {
            self.stalled = None;
            return outcome;
        }
        let stalled = self.stalled.get_or_insert_with(|| Box::pin(sleep(WRITE_TIMEOUT)));
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
        for number in 0..MAX_CONNECTIONS {
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
        assert!(began.elapsed() < 5 * WRITE_TIMEOUT, "{:?}", began.elapsed());
        server.abort();
    }
}
