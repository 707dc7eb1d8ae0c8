//! Golden bytes of the log format. A line here that has to change means that files and peers of released versions
//! could not be read any more: add a kind, never edit one.

use super::*;

fn settings() -> Settings {
    Settings {
        registration_open: false,
        session_days: 1,
        sessions_per_user: 2,
        queued_messages_per_user: 3,
        queued_bytes_per_user: 300,
        delivered_days: 5,
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

/// Every change with its JSON and its postcard bytes.
fn changes() -> Vec<(Change, &'static str, &'static str)> {
    let mut all = account_changes();
    all.extend(later_changes());
    all
}

/// The changes of accounts and sessions, each with its JSON and its postcard bytes.
fn account_changes() -> Vec<(Change, &'static str, &'static str)> {
    let name = || "Ann".to_owned();
    let key = || "k".to_owned();
    vec![
        (
            Change::Register {
                name: name(),
                key: key(),
                by_operator: true,
            },
            r#"{"register":{"name":"Ann","key":"k","by_operator":true}}"#,
            "0003416e6e016b01",
        ),
        (
            Change::Login {
                user: 300,
                credential_version: 2,
            },
            r#"{"login":{"user":300,"credential_version":2}}"#,
            "01ac0202",
        ),
        (Change::Logout {}, r#"{"logout":{}}"#, "02"),
        (
            Change::Password {
                user: 1,
                credential_version: 2,
                key: key(),
            },
            r#"{"password":{"user":1,"credential_version":2,"key":"k"}}"#,
            "030102016b",
        ),
        (
            Change::Delete {
                user: 1,
                credential_version: Some(2),
                key: key(),
            },
            r#"{"delete":{"user":1,"credential_version":2,"key":"k"}}"#,
            "04010102016b",
        ),
        (
            Change::Delete {
                user: 1,
                credential_version: None,
                key: key(),
            },
            r#"{"delete":{"user":1,"credential_version":null,"key":"k"}}"#,
            "040100016b",
        ),
    ]
}

/// As [`account_changes`]: messages, and what the leader and operators decide.
fn later_changes() -> Vec<(Change, &'static str, &'static str)> {
    let name = || "Ann".to_owned();
    let key = || "k".to_owned();
    vec![
        (
            Change::Send {
                user: 1,
                to: "Bob".into(),
                body: "hi".into(),
                key: key(),
            },
            r#"{"send":{"user":1,"to":"Bob","body":"hi","key":"k"}}"#,
            "050103426f62026869016b",
        ),
        (
            Change::Ack {
                user: 1,
                through: 128,
            },
            r#"{"ack":{"user":1,"through":128}}"#,
            "06018001",
        ),
        (Change::ExpireSessions {}, r#"{"expire_sessions":{}}"#, "07"),
        (
            Change::ForgetDelivered { at_most: 9 },
            r#"{"forget_delivered":{"at_most":9}}"#,
            "0809",
        ),
        (
            Change::Settings(settings()),
            r#"{"settings":{"registration_open":false,"session_days":1,"sessions_per_user":2,"queued_messages_per_user":3,"queued_bytes_per_user":300,"delivered_days":5}}"#,
            "0900010203ac0205",
        ),
        (
            Change::Lock { name: name() },
            r#"{"lock":{"name":"Ann"}}"#,
            "0a03416e6e",
        ),
        (
            Change::Unlock { name: name() },
            r#"{"unlock":{"name":"Ann"}}"#,
            "0b03416e6e",
        ),
        (
            Change::ResetPassword { name: name() },
            r#"{"reset_password":{"name":"Ann"}}"#,
            "0c03416e6e",
        ),
        (
            Change::Remove { name: name() },
            r#"{"remove":{"name":"Ann"}}"#,
            "0d03416e6e",
        ),
        (
            Change::FreeName { name: name() },
            r#"{"free_name":{"name":"Ann"}}"#,
            "0e03416e6e",
        ),
    ]
}

#[test]
fn changes_keep_their_bytes() {
    for (change, json, bytes) in changes() {
        assert_eq!(serde_json::to_string(&change).unwrap(), json);
        assert_eq!(serde_json::from_str::<Change>(json).unwrap(), change);
        let encoded = postcard::to_stdvec(&change).unwrap();
        assert_eq!(hex(&encoded), bytes, "{change:?}");
        assert_eq!(postcard::from_bytes::<Change>(&encoded).unwrap(), change);
    }
}

#[test]
fn envelopes_keep_their_bytes() {
    let envelope = Envelope {
        v: 1,
        at: 1_700_000_000_000,
        actor: Some(7),
        body: Change::Logout {},
        secrets: Some(Secrets {
            password_hash: Some("$a".into()),
            token_hash: Some([1; 32]),
        }),
    };
    let bytes = postcard::to_stdvec(&envelope).unwrap();
    assert_eq!(
        hex(&bytes),
        format!("018 0d095ffbc31 0107 02 01 01022461 01{}", "01".repeat(32)).replace(' ', "")
    );
    assert_eq!(postcard::from_bytes::<Envelope>(&bytes).unwrap(), envelope);

    let stored = r#"{"v":1,"at":1700000000000,"actor":null,"body":{"logout":{}}}"#;
    let read: Envelope = serde_json::from_str(stored).unwrap();
    assert_eq!(
        read,
        Envelope {
            actor: None,
            secrets: None,
            ..envelope
        }
    );
}

#[test]
fn outcomes_keep_their_bytes() {
    let name = || "Ann".to_owned();
    let refused = Outcome::Refused;
    let outcomes = [
        (
            Outcome::Registered {
                user: 1,
                name: name(),
            },
            "000103416e6e",
        ),
        (
            Outcome::LoggedIn {
                session: 2,
                user: 1,
                name: name(),
                expires_at: 300,
            },
            "01020103416e6eac02",
        ),
        (
            Outcome::Sent {
                id: 5,
                sent_at: 300,
                duplicate: true,
                recipient: Some(3),
            },
            "0205ac02010103",
        ),
        (
            Outcome::Sent {
                id: 5,
                sent_at: 300,
                duplicate: false,
                recipient: None,
            },
            "0205ac020000",
        ),
        (Outcome::Done, "03"),
        (refused(Refusal::NotLoggedIn), "0400"),
        (refused(Refusal::BadCredentials), "0401"),
        (refused(Refusal::Locked), "0402"),
        (refused(Refusal::NameTaken), "0403"),
        (refused(Refusal::NoSuchUser), "0404"),
        (refused(Refusal::KeyReused), "0405"),
        (refused(Refusal::NoSuchMessage), "0406"),
        (refused(Refusal::QueueFull), "0407"),
        (refused(Refusal::NotPermitted), "0408"),
        (refused(Refusal::NameInUse), "0409"),
        (Outcome::Rejected, "05"),
    ];
    for (outcome, bytes) in outcomes {
        let encoded = postcard::to_stdvec(&outcome).unwrap();
        assert_eq!(hex(&encoded), bytes, "{outcome:?}");
        assert_eq!(postcard::from_bytes::<Outcome>(&encoded).unwrap(), outcome);
    }
}

#[test]
fn secrets_are_not_printed() {
    let secrets = Secrets {
        password_hash: Some("$argon2id$x".into()),
        token_hash: None,
    };
    assert!(!format!("{secrets:?}").contains("argon2"));
}
