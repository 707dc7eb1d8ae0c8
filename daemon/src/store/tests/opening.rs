//! Which directories are opened, and that a refusal writes nothing.

use std::os::unix::fs::PermissionsExt;

use super::*;

#[test]
fn files_are_private() {
    let fixture = Fixture::new();
    let mut s = fixture.open();
    s.append(vec![blank(1, 0)]);
    let mode = |name: &str| {
        let path = fixture.options().dir.join(name);
        std::fs::metadata(path).unwrap().permissions().mode() & 0o777
    };
    assert_eq!(mode(""), 0o700);
    assert_eq!(mode("snapshots"), 0o700);
    for name in [
        "messagebase.db",
        "messagebase.db-wal",
        "messagebase.db-shm",
        "lock",
    ] {
        assert_eq!(mode(name), 0o600, "{name}");
    }
}

#[test]
fn a_second_open_is_refused_and_names_the_process() {
    let fixture = Fixture::new();
    let first = fixture.open();
    let Err(OpenError::InUse { pid, .. }) = Store::open(fixture.options()) else {
        panic!("opened twice")
    };
    assert_eq!(pid, Some(std::process::id()));
    drop(first);
    fixture.open();
}

#[test]
fn a_newer_schema_is_refused_and_both_versions_are_named() {
    let fixture = Fixture::new();
    let file = fixture.open().store.file().to_owned();
    rusqlite::Connection::open(&file)
        .unwrap()
        .pragma_update(None, "user_version", 99)
        .unwrap();
    let error = Store::open(fixture.options()).err().unwrap();
    assert!(
        matches!(
            error,
            OpenError::NewerSchema {
                found: 99,
                known: 1,
                ..
            }
        ),
        "{error}"
    );
}

#[test]
fn a_file_of_an_unfinished_schema_is_refused_and_the_table_named() {
    let fixture = Fixture::new();
    let file = fixture.open().store.file().to_owned();
    let conn = rusqlite::Connection::open(&file).unwrap();
    conn.execute_batch("DROP VIEW queued_messages; DROP TABLE message_lists")
        .unwrap();
    let error = Store::open(fixture.options()).err().unwrap();
    assert!(
        error.to_string().contains("no table message_lists"),
        "{error}"
    );
}

#[test]
fn another_nodes_directory_is_refused() {
    let fixture = Fixture::new();
    drop(fixture.open());
    let error = Store::open(StoreOptions {
        node: 2,
        ..fixture.options()
    })
    .err()
    .unwrap();
    assert!(
        matches!(
            error,
            OpenError::OtherNode {
                found: 1,
                asked: 2,
                ..
            }
        ),
        "{error}"
    );
}

#[test]
fn a_file_that_is_no_database_is_refused() {
    let fixture = Fixture::new();
    std::fs::create_dir_all(fixture.options().dir).unwrap();
    std::fs::write(
        fixture.options().dir.join("messagebase.db"),
        "not a database, but long enough to look".repeat(99),
    )
    .unwrap();
    assert!(matches!(
        Store::open(fixture.options()),
        Err(OpenError::Io { .. })
    ));
}

#[test]
fn a_copy_taken_while_the_node_runs_is_what_a_crash_leaves_and_opens() {
    let fixture = Fixture::new();
    let mut s = fixture.open();
    s.append(vec![register(0, "Ann"), register(1, "Bob")]);
    s.apply(vec![register(0, "Ann")]);
    let crashed = Fixture::new();
    std::fs::create_dir_all(crashed.options().dir).unwrap();
    for name in ["messagebase.db", "messagebase.db-wal"] {
        std::fs::copy(
            fixture.options().dir.join(name),
            crashed.options().dir.join(name),
        )
        .unwrap();
    }
    let mut after = crashed.open();
    let state = after.store.raft_state().unwrap();
    assert_eq!(
        (state.applied, state.last),
        (Some(id(1, 0)), Some(id(1, 1)))
    );
    let rest = after.store.read_log(1..2, usize::MAX).unwrap();
    assert_eq!(
        after.apply(rest),
        [Outcome::Registered {
            user: 2,
            name: "Bob".into()
        }]
    );
}

#[test]
fn leftovers_of_an_install_are_dropped() {
    let fixture = Fixture::new();
    let file = fixture.open().store.file().to_owned();
    rusqlite::Connection::open(&file)
        .unwrap()
        .execute_batch("CREATE TABLE staging_users (x); CREATE TABLE old_messages (x);")
        .unwrap();
    let s = fixture.open();
    let left = "SELECT count(*) FROM sqlite_schema WHERE name LIKE 'staging%' OR name LIKE 'old%'";
    assert_eq!(s.count(left), 0);
}

#[test]
fn a_lost_node_directory_lock_file_with_rubbish_names_nobody() {
    let fixture = Fixture::new();
    let first = fixture.open();
    std::fs::write(fixture.options().dir.join("lock"), "rubbish").unwrap();
    assert!(matches!(
        Store::open(fixture.options()),
        Err(OpenError::InUse { pid: None, .. })
    ));
    drop(first);
}
