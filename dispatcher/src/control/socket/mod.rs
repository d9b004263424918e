//! The control socket of a running dispatcher: the socket itself, what can be asked there, and who answers.
//!
//! * [`api`]: what goes over the socket, as JSON; the same types for both ends.
//! * [`orders`]: what can be asked to be changed, as it comes in requests.
//! * [`router`]: which request means what.
//! * [`serve`]: a thread that answers connections, and the bounds of whoever connects; [`server`]: the Unix socket.
//! * [`capture`]: frames as they pass, which workers show.
//! * [`connections`]: live connections, which workers look for; [`explain`]: why they, and those that have ended, went where they went.
//! * [`queue`]: the way of a request to the thread that owns the dispatcher's state, and of its answer back.
//! * [`running`]: who answers.
//! * [`client`]: one request, for `dispatcher ctl` and `dispatcher top`.
//!
//! The socket has a thread of its own, which holds no lock and no state. What is asked is done by the main thread, one after the
//! other; workers are read through what they tell anyway ([`crate::worker::Status`]).

pub mod api;
pub mod capture;
pub mod client;
pub mod connections;
pub mod explain;
pub mod orders;
pub mod queue;
pub mod router;
pub mod running;
pub mod serve;
pub mod server;

pub use queue::Control;
pub use running::Running;

/// Where the socket is when nothing else is said.
pub const DEFAULT_SOCKET: &str = "/run/dispatcher/control.sock";
