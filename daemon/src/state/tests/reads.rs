//! The queries of `service/`.

use super::*;

#[test]
fn pages_of_messages_say_whether_more_follow() {
    let mut w = World::new();
    let (ann, bob) = w.ann_and_bob();
    for n in 0..5 {
        w.send(ann, "Bob", &n.to_string(), &format!("k{n}"));
    }
    w.send(bob, "Bob", "self", "s");
    w.send(bob, "Ann", "back", "b");
    let ids = |page: read::Page<messagebase_protocol::json::Message>| {
        (
            page.items.iter().map(|m| m.id).collect::<Vec<_>>(),
            page.more,
        )
    };
    assert_eq!(
        ids(read::inbox_page(&w.conn, &w.memtable, bob.0, 0, 2).unwrap()),
        (vec![1, 2], true)
    );
    assert_eq!(
        ids(read::inbox_page(&w.conn, &w.memtable, bob.0, 4, 9).unwrap()),
        (vec![5, 6], false)
    );
    assert_eq!(
        ids(read::inbox_page(&w.conn, &w.memtable, bob.0, u64::MAX, 9).unwrap()),
        (vec![], false)
    );

    w.by(
        bob.1,
        Change::Ack {
            user: bob.0,
            through: 2,
        },
    );
    let sync = read::sync_page(&w.conn, &w.memtable, bob.0, 1, 5).unwrap();
    assert_eq!(
        sync.items.iter().map(|m| m.id).collect::<Vec<_>>(),
        [2, 3, 4, 5, 6]
    );
    assert!(
        sync.more && sync.items[0].delivered_at.is_some() && sync.items[1].delivered_at.is_none()
    );
    let rest = read::sync_page(&w.conn, &w.memtable, bob.0, 6, 5).unwrap();
    assert_eq!((rest.items.len(), rest.more), (1, false));
    assert_eq!(
        (rest.items[0].from.as_str(), rest.items[0].to.as_str()),
        ("Bob", "Ann")
    );
}

#[test]
fn history_is_both_ways_and_reaches_behind_a_deletion() {
    let mut w = World::new();
    let (ann, bob) = w.ann_and_bob();
    let zoe = w.register("Zoe");
    w.send(ann, "Bob", "1", "1");
    w.send(bob, "Ann", "2", "2");
    w.send(ann, "Ann", "3", "3");
    w.send(ann, "Bob", "4", "4");
    let history = |w: &World, user, with: &str, before, limit| {
        read::history_page(&w.conn, &w.memtable, user, with, before, limit)
            .unwrap()
            .map(|page| {
                (
                    page.items.iter().map(|m| m.id).collect::<Vec<_>>(),
                    page.more,
                )
            })
    };
    assert_eq!(
        history(&w, ann.0, "bob", None, 9),
        Some((vec![1, 2, 4], false))
    );
    assert_eq!(history(&w, ann.0, "bob", None, 2), Some((vec![2, 4], true)));
    assert_eq!(
        history(&w, ann.0, "bob", Some(4), 9),
        Some((vec![1, 2], false))
    );
    assert_eq!(history(&w, ann.0, "ann", None, 9), Some((vec![3], false)));
    assert_eq!(history(&w, ann.0, "zoe", None, 9), Some((vec![], false)));
    assert_eq!(history(&w, ann.0, "nobody", None, 9), None);
    w.op(Change::Remove { name: "Bob".into() });
    assert_eq!(
        history(&w, ann.0, "bob", None, 9),
        Some((vec![2], false)),
        "what was queued to Bob is gone"
    );
    assert_eq!(
        history(&w, zoe, "bob", None, 9),
        None,
        "Zoe never talked to them"
    );
}

#[test]
fn the_directory_is_by_name_and_globs() {
    let mut w = World::new();
    for name in ["bob", "Anna", "ann", "Zoe", "an.b"] {
        w.register(name);
    }
    let list = |pattern: Option<&str>, after: Option<&str>, limit| {
        let page = read::users_page(&w.conn, pattern, after, limit).unwrap();
        (
            page.items
                .into_iter()
                .map(|row| row.name)
                .collect::<Vec<_>>(),
            page.more,
        )
    };
    let names = |names: &[&str]| names.iter().map(|n| (*n).to_owned()).collect::<Vec<_>>();
    assert_eq!(
        list(None, None, 9),
        (names(&["an.b", "ann", "Anna", "bob", "Zoe"]), false)
    );
    assert_eq!(list(None, Some("ann"), 2), (names(&["Anna", "bob"]), true));
    assert_eq!(
        list(Some("ann*"), None, 9),
        (names(&["ann", "Anna"]), false)
    );
    assert_eq!(list(Some("ann"), None, 9), (names(&["ann"]), false));
    assert_eq!(list(Some("*o?"), None, 9), (names(&["bob", "Zoe"]), false));
    assert_eq!(list(Some("[a]*"), None, 9), (names(&[]), false));
    assert_eq!(list(Some("ä*"), None, 9), (names(&[]), false));
    assert_eq!(list(Some("an*"), Some("ann"), 9), (names(&["Anna"]), false));
    assert_eq!(list(Some("b*"), Some("ann"), 9), (names(&["bob"]), false));
    assert_eq!(list(Some("an*"), Some("b"), 9), (names(&[]), false));
}

#[test]
fn a_search_for_a_prefix_does_not_read_the_names_before_it() {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU64, Ordering};
    let mut w = World::new();
    for number in 0..300 {
        w.register(&format!("user-{number:03}"));
    }
    let steps = |pattern: &str, after: Option<&str>| {
        let counted = Arc::new(AtomicU64::new(0));
        let count = counted.clone();
        let each = move || {
            count.fetch_add(1, Ordering::Relaxed);
            false
        };
        w.conn.progress_handler(1, Some(each)).unwrap();
        let page = read::users_page(&w.conn, Some(pattern), after, 100).unwrap();
        w.conn.progress_handler(1, None::<fn() -> bool>).unwrap();
        assert_eq!(page.items.len(), 10, "{pattern} after {after:?}");
        counted.load(Ordering::Relaxed)
    };
    let first = steps("user-00*", None);
    for after in [None, Some("a"), Some("user-100")] {
        let last = steps("user-29*", after);
        assert!(
            last <= first + 10,
            "{last} steps of SQLite's machine, {first} for the first names"
        );
    }
}

#[test]
fn operators_see_counts_and_views_show_names() {
    let mut w = World::new();
    let (ann, bob) = w.ann_and_bob();
    w.send(ann, "Bob", "1", "1");
    w.send(ann, "Bob", "2", "2");
    w.by(
        bob.1,
        Change::Ack {
            user: bob.0,
            through: 1,
        },
    );
    w.op(Change::Lock { name: "Ann".into() });
    let rows = read::user_rows(&w.conn, None, 9).unwrap();
    assert_eq!(rows.len(), 2);
    assert_eq!(
        (rows[0].sent, rows[0].locked, rows[0].sessions),
        (2, true, 0)
    );
    assert_eq!(
        (rows[1].received, rows[1].queued, rows[1].sessions),
        (2, 1, 1)
    );
    assert_eq!(
        read::user_row(&w.conn, "bob").unwrap().as_ref(),
        Some(&rows[1])
    );
    assert_eq!(read::user_row(&w.conn, "x").unwrap(), None);
    assert_eq!(
        read::stats(&w.conn).unwrap(),
        read::Stats {
            users: 2,
            queued: 1,
            sessions: 1
        }
    );
    let sent_at: String = w
        .conn
        .query_row("SELECT sent_at FROM queued_messages", [], |row| row.get(0))
        .unwrap();
    assert_eq!(sent_at, "1970-01-01T00:16:40.006Z");
    assert_eq!(
        w.count("SELECT count(*) FROM queued_messages WHERE sender = 'Ann' AND recipient = 'Bob'"),
        1
    );
    assert_eq!(
        w.count(
            "SELECT count(*) FROM user_summary WHERE name = 'Bob' AND queued = 1 AND received = 2"
        ),
        1
    );
    assert!(!format!("{:?}", read::user_by_id(&w.conn, ann.0).unwrap()).contains("$first"));
}

#[test]
fn whoever_is_gone_with_all_messages_is_nobody_on_every_node_at_any_time() {
    let mut w = World::new();
    let (ann, bob) = w.ann_and_bob();
    w.send(ann, "Bob", "never delivered", "1");
    w.by(
        bob.1,
        Change::Delete {
            user: bob.0,
            credential_version: None,
            key: "gone".into(),
        },
    );
    let mut answers = Vec::new();
    for round in 0..4 {
        answers.push(
            read::history_page(&w.conn, &w.memtable, ann.0, "bob", None, 9)
                .unwrap()
                .is_none(),
        );
        for n in 0..3 {
            w.send(ann, "Ann", "x", &format!("{round}-{n}"));
        }
        while let Some(mut merge) = Merge::begin(&w.memtable) {
            while !merge.piece(&w.conn, &w.memtable, usize::MAX).unwrap() {}
            merge.committed(&w.memtable);
        }
    }
    assert_eq!(answers, [true; 4], "before and after merges");
}
