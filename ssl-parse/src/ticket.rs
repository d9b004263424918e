//! NewSessionTicket up to TLS 1.2 (RFC 5077, 3.3), sent in the clear between the server's hello and its ChangeCipherSpec. That of TLS 1.3 is
//! encrypted and has another form.

use crate::outcome::Malformed;
use crate::reader::Reader;

/// A ticket as the server issues it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NewSessionTicket<'a> {
    /// `ticket_lifetime_hint` in seconds; 0 means unsaid.
    pub lifetime: u32,
    /// The ticket; empty when the server has thought better of it.
    pub ticket: &'a [u8],
}

impl<'a> NewSessionTicket<'a> {
    /// Reads the body of the message.
    ///
    /// # Errors
    /// Why it is none.
    pub fn parse(body: &'a [u8]) -> Result<Self, Malformed> {
        let mut r = Reader::new(body);
        let lifetime = r.u32()?;
        let ticket = r.vec16()?;
        r.finish()?;
        Ok(Self { lifetime, ticket })
    }
}
