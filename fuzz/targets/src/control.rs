//! Requests at the control socket.

use dispatcher::control::overrides::Order;
use dispatcher::control::socket::api::{
    Applied, Backend, Configuration, Connections, Diff, Drop, Explanations, Forgotten, Overview, Problem, Reopened,
    Rows, Service, Sessions, Worker,
};
use dispatcher::control::socket::capture::{self, Taps};
use dispatcher::control::socket::connections::{Asked, Walking};
use dispatcher::control::socket::explain;
use dispatcher::control::socket::queue::{self, Control, Upload};
use dispatcher::control::socket::router::{PCAPNG, Peer, router};
use dispatcher::control::socket::serve::{Lease, serve};
use dispatcher::metrics::Figures;
use dispatcher::worker::poll::Clock;
use lb::{Directory, Wanted};
use std::future::{Future, poll_fn};
use std::io::{Read, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::pin::pin;
use std::task::Poll;
use std::time::Duration;
use tokio::runtime::{Builder, Runtime};

/// More would not go into a socket that nobody reads yet.
const MOST: usize = 64 << 10;

/// A dispatcher that does whatever it is asked, and counts how often.
#[derive(Default)]
struct Willing {
    changes: usize,
}

impl Control for Willing {
    fn overview(&mut self) -> Overview {
        Overview {
            version: "1".into(),
            pid: 1,
            uptime: 0.5,
            workers: 1,
            services: 1,
            backends: 1,
            backends_down: 0,
            flows: 0,
            connections: 0,
            offered: 0,
            resumed: 0,
            no_backend: 0,
            dropped: 0,
        }
    }
    fn services(&mut self) -> Vec<Service> {
        Vec::new()
    }
    fn backends(&mut self) -> Vec<Backend> {
        Vec::new()
    }
    fn sessions(&mut self, _: &[Backend]) -> Sessions {
        let rows = Rows {
            session_ids: 0,
            tickets: 0,
            cookies: 0,
            key_names: 0,
            shared_key_names: 0,
            candidates: 0,
            refusals: 0,
        };
        Sessions { offered: Vec::new(), rows, notes: Vec::new() }
    }
    fn look_for(&mut self, asked: &Asked) -> Result<Walking, Problem> {
        let nothing = Directory::next(None, &Wanted::default(), |_| true);
        asked.begin(&nothing.map_err(|faults| Problem::new(500, format!("{faults:?}")))?, &[])
    }
    fn look_for_trails(&mut self, asked: &explain::Asked) -> Result<Walking, Problem> {
        asked.begin(&[])
    }
    fn explanations(&mut self, _: &Walking) -> Explanations {
        Explanations::default()
    }
    fn capture(&mut self, asked: &capture::Asked) -> Result<Taps, Problem> {
        let nothing = Directory::next(None, &Wanted::default(), |_| true);
        // Of no worker: it is over when it has begun.
        asked.begin(&nothing.map_err(|faults| Problem::new(500, format!("{faults:?}")))?, &[], vec![], Clock::start())
    }
    fn connections(&mut self, _: &Walking) -> Connections {
        Connections::default()
    }
    fn workers(&mut self) -> Vec<Worker> {
        Vec::new()
    }
    fn drops(&mut self) -> Vec<Drop> {
        Vec::new()
    }
    // Who gets the connection closes it.
    fn take_over(&mut self, _: Peer, _: UnixStream) {}
    fn tunnels(&mut self) -> Vec<dispatcher::control::socket::api::Tunnel> {
        Vec::new()
    }
    fn queues(&mut self) -> Vec<dispatcher::control::socket::api::Queue> {
        Vec::new()
    }
    fn figures(&mut self) -> Figures {
        Figures::default()
    }
    fn version(&self) -> String {
        "1.1".into()
    }
    fn configuration(&mut self) -> Configuration {
        Configuration::default()
    }
    fn apply(&mut self, file: Upload) -> Result<Applied, Problem> {
        self.changes += usize::from(!file.dry_run);
        Ok(applied(file.dry_run))
    }
    fn reload(&mut self, dry_run: bool) -> Result<Applied, Problem> {
        self.changes += usize::from(!dry_run);
        Ok(applied(dry_run))
    }
    fn diff(&mut self) -> Result<Diff, Problem> {
        Ok(Diff { changes: Vec::new(), overrides: Vec::new(), notes: Vec::new() })
    }
    fn order(&mut self, _: Order) -> Result<Applied, Problem> {
        self.changes += 1;
        Ok(applied(false))
    }
    fn forget(&mut self, backend: &str) -> Result<Forgotten, Problem> {
        self.changes += 1;
        Ok(Forgotten { backend: backend.into(), took: 0.0 })
    }
    fn reopen_log(&mut self) -> Result<Reopened, Problem> {
        self.changes += 1;
        Ok(Reopened { file: "f".into() })
    }
}

fn applied(dry_run: bool) -> Applied {
    Applied { version: "1.2".into(), dry_run, changes: Vec::new(), notes: Vec::new(), took: 0.0, in_force: None }
}

thread_local! {
    static RUNTIME: Runtime = Builder::new_current_thread().enable_all().build().expect("a runtime");
}

/// What is answered to these bytes, behind which the client says no more; and what was done.
fn answer(request: &[u8]) -> (Vec<u8>, Willing) {
    let (mut client, served) = UnixStream::pair().expect("sockets");
    client.write_all(request).expect("room for it");
    client.shutdown(Shutdown::Write).expect("connected");
    served.set_nonblocking(true).expect("a socket");
    let mut willing = Willing::default();
    RUNTIME.with(|runtime| {
        runtime.block_on(async {
            let served = tokio::net::UnixStream::from_std(served).expect("a socket");
            let (handle, queue) = queue::queue();
            let peer = served.peer_cred().expect("a socket");
            let peer = Peer { uid: peer.uid(), pid: peer.pid() };
            let lease = Lease::new(Duration::from_secs(30));
            let mut serve = pin!(serve(served, Some(peer), router(handle), Duration::from_secs(5), lease));
            poll_fn(|cx| {
                let done = serve.as_mut().poll(cx);
                if done.is_pending() {
                    queue.serve(&mut willing, Duration::ZERO);
                }
                if done.is_ready() { Poll::Ready(()) } else { Poll::Pending }
            })
            .await;
        });
    });
    let mut answer = Vec::new();
    // A client that has said too much is reset.
    let _ = client.read_to_end(&mut answer);
    (answer, willing)
}

/// One byte for the form, then a request: as it goes over the wire, or a line with method and path and behind it the body.
pub fn control(bytes: &[u8]) {
    let Some((form, bytes)) = bytes.split_first() else { return };
    if bytes.len() > MOST {
        return;
    }
    if form & 1 == 0 {
        let (answer, willing) = answer(bytes);
        check(&answer, &willing, false);
        return;
    }
    let end = bytes.iter().position(|b| *b == b'\n').unwrap_or(bytes.len());
    let (line, body) = (&bytes[..end], bytes.get(end + 1..).unwrap_or_default());
    let head = format!(" HTTP/1.1\r\nhost: d\r\ncontent-length: {}\r\n\r\n", body.len());
    let (answer, willing) = answer(&[line, head.as_bytes(), body].concat());
    check(&answer, &willing, line.starts_with(b"HEAD"));
    if line.starts_with(b"GET ") || line.starts_with(b"HEAD ") {
        assert_eq!(willing.changes, 0, "who asks changes nothing");
    }
}

/// One answer to one request, of which a program can make something; and nothing was done that is answered by an error.
fn check(answer: &[u8], willing: &Willing, without_body: bool) {
    assert!(willing.changes <= 1, "one request is one change");
    let text = String::from_utf8_lossy(answer);
    let Some((head, body)) = text.split_once("\r\n\r\n") else {
        assert!(answer.is_empty(), "half an answer: {text}");
        assert_eq!(willing.changes, 0, "done without a word");
        return;
    };
    if head.starts_with("HTTP/1.1 100 ") {
        return check(body.as_bytes(), willing, without_body);
    }
    let status = head.get(9..12).and_then(|s| s.parse::<u16>().ok()).unwrap_or_else(|| panic!("{head}"));
    assert!(willing.changes == 0 || status == 200, "done, and answered by {status}");
    assert!(status < 500, "{head}\n{body}");
    let json = head.to_ascii_lowercase().contains("content-type: application/json");
    if json && !without_body {
        let value: serde_json::Value = serde_json::from_str(body).unwrap_or_else(|e| panic!("{e}: {head}\n{body}"));
        if status >= 400 {
            let error = value["error"].as_str().unwrap_or_default();
            assert!(!error.is_empty() && !error.contains('\n'), "{body}");
        }
    } else if status == 200 && head.to_ascii_lowercase().contains(&format!("content-type: {PCAPNG}")) {
        assert_eq!(willing.changes, 0, "who looks changes nothing");
    } else if !without_body {
        // Of hyper itself, which could not read the request.
        assert!(body.is_empty(), "{head}\n{body}");
    }
}
