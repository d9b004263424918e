//! One request to a dispatcher's control socket.

use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper::{Method, Request, Response, header};
use hyper_util::rt::TokioIo;
use std::io::ErrorKind;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio::net::UnixStream;
use tokio::runtime::Runtime;

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
    runtime()?.block_on(async {
        match tokio::time::timeout(PATIENCE, exchange(socket, question)).await {
            Ok(answer) => answer,
            Err(_) => Err(format!("{}: no answer within {} s", socket.display(), PATIENCE.as_secs())),
        }
    })
}

/// How often a stream that says nothing looks whether it is to stop.
const LOOK: Duration = Duration::from_millis(100);

/// Asks for what goes on, and gives each piece of it to `each` until this has enough, or `stop` is set. An answer that is a refusal is told whole.
/// `Err`: one line.
pub fn stream(
    socket: &Path,
    question: Question,
    stop: &AtomicBool,
    mut each: impl FnMut(&[u8]) -> bool,
) -> Result<Answer, String> {
    runtime()?.block_on(async {
        let response = match tokio::time::timeout(PATIENCE, begin(socket, question)).await {
            Ok(response) => response?,
            Err(_) => return Err(format!("{}: no answer within {} s", socket.display(), PATIENCE.as_secs())),
        };
        let status = response.status().as_u16();
        let mut body = response.into_body();
        if !(200..300).contains(&status) {
            let body = Limited::new(body, LARGEST).collect().await.map_err(|e| lost(socket, &e))?.to_bytes();
            return Ok(Answer { status, body });
        }
        while !stop.load(Ordering::Relaxed) {
            match tokio::time::timeout(LOOK, body.frame()).await {
                Err(_) => continue,
                Ok(None) => break,
                Ok(Some(Err(e))) => return Err(lost(socket, &e)),
                Ok(Some(Ok(frame))) => {
                    if frame.data_ref().is_some_and(|more| !each(more)) {
                        break;
                    }
                }
            }
        }
        Ok(Answer { status, body: Bytes::new() })
    })
}

fn lost(socket: &Path, e: &dyn std::fmt::Display) -> String {
    format!("{}: the connection broke before the answer was there: {e}", socket.display())
}

fn runtime() -> Result<Runtime, String> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().enable_time().build();
    runtime.map_err(|e| format!("cannot ask: {e}"))
}

async fn exchange(socket: &Path, question: Question) -> Result<Answer, String> {
    let response = begin(socket, question).await?;
    let status = response.status().as_u16();
    let body = Limited::new(response.into_body(), LARGEST).collect().await.map_err(|e| lost(socket, &e))?.to_bytes();
    Ok(Answer { status, body })
}

/// Up to the answer's head.
async fn begin(socket: &Path, question: Question) -> Result<Response<Incoming>, String> {
    let shown = socket.display();
    let stream = UnixStream::connect(socket).await.map_err(|e| match e.kind() {
        ErrorKind::NotFound | ErrorKind::ConnectionRefused => {
            format!("no dispatcher answers at {shown} (run it with --control, and name its socket by --socket)")
        }
        _ => format!("{shown}: {e}"),
    })?;
    let (mut send, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(|e| lost(socket, &e))?;
    tokio::spawn(connection);
    let Question { method, path, only_if, body } = question;
    let mut request = Request::builder().method(method).uri(&path).header(header::HOST, "dispatcher");
    if let Some(version) = only_if {
        request = request.header(header::IF_MATCH, format!("\"{version}\""));
    }
    let request = request.body(Full::new(body)).map_err(|e| format!("cannot ask for {path}: {e}"))?;
    send.send_request(request).await.map_err(|e| lost(socket, &e))
}
