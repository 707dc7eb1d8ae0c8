//! Properties of the peer protocol's values.

use messagebase_protocol::peer::{
    AdminCode, AdminError, AdminErrorKind, AdminOk, AdminRequest, Answer, Call, ChangeRow, Dialer,
    HelloReply, Incarnation, MemberRow, PeerHello, PeerReply, PeerRequest, ProbeReply, Purpose,
    SqlRows,
};
use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;

fn purpose() -> impl Strategy<Value = Purpose> {
    use Purpose::{Admin, Forward, Presence, Probe, Raft, Snapshot};
    prop::sample::select(vec![Raft, Snapshot, Forward, Presence, Probe, Admin])
}

fn dialer() -> impl Strategy<Value = Dialer> {
    prop_oneof![
        Just(Dialer::Admin),
        (any::<u16>(), any::<u64>()).prop_map(|(node, raft_id)| Dialer::Node { node, raft_id })
    ]
}

fn incarnation() -> impl Strategy<Value = Incarnation> {
    (any::<u64>(), any::<u64>(), any::<u64>()).prop_map(|(starts, id, last_log_at_start)| {
        Incarnation {
            starts,
            id,
            last_log_at_start,
        }
    })
}

fn admin_request() -> impl Strategy<Value = AdminRequest> {
    let text = any::<String>;
    prop_oneof![
        Just(AdminRequest::Report),
        Just(AdminRequest::Kill),
        any::<u16>().prop_map(|to| AdminRequest::Transfer { to }),
        (any::<u16>(), text(), text()).prop_map(|(node, client, peer)| AdminRequest::MemberAdd {
            node,
            client,
            peer
        }),
        (text(), text()).prop_map(|(name, password)| AdminRequest::UserAdd { name, password }),
        text().prop_map(|text| AdminRequest::Sql { text }),
        (any::<u64>(), any::<u32>(), any::<bool>())
            .prop_map(|(from, limit, wait)| AdminRequest::Changes { from, limit, wait }),
        option::of(any::<u64>()).prop_map(|at| AdminRequest::Digest { at }),
    ]
}

fn peer_request() -> impl Strategy<Value = PeerRequest> {
    prop_oneof![
        vec(any::<u8>(), 0..200).prop_map(PeerRequest::Raft),
        (any::<u64>(), option::of(vec(any::<u64>(), 0..20)))
            .prop_map(|(version, online)| PeerRequest::Presence { version, online }),
        Just(PeerRequest::Probe),
        (any::<String>(), vec(any::<u16>(), 0..9)).prop_map(|(cluster_id, founders)| {
            PeerRequest::Form {
                cluster_id,
                founders,
            }
        }),
        (any::<String>(), any::<u64>()).prop_map(|(cluster_id, raft_id)| PeerRequest::Adopt {
            cluster_id,
            raft_id
        }),
        admin_request().prop_map(PeerRequest::Admin),
    ]
}

fn admin_reply() -> impl Strategy<Value = Result<AdminOk, AdminError>> {
    let member = (
        any::<u16>(),
        any::<u64>(),
        any::<String>(),
        any::<String>(),
        any::<bool>(),
    )
        .prop_map(|(node, generation, client, peer, voter)| MemberRow {
            node,
            generation,
            client,
            peer,
            voter,
        });
    let change = (any::<u64>(), any::<u64>(), any::<u16>(), any::<String>()).prop_map(
        |(log_index, term, leader, change)| ChangeRow {
            log_index,
            term,
            leader,
            change,
        },
    );
    let rows = (
        vec(any::<String>(), 0..3),
        vec(vec(option::of(any::<String>()), 0..3), 0..3),
        any::<bool>(),
    )
        .prop_map(|(columns, rows, more)| SqlRows {
            columns,
            rows,
            more,
        });
    prop_oneof![
        Just(Ok(AdminOk::Done)),
        vec(member, 0..5).prop_map(|members| Ok(AdminOk::Members(members))),
        vec(change, 0..5).prop_map(|changes| Ok(AdminOk::Changes(changes))),
        rows.prop_map(|rows| Ok(AdminOk::Rows(rows))),
        (
            prop::sample::select(AdminCode::ALL.to_vec()),
            any::<String>(),
            option::of(any::<String>()),
            option::of(any::<u16>())
        )
            .prop_map(|(code, message, hint, leader)| Err(AdminError {
                kind: AdminErrorKind::NotLeader,
                code,
                message,
                hint,
                leader
            })),
    ]
}

fn peer_reply() -> impl Strategy<Value = PeerReply> {
    prop_oneof![
        vec(any::<u8>(), 0..200).prop_map(PeerReply::Raft),
        Just(PeerReply::Done),
        any::<String>().prop_map(PeerReply::Failed),
        admin_reply().prop_map(PeerReply::Admin),
        (
            any::<u16>(),
            option::of(any::<String>()),
            any::<u64>(),
            any::<bool>(),
            vec(any::<u16>(), 0..9)
        )
            .prop_map(
                |(node, cluster_id, raft_id, has_log, configured)| PeerReply::Probe(ProbeReply {
                    node,
                    cluster_id,
                    raft_id,
                    has_log,
                    configured
                })
            ),
    ]
}

/// Through postcard and back.
fn framed<T>(value: &T) -> Result<(), TestCaseError>
where
    T: serde::Serialize + serde::de::DeserializeOwned + PartialEq + std::fmt::Debug,
{
    let bytes = postcard::to_stdvec(value).map_err(|e| TestCaseError::fail(e.to_string()))?;
    let read: T = postcard::from_bytes(&bytes).map_err(|e| TestCaseError::fail(e.to_string()))?;
    prop_assert_eq!(&read, value);
    Ok(())
}

proptest! {
    #[test]
    fn peer_frames_read_back(id in any::<u64>(), request in peer_request(), reply in peer_reply(), last in any::<bool>()) {
        framed(&Call { id, body: request })?;
        framed(&Answer { id, last, body: reply })?;
    }

    #[test]
    fn hellos_read_back(
        dialer in dialer(), purpose in purpose(), to_raft_id in any::<u64>(), node in any::<u16>(),
        cluster_id in option::of(any::<String>()), reason in any::<String>(), incarnation in option::of(incarnation()),
    ) {
        let hello = PeerHello { protocol: 1, cluster_id: cluster_id.clone(), dialer, to_raft_id, purpose, incarnation };
        framed(&hello)?;
        let incarnation = Incarnation { starts: to_raft_id, id: 7, last_log_at_start: 8 };
        framed(&HelloReply::Welcome { node, cluster_id, raft_id: to_raft_id, incarnation })?;
        framed(&HelloReply::Stale { reason: reason.clone() })?;
        framed(&HelloReply::Refused { reason })?;
    }

    #[test]
    fn no_frame_panics_the_peer_port(bytes in vec(any::<u8>(), 0..300)) {
        let _ = postcard::from_bytes::<PeerHello>(&bytes);
        let _ = postcard::from_bytes::<Call>(&bytes);
        let _ = postcard::from_bytes::<Answer>(&bytes);
    }

    #[test]
    fn debug_of_an_operators_request_shows_no_password(password in "[a-z]{16}") {
        let request = AdminRequest::UserAdd { name: "x".into(), password: password.clone() };
        let shown = format!("{:?}", PeerRequest::Admin(request));
        prop_assert!(!shown.contains(&password));
    }
}
