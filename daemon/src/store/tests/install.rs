//! Snapshots are built, checked and installed; votes are served meanwhile.

use super::*;

const USERS: u64 = 2_500;

/// A store with users, messages and a membership applied through index `USERS + 1`.
fn source(fixture: &Fixture) -> Driven {
    let mut s = fixture.open();
    let identity = Identity {
        cluster_id: "a".repeat(32),
        raft_id: 65_537,
        founders: vec![],
    };
    s.run(|done| Job::SaveIdentity { identity, done }).unwrap();
    let rows: Vec<_> = (0..USERS).map(|i| register(i, &format!("u{i}"))).collect();
    s.append(rows.clone());
    s.apply(rows);
    let token = Secrets {
        password_hash: None,
        token_hash: Some([7; 32]),
    };
    let login = change(
        USERS,
        Change::Login {
            user: 1,
            credential_version: 1,
        },
        Some(token),
    );
    let member = LogRow {
        id: id(1, USERS + 1),
        payload: LogPayload::Membership("{\"m\":1}".into()),
    };
    s.append(vec![login.clone(), member.clone()]);
    s.apply(vec![login, member]);
    let sends: Vec<_> = (0..50)
        .map(|n| {
            let body = Change::Send {
                user: 1,
                to: format!("u{n}"),
                body: format!("hi {n}"),
                key: format!("k{n}"),
            };
            let mut row = change(USERS + 2 + n, body, None);
            if let LogPayload::Change(envelope) = &mut row.payload {
                Arc::make_mut(envelope).actor = Some(1);
            }
            row
        })
        .collect();
    s.append(sends.clone());
    let outcomes = s.apply(sends);
    assert!(
        matches!(outcomes[0], Outcome::Sent { id: 1, .. }),
        "{:?}",
        outcomes[0]
    );
    s
}

fn digests(s: &Driven) -> Vec<TableDigest> {
    s.store.readers().with(digest).unwrap()
}

fn schema(s: &Driven) -> Vec<(String, String)> {
    let sql = "SELECT name, tbl_name FROM sqlite_schema ORDER BY name";
    s.store
        .readers()
        .with(|conn| {
            conn.prepare(sql)?
                .query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?
                .collect()
        })
        .unwrap()
}

#[test]
fn an_installed_snapshot_is_the_same_state_with_its_views_and_indexes() {
    let (from, to) = (Fixture::new(), Fixture::new());
    let source = source(&from);
    let built = source.store.build_snapshot().unwrap();
    assert_eq!(built.last, id(1, USERS + 51));
    assert_eq!(source.store.current_snapshot(), Some(built.clone()));
    assert_eq!(
        source.store.build_snapshot().unwrap(),
        built,
        "nothing new: the same file"
    );

    let mut target = to.open();
    target.append((0..5).map(|i| blank(1, i)).collect());
    target.apply(vec![register(0, "Stale")]);
    let schema_before = schema(&target);
    let received = target.store.snapshot_dir().join("receiving-1");
    std::fs::copy(&built.path, &received).unwrap();
    let file = SnapshotFile::open_checked(&received, &"a".repeat(32)).unwrap();
    assert_eq!(
        (file.last, file.membership.clone()),
        (built.last, built.membership.clone())
    );
    target
        .run(|done| Job::InstallSnapshot { file, done })
        .unwrap();

    assert_eq!(digests(&target), digests(&source));
    assert_eq!(schema(&target), schema_before);
    assert_eq!(
        target.count("SELECT count(*) FROM queued_messages WHERE recipient LIKE 'u%'"),
        50
    );
    assert_eq!(target.count("SELECT count(*) FROM user_summary"), USERS);
    assert_eq!(target.query::<String>("PRAGMA integrity_check"), "ok");
    assert_eq!(*to.heard.resyncs.lock().unwrap(), 1);
    assert_eq!(*target.store.applied().borrow(), Some(built.last));
    let state = target.store.raft_state().unwrap();
    assert_eq!(
        (state.purged, state.last, state.applied),
        (Some(built.last), None, Some(built.last))
    );
    assert_eq!(
        state.membership,
        Some((id(1, USERS + 1), "{\"m\":1}".into()))
    );
    assert_eq!(target.count("SELECT count(*) FROM log"), 0);
    let current = target.store.current_snapshot().unwrap();
    assert!(current.path.exists() && !received.exists());

    goes_on(&mut target, &source);
    // Everything is still there after a restart.
    drop(target);
    let target = to.open();
    assert_eq!(target.store.current_snapshot(), Some(current));
    assert_eq!(target.log(0..9_999), [USERS + 52]);
}

/// The log goes on, and apply uses the new tables.
fn goes_on(target: &mut Driven, source: &Driven) {
    target.append(vec![register(USERS + 52, "After")]);
    let outcome = target.apply(vec![register(USERS + 52, "After")]);
    assert_eq!(
        outcome,
        [Outcome::Registered {
            user: USERS + 1,
            name: "After".into()
        }]
    );
    let differing: Vec<_> = digests(target)
        .into_iter()
        .zip(digests(source))
        .filter(|(a, b)| a != b)
        .map(|(a, _)| a.table)
        .collect();
    assert_eq!(
        differing,
        ["users", "account_keys", "mailboxes", "replicated_state"],
        "a digest sees what differs"
    );
}

#[test]
fn a_second_install_finds_the_names_free() {
    let (from, to) = (Fixture::new(), Fixture::new());
    let mut source = source(&from);
    let mut target = to.open();
    for round in 0..3 {
        let next = USERS + 52 + round;
        let row = register(next, &format!("more{round}"));
        source.append(vec![row.clone()]);
        source.apply(vec![row]);
        let file = source.store.build_snapshot().unwrap();
        target
            .run(|done| Job::InstallSnapshot { file, done })
            .unwrap();
        assert_eq!(digests(&target), digests(&source), "round {round}");
    }
    assert_eq!(target.query::<String>("PRAGMA integrity_check"), "ok");
    assert_eq!(
        std::fs::read_dir(target.store.snapshot_dir())
            .unwrap()
            .count(),
        1,
        "the newest only is kept"
    );
}

#[test]
fn an_older_snapshot_changes_nothing() {
    let fixture = Fixture::new();
    let mut s = source(&fixture);
    let file = s.store.build_snapshot().unwrap();
    let row = register(USERS + 52, "Newer");
    s.append(vec![row.clone()]);
    s.apply(vec![row]);
    let before = digests(&s);
    s.run(|done| Job::InstallSnapshot { file, done }).unwrap();
    assert_eq!(digests(&s), before);
    assert_eq!(*fixture.heard.resyncs.lock().unwrap(), 0);
}

#[test]
fn a_snapshot_that_ends_before_the_log_begins_is_not_kept() {
    let fixture = Fixture::new();
    let mut s = source(&fixture);
    let old = s.store.build_snapshot().unwrap();
    let rows: Vec<_> = (0..3)
        .map(|n| register(USERS + 52 + n, &format!("late{n}")))
        .collect();
    s.append(rows.clone());
    s.apply(rows);
    // The file that a crash leaves after an install's COMMIT and before the renaming.
    s.run(|done| Job::Purge {
        through: id(1, USERS + 54),
        done,
    })
    .unwrap();
    drop(s);
    let s = fixture.open();
    assert_eq!(s.store.current_snapshot(), None);
    assert!(!old.path.exists());
    assert_eq!(s.store.build_snapshot().unwrap().last, id(1, USERS + 54));
}

#[test]
fn a_snapshot_serves_until_the_log_has_left_it_behind() {
    let fixture = Fixture::new();
    let mut s = source(&fixture);
    let first = s.store.build_snapshot().unwrap();
    let row = register(first.last.index + 1, "Later");
    s.append(vec![row.clone()]);
    s.apply(vec![row]);
    assert_eq!(
        s.store.snapshot_of_all_through(first.last.index).unwrap(),
        first,
        "the second member gets the same"
    );
    s.store.forget_snapshot_before(first.last.index);
    assert_eq!(
        s.store.current_snapshot(),
        Some(first.clone()),
        "the log goes on from it"
    );
    s.store.forget_snapshot_before(first.last.index + 1);
    assert!(s.store.current_snapshot().is_none() && !first.path.exists());
    let second = s.store.snapshot_of_all_through(first.last.index).unwrap();
    assert_eq!(second.last.index, first.last.index + 1);
    // The log is purged while a snapshot is being built.
    s.store.forget_snapshot_before(second.last.index + 1);
    let error = s.store.build_snapshot().unwrap_err();
    assert!(
        error.to_string().contains("raise change_log_bytes"),
        "{error}"
    );
    assert_eq!(
        std::fs::read_dir(s.store.snapshot_dir()).unwrap().count(),
        0,
        "nothing unfinished is left"
    );
}

#[test]
fn a_log_that_goes_on_behind_the_snapshot_stays_and_another_does_not() {
    let from = Fixture::new();
    let file = source(&from).store.build_snapshot().unwrap();
    let end = USERS + 60;
    for (term, kept) in [(1, end - file.last.index - 1), (2, 0)] {
        let to = Fixture::new();
        let mut target = to.open();
        // Several segments.
        for part in (0..end).collect::<Vec<u64>>().chunks(USERS as usize / 5) {
            target.append(part.iter().map(|i| blank(term, *i)).collect());
        }
        let file = SnapshotFile {
            path: file.path.clone(),
            ..file.clone()
        };
        let last = file.last;
        target
            .run(|done| Job::InstallSnapshot { file, done })
            .unwrap();
        assert_eq!(target.count("SELECT count(*) FROM log"), kept);
        assert_eq!(target.log(0..9_999).len() as u64, kept);
        assert_eq!(target.store.log_begin(), last.index + 1);
        target.append(vec![blank(term, last.index + 1 + kept)]);
        assert_eq!(target.log(0..9_999).len() as u64, kept + 1);
    }
}

#[test]
fn entries_behind_a_snapshot_on_its_way_wait_for_it_and_votes_do_not() {
    let (from, to) = (Fixture::new(), Fixture::new());
    let file = source(&from).store.build_snapshot().unwrap();
    let last = file.last;
    let mut target = to.open();
    target.append(vec![blank(1, 0)]);
    let order: Arc<Mutex<Vec<&'static str>>> = Arc::default();
    let note = |what: &'static str| {
        let order = order.clone();
        Box::new(move |result: Result<(), StoreError>| {
            result.unwrap();
            order.lock().unwrap().push(what);
        })
    };
    let row = register(last.index + 1, "Behind");
    now(async {
        target
            .store
            .submit(Job::InstallSnapshot {
                file,
                done: note("install"),
            })
            .await
            .unwrap();
        target
            .store
            .append(vec![row.clone()], note("append"))
            .await
            .unwrap();
        target.store.purge(last, note("purge")).await.unwrap();
        target
            .store
            .submit(Job::SaveVote {
                vote: "{}".into(),
                done: note("vote"),
            })
            .await
            .unwrap();
        let items = vec![ApplyItem {
            row: row.clone(),
            respond: None,
        }];
        target
            .store
            .submit(Job::Apply {
                items,
                done: note("apply"),
            })
            .await
            .unwrap();
    });
    assert_eq!(
        target.store.read_log(0..9_999, usize::MAX).unwrap(),
        [row],
        "readable while it waits"
    );
    target.step().unwrap();
    assert_eq!(
        *order.lock().unwrap(),
        ["vote", "install", "append", "purge", "apply"]
    );
    assert_eq!(target.count("SELECT count(*) FROM log"), 1);
    assert_eq!(
        target.count("SELECT count(*) FROM users WHERE name = 'Behind'"),
        1
    );
}

#[test]
fn an_append_that_comes_before_its_snapshot_waits_for_it() {
    let (from, to) = (Fixture::new(), Fixture::new());
    let file = source(&from).store.build_snapshot().unwrap();
    let mut target = to.open();
    target.append(vec![blank(1, 0)]);
    let row = register(file.last.index + 1, "Behind");
    let (append, answer) = done();
    now(target.store.append(vec![row.clone()], append)).unwrap();
    target.step().unwrap();
    assert!(
        answer.try_recv().is_err(),
        "written before the state that it stands on"
    );
    target
        .run(|done| Job::InstallSnapshot { file, done })
        .unwrap();
    answer.try_recv().unwrap().unwrap();
    assert_eq!(target.count("SELECT count(*) FROM log"), 1);
    assert_eq!(target.store.read_log(0..9_999, usize::MAX).unwrap(), [row]);
}

#[test]
fn readers_see_the_old_state_or_the_new_one_while_a_snapshot_is_installed() {
    let (from, to) = (Fixture::new(), Fixture::new());
    let file = source(&from).store.build_snapshot().unwrap();
    let Driven {
        store,
        writer,
        dir: _dir,
    } = to.open();
    let thread = spawn_writer(writer, |error| panic!("{error}"));
    let (install, answer) = done();
    now(store.submit(Job::InstallSnapshot {
        file,
        done: install,
    }))
    .unwrap();
    let mut votes = 0;
    let result = loop {
        let users: i64 = store
            .readers()
            .with(|conn| conn.query_row("SELECT count(*) FROM user_summary", [], |row| row.get(0)))
            .unwrap();
        assert!(users == 0 || users == USERS as i64, "{users}");
        let (vote, voted) = done();
        now(store.submit(Job::SaveVote {
            vote: format!("{{\"n\":{votes}}}"),
            done: vote,
        }))
        .unwrap();
        voted.recv_timeout(DEADLINE).unwrap().unwrap();
        votes += 1;
        if let Ok(result) = answer.try_recv() {
            break result;
        }
    };
    result.unwrap();
    assert!(votes > 1, "no vote was served during the install");
    drop(store);
    thread.join().unwrap();
}

#[test]
fn a_snapshot_of_another_cluster_or_a_damaged_one_is_refused() {
    let fixture = Fixture::new();
    let file = source(&fixture).store.build_snapshot().unwrap();
    let error = SnapshotFile::open_checked(&file.path, &"b".repeat(32)).unwrap_err();
    assert!(error.to_string().contains("of cluster"), "{error}");
    let mut bytes = std::fs::read(&file.path).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle..middle + 4_096].fill(0xaa);
    std::fs::write(&file.path, bytes).unwrap();
    SnapshotFile::open_checked(&file.path, &"a".repeat(32)).unwrap_err();
}

#[test]
fn nothing_applied_makes_no_snapshot() {
    assert!(Fixture::new().open().store.build_snapshot().is_err());
}
