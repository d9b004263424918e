//! Which request means what. Every answer is JSON; an error is [`Failure`](super::api::Failure) with its status.

use super::api::Problem;
use super::queue::{Control, Handle};
use axum::extract::{Extension, State};
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{MethodRouter, get, post};
use axum::{Json, Router};
use core::fmt;
use serde::Serialize;

/// Who is at the other end of a connection, as the kernel says (`SO_PEERCRED`).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Peer {
    /// Its user.
    pub uid: u32,
    /// Its process when it connected, where the kernel knows.
    pub pid: Option<i32>,
}

impl fmt::Display for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "uid {}", self.uid)?;
        self.pid.map_or(Ok(()), |pid| write!(f, ", pid {pid}"))
    }
}

/// What describes all of this, for programs.
pub const OPENAPI: &str = include_str!("../../../../docs/openapi.json");

/// Paths, and what answers them.
fn routes() -> Vec<(&'static str, MethodRouter<Handle>)> {
    vec![
        ("/v1", read(|c| c.overview())),
        ("/v1/services", read(|c| c.services())),
        ("/v1/backends", read(|c| c.backends())),
        ("/v1/sessions", read(|c| c.sessions())),
        ("/v1/workers", read(|c| c.workers())),
        ("/v1/drops", read(|c| c.drops())),
        ("/v1/log/reopen", post(reopen_log)),
        ("/v1/openapi.json", get(openapi)),
    ]
}

/// All paths.
pub fn paths() -> Vec<&'static str> {
    routes().iter().map(|(path, _)| *path).collect()
}

/// Answers requests by what `handle` leads to.
pub fn router(handle: Handle) -> Router {
    routes()
        .into_iter()
        .fold(Router::new(), |router, (path, answer)| router.route(path, answer))
        .fallback(async || Problem::new(404, "there is no such path: GET /v1/openapi.json describes all"))
        .method_not_allowed_fallback(async || {
            Problem::new(405, "this path does not take that method: GET /v1/openapi.json describes all")
        })
        .with_state(handle)
}

/// A path that changes nothing.
fn read<T: Serialize + Send + 'static>(ask: fn(&mut dyn Control) -> T) -> MethodRouter<Handle> {
    get(async move |State(handle): State<Handle>| handle.ask(ask).await.map(Json))
}

async fn reopen_log(State(handle): State<Handle>, Extension(peer): Extension<Peer>) -> Result<Response, Problem> {
    let done = handle.ask(move |c| said(peer, "log reopen", c.reopen_log())).await??;
    Ok(Json(done).into_response())
}

/// Says on standard error who had what done, and what came of it.
fn said<T>(peer: Peer, what: &str, done: Result<T, Problem>) -> Result<T, Problem> {
    match &done {
        Ok(_) => eprintln!("dispatcher: control: {what} ({peer})"),
        Err(problem) => eprintln!("dispatcher: control: {what} ({peer}): refused: {}", problem.failure.error),
    }
    done
}

async fn openapi() -> Response {
    ([(header::CONTENT_TYPE, HeaderValue::from_static("application/json"))], OPENAPI).into_response()
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let status = StatusCode::from_u16(self.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        (status, Json(self.failure)).into_response()
    }
}
