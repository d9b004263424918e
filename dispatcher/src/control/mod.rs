//! What is wanted of the dispatcher, as it was written; and how it is asked while it runs.
//!
//! * [`values`]: words, numbers and addresses, for flags and keys alike; [`port`]: one network port; [`name`]: names.
//! * [`socket`]: the control socket.

pub mod name;
pub mod port;
pub mod socket;
pub mod values;
