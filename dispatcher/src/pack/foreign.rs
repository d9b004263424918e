//! What other crates of ours have, as bytes and back.

use super::{Pack, Packer, Unpacker, Unreadable};
use lb::admission::{ClassCounters, ClassId, Cost};
use lb::affinity::{Identity, KeyName, KindCounters, TicketDigest};
use lb::{BackendId, Millis, PoolId, ServiceId};
use ssl_parse::{AfterHello, Follower};

impl Pack for lb::Reason {
    fn pack(&self, to: &mut Packer) {
        (*self as u8).pack(to);
    }
    fn unpack(from: &mut Unpacker<'_>) -> Result<Self, Unreadable> {
        let number = usize::from(u8::unpack(from)?);
        lb::Reason::ALL.get(number).copied().ok_or(Unreadable::Impossible("reason"))
    }
}

impl Pack for lb::IdentityKind {
    fn pack(&self, to: &mut Packer) {
        (*self as u8).pack(to);
    }
    fn unpack(from: &mut Unpacker<'_>) -> Result<Self, Unreadable> {
        let number = usize::from(u8::unpack(from)?);
        lb::IdentityKind::ALL.get(number).copied().ok_or(Unreadable::Impossible("kind of identity"))
    }
}

impl Pack for lb::Key {
    fn pack(&self, to: &mut Packer) {
        (self.kind() as u8).pack(to);
        to.block(self.as_bytes());
    }
    fn unpack(from: &mut Unpacker<'_>) -> Result<Self, Unreadable> {
        let kind = u8::unpack(from)?;
        lb::Key::from_parts(kind, from.block()?).ok_or(Unreadable::Impossible("key of a row"))
    }
}

impl Pack for BackendId {
    fn pack(&self, to: &mut Packer) {
        self.0.pack(to);
    }
    fn unpack(from: &mut Unpacker<'_>) -> Result<BackendId, Unreadable> {
        let number = u16::unpack(from)?;
        from.ids.backends.get(&number).copied().ok_or(Unreadable::NoSuchBackend)
    }
}

/// What begins with a backend, or says one; `None` where it is not here.
pub fn of_backend<T: Pack>(from: &mut Unpacker<'_>) -> Result<Option<T>, Unreadable> {
    match T::unpack(from) {
        Err(Unreadable::NoSuchBackend) => Ok(None),
        one => one.map(Some),
    }
}

// One that is not here has no name any more, and a connection outlives it.
impl Pack for ServiceId {
    fn pack(&self, to: &mut Packer) {
        self.to_bits().pack(to);
    }
    fn unpack(from: &mut Unpacker<'_>) -> Result<ServiceId, Unreadable> {
        let bits = u32::unpack(from)?;
        Ok(from.ids.services.get(&bits).copied().unwrap_or(ServiceId::NONE))
    }
}

impl Pack for PoolId {
    fn pack(&self, to: &mut Packer) {
        self.to_bits().pack(to);
    }
    fn unpack(from: &mut Unpacker<'_>) -> Result<PoolId, Unreadable> {
        let bits = u32::unpack(from)?;
        Ok(from.ids.pools.get(&bits).copied().unwrap_or(PoolId::NONE))
    }
}

impl Pack for Identity {
    fn pack(&self, to: &mut Packer) {
        (self.kind(), *self.key()).pack(to);
        self.name().copied().pack(to);
    }
    fn unpack(from: &mut Unpacker<'_>) -> Result<Self, Unreadable> {
        let (kind, key) = Pack::unpack(from)?;
        let name = Option::<KeyName>::unpack(from)?;
        Identity::from_parts(kind, key, name).ok_or(Unreadable::Impossible("identity"))
    }
}

impl Pack for TicketDigest {
    fn pack(&self, to: &mut Packer) {
        let (state, head, len) = self.save();
        to.block(state.as_ref());
        (head, len).pack(to);
    }
    fn unpack(from: &mut Unpacker<'_>) -> Result<Self, Unreadable> {
        let state = from.block()?;
        let (head, len) = <(KeyName, u64)>::unpack(from)?;
        TicketDigest::restore(state, head, len).ok_or(Unreadable::Impossible("half a digest"))
    }
}

impl Pack for AfterHello {
    fn pack(&self, to: &mut Packer) {
        self.save(|bytes| to.raw(bytes));
    }
    fn unpack(from: &mut Unpacker<'_>) -> Result<Self, Unreadable> {
        from.by(AfterHello::restore)
    }
}

/// Writes one.
pub(crate) fn pack_follower<const N: usize>(follower: &Follower<N>, to: &mut Packer) {
    follower.save(|bytes| to.raw(bytes));
}

/// The inverse, where it lies: its memory is nearly all of it.
pub(crate) fn unpack_follower<const N: usize>(
    follower: &mut Follower<N>,
    from: &mut Unpacker<'_>,
) -> Result<(), Unreadable> {
    from.by(|bytes| follower.restore(bytes))
}

packed!(Millis(u64));
packed!(ClassId(u8));
packed_words!(Cost { Resumed = 0, Full = 1, NotTls = 2 });
packed_counts!(KindCounters { offered, promised, accepted, refused, broken, unknown });
packed_counts!(ClassCounters {
    asked,
    admitted,
    waited,
    spilled,
    demoted,
    abandoned,
    timed_out,
    refused,
    waits,
    waited_ms
});
