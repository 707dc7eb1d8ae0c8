//! Sessions: a token works until its session ends, and never afterwards.

use std::collections::HashMap;

use super::index::{Index, NEVER, Session, fold};
use super::{Violation, describe};
use crate::history::{Answer, Attempt, Call, Outcome};

/// Sessions of a user, from which on the oldest may have been ended for a new one.
const SESSIONS_MAX: usize = 16;

pub(super) fn check(index: &Index<'_>, found: &mut Vec<Violation>) {
    let users = users(index);
    for attempt in &index.history.attempts {
        match (&attempt.call, &attempt.answer) {
            (
                Call::Resume {
                    token,
                    linear: true,
                },
                Answer::Ok(_),
            ) => resumed(&users, token, attempt, found),
            (Call::Resume { token, .. }, Answer::Refused { code, .. })
                if code == "bad_credentials" =>
            {
                refused(&users, token, attempt, found);
            }
            (Call::Logout | Call::Delete { .. } | Call::Resume { .. } | Call::Login { .. }, _) => {}
            (
                _,
                Answer::Refused {
                    code,
                    outcome: Outcome::NotDone,
                },
            ) if code == "not_logged_in" => {
                let session = index.session_at(attempt.connection, attempt.invoked.tick);
                if let Some(session) =
                    session.filter(|session| session.until > attempt.invoked.tick)
                {
                    refused(&users, session.token, attempt, found);
                }
            }
            _ => {}
        }
    }
}

/// Something that ends sessions: between these ticks, by the session of this token.
struct Ending<'h> {
    invoked: u64,
    completed: u64,
    /// `None`: asked before the login was answered, so it may have been any.
    token: Option<&'h str>,
    attempt: &'h Attempt,
}

/// What is known of one user's sessions.
#[derive(Default)]
struct User<'h> {
    /// Ticks at which logins were asked for that may have begun a session.
    logins: Vec<u64>,
    logouts: HashMap<Option<&'h str>, Vec<Ending<'h>>>,
    passwords: Vec<Ending<'h>>,
    deletions: Vec<Ending<'h>>,
}

struct Users<'h> {
    by_name: HashMap<String, User<'h>>,
    /// The login of each token, and its user.
    begun: HashMap<&'h str, (String, &'h Attempt)>,
}

fn users<'h>(index: &Index<'h>) -> Users<'h> {
    let mut users = Users {
        by_name: HashMap::new(),
        begun: HashMap::new(),
    };
    for session in index.sessions.values().flatten() {
        if matches!(session.begun.call, Call::Login { .. }) {
            users
                .begun
                .insert(session.token, (session.user.clone(), session.begun));
        }
    }
    for attempt in &index.history.attempts {
        if let Call::Login { user, .. } = &attempt.call
            && attempt.answer.not_done().is_none()
        {
            users
                .by_name
                .entry(fold(user))
                .or_default()
                .logins
                .push(attempt.invoked.tick);
        }
        let Some(name) = &attempt.user else { continue };
        if attempt.answer.not_done().is_some() {
            continue;
        }
        let token = index
            .session_at(attempt.connection, attempt.invoked.tick)
            .map(|session: &Session<'h>| session.token);
        let completed = attempt
            .answer
            .ok()
            .and(attempt.completed)
            .map_or(NEVER, |at| at.tick);
        let ending = Ending {
            invoked: attempt.invoked.tick,
            completed,
            token,
            attempt,
        };
        let user = users.by_name.entry(fold(name)).or_default();
        match &attempt.call {
            Call::Logout => user.logouts.entry(token).or_default().push(ending),
            Call::Password { .. } => user.passwords.push(ending),
            Call::Delete { .. } => user.deletions.push(ending),
            _ => {}
        }
    }
    users
}

/// A dead token was taken for a living one.
fn resumed(users: &Users<'_>, token: &str, attempt: &Attempt, found: &mut Vec<Violation>) {
    let Some((name, login)) = users.begun.get(token) else {
        return;
    };
    let Some(user) = users.by_name.get(name) else {
        return;
    };
    let begun = login.completed.map_or(NEVER, |at| at.tick);
    let logouts = user.logouts.get(&Some(token)).into_iter().flatten();
    // A repetition under a used key ends nothing: only the first attempt's place in time is sure to be an ending.
    let passwords = user
        .passwords
        .iter()
        .filter(|p| p.token.is_some_and(|own| own != token) && is_first(user, p));
    let endings = logouts.chain(passwords).chain(user.deletions.iter());
    let mut endings = endings.filter(|e| e.invoked > begun && e.completed < attempt.invoked.tick);
    if let Some(ending) = endings.next() {
        let what = format!("a session of {name} was resumed after it had ended");
        let evidence = [login, ending.attempt, attempt]
            .map(describe::attempt)
            .to_vec();
        found.push(Violation::new("sessions", what, evidence));
    }
}

fn is_first(user: &User<'_>, password: &Ending<'_>) -> bool {
    let key = password.attempt.call.key();
    !user
        .passwords
        .iter()
        .any(|other| other.attempt.call.key() == key && other.invoked < password.invoked)
}

/// A living token was taken for a dead one.
fn refused(users: &Users<'_>, token: &str, attempt: &Attempt, found: &mut Vec<Violation>) {
    let Some((name, login)) = users.begun.get(token) else {
        return;
    };
    let Some(user) = users.by_name.get(name) else {
        return;
    };
    if login.completed.is_none_or(|at| at > attempt.invoked) {
        return;
    }
    let until = attempt.completed.map_or(NEVER, |at| at.tick);
    let before = |e: &&Ending<'_>| e.invoked < until;
    let own = user.logouts.get(&Some(token)).into_iter().flatten();
    let any = user.logouts.get(&None).into_iter().flatten();
    let ended = own
        .chain(any)
        .chain(&user.passwords)
        .chain(&user.deletions)
        .any(|e| before(&e));
    if !ended && user.logins.iter().filter(|at| **at < until).count() < SESSIONS_MAX {
        let what = format!("a session of {name} was gone, though nothing had ended it");
        found.push(Violation::new(
            "sessions",
            what,
            vec![describe::attempt(login), describe::attempt(attempt)],
        ));
    }
}
