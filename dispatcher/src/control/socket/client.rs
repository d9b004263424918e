//! One request to a dispatcher's control socket.

use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::client::conn::http1;
use hyper::{Method, Request, header};
use hyper_util::rt::TokioIo;
use std::io::ErrorKind;
use std::path::Path;
use std::time::Duration;
use tokio::net::UnixStream;

/// How long an answer is waited for: longer than the server takes to give up.
const PATIENCE: Duration = Duration::from_secs(40);

/// Largest answer that is taken.
const LARGEST: usize = 64 << 20;

/// What was answered.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Answer {
    /// Of HTTP.
    pub status: u16,
    /// JSON.
    pub body: Bytes,
}

/// Asks, and waits for the answer. `Err`: one line.
pub fn request(socket: &Path, method: Method, path: &str) -> Result<Answer, String> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_io()
        .enable_time()
        .build()
        .map_err(|e| format!("cannot ask: {e}"))?;
    runtime.block_on(async {
        match tokio::time::timeout(PATIENCE, exchange(socket, method, path)).await {
            Ok(answer) => answer,
            Err(_) => Err(format!("{}: no answer within {} s", socket.display(), PATIENCE.as_secs())),
        }
    })
}

async fn exchange(socket: &Path, method: Method, path: &str) -> Result<Answer, String> {
    let shown = socket.display();
    let stream = UnixStream::connect(socket).await.map_err(|e| match e.kind() {
        ErrorKind::NotFound | ErrorKind::ConnectionRefused => {
            format!("no dispatcher answers at {shown} (run it with --control, and name its socket by --socket)")
        }
        _ => format!("{shown}: {e}"),
    })?;
    let lost = |e: &dyn std::fmt::Display| format!("{shown}: the connection broke before the answer was there: {e}");
    let (mut send, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(|e| lost(&e))?;
    tokio::spawn(connection);
    let request = Request::builder()
        .method(method)
        .uri(path)
        .header(header::HOST, "dispatcher")
        .body(Full::new(Bytes::new()))
        .map_err(|e| format!("cannot ask for {path}: {e}"))?;
    let response = send.send_request(request).await.map_err(|e| lost(&e))?;
    let status = response.status().as_u16();
    let body = Limited::new(response.into_body(), LARGEST).collect().await.map_err(|e| lost(&e))?.to_bytes();
    Ok(Answer { status, body })
}
