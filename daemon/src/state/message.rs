//! Messages: send, acknowledge, forget. A key is permanent: when a message's row goes, its key goes to `send_keys`.

use messagebase_protocol::json::Message;
use messagebase_protocol::name::fold_name;
use rusqlite::Row;
use sha2::{Digest, Sha256};

use super::ctx::{Ctx, Stop, UserRecord};
use super::effect::Effect;
use super::sql::{int, uint};
use crate::change::{Outcome, Refusal};
use crate::planted::{Defect, planted};

const DAY_MS: u64 = 24 * 60 * 60 * 1_000;

/// Sends a message, unless the sender's key was used before.
pub(super) fn send(ctx: &mut Ctx<'_>, user: u64, to: &str, body: &str, key: &str) -> Result<Outcome, Stop> {
    let to_folded = fold_name(to);
    let unlike;
    let key = if planted(Defect::KeyUniqueness) {
        unlike = format!("{key} {}", ctx.state.next_message_id);
        &unlike
    } else {
        key
    };
    if let Some(first) = first_answer(ctx, user, &to_folded, body, key)? {
        return Ok(first);
    }
    let actor = ctx.require_actor(user)?;
    let recipient = ctx.user_by_name(&to_folded)?.ok_or(Refusal::NoSuchUser)?;
    take_room(ctx, recipient.id, body.len() as u64)?;

    let id = ctx.state.next_message_id;
    ctx.state.next_message_id += 1;
    let sent_at = ctx.state.clock;
    ctx.exec(
        "INSERT INTO messages (id, sender_id, recipient_id, body, sent_at, key) VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
        (int(id), int(user), int(recipient.id), body, int(sent_at), key),
    )?;
    ctx.effects.push(Effect::Message {
        sender: user,
        recipient: recipient.id,
        sending_session: Some(actor.session),
        message: Message { id, from: actor.user_name, to: recipient.name, body: body.to_owned(), sent_at },
    });
    Ok(Outcome::Sent { id, sent_at, duplicate: false, recipient: Some(recipient.id) })
}

/// The first answer under the key, if there is one; `KeyReused` when it was for something else.
fn first_answer(ctx: &Ctx<'_>, user: u64, to_folded: &str, body: &str, key: &str) -> Result<Option<Outcome>, Stop> {
    let kept = ctx.first(
        "SELECT m.id, m.sent_at, m.body = ?3, u.id,
                coalesce(u.name_folded, (SELECT r.name_folded FROM retired_users r WHERE r.id = m.recipient_id)) = ?4
           FROM messages m LEFT JOIN users u ON u.id = m.recipient_id
          WHERE m.sender_id = ?1 AND m.key = ?2",
        (int(user), key, body, to_folded),
        |row| {
            let same = row.get::<_, bool>(2)? && row.get::<_, Option<bool>>(4)?.unwrap_or(false);
            Ok((uint(row, 0)?, uint(row, 1)?, same, super::sql::opt_uint(row, 3)?))
        },
    )?;
    if let Some((id, sent_at, same, recipient)) = kept {
        if !same {
            return Err(Refusal::KeyReused.into());
        }
        return Ok(Some(Outcome::Sent { id, sent_at, duplicate: true, recipient }));
    }
    let gone = ctx.first(
        "SELECT message_id, sent_at, digest FROM send_keys WHERE sender_id = ?1 AND key = ?2",
        (int(user), key),
        |row| Ok((uint(row, 0)?, uint(row, 1)?, row.get::<_, Vec<u8>>(2)?)),
    )?;
    let Some((id, sent_at, first_digest)) = gone else { return Ok(None) };
    if first_digest != digest(to_folded, body) {
        return Err(Refusal::KeyReused.into());
    }
    // The row may be forgotten while its recipient is still there; but a name that was freed and registered again
    // belongs to somebody else, whose account then is younger than the message.
    let recipient = ctx.first(
        "SELECT id FROM users WHERE name_folded = ?1 AND created_at < ?2",
        (to_folded, int(sent_at)),
        |row| uint(row, 0),
    )?;
    Ok(Some(Outcome::Sent { id, sent_at, duplicate: true, recipient }))
}

/// Counts the message against its recipient's mailbox.
fn take_room(ctx: &Ctx<'_>, recipient: u64, bytes: u64) -> Result<(), Stop> {
    let (messages, queued_bytes) = ctx
        .first("SELECT queued_messages, queued_bytes FROM mailboxes WHERE user_id = ?1", [int(recipient)], |row| {
            Ok((uint(row, 0)?, uint(row, 1)?))
        })?
        .ok_or(Stop::Broken("an account without a mailbox"))?;
    let limits = &ctx.state.settings;
    if messages + 1 > u64::from(limits.queued_messages_per_user) || queued_bytes + bytes > limits.queued_bytes_per_user
    {
        return Err(Refusal::QueueFull.into());
    }
    change_mailbox(ctx, recipient, 1, i64::try_from(bytes).unwrap_or(i64::MAX))
}

fn change_mailbox(ctx: &Ctx<'_>, user: u64, messages: i64, bytes: i64) -> Result<(), Stop> {
    ctx.exec(
        "UPDATE mailboxes SET queued_messages = queued_messages + ?2, queued_bytes = queued_bytes + ?3
          WHERE user_id = ?1",
        (int(user), messages, bytes),
    )
    .map(drop)
}

/// Messages to `user` up to `through` are delivered; their senders are told.
pub(super) fn ack(ctx: &mut Ctx<'_>, user: u64, through: u64) -> Result<Outcome, Stop> {
    let actor = ctx.require_actor(user)?;
    ctx.first("SELECT 1 FROM messages WHERE id = ?1 AND recipient_id = ?2", (int(through), int(user)), |_| Ok(()))?
        .ok_or(Refusal::NoSuchMessage)?;
    let by_sender = ctx.all(
        "SELECT sender_id, max(id), count(*), sum(octet_length(body))
           FROM messages
          WHERE recipient_id = ?1 AND id <= ?2 AND delivered_at IS NULL GROUP BY sender_id ORDER BY sender_id",
        (int(user), int(through)),
        |row| Ok((uint(row, 0)?, uint(row, 1)?, row.get::<_, i64>(2)?, row.get::<_, i64>(3)?)),
    )?;
    if by_sender.is_empty() {
        return Ok(Outcome::Done);
    }
    ctx.exec(
        "UPDATE messages SET delivered_at = ?3
          WHERE recipient_id = ?1 AND id <= ?2 AND delivered_at IS NULL",
        (int(user), int(through), int(ctx.state.clock)),
    )?;
    let (mut messages, mut bytes) = (0, 0);
    for (sender, newest, count, size) in by_sender {
        messages += count;
        bytes += size;
        ctx.effects.push(Effect::Delivered { sender, through: newest, by: actor.user_name.clone() });
    }
    change_mailbox(ctx, user, -messages, -bytes)?;
    Ok(Outcome::Done)
}

/// Deletes messages delivered longer ago than the settings say, oldest delivery first.
pub(super) fn forget_delivered(ctx: &mut Ctx<'_>, at_most: u32) -> Result<Outcome, Stop> {
    ctx.require_no_actor()?;
    let days = u64::from(ctx.state.settings.delivered_days);
    if days == 0 {
        return Ok(Outcome::Done);
    }
    let before = ctx.state.clock.saturating_sub(days * DAY_MS);
    let forgotten = ctx.all(
        "SELECT m.id, m.sender_id, m.key, m.sent_at, m.body,
                coalesce((SELECT name_folded FROM users WHERE id = m.recipient_id),
                         (SELECT name_folded FROM retired_users WHERE id = m.recipient_id), '')
           FROM messages m WHERE m.delivered_at < ?1 ORDER BY m.delivered_at, m.id LIMIT ?2",
        (int(before), at_most),
        |row| doomed(row, &row.get::<_, String>(5)?),
    )?;
    bury(ctx, &forgotten)?;
    Ok(Outcome::Done)
}

/// Deletes what is queued to an account that is being deleted.
pub(super) fn drop_queued(ctx: &Ctx<'_>, recipient: &UserRecord) -> Result<(), Stop> {
    let dropped = ctx.all(
        "SELECT id, sender_id, key, sent_at, body FROM messages
          WHERE recipient_id = ?1 AND delivered_at IS NULL ORDER BY id",
        [int(recipient.id)],
        |row| doomed(row, &recipient.name_folded),
    )?;
    bury(ctx, &dropped)
}

/// What stays of a message whose row goes.
struct Doomed {
    id: u64,
    sender: u64,
    key: String,
    sent_at: u64,
    digest: [u8; 32],
}

fn doomed(row: &Row<'_>, recipient_folded: &str) -> rusqlite::Result<Doomed> {
    let body = row.get_ref(4)?.as_str()?;
    Ok(Doomed {
        id: uint(row, 0)?,
        sender: uint(row, 1)?,
        key: row.get(2)?,
        sent_at: uint(row, 3)?,
        digest: digest(recipient_folded, body),
    })
}

fn bury(ctx: &Ctx<'_>, messages: &[Doomed]) -> Result<(), Stop> {
    for m in messages {
        ctx.exec(
            "INSERT INTO send_keys (sender_id, key, digest, message_id, sent_at) VALUES (?1, ?2, ?3, ?4, ?5)",
            (int(m.sender), &m.key, &m.digest[..], int(m.id), int(m.sent_at)),
        )?;
        ctx.exec("DELETE FROM messages WHERE id = ?1", [int(m.id)])?;
    }
    Ok(())
}

/// Tells whether a repetition says the same. Names hold no NUL, so the two parts cannot run into each other.
fn digest(recipient_folded: &str, body: &str) -> [u8; 32] {
    let mut hash = Sha256::new();
    hash.update(recipient_folded.as_bytes());
    hash.update([0]);
    hash.update(body.as_bytes());
    hash.finalize().into()
}
