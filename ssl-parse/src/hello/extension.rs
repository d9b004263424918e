//! The extension block both hellos end with.

use crate::codepoint::ExtensionType;
use crate::outcome::Malformed;
use crate::reader::Reader;

/// One extension as sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Extension<'a> {
    /// Its code point.
    pub kind: ExtensionType,
    /// `extension_data`.
    pub data: &'a [u8],
}

/// The extensions of a hello in the order sent, known or not, as far as they can be read.
///
/// An extension that begins inside the block is read even when it reaches beyond: to the end of the message, as JSSE does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Extensions<'a> {
    /// What follows the block's length, to the end of the message.
    rest: &'a [u8],
    /// Bytes of the block.
    block: usize,
}

impl<'a> Extensions<'a> {
    /// Reads the rest of a hello: nothing at all (before RFC 3546, and allowed since), or a block. And whether the block is whole and fills it.
    pub(super) fn read(rest: &mut Reader<'a>) -> (Self, Result<(), Malformed>) {
        if rest.is_empty() {
            return (Self::default(), Ok(()));
        }
        let Ok(block) = rest.u16() else { return (Self::default(), Err(Malformed::Truncated)) };
        let all = Self { rest: rest.rest(), block: block.into() };
        (all, all.exact())
    }

    fn exact(self) -> Result<(), Malformed> {
        let mut r = Reader::new(self.rest);
        let mut inside = Reader::new(r.take(self.block)?);
        while !inside.is_empty() {
            inside.u16()?;
            inside.vec16()?;
        }
        r.finish()
    }

    /// The first extension of that kind.
    pub fn get(self, kind: ExtensionType) -> Option<&'a [u8]> {
        self.into_iter().find(|x| x.kind == kind).map(|x| x.data)
    }
}

/// Stops at the end of the block, or at the first extension that the message cuts off.
impl<'a> Iterator for Extensions<'a> {
    type Item = Extension<'a>;

    fn next(&mut self) -> Option<Extension<'a>> {
        if self.block == 0 {
            return None;
        }
        let mut r = Reader::new(self.rest);
        let kind = ExtensionType(r.u16().ok()?);
        let data = r.vec16().ok()?;
        self.block = self.block.saturating_sub(4 + data.len());
        self.rest = r.rest();
        Some(Extension { kind, data })
    }
}

/// Fills an empty slot; a full one means that the extension came twice.
pub(super) fn once<T>(slot: &mut Option<T>, value: T) -> Result<(), Malformed> {
    match slot.replace(value) {
        None => Ok(()),
        Some(_) => Err(Malformed::DuplicateExtension),
    }
}
