//! Flags. How their values are read says [`crate::control::values`].

use super::ctl::CtlArgs;
use super::top::TopArgs;
use super::tunnel::TunnelArgs;
use crate::control::backend::{BackendArg, backend};
use crate::control::class::class;
use crate::control::port::PortArg;
use crate::control::values::{
    AddressModeArg, AffinityArg, BalanceArg, Cores, HashOnArg, IdleArg, LogFormatArg, LogLevelArg, OnOff, ProxyArg,
    ServiceKindArg, SpillAfter, affinity, capacity, duration, resume_fallback, socket_address, spill_after, ticket_key,
    workers,
};
use crate::engine::TicketKey;
use clap::{Args, Parser, Subcommand};
use core::time::Duration;
use lb::admission::ClassSpec;
use std::net::SocketAddr;
use std::path::PathBuf;

/// A packet-level load balancer that locks every TLS session to the server that can resume it.
#[derive(Parser, Debug)]
#[command(name = "dispatcher", version, about, max_term_width = 110, subcommand_required = true)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// What to do.
#[derive(Subcommand, Debug)]
pub enum Command {
    /// Balance live traffic.
    #[command(after_help = RUN_EXAMPLES)]
    Run(RunArgs),
    /// Replay captures: where would their connections have gone?
    #[command(after_help = REPLAY_EXAMPLES)]
    Replay(ReplayArgs),
    /// Ask a running dispatcher, or have it do something.
    #[command(after_help = super::ctl::EXAMPLES)]
    Ctl(CtlArgs),
    /// Watch a running dispatcher on a terminal.
    #[command(after_help = super::top::EXAMPLES)]
    Top(TopArgs),
    /// Check a configuration file: every fault of it, with line and column.
    #[command(after_help = CHECK_HELP)]
    Check(CheckArgs),
    /// What servers behind tunnels need.
    Tunnel(TunnelArgs),
}

const CHECK_HELP: &str = "\
docs/configuration.md has the keys. The file alone is judged, not whether this machine has the devices that it names.

Exit status: 0 nothing is wrong, 2 something is.";

/// Lines that are to stay whole are of 78 columns at most; running text is one line, which is broken where the terminal ends.
const RUN_EXAMPLES: &str = "\
Examples:
  Two-armed, clients on eth0, servers on eth1; servers see one of our addresses:
    dispatcher run --port wan=af-packet:eth0,ip=10.77.0.1/24 \\
        --port lan=af-packet:eth1,ip=10.78.0.1/24 --vip 10.77.0.100:443 \\
        --backend a=10.78.0.11:443 --backend b=10.78.0.12:443,weight=2

  One-armed, IPv4 and IPv6, with a gateway; servers are told clients' addresses:
    dispatcher run --proxy-protocol v2 \\
        --port net=af-packet:eth0,ip=10.0.0.5/24,gateway=10.0.0.1,ip=[fd00::5]/64 \\
        --vip 10.0.0.80:443 --backend a=10.0.0.11:443 \\
        --vip [fd00::80]:443 --backend a6=[fd00::11]:443

The kernel must not have the addresses of `ip=` and `--vip`. With other drivers than af-packet interfaces must not merge received segments: ethtool -K DEVICE gro off lro off

Needs CAP_NET_RAW and CAP_NET_ADMIN; af-xdp also CAP_BPF. docs/operating.md says what cards and DPDK need.

SIGINT or SIGTERM stops with a summary, SIGUSR1 opens the connections log anew; with --config SIGHUP takes over the file as it is then. Exit status: 0 stopped as asked, 1 died, 2 refused to start (one line on standard error says why).";

const REPLAY_EXAMPLES: &str = "\
Examples:
  Where did sessions go, and would affinity have sent them right?
    dispatcher replay fleet.pcap
  The same as JSON lines, one a connection and a summary:
    dispatcher replay --json fleet.pcap
  Re-enact the recorded conversations against other servers, through the whole engine:
    dispatcher replay fleet.pcap --out sent.pcapng --vip 10.0.0.1:443 \\
        --backend a=10.1.0.1:443 --backend b=10.1.0.2:443
  The same as a page to look at, or to pass on:
    dispatcher replay fleet.pcap --report fleet.html
  Before a change of the configuration: who would meet another server?
    dispatcher replay fleet.pcap --config dispatcher.toml --next-config next.toml

The report names the connections that could not be followed, and with --backend those that the dispatcher would have refused, and the rule.

Exit status: 0 done; 1 done, but there were frames that are not read and may hold connections (other link types; what lies in PPPoE, MPLS or tunnels), or nothing was read at all; 2 refused, or a capture is damaged (one line on standard error says why).";

/// What a configuration file says, and flags beside it may not: every flag of `run` but those that say how this one start goes.
const IN_THE_FILE: [&str; 17] = [
    "ports",
    "Service",
    "Tuning",
    "workers",
    "cores",
    "idle",
    "connections_log",
    "control",
    "overrides",
    "state",
    "tunnel_key",
    "learn_keys",
    "check",
    "metrics",
    "stats_interval",
    "log_format",
    "log_level",
];

/// Flags of `run`.
#[derive(Args, Debug)]
pub struct RunArgs {
    /// Take everything from a configuration file instead of flags: several services, pools and routes, changed while it runs (see
    /// docs/configuration.md; `dispatcher check FILE` tells its mistakes)
    #[arg(long, value_name = "FILE", conflicts_with_all = IN_THE_FILE)]
    pub config: Option<PathBuf>,

    /// A network port (repeat)
    ///
    /// DRIVER:DEVICE is
    ///   af-packet:INTERFACE  by the kernel's packet sockets
    ///   af-xdp:INTERFACE     past the kernel's stack, which keeps what is not ours
    ///   dpdk:DEVICE          a PCI address, or a vdev with its arguments behind
    ///                        semicolons; in builds with the cargo feature dpdk
    ///   pcap:FILE            a capture to read; ends when all of them are read
    ///
    /// KEY=VALUE is
    ///   ip=ADDR/PREFIX       an address of our own: says what is on-link, and is
    ///                        where connections to servers come from (repeat);
    ///                        the kernel must not have it, nor a VIP
    ///   gateway=ADDR         the next hop for all else, one a family
    ///   vlan=ID              frames to servers go into this VLAN (twice for two
    ///                        tags, outer first); clients are answered in theirs
    ///   mtu=N                lower than the interface's
    ///   queues=N             needless: as many as workers; with af-xdp all that
    ///                        the interface has, at least one for each worker
    ///   mode=MODE            af-xdp: only zero-copy, copy or generic will do
    ///   offload=on|off       af-packet (on), dpdk (off): take and give what
    ///                        segmentation offload, GRO and LRO make, up to
    ///                        64 kB a frame
    ///   huge=on|off          dpdk: insist on huge pages, or do without
    ///   out=FILE             pcap: where what is sent goes
    ///   tee=FILE             record all that passes, as pcapng (further workers
    ///                        write to FILE.1 and so on)
    ///
    /// IPv6 addresses stand in brackets.
    #[arg(long = "port", value_name = "NAME=DRIVER:DEVICE[,KEY=VALUE]...", required_unless_present = "config", value_parser = PortArg::parse, verbatim_doc_comment)]
    pub ports: Vec<PortArg>,

    #[command(flatten)]
    #[allow(missing_docs)]
    pub service: Service,

    #[command(flatten)]
    #[allow(missing_docs)]
    pub tuning: Tuning,

    /// Threads that move frames, each with a queue of every port [default: 1]
    #[arg(long, value_name = "N", conflicts_with = "cores", value_parser = workers)]
    pub workers: Option<usize>,

    /// Cores to run workers on, one each: 2 or 0,2-3
    #[arg(long, value_name = "LIST", value_parser = Cores::parse)]
    pub cores: Option<Cores>,

    /// What a worker does when nothing arrives: look again at once (least latency, one whole core), yield the core, or
    /// sleep until something arrives or is due
    #[arg(long, value_enum, default_value = "sleep")]
    pub idle: IdleArg,

    /// Append a JSON line to FILE for each connection that ends
    #[arg(long, value_name = "FILE")]
    pub connections_log: Option<PathBuf>,

    /// Answer `dispatcher ctl` at this Unix socket, which only this user may use; by default there is none. `ctl` looks for it at
    /// /run/dispatcher/control.sock
    #[arg(long, value_name = "PATH")]
    pub control: Option<PathBuf>,

    /// Take over from the dispatcher that answers at the control socket: all of its connections, and all that it knows. If anything is wrong with this one, that one goes on as
    /// if nothing had been. For upgrades, and for what only a start can change
    #[arg(long)]
    pub takeover: bool,

    /// With --takeover: come back when another process has taken over, which goes on, or with why it cannot: for service managers
    #[arg(long, requires = "takeover")]
    pub background: bool,

    /// The first half of --background, for that alone.
    #[arg(long, hide = true, requires = "takeover")]
    pub detached: bool,

    /// Where what operators say by `dispatcher ctl` is kept over a restart [default: beside the control socket, PATH.overrides]
    #[arg(long, value_name = "FILE")]
    pub overrides: Option<PathBuf>,

    /// Keep in FILE which server has which session, so that a restart knows it: 64 bytes for each of --session-capacity. What is damaged, or of
    /// another machine, is set aside, and said
    #[arg(long, value_name = "FILE")]
    pub state: Option<PathBuf>,

    /// Of what the keys of wireguard tunnels are made: a file as `dispatcher tunnel keygen FILE` makes it, that nobody but its owner may read. Each
    /// worker has a key of its own, derived from it
    #[arg(long, value_name = "FILE")]
    pub tunnel_key: Option<PathBuf>,

    /// Learn which ticket keys servers have that are seen to speak TLS, by handshakes of our own: two or three a minute. So the first client
    /// that comes back with a TLS 1.3 session meets its server
    #[arg(long, value_enum, default_value = "on")]
    pub learn_keys: OnOff,

    /// Ask every server whether it serves, and take it away while it does not
    ///
    /// KIND is
    ///   tcp     its port takes a connection, which its application never sees
    ///   tls     it completes a TLS handshake; certificates are not verified
    ///   http    it answers a request by a status that is expected
    ///   https   the same within TLS
    ///
    /// KEY=VALUE is
    ///   interval=D    from one to the next, a tenth more or less (2s)
    ///   timeout=D     how long one may take (the interval, 2s at most)
    ///   rise=N        so many in a row that pass bring it up (2)
    ///   fall=N        so many in a row that fail take it away (3)
    ///   port=N        another port than the server's
    ///   sni=NAME      tls, https: the server name in the hello (none)
    ///   path=PATH     http, https: what is asked for (/)
    ///   host=NAME     http, https: the Host of the request
    ///   method=M      http, https: GET or HEAD (GET)
    ///   expect=N-N    http, https: first and last status that is well (200-399)
    ///
    /// A server with check=KIND of its own is asked that, in the same way but for
    /// its own check-KEY=VALUE; one with check=off is not asked.
    #[arg(long, value_name = "[kind=]KIND[,KEY=VALUE]...", value_parser = crate::control::checks::check, verbatim_doc_comment)]
    pub check: Option<lb::Check>,

    /// Answer Prometheus (GET /metrics) and browsers (a status page) at this address, without asking who it is: best one of the loopback, such as 127.0.0.1:9127
    #[arg(long, value_name = "ADDR:PORT", value_parser = socket_address)]
    pub metrics: Option<SocketAddr>,

    /// Print rates, flows and drops this often
    #[arg(long, value_name = "D", value_parser = duration)]
    pub stats_interval: Option<Duration>,

    /// How the log on standard error is written: lines for people, or a JSON object a line, with time and particulars
    #[arg(long, value_enum, default_value = "text")]
    pub log_format: LogFormatArg,

    /// What the log has: this, and what is worse
    #[arg(long, value_enum, default_value = "info")]
    pub log_level: LogLevelArg,
}

/// Flags of `check`.
#[derive(Args, Debug)]
pub struct CheckArgs {
    /// A configuration file (TOML)
    #[arg(value_name = "FILE")]
    pub file: PathBuf,

    /// JSON instead of text
    #[arg(long)]
    pub json: bool,
}

/// What is served, and by whom.
#[derive(Args, Debug)]
pub struct Service {
    /// Address and port that clients connect to (repeat)
    #[arg(long = "vip", value_name = "ADDR:PORT", value_parser = socket_address)]
    pub vips: Vec<SocketAddr>,

    /// A server, for all VIPs of its address family (repeat). KEY=VALUE is
    ///   weight=N             share of new sessions (1); 0 takes none
    ///   max-connections=N    further ones wait, see --class
    ///   max-handshakes=N     at a time, in units: 10 for a full one, 1 for one
    ///                        that resumes; auto: as many as it does without
    ///                        getting slow
    ///   slow-start=D         after a recovery weight and limits grow for so long
    ///   check=KIND           ask it whether it serves, see --check of run; off: it
    ///                        is not asked what all others are
    ///   check-KEY=VALUE      KEY of --check, for this one: check-port=8443
    ///   agent=PORT           an agent there says how much it can take (HAProxy's
    ///                        agent-check)
    ///   agent-interval=D     from one question to the next (2s)
    ///   tunnel=KIND          its packets go wrapped: ipip, gue, vxlan, or sealed by
    ///                        wireguard; ADDR is the inner address
    ///   tunnel-endpoint=A    where the tunnel ends, with :PORT if it is not the
    ///                        usual one
    ///   tunnel-vni=N, tunnel-mac=M   vxlan: network, and the server's address in it
    ///   tunnel-public-key=K  wireguard: the server's public key (--tunnel-key has ours)
    ///   tunnel-address=A     wireguard: the inner address, if ADDR is another
    #[arg(long = "backend", value_name = "NAME=ADDR:PORT[,KEY=VALUE]...", value_parser = backend, verbatim_doc_comment)]
    pub backends: Vec<BackendArg>,
}

/// What can be tuned, live and in replay.
#[derive(Args, Debug)]
pub struct Tuning {
    /// How a server is chosen when no session decides
    #[arg(long, value_enum, default_value = "maglev")]
    pub balance: BalanceArg,

    /// What maglev hashes: the client's address (its connections meet one server), or addresses and ports
    #[arg(long, value_enum, default_value = "source-ip")]
    pub hash_on: HashOnArg,

    /// Seed of the client hash of maglev and of --resume-fallback source-ip: the same on all dispatchers of a service. A large secret
    /// one keeps clients from working out where their address leads
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub hash_seed: u64,

    /// Whose address servers see: one of ours (snat), or the client's (dnat; servers then route back through us)
    #[arg(long, value_enum, default_value = "snat")]
    pub address_mode: AddressModeArg,

    /// Begin each connection to a server with a PROXY protocol header that names the client
    #[arg(long, value_enum, value_name = "VERSION")]
    pub proxy_protocol: Option<ProxyArg>,

    /// Balancers in front of us, by their addresses: a connection from there begins with a PROXY protocol header (version 1 or 2), and whom
    /// it names counts as the client; one without is refused. Servers get the header as --proxy-protocol says, and without that not at all
    #[arg(long, value_name = "ADDR/BITS", value_delimiter = ',')]
    pub accept_proxy: Vec<lb::admission::Prefix>,

    /// Lead sessions to the server that can resume them: on, off, or cookie=NAME: on, and sessions of plain HTTP/1 by the cookie of this name, as
    /// servers set it
    #[arg(long, value_name = "HOW", default_value = "on", value_parser = affinity)]
    pub affinity: AffinityArg,

    /// Where a client goes that offers a session which no row knows: where its address leads (source-ip), so that it may
    /// meet the server it met before, or like a new one (balance)
    #[arg(long, value_name = "WHERE", default_value = "source-ip", value_parser = resume_fallback)]
    pub resume_fallback: lb::ResumeFallback,

    /// A ticket key that a server opens, by its name, the first 16 bytes of its tickets in hex (repeat); or `unknown` for a
    /// server whose tickets have no such name. Without it, key names are learned
    #[arg(long = "ticket-key", value_name = "NAME=HEX16|unknown", value_parser = ticket_key)]
    pub ticket_keys: Vec<TicketKey>,

    /// How long a client may stay silent, or short of the first bytes of a hello, before it is taken for one that waits for the server
    #[arg(long, value_name = "D", default_value = "3s", value_parser = duration)]
    pub hello_timeout: Duration,

    /// What is served: TLS or anything else (auto), or TLS alone (tls): then up to 30 s are waited for a hello, instead of
    /// --hello-timeout
    #[arg(long, value_enum, default_value = "auto")]
    pub service_kind: ServiceKindArg,

    /// The servers hold keys for Encrypted Client Hello (ECH). What they answer to a hello with ECH is then about its hidden part, so
    /// nothing is learned from the PSK identities that can be read in it
    #[arg(long)]
    pub servers_have_ech: bool,

    /// A class of requests, for servers with limits: which one goes first (repeat, 8 at most; the first that matches, what none matches is
    /// of the last). KEY=VALUE is
    ///   kind=KIND            resumes, full or non-tls
    ///   client=PREFIX        where it comes from (repeat)
    ///   listen=ADDR:PORT     where it connects to (repeat)
    ///   sni=NAME             server name, or *.NAME (repeat)
    ///   alpn=PROTOCOL        (repeat)
    ///   strict               before all behind it, and before all with a weight
    ///   weight=N             share of what strict ones leave (1)
    ///   queue=N              so many wait at most (1024); further ones are of the
    ///                        last class, which refuses when it is full
    ///   queue-timeout=D      so long one waits at most (3s)
    ///   reserve=N            hundredths of each server that only it may use (0)
    ///
    /// Without: resumes,kind=resumes,weight=8 non-tls,kind=non-tls full
    #[arg(long = "class", value_name = "NAME[,KEY=VALUE]...", value_parser = class, verbatim_doc_comment)]
    pub classes: Vec<ClassSpec>,

    /// How long a client waits for a server that can resume its session and has no room, before it takes any; or `never`
    #[arg(long, value_name = "D", default_value = "50ms", value_parser = spill_after)]
    pub spill_after: SpillAfter,

    /// Sessions remembered; when full, the client that has most of them loses its least recently used one
    #[arg(long, value_name = "N", default_value_t = crate::engine::Limits::default().sessions, value_parser = capacity)]
    pub session_capacity: usize,

    /// A session, and the name of a ticket key, is forgotten this long after its last use
    #[arg(long, value_name = "D", default_value = "1h", value_parser = duration)]
    pub session_ttl: Duration,

    /// Connections open at once; further ones wait in their clients' retransmissions
    #[arg(long, value_name = "N", default_value_t = crate::engine::Limits::default().flows, value_parser = capacity)]
    pub flow_capacity: usize,

    /// After so long without frames both ends of a connection are asked whether they are there; it is reset when one does not answer
    #[arg(long, value_name = "D", default_value = "5m", value_parser = duration)]
    pub flow_idle_timeout: Duration,
}

/// Flags of `replay`.
#[derive(Args, Debug)]
pub struct ReplayArgs {
    /// Captures: pcap, nanosecond pcap or pcapng; one after the other, with one table of sessions
    #[arg(value_name = "FILE", required = true)]
    pub files: Vec<PathBuf>,

    #[command(flatten)]
    #[allow(missing_docs)]
    pub service: Service,

    #[command(flatten)]
    #[allow(missing_docs)]
    pub tuning: Tuning,

    /// Re-enact against the services, pools and backends of a configuration file instead of flags
    #[arg(long, value_name = "FILE", conflicts_with_all = ["Service", "Tuning"])]
    pub config: Option<PathBuf>,

    /// What would change if this configuration took the place of --config: how many of the recorded clients would meet another server if they
    /// came again, and how many sessions would be lost by that
    #[arg(long, value_name = "FILE", requires = "config", conflicts_with = "out")]
    pub next_config: Option<PathBuf>,

    /// Explain why connections of this client went where they went: what they offered, what the tables said, who was asked, and what came of it.
    /// Needs --backend or --config
    #[arg(long, value_name = "CLIENT[:PORT]", value_parser = crate::control::socket::explain::client, conflicts_with = "next_config")]
    pub explain: Option<(std::net::IpAddr, Option<u16>)>,

    /// JSON lines instead of a report: one a connection (with --next-config: one for each that meets another server), then a summary
    #[arg(long)]
    pub json: bool,

    /// Write a report for a browser to this file: one document that needs nothing else, with how it went over time
    #[arg(long, value_name = "FILE.html")]
    pub report: Option<PathBuf>,

    /// Write the frames, with what was decided about them, to this capture
    #[arg(long, value_name = "FILE.pcapng")]
    pub out: Option<PathBuf>,
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn clap_finds_nothing_wrong_with_the_declarations() {
        Cli::command().debug_assert();
    }

    /// By name, so that a flag that is added later is not forgotten. Until there was this test, `--config FILE --takeover` was refused.
    #[test]
    fn beside_a_file_run_takes_the_flags_of_an_upgrade_and_no_other() {
        let command = Cli::command();
        let mut run = command.find_subcommand("run").cloned().unwrap();
        run.build();
        let config = run.get_arguments().find(|flag| flag.get_id() == "config").unwrap();
        let refused: Vec<_> = run.get_arg_conflicts_with(config).iter().map(|flag| flag.get_id().to_string()).collect();
        let taken = run.get_arguments().map(|flag| flag.get_id().to_string()).filter(|flag| !refused.contains(flag));
        let taken: Vec<_> = taken.collect();
        assert_eq!(taken, ["config", "takeover", "background", "detached", "help"]);
        let words = ["dispatcher", "run", "--config", "file", "--takeover", "--background"];
        assert!(Cli::try_parse_from(words).is_ok());
        let words = ["dispatcher", "run", "--config", "file", "--vip", "192.0.2.1:443"];
        assert!(Cli::try_parse_from(words).is_err());
    }
}
