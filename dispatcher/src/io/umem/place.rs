//! Where a chunk is.

use crate::pack::Unreadable;

/// Most sockets of a process.
pub(in crate::io) const MOST_SOCKETS: usize = 1 << 14;

/// Where a chunk is; with the kernel, also by which socket: a device that is removed takes with it what its sockets have, and one that goes to another worker, too.
/// The same numbers in every process that has the region.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Place(u16);

impl Place {
    pub const FREE: Place = Place(0);
    pub const HELD: Place = Place(1);
    /// In a long buffer that is being sent: back from the kernel, or never given to it.
    pub const DONE: Place = Place(1 << 2);
    /// Another worker's.
    pub const ELSEWHERE: Place = Place(2 << 2);
    const KIND: u16 = 3;

    pub const fn receiving(socket: u16) -> Place {
        Place(socket << 2 | 2)
    }

    pub const fn sending(socket: u16) -> Place {
        Place(socket << 2 | 3)
    }

    /// Its number without the socket's.
    pub fn kind(self) -> u16 {
        self.0 & Place::KIND
    }

    /// The socket by which the kernel has it.
    pub fn socket(self) -> Option<u16> {
        (self.kind() >= 2).then_some(self.0 >> 2)
    }

    /// It has to do with what the kernel has, or had.
    pub fn of_kernel(self) -> Option<Place> {
        (self.kind() >= 2 || self == Place::DONE).then_some(self)
    }

    pub fn to_bytes(self) -> [u8; 2] {
        self.0.to_le_bytes()
    }

    /// The inverse; none of what is no place.
    pub fn of_bytes(bytes: [u8; 2]) -> Result<Place, Unreadable> {
        let place = Place(u16::from_le_bytes(bytes));
        let known = place.kind() >= 2 || [Place::FREE, Place::HELD, Place::DONE, Place::ELSEWHERE].contains(&place);
        if known { Ok(place) } else { Err(Unreadable::Impossible("the place of a chunk")) }
    }
}
