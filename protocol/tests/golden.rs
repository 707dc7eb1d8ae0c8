//! The exact spelling of every operation, reply, event and code on the wire. A change here is a change of the protocol:
//! it breaks clients that are not ours. Also holds `docs/PROTOCOL.md` to the names that the code has.

use std::path::Path;

use messagebase_protocol::code::{Code, Failure};
use messagebase_protocol::json::{
    Campaign, ClosingReason, Consistency, DirectoryEntry, Empty, Event, Hello, Inbox, LogPosition,
    LoggedIn, MemberInfo, Message, MessageRecord, Op, Ping, Records, Registered, ReplicaView,
    Request, Resumed, Sent, Status, Users, encode_event, encode_failure, encode_ok,
};
use messagebase_protocol::peer::AdminCode;
use messagebase_protocol::pipe;
use messagebase_protocol::role::NodeRole;

/// Every operation, fully given, and its line.
fn operations() -> Vec<(Op, &'static str)> {
    let s = str::to_owned;
    let local = Consistency::Local;
    vec![
        (Op::Hello {}, r#"{"id":7,"op":"hello"}"#),
        (
            Op::Register {
                user: s("anna"),
                password: s("pw-pw-pw"),
                key: s("k1"),
            },
            r#"{"id":7,"op":"register","user":"anna","password":"pw-pw-pw","key":"k1"}"#,
        ),
        (
            Op::Login {
                user: s("anna"),
                password: s("pw-pw-pw"),
            },
            r#"{"id":7,"op":"login","user":"anna","password":"pw-pw-pw"}"#,
        ),
        (
            Op::Resume {
                token: s("t0"),
                consistency: local,
            },
            r#"{"id":7,"op":"resume","token":"t0","consistency":"local"}"#,
        ),
        (Op::Logout {}, r#"{"id":7,"op":"logout"}"#),
        (
            Op::Password {
                old: s("old-old-"),
                new: s("new-new-"),
                key: s("k2"),
            },
            r#"{"id":7,"op":"password","old":"old-old-","new":"new-new-","key":"k2"}"#,
        ),
        (
            Op::Delete {
                password: s("pw-pw-pw"),
                key: s("k3"),
                user: Some(s("anna")),
            },
            r#"{"id":7,"op":"delete","password":"pw-pw-pw","key":"k3","user":"anna"}"#,
        ),
        (
            Op::Users {
                pattern: Some(s("a*")),
                after: Some(s("anna")),
                limit: Some(5),
                consistency: local,
            },
            r#"{"id":7,"op":"users","pattern":"a*","after":"anna","limit":5,"consistency":"local"}"#,
        ),
        (
            Op::Send {
                to: s("ben"),
                body: s("a \"b\"\n\\ ü"),
                key: s("k4"),
            },
            r#"{"id":7,"op":"send","to":"ben","body":"a \"b\"\n\\ ü","key":"k4"}"#,
        ),
        (
            Op::Inbox {
                after: Some(3),
                limit: Some(5),
                consistency: local,
            },
            r#"{"id":7,"op":"inbox","after":3,"limit":5,"consistency":"local"}"#,
        ),
        (
            Op::Sync {
                after: 3,
                limit: Some(5),
                consistency: local,
            },
            r#"{"id":7,"op":"sync","after":3,"limit":5,"consistency":"local"}"#,
        ),
        (Op::Ack { through: 3 }, r#"{"id":7,"op":"ack","through":3}"#),
        (
            Op::History {
                with: s("ben"),
                before: Some(9),
                limit: Some(5),
                consistency: local,
            },
            r#"{"id":7,"op":"history","with":"ben","before":9,"limit":5,"consistency":"local"}"#,
        ),
        (Op::Status {}, r#"{"id":7,"op":"status"}"#),
        (Op::Campaign {}, r#"{"id":7,"op":"campaign"}"#),
        (Op::Ping {}, r#"{"id":7,"op":"ping"}"#),
    ]
}

#[test]
fn operations_are_spelt_as_documented() {
    let operations = operations();
    let names: Vec<&str> = operations.iter().map(|(op, _)| op.name()).collect();
    assert_eq!(names, Op::NAMES, "an operation has no golden line");
    for (op, line) in operations {
        let request = Request { id: 7, op };
        assert_eq!(request.encode(), format!("{line}\n"));
        assert_eq!(Request::parse(line), Ok(request));
    }
}

#[test]
fn optional_fields_may_be_left_out_or_null() {
    let linear = Consistency::Linear;
    let cases = [
        (
            r#"{"op":"users","id":0}"#,
            Op::Users {
                pattern: None,
                after: None,
                limit: None,
                consistency: linear,
            },
        ),
        (
            r#"{"id":0,"op":"inbox","after":null}"#,
            Op::Inbox {
                after: None,
                limit: None,
                consistency: linear,
            },
        ),
        (
            r#"{"id":0,"op":"sync","after":0}"#,
            Op::Sync {
                after: 0,
                limit: None,
                consistency: linear,
            },
        ),
        (
            r#"{"id":0,"op":"resume","token":"t"}"#,
            Op::Resume {
                token: "t".into(),
                consistency: linear,
            },
        ),
        (
            r#"{"id":0,"op":"delete","password":"p","key":"k"}"#,
            Op::Delete {
                password: "p".into(),
                key: "k".into(),
                user: None,
            },
        ),
    ];
    for (line, op) in cases {
        assert_eq!(Request::parse(line), Ok(Request { id: 0, op }), "{line}");
    }
}

#[test]
fn what_is_missing_or_wrong_is_named() {
    let cases = [
        ("{", None, Code::BadRequest, "JSON"),
        ("[1]", None, Code::BadRequest, "JSON"),
        (r#"{"op":"ping"}"#, None, Code::BadRequest, "`id`"),
        (r#"{"id":4}"#, Some(4), Code::BadRequest, "`op`"),
        (r#"{"id":4,"op":7}"#, Some(4), Code::BadRequest, "`op`"),
        (
            r#"{"id":4,"op":"frobnicate"}"#,
            Some(4),
            Code::UnknownOp,
            "PROTOCOL.md",
        ),
        (
            r#"{"id":4,"op":"send","to":"b","body":"x"}"#,
            Some(4),
            Code::BadRequest,
            "`key`",
        ),
        (
            r#"{"id":4,"op":"inbox","consistency":"strong"}"#,
            Some(4),
            Code::BadRequest,
            "inbox",
        ),
    ];
    for (line, id, code, says) in cases {
        let refused = Request::parse(line).expect_err(line);
        assert_eq!((refused.id, refused.failure.code), (id, code), "{line}");
        assert!(
            refused.failure.message.contains(says),
            "{line}: {}",
            refused.failure.message
        );
    }
}

#[track_caller]
fn ok<T: serde::Serialize>(value: &T, expected: &str) {
    assert_eq!(
        encode_ok(7, value),
        format!("{{\"id\":7,\"ok\":{expected}}}\n")
    );
}

#[test]
fn account_replies_are_spelt_as_documented() {
    let s = str::to_owned;
    ok(&Empty {}, "{}");
    ok(
        &Hello {
            server: s("mbd 0.1.0"),
            protocol: 1,
            cluster: s("c"),
            cluster_id: None,
            node: 2,
        },
        r#"{"server":"mbd 0.1.0","protocol":1,"cluster":"c","cluster_id":null,"node":2}"#,
    );
    ok(&Registered { user: s("anna") }, r#"{"user":"anna"}"#);
    ok(
        &LoggedIn {
            user: s("anna"),
            token: s("t0"),
            queued: 3,
        },
        r#"{"user":"anna","token":"t0","queued":3}"#,
    );
    ok(
        &Resumed {
            user: s("anna"),
            queued: 3,
            linear: false,
        },
        r#"{"user":"anna","queued":3,"linear":false}"#,
    );
    ok(
        &Users {
            users: vec![DirectoryEntry {
                name: s("anna"),
                online: true,
            }],
            more: false,
        },
        r#"{"users":[{"name":"anna","online":true}],"more":false}"#,
    );
}

#[test]
fn message_replies_are_spelt_as_documented() {
    let s = str::to_owned;
    ok(
        &Sent {
            id: 9,
            sent_at: 1_000,
            duplicate: false,
            online: true,
        },
        r#"{"id":9,"sent_at":1000,"duplicate":false,"online":true}"#,
    );
    let message = Message {
        id: 9,
        from: s("anna"),
        to: s("ben"),
        body: s("hi"),
        sent_at: 1_000,
    };
    ok(
        &Inbox {
            messages: vec![message],
            more: true,
        },
        r#"{"messages":[{"id":9,"from":"anna","to":"ben","body":"hi","sent_at":1000}],"more":true}"#,
    );
    let record = MessageRecord {
        id: 9,
        from: s("anna"),
        to: s("ben"),
        body: s("hi"),
        sent_at: 1_000,
        delivered_at: None,
    };
    ok(
        &Records {
            messages: vec![record],
            more: false,
        },
        r#"{"messages":[{"id":9,"from":"anna","to":"ben","body":"hi","sent_at":1000,"delivered_at":null}],"more":false}"#,
    );
}

#[test]
fn cluster_replies_are_spelt_as_documented() {
    let s = str::to_owned;
    ok(&Campaign { leader: 3 }, r#"{"leader":3}"#);
    ok(
        &Ping {
            ready: true,
            applied: Some(4),
        },
        r#"{"ready":true,"applied":4}"#,
    );
    let status = Status {
        node: 1,
        cluster: s("c"),
        cluster_id: Some(s("abc")),
        version: s("0.1.0"),
        replica: ReplicaView {
            role: NodeRole::Follower,
            term: 2,
            leader: Some(3),
            last_log: Some(LogPosition {
                term: 2,
                leader: 3,
                index: 40,
            }),
            committed: Some(40),
            applied: None,
            members: vec![MemberInfo {
                node: 1,
                client: s("127.0.0.1:7101"),
                voter: true,
            }],
            ready: true,
        },
        uptime_ms: 5,
    };
    ok(
        &status,
        concat!(
            r#"{"node":1,"cluster":"c","cluster_id":"abc","version":"0.1.0","role":"follower","term":2,"leader":3,"#,
            r#""last_log":{"term":2,"leader":3,"index":40},"committed":40,"applied":null,"#,
            r#""members":[{"node":1,"client":"127.0.0.1:7101","voter":true}],"ready":true,"uptime_ms":5}"#,
        ),
    );
}

#[test]
fn positions_are_ordered_by_term_then_leader_then_index() {
    let at = |term, leader, index| LogPosition {
        term,
        leader,
        index,
    };
    assert!(at(2, 1, 1) > at(1, 9, 9) && at(1, 2, 1) > at(1, 1, 9) && at(1, 1, 2) > at(1, 1, 1));
}

#[test]
fn refusals_are_spelt_as_documented() {
    let plain = Failure::not_done(Code::NoSuchUser, "nobody is called x");
    assert_eq!(
        encode_failure(Some(7), &plain),
        "{\"id\":7,\"error\":{\"code\":\"no_such_user\",\"message\":\"nobody is called x\",\"outcome\":\"not_done\"}}\n"
    );
    let later =
        Failure::unknown(Code::NoQuorum, "m").retry_after(std::time::Duration::from_millis(250));
    assert_eq!(
        encode_failure(None, &later),
        "{\"id\":null,\"error\":{\"code\":\"no_quorum\",\"message\":\"m\",\"outcome\":\"unknown\",\"retry_after_ms\":250}}\n"
    );
    assert_eq!(
        pipe::encode_failure(&plain),
        "ERR no_such_user nobody is called x\n"
    );
}

#[test]
fn every_code_is_spelt_the_same_in_json_and_in_text() {
    for code in Code::ALL {
        assert_eq!(
            serde_json::to_string(&code).expect("a code"),
            format!("\"{code}\"")
        );
    }
}

const CLOSING: [(ClosingReason, &str); 7] = [
    (ClosingReason::Idle, "idle"),
    (ClosingReason::Slow, "slow"),
    (ClosingReason::Resync, "resync"),
    (ClosingReason::Shutdown, "shutdown"),
    (ClosingReason::Logout, "logout"),
    (ClosingReason::Locked, "locked"),
    (ClosingReason::Deleted, "deleted"),
];

#[test]
fn events_are_spelt_as_documented() {
    let s = str::to_owned;
    let message = Message {
        id: 9,
        from: s("anna"),
        to: s("ben"),
        body: s("hi"),
        sent_at: 1_000,
    };
    assert_eq!(
        encode_event(&Event::Message { message }),
        "{\"event\":\"message\",\"message\":{\"id\":9,\"from\":\"anna\",\"to\":\"ben\",\"body\":\"hi\",\"sent_at\":1000}}\n"
    );
    assert_eq!(
        encode_event(&Event::Delivered {
            through: 9,
            by: s("ben")
        }),
        "{\"event\":\"delivered\",\"through\":9,\"by\":\"ben\"}\n"
    );
    for (reason, spelt) in CLOSING {
        assert_eq!(
            encode_event(&Event::Closing { reason }),
            format!("{{\"event\":\"closing\",\"reason\":\"{spelt}\"}}\n")
        );
        assert_eq!(reason.as_str(), spelt);
    }
}

#[test]
fn a_pipe_message_is_spelt_as_documented() {
    let message = Message {
        id: 1,
        from: "anna".into(),
        to: "ben".into(),
        body: "a|b\\c\nd\re".into(),
        sent_at: 1_795_356_723_120,
    };
    assert_eq!(
        pipe::encode_message(&message),
        "MSG anna 2026-11-22T14:12:03.120Z a|b\\\\c\\nd\\re\n"
    );
    assert_eq!(pipe::encode_user("anna", true), "anna online\n");
    assert_eq!(pipe::encode_user("ben", false), "ben offline\n");
}

#[test]
fn a_search_without_wildcards_is_a_prefix() {
    assert_eq!(pipe::search_glob("an"), "an*");
    assert_eq!(pipe::search_glob("a?n"), "a?n");
    assert_eq!(pipe::search_glob("*na"), "*na");
}

/// The document is written for outsiders; a name that is missing there does not exist for them.
#[test]
fn the_protocol_document_names_every_operation_code_event_and_reason() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/PROTOCOL.md");
    let Ok(text) = std::fs::read_to_string(&path) else {
        return;
    };
    let names = Op::NAMES
        .iter()
        .copied()
        .chain(Code::ALL.iter().map(|code| code.as_str()));
    let names = names
        .chain(["message", "delivered", "closing"])
        .chain(CLOSING.iter().map(|(_, spelt)| *spelt));
    let spelt =
        |name: &str| text.contains(&format!("`{name}`")) || text.contains(&format!("\"{name}\""));
    let missing: Vec<&str> = names.filter(|name| !spelt(name)).collect();
    assert!(
        missing.is_empty(),
        "docs/PROTOCOL.md does not name {missing:?}"
    );
}

/// As they were while they were strings: an enum of postcard would be a number.
#[test]
fn roles_and_the_codes_of_operators_are_words_in_json_and_in_postcard() {
    let roles = "leader follower candidate learner waiting down";
    let codes = "not_leader no_quorum waiting behind passed already_a_member not_a_member other_cluster not_blank \
                 unreachable no_such_user name_taken name_in_use bad_name bad_password busy sql backup_running \
                 no_such_backup backup_failed refused internal";
    assert_eq!(NodeRole::ALL.map(NodeRole::as_str).join(" "), roles);
    assert_eq!(AdminCode::ALL.map(AdminCode::as_str).join(" "), codes);
    for role in NodeRole::ALL {
        let json = serde_json::to_string(&role).expect("a word");
        assert_eq!(json, format!("\"{role}\""));
        assert_eq!(
            serde_json::from_str::<NodeRole>(&json).expect("known"),
            role
        );
    }
    for code in AdminCode::ALL {
        let bytes = postcard::to_stdvec(&code).expect("a word");
        assert_eq!(bytes, postcard::to_stdvec(code.as_str()).expect("text"));
        assert_eq!(
            postcard::from_bytes::<AdminCode>(&bytes).expect("known"),
            code
        );
    }
    assert!(serde_json::from_str::<NodeRole>("\"master\"").is_err());
}
