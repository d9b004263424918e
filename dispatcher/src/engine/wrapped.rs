//! Frames that are wrapped as the last thing before they leave: see [`tunnel`](crate::path::tunnel).

use crate::counters::DropReason;
use crate::path::tunnel::Wrap;
use crate::wire::build::Link;
use crate::wire::packet::ethertype;
use crate::wire::{Family, Frame};

/// Wraps a frame of `n` bytes that begins a buffer: its new length, or none when there is no room.
pub(super) fn wrap_made(wrap: &Wrap, link: &Link, b: &mut [u8], n: usize) -> Option<usize> {
    let (at, overhead) = (link.len(), wrap.overhead());
    if n + overhead > b.len() {
        return None;
    }
    b.copy_within(at..n, at + overhead);
    link.write(b, ethertype_of(wrap.family()));
    wrap.write(&mut b[at..n + overhead]);
    Some(n + overhead)
}

/// The same for a frame in a driver's buffer.
pub(super) fn wrap_frame(wrap: &Wrap, link: &Link, frame: &mut Frame<'_>) -> Result<(), DropReason> {
    if !frame.push_front(wrap.overhead()) {
        return Err(DropReason::NoHeadroom);
    }
    let at = link.write(frame.bytes_mut(), ethertype_of(wrap.family()));
    wrap.write(&mut frame.bytes_mut()[at..]);
    Ok(())
}

/// Of an IP packet.
pub(super) fn ethertype_of(family: Family) -> u16 {
    match family {
        Family::V4 => ethertype::IPV4,
        Family::V6 => ethertype::IPV6,
    }
}
