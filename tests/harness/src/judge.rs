//! Between the values that a test reads off a connection and the checker that judges them.

use messagebase_checker::{Message, Recorder, check, report};
use serde_json::Value;

/// The `messages` of a page or of several.
#[track_caller]
pub fn messages(values: &[Value]) -> Vec<Message> {
    let read = |value: &Value| serde_json::from_value(value.clone());
    values
        .iter()
        .map(|value| read(value).unwrap_or_else(|e| panic!("{value} is no message: {e}")))
        .collect()
}

/// Fails the test unless everything that was taken down, and this mailbox (all pages of `sync` from 0, read just now),
/// keeps every promise.
#[track_caller]
pub fn judge(recorder: &Recorder, user: &str, mailbox: &[Value]) {
    recorder.mailbox(user, recorder.moment(), messages(mailbox));
    let violations = check(&recorder.finish());
    assert!(violations.is_empty(), "{}", report(&violations));
}
