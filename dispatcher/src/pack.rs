//! State as bytes, for another process of this or a later version, and back.
//!
//! Numbers are little-endian and of fixed length. What belongs together stands in a *section*: what it is, the version of its format, its length, a checksum, and
//! its bytes ([`Packer::section`]). A section of an unknown kind can be passed over, one of an unknown version or with another checksum is never read.
//!
//! Reading is bounded by what is there: it allocates no more than there are bytes, never panics, and says what is wrong. Numbers of backends, services and pools
//! mean something in one process only: [`Ids`] says which are meant.

use core::hash::Hasher;
use core::num::{NonZeroU16, NonZeroU32};
use core::time::Duration;
use lb::{BackendId, PoolId, ServiceId};
use siphasher::sip::SipHasher13;
use std::collections::HashMap;

/// What cannot be read, and why.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Unreadable {
    /// It ends too soon.
    #[error("it is cut off")]
    CutOff,
    /// A checksum is another one.
    #[error("it is damaged")]
    Damaged,
    /// A number that means nothing.
    #[error("it says what cannot be ({0})")]
    Impossible(&'static str),
    /// Its format is of a version that is not known here.
    #[error("its format (section {kind}, version {version}) is not known")]
    Unknown {
        /// Of which section.
        kind: u32,
        /// Which version.
        version: u32,
    },
    /// It names a backend that is not here.
    #[error("it names a backend that is not here")]
    NoSuchBackend,
    /// There is no room for it.
    #[error("there is no room for it")]
    NoRoom,
}

/// Which backends, services and pools the numbers of the other process are here.
#[derive(Clone, Debug, Default)]
pub struct Ids {
    /// By its number there.
    pub backends: HashMap<u16, BackendId>,
    /// By all bits of the number there.
    pub services: HashMap<u32, ServiceId>,
    /// By all bits of the number there.
    pub pools: HashMap<u32, PoolId>,
}

/// Bytes in front of a section's own: kind, version, length, checksum.
const HEAD: usize = 4 + 4 + 8 + 8;

/// Not a secret: against what happens, not against who can write.
const KEY: &[u8; 16] = b"packed sections.";

fn checksum(bytes: &[u8]) -> u64 {
    let mut hasher = SipHasher13::new_with_key(KEY);
    hasher.write(bytes);
    hasher.finish()
}

/// Writes.
#[derive(Debug, Default)]
pub struct Packer {
    bytes: Vec<u8>,
}

impl Packer {
    /// Nothing yet.
    pub fn new() -> Packer {
        Packer::default()
    }

    /// Nothing yet, in memory that is there already.
    pub fn within(mut room: Vec<u8>) -> Packer {
        room.clear();
        Packer { bytes: room }
    }

    /// These bytes, whose number the reader knows.
    pub fn raw(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
    }

    /// These bytes, with their number in front.
    pub fn block(&mut self, bytes: &[u8]) {
        (bytes.len() as u32).pack(self);
        self.raw(bytes);
    }

    /// What `write` writes, with the number of its bytes in front: whoever cannot make sense of it can pass it over.
    pub fn sized(&mut self, write: impl FnOnce(&mut Packer)) {
        let at = self.bytes.len();
        0u32.pack(self);
        write(self);
        let len = (self.bytes.len() - at - 4) as u32;
        self.bytes[at..at + 4].copy_from_slice(&len.to_le_bytes());
    }

    /// What `write` writes as a section of its own.
    pub fn section(&mut self, kind: u32, version: u32, write: impl FnOnce(&mut Packer)) {
        let at = self.bytes.len();
        self.raw(&[0; HEAD]);
        write(self);
        let (head, body) = self.bytes[at..].split_at_mut(HEAD);
        head[..4].copy_from_slice(&kind.to_le_bytes());
        head[4..8].copy_from_slice(&version.to_le_bytes());
        head[8..16].copy_from_slice(&(body.len() as u64).to_le_bytes());
        head[16..].copy_from_slice(&checksum(body).to_le_bytes());
    }

    /// All of it.
    pub fn into_bytes(self) -> Vec<u8> {
        self.bytes
    }
}

/// Reads.
#[derive(Clone, Debug)]
pub struct Unpacker<'a> {
    bytes: &'a [u8],
    ids: &'a Ids,
}

/// A section, found whole.
#[derive(Clone, Debug)]
pub struct Section<'a> {
    /// What it is.
    pub kind: u32,
    /// Of its format.
    pub version: u32,
    /// Its bytes.
    pub bytes: &'a [u8],
}

impl<'a> Unpacker<'a> {
    /// Of these bytes, in which numbers are meant so.
    pub fn new(bytes: &'a [u8], ids: &'a Ids) -> Unpacker<'a> {
        Unpacker { bytes, ids }
    }

    /// Nothing is left.
    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// All that is left.
    pub fn rest(self) -> &'a [u8] {
        self.bytes
    }

    /// So many bytes.
    pub fn raw(&mut self, n: usize) -> Result<&'a [u8], Unreadable> {
        let (taken, rest) = self.bytes.split_at_checked(n).ok_or(Unreadable::CutOff)?;
        self.bytes = rest;
        Ok(taken)
    }

    /// What [`Packer::block`] or [`Packer::sized`] wrote.
    pub fn block(&mut self) -> Result<&'a [u8], Unreadable> {
        let len = u32::unpack(self)?;
        self.raw(len as usize)
    }

    /// The same into memory that may have room for it: whatever was there before is forgotten.
    pub fn block_into<const N: usize>(&mut self, to: &mut arrayvec::ArrayVec<u8, N>) -> Result<(), Unreadable> {
        to.clear();
        to.try_extend_from_slice(self.block()?).map_err(|_| Unreadable::Impossible("so many bytes"))
    }

    /// What somebody reads who takes bytes off the front of what is left, and says nothing when he cannot.
    pub fn by<T>(&mut self, read: impl FnOnce(&mut &[u8]) -> Option<T>) -> Result<T, Unreadable> {
        read(&mut self.bytes).ok_or(Unreadable::Impossible("a state that cannot be"))
    }

    /// The same, to be read.
    pub fn sized(&mut self) -> Result<Unpacker<'a>, Unreadable> {
        Ok(Unpacker { bytes: self.block()?, ids: self.ids })
    }

    /// The next section; `None` at the end.
    pub fn section(&mut self) -> Result<Option<Section<'a>>, Unreadable> {
        self.section_if(|_| true)
    }

    /// The next section whose kind is `wanted`; `None` at the end. Those between are somebody else's, who looks whether they are whole: a checksum takes as long as reading.
    pub fn section_if(&mut self, wanted: impl Fn(u32) -> bool) -> Result<Option<Section<'a>>, Unreadable> {
        while !self.is_empty() {
            let section = self.any_section(&wanted)?;
            if section.is_some() {
                return Ok(section);
            }
        }
        Ok(None)
    }

    /// The next section; `None` where it is not wanted.
    fn any_section(&mut self, wanted: impl Fn(u32) -> bool) -> Result<Option<Section<'a>>, Unreadable> {
        let (kind, version) = (u32::unpack(self)?, u32::unpack(self)?);
        let (len, sum) = (u64::unpack(self)?, u64::unpack(self)?);
        let bytes = self.raw(usize::try_from(len).map_err(|_| Unreadable::CutOff)?)?;
        if !wanted(kind) {
            return Ok(None);
        }
        if checksum(bytes) != sum {
            return Err(Unreadable::Damaged);
        }
        Ok(Some(Section { kind, version, bytes }))
    }
}

/// What can be written and read.
pub trait Pack: Sized {
    /// Writes it.
    fn pack(&self, to: &mut Packer);
    /// Reads one.
    fn unpack(from: &mut Unpacker<'_>) -> Result<Self, Unreadable>;
}

macro_rules! numbers {
    ($($number:ty),*) => {
        $(impl Pack for $number {
            fn pack(&self, to: &mut Packer) {
                to.raw(&self.to_le_bytes());
            }
            fn unpack(from: &mut Unpacker<'_>) -> Result<Self, Unreadable> {
                let bytes = from.raw(size_of::<$number>())?;
                Ok(<$number>::from_le_bytes(bytes.try_into().map_err(|_| Unreadable::CutOff)?))
            }
        })*
    };
}

numbers!(u8, u16, u32, u64, i64);

impl Pack for bool {
    fn pack(&self, to: &mut Packer) {
        u8::from(*self).pack(to);
    }
    fn unpack(from: &mut Unpacker<'_>) -> Result<bool, Unreadable> {
        match u8::unpack(from)? {
            0 => Ok(false),
            1 => Ok(true),
            _ => Err(Unreadable::Impossible("neither yes nor no")),
        }
    }
}

macro_rules! numbers_not_zero {
    ($($number:ty: $plain:ty),*) => {
        $(impl Pack for $number {
            fn pack(&self, to: &mut Packer) {
                self.get().pack(to);
            }
            fn unpack(from: &mut Unpacker<'_>) -> Result<Self, Unreadable> {
                <$number>::new(<$plain>::unpack(from)?).ok_or(Unreadable::Impossible("zero"))
            }
        })*
    };
}

numbers_not_zero!(NonZeroU16: u16, NonZeroU32: u32);

impl<T: Pack> Pack for Option<T> {
    fn pack(&self, to: &mut Packer) {
        self.is_some().pack(to);
        self.iter().for_each(|some| some.pack(to));
    }
    fn unpack(from: &mut Unpacker<'_>) -> Result<Option<T>, Unreadable> {
        Ok(if bool::unpack(from)? { Some(T::unpack(from)?) } else { None })
    }
}

impl<T: Pack, const N: usize> Pack for [T; N] {
    fn pack(&self, to: &mut Packer) {
        self.iter().for_each(|one| one.pack(to));
    }
    fn unpack(from: &mut Unpacker<'_>) -> Result<[T; N], Unreadable> {
        let mut all = arrayvec::ArrayVec::<T, N>::new();
        while !all.is_full() {
            all.push(T::unpack(from)?);
        }
        all.into_inner().map_err(|_| Unreadable::CutOff)
    }
}

impl<T: Pack, const N: usize> Pack for arrayvec::ArrayVec<T, N> {
    fn pack(&self, to: &mut Packer) {
        (self.len() as u16).pack(to);
        self.iter().for_each(|one| one.pack(to));
    }
    fn unpack(from: &mut Unpacker<'_>) -> Result<Self, Unreadable> {
        let mut all = arrayvec::ArrayVec::new();
        for _ in 0..u16::unpack(from)? {
            all.try_push(T::unpack(from)?).map_err(|_| Unreadable::Impossible("so many"))?;
        }
        Ok(all)
    }
}

impl<A: Pack, B: Pack> Pack for (A, B) {
    fn pack(&self, to: &mut Packer) {
        self.0.pack(to);
        self.1.pack(to);
    }
    fn unpack(from: &mut Unpacker<'_>) -> Result<(A, B), Unreadable> {
        Ok((A::unpack(from)?, B::unpack(from)?))
    }
}

impl Pack for String {
    fn pack(&self, to: &mut Packer) {
        to.block(self.as_bytes());
    }
    fn unpack(from: &mut Unpacker<'_>) -> Result<String, Unreadable> {
        let text = core::str::from_utf8(from.block()?).map_err(|_| Unreadable::Impossible("no text"))?;
        Ok(text.to_string())
    }
}

impl Pack for Duration {
    fn pack(&self, to: &mut Packer) {
        u64::try_from(self.as_nanos()).unwrap_or(u64::MAX).pack(to);
    }
    fn unpack(from: &mut Unpacker<'_>) -> Result<Duration, Unreadable> {
        Ok(Duration::from_nanos(u64::unpack(from)?))
    }
}

impl Pack for std::net::IpAddr {
    fn pack(&self, to: &mut Packer) {
        match self {
            std::net::IpAddr::V4(ip) => to.block(&ip.octets()),
            std::net::IpAddr::V6(ip) => to.block(&ip.octets()),
        }
    }
    fn unpack(from: &mut Unpacker<'_>) -> Result<Self, Unreadable> {
        let bytes = from.block()?;
        let v4 = || Some(<[u8; 4]>::try_from(bytes).ok()?.into());
        let v6 = || Some(<[u8; 16]>::try_from(bytes).ok()?.into());
        v4().or_else(v6).ok_or(Unreadable::Impossible("no address"))
    }
}

impl Pack for std::net::SocketAddr {
    fn pack(&self, to: &mut Packer) {
        self.ip().pack(to);
        self.port().pack(to);
    }
    fn unpack(from: &mut Unpacker<'_>) -> Result<Self, Unreadable> {
        Ok((std::net::IpAddr::unpack(from)?, u16::unpack(from)?).into())
    }
}

/// Implements [`Pack`] for a struct by its fields, in this order. All of them have to be named: who adds one is told to think of it. For what is packed in memory,
/// too: all its fields are `Copy`.
macro_rules! packed {
    ($type:ident { $($field:ident),* $(,)? }) => {
        impl $crate::pack::Pack for $type {
            fn pack(&self, to: &mut $crate::pack::Packer) {
                let $type { $($field),* } = *self;
                $($crate::pack::Pack::pack(&{ $field }, to);)*
            }
            fn unpack(from: &mut $crate::pack::Unpacker<'_>) -> Result<Self, $crate::pack::Unreadable> {
                Ok($type { $($field: $crate::pack::Pack::unpack(from)?),* })
            }
        }
    };
    ($type:ident($inner:ty)) => {
        impl $crate::pack::Pack for $type {
            fn pack(&self, to: &mut $crate::pack::Packer) {
                $crate::pack::Pack::pack(&self.0, to);
            }
            fn unpack(from: &mut $crate::pack::Unpacker<'_>) -> Result<Self, $crate::pack::Unreadable> {
                Ok($type(<$inner as $crate::pack::Pack>::unpack(from)?))
            }
        }
    };
}

/// What is counted: no number gets so far that several of them could not be added up.
pub trait Counted {
    /// It can have been counted.
    fn can_be(&self) -> bool;
}

impl Counted for u64 {
    fn can_be(&self) -> bool {
        *self < 1 << 54
    }
}

impl<const N: usize> Counted for [u64; N] {
    fn can_be(&self) -> bool {
        self.iter().all(Counted::can_be)
    }
}

/// One that was counted.
pub fn count(from: &mut Unpacker<'_>) -> Result<u64, Unreadable> {
    let number = u64::unpack(from)?;
    if number.can_be() { Ok(number) } else { Err(Unreadable::Impossible("a count")) }
}

/// As [`packed`], for a struct of counts.
macro_rules! packed_counts {
    ($type:ident { $($field:ident),* $(,)? }) => {
        impl $crate::pack::Pack for $type {
            fn pack(&self, to: &mut $crate::pack::Packer) {
                let $type { $($field),* } = *self;
                $($crate::pack::Pack::pack(&$field, to);)*
            }
            fn unpack(from: &mut $crate::pack::Unpacker<'_>) -> Result<Self, $crate::pack::Unreadable> {
                let all = $type { $($field: $crate::pack::Pack::unpack(from)?),* };
                let can_be = true $(&& $crate::pack::Counted::can_be(&all.$field))*;
                if can_be { Ok(all) } else { Err($crate::pack::Unreadable::Impossible("a count")) }
            }
        }
    };
}

/// Implements [`Pack`] for an enum without fields: each variant as the number beside it, for good.
macro_rules! packed_words {
    ($type:ident { $($variant:ident = $number:literal),* $(,)? }) => {
        impl $crate::pack::Pack for $type {
            fn pack(&self, to: &mut $crate::pack::Packer) {
                let number: u8 = match self { $($type::$variant => $number),* };
                $crate::pack::Pack::pack(&number, to);
            }
            fn unpack(from: &mut $crate::pack::Unpacker<'_>) -> Result<Self, $crate::pack::Unreadable> {
                match <u8 as $crate::pack::Pack>::unpack(from)? {
                    $($number => Ok($type::$variant),)*
                    _ => Err($crate::pack::Unreadable::Impossible(stringify!($type))),
                }
            }
        }
    };
}

pub(crate) use {packed, packed_counts, packed_words};

mod foreign;
pub(crate) use foreign::{of_backend, pack_follower, unpack_follower};

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_section_is_read_whole_or_not_at_all_wherever_it_is_cut_or_damaged() {
        let ids = Ids::default();
        let mut packer = Packer::new();
        packer.section(7, 1, |to| to.block(b"abc"));
        packer.section(8, 2, |to| 5u64.pack(to));
        let bytes = packer.into_bytes();
        let mut read = Unpacker::new(&bytes, &ids);
        let (first, second) = (read.section().unwrap().unwrap(), read.section().unwrap().unwrap());
        assert_eq!((first.kind, first.version, first.bytes.len()), (7, 1, 7));
        assert_eq!((second.kind, second.version, second.bytes), (8, 2, &5u64.to_le_bytes()[..]));
        assert!(read.section().unwrap().is_none());
        let whole = |bytes: &[u8]| {
            let mut read = Unpacker::new(bytes, &ids);
            let mut n = 0;
            while let Ok(Some(_)) = read.section() {
                n += 1;
            }
            n
        };
        for cut in 0..bytes.len() {
            assert_eq!(whole(&bytes[..cut]), usize::from(cut >= HEAD + 7), "{cut}");
        }
        for at in 8..bytes.len() {
            let mut damaged = bytes.clone();
            damaged[at] ^= 1;
            // The kind and version of the second may be anything.
            let spared = (HEAD + 7..HEAD + 15).contains(&at);
            assert_eq!(whole(&damaged) == 2, spared, "{at}");
        }
    }

    #[test]
    fn a_section_that_is_not_wanted_is_passed_over_also_if_it_is_damaged_but_not_if_it_is_cut_off() {
        let ids = Ids::default();
        let mut packer = Packer::within(b"of another time".to_vec());
        packer.section(7, 1, |to| to.block(b"abc"));
        packer.section(8, 2, |to| 5u64.pack(to));
        let mut bytes = packer.into_bytes();
        bytes[HEAD] ^= 1;
        let find = |bytes: &[u8], kind| {
            let found = Unpacker::new(bytes, &ids).section_if(|one| one == kind);
            found.map(|section| section.map(|section| section.bytes.len()))
        };
        assert_eq!(find(&bytes, 8), Ok(Some(8)));
        assert_eq!(find(&bytes, 7), Err(Unreadable::Damaged));
        assert_eq!(find(&bytes, 9), Ok(None));
        assert_eq!(find(&bytes[..HEAD + 6], 8), Err(Unreadable::CutOff));
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_or_refused_and_nothing_else(bytes: Vec<u8>) {
            let ids = Ids::default();
            let mut read = Unpacker::new(&bytes, &ids);
            while let Ok(Some(_)) = read.section() {}
            let mut read = Unpacker::new(&bytes, &ids);
            _ = <[Option<String>; 9]>::unpack(&mut read);
            _ = std::net::SocketAddr::unpack(&mut read);
            _ = BackendId::unpack(&mut read);
        }

        #[test]
        fn what_is_written_is_read(number: u64, text: String, some: Option<(u16, bool)>, addr: std::net::SocketAddr) {
            let ids = Ids::default();
            let mut packer = Packer::new();
            (number, text.clone()).pack(&mut packer);
            some.pack(&mut packer);
            addr.pack(&mut packer);
            let bytes = packer.into_bytes();
            let mut read = Unpacker::new(&bytes, &ids);
            prop_assert_eq!(<(u64, String)>::unpack(&mut read).unwrap(), (number, text));
            prop_assert_eq!(Option::<(u16, bool)>::unpack(&mut read).unwrap(), some);
            let read_addr = std::net::SocketAddr::unpack(&mut read).unwrap();
            prop_assert_eq!((read_addr.ip(), read_addr.port()), (addr.ip(), addr.port()));
            prop_assert!(read.is_empty());
        }
    }
}
