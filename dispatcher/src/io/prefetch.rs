//! Headers into the cache before they are looked at.
//!
//! What a NIC, or the sender's core, has written is in no cache of ours. A receiver asks for the first lines of each frame as it takes the
//! descriptor; by the time the engine comes to that frame, the frames before it have taken longer than the memory. AF_PACKET has no use for it: its frames lie one behind another, and the processor fetches them unasked.

use crate::prefetch::{LINE, line};

/// Bytes from a frame's first that hold what the engine looks at: Ethernet, IPv6 or IPv4, TCP with its options.
const HEADERS: usize = 128;

/// Asks for the headers of the frame that begins here. Any address will do, see [`line`].
#[inline(always)]
pub(super) fn headers(frame: *const u8) {
    for offset in (0..HEADERS).step_by(LINE) {
        line(frame.wrapping_add(offset));
    }
}
