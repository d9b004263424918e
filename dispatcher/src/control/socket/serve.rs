//! One thread that answers connections, and the bounds of whoever connects.
//!
//! A connection carries one request and is closed. What has a bound: connections at once (further ones wait in the kernel's
//! queue until one is closed), bytes of a request's head and of its body, and the time of a connection, so that a client that sends or
//! reads slowly, or not at all, gives its place back.

use super::queue::PATIENCE;
use super::router::Peer;
use axum::Router;
use axum::body::Body;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use std::future::poll_fn;
use std::io;
use std::pin::pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::thread::JoinHandle;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::{Semaphore, oneshot};
use tokio::time::Instant;
use tower_service::Service;

/// Connections served at once.
pub const CONNECTIONS: usize = 32;

/// Bytes of a request line and headers.
const HEAD_BYTES: usize = 16 << 10;

/// Headers of a request.
const HEADERS: usize = 32;

/// How long things may take.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Times {
    /// A request's head.
    pub head: Duration,
    /// A connection, from its first moment to its last.
    pub life: Duration,
}

impl Default for Times {
    fn default() -> Times {
        // A connection lives longer than an answer may take.
        Times { head: Duration::from_secs(5), life: PATIENCE + Duration::from_secs(10) }
    }
}

/// How long a connection may go on: as long as its answer is short, for [`Times::life`]; where it goes on and is read, for that long again each
/// time that it is asked for more.
#[derive(Clone, Debug)]
pub struct Lease {
    life: Duration,
    until: Arc<Mutex<Instant>>,
}

impl Lease {
    /// From now on.
    pub fn new(life: Duration) -> Lease {
        Lease { life, until: Arc::new(Mutex::new(Instant::now() + life)) }
    }

    /// Once more.
    pub fn renew(&self) {
        *self.until.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now() + self.life;
    }

    fn until(&self) -> Instant {
        *self.until.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A thread that answers until this is dropped.
pub struct Serving {
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Serving {
    /// A thread of this name, which does `accept` until the end.
    ///
    /// # Errors
    /// There is no thread to be had, or no runtime for it.
    pub fn start<F: Future<Output = ()>>(
        name: &str,
        accept: impl FnOnce() -> F + Send + 'static,
    ) -> io::Result<Serving> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_io().enable_time().build()?;
        let (stop, stopped) = oneshot::channel();
        let thread = std::thread::Builder::new().name(name.into()).spawn(move || {
            runtime.block_on(async {
                let (mut accept, mut stopped) = (pin!(accept()), pin!(stopped));
                // Whether told or dropped, it is the end.
                let both = |cx: &mut Context<'_>| {
                    let over = stopped.as_mut().poll(cx).is_ready() || accept.as_mut().poll(cx).is_ready();
                    if over { Poll::Ready(()) } else { Poll::Pending }
                };
                poll_fn(both).await;
            });
        })?;
        Ok(Serving { stop: Some(stop), thread: Some(thread) })
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Serves whoever `next` brings. `who` says who it is, where that can be known; whoever it fails for is not answered.
pub async fn accept<S: AsyncRead + AsyncWrite + Unpin + Send + 'static>(
    next: impl AsyncFn() -> io::Result<S>,
    who: impl Fn(&S) -> io::Result<Option<Peer>>,
    router: Router,
    times: Times,
) {
    let places = Arc::new(Semaphore::new(CONNECTIONS));
    loop {
        // Never closed.
        let Ok(place) = places.clone().acquire_owned().await else { return };
        match next().await {
            Ok(stream) => {
                let (router, peer) = (router.clone(), who(&stream));
                tokio::spawn(async move {
                    if let Ok(peer) = peer {
                        let lease = Lease::new(times.life);
                        let mut serving = pin!(serve(stream, peer, router, times.head, lease.clone()));
                        // Whoever takes longer is cut off; what it asked of the owner goes on.
                        while tokio::time::timeout_at(lease.until(), &mut serving).await.is_err()
                            && lease.until() > Instant::now()
                        {}
                    }
                    drop(place);
                });
            }
            // Out of file descriptors, or a client that is gone again: others may do better a little later.
            Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
        }
    }
}

/// One connection: one request, whose head has to be there within `head`. What is wrong with the connection itself is its client's to notice.
pub async fn serve(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    peer: Option<Peer>,
    router: Router,
    head: Duration,
    lease: Lease,
) {
    let service = service_fn(move |request: hyper::Request<hyper::body::Incoming>| {
        let mut request = request.map(Body::new);
        request.extensions_mut().insert(lease.clone());
        if let Some(peer) = peer {
            request.extensions_mut().insert(peer);
        }
        router.clone().call(request)
    });
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new()).header_read_timeout(head).max_buf_size(HEAD_BYTES).max_headers(HEADERS);
    let _ = http.keep_alive(false).serve_connection(TokioIo::new(stream), service).with_upgrades().await;
}
