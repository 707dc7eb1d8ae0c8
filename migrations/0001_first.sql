-- Schema 1. Add-only: a released migration is never edited, the next change is a new file.
-- Times are Unix ms. Tables of four kinds:
--   replicated (in snapshots, backups and digests): users, retired_users, messages, send_keys, account_keys,
--     sessions, mailboxes, replicated_state
--   the index of messages, each node's own work (in snapshots, not in digests): message_index, message_lists
--   the change log: log_0 to log_7
--   this node's own: node, peer_boots

-- ── replicated ──────────────────────────────────────────────────────────────────────────────────────────────────
CREATE TABLE users (
  id                 INTEGER PRIMARY KEY,       -- from replicated_state.next_user_id; never reused
  name               TEXT    NOT NULL,          -- as registered
  name_folded        TEXT    NOT NULL,          -- ASCII lower case: decides whether two names are the same
  password_hash      TEXT    NOT NULL,          -- PHC string
  credential_version INTEGER NOT NULL,          -- grows with every password; logins name the one they verified
  created_at         INTEGER NOT NULL,
  locked_at          INTEGER
) STRICT;
CREATE UNIQUE INDEX users_name_folded ON users (name_folded);

-- Deleted accounts: their messages keep the old name, and the name stays reserved until an operator frees it.
CREATE TABLE retired_users (
  id          INTEGER PRIMARY KEY,              -- the account's old id
  name        TEXT    NOT NULL,
  name_folded TEXT    NOT NULL,
  deleted_at  INTEGER NOT NULL,
  reserved    INTEGER NOT NULL                  -- 1: the name may not be registered
) STRICT;
CREATE INDEX retired_users_name ON retired_users (name_folded);
CREATE UNIQUE INDEX retired_users_reserved ON retired_users (name_folded) WHERE reserved = 1;

CREATE TABLE messages (
  id           INTEGER PRIMARY KEY,             -- from replicated_state.next_message_id; never reused
  sender_id    INTEGER NOT NULL,                -- in users or retired_users
  recipient_id INTEGER NOT NULL,
  sent_at      INTEGER NOT NULL,
  delivered_at INTEGER,                         -- NULL while queued
  key          TEXT    NOT NULL,                -- idempotency key, scoped to the sender
  body         TEXT    NOT NULL                 -- last, so that what is before it is read without its overflow pages
) STRICT;
-- A key is one message of its sender. By key first: keys that begin with the time, as our own client's do, are then
-- written at the index's end, which costs little.
CREATE UNIQUE INDEX messages_key ON messages (key, sender_id);
-- What may be forgotten once it was delivered long enough ago. Grows at its end, too.
CREATE INDEX messages_delivered ON messages (delivered_at, id) WHERE delivered_at IS NOT NULL;

-- Tombstones of messages whose row is gone: a key is permanent, it outlives the message and its recipient. By key first,
-- as in messages_key: every send looks here.
CREATE TABLE send_keys (
  sender_id  INTEGER NOT NULL,
  key        TEXT    NOT NULL,
  digest     BLOB    NOT NULL,                  -- SHA-256 of the folded recipient, a NUL and the body
  message_id INTEGER NOT NULL,
  sent_at    INTEGER NOT NULL,
  PRIMARY KEY (key, sender_id)
) STRICT, WITHOUT ROWID;

-- Keys of register, password and delete with their first answer.
CREATE TABLE account_keys (
  kind    TEXT    NOT NULL,                     -- 'register', 'password', 'delete'
  scope   TEXT    NOT NULL,                     -- register: the folded name; others: the user's id in decimal
  key     TEXT    NOT NULL,
  user_id INTEGER NOT NULL,
  name    TEXT    NOT NULL,                     -- as registered
  PRIMARY KEY (kind, scope, key)
) STRICT, WITHOUT ROWID;

CREATE TABLE sessions (
  id         INTEGER PRIMARY KEY,               -- from replicated_state.next_session_id; never reused
  user_id    INTEGER NOT NULL,
  token_hash BLOB    NOT NULL,                  -- SHA-256 of the token; the token itself is nowhere
  created_at INTEGER NOT NULL,
  expires_at INTEGER NOT NULL
) STRICT;
CREATE UNIQUE INDEX sessions_token_hash ON sessions (token_hash);
CREATE INDEX sessions_user ON sessions (user_id, id);
CREATE INDEX sessions_expiry ON sessions (expires_at);

-- What each user has, so that the queue's limit costs one row to check, not a count. Delivered are exactly the user's
-- messages up to delivered_through: an ack names the last of them.
CREATE TABLE mailboxes (
  user_id           INTEGER PRIMARY KEY,
  queued_messages   INTEGER NOT NULL DEFAULT 0,
  queued_bytes      INTEGER NOT NULL DEFAULT 0,
  delivered_through INTEGER NOT NULL DEFAULT 0,   -- a message's id
  sent              INTEGER NOT NULL DEFAULT 0,   -- messages from the user whose rows are there
  received          INTEGER NOT NULL DEFAULT 0    -- messages to the user whose rows are there
) STRICT;

-- One row: counters, clock, what has been applied. Written in the same transaction as its effects.
CREATE TABLE replicated_state (
  one               INTEGER PRIMARY KEY CHECK (one = 1),
  clock             INTEGER NOT NULL,           -- max(stamp, last + 1) over all applied changes
  next_user_id      INTEGER NOT NULL,
  next_message_id   INTEGER NOT NULL,
  next_session_id   INTEGER NOT NULL,
  settings          TEXT    NOT NULL,           -- JSON of change::Settings
  applied_index     INTEGER,
  applied_term      INTEGER,
  applied_leader    INTEGER,                    -- Raft id
  membership        TEXT,                       -- JSON, opaque to SQL
  membership_index  INTEGER,
  membership_term   INTEGER,
  membership_leader INTEGER
) STRICT;
INSERT INTO replicated_state (one, clock, next_user_id, next_message_id, next_session_id, settings)
VALUES (1, 0, 1, 1, 1, '{"registration_open":true,"session_days":30,"sessions_per_user":16,"queued_messages_per_user":10000,"queued_bytes_per_user":67108864,"delivered_days":0}');

-- ── the index of messages ───────────────────────────────────────────────────────────────────────────────────────
-- Not an SQL index: the newest messages are in memory and written here thousands at a time, in order. The table holds
-- all messages up to merged_through and some behind it, of which only `messages` is whole.
CREATE TABLE message_index (
  one            INTEGER PRIMARY KEY CHECK (one = 1),
  merged_through INTEGER NOT NULL
) STRICT;
INSERT INTO message_index (one, merged_through) VALUES (1, 0);

-- The messages to and from each user. What two users said to each other is found in the shorter one of their lists.
CREATE TABLE message_lists (
  user_id INTEGER NOT NULL,
  side    INTEGER NOT NULL,                     -- 0: to the user, 1: from the user
  id      INTEGER NOT NULL,                     -- of the message
  other   INTEGER NOT NULL,                     -- id of the sender or the recipient
  PRIMARY KEY (user_id, side, id)
) STRICT, WITHOUT ROWID;

-- ── the change log ──────────────────────────────────────────────────────────────────────────────────────────────
-- In segments that are filled in turn: one that nobody needs any more is emptied as a whole where it is not too long,
-- which writes none of its pages. Deleting the oldest rows of one table writes each of their pages once more.
CREATE TABLE log_0 (
  log_index INTEGER PRIMARY KEY,
  term      INTEGER NOT NULL,
  leader_id INTEGER NOT NULL,                   -- Raft id: generation * 65536 + node
  change    TEXT    NOT NULL,                   -- JSON: {"blank":{}}, {"membership":…} or the envelope; no secrets
  secrets   TEXT                                -- JSON of change::Secrets
) STRICT;
CREATE TABLE log_1 (log_index INTEGER PRIMARY KEY, term INTEGER NOT NULL, leader_id INTEGER NOT NULL,
                    change TEXT NOT NULL, secrets TEXT) STRICT;
CREATE TABLE log_2 (log_index INTEGER PRIMARY KEY, term INTEGER NOT NULL, leader_id INTEGER NOT NULL,
                    change TEXT NOT NULL, secrets TEXT) STRICT;
CREATE TABLE log_3 (log_index INTEGER PRIMARY KEY, term INTEGER NOT NULL, leader_id INTEGER NOT NULL,
                    change TEXT NOT NULL, secrets TEXT) STRICT;
CREATE TABLE log_4 (log_index INTEGER PRIMARY KEY, term INTEGER NOT NULL, leader_id INTEGER NOT NULL,
                    change TEXT NOT NULL, secrets TEXT) STRICT;
CREATE TABLE log_5 (log_index INTEGER PRIMARY KEY, term INTEGER NOT NULL, leader_id INTEGER NOT NULL,
                    change TEXT NOT NULL, secrets TEXT) STRICT;
CREATE TABLE log_6 (log_index INTEGER PRIMARY KEY, term INTEGER NOT NULL, leader_id INTEGER NOT NULL,
                    change TEXT NOT NULL, secrets TEXT) STRICT;
CREATE TABLE log_7 (log_index INTEGER PRIMARY KEY, term INTEGER NOT NULL, leader_id INTEGER NOT NULL,
                    change TEXT NOT NULL, secrets TEXT) STRICT;

CREATE VIEW log (log_index, term, leader_id, change, secrets) AS
            SELECT * FROM log_0 UNION ALL SELECT * FROM log_1 UNION ALL SELECT * FROM log_2 UNION ALL SELECT * FROM log_3
  UNION ALL SELECT * FROM log_4 UNION ALL SELECT * FROM log_5 UNION ALL SELECT * FROM log_6 UNION ALL SELECT * FROM log_7;

-- ── this node's own ─────────────────────────────────────────────────────────────────────────────────────────────
CREATE TABLE node (
  one           INTEGER PRIMARY KEY CHECK (one = 1),
  node          INTEGER,                        -- number
  cluster_id    TEXT,                           -- NULL: blank
  raft_id       INTEGER,
  founders      TEXT,                           -- JSON array
  vote          TEXT,                           -- JSON, opaque
  purged_index  INTEGER,
  purged_term   INTEGER,
  purged_leader INTEGER,
  starts        INTEGER NOT NULL DEFAULT 0,     -- how often this directory was opened by an mbd
  stale         TEXT,                           -- why this directory is an older copy, once a peer recognized it
  -- A FULL commit that changes no page syncs nothing; bumping this makes it sync.
  syncs         INTEGER NOT NULL DEFAULT 0
) STRICT;
INSERT INTO node (one) VALUES (1);

-- Which life of each peer's process this node met last: an older copy of a data directory is recognized by it.
CREATE TABLE peer_boots (
  raft_id           INTEGER PRIMARY KEY,
  starts            INTEGER NOT NULL,
  boot_id           INTEGER NOT NULL,           -- random; the bits of a u64
  last_log_at_start INTEGER NOT NULL
) STRICT;

-- ── for people with sqlite3 ─────────────────────────────────────────────────────────────────────────────────────
CREATE VIEW user_names (id, name) AS
  SELECT id, name FROM users UNION ALL SELECT id, name FROM retired_users;

CREATE VIEW change_log (log_index, term, leader, change) AS
  SELECT log_index, term, leader_id & 65535, change FROM log;

-- Most messages are not queued: what is merged is looked up by mailbox (CROSS JOIN keeps SQLite to that order), the
-- newest as they are.
CREATE VIEW queued_messages (id, sender, recipient, body, sent_at) AS
  SELECT m.id,
         coalesce((SELECT name FROM user_names WHERE id = m.sender_id), 'user ' || m.sender_id),
         coalesce((SELECT name FROM user_names WHERE id = m.recipient_id), 'user ' || m.recipient_id),
         m.body,
         strftime('%Y-%m-%dT%H:%M:%S', m.sent_at / 1000, 'unixepoch') || printf('.%03dZ', m.sent_at % 1000)
    FROM (SELECT l.id
            FROM mailboxes b
      CROSS JOIN message_lists l ON l.user_id = b.user_id AND l.side = 0 AND l.id > b.delivered_through
           WHERE b.queued_messages > 0 AND l.id <= (SELECT merged_through FROM message_index)
          UNION ALL
          SELECT id FROM messages WHERE id > (SELECT merged_through FROM message_index)) q
    JOIN messages m ON m.id = q.id
   WHERE m.delivered_at IS NULL;

CREATE VIEW folded_names (id, name) AS
  SELECT id, name_folded FROM users UNION ALL SELECT id, name_folded FROM retired_users;

-- All messages of each user, as the user's mailbox has them: WHERE user = 'ben' are those to and from ben, AND other =
-- 'anna' those between the two. Names in lower case; a message to oneself is there twice, received and sent. The table
-- of lists has what is merged, `messages` the rest; CROSS JOIN keeps SQLite to the order that begins with the user.
CREATE VIEW mailbox (user, side, id, other, body, sent_at, delivered_at) AS
  SELECT e.user,
         CASE e.side WHEN 0 THEN 'received' ELSE 'sent' END,
         e.id,
         coalesce((SELECT name FROM folded_names WHERE id = e.other), 'user ' || e.other),
         m.body,
         strftime('%Y-%m-%dT%H:%M:%S', m.sent_at / 1000, 'unixepoch') || printf('.%03dZ', m.sent_at % 1000),
         strftime('%Y-%m-%dT%H:%M:%S', m.delivered_at / 1000, 'unixepoch') || printf('.%03dZ', m.delivered_at % 1000)
    FROM (SELECT u.name AS user, l.side, l.id, l.other
            FROM folded_names u CROSS JOIN message_lists l ON l.user_id = u.id
           WHERE l.id <= (SELECT merged_through FROM message_index)
          UNION ALL
          SELECT u.name, 0, n.id, n.sender_id FROM folded_names u CROSS JOIN messages n ON n.recipient_id = u.id
           WHERE n.id > (SELECT merged_through FROM message_index)
          UNION ALL
          SELECT u.name, 1, n.id, n.recipient_id FROM folded_names u CROSS JOIN messages n ON n.sender_id = u.id
           WHERE n.id > (SELECT merged_through FROM message_index)) e
    CROSS JOIN messages m ON m.id = e.id;

CREATE VIEW user_summary (name, created_at, queued, sent, received, locked) AS
  SELECT u.name,
         strftime('%Y-%m-%dT%H:%M:%S', u.created_at / 1000, 'unixepoch') || printf('.%03dZ', u.created_at % 1000),
         coalesce((SELECT queued_messages FROM mailboxes WHERE user_id = u.id), 0),
         coalesce((SELECT sent FROM mailboxes WHERE user_id = u.id), 0),
         coalesce((SELECT received FROM mailboxes WHERE user_id = u.id), 0),
         u.locked_at IS NOT NULL
    FROM users u;

CREATE VIEW node_state (node, cluster_id, applied_index, applied_term, clock) AS
  SELECT n.node, n.cluster_id, s.applied_index, s.applied_term, s.clock FROM node n, replicated_state s;
