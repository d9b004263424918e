//! Lines of memory into the cache before they are needed: what makes a burst cheaper than its frames one by one.
//!
//! `unsafe`, and of no consequence: a hint.

/// Bytes of a cache line.
pub const LINE: usize = 64;

/// Asks for the cache line that this address lies in. Any address will do: it is a hint, nothing is read that the program could see, and
/// none faults. Does nothing where the language has no stable way to ask.
#[inline(always)]
pub fn line(address: *const u8) {
    #[cfg(target_arch = "x86_64")]
    {
        use core::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        // SAFETY: a hint about an address, which the processor may ignore; it does not access memory in the sense of the language.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(address.cast()) };
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = address;
}

/// Asks for all lines of a value.
#[inline(always)]
pub fn value<T>(of: &T) {
    let start = core::ptr::from_ref(of).cast::<u8>();
    for offset in (0..size_of::<T>()).step_by(LINE) {
        line(start.wrapping_add(offset));
    }
}
