//! The Unix socket, and the bounds of whoever connects to it.
//!
//! One thread. A connection carries one request and is closed. What has a bound: connections at once (further ones wait in the kernel's
//! queue until one is closed), bytes of a request's head and of its body, and the time of a connection, so that a client that sends or
//! reads slowly, or not at all, gives its place back.

use super::queue::{Handle, PATIENCE};
use super::router::{Peer, router};
use axum::body::Body;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use socket2::{Domain, SockAddr, Socket, Type};
use std::fs::{File, Permissions};
use std::io::{self, ErrorKind};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::os::unix::net;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{Semaphore, oneshot};
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

/// A socket that is served, until this is dropped.
pub struct Server {
    path: PathBuf,
    /// Device and inode of the socket: what lies at `path` later may be another's.
    file: (u64, u64),
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

/// Makes the socket and answers at it from a thread of its own.
pub fn start(path: &Path, handle: Handle, times: Times) -> Result<Server, String> {
    let said = |e: io::Error| format!("control socket {}: {e}", path.display());
    make_room(path)?;
    let listener = bind(path).map_err(said)?;
    let file = path.symlink_metadata().map(|m| (m.dev(), m.ino())).map_err(said)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().enable_time().build().map_err(said)?;
    let (stop, stopped) = oneshot::channel();
    let thread = std::thread::Builder::new()
        .name("control".into())
        .spawn(move || {
            runtime.block_on(async {
                match UnixListener::from_std(listener) {
                    Ok(listener) => drop(tokio::spawn(accept(listener, handle, times))),
                    Err(e) => eprintln!("dispatcher: control socket: {e}"),
                }
                // Whether told or dropped, it is the end.
                let _ = stopped.await;
            });
        })
        .map_err(said)?;
    Ok(Server { path: path.to_owned(), file, stop: Some(stop), thread: Some(thread) })
}

impl Drop for Server {
    fn drop(&mut self) {
        if self.path.symlink_metadata().is_ok_and(|m| (m.dev(), m.ino()) == self.file) {
            let _ = std::fs::remove_file(&self.path);
        }
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Takes away the socket of a dispatcher that is no more. Refuses when one lives, or when something else lies there.
fn make_room(path: &Path) -> Result<(), String> {
    let shown = path.display();
    match path.symlink_metadata() {
        Err(e) if e.kind() == ErrorKind::NotFound => {
            let parent = path.parent().filter(|p| !p.as_os_str().is_empty() && !p.exists());
            parent
                .map_or(Ok(()), std::fs::create_dir)
                .map_err(|e| format!("control socket {shown}: its directory: {e}"))
        }
        Err(e) => Err(format!("control socket {shown}: {e}")),
        Ok(there) if !there.file_type().is_socket() => {
            Err(format!("control socket {shown}: something that is no socket lies there; another path: --control"))
        }
        Ok(_) => match net::UnixStream::connect(path) {
            Ok(_) => Err(format!(
                "control socket {shown}: another dispatcher answers there; stop it, or give this one another path by --control"
            )),
            Err(e) if e.kind() == ErrorKind::ConnectionRefused => std::fs::remove_file(path)
                .map_err(|e| format!("control socket {shown}: left by another, and cannot be removed: {e}")),
            Err(e) => Err(format!("control socket {shown}: {e}")),
        },
    }
}

/// For its owner only, from its first moment: Linux gives the file the mode that the socket has when it is bound.
fn bind(path: &Path) -> io::Result<net::UnixListener> {
    let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    let file = File::from(OwnedFd::from(socket));
    file.set_permissions(Permissions::from_mode(0o600))?;
    let socket = Socket::from(OwnedFd::from(file));
    socket.bind(&SockAddr::unix(path)?)?;
    // The umask may have taken something away, never added.
    socket.listen(CONNECTIONS as i32)?;
    socket.set_nonblocking(true)?;
    Ok(net::UnixListener::from(OwnedFd::from(socket)))
}

async fn accept(listener: UnixListener, handle: Handle, times: Times) {
    let router = router(handle);
    let places = Arc::new(Semaphore::new(CONNECTIONS));
    loop {
        // Never closed.
        let Ok(place) = places.clone().acquire_owned().await else { return };
        match listener.accept().await {
            Ok((stream, _)) => {
                let router = router.clone();
                tokio::spawn(async move {
                    // Whoever takes longer is cut off; what it asked of the owner goes on.
                    let _ = tokio::time::timeout(times.life, serve(stream, router, times.head)).await;
                    drop(place);
                });
            }
            // Out of file descriptors, or a client that is gone again: others may do better a little later.
            Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
        }
    }
}

/// One connection: one request, whose head has to be there within `head`. What is wrong with the connection itself is its client's to notice.
pub async fn serve(stream: UnixStream, router: axum::Router, head: Duration) {
    let Ok(who) = stream.peer_cred() else { return };
    let peer = Peer { uid: who.uid(), pid: who.pid() };
    let service = service_fn(move |request: hyper::Request<hyper::body::Incoming>| {
        let mut request = request.map(Body::new);
        request.extensions_mut().insert(peer);
        router.clone().call(request)
    });
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new()).header_read_timeout(head).max_buf_size(HEAD_BYTES).max_headers(HEADERS);
    let _ = http.keep_alive(false).serve_connection(TokioIo::new(stream), service).await;
}
