//! Sockets for a worker's queues: made and bound, passed by another process, or made anew when a device is there again.

use super::layout::{Part, sizes};
use super::line::Line;
use super::receiver::Queue;
use super::regions::{Assigned, Regions};
use super::{Attached, Common, Device, patiently};
use crate::io::xsk::Xsk;
use crate::io::{DeviceInfo, device_info, sys};
use std::io;
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::sync::Arc;

/// A worker's place at a device.
pub(super) struct Seat {
    pub(super) device: Device,
    pub(super) attached: Arc<Attached>,
    pub(super) part: Part,
    /// Among the worker's ports of this driver.
    pub(super) port: u8,
    pub(super) zero_copy: bool,
    /// The worker's queues of the device.
    pub(super) queues: Vec<Assigned>,
    /// The worker's memory.
    pub(super) regions: Rc<Regions>,
}

/// A socket, and where it belongs.
pub(super) struct Bound {
    at: Assigned,
    xsk: Xsk,
}

/// A socket for every queue of this worker's of every device, bound. On failure: which device, and why.
pub(super) fn sockets(seats: &[Seat], flags: u16) -> Result<Vec<Vec<Bound>>, (String, io::Error)> {
    let mut all: Vec<Vec<Bound>> = Vec::with_capacity(seats.len());
    for seat in seats {
        all.push(sockets_at(seat, flags, &all, true).map_err(|e| (seat.device.name.clone(), e))?);
    }
    Ok(all)
}

/// The same of those that another process has passed.
pub(super) fn inherited_sockets(
    seats: &[Seat],
    common: &[Arc<Common>],
) -> Result<Vec<Vec<Bound>>, (String, io::Error)> {
    let of_seat = |(seat, common): (&Seat, &Arc<Common>)| {
        let failed = |e| (seat.device.name.clone(), e);
        let mut sockets = Vec::new();
        for at in &seat.queues {
            let fd = common.legacy().and_then(|legacy| legacy.take_socket(at.queue));
            let fd = fd.ok_or_else(|| failed(io::Error::other("it is not there")))?;
            let xsk = Xsk::over(fd, sizes(&seat.device)).map_err(failed)?;
            seat.attached.give_socket(at.queue, at.region, &xsk.fd).map_err(failed)?;
            sockets.push(Bound { at: *at, xsk });
        }
        Ok(sockets)
    };
    seats.iter().zip(common).map(of_seat).collect()
}

/// The same at one device. `others`: with one of these each shares the registration of its region, if there is one; the first of a region registers it.
fn sockets_at(seat: &Seat, flags: u16, others: &[Vec<Bound>], patient: bool) -> io::Result<Vec<Bound>> {
    let device = &seat.device;
    let mut sockets: Vec<Bound> = Vec::with_capacity(seat.queues.len());
    for at in &seat.queues {
        let umem = &seat.regions.numbered(at.region).ok_or(io::ErrorKind::InvalidInput)?.umem;
        let shared = others.iter().flatten().chain(&sockets).find(|other| other.at.region == at.region);
        let registration = if shared.is_none() { Some(umem.registration()) } else { None };
        let xsk = Xsk::new(registration, sizes(device))?;
        // Those that share take the first one's flags.
        let chains = if umem.has_long() { libc::XDP_USE_SG } else { 0 };
        let flags = if shared.is_none() { flags | libc::XDP_USE_NEED_WAKEUP | chains } else { 0 };
        let shared = shared.map(|first| &first.xsk.fd);
        let bind = || sys::bind_xdp(&xsk.fd, device.info.index, at.queue.into(), flags, shared);
        if patient { patiently(bind) } else { bind() }?;
        sockets.push(Bound { at: *at, xsk });
    }
    for Bound { at, xsk } in &sockets {
        seat.attached.give_socket(at.queue, at.region, &xsk.fd)?;
    }
    Ok(sockets)
}

pub(super) fn work_without_copy(sockets: &[Bound]) -> io::Result<bool> {
    let first = sockets.first().ok_or(io::ErrorKind::InvalidInput)?;
    let options: libc::xdp_options = sys::get_option(&first.xsk.fd, libc::SOL_XDP, libc::XDP_OPTIONS)?;
    Ok(options.flags & libc::XDP_OPTIONS_ZEROCOPY != 0)
}

/// What a transmitter sends by.
pub(super) struct Sending {
    /// For each region one.
    pub(super) lines: Vec<Line>,
    /// The others of their regions.
    pub(super) others: Vec<Line>,
    pub(super) zero_copy: bool,
}

/// Into what is received by, and what is sent by.
pub(super) fn divide(seat: &Seat, sockets: Vec<Bound>) -> io::Result<(Vec<Queue>, Sending)> {
    let mut queues = Vec::with_capacity(sockets.len());
    let mut sending = Sending { lines: Vec::new(), others: Vec::new(), zero_copy: seat.zero_copy };
    for Bound { at, xsk } in sockets {
        let region = seat.regions.numbered(at.region).ok_or(io::ErrorKind::InvalidInput)?;
        let fd = Rc::new(xsk.fd);
        let line = Line::new(at.socket, fd.clone(), xsk.transmitting, region);
        match sending.lines.iter().any(|other| other.sends(&region.umem)) {
            false => sending.lines.push(line),
            true => sending.others.push(line),
        }
        queues.push(Queue::new(at.socket, fd, xsk.receiving, region.umem.clone(), sizes(&seat.device).receive));
    }
    if sending.lines.is_empty() {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    Ok((queues, sending))
}

/// What is readable when a frame has come by one of these queues; none if that is the only queue's own descriptor.
pub(super) fn wait_on(queues: &[Queue]) -> io::Result<Option<OwnedFd>> {
    match queues {
        [_one] => Ok(None),
        several => sys::readable_together(&several.iter().map(|q| &*q.fd).collect::<Vec<_>>()).map(Some),
    }
}

/// What a device that was made anew is used by.
pub(super) struct Opened {
    pub(super) index: u32,
    pub(super) queues: Vec<Queue>,
    pub(super) sending: Sending,
}

/// Opens a device that was removed, and is there again: in the mode that it had, with as many queues and no longer frames. Regions
/// are registered a second time: whose registration they shared is not known any more.
pub(super) fn opened(seat: &Seat) -> io::Result<Opened> {
    let info = device_info(&seat.device.name).map_err(io::Error::other)?;
    if info.queues != seat.device.info.queues || info.mtu < seat.device.info.mtu || !info.up {
        return Err(io::ErrorKind::Unsupported.into());
    }
    let index = info.index;
    seat.attached.follow(index)?;
    let device = Device { info: DeviceInfo { mtu: seat.device.info.mtu, ..info }, ..seat.device.clone() };
    let (attached, regions) = (seat.attached.clone(), seat.regions.clone());
    let anew = Seat { device, attached, regions, queues: seat.queues.clone(), ..*seat };
    let flags = if seat.zero_copy { libc::XDP_ZEROCOPY } else { libc::XDP_COPY };
    let sockets = sockets_at(&anew, flags, &[], false)?;
    let (queues, sending) = divide(&anew, sockets)?;
    Ok(Opened { index, queues, sending })
}
