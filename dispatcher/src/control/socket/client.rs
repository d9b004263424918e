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

/// What is asked.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Question {
    /// Of HTTP.
    pub method: Method,
    /// With what stands behind it.
    pub path: String,
    /// Only if this version is in force.
    pub only_if: Option<String>,
    /// May be empty.
    pub body: Bytes,
}

impl Question {
    /// Without a body.
    pub fn new(method: Method, path: impl Into<String>) -> Question {
        Question { method, path: path.into(), ..Question::default() }
    }
}

/// A name as it stands in a path.
pub fn escaped(name: &str) -> String {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"-._~".contains(&b);
    name.bytes().map(|b| if plain(b) { char::from(b).to_string() } else { format!("%{b:02X}") }).collect()
}

/// Asks, and waits for the answer. `Err`: one line.
pub fn request(socket: &Path, question: Question) -> Result<Answer, String> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_io()
        .enable_time()
        .build()
        .map_err(|e| format!("cannot ask: {e}"))?;
    runtime.block_on(async {
        match tokio::time::timeout(PATIENCE, exchange(socket, question)).await {
            Ok(answer) => answer,
            Err(_) => Err(format!("{}: no answer within {} s", socket.display(), PATIENCE.as_secs())),
        }
    })
}

async fn exchange(socket: &Path, question: Question) -> Result<Answer, String> {
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
    let Question { method, path, only_if, body } = question;
    let mut request = Request::builder().method(method).uri(&path).header(header::HOST, "dispatcher");
    if let Some(version) = only_if {
        request = request.header(header::IF_MATCH, format!("\"{version}\""));
    }
    let request = request.body(Full::new(body)).map_err(|e| format!("cannot ask for {path}: {e}"))?;
    let response = send.send_request(request).await.map_err(|e| lost(&e))?;
    let status = response.status().as_u16();
    let body = Limited::new(response.into_body(), LARGEST).collect().await.map_err(|e| lost(&e))?.to_bytes();
    Ok(Answer { status, body })
}
