//! What clients were shown has no gap and nothing twice. Within a session on one connection, events come in id order;
//! what was sent after its login was answered comes as an event, and what was there before is in its inbox: never
//! neither. A client that says it kept up was shown everything, over whatever connections.

use std::collections::{BTreeSet, HashMap, HashSet};

use super::index::{Index, NEVER, Session, fold};
use super::{Violation, describe};
use crate::history::{Answer, Attempt, Call, Event, Reply, Shown};

/// Missing messages told of one session or claim.
const MISSING_MOST: usize = 3;

pub(super) fn check(index: &Index<'_>, found: &mut Vec<Violation>) {
    let mut events: HashMap<u64, Vec<&Shown>> = HashMap::new();
    for shown in &index.history.shown {
        events.entry(shown.connection).or_default().push(shown);
    }
    events
        .values_mut()
        .for_each(|shown| shown.sort_by_key(|s| s.at));
    let mut inboxes: HashMap<u64, Vec<&Attempt>> = HashMap::new();
    for attempt in &index.history.attempts {
        if matches!(
            (&attempt.call, &attempt.answer),
            (Call::Inbox { linear: true, .. }, Answer::Ok(_))
        ) {
            inboxes.entry(attempt.connection).or_default().push(attempt);
        }
    }
    inboxes
        .values_mut()
        .for_each(|inboxes| inboxes.sort_by_key(|a| a.invoked));
    for (connection, shown) in &events {
        let sessions = index
            .sessions
            .get(connection)
            .map_or(&[][..], Vec::as_slice);
        if let Some(first) = shown.first()
            && sessions.is_empty()
            && matches!(first.event, Event::Message(_))
        {
            // Its login may have been answered after the recorder stopped listening; there is nothing to compare.
            continue;
        }
        for session in sessions {
            let inboxes = inboxes.get(connection).map_or(&[][..], Vec::as_slice);
            stream(index, session, shown, inboxes, found);
        }
    }
    events
        .values()
        .flatten()
        .for_each(|shown| addressed(index, shown, found));
    kept_up(index, found);
}

/// One session's events.
fn stream(
    index: &Index<'_>,
    session: &Session<'_>,
    events: &[&Shown],
    inboxes: &[&Attempt],
    found: &mut Vec<Violation>,
) {
    let begun = session.begun.invoked.tick;
    let mine = events
        .iter()
        .filter(|s| s.at.tick > begun && s.at.tick < session.until);
    let mut shown = HashSet::new();
    let (mut greatest, mut newest): (u64, Option<&Shown>) = (0, None);
    for &event in mine {
        let Event::Message(message) = &event.event else {
            continue;
        };
        let id = message.id;
        if id <= greatest {
            let how = if shown.contains(&id) {
                "twice".to_owned()
            } else {
                format!("after that of {greatest}")
            };
            let over = event.connection;
            let what = format!("event of message {id} came {how} over connection {over}");
            let evidence = newest
                .into_iter()
                .chain([event])
                .map(describe::shown)
                .collect();
            found.push(Violation::new("events", what, evidence));
        }
        shown.insert(id);
        if id > greatest {
            (greatest, newest) = (id, Some(event));
        }
    }
    let (Some(newest), Some(ids)) = (newest, index.to.get(&session.user)) else {
        return;
    };
    let mut missing = BTreeSet::new();
    for id in ids
        .range(ids.known_before(session.from), greatest)
        .iter()
        .filter(|id| !shown.contains(id))
    {
        let sent = index.messages[id]
            .send
            .map_or(0, |send| index.sends[send].write.invoked);
        if sent > session.from {
            missing.insert(*id);
        }
    }
    missing.extend(neither(index, session, greatest, &shown, inboxes));
    for id in missing.into_iter().take(MISSING_MOST) {
        let known = &index.messages[&id];
        let what = format!(
            "{} came over connection {} neither as an event nor in the inbox, though a later one did",
            describe::message_text(&known.message),
            newest.connection
        );
        let evidence = vec![
            known.evidence.clone(),
            describe::attempt(session.begun),
            describe::shown(newest),
        ];
        found.push(Violation::new("never neither", what, evidence));
    }
}

/// Messages that the first reading of the inbox would have had to show, because no event did.
fn neither(
    index: &Index<'_>,
    session: &Session<'_>,
    greatest: u64,
    shown: &HashSet<u64>,
    inboxes: &[&Attempt],
) -> Vec<u64> {
    let mut missing = Vec::new();
    let Some(ids) = index.to.get(&session.user) else {
        return missing;
    };
    let own = inboxes
        .iter()
        .filter(|a| a.invoked.tick > session.from && a.invoked.tick < session.until);
    for attempt in own {
        let (Call::Inbox { after, .. }, Answer::Ok(Reply::Page { messages, more })) =
            (&attempt.call, &attempt.answer)
        else {
            continue;
        };
        let until = attempt.completed.map_or(NEVER, |at| at.tick);
        let acked = index
            .acks
            .get(&session.user)
            .map_or(0, |acks| acks.maybe_before(until));
        let end = if *more {
            messages.last().map_or(0, |m| m.id).min(greatest)
        } else {
            greatest
        };
        let page: HashSet<u64> = messages.iter().map(|m| m.id).collect();
        let ids = ids.range(acked.max(*after), end).iter();
        let gone = |id: &u64| index.may_be_gone(&index.messages[id], &session.user, until);
        missing.extend(ids.filter(|id| !shown.contains(id) && !page.contains(id) && !gone(id)));
        if !more {
            break;
        }
    }
    missing
}

/// Events reach those whom they concern.
fn addressed(index: &Index<'_>, shown: &Shown, found: &mut Vec<Violation>) {
    let Some(session) = index.session_at(shown.connection, shown.at.tick) else {
        return;
    };
    let user = session.user.as_str();
    let mine = match &shown.event {
        Event::Message(m) => m.to.eq_ignore_ascii_case(user) || m.from.eq_ignore_ascii_case(user),
        Event::Delivered { through, by } => {
            let mine = index
                .messages
                .get(through)
                .is_none_or(|k| k.from == user && k.to.eq_ignore_ascii_case(by));
            let asked = index
                .acks
                .get(&fold(by))
                .map_or(0, |acks| acks.maybe_before(shown.at.tick));
            mine && asked >= *through
        }
        Event::Closing { .. } => true,
    };
    if !mine {
        let what = format!(
            "{user} was told of what is not theirs, or of a delivery that nobody acknowledged"
        );
        found.push(Violation::new(
            "events",
            what,
            vec![describe::shown(shown), describe::attempt(session.begun)],
        ));
    }
}

/// Claims to have missed nothing.
fn kept_up(index: &Index<'_>, found: &mut Vec<Violation>) {
    let mut seen: HashMap<u64, Vec<(u64, u64)>> = HashMap::new();
    for shown in &index.history.shown {
        if let Event::Message(message) = &shown.event {
            seen.entry(shown.client)
                .or_default()
                .push((shown.at.tick, message.id));
        }
    }
    for attempt in &index.history.attempts {
        if let (Answer::Ok(Reply::Page { messages, .. }), Some(at)) =
            (&attempt.answer, attempt.completed)
        {
            let ids = messages.iter().map(|m| (at.tick, m.id));
            seen.entry(attempt.client).or_default().extend(ids);
        }
    }
    for claim in &index.history.kept_up {
        let at = claim.at.tick;
        let seen = seen.get(&claim.client).map_or(&[][..], Vec::as_slice);
        let seen: HashSet<u64> = seen
            .iter()
            .filter(|(tick, _)| *tick < at)
            .map(|(_, id)| *id)
            .collect();
        let user = fold(&claim.user);
        let Some(ids) = index.to.get(&user) else {
            continue;
        };
        let missing = ids
            .range(claim.after, NEVER)
            .iter()
            .filter(|id| !seen.contains(id))
            .filter(|id| {
                let known = &index.messages[id];
                let acknowledged = known
                    .send
                    .is_some_and(|send| index.sends[send].write.completed < at);
                acknowledged && !index.may_be_gone(known, &user, at)
            });
        for id in missing.take(MISSING_MOST) {
            let known = &index.messages[id];
            let what = format!(
                "client {} of {user} kept up and was never shown {}",
                claim.client,
                describe::message_text(&known.message)
            );
            found.push(Violation::new(
                "never neither",
                what,
                vec![known.evidence.clone()],
            ));
        }
    }
}
