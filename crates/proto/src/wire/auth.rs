//! Signing of heartbeats: HMAC-SHA-256 truncated to 16 bytes, with a key ID, so that keys can be rotated.
//!
//! The same secret also makes the key of the bucket hash, under another label, so that a client cannot
//! aim at one host, and of that the tokens of commits, which nobody else can know. Specification: docs/design.md, "On the wire".

use crate::config::{Auth, Key};
use crate::rules::{RuleSet, mapped};
use crate::wire::heartbeat::CommittedMap;
use covey_filter::Token;
use hmac::{Hmac, KeyInit, Mac as _};
use sha2::Sha256;

/// Bytes of the truncated HMAC.
pub const TAG_LEN: usize = 16;

impl Auth {
    /// The key that signs, if any.
    pub fn signing(&self) -> Option<&Key> {
        match self {
            Self::None => None,
            Self::Keys(keys) => keys.first(),
        }
    }

    /// The accepted key with this ID.
    pub fn key(&self, id: u8) -> Option<&Key> {
        match self {
            Self::None => None,
            Self::Keys(keys) => keys.iter().find(|key| key.id == id),
        }
    }

    /// The key of the bucket hash. Without a shared secret it follows from the primary virtual IP alone:
    /// all hosts agree on it, but so can anybody.
    pub fn hash_key(&self, rules: &RuleSet) -> [u64; 2] {
        let secret = self.signing().map_or([0; 32], |key| key.secret);
        let mut hmac = keyed(&secret);
        hmac.update(b"covey bucket hash 1");
        hmac.update(&mapped(rules.primary()));
        let bytes = hmac.finalize().into_bytes();
        [word_at(&bytes, 0), word_at(&bytes, 8)]
    }
}

impl Key {
    /// The tag of a message.
    pub fn tag(&self, message: &[u8]) -> [u8; TAG_LEN] {
        let mut hmac = keyed(&self.secret);
        hmac.update(message);
        let full = hmac.finalize().into_bytes();
        let mut tag = [0; TAG_LEN];
        tag.copy_from_slice(&full[..TAG_LEN]);
        tag
    }

    /// Whether the tag is this message's, in constant time.
    pub fn verifies(&self, message: &[u8], tag: &[u8; TAG_LEN]) -> bool {
        let mut hmac = keyed(&self.secret);
        hmac.update(message);
        hmac.verify_truncated_left(tag).is_ok()
    }
}

/// The token of a commit: all hosts of the cluster work it out when they acknowledge the ballot, and nobody else can.
/// Made of the bucket hash's key, which all hosts have in common whichever key they sign with.
pub fn commit_token(hash_key: [u64; 2], map: &CommittedMap) -> Token {
    let [low, high] = hash_key.map(u64::to_le_bytes);
    let mut hmac = keyed(&[low, high].concat());
    hmac.update(b"covey commit 1");
    hmac.update(&map.to_bytes());
    let bytes = hmac.finalize().into_bytes();
    [word_at(&bytes, 0), word_at(&bytes, 8)]
}

fn word_at(bytes: &[u8], at: usize) -> u64 {
    let mut word = [0; 8];
    word.copy_from_slice(&bytes[at..at + 8]);
    u64::from_le_bytes(word)
}

fn keyed(secret: &[u8]) -> Hmac<Sha256> {
    Hmac::new_from_slice(secret).expect("HMAC takes a key of any length")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rfc_4231_test_case_2() {
        // The RFC's key is 4 bytes; HMAC pads keys with zeros, so 28 zeros after it change nothing.
        let mut secret = [0; 32];
        secret[..4].copy_from_slice(b"Jefe");
        let key = Key { id: 1, secret };
        let tag = key.tag(b"what do ya want for nothing?");
        assert_eq!(
            tag,
            *b"\x5b\xdc\xc1\x46\xbf\x60\x75\x4e\x6a\x04\x24\x26\x08\x95\x75\xc7"
        );
        assert!(key.verifies(b"what do ya want for nothing?", &tag));
        assert!(!key.verifies(b"what do ya want for nothing!", &tag));
    }
}
