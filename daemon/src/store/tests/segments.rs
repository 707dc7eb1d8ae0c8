//! The log's segments compared with a plain list, and the bytes that removing them writes.

use std::collections::VecDeque;

use super::*;
use crate::store::schema::LOG_TABLES;

/// How many tables hold rows.
fn in_use(s: &Driven) -> usize {
    LOG_TABLES
        .iter()
        .filter(|table| s.count(&format!("SELECT count(*) FROM {table}")) > 0)
        .count()
}

/// The file against the model, which begins at entry `begin`.
fn agrees(s: &Driven, begin: u64, model: &VecDeque<LogRow>) {
    let end = begin + model.len() as u64;
    let read = s.store.read_log(begin..end + 9, usize::MAX).unwrap();
    assert_eq!(
        read.iter().collect::<Vec<_>>(),
        model.iter().collect::<Vec<_>>()
    );
    assert_eq!(s.count("SELECT count(*) FROM log"), model.len() as u64);
    let stored = "SELECT coalesce(sum(octet_length(change) + coalesce(octet_length(secrets), 0) + 96), 0) FROM log";
    assert_eq!(s.store.log_bytes(), s.count(stored));
}

#[test]
fn whatever_is_appended_cut_and_purged_the_segments_hold_the_log() {
    for seed in 1..=12 {
        let mut steps = fastrand::Rng::with_seed(seed);
        let fixture = Fixture::new();
        let mut s = fixture.open();
        let (mut begin, mut term, mut most) = (0, 1, 0);
        let mut model: VecDeque<LogRow> = VecDeque::new();
        for _ in 0..250 {
            let end = begin + model.len() as u64;
            match steps.u64(..10) {
                0..=5 => {
                    let rows: Vec<LogRow> = (end..end + 1 + steps.u64(..6))
                        .map(|i| blank(term, i))
                        .collect();
                    model.extend(rows.clone());
                    s.append(rows);
                }
                6 if !model.is_empty() => {
                    let keep = begin + steps.u64(..model.len() as u64);
                    // Sometimes a cut of all of it, sometimes an append that overwrites.
                    model.truncate(usize::try_from(keep - begin).unwrap() + 1);
                    term += 1;
                    if steps.u64(..2) == 0 {
                        s.run(|done| Job::Truncate {
                            keep_through: Some(keep),
                            done,
                        })
                        .unwrap();
                    } else {
                        model.push_back(blank(term, keep + 1));
                        s.append(vec![blank(term, keep + 1)]);
                    }
                }
                7..=8 if !model.is_empty() => {
                    let through = begin + steps.u64(..model.len() as u64);
                    let whole = s
                        .store
                        .whole_segments(begin, through)
                        .filter(|_| steps.u64(..2) == 0);
                    let through = whole.unwrap_or(through);
                    let gone: Vec<LogRow> = model
                        .drain(..=usize::try_from(through - begin).unwrap())
                        .collect();
                    s.run(|done| Job::Purge {
                        through: gone.last().unwrap().id,
                        done,
                    })
                    .unwrap();
                    begin = through + 1;
                }
                9 => {
                    drop(s);
                    s = fixture.open();
                }
                _ => {}
            }
            most = most.max(in_use(&s));
            agrees(&s, begin, &model);
        }
        assert!(most > 3, "seed {seed}: never more than {most} segments");
    }
}

#[test]
fn segments_take_turns_and_the_newest_goes_on_when_all_are_full() {
    let fixture = Fixture::new();
    let mut s = fixture.open();
    // A blank entry takes 108 bytes; a segment is full with 500.
    for index in 0..200 {
        s.append(vec![blank(1, index)]);
    }
    assert_eq!(in_use(&s), LOG_TABLES.len());
    let rows = |s: &Driven, table| s.count(&format!("SELECT count(*) FROM {table}"));
    assert_eq!(rows(&s, "log_0"), 5);
    assert_eq!(rows(&s, "log_7"), 200 - 7 * 5);
    let whole = |s: &Driven, begin, through| s.store.whole_segments(begin, through);
    assert_eq!(
        [33, 34, 150].map(|through| whole(&s, 0, through)),
        [Some(29), Some(34), Some(34)]
    );
    assert_eq!(
        [(0, 3), (34, 150)].map(|(begin, through)| whole(&s, begin, through)),
        [None; 2],
        "none ends there"
    );
    s.run(|done| Job::Purge {
        through: id(1, 9),
        done,
    })
    .unwrap();
    assert_eq!(in_use(&s), LOG_TABLES.len() - 2);
    s.append(vec![blank(1, 200)]);
    assert_eq!(
        s.query::<i64>("SELECT log_index FROM log_0"),
        200,
        "the oldest table is the next one"
    );
    for index in 201..206 {
        s.append(vec![blank(1, index)]);
    }
    assert_eq!((rows(&s, "log_0"), rows(&s, "log_1")), (5, 1));
    let ends = [
        (9, 13),
        (14, 33),
        (34, 198),
        (34, 199),
        (199, 204),
        (204, 205),
    ];
    let expected = [None, Some(29), None, Some(199), Some(204), None];
    assert_eq!(
        ends.map(|(begin, through)| whole(&s, begin, through)),
        expected,
        "around the ring"
    );
    // Also after the store was opened again.
    drop(s);
    let mut s = fixture.open();
    s.append(vec![blank(1, 206)]);
    assert_eq!((rows(&s, "log_0"), rows(&s, "log_1")), (5, 2));
    purged_in_part_and_cut(&mut s);
}

/// A segment is purged in part, and behind a cut the log goes on in the segment that is the newest then.
fn purged_in_part_and_cut(s: &mut Driven) {
    s.run(|done| Job::Purge {
        through: id(1, 11),
        done,
    })
    .unwrap();
    assert_eq!(s.query::<i64>("SELECT min(log_index) FROM log"), 12);
    s.run(|done| Job::Truncate {
        keep_through: Some(13),
        done,
    })
    .unwrap();
    assert_eq!(in_use(s), 1);
    assert_eq!(
        s.store.whole_segments(11, 99),
        None,
        "what was cut ends nowhere any more"
    );
    s.append((14..30).map(|index| blank(2, index)).collect());
    assert_eq!(s.count("SELECT count(*) FROM log_2"), 18);
}

/// As after a snapshot that is far ahead: the log goes on behind it before the rows before it are deleted.
#[test]
fn what_is_before_a_gap_is_emptied_without_a_step_for_each_missing_entry() {
    const FAR: u64 = 1_000_000_000_000;
    for full in [false, true] {
        let mut s = Fixture::new().open();
        // When all tables are in use, the rows behind the gap have no table of their own.
        let mut index = 0;
        while in_use(&s) < if full { LOG_TABLES.len() } else { 1 } {
            s.append(vec![blank(1, index)]);
            index += 1;
            assert!(index < 100, "no other segment is begun");
        }
        let (purge, _a) = done();
        now(s.store.purge(id(1, FAR), purge)).unwrap();
        let (append, _b) = done();
        now(s.store.append(vec![blank(1, FAR + 1)], append)).unwrap();
        for _ in 0..2 {
            let job = now(s.writer.recv()).unwrap();
            s.writer.accept(job).unwrap();
        }
        s.writer.piece(Piece::Log).unwrap();
        let behind_garbage = s.count(&format!(
            "SELECT count(*) FROM log_0 WHERE log_index > {FAR}"
        ));
        assert_eq!(
            behind_garbage, 0,
            "it could not be emptied as a whole; all in use: {full}"
        );
        let mut pieces = 0;
        while s.writer.piece(Piece::Cleanup).unwrap() {
            pieces += 1;
            assert!(pieces < 20, "it goes through the gap");
        }
        assert_eq!((s.log(0..FAR + 9), in_use(&s)), (vec![FAR + 1], 1));
        assert_eq!(s.store.log_bytes(), 108);
    }
}

#[test]
fn a_long_segment_is_emptied_piece_by_piece() {
    let mut s = Fixture::new().open();
    let body = "x".repeat(16_000);
    let rows = (0..1_500).map(|i| {
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
    });
    s.append(rows.collect());
    s.append((1_500..1_510).map(|i| blank(1, i)).collect());
    assert_eq!(in_use(&s), 2);
    let (done, _answer) = done();
    now(s.store.purge(id(1, 1_499), done)).unwrap();
    let job = now(s.writer.recv()).unwrap();
    s.writer.accept(job).unwrap();
    s.writer.piece(Piece::Log).unwrap();
    let mut left = vec![s.count("SELECT count(*) FROM log_0")];
    while s.writer.piece(Piece::Cleanup).unwrap() {
        left.push(s.count("SELECT count(*) FROM log_0"));
    }
    // 24 MB: first 1,000 rows, then the rest at once, because it is short enough. The last call finds nothing.
    assert_eq!(left, [1_500, 500, 0, 0]);
    assert_eq!(s.log(0..2_000), (1_500..1_510).collect::<Vec<u64>>());
}

/// The reason for segments: deleting the rows would write about as many bytes as they have.
#[test]
fn emptying_a_segment_writes_next_to_nothing() {
    let mut s = Fixture::new().open();
    let body = "x".repeat(1_000);
    for round in 0..3 {
        let rows = (round * 1_000..round * 1_000 + 1_000).map(|i| {
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
        });
        s.append(rows.collect());
    }
    let counted = |s: &mut Driven, through| {
        let (done, _answer) = done();
        now(s.store.purge(id(1, through), done)).unwrap();
        let job = now(s.writer.recv()).unwrap();
        s.writer.accept(job).unwrap();
        s.writer.piece(Piece::Log).unwrap();
        let before = s.writer.wal_frames();
        while s.writer.piece(Piece::Cleanup).unwrap() {}
        s.writer.wal_frames() - before
    };
    let whole = counted(&mut s, 999);
    let half = counted(&mut s, 1_499);
    assert!(
        whole < 20,
        "{whole} frames for 1,000 rows of a segment of their own"
    );
    assert!(
        half > 60,
        "{half} frames for 500 rows of a larger one: this test measures nothing"
    );
}
