//! Our secret, and what follows from it: a key pair for each worker.
//!
//! The file has one line, 32 random bytes in base64, as WireGuard's tools write keys. Workers' keys are derived from it (HKDF, RFC 5869), so that their number
//! may change, and none of them is the secret itself.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use boringtun::x25519::{PublicKey, StaticSecret};
use ring::hkdf::{HKDF_SHA256, KeyType, Salt};
use std::fmt;
use std::fs::{File, OpenOptions};
use std::io::{Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;
use zeroize::{Zeroize, ZeroizeOnDrop, Zeroizing};

/// Bytes of a key.
pub const KEY: usize = 32;
/// Their length in base64.
const TEXT: usize = 44;
/// Nobody but its owner.
const MODE: u32 = 0o600;

/// What workers' keys are made of. Never shown: it can be written into a file, and nowhere else.
#[derive(Clone, Zeroize, ZeroizeOnDrop)]
pub struct Secret([u8; KEY]);

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret")
    }
}

struct OfKey;

impl KeyType for OfKey {
    fn len(&self) -> usize {
        KEY
    }
}

impl Secret {
    /// A new one, of the system's random numbers.
    ///
    /// # Errors
    /// There are none.
    pub fn generate() -> Result<Secret, String> {
        let mut bytes = [0; KEY];
        getrandom::fill(&mut bytes).map_err(|e| format!("no random numbers: {e}"))?;
        Ok(Secret(bytes))
    }

    /// These bytes.
    pub fn from_bytes(bytes: [u8; KEY]) -> Secret {
        Secret(bytes)
    }

    /// Of a file that nobody but its owner can read, who is we or root.
    ///
    /// # Errors
    /// It cannot be read, or others can, or there is no key in it.
    pub fn read(path: &Path) -> Result<Secret, String> {
        let named = |why: String| format!("tunnel key {}: {why}", path.display());
        let file = File::open(path).map_err(|e| named(format!("cannot be read: {e}")))?;
        // Of what was opened, whatever takes its place meanwhile.
        let about = file.metadata().map_err(|e| named(format!("cannot be read: {e}")))?;
        if !about.is_file() {
            return Err(named("is no file".into()));
        }
        if about.mode() & 0o077 != 0 {
            let mode = about.mode() & 0o777;
            return Err(named(format!("others may read it (mode {mode:04o}): chmod 600 {}", path.display())));
        }
        let mut text = Zeroizing::new(Vec::with_capacity(TEXT + 2));
        file.take(TEXT as u64 + 2).read_to_end(&mut text).map_err(|e| named(format!("cannot be read: {e}")))?;
        let line = text.strip_suffix(b"\n").unwrap_or(&text);
        let bytes = decoded(line).ok_or_else(|| {
            named("no key is in it: a line of 44 characters (base64), as `dispatcher tunnel keygen` writes it".into())
        })?;
        Ok(Secret(bytes))
    }

    /// Into a file that is not there yet, and that nobody else may read.
    ///
    /// # Errors
    /// It is there, or cannot be made.
    pub fn write(&self, path: &Path) -> Result<(), String> {
        let named = |e| format!("tunnel key {}: cannot be made: {e}", path.display());
        let mut file = OpenOptions::new().write(true).create_new(true).mode(MODE).open(path).map_err(named)?;
        file.write_all(self.text().as_bytes()).and_then(|()| file.sync_all()).map_err(named)
    }

    /// As it stands in its file.
    pub fn text(&self) -> Zeroizing<String> {
        let mut text = Zeroizing::new(STANDARD.encode(self.0));
        text.push('\n');
        text
    }

    /// A worker's key.
    pub fn of_worker(&self, worker: usize) -> StaticSecret {
        let number = (worker as u32).to_be_bytes();
        let mut key = Zeroizing::new([0; KEY]);
        let derived = Salt::new(HKDF_SHA256, b"dispatcher tunnel key").extract(&self.0);
        let info: [&[u8]; 2] = [b"worker", &number];
        let derived = derived.expand(&info, OfKey).and_then(|okm| okm.fill(&mut *key));
        debug_assert!(derived.is_ok(), "as long as asked for");
        StaticSecret::from(*key)
    }

    /// The public half of it.
    pub fn public_of(&self, worker: usize) -> [u8; KEY] {
        PublicKey::from(&self.of_worker(worker)).to_bytes()
    }
}

/// A public key as WireGuard's tools write it.
pub fn text(key: &[u8; KEY]) -> String {
    STANDARD.encode(key)
}

/// A public key.
///
/// # Errors
/// It is none.
pub fn public(text: &str) -> Result<[u8; KEY], String> {
    let wrong = "expected a public key of 44 characters (base64), as `wg pubkey` writes it";
    let key = decoded(text.as_bytes()).ok_or(wrong)?;
    // What is agreed with such a point everybody knows (RFC 7748 section 6.1).
    if key == [0; KEY] { Err("no key: all of it is zero".into()) } else { Ok(key) }
}

fn decoded(text: &[u8]) -> Option<[u8; KEY]> {
    if text.len() != TEXT {
        return None;
    }
    let mut bytes = [0; KEY + 1];
    let decoded = STANDARD.decode_slice(text, &mut bytes);
    let key = bytes[..KEY].try_into().ok().filter(|_| decoded == Ok(KEY));
    bytes.zeroize();
    key
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    /// Said by Python's hmac (RFC 5869 by hand) and `wg pubkey`.
    #[test]
    fn workers_keys_are_those_that_hkdf_and_wg_say() {
        let secret = Secret::from_bytes([7; KEY]);
        assert_eq!(text(&secret.public_of(0)), "RHyha/letZjzw4g6JxsMCQ/J2UTeCrA9tb9Q+/+vmkw=");
        assert_eq!(text(&secret.public_of(3)), "q+kBkW34+0FAUhHHm56mHHEYI093D1ZpHZJ4qbTl/B4=");
    }

    #[test]
    fn each_worker_has_a_key_of_its_own_that_stays_the_same() {
        let secret = Secret::from_bytes([7; KEY]);
        let keys: Vec<_> = (0..4).map(|n| secret.public_of(n)).collect();
        assert!(keys.iter().enumerate().all(|(i, key)| keys[..i].iter().all(|other| other != key)));
        assert_eq!(keys[3], Secret::from_bytes([7; KEY]).public_of(3));
        assert_ne!(keys[0], Secret::from_bytes([8; KEY]).public_of(0));
        // The secret itself is nobody's.
        let own = PublicKey::from(&StaticSecret::from([7; KEY])).to_bytes();
        assert!(!keys.contains(&own));
    }

    #[test]
    fn a_file_is_taken_back_as_it_was_written_and_refused_where_others_may_read_it() {
        let path = std::env::temp_dir().join(format!("tunnel-key-{}", std::process::id()));
        let _ = std::fs::remove_file(&path);
        let secret = Secret::generate().unwrap();
        secret.write(&path).unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(Secret::read(&path).unwrap().public_of(0), secret.public_of(0));
        assert!(secret.write(&path).unwrap_err().contains("exists"));
        for mode in [0o640, 0o604, 0o620, 0o666] {
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
            let why = Secret::read(&path).unwrap_err();
            assert!(why.contains(&format!("others may read it (mode {mode:04o})")), "{why}");
        }
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o400)).unwrap();
        assert!(Secret::read(&path).is_ok());
        std::fs::remove_file(&path).unwrap();
        for text in ["", "short", "AAAA\n", &format!("{}x", &*secret.text()), &format!(" {}", secret.text().trim())] {
            std::fs::write(&path, text).unwrap();
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
            let why = Secret::read(&path).unwrap_err();
            assert!(why.contains("no key is in it"), "{text:?}: {why}");
            std::fs::remove_file(&path).unwrap();
        }
        assert!(Secret::read(&path).unwrap_err().contains("cannot be read"));
        assert!(Secret::read(&std::env::temp_dir()).unwrap_err().contains("is no file"));
    }

    #[test]
    fn a_secret_does_not_show_itself() {
        let secret = Secret::from_bytes([0xa5; KEY]);
        assert_eq!(format!("{secret:?}"), "Secret");
    }

    #[test]
    fn public_keys_are_read_as_wireguard_writes_them_and_nothing_else_is() {
        // From wg(8).
        let key = "xTIBA5rboUvnH4htodjb6e697QjLERt1NAB4mZqp8Dg=";
        assert_eq!(text(&public(key).unwrap()), key);
        for wrong in [
            "",
            "xTIBA5rboUvnH4htodjb6e697QjLERt1NAB4mZqp8Dg",
            "xTIBA5rboUvnH4htodjb6e697QjLERt1NAB4mZqp8Dh=",
            "xTIBA5rboUvnH4htodjb6e697QjLERt1NAB4mZqp8D==",
            "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=",
            "xTIBA5rboUvnH4htodjb6e697QjLERt1NAB4mZqp8Dg=\n",
        ] {
            assert!(public(wrong).is_err(), "{wrong:?}");
        }
    }
}
