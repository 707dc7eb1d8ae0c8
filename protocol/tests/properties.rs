//! Properties of lines, both dialects and the peer protocol: no input panics, and what one end writes the other parses to
//! the same value. Exact spellings are in `golden.rs`.

#[path = "properties/peer.rs"]
mod peer;

use messagebase_protocol::code::{Certainty, Code, Failure};
use messagebase_protocol::json::{
    ClosingReason, Consistency, DirectoryEntry, Event, Inbox, Incoming, Message, MessageRecord, Op,
    Records, Request, Sent, Users, encode_event, encode_failure, encode_ok, parse_incoming,
};
use messagebase_protocol::limits::{LINE_ABANDON_BYTES, LINE_MAX_BYTES, REQUEST_ID_END};
use messagebase_protocol::line::{Line, LineBuffer};
use messagebase_protocol::pipe;
use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;

// ---- lines ----

/// Feeds `bytes` in pieces of the given sizes (cycled) and collects everything up to an `Abandon`.
fn cut(bytes: &[u8], sizes: &[usize]) -> (Vec<Line>, Vec<u8>) {
    let mut buffer = LineBuffer::new();
    let mut lines = Vec::new();
    let mut rest = bytes;
    let mut sizes = sizes.iter().copied().cycle();
    while !rest.is_empty() {
        let take = sizes.next().unwrap_or(rest.len()).clamp(1, rest.len());
        buffer.extend(&rest[..take]);
        rest = &rest[take..];
        while let Some(line) = buffer.next() {
            let over = line == Line::Abandon;
            lines.push(line);
            if over {
                return (lines, Vec::new());
            }
        }
    }
    (lines, buffer.unfinished().to_vec())
}

/// Bytes in which newlines and carriage returns are as frequent as in real traffic.
fn traffic() -> impl Strategy<Value = Vec<u8>> {
    vec(
        prop_oneof![3 => any::<u8>(), 1 => Just(b'\n'), 1 => Just(b'\r')],
        0..600,
    )
}

proptest! {
    #[test]
    fn lines_do_not_depend_on_how_the_stream_was_chunked(bytes in traffic(), sizes in vec(1_usize..40, 1..20)) {
        prop_assert_eq!(cut(&bytes, &sizes), cut(&bytes, &[usize::MAX]));
    }

    #[test]
    fn lines_and_the_unfinished_rest_are_the_stream(bytes in traffic(), sizes in vec(1_usize..40, 1..20)) {
        let (lines, rest) = cut(&bytes, &sizes);
        let text = bytes.split(|b| *b == b'\n').collect::<Vec<_>>();
        prop_assert_eq!(lines.len() + 1, text.len());
        for (line, expected) in lines.iter().zip(&text) {
            let expected = expected.strip_suffix(b"\r").unwrap_or(expected);
            prop_assert_eq!(line, &Line::Whole(expected.to_vec()));
        }
        prop_assert_eq!(Some(&rest[..]), text.last().copied());
    }

    #[test]
    fn an_overlong_line_costs_one_verdict_and_the_next_line_is_whole(
        over in 0_usize..3_000,
        size in 1_000_usize..200_000,
    ) {
        let mut bytes = vec![b'x'; LINE_MAX_BYTES + over];
        bytes.extend_from_slice(b"\nnext\r\n");
        let (lines, rest) = cut(&bytes, &[size]);
        prop_assert_eq!(lines, [Line::TooLong, Line::Whole(b"next".to_vec())]);
        prop_assert!(rest.is_empty());
    }

    #[test]
    fn a_line_that_is_never_finished_is_given_up_in_bounded_memory(size in 500_usize..100_000) {
        let chunk = vec![b'x'; size];
        let mut buffer = LineBuffer::new();
        let mut fed = 0;
        let mut verdicts = Vec::new();
        while verdicts.last() != Some(&Line::Abandon) {
            prop_assert!(fed <= LINE_ABANDON_BYTES + size, "not given up after {} bytes", fed);
            buffer.extend(&chunk);
            fed += size;
            verdicts.extend(buffer.next());
            prop_assert!(buffer.unfinished().len() < LINE_MAX_BYTES + size);
        }
        prop_assert_eq!(verdicts, [Line::TooLong, Line::Abandon]);
    }
}

#[test]
fn the_longest_line_is_whole_and_one_byte_more_is_not() {
    let mut longest = vec![b'x'; LINE_MAX_BYTES - 1];
    longest.push(b'\n');
    assert_eq!(
        cut(&longest, &[4096]).0,
        [Line::Whole(vec![b'x'; LINE_MAX_BYTES - 1])]
    );
    longest.insert(0, b'x');
    assert_eq!(cut(&longest, &[4096]).0, [Line::TooLong]);
    assert_eq!(cut(&longest, &[usize::MAX]).0, [Line::TooLong]);
}

// ---- JSON requests ----

fn consistency() -> impl Strategy<Value = Consistency> {
    prop_oneof![Just(Consistency::Linear), Just(Consistency::Local)]
}

fn op() -> impl Strategy<Value = Op> {
    let text = any::<String>;
    prop_oneof![
        Just(Op::Hello {}),
        Just(Op::Logout {}),
        Just(Op::Status {}),
        Just(Op::Campaign {}),
        Just(Op::Ping {}),
        (text(), text(), text()).prop_map(|(user, password, key)| Op::Register {
            user,
            password,
            key
        }),
        (text(), text()).prop_map(|(user, password)| Op::Login { user, password }),
        (text(), consistency()).prop_map(|(token, consistency)| Op::Resume { token, consistency }),
        (text(), text(), text()).prop_map(|(old, new, key)| Op::Password { old, new, key }),
        (text(), text(), option::of(text())).prop_map(|(password, key, user)| Op::Delete {
            password,
            key,
            user
        }),
        (
            option::of(text()),
            option::of(text()),
            option::of(any::<u32>()),
            consistency()
        )
            .prop_map(|(pattern, after, limit, consistency)| Op::Users {
                pattern,
                after,
                limit,
                consistency
            }),
        (text(), text(), text()).prop_map(|(to, body, key)| Op::Send { to, body, key }),
        (
            option::of(any::<u64>()),
            option::of(any::<u32>()),
            consistency()
        )
            .prop_map(|(after, limit, consistency)| Op::Inbox {
                after,
                limit,
                consistency
            }),
        (any::<u64>(), option::of(any::<u32>()), consistency()).prop_map(
            |(after, limit, consistency)| Op::Sync {
                after,
                limit,
                consistency
            }
        ),
        any::<u64>().prop_map(|through| Op::Ack { through }),
        (
            text(),
            option::of(any::<u64>()),
            option::of(any::<u32>()),
            consistency()
        )
            .prop_map(|(with, before, limit, consistency)| Op::History {
                with,
                before,
                limit,
                consistency
            }),
    ]
}

proptest! {
    #[test]
    fn a_request_is_one_line_and_reads_back(id in 0..REQUEST_ID_END, op in op()) {
        let request = Request { id, op };
        let line = request.encode();
        prop_assert_eq!(line.matches('\n').count(), 1);
        prop_assert_eq!(Request::parse(line.trim_end_matches('\n')), Ok(request));
    }

    #[test]
    fn no_text_panics_the_request_parser(text in any::<String>()) {
        let _ = Request::parse(&text);
    }

    #[test]
    fn a_damaged_request_is_refused_or_read_but_never_panics(
        id in 0..REQUEST_ID_END, op in op(), at in any::<prop::sample::Index>(), with in any::<char>(),
    ) {
        let line = Request { id, op }.encode();
        let at = at.index(line.chars().count());
        let damaged: String = line.chars().enumerate().map(|(i, c)| if i == at { with } else { c }).collect();
        let _ = Request::parse(&damaged);
    }

    #[test]
    fn unknown_fields_are_ignored(id in 0..REQUEST_ID_END, op in op(), extra in any::<String>()) {
        let request = Request { id, op };
        let line = request.encode();
        let extra = serde_json::to_string(&extra).expect("a string");
        let line = line.replacen('{', &format!("{{\"x-unknown\":{extra},"), 1);
        prop_assert_eq!(Request::parse(&line), Ok(request));
    }

    #[test]
    fn a_refusal_names_the_id_whenever_it_was_readable(id in 0..REQUEST_ID_END, name in "[a-z_]{1,12}") {
        prop_assume!(!Op::NAMES.contains(&name.as_str()));
        let refused = Request::parse(&format!("{{\"op\":\"{name}\",\"id\":{id}}}")).expect_err("no such operation");
        prop_assert_eq!((refused.id, refused.failure.code), (Some(id), Code::UnknownOp));
    }

    #[test]
    fn a_refused_value_is_not_echoed(secret in "[a-z]{12}") {
        let line = format!("{{\"id\":1,\"op\":\"ack\",\"through\":\"{secret}\"}}");
        let refused = Request::parse(&line).expect_err("`through` is no string");
        prop_assert!(!refused.failure.message.contains(&secret), "{}", refused.failure.message);
    }
}

#[test]
fn ids_that_not_every_json_implementation_holds_are_refused() {
    for id in [
        "-1",
        "9007199254740992",
        "1.5",
        "\"7\"",
        "null",
        "1e3",
        "18446744073709551616",
    ] {
        let refused = Request::parse(&format!("{{\"id\":{id},\"op\":\"ping\"}}")).expect_err(id);
        assert_eq!(
            (refused.id, refused.failure.code),
            (None, Code::BadRequest),
            "{id}"
        );
        assert_eq!(refused.failure.certainty, Certainty::NotDone);
    }
    assert!(Request::parse("{\"id\":9007199254740991,\"op\":\"ping\"}").is_ok());
}

// ---- JSON replies and events ----

fn message() -> impl Strategy<Value = Message> {
    (
        any::<u64>(),
        any::<String>(),
        any::<String>(),
        any::<String>(),
        any::<u64>(),
    )
        .prop_map(|(id, from, to, body, sent_at)| Message {
            id,
            from,
            to,
            body,
            sent_at,
        })
}

fn record() -> impl Strategy<Value = MessageRecord> {
    (message(), option::of(any::<u64>())).prop_map(|(m, delivered_at)| MessageRecord {
        id: m.id,
        from: m.from,
        to: m.to,
        body: m.body,
        sent_at: m.sent_at,
        delivered_at,
    })
}

fn reason() -> impl Strategy<Value = ClosingReason> {
    use ClosingReason::{Deleted, Idle, Locked, Logout, Resync, Shutdown, Slow};
    prop::sample::select(vec![Idle, Slow, Resync, Shutdown, Logout, Locked, Deleted])
}

fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        message().prop_map(|message| Event::Message { message }),
        (any::<u64>(), any::<String>()).prop_map(|(through, by)| Event::Delivered { through, by }),
        reason().prop_map(|reason| Event::Closing { reason }),
    ]
}

fn failure() -> impl Strategy<Value = Failure> {
    (
        prop::sample::select(Code::ALL.to_vec()),
        any::<String>(),
        any::<bool>(),
        option::of(any::<u64>()),
    )
        .prop_map(|(code, message, known, retry_after_ms)| Failure {
            code,
            message,
            certainty: if known {
                Certainty::NotDone
            } else {
                Certainty::Unknown
            },
            retry_after_ms,
        })
}

/// The reply in `line`, or `None` if it is an event or unreadable.
fn reply_of(line: &str) -> Option<messagebase_protocol::json::ReplyLine> {
    match parse_incoming(line.strip_suffix('\n')?) {
        Ok(Incoming::Reply(reply)) => Some(reply),
        _ => None,
    }
}

/// Encodes a success, reads it back and compares.
fn comes_back<T>(id: u64, ok: &T) -> Result<(), TestCaseError>
where
    T: serde::Serialize + serde::de::DeserializeOwned + PartialEq + std::fmt::Debug,
{
    let line = encode_ok(id, ok);
    prop_assert_eq!(line.matches('\n').count(), 1);
    let reply = reply_of(&line);
    let reply = reply.as_ref();
    prop_assert_eq!(reply.and_then(|r| r.id), Some(id));
    prop_assert!(reply.is_some_and(|r| r.error.is_none()));
    let raw = reply
        .and_then(|r| r.ok.as_ref())
        .map(|raw| raw.get().to_owned())
        .unwrap_or_default();
    prop_assert_eq!(
        &serde_json::from_str::<T>(&raw).map_err(|e| TestCaseError::fail(e.to_string()))?,
        ok
    );
    Ok(())
}

proptest! {
    #[test]
    fn successes_read_back(
        id in any::<u64>(), messages in vec(message(), 0..4), records in vec(record(), 0..4),
        users in vec((any::<String>(), any::<bool>()), 0..4), more in any::<bool>(), sent_at in any::<u64>(),
    ) {
        let users = users.into_iter().map(|(name, online)| DirectoryEntry { name, online }).collect();
        comes_back(id, &Inbox { messages, more })?;
        comes_back(id, &Records { messages: records, more })?;
        comes_back(id, &Users { users, more })?;
        comes_back(id, &Sent { id, sent_at, duplicate: more, online: !more })?;
    }

    #[test]
    fn refusals_read_back(id in option::of(any::<u64>()), failure in failure()) {
        let line = encode_failure(id, &failure);
        prop_assert_eq!(line.matches('\n').count(), 1);
        let reply = reply_of(&line);
        prop_assert_eq!(reply.as_ref().and_then(|r| r.id), id);
        prop_assert!(reply.as_ref().is_some_and(|r| r.ok.is_none()));
        prop_assert_eq!(reply.and_then(|r| r.error), Some(failure));
    }

    #[test]
    fn events_read_back(event in event()) {
        let line = encode_event(&event);
        prop_assert_eq!(line.matches('\n').count(), 1);
        let read = match parse_incoming(line.trim_end_matches('\n')) {
            Ok(Incoming::Event(read)) => Some(read),
            _ => None,
        };
        prop_assert_eq!(read, Some(event));
    }

    #[test]
    fn no_line_panics_a_client(line in any::<String>()) {
        let _ = parse_incoming(&line);
    }
}

// ---- the pipe dialect ----

proptest! {
    #[test]
    fn no_line_panics_the_pipe_parser(line in any::<String>()) {
        let _ = pipe::parse(&line);
        let _ = pipe::is_pipe_shaped(&line);
        let _ = pipe::search_glob(&line);
    }

    #[test]
    fn the_last_field_of_a_pipe_command_is_the_rest_of_the_line(
        first in "[^|\r\n]{0,12}", rest in "[^\r\n]{0,40}",
    ) {
        let send = pipe::Command::Send { to: first.clone(), body: rest.clone() };
        prop_assert_eq!(pipe::parse(&format!("d|{first}|{rest}")), Some(send));
        let login = pipe::Command::Login { user: first.clone(), password: rest.clone() };
        prop_assert_eq!(pipe::parse(&format!("2|{first}|{rest}")), Some(login));
        let register = pipe::Command::Register { user: first.clone(), password: rest.clone() };
        prop_assert_eq!(pipe::parse(&format!("1|{first}|{rest}")), Some(register));
    }

    #[test]
    fn what_is_parsed_was_pipe_shaped(line in "[1-5dh|a-z ]{0,12}") {
        if pipe::parse(&line).is_some() {
            prop_assert!(pipe::is_pipe_shaped(&line), "{:?} is a command but would not pick the dialect", line);
        }
    }

    #[test]
    fn an_escaped_body_is_one_line_and_comes_back(body in any::<String>()) {
        let escaped = pipe::escape(&body);
        prop_assert!(!escaped.contains(['\n', '\r']));
        prop_assert_eq!(pipe::unescape(&escaped), body);
    }

    #[test]
    fn a_message_with_line_breaks_is_one_pipe_line(message in message()) {
        let message = Message { from: "someone".into(), ..message };
        let line = pipe::encode_message(&message);
        prop_assert_eq!(line.matches(['\n', '\r']).count(), 1);
        prop_assert!(line.starts_with("MSG someone ") && line.ends_with('\n'));
        let body = line.trim_end_matches('\n').splitn(4, ' ').nth(3).map(pipe::unescape);
        prop_assert_eq!(body, Some(message.body));
    }

    #[test]
    fn a_refusal_is_one_pipe_line(failure in failure()) {
        let line = pipe::encode_failure(&failure);
        prop_assert_eq!(line.matches(['\n', '\r']).count(), 1);
        let begin = format!("ERR {} ", failure.code);
        prop_assert!(line.starts_with(&begin));
    }

    #[test]
    fn unescape_never_panics(text in "[\\\\nrx]{0,20}") {
        let _ = pipe::unescape(&text);
    }
}
