//! The service's counters. Names begin with `messagebase_`. Gauges are read at scrape time, in `http`.

use metrics::{counter, describe_counter};

const MESSAGES_SENT: &str = "messagebase_messages_sent_total";
const FAILED_LOGINS: &str = "messagebase_failed_logins_total";

/// Describes the counters to the exporter and makes them appear as 0.
pub fn describe() {
    describe_counter!(
        MESSAGES_SENT,
        "messages accepted from clients of this node, repetitions not counted"
    );
    describe_counter!(FAILED_LOGINS, "password checks that failed on this node");
    counter!(MESSAGES_SENT).absolute(0);
    counter!(FAILED_LOGINS).absolute(0);
}

pub(super) fn messages_sent(count: u64) {
    counter!(MESSAGES_SENT).increment(count);
}

pub(super) fn login_failed() {
    counter!(FAILED_LOGINS).increment(1);
}
