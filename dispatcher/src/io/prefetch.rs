//! Headers into the cache before they are looked at.
//!
//! What a NIC, or the sender's core, has written is in no cache of ours. A receiver asks for the first lines of each frame as it takes the
//! descriptor; by the time the engine comes to that frame, the frames before it have taken longer than the memory. AF_PACKET has no use for it: its frames lie one behind another, and the processor fetches them unasked.

/// Bytes from a frame's first that hold what the engine looks at: Ethernet, IPv6 or IPv4, TCP with its options.
const HEADERS: usize = 128;

/// Bytes of a cache line.
const LINE: usize = 64;

/// Asks for the headers of the frame that begins here. Any address will do: it is a hint, nothing is read that the program could see, and
/// none faults. Does nothing where the language has no stable way to ask.
#[inline(always)]
pub(super) fn headers(frame: *const u8) {
    #[cfg(target_arch = "x86_64")]
    {
        use core::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        for offset in (0..HEADERS).step_by(LINE) {
            // SAFETY: a hint about an address, which the processor may ignore; it does not access memory in the sense of the language.
            unsafe { _mm_prefetch::<_MM_HINT_T0>(frame.wrapping_add(offset).cast()) };
        }
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = (frame, HEADERS, LINE);
}
