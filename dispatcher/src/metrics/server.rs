//! The address at which Prometheus asks, and browsers. Whoever reaches it may read; nothing can be changed there.

use super::exporter::{CONTENT_TYPE, text};
use super::page::Page;
use crate::control::socket::api::Problem;
use crate::control::socket::queue::Handle;
use crate::control::socket::serve::{Serving, Times, accept};
use axum::extract::State;
use axum::http::header;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

/// Answers at this address, from a thread of its own, until what is returned is dropped.
///
/// # Errors
/// The address cannot be had.
pub fn start(address: SocketAddr, handle: Handle, times: Times) -> Result<Server, String> {
    let listener = TcpListener::bind(address).map_err(|e| format!("metrics at {address}: {e}"))?;
    go_on(address, listener, handle, times)
}

/// The same at a socket that another process has made and passed.
///
/// # Errors
/// There is no thread to be had.
pub fn go_on(address: SocketAddr, listener: TcpListener, handle: Handle, times: Times) -> Result<Server, String> {
    let said = |e: io::Error| format!("metrics at {address}: {e}");
    let shared = OwnedFd::from(listener.try_clone().map_err(said)?);
    listener.set_nonblocking(true).map_err(said)?;
    Serving::start("metrics", move || async move {
        match tokio::net::TcpListener::from_std(listener) {
            Ok(listener) => {
                let next = async || listener.accept().await.map(|(stream, _)| stream);
                accept(next, |_| Ok(None), router(handle), times).await;
            }
            Err(e) => tracing::error!("metrics: {e}"),
        }
    })
    .map_err(said)
    .map(|serving| Server { address, listener: shared, _serving: serving })
}

/// Answers until this is dropped.
pub struct Server {
    /// Where.
    pub address: SocketAddr,
    listener: OwnedFd,
    _serving: Serving,
}

impl Server {
    /// What another process needs to go on with it.
    pub fn listener(&self) -> BorrowedFd<'_> {
        self.listener.as_fd()
    }
}

/// What can be asked.
pub fn router(handle: Handle) -> Router {
    let page = Page::status();
    Router::new()
        .route("/", get(async move || shown(&page)))
        .route("/status.json", get(status))
        .route("/metrics", get(metrics))
        .fallback(async || Problem::new(404, HERE))
        .method_not_allowed_fallback(async || Problem::new(405, HERE))
        .with_state(handle)
}

/// The page shows so many.
const EVENTS: usize = 50;

/// Said to whoever asks for something else.
const HERE: &str = "there is only GET / (a page), /status.json and /metrics here";

/// The page, with leave to run its own script, to ask this address, and for nothing else.
fn shown(page: &Page) -> Response {
    let head = [
        (header::CONTENT_TYPE, "text/html; charset=utf-8"),
        (header::CONTENT_SECURITY_POLICY, &page.policy),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::REFERRER_POLICY, "no-referrer"),
        (header::CACHE_CONTROL, "no-cache"),
    ];
    (head, page.html.clone()).into_response()
}

async fn status(State(handle): State<Handle>) -> Result<Response, Problem> {
    let events = handle.events().latest(EVENTS).events;
    let status = handle.ask(|control| control.status(events)).await?;
    let head = [(header::CACHE_CONTROL, "no-store"), (header::X_CONTENT_TYPE_OPTIONS, "nosniff")];
    Ok((head, Json(status)).into_response())
}

async fn metrics(State(handle): State<Handle>) -> Result<Response, Problem> {
    let reading = handle.ask(|control| control.reading()).await?;
    Ok(([(header::CONTENT_TYPE, CONTENT_TYPE)], text(&reading)).into_response())
}
