//! SYN cookies: nothing is remembered of a SYN; what must be known later is in the number we answer with.
//!
//! After D. J. Bernstein, <https://cr.yp.to/syncookies.html>, and RFC 4987, section 3.6. Our initial sequence number is
//!
//! ```text
//!  31                         8 7   6 5        2   1    0
//! +----------------------------+-----+----------+-----+-----+
//! | MAC, 24 bits               | MSS |  wscale  | SACK| ECN |
//! +----------------------------+-----+----------+-----+-----+
//! ```
//!
//! The MAC is SipHash-2-4, cut to 24 bits, over addresses, ports, the client's ISN and the option bits, under a key that
//! belongs to an epoch of 64 seconds. An epoch's key is itself drawn from the master secret by SipHash, so that it rotates
//! without anyone rotating it, and all workers with the same master and the same clock agree. Cookies of this epoch and
//! the one before are honoured: each lives for 64 to 128 seconds.
//!
//! Whoever guesses succeeds once in 2^23 tries (two epochs of 2^-24), and gains one flow from an address that he does not
//! hold; that flow dies unheard. Comparison in constant time would hide how many leading bits of a guess were
//! right. The machine compares 32-bit words in one instruction, the answer to a wrong guess is the same silence whatever
//! was wrong with it, and a new guess for another ISN is under another MAC; there is nothing to be learned bit by bit.
//!
//! Options need no timestamps to be remembered: clients that send none (Windows) keep window scale and SACK.

use super::Tuple;
use crate::time::Time;
use crate::wire::Seq;
use core::cell::Cell;
use core::time::Duration;
use siphasher::sip::SipHasher24;

/// How long one key is used to make cookies. They are honoured until the end of the next epoch.
pub const EPOCH: Duration = Duration::from_secs(64);

/// Maximum segment sizes that two bits can stand for: the least that a host can have sensibly meant (Linux refuses less too), the default
/// of RFC 9293 section 3.7.1, Ethernet with room for a tunnel, and Ethernet.
const MSS_V4: [u16; 4] = [216, 536, 1360, 1460];
/// For IPv6 the default is 1220, and the header is 20 bytes longer.
const MSS_V6: [u16; 4] = [216, 1220, 1360, 1440];

/// Largest shift of a window (RFC 7323, section 2.3).
const MAX_WSCALE: u8 = 14;
const NO_WSCALE: u8 = 15;

/// What must be remembered of a client's SYN.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ClientOptions {
    /// Largest segment the client takes, bytes. Comes back rounded down to a class.
    pub mss: u16,
    /// Shift of the windows it announces; above 14 means 14 (RFC 7323, section 2.3). `None`: not offered.
    pub wscale: Option<u8>,
    /// It offered selective acknowledgements (RFC 2018).
    pub sack: bool,
    /// It asked for explicit congestion notification (RFC 3168, section 6.1.1).
    pub ecn: bool,
}

impl ClientOptions {
    /// In eight bits; `None` when the MSS is below the smallest class.
    fn encode(&self, v4: bool) -> Option<u8> {
        let class = classes(v4).iter().rposition(|&mss| mss <= self.mss)? as u8;
        let wscale = self.wscale.map_or(NO_WSCALE, |shift| shift.min(MAX_WSCALE));
        Some(class << 6 | wscale << 2 | u8::from(self.sack) << 1 | u8::from(self.ecn))
    }

    /// From eight bits; all 256 mean something.
    fn decode(bits: u8, v4: bool) -> ClientOptions {
        let wscale = bits >> 2 & 15;
        ClientOptions {
            mss: classes(v4)[usize::from(bits >> 6)],
            wscale: (wscale != NO_WSCALE).then_some(wscale),
            sack: bits & 2 != 0,
            ecn: bits & 1 != 0,
        }
    }
}

const fn classes(v4: bool) -> &'static [u16; 4] {
    if v4 { &MSS_V4 } else { &MSS_V6 }
}

/// Proof that a client has received our SYN-ACK. Made by [`CookieJar::verify`] alone; one proof opens one flow.
#[derive(Debug, PartialEq, Eq)]
pub struct CookieVerified {
    tuple: Tuple,
    client_isn: Seq,
    cookie: Seq,
    options: ClientOptions,
}

impl CookieVerified {
    /// Client to VIP.
    pub fn tuple(&self) -> &Tuple {
        &self.tuple
    }

    /// Sequence number of the client's SYN.
    pub fn client_isn(&self) -> Seq {
        self.client_isn
    }

    /// Sequence number of our SYN-ACK.
    pub fn cookie(&self) -> Seq {
        self.cookie
    }

    /// What the SYN offered, the MSS rounded down.
    pub fn options(&self) -> ClientOptions {
        self.options
    }
}

/// Makes cookies and recognises them.
pub struct CookieJar {
    master: SipHasher24,
    /// Keys of the two latest epochs used, by the epoch's parity: computed, not remembered, so that jars need not be
    /// kept in step; here only to save two hashes of three for each SYN of a flood.
    keys: [Cell<(u64, SipHasher24)>; 2],
}

impl CookieJar {
    /// A jar under a secret of 16 bytes that all workers share and nobody else knows.
    pub fn new(secret: [u8; 16]) -> CookieJar {
        let master = SipHasher24::new_with_key(&secret);
        CookieJar { master, keys: [0, 1].map(|epoch| Cell::new((epoch, epoch_key(&master, epoch)))) }
    }

    /// The initial sequence number with which to answer a SYN that carried `tuple` and `isn`. `None` when the client's
    /// MSS is below the smallest class: drop it (`mss-too-small`); segments of that size are an attack on us.
    pub fn issue(&self, tuple: &Tuple, isn: Seq, opts: &ClientOptions, now: Time) -> Option<Seq> {
        let bits = opts.encode(tuple.is_v4())?;
        Some(Seq(self.mac(tuple, isn, bits, epoch_of(now)) | u32::from(bits)))
    }

    /// Whether `cookie` is the number with which we answered, or would have answered, a SYN that carried `tuple` and
    /// `isn`, in this epoch or the one before. From the client's ACK: `isn` is its sequence number less one, `cookie`
    /// its acknowledgement less one.
    pub fn verify(&self, tuple: &Tuple, isn: Seq, cookie: Seq, now: Time) -> Option<CookieVerified> {
        let bits = cookie.0 as u8;
        let mac = cookie.0 & MAC_MASK;
        let epoch = epoch_of(now);
        let known =
            self.mac(tuple, isn, bits, epoch) == mac || epoch > 0 && self.mac(tuple, isn, bits, epoch - 1) == mac;
        known.then(|| CookieVerified {
            tuple: *tuple,
            client_isn: isn,
            cookie,
            options: ClientOptions::decode(bits, tuple.is_v4()),
        })
    }

    /// The MAC, where it stands in the cookie.
    fn mac(&self, tuple: &Tuple, isn: Seq, bits: u8, epoch: u64) -> u32 {
        let mut message = [0; 41];
        message[..36].copy_from_slice(&tuple.to_bytes());
        message[36..40].copy_from_slice(&isn.0.to_be_bytes());
        message[40] = bits;
        (self.key(epoch).hash(&message) >> 32) as u32 & MAC_MASK
    }

    fn key(&self, epoch: u64) -> SipHasher24 {
        let cell = &self.keys[(epoch & 1) as usize];
        let (of, key) = cell.get();
        if of == epoch {
            return key;
        }
        let key = epoch_key(&self.master, epoch);
        cell.set((epoch, key));
        key
    }
}

const MAC_MASK: u32 = 0xffff_ff00;

fn epoch_of(now: Time) -> u64 {
    now.as_secs() / EPOCH.as_secs()
}

/// Two outputs of a pseudo-random function of the epoch, as the epoch's key.
fn epoch_key(master: &SipHasher24, epoch: u64) -> SipHasher24 {
    let half = |which: u8| {
        let mut message = [which; 9];
        message[..8].copy_from_slice(&epoch.to_be_bytes());
        master.hash(&message)
    };
    SipHasher24::new_with_keys(half(0), half(1))
}
