//! How much there is of everything: rings, chunks, buffers for long frames.

use super::Device;
use crate::io::umem::{self, Long};
use crate::io::xsk::Sizes;
use crate::io::{BURST, HEADROOM, MAX_LINK_HEADER};

/// Chunks for receiving into, for all queues of a device together. Also what a burst may bring while the worker is
/// elsewhere.
pub(super) const RECEIVE: u32 = 4096;

/// Least of them for one queue.
pub(super) const RECEIVE_LEAST: u32 = 512;

/// Frames on their way out of one port.
pub(super) const TRANSMIT: u32 = 2048;

/// Most chunks of a long frame. Cards chain eight buffers and more (`xdp-zc-max-segs`), the kernel 17; four hold what any card's MTU allows.
pub(super) const MOST_CHUNKS: usize = 4;

/// Largest chunk: the kernel takes none beyond a page's size.
pub(super) const LARGEST_CHUNK: usize = 4096;

/// Which of several workers it is that opens its queues.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Part {
    /// Its number.
    pub worker: usize,
    /// Of so many, at least 1. Every device must have as many queues.
    pub workers: usize,
}

impl Part {
    /// The only worker: it has all queues.
    pub const ALL: Part = Part { worker: 0, workers: 1 };

    /// The queues of a device that are this worker's: each is one worker's, and all have as many, or one more.
    pub(super) fn queues(self, device: &Device) -> impl Iterator<Item = u16> {
        (0..device.info.queues).skip(self.worker).step_by(self.workers)
    }
}

/// How large the rings of one queue of a device are. Each can send, though a worker sends by its first: the others may be other workers' one day, and
/// what a bound socket has cannot be changed.
pub(super) fn sizes(device: &Device) -> Sizes {
    let share = (RECEIVE / u32::from(device.info.queues)).next_power_of_two().clamp(RECEIVE_LEAST, RECEIVE);
    Sizes { receive: share, transmit: TRANSMIT }
}

/// Longest frame of a device, bytes.
pub(super) fn max_frame(device: &Device) -> usize {
    usize::from(device.info.mtu) + MAX_LINK_HEADER
}

/// Whether a device has frames that no chunk holds.
pub(super) fn has_long(device: &Device) -> bool {
    umem::KERNEL_HEADROOM + max_frame(device) > LARGEST_CHUNK
}

/// Most descriptors that a port has queued or under way at once: the ring also has room for a batch that was withdrawn.
const IN_FLIGHT: usize = TRANSMIT as usize - BURST;

/// Fewest that it can do with, where a region was divided among several workers.
const IN_FLIGHT_LEAST: usize = 2 * BURST;

/// How many descriptors each of so many ports may have under way, of a worker that has so many chunks beside those for receiving. None when these are too few.
pub(super) fn in_flight(spare: usize, ports: usize) -> Option<u32> {
    // In our hands: the burst being worked on, and copies.
    let each = spare.checked_sub(BURST)?.checked_div(ports)?.checked_sub(BURST)?;
    (each >= IN_FLIGHT_LEAST).then_some(each.min(IN_FLIGHT) as u32)
}

/// What the memory of a worker is cut into.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Layout {
    /// Bytes of a chunk.
    pub(super) chunk: usize,
    /// Chunks of the longest frame as it is sent.
    pub(super) most: usize,
}

impl Layout {
    /// For every frame of these devices. `chains`: the kernel has frames in several chunks. None when they cannot be had.
    pub(super) fn of(devices: &[Device], chains: bool) -> Option<Layout> {
        let longest = devices.iter().map(max_frame).max().unwrap_or(0);
        let one = |chunk: &usize| umem::KERNEL_HEADROOM + longest <= *chunk;
        if let Some(chunk) = [2048, LARGEST_CHUNK].into_iter().find(one) {
            return Some(Layout { chunk, most: 1 });
        }
        // One that fits a chunk behind our headroom does not behind the kernel's: it comes in two.
        let most = (HEADROOM + longest).div_ceil(LARGEST_CHUNK).max(2);
        (chains && most <= MOST_CHUNKS).then_some(Layout { chunk: LARGEST_CHUNK, most })
    }

    /// Largest MTU that there is a layout for.
    pub(super) fn largest_mtu(chains: bool) -> usize {
        let one = LARGEST_CHUNK - umem::KERNEL_HEADROOM;
        let room = if chains { MOST_CHUNKS * LARGEST_CHUNK - HEADROOM } else { one };
        room - MAX_LINK_HEADER
    }

    /// Buffers for long frames: as many as can be on their way out (each has two descriptors at least), a burst in our hands, and one that is
    /// being put together for each queue.
    pub(super) fn long(self, devices: &[Device], part: Part) -> Long {
        if self.most == 1 {
            return Long::NONE;
        }
        let queues = devices.iter().map(|d| part.queues(d).count()).sum::<usize>();
        Long { buffers: devices.len() * (TRANSMIT as usize / 2 + BURST) + BURST + queues, chunks: self.most }
    }
}

pub(super) fn chunk_count(devices: &[Device], part: Part) -> usize {
    let receive = |d: &Device| part.queues(d).count() * sizes(d).receive as usize;
    // In our hands: the burst being worked on, and copies.
    devices.iter().map(receive).sum::<usize>() + devices.len() * (TRANSMIT as usize + BURST) + BURST
}

/// Bytes of the memory that these devices, opened together by so many workers, take. 0 when they cannot be opened.
pub fn memory(devices: &[Device], workers: usize) -> usize {
    let Some(layout) = Layout::of(devices, true).filter(|_| !devices.is_empty()) else { return 0 };
    let bytes = |worker| {
        let part = Part { worker, workers };
        let long = layout.long(devices, part);
        (chunk_count(devices, part) + long.buffers * long.chunks) * layout.chunk
    };
    (0..workers).map(bytes).sum()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::io::af_xdp::{Mode, open, too_long};
    use crate::io::{DeviceInfo, Filter};
    use crate::wire::Mac;

    fn device(mtu: u16, queues: u16) -> Device {
        let info = DeviceInfo { index: 1, mac: Mac([2; 6]), mtu, up: true, merges: false, strips_vlan: false, queues };
        Device { name: "x".into(), info, mode: Mode::Auto }
    }

    #[test]
    fn every_queue_is_one_workers_and_there_are_chunks_for_every_ring_and_for_what_is_in_our_hands() {
        for queues in [1, 2, 3, 8, 63, 64] {
            let device = device(1500, queues);
            for workers in 1..=usize::from(queues).min(9) {
                let mut all = Vec::new();
                for worker in 0..workers {
                    let part = Part { worker, workers };
                    let mine: Vec<_> = part.queues(&device).collect();
                    let lent = mine.len() * sizes(&device).receive as usize;
                    assert!(!mine.is_empty() && mine.len() <= usize::from(queues).div_ceil(workers));
                    assert!(chunk_count(std::slice::from_ref(&device), part) > lent + TRANSMIT as usize + BURST);
                    all.extend(mine);
                }
                all.sort_unstable();
                assert_eq!(all, (0..queues).collect::<Vec<_>>());
            }
            let each = sizes(&device).receive;
            assert!(each.is_power_of_two() && u32::from(queues) * each >= RECEIVE);
        }
    }

    #[test]
    fn a_worker_with_all_of_a_region_sends_as_much_as_rings_hold_and_one_with_too_small_a_part_is_refused() {
        for ports in 1..5 {
            let devices: Vec<_> = (0..ports).map(|_| device(1500, 2)).collect();
            let receiving = devices.iter().map(|d| 2 * sizes(d).receive as usize).sum::<usize>();
            let spare = chunk_count(&devices, Part::ALL) - receiving;
            assert_eq!(in_flight(spare, ports), Some(IN_FLIGHT as u32));
            // What is under way of each port, and a burst of each in our hands, leave one over for copies.
            let half = in_flight(spare / 2, ports).unwrap() as usize;
            assert!(half > IN_FLIGHT / 3 && ports * (half + BURST) + BURST <= spare / 2, "{half}");
            assert_eq!(in_flight(ports * (IN_FLIGHT_LEAST + BURST) + BURST, ports), Some(IN_FLIGHT_LEAST as u32));
            assert_eq!(in_flight(ports * (IN_FLIGHT_LEAST + BURST) + BURST - 1, ports), None);
        }
        assert_eq!(in_flight(0, 1), None);
    }

    #[test]
    fn chunks_hold_the_longest_frame_behind_the_kernels_headroom_and_several_hold_a_long_one() {
        let of = |mtus: &[u16], chains| {
            let devices: Vec<_> = mtus.iter().map(|mtu| device(*mtu, 1)).collect();
            Layout::of(&devices, chains).map(|layout| (layout.chunk, layout.most))
        };
        for chains in [false, true] {
            assert_eq!(of(&[1500], chains), Some((2048, 1)));
            assert_eq!(of(&[1770], chains), Some((2048, 1)));
            assert_eq!(of(&[1500, 1771], chains), Some((4096, 1)));
            assert_eq!(of(&[3818], chains), Some((4096, 1)));
            let largest = Layout::largest_mtu(chains) as u16;
            assert!(of(&[largest], chains).is_some() && of(&[largest + 1], chains).is_none());
        }
        assert_eq!(of(&[3819], false), None);
        assert_eq!(of(&[3819], true), Some((4096, 2)));
        assert_eq!(of(&[1500, 9000], true), Some((4096, 3)));
        assert!(!has_long(&device(3818, 1)) && has_long(&device(3819, 1)));
        let old = too_long(&[device(1500, 1), device(9000, 1)], false).0;
        assert!(old.contains("an MTU of 3818 at most before Linux 6.6: ip link set dev x mtu 3818"), "{old}");
        let Err(e) = open(&[device(20_000, 1)], &Filter::default()) else { panic!("opened") };
        assert!(e.0.contains("mtu 16266") || e.0.contains("mtu 3818"), "{e}");
    }
}
