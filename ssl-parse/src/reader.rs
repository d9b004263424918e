//! A bounded cursor over borrowed bytes.

use crate::outcome::Malformed;

/// Reads big-endian fields from the front of a slice. A length prefix yields a slice or a cursor of exactly that length, and [`finish`]
/// notices what is left over, so that a parser written on it follows the RFC's own struct.
///
/// [`finish`]: Reader::finish
#[derive(Clone, Copy, Debug)]
pub struct Reader<'a> {
    bytes: &'a [u8],
}

impl<'a> Reader<'a> {
    /// A cursor at the front of `bytes`.
    pub const fn new(bytes: &'a [u8]) -> Self {
        Self { bytes }
    }

    /// What has not been read.
    pub const fn rest(&self) -> &'a [u8] {
        self.bytes
    }

    /// Whether all has been read.
    pub const fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// # Errors
    /// [`Malformed::TrailingBytes`] when something is left.
    pub const fn finish(self) -> Result<(), Malformed> {
        if self.bytes.is_empty() { Ok(()) } else { Err(Malformed::TrailingBytes) }
    }

    /// The next `n` bytes.
    ///
    /// # Errors
    /// [`Malformed::Truncated`] when there are fewer; so for all that follow.
    pub const fn take(&mut self, n: usize) -> Result<&'a [u8], Malformed> {
        match self.bytes.split_at_checked(n) {
            Some((head, rest)) => {
                self.bytes = rest;
                Ok(head)
            }
            None => Err(Malformed::Truncated),
        }
    }

    /// The next `N` bytes, as an array.
    pub const fn array<const N: usize>(&mut self) -> Result<&'a [u8; N], Malformed> {
        match self.bytes.split_first_chunk() {
            Some((head, rest)) => {
                self.bytes = rest;
                Ok(head)
            }
            None => Err(Malformed::Truncated),
        }
    }

    /// `uint8`
    pub fn u8(&mut self) -> Result<u8, Malformed> {
        self.array().map(|&[a]| a)
    }

    /// `uint16`
    pub fn u16(&mut self) -> Result<u16, Malformed> {
        self.array().map(|&b| u16::from_be_bytes(b))
    }

    /// `uint24`
    pub fn u24(&mut self) -> Result<u32, Malformed> {
        self.array().map(|&[a, b, c]| u32::from_be_bytes([0, a, b, c]))
    }

    /// `uint32`
    pub fn u32(&mut self) -> Result<u32, Malformed> {
        self.array().map(|&b| u32::from_be_bytes(b))
    }

    /// `opaque x<0..2^8-1>`
    pub fn vec8(&mut self) -> Result<&'a [u8], Malformed> {
        let n = self.u8()?;
        self.take(n.into())
    }

    /// `opaque x<0..2^16-1>`
    pub fn vec16(&mut self) -> Result<&'a [u8], Malformed> {
        let n = self.u16()?;
        self.take(n.into())
    }
}
