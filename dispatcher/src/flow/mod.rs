//! What is remembered of connections, and the parts it is made of. Pure: frames' facts, a [`crate::time::Time`] and
//! entropy go in; nothing here knows a socket, a clock or a frame's buffer.
//!
//! * [`Key`], [`FlowTable`]: protocol, addresses and ports as they stand in an arriving frame, to the flow and the side it came
//!   from; [`Look`]: what is seen of it before a frame's turn.
//! * [`Wheel`]: one timer a flow.
//! * [`CookieJar`]: what a SYN must come back with before anything is remembered at all.
//! * [`BufferPool`], [`Assembler`]: one direction of a stream, put in order.
//! * [`Window`], [`Direction`]: which segments of a direction can be meant seriously.
//! * [`Splice`]: two connections made into one.
//! * [`LocalPorts`]: which address and port of ours to dial from next.
//! * [`Watches`](watches::Watches): a bounded pool of what is read along with flows.
//! * [`Rss`]: which queue a card brings a frame to.
//!
//! Everything is allocated at construction, and nothing grows afterwards; each type's `bytes_for` says what that costs.
//! What happens when one is full is written at the operation that can find it so.

mod assembler;
mod cookie;
mod hash;
mod index;
mod key;
mod places;
mod ports;
pub mod quote;
mod rss;
pub mod splice;
mod table;
mod track;
pub mod watches;
mod wheel;

pub use assembler::{Assembler, BufferId, BufferPool, Inserted, MAX_RANGES};
pub use cookie::{ClientOptions, CookieJar, CookieVerified, EPOCH};
pub use hash::KeyV4;
pub use key::Key;
pub use ports::{LocalPorts, MAX_SOURCES, PortUse};
pub use rss::Rss;
pub use splice::{Clock, Endpoints, LARGEST_SHIFT, Rescale, Splice};
pub use table::{FlowId, FlowTable, Look, Rest, RestMut, Side, TowardsV4};
pub use track::{Direction, Oddities, Window};
pub use wheel::Wheel;
