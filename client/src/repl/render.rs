//! How things look on a terminal. What others wrote is never trusted: a message can't move the cursor, change a colour
//! or forge a line of this program.

use messagebase_protocol::code::Code;
use messagebase_protocol::json::{DirectoryEntry, Message, MessageRecord, Sent};
use messagebase_protocol::time::iso8601;

use crate::error::ClientError;

/// Continuation lines of a message stand this far in, so that none of them looks like a line of its own.
const INDENT: &str = "    ";

/// A message as it arrived.
pub fn message(message: &Message) -> String {
    format!(
        "[{}] {}: {}",
        clock(message.sent_at),
        message.from,
        body(&message.body)
    )
}

/// A message this user sent in another session.
pub fn sent_elsewhere(message: &Message) -> String {
    format!(
        "[{}] you, elsewhere, to {}: {}",
        clock(message.sent_at),
        message.to,
        body(&message.body)
    )
}

/// One line of a conversation.
pub fn record(record: &MessageRecord) -> String {
    let state = if record.delivered_at.is_none() {
        " (queued)"
    } else {
        ""
    };
    let at = iso8601(record.sent_at);
    format!(
        "[{} {}] {}{state}: {}",
        &at[..10],
        clock(record.sent_at),
        record.from,
        body(&record.body)
    )
}

/// The answer to a message that was sent.
pub fn sent(sent: &Sent, to: &str) -> String {
    if sent.online {
        format!("OK sent {}", sent.id)
    } else {
        format!("OK queued {} ({to} is away)", sent.id)
    }
}

/// One line of the user list.
pub fn user(entry: &DirectoryEntry) -> String {
    format!(
        "{} {}",
        entry.name,
        if entry.online { "online" } else { "offline" }
    )
}

/// What to do after an error, in the commands of the prompt.
pub fn hint(error: &ClientError) -> Option<String> {
    let code = match error {
        ClientError::NotLoggedIn => Code::NotLoggedIn,
        ClientError::Refused(failure) => failure.code,
        _ => return error.hint(),
    };
    match code {
        Code::NotLoggedIn => Some("/login NAME, or /register NAME for a new account".into()),
        Code::BadCredentials => {
            Some("check name and password; /register NAME makes a new account".into())
        }
        Code::NoSuchUser => Some("/users lists the users".into()),
        _ => error.hint(),
    }
}

/// Hours, minutes and seconds, UTC.
fn clock(unix_ms: u64) -> String {
    iso8601(unix_ms).get(11..19).unwrap_or_default().to_owned()
}

/// A text from outside: line feeds indent, a tab is a blank, every other control character is shown, not executed.
pub fn body(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '\n' => {
                out.push('\n');
                out.push_str(INDENT);
            }
            '\t' => out.push(' '),
            // Bidirectional overrides reorder what stands around them.
            c if c.is_control()
                || matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}') =>
            {
                out.extend(c.escape_unicode());
            }
            c => out.push(c),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_cannot_command_the_terminal_or_forge_a_line() {
        let evil = Message {
            id: 1,
            from: "bob".into(),
            to: "alice".into(),
            body: "hi\n[00:00:00] carol: lie\r\u{1b}[2J".into(),
            sent_at: 1_000,
        };
        assert_eq!(
            message(&evil),
            "[00:00:01] bob: hi\n    [00:00:00] carol: lie\\u{d}\\u{1b}[2J"
        );
    }

    #[test]
    fn a_queued_message_says_so() {
        let sent_now = Sent {
            id: 7,
            sent_at: 0,
            duplicate: false,
            online: false,
        };
        assert_eq!(sent(&sent_now, "bob"), "OK queued 7 (bob is away)");
        assert_eq!(
            sent(
                &Sent {
                    online: true,
                    ..sent_now
                },
                "bob"
            ),
            "OK sent 7"
        );
    }
}
