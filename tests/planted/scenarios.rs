//! One scenario for each defect. The checker finds the defect as what it is, and finds nothing in the same scenario with
//! `mbd` itself.

use std::time::Duration;

use messagebase_checker::{Answer, Call, Event, Recorder, Reply, Violation};
use messagebase_harness::storm::{Heard, RecordedClient, examine, take_mailbox};
use messagebase_harness::{Cluster, DirectionState, LinkState, Lock, PASSWORD, Rows, programs};

use super::defects::Defect;
use super::{Test, VARIABLE, defective};

/// A whole cluster answers in milliseconds.
const ANSWER_WITHIN: Duration = Duration::from_secs(15);

/// All scenarios with their names.
pub fn all() -> Vec<Test> {
    let named = |name: &str, test: fn()| -> Test { (name.to_owned(), Box::new(test)) };
    vec![
        named(
            "a_repeated_key_that_is_taken_for_a_new_request_is_found",
            a_repeated_key_that_is_taken_for_a_new_request_is_found,
        ),
        named(
            "writes_of_one_connection_that_overtake_each_other_are_found",
            writes_of_one_connection_that_overtake_each_other_are_found,
        ),
        named(
            "a_resumed_session_that_misses_what_arrived_in_between_is_found",
            a_resumed_session_that_misses_what_arrived_in_between_is_found,
        ),
        named(
            "a_linear_read_that_does_not_wait_is_found",
            a_linear_read_that_does_not_wait_is_found,
        ),
        named(
            "an_acknowledgement_before_the_disk_has_it_is_found",
            an_acknowledgement_before_the_disk_has_it_is_found,
        ),
    ]
}

/// A cluster, perhaps with a defect, and what happens to it.
struct Stage {
    cluster: Cluster,
    recorder: Recorder,
    users: Vec<(String, Vec<String>)>,
}

impl Stage {
    fn of(nodes: u16, defect: Option<Defect>) -> Stage {
        let builder = match defect {
            Some(defect) => Cluster::with(defective(), nodes).env(VARIABLE, defect.name()),
            None => Cluster::with(programs!(), nodes),
        };
        let builder = builder.proxied();
        Stage {
            cluster: builder.start(),
            recorder: Recorder::new(),
            users: Vec::new(),
        }
    }

    #[track_caller]
    fn dial(&self, node: u16) -> RecordedClient {
        let client = self.recorder.client();
        RecordedClient::dial(&self.cluster, node, false, &client)
            .unwrap_or_else(|| panic!("no connection to node {node}"))
    }

    /// Makes an account and logs in; returns the token too.
    #[track_caller]
    fn sign_up(&mut self, user: &str, node: u16) -> (RecordedClient, String) {
        let mut caller = self.dial(node);
        let (name, password, key) = (
            user.to_owned(),
            PASSWORD.to_owned(),
            format!("register {user}"),
        );
        answer(
            &mut caller,
            Call::Register {
                user: name.clone(),
                password: password.clone(),
                key,
            },
        );
        let login = answer(
            &mut caller,
            Call::Login {
                user: name.clone(),
                password: password.clone(),
            },
        );
        let Answer::Ok(Reply::LoggedIn { token, .. }) = login else {
            panic!("{user} could not log in: {login:?}")
        };
        self.users.push((name, vec![password]));
        (caller, token)
    }

    /// What the checker finds in the end.
    fn violations(self) -> Vec<Violation> {
        examine(&self.cluster, &self.recorder, &self.users).violations
    }
}

#[track_caller]
fn answer(caller: &mut RecordedClient, call: Call) -> Answer {
    let shown = format!("{call:?}");
    caller
        .ask(call, ANSWER_WITHIN, &mut drop)
        .unwrap_or_else(|| panic!("no answer to {shown}"))
}

fn send(to: &str, key: &str) -> Call {
    Call::Send {
        to: to.into(),
        body: format!("body of {key}"),
        key: key.into(),
    }
}

/// The scenario finds nothing in a whole daemon, and one of these broken promises in one with the defect.
#[track_caller]
fn is_found(
    defect: Defect,
    promises: &[&str],
    scenario: impl Fn(Option<Defect>) -> Vec<Violation>,
) {
    let innocent = scenario(None);
    assert!(
        innocent.is_empty(),
        "without a defect: {}",
        messagebase_checker::report(&innocent)
    );
    let found = scenario(Some(defect));
    let as_what_it_is = found
        .iter()
        .any(|violation| promises.contains(&violation.promise));
    assert!(
        as_what_it_is,
        "{defect:?} was not found as {promises:?}: {}",
        messagebase_checker::report(&found)
    );
}

fn a_repeated_key_that_is_taken_for_a_new_request_is_found() {
    is_found(Defect::KeyUniqueness, &["keys", "exactly once"], |defect| {
        let mut stage = Stage::of(1, defect);
        let (mut anna, token) = stage.sign_up("anna", 1);
        stage.sign_up("ben", 1);
        answer(&mut anna, send("ben", "k"));
        // As after a lost connection: the same request over another one.
        let mut again = stage.dial(1);
        answer(
            &mut again,
            Call::Resume {
                token,
                linear: true,
            },
        );
        answer(&mut again, send("ben", "k"));
        stage.violations()
    });
}

/// Sends that are under way at once.
const PIPELINED: usize = 64;

fn writes_of_one_connection_that_overtake_each_other_are_found() {
    is_found(Defect::Order, &["connection order"], |defect| {
        let mut stage = Stage::of(1, defect);
        let (mut anna, _) = stage.sign_up("anna", 1);
        stage.sign_up("ben", 1);
        let posted: Vec<u64> = (0..PIPELINED)
            .map(|n| anna.post(send("ben", &format!("k{n}"))))
            .collect();
        await_all(&mut anna, &posted);
        stage.violations()
    });
}

#[track_caller]
fn await_all(caller: &mut RecordedClient, posted: &[u64]) {
    let mut left: Vec<u64> = posted.to_vec();
    while !left.is_empty() {
        match caller.hear(ANSWER_WITHIN) {
            Heard::Answer(id, _) => left.retain(|other| *other != id),
            Heard::Event(_) | Heard::Aside(..) => {}
            Heard::Lost | Heard::Nothing => panic!("{} requests were not answered", left.len()),
        }
    }
}

fn a_resumed_session_that_misses_what_arrived_in_between_is_found() {
    is_found(
        Defect::TokenResume,
        &["never neither", "linear reads", "sessions"],
        |defect| {
            let mut stage = Stage::of(3, defect);
            let (mut anna, _) = stage.sign_up("anna", 1);
            let (ben, token) = stage.sign_up("ben", 2);
            drop(ben);
            answer(&mut anna, send("ben", "while ben is away"));
            let client = stage.recorder.client();
            let mut ben =
                RecordedClient::dial(&stage.cluster, 3, false, &client).expect("node 3 runs");
            answer(
                &mut ben,
                Call::Resume {
                    token,
                    linear: true,
                },
            );
            answer(
                &mut ben,
                Call::Inbox {
                    after: 0,
                    limit: None,
                    linear: true,
                },
            );
            answer(
                &mut ben,
                Call::Sync {
                    after: 0,
                    limit: None,
                    linear: true,
                },
            );
            // What is sent now comes as an event: a client that waits for it has been told everything.
            answer(&mut anna, send("ben", "when ben is back"));
            await_message(&mut ben);
            ben.kept_up("ben", 0);
            stage.violations()
        },
    );
}

#[track_caller]
fn await_message(caller: &mut RecordedClient) {
    loop {
        match caller.hear(ANSWER_WITHIN) {
            Heard::Event(Event::Message(_)) => return,
            Heard::Lost | Heard::Nothing => panic!("no message came"),
            _ => {}
        }
    }
}

fn a_linear_read_that_does_not_wait_is_found() {
    is_found(Defect::StaleRead, &["linear reads"], |defect| {
        let mut stage = Stage::of(3, defect);
        let leader = stage.cluster.leader();
        let behind = stage.cluster.others(&[leader])[0];
        let (mut anna, _) = stage.sign_up("anna", leader);
        let (mut ben, _) = stage.sign_up("ben", behind);
        // Nothing that the leader says of itself reaches the follower; what it asks is answered.
        let held = DirectionState {
            held: true,
            ..DirectionState::default()
        };
        stage.cluster.set_link(
            leader,
            behind,
            LinkState {
                forth: held,
                back: DirectionState::default(),
            },
        );
        answer(&mut anna, send("ben", "acknowledged by the others"));
        // Refused, or answered after the link is whole again: both are right. Not what it holds now.
        let asked = ben.post(Call::Inbox {
            after: 0,
            limit: None,
            linear: true,
        });
        let early = ben.hear(Duration::from_secs(1));
        stage.cluster.heal();
        if !matches!(early, Heard::Answer(..)) {
            await_all(&mut ben, &[asked]);
        }
        stage.violations()
    });
}

/// Within this time a defective cluster acknowledges what an honest one can't.
const TEMPTED_FOR: Duration = Duration::from_secs(2);

fn an_acknowledgement_before_the_disk_has_it_is_found() {
    is_found(Defect::SyncBeforeAck, &["nothing lost"], |defect| {
        let mut stage = Stage::of(3, defect);
        let leader = stage.cluster.leader();
        let followers = stage.cluster.others(&[leader]);
        stage.sign_up("ben", leader);
        let (mut anna, _) = stage.sign_up("anna", leader);
        stage.cluster.wait_same(&stage.cluster.numbers());
        // The followers can't write: a majority must not have it on disk before the locks go.
        let locks: Vec<Lock> = followers
            .iter()
            .map(|n| Rows::lock(&stage.cluster.database(*n)))
            .collect();
        anna.post(send("ben", "k"));
        let _ = anna.hear(TEMPTED_FOR);
        stage.cluster.kill_all();
        drop(locks);
        // A majority is enough to go on, and the leader's disk is not in it.
        followers
            .iter()
            .for_each(|n| stage.cluster.node(*n).start());
        stage.cluster.wait_ready(&followers);
        for (user, passwords) in &stage.users {
            let taken = take_mailbox(
                &stage.cluster,
                &stage.recorder,
                followers[0],
                user,
                passwords,
            );
            taken.unwrap_or_else(|problem| panic!("{problem}"));
        }
        messagebase_checker::check(&stage.recorder.finish())
    });
}
