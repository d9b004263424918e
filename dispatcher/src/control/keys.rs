//! All keys of the configuration file. The reader ([`super::file`]) takes no other, and `docs/configuration.md` lists these.

/// A key.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Key {
    /// Where it stands.
    pub table: Table,
    /// What it is called: as the flag, where there is one.
    pub name: &'static str,
    /// What its value looks like, in TOML.
    pub value: &'static str,
    /// What holds without it; empty: it must be there, or nothing holds.
    pub default: &'static str,
    /// In one line.
    pub meaning: &'static str,
}

/// The tables of the file.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Table {
    /// The file itself.
    Root,
    /// `[dispatcher]`.
    Dispatcher,
    /// `[[port]]`.
    Port,
    /// `[[service]]`.
    Service,
    /// The `affinity` of a service, where it is more than a word.
    Affinity,
    /// An entry of a service's `route`.
    Route,
    /// An entry of a service's `class`.
    Class,
    /// `[pool.NAME]`.
    Pool,
    /// An entry of a pool's `backend`.
    Backend,
    /// The `check` of a backend or a pool.
    Check,
    /// The `agent-check` of a backend or a pool.
    Agent,
    /// The `tunnel` of a backend.
    Tunnel,
}

impl Table {
    /// All of them.
    pub const ALL: [Table; 12] = [
        Table::Root,
        Table::Dispatcher,
        Table::Port,
        Table::Service,
        Table::Affinity,
        Table::Route,
        Table::Class,
        Table::Pool,
        Table::Backend,
        Table::Check,
        Table::Agent,
        Table::Tunnel,
    ];

    /// As people call it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Table::Root => "the file",
            Table::Dispatcher => "[dispatcher]",
            Table::Port => "[[port]]",
            Table::Service => "[[service]]",
            Table::Affinity => "an affinity",
            Table::Route => "a route",
            Table::Class => "a class",
            Table::Pool => "[pool.NAME]",
            Table::Backend => "a backend",
            Table::Check => "a check",
            Table::Agent => "an agent-check",
            Table::Tunnel => "a tunnel",
        }
    }

    /// Its keys.
    pub fn keys(self) -> impl Iterator<Item = &'static Key> {
        KEYS.iter().filter(move |key| key.table == self)
    }
}

const fn key(
    table: Table,
    name: &'static str,
    value: &'static str,
    default: &'static str,
    meaning: &'static str,
) -> Key {
    Key { table, name, value, default, meaning }
}

use Table::{Affinity, Agent, Backend, Check, Class, Dispatcher, Pool, Port, Root, Route, Service, Tunnel};

/// All of them, in the order of the document.
#[rustfmt::skip]
pub const KEYS: &[Key] = &[
    key(Root, "dispatcher", "table", "", "What holds for the whole process: read at its start; a change needs a restart"),
    key(Root, "port", "tables", "", "Network ports: read at the start; a change needs a restart"),
    key(Root, "service", "tables", "", "What clients connect to"),
    key(Root, "pool", "table of tables", "", "Backends, and how one of them is chosen"),
    key(Dispatcher, "workers", "2", "1", "Threads that move frames, each with a queue of every port; not beside `cores`"),
    key(Dispatcher, "cores", "\"2,4-5\"", "", "Cores to run workers on, one each"),
    key(Dispatcher, "idle", "\"spin\"", "sleep", "What a worker does when nothing arrives: `spin`, `yield` or `sleep`"),
    key(Dispatcher, "address-mode", "\"dnat\"", "snat", "Whose address servers see: one of ours (`snat`) or the client's (`dnat`)"),
    key(Dispatcher, "hash-seed", "7", "0", "Seed of the client hash: the same on all dispatchers of a service"),
    key(Dispatcher, "session-capacity", "500000", "262144", "Sessions remembered"),
    key(Dispatcher, "session-ttl", "\"2h\"", "1h", "A session is forgotten this long after its last use"),
    key(Dispatcher, "flow-capacity", "100000", "65536", "Connections open at once"),
    key(Dispatcher, "flow-idle-timeout", "\"10m\"", "5m", "After so long without frames the ends of a connection are asked whether they are there"),
    key(Dispatcher, "connections-log", "\"/var/log/dispatcher/connections.jsonl\"", "", "A JSON line for each connection that ends"),
    key(Dispatcher, "control", "\"/run/dispatcher/control.sock\"", "", "Where the control socket is made"),
    key(Dispatcher, "overrides", "\"/var/lib/dispatcher/overrides.json\"", "beside `control`", "What keeps over a restart what operators said by `dispatcher ctl`"),
    key(Dispatcher, "state", "\"/var/lib/dispatcher/state\"", "", "What keeps over a restart which server has which session"),
    key(Dispatcher, "tunnel-key", "\"/etc/dispatcher/tunnel.key\"", "", "Of what the keys of `wireguard` tunnels are made: a file that nobody but its owner may read (`dispatcher tunnel keygen FILE`)"),
    key(Dispatcher, "learn-keys", "\"off\"", "on", "Learn which ticket keys servers have that are seen to speak TLS, by handshakes of our own: two or three a minute"),
    key(Dispatcher, "metrics", "\"127.0.0.1:9127\"", "", "Answer Prometheus and browsers (a status page) at this address, without asking who it is"),
    key(Dispatcher, "stats-interval", "\"10s\"", "", "Print rates, flows and drops this often"),
    key(Dispatcher, "log-format", "\"json\"", "text", "How the log on standard error is written: lines for people (`text`), or a JSON object a line (`json`)"),
    key(Dispatcher, "log-level", "\"warning\"", "info", "What it has: `error`, `warning` or `info`, each with what is worse"),
    key(Port, "name", "\"wan\"", "", "Its name in reports; must be there"),
    key(Port, "driver", "\"af-xdp:eth1\"", "", "DRIVER:DEVICE as with `--port`; must be there"),
    key(Port, "ip", "[\"192.0.2.2/24\"]", "", "Addresses of its own, with prefix lengths"),
    key(Port, "gateway", "[\"192.0.2.1\"]", "", "Next hops for what is on no link, one a family"),
    key(Port, "vlan", "[300]", "", "Tags of frames to servers, outer first, at most two"),
    key(Port, "mtu", "1400", "the interface's", "Largest IP packet"),
    key(Port, "queues", "2", "as many as workers", "Queues"),
    key(Port, "mode", "\"zero-copy\"", "auto", "af-xdp: only `zero-copy`, `copy` or `generic` will do"),
    key(Port, "offload", "\"off\"", "on", "af-packet, and dpdk where it is off by default: take and give what segmentation offload, GRO and LRO make, up to 64 kB a frame"),
    key(Port, "huge", "\"on\"", "", "dpdk: insist on huge pages (`on`), or do without (`off`)"),
    key(Port, "out", "\"sent.pcap\"", "", "pcap: where what is sent goes"),
    key(Port, "tee", "\"all.pcapng\"", "", "Record all that passes"),
    key(Service, "name", "\"shop\"", "", "Its name in reports; must be there"),
    key(Service, "listen", "[\"192.0.2.10:443\", \"[2001:db8::10]:443\"]", "", "Where clients connect to (`--vip`); must be there"),
    key(Service, "pool", "\"shop\"", "", "The pool of what no route matches; must be there"),
    key(Service, "route", "[{ sni = [\"api.example.com\"], pool = \"api\" }]", "", "What goes to other pools; exact names before wildcards, then the first that matches"),
    key(Service, "proxy-protocol", "\"v2\"", "", "Begin each connection to a server with a PROXY protocol header that names the client: `v2`, or `pass`, the one that was accepted as it came"),
    key(Service, "accept-proxy", "[\"10.0.0.0/8\"]", "", "Balancers in front of us: a connection from there begins with a PROXY header (v1 or v2), whose client counts as the client; servers get it as `proxy-protocol` says, and without that not at all"),
    key(Service, "affinity", "{ cookie = \"JSESSIONID\" }", "on", "Lead sessions to the server that can resume them: `on`, `off`, or on with a cookie"),
    key(Service, "hello-timeout", "\"5s\"", "3s", "How long a client may stay silent before it is taken for one that waits for the server"),
    key(Service, "service-kind", "\"tls\"", "auto", "TLS or anything else (`auto`), or TLS alone (`tls`)"),
    key(Service, "servers-have-ech", "true", "false", "The servers hold keys for Encrypted Client Hello"),
    key(Service, "class", "[{ name = \"resumes\", kind = \"resumes\", weight = 8 }, { name = \"rest\" }]", "resumes, non-tls, full with weights 8, 1, 1", "Which request goes first where servers have limits: 8 classes at most, the first that matches; what none matches is of the last"),
    key(Service, "spill-after", "\"never\"", "50ms", "How long a client waits for a server that can resume its session and has no room, before it takes any; or `never`"),
    key(Affinity, "cookie", "\"JSESSIONID\"", "", "Sessions of plain HTTP/1 are followed by this cookie, too, as servers set it: it leads the first request of a connection; must be there"),
    key(Route, "sni", "[\"api.example.com\", \"*.api.example.com\"]", "", "Server names, of hellos or as the `Host` of plain HTTP/1; a wildcard stands for one label"),
    key(Route, "alpn", "[\"h2\"]", "", "ALPN protocols. Of each list any may match; of two lists both must"),
    key(Route, "pool", "\"api\"", "", "Where they go; must be there"),
    key(Class, "name", "\"mobile\"", "", "Its name in reports; must be there"),
    key(Class, "kind", "\"resumes\"", "", "`resumes` (a row leads to a server that is up), `full` (any other handshake) or `non-tls`"),
    key(Class, "client", "[\"10.0.0.0/8\"]", "", "Where clients come from. Of each list any entry may match; of several lists all must"),
    key(Class, "listen", "[\"192.0.2.10:443\"]", "", "Where they connect to"),
    key(Class, "sni", "[\"*.api.example.com\"]", "", "Server names"),
    key(Class, "alpn", "[\"h2\"]", "", "ALPN protocols"),
    key(Class, "weight", "4", "1", "Its share of what strict classes leave, 1 to 1000, in units of handshakes"),
    key(Class, "strict", "true", "false", "Goes before all classes behind it, and before all with a weight; not beside `weight`"),
    key(Class, "queue", "512", "1024", "So many wait in it at most; further ones are of the last class, which refuses when it is full"),
    key(Class, "queue-timeout", "\"5s\"", "3s", "So long one waits at most"),
    key(Class, "reserve", "10", "0", "Hundredths of each server's limits that only this class may use"),
    key(Pool, "backend", "[{ name = \"web1\", address = \"198.51.100.11:443\" }]", "", "Its servers; must be there"),
    key(Pool, "balance", "\"least-conn\"", "maglev", "How a server is chosen when no session decides: `maglev`, `least-conn`, `round-robin` or `random-two`"),
    key(Pool, "hash-on", "\"tuple\"", "source-ip", "What maglev hashes: the client's address, or addresses and ports (`tuple`)"),
    key(Pool, "resume-fallback", "\"balance\"", "source-ip", "Where a client goes that offers a session which no row knows"),
    key(Pool, "check", "{ kind = \"tls\" }", "", "What its backends are asked that say nothing of it themselves"),
    key(Pool, "agent-check", "{ port = 9999 }", "", "The same of their agents"),
    key(Backend, "name", "\"web1\"", "", "Its name; the same name in two pools is the same server; must be there"),
    key(Backend, "address", "\"198.51.100.11:443\"", "", "Where it listens; must be there"),
    key(Backend, "weight", "2", "1", "Share of new sessions, 0 to 1000; 0: none"),
    key(Backend, "state", "\"draining\"", "up", "`up`; `draining`: resumes sessions only; `down`: nothing"),
    key(Backend, "max-connections", "4000", "", "Most connections, those being dialled included; further ones wait"),
    key(Backend, "max-handshakes", "\"auto\"", "", "Most handshakes at a time, in units: 10 for a full one, 1 for one that resumes; `auto`: as many as it does without getting slow"),
    key(Backend, "slow-start", "\"30s\"", "", "After a recovery its weight and limits grow to what they are for so long; not after our own start"),
    key(Backend, "ticket-key", "[\"00112233445566778899aabbccddeeff\"]", "", "Names of ticket keys that it opens, or `unknown`, as with `--ticket-key`; read at the start"),
    key(Backend, "check", "{ kind = \"https\", path = \"/up\" }", "the pool's", "What it is asked, so that it is known whether it serves; told in one pool it holds in all; `\"off\"`: it is not asked what others of its pool are"),
    key(Backend, "agent-check", "{ port = 9999 }", "the pool's", "An agent on its host that says how much it can take (HAProxy's agent-check); `\"off\"`: none, whatever its pool says"),
    key(Backend, "tunnel", "{ kind = \"gue\", endpoint = \"203.0.113.5\" }", "", "Its packets go wrapped, and so may those from it; `address` is then the inner one"),
    key(Check, "kind", "\"tls\"", "", "`tcp`: its port takes a connection; `tls`: it completes a handshake; `http`, `https`: it answers a request; must be there"),
    key(Check, "sni", "\"shop.example.com\"", "", "tls, https: the server name in its hello"),
    key(Check, "path", "\"/up\"", "/", "http, https: what is asked for"),
    key(Check, "host", "\"shop.example.com\"", "`sni`, or the address", "http, https: the `Host` of the request"),
    key(Check, "method", "\"HEAD\"", "GET", "http, https: `GET` or `HEAD`"),
    key(Check, "expect", "\"200-204\"", "200-399", "http, https: the status that is well, or the first and last of several"),
    key(Check, "interval", "\"5s\"", "2s", "From the beginning of one to that of the next, 100ms to an hour; a tenth more or less"),
    key(Check, "timeout", "\"1s\"", "the interval, 2s at most", "How long one may take"),
    key(Check, "rise", "1", "2", "So many in a row that pass bring it up, 1 to 100"),
    key(Check, "fall", "5", "3", "So many in a row that fail take it away, 1 to 100"),
    key(Check, "port", "8443", "the backend's", "Another port that is asked"),
    key(Agent, "port", "9999", "", "Where the agent listens; must be there"),
    key(Agent, "interval", "\"5s\"", "2s", "From the beginning of one question to that of the next"),
    key(Tunnel, "kind", "\"gue\"", "", "`ipip`: an IP header; `gue`: IP, UDP and four bytes (Linux: `fou`); `vxlan`: IP, UDP, VXLAN and Ethernet; `wireguard`: sealed; must be there"),
    key(Tunnel, "endpoint", "\"203.0.113.5:6080\"", "port 6080 (gue), 4789 (vxlan), 51820 (wireguard)", "Where it ends: the outer address, with the UDP port if it is another; must be there"),
    key(Tunnel, "vni", "7", "", "vxlan: network identifier; must be there"),
    key(Tunnel, "mac", "\"02:00:00:00:00:0a\"", "", "vxlan: the server's Ethernet address within that network; must be there"),
    key(Tunnel, "public-key", "\"xTIBA5rboUvnH4htodjb6e697QjLERt1NAB4mZqp8Dg=\"", "", "wireguard: the server's public key; must be there"),
    key(Tunnel, "address", "\"10.200.1.11\"", "the backend's `address`", "wireguard: the server's address within the tunnel. Of the backend's `address` the port is left then"),
];

/// Keys that somebody may look for here, which there are none of, and what will do instead.
pub const INSTEAD: &[(Table, &str, &str)] =
    &[(Route, "host", "names in 'sni' are those of hellos, and the Host of plain HTTP/1")];
