//! How many voters decide.

/// The smallest number of `voters` that is more than half of them.
pub const fn majority(voters: usize) -> usize {
    voters / 2 + 1
}

#[cfg(test)]
mod tests {
    use super::majority;

    #[test]
    fn two_majorities_share_a_voter() {
        for voters in 1..10 {
            assert!(2 * majority(voters) > voters);
            assert!(2 * (majority(voters) - 1) <= voters);
        }
    }
}
