//! Which request means what. Every answer is JSON; an error is [`Failure`](super::api::Failure) with its status.

use super::api::Problem;
use super::capture::{self, Recorded};
use super::connections::Asked as Connections;
use super::explain::Asked as Explain;
use super::orders;
use super::queue::{Control, Handle, PATIENCE, Upload};
use super::serve::Lease;
use crate::control::file::MAX_FILE;
use crate::control::overrides::Order;
use axum::body::Body;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Extension, Path, Query, Request, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{MethodRouter, delete, get, post, put};
use axum::{Json, Router};
use bytes::Bytes;
use core::fmt;
use http_body_util::{BodyExt, LengthLimitError, Limited};
use hyper_util::rt::TokioIo;
use lb::State as Wanted;
use serde::{Deserialize, Serialize};
use std::time::Duration;
use tokio::net::UnixStream;
use tokio::sync::Semaphore;

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
        ("/v1/status", get(status)),
        ("/v1/services", read(|c| c.services())),
        ("/v1/backends", read(|c| c.backends())),
        (
            "/v1/sessions",
            read(|c| {
                let backends = c.backends();
                c.sessions(&backends)
            }),
        ),
        ("/v1/workers", read(|c| c.workers())),
        ("/v1/drops", read(|c| c.drops())),
        ("/v1/queues", read(|c| c.queues())),
        ("/v1/tunnels", read(|c| c.tunnels())),
        ("/v1/capture", get(capture)),
        ("/v1/connections", get(connections)),
        ("/v1/explain", get(explain)),
        ("/v1/events", get(events)),
        ("/v1/configuration", read(|c| c.configuration()).put(apply)),
        ("/v1/reload", post(reload)),
        ("/v1/diff", get(diff)),
        ("/v1/backends/{backend}", delete(remove)),
        ("/v1/backends/{backend}/drain", state(Wanted::Draining)),
        ("/v1/backends/{backend}/ready", state(Wanted::Up)),
        ("/v1/backends/{backend}/disable", state(Wanted::Down)),
        ("/v1/backends/{backend}/weight", put(weight)),
        ("/v1/backends/{backend}/sessions", delete(forget)),
        ("/v1/pools/{pool}/backends", post(add)),
        ("/v1/log/reopen", post(reopen_log)),
        ("/v1/takeover", post(take_over)),
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
    get(async move |State(handle): State<Handle>| looked(handle.ask(move |c| Ok((c.version(), ask(c)))).await))
}

/// What is told, with the version that it is of as a validator for who wants to change something.
fn looked<T: Serialize>(told: Result<Result<(String, T), Problem>, Problem>) -> Result<Response, Problem> {
    let (version, told) = told??;
    let tag = HeaderValue::from_str(&format!("\"{version}\"")).ok();
    Ok((tag.map(|tag| [(header::ETAG, tag)]), Json(told)).into_response())
}

/// Does something, if the version is in force that the request names, and says on standard error who had it done.
async fn change<T: Serialize + Send + 'static>(
    handle: Handle,
    headers: &HeaderMap,
    who: Peer,
    what: String,
    job: impl FnOnce(&mut dyn Control) -> Result<T, Problem> + Send + 'static,
) -> Result<Response, Problem> {
    let only_if = match headers.get(header::IF_MATCH).map(|tag| tag.to_str()) {
        None | Some(Ok("*")) => None,
        Some(Ok(tag)) => Some(tag.trim_matches('"').to_string()),
        Some(Err(_)) => return Err(Problem::new(400, "If-Match: that is no version")),
    };
    let done = handle.ask(move |c| {
        let now = c.version();
        let done = match only_if {
            Some(version) if version != now => Err(Problem::new(
                412,
                format!("version {now} is in force, not {version}: somebody has changed something; nothing was done"),
            )),
            _ => job(c),
        };
        said(who, &what, done)
    });
    done.await?.map(|done| Json(done).into_response())
}

/// What the connection is for, once it is no longer for HTTP.
pub const TAKEOVER: &str = "dispatcher-takeover";

/// Another process wants to take over: the connection is its from now on.
async fn take_over(
    State(handle): State<Handle>,
    Extension(who): Extension<Peer>,
    request: Request,
) -> Result<Response, Problem> {
    let wanted = request.headers().get(header::UPGRADE).is_some_and(|upgrade| upgrade == TAKEOVER);
    if !wanted {
        return Err(Problem::new(426, format!("Upgrade: {TAKEOVER}: for dispatcher run --takeover")));
    }
    let upgraded = hyper::upgrade::on(request);
    tokio::spawn(async move {
        let Ok(upgraded) = upgraded.await else { return };
        let Ok(parts) = upgraded.downcast::<TokioIo<UnixStream>>() else { return };
        // Nothing is said before we have answered.
        let Ok(stream) = parts.io.into_inner().into_std() else { return };
        _ = handle.ask(move |c| c.take_over(who, stream)).await;
    });
    let head = [(header::UPGRADE, TAKEOVER), (header::CONNECTION, "upgrade")];
    Ok((StatusCode::SWITCHING_PROTOCOLS, head).into_response())
}

async fn reopen_log(
    State(handle): State<Handle>,
    Extension(who): Extension<Peer>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    change(handle, &headers, who, "log reopen".to_string(), |c| c.reopen_log()).await
}

/// What may stand behind the path of a configuration that is taken over.
#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields, default)]
struct HowToApply {
    name: Option<String>,
    dry_run: bool,
}

type Asked<T> = Result<Query<T>, QueryRejection>;

async fn apply(
    State(handle): State<Handle>,
    Extension(who): Extension<Peer>,
    asked: Asked<HowToApply>,
    headers: HeaderMap,
    request: Request,
) -> Result<Response, Problem> {
    let HowToApply { name, dry_run } = query(asked)?;
    let name = name.unwrap_or_else(|| "configuration".to_string());
    if name.len() > MAX_PATH || name.chars().any(char::is_control) {
        return Err(Problem::new(400, "name: that is no name of a file"));
    }
    let text = body(request, MAX_FILE).await?.to_vec();
    let what = format!("apply {name}{}", dry(dry_run));
    change(handle, &headers, who, what, move |c| c.apply(Upload { name, text, dry_run })).await
}

fn dry(run: bool) -> &'static str {
    if run { " --dry-run" } else { "" }
}

/// What may stand behind the path of a reload.
#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields, default)]
struct HowToReload {
    dry_run: bool,
}

async fn reload(
    State(handle): State<Handle>,
    Extension(who): Extension<Peer>,
    asked: Asked<HowToReload>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let HowToReload { dry_run } = query(asked)?;
    change(handle, &headers, who, format!("reload{}", dry(dry_run)), move |c| c.reload(dry_run)).await
}

/// What may stand behind the path of events.
#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields, default)]
struct Which {
    after: Option<u64>,
    wait: u64,
}

/// Events in one answer.
pub const EVENTS: usize = 1000;

/// Who waits for events at once. Further ones are answered at once, so that they do not keep others from the socket.
const WAITING: usize = super::serve::CONNECTIONS / 4;
static WAIT: Semaphore = Semaphore::const_new(WAITING);

/// Those behind a number, at once; or, with `wait`, when there are any, or after so many seconds.
async fn events(State(handle): State<Handle>, asked: Asked<Which>) -> Result<Response, Problem> {
    let Which { after, wait } = query(asked)?;
    let events = handle.events();
    let Some(after) = after else { return Ok(Json(events.latest(EVENTS)).into_response()) };
    if wait > 0
        && let Ok(_place) = WAIT.try_acquire()
    {
        let patience = Duration::from_secs(wait).min(PATIENCE);
        // Whether there is one or not: what there is is told.
        let _ = tokio::time::timeout(patience, events.wait(after)).await;
    }
    Ok(Json(events.after(after, EVENTS)).into_response())
}

/// Whoever asks for connections has them looked for alone: the next one waits for his turn.
static LISTING: Semaphore = Semaphore::const_new(1);

async fn connections(State(handle): State<Handle>, asked: Asked<Connections>) -> Result<Response, Problem> {
    let asked = query(asked)?;
    // Never closed.
    let _alone = LISTING.acquire().await;
    let walking = handle.ask(move |c| c.look_for(&asked)).await??;
    walking.wait().await;
    looked(handle.ask(move |c| Ok((c.version(), c.connections(&walking)))).await)
}

/// What may stand behind the path of all that is shown.
#[derive(Deserialize)]
#[serde(deny_unknown_fields, default)]
struct HowMany {
    events: usize,
}

impl Default for HowMany {
    fn default() -> HowMany {
        HowMany { events: 50 }
    }
}

async fn status(State(handle): State<Handle>, asked: Asked<HowMany>) -> Result<Response, Problem> {
    let HowMany { events } = query(asked)?;
    let events = handle.events().latest(events.min(EVENTS)).events;
    looked(handle.ask(|c| Ok((c.version(), c.status(events)))).await)
}

async fn explain(State(handle): State<Handle>, asked: Asked<Explain>) -> Result<Response, Problem> {
    let asked = query(asked)?;
    // Never closed.
    let _alone = LISTING.acquire().await;
    let walking = handle.ask(move |c| c.look_for_trails(&asked)).await??;
    walking.wait().await;
    looked(handle.ask(move |c| Ok((c.version(), c.explanations(&walking)))).await)
}

/// A pcapng file of frames as they pass, until its time is over, it has enough, or nobody reads it.
async fn capture(
    State(handle): State<Handle>,
    Extension(who): Extension<Peer>,
    Extension(lease): Extension<Lease>,
    asked: Asked<capture::Asked>,
    request: Request,
) -> Result<Response, Problem> {
    let asked = query(asked)?;
    // Only when all of a request has been read it is noticed that whoever sent it has gone.
    body(request, ORDER_BYTES).await?;
    let Some(alone) = handle.capture() else {
        return Err(Problem::new(409, "somebody captures already, and there is one capture at a time"));
    };
    let taps = handle.ask(move |c| said(who, "capture", c.capture(&asked))).await??;
    let file = Recorded::new(taps, lease, alone).map_err(|e| Problem::new(500, e.to_string()))?;
    Ok(([(header::CONTENT_TYPE, HeaderValue::from_static(PCAPNG))], Body::new(file)).into_response())
}

/// The type of a pcapng file.
pub const PCAPNG: &str = "application/x-pcapng";

async fn diff(State(handle): State<Handle>) -> Result<Response, Problem> {
    looked(handle.ask(|c| Ok((c.version(), c.diff()?))).await)
}

fn state(wanted: Wanted) -> MethodRouter<Handle> {
    post(
        async move |State(handle): State<Handle>,
                    Extension(who): Extension<Peer>,
                    Path(backend): Path<String>,
                    headers: HeaderMap,
                    request: Request| {
            let order = orders::state(who, wanted, &backend, &body(request, ORDER_BYTES).await?);
            follow(handle, &headers, who, order).await
        },
    )
}

async fn weight(
    State(handle): State<Handle>,
    Extension(who): Extension<Peer>,
    Path(backend): Path<String>,
    headers: HeaderMap,
    request: Request,
) -> Result<Response, Problem> {
    let order = orders::weight(who, &backend, &body(request, ORDER_BYTES).await?);
    follow(handle, &headers, who, order).await
}

async fn add(
    State(handle): State<Handle>,
    Extension(who): Extension<Peer>,
    Path(pool): Path<String>,
    headers: HeaderMap,
    request: Request,
) -> Result<Response, Problem> {
    let order = orders::add(who, &pool, &body(request, ORDER_BYTES).await?);
    follow(handle, &headers, who, order).await
}

/// What may stand behind the path of a backend that is to go.
#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields, default)]
struct HowToRemove {
    now: bool,
}

async fn remove(
    State(handle): State<Handle>,
    Extension(who): Extension<Peer>,
    Path(backend): Path<String>,
    asked: Asked<HowToRemove>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    follow(handle, &headers, who, orders::remove(who, &backend, query(asked)?.now)).await
}

async fn forget(
    State(handle): State<Handle>,
    Extension(who): Extension<Peer>,
    Path(backend): Path<String>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let backend = orders::name("backend", &backend)?;
    let what = format!("sessions forget {backend}");
    change(handle, &headers, who, what, move |c| c.forget(&backend)).await
}

async fn follow(
    handle: Handle,
    headers: &HeaderMap,
    who: Peer,
    order: Result<Order, Problem>,
) -> Result<Response, Problem> {
    let order = order?;
    change(handle, headers, who, order.what.to_string(), move |c| c.order(order)).await
}

fn query<T>(asked: Asked<T>) -> Result<T, Problem> {
    asked.map(|Query(asked)| asked).map_err(|e| Problem::new(400, e.body_text()))
}

/// Largest body of any other request.
pub const ORDER_BYTES: usize = 16 << 10;

/// Longest name of a file.
const MAX_PATH: usize = 4096;

/// A request's whole body. That it comes at all is the connection's time's to see to.
async fn body(request: Request, most: usize) -> Result<Bytes, Problem> {
    match Limited::new(request.into_body(), most).collect().await {
        Ok(whole) => Ok(whole.to_bytes()),
        Err(e) if e.is::<LengthLimitError>() => Err(Problem::new(413, format!("the body is longer than {most} bytes"))),
        Err(_) => Err(Problem::new(400, "the body ends too soon")),
    }
}

/// Says on standard error who had what done, and what came of it.
fn said<T>(peer: Peer, what: &str, done: Result<T, Problem>) -> Result<T, Problem> {
    match &done {
        Ok(_) => tracing::info!(uid = peer.uid, pid = peer.pid, "control: {what} ({peer})"),
        Err(problem) => {
            let why = &problem.failure.error;
            tracing::info!(uid = peer.uid, pid = peer.pid, "control: {what} ({peer}): refused: {why}");
        }
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
