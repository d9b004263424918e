//! Memory that is a file: room for it on the disk, and what to do when the disk takes it away.
//!
//! Who touches a page of a mapped file that the disk cannot give (the file was cut off, the disk is broken, or a file system has no room to copy a page
//! that it shares) is sent SIGBUS, and dies of it. Of [guarded](guard) memory all pages are then replaced by empty ones, which are nobody's, and the process
//! goes on.

use core::ffi::{c_int, c_void};
use core::mem::zeroed;
use core::ops::Range;
use core::ptr;
use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};

/// Makes an empty file so long, with room on the disk for all of it.
pub fn reserve(file: &File, bytes: u64) -> io::Result<()> {
    let bytes = libc::off_t::try_from(bytes).map_err(io::Error::other)?;
    // SAFETY: no memory is handed over.
    match unsafe { libc::posix_fallocate(file.as_raw_fd(), 0, bytes) } {
        0 => Ok(()),
        error => Err(io::Error::from_raw_os_error(error)),
    }
}

static START: AtomicUsize = AtomicUsize::new(0);
static BYTES: AtomicUsize = AtomicUsize::new(0);
static LOST: AtomicBool = AtomicBool::new(false);

/// From now on this mapping, all of whose pages may be replaced, kills nobody; see [`lost`]. One in a process.
pub fn guard(mapping: &Range<*mut u8>) -> io::Result<()> {
    START.store(mapping.start.addr(), SeqCst);
    BYTES.store(mapping.end.addr() - mapping.start.addr(), SeqCst);
    // SAFETY: an all-zero struct is a valid one, of a handler that is set in the next lines.
    let mut action: libc::sigaction = unsafe { zeroed() };
    let handler: extern "C" fn(c_int, *mut libc::siginfo_t, *mut c_void) = replace;
    action.sa_sigaction = handler as libc::sighandler_t;
    action.sa_flags = libc::SA_SIGINFO;
    // SAFETY: `action` outlives the call, and `replace` does only what a handler may.
    match unsafe { libc::sigaction(libc::SIGBUS, &raw const action, ptr::null_mut()) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// The mapping is about to go.
pub fn unguard(mapping: &Range<*mut u8>) {
    if START.load(SeqCst) == mapping.start.addr() {
        BYTES.store(0, SeqCst);
    }
}

/// The pages of the guarded mapping are no longer those of its file.
pub fn lost() -> bool {
    LOST.load(SeqCst)
}

/// Nothing but atomics, mmap(2) and signal(2).
extern "C" fn replace(_: c_int, info: *mut libc::siginfo_t, _: *mut c_void) {
    // SAFETY: the kernel hands over a valid struct, and for SIGBUS it has an address.
    let at = unsafe { (*info).si_addr() }.addr();
    let (start, bytes) = (START.load(SeqCst), BYTES.load(SeqCst));
    if at.wrapping_sub(start) < bytes {
        let fixed = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_FIXED;
        // SAFETY: these are the pages of the mapping and no others, which who guards it lets be replaced: what is in them is never relied on.
        let got = unsafe {
            libc::mmap(ptr::with_exposed_provenance_mut(start), bytes, libc::PROT_READ | libc::PROT_WRITE, fixed, -1, 0)
        };
        if got != libc::MAP_FAILED {
            LOST.store(true, SeqCst);
            return;
        }
    }
    // Whatever did it does it again, and dies of it as it would have.
    // SAFETY: no memory is handed over.
    unsafe { libc::signal(libc::SIGBUS, libc::SIG_DFL) };
}
