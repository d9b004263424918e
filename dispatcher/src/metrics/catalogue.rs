//! Every metric by name. `docs/metrics.md` lists these, and a test holds it, the dashboard and the alerts to them.
//!
//! Names begin with `dispatcher_`, count in base units, and end in `_total` where they only grow. Labels come from the configuration and from lists in the program, never from
//! clients: so the number of series is bounded by what is configured.

/// What a metric's numbers are.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// They only grow, until the process ends.
    Counter,
    /// They are as things are.
    Gauge,
    /// How many took how long.
    Histogram,
}

impl Kind {
    /// As Prometheus calls it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Kind::Counter => "counter",
            Kind::Gauge => "gauge",
            Kind::Histogram => "histogram",
        }
    }
}

/// A metric.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Metric {
    /// As it is asked for.
    pub name: &'static str,
    /// Of which kind.
    pub kind: Kind,
    /// Its labels.
    pub labels: &'static [&'static str],
    /// What it says, without a full stop.
    pub help: &'static str,
}

/// Declares them, each with a constant, so that the list stands in one place.
macro_rules! catalogue {
    ($($constant:ident = $kind:ident $name:literal [$($label:literal),*] $help:literal;)*) => {
        $(#[doc = $help] pub const $constant: Metric = Metric {
            name: $name,
            kind: catalogue!(@ $kind),
            labels: &[$($label),*],
            help: $help,
        };)*

        /// All of them, in the order of the document.
        pub const ALL: &[Metric] = &[$($constant,)*];
    };
    (@ counter) => { Kind::Counter };
    (@ gauge) => { Kind::Gauge };
    (@ histogram) => { Kind::Histogram };
}

catalogue! {
    BUILD_INFO = gauge "dispatcher_build_info" ["version"] "1, with the version of the program";
    START_TIME = gauge "dispatcher_start_time_seconds" [] "When the process was started, seconds since 1970";
    CONFIG_GENERATION = gauge "dispatcher_config_generation" [] "Changes with every change of services, pools and backends that is put in force";
    WORKERS = gauge "dispatcher_workers" [] "Workers that run";
    FLOWS = gauge "dispatcher_flows" ["worker"] "Connections in the flow table: open, or over for some seconds at most";
    CONNECTIONS = counter "dispatcher_connections_total" ["class"] "Connections that have ended, secure (TLS) or non-secure";
    CONNECTIONS_LED = counter "dispatcher_connections_led_total" ["reason"] "Ended connections by what led them to their backend; balanced: nothing did";
    CONNECTIONS_LOST = counter "dispatcher_connections_without_backend_total" [] "Ended connections that reached no backend";
    SYN_COOKIES = counter "dispatcher_syn_cookies_sent_total" [] "SYNs answered with a cookie";
    FLOWS_OPENED = counter "dispatcher_flows_opened_total" [] "Connections begun by a cookie that came back";
    DIALS = counter "dispatcher_dials_total" [] "SYNs sent to backends, repetitions included";
    REDISPATCHES = counter "dispatcher_redispatches_total" [] "Backends that refused a connection or were silent, and were replaced by another";
    RETRANSMITS = counter "dispatcher_retransmits_total" [] "Segments of ours sent again to backends";
    HELLOS_UNREAD = counter "dispatcher_hellos_unread_total" [] "Hellos that could not be read, or not all of it";
    UNWATCHED = counter "dispatcher_unwatched_total" [] "Answers of servers that were not read, so that nothing was learned of them";
    FRAMES_RECEIVED = counter "dispatcher_frames_received_total" ["worker", "port"] "Frames taken from a port; a large unit is one";
    BYTES_RECEIVED = counter "dispatcher_bytes_received_total" ["worker", "port"] "Their bytes, Ethernet header included";
    FRAMES_SENT = counter "dispatcher_frames_sent_total" ["worker", "port"] "Frames given to a port; a large unit that came in as one is one";
    BYTES_SENT = counter "dispatcher_bytes_sent_total" ["worker", "port"] "Their bytes, Ethernet header included";
    LINK_DOWNS = counter "dispatcher_link_downs_total" ["port"] "How often the link of a port was seen going down";
    FRAMES_DROPPED = counter "dispatcher_frames_dropped_total" ["reason"] "Frames that came to nothing, by why";
    SEGMENTS_REFUSED = counter "dispatcher_segments_refused_total" ["reason"] "Segments that were answered by a reset, by why";
    HANDED_OVER = counter "dispatcher_frames_handed_over_total" ["worker"] "Frames handed over to the workers they belong to";
    LOOP_TURNS = counter "dispatcher_loop_turns_total" ["worker", "state"] "Turns of a worker's loop that found frames (busy), or none (idle)";
    LONGEST_TURN = gauge "dispatcher_loop_longest_turn_seconds" ["worker"] "The longest turn of a worker's loop that had frames, since its start";
    BACKEND_STATE = gauge "dispatcher_backend_state" ["backend"] "0: down, as observed or as wanted; 1: draining; 2: up; 3: workers do not agree";
    CHECKS = counter "dispatcher_checks_total" ["backend", "outcome"] "Checks of a backend, passed and failed";
    CHECK_TIME = gauge "dispatcher_check_duration_seconds" ["backend"] "What the last check of a backend took";
    BACKEND_WEIGHT = gauge "dispatcher_backend_weight" ["backend", "pool"] "The weight in force";
    BACKEND_MAX_CONNECTIONS = gauge "dispatcher_backend_max_connections" ["backend"] "The limit of connections in force, where there is one";
    BACKEND_FLOWS = gauge "dispatcher_backend_flows" ["backend"] "Connections to a backend in the flow tables";
    BACKEND_CONNECTIONS = counter "dispatcher_backend_connections_total" ["backend"] "Ended connections to a backend";
    BACKEND_BYTES = counter "dispatcher_backend_bytes_total" ["backend", "direction"] "Bytes of their streams, to_server and to_client";
    BACKEND_CONNECTIONS_USED = gauge "dispatcher_backend_slots_connections" ["backend"] "Connections that count for a backend's limit, those being dialled included, where it has a limit";
    BACKEND_HANDSHAKES_USED = gauge "dispatcher_backend_slots_handshakes" ["backend"] "Units of handshakes under way, where a backend has a limit: 10 for a full one, 1 for one that resumes";
    BACKEND_MAX_HANDSHAKES = gauge "dispatcher_backend_max_handshakes" ["backend"] "The limit of these units, as it is now";
    QUEUE_LENGTH = gauge "dispatcher_queue_length" ["service", "pool", "family", "class"] "Connections that wait for room at a backend";
    QUEUE_ASKED = counter "dispatcher_queue_requests_total" ["service", "pool", "family", "class", "outcome"] "Connections that asked for room at a backend, by what became of them: admitted, abandoned, timed_out, refused";
    QUEUE_WAITED = counter "dispatcher_queue_waited_total" ["service", "pool", "family", "class"] "Admitted connections that had waited";
    QUEUE_SPILLED = counter "dispatcher_queue_spilled_total" ["service", "pool", "family", "class"] "Admitted connections that went to another backend than the one that has their session, which had no room";
    QUEUE_DEMOTED = counter "dispatcher_queue_demoted_total" ["service", "pool", "family", "class"] "Connections that stood in the last class's line, their own being full";
    QUEUE_WAIT = histogram "dispatcher_queue_wait_seconds" ["service", "pool", "family", "class"] "How long admitted connections that had to wait for room had waited";
    HANDSHAKE = histogram "dispatcher_handshake_seconds" ["service", "resumed"] "Of ended connections, how long servers took from the client's hello to their own; resumed: yes or no";
    CONNECTION = histogram "dispatcher_connection_seconds" ["service"] "How long ended connections lasted";
    TUNNEL_UP = gauge "dispatcher_tunnel_up" ["endpoint", "worker"] "1 while a tunnel whose packets are sealed is up, else 0";
    TUNNEL_HANDSHAKE = gauge "dispatcher_tunnel_handshake_age_seconds" ["endpoint", "worker"] "Since the latest handshake of a tunnel that led to a session; keys are made anew after 110 s";
    TUNNEL_HANDSHAKES = counter "dispatcher_tunnel_handshakes_total" ["endpoint", "worker", "outcome"] "Handshakes of a tunnel: established, and of those that we began, repetitions included, initiated";
    TUNNEL_BYTES = counter "dispatcher_tunnel_bytes_total" ["endpoint", "worker", "way"] "Bytes of UDP payload that went through a tunnel: received (and opened), sent";
    TUNNEL_REFUSED = counter "dispatcher_tunnel_refused_messages_total" ["endpoint", "worker", "why"] "Messages from where a tunnel ends that came to nothing: unopened, replayed, old-handshake, flooded";
    RESUMPTIONS = counter "dispatcher_resumptions_total" ["backend", "kind", "outcome"] "Connections that offered to resume a session, by whether the backend did: accepted, refused; broken: refused although the tables had promised it; unknown: no row knew the session";
    SESSION_ROWS = gauge "dispatcher_session_rows" ["kind"] "Rows of the session tables: session-id, ticket, cookie, key-name, candidate";
    SHARED_KEY_NAMES = gauge "dispatcher_shared_key_names" [] "Names of ticket keys that several backends open";
}
