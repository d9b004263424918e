//! Header views, checksums, sequence numbers as types.

mod addr;
pub mod build;
pub mod checksum;
mod frame;
pub mod options;
pub mod packet;
pub mod proxy;
mod seq;

use crate::pack::packed;
pub use addr::{Addr, Family};
pub use frame::{Checksum, Frame, Offload};
pub use seq::{Seq, SeqDelta};

use core::fmt;

/// An Ethernet address.
#[derive(Clone, Copy, PartialEq, Eq, Default, Hash)]
pub struct Mac(pub [u8; 6]);

impl Mac {
    /// All stations.
    pub const BROADCAST: Mac = Mac([0xff; 6]);

    /// Addressed to more than one station (IEEE 802.3: the group bit).
    pub const fn is_group(self) -> bool {
        self.0[0] & 1 == 1
    }
}

impl fmt::Display for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

impl fmt::Debug for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

packed!(Mac([u8; 6]));
