//! The hash by which clients are led: the same in every run and on every dispatcher.
//!
//! It decides which backend a client meets when no table knows better, so it must not depend on a secret of the process:
//! after a restart the tables are empty, and a returning client has nothing but this hash to lead it to where its session is.
//! Its only key is the configured seed.
//!
//! The algorithm is part of the configuration's meaning: to change it moves every client. It is SipHash-2-4 with the key words
//! `0x6469737061746368` ("dispatch" in ASCII) and the seed, over:
//!
//! - `source-ip`: the client's IPv4 address (4 bytes), or the first 8 bytes of its IPv6 address: hosts change the rest at will
//!   (RFC 8981), and one host has it all.
//! - `tuple`: the same, then the client's port, the virtual address (4 or 16 bytes) and its port; ports in network order.

use core::net::{IpAddr, SocketAddr};
use siphasher::sip::SipHasher24;

/// What leads clients. See the module for what it computes.
#[derive(Clone, Copy, Debug)]
pub struct StableHash(SipHasher24);

impl StableHash {
    /// With a seed from the configuration. It is no secret unless the operator keeps it: who knows it can tell which backend an
    /// address leads to.
    pub fn new(seed: u64) -> StableHash {
        StableHash(SipHasher24::new_with_keys(0x6469_7370_6174_6368, seed))
    }

    /// Of a client: its IPv4 address, or the /64 of its IPv6 address.
    pub fn client(&self, client: IpAddr) -> u64 {
        let (bytes, n) = network(client);
        self.0.hash(&bytes[..n])
    }

    /// Of a connection.
    pub fn tuple(&self, client: SocketAddr, vip: SocketAddr) -> u64 {
        let mut message = [0; 8 + 2 + 16 + 2];
        let mut n = 0;
        let mut put = |bytes: &[u8]| {
            message[n..n + bytes.len()].copy_from_slice(bytes);
            n += bytes.len();
        };
        let (address, len) = network(client.ip());
        put(&address[..len]);
        put(&client.port().to_be_bytes());
        match vip.ip().to_canonical() {
            IpAddr::V4(a) => put(&a.octets()),
            IpAddr::V6(a) => put(&a.octets()),
        }
        put(&vip.port().to_be_bytes());
        self.0.hash(&message[..n])
    }
}

/// What stands for a client, and how many bytes of it count.
fn network(client: IpAddr) -> ([u8; 8], usize) {
    let mut bytes = [0; 8];
    let n = match client.to_canonical() {
        IpAddr::V4(a) => {
            bytes[..4].copy_from_slice(&a.octets());
            4
        }
        IpAddr::V6(a) => {
            bytes.copy_from_slice(&a.octets()[..8]);
            8
        }
    };
    (bytes, n)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// SipHash-2-4, written out from the paper (Aumasson and Bernstein, 2012), independent of the crate.
    fn siphash(k0: u64, k1: u64, message: &[u8]) -> u64 {
        let mut v = [
            k0 ^ 0x736f_6d65_7073_6575,
            k1 ^ 0x646f_7261_6e64_6f6d,
            k0 ^ 0x6c79_6765_6e65_7261,
            k1 ^ 0x7465_6462_7974_6573,
        ];
        let round = |v: &mut [u64; 4]| {
            v[0] = v[0].wrapping_add(v[1]);
            v[1] = v[1].rotate_left(13) ^ v[0];
            v[0] = v[0].rotate_left(32);
            v[2] = v[2].wrapping_add(v[3]);
            v[3] = v[3].rotate_left(16) ^ v[2];
            v[0] = v[0].wrapping_add(v[3]);
            v[3] = v[3].rotate_left(21) ^ v[0];
            v[2] = v[2].wrapping_add(v[1]);
            v[1] = v[1].rotate_left(17) ^ v[2];
            v[2] = v[2].rotate_left(32);
        };
        let mut padded = message.to_vec();
        padded.resize(message.len() / 8 * 8 + 7, 0);
        padded.push(message.len() as u8);
        for word in padded.chunks_exact(8) {
            let m = u64::from_le_bytes(word.try_into().unwrap());
            v[3] ^= m;
            round(&mut v);
            round(&mut v);
            v[0] ^= m;
        }
        v[2] ^= 0xff;
        (0..4).for_each(|_| round(&mut v));
        v[0] ^ v[1] ^ v[2] ^ v[3]
    }

    #[test]
    fn it_is_what_its_documentation_says() {
        // The paper's own test vector, for the function above.
        let key = [0x0706_0504_0302_0100, 0x0f0e_0d0c_0b0a_0908];
        assert_eq!(siphash(key[0], key[1], &(0..15).collect::<Vec<u8>>()), 0xa129_ca61_49be_45e5);
        let name = u64::from_be_bytes(*b"dispatch");
        for seed in [0, 1, u64::MAX] {
            let hash = StableHash::new(seed);
            let v4 = hash.client("192.0.2.7".parse().unwrap());
            assert_eq!(v4, siphash(name, seed, &[192, 0, 2, 7]));
            let v6 = hash.client("2001:db8:1:2:3:4:5:6".parse().unwrap());
            assert_eq!(v6, siphash(name, seed, &[0x20, 1, 0xd, 0xb8, 0, 1, 0, 2]));
            let tuple = hash.tuple("192.0.2.7:4660".parse().unwrap(), "198.51.100.1:443".parse().unwrap());
            assert_eq!(tuple, siphash(name, seed, &[192, 0, 2, 7, 0x12, 0x34, 198, 51, 100, 1, 1, 0xbb]));
            let mut message = vec![0x20, 1, 0xd, 0xb8, 0, 1, 0, 2, 0x12, 0x34, 0x20, 1, 0xd, 0xb8];
            message.extend([0; 11]);
            message.extend([9, 1, 0xbb]);
            let tuple = hash.tuple("[2001:db8:1:2::3]:4660".parse().unwrap(), "[2001:db8::9]:443".parse().unwrap());
            assert_eq!(tuple, siphash(name, seed, &message));
        }
    }

    #[test]
    fn addresses_of_one_ipv6_network_are_one_client_and_mapped_ones_are_ipv4() {
        let of = |text: &str| StableHash::new(0).client(text.parse().unwrap());
        assert_eq!(of("2001:db8:0:1::1"), of("2001:db8:0:1:ffff:ffff:ffff:ffff"));
        assert_ne!(of("2001:db8:0:1::1"), of("2001:db8:0:2::1"));
        assert_ne!(of("192.0.2.1"), of("192.0.2.2"));
        assert_eq!(of("192.0.2.1"), of("::ffff:192.0.2.1"));
    }
}
