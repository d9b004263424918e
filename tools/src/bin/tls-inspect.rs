//! Prints every TLS and DTLS stream of a capture.

use anyhow::Context;
use clap::Parser;
use comfy_table::{ContentArrangement, Table, presets};
use dispatcher::capture::Capture;
use dispatcher::replay::inspect::{Endpoint, Inspection, StreamReport, inspect};
use dispatcher::replay::unread::{self, NotRead};
use std::io::{self, BufWriter, Write};
use std::path::PathBuf;
use std::process::ExitCode;

/// Print every TLS and DTLS stream of a capture: what clients offer to resume, what servers make of it, and which
/// tickets they issue, as far as that is in the clear.
///
/// FILE is a pcap (microseconds or nanoseconds, either byte order) or pcapng capture of Ethernet (with any VLAN tags),
/// Linux "any", loopback or raw IP frames. TCP streams are put together in spite of loss, reordering, retransmission and
/// overlap.
///
/// The table has one row for each stream. SESSION-ID, TICKET and PSK are what the client offers: the session ID's first bytes,
/// the ticket's length, the number of identities. CHOSEN is the version the server chose, RESUMED what its answer shows.
///
/// A capture that is damaged or cut off is reported as far as it goes; then the reason is told on stderr and the exit status is 2.
/// Frames that are not read (other link types; what lies in PPPoE, MPLS, tunnels) are told by name, on stderr; the exit status is 1
/// when there may be connections in them, or nothing was read at all.
#[derive(Parser)]
#[command(version, max_term_width = 110)]
struct Options {
    /// The capture.
    file: PathBuf,
    /// One JSON object for each stream and line instead of the table, in the format that testdata/captures/README.md describes.
    #[arg(long)]
    json: bool,
    /// Also list connections without TLS in the table.
    #[arg(long)]
    all: bool,
}

fn main() -> ExitCode {
    let options = match Options::try_parse() {
        Ok(options) => options,
        Err(error) if !error.use_stderr() => {
            let _ = error.print();
            return ExitCode::SUCCESS;
        }
        Err(error) => {
            // One line: what is wrong, without the usage that follows.
            let text = error.to_string();
            let line: Vec<&str> = text.lines().take_while(|line| !line.is_empty()).map(str::trim).collect();
            eprintln!("tls-inspect: {}", line.join(" ").trim_start_matches("error: "));
            return ExitCode::from(2);
        }
    };
    match run(&options) {
        Ok(()) => ExitCode::SUCCESS,
        // Whoever read our output has seen enough.
        Err(error) if broken_pipe(&error) => ExitCode::SUCCESS,
        Err(error) if error.is::<NotRead>() => {
            eprintln!("tls-inspect: {}: {error}", options.file.display());
            ExitCode::from(1)
        }
        Err(error) => {
            eprintln!("tls-inspect: {error:#}");
            ExitCode::from(2)
        }
    }
}

fn broken_pipe(error: &anyhow::Error) -> bool {
    error.downcast_ref::<io::Error>().is_some_and(|e| e.kind() == io::ErrorKind::BrokenPipe)
}

fn run(options: &Options) -> anyhow::Result<()> {
    let name = options.file.display().to_string();
    let capture = Capture::open(&options.file).map_err(|e| anyhow::anyhow!("{name} {e}"))?;
    let found = inspect(&capture);
    let mut out = BufWriter::new(io::stdout().lock());
    if options.json {
        for stream in &found.streams {
            serde_json::to_writer(&mut out, stream).map_err(io::Error::from)?;
            out.write_all(b"\n")?;
        }
    } else {
        write_table(&mut out, &found, options.all)?;
    }
    out.flush()?;
    match (found.error, found.unread.complaint()) {
        (Some(error), _) => Err(anyhow::anyhow!("{error}")).with_context(|| name),
        (None, Some(left_out)) => Err(left_out.into()),
        (None, None) => Ok(()),
    }
}

fn write_table(out: &mut impl Write, found: &Inspection, all: bool) -> io::Result<()> {
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_content_arrangement(ContentArrangement::Dynamic);
    table.set_header([
        "FRAME",
        "CLIENT",
        "SERVER",
        "CLASS",
        "SNI",
        "SESSION-ID",
        "TICKET",
        "PSK",
        "CHOSEN",
        "RESUMED",
        "ISSUED",
    ]);
    let shown = found.streams.iter().filter(|s| all || s.class == "secure");
    let mut rows = 0;
    for stream in shown {
        table.add_row(row(stream));
        rows += 1;
    }
    if rows > 0 {
        writeln!(out, "{table}")?;
    }
    let count = |class: &str| found.streams.iter().filter(|s| s.class == class).count();
    let resumed = |state| found.streams.iter().filter(|s| s.class == "secure" && s.resumed == state).count();
    writeln!(
        out,
        "{} frames, {} streams: {} secure ({} resumed, {} not, {} not known), {} non-secure, {} empty, {} of unknown beginning",
        found.frames,
        found.streams.len(),
        count("secure"),
        resumed(Some(true)),
        resumed(Some(false)),
        resumed(None),
        count("non-secure"),
        count("empty"),
        count("unknown"),
    )?;
    if !found.unread.counts().is_empty() {
        writeln!(out, "frames without TCP or UDP: {}", unread::listed(found.unread.counts()))?;
    }
    if found.cut_frames > 0 {
        writeln!(out, "{} frames were cut short by the recorder: streams end where the first was", found.cut_frames)?;
    }
    Ok(())
}

fn row(stream: &StreamReport) -> [String; 11] {
    // Of several hellos the last is the one that was answered.
    let client = stream.client_hellos.last();
    let server = stream.server_hellos.last();
    let retried = stream.server_hellos.iter().any(|s| s.hrr);
    let issued = match (stream.new_session_tickets.first(), server) {
        (Some(t), _) => format!("ticket {}", t.ticket.len),
        (None, Some(s)) if s.version.as_str() < "0304" && stream.resumed == Some(false) && !s.session_id.is_empty() => {
            format!("id {}", short(&s.session_id))
        }
        _ => String::new(),
    };
    [
        stream.first_frame.to_string(),
        endpoint(&stream.client),
        endpoint(&stream.server),
        stream.kind.unwrap_or(stream.class).to_owned(),
        client.and_then(|c| c.sni.as_deref()).map(printable).unwrap_or_default(),
        client.map(|c| short(&c.session_id)).unwrap_or_default(),
        client.and_then(|c| c.ticket.as_ref()).map(|t| t.len.to_string()).unwrap_or_default(),
        client.map(|c| c.psk_identities.len()).filter(|n| *n > 0).map(|n| n.to_string()).unwrap_or_default(),
        server.map(|s| version(&s.version) + if retried { " (retry)" } else { "" }).unwrap_or_default(),
        stream.resumed.map(|r| if r { "yes" } else { "no" }.to_owned()).unwrap_or_default(),
        issued,
    ]
}

fn endpoint(e: &Endpoint) -> String {
    if e.ip.contains(':') { format!("[{}]:{}", e.ip, e.port) } else { format!("{}:{}", e.ip, e.port) }
}

fn short(hex: &str) -> String {
    if hex.len() > 8 { format!("{}…", &hex[..8]) } else { hex.to_owned() }
}

fn version(code: &str) -> String {
    match code {
        "0300" => "SSL 3.0",
        "0301" => "TLS 1.0",
        "0302" => "TLS 1.1",
        "0303" => "TLS 1.2",
        "0304" => "TLS 1.3",
        "feff" => "DTLS 1.0",
        "fefd" => "DTLS 1.2",
        "fefc" => "DTLS 1.3",
        other => other,
    }
    .to_owned()
}

/// Names come from the network: nothing in them may steer a terminal.
fn printable(name: &str) -> String {
    name.chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect()
}
