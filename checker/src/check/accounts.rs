//! Accounts: a name is given once and stays reserved; the directory shows it as long as it is there; the password that
//! counts is the last one that was acknowledged; a refusal that blames a name or a password has a reason.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use super::index::{Index, NEVER, Write, fold};
use super::{Violation, describe};
use crate::history::{Answer, Attempt, Call, Reply};

pub(super) fn check(index: &Index<'_>, found: &mut Vec<Violation>) {
    let accounts = accounts(index);
    for (name, account) in &accounts {
        given_once(name, account, found);
    }
    for attempt in &index.history.attempts {
        match (&attempt.call, attempt.answer.not_done()) {
            (Call::Register { user, key, .. }, Some("name_taken")) => {
                name_taken(accounts.get(&fold(user)), key, attempt, found);
            }
            (
                Call::Send { to: user, .. } | Call::History { with: user, .. },
                Some("no_such_user"),
            ) => {
                no_such_user(accounts.get(&fold(user)), attempt, found);
            }
            (Call::Login { user, password }, Some("bad_credentials")) => {
                refused_login(accounts.get(&fold(user)), password, attempt, found);
            }
            (Call::Login { user, password }, None) if attempt.answer.ok().is_some() => {
                login(accounts.get(&fold(user)), password, attempt, found);
            }
            _ => {}
        }
    }
    directory(index, &accounts, found);
}

/// Something that gave an account a password, or took it away with its account.
struct Credential<'h> {
    password: Option<&'h str>,
    write: Write<'h>,
}

/// What is known of one name.
#[derive(Default)]
struct Account<'h> {
    registers: Vec<(&'h str, Write<'h>)>,
    deletions: Vec<Write<'h>>,
    frees: Vec<&'h Attempt>,
    credentials: Vec<Credential<'h>>,
    /// Credentials that are surely set, by when they were: (completed, greatest invoked by then).
    settled: Vec<(u64, u64)>,
}

impl Account<'_> {
    /// The latest moment at which a credential was asked for that was surely set before `tick`.
    fn settled_before(&self, tick: u64) -> u64 {
        let n = self.settled.partition_point(|(at, _)| *at < tick);
        n.checked_sub(1).map_or(0, |last| self.settled[last].1)
    }

    /// Whether the name was surely there all the time between the ticks.
    fn surely_there(&self, from: u64, until: u64) -> bool {
        let registered = self
            .registers
            .iter()
            .map(|(_, write)| write.completed)
            .min()
            .unwrap_or(NEVER);
        registered < from
            && self
                .deletions
                .iter()
                .all(|deletion| deletion.invoked > until)
    }
}

fn accounts<'h>(index: &Index<'h>) -> BTreeMap<String, Account<'h>> {
    let mut registers: BTreeMap<(String, &str), Vec<&'h Attempt>> = BTreeMap::new();
    let mut passwords: BTreeMap<(String, &str), Vec<&'h Attempt>> = BTreeMap::new();
    let mut all: BTreeMap<String, Account<'h>> = BTreeMap::new();
    for attempt in &index.history.attempts {
        match (&attempt.call, &attempt.user) {
            (Call::Register { user, key, .. }, _) => registers
                .entry((fold(user), key))
                .or_default()
                .push(attempt),
            (Call::Password { key, .. }, Some(user)) => passwords
                .entry((fold(user), key))
                .or_default()
                .push(attempt),
            (Call::Free { user }, _) => all.entry(fold(user)).or_default().frees.push(attempt),
            _ => {}
        }
    }
    for ((name, key), attempts) in registers {
        let password = attempts.first().and_then(|a| match &a.call {
            Call::Register { password, .. } => Some(password.as_str()),
            _ => None,
        });
        let account = all.entry(name).or_default();
        account.registers.push((key, Write::new(attempts.clone())));
        account.credentials.push(Credential {
            password,
            write: Write::new(attempts),
        });
    }
    for ((name, _), attempts) in passwords {
        let password = attempts.first().and_then(|a| match &a.call {
            Call::Password { new, .. } => Some(new.as_str()),
            _ => None,
        });
        all.entry(name).or_default().credentials.push(Credential {
            password,
            write: Write::new(attempts),
        });
    }
    for (name, deletions) in &index.deletions {
        let account = all.entry(name.clone()).or_default();
        account.deletions.clone_from(deletions);
        let gone = deletions.iter().map(|write| Credential {
            password: None,
            write: write.clone(),
        });
        account.credentials.extend(gone);
    }
    for account in all.values_mut() {
        account.credentials.retain(|c| c.write.is_possible());
        let done = account.credentials.iter().filter(|c| c.write.is_done());
        let mut settled: Vec<(u64, u64)> =
            done.map(|c| (c.write.completed, c.write.invoked)).collect();
        settled.sort_unstable();
        let mut latest = 0;
        for (_, invoked) in &mut settled {
            latest = latest.max(*invoked);
            *invoked = latest;
        }
        account.settled = settled;
    }
    all
}

/// Two registrations under different keys need the name to be freed in between.
fn given_once(name: &str, account: &Account<'_>, found: &mut Vec<Violation>) {
    let mut done: Vec<&Write<'_>> = account
        .registers
        .iter()
        .map(|(_, w)| w)
        .filter(|w| w.is_done())
        .collect();
    done.sort_by_key(|write| write.completed);
    for pair in done.windows(2) {
        let freed = account.frees.iter().any(|free| {
            let until = free.completed.map_or(NEVER, |at| at.tick);
            free.answer.not_done().is_none()
                && free.invoked.tick < pair[1].completed
                && until > pair[0].invoked
        });
        if !freed {
            let mut evidence = pair[0].evidence();
            evidence.extend(pair[1].evidence());
            found.push(Violation::new(
                "names",
                format!("name {name} was given twice"),
                evidence,
            ));
        }
    }
}

fn until(attempt: &Attempt) -> u64 {
    attempt.completed.map_or(NEVER, |at| at.tick)
}

fn unfounded(what: String, attempt: &Attempt, found: &mut Vec<Violation>) {
    found.push(Violation::new(
        "refusals",
        what,
        vec![describe::attempt(attempt)],
    ));
}

fn name_taken(
    account: Option<&Account<'_>>,
    key: &str,
    attempt: &Attempt,
    found: &mut Vec<Violation>,
) {
    let registers = account.map_or(&[][..], |a| a.registers.as_slice());
    let others = registers
        .iter()
        .any(|(other, write)| *other != key && write.invoked < until(attempt));
    let own = registers
        .iter()
        .any(|(own, write)| *own == key && write.completed < attempt.invoked.tick);
    if own {
        unfounded(
            "a registration was repeated under its key and told name_taken".into(),
            attempt,
            found,
        );
    } else if !others {
        unfounded(
            "name_taken, but nobody else registered that name".into(),
            attempt,
            found,
        );
    }
}

fn no_such_user(account: Option<&Account<'_>>, attempt: &Attempt, found: &mut Vec<Violation>) {
    if account.is_some_and(|a| a.surely_there(attempt.invoked.tick, until(attempt))) {
        unfounded(
            "no_such_user, but the account was registered before and never deleted".into(),
            attempt,
            found,
        );
    }
}

fn login(
    account: Option<&Account<'_>>,
    password: &str,
    attempt: &Attempt,
    found: &mut Vec<Violation>,
) {
    let credentials = account.map_or(&[][..], |a| a.credentials.as_slice());
    let settled = account.map_or(0, |a| a.settled_before(attempt.invoked.tick));
    let may_count = |c: &Credential<'_>| {
        c.password == Some(password)
            && c.write.invoked < until(attempt)
            && c.write.completed >= settled
    };
    if !credentials.iter().any(may_count) {
        let mut evidence = vec![describe::attempt(attempt)];
        let newest = credentials
            .iter()
            .filter(|c| c.write.completed < attempt.invoked.tick);
        evidence.extend(
            newest
                .max_by_key(|c| c.write.completed)
                .into_iter()
                .flat_map(|c| c.write.evidence()),
        );
        let what =
            "a login succeeded with a password that no longer counted, or with none that ever did"
                .into();
        found.push(Violation::new("credentials", what, evidence));
    }
}

fn refused_login(
    account: Option<&Account<'_>>,
    password: &str,
    attempt: &Attempt,
    found: &mut Vec<Violation>,
) {
    let Some(account) = account else { return };
    let set = account
        .credentials
        .iter()
        .filter(|c| c.write.completed < attempt.invoked.tick);
    let Some(newest) = set
        .filter(|c| c.password == Some(password))
        .max_by_key(|c| c.write.invoked)
    else {
        return;
    };
    let other = account.credentials.iter().any(|c| {
        c.password != Some(password)
            && c.write.completed > newest.write.invoked
            && c.write.invoked < until(attempt)
    });
    if !other {
        unfounded(
            "bad_credentials, but the password was set before and nothing changed it".into(),
            attempt,
            found,
        );
    }
}

/// Linear listings without a pattern, from their beginning to their end.
fn directory(
    index: &Index<'_>,
    accounts: &BTreeMap<String, Account<'_>>,
    found: &mut Vec<Violation>,
) {
    let mut listings: HashMap<u64, BTreeSet<String>> = HashMap::new();
    for attempt in &index.history.attempts {
        let Call::Users {
            pattern: None,
            after: None,
            linear: true,
            ..
        } = &attempt.call
        else {
            continue;
        };
        let Answer::Ok(Reply::Users { names, more }) = &attempt.answer else {
            continue;
        };
        let (at, until) = (attempt.invoked.tick, until(attempt));
        let listed = listings.entry(at).or_default();
        for name in names {
            let account = accounts.get(&fold(name));
            let registered =
                account.is_some_and(|a| a.registers.iter().any(|(_, write)| write.invoked < until));
            // Freed and registered again: too much may have happened.
            let gone = account.is_some_and(|a| {
                a.frees.is_empty() && a.deletions.iter().any(|d| d.completed < at)
            });
            if !registered || gone {
                let why = if gone {
                    "who was deleted before"
                } else {
                    "whom nobody registered"
                };
                let what = format!("the directory shows {name}, {why}");
                found.push(Violation::new(
                    "linear reads",
                    what,
                    vec![describe::attempt(attempt)],
                ));
            }
            if !listed.insert(fold(name)) {
                let what = format!("the directory shows {name} twice");
                found.push(Violation::new(
                    "exactly once",
                    what,
                    vec![describe::attempt(attempt)],
                ));
            }
        }
        if *more {
            continue;
        }
        for (name, _) in accounts
            .iter()
            .filter(|(n, a)| !listed.contains(*n) && a.surely_there(at, until))
        {
            let what = format!("the directory misses {name}, who was registered before");
            found.push(Violation::new(
                "linear reads",
                what,
                vec![describe::attempt(attempt)],
            ));
        }
    }
}
