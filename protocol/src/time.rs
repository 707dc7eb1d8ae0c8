//! Times in the form that people and SQL views show.

use std::time::{Duration, UNIX_EPOCH};

/// Latest time that ISO 8601 writes with four digits of year (9999-12-31T23:59:59.999Z), in Unix ms.
const LATEST_UNIX_MS: u64 = 253_402_300_799_999;

/// Unix milliseconds as `2026-11-22T14:12:03.120Z`; later than the year 9999 is shown as its last instant.
pub fn iso8601(unix_ms: u64) -> String {
    let at = UNIX_EPOCH + Duration::from_millis(unix_ms.min(LATEST_UNIX_MS));
    humantime::format_rfc3339_millis(at).to_string()
}
