//! The role of a node, as `status`, the metrics and `mbctl status` spell it.

crate::string_enum::string_enum! {
    /// What a node is in its cluster. As in Raft, except for the last two.
    #[derive(Default)]
    pub enum NodeRole {
        /// Orders the changes.
        Leader = "leader",
        /// A voter that follows a leader, or looks for one.
        Follower = "follower",
        /// A voter that asks for votes.
        Candidate = "candidate",
        /// A member that gets the log and does not vote.
        Learner = "learner",
        /// It belongs to no cluster (yet).
        #[default]
        Waiting = "waiting",
        /// It does not answer. No node says this of itself.
        Down = "down",
    }
}
