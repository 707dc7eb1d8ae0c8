//! Named limits of the line protocol. Sizes are bytes, times are milliseconds unless the name says otherwise.

use std::time::Duration;

/// The version that `hello` reports.
pub const PROTOCOL_VERSION: u32 = 1;
/// Longest line, including its `\n`. A longer one is answered `too_large` and skipped.
pub const LINE_MAX_BYTES: usize = 128 * 1024;
/// An unfinished line longer than this closes the connection.
pub const LINE_ABANDON_BYTES: usize = 1024 * 1024;
/// Longest message body in UTF-8 bytes.
pub const BODY_MAX_BYTES: usize = 16_384;
/// Longest user name.
pub const NAME_MAX_BYTES: usize = 32;
/// Shortest password.
pub const PASSWORD_MIN_BYTES: usize = 8;
/// Longest password; bounds the work of one hash.
pub const PASSWORD_MAX_BYTES: usize = 256;
/// Longest idempotency key (printable ASCII, at least one character).
pub const KEY_MAX_BYTES: usize = 64;
/// Longest token that is hashed and looked up; a real one is 43 characters.
pub const TOKEN_MAX_BYTES: usize = 128;
/// Longest glob of `users`.
pub const PATTERN_MAX_BYTES: usize = 64;
/// Greatest `limit` of a page.
pub const PAGE_MAX: u32 = 1_000;
/// `limit` when none is given.
pub const PAGE_DEFAULT: u32 = 100;
/// Request ids are below 2^53, so that every JSON implementation holds them exactly.
pub const REQUEST_ID_END: u64 = 1 << 53;
/// A write without a quorum is answered `no_quorum` after this long: the promised 3 s, less a margin for the answer to
/// arrive.
pub const WRITE_DEADLINE: Duration = Duration::from_millis(2_900);
/// `campaign` is answered within this time: the promised 2 s, less the same margin.
pub const CAMPAIGN_DEADLINE: Duration = Duration::from_millis(1_900);
/// A logged-in connection that is silent for this long is closed.
pub const SESSION_IDLE: Duration = Duration::from_secs(60);
/// A connection that has not logged in after this long is closed.
pub const LOGIN_WAIT: Duration = Duration::from_secs(30);
/// Clients ping when they sent nothing for this long.
pub const PING_AFTER: Duration = Duration::from_secs(20);
/// An unfinished line of the pipe dialect counts as complete after this long: its first clients sent no newline.
pub const PIPE_UNFINISHED: Duration = Duration::from_millis(150);
/// Unanswered requests of one connection; reading pauses beyond it.
pub const PIPELINE_MAX: usize = 1_024;
