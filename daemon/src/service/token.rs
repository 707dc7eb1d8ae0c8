//! Session tokens: 256 random bits as base64url. Only their SHA-256 is stored or replicated.

use data_encoding::BASE64URL_NOPAD;
use messagebase_protocol::code::Failure;
use sha2::{Digest, Sha256};

use super::verdict;

const TOKEN_BYTES: usize = 32;

/// A new token: 43 characters.
pub(super) fn new() -> Result<String, Failure> {
    random_text(TOKEN_BYTES)
}

/// `bytes` random bytes as base64url without padding.
pub(super) fn random_text(bytes: usize) -> Result<String, Failure> {
    let mut random = vec![0; bytes];
    getrandom::fill(&mut random).map_err(|e| verdict::internal(&format!("no randomness: {e}")))?;
    Ok(BASE64URL_NOPAD.encode(&random))
}

/// What is stored of a token.
pub(super) fn hash(token: &str) -> [u8; 32] {
    Sha256::digest(token.as_bytes()).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_are_long_and_different() {
        let (a, b) = (new().expect("randomness"), new().expect("randomness"));
        assert_eq!(a.len(), 43);
        assert_ne!(a, b);
        assert_ne!(hash(&a), hash(&b));
    }
}
