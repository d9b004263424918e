//! The server: a thread for each connection.

use crate::cpu::Cpu;
use anyhow::{Context, Result, bail};
use rustls::{HandshakeKind, ServerConfig, ServerConnection};
use std::io::{self, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

/// How long a client may be silent.
const PATIENCE: Duration = Duration::from_secs(30);
/// Between two looks whether a client whose handshake goes on is still there.
const LOOK: Duration = Duration::from_millis(250);
/// Thousands of threads.
const STACK: usize = 256 << 10;

#[derive(clap::Args)]
pub struct Args {
    /// Addresses and ports.
    #[arg(long, required = true)]
    listen: Vec<SocketAddr>,
    #[arg(long)]
    cert: PathBuf,
    #[arg(long)]
    key: PathBuf,
    /// What every page says.
    #[arg(long, default_value = "rustls")]
    name: String,
    /// 1.2, 1.3, or both.
    #[arg(long = "tls", default_values = ["1.2", "1.3"], value_delimiter = ',')]
    versions: Vec<String>,
    /// Sessions are kept here, and clients get numbers of them: no tickets, so no key names.
    #[arg(long)]
    stateful: bool,
    /// So many handshakes at a time at full speed; beyond, all get slower. 0: no time is made to pass.
    #[arg(long, default_value_t = 0)]
    slots: usize,
    /// What a full handshake takes, in milliseconds.
    #[arg(long, default_value_t = 400)]
    full: u64,
    /// What a resumed one takes.
    #[arg(long, default_value_t = 40)]
    resumed: u64,
    /// By which part the whole gets slower for every SLOTS handshakes too many.
    #[arg(long, default_value_t = 0.02)]
    thrash: f64,
}

struct Server {
    config: Arc<ServerConfig>,
    page: String,
    cpu: Option<Cpu>,
    full: Duration,
    resumed: Duration,
}

pub fn run(args: Args) -> Result<()> {
    let mut versions = vec![];
    for version in &args.versions {
        versions.push(match version.as_str() {
            "1.2" => &rustls::version::TLS12,
            "1.3" => &rustls::version::TLS13,
            other => bail!("--tls {other}: 1.2 or 1.3"),
        });
    }
    let mut config = ServerConfig::builder_with_provider(crate::provider())
        .with_protocol_versions(&versions)?
        .with_no_client_auth()
        .with_single_cert(crate::certificates(&args.cert)?, crate::key(&args.key)?)?;
    if args.stateful {
        config.session_storage = rustls::server::ServerSessionMemoryCache::new(10_000);
    } else {
        config.ticketer = rustls::crypto::ring::Ticketer::new()?;
    }
    let body = format!("{}\n", args.name);
    let server = Arc::new(Server {
        config: Arc::new(config),
        page: format!(
            "HTTP/1.0 200 OK\r\nContent-Type: text/plain\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
            body.len()
        ),
        cpu: (args.slots > 0).then(|| Cpu::new(args.slots, args.thrash)),
        full: Duration::from_millis(args.full),
        resumed: Duration::from_millis(args.resumed),
    });
    let mut listeners = vec![];
    for at in args.listen {
        listeners.push(TcpListener::bind(at).with_context(|| format!("listening at {at}"))?);
    }
    thread::scope(|s| {
        for listener in &listeners {
            s.spawn(|| server.accept(listener));
        }
        if let Some(cpu) = &server.cpu {
            s.spawn(|| watch(cpu));
            loop {
                cpu.tick();
            }
        }
        Ok(())
    })
}

/// Says, whenever it has grown, how many handshakes were in progress at once.
fn watch(cpu: &Cpu) {
    let mut told = 0;
    loop {
        thread::sleep(Duration::from_secs(1));
        let most = cpu.most();
        if most > told {
            println!("handshakes at once {most}");
            told = most;
        }
    }
}

impl Server {
    fn accept(self: &Arc<Self>, listener: &TcpListener) {
        for stream in listener.incoming() {
            let (server, Ok(stream)) = (self.clone(), stream) else { continue };
            let work = move || {
                if let Err(e) = server.connection(stream) {
                    eprintln!("error: {e}");
                }
            };
            if let Err(e) = thread::Builder::new().stack_size(STACK).spawn(work) {
                eprintln!("no thread: {e}");
            }
        }
    }

    fn connection(&self, mut stream: TcpStream) -> Result<()> {
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        let mut tls = ServerConnection::new(self.config.clone())?;
        while tls.is_handshaking() && !tls.wants_write() {
            if tls.read_tls(&mut stream)? == 0 {
                // Nobody's fault: who asks whether there is a server says no more than this.
                return Ok(());
            }
            if let Err(e) = tls.process_new_packets() {
                let _ = tls.write_tls(&mut stream);
                return Err(e.into());
            }
        }
        // What will be said is known, and takes as long as if it had to be computed.
        if !self.computes(&stream, tls.handshake_kind() == Some(HandshakeKind::Resumed))? {
            return Ok(());
        }
        while tls.is_handshaking() {
            tls.complete_io(&mut stream)?;
        }
        self.answer(&mut tls, &mut stream)
    }

    /// Lets time pass; whether the client is there at its end.
    fn computes(&self, stream: &TcpStream, resumed: bool) -> io::Result<bool> {
        let Some(cpu) = &self.cpu else { return Ok(true) };
        let job = cpu.begin(if resumed { self.resumed } else { self.full });
        while !cpu.wait(&job, LOOK) {
            stream.set_nonblocking(true)?;
            let gone = match stream.peek(&mut [0]) {
                Ok(n) => n == 0,
                Err(e) => e.kind() != ErrorKind::WouldBlock,
            };
            stream.set_nonblocking(false)?;
            if gone {
                cpu.give_up(&job);
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// To the empty line, then the page. A client that only shook hands says goodbye, or nothing.
    fn answer(&self, tls: &mut ServerConnection, stream: &mut TcpStream) -> Result<()> {
        let mut end = 0u32;
        let mut io = rustls::Stream::new(tls, stream);
        while end != 0x0d0a_0d0a {
            let mut byte = [0];
            match io.read(&mut byte) {
                Ok(1) => end = end << 8 | u32::from(byte[0]),
                Ok(_) => return Ok(()),
                Err(e) if matches!(e.kind(), ErrorKind::UnexpectedEof | ErrorKind::ConnectionReset) => return Ok(()),
                Err(e) => return Err(e.into()),
            }
        }
        io.write_all(self.page.as_bytes())?;
        io.conn.send_close_notify();
        io.flush()?;
        Ok(())
    }
}
