//! The Unix socket: who may have it, and what lies at its path before and after.

use super::queue::Handle;
use super::router::{Peer, router};
use super::serve::{self, CONNECTIONS, Serving, Times};
use socket2::{Domain, SockAddr, Socket, Type};
use std::fs::{File, Permissions};
use std::io::{self, ErrorKind};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::os::unix::net;
use std::path::{Path, PathBuf};
use tokio::net::{UnixListener, UnixStream};

/// A socket that is served, until this is dropped.
pub struct Server {
    path: PathBuf,
    /// The same as the thread has.
    listener: OwnedFd,
    /// Another process has it, too.
    passed: bool,
    /// Device and inode of the socket: what lies at `path` later may be another's.
    file: (u64, u64),
    serving: Option<Serving>,
}

/// Makes the socket and answers at it from a thread of its own.
pub fn start(path: &Path, handle: Handle, times: Times) -> Result<Server, String> {
    let said = |e: io::Error| format!("control socket {}: {e}", path.display());
    make_room(path)?;
    let listener = bind(path).map_err(said)?;
    serve_at(path, listener, handle, times)
}

/// Answers at the socket that another process has made and passed.
pub fn go_on(path: &Path, listener: OwnedFd, handle: Handle, times: Times) -> Result<Server, String> {
    serve_at(path, net::UnixListener::from(listener), handle, times)
}

fn serve_at(path: &Path, listener: net::UnixListener, handle: Handle, times: Times) -> Result<Server, String> {
    let said = |e: io::Error| format!("control socket {}: {e}", path.display());
    let shared = listener.try_clone().map_err(said)?.into();
    let file = path.symlink_metadata().map(|m| (m.dev(), m.ino())).map_err(said)?;
    let serving = Serving::start("control", move || async move {
        match UnixListener::from_std(listener) {
            Ok(listener) => {
                let next = async || listener.accept().await.map(|(stream, _)| stream);
                let who =
                    |stream: &UnixStream| stream.peer_cred().map(|who| Some(Peer { uid: who.uid(), pid: who.pid() }));
                serve::accept(next, who, router(handle), times).await;
            }
            Err(e) => tracing::error!("control socket: {e}"),
        }
    })
    .map_err(said)?;
    Ok(Server { path: path.to_owned(), listener: shared, passed: false, file, serving: Some(serving) })
}

impl Server {
    /// What another process needs to go on with it.
    pub fn listener(&self) -> BorrowedFd<'_> {
        self.listener.as_fd()
    }

    /// Another process answers here from now on: what lies at the path is its.
    pub fn pass_on(mut self) {
        self.passed = true;
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if !self.passed && self.path.symlink_metadata().is_ok_and(|m| (m.dev(), m.ino()) == self.file) {
            let _ = std::fs::remove_file(&self.path);
        }
        // Nobody can connect any more; those who are connected are cut off.
        drop(self.serving.take());
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
