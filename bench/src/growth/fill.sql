-- Fills the database of a STOPPED node with users and delivered messages among them, to measure what a large state costs.
-- How to use it: docs/BENCHMARKS.md. Every node of a new cluster must be filled, with the same numbers: what is written
-- depends on nothing else, so all nodes hold the same. The users can't log in; they are the mass beside those who do.
--
-- Parameters: :users, :messages, :at (Unix ms).
BEGIN;
INSERT INTO users (id, name, name_folded, password_hash, credential_version, created_at)
  WITH RECURSIVE i (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM i WHERE i < :users)
  SELECT next_user_id - 1 + i, printf('User-%06d', i), printf('user-%06d', i),
         '$argon2id$v=19$m=19456,t=2,p=1$AAAAAAAAAAAAAAAAAAAAAA$AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA', 1, :at
    FROM i, replicated_state;

-- Primes spread senders and recipients; each message is between other two than the one before.
INSERT INTO messages (id, sender_id, recipient_id, sent_at, delivered_at, key, body)
  WITH RECURSIVE i (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM i WHERE i < :messages)
  SELECT next_message_id - 1 + i,
         next_user_id + (i * 7919) % :users,
         next_user_id + (i * 104729 + i / :users * 31) % :users,
         :at, :at + 1,
         printf('0%019d-%08x', i, (i * 2654435761) & 4294967295),
         printf('%.*c', 256, 'x')
    FROM i, replicated_state;

-- The indexes of messages, in their order; those that were not merged yet are among them.
INSERT OR IGNORE INTO message_keys (key, sender_id, message_id)
  SELECT key, sender_id, id FROM messages ORDER BY key, sender_id;
-- Rows as merges would have written them: at most 16 messages of one list, of those that are merged together.
DELETE FROM message_lists;
INSERT INTO message_lists (user_id, side, last_id, ids, others)
  SELECT user_id, side, max(id), json_group_array(id), json_group_array(other)
    FROM (SELECT user_id, side, id, other, id / 16384 AS merge,
                 (row_number() OVER (PARTITION BY user_id, side, id / 16384 ORDER BY id) - 1) / 16 AS part
            FROM (SELECT sender_id AS user_id, 1 AS side, id, recipient_id AS other FROM messages
                  UNION ALL
                  SELECT recipient_id, 0, id, sender_id FROM messages)
           ORDER BY user_id, side, id)
   GROUP BY user_id, side, merge, part;
UPDATE message_index SET merged_through = (SELECT max(id) FROM messages);

INSERT INTO mailboxes (user_id, delivered_through, sent, received)
  SELECT u.id,
         coalesce((SELECT max(last_id) FROM message_lists WHERE user_id = u.id AND side = 0), 0),
         coalesce((SELECT sum(json_array_length(ids)) FROM message_lists WHERE user_id = u.id AND side = 1), 0),
         coalesce((SELECT sum(json_array_length(ids)) FROM message_lists WHERE user_id = u.id AND side = 0), 0)
    FROM users u, replicated_state s WHERE u.id >= s.next_user_id;
UPDATE replicated_state
   SET next_user_id = next_user_id + :users, next_message_id = next_message_id + :messages, clock = max(clock, :at + 2);
COMMIT;
PRAGMA wal_checkpoint(TRUNCATE);
