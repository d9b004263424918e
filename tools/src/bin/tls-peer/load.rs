//! The clients: a thread for each connection. They come when they come, whether those before them were answered or not, as clients do.

use anyhow::{Context, Result, ensure};
use rustls::client::Resumption;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{ClientConfig, ClientConnection, DigitallySignedStruct, HandshakeKind, SignatureScheme};
use serde::Serialize;
use socket2::{Domain, Socket, Type};
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

/// Thousands of threads.
const STACK: usize = 256 << 10;
/// How long the tries before the load may take together.
const WARM: Duration = Duration::from_secs(60);

#[derive(clap::Args)]
pub struct Args {
    /// Address and port to connect to.
    #[arg(long)]
    to: SocketAddr,
    /// Addresses to come from, by turns.
    #[arg(long, value_delimiter = ',', required = true)]
    from: Vec<IpAddr>,
    /// Connections a second, on average.
    #[arg(long)]
    rate: f64,
    /// How many of a hundred come back with a session.
    #[arg(long, default_value_t = 50)]
    returning: u32,
    /// Clients that come back; each has been there once before all begins.
    #[arg(long, default_value_t = 30)]
    known: usize,
    /// Seconds until counting begins.
    #[arg(long, default_value_t = 10.0)]
    warm: f64,
    /// Seconds in which who comes is counted.
    #[arg(long, default_value_t = 20.0)]
    seconds: f64,
    /// Seconds after which a client gives up.
    #[arg(long, default_value_t = 10.0)]
    patience: f64,
    #[arg(long, default_value_t = 1)]
    seed: u64,
}

/// How a connection went.
#[derive(Clone, Copy, PartialEq, Debug)]
enum End {
    Done,
    /// The server answered, and the handshake came to no end.
    Broken,
    /// An alert before any ServerHello.
    Alert,
    /// A reset or an end, before any.
    Reset,
    /// Nothing within the client's patience.
    Late,
}

struct Outcome {
    returning: bool,
    resumed: bool,
    /// From the start to the ServerHello's first byte, or to what came instead.
    waited: Duration,
    /// When it came to an end, from the start of all.
    ended: Duration,
    counted: bool,
    end: End,
}

/// Of those who came while it was counted.
#[derive(Serialize)]
struct Told {
    offered: usize,
    done: usize,
    resumed: usize,
    alert: usize,
    reset: usize,
    late: usize,
    broken: usize,
    /// Milliseconds to the ServerHello; who never got one counts as having waited for as long as its patience.
    p50: f64,
    p99: f64,
    /// The longest time to a ServerHello or a refusal of those who met either.
    longest: f64,
}

#[derive(Serialize)]
struct Said {
    /// Handshakes that came to their end while it was counted, a second.
    completed: f64,
    returning: Told,
    new: Told,
}

pub fn run(args: &Args) -> Result<()> {
    let new = config(Resumption::in_memory_sessions(1))?;
    let mut known = vec![];
    for n in 0..args.known {
        known.push(Arc::new(config(Resumption::in_memory_sessions(4))?));
        let from = args.from[n % args.from.len()];
        let begun = Instant::now();
        // Twice, so that each server's keys have shown themselves.
        for _ in 0..2 {
            let (end, ..) = connect(args, from, known[n].clone(), Instant::now() + WARM);
            ensure!(end == End::Done, "the first visit of client {n}: {end:?}");
        }
        ensure!(begun.elapsed() < WARM, "the first visits take too long");
    }
    let outcomes = Mutex::new(vec![]);
    let mut draw = Draw(args.seed | 1);
    let begun = Instant::now();
    let all = Duration::from_secs_f64(args.warm + args.seconds);
    thread::scope(|s| -> Result<()> {
        let mut at = 0.0;
        for n in 0.. {
            at += -(1.0 - draw.part()).ln() / args.rate;
            let due = Duration::from_secs_f64(at);
            if due > all {
                return Ok(());
            }
            thread::sleep(due.saturating_sub(begun.elapsed()));
            let returning = draw.part() * 100.0 < f64::from(args.returning);
            let config = match returning {
                true => known[(draw.part() * known.len() as f64) as usize].clone(),
                false => {
                    let mut config = new.clone();
                    config.resumption = Resumption::in_memory_sessions(1);
                    Arc::new(config)
                }
            };
            let (from, outcomes) = (args.from[n % args.from.len()], &outcomes);
            let work = move || {
                let start = Instant::now();
                let (end, resumed, waited) =
                    connect(args, from, config, start + Duration::from_secs_f64(args.patience));
                let counted = due.as_secs_f64() >= args.warm;
                let outcome = Outcome { returning, resumed, waited, ended: begun.elapsed(), counted, end };
                outcomes.lock().unwrap_or_else(PoisonError::into_inner).push(outcome);
            };
            thread::Builder::new().stack_size(STACK).spawn_scoped(s, work).context("a client's thread")?;
        }
        Ok(())
    })?;
    let outcomes = outcomes.into_inner().unwrap_or_else(PoisonError::into_inner);
    let window = args.warm..args.warm + args.seconds;
    let completed = outcomes.iter().filter(|o| o.end == End::Done && window.contains(&o.ended.as_secs_f64())).count();
    let said = Said {
        completed: completed as f64 / args.seconds,
        returning: tell(outcomes.iter().filter(|o| o.counted && o.returning), args.patience),
        new: tell(outcomes.iter().filter(|o| o.counted && !o.returning), args.patience),
    };
    println!("{}", serde_json::to_string(&said)?);
    Ok(())
}

fn tell<'a>(outcomes: impl Iterator<Item = &'a Outcome>, patience: f64) -> Told {
    let all: Vec<&Outcome> = outcomes.collect();
    let count = |end| all.iter().filter(|o| o.end == end).count();
    let answered = |o: &&&Outcome| matches!(o.end, End::Done | End::Broken);
    let mut waits: Vec<f64> = all.iter().filter(answered).map(|o| o.waited.as_secs_f64()).collect();
    waits.resize(all.len(), patience);
    waits.sort_by(f64::total_cmp);
    let quantile = |q: f64| waits.get((waits.len() as f64 * q) as usize).map_or(0.0, |s| s * 1000.0);
    let longest = all.iter().filter(|o| o.end != End::Late).map(|o| o.waited).max().unwrap_or_default();
    Told {
        offered: all.len(),
        done: count(End::Done),
        resumed: all.iter().filter(|o| o.end == End::Done && o.resumed).count(),
        alert: count(End::Alert),
        reset: count(End::Reset),
        late: count(End::Late),
        broken: count(End::Broken),
        p50: quantile(0.5),
        p99: quantile(0.99),
        longest: longest.as_secs_f64() * 1000.0,
    }
}

/// One connection, up to the end of its handshake: how it went, whether it was resumed, and how long it was until the server said something, or
/// somebody else did.
fn connect(args: &Args, from: IpAddr, config: Arc<ClientConfig>, deadline: Instant) -> (End, bool, Duration) {
    let begun = Instant::now();
    let mut tls = match ClientConnection::new(config, ServerName::try_from("lab.example.test").expect("a name")) {
        Ok(tls) => tls,
        Err(_) => return (End::Broken, false, begun.elapsed()),
    };
    let mut hello = None;
    let result = shake(&mut tls, args.to, from, deadline, begun, &mut hello);
    let resumed = tls.handshake_kind() == Some(HandshakeKind::Resumed);
    let end = match (&result, hello) {
        (Ok(()), _) => End::Done,
        (Err(_), _) if Instant::now() >= deadline => End::Late,
        (Err(e), None) if e.is::<rustls::Error>() => End::Alert,
        (Err(_), None) => End::Reset,
        (Err(_), Some(_)) => End::Broken,
    };
    (end, resumed, hello.unwrap_or_else(|| begun.elapsed()))
}

fn shake(
    tls: &mut ClientConnection,
    to: SocketAddr,
    from: IpAddr,
    deadline: Instant,
    begun: Instant,
    hello: &mut Option<Duration>,
) -> Result<()> {
    let left = || deadline.saturating_duration_since(Instant::now()).max(Duration::from_millis(1));
    let socket = Socket::new(Domain::for_address(to), Type::STREAM, None)?;
    socket.bind(&SocketAddr::new(from, 0).into())?;
    socket.connect_timeout(&to.into(), left())?;
    let mut stream = TcpStream::from(socket);
    stream.set_nodelay(true)?;
    while tls.is_handshaking() {
        while tls.wants_write() {
            tls.write_tls(&mut stream)?;
        }
        if !tls.is_handshaking() {
            break;
        }
        stream.set_read_timeout(Some(left()))?;
        ensure!(tls.read_tls(&mut stream)? > 0, "an end instead of an answer");
        let now = begun.elapsed();
        // An alert is no answer.
        tls.process_new_packets()?;
        hello.get_or_insert(now);
    }
    tls.send_close_notify();
    while tls.wants_write() {
        tls.write_tls(&mut stream)?;
    }
    Ok(())
}

fn config(resumption: Resumption) -> Result<ClientConfig> {
    let provider = crate::provider();
    // What a proxy can see of a session to be resumed, too.
    let mut config = ClientConfig::builder_with_provider(provider.clone())
        .with_protocol_versions(&[&rustls::version::TLS12])?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Anyone(provider)))
        .with_no_client_auth();
    config.resumption = resumption;
    Ok(config)
}

/// Takes any certificate: whose it is is not what is tried. What the server signed is looked at.
#[derive(Debug)]
struct Anyone(Arc<CryptoProvider>);

impl ServerCertVerifier for Anyone {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, cert, signed, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, cert, signed, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

/// xorshift64: the same times in every run.
struct Draw(u64);

impl Draw {
    /// From 0 to 1, without 1.
    fn part(&mut self) -> f64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) as f64 / (1u64 << 53) as f64
    }
}
