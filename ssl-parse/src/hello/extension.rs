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

/// The extensions of a hello in the order sent, known or not. The block has been checked, so iteration is plain.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Extensions<'a> {
    block: &'a [u8],
}

impl<'a> Extensions<'a> {
    /// Reads the rest of a hello: nothing at all (before RFC 3546, and allowed since), or a block that fills it.
    pub(super) fn read(rest: &mut Reader<'a>) -> Result<Self, Malformed> {
        if rest.is_empty() {
            return Ok(Self::default());
        }
        let block = rest.vec16()?;
        let mut r = Reader::new(block);
        while !r.is_empty() {
            r.u16()?;
            r.vec16()?;
        }
        Ok(Self { block })
    }

    /// The first extension of that kind.
    pub fn get(self, kind: ExtensionType) -> Option<&'a [u8]> {
        self.into_iter().find(|x| x.kind == kind).map(|x| x.data)
    }
}

/// Stops at the end of the block (and, were it unchecked, at the first extension that does not fit).
impl<'a> Iterator for Extensions<'a> {
    type Item = Extension<'a>;

    fn next(&mut self) -> Option<Extension<'a>> {
        let mut r = Reader::new(self.block);
        let kind = ExtensionType(r.u16().ok()?);
        let data = r.vec16().ok()?;
        self.block = r.rest();
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
