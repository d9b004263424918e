//! Random numbers from a seed (SplitMix64), the same on every machine.

/// A source of numbers.
pub struct Rng(u64);

impl Rng {
    /// That of a seed.
    pub fn new(seed: u64) -> Rng {
        Rng(seed)
    }

    /// The next number.
    pub fn u64(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Below `n`.
    pub fn below(&mut self, n: usize) -> usize {
        (self.u64() % n.max(1) as u64) as usize
    }

    /// From `low` to `high`, both included.
    pub fn between(&mut self, low: usize, high: usize) -> usize {
        low + self.below(high - low + 1)
    }

    /// True so often in a thousand.
    pub fn per_mille(&mut self, n: u32) -> bool {
        (self.u64() % 1000) < u64::from(n)
    }

    /// So many bytes.
    pub fn bytes(&mut self, n: usize) -> Vec<u8> {
        (0..n.div_ceil(8)).flat_map(|_| self.u64().to_le_bytes()).take(n).collect()
    }
}

/// The seed of a storm: from the environment, so that a failure can be repeated, else the default.
pub fn seed_from_env(default: u64) -> u64 {
    std::env::var("LAB_SEED").ok().and_then(|s| s.parse().ok()).unwrap_or(default)
}

/// How large a storm is to be.
pub fn size_from_env(default: usize) -> usize {
    std::env::var("LAB_CONNECTIONS").ok().and_then(|s| s.parse().ok()).unwrap_or(default)
}
