//! Hashes one password after another in the same memory. With the default cost a hash fills 19 MiB. When each hash
//! allocated them anew, on any free thread, the allocator kept dozens of such blocks.

use argon2::password_hash::{Output, ParamsString, PasswordHash, Salt, SaltString};
use argon2::{Argon2, Block, Params, Version};

/// 128 bits, as RFC 9106 recommends.
const SALT_BYTES: usize = 16;
/// A salt decoded from its base64 form; as long as the PHC string format allows.
const DECODED_SALT_MAX_BYTES: usize = 64;

/// A hasher and the memory that it works in.
pub(super) struct Argon2Worker {
    argon2: Argon2<'static>,
    blocks: Vec<Block>,
}

impl Argon2Worker {
    /// Allocates with the first hash.
    pub(super) fn new(argon2: Argon2<'static>) -> Self {
        Argon2Worker {
            argon2,
            blocks: Vec::new(),
        }
    }

    /// A PHC string under a new salt.
    pub(super) fn hash(&mut self, password: &str) -> anyhow::Result<String> {
        let mut salt = [0; SALT_BYTES];
        getrandom::fill(&mut salt).map_err(|e| anyhow::anyhow!("no randomness: {e}"))?;
        let salt = SaltString::encode_b64(&salt).map_err(|e| anyhow::anyhow!("salt: {e}"))?;
        let argon2 = self.argon2.clone();
        let params = argon2.params();
        let output = self
            .digest(&argon2, password, salt.as_salt())
            .map_err(|e| anyhow::anyhow!("argon2: {e}"))?;
        let hash = PasswordHash {
            algorithm: argon2::ARGON2ID_IDENT,
            version: Some(Version::default().into()),
            params: ParamsString::try_from(params).map_err(|e| anyhow::anyhow!("argon2: {e}"))?,
            salt: Some(salt.as_salt()),
            hash: Some(output),
        };
        Ok(hash.to_string())
    }

    /// Whether the password belongs to a PHC string, which names its own cost. Fails on one that can't be read.
    pub(super) fn verify(&mut self, password: &str, stored: &str) -> anyhow::Result<bool> {
        let broken = |e| anyhow::anyhow!("a stored hash is broken: {e}");
        let stored = PasswordHash::new(stored).map_err(broken)?;
        let (Some(salt), Some(expected)) = (stored.salt, &stored.hash) else {
            return Ok(false);
        };
        let algorithm = stored.algorithm.try_into().map_err(broken)?;
        let version = stored
            .version
            .map(Version::try_from)
            .transpose()
            .map_err(|e| broken(e.into()))?;
        let params = Params::try_from(&stored).map_err(broken)?;
        let argon2 = Argon2::new(algorithm, version.unwrap_or_default(), params);
        let computed = self.digest(&argon2, password, salt).map_err(broken)?;
        // Takes the same time wherever they differ: that is how `Output` compares.
        Ok(computed == *expected)
    }

    /// Returns the memory to the allocator.
    pub(super) fn free_memory(&mut self) {
        self.blocks = Vec::new();
    }

    fn digest(
        &mut self,
        argon2: &Argon2<'_>,
        password: &str,
        salt: Salt<'_>,
    ) -> argon2::password_hash::Result<Output> {
        let mut decoded = [0; DECODED_SALT_MAX_BYTES];
        let salt = salt.decode_b64(&mut decoded)?;
        let needed = argon2.params().block_count();
        if self.blocks.len() < needed {
            // Not grown: what is in there need not be kept, so the old and the new memory never exist side by side.
            self.free_memory();
            self.blocks = vec![Block::default(); needed];
        }
        let length = argon2
            .params()
            .output_len()
            .unwrap_or(Params::DEFAULT_OUTPUT_LEN);
        Output::init_with(length, |out| {
            Ok(argon2.hash_password_into_with_memory(
                password.as_bytes(),
                salt,
                out,
                &mut self.blocks,
            )?)
        })
    }
}

#[cfg(test)]
mod tests {
    use argon2::Algorithm;
    use argon2::password_hash::{PasswordHasher, PasswordVerifier};

    use super::*;

    fn argon2(memory_kib: u32) -> Argon2<'static> {
        Argon2::new(
            Algorithm::Argon2id,
            Version::V0x13,
            Params::new(memory_kib, 1, 1, None).expect("allowed"),
        )
    }

    #[test]
    fn it_and_the_crate_understand_each_other() {
        let argon2 = argon2(16);
        let mut worker = Argon2Worker::new(argon2.clone());
        let ours = worker.hash("correct horse").expect("hashed");
        let parsed = PasswordHash::new(&ours).expect("a PHC string");
        assert!(argon2.verify_password(b"correct horse", &parsed).is_ok());
        let salt = SaltString::encode_b64(&[7; SALT_BYTES]).expect("a salt");
        let theirs = argon2
            .hash_password(b"battery staple", &salt)
            .expect("hashed")
            .to_string();
        assert!(worker.verify("battery staple", &theirs).expect("readable"));
        assert!(!worker.verify("correct horse", &theirs).expect("readable"));
    }

    #[test]
    fn used_memory_changes_no_hash_and_an_older_cost_still_verifies() {
        let mut worker = Argon2Worker::new(argon2(16));
        let dearer = Argon2Worker::new(argon2(64))
            .hash("battery staple")
            .expect("hashed");
        let cheaper = worker.hash("correct horse").expect("hashed");
        for _ in 0..2 {
            assert!(worker.verify("battery staple", &dearer).expect("readable"));
            assert!(worker.verify("correct horse", &cheaper).expect("readable"));
        }
        worker.free_memory();
        assert!(worker.verify("correct horse", &cheaper).expect("readable"));
    }

    #[test]
    fn a_broken_hash_is_an_error_and_not_a_wrong_password() {
        let foreign =
            "$scrypt$ln=1$aaaaaaaaaaaaaaaaaaaaaa$aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa";
        assert!(
            Argon2Worker::new(argon2(8))
                .verify("correct horse", foreign)
                .is_err()
        );
        assert!(
            Argon2Worker::new(argon2(8))
                .verify("correct horse", "nonsense")
                .is_err()
        );
    }
}
