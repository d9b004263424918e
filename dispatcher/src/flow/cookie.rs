//! SYN cookies: nothing is remembered of a SYN; what must be known later is in the number we answer with.
//!
//! After D. J. Bernstein, <https://cr.yp.to/syncookies.html>, and RFC 4987, section 3.6. Our initial sequence number is
//!
//! ```text
//!  31                         8     7    6   5    4   3             0
//! +----------------------------+-------+-------+-----+---------------+
//! | MAC, 24 bits               | epoch |  MSS  | ECN | scale and SACK|
//! +----------------------------+-------+-------+-----+---------------+
//! ```
//!
//! The MAC is SipHash-2-4, cut to 24 bits, over addresses (of 4 or 16 bytes, as they stand in headers), ports, the client's ISN and the eight low bits, under a key that
//! belongs to an epoch of 64 seconds. An epoch's key is itself drawn from the master secret by SipHash, so that it rotates
//! without anyone rotating it, and all workers with the same master and the same clock agree. Cookies of this epoch and
//! the one before are honoured: each lives for 64 to 128 seconds. Which of the two a cookie belongs to, it says itself, by
//! the epoch's parity: so of the 2^24 MACs that a guess can carry exactly one is right, and not one for each epoch.
//!
//! Whoever guesses succeeds once in 2^24 tries, and gains one flow from an address that he does not
//! hold; that flow dies unheard.
//!
//! The bit for the parity is saved on the window scale. Scale and SACK share four bits: a client that offers SACK, as all
//! of today do, is remembered with every scale up to 9 and with 11; one that does not, with 0, 4 and 7. What lies between is
//! rounded down: the backend then takes the client's windows for up to half of what they are (an eighth without SACK or
//! beyond 11), and never for more.
//!
//! Comparison in constant time would hide how many leading bits of a guess were
//! right. The machine compares 32-bit words in one instruction, the answer to a wrong guess is the same silence whatever
//! was wrong with it, and a new guess for another ISN is under another MAC; there is nothing to be learned bit by bit.
//!
//! Options need no timestamps to be remembered: clients that send none (Windows) keep window scale and SACK.

use super::Key;
use crate::time::Time;
use crate::wire::Family;
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

/// The window scales that are remembered, without SACK and with it, each list in rising order: see the module's text.
const SCALES: [&[Option<u8>]; 2] = [
    &[None, Some(0), Some(4), Some(7)],
    &[None, Some(0), Some(1), Some(2), Some(3), Some(4), Some(5), Some(6), Some(7), Some(8), Some(9), Some(11)],
];
/// Where the list with SACK begins in the four bits; the other comes before it.
const WITH_SACK: u8 = SCALES[0].len() as u8;
/// The largest shift (RFC 7323, section 2.3).
const LARGEST: u8 = 14;
/// The four bits, without SACK and with it, by the scale that was offered and one: the last in the list that is not above it. 0: none was.
const CODES: [[u8; LARGEST as usize + 2]; 2] = {
    let mut codes = [[0; LARGEST as usize + 2]; 2];
    let mut sack = 0;
    while sack < 2 {
        let mut offered = 0;
        while offered < LARGEST as usize + 2 {
            let mut known = 1;
            while known < SCALES[sack].len()
                && let Some(scale) = SCALES[sack][known]
                && offered > scale as usize
            {
                known += 1;
            }
            codes[sack][offered] = (known - 1) as u8 + if sack == 1 { WITH_SACK } else { 0 };
            offered += 1;
        }
        sack += 1;
    }
    codes
};
/// Segments of a client's first burst (RFC 6928).
const INITIAL_WINDOW: u32 = 10;
/// What timestamps take of a segment, with their padding (RFC 7323, appendix A).
const TIMESTAMPS: u32 = 12;
/// The bit that tells an epoch from its neighbours.
const PARITY: u8 = 0x80;

/// What must be remembered of a client's SYN.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ClientOptions {
    /// Largest segment the client takes, bytes. Comes back rounded down to a class.
    pub mss: u16,
    /// Shift of the windows it announces (RFC 7323, section 2.3). Comes back rounded down to one that is remembered.
    /// `None`: not offered.
    pub wscale: Option<u8>,
    /// It offered selective acknowledgements (RFC 2018).
    pub sack: bool,
    /// It asked for explicit congestion notification (RFC 3168, section 6.1.1).
    pub ecn: bool,
}

impl ClientOptions {
    /// In seven bits; `None` when the MSS is below the smallest class.
    fn encode(&self, v4: bool) -> Option<u8> {
        let mss = classes(v4).iter().rposition(|&mss| mss <= self.mss)? as u8;
        // No scale sorts before every scale.
        let scale = self.wscale.map_or(0, |scale| usize::from(scale.min(LARGEST)) + 1);
        Some(mss << 5 | u8::from(self.ecn) << 4 | CODES[usize::from(self.sack)][scale])
    }

    /// From the seven low bits; all 128 values mean something.
    fn decode(bits: u8, v4: bool) -> ClientOptions {
        let scale = bits & 15;
        let sack = scale >= WITH_SACK;
        ClientOptions {
            mss: classes(v4)[usize::from(bits >> 5 & 3)],
            wscale: SCALES[usize::from(sack)][usize::from(if sack { scale - WITH_SACK } else { scale })],
            sack,
            ecn: bits & 0x10 != 0,
        }
    }
}

const fn classes(v4: bool) -> &'static [u16; 4] {
    if v4 { &MSS_V4 } else { &MSS_V6 }
}

/// Proof that a client has received our SYN-ACK. Made by [`CookieJar::verify`] alone; one proof opens one flow.
#[derive(Debug, PartialEq, Eq)]
pub struct CookieVerified {
    key: Key,
    client_isn: Seq,
    cookie: Seq,
    options: ClientOptions,
}

impl CookieVerified {
    /// Client to VIP.
    pub fn key(&self) -> &Key {
        &self.key
    }

    /// Sequence number of the client's SYN.
    pub fn client_isn(&self) -> Seq {
        self.client_isn
    }

    /// Sequence number of our SYN-ACK.
    pub fn cookie(&self) -> Seq {
        self.cookie
    }

    /// What the SYN offered, MSS and window scale rounded down.
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

    /// The initial sequence number with which to answer a SYN that carried `key` and `isn`. `None` when the client's
    /// MSS is below the smallest class: drop it (`mss-too-small`); segments of that size are an attack on us.
    pub fn issue(&self, key: &Key, isn: Seq, opts: &ClientOptions, now: Time) -> Option<Seq> {
        let epoch = epoch_of(now);
        let bits = opts.encode(key.family() == Family::V4)? | parity(epoch);
        Some(Seq(self.mac(key, isn, bits, epoch) | u32::from(bits)))
    }

    /// Whether `cookie` is the number with which we answered, or would have answered, a SYN that carried `key` and
    /// `isn`, in this epoch or the one before. From the client's ACK: `isn` is its sequence number less one, `cookie`
    /// its acknowledgement less one.
    pub fn verify(&self, key: &Key, isn: Seq, cookie: Seq, now: Time) -> Option<CookieVerified> {
        let bits = cookie.0 as u8;
        let mac = cookie.0 & MAC_MASK;
        let now = epoch_of(now);
        let epoch = if bits & PARITY == parity(now) { now } else { now.checked_sub(1)? };
        (self.mac(key, isn, bits, epoch) == mac).then(|| CookieVerified {
            key: *key,
            client_isn: isn,
            cookie,
            options: ClientOptions::decode(bits, key.family() == Family::V4),
        })
    }

    /// Whether a segment of `len` bytes that begins at `seq` may be a later one of a client's first burst, to which `cookie` was the answer: whether the cookie
    /// is that of a SYN just before the burst, up to ten full segments earlier (RFC 6928: the initial window). Full ones are as long as this one, or
    /// as the SYN's MSS, with timestamps or without. Nothing is opened by it: who guesses gains our silence.
    pub fn is_behind(&self, key: &Key, seq: Seq, len: usize, cookie: Seq, now: Time) -> bool {
        let mss = u32::from(ClientOptions::decode(cookie.0 as u8, key.family() == Family::V4).mss);
        let strides = [len as u32, mss, mss - TIMESTAMPS];
        (0..3)
            .filter(|&i| !strides[..i].contains(&strides[i]))
            .any(|i| (1..=INITIAL_WINDOW).any(|n| self.verify(key, seq - 1 - n * strides[i], cookie, now).is_some()))
    }

    /// The MAC, where it stands in the cookie.
    fn mac(&self, key: &Key, isn: Seq, bits: u8, epoch: u64) -> u32 {
        let (mut message, len) = key.short_bytes::<{ 36 + 5 }>();
        message[len..len + 4].copy_from_slice(&isn.0.to_be_bytes());
        message[len + 4] = bits;
        (self.key_of(epoch).hash(&message[..len + 5]) >> 32) as u32 & MAC_MASK
    }

    fn key_of(&self, epoch: u64) -> SipHasher24 {
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

/// Where it stands in the cookie.
fn parity(epoch: u64) -> u8 {
    if epoch & 1 == 0 { 0 } else { PARITY }
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::Addr;
    use proptest::prelude::*;

    const SECRET: [u8; 16] = *b"sixteen secrets!";

    fn key() -> Key {
        Key::v4([10, 0, 0, 7], 41022, [10, 0, 9, 1], 443)
    }

    fn options() -> ClientOptions {
        ClientOptions { mss: 1460, wscale: Some(7), sack: true, ecn: false }
    }

    #[test]
    fn a_later_segment_of_a_first_burst_is_known_for_what_it_is() {
        let (jar, now, isn) = (CookieJar::new(SECRET), Time::from_millis(100_000), Seq(u32::MAX - 3000));
        let cookie = jar.issue(&key(), isn, &options(), now).unwrap();
        let behind = |offset: u32, len| jar.is_behind(&key(), isn + 1 + offset, len, cookie, now);
        assert!(behind(1460, 1460) && behind(14_600, 77), "full ones, and the short one at the end");
        assert!(behind(5 * 1448, 1448) && behind(1448, 9), "with timestamps");
        assert!(behind(3 * 1000, 1000), "on a narrow path");
        assert!(!behind(1461, 1460) && !behind(11 * 1460, 1460) && !behind(100_000, 1460));
        let other = Key::v4([10, 0, 0, 7], 41023, [10, 0, 9, 1], 443);
        assert!(!jar.is_behind(&other, isn + 1461, 1460, cookie, now));
        assert!(!jar.is_behind(&key(), isn + 1461, 1460, cookie, now + EPOCH * 2));
    }

    fn any_options() -> impl Strategy<Value = ClientOptions> {
        (216u16.., prop::option::of(0..=14u8), any::<bool>(), any::<bool>())
            .prop_map(|(mss, wscale, sack, ecn)| ClientOptions { mss, wscale, sack, ecn })
    }

    fn any_key() -> impl Strategy<Value = Key> {
        prop_oneof![
            any::<([u8; 4], u16, [u8; 4], u16)>().prop_map(|(s, sp, d, dp)| Key::v4(s, sp, d, dp)),
            any::<([u8; 16], u16, [u8; 16], u16)>().prop_map(|(s, sp, d, dp)| Key::v6(s, sp, d, dp)),
        ]
    }

    proptest! {
        #[test]
        fn what_the_syn_offered_comes_back(t in any_key(), isn: u32, o in any_options(), at in 0..1_000_000u64, wait in 0..64_000u64) {
            let jar = CookieJar::new(SECRET);
            let cookie = jar.issue(&t, Seq(isn), &o, Time::from_millis(at)).unwrap();
            let proof = jar.verify(&t, Seq(isn), cookie, Time::from_millis(at + wait)).unwrap();
            let classes = if t.family() == Family::V4 { [216, 536, 1360, 1460] } else { [216, 1220, 1360, 1440] };
            let mss = classes.into_iter().filter(|c| *c <= o.mss).max().unwrap();
            let wscale = o.wscale.map(|shift| match (o.sack, shift) {
                (true, 0..=9) => shift,
                (true, 10) => 9,
                (true, _) => 11,
                (false, 0..=3) => 0,
                (false, 4..=6) => 4,
                (false, _) => 7,
            });
            prop_assert_eq!(proof.options(), ClientOptions { mss, wscale, ..o });
            prop_assert_eq!((proof.key(), proof.client_isn(), proof.cookie()), (&t, Seq(isn), cookie));
        }
    }

    /// The module's documentation, followed with another implementation of SipHash-2-4.
    #[test]
    #[allow(deprecated)]
    fn a_cookie_is_what_the_documentation_says() {
        use core::hash::{Hasher, SipHasher};
        let sip = |k: (u64, u64), message: &[u8]| {
            let mut h = SipHasher::new_with_keys(k.0, k.1);
            h.write(message);
            h.finish()
        };
        let half = |at: usize| u64::from_le_bytes(SECRET[at..at + 8].try_into().unwrap());
        let master = (half(0), half(8));
        let epoch = 3u64.to_be_bytes();
        let of_epoch = (sip(master, &[&epoch[..], &[0]].concat()), sip(master, &[&epoch[..], &[1]].concat()));
        // An odd epoch, MSS class 3, no ECN, SACK with scale 7: the ninth of twelve, after the four without.
        let bits = 1 << 7 | 3 << 5 | 12;
        let jar = CookieJar::new(SECRET);
        let now = Time::from_millis(3 * 64_000);
        let six = |last| [&[0x20, 1, 0xd, 0xb8][..], &[0; 11], &[last]].concat();
        let v6 = Key::v6(six(7).try_into().unwrap(), 41022, six(1).try_into().unwrap(), 443);
        for (key, addresses) in [(key(), vec![10, 0, 0, 7, 10, 0, 9, 1]), (v6, [six(7), six(1)].concat())] {
            let message = [&addresses[..], &[0xa0, 0x3e, 0x01, 0xbb], &[0, 0, 0x30, 0x39], &[bits]].concat();
            let expected = (sip(of_epoch, &message) >> 40 << 8) as u32 | u32::from(bits);
            assert_eq!(jar.issue(&key, Seq(12345), &options(), now), Some(Seq(expected)));
        }
    }

    #[test]
    fn a_cookie_dies_with_the_second_rotation_and_not_before() {
        let ms = Time::from_millis;
        for epoch in [0, 1, 2, 77] {
            for issued in [epoch * 64_000, epoch * 64_000 + 63_999] {
                let jar = CookieJar::new(SECRET);
                let cookie = jar.issue(&key(), Seq(9), &options(), ms(issued)).unwrap();
                let good = |at| jar.verify(&key(), Seq(9), cookie, at).is_some();
                assert!(good(ms(issued)));
                assert!(good(ms((epoch + 2) * 64_000 - 1)));
                assert!(good(Time::from_nanos((epoch + 2) * 64_000_000_000 - 1)));
                assert!(!good(ms((epoch + 2) * 64_000)), "replayed after two rotations");
                assert!(!good(ms((epoch + 4) * 64_000)), "same parity");
                assert!(epoch == 0 || !good(ms(epoch * 64_000 - 1)), "from the future");
            }
        }
    }

    #[test]
    fn every_bit_of_every_field_matters() {
        let jar = CookieJar::new(SECRET);
        let (now, isn, t) = (Time::from_millis(200_000), Seq(0x0102_0304), key());
        let cookie = jar.issue(&t, isn, &options(), now).unwrap();
        let good = |t: &Key, isn, cookie| jar.verify(t, isn, cookie, now).is_some();
        assert!(good(&t, isn, cookie));
        for bit in 0..32 {
            assert!(!good(&t, Seq(isn.0 ^ 1 << bit), cookie), "ISN bit {bit}");
            assert!(!good(&t, isn, Seq(cookie.0 ^ 1 << bit)), "cookie bit {bit}");
        }
        for bit in 0..128 {
            let flip = |mut a: [u8; 16]| {
                a[bit / 8] ^= 1 << (bit % 8);
                a
            };
            assert!(!good(&Key { src: Addr(flip(t.src.0)), ..t }, isn, cookie), "source bit {bit}");
            assert!(!good(&Key { dst: Addr(flip(t.dst.0)), ..t }, isn, cookie), "destination bit {bit}");
        }
        for bit in 0..16 {
            assert!(!good(&Key { sport: t.sport ^ 1 << bit, ..t }, isn, cookie), "source port bit {bit}");
            assert!(!good(&Key { dport: t.dport ^ 1 << bit, ..t }, isn, cookie), "destination port bit {bit}");
        }
        assert!(!good(&t.reversed(), isn, cookie));
        let mut other = SECRET;
        other[15] ^= 0x80;
        assert_eq!(CookieJar::new(other).verify(&t, isn, cookie, now), None);
    }

    /// Of the 2^24 MACs that a guess can carry, one is right: shown for all that share the right one's upper byte, in
    /// both epochs that are honoured, and by the spread of each byte of the MAC over many connections.
    #[test]
    fn a_guess_is_right_once_in_two_to_the_24() {
        let jar = CookieJar::new(SECRET);
        let now = Time::from_millis(200_000);
        for issued in [now, Time::from_millis(130_000)] {
            let cookie = jar.issue(&key(), Seq(1), &options(), issued).unwrap();
            let right = (0..=0xffffu32)
                .map(|guess| Seq(cookie.0 & 0xff00_00ff | guess << 8))
                .filter(|guess| jar.verify(&key(), Seq(1), *guess, now).is_some());
            assert_eq!(right.collect::<Vec<_>>(), [cookie]);
        }
        // All the MACs there are, for one choice of the low bits: were both epochs tried, two would be right.
        let right =
            (0..1u32 << 24).filter(|guess| jar.verify(&key(), Seq(1), Seq(guess << 8 | 0x7c), now).is_some()).count();
        assert_eq!(right, 1);

        const N: u32 = 1 << 16;
        let mut spread = [[0u32; 256]; 3];
        for isn in 0..N {
            let mac = jar.issue(&key(), Seq(isn), &options(), now).unwrap().0.to_be_bytes();
            for (byte, counts) in mac.iter().zip(&mut spread) {
                counts[usize::from(*byte)] += 1;
            }
        }
        for counts in spread {
            let mean = f64::from(N) / 256.0;
            let chi2: f64 = counts.iter().map(|n| (f64::from(*n) - mean).powi(2) / mean).sum();
            // 255 degrees of freedom: 5.6 standard deviations.
            assert!(chi2 < 255.0 + 5.6 * 510f64.sqrt(), "chi squared {chi2}");
        }
    }

    #[test]
    fn jars_with_the_same_secret_agree_whatever_they_did_before() {
        let (a, b) = (CookieJar::new(SECRET), CookieJar::new(SECRET));
        for at in [5, 900, 130, 70, 3, 1_000_000, 64, 0] {
            let now = Time::from_millis(at * 1000);
            let cookie = a.issue(&key(), Seq(at as u32), &options(), now);
            let fresh = CookieJar::new(SECRET);
            assert_eq!(fresh.issue(&key(), Seq(at as u32), &options(), now), cookie);
            assert!(b.verify(&key(), Seq(at as u32), cookie.unwrap(), now).is_some());
        }
    }

    #[test]
    fn a_tiny_mss_gets_no_cookie_and_a_huge_scale_is_rounded_down() {
        let jar = CookieJar::new(SECRET);
        let issue = |o: &ClientOptions| jar.issue(&key(), Seq(1), o, Time::ZERO);
        assert_eq!(issue(&ClientOptions { mss: 215, ..options() }), None);
        let cookie = issue(&ClientOptions { mss: 216, wscale: Some(200), ..options() }).unwrap();
        let back = jar.verify(&key(), Seq(1), cookie, Time::ZERO).unwrap().options();
        assert_eq!((back.mss, back.wscale), (216, Some(11)));
    }
}
