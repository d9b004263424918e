//! The first page of a state file: what it is, whose, how long, and what time it was. Pure.
//!
//! | words | what |
//! |---|---|
//! | 0 | [`MAGIC`] |
//! | 1 | version |
//! | 2, 3 | whose machine's, hashed |
//! | 4 | rows that follow the page |
//! | 5 | words of a row |
//! | 6 | checksum of these |
//! | 128, 256 | two beats, written in turn: number, clock, wall clock, checksum |
//!
//! Words are the machine's own: on one with others the first is not [`MAGIC`].
//!
//! **The clock** of rows goes on from process to process, as far as the wall clock does between them, and is never set back. So a row's age is right
//! whatever happens to the wall clock while a process runs. A *beat* says what it was: one a second, into the older of two places, so that one of
//! them is whole at any time.

use core::hash::Hasher;
use lb::affinity::SAVED_WORDS;
use siphasher::sip::SipHasher13;
use std::fmt;

/// "dispstat".
pub const MAGIC: u64 = u64::from_be_bytes(*b"dispstat");

/// Of the format: of rows, too. What is older can be read by those to come.
pub const VERSION: u64 = 1;

/// Words of the page.
pub const PAGE: usize = 512;

/// Where beats are.
pub const BEATS: [usize; 2] = [PAGE / 4, PAGE / 2];

const KEY: &[u8; 16] = b"a page of states";

/// What a file says of itself.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Header {
    /// Whose machine's: zero if that is not known.
    pub machine: [u64; 2],
    /// Rows behind the page.
    pub rows: u64,
}

/// What time it was.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Beat {
    /// Counts them.
    pub number: u64,
    /// The clock of rows, milliseconds.
    pub clock: u64,
    /// Milliseconds since 1970.
    pub wall: u64,
}

/// Why a file is not believed.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Disbelief {
    /// It is none of ours.
    Foreign,
    /// Its first page is damaged.
    Damaged,
    /// Of a version that is not known.
    Version(u64),
    /// Of another machine.
    Machine,
    /// It is not as long as it says.
    Length {
        /// Bytes.
        is: u64,
        /// Bytes.
        says: u64,
    },
}

impl fmt::Display for Disbelief {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Disbelief::Foreign => write!(f, "it is no state of a dispatcher"),
            Disbelief::Damaged => write!(f, "its first page is damaged"),
            Disbelief::Version(n) => write!(f, "it is of version {n}, and this dispatcher reads version {VERSION}"),
            Disbelief::Machine => write!(f, "it was written on another machine"),
            Disbelief::Length { is, says } => write!(f, "it has {is} bytes, and should have {says}"),
        }
    }
}

fn checksum(words: &[u64]) -> u64 {
    let mut hasher = SipHasher13::new_with_key(KEY);
    words.iter().for_each(|word| hasher.write(&word.to_le_bytes()));
    hasher.finish()
}

/// A machine by its id, as files tell it: not so that it could be read there.
pub fn machine(id: &str) -> [u64; 2] {
    let of = |salt: u8| {
        let mut hasher = SipHasher13::new_with_key(KEY);
        hasher.write(&[salt]);
        hasher.write(id.trim().as_bytes());
        hasher.finish()
    };
    if id.trim().is_empty() { [0; 2] } else { [of(1), of(2)] }
}

/// Bytes of a file with so many rows.
pub const fn file_bytes(rows: u64) -> Option<u64> {
    let Some(words) = rows.checked_mul(SAVED_WORDS as u64) else { return None };
    let Some(words) = words.checked_add(PAGE as u64) else { return None };
    words.checked_mul(8)
}

impl Header {
    /// The first words of the page.
    pub fn to_words(self) -> [u64; 7] {
        let [a, b] = self.machine;
        let mut words = [MAGIC, VERSION, a, b, self.rows, SAVED_WORDS as u64, 0];
        words[6] = checksum(&words[..6]);
        words
    }

    /// What the page of a file of so many bytes says, and when that was; or why it is not believed on this machine.
    pub fn read(page: &[u64; PAGE], bytes: u64, machine: [u64; 2]) -> Result<(Header, Beat), Disbelief> {
        if page[0] != MAGIC {
            return Err(Disbelief::Foreign);
        }
        if page[6] != checksum(&page[..6]) {
            return Err(Disbelief::Damaged);
        }
        if page[1] != VERSION {
            return Err(Disbelief::Version(page[1]));
        }
        let header = Header { machine: [page[2], page[3]], rows: page[4] };
        if page[5] != SAVED_WORDS as u64 {
            return Err(Disbelief::Damaged);
        }
        if header.machine != machine {
            return Err(Disbelief::Machine);
        }
        let says = file_bytes(header.rows).ok_or(Disbelief::Damaged)?;
        if says != bytes {
            return Err(Disbelief::Length { is: bytes, says });
        }
        let beats = BEATS.iter().filter_map(|at| Beat::from_words(page[*at..*at + 4].try_into().ok()?));
        let beat = beats.max_by_key(|beat| beat.number).ok_or(Disbelief::Damaged)?;
        Ok((header, beat))
    }
}

impl Beat {
    /// Where it belongs.
    pub fn place(&self) -> usize {
        BEATS[(self.number % 2) as usize]
    }

    /// As it is written.
    pub fn to_words(self) -> [u64; 4] {
        let mut words = [self.number, self.clock, self.wall, 0];
        words[3] = checksum(&words[..3]);
        words
    }

    fn from_words(words: [u64; 4]) -> Option<Beat> {
        let [number, clock, wall, sum] = words;
        (sum == checksum(&words[..3])).then_some(Beat { number, clock, wall })
    }

    /// The clock of rows at a later time by the wall clock.
    pub fn clock_at(&self, wall: u64) -> u64 {
        self.clock.saturating_add(wall.saturating_sub(self.wall))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn page(header: Header, beats: &[Beat]) -> [u64; PAGE] {
        let mut page = [0; PAGE];
        page[..7].copy_from_slice(&header.to_words());
        beats.iter().for_each(|beat| page[beat.place()..beat.place() + 4].copy_from_slice(&beat.to_words()));
        page
    }

    const OURS: Header = Header { machine: [3, 4], rows: 10 };
    const BYTES: u64 = 4096 + 640;

    #[test]
    fn whatever_bit_of_what_a_page_says_is_flipped_it_is_not_believed_or_says_the_same() {
        let (first, second) = (Beat { number: 7, clock: 70, wall: 700 }, Beat { number: 8, clock: 80, wall: 800 });
        let whole = page(OURS, &[first, second]);
        assert_eq!(Header::read(&whole, BYTES, OURS.machine), Ok((OURS, second)));
        for bit in 0..PAGE * 64 {
            let mut page = whole;
            page[bit / 64] ^= 1 << (bit % 64);
            match Header::read(&page, BYTES, OURS.machine) {
                Ok((header, beat)) => assert!(header == OURS && (beat == second || beat == first), "{bit}"),
                Err(_) => assert!(bit / 64 < 7, "{bit}"),
            }
        }
    }

    #[test]
    fn what_is_foreign_too_short_or_of_a_later_version_is_said_to_be() {
        let beat = Beat { number: 1, clock: 5, wall: 5 };
        let whole = page(OURS, &[beat]);
        assert_eq!(Header::read(&[0; PAGE], BYTES, OURS.machine), Err(Disbelief::Foreign));
        assert_eq!(Header::read(&whole, BYTES, [3, 5]), Err(Disbelief::Machine));
        let short = Disbelief::Length { is: BYTES - 1, says: BYTES };
        assert_eq!(Header::read(&whole, BYTES - 1, OURS.machine), Err(short));
        let mut later = whole;
        later[1] = 2;
        later[6] = checksum(&later[..6]);
        assert_eq!(Header::read(&later, BYTES, OURS.machine), Err(Disbelief::Version(2)));
        // As many rows as no file has.
        let absurd = page(Header { rows: u64::MAX / 8, ..OURS }, &[beat]);
        assert_eq!(Header::read(&absurd, BYTES, OURS.machine), Err(Disbelief::Damaged));
        assert_eq!(Header::read(&page(OURS, &[]), BYTES, OURS.machine), Err(Disbelief::Damaged));
    }

    #[test]
    fn the_clock_goes_on_while_nobody_runs_and_never_back() {
        let beat = Beat { number: 1, clock: 1000, wall: 50_000 };
        assert_eq!((beat.clock_at(51_500), beat.clock_at(40_000)), (2500, 1000));
    }
}
