-- Fills the database of a STOPPED node of a new cluster with users and messages among them, for `mbctl bench growth`.
-- Every node must be filled, with the same numbers: what is written depends on nothing else, so all nodes hold the
-- same. Parameters: :users, :messages, :at (Unix ms, in the past), :password_hash (PHC string, the same for all).
-- `PRAGMA temp_store = MEMORY` must come before them: it drops temporary tables, where sqlite3 keeps its parameters.
--
-- Names are User-000000 and so on. Each user writes to ten others in turn. The newest tenth of the messages is queued.

-- The file is new and rebuilt from nothing if this fails: without a journal each page is written once.
PRAGMA journal_mode = OFF;
PRAGMA synchronous = OFF;
PRAGMA cache_size = -262144;
BEGIN;
INSERT INTO users (id, name, name_folded, password_hash, credential_version, created_at)
  WITH RECURSIVE i (i) AS (SELECT 0 UNION ALL SELECT i + 1 FROM i WHERE i < :users - 1)
  SELECT next_user_id + i, printf('User-%06d', i), printf('user-%06d', i), :password_hash, 1, :at
    FROM i, replicated_state;

-- 7919 is a prime and spreads the senders; the ten recipients of each lie apart, too.
INSERT INTO messages (id, sender_id, recipient_id, sent_at, delivered_at, key, body)
  WITH RECURSIVE i (i) AS (SELECT 0 UNION ALL SELECT i + 1 FROM i WHERE i < :messages - 1)
  SELECT next_message_id + i,
         next_user_id + (i * 7919) % :users,
         next_user_id + (i * 7919 + 1 + (i / :users) % 10 * 104729) % :users,
         :at, CASE WHEN i < :messages - :messages / 10 THEN :at + 1 END,
         printf('0%019d-%08x', i, (i * 2654435761) & 4294967295),
         printf('%.*c', 256, 'x')
    FROM i, replicated_state;

-- The index of messages, in its order.
INSERT INTO message_lists (user_id, side, id, other)
  SELECT sender_id AS user_id, 1 AS side, id, recipient_id FROM messages
  UNION ALL
  SELECT recipient_id, 0, id, sender_id FROM messages
   ORDER BY user_id, side, id;
UPDATE message_index SET merged_through = (SELECT max(id) FROM messages);

INSERT INTO mailboxes (user_id, queued_messages, queued_bytes, delivered_through, sent, received)
  SELECT u.id, coalesce(queued, 0), coalesce(queued_bytes, 0), coalesce(delivered_through, 0), coalesce(sent, 0),
         coalesce(received, 0)
    FROM replicated_state s JOIN users u ON u.id >= s.next_user_id
    LEFT JOIN (SELECT recipient_id AS user_id, count(*) AS received,
                      count(*) FILTER (WHERE delivered_at IS NULL) AS queued,
                      sum(length(body)) FILTER (WHERE delivered_at IS NULL) AS queued_bytes,
                      max(id) FILTER (WHERE delivered_at IS NOT NULL) AS delivered_through
                 FROM messages GROUP BY recipient_id) r ON r.user_id = u.id
    LEFT JOIN (SELECT sender_id AS user_id, count(*) AS sent FROM messages GROUP BY sender_id) s1 ON s1.user_id = u.id;
UPDATE replicated_state
   SET next_user_id = next_user_id + :users, next_message_id = next_message_id + :messages, clock = max(clock, :at + 2);
COMMIT;
PRAGMA journal_mode = WAL;
