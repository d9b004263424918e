//! What is wanted of the dispatcher, as it was written; and how it is asked while it runs.
//!
//! * [`configuration`] holds what is wanted; [`rules`] say what is wrong with values that are each right.
//! * [`mod@file`] reads it from TOML, whose keys [`keys`] lists; [`fault`] is what is said of a file's mistakes.
//! * [`mod@text`] writes one as the file that says it.
//! * [`values`] are words, numbers and addresses, for flags and keys alike; [`port`] is one network port, [`mod@backend`] a backend,
//!   [`mod@class`] a class of requests, [`name`] what names may be.
//! * [`agents`]: what agents on backends' hosts say, laid over what is wanted.
//! * [`checks`]: what backends are asked, in words.
//! * [`own`]: addresses of ours that others have, too.
//! * [`overrides`]: what operators said while it ran; [`diff`]: what is different between two configurations.
//! * [`events`]: what has happened while it ran.
//! * [`holds`]: what holds of a backend, and whose word it is.
//! * [`live`] has what is wanted now, and brings changes of it into force.
//! * [`member`]: what is said of a backend in JSON.
//! * [`service`]: what the service manager is told.
//! * [`socket`] is the control socket.
//! * [`takeover`]: one process takes over from another.

pub mod agents;
pub mod backend;
pub mod checks;
pub mod class;
pub mod configuration;
pub mod diff;
pub mod events;
pub mod fault;
pub mod file;
pub mod holds;
pub mod keys;
pub mod live;
pub mod member;
pub mod name;
pub mod overrides;
pub mod own;
pub mod port;
mod reader;
pub mod rules;
pub mod service;
pub mod socket;
pub mod takeover;
pub mod text;
pub mod tunnel;
pub mod values;
