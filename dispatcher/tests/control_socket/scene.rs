//! A control socket with that dispatcher behind it, and who asks there.

use super::answers::MadeUp;
use dispatcher::control::events::{self, Kind, News};
use dispatcher::control::socket::client;
use dispatcher::control::socket::client::Question;
use dispatcher::control::socket::queue::{self};
use dispatcher::control::socket::serve::Times;
use dispatcher::control::socket::server::{self, Server};
use hyper::Method;
use serde_json::Value;
use std::io::{Read, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

/// A server with its owner, until it is dropped.
pub struct Scene {
    pub folder: PathBuf,
    pub socket: PathBuf,
    pub events: events::Events,
    server: Option<Server>,
    owner: Option<JoinHandle<queue::Queue>>,
    pub stop: Arc<AtomicBool>,
}

impl Scene {
    pub fn new(name: &str, log: bool, times: Times) -> Scene {
        let folder = folder(name);
        let socket = folder.join("control.sock");
        let (handle, queue) = queue::queue();
        let server = server::start(&socket, handle, times).unwrap();
        let events = queue.events().clone();
        events
            .tell(News::new(Kind::Backend, true, "backend a is down").with("backend", "a").with("by", "check"), 1.5e9);
        let stop = Arc::new(AtomicBool::new(false));
        let told = stop.clone();
        let owner = std::thread::spawn(move || {
            while !told.load(Ordering::Relaxed) {
                queue.serve(&mut MadeUp { log }, Duration::from_millis(5));
            }
            queue
        });
        Scene { folder, socket, events, server: Some(server), owner: Some(owner), stop }
    }

    pub fn ask(&self, method: Method, path: &str) -> (u16, Value) {
        self.put(Question::new(method, path))
    }

    pub fn put(&self, question: Question) -> (u16, Value) {
        let answer = client::request(&self.socket, question).unwrap();
        (answer.status, serde_json::from_slice(&answer.body).unwrap())
    }

    /// Bytes sent as they are, with nothing behind them; what comes back.
    pub fn raw(&self, bytes: &[u8]) -> Vec<u8> {
        let mut stream = UnixStream::connect(&self.socket).unwrap();
        // The server may have had enough before all was sent.
        let _ = stream.write_all(bytes);
        let _ = stream.shutdown(Shutdown::Write);
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer);
        answer
    }

    pub fn is_well(&self) {
        assert_eq!(self.ask(Method::GET, "/v1").1["version"], "1.2.3");
    }
}

impl std::ops::Drop for Scene {
    fn drop(&mut self) {
        drop(self.server.take());
        self.stop.store(true, Ordering::Relaxed);
        if let Some(owner) = self.owner.take() {
            let _ = owner.join();
        }
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

pub fn folder(name: &str) -> PathBuf {
    let folder = std::env::temp_dir().join(format!("dispatcher-control-{}-{name}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    folder
}

pub fn ctl(scene: &Scene, args: &[&str]) -> String {
    let out = Command::new(env!("CARGO_BIN_EXE_dispatcher"))
        .args(["ctl", "--socket", scene.socket.to_str().unwrap()])
        .args(args)
        .output()
        .unwrap();
    assert!(out.status.success(), "{out:?}");
    String::from_utf8(out.stdout).unwrap()
}
