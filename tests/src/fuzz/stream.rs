//! A connection whose peer has sent everything, and reads everything.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll},
};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// What the peer sent, in portions, and then its end; what is written is counted.
pub(super) struct Sent {
    bytes: Vec<u8>,
    at: usize,
    portion: usize,
}

impl Sent {
    pub(super) fn new(bytes: &[u8], portion: usize) -> Self {
        Self { bytes: bytes.to_vec(), at: 0, portion: portion.max(1) }
    }
}

impl AsyncRead for Sent {
    fn poll_read(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let length = (self.bytes.len() - self.at).min(self.portion).min(buffer.remaining());
        buffer.put_slice(&self.bytes[self.at..self.at + length]);
        self.at += length;
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Sent {
    fn poll_write(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

/// Runs one exchange to its end.
///
/// # Panics
///
/// If it has not ended after ten seconds.
pub(super) fn run<T>(exchange: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build();
    let runtime = runtime.expect("a runtime");
    let limit = std::time::Duration::from_secs(10);
    let result = runtime.block_on(async { tokio::time::timeout(limit, exchange).await });
    runtime.shutdown_background();
    result.expect("an exchange ends when its peer has sent everything")
}
