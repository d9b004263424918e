//! What is wanted of the dispatcher, as it was written.
//!
//! * [`values`]: words, numbers and addresses, for flags and keys alike; [`port`]: one network port; [`name`]: names.

pub mod name;
pub mod port;
pub mod values;
