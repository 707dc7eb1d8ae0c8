//! Backups and restores.

use std::io::Read;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use super::*;

/// The time of the restores, in Unix ms.
const NOW: u64 = 1_800_000_000_000;
/// The first id that a cluster restored at that time issues.
const RAISED: u64 = 1_800_000_000_000_000;

/// anna logs in.
fn login(index: u64) -> LogRow {
    let secrets = Secrets {
        password_hash: None,
        token_hash: Some([7; 32]),
    };
    change(
        index,
        Change::Login {
            user: 1,
            credential_version: 1,
        },
        Some(secrets),
    )
}

/// A message from anna's session.
fn send(index: u64, session: u64, key: &str, body: &str) -> LogRow {
    let body = Change::Send {
        user: 1,
        to: "bert".into(),
        body: body.into(),
        key: key.into(),
    };
    let envelope = Envelope {
        v: LOG_VERSION,
        at: 1_000 + index,
        actor: Some(session),
        body,
        secrets: None,
    };
    LogRow {
        id: id(1, index),
        payload: LogPayload::Change(Arc::new(envelope)),
    }
}

/// Two accounts, a session, two messages: one merged into its lists, one delivered.
fn used_store(fixture: &Fixture) -> Driven {
    let mut s = fixture.open();
    let identity = Identity {
        cluster_id: "old".into(),
        raft_id: 65_537,
        founders: vec![1],
    };
    s.run(|done| Job::SaveIdentity { identity, done }).unwrap();
    let rows = vec![
        register(0, "anna"),
        register(1, "bert"),
        login(2),
        send(3, 1, "m3", "one"),
        send(4, 1, "m4", "two"),
    ];
    s.append(rows.clone());
    s.apply(rows);
    s
}

fn backup(s: &Driven, to: &str) -> PathBuf {
    let mut backup = s.store.build_backup(|| false, 77).unwrap();
    let path = s.dir.path().join(to);
    let mut bytes = Vec::new();
    backup.file.read_to_end(&mut bytes).unwrap();
    assert_eq!(bytes.len() as u64, backup.bytes);
    std::fs::write(&path, bytes).unwrap();
    path
}

fn restored_node(last: LogId) -> RestoredNode {
    RestoredNode {
        node: 2,
        cluster_id: "new".into(),
        raft_id: 65_538,
        vote: format!("vote after {}", last.term),
        membership: "alone".into(),
        now_ms: NOW,
    }
}

fn as_node_2(fixture: &Fixture) -> StoreOptions {
    StoreOptions {
        dir: fixture.dir.path().join("node-2"),
        node: 2,
        ..fixture.options()
    }
}

#[test]
fn a_restored_node_has_everything_but_sessions_and_begins_behind_it() {
    let fixture = Fixture::new();
    let s = used_store(&fixture);
    let file = backup(&s, "b.db");
    let options = as_node_2(&fixture);
    let info = restore(&file, &options.dir, restored_node).unwrap();
    let expected = BackupInfo {
        cluster_id: "old".into(),
        node: 1,
        taken_at: 77,
        users: 2,
    };
    assert_eq!(info, expected);
    let mode = std::fs::metadata(options.dir.join("messagebase.db"))
        .unwrap()
        .permissions()
        .mode()
        & 0o777;
    assert_eq!(mode, 0o600);

    let (store, writer) = Store::open(options).unwrap();
    let mut restored = Driven {
        store,
        writer,
        dir: fixture.dir.clone(),
    };
    begins_behind_the_backup(&restored);
    assert_eq!(restored.count("SELECT count(*) FROM sessions"), 0);
    for table in [
        "users",
        "messages",
        "mailboxes",
        "account_keys",
        "message_lists",
    ] {
        let count = format!("SELECT count(*) FROM {table}");
        assert_eq!(restored.count(&count), s.count(&count), "{table}");
    }
    goes_on_with_new_ids(&mut restored);
}

/// The restored node has its new identity, and its log begins behind the last entry of the backup.
fn begins_behind_the_backup(restored: &Driven) {
    let identity = Identity {
        cluster_id: "new".into(),
        raft_id: 65_538,
        founders: vec![],
    };
    assert_eq!(restored.store.identity(), Some(identity));
    let state = restored.store.raft_state().unwrap();
    assert_eq!(
        (state.applied, state.purged, state.last),
        (Some(id(1, 4)), Some(id(1, 4)), None)
    );
    assert_eq!(state.vote.as_deref(), Some("vote after 1"));
    assert_eq!(
        state.membership.map(|(at, json)| (at, json.to_string())),
        Some((id(1, 4), "alone".into()))
    );
    assert_eq!(
        restored.store.log_begin(),
        5,
        "nobody takes it for a blank node"
    );
}

/// Ids that the old cluster issued after the backup are not issued again, and idempotency keys are still known.
fn goes_on_with_new_ids(restored: &mut Driven) {
    let rows = vec![
        register(5, "cora"),
        send(6, 1, "stale", "from a session of the old cluster"),
        login(7),
        send(8, RAISED, "m3", "one"),
        send(9, RAISED, "new", "three"),
    ];
    restored.append(rows.clone());
    restored.apply(rows);
    for table in ["users", "sessions", "messages"] {
        assert_eq!(
            restored.count(&format!("SELECT max(id) FROM {table}")),
            RAISED,
            "{table}"
        );
    }
    assert_eq!(
        restored.count("SELECT count(*) FROM messages"),
        3,
        "a known key sends nothing twice"
    );
    assert_eq!(restored.count("SELECT count(*) FROM queued_messages"), 3);
}

fn next_message_id(dir: &Path) -> u64 {
    let conn = rusqlite::Connection::open(dir.join("messagebase.db")).unwrap();
    conn.query_row("SELECT next_message_id FROM replicated_state", [], |row| {
        row.get::<_, i64>(0)
    })
    .unwrap()
    .unsigned_abs()
}

#[test]
fn ids_are_raised_at_every_restore_whatever_the_clock_says() {
    let fixture = Fixture::new();
    let s = used_store(&fixture);
    let restored = |file: &Path, name: &str, now_ms| {
        let dir = fixture.dir.path().join(name);
        restore(file, &dir, |last| RestoredNode {
            now_ms,
            ..restored_node(last)
        })
        .unwrap();
        next_message_id(&dir)
    };
    let file = backup(&s, "1.db");
    assert_eq!(restored(&file, "first", NOW), RAISED);
    assert_eq!(
        restored(&file, "the same file later", NOW + 5),
        RAISED + 5_000
    );

    restore(&file, &as_node_2(&fixture).dir, restored_node).unwrap();
    let (store, writer) = Store::open(as_node_2(&fixture)).unwrap();
    let again = Driven {
        store,
        writer,
        dir: fixture.dir.clone(),
    };
    let file = backup(&again, "2.db");
    assert_eq!(
        restored(&file, "the clock is far behind", 0),
        RAISED + 1_000_000_000_000
    );
    assert!(
        restore(&file, &fixture.dir.path().join("far ahead"), |last| {
            RestoredNode {
                now_ms: 1 << 53,
                ..restored_node(last)
            }
        })
        .is_err()
    );
}

#[test]
fn a_backup_with_something_of_somebody_elses_in_it_is_refused() {
    let fixture = Fixture::new();
    let file = backup(&used_store(&fixture), "b.db");
    let conn = rusqlite::Connection::open(&file).unwrap();
    conn.execute_batch("CREATE TRIGGER t AFTER INSERT ON users BEGIN DELETE FROM messages; END")
        .unwrap();
    drop(conn);
    let dir = as_node_2(&fixture).dir;
    let error = restore(&file, &dir, restored_node).unwrap_err();
    assert!(
        error.to_string().contains("not those of its version"),
        "{error}"
    );
    assert!(!dir.join("messagebase.db").exists() && !dir.join("messagebase.db.restoring").exists());

    let file = fixture.dir.path().join("c.db");
    std::fs::write(fixture.dir.path().join("c.db-wal"), "").unwrap();
    std::fs::write(&file, "").unwrap();
    assert!(
        restore(&file, &dir, restored_node)
            .unwrap_err()
            .to_string()
            .contains("c.db-wal")
    );
}

#[test]
fn a_backup_reads_like_a_nodes_file_and_no_node_runs_on_it() {
    let fixture = Fixture::new();
    let s = used_store(&fixture);
    let file = backup(&s, "b.db");
    assert_eq!(
        std::fs::read_dir(s.store.snapshot_dir()).unwrap().count(),
        0,
        "nothing is left behind"
    );
    let conn = rusqlite::Connection::open(&file).unwrap();
    let query = |sql: &str| {
        conn.query_row(sql, [], |row| row.get::<_, String>(0))
            .unwrap()
    };
    assert_eq!(
        query("SELECT group_concat(body) FROM (SELECT body FROM queued_messages ORDER BY id)"),
        "one,two"
    );
    assert_eq!(
        query("SELECT cluster_id || ' ' || applied_index FROM node_state"),
        "old 4"
    );
    assert_eq!(
        query("SELECT count(*) || ' sessions' FROM sessions"),
        "0 sessions"
    );
    assert_eq!(query("PRAGMA integrity_check"), "ok");
    drop(conn);

    let options = as_node_2(&fixture);
    std::fs::create_dir(&options.dir).unwrap();
    std::fs::copy(&file, options.dir.join("messagebase.db")).unwrap();
    let error = Store::open(options).err().unwrap();
    assert!(error.to_string().contains("mbctl restore"), "{error}");
}

#[test]
fn a_backup_that_nobody_wants_any_more_ends_and_leaves_nothing() {
    let fixture = Fixture::new();
    let mut s = used_store(&fixture);
    let rows: Vec<LogRow> = (5..3_005)
        .map(|index| send(index, 1, &format!("m{index}"), &"x".repeat(500)))
        .collect();
    s.append(rows.clone());
    s.apply(rows);
    let error = s.store.build_backup(|| true, 77).err().unwrap();
    assert!(error.to_string().contains("interrupted"), "{error}");
    assert_eq!(
        std::fs::read_dir(s.store.snapshot_dir()).unwrap().count(),
        0
    );
    backup(&s, "b.db");
}

#[test]
fn what_can_not_be_restored_changes_nothing() {
    let fixture = Fixture::new();
    let s = used_store(&fixture);
    let file = backup(&s, "b.db");
    let dir = as_node_2(&fixture).dir;

    let mut bytes = std::fs::read(&file).unwrap();
    bytes.truncate(bytes.len() / 2);
    let cut = fixture.dir.path().join("cut.db");
    std::fs::write(&cut, bytes).unwrap();
    assert!(matches!(
        restore(&cut, &dir, restored_node),
        Err(RestoreError::Unusable(..))
    ));
    let snapshot = s.store.build_snapshot().unwrap().path;
    assert!(matches!(
        restore(&snapshot, &dir, restored_node),
        Err(RestoreError::Unusable(..))
    ));
    assert!(!dir.exists());

    let ours = fixture.options().dir;
    let before = s.store.identity();
    assert!(matches!(
        restore(&file, &ours, restored_node),
        Err(RestoreError::InUse(_))
    ));
    drop(s);
    assert!(matches!(
        restore(&file, &ours, restored_node),
        Err(RestoreError::NotEmpty(..))
    ));
    assert_eq!(fixture.open().store.identity(), before);

    // The file that an interrupted restore left does not prevent another one.
    std::fs::create_dir(&dir).unwrap();
    std::fs::write(dir.join("messagebase.db.restoring"), "half").unwrap();
    restore(&file, &dir, restored_node).unwrap();
    assert!(!dir.join("messagebase.db.restoring").exists());
    assert!(matches!(
        restore(&file, &dir, restored_node),
        Err(RestoreError::NotEmpty(..))
    ));
}
