//! `dispatcher ctl show tunnels`, in the manner of `wg show`.

use crate::control::socket::api::Tunnel;
use core::fmt::Write;
use std::time::Duration;

/// Each with what is known of it; never a key that is not public.
pub(super) fn tunnels(all: &[Tunnel]) -> String {
    if all.is_empty() {
        return "tunnels: none whose packets are sealed (the context of a backend: dispatcher ctl show backends)\n"
            .into();
    }
    all.iter().map(tunnel).collect::<Vec<_>>().join("\n")
}

fn tunnel(t: &Tunnel) -> String {
    let mut out = String::new();
    _ = writeln!(out, "{}: {}, worker {}", t.kind, t.endpoint, t.worker);
    let mut line = |what: &str, value: String| _ = writeln!(out, "  {what}: {value}");
    line("backends", t.backends.join(", "));
    line("state", format!("{}, {}", t.state, ago(t.since).trim_end_matches(" ago")));
    line("peer's public key", t.public_key.clone());
    line("our public key", t.own_public_key.clone());
    line("latest handshake", t.handshake.map_or("none".into(), ago));
    line("last heard", t.heard.map_or("never".into(), ago));
    line("transfer", format!("{} received, {} sent", size(t.bytes_in), size(t.bytes_out)));
    line("handshakes", format!("{}, begun by us {}", t.handshakes, t.initiations));
    line("keepalive", format!("every {} of silence", plain(t.keepalive)));
    if t.waiting > 0 {
        line("waiting", format!("{} packets", t.waiting));
    }
    let refused = [
        (t.unopened, "unopened"),
        (t.replayed, "replayed"),
        (t.old_handshakes, "old handshakes"),
        (t.flooded, "flooded"),
    ];
    let refused: Vec<_> = refused.iter().filter(|(n, _)| *n > 0).map(|(n, why)| format!("{n} {why}")).collect();
    if !refused.is_empty() {
        line("refused", refused.join(", "));
    }
    if let Some(why) = &t.why {
        line("note", why.clone());
    }
    out
}

fn plain(seconds: f64) -> String {
    humantime::format_duration(Duration::from_secs(seconds.max(0.0) as u64)).to_string()
}

fn ago(seconds: f64) -> String {
    plain(seconds) + " ago"
}

/// As `wg show` has it.
fn size(bytes: u64) -> String {
    let mut value = bytes as f64;
    for unit in ["B", "KiB", "MiB", "GiB"] {
        if value < 1024.0 {
            return if unit == "B" { format!("{bytes} B") } else { format!("{value:.2} {unit}") };
        }
        value /= 1024.0;
    }
    format!("{value:.2} TiB")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_told_as_wg_tells_them() {
        for (bytes, told) in
            [(0, "0 B"), (1023, "1023 B"), (1024, "1.00 KiB"), (1_500_000, "1.43 MiB"), (1 << 42, "4.00 TiB")]
        {
            assert_eq!(size(bytes), told);
        }
    }
}
