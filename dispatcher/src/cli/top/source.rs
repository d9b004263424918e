//! Where readings come from: the control socket, asked from a thread of its own, so that keys do something while an answer is waited for.

use super::words::clean;
use crate::control::socket::api::{Failure, Status};
use crate::control::socket::client::{self, Question};
use hyper::Method;
use serde_json::Value;
use std::path::Path;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::Duration;

/// Events in a reading.
const EVENTS: usize = 200;

/// One reading. `Err`: one line.
pub fn read(socket: &Path) -> Result<Status, String> {
    let answer = client::request(socket, Question::new(Method::GET, format!("/v1/status?events={EVENTS}")))?;
    let odd = |e| format!("the dispatcher's answer is not understood; is it of another version? ({e})");
    if answer.status != 200 {
        let why = serde_json::from_slice(&answer.body).map_or("refused".into(), |failure: Failure| failure.error);
        return Err(super::words::plain(&format!("{}: status {}: {why}", socket.display(), answer.status)));
    }
    let mut value: Value = serde_json::from_slice(&answer.body).map_err(odd)?;
    // Before anything is made of it, so that no text is forgotten.
    clean(&mut value);
    serde_json::from_value(value).map_err(odd)
}

/// Reads again and again, until nobody listens. Orders say how long to wait from one to the next, and have the next one made at once; none: there is
/// none until another order comes.
pub fn watch(
    socket: &Path,
    every: Duration,
    orders: &Receiver<Option<Duration>>,
    tell: impl Fn(Result<Status, String>) -> bool,
) {
    let mut every = Some(every);
    loop {
        let order = match every {
            Some(time) => orders.recv_timeout(time),
            None => orders.recv().map_err(|_| RecvTimeoutError::Disconnected),
        };
        match order {
            Ok(next) => every = next,
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => return,
        }
        if every.is_some() && !tell(read(socket)) {
            return;
        }
    }
}
