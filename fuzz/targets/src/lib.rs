//! What the fuzz targets do with their bytes.
//!
//! Each target is a function of bytes that panics when something does not hold. cargo-fuzz calls it with bytes that it makes up
//! (`fuzz/fuzz_targets`); the test `corpus` calls it with the inputs kept in `fuzz/corpus`, with any toolchain.
//!
//! | target | bytes | what must hold |
//! |---|---|---|
//! | [`client_hello`], [`server_hello`] | the front of a stream | the same from one shot and from [`ssl_parse::Follower`]; answers never taken back; the same as `tls-parser` |
//! | [`follower`] | side, cuts, a stream | the same events in any slicing |
//! | [`dtls`] | side, datagrams | the follower begins with what the one-shot reader says; nothing beyond its memory |
//! | [`messages`] | one message or record | no panic; all borrowed lists end; bounds |
//! | [`engine`] | segments of several flows, and time | conservation, bounds, nothing left in the end |
//! | [`capture`] | a capture file | frames lie within the file; the same from any reader |
//! | [`flags`] | a command line | refused in one line, or understood |
//! | [`config`] | a configuration file | refused with faults that lie in it, or understood |
//! | [`control`] | a request at the control socket | one answer that programs can read; what is refused is not done |
//! | [`http`] | requests and responses of plain HTTP/1 | the same in any slicing; no cookie learned but those of heads that `httparse` finds |
//! | [`tunnel`] | a frame, a message, steps of a tunnel | what is found lies within; nothing opens that is damaged, old or nobody's, and nothing twice |
//! | [`state`] | a state file, or rows of one | no row but those that were written; each of them told once |
//! | [`takeover`] | what another process has written down | refused or taken over; whatever was taken ends in order |

mod capture;
mod config;
mod control;
mod digest;
mod dtls;
mod engine;
mod flags;
mod hello;
mod http;
mod messages;
mod oracle;
mod state;
mod takeover;
mod tunnel;

pub use capture::capture;
pub use config::config;
pub use control::control;
pub use dtls::dtls;
pub use engine::engine;
pub use flags::flags;
pub use hello::{client_hello, follower, server_hello};
pub use http::http;
pub use messages::messages;
pub use state::state;
pub use takeover::{takeover, takeover_seed};
pub use tunnel::tunnel;

/// A target: a name, and what it does.
pub type Target = (&'static str, fn(&[u8]));

/// All targets.
pub const TARGETS: [Target; 14] = [
    ("client_hello", client_hello),
    ("server_hello", server_hello),
    ("follower", follower),
    ("dtls", dtls),
    ("messages", messages),
    ("engine", engine),
    ("capture", capture),
    ("flags", flags),
    ("config", config),
    ("control", control),
    ("state", state),
    ("http", http),
    ("tunnel", tunnel),
    ("takeover", takeover),
];
