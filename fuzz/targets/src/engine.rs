//! x

/// x
pub fn engine(_bytes: &[u8]) {}
