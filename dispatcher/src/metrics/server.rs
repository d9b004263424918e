//! The address at which Prometheus asks. Whoever reaches it may read; nothing can be changed there.

use super::exporter::{CONTENT_TYPE, text};
use crate::control::socket::api::Problem;
use crate::control::socket::queue::Handle;
use crate::control::socket::serve::{Serving, Times, accept};
use axum::Router;
use axum::extract::State;
use axum::http::header;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use std::io;
use std::net::{SocketAddr, TcpListener};

/// Answers at this address, from a thread of its own, until what is returned is dropped.
///
/// # Errors
/// The address cannot be had.
pub fn start(address: SocketAddr, handle: Handle, times: Times) -> Result<Serving, String> {
    let said = |e: io::Error| format!("metrics at {address}: {e}");
    let listener = TcpListener::bind(address).map_err(said)?;
    listener.set_nonblocking(true).map_err(said)?;
    Serving::start("metrics", move || async move {
        match tokio::net::TcpListener::from_std(listener) {
            Ok(listener) => {
                let next = async || listener.accept().await.map(|(stream, _)| stream);
                accept(next, |_| Ok(None), router(handle), times).await;
            }
            Err(e) => eprintln!("dispatcher: metrics: {e}"),
        }
    })
    .map_err(said)
}

/// What can be asked.
pub fn router(handle: Handle) -> Router {
    Router::new()
        .route("/metrics", get(metrics))
        .fallback(async || Problem::new(404, "there is only GET /metrics here"))
        .method_not_allowed_fallback(async || Problem::new(405, "there is only GET /metrics here"))
        .with_state(handle)
}

async fn metrics(State(handle): State<Handle>) -> Result<Response, Problem> {
    let reading = handle.ask(|control| control.reading()).await?;
    Ok(([(header::CONTENT_TYPE, CONTENT_TYPE)], text(&reading)).into_response())
}
