//! What stands between two heads: skipped byte by byte, or not at all.

use crate::pack::{Pack, Packer, Unpacker, Unreadable};

/// Longest body that is skipped, bytes: of one that is longer every segment would be looked at for the sake of what may follow it.
pub(super) const LONGEST: u64 = 1 << 20;
/// Longest line of a chunk's size, and of a trailer.
const LONGEST_LINE: u32 = 256;
/// Longest trailer section.
const LONGEST_TRAILER: u32 = 8192;

/// How far it is skipped.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Body {
    /// So many bytes are left.
    Length(u64),
    /// In chunks (RFC 9112 section 7.1): how far, and bytes of data so far.
    Chunks(Chunk, u64),
}

/// Where in a chunked body.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Chunk {
    /// In the line of a size: what it says so far, and its digits.
    Size(u64, u32),
    /// In what follows a size in its line.
    Extension(u64, u32),
    /// The line of a size has come to its carriage return.
    SizeEnds(u64),
    /// So many bytes of a chunk are left.
    Data(u64),
    /// The CR behind it.
    DataEnds,
    /// The LF.
    DataEnded,
    /// In a line of the trailer: its length, and that of all.
    Trailer(u32, u32),
    /// That has come to its carriage return: it is the empty one.
    TrailerEnds(bool, u32),
}

/// What skipping came to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Skipped {
    /// It has ended.
    All,
    /// More is to come.
    More,
    /// It cannot be followed: its end is not known.
    Lost,
}

impl Body {
    /// One in chunks begins.
    pub const CHUNKED: Body = Body::Chunks(Chunk::Size(0, 0), 0);

    /// Skips what there is. `exact`: chunk extensions, which are read in different ways, are not followed.
    pub fn skip(&mut self, bytes: &mut &[u8], exact: bool) -> Skipped {
        match self {
            Body::Length(left) => {
                let n = (*left).min(bytes.len() as u64);
                *bytes = &bytes[n as usize..];
                *left -= n;
                if *left == 0 { Skipped::All } else { Skipped::More }
            }
            Body::Chunks(chunk, total) => loop {
                if let Chunk::Data(left) = chunk {
                    let n = (*left).min(bytes.len() as u64);
                    *bytes = &bytes[n as usize..];
                    *total += n;
                    *left -= n;
                    if *total > LONGEST {
                        return Skipped::Lost;
                    }
                    if *left > 0 {
                        return Skipped::More;
                    }
                    *chunk = Chunk::DataEnds;
                }
                let Some((&byte, rest)) = bytes.split_first() else { return Skipped::More };
                *bytes = rest;
                match chunk.next(byte, exact) {
                    Some(Some(next)) => *chunk = next,
                    Some(None) => return Skipped::All,
                    None => return Skipped::Lost,
                }
            },
        }
    }

    /// So many bytes follow that are nobody's head, at least.
    pub fn at_least(&self) -> u64 {
        match self {
            Body::Length(left) | Body::Chunks(Chunk::Data(left), _) => *left,
            Body::Chunks(..) => 0,
        }
    }
}

impl Chunk {
    /// Behind the next byte, which is none of a chunk's data; nowhere when the body has ended. `None` when that is not how chunks are written.
    fn next(self, byte: u8, exact: bool) -> Option<Option<Chunk>> {
        Some(Some(match (self, byte) {
            (Chunk::Size(size, digits), b'0'..=b'9' | b'a'..=b'f' | b'A'..=b'F') if digits < 15 => {
                let digit = char::from(byte).to_digit(16)?;
                Chunk::Size(size << 4 | u64::from(digit), digits + 1)
            }
            (Chunk::Size(_, 0), _) => return None,
            (Chunk::Size(size, _), b'\r') => Chunk::SizeEnds(size),
            (Chunk::Size(size, _), b';' | b' ' | b'\t') if !exact => Chunk::Extension(size, 0),
            (Chunk::Extension(size, _), b'\r') => Chunk::SizeEnds(size),
            (Chunk::Extension(size, n), b' '..=b'~' | b'\t') if n < LONGEST_LINE => Chunk::Extension(size, n + 1),
            (Chunk::SizeEnds(0), b'\n') => Chunk::Trailer(0, 0),
            (Chunk::SizeEnds(size), b'\n') => Chunk::Data(size),
            (Chunk::DataEnds, b'\r') => Chunk::DataEnded,
            (Chunk::DataEnded, b'\n') => Chunk::Size(0, 0),
            (Chunk::Trailer(line, all), b'\r') => Chunk::TrailerEnds(line == 0, all),
            (Chunk::Trailer(line, all), b' '..=b'~' | b'\t') if all < LONGEST_TRAILER => {
                Chunk::Trailer(line + 1, all + 1)
            }
            (Chunk::TrailerEnds(true, _), b'\n') => return Some(None),
            (Chunk::TrailerEnds(false, all), b'\n') => Chunk::Trailer(0, all + 1),
            _ => return None,
        }))
    }
}

impl Pack for Body {
    fn pack(&self, to: &mut Packer) {
        match *self {
            Body::Length(left) => (0u8, left).pack(to),
            Body::Chunks(chunk, total) => ((1u8, total), chunk).pack(to),
        }
    }
    fn unpack(from: &mut Unpacker<'_>) -> Result<Body, Unreadable> {
        let (kind, number) = <(u8, u64)>::unpack(from)?;
        match kind {
            0 => Ok(Body::Length(number)),
            // Beyond that it is not followed.
            1 if number <= LONGEST => Ok(Body::Chunks(Chunk::unpack(from)?, number)),
            _ => Err(Unreadable::Impossible("body")),
        }
    }
}

impl Pack for Chunk {
    fn pack(&self, to: &mut Packer) {
        let (kind, large, small, yes) = match *self {
            Chunk::Size(size, digits) => (0u8, size, digits, false),
            Chunk::Extension(size, n) => (1, size, n, false),
            Chunk::SizeEnds(size) => (2, size, 0, false),
            Chunk::Data(left) => (3, left, 0, false),
            Chunk::DataEnds => (4, 0, 0, false),
            Chunk::DataEnded => (5, 0, 0, false),
            Chunk::Trailer(line, all) => (6, line.into(), all, false),
            Chunk::TrailerEnds(empty, all) => (7, 0, all, empty),
        };
        ((kind, large), (small, yes)).pack(to);
    }
    fn unpack(from: &mut Unpacker<'_>) -> Result<Chunk, Unreadable> {
        let ((kind, large), (small, yes)) = <((u8, u64), (u32, bool))>::unpack(from)?;
        let fits = large < 1 << 60 && small <= LONGEST_TRAILER + 1;
        Ok(match kind {
            _ if !fits => return Err(Unreadable::Impossible("chunk")),
            0 => Chunk::Size(large, small),
            1 => Chunk::Extension(large, small),
            2 => Chunk::SizeEnds(large),
            3 => Chunk::Data(large),
            4 => Chunk::DataEnds,
            5 => Chunk::DataEnded,
            // A line is no longer than all of them.
            6 if large <= small.into() => Chunk::Trailer(large as u32, small),
            7 => Chunk::TrailerEnds(yes, small),
            _ => return Err(Unreadable::Impossible("chunk")),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is left behind the body, given in pieces.
    fn skip(mut body: Body, stream: &[u8], piece: usize, exact: bool) -> Option<usize> {
        let mut at = 0;
        for chunk in stream.chunks(piece) {
            let mut bytes = chunk;
            match body.skip(&mut bytes, exact) {
                Skipped::All => return Some(at + chunk.len() - bytes.len()),
                Skipped::More => assert!(bytes.is_empty()),
                Skipped::Lost => return None,
            }
            at += chunk.len();
        }
        None
    }

    #[test]
    fn chunks_are_skipped_to_the_byte_in_pieces_of_any_size() {
        let whole = b"5\r\nhello\r\n1a\r\nabcdefghijklmnopqrstuvwxyz\r\n0\r\n\r\nHTTP";
        let trailer = b"1;a=b\r\nx\r\n0;q\r\nA: b\r\nC: d\r\n\r\nHTTP";
        for piece in 1..60 {
            assert_eq!(skip(Body::CHUNKED, whole, piece, true), Some(whole.len() - 4));
            assert_eq!(skip(Body::CHUNKED, trailer, piece, false), Some(trailer.len() - 4));
            assert_eq!(skip(Body::CHUNKED, trailer, piece, true), None, "extensions are read in different ways");
            assert_eq!(skip(Body::Length(7), b"1234567HTTP", piece, true), Some(7));
        }
    }

    #[test]
    fn what_is_no_chunk_is_lost_and_not_guessed() {
        for odd in [
            b"\r\nhello".as_slice(),
            b"5\nhello\r\n0\r\n\r\n",
            b"+5\r\nhello\r\n0\r\n\r\n",
            b"0x5\r\nhello\r\n0\r\n\r\n",
            b"5\r\nhelloo\r\n0\r\n\r\n",
            b"5\r\nhello\n0\r\n\r\n",
            b"fffffffffffffffff\r\nhello",
            b"0\r\nA: b\n\r\n",
        ] {
            assert_eq!(skip(Body::CHUNKED, odd, 1, false), None, "{}", odd.escape_ascii());
        }
        let mut long = Body::CHUNKED;
        assert_eq!(long.skip(&mut &b"200000\r\n"[..], false), Skipped::More);
        let mut lost = false;
        for _ in 0..2000 {
            lost |= long.skip(&mut &[0; 1000][..], false) == Skipped::Lost;
        }
        assert!(lost, "a body that is longer than what is worth it");
    }
}
