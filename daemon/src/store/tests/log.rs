//! Log jobs, the tail, applies, failure.

use super::*;

#[test]
fn appended_rows_are_readable_before_they_are_durable_and_after_a_reopen() {
    let fixture = Fixture::new();
    let mut s = fixture.open();
    let (done, answer) = done();
    now(s.store.append(vec![blank(1, 0), register(1, "Ann")], done)).unwrap();
    assert_eq!(s.log(0..9), [0, 1]);
    assert!(s.store.read_tail(0..2).is_some());
    assert!(
        answer.try_recv().is_err(),
        "acknowledged before the writer ran"
    );
    assert_eq!(s.count("SELECT count(*) FROM log"), 0);
    s.step().unwrap();
    answer.try_recv().unwrap().unwrap();
    drop(s);

    let s = fixture.open();
    assert_eq!(s.store.read_tail(0..2), None, "the tail begins empty");
    assert_eq!(
        s.store.read_log(0..9, usize::MAX).unwrap(),
        [blank(1, 0), register(1, "Ann")]
    );
    assert_eq!(s.store.raft_state().unwrap().last, Some(id(1, 1)));
}

#[test]
fn votes_and_identity_survive_and_are_cached_only_when_durable() {
    let fixture = Fixture::new();
    let mut s = fixture.open();
    let (done, _answer) = done();
    now(s.store.submit(Job::SaveVote {
        vote: "{\"term\":3}".into(),
        done,
    }))
    .unwrap();
    assert_eq!(s.store.vote(), None);
    s.step().unwrap();
    assert_eq!(s.store.vote().as_deref(), Some("{\"term\":3}"));
    let identity = Identity {
        cluster_id: "c".repeat(32),
        raft_id: 65_537,
        founders: vec![1, 2, 3],
    };
    s.run(|done| Job::SaveIdentity {
        identity: identity.clone(),
        done,
    })
    .unwrap();
    drop(s);
    let s = fixture.open();
    assert_eq!(s.store.identity(), Some(identity));
    assert_eq!(
        s.store.raft_state().unwrap().vote.as_deref(),
        Some("{\"term\":3}")
    );
}

#[test]
fn a_cut_is_seen_at_once_and_what_replaces_it_is_not_taken_for_durable() {
    let mut s = Fixture::new().open();
    s.append((0..10).map(|i| blank(1, i)).collect());
    let (cut, _a) = done();
    now(s.store.truncate(Some(4), cut)).unwrap();
    assert_eq!(s.log(0..99), [0, 1, 2, 3, 4]);
    assert_eq!(s.store.raft_state().unwrap().last, Some(id(1, 4)));
    let (more, _b) = done();
    now(s.store.append(vec![blank(2, 5), blank(2, 6)], more)).unwrap();
    assert_eq!(
        s.store.read_log(3..99, usize::MAX).unwrap().last(),
        Some(&blank(2, 6))
    );
    s.step().unwrap();
    assert_eq!(s.count("SELECT count(*) FROM log"), 7);
    assert_eq!(s.count("SELECT term FROM log WHERE log_index = 5"), 2);
}

#[test]
fn truncating_to_nothing_empties_the_log() {
    let mut s = Fixture::new().open();
    s.append((0..3).map(|i| blank(1, i)).collect());
    s.run(|done| Job::Truncate {
        keep_through: None,
        done,
    })
    .unwrap();
    assert_eq!(s.log(0..9), [0_u64; 0]);
    assert_eq!(s.store.raft_state().unwrap().last, None);
    assert_eq!(s.store.log_bytes(), 0);
}

#[test]
fn a_purge_moves_the_beginning_and_frees_bytes() {
    let fixture = Fixture::new();
    let mut s = fixture.open();
    for part in 0..6 {
        s.append(
            (part * 500..part * 500 + 500)
                .map(|i| blank(1, i))
                .collect(),
        );
    }
    let before = s.store.log_bytes();
    let (purge, answer) = done();
    now(s.store.purge(id(1, 2_899), purge)).unwrap();
    assert_eq!(s.store.log_begin(), 2_900);
    assert_eq!(s.log(0..2_902), [2_900, 2_901]);
    s.step().unwrap();
    answer.try_recv().unwrap().unwrap();
    assert_eq!(s.count("SELECT count(*) FROM log"), 100);
    assert_eq!(s.store.log_bytes(), before / 30);
    drop(s);
    let mut s = fixture.open();
    let state = s.store.raft_state().unwrap();
    assert_eq!(
        (state.purged, state.last),
        (Some(id(1, 2_899)), Some(id(1, 2_999)))
    );
    s.run(|done| Job::Purge {
        through: id(1, 2_999),
        done,
    })
    .unwrap();
    assert_eq!(s.store.raft_state().unwrap().last, None);
    s.append(vec![blank(1, 3_000)]);
    assert_eq!(s.log(0..9_999), [3_000]);
}

#[test]
fn a_read_is_cut_by_bytes_but_never_to_nothing() {
    let mut s = Fixture::new().open();
    s.append((0..100).map(|i| blank(1, i)).collect());
    assert_eq!(s.store.read_log(5..50, 1).unwrap(), [blank(1, 5)]);
    let some = s.store.read_log(5..50, 1_000).unwrap();
    assert!(some.len() > 1 && some.len() < 45, "{}", some.len());
}

#[test]
fn an_append_that_leaves_a_hole_which_no_snapshot_fills_stops_the_writer_for_good() {
    let mut s = Fixture::new().open();
    s.append(vec![blank(1, 0)]);
    let (held, held_answer) = done();
    now(s.store.append(vec![blank(1, 5)], held)).unwrap();
    s.step().unwrap();
    s.run(|done| Job::SaveVote {
        vote: "{}".into(),
        done,
    })
    .unwrap();
    assert!(
        held_answer.try_recv().is_err(),
        "answered before it could be written"
    );
    let items = vec![ApplyItem {
        row: blank(1, 5),
        respond: None,
    }];
    assert!(matches!(
        s.run(|done| Job::Apply { items, done }),
        Err(StoreError::Fatal(_))
    ));
    assert!(held_answer.try_recv().unwrap().is_err());
    let (late, answer) = done();
    assert!(matches!(
        now(s.store.append(vec![blank(1, 1)], late)),
        Err(StoreError::Fatal(_))
    ));
    assert!(
        answer.try_recv().unwrap().is_err(),
        "a late job is answered too"
    );
}

#[test]
fn so_many_appends_behind_a_hole_stop_the_writer() {
    let mut s = Fixture::new().open();
    s.append(vec![blank(1, 0)]);
    let mut answers = Vec::new();
    let stopped = (5..3_000).find(|index| {
        let (held, answer) = done();
        answers.push(answer);
        now(s.store.append(vec![blank(1, *index)], held)).unwrap();
        s.step().is_err()
    });
    assert!(stopped.is_some());
    assert!(
        answers
            .iter()
            .all(|answer| answer.try_recv().unwrap().is_err())
    );
}

#[test]
fn jobs_behind_a_failed_one_are_answered_with_the_failure() {
    let mut s = Fixture::new().open();
    s.append(vec![blank(1, 0)]);
    let (bad, bad_answer) = done();
    let (vote, vote_answer) = done();
    let (apply, apply_answer) = done();
    now(s.store.append(vec![blank(1, 5)], bad)).unwrap();
    now(s.store.submit(Job::SaveVote {
        vote: "{}".into(),
        done: vote,
    }))
    .unwrap();
    let items = vec![ApplyItem {
        row: blank(1, 5),
        respond: None,
    }];
    now(s.store.submit(Job::Apply { items, done: apply })).unwrap();
    s.step().unwrap_err();
    for answer in [bad_answer, vote_answer, apply_answer] {
        assert!(answer.try_recv().unwrap().is_err());
    }
    assert_eq!(*s.store.applied().borrow(), None);
    assert_eq!(s.store.vote(), None);
}

#[test]
fn applying_publishes_after_commit_and_a_lost_apply_is_replayed_from_the_same_place() {
    let fixture = Fixture::new();
    let mut s = fixture.open();
    s.append(vec![blank(1, 0), register(1, "Ann"), register(2, "Bob")]);
    let outcomes = s.apply(vec![blank(1, 0), register(1, "Ann")]);
    assert_eq!(
        outcomes,
        [
            Outcome::Done,
            Outcome::Registered {
                user: 1,
                name: "Ann".into()
            }
        ]
    );
    assert_eq!(*s.store.applied().borrow(), Some(id(1, 1)));
    drop(s);

    let mut s = fixture.open();
    let applied = s.store.raft_state().unwrap().applied.unwrap();
    assert_eq!(applied, id(1, 1));
    let rest = s.store.read_log(applied.index + 1..99, usize::MAX).unwrap();
    assert_eq!(
        s.apply(rest),
        [Outcome::Registered {
            user: 2,
            name: "Bob".into()
        }]
    );
    assert_eq!(s.count("SELECT count(*) FROM users"), 2);
}

#[test]
fn an_apply_that_comes_while_the_log_is_written_rides_unless_it_would_overtake_an_append() {
    enum Next {
        Append,
        Apply,
    }
    for (jobs, rides) in [
        (vec![Next::Apply], true),
        (vec![Next::Apply, Next::Append], true),
        (vec![Next::Append, Next::Apply], false),
    ] {
        let mut s = Fixture::new().open();
        s.append(vec![blank(1, 0)]);
        let (appended, append) = done();
        now(s.store.append(vec![blank(1, 1)], appended)).unwrap();
        let (applied, apply) = done();
        let mut applied = Some(applied);
        for job in jobs {
            let job = match job {
                Next::Append => Job::Append {
                    rows: vec![blank(1, 2)],
                    done: Box::new(drop),
                },
                Next::Apply => Job::Apply {
                    items: vec![ApplyItem {
                        row: blank(1, 0),
                        respond: None,
                    }],
                    done: applied.take().unwrap(),
                },
            };
            now(s.store.submit(job)).unwrap();
        }
        let first = now(s.writer.recv()).unwrap();
        s.writer.accept(first).unwrap();
        assert!(s.writer.piece(Piece::Log).unwrap());
        append.try_recv().unwrap().unwrap();
        assert_eq!(apply.try_recv().is_ok(), rides);
        assert_eq!(s.store.applied().borrow().is_some(), rides);
        // All are acknowledged before they are dropped.
        s.writer.piece(Piece::Log).unwrap();
        s.writer.piece(Piece::State).unwrap();
    }
}

#[test]
fn an_entry_of_a_newer_version_stops_the_node_and_leaves_no_trace() {
    let mut s = Fixture::new().open();
    let mut newer = register(1, "Ann");
    if let LogPayload::Change(envelope) = &mut newer.payload {
        Arc::make_mut(envelope).v = LOG_VERSION + 1;
    }
    let items = vec![
        ApplyItem {
            row: register(0, "Zoe"),
            respond: None,
        },
        ApplyItem {
            row: newer,
            respond: None,
        },
    ];
    let error = s.run(|done| Job::Apply { items, done }).unwrap_err();
    assert!(error.to_string().contains("version 2"), "{error}");
    assert_eq!(s.count("SELECT count(*) FROM users"), 0);
}

#[test]
fn more_rows_than_one_transaction_takes_are_all_applied() {
    let mut s = Fixture::new().open();
    let outcomes = s.apply((0..4_500).map(|i| register(i, &format!("u{i}"))).collect());
    assert_eq!(outcomes.len(), 4_500);
    assert_eq!(s.count("SELECT count(*) FROM users"), 4_500);
}

#[test]
fn the_change_log_shows_no_secret() {
    let mut s = Fixture::new().open();
    let member = LogRow {
        id: id(1, 1),
        payload: LogPayload::Membership("{\"n\":[1]}".into()),
    };
    s.append(vec![blank(1, 0), member.clone(), register(2, "Ann")]);
    assert_eq!(
        s.count("SELECT count(*) FROM change_log WHERE json_valid(change)"),
        3
    );
    let text: String = s.query("SELECT group_concat(change, ' ') FROM change_log");
    assert!(text.contains("Ann") && !text.contains("argon2"), "{text}");
    assert_eq!(s.count("SELECT leader FROM change_log LIMIT 1"), 1);
    let readable = s
        .store
        .readers()
        .with(|conn| crate::state::read::change_rows(conn, 1, 9))
        .unwrap();
    assert_eq!(readable.len(), 2);
    s.apply(vec![member]);
    assert_eq!(
        s.store.raft_state().unwrap().membership,
        Some((id(1, 1), "{\"n\":[1]}".into()))
    );
}

#[test]
fn the_thread_serves_until_the_last_handle_is_gone() {
    let Driven {
        store,
        writer,
        dir: _dir,
    } = Fixture::new().open();
    let thread = spawn_writer(writer, |error| panic!("{error}"));
    let (done, answer) = done();
    now(store.append(vec![blank(1, 0)], done)).unwrap();
    answer.recv_timeout(DEADLINE).unwrap().unwrap();
    drop(store);
    thread.join().unwrap();
}

#[test]
fn a_foreign_lock_is_waited_out() {
    let Driven {
        store,
        writer,
        dir: _dir,
    } = Fixture::new().open();
    let foreign = rusqlite::Connection::open(store.file()).unwrap();
    foreign.execute_batch("BEGIN IMMEDIATE").unwrap();
    let thread = spawn_writer(writer, |error| panic!("{error}"));
    let (done, answer) = done();
    now(store.append(vec![blank(1, 0)], done)).unwrap();
    // Longer than one of the writer's waits, so that it meets SQLITE_BUSY.
    assert!(
        answer.recv_timeout(Duration::from_millis(600)).is_err(),
        "written under a foreign lock"
    );
    foreign.execute_batch("COMMIT").unwrap();
    answer.recv_timeout(DEADLINE).unwrap().unwrap();
    drop(store);
    thread.join().unwrap();
}

#[test]
fn the_wal_is_bounded_and_readers_are_limited_in_time() {
    let mut s = Fixture::new().open();
    for round in 0..30_u64 {
        let body = "x".repeat(4_000);
        let rows = (round * 100..round * 100 + 100)
            .map(|i| {
                change(
                    i,
                    Change::Send {
                        user: 1,
                        to: "b".into(),
                        body: body.clone(),
                        key: i.to_string(),
                    },
                    None,
                )
            })
            .collect();
        s.append(rows);
    }
    let wal = std::fs::metadata(s.store.file().with_extension("db-wal"))
        .unwrap()
        .len();
    assert!(wal < 8 * 1024 * 1024, "{wal}");
    assert!(s.store.db_bytes() > 12_000_000);
    let endless =
        "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT count(*) FROM n";
    let result = s
        .store
        .readers()
        .with_time(Duration::from_millis(50), |conn| {
            conn.query_row(endless, [], |row| row.get::<_, i64>(0))
        });
    assert!(matches!(result, Err(ReadError::TimedOut)), "{result:?}");
    let refused = s
        .store
        .readers()
        .with(|conn| conn.execute("DELETE FROM log_0", []));
    let Err(ReadError::Sqlite(error)) = refused else {
        panic!("{refused:?}")
    };
    assert_eq!(
        error.sqlite_error_code(),
        Some(rusqlite::ErrorCode::ReadOnly),
        "{error}"
    );
}

#[test]
fn under_a_stream_of_appends_the_wal_begins_anew_again_and_again() {
    const ROUNDS: u64 = 300;
    const LONG: Duration = Duration::from_secs(120);
    let Driven {
        store,
        writer,
        dir: _dir,
    } = Fixture::new().open();
    let thread = spawn_writer(writer, |error| panic!("{error}"));
    let wal = store.file().with_extension("db-wal");
    let body = "x".repeat(4_000);
    // No job waits for the one before it, so the writer is never idle and always appends behind the thread's copy.
    let mut answers = Vec::new();
    for round in 0..ROUNDS {
        let rows = (round * 100..round * 100 + 100)
            .map(|i| {
                change(
                    i,
                    Change::Send {
                        user: 1,
                        to: "b".into(),
                        body: body.clone(),
                        key: i.to_string(),
                    },
                    None,
                )
            })
            .collect();
        let (done, answer) = done();
        now(store.append(rows, done)).unwrap();
        answers.push(answer);
    }
    answers
        .iter()
        .for_each(|answer| answer.recv_timeout(LONG).unwrap().unwrap());
    let size = std::fs::metadata(wal).unwrap().len();
    assert!(size < 100 * 1024 * 1024, "{size} of {ROUNDS} x 400 kB");
    drop(store);
    thread.join().unwrap();
}

#[test]
fn an_operators_sql_reads_within_limits_and_writes_nothing() {
    let mut s = Fixture::new().open();
    s.append((0..10).map(|i| blank(1, i)).collect());
    let readers = s.store.readers();
    let rows = readers
        .sql(
            "SELECT log_index AS i, NULL, x'0aff', 'text' FROM change_log",
            3,
        )
        .unwrap();
    assert_eq!(rows.columns[0], "i");
    assert_eq!((rows.rows.len(), rows.more), (3, true));
    let text = |s: &str| Some(s.to_owned());
    assert_eq!(
        rows.rows[1],
        [text("1"), None, text("x'0aff'"), text("text")]
    );
    assert!(!readers.sql("SELECT 1", 3).unwrap().more);
    for refused in [
        "DELETE FROM log_0",
        "ATTACH '/tmp/elsewhere.db' AS x",
        "PRAGMA query_only = 0",
        "CREATE TEMP TABLE t (x)",
        "SELECT load_extension('x')",
        "BEGIN",
        "not sql",
    ] {
        assert!(
            matches!(readers.sql(refused, 3), Err(ReadError::Sqlite(_))),
            "{refused}"
        );
    }
    // The authorizer is removed after the query: both connections of the pool work as before.
    for _ in 0..4 {
        assert_eq!(s.count("SELECT count(*) FROM log"), 10);
    }
}
