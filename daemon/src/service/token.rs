//! Session tokens: 256 random bits as base64url. Only their SHA-256 is stored or replicated.

use messagebase_protocol::code::Failure;
use sha2::{Digest, Sha256};

use super::verdict;

const TOKEN_BYTES: usize = 32;
const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";

/// A new token: 43 characters.
pub(super) fn new() -> Result<String, Failure> {
    random_text(TOKEN_BYTES)
}

/// So many random bytes as base64url without padding.
pub(super) fn random_text(bytes: usize) -> Result<String, Failure> {
    let mut random = vec![0; bytes];
    getrandom::fill(&mut random).map_err(|e| verdict::internal(&format!("no randomness: {e}")))?;
    Ok(base64url(&random))
}

/// What is stored of a token.
pub(super) fn hash(token: &str) -> [u8; 32] {
    Sha256::digest(token.as_bytes()).into()
}

fn base64url(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for chunk in bytes.chunks(3) {
        let group = chunk
            .iter()
            .fold(0u32, |group, byte| (group << 8) | u32::from(*byte))
            << (8 * (3 - chunk.len()));
        for place in 0..=chunk.len() {
            let sextet = (group >> (18 - 6 * place)) & 63;
            text.push(char::from(ALPHABET[sextet as usize]));
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base64url_as_in_the_rfc() {
        for (bytes, text) in [
            ("", ""),
            ("f", "Zg"),
            ("fo", "Zm8"),
            ("foo", "Zm9v"),
            ("foobar", "Zm9vYmFy"),
        ] {
            assert_eq!(base64url(bytes.as_bytes()), text);
        }
        assert_eq!(base64url(&[0xfb, 0xff, 0xfe]), "-__-");
    }

    #[test]
    fn tokens_are_long_and_different() {
        let (a, b) = (new().expect("randomness"), new().expect("randomness"));
        assert_eq!(a.len(), 43);
        assert_ne!(a, b);
        assert_ne!(hash(&a), hash(&b));
    }
}
