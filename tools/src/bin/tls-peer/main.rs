//! Peers for the lab and the benchmarks: a TLS server on rustls whose handshakes can be made to take time, and many clients that come at a rate, whether
//! they are answered or not.

mod cpu;
mod load;
mod serve;

use anyhow::{Context, Result};
use clap::Parser;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use std::path::Path;
use std::sync::Arc;

/// TLS peers for the lab and the benchmarks.
#[derive(Parser)]
enum Args {
    /// A server. Every page is its name.
    Serve(serve::Args),
    /// Clients: new ones and such that come back, at random times. Says on standard output, as one JSON object, what they met.
    Load(load::Args),
}

fn main() -> Result<()> {
    match Args::parse() {
        Args::Serve(args) => serve::run(args),
        Args::Load(args) => load::run(&args),
    }
}

/// The only cryptography here.
fn provider() -> Arc<rustls::crypto::CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>> {
    let all = CertificateDer::pem_file_iter(path).with_context(|| format!("opening {}", path.display()))?;
    all.collect::<Result<_, _>>().with_context(|| format!("reading {}", path.display()))
}

fn key(path: &Path) -> Result<PrivateKeyDer<'static>> {
    PrivateKeyDer::from_pem_file(path).with_context(|| format!("reading {}", path.display()))
}
