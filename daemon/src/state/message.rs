//! Messages: send, acknowledge, forget. A key is permanent: when a message's row goes, its key goes to `send_keys`.

use std::collections::BTreeMap;
use std::sync::Arc;

use messagebase_protocol::name::folded;
use rusqlite::Row;
use sha2::{Digest, Sha256};

use super::change_context::{ChangeContext, Stop, UserRecord};
use super::effect::{Effect, NewMessage};
use super::index::{self, Index, IndexedMessage, List};
use super::integers::{int, opt_uint, uint};
use super::row_cache::{Mailbox, Recipient};
use crate::change::{Envelope, Outcome, Refusal};

const DAY_MS: u64 = 24 * 60 * 60 * 1_000;

/// Sends a message, unless the sender's key was used before.
pub(super) fn send(
    ctx: &mut ChangeContext<'_>,
    envelope: &Arc<Envelope>,
    user: u64,
    to: &str,
    body: &str,
    key: &str,
) -> Result<Outcome, Stop> {
    let to_folded = folded(to);
    if let Some(first) = first_answer(ctx, user, &to_folded, body, key)? {
        return Ok(first);
    }
    let actor = ctx.require_actor(user)?;
    let Recipient {
        user: to,
        name: to_name,
    } = ctx
        .row_cache
        .recipient(ctx.tx, &to_folded)?
        .ok_or(Refusal::NoSuchUser)?;
    let received = take_room(ctx, to, body.len() as u64)?;
    let sender = mailbox(ctx, user)?;

    let id = ctx.state.next_message_id;
    ctx.state.next_message_id += 1;
    let sent_at = ctx.state.clock;
    ctx.exec(
        "INSERT INTO messages (id, sender_id, recipient_id, body, sent_at, key) VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
        (int(id), int(user), int(to), body, int(sent_at), key),
    )?;
    // Only what is held in memory from here on: nothing that could fail, because nothing takes the row back.
    if to == user {
        ctx.row_cache.set_mailbox(
            user,
            Mailbox {
                sent: received.sent + 1,
                ..received
            },
        );
    } else {
        ctx.row_cache.set_mailbox(to, received);
        ctx.row_cache.set_mailbox(
            user,
            Mailbox {
                sent: sender.sent + 1,
                ..sender
            },
        );
    }
    ctx.memtable.add(IndexedMessage {
        id,
        sender: user,
        recipient: to,
    });
    ctx.effects.push(Effect::Message {
        sender: user,
        recipient: to,
        sending_session: Some(actor.session),
        message: NewMessage::of(envelope, id, actor.user_name, to_name, sent_at),
    });
    Ok(Outcome::Sent {
        id,
        sent_at,
        duplicate: false,
        recipient: Some(to),
    })
}

/// The first answer under the key, if there is one; `KeyReused` when it was for something else.
fn first_answer(
    ctx: &ChangeContext<'_>,
    user: u64,
    to_folded: &str,
    body: &str,
    key: &str,
) -> Result<Option<Outcome>, Stop> {
    // One statement for both places, because nearly every send brings a new key. A tombstone may outlive the message
    // of a recipient who is still there; but a name that was freed and registered again belongs to somebody else, whose
    // account is younger than the message.
    const FIRST: &str = "
        SELECT m.id, m.sent_at, u.id, m.body, NULL,
               coalesce(u.name_folded, (SELECT name_folded FROM retired_users WHERE id = m.recipient_id)) = ?3
          FROM messages m LEFT JOIN users u ON u.id = m.recipient_id WHERE m.key = ?1 AND m.sender_id = ?2
         UNION ALL
        SELECT k.message_id, k.sent_at, (SELECT id FROM users WHERE name_folded = ?3 AND created_at < k.sent_at),
               NULL, k.digest, NULL
          FROM send_keys k WHERE k.key = ?1 AND k.sender_id = ?2";
    let first = ctx.first(FIRST, (key, int(user), to_folded), |row| {
        let same = match row.get_ref(4)?.as_blob_or_null()? {
            Some(first) => first == digest(to_folded, body),
            None => {
                let same_name = row.get::<_, Option<bool>>(5)?.unwrap_or(false);
                same_name && row.get_ref(3)?.as_str()? == body
            }
        };
        let answer = Outcome::Sent {
            id: uint(row, 0)?,
            sent_at: uint(row, 1)?,
            duplicate: true,
            recipient: opt_uint(row, 2)?,
        };
        Ok(same.then_some(answer))
    })?;
    match first {
        None => Ok(None),
        Some(Some(answer)) => Ok(Some(answer)),
        Some(None) => Err(Refusal::KeyReused.into()),
    }
}

/// The recipient's mailbox with one message more, if there is room.
fn take_room(ctx: &mut ChangeContext<'_>, recipient: u64, bytes: u64) -> Result<Mailbox, Stop> {
    let mut mailbox = mailbox(ctx, recipient)?;
    mailbox.queued_messages += 1;
    mailbox.queued_bytes += bytes;
    mailbox.received += 1;
    let limits = &ctx.state.settings;
    if mailbox.queued_messages > u64::from(limits.queued_messages_per_user)
        || mailbox.queued_bytes > limits.queued_bytes_per_user
    {
        return Err(Refusal::QueueFull.into());
    }
    Ok(mailbox)
}

fn mailbox(ctx: &mut ChangeContext<'_>, user: u64) -> Result<Mailbox, Stop> {
    ctx.row_cache
        .mailbox(ctx.tx, user)?
        .ok_or(Stop::Broken("an account without a mailbox"))
}

/// Messages to `user` up to `through` are delivered; their senders are told.
pub(super) fn ack(ctx: &mut ChangeContext<'_>, user: u64, through: u64) -> Result<Outcome, Stop> {
    let actor = ctx.require_actor(user)?;
    ctx.first(
        "SELECT 1 FROM messages WHERE id = ?1 AND recipient_id = ?2",
        (int(through), int(user)),
        |_| Ok(()),
    )?
    .ok_or(Refusal::NoSuchMessage)?;
    let mut by_sender: BTreeMap<u64, u64> = BTreeMap::new();
    let (mut messages, mut bytes) = (0, 0);
    for id in queued(ctx, user, through)? {
        let delivered = ctx.first(
            "UPDATE messages SET delivered_at = ?2 WHERE id = ?1 AND delivered_at IS NULL
             RETURNING sender_id, octet_length(body)",
            (int(id), int(ctx.state.clock)),
            |row| Ok((uint(row, 0)?, uint(row, 1)?)),
        )?;
        if let Some((sender, size)) = delivered {
            by_sender.insert(sender, id);
            messages += 1;
            bytes += size;
        }
    }
    if by_sender.is_empty() {
        return Ok(Outcome::Done);
    }
    let mailbox = mailbox(ctx, user)?;
    ctx.row_cache.set_mailbox(
        user,
        Mailbox {
            queued_messages: mailbox.queued_messages.saturating_sub(messages),
            queued_bytes: mailbox.queued_bytes.saturating_sub(bytes),
            delivered_through: through,
            ..mailbox
        },
    );
    for (sender, through) in by_sender {
        ctx.effects.push(Effect::Delivered {
            sender,
            through,
            by: actor.user_name.to_string(),
        });
    }
    Ok(Outcome::Done)
}

/// Ids of what is queued to a user up to `through`, ascending: a mailbox is bounded.
fn queued(ctx: &mut ChangeContext<'_>, user: u64, through: u64) -> Result<Vec<u64>, Stop> {
    let delivered_through = mailbox(ctx, user)?.delivered_through;
    Ok(Index::of(ctx.tx, ctx.memtable)?.list(
        List::to(user),
        delivered_through,
        through,
        usize::MAX,
    )?)
}

/// Deletes messages delivered longer ago than the settings say, oldest delivery first.
pub(super) fn forget_delivered(ctx: &mut ChangeContext<'_>, at_most: u32) -> Result<Outcome, Stop> {
    ctx.require_no_actor()?;
    let days = u64::from(ctx.state.settings.delivered_days);
    if days == 0 {
        return Ok(Outcome::Done);
    }
    let before = ctx.state.clock.saturating_sub(days * DAY_MS);
    let forgotten = ctx.all(
        "SELECT m.id, m.sender_id, m.key, m.sent_at, m.body, m.recipient_id,
                coalesce((SELECT name_folded FROM users WHERE id = m.recipient_id),
                         (SELECT name_folded FROM retired_users WHERE id = m.recipient_id), '')
           FROM messages m WHERE m.delivered_at < ?1 ORDER BY m.delivered_at, m.id LIMIT ?2",
        (int(before), at_most),
        |row| MessageTombstone::of(row, row.get_ref(6)?.as_str()?),
    )?;
    tombstone(ctx, &forgotten)?;
    Ok(Outcome::Done)
}

/// Deletes what is queued to an account that is being deleted.
pub(super) fn drop_queued(ctx: &mut ChangeContext<'_>, recipient: &UserRecord) -> Result<(), Stop> {
    for id in queued(ctx, recipient.id, u64::MAX)? {
        let dropped = ctx.first(
            "SELECT id, sender_id, key, sent_at, body, recipient_id FROM messages
              WHERE id = ?1 AND delivered_at IS NULL",
            [int(id)],
            |row| MessageTombstone::of(row, &recipient.name_folded),
        )?;
        tombstone(ctx, dropped.as_slice())?;
    }
    Ok(())
}

/// What `send_keys` keeps of a message whose row is deleted: its key stays used.
struct MessageTombstone {
    message: IndexedMessage,
    key: String,
    sent_at: u64,
    digest: [u8; 32],
}

impl MessageTombstone {
    /// From the columns `id, sender_id, key, sent_at, body, recipient_id`.
    fn of(row: &Row<'_>, recipient_folded: &str) -> rusqlite::Result<MessageTombstone> {
        let body = row.get_ref(4)?.as_str()?;
        Ok(MessageTombstone {
            message: IndexedMessage {
                id: uint(row, 0)?,
                sender: uint(row, 1)?,
                recipient: uint(row, 5)?,
            },
            key: row.get(2)?,
            sent_at: uint(row, 3)?,
            digest: digest(recipient_folded, body),
        })
    }
}

/// Deletes messages and keeps their tombstones.
fn tombstone(ctx: &mut ChangeContext<'_>, messages: &[MessageTombstone]) -> Result<(), Stop> {
    for kept in messages {
        let IndexedMessage {
            id,
            sender,
            recipient,
        } = kept.message;
        index::remove(ctx.tx, ctx.memtable, kept.message)?;
        ctx.exec(
            "INSERT INTO send_keys (sender_id, key, digest, message_id, sent_at) VALUES (?1, ?2, ?3, ?4, ?5)",
            (int(sender), &kept.key, &kept.digest[..], int(id), int(kept.sent_at)),
        )?;
        ctx.exec("DELETE FROM messages WHERE id = ?1", [int(id)])?;
        // A deleted account has no mailbox any more.
        if let Some(mailbox) = ctx.row_cache.mailbox(ctx.tx, sender)? {
            let sent = mailbox.sent.saturating_sub(1);
            ctx.row_cache
                .set_mailbox(sender, Mailbox { sent, ..mailbox });
        }
        if let Some(mailbox) = ctx.row_cache.mailbox(ctx.tx, recipient)? {
            let received = mailbox.received.saturating_sub(1);
            ctx.row_cache.set_mailbox(
                recipient,
                Mailbox {
                    received,
                    ..mailbox
                },
            );
        }
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
